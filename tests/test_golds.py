"""Tasks that cannot be learned from are found, with file and line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr import cli, golds
from rlvr.errors import DataError, SettingsError
from rlvr.golds_overlap import N_GRAM, Overlap, gold_key, prompt_key
from rlvr.types import Message, Task

WORDS = "a train leaves the station at noon and takes two hours to reach the next town by the sea".split()


def write(folder: Path, name: str, *rows: Any) -> str:
    file = folder / name
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(file)


def found(path: str, **settings: Any) -> list[tuple[str, str, str]]:
    """(kind, where, reason), by line."""
    findings = golds.check(path, **settings).findings
    return sorted(((f.kind, f.where, f.reason) for f in findings), key=lambda f: int(f[1].rpartition(":")[2]))


def test_each_kind_of_bad_row_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path, "a.jsonl",
        {"prompt": "1+1", "gold": "2"},
        {"prompt": "2+2"},
        {"prompt": "2+3", "gold": None},
        {"prompt": " ", "gold": "1"},
        {"prompt": 7, "gold": "1"},
        {"prompt": "3+3", "gold": ["6"]},
        {"prompt": "3+4", "gold": r"\frac{7}{1"},
        {"prompt": "3+5", "gold": "8", "verifier": "mth"},
        {"prompt": "3+6", "gold": "9", "verifier": 5},
        '{"prompt": "x", "gold"',
        {"prompt": "3+7", "gold": "10", "id": "a:1"},
    )  # fmt: skip
    kinds = [(kind, where) for kind, where, _ in found(path)]
    bad = [("bad_row", f"a.jsonl:{line}") for line in (2, 3, 4, 5, 8, 9, 10, 11)]
    assert [k for k in kinds if k[0] == "bad_row"] == bad
    assert [k for k in kinds if k[0] != "bad_row"] == [("gold_invalid", "a.jsonl:6"), ("gold_invalid", "a.jsonl:7")]
    reasons = {where: reason for _, where, reason in found(path)}
    assert reasons["a.jsonl:2"].startswith("no gold (has: prompt; ")
    assert reasons["a.jsonl:5"] == "prompt must be text or messages, got a number (column 'prompt')"
    assert reasons["a.jsonl:8"].startswith("no verifier named 'mth'; did you mean 'math'?")
    assert reasons["a.jsonl:11"] == "id 'a:1' is already that of a.jsonl:1"


def test_a_verifier_that_takes_no_gold_needs_none(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", {"prompt": "say it", "verifier": "boxed"}, {"prompt": "say more"})
    assert [f[:2] for f in found(path)] == [("bad_row", "a.jsonl:2")]
    (tmp_path / "own.py").write_text(
        "def asks(response, gold):\n    return True\n\ndef may(response, gold=None):\n    return True\n"
    )
    rows = [{"prompt": str(k), "verifier": f"{tmp_path}/own.py:{name}"} for k, name in enumerate(("asks", "may"))]
    assert [f[:2] for f in found(write(tmp_path, "b.jsonl", *rows))] == [("bad_row", "b.jsonl:1")]


PICKY = '''
from rlvr.verifiers.extract import extract

def picky(response, gold):
    """Accepts words alone, whatever the gold is."""
    found = extract(response)
    return found is not None and found.answer == gold and gold.isalpha()

EXAMPLES = [("yes", r"\\\\boxed{yes}", 1.0), ("yes", r"\\\\boxed{no}", 0.0)]
'''


def test_a_gold_that_its_own_verifier_refuses_is_found(tmp_path: Path) -> None:
    (tmp_path / "picky.py").write_text(PICKY.replace("\\\\\\\\", "\\"))
    name = f"{tmp_path}/picky.py:picky"
    path = write(tmp_path, "a.jsonl", {"prompt": "p", "gold": "yes"}, {"prompt": "q", "gold": "42"})
    report = golds.check(path, name)
    assert [(f.kind, f.where, f.reason) for f in report.findings] == [
        ("refused", "a.jsonl:2", "as an answer, '42' is wrong")
    ]
    assert report.forms == {name: {"text": "\\boxed{{{}}}"}}
    assert (report.num_rows, report.num_unusable) == (2, 1)


def test_the_form_in_which_golds_are_tried_is_the_verifiers_own(tmp_path: Path) -> None:
    rows = [
        {"prompt": "1", "gold": '{"a": 1}', "verifier": "json"},
        {"prompt": "2", "gold": ["assert f(1) == 2"], "verifier": "python_tests"},
        {"prompt": "3", "gold": "42", "verifier": "math"},
    ]
    report = golds.check(write(tmp_path, "a.jsonl", *rows))
    assert report.findings == []
    assert report.forms == {
        "json": {"text": "{}"}, "python_tests": {"a list": None}, "math": {"text": "\\boxed{{{}}}"},
    }  # fmt: skip


def test_golds_in_every_dialect_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path, "a.jsonl",
        {"question": "x", "answer": "so\n#### 1,234"},
        {"prompt": [{"role": "user", "content": "y"}], "reward_model": {"ground_truth": "5"}},
        {"problem": "z", "solution": "6"},
        {"ask": "w", "target": "7"},
    )  # fmt: skip
    assert [f[:2] for f in found(path)] == [("bad_row", "a.jsonl:4")]
    assert found(write(tmp_path, "b.jsonl", {"ask": "w", "want": "7"}), columns={"prompt": "ask", "gold": "want"}) == []


def test_the_same_prompt_twice_is_a_duplicate_or_a_contradiction(tmp_path: Path) -> None:
    path = write(
        tmp_path, "a.jsonl",
        {"prompt": "What is 1+1?", "gold": "2"},
        {"prompt": "what is  1 + 1?\n", "gold": 2},
        {"prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "What is 1+1?"}], "gold": "3"},
        {"prompt": "What is 1-1?", "gold": "0"},
    )  # fmt: skip
    assert found(path) == [
        ("duplicate", "a.jsonl:2", "the same prompt as a.jsonl:1"),
        ("contradiction", "a.jsonl:3", "the same prompt as a.jsonl:1, whose gold is not '3'"),
    ]


def test_overlap_with_an_evaluation_set_is_found(tmp_path: Path) -> None:
    held = write(tmp_path, "eval.jsonl", {"prompt": " ".join(WORDS), "gold": "2"}, {"prompt": "short one", "gold": "1"})
    path = write(
        tmp_path, "a.jsonl",
        {"prompt": "Short  ONE", "gold": "1"},
        {"prompt": "Hear: " + " ".join(WORDS[2 : 2 + N_GRAM]) + " now", "gold": "2"},
        {"prompt": "Hear: " + " ".join(WORDS[2 : 1 + N_GRAM]) + " now", "gold": "2"},
        {"prompt": "another", "gold": "2"},
    )  # fmt: skip
    assert [f[:2] for f in found(path, against=held)] == [("overlap", "a.jsonl:1"), ("overlap", "a.jsonl:2")]
    report = golds.check(path, against=held)
    assert report.num_unusable == 0
    assert report.findings[0].reason == "the same prompt as eval.jsonl:2"
    assert report.findings[1].reason.startswith('13 words in a row as in eval.jsonl:1: "leaves the station')


def test_how_all_questions_are_put_is_no_overlap() -> None:
    frame = "solve this problem step by step and put your final answer into a box please"
    held = [(f"e:{k}", Task(id=str(k), prompt=f"{frame} {k}")) for k in range(4)]
    assert Overlap(held).find(Task(id="t", prompt=f"{frame} 77")) == ""
    assert Overlap(held[:3]).find(Task(id="t", prompt=f"{frame} 77")) != ""


def by_hand(prompts: list[list[str]], words: list[str]) -> bool:
    grams = [tuple(prompt[k : k + N_GRAM]) for prompt in prompts for k in range(len(prompt) - N_GRAM + 1)]
    return any(tuple(words[k : k + N_GRAM]) in grams for k in range(len(words) - N_GRAM + 1)) or words in prompts


@given(
    st.lists(st.lists(st.sampled_from("ab c d".split()), min_size=1, max_size=30), min_size=1, max_size=3),
    st.lists(st.sampled_from("a b c e".split()), min_size=1, max_size=40),
)
def test_overlap_is_what_a_plain_search_finds(prompts: list[list[str]], words: list[str]) -> None:
    held = [(str(k), Task(id=str(k), prompt=" ".join(prompt))) for k, prompt in enumerate(prompts)]
    shared = Overlap(held).find(Task(id="t", prompt=" ".join(words)))
    same = "".join(words) in ["".join(prompt) for prompt in prompts]  # blanks do not count where it is the whole prompt
    assert bool(shared) == (by_hand(prompts, words) or same)


def test_keys_ignore_how_a_prompt_is_written() -> None:
    turns = (Message(role="system", content="s"), Message(role="user", content="A  ½"))
    assert prompt_key(turns) == prompt_key("a 1⁄2") == prompt_key(" A1⁄2")
    assert prompt_key("2-3") != prompt_key("2+3")
    assert gold_key("42") == gold_key(42) != gold_key("43")


def test_options_that_the_verifier_does_not_take_and_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", {"prompt": "p", "gold": "1"})
    with pytest.raises(SettingsError, match=r"--option.x: verifier 'boxed' has no such option"):
        golds.check(path, "boxed", {"x": 1})
    with pytest.raises(DataError, match="no file or folder"):
        golds.check(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="no rows"):
        golds.check(write(tmp_path, "b.jsonl"))
    with pytest.raises(DataError, match=r"--against .*: no usable rows"):
        golds.check(path, against=write(tmp_path, "c.jsonl", "{}"))


@pytest.mark.slow
def test_ten_thousand_rows_take_seconds(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {k} plus {k + 1}, said a man who counts to {k}?", "gold": str(2 * k + 1)}
            for k in range(10_000)]  # fmt: skip
    path = write(tmp_path, "a.jsonl", *rows, {"prompt": "last", "gold": "?("})
    start = time.perf_counter()
    report = golds.check(path, against=path)
    seconds = time.perf_counter() - start
    assert report.counts["overlap"] == 10_001
    assert report.num_unusable == 1
    assert seconds < 30


# --- the command


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["golds", "check", *arguments])
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.out, said.err


def test_the_command_counts_writes_and_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "p", "gold": "1"}, {"prompt": "p", "gold": "2"}, {"prompt": "q"}]
    path, out = write(tmp_path, "a.jsonl", *rows), tmp_path / "bad.jsonl"
    code, said, err = command(capsys, path, "--out", str(out), "--json")
    assert (code, err) == (3, f"rlvr: {path}: 2 of 3 tasks cannot be used: see the lines above\n")
    assert "  a.jsonl:2: the same prompt as a.jsonl:1, whose gold is not '2'" in said.splitlines()
    last = json.loads(said.splitlines()[-1])
    assert last == {
        "rows": 3, "unusable": 2, "bad_row": 1, "gold_invalid": 0, "refused": 0, "contradiction": 1, "duplicate": 0,
        "overlap": 0, "forms": {"math": {"text": "\\boxed{{{}}}"}},
    }  # fmt: skip
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["where"], row["kind"]) for row in written] == [
        ("a.jsonl:2", "contradiction"),
        ("a.jsonl:3", "bad_row"),
    ]


def test_sound_tasks_end_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "a.jsonl", {"prompt": "p", "want": "1"})
    code, said, _ = command(capsys, path, "--column", "gold=want")
    assert (code, said.splitlines()[-1]) == (0, "1 rows, 0 cannot be used")


def test_wrong_arguments_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "a.jsonl", {"prompt": "p", "gold": "1"})
    assert command(capsys, path, "--option", "a=1")[::2] == (
        2, "rlvr: --option is one verifier's own; name it with -v\n",
    )  # fmt: skip
    code, _, err = command(capsys, path, "--column", "golds=x")
    assert (code, err.startswith("rlvr: --column golds=x: must be WORD=COLUMN with one of id, prompt, gold")) == (
        2,
        True,
    )
    code, _, err = command(capsys, path, "--out", f"{tmp_path}/no/x.jsonl")
    assert (code, err) == (4, f"rlvr: --out {tmp_path}/no/x.jsonl: No such file or directory\n")
