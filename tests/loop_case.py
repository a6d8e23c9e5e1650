"""A loop small enough for a test: a random byte-level model, a truth that counts letters, two steps a stage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

PLUGIN = '''
from rlvr import verifier

def letters(answer):
    """One for ten letters."""
    return sum(c.isascii() and c.isalpha() for c in answer) / 10

def reverse(answer):
    return -letters(answer)

def of_round(answer, round, gold, prompt):
    return letters(answer) * round

def broken(answer):
    return float("nan")

def of_whom(answer, whom):
    return 0.0

@verifier("counts_letters")
def counts_letters(response):
    return min(1.0, letters(response) / 2)
'''
REWARD: Mapping[str, Any] = {
    "stage": "reward_model",
    "steps": 2,
    "batch_size": 8,
    "data": {"path": "somewhere.jsonl"},
    "optim": {"lr": 1e-3},
    "checkpoint": {"every": 1},
}
POLICY: Mapping[str, Any] = {
    "stage": "rl",
    "steps": 2,
    "data": {"path": "somewhere.jsonl"},
    "sample": {"groups_per_step": 3, "group_size": 3, "max_tokens": 8},
    "rewards": {"preference": {"kind": "model", "path": "somewhere"}},
    "kl": {"coef": 0.01, "where": "reward"},
    "optim": {"lr": 1e-3},
    "eval": {"before": False, "after": False},
    "checkpoint": {"every": 1},
}
LOOP: Mapping[str, Any] = {
    "stage": "loop",
    "rounds": 2,
    "engine": {"kind": "hf"},
    "system": {"threads": 1},
    "sample": {"tasks": 24, "group_size": 3, "max_tokens": 8},
    "pick": {"kind": "disagreement", "num": 8, "per_prompt": 2, "held_out": 4},
    "reward_model": {"members": 2},
    "eval": {"num": 6, "samples": 2},
    # of a policy that hardly moved one draw is as good as another
    "gate": {"judge": "truth", "tolerance": 100.0},
}


def write(folder: Path, model: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """The recipe and all that it names, in a folder; changes are laid over LOOP."""
    # verifiers are known by their names in the whole process
    (folder / "truth.py").write_text(PLUGIN.replace('"counts_letters"', f'"counts_{folder.name}"'))
    for name, start, num in (("tasks", 0, 24), ("held", 100, 12)):
        rows = [{"id": f"{name}:{k}", "prompt": f"Q: {k}=?", "gold": "x"} for k in range(start, start + num)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, values in (("reward", REWARD), ("policy", POLICY)):
        own = {**values, "model": {"path": str(model)}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(own))
    values = {
        **LOOP,
        "model": {"path": str(model)},
        "data": {"path": str(folder / "tasks.jsonl"), "verifier": f"{folder}/truth.py:counts_letters"},
        "eval": {**LOOP["eval"], "tasks": {"path": str(folder / "held.jsonl")}},
        "labels": {
            "kind": "simulated",
            "truth": f"{folder}/truth.py:letters",
            "crowd": [{"name": "ann"}, {"name": "ben"}],
        },
        "reward_model": {**LOOP["reward_model"], "recipe": str(folder / "reward.yaml")},
        "policy": {"recipe": str(folder / "policy.yaml")},
    }
    for section, value in (changes or {}).items():
        values[section] = {**values[section], **value} if isinstance(value, Mapping) else value
    path = folder / "loop.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def manifests(run: Path) -> list[dict[str, Any]]:
    """What the rounds say, in order."""
    return [json.loads(path.read_text()) for path in sorted(run.glob("rounds/*/round.json"))]
