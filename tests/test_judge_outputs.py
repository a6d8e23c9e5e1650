"""What `rlvr judge` writes is looked at before anything is paid for; what fails afterwards loses nothing of it."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_case import Mind, serving

from rlvr import cli, disk, judge_outputs, lineage
from rlvr.errors import DiskError
from rlvr.feedback.records import Answer, Item, Judgement
from rlvr.feedback.store import Store
from rlvr.judging.cache import Cache

ROWS: list[dict[str, Any]] = [
    {"id": "q1", "prompt": "2+2?", "completions": ["u=1 four", "u=0 five", "u=3 it is 4"]},
    {"id": "q2", "prompt": "3+3?", "completions": ["u=0 a", "u=2 b"]},
]
NUM_QUESTIONS = 8


@pytest.fixture
def mind() -> Mind:
    return Mind()


@pytest.fixture
def run(
    mind: Mind, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[int, dict[str, Any], str]]]:
    """`rlvr judge in.jsonl ... WORDS` in tmp_path: (exit code, figures, stderr)."""
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with serving(mind) as url:

        def run(*words: str) -> tuple[int, dict[str, Any], str]:
            with pytest.raises(SystemExit) as ended:
                cli.main(["judge", "in.jsonl", "--endpoint", url, "--judge-model", "m", "--json", *words])
            said = capsys.readouterr()
            assert isinstance(ended.value.code, int)
            return ended.value.code, json.loads(said.out.splitlines()[-1]) if not ended.value.code else {}, said.err

        yield run


def store(*items: Item, path: str = "votes.db") -> None:
    with Store.open(Path(path), create=True) as made:
        made.add_items(items)


def answers(path: str = "votes.db") -> dict[tuple[str, str], Answer]:
    with Store.open(Path(path), readonly=True) as made:
        return {(answer.item, answer.annotator): answer for answer in made.answers()}


# --- before ----------------------------------------------------------------------------------------------------------


def no_database() -> None:
    """None there."""


def no_sqlite() -> None:
    Path("votes.db").write_text("id,prompt\n")


def another_sqlite() -> None:
    with sqlite3.connect("votes.db") as db:
        db.execute("CREATE TABLE items (id)")


def of_another_version() -> None:
    store()
    with sqlite3.connect("votes.db") as db:
        db.execute("PRAGMA user_version = 99")


def of_other_completions() -> None:
    store(Item(id="q2", prompt="3+3?", completions=("other", "texts")))


def rated() -> None:
    store(Item(id="q2", prompt="3+3?", completions=("u=0 a", "u=2 b"), mode="rate"))


def damaged() -> None:
    store()
    whole = Path("votes.db").read_bytes()
    Path("votes.db").write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (no_database, "--db votes.db: no such database; `rlvr label FILE --db votes.db` makes it"),
        (no_sqlite, "votes.db: is no SQLite database"),
        (another_sqlite, "votes.db: is no database of feedback"),
        (of_another_version, "version"),
        (of_other_completions, "item 'q2' is there with other completions; give the row another id"),
        (rated, "item 'q2' is there to be judged by rate; give the row another id"),
        (damaged, "votes.db"),
    ],
)
def test_a_database_that_would_not_take_the_answers_is_told_before_anything_is_asked(
    make: Callable[[], None], told: str, run: Any, mind: Mind
) -> None:
    make()
    code, _, err = run("--db", "votes.db", "--out", "out.jsonl")
    assert code in (3, 4) and told in err and len(err.splitlines()) == 1
    assert not mind.bodies and not Path("out.jsonl").exists()


def test_a_database_that_another_writes_is_told_before_anything_is_asked(run: Any, mind: Mind) -> None:
    store()
    with Store.open(Path("votes.db")):
        code, _, err = run("--db", "votes.db")
    assert code == 3 and f"votes.db: is in use by another rlvr (process {os.getpid()}); end that first" in err
    assert not mind.bodies
    assert run("--db", "votes.db")[0] == 0  # and is free again


def test_texts_that_no_database_takes_are_told_before_anything_is_asked(run: Any, mind: Mind) -> None:
    store()
    with open("in.jsonl", "a") as file:
        file.write(json.dumps({"id": "long", "prompt": "p", "completions": ["a" * 200_001, "b"]}) + "\n")
    code, _, err = run("--db", "votes.db")
    assert code == 3 and "--db votes.db: row 'long': completions[0]" in err
    assert not mind.bodies


@pytest.mark.parametrize("option", ["--out", "--abstained"])
def test_a_file_that_could_not_be_written_is_told_before_anything_is_asked(
    option: str, run: Any, mind: Mind, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("there.jsonl").write_text("mine\n")
    Path("folder").mkdir()
    for name, code, told in (
        ("there.jsonl", 3, "exists: remove it"),
        ("folder", 4, "is a folder; name a file in it"),
        ("no/such/x.jsonl", 4, "no such folder"),
        ("there.jsonl/x.jsonl", 4, "no such folder"),
    ):
        words = ["--out", "o.jsonl"] if option == "--abstained" else []
        found, _, err = run(option, name, *words)
        assert (found, err.startswith(f"rlvr: {option} {name}")) == (code, True) and told in err
    open_ = os.open

    def read_only(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_CREAT and str(path).startswith("folder/"):
            raise OSError(30, "Read-only file system", str(path))
        return open_(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", read_only)
    words = ["--out", "o.jsonl"] if option == "--abstained" else []
    assert run(option, "folder/x.jsonl", *words)[::2] == (4, f"rlvr: {option} folder/x.jsonl: Read-only file system\n")
    assert not mind.bodies and Path("there.jsonl").read_text() == "mine\n"


# --- afterwards ------------------------------------------------------------------------------------------------------


def fails(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device")


def full(*_: Any, **__: Any) -> Any:
    raise DiskError("votes.db: no space left on the disk; nothing was written")


@pytest.mark.parametrize(
    ("where", "what", "instead", "told"),
    [
        (Store, "add", full, "votes.db: no space left on the disk; nothing was written"),
        (os, "link", fails, "cannot write out.jsonl: No space left on device"),
        (disk, "sync", fails, "cannot write out.jsonl: No space left on device"),
        (lineage, "note_origin", fails, "cannot write beside out.jsonl: No space left on device"),
    ],
)
def test_what_fails_after_all_was_paid_loses_nothing_and_says_how_to_go_on(
    where: Any, what: str, instead: Any, told: str, run: Any, mind: Mind, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(Item(id="q2", prompt="3+3?", completions=("u=2 b", "u=0 a")))
    words = ["--db", "votes.db", "--out", "out.jsonl", "--abstained", "rest.jsonl"]
    with monkeypatch.context() as patch:
        patch.setattr(where, what, instead)
        code, _, err = run(*words)
    hint = "what was answered is kept: the same command goes on from there, as does any with --cache .out.jsonl.judged"
    assert (code, err) == (4, f"rlvr: {told}; {hint}\n")
    assert len(mind.bodies) == NUM_QUESTIONS
    assert sorted(path.name for path in Path().glob("*out.jsonl*")) == [".out.jsonl.judged"]
    code, found, _ = run(*words)
    assert (code, found["asked"], found["kept"], found["written"]) == (0, 0, NUM_QUESTIONS, 4)
    assert len(mind.bodies) == NUM_QUESTIONS
    assert answers()["q2", "judge:m"].judgement == Judgement(ranking=((0,), (1,)))
    assert len(answers()) == 2


def test_a_second_file_that_fails_takes_the_first_one_back(
    run: Any, mind: Mind, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = judge_outputs._write

    def fails_for_the_rest(path: Path, rows: Any) -> None:
        if path.name == "rest.jsonl":
            raise DiskError("cannot write rest.jsonl: No space left on device")
        write(path, rows)

    with monkeypatch.context() as patch:
        patch.setattr(judge_outputs, "_write", fails_for_the_rest)
        code, _, err = run("--out", "out.jsonl", "--abstained", "rest.jsonl")
    assert code == 4 and "goes on from there" in err
    assert not Path("out.jsonl").exists()
    code, found, _ = run("--out", "out.jsonl", "--abstained", "rest.jsonl")
    assert (code, found["asked"]) == (0, 0) and Path("rest.jsonl").read_text() == ""


def test_a_file_that_came_meanwhile_is_not_written_over(run: Any, mind: Mind) -> None:
    def comes(number: int, body: Any) -> None:
        Path("out.jsonl").write_text("theirs\n")

    mind.misbehave = comes
    code, _, err = run("--out", "out.jsonl")
    assert code == 3 and err.startswith("rlvr: out.jsonl exists: remove it, or name another file; what was answered is")
    assert Path("out.jsonl").read_text() == "theirs\n"
    mind.misbehave = None
    # whichever of the two messages people follow, they pay nothing again
    again = run("--out", "out.jsonl")
    hint = "--out out.jsonl exists: remove it, or name another file and --cache .out.jsonl.judged, where what was asked"
    assert (again[0], again[2]) == (3, f"rlvr: {hint} is kept\n")
    assert err.endswith(" --cache .out.jsonl.judged\n")
    code, found, _ = run("--out", "other.jsonl", "--cache", ".out.jsonl.judged")
    assert (code, found["asked"]) == (0, 0)


def test_a_name_that_a_link_to_nothing_has_is_told_before_anything_is_asked(run: Any, mind: Mind) -> None:
    Path("out.jsonl").symlink_to("nothing.jsonl")
    code, _, err = run("--out", "out.jsonl")
    assert (code, err) == (3, "rlvr: --out out.jsonl exists: remove it, or name another file\n")
    assert not mind.bodies


@pytest.mark.parametrize("other", ["folder/../out.jsonl", "link/out.jsonl"])
def test_two_names_of_one_file_are_told_before_anything_is_asked(other: str, run: Any, mind: Mind) -> None:
    Path("folder").mkdir()
    Path("link").symlink_to(".")
    code, _, err = run("--out", "out.jsonl", "--abstained", other)
    assert (code, err) == (3, f"rlvr: --abstained {other}: is --out too; name another file\n")
    assert not mind.bodies


def test_a_disk_that_can_only_be_read_by_then_is_told_in_a_line(
    run: Any, mind: Mind, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    unlink = Path.unlink
    part = ".out.jsonl.part"
    monkeypatch.setattr(os, "link", read_only)
    monkeypatch.setattr(Path, "unlink", lambda self, **more: (read_only if self.name == part else unlink)(self, **more))
    code, _, err = run("--out", "out.jsonl")
    assert code == 4 and err.startswith("rlvr: cannot write out.jsonl: Read-only file system; what was answered is")


def test_a_cache_that_is_full_keeps_what_it_has(run: Any, mind: Mind, monkeypatch: pytest.MonkeyPatch) -> None:
    put, num = Cache.put, 0

    def full_after_three(self: Cache, replies: Any) -> None:
        nonlocal num
        num += 1
        if num > 3:
            raise DiskError("judge's cache .out.jsonl.judged: database or disk is full")
        put(self, replies)

    with monkeypatch.context() as patch:
        patch.setattr(Cache, "put", full_after_three)
        code, _, err = run("--out", "out.jsonl")
    assert code == 4 and len(err.splitlines()) == 1
    assert "database or disk is full; what was answered is kept: the same command" in err
    code, found, _ = run("--out", "out.jsonl")
    assert (code, found["asked"], found["kept"]) == (0, NUM_QUESTIONS - 3, 3)


def test_a_disk_that_is_full_for_the_cache_is_told_as_such_and_what_is_kept_is_used(run: Any, mind: Mind) -> None:
    with open("in.jsonl", "w") as file:
        for k in range(100):
            file.write(json.dumps({"id": f"q{k}", "prompt": f"{k}?", "completions": ["u=1 a", "u=0 b"]}) + "\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        code, _, err = run("--out", "out.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 4 and len(err.splitlines()) == 1
    assert "(is the disk full?); what was answered is kept: the same command goes on from there" in err
    with sqlite3.connect(".out.jsonl.judged") as db:
        (num_kept,) = db.execute("SELECT count(*) FROM replies").fetchone()
    assert num_kept > 0
    code, found, _ = run("--out", "out.jsonl")
    assert (code, found["kept"], found["asked"]) == (0, num_kept, 200 - num_kept)


def test_where_nothing_was_answered_nothing_is_said_to_be_kept(run: Any, mind: Mind) -> None:
    mind.misbehave = lambda number, body: "I would rather not"
    code, _, err = run("--out", "out.jsonl")
    assert code == 3 and "none of 4 pairs has an opinion; most often: the judge did not name A or B" in err
    assert "kept" not in err and not Path("out.jsonl").exists()


def test_an_item_with_an_empty_completion_is_skipped_as_the_judge_is_not_asked_about_that(run: Any) -> None:
    with Store.open(Path("votes.db"), create=True) as made:
        made.add_items([Item(id="q2", prompt="3+3?", completions=("", "u=0 a", "u=2 b"), mode="rank")])
    code, found, _ = run("--db", "votes.db")
    assert (code, found["answers"]) == (0, 2)
    skipped = answers()["q2", "judge:m"].judgement.skipped
    assert skipped == "one of the completions is empty: the judge was not asked about it"
