"""length: what the response says has as many words, characters or sentences as asked.

Gold: bounds, such as {"at_most": 50}, {"at_least": 20, "at_most": 50} or {"target": 30}, each with "unit" and "buffer"
where they differ from the options; not read where the options have bounds. What was thought does not count.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from rlvr.errors import near
from rlvr.plugins import verifier
from rlvr.types import Outcome, Task, Verdict
from rlvr.verifiers.ifeval_text import said, sentences, words

Unit = Literal["words", "characters", "sentences"]
_Count = Annotated[int, Field(ge=0)]
_BOUNDS = ("at_most", "at_least", "target")


@verifier("length")
def length(
    response: str,
    gold: Any = None,
    *,
    unit: Unit = "words",
    at_most: _Count | None = None,
    at_least: _Count | None = None,
    target: _Count | None = None,
    buffer: _Count = 0,
) -> Verdict:
    """1 within the bounds, falling to 0 on a straight line over the next `buffer` units outside them.

    A response that says nothing earns 0 whatever the bounds. Hyphens and underscores join no words, blanks in a row are
    one character, zero-width signs none. Where an option gives a bound, the gold is not looked at.
    """
    budget = Budget(unit, at_most, at_least, target, buffer)
    try:
        budget = _checked(budget if budget.has_bounds else _from_gold(gold, budget))
    except ValueError as error:
        return Verdict(score=None, outcome="gold_invalid", reason=str(error))
    text = said(response)
    if text is None or not _visible(text):
        return Verdict(score=0.0, outcome="no_answer", reason="the response says nothing")
    num = count(text, budget.unit)
    score = budget.score(num)
    outcome: Outcome = "correct" if score == 1 else "partial" if score else "wrong"
    reason = f"{num} {budget.unit}, {budget.told()}"
    return Verdict(score=score, outcome=outcome, reason=reason, stage="count", checks={"count": num})


@dataclass(frozen=True, slots=True)
class Budget:
    """At most 50 words, nothing earned from 60 on: Budget("words", at_most=50, buffer=10)"""

    unit: str = "words"
    at_most: int | None = None
    at_least: int | None = None
    target: int | None = None
    buffer: int = 0

    @property
    def has_bounds(self) -> bool:
        return any(getattr(self, name) is not None for name in _BOUNDS)

    def score(self, num: int) -> float:
        low, high = (self.at_least, self.at_most) if self.target is None else (self.target, self.target)
        outside = max(low - num if low is not None else 0, num - high if high is not None else 0, 0)
        return max(0.0, 1 - outside / self.buffer) if self.buffer else float(outside == 0)

    def told(self) -> str:
        bounds = [
            f"{name.replace('_', ' ')} {getattr(self, name)}" for name in _BOUNDS if getattr(self, name) is not None
        ]
        return " and ".join(bounds) + (f" (0 from {self.buffer} outside on)" if self.buffer else "")


def start_problem(options: Mapping[str, Any]) -> str:
    """Why these bounds cannot be met or mean two things; "" where they are fine."""
    try:
        _checked(Budget(**options))
    except ValueError as error:
        return str(error)
    return ""


def gold_problem(verifier_name: str, task: Task, options: Mapping[str, Any]) -> str:
    """Why the gold's bounds are none; "" where they are fine, or where the options have them."""
    budget = Budget(**options)
    if budget.has_bounds:
        return ""
    try:
        _checked(_from_gold(task.gold, budget))
    except ValueError as error:
        return str(error)
    return ""


def _checked(budget: Budget) -> Budget:
    """ValueError where the bounds contradict each other."""
    if budget.target is not None and (budget.at_most is not None or budget.at_least is not None):
        raise ValueError("target goes without at_most and at_least")
    if budget.at_most is not None and budget.at_least is not None and budget.at_least > budget.at_most:
        raise ValueError(f"at_least is {budget.at_least}, above at_most, {budget.at_most}")
    if budget.at_most == 0 or budget.target == 0:
        raise ValueError("a bound of 0 asks for a response that says nothing; 1 is the least")
    return budget


def _from_gold(gold: Any, options: Budget) -> Budget:
    """ValueError where the gold has no bounds, or other things."""
    if not isinstance(gold, Mapping):
        raise ValueError(
            'no bounds: neither an option nor the gold says at_most, at_least or target, such as {"at_most": 50}'
        )
    known = (*_BOUNDS, "unit", "buffer")
    for name, value in gold.items():
        if name not in known:
            raise ValueError(f"the gold's {name!r} is no bound; {near(str(name), known)}known: {', '.join(known)}")
        if name == "unit" and value not in get_args(Unit):
            raise ValueError(f"the gold's unit must be one of {', '.join(get_args(Unit))}, got {value!r}")
        if (
            name != "unit"
            and value is not None
            and (isinstance(value, bool) or not isinstance(value, int) or value < 0)
        ):
            raise ValueError(f"the gold's {name} must be a whole number of at least 0, got {value!r}")
    given = {name: value for name, value in gold.items() if value is not None}
    budget = Budget(**{"unit": options.unit, "buffer": options.buffer} | given)
    if not budget.has_bounds:
        raise ValueError("the gold has none of at_most, at_least and target")
    return budget


def count(text: str, unit: str) -> int:
    """Words, characters or sentences of a text."""
    if unit == "words":
        return len(words(_visible(text).replace("_", " ")))
    if unit == "sentences":
        return len(sentences(_visible(text)))
    return len(_visible(text))


def _visible(text: str) -> str:
    """What is seen: composed, blanks in a row as one, without format and control characters."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    text = " ".join(text.split())
    return (
        "".join(sign for sign in text if unicodedata.category(sign) not in ("Cf", "Cc"))
        if not text.isprintable()
        else text
    )


WAIVED = {"answers": "it judges the length alone"}
EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    ({"at_most": 3}, "Three short words.", 1.0),
    ({"at_least": 2, "at_most": 4}, "Three short words.", 1.0),
    ({"target": 3}, "<think>One two three four.</think>Three short words.", 1.0),
    ({"at_most": 6, "unit": "characters"}, "abc   def", 0.0),
    ({"at_most": 7, "unit": "characters"}, "abc   def", 1.0),
    ({"at_least": 2, "unit": "sentences"}, "It is 3.14. Dr. Who knows.", 1.0),
    ({"at_most": 2, "buffer": 4}, "Three short words.", 0.75),
    ({"at_most": 2}, "Three short words.", 0.0),
    ({"at_least": 4}, "Three short words.", 0.0),
    ({"at_most": 3}, "", 0.0),
    ({"at_most": 3}, "<think>hm", 0.0),
    ({"at_most": 3}, "\u200b", 0.0),
    ({"at_most": 2}, "joined-by-hyphens_or_underscores", 0.0),
    ({"at_least": 3}, ". . . , , , -", 0.0),
    ({"at_least": 3, "unit": "characters"}, "a\u200b\u200b\u200b\n\n\n", 0.0),
    ({"at_least": 9, "at_most": 3}, "Three short words.", None),
    ({"atmost": 3}, "Three short words.", None),
    ("42", "Three short words.", None),
    (None, "Three short words.", None),
]
