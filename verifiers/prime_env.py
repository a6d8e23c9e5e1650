"""prime: the rewards of a task of Prime Intellect's `verifiers` package judge the response, as the only turn.

The gold is {"environment": ID, "task": {...}}: the installed taskset, and the data of one of its tasks as the package
writes it. `rlvr.adaptors.prime:tasks` makes such rows; what was set for its tasks stands in "config". The score is the
weighted sum of the task's rewards, judges among them; each of them, and each metric, is in the verdict's checks.
checks["code"] has the package's version and a hash of the task's file: the verdict's version is that of this adaptor.
Whatever a reward raises is an error, never a 0. Rewards that need a container are not single-turn, and are refused.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from typing import Any

from rlvr.awaiting import awaited
from rlvr.plugins import verifier
from rlvr.types import Task, Verdict
from rlvr.verifiers.peer_function import file_hash, plain, range_problem, scored, unjudged, with_code

_MISSING = "Prime's verifiers package is not installed: pip install rlvr[prime]"

TRUSTED_GOLD = "its gold names an environment, which is imported and run"


@verifier("prime", timeout=60.0, wall_seconds=600.0)
def prime_env(response: str, gold: Any, task: Task, *, low: float = 0.0, high: float = 1.0) -> Verdict:
    """low, high: what the sum of the task's rewards lies between; they become [0, 1]."""
    if problem := gold_problem("prime", task):
        return Verdict(score=None, outcome="error" if problem == _MISSING else "gold_invalid", reason=problem)
    asked = _task(gold["environment"], json.dumps(gold.get("config") or {}, sort_keys=True), json.dumps(gold["task"]))
    return with_code(_judged(gold["environment"], asked, response, low, high), _code(type(asked)))


def _judged(environment: str, asked: Any, response: str, low: float, high: float) -> Verdict:
    trace = _trace(asked, response)
    try:
        awaited(asked.score(trace))
    except MemoryError:  # told by who runs verifiers
        raise
    except Exception as error:  # whatever stands in somebody's rewards, and the errors of their judges
        return unjudged(f"{environment}: {_told(error)}")
    rewards = trace.rewards
    checks: dict[str, Any] = {
        name: {"score": plain(reward.score), "reason": f"weight {reward.weight:g}"}
        for name, reward in rewards.items()
        if reward is not None
    }
    checks |= {name: plain(value) for name, value in trace.metrics.items() if name not in checks}
    if not rewards or None in rewards.values():
        why = "it has no reward" if not rewards else "one of its rewards has not been given"
        return unjudged(f"{environment}: {why}")
    total = math.fsum(reward.score * reward.weight for reward in rewards.values() if reward is not None)
    return replace(scored(environment, total, low, high, checks), stage=environment)


@functools.cache
def _code(kind: type) -> str:
    """Whose code judges: the task's own file, and the package with its version."""
    try:
        package = f"verifiers {metadata.version('verifiers')}"
    except metadata.PackageNotFoundError:  # from a checkout
        package = "verifiers"
    return f"{file_hash(kind)}, {package}".removeprefix(", ")


def start_problem(options: Mapping[str, Any]) -> str:
    """Why nothing can be judged with these options; one line, "" where it can be."""
    return range_problem(options) or _import_problem()


def warm_up() -> None:
    """Import the package once. Where it is missing every verdict says so."""
    _import_problem()


def gold_problem(verifier_name: str, task: Task) -> str:
    """Why no response can be judged by this row; "" where one can be."""
    gold = task.gold
    if not (isinstance(gold, Mapping) and isinstance(gold.get("environment"), str) and "task" in gold):
        return 'the gold must be {"environment": ID, "task": {...}}, as rlvr.adaptors.prime:tasks makes it'
    if problem := _import_problem():
        return problem
    try:
        config = json.dumps(gold.get("config") or {}, sort_keys=True)
        asked = _task(gold["environment"], config, json.dumps(gold["task"]))
        return _runtime_problem(asked)
    except Exception as error:  # no such taskset, or one whose data has other fields
        return f"{gold['environment']}: {_told(error)}"


def read_tasks(environment: str, config: Mapping[str, Any], n: int | None) -> Iterator[Any]:
    """The first n (else all) tasks of a taskset. ValueError: no such taskset, or one without end and no n."""
    if problem := _import_problem():
        raise ValueError(problem)
    import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]

    try:
        taskset = vf.load_taskset(vf.taskset_config_type(environment)(id=environment, **config))
    except Exception as error:  # no such package, or a package that is no taskset
        raise ValueError(f"{environment}: {_told(error)}") from error
    if n is None and not taskset.bounded:
        raise ValueError(f"{environment} has tasks without end; n says how many to take")
    for k, task in enumerate(taskset if n is None else taskset.take(n)):
        if not k and (problem := _runtime_problem(task)):
            raise ValueError(f"{environment}: {problem}")
        yield task


@functools.cache
def _import_problem() -> str:
    try:
        import verifiers.v1  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        is_absent = (error.name or "").partition(".")[0] == "verifiers"
        return _MISSING if is_absent else f"{_MISSING} ({_told(error)})"
    return ""


@functools.lru_cache(maxsize=1024)
def _task(environment: str, config: str, data: str) -> Any:
    """The task with its rewards. Whatever the package raises for what is none of its."""
    import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]

    kind = vf.task_type(environment)
    taskset_config = vf.taskset_config_type(environment)(id=environment, **json.loads(config))
    return kind(kind.data_type().model_validate(json.loads(data)), taskset_config.task)


def _runtime_problem(task: Any) -> str:
    """The package leaves such rewards out without a word where there is no container."""
    needing = [
        name
        for name, function in [
            *((hook.__name__, hook) for hook in task.hooks("reward")),
            *((judge.reward_name, judge.score) for judge in task.plugged_judges()),
        ]
        if (parameter := inspect.signature(function).parameters.get("runtime")) is not None
        and parameter.default is inspect.Parameter.empty
    ]
    return f"its reward {needing[0]!r} needs a container, and one turn of text has none" if needing else ""


def _trace(task: Any, response: str) -> Any:
    """The transcript of one turn, as the package's own rollouts leave it."""
    import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]
    from verifiers.v1.configs.agent import WireAgentConfig  # pyright: ignore[reportMissingImports]
    from verifiers.v1.state import state_cls  # pyright: ignore[reportMissingImports]

    prompt = task.data.prompt
    turns = [vf.UserMessage(content=prompt)] if isinstance(prompt, str) else list(prompt or [])
    if task.data.system_prompt:
        turns.insert(0, vf.SystemMessage(content=task.data.system_prompt))
    turns.append(vf.AssistantMessage(content=response))
    last = len(turns) - 1
    nodes = [
        vf.MessageNode(parent=k - 1 if k else None, message=turn, sampled=k == last, timestamp=0.0)
        for k, turn in enumerate(turns)
    ]
    return vf.Trace(
        id="rlvr",
        task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
        agent=vf.AgentInfo(config=WireAgentConfig()),
        nodes=nodes,
        state=state_cls(type(task))(),
        is_completed=True,
        ok=True,
        stop_condition="agent_completed",
    )


def _told(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


# Its tasks are in packages of others; tests bring one.
EXAMPLES: list[tuple[Any, str, float | None]] = [
    (None, "42", None),
    ({"environment": "there-is-none"}, "42", None),
]
