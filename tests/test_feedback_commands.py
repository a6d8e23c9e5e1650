"""`rlvr feedback` as people call it: exit codes, what stands on which stream, and that what it writes trains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvr.feedback.records import Answer, Item, Judgement
from rlvr.feedback.store import Store

CSV = """prompt,response_a,response_b,choice,annotator,group
What is 2+2?,4,five,a,ann,young
What is 2+2?,4,five,a,bob,old
What is 2+2?,4,five,b,eve,old
Name a colour.,blue,maybe,tie,ann,young
Name a fish.,cod,ship,a,ann,young
"""


def rlvr(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rlvr", *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "votes.csv").write_text(CSV)
    done = rlvr(tmp_path, "feedback", "import", "votes.csv", "--db", "votes.db", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["answers"] == 5
    return tmp_path


def test_export_says_what_it_wrote_and_what_it_left_out(folder: Path) -> None:
    done = rlvr(folder, "feedback", "export", "votes.db", "--to", "out.jsonl", "--min-votes", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "out": "out.jsonl", "as": "preference", "labels": "votes", "rows": 1, "ties": 0, "items": 3, "answers": 5,
        "left_out": {"few_votes": 2},
    }  # fmt: skip
    assert "left out: 2 rows with fewer votes than --min-votes" in done.stderr
    (row,) = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert (row["chosen"], row["votes"]["chosen"], row["votes"]["rejected"]) == ("4", 2, 1)
    again = rlvr(folder, "feedback", "export", "votes.db", "--to", "out.jsonl")
    assert (again.returncode, again.stderr) == (3, "rlvr: --to out.jsonl exists: remove it, or name another file\n")
    ties = rlvr(folder, "feedback", "export", "votes.db", "--to", "ties.jsonl")
    assert "1 ties are kept" in ties.stderr


def test_export_says_which_modes_it_left_out_and_what_takes_them(tmp_path: Path) -> None:
    modes = {"compare": 2, "rank": 3, "thumbs": 1, "rate": 1, "spans": 1, "write": 0}
    items = [
        Item(id=mode, prompt="p", completions=("a", "b", "c")[:num], mode=mode, attributes=("x",) * (mode == "rate"))  # type: ignore[arg-type]
        for mode, num in modes.items()
    ]
    with Store.open(tmp_path / "votes.db", create=True) as store:
        store.add(items, [Answer(item="compare", annotator="ann", judgement=Judgement(ranking=((0,), (1,))))])
    done = rlvr(tmp_path, "feedback", "export", "votes.db", "--to", "o.jsonl", "--by-group")
    assert done.stderr.splitlines() == [
        "left out: 1 items nobody answered",
        "left out: 4 items that rows of preference are not made from: 1 rate (--as ratings), 1 spans (--as raw), "
        "1 thumbs (--as unpaired), 1 write (--as sft)",
        "--by-group: nobody who answered has a group, so `group` is null in all rows",
    ]
    none = rlvr(tmp_path, "feedback", "export", "votes.db", "--to", "r.jsonl", "--as", "ratings")
    assert "not made from: 1 compare (--as preference or ranking), 1 rank (--as " in none.stderr.splitlines()[-1]
    raw = rlvr(tmp_path, "feedback", "export", "votes.db", "--to", "raw.jsonl", "--as", "raw")
    assert (raw.returncode, raw.stderr) == (0, "")
    for name in ("o.jsonl", "raw.jsonl"):
        (row,) = map(json.loads, (tmp_path / name).read_text().splitlines())
        assert row["group"] is None


def test_export_warns_where_reliabilities_rest_on_little(tmp_path: Path) -> None:
    def database(name: str, num: int, right: dict[str, bool]) -> None:
        gold = Judgement(ranking=((0,), (1,)))
        items = [
            Item(id=f"q{k}", prompt=f"p{k}", completions=("a", "b"), gold=gold if k == 0 else None) for k in range(num)
        ]
        answers = [
            Answer(item=item.id, annotator=who, judgement=Judgement(ranking=((0,), (1,)) if is_right else ((1,), (0,))))
            for item in items
            for who, is_right in right.items()
        ]
        with Store.open(tmp_path / name, create=True) as store:
            store.add(items, answers)

    database("few.db", 6, {"alice": False, "bob": True})  # they differ everywhere, and one item has a gold
    database("many.db", 60, {"ann": True, "ben": True, "cem": True})
    few = rlvr(tmp_path, "feedback", "export", "few.db", "--to", "few.jsonl", "--labels", "dawid_skene")
    assert few.stderr == (
        "5 labels rest on people of whose reliability little is known (95 % interval 0.41 to 0.99 for one): "
        "--labels votes is the safer choice\n"
    )
    for name, labels in (("few", "votes"), ("many", "dawid_skene")):
        done = rlvr(tmp_path, "feedback", "export", f"{name}.db", "--to", f"{name}-{labels}.jsonl", "--labels", labels)
        assert done.returncode == 0 and "rest on people" not in done.stderr


def test_columns_of_answers_come_by_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("question,a,b,winner\nQ1,x,y,a\nQ2,x,y,b\n")
    words = ["feedback", "import", "other.csv", "--db", "o.db"]
    refused = {
        (): "a choice needs two completions and more",
        ("response_a=a",): "--column response_a: is one answer; name the others' columns too",
        ("respons_a=a",): "--column respons_a=a: must be WORD=COLUMN; words are id, prompt,",
        ("response_a=a", "response_a=b"): "--column response_a=b: response_a is column a already",
        ("chosen=a", "rejected=b"): "winner beside chosen and rejected",
    }
    for columns, said in refused.items():
        done = rlvr(tmp_path, *words, *(f"--column={text}" for text in columns))
        assert done.returncode in (2, 3) and said in done.stderr and not (tmp_path / "o.db").exists()
    done = rlvr(tmp_path, *words, "--column=response_a=a", "--column=response_b=b")
    assert done.stdout == "2 new items and 2 new answers of 2 rows (0 answers were there)\n"


def test_the_start_says_what_is_to_be_written_and_which_golds_are_of_tasks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlvr.feedback.label_commands import _items

    given = {"source": "file", "split": "train", "columns": [], "skip_bad": False}
    rows = [
        {"prompt": "p1", "completions": ["a", "b"], "gold": "17"},
        {"prompt": "p2", "completions": []},
        {"prompt": "p3"},
        {"prompt": "p4", "draft": "almost"},
        {"prompt": "p5", "completions": ["a", "b"], "gold": {"best": 1}},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = _items(str(tmp_path / "rows.jsonl"), None, "auto", (), given)
    assert items is not None and [item.mode for item in items] == ["compare", "write", "write", "write", "compare"]
    assert [item.gold for item in items] == [None] * 4 + [Judgement(ranking=((1,), (0,)))]
    assert capsys.readouterr().err.splitlines() == [
        "rlvr label: 2 of 5 items are to be written: no answer in them",
        "rlvr label: 1 of 5 items have the gold of a task, which is kept and measures nobody; a known answer is as "
        '{"best": 0}',
    ]
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p"}\n')
    _items(str(tmp_path / "rows.jsonl"), None, "write", (), given)
    assert capsys.readouterr().err == ""


def test_mistakes_are_one_line(folder: Path) -> None:
    nobody = [word for name in ("ann", "bob", "eve") for word in ("--without", name)]
    cases = {
        ("export", "votes.db", "--to", "o.jsonl", "--as", "sft"): (3, "votes.db gives no rows of sft: left out were 3"),
        ("export", "none.db", "--to", "o.jsonl"): (3, "none.db: no such database"),
        ("export", "votes.csv", "--to", "o.jsonl"): (3, "votes.csv: is no"),
        ("export", "votes.db", "--to", "o.jsonl", "--without", "zoe"): (3, "--without zoe: no answer is by"),
        ("export", "votes.db", "--to", "o.jsonl", "--as", "raw", *nobody): (
            3,
            "votes.db gives no rows of raw: left out were 5 answers of the people in --without",
        ),
        ("export", "votes.db", "--to", "x" * 300 + ".jsonl"): (3, "a name has at most 230 bytes, this one has 306"),
        ("export", "votes.db", "--to", f"{'x' * 300}/o.jsonl"): (4, "no such folder"),
        ("import", "votes.csv", "--db", "new.db", "--from", "trl", "--column", "text=x"): (3, "a data set have none"),
        ("import", "vote.csv", "--db", "new.db"): (3, "vote.csv: no such file"),
        ("import", "votes.csv", "--db", "new.db", "--column", "promt=x"): (2, "did you mean 'prompt'?"),
    }
    for arguments, (code, said) in cases.items():
        done = rlvr(folder, "feedback", *arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert said in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    (folder / "bad.csv").write_text("prompt,completion,thumb,user\np,c,perhaps,u\n")
    done = rlvr(folder, "feedback", "import", "bad.csv", "--db", "new.db")
    assert done.returncode == 3 and "bad.csv:2: label must be one of true/false, yes/no, " in done.stderr
    assert not (folder / "o.jsonl").exists() and not list(folder.glob("new.db*"))


def test_a_file_is_read_once_for_a_new_database(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlvr import feedback_commands
    from rlvr.feedback import imports

    read: list[Path] = []
    own = imports.read
    monkeypatch.setattr(imports, "read", lambda path, reading: read.append(path) or own(path, reading))
    for _ in range(2):
        feedback_commands.import_(folder / "votes.csv", folder / "other.db", "auto", [], "imported", "error", False)
    assert len(read) == 2, "once for each import"
    with Store.open(folder / "other.db", readonly=True) as store:
        assert len(list(store.answers())) == 5


def test_stats_are_those_of_the_statistics(folder: Path) -> None:
    from rlvr.feedback.statistics import statistics

    done = rlvr(folder, "feedback", "stats", "votes.db", "--json")
    assert done.returncode == 0, done.stderr
    with Store.open(folder / "votes.db", readonly=True) as store:
        wanted = statistics(list(store.items()), store.answers(), groups=store.groups())
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(json.dumps(wanted))
    assert {person["name"] for person in wanted["people"]} == {"ann", "bob", "eve"}
    assert len(done.stdout.splitlines()) > 5


def test_verify_tells_a_changed_record(folder: Path) -> None:
    import sqlite3

    whole = rlvr(folder, "feedback", "verify", "votes.db", "--json")
    assert whole.returncode == 0 and json.loads(whole.stdout.splitlines()[-1])["problems"] == []
    with sqlite3.connect(folder / "votes.db") as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE events SET annotator = 'mallory' WHERE annotator = 'bob'")
    connection.close()
    changed = rlvr(folder, "feedback", "verify", "votes.db", "--json")
    assert changed.returncode == 3 and json.loads(changed.stdout.splitlines()[-1])["problems"]


@pytest.mark.slow
def test_what_is_exported_trains_without_a_setting(tiny_model: Path, tmp_path: Path) -> None:
    items, answers = [], []

    def judged(item: Item, who: str, **judgement: Any) -> None:
        answers.append(Answer(item=item.id, annotator=who, judgement=Judgement(**judgement), group="ab"[who == "bob"]))

    for k in range(6):
        prompt = ({"role": "user", "content": f"say {k}"},) if k % 2 else f"say {k}"
        pair = Item(id=f"c{k}", prompt=prompt, completions=(f"{k}", f"not {k}"))  # type: ignore[arg-type]
        rank = Item(id=f"r{k}", prompt=prompt, completions=(f"{k}", "a", "b"), mode="rank")  # type: ignore[arg-type]
        thumb = Item(id=f"t{k}", prompt=prompt, completions=(f"{k}",), mode="thumbs")  # type: ignore[arg-type]
        write = Item(id=f"w{k}", prompt=prompt, completions=("draft",), mode="write")  # type: ignore[arg-type]
        rate = Item(id=f"n{k}", prompt=prompt, completions=(f"{k}",), mode="rate", attributes=("polite", "safe"))  # type: ignore[arg-type]
        items += [pair, rank, thumb, write, rate]
        for who in ("ann", "bob"):
            judged(pair, who, ranking=((0,), (1,)) if who == "ann" or k < 3 else ((1,), (0,)))
            judged(rank, who, ranking=((0,), (1, 2)))
            judged(thumb, who, thumbs={"0": k % 3 > 0})
            judged(write, who, text=f"{k} by {who}")
            judged(rate, who, ratings={"0": {"polite": k, "safe": 1}})
    with Store.open(tmp_path / "votes.db", create=True) as store:
        store.add(items, answers)
    common = [f"model.path={tiny_model}", "steps=2", "batch_size=4", "checkpoint.every=0"]
    runs = {
        "preference": [("reward-model", ""), ("dpo", "")],
        "ranking": [("reward-model", "loss.kind=plackett_luce")],
        "unpaired": [("reward-model", "loss.kind=binary"), ("dpo", "loss.kind=kto")],
        "ratings": [("reward-model", "loss.kind=attributes loss.attributes.polite=1 loss.attributes.safe=0.5")],
        "sft": [("sft", "")],
    }
    for form, commands in runs.items():
        to = f"{form}.parquet" if form in ("preference", "ratings") else f"{form}.jsonl"
        done = rlvr(tmp_path, "feedback", "export", "votes.db", "--to", to, "--as", form)
        assert done.returncode == 0, done.stderr
        for number, (command, overrides) in enumerate(commands):
            recipe = tmp_path / f"{form}{number}.yaml"
            recipe.write_text(f"stage: {command.replace('-', '_')}\nmodel: {{path: {tiny_model}}}\nsteps: 2\n")
            arguments = [*common, f"data.path={to}", f"run.dir=run-{form}{number}", *overrides.split()]
            done = rlvr(tmp_path, command, str(recipe), *arguments)
            assert done.returncode == 0, (form, command, done.stderr[-2000:])
            assert (tmp_path / f"run-{form}{number}" / "summary.json").exists()
