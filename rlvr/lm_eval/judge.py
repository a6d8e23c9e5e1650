"""What task files of lm-evaluation-harness call: `process_results: !function rlvr.lm_eval.judge.rlvr_gsm8k`.

Any name of a task file of ours is a function (doc, results) -> metrics. In a task file of your own, a metric:

    metric_list:
      - metric: !function rlvr.lm_eval.judge.score
        verifier: math            # gold is doc_to_target
        aggregation: nanmean
        higher_is_better: true

What could not be judged is NaN, which `nanmean` leaves out, and counted under `unjudged`: never a 0.
"""

from __future__ import annotations

import atexit
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlvr.errors import SettingsError
from rlvr.lm_eval import task_file
from rlvr.rewards.bound import start_problems
from rlvr.rewards.verified import MEMORY_MIB, VerifierPool
from rlvr.types import Task, Verdict


def __getattr__(name: str) -> Callable[[Mapping[str, Any], Sequence[Any]], dict[str, float]]:
    if (task_file.FOLDER / f"{name}.yaml").is_file():
        return functools.partial(process_results, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def process_results(name: str, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """{score, unjudged} of one row's first result; for ifeval the harness's four metrics beside them."""
    file = _file(name)
    task, response = file.task(doc, 0), _text(results[0])
    if file.verifier == "ifeval":
        return _ifeval(task, response, file.options)
    verdict = judge(file.verifier, response, task, file.options)
    return {"score": _number(verdict), "unjudged": float(verdict.score is None)}


def score(references: Sequence[Any], predictions: Sequence[Any], verifier: str = "math", **options: Any) -> float:
    """Mean score of the predictions against the golds beside them; NaN where none could be judged."""
    scores = [
        _number(judge(verifier, _text(response), Task(id="harness", prompt="", gold=gold), options))
        for gold, response in zip(references, predictions, strict=True)
    ]
    known = [value for value in scores if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def judge(verifier: str, response: str, task: Task, options: Mapping[str, Any]) -> Verdict:
    """One verdict, in a process that can be killed; the pool lives as long as this process."""
    _check(verifier, json.dumps(dict(options), sort_keys=True))
    return _pool().submit(verifier, response, task, options).result()


@functools.cache
def _pool() -> VerifierPool:
    pool = VerifierPool([], workers=1, memory_mib=MEMORY_MIB)
    atexit.register(pool.close)
    return pool


@functools.lru_cache(maxsize=64)
def _check(verifier: str, options: str) -> None:
    """SettingsError where the verifier cannot judge with these (in JSON); asked once for each."""
    if problems := start_problems(verifier, json.loads(options), "options"):
        raise SettingsError("\n".join(problems))


@functools.cache
def _file(name: str) -> task_file.TaskFile:
    return task_file.read(task_file.FOLDER / f"{name}.yaml")


def _ifeval(task: Task, response: str, options: Mapping[str, Any]) -> dict[str, Any]:
    metrics: dict[str, Any] = {"unjudged": 0.0}
    for mode, loose in (("strict", False), ("loose", True)):
        verdict = judge("ifeval", response, task, {**options, "loose": loose})
        followed = [bool(check["score"]) for check in verdict.checks.values()] if verdict.score is not None else []
        metrics[f"prompt_level_{mode}_acc"] = float(all(followed)) if followed else math.nan
        metrics[f"inst_level_{mode}_acc"] = followed
        metrics["unjudged"] = float(not followed)
    metrics["score"] = metrics["prompt_level_strict_acc"]
    return metrics


def mean_of_lists(items: Sequence[Sequence[bool]]) -> float:
    """Share over all constraints of all rows."""
    flat = [value for item in items for value in item]
    return sum(flat) / len(flat) if flat else math.nan


def _number(verdict: Verdict) -> float:
    return math.nan if verdict.score is None else verdict.score


def _text(result: Any) -> str:
    """Filters may leave a list of one."""
    while isinstance(result, list | tuple):
        result = result[0] if result else ""
    return result if isinstance(result, str) else str(result)
