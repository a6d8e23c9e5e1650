"""`rlvr judge`: preference data that trainers read, abstentions, databases, a report that finds what was planted."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
from judge_case import Mind, serving
from starlette.responses import JSONResponse

from rlvr import cli, lineage
from rlvr.feedback.records import Answer, Item, Judgement
from rlvr.feedback.store import Store
from rlvr.judging import endpoint, report
from rlvr.preferences import load_preferences
from rlvr.reward_settings import PreferenceData


def judge(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, dict[str, Any], str]:
    """(exit code, the figures, what it said on stderr)"""
    with pytest.raises(SystemExit) as ended:
        cli.main(["judge", *map(str, arguments), "--json"])
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    found = json.loads(said.out.splitlines()[-1]) if ended.value.code == 0 else {}
    return ended.value.code, found, said.err


def by(url: str) -> list[str]:
    return ["--endpoint", url, "--judge-model", "scripted"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


BY = by("http://127.0.0.1:9/v1")
ROWS: list[dict[str, Any]] = [
    {"id": "q1", "prompt": "2+2?", "completions": ["u=1 four", "u=0 five", "u=3 it is 4"], "source": "sums"},
    {"id": "q2", "prompt": "3+3?", "completions": ["u=0 a", "u=2 b", "", "u=0 a"]},
    {"id": "q3", "prompt": "4+4?", "chosen": "u=-1 c", "rejected": "u=0.25 d", "gold": "8"},
]


def test_pairs_become_rows_that_the_trainers_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "pairs.jsonl"
    with serving(Mind(position=0.5)) as url:
        code, found, _ = judge(capsys, file, *by(url), "--out", out, "--set", "prices.prompt=1000000", "--keep", "soft")
    assert code == 0
    rows = {row["id"]: row for row in read(out)}
    assert set(rows) == {"q1/0-1", "q1/0-2", "q1/1-2", "q2", "q3"}
    assert (rows["q1/0-2"]["chosen"], rows["q1/0-2"]["rejected"]) == ("u=3 it is 4", "u=1 four")
    assert rows["q3"]["chosen"] == "u=0.25 d"
    for id, gap in (("q1/0-1", 1), ("q1/0-2", 2), ("q1/1-2", 3), ("q2", 2), ("q3", 1.25)):
        assert rows[id]["probability"] == pytest.approx(1 / (1 + math.exp(-gap)))
        # log odds that the chosen one is better, where it stood first or second
        told = rows[id]["judge"]
        assert sorted(told["orders"]) == pytest.approx([gap - 0.5, gap + 0.5])
        assert [z > gap for z in told["orders"]] == told["first"]
        assert (told["name"], told["method"], told["flipped"]) == ("scripted", "pairwise", False)
    assert rows["q1/0-1"]["source"] == "sums"
    assert (found["cases"], found["pairs"], found["written"], found["abstained"], found["dropped"]) == (3, 5, 5, 0, 2)
    assert found["questions"] == 10 and found["cost"] == found["prompt_tokens"]
    loaded = load_preferences(PreferenceData(path=str(out))).rows
    assert [(p.id, p.chosen, p.probability) for p in loaded] == [
        (row["id"], row["chosen"], row["probability"]) for row in read(out)
    ]


def test_abstentions_and_flips_are_counted_and_go_into_a_file_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(number: int, body: dict[str, Any]) -> str | None:
        return "I cannot" if "4+4?" in body["messages"][-1]["content"] else None

    file, out, rest = write(tmp_path / "in.jsonl", ROWS), tmp_path / "pairs.jsonl", tmp_path / "rest.jsonl"
    with serving(Mind(position=1.5, misbehave=refuses)) as url:
        code, found, _ = judge(capsys, file, *by(url), "--out", out, "--abstained", rest)
    assert code == 0
    assert [row["id"] for row in read(out)] == ["q1/0-2", "q1/1-2", "q2"]
    assert (found["written"], found["abstained"], found["flipped"], found["left_out"]) == (3, 1, 1, 1)
    assert {row["id"]: row["problem"] for row in read(rest)} == {
        "q1/0-1": "the two orders name different winners",
        "q3": "the judge did not name A or B: 'I cannot'",
    }


def test_a_judge_that_is_gone_writes_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "pairs.jsonl"
    code, _, err = judge(capsys, file, *by("http://127.0.0.1:9/v1"), "--out", out, "--set", "by.retries=0")
    assert code == 3 and not out.exists()
    assert "none of 5 pairs has an opinion; most often: http://127.0.0.1:9/v1/chat/completions: cannot be asked" in err


def test_nothing_is_asked_twice_and_no_file_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "pairs.jsonl"
    mind = Mind(misbehave=lambda n, body: JSONResponse({}, status_code=500) if n >= 4 else None)
    with serving(mind) as url:
        options = [file, *by(url), "--out", out, "--set", "by.retries=0", "--set", "by.concurrency=1", "--keep", "soft"]
        code, found, _ = judge(capsys, *options)
        assert (code, found["written"], found["asked"]) == (0, 2, 10)
        first = read(out)
        code, _, err = judge(capsys, *options)
        assert code == 3
        kept = f"--cache {tmp_path / '.pairs.jsonl.judged'}, where what was asked is kept"
        assert err == f"rlvr: --out {out} exists: remove it, or name another file and {kept}\n"
        out.unlink()
        mind.misbehave, mind.utility = None, lambda text: 0.0
        code, found, _ = judge(capsys, *options)
    assert (found["asked"], found["kept"]) == (6, 4)
    assert [row for row in read(out) if row["id"] in {each["id"] for each in first}] == first


def test_scores_by_a_rubric_order_the_completions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out, rubric = write(tmp_path / "in.jsonl", ROWS[:2]), tmp_path / "pairs.jsonl", tmp_path / "rubric.yaml"
    rubric.write_text("correct: the sum is right\n")
    with serving(Mind(utility=lambda text: 5 if "four" in text else 1 if "five" in text else 9)) as url:
        code, found, _ = judge(capsys, file, *by(url), "--out", out, "--rubric", rubric)
    assert code == 0
    rows = {row["id"]: row for row in read(out)}
    assert set(rows) == {"q1/0-1", "q1/0-2", "q1/1-2"}  # those of q2 have the same score
    assert (rows["q1/0-2"]["score_chosen"], rows["q1/0-2"]["score_rejected"]) == pytest.approx((8 / 9, 4 / 9))
    assert "probability" not in rows["q1/0-2"]
    assert (found["left_out"], found["abstained"], found["questions"]) == (1, 0, pytest.approx(5))
    margins = [p.margin for p in load_preferences(PreferenceData(path=str(out))).rows]
    assert sorted(m or 0 for m in margins) == pytest.approx([4 / 9, 4 / 9, 8 / 9])


def test_the_judges_answers_go_beside_those_of_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, db = write(tmp_path / "in.jsonl", ROWS), tmp_path / "votes.db"
    with Store.open(db, create=True) as store:
        store.add_items(
            [
                Item(id="q3", prompt="4+4?", completions=("u=-1 c", "u=0.25 d")),
                Item(id="q9", prompt="x", completions=("y", "z")),
            ]
        )
        store.add_answers([Answer(item="q3", annotator="alice", judgement=Judgement(ranking=((1,), (0,))))])
    with serving(Mind()) as url:
        for new in (3, 0):
            code, found, _ = judge(capsys, file, *by(url), "--db", db, "--keep", "soft")
            assert (code, found["answers"]) == (0, new)
    with Store.open(db, readonly=True) as store:
        answers = {(a.item, a.annotator): a for a in store.answers()}
        assert [item.id for item in store.asked()] == ["q3", "q9"]  # people are not asked what the judge was asked
    assert answers["q3", "judge:scripted"].judgement.ranking == answers["q3", "alice"].judgement.ranking
    assert answers["q1", "judge:scripted"].judgement.ranking == ((2,), (0,), (1,))
    assert {a.source for (_, who), a in answers.items() if who != "alice"} == {"judge"}
    code, _, err = judge(capsys, file, *by(url), "--db", tmp_path / "no.db")
    assert code == 3 and "no such database; `rlvr label FILE --db" in err


def test_a_judge_of_a_long_name_is_an_annotator_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, db = write(tmp_path / "in.jsonl", ROWS), tmp_path / "votes.db"
    Store.open(db, create=True).close()
    names = [f"{side}/{'deep/' * 30}model" for side in ("left", "right")]
    mind = Mind()
    with serving(mind) as url:
        for name in names:
            code, found, _ = judge(capsys, file, "--endpoint", url, "--judge-model", name, "--db", db)
            assert (code, found["answers"]) == (0, 3)
        num = len(mind.bodies)
        code, _, err = judge(capsys, file, "--endpoint", url, "--judge-model", "m\t1", "--db", db)
        assert code == 3 and "the annotator 'judge:m\\t1' holds a control character" in err
        assert len(mind.bodies) == num
    with Store.open(db, readonly=True) as store:
        who = {answer.annotator for answer in store.answers()}
    assert len(who) == 2
    assert all(re.fullmatch(r"judge:.*/deep/model-[0-9a-f]{8}", name) and len(name) == 100 for name in who)


def test_a_file_says_what_it_was_made_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out, rest = write(tmp_path / "in.jsonl", ROWS), tmp_path / "pairs.jsonl", tmp_path / "rest.jsonl"
    with serving(Mind()) as url:
        code, found, _ = judge(capsys, file, *by(url), "--out", out, "--abstained", rest)
    assert code == 0
    for path in (out, rest):
        origin = lineage.origin_of(path)
        assert origin is not None and lineage.is_sound(origin)
        assert (origin["made_by"], origin["judge"], origin["version"]) == ("rlvr judge", "scripted", found["version"])
        assert origin["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        (made_from,) = origin["inputs"]
        assert made_from["files"] == [
            {"path": str(file), "bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "who judges? give --model PATH, or --endpoint URL with --judge-model NAME"),
        (["--model", "m", "--endpoint", "http://x/v1"], "who judges?"),
        (["--endpoint", "http://x/v1"], "--endpoint and --judge-model go together"),
        (["--model", "m", "--judge-model", "x"], "--endpoint and --judge-model go together"),
        (["--model", "m", "--method", "rubric"], "--method rubric and --rubric FILE go together"),
        (["--model", "m", "--method", "pairwise", "--rubric", "r"], "--method rubric and --rubric FILE go together"),
        (["--model", "m", "--rubric", "r", "--constitution", "c"], "give one of them"),
        (["--model", "m", "--rubric", "r", "--keep", "soft"], "--keep is of pairs"),
        (["--model", "m", "--one-order", "--report"], "--report compares the two orders"),
        (
            ["--model", "m", "--one-order", "--keep", "consistent"],
            "--keep consistent compares the two orders",
        ),
        (["--model", "m", "--set", "method.criterium=x"], "--set method.criterium: Extra inputs"),
        (["--model", "m", "--set", "samples"], "must be KEY=VALUE"),
        (["--model", "m", "--set", "nope=1"], "rlvr: --set nope: Extra inputs"),
        ([*BY, "--set", "by.kind=foo"], "rlvr: --set by: Input tag 'foo' found"),
        ([*BY, "--set", "by.modelx=1"], "rlvr: --set by.modelx: Extra inputs"),
        ([*BY, "--set", "method.letters=[A,A]"], "rlvr: --method pairwise: letters must be two different ones"),
        ([*BY, "--set", "secret_from=NONE"], "rlvr: --set secret_from: no environment variable 'NONE'"),
        ([*BY, "--constitution", "no.txt"], "rlvr: --constitution no.txt: No such file"),
        ([*BY, "--cache", "in.jsonl"], "rlvr: --cache in.jsonl holds no replies (file is not a database); remove it"),
        (["--model", "nowhere/at/all"], "rlvr: --model nowhere/at/all: no such folder"),
        (["--endpoint", "ftp://x", "--judge-model", "m"], "--endpoint: url must be such as http://"),
        (["--endpoint", "http://x/v1", "--judge-model", "m", "--api-key-from", "NONE"], "--api-key-from: no environ"),
        ([*BY, "--set", "by.extra={a: 2024-01-01}"], "--endpoint: extra must be what JSON can hold: Object of type da"),
        ([*BY, "--set", "by.extra={a: !!set {b}}"], "extra must be what JSON can hold: Object of type set"),
        ([*BY, "--set", "by.extra={a: !!binary aGk=}"], "extra must be what JSON can hold: Object of type bytes"),
        ([*BY, "--set", "by.extra={a: .nan}"], "extra must be what JSON can hold: Out of range float"),
        ([*BY, "--set", "by.extra=&a {b: *a}"], "extra must be what JSON can hold: Circular reference"),
        ([*BY, "--set", f"by.extra={'[' * 900}{']' * 900}"], "[[...: the value is no YAML"),
        ([*BY, "--set", "by.extra={a: 2024-13-45}"], "the value is no YAML"),
        ([*BY, "--set", f"samples={'9' * 5000}"], "99...: the value is no YAML"),
        ([*BY, "--set", "samples=2024-01-01"], "--samples: Input should be a valid integer"),
        ([*BY, "--column", "prompt"], "--column prompt: must be WORD=COLUMN"),
        ([*BY, "--column", "promt=x"], "--column: Input should be 'id', 'prompt'"),
        ([*BY, "--abstained", "out.jsonl"], "--abstained out.jsonl: is --out too; name another file"),
        ([*BY, "--cache", f"{'x' * 300}"], "unable to open database file"),
        ([*BY, "--db", f"{'x' * 300}.db"], "File name too long"),
        ([*BY, "--abstained", f"{'x' * 300}.jsonl"], "File name too long"),
        ([*BY, "--abstained", f"{'x' * 245}"], "File name too long"),  # with what is written beside it
        (["--model", "x" * 300], "name too long"),
        ([*BY, "--rubric", "x" * 300], "File name too long"),
    ],
)
def test_options_that_do_not_go_together_are_told_in_a_line(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = judge(capsys, write(tmp_path / "in.jsonl", ROWS), *arguments, "--out", "out.jsonl")
    assert code in (2, 3, 4) and told in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[" * 900, "is nested too deep"),
        (b"", "must hold criteria by name"),
        (b"2024-01-01", "must hold criteria by name"),
        (b"- correct", "must hold criteria by name"),
        (b"correct: 2024-01-01", "correct: Input should be a valid dictionary"),
        (b"2024-01-01: x", "Input should be a valid string"),
        (b"correct: 2024-13-45", "is no YAML: month must be in 1..12"),
        (b"correct: {text: x, weight: -1}", "correct.weight: Input should be greater than 0"),
        (b"correct: {weight: 1}", "correct.text: Field required"),
        (b"\xff\xfe\x00", "is no UTF-8 text"),
        (b"\x00\x01", "is no YAML: unacceptable character"),
    ],
)
def test_a_rubric_that_is_none_is_told_in_a_line_by_its_option(
    content: bytes, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rubric.yaml").write_bytes(content)
    code, _, err = judge(capsys, write(tmp_path / "in.jsonl", ROWS), *BY, "--rubric", "rubric.yaml", "--out", "o.jsonl")
    assert code in (2, 3) and err.startswith("rlvr: --rubric rubric.yaml") and told in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "p", "completions": ["a"]}, "2 to 9 completions are needed to choose between, got 1"),
        ({"prompt": "p", "completions": [str(k) for k in range(10)]}, "got 10"),
        ({"prompt": "p", "chosen": "a"}, "chosen and rejected go together"),
        ({"prompt": "p", "text": "a"}, "neither completions nor chosen and rejected (has: prompt, text)"),
        ({"completions": ["a", "b"]}, "no prompt"),
        ({"prompt": "p", "completions": ["a", 4]}, "completions[1] must be text, got a number"),
        ({"prompt": "p", "completions": ["a", "b"], "models": ["x"]}, "models has 1 names for 2 completions"),
    ],
)
def test_bad_rows_are_told_in_a_line(
    row: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "in.jsonl", [row])
    code, _, err = judge(capsys, file, *by("http://127.0.0.1:9/v1"), "--out", tmp_path / "out.jsonl")
    assert code == 3 and told in err and "in.jsonl:1" in err


def test_what_mends_rows_is_said_of_the_options_of_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = {"id": "b", "text": "1+1?", "completions": ["u=1 a", "u=0 b"]}
    file, out = write(tmp_path / "in.jsonl", [*ROWS, bad]), tmp_path / "out.jsonl"
    code, _, err = judge(capsys, file, *BY, "--out", out)
    assert code == 3 and "data." not in err
    assert "in.jsonl: 1 of 4 rows cannot be used (give --skip-bad to leave them out):" in err
    assert "in.jsonl:4: no prompt (has: id, text, completions; name its column with --column prompt=COLUMN)" in err
    code, _, err = judge(capsys, tmp_path / "inn.jsonl", *BY, "--out", out)
    assert code == 3 and f"no file or folder {tmp_path / 'inn.jsonl'}" in err and "data." not in err
    with serving(Mind()) as url:
        code, found, _ = judge(capsys, file, *by(url), "--out", out, "--skip-bad")
        assert (code, found["bad"], found["cases"]) == (0, 1, 3)
        named = write(tmp_path / "named.jsonl", [bad])
        code, found, _ = judge(capsys, named, *by(url), "--out", tmp_path / "o.jsonl", "--column", "prompt=text")
    assert (code, found["bad"]) == (0, 0)
    assert [(row["prompt"], row["chosen"]) for row in read(tmp_path / "o.jsonl")] == [("1+1?", "u=1 a")]


def test_what_is_left_out_is_said_with_the_option_that_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "in.jsonl", ROWS)
    said: list[str] = []
    with serving(Mind(position=1.5)) as url:
        for k, more in enumerate(([], ["--keep", "soft"], ["--rubric", "rubric.yaml"])):
            (tmp_path / "rubric.yaml").write_text("right: it is right\n")
            more = [str(tmp_path / word) if word == "rubric.yaml" else word for word in more]
            with pytest.raises(SystemExit):
                cli.main(["judge", str(file), *by(url), "--out", str(tmp_path / f"{k}.jsonl"), *more])
            said.append(capsys.readouterr().out)
    assert "4 rows in" not in said[1]
    assert "2 flipped with the order, 2 of them left out (--keep soft keeps them)" in said[0]
    assert "2 flipped with the order;" in said[1] and "5 rows in" in said[1]
    assert "of equal scores, which are left out" in said[2] and "--keep" not in said[2]


def test_help_says_what_is_kept_without_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["judge", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "Without it consistent, and soft with --one-order." in told
    file = write(tmp_path / "in.jsonl", ROWS)
    with serving(Mind(position=1.5)) as url:
        for k, (order, num) in enumerate((("--both-orders", 2), ("--one-order", 0))):
            code, found, _ = judge(capsys, file, *by(url), order, "--out", tmp_path / f"{k}.jsonl")
            assert (code, found["left_out"]) == (0, num)


def test_rows_without_a_choice_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = {"prompt": "p", "completions": ["a", "a", " "]}
    with serving(Mind()) as url:
        file = write(tmp_path / "in.jsonl", [same, *ROWS])
        code, found, _ = judge(capsys, file, *by(url), "--out", tmp_path / "out.jsonl")
        assert (code, found["cases"], found["same"]) == (0, 3, 1)
        code, _, err = judge(capsys, write(tmp_path / "in.jsonl", [same]), *by(url), "--out", tmp_path / "no.jsonl")
    assert code == 3 and "the completions of each of 1 rows are the same" in err


# --- the report ------------------------------------------------------------------------------------------------------


def labelled(num: int, seed: int = 1) -> list[dict[str, Any]]:
    """Pairs of answers of known utility (normal), of any length, by OWN or another, chosen as often as it says."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for k in range(num):
        texts, worth, models = [], [], []
        for _ in range(2):
            worth.append(rng.gauss(0, 0.7))
            models.append(rng.choice(["judge-1", "other"]))
            idle = " ".join(["um"] * rng.randrange(30))
            texts.append(f"u={worth[-1]:.4f} {'OWN' if models[-1] == 'judge-1' else 'not'} {idle}")
        first = rng.random() < 1 / (1 + math.exp(worth[1] - worth[0]))
        c, r = (0, 1) if first else (1, 0)
        rows.append(
            {"id": f"p{k}", "prompt": "q?", "chosen": texts[c], "rejected": texts[r], "chosen_model": models[c],
             "rejected_model": models[r]}
        )  # fmt: skip
    return rows


def holds(interval: dict[str, Any], value: float) -> bool:
    low, high = interval["ci95"]
    return low <= value <= high


def test_the_report_finds_the_biases_that_were_planted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mind = Mind(position=0.9, per_word=0.04, own=0.6)
    file = write(tmp_path / "in.jsonl", labelled(400, seed=3))
    padding = "um um um um um um um um um um"
    with serving(mind) as url:
        code, found, _ = judge(
            capsys, file, *by(url), "--report", "--own", "judge-1", "--twins", 60, "--padding", padding
        )
    assert code == 0
    told = found["report"]
    assert told["usable"] == 400
    assert told["position"]["logit"]["value"] == pytest.approx(0.9, abs=1e-6)
    assert told["position"]["first"] > 0.6 and 0.1 < told["position"]["flipped"] < 0.6
    length, own = told["length"]["logit_per_word"], told["self_preference"]["logit"]
    for interval, planted, width in ((length, 0.04, 0.02), (own, 0.6, 0.4)):
        assert holds(interval, planted)
        assert interval["ci95"][1] - interval["ci95"][0] < width
    assert told["verbosity"]["logit"]["value"] == pytest.approx(10 * 0.04, abs=1e-6)
    assert told["verbosity"]["preferred"] == 1.0
    assert found["questions"] == found["asked"] == 2 * (400 + 60)  # those of the padded answers too
    assert found["prompt_tokens"] == sum(len(turn["content"].split()) for b in mind.bodies for turn in b["messages"])
    agreement = told["agreement"]
    assert agreement["accuracy"]["value"] > agreement["accuracy_one_order"]["value"]
    assert agreement["accuracy_consistent"]["value"] >= agreement["accuracy"]["value"]
    assert agreement["kappa"] == pytest.approx(2 * agreement["accuracy"]["value"] - 1, abs=0.05)


def test_the_report_finds_no_bias_in_a_judge_without_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "in.jsonl", labelled(400, seed=2))
    with serving(Mind()) as url:
        code, found, _ = judge(capsys, file, *by(url), "--report", "--own", "judge-1", "--twins", 30)
    assert code == 0
    told = found["report"]
    assert told["position"]["logit"]["value"] == pytest.approx(0, abs=1e-9)
    assert told["position"]["flipped"] == 0
    assert holds(told["length"]["logit_per_word"], 0) and holds(told["self_preference"]["logit"], 0)
    assert told["verbosity"]["logit"]["value"] == pytest.approx(0, abs=1e-9)
    # the judge knows the true odds: as right as can be, and as sure as it is right
    assert told["agreement"]["ece"] < 0.09
    assert told["agreement"]["calibration_slope"] == pytest.approx(1, abs=0.3)
    assert told["agreement"]["accuracy_consistent"]["value"] == told["agreement"]["accuracy"]["value"]


def test_accuracies_have_intervals_within_0_and_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "q?", "chosen": f"u={k + 1} a", "rejected": "u=0 b"} for k in range(20)]
    rows.append({"prompt": "q?", "chosen": "u=0 a", "rejected": "u=1 b"})
    with serving(Mind()) as url:
        for num, share in ((20, 1.0), (21, 20 / 21)):
            file = write(tmp_path / f"{num}.jsonl", rows[:num])
            code, found, _ = judge(capsys, file, *by(url), "--report", "--twins", 0)
            assert code == 0
            for name in ("accuracy", "accuracy_one_order", "accuracy_consistent"):
                told = found["report"]["agreement"][name]
                assert told["value"] == pytest.approx(share)
                # Wilson's by hand, with z = 1.95996
                z2 = 1.959964**2
                half = math.sqrt(z2 * share * (1 - share) / num + z2 * z2 / (4 * num * num)) / (1 + z2 / num)
                centre = (share + z2 / (2 * num)) / (1 + z2 / num)
                assert told["ci95"] == pytest.approx([centre - half, min(1.0, centre + half)], abs=1e-6)


def test_the_report_needs_rows_that_name_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, mind = write(tmp_path / "in.jsonl", labelled(12)), Mind()
    with serving(mind) as url:
        code, _, err = judge(capsys, file, *by(url), "--report", "--own", "judge-2")
    assert code == 2 and not mind.bodies
    assert "no row names this model; the column models has: judge-1, other" in err


def test_both_orders_are_more_often_right_than_one_where_the_judge_likes_the_first_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # hard votes of a judge with a bias of 1 logit, and utilities whose difference is normal(0, 1)
    rng = random.Random(5)
    rows: list[dict[str, Any]] = []
    for k in range(700):
        gap = rng.gauss(0, 1)
        texts = [f"u={gap:.5f} #{k}", f"u=0 #{k}"]
        rows.append({"prompt": "q?", "chosen": texts[gap < 0], "rejected": texts[gap >= 0]})
    file = write(tmp_path / "in.jsonl", rows)
    with serving(Mind(position=1.0, has_logprobs=False)) as url:
        options = ["--set", "by.logprobs=false", "--set", "temperature=1.0", "--report", "--twins", 0]
        code, found, _ = judge(capsys, file, *by(url), *options)
    assert code == 0
    agreement = found["report"]["agreement"]
    # of very many: 0.649 by one order, 0.804 of the 48 % that are consistent; here within 4 standard errors
    assert agreement["accuracy_one_order"]["value"] == pytest.approx(0.649, abs=4 * math.sqrt(0.23 / 700))
    assert agreement["accuracy_consistent"]["value"] == pytest.approx(0.804, abs=4 * math.sqrt(0.16 / 340))
    assert agreement["consistent"] == pytest.approx(0.48, abs=4 * math.sqrt(0.25 / 700))
    assert agreement["accuracy_consistent"]["value"] - agreement["accuracy_one_order"]["value"] >= 0.1


def test_what_too_few_pairs_cannot_tell_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "in.jsonl", labelled(6))
    with serving(Mind()) as url:
        code, found, _ = judge(capsys, file, *by(url), "--report", "--twins", 5)
        assert code == 0
        assert found["report"]["too_few"] == {"position and length": 6, "verbosity": 5, "agreement": 6}
        assert not found["report"].keys() & {"position", "verbosity", "agreement"}
    assert "agreement: 6 pairs, 10 are needed" in report.lines(found["report"])


def test_an_address_where_nobody_listens_costs_the_attempts_of_one_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    attempt = endpoint.Endpoint._attempt

    def counted(self: endpoint.Endpoint, question: Any) -> Any:
        asked.append(question)
        return attempt(self, question)

    monkeypatch.setattr(endpoint.Endpoint, "_attempt", counted)
    monkeypatch.setattr(endpoint, "_FIRST_PAUSE", 0.0)
    file = write(tmp_path / "in.jsonl", labelled(40))
    few = ("--set", "by.retries=3", "--set", "by.concurrency=1")
    code, _, err = judge(capsys, file, *by("http://127.0.0.1:9/v1"), "--out", tmp_path / "out.jsonl", *few)
    assert code == 3 and "none of 40 pairs has an opinion" in err and "ConnectError" in err
    assert len(asked) == 4
