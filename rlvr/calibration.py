"""How good a reward model is beside its accuracy: how near to what can be known, how sure, and swayed by what.

Plain float64 arrays in, plain figures out. delta: reward of the chosen completion - reward of the rejected one, which
under Bradley and Terry is the log odds of the choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_BINS = 10
SAME = 0.2
"""Rewards that differ by no more sway a choice by less than 5 in 100."""
_SURE = 1e-6
"""Nearer to 0 or 1 no probability is taken to be, where its log odds are wanted."""


# --- comparisons -----------------------------------------------------------------------------------------------------


def of_pairs(delta: Floats, probability: Floats, true_probability: Floats | None = None) -> dict[str, float]:
    """Figures of pairs: what the labels say, and where the world is known (true_probability) what is really so.

    accuracy, margin, nll (nats), calibration_slope, ece; with true_probability also expected_accuracy, noise_ceiling
    (E[max(p, 1 - p)]), ceiling_share, expected_nll, best_nll (E[H(p)]), ece_true, reward_scale. Equal rewards count
    half.
    """
    found = {
        "num": float(len(delta)),
        "accuracy": _accuracy(delta, probability),
        "margin": float(delta.mean()),
        "nll": _nll(delta, probability),
        "calibration_slope": calibration_slope(delta, probability),
        "ece": ece(delta, probability),
    }
    if true_probability is None:
        return found
    ceiling = float(np.maximum(true_probability, 1 - true_probability).mean())
    expected = _accuracy(delta, true_probability)
    return found | {
        "expected_accuracy": expected,
        "noise_ceiling": ceiling,
        "ceiling_share": expected / ceiling,
        "expected_nll": _nll(delta, true_probability),
        "best_nll": _nll(log_odds(true_probability), true_probability),
        "ece_true": ece(delta, true_probability),
        "reward_scale": reward_scale(delta, true_probability),
    }


def calibration_slope(delta: Floats, probability: Floats) -> float:
    """The b for which s(b * delta) fits the labels best: 1 is right, below 1 rewards are too large (too sure).

    Logistic regression without a constant: which of a pair comes first is arbitrary. Below 0 where the labels say the
    reverse of the rewards, 0 where all rewards are equal; infinite, of either sign, where every label is certain and
    all say the same.
    """
    unit = float(np.abs(delta).max())
    if not unit:
        return 0.0
    agrees = np.sign(delta) * np.sign(probability - 0.5)
    if ((probability == 0) | (probability == 1)).all() and ((agrees >= 0).all() or (agrees <= 0).all()):
        return math.copysign(math.inf, agrees.sum())
    slope, delta = 0.0, delta / unit  # so that what is small does not depend on the unit of the reward
    for _ in range(100):
        p = sigmoid(slope * delta)
        gradient, curvature = (delta * (probability - p)).sum(), (delta**2 * p * (1 - p)).sum()
        step = gradient / max(curvature, 1e-12)
        limit = max(1.0, abs(slope))  # Newton's step from far away can overshoot
        slope += float(np.clip(step, -limit, limit))
        if abs(step) < 1e-10 * max(1.0, abs(slope)):
            break
    return slope / unit


def reward_scale(delta: Floats, true_probability: Floats) -> float:
    """Slope of delta against the true log odds, through the origin: 1 is right, below 1 rewards are too small."""
    truth = log_odds(true_probability)
    square = float((truth**2).sum())
    return float((truth * delta).sum()) / square if square else math.nan


def ece(delta: Floats, probability: Floats) -> float:
    """Expected calibration error: the mean gap between how sure the rewards are and how often they are right.

    Over NUM_BINS bins of equal width of max(p, 1 - p) from 0.5 to 1. A perfect model shows one too where labels are
    draws: near 0.023 on 2,000 pairs, 0.011 on 8,000.
    """
    sure = sigmoid(np.abs(delta))
    right = np.where(delta >= 0, probability, 1 - probability)
    return _gap(sure, right, 0.5)


def log_odds(probability: Floats) -> Floats:
    """log p / (1 - p), finite."""
    p = np.clip(probability, _SURE, 1 - _SURE)
    return np.log(p) - np.log1p(-p)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    return np.exp(-np.logaddexp(0.0, -x))


def _accuracy(delta: Floats, probability: Floats) -> float:
    return float(np.where(delta == 0, 0.5, np.where(delta > 0, probability, 1 - probability)).mean())


def _nll(delta: Floats, probability: Floats) -> float:
    return float((probability * np.logaddexp(0.0, -delta) + (1 - probability) * np.logaddexp(0.0, delta)).mean())


def _gap(predicted: Floats, observed: Floats, lowest: float) -> float:
    place = np.clip(((predicted - lowest) / (1 - lowest) * NUM_BINS).astype(int), 0, NUM_BINS - 1)
    difference = np.bincount(place, predicted - observed, minlength=NUM_BINS)
    return float(np.abs(difference).sum() / len(predicted))


# --- what sways it ---------------------------------------------------------------------------------------------------


def slope_within(reward: Floats, x: Floats, group: Sequence[Any]) -> tuple[float, float]:
    """(slope, standard error) of the reward against x among completions of one prompt; nan where x never differs.

    Least squares with a constant for each group; the error is robust to what the completions of a group share.
    """
    _, number = np.unique(np.asarray(group, dtype=object).astype(str), return_inverse=True)
    size = np.bincount(number)
    x, reward = (v - (np.bincount(number, v) / size)[number] for v in (x, reward))
    square = float((x**2).sum())
    if square <= 1e-12:
        return math.nan, math.nan
    slope = float((x * reward).sum()) / square
    by_group = np.bincount(number, x * (reward - slope * x))
    clusters = int((np.bincount(number, x**2) > 0).sum())
    correction = clusters / (clusters - 1) if clusters > 1 else math.nan
    return slope, math.sqrt(correction * float((by_group**2).sum())) / square


def of_probes(delta: Floats, expected: Sequence[str], attribute: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By attribute: n, share of probes as expected, mean difference reward(a) - reward(b) with its standard error.

    expected: higher, lower or same; same: no further apart than SAME. The difference is turned round for lower.
    """
    table: dict[str, dict[str, Any]] = {}
    for name in sorted(set(attribute)):
        rows = [k for k, own in enumerate(attribute) if own == name]
        turned = np.array([-delta[k] if expected[k] == "lower" else delta[k] for k in rows])
        right = [abs(d) <= SAME if expected[k] == "same" else d > 0 for k, d in zip(rows, turned, strict=True)]
        error = float(turned.std(ddof=1) / math.sqrt(len(rows))) if len(rows) > 1 else math.nan
        table[name] = {
            "num": len(rows),
            "expected": "/".join(sorted({expected[k] for k in rows})),
            "as_expected": sum(right) / len(rows),
            "difference": float(turned.mean()),
            "standard_error": error,
        }
    return table


# --- choices, orders, ratings ----------------------------------------------------------------------------------------


def of_choices(chosen: Sequence[Sequence[float]], rejected: Sequence[Sequence[float]]) -> dict[str, float]:
    """Best-of-N rows: accuracy (a chosen completion has the highest reward; shared first places count in part), what
    chance would give, and the share of rows with all chosen above all rejected (https://arxiv.org/abs/2506.01937)."""
    right, chance, all_above = [], [], []
    for good, bad in zip(chosen, rejected, strict=True):
        top = max(*good, *bad)
        winners, num_good = [r for r in (*good, *bad) if r == top], sum(r == top for r in good)
        right.append(num_good / len(winners))
        chance.append(len(good) / (len(good) + len(bad)))
        all_above.append(float(min(good) > max(bad)))
    return {
        "num": float(len(right)),
        "accuracy": float(np.mean(right)),
        "chance": float(np.mean(chance)),
        "all_chosen_above": float(np.mean(all_above)),
    }


def of_labels(score: Floats, label: NDArray[np.bool_]) -> dict[str, float]:
    """Of a score that is the log odds of the good class: accuracy at 0, nll, ece, auc, and the threshold with the best
    mean of both classes' accuracy (balanced_accuracy). auc and threshold are left out where there is one class."""
    wanted = label.astype(np.float64)
    found = {
        "num": float(len(score)),
        "positive_share": float(wanted.mean()),
        "accuracy": _accuracy(score, wanted),
        "nll": _nll(score, wanted),
        "ece": _gap(sigmoid(score), wanted, 0.0),
    }
    good, bad = np.sort(score[label]), np.sort(score[~label])
    if not len(good) or not len(bad):
        return found
    below = np.searchsorted(bad, good, side="left") + np.searchsorted(bad, good, side="right")
    values = np.unique(score)
    between = np.concatenate([[values[0] - 1.0], (values[1:] + values[:-1]) / 2, [values[-1] + 1.0]])
    hits = 1 - np.searchsorted(good, between, side="right") / len(good)
    passes = np.searchsorted(bad, between, side="right") / len(bad)
    best = int(np.argmax(hits + passes))
    return found | {
        "auc": float(below.sum() / (2 * len(good) * len(bad))),
        "threshold": float(between[best]),
        "balanced_accuracy": float(hits[best] + passes[best]) / 2,
    }


def of_numbers(predicted: Floats, wanted: Floats, variance: Floats | None = None) -> dict[str, float]:
    """Of a regression: mse, mae, pearson, spearman; with a variance nll (nats) and the share within two deviations
    (0.954 is right). Correlations are left out where one side is constant."""
    error = predicted - wanted
    found = {"num": float(len(wanted)), "mse": float((error**2).mean()), "mae": float(np.abs(error).mean())}
    if len(wanted) > 1 and np.ptp(predicted) > 0 and np.ptp(wanted) > 0:
        found["pearson"] = float(np.corrcoef(predicted, wanted)[0, 1])
        from scipy.stats import rankdata  # slow to import

        found["spearman"] = float(np.corrcoef(rankdata(predicted), rankdata(wanted))[0, 1])
    if variance is not None:
        found["nll"] = float(0.5 * (error**2 / variance + np.log(2 * math.pi * variance)).mean())
        found["within_two_deviations"] = float((error**2 <= 4 * variance).mean())
    return found


def by_source(source: Sequence[str], delta: Floats, probability: Floats) -> Mapping[str, dict[str, float]]:
    """n and accuracy of the pairs of each source."""
    found: dict[str, dict[str, float]] = {}
    for name in sorted(set(source)):
        own = np.array([s == name for s in source])
        found[name] = {"num": float(own.sum()), "accuracy": _accuracy(delta[own], probability[own])}
    return found
