"""Whether each audience is served better by its own adapter, and whether anybody is served worse than before.

Every model answers the same held-out prompts with the same seeds; each group judges all answers by its own score. So
differences are paired by prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rlvr import rows
from rlvr.audience import BASE
from rlvr.errors import DataError
from rlvr.evaluate import compare_values
from rlvr.reward_settings import Rows
from rlvr.types import Task, prompt_of

Values = Mapping[str, float]
"""{task: mean score of its completions}"""


def scores(spec: str, groups: Sequence[str], files: Mapping[str, Path]) -> dict[str, dict[str, dict[str, float]]]:
    """{model: {group: {task: mean score}}} of sampled files.

    spec: a reward model's folder, FOLDER:OUTPUT of one with an output for each group, or a verifier; {group} in it is
    the group's name. DataError where a task has no score.
    """
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in files}
    for group in groups:
        judge = spec.replace("{group}", group)
        for name, path in files.items():
            found[name][group] = _by_task(judge, path)
    return found


def _by_task(judge: str, path: Path) -> dict[str, float]:
    sampled = [dict(row.fields) for row in rows.read_rows(Rows(path=str(path)), "samples")]
    tasks = [Task(id=str(row["id"]), prompt=prompt_of(row["prompt"]), gold=row.get("gold")) for row in sampled]
    texts = [(task, text) for task, row in zip(tasks, sampled, strict=True) for text in row["completions"]]
    folder = judge.rpartition(":")[0]
    is_model = Path(judge).is_dir() or (folder != "" and Path(folder).is_dir())
    numbers = _of_model(judge, texts) if is_model else _of_verifier(judge, texts)
    own: dict[str, list[float]] = {task.id: [] for task in tasks}
    for (task, _), number in zip(texts, numbers, strict=True):
        if number is not None and math.isfinite(number):
            own[task.id].append(number)
    empty = next((task for task, values in own.items() if not values), None)
    if empty is not None:
        raise DataError(f"--score {judge}: gives no score for any completion of task {empty!r} in {path}")
    return {task: fmean(values) for task, values in own.items()}


def _of_model(judge: str, texts: Sequence[tuple[Task, str]]) -> list[float | None]:
    from rlvr.probing.scorer import load

    path, label = (judge, None) if Path(judge).is_dir() else tuple(judge.rsplit(":", 1))
    return load(str(path), label=label, setting="--score").rewards([(task.prompt, text) for task, text in texts])


def _of_verifier(judge: str, texts: Sequence[tuple[Task, str]]) -> list[float | None]:
    from rlvr.verify import judge_responses

    return [verdict.score for verdict in judge_responses([(judge, text, task) for task, text in texts])]


# --- the matrix ------------------------------------------------------------------------------------------------------


def matrix(found: Mapping[str, Mapping[str, Values]], *, tolerance: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """{cells, served, worse, verdict} of scores().

    cells: {adapter: {group: compare_values() with the base, is_worse}}; served: each group by its own adapter;
    worse: groups that are served surely worse than by the base: the difference's interval lies below -tolerance.
    """
    groups = list(found[BASE])
    cells: dict[str, dict[str, Any]] = {}
    for name, by_group in found.items():
        if name == BASE:
            continue
        cells[name] = {}
        for group in groups:
            cell = compare_values(found[BASE][group], by_group[group], seed=seed)
            cells[name][group] = {**cell, "is_worse": cell["ci95"][1] < -tolerance, "is_better": cell["ci95"][0] > 0}
    served = {group: cells[group][group] for group in groups if group in cells}
    worse = [group for group, cell in served.items() if cell["is_worse"]]
    better = [group for group, cell in served.items() if cell["is_better"]]
    cross = [f"{a} on {g}" for a, of in cells.items() for g, cell in of.items() if g != a and cell["is_worse"]]
    return {
        "base": {group: fmean(found[BASE][group].values()) for group in groups},
        "cells": cells,
        "served": served,
        "better": better,
        "worse": worse,
        "cross_worse": cross,
        "tolerance": tolerance,
        "verdict": _verdict(len(served), better, worse, cross),
    }


def _verdict(num: int, better: Sequence[str], worse: Sequence[str], cross: Sequence[str]) -> str:
    if worse:
        text = f"worse than before: {', '.join(worse)}"
    else:
        text = "no group is served worse than before"
    text += f"; {len(better)} of {num} better by their own adapter"
    if cross:
        text += f"; an adapter is for its own audience alone ({', '.join(cross)} would be worse)"
    return text


def render(told: Mapping[str, Any]) -> Iterator[str]:
    """A row for each model, a column for each group's own score."""
    groups = list(told["base"])
    width = max(28, *(len(group) + 2 for group in groups))
    yield f"{'served by':16}" + "".join(f"{group:>{width}}" for group in groups)
    yield f"{BASE:16}" + "".join(f"{told['base'][group]:>{width}.4f}" for group in groups)
    for name, of in told["cells"].items():
        line = f"{name:16}"
        for group in groups:
            line += f"{_cell(of[group], '*' if name == group else ' '):>{width}}"
        yield line
    yield "(difference from the base with its 95 % interval; * the group's own adapter)"
    yield str(told["verdict"])


def _cell(cell: Mapping[str, Any], mark: str) -> str:
    low, high = cell["ci95"]
    return f"{cell['delta']:+.4f} ({low:+.3f} {high:+.3f}){mark}"


def sampled(folder: Path, told: Mapping[str, Any], sample: Any) -> dict[str, Path]:
    """{model: file} of completions of the base and of each adapter's model; `sample` (model, file) makes those that are
    not there."""
    out = folder / "report"
    out.mkdir(exist_ok=True)
    models = {BASE: told["base"]} | {name: str(folder / one["model"]) for name, one in told["groups"].items()}
    files: dict[str, Path] = {}
    for name, model in models.items():
        files[name] = out / f"{name}.jsonl"
        sample(model, files[name])
    return files
