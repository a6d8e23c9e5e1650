"""`rlvr verifiers test NAME --cases FILE`: what it counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlvr import cli
from rlvr.audit_cases import measure
from rlvr.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"id": "a", "gold": "4", "response": "4", "expected": True, "kind": "right", "ambiguous": False},
    {"id": "b", "gold": "4", "response": "5", "expected": True, "kind": "right", "ambiguous": False},
    {"id": "c", "gold": "4", "response": "4", "expected": False, "kind": "cheat"},
    {"id": "d", "gold": "4", "response": "5", "expected": False, "kind": "cheat"},
    {"id": "e", "gold": "", "response": "5", "expected": False},
    {"id": "f", "gold": "4", "response": "4", "expected": False, "kind": "cheat", "ambiguous": True},
]


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    file = folder / "cases.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_counts_are_over_what_is_not_ambiguous(tmp_path: Path) -> None:
    found, lines = measure("exact", write(tmp_path, ROWS))
    assert (found["n"], found["ambiguous"]) == (5, 1)
    assert (found["accuracy"], found["false_positive"], found["false_negative"]) == (2 / 5, 1, 1)
    assert found["errors"] == {"gold_invalid": 1}
    assert found["wrong"] == ["b", "c", "e"]
    assert found["by_kind"]["right"] == {"n": 2, "accuracy": 0.5, "false_positive": 0, "false_negative": 1}
    assert found["by_kind"]["cheat"] == {"n": 2, "accuracy": 0.5, "false_positive": 1, "false_negative": 0}
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert lines[0] == "b: true is expected, is wrong: '5' is not '4'"


def test_a_score_of_half_counts_as_true(tmp_path: Path) -> None:
    plugin = tmp_path / "half.py"
    plugin.write_text("def half(response, gold):\n    return float(response)\n")
    rows = [{"gold": "x", "response": text, "expected": text >= "0.5"} for text in ("0.0", "0.49", "0.5", "1.0")]
    found, _ = measure(f"{plugin}:half", write(tmp_path, rows))
    assert (found["n"], found["accuracy"]) == (4, 1.0)


def test_a_row_that_expects_nothing_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, [ROWS[0], {"gold": "4", "response": "4"}])
    with pytest.raises(DataError, match=rf"{path}:2: no expected \(true or false\), in 1 rows"):
        measure("exact", path)


def test_a_file_that_is_ambiguous_throughout_counts_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every row is marked ambiguous"):
        measure("exact", write(tmp_path, ROWS[5:]))


def test_the_command_prints_the_counts_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, ROWS)
    with pytest.raises(SystemExit) as ended:
        cli.main(["verifiers", "test", "math", "--cases", path, "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    wanted = {"n", "accuracy", "false_positive", "false_negative", "errors", "p50_ms", "p99_ms", "max_ms", "ambiguous"}
    assert wanted <= set(found)
    assert found["errors"] == {"gold_invalid": 1}


def test_cases_and_golds_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["verifiers", "test", "math", "--cases", write(tmp_path, ROWS), "--gold", "3"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "rlvr: --gold goes with an audit; --cases judges its file alone\n"
