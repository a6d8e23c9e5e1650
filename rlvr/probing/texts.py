"""Prompts and completions to be probed with, out of any file of rows and out of a run's rollouts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr import rows, runs
from rlvr.columns import messages_of
from rlvr.errors import DataError
from rlvr.reward_settings import Rows
from rlvr.tasks import CANARY
from rlvr.types import Prompt

_PROMPTS = ("prompt", "question", "problem", "query", "instruction", "context")
_ONE = ("completion", "response", "chosen", "rejected", "text", "a", "b")
_MANY = ("completions", "responses", "answers")


@dataclass(frozen=True, slots=True)
class Written:
    """Something that was written. Written(id="rows:3/chosen", prompt="Hi", completion="Hello!")"""

    id: str
    prompt: Prompt
    completion: str
    step: int | None = None
    """Of a rollout."""


def of_file(path: str) -> list[Written]:
    """Every completion of a file's rows; a row of a prompt alone is one with an empty completion. DataError: no file,
    or nothing in it that could be read."""
    found: list[Written] = []
    num_rows = 0
    for row in rows.read_rows(Rows(path=path), "rows"):
        num_rows += 1
        if isinstance(row.fields, Mapping):
            found += _of_row(f"{row.name}:{row.number}", row.fields)
    if not found:
        raise DataError(f"{path}: {num_rows} rows, and none has a text ({', '.join((*_PROMPTS, *_ONE, *_MANY))})")
    return found


def _of_row(name: str, fields: Mapping[str, Any]) -> Iterator[Written]:
    own = fields.get("id")
    row_id = str(own) if isinstance(own, str | int) and own != "" else name
    raw = next((fields[column] for column in _PROMPTS if fields.get(column) not in (None, "")), "")
    prompt = _prompt(raw)
    texts: list[tuple[str, str]] = []
    for column in _ONE:
        texts += [(column, text)] if (text := _text(fields.get(column))) is not None else []
    for column in _MANY:
        many = rows.parsed(fields.get(column))
        texts += [
            (str(k), text)
            for k, one in enumerate(many if isinstance(many, list | tuple) else ())
            if (text := _text(one)) is not None
        ]
    if not texts and prompt:
        texts = [("", "")]
    for column, text in texts:
        yield Written(f"{row_id}/{column}" if len(texts) > 1 else row_id, prompt, text)


def _prompt(value: Any) -> Prompt:
    value = rows.parsed(value)
    if isinstance(value, str):
        return value
    try:
        return messages_of(value, "prompt")
    except rows.BadRow:
        return json.dumps(value, default=str)


def _text(value: Any) -> str | None:
    """Text, or the assistant's last message."""
    value = rows.parsed(value)
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and value:
        return _text(value[-1])
    if isinstance(value, Mapping):
        return next((value[k] for k in ("content", "text", "response") if isinstance(value.get(k), str)), None)
    return None


def of_run(run: Path) -> Iterator[Written]:
    """The sampled responses of a run by step; neither greedy ones nor canaries. DataError: no run, no rollouts."""
    runs.read_recipe(run)
    steps = runs.rollout_steps(run)
    if not steps:
        of_rounds = [str(path.parent) for path in sorted(run.glob("rounds/*/policy/rollouts"))]  # of `rlvr loop`
        raise DataError(f"{run} has no rollouts" + (f"; those that have: {', '.join(of_rounds)}" if of_rounds else ""))
    for step in steps:
        for row in runs.read_rollouts(run, step):
            if not row["greedy"] and not str(row["task"]).startswith(CANARY):
                yield Written(row["id"], row["prompt"], row["response"], step)
