"""RLAIF in one script: a judge's labels train a reward model and PPO follows it; beside it GRPO asks the judge itself.

    python recipes/rlaif/run.py [--quick] [key=value ...]

In the world of recipes/preference, whose true reward is known. The judge stands behind an OpenAI-compatible server
(judge_server.py: it knows the world, and errs as judges do); the stages know nothing but its answers. Each stage is a
process of its own, and all start afresh under runs/rlaif. Overrides go to the stages of reinforcement learning, those
of the engine to sampling too: `engine.kind=hf` goes without vLLM. --quick takes a few steps of each stage: it shows
that all of it runs, and its figures mean nothing.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvr import plugins
from rlvr.scripts import arguments, rlvr

HERE, PREFERENCE = Path("recipes/rlaif"), Path("recipes/preference")
WORLD = PREFERENCE / "world.py"
RUNS = Path("runs/rlaif")
NUM_PROMPTS, NUM_COMPLETIONS, NUM_PAIRS = 1200, 4, 4
"""Of the policy, that the judge labels; pairs of each prompt."""
NUM_HELD_OUT = 400
"""Pairs whose better answer is known, to measure the judge with."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Stage("sft", 40, {"model.path": "pretrain"})"""

    command: str
    quick_steps: int
    """Of --quick."""
    made_of: dict[str, str] = field(default_factory=dict)
    """Settings that name a model, and the stage whose model that is."""


STAGES = {
    "pretrain": Stage("pretrain", 40),
    "sft": Stage("sft", 20, {"model.path": "pretrain"}),
    "reward": Stage("reward-model", 10, {"model.path": "pretrain"}),
    "ppo": Stage("train", 2, {"model.path": "sft", "rewards.manners.path": "reward", "critic.path": "reward"}),
    "grpo": Stage("train", 2, {"model.path": "sft"}),
}
"""By the name of their recipe and of their run; pretrain's is that of recipes/preference."""
POLICIES = ("sft", "ppo", "grpo")
COLUMNS = ("true_reward", "correct", "polite", "rude", "words", "win_rate")


def main() -> None:
    started = time.monotonic()
    asked = arguments(__doc__, has_quick=True)
    overrides, is_quick = asked.overrides, asked.quick
    engine = [word for word in overrides if word.startswith("engine.")]
    shutil.rmtree(RUNS, ignore_errors=True)
    with serving() as url:
        run("pretrain", is_quick)
        run("sft", is_quick)
        agreement = measured_judge(url, 40 if is_quick else NUM_HELD_OUT)
        labelled(url, 40 if is_quick else NUM_PROMPTS, engine)
        run("reward", is_quick, f"data.path={RUNS / 'pairs.jsonl'}")
        run("ppo", is_quick, *overrides)
        run("grpo", is_quick, f"rewards.better.by.url={url}", *overrides)
    policies = {name: sampled(name, engine, 40 if is_quick else None) for name in POLICIES}
    show(agreement, policies)
    (RUNS / "summary.json").write_text(json.dumps({"schema": 1, "judge": agreement, "policies": policies}, indent=1))
    print(f"\nin {time.monotonic() - started:.0f} s; {RUNS}/summary.json")


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The judge's server; yields the URL of its API."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(HERE / "judge_server.py"), str(port)])
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None:
                sys.exit("the judge's server did not start")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def run(name: str, is_quick: bool, *overrides: str) -> None:
    """One stage."""
    stage = STAGES[name]
    recipe = (PREFERENCE if name == "pretrain" else HERE) / f"{name}.yaml"
    given = [f"{setting}={RUNS / maker / 'model'}" for setting, maker in stage.made_of.items()]
    given += [f"steps={stage.quick_steps}"] if is_quick else []
    print(f"\n== rlvr {stage.command} {recipe}", flush=True)
    rlvr(stage.command, str(recipe), f"run.dir={RUNS / name}", *given, *overrides)


def judge(url: str, *arguments: str) -> None:
    print("\n== rlvr judge", flush=True)
    rlvr("judge", *arguments, "--endpoint", url, "--judge-model", "stand-in")


def measured_judge(url: str, num: int) -> dict[str, Any]:
    """How the judge errs, on pairs of held-out prompts whose chosen answer is the truly better one."""
    path = RUNS / "known.jsonl"
    rows = [row for row in world("comparisons")(seed=21, n=2 * num, held_out=True) if row["true_probability"] != 0.5]
    for row in rows:
        if row["true_probability"] < 0.5:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
        del row["true_probability"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:num]))
    padding = "um well so like anyway"
    judge(url, str(path), "--report", "--padding", padding, "--out", str(RUNS / "known_judged.jsonl"))
    truth = {(row["prompt"], row["chosen"]) for row in rows}
    judged = [json.loads(line) for line in (RUNS / "known_judged.jsonl").read_text().splitlines()]
    right = sum((row["prompt"], row["chosen"]) in truth for row in judged)
    return {"pairs": num, "consistent": len(judged) / num, "accuracy_consistent": right / len(judged)}


def labelled(url: str, num: int, engine: list[str]) -> None:
    """Answers of the policy to training prompts, as the judge compares them."""
    samples = RUNS / "samples.jsonl"
    tasks = ("--tasks", f"{WORLD}:tasks", "eval.tasks.source=generator", f"eval.tasks.limit={num}")
    size = ("-n", str(NUM_COMPLETIONS), "--max-tokens", str(world("MAX_TOKENS")), "--seed", "1")
    rlvr("sample", "--model", str(RUNS / "sft" / "model"), *tasks, *size, "--out", str(samples), *engine)
    given = ("--keep", "soft", "--set", f"method.comparisons={NUM_PAIRS}")
    judge(url, str(samples), *given, "--out", str(RUNS / "pairs.jsonl"))


def sampled(name: str, engine: list[str], num: int | None) -> dict[str, float]:
    """What completions of a run's model are worth on the held-out prompts (num: so many), and beside those of SFT."""
    path = RUNS / name / "samples.jsonl"
    tasks = ("--tasks", f"{WORLD}:tasks", "eval.tasks.source=generator", "eval.tasks.args={held_out: true}")
    tasks += () if num is None else (f"eval.tasks.limit={num}",)
    size = ("-n", "4", "--max-tokens", str(world("MAX_TOKENS")))
    rlvr("sample", "--model", str(RUNS / name / "model"), *tasks, *size, "--out", str(path), *engine)
    found: dict[str, float] = world("figures")(path, RUNS / "sft" / "samples.jsonl")
    return found


def show(agreement: Mapping[str, Any], policies: Mapping[str, Mapping[str, float]]) -> None:
    print(
        f"\nthe judge names the truly better answer in {agreement['accuracy_consistent']:.3f} of the "
        f"{agreement['consistent']:.3f} of pairs where its two orders agree"
    )
    print(f"\n{'policy':14}" + "".join(f"{column:>12}" for column in COLUMNS))
    for name, row in policies.items():
        print(f"{name:14}" + "".join(f"{row[column]:12.3f}" for column in COLUMNS))


def world(name: str) -> Any:
    return plugins.load(f"{WORLD}:{name}", what="the world")


if __name__ == "__main__":
    main()
