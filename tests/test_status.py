from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import DataError
from rlvr.status import merged, render, status

RECIPE = "stage: rl\nsteps: 100\nmodel:\n  path: runs/sft/model\n"


def make(run_dir: Path, rows: list[dict[str, Any]], summary: dict[str, Any] | None = None, tail: str = "") -> Path:
    run_dir.mkdir(exist_ok=True)
    (run_dir / "recipe.yaml").write_text(RECIPE)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    if summary is not None:
        (run_dir / "summary.json").write_text(json.dumps(summary))
    return run_dir


def rows(num: int) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "reward": step / 100,
            "completions/mean_length": 31.25,
            "step_time": 1.5,
            "rewards/format/mean": 0.5,
        }
        for step in range(1, num + 1)
    ]


def test_a_stopped_run_says_how_far_it_came(tmp_path: Path) -> None:
    run_dir = make(
        tmp_path / "grpo",
        [{"step": 0, "eval/pass@1": 0.25, "eval/ci95_low": 0.2, "eval/ci95_high": 0.3}, *rows(40)],
        tail='{"step": 41',
    )
    (run_dir / ".lock").touch()
    report = status(run_dir)
    assert (report["state"], report["stage"], report["model"]) == ("stopped", "rl", "runs/sft/model")
    assert (report["steps_done"], report["steps_total"]) == (40, 100)
    assert (report["seconds_per_step"], report["seconds_left"]) == (1.5, 90.0)
    assert report["metrics"] == {"reward": 0.4, "rewards/format/mean": 0.5, "completions/mean_length": 31.25}
    assert next(iter(report["metrics"])) == "reward"
    assert render(report).splitlines() == [
        f"{run_dir}  (rl, from runs/sft/model)",
        "stopped  step 40/100  1.5 s/step  1m30s left once resumed",
        "reward 0.4  format 0.5  length 31.2",
        "before pass@1 0.250 [0.200, 0.300] at step 0",
    ]
    assert json.loads(json.dumps(report)) == report


def test_a_run_whose_lock_is_held_is_running(tmp_path: Path) -> None:
    run_dir = make(tmp_path / "grpo", rows(40))
    with open(run_dir / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert status(run_dir)["state"] == "running"
        assert "running  step 40/100  1.5 s/step  1m30s left" in render(status(run_dir))
    assert status(run_dir)["state"] == "stopped"
    with open(run_dir / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # looking left no lock behind


def test_a_finished_run_shows_before_and_after(tmp_path: Path) -> None:
    ends = {
        "before": {"pass@1": 0.14, "ci95": [0.1, 0.2], "n_tasks": 128},
        "after": {"pass@1": 0.86, "ci95": [0.8, 0.91], "n_tasks": 128},
    }
    report = status(make(tmp_path / "grpo", rows(100), {"steps": 100, "warnings": 3, **ends}))
    assert (report["state"], report["before"], report["after"]) == ("finished", ends["before"], ends["after"])
    assert (report["seconds_left"], report["warnings"]) == (0.0, 3)
    assert render(report).splitlines()[1:] == [
        "finished  step 100/100  1.5 s/step",
        "reward 1  format 0.5  length 31.2",
        "before pass@1 0.140 [0.100, 0.200] on 128 tasks",
        "after  pass@1 0.860 [0.800, 0.910] on 128 tasks",
        "3 warnings while training",
    ]


def test_a_run_before_its_first_step_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    report = status(tmp_path)
    assert (report["state"], report["steps_done"], report["seconds_left"], report["before"]) == (
        "stopped",
        0,
        None,
        None,
    )
    assert render(report).splitlines()[1:] == ["stopped  step 0/100"]


def test_a_run_that_is_under_way_tells_no_warnings_yet(tmp_path: Path) -> None:
    assert status(make(tmp_path / "run", [{"step": 1}, {"step": 2}]))["warnings"] == 0


def test_a_reward_model_shows_what_it_is_worth_on_held_out_rows(tmp_path: Path) -> None:
    measured = {"accuracy": 0.75, "ceiling_share": 0.9, "ece": 0.02, "calibration_slope": None}
    logged = [{"step": 1, "loss": 0.6, "accuracy": 0.7, "margin": 0.3}]
    logged.append({"step": 1, **{f"eval/{name}": value for name, value in measured.items()}})
    report = status(make(tmp_path / "rm", logged))
    assert report["metrics"] == {"loss": 0.6, "accuracy": 0.7, "margin": 0.3}
    assert report["after"] == {"accuracy": 0.75, "ceiling_share": 0.9, "ece": 0.02, "step": 1}
    assert render(report).splitlines()[-1] == "after  accuracy 0.750  ceiling_share 0.900  ece 0.020  at step 1"
    after = {**measured, "best_of": {"accuracy": 0.5}, "probes": {"polite": {"as_expected": 1.0}}}
    told = render(status(make(tmp_path / "rm", logged, {"steps": 1, "after": after}))).splitlines()[-1]
    assert told == (
        "after  accuracy 0.750  ceiling_share 0.900  ece 0.020  best_of/accuracy 0.500  polite 1.00 as expected"
    )


def test_rows_of_the_same_step_are_one() -> None:
    logged = [{"step": 2, "reward": 0.5}, {"step": 1, "reward": 0.1}, {"step": 2, "eval/pass@1": 0.3}]
    assert merged(logged) == [{"step": 1, "reward": 0.1}, {"step": 2, "reward": 0.5, "eval/pass@1": 0.3}]


def test_bad_input_is_one_line_that_says_what_is_wrong(tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError, match=r"is no run folder \(no recipe\.yaml in it\)$"):
            status(folder)
    make(tmp_path / "sft", [])
    with pytest.raises(DataError, match="runs in it: sft"):
        status(tmp_path)
    make(tmp_path, [], tail='[1]\n{"step": 1}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:1: not a JSON object"):
        status(tmp_path)
