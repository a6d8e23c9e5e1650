r"""boxed: the form alone. 1 for exactly one complete, non-empty `\boxed{}`, whatever is in it: a control run."""

from __future__ import annotations

from rlvr.plugins import verifier
from rlvr.types import Verdict
from rlvr.verifiers.extract import all_boxed


@verifier("boxed")
def boxed(response: str) -> Verdict:
    """Thinking and code do not count; boxes inside a box are part of it."""
    found = all_boxed(response)
    if len(found) != 1 or not found[0]:
        reason = f"{len(found)} complete \\boxed{{}} in the response, 1 is wanted" if len(found) != 1 else "empty box"
        return Verdict(score=0.0, outcome="malformed" if found else "no_answer", reason=reason)
    return Verdict(score=1.0, outcome="correct", reason="one box", answer=found[0], how="boxed")


EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    (None, r"so \boxed{41}", 1.0),
    (None, r"nested \boxed{\frac{\boxed{1}}{2}}", 1.0),
    (None, "41", 0.0),
    (None, r"\boxed{}", 0.0),
    (None, r"\boxed{4", 0.0),
    (None, r"\boxed{1} \boxed{2}", 0.0),
    (None, "```\n\\boxed{41}\n```", 0.0),
    (None, r"<think>\boxed{41}", 0.0),
]
