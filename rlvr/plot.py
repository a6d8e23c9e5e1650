"""A picture of a run: RUN/plot.png, one panel for each thing that was measured, against the step."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlvr import rollout_table, runs
from rlvr.errors import DataError, DiskError
from rlvr.loss_settings import Kl
from rlvr.status import eval_interval, merged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people tell apart (https://jfly.uni-koeln.de/color/); yellow is too pale
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLUMNS = 3
_KL = ("k1", "k3", "k3+")
"""Estimators whose mean over the policy's own tokens is KL(policy || reference), nats per token."""


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
    _Panel("Coefficient of the KL", "kl.coef", {"kl/coef": "kl/coef"}, from_zero=True),
    _Panel(
        "Explained variance of the critic",
        "share",
        {"critic/vf_explained_var": "of its targets", "critic/vf_explained_var_mc": "of returns without it"},
    ),
    _Panel("Loss of the critic", "squared error", {"loss/value_avg": "value loss"}, from_zero=True),
    _Panel("Gradient norm", "norm before clipping", {"grad_norm": "gradient norm"}, from_zero=True),
    _Panel(
        "Sampler and trainer disagree by",
        "nats per token",
        {"sampling/sampling_logp_difference/mean": "mean |difference of logp|"},
        log=True,
    ),
    _Panel("Time of a step", "seconds", {"step_time": "step_time"}, from_zero=True),
)
_PREFERENCES = (
    _Panel("Loss", "mean over a batch", {"loss": "training", "eval/loss": "held out", "eval/nll": "held out, nll"}),
    _Panel(
        "Accuracy",
        "share of pairs",
        {
            "accuracy": "training",
            "rewards/accuracies": "training",
            "eval/accuracy": "held out",
            "eval/expected_accuracy": "held out, true labels",
            "eval/noise_ceiling": "ceiling",
            "eval/best_of/accuracy": "held out, best of N",
        },
    ),
    _Panel(
        "Margins",
        "difference of rewards",
        {
            "margin": "training",
            "rewards/margins": "training",
            "eval/margin": "held out",
            "eval/rewards/margins": "held out",
        },
    ),
    _Panel("Squared error", "mean", {"mse": "training", "eval/mse": "held out"}, from_zero=True),
    _Panel(
        "Calibration",
        "expected error",
        {"eval/ece": "of labels", "eval/ece_true": "of true probabilities"},
        from_zero=True,
    ),
    _Panel("Share of the ceiling", "share", {"eval/ceiling_share": "held out"}),
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
_LOOP = (
    _Panel("Held-out tasks", "the gate's judge", {"gate/before": "current policy", "gate/after": "new policy"}),
    _Panel(
        "Accuracy of the reward model",
        "share of held-out comparisons",
        {"accuracy": "labels", "reward_model/expected_accuracy": "true preferences, expected"},
    ),
    _Panel("Share of the ceiling", "share", {"reward_model/ceiling_share": "held out"}),
    _Panel("Labels", "comparisons", {"labels/num": "learnt from", "labels/new": "new"}, from_zero=True),
    _Panel("Reward of the policy's run", "mean reward", {"reward": "last steps"}),
    _Panel("KL from the reference", "nats", {"kl": "kl"}),
)
"""Of `rlvr loop`, whose steps are rounds."""


def plot(run_dir: Path, out: Path | None = None) -> Path:
    """Draw the run into `out` (RUN/plot.png without it; the ending names the format) and return its path.

    DataError where there is nothing to draw, DiskError where the picture cannot be written.
    """
    run_dir = Path(run_dir)
    out = run_dir / "plot.png" if out is None else Path(out)
    stage = runs.read_recipe(run_dir).get("stage")  # DataError where the folder is no run
    rows, summary = merged(runs.read_metrics(run_dir)), runs.read_summary(run_dir) or {}
    curve = divergence(run_dir)
    drawing = figure(rows, summary, run_dir.resolve().name, where=str(run_dir), curve=curve, stage=stage)
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


def figure(
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    name: str,
    *,
    where: str = "",
    curve: Mapping[str, Any] | None = None,
    stage: str | None = None,
) -> Figure:
    """The picture of rows (as in metrics.jsonl, by step) and summary (as in summary.json, or {}), not yet written.

    curve: as divergence() gives it; stage: the recipe's, which says what a loss is. DataError where rows have no metric
    that we draw; `where` names the run in its text.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import; Agg needs no display
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    drawers = [*_drawers(rows, summary, stage), *_divergence_drawers(curve)]
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
        if not axes.get_xlabel():
            axes.set_xlabel("round" if stage == "loop" else "step")
            if stage == "loop":
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        handles, labels = axes.get_legend_handles_labels()
        if len(handles) > 1:
            axes.legend(handles, labels, fontsize=8, frameon=False)
    drawing.suptitle(_title(rows, summary, name, "rounds" if stage == "loop" else "steps"), fontsize=12)
    return drawing


def divergence(run_dir: Path) -> dict[str, Any] | None:
    """What each part was worth against how far the policy had gone from the reference, beside best-of-N of the first
    step's completions; None where the run has no proxy (a reward model, its own opinion, ...) or measured no KL: of
    the estimators of kl.kind k1, k3 and k3+ alone have it as their mean.

    {"step": [T], "kl": [T] (nats per completion), "parts": {NAME: [T] (means)}, "best_of_n": None or {"n": [N], "kl":
    [N], "parts": {NAME: [N]}}}. A proxy that goes on rising while a verified part falls is over-optimised
    (https://arxiv.org/abs/2210.10760); a run below best-of-N at the same KL has gained less than sampling would.
    """
    recipe = runs.read_recipe(run_dir)
    parts = {name: part for name, part in (recipe.get("rewards") or {}).items() if isinstance(part, Mapping)}
    if all(part.get("kind", "verified") in ("verified", "random") for part in parts.values()):
        return None
    kl = recipe.get("kl") or {}
    if Kl.model_validate({name: kl[name] for name in ("kind", "weighted", "where") if name in kl}).estimator not in _KL:
        return None
    rows = [row for row in merged(runs.read_metrics(run_dir)) if _is_number(row.get("kl"))]
    names = [name for name in parts if any(_is_number(row.get(f"rewards/{name}/mean")) for row in rows)]
    rows = [row for row in rows if all(_is_number(row.get(f"rewards/{name}/mean")) for name in names)]
    if not rows or not names:
        return None
    is_of_start = not (recipe.get("reference") or {}).get("path") and 1 in runs.rollout_steps(run_dir)
    return {
        "step": [row["step"] for row in rows],
        "kl": [max(0.0, row["kl"]) * row["completions/mean_length"] for row in rows],
        "parts": {name: [row[f"rewards/{name}/mean"] for row in rows] for name in names},
        "best_of_n": _best_of_first_step(run_dir, names) if is_of_start else None,
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _best_of_first_step(run_dir: Path, names: Sequence[str]) -> dict[str, Any] | None:
    """Of the siblings of step 1, which the reference wrote; groups with an unjudged sibling are left out."""
    whole: list[tuple[list[float], list[list[float]]]] = []
    for role, group in rollout_table.groups(runs.read_rollouts(run_dir, 1)):
        reward_G = [r.reward for r in group.rollouts if r.reward is not None]
        worth_GK = [[w for name in names if (w := r.verdicts[name].worth) is not None] for r in group.rollouts]
        if role != "canary" and len(reward_G) == len(worth_GK) and all(len(each) == len(names) for each in worth_GK):
            whole.append((reward_G, worth_GK))
    if not whole:
        return None
    most = min(len(reward_G) for reward_G, _ in whole)
    means_NK = np.mean([best_of_n(reward_G, worth_GK, most) for reward_G, worth_GK in whole], axis=0)
    return {
        "n": list(range(1, most + 1)),
        "kl": [math.log(n) - (n - 1) / n for n in range(1, most + 1)],
        "parts": {name: means_NK[:, k].tolist() for k, name in enumerate(names)},
    }


def best_of_n(reward_G: Sequence[float], worth_GK: Sequence[Sequence[float]], most: int) -> np.ndarray:
    """[N, K] expected worths, for N = 1 .. most, of the sibling with the highest reward among N of the G.

    Drawn without replacement, so unbiased for N fresh completions: the i-th from below is the best of C(i - 1, N - 1)
    of C(G, N) draws. Equal rewards are as likely. The KL of best-of-N is at most log N - (N - 1) / N.
    """
    order = sorted(range(len(reward_G)), key=lambda k: reward_G[k])
    worths_GK = np.asarray(worth_GK, dtype=np.float64)[order]
    for reward in set(reward_G):
        tied = [i for i, k in enumerate(order) if reward_G[k] == reward]
        worths_GK[tied] = worths_GK[tied].mean(axis=0)
    G = len(order)
    share_NG = np.array([[math.comb(i, n - 1) / math.comb(G, n) for i in range(G)] for n in range(1, most + 1)])
    return share_NG @ worths_GK


def moving_average(values_T: np.ndarray, window: int) -> np.ndarray:
    """Mean of each value and its neighbours, [T]: `window` of them (odd), fewer at both ends; NaN is left out."""
    ones = np.ones(window)
    known = np.isfinite(values_T)
    total = np.convolve(np.where(known, values_T, 0.0), ones)
    count = np.convolve(known.astype(float), ones)
    middle = slice(window // 2, window // 2 + len(values_T))
    return np.divide(total[middle], count[middle], out=np.full(len(values_T), np.nan), where=count[middle] > 0)


def _drawers(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], stage: str | None) -> list[Any]:
    """One function of the axes for each panel that has something to show."""
    names = {name for row in rows for name in row}
    if stage == "loop":
        return [_drawer(panel, rows) for panel in _LOOP if any(len(_series(rows, m)[0]) for m in panel.metrics)]
    rl = "reward" in names
    drawers: list[Any] = []
    if rl:
        drawers.append(lambda axes: _draw_reward(axes, rows))
        parts = sorted(name for name in names if name.startswith("rewards/") and name.endswith("/mean"))
        if parts:
            labels = {part: part.removeprefix("rewards/").removesuffix("/mean") for part in parts}
            drawers.append(_drawer(_Panel("Parts of the reward", "mean", labels), rows))
    points = _evaluations(rows, summary)
    if points:
        drawers.append(lambda axes: _draw_evaluations(axes, points))
    is_preferences = stage in ("reward_model", "dpo")
    for panel in _RL if rl else (*_PREFERENCES, *_SUPERVISED[1:]) if is_preferences else _SUPERVISED:
        if any(len(_series(rows, metric)[0]) for metric in panel.metrics):
            drawers.append(_drawer(panel, rows))
    return drawers


def _divergence_drawers(curve: Mapping[str, Any] | None) -> list[Any]:
    if curve is None:
        return []
    return [partial(_draw_divergence, curve=curve, name=name) for name in curve["parts"]]


def _draw_divergence(axes: Axes, curve: Mapping[str, Any], name: str) -> None:
    root_T, mean_T = np.sqrt(curve["kl"]), np.array(curve["parts"][name])
    window = max(1, len(mean_T) // 10) | 1
    root_T, mean_T = moving_average(root_T, window), moving_average(mean_T, window)
    axes.plot(root_T, mean_T, color=COLOURS[0], label="this run", **_marker(mean_T))
    if curve["best_of_n"] is not None:
        root_N, best_N = np.sqrt(curve["best_of_n"]["kl"]), curve["best_of_n"]["parts"][name]
        axes.plot(root_N, best_N, color=COLOURS[1], linestyle="--", marker=".", label=f"best of 1 to {len(best_N)}")
    axes.set_title(f"{name} against KL", fontsize=10)
    axes.set_xlabel("square root of nats from the reference, per completion")
    axes.set_ylabel("mean")


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


def _title(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], name: str, steps: str) -> str:
    text = f"{name}: {rows[-1]['step']} {steps}" if rows else name
    ends = [summary[when].get("pass@1") for when in ("before", "after") if isinstance(summary.get(when), Mapping)]
    if len(ends) == 2 and None not in ends:
        text += f", pass@1 {ends[0]:.2f} before, {ends[1]:.2f} after"
    return text
