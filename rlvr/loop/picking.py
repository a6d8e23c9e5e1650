"""Which comparisons are worth asking for: pairs of completions on which an ensemble of reward models disagrees.

K members, N completions, P pairs.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlvr.calibration import sigmoid

Floats = NDArray[np.float64]
Pair = tuple[int, int]
"""Numbers of two completions of one prompt."""


def pairs_of(texts_PG: Sequence[Sequence[str]]) -> list[tuple[int, int, int]]:
    """(prompt, one completion, another) of all pairs within a prompt whose texts differ and are not empty; of pairs of
    the same two texts the first."""
    found: list[tuple[int, int, int]] = []
    for prompt, texts in enumerate(texts_PG):
        seen: set[frozenset[str]] = set()
        for a, b in itertools.combinations(range(len(texts)), 2):
            both = frozenset((texts[a].strip(), texts[b].strip()))
            if len(both) == 2 and "" not in both and both not in seen:
                seen.add(both)
                found.append((prompt, a, b))
    return found


def worth(delta_KP: Floats, kind: Literal["disagreement", "bald"]) -> Floats:
    """worth_P of asking: delta_KP is reward(a) - reward(b) of each pair by each member, log odds.

    disagreement: std over the members (n as divisor: they are all there are). bald: entropy of the mean choice less
    mean entropy of the choice, in nats: what the answer tells about which member is right.
    """
    if kind == "disagreement":
        return delta_KP.std(axis=0)
    p_KP = sigmoid(delta_KP)
    return _entropy(p_KP.mean(axis=0)) - _entropy(p_KP).mean(axis=0)


def choose(
    pairs: Sequence[tuple[int, int, int]],
    worth_P: Floats | None,
    num: int,
    per_prompt: int,
    explore: float,
    rng: Random,
) -> list[int]:
    """Numbers of `num` pairs, or of as many as there are: the most worth first, equal ones in a random order, at most
    per_prompt of one prompt, and round(explore * num) of them at random; all at random where worth_P is None.
    """
    order = list(range(len(pairs)))
    rng.shuffle(order)
    num_best = 0 if worth_P is None else num - round(explore * num)
    chosen: list[int] = []
    of_prompt: Counter[int] = Counter()

    def take(candidates: Sequence[int], most: int) -> None:
        for k in candidates:
            if len(chosen) >= most:
                return
            if of_prompt[pairs[k][0]] < per_prompt:
                chosen.append(k)
                of_prompt[pairs[k][0]] += 1

    if worth_P is not None:
        take(sorted(order, key=lambda k: -worth_P[k]), num_best)
    taken = set(chosen)
    take([k for k in order if k not in taken], num)
    return chosen


def _entropy(p: Floats) -> Floats:
    """Nats."""
    q = np.clip(p, 1e-12, 1 - 1e-12)
    return -(q * np.log(q) + (1 - q) * np.log1p(-q))
