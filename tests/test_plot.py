from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from rlvr.errors import DataError, DiskError
from rlvr.plot import figure, moving_average, plot


def rl_rows(num: int = 60) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for step in range(1, num + 1):
        reward = 0.9 - 0.7 * np.exp(-step / 20) + rng.normal(0, 0.04)
        rows.append(
            {
                "schema": 1,
                "step": step,
                "reward": reward,
                "rewards/answer/mean": reward - 0.1,
                "rewards/format/mean": min(1.0, 0.5 + step / 50),
                "completions/mean_length": 30 + 0.2 * step,
                "completions/clipped_ratio": 0.3 / step,
                "frac_reward_zero_std": 0.1 + step / 200,
                "entropy": 1.5 / step**0.3,
                "kl": 0.0005 * step,
                "grad_norm": 0.5 + rng.random() / 5,
                "sampling/sampling_logp_difference/mean": 1e-6 * (1 + rng.random()),
                "step_time": 1.1 + rng.random() / 10,
            }
        )
        if step % 20 == 0:
            rows[-1] |= {
                "eval/pass@1": 0.2 + step / 100,
                "eval/ci95_low": 0.1 + step / 100,
                "eval/ci95_high": 0.3 + step / 100,
            }
    return rows


SUMMARY = {
    "steps": 60,
    "before": {"pass@1": 0.14, "ci95": [0.1, 0.2], "n_tasks": 128},
    "after": {"pass@1": 0.86, "ci95": [0.8, 0.91], "n_tasks": 128},
}


def write(run_dir: Path, rows: list[dict[str, Any]], summary: dict[str, Any] | None = None, tail: str = "") -> Path:
    run_dir.mkdir(exist_ok=True)
    (run_dir / "recipe.yaml").write_text("stage: rl\n")
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    if summary is not None:
        (run_dir / "summary.json").write_text(json.dumps(summary))
    return run_dir


def panel(drawing: Figure, title: str) -> Axes:
    (axes,) = [axes for axes in drawing.axes if axes.get_title() == title]
    return axes


def line(axes: Axes, label: str) -> tuple[list[float], list[float]]:
    (found,) = [found for found in axes.lines if found.get_label() == label]
    return list(found.get_xdata()), list(found.get_ydata())


def test_the_picture_is_written_and_shows_something(tmp_path: Path) -> None:
    out = plot(write(tmp_path / "grpo", rl_rows(), SUMMARY, tail='{"step": 61, "rew'))
    assert out == tmp_path / "grpo" / "plot.png"
    height, width, _ = imread(out).shape
    assert 1200 < width < 2000
    assert 1000 < height < 2000
    assert imread(out)[..., :3].std() > 0.05  # not one colour
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "metrics.jsonl",
        "plot.png",
        "recipe.yaml",
        "summary.json",
    ]


def test_the_lines_hold_the_values_of_the_run() -> None:
    rows = rl_rows()
    drawing = figure(rows, SUMMARY, "grpo")
    assert drawing.get_suptitle() == "grpo: 60 steps, pass@1 0.14 before, 0.86 after"
    assert line(panel(drawing, "Reward"), "each step") == (
        list(range(1, 61)),
        [row["reward"] for row in rows],
    )
    average = line(panel(drawing, "Reward"), "mean over 7 steps")[1]
    assert average[10] == pytest.approx(np.mean([row["reward"] for row in rows[7:14]]))
    assert line(panel(drawing, "Parts of the reward"), "format")[1][0] == pytest.approx(0.52)
    assert line(panel(drawing, "Completion length"), "mean")[1][-1] == pytest.approx(42.0)
    assert line(panel(drawing, "Shares"), "cut at max_tokens")[1][0] == pytest.approx(0.3)
    assert panel(drawing, "Sampler and trainer disagree by").get_yscale() == "log"
    assert len(drawing.axes) == 10
    for axes in drawing.axes:
        assert axes.get_xlabel() == "step"
        assert axes.get_ylabel()


def test_evaluations_are_points_with_intervals_and_the_summary_has_the_last_word() -> None:
    axes = panel(figure(rl_rows(), SUMMARY, "grpo"), "Held-out tasks")
    assert line(axes, "pass@1") == ([0, 20, 40, 60], [0.14, pytest.approx(0.4), pytest.approx(0.6), 0.86])
    segments = axes.collections[0].get_segments()
    assert [tuple(segment[:, 1]) for segment in segments] == [
        pytest.approx(ends) for ends in ((0.1, 0.2), (0.3, 0.5), (0.5, 0.7), (0.8, 0.91))
    ]


def test_only_what_was_measured_gets_a_panel() -> None:
    rows = [{"step": step, "loss": 2.0 / step, "lr": 1e-3, "perf/tokens_per_second": 5e4} for step in range(1, 5)]
    drawing = figure(rows, {}, "sft")
    assert [axes.get_title() for axes in drawing.axes] == ["Loss", "Learning rate", "Throughput"]
    assert line(panel(drawing, "Loss"), "training") == ([1, 2, 3, 4], [2.0, 1.0, 2 / 3, 0.5])


def test_values_that_are_not_numbers_leave_a_gap() -> None:
    rows = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": float("nan")},
        {"step": 3, "loss": None},
        {"step": 4, "loss": 1.0},
    ]
    assert line(figure(rows, {}, "sft").axes[0], "training") == ([1, 4], [2.0, 1.0])


def test_a_moving_average_uses_fewer_neighbours_at_the_ends() -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0, 9.0])
    assert moving_average(values, 3) == pytest.approx([1.5, 1.5, 3.0, 6.5, 6.5])
    assert moving_average(values, 1)[[0, 1, 3, 4]] == pytest.approx([1, 2, 4, 9])


def test_bad_input_is_one_line_that_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is no run folder \(no recipe\.yaml in it\)$"):
        plot(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"nothing to draw, metrics\.jsonl has no rows$"):
        plot(write(tmp_path / "empty", []))
    with pytest.raises(DataError, match=r"is no run folder .*runs in it: empty"):
        plot(tmp_path)
    with pytest.raises(DataError, match=r"metrics\.jsonl:2"):
        plot(write(tmp_path / "torn", [{"step": 1, "loss": 1.0}], tail='{"step\n{"step": 3}\n'))
    good = write(tmp_path / "good", [{"step": 1, "loss": 1.0}])
    with pytest.raises(DataError, match=r"use \.png"):
        plot(good, tmp_path / "plot.docx")
    with pytest.raises(DiskError, match="cannot write"):
        plot(good, tmp_path / "no such folder" / "plot.png")


def test_other_kinds_of_picture_by_their_ending(tmp_path: Path) -> None:
    out = plot(write(tmp_path / "run", [{"step": 1, "loss": 1.0}]), tmp_path / "loss.svg")
    assert "<svg" in out.read_text()
