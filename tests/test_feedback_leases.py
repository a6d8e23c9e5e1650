"""Who is asked what next: nobody twice by accident, no item by more people than wanted, golds and repeats mixed in."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from rlvr.feedback.leases import Board, Key, Plan, shown_order
from rlvr.feedback.records import Judgement

SAID = (Judgement(ranking=((0,), (1,))), "")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def board(num: int, *, golds: int = 0, clock: Clock | None = None, secret: str = "s", **plan: float) -> Board:
    made = Board(secret, Plan(**{"repeat": 0, "gold": 0.1, **plan}), clock or Clock())  # type: ignore[arg-type]
    for k in range(num):
        made.add_item(f"i{k}", is_gold=False, can_repeat=True)
    for k in range(golds):
        made.add_item(f"g{k}", is_gold=True, can_repeat=True)
    return made


def answer(made: Board, name: str, key: Key, *, skip: bool = False) -> bool:
    if not made.hold(name, key):
        return False
    made.answered(name, key, is_skip=skip, can_undo=True)
    made.release(name, key)
    return True


def take(made: Board, name: str, *, skip: bool = False) -> Key | None:
    """The next one, answered."""
    key = made.next(name)
    if key is not None:
        assert answer(made, name, key, skip=skip)
    return key


def take_all(made: Board, name: str) -> list[Key]:
    return list(iter(lambda: take(made, name), None))


def test_one_person_is_asked_everything_once_and_the_same_until_it_is_answered() -> None:
    made = board(50)
    first = made.next("ann")
    assert made.next("ann") == first
    keys = take_all(made, "ann")
    assert sorted(keys) == sorted((f"i{k}", 0) for k in range(50))
    assert made.next("ann") is None


def test_the_order_is_a_seed_of_database_and_person() -> None:
    orders = {
        (secret, name): tuple(take_all(board(30, secret=secret), name)) for secret in "st" for name in ("ann", "bob")
    }
    assert len(set(orders.values())) == 4
    assert tuple(take_all(board(30, secret="s"), "ann")) == orders["s", "ann"]


@pytest.mark.parametrize("per_item", [1, 2, 3])
def test_each_item_goes_to_so_many_people_and_no_more(per_item: int) -> None:
    made, names = board(40, per_item=per_item), [f"p{k}" for k in range(5)]
    answers: Counter[str] = Counter()
    seen: dict[str, set[str]] = {name: set() for name in names}
    busy = True
    while busy:
        busy = False
        held = {name: made.next(name) for name in names}  # all of them have one on the page at once
        for name, key in held.items():
            if key is not None:
                busy = True
                assert key[0] not in seen[name]
                seen[name].add(key[0])
                answers[key[0]] += 1
                assert answer(made, name, key)
    assert set(answers.values()) == {per_item} and len(answers) == 40


def test_items_that_the_fewest_people_have_come_first() -> None:
    made = board(20, per_item=3)
    assert len({take(made, "ann") for _ in range(10)}) == 10
    bob = [take(made, "bob") for _ in range(10)]
    assert {key for key in bob if key} == {(f"i{k}", 0) for k in range(20)} - set(
        take_all(board(20, per_item=3), "ann")[:10]
    )


def test_a_skip_takes_no_place() -> None:
    made = board(1)
    assert take(made, "ann", skip=True) == ("i0", 0)
    assert made.next("ann") is None
    assert take(made, "bob") == ("i0", 0)
    assert made.next("cid") is None


def test_an_item_that_is_not_answered_in_time_goes_to_somebody_else() -> None:
    clock = Clock()
    made = board(1, clock=clock, lease_seconds=900)
    assert made.next("ann") == ("i0", 0)
    clock.now += 899
    assert made.next("bob") is None
    clock.now += 2
    assert made.next("bob") == ("i0", 0)
    assert not made.hold("ann", ("i0", 0)), "bob has the only place"
    assert answer(made, "bob", ("i0", 0))
    assert made.next("ann") is None


def test_a_late_answer_counts_where_nobody_else_has_the_item() -> None:
    clock = Clock()
    made = board(1, clock=clock)
    made.next("ann")
    clock.now += 1e9
    assert answer(made, "ann", ("i0", 0))
    assert made.next("bob") is None


def test_asking_again_keeps_an_item_lent() -> None:
    clock = Clock()
    made = board(1, clock=clock)
    for _ in range(5):
        assert made.next("ann") == ("i0", 0)
        clock.now += 800
        assert made.next("bob") is None


def test_an_answer_that_is_being_written_does_not_lapse() -> None:
    clock = Clock()
    made = board(1, clock=clock)
    key = made.next("ann")
    assert key and made.hold("ann", key)
    clock.now += 1e6
    assert made.next("bob") is None
    made.release("ann", key)  # it could not be written
    assert made.next("bob") is None
    clock.now += 1e6
    assert made.next("bob") == key


def test_an_undone_answer_is_asked_again_first_and_its_place_is_kept() -> None:
    made = board(3)
    one, two = take(made, "ann"), take(made, "ann")
    waiting = made.next("ann")
    for key in (two, one):
        assert key is not None and made.last("ann") == key
        made.undone("ann", key, SAID)
    assert made.last("ann") is None and not made.progress("ann").can_undo
    assert made.next("ann") == one and made.previous("ann", ("i0", 0) if one is None else one) == SAID
    assert made.next("bob") not in (one, two)
    assert [take(made, "ann") for _ in range(3)] == [one, two, waiting]


def test_golds_go_to_everybody_at_a_steady_share() -> None:
    made = board(900, golds=40, per_item=1, gold=0.1)
    for name in ("ann", "bob"):
        keys = [take(made, name) for _ in range(300)]
        marks = [key is not None and key[0].startswith("g") for key in keys]
        assert [sum(marks[k : k + 10]) for k in range(0, 300, 10)] == [1] * 30
        assert len({k % 10 for k, is_gold in enumerate(marks) if is_gold}) > 3, "their places can be guessed"
    rest = [key[0] for key in take_all(made, "ann")]
    assert sum(id.startswith("g") for id in rest) == 10, "all golds are asked in the end"


def test_a_share_of_items_is_asked_again_later_and_once() -> None:
    made = board(400, repeat=0.05)
    keys = take_all(made, "ann")
    firsts = {id: k for k, (id, showing) in enumerate(keys) if not showing}
    again = {id: k for k, (id, showing) in enumerate(keys) if showing}
    assert len(firsts) == 400 and sum(showing for _, showing in keys) == len(again)
    assert 18 <= len(again) <= 22
    assert all(k - firsts[id] > 10 for id, k in again.items())


def test_progress_ends_where_nothing_is_left() -> None:
    made = board(60, golds=3, repeat=0.05, per_item=2)
    before = -1
    while made.next("ann") is not None:
        progress = made.progress("ann")
        assert before < progress.done < progress.total
        assert abs(progress.total - 66) <= 2
        before = progress.done
        take(made, "ann")
    progress = made.progress("ann")
    assert progress.done == progress.total and progress.can_undo


def test_what_others_take_is_no_longer_left() -> None:
    made = board(10)
    assert made.progress("ann").total == 10
    for _ in range(4):
        take(made, "bob")
    assert (made.progress("ann").total, made.progress("bob").total, made.progress("bob").done) == (6, 10, 4)
    made.next("ann")
    assert (made.progress("ann").total, made.progress("bob").total) == (6, 9)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_the_counts_are_those_of_a_plain_list(seed: int) -> None:
    rng, clock = random.Random(seed), Clock()
    per_item, names = rng.choice([1, 2, 3]), ["a", "b", "c", "d"]
    made = board(12, golds=2, clock=clock, per_item=per_item, repeat=0.2, gold=0.2)
    stands: dict[tuple[str, Key], bool] = {}  # is it a skip
    for _ in range(1500):
        name, dice = rng.choice(names), rng.random()
        if dice < 0.1:
            clock.now += rng.choice([1, 500, 2000])
        elif dice < 0.3 and (last := made.last(name)) is not None:
            made.undone(name, last, SAID)
            del stands[name, last]
        elif dice < 0.4 and stands and (mine := [key for who, key in stands if who == name]):
            key, skip = rng.choice(mine), rng.random() < 0.3
            if answer(made, name, key, skip=skip):  # once more, from another tab
                stands[name, key] = skip
        elif (key := made.next(name)) is not None and dice < 0.9:
            assert (name, key) not in stands
            skip = rng.random() < 0.2
            assert answer(made, name, key, skip=skip)
            stands[name, key] = skip
        filled = Counter(key[0] for (_, key), skip in stands.items() if not skip and not key[1] and key[0][0] == "i")
        assert max(filled.values(), default=0) <= per_item
        for who in names:
            assert made.num_done(who) == sum(n == who for n, _ in stands)
        in_buckets = {entry.id for bucket in made._buckets for entry in bucket}
        lent = Counter(
            key[0] for who, key in made._leases if not key[1] and key[0][0] == "i" and stands.get((who, key), True)
        )
        assert in_buckets == {f"i{k}" for k in range(12) if filled[f"i{k}"] + lent[f"i{k}"] < per_item}
        for who in names:
            seen = [sum((who, (entry.id, 0)) in stands for entry in bucket) for bucket in made._buckets]
            assert made._person(who).seen_at == seen


def test_the_shown_order_is_seeded_and_another_one_the_second_time() -> None:
    orders = {name: [shown_order("s", name, (f"i{k}", 0), 2) for k in range(200)] for name in ("ann", "bob")}
    for name, shown in orders.items():
        assert 70 < sum(order == (0, 1) for order in shown) < 130
        assert [shown_order("s", name, (f"i{k}", 1), 2) for k in range(200)] == [order[::-1] for order in shown]
    assert orders["ann"] != orders["bob"]
    assert shown_order("s", "ann", ("i", 0), 9) != shown_order("s", "ann", ("i", 1), 9)
    assert sorted(shown_order("s", "ann", ("i", 0), 9)) == list(range(9))
    assert (shown_order("s", "ann", ("i", 1), 1), shown_order("s", "ann", ("i", 1), 0)) == ((0,), ())
