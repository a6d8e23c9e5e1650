"""Intervals of what is measured: a mean by bootstrap, a share by Wilson, the difference of two shares by Newcombe."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rlvr.evaluate import wilson

_RESAMPLES = 2000


def of_mean(values: Sequence[float], *, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap-t interval of the mean, which covers as promised on few and skewed values; (nan, nan) of one value.

    https://doi.org/10.1201/9780429246593 section 12.5: quantiles of (mean* - mean) / error* over resamples. Values that
    are all equal give that value twice.
    """
    x = np.asarray(values, dtype=np.float64)
    num = len(x)
    if num < 2:
        return math.nan, math.nan
    mean, error = float(x.mean()), float(x.std(ddof=1)) / math.sqrt(num)
    if error == 0:
        return mean, mean
    rng = np.random.default_rng(seed)
    drawn = x[rng.integers(0, num, (_RESAMPLES, num))]
    errors = drawn.std(axis=1, ddof=1) / math.sqrt(num)
    # a resample of one value over and over says nothing of the error
    t = (drawn.mean(axis=1) - mean)[errors > 0] / errors[errors > 0]
    low, high = np.quantile(t, [(1 + level) / 2, (1 - level) / 2])
    return mean - float(low) * error, mean - float(high) * error


def of_difference(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float]:
    """Of (hits, num) second - first: Newcombe's interval of two independent shares, 95 %.

    https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8%3C873::AID-SIM779%3E3.0.CO;2-I method 10.
    """
    (a, n), (b, m) = first, second
    p, q = a / n, b / m
    (low_p, high_p), (low_q, high_q) = wilson(p, n), wilson(q, m)
    return (
        q - p - math.sqrt((q - low_q) ** 2 + (high_p - p) ** 2),
        q - p + math.sqrt((high_q - q) ** 2 + (p - low_p) ** 2),
    )
