"""Which items of one collection are which of another, where order does not count."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

MOST_COMPARISONS = 50_000
"""Of two numbers or texts, in one matching: what its caller keeps to, so that it takes a fraction of a second."""


def match_keys(wanted: Sequence[Hashable], given: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Pairs (index, index) of equal keys, each used once: the most there can be, the first with the first."""
    places: dict[Hashable, list[int]] = {}
    for j in range(len(given) - 1, -1, -1):
        places.setdefault(given[j], []).append(j)
    pairs = []
    for i, key in enumerate(wanted):
        if left := places.get(key):
            pairs.append((i, left.pop()))
    return pairs


def match_most(num_wanted: int, num_given: int, same: Callable[[int, int], bool]) -> list[tuple[int, int]]:
    """The most pairs for which same(i, j), each index used once. For what is not transitive, such as a tolerance.

    Augmenting paths (Kuhn). same() is asked once for each pair.
    """
    edges = [[j for j in range(num_given) if same(i, j)] for i in range(num_wanted)]
    owner: dict[int, int] = {}
    for start in range(num_wanted):
        came_from: dict[int, int] = {}  # of each given item that was reached, the wanted one that it was reached from
        waiting, free = [start], None
        while waiting and free is None:
            i = waiting.pop()
            for j in edges[i]:
                if j not in came_from:
                    came_from[j] = i
                    if j not in owner:
                        free = j
                        break
                    waiting.append(owner[j])
        taken = {i: j for j, i in owner.items()}
        while free is not None:  # give each on the way the one behind it
            i = came_from[free]
            owner[free] = i
            free = taken.get(i)
    return sorted((i, j) for j, i in owner.items())


def match_best(
    wanted: Sequence[int], given: Sequence[int], overlap: Callable[[int, int], int]
) -> list[tuple[int, int]]:
    """Pairs of indices, those that have most in common first, the first with the first where they have as much."""
    common = sorted((-overlap(i, j), a, b) for a, i in enumerate(wanted) for b, j in enumerate(given))
    used_a: set[int] = set()
    used_b: set[int] = set()
    pairs = []
    for _, a, b in common:
        if a not in used_a and b not in used_b:
            used_a.add(a)
            used_b.add(b)
            pairs.append((wanted[a], given[b]))
    return pairs
