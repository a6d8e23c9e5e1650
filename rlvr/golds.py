r"""Tasks that cannot be learned from: golds that their own verifier refuses, rows without one, the same prompt twice.

A gold is looked at twice: by gold_problem() of the verifier's module, and as an answer to itself. In which form a
verifier accepts its gold as an answer (`\boxed{gold}`, the gold as it is, ...) is found out with its own examples.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from rlvr import tasks
from rlvr.audit_examples import examples_of, written
from rlvr.errors import DataError, RlvrError, SettingsError
from rlvr.golds_overlap import Overlap, gold_key, prompt_key
from rlvr.recipe import Data
from rlvr.rewards.bound import Bound, Job, gold_problem, lookup, option_problems
from rlvr.rewards.verified import MEMORY_MIB, VerifierPool
from rlvr.rows import BadRow, kind
from rlvr.types import Task, Verdict

Kind = Literal["bad_row", "gold_invalid", "refused", "contradiction", "duplicate", "overlap"]
UNUSABLE: tuple[Kind, ...] = ("bad_row", "gold_invalid", "refused", "contradiction")
MEANING: dict[Kind, str] = {
    "bad_row": "not a task: no prompt, no gold, a column of the wrong type",
    "gold_invalid": "the verifier cannot use the gold",
    "refused": "the verifier refuses the gold as an answer",
    "contradiction": "the same prompt as another row, with another gold",
    "duplicate": "the same prompt and gold as another row",
    "overlap": "an evaluation task has the same prompt, or 13 words in a row of it",
}
_FORMS = ("\\boxed{{{}}}", "{}", "<answer>{}</answer>", "```json\n{}\n```", "```\n{}\n```")
_MOST_EXAMPLES = 12
_AT_ONCE = 128
_IN_FLIGHT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong with one row. Finding(where="a.jsonl:3", id="a:3", kind="refused", reason="...")"""

    where: str
    """File and line."""
    id: str
    kind: Kind
    reason: str


@dataclass(slots=True, kw_only=True)
class Report:
    """All of a file."""

    num_rows: int = 0
    findings: list[Finding] = field(default_factory=list)
    """In the order in which they were found; those of one row need not stand together."""
    forms: dict[str, dict[str, str | None]] = field(default_factory=dict)
    """By verifier and kind of gold: how golds were put as answers; None: they were seen by gold_problem() alone."""

    @property
    def counts(self) -> dict[Kind, int]:
        """Findings of each kind."""
        found = Counter(finding.kind for finding in self.findings)
        return {each: found[each] for each in MEANING}

    @property
    def num_unusable(self) -> int:
        """Rows that nothing can be learned from."""
        return len({finding.where for finding in self.findings if finding.kind in UNUSABLE})


def unusable(
    rows: Iterable[Task],
    asked: Sequence[tuple[str | None, Mapping[str, Any]]],
    own: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[tuple[Task, str]]:
    """Tasks whose gold is no use to a verifier that judges them, with the reason that its gold_problem() gives.

    `asked`: (verifier, options) of each part; None is each task's own, with the options that `own` has for it.
    PluginError: no such verifier.
    """
    judges: dict[str, Bound] = {}
    for row in rows:
        for part, options in asked:
            name = part or row.verifier
            if name is None:
                continue
            if name not in judges:
                judges[name] = lookup(name)
            if problem := gold_problem(judges[name], row, options if part else (own or {}).get(name)):
                yield row, problem
                break


def check(
    path: str,
    verifier: str | None = None,
    options: Mapping[str, Any] | None = None,
    against: str | None = None,
    columns: Mapping[str, str] | None = None,
    workers: int = 2,
) -> Report:
    """Look at every row of a file of tasks, in any dialect of tasks.py.

    `verifier` judges every row; without it the row's own, or math. `options` are that verifier's. `against`: a file of
    evaluation tasks. DataError: no such file, or no rows. SettingsError: an option that the verifier does not take.
    """
    if verifier is not None and (problems := option_problems(verifier, options or {}, "--option")):
        raise SettingsError("\n".join(problems))
    data = _data(path, verifier, columns)
    held_out = _held_out(against, columns) if against is not None else None
    with ExitStack() as ends:
        judge = _Judge(workers, dict(options or {}), ends)
        report = Report(forms=judge.forms)
        seen_prompts: dict[bytes, tuple[str, bytes]] = {}
        seen_ids: dict[str, str] = {}
        for where, task in tasks.read_tasks(data):
            report.num_rows += 1
            if isinstance(task, BadRow):
                report.findings.append(Finding(where=where, id="", kind="bad_row", reason=str(task)))
                continue
            if task.id in seen_ids:
                reason = f"id {task.id!r} is already that of {seen_ids[task.id]}"
                report.findings.append(Finding(where=where, id=task.id, kind="bad_row", reason=reason))
            seen_ids.setdefault(task.id, where)
            report.findings += _of_prompt(where, task, seen_prompts, held_out)
            report.findings += judge.look(where, task, verifier or task.verifier)
        report.findings += judge.rest()
    if not report.num_rows:
        raise DataError(f"{path}: no rows")
    return report


def _data(path: str, verifier: str | None, columns: Mapping[str, str] | None) -> Data:
    named = {"verifier": verifier} if verifier else {}
    return Data.model_validate({"path": path, "columns": dict(columns or {}), **named})


def _held_out(path: str, columns: Mapping[str, str] | None) -> Overlap:
    """Its prompts alone matter, so a row without a usable gold counts too where it has one."""
    rows = tasks.read_tasks(_data(path, "boxed", columns), setting="eval.tasks")
    found = [(where, task) for where, task in rows if isinstance(task, Task)]
    if not found:
        raise DataError(f"--against {path}: no usable rows")
    return Overlap(found)


def _of_prompt(
    where: str, task: Task, seen: dict[bytes, tuple[str, bytes]], held_out: Overlap | None
) -> Iterator[Finding]:
    key, gold = prompt_key(task.prompt), gold_key(_asked(task))
    if key in seen:
        first, other = seen[key]
        found: Kind = "duplicate" if other == gold else "contradiction"
        reason = f"the same prompt as {first}" + ("" if other == gold else f", whose gold is not {_short(task.gold)}")
        yield Finding(where=where, id=task.id, kind=found, reason=reason)
    else:
        seen[key] = (where, gold)
    if held_out is not None and (shared := held_out.find(task)):
        yield Finding(where=where, id=task.id, kind="overlap", reason=shared)


def _asked(task: Task) -> Any:
    """What the verdict rests on: the gold, or the columns that a verifier without one reads."""
    return task.gold if task.gold is not None else task.info


class _Judge:
    """Asks each task's verifier about its gold; verdicts come a while after the question."""

    def __init__(self, workers: int, options: Mapping[str, Any], ends: ExitStack) -> None:
        self.forms: dict[str, dict[str, str | None]] = {}
        self._workers, self._options, self._ends = workers, options, ends
        self._bounds: dict[str, Bound | str] = {}
        self._pool: VerifierPool | None = None
        self._asked: list[tuple[str, Task, Job]] = []
        self._waiting: deque[tuple[str, Task, Future[Verdict]]] = deque()

    def look(self, where: str, task: Task, name: str | None) -> Iterator[Finding]:
        """What is known at once, and of earlier tasks what is known by now."""
        assert name is not None, "every row of a data set has a verifier"
        bound = self._bound(name)
        if isinstance(bound, str):
            yield Finding(where=where, id=task.id, kind="bad_row", reason=bound)
        elif problem := gold_problem(bound, task, self._options):
            yield Finding(where=where, id=task.id, kind="gold_invalid", reason=problem)
        elif (text := written(task.gold)) is not None and (form := self._form(name, bound, task.gold)) is not None:
            self._asked.append((where, task, (name, form.format(text), task, self._options)))
            if len(self._asked) == _AT_ONCE:
                self._send()
        while len(self._waiting) > _IN_FLIGHT:
            yield from self._next()

    def rest(self) -> Iterator[Finding]:
        """Of all that are still waited for."""
        self._send()
        while self._waiting:
            yield from self._next()

    def _send(self) -> None:
        if self._asked:
            assert self._pool is not None, "a form was found with it"
            futures = self._pool.submit_all([job for _, _, job in self._asked])
            self._waiting += [(where, task, f) for (where, task, _), f in zip(self._asked, futures, strict=True)]
            self._asked.clear()

    def _next(self) -> Iterator[Finding]:
        where, task, asked = self._waiting.popleft()
        verdict = asked.result()
        if verdict.outcome == "gold_invalid":
            yield Finding(where=where, id=task.id, kind="gold_invalid", reason=verdict.reason)
        elif verdict.outcome != "not_applicable" and (verdict.score or 0.0) < 0.5:
            told = f"as an answer, {_short(task.gold)} is {verdict.outcome}"
            reason = f"{told}: {verdict.reason}" if verdict.reason else told
            yield Finding(where=where, id=task.id, kind="refused", reason=reason)

    def _bound(self, name: str) -> Bound | str:
        if name not in self._bounds:
            try:
                self._bounds[name] = lookup(name)
            except RlvrError as error:
                self._bounds[name] = str(error)
        return self._bounds[name]

    def _form(self, name: str, bound: Bound, gold: Any) -> str | None:
        """The first in which all right examples' golds of this kind are accepted; None where there is none."""
        forms = self.forms.setdefault(name, {})
        if kind(gold) not in forms:
            forms[kind(gold)] = self._first_form(name, bound, kind(gold))
        return forms[kind(gold)]

    def _first_form(self, name: str, bound: Bound, kind_of_gold: str) -> str | None:
        if "gold" not in bound.parameters:
            return None
        rights = [e for e in examples_of(bound) if e.score == 1 and kind(e.gold) == kind_of_gold][:_MOST_EXAMPLES]
        if not rights:
            return None
        if self._pool is None:
            self._pool = self._ends.enter_context(VerifierPool([name], self._workers, MEMORY_MIB))
        for form in _FORMS:
            verdicts = [
                self._pool.submit(name, form.format(written(e.gold)), e.task(), {**e.options, **self._options})
                for e in rights
            ]
            if all((verdict.result().score or 0.0) == 1 for verdict in verdicts):
                return form
        return None


def _short(gold: Any) -> str:
    text = repr(gold)
    return text if len(text) <= 60 else text[:57] + "..."
