"""What several people's answers say together, for exports: each two completions, or each thumb, as one probability."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, get_args

from rlvr.feedback.records import Answer, Item, Judgement

Labels = Literal["votes", "majority", "dawid_skene"]
LABELS: tuple[Labels, ...] = get_args(Labels)
_WIDE = 0.4
"""A person with a wider interval may well guess, however high the estimate is."""
_EVEN = 1e-6
"""What an estimate is nearer than this to 0.5 is a tie."""


@dataclass(slots=True)
class Asked:
    """An item with the answers that count, of all people or of one group: the first showing of each annotator."""

    item: Item
    answers: list[Answer]
    group: str | None


Choice = Literal["first", "tie", "second"]
"""Also of a thumb: up, (never a tie), down."""


@dataclass(slots=True)
class Question:
    """Something that has two sides, and which of them each annotator chose."""

    asked: Asked
    first: int
    """Of the item's completions; of a thumb the one that is judged."""
    second: int
    votes: dict[str, Choice]
    doubt: tuple[float, float] | None = None
    """Of a dawid_skene label that rests on little: the 95 % interval of the reliability of whoever is known best among
    those that it follows."""

    def count(self) -> tuple[int, int, int]:
        """(first, tie, second)"""
        found = Counter(self.votes.values())
        return found["first"], found["tie"], found["second"]


def compared(asked: Sequence[Asked]) -> list[Question]:
    """Every two completions of an item that were put in order, a question each."""
    found = []
    for one in asked:
        placed = {a.annotator: places(a.judgement) for a in one.answers if a.judgement.ranking is not None}
        for first, second in combinations(range(len(one.item.completions)), 2) if placed else ():
            votes: dict[str, Choice] = {name: _choice(own, first, second) for name, own in placed.items()}
            found.append(Question(one, first, second, votes))
    return found


def places(judgement: Judgement) -> list[int]:
    """The place of each completion, 1 is best; those of one place share the number, and the next ones are skipped."""
    assert judgement.ranking is not None
    found, above = dict[int, int](), 0
    for tied in judgement.ranking:
        found |= dict.fromkeys(tied, above + 1)
        above += len(tied)
    return [found[k] for k in range(above)]


def _choice(place: Sequence[int], first: int, second: int) -> Choice:
    if place[first] == place[second]:
        return "tie"
    return "first" if place[first] < place[second] else "second"


def probabilities(questions: Sequence[Question], labels: Labels) -> list[float]:
    """That the first side is the better one, of each question, in [0, 1]; 0.5 is a tie. Sets Question.doubt."""
    if labels == "dawid_skene":
        by_group: defaultdict[str | None, list[int]] = defaultdict(list)
        for k, question in enumerate(questions):
            by_group[question.asked.group].append(k)
        found = [0.5] * len(questions)
        for numbers in by_group.values():  # who is right in one group is no witness against another
            for k, told in zip(numbers, _dawid_skene([questions[k] for k in numbers]), strict=True):
                found[k] = told
        return found
    counts = [question.count() for question in questions]
    if labels == "votes":
        return [(first + tie / 2) / (first + tie + second) for first, tie, second in counts]
    return [_majority(first, tie, second) for first, tie, second in counts]


def _majority(first: int, tie: int, second: int) -> float:
    most = max(first, tie, second)
    if most in (tie, min(first, second)):
        return 0.5
    return 1.0 if first == most else 0.0


def _dawid_skene(questions: Sequence[Question]) -> list[float]:
    """Of comparisons, or of thumbs, whose two classes mean something by themselves; known answers are held fast."""
    import numpy as np

    from rlvr.feedback.votes import BAD, GOOD, TIE, Votes, consensus, probability_of_first

    of_pairs = questions[0].first != questions[0].second
    code: dict[Choice, int] = {"first": 0, "second": 1, "tie": TIE} if of_pairs else {"first": GOOD, "second": BAD}
    people = sorted({name for question in questions for name in question.votes})
    number, items = {name: k for k, name in enumerate(people)}, dict[str, int]()
    for question in questions:
        items.setdefault(question.asked.item.id, len(items))
    votes = [(k, number[name], code[choice]) for k, q in enumerate(questions) for name, choice in q.votes.items()]
    question_V, person_V, label_V = np.array(votes, dtype=np.int64).T
    those = Votes(
        question_V=question_V,
        person_V=person_V,
        value_V=label_V.astype(np.float64),
        item_N=np.array([items[q.asked.item.id] for q in questions], dtype=np.int64),
        sides_N2=np.array([(q.first, q.second) for q in questions], dtype=np.int64),
        gold_N=np.array([-1 if (known := _known(q)) is None else code[known] for q in questions], dtype=np.int64),
    )
    told = consensus(those, len(people), symmetric=of_pairs)
    width_A, best = told.high_A - told.low_A, dict[int, int]()
    follows_V = told.posterior_NC.argmax(axis=1)[question_V] == label_V
    for k, person in zip(question_V[follows_V].tolist(), person_V[follows_V].tolist(), strict=True):
        best[k] = min(best.get(k, person), person, key=width_A.__getitem__)
    for k, person in best.items():
        if those.gold_N[k] < 0 and width_A[person] > _WIDE:
            questions[k].doubt = float(told.low_A[person]), float(told.high_A[person])
    first_N = probability_of_first(told) if of_pairs else told.posterior_NC[:, GOOD]
    return [0.5 if abs(p - 0.5) < _EVEN else min(1.0, p) for p in first_N.tolist()]


def _known(question: Question) -> Choice | None:
    """What the item's gold says of it."""
    gold = question.asked.item.gold
    if gold is None:
        return None
    if question.first == question.second:
        is_good = gold.thumbs.get(str(question.first))
        return None if is_good is None else "first" if is_good else "second"
    return _choice(places(gold), question.first, question.second) if gold.ranking is not None else None


def agreement(votes: Iterable[Any]) -> float | None:
    """Share of the pairs of people who say the same; None of fewer than two people."""
    counts = Counter(votes)
    total = sum(counts.values())
    return sum(n * (n - 1) for n in counts.values()) / (total * (total - 1)) if total > 1 else None
