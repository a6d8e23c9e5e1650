"""How much better than its siblings a completion was. B sequences, T tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from rlvr.batching import Batch
from rlvr.recipe import Advantage, Kl


def compute(batch: Batch, advantage: Advantage, kl: Kl) -> tuple[Tensor, Tensor | None]:
    """(adv_BT float32, returns_BT or None): every trained token of a row has the row's advantage, all others 0.

    With kl.where == "reward" the row's summed divergence from the reference is taken off its reward first.
    """
    reward_B = batch.reward_B
    if kl.coef > 0 and kl.where == "reward":
        reward_B = reward_B - kl.coef * _sampled_kl_B(batch, kl)
    adv_B = group_advantages(reward_B, batch.group_B, advantage)
    return torch.where(batch.mask_BT, adv_B[:, None], 0.0).float(), None


def group_advantages(reward_B: Tensor, group_B: Tensor, advantage: Advantage) -> Tensor:
    """A = (R - mean_g) / (std_g + eps), std over n - 1 (as TRL and verl have it); group_no_std: A = R - mean_g.

    A group of one, or of equal rewards, has advantage 0. float64 [B] in, float64 [B] out.
    https://arxiv.org/abs/2402.03300 section 4.1.2; without std https://arxiv.org/abs/2503.20783 section 3.2
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
    square_P = zero_P.index_add(0, group_B, centred_B.square())
    std_P = (square_P / (n_P - 1).clamp(min=1)).sqrt()
    return centred_B / (std_P + advantage.eps)[group_B]


def mean_kl(batch: Batch, kl: Kl) -> float:
    """Mean over the trained tokens of what the reward was reduced by, before the coefficient; nats."""
    return float(_sampled_kl_B(batch, kl).sum()) / max(1, batch.num_tokens)


def _sampled_kl_B(batch: Batch, kl: Kl) -> Tensor:
    """Summed over the tokens that the policy sampled, float64 [B]; no gradient."""
    assert batch.ref_logp_BT is not None
    old_BT = (batch.sampler_logp_BT if batch.old_logp_BT is None else batch.old_logp_BT).double()
    d_BT = batch.ref_logp_BT.double() - old_BT
    kind = kl.kind or "k1"
    per_token = {"k1": -d_BT, "k2": d_BT.square() / 2, "k3": torch.expm1(d_BT) - d_BT}[kind]
    return torch.where(batch.mask_BT, per_token, 0.0).sum(dim=1)
