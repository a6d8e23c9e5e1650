"""An independent loss: one token at a time over float64 scalars, as the papers write it, without rlvr/losses.py.

Each step is an `if` on a number where the papers have a minimum or a clip; only the gradient is torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlvr.batching import Batch
from rlvr.loss_settings import Correction, Kl, Loss

Scalars = list[Tensor]
BOUND = 20.0
"""Of every log ratio before exp()."""


@dataclass(kw_only=True)
class Row:
    """One completion's trained tokens."""

    logp: Scalars
    adv: list[float]
    old: list[float]
    ref: list[float] | None
    sampler: list[float]
    entropy: Scalars | None
    group: int
    reward: float
    terms: Scalars = field(default_factory=list)
    """Of the loss, one per token."""


def zero() -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def total(values: Scalars) -> Tensor:
    return sum(values, zero())


def hold(x: Tensor, low: float = -BOUND, high: float = BOUND) -> Tensor:
    """Beyond the bounds a constant."""
    return torch.full_like(x, low) if x < low else torch.full_like(x, high) if x > high else x


def rows_of(logp_BT: Tensor, entropy_BT: Tensor | None, batch: Batch, loss: Loss) -> list[Row]:
    """Those with a trained token."""
    old_BT = batch.sampler_logp_BT if loss.anchor == "sampler" else batch.old_logp_BT
    found = []
    for b in range(len(logp_BT)):
        places = [t for t in range(logp_BT.shape[1]) if batch.mask_BT[b, t]]

        def numbers(value_BT: Tensor, b: int = b, places: list[int] = places) -> list[float]:
            return [float(value_BT[b, t].detach()) for t in places]

        assert batch.adv_BT is not None
        row = Row(
            logp=[logp_BT[b, t] for t in places],
            adv=numbers(batch.adv_BT),
            old=numbers(logp_BT if old_BT is None else old_BT),
            ref=None if batch.ref_logp_BT is None else numbers(batch.ref_logp_BT),
            sampler=numbers(batch.sampler_logp_BT),
            entropy=None if entropy_BT is None else [entropy_BT[b, t] for t in places],
            group=int(batch.group_B[b]),
            reward=float(batch.reward_B[b]),
        )
        if places:
            found.append(row)
    return found


def log_ratios(row: Row, loss: Loss) -> Scalars:
    """Of the kind that loss.ratio says, not yet bounded."""
    each = [logp - old for logp, old in zip(row.logp, row.old, strict=True)]
    mean = total(each) / len(each)
    if loss.ratio == "token":
        return each
    if loss.ratio == "sequence":  # GSPO, https://arxiv.org/abs/2507.18071 eq. 7
        return [mean] * len(each)
    # GSPO-token, eq. 13: sg(s) * pi / sg(pi)
    return [mean.detach() + logp - logp.detach() for logp in row.logp]


# --- surrogates: (terms, tokens clipped from below, from above) -------------------------------------------------------

Terms = tuple[Scalars, list[bool], list[bool]]


def each_token(one: Callable[[Tensor, Tensor, float, float], tuple[Tensor, bool, bool]]) -> Callable[..., Terms]:
    """From a function of one token's (logp, ratio, old, adv)."""

    def whole(row: Row, held: Scalars) -> Terms:
        found = [
            one(logp, x.exp(), old, adv) for logp, x, old, adv in zip(row.logp, held, row.old, row.adv, strict=True)
        ]
        return [term for term, _, _ in found], [low for _, low, _ in found], [high for _, _, high in found]

    return whole


def surrogate(row: Row, held: Scalars, loss: Loss) -> Terms:
    low, high, dual = 1 - loss.clip.low, 1 + loss.clip.high, loss.clip.dual

    def clip(logp: Tensor, r: Tensor, old: float, adv: float) -> tuple[Tensor, bool, bool]:
        # -min(r A, clip(r) A) case by case, https://arxiv.org/abs/1707.06347 figure 1
        if adv > 0 and r > high:
            return torch.tensor(-high * adv, dtype=torch.float64), False, True
        if adv < 0 and r < low:
            return torch.tensor(-low * adv, dtype=torch.float64), True, False
        if adv < 0 and dual is not None and r > dual:  # https://arxiv.org/abs/1912.09729 eq. 3
            return torch.tensor(-dual * adv, dtype=torch.float64), False, True
        return -r * adv, False, False

    def cispo(logp: Tensor, r: Tensor, old: float, adv: float) -> tuple[Tensor, bool, bool]:
        # https://arxiv.org/abs/2506.13585 eq. 4 and 5
        return -min(max(float(r.detach()), low), high) * adv * logp, bool(r < low), bool(r > high)

    def sapo(logp: Tensor, r: Tensor, old: float, adv: float) -> tuple[Tensor, bool, bool]:
        # https://arxiv.org/abs/2511.20347 eq. 6: f(r) = sigmoid(tau (r - 1)) 4 / tau
        tau = loss.sapo.tau_pos if adv > 0 else loss.sapo.tau_neg
        return -adv * (4 / tau) / (1 + (-tau * (r - 1)).exp()), False, False

    def dppo(logp: Tensor, r: Tensor, old: float, adv: float) -> tuple[Tensor, bool, bool]:
        # https://arxiv.org/abs/2602.04879, the binary total variation: |p - p_old| of the token itself
        moved = math.exp(float(logp.detach())) - math.exp(old)
        up = moved > loss.dppo.high and (adv > 0 or loss.dppo.any_sign)
        down = moved < -loss.dppo.low and (adv < 0 or loss.dppo.any_sign)
        return (zero() if up or down else -adv * r), down, up

    def reinforce(logp: Tensor, r: Tensor, old: float, adv: float) -> tuple[Tensor, bool, bool]:
        return -adv * logp, False, False

    whole = {"gmpo": gmpo, "vespo": vespo}
    if loss.surrogate in whole:
        return whole[loss.surrogate](row, held, loss)
    one = {"clip": clip, "cispo": cispo, "sapo": sapo, "dppo": dppo, "reinforce": reinforce}[loss.surrogate]
    return each_token(one)(row, held)


def gmpo(row: Row, held: Scalars, loss: Loss) -> Terms:
    """-A (product of clipped ratios)^(1/L), https://arxiv.org/abs/2507.20673 eq. 4; a token with A = 0 counts as 1."""
    bound, below, above = [], [], []
    for x, adv in zip(held, row.adv, strict=True):
        below.append(adv < 0 and bool(x < -loss.clip.low))
        above.append(adv > 0 and bool(x > loss.clip.high))
        if adv == 0:
            bound.append(zero())
        elif below[-1]:
            bound.append(torch.full_like(x, -loss.clip.low))
        else:
            bound.append(torch.full_like(x, loss.clip.high) if above[-1] else x)
    ratio = (total(bound) / len(bound)).exp()
    return [-adv * ratio for adv in row.adv], below, above


def vespo(row: Row, held: Scalars, loss: Loss) -> Terms:
    """-sg(phi(w)) A log p, phi(w) = e^lambda w^k e^(-lambda w), w the product of ratios, https://arxiv.org/abs/2602.10693"""
    log_w = min(max(math.fsum(float(x.detach()) for x in held), math.log(1e-8)), BOUND)
    terms = []
    for logp, adv in zip(row.logp, row.adv, strict=True):
        k, lam = (loss.vespo.k_pos, loss.vespo.lambda_pos) if adv > 0 else (loss.vespo.k_neg, loss.vespo.lambda_neg)
        terms.append(-math.exp(lam + k * log_w - lam * math.exp(log_w)) * adv * logp)
    return terms, [False] * len(terms), [False] * len(terms)


# --- what multiplies and what is added --------------------------------------------------------------------------------


def correction(old: list[float], sampler: list[float], settings: Correction) -> tuple[list[float], list[bool]]:
    """(weight, dropped by the mask) of each token of a row, from rho = exp(old - sampler)."""
    gaps = [o - s for o, s in zip(old, sampler, strict=True)]

    def rho(level: str) -> list[float]:
        whole = math.fsum(gaps)
        of_level = {"token": gaps, "sequence": [whole] * len(gaps), "geometric": [whole / len(gaps)] * len(gaps)}
        return [math.exp(min(max(x, -BOUND), BOUND)) for x in of_level[level]]

    weights = [1.0] * len(gaps)
    if settings.weight is not None:
        weights = [x if settings.cap is None else min(x, settings.cap) for x in rho(settings.weight)]
    mask = settings.mask
    dropped = [False] * len(gaps) if mask is None else [not mask.low <= x <= mask.high for x in rho(mask.level)]
    return [0.0 if gone else weight for weight, gone in zip(weights, dropped, strict=True)], dropped


def kl_term(logp: Tensor, ref: float, kind: str) -> Tensor:
    """http://joschu.net/blog/kl-approx.html with x = log of reference over policy"""
    x = hold(ref - logp)
    if kind == "k1":
        return -x
    if kind == "k2":
        return x * x / 2
    if kind == "abs":
        return x * torch.sign(x.detach())  # at 0 no gradient
    k3 = torch.expm1(x) - x
    if kind == "k3":
        return k3
    k2 = x * x / 2
    return k2 - k2.detach() + k3.detach()


def add_terms(row: Row, loss: Loss, kl: Kl, metrics: dict[str, float]) -> None:
    def add(name: str, value: float) -> None:
        metrics[name] = metrics.get(name, 0.0) + value

    free = log_ratios(row, loss)
    held = [hold(x) for x in free]
    terms, below, above = surrogate(row, held, loss)
    add("clip_ratio/low_mean", sum(below))
    add("clip_ratio/high_mean", sum(above))
    add("clip_ratio/region_mean", sum(b or a for b, a in zip(below, above, strict=True)))
    add("ratio/overflow", sum(bool(x.abs() > BOUND) for x in free))
    if loss.correction is not None:
        weights, dropped = correction(row.old, row.sampler, loss.correction)
        terms = [term * weight for term, weight in zip(terms, weights, strict=True)]
        add("correction/weight", sum(weights))
        add("correction/dropped", sum(dropped))
    if loss.opsm is not None:  # DeepSeek-V3.2, https://arxiv.org/abs/2512.02556
        drift = math.fsum(s - float(p.detach()) for s, p in zip(row.sampler, row.logp, strict=True)) / len(row.logp)
        gone = [adv < 0 and drift > loss.opsm for adv in row.adv]
        terms = [zero() if out else term for term, out in zip(terms, gone, strict=True)]
        add("opsm/dropped", sum(gone))
    if kl.coef > 0 and kl.where == "loss":
        assert row.ref is not None
        kind = kl.kind or ("k1" if kl.weighted else "k2")
        estimates = [kl_term(logp, ref, kind) for logp, ref in zip(row.logp, row.ref, strict=True)]
        add("kl", sum(float(x.detach()) for x in estimates))
        if kl.weighted:
            estimates = [x * y.exp() for x, y in zip(estimates, held, strict=True)]
        terms = [term + kl.coef * x for term, x in zip(terms, estimates, strict=True)]
    if row.entropy is not None:
        add("entropy", sum(float(x.detach()) for x in row.entropy))
        terms = [term - loss.entropy_coef * x for term, x in zip(terms, row.entropy, strict=True)]
    row.terms = terms


def mean(rows: list[Row], loss: Loss, max_tokens: int) -> Tensor:
    """Of the rows' terms, as loss.aggregate says."""
    if loss.aggregate == "token":
        return total([term for row in rows for term in row.terms]) / sum(len(row.terms) for row in rows)
    if loss.aggregate == "sequence":
        return total([total(row.terms) / len(row.terms) for row in rows]) / len(rows)
    if loss.aggregate == "sequence_sum":
        return total([total(row.terms) for row in rows]) / len(rows)
    if loss.aggregate == "constant":
        return total([total(row.terms) / max_tokens for row in rows]) / len(rows)
    prompts = []
    for group in sorted({row.group for row in rows}):
        terms = [term for row in rows if row.group == group for term in row.terms]
        prompts.append(total(terms) / len(terms))
    return total(prompts) / len(prompts)


def policy_oracle(
    logp_BT: Tensor, entropy_BT: Tensor | None, batch: Batch, loss: Loss, kl: Kl, max_tokens: int
) -> tuple[Tensor, dict[str, float]]:
    """(the step's loss, already divided, and its metrics as sums over tokens), for a batch that is a whole step."""
    metrics: dict[str, float] = {}
    rows = rows_of(logp_BT, entropy_BT, batch, loss)
    for row in rows:
        add_terms(row, loss, kl, metrics)
    value = mean(rows, loss, max_tokens)
    if loss.positive_nll > 0:  # VAPO, https://arxiv.org/abs/2504.05118
        positive = [logp for row in rows if row.reward > loss.positive_above for logp in row.logp]
        metrics["positive_nll"] = -sum(float(logp.detach()) for logp in positive)
        if positive:
            value = value - loss.positive_nll * total(positive) / len(positive)
    return value, metrics


def value_oracle(values_BT: Tensor, batch: Batch, clip: float | None, loss: Loss, max_tokens: int) -> Tensor:
    """Half of the mean square, or of the worse of two where the new value may not move further than `clip`."""
    assert batch.adv_BT is not None and batch.returns_BT is not None
    rows = rows_of(values_BT, None, batch, loss)
    targets = rows_of(batch.returns_BT, None, batch, loss)
    before = rows if batch.values_BT is None else rows_of(batch.values_BT, None, batch, loss)
    for row, target, old in zip(rows, targets, before, strict=True):
        for value, goal, was in zip(row.logp, target.logp, old.logp, strict=True):
            worst = (value - goal) ** 2
            if clip is not None:
                held = was.detach() + hold(value - was.detach(), -clip, clip)
                worst = (held - goal) ** 2 if (held - goal) ** 2 > worst else worst
            row.terms.append(worst / 2)
    return mean(rows, loss, max_tokens)
