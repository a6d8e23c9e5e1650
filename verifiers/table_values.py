r"""table: the response is a table (CSV, TSV or Markdown) with the gold's columns and rows.

The gold is a list of mappings, a list of lists whose first is the header, or the text of a table. Where in the
response: structured_text.py (<answer>, the one fence tagged csv, tsv, markdown or not at all), else the one Markdown
table within prose, else the whole. How it is read: table_text.py. Columns and rows may stand in any order unless an
option says otherwise. A cell that is a number in both is compared as one (1.50 is 1.5, but 007 is a text), any other
letter by letter; empty stands for null, true and false are written so in any case.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from rlvr.fields import NonNegative
from rlvr.plugins import verifier
from rlvr.types import Task, Verdict
from rlvr.verifiers.answer_text import short
from rlvr.verifiers.code_text import Refused
from rlvr.verifiers.json_compare import is_near
from rlvr.verifiers.structured_matching import MOST_COMPARISONS, match_best, match_keys, match_most
from rlvr.verifiers.structured_text import Block, find_block
from rlvr.verifiers.table_text import Format, Table, column_problem, guess_format, markdown_tables, read_table

_FORMATS: Mapping[str, Format] = {"csv": "csv", "tsv": "tsv", "markdown": "markdown", "md": "markdown"}
_MOST_SHOWN = 32
_NUMBER = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,99})(?:\.[0-9]{1,100})?(?:[eE][+-]?[0-9]{1,3})?")
Key = Fraction | str
"""A number, or a text that is none."""


@verifier("table", version="1", timeout=2.0)
def table_values(
    response: str,
    gold: Any,
    *,
    format: Literal["auto", "csv", "tsv", "markdown"] = "auto",
    column_order: bool = False,
    row_order: bool = False,
    tolerance: NonNegative = 0.0,
    absolute: NonNegative = 0.0,
    score: Literal["all", "cells"] = "all",
) -> Verdict:
    """all: 1 where columns and rows are the gold's. cells: F1 of the cells, each row of the gold beside one of the
    response. tolerance is a share of the gold's number. column_order, row_order: the gold's order counts.
    """
    wanted = _wanted(gold, row_order, tolerance + absolute > 0)
    if isinstance(wanted, str):
        return Verdict(score=None, outcome="gold_invalid", reason=wanted)
    block = _find(response, format)
    if isinstance(block, Refused):
        return Verdict(score=0.0, outcome=block.outcome, reason=block.reason, stage="extract")
    form = format if format != "auto" else _FORMATS.get(block.tag) or guess_format(block.text)
    given = read_table(block.text, form)
    if isinstance(given, Refused):
        return Verdict(
            score=0.0, outcome=given.outcome, reason=given.reason, answer=block.text, how=block.how, stage="parse"
        )
    compared = _compare(wanted, given, column_order, row_order, _Near(tolerance, absolute))
    points = float(not compared.problems) if score == "all" else compared.f1
    return Verdict(
        score=points,
        outcome="correct" if points == 1 else "wrong" if points == 0 else "partial",
        reason=_reason(compared, wanted),
        answer=block.text,
        how=block.how,
        stage=form,
        checks=compared.checks(),
    )


def _find(response: str, format: str) -> Block | Refused:
    tags = {tag for tag, form in _FORMATS.items() if format in ("auto", form)} | {""}
    block = find_block(response, tags)
    if isinstance(block, Refused) or block.how != "whole" or format not in ("auto", "markdown"):
        return block
    tables = markdown_tables(block.text)
    if len(tables) > 1:
        return Refused("malformed", f"{len(tables)} tables, and one is wanted")
    return Block(tables[0], "markdown", "markdown") if tables else block


@dataclass(frozen=True, slots=True)
class _Near:
    """Near(0.01, 0.0), as options name them"""

    tolerance: float
    absolute: float

    def __bool__(self) -> bool:
        return self.tolerance > 0 or self.absolute > 0

    def same(self, want: Key, got: Key) -> bool:
        if want == got or not self or isinstance(want, str) or isinstance(got, str):
            return want == got
        return is_near(want, got, self.tolerance, self.absolute)


@dataclass(slots=True)
class _Compared:
    of_columns: list[str]
    """What is wrong with them, in sentences."""
    of_rows: list[str]
    """The same, _MOST_SHOWN at most."""
    rows: tuple[int, int, int]
    """Right, wanted, given."""
    cells: tuple[int, int, int]

    @property
    def problems(self) -> list[str]:
        return self.of_columns + self.of_rows

    @property
    def f1(self) -> float:
        """Of the cells. A table without rows has none: then 1 where nothing is wrong, else 0."""
        right, wanted, given = self.cells
        return 2 * right / (wanted + given) if wanted + given else float(not self.problems)

    def checks(self) -> dict[str, Any]:
        right, wanted, given = self.rows
        told = "{} right, {} wanted, {} given".format
        return {
            "columns": {"score": float(not self.of_columns), "reason": "; ".join(self.of_columns)},
            "rows": {"score": right / max(wanted, given, 1), "reason": told(*self.rows), "wrong": self.of_rows},
            "cells": {"score": self.f1, "reason": told(*self.cells)},
        }


def _compare(wanted: Table, given: Table, column_order: bool, row_order: bool, near: _Near) -> _Compared:
    shared = [name for name in wanted.columns if name in set(given.columns)]
    missing = [name for name in wanted.columns if name not in set(given.columns)]
    further = [name for name in given.columns if name not in set(wanted.columns)]
    of_columns = [f"no column {_listed(missing)}"] if missing else []
    of_columns += [f"column {_listed(further)} is not in the gold"] if further else []
    if column_order and wanted.columns != given.columns:
        of_columns = of_columns or [f"the columns stand in the order {_listed(given.columns)}"]
        shared = [name for name, other in zip(wanted.columns, given.columns, strict=False) if name == other]
    want, got = _keys(wanted, shared), _keys(given, shared)
    of_rows = [f"{len(got)} rows, the gold has {len(want)}"] if len(want) != len(got) else []
    num_rows_right = num_cells_right = 0
    for i, j in sorted(_pairs(want, got, row_order, near)):
        wrong = [k for k in range(len(shared)) if not near.same(want[i][k], got[j][k])]
        num_cells_right += len(shared) - len(wrong)
        num_rows_right += not wrong and len(shared) == len(wanted.columns)
        if wrong and len(of_rows) < _MOST_SHOWN:
            name = shared[wrong[0]]
            cells = given.rows[j][given.columns.index(name)], wanted.rows[i][wanted.columns.index(name)]
            of_rows.append(f"row {j + 1}, {name[:60]!r}: {short(cells[0])}, the gold says {short(cells[1])}")
    return _Compared(
        of_columns,
        of_rows,
        rows=(num_rows_right, len(want), len(got)),
        cells=(num_cells_right, len(want) * len(wanted.columns), len(got) * len(given.columns)),
    )


def _keys(table: Table, columns: Sequence[str]) -> list[tuple[Key, ...]]:
    places = [table.columns.index(name) for name in columns]
    return [tuple(_key(row[k]) for k in places) for row in table.rows]


def _key(cell: str) -> Key:
    """A number that is written as one; true and false in lower case."""
    if cell[:1] in "+-0123456789" and _NUMBER.fullmatch(cell):
        return Fraction(cell)
    return cell.lower() if cell.lower() in ("true", "false") else cell


def _pairs(
    want: list[tuple[Key, ...]], got: list[tuple[Key, ...]], row_order: bool, near: _Near
) -> list[tuple[int, int]]:
    """Rows that are the same, and then, of the rest, those that have most in common (in order where they are many)."""
    if row_order:
        return [(k, k) for k in range(min(len(want), len(got)))]

    num_columns = len(want[0]) if want else 0
    if near and len(want) * len(got) * num_columns <= MOST_COMPARISONS:
        pairs = match_most(len(want), len(got), lambda i, j: all(map(near.same, want[i], got[j])))
    else:  # more rows than are wanted cannot all be right; a tolerance is then for those that are paired below
        pairs = match_keys(want, got)
    left = sorted(set(range(len(want))) - {i for i, _ in pairs})
    free = sorted(set(range(len(got))) - {j for _, j in pairs})
    if len(left) * len(free) * num_columns > MOST_COMPARISONS:
        return pairs + list(zip(left, free, strict=False))
    return pairs + match_best(left, free, lambda i, j: sum(map(near.same, want[i], got[j])))


def _reason(found: _Compared, wanted: Table) -> str:
    if not found.problems:
        return f"{len(wanted.rows)} rows of {len(wanted.columns)} columns are as wanted"
    more = f", and {len(found.problems) - 1} more" if len(found.problems) > 1 else ""
    return found.problems[0] + more


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:5])
    return (shown or "none") + (", ..." if len(names) > 5 else "")


def _wanted(gold: Any, row_order: bool, is_near: bool) -> Table | str:
    """The gold's table, or why it cannot be compared with another."""
    table = _read_gold(gold)
    if isinstance(table, str) or row_order or not is_near:
        return table
    if len(table.rows) ** 2 * len(table.columns) > MOST_COMPARISONS:
        return f"{len(table.rows)} rows without an order are too many for a tolerance; set row_order"
    return table


def _read_gold(gold: Any) -> Table | str:
    if gold is None:
        return "the row has no gold"
    try:
        text = gold if isinstance(gold, str) else json.dumps(gold, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        return f"the gold is no table: {' '.join(str(error).split())[:200]}"
    return _parse_gold(text, isinstance(gold, str))


@functools.lru_cache(maxsize=1024)
def _parse_gold(text: str, is_table: bool) -> Table | str:
    """By value, so that what a task's siblings share is read once."""
    if not is_table:
        return _from_rows(json.loads(text))
    if text.lstrip()[:1] in "[{" and isinstance(rows := _json_or_none(text), list):
        return _from_rows(rows)
    table = read_table(text.strip("\r\n"), guess_format(text.strip("\r\n")))
    return f"the gold is no table: {table.reason}" if isinstance(table, Refused) else table


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _from_rows(rows: Any) -> Table | str:
    """Of a list of mappings, or of lists whose first is the header."""
    if not isinstance(rows, list) or not rows:
        return (
            "the gold must be a list of mappings, a list of lists that starts with the header, or the text of a table"
        )
    if all(isinstance(row, dict) for row in rows):
        columns = list(rows[0])
        odd = next((k for k, row in enumerate(rows) if set(row) != set(columns)), None)
        if odd is not None:
            return f"row {odd} of the gold has other keys than row 0"
        lines = [[row[name] for name in columns] for row in rows]
    elif all(isinstance(row, list) for row in rows):
        columns, lines = [_cell(name) or "" for name in rows[0]], rows[1:]
    else:
        return "the gold has rows of different kinds; all must be mappings, or all lists"
    odd = next((k for k, line in enumerate(lines) if len(line) != len(columns)), None)
    if odd is not None:
        return f"row {odd + 1} of the gold has {len(lines[odd])} cells, its header has {len(columns)}"
    columns = [name.strip() for name in columns]
    problem = column_problem(columns) if columns else "it has no columns"
    if problem:
        return f"the gold is no table: {problem}"
    cells = [[_cell(cell) for cell in line] for line in lines]
    if any(cell is None for line in cells for cell in line):
        return "the gold has cells that are neither texts nor numbers, true, false or null"
    return Table(tuple(columns), tuple(tuple(cell or "" for cell in line) for line in cells))


def _cell(value: Any) -> str | None:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).strip() if isinstance(value, str | int | float) else None


def gold_problem(verifier: str, task: Task, options: Mapping[str, Any] | None = None) -> str:
    """Why the gold is no table, or none that these options can compare."""
    chosen = table_values.__kwdefaults__ | (options or {})
    found = _wanted(task.gold, chosen["row_order"], chosen["tolerance"] + chosen["absolute"] > 0)
    return found if isinstance(found, str) else ""


def canary_gold(task: Task, nonce: int) -> list[dict[str, str]]:
    """A table of one column and one cell that nothing leads to."""
    return [{"canary": str(nonce)}]


_PEOPLE = [{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41.5}]
EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    (_PEOPLE, "name,age\nAda,36\nBob,41.50\n", 1.0),
    (_PEOPLE, "Here you are:\n\n| age | name |\n|----:|:-----|\n| 41.5 | Bob |\n| 36 | Ada |\n\nThat is all.", 1.0),
    ([["place", "say"], ["Rome", "yes, no"]], '```csv\nplace,say\nRome,"yes, no"\n```', 1.0),
    ("a\tb\n1\t2\n", "<answer>a\tb\n1\t2</answer>", 1.0),
    (_PEOPLE, "name,age\nAda,36\nBob,41\n", 0.0),
    (_PEOPLE, "name,age\nAda,36\n", 0.0),
    (_PEOPLE, "name,age\nAda,36\nBob,41.5\nBob,41.5\n", 0.0),
    (_PEOPLE, "name,years\nAda,36\nBob,41.5\n", 0.0),
    (_PEOPLE, "name,age\nAda,36\nBob\n", 0.0),
    (_PEOPLE, 'name,age\n"Ada,36\nBob,41.5\n', 0.0),
    (_PEOPLE, "", 0.0),
    (_PEOPLE, "name,age,age\nAda,36,37\nBob,41.5,41\n", 0.0),
    (_PEOPLE, "```\nname,age\nAda,36\nBob,41.5\n```\n```\nname,age\nAda,37\nBob,41.5\n```", 0.0),
    ([{"id": "007"}], "id\n7\n", 0.0),
]
