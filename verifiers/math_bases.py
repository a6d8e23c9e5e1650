"""Numbers written in a base, ratios, times of day."""

from __future__ import annotations

import re
from fractions import Fraction

from rlvr.verifiers.answer_text import short
from rlvr.verifiers.math_gold import Gold, Opinion, equality
from rlvr.verifiers.math_spelling import bare_words
from rlvr.verifiers.math_text import assigned, read_quantity

# --- bases and ratios


BASE = re.compile(
    r"\(?([0-9A-Za-z]{1,200})\)? ?_ ?(?:\{ ?(?:\\text ?\{ ?)?(\d{1,2}|[a-z]{3,7})(?: ?\})? ?\}|(\d{1,2}))"
)
_BASE_WORDS = {
    word: value for value, word in enumerate("two three four five six seven eight nine ten eleven twelve".split(), 2)
} | {"sixteen": 16}


def by_base(g: str, a: str) -> Opinion | None:
    """1011_2 is 11."""
    if "_" not in g and "_" not in a:
        return None
    gold, answer = BASE.fullmatch(assigned(g)[1]), BASE.fullmatch(assigned(a)[1])
    if not gold and not answer:
        return None
    if (gold and not gold.group(1)[0].isdigit() and len(gold.group(1)) == 1) or (
        answer and not answer.group(1)[0].isdigit() and len(answer.group(1)) == 1
    ):  # a_1 is a name
        return None
    left, right = _based(g, gold), _based(a, answer)
    if gold and not answer and assigned(a)[1] == gold.group(1):  # the question names the base, its digits are enough
        right = left
    if left is None or right is None:
        return None
    return equality(left == right, "shape", g, a)


def _based(text: str, match: re.Match[str] | None) -> Fraction | None:
    if match is None:
        number = read_quantity(text)
        return number.value if number else None
    written = match.group(3) or match.group(2)
    base = int(written) if written.isdigit() else _BASE_WORDS.get(written, 0)
    try:
        return Fraction(int(match.group(1), base)) if base > 1 else None
    except ValueError:  # base beyond 36, or a digit that the base has not
        return None


_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?(?: ?([ap])\.? ?m\.?)?", re.IGNORECASE)
_NOON = re.compile(r"[ap]\.? ?m\b", re.IGNORECASE)


def _time(text: str) -> tuple[int, int, int, str] | None:
    """(15, 30, 0, "p") of `3:30 p.m.`, (3, 30, 0, "") of `3:30`; None for what has no such hour, and for ratios."""
    match = _TIME.fullmatch(bare_words(text))
    if match is None:
        return None
    hour, minute, second = int(match.group(1)), int(match.group(2)), int(match.group(3) or 0)
    half = (match.group(4) or "").casefold()
    if hour > (12 if half else 24) or minute > 59 or second > 59:
        return None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    return hour, minute, second, half


def _same_time(gold: tuple[int, int, int, str], answer: tuple[int, int, int, str]) -> bool:
    """Who leaves out a.m. or p.m. may mean either."""
    if bool(gold[3]) != bool(answer[3]):
        return gold[1:3] == answer[1:3] and (gold[0] == answer[0] or (gold[0] - answer[0]) % 12 == 0)
    return gold[:3] == answer[:3]


_CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?(?: ?(?:\\text ?\{)? ?[aApP]\.? ?[mM]\.? ?\}?)?")


def by_ratio(gold: Gold, answer: str) -> Opinion | None:
    """2:4 is 1:2, but 10:00 is no 20:00."""
    if (time := _time(gold.text)) is not None and (":" in answer or _NOON.search(answer)):
        other = _time(answer)
        if other is None and ratio(answer) is None:
            return None
        return equality(other is not None and _same_time(time, other), "shape", gold.text, answer)
    if gold.quantity is not None and gold.quantity.value.denominator == 1 and ratio(answer) is not None:
        return Opinion("wrong", "shape", f"a ratio, the gold is {short(gold.text)}")
    left = ratio(gold.text)
    right = ratio(answer) if left is not None else None
    if left is None or right is None or gold.text.startswith("\\{"):
        return None
    if len(left) != len(right):
        return Opinion("wrong", "shape", f"a ratio of {len(right)} parts, the gold has {len(left)}")
    if _CLOCK.fullmatch(gold.text) and any(part.startswith("0") or part == "" for part in gold.text.split(":")[1:]):
        return equality(left == right, "shape", gold.text, answer)
    proportional = all(a * right[0] == b * left[0] for a, b in zip(left, right, strict=True))
    return equality(proportional and (left[0] == 0) == (right[0] == 0), "shape", gold.text, answer)


def ratio(text: str) -> list[Fraction] | None:
    """The parts of `2:3`, `2 \\text{ to } 3` or `a:b = 2:3`; None for anything else."""
    name, sign, value = text.rpartition("=")  # a:b = 7:32
    text = value.strip() if sign and ":" in name else assigned(text)[1]
    if ":" not in text and " to " not in bare_words(text):
        return None
    parts = re.split(r" ?: ?| to ", bare_words(text))
    numbers = [read_quantity(part.strip("() ")) for part in parts]
    values = [number.value for number in numbers if number is not None]
    return values if len(values) == len(parts) > 1 else None
