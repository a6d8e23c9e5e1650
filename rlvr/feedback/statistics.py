"""How good people's answers are, as plain JSON data: agreement, each person, what is disputed, which groups differ.

    statistics(items, answers)["people"][0]["reliability"]  ->  {"value": 0.91, "low": 0.86, "high": 0.95, "n": 412}

Every figure of a person has that form: gold is the accuracy, repeats the share judged otherwise, agreement the share
of others' votes that are the same, position the log odds for what is shown first, too_fast the share of answers. Shares
are in [0, 1], seconds are seconds, None is what cannot be told. The text of it all is rlvr/feedback/report.py's.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from rlvr import agreement
from rlvr.agreement import TIE, Alpha, Floats, Ints, Level
from rlvr.consensus import Consensus
from rlvr.feedback import habits
from rlvr.feedback.records import MODES, RATINGS, Answer, Item
from rlvr.feedback.report import report
from rlvr.feedback.votes import (
    Gathered,
    Votes,
    comparisons,
    consensus,
    gather,
    groups_of,
    label_counts,
    probability_of_first,
    ranks,
    ratings,
    spans,
    thumbs,
)

__all__ = ["report", "statistics"]

SURE = 0.05
"""Groups are said to differ where chance gives as much less often than this."""
MOST_COMPARED = 300
"""People of whom groups are compared."""
ALIKE = 0.9
"""Groups whose preferences correlate by more want the same, near enough for one reward model."""


def statistics(
    items: Sequence[Item],
    answers: Iterable[Answer],
    *,
    groups: Mapping[str, str] | None = None,
    seed: int = 0,
    most_disputed: int = 50,
) -> dict[str, Any]:
    """All figures. `groups`: name -> group, which counts before the group that the answers bear.

    Depends on the order of neither items nor answers, nor on which completion of an item is stored first.
    """
    gathered = gather(items, answers)
    compared, thumbed, rated = comparisons(gathered), thumbs(gathered), ratings(gathered)
    names = groups_of(gathered, groups or {})
    told = consensus(compared, len(gathered.people), symmetric=True)
    told_thumbs = consensus(thumbed, len(gathered.people), symmetric=False)
    differing = _groups(gathered, {"comparisons": compared, "thumbs": thumbed}, rated, names, seed)
    apart = {row["what"] for row in differing["rows"] if row["differs"] and not row["source"]}
    return {
        "schema": 1,
        "progress": _progress(gathered),
        "modes": _modes(gathered),
        "alpha": _alphas(gathered, compared, thumbed, rated, seed),
        "reliability_within": "group" if apart else "all",
        "people": _people(gathered, compared, thumbed, rated, (told, told_thumbs), names, apart),
        "skips": dict(Counter(a.judgement.skipped for *_, a in gathered.skipped).most_common()),
        "disputed": _disputed(gathered, (compared, told), (thumbed, told_thumbs), rated)[:most_disputed],
        "groups": differing,
    }


# --- how much there is -----------------------------------------------------------------------------------------------


def _progress(gathered: Gathered) -> dict[str, Any]:
    per_item = Counter(i for i, _, _ in gathered.firsts)
    told = [a for *_, a in gathered.firsts] + [later for *_, later in gathered.repeats]
    return {
        "items": len(gathered.items),
        "gold_items": sum(item.gold is not None for item in gathered.items),
        "answered": len(per_item),
        "answers": len(gathered.firsts),
        "repeats": len(gathered.repeats),
        "skips": len(gathered.skipped),
        "unknown": gathered.num_unknown,
        "people": len(gathered.people),
        "answers_per_item": fmean(per_item.values()) if per_item else 0.0,
        "hours": math.fsum(a.seconds for a in told) / 3600,
    }


def _modes(gathered: Gathered) -> dict[str, Any]:
    found = {}
    for mode in MODES:
        those = {i for i, item in enumerate(gathered.items) if item.mode == mode}
        if not those:
            continue
        told = [(i, a) for i, _, a in gathered.firsts if i in those]
        seconds = [a.seconds for _, a in told if a.seconds > 0]
        found[mode] = {
            "items": len(those),
            "answered": len({i for i, _ in told}),
            "answers": len(told),
            "skips": sum(i in those for i, *_ in gathered.skipped),
            "median_seconds": median(seconds) if seconds else None,
        }
    if "rank" in found:
        found["rank"] |= _concordance(gathered)
    return found


def _concordance(gathered: Gathered) -> dict[str, Any]:
    """Kendall's W of each item that two people ranked, on average."""
    by_item: defaultdict[int, list[list[float]]] = defaultdict(list)
    for i, _, a in gathered.firsts:
        if a.judgement.ranking is not None and len(gathered.items[i].completions) > 2:
            by_item[i].append(agreement.mean_ranks(a.judgement.ranking))
    found = [w for rows in by_item.values() if not math.isnan(w := agreement.kendall_w(rows))]
    return {"kendall_w": fmean(found) if found else None, "kendall_w_items": len(found)}


# --- agreement -------------------------------------------------------------------------------------------------------


def _alphas(
    gathered: Gathered, compared: Votes, thumbed: Votes, rated: Mapping[str, Votes], seed: int
) -> list[dict[str, Any]]:
    """Rows {by, name, what, level, alpha, low, high, items, answers}.

    Of comparisons with the completions of each item exchanged as well (rlvr/agreement.py's mirrored).
    """
    mode_I = np.array([item.mode for item in gathered.items], dtype=object)
    source_I = np.array([item.source for item in gathered.items], dtype=object)
    kinds: list[tuple[str, Votes, Level]] = [
        ("comparisons", compared, "nominal"),
        ("ranks", ranks(gathered), "ordinal"),
        ("thumbs", thumbed, "nominal"),
        *((f"ratings: {attribute}", votes, "ordinal") for attribute, votes in rated.items()),
        ("marked characters", spans(gathered), "nominal"),
    ]
    found = []
    for what, votes, level in kinds:
        if not len(votes.item_N):
            continue
        is_rating = what.startswith("ratings")
        parts = (
            [("attribute", what.partition(": ")[2], np.ones(len(votes.item_N), dtype=bool))]
            if is_rating
            else [("mode", str(mode), mode_I[votes.item_N] == mode) for mode in sorted(set(mode_I[votes.item_N]))]
        )
        sources = sorted(set(source_I[votes.item_N]))
        if len(sources) > 1:
            parts += [("source", str(source), source_I[votes.item_N] == source) for source in sources]
        for by, name, is_in_N in parts:
            alpha = _alpha(votes, is_in_N, level, seed, is_compared=what == "comparisons")
            found.append(
                {"by": by, "name": name, "what": what, "level": level, "alpha": _number(alpha.alpha)}
                | {"low": _number(alpha.low), "high": _number(alpha.high), "items": alpha.num_items}
                | {"answers": alpha.num_votes}
            )
    return found


def _alpha(votes: Votes, is_in_N: Any, level: Level, seed: int, *, is_compared: bool) -> Alpha:
    chosen = is_in_N[votes.question_V]
    question_V, value_V = votes.question_V[chosen], votes.value_V[chosen]
    weight_N = votes.weight_N if len(votes.weight_N) else None
    if not is_compared:
        return agreement.alpha_interval(
            question_V, value_V, level=level, seed=seed, cluster_N=votes.item_N, weight_N=weight_N
        )
    item_V, label_V, of_question = agreement.mirrored(question_V, value_V.astype(np.int64))
    alpha = agreement.alpha_interval(item_V, label_V, level=level, seed=seed, cluster_N=votes.item_N[of_question])
    return Alpha(
        alpha=alpha.alpha,
        low=alpha.low,
        high=alpha.high,
        num_items=alpha.num_items // 2,
        num_votes=alpha.num_votes // 2,
    )


# --- people ----------------------------------------------------------------------------------------------------------


def _people(
    gathered: Gathered,
    compared: Votes,
    thumbed: Votes,
    rated: Mapping[str, Votes],
    told: tuple[Consensus, Consensus],
    groups: Sequence[str],
    apart: set[str],
) -> list[dict[str, Any]]:
    """A row for each person. Where groups differ, each is measured within the own group: else a minority would look
    unreliable for wanting something else."""
    reliability = _reliability(compared, told[0], groups, symmetric=True, is_apart="comparisons" in apart)
    of_thumbs = _reliability(thumbed, told[1], groups, symmetric=False, is_apart="thumbs" in apart)
    alike, others = _with_the_rest(compared, len(groups)), _offsets(rated, len(groups))
    gold, steady = habits.on_gold(gathered), habits.on_repeats(gathered)
    hurried, positions = habits.too_fast(gathered), habits.positions(gathered)
    firsts: Counter[int] = Counter(p for _, p, _ in gathered.firsts)
    seconds: defaultdict[int, list[float]] = defaultdict(list)
    skips: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for _, p, a in gathered.firsts:
        seconds[p] += [a.seconds] if a.seconds > 0 else []
    for _, p, a in gathered.skipped:
        skips[p][a.judgement.skipped or ""] += 1
    found = []
    for p, name in enumerate(gathered.people):
        row = {
            "name": name,
            "group": groups[p],
            "answers": firsts[p],
            "skips": dict(skips[p].most_common()),
            "gold": gold.get(p),
            "repeats": steady.get(p),
            "reliability": reliability.get(p),
            "reliability_thumbs": of_thumbs.get(p),
            "agreement": alike.get(p),
            "ratings": others.get(p),
            "position": positions.get(p),
            "median_seconds": median(seconds[p]) if seconds[p] else None,
            "too_fast": hurried.get(p),
        }
        found.append(row | {"flags": habits.flags(row, len(gathered.people))})
    return found


def _reliability(
    votes: Votes, told: Consensus, groups: Sequence[str], *, symmetric: bool, is_apart: bool
) -> dict[int, dict[str, Any]]:
    found = _of_consensus(votes, told)
    for group in set(groups) - {""} if is_apart else ():
        member_A = np.array([other == group for other in groups])
        chosen = member_A[votes.person_V]
        own = Votes(
            question_V=votes.question_V[chosen],
            person_V=votes.person_V[chosen],
            value_V=votes.value_V[chosen],
            item_N=votes.item_N,
            sides_N2=votes.sides_N2,
            gold_N=votes.gold_N,
        )
        found |= _of_consensus(own, consensus(own, len(groups), symmetric=symmetric))
    return found


def _of_consensus(votes: Votes, told: Consensus) -> dict[int, dict[str, Any]]:
    """Of those whose votes name a side where gold or somebody else does; all else is what everybody is taken for."""
    named_V, has_gold_N = votes.label_V < TIE, (votes.gold_N >= 0) & (votes.gold_N < TIE)  # thumbs have no TIE
    num_N = np.bincount(votes.question_V, named_V, minlength=votes.num_questions) + has_gold_N
    known = set(votes.person_V[named_V & (num_N[votes.question_V] > 1)].tolist())
    rows = zip(told.reliability_A, told.low_A, told.high_A, told.num_A, strict=True)
    return {
        p: {"value": float(value), "low": float(low), "high": float(high), "n": int(n)}
        for p, (value, low, high, n) in enumerate(rows)
        if p in known
    }


def _with_the_rest(votes: Votes, num_people: int) -> dict[int, dict[str, Any]]:
    """Of all the others' votes on the questions that a person answered, the share that says the same."""
    counts_NC, label_V = label_counts(votes, 3), votes.label_V
    same_V = counts_NC[votes.question_V, label_V] - 1
    others_V = counts_NC.sum(axis=1)[votes.question_V] - 1
    same_A = np.bincount(votes.person_V, same_V, minlength=num_people)
    others_A = np.bincount(votes.person_V, others_V, minlength=num_people)
    return {int(p): {"value": float(same_A[p] / others_A[p]), "n": int(others_A[p])} for p in np.flatnonzero(others_A)}


def _offsets(rated: Mapping[str, Votes], num_people: int) -> dict[int, dict[str, Any]]:
    """By how much a person rates the same completions higher than the others, and the correlation with their mean."""
    own: defaultdict[int, list[float]] = defaultdict(list)
    theirs: defaultdict[int, list[float]] = defaultdict(list)
    for votes in rated.values():
        num_N = np.bincount(votes.question_V)
        total_N = np.bincount(votes.question_V, votes.value_V)
        for q, p, value in zip(votes.question_V, votes.person_V, votes.value_V, strict=True):
            if num_N[q] > 1:
                own[int(p)].append(float(value))
                theirs[int(p)].append(float((total_N[q] - value) / (num_N[q] - 1)))
    found = {}
    for p in sorted(own):
        varies = len(own[p]) > 2 and np.std(own[p]) > 0 and np.std(theirs[p]) > 0
        found[p] = {
            "n": len(own[p]),
            "offset": fmean(own[p]) - fmean(theirs[p]),
            "correlation": float(np.corrcoef(own[p], theirs[p])[0, 1]) if varies else None,
        }
    return found


# --- what is disputed ------------------------------------------------------------------------------------------------


def _disputed(
    gathered: Gathered,
    compared: tuple[Votes, Consensus],
    thumbed: tuple[Votes, Consensus],
    rated: Mapping[str, Votes],
) -> list[dict[str, Any]]:
    """Items that people do not agree on, most disputed first.

    Of comparisons and thumbs the dispute is the entropy of what all together say (bits, the mean over an item's
    questions), so an adversary disputes nothing; of ratings the mean difference of two people as a share of the scale.
    """
    disputes: defaultdict[int, list[float]] = defaultdict(list)
    votes_of: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for (votes, told), words in ((compared, ("first", "second", "tie")), (thumbed, ("bad", "good"))):
        counts_NC = label_counts(votes, len(words))
        probability_N = probability_of_first(told) if len(words) == 3 else told.posterior_NC[:, 1]
        for q in np.flatnonzero(counts_NC.max(axis=1, initial=0) < counts_NC.sum(axis=1)):
            i, sides = int(votes.item_N[q]), [int(k) for k in votes.sides_N2[q]]
            disputes[i].append(_entropy(float(probability_N[q])))
            votes_of[i].append(
                {"completions": sides if len(words) == 3 else sides[:1]}
                | dict(zip(words, map(int, counts_NC[q]), strict=True))
                | {"probability": float(probability_N[q])}
            )
    for attribute, votes in rated.items():
        for q, values in _split_ratings(votes).items():
            i = int(votes.item_N[q])
            disputes[i].append(_mean_difference(values) / (RATINGS[1] - RATINGS[0]))
            votes_of[i].append({"completions": [int(votes.sides_N2[q, 0])], "attribute": attribute, "ratings": values})
    people = Counter(i for i, _, _ in gathered.firsts)
    found = [
        {
            "item": gathered.items[i].id,
            "mode": gathered.items[i].mode,
            "source": gathered.items[i].source,
            "people": people[i],
            "dispute": min(1.0, fmean(values)),
            "votes": votes_of[i],
        }
        for i, values in disputes.items()
    ]
    return sorted(found, key=lambda row: (-round(row["dispute"], 9), -row["people"], row["item"]))


def _entropy(probability: float) -> float:
    return -sum(p * math.log2(p) for p in (probability, 1 - probability) if p > 0)


def _split_ratings(votes: Votes) -> dict[int, list[float]]:
    by_question: defaultdict[int, list[float]] = defaultdict(list)
    for q, value in zip(votes.question_V, votes.value_V, strict=True):
        by_question[int(q)].append(float(value))
    return {q: sorted(values) for q, values in by_question.items() if min(values) < max(values)}


def _mean_difference(values: Sequence[float]) -> float:
    """Of two of the sorted values."""
    num = len(values)
    return sum((2 * k - num + 1) * value for k, value in enumerate(values)) / (num * (num - 1) / 2)


# --- groups ----------------------------------------------------------------------------------------------------------


def _groups(
    gathered: Gathered, labelled: Mapping[str, Votes], rated: Mapping[str, Votes], names: Sequence[str], seed: int
) -> dict[str, Any]:
    """Whether people of different groups want different things: {people, rows, items, advice}."""
    known = sorted(set(names) - {""})
    found: dict[str, Any] = {
        "people": {group: names.count(group) for group in known},
        "rows": [],
        "items": [],
        "advice": "nobody has a group" if not known else "all are of one group",
    }
    if len(known) < 2:
        return found
    group_A = np.array([known.index(name) if name else -1 for name in names])
    signed = {what: (votes, _signed(what, votes)) for what, votes in labelled.items()}
    signed |= {f"ratings: {name}": (votes, _centred(votes)) for name, votes in rated.items()}
    source_I = np.array([item.source for item in gathered.items], dtype=object)
    for what, (votes, value_V) in signed.items():
        sources = sorted(set(source_I[votes.item_N]))
        for source in ["", *(sources if len(sources) > 1 else [])]:
            chosen = group_A[votes.person_V] >= 0
            if source:
                chosen &= (source_I[votes.item_N] == source)[votes.question_V]
            row = _difference(votes, value_V, chosen, group_A, known, seed)
            found["rows"] += [{"what": what, "source": str(source)} | row] if row else []
    found["items"] = _differing_items(gathered, labelled["comparisons"], group_A, known)
    return found | {"advice": _advice(found["rows"])}


def _signed(what: str, votes: Votes) -> Floats:
    """The first +1, the second -1, a tie 0; thumbs around their mean, which is no agreement."""
    if what == "comparisons":
        return np.array([1.0, -1.0, 0.0])[votes.label_V]
    return votes.value_V - (votes.value_V.mean() if len(votes.value_V) else 0.0)


def _centred(votes: Votes) -> Floats:
    """Around each person's own mean: some rate higher throughout."""
    num_A = np.maximum(np.bincount(votes.person_V), 1)
    return votes.value_V - (np.bincount(votes.person_V, votes.value_V) / num_A)[votes.person_V]


def _difference(
    votes: Votes, value_V: Floats, chosen: Any, group_A: Ints, known: Sequence[str], seed: int
) -> dict[str, Any] | None:
    """None where two groups share no items, or a group's agreement with itself is not known. Of very many people those
    with the most answers: two thousand ways to deal them are tried."""
    num_A = np.bincount(votes.person_V[chosen], minlength=len(group_A))
    if (num_A > 0).sum() > MOST_COMPARED:
        chosen = np.asarray(chosen) & (np.argsort(np.argsort(-num_A, kind="stable")) < MOST_COMPARED)[votes.person_V]
    has_A, person_V = np.unique(votes.person_V[chosen], return_inverse=True)
    present, own = np.unique(group_A[has_A], return_inverse=True)
    if len(present) < 2:
        return None
    sums, num = agreement.products(votes.question_V[chosen], person_V, value_V[chosen], len(has_A))
    both = agreement.group_difference(sums, num, own, seed=seed)
    if math.isnan(both.difference):
        return None
    within = {known[int(group)]: _number(float(value)) for group, value in zip(present, both.within_G, strict=True)}
    return {
        "within": within,
        "between": both.between,
        "correlation": _number(both.correlation),
        "difference": both.difference,
        "p": both.p,
        "smallest_p": both.smallest_p,
        "differs": both.p < SURE and not both.correlation > ALIKE,
    }


def _differing_items(
    gathered: Gathered, votes: Votes, group_A: Ints, known: Sequence[str], most: int = 20
) -> list[dict[str, Any]]:
    """Comparisons that two groups, of two votes or more each, answer most differently."""
    group_V = group_A[votes.person_V]
    keys = (votes.question_V * len(known) + group_V)[group_V >= 0]
    shape = (votes.num_questions, len(known))
    num_NG = np.bincount(keys, minlength=shape[0] * shape[1]).reshape(shape)
    value_V = np.array([1.0, 0.0, 0.5])[votes.label_V][group_V >= 0]
    share_NG = np.bincount(keys, value_V, minlength=shape[0] * shape[1]).reshape(shape) / np.maximum(num_NG, 1)
    least = np.where(num_NG > 1, share_NG, np.inf).min(axis=1, initial=np.inf)
    apart_N = np.where(num_NG > 1, share_NG, -np.inf).max(axis=1, initial=-np.inf) - least
    order = sorted(np.flatnonzero(apart_N >= 0.5), key=lambda q: (-apart_N[q], -num_NG[q].sum(), q))
    return [
        {
            "item": gathered.items[votes.item_N[q]].id,
            "completions": [int(k) for k in votes.sides_N2[q]],
            "first": {name: float(share_NG[q, g]) for g, name in enumerate(known) if num_NG[q, g]},
            "votes": {name: int(num_NG[q, g]) for g, name in enumerate(known) if num_NG[q, g]},
        }
        for q in order[:most]
    ]


def _advice(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "not known: groups of two people and more must judge the same items"
    if any(row["differs"] for row in rows):
        return "groups want different things: train a reward head for each group"
    if min(row["smallest_p"] for row in rows) > SURE:
        return "not known: too few people to tell groups from persons"
    return "no difference found: one reward model is enough"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
