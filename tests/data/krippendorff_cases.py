"""Makes krippendorff.json: tables of ratings with the alpha that the package krippendorff gives of them.

    python -m venv /tmp/k && /tmp/k/bin/pip install krippendorff==0.9.0
    /tmp/k/bin/python tests/data/krippendorff_cases.py

Rows are items, columns annotators, null is missing. alpha is null where the package knows none.
"""

from __future__ import annotations

import json
import math
import warnings
from importlib.metadata import version
from pathlib import Path

import krippendorff  # pyright: ignore[reportMissingImports]
import numpy as np

LEVELS = ("nominal", "ordinal", "interval")
N = math.nan
BY_HAND = {
    "package docs": [
        [N, N, N, N, N, 3, 4, 1, 2, 1, 1, 3, 3, N, 3],
        [1, N, 2, 1, 3, 3, 4, 3, N, N, N, N, N, N, N],
        [N, N, 2, 1, 3, 4, 4, N, 2, 1, 1, 3, 3, N, 4],
    ],
    "four observers": [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
        [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
    ],
    "all agree": [[0, 1, 0, 1, 2], [0, 1, 0, 1, 2], [0, 1, 0, 1, 2]],
    "all but one": [[0, 1, 0, 1, 1, 0, 0], [0, 1, 0, 1, 1, 0, 1]],
    "the reverse": [[0, 1, 0, 1], [1, 0, 1, 0]],
    "far from 0": [[1e6, 1e6 + 1, 1e6 + 2, 1e6], [1e6, 1e6 + 1, 1e6 + 1, 1e6 + 2]],
    "one item of two votes": [[1, 2, 1], [2, N, N]],
}
"""As the package wants them: rows are annotators."""


def main() -> None:
    warnings.simplefilter("ignore")
    tables = {name: np.array(rows, dtype=float).T for name, rows in BY_HAND.items()}
    rng = np.random.default_rng(8)
    for k in range(60):
        num_items, num_people = int(rng.integers(2, 41)), int(rng.integers(2, 8))
        num_values, noise, missing = int(rng.integers(2, 8)), rng.random(), rng.choice([0.0, 0.3, 0.7])
        truth = rng.integers(num_values, size=(num_items, 1))
        table = np.where(
            rng.random((num_items, num_people)) < noise, rng.integers(num_values, size=(num_items, num_people)), truth
        ).astype(float)
        if k % 4 == 3:  # not all whole numbers, uneven distances
            table = np.round(table**1.7 - 2.5, 3)
        table[rng.random(table.shape) < missing] = math.nan
        tables[f"random {k}"] = table
    cases = [
        {"name": name, "level": level, "values": to_rows(table), "alpha": alpha(table, level)}
        for name, table in tables.items()
        for level in LEVELS
    ]
    path = Path(__file__).with_name("krippendorff.json")
    lines = ",\n".join(json.dumps(case) for case in cases)
    path.write_text(f'{{"package": "krippendorff {version("krippendorff")}", "cases": [\n{lines}\n]}}\n')


def alpha(table: np.ndarray, level: str) -> float | None:
    try:
        found = float(krippendorff.alpha(table.T, level_of_measurement=level))
    except ValueError:  # one value alone, or no item of two votes
        return None
    return found if math.isfinite(found) else None


def to_rows(table: np.ndarray) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in table.tolist()]


if __name__ == "__main__":
    main()
