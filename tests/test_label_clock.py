"""Clocks that jump, forwards and backwards, while people label: nothing is lost or doubled, and the order stays."""

from __future__ import annotations

import datetime
import itertools
import random
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlvr.feedback import store as store_module
from rlvr.feedback.app import fill_board
from rlvr.feedback.leases import Board, Key, Plan
from rlvr.feedback.records import Answer, Item, Judgement
from rlvr.feedback.schema import Draft, answer_body
from rlvr.feedback.store import Store

JUMPS = (0.0, -3600.0, 1e6, -1e7, 0.5, -0.25, 1000.0)
"""Seconds from one look at the clock to the next."""
FIRST = Judgement(ranking=((0,), (1,)))


class Clock:
    """Seconds, or a datetime.datetime whose now() is by them."""

    def __init__(self) -> None:
        self.at, self._jumps = 1e9, itertools.cycle(JUMPS)

    def __call__(self) -> float:
        self.at += next(self._jumps)
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    jumping = Clock()

    class Now(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.fromtimestamp(jumping(), tz)

    monkeypatch.setattr(store_module.datetime, "datetime", Now)
    return jumping


def write(store: Store, board: Board, who: str, key: Key) -> bool:
    """As the server does; whether there was room."""
    if not board.hold(who, key):
        return False
    answer = Answer(item=key[0], annotator=who, judgement=FIRST, shown=(0, 1))
    store.append(
        [
            Draft(
                uuid=str(uuid.uuid4()), kind="answer", annotator=who, item=key[0], showing=key[1],
                body=answer_body(answer), shown=(0, 1),
            )
        ]
    )  # fmt: skip
    board.answered(who, key, is_skip=False, can_undo=True)
    board.release(who, key)
    return True


@pytest.mark.parametrize("seed", range(5))
def test_each_item_goes_to_so_many_whatever_the_clock_says(tmp_path: Path, clock: Clock, seed: int) -> None:
    rng, people = random.Random(seed), ["ann", "bob", "eve", "joe"]
    written: list[tuple[str, Key]] = []
    with Store.open(tmp_path / "l.db", create=True) as store:
        store.add_items([Item(id=f"q{k}", prompt="p", completions=("a", "b")) for k in range(40)])
        plan = Plan(per_item=2, repeat=0.1, gold=0, lease_seconds=900)
        board = Board("secret", plan, clock)
        fill_board(board, store)
        for turn in itertools.count():
            assert turn < 3000, "somebody is never given what is left"
            asked = {who: board.next(who) for who in people}  # all hold one at a time
            if not any(asked.values()):
                break
            for who in rng.sample(people, len(people)):
                if (key := asked[who]) is not None and rng.random() < 0.7 and write(store, board, who, key):
                    written.append((who, key))
        events = [event for event in store.events() if event.kind == "answer"]
        # in the order in which they were written, which the clock does not tell
        assert [(event.annotator, (event.item, event.showing)) for event in events] == written
        assert [event.sequence for event in events] == list(range(41, 41 + len(events)))
        assert [event.at for event in events] != sorted(event.at for event in events), "the clock did not jump"
        assert max(Counter(written).values()) == 1
        assert Counter(key[0] for _, key in written if not key[1]) == {f"q{k}": 2 for k in range(40)}
        assert len(list(store.answers())) == len(written)
        assert store.check_chain() == []
        again = Board("secret", plan, clock)
        fill_board(again, store)
        assert [again.num_done(who) for who in people] == [board.num_done(who) for who in people]


def test_a_submit_after_a_jump_counts_as_long_as_there_is_room() -> None:
    at = [0.0]
    board = Board("secret", Plan(per_item=1, repeat=0, gold=0, lease_seconds=10), lambda: at[0])
    board.add_item("q", is_gold=False, can_repeat=True)
    assert board.next("ann") == ("q", 0) and board.next("bob") is None
    at[0] = -1e9  # ann keeps it
    assert board.next("bob") is None and board.next("ann") == ("q", 0)
    at[0] = 1e9  # it has lapsed: whoever asks first has it
    assert board.next("bob") == ("q", 0)
    assert not board.hold("ann", ("q", 0)), "two would answer an item for one"
    assert board.hold("bob", ("q", 0))
