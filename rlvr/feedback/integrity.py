"""Whether a database is as it was written: the chain of hashes over its events, and what they tell of each item."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rlvr.feedback import schema
from rlvr.feedback.schema import COLUMNS

if TYPE_CHECKING:
    from rlvr.feedback.store import Store

_DEFINITIONS = "SELECT name, sql FROM sqlite_master WHERE type IN ('trigger', 'view')"
_PLACE = {name: index for index, name in enumerate(COLUMNS.split())}


def check_chain(store: Store) -> list[str]:
    """A line for each place where something was changed, taken out or put in, by whoever has not made all hashes anew.

    Who makes them all anew is found out by a hash that was noted down before (store.head()).
    """
    told: dict[str, dict[str, Any]] = {}
    lines = [*_events(store, told), *_items(store, told), *_triggers(store)]
    return lines


def _events(store: Store, told: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Fills told: {item: body of its event}."""
    last, before = 0, schema.FIRST_HASH
    for row in store.read_rows(f"SELECT {', '.join(COLUMNS.split())} FROM events ORDER BY sequence"):
        sequence, hash = row[0], row[-1]
        if sequence != last + 1:
            yield _gap(last, sequence)
        elif row[_PLACE["before"]] != before:
            yield f"{_name(store, row)} does not continue event {last}: one of the two was changed"
        if _hash(row) != hash:
            yield f"{_name(store, row)} was changed: its hash is another"
        if row[_PLACE["kind"]] == "item":
            # a changed one has been told of above
            with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
                told[row[_PLACE["item"]]] = dict(json.loads(row[_PLACE["body"]]))
        last, before = sequence, hash
    noted = (store.meta("head") or "0").split()[0]
    if not noted.isdigit() or int(noted) != last:
        yield f"the last event is {last}, and the last that was written is {noted}: some at the end were taken out"
    elif store.meta("head") != f"{last} {before}":
        yield f"event {last} is not the one that was written last"


def _hash(row: tuple[Any, ...]) -> str:
    try:
        return schema.event_hash(row[:-1])
    except (ValueError, TypeError):  # bytes, or an infinity: nothing that we write
        return ""


def _gap(last: int, sequence: Any) -> str:
    missing = f"event {last + 1} is" if sequence == last + 2 else f"events {last + 1} to {sequence - 1} are"
    return f"{missing} missing"


def _name(store: Store, row: tuple[Any, ...]) -> str:
    kind, annotator, item, at = (row[_PLACE[name]] for name in ("kind", "annotator", "item", "at"))
    by = f" by {store.annotator_hash(str(annotator))}" if annotator else ""
    return f"event {row[0]} ({kind}{f' of item {str(item)[:80]!r}' if item else ''}{by}, {at})"


def _items(store: Store, told: dict[str, dict[str, Any]]) -> Iterator[str]:
    there: set[str] = set()
    for id, body, is_asked in store.read_rows("SELECT id, body, is_asked FROM items ORDER BY number"):
        there.add(id)
        if id not in told:
            yield f"item {id[:80]!r} was put in: no event tells of it"
        elif hashlib.sha256(str(body).encode("utf-8", "surrogatepass")).hexdigest() != told[id].get("sha256"):
            yield f"item {id[:80]!r} was changed: its hash is another"
        elif is_asked != told[id].get("is_asked", is_asked):  # which early events do not tell
            yield f"item {id[:80]!r} was changed: whether people are asked it is another"
    for id in told:
        if id not in there:
            yield f"item {str(id)[:80]!r} was taken out"


def _triggers(store: Store) -> Iterator[str]:
    # by their text: one that does nothing may bear the name, and a view may leave answers out
    there: dict[str, str] = dict(store.read_rows(_DEFINITIONS))
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        schema.run_script(connection, schema.TABLES)
        wanted: dict[str, str] = dict(connection.execute(_DEFINITIONS))
    if gone := [name for name in schema.TRIGGERS if name not in there]:
        yield f"what keeps records from being changed was taken out: {', '.join(gone)}"
    for name in sorted(there.keys() | wanted.keys() - set(schema.TRIGGERS)):
        if there.get(name) != wanted.get(name):
            how = "put in" if name not in wanted else "taken out" if name not in there else "changed"
            yield f"the trigger or view {name[:80]!r} was {how}"
