"""The world of recipes/preference over seeds: reward models, DPO, and PPO and GRPO with and without a verifier.

    python tests/bench/bench_preference.py [--engine vllm|hf] [--seeds 0,1,2] [--stages reward,ppo,...] [--keep]

Pretraining and SFT are done once (seed 0); all else once for each seed, the policies against the weak reward model of
their own seed. Prints Markdown tables with what is to be reached, and one JSON object on the last line. --keep uses the
runs that are there, so that it can be done in parts: `--keep --stages reward_weak`, then `--keep --stages ppo`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from rlvr import plugins
from rlvr.settings import load_recipe

RUNS = Path("runs/bench/preference")
script = sys.modules[plugins.load("recipes/preference/run.py:run", what="the recipe's script").__module__]
FLIPS = ["data.args.flipped=0.2"]
VARIANTS = {
    # name: (the recipe's stage, overrides)
    "reward_flipped": ("reward", FLIPS),
    "reward_robust": ("reward", [*FLIPS, "loss.robust=0.2"]),
}
"""With a fifth of the labels flipped, as if nothing were, and with the loss that knows of it."""
REWARD_MODELS = (*script.REWARD_MODELS, *VARIANTS)
POLICIES = tuple(name for name in script.POLICIES if name != "sft")
STAGES = (*REWARD_MODELS, *POLICIES)
Bounds = dict[str, Callable[[Mapping[str, float]], bool]]
MIXED: Bounds = {
    "true_reward >= 3.15": lambda x: x["true_reward"] >= 3.15,
    "correct >= 0.95": lambda x: x["correct"] >= 0.95,
}
TO_REACH: dict[str, Bounds] = {
    "reward": {
        "ceiling_share >= 0.97": lambda x: x["ceiling_share"] >= 0.97,
        "ece <= 0.015": lambda x: x["ece_true"] <= 0.015,
    },
    "reward_robust": {"slope within 10 % of the clean one": lambda x: abs(x["slope_to_clean"] - 1) <= 0.1},
    "ppo": {
        "true_reward >= 2": lambda x: x["true_reward"] >= 2,
        "KL within 20 % of its target": lambda x: abs(x["kl"] / x["kl_target"] - 1) <= 0.2,
        "explained variance > 0.8": lambda x: x["explained_variance"] > 0.8,
    },
    "dpo": {"win_rate >= 0.8": lambda x: x["win_rate"] >= 0.8},
    "ppo_mixed": MIXED,
    "grpo_mixed": MIXED,
}
LAST_STEPS = 30
"""Over which KL and explained variance are averaged."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--engine", default="vllm", choices=("vllm", "hf"))
    options.add_argument("--seeds", default="0,1,2")
    options.add_argument("--stages", default=",".join(STAGES))
    options.add_argument("--keep", action="store_true", help="use the runs that are there")
    chosen = options.parse_args()
    stages, seeds = chosen.stages.split(","), [int(seed) for seed in chosen.seeds.split(",")]
    if unknown := [name for name in stages if name not in STAGES]:
        sys.exit(f"--stages: {', '.join(unknown)}: known are {', '.join(STAGES)}")
    if not chosen.keep:
        shutil.rmtree(RUNS, ignore_errors=True)
    engine = f"engine.kind={chosen.engine}"
    base = base_stages(engine)
    rows = {name: [stage(name, seed, engine) for seed in seeds] for name in stages}
    add_slopes(rows)
    show(base, seeds, rows)
    print(json.dumps({"sft": base, "seeds": seeds, "runs": rows}))


def base_stages(engine: str) -> dict[str, float]:
    """Pretraining and SFT where they have not been done; what the SFT model's answers are worth."""
    for name in ("pretrain", "sft"):
        if not is_done(RUNS / name):
            script.run(name, RUNS / name, lambda maker: RUNS / maker)
    return figures(RUNS / "sft", engine)


def stage(name: str, seed: int, engine: str) -> dict[str, float]:
    """A stage of one seed, with those that it needs, where they have not been done: its figures."""
    folder = RUNS / f"{name}-{seed}"
    recipe, overrides = VARIANTS.get(name, (name, []))
    if not is_done(folder):
        if "reward_weak" in script.STAGES[recipe].made_of.values():
            stage("reward_weak", seed, engine)
        given = [*overrides, f"seed={seed}", *([engine] if script.STAGES[recipe].command == "train" else [])]
        script.run(recipe, folder, partial(made_in, seed), *given)
    if name not in REWARD_MODELS:
        return figures(folder, engine)
    found = script.measured(folder)
    kept = ("ceiling_share", "ece_true", "calibration_slope", "reward_scale", "expected_nll", "best_nll")
    shares = {f"probe/{attribute}": row["as_expected"] for attribute, row in found["probes"].items()}
    return {key: found[key] for key in kept} | shares


def made_in(seed: int, maker: str) -> Path:
    """Pretraining and SFT are every seed's."""
    return RUNS / (maker if maker in ("pretrain", "sft") else f"{maker}-{seed}")


def is_done(folder: Path) -> bool:
    return (folder / "summary.json").is_file()


def figures(folder: Path, engine: str) -> dict[str, float]:
    """What a policy's answers are worth, and of its last steps the KL and how well the critic foretold."""
    kept = folder / "figures.json"
    if not kept.is_file():
        kept.write_text(json.dumps(script.sampled(folder, RUNS / "sft", [engine])))
    found: dict[str, float] = json.loads(kept.read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = {"kl": "kl", "critic/vf_explained_var_mc": "explained_variance"}
    for metric, own in names.items():
        last = [row[metric] for row in rows if metric in row][-LAST_STEPS:]
        found |= {own: statistics.fmean(last)} if last else {}
    adaptive = load_recipe(folder / "recipe.yaml").model_dump().get("kl", {}).get("adaptive")
    return found | ({"kl_target": adaptive["target"]} if adaptive else {})


def add_slopes(rows: Mapping[str, Sequence[dict[str, float]]]) -> None:
    """How the scale of rewards learned from flipped labels compares with that of the clean ones of the same seed."""
    for name in VARIANTS:
        for row, clean in zip(rows.get(name, ()), rows.get("reward", ()), strict=False):
            row["slope_to_clean"] = row["reward_scale"] / clean["reward_scale"]


def show(base: Mapping[str, float], seeds: Sequence[int], rows: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """A table of reward models, a table of policies, and what was to be reached."""
    for kind in (REWARD_MODELS, POLICIES):
        runs = [(f"{name}-{seed}", row) for name in kind for seed, row in zip(seeds, rows.get(name, ()), strict=False)]
        runs = [("sft", base), *runs] if kind is POLICIES else runs
        columns = list(dict.fromkeys(column for _, row in runs for column in row))
        print(f"\n| run | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
        for run, row in runs:
            print(f"| {run} | {' | '.join(f'{row[c]:.3f}' if c in row else '' for c in columns)} |")
    print()
    for name, bounds in TO_REACH.items():
        for bound, holds in bounds.items():
            reached = [holds(row) for row in rows.get(name, ())]
            if reached:
                print(f"{'reached' if all(reached) else 'MISSED'}: {name}: {bound} ({sum(reached)} of {len(reached)})")


if __name__ == "__main__":
    main()
