"""exact: the answer, or else all that the response says, is the gold, character by character."""

from __future__ import annotations

from typing import Any

from rlvr.plugins import verifier
from rlvr.types import Task, Verdict
from rlvr.verifiers.answer_text import after_thinking, short
from rlvr.verifiers.extract import extract
from rlvr.verifiers.gold_text import gold_text


@verifier("exact", version="2")
def exact(response: str, gold: Any) -> Verdict:
    """Blanks around either side do not count; numbers and words are compared as they are written."""
    want, problem = gold_text(gold)
    if problem:
        return Verdict(score=None, outcome="gold_invalid", reason=problem)
    found = extract(response)
    answer, how = (found.answer, found.how) if found else ((after_thinking(response) or "").strip(), "whole")
    if not answer:
        return Verdict(score=0.0, outcome="no_answer", reason="the response says nothing")
    right = answer == want
    return Verdict(
        score=float(right),
        outcome="correct" if right else "wrong",
        reason=f"{short(answer)} is {'' if right else 'not '}{short(want)}",
        answer=answer,
        how=how,
        stage="exact",
    )


def gold_problem(verifier_name: str, task: Task) -> str:
    """Why the gold is no text and no number; "" where it is one."""
    return gold_text(task.gold)[1]


EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    ("42", "42\n", 1.0),
    ("42", "<think>41?</think>42", 1.0),
    (42, r"so \boxed{42}", 1.0),
    ("42", "42.0", 0.0),
    ("yes", "The answer is no.", 0.0),
    ("42", "", 0.0),
    ("42", "41 42 43", 0.0),
    ("42", r"<think>42</think> \boxed{41}", 0.0),
    ("42", "<think>42", 0.0),
    (float("nan"), "nan", None),
    (["42"], "['42']", None),
    (True, "True", None),
    (" ", "42", None),
]
