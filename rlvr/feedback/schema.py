"""How items and answers stand in the database: its tables, the JSON in them, the chain of hashes over the events.

The events are the truth and are only ever added to; what stands is a view of them. Standard library only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rlvr.feedback.records import Answer, Item, Judgement, Span
from rlvr.types import Message, Prompt, is_nested_deeper, plain_prompt

APPLICATION = 0x726C7672
"""SQLite's application_id of our files: "rlvr"."""
VERSION = 1
"""SQLite's user_version: of the tables."""
FIRST_HASH = "0" * 64
"""What the first event continues."""
TRIGGERS = ("events_are_kept_update", "events_are_kept_delete", "items_are_kept_update", "items_are_kept_delete")

TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE items (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body TEXT NOT NULL, is_asked INTEGER NOT NULL
);
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, annotator TEXT NOT NULL,
    item TEXT REFERENCES items (id), showing INTEGER NOT NULL, body TEXT NOT NULL, shown TEXT NOT NULL,
    seconds REAL NOT NULL, at TEXT NOT NULL, app TEXT NOT NULL, guideline TEXT NOT NULL,
    before TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE INDEX events_of_item ON events (item, annotator, showing, sequence);
CREATE VIEW standing AS SELECT * FROM events AS e WHERE kind = 'answer' AND NOT EXISTS (
    SELECT 1 FROM events AS later WHERE later.item = e.item AND later.annotator = e.annotator
    AND later.showing = e.showing AND later.sequence > e.sequence AND later.kind IN ('answer', 'undo')
);
CREATE TRIGGER events_are_kept_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are only added'); END;
CREATE TRIGGER events_are_kept_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are only added'); END;
CREATE TRIGGER items_are_kept_update BEFORE UPDATE ON items BEGIN SELECT RAISE(ABORT, 'items are only added'); END;
CREATE TRIGGER items_are_kept_delete BEFORE DELETE ON items BEGIN SELECT RAISE(ABORT, 'items are only added'); END;
"""

MIGRATIONS: Mapping[int, str] = {}
"""{version: the statements that make the next one of it}"""

_ROW = json.JSONEncoder(allow_nan=False)
_TEXT = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)

Kind = Literal["item", "answer", "undo", "late", "group", "guideline"]
_MOST_LEVELS = 150
"""Of lists and objects within each other: what as_plain() of rlvr/rows.py lets in has 100, in some of ours."""
BROKEN = (ValueError, TypeError, KeyError, AttributeError)
"""What reading raises where somebody changed the text by other means."""
_TYPES: Mapping[str, Any] = {"sequence": int, "item": (str, type(None)), "showing": int, "seconds": (int, float)}
"""Of the columns that are no texts."""
_TEXTS = ("group", "comment", "source", "text")
"""Of the body, where they are there."""
COLUMNS = "sequence uuid kind annotator item showing body shown seconds at app guideline before hash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An event that is to be written. Draft(uuid="...", kind="undo", annotator="alice", item="q1")"""

    uuid: str
    """Of two events with the same only the first is written."""
    kind: Kind
    annotator: str = ""
    item: str | None = None
    showing: int = 0
    body: Mapping[str, Any] = field(default_factory=dict)
    """answer, late: judgement, group, comment, source; item: sha256 of its JSON; group: group; guideline: text."""
    shown: tuple[int, ...] = ()
    seconds: float = 0.0
    guideline: str = ""
    """First 16 hexadecimal digits of the sha256 of the guideline that held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Draft):
    """What happened, as it was written. Event(sequence=12, uuid="...", kind="answer", before="9f", hash="03", ...)"""

    sequence: int
    """1, 2, 3, ... without a gap: the order of the events, whatever the clock says."""
    at: str
    """UTC, by the clock of the machine."""
    app: str
    """Version of rlvr."""
    before: str
    """Hash of the event before."""
    hash: str
    """sha256 over all fields but itself, the hash before among them, as JSON."""


def event_hash(row: tuple[Any, ...]) -> str:
    """Of a row of events without its last column: the texts of JSON in it count as they are written."""
    return hashlib.sha256(_ROW.encode(row).encode("ascii")).hexdigest()


def event_of(row: tuple[Any, ...]) -> Event:
    """A row of events in the order of COLUMNS. One of BROKEN: it is not as we write them."""
    fields = dict(zip(COLUMNS.split(), row, strict=True))
    for name, value in fields.items():
        if not isinstance(value, _TYPES.get(name, str)):
            raise ValueError(f"{name} is {type(value).__name__}")
    body, shown = from_text(fields["body"], "body"), from_text(fields["shown"], "shown")
    if not isinstance(body, dict) or any(not isinstance(body.get(name, ""), str) for name in _TEXTS):
        raise ValueError("body is JSON of another shape than ours")
    if not isinstance(shown, list) or any(type(index) is not int for index in shown):
        raise ValueError("shown is no list of indices")
    return Event(**{**fields, "body": body, "shown": tuple(shown)})


def answer_of(event: Event) -> Answer:
    """What an event of kind answer or late says. One of BROKEN: nothing that we write."""
    body = event.body
    if event.item is None:
        raise ValueError("an answer to no item")
    return Answer(
        item=event.item,
        annotator=event.annotator,
        showing=event.showing,
        judgement=judgement_of(body["judgement"]),
        shown=event.shown,
        seconds=event.seconds,
        at=event.at,
        group=body.get("group", ""),
        comment=body.get("comment", ""),
        source=body.get("source", "page"),
    )


def answer_body(answer: Answer) -> dict[str, Any]:
    """The body of its event."""
    body = {"judgement": judgement_json(answer.judgement), "source": answer.source}
    extra = {"group": answer.group, "comment": answer.comment}
    return body | {name: text for name, text in extra.items() if text}


def to_text(value: Any) -> str:
    """JSON in one form for equal values, in ASCII. ValueError: a number that is not finite."""
    return _TEXT.encode(value)


def from_text(text: Any, what: str) -> Any:
    """What to_text() wrote. ValueError: no text, no JSON, or nested deeper than anything of ours."""
    if not isinstance(text, str):
        raise ValueError(f"{what} is no text")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"{what} is JSON that is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{what} is no JSON ({error})") from None
    if is_nested_deeper(value, _MOST_LEVELS):
        raise ValueError(f"{what} is JSON that is nested too deep")
    return value


def item_json(item: Item) -> dict[str, Any]:
    """Plain data; fields that are empty are left out."""
    plain = {
        "id": item.id,
        "prompt": plain_prompt(item.prompt),
        "completions": list(item.completions),
        "mode": item.mode,
        "attributes": list(item.attributes),
        "gold": judgement_json(item.gold) if item.gold is not None else None,
        "source": item.source,
        "info": dict(item.info),
    }
    return {name: value for name, value in plain.items() if value or name in ("id", "prompt", "gold")}


def item_of(plain: Mapping[str, Any]) -> Item:
    """From what item_json() makes. One of BROKEN: it is none of that."""
    prompt: Prompt = plain["prompt"]
    if not isinstance(prompt, str):
        prompt = tuple(Message(role=turn["role"], content=turn["content"]) for turn in prompt)
    return Item(
        id=plain["id"],
        prompt=prompt,
        completions=tuple(plain.get("completions", ())),
        mode=plain["mode"],
        attributes=tuple(plain.get("attributes", ())),
        gold=judgement_of(plain["gold"]) if plain.get("gold") is not None else None,
        source=plain.get("source", ""),
        info=plain.get("info", {}),
    )


def judgement_json(judgement: Judgement) -> dict[str, Any]:
    """Plain data; fields that are empty are left out."""
    plain: dict[str, Any] = {}
    if judgement.ranking is not None:
        plain["ranking"] = [sorted(place) for place in judgement.ranking]  # a tie has no order of its own
    if judgement.ratings:
        plain["ratings"] = {index: dict(given) for index, given in judgement.ratings.items()}
    if judgement.thumbs:
        plain["thumbs"] = dict(judgement.thumbs)
    if judgement.spans is not None:
        plain["spans"] = [dataclasses.asdict(span) for span in judgement.spans]
    for name in ("text", "skipped"):
        if getattr(judgement, name) is not None:
            plain[name] = getattr(judgement, name)
    return plain


def judgement_of(plain: Mapping[str, Any]) -> Judgement:
    """From what judgement_json() makes."""
    ranking, spans = plain.get("ranking"), plain.get("spans")
    return Judgement(
        ranking=tuple(tuple(place) for place in ranking) if ranking is not None else None,
        ratings=plain.get("ratings", {}),
        thumbs=plain.get("thumbs", {}),
        text=plain.get("text"),
        spans=tuple(Span(**span) for span in spans) if spans is not None else None,
        skipped=plain.get("skipped"),
    )


def run_script(connection: sqlite3.Connection, script: str) -> None:
    """Within the transaction that is open: sqlite3's own executescript() commits it first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    assert not statement.strip(), statement
