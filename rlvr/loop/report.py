"""What the rounds of a loop came to: one line per stage, a table of rounds, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.errors import DataError
from rlvr.loop.manifest import NAME
from rlvr.loop.manifest import read_all as read_all

Record = Mapping[str, Any]
"""What a round.json holds."""
_COLUMNS: tuple[tuple[str, str, str], ...] = (
    # column, key of a row of table(), format
    ("new", "new_labels", ".0f"),
    ("learnt from", "labels", ".0f"),
    ("held out", "held_out", ".0f"),
    ("RM acc", "accuracy", ".3f"),
    ("expected", "expected_accuracy", ".3f"),
    ("of ceiling", "ceiling_share", ".3f"),
    ("KL", "kl", ".3f"),
    ("current", "before", ".3f"),
    ("new policy", "after", ".3f"),
    ("difference", "delta", "+.3f"),
    ("oldest set", "worst_old", "+.3f"),
)


def figures(record: Record, stage: str) -> dict[str, Any]:
    """Of a stage of a round; {} where it was not done."""
    found: dict[str, Any] = record["stages"].get(stage, {}).get("figures", {})
    return found


def row(record: Record) -> dict[str, Any]:
    """What a round came to, as plain data; what is not known is None."""
    label, reward, policy, gate = (figures(record, name) for name in ("label", "reward_model", "policy", "gate"))
    damaged = DataError(f"rounds/{record['round']:03d}/{NAME} is damaged: not all of its figures are numbers")
    try:
        old = [of["delta"] for of in gate.get("old", {}).values()]
        numbers = {
            "new_labels": label.get("new"),
            "labels": label.get("labels"),
            "held_out": label.get("held_out"),
            "accuracy": reward.get("accuracy"),
            "expected_accuracy": reward.get("expected_accuracy"),
            "ceiling_share": reward.get("ceiling_share"),
            "kl": policy.get("kl"),
            "reward": policy.get("reward"),
            "before": gate.get("before"),
            "after": gate.get("after"),
            "delta": gate.get("delta"),
            "worst_old": min(old) if old else None,
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise damaged from None
    if not all(_is_number(value) for value in numbers.values()):
        raise damaged
    about = {name: record[name] for name in ("round", "state", "reason")}
    return {**about, **numbers, "ci95": gate.get("ci95"), "picked": figures(record, "pick").get("kind")}


def _is_number(value: Any) -> bool:
    """Or nothing. JSON has integers that no float can hold."""
    return value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def table(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A row for each round."""
    return [row(record) for record in records]


def render(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines that `rlvr status` prints of the rows of table()."""
    if not rows:
        return ["no round has begun"]
    columns = [(name, max(len(name), 7) + 2, key, how) for name, key, how in _COLUMNS]
    lines = [f"{'round':>5} {'state':9}" + "".join(f"{name:>{width}}" for name, width, _, _ in columns)]
    for of in rows:
        cells = "".join(f"{'' if of[key] is None else format(of[key], how):>{width}}" for _, width, key, how in columns)
        lines.append(f"{of['round']:>5} {of['state']:9}{cells}".rstrip())
    lines += [f"round {of['round']} was refused: {of['reason']}" for of in rows if of["state"] == "refused"]
    return lines


def line(stage: str, made: Mapping[str, Any]) -> str:
    """A stage's figures for people."""
    if stage == "sample":
        return f"{made['tasks']} tasks, {100 * made['truncated']:.0f} % cut"
    if stage == "pick":
        told = f"{made['asked']} comparisons, {made['held_out']} of them held out, picked by {made['kind']}"
        return told + (f" ({made['worth']:.3g}, of all {made['worth_of_all']:.3g})" if "worth" in made else "")
    if stage == "label":
        return f"{made['new']} new, {made['labels']} to learn from, {made['held_out']} held out"
    if stage == "reward_model":
        names = {
            "accuracy": "accuracy on held-out labels",
            "expected_accuracy": "expected of true preferences",
            "ceiling_share": "of the ceiling",
            "disagreement": "disagreement",
        }
        return "  ".join(f"{told} {made[name]:.3f}" for name, told in names.items() if made.get(name) is not None)
    if stage == "policy":
        if "failed" in made:
            return f"failed: {made['failed']}"
        return "  ".join(f"{name} {made[name]:.3g}" for name in ("steps", "reward", "kl", "length") if name in made)
    if stage == "gate" and "delta" in made:
        low, high = made["ci95"]
        verdict = "refused" if made["refused"] else "accepted"
        return f"{verdict}: {made['before']:.4g} -> {made['after']:.4g} ({made['delta']:+.3g} [{low:.3g}, {high:.3g}])"
    return "refused" if made.get("refused") else ""


def metrics(record: Record) -> dict[str, float]:
    """Of a round that is done, for metrics.jsonl, where the step is the round."""
    of = row(record)
    names = {
        "labels/num": "labels",
        "labels/new": "new_labels",
        "accuracy": "accuracy",
        "reward_model/expected_accuracy": "expected_accuracy",
        "reward_model/ceiling_share": "ceiling_share",
        "kl": "kl",
        "reward": "reward",
        "gate/before": "before",
        "gate/after": "after",
        "gate/delta": "delta",
        "gate/worst_old": "worst_old",
    }
    found = {name: float(of[key]) for name, key in names.items() if of[key] is not None}
    return found | {"gate/accepted": float(of["state"] == "accepted")}
