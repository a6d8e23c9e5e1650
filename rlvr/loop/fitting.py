"""The second half of a round: the reward model is fitted to all labels, and the policy learns from it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from rlvr import calibration, lineage
from rlvr.alarms import Alarmed
from rlvr.errors import NonFiniteError
from rlvr.loop import labelling
from rlvr.loop.job import Job, digest_of_model, resolved, stage_recipe
from rlvr.loop.manifest import Made, Round, digest_of, note_origin, read_database, read_rows, write_rows
from rlvr.preference_settings import RewardModelRecipe
from rlvr.recipe import RlRecipe
from rlvr.rows import as_plain
from rlvr.runs import read_metrics

_LAST_STEPS = 10
"""Over which figures of a policy's run are averaged."""


def reward_model(job: Job, rnd: Round) -> Made:
    """reward/0, reward/1, ...: a run of `rlvr reward-model` for each member; judge: one on held-out labels alone."""
    recipe = job.recipe.reward_model
    rows = read_rows(rnd.folder / "labels.jsonl")
    held_out = rnd.folder / "held_out_labels.jsonl"
    measured = held_out if held_out.stat().st_size else None
    before = job.ensemble(rnd.number - 1) if recipe.start == "last" else []
    made: list[str] = []
    for k in range(recipe.members):
        base = str(before[k]) if before else None
        seed = job.seed("reward", rnd.number, k)
        drawn = labelling.draw(rows, bootstrap=recipe.bootstrap and recipe.members > 1, seed=seed)
        _fit(job, rnd, f"reward/{k}", drawn, measured, seed, base)
        made.append(f"reward/{k}/model")
        job.progress.phase(f"round {rnd.number}: reward model {k + 1}/{recipe.members}")
    if job.recipe.gate.judge == "reward_model" and job.recipe.gate.path is None and measured is not None:
        _fit(job, rnd, "judge", read_rows(held_out), None, job.seed("judge", rnd.number), None)
        made.append("judge/model")
    return Made(
        made_from={
            "labels": digest_of(rnd.folder / "labels.jsonl"),
            "recipe": digest_of(rnd.folder / "reward" / "0.yaml"),
            **({f"base/{k}": digest_of(path) for k, path in enumerate(before)}),
        },
        made=tuple(made),
        figures=_measured(rnd, recipe.members, read_rows(held_out)),
    )


def _fit(
    job: Job, rnd: Round, name: str, rows: Sequence[dict[str, Any]], held_out: Path | None, seed: int, base: str | None
) -> None:
    """One reward model, from the recipe's model.path or from `base`."""
    recipe = job.recipe.reward_model
    file = rnd.folder / f"{name}.jsonl"
    write_rows(file, rows)
    note_origin(file, _origin(rnd, "held_out_labels.jsonl" if name == "judge" else "labels.jsonl"))
    sections: dict[str, Any] = {
        "data": {"path": str(file), "on_bad_row": "skip"},
        "eval.tasks": {"path": str(held_out), "on_bad_row": "skip"} if held_out else None,
        "seed": seed,
    }
    if held_out is None:
        sections["eval.every"] = 0
    below = resolved(recipe.recipe, recipe.settings, sections, stage="reward_model")
    assert isinstance(below, RewardModelRecipe)
    if base is not None:
        sections |= {"model.path": base, "model.made_by": None}
    if recipe.epochs is not None:
        sections["steps"] = max(1, math.ceil(recipe.epochs * len(rows) / below.batch_size))
    path = stage_recipe(recipe.recipe, recipe.settings, sections, rnd.folder / f"{name}.yaml", stage="reward_model")
    job.runner.train(str(path), {}, rnd.folder / name, stage="reward_model")


def _origin(rnd: Round, labels: str) -> list[dict[str, Any]]:
    """Of rows that were drawn from a file of labels: that file, and the database behind it."""
    made = read_database(rnd.folder)
    drawn_from = {"data": {"path": str(rnd.folder / labels), "source": "file", "split": "train"}}
    return [
        *lineage.inputs_of(drawn_from),
        lineage.of_database(Path(made["path"]), made["event"], made["hash"]),
    ]


def _measured(rnd: Round, members: int, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the ensemble's mean reward on held-out comparisons, and of its members on the average."""
    if not rows:
        return {}
    by_member: list[dict[str, float]] = []
    for k in range(members):
        found = sorted((rnd.folder / "reward" / str(k) / "evals").glob("*.jsonl"))
        last = read_rows(found[-1])
        by_member.append({row["id"]: row["rewards"][0] - row["rewards"][1] for row in last})
    kept = [row for row in rows if all(row["id"] in of for of in by_member)]
    judged = [row for row in kept if "true_probability" in row or row["probability"] != 0.5]
    if not judged:
        return {}
    delta_KP = np.array([[of[row["id"]] for row in judged] for of in by_member])
    probability = np.array([row["probability"] for row in judged])
    truth = np.array([row["true_probability"] for row in judged]) if "true_probability" in judged[0] else None
    whole = calibration.of_pairs(delta_KP.mean(axis=0), probability, truth)
    alone = [calibration.of_pairs(delta_P, probability, truth)["accuracy"] for delta_P in delta_KP]
    figures = {**whole, "accuracy_of_members": fmean(alone), "disagreement": float(delta_KP.std(axis=0).mean())}
    plain: dict[str, Any] = as_plain(figures)
    return plain


def policy(job: Job, rnd: Round) -> Made:
    """policy: a run of `rlvr train` against the ensemble."""
    settings = job.recipe.policy
    begin = job.policy if settings.start == "last" else job.recipe.model.path
    models = job.ensemble(rnd.number)
    sections = _sections(job, rnd, begin, models)
    path = stage_recipe(settings.recipe, settings.settings, sections, rnd.folder / "policy.yaml", stage="rl")
    made_from = {
        "policy": digest_of_model(begin),
        "tasks": digest_of(job.folder / "tasks.jsonl"),
        "recipe": digest_of(path),
        **{f"reward_model/{k}": digest_of(model) for k, model in enumerate(models)},
    }
    try:
        summary = job.runner.train(str(path), {}, rnd.folder / "policy", stage="rl")
    except (NonFiniteError, Alarmed) as error:
        return Made(made_from=made_from, made=(), figures={"failed": str(error)})
    rows = [row for row in read_metrics(rnd.folder / "policy") if "reward" in row][-_LAST_STEPS:]
    figures: dict[str, Any] = {"steps": summary["steps"], "reward": fmean(row["reward"] for row in rows)}
    for name, metric in (("kl", "kl"), ("length", "completions/mean_length"), ("entropy", "entropy")):
        told = [row[metric] for row in rows if row.get(metric) is not None]
        figures |= {name: fmean(told)} if told else {}
    return Made(made_from=made_from, made=("policy/model",), figures=figures)


def _sections(job: Job, rnd: Round, begin: str, models: Sequence[Path]) -> dict[str, Any]:
    settings = job.recipe.policy
    recipe = resolved(settings.recipe, settings.settings, {}, stage="rl")
    assert isinstance(recipe, RlRecipe)
    part = json.loads(recipe.rewards[settings.part].model_dump_json())
    part |= {"path": None, "paths": [str(path) for path in models], "made_by": None}
    if len(models) == 1:
        part |= {"path": str(models[0]), "paths": [], "ensemble": {}}
    sections: dict[str, Any] = {
        "model.path": begin,
        "model.made_by": None,
        "engine": json.loads(job.recipe.engine.model_dump_json()),
        "data": {"path": str(job.folder / "tasks.jsonl")},
        "seed": job.seed("policy", rnd.number),
        f"rewards.{settings.part}": part,
    }
    if recipe.reads_reference and settings.reference == "first":
        sections |= {"reference.path": job.recipe.model.path, "reference.made_by": None}
    if recipe.critic.kind == "own":
        own = Path(begin).parent / "critic"
        sections |= {"critic.path": str(own if own.is_dir() else models[0]), "critic.made_by": None}
    return sections
