"""The dense reference of every loss: log-probabilities in, sums and counts out; the loop divides.

Which loss it is are settings (Loss and Kl of loss_settings.py); presets.py has the papers' ones. fused.py takes its
coefficients from here, so that each formula stands once. B sequences, T tokens, N trained tokens one after the other, P
prompts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from rlvr.batching import Batch, Counts, spread
from rlvr.errors import NonFiniteError
from rlvr.loss_settings import Correction, Kl, Loss
from rlvr.surrogates import MAX_LOG_RATIO, SURROGATES, At, bounded, kl_estimate

_NO_KL = Kl()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What one micro-batch adds to a step. Sums(loss=tensor(-3.1), tokens=412, sequences=8, metrics={...})"""

    loss: Tensor
    """Scalar with gradient, a sum: divide by divisor() of the whole optimizer step."""
    tokens: int
    """Trained ones."""
    sequences: int
    """With at least one trained token."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Sums over the scored tokens (no gradient); divide by their number. clip_ratio/*: those whose ratio was clipped
    (or, with dppo, dropped); ratio/overflow: those whose log ratio is beyond MAX_LOG_RATIO; kl and entropy: nats;
    correction/dropped, opsm/dropped: those that left the loss."""
    scored: int = 0
    """Trained tokens whose log-probability was computed: fewer than `tokens` where some carry no gradient."""
    logp_BT: Tensor | None = None
    """Of the scored tokens, nats, no gradient; 0 elsewhere."""
    scored_BT: Tensor | None = None
    """bool"""


def policy_loss(
    logp_BT: Tensor, batch: Batch, loss: Loss, kl: Kl = _NO_KL, *, entropy_BT: Tensor | None = None
) -> Sums:
    """sum over trained tokens of weight * (surrogate * correction + kl.coef * KL - entropy_coef * entropy), and
    positive_nll * the mean NLL of positive rows' tokens.

    The weight is loss.aggregate's, the rest is described at the settings; formulas and sources: surrogates.py.
    logp_BT: nats, of ids_BT under the policy at the sampling temperature, with gradient; entropy_BT: nats, of the
    distributions that ids_BT were drawn from, with gradient, needed where entropy_coef > 0. Only columns with mask_BT
    count, whatever stands in the others. Without batch.old_logp_BT the old policy is the policy itself (r = 1, its
    gradient stays). ValueError where something that the settings read is missing or has another shape; NonFiniteError
    that names the row where a trained token's number is not finite.
    """
    mask_BT = batch.mask_BT
    for name, value_BT in (("logp_BT", logp_BT), ("entropy_BT", entropy_BT)):
        if value_BT is not None and value_BT.shape != mask_BT.shape:
            raise ValueError(f"{name} must have the batch's shape {tuple(mask_BT.shape)}, got {tuple(value_BT.shape)}")
    tokens = flatten(batch, loss, kl)
    logp_N = logp_BT[mask_BT].to(torch.promote_types(logp_BT.dtype, torch.float32))
    check_finite(logp_N, "logp_BT", mask_BT)
    entropy_N = None if entropy_BT is None else entropy_BT[mask_BT]
    if entropy_N is not None:
        check_finite(entropy_N, "entropy_BT", mask_BT)
    total, metrics = total_loss(logp_N, entropy_N, tokens, loss, kl)
    return policy_sums(batch, mask_BT, logp_N, total, metrics)


def policy_sums(batch: Batch, scored_BT: Tensor, logp_N: Tensor, total: Tensor, metrics: dict[str, Tensor]) -> Sums:
    """Of total_loss(); logp_N: where scored_BT is True."""
    return Sums(
        loss=total,
        tokens=batch.num_tokens,
        sequences=batch.num_sequences,
        metrics={name: float(value) for name, value in metrics.items()},
        scored=len(logp_N),
        logp_BT=spread(logp_N.detach(), scored_BT),
        scored_BT=scored_BT,
    )


def value_loss(values_BT: Tensor, batch: Batch, clip: float | None = None, aggregate: str = "token") -> Sums:
    """sum over trained tokens of weight * max((V - R)^2, (clip(V, V_old +- clip) - R)^2) / 2.

    values_BT: the critic's, with gradient; batch.values_BT: those before the step; batch.returns_BT: R. Without `clip`
    the sum of weight * (V - R)^2 / 2. As PPO2's, verl's and OpenRLHF's. ValueError where something is missing.
    """
    mask_BT = batch.mask_BT
    _check_mask(mask_BT)
    if values_BT.shape != mask_BT.shape:
        raise ValueError(f"values_BT must have the batch's shape {tuple(mask_BT.shape)}, got {tuple(values_BT.shape)}")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be positive, got {clip:g}")
    return_N = column(batch, "returns_BT", "value_loss")
    value_N = values_BT[mask_BT]
    check_finite(value_N, "values_BT", mask_BT)
    square_N = (value_N - return_N).square()
    metrics = {}
    if clip is not None:
        old_N = column(batch, "values_BT", "value_loss with clip")
        clipped_N = (old_N + (value_N - old_N).clamp(-clip, clip) - return_N).square()
        metrics["vf_clip_ratio"] = float((clipped_N > square_N).sum())
        square_N = torch.maximum(square_N, clipped_N)
    weight_N = _weights(batch, Loss.model_validate({"aggregate": aggregate}))
    return Sums(
        loss=(weight_N * square_N).sum() / 2,
        tokens=batch.num_tokens,
        sequences=batch.num_sequences,
        metrics=metrics,
        scored=len(value_N),
    )


# --- counts ----------------------------------------------------------------------------------------------------------


def count(batch: Batch, loss: Loss) -> Counts:
    """Of a whole optimizer step, before it is split over micro-batches and ranks, which then carry it: batch.counts."""
    row_tokens_B = batch.mask_BT.sum(dim=1)
    num_groups = int(batch.group_B.max()) + 1 if len(batch.group_B) else 0
    tokens_P = row_tokens_B.new_zeros(num_groups).index_add(0, batch.group_B, row_tokens_B)
    positive_tokens = int(row_tokens_B[_is_positive(batch, loss)].sum()) if loss.positive_nll > 0 else 0
    return Counts(
        tokens=int(row_tokens_B.sum()),
        sequences=int((row_tokens_B > 0).sum()),
        prompts=int((tokens_P > 0).sum()),
        tokens_P=tokens_P,
        positive_tokens=positive_tokens,
    )


def divisor(counts: Counts, loss: Loss, max_tokens: int | None = None) -> float:
    """What the loss sums of one optimizer step are divided by, over all its micro-batches and ranks.

    token: trained tokens; sequence, sequence_sum: sequences with a trained token; prompt: prompts with one; constant:
    those sequences * max_tokens (Dr. GRPO). ValueError where there is none.
    """
    if loss.aggregate == "constant" and (max_tokens is None or max_tokens < 1):
        raise ValueError(f"max_tokens must be at least 1 for aggregate='constant', got {max_tokens}")
    number = {
        "token": counts.tokens,
        "sequence": counts.sequences,
        "sequence_sum": counts.sequences,
        "prompt": counts.prompts,
        "constant": counts.sequences * (max_tokens or 0),
    }[loss.aggregate]
    if number < 1:
        raise ValueError(f"the divisor for aggregate={loss.aggregate!r} must be positive, got {number}")
    return float(number)


# --- tokens one after the other --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Trained tokens row by row, with what the loss reads of each."""

    row_N: Tensor
    """int64, number of the token's row in the batch."""
    in_row_N: Tensor
    """int64, trained tokens of that row."""
    weight_N: Tensor
    """float64, of the token in the sum, by loss.aggregate."""
    adv_N: Tensor
    old_N: Tensor | None = None
    """None: the policy itself."""
    ref_N: Tensor | None = None
    sampler_N: Tensor | None = None
    nll_N: Tensor | None = None
    """float64, weight of -log p in the sum."""
    correction_N: Tensor | None = None
    """Weight by loss.correction where the old policy's log-probabilities are known before."""
    kept_N: Tensor | None = None
    """bool, False where the correction's mask drops the token."""
    num_rows: int

    def pick(self, index: Tensor | slice) -> Tokens:
        """Some of the tokens; their rows must be whole where the loss looks at whole rows, see is_token_local()."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: value[index] for name, value in columns.items() if isinstance(value, Tensor)})

    def over_row(self, value_N: Tensor, level: str = "geometric") -> Tensor:
        """Of each token the sum over its row (level sequence), or the mean (geometric); of token itself."""
        if level == "token":
            return value_N
        # in float64: a long row is many small numbers
        sum_B = value_N.new_zeros(self.num_rows, dtype=torch.float64).index_add(0, self.row_N, value_N.double())
        sum_N = sum_B[self.row_N] if level == "sequence" else sum_B[self.row_N] / self.in_row_N
        return sum_N.to(value_N.dtype)


def flatten(batch: Batch, loss: Loss, kl: Kl = _NO_KL) -> Tokens:
    """The trained tokens of a batch. ValueError where there is none, or something that the settings read is missing."""
    _check_mask(batch.mask_BT)
    row_N, _ = batch.mask_BT.nonzero(as_tuple=True)
    has_old = loss.anchor == "sampler" or batch.old_logp_BT is not None
    old = "sampler_logp_BT" if loss.anchor == "sampler" else "old_logp_BT"
    has_sampler = loss.correction is not None or loss.opsm is not None
    tokens = Tokens(
        row_N=row_N,
        in_row_N=batch.mask_BT.sum(dim=1)[row_N],
        weight_N=_weights(batch, loss),
        adv_N=column(batch, "adv_BT", "policy_loss"),
        old_N=column(batch, old, "loss.anchor: sampler") if has_old else None,
        ref_N=column(batch, "ref_logp_BT", "kl.coef > 0") if kl.in_loss else None,
        sampler_N=column(batch, "sampler_logp_BT", "loss.correction or loss.opsm") if has_sampler else None,
        nll_N=_nll_weights(batch, loss) if loss.positive_nll > 0 else None,
        num_rows=len(batch.mask_BT),
    )
    if loss.correction is None or tokens.old_N is None:
        return tokens
    weight_N, kept_N = _correction(tokens.old_N, tokens, loss.correction)  # here rows are whole
    return replace(tokens, correction_N=weight_N, kept_N=kept_N)


def is_token_local(loss: Loss, tokens: Tokens) -> bool:
    """Whether a token's gradient depends on its own log-probability alone, and on no other of its row."""
    correction = loss.correction
    levels = set()
    if correction is not None and tokens.old_N is None:  # otherwise it is known before
        levels = {correction.weight or "token", correction.mask.level if correction.mask else "token"}
    return (
        loss.ratio == "token" and loss.surrogate not in ("gmpo", "vespo") and loss.opsm is None and levels <= {"token"}
    )


def carries_gradient(tokens: Tokens, loss: Loss, kl: Kl = _NO_KL) -> Tensor:
    """bool [N]: False of tokens whose loss and gradient are 0 whatever their log-probability is.

    Those have no advantage or were masked by the correction, and no term of KL, entropy or NLL. Where the loss looks at
    whole rows, a row is dropped as a whole.
    """
    if loss.entropy_coef > 0 or kl.in_loss:
        return torch.ones_like(tokens.adv_N, dtype=torch.bool)
    carries_N = tokens.adv_N != 0
    if tokens.correction_N is not None:
        carries_N &= tokens.correction_N != 0
    if tokens.nll_N is not None:
        carries_N |= tokens.nll_N != 0
    return carries_N if is_token_local(loss, tokens) else tokens.over_row(carries_N.float(), "sequence") > 0


def check_finite(value_N: Tensor, name: str, mask_BT: Tensor) -> None:
    """NonFiniteError that names the first trained token whose value is NaN or infinite."""
    finite_N = value_N.isfinite()
    if not bool(finite_N.all()):
        place = int((~finite_N).nonzero()[0, 0])
        row, column = mask_BT.nonzero()[place].tolist()
        value = float(value_N.detach()[place])
        raise NonFiniteError(f"{name} must be finite at trained tokens, got {value:g} in row {row}, column {column}")


def column(batch: Batch, name: str, needed_by: str) -> Tensor:
    """[N]: of the trained tokens, at least float32, no gradient. ValueError where it is missing or has another shape,
    NonFiniteError that names the token."""
    value_BT = getattr(batch, name)
    if value_BT is None or (name == "sampler_logp_BT" and bool(value_BT.isnan().all())):  # as Batch.of() leaves it
        raise ValueError(f"batch.{name} must be set for {needed_by}, got None")
    return _trained(value_BT, f"batch.{name}", batch.mask_BT)


def _check_mask(mask_BT: Tensor) -> None:
    if mask_BT.dtype != torch.bool or mask_BT.ndim != 2:
        raise ValueError(f"mask_BT must be bool [B, T], got {mask_BT.dtype} {tuple(mask_BT.shape)}")
    if not bool(mask_BT.any()):
        raise ValueError(f"mask_BT must be True somewhere, got none of {tuple(mask_BT.shape)}")


def _trained(value_BT: Tensor, name: str, mask_BT: Tensor) -> Tensor:
    if value_BT.shape != mask_BT.shape:
        raise ValueError(f"{name} must have the shape of mask_BT {tuple(mask_BT.shape)}, got {tuple(value_BT.shape)}")
    value_N = value_BT[mask_BT].detach()
    value_N = value_N.to(torch.promote_types(value_N.dtype, torch.float32))
    check_finite(value_N, name, mask_BT)
    return value_N


def _weights(batch: Batch, loss: Loss) -> Tensor:
    """float64 [N]"""
    in_row_B = batch.mask_BT.sum(dim=1)
    if loss.aggregate == "sequence":
        weight_B = 1 / in_row_B.clamp(min=1).double()
    elif loss.aggregate == "prompt":
        tokens_P = (batch.counts or count(batch, loss)).tokens_P
        if int(batch.group_B.max()) >= len(tokens_P) or bool((tokens_P[batch.group_B] < in_row_B).any()):
            raise ValueError("batch.counts must be of the optimizer step that holds these rows, got one without them")
        weight_B = 1 / tokens_P[batch.group_B].clamp(min=1).double()
    else:
        weight_B = torch.ones_like(in_row_B, dtype=torch.float64)
    return weight_B.repeat_interleave(in_row_B)


def _is_positive(batch: Batch, loss: Loss) -> Tensor:
    """bool [B]"""
    if bool(batch.reward_B.isnan().all()):  # as Batch.of() leaves it
        raise ValueError("batch.reward_B must be set for loss.positive_nll > 0, got None")
    if not bool(batch.reward_B.isfinite().all()):
        raise ValueError("batch.reward_B must be finite where loss.positive_nll > 0, got NaN or infinity")
    return batch.reward_B > loss.positive_above


def _nll_weights(batch: Batch, loss: Loss) -> Tensor:
    """float64 [N]: divided by divisor(), they are a mean over the step's tokens of positive rows."""
    counts = batch.counts or count(batch, loss)
    whole = divisor(counts, loss) * loss.positive_nll / max(1, counts.positive_tokens)
    weight_B = _is_positive(batch, loss).double() * whole
    return weight_B.repeat_interleave(batch.mask_BT.sum(dim=1))


# --- the formulas ----------------------------------------------------------------------------------------------------


def total_loss(
    logp_N: Tensor, entropy_N: Tensor | None, tokens: Tokens, loss: Loss, kl: Kl = _NO_KL
) -> tuple[Tensor, dict[str, Tensor]]:
    """(scalar sum with gradient to logp_N and entropy_N, metrics: sums over tokens without gradient)"""
    if loss.entropy_coef > 0 and entropy_N is None:
        raise ValueError(f"entropy_BT must be given where loss.entropy_coef > 0 ({loss.entropy_coef:g}), got None")
    old_N = logp_N.detach() if tokens.old_N is None else tokens.old_N
    log_ratio_N = logp_N - old_N
    if loss.ratio != "token":
        mean_N = tokens.over_row(log_ratio_N)
        # in value the row's mean, in gradient each token's own
        log_ratio_N = mean_N if loss.ratio == "sequence" else mean_N.detach() + (logp_N - logp_N.detach())
    bounded_N = bounded(log_ratio_N)
    at = At(logp_N, old_N, bounded_N, bounded_N.exp(), tokens.adv_N, tokens, loss)
    loss_N, low_N, high_N = SURROGATES[loss.surrogate](at)
    with torch.no_grad():
        metrics = {
            "clip_ratio/low_mean": low_N.sum(),
            "clip_ratio/high_mean": high_N.sum(),
            "clip_ratio/region_mean": (low_N | high_N).sum(),
            "ratio/overflow": (log_ratio_N.abs() > MAX_LOG_RATIO).sum(),
        }
    if loss.correction is not None:
        weight_N, kept_N = _correction(old_N, tokens, loss.correction)
        loss_N = loss_N * weight_N
        metrics["correction/weight"] = weight_N.sum()
        metrics["correction/dropped"] = (~kept_N).sum()
    if loss.opsm is not None:
        assert tokens.sampler_N is not None
        dropped_N = (tokens.adv_N < 0) & (tokens.over_row(tokens.sampler_N - logp_N.detach()) > loss.opsm)
        loss_N = torch.where(dropped_N, 0.0, loss_N)
        metrics["opsm/dropped"] = dropped_N.sum()
    if tokens.ref_N is not None:
        kl_N = kl_estimate(logp_N, tokens.ref_N, kl.estimator)
        metrics["kl"] = kl_N.detach().sum()
        loss_N = loss_N + kl.coef * (kl_N * at.ratio_N if kl.weighted else kl_N)
    if entropy_N is not None:
        metrics["entropy"] = entropy_N.detach().sum()
        if loss.entropy_coef > 0:
            loss_N = loss_N - loss.entropy_coef * entropy_N
    total = (tokens.weight_N * loss_N).sum()
    if tokens.nll_N is not None:
        total = total - (tokens.nll_N * logp_N).sum()
        metrics["positive_nll"] = torch.where(tokens.nll_N > 0, -logp_N.detach(), 0.0).sum()
    return total, metrics


def correction_weights(old_logp_BT: Tensor, sampler_logp_BT: Tensor, mask_BT: Tensor, correction: Correction) -> Tensor:
    """[B, T]: rho = exp(old - sampler), by correction.weight of each token, of the whole row, or its geometric mean.

    At most correction.cap, https://fengyao.notion.site/off-policy-rl; 0 where correction.mask drops the token (IcePop,
    https://arxiv.org/abs/2510.18855) or the row, and where mask_BT is False. No gradient.
    """
    row_N, _ = mask_BT.nonzero(as_tuple=True)
    in_row_N = mask_BT.sum(dim=1)[row_N]
    old_N = _trained(old_logp_BT, "old_logp_BT", mask_BT)
    sampler_N = _trained(sampler_logp_BT, "sampler_logp_BT", mask_BT)
    tokens = Tokens(
        row_N=row_N,
        in_row_N=in_row_N,
        weight_N=torch.ones_like(old_N),
        adv_N=torch.ones_like(old_N),
        sampler_N=sampler_N,
        num_rows=len(mask_BT),
    )
    weight_N, _ = _correction(old_N, tokens, correction)
    return spread(weight_N, mask_BT)


def _correction(old_N: Tensor, tokens: Tokens, correction: Correction) -> tuple[Tensor, Tensor]:
    """(weight [N], bool [N]: False where the mask drops it, and the weight is 0)"""
    if tokens.correction_N is not None and tokens.kept_N is not None:
        return tokens.correction_N, tokens.kept_N
    assert tokens.sampler_N is not None
    gap_N = (old_N - tokens.sampler_N).detach()

    def ratio(level: str) -> Tensor:
        return bounded(tokens.over_row(gap_N, level)).exp()

    weight_N = torch.ones_like(gap_N)
    if correction.weight is not None:
        weight_N = ratio(correction.weight).clamp(max=correction.cap or torch.inf)
    kept_N = torch.ones_like(gap_N, dtype=torch.bool)
    if correction.mask is not None:
        rho_N = ratio(correction.mask.level)
        kept_N = (rho_N >= correction.mask.low) & (rho_N <= correction.mask.high)
    return torch.where(kept_N, weight_N, 0.0), kept_N
