"""Tasks of reasoning-gym as a generator of rows, judged by the verifier reasoning_gym.

data:
  source: generator
  path: rlvr.adaptors.reasoning_gym:tasks
  args: {names: [chain_sum, sokoban], n: 1000, seed: 0}
  prompt_template: "{prompt}\\nGive the answer between <answer> and </answer>."
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlvr.errors import near
from rlvr.seeds import rng_for, seed_for
from rlvr.types import Task
from rlvr.verifiers.reasoning_gym_task import BROKEN, gold_problem, start_problem

_MOST_REPEATS = 20


def tasks(
    names: str | Sequence[str],
    n: int,
    seed: int = 0,
    weights: Sequence[float] | None = None,
    config: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[dict[str, Any]]:
    """n rows {"id", "prompt", "gold", "verifier"} of different questions, the same ones for the same arguments.

    Each is drawn from one of the data sets `names` with these weights (equal without them); `config` has settings of
    a data set by its name, such as {"chain_sum": {"max_terms": 3}}. Entries whose own answer their scorer does not
    accept are left out. ValueError: names or weights that cannot be used, or more rows than different questions.
    """
    names = [names] if isinstance(names, str) else list(names)
    if problem := start_problem({}):
        raise ValueError(problem)
    from reasoning_gym.factory import DATASETS, create_dataset  # pyright: ignore[reportMissingImports]

    if n < 1 or not names:
        raise ValueError(f"n and the number of names must be at least 1, got {n} and {len(names)}")
    for name in [*names, *(config or {})]:
        if name not in DATASETS:
            raise ValueError(f"reasoning-gym has no data set {name!r}; {near(name, DATASETS)}".rstrip("; "))
        if name in BROKEN:
            raise ValueError(f"reasoning-gym's scorer of {name!r} cannot be trusted: {BROKEN[name]}")
    if weights is not None and (len(weights) != len(names) or min(weights) < 0 or sum(weights) <= 0):
        raise ValueError(f"weights must be {len(names)} numbers from 0 on, one for each name, got {list(weights)}")
    most = _MOST_REPEATS * n + 1000
    settings = {name: dict((config or {}).get(name, {})) for name in names}
    data_sets = {
        name: create_dataset(
            name, **{"size": most, "seed": seed_for(seed, "reasoning_gym", name) % 2**32, **settings[name]}
        )
        for name in names
    }
    rng, places, seen = rng_for(seed, "reasoning_gym", "mix"), dict.fromkeys(names, 0), set()
    for _ in range(most):
        name = rng.choices(names, weights)[0]
        place = places[name]
        places[name] += 1
        entry = json.loads(json.dumps(data_sets[name][place]))
        gold = {key: entry[key] for key in ("question", "answer", "metadata")} | {"config": settings[name]}
        row_id = f"{name}:{seed}:{place}"
        if entry["question"] in seen or gold_problem("reasoning_gym", Task(id=row_id, prompt="", gold=gold)):
            continue
        seen.add(entry["question"])
        yield {"id": row_id, "prompt": entry["question"], "gold": gold, "verifier": "reasoning_gym"}
        if len(seen) == n:
            return
    raise ValueError(f"n must be lower: only {len(seen)} of {n} different questions found in {most} draws")
