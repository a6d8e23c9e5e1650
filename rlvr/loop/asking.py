"""The first half of a round: completions are sampled, comparisons picked, and labels collected."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlvr import lineage
from rlvr.errors import DataError
from rlvr.feedback.checks import MOST_CHARACTERS, text_problem
from rlvr.feedback.records import Item
from rlvr.feedback.store import Store
from rlvr.loop import labelling, picking
from rlvr.loop.job import Job, digest_of_model
from rlvr.loop.manifest import (
    DATABASE,
    Made,
    Round,
    digest_of,
    note_origin,
    read_database,
    read_rows,
    write,
    write_rows,
)
from rlvr.seeds import rng_for
from rlvr.types import plain_prompt, prompt_of

Row = dict[str, Any]
"""Of samples.jsonl: id, prompt, completions."""


def sample(job: Job, rnd: Round) -> Made:
    """samples.jsonl: recipe.sample.group_size completions of each of this round's tasks, by the policy."""
    recipe = job.recipe
    tasks = job.drawn(job.tasks, recipe.sample.tasks, rnd.number, "tasks")
    figures = job.sample(
        tasks,
        rnd.folder / "tasks.jsonl",
        rnd.folder / "samples.jsonl",
        job.policy,
        samples=recipe.sample.group_size,
        temperature=recipe.sample.temperature,
        max_tokens=recipe.sample.max_tokens,
        stop=recipe.sample.stop,
        seed=job.seed("sample", rnd.number),
    )
    return Made(
        made_from={"policy": digest_of_model(job.policy), "tasks": digest_of(rnd.folder / "tasks.jsonl")},
        made=("samples.jsonl",),
        figures={"tasks": len(tasks), "truncated": figures["truncated"]},
    )


def pick(job: Job, rnd: Round) -> Made:
    """items.jsonl: what is asked, as `rlvr label` takes it."""
    recipe = job.recipe
    golds = {row["id"]: row.get("gold") for row in read_rows(rnd.folder / "tasks.jsonl")}
    samples = read_rows(rnd.folder / "samples.jsonl")
    to_train, to_measure = _split(job, rnd.number, samples)
    models = job.ensemble(rnd.number - 1)
    informed = recipe.pick.kind != "random" and len(models) > 1
    chosen, mean_worth = _best(job, to_train, rnd.number, models if informed else [])
    measured = _random(job, to_measure, rnd.number)
    items = [_item(job, rnd.number, row, a, b, golds[row["id"]], held) for held, row, a, b in (*chosen, *measured)]
    if not items:
        raise DataError(
            "there is nothing to compare: no task has two different completions that are not empty; raise "
            "sample.temperature, sample.group_size or sample.tasks"
        )
    # in a mixed order, so that nobody who labels sees which comparisons are which
    rng_for(recipe.seed, "loop", "order", rnd.number).shuffle(items)
    write_rows(rnd.folder / "items.jsonl", map(item_row, items))
    drawn_from = {"data": {"path": str(rnd.folder / "samples.jsonl"), "source": "file", "split": "train"}}
    picked_by = {"pick": {"paths": list(map(str, models))}} if informed else {}
    note_origin(rnd.folder / "items.jsonl", lineage.inputs_of({**drawn_from, **picked_by}))
    figures: dict[str, Any] = {"asked": len(items), "held_out": len(measured), "kind": "random"}
    if informed:
        figures |= {"kind": recipe.pick.kind, **mean_worth}
    return Made(
        made_from={
            "samples": digest_of(rnd.folder / "samples.jsonl"),
            **({f"reward_model/{k}": digest_of(path) for k, path in enumerate(models)} if informed else {}),
        },
        made=("items.jsonl",),
        figures=figures,
    )


def label(job: Job, rnd: Round) -> Made:
    """labels.jsonl and held_out_labels.jsonl: what all answers of all rounds say."""
    settings = job.recipe.labels
    items = [item_of(row) for row in read_rows(rnd.folder / "items.jsonl")]
    _check_database(job)
    labelling.ask(settings, items, rnd.number, job.db, rnd.folder / "items.jsonl", job.recipe.seed)
    found = labelling.labelled(settings, job.db, rnd.number, job.refused)
    if not found.rows:
        raise DataError(f"nothing can be learnt from the {len(items)} comparisons of round {rnd.number}: all skipped")
    write_rows(rnd.folder / "labels.jsonl", found.rows)
    write_rows(rnd.folder / "held_out_labels.jsonl", found.held_out)
    origin = [lineage.of_database(job.db, found.event, found.head)]
    for name in ("labels.jsonl", "held_out_labels.jsonl"):
        note_origin(rnd.folder / name, origin)
    # beside the manifest, not in it: the hash of an event covers the time at which it was written
    write(rnd.folder / DATABASE, json.dumps({"path": str(job.db), "event": found.event, "hash": found.head}))
    return Made(
        made_from={"items": digest_of(rnd.folder / "items.jsonl"), "database/event": str(found.event)},
        made=("labels.jsonl", "held_out_labels.jsonl"),
        figures={
            "new": sum(row["round"] == rnd.number for row in (*found.rows, *found.held_out)),
            "labels": len(found.rows),
            "held_out": len(found.held_out),
            "ties": sum(row["probability"] == 0.5 for row in found.rows),
        },
    )


def _check_database(job: Job) -> None:
    """DataError where the database is not the one that earlier rounds were labelled in: their labels would be lost."""
    done = next((rnd for rnd in reversed(job.closed) if (rnd.folder / DATABASE).is_file()), None)
    if done is None:
        return
    due = read_database(done.folder)
    hash = None
    if job.db.exists():
        with Store.open(job.db, readonly=True) as store:
            hash = store.hash_of(due["event"])
    if hash != due["hash"]:
        raise DataError(
            f"{job.db} is gone or another database than at the end of round {done.number}, whose event {due['event']} "
            "it does not have; bring it back: the labels of earlier rounds are in it"
        )


# --- which comparisons -----------------------------------------------------------------------------------------------

_Chosen = tuple[bool, Row, int, int]
"""(whether it is held out, row of samples.jsonl, one completion, another)"""


def _split(job: Job, number: int, samples: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows to measure on), each prompt once; a prompt is on the same side in every round."""
    num, num_held_out = job.recipe.pick.num, job.recipe.pick.held_out
    share = num_held_out / (num + num_held_out)
    sides: tuple[list[Row], list[Row]] = ([], [])
    seen: set[str] = set()
    for row in samples:
        key = json.dumps(row["prompt"], sort_keys=True)
        if key not in seen:
            sides[rng_for(job.recipe.seed, "loop", "held out", key).random() < share].append(row)
        seen.add(key)
    return sides


def _pairs(rows: Sequence[Row]) -> list[tuple[int, int, int]]:
    """All that can be compared: what nobody could be shown counts as empty."""
    return picking.pairs_of(
        [["" if text_problem(text, MOST_CHARACTERS) else text for text in row["completions"]] for row in rows]
    )


def _best(job: Job, rows: Sequence[Row], number: int, models: Sequence[Path]) -> tuple[list[_Chosen], dict[str, float]]:
    """(the comparisons to train on, what they are worth on the average beside all that there are)"""
    settings = job.recipe.pick
    pairs = _pairs(rows)
    worth_P = _worth(job, rows, pairs, models) if models and pairs else None
    if worth_P is not None:  # NaN: too long for the reward model
        pairs, worth_P = [pairs[k] for k in np.flatnonzero(~np.isnan(worth_P))], worth_P[~np.isnan(worth_P)]
    rng = rng_for(job.recipe.seed, "loop", "pick", number)
    numbers = picking.choose(pairs, worth_P, settings.num, settings.per_prompt, settings.explore, rng)
    chosen: list[_Chosen] = [(False, rows[pairs[k][0]], pairs[k][1], pairs[k][2]) for k in numbers]
    if worth_P is None:
        return chosen, {}
    return chosen, {"worth": float(worth_P[numbers].mean()), "worth_of_all": float(worth_P.mean())}


def _worth(
    job: Job, rows: Sequence[Row], pairs: Sequence[tuple[int, int, int]], models: Sequence[Path]
) -> picking.Floats:
    from rlvr.probing.scorer import rewards_of

    # only completions that stand in a pair: an empty one is none of a reward model's
    wanted = sorted({(p, k) for p, a, b in pairs for k in (a, b)})
    place = {key: number for number, key in enumerate(wanted)}
    texts = [(prompt_of(rows[p]["prompt"]), rows[p]["completions"][k]) for p, k in wanted]
    reward_KN = rewards_of(list(map(str, models)), texts)
    first = np.array([place[p, a] for p, a, _ in pairs])
    second = np.array([place[p, b] for p, _, b in pairs])
    kind = job.recipe.pick.kind
    assert kind != "random"
    return picking.worth(reward_KN[:, first] - reward_KN[:, second], kind)


def _random(job: Job, rows: Sequence[Row], number: int) -> list[_Chosen]:
    settings = job.recipe.pick
    pairs = _pairs(rows)
    rng = rng_for(job.recipe.seed, "loop", "pick held out", number)
    numbers = picking.choose(pairs, None, settings.held_out, settings.per_prompt, 0.0, rng)
    return [(True, rows[pairs[k][0]], pairs[k][1], pairs[k][2]) for k in numbers]


def _item(job: Job, number: int, row: Row, a: int, b: int, gold: Any, held_out: bool) -> Item:
    info = {"round": number, "task": row["id"], "samples": [a, b], "policy": job.named(job.policy)}
    info |= {"held_out": True} if held_out else {}
    info |= {labelling.GOLD: gold} if gold is not None else {}
    return Item(
        id=f"{number}/{row['id']}/{a}-{b}",
        prompt=prompt_of(row["prompt"]),
        completions=(row["completions"][a], row["completions"][b]),
        source=labelling.source(number),
        info=info,
    )


def item_row(item: Item) -> dict[str, Any]:
    """As `rlvr label` takes it."""
    own = {"id": item.id, "prompt": plain_prompt(item.prompt), "completions": list(item.completions)}
    return {**own, "source": item.source, **item.info}


def item_of(row: dict[str, Any]) -> Item:
    """Of a row of items.jsonl, with the very same content as the label page makes of it."""
    info = {name: value for name, value in row.items() if name not in ("id", "prompt", "completions", "source")}
    return Item(
        id=row["id"],
        prompt=prompt_of(row["prompt"]),
        completions=tuple(row["completions"]),
        source=row["source"],
        info=info,
    )
