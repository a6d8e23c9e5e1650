r"""math: the answer equals the gold as mathematics.

Stages, each of which may decide: extract, exact (same text), number (exact rationals), shape (words, choices, lists,
hedges), guard (too large to be safe), sympy (math-verify, behind exact or 40-digit comparison of constants).
Run where it can be killed: the last stage has no deadline of its own.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from rlvr.plugins import verifier
from rlvr.types import Outcome, Verdict
from rlvr.verifiers.extract import extract

LONGEST = 2000
"""Characters of an answer that is read at all."""
DEEPEST = 24
"""Brackets within brackets."""


@dataclass(frozen=True, slots=True)
class _Opinion:
    outcome: Outcome
    stage: str
    reason: str


class _NotMaths(Exception):
    """math-verify cannot read this text."""


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
    _sympy_equal("x+\\frac{1}{2}", "\\frac{2x+1}{2}")
    _sympy_equal("[1,2)", "[1,2)")


def _gold_text(gold: Any) -> tuple[str, str]:
    """(text, ""), or ("", what is wrong with it)."""
    if isinstance(gold, bool) or not isinstance(gold, str | int | float):
        return "", f"the gold must be text or a number, got {type(gold).__name__}"
    if isinstance(gold, float) and gold != gold:
        return "", "the gold is NaN"
    text = _str_of_int(gold) if isinstance(gold, int) else str(gold).strip()
    boxed = extract(text) if "\\boxed" in text else None
    text = boxed.answer if boxed else text
    normal = _normal(text)
    if not normal:
        return "", "the gold is empty"
    if not _balanced(normal):
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
    g, a = _normal(gold), _normal(answer)
    if not a:
        return _Opinion("no_answer", "extract", "the answer is blank")
    if _squeeze(g) == _squeeze(a):
        return _Opinion("correct", "exact", f"{_short(answer)} is the gold as written")
    opinion = _by_number(g, a) or _by_shape(g, a, several)
    if opinion is not None:
        return opinion
    trouble = _too_complex(a)
    if trouble:
        return _Opinion("too_complex", "guard", trouble)
    trouble = _too_complex(g)
    if trouble:
        return _Opinion("gold_invalid", "guard", f"the gold is not the answer as written, and {trouble}")
    if not _balanced(a):
        return _Opinion("malformed", "guard", "the brackets of the answer do not match")
    return _by_sympy(g, a)


def _by_number(g: str, a: str) -> _Opinion | None:
    """Decisive where both sides are plain rationals."""
    gold, answer = _quantity(_value_side(g)), _quantity(_value_side(a))
    if gold is None or answer is None:
        return None
    if (lhs := _left_side(g)) and (other := _left_side(a)) and lhs != other:
        return _Opinion("wrong", "number", f"speaks of {other}, the gold of {lhs}")
    if gold.unit and answer.unit and gold.unit != answer.unit and {gold.unit, answer.unit} <= _UNIT_NAMES:
        return _Opinion("wrong", "number", f"unit {answer.unit}, the gold has {gold.unit}")
    if _same_number(gold, answer):
        return _Opinion("correct", "number", f"{_short(a)} equals {_short(g)}")
    return _Opinion("wrong", "number", f"{_short(a)} is not {_short(g)}")


def _by_shape(g: str, a: str, several: bool) -> _Opinion | None:
    """What needs no algebra: alternatives offered, an echo of the question, words, choices, bases, tuples."""
    gold_is_one = _quantity(_value_side(g)) is not None
    if several and len(_parts(_listed(g))) < 2 and not g.startswith("\\{"):
        return _Opinion("hedged", "shape", "several boxes with different values, the gold is one")
    if gold_is_one or re.fullmatch(r"\(?[A-H]\)?", _words(g)):
        choice = re.match(r"\(?([A-H])\)?(?=[\s).:]|\Z)(?!\s*,)(?!.*\b(?:or|and)\b)", _words(a))
        if choice and not gold_is_one:
            right = choice.group(1) == _words(g).strip("()")
            return _Opinion("correct" if right else "wrong", "shape", f"chose {choice.group(1)}")
        if _HEDGE.search(a) or len(_parts(_listed(a))) > 1 or _is_bracketed_list(a):
            return _Opinion("hedged", "shape", f"{_short(a)} offers several values, the gold is one")
        if (chain := _chain(g, a)) is not None:
            return chain
        if _RELATION.search(a):
            return _Opinion("wrong", "shape", "a relation, the gold is a number")
    if _UNEVALUATED.search(a) and not _UNEVALUATED.search(g):
        return _Opinion("unevaluated", "shape", "repeats the task as a sum, integral, product, limit or derivative")
    if "dots" in g or "dots" in a:
        return _Opinion("wrong", "shape", "an ellipsis is compared as written")
    return _by_words(g, a) or _by_base(g, a) or _by_items(g, a)


def _by_words(g: str, a: str) -> _Opinion | None:
    gold, answer = _words(g), _words(a)
    if gold == answer or (gold.casefold() == answer.casefold() and re.search(r"[^\W\d_]{2}", gold)):
        return _Opinion("correct", "shape", "the same words")
    gold_is_words = re.fullmatch(r"[^\W\d_][^\W\d_ '\-]+[^\W_ ]*(?:[ '\-][^\W_]+)*", gold) and "\\" not in gold
    answer_is_words = re.fullmatch(r"[^\W\d_]{2,}(?:[ '\-][^\W\d_]+)*", answer)
    if gold_is_words and (_TEXT.search(g) or answer_is_words or _quantity(a) is not None):
        return _Opinion("wrong", "shape", f"{_short(answer)} is not {_short(gold)}")
    if answer_is_words and not gold_is_words and (_quantity(g) is not None or _TEXT.search(a)):
        return _Opinion("wrong", "shape", "words, the gold is mathematics")
    return None


def _by_base(g: str, a: str) -> _Opinion | None:
    gold, answer = _BASE.fullmatch(g), _BASE.fullmatch(a)
    if not gold and not answer:
        return None
    left, right = _based(g, gold), _based(a, answer)
    if left is None or right is None:
        return None
    if gold and not answer:  # the question names the base, so its digits are enough
        right = left if a == gold.group(1) else right
    same = left == right
    return _Opinion("correct" if same else "wrong", "shape", f"{_short(a)} is {'' if same else 'not '}{_short(g)}")


def _based(text: str, match: re.Match[str] | None) -> Fraction | None:
    if match is None:
        number = _quantity(text)
        return number.value if number else None
    try:
        return Fraction(int(match.group(1), int(match.group(2))))
    except ValueError:  # base beyond 36, or a digit that the base has not
        return None


def _by_items(g: str, a: str) -> _Opinion | None:
    """Tuples, intervals and sets of plain rationals; anything else is left to algebra."""
    gold, answer = _items(g), _items(a)
    if gold is None or answer is None:
        return None
    left, right = [_quantity(x) for x in gold[1]], [_quantity(x) for x in answer[1]]
    if any(x is None for x in left + right):
        return None
    values = [[x.value for x in side if x is not None] for side in (left, right)]
    unordered = {"set", "list"}
    if gold[0] in unordered and answer[0] in unordered:
        same = set(values[0]) == set(values[1])
    elif "list" in (gold[0], answer[0]):  # a tuple whose brackets were left out
        same = values[0] == values[1]
    else:
        same = gold[0] == answer[0] and values[0] == values[1]
    return _Opinion("correct" if same else "wrong", "shape", f"{_short(a)} is {'' if same else 'not '}{_short(g)}")


def _chain(g: str, a: str) -> _Opinion | None:
    """`x = 2 + 1 = 3`: every number in a chain must be the gold's."""
    sides = [side.strip() for side in a.split("=")]
    if len(sides) < 2:
        return None
    gold = _quantity(_value_side(g))
    numbers = [number for side in sides if (number := _quantity(side)) is not None]
    if gold is None or not numbers:
        return None
    if not all(_same_number(gold, number) for number in numbers):
        outcome: Outcome = "hedged" if any(_same_number(gold, number) for number in numbers) else "wrong"
        return _Opinion(outcome, "shape", f"not every side of {_short(a)} is {_short(g)}")
    if _quantity(sides[-1]) is not None:
        return _Opinion("correct", "number", f"{_short(sides[-1])} equals {_short(g)}")
    return None


def _by_sympy(g: str, a: str) -> _Opinion:
    try:
        same = _sympy_equal(g, a)
    except _NotMaths as unread:
        text = str(unread)
        if text == g:
            return _Opinion("gold_invalid", "sympy", f"the gold {_short(g)} cannot be read as mathematics")
        return _Opinion("malformed", "sympy", f"{_short(a)} cannot be read as mathematics")
    except RecursionError:
        return _Opinion("too_complex", "sympy", "nested too deeply for algebra")
    return _Opinion(
        "correct" if same else "wrong", "sympy", f"{_short(a)} {'equals' if same else 'is not'} {_short(g)}"
    )


# --- text


_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u200e\u200f\u2060\u00ad\ufeff\u202a\u202b\u202c\u202d\u202e"))
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SYMBOLS = str.maketrans(
    {
        "\u2212": "-",
        "\u2013": "-",
        "\u00d7": "\\times ",
        "\u22c5": "\\cdot ",
        "\u00b7": "\\cdot ",
        "\u00f7": "/",
        "\u2044": "/",
        "\u03c0": "\\pi ",
        "\u221e": "\\infty ",
        "\u2264": "\\le ",
        "\u2265": "\\ge ",
        "\u2260": "\\ne ",
        "\u222a": "\\cup ",
        "\u2229": "\\cap ",
        "\u2208": "\\in ",
        "\u00b1": "\\pm ",
        "\u2205": "\\emptyset ",
        "\u00b0": "^\\circ ",
        "\u20ac": "",
        "\u00a3": "",
    }
)


def _plain_characters(text: str) -> str:
    if text.isascii():
        return text
    text = text.translate(_INVISIBLE)
    text = re.sub("(?<=[\\w)}\\]])[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda m: "^{" + m.group().translate(_SUPERSCRIPT) + "}", text)
    text = re.sub(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])", " ", text)  # 1½ is mixed, not 11/2
    text = unicodedata.normalize("NFKC", text)
    text = re.sub("\u221a\\s?(\\d+|[a-zA-Z])", r"\\sqrt{\1}", text)
    text = re.sub("\u221a\\s?\\(([^()]*)\\)", r"\\sqrt{\1}", text).replace("\u221a{", "\\sqrt{")
    return text.translate(_SYMBOLS)


_DROP = re.compile(r"\\(?:left|right|displaystyle|limits|bigl?|bigr|Bigl?|Bigr)(?![a-zA-Z])|\\!|\\\$|\$")
_BLANK = re.compile(r"\\[,;: ]|\\q?quad(?![a-zA-Z])|~|\s+")
_SAME = {
    "dfrac": "frac",
    "tfrac": "frac",
    "cfrac": "frac",
    "leq": "le",
    "geq": "ge",
    "leqslant": "le",
    "geqslant": "ge",
    "neq": "ne",
    "varnothing": "emptyset",
}
_SYNONYM = re.compile(r"\\(" + "|".join(_SAME) + r")(?![a-zA-Z])")


@lru_cache(4096)
def _normal(text: str) -> str:
    """One spelling for what looks the same on paper. Text beyond the longest answer comes back stripped only."""
    if len(text) > 2 * LONGEST:
        return text.strip()
    text = _plain_characters(text)
    text = _DROP.sub("", re.sub(r",\\!\s{0,2}", ",", text.replace("{,}", ",")))
    text = _BLANK.sub(" ", text).replace("\\lt ", "<").replace("\\gt ", ">").replace("\\%", "%")
    text = _SYNONYM.sub(lambda m: "\\" + _SAME[m.group(1)], text)
    text = re.sub(r"\^ ?\{? ?\\circ ?\}?", r"\\text{ degrees}", text)
    text = re.sub(r"\\frac ?(\d) ?(\d)(?!\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac ?(\d) ?\{", r"\\frac{\1}{", text)
    text = re.sub(r"\\sqrt ?(\d)", r"\\sqrt{\1}", text)
    text = re.sub(r"\b(sqrt|sin|cos|tan|ln|log)\(([^()]*)\)", _function, text)
    text = re.sub(r"\\mathrm ?\{ ?e ?\}", "e", text)
    text = text.strip().removesuffix(".").strip()
    while len(text) > 1 and text[0] == "{" and text[-1] == "}" and "}" not in text[1:-1] and "{" not in text[1:-1]:
        if "," in text:
            return "\\{" + text[1:-1].strip() + "\\}"  # {1, 2} is a set, whose braces were not escaped
        text = text[1:-1].strip()
    return text.replace("!=", "\\ne ").replace(">=", "\\ge ").replace("<=", "\\le ")


def _function(match: re.Match[str]) -> str:
    before = match.string[match.start() - 1] if match.start() else ""
    if before == "\\":
        return match.group()
    return f"\\sqrt{{{match.group(2)}}}" if match.group(1) == "sqrt" else f"\\{match.group(1)}({match.group(2)})"


def _squeeze(text: str) -> str:
    return re.sub(r"(?<![\dA-Za-z]) | (?![\dA-Za-z])", "", text)  # "1 2" stays apart, "x + 1" does not


def _balanced(text: str) -> bool:
    depth = 0
    for bracket in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(bracket, 0)
        if depth < 0:
            return False
    return depth == 0


_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|textnormal|operatorname) ?\{([^{}]*)\}")


def _words(text: str) -> str:
    return re.sub(r"\s+", " ", _TEXT.sub(r"\1", text)).strip().removesuffix(".").strip()


_HEDGE = re.compile(
    r"\b(?:or|maybe|perhaps|possibly|either|any)\b|;|\\pm|\\mp|\d\s*\|\s*\d|\\lor(?![a-z])|\\vee(?![a-z])"
)
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|in|to|approx|rightarrow)(?![a-z])")
_UNEVALUATED = re.compile(
    r"\\(?:sum|i{0,2}int|oint|prod|lim)(?![a-z])"
    r"|\\frac ?\{ ?(?:d|\\partial)(?: ?\^[^}]{1,8}\}?)? ?\}? ?\{ ?(?:d|\\partial) ?[a-z]"
)
_BASE = re.compile(r"([0-9A-Za-z]{1,200}) ?_ ?\{? ?(\d{1,2}) ?\}?(?<!_)")
_AND = re.compile(r"\s?,?\s?(?:\\(?:text|mathrm|mbox) ?\{ ?,? ?(?:and|or) ?\}|\b(?:and|or)\b)\s?,?\s?")


def _listed(text: str) -> str:
    return _AND.sub(", ", text)


def _parts(text: str) -> list[str]:
    """Split at commas outside brackets; a comma of thousands does not split."""
    if _quantity(text) is not None:
        return [text]
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"\\[{}]|\\.|[()\[\]{},;]", text):
        mark = match.group()[-1] if match.group() in ("\\{", "\\}") else match.group()
        if mark in ("(", "[", "{"):
            depth += 1
        elif mark in (")", "]", "}"):
            depth -= 1
        elif mark in (",", ";") and depth <= 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    return [*parts, text[start:].strip()]


def _is_bracketed_list(text: str) -> bool:
    inner = _inside(text)
    return inner is not None and len(_parts(inner[1])) > 1


def _inside(text: str) -> tuple[str, str] | None:
    r"""("(]", what is in them) where one pair of brackets holds the whole; "set" for \{ \}."""
    if text.startswith("\\{") and text.endswith("\\}") and text.count("\\{") == 1:
        return "set", text[2:-2].strip()
    if text and text[0] in "([" and text[-1] in ")]" and sum(text.count(c) for c in "()[]") == 2:
        return text[0] + text[-1], text[1:-1].strip()
    return None


def _items(text: str) -> tuple[str, list[str]] | None:
    text = _listed(text)
    inner = _inside(text)
    parts = _parts(inner[1] if inner else text)
    if len(parts) < 2 and not (inner and inner[0] == "set"):
        return None
    if inner is None:
        parts = [_value_side(part) for part in parts]
    return (inner[0] if inner else "list"), parts


_ASSIGNED = re.compile(r"(\\?[A-Za-z]+(?: ?_ ?\{?\w{1,8}\}?)?|[A-Za-z] ?\([a-z]\)) ?= ?(?=[^=<>])")


def _left_side(text: str) -> str:
    match = _ASSIGNED.match(text)
    return match.group(1) if match and len(match.group(1).lstrip("\\")) < 12 and "=" not in text[match.end() :] else ""


def _value_side(text: str) -> str:
    """`x = 5` is 5. Words are no names: `score = 1` stays as it is."""
    match = _ASSIGNED.match(text)
    name = match.group(1) if match else ""
    if match is None or (len(name) > 1 and name.isalpha()):
        return text
    return text[match.end() :].strip()


# --- numbers


@dataclass(frozen=True, slots=True)
class _Quantity:
    value: Fraction
    digits: int = 0
    """Significant digits where written as a decimal; 0 for what is exact (integers, fractions)."""
    last_place: Fraction = Fraction(0)
    """What 1 in the last of these digits is worth."""
    unit: str = ""


_N = r"(?:\d{1,3}(?:,\d{3}){1,40}|\d{1,3}(?: \d{3}){1,40}|\d{1,1500})?(?:\.\d{1,1000})?"
_DECIMAL = re.compile(rf"([+-]?) ?({_N})\.?")
_FRACTION = re.compile(rf"([+-]?) ?\\frac ?\{{ ?([+-]?{_N}) ?\}} ?\{{ ?([+-]?{_N}) ?\}}")
_SLASH = re.compile(rf"([+-]?) ?\(? ?([+-]?{_N}) ?/ ?({_N}) ?\)?")
_MIXED = re.compile(
    r"([+-]?) ?(\d{1,40}) ?(?:\\frac ?\{ ?(\d{1,40}) ?\} ?\{ ?(\d{1,40}) ?\}|(?<= )(\d{1,40}) ?/ ?(\d{1,40}))"
)
_SCIENTIFIC = re.compile(rf"([+-]?) ?({_N}) ?(?:[eE]|(?:\\times|\\cdot|\*) ?10 ?\^) ?\{{? ?([+-]?\d{{1,3}}) ?\}}?")
_POWER = re.compile(r"([+-]?) ?(\d{1,6}) ?\^ ?(?:(\d)|\{ ?([+-]?\d{1,4}) ?\})")
_REPEATING = re.compile(r"([+-]?) ?(\d{0,40})\.(\d{0,40})\\(?:overline|bar) ?\{? ?(\d{1,40}) ?\}?")

_UNITS = {
    "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters",
    "km": "km kilometer kilometers kilometre kilometres",
    "m": "m meter meters metre metres",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "mi": "mi mile miles",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms",
    "mg": "mg",
    "s": "s sec second seconds",
    "min": "min minute minutes",
    "h": "h hr hour hours",
    "day": "day days",
    "mph": "mph",
    "usd": "dollar dollars",
    "cent": "cent cents",
    "degree": "degree degrees",
    "radian": "rad radian radians",
}
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words.split()}
_UNIT_NAMES = frozenset(_UNITS)
_SUFFIX = re.compile(
    r" ?(?:\\(?:text|mathrm|mbox|textbf|textnormal) ?\{ ?([A-Za-z][A-Za-z /^23]{0,30}|%) ?\}"
    r"|(?<=[\d} )])([A-Za-z]{2,20}(?: [A-Za-z]{2,20}){0,2}))"
    r"(?: ?\^ ?\{?([23])\}?)?"
)
_NO_UNIT = frozenset(
    ("and", "or", "not", "maybe", "pi", "sqrt", "mod", "times", "to", "is", "if", "because", "sin", "cos", "ln")
)


@lru_cache(4096)
def _quantity(text: str) -> _Quantity | None:
    """The plain rational that a normalised text writes, with its unit; None for anything else."""
    if len(text) > LONGEST or not re.search(r"\d", text):
        return None
    whole = re.fullmatch(r"\\(?:text|mathrm|mbox|textbf) ?\{([^{}]*)\}", text)
    text = whole.group(1).strip() if whole else text
    unit, percent = "", False
    for suffix in _SUFFIX.finditer(text):
        if suffix.end() == len(text) and suffix.start() > 0:
            name = (suffix.group(1) or suffix.group(2)).strip().lower()
            if set(name.split()) & _NO_UNIT:
                return None
            unit = _UNIT_OF.get(name, name) + (suffix.group(3) or "")
            percent = name in ("percent", "pct", "%")
            text = text[: suffix.start()].rstrip()
    if text.endswith("%"):
        text, percent = text[:-1].rstrip(), True
    while len(text) > 2 and text[0] == "(" and text[-1] == ")" and text.count("(") == 1:
        text = text[1:-1].strip()
    value = _rational(text)
    if value is None:
        return None
    scale = 100 if percent else 1
    unit = "" if percent else unit
    return replace(value, value=value.value / scale, last_place=value.last_place / scale, unit=unit)


def _rational(text: str) -> _Quantity | None:
    if match := _DECIMAL.fullmatch(text):
        return _signed(match.group(1), _decimal(match.group(2)))
    for pattern in (_FRACTION, _SLASH):
        if match := pattern.fullmatch(text):
            top, bottom = _decimal(match.group(2)), _decimal(match.group(3))
            if top is None or bottom is None or not bottom.value:
                return None
            return _signed(match.group(1), _Quantity(top.value / bottom.value))
    if match := _MIXED.fullmatch(text):
        top, bottom = int(match.group(3) or match.group(5)), int(match.group(4) or match.group(6))
        return _signed(match.group(1), _Quantity(int(match.group(2)) + Fraction(top, bottom))) if bottom else None
    if match := _SCIENTIFIC.fullmatch(text):
        head = _decimal(match.group(2))
        if head is None:
            return None
        scale = Fraction(10) ** int(match.group(3))
        return _signed(match.group(1), _Quantity(head.value * scale, head.digits, head.last_place * scale))
    if match := _POWER.fullmatch(text):
        base, exponent = int(match.group(2)), int(match.group(3) or match.group(4))
        if abs(exponent) * len(match.group(2)) > 12_000 or (base == 0 and exponent <= 0):
            return None
        return _signed(match.group(1), _Quantity(Fraction(base) ** exponent))
    if match := _REPEATING.fullmatch(text):
        lead, fixed, period = match.group(2) or "0", match.group(3), match.group(4)
        top = int(lead + fixed + period) - int(lead + fixed)
        return _signed(match.group(1), _Quantity(Fraction(top, 10 ** len(fixed) * (10 ** len(period) - 1))))
    return None


def _decimal(text: str) -> _Quantity | None:
    negative, text = text.startswith("-"), text.lstrip("+-").replace(",", "").replace(" ", "")
    if not text or text == ".":
        return None
    places = len(text.partition(".")[2])
    digits = len(text.replace(".", "").lstrip("0")) if places else 0
    value = Fraction(text) * (-1 if negative else 1)
    return _Quantity(value, digits, Fraction(1, 10**places) if places else Fraction(0))


def _signed(sign: str, number: _Quantity | None) -> _Quantity | None:
    return replace(number, value=-number.value) if number and sign == "-" else number


def _same_number(gold: _Quantity, answer: _Quantity) -> bool:
    """Exact, but for decimals of 10 and more digits, which are rounded: 0.3333333333 is 1/3, 0.3333 is not."""
    if gold.value == answer.value:
        return True
    rounded = max(gold, answer, key=lambda number: number.last_place)
    return rounded.digits >= 10 and abs(gold.value - answer.value) < rounded.last_place


# --- algebra


_BIG = re.compile(r"\d{5}")


def _too_complex(text: str) -> str:
    """Why algebra on this text could take for ever; "" where it is safe to try. The worker's deadline is behind it."""
    if len(text) > LONGEST:
        return f"longer than {LONGEST} characters"
    depth = deepest = 0
    for mark in re.findall(r"[()\[\]{}]", text):
        depth += 1 if mark in "([{" else -1
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        return f"brackets nested {deepest} deep (at most {DEEPEST})"
    exponents = re.findall(r"\^ ?(\{[^{}]*\}?|\(?[^\s{}]+)", text)
    if any(_BIG.search(exponent) for exponent in exponents):
        return "an exponent of 5 digits or more"
    if re.search(r"\^ ?\{?[^{}]{0,40}[\w)}] ?\^ ?\{?[^{}]{0,40}[\w)}] ?\^", text) or re.search(
        r"\d ?\^ ?[{(]? ?-?\d+ ?\^", text
    ):
        return "a tower of powers"
    if "!" in text and (_BIG.search(text) or re.search(r"\^[^!]{0,40}!|! ?\)? ?!", text)):
        return "a factorial of something large"
    if re.search(r"\\[dt]?binom", text) and (_BIG.search(text) or re.search(r"binom[^+]{0,40}\^", text)):
        return "a binomial of something large"
    if re.search(r"[)\]}] ?\^ ?\{? ?\d{3}", text) and re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", text)):
        return "a power of a sum with an exponent of 3 digits"
    if len(re.findall(r"[+\-*/^]|\\cdot|\\times", text)) > 200:
        return "more than 200 operations"
    return ""


def _sympy_equal(gold: str, answer: str) -> bool:
    """Equality by math-verify. _NotMaths(text) where a side cannot be read."""
    from math_verify import verify

    left, right = _parse(_spread(gold)), _parse(_spread(answer))
    certain = _numerically(left, right)
    if certain is not None:
        return certain
    return bool(verify(left, right, allow_set_relation_comp=True, timeout_seconds=None))


def _spread(text: str) -> str:
    r"""`1 \pm x` as `1 + x, 1 - x`."""
    if text.count("\\pm") != 1 or text.startswith("\\pm"):
        return text
    inner = _inside(text)
    parts = []
    for part in _parts(_listed(inner[1] if inner and inner[0] == "set" else text)):
        if "\\pm" in part:
            parts += [re.sub(r"= ?\+", "=", part.replace("\\pm", "+")), part.replace("\\pm", "-")]
        else:
            parts.append(part)
    return ", ".join(parts)


@lru_cache(256)
def _parse(text: str) -> Any:
    """First reading of the text as LaTeX. A bare formula would be cut at what math-verify takes for its end."""
    from math_verify import LatexExtractionConfig, parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that timeouts are off, at every call
    read = parse(
        "\\boxed{" + text + "}",
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,  # type: ignore[arg-type]
    )
    read = [thing for thing in read if not isinstance(thing, str)]
    if not read:
        raise _NotMaths(text)
    return read[0]


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
    agreed = 0
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
        agreed += 1
    return True if not names and agreed else None


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
