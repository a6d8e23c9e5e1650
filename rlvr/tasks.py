"""Rows of any dialect to tasks and demonstrations, and the order in which a run takes them.

Dialects: ours, TRL's, GSM8K's and verl's; the names are the tables below. Bad rows are all reported at once, before
any model loads. Orders are functions of (seed, epoch), so that a cursor is all that a checkpoint has to keep.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from rlvr import plugins, seeds
from rlvr.columns import (
    PROMPT_COLUMNS,
    columns_of,
    completion_of,
    dress,
    find,
    id_of,
    is_empty,
    missing,
    prompt_key,
    prompt_of,
    split_turns,
    valid_text,
)
from rlvr.errors import DataError, PluginError
from rlvr.recipe import Data
from rlvr.reward_settings import Rows
from rlvr.rows import NOT_PLAIN, BadRow, Row, as_plain, kind, parsed, read_rows, typed
from rlvr.types import Demonstration, Prompt, Task


class Asked(Protocol):
    """Whatever has an id and a prompt."""

    @property
    def id(self) -> str: ...

    @property
    def prompt(self) -> Prompt: ...


Item = TypeVar("Item", bound=Asked)

GOLD_COLUMNS = ("gold", "answer", "solution", "ground_truth", "target")
"""Then verl's `reward_model.ground_truth`."""
CANARY = "canary:"
"""How the id of a task begins that cannot be solved honestly (canaries.py)."""
NUM_SHOWN = 20
"""Bad rows that a message names."""

_ALIASES = {
    "prompt": (*PROMPT_COLUMNS, "messages"),
    "gold": (*GOLD_COLUMNS, "reward_model"),
    "completion": ("completion", "messages", "text"),
}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[Item]):
    """Usable rows in the order of the data, with what was left out (on_bad_row=skip; otherwise nothing was).

    Loaded(rows=[Task(id="train:1", ...)], num_bad=1, bad=("train.jsonl:2: no gold (has: question)",))
    """

    rows: list[Item]
    num_bad: int = 0
    bad: tuple[str, ...] = ()
    """The first 20 of them, with the reason."""


def load_tasks(data: Data, *, setting: str = "data") -> Loaded[Task]:
    """Tasks for RL and evaluation. `setting` is where `data` stands in the recipe, for messages.

    A row without an id gets "NAME:17": file stem, or generator's name, and the number that messages show (the line of
    a text file, else the row counted from 1); verl's rows get "DATA_SOURCE:INDEX". DataError: missing or empty data,
    or bad rows with on_bad_row=error (all of them in one message). SettingsError: wrong arguments of a generator.
    """
    return collect(data, setting, lambda row: [_task(row, data, setting)])


def load_demonstrations(data: Data, *, setting: str = "data") -> Loaded[Demonstration]:
    """Demonstrations for SFT and pretraining; a row with `text` alone has the prompt "". Errors as load_tasks."""
    return collect(data, setting, lambda row: [_demonstration(row, data, setting)])


def read_tasks(data: Data, *, setting: str = "data") -> Iterator[tuple[str, Task | BadRow]]:
    """(where it stands, such as "train.jsonl:17"; the task, or why the row is none) of each row, one at a time.

    All that load_tasks() does but for holding them all; ids are not compared. Errors as load_tasks, but for bad rows.
    """
    for row in itertools.islice(read_rows(data, setting), data.limit):
        try:
            yield row.where, _task(row, data, setting)
        except BadRow as error:
            yield row.where, error


@functools.lru_cache(maxsize=256)
def needs_gold(verifier: str) -> bool:
    """Whether that verifier cannot judge without a right answer: it has a parameter `gold` without a default.

    One that nobody knows counts as such; what is wrong with the name is told where it is looked up.
    """
    try:
        gold = inspect.signature(plugins.find("verifier", verifier)).parameters.get("gold")
    except (PluginError, TypeError, ValueError):
        return True
    return gold is not None and gold.default is gold.empty


def is_canary(task: Task) -> bool:
    """Whether any reward for it is a hack."""
    return task.id.startswith(CANARY)


def exclude_prompts(rows: Sequence[Item], held_out: Sequence[Asked]) -> tuple[list[Item], int]:
    """Rows whose prompt no held-out row has, and the number left out.

    A system message does not matter, nor whether the prompt is plain or one user's message.
    """
    held = {prompt_key(task.prompt) for task in held_out}
    kept = [row for row in rows if prompt_key(row.prompt) not in held]
    return kept, len(rows) - len(kept)


def bad_rows_message(name: str, bad: Sequence[str], num_bad: int, num_rows: int, advice: str) -> str:
    """One line with the count and the way out, a line for each of the first bad rows, and how many more there are."""
    lines = [f"{name}: {num_bad} of {num_rows} rows cannot be used ({advice}):", *bad[:NUM_SHOWN]]
    if num_bad > NUM_SHOWN:
        lines.append(f"... and {num_bad - NUM_SHOWN} more")
    return "\n".join(lines)


class TaskStream:
    """Tasks in a seeded order without end; the cursor (tasks taken so far) is the only state, and the caller has it."""

    def __init__(self, tasks: Sequence[Task], seed: int) -> None:
        if len(tasks) == 0:
            raise DataError("no tasks to train on (were all of them held out?)")
        self._tasks = tasks
        self._seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def at(self, cursor: int) -> Task:
        """The task at a cursor >= 0. Epoch = cursor // number of tasks; each has every task once."""
        epoch, place = divmod(cursor, len(self._tasks))
        if epoch != self._epoch:
            self._order = seeds.permutation(len(self._tasks), self._seed, "order", epoch)
            self._epoch = epoch
        return self._tasks[self._order[place]]

    def take(self, cursor: int, n: int) -> list[Task]:
        """n tasks from the cursor on; the next cursor is cursor + n."""
        return [self.at(c) for c in range(cursor, cursor + n)]


class BatchPlan:
    """Which rows a supervised step trains on: rows of similar length together, in an order that (seed, epoch) fixes.

    An epoch's permutation is cut into windows of bucket * batch_size rows; each window is sorted by length, cut into
    batches, and its batches are shuffled. No row is lost or doubled; the last window may end in a smaller batch.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, bucket: int, seed: int, *, num_windows: int = 1
    ) -> None:
        """lengths: tokens of each row; num_windows: so many an epoch has at least, where it has that many batches."""
        if len(lengths) == 0:
            raise DataError("no demonstrations to train on (were all of them held out?)")
        self._lengths = lengths
        self._batch_size = batch_size
        self._window = min(bucket, max(1, self.steps_per_epoch // num_windows)) * batch_size
        self._seed = seed
        self._epoch = -1
        self._batches: list[list[int]] = []

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._lengths) // self._batch_size)

    def rows(self, step: int) -> list[int]:
        """Row indices of step >= 0, shortest first."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._batches = list(self._plan(epoch))
            self._epoch = epoch
        return self._batches[place]

    def _plan(self, epoch: int) -> Iterator[list[int]]:
        order = seeds.permutation(len(self._lengths), self._seed, "order", epoch)
        for start in range(0, len(order), self._window):
            window = sorted(order[start : start + self._window], key=self._lengths.__getitem__)
            batches = [window[k : k + self._batch_size] for k in range(0, len(window), self._batch_size)]
            for k in seeds.permutation(len(batches), self._seed, "batches", epoch, start):
                yield batches[k]


# Rows to tasks and demonstrations


def collect(data: Rows, setting: str, build: Callable[[Row], Sequence[Item]]) -> Loaded[Item]:
    """All rows, each as what `build` makes of it (BadRow: why nothing). Errors as load_tasks."""
    items: list[Item] = []
    bad: list[str] = []
    num_rows = num_bad = 0
    taken: dict[str, str] = {}
    for row in itertools.islice(read_rows(data, setting), data.limit):
        num_rows += 1
        try:
            built = build(row)
            for item in built:
                if item.id in taken:
                    raise BadRow(f"id {item.id!r} is already that of {taken[item.id]}")
        except BadRow as error:
            num_bad += 1
            if num_bad <= NUM_SHOWN:
                bad.append(f"{row.where}: {error}")
            continue
        taken |= {item.id: row.where for item in built}
        items.extend(built)
    if not num_rows:
        raise DataError(f"{typed(setting, 'path')}: {data.path} holds no rows (seen from {Path.cwd()})")
    if num_bad and (data.on_bad_row == "error" or not items):
        skip, maps = typed(setting, "on_bad_row", "skip"), typed(setting, "columns")
        if items:
            advice = f"{'give' if skip.startswith('--') else 'set'} {skip} to leave them out" if skip else "mend them"
        else:
            advice = f"none is left; {maps} maps our words to your columns" if maps else "none is left"
        raise DataError(bad_rows_message(Path(data.path).name or data.path, bad, num_bad, num_rows, advice))
    return Loaded(items, num_bad, tuple(bad))


def _task(row: Row, data: Data, setting: str) -> Task:
    fields = columns_of(row)
    found = find(fields, "prompt", PROMPT_COLUMNS, data)
    if found is not None:
        column, prompt = found[0], prompt_of(found[1], found[0])
    elif fields.get("messages") is not None:
        column, prompt = "messages", split_turns(fields["messages"])[0]
    else:
        raise BadRow(missing("prompt", fields, setting, _ALIASES))
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        raise BadRow(f"prompt is empty (column {column!r})")
    judge = find(fields, "verifier", ("verifier",), data)
    if judge is not None and not isinstance(judge[1], str):
        raise BadRow(f"verifier must be a name, got {kind(judge[1])} (column {judge[0]!r})")
    verifier = judge[1] if judge else data.verifier
    gold_column, gold = _gold(fields, data, setting, needed=needs_gold(verifier))
    row_id, id_column = id_of(row, fields, data)
    source_column = next((c for c in ("data_source", "source") if isinstance(fields.get(c), str)), None)
    used = {column, gold_column, id_column, source_column, judge[0] if judge else None}
    return Task(
        id=row_id,
        prompt=dress(prompt, data, fields),
        gold=gold,
        verifier=verifier,
        source=fields[source_column] if source_column else "",
        info=_info(fields, used, gold),
    )


def _demonstration(row: Row, data: Data, setting: str) -> Demonstration:
    fields = columns_of(row)
    row_id, _ = id_of(row, fields, data)
    found = find(fields, "prompt", PROMPT_COLUMNS, data)
    written = find(fields, "completion", ("completion",), data)
    text = find(fields, "text", ("text",), data)
    if written is None and "text" not in data.columns and (found is not None or fields.get("messages") is not None):
        text = None  # a row with a prompt and a text does not say that the text is the completion
    if written is not None:
        completion = completion_of(written[1])
        if found is None:
            raise BadRow(missing("prompt", fields, setting, _ALIASES))
        prompt: Prompt = prompt_of(found[1], found[0])
    elif text is not None:
        if not isinstance(text[1], str):
            raise BadRow(f"text must be text, got {kind(text[1])}")
        prompt, completion = "", valid_text(text[1], "text")
    elif fields.get("messages") is not None and found is None:
        prompt, last = split_turns(fields["messages"])
        if last is None:
            raise BadRow("messages must end with an assistant's turn")
        if not prompt:
            raise BadRow("messages must have a turn before the assistant's last")
        completion = last
    else:
        raise BadRow(missing("completion", fields, setting, _ALIASES))
    if not completion.strip():
        raise BadRow("completion is empty")
    return Demonstration(id=row_id, prompt=dress(prompt, data, fields) if prompt else "", completion=completion)


def _gold(fields: Mapping[str, Any], data: Data, setting: str, *, needed: bool) -> tuple[str | None, Any]:
    """(column, gold); (None, None) where there is none and none is needed."""
    found = find(fields, "gold", GOLD_COLUMNS, data)
    judge = parsed(fields.get("reward_model"))
    if (found is None or is_empty(found[1])) and "gold" not in data.columns and isinstance(judge, Mapping):
        truth = judge.get("ground_truth")
        found = ("reward_model", truth) if truth is not None else found
    if found is None:
        if needed:
            raise BadRow(missing("gold", fields, setting, _ALIASES))
        return None, None
    column, value = found
    is_nan = isinstance(value, (float, Decimal)) and math.isnan(value)
    if column == "answer" and isinstance(value, str):
        value = _after_hashes(value)
    gold = None if is_nan else as_plain(value)
    if gold is not NOT_PLAIN and not is_empty(gold):
        return column, valid_text(gold, "gold") if isinstance(gold, str) else gold
    if not needed:
        return column, None
    if is_nan:
        raise BadRow(f"gold is NaN (column {column!r})")
    if gold is NOT_PLAIN:
        raise BadRow(f"gold must be plain data, got {kind(value)} (column {column!r})")
    raise BadRow(f"gold is empty (column {column!r})")


def _after_hashes(answer: str) -> str:
    """GSM8K writes the number after #### on the last line, and 1,234 with a comma."""
    last = answer.rstrip().rpartition("\n")[2].strip()
    return _THOUSANDS.sub("", last[4:].strip()) if last.startswith("####") else answer


def _info(fields: Mapping[str, Any], used: set[str | None], gold: Any) -> dict[str, Any]:
    """The other columns as plain data; whatever JSON cannot hold is left out."""
    info: dict[str, Any] = {}
    for column, value in fields.items():
        if column == "reward_model" and column in used:
            value = {k: v for k, v in parsed(value).items() if k != "ground_truth"}
        elif column == "answer" and column in used and isinstance(value, str) and value != gold:
            pass  # GSM8K's worked answer, of which the gold is the end
        elif column in used:
            continue
        kept = as_plain(parsed(value) if column == "extra_info" else value)
        if kept is not NOT_PLAIN:
            info[str(column)] = kept
    return info
