"""`rlvr loop`: rounds of sampling, picking, labelling, fitting and training, each judged before it counts.

    for each round:
        samples = sample(policy, tasks)                     sample
        items   = most_informative(samples, ensemble)       pick
        labels += answers(items)                            label
        ensemble = fit(all labels)                          reward_model
        new = train(policy, ensemble)                       policy
        policy = new if it is not worse, else policy        evaluate, gate

A stage that is done is noted in the round's manifest (manifest.py) and not done again: the same command goes on where
it was killed, and ends as if nothing had happened. Each stage that takes long resumes within itself too.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rlvr import lineage
from rlvr import tasks as task_rows
from rlvr.errors import DataError, DiskError, RlvrError, SettingsError, Stopped
from rlvr.inputs import fingerprint_model, fingerprint_rows
from rlvr.loop import asking, comparing, fitting, labelling, report
from rlvr.loop.job import Job, digest_of_model, resolved, write_task_rows
from rlvr.loop.manifest import Made, Round, digest_of, note_origin
from rlvr.loop.stages import Runner
from rlvr.loop_settings import LoopRecipe
from rlvr.loops.stopping import StopRequest
from rlvr.policy import check_model_path
from rlvr.preference_settings import RewardModelRecipe
from rlvr.progress import Progress, duration
from rlvr.recipe import Model, RlRecipe
from rlvr.runs import Run
from rlvr.settings import to_yaml
from rlvr.types import Task

Stage = Callable[[Job, Round], Made]
STAGES: dict[str, Stage] = {
    "sample": asking.sample,
    "pick": asking.pick,
    "label": asking.label,
    "reward_model": fitting.reward_model,
    "policy": fitting.policy,
    "evaluate": comparing.evaluate,
    "gate": comparing.gate,
}
"""In their order."""
_OF_LABELS = ("sample", "pick", "label", "reward_model")
"""Those that a frozen reward model needs in the first round alone."""


def run(recipe: LoopRecipe, run: Run, progress: Progress, stop: StopRequest) -> dict[str, Any]:
    """The recipe's rounds to their end; returns what summary.json holds. RlvrError where it cannot, Stopped when asked
    to, or where people have to answer."""
    started = time.perf_counter()
    job = _job(recipe, run, progress, stop)
    before: Round | None = None
    for number in range(1, recipe.rounds + 1):
        rnd = Round.open(run.folder / "rounds", number, before)
        rnd.check(models=rnd.is_open)  # of earlier rounds somebody may have removed the models
        if rnd.is_open:
            _check_policy(job)
            _round(job, rnd, stop)
        job.closed.append(rnd)
        run.record(number, report.metrics(rnd.record))
        before = rnd
    _save(job, run)
    done = [rnd.record for rnd in job.closed]
    summary = {
        "stage": "loop",
        "rounds": report.table(done),
        "accepted": [rnd.number for rnd in job.closed if rnd.is_accepted],
        "refused": {str(rnd.number): rnd.record["reason"] for rnd in job.closed if not rnd.is_accepted},
        "labels": sum(rnd.figures("label").get("new", 0) for rnd in job.closed),
        "manifest": job.closed[-1].digest,
        "seconds": time.perf_counter() - started,
        "warnings": progress.num_warnings,
        "model": str(run.model_folder) if run.model_folder.is_dir() else job.policy,
    }
    run.finish(summary)
    return summary


def prepare(recipe: LoopRecipe) -> tuple[list[Task], list[Task]]:
    """(tasks to train on, held-out tasks). DataError, SettingsError, PluginError where something cannot be used."""
    held_out = task_rows.load_tasks(recipe.eval.tasks, setting="eval.tasks").rows if recipe.eval.tasks else []
    loaded = task_rows.load_tasks(recipe.data)
    tasks, _ = task_rows.exclude_prompts(loaded.rows, held_out)
    if not tasks:
        raise DataError("nothing is left to train on: every prompt is also in eval.tasks")
    for name in {recipe.labels.truth, recipe.gate.truth, *recipe.labels.truth_from.values()} - {None}:
        labelling.truth(str(name), 1)
    stage_recipes(recipe)
    return tasks, held_out


def check_models(recipe: LoopRecipe, reward: RewardModelRecipe) -> None:
    """DataError where a model that the rounds begin with is not there, before anything is written of a run."""
    check_model_path(recipe.model)
    check_model_path(reward.model, setting=f"{recipe.reward_model.recipe}: model.path")
    if recipe.gate.path is not None:
        check_model_path(Model(path=recipe.gate.path), setting="gate.path")


def stage_recipes(recipe: LoopRecipe) -> tuple[RewardModelRecipe, RlRecipe]:
    """What the stages are trained with, but for what each round puts into it. SettingsError says which section is
    wrong."""
    found: list[Any] = []
    for section, given, stage in (
        ("reward_model", recipe.reward_model, "reward_model"),
        ("policy", recipe.policy, "rl"),
    ):
        try:
            found.append(resolved(given.recipe, given.settings, {}, stage=stage))
        except SettingsError as error:
            raise SettingsError("\n".join(f"{section}: {line}" for line in str(error).splitlines())) from None
    reward, policy = found
    part = policy.rewards.get(recipe.policy.part)
    if part is None or part.kind != "model":
        models = [name for name, other in policy.rewards.items() if other.kind == "model"]
        raise SettingsError(
            f"policy.part: {recipe.policy.recipe} has no reward model under rewards.{recipe.policy.part}; there are: "
            f"{', '.join(models) or 'none (the ensemble takes the place of a part of kind: model)'}"
        )
    if reward.loss.kind not in ("bradley_terry", "binary"):
        raise SettingsError(
            f"reward_model: {recipe.reward_model.recipe}: loss.kind must be bradley_terry or binary, which learn from "
            f"comparisons, got {reward.loss.kind}"
        )
    return reward, policy


def _job(recipe: LoopRecipe, run: Run, progress: Progress, stop: StopRequest) -> Job:
    """All that the rounds need; where the run goes on, compared with what it began with."""
    tasks, held_out = prepare(recipe)
    reward, policy = stage_recipes(recipe)
    check_models(recipe, reward)
    run.check_inputs(
        {
            "data": fingerprint_rows(tasks),
            "held_out": fingerprint_rows(held_out),
            "model": fingerprint_model(recipe.model.path),
            "reward_model.recipe": _digest(to_yaml(reward)),
            "policy.recipe": _digest(to_yaml(policy)),
        }
    )
    if run.has_begun:
        run.truncate(0)
    else:
        run.record(0, {"labels/num": 0.0})
    write_task_rows(run.folder / "tasks.jsonl", tasks)
    made_from = lineage.inputs_of({"data": recipe.data.model_dump(mode="json")})
    note_origin(run.folder / "tasks.jsonl", made_from)
    in_processes = recipe.engine.kind != "hf" if recipe.processes is None else recipe.processes
    progress.say(f"{len(tasks)} tasks, {len(held_out)} held out; {recipe.rounds} rounds")
    return Job(
        recipe=recipe,
        folder=run.folder,
        runner=Runner(stop, in_processes),
        progress=progress,
        tasks=tasks,
        held_out=held_out,
        closed=[],
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _check_policy(job: Job) -> None:
    """DataError where the policy or the reward models that a round begins with are not what the round before left."""
    if job.closed:
        last = job.closed[-1]
        due = {str(last.folder / path): digest for path, digest in last.made("reward_model").items()}
        for path, digest in {job.policy: last.record["policy_sha256"], **due}.items():
            if digest_of_model(path) != digest:
                raise DataError(
                    f"{path} was changed or removed after round {last.number} ended with it; bring it back, or "
                    "remove the folders of the round that made it and of those after it to do them again"
                )


def _round(job: Job, rnd: Round, stop: StopRequest) -> None:
    """The stages that are not done yet, and the verdict."""
    rnd.folder.mkdir(parents=True, exist_ok=True)
    is_frozen = rnd.number > 1 and not job.recipe.reward_model.refit
    for name, stage in STAGES.items():
        if rnd.has(name) or (is_frozen and name in _OF_LABELS):
            continue
        started = time.perf_counter()
        with _told(rnd.number, name):
            if stop.requested:
                raise Stopped("asked to stop")
            job.progress.phase(f"round {rnd.number}: {name.replace('_', ' ')}")
            made = stage(job, rnd)
        rnd.note(name, made)
        told, took = report.line(name, made.figures), duration(time.perf_counter() - started)
        job.progress.say(f"round {rnd.number}/{job.recipe.rounds}  {name:12}  {told}  {took}")
    refused = rnd.figures("gate")["refused"]
    kept = job.policy if refused else str(rnd.folder / "policy" / "model")
    rnd.close("refused" if refused else "accepted", refused, job.named(kept), digest_of_model(kept))
    if refused:
        job.progress.warn(f"round {rnd.number} is refused, and the policy stays as it was: {refused}")


@contextlib.contextmanager
def _told(number: int, stage: str) -> Iterator[None]:
    """Errors say in which round and stage they came."""
    try:
        yield
    except Stopped as error:
        text = str(error).partition("; the same command")[0]
        again = "" if "same command" in text else "; the same command goes on"
        raise Stopped(f"round {number}, {stage}: {text}{again}") from None
    except RlvrError as error:
        raise type(error)(f"round {number}, {stage}: {error}") from error
    except BrokenPipeError:  # nobody reads what this says
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise DiskError(f"round {number}, {stage}: {where}{error.strerror or error}") from error


def _save(job: Job, run: Run) -> None:
    """The policy that was accepted last as model/, whole or not at all."""
    target, source = run.model_folder, Path(job.policy)
    if not source.is_dir():
        job.progress.say(f"no round was accepted: the policy is still {job.policy}")
        return
    part = target.with_name(".model.new")
    try:
        if target.is_dir() and digest_of(target) == digest_of(source):
            return
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    except OSError as error:
        raise DiskError(f"cannot write {target}: {error.strerror or error}") from error
