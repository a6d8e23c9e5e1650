"""An evaluation of ours in the JSON form of lm-evaluation-harness, which its tables and leaderboards read."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import rlvr
from rlvr.lm_eval.task_file import TaskFile
from rlvr.recipe import Eval


def to_lm_eval(
    result: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    generation: Mapping[str, Any],
    file: TaskFile | None = None,
) -> dict[str, Any]:
    """The harness's `results` file. result: of `rlvr eval`; rows: its responses; generation: how was sampled, in the
    harness's words; file: where the tasks came from one, whose own generation_kwargs are replaced by it.

    Metrics are named as there, "metric,filter"; the filter says how was sampled: greedy, or sampled (mean over a task's
    samples). Standard errors are over tasks, n - 1.
    """
    name = file.name if file is not None else str(result["tasks"])
    metrics: dict[str, Any] = {"alias": name}
    for kind, is_greedy in (("sampled", False), ("greedy", True)):
        values = list(_by_task(rows, is_greedy).values())
        if values:
            metrics[f"pass@1,{kind}"] = sum(values) / len(values)
            metrics[f"pass@1_stderr,{kind}"] = _standard_error(values)
    for key, value in result.items():
        if key.startswith(("pass@", "maj@")) and key != "pass@1":
            metrics[f"{key},sampled"] = value
    metrics["unjudged,sampled"] = result["unjudged"]
    config = {} if file is None else {key: _plain(value) for key, value in file.config.items()}
    config |= {"generation_kwargs": dict(generation)}
    version = (config.get("metadata") or {}).get("version") if config else None
    higher = {key.split(",")[0]: "unjudged" not in key for key in metrics if "," in key and "_stderr" not in key}
    return {
        "results": {name: metrics},
        "group_subtasks": {name: []},
        "configs": {name: {"task": name, **config}},
        "versions": {name: version},
        "n-shot": {name: int(config.get("num_fewshot") or 0)},
        "higher_is_better": {name: higher},
        "n-samples": {name: {"original": result["n_tasks"], "effective": result["n_tasks"]}},
        "config": {
            "model": "rlvr",
            "model_args": {"pretrained": result["model"]},
            "verifier": result["verifier"],
            "verifier_version": result["version"],
            "n_samples": result["n_samples"],
            "gen_kwargs": dict(generation),
            "rlvr_version": rlvr.__version__,
        },
        "date": time.time(),
        "model_source": "rlvr",
        "model_name": result["model"],
        "total_evaluation_time_seconds": str(result["seconds"]),
    }


def generation_kwargs(settings: Eval) -> dict[str, Any]:
    """How an evaluation samples, in the harness's words; the greedy completion differs in its temperature alone."""
    return {"until": list(settings.stop), "max_gen_toks": settings.max_tokens, "do_sample": True,
            "temperature": settings.temperature}  # fmt: skip


def _by_task(rows: Sequence[Mapping[str, Any]], is_greedy: bool) -> dict[str, float]:
    """Share of right answers among the judged ones of each task."""
    right: dict[str, list[float]] = {}
    for row in rows:
        if row["greedy"] == is_greedy and row["score"] is not None:
            right.setdefault(row["task"], []).append(float(row["score"] == 1.0))
    return {task: sum(values) / len(values) for task, values in right.items()}


def _standard_error(values: Sequence[float]) -> float | str:
    if len(values) < 2:
        return "N/A"
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(getattr(value, "name", value))
