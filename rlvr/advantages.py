"""How much better than its siblings, or than the rest of the step, a completion was. B sequences, T tokens.

What is here looks at a whole step at once: the batch of all ranks, before it is split.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlvr.batching import Batch
from rlvr.losses import kl_estimate
from rlvr.recipe import Advantage, Kl


def compute(batch: Batch, advantage: Advantage, kl: Kl) -> tuple[Tensor, Tensor | None]:
    """(adv_BT float32, returns_BT or None): advantages of the step's trained tokens, 0 for all others.

    All tokens of a row have the row's advantage; with kind `returns` each has its own. With kl.where == "reward" what
    each token diverged from the reference is taken off first: summed off the row's reward, or, with `returns`, token by
    token (a row without trained tokens has none to take off). ValueError where a reward is not
    finite; a divergence that is not makes its row's advantages so.
    """
    _check_finite(batch.reward_B, batch, "reward")
    kl_BT = kl.coef * _sampled_kl_BT(batch, kl) if kl.coef > 0 and kl.where == "reward" else None
    if advantage.kind == "returns":
        adv_BT = returns_to_go(batch.reward_B, kl_BT, batch.mask_BT)
    else:
        reward_B = batch.reward_B if kl_BT is None else batch.reward_B - kl_BT.sum(dim=1)
        adv_B = group_advantages(reward_B, batch.group_B, advantage)
        adv_BT = torch.where(batch.mask_BT, adv_B[:, None], 0.0)
    if advantage.whiten:
        adv_BT = whitened(adv_BT, batch.mask_BT, advantage.eps)
    return adv_BT.float(), None


def group_advantages(reward_B: Tensor, group_B: Tensor, advantage: Advantage) -> Tensor:
    """group: A = (R - mean_g) / (std_g + eps), std over n - 1 as with TRL and verl, https://arxiv.org/abs/2402.03300

    group_no_std: A = R - mean_g, https://arxiv.org/abs/2503.20783 section 3.2
    batch_std: A = (R - mean_g) / (std + eps), std of all rewards (not of R - mean_g) over n - 1, as TRL's
    scale_rewards="batch", https://arxiv.org/abs/2508.08221
    leave_one_out: A = R - mean of the other siblings = n / (n - 1) (R - mean_g), https://arxiv.org/abs/2402.14740

    A group of one, or of equal rewards, has advantage 0. float64 [B] in, float64 [B] out.
    """
    num_groups = int(group_B.max()) + 1 if len(group_B) else 0
    zero_P = reward_B.new_zeros(num_groups)
    n_P = zero_P.index_add(0, group_B, torch.ones_like(reward_B))
    sum_P = zero_P.index_add(0, group_B, reward_B)
    centred_B = reward_B - (sum_P / n_P)[group_B]
    low_P = torch.full_like(zero_P, torch.inf).scatter_reduce(0, group_B, reward_B, "amin")
    high_P = torch.full_like(zero_P, -torch.inf).scatter_reduce(0, group_B, reward_B, "amax")
    # equal rewards give exactly 0, whatever the mean was rounded to: 1e-17 / eps would still be trained on
    centred_B = torch.where((low_P == high_P)[group_B], 0.0, centred_B)
    if advantage.kind == "group_no_std":
        return centred_B
    if advantage.kind == "leave_one_out":
        return centred_B * (n_P / (n_P - 1).clamp(min=1))[group_B]
    if advantage.kind == "batch_std":
        return centred_B / (_std(reward_B) + advantage.eps)
    square_P = zero_P.index_add(0, group_B, centred_B.square())
    std_P = (square_P / (n_P - 1).clamp(min=1)).sqrt()
    return centred_B / (std_P + advantage.eps)[group_B]


def returns_to_go(reward_B: Tensor, kl_BT: Tensor | None, mask_BT: Tensor) -> Tensor:
    """A_t = R - sum of kl_BT over the row's trained tokens from t on, 0 where mask is False.

    That is the sum of what is still to come, undiscounted and without a baseline, where the last token earns the whole
    reward and each token pays its own divergence. https://arxiv.org/abs/2501.03262 eq. 8
    """
    paid_BT = torch.zeros_like(mask_BT, dtype=reward_B.dtype) if kl_BT is None else torch.where(mask_BT, kl_BT, 0.0)
    from_here_BT = paid_BT.flip(1).cumsum(dim=1).flip(1)
    return torch.where(mask_BT, reward_B[:, None] - from_here_BT, 0.0)


def whitened(adv_BT: Tensor, mask_BT: Tensor, eps: float) -> Tensor:
    """(A - mean) / sqrt(variance + eps^2) over the trained tokens, so that a long row counts more than a short one.

    The variance is the unbiased one (over n - 1), as in verl's masked_whiten. 0 where all are equal, or mask is False.
    """
    adv_N = adv_BT[mask_BT]
    if not len(adv_N) or bool(adv_N.min() == adv_N.max()):
        return torch.zeros_like(adv_BT)
    scale = (_std(adv_N).square() + eps**2).sqrt()
    return torch.where(mask_BT, (adv_BT - adv_N.mean()) / scale, 0.0)


def mean_kl(batch: Batch, kl: Kl) -> float:
    """Mean over the trained tokens of what the reward was reduced by, before the coefficient; nats."""
    return float(_sampled_kl_BT(batch, kl).sum()) / max(1, batch.num_tokens)


def _check_finite(value_B: Tensor, batch: Batch, what: str) -> None:
    """ValueError that names the first row whose value is NaN or infinite."""
    bad = (~value_B.isfinite()).nonzero()[:, 0].tolist()
    if bad:
        row, group = bad[0], int(batch.group_B[bad[0]])
        raise ValueError(f"{what} must be finite, got {float(value_B[row])} in row {row} of the batch (group {group})")


def _sampled_kl_BT(batch: Batch, kl: Kl) -> Tensor:
    """Of the trained tokens, that is those the policy sampled, float64; 0 elsewhere, no gradient."""
    assert batch.ref_logp_BT is not None
    old_BT = (batch.sampler_logp_BT if batch.old_logp_BT is None else batch.old_logp_BT).double()
    kl_BT = kl_estimate(old_BT, batch.ref_logp_BT.double(), kl.kind or "k1")
    return torch.where(batch.mask_BT, kl_BT, 0.0)


def _std(value_N: Tensor) -> Tensor:
    """Over n - 1; 0 for a single value."""
    return value_N.std() if len(value_N) > 1 else value_N.new_zeros(())
