"""kill -9 in the midst of steps, again and again: does the run end bit for bit as if nothing had happened?

    python tests/bench/bench_kills.py [--kills 20] [--engine vllm|hf] [--stages rl,lora,sft,pretrain] [--seed 0]
                                      [--model MODEL] [--runs FOLDER] [--no-damage]

The arithmetic job in few steps: an unbroken run of each stage, then runs that are killed at every place of
rlvr/failpoints.py that a step passes, and at random moments from outside. A kill counts where it is proven to have hit
a step: by the failpoint's line on stderr, or by the records of the run before and after. Then every file of the newest
checkpoint of a killed run is damaged in every way, one at a time. Prints Markdown tables, and one JSON object on the
last line; ends with 1 where anything differed. --model: an SFT model of the job, so that none is made first.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_arithmetic import RECIPES, RUNS, base_stages

sys.path.insert(0, str(Path(__file__).parents[1]))
from attempts import Attempt, differences, last_step

STEPS = {"rl": 8, "sft": 40, "pretrain": 40}
EVERY = {"rl": 2, "sft": 10, "pretrain": 10}
COMMON = ["checkpoint.keep=2", "eval.tasks.args={seed: 4242, n: 8}"]
RL = [
    "data.args={seed: 1, n: 400}",
    "sample.groups_per_step=8",
    "sample.group_size=4",
    "optim.micro_tokens=512",
    "eval.before=false",
    "eval.every=3",
]
SUPERVISED = ["data.args.n=1000", "optim.micro_tokens=512"]
RANDOM = "random"
AFTER = ("model", "finish")
"""Behind the last step: tried too, and not counted among the kills in steps."""
SAVING = ("checkpoint.tensors", "checkpoint.manifest", "checkpoint.rename", "checkpoint.renamed", "checkpoint.prune")
PER_STEP = {
    "rl": {
        "sample": 32,
        "score": 8,
        "grouplog.append": 8,
        "micro": 4,
        "update": 1,
        "sync": 1,
        "rollouts": 1,
        "record": 1,
    },
    "sft": {"micro": 3, "update": 1, "record": 1},
    "pretrain": {"micro": 3, "update": 1, "record": 1},
}
"""About how often a step passes each place."""


@dataclass(frozen=True)
class Stage:
    """One kind of run: name, the stage of its recipe, and its command."""

    name: str
    kind: str
    arguments: list[str]
    folder: Path
    """Of its runs and their logs."""

    @property
    def steps(self) -> int:
        return STEPS[self.kind]


@dataclass
class Broken:
    """A run and the kills that it has had."""

    folder: Path
    kills: list[dict[str, Any]] = field(default_factory=list)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=20, help="proven to hit a step, of each stage")
    options.add_argument("--engine", default="vllm", choices=("vllm", "hf"))
    options.add_argument("--stages", default="rl,lora", help="of rl, lora, sft, pretrain")
    options.add_argument("--seed", type=int, default=0, help="of the moments")
    options.add_argument("--model", help="an SFT model of the arithmetic job")
    options.add_argument("--runs", type=Path, default=Path("runs/bench/kills"), help="where; what is there goes")
    options.add_argument("--no-damage", action="store_true", help="leave out the damaged checkpoints")
    chosen = options.parse_args()
    if chosen.model is None:
        base_stages()
    model = chosen.model or str(RUNS / "sft" / "model")
    kills, damages = [], []
    for name in chosen.stages.split(","):
        stage = make_stage(name, model, chosen.engine, chosen.runs / name)
        shutil.rmtree(stage.folder, ignore_errors=True)
        stage.folder.mkdir(parents=True)
        unbroken = stage.folder / "unbroken"
        code, said, seconds = attempt(stage, unbroken)
        assert code == 0, said
        print(f"{name}: the unbroken run took {seconds:.0f} s", file=sys.stderr, flush=True)
        kills += kill_again_and_again(stage, unbroken, chosen.kills, random.Random(f"{chosen.seed} {name}"))
        if not chosen.no_damage:
            damages += damage_checkpoints(stage, unbroken)
    show(kills, damages)
    sys.exit(any(row["differs"] for row in (*kills, *damages)))


def make_stage(name: str, model: str, engine: str, folder: Path) -> Stage:
    """The arithmetic job's own recipe, shortened."""
    kind = "rl" if name in ("rl", "lora") else name
    recipe, command = {
        "rl": ("grpo.yaml", "train"),
        "sft": ("sft.yaml", "sft"),
        "pretrain": ("pretrain.yaml", "pretrain"),
    }[kind]
    arguments = [command, str(RECIPES / recipe), *COMMON, f"steps={STEPS[kind]}", f"checkpoint.every={EVERY[kind]}"]
    arguments += [*RL, f"engine.kind={engine}"] if kind == "rl" else SUPERVISED
    arguments += [f"model.path={model}"] if kind != "pretrain" else []
    return Stage(name, kind, [*arguments, *(["model.lora=true"] if name == "lora" else [])], folder)


def attempt(stage: Stage, folder: Path, failpoint: str = "") -> tuple[int, str, float]:
    """(exit code, what it said, seconds) of one start that is left alone."""
    with start(stage, folder, failpoint) as running:
        code = running.wait()
        return code, running.said, time.monotonic() - running.started


def start(stage: Stage, folder: Path, failpoint: str = "") -> Attempt:
    number = len(list(folder.parent.glob(f"{folder.name}-*.log")))
    log = folder.parent / f"{folder.name}-{number:03d}.log"
    return Attempt([*stage.arguments, f"run.dir={folder}"], log, failpoint=failpoint)


# --- kills -----------------------------------------------------------------------------------------------------------


def kill_again_and_again(stage: Stage, unbroken: Path, wanted: int, rng: random.Random) -> list[dict[str, Any]]:
    """`wanted` kills in steps and one at each place after the last, each with what differed at its run's end."""
    todo = _places(stage, wanted, rng)
    seconds = _step_seconds(unbroken)
    done: list[Broken] = []
    while todo:
        broken = Broken(stage.folder / f"broken-{len(done)}")
        done.append(broken)
        while todo and _can_be_hit(stage, broken.folder, todo[0]):
            hit = kill_once(stage, broken.folder, todo[0], seconds, rng)
            if hit is not None:
                broken.kills.append(hit)
                todo.pop(0)
                print(f"{stage.name}: {hit}", file=sys.stderr, flush=True)
        code, said, _ = attempt(stage, broken.folder)
        found = [f"ended with {code}: {said.splitlines()[-1]}"] if code else differences(broken.folder, unbroken)
        for kill in broken.kills:
            kill["differs"] = found
        print(f"{stage.name}: {broken.folder} {len(broken.kills)} kills {found}", file=sys.stderr, flush=True)
    return [{"stage": stage.name, **kill} for broken in done for kill in broken.kills]


def _can_be_hit(stage: Stage, folder: Path, place: str) -> bool:
    """Whether the run has not come past the place for good."""
    past = folder / "summary.json" if place in AFTER else folder / "checkpoints" / f"{stage.steps:06d}"
    return not (past.exists() or (folder / "summary.json").exists())


def _places(stage: Stage, wanted: int, rng: random.Random) -> list[str]:
    """All places of a step, the rest at random moments; in an order of chance, the ones after the last step last."""
    named = [*PER_STEP[stage.kind], *SAVING]
    places = rng.sample(named, min(wanted, len(named)))
    places += [RANDOM] * (wanted - len(places))
    rng.shuffle(places)
    return [*places, *AFTER]


def kill_once(stage: Stage, folder: Path, place: str, seconds: float, rng: random.Random) -> dict[str, Any] | None:
    """Start the run and kill it; None where it was not hit within a step."""
    if place == RANDOM:
        return _kill_at_random(stage, folder, seconds, rng)
    passes = PER_STEP[stage.kind].get(place, 0)
    nth = rng.randint(1, max(1, 2 * passes)) + (place == "sync")  # the first sync is before the first step
    code, said, _ = attempt(stage, folder, f"{place}:kill@{nth}")
    if f"rlvr: failpoint {place}: kill\n" not in said:
        assert code == 0, said  # it passed the place less often
        return None
    assert code == -9, said
    step = last_step(folder)
    if place not in (*SAVING, *AFTER) and step >= stage.steps:  # the record of the last evaluation
        return None
    return {"place": place, "nth": nth, "after_step": step}


def _kill_at_random(stage: Stage, folder: Path, seconds: float, rng: random.Random) -> dict[str, Any] | None:
    """Where the run has recorded a step in this attempt and not the next, the kill has hit that next one."""
    checkpoints = [int(path.name) for path in (folder / "checkpoints").glob("[0-9]*")]
    newest = max(checkpoints, default=0)
    target = min(newest + rng.randint(1, 3), stage.steps - 1)
    metrics = folder / "metrics.jsonl"
    old = metrics.stat().st_ino if metrics.exists() else None
    with start(stage, folder) as running:
        # an attempt writes the file anew without the rows that it will record again
        has_begun = running.until(lambda: metrics.exists() and metrics.stat().st_ino != old)
        if not (has_begun and running.until(lambda: last_step(folder) >= target)):
            return None
        time.sleep(rng.uniform(0, 1.5 * seconds))
        if running.process.poll() is not None:
            return None
        running.kill()
    step = last_step(folder)
    return {"place": RANDOM, "nth": 1, "after_step": step} if newest < step < stage.steps else None


def _step_seconds(unbroken: Path) -> float:
    rows = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    times = sorted(row["step_time"] for row in rows if "step_time" in row)
    return times[len(times) // 2]


# --- damage ----------------------------------------------------------------------------------------------------------


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flipped": _flip,
    "truncated": _truncate,
    "missing": Path.unlink,
    "empty": _empty,
}


def damage_checkpoints(stage: Stage, unbroken: Path) -> list[dict[str, Any]]:
    """Each file of the newest checkpoint of a killed run, damaged in each way: named, and the end the same?"""
    killed = stage.folder / "damaged"
    code, said, _ = attempt(stage, killed, "checkpoint.renamed:kill@3")
    assert code == -9, said
    older, newest = sorted((killed / "checkpoints").glob("[0-9]*"))[-2:]
    rows = []
    for name in sorted(path.name for path in newest.iterdir()):
        for kind, damage in DAMAGES.items():
            folder = stage.folder / f"damaged-{name}-{kind}"
            shutil.copytree(killed, folder)
            damage(folder / "checkpoints" / newest.name / name)
            code, said, _ = attempt(stage, folder)
            found = [f"ended with {code}: {said.splitlines()[-1]}"] if code else differences(folder, unbroken)
            is_named = any(f"checkpoint {newest.name} skipped: {name}" in line for line in said.splitlines())
            is_older = f"resuming after step {int(older.name)}\n" in said
            found += [] if is_named else ["the file is not named"]
            found += [] if is_older else ["the older one is not used"]
            rows.append({"stage": stage.name, "file": name, "damage": kind, "differs": found})
            print(f"{stage.name}: {name} {kind} {found}", file=sys.stderr, flush=True)
            shutil.rmtree(folder)
    return rows


# --- the tables ------------------------------------------------------------------------------------------------------


def show(kills: Sequence[dict[str, Any]], damages: Sequence[dict[str, Any]]) -> None:
    """The tables, and everything as JSON."""
    by_place: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for kill in kills:
        by_place[kill["stage"], kill["place"]].append(kill)
    print("| stage | killed at | kills | after the record of step | resumed equal |")
    print("|---|---|---|---|---|")
    for (stage, place), of_place in sorted(by_place.items()):
        steps = ", ".join(str(kill["after_step"]) for kill in of_place)
        print(f"| {stage} | {place} | {len(of_place)} | {steps} | {_num_equal(of_place)} |")
    in_step = [kill for kill in kills if kill["place"] not in AFTER]
    print(f"\n{_num_equal(in_step)} of {len(in_step)} kills within a step resumed bit for bit")
    if damages:
        print("\n| stage | file of the newest checkpoint | damaged | named, older one used, same end |")
        print("|---|---|---|---|")
        for row in damages:
            print(f"| {row['stage']} | {row['file']} | {row['damage']} | {row['differs'] or 'yes'} |")
    print(json.dumps({"kills": list(kills), "damages": list(damages)}))


def _num_equal(rows: Sequence[dict[str, Any]]) -> int:
    return sum(not row["differs"] for row in rows)


if __name__ == "__main__":
    main()
