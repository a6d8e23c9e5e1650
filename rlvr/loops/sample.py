"""Completions of a model for some tasks, as a file: to be labelled, to imitate the best of, or to be compared.

What is sampled is kept group by group beside the file, so that the same command goes on after a kill; the file itself
appears when it is whole, and it is the same in either case. A finished file is never replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlvr import disk, lineage, plugins, recipe
from rlvr.errors import DataError, DiskError, EngineError
from rlvr.grouplog import GroupLog
from rlvr.inputs import fingerprint_model, fingerprint_rows
from rlvr.loops.evaluation import sampler
from rlvr.progress import Progress
from rlvr.recipe import EvalRecipe, ModelReward, Reward, VerifiedReward
from rlvr.rewards import base as rewards_base
from rlvr.seeds import seed_for
from rlvr.tasks import load_tasks
from rlvr.types import Completion, Group, Request, Rollout, Sampling, Task, plain_prompt

_PART = "score"
"""Name of the only reward part."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """What becomes of a task's completions. Pick(form="best", by=VerifiedReward(verifier="math"), at_least=1.0)"""

    form: Literal["all", "best", "pairs"] = "all"
    """all: {id, prompt, completions}; best: {id, prompt, completion, score} of the best one; pairs: {id, prompt,
    chosen, rejected, score_chosen, score_rejected} of the best and the worst, where one is better."""
    by: Reward | None = None
    """Says which is best; of equal ones it is the first."""
    at_least: float | None = None
    """Tasks whose best completion is worth less than this have no row."""


@dataclass(slots=True)
class _Counts:
    completions: int = 0
    truncated: int = 0
    unjudged: int = 0
    rows: int = 0
    scores: list[float] = field(default_factory=list)
    """Of the best completion of each task."""


def sample(settings: EvalRecipe, out: Path, progress: Progress, pick: Pick | None = None) -> dict[str, Any]:
    """Sample settings.eval.samples completions of each of settings.eval.tasks into `out` (JSONL); returns figures.

    Seeds are keyed by settings.eval.seed, task and sample. RlvrError where data, model, verifier or engine cannot be
    used; EngineError where completions are missing, DiskError where the file cannot be written.
    """
    started = time.perf_counter()
    pick = pick or Pick()
    assert settings.eval.tasks is not None
    tasks = load_tasks(settings.eval.tasks, setting="eval.tasks").rows
    digest = _digest(settings, tasks)
    made = _Made(out, f"{digest}/{_digest_of_pick(pick)}")
    log = GroupLog(out.with_name(f".{out.name}.groups"), progress.warn, digest)
    figures = made.figures()
    if figures is not None:
        log.clear()
        progress.say(f"{out} is made already, with these settings")
        return figures
    kept = log.read(0, {task.id: task for task in tasks})
    if out.exists() and not kept:
        raise DataError(f"--out {out} exists and was made with other settings: remove it, or name another --out")
    if kept:
        progress.say(f"{len(kept)} of {len(tasks)} tasks were sampled before")
    rewards = _rewards(settings, pick, tasks, progress)
    try:
        groups = _sampled(settings, tasks, kept, log, progress)
        if rewards is not None:
            progress.phase("scoring")
            groups = rewards.score(groups)
    finally:
        if rewards is not None:
            rewards.close()
    counts = _Counts()
    made.forget()
    _write(out, (row for group in groups if (row := _row(group, pick, counts)) is not None))
    figures = {
        "out": str(out),
        "model": settings.model.path,
        "n_tasks": len(groups),
        "n_samples": settings.eval.samples,
        "n_rows": counts.rows,
        "truncated": counts.truncated / max(1, counts.completions),
        "seconds": time.perf_counter() - started,
    }
    if pick.by is not None:
        figures |= {"unjudged": counts.unjudged, "score": sum(counts.scores) / max(1, len(counts.scores))}
    made.note(figures, settings, pick)
    log.clear()
    return figures


@dataclass(frozen=True, slots=True)
class _Made:
    """What a finished file was made with, and its figures, in .NAME.made beside it."""

    out: Path
    made_with: str

    @property
    def _path(self) -> Path:
        return self.out.with_name(f".{self.out.name}.made")

    def figures(self) -> dict[str, Any] | None:
        """Of the file, where it is there and made with the same."""
        try:
            noted = json.loads(self._path.read_text(encoding="utf-8")) if self.out.exists() else None
        except (OSError, ValueError):
            return None
        return noted["figures"] if isinstance(noted, dict) and noted.get("made_with") == self.made_with else None

    def forget(self) -> None:
        """Before the file is written anew, so that a note never stands beside another file than its own."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise DiskError(f"cannot remove {self._path}: {error.strerror or error}") from error

    def note(self, figures: Mapping[str, Any], settings: EvalRecipe, pick: Pick) -> None:
        """Figures, and what `rlvr why` walks back to from a row of the file."""
        assert settings.eval.tasks is not None
        named = {"model": {"path": settings.model.path}, "eval": {"tasks": settings.eval.tasks.model_dump(mode="json")}}
        by = {"best": pick.by.model_dump(mode="json")} if isinstance(pick.by, ModelReward) else {}
        note = {"made_with": self.made_with, "figures": figures, "inputs": lineage.inputs_of({**named, **by})}
        _write(self._path, iter([{**note, "sha256": disk.sha256(self.out)}]))


def _digest(settings: EvalRecipe, tasks: Sequence[Task]) -> str:
    """Of all that a completion depends on."""
    sampling = settings.eval.model_dump(include={"samples", "temperature", "max_tokens", "seed", "stop"})
    model = fingerprint_model(settings.model.path), settings.model.dtype
    whole = repr((sorted(sampling.items()), model, settings.engine.kind, fingerprint_rows(tasks)))
    return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()


def _digest_of_pick(pick: Pick) -> str:
    """Of what becomes of the completions; a verifier in a file counts with its text."""
    by = None if pick.by is None else pick.by.model_dump_json()
    judge: Any = None
    if isinstance(pick.by, ModelReward) and pick.by.path is not None:
        judge = fingerprint_model(pick.by.path)
    elif isinstance(pick.by, VerifiedReward) and (file := Path((pick.by.verifier or "").rpartition(":")[0])).is_file():
        judge = hashlib.sha256(file.read_bytes()).hexdigest()
    return hashlib.blake2b(repr((pick.form, by, judge, pick.at_least)).encode(), digest_size=16).hexdigest()


def _rewards(
    settings: EvalRecipe, pick: Pick, tasks: Sequence[Task], progress: Progress
) -> rewards_base.Rewards | None:
    """What says which completion is best; built before anything is sampled."""
    if pick.by is None:
        return None
    return rewards_base.build(
        {_PART: pick.by},
        settings.scoring,
        settings.eval.seed,
        (),
        model=settings.model,
        tasks=tasks,
        warn=progress.warn,
    )


def _sampled(
    settings: EvalRecipe, tasks: Sequence[Task], kept: Mapping[str, Group], log: GroupLog, progress: Progress
) -> list[Group]:
    """A group per task, in the order of the tasks; those not kept are sampled, and kept as each is whole."""
    missing = [task for task in tasks if task.id not in kept]
    found = dict(kept)
    if missing:
        with sampler(settings, missing, progress) as (encoded, engine):
            requests = [_request(settings.eval, task, ids) for task, ids in encoded]
            owner = {id: k for k, request in enumerate(requests) for id in request.sample_ids}
            waiting: dict[int, dict[str, Completion]] = {k: {} for k in range(len(requests))}
            for done, (id, completion) in enumerate(engine.generate(requests), start=1):
                if completion.finish == "abort":
                    raise EngineError(f"the engine took {id} back; the same command goes on with what is kept")
                waiting[owner[id]][id] = completion
                progress.phase(f"{done}/{len(owner)} completions")
                if len(waiting[k := owner[id]]) == settings.eval.samples:
                    task, ids = encoded[k]
                    completions = waiting.pop(k)
                    found[task.id] = _group(task, ids, [(id, completions[id]) for id in requests[k].sample_ids])
                    log.append(0, task.id, found[task.id])
            if waiting:
                raise EngineError(f"the engine lost completions of {len(waiting)} of {len(encoded)} tasks")
    return [found[task.id] for task in tasks if task.id in found]


def _request(settings: recipe.Eval, task: Task, prompt_ids: tuple[int, ...]) -> Request:
    return Request(
        id=task.id,
        prompt_ids=prompt_ids,
        seeds=tuple(seed_for(settings.seed, "sample_file", task.id, k) for k in range(settings.samples)),
        sampling=Sampling(temperature=settings.temperature, max_tokens=settings.max_tokens, stop=settings.stop),
    )


def _group(task: Task, prompt_ids: tuple[int, ...], completions: Sequence[tuple[str, Completion]]) -> Group:
    rollouts = tuple(Rollout(id=id, completion=c, verdicts={}, reward=None) for id, c in completions)
    return Group(task=task, prompt_ids=prompt_ids, rollouts=rollouts)


def _row(group: Group, pick: Pick, counts: _Counts) -> Row | None:
    """The task's row; None where it has none."""
    counts.completions += len(group.rollouts)
    counts.truncated += sum(r.completion.finish == "length" for r in group.rollouts)
    row: Row = {"id": group.task.id, "prompt": plain_prompt(group.task.prompt)}
    if pick.by is None:
        row["completions"] = [r.completion.text for r in group.rollouts]
        row["finish"] = [r.completion.finish for r in group.rollouts]
    else:
        judged = [(r.verdicts[_PART].worth, r.completion.text) for r in group.rollouts]
        known = [(worth, text) for worth, text in judged if worth is not None]
        counts.unjudged += len(judged) - len(known)
        if not known:
            return None
        best, worst = max(known, key=lambda pair: pair[0]), min(known, key=lambda pair: pair[0])
        counts.scores.append(best[0])
        if pick.at_least is not None and best[0] < pick.at_least:
            return None
        if not best[1].strip() or (pick.form == "pairs" and not worst[1].strip()):
            return None  # what reads these rows takes no empty completion
        if pick.form == "best":
            row |= {"completion": best[1], "score": best[0]}
        elif best[0] == worst[0] or best[1].strip() == worst[1].strip():
            return None
        else:
            row |= {"chosen": best[1], "rejected": worst[1], "score_chosen": best[0], "score_rejected": worst[0]}
    if group.task.gold is not None:
        row["gold"] = group.task.gold
    if group.task.source:
        row["source"] = group.task.source
    counts.rows += 1
    return row


def _write(out: Path, rows: Iterator[Row]) -> None:
    """All rows, or the file as it was before."""
    part = out.with_name(f".{out.name}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row) + "\n")  # as ASCII: lone surrogates come back as they were
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, out)
        disk.sync(out.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DiskError(f"cannot write {out}: {error.strerror or error}") from error


def judge_named(name: str) -> Reward:
    """The reward part that `name` means: a folder is that of a reward model, anything else a verifier. PluginError or
    DataError where it is neither."""
    if not Path(name).is_dir():
        plugins.find("verifier", name)
        return VerifiedReward(verifier=name)
    if not (Path(name) / "config.json").is_file():
        inner = Path(name) / "model"
        hint = f"; did you mean {inner}?" if (inner / "config.json").is_file() else ""
        raise DataError(f"{name} holds no reward model (no config.json){hint}")
    return ModelReward(kind="model", path=name)
