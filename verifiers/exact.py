"""exact: the answer, or else the whole response, is the gold, character by character."""

from __future__ import annotations

from typing import Any

from rlvr.plugins import verifier
from rlvr.types import Verdict
from rlvr.verifiers.extract import extract


@verifier("exact")
def exact(response: str, gold: Any) -> Verdict:
    """Blanks around either side do not count; numbers and words are compared as they are written."""
    want = "" if gold is None else str(gold).strip()
    if not want:
        return Verdict(score=None, outcome="gold_invalid", reason="the gold is empty")
    found = extract(response)
    answer, how = (found.answer, found.how) if found else (response.strip(), "whole")
    if not answer:
        return Verdict(score=0.0, outcome="no_answer", reason="the response is empty")
    right = answer == want
    return Verdict(
        score=float(right),
        outcome="correct" if right else "wrong",
        reason=f"{_short(answer)} is {'' if right else 'not '}{_short(want)}",
        answer=answer,
        how=how,
        stage="exact",
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    ("42", "42\n", 1.0),
    (42, r"so \boxed{42}", 1.0),
    ("42", "42.0", 0.0),
    ("yes", "The answer is no.", 0.0),
    ("42", "", 0.0),
    ("42", "41 42 43", 0.0),
    ("42", r"<think>42</think> \boxed{41}", 0.0),
]
