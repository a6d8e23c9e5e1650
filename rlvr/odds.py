"""Between a probability and the number on the line whose sigmoid it is; how well a share is known."""

from __future__ import annotations

import math
from statistics import NormalDist


def sigmoid(value: float) -> float:
    """1 / (1 + e^-value) without overflow: the probability, or the score, that a number of any size stands for."""
    small = math.exp(-abs(value))
    return 1 / (1 + small) if value >= 0 else small / (1 + small)


def wilson(share: float, num: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share among num independent draws; honest at 0 and 1. wilson(0, 512) is (0, 0.0074)."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    centre = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    low = 0.0 if share <= 0 else centre - half
    high = 1.0 if share >= 1 else centre + half
    return max(0.0, low), min(1.0, high)
