"""rollouts/STEP.parquet: its columns, and a rollout as a row of it.

`greedy` is True for the completion at temperature 0 that advantage.kind: greedy compares the others with, and False for
all others: `where not greedy` gives those that metrics speak of. It has no advantage, and its logprobs are of no use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rlvr.types import SCHEMA, Group, Rollout, Verdict


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
        ]
    )
    fields = [
        ("step", pa.int32()),
        ("id", pa.string()),
        ("task", pa.string()),
        ("source", pa.string()),
        ("prompt", pa.string()),
        ("gold", pa.string()),
        ("response", pa.string()),
        ("reward", pa.float64()),
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
    ]
    return pa.schema(fields, metadata={"schema": str(SCHEMA)})


def row(step: int, group: Group, rollout: Rollout, advantages: Mapping[str, float]) -> dict[str, Any]:
    """One rollout with every verdict and reason; `advantages` by rollout id."""
    task, completion = group.task, rollout.completion
    return {
        "step": step,
        "id": _text(rollout.id),
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
    }


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
    }


def _text(value: str) -> str:
    """Lone surrogates cannot be written as UTF-8; they are shown as escapes."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")
