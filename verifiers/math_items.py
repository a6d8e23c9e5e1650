"""Whether two values are the same: numbers exactly, formulas by value, lists, tuples and matrices item by item.

True and False are decided; None leaves it to algebra.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from rlvr.verifiers.math_formula import degree, formula, same_value
from rlvr.verifiers.math_sets import read_set, same_set
from rlvr.verifiers.math_spelling import bare_words, squeeze
from rlvr.verifiers.math_text import (
    Quantity,
    assigned,
    commas_for_and,
    is_enclosed,
    read_quantity,
    same_number,
    split_at,
    split_parts,
    spread,
)
from rlvr.verifiers.math_units import known_unit, scaled, split_unit, unit_conflict

_MOST_PAIRS = 150
"""Comparisons of two unordered lists."""
_DEEPEST = 4
"""Lists within lists."""

Kind = Literal["one", "list", "set", "pair", "tuple", "matrix"]


@dataclass(frozen=True, slots=True)
class Shape:
    r"""(1,2): Shape("pair", ("1", "2"), brackets="()"); x=1, y=2: Shape("list", ("1", "2"), names=("x", "y"))"""

    kind: Kind
    items: tuple[str, ...]
    """Of a matrix: all cells, row by row."""
    names: tuple[str, ...] = ()
    """What each item is said to be, "" where nothing is said; () where nothing is of any."""
    brackets: str = ""
    columns: int = 0
    """Of a matrix."""


_MATRIX = re.compile(r"\\begin ?\{([pbB]?matrix|smallmatrix|array)\}(?: ?\{[lcr| ]*\})?(.*)\\end ?\{\1\}", re.DOTALL)
_ROW = re.compile(r"\\\\(?: ?\[[^\]]{0,8}\])?|\\cr(?![a-z])")
_GROUPS = re.compile(r";| (?:and|or) ")
_PAIR_OR_TUPLE = ("pair", "tuple")


@lru_cache(4096)
def shape(text: str) -> Shape:
    """The parts of a normalised text."""
    if "\\begin" in text:
        return _matrix(text) or Shape("one", (text,))
    body = commas_for_and(text) if " " in text else text
    if is_enclosed(body):
        return _enclosed(body)
    if read_quantity(body) is not None:
        return Shape("one", (text,))
    parts = split_at(body, ";") if ";" in body and "," in body and "=" in body else split_parts(body)
    if len(parts) < 2:
        name, value = assigned(body)
        if name.startswith("(") and is_enclosed(value):  # (x, y) = (5, 8)
            return _enclosed(value)
        if name and "\\pm" not in value and (is_enclosed(value) or "\\begin" in value):
            inner = shape(value)
            return inner if inner.kind != "one" else Shape("one", (text,))
        if "\\pm" in body and len(both := spread(value)) == 2:
            return Shape("list", tuple(both), (name, name) if name else ())
        return Shape("one", (text,))
    if not all(parts):
        return Shape("one", (text,))
    if ";" in body and all("," in part and "=" in part for part in parts):  # p=5,q=2;p=7,q=2
        return Shape("list", tuple(f"({', '.join(assigned(x)[1] for x in split_at(part, ','))})" for part in parts))
    return _listed(parts)


def _listed(parts: list[str]) -> Shape:
    if all(part.startswith("(") or "=" in part for part in parts) and parts[0].count("=") == 1:
        head, _, first = parts[0].partition("=")
        if is_enclosed(head.strip()) and is_enclosed(first.strip()):  # (x, y) = (5, 8), (8, 5)
            parts = [first.strip(), *(assigned(part)[1] for part in parts[1:])]
    names, items = [], []
    for part in parts:
        name, value = assigned(part)
        for one in spread(value):
            names.append(name)
            items.append(one.strip())
    return Shape("list", tuple(items), tuple(names) if any(names) else ())


def _enclosed(text: str) -> Shape:
    if text.startswith("\\{"):
        inner = text[2:-2].strip()
        parts = _listed(split_parts(inner)).items if inner else ()
        return Shape("set", parts, brackets="set")
    inner = text[1:-1].strip()
    parts = split_at(inner, ",;")
    if len(parts) == 2 and text.count("\\pm") == 1 and "\\mp" not in text:
        return Shape("list", tuple(spread(text)))
    if len(parts) < 2 or not all(parts):
        return Shape("one", (text,))
    return Shape("pair" if len(parts) == 2 else "tuple", tuple(parts), brackets=text[0] + text[-1])


def _matrix(text: str) -> Shape | None:
    text = text[1:-1].strip() if is_enclosed(text) else text
    match = _MATRIX.search(text)
    if match is None or match.end() < len(text) or "\\begin" in match.group(2):
        return None
    factor = assigned(text[: match.start()] + " ")[1] if "=" not in text[: match.start()][-2:] else ""
    factor = factor.removesuffix("\\cdot").removesuffix("\\times").strip()
    rows = [[cell.strip() for cell in row.split("&")] for row in _ROW.split(match.group(2))]
    if factor:
        rows = [[f"{factor}({cell})" if cell else "" for cell in row] for row in rows]
    rows = [row for row in rows if row != [""]]
    if not rows or len({len(row) for row in rows}) > 1:
        return None
    return Shape("matrix", tuple(cell for row in rows for cell in row), columns=len(rows[0]))


# --- units


def same_quantity(gold: Quantity, answer: Quantity) -> bool:
    """Exactly; 1 m is 100 cm."""
    if gold.unit and answer.unit and gold.unit != answer.unit:
        left, right = known_unit(gold.unit), known_unit(answer.unit)
        if left is not None and right is not None:
            if left.dimension != right.dimension:
                return False
            if left != right:
                return left.in_si(gold.value) == right.in_si(answer.value)
    return same_number(gold, answer)


# --- comparison


def same(gold: str, answer: str, seed: int, depth: int = 0) -> bool | None:
    """Whether two normalised texts are the same value."""
    if squeeze(gold) == squeeze(answer):
        return True
    left, right = read_quantity(gold), read_quantity(answer)
    if left is not None and right is not None:
        return same_quantity(left, right)
    if depth < _DEEPEST:
        ours, theirs = shape(gold), shape(answer)
        if ours.kind != "one" or theirs.kind != "one":
            if depth and {ours.kind, theirs.kind} == {"one", "set"}:  # {1} is an item of its own, and not 1
                return False
            return same_shape(ours, theirs, seed, depth + 1)
    return same_formula(gold, answer, seed)


def same_formula(gold: str, answer: str, seed: int) -> bool | None:
    """Two single values that are not both plain numbers."""
    if not gold or not answer:
        return False
    (gold, unit), (answer, other) = _without_unit(gold), _without_unit(answer)
    if unit_conflict(unit, other):
        return False
    if unit and other and unit != other and (ours := known_unit(unit)) and (theirs := known_unit(other)):
        if ours.offset != theirs.offset:
            return None
        gold = gold if ours.factor == theirs.factor else f"({gold})\\cdot({ours.factor / theirs.factor})"
    left, right = read_quantity(gold), read_quantity(answer)
    if left is not None and right is not None:
        return same_quantity(left, right)
    if "\\text" in gold or "\\text" in answer:
        words = bare_words(gold), bare_words(answer)
        if words[0].casefold() == words[1].casefold():
            return True
        if "\\text" in gold and "\\text" in answer and all(word.replace(" ", "").isalpha() for word in words):
            return False
    verdict = same_value(gold, answer, seed)
    return False if verdict is None and _differ_as_curves(gold, answer) else verdict


def _differ_as_curves(gold: str, answer: str) -> bool:
    """Polynomial equations of one degree that same_value() has not found proportional: other curves."""
    if gold.count("=") != 1 or answer.count("=") != 1:
        return False
    degrees = []
    for text in (gold, answer):
        sides = [formula(side.strip()) for side in text.split("=")]
        known = [side for side in sides if side is not None and side.is_rational]
        if len(known) < len(sides) or any(side.names and side.is_ambiguous for side in known):
            return False
        found = [degree(side.tree) for side in known]
        if None in found or not any(side.names for side in known):
            return False
        degrees.append(max(one for one in found if one is not None))
    return degrees[0] == degrees[1]


_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?|[a-z]) ?\\text\{ degrees\}")


def _without_unit(text: str) -> tuple[str, str]:
    if "degrees}" in text and _TRIGONOMETRIC.search(text):
        return _DEGREES.sub(r"(\1\\pi/180)", text), ""
    body, unit = split_unit(text)
    if unit == "%":
        return f"({body})/100", ""
    scale, unit = scaled(unit)
    return (body if scale == 1 else f"({body})\\cdot {scale}"), unit


def same_shape(gold: Shape, answer: Shape, seed: int, depth: int = 1) -> bool | None:
    """Item by item. A list without brackets may stand for a set or a tuple, a column for a tuple."""
    if "matrix" in (gold.kind, answer.kind):
        return _same_matrix(gold, answer, seed, depth)
    kinds = {gold.kind, answer.kind}
    if depth == 1 and "set" in kinds and kinds & {"pair", "tuple"}:  # {(1, 2)} is (1, 2)
        ours, theirs = (shape(side.items[0]) if side.kind == "set" and side.items else side for side in (gold, answer))
        is_one = all(side.kind != "set" or len(side.items) == 1 for side in (gold, answer))
        return is_one and ours.kind in _PAIR_OR_TUPLE and same_shape(ours, theirs, seed, depth + 1)
    if kinds & {"pair", "tuple"}:
        if gold.kind in _PAIR_OR_TUPLE and answer.kind in _PAIR_OR_TUPLE:
            return False if gold.brackets != answer.brackets else _in_order(gold.items, answer.items, seed, depth)
        if "list" in kinds:
            bracketed = gold if gold.kind in _PAIR_OR_TUPLE else answer
            if bracketed.brackets == "()":
                return _in_order(gold.items, answer.items, seed, depth)
            return False
        return False if "set" in kinds else None
    if kinds == {"one", "set"} and any(
        item == "\\emptyset" or item.startswith("\\{") for item in (gold if gold.kind == "set" else answer).items
    ):
        return False
    if gold.names and answer.names and len(set(gold.names)) > 1 and len(set(answer.names)) > 1:
        return _by_name(gold, answer, seed, depth)
    if kinds == {"list"} and _are_distinct(gold.names) != _are_distinct(answer.names):  # x=1, y=2 against 1, 2
        return _in_order(gold.items, answer.items, seed, depth)
    return _in_any_order(gold.items, answer.items, seed, depth)


def _are_distinct(names: Sequence[str]) -> bool:
    return len(names) > 1 and len(set(names)) == len(names) and all(names)


def _same_matrix(gold: Shape, answer: Shape, seed: int, depth: int) -> bool | None:
    if gold.kind == answer.kind:
        if gold.columns != answer.columns:
            return False
    else:
        matrix, other = (gold, answer) if gold.kind == "matrix" else (answer, gold)
        if other.brackets == "[]" and (rows := [shape(row) for row in other.items])[0].brackets == "[]":
            if any(row.brackets != "[]" or len(row.items) != matrix.columns for row in rows):
                return False
            cells = [cell for row in rows for cell in row.items]
            return _in_order(matrix.items, cells, seed, depth)
        if matrix.columns > 1 or other.kind not in ("pair", "tuple") or other.brackets != "()":
            return None
    return _in_order(gold.items, answer.items, seed, depth)


def _in_order(gold: Sequence[str], answer: Sequence[str], seed: int, depth: int) -> bool | None:
    if len(gold) != len(answer):
        return False
    undecided = False
    for left, right in zip(gold, answer, strict=True):
        verdict = same(left, right, seed, depth)
        if verdict is False:
            return False
        undecided = undecided or verdict is None
    return None if undecided else True


def _by_name(gold: Shape, answer: Shape, seed: int, depth: int) -> bool | None:
    left, right = dict(zip(gold.names, gold.items, strict=True)), dict(zip(answer.names, answer.items, strict=True))
    if len(left) != len(gold.names) or len(right) != len(answer.names):
        return None
    if left.keys() != right.keys():
        return False
    return _in_order(list(left.values()), [right[name] for name in left], seed, depth)


def _in_any_order(gold: Sequence[str], answer: Sequence[str], seed: int, depth: int) -> bool | None:
    """As sets: each has its like on the other side."""
    numbers = [read_quantity(item) for item in gold], [read_quantity(item) for item in answer]
    if all(number is not None for side in numbers for number in side) and not any(
        number.unit or number.digits >= 10 for side in numbers for number in side if number is not None
    ):
        left, right = ({number.value for number in side if number is not None} for side in numbers)
        return left == right
    if len(gold) * len(answer) > _MOST_PAIRS:
        return None
    table = [[same(left, right, seed, depth) for right in answer] for left in gold]
    undecided = False
    for line in [*table, *map(list, zip(*table, strict=True))]:
        if True not in line:
            if None not in line:
                return False
            undecided = True
    return None if undecided else (len(gold) > 0 and len(answer) > 0) or (not gold and not answer)


def same_reals(gold: str, answer: str, seed: int) -> bool | None:
    """As sets of real numbers: intervals, relations and their unions; None where either is none of these."""
    left = read_set(gold)
    right = read_set(answer) if left is not None else None
    if left is None or right is None:
        return None
    return same_set(left, right, lambda x, y: same(x, y, seed, _DEEPEST))
