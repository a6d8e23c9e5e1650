"""What `--dry-run` and the start of a run find out before anything is trained or sampled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from scorer_cases import save_scorer

from rlvr import cli
from rlvr.sandbox import tiers

RIGHT = {"prompt": "Add two numbers.", "gold": ["assert add(1, 2) == 3"], "verifier": "python_tests"}
MALFORMED = {"prompt": "Add them.", "gold": ["assert add(1, 2) =="], "verifier": "python_tests"}
HELD_OUT = {"prompt": "Add three numbers.", "gold": ["assert add(1, 2, 3) == 6"], "verifier": "python_tests"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, *rows: dict[str, Any]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def recipe(model: Path, *overrides: str) -> list[str]:
    """Arguments for a recipe that trains on train.jsonl and holds test.jsonl out."""
    values = {
        "stage": "rl",
        "steps": 1,
        "model": {"path": str(model)},
        "data": {"path": "train.jsonl"},
        "eval": {"tasks": {"path": "test.jsonl"}, "every": 0, "max_tokens": 4},
        "engine": {"kind": "hf"},
        "sample": {"groups_per_step": 1, "group_size": 2, "max_tokens": 4},
        "run": {"dir": "out"},
    }
    Path("r.yaml").write_text(yaml.safe_dump(values))
    return ["r.yaml", *overrides]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)"""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.out, said.err


def test_rows_whose_gold_is_no_use_are_named(
    folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("train.jsonl", RIGHT, MALFORMED, {**MALFORMED, "id": "mine", "prompt": "Subtract."})
    write("test.jsonl", HELD_OUT)
    code, out, err = run(capsys, "train", *recipe(tiny_model), "--dry-run")
    assert (code, out) == (3, "")
    head, *lines = err.rstrip("\n").split("\n")
    assert head == (
        "rlvr: train.jsonl: 2 of 3 rows cannot be used (gold_invalid, never judged; "
        "set data.on_bad_row=skip to go on with them):"
    )
    assert [line.partition(": test 1 of 1: ")[0] for line in lines] == ["train:2", "mine"]
    code, out, _ = run(capsys, "train", *recipe(tiny_model, "data.on_bad_row=skip"), "--dry-run", "--json")
    assert (code, json.loads(out.splitlines()[-1])["gold_invalid"]) == (0, 2)


def test_golds_of_held_out_tasks_are_looked_at_too(
    folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("train.jsonl", RIGHT)
    write("test.jsonl", HELD_OUT, {**HELD_OUT, "prompt": "Add.", "gold": {"inputs": ["1"], "outputs": ["1"]}})
    code, _, err = run(capsys, "train", *recipe(tiny_model), "--dry-run")
    assert code == 3
    assert err.split("\n")[:2] == [
        "rlvr: test.jsonl: 1 of 2 rows cannot be used (gold_invalid, never judged; "
        "set eval.tasks.on_bad_row=skip to go on with them):",
        "test:2: the tests are of the kind stdin, which the verifier stdin_stdout judges",
    ]


def test_a_gold_is_looked_at_with_the_verifier_that_judges_it(
    folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("train.jsonl", {"prompt": "Add.", "gold": "3", "verifier": "math"})
    write("test.jsonl", {"prompt": "Add more.", "gold": "3", "verifier": "math"})
    code, out, _ = run(capsys, "train", *recipe(tiny_model), "--dry-run", "--json")
    assert (code, json.loads(out.splitlines()[-1])["gold_invalid"]) == (0, 0)
    part = "rewards.answer.verifier=stdin_stdout"
    code, _, err = run(capsys, "train", *recipe(tiny_model, part), "--dry-run")
    assert (code, err.splitlines()[1][:34]) == (3, "train:1: the tests are of the kind")


@pytest.mark.parametrize("dry", [["--dry-run"], []], ids=["dry", "real"])
def test_data_that_is_held_out_altogether_is_told(
    folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], dry: list[str]
) -> None:
    write("train.jsonl", RIGHT)
    code, _, err = run(capsys, "train", *recipe(tiny_model, "eval.tasks.path=train.jsonl"), *dry)
    assert code == 3
    assert err.splitlines()[-1] == "rlvr: nothing is left to train on: every prompt is also in eval.tasks"


@pytest.mark.parametrize("dry", [["--dry-run"], []], ids=["dry", "real"])
def test_nothing_is_trained_where_programs_cannot_be_isolated(
    folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, dry: list[str]
) -> None:
    monkeypatch.setattr(tiers, "_problems", {"A": "no namespaces here", "B": "no Landlock here"})
    write("train.jsonl", RIGHT)
    write("test.jsonl", HELD_OUT)
    code, _, err = run(capsys, "train", *recipe(tiny_model), *dry)
    why = "programs cannot be isolated here; tier A: no namespaces here; tier B: no Landlock here"
    assert (code, err.splitlines()[-1]) == (2, f"rlvr: verifier 'python_tests': {why}")


def test_nothing_is_evaluated_where_programs_cannot_be_isolated(
    folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiers, "_problems", {"A": "no namespaces here", "B": "no Landlock here"})
    write("test.jsonl", HELD_OUT)
    arguments = ["--model", str(tiny_model), "--tasks", "test.jsonl", "--engine", "hf", "--max-tokens", "4"]
    code, _, err = run(capsys, "eval", *arguments)
    assert code == 2
    assert err.splitlines()[-1].startswith("rlvr: verifier 'python_tests': programs cannot be isolated here; ")


def test_a_reward_model_without_a_head_or_the_label_is_told(
    folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("train.jsonl", {"prompt": "2", "gold": "3", "verifier": "math"})
    write("test.jsonl", {"prompt": "3", "gold": "3", "verifier": "math"})

    def told(path: Path, *overrides: str) -> tuple[int, str]:
        part = [f"rewards.m.{setting}" for setting in ("kind=model", f"path={path}", *overrides)]
        code, _, err = run(capsys, "train", *recipe(tiny_model, *part), "--dry-run")
        return code, err.rstrip("\n").rpartition("\n")[2]

    code, line = told(tiny_model)
    assert (code, line.partition("; ")[0]) == (
        3,
        f"rlvr: rewards.m.path {tiny_model}: Qwen3ForCausalLM is no classifier (..ForSequenceClassification)",
    )
    scorer = save_scorer(folder / "scorer", labels=("fine", "rude"))
    assert told(scorer, "label=fine")[0] == told(scorer, "attributes={rude: -1.0}")[0] == 0
    code, line = told(scorer, "label=fin")
    assert code == 3
    assert "the model has no label 'fin'; did you mean 'fine'?" in line
