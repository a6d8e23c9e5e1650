"""SQL as text: the query that a response commits to, and what can be read from a query without running it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction

from rlvr.verifiers.answer_text import after_thinking
from rlvr.verifiers.code_text import Refused, fences
from rlvr.verifiers.extract import extract, last_tag

MOST_CHARACTERS = 20_000
"""Of a query."""
_TAGS = frozenset(("sql", "sqlite", "sqlite3", "duckdb", "postgresql", "postgres", "mysql"))
_QUERY = re.compile(r"\s*+(?:--[^\n]*+\n\s*+)*+(?:\(\s*+)*+(?:select|with|values)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Query:
    """Query("SELECT 1", "fence")"""

    text: str
    how: str


def find_query(response: str) -> Query | Refused:
    """The last complete fence that is tagged as SQL, or is not tagged and begins like a query; else `<answer>`; else
    the last box; else the whole response where it begins like a query. Thinking does not count.
    """
    text = after_thinking(response)
    if text is None:
        return Refused("no_answer", "the response is still thinking when it ends")
    fenced = [code for tag, code in fences(text) if tag in _TAGS or (not tag and _QUERY.match(code))]
    if fenced:
        query, how = fenced[-1], "fence"
    elif (tagged := last_tag(text)) is not None:
        query, how = tagged, "answer_tag"
    elif (found := extract(text)) is not None and found.how == "boxed_list":
        return Refused("hedged", "several boxes with different queries")
    elif found is not None and found.how == "boxed":
        query, how = found.answer, "boxed"
    elif _QUERY.match(text):
        query, how = text, "whole"
    else:
        return Refused("no_answer", "the response has no complete ```sql fence, and is no query itself")
    query = query.strip()
    if not query:
        return Refused("no_answer", "the query is empty")
    if not is_text(query):
        return Refused("malformed", "the query holds a NUL or half a character, and so is no text")
    if len(query) > MOST_CHARACTERS:
        return Refused("too_complex", f"the query is longer than {MOST_CHARACTERS} characters")
    return Query(query, how)


def is_text(query: str) -> bool:
    """Whether engines can be given it: without NUL and without surrogates, which are halves of characters."""
    return _BROKEN.search(query) is None


_BROKEN = re.compile("[\0\ud800-\udfff]")
_TOKEN = re.compile(
    r"--[^\n]*|/\*(?:[^*]|\*(?!/))*+(?:\*/|\Z)"  # comments; one that is not closed goes to the end
    r"|'(?:[^']|'')*+'|\"(?:[^\"]|\"\")*+\"|`[^`]*+`|\[[^\]]*+\]|[A-Za-z_]\w*|\d[\w.]*|[^\s]"
)


def tokens(query: str) -> Iterator[str]:
    """Words, quoted things and signs of a query, without comments. One pass."""
    for match in _TOKEN.finditer(query):
        token = match.group()
        if not token.startswith(("--", "/*")):
            yield token


def is_read(query: str) -> bool:
    """Whether it begins as a query does: SELECT, WITH or VALUES, perhaps in brackets."""
    first = next((token for token in tokens(query) if token != "("), "")
    return first.casefold() in ("select", "with", "values")


def is_ordered(query: str) -> bool:
    """Whether ORDER BY stands outside all brackets, and so orders the result."""
    depth, previous = 0, ""
    for token in tokens(query):
        depth += (token == "(") - (token == ")")
        word = token.casefold()
        if depth == 0 and word == "by" and previous == "order":
            return True
        previous = word
    return False


_CLAUSE = frozenset("select from where and or not on by having when then else end union intersect except join".split())
_SKIPPED = ("limit", "offset", "fetch", "interval")
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")


def literals(query: str, columns: Collection[str]) -> dict[str, list[str | Fraction]]:
    """Numbers and texts that a query sets against a column, by its name; columns: names in lower case.

    A literal belongs to the last column before it within its condition, or to the first one behind it.
    """
    found: dict[str, list[str | Fraction]] = {}
    column, waiting, previous, is_between, is_skipped = "", [], "", False, False
    for token in tokens(query):
        word = token.strip('"`[]').casefold()
        value = _value(token, previous)
        if word in columns and not token.startswith("'"):
            column, is_skipped = word, False
            found.setdefault(column, []).extend(waiting)
            waiting = []
        elif word in _CLAUSE or word in _SKIPPED:
            if not (is_between and word == "and"):
                column, waiting = "", []
            is_between, is_skipped = False, word in _SKIPPED
        elif word == "between":
            is_between = True
        elif value is not None and not is_skipped:
            (found[column] if column else waiting).append(value)
        previous = token
    return found


def _value(token: str, previous: str) -> str | Fraction | None:
    if token[:1] in "'\"" and len(token) > 1:
        return token[1:-1].replace(token[0] * 2, token[0])
    if len(token) > 20 or not _NUMBER.fullmatch(token):
        return None
    return -Fraction(token) if previous == "-" else Fraction(token)
