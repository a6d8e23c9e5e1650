"""The database of feedback: what is kept, in which order, and what cannot be changed without being seen."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import DataError, DiskError
from rlvr.feedback import schema
from rlvr.feedback.records import Answer, Item, Judgement, Span
from rlvr.feedback.schema import Draft
from rlvr.feedback.store import Store

FORK = multiprocessing.get_context("fork")
PAIR = Item(id="q1", prompt="What is 2+2?", completions=("4", "5"))
FIRST = Judgement(ranking=((0,), (1,)))
SECOND = Judgement(ranking=((1,), (0,)))
EVERYTHING = Item(
    id="all Ω \x00 '\"",
    prompt=(
        {"role": "system", "content": "be\u2028kind"},
        {"role": "user", "content": "<script>alert(1)</script>\x00"},
    ),
    completions=("a\x00b", "😀 \u202e", "c"),
    mode="rate",
    attributes=("helpful", "nett"),
    gold=Judgement(ratings={"0": {"helpful": 7}}),
    source="round 1",
    info={"model": "m", "deep": [1, {"x": None}], "tiny": 1e-300},
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "a b?#%41.db", create=True) as opened:
        yield opened


def answer(who: str, judgement: Judgement = FIRST, item: str = "q1", **more: Any) -> Answer:
    return Answer(item=item, annotator=who, judgement=judgement, **more)


def undo(who: str, item: str = "q1", uuid: str = "u") -> Draft:
    return Draft(uuid=uuid, kind="undo", annotator=who, item=item)


def tampered(store: Store, *statements: str) -> Path:
    """The database's file after somebody changed it by other means."""
    store.close()
    with sqlite3.connect(store.path) as connection:
        for name in schema.TRIGGERS:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        for statement in schema.TABLES.splitlines():
            if statement.startswith("CREATE TRIGGER"):
                connection.execute(statement)
    connection.close()
    return store.path


def found(path: Path) -> list[str]:
    with Store.open(path, readonly=True) as opened:
        return opened.check_chain()


def test_items_come_back_as_they_were_in_their_order(store: Store) -> None:
    assert store.add_items([EVERYTHING, PAIR]) == 2
    assert store.add_items([PAIR]) == 0
    assert list(store.items()) == [EVERYTHING, PAIR]
    assert store.item("q1") == PAIR


def test_an_id_that_is_there_with_other_content_is_refused_and_nothing_is_added(store: Store) -> None:
    store.add_items([PAIR])
    other = Item(id="q1", prompt="What is 2+2?", completions=("4", "6"))
    with pytest.raises(DataError, match=r"item 'q1' is there with another completions"):
        store.add_items([Item(id="q0", prompt="p", completions=("a", "b")), other])
    assert [item.id for item in store.items()] == ["q1"]


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (Item(id="", prompt="p", completions=("a", "b")), "id must have"),
        (Item(id="x", prompt="p", completions=("a",)), "mode compare needs 2 to 9 completions, got 1"),
        (Item(id="x", prompt="p", completions=tuple("abcdefghij"), mode="rank"), "needs 2 to 9 completions, got 10"),
        (Item(id="x", prompt="p", completions=("a", "a ")), r"completions\[0\] and completions\[1\] are the same text"),
        (Item(id="x", prompt="p", completions=("a", "b" * 200_001)), r"completions\[1\] has 200001 characters"),
        (Item(id="x", prompt="\ud83d", completions=("a", "b")), "prompt holds half a surrogate pair"),
        (Item(id="x", prompt="p", completions=("a", "b"), gold=Judgement(ranking=((0, 0),))), "gold: ranking names"),
        (Item(id="x", prompt="p", completions=("a", "b"), info={"x": float("nan")}), "info must be plain data"),
        (Item(id="x", prompt=" ", mode="write"), "neither a prompt nor a completion"),
        (Item(id="x", prompt="p", completions=("a", "b"), mode="fight"), "mode must be one of"),  # type: ignore[arg-type]
    ],
)
def test_what_nobody_can_be_asked_is_refused_with_its_reason(store: Store, item: Item, why: str) -> None:
    with pytest.raises(DataError, match=why):
        store.add_items([item])
    assert list(store.events()) == []


def test_the_last_answer_of_a_person_stands(store: Store) -> None:
    store.add_items([PAIR])
    assert store.add_answers([answer("alice"), answer("bob", SECOND)]) == 2
    assert store.add_answers([answer("alice", SECOND, seconds=2.5, shown=(1, 0), comment="hm")]) == 1
    standing = [(a.annotator, a.judgement, a.seconds, a.shown, a.comment) for a in store.answers()]
    assert standing == [("bob", SECOND, 0.0, (), ""), ("alice", SECOND, 2.5, (1, 0), "hm")]
    assert [event.kind for event in store.events()] == ["item", "answer", "answer", "answer"]


def test_the_same_judgement_twice_is_one(store: Store) -> None:
    store.add_items([PAIR])
    assert store.add_answers([answer("alice"), answer("alice")]) == 1
    assert store.add_answers([answer("alice"), answer("alice", showing=1)]) == 1
    assert len(list(store.answers())) == 2


def test_a_deployed_models_user_may_go_back_and_forth(store: Store) -> None:
    store.add_items([PAIR])
    up, down = (answer("u", judgement, source="api") for judgement in (FIRST, SECOND))
    assert [store.add_answers([one]) for one in (up, down, down, up, up, down)] == [1, 1, 0, 1, 0, 1]
    assert [a.judgement for a in store.answers()] == [SECOND]
    assert store.add_answers([up, down, up, down]) == 0, "a log that is sent again"
    assert store.add_answers([up, down, up]) == 3
    assert store.add_answers([answer("v", FIRST, source="api"), up]) == 1
    assert [(a.annotator, a.judgement) for a in store.answers()] == [("u", FIRST), ("v", FIRST)]
    assert store.check_chain() == []
    imported = replace(down, source="import")
    assert [store.add_answers([imported]), store.add_answers([imported]), store.add_answers([down])] == [1, 0, 0]
    store.append([undo("u")])
    assert [store.add_answers([up]), store.add_answers([up])] == [1, 0]


def test_an_undone_answer_does_not_stand_nor_does_the_one_before_it(store: Store) -> None:
    store.add_items([PAIR])
    store.add_answers([answer("alice"), answer("alice", SECOND), answer("bob")])
    store.append([undo("alice")])
    assert [a.annotator for a in store.answers()] == ["bob"]
    assert len(list(store.events())) == 5


def test_an_event_of_the_same_uuid_is_written_once(store: Store) -> None:
    store.add_items([PAIR])
    [(first, is_new)] = store.append([undo("alice", uuid="one")])
    assert is_new
    again = store.append([undo("bob", uuid="one"), undo("bob", uuid="two")])
    assert [(event.sequence, new) for event, new in again] == [(first.sequence, False), (first.sequence + 1, True)]
    assert store.event("one") == first


@pytest.mark.parametrize(
    ("mode", "judgement", "why"),
    [
        ("rank", Judgement(ranking=((0,), (1,))), "does not name completion 2"),
        ("rank", Judgement(ranking=((0,), (1, 0), (2,))), "names completion 0 twice"),
        ("rank", Judgement(ranking=((0,), (), (1, 2))), "empty place"),
        ("rank", Judgement(ranking=((0,), (1,), (-1,))), "names completion -1, and there are 3"),
        ("rank", Judgement(ranking=((True,), (0,), (2,))), "names completion True"),
        ("rank", Judgement(), "mode rank needs ranking"),
        ("rank", Judgement(ranking=((0, 1, 2),), text="x"), "mode rank has no text"),
        ("rank", Judgement(skipped="bad", ranking=((0, 1, 2),)), "skipped, and ranking beside it"),
        ("rank", Judgement(skipped="  "), "skipped needs a reason"),
        ("rate", Judgement(ratings={"3": {"helpful": 1}}), "no completion '3'"),
        ("rate", Judgement(ratings={"0": {"helpfull": 1}}), "no attribute 'helpfull' is asked; did you mean 'helpful'"),
        ("rate", Judgement(ratings={"0": {"helpful": float("inf")}}), "must be a finite number"),
        ("rate", Judgement(ratings={"0": {"helpful": 10**400}}), "must be a finite number"),
        ("rate", Judgement(ratings={"0": {"helpful": -1e308}}), r"must be a finite number of at most 1e\+09"),
        ("rate", Judgement(ratings={"0": {"helpful": True}}), "must be a finite number"),
        ("thumbs", Judgement(thumbs={"0": 1}), "must be true or false"),  # type: ignore[dict-item]
        ("spans", Judgement(spans=(Span(completion=0, first=0, end=2),)), "0 to 2 is not within completion 0"),
        ("spans", Judgement(spans=(Span(completion=3, first=0, end=1),)), "no completion 3"),
        ("spans", Judgement(spans=(Span(completion=0, first=0, end=1, label="a\nb"),)), "control character"),
    ],
)
def test_what_is_no_judgement_of_the_item_is_refused(store: Store, mode: Any, judgement: Judgement, why: str) -> None:
    store.add_items([Item(id="q", prompt="p", completions=("a", "b", "c"), mode=mode)])
    with pytest.raises(DataError, match=why):
        store.add_answers([answer("alice", judgement, "q")])
    assert list(store.answers()) == []


def test_every_kind_of_judgement_comes_back_as_it_was(store: Store) -> None:
    judgements = {
        "compare": Judgement(ranking=((0, 1),), ratings={"0": {"kind": 3}}),
        "rank": Judgement(ranking=((1,), (0,))),
        "rate": Judgement(ratings={"0": {"kind": 6.5}, "1": {"kind": 1}}),
        "thumbs": Judgement(thumbs={"0": False}),
        "spans": Judgement(spans=(Span(completion=1, first=1, end=2, label="rude"),)),
    }
    for mode, judgement in judgements.items():
        attributes = ("kind",) if mode in ("compare", "rate") else ()
        item = Item(id=mode, prompt="p", completions=("a😀", "b😀"), mode=mode, attributes=attributes)  # type: ignore[arg-type]
        store.add_items([item])
        store.add_answers([answer("alice", judgement, mode)])
    store.add_items([Item(id="w", prompt="p", mode="write"), Item(id="none", prompt="p", mode="write")])
    store.add_answers(
        [answer("alice", Judgement(text="4 \x00"), "w"), answer("alice", Judgement(skipped="no"), "none")]
    )
    given = [a.judgement for a in store.answers()]
    assert given == [*judgements.values(), Judgement(text="4 \x00"), Judgement(skipped="no")]


def test_groups_are_the_last_that_were_said(store: Store) -> None:
    store.add_items([PAIR])
    store.add_answers([answer("alice", group="nurses"), answer("bob")])
    store.set_group("bob", "doctors")
    store.set_group("alice", "doctors")
    store.set_group("alice", "doctors")
    assert store.groups() == {"alice": "doctors", "bob": "doctors"}
    assert len(list(store.events())) == 5


def test_a_name_is_hashed_by_a_secret_of_the_database(store: Store, tmp_path: Path) -> None:
    own = store.annotator_hash("alice")
    assert len(own) == 16 and int(own, 16) >= 0
    assert own == store.annotator_hash("alice") != store.annotator_hash("Alice")
    with Store.open(tmp_path / "other.db", create=True) as other:
        assert other.annotator_hash("alice") != own


# --- the chain


def test_each_event_holds_the_hash_of_the_one_before(store: Store) -> None:
    store.add_items([PAIR])
    store.add_answers([answer("alice", seconds=0.1)])
    first, second = store.events()
    assert (first.before, second.before) == ("0" * 64, first.hash)
    body = '{"judgement":{"ranking":[[0],[1]]},"source":"page"}'
    row = [2, second.uuid, "answer", "alice", "q1", 0, body, "[]", 0.1, second.at, second.app, "", first.hash]
    assert second.hash == hashlib.sha256(json.dumps(row).encode()).hexdigest()
    assert store.head() == (2, second.hash)
    assert store.check_chain() == []


def test_events_and_items_cannot_be_changed_by_sql(store: Store) -> None:
    store.add_items([PAIR])
    for statement in (
        "UPDATE events SET kind = 'undo'",
        "DELETE FROM events",
        "UPDATE items SET body = '{}'",
        "DELETE FROM items",
    ):
        with sqlite3.connect(store.path) as connection, pytest.raises(sqlite3.IntegrityError, match="only added"):
            connection.execute(statement)
        connection.close()


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        ("UPDATE events SET body = replace(body, '[[0],[1]]', '[[1],[0]]') WHERE sequence = 3", "event 3 (answer"),
        ("UPDATE events SET annotator = 'carol' WHERE sequence = 3", "event 3 (answer"),
        ("UPDATE events SET at = '2020' WHERE sequence = 4", "event 4 (answer"),
        ("UPDATE events SET seconds = 1e999 WHERE sequence = 4", "event 4 (answer"),
        ("DELETE FROM events WHERE sequence = 3", "event 3 is missing"),
        ("DELETE FROM events WHERE sequence IN (3, 4)", "events 3 to 4 are missing"),
        ("DELETE FROM events WHERE sequence = 5", "the last event is 4, and the last that was written is 5"),
        ("UPDATE items SET body = replace(body, '\"4\"', '\"6\"')", "item 'q1' was changed"),
        ("UPDATE items SET is_asked = 0 WHERE id = 'q2'", "item 'q2' was changed: whether people are asked it"),
        ("INSERT INTO items SELECT 9, 'q9', body, 1 FROM items WHERE id = 'q1'", "item 'q9' was put in"),
        ("DELETE FROM items WHERE id = 'q2'", "item 'q2' was taken out"),
    ],
)
def test_one_change_is_one_line_that_names_the_place(store: Store, statement: str, line: str) -> None:
    store.add_items([PAIR])
    store.add_items([Item(id="q2", prompt="p", mode="write")])
    store.add_answers([answer("alice"), answer("bob"), answer("eve")])
    assert store.check_chain() == []
    [told] = found(tampered(store, statement))
    assert told.startswith(line)
    assert "alice" not in told and "bob" not in told


def test_a_changed_event_with_a_new_hash_no_longer_fits_the_next_one(store: Store) -> None:
    store.add_items([PAIR])
    store.add_answers([answer("alice"), answer("bob")])
    with Store.open(store.path, readonly=True) as reader:
        event = list(reader.events())[1]
    body = '{"judgement":{"ranking":[[1],[0]]},"source":"page"}'
    row = (2, event.uuid, "answer", "alice", "q1", 0, body, "[]", 0.0, event.at, event.app, "", event.before)
    path = tampered(store, f"UPDATE events SET body = '{body}', hash = '{schema.event_hash(row)}' WHERE sequence = 2")
    [told] = found(path)
    assert told.startswith("event 3 (answer") and told.endswith("does not continue event 2: one of the two was changed")


def test_taken_out_triggers_are_told(store: Store) -> None:
    store.close()
    with sqlite3.connect(store.path) as connection:
        connection.execute("DROP TRIGGER events_are_kept_update")
    connection.close()
    assert found(store.path) == ["what keeps records from being changed was taken out: events_are_kept_update"]


@pytest.mark.parametrize(
    ("statements", "line"),
    [
        (
            ["DROP TRIGGER events_are_kept_delete",
             "CREATE TRIGGER events_are_kept_delete BEFORE DELETE ON events BEGIN SELECT 1; END"],
            "the trigger or view 'events_are_kept_delete' was changed",
        ),
        (
            ["DROP VIEW standing", "CREATE VIEW standing AS SELECT * FROM events WHERE annotator <> 'bob'"],
            "the trigger or view 'standing' was changed",
        ),
        (["DROP VIEW standing"], "the trigger or view 'standing' was taken out"),
        (
            ["CREATE TRIGGER more AFTER INSERT ON items BEGIN SELECT 1; END"],
            "the trigger or view 'more' was put in",
        ),
    ],
)  # fmt: skip
def test_a_trigger_or_view_with_another_text_is_told(store: Store, statements: list[str], line: str) -> None:
    store.add_items([PAIR])
    assert found(tampered(store)) == []
    with sqlite3.connect(store.path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    assert found(store.path) == [line]


def test_an_end_that_was_taken_out_is_not_hidden_by_writing_on(store: Store) -> None:
    store.add_items([PAIR])
    store.add_answers([answer("alice"), answer("bob")])
    with Store.open(store.path, readonly=True) as reader:
        noted = reader.meta("head")
    path = tampered(store, "DELETE FROM events WHERE sequence = 3")
    lines = found(path)
    assert lines == ["the last event is 2, and the last that was written is 3: some at the end were taken out"]
    with pytest.raises(
        DataError, match=r"event 2 is not the one that was written last.*rlvr feedback verify"
    ) as caught:
        Store.open(path)
    assert "\n" not in str(caught.value)
    assert found(path) == lines
    with Store.open(path, readonly=True) as reader:
        assert reader.meta("head") == noted


def test_nothing_is_written_once_the_end_was_taken_out_under_an_open_store(store: Store) -> None:
    store.add_items([PAIR])
    store.add_answers([answer("alice"), answer("bob")])
    with sqlite3.connect(store.path) as connection:
        connection.execute("DROP TRIGGER events_are_kept_delete")
        connection.execute("DELETE FROM events WHERE sequence = 3")
    connection.close()
    with pytest.raises(DataError, match="rlvr feedback verify"):
        store.add_answers([answer("carol")])
    with pytest.raises(DataError, match="rlvr feedback verify"):
        store.append([undo("alice")])
    assert [a.annotator for a in store.answers()] == ["alice"]
    assert any("some at the end were taken out" in line for line in store.check_chain())


# --- the file


@pytest.mark.parametrize("readonly", [True, False])
@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("DELETE FROM meta WHERE name = 'secret'", "its secret is missing or no 64 hexadecimal digits"),
        ("UPDATE meta SET value = '' WHERE name = 'secret'", "its secret is missing or no 64"),
        ("UPDATE meta SET value = 'zz' WHERE name = 'secret'", "its secret is missing or no 64"),
        ("UPDATE meta SET value = x'ff' WHERE name = 'secret'", "its secret is missing or no 64"),
        ("UPDATE meta SET value = substr(value, 2) WHERE name = 'secret'", "its secret is missing or no 64"),
        ("DELETE FROM meta WHERE name = 'token'", "its token is missing or no 43 characters"),
        ("UPDATE meta SET value = '' WHERE name = 'token'", "its token is missing or no 43 characters"),
    ],
)
def test_without_its_secret_or_token_a_database_is_refused(
    store: Store, statement: str, why: str, readonly: bool
) -> None:
    store.close()
    with sqlite3.connect(store.path) as connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(DataError, match=why) as caught:
        Store.open(store.path, readonly=readonly)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("readonly", [True, False])
def test_a_name_that_is_too_long_for_a_file_is_one_line(tmp_path: Path, readonly: bool) -> None:
    for length in (252, 255, 256, 5000):  # a lock beside it has a longer name
        with pytest.raises((DataError, DiskError)) as caught:
            Store.open(tmp_path / ("x" * length), create=not readonly, readonly=readonly)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="File name too long"):
        Store.open(tmp_path / ("x" * 256), create=not readonly, readonly=readonly)


def test_a_second_writer_is_refused_while_readers_go_on(store: Store) -> None:
    store.add_items([PAIR])
    with pytest.raises(DataError, match=rf"is in use by another rlvr \(process {os.getpid()}\); end that first"):
        Store.open(store.path)
    with Store.open(store.path, readonly=True) as reader:
        store.add_answers([answer("alice")])
        assert [a.annotator for a in reader.answers()] == ["alice"]
    store.close()
    Store.open(store.path).close()


def test_a_reader_that_stops_in_the_middle_does_not_hold_back_what_is_read_next(store: Store) -> None:
    store.add_items([PAIR])
    store.add_answers([answer("alice"), answer("bob")])
    half_read = store.answers()
    assert next(half_read).annotator == "alice"
    store.add_answers([answer("carol")])
    assert [a.annotator for a in store.answers()] == ["alice", "bob", "carol"]
    assert [a.annotator for a in half_read] == ["bob"]


def test_the_file_is_for_its_owner_alone(store: Store) -> None:
    store.add_items([PAIR])
    modes = {file.name: file.stat().st_mode & 0o777 for file in store.path.parent.iterdir()}
    assert len(modes) == 4 and set(modes.values()) == {0o600}


def test_what_is_no_database_of_ours_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("hello, this is a text" * 100)
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE x (y)")
    connection.close()
    for name, why in (
        ("none.db", "no such database"),
        ("text.db", "is no SQLite database"),
        ("other.db", "is no database of feedback"),
        (".", "is a folder"),
    ):
        with pytest.raises(DataError, match=why) as caught:
            Store.open(tmp_path / name)
        assert "\n" not in str(caught.value)
    with sqlite3.connect(tmp_path / "other.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",), "somebody else's file was changed"
    connection.close()


def test_a_damaged_database_is_refused(store: Store) -> None:
    store.add_items(Item(id=f"q{k}", prompt="p" * 500, completions=("a", "b")) for k in range(200))
    store.close()
    raw = bytearray(store.path.read_bytes())
    for page in range(4, len(raw) // 4096):
        raw[page * 4096 : page * 4096 + 100] = b"\xff" * 100
    store.path.write_bytes(raw)
    with pytest.raises(DataError, match="is damaged"):
        Store.open(store.path)


def test_a_newer_database_is_refused_and_left_as_it_is(store: Store) -> None:
    store.close()
    with sqlite3.connect(store.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DataError, match="is of version 99, and this rlvr reads up to"):
        Store.open(store.path)
    assert [file.name for file in store.path.parent.iterdir() if "version" in file.name] == []


def _as_nobody(path: Path, told: Any) -> None:
    if os.getuid() == 0:  # who may write anywhere
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        Store.open(path)
    except DiskError as error:
        told.put(str(error))
    with Store.open(path, readonly=True) as reader:
        told.put([item.id for item in reader.items()])


def test_an_older_database_is_made_into_one_of_ours_and_a_copy_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_items([PAIR])
    store.add_answers([answer("alice")])
    before = list(store.events())
    store.close()
    steps = {1: "CREATE TABLE more (x);\nINSERT INTO more\n VALUES (1);", 2: "ALTER TABLE more ADD COLUMN y;"}
    monkeypatch.setattr(schema, "VERSION", 3)
    monkeypatch.setattr(schema, "MIGRATIONS", {**steps, 2: "ALTER TABLE more ADD COLUMN y;\nSELECT * FROM absent;"})
    for _ in range(2):  # a step that fails changes nothing
        with pytest.raises(DataError, match="no such table: absent"):
            Store.open(store.path)
    with sqlite3.connect(store.path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'more'").fetchone() == (0,)
    connection.close()
    with pytest.raises(DataError, match="is of the older version 1; rlvr label --db"):
        Store.open(store.path, readonly=True)
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    with Store.open(store.path) as ours:
        assert list(ours.events()) == before and ours.check_chain() == []
        assert ours._connection.execute("SELECT * FROM more").fetchall() == [(1, None)]
        assert ours._connection.execute("PRAGMA user_version").fetchone() == (3,)
    copy = store.path.with_name(f"{store.path.name}.version1")
    assert copy.stat().st_mode & 0o777 == 0o600
    monkeypatch.undo()
    with Store.open(copy, readonly=True) as kept:
        assert list(kept.events()) == before


def test_a_file_whose_making_was_cut_off_is_made_anew(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    with pytest.raises(DataError, match="no such database"):
        Store.open(path)
    with Store.open(path, create=True) as made:
        assert made.add_items([PAIR]) == 1


def test_a_read_only_folder_is_one_line_for_a_writer_and_fine_for_a_reader(store: Store) -> None:
    store.add_items([PAIR])
    store.close()
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which is closed to others
        path = Path(shutil.copy(store.path, Path(folder) / "x.db"))
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        told: Any = FORK.Queue()
        process = FORK.Process(target=_as_nobody, args=(path, told))
        process.start()
        assert told.get(timeout=60) == f"{path}: cannot be written: x.db.lock: Permission denied"
        assert told.get(timeout=60) == ["q1"]
        process.join(60)
        Path(folder).chmod(0o755)


@pytest.mark.parametrize("how", ["removed", "replaced", "moved", "log removed"])
def test_a_file_that_is_taken_away_takes_no_more_answers(store: Store, tmp_path: Path, how: str) -> None:
    store.add_items([PAIR])
    store.add_answers([answer("ann")])
    if how == "removed":
        store.path.unlink()
    elif how == "replaced":
        shutil.copy(store.path, tmp_path / "copy")
        (tmp_path / "copy").replace(store.path)
    elif how == "moved":
        store.path.rename(tmp_path / "elsewhere.db")
    else:
        store.path.with_name(f"{store.path.name}-wal").unlink()
    for _ in range(2):
        with pytest.raises(DiskError, match="was moved, removed or replaced while it was in use; nothing more"):
            store.add_answers([answer("bob")])


def test_another_name_of_the_file_is_the_same_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "soft.db").symlink_to(store.path)
    with pytest.raises(DataError, match="is in use by another rlvr"):
        Store.open(tmp_path / "soft.db")
    store.close()
    os.link(store.path, tmp_path / "hard.db")
    with pytest.raises(DataError, match=r"hard\.db: has 2 names \(hard links\); copy it"):
        Store.open(tmp_path / "hard.db")


def test_who_goes_back_to_an_earlier_answer_within_a_file_is_taken_at_their_last_word(store: Store) -> None:
    store.add_items([PAIR])
    told = [answer("ann", judgement, source="import") for judgement in (FIRST, SECOND, SECOND, FIRST)]
    assert store.add_answers(told) == 3
    assert [one.judgement for one in store.answers()] == [FIRST]
    assert store.add_answers(told) == 0
    assert store.add_answers(told[:2]) == 0
    assert [one.judgement for one in store.answers()] == [FIRST]


def test_threads_write_one_chain(store: Store) -> None:
    store.add_items([PAIR])
    threads = [
        threading.Thread(target=lambda k=k: [store.add_answers([answer(f"p{k}-{n}")]) for n in range(20)])
        for k in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(store.answers())) == 100
    assert store.check_chain() == []


def _fill(path: Path, most: int, told: Any) -> None:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = Store.open(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    num = 0
    try:
        while num < 10_000:
            store.add_items([Item(id=f"new{num}", prompt="p" * 2000, completions=("a", "b"))])
            num += 1
    except DiskError as error:
        told.put((num, str(error)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    told.put((store.add_items([Item(id="after", prompt="p", completions=("a", "b"))]), ""))
    told.close()
    told.join_thread()
    os._exit(0)  # as by a kill: the database is not closed


def test_a_full_disk_loses_nothing_and_writing_goes_on_when_there_is_space(store: Store) -> None:
    store.add_items([PAIR])
    store.close()
    told: Any = FORK.Queue()
    process = FORK.Process(target=_fill, args=(store.path, 300_000, told))
    process.start()
    num, line = told.get(timeout=60)
    assert num > 3 and "\n" not in line and "no file may have more than 300000 bytes here (ulimit -f)" in line
    assert told.get(timeout=60) == (1, "")
    process.join(60)
    with Store.open(store.path) as again:
        assert [item.id for item in again.items()] == ["q1", *(f"new{k}" for k in range(num)), "after"]
        assert again.check_chain() == []
