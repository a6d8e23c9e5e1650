"""Advantages that are another method's gradient: online DPO's, the imitation of the best, a teacher's divergence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvr.advantages import compute, group_advantages, online_dpo
from rlvr.batching import Batch
from rlvr.direct_losses import direct_loss
from rlvr.direct_settings import DirectLoss
from rlvr.loss_settings import Advantage, Kl, Loss
from rlvr.losses import count, divisor, policy_loss

BETA = 0.3
SUMMED = Loss(surrogate="reinforce", aggregate="sequence_sum")


def batch_of(lengths: list[int], rewards: list[float], group_size: int) -> tuple[Batch, Tensor]:
    """(rows of that many trained tokens, log-probabilities of the policy that sampled them, with gradient)"""
    generator = torch.Generator().manual_seed(0)
    mask_BT = torch.arange(max(lengths) + 1) < torch.tensor(lengths)[:, None] + 1
    mask_BT[:, 0] = False
    logp_BT, ref_BT = (-3 * torch.rand(mask_BT.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    batch = Batch.of(
        torch.ones_like(mask_BT, dtype=torch.int64),
        mask_BT,
        adv=torch.zeros(len(lengths)),
        sampler_logp_BT=logp_BT,
        ref_logp_BT=ref_BT,
        reward_B=torch.tensor(rewards, dtype=torch.float64),
        group_B=torch.arange(len(lengths)) // group_size,
    )
    return batch, logp_BT.clone().requires_grad_(True)


def gradient(batch: Batch, logp_BT: Tensor, advantage: Advantage) -> Tensor:
    adv_BT, _ = compute(batch, advantage, Kl())
    sums = policy_loss(logp_BT, replace(batch, adv_BT=adv_BT), SUMMED)
    return torch.autograd.grad(sums.loss / divisor(count(batch, SUMMED), SUMMED), logp_BT)[0]


def dpo_gradient(batch: Batch, logp_BT: Tensor, pairs: list[tuple[int, int]], num_groups: int) -> Tensor:
    """Of the mean over groups of DPO's loss, each pair being (best, worst)."""
    assert batch.ref_logp_BT is not None
    best_P, worst_P = torch.tensor(pairs).unbind(dim=1)
    logp_B, ref_B = ((batch.mask_BT * value_BT).sum(dim=1) for value_BT in (logp_BT, batch.ref_logp_BT))
    length_B = batch.mask_BT.sum(dim=1)
    loss_P, _ = direct_loss(
        DirectLoss(kind="sigmoid", beta=BETA),
        *(value_B[rows_P] for value_B in (logp_B, ref_B, length_B) for rows_P in (best_P, worst_P)),
    )
    return torch.autograd.grad(loss_P.sum() / num_groups, logp_BT)[0]


@pytest.mark.parametrize("order", [1, -1])
def test_online_dpo_has_the_gradient_of_dpos_loss_of_the_two_siblings(order: int) -> None:
    batch, logp_BT = batch_of([3, 1, 2, 2, 4, 1], [order * r for r in (1.0, 0.0, -1.0, 2.0, 0.5, 0.4)], 2)
    pairs = [(0, 1), (3, 2), (4, 5)] if order == 1 else [(1, 0), (2, 3), (5, 4)]
    found_BT = gradient(batch, logp_BT, Advantage(kind="online_dpo", beta=BETA))
    torch.testing.assert_close(found_BT, dpo_gradient(batch, logp_BT, pairs, 3), rtol=1e-6, atol=1e-12)
    assert found_BT.abs().max() > 1e-3


def test_of_several_siblings_online_dpo_compares_the_best_with_the_worst() -> None:
    batch, logp_BT = batch_of([3, 1, 2, 2, 4, 1, 2, 2], [0.5, 2.0, 1.0, -1.0, 0.1, 0.2, 0.4, 0.3], 4)
    found_BT = gradient(batch, logp_BT, Advantage(kind="online_dpo", beta=BETA))
    torch.testing.assert_close(found_BT, dpo_gradient(batch, logp_BT, [(1, 3), (6, 4)], 2), rtol=1e-6, atol=1e-12)


def test_a_row_without_trained_tokens_is_not_compared_and_a_tie_teaches_nothing() -> None:
    # the best of the first group was cut and is left out; the second group's rewards are equal
    batch, logp_BT = batch_of([0, 1, 2, 2, 4, 1], [9.0, 1.0, 0.0, 0.5, 0.5, 0.5], 3)
    found_BT = gradient(batch, logp_BT, Advantage(kind="online_dpo", beta=BETA))
    # of 5 rows with trained tokens 2 are of the first group: 2 / 5 of the pair's gradient
    torch.testing.assert_close(found_BT, dpo_gradient(batch, logp_BT, [(1, 2)], 1) * 2 / 5, rtol=1e-6, atol=1e-12)


def test_online_dpo_needs_a_reference() -> None:
    batch, _ = batch_of([1, 1], [1.0, 0.0], 2)
    with pytest.raises(ValueError, match=r"^batch\.ref_logp_BT must be set for advantage\.kind online_dpo, got None$"):
        compute(replace(batch, ref_logp_BT=None), Advantage(kind="online_dpo"), Kl())


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=9),
    st.floats(0.1, 5.0),
    st.integers(1, 4),
    st.integers(0, 100),
)
def test_online_dpo_adds_up_to_nothing_in_a_group_and_is_blind_to_the_scale_of_rewards(
    rewards: list[int], scale: float, size: int, seed: int
) -> None:
    reward_B, group_B = torch.tensor(rewards, dtype=torch.float64), torch.arange(len(rewards)) // size
    h_B = torch.randn(len(rewards), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    is_trained_B = torch.ones(len(rewards), dtype=torch.bool)
    adv_B = online_dpo(reward_B, group_B, h_B, is_trained_B, BETA)
    for group in group_B.unique():
        of_group_G = adv_B[group_B == group]
        assert float(of_group_G.sum()) == 0
        assert int((of_group_G != 0).sum()) == 2 * int(len(reward_B[group_B == group].unique()) > 1)
    assert online_dpo(scale * reward_B + 1, group_B, h_B, is_trained_B, BETA).equal(adv_B)


def test_the_best_share_the_weight_of_their_group() -> None:
    reward_B = torch.tensor([1.0, 1.0, 0.0, 0.5, 2.0, 2.0, 3.0], dtype=torch.float64)
    adv_B = group_advantages(reward_B, torch.tensor([0, 0, 0, 0, 1, 1, 2]), Advantage(kind="best"))
    assert adv_B.tolist() == [2, 2, 0, 0, 0, 0, 0]


def test_imitating_the_best_has_the_gradient_of_their_log_likelihood_meant_over_groups() -> None:
    batch, logp_BT = batch_of([3, 1, 2, 2, 4, 1], [0.0, 1.0, 0.5, 2.0, -1.0, 2.0], 3)
    best = {1: 1.0, 3: 0.5, 5: 0.5}
    wanted = -torch.stack([weight * (batch.mask_BT * logp_BT)[row].sum() for row, weight in best.items()]).sum() / 2
    torch.testing.assert_close(
        gradient(batch, logp_BT, Advantage(kind="best")), torch.autograd.grad(wanted, logp_BT)[0], rtol=1e-6, atol=0
    )


def test_divergence_reads_nothing_but_the_divergence() -> None:
    batch, _ = batch_of([2, 3], [1.0, 0.0], 2)
    kl = Kl(coef=0.5, where="reward")
    adv_BT, returns_BT = compute(batch, Advantage(kind="divergence"), kl)
    assert batch.ref_logp_BT is not None
    wanted_BT = torch.where(batch.mask_BT, 0.5 * (batch.ref_logp_BT - batch.sampler_logp_BT), 0.0)
    torch.testing.assert_close(adv_BT.double(), wanted_BT, rtol=1e-6, atol=0)
    assert returns_BT is None
    other = replace(batch, reward_B=batch.reward_B + 7)
    assert compute(other, Advantage(kind="divergence"), kl)[0].equal(adv_BT)
    with pytest.raises(ValueError, match=r"kl\.coef must be positive and kl\.where reward"):
        compute(batch, Advantage(kind="divergence"), Kl(coef=0.5))


def test_beta_goes_with_online_dpo_alone() -> None:
    with pytest.raises(
        ValueError, match=r"beta goes with kind: online_dpo only \(elsewhere kl\.coef\), got kind: group"
    ):
        Advantage(beta=0.5)


@pytest.mark.parametrize("aggregate", ["sequence_sum", "constant", "token", "sequence"])
def test_raft_has_the_direction_of_imitation_unless_completions_are_divided_by_their_own_length(aggregate: Any) -> None:
    batch, logp_BT = batch_of([3, 1, 2, 4, 2, 1], [0.0, 1.0, 0.5, 2.0, 0.1, 0.0], 3)
    loss = Loss(surrogate="reinforce", aggregate=aggregate)
    adv_BT, _ = compute(batch, Advantage(kind="best"), Kl())
    sums = policy_loss(logp_BT, replace(batch, adv_BT=adv_BT), loss)
    found_BT = torch.autograd.grad(sums.loss, logp_BT)[0]
    best_BT = torch.zeros_like(logp_BT)
    best_BT[1], best_BT[3] = batch.mask_BT[1].double(), batch.mask_BT[3].double()
    cosine = -float((found_BT * best_BT).sum() / (found_BT.norm() * best_BT.norm()))
    assert (cosine > 1 - 1e-9) == (aggregate != "sequence")
