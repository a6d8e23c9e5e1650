r"""Reads a table out of text: CSV, TSV or a Markdown table, with a header and as many cells in every row.

Cells are texts without blanks around them. Quoting is that of Python's csv module, strict; in Markdown `\|` is a bar
within a cell. Lines without anything are no rows. A table whose rows differ in length is refused, as is one with two
columns of one name: what a reader guesses, a program cannot.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rlvr.verifiers.code_text import Refused

Format = Literal["csv", "tsv", "markdown"]
MOST_CHARACTERS = 1 << 18
MOST_COLUMNS = 256
MOST_ROWS = 10_000
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_BAR = re.compile(r"(?<!\\)\|")
_RULE = re.compile(r"\s*+:?+-++:?+\s*+")


@dataclass(frozen=True, slots=True)
class Table:
    """Table(("name", "age"), (("Ada", "36"),))"""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def read_table(text: str, form: Format) -> Table | Refused:
    """The table that the whole text is."""
    if len(text) > MOST_CHARACTERS:
        return Refused("too_complex", f"{len(text)} characters of a table, and at most {MOST_CHARACTERS} are read")
    try:
        lines = list(_markdown_lines(text) if form == "markdown" else _csv_lines(text, _DELIMITERS[form]))
    except csv.Error as error:
        return Refused("malformed", f"no {form.upper()}: {error}")
    return _checked(lines)


def guess_format(text: str) -> Format:
    """By its first two lines: a rule under a header with bars is Markdown's; a tab in the header makes it TSV."""
    head, _, rest = text.partition("\n")
    if _is_rule(rest.partition("\n")[0], head):
        return "markdown"
    return "tsv" if "\t" in head else "csv"


def markdown_tables(text: str) -> list[str]:
    """The Markdown tables within prose: a header with bars, a rule, and lines with bars up to one that has none."""
    lines = text.split("\n")
    found, k = [], 0
    while k + 1 < len(lines):
        if not _is_rule(lines[k + 1], lines[k]):
            k += 1
            continue
        end = k + 2
        while end < len(lines) and "|" in lines[end]:
            end += 1
        found.append("\n".join(lines[k:end]))
        k = end
    return found


def _is_rule(line: str, header: str) -> bool:
    if "|" not in header or "-" not in line or line.strip(" \t\r|:-"):
        return False
    cells = _cells(line)
    return len(cells) == len(_cells(header)) and all(_RULE.fullmatch(cell) for cell in cells)


def _csv_lines(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    for cells in reader:
        if cells and (len(cells) > 1 or cells[0].strip()):
            yield reader.line_num, [cell.strip() for cell in cells]


def _markdown_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    lines = text.split("\n")
    if len(lines) < 2 or not _is_rule(lines[1], lines[0]):
        raise csv.Error("the second line is no rule such as |---|---| of as many columns as the first")
    for k, line in enumerate(lines):
        if k != 1 and line.strip():
            yield k + 1, _cells(line)


def _cells(line: str) -> list[str]:
    """Between the bars, the outer ones left off."""
    inside = line.strip().removeprefix("|")
    pieces = _BAR.split(inside)
    if len(pieces) > 1 and not pieces[-1].strip():
        pieces.pop()
    return [piece.replace("\\|", "|").strip() for piece in pieces]


def _checked(lines: list[tuple[int, list[str]]]) -> Table | Refused:
    if not lines:
        return Refused("no_answer", "the table is empty")
    columns = lines[0][1]
    if len(columns) > MOST_COLUMNS or len(lines) > MOST_ROWS:
        told = f"{len(columns)} columns and {len(lines)} lines; at most {MOST_COLUMNS} and {MOST_ROWS} are read"
        return Refused("too_complex", told)
    if problem := column_problem(columns):
        return Refused("malformed", problem)
    for number, cells in lines[1:]:
        if len(cells) != len(columns):
            return Refused("malformed", f"line {number} has {len(cells)} cells, the header has {len(columns)}")
    return Table(tuple(columns), tuple(tuple(cells) for _, cells in lines[1:]))


def column_problem(columns: list[str]) -> str:
    """What is wrong with names of columns; "" where nothing is."""
    if "" in columns:
        return f"column {columns.index('') + 1} has no name"
    twice = next((name for k, name in enumerate(columns) if name in columns[:k]), None)
    return f"two columns are named {twice[:60]!r}" if twice is not None else ""
