"""A maths answer in parts: its items, its names, the number that it writes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from rlvr.verifiers.math_spelling import LONGEST, bare_words
from rlvr.verifiers.math_units import compound, scaled, split_unit

# --- parts


_AND = re.compile(
    r" ?,? ?(?:\\text ?\{ ?,? ?(?:and|or) ?\}|\\l(?:or|and)(?![a-z])|\b(?:and|or)\b) ?,? ?"
    r"|(?<=[\d)\]}]) ?\\text ?\{ ?(?:for|in|from) [^{}]{0,40}\b(?:and|or) ?\} ?(?=[-\d(\[\\])"
)
_MARK = re.compile(r"\\.|[()\[\]{},;]")
_DEEPER = frozenset(("(", "[", "{", "\\{"))
_UP = frozenset((")", "]", "}", "\\}"))


def commas_for_and(text: str) -> str:
    """`1 and 2`, `1 or 2` as `1, 2`."""
    return _AND.sub(", ", text) if "or" in text or "and" in text else text


def split_at(text: str, marks: str) -> list[str]:
    """Split at these of `,;` outside brackets."""
    if not any(mark in text for mark in marks):
        return [text]
    parts, depth, start = [], 0, 0
    for match in _MARK.finditer(text):
        mark = match.group()
        if mark in _DEEPER:
            depth += 1
        elif mark in _UP:
            depth -= 1
        elif mark in marks and depth <= 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    parts.append(text[start:].strip())
    return parts


def is_enclosed(text: str) -> bool:
    r"""Whether the first bracket, ( [ or \{, is closed by the last character alone."""
    if text.startswith("\\{"):
        if not text.endswith("\\}"):
            return False
    elif not (text and text[0] in "([" and text[-1] in ")]"):
        return False
    depth = 0
    for match in _MARK.finditer(text):
        mark = match.group()
        if mark in _DEEPER:
            depth += 1
        elif mark in _UP:
            depth -= 1
            if depth == 0:
                return match.end() == len(text)
    return False


_SIDE = r"(?:[A-Z]{1,4}|[A-Za-z] ?_ ?(?:\{[^{}]{1,20}\}|\w)|\| ?[A-Z]{1,3} ?\|)"
_ASSIGNED = re.compile(
    rf"(\\frac ?\{{ ?{_SIDE} ?\}} ?\{{ ?{_SIDE} ?\}}|{_SIDE} ?[:/] ?{_SIDE}"
    r"|\\frac ?\{ ?(?:d|\\partial)[^{}]{0,12}\} ?\{ ?(?:d|\\partial) ?[a-z](?: ?\^ ?\{?\d\}?)?\}"
    r"|(?:P|\\Pr|E|\\mathbb ?\{?[EP]\}?) ?[(\[][^()\[\]]{1,40}[)\]]"
    r"|\\(?:sin|cos|tan|cot|sec|csc) ?\(?(?:\\angle ?)?(?:[A-Z]{1,3}|\\(?:alpha|beta|gamma|theta|phi))"
    r"(?![A-Za-z])\)?"
    r"|\\?[A-Za-z]+(?: ?_ ?(?:\{[^{}]{1,12}\}|\w))?'?(?: ?\([^()=<>]{1,20}\))?|\|[A-Z]{1,3}\|"
    r"|\\(?:angle|overline|triangle) ?\{?[A-Z]{1,4}\}?|\([a-zA-Z](?:, ?[a-zA-Z]){1,4}\)|\\text ?\{[^{}]{1,30}\})"
    r" ?= ?(?=[^=<>])"
)
_LIMITS = re.compile(r"_ ?\{[^{}]*\}")


def is_equation(text: str) -> bool:
    """Whether an equals sign stands in it, the limits of sums aside."""
    return "=" in text and "=" in _LIMITS.sub("", text)


_TURNED = re.compile(r"([^=<>:]{0,60}\d[^=<>:]{0,60}?) ?= ?([a-zA-Z])")
_LETTERS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
_NOT_A_NAME = frozenset(("score", "reward", "correct", "grade", "verdict", "accuracy", "result", "true", "pass"))


def assigned(text: str) -> tuple[str, str]:
    """("x", "5") of `x = 5`, ("", text) of what assigns nothing to one name. Words are no names, but for labels."""
    if "=" not in text:
        return "", text
    match = _ASSIGNED.match(text)
    if match is None:
        turned = _TURNED.fullmatch(text)
        return (turned.group(2), turned.group(1)) if turned and not _LETTERS.search(turned.group(1)) else ("", text)
    name = match.group(1).replace(" ", "").replace("{", "").replace("}", "")
    words = name.removeprefix("\\text").strip('"').casefold()
    if words in _NOT_A_NAME or (len(name) > 3 and name.isalpha() and name.islower()):
        return "", text
    return name, text[match.end() :].strip()


def spread(text: str) -> list[str]:
    r"""`1 \pm x` as `1 + x` and `1 - x`; what has several \pm, or none, as it is."""
    if text.count("\\pm") != 1:
        return [text]
    plus = text.replace("\\pm", "+").replace("\\mp", "-")
    minus = text.replace("\\pm", "-").replace("\\mp", "+")
    return [_UNARY_PLUS.sub(r"\1", plus), minus]


_UNARY_PLUS = re.compile(r"(\A|[=,(\[{]) ?\+ ?")

# --- several values


HEDGE = re.compile(
    r"\b(?:or|maybe|perhaps|possibly|probably|either|any|between|approximately|about|around|roughly)\b|;|\\pm|\\mp"
    r"|\d ?\| ?\d|\\lor(?![a-z])"
)


def split_parts(text: str) -> list[str]:
    """Split at commas and semicolons outside brackets; a comma of thousands does not split."""
    if "," not in text and ";" not in text:
        return [text]
    return [text] if read_quantity(text) is not None else split_at(text, ",;")


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
    """As written; a noun too (7 apples). A percentage has none: its value is the hundredth part."""

    def as_text(self) -> str:
        """Without the unit, in LaTeX; "" for what has hundreds of digits."""
        top, bottom = self.value.numerator, self.value.denominator
        if max(top.bit_length(), bottom.bit_length()) > 1000:
            return ""
        return str(top) if bottom == 1 else f"\\frac{{{top}}}{{{bottom}}}"


_N = r"(?:\d{1,3}(?:,\d{3}){1,40}|\d{1,3}(?: \d{3}){1,40}|\d{1,1500})?(?:\.\d{1,1000})?"
_INTEGER = re.compile(r"-?\d{1,1500}")
_DECIMAL = re.compile(rf"({_N})\.?")
_FRACTION = re.compile(rf"\\frac ?\{{ ?([+-]?{_N}) ?\}} ?\{{ ?([+-]?{_N}) ?\}}")
_SLASH = re.compile(rf"\(? ?([+-]?{_N}) ?\)? ?/ ?\(? ?(-?{_N}) ?\)?")
_MIXED = re.compile(r"(\d{1,40}) ?(?:\\frac ?\{ ?(\d{1,40}) ?\} ?\{ ?(\d{1,40}) ?\}|(?<= )(\d{1,40}) ?/ ?(\d{1,40}))")
_SCIENTIFIC = re.compile(
    rf"({_N}) ?(?:[eE]|(?:\\times|\\cdot|\*|x) ?10 ?\^) ?"
    r"(?:(-?\d{1,3})|\{ ?([+-]?\d{1,3}) ?\}|\(([+-]?\d{1,3})\)|\+(\d{1,3}))"
)
_POWER = re.compile(r"(\d{1,6}|\( ?-?\d{1,6} ?\)) ?\^ ?(?:(\d)|\{ ?([+-]?\d{1,4}) ?\}|(-?\d{1,4})\Z)")
_REPEATING = re.compile(r"(\d{0,40})\.(\d{0,40})(?:\\(?:overline|bar|dot) ?\{? ?(\d{1,40}) ?\}?|\((\d{1,40})\))")

_PREFIX = re.compile(
    r"\\text ?\{ ?(?:Rs\.?|USD|EUR|GBP|INR|US|HK|total|Total)[: ]{0,2}\}|(?:Rs\.?|USD|EUR|GBP|INR)(?= ?\d)"
)


@lru_cache(4096)
def read_quantity(text: str) -> Quantity | None:
    """The plain rational that a normalised text writes, with its unit; None for anything else."""
    if _INTEGER.fullmatch(text):
        return Quantity(Fraction(int(text)))
    if len(text) > LONGEST or not _DIGIT.search(text):
        return None
    if text.startswith("\\text") and (whole := _WHOLE.fullmatch(text)):
        text = whole.group(1).strip()
    if (prefix := _PREFIX.match(text)) is not None:
        text = text[prefix.end() :].lstrip()
    body, unit = split_unit(text)
    if body.endswith("%"):
        body, unit = body[:-1].rstrip(), "%"
    scale, unit = scaled(unit)
    while len(body) > 2 and body[0] == "(" and body[-1] == ")" and body.count("(") == 1 and not _PAIR.search(body):
        body = body[1:-1].strip()
    sign = -1 if body.startswith("-") else 1
    number = _unsigned(body.removeprefix("-" if sign < 0 else "+").lstrip(" "))
    if number is None:
        return _several_units(text)
    if unit == "%":
        return replace(number, value=sign * number.value / 100, last_place=number.last_place / 100)
    if scale > 1:
        number = replace(number, value=number.value * scale, last_place=number.last_place * scale)
    return replace(number, value=sign * number.value, unit=unit) if unit or sign < 0 else number


def _several_units(text: str) -> Quantity | None:
    """2 h 30 min as 2.5 h."""
    if not _SEVERAL.match(text):
        return None
    words = bare_words(text)
    sign = -1 if words.startswith("-") else 1
    found = compound(words.removeprefix("-").lstrip())
    return Quantity(sign * found[0], unit=found[1]) if found else None


_PAIR = re.compile(r",[1-9]")
_SEVERAL = re.compile(r"-? ?\d[\d.]* ?(?:\\text|[A-Za-z])")
_DIGIT = re.compile(r"\d")
_WHOLE = re.compile(r"\\text ?\{([^{}]*)\}")


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
        exponent = int(next(group for group in match.groups()[1:] if group))
        head, scale = _decimal(match.group(1)), Fraction(10) ** exponent
        if head is None:
            return None
        return Quantity(head.value * scale, head.digits, head.last_place * scale)
    if match := _POWER.fullmatch(text):
        base, exponent = int(match.group(1).strip("() ")), int(match.group(2) or match.group(3) or match.group(4))
        if abs(exponent) * len(match.group(1)) > 12_000 or (base == 0 and exponent <= 0):
            return None
        return Quantity(Fraction(base) ** exponent)
    if match := _REPEATING.fullmatch(text):
        lead, fixed, period = match.group(1) or "0", match.group(2), match.group(3) or match.group(4)
        top = int(lead + fixed + period) - int(lead + fixed)
        return Quantity(Fraction(top, 10 ** len(fixed) * (10 ** len(period) - 1)))
    return None


def _decimal(text: str) -> Quantity | None:
    negative, text = text.startswith("-"), text.lstrip("+-").replace(",", "").replace(" ", "")
    if not text or text == ".":
        return None
    places = len(text.partition(".")[2])
    value = Fraction(text) * (-1 if negative else 1)
    if not places:
        return Quantity(value)
    return Quantity(value, len(text.replace(".", "").lstrip("0")), Fraction(1, 10**places))


def same_number(gold: Quantity, answer: Quantity) -> bool:
    """Exact, but for decimals of 10 and more digits, which are rounded: 0.3333333333 is 1/3, 0.3333 is not."""
    if gold.value == answer.value:
        return True
    rounded = max(gold, answer, key=lambda number: number.last_place)
    return rounded.digits >= 10 and abs(gold.value - answer.value) < rounded.last_place
