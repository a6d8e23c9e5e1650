"""Advantages by hand, and what may not change them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.advantages import compute, group_advantages, mean_kl
from rlvr.batching import Batch, make_batch
from rlvr.recipe import Advantage, Kl
from rlvr.types import Completion, Group, Rollout, Task

EPS = 1e-4
GROUP, NO_STD = Advantage(kind="group", eps=EPS), Advantage(kind="group_no_std")


def advantages(rewards: list[float], groups: list[int], advantage: Advantage) -> list[float]:
    return group_advantages(torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups), advantage).tolist()


def batch_of(*rewards_P: list[float | None], num_tokens: int = 2) -> Batch:
    def rollout(reward: float | None) -> Rollout:
        ids = tuple(range(3, 3 + num_tokens))
        completion = Completion(
            text="",
            token_ids=ids,
            logprobs=(-1.0,) * num_tokens,
            trained=(True,) * num_tokens,
            finish="stop",
            versions=((0, 0),),
        )
        return Rollout(id="1/t/0", completion=completion, verdicts={}, reward=reward)

    task = Task(id="t", prompt="?")
    return make_batch(
        [Group(task=task, prompt_ids=(1,), rollouts=tuple(rollout(r) for r in rewards)) for rewards in rewards_P]
    )


def test_group_advantage_is_the_distance_from_the_mean_in_standard_deviations() -> None:
    # rewards 1 0 0 1: mean 1/2, std sqrt(4 * 1/4 / 3) = sqrt(1/3); rewards 1 2 6: mean 3, std sqrt((4 + 1 + 9) / 2)
    got = advantages([1, 0, 0, 1, 1, 2, 6], [0, 0, 0, 0, 1, 1, 1], GROUP)
    near, far = math.sqrt(1 / 3) + EPS, math.sqrt(7) + EPS
    wanted = [0.5 / near, -0.5 / near, -0.5 / near, 0.5 / near, -2 / far, -1 / far, 3 / far]
    assert got == pytest.approx(wanted, rel=1e-14)


def test_without_std_it_is_the_distance_from_the_mean() -> None:
    assert advantages([1, 0, 0, 1, 1, 2, 6], [0, 0, 0, 0, 1, 1, 1], NO_STD) == [0.5, -0.5, -0.5, 0.5, -2, -1, 3]


@given(st.floats(-1e6, 1e6), st.integers(1, 9), st.sampled_from([GROUP, NO_STD]))
def test_equal_rewards_give_exactly_zero(reward: float, size: int, advantage: Advantage) -> None:
    assert advantages([reward] * size, [0] * size, advantage) == [0.0] * size


def test_a_tenth_seven_times_is_exactly_zero_though_its_mean_is_rounded() -> None:
    assert math.fsum([0.1] * 7) / 7 == 0.1 != sum([0.1] * 7) / 7
    assert advantages([0.1] * 7, [0] * 7, GROUP) == [0.0] * 7


def test_a_group_of_one_has_advantage_zero() -> None:
    assert advantages([0.7, 1.0, 0.0], [0, 1, 1], NO_STD) == [0.0, 0.5, -0.5]
    assert advantages([0.7], [0], GROUP) == [0.0]


def test_a_group_number_without_rows_hurts_nobody() -> None:
    assert advantages([1.0, 0.0], [2, 2], NO_STD) == [0.5, -0.5]


@given(st.data(), st.sampled_from([GROUP, NO_STD]))
def test_the_order_of_rows_changes_no_advantage(data: st.DataObject, advantage: Advantage) -> None:
    rows = data.draw(st.lists(st.tuples(st.integers(0, 16), st.integers(0, 3)), min_size=1, max_size=24))
    shuffled = data.draw(st.permutations(range(len(rows))))
    straight = advantages([r / 16 for r, _ in rows], [g for _, g in rows], advantage)
    mixed = advantages([rows[i][0] / 16 for i in shuffled], [rows[i][1] for i in shuffled], advantage)
    assert mixed == pytest.approx([straight[i] for i in shuffled], rel=1e-9, abs=1e-12)


def test_every_trained_token_of_a_row_has_its_advantage_and_no_other_token_has_one() -> None:
    batch = batch_of([1.0, 0.0], num_tokens=3)
    adv_BT, returns_BT = compute(batch, NO_STD, Kl())
    assert adv_BT.tolist() == [[0, 0.5, 0.5, 0.5], [0, -0.5, -0.5, -0.5]]
    assert adv_BT.dtype == torch.float32
    assert returns_BT is None


def test_an_unjudged_rollout_leaves_the_baseline() -> None:
    # were it a zero, the baseline would be 1/3
    adv_BT, _ = compute(batch_of([1.0, None, 0.0], [None, 0.25, 0.75], num_tokens=1), NO_STD, Kl())
    assert adv_BT[:, 1].tolist() == [0.5, -0.5, -0.25, 0.25]


@pytest.mark.parametrize(
    ("kind", "per_token"),
    [(None, 0.2), ("k1", 0.2), ("k2", 0.02), ("k3", math.exp(-0.2) - 1 + 0.2)],
)
def test_divergence_in_the_reward_is_taken_off_before_the_comparison(kind: str | None, per_token: float) -> None:
    # the sampler's log-probability is -1; of row 0 the reference says -1.2 for both tokens, of row 1 it says the same
    batch = batch_of([1.0, 1.0])
    ref_BT = torch.tensor([[0, -1.2, -1.2], [0, -1.0, -1.0]], dtype=torch.float64)
    adv_BT, _ = compute(replace(batch, ref_logp_BT=ref_BT), NO_STD, Kl(coef=0.5, kind=kind, where="reward"))
    penalty = 0.5 * 2 * per_token
    assert adv_BT[:, 1].tolist() == pytest.approx([-penalty / 2, penalty / 2], rel=1e-6)


def test_divergence_in_the_reward_is_that_of_the_old_policy_where_it_is_known() -> None:
    batch = batch_of([1.0, 1.0])
    old_BT = torch.tensor([[0, -0.9, -1.0], [0, -1.0, -1.0]], dtype=torch.float64)
    ref_BT = torch.full_like(old_BT, -1.0)
    kl = Kl(coef=1.0, kind="k1", where="reward")
    adv_BT, _ = compute(replace(batch, old_logp_BT=old_BT, ref_logp_BT=ref_BT), NO_STD, kl)
    assert adv_BT[:, 1].tolist() == pytest.approx([-0.05, 0.05], rel=1e-6)


def test_divergence_in_the_loss_leaves_the_rewards_alone() -> None:
    batch = replace(batch_of([1.0, 0.0]), ref_logp_BT=torch.full((2, 3), -5.0))
    assert compute(batch, NO_STD, Kl(coef=1.0, where="loss"))[0][:, 1].tolist() == [0.5, -0.5]


@pytest.mark.parametrize(("kind", "each"), [(None, 0.5), ("k1", 0.5), ("k2", 0.125), ("k3", math.expm1(-0.5) + 0.5)])
def test_the_kl_that_is_told_is_the_mean_over_tokens_before_its_coefficient(kind: str | None, each: float) -> None:
    batch = batch_of([1.0, 0.0], num_tokens=3)
    batch = replace(batch, ref_logp_BT=torch.where(batch.mask_BT, batch.sampler_logp_BT - 0.5, 9.0))
    assert mean_kl(batch, Kl(coef=7.0, kind=kind, where="reward")) == pytest.approx(each, rel=1e-6)  # type: ignore[arg-type]
    half = replace(batch, old_logp_BT=batch.sampler_logp_BT - 0.5)  # the trainer's own go before the sampler's
    assert mean_kl(half, Kl(coef=7.0, kind=kind, where="reward")) == pytest.approx(0.0, abs=1e-7)  # type: ignore[arg-type]
