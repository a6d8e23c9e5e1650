"""numeric: the answer is the gold's number, exactly or within a tolerance, in the same or a convertible unit.

Gold: a number, or text that writes one: 3.5, "7/2", "1.2e3", "45%", "5 km/h". Formulas (2*3, sqrt(2)) are no numbers:
`math` evaluates them. A word that is no unit we know ("12 apples") is a label and does not count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import Field

from rlvr.plugins import verifier
from rlvr.types import Outcome, Task, Verdict
from rlvr.verifiers.answer_text import WRAPPED, short
from rlvr.verifiers.extract import extract
from rlvr.verifiers.gold_text import gold_answer
from rlvr.verifiers.math_spelling import LONGEST, normalised
from rlvr.verifiers.math_text import Quantity, read_quantity, same_number
from rlvr.verifiers.numeric_units import Unit, read_unit

_Tolerance = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class _Number:
    quantity: Quantity
    """Of a percentage the hundredth part."""
    is_percent: bool
    unit_text: str
    """As written, "" where there is none; a label too."""
    unit: Unit | None


@verifier("numeric")
def numeric(
    response: str,
    gold: Any,
    *,
    tolerance: _Tolerance = 0.0,
    absolute: _Tolerance = 0.0,
    percent: Literal["as_written", "either"] = "as_written",
    units: Literal["convert", "required", "ignore"] = "convert",
) -> Verdict:
    """Right where |answer - gold| is at most the larger of tolerance * |gold| and absolute; with both 0, where equal.

    Decimals of 10 or more digits count as rounded. percent: as_written reads 45% as 0.45; either also takes 45 for 45%
    and the reverse. units: convert (a side without a unit has the other's), required (the answer must name one where
    the gold does), ignore.
    """
    text, problem = gold_answer(gold)
    want = None if problem else _read(text)
    if want is None:
        return Verdict(score=None, outcome="gold_invalid", reason=problem or f"the gold {short(text)} is not a number")
    found = extract(response)
    if found is None:
        return Verdict(score=0.0, outcome="no_answer", reason="the response commits to no answer")
    outcome, reason = _judge(want, found.answer, tolerance, absolute, percent, units)
    return Verdict(
        score=float(outcome == "correct"),
        outcome=outcome,
        reason=reason,
        answer=found.answer,
        how=found.how,
        stage="number",
        checks={"gold": text},
    )


def gold_problem(verifier_name: str, task: Task) -> str:
    """Why the gold is no number; "" where it is one."""
    text, problem = gold_answer(task.gold)
    return problem or ("" if _read(text) else f"the gold {short(text)} is not a number")


_SEVERAL = re.compile(r"\b(?:or|and|maybe|perhaps|either|to|between)\b|[,;|±]|\\pm|\\mp")


def _judge(
    want: _Number, answer: str, tolerance: float, absolute: float, percent: str, units: str
) -> tuple[Outcome, str]:
    if len(answer) > LONGEST:
        return "too_complex", f"the answer is longer than {LONGEST} characters"
    sides = [side.strip() for side in answer.split("=")]
    read = [_read(side) for side in sides]
    got = read[-1]
    if got is None:
        if _SEVERAL.search(answer):
            return "hedged", f"{short(answer)} offers several values, the gold is one"
        return "malformed", f"{short(answer)} is not a number"
    if any(side is not None and side.quantity.value != got.quantity.value for side in read):
        return "hedged", f"the sides of {short(answer)} are different numbers"
    if problem := _unit_problem(want, got, units):
        return "wrong", problem
    slack = max(_exact(tolerance) * abs(_value(want, got, units)), _exact(absolute))
    pairs = [(_value(want, got, units), _value(got, want, units))]
    if percent == "either" and want.is_percent != got.is_percent:
        scale = (100, 1) if want.is_percent else (1, 100)
        pairs.append((pairs[0][0] * scale[0], pairs[0][1] * scale[1]))
    right = any(abs(left - right) <= slack for left, right in pairs)
    if not right and pairs[0] == (want.quantity.value, got.quantity.value):
        right = same_number(want.quantity, got.quantity)
    within = f" within {float(slack):g}" if slack else ""
    return ("correct" if right else "wrong"), f"{short(answer)} is {'' if right else 'not '}the gold{within}"


@lru_cache(256)
def _exact(value: float) -> Fraction:
    """0.01 as a hundredth, not as the nearest binary fraction."""
    return Fraction(repr(value))


def _value(number: _Number, other: _Number, units: str) -> Fraction:
    """In SI units where both sides have one and they differ."""
    if units == "ignore" or number.unit is None or other.unit is None or number.unit == other.unit:
        return number.quantity.value
    return number.unit.in_si(number.quantity.value)


def _unit_problem(want: _Number, got: _Number, units: str) -> str:
    if units == "ignore" or (want.unit is None and got.unit is None):
        return ""
    if want.unit is not None and not got.unit_text:
        return f"the answer has no unit, the gold is in {want.unit_text}" if units == "required" else ""
    if want.unit is None and not want.unit_text:
        return ""
    if want.unit is None or got.unit is None or want.unit.dimension != got.unit.dimension:
        return f"unit {got.unit_text}, the gold has {want.unit_text}"
    return ""


_DEGREES = re.compile(r"(?:°|\^\s?\{?\s?\\circ\s?\}?)\s{0,2}(?:\\(?:text|mathrm)\s?\{\s?)?([CF])\s?\}?\s*\Z")
_ABOUT = re.compile(r"\A(?:\\approx|≈|~|about|approximately|approx\.?|roughly|circa)\s*", re.IGNORECASE)
_MONEY = re.compile(r"\A(-?)\s?(\\?\$|€|£|¥)\s?(?=[\d.])")
_MONEY_WORDS = {"$": "usd", "\\$": "usd", "€": "eur", "£": "gbp", "¥": "jpy"}
_START = re.compile(r"(?<=[\d})\s.])(?=[A-Za-zµμΩ])")
_WORD = r"[A-Za-zµμΩ]{1,30}(?:\s?\^\s?\{?\s?-?\d\s?\}?|[23])?"
_WORDS = re.compile(rf"{_WORD}(?:(?:\s?[/*·-]\s?|\s){_WORD}){{0,5}}")


@lru_cache(512)  # an answer has at most LONGEST characters
def _read(text: str) -> _Number | None:
    """The number with its unit that a text writes; None for anything else."""
    text = _ABOUT.sub("", text.strip().removesuffix(".").strip())
    if len(text) > LONGEST or not text:
        return None
    is_percent = "%" in text or "percent" in text.casefold()
    money = _MONEY.match(text)
    if money and text.count("$") < 2:
        text = f"{money.group(1)}{text[money.end() :]} {_MONEY_WORDS[money.group(2)]}"
    plain = read_quantity(normalised(text))
    if plain is not None and not plain.unit:
        return _Number(plain, is_percent, "", None)
    text = WRAPPED.sub(r" \1", _DEGREES.sub(r" deg\1", text).replace("°", " degrees")).strip().strip("$").strip()
    for start in reversed([match.start() for match in _START.finditer(text)]):  # 5e3 m: the number is what is longest
        name = " ".join(text[start:].split())
        if len(name) > 60 or not _WORDS.fullmatch(name) or _SEVERAL.search(name):
            break
        head = read_quantity(normalised(text[:start]))
        if head is not None and not head.unit:
            return _Number(head, is_percent, name, _unit(name))
    return _Number(plain, is_percent, plain.unit, _unit(plain.unit)) if plain is not None else None


def _unit(name: str) -> Unit | None:
    """`km long` is in km."""
    unit = read_unit(name)
    return unit if unit or re.search(r"[/^*·\d]|\bper\b", name) else read_unit(name.partition(" ")[0])


EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    ("42", r"so \boxed{42.0}", 1.0),
    (3.5, r"\boxed{\frac{7}{2}}", 1.0),
    ("45%", "The answer is 0.45.", 1.0),
    ("5 km", r"\boxed{5000\text{ m}}", 1.0),
    ("72 km/h", r"\boxed{20 \text{ m/s}}", 1.0),
    ("25 °C", r"\boxed{77^\circ\text{F}}", 1.0),
    ("$5", r"\boxed{500 \text{ cents}}", 1.0),
    ("12", "#### 12 apples", 1.0),
    ("42", r"\boxed{43}", 0.0),
    ("0.00000012", r"\boxed{0.00000034}", 0.0),
    ("45", r"\boxed{45\%}", 0.0),
    ("5 km", r"\boxed{5 \text{ m}}", 0.0),
    ("5 MW", r"\boxed{5 \text{ mW}}", 0.0),
    ("$5", r"\boxed{€5}", 0.0),
    ("42", r"\boxed{forty-two}", 0.0),
    ("42", r"\boxed{}", 0.0),
    ("42", "42", 0.0),
    ("42", r"\boxed{41 or 42}", 0.0),
    ("42", r"\boxed{41, 42, 43}", 0.0),
    ("42", r"\boxed{41 = 42}", 0.0),
    ("42", r"<think>\boxed{42}", 0.0),
    ("42", r"\boxed{42 \pm 10}", 0.0),
    ("about a dozen", r"\boxed{12}", None),
    (float("nan"), r"\boxed{1}", None),
    (None, r"\boxed{1}", None),
]
