"""What is too much for algebra: decided from the text, before anything is computed."""

from __future__ import annotations

import re

from rlvr.verifiers.math_spelling import LONGEST
from rlvr.verifiers.math_text import commas_for_and, split_parts

DEEPEST = 24
"""Brackets within brackets."""
_MOST_OPERATIONS = 200
_MOST_ATOMS = 250
"""Numbers, names and commands; reading 1000 of them costs a second."""

_MOST_BARS = 12
_DEEPEST_FRACTION = 8
_MOST_FUNCTIONS = 16
"""Sines and their like; algebra writes them out by each other."""

_BIG = re.compile(r"\d{5}")
_LONG_NUMBER = re.compile(r"\d{400}")
_FRACTION = re.compile(r"\\frac ?\{|\} ?\{|[{}]")
_FUNCTION = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?(?![a-z])")
_HIGH_FUNCTION = re.compile(
    r"\\(?:sin|cos|tan|cot|sec|csc)h? ?(?:\^ ?\{? ?\d{2}|\(?[^()\\]{0,40}\)? ?\^ ?\{? ?\d{2}"
    r"|(?:\(|\{| )? ?\d{3}|\(?[A-Za-z] ?\^ ?\{? ?\d{2})"
)
_RELATION = re.compile(r"[<>]|\\(?:le|ge)(?![a-z])")
_HIGH_DEGREE = re.compile(r"(?:(?<![\\A-Za-z])[A-Za-z]|[A-Za-z][^()]{0,40}\)) ?\^ ?\{? ?(?:1[3-9]|[2-9]\d|\d{3})")
_NESTED_ROOT = re.compile(r"\\sqrt ?\{[^<>}]{0,40}\\sqrt ?\{[^{}]{0,40}?(?<![\\A-Za-z])[A-Za-z]")
_UNIT_ABOVE = re.compile(r"\^ ?\{ ?\d[\d.]* ?(?:\\text|[A-Za-z]{2})")
_BRACKET = re.compile(r"[()\[\]{}]")
_EXPONENT = re.compile(r"\^ ?(\{[^{}]*\}?|\(?[^\s{}]+)")
_TOWER = re.compile(r"\^ ?\{?[^{}]{0,40}[\w)}] ?\^ ?\{?[^{}]{0,40}[\w)}] ?\^|\d ?\^ ?[{(]? ?-?\d+ ?\^")
_ATOM = re.compile(r"\d+|[A-Za-z]+|[|&!']")
_OPERATION = re.compile(r"[+\-*/^]|\\cdot|\\times")
_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")


def too_complex(text: str) -> str:
    """Why algebra on this text could take for ever; "" where it is safe to try. The worker's deadline is behind it."""
    if len(text) > LONGEST:
        return f"longer than {LONGEST} characters"
    depth = deepest = 0
    for mark in _BRACKET.findall(text):
        depth += 1 if mark in "([{" else -1
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        return f"brackets nested {deepest} deep (at most {DEEPEST})"
    if text.count("|") > _MOST_BARS:
        return f"more than {_MOST_BARS} bars"
    if _deepest_fraction(text) > _DEEPEST_FRACTION:
        return f"fractions nested more than {_DEEPEST_FRACTION} deep"
    if _LONG_NUMBER.search(text):
        return "a number of 400 digits or more"
    if len(_FUNCTION.findall(text)) > _MOST_FUNCTIONS or _HIGH_FUNCTION.search(text):
        return "trigonometric functions that are too many, or of too high a power or multiple"
    if _RELATION.search(text) and (_HIGH_DEGREE.search(text) or _NESTED_ROOT.search(text) or text.count("|") > 4):
        return "a relation of high degree, or with many bars, or roots within roots"
    if len(_OPERATION.findall(text)) > _MOST_OPERATIONS:
        return f"more than {_MOST_OPERATIONS} operations"
    if len(_ATOM.findall(text)) > _MOST_ATOMS:
        return f"more than {_MOST_ATOMS} numbers and names"
    if "^" in text:
        if any(_BIG.search(exponent) for exponent in _EXPONENT.findall(text)):
            return "an exponent of 5 digits or more"
        if _TOWER.search(text):
            return "a tower of powers"
        if _UNIT_ABOVE.search(text):
            return "a unit in an exponent"
        if re.search(r"[)\]}] ?\^ ?\{? ?\d{3}", text) and _LETTER.search(text):
            return "a power of a sum with an exponent of 3 digits"
    if "!" in text and (_BIG.search(text) or re.search(r"\^[^!]{0,40}!|! ?\)? ?(?:!|\^ ?\{? ?\d{2})", text)):
        return "a factorial of something large"
    if "binom" in text and (_BIG.search(text) or re.search(r"binom[^+]{0,40}\^", text)):
        return "a binomial of something large"
    return ""


def _deepest_fraction(text: str) -> int:
    if text.count("\\frac") <= _DEEPEST_FRACTION:
        return 0
    opened: list[bool] = []
    depth = deepest = 0
    for match in _FRACTION.finditer(text):
        mark = match.group()
        of_fraction = mark[0] == "\\"
        if mark[0] == "}" and opened:
            of_fraction = opened.pop()
            depth -= of_fraction
        if mark[-1] == "{":  # `}{` opens the denominator
            opened.append(of_fraction)
            depth += of_fraction
            deepest = max(deepest, depth)
    return deepest


_UNFINISHED = re.compile(r"[-+*/^_=<>&]\Z|\A[*/^_<>&]|\\(?:cdot|times|le|ge|ne|in|pm)\Z")
_BRACKETED = re.compile(r"(?<![A-Za-z\d}_^)])\( ?-?[\d.]+(?: ?/ ?\d+)? ?\) ?\d")
_LESS = re.compile(r"<|\\le(?![a-z])")
_MORE = re.compile(r">|\\ge(?![a-z])")
_APART = re.compile(r"(?<![\d,. ])(?!\d{1,3}(?: \d{3})+(?![\d ]))[\d,.]*\d \d")


def unfinished(text: str) -> str:
    """Why this is no formula: a sign without its operand, or two numbers without a sign, or a chain that turns; ""."""
    if _UNFINISHED.search(text):
        return "a sign stands without its operand"
    if _LESS.search(text) and any(_LESS.search(p) and _MORE.search(p) for p in split_parts(commas_for_and(text))):
        return "a chain of relations that point both ways"
    if _BRACKETED.search(text):
        return "two numbers without a sign between them"
    return "two numbers without a sign between them" if _APART.search(text) and "/" not in text else ""


_IN_TEXT = re.compile(r"\\text ?\{[^{}]*\}")
_PRIME = re.compile(r"''|['\"]|\\prime(?![a-z])")


def num_primes(text: str) -> int:
    """Of f', 5' and 6": marks that algebra does not see."""
    found = _PRIME.findall(_IN_TEXT.sub("", text))
    return sum(2 if mark in ("''", '"') else 1 for mark in found)


def builds_set(text: str) -> bool:
    """Whether it is {x : ...}, of which algebra reads a part."""
    return text.startswith("\\{") and _CONDITION.search(text) is not None


_CONDITION = re.compile(r"\A\\\{[^|:{}]{1,40}[|:]")
