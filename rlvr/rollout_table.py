"""rollouts/STEP.parquet: its columns, a rollout as a row of it, and the groups that rows came from.

`role` is trained, set_aside (sampled, and not trained on: its rewards were equal, or could not be judged) or canary.
`task_json` has the whole task, so that a response can be judged again without the data. `greedy` is True for the
completion at temperature 0 that advantage.kind: greedy compares the others with, and False for all others:
`where not greedy` gives those that metrics speak of. It has no advantage, and its logprobs are of no use. `reward` is
what the verdicts add up to; `shaped` what was trained on where the recipe has `shaping`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rlvr.tasks import is_canary
from rlvr.types import SCHEMA, Completion, Group, Rollout, Task, Verdict


def schema() -> Any:
    """The columns, with the schema's number."""
    import pyarrow as pa

    verdict = pa.struct(
        [
            ("part", pa.string()),
            ("score", pa.float64()),
            ("outcome", pa.string()),
            ("reason", pa.string()),
            ("answer", pa.string()),
            ("how", pa.string()),
            ("stage", pa.string()),
            ("checks", pa.string()),
            ("seconds", pa.float64()),
            ("verifier", pa.string()),
            ("version", pa.string()),
            ("input_hash", pa.string()),
            ("stderr", pa.string()),
            ("value", pa.float64()),
        ]
    )
    fields = [
        ("step", pa.int32()),
        ("id", pa.string()),
        ("group", pa.int32()),
        ("role", pa.string()),
        ("task", pa.string()),
        ("source", pa.string()),
        ("prompt", pa.string()),
        ("gold", pa.string()),
        ("response", pa.string()),
        ("reward", pa.float64()),
        ("shaped", pa.float64()),
        ("advantage", pa.float64()),
        ("greedy", pa.bool_()),
        ("verdicts", pa.list_(verdict)),
        ("finish", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("trained", pa.list_(pa.bool_())),
        ("versions", pa.list_(pa.struct([("start", pa.int32()), ("version", pa.int32())]))),
        ("support", pa.list_(pa.list_(pa.int32()))),
        ("task_json", pa.string()),
    ]
    return pa.schema(fields, metadata={"schema": str(SCHEMA)})


def rows(
    step: int, groups: Sequence[Group], advantages: Mapping[str, float], shaped: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """A row per rollout, the groups numbered in their order; `advantages` and `shaped` by rollout id."""
    return [
        _row(step, number, group, rollout, advantages, task_json) | {"shaped": (shaped or {}).get(rollout.id)}
        for number, group in enumerate(groups)
        for task_json in [_task_json(group.task)]
        for rollout in group.all_rollouts
    ]


def groups(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Group]]:
    """(role, group) of one step's rows, as they were written. ValueError where the rows are of a version before
    `task_json`."""
    if any(row.get("task_json") is None for row in rows):
        raise ValueError("they are of an older version, which did not keep the tasks")
    found = []
    for _, members in groupby(rows, key=lambda row: row["group"]):
        siblings = list(members)
        rollouts = [_rollout(row) for row in siblings]
        greedy = [rollout for row, rollout in zip(siblings, rollouts, strict=True) if row["greedy"]]
        group = Group(
            task=_task(siblings[0]["task_json"]),
            prompt_ids=tuple(siblings[0]["prompt_ids"]),
            rollouts=tuple(r for row, r in zip(siblings, rollouts, strict=True) if not row["greedy"]),
            greedy=greedy[0] if greedy else None,
        )
        found.append((siblings[0]["role"], group))
    return found


def _row(
    step: int, number: int, group: Group, rollout: Rollout, advantages: Mapping[str, float], task_json: str
) -> dict[str, Any]:
    task, completion = group.task, rollout.completion
    is_trained = any(sibling.id in advantages for sibling in group.rollouts)
    return {
        "step": step,
        "id": _text(rollout.id),
        "group": number,
        "role": "canary" if is_canary(task) else "trained" if is_trained else "set_aside",
        "task": _text(task.id),
        "source": _text(task.source),
        "prompt": _text(task.prompt if isinstance(task.prompt, str) else json.dumps(task.prompt, ensure_ascii=False)),
        "gold": None
        if task.gold is None
        else _text(task.gold if isinstance(task.gold, str) else json.dumps(task.gold)),
        "response": _text(completion.text),
        "reward": rollout.reward,
        "advantage": advantages.get(rollout.id),
        "greedy": rollout is group.greedy,
        "verdicts": [_verdict_row(part, verdict) for part, verdict in rollout.verdicts.items()],
        "finish": completion.finish,
        "prompt_ids": group.prompt_ids,
        "token_ids": completion.token_ids,
        "logprobs": completion.logprobs,
        "trained": completion.trained,
        "versions": [{"start": start, "version": version} for start, version in completion.versions],
        "support": completion.support,
        "task_json": task_json,
    }


def _task_json(task: Task) -> str:
    """As ASCII, in which lone surrogates survive."""
    fields = {name: getattr(task, name) for name in ("id", "prompt", "gold", "verifier", "source")}
    return json.dumps({**fields, "info": dict(task.info)})


def _task(text: str) -> Task:
    fields = json.loads(text)
    prompt = fields.pop("prompt")
    return Task(prompt=prompt if isinstance(prompt, str) else tuple(prompt), **fields)


def _rollout(row: Mapping[str, Any]) -> Rollout:
    completion = Completion(
        text=row["response"],
        token_ids=tuple(row["token_ids"]),
        logprobs=tuple(row["logprobs"]),
        trained=tuple(row["trained"]),
        finish=row["finish"],
        versions=tuple((span["start"], span["version"]) for span in row["versions"]),
        support=None if row["support"] is None else tuple(map(tuple, row["support"])),
    )
    verdicts = {verdict["part"]: _verdict(verdict) for verdict in row["verdicts"]}
    return Rollout(id=row["id"], completion=completion, verdicts=verdicts, reward=row["reward"])


def _verdict(fields: Mapping[str, Any]) -> Verdict:
    plain = {name: value for name, value in fields.items() if name not in ("part", "checks")}
    return Verdict(**plain, checks=json.loads(fields["checks"]))


def _verdict_row(part: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "part": part,
        "score": verdict.score,
        "outcome": verdict.outcome,
        "reason": _text(verdict.reason),
        "answer": None if verdict.answer is None else _text(verdict.answer),
        "how": _text(verdict.how),
        "stage": _text(verdict.stage),
        "checks": json.dumps(dict(verdict.checks)),
        "seconds": verdict.seconds,
        "verifier": _text(verdict.verifier),
        "version": _text(verdict.version),
        "input_hash": _text(verdict.input_hash),
        "stderr": _text(verdict.stderr),
        "value": verdict.value,
    }


def _text(value: str) -> str:
    """Lone surrogates cannot be written as UTF-8; they are shown as escapes."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")
