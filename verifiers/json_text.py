r"""Reads JSON as RFC 8259 has it and no looser: what Python's parser lets through is refused, with where it stands.

Refused beside what is no JSON: a key twice in one object, NaN and Infinity, numbers that no float holds, half surrogate
pairs, and more depth, digits or characters than any answer has. One pass over the text before it is parsed, so hostile
text costs its length and never the interpreter's stack.
"""

from __future__ import annotations

import json
import re
from typing import Any

from rlvr.verifiers.code_text import Refused

MOST_CHARACTERS = 1 << 18
MOST_DEPTH = 64
"""Lists and objects within each other."""
MOST_DIGITS = 400
"""Characters of one number; a float has at most 309 digits before the point."""

# Possessive repeats: a string that is never closed is walked once, not from each of its quotes.
_TOKEN = re.compile(r""""[^"\\]*+(?:\\.[^"\\]*+)*+"?+|[\[\]{}']|[A-Za-z_]++|-?+[0-9][0-9.eE+-]*+""", re.DOTALL)
_COLON = re.compile(r"[ \t\r\n]*+:")
_WORDS = frozenset({"true", "false", "null"})
_DECODER = json.JSONDecoder()


def parse_json(text: str) -> tuple[Any] | Refused:
    """(value,) of a text that is one JSON value, or why it is not; positions count characters from 0."""
    if len(text) > MOST_CHARACTERS:
        return Refused("too_complex", f"{len(text)} characters of JSON, and at most {MOST_CHARACTERS} are read")
    if (problem := _scan(text)) is not None:
        return Refused("malformed", problem)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        message = "more text behind the value" if error.msg == "Extra data" else error.msg.removesuffix(" at").lower()
        return Refused("malformed", f"not JSON: {message} {_at(text, error.pos)}")
    try:
        text.encode()
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return Refused("malformed", "not JSON: half a surrogate pair, which is no valid text")
    return (value,)


def _scan(text: str) -> str | None:
    """What json.loads would let through or choke on."""
    opened: list[set[str] | None] = []  # the keys so far of each open object; None for a list
    for match in _TOKEN.finditer(text):
        token, start = match.group(), match.start()
        sign = token[0]
        if sign == '"':
            if opened and (keys := opened[-1]) is not None and _COLON.match(text, match.end()):
                key = _unescaped(token)
                if key in keys:
                    return f"the key {key[:60]!r} stands twice in one object, again {_at(text, start)}"
                keys.add(key)
        elif sign in "[{":
            if len(opened) == MOST_DEPTH:
                return f"nested more than {MOST_DEPTH} deep {_at(text, start)}"
            opened.append(set() if sign == "{" else None)
        elif sign in "]}":
            if opened:
                opened.pop()
        elif sign == "'":
            return f"not JSON: a single quote {_at(text, start)}"
        elif sign.isalpha() or sign == "_":
            if token not in _WORDS:
                return f"not JSON: {token[:60]} {_at(text, start)}"
        elif (problem := _number_problem(token)) is not None:
            return f"{problem} {_at(text, start)}"
    return None


def _number_problem(token: str) -> str | None:
    if len(token) > MOST_DIGITS:
        return f"a number of {len(token)} characters, and at most {MOST_DIGITS} are read,"
    try:
        is_beyond = float(token) in (float("inf"), float("-inf")) and not token.lstrip("-").isdigit()
    except ValueError:  # no number at all: the parser says so
        return None
    return f"{token[:60]} is more than a float holds" if is_beyond else None


def _unescaped(token: str) -> str:
    """The text of a quoted key; as it is written where its escapes are wrong, which the parser finds."""
    if "\\" in token:
        try:
            return json.loads(token)
        except ValueError:
            pass
    return token[1:-1]


def _at(text: str, position: int) -> str:
    """at character 14 (line 2 column 3)"""
    line = text.count("\n", 0, position) + 1
    column = position - (text.rfind("\n", 0, position) + 1) + 1
    return f"at character {position} (line {line} column {column})"
