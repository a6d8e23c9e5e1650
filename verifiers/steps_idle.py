"""Which right steps do nothing, or have nothing to do with the task.

`x + 0 = x`, `3 * 1 = 3` and `a + b = b + a` are true of anything, and so are sums of numbers that the task never named.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rlvr.types import Prompt

Token = str | Fraction
_TOKEN = re.compile(r"\d+(?:\.\d+)?|\.\d+|\\?[A-Za-z]+|\S")
_SPELLED = {"\\cdot": "*", "\\times": "*", "×": "*", "·": "*", "\\div": "/", "÷": "/", "{": "(", "}": ")", "−": "-"}
_FRACTION = re.compile(r"\\[dt]?frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}")
_DROPPED = frozenset(("\\left", "\\right", "\\,", "$"))
_FUNCTIONS = frozenset("sqrt sin cos tan ln log exp pi frac dfrac tfrac".split())
_PROMPT_NUMBER = re.compile(r"(?<![\d.])\d+(?:,\d{3}(?!\d))*(?:\.\d+)?")
_PROMPT_NAME = re.compile(
    r"(?<![A-Za-z\\'’])(?:[A-Za-z](?![A-Za-z'’])|[A-Za-z]{2,3}(?=\s?[-+*/=^]))|(?<=\d)[A-Za-z]{1,3}(?![A-Za-z])"
)
_ARTICLES = re.compile(r"\b(?:[Aa]|I)\s+(?=[A-Za-z]{2})")
_SPOKEN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
_NUMBER_WORDS = (
    {word: k for k, word in enumerate(_SPOKEN)}
    | {word: 10 * k for k, word in enumerate("thirty forty fifty sixty seventy eighty ninety".split(), 3)}
    | {"once": 1, "twice": 2, "double": 2, "half": 2, "pair": 2, "thrice": 3, "triple": 3, "third": 3, "quarter": 4}
    | {"dozen": 12, "percent": 100, "hundred": 100, "thousand": 1000}
)
_WORD = re.compile(r"[A-Za-z]+")
_MOST_PROMPT = 100_000
"""Characters of a prompt that are read."""


def plain(side: str) -> tuple[Token, ...]:
    """What a side of a step says, without + 0, * 1, / 1, ^ 1 and brackets around one thing. Numbers by their value."""
    tokens: list[Token] = []
    for word in _TOKEN.findall(_FRACTION.sub(r"(\1)/(\2)", side)):
        if word[-1].isdecimal():
            tokens.append(Fraction(word))
        elif word.isalpha() and word not in _FUNCTIONS:
            tokens += word
        elif word not in _DROPPED:
            tokens.append(_SPELLED.get(word) or word)
    while (shorter := _without_idle(tokens)) != tokens:
        tokens = shorter
    return tuple(tokens)


def _without_idle(tokens: list[Token]) -> list[Token]:
    found: list[Token] = []
    k = 0
    while k < len(tokens):
        here, after, behind = (*tokens[k : k + 3], "", "")[:3]
        before = found[-1] if found else ""
        is_idle = (
            (here in ("*", "/", "^") and after == 1 and behind not in ("^", "!") and found != [])
            or (here in ("+", "-") and after == 0 and behind in ("", "+", "-", ")"))
            or (here == 0 and after == "+" and before in ("", "("))
            or (here == 1 and after == "*" and before in ("", "(", "+", "-"))
        )
        if is_idle:
            k += 2
        elif here == "(" and behind == ")" and after not in ("(", ")") and not _is_function(before):
            found.append(after)
            k += 3
        else:
            found.append(here)
            k += 1
    return found


def _is_function(token: Token) -> bool:
    return isinstance(token, str) and token.lstrip("\\") in _FUNCTIONS


def key(side: str) -> tuple[str, ...]:
    """The same for sides that differ in order, brackets and idle operations alone."""
    return tuple(sorted(str(token) for token in plain(side) if token not in ("(", ")", "*")))


def used(left: str, right: str) -> frozenset[Token]:
    """Numbers and names that a step works with: of the sides that are more than a number, or of both."""
    sides = [plain(left), plain(right)]
    working = [side for side in sides if len(side) > 1] or sides
    return frozenset(one for side in working for one in _things(side))


def things(left: str, right: str) -> frozenset[Token]:
    """All numbers and names of a step."""
    return frozenset(one for side in (left, right) for one in _things(plain(side)))


def _things(side: tuple[Token, ...]) -> list[Token]:
    return [one for one in side if isinstance(one, Fraction) or (one.lstrip("\\").isalpha() and not _is_function(one))]


def said_in(prompt: Prompt) -> frozenset[Token]:
    """Numbers, in digits or words, and names that a prompt speaks of; empty where it has none."""
    whole = prompt if isinstance(prompt, str) else "\n".join(str(message["content"]) for message in prompt)
    text = whole[:_MOST_PROMPT]
    found: set[Token] = {Fraction(number.replace(",", "")) for number in _PROMPT_NUMBER.findall(text)}
    found |= {Fraction(_NUMBER_WORDS[word]) for word in map(str.lower, _WORD.findall(text)) if word in _NUMBER_WORDS}
    for name in _PROMPT_NAME.findall(_ARTICLES.sub("", text)):
        found |= set(name)
    return frozenset(found)
