"""Stateless randomness: every seed is a keyed hash of what it is for.

Nothing about a generator needs saving, and a resumed, reordered or differently batched run draws the same numbers.
"""

from __future__ import annotations

import hashlib
import random


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
