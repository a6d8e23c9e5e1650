"""Whether two results of queries are the same: as bags of rows, or in order where the gold query orders them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

Row = tuple[Any, ...]


def comparable(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows whose cells are hashable, and equal where SQL has them equal: 1 and 1.0, not 1 and '1', not NULL and ''."""
    return tuple(tuple(_cell(cell) for cell in row) for row in rows)


def _cell(cell: Any) -> Any:
    if cell is None or isinstance(cell, str | int | bytes):
        return ("bool", cell) if isinstance(cell, bool) else cell
    if isinstance(cell, float):
        return ("NaN",) if math.isnan(cell) else cell
    if isinstance(cell, Decimal):
        return int(cell) if cell == cell.to_integral_value() else float(cell)
    if isinstance(cell, list | tuple):
        return "list", tuple(_cell(one) for one in cell)
    if isinstance(cell, dict):
        return "struct", tuple((str(name), _cell(one)) for name, one in cell.items())
    return type(cell).__name__, str(cell)  # dates, intervals, identifiers


def ties(orders: Sequence[Sequence[Row]]) -> tuple[int, ...]:
    """Where blocks of rows end that all these orders of the same rows have in common; len(rows) is the last.

    Rows that stand in another order from one to the next are tied in what the query orders by.
    """
    first = orders[0]
    ends = []
    balances: list[Counter[Row]] = [Counter() for _ in orders[1:]]
    for at, row in enumerate(first):
        for balance, other in zip(balances, orders[1:], strict=True):
            for moved, by in ((row, 1), (other[at], -1)):
                balance[moved] += by
                if not balance[moved]:
                    del balance[moved]
        if not any(balances):
            ends.append(at + 1)
    return tuple(ends)


def same_rows(gold: Sequence[Row], answer: Sequence[Row], ends: Sequence[int], tolerance: float) -> bool:
    """Whether both hold the same rows as often, block by block. Floats are equal within a relative tolerance."""
    if len(gold) != len(answer):
        return False
    start = 0
    for end in ends:
        if not _same_bag(gold[start:end], answer[start:end], tolerance):
            return False
        start = end
    return True


def _same_bag(gold: Sequence[Row], answer: Sequence[Row], tolerance: float) -> bool:
    if Counter(gold) == Counter(answer):
        return True
    if not tolerance or not any(isinstance(cell, float) for rows in (gold, answer) for row in rows for cell in row):
        return False
    return all(
        len(left) == len(right) and all(_near(x, y, tolerance) for x, y in zip(left, right, strict=True))
        for left, right in zip(sorted(gold, key=_order), sorted(answer, key=_order), strict=True)
    )


def _near(left: Any, right: Any, tolerance: float) -> bool:
    if left == right:
        return True
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    return numbers and math.isclose(left, right, rel_tol=tolerance, abs_tol=1e-12 if tolerance else 0.0)


def _order(row: Row) -> tuple[Any, ...]:
    """Cells that are compared exactly come first, so that rounding moves no row away from its like."""
    exact = tuple((type(cell).__name__, str(cell)) for cell in row if not isinstance(cell, int | float))
    rounded = tuple(float(f"{cell:.7g}") for cell in row if isinstance(cell, int | float))
    return exact, rounded
