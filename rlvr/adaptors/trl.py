"""Our verifiers as TRL's reward functions.

    GRPOTrainer(reward_funcs=[reward_function("math"), reward_function("numeric", gold_column="total")], ...)

Nothing here imports TRL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlvr.adaptors import shared
from rlvr.rewards.bound import lookup
from rlvr.tasks import GOLD_COLUMNS
from rlvr.types import Message, Task

_NOT_OF_THE_ROW = frozenset({"completion_ids", "environments", "trainer_state", "log_extra", "log_metric"})
"""What TRL gives beside the row's columns."""


def reward_function(
    verifier: str,
    /,
    *,
    gold_column: str | None = None,
    name: str | None = None,
    workers: int = 1,
    **options: Any,
) -> RewardFunction:
    """The verifier as `f(prompts, completions, **columns) -> list[float | None]`, with these options of its own.

    `gold_column` names the column of right answers (without it gold, answer, solution, ground_truth or target);
    `name` is what TRL logs it under (without it the verifier's). SettingsError where nothing can be judged so.
    """
    shared.check(verifier, options)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    return RewardFunction(verifier, gold_column, name or verifier.rpartition(":")[2], workers, options)


class RewardFunction:
    """Scores in [0, 1]; None, which TRL leaves out, where a completion could not be judged.

    Plain data, so that TRL may copy and pickle it; the verifiers' processes belong to whichever process calls it, and
    all reward functions there share them. Safe from any thread.
    """

    def __init__(
        self, verifier: str, gold_column: str | None, name: str, workers: int, options: Mapping[str, Any]
    ) -> None:
        self.__name__ = name
        self.verifier, self.gold_column, self.workers, self.options = verifier, gold_column, workers, dict(options)

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One number for each completion (text, or messages). ValueError where the columns hold no gold.

        The verdicts' outcomes and reasons go into TRL's table of completions.
        """
        n = len(completions)
        rows = {
            column: values
            for column, values in columns.items()
            if column not in _NOT_OF_THE_ROW and isinstance(values, list | tuple) and len(values) == n
        }
        golds = self._golds(rows, n)
        info = [{column: values[k] for column, values in rows.items()} for k in range(n)]
        jobs = [
            (
                self.verifier,
                _text(completions[k]),
                _task(prompts[k] if prompts else "", golds[k], info[k]),
                self.options,
            )
            for k in range(n)
        ]
        verdicts = shared.judge(jobs, self.workers)
        if log_extra is not None:
            log_extra(f"{self.__name__}/outcome", [verdict.outcome for verdict in verdicts])
            log_extra(f"{self.__name__}/reason", [verdict.reason for verdict in verdicts])
        return [verdict.score for verdict in verdicts]

    def _golds(self, rows: dict[str, Any], n: int) -> Sequence[Any]:
        """Taken out of the rows."""
        wanted = GOLD_COLUMNS if self.gold_column is None else (self.gold_column,)
        for column in wanted:
            if column in rows:
                return rows.pop(column)
        if self.gold_column is None and "gold" not in lookup(self.verifier).parameters:
            return [None] * n
        raise ValueError(
            f"reward function {self.__name__!r}: no column {' nor '.join(wanted)} with a gold for each completion "
            f"(has: {', '.join(rows) or 'none'}); gold_column names it"
        )


def _task(prompt: Any, gold: Any, info: dict[str, Any]) -> Task:
    plain = prompt if isinstance(prompt, str) else tuple(Message(role=t["role"], content=_said(t)) for t in prompt)
    given = info.get("id")
    task_id = str(given) if isinstance(given, str | int) else shared.task_id(json.dumps(plain))
    return Task(id=task_id, prompt=plain, gold=gold, info=info)


def _text(completion: Any) -> str:
    """Of a conversation what the assistant said last: before that it asked tools."""
    if isinstance(completion, str):
        return completion
    said = [_said(turn) for turn in completion if turn["role"] == "assistant"]
    return said[-1] if said else ""


def _said(turn: Mapping[str, Any]) -> str:
    """Its text, without images."""
    content = turn.get("content")
    if isinstance(content, str) or content is None:
        return content or ""
    return "".join(part.get("text") or "" for part in content if part.get("type") == "text")
