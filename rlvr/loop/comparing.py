"""The end of a round: new and current policy on held-out tasks, of this round and of those before."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr.errors import DataError
from rlvr.evaluate import compare_values
from rlvr.feedback.records import Item
from rlvr.loop import gate as gates
from rlvr.loop import labelling
from rlvr.loop.asking import item_of, item_row
from rlvr.loop.job import Job, digest_of_model, write_task_rows
from rlvr.loop.manifest import Made, Round, digest_of, read_json, read_rows, write, write_rows
from rlvr.seeds import rng_for
from rlvr.types import Task

Completions = Mapping[str, Sequence[str]]
"""By the task's id."""
Pair = dict[str, gates.Values]
"""{"before": of the policy that was, "after": of the new one}"""


def evaluate(job: Job, rnd: Round) -> Made:
    """current.jsonl and new.jsonl: completions on held-out tasks; values.json: what they are worth, by round of the
    tasks: {"2": {"before": {TASK: VALUE}, "after": {TASK: VALUE}}}."""
    recipe = job.recipe
    new = rnd.folder / "policy" / "model"
    if "failed" in rnd.figures("policy"):
        return Made(made_from={}, made=())
    own = held_out_of(job, rnd.number)
    write_task_rows(rnd.folder / "held_out.jsonl", own)
    every = list({task.id: task for n in range(rnd.number, 0, -1) for task in held_out_of(job, n)}.values())
    how: dict[str, Any] = {
        "samples": recipe.eval.samples,
        "temperature": recipe.eval.temperature,
        "max_tokens": recipe.eval.max_tokens,
        "stop": recipe.eval.stop,
        "seed": recipe.eval.seed,
    }
    job.sample(own, rnd.folder / "held_out.jsonl", rnd.folder / "current.jsonl", job.policy, **how)
    job.sample(every, rnd.folder / "held_out_of_all.jsonl", rnd.folder / "new.jsonl", str(new), **how)
    values = _by_labels(job, rnd) if recipe.gate.judge == "labels" else _by_judges(job, rnd, own)
    write(rnd.folder / "values.json", json.dumps(values))
    asked = ("compared.jsonl",) if recipe.gate.judge == "labels" else ()
    return Made(
        made_from={"current": digest_of_model(job.policy), "new": digest_of(new)},
        made=("held_out.jsonl", "current.jsonl", "new.jsonl", "values.json", *asked),
    )


def gate(job: Job, rnd: Round) -> Made:
    """Whether the new policy is accepted; figures["refused"] is the reason, "" where it is."""
    if failed := rnd.figures("policy").get("failed"):
        return Made(made_from={}, made=(), figures={"refused": f"the policy could not be trained: {failed}"})
    values = _values(rnd.folder)
    if str(rnd.number) not in values:
        why = "nothing to compare: on no held-out task did the policies write different texts that somebody judged"
        return Made(
            made_from={"values": digest_of(rnd.folder / "values.json")},
            made=(),
            figures={"judge": job.recipe.gate.judge, "refused": why},
        )
    seed = job.seed("gate", rnd.number)
    try:
        found = {int(n): compare_values(pair["before"], pair["after"], seed=seed) for n, pair in values.items()}
    except ValueError:
        raise DataError("gate: the current and the new policy share no judged task") from None
    own = found.pop(rnd.number)
    old = {str(n): figures for n, figures in found.items()}
    refused = gates.decide(job.recipe.gate, own, found)
    return Made(
        made_from={"values": digest_of(rnd.folder / "values.json")},
        made=(),
        figures={"judge": job.recipe.gate.judge, **own, "old": old, "refused": refused},
    )


def held_out_of(job: Job, number: int) -> list[Task]:
    """A round's own held-out tasks."""
    return job.drawn(job.held_out, job.recipe.eval.num, number, "held out")


def _by_judges(job: Job, rnd: Round, own: Sequence[Task]) -> dict[str, Pair]:
    """Each set by the judge of its own round; old ones beside the policy that was accepted then."""
    said = _completions(rnd.folder / "new.jsonl")
    judge = _judge(job, rnd.number)
    before = gates.values(judge, own, _completions(rnd.folder / "current.jsonl"))
    found: dict[str, Pair] = {str(rnd.number): {"before": before, "after": gates.values(judge, own, said)}}
    for done in _evaluated(job):
        pair = _values(done.folder)[str(done.number)]
        after = gates.values(_judge(job, done.number), held_out_of(job, done.number), said)
        found[str(done.number)] = {"before": pair["after" if done.is_accepted else "before"], "after": after}
    return found


def _judge(job: Job, number: int) -> gates.Judge:
    """Of a round's held-out tasks: as that round thought of them."""
    settings = job.recipe.gate
    if settings.judge == "truth":
        name = settings.truth or job.recipe.labels.truth_of(number)
        assert name is not None
        return gates.Judge("truth", name, number)
    if settings.judge == "verifier":
        return gates.Judge("verifier")
    if settings.path is not None:
        return gates.Judge("reward_model", settings.path)
    for at in range(number, 0, -1):
        if (job.round(at) / "judge" / "model" / "config.json").is_file():
            return gates.Judge("reward_model", str(job.round(at) / "judge" / "model"))
    raise DataError("gate.judge reward_model: no held-out comparison has an answer from which one could be trained")


def _by_labels(job: Job, rnd: Round) -> dict[str, Pair]:
    """People's choices between new and old completions: 1 where the new one is better, -1 where the old one is."""
    num, said = job.recipe.gate.num, _completions(rnd.folder / "new.jsonl")
    current = _completions(rnd.folder / "current.jsonl")
    items = _items(job, rnd.number, rnd.number, current, said, num)
    seen = {item.info["task"] for item in items}  # rounds share tasks where there are few
    earlier = _evaluated(job)
    for done in earlier:
        then = _completions(done.folder / ("new.jsonl" if done.is_accepted else "current.jsonl"))
        fresh = _items(job, rnd.number, done.number, then, said, -(-num // len(earlier)), seen)
        items += fresh
        seen |= {item.info["task"] for item in fresh}
    write_rows(rnd.folder / "compared.jsonl", map(item_row, items))
    items = [item_of(row) for row in read_rows(rnd.folder / "compared.jsonl")]
    labelling.ask(job.recipe.labels, items, rnd.number, job.db, rnd.folder / "compared.jsonl", job.recipe.seed)
    found: dict[str, Pair] = {str(n): {"before": {}, "after": {}} for n in (rnd.number, *(d.number for d in earlier))}
    for item, first in labelling.chosen(job.recipe.labels, items, job.db).items():
        info = next(one.info for one in items if one.id == item)
        pair = found[str(info["set"])]
        pair["before"][info["task"]] = 0.0
        pair["after"][info["task"]] = (2 * first - 1) * (1 if info["new"] == 0 else -1)
    return {n: pair for n, pair in found.items() if pair["after"]}


def _items(
    job: Job, number: int, of: int, before: Completions, after: Completions, num: int, seen: Collection[str] = ()
) -> list[Item]:
    """Comparisons of the first completions of a set's tasks, where they differ; which is the new one is by lot.

    seen: tasks that are asked already in this round, and are left out.
    """
    found: list[Item] = []
    for task in held_out_of(job, of):
        if task.id in seen:
            continue
        old, new = before[task.id][0], after[task.id][0]
        if old.strip() == new.strip() or not old.strip() or not new.strip() or len(found) == num:
            continue
        place = rng_for(job.recipe.seed, "loop", "side", number, task.id).randrange(2)
        both = (new, old) if place == 0 else (old, new)
        info = {"round": number, "set": of, "task": task.id, "new": place}
        info |= {labelling.GOLD: task.gold} if task.gold is not None else {}
        source = f"{labelling.source(number)}-gate"
        found.append(
            Item(id=f"gate-{number}/{task.id}", prompt=task.prompt, completions=both, source=source, info=info)
        )
    return found


def _evaluated(job: Job) -> list[Round]:
    """Rounds before whose held-out tasks were evaluated."""
    return [done for done in job.closed if (done.folder / "values.json").is_file()]


def _values(folder: Path) -> dict[str, Pair]:
    found: dict[str, Pair] = read_json(folder / "values.json", f"remove {folder} to do the round again")
    return found


def _completions(path: Path) -> dict[str, Sequence[str]]:
    return {row["id"]: row["completions"] for row in read_rows(path)}
