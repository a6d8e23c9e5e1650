"""Cases in, preference rows out: what `rlvr judge` writes, ready for `rlvr reward-model` and `rlvr dpo`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlvr.errors import DataError
from rlvr.judge_settings import Constitution, Pairwise, Reference
from rlvr.judging.cases import Case, label_of, pair_of, pairs_to_ask, single_of
from rlvr.judging.judge import Compared, Cost, Judge, Rated
from rlvr.judging.replies import MOST_SURE
from rlvr.types import plain_prompt

_AT_ONCE = 256
"""Pairs, or answers, that go to the judge together; what came back is in its cache."""
_ANNOTATOR = "judge:"
_NAME_CHARACTERS = 100
"""Of an annotator's name, as rlvr.feedback.checks has it."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """Of one pair of completions of a case: which of them the judge prefers."""

    case: Case
    a: int
    b: int
    """Indices of case.completions; `a` is the one that `compared` speaks of."""
    compared: Compared
    scores: tuple[float, float] | None = None
    """Of a and b, where each was scored by itself."""
    label: float | None = None
    """What the row says: that a is better."""


@dataclass(slots=True)
class Counts:
    """What `rlvr judge` tells at its end."""

    cases: int = 0
    pairs: int = 0
    abstained: int = 0
    """Pairs without an opinion: a failure, a refusal, a reply that says neither."""
    flipped: int = 0
    """Pairs whose two orders name different winners."""
    left_out: int = 0
    """Of those pairs, the ones that are not kept; equal scores count here too."""
    cost: Cost = field(default_factory=Cost)


def opinions(judge: Judge, cases: Sequence[Case], seed: int, tell: Callable[[int, int], None]) -> Iterator[Opinion]:
    """One of each pair, in the order of the cases. tell: (pairs or answers done, of how many).

    DataError where the method needs a right answer that a case does not have.
    """
    method = judge.settings.method
    if isinstance(method, Pairwise | Constitution):
        yield from _compared(
            judge, [(c, i, j) for c in cases for i, j in pairs_to_ask(c, method.comparisons, seed)], tell
        )
        return
    missing = [case.id for case in cases if case.reference is None] if isinstance(method, Reference) else []
    if missing:
        raise DataError(
            f"row {missing[0]}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}: no reference to compare "
            "with (columns reference, gold, answer, solution)"
        )
    yield from _rated(judge, cases, seed, tell)


def _compared(
    judge: Judge, plan: Sequence[tuple[Case, int, int]], tell: Callable[[int, int], None]
) -> Iterator[Opinion]:
    for start in range(0, len(plan), _AT_ONCE):
        some = plan[start : start + _AT_ONCE]
        told = judge.compare([pair_of(case, i, j) for case, i, j in some])
        tell(start + len(some), len(plan))
        for (case, i, j), compared in zip(some, told, strict=True):
            yield Opinion(case=case, a=i, b=j, compared=compared, label=label_of(case, i, j))


def _rated(judge: Judge, cases: Sequence[Case], seed: int, tell: Callable[[int, int], None]) -> Iterator[Opinion]:
    whole, done = sum(len(case.completions) for case in cases), 0
    for start in range(0, len(cases), _AT_ONCE // 4):
        some = cases[start : start + _AT_ONCE // 4]
        told = iter(judge.rate([single_of(case, k) for case in some for k in range(len(case.completions))]))
        for case in some:
            rated = [next(told) for _ in case.completions]
            done += len(rated)
            for i, j in pairs_to_ask(case, len(case.completions) ** 2, seed):
                yield _of_scores(case, i, j, rated)
        tell(done, whole)


def _of_scores(case: Case, i: int, j: int, rated: Sequence[Rated]) -> Opinion:
    """Which of two has the higher score; each answer's cost is counted with the pairs that it is in."""
    share = 1 / (len(rated) - 1)
    cost = Cost().plus(rated[i].cost, share).plus(rated[j].cost, share)
    first, second = rated[i].score, rated[j].score
    label = label_of(case, i, j)
    if first is None or second is None:
        compared = Compared(logit=None, problem=rated[i].problem or rated[j].problem, cost=cost)
        return Opinion(case=case, a=i, b=j, compared=compared, label=label)
    logit = 0.0 if first == second else MOST_SURE if first > second else -MOST_SURE
    compared = Compared(logit=logit, cost=cost)
    return Opinion(case=case, a=i, b=j, compared=compared, scores=(first, second), label=label)


def annotator(judge: Judge) -> str:
    """Who the judge is in a database of labels: judge:NAME. Of a name that is too long (a deep folder) its end, with
    eight hexadecimal digits of the whole."""
    whole = f"{_ANNOTATOR}{judge.name}"
    if len(whole) <= _NAME_CHARACTERS:
        return whole
    tail = f"-{hashlib.blake2b(judge.name.encode(), digest_size=4).hexdigest()}"
    end = judge.name[-(_NAME_CHARACTERS - len(_ANNOTATOR) - len(tail)) :]
    return f"{_ANNOTATOR}{end}{tail}"


def row_of(opinion: Opinion, judge: Judge) -> Row | None:
    """The preference row; None where there is no opinion, or two scores are equal."""
    compared, case = opinion.compared, opinion.case
    if not is_told(opinion):
        return None
    assert compared.logit is not None
    is_a = compared.logit >= 0
    best, worst = (opinion.a, opinion.b) if is_a else (opinion.b, opinion.a)
    row: Row = {
        "id": _id(opinion),
        "prompt": plain_prompt(case.prompt),
        "chosen": case.completions[best],
        "rejected": case.completions[worst],
    }
    if opinion.scores is None:
        probability = compared.probability
        assert probability is not None
        row["probability"] = max(probability, 1 - probability)
    else:
        row["score_chosen"], row["score_rejected"] = opinion.scores if is_a else opinion.scores[::-1]
    told: Row = {"name": judge.name, "version": judge.version, "method": judge.settings.method.kind}
    if opinion.scores is None:
        orders = [z if z is None or is_a else -z for z in compared.orders]
        told |= {"logit": abs(compared.logit), "orders": orders, "samples": judge.settings.samples}
        told |= {"first": [first == is_a for first in compared.a_first], "flipped": compared.flipped}
    if compared.criterion:
        told["criterion"] = compared.criterion
    row["judge"] = told
    if case.source:
        row["source"] = case.source
    return row


def abstained_row(opinion: Opinion) -> Row:
    """What could not be told, with the reason."""
    compared, case = opinion.compared, opinion.case
    return {
        "id": _id(opinion),
        "prompt": plain_prompt(case.prompt),
        "completions": [case.completions[opinion.a], case.completions[opinion.b]],
        "problem": compared.problem or "both have the same score",
        "orders": list(compared.orders),
    }


def count(counts: Counts, opinion: Opinion) -> None:
    """Add one opinion."""
    compared = opinion.compared
    counts.pairs += 1
    counts.flipped += compared.flipped
    counts.cost = counts.cost.plus(compared.cost)
    if not is_told(opinion):
        has_one = compared.flipped or compared.logit is not None
        counts.left_out += has_one
        counts.abstained += not has_one


def is_told(opinion: Opinion) -> bool:
    """Whether it becomes a row: there is an opinion, and two scores differ."""
    logit = opinion.compared.logit
    return logit is not None and (opinion.scores is None or logit != 0)


def _id(opinion: Opinion) -> str:
    case = opinion.case
    if len(case.completions) == 2:
        return case.id
    first, second = sorted((opinion.a, opinion.b))
    return f"{case.id}/{first}-{second}"
