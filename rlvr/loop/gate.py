"""Whether a new policy takes the place of the current one.

Values are by held-out task: the mean of what the judge says of its completions. Comparisons are paired by task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rlvr.errors import DataError
from rlvr.loop_settings import Gate
from rlvr.types import Task

Values = dict[str, float]
"""By the task's id."""


@dataclass(frozen=True, slots=True)
class Judge:
    """What says how good a completion of a held-out task is."""

    kind: str
    name: str = ""
    """Of truth: the function; of reward_model: the folder."""
    round: int = 1
    """Of truth: the round whose preferences count."""


def values(judge: Judge, tasks: Sequence[Task], completions: Mapping[str, Sequence[str]]) -> Values:
    """The mean worth of each task's completions; tasks that could not be judged are left out. DataError where none
    could."""
    rows = [(task, text) for task in tasks for text in completions[task.id]]
    worth = _worth(judge, rows)
    found: dict[str, list[float]] = {}
    for (task, _), value in zip(rows, worth, strict=True):
        if value is not None:
            found.setdefault(task.id, []).append(value)
    if not found:
        raise DataError(f"gate.judge {judge.kind} could judge none of {len(rows)} completions")
    return {id: fmean(numbers) for id, numbers in found.items()}


def _worth(judge: Judge, rows: Sequence[tuple[Task, str]]) -> list[float | None]:
    if judge.kind == "truth":
        from rlvr.loop.labelling import truth

        worth = truth(judge.name, judge.round)
        return [worth(task.prompt, text, task.gold) for task, text in rows]
    if judge.kind == "verifier":
        from rlvr.verify import judge_responses

        jobs = [(task.verifier or "", text, task) for task, text in rows]
        return [verdict.score for verdict in judge_responses(jobs)]
    from rlvr.probing.scorer import rewards_of

    (reward_N,) = rewards_of([judge.name], [(task.prompt, text) for task, text in rows])
    return [None if math.isnan(reward) else float(reward) for reward in reward_N]


def decide(settings: Gate, own: Mapping[str, Any], old: Mapping[int, Mapping[str, Any]]) -> str:
    """Why the new policy is refused; "" where it is accepted.

    own: compare_values() on this round's held-out tasks; old: on those of earlier rounds.
    """
    low, high = own["ci95"]
    told = f"{own['after']:.4g} beside {own['before']:.4g}, difference {own['delta']:+.4g} [{low:.4g}, {high:.4g}]"
    limit = settings.tolerance
    if settings.rule == "mean" and own["delta"] < -limit:
        return f"worse on held-out tasks: {told}; a loss of {limit:g} is allowed"
    if settings.rule == "not_worse" and low < -limit:
        return f"not shown to be no worse on held-out tasks: {told}, the interval may begin at {-limit:g}"
    if settings.rule == "better" and low <= limit:
        return f"not shown to be better on held-out tasks: {told}, the interval must begin above {limit:g}"
    if settings.forget is None:
        return ""
    for number, figures in old.items():
        low, high = figures["ci95"]
        if high < -settings.forget:
            return (
                f"worse on the held-out tasks of round {number}: {figures['after']:.4g}, not {figures['before']:.4g}, "
                f"difference {figures['delta']:+.4g} [{low:.4g}, {high:.4g}]; a loss of {settings.forget:g} is allowed"
            )
    return ""
