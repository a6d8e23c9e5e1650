"""Opinions of pairs as one ranking of each case: by Bradley and Terry's strengths, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.agreement import bradley_terry
from rlvr.judging.labelling import Opinion

_SAME = 1e-6
"""Strengths that differ by less are a tie."""
Order = tuple[tuple[int, ...], ...]


def ranked(opinions: Sequence[Opinion]) -> dict[str, Order | str]:
    """By case: places, best first, ties together; or the reason why some completion has no place."""
    by_case: dict[str, list[Opinion]] = {}
    for opinion in opinions:
        by_case.setdefault(opinion.case.id, []).append(opinion)
    return {id: _ranked(own) for id, own in by_case.items()}


def _ranked(own: Sequence[Opinion]) -> Order | str:
    num = len(own[0].case.completions)
    known = [opinion for opinion in own if opinion.compared.logit is not None]
    placed = {k for opinion in known for k in (opinion.a, opinion.b)}
    if len(placed) < num:
        return next((o.compared.problem for o in own if o.compared.problem), "not compared")
    strengths = bradley_terry(num, [(o.a, o.b) for o in known], [o.compared.logit or 0.0 for o in known])
    order: list[list[int]] = []
    for k in sorted(range(num), key=lambda k: -strengths[k]):
        if order and abs(strengths[order[-1][0]] - strengths[k]) < _SAME:
            order[-1].append(k)
        else:
            order.append([k])
    return tuple(tuple(sorted(place)) for place in order)
