"""Gates: a part that only orders completions which another part takes for equal."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scorer_cases import make_group, save_scorer

from rlvr import chat, recipe
from rlvr.errors import SettingsError
from rlvr.odds import sigmoid
from rlvr.rewards.base import RandomReward, Rewards, combine, gate_step, group_rewards
from rlvr.rewards.model import ModelReward, Writer
from rlvr.settings import from_overrides
from rlvr.types import Verdict

WRONG = Verdict(score=0.0, outcome="wrong")
RIGHT = Verdict(score=1.0, outcome="correct")
FAILED = Verdict(score=None, outcome="error")
SILENT = Verdict(score=None, outcome="not_applicable")


def scored(score: float) -> Verdict:
    return Verdict(score=score, outcome="partial")


def valued(value: float) -> Verdict:
    return Verdict(score=sigmoid(value), outcome="partial", value=value)


def parts(answer: float = 1.0, **behind: float) -> dict[str, recipe.Reward]:
    return {
        "answer": recipe.VerifiedReward(weight=answer),
        **{
            name: recipe.ModelReward(kind="model", path="x", weight=weight, gate="answer")
            for name, weight in behind.items()
        },
    }


def rewards_of(group: list[dict[str, Verdict]], given: dict[str, recipe.Reward]) -> list[float]:
    rewards = [reward for reward in group_rewards(group, given) if reward is not None]
    assert len(rewards) == len(group)
    return rewards


verdicts = st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))


@given(
    group=st.lists(verdicts, min_size=2, max_size=8),
    answer=st.floats(1e-2, 1e2),
    share=st.floats(0, 1),
    signs=st.tuples(st.sampled_from([-1, 1]), st.sampled_from([-1, 1])),
)
def test_a_better_verdict_of_the_gate_is_always_a_larger_reward(
    group: list[tuple[float, float, float]], answer: float, share: float, signs: tuple[int, int]
) -> None:
    given = parts(answer, taste=signs[0] * share, tone=signs[1] * (1 - share))
    told = [{"answer": scored(a), "taste": valued(b), "tone": valued(c)} for a, b, c in group]
    rewards = rewards_of(told, given)
    for (score, *_), reward in zip(group, rewards, strict=True):
        for (other, *_), less in zip(group, rewards, strict=True):
            if score > other:
                assert reward > less


@given(group=st.lists(st.tuples(st.booleans(), st.floats(-5, 5)), min_size=2, max_size=8))
def test_completions_of_equal_outcome_are_ordered_by_the_part_behind_the_gate(group: list[tuple[bool, float]]) -> None:
    told = [{"answer": RIGHT if right else WRONG, "taste": valued(value)} for right, value in group]
    rewards = rewards_of(told, parts(taste=1.0))
    for (right, value), reward in zip(group, rewards, strict=True):
        assert reward == pytest.approx(right + sigmoid(value) / 2)
        for (other, less), smaller in zip(group, rewards, strict=True):
            if right == other and value > less + 1e-6:
                assert reward > smaller


def test_the_step_is_the_smallest_difference_between_siblings() -> None:
    assert gate_step([0.0, 1.0, 1.0, 0.0], 1.0) == 1.0
    assert gate_step([0.0, 0.75, 1.0, None], 2.0) == 0.5
    assert gate_step([0.5, 0.5], 3.0) == 3.0  # equal: the gate gives no difference to keep below
    assert gate_step([None], -3.0) == 3.0
    assert gate_step([0.5, 0.5 + 1e-16, 0.5 + 1e-15, 1.0], 1.0) == pytest.approx(0.5)  # rounding is no difference
    assert gate_step([0.0, 7.0], 1.0) == 1.0


def test_a_gate_that_says_nothing_lets_the_part_speak_alone() -> None:
    given = parts(taste=0.5)
    told = [{"answer": SILENT, "taste": valued(0.0)}, {"answer": SILENT, "taste": valued(2.0)}]
    assert rewards_of(told, given) == [0.125, pytest.approx(sigmoid(2.0) / 4)]


def test_a_gate_that_failed_makes_the_rollout_unjudged_and_changes_no_sibling() -> None:
    told = [{"answer": verdict, "taste": valued(1.0)} for verdict in (FAILED, RIGHT, WRONG)]
    without, right, wrong = group_rewards(told, parts(taste=1.0))
    assert (without, right, wrong) == (None, pytest.approx(1 + sigmoid(1.0) / 2), pytest.approx(sigmoid(1.0) / 2))


def test_what_the_engine_took_back_sets_no_step() -> None:
    told = [{"answer": scored(s), "taste": valued(1e3)} for s in (0.0, 0.5, 0.75)]
    assert group_rewards(told, parts(taste=1.0), [True, True, False])[:2] == [0.25, 0.75]


def test_a_part_without_a_gate_weighs_its_value() -> None:
    parts = {"taste": recipe.ModelReward(kind="model", path="x", weight=0.5)}
    assert combine({"taste": valued(-3.0)}, parts) == -1.5


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["rewards.answer.kind=verified", "rewards.taste.gate=anwser"],
            "rewards.taste.gate: no other part 'anwser'; did",
        ),
        (["rewards.taste.gate=taste"], "rewards.taste.gate: no other part 'taste'; there are: answer, tone"),
        (["rewards.taste.gate=tone"], "rewards.taste.gate: tone is of kind model, by which hardly two"),
        (["rewards.answer.weight=0", "rewards.taste.gate=answer"], "answer is of weight 0"),
        (
            ["rewards.taste.gate=answer", "rewards.form.gate=taste", "rewards.form.kind=random"],
            "rewards.form.gate: taste is of kind model",
        ),
        (
            ["rewards.form.gate=answer", "rewards.form.kind=random", "rewards.taste.gate=form"],
            "rewards.taste.gate: form is behind a gate itself",
        ),
        (
            ["rewards.taste.gate=answer", "rewards.tone.gate=answer", "rewards.tone.weight=-0.5"],
            "the weights of the parts behind gate 'answer' must add up to 1 at most, got 1.5",
        ),
        (["rewards.taste.gate=answer", "advantage.kind=gdpo"], "leave out rewards.NAME.gate"),
    ],
)
def test_gates_that_could_not_hold_are_refused(overrides: list[str], told: str) -> None:
    given = [
        "rewards.answer.kind=verified",
        "rewards.taste={kind: model, path: x}",
        "rewards.tone={kind: model, path: y}",
    ]
    base = ["model.path=x", "data.path=x", "steps=1"]
    with pytest.raises(SettingsError) as error:
        from_overrides("rl", [*base, *given, *overrides])
    assert told in str(error.value)


def test_every_kind_of_part_may_stand_behind_a_gate(tmp_path: Path) -> None:
    taste = recipe.ModelReward(kind="model", path=str(save_scorer(tmp_path / "scorer")), weight=0.5, gate="answer")
    parts: dict[str, recipe.Reward] = {
        "answer": recipe.RandomReward(kind="random", p=0.5),
        "luck": recipe.RandomReward(kind="random", p=0.5, weight=0.5, gate="answer"),
        "taste": taste,
    }
    source = ModelReward("taste", taste, Writer(chat.byte_tokenizer(), frozenset({1})), (), lambda text: None)
    sources = {"answer": RandomReward("answer", 0.5, 0), "luck": RandomReward("luck", 0.5, 0), "taste": source}
    rewards = Rewards(parts, sources, None, threads=1)
    (group,) = rewards.score([make_group("1", "2", "3", "4", "5", "6")])
    for rollout in group.rollouts:
        told = {name: verdict.score or 0.0 for name, verdict in rollout.verdicts.items()}
        assert rollout.reward == pytest.approx(told["answer"] + told["luck"] / 4 + told["taste"] / 4)
    assert len({r.reward for r in group.rollouts}) == 6
    rewards.close()
