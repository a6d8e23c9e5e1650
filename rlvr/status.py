"""Where a run stands, from what is recorded in its folder and whether the folder is locked.

Only looks: it can be asked while the run goes on, after it was killed, and from another machine that sees the folder
(where the lock may not be seen).
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rlvr import runs
from rlvr.loop import report as of_rounds
from rlvr.progress import duration, label, number
from rlvr.types import SCHEMA

_SHOWN = (
    "reward",
    "loss",
    "accuracy",
    "margin",
    "mse",
    "rewards/accuracies",
    "rewards/margins",
    "completions/mean_length",
    "completions/clipped_ratio",
    "frac_reward_zero_std",
    "entropy",
    "kl",
    "canary/hack_rate",
    "alarm/over_optimisation",
    "alarm/length_bias",
    "alarm/collapse",
    "grad_norm",
    "lr",
)
_MEASURED = (
    "accuracy",
    "expected_accuracy",
    "ceiling_share",
    "ece",
    "calibration_slope",
    "rewards/margins",
    "best_of/accuracy",
    "auc",
    "mse",
    "pearson",
    "loss",
)
"""Of held-out rows of preferences, those that are there."""
_RATE_STEPS = 20  # the rate is that of the last steps, so that it follows a change of length


def status(run_dir: Path) -> dict[str, Any]:
    """Where the run stands, as plain data for JSON.

    {"schema", "run", "state": running|finished|stopped, "stage", "model", "steps_done", "steps_total" (None for an
    evaluation), "seconds_per_step", "seconds_left", "metrics": {name: last value}, "before", "after", "warnings"}; of
    `rlvr loop` also "rounds" and "waiting" (what people have still to answer, in words; "" where nothing).
    What is not known is None. The number of a row's step is the number of steps done after it.
    DataError where the folder is not a run.
    """
    run_dir = Path(run_dir)
    recipe = runs.read_recipe(run_dir)
    rows = merged(runs.read_metrics(run_dir))
    summary = runs.read_summary(run_dir) or {}
    is_loop = recipe.get("stage") == "loop"
    done, total = (rows[-1]["step"] if rows else 0), recipe.get("rounds" if is_loop else "steps")
    seconds = [row["step_time"] for row in rows[-_RATE_STEPS:] if isinstance(row.get("step_time"), int | float)]
    per_step = fmean(seconds) if seconds else None
    state = "running" if is_locked(run_dir) else "finished" if summary else "stopped"
    last: dict[str, float] = {}
    for row in rows:  # a row need not have every metric: evaluations have their own
        last |= {name: value for name, value in row.items() if name in _SHOWN or _is_part(name)}
    order = {name: place for place, name in enumerate(_SHOWN)}
    model = recipe.get("model")
    return {
        "schema": SCHEMA,
        "run": str(run_dir),
        "state": state,
        "stage": recipe.get("stage"),
        "model": model.get("path") if isinstance(model, dict) else None,
        "steps_done": done,
        "steps_total": total,
        "seconds_per_step": per_step,
        "seconds_left": None if per_step is None or total is None else max(total - done, 0) * per_step,
        "metrics": {name: last[name] for name in sorted(last, key=lambda name: (order.get(name, 0.5), name))},
        "before": summary.get("before") or _evaluation([row for row in rows if row["step"] == 0]),
        "after": summary.get("after") or _evaluation([row for row in rows if row["step"] > 0]),
        "warnings": summary.get("warnings", 0),
        **({"rounds": of_rounds.table(of_rounds.read_all(run_dir)), "waiting": ""} if is_loop else {}),
        **({"waiting": _waiting(run_dir, recipe)} if is_loop and state == "stopped" else {}),
    }


def _waiting(run_dir: Path, recipe: Mapping[str, Any]) -> str:
    """What people have still to answer before `rlvr loop` goes on, and how; "" where it waits for nobody."""
    from rlvr.loop.asking import item_of
    from rlvr.loop.labelling import waiting
    from rlvr.loop.manifest import read_rows
    from rlvr.loop_settings import Labels

    asked = recipe.get("labels") or {}
    begun = [record for record in of_rounds.read_all(run_dir) if record["state"] == "open"]
    if not begun or asked.get("kind") != "people":
        return ""
    done = begun[-1]["stages"]
    before, name = ("pick", "items.jsonl") if "label" not in done else ("policy", "compared.jsonl")
    file = run_dir / "rounds" / f"{begun[-1]['round']:03d}" / name
    db = Path(asked["db"]) if asked.get("db") else run_dir / "labels.db"
    if before not in done or "evaluate" in done or not file.is_file() or not db.is_file():
        return ""
    settings = Labels.model_validate({key: asked[key] for key in ("votes", "enough") if key in asked})
    return waiting(settings, [item_of(row) for row in read_rows(file)], db, file)


def render(report: Mapping[str, Any]) -> str:
    """The lines that `rlvr status` prints, without a newline at the end."""
    stage = report["stage"] or "unknown stage"
    lines = [f"{report['run']}  ({stage}{', from ' + report['model'] if report['model'] else ''})"]
    word = "round" if "rounds" in report else "step"
    steps = f"{word} {report['steps_done']}" + (f"/{report['steps_total']}" if report["steps_total"] else "")
    parts = ["waiting for people" if report.get("waiting") else report["state"], steps]
    if report["seconds_per_step"] is not None:
        parts.append(f"{number(report['seconds_per_step'])} s/step")
    if report["state"] != "finished" and report["seconds_left"] is not None:
        left = duration(report["seconds_left"])
        parts.append(f"{left} left" if report["state"] == "running" else f"{left} left once resumed")
    lines.append("  ".join(parts))
    if "rounds" in report:
        waiting = [report["waiting"]] if report["waiting"] else []
        return "\n".join([*lines, *of_rounds.render(report["rounds"]), *waiting])
    if report["metrics"]:
        lines.append("  ".join(f"{label(name)} {number(value)}" for name, value in report["metrics"].items()))
    for name in ("before", "after"):
        if report[name] and report[name].get("pass@1") is not None:
            lines.append(f"{name:<7}{_pass_at_1(report[name])}")
        elif report[name] and (told := _measured(report[name])):
            lines.append(f"{name:<7}{told}")
    if report["warnings"]:
        lines.append(f"{report['warnings']} warnings while training")
    return "\n".join(lines)


def merged(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl in the order of steps, those of the same step (a step and its evaluation) as one row."""
    by_step: dict[int, dict[str, Any]] = {}
    for row in rows:
        by_step.setdefault(row["step"], {}).update(row)
    return [by_step[step] for step in sorted(by_step)]


def is_locked(run_dir: Path) -> bool:
    """Whether a live process holds RUN/.lock; a killed one holds nothing."""
    try:
        with open(run_dir / ".lock", "rb") as file:
            # shared, so that two people who look at the same time do not take each other for the run
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_part(metric: str) -> bool:
    return metric.startswith("rewards/") and metric.endswith("/mean")


def _evaluation(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The last evaluation among rows, in the form of summary.json's."""
    for row in reversed(rows):
        if row.get("eval/pass@1") is not None:
            interval = eval_interval(row)
            return {"pass@1": row["eval/pass@1"], **({"ci95": list(interval)} if interval else {}), "step": row["step"]}
        found = {name: row[f"eval/{name}"] for name in _MEASURED if row.get(f"eval/{name}") is not None}
        if found:
            return {**found, "step": row["step"]}
    return None


def eval_interval(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """The interval of eval/pass@1 in a row."""
    low, high = row.get("eval/ci95_low"), row.get("eval/ci95_high")
    return None if low is None or high is None else (float(low), float(high))


def _measured(result: Mapping[str, Any]) -> str:
    """Figures of held-out rows of preferences, from an evaluation's row or summary.json; of probes as_expected."""
    flat = {**result, **{f"best_of/{name}": value for name, value in (result.get("best_of") or {}).items()}}
    parts = [f"{name} {flat[name]:.3f}" for name in _MEASURED if isinstance(flat.get(name), int | float)]
    probes = result.get("probes") or {}
    parts += [f"{name} {figures['as_expected']:.2f} as expected" for name, figures in probes.items()]
    text = "  ".join(parts)
    return text + (f"  at step {result['step']}" if text and "step" in result else "")


def _pass_at_1(result: Mapping[str, Any]) -> str:
    text = f"pass@1 {result['pass@1']:.3f}"
    if result.get("ci95"):
        text += f" [{result['ci95'][0]:.3f}, {result['ci95'][1]:.3f}]"
    if result.get("n_tasks"):
        text += f" on {result['n_tasks']} tasks"
    return text + (f" at step {result['step']}" if "step" in result else "")
