"""By how much each preset, and each kind and place of KL, misses the known optimum: the tables of docs/ALGORITHMS.md.

    python tests/bench/bench_optimum.py

J* - J of the bandit of tests/optimum/known_bandit.py (J* 0.6655, the reference 0.3792) and of the walks of
known_walk.py, of 7 actions, without slips and with (J* 0.2700 and -0.0629, the reference -0.2395 and -0.2426). Prints
two Markdown tables, and one JSON object on the last line. A minute on one core.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "optimum"))

import known_bandit  # pyright: ignore[reportMissingImports]
import known_walk  # pyright: ignore[reportMissingImports]

from rlvr.loss_settings import Kl
from rlvr.presets import PRESETS

UNLIKE = {
    # what they are run with instead of kl.coef
    "online_dpo": ["advantage.beta={beta}"],
    "raft": [],
    "distillation": ["reference.path=teacher"],
}
NOT_ON_WALKS = ("remax", "maxrl", "online_dpo", "raft", "distillation")
"""Of greedy completions, rewards above 0, comparisons, no divergence, no reward."""
KINDS = [("reward", kind, False) for kind in ("k1", "k2", "k3", "abs")]
KINDS += [("loss", kind, False) for kind in ("k2", "k3", "k3+", "abs")]
KINDS += [("loss", kind, True) for kind in ("k1", "k2", "k3")]


def main() -> None:
    torch.set_num_threads(1)
    presets = {name: of_preset(name) for name in PRESETS}
    print("| preset | kl | bandit | walk | slippery walk |\n|---|---|---|---|---|")
    for name, gaps in presets.items():
        kl = Kl.model_validate(PRESETS[name].get("kl", {}))
        place = "none" if name in ("online_dpo", "raft") else f"{kl.estimator} in the {kl.where}"
        print(f"| `{name}` | {place} | {' | '.join(map(cell, gaps))} |")
    kinds = {
        f"{where} {kind}{' weighted' * weighted}": of_kind(where, kind, weighted) for where, kind, weighted in KINDS
    }
    print("\n| kl (of `rloo`) | bandit | walk | slippery walk |\n|---|---|---|---|")
    for name, gaps in kinds.items():
        print(f"| {name} | {' | '.join(map(cell, gaps))} |")
    print(json.dumps({"presets": presets, "kinds": kinds}))


def of_preset(name: str) -> list[float | None]:
    """Gaps of the bandit and the two walks; None where it cannot be run there."""
    world = known_bandit.bandit()
    if name in UNLIKE:
        overrides = [override.format(beta=world.beta) for override in UNLIKE[name]]
        logp_K = known_bandit.learn(world, known_bandit.settings(name, *overrides)).logp_K
        return [world.gap(logp_K) if name != "distillation" else None, None, None]
    bandit = known_bandit.gap(name)
    return [bandit, None, None] if name in NOT_ON_WALKS else [bandit, *on_walks(name)]


def of_kind(where: str, kind: str, weighted: bool) -> list[float | None]:
    overrides = [f"kl.where={where}", f"kl.kind={kind}", f"kl.weighted={json.dumps(weighted)}"]
    return [known_bandit.gap("rloo", *overrides), *on_walks("rloo", *overrides)]


def on_walks(name: str, *overrides: str) -> list[float]:
    gaps = []
    for slip in (0.0, 0.1):
        world = known_walk.Walk(slip=slip)
        given = [f"kl.coef={world.beta}", f"sample.max_tokens={world.num_steps}", *overrides]
        gaps.append(world.gap(known_walk.learn(world, known_walk.settings(name, *given)).logp_TSA))
    return gaps


def cell(gap: float | None) -> str:
    return "" if gap is None else f"{gap:.4f}"


if __name__ == "__main__":
    main()
