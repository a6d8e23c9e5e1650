"""How a judge errs: for the place of an answer, its length, its padding, its author; and how it agrees with people.

Log odds and accuracies come with intervals of 95 %, from pairs that were asked in both orders. With z the log odds that
an answer is better, z_1 where it stood first and z_2 where it stood second, (z_1 - z_2) / 2 is the preference for the
first place of that pair and (z_1 + z_2) / 2 what is left without it.
K pairs, C columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvr import calibration
from rlvr.agreement import cohen_kappa
from rlvr.judging.cases import Case
from rlvr.judging.judge import Judge, Pair
from rlvr.judging.labelling import Opinion
from rlvr.judging.replies import MOST_SURE
from rlvr.odds import sigmoid, wilson
from rlvr.seeds import rng_for

Floats = NDArray[np.float64]
PADDING = (
    "I hope that this is of use. Do let me know if any part of it is not clear, and I will gladly say it again in "
    "other words or at more length."
)
"""Says nothing of any question."""
_Z = 1.959963984540054
_FEWEST = 10
"""Pairs below which nothing is told of a bias."""


def report(
    judge: Judge, opinions: Sequence[Opinion], *, own: str = "", twins: Sequence[Opinion] = ()
) -> dict[str, Any]:
    """Figures by what they speak of; those of which the rows tell nothing are left out, and those of fewer pairs than
    are needed are told in too_few. own: the judge's name among the cases' models; twins: of padded() pairs."""
    known = [opinion for opinion in opinions if _both(opinion) is not None]
    found: dict[str, Any] = {
        "judge": judge.name,
        "version": judge.version,
        "pairs": len(opinions),
        "usable": len(known),
    }
    found["at_limit"] = sum(max(map(abs, _both(opinion) or ())) >= MOST_SURE for opinion in known)
    labelled = [opinion for opinion in known if opinion.label is not None and opinion.label != 0.5]
    told = [twin for twin in twins if _both(twin) is not None]
    nums = {"position and length": len(known), "verbosity": len(told), "agreement": len(labelled)}
    asked = {"position and length": True, "verbosity": bool(twins), "agreement": bool(labelled)}
    found["too_few"] = {what: num for what, num in nums.items() if asked[what] and num < _FEWEST}
    if len(known) >= _FEWEST:
        found["position"] = _position(known)
        found |= _swayed(known, own)
    if len(told) >= _FEWEST:
        found["verbosity"] = {"pairs": len(told), "logit": _mean([_fair(twin) for twin in told])}
        found["verbosity"]["preferred"] = float(np.mean([_fair(twin) > 0 for twin in told]))
    if len(labelled) >= _FEWEST:
        found["agreement"] = _agreement(labelled)
    return found


def padded(cases: Sequence[Case], num: int, seed: int, padding: str = PADDING) -> list[tuple[Case, Pair]]:
    """At most num cases by lot, each with a pair of one of its completions, padded (a), and the same bare (b)."""
    rng = rng_for(seed, "judge_padding")
    chosen = rng.sample(range(len(cases)), min(num, len(cases)))
    found: list[tuple[Case, Pair]] = []
    for number in sorted(chosen):
        case = cases[number]
        bare = case.completions[rng.randrange(len(case.completions))]
        twin = Case(id=f"{case.id}/padded", prompt=case.prompt, completions=(f"{bare} {padding}", bare))
        found.append((twin, Pair(prompt=case.prompt, a=twin.completions[0], b=bare, key=twin.id)))
    return found


def _both(opinion: Opinion) -> tuple[float, float] | None:
    """(log odds that a is better where it stood first, where it stood second); None where one is not there."""
    orders = dict(zip(opinion.compared.a_first, opinion.compared.orders, strict=True))
    first, second = orders.get(True), orders.get(False)
    return None if first is None or second is None else (first, second)


def _fair(opinion: Opinion) -> float:
    both = _both(opinion)
    assert both is not None
    return (both[0] + both[1]) / 2


def _position(known: Sequence[Opinion]) -> dict[str, Any]:
    both_K2 = np.array([_both(opinion) for opinion in known])
    # where `a` stood second, the first place won with -z_2
    first_wins = np.concatenate([both_K2[:, 0] > 0, both_K2[:, 1] < 0])
    return {
        "logit": _mean(((both_K2[:, 0] - both_K2[:, 1]) / 2).tolist()),
        "first": float(first_wins.mean()),
        "flipped": float(np.mean(both_K2[:, 0] * both_K2[:, 1] < 0)),
    }


def _swayed(known: Sequence[Opinion], own: str) -> dict[str, Any]:
    """Log odds regressed on what the two answers differ in, all at once: length, author, and the labels where all
    have one, so that a judge that likes long answers for their being better is not blamed for it."""
    fair_K = np.array([_fair(opinion) for opinion in known])
    columns: dict[str, Floats] = {
        "length": np.array([_words(opinion, opinion.a) - _words(opinion, opinion.b) for opinion in known], np.float64)
    }
    if own and all(opinion.case.models for opinion in known):
        columns["own"] = np.array(
            [_is_own(opinion, opinion.a, own) - _is_own(opinion, opinion.b, own) for opinion in known]
        )
    if all(opinion.label is not None for opinion in known):
        columns["label"] = np.array([2 * (opinion.label or 0.0) - 1 for opinion in known])
    varying = {name: column_K for name, column_K in columns.items() if np.abs(column_K).max() > 0}
    slopes = _slopes(fair_K, varying)
    found: dict[str, Any] = {}
    if "length" in slopes:
        unequal = columns["length"] != 0
        longer = np.where(columns["length"] > 0, fair_K, -fair_K)[unequal] > 0
        found["length"] = {"logit_per_word": slopes["length"], "longer_preferred": float(longer.mean())}
    if "own" in slopes:
        mine = columns["own"] != 0
        share = float((np.where(columns["own"] > 0, fair_K, -fair_K)[mine] > 0).mean())
        found["self_preference"] = {"model": own, "logit": slopes["own"], "preferred": share, "pairs": int(mine.sum())}
    return found


def _slopes(y_K: Floats, columns: Mapping[str, Floats]) -> dict[str, dict[str, Any]]:
    """Least squares through the origin, as a pair has no first side; errors hold for unequal variances (HC1)."""
    if not columns:
        return {}
    x_KC = np.stack(list(columns.values()), axis=1)
    bread_CC = np.linalg.pinv(x_KC.T @ x_KC)
    slope_C = bread_CC @ x_KC.T @ y_K
    left_K = y_K - x_KC @ slope_C
    num, width = x_KC.shape
    meat_CC = (x_KC * (left_K**2)[:, None]).T @ x_KC * (num / max(1, num - width))
    error_C = np.sqrt(np.diag(bread_CC @ meat_CC @ bread_CC))
    return {name: _with_interval(float(slope_C[k]), float(error_C[k])) for k, name in enumerate(columns)}


def _agreement(labelled: Sequence[Opinion]) -> dict[str, Any]:
    """With the rows' labels: of the mean of both orders, of one order by lot (the first that `a` had), of those that
    are consistent; Cohen's kappa; and how right the judge is where it says how sure it is."""
    fair_K = np.array([_fair(opinion) for opinion in labelled])
    both_K2 = np.array([_both(opinion) for opinion in labelled])
    label_K = np.array([opinion.label for opinion in labelled], np.float64)
    first_K = np.array([rng_for("judge_one_order", o.case.id, o.a, o.b).random() < 0.5 for o in labelled])
    one_K = np.where(first_K, both_K2[:, 0], both_K2[:, 1])
    is_kept_K = both_K2[:, 0] * both_K2[:, 1] > 0
    kappa = cohen_kappa(fair_K > 0, label_K > 0.5)
    found: dict[str, Any] = {
        "pairs": len(labelled),
        "accuracy": _accuracy(fair_K, label_K),
        "accuracy_one_order": _accuracy(one_K, label_K),
        "accuracy_consistent": _accuracy(fair_K[is_kept_K], label_K[is_kept_K]) if is_kept_K.any() else None,
        "consistent": float(is_kept_K.mean()),
        "kappa": kappa if math.isfinite(kappa) else None,
        "ece": calibration.ece(fair_K, label_K),
    }
    slope = calibration.calibration_slope(fair_K, label_K)
    return found | {"calibration_slope": slope if math.isfinite(slope) else None}


def _accuracy(fair_K: Floats, label_K: Floats) -> dict[str, Any]:
    """Share of pairs in which the judge names what the label names; a tie of the judge is half. Wilson's interval,
    which stays within 0 and 1."""
    right_K = np.where(fair_K == 0, 0.5, (fair_K > 0) == (label_K > 0.5))
    share = float(right_K.mean())
    return {"value": share, "ci95": list(wilson(share, len(right_K)))}


def _mean(values: Sequence[float]) -> dict[str, Any]:
    value_K = np.array(values, np.float64)
    error = float(value_K.std(ddof=1)) / math.sqrt(len(value_K)) if len(value_K) > 1 else math.nan
    return _with_interval(float(value_K.mean()), error)


def _with_interval(value: float, error: float) -> dict[str, Any]:
    if not math.isfinite(error):
        return {"value": value, "ci95": None}
    return {"value": value, "ci95": [value - _Z * error, value + _Z * error]}


def _words(opinion: Opinion, k: int) -> int:
    return len(opinion.case.completions[k].split())


def _is_own(opinion: Opinion, k: int, own: str) -> float:
    return float(opinion.case.models[k] == own)


def lines(found: Mapping[str, Any]) -> list[str]:
    """The report for people."""
    said = [f"{found['usable']} of {found['pairs']} pairs were judged in both orders"]
    if position := found.get("position"):
        said.append(
            f"position: {_shown(position['logit'])} logits for the first place; it wins {position['first']:.1%}, "
            f"{position['flipped']:.1%} of pairs flip with the order (probability of an equal pair: "
            f"{sigmoid(position['logit']['value']):.3f})"
        )
    if length := found.get("length"):
        said.append(
            f"length: {_shown(length['logit_per_word'], 4)} logits per word more; the longer answer wins "
            f"{length['longer_preferred']:.1%}"
        )
    if verbosity := found.get("verbosity"):
        said.append(
            f"verbosity: {_shown(verbosity['logit'])} logits for the same answer with idle words; it wins "
            f"{verbosity['preferred']:.1%} of {verbosity['pairs']} pairs"
        )
    if own := found.get("self_preference"):
        said.append(
            f"self-preference: {_shown(own['logit'])} logits for answers of {own['model']}; they win "
            f"{own['preferred']:.1%} of {own['pairs']} pairs"
        )
    if agreement := found.get("agreement"):
        kept = agreement["accuracy_consistent"]
        kappa = agreement["kappa"]
        said.append(
            f"agreement with the labels of {agreement['pairs']} pairs: {_shown(agreement['accuracy'])} by both orders, "
            f"{_shown(agreement['accuracy_one_order'])} by one, "
            + (f"{_shown(kept)} of the {agreement['consistent']:.1%} where both agree; " if kept else "")
            + (f"kappa {kappa:.3f}, " if kappa is not None else "")
            + f"ece {agreement['ece']:.3f}"
            + (f", calibration slope {slope:.2f}" if (slope := agreement["calibration_slope"]) is not None else "")
        )
    if found["at_limit"]:
        said.append(f"of {found['at_limit']} pairs the log odds are at their limit of {MOST_SURE:g}: no doubt at all")
    said += [f"{what}: {num} pairs, {_FEWEST} are needed" for what, num in found["too_few"].items()]
    return said


def _shown(figure: Mapping[str, Any], digits: int = 3) -> str:
    interval = figure["ci95"]
    tail = f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else ""
    return f"{figure['value']:.{digits}f}{tail}"
