"""Rewards of a step shaped together: length taken off, whitening, clips; by hand, and across a resume."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scorer_cases import make_group, make_rollout

from rlvr import recipe
from rlvr.errors import SettingsError
from rlvr.odds import sigmoid
from rlvr.reward_settings import Shaping
from rlvr.rewards.base import OVERLONG, OverlongPenalty, earned, group_rewards
from rlvr.rewards.shaping import Running, length_slope, part_length_slope, rewards_by_id, shape
from rlvr.settings import from_overrides
from rlvr.types import Group, Verdict

PARTS: dict[str, recipe.Reward] = {
    "answer": recipe.VerifiedReward(),
    "taste": recipe.ModelReward(kind="model", path="x", weight=0.5),
}
numbers = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20)


def valued(value: float) -> Verdict:
    return Verdict(score=sigmoid(value), outcome="partial", value=value)


def judged(*rows: tuple[float, float, int], parts: dict[str, recipe.Reward] = PARTS, name: str = "t") -> Group:
    """A group of (score of answer, value of taste, tokens)."""
    verdicts = [{"answer": Verdict(score=a, outcome="partial"), "taste": valued(b)} for a, b, _ in rows]
    rollouts = [
        replace(make_rollout("x", k, ids=(5,) * tokens), id=f"1/{name}/{k}", verdicts=told, reward=reward)
        for k, ((_, _, tokens), told, reward) in enumerate(
            zip(rows, verdicts, group_rewards(verdicts, parts), strict=True)
        )
    ]
    return replace(make_group("x"), rollouts=tuple(rollouts))


def rewards_of(groups: list[Group]) -> list[float]:
    return list(rewards_by_id(groups).values())


STEP = [
    judged((1.0, 0.5, 4), (0.0, 1.0, 9), (1.0, -2.0, 2), name="a"),
    judged((0.0, 3.0, 20), (0.5, 2.0, 25), name="b"),
]


def test_without_settings_nothing_changes() -> None:
    groups, running, metrics = shape(STEP, Shaping(), PARTS, Running(3.0, 1.0, 2.0))
    assert (groups, running, metrics) == (STEP, Running(3.0, 1.0, 2.0), {})


# --- whitening -------------------------------------------------------------------------------------------------------


@given(numbers, numbers)
def test_what_runs_up_over_two_steps_is_what_both_have_together(first: list[float], second: list[float]) -> None:
    running = Running().after(first).after(second)
    assert running.count == len(first) + len(second)
    assert running.mean == pytest.approx(statistics.fmean(first + second), abs=1e-9)
    assert running.std == pytest.approx(statistics.pstdev(first + second), abs=1e-6)


def test_whitened_over_the_step_they_have_mean_0_and_deviation_1() -> None:
    groups, running, metrics = shape(STEP, Shaping(whiten="batch"), PARTS, Running(5.0, 9.0, 9.0))
    before, after = rewards_of(STEP), rewards_of(groups)
    mean, std = statistics.fmean(before), statistics.pstdev(before)
    assert after == pytest.approx([(reward - mean) / std for reward in before])
    assert (metrics["shaping/mean"], metrics["shaping/std"]) == pytest.approx((mean, std))
    assert running == Running()


def test_running_whitening_counts_the_steps_before() -> None:
    earlier = [3.0, -1.0, 4.0]
    groups, running, _ = shape(STEP, Shaping(whiten="running"), PARTS, Running().after(earlier))
    everything = earlier + rewards_of(STEP)
    mean, std = statistics.fmean(everything), statistics.pstdev(everything)
    assert rewards_of(groups) == pytest.approx([(reward - mean) / std for reward in rewards_of(STEP)])
    assert running == Running().after(earlier).after(rewards_of(STEP))


def test_equal_rewards_are_whitened_to_nothing() -> None:
    group = judged((1.0, 0.5, 4), (1.0, 0.5, 9))
    assert rewards_of(shape([group], Shaping(whiten="batch"), PARTS, Running())[0]) == [0.0, 0.0]


def test_the_clip_comes_after_whitening_and_is_counted() -> None:
    groups, _, metrics = shape(STEP, Shaping(whiten="batch", clip=0.5), PARTS, Running())
    whitened = rewards_of(shape(STEP, Shaping(whiten="batch"), PARTS, Running())[0])
    assert rewards_of(groups) == [min(max(reward, -0.5), 0.5) for reward in whitened]
    assert metrics["shaping/clipped_ratio"] == sum(abs(reward) > 0.5 for reward in whitened) / 5
    assert metrics["shaping/reward"] == pytest.approx(statistics.fmean(rewards_of(groups)))


def test_greedy_completions_are_shaped_alike_and_count_in_no_statistic() -> None:
    greedy = replace(STEP[0].rollouts[0], id="1/a/9", reward=100.0)
    with_greedy = [replace(STEP[0], greedy=greedy), STEP[1]]
    groups, running, _ = shape(with_greedy, Shaping(whiten="batch"), PARTS, Running())
    plain = Running().after(rewards_of(STEP))
    assert running == Running()
    assert groups[0].greedy is not None
    assert groups[0].greedy.reward == pytest.approx((100.0 - plain.mean) / plain.std)
    assert rewards_of([replace(groups[0], greedy=None), groups[1]]) == rewards_of(
        shape(STEP, Shaping(whiten="batch"), PARTS, Running())[0]
    )


def test_what_could_not_be_judged_stays_so_and_counts_nowhere() -> None:
    failed = {**STEP[0].rollouts[1].verdicts, "answer": Verdict(score=None, outcome="error")}
    unjudged = replace(STEP[0].rollouts[1], verdicts=failed, reward=None)
    group = replace(STEP[0], rollouts=(STEP[0].rollouts[0], unjudged, STEP[0].rollouts[2]))
    every = Shaping(length_residual=("taste",), whiten="running", clip=3.0)
    groups, running, _ = shape([group], every, PARTS, Running())
    assert [r.reward is None for r in groups[0].rollouts] == [False, True, False]
    assert running.count == 2


# --- length ----------------------------------------------------------------------------------------------------------


@given(
    rows=st.lists(st.tuples(st.floats(-100, 100), st.integers(1, 50), st.integers(0, 3)), min_size=2, max_size=15),
    within=st.sampled_from(["group", "step"]),
)
def test_the_slope_is_that_of_least_squares(rows: list[tuple[float, int, int]], within: str) -> None:
    value, length, group = (list(column) for column in zip(*rows, strict=True))
    slope = length_slope(value, length, group, within=within)
    keys = sorted(set(group)) if within == "group" else [0]
    one_hot = [[float(within == "step" or g == key) for key in keys] for g in group]
    matrix = np.array([[n, *row] for n, row in zip(length, one_hot, strict=True)])
    if np.linalg.matrix_rank(matrix) < matrix.shape[1]:
        assert slope == 0.0  # all of a group are equally long
        return
    assert slope == pytest.approx(np.linalg.lstsq(matrix, np.array(value), rcond=None)[0][0], abs=1e-6)


def test_a_planted_length_bias_is_found_and_taken_off() -> None:
    # lengths and merits are uncorrelated within each group, so what is left are the merits
    merits, lengths = (0.3, -0.3, 0.3, -0.3), ((2, 2, 8, 8), (30, 30, 50, 50))
    groups = [
        judged(*((0.0, merit + 0.01 * n, n) for merit, n in zip(merits, those, strict=True)), name=str(k))
        for k, those in enumerate(lengths)
    ]
    shaped, _, metrics = shape(groups, Shaping(length_residual=("taste",)), PARTS, Running())
    assert metrics["shaping/taste/length_slope"] == pytest.approx(0.01)
    mean_length = statistics.fmean([n for those in lengths for n in those])
    assert rewards_of(shaped) == pytest.approx([0.5 * (merit + 0.01 * mean_length) for merit in merits * 2])
    assert part_length_slope(shaped, "taste") == pytest.approx(0.0, abs=1e-12)
    verdict = shaped[0].rollouts[0].verdicts["taste"]
    assert verdict.value == pytest.approx(0.3 + 0.01 * mean_length)
    assert verdict.score == sigmoid(verdict.value or 0.0)


def test_what_makes_one_task_longer_and_better_is_no_slope_within_groups() -> None:
    groups = [judged((0.0, 1.0, 5), (0.0, 1.0, 7), name="a"), judged((0.0, 4.0, 50), (0.0, 4.0, 70), name="b")]
    assert part_length_slope(groups, "taste") == 0.0
    assert part_length_slope(groups, "taste", within="step") > 0.01


def test_behind_a_gate_the_length_is_taken_off_before_it_orders() -> None:
    parts: dict[str, recipe.Reward] = {
        "answer": recipe.VerifiedReward(),
        "taste": recipe.ModelReward(kind="model", path="x", gate="answer"),
    }
    group = judged((1.0, 2.0, 20), (1.0, 1.5, 10), (0.0, 9.0, 30), (0.0, 1.0, 5), parts=parts)
    (shaped,), _, metrics = shape([group], Shaping(length_residual=("taste",)), parts, Running())
    slope = metrics["shaping/taste/length_slope"]
    due = [
        right + sigmoid(value - slope * (n - 16.25)) / 2
        for right, value, n in ((1.0, 2.0, 20), (1.0, 1.5, 10), (0.0, 9.0, 30), (0.0, 1.0, 5))
    ]
    assert [r.reward for r in shaped.rollouts] == pytest.approx(due)
    assert due[1] > due[0], "the shorter one was not worth more for its length"


@pytest.mark.parametrize("whiten", ["none", "running"])
def test_the_penalty_of_length_stays_and_is_of_the_same_unit(whiten: str) -> None:
    penalty = OverlongPenalty(recipe.Overlong(buffer=1.0, penalty=2.0), max_tokens=40)
    groups = [replace(g, rollouts=tuple(penalty.apply(r) for r in g.rollouts)) for g in STEP]
    shaping = Shaping(length_residual=("taste",), whiten=whiten)  # pyright: ignore[reportArgumentType]
    shaped, running, _ = shape(groups, shaping, PARTS, Running())
    unit = running.std if whiten == "running" else 1.0
    for group in shaped:
        for rollout in group.rollouts:
            due = 2.0 * len(rollout.completion.token_ids) / 40
            assert (earned(rollout) or 0.0) - (rollout.reward or 0.0) == pytest.approx(due / unit)
            assert rollout.verdicts[OVERLONG].score == pytest.approx(due / 2)


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["shaping.length_residual=[tast]"],
            "'tast' is no part whose number can be cleared of length; did you mean 'ta",
        ),
        (
            ["shaping.length_residual=[answer]"],
            "'answer' is no part whose number can be cleared of length; there are: t",
        ),
        (["shaping.within=step"], "within goes with length_residual only"),
        (["shaping.whiten=batch", "advantage.kind=gdpo"], "leave out shaping.whiten and shaping.clip"),
        (["shaping.whiten=batch", "advantage.kind=max_likelihood"], "needs rewards from 0 on"),
        (["advantage.kind=max_likelihood"], "models' rewards without a gate (taste)"),
        (
            ["shaping.clip=1.0", "loss.positive_nll=0.1", "loss.aggregate=token"],
            "loss.positive_nll reads rewards as they",
        ),
        (["shaping.clip=0"], "greater than 0"),
    ],
)
def test_shaping_that_could_not_do_what_it_says_is_refused(overrides: list[str], told: str) -> None:
    base = ["model.path=x", "data.path=x", "steps=1", "rewards.answer.kind=verified"]
    with pytest.raises(SettingsError) as error:
        from_overrides("rl", [*base, "rewards.taste={kind: model, path: x}", *overrides])
    assert told in str(error.value)
