"""Databases made from another, on which a query has to give the gold's result too.

On one database a constant, a missing DISTINCT or a lucky filter may pass. So rows are left out, doubled under new keys,
and values drawn anew from those of their column (Zhong et al. 2020, https://arxiv.org/abs/2010.02840). What is declared
stays true: keys, unique columns, foreign keys that held, and all else that the tables check themselves. No value
becomes NULL. Text stays within what its column holds, but for what the gold query compares it with: such values, and
numbers one above and one below, come into the columns, so that > and >= differ.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from rlvr.verifiers.sql_engine import Contents, Table

KINDS = ("fewer", "doubled", "values", "all")
MORE_KINDS = ("values", "many", "all")
"""Where the result is a number that another query may hit too, or depends on literals that it may miss by one."""
_OF_VALUES = ("values", "all", "many")
LAST_RESORT = "few"
"""Hardly a row: where all others give one result. Queries for the same question may differ on so little."""
_FREE_VALUES = 8
"""Different numbers in a column from which on any within their range is taken; 0 and 1 stay 0 and 1."""

Literals = Mapping[str, Sequence[str | Fraction]]
_NONE: Literals = {}


def variant(contents: Contents, kind: str, rng: random.Random, literals: Literals = _NONE) -> Contents:
    """One of KINDS or MORE_KINDS, or the LAST_RESORT. literals: what the gold sets against a column, by its name."""
    tables = list(contents.tables)
    if kind == "many":
        tables = [_doubled(_doubled(_doubled(table, rng), rng), rng) for table in tables]
    if kind in _OF_VALUES:
        parents = {(link.parent, column) for table in tables for link in table.links for column in link.parent_columns}
        tables = [_other_values(table, parents, literals, rng) for table in tables]
    if kind in ("doubled", "all"):
        tables = [_doubled(table, rng) for table in tables]
    if kind in ("fewer", "all", LAST_RESORT):
        share = 0.15 if kind == LAST_RESORT else 0.6
        tables = [replace(table, rows=_fewer(table.rows, share, rng)) for table in tables]
        tables = _without_orphans(tables, contents.tables)
    return _shuffled(replace(contents, tables=tuple(tables)), rng)


def reordered(contents: Contents) -> tuple[Contents, Contents]:
    """The same rows stored in two opposite orders, without keys: rows that a query ties change places."""
    bare = replace(contents, create=contents.keyless, indexes=())
    return bare, replace(bare, tables=tuple(replace(table, rows=table.rows[::-1]) for table in bare.tables))


def _shuffled(contents: Contents, rng: random.Random) -> Contents:
    tables = tuple(replace(table, rows=tuple(rng.sample(table.rows, len(table.rows)))) for table in contents.tables)
    return replace(contents, tables=tables)


def _fewer(rows: Sequence[Any], share: float, rng: random.Random) -> tuple[Any, ...]:
    if len(rows) < 2:
        return tuple(rows)
    num_left = min(len(rows) - 1, max(1, round(len(rows) * share)))
    kept = sorted(rng.sample(range(len(rows)), num_left))
    return tuple(rows[k] for k in kept)


def _doubled(table: Table, rng: random.Random) -> Table:
    """A third of the rows a second time, their keys changed where a key can be."""
    fixed = {column for link in table.links for column in link.columns}
    bumped: set[int] = set()
    for key in table.keys:
        free = [column for column in key if column not in fixed]
        if not free:
            return table
        bumped.add(free[-1])
    top = {column: _highest(table, column) for column in bumped}
    copies = []
    for k in sorted(rng.sample(range(len(table.rows)), (len(table.rows) + 2) // 3)):
        row = list(table.rows[k])
        for column in bumped:
            value = row[column]
            if isinstance(value, int):
                top[column] += 1
                row[column] = top[column]
            elif isinstance(value, str):
                row[column] = f"{value} {len(copies) + 2}"
            else:
                break
        else:
            copies.append(tuple(row))
    return replace(table, rows=table.rows + tuple(copies))


def _highest(table: Table, column: int) -> int:
    return max((row[column] for row in table.rows if isinstance(row[column], int)), default=0)


def _other_values(table: Table, parents: set[tuple[str, int]], literals: Literals, rng: random.Random) -> Table:
    """Columns that are no part of a key or link get values from those that they hold, and that they are set against."""
    fixed = {column for key in table.keys for column in key} | {c for link in table.links for c in link.columns}
    free = [c for c in range(len(table.columns)) if c not in fixed and (table.name, c) not in parents]
    rows = [list(row) for row in table.rows]
    edges: dict[int, tuple[list[Any], list[Any]]] = {}
    for column in free:
        held = [row[column] for row in rows if row[column] is not None]
        edges[column] = _edges(held, literals.get(table.columns[column].casefold(), ()))
        for row in rows:
            if row[column] is not None and rng.random() < 0.6:
                row[column] = _another(held, rng)
    compared = [column for column in free if edges[column][1]]
    for row in rows if compared else ():
        if rng.random() < 0.5:
            _set_at_edge(row, edges, compared, rng)
    return replace(table, rows=tuple(map(tuple, rows)))


def _set_at_edge(
    row: list[Any], edges: Mapping[int, tuple[list[Any], list[Any]]], compared: Sequence[int], rng: random.Random
) -> None:
    """All that is compared gets a value that it is set against, and one of them perhaps one beside it."""
    beside = rng.choice(compared)
    for column in compared:
        values = edges[column][column == beside]
        if row[column] is not None and values and (column == beside or rng.random() < 0.7):
            row[column] = rng.choice(values)


def _another(held: list[Any], rng: random.Random) -> Any:
    """A value of the column; of a column with many numbers any number in their range."""
    value = rng.choice(held)
    numbers = [one for one in held if isinstance(one, int | float) and not isinstance(one, bool)]
    if len(numbers) < len(held) or len(set(numbers)) < _FREE_VALUES or rng.random() < 0.5:
        return value
    low, high = min(numbers), max(numbers)
    if isinstance(low, int) and isinstance(high, int):
        return rng.randint(low, high)
    return round(rng.uniform(low, high), 2)


_FEW_NUMBERS = 5
"""Different numbers of a column that may be codes: no others than between them."""


def _edges(held: Sequence[Any], literals: Sequence[str | Fraction]) -> tuple[list[Any], list[Any]]:
    """The literals as values of the column, as far as it may hold them; the same with those one above and below."""
    kinds = {type(one) for one in held}
    if len(kinds) != 1 or not literals:
        return [], []
    (kind,) = kinds
    exact: list[Any] = []
    beside: list[Any] = []
    if kind in (int, float, Decimal):
        low, high = min(held), max(held)
        around = high - low if len(set(held)) >= _FEW_NUMBERS else 0
        for value in (one for one in literals if isinstance(one, Fraction)):
            given = {math.floor(value), math.ceil(value)} if kind is int else {value}
            near = (
                given | {math.ceil(value) - 1, math.floor(value) + 1} if kind is int else {value - 1, value, value + 1}
            )
            for values, found in ((given, exact), (near, beside)):
                read = [one if kind is int else kind(str(float(one))) for one in sorted(values)]
                found += [one for one in read if low - around <= one <= high + around and (one >= 0 or low < 0)]
    elif kind in (date, datetime):
        for text in (one for one in literals if isinstance(one, str) and _DATE.match(one)):
            try:
                day = kind.fromisoformat(text)
                beside += [day - timedelta(days=1), day, day + timedelta(days=1)]
                exact.append(day)
            except (ValueError, OverflowError):
                continue
    elif kind is str:
        forms = {_form(one) for one in held}
        exact = beside = [one for one in literals if isinstance(one, str) and _form(one) in forms]
    return exact, beside


_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_WORDS = re.compile(r"[^\W\d_]+(?:\s+[^\W\d_]+)*")


def _form(text: str) -> str:
    """A date keeps the form of a date, a code that of a code, and words are words."""
    return _WORDS.sub("a", re.sub(r"\d", "0", text))


def _without_orphans(tables: list[Table], before: Sequence[Table]) -> list[Table]:
    """Rows whose parent is gone leave too, where in `before` every row had its parent."""
    origin = {table.name: table for table in before}
    held = {
        (table.name, link)
        for table in before
        for link in table.links
        if link.parent in origin and not _orphans(table, link, origin[link.parent])
    }
    while True:
        now = {table.name: table for table in tables}
        lost = {
            table.name: {
                k for link in table.links if (table.name, link) in held for k in _orphans(table, link, now[link.parent])
            }
            for table in tables
        }
        if not any(lost.values()):
            return tables
        tables = [replace(t, rows=tuple(row for k, row in enumerate(t.rows) if k not in lost[t.name])) for t in tables]


def _orphans(child: Table, link: Any, parent: Table) -> set[int]:
    known = {tuple(row[c] for c in link.parent_columns) for row in parent.rows}
    return {
        k
        for k, row in enumerate(child.rows)
        if None not in (key := tuple(row[c] for c in link.columns)) and key not in known
    }
