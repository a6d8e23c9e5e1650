"""`rlvr loop` over seeds in the world of recipes/preference, and what picking is worth in labels.

    python tests/bench/bench_loop.py --part active [--seeds 0,1,...]
    python tests/bench/bench_loop.py --part circle [--seeds 0,1,2] [--keep] [key=value ...]
    python tests/bench/bench_loop.py --part refused [--keep]

active    linear reward models on a pool of answers: labels until the mean accuracy over seeds is 95 % of the noise
          ceiling, for comparisons picked at random, by disagreement and by BALD
circle    recipes/loop/loop.yaml, and the same with the reward model of the first round alone: the true reward of the
          policy after each round, on all held-out prompts
refused   a crowd that is bought in the second round: that round is refused, and the third goes on from the first

The model is made by recipes/preference/{pretrain,sft}.yaml, once. --keep uses the runs that are there, finished or not.
Prints Markdown tables with what is to be reached, and one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from rlvr import plugins
from rlvr.loop import picking
from rlvr.loop.manifest import read_all
from rlvr.seeds import rng_for

RECIPE = "recipes/loop/loop.yaml"
TRUTH = "recipes/preference/world.py:true_reward"
Floats = picking.Floats
SHARE = 0.95
"""Of the noise ceiling that is to be reached."""
MEMBERS = 12
FIRST, STEP, LAST = 40, 20, 400
"""Labels."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--part", required=True, choices=("active", "circle", "refused"))
    options.add_argument("--seeds", default="0,1,2")
    options.add_argument("--keep", action="store_true", help="use the runs that are there")
    options.add_argument("--folder", type=Path, default=Path("runs/bench/loop"), help="where the runs are")
    options.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings over the recipe's")
    chosen = options.parse_args()
    seeds = [int(seed) for seed in chosen.seeds.split(",")]
    if chosen.part == "active":
        found = active(seeds)
    else:
        if not chosen.keep:
            shutil.rmtree(chosen.folder, ignore_errors=True)
        part = circle if chosen.part == "circle" else refused
        found = part(chosen.folder, seeds, chosen.overrides)
    print(json.dumps({"part": chosen.part, "seeds": seeds, **found}))


# --- active ----------------------------------------------------------------------------------------------------------


def active(seeds: Sequence[int]) -> dict[str, Any]:
    """Labels that each way of picking takes."""
    kinds = ("random", "disagreement", "bald")
    numbers = list(range(FIRST, LAST + 1, STEP))
    curves = {kind: np.mean([curve(kind, seed) for seed in seeds], axis=0) for kind in kinds}
    reached = {kind: crossing(numbers, curves[kind]) for kind in kinds}
    print(f"share of the noise ceiling, mean of {len(seeds)} seeds\n\n| labels | {' | '.join(kinds)} |\n|{'---|' * 4}")
    for k in range(0, len(numbers), 4):
        print(f"| {numbers[k]} | {' | '.join(f'{curves[kind][k]:.3f}' for kind in kinds)} |")
    print(f"\n| | {' | '.join(kinds)} |\n|{'---|' * 4}")
    print(f"| labels to {SHARE:g} of the ceiling | {' | '.join(f'{reached[kind]:.0f}' for kind in kinds)} |")
    ratios = {kind: reached[kind] / reached["random"] for kind in kinds}
    print(f"| beside random | {' | '.join(f'{ratios[kind]:.2f}' for kind in kinds)} |\n")
    for kind in kinds[1:]:
        print(f"{'reached' if ratios[kind] <= 0.7 else 'MISSED'}: {kind}: labels <= 0.7 of random")
    return {"labels": reached, "ratio": ratios}


def crossing(numbers: Sequence[int], curve: Floats) -> float:
    """Labels at which the curve first reaches SHARE, in a straight line between two points; infinite where never."""
    above = np.flatnonzero(curve >= SHARE)
    if not len(above):
        return math.inf
    k = int(above[0])
    if k == 0:
        return float(numbers[0])
    part = (SHARE - curve[k - 1]) / (curve[k] - curve[k - 1])
    return numbers[k - 1] + part * (numbers[k] - numbers[k - 1])


def curve(kind: str, seed: int) -> Floats:
    """Expected accuracy over its ceiling on held-out pairs, after FIRST, FIRST + STEP, ... labels."""
    rng = rng_for(seed, "bench", "active", kind)
    pool, held_out = Pool.drawn(seed, 600, False), Pool.drawn(seed, 400, True)
    ceiling = np.maximum(held_out.p_P, 1 - held_out.p_P).mean()
    asked: list[int] = []
    free = list(range(len(pool.pairs)))
    found: list[float] = []
    y_P = np.array([rng_for(seed, "bench", "label", k).random() < p for k, p in enumerate(pool.p_P)])
    models: list[Floats] = []
    for num in range(FIRST, LAST + 1, STEP):
        pairs = [pool.pairs[k] for k in free]
        worth_P = None
        if models and kind != "random":
            delta_KP = np.stack([pool.x_PD[free] @ w_D for w_D in models])
            worth_P = picking.worth(delta_KP, kind)  # type: ignore[arg-type]
        new = [free[k] for k in picking.choose(pairs, worth_P, num - len(asked), 1, 0.0, rng)]
        asked += new
        free = [k for k in free if k not in set(new)]
        models = [fitted(pool.x_PD[own], y_P[own]) for own in bootstraps(asked, rng)]
        w_D = fitted(pool.x_PD[asked], y_P[asked])
        says_P = held_out.x_PD @ w_D
        right_P = np.where(says_P == 0, 0.5, np.where(says_P > 0, held_out.p_P, 1 - held_out.p_P))
        found.append(float(right_P.mean() / ceiling))
    return np.array(found)


def bootstraps(asked: Sequence[int], rng: Random) -> list[list[int]]:
    return [rng.choices(asked, k=len(asked)) for _ in range(MEMBERS)]


def fitted(x_ND: Floats, y_N: Floats, ridge: float = 0.3) -> Floats:
    """Weights of Bradley and Terry's model, with a Gaussian prior; Newton's method."""
    w_D = np.zeros(x_ND.shape[1])
    for _ in range(12):
        p_N = 1 / (1 + np.exp(-x_ND @ w_D))
        gradient_D = x_ND.T @ (y_N - p_N) - ridge * w_D
        curvature_DD = (x_ND * (p_N * (1 - p_N))[:, None]).T @ x_ND + ridge * np.eye(len(w_D))
        step_D = np.linalg.solve(curvature_DD, gradient_D)
        w_D += step_D
        if np.abs(step_D).max() < 1e-6:
            break
    return w_D


class Pool:
    """Pairs of answers to prompts of the world: what a linear reward model sees of them, and how people choose."""

    def __init__(self, pairs: list[tuple[int, int, int]], x_PD: Floats, p_P: Floats) -> None:
        self.pairs, self.x_PD, self.p_P = pairs, x_PD, p_P

    @classmethod
    def drawn(cls, seed: int, num_prompts: int, held_out: bool) -> Pool:
        """Four answers of each prompt."""
        rows = list(world("demonstrations")(seed=seed, n=num_prompts, held_out=held_out))
        texts_PG: list[list[str]] = []
        for row in rows:
            rng = rng_for(seed, "bench", "pool", row["id"])
            texts_PG.append([row["completion"], *(world("demonstrate")(row["prompt"], rng) for _ in range(3))])
        pairs = picking.pairs_of(texts_PG)
        golds = [world("_sum")(row["prompt"]) for row in rows]
        feature = {(p, g): features(text, golds[p]) for p, own in enumerate(texts_PG) for g, text in enumerate(own)}
        x_PD = np.stack([feature[p, a] - feature[p, b] for p, a, b in pairs])
        p_P = np.array([world("preferred")(texts_PG[p][a], texts_PG[p][b], golds[p]) for p, a, b in pairs])
        return cls(pairs, x_PD, p_P)


def features(text: str, gold: str) -> Floats:
    """How often each word stands there, whether the only number is right, and words over the allowed."""
    words = text.split()
    vocabulary = [*world("POLITE"), *world("RUDE"), *world("IDLE"), *world("NUMBERS")]
    numbers = [word for word in words if word in world("NUMBERS")]
    told = [float(numbers == [gold]), float(max(0, len(words) - world("MAX_WORDS")))]
    return np.array([*told, *(float(words.count(word)) for word in vocabulary)])


def world(name: str) -> Any:
    return plugins.load(f"recipes/preference/world.py:{name}", what="the world")


# --- circle ----------------------------------------------------------------------------------------------------------


def circle(runs: Path, seeds: Sequence[int], overrides: Sequence[str]) -> dict[str, Any]:
    """The loop and its control: true rewards after each round."""
    rows: dict[str, list[list[float]]] = {"loop": [], "frozen": []}
    for seed in seeds:
        for name, own in (("loop", []), ("frozen", ["reward_model.refit=false"])):
            folder = looped(runs / f"{name}-{seed}", [f"seed={seed}", *own, *overrides])
            rows[name].append(true_rewards(folder))
    rounds = len(rows["loop"][0]) - 1
    print(f"\n| true reward | seed | SFT | {' | '.join(f'round {n}' for n in range(1, rounds + 1))} |")
    print(f"|{'---|' * (rounds + 3)}")
    for name, of in rows.items():
        for seed, values in zip(seeds, of, strict=True):
            print(f"| {name} | {seed} | {' | '.join(f'{value:.3f}' for value in values)} |")
    rises = [all(b > a for a, b in itertools.pairwise(values)) for values in rows["loop"]]
    above = [ours[-1] > frozen[-1] for ours, frozen in zip(rows["loop"], rows["frozen"], strict=True)]
    print()
    for what, held in (("the true reward rises each round", rises), ("it ends above the frozen one's", above)):
        print(f"{'reached' if all(held) else 'MISSED'}: {what} ({sum(held)} of {len(held)})")
    return {"true_reward": rows}


def refused(runs: Path, seeds: Sequence[int], overrides: Sequence[str]) -> dict[str, Any]:
    """A crowd whose second round says the reverse."""
    planted = [
        f"labels.truth_from={json.dumps({'2': 'recipes/loop/planted.py:reversed_reward', '3': TRUTH})}",
        f"gate.truth={TRUTH}",
        "labels.keep=last",
        "labels.of_refused=drop",
    ]
    folder = looped(runs / f"refused-{seeds[0]}", [f"seed={seeds[0]}", *planted, *overrides])
    records = read_all(folder)
    print("\n| round | verdict | reason | true reward of the next round's policy |\n|---|---|---|---|")
    values = true_rewards(folder)
    for record, value in zip(records, values[1:], strict=True):
        print(f"| {record['round']} | {record['state']} | {record['reason']} | {value:.3f} |")
    states = [record["state"] for record in records]
    is_back = records[1]["policy_sha256"] == records[0]["policy_sha256"]
    held = states[1] == "refused" and is_back
    print(f"\n{'reached' if held else 'MISSED'}: the planted round is refused and rolled back")
    return {"states": states, "true_reward": values, "rolled_back": is_back}


def looped(folder: Path, overrides: Sequence[str]) -> Path:
    """A finished run of the recipe."""
    sft = made(folder.parent, "sft")
    given = [f"run.dir={folder}", f"model.path={sft}", f"reward_model.settings.model.path={sft}", *overrides]
    rlvr("loop", RECIPE, *given)
    return folder


def made(runs: Path, name: str) -> Path:
    """The model of pretraining, or of SFT after it."""
    if not (runs / name / "summary.json").is_file():
        given = [f"model.path={made(runs, 'pretrain')}"] if name == "sft" else []
        rlvr(name, f"recipes/preference/{name}.yaml", f"run.dir={runs / name}", *given)
    return runs / name / "model"


def true_rewards(folder: Path) -> list[float]:
    """Of the policy before the first round and of the accepted one after each, on all held-out prompts."""
    policies = [made(folder.parent, "sft")]
    for record in read_all(folder):
        path = folder / record["policy"]
        policies.append(path if path.is_dir() else Path(record["policy"]))
    return [true_reward(policy) for policy in policies]


def true_reward(model: Path) -> float:
    """Mean over four completions of each held-out prompt."""
    out = model.parent / "held_out_samples.jsonl"
    tasks = ["--tasks", "recipes/preference/world.py:tasks", "eval.tasks.source=generator"]
    size = ["eval.tasks.args={held_out: true}", "-n", "4", "--max-tokens", "20", "--engine", "hf"]
    rlvr("sample", "--model", str(model), *tasks, *size, "--out", str(out))
    found: Mapping[str, float] = world("figures")(out)
    return found["true_reward"]


def rlvr(*arguments: str) -> None:
    code = subprocess.run([sys.executable, "-m", "rlvr", *arguments]).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
