"""What the SQL engines have in common: a database that can be read and copied, the result of a query, its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from rlvr.types import Outcome

MOST_ROWS = 10_000
"""Of the result of a gold query."""
MOST_COPIED = 500
"""Rows of each table that are copied into a database of our making."""
MOST_CELL = 200_000
"""Bytes of one value."""


RowsOf = tuple[str, tuple[str, ...], list[tuple[Any, ...]]]
"""Rows for a table: its name, the columns (none: all of them, in order), their values."""


class QueryError(Exception):
    """Why a query has no result: its outcome where a response wrote it, and one sentence."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome: Outcome = outcome
        self.reason = reason


class EngineError(RuntimeError):
    """The engine failed, whoever's query it ran: its database is of no more use."""


class SourceError(ValueError):
    """Why a gold's database cannot be had."""


def told(error: BaseException) -> str:
    """What an engine says of an error, in one line."""
    return " ".join(str(error).split())[:200]


def quoted(name: str) -> str:
    """The name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class Result:
    """Result(columns=("k",), rows=(("a",), ("b",)), steps=1000, tables=frozenset({"u"}))"""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    """At most as many as were asked for."""
    steps: int = 0
    """Of the engine's machine, in thousands, rounded down to them; 0 where it does not count."""
    tables: frozenset[str] | None = None
    """Tables and views that it reads, in lower case; None where the engine does not tell."""


@dataclass(frozen=True, slots=True)
class Link:
    """A foreign key: Link((2,), "author", (0,))"""

    columns: tuple[int, ...]
    parent: str
    parent_columns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table as data."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    """At most MOST_COPIED."""
    keys: tuple[tuple[int, ...], ...] = ()
    """Sets of columns, by their index, that hold no combination of values twice."""
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Contents:
    """A database as data."""

    tables: tuple[Table, ...]
    is_whole: bool
    """Whether no table has more rows than are here."""
    create: tuple[str, ...]
    """Statements that create the empty tables, in the order of `tables`."""
    keyless: tuple[str, ...]
    """The same without keys, so that rows lie in the order in which they come; as `create` where that changes more."""
    indexes: tuple[str, ...] = ()
    views: tuple[str, ...] = ()


class Database(Protocol):
    """Holds data that no query can change."""

    def run(self, query: str, *, most_rows: int, steps: int) -> Result:
        """QueryError where there is no result, or it takes more than so many steps. EngineError."""
        ...

    def contents(self) -> Contents:
        """Tables, keys and the first rows of each."""
        ...
