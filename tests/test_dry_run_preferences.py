"""What `--dry-run` of the stages reward_model and dpo finds out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr import cli

PAIRS = [
    {"prompt": "Q1: ", "chosen": "yes", "rejected": "no"},
    {"prompt": "Q2: ", "chosen": "fine", "rejected": "bad", "votes": {"chosen": 3, "rejected": 1}},
    {"prompt": "Q3: ", "chosen": "same", "rejected": "same"},
    {"prompt": "Q4: ", "chosen": "x" * 300, "rejected": "y"},
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, *rows: dict[str, Any]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe(stage: str, model: Path, *overrides: str) -> list[str]:
    """Arguments for a recipe that trains on train.jsonl and holds test.jsonl out."""
    values = {
        "stage": stage,
        "steps": 1,
        "model": {"path": str(model)},
        "data": {"path": "train.jsonl"},
        "eval": {"tasks": {"path": "test.jsonl"}},
        "run": {"dir": "out"},
    }
    Path("r.yaml").write_text(yaml.safe_dump(values))
    return [stage.replace("_", "-"), "r.yaml", *overrides, "--dry-run"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)"""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.out, said.err


def found(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, err = run(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("stage", ["reward_model", "dpo"])
def test_rows_are_counted_and_the_first_is_shown_as_the_model_reads_it(
    folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    write("train.jsonl", {"prompt": "Q0: ", "chosen": "held", "rejected": "out"}, *PAIRS)
    write("test.jsonl", {"prompt": "Q0: ", "chosen": "yes", "rejected": "no"})
    assert found(capsys, *recipe(stage, tiny_model, "data.on_bad_row=skip")) == {
        "stage": stage,
        "steps": 1,
        "comparisons": 3,
        "bad_rows": 1,
        "same_prompt": 1,
        "too_long": 1,
        "context": 256,
        "held_out": 1,
        "held_out_are": "comparisons",
        "tokens": [8, 8, 9],
        "first": "Q1: ",
        "chosen": "yes<eos>",
        "rejected": "no<eos>",
        "probability": 1.0,
    }
    assert not Path("out").exists()


@pytest.mark.parametrize("stage", ["reward_model", "dpo"])
@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (PAIRS[:3], "train.jsonl:3: chosen and rejected are the same text, so that nothing is preferred"),
        ([*PAIRS[:2], PAIRS[3]], "train:3: has 305 tokens with its end token; at most 256 are allowed"),
    ],
)
def test_bad_rows_end_it_with_a_line_each(
    folder: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    rows: list[dict[str, Any]],
    told: str,
) -> None:
    write("train.jsonl", *rows)
    write("test.jsonl", PAIRS[1] | {"prompt": "other"})
    code, out, err = run(capsys, *recipe(stage, tiny_model))
    assert (code, out, err.splitlines()[1:]) == (3, "", [told])


def test_rankings_ratings_and_best_of_rows_are_counted_by_their_kind(
    folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("train.jsonl", {"prompt": "Q: ", "completions": ["a", "b", "c"], "order": [[2], [0, 1]]})
    write("test.jsonl", {"prompt": "R: ", "chosen": ["a"], "rejected": ["b", "c", "d"]})
    ranked = found(capsys, *recipe("reward_model", tiny_model, "loss.kind=plackett_luce"))
    assert (ranked["rankings"], ranked["held_out"], ranked["held_out_are"]) == (1, 1, "best-of-N rows")
    assert (ranked["first"], ranked["best_first"]) == ("Q: ", [["c<eos>"], ["a<eos>", "b<eos>"]])
    paired = found(capsys, *recipe("reward_model", tiny_model))
    assert (paired["comparisons"], paired["chosen"], paired["rejected"]) == (2, "c<eos>", "a<eos>")
    write("train.jsonl", {"prompt": "Q: ", "completion": "a", "label": False})
    write("test.jsonl", {"prompt": "R: ", "completion": "a", "label": True})
    rated = found(capsys, *recipe("dpo", tiny_model, "loss.kind=kto"))
    assert (rated["ratings"], rated["completion"], rated["label"]) == (1, "a<eos>", False)
    write("train.jsonl", {"prompt": "Q: ", "completion": "a", "scores": {"kind": 1.5}})
    write("test.jsonl", {"prompt": "R: ", "completion": "a", "scores": {"kind": 2}})
    scored = found(capsys, *recipe("reward_model", tiny_model, "loss.kind=regression"))
    assert (scored["ratings"], scored["scores"]) == (1, {"kind": 1.5})


@pytest.mark.parametrize(
    ("stage", "row", "told"),
    [
        (
            "reward_model",
            {"prompt": "Q: ", "completion": "a", "label": 1},
            "train.jsonl holds ratings, and loss.kind",
        ),
        (
            "dpo",
            {"prompt": "Q: ", "completion": "a", "label": 1},
            "train.jsonl holds ratings, and loss.kind",
        ),
        ("dpo", {"prompt": "Q: ", "chosen": ["a"], "rejected": ["b"]}, "train.jsonl holds best-of-N rows, and"),
        (
            "dpo",
            {"prompt": "Q: ", "choosen": "a", "rejected": "b"},
            "rows cannot be used (none is left; data.columns",
        ),
    ],
)
def test_rows_that_the_loss_cannot_learn_from_are_told(
    folder: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    row: dict[str, Any],
    told: str,
) -> None:
    write("train.jsonl", row)
    write("test.jsonl", PAIRS[0])
    code, out, err = run(capsys, *recipe(stage, tiny_model))
    assert (code, out) == (3, "")
    assert told in err.splitlines()[0]


def test_a_model_that_is_not_there_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("train.jsonl", PAIRS[0])
    write("test.jsonl", PAIRS[1])
    for stage in ("reward_model", "dpo"):
        code, _, err = run(capsys, *recipe(stage, folder / "absent"))
        assert (code, err.count("\n")) == (3, 1)
        assert f"model.path {folder}/absent: no such folder" in err
