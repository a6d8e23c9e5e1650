"""What the answers of one person tell: right on gold, steady on repeats, swayed by position, too fast."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean, median
from typing import Any

from rlvr import agreement
from rlvr.evaluate import wilson
from rlvr.feedback.records import Item, Judgement, Ranking, Span
from rlvr.feedback.votes import Gathered

NEAR = 1.0
"""A rating is right that is no further from gold."""
READING = 75.0
"""Characters a second, 900 words a minute: faster nobody reads to understand."""
REACTION = 0.3
"""Seconds in which nobody chooses between two words."""
HURRY = 0.25
"""Too fast is also less than this share of the usual pace, the crowd's or the person's own, whichever is slower."""
SELDOM = 0.1
"""Share of answers that may be too fast before the person is flagged."""
GOLD_WANTED = 0.8
FLIPS_BORNE = 0.35
FEW = 5
"""Fewer answers of a kind flag nobody."""
CHANCE = 0.05


# --- gold ------------------------------------------------------------------------------------------------------------


def on_gold(gathered: Gathered) -> dict[int, dict[str, Any]]:
    """By person {value, low, high, n}, the accuracy of first answers to items whose gold is known; an item counts once,
    in part where parts of it are right (`score`). Wilson's interval."""
    scores: defaultdict[int, list[float]] = defaultdict(list)
    for i, p, answer in gathered.firsts:
        if (gold := gathered.items[i].gold) is not None:
            found = score(answer.judgement, gold, gathered.items[i])
            if found is not None:
                scores[p].append(found)
    return {p: _with_interval(fmean(own), len(own)) for p, own in scores.items()}


def score(judgement: Judgement, gold: Judgement, item: Item) -> float | None:
    """Share of what gold says that the judgement says too; None where gold says nothing of its kind.

    Of rankings the pairs, of ratings those no further off than NEAR, of thumbs each, of spans the F1 of characters.
    """
    found: list[float] = []
    if gold.ranking is not None and judgement.ranking is not None:
        both = zip(_order(gold.ranking), _order(judgement.ranking), strict=True)
        found += [float(expected == said) for expected, said in both]
    for k, values in gold.ratings.items():
        own = judgement.ratings.get(k, {})
        found += [float(name in own and abs(own[name] - value) <= NEAR) for name, value in values.items()]
    found += [float(judgement.thumbs.get(k) == value) for k, value in gold.thumbs.items()]
    if gold.spans is not None and judgement.spans is not None:
        found.append(_f1(_marked(judgement.spans, item), _marked(gold.spans, item)))
    return fmean(found) if found else None


def _order(ranking: Ranking) -> list[int]:
    """Of each two completions whether the first is ahead (1), behind (-1) or tied (0)."""
    return [(a < b) - (a > b) for a, b in combinations(agreement.mean_ranks(ranking), 2)]


def _marked(spans: Sequence[Span], item: Item) -> set[tuple[int, int]]:
    return {(s.completion, at) for s in spans for at in range(s.first, min(s.end, len(item.completions[s.completion])))}


def _f1(one: set[tuple[int, int]], other: set[tuple[int, int]]) -> float:
    return 2 * len(one & other) / (len(one) + len(other)) if one or other else 1.0


def _with_interval(share: float, num: int) -> dict[str, Any]:
    low, high = wilson(share, num)
    return {"value": share, "low": low, "high": high, "n": num}


# --- repeats ---------------------------------------------------------------------------------------------------------


def on_repeats(gathered: Gathered) -> dict[int, dict[str, Any]]:
    """By person {value, low, high, n, reversed}: of items shown again, how much of the answer differs from the first,
    and how much prefers what was the worse before; an item counts once. Somebody right with probability r reverses
    2 r (1 - r). Wilson's interval. Written texts are left out: nobody writes the same twice."""
    changes: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for i, p, first, later in gathered.repeats:
        if gathered.items[i].mode != "write":
            changes[p].append(_change(first.judgement, later.judgement))
    found = {}
    for p, own in changes.items():
        changed = fmean(part for part, _ in own)
        found[p] = _with_interval(changed, len(own)) | {"reversed": fmean(part for _, part in own)}
    return found


def _change(first: Judgement, later: Judgement) -> tuple[float, float]:
    """(share changed, share reversed): of the pairs of a ranking, else of thumbs, else of ratings, else the spans."""
    if first.ranking is not None and later.ranking is not None:
        both = list(zip(_order(first.ranking), _order(later.ranking), strict=True))
        return fmean(one != other for one, other in both), fmean(one * other < 0 for one, other in both)
    if shared := first.thumbs.keys() & later.thumbs.keys():
        changed = fmean(first.thumbs[k] != later.thumbs[k] for k in shared)
        return changed, changed
    rated = [
        value != later.ratings.get(k, {}).get(name)
        for k, values in first.ratings.items()
        for name, value in values.items()
    ]
    return (fmean(rated), 0.0) if rated else (float(first.spans != later.spans), 0.0)


# --- position --------------------------------------------------------------------------------------------------------


def positions(gathered: Gathered) -> dict[int, dict[str, Any]]:
    """By person {value, low, high, n, share, expected, p} of agreement.PositionBias, its logit the value.

    Of answers with one best completion and a known shown order.
    """
    own: defaultdict[int, list[tuple[bool, int]]] = defaultdict(list)
    for i, p, answer in gathered.firsts:
        ranking, size = answer.judgement.ranking, len(gathered.items[i].completions)
        if ranking is not None and len(ranking[0]) == 1 and len(answer.shown) == size > 1:
            own[p].append((answer.shown[0] == ranking[0][0], size))
    found = {}
    for p, rows in own.items():
        bias = agreement.position_bias(*zip(*rows, strict=True))
        found[p] = {"value": bias.logit, "low": bias.low, "high": bias.high, "n": bias.num}
        found[p] |= {"share": bias.share, "expected": bias.expected, "p": bias.p}
    return found


# --- time ------------------------------------------------------------------------------------------------------------


def too_fast(gathered: Gathered) -> dict[int, dict[str, Any]]:
    """By person {value, n, num}: the share of timed answers that were too fast, of how many, and how many.

    Too fast is an answer in less than REACTION seconds, or one that is both quicker than the item can be read (READING)
    and less than HURRY of the usual seconds per character of its mode: the median of the others, or the person's own,
    whichever is slower. So neither short texts, nor a skilled crowd, nor one fast reader is flagged for nothing, and
    somebody careful who starts to click through is. What was written counts where it is longer than what was read.
    Judges that are programs are not measured.
    """
    paces: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    timed: list[tuple[str, int, float, float]] = []
    length_I = [_length(item) for item in gathered.items]
    for i, p, answer in gathered.firsts:
        if answer.seconds > 0 and answer.source != "judge":
            item = gathered.items[i]
            length = max(length_I[i], float(len(answer.judgement.text or "")))
            paces[item.mode, p].append(answer.seconds / length)
            timed.append((item.mode, p, answer.seconds, length))
    usual = _usual(paces)
    found: dict[int, dict[str, Any]] = {}
    for mode, p, seconds, length in timed:
        row = found.setdefault(p, {"n": 0, "num": 0})
        hurried = seconds < length / READING and seconds < HURRY * usual[mode, p] * length
        row["n"] += 1
        row["num"] += seconds < REACTION or hurried
    return {p: {"value": row["num"] / row["n"]} | row for p, row in found.items()}


def _length(item: Item) -> float:
    """Characters to be read."""
    prompt = item.prompt if isinstance(item.prompt, str) else "".join(turn["content"] for turn in item.prompt)
    return float(max(1, len(prompt) + sum(map(len, item.completions))))


def _usual(paces: Mapping[tuple[str, int], Sequence[float]]) -> dict[tuple[str, int], float]:
    """By mode and person the slower of two paces: the person's median, and the median of the others' medians, so that
    one person with most of the answers does not set it."""
    by_mode: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for (mode, p), own in paces.items():
        by_mode[mode].append((median(own), p))
    usual = {}
    for mode, people in by_mode.items():
        people.sort()
        for place, (pace, p) in enumerate(people):
            num = len(people) - 1
            middle = [people[k + (k >= place)][0] for k in ((num - 1) // 2, num // 2)] if num else [0.0]
            usual[mode, p] = max(pace, fmean(middle))
    return usual


# --- flags -----------------------------------------------------------------------------------------------------------


def flags(row: Mapping[str, Any], num_people: int) -> list[str]:
    """What to look at in a row of statistics()["people"]; each flag is one that chance seldom raises."""
    found = []
    reliability, gold, repeats, position = (row[key] for key in ("reliability", "gold", "repeats", "position"))
    if reliability and reliability["high"] < 0.5:
        found.append("says the reverse")
    elif reliability and reliability["low"] < 0.5 and reliability["high"] < 0.7:
        found.append("near chance")
    if gold and gold["n"] >= FEW and gold["high"] < GOLD_WANTED:
        found.append("wrong on gold")
    if repeats and repeats["n"] >= FEW and repeats["low"] > FLIPS_BORNE:
        found.append("changes answers")
    if position and position["p"] * num_people < CHANCE:  # as many people are tested
        found.append("prefers the first" if position["value"] > 0 else "avoids the first")
    if row["too_fast"] and row["too_fast"]["num"] >= FEW and row["too_fast"]["value"] > SELDOM:
        found.append("too fast")
    if (skipped := sum(row["skips"].values())) >= FEW and skipped > row["answers"]:
        found.append("skips most")
    return found
