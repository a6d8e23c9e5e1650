"""What is made of ratio and advantage: one function per formula, each with its source; and the estimators of KL.

N trained tokens, row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rlvr.loss_settings import Loss

if TYPE_CHECKING:
    from rlvr.losses import Tokens

MAX_LOG_RATIO = 20.0
"""Keeps exp() finite where the sampler and the policy disagree badly."""


class At(NamedTuple):
    """What a surrogate is made of, for N tokens."""

    logp_N: Tensor
    old_N: Tensor
    log_ratio_N: Tensor
    """Of the kind that loss.ratio says, within MAX_LOG_RATIO."""
    ratio_N: Tensor
    adv_N: Tensor
    tokens: Tokens
    loss: Loss


Surrogate = Callable[[At], tuple[Tensor, Tensor, Tensor]]
"""(loss [N], bool [N] of tokens that were clipped from below, bool [N] from above)"""


def _clip(at: At) -> tuple[Tensor, Tensor, Tensor]:
    """L = -min(r A, clip(r, 1 - low, 1 + high) A), https://arxiv.org/abs/1707.06347 eq. 7; with clip.dual at least
    -dual A where A < 0, https://arxiv.org/abs/1912.09729 eq. 3. A ratio over the sequence makes it GSPO's,
    https://arxiv.org/abs/2507.18071 eq. 5: each token of the row then counts as one term."""
    clip, ratio_N, adv_N = at.loss.clip, at.ratio_N, at.adv_N
    clipped_N = ratio_N.clamp(1 - clip.low, 1 + clip.high)
    free_N = ratio_N if clip.dual is None else ratio_N.clamp(max=clip.dual)
    low_N = (ratio_N < 1 - clip.low) & (adv_N < 0)
    high_N = (ratio_N > 1 + clip.high) & (adv_N > 0)
    if clip.dual is not None:
        high_N = high_N | ((ratio_N > clip.dual) & (adv_N < 0))
    return -torch.minimum(free_N * adv_N, clipped_N * adv_N), low_N, high_N


def _cispo(at: At) -> tuple[Tensor, Tensor, Tensor]:
    """L = -sg(clip(r, 1 - low, 1 + high)) A log p, https://arxiv.org/abs/2506.13585 eq. 4: no token loses all."""
    low, high = 1 - at.loss.clip.low, 1 + at.loss.clip.high
    weight_N = at.ratio_N.detach().clamp(low, high)
    return -weight_N * at.adv_N * at.logp_N, at.ratio_N < low, at.ratio_N > high


def _gmpo(at: At) -> tuple[Tensor, Tensor, Tensor]:
    """L = -A exp(mean over the row of d), d the log ratio clipped to [-low, high] on the side that A moves it to,
    https://arxiv.org/abs/2507.20673 eq. 4; each token of the row counts as one term."""
    clip, sign_N = at.loss.clip, at.adv_N.sign()
    clipped_N = at.log_ratio_N.clamp(-clip.low, clip.high)
    bound_N = sign_N * torch.minimum(sign_N * at.log_ratio_N, sign_N * clipped_N)
    low_N = (at.log_ratio_N < -clip.low) & (at.adv_N < 0)
    high_N = (at.log_ratio_N > clip.high) & (at.adv_N > 0)
    return -at.adv_N * at.tokens.over_row(bound_N).exp(), low_N, high_N


def _sapo(at: At) -> tuple[Tensor, Tensor, Tensor]:
    """L = -A sigmoid(tau (r - 1)) 4 / tau, https://arxiv.org/abs/2511.20347 eq. 6"""
    tau_N = _by_sign(at, at.loss.sapo.tau_pos, at.loss.sapo.tau_neg)
    gate_N = torch.sigmoid(tau_N * (at.ratio_N - 1)) * 4 / tau_N
    return -at.adv_N * gate_N, *_unclipped(at)


def _vespo(at: At) -> tuple[Tensor, Tensor, Tensor]:
    """L = -sg(phi(w)) A log p, w the product of the row's ratios, phi(w) = e^lambda w^k e^(-lambda w),
    https://arxiv.org/abs/2602.10693; log w is held within [log 1e-8, 20] as TRL does, and
    phi below e^20."""
    vespo = at.loss.vespo
    log_w_N = at.tokens.over_row(at.log_ratio_N.detach(), "sequence").clamp(math.log(1e-8), MAX_LOG_RATIO)
    k_N, lambda_N = _by_sign(at, vespo.k_pos, vespo.k_neg), _by_sign(at, vespo.lambda_pos, vespo.lambda_neg)
    phi_N = (lambda_N + k_N * log_w_N - lambda_N * log_w_N.exp()).clamp(max=MAX_LOG_RATIO).exp()
    return -phi_N * at.adv_N * at.logp_N, *_unclipped(at)


def _dppo(at: At) -> tuple[Tensor, Tensor, Tensor]:
    """L = -A r where p has not yet moved from the old p by more than dppo.high (A > 0) or -dppo.low (A < 0), else 0,
    https://arxiv.org/abs/2602.04879"""
    dppo, moved_N = at.loss.dppo, at.logp_N.detach().exp() - at.old_N.exp()
    high_N = (moved_N > dppo.high) & ((at.adv_N > 0) | dppo.any_sign)
    low_N = (moved_N < -dppo.low) & ((at.adv_N < 0) | dppo.any_sign)
    return torch.where(low_N | high_N, 0.0, -at.adv_N * at.ratio_N), low_N, high_N


def _reinforce(at: At) -> tuple[Tensor, Tensor, Tensor]:
    """L = -A log p, https://doi.org/10.1007/BF00992696"""
    return -at.adv_N * at.logp_N, *_unclipped(at)


def _by_sign(at: At, positive: float, other: float) -> Tensor:
    """In the dtype of the ratios; torch.where() of two numbers would round them to float32."""
    return torch.full_like(at.ratio_N, other).masked_fill(at.adv_N > 0, positive)


def _unclipped(at: At) -> tuple[Tensor, Tensor]:
    none_N = torch.zeros_like(at.adv_N, dtype=torch.bool)
    return none_N, none_N


SURROGATES: dict[str, Surrogate] = {
    "clip": _clip,
    "cispo": _cispo,
    "gmpo": _gmpo,
    "sapo": _sapo,
    "vespo": _vespo,
    "dppo": _dppo,
    "reinforce": _reinforce,
}


def kl_estimate(logp_N: Tensor, ref_logp_N: Tensor, kind: str) -> Tensor:
    """Per-token estimate of KL(policy || reference) from the policy's samples, d = ref - logp; any shape.

    k1 = -d, k2 = d^2 / 2, k3 = exp(d) - 1 - d, http://joschu.net/blog/kl-approx.html; k3+: k3 in value, k2 in gradient;
    abs = |d|. As a loss on fresh samples only k2 and k3+ have the gradient of that divergence; k3 has that of
    KL(reference || policy), and k1 one whose mean is 0.
    """
    d_N = bounded(ref_logp_N - logp_N)
    if kind == "k1":
        return -d_N
    if kind == "k2":
        return d_N.square() / 2
    if kind == "k3":
        return torch.expm1(d_N) - d_N
    if kind == "k3+":
        k2_N = d_N.square() / 2
        return k2_N + (torch.expm1(d_N) - d_N - k2_N).detach()
    if kind == "abs":
        return d_N.abs()
    raise ValueError(f"kind must be k1, k2, k3, k3+ or abs, got {kind!r}")


def bounded(difference_N: Tensor) -> Tensor:
    """Within MAX_LOG_RATIO, with no gradient beyond; NaN where it is not finite, which clamp would hide."""
    return torch.where(difference_N.isfinite(), difference_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO), torch.nan)
