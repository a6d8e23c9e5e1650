"""A maths answer as text: one spelling, its words and parts, the number it writes, what is too much for algebra."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

LONGEST = 2000
"""Characters of an answer that is read at all."""
DEEPEST = 24
"""Brackets within brackets."""


# --- spelling


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
_SYNONYMS = {
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
_SYNONYM = re.compile(r"\\(" + "|".join(_SYNONYMS) + r")(?![a-zA-Z])")


@lru_cache(4096)
def normalised(text: str) -> str:
    """One spelling for what looks the same on paper. Text beyond the longest answer comes back stripped only."""
    if len(text) > 2 * LONGEST:
        return text.strip()
    text = _plain_characters(text)
    text = _DROP.sub("", re.sub(r",\\!\s{0,2}", ",", text.replace("{,}", ",")))
    text = _BLANK.sub(" ", text).replace("\\lt ", "<").replace("\\gt ", ">").replace("\\%", "%")
    text = _SYNONYM.sub(lambda m: "\\" + _SYNONYMS[m.group(1)], text)
    text = re.sub(r"\^ ?\{? ?\\circ ?\}?", r"\\text{ degrees}", text)
    text = re.sub(r"\\frac ?(\d) ?(\d)(?!\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac ?(\d) ?\{", r"\\frac{\1}{", text)
    text = re.sub(r"\\sqrt ?(\d)", r"\\sqrt{\1}", text)
    text = re.sub(r"\b(sqrt|sin|cos|tan|ln|log)\(([^()]*)\)", _as_command, text)
    text = re.sub(r"\\mathrm ?\{ ?e ?\}", "e", text)
    text = text.strip().removesuffix(".").strip()
    while len(text) > 1 and text[0] == "{" and text[-1] == "}" and "}" not in text[1:-1] and "{" not in text[1:-1]:
        if "," in text:
            return "\\{" + text[1:-1].strip() + "\\}"  # {1, 2} is a set, whose braces were not escaped
        text = text[1:-1].strip()
    return text.replace("!=", "\\ne ").replace(">=", "\\ge ").replace("<=", "\\le ")


def _as_command(match: re.Match[str]) -> str:
    before = match.string[match.start() - 1] if match.start() else ""
    if before == "\\":
        return match.group()
    return f"\\sqrt{{{match.group(2)}}}" if match.group(1) == "sqrt" else f"\\{match.group(1)}({match.group(2)})"


def squeeze(text: str) -> str:
    """Without the blanks that mean nothing: "1 2" stays apart, "x + 1" does not."""
    return re.sub(r"(?<![\dA-Za-z]) | (?![\dA-Za-z])", "", text)


def balanced(text: str) -> bool:
    r"""Whether every { has its }; \{ and \} do not count."""
    depth = 0
    for bracket in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(bracket, 0)
        if depth < 0:
            return False
    return depth == 0


TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|textnormal|operatorname) ?\{([^{}]*)\}")


def bare_words(text: str) -> str:
    r"""Without \text and its like."""
    return re.sub(r"\s+", " ", TEXT.sub(r"\1", text)).strip().removesuffix(".").strip()


HEDGE = re.compile(
    r"\b(?:or|maybe|perhaps|possibly|either|any)\b|;|\\pm|\\mp|\d\s*\|\s*\d|\\lor(?![a-z])|\\vee(?![a-z])"
)
RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|in|to|approx|rightarrow)(?![a-z])")
UNEVALUATED = re.compile(
    r"\\(?:sum|i{0,2}int|oint|prod|lim|min|max|gcd|lcm)(?![a-z])"
    r"|\\frac ?\{ ?(?:d|\\partial)(?: ?\^[^}]{1,8}\}?)? ?\}? ?\{ ?(?:d|\\partial) ?[a-z]"
)
BASE = re.compile(r"([0-9A-Za-z]{1,200}) ?_ ?\{? ?(\d{1,2}) ?\}?")
_AND = re.compile(r"\s?,?\s?(?:\\(?:text|mathrm|mbox) ?\{ ?,? ?(?:and|or) ?\}|\b(?:and|or)\b)\s?,?\s?")


def commas_for_and(text: str) -> str:
    """`1 and 2`, `1 or 2` as `1, 2`."""
    return _AND.sub(", ", text)


def split_parts(text: str) -> list[str]:
    """Split at commas outside brackets; a comma of thousands does not split."""
    if read_quantity(text) is not None:
        return [text]
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"\\.|[()\[\]{},;]", text):
        mark = match.group()
        depth += (mark in ("(", "[", "{", "\\{")) - (mark in (")", "]", "}", "\\}"))
        if mark in (",", ";") and depth <= 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    return [*parts, text[start:].strip()]


def is_bracketed_list(text: str) -> bool:
    """(1, 2), but not (12)."""
    inner = bracketed(text)
    return inner is not None and len(split_parts(inner[1])) > 1


def bracketed(text: str) -> tuple[str, str] | None:
    r"""("(]", what is in them) where one pair of brackets holds the whole; "set" for \{ \}."""
    if text.startswith("\\{") and text.endswith("\\}") and text.count("\\{") == 1:
        return "set", text[2:-2].strip()
    if text and text[0] in "([" and text[-1] in ")]" and sum(text.count(c) for c in "()[]") == 2:
        return text[0] + text[-1], text[1:-1].strip()
    return None


def split_items(text: str) -> tuple[str, list[str]] | None:
    """(brackets, as `bracketed` names them, or "list" without any; the items), None for a single thing."""
    text = commas_for_and(text)
    inner = bracketed(text)
    parts = split_parts(inner[1] if inner else text)
    if len(parts) < 2 and not (inner and inner[0] == "set"):
        return None
    if inner is None:
        parts = [value_side(part) for part in parts]
    return (inner[0] if inner else "list"), parts


_ASSIGNED = re.compile(r"(\\?[A-Za-z]+(?: ?_ ?\{?\w{1,8}\}?)?|[A-Za-z] ?\([a-z]\)) ?= ?(?=[^=<>])")


def left_side(text: str) -> str:
    """The x of `x = 5`; "" without one name and one equals sign."""
    match = _ASSIGNED.match(text)
    return match.group(1) if match and len(match.group(1).lstrip("\\")) < 12 and "=" not in text[match.end() :] else ""


def value_side(text: str) -> str:
    """`x = 5` is 5. Words are no names: `score = 1` stays as it is."""
    match = _ASSIGNED.match(text)
    name = match.group(1) if match else ""
    if match is None or (len(name) > 1 and name.isalpha()):
        return text
    return text[match.end() :].strip()


def spread(text: str) -> str:
    r"""`1 \pm x` as `1 + x, 1 - x`."""
    if text.count("\\pm") != 1 or text.startswith("\\pm"):
        return text
    inner = bracketed(text)
    parts = []
    for part in split_parts(commas_for_and(inner[1] if inner and inner[0] == "set" else text)):
        if "\\pm" in part:
            parts += [re.sub(r"= ?\+", "=", part.replace("\\pm", "+")), part.replace("\\pm", "-")]
        else:
            parts.append(part)
    return ", ".join(parts)


# --- numbers


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as written; 2.50 cm: Quantity(Fraction(5, 2), digits=3, last_place=Fraction(1, 100), unit="cm")."""

    value: Fraction
    digits: int = 0
    """Significant digits where written as a decimal; 0 for what is exact (integers, fractions)."""
    last_place: Fraction = Fraction(0)
    """What 1 in the last of these digits is worth."""
    unit: str = ""


_N = r"(?:\d{1,3}(?:,\d{3}){1,40}|\d{1,3}(?: \d{3}){1,40}|\d{1,1500})?(?:\.\d{1,1000})?"
_DECIMAL = re.compile(rf"({_N})\.?")
_FRACTION = re.compile(rf"\\frac ?\{{ ?([+-]?{_N}) ?\}} ?\{{ ?([+-]?{_N}) ?\}}")
_SLASH = re.compile(rf"\(? ?([+-]?{_N}) ?/ ?({_N}) ?\)?")
_MIXED = re.compile(r"(\d{1,40}) ?(?:\\frac ?\{ ?(\d{1,40}) ?\} ?\{ ?(\d{1,40}) ?\}|(?<= )(\d{1,40}) ?/ ?(\d{1,40}))")
_SCIENTIFIC = re.compile(rf"({_N}) ?(?:[eE]|(?:\\times|\\cdot|\*) ?10 ?\^) ?\{{? ?([+-]?\d{{1,3}}) ?\}}?")
_POWER = re.compile(r"(\d{1,6}) ?\^ ?(?:(\d)|\{ ?([+-]?\d{1,4}) ?\})")
_REPEATING = re.compile(r"(\d{0,40})\.(\d{0,40})\\(?:overline|bar) ?\{? ?(\d{1,40}) ?\}?")

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
UNIT_NAMES = frozenset(_UNITS)
_SUFFIX = re.compile(
    r" ?(?:\\(?:text|mathrm|mbox|textbf|textnormal) ?\{ ?([A-Za-z][A-Za-z /^23]{0,30}|%) ?\}"
    r"|(?<=[\d} )])([A-Za-z]{2,20}(?: [A-Za-z]{2,20}){0,2}))"
    r"(?: ?\^ ?\{?([23])\}?)?"
)
_NO_UNIT = frozenset(
    ("and", "or", "not", "maybe", "pi", "sqrt", "mod", "times", "to", "is", "if", "because", "sin", "cos", "ln")
)


def with_letter_as_unit(text: str) -> str:
    """5 m as 5 \\text{m}, so that it is read as metres; likewise g, s, h."""
    return re.sub(r"(?<=\d) ?([mgsh])\Z", r" \\text{\1}", text)


@lru_cache(4096)
def read_quantity(text: str) -> Quantity | None:
    """The plain rational that a normalised text writes, with its unit; None for anything else."""
    if len(text) > LONGEST or not re.search(r"\d", text):
        return None
    whole = re.fullmatch(r"\\(?:text|mathrm|mbox|textbf) ?\{([^{}]*)\}", text)
    text = whole.group(1).strip() if whole else text
    unit = ""
    suffix = next((found for found in _SUFFIX.finditer(text) if found.end() == len(text) and found.start() > 0), None)
    if suffix:
        name = (suffix.group(1) or suffix.group(2)).strip().lower()
        if set(name.split()) & _NO_UNIT:
            return None
        unit = "%" if name in ("percent", "pct", "%") else _UNIT_OF.get(name, name) + (suffix.group(3) or "")
        text = text[: suffix.start()].rstrip()
    if text.endswith("%"):
        text, unit = text[:-1].rstrip(), "%"
    while len(text) > 2 and text[0] == "(" and text[-1] == ")" and text.count("(") == 1:
        text = text[1:-1].strip()
    sign = -1 if text.startswith("-") else 1
    number = _unsigned(text.removeprefix("-" if sign < 0 else "+").removeprefix(" "))
    if number is None:
        return None
    scale = 100 if unit == "%" else 1
    unit = "" if unit == "%" else unit
    return replace(number, value=sign * number.value / scale, last_place=number.last_place / scale, unit=unit)


def _unsigned(text: str) -> Quantity | None:
    if match := _DECIMAL.fullmatch(text):
        return _decimal(match.group(1))
    for pattern in (_FRACTION, _SLASH):
        if match := pattern.fullmatch(text):
            top, bottom = _decimal(match.group(1)), _decimal(match.group(2))
            return Quantity(top.value / bottom.value) if top and bottom and bottom.value else None
    if match := _MIXED.fullmatch(text):
        top, bottom = int(match.group(2) or match.group(4)), int(match.group(3) or match.group(5))
        return Quantity(int(match.group(1)) + Fraction(top, bottom)) if bottom else None
    if match := _SCIENTIFIC.fullmatch(text):
        head, scale = _decimal(match.group(1)), Fraction(10) ** int(match.group(2))
        return Quantity(head.value * scale, head.digits, head.last_place * scale) if head else None
    if match := _POWER.fullmatch(text):
        base, exponent = int(match.group(1)), int(match.group(2) or match.group(3))
        if abs(exponent) * len(match.group(1)) > 12_000 or (base == 0 and exponent <= 0):
            return None
        return Quantity(Fraction(base) ** exponent)
    if match := _REPEATING.fullmatch(text):
        lead, fixed, period = match.group(1) or "0", match.group(2), match.group(3)
        top = int(lead + fixed + period) - int(lead + fixed)
        return Quantity(Fraction(top, 10 ** len(fixed) * (10 ** len(period) - 1)))
    return None


def _decimal(text: str) -> Quantity | None:
    negative, text = text.startswith("-"), text.lstrip("+-").replace(",", "").replace(" ", "")
    if not text or text == ".":
        return None
    places = len(text.partition(".")[2])
    digits = len(text.replace(".", "").lstrip("0")) if places else 0
    value = Fraction(text) * (-1 if negative else 1)
    return Quantity(value, digits, Fraction(1, 10**places) if places else Fraction(0))


def same_number(gold: Quantity, answer: Quantity) -> bool:
    """Exact, but for decimals of 10 and more digits, which are rounded: 0.3333333333 is 1/3, 0.3333 is not."""
    if gold.value == answer.value:
        return True
    rounded = max(gold, answer, key=lambda number: number.last_place)
    return rounded.digits >= 10 and abs(gold.value - answer.value) < rounded.last_place


# --- guard


_BIG = re.compile(r"\d{5}")


def too_complex(text: str) -> str:
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
