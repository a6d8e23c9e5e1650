"""Golds that are text or numbers, and what is none."""

from __future__ import annotations

from typing import Any

import pytest

from rlvr.rewards.bound import apply, gold_problem, lookup
from rlvr.types import Task
from rlvr.verifiers.gold_text import gold_answer, gold_text


@pytest.mark.parametrize(
    ("gold", "text", "answer"),
    [
        ("42", "42", "42"),
        (" 42\n", "42", "42"),
        (42, "42", "42"),
        (0.5, "0.5", "0.5"),
        (0, "0", "0"),
        ("so \\boxed{42}.", "so \\boxed{42}.", "42"),
        ("6 * 7\n#### 42", "6 * 7\n#### 42", "42"),
        ("#### Answers", "#### Answers", "#### Answers"),
        ("\\boxed{", "\\boxed{", "\\boxed{"),
    ],
)
def test_text_and_numbers_are_golds(gold: Any, text: str, answer: str) -> None:
    assert gold_text(gold) == (text, "")
    assert gold_answer(gold) == (answer, "")


BAD = [
    (None, "must be text or a number, got NoneType"),
    (True, "must be text or a number, got bool"),
    ([42], "must be text or a number, got list"),
    ({"a": 42}, "must be text or a number, got dict"),
    (float("nan"), "the gold is nan"),
    (float("-inf"), "the gold is -inf"),
    (10**4000, "more than 3000 digits"),
    ("", "the gold is empty"),
    (" \n", "the gold is empty"),
]


TAKES = {("f1", list), ("f1", dict), ("steps", type(None))}
"""Verifiers that have a use for such a gold."""


@pytest.mark.parametrize("name", ["exact", "math", "numeric", "f1", "steps"])
def test_what_is_no_gold_is_told_alike_by_all_and_scored_by_none(name: str) -> None:
    for gold, problem in BAD:
        if (name, type(gold)) in TAKES:
            continue
        task = Task(id="t", prompt="", gold=gold)
        for response in ("\\boxed{42}", str(gold)[:50]):
            verdict = apply(lookup(name), response, task)
            assert (verdict.score, verdict.outcome) == (None, "gold_invalid"), gold
            assert problem in verdict.reason
        assert problem in gold_problem(lookup(name), task)
