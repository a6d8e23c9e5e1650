"""The classic road in one script, with its table: what a preference model alone teaches, and what a verifier adds.

    python recipes/preference/run.py [--quick] [key=value ...]

Each stage is a process of its own with a recipe of its own, and always starts afresh, under runs/preference. Overrides
go to the stages of reinforcement learning, those of the engine to sampling too: `engine.kind=hf` goes without vLLM.
--quick takes a few steps of each stage: it shows that all of it runs, and its figures mean nothing.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvr import plugins
from rlvr.scripts import arguments, rlvr

HERE = Path("recipes/preference")
RUNS = Path("runs/preference")


@dataclass(frozen=True, slots=True)
class Stage:
    """Stage("sft", 40, {"model.path": "pretrain"})"""

    command: str
    quick_steps: int
    """Of --quick."""
    made_of: dict[str, str] = field(default_factory=dict)
    """Settings that name a model, and the stage whose model that is."""


_RL = {"model.path": "sft", "rewards.manners.path": "reward_weak"}
STAGES = {
    "pretrain": Stage("pretrain", 40),
    "sft": Stage("sft", 20, {"model.path": "pretrain"}),
    "reward": Stage("reward-model", 10, {"model.path": "pretrain"}),
    "reward_weak": Stage("reward-model", 10, {"model.path": "sft"}),
    "irl": Stage("reward-model", 10, {"model.path": "pretrain"}),
    "dpo": Stage("dpo", 10, {"model.path": "sft"}),
    "grpo": Stage("train", 2, _RL),
    "grpo_mixed": Stage("train", 2, _RL),
    "ppo": Stage("train", 2, {**_RL, "critic.path": "reward_weak"}),
    "ppo_mixed": Stage("train", 2, {**_RL, "critic.path": "reward_weak"}),
}
"""By the name of their recipe and of their run."""
REWARD_MODELS = ("reward", "reward_weak", "irl")
POLICIES = ("sft", "dpo", "grpo", "grpo_mixed", "ppo", "ppo_mixed")
COLUMNS = ("true_reward", "correct", "polite", "rude", "words", "win_rate")


def main() -> None:
    started = time.monotonic()
    asked = arguments(__doc__, has_quick=True)
    overrides, is_quick = asked.overrides, asked.quick
    shutil.rmtree(RUNS, ignore_errors=True)
    for name, stage in STAGES.items():
        given = [f"steps={stage.quick_steps}"] if is_quick else []
        run(name, RUNS / name, lambda maker: RUNS / maker, *given, *(overrides if stage.command == "train" else []))
    engine = [word for word in overrides if word.startswith("engine.")]
    policies = {name: sampled(RUNS / name, RUNS / "sft", engine) for name in POLICIES}
    rewards = {name: measured(RUNS / name) for name in REWARD_MODELS}
    show_rewards(rewards)
    show_policies(policies)
    summary = {"schema": 1, "policies": policies, "reward_models": rewards}
    (RUNS / "summary.json").write_text(json.dumps(summary, indent=1))
    print(f"\nin {time.monotonic() - started:.0f} s; {RUNS}/summary.json")


def run(name: str, folder: Path, made_in: Callable[[str], Path], *overrides: str) -> None:
    """One stage into a folder; made_in: where the run of another stage lies."""
    stage = STAGES[name]
    given = [f"{setting}={made_in(maker) / 'model'}" for setting, maker in stage.made_of.items()]
    if name in REWARD_MODELS:
        given.append(f"eval.probes={write_probes(folder.parent)}")
    print(f"\n== rlvr {stage.command} {HERE}/{name}.yaml", flush=True)
    rlvr(stage.command, f"{HERE}/{name}.yaml", f"run.dir={folder}", *given, *overrides)


def write_probes(runs: Path) -> Path:
    """The pairs that differ in one thing, as a file."""
    path = runs / "probes.jsonl"
    if not path.is_file():
        rows = world("probes")(seed=5, n=2000)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sampled(folder: Path, reference: Path, overrides: Sequence[str] = ()) -> dict[str, float]:
    """What completions of a run's model are worth on the held-out prompts, and beside those of the reference's."""
    path = folder / "samples.jsonl"
    tasks = ("--tasks", f"{HERE}/world.py:tasks", "eval.tasks.source=generator", "eval.tasks.args={held_out: true}")
    size = ("-n", "4", "--max-tokens", str(world("MAX_TOKENS")))
    rlvr("sample", "--model", str(folder / "model"), *tasks, *size, "--out", str(path), *overrides)
    found: dict[str, float] = world("figures")(path, reference / "samples.jsonl")
    return found


def measured(folder: Path) -> dict[str, Any]:
    """What a finished run measured after its last step."""
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())["after"]
    return found


def show_rewards(rewards: Mapping[str, Mapping[str, Any]]) -> None:
    """Of the probes: share of the pairs of each attribute in which the better answer has the higher reward."""
    attributes = list(world("ATTRIBUTES"))
    print(f"\n{'reward model':14}{'of ceiling':>12}{'ece':>8}" + "".join(f"{name:>10}" for name in attributes))
    for name, found in rewards.items():
        probes = "".join(f"{found['probes'][attribute]['as_expected']:10.3f}" for attribute in attributes)
        print(f"{name:14}{found['ceiling_share']:12.3f}{found['ece_true']:8.3f}{probes}")


def show_policies(policies: Mapping[str, Mapping[str, float]]) -> None:
    print(f"\n{'policy':14}" + "".join(f"{column:>12}" for column in COLUMNS))
    for name, row in policies.items():
        print(f"{name:14}" + "".join(f"{row[column]:12.3f}" for column in COLUMNS))


def world(name: str) -> Any:
    return plugins.load(f"{HERE}/world.py:{name}", what="the world")


if __name__ == "__main__":
    main()
