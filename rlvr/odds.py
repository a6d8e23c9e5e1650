"""Between a probability and the number on the line whose sigmoid it is."""

from __future__ import annotations

import math


def sigmoid(value: float) -> float:
    """1 / (1 + e^-value) without overflow: the probability, or the score, that a number of any size stands for."""
    small = math.exp(-abs(value))
    return 1 / (1 + small) if value >= 0 else small / (1 + small)
