from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from scorer_cases import make_rollout

from rlvr import cli, rollout_table
from rlvr.errors import DataError, DiskError
from rlvr.plot import best_of_n, divergence, figure, moving_average, plot
from rlvr.types import Group, Rollout, Task, Verdict


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


# --- proxy against KL ------------------------------------------------------------------------------------------------


def test_best_of_n_is_the_mean_over_all_draws() -> None:
    rewards, worths = [3.0, 1.0, 2.0, 2.0, 0.0], [[1.0, 9.0], [2.0, 8.0], [3.0, 7.0], [4.0, 5.0], [6.0, 0.0]]
    found = best_of_n(rewards, worths, 5)
    for n in range(1, 6):
        picked = []
        for draw in itertools.combinations(range(5), n):
            highest = max(rewards[k] for k in draw)
            ties = [k for k in draw if rewards[k] == highest]
            picked.append(np.mean([worths[k] for k in ties], axis=0))
        assert found[n - 1] == pytest.approx(np.mean(picked, axis=0)), n


def run_with_proxy(folder: Path, has_kl: bool = True, **more: Any) -> Path:
    """Two groups of three whose style is worth 1, 2, 3 and whose right is the opposite; four steps."""

    def rollout(group: int, k: int) -> Rollout:
        verdicts = {
            "style": Verdict(score=0.5, value=float(k + 1), outcome="partial"),
            "right": Verdict(score=1 - k / 2, outcome="partial"),
        }
        return replace(make_rollout("x", k), id=f"1/t{group}/{k}", verdicts=verdicts, reward=float(k + 1))

    groups = [
        Group(task=Task(id=f"t{g}", prompt="q"), prompt_ids=(3,), rollouts=tuple(rollout(g, k) for k in range(3)))
        for g in range(2)
    ]
    steps = [
        {
            "step": k,
            "reward": 1.0,
            "rewards/style/mean": 2.0 + k,
            "rewards/right/mean": 1 / k,
            "completions/mean_length": 10.0,
        }
        | ({"kl": 0.01 * k - 0.02} if has_kl else {})
        for k in range(1, 5)
    ]
    write(folder, steps)
    parts = {"style": {"kind": "model", "path": "rm"}, "right": {"verifier": "math", "weight": 0}}
    (folder / "recipe.yaml").write_text(json.dumps({"stage": "rl", "rewards": parts, "kl": {"kind": "k3"}, **more}))
    (folder / "rollouts").mkdir()
    table = pa.Table.from_pylist(rollout_table.rows(1, groups, {}, {}), schema=rollout_table.schema())
    pq.write_table(table, folder / "rollouts" / "000001.parquet")
    return folder


def test_the_curve_of_proxy_and_truth_against_kl_stands_beside_best_of_n(tmp_path: Path) -> None:
    curve = divergence(run_with_proxy(tmp_path / "run"))
    assert curve is not None
    assert curve["kl"] == pytest.approx([0.0, 0.0, 0.1, 0.2])  # per completion, and a negative estimate is none
    assert curve["parts"] == {"style": [3.0, 4.0, 5.0, 6.0], "right": pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])}
    best = curve["best_of_n"]
    assert best["n"] == [1, 2, 3]
    assert best["kl"] == pytest.approx([0.0, np.log(2) - 1 / 2, np.log(3) - 2 / 3])
    assert best["parts"]["style"] == pytest.approx([2.0, 8 / 3, 3.0])
    assert best["parts"]["right"] == pytest.approx([0.5, 1 / 6, 0.0])
    drawing = figure([{"step": 1, "reward": 1.0}], {}, "run", curve=curve)
    (axes,) = [axes for axes in drawing.axes if axes.get_title() == "style against KL"]
    assert axes.get_xlabel().startswith("square root") and len(axes.lines) == 2
    assert list(axes.lines[1].get_ydata()) == pytest.approx([2.0, 8 / 3, 3.0])
    assert plot(tmp_path / "run").is_file()


def test_there_is_no_curve_without_a_proxy_or_without_kl(tmp_path: Path) -> None:
    assert divergence(run_with_proxy(tmp_path / "no kl", has_kl=False)) is None
    assert divergence(run_with_proxy(tmp_path / "verified", rewards={"right": {"verifier": "math"}})) is None
    for k, kl in enumerate(({"kind": "k2"}, {"kind": "abs", "where": "reward"}, {"kind": None, "where": "loss"})):
        assert divergence(run_with_proxy(tmp_path / f"other {k}", kl=kl)) is None
    for k, kl in enumerate(({"kind": "k3+"}, {"kind": None, "where": "loss", "weighted": True})):
        assert divergence(run_with_proxy(tmp_path / f"kl {k}", kl=kl)) is not None
    other = divergence(run_with_proxy(tmp_path / "teacher", reference={"path": "another"}))
    assert other is not None and other["best_of_n"] is None  # step 1 was not written by that reference


def test_numbers_of_the_curve_are_in_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["plot", str(run_with_proxy(tmp_path / "run")), "--json"])
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["divergence"] == divergence(tmp_path / "run")


def panels(drawing: Figure) -> dict[str, Axes]:
    return {axes.get_title(): axes for axes in drawing.axes}


@pytest.mark.parametrize("stage", ["reward_model", "dpo"])
def test_a_run_on_preferences_is_drawn_with_its_accuracy_and_what_is_held_out(stage: str) -> None:
    names = ("accuracy", "margin") if stage == "reward_model" else ("rewards/accuracies", "rewards/margins")
    rows: list[dict[str, Any]] = [{"step": k, "loss": 0.5, names[0]: k / 10, names[1]: k / 5} for k in range(1, 6)]
    rows[-1] |= {"eval/accuracy": 0.7, "eval/ceiling_share": 0.9, "eval/ece": 0.02}
    drawn = panels(figure(rows, {}, "run", stage=stage))
    assert set(drawn) == {"Loss", "Accuracy", "Margins", "Calibration", "Share of the ceiling"}
    assert drawn["Loss"].get_ylabel() == "mean over a batch"
    lines = {line.get_label(): line.get_ydata() for line in drawn["Accuracy"].get_lines()}
    assert {name: list(values) for name, values in lines.items()} == {  # pyright: ignore[reportArgumentType]
        "training": [0.1, 0.2, 0.3, 0.4, 0.5],
        "held out": [0.7],
    }
    assert set(panels(figure(rows, {}, "run", stage="sft"))) == {"Loss"}


def test_a_critic_and_an_adaptive_coefficient_have_their_panels() -> None:
    more = {"critic/vf_explained_var": 0.4, "critic/vf_explained_var_mc": 0.3, "loss/value_avg": 0.1, "kl/coef": 0.05}
    drawn = panels(figure([{**row, **more} for row in rl_rows(3)], {}, "run"))
    ys = [list(line.get_ydata()) for line in drawn["Explained variance of the critic"].get_lines()]  # pyright: ignore[reportArgumentType]
    assert ys == [[0.4] * 3, [0.3] * 3]
    assert {"Loss of the critic", "Coefficient of the KL"} <= set(drawn)
    assert not {"Loss of the critic", "Coefficient of the KL"} & set(panels(figure(rl_rows(3), {}, "run")))


def test_a_loop_is_drawn_by_its_rounds_with_the_gate_and_the_reward_model() -> None:
    rows = [{"step": 0, "labels/num": 0.0}]
    for k in (1, 2):
        gate = {"gate/before": 0.1 * k, "gate/after": 0.2 * k, "gate/delta": 0.1 * k}
        measured = {"accuracy": 0.6, "reward_model/expected_accuracy": 0.7, "reward": 0.3 * k, "kl": 0.01}
        rows.append({"step": k, "labels/num": 60.0 * k, "labels/new": 80.0, **gate, **measured})
    drawing = figure(rows, {}, "circle", stage="loop")
    found = panels(drawing)
    assert line(found["Held-out tasks"], "current policy") == ([1, 2], [0.1, 0.2])
    assert line(found["Held-out tasks"], "new policy") == ([1, 2], [0.2, 0.4])
    assert line(found["Accuracy of the reward model"], "labels") == ([1, 2], [0.6, 0.6])
    assert line(found["Accuracy of the reward model"], "true preferences, expected") == ([1, 2], [0.7, 0.7])
    for axes in found.values():
        assert axes.get_xlabel() == "round"
        assert all(float(tick).is_integer() for tick in axes.get_xticks())
    suptitle = drawing.get_suptitle()
    assert suptitle == "circle: 2 rounds"
