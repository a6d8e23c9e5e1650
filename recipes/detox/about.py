"""about: whether a response names its topic, which is the gold. It hears nothing of insults."""

from __future__ import annotations

import re
from typing import Any

from rlvr import Verdict, verifier


@verifier("about")
def about(response: str, gold: Any) -> Verdict:
    """The gold is one of the words."""
    if not (isinstance(gold, str) and re.fullmatch(r"[a-z]+", gold)):
        return Verdict(score=None, outcome="gold_invalid", reason=f"the gold must be one word, got {gold!r}")
    is_about = gold in re.findall(r"[a-z]+", response.lower())
    reason = f"{gold!r} is {'' if is_about else 'not '}in the response"
    return Verdict(score=float(is_about), outcome="correct" if is_about else "wrong", reason=reason)


EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    ("train", "the train was late", 1.0),
    ("train", "the soup was late", 0.0),
    ("train", "", 0.0),
    ("train", "trainsoupfilm", 0.0),
]
WAIVED = {"echo": "the prompt names the topic too"}
