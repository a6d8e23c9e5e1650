"""How `rlvr label` begins: what it says of its rows, in its own options, and who may answer."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_case import Labelled, pairs, write_rows

from rlvr.cli import main
from rlvr.feedback import label_commands, schema
from rlvr.feedback.records import Item
from rlvr.feedback.server import Ready
from rlvr.feedback.store import Store
from rlvr.rows import BadRow, as_plain

DEEP: Any = json.loads("[" * 900 + "]" * 900)


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> str:
    """What is said where it does not begin."""
    with pytest.raises(SystemExit) as caught:
        main(["label", *arguments, "--db", str(folder / "new.db")])
    assert caught.value.code == 3
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"promt": "p", "completions": ["a", "b"]}, "no prompt (has: promt, completions; did you mean --column pro"),
        ({"q": "p", "completions": ["a", "b"]}, "no prompt (has: q, completions; name its column with --column prom"),
        ({"prompt": "p", "completions": ["a", "a "]}, "completions[0] and completions[1] are the same text; keep one"),
        ({"prompt": "p", "completions": ["a", "b"], "gold": DEEP}, "gold is nested deeper than 100 levels"),
        ({"prompt": "p", "completions": ["a", "b"], "more": DEEP}, "column 'more' is nested deeper than 100 levels"),
        ({"prompt": "p", "completions": DEEP}, "completions"),
        ({"prompt": "p", "completions": ["a", "b"], "attributes": DEEP}, "attributes must be a list of names"),
    ],
)  # fmt: skip
def test_a_bad_row_is_told_in_the_options_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict[str, Any], why: str
) -> None:
    said = refused(capsys, tmp_path, write_rows(tmp_path, [*pairs(1), row]))
    assert said.startswith(
        "rlvr: rows.jsonl: 1 of 2 rows cannot be used (give --skip-bad to leave them out):\nrows.jsonl:2: "
    )
    assert why in said and "data." not in said and "Traceback" not in said and len(said) < 1000
    none = refused(capsys, tmp_path, write_rows(tmp_path, [row]), "--skip-bad")
    assert "none is left; --column maps our words to your columns" in none and "data." not in none


def in_array(value: Any) -> Any:
    array = np.empty(1, object)
    array[0] = value
    return array


@pytest.mark.parametrize("wrapped", [lambda one: [one], lambda one: {"k": one}, in_array])
def test_what_rows_may_hold_can_be_read_back_and_a_level_more_is_refused(wrapped: Any) -> None:
    deep: Any = 7
    for _ in range(100):
        deep = wrapped(deep)
    plain = as_plain(deep)
    body = schema.to_text({"id": "q", "info": {"more": plain}})
    assert schema.from_text(body, "body")["info"]["more"] == plain and body.count("7") == 1
    for _ in range(2):
        with pytest.raises(BadRow, match="nested deeper than 100 levels"):
            as_plain(deep := wrapped(deep))
    for _ in range(2000):
        deep = wrapped(deep)
    with pytest.raises(BadRow, match="nested deeper than 100 levels"):
        as_plain(deep)


def test_other_mistakes_in_a_file_name_it_as_the_command_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path, pairs(1))
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "rows.txt").write_text("")
    for words, why in (
        ([str(tmp_path / "none.jsonl")], "rlvr: FILE: no file or folder"),
        (["some/data"], "a Hugging Face data set needs --source hub"),
        ([str(tmp_path / "empty.jsonl")], "rlvr: FILE: "),
        ([str(tmp_path / "rows.txt")], "rlvr: FILE: "),
        (
            [rows, "--column", "prompt=nothing"],
            "no column 'nothing' (named by columns.prompt or --column prompt=nothing; has: id, prompt",
        ),
        ([rows, "--gold", str(tmp_path / "none.jsonl")], "rlvr: --gold FILE: no file or folder"),
        ([rows, "--gold", rows], "no gold (has: id, prompt, completions, model)"),
    ):
        said = refused(capsys, tmp_path, *words)
        assert why in said, said
        assert "data." not in said and "FILE.path" not in said and "FILE.columns" not in said, said


def test_of_a_folder_hidden_files_are_no_rows(tmp_path: Path) -> None:
    from rlvr.feedback.items import load_items
    from rlvr.reward_settings import PreferenceData

    write_rows(tmp_path, pairs(2))
    (tmp_path / ".rows.jsonl.lineage.json").write_text('{"kind": "export"}')
    assert [item.id for item in load_items(PreferenceData(path=str(tmp_path))).rows] == ["i0", "i1"]


@pytest.mark.slow
def test_an_empty_completion_is_an_answer_like_others(tmp_path: Path) -> None:
    with Labelled(tmp_path, write_rows(tmp_path, [{"id": "q", "prompt": "p", "completions": ["", "b"]}])) as served:
        ann = served.person("ann")
        item = ann.next()["item"]
        assert sorted(item["completions"]) == ["", "b"]
        place = item["completions"].index("b")
        assert ann.send(item, ranking=[[place], [1 - place]]).status_code == 200
    with Store.open(tmp_path / "l.db", readonly=True) as store:
        assert [answer.judgement.ranking for answer in store.answers()] == [((1,), (0,))]


@pytest.mark.slow
def test_a_database_of_personal_links_stays_one(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, pairs(2))
    with Labelled(tmp_path, rows, "--annotators", "ann,bob") as served:
        links = {name: link.partition("#")[2] for name, link in served.ready["links"].items()}
        assert list(links) == ["ann", "bob"]
    with Labelled(tmp_path) as served:
        assert {name: link.partition("#")[2] for name, link in served.ready["links"].items()} == links
        assert served.person("eve").get("/api/next").status_code == 403, "the database's own link labels for anybody"
        assert served.person("eve", links["ann"]).get("/api/me").json()["annotator"] == "ann"
        assert "the links are of an earlier start's --annotators" in served.log.read_text()
    with Labelled(tmp_path, "--per-item", "3") as served:
        assert "--per-item 3, and --annotators names 2: no item gets more answers" in served.log.read_text()
    with Labelled(tmp_path, "--annotators", "eve") as served:
        assert list(served.ready["links"]) == ["eve"] and served.log.read_text() == ""
    with Labelled(tmp_path) as served:
        assert list(served.ready["links"]) == ["eve"]
        assert served.end(signal.SIGTERM) == 0
    with Store.open(tmp_path / "l.db", readonly=True) as store:
        assert store.check_chain() == []


def test_who_answers_is_kept_only_where_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    item = Item(id="a", prompt="p", completions=("x",), mode="thumbs")
    with Store.open(tmp_path / "new.db", create=True) as store:
        store.add([item], [], is_asked=False)
        head = store.head()
    (tmp_path / "people.csv").write_text("ann,nurses\n")
    said = refused(capsys, tmp_path, "--annotators", str(tmp_path / "people.csv"), "--port", "0")
    assert "holds no item that people can be asked" in said
    with Store.open(tmp_path / "new.db", readonly=True) as store:
        assert (store.meta("annotators"), store.head()) == (None, head)


@pytest.mark.parametrize(
    ("links", "per_item", "are_of_before", "told"),
    [
        ({"shared": "http://h/#t"}, 3, False, []),
        ({"shared": "http://h/#s"}, 2, False, ["--per-item 2, and --annotators names 1: no item"]),
        ({"ann": "http://h/#a", "bob": "http://h/#b"}, 2, False, []),
        ({"ann": "http://h/#a", "bob": "http://h/#b"}, 3, True, ["an earlier start's", "--per-item 3, and"]),
    ],
)
def test_more_answers_than_people_are_told_whenever_these_were_named(
    capsys: pytest.CaptureFixture[str], links: dict[str, str], per_item: int, are_of_before: bool, told: list[str]
) -> None:
    ready = Ready(
        url="http://h:1", links=links, owner="http://h/#t", are_of_before=are_of_before, num_items=1, num_answers=0
    )
    label_commands._tell(ready, Path("l.db"), True, per_item)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(told) and all(part in line for part, line in zip(told, lines, strict=True)), lines


@pytest.mark.slow
def test_single_answers_that_become_thumbs_are_said(tmp_path: Path) -> None:
    rows = [*pairs(2), {"id": "t", "prompt": "p", "completion": "c"}]
    with Labelled(tmp_path, write_rows(tmp_path, rows)) as served:
        assert served.ready["items"] == 3
        said = served.log.read_text()
    assert said.startswith("rlvr label: 1 of 3 items are thumbs (good or bad): one answer each; --attributes has")
    (tmp_path / "l.db").unlink()
    with Labelled(tmp_path, str(tmp_path / "rows.jsonl"), "--attributes", "nice") as served:
        assert served.log.read_text() == ""


KILL = """
import os, signal
real = os.{name}
def end(*given, **more):
    if {when}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given, **more)
os.{name} = end
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "name", "when"),
    [
        (".jsonl", "fsync", "True"),
        (".jsonl", "link", "True"),
        (".parquet", "fsync", "True"),
        (".parquet", "link", "True"),
        ("", "fsync", "True"),
        ("", "rename", "'.part' in str(given[0])"),
    ],
)
def test_a_kill_in_the_middle_of_an_export_leaves_nothing_or_the_whole_file(
    tmp_path: Path, suffix: str, name: str, when: str
) -> None:
    from rlvr.feedback.records import Answer, Item, Judgement

    with Store.open(tmp_path / "l.db", create=True) as store:
        items = [Item(id=f"q{k}", prompt=f"p{k}", completions=("a", "b")) for k in range(50)]
        judged = [Answer(item=item.id, annotator="ann", judgement=Judgement(ranking=((0,), (1,)))) for item in items]
        store.add(items, judged)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILL.format(name=name, when=when))
    words = [sys.executable, "-m", "rlvr", "feedback", "export", "l.db", "--to", f"out{suffix}"]
    root = str(Path(__file__).parents[1])
    env = {"PYTHONPATH": f"{tmp_path / 'site'}:{root}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    killed = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / f"out{suffix}").exists(), "what is not whole has its name"
    done = subprocess.run(
        words, cwd=tmp_path, env={**env, "PYTHONPATH": root}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    from datasets import load_dataset, load_from_disk

    out = str(tmp_path / f"out{suffix}")
    kind = {".jsonl": "json", ".parquet": "parquet"}.get(suffix)
    rows = (
        load_dataset(kind, data_files=out, split="train", cache_dir=str(tmp_path / "c"))
        if kind
        else load_from_disk(out)
    )
    assert sorted(rows["prompt"]) == sorted(f"p{k}" for k in range(50))
