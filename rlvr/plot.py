"""A picture of a run: RUN/plot.png, one panel for each thing that was measured, against the step."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlvr import runs
from rlvr.errors import DataError, DiskError
from rlvr.status import eval_interval, merged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people tell apart (https://jfly.uni-koeln.de/color/); yellow is too pale
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLUMNS = 3


@dataclass(frozen=True, slots=True)
class _Panel:
    """One pair of axes. _Panel("Completion length", "tokens", {"completions/mean_length": "mean"})"""

    title: str
    unit: str
    metrics: Mapping[str, str]
    """Metric: its label; those that the run lacks are left out, and the panel with them where none is left."""
    log: bool = False
    limits: tuple[float, float] | None = None
    from_zero: bool = False
    """So that a few per cent of noise look like a few per cent."""


_RL = (
    _Panel("Completion length", "tokens", {"completions/mean_length": "mean"}, from_zero=True),
    _Panel(
        "Shares",
        "share",
        {"completions/clipped_ratio": "cut at max_tokens", "frac_reward_zero_std": "groups with equal rewards"},
        limits=(-0.03, 1.03),
    ),
    _Panel("Entropy", "nats per token", {"entropy": "entropy"}),
    _Panel("KL from the reference", "nats", {"kl": "kl"}),
    _Panel("Gradient norm", "norm before clipping", {"grad_norm": "gradient norm"}, from_zero=True),
    _Panel(
        "Sampler and trainer disagree by",
        "nats per token",
        {"sampling/sampling_logp_difference/mean": "mean |difference of logp|"},
        log=True,
    ),
    _Panel("Time of a step", "seconds", {"step_time": "step_time"}, from_zero=True),
)
_SUPERVISED = (
    _Panel("Loss", "nats per token", {"loss": "training"}),
    _Panel("Gradient norm", "norm before clipping", {"grad_norm": "gradient norm"}, from_zero=True),
    _Panel("Learning rate", "learning rate", {"lr": "lr"}),
    _Panel(
        "Throughput",
        "tokens per second",
        {"perf/tokens_per_second": "tokens/s"},
        from_zero=True,
    ),
    _Panel("Time of a step", "seconds", {"step_time": "step_time"}, from_zero=True),
)


def plot(run_dir: Path, out: Path | None = None) -> Path:
    """Draw the run into `out` (RUN/plot.png without it; the ending names the format) and return its path.

    DataError where there is nothing to draw, DiskError where the picture cannot be written.
    """
    run_dir = Path(run_dir)
    out = run_dir / "plot.png" if out is None else Path(out)
    runs.read_recipe(run_dir)  # DataError where the folder is no run
    rows, summary = merged(runs.read_metrics(run_dir)), runs.read_summary(run_dir) or {}
    drawing = figure(rows, summary, run_dir.resolve().name, where=str(run_dir))
    kind = out.suffix.removeprefix(".") or "png"
    if kind not in drawing.canvas.get_supported_filetypes():
        raise DataError(f"{out}: unknown kind of picture {kind!r}, use .png, .svg or .pdf")
    part = out.with_name(f".{out.name}.part")  # a viewer that looks at the same time never sees half a picture
    try:
        drawing.savefig(part, format=kind, dpi=110)
        os.replace(part, out)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DiskError(f"cannot write {out}: {error.strerror or error}") from error
    return out


def figure(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], name: str, *, where: str = "") -> Figure:
    """The picture of rows (as in metrics.jsonl, by step) and summary (as in summary.json, or {}), not yet written.

    DataError where rows have no metric that we draw; `where` names the run in its text.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import; Agg needs no display
    from matplotlib.figure import Figure

    drawers = _drawers(rows, summary)
    if not drawers:
        raise DataError(f"{where or name}: nothing to draw, metrics.jsonl has {len(rows) or 'no'} rows")
    num_columns = 2 if len(drawers) == 4 else min(COLUMNS, len(drawers))
    num_rows = math.ceil(len(drawers) / num_columns)
    drawing = Figure(figsize=(4.6 * num_columns, 3.1 * num_rows + 0.5))
    drawing.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    FigureCanvasAgg(drawing)
    for place, draw in enumerate(drawers, start=1):
        axes = drawing.add_subplot(num_rows, num_columns, place)
        draw(axes)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        handles, labels = axes.get_legend_handles_labels()
        if len(handles) > 1:
            axes.legend(handles, labels, fontsize=8, frameon=False)
    drawing.suptitle(_title(rows, summary, name), fontsize=12)
    return drawing


def moving_average(values_T: np.ndarray, window: int) -> np.ndarray:
    """Mean of each value and its neighbours, [T]: `window` of them (odd), fewer at both ends; NaN is left out."""
    ones = np.ones(window)
    known = np.isfinite(values_T)
    total = np.convolve(np.where(known, values_T, 0.0), ones)
    count = np.convolve(known.astype(float), ones)
    middle = slice(window // 2, window // 2 + len(values_T))
    return np.divide(total[middle], count[middle], out=np.full(len(values_T), np.nan), where=count[middle] > 0)


def _drawers(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[Any]:
    """One function of the axes for each panel that has something to show."""
    names = {name for row in rows for name in row}
    rl = "reward" in names
    drawers: list[Any] = []
    if rl:
        drawers.append(lambda axes: _draw_reward(axes, rows))
        parts = sorted(name for name in names if name.startswith("rewards/") and name.endswith("/mean"))
        if parts:
            labels = {part: part.removeprefix("rewards/").removesuffix("/mean") for part in parts}
            drawers.append(_drawer(_Panel("Parts of the reward", "mean score", labels), rows))
    points = _evaluations(rows, summary)
    if points:
        drawers.append(lambda axes: _draw_evaluations(axes, points))
    for panel in _RL if rl else _SUPERVISED:
        if any(len(_series(rows, metric)[0]) for metric in panel.metrics):
            drawers.append(_drawer(panel, rows))
    return drawers


def _drawer(panel: _Panel, rows: Sequence[Mapping[str, Any]]) -> Any:
    return lambda axes: _draw_panel(axes, panel, rows)


def _series(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values), [T] each, of the rows where the metric is a number."""
    pairs = [
        (row["step"], float(row[metric]))
        for row in rows
        if isinstance(row.get(metric), int | float) and math.isfinite(row[metric])
    ]
    return np.array([step for step, _ in pairs]), np.array([value for _, value in pairs])


def _draw_reward(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    steps, values = _series(rows, "reward")
    window = max(1, len(values) // 10) | 1  # odd, so that the average is not shifted
    thin: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.5} if window > 1 else {}
    axes.plot(steps, values, color=COLOURS[0], label="each step", **_marker(values), **thin)
    if window > 1:
        axes.plot(steps, moving_average(values, window), color=COLOURS[1], label=f"mean over {window} steps")
    axes.set_title("Reward", fontsize=10)
    axes.set_ylabel("mean reward")


def _draw_panel(axes: Axes, panel: _Panel, rows: Sequence[Mapping[str, Any]]) -> None:
    place = 0
    for metric, text in panel.metrics.items():
        steps, values = _series(rows, metric)
        if panel.log:
            steps, values = steps[values > 0], values[values > 0]
        if len(values):
            axes.plot(
                steps,
                values,
                color=COLOURS[place % len(COLOURS)],
                linestyle=("-", "--", ":")[place % 3],  # told apart in black and white too
                linewidth=1.2,
                label=text,
                **_marker(values),
            )
            place += 1
    if panel.log and place:
        axes.set_yscale("log")
    if panel.from_zero:
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)
    axes.set_title(panel.title, fontsize=10)
    axes.set_ylabel(panel.unit)


def _marker(values: np.ndarray) -> dict[str, Any]:
    return {"marker": ".", "markersize": 7} if len(values) < 3 else {}  # one point alone draws no line


def _evaluations(
    rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> dict[int, tuple[float, tuple[float, float] | None]]:
    """{step: (pass@1, its interval)}; summary's before is step 0, its after the last step."""
    points: dict[int, tuple[float, tuple[float, float] | None]] = {}
    for row in rows:
        if isinstance(row.get("eval/pass@1"), int | float):
            points[row["step"]] = (float(row["eval/pass@1"]), eval_interval(row))
    for name, step in (("before", 0), ("after", summary.get("steps", rows[-1]["step"] if rows else 0))):
        result = summary.get(name)
        if isinstance(result, Mapping) and result.get("pass@1") is not None:
            interval = result.get("ci95")
            points[step] = (float(result["pass@1"]), (interval[0], interval[1]) if interval else None)
    return dict(sorted(points.items()))


def _draw_evaluations(axes: Axes, points: Mapping[int, tuple[float, tuple[float, float] | None]]) -> None:
    steps, values = list(points), [value for value, _ in points.values()]
    axes.plot(steps, values, color=COLOURS[2], marker="o", markersize=4, linewidth=1.2, label="pass@1")
    known = {step: (value, interval) for step, (value, interval) in points.items() if interval is not None}
    if known:
        # max: an interval by bootstrap may miss its own mean by a rounding, and errorbar refuses negative lengths
        below = [max(0.0, value - interval[0]) for value, interval in known.values()]
        above = [max(0.0, interval[1] - value) for value, interval in known.values()]
        heights = [value for value, _ in known.values()]
        style = {"fmt": "none", "ecolor": COLOURS[2], "elinewidth": 1, "capsize": 3}
        axes.errorbar(list(known), heights, yerr=[below, above], label="95 % interval", **style)
    axes.set_ylim(-0.03, 1.03)
    axes.set_title("Held-out tasks", fontsize=10)
    axes.set_ylabel("pass@1")


def _title(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], name: str) -> str:
    text = f"{name}: {rows[-1]['step']} steps" if rows else name
    ends = [summary[when].get("pass@1") for when in ("before", "after") if isinstance(summary.get(when), Mapping)]
    if len(ends) == 2 and None not in ends:
        text += f", pass@1 {ends[0]:.2f} before, {ends[1]:.2f} after"
    return text
