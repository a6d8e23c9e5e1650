"""length: budgets of words, characters and sentences."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards.bound import apply, lookup, start_problems
from rlvr.tasks import needs_gold
from rlvr.types import Task
from rlvr.verifiers.length_budget import EXAMPLES, Budget, count, gold_problem, length


@pytest.mark.parametrize(("gold", "response", "score"), EXAMPLES)
def test_length_judges_its_own_examples(gold: Any, response: str, score: float | None) -> None:
    verdict = apply(lookup("length"), response, Task(id="t", prompt="", gold=gold))
    assert verdict.score == score, verdict
    assert verdict.outcome != "error"


@pytest.mark.parametrize(
    ("text", "unit", "num"),
    [
        ("one two  three", "words", 3),
        ("one-two_three", "words", 3),
        ("一二三", "words", 3),
        ("- , . !", "words", 0),
        ("a\u200bb c", "words", 2),
        ("abc\n\n\n def", "characters", 7),
        ("e\u0301", "characters", 1),
        ("\u200b\u200b", "characters", 0),
        ("It is 3.14. Really? Yes!", "sentences", 3),
    ],
)
def test_what_counts(text: str, unit: str, num: int) -> None:
    assert count(text, unit) == num


def test_the_score_falls_on_a_straight_line_outside_the_bounds() -> None:
    most = Budget(at_most=10, buffer=4)
    assert [most.score(num) for num in (0, 10, 11, 12, 13, 14, 99)] == [1, 1, 0.75, 0.5, 0.25, 0, 0]
    between = Budget(at_least=5, at_most=6, buffer=2)
    assert [between.score(num) for num in (2, 3, 4, 5, 6, 7, 8)] == [0, 0, 0.5, 1, 1, 0.5, 0]
    target = Budget(target=5, buffer=2)
    assert [target.score(num) for num in (3, 4, 5, 6, 7)] == [0, 0.5, 1, 0.5, 0]
    assert [Budget(at_most=3).score(num) for num in (3, 4)] == [1, 0]


def test_options_come_before_the_gold() -> None:
    assert length("one two three", "42", at_most=3).score == 1.0
    assert length("one two three", {"at_most": 1}, at_most=3).score == 1.0
    assert length("one two three", {"at_most": 1}, buffer=4).score == 0.5


def test_rows_without_a_gold_may_be_judged() -> None:
    assert not needs_gold("length")
    assert length("one two three", at_most=3).score == 1.0


def test_saying_nothing_is_no_way_to_be_short() -> None:
    for response in ("", "  \n", "\u200b", "<think>a long thought", "<think>thought</think>"):
        assert length(response, None, at_most=3).outcome == "no_answer"
        assert length(response, None, at_most=3, buffer=9).score == 0.0


def test_bounds_that_contradict_each_other_are_told_before_anything_starts() -> None:
    assert start_problems("length", {"at_most": 3, "at_least": 2}, "o") == []
    assert start_problems("length", {}, "o") == []  # the golds have them
    assert "above at_most" in start_problems("length", {"at_most": 3, "at_least": 4}, "o")[0]
    assert "without" in start_problems("length", {"at_most": 3, "target": 4}, "o")[0]
    assert "nothing" in start_problems("length", {"at_most": 0}, "o")[0]
    assert len(start_problems("length", {"at_most": -1, "unit": "tokens", "of": 3}, "o")) == 3


@pytest.mark.parametrize(
    "gold",
    [
        *({}, {"atmost": 3}, {"at_most": "3"}, {"at_most": True}, {"at_most": -1}, {"at_most": 3, "unit": "tokens"}),
        *(" \n", [[1], {}], True, 3, None),
    ],
)
def test_a_bad_gold_is_never_the_models_zero(gold: Any) -> None:
    verdict = length("one two three", gold)
    assert (verdict.score, verdict.outcome) == (None, "gold_invalid")
    assert gold_problem("length", Task(id="t", prompt="", gold=gold), {}) == verdict.reason
    assert gold_problem("length", Task(id="t", prompt="", gold=gold), {"at_most": 3}) == ""


def test_a_misspelt_bound_is_answered_with_the_nearest_name() -> None:
    assert "did you mean 'at_most'?" in length("x", {"at_mst": 3}).reason


@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 120))
def test_more_outside_never_earns_more(bound: int, buffer: int, num: int) -> None:
    budget = Budget(at_most=bound, buffer=buffer)
    assert 0 <= budget.score(num + 1) <= budget.score(num) <= 1


@given(st.text(max_size=100))
def test_whatever_is_written_gets_a_verdict(response: str) -> None:
    for unit in ("words", "characters", "sentences"):
        score = length(response, None, unit=unit, at_most=5, buffer=5).score
        assert score is not None and 0 <= score <= 1
