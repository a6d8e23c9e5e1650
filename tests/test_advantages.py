"""Advantages by hand, and what may not change them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.advantages import compute, group_advantages, mean_kl, returns_to_go, whitened
from rlvr.batching import Batch, make_batch
from rlvr.recipe import Advantage, Kl
from rlvr.types import Completion, Group, Rollout, Task

EPS = 1e-4
GROUP, NO_STD = Advantage(kind="group", eps=EPS), Advantage(kind="group_no_std")
BATCH_STD, LEAVE_ONE_OUT = Advantage(kind="batch_std", eps=EPS), Advantage(kind="leave_one_out")
RETURNS = Advantage(kind="returns")
KINDS = [GROUP, NO_STD, BATCH_STD, LEAVE_ONE_OUT]


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


def test_leave_one_out_is_the_distance_from_the_mean_of_the_others() -> None:
    # 1 against 0 0 1, 0 against 1 0 1; 1 against 4, 2 against 3.5, 6 against 1.5
    got = advantages([1, 0, 0, 1, 1, 2, 6], [0, 0, 0, 0, 1, 1, 1], LEAVE_ONE_OUT)
    assert got == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3, -3, -1.5, 4.5], rel=1e-14)


def test_batch_std_is_that_of_all_rewards_of_the_step_not_of_their_distances() -> None:
    # rewards 0 1 | 10 10: mean 5.25, squares 27.5625 18.0625 22.5625 22.5625 make 90.75, over 3
    got = advantages([0, 1, 10, 10], [0, 0, 1, 1], BATCH_STD)
    scale = math.sqrt(90.75 / 3) + EPS
    assert got == pytest.approx([-0.5 / scale, 0.5 / scale, 0, 0], rel=1e-14)
    assert got[2:] == [0.0, 0.0]


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.integers(1, 9), st.sampled_from(KINDS))
def test_equal_rewards_give_exactly_zero(reward: float, size: int, advantage: Advantage) -> None:
    assert advantages([reward] * size, [0] * size, advantage) == [0.0] * size


def test_a_tenth_seven_times_is_exactly_zero_though_its_mean_is_rounded() -> None:
    assert math.fsum([0.1] * 7) / 7 == 0.1 != sum([0.1] * 7) / 7
    for advantage in KINDS:
        assert advantages([0.1] * 7, [0] * 7, advantage) == [0.0] * 7


def test_a_group_of_one_has_advantage_zero() -> None:
    assert advantages([0.7, 1.0, 0.0], [0, 1, 1], NO_STD) == [0.0, 0.5, -0.5]
    for advantage in KINDS:
        assert advantages([0.7], [0], advantage) == [0.0]


def test_a_group_number_without_rows_hurts_nobody() -> None:
    assert advantages([1.0, 0.0], [2, 2], NO_STD) == [0.5, -0.5]


@settings(deadline=None)
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


# --- returns ---------------------------------------------------------------------------------------------------------


def test_a_tokens_return_is_the_reward_less_the_divergence_still_to_come() -> None:
    # the last token earns 2 or -1; the hole at column 2 of row 0 pays nothing and has no return
    mask_BT = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 0]], dtype=torch.bool)
    kl_BT = torch.tensor([[9.0, 0.25, 9.0, 0.5], [9.0, -0.5, 0.125, 9.0]], dtype=torch.float64)
    reward_B = torch.tensor([2.0, -1.0], dtype=torch.float64)
    assert returns_to_go(reward_B, kl_BT, mask_BT).tolist() == [[0, 1.25, 0, 1.5], [0, -0.625, -1.125, 0]]
    assert returns_to_go(reward_B, None, mask_BT).tolist() == [[0, 2, 0, 2], [0, -1, -1, 0]]


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 8))
def test_returns_are_those_of_a_plain_loop_from_the_end(seed: int, B: int, T: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    mask_BT = torch.rand(B, T, generator=rng) < 0.6
    kl_BT = torch.randn(B, T, generator=rng, dtype=torch.float64)
    reward_B = torch.randn(B, generator=rng, dtype=torch.float64)
    wanted_BT = torch.zeros(B, T, dtype=torch.float64)
    for b in range(B):
        earns, total = float(reward_B[b]), 0.0
        for t in reversed(range(T)):
            if mask_BT[b, t]:
                total, earns = total + earns - float(kl_BT[b, t]), 0.0  # the last token has the reward
                wanted_BT[b, t] = total
    torch.testing.assert_close(returns_to_go(reward_B, kl_BT, mask_BT), wanted_BT, rtol=1e-12, atol=1e-12)


def test_returns_take_the_divergence_token_by_token_and_know_no_siblings() -> None:
    # the sampler's log-probability is -1 everywhere, k1 is 0.2 and 0.4 for row 0, 0 for row 1; coefficient 0.5
    batch = replace(batch_of([1.0, 0.0]), ref_logp_BT=torch.tensor([[0, -1.2, -1.4], [0, -1.0, -1.0]]))
    kl = Kl(coef=0.5, where="reward")
    assert compute(batch, RETURNS, kl)[0].tolist() == [
        [0, pytest.approx(0.7), pytest.approx(0.8)],
        [0, pytest.approx(0.0, abs=1e-7), pytest.approx(0.0, abs=1e-7)],
    ]
    assert compute(batch, RETURNS, Kl(coef=0.5, where="loss"))[0].tolist() == [[0, 1, 1], [0, 0, 0]]


# --- whitening -------------------------------------------------------------------------------------------------------


def test_whitening_counts_tokens_not_rows() -> None:
    # one token of 1 and three of -1: mean -1/2, squares 9/4 + 3/4 = 3, over n - 1 = 3 a variance of 1
    mask_BT = torch.tensor([[0, 1, 0, 0], [0, 1, 1, 1]], dtype=torch.bool)
    adv_BT = torch.tensor([[7.0, 1, 7, 7], [7, -1, -1, -1]], dtype=torch.float64)
    scale = math.sqrt(1 + EPS**2)
    assert whitened(adv_BT, mask_BT, EPS).tolist() == [
        [0, pytest.approx(1.5 / scale), 0, 0],
        [0, *[pytest.approx(-0.5 / scale)] * 3],
    ]


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(2, 6))
def test_whitened_advantages_have_mean_0_and_variance_1(seed: int, B: int, T: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    mask_BT = torch.rand(B, T, generator=rng) < 0.7
    mask_BT[0, :2] = True
    adv_N = whitened(torch.randn(B, T, generator=rng, dtype=torch.float64) * 3 + 5, mask_BT, 1e-9)[mask_BT]
    assert float(adv_N.mean()) == pytest.approx(0, abs=1e-12)
    assert float(adv_N.var()) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("value", [0.1, 1.0])
def test_whitening_what_is_equal_gives_exactly_zero(value: float) -> None:
    mask_BT = torch.ones(1, 7, dtype=torch.bool)
    equal_BT = torch.full((1, 7), value, dtype=torch.float64)
    assert whitened(equal_BT, mask_BT, EPS).tolist() == [[0.0] * 7]
    assert whitened(equal_BT[:, :1], mask_BT[:, :1], EPS).tolist() == [[0.0]]
    assert whitened(equal_BT, ~mask_BT, EPS).tolist() == [[0.0] * 7]


@pytest.mark.parametrize("kind", ["group", "group_no_std", "batch_std", "leave_one_out", "returns"])
def test_every_kind_can_be_whitened(kind: Any) -> None:
    batch = batch_of([1.0, 0.0, 0.0], [1.0, 1.0, 0.0], num_tokens=2)
    plain_BT, _ = compute(batch, Advantage(kind=kind), Kl())
    adv_BT, _ = compute(batch, Advantage(kind=kind, whiten=True), Kl())
    torch.testing.assert_close(adv_BT, whitened(plain_BT.double(), batch.mask_BT, 1e-4).float())
    assert float(adv_BT[batch.mask_BT].double().var()) == pytest.approx(1, rel=1e-5)


# --- what is not trained on, and what is not finite ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["group", "group_no_std", "batch_std", "leave_one_out"])
def test_a_row_without_trained_tokens_stays_in_the_baseline(kind: Any) -> None:
    whole = batch_of([1.0, 0.0, 0.5], [0.25, 0.75])
    mask_BT = whole.mask_BT.clone()
    mask_BT[0] = False
    adv_BT, _ = compute(replace(whole, mask_BT=mask_BT), Advantage(kind=kind), Kl())
    wanted_BT, _ = compute(whole, Advantage(kind=kind), Kl())
    assert adv_BT[0].tolist() == [0, 0, 0]
    torch.testing.assert_close(adv_BT[1:], wanted_BT[1:], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["group", "returns"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_named_by_its_row(kind: Any, bad: float) -> None:
    with pytest.raises(ValueError, match=rf"^reward must be finite, got {bad} in row 3 of the batch \(group 1\)$"):
        compute(batch_of([1.0, 0.0], [1.0, bad]), Advantage(kind=kind), Kl())


@pytest.mark.parametrize(("kind", "rows"), [("group", [0, 1]), ("returns", [1])])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_divergence_that_is_not_finite_reaches_the_advantages_it_is_part_of(
    kind: Any, rows: list[int], bad: float
) -> None:
    batch = batch_of([1.0, 0.0], [1.0, 0.0])
    ref_BT = batch.sampler_logp_BT.clone()
    ref_BT[1, 2] = bad
    batch = replace(batch, ref_logp_BT=ref_BT)
    adv_BT, _ = compute(batch, Advantage(kind=kind), Kl(coef=0.1, kind="k1", where="reward"))
    odd_B = (~adv_BT.isfinite()).any(dim=1)
    assert odd_B.nonzero()[:, 0].tolist() == rows  # the update that would use them is skipped, see Trained.step()
