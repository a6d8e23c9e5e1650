"""Advantages by hand, and what may not change them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.advantages import (
    GROUP_KINDS,
    added_to_best,
    compute,
    group_advantages,
    mean_kl,
    part_advantages,
    standardised,
    whitened,
)
from rlvr.batching import Batch, make_batch
from rlvr.loss_settings import Advantage, Kl
from rlvr.types import Completion, Group, Rollout, Task

EPS = 1e-4
GROUP, NO_STD = Advantage(kind="group", eps=EPS), Advantage(kind="group_no_std")
BATCH_STD, LEAVE_ONE_OUT = Advantage(kind="batch_std", eps=EPS), Advantage(kind="leave_one_out")
KINDS = [Advantage.model_validate({"kind": kind, "eps": EPS}) for kind in GROUP_KINDS]


def advantages(
    rewards: Sequence[float], groups: Sequence[int], advantage: Advantage, lengths: Sequence[int] | None = None
) -> list[float]:
    length_B = torch.tensor([3] * len(rewards) if lengths is None else lengths)
    reward_B = torch.tensor(rewards, dtype=torch.float64)
    return group_advantages(reward_B, torch.tensor(groups), advantage, length_B).tolist()


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


def test_length_weighted_counts_each_tokens_reward_in_the_baseline() -> None:
    # (1 * 6 + 3 * 2) / 4 = 3 and (2 * 1 + 0 * 0 + 2 * 0.5) / 4 = 0.75: a row without trained tokens weighs nothing
    kind = Advantage(kind="length_weighted")
    got = advantages([6, 2, 1, 0, 0.5], [0, 0, 1, 1, 1], kind, [1, 3, 2, 0, 2])
    assert got == [3, -1, 0.25, -0.75, -0.25]


def test_max_likelihood_is_the_distance_from_the_mean_in_means() -> None:
    # rewards 1 0 0 0: mean 1/4, (1 - 1/4) / (1/4) = 3; none right: nothing
    got = advantages([1, 0, 0, 0, 0, 0, 1, 0.5], [0, 0, 0, 0, 1, 1, 2, 2], Advantage(kind="max_likelihood"))
    assert got == pytest.approx([3, -1, -1, -1, 0, 0, 1 / 3, -1 / 3], rel=1e-14)


def test_max_likelihood_names_a_reward_that_would_turn_its_group_around() -> None:
    with pytest.raises(
        ValueError, match=r"^advantage\.kind max_likelihood .* negative, got -0\.5 in row 2 \(group 1\)$"
    ):
        advantages([1, 0, -0.5, 0], [0, 0, 1, 1], Advantage(kind="max_likelihood"))


def test_gpg_makes_up_for_groups_that_teach_nothing() -> None:
    # 4 of 7 rows are in groups of different rewards: R - mean, times 7 / 4
    got = advantages([1, 0, 1, 0.5, 2, 2, 2], [0, 0, 1, 1, 2, 2, 2], Advantage(kind="gpg"))
    assert got == [0.875, -0.875, 0.4375, -0.4375, 0, 0, 0]


def test_pass_at_k_is_the_mean_of_what_a_row_adds_to_its_subsets() -> None:
    # rewards 0 1 3 of which 2: 1 adds 1 to {0, 1} and 0 to {1, 3}; 3 adds 3 and 2; of 3: the best 3 - 1
    kind = Advantage(kind="pass_at_k_no_std", k=2)
    assert advantages([1, 3, 0], [0, 0, 0], kind) == [0.5, 2.5, 0]
    assert advantages([1, 3, 0], [0, 0, 0], Advantage(kind="pass_at_k_no_std")) == [0, 2, 0]
    assert advantages([1, 3, 0, 2, 1], [0, 0, 0, 1, 1], Advantage(kind="pass_at_k_no_std", k=3)) == [0, 2, 0, 1, 0]
    # over the standard deviation sqrt((1/9 + 25/9 + 16/9) / 2) = sqrt(7/3)
    assert advantages([1, 3, 0], [0, 0, 0], Advantage(kind="pass_at_k", k=2, eps=EPS)) == pytest.approx(
        [0.5 / (math.sqrt(7 / 3) + EPS), 2.5 / (math.sqrt(7 / 3) + EPS), 0], rel=1e-14
    )


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=7), st.integers(2, 8))
def test_pass_at_k_is_that_of_a_plain_loop_over_all_subsets(rewards: list[int], k: int) -> None:
    size = min(k, len(rewards))
    wanted = []
    for i in range(len(rewards)):
        others = [*rewards[:i], *rewards[i + 1 :]]
        gains = [max(0, rewards[i] - max(subset)) for subset in combinations(others, size - 1)]
        wanted.append(sum(gains) / len(gains))
    reward_B = torch.tensor(rewards, dtype=torch.float64)
    assert added_to_best(reward_B, torch.zeros(len(rewards), dtype=torch.int64), k).tolist() == pytest.approx(wanted)


def test_what_is_added_to_the_best_makes_up_the_gradient_of_the_expected_best() -> None:
    # arms of reward 0 and 1, p = sigmoid(x) of the better: E[max of 2] = 1 - (1 - p)^2 has slope 2 (1 - p) p (1 - p);
    # sum over the pairs of their probability times sum_i A_i d log p_i / dx, log-derivatives 1 - p and -p
    p, slope = 0.3, 0.0
    for pair in ((0, 0), (0, 1), (1, 0), (1, 1)):
        chance = math.prod(p if arm else 1 - p for arm in pair)
        adv = advantages(pair, [0, 0], Advantage(kind="pass_at_k_no_std"))
        slope += chance * sum(a * ((1 - p) if arm else -p) for a, arm in zip(adv, pair, strict=True))
    assert slope == pytest.approx(2 * (1 - p) * p * (1 - p))


# rewards of 8 completions in two groups of 4, their numbers of tokens, and what two other libraries make of them
PEER_REWARDS = [0.1957211, 0.4960336, -0.4473367, 0.5049606, 0.7075242, 0.4161238, -1.3273241, -0.7523868]
PEER_LENGTHS = [9, 1, 3, 4, 5, 7, 5, 9]
VERL = {  # eps 1e-6; verl b178a3cd, verl/trainer/ppo/core_algos.py
    "group": [0.0187449, 0.6907897, -1.4203012, 0.7107666, 0.9844995, 0.6814130, -1.1319534, -0.5339591],
    "leave_one_out": [0.0111686, 0.4115853, -0.8462418, 0.4234879, 1.2620532, 0.8735194, -1.4510778, -0.6844947],
    "length_weighted": [0.0230531, 0.3233657, -0.6200047, 0.3322926, 0.9751247, 0.6837244, -1.0597236, -0.4847862],
    "pass_at_k": [0, 0, 0, 0.0199769, 0.3030865, 0, 0, 0],
    "pass_at_k_no_std": [0, 0, 0, 0.0089269, 0.2914003, 0, 0, 0],
    "gpg": [0.0083764, 0.3086890, -0.6346814, 0.3176159, 0.9465399, 0.6551395, -1.0883084, -0.5133711],
}
TRL = {  # eps 1e-4; trl 1.16.0, which takes n / (n - 1) in float32: 4e-8
    "group": [0.0187408, 0.6906367, -1.4199866, 0.7106092, 0.9843981, 0.6813428, -1.1318369, -0.5339041],
    "batch_std": [0.0114646, 0.4224960, -0.8686748, 0.4347141, 1.2955088, 0.8966755, -1.4895443, -0.7026400],
}


@pytest.mark.parametrize(
    ("kind", "wanted", "eps"),
    [*((kind, row, 1e-6) for kind, row in VERL.items()), *((kind, row, 1e-4) for kind, row in TRL.items())],
)
def test_advantages_are_those_of_verl_and_trl(kind: Any, wanted: list[float], eps: float) -> None:
    got = advantages(PEER_REWARDS, [0] * 4 + [1] * 4, Advantage(kind=kind, eps=eps), PEER_LENGTHS)
    assert got == pytest.approx(wanted, abs=5e-7)


def test_whitened_over_tokens_they_are_those_of_verls_reinforce_plus_plus_baseline() -> None:
    wanted = [0.0487932, 0.5145260, -0.9484782, 0.5283701, 1.5037223, 1.0518108, -1.6519752, -0.7603469]
    adv_B = torch.tensor(advantages(PEER_REWARDS, [0] * 4 + [1] * 4, NO_STD), dtype=torch.float64)
    mask_BT = torch.arange(9) < torch.tensor(PEER_LENGTHS)[:, None]
    got_BT = whitened(adv_B[:, None].expand(8, 9), mask_BT, 1e-4)
    assert got_BT[:, 0].tolist() == pytest.approx(wanted, abs=5e-7)


# --- several parts, a greedy completion ------------------------------------------------------------------------------


def test_gdpo_compares_each_part_by_itself_and_sums_what_comes_of_it() -> None:
    # first part 1 0 0 1: -+ 1/2 over sqrt(1/3); the other 0 2 | 3 3: -+ 1 over sqrt(2), and nothing; weights 1 and 0.5
    part_BK = torch.tensor([[1, 0], [0, 2], [0, 3], [1, 3]], dtype=torch.float64)
    group_B = torch.tensor([0, 0, 1, 1])
    near, far = 0.5 / (math.sqrt(0.5) + EPS), 0.5 / (math.sqrt(2) + EPS)
    sums = [near - far, far - near, -near, near]
    std = math.sqrt(sum(s * s for s in sums) / 3)
    got = part_advantages(part_BK, [1.0, 0.5], group_B, EPS)
    assert got.tolist() == pytest.approx([s / (std + EPS) for s in sums], rel=1e-12)


def test_gdpo_is_that_of_trl() -> None:
    other = [-0.0333736, 1.0450912, 0.1426111, 0.0869159, -0.0593800, -0.0593800, -0.0593800, -0.0593800]
    wanted = [-0.5302690, 1.7077400, -1.3814921, 0.2040211, 0.7733592, 0.5352740, -0.8891895, -0.4194438]
    part_BK = torch.tensor([PEER_REWARDS, other], dtype=torch.float64).T
    assert part_advantages(part_BK, [1.0, 1.0], torch.arange(8) // 4, 1e-4).tolist() == pytest.approx(wanted, abs=5e-7)


def test_a_part_without_a_score_leaves_its_groups_mean_and_the_rows_sum() -> None:
    # first part 1 - 0 of group 0: -+ 1/2 over sqrt(1/2), row 1 has it not; the other part 4 2 0: 2 0 -2 over 2
    nan = math.nan
    part_BK = torch.tensor([[1, 4], [nan, 2], [0, 0], [nan, nan]], dtype=torch.float64)
    first, other = 0.5 / (math.sqrt(0.5) + EPS), 2 / (2 + EPS)
    sums = [first + other, 0, -first - other]
    std = math.sqrt(sum(s * s for s in sums) / 2)
    got = part_advantages(part_BK, [1.0, 1.0], torch.tensor([0, 0, 0, 0]), EPS)
    assert got.tolist() == pytest.approx([*(s / (std + EPS) for s in sums), 0], abs=1e-12)


def test_standardised_is_trls_normalised_rloo() -> None:
    wanted = [0.0120672, 0.4447014, -0.9143303, 0.4575617, 1.3635978, 0.9438026, -1.5678313, -0.7395691]
    adv_N = torch.tensor(advantages(PEER_REWARDS, [0] * 4 + [1] * 4, LEAVE_ONE_OUT), dtype=torch.float64)
    assert standardised(adv_N, 1e-4).tolist() == pytest.approx(wanted, abs=5e-7)
    assert standardised(torch.full((7,), 0.1, dtype=torch.float64), 1e-4).tolist() == [0.0] * 7


def test_gdpo_and_greedy_reach_the_tokens_through_the_batch() -> None:
    batch = batch_of([1.0, 0.0], [1.0, 1.0])
    parts = replace(batch, part_BK=torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64))
    adv_BT, _ = compute(parts, Advantage(kind="gdpo"), Kl(), weights=[1.0, 0.0])
    wanted_B = part_advantages(parts.part_BK, [1.0, 0.0], parts.group_B, 1e-4)  # type: ignore[arg-type]
    assert adv_BT.tolist() == [[0, a, a] for a in wanted_B.float().tolist()]
    greedy = replace(batch, greedy_B=torch.tensor([0.25, 0.25, 1.0, 1.0], dtype=torch.float64))
    adv_BT, _ = compute(greedy, Advantage(kind="greedy"), Kl())
    assert adv_BT[:, 1].tolist() == [0.75, -0.25, 0.0, 0.0]


@pytest.mark.parametrize(
    ("kind", "column", "told"),
    [
        ("greedy", {}, r"^batch\.greedy_B must be set for advantage\.kind greedy, got None$"),
        (
            "greedy",
            {"greedy_B": [0.0, math.inf]},
            r"^greedy_B must be finite, got inf in row 1 of the batch \(group 0\)$",
        ),
        ("gdpo", {}, r"^batch\.part_BK must be set for advantage\.kind gdpo, got None$"),
        (
            "gdpo",
            {"part_BK": [[0.0], [-math.inf]]},
            r"^part 0 must be finite, got -inf in row 1 of the batch \(group 0\)$",
        ),
        ("gdpo", {"part_BK": [[0.0, 1.0], [1.0, 1.0]]}, r"^weights must be as many as .* part_BK \(2\), got 1$"),
    ],
)
def test_what_a_kind_needs_is_named_where_it_is_missing_or_not_finite(
    kind: Any, column: dict[str, list[Any]], told: str
) -> None:
    batch = replace(batch_of([1.0, 0.0]), **{k: torch.tensor(v, dtype=torch.float64) for k, v in column.items()})
    with pytest.raises(ValueError, match=told):
        compute(batch, Advantage(kind=kind), Kl(), weights=[1.0])


def test_weights_of_the_parts_and_lengths_must_be_given() -> None:
    batch = replace(batch_of([1.0, 0.0]), part_BK=torch.zeros(2, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"^weights must be given for advantage\.kind gdpo, got None$"):
        compute(batch, Advantage(kind="gdpo"), Kl())
    with pytest.raises(ValueError, match=r"^length_B must be given for advantage\.kind length_weighted, got None$"):
        group_advantages(batch.reward_B, batch.group_B, Advantage(kind="length_weighted"))
    with pytest.raises(ValueError, match=r"^advantage\.kind must be one of group, .*, got gae$"):
        group_advantages(batch.reward_B, batch.group_B, Advantage(kind="gae"))


@pytest.mark.parametrize("kind", ["gdpo", "max_likelihood"])
def test_divergence_cannot_be_taken_off_a_reward_that_is_not_read_or_divided_by(kind: Any) -> None:
    batch = replace(batch_of([1.0, 0.0]), ref_logp_BT=torch.full((2, 3), -1.0), part_BK=torch.ones(2, 1).double())
    with pytest.raises(
        ValueError, match=rf"^kl\.where must be loss for advantage\.kind {kind}, which reads bare rewards"
    ):
        compute(batch, Advantage(kind=kind), Kl(coef=0.1, where="reward"), weights=[1.0])


def test_a_divergence_needs_its_reference() -> None:
    with pytest.raises(ValueError, match=r"^batch\.ref_logp_BT must be set for kl\.coef > 0, got None$"):
        compute(batch_of([1.0, 0.0]), NO_STD, Kl(coef=0.1, where="reward"))


# --- equal rewards, groups, rows -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.floats(0, 1e6), st.integers(1, 9), st.sampled_from(KINDS))
def test_equal_rewards_give_exactly_zero(reward: float, size: int, advantage: Advantage) -> None:
    assert advantages([reward] * size, [0] * size, advantage) == [0.0] * size


def test_a_tenth_seven_times_is_exactly_zero_though_its_mean_is_rounded() -> None:
    assert math.fsum([0.1] * 7) / 7 == 0.1 != sum([0.1] * 7) / 7
    for advantage in KINDS:
        assert advantages([0.1] * 7, [0] * 7, advantage, [1, 2, 3, 4, 5, 6, 7]) == [0.0] * 7


def test_a_group_of_one_has_advantage_zero() -> None:
    assert advantages([0.7, 1.0, 0.0], [0, 1, 1], NO_STD) == [0.0, 0.5, -0.5]
    for advantage in KINDS:
        assert advantages([0.7], [0], advantage) == [0.0]


def test_a_group_number_without_rows_hurts_nobody() -> None:
    assert advantages([1.0, 0.0], [2, 2], NO_STD) == [0.5, -0.5]


@settings(deadline=None)
@given(st.data(), st.sampled_from(KINDS))
def test_the_order_of_rows_changes_no_advantage(data: st.DataObject, advantage: Advantage) -> None:
    row = st.tuples(st.integers(0, 16), st.integers(0, 3), st.integers(1, 9))  # reward, group, length
    rows = data.draw(st.lists(row, min_size=1, max_size=24))
    shuffled = data.draw(st.permutations(range(len(rows))))

    def of(order: Sequence[int]) -> list[float]:
        rewards, groups, lengths = zip(*(rows[i] for i in order), strict=True)
        return advantages([r / 16 for r in rewards], groups, advantage, lengths)

    straight, mixed = of(range(len(rows))), of(shuffled)
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


@pytest.mark.parametrize("kind", [*GROUP_KINDS, "returns"])
def test_every_kind_can_be_whitened(kind: Any) -> None:
    batch = batch_of([1.0, 0.0, 0.0], [1.0, 1.0, 0.0], num_tokens=2)
    plain_BT, _ = compute(batch, Advantage(kind=kind), Kl())
    adv_BT, _ = compute(batch, Advantage(kind=kind, whiten=True), Kl())
    torch.testing.assert_close(adv_BT, whitened(plain_BT.double(), batch.mask_BT, 1e-4).float())
    assert float(adv_BT[batch.mask_BT].double().var()) == pytest.approx(1, rel=1e-5)


# --- what is not trained on, and what is not finite ------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in GROUP_KINDS if kind != "length_weighted"])
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
