"""What a crowd with an adversary is worth, and how long the figures of a large project take.

    python tests/bench/bench_agreement.py            (krippendorff 0.9.0 beside it where it can be imported)

Five people who are right with 0.92, 0.8, 0.7, 0.6 and 0.25 about comparisons of which each answers 60 %: accuracy of
the majority (a tie of votes counts half) and of Dawid and Skene's model, over ten seeds, beside what each must give.
Then what a linear reward model of 16 features learns of 4,000 comparisons whose people choose as Bradley and Terry say
(temperatures 1, 1, 1.5, 2, and 1 for an adversary): trained on the majority, on shares of votes, and on Dawid and
Skene's probabilities; nll beyond the best and slope are against the true probability, 1 is the right slope.
Then 10,000 comparisons with 20 people, all of whom answer: seconds of alpha, of its interval, of Dawid and Skene, of
all statistics, and of the simulated crowd. Prints three Markdown tables and one JSON object on the last line.
Half a minute.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy import special

from rlvr import agreement, calibration
from rlvr.consensus import dawid_skene, vote_shares
from rlvr.feedback import crowd
from rlvr.feedback.records import Item, Judgement
from rlvr.feedback.statistics import statistics
from rlvr.seeds import rng_for

FACTS = (0.92, 0.8, 0.7, 0.6, 0.25)
COVERAGE = 0.6
NUM_ITEMS, NUM_PEOPLE = 10_000, 20


def main() -> None:
    accuracies, learned, large = of_adversary(), of_labels(), of_large()
    print("| labels | accuracy, 10 seeds of 4,000 | expected |\n|---|---|---|")
    for name in ("majority", "dawid_skene"):
        row = accuracies[name]
        print(f"| {name} | {row['mean']:.3f} ± {row['sd']:.3f} | {row['expected']:.3f} |")
    print(f"\nalpha {accuracies['alpha']:.3f}; estimated {accuracies['reliability']}\n")
    print("| labels | accuracy of the reward model | nll beyond the best | slope |\n|---|---|---|---|")
    for name, row in learned.items():
        print(f"| {name} | {row['accuracy']:.3f} | {row['nll']:.3f} | {row['slope']:.2f} |")
    print(f"\n| {NUM_ITEMS:,} x {NUM_PEOPLE} | seconds |\n|---|---|")
    for name, seconds in large["seconds"].items():
        print(f"| {name} | {'not installed' if seconds is None else format(seconds, '.2f')} |")
    print(json.dumps({"adversary": accuracies, "labels": learned, "large": large}))


def drawn(seed: int, num_items: int, reliabilities: Any, coverage: float) -> tuple[np.ndarray, np.ndarray]:
    """(truth_N, table_NA) of comparisons, NaN where a person did not answer."""
    rng = np.random.default_rng(seed)
    truth_N = rng.integers(2, size=num_items)
    is_right_NA = rng.random((num_items, len(reliabilities))) < np.asarray(reliabilities)
    table_NA = np.where(is_right_NA, truth_N[:, None], 1 - truth_N[:, None]).astype(float)
    table_NA[rng.random(table_NA.shape) >= coverage] = math.nan
    return truth_N, table_NA


def of_adversary(num_seeds: int = 10, num_items: int = 4000) -> dict[str, Any]:
    found: dict[str, list[float]] = {"majority": [], "dawid_skene": [], "alpha": []}
    estimates = []
    for seed in range(num_seeds):
        truth_N, table_NA = drawn(seed, num_items, FACTS, COVERAGE)
        item_V, annotator_V, value_V = agreement.long_form(table_NA)
        label_V = value_V.astype(np.int64)
        told = dawid_skene(item_V, annotator_V, label_V, num_items=num_items, num_annotators=len(FACTS))
        found["majority"].append(accuracy(vote_shares(item_V, label_V, num_items, 2), truth_N))
        found["dawid_skene"].append(accuracy(told.posterior_NC, truth_N))
        found["alpha"].append(agreement.krippendorff_alpha(item_V, value_V, level="nominal"))
        estimates.append(told.reliability_A)
    figures = {
        name: {"mean": fmean(found[name]), "sd": stdev(found[name]), "expected": expected(weighted)}
        for name, weighted in (("majority", False), ("dawid_skene", True))
    }
    reliability = [round(float(value), 3) for value in np.mean(estimates, axis=0)]
    return {**figures, "alpha": fmean(found["alpha"]), "reliability": reliability}


def accuracy(probability_NC: np.ndarray, truth_N: np.ndarray) -> float:
    ahead_N = probability_NC[:, 1] - probability_NC[:, 0]
    return float(np.where(ahead_N == 0, 0.5, (ahead_N > 0) == truth_N).mean())


def expected(weighted: bool) -> float:
    """Of equal votes, or of votes weighed by their true log odds: over all who may answer and be right."""
    total = 0.0
    for states in itertools.product((None, True, False), repeat=len(FACTS)):
        chance, ahead = 1.0, 0.0
        for state, r in zip(states, FACTS, strict=True):
            chance *= 1 - COVERAGE if state is None else COVERAGE * (r if state else 1 - r)
            weight = math.log(r / (1 - r)) if weighted else 1.0
            ahead += 0.0 if state is None else weight if state else -weight
        total += chance * (0.5 if abs(ahead) < 1e-12 else ahead > 0)
    return total


def of_labels(num_seeds: int = 5, num_items: int = 4000, num_features: int = 16) -> dict[str, dict[str, float]]:
    temperature_A = np.array([1.0, 1.0, 1.5, 2.0, -1.0])  # below 0: the reverse
    found: dict[str, list[list[float]]] = {"majority": [], "votes": [], "dawid_skene": []}
    for seed in range(num_seeds):
        rng = np.random.default_rng(seed)
        weight_F = rng.normal(size=num_features) * 1.5 / math.sqrt(num_features)
        feature_NF, held_out_NF = rng.normal(size=(2, num_items, num_features))
        chance_NA = special.expit((feature_NF @ weight_F)[:, None] / temperature_A)
        table_NA = np.where(rng.random(chance_NA.shape) < chance_NA, 0.0, 1.0)
        table_NA[rng.random(table_NA.shape) >= COVERAGE] = math.nan
        item_V, annotator_V, value_V = agreement.long_form(table_NA)
        label_V = value_V.astype(np.int64)
        share_N = vote_shares(item_V, label_V, num_items, 2)[:, 0]
        told = dawid_skene(item_V, annotator_V, label_V, num_items=num_items, num_annotators=len(temperature_A))
        labels = {
            "majority": (np.sign(share_N - 0.5) + 1) / 2,
            "votes": share_N,
            "dawid_skene": told.posterior_NC[:, 0],
        }
        truth_N = special.expit(held_out_NF @ weight_F)
        for name, probability_N in labels.items():
            figures = calibration.of_pairs(held_out_NF @ fitted(feature_NF, probability_N), truth_N, truth_N)
            beyond = figures["expected_nll"] - figures["best_nll"]
            found[name].append([figures["expected_accuracy"], beyond, figures["calibration_slope"]])
    names = ("accuracy", "nll", "slope")
    return {name: dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True)) for name, rows in found.items()}


def fitted(feature_NF: np.ndarray, probability_N: np.ndarray) -> np.ndarray:
    """The weights of least log loss, by Newton's steps, with a light penalty."""
    weight_F = np.zeros(feature_NF.shape[1])
    for _ in range(20):
        p = special.expit(feature_NF @ weight_F)
        slope_F = feature_NF.T @ (p - probability_N) + weight_F
        curve_FF = (feature_NF.T * (p * (1 - p))) @ feature_NF + np.eye(len(weight_F))
        weight_F = weight_F - np.linalg.solve(curve_FF, slope_F)
    return weight_F


def of_large() -> dict[str, Any]:
    reliabilities = [FACTS[k % len(FACTS)] for k in range(NUM_PEOPLE)]
    truth_N, table_NA = drawn(0, NUM_ITEMS, reliabilities, 1.0)
    item_V, annotator_V, value_V = agreement.long_form(table_NA)
    label_V = value_V.astype(np.int64)
    seconds: dict[str, float | None] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = work()
        seconds[name] = time.perf_counter() - start
        return found

    ours = timed("alpha", lambda: agreement.krippendorff_alpha(item_V, value_V, level="nominal"))
    gap = None
    try:
        import krippendorff  # pyright: ignore[reportMissingImports]

        theirs = timed(
            "alpha, krippendorff 0.9.0", lambda: krippendorff.alpha(table_NA.T, level_of_measurement="nominal")
        )
        gap = abs(ours - theirs)
    except ImportError:
        seconds["alpha, krippendorff 0.9.0"] = None
    timed(
        "alpha with its interval, 1,000 resamples",
        lambda: agreement.alpha_interval(item_V, value_V, level="nominal", seed=0),
    )
    told = timed(
        "Dawid and Skene",
        lambda: dawid_skene(item_V, annotator_V, label_V, num_items=NUM_ITEMS, num_annotators=NUM_PEOPLE),
    )
    items = [item(k) for k in range(NUM_ITEMS)]
    answers = timed(
        "a simulated crowd's 200,000 answers",
        lambda: crowd.answer(crowd.people(reliabilities), items, per_item=NUM_PEOPLE, seed=0),
    )
    timed("all statistics of them", lambda: statistics(items, answers))
    return {
        "seconds": seconds,
        "gap_to_krippendorff": gap,
        "majority": accuracy(vote_shares(item_V, label_V, NUM_ITEMS, 2), truth_N),
        "dawid_skene": accuracy(told.posterior_NC, truth_N),
    }


def item(k: int) -> Item:
    utility = [rng_for("bench", k, side).gauss(0, 1) for side in (0, 1)]
    gold = Judgement(ranking=((0,), (1,)) if utility[0] > utility[1] else ((1,), (0,)))
    return Item(
        id=f"q{k}",
        prompt="a question of a hundred characters " * 3,
        completions=("one answer " * 20, "another answer " * 20),
        gold=gold if k % 20 == 0 else None,
        info={"utility": utility},
    )


if __name__ == "__main__":
    main()
