"""What is derived from a gold once, and what a stage says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from rlvr.types import Outcome
from rlvr.verifiers.answer_text import short
from rlvr.verifiers.math_items import shape
from rlvr.verifiers.math_spelling import bare_words
from rlvr.verifiers.math_text import HEDGE, Quantity, assigned, is_equation, read_quantity


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a stage decided. Opinion("wrong", "number", "'5' is not '4'")"""

    outcome: Outcome
    stage: str
    reason: str


def equality(is_same: bool, stage: str, gold: str, answer: str) -> Opinion:
    """What a stage says that has compared the two."""
    return Opinion(
        "correct" if is_same else "wrong", stage, f"{short(answer)} {'equals' if is_same else 'is not'} {short(gold)}"
    )


# --- the gold


@dataclass(frozen=True, slots=True)
class Gold:
    """What is derived from a gold once: Gold("x = 5", "x", "5", Quantity(Fraction(5)), ...)"""

    text: str
    name: str
    """The x of `x = 5`; "" where nothing is named."""
    value: str
    quantity: Quantity | None
    words: str
    """Without any \\text."""
    choice: str
    """The letter of a choice, A to J; "" where the gold is none."""
    is_words: bool
    is_one: bool
    """A single value: several of them, or a relation, cannot be equal to it."""
    is_evaluated: bool
    """No sum, integral or limit is left to be worked out."""


_WORDS = re.compile(r"[^\W\d_]{2,}[^\W_]*(?:[ ,'\-]{1,2}[^\W_]+)*")
_SHORT_WORDS = frozenset(("yes", "no", "odd", "red", "all", "one", "two", "six", "ten", "day", "sum"))
_CHOICE = re.compile(r"\(?([A-J])\)?")
RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|in|to|approx|rightarrow|sim|equiv|subset)(?![a-zA-Z])")
UNEVALUATED = re.compile(
    r"\\(?:sum|i{0,2}int|oint|prod|lim|limsup|liminf|min|max|gcd|lcm|sup|inf|det|deg|operatorname)(?![a-zA-Z])"
    r"|\\text ?\{ ?(?:lcm|gcd|min|max|det|rank|tr|deg|Var|Cov)\} ?[(\[{]"
    r"|\\frac ?\{ ?(?:d|\\partial|\\text ?\{ ?d ?\})(?: ?\^[^}]{1,8}\}?)? ?[a-z]? ?\}?"
    r" ?\{ ?(?:d|\\partial|\\text ?\{ ?d ?\}) ?[a-z]"
    r"|\\[bp]?mod(?![a-zA-Z])|\\begin ?\{vmatrix\}"
)


@lru_cache(4096)
def read_gold(text: str) -> Gold:
    """`text` is normalised."""
    name, value = assigned(text)
    words = bare_words(text)
    choice = _CHOICE.fullmatch(words)
    quantity = read_quantity(value)
    is_one = quantity is not None or choice is not None
    if not is_one:
        is_one = (
            shape(text).kind == "one" and not RELATION.search(text) and not is_equation(value) and "\\pm" not in text
        )
        is_one = (
            is_one
            and not HEDGE.search(text)
            and "\\cup" not in text
            and "\\mathbb" not in text
            and "\\emptyset" not in text
        )
    return Gold(
        text=text,
        name=name,
        value=value,
        quantity=quantity,
        words=words,
        choice=choice.group(1) if choice else "",
        is_words=quantity is None and is_words(words),
        is_one=is_one,
        is_evaluated=not UNEVALUATED.search(text),
    )


def is_words(text: str) -> bool:
    """ABC and yes are words, ab is a product."""
    if _WORDS.fullmatch(text) is None or has_maths(text):
        return False
    return any(_is_word(part, "-" in text) for part in _BETWEEN.split(text))


_BETWEEN = re.compile(r"[ ,'\-]{1,2}")


def _is_word(run: str, is_joined: bool) -> bool:
    """ad-bc and AB-CD are differences, abcd and wxyz products."""
    if not run.islower():
        return not is_joined or len(run) > 3
    steps = [ord(right) - ord(left) for left, right in pairwise(run)]
    return run in _SHORT_WORDS or (len(run) > 3 and not all(0 < step < 3 for step in steps))


def has_maths(words: str) -> bool:
    """Whether a command or a number stands in it."""
    return "\\" in words or read_quantity(words) is not None
