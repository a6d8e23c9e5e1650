"""The dense reference of every loss: log-probabilities in, sums and counts out; the loop divides.

B sequences, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlvr.batching import Batch
from rlvr.recipe import Kl, Loss

MAX_LOG_RATIO = 20.0
"""Keeps exp() finite where the sampler and the policy disagree badly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What one micro-batch adds to a step. Sums(loss=tensor(-3.1), tokens=412, sequences=8, metrics={...})"""

    loss: Tensor
    """Scalar with gradient, a sum: divide by divisor() of the whole optimizer step."""
    tokens: int
    sequences: int
    metrics: dict[str, float] = field(default_factory=dict)
    """Sums over trained tokens (no gradient); divide by the step's tokens. clip_ratio/*: those with no gradient by
    clipping; ratio/overflow: those whose log ratio is beyond MAX_LOG_RATIO; kl: nats."""


def policy_loss(logp_BT: Tensor, batch: Batch, loss: Loss, kl: Kl | None = None) -> Sums:
    """L = -min(r A, clip(r, 1 - low, 1 + high) A) + coef * KL, summed by `loss.aggregate`. `loss.ratio` says what r is:

    token: exp(logp - old_logp), https://arxiv.org/abs/1707.06347 eq. 7
    sequence: exp(mean of logp - old_logp over the row's trained tokens), https://arxiv.org/abs/2507.18071 eq. 5 to 7;
    each token of the row counts as one term, so that `aggregate: sequence` makes the paper's one term per row of it

    logp_BT: nats, of ids_BT under the policy, with gradient; only columns with mask_BT count, whatever stands in the
    others. Without batch.old_logp_BT the old policy is the policy itself (r = 1, its gradient stays). What is not
    finite at a trained token makes the loss NaN or infinite, never a number.
    ValueError where batch.adv_BT is missing or shapes differ.
    """
    if batch.adv_BT is None:
        raise ValueError("batch.adv_BT must be set before policy_loss, got None")
    mask_BT = batch.mask_BT
    if logp_BT.shape != mask_BT.shape:
        raise ValueError(f"logp_BT must have the batch's shape {tuple(mask_BT.shape)}, got {tuple(logp_BT.shape)}")
    # masked before anything is computed: in a backward pass 0 * NaN is NaN
    logp_BT, adv_BT = _masked(logp_BT, mask_BT), _masked(batch.adv_BT, mask_BT)
    old_BT = logp_BT.detach() if batch.old_logp_BT is None else _masked(batch.old_logp_BT, mask_BT)
    log_ratio_BT = logp_BT - old_BT
    if loss.ratio == "sequence":
        log_ratio_BT = (log_ratio_BT.sum(dim=1) / _num_trained_B(mask_BT))[:, None].expand_as(mask_BT)
    ratio_BT = _bounded(log_ratio_BT).exp()
    clipped_BT = ratio_BT.clamp(1 - loss.clip.low, 1 + loss.clip.high)
    loss_BT = -torch.minimum(ratio_BT * adv_BT, clipped_BT * adv_BT)
    metrics = _clip_metrics(ratio_BT, adv_BT, mask_BT, loss)
    metrics["ratio/overflow"] = _masked_sum(log_ratio_BT.abs() > MAX_LOG_RATIO, mask_BT)
    if kl is not None and kl.coef > 0 and kl.where == "loss":
        if batch.ref_logp_BT is None:
            raise ValueError("batch.ref_logp_BT must be set where kl.coef > 0, got None")
        kl_BT = kl_estimate(logp_BT, _masked(batch.ref_logp_BT, mask_BT), kl.kind or "k2")
        loss_BT = loss_BT + kl.coef * kl_BT
        metrics["kl"] = _masked_sum(kl_BT, mask_BT)
    total = _total(_masked(loss_BT, mask_BT), mask_BT, loss)
    return Sums(loss=total, tokens=batch.num_tokens, sequences=batch.num_sequences, metrics=metrics)


def kl_estimate(logp_BT: Tensor, ref_logp_BT: Tensor, kind: str) -> Tensor:
    """Per-token estimate of KL(policy || reference) from the policy's samples, d = ref - logp.

    k1 = -d, k2 = d^2 / 2, k3 = exp(d) - 1 - d. http://joschu.net/blog/kl-approx.html
    As a loss on fresh samples only k2 has the gradient of that divergence; k3 has that of KL(reference || policy).
    """
    d_BT = _bounded(ref_logp_BT - logp_BT)
    if kind == "k1":
        return -d_BT
    if kind == "k2":
        return d_BT.square() / 2
    if kind == "k3":
        return torch.expm1(d_BT) - d_BT
    raise ValueError(f"kind must be k1, k2 or k3, got {kind!r}")


def divisor(num_tokens: int, num_sequences: int, loss: Loss, max_tokens: int) -> float:
    """What the loss sums of one optimizer step are divided by, from counts over all its micro-batches and ranks.

    token: trained tokens; sequence: sequences with a trained token; constant: those * max_tokens (Dr. GRPO).
    ValueError where there is none.
    """
    count = {"token": num_tokens, "sequence": num_sequences, "constant": num_sequences * max_tokens}[loss.aggregate]
    if count < 1:
        raise ValueError(f"the divisor for aggregate={loss.aggregate!r} must be positive, got {count}")
    return float(count)


def _total(loss_BT: Tensor, mask_BT: Tensor, loss: Loss) -> Tensor:
    """Sum over tokens, or over the rows' means; 0 where mask is False."""
    if loss.aggregate == "sequence":
        return (loss_BT.sum(dim=1) / _num_trained_B(mask_BT)).sum()
    return loss_BT.sum()


def _num_trained_B(mask_BT: Tensor) -> Tensor:
    """At least 1, so that a row without trained tokens divides 0 by something."""
    return mask_BT.sum(dim=1).clamp(min=1)


def _bounded(difference_BT: Tensor) -> Tensor:
    """Within MAX_LOG_RATIO, with no gradient beyond; NaN where it is not finite, which clamp would hide."""
    return torch.where(difference_BT.isfinite(), difference_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO), torch.nan)


def _clip_metrics(ratio_BT: Tensor, adv_BT: Tensor, mask_BT: Tensor, loss: Loss) -> dict[str, float]:
    low_BT = (ratio_BT < 1 - loss.clip.low) & (adv_BT < 0)
    high_BT = (ratio_BT > 1 + loss.clip.high) & (adv_BT > 0)
    return {
        "clip_ratio/low_mean": _masked_sum(low_BT, mask_BT),
        "clip_ratio/high_mean": _masked_sum(high_BT, mask_BT),
        "clip_ratio/region_mean": _masked_sum(low_BT | high_BT, mask_BT),
    }


def _masked(value_BT: Tensor, mask_BT: Tensor) -> Tensor:
    return torch.where(mask_BT, value_BT, 0.0)


def _masked_sum(value_BT: Tensor, mask_BT: Tensor) -> float:
    return float(_masked(value_BT.detach().double(), mask_BT).sum())
