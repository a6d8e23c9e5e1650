"""Who is asked what next: items are lent for a time, so that each goes to so many people and no more.

In memory and for one thread; made anew from the events at each start. That forgets leases: an answer then counts as one
whose lease has lapsed. Times are of a clock that never jumps, and what is given depends on no clock but for leases that
lapse. Every choice takes the same short time however many items there are: items are kept in buckets by how many people
have them, and one is drawn by a seed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from rlvr import seeds
from rlvr.feedback.records import Judgement

Key = tuple[str, int]
"""(item, showing)"""
Said = tuple[Judgement, str]
"""(judgement, comment)"""
_GAP = 10
"""Answers of a person between the first time that they see an item and its repeat."""
_RIPE = 200
"""Items that a repeat is drawn from."""
_DRAWS = 48
"""Items that are drawn in vain before the rest of a bucket is looked through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How items are handed out. Plan(per_item=3, repeat=0.05, gold=0.1, lease_seconds=900)"""

    per_item: int = 1
    """People who answer each item; skips do not count. Items with a gold go to everybody."""
    repeat: float = 0.05
    """Share of items that a person is asked a second time."""
    gold: float = 0.1
    """Share of items with a gold among what a person is asked, as long as there are both kinds."""
    lease_seconds: float = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Of one person. Progress(done=3, total=12, can_undo=True)"""

    done: int
    total: int
    """With what is left for this person as things stand: what others take is no longer among it."""
    can_undo: bool


@dataclass(slots=True)
class _Entry:
    id: str
    is_gold: bool
    can_repeat: bool
    answered: dict[str, bool] = field(default_factory=dict)
    """Who has answered its first showing; False where it was skipped."""
    lent: set[str] = field(default_factory=set)
    """Who has it on the page, or is having an answer written."""
    level: int = -1
    """The bucket that it is in; -1: none."""
    place: int = 0
    """Within its bucket."""


@dataclass(slots=True)
class _Person:
    name: str
    num_done: int = 0
    current: Key | None = None
    undone: list[Key] = field(default_factory=list)
    """To be asked again, the last one first."""
    previous: dict[Key, Said] = field(default_factory=dict)
    """What was said before it was undone."""
    stack: dict[Key, None] = field(default_factory=dict)
    """What can be undone, the last one at the end."""
    fresh: dict[str, None] = field(default_factory=dict)
    """Items that were answered and can be repeated, in their order."""
    repeated: set[str] = field(default_factory=set)
    seen_at: list[int] = field(default_factory=list)
    """By bucket, items in it that this person has answered or skipped."""
    golds: list[str] = field(default_factory=list)
    """In this person's order."""
    golds_left: int = 0


class Board:
    """All items, who has them and who had them."""

    def __init__(self, secret: str, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        assert plan.per_item >= 1 and 0 <= plan.repeat < 1 and 0 <= plan.gold < 1
        self.plan = plan
        self._secret, self._clock = secret, clock
        self._entries: dict[str, _Entry] = {}
        self._golds: list[str] = []
        self._buckets: list[list[_Entry]] = [[] for _ in range(plan.per_item)]
        """By how many people have answered or hold an item; those that are full are in none."""
        self._people: dict[str, _Person] = {}
        self._leases: OrderedDict[tuple[str, Key], float] = OrderedDict()
        """(person, key) -> when it lapses, the next one to lapse first."""
        self._writing: dict[tuple[str, Key], int] = {}
        """Answers that are being written: these do not lapse."""

    # --- what is known ------------------------------------------------------------------------------------------------

    def add_item(self, id: str, *, is_gold: bool, can_repeat: bool) -> None:
        """can_repeat: asked a second time, it shows whether a person's answer stays."""
        assert id not in self._entries
        entry = self._entries[id] = _Entry(id, is_gold, can_repeat)
        if is_gold:
            self._golds.append(id)
            for person in self._people.values():
                person.golds.append(id)
                person.golds_left += 1
        else:
            self._settle(entry)

    @property
    def num_items(self) -> int:
        """That people are asked."""
        return len(self._entries)

    def has(self, id: str) -> bool:
        """Whether people are asked it."""
        return id in self._entries

    def answered(self, name: str, key: Key, *, is_skip: bool, can_undo: bool) -> None:
        """An answer stands, in place of an earlier one if there was one."""
        person, entry = self._person(name), self._entries[key[0]]
        person.previous.pop(key, None)
        if key in person.undone:
            person.undone.remove(key)
        if key == person.current:
            person.current = None
        is_new = not self._is_done(person, key)
        person.stack.pop(key, None)
        person.num_done += is_new
        if can_undo:
            person.stack[key] = None
        if key[1]:
            person.repeated.add(key[0])
            return
        if is_new:
            if entry.is_gold:
                person.golds_left -= 1
            elif entry.level >= 0:
                person.seen_at[entry.level] += 1
        entry.answered[name] = not is_skip
        self._settle(entry)
        person.fresh.pop(entry.id, None)
        if entry.can_repeat and not entry.is_gold and not is_skip:
            person.fresh[entry.id] = None

    def undone(self, name: str, key: Key, previous: Said) -> None:
        """An answer was taken back: the item is asked again, before anything else."""
        person, entry = self._person(name), self._entries[key[0]]
        person.stack.pop(key, None)
        person.num_done -= 1
        person.undone.append(key)
        person.previous[key] = previous
        if key[1]:
            person.repeated.discard(key[0])
            return
        del entry.answered[name]
        if entry.is_gold:
            person.golds_left += 1
        elif entry.level >= 0:
            person.seen_at[entry.level] -= 1
        person.fresh.pop(entry.id, None)
        self._settle(entry)
        self._lend(person, key)

    # --- what is asked ------------------------------------------------------------------------------------------------

    def next(self, name: str) -> Key | None:
        """What this person is asked: the same as before until it is answered. None: nothing is left for them."""
        self._lapse()
        person = self._person(name)
        while person.undone:
            key = person.undone[-1]
            if self._lend(person, key):
                return key
            person.undone.pop()  # filled by others in the meantime
        key = person.current
        if key is not None and not self._is_done(person, key) and self._lend(person, key):
            return key
        person.current = next((key for key in self._choices(person) if self._lend(person, key)), None)
        return person.current

    def progress(self, name: str) -> Progress:
        """How far this person is."""
        person = self._person(name)
        left = person.golds_left + sum(
            len(bucket) - seen for bucket, seen in zip(self._buckets, person.seen_at, strict=True)
        )
        held = {*person.undone, *([person.current] if person.current is not None else [])}
        for id in (id for id, showing in held if not showing):
            entry = self._entries[id]  # lent to this very person, it may be in no bucket
            left += not entry.is_gold and entry.level < 0 and name in entry.lent
        repeats = int(left * self.plan.repeat) + sum(showing for _, showing in held)
        return Progress(done=person.num_done, total=person.num_done + left + repeats, can_undo=bool(person.stack))

    def previous(self, name: str, key: Key) -> Said | None:
        """What this person said before it was undone."""
        return self._person(name).previous.get(key)

    def last(self, name: str) -> Key | None:
        """What this person would take back."""
        return next(reversed(self._person(name).stack), None)

    def num_done(self, name: str) -> int:
        """Answers of this person that stand."""
        return self._person(name).num_done

    # --- what is written ----------------------------------------------------------------------------------------------

    def hold(self, name: str, key: Key) -> bool:
        """Keep a place for an answer while it is written; False: others have filled the item. release() it afterwards.

        A lease that has lapsed does not matter as long as there is room.
        """
        self._lapse()
        if not self._lend(self._person(name), key):
            return False
        self._writing[name, key] = self._writing.get((name, key), 0) + 1
        return True

    def release(self, name: str, key: Key) -> None:
        """The answer stands, or could not be written, in which case the item stays lent."""
        left = self._writing.pop((name, key)) - 1
        if left:
            self._writing[name, key] = left
        elif self._is_done(self._person(name), key):
            self._give_back(name, key)

    # --- within -------------------------------------------------------------------------------------------------------

    def _person(self, name: str) -> _Person:
        person = self._people.get(name)
        if person is None:
            order = seeds.permutation(len(self._golds), self._secret, name, "golds")
            person = self._people[name] = _Person(
                name, seen_at=[0] * self.plan.per_item, golds=[self._golds[k] for k in order], golds_left=len(order)
            )
        return person

    def _is_done(self, person: _Person, key: Key) -> bool:
        return key[0] in person.repeated if key[1] else person.name in self._entries[key[0]].answered

    def _choices(self, person: _Person) -> Iterator[Key]:
        """What could come next, first what is best."""
        n = person.num_done
        if self._is_due(person.name, "repeat", self.plan.repeat, n) and (again := self._repeat(person)):
            yield again, 1
        gold = (
            next((id for id in person.golds if not self._is_done(person, (id, 0))), None) if person.golds_left else None
        )
        if gold is not None and self._is_due(person.name, "gold", self.plan.gold, n):
            yield gold, 0
        if (id := self._ordinary(person)) is not None:
            yield id, 0
        if gold is not None:
            yield gold, 0

    def _is_due(self, name: str, purpose: str, share: float, n: int) -> bool:
        """Once in each 1 / share answers, at a place that cannot be guessed."""
        if not share:
            return False
        size = max(1, round(1 / share))
        return n % size == seeds.seed_for(self._secret, name, purpose, n // size) % size

    def _repeat(self, person: _Person) -> str | None:
        ripe = [id for id in islice(reversed(person.fresh), _GAP, _GAP + _RIPE) if id not in person.repeated]
        if not ripe:
            return None
        return ripe[seeds.seed_for(self._secret, person.name, "which repeat", person.num_done) % len(ripe)]

    def _ordinary(self, person: _Person) -> str | None:
        """One of those that the fewest people have."""
        rng = seeds.rng_for(self._secret, person.name, "item", person.num_done)
        for level, bucket in enumerate(self._buckets):
            if len(bucket) <= person.seen_at[level]:
                continue
            for _ in range(_DRAWS):
                entry = bucket[rng.randrange(len(bucket))]
                if person.name not in entry.answered and person.name not in entry.lent:
                    return entry.id
            rest = [e.id for e in bucket if person.name not in e.answered and person.name not in e.lent]
            if rest:
                return rest[rng.randrange(len(rest))]
        return None

    def _lend(self, person: _Person, key: Key) -> bool:
        """Lend it, or go on lending it; False: there is no room."""
        id, showing = key
        entry = self._entries[id]
        if not showing and not entry.is_gold and person.name not in entry.lent:
            has_place = entry.answered.get(person.name, False)  # who answers again has one
            if not has_place and self._taken(entry) >= self.plan.per_item:
                return False
            entry.lent.add(person.name)
            self._settle(entry)
        self._leases[person.name, key] = self._clock() + self.plan.lease_seconds
        self._leases.move_to_end((person.name, key))
        return True

    def _lapse(self) -> None:
        now = self._clock()
        while self._leases:
            (name, key), until = next(iter(self._leases.items()))
            if until > now:
                break
            if (name, key) in self._writing:
                self._leases[name, key] = now + self.plan.lease_seconds
                self._leases.move_to_end((name, key))
            else:
                self._give_back(name, key)

    def _give_back(self, name: str, key: Key) -> None:
        self._leases.pop((name, key), None)
        entry = self._entries[key[0]]
        if not key[1] and name in entry.lent:
            entry.lent.discard(name)
            self._settle(entry)

    def _taken(self, entry: _Entry) -> int:
        """People who have answered it, skips left out, or who have it on the page."""
        return len(entry.lent.union(name for name, is_given in entry.answered.items() if is_given))

    def _settle(self, entry: _Entry) -> None:
        """Put it into the bucket where it belongs."""
        if entry.is_gold:
            return
        level = self._taken(entry)
        level = level if level < self.plan.per_item else -1
        if level == entry.level:
            return
        if entry.level >= 0:
            bucket = self._buckets[entry.level]
            last = bucket.pop()
            if last is not entry:
                bucket[entry.place] = last
                last.place = entry.place
            self._count(entry, entry.level, -1)
        entry.level = level
        if level >= 0:
            entry.place = len(self._buckets[level])
            self._buckets[level].append(entry)
            self._count(entry, level, 1)

    def _count(self, entry: _Entry, level: int, change: int) -> None:
        for name in entry.answered:
            self._person(name).seen_at[level] += change


def shown_order(secret: str, name: str, key: Key, num: int) -> tuple[int, ...]:
    """Indices of completions as they stand on the page for this person: seeded, so that no answer tells of the file.

    A second showing has another order than the first where there are two or more.
    """
    first = seeds.permutation(num, secret, name, "shown", key[0])
    if not key[1] or num < 2:
        return tuple(first)
    second: Sequence[int] = first
    attempt = 0
    while list(second) == first:
        second = seeds.permutation(num, secret, name, "shown again", key[0], key[1], attempt)
        attempt += 1
    return tuple(second)
