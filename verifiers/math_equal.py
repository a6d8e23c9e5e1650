r"""math: the answer equals the gold as mathematics.

Stages, each of which may decide: extract, exact (same text), number (exact rationals), shape (words, choices, lists,
hedges), guard (too large to be safe), sympy (math-verify, behind exact or 40-digit comparison of constants).
Run where it can be killed: the last stage has no deadline of its own.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from rlvr.plugins import verifier
from rlvr.types import Outcome, Verdict
from rlvr.verifiers.extract import extract
from rlvr.verifiers.math_text import (
    BASE,
    HEDGE,
    LONGEST,
    RELATION,
    TEXT,
    UNEVALUATED,
    UNIT_NAMES,
    balanced,
    bare_words,
    commas_for_and,
    is_bracketed_list,
    left_side,
    normalised,
    read_quantity,
    same_number,
    split_items,
    split_parts,
    spread,
    squeeze,
    too_complex,
    value_side,
    with_letter_as_unit,
)


@dataclass(frozen=True, slots=True)
class _Opinion:
    outcome: Outcome
    stage: str
    reason: str


@verifier("math", version="1", deadline=1.0)
def math(response: str, gold: Any) -> Verdict:
    """1 where the answer equals the gold, 0 where it does not; None where the gold itself cannot be read."""
    want, problem = _gold_text(gold)
    if problem:
        return Verdict(score=None, outcome="gold_invalid", reason=problem, stage="gold")
    found = extract(response)
    if found is None:
        return Verdict(score=0.0, outcome="no_answer", reason="the response commits to no answer", stage="extract")
    opinion = _compare(want, found.answer, several=found.how == "boxed_list")
    score = {"correct": 1.0, "gold_invalid": None}.get(opinion.outcome, 0.0)
    return Verdict(
        score=score,
        outcome=opinion.outcome,
        reason=opinion.reason,
        answer=found.answer,
        how=found.how,
        stage=opinion.stage,
    )


def warm_up() -> None:
    """Import and exercise math-verify, so that no verdict pays for it (0.7 s of CPU)."""
    _by_sympy("x+\\frac{1}{2}", "\\frac{2x+1}{2}")
    _by_sympy("[1,2)", "[1,2)")


def _gold_text(gold: Any) -> tuple[str, str]:
    """(text, ""), or ("", what is wrong with it)."""
    if isinstance(gold, bool) or not isinstance(gold, str | int | float):
        return "", f"the gold must be text or a number, got {type(gold).__name__}"
    if isinstance(gold, float) and gold != gold:
        return "", "the gold is NaN"
    text = _str_of_int(gold) if isinstance(gold, int) else str(gold).strip()
    boxed = extract(text) if "\\boxed" in text else None
    text = boxed.answer if boxed else text
    normal = normalised(text)
    if not normal:
        return "", "the gold is empty"
    if not balanced(normal):
        return "", f"the brackets of the gold {_short(text)} do not match"
    return text, ""


def _str_of_int(value: int) -> str:
    return str(value) if value.bit_length() < 10_000 else hex(value)  # str() refuses more than 4300 digits


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


# --- the stages


def _compare(gold: str, answer: str, several: bool) -> _Opinion:
    if len(answer) > LONGEST and answer != gold:
        return _Opinion("too_complex", "guard", f"the answer is longer than {LONGEST} characters")
    g, a = normalised(gold), normalised(answer)
    if not a:
        return _Opinion("no_answer", "extract", "the answer is blank")
    if squeeze(g) == squeeze(a):
        return _Opinion("correct", "exact", f"{_short(answer)} is the gold as written")
    opinion = _by_number(g, a) or _by_shape(g, a, several)
    if opinion is not None:
        return opinion
    trouble = too_complex(a)
    if trouble:
        return _Opinion("too_complex", "guard", trouble)
    trouble = too_complex(g)
    if trouble:
        return _Opinion("gold_invalid", "guard", f"the gold is not the answer as written, and {trouble}")
    if not balanced(a):
        return _Opinion("malformed", "guard", "the brackets of the answer do not match")
    return _by_sympy(g, a)


def _by_number(g: str, a: str) -> _Opinion | None:
    """Decisive where both sides are plain rationals."""
    gold, answer = read_quantity(value_side(g)), read_quantity(value_side(a))
    # a lone letter is a variable, but beside a unit it is one too: 5 m against 5 km
    if gold is not None and gold.unit and answer is None:
        answer = read_quantity(with_letter_as_unit(value_side(a)))
    elif answer is not None and answer.unit and gold is None:
        gold = read_quantity(with_letter_as_unit(value_side(g)))
    if gold is None or answer is None:
        return None
    if (lhs := left_side(g)) and (other := left_side(a)) and lhs != other:
        return _Opinion("wrong", "number", f"speaks of {other}, the gold of {lhs}")
    if gold.unit != answer.unit and {gold.unit, answer.unit} <= UNIT_NAMES:
        return _Opinion("wrong", "number", f"unit {answer.unit}, the gold has {gold.unit}")
    return _equality(same_number(gold, answer), "number", g, a)


def _by_shape(g: str, a: str, several: bool) -> _Opinion | None:
    """What needs no algebra: alternatives offered, an echo of the question, words, choices, bases, tuples."""
    gold_is_one = read_quantity(value_side(g)) is not None
    if several and len(split_parts(commas_for_and(g))) < 2 and not g.startswith("\\{"):
        return _Opinion("hedged", "shape", "several boxes with different values, the gold is one")
    if gold_is_one or re.fullmatch(r"\(?[A-H]\)?", bare_words(g)):
        choice = re.match(r"\(?([A-H])\)?(?=[\s).:]|\Z)(?!\s*,)(?!.*\b(?:or|and)\b)", bare_words(a))
        if choice and not gold_is_one:
            right = choice.group(1) == bare_words(g).strip("()")
            return _Opinion("correct" if right else "wrong", "shape", f"chose {choice.group(1)}")
        if HEDGE.search(a) or len(split_parts(commas_for_and(a))) > 1 or is_bracketed_list(a):
            return _Opinion("hedged", "shape", f"{_short(a)} offers several values, the gold is one")
        if (chain := _chain(g, a)) is not None:
            return chain
        if RELATION.search(a):
            return _Opinion("wrong", "shape", "a relation, the gold is a number")
    if UNEVALUATED.search(a) and not UNEVALUATED.search(g):
        return _Opinion("unevaluated", "shape", "repeats the task as a sum, integral, product, limit or derivative")
    if "dots" in g or "dots" in a:
        return _Opinion("wrong", "shape", "an ellipsis is compared as written")
    return _by_words(g, a) or _by_base(g, a) or _by_items(g, a)


def _by_words(g: str, a: str) -> _Opinion | None:
    gold, answer = bare_words(g), bare_words(a)
    if gold == answer or (gold.casefold() == answer.casefold() and re.search(r"[^\W\d_]{2}", gold)):
        return _Opinion("correct", "shape", "the same words")
    gold_is_words = re.fullmatch(r"[^\W\d_]{2,}[^\W_]*(?:[ '\-][^\W_]+)*", gold)
    answer_is_words = re.fullmatch(r"[^\W\d_]{2,}(?:[ '\-][^\W\d_]+)*", answer)
    if gold_is_words and (TEXT.search(g) or answer_is_words or read_quantity(a) is not None):
        return _Opinion("wrong", "shape", f"{_short(answer)} is not {_short(gold)}")
    if answer_is_words and not gold_is_words and (read_quantity(g) is not None or TEXT.search(a)):
        return _Opinion("wrong", "shape", "words, the gold is mathematics")
    return None


def _by_base(g: str, a: str) -> _Opinion | None:
    gold, answer = BASE.fullmatch(g), BASE.fullmatch(a)
    if not gold and not answer:
        return None
    left, right = _based(g, gold), _based(a, answer)
    if left is None or right is None:
        return None
    if gold and not answer:  # the question names the base, so its digits are enough
        right = left if a == gold.group(1) else right
    return _equality(left == right, "shape", g, a)


def _based(text: str, match: re.Match[str] | None) -> Fraction | None:
    if match is None:
        number = read_quantity(text)
        return number.value if number else None
    try:
        return Fraction(int(match.group(1), int(match.group(2))))
    except ValueError:  # base beyond 36, or a digit that the base has not
        return None


def _by_items(g: str, a: str) -> _Opinion | None:
    """Tuples, intervals and sets of plain rationals; anything else is left to algebra."""
    gold, answer = split_items(g), split_items(a)
    if gold is None or answer is None:
        return None
    left, right = _values(gold[1]), _values(answer[1])
    if left is None or right is None:
        return None
    kinds = {gold[0], answer[0]}
    if kinds <= {"set", "list"}:
        same = set(left) == set(right)
    else:  # a list is a tuple whose brackets were left out
        same = left == right and (len(kinds) == 1 or "list" in kinds)
    return _equality(same, "shape", g, a)


def _values(items: list[str]) -> list[Fraction] | None:
    numbers = [read_quantity(item) for item in items]
    values = [number.value for number in numbers if number is not None]
    return values if len(values) == len(numbers) else None


def _chain(g: str, a: str) -> _Opinion | None:
    """`x = 2 + 1 = 3`: every number in a chain must be the gold's."""
    sides = [side.strip() for side in a.split("=")]
    if len(sides) < 2:
        return None
    gold = read_quantity(value_side(g))
    numbers = [number for side in sides if (number := read_quantity(side)) is not None]
    if gold is None or not numbers:
        return None
    if not all(same_number(gold, number) for number in numbers):
        outcome: Outcome = "hedged" if any(same_number(gold, number) for number in numbers) else "wrong"
        return _Opinion(outcome, "shape", f"not every side of {_short(a)} is {_short(g)}")
    if read_quantity(sides[-1]) is not None:
        return _Opinion("correct", "number", f"{_short(sides[-1])} equals {_short(g)}")
    return None


def _by_sympy(g: str, a: str) -> _Opinion:
    try:
        if (gold := _parse(spread(g))) is None:
            return _Opinion("gold_invalid", "sympy", f"the gold {_short(g)} cannot be read as mathematics")
        if (answer := _parse(spread(a))) is None:
            return _Opinion("malformed", "sympy", f"{_short(a)} cannot be read as mathematics")
        return _equality(_same_maths(gold, answer), "sympy", g, a)
    except RecursionError:
        return _Opinion("too_complex", "sympy", "nested too deeply for algebra")


def _equality(same: bool, stage: str, g: str, a: str) -> _Opinion:
    return _Opinion("correct" if same else "wrong", stage, f"{_short(a)} {'equals' if same else 'is not'} {_short(g)}")


# --- algebra


@lru_cache(256)
def _parse(text: str) -> Any:
    """First reading of the text as LaTeX; None where it has none."""
    from math_verify import LatexExtractionConfig, parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that timeouts are off, at every call
    read = parse(
        "\\boxed{" + text + "}",  # a bare formula would be cut at what math-verify takes for its end
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,  # type: ignore[arg-type]
    )
    return next((thing for thing in read if not isinstance(thing, str)), None)


def _same_maths(left: Any, right: Any) -> bool:
    from math_verify import verify

    certain = _numerically(left, right)
    if certain is not None:
        return certain
    return bool(verify(left, right, allow_set_relation_comp=True, timeout_seconds=None))


def _numerically(left: Any, right: Any) -> bool | None:
    """Constants at 40 digits, formulas at three points; None where that proves nothing.

    math-verify rounds to 6 places absolutely, by which all small numbers are equal.
    """
    import sympy

    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return None
    if left.is_Rational and right.is_Rational:
        return bool(left == right)
    names: list[Any] = sorted(left.free_symbols | right.free_symbols, key=str)
    if [name.name for name in names] == ["i"]:  # read as a letter; alone it is the imaginary unit
        left, right = (side.subs(names[0], sympy.I) for side in (left, right))
        names = []
    no_value = (sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)
    inexact = left.has(sympy.Float) or right.has(sympy.Float)
    for k in range(3 if names else 1):
        point: dict[Any, Any] = {
            name: sympy.Rational(1_000_003 + 7919 * (i + 1) * (k + 2), 700_001) for i, name in enumerate(names)
        }
        try:
            x, y = (sympy.N(side.doit().subs(point), 40) for side in (left, right))
            if not (x.is_number and y.is_number) or x.has(*no_value) or y.has(*no_value):
                return None
            size = max(abs(x), abs(y))
            close = size == 0 or bool(abs(x - y) <= size * sympy.Float("1e-9" if inexact else "1e-35", 40))
        except (ArithmeticError, AttributeError, TypeError, ValueError, NotImplementedError):
            return None  # no value there: let math-verify try by algebra
        if not close:
            return False
    return None if names else True


EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    ("42", r"so \boxed{42}", 1.0),
    (42, r"\boxed{42.0}", 1.0),
    (0.5, r"\boxed{\frac{1}{2}}", 1.0),
    ("7/2", r"\boxed{3\frac{1}{2}}", 1.0),
    ("1234567", "#### 1,234,567", 1.0),
    (r"50\%", r"\boxed{0.5}", 1.0),
    (r"2\sqrt{3}", r"\boxed{\sqrt{12}}", 1.0),
    ("(a+b)^2", r"\boxed{a^2+2ab+b^2}", 1.0),
    ("2,3", r"$\boxed{2}$ and $\boxed{3}$", 1.0),
    (r"\text{even}", r"\boxed{\text{Even}}", 1.0),
    ("42", r"\boxed{41}", 0.0),
    ("50", r"\boxed{50\%}", 0.0),
    ("1.0000001", r"\boxed{1.0000002}", 0.0),
    (r"1-\sqrt{2}", r"\boxed{1}", 0.0),
    ("ABC", r"\boxed{BCA}", 0.0),
    ("42", r"\boxed{42", 0.0),
    ("42", "42", 0.0),
    ("42", r"<think>\boxed{42}", 0.0),
    ("42", r"\boxed{41 \text{ or } 42}", 0.0),
    ("42", r"\boxed{41} or \boxed{42}", 0.0),
    ("5050", r"\boxed{\sum_{k=1}^{100} k}", 0.0),
    ("5", r"\boxed{9^{9^{9^9}}}", 0.0),
    ("", r"\boxed{42}", None),
    (None, r"\boxed{42}", None),
    (r"\frac{1}{2", r"\boxed{0.5}", None),
]
