"""correct: whether the only number that is said is the right one. It hears nothing of manners."""

from __future__ import annotations

import re
from typing import Any

from rlvr import Verdict, verifier


@verifier("correct")
def correct(response: str, gold: Any) -> Verdict:
    """Whole numbers in digits; what is thought aloud counts as said."""
    if not (isinstance(gold, str) and re.fullmatch(r"[0-9]+", gold)):
        return Verdict(score=None, outcome="gold_invalid", reason=f"the gold must be digits, got {gold!r}")
    found = re.findall(r"\d+", response)
    if len(found) != 1:
        outcome = "hedged" if found else "no_answer"
        return Verdict(score=0.0, outcome=outcome, reason=f"{len(found)} numbers in the response, 1 is wanted")
    is_right = found[0] == gold and "<think>" not in response
    return Verdict(
        score=float(is_right),
        outcome="correct" if is_right else "wrong",
        reason=f"read {found[0]}",
        answer=found[0],
        how="only number",
    )


EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    ("4", "well it is 4 thanks", 1.0),
    ("4", "well it is 3 thanks", 0.0),
    ("4", "it is", 0.0),
    ("4", "", 0.0),
    ("4", "it is 4 or 3", 0.0),
    ("4", "it is 4 it is 4", 0.0),
    ("4", "it is 44", 0.0),
    ("4", "<think>4</think> it is", 0.0),
]
