"""Stateless randomness: every seed is a keyed hash of what it is for.

Nothing about a generator needs saving, and a resumed, reordered or differently batched run draws the same numbers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

Thing = TypeVar("Thing", bound=Hashable)
HeldOut = Sequence[Sequence[int]]
"""(seed, n) of sets that are kept out of another, each made without those before it."""


def seed_for(*key: int | str) -> int:
    """A seed in [0, 2^63) from (run seed, purpose, step, task id, sample index) or any other key.

    Parts are length-prefixed and typed, so ("a", "bc") and ("ab", "c"), 1 and "1" differ.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in key:
        raw = f"{type(part).__name__}:{part}".encode()
        digest.update(len(raw).to_bytes(4, "little") + raw)
    return int.from_bytes(digest.digest(), "little") >> 1


def rng_for(*key: int | str) -> random.Random:
    """Python's generator, seeded by key."""
    return random.Random(seed_for(*key))


def permutation(size: int, *key: int | str) -> list[int]:
    """0..size-1 in an order that the key fixes."""
    order = list(range(size))
    rng_for(*key).shuffle(order)
    return order


def distinct(
    draw: Callable[[random.Random], Thing], name: str, seed: int, n: int, avoid: HeldOut = (), among: str = ""
) -> Iterator[Thing]:
    """n different things that draw(rng) makes, the same ones for the same name and seed, without those of `avoid`.

    For generators of tasks whose held-out sets share none. ValueError: n is below 1, or more than there are; `among`
    says in its message which they are.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    seen: set[Thing] = set()
    for held_seed, held_n in avoid:
        seen |= set(_draw(draw, name, held_seed, held_n, seen, among))
    yield from _draw(draw, name, seed, n, seen, among)


def _draw(
    draw: Callable[[random.Random], Thing], name: str, seed: int, n: int, avoid: set[Thing], among: str
) -> Iterator[Thing]:
    rng = rng_for(seed, name, "problems")
    seen = set(avoid)
    repeats = 0
    for k in range(n):
        while (thing := draw(rng)) in seen:
            repeats += 1
            if repeats > 20 * n + 10_000:
                raise ValueError(f"n must be lower: only {k} of {n} different problems found{among and f' {among}'}")
        seen.add(thing)
        yield thing
