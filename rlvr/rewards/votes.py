"""Answers that vote: which of them are one, and which of them most of the siblings gave."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?|[+-]?[0-9]+/[0-9]+")
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_SIMPLE_FRACTION = re.compile(r"([+-]?)\\frac\{([0-9]+)\}\{([0-9]+)\}")
_LAYOUT = re.compile(r"\s+|\\[,;:!]|\\(?:left|right)(?![A-Za-z])")
_MAX_DIGITS = 1000  # longer ones stay text: exact arithmetic on them would cost more than the vote is worth


def canonical(answer: str) -> Fraction | str:
    r"""The form under which answers vote together: "0.50", "1/2" and "\frac{1}{2}" are one rational, else tidied LaTeX.

    Letters are compared without case, except in commands, where \Pi is not \pi.
    """
    text = answer.strip().removesuffix(".").strip("$ ")
    text = _LAYOUT.sub("", text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac"))
    if len(text) <= _MAX_DIGITS:
        fraction = _SIMPLE_FRACTION.fullmatch(text)
        plain = "{}{}/{}".format(*fraction.groups()) if fraction else text
        if _THOUSANDS.fullmatch(plain):
            plain = plain.replace(",", "")
        if _NUMBER.fullmatch(plain) and not re.search(r"/0+$", plain):
            return Fraction(plain)
    return re.sub(r"\\[A-Za-z]+|[A-Z]", lambda found: found[0] if found[0][0] == "\\" else found[0].lower(), text)


def winners(answers_G: Sequence[str | None]) -> tuple[frozenset[Fraction | str], int]:
    """(the answers, in their canonical form, that most siblings gave; how many gave each): several where they tie.

    None does not vote; no winner and 0 where nobody does. winners(["0.5", "1/2", "3", None]) is ({1/2}, 2).
    """
    votes = Counter(canonical(answer) for answer in answers_G if answer is not None)
    most = max(votes.values(), default=0)
    return frozenset(answer for answer, count in votes.items() if count == most), most
