"""The database of items and answers: one SQLite file, written by one process at a time, read by any number.

What is written is an event, which continues the one before by its hash; nothing is ever changed or taken out. One
writer holds FILE.lock as long as it lives; readers (readonly=True) see what is committed and never wait.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import json
import os
import re
import secrets
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import rlvr
from rlvr.errors import DataError, DiskError
from rlvr.failpoints import failpoint
from rlvr.feedback import schema
from rlvr.feedback.checks import item_problem, judgement_problem, name_problem, text_problem
from rlvr.feedback.connection import Place, as_ours, connect, none_there, take_lock
from rlvr.feedback.records import Answer, Item
from rlvr.feedback.schema import COLUMNS, Draft, Event, to_text

_Place = tuple[str | None, str, int]
"""(item, annotator, showing): one judgement of them stands."""
_SECRET = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(r"[\w-]{43}", re.ASCII)
_SELECT = f"SELECT {', '.join(COLUMNS.split())} FROM"
_INSERT = f"INSERT INTO events ({', '.join(COLUMNS.split())}) VALUES ({', '.join('?' * len(COLUMNS.split()))})"


class Store:
    """An open database. Its methods may be called from several threads; what one writes, the next one reads."""

    def __init__(self, path: Path, *, readonly: bool, lock: int | None) -> None:
        self.path = path
        self._readonly = readonly
        self._lock = lock
        """Descriptor of FILE.lock; None for readers."""
        self._mutex = threading.RLock()
        self._connection = connect(path, readonly=readonly)
        self._where = Place(path)
        self._secret = b""

    @classmethod
    def open(cls, path: Path, *, create: bool = False, readonly: bool = False) -> Store:
        """DataError: missing, no database of ours, of another version, damaged, in use. DiskError: cannot be written.

        One of an older version is made into one of ours, with a copy of it beside it (not where readonly: DataError).
        """
        path = Path(path)
        try:
            if path.is_symlink():  # as SQLite does: its log, and our lock, lie beside the file itself
                path = Path(os.path.realpath(path))
            if path.is_dir():
                raise DataError(f"{path}: is a folder, no database of feedback")
            if not path.exists() and (readonly or not create):
                raise none_there(path)
        except OSError as error:  # a name that is too long, a folder that may not be looked into
            raise DataError(f"{path}: {error.strerror}") from None
        lock = None if readonly else take_lock(path)
        try:
            if not path.exists():
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # it holds the token of who may label
            store = cls(path, readonly=readonly, lock=lock)
            try:
                store._prepare(create)
            except BaseException:
                store._connection.close()
                raise
            return store
        except BaseException as error:
            if lock is not None:
                os.close(lock)
            if isinstance(error, sqlite3.Error):
                raise as_ours(error, path) from error
            if isinstance(error, OSError) and not isinstance(error, DiskError):
                raise DiskError(f"{path}: {error.strerror}") from None
            raise

    def close(self) -> None:
        """Let go of the file and of its lock. May be called twice."""
        with self._mutex:
            self._connection.close()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- items ------------------------------------------------------------------------------------------------------

    def add_items(self, items: Iterable[Item], *, is_asked: bool = True) -> int:
        """How many were not there yet. DataError where one is no item, or its id is there with other content.

        is_asked=False: nobody is asked them on the page; they hold what came in answered. All are added, or none.
        """
        return self.add(items, (), is_asked=is_asked)[0]

    def items(self) -> Iterator[Item]:
        """All, in the order in which they were added. DataError, as of all that reads: one is not as it was written."""
        for id, body in self.read_rows("SELECT id, body FROM items ORDER BY number"):
            yield self._item_of(id, body)

    def asked(self) -> Iterator[Item]:
        """Those that people are asked on the page."""
        for id, body in self.read_rows("SELECT id, body FROM items WHERE is_asked ORDER BY number"):
            yield self._item_of(id, body)

    def item(self, id: str) -> Item:
        """DataError: there is none of that id."""
        found = self._found("SELECT body FROM items WHERE id = ?", id)
        if not found:
            raise DataError(f"{self.path}: there is no item {id!r}")
        return self._item_of(id, found[0][0])

    # --- answers and events -------------------------------------------------------------------------------------------

    def add_answers(self, answers: Iterable[Answer]) -> int:
        """How many were new: the same judgement of the same person, item and showing is one, however often it comes.

        Another judgement of theirs takes its place. Those of source api may go back and forth: only what stands already
        is no new one, and of several in one call all are known where the last one stands (a log that is sent again).
        DataError: no such item, or no judgement of it. All or none.
        """
        return self.add((), answers)[1]

    def add(self, items: Iterable[Item], answers: Iterable[Answer], *, is_asked: bool = True) -> tuple[int, int]:
        """(items, answers) that were new, in one transaction. Errors as add_items and add_answers."""
        with self._mutex, self._transaction():
            drafts = self._add_items(items, is_asked)
            num_items = len(drafts)
            drafts += self._drafts_of(answers)
            written = self._append(drafts)
            return num_items, sum(is_new for _, is_new in written[num_items:])

    def answers(self) -> Iterator[Answer]:
        """As they stand: the last of each person, item and showing, without what was undone, in order of events."""
        items: dict[str, Item] = {}
        for row in self.read_rows(f"{_SELECT} standing ORDER BY sequence"):
            yield schema.answer_of(self._event_of(row, items))

    def events(self) -> Iterator[Event]:
        """All that ever happened, in order."""
        items: dict[str, Item] = {}
        for row in self.read_rows(f"{_SELECT} events ORDER BY sequence"):
            yield self._event_of(row, items)

    def hash_of(self, sequence: int) -> str | None:
        """Of the event of that number; None: there is none."""
        found = self._found("SELECT hash FROM events WHERE sequence = ?", sequence) if 0 < sequence < 2**63 else []
        return found[0][0] if found else None

    def append(self, drafts: Sequence[Draft]) -> list[tuple[Event, bool]]:
        """(the event, whether it is new) of each, written at once and synced; one whose uuid is there is left as is.

        DiskError: nothing was written. What the drafts say is not looked at: the server has done so.
        """
        with self._mutex, self._transaction():
            return self._append(drafts)

    def event(self, uuid: str) -> Event | None:
        """The event of that uuid; None: there is none."""
        found = self._found(f"{_SELECT} events WHERE uuid = ?", uuid)
        return self._event_of(found[0], {}) if found else None

    def standing(self, item: str, annotator: str, showing: int) -> Answer | None:
        """What that person's judgement of it is now; None: there is none."""
        where = "item = ? AND annotator = ? AND showing = ?"
        found = self._found(f"{_SELECT} standing WHERE {where}", item, annotator, showing)
        return schema.answer_of(self._event_of(found[0], {})) if found else None

    def annotators(self) -> list[str]:
        """All who ever did anything here, also what they took back."""
        return [name for (name,) in self.read_rows("SELECT DISTINCT annotator FROM events WHERE annotator <> ''")]

    def groups(self) -> dict[str, str]:
        """{annotator: group} of those who have one, the last that was said."""
        known: dict[str, str] = {}
        for name, group in self.read_rows(
            "SELECT annotator, json_extract(body, '$.group') FROM events "
            "WHERE kind IN ('answer', 'group') AND json_valid(body) AND json_type(body, '$.group') = 'text' "
            "ORDER BY sequence"
        ):
            known[name] = group
        return known

    def set_group(self, annotator: str, group: str) -> None:
        """Say which audience or team a person belongs to."""
        if self.groups().get(annotator) != group:
            self.append([Draft(uuid=str(uuid.uuid4()), kind="group", annotator=annotator, body={"group": group})])

    # --- trust --------------------------------------------------------------------------------------------------------

    def annotator_hash(self, name: str) -> str:
        """16 hexadecimal digits that only who has the database can tie to the name."""
        return self.keyed("annotator", name)[:16]

    def keyed(self, purpose: str, *parts: str) -> str:
        """64 hexadecimal digits that nobody can make who has not the secret of the database."""
        message = json.dumps([purpose, *parts]).encode("ascii")
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()

    def head(self) -> tuple[int, str]:
        """(number, hash) of the last event: whoever notes it down can later tell that all before it is as it was."""
        with self._mutex:
            return self._head()

    def check_chain(self) -> list[str]:
        """A line for each place where a record was changed, taken out or put in; [] where the database is whole."""
        from rlvr.feedback.integrity import check_chain

        return check_chain(self)

    def meta(self, name: str) -> str | None:
        """One of the values that are kept beside the events: token, head, annotators."""
        found = self._found("SELECT value FROM meta WHERE name = ?", name)
        return found[0][0] if found else None

    def set_meta(self, name: str, value: str) -> None:
        """Keep one of them. DiskError: it was not written."""
        with self._mutex, self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def read_rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Rows as they are at the first of them, whatever is written meanwhile."""
        # of its own: an unfinished query would hold the writer's connection to what it saw
        with contextlib.closing(connect(self.path, readonly=True)) as connection:
            try:
                yield from connection.execute(query)
            except sqlite3.Error as error:
                raise as_ours(error, self.path) from error

    # --- within -------------------------------------------------------------------------------------------------------

    def _found(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._mutex:
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise as_ours(error, self.path) from error

    def _item_of(self, id: str, body: Any) -> Item:
        if body is None:
            raise self._changed("items", f"id {str(id)[:80]!r}", "is not there")
        try:
            item = schema.item_of(schema.from_text(body, "body"))
            problem = item_problem(item) or ("" if item.id == id else "body is that of another item")
        except schema.BROKEN as error:
            problem, item = str(error) if isinstance(error, ValueError) else "body is JSON of another shape", None
        if problem or item is None:
            raise self._changed("items", f"id {str(id)[:80]!r}", problem)
        return item

    def _event_of(self, row: tuple[Any, ...], items: dict[str, Item]) -> Event:
        """Of a row of _SELECT. items: those that were read before, each once."""
        problem, event = "", None
        try:
            event = schema.event_of(row)
            judgement = schema.answer_of(event).judgement if event.kind in ("answer", "late") else None
        except schema.BROKEN as error:
            problem = str(error) if isinstance(error, ValueError) else "body is JSON of another shape"
            raise self._changed("events", f"sequence {row[0]}", problem) from error
        if judgement is not None and event.item is not None:
            if event.item not in items:
                found = self._found("SELECT body FROM items WHERE id = ?", event.item)
                items[event.item] = self._item_of(event.item, found[0][0] if found else None)
            try:
                problem = judgement_problem(items[event.item], judgement)
            except schema.BROKEN:
                problem = "body is no judgement"
            if problem:
                raise self._changed("events", f"sequence {row[0]}", problem)
        return event

    def _changed(self, table: str, row: str, problem: str) -> DataError:
        return DataError(
            f"{self.path}: table {table}, row {row}: {problem[:200]}: it was changed by other means "
            f"(rlvr feedback verify {self.path} tells what else was); take a copy of before"
        )

    def _prepare(self, create: bool) -> None:
        connection = self._connection
        if not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall():  # also where a start was cut off
            if not create or self._readonly:
                raise none_there(self.path)
            with self._transaction():
                schema.run_script(connection, schema.TABLES)
                connection.execute(f"PRAGMA application_id = {schema.APPLICATION}")
                connection.execute(f"PRAGMA user_version = {schema.VERSION}")
                for name, value in (("secret", secrets.token_hex(32)), ("token", secrets.token_urlsafe(32))):
                    connection.execute("INSERT INTO meta VALUES (?, ?)", (name, value))
                self._set_head(0, schema.FIRST_HASH)
        if connection.execute("PRAGMA application_id").fetchone()[0] != schema.APPLICATION:
            raise DataError(f"{self.path}: is no database of feedback (rlvr label FILE --db NEW makes one)")
        problems = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
        if problems != ["ok"]:
            raise DataError(f"{self.path}: is damaged ({' '.join(problems[0].split())[:200]}); take a copy of before")
        if not self._readonly:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk before anybody is told of it
            connection.execute("PRAGMA foreign_keys = ON")
        self._migrate()
        for name, form, what in (("secret", _SECRET, "64 hexadecimal digits"), ("token", _TOKEN, "43 characters")):
            if not form.fullmatch(str(self.meta(name) or "")):  # an empty one would let anybody in
                raise DataError(f"{self.path}: its {name} is missing or no {what}; take a copy of before")
        self._secret = bytes.fromhex(self.meta("secret") or "")
        if not self._readonly:
            self._whole_head()

    def _migrate(self) -> None:
        """Older tables become ours, one version after the other in one transaction, after a copy was made."""
        [(version,)] = self._connection.execute("PRAGMA user_version").fetchall()
        if version == schema.VERSION:
            return
        if version > schema.VERSION:
            raise DataError(
                f"{self.path}: is of version {version}, and this rlvr reads up to {schema.VERSION}; take a newer rlvr"
            )
        if any(step not in schema.MIGRATIONS for step in range(version, schema.VERSION)):
            raise DataError(f"{self.path}: is of version {version}, which this rlvr cannot read")
        if self._readonly:
            raise DataError(
                f"{self.path}: is of the older version {version}; rlvr label --db {self.path} makes it one of "
                f"version {schema.VERSION} and keeps a copy"
            )
        copy = self.path.with_name(f"{self.path.name}.version{version}")
        if not copy.exists():  # one that is there was made by an attempt that was cut off
            part = copy.with_name(f"{copy.name}.part")
            part.unlink(missing_ok=True)
            self._connection.execute("VACUUM INTO ?", (str(part),))
            os.chmod(part, 0o600)
            part.rename(copy)
        with self._transaction():
            for step in range(version, schema.VERSION):
                schema.run_script(self._connection, schema.MIGRATIONS[step])
            self._connection.execute(f"PRAGMA user_version = {schema.VERSION}")

    def _add_items(self, items: Iterable[Item], is_asked: bool) -> list[Draft]:
        """The events of those that were not there yet."""
        drafts: list[Draft] = []
        for item in items:
            if problem := item_problem(item):
                raise DataError(f"item {item.id[:80]!r}: {problem}")
            try:
                body = to_text(schema.item_json(item))
            except (ValueError, TypeError) as error:
                raise DataError(f"item {item.id[:80]!r}: info must be plain data for JSON: {error}") from None
            found = self._connection.execute("SELECT body FROM items WHERE id = ?", (item.id,)).fetchall()
            if found:
                if found[0][0] != body:
                    differ = _differing(schema.item_json(self._item_of(item.id, found[0][0])), json.loads(body))
                    raise DataError(
                        f"{self.path}: item {item.id[:80]!r} is there with another {differ}; give this one another id"
                    )
                continue
            self._connection.execute(
                "INSERT INTO items (id, body, is_asked) VALUES (?, ?, ?)", (item.id, body, int(is_asked))
            )
            told = {"sha256": hashlib.sha256(body.encode("ascii")).hexdigest(), "is_asked": is_asked}
            drafts.append(Draft(uuid=str(uuid.uuid4()), kind="item", item=item.id, body=told))
        return drafts

    def _draft_of(self, answer: Answer) -> Draft:
        where = f"answer of {answer.annotator[:40]!r} to {answer.item[:80]!r}"
        for what, text in (("annotator", answer.annotator), ("group", answer.group)):
            if (what == "annotator" or text) and (problem := name_problem(text)):
                raise DataError(f"{where}: {what} {problem}")
        problem = judgement_problem(self.item(answer.item), answer.judgement) or text_problem(answer.comment, 1 << 20)
        if problem:
            raise DataError(f"{where}: {problem}")
        body = schema.answer_body(answer)
        key = to_text([answer.item, answer.annotator, answer.showing, body["judgement"]])
        return Draft(
            uuid=f"{answer.source}:{hashlib.sha256(key.encode('ascii')).hexdigest()}",
            kind="answer",
            annotator=answer.annotator,
            item=answer.item,
            showing=answer.showing,
            body=body,
            shown=answer.shown,
            seconds=float(answer.seconds),
        )

    def _drafts_of(self, answers: Iterable[Answer]) -> list[Draft]:
        """Those of source api that are known get the uuid of what stands; the others one that what was before is in.

        Of other sources only these answers count, for a file that is read again says nothing new: whoever goes back
        within them to what was said before says something new, and whoever says it again does not.
        """
        drafts = [self._draft_of(answer) for answer in answers]
        ends = {_place(draft): to_text(draft.body["judgement"]) for draft in drafts}
        last: dict[_Place, tuple[str, str]] = {}
        known: set[_Place] = set()
        for number, draft in enumerate(drafts):
            place, said, source = _place(draft), to_text(draft.body["judgement"]), draft.body["source"]
            if place not in last:
                last[place] = self._last_said(place) if source == "api" else ("", "")
                if source == "api" and last[place][1] == ends[place]:
                    known.add(place)
            before, stands = last[place]
            if place in known or said == stands:
                drafts[number] = replace(draft, uuid=before)
                continue
            if before:
                digest = hashlib.sha256(f"{before} {draft.uuid}".encode("ascii")).hexdigest()
                drafts[number] = replace(draft, uuid=f"{source}:{digest}")
            last[place] = (drafts[number].uuid, said)
        return drafts

    def _last_said(self, place: _Place) -> tuple[str, str]:
        """(uuid of the last answer or undo, the judgement that stands as JSON); "" where there is none."""
        found = self._found(
            f"{_SELECT} events WHERE item = ? AND annotator = ? AND showing = ? "
            "AND kind IN ('answer', 'undo') ORDER BY sequence DESC LIMIT 1",
            *place,
        )
        if not found:
            return "", ""
        last = self._event_of(found[0], {})
        return last.uuid, to_text(last.body["judgement"]) if last.kind == "answer" else ""

    def _append(self, drafts: Sequence[Draft]) -> list[tuple[Event, bool]]:
        sequence, before = self._whole_head()
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        written: list[tuple[Event, bool]] = []
        for draft in drafts:
            if (there := self.event(draft.uuid)) is not None:
                written.append((there, False))
                continue
            sequence += 1
            body, shown = to_text(draft.body), to_text(draft.shown)
            head = (sequence, draft.uuid, draft.kind, draft.annotator, draft.item, draft.showing, body, shown)
            row = (*head, draft.seconds, at, rlvr.__version__, draft.guideline, before)
            before = schema.event_hash(row)
            self._connection.execute(_INSERT, (*row, before))
            written.append((schema.event_of((*row, before)), True))
        self._set_head(sequence, before)
        return written

    def _head(self) -> tuple[int, str]:
        last = self._connection.execute("SELECT sequence, hash FROM events ORDER BY sequence DESC LIMIT 1").fetchall()
        return last[0] if last else (0, schema.FIRST_HASH)

    def _whole_head(self) -> tuple[int, str]:
        """DataError where it is not what was written last: to go on from it would hide that the end was taken out."""
        sequence, hash = self._head()
        if self.meta("head") != f"{sequence} {hash}":
            raise DataError(
                f"{self.path}: event {sequence} is not the one that was written last: records were changed "
                f"(rlvr feedback verify {self.path} tells which); take a copy of before"
            )
        return sequence, hash

    def _set_head(self, sequence: int, hash: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('head', ?)", (f"{sequence} {hash}",))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it or nothing. DiskError where the disk is full or gone."""
        assert not self._readonly, "opened to be read"
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                failpoint("feedback.commit")
                self._where.check()
                connection.execute("COMMIT")
                self._where.check()
            except BaseException:
                if connection.in_transaction:  # SQLite takes some of them back by itself
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise as_ours(error, self.path) from error
        failpoint("feedback.committed")


def _place(draft: Draft) -> _Place:
    return draft.item, draft.annotator, draft.showing


def _differing(before: dict[str, Any], after: dict[str, Any]) -> str:
    return ", ".join(name for name in {**before, **after} if before.get(name) != after.get(name))
