"""A database that somebody changed by other means: one line that names database, table and row, and nothing is lost."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import DataError
from rlvr.feedback import schema
from rlvr.feedback.app import fill_board
from rlvr.feedback.leases import Board, Plan
from rlvr.feedback.records import Answer, Item, Judgement
from rlvr.feedback.store import Store

DEEP = "[" * 900 + "]" * 900
ITEM = {"id": "q1", "prompt": "p", "completions": ["a", "b"], "mode": "compare"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "l.db"
    with Store.open(path, create=True) as store:
        store.add_items([Item(id="q1", prompt="p", completions=("a", "b"))])
        for who, order in (("ann", ((0,), (1,))), ("bob", ((1,), (0,)))):
            store.add_answers([Answer(item="q1", annotator=who, judgement=Judgement(ranking=order))])
    return path


def edited(whole: Path, folder: Path, table: str, column: str, value: Any) -> Path:
    """A copy in which the item, or ann's answer (event 2), has another value in that column."""
    path = Path(shutil.copy(whole, folder / "l.db"))
    with sqlite3.connect(path) as connection:
        for name in schema.TRIGGERS:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(
            f"UPDATE {table} SET {column} = ? WHERE {'sequence = 2' if table == 'events' else '1'}", (value,)
        )
    connection.close()
    return path


def judged(judgement: Any) -> str:
    return json.dumps({"judgement": judgement, "source": "page"})


EDITS = {
    "no JSON": ("events", "body", "{judgement", "body is no JSON"),
    "a number": ("events", "body", "7", "body is JSON of another shape than ours"),
    "bytes": ("events", "body", b"\x00\xff", "body is bytes"),
    "no judgement": ("events", "body", "{}", "body is JSON of another shape"),
    "a text as judgement": ("events", "body", judged("best"), "body is JSON of another shape"),
    "places that are numbers": ("events", "body", judged({"ranking": [0, 1]}), "body is JSON of another shape"),
    "places of nothing": ("events", "body", judged({"ranking": [[0], [7]]}), "ranking names completion 7"),
    "ratings of nothing": ("events", "body", judged({"ratings": {"0": {"nice": 3}}}), "mode compare needs ranking"),
    "nested 900 deep": ("events", "body", DEEP, "body is JSON that is nested too deep"),
    "nested 900 deep within": ("events", "body", f'{{"judgement": {DEEP}}}', "body is JSON that is nested too deep"),
    "nested 90000 deep": ("events", "body", "[" * 90_000, "body is JSON that is nested too deep"),
    "shown of texts": ("events", "shown", '["a"]', "shown is no list of indices"),
    "a group that is a list": ("events", "body", '{"group": [1]}', "body is JSON of another shape"),
    "seconds as text": ("events", "seconds", "soon", "seconds is str"),
    "an item that is no JSON": ("items", "body", "{", "body is no JSON"),
    "an item that is a list": ("items", "body", "[]", "body is JSON of another shape"),
    "an item without a mode": ("items", "body", '{"id": "q1", "prompt": "p"}', "body is JSON of another shape"),
    "an item of one text": ("items", "body", json.dumps({**ITEM, "completions": ["a"]}), "needs 2 to 9 completions"),
    "another item": ("items", "body", json.dumps({**ITEM, "id": "q2"}), "body is that of another item"),
    "an item nested 900 deep": ("items", "body", f'{{"info": {{"x": {DEEP}}}}}', "JSON that is nested too deep"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_what_reads_names_database_table_and_row(whole: Path, tmp_path: Path, edit: tuple[str, str, Any, str]) -> None:
    table, column, value, why = edit
    path = edited(whole, tmp_path, table, column, value)
    before = path.read_bytes()
    row = "sequence 2" if table == "events" else "id 'q1'"
    with Store.open(path, readonly=True) as store:
        readers: list[Any] = [
            lambda: list(store.answers()),
            lambda: list(store.events()),
            lambda: fill_board(Board("secret", Plan()), store),
            lambda: store.standing("q1", "ann", 0),
        ]
        if table == "items":
            readers += [lambda: list(store.items()), lambda: list(store.asked()), lambda: store.item("q1")]
        for read in readers:
            with pytest.raises(DataError) as caught:
                read()
            said = str(caught.value)
            assert f"{path}: table {table}, row {row}: " in said and why in said, said
            assert "\n" not in said and len(said) < 700
        assert store.groups() == {}
        assert any("was changed" in line for line in store.check_chain())
    assert path.read_bytes() == before


@pytest.mark.parametrize("edit", ["no JSON", "places of nothing", "nested 900 deep", "an item nested 900 deep"])
def test_commands_end_with_that_line(whole: Path, tmp_path: Path, edit: str) -> None:
    table, column, value, _ = EDITS[edit]
    path = edited(whole, tmp_path, table, column, value)
    for words in (
        ("label", "--db", str(path), "--port", "0"),
        ("feedback", "stats", str(path)),
        ("feedback", "export", str(path), "--to", str(tmp_path / "out.jsonl")),
    ):
        done = subprocess.run([sys.executable, "-m", "rlvr", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 3, (words, done.stderr)
        assert done.stderr.startswith(f"rlvr: {path}: table {table}, row ") and done.stderr.count("\n") == 1, (
            done.stderr
        )
    assert not (tmp_path / "out.jsonl").exists()
