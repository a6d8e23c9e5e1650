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
    """Sums over trained tokens (no gradient); divide by the step's tokens."""


def policy_loss(logp_BT: Tensor, batch: Batch, loss: Loss, kl: Kl | None = None) -> Sums:
    """L = -min(r A, clip(r, 1 - low, 1 + high) A) + coef * KL, r = exp(logp - old_logp), summed by `loss.aggregate`.

    logp_BT: nats, of ids_BT under the policy, with gradient; only columns with mask_BT count. Without batch.old_logp_BT
    the old policy is the policy itself (r = 1, its gradient stays). https://arxiv.org/abs/1707.06347 eq. 7
    ValueError where batch.adv_BT is missing or shapes differ.
    """
    if batch.adv_BT is None:
        raise ValueError("batch.adv_BT must be set before policy_loss, got None")
    if logp_BT.shape != batch.mask_BT.shape:
        raise ValueError(
            f"logp_BT must have the batch's shape {tuple(batch.mask_BT.shape)}, got {tuple(logp_BT.shape)}"
        )
    mask_BT = batch.mask_BT
    old_BT = logp_BT.detach() if batch.old_logp_BT is None else batch.old_logp_BT
    log_ratio_BT = torch.where(mask_BT, logp_BT - old_BT, 0.0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio_BT = log_ratio_BT.exp()
    clipped_BT = ratio_BT.clamp(1 - loss.clip.low, 1 + loss.clip.high)
    loss_BT = -torch.minimum(ratio_BT * batch.adv_BT, clipped_BT * batch.adv_BT)
    metrics = _clip_metrics(ratio_BT.detach(), batch, loss)
    if kl is not None and kl.coef > 0 and kl.where == "loss":
        if batch.ref_logp_BT is None:
            raise ValueError("batch.ref_logp_BT must be set where kl.coef > 0, got None")
        kl_BT = kl_estimate(logp_BT, batch.ref_logp_BT, kl.kind or "k2")
        loss_BT = loss_BT + kl.coef * kl_BT
        metrics["kl"] = _masked_sum(kl_BT, mask_BT)
    loss_BT = torch.where(mask_BT, loss_BT, 0.0)
    if loss.aggregate == "sequence":
        total = (loss_BT.sum(dim=1) / mask_BT.sum(dim=1).clamp(min=1)).sum()
    else:
        total = loss_BT.sum()
    return Sums(loss=total, tokens=batch.num_tokens, sequences=batch.num_sequences, metrics=metrics)


def kl_estimate(logp_BT: Tensor, ref_logp_BT: Tensor, kind: str) -> Tensor:
    """Per-token estimate of KL(policy || reference) from the policy's samples, d = ref - logp.

    k1 = -d, k2 = d^2 / 2, k3 = exp(d) - 1 - d. http://joschu.net/blog/kl-approx.html
    As a loss on fresh samples only k2 has the gradient of that divergence; k3 has that of KL(reference || policy).
    """
    d_BT = (ref_logp_BT - logp_BT).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if kind == "k1":
        return -d_BT
    if kind == "k2":
        return d_BT.square() / 2
    if kind == "k3":
        return torch.expm1(d_BT) - d_BT
    raise ValueError(f"kind must be k1, k2 or k3, got {kind!r}")


def divisor(num_tokens: int, num_sequences: int, loss: Loss, max_tokens: int) -> float:
    """What the loss sums of one optimizer step are divided by, from counts over all its micro-batches and ranks.

    token: trained tokens; sequence: sequences; constant: sequences * max_tokens (Dr. GRPO).
    """
    count = {"token": num_tokens, "sequence": num_sequences, "constant": num_sequences * max_tokens}[loss.aggregate]
    if count < 1:
        raise ValueError(f"the divisor for aggregate={loss.aggregate!r} must be positive, got {count}")
    return float(count)


def _clip_metrics(ratio_BT: Tensor, batch: Batch, loss: Loss) -> dict[str, float]:
    assert batch.adv_BT is not None
    low_BT = (ratio_BT < 1 - loss.clip.low) & (batch.adv_BT < 0)
    high_BT = (ratio_BT > 1 + loss.clip.high) & (batch.adv_BT > 0)
    return {
        "clip_ratio/low_mean": _masked_sum(low_BT, batch.mask_BT),
        "clip_ratio/high_mean": _masked_sum(high_BT, batch.mask_BT),
        "clip_ratio/region_mean": _masked_sum(low_BT | high_BT, batch.mask_BT),
    }


def _masked_sum(value_BT: Tensor, mask_BT: Tensor) -> float:
    return float(torch.where(mask_BT, value_BT.detach().double(), 0.0).sum())
