"""Answers of people as arrays of votes, for rlvr/agreement.py and rlvr/consensus.py.

A ranking of K completions is a vote on each of its K (K - 1) / 2 pairs. Where a person saw an item more than once, the
first answer that was not skipped votes; the later ones tell how steady the person is.

V votes, N questions (two completions of an item, or one of them), M answers, K completions, A people.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from rlvr.agreement import TIE, Floats, Ints, mean_ranks
from rlvr.consensus import Consensus, dawid_skene
from rlvr.feedback.records import Answer, Item, Ranking, Span

BAD, GOOD = 0, 1
"""Labels of a thumb."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """Answers by what they are good for. `people` and `items` are what indices count."""

    items: tuple[Item, ...]
    people: tuple[str, ...]
    """In order of their names."""
    firsts: list[tuple[int, int, Answer]]
    """(item, person, answer): one for each person and item."""
    repeats: list[tuple[int, int, Answer, Answer]]
    """(item, person, first answer, a later one)"""
    skipped: list[tuple[int, int, Answer]]
    num_unknown: int
    """Answers to items that are not there."""


def gather(items: Sequence[Item], answers: Iterable[Answer]) -> Gathered:
    """In an order that depends on neither's."""
    ordered = tuple(sorted(items, key=lambda item: item.id))
    number = {item.id: k for k, item in enumerate(ordered)}
    latest: dict[tuple[int, str, int], Answer] = {}
    num_unknown = 0
    for answer in answers:
        if answer.item in number:
            latest[number[answer.item], answer.annotator, answer.showing] = answer
        else:
            num_unknown += 1
    people = tuple(sorted({annotator for _, annotator, _ in latest}))
    person = {name: k for k, name in enumerate(people)}
    gathered = Gathered(items=ordered, people=people, firsts=[], repeats=[], skipped=[], num_unknown=num_unknown)
    last = (-1, -1)
    for key in sorted(latest):
        answer, where = latest[key], (key[0], person[key[1]])
        if answer.judgement.skipped is not None:
            gathered.skipped.append((*where, answer))
        elif where != last:
            gathered.firsts.append((*where, answer))
            last = where
        else:
            gathered.repeats.append((*where, gathered.firsts[-1][2], answer))
    return gathered


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """A person votes at most once on a question."""

    question_V: Ints
    person_V: Ints
    value_V: Floats
    """Labels of comparisons (0, 1, TIE: which of the two sides is better) and of thumbs; ratings; ranks."""
    item_N: Ints
    """The item of each question, for what must not be taken as independent."""
    sides_N2: Ints
    """Indices of Item.completions: the two sides; twice the same where one completion is judged by itself."""
    gold_N: Ints
    """The known label, -1 where there is none."""
    weight_N: Floats = field(default_factory=lambda: np.ones(0))
    """Of spans alone: characters."""

    @property
    def label_V(self) -> Ints:
        return self.value_V.astype(np.int64)

    @property
    def num_questions(self) -> int:
        return len(self.item_N)


def comparisons(gathered: Gathered) -> Votes:
    """Every two completions that somebody put in order; ties are labels of their own."""
    ranked = [(i, p, a.judgement.ranking) for i, p, a in gathered.firsts if a.judgement.ranking is not None]
    size_I = [len(item.completions) for item in gathered.items]
    base = 1 + max(size_I, default=0)
    found = [(np.zeros(0, dtype=np.int64),) * 4]
    known: dict[tuple[int, int], int] = {}
    for size in sorted({size_I[i] for i, _, _ in ranked}):
        upper = np.triu_indices(size, 1)
        pair_P = upper[0] * base + upper[1]
        of_size = [row for row in ranked if size_I[row[0]] == size]
        label_MP = _labels([ranking for _, _, ranking in of_size], upper)
        columns = (np.array([i for i, _, _ in of_size])[:, None], pair_P, np.array([p for _, p, _ in of_size])[:, None])
        found.append((*(np.broadcast_to(part, label_MP.shape).ravel() for part in columns), label_MP.ravel()))
        gold = {i: gold.ranking for i, _, _ in of_size if (gold := gathered.items[i].gold) and gold.ranking}
        for i, labels in zip(gold, _labels(list(gold.values()), upper), strict=True):
            known |= {(i, int(pair)): int(label) for pair, label in zip(pair_P, labels, strict=True)}
    item_V, pair_V, person_V, label_V = map(np.concatenate, zip(*found, strict=True))
    keys_N2, question_V = np.unique(np.column_stack([item_V, pair_V]), axis=0, return_inverse=True)
    return Votes(
        question_V=question_V.ravel(),
        person_V=person_V,
        value_V=label_V.astype(np.float64),
        item_N=keys_N2[:, 0],
        sides_N2=np.column_stack(np.divmod(keys_N2[:, 1], base)),
        gold_N=np.array([known.get((int(i), int(pair)), -1) for i, pair in keys_N2], dtype=np.int64),
    )


def _labels(rankings: Sequence[Ranking], upper: tuple[Ints, Ints]) -> Ints:
    """[M, pairs] of rankings of as many completions."""
    if not rankings:
        return np.zeros((0, len(upper[0])), dtype=np.int64)
    if len(upper[0]) == 1:  # most data are comparisons
        return np.array([[ranking[0][0] if len(ranking) == 2 else TIE] for ranking in rankings])
    rank_MK = np.array([mean_ranks(ranking) for ranking in rankings])
    ahead = rank_MK[:, upper[0]] - rank_MK[:, upper[1]]
    return np.where(ahead == 0, TIE, (ahead > 0).astype(np.int64))


def thumbs(gathered: Gathered) -> Votes:
    """Each completion that somebody thumbed: BAD or GOOD."""
    rows = [
        (i, int(k), p, float(value)) for i, p, a in gathered.firsts for k, value in sorted(a.judgement.thumbs.items())
    ]

    def known(i: int, k: int) -> int:
        gold = gathered.items[i].gold
        return int(gold.thumbs.get(str(k), -1)) if gold else -1

    return _votes(rows, known)


def ratings(gathered: Gathered) -> dict[str, Votes]:
    """By attribute: each completion that somebody rated."""
    rows: defaultdict[str, list[tuple[int, int, int, float]]] = defaultdict(list)
    for i, p, answer in gathered.firsts:
        for k, values in answer.judgement.ratings.items():
            for attribute, value in values.items():
                rows[attribute].append((i, int(k), p, float(value)))
    return {attribute: _votes(rows[attribute], lambda *_: -1) for attribute in sorted(rows)}


def ranks(gathered: Gathered) -> Votes:
    """The mean rank of each completion in rankings of three and more."""
    rows = [
        (i, k, p, rank)
        for i, p, a in gathered.firsts
        if a.judgement.ranking is not None and len(gathered.items[i].completions) > 2
        for k, rank in enumerate(mean_ranks(a.judgement.ranking))
    ]
    return _votes(rows, lambda *_: -1)


def spans(gathered: Gathered) -> Votes:
    """Each stretch of characters that some marked and others did not, or all, or nobody; it weighs as its length."""
    by_item: defaultdict[int, list[tuple[int, tuple[Span, ...]]]] = defaultdict(list)
    for i, p, answer in gathered.firsts:
        if answer.judgement.spans is not None:
            by_item[i].append((p, answer.judgement.spans))
    rows: list[tuple[int, int, int, float]] = []
    place, weights = 0, []
    for i, told in by_item.items():
        for k, text in enumerate(gathered.items[i].completions):
            marks = [(p, [s for s in marked if s.completion == k]) for p, marked in told]
            ends = {
                0,
                len(text),
                *(end for _, marked in marks for s in marked for end in (s.first, min(s.end, len(text)))),
            }
            for first, end in pairwise(sorted(ends)):
                rows += [(i, place, p, float(any(s.first <= first < s.end for s in marked))) for p, marked in marks]
                place, _ = place + 1, weights.append(end - first)
    votes = _votes(rows, lambda *_: -1)
    return Votes(
        question_V=votes.question_V,
        person_V=votes.person_V,
        value_V=votes.value_V,
        item_N=votes.item_N,
        sides_N2=votes.sides_N2,
        gold_N=votes.gold_N,
        weight_N=np.array(weights, dtype=np.float64)[votes.sides_N2[:, 0]],
    )


def _votes(rows: Sequence[tuple[int, int, int, float]], known: Callable[[int, int], int]) -> Votes:
    """Of (item, completion, person, value)."""
    table = np.array([row[:3] for row in rows], dtype=np.int64).reshape(-1, 3)
    keys, question_V = np.unique(table[:, :2], axis=0, return_inverse=True)
    return Votes(
        question_V=question_V.ravel(),
        person_V=table[:, 2],
        value_V=np.array([row[3] for row in rows], dtype=np.float64),
        item_N=keys[:, 0],
        sides_N2=np.repeat(keys[:, 1:], 2, axis=1),
        gold_N=np.array([known(int(i), int(k)) for i, k in keys], dtype=np.int64),
    )


# --- what they say together ------------------------------------------------------------------------------------------


def consensus(votes: Votes, num_people: int, *, symmetric: bool) -> Consensus:
    """Dawid and Skene's model of comparisons (symmetric) or thumbs, gold items held fast; a tie is a third class where
    anybody says so."""
    has_ties = symmetric and bool((votes.value_V == TIE).any() or (votes.gold_N == TIE).any())
    return dawid_skene(
        votes.question_V,
        votes.person_V,
        votes.label_V,
        num_items=votes.num_questions,
        num_annotators=num_people,
        num_classes=3 if has_ties else 2,
        symmetric=symmetric,
        gold_N=votes.gold_N,
        cluster_N=votes.item_N,
    )


def probability_of_first(told: Consensus) -> Floats:
    """[N] that the first side of a comparison is better, a tie counting half."""
    posterior_NC = told.posterior_NC
    return posterior_NC[:, 0] + (posterior_NC[:, TIE] / 2 if posterior_NC.shape[1] > TIE else 0.0)


def label_counts(votes: Votes, num_labels: int) -> Ints:
    """[N, labels] how many say which."""
    keys = votes.question_V * num_labels + votes.label_V
    return np.bincount(keys, minlength=votes.num_questions * num_labels).reshape(-1, num_labels)


def groups_of(gathered: Gathered, groups: Mapping[str, str]) -> list[str]:
    """The group of each person: `groups`', else that of an answer; "" where nobody knows."""
    found = {answer.annotator: answer.group for _, _, answer in gathered.firsts if answer.group}
    return [groups.get(name) or found.get(name, "") for name in gathered.people]
