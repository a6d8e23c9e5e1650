"""Seeds are the same on every machine and in every version: a resumed run, and a paper's, depend on it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.seeds import permutation, rng_for, seed_for

PART = st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@pytest.mark.parametrize(
    ("key", "seed"),
    [
        ((), 6510301506637419378),
        ((0,), 1887154467326967967),
        ((0, "weights"), 5970281424605695458),
        ((1, "sample", 12, "train:17", 3), 8623586075418509257),
        (("ä😀", -5), 7695592755785778752),
    ],
)
def test_seeds_never_change(key: tuple[int | str, ...], seed: int) -> None:
    assert seed_for(*key) == seed


def test_orders_and_draws_never_change() -> None:
    assert permutation(8, 0, "order", 0) == [5, 4, 0, 2, 6, 7, 3, 1]
    assert rng_for(0, "coin").random() == 0.9650709909984713
    assert permutation(0, 1) == []
    assert permutation(1, 1) == [0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "bc"), ("ab", "c")),
        (("a", "b"), ("b", "a")),
        ((1,), ("1",)),
        ((1, 2), (12,)),
        (("",), ()),
        (("", ""), ("",)),
        ((1,), (True,)),
        (("a:b",), ("a", "b")),
        (("str:a",), ("a",)),
    ],
)
def test_keys_that_look_alike_have_different_seeds(one: tuple[int | str, ...], other: tuple[int | str, ...]) -> None:
    assert seed_for(*one) != seed_for(*other)


@given(st.lists(PART, max_size=5))
def test_every_key_has_one_seed_in_63_bits(key: list[int | str]) -> None:
    assert 0 <= seed_for(*key) < 2**63
    assert seed_for(*key) == seed_for(*key)


@given(st.lists(PART, max_size=4), st.lists(PART, max_size=4))
def test_different_keys_have_different_seeds(one: list[int | str], other: list[int | str]) -> None:
    assert (seed_for(*one) == seed_for(*other)) == (one == other)


def test_seeds_of_neighbours_are_spread_evenly() -> None:
    seeds = [
        seed_for(0, "sample", step, f"t:{task}", k) for step in range(10) for task in range(10) for k in range(100)
    ]
    assert len(set(seeds)) == 10_000
    for bit in range(63):
        assert abs(sum(seed >> bit & 1 for seed in seeds) - 5000) < 250  # 5 standard deviations


def test_a_permutation_has_every_number_once_and_every_order_alike() -> None:
    assert sorted(permutation(100, "x")) == list(range(100))
    firsts = [permutation(4, "x", k)[0] for k in range(4000)]
    assert all(abs(firsts.count(place) - 1000) < 140 for place in range(4))


def test_drawing_leaves_the_global_generator_alone() -> None:
    random.seed(3)
    expected = random.random()
    random.seed(3)
    rng_for("a").random()
    permutation(10, "b")
    assert random.random() == expected
