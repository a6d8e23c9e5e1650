"""statistics() as text for a terminal: one screen, each figure with its unit and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlvr.feedback.habits import FEW

_MOST_PEOPLE = 20
_MOST_DISPUTED = 8
_LONGEST = 24
_LEAST_DISPUTE = 0.005
"""Less would be shown as 0.00."""


def report(statistics: Mapping[str, Any]) -> str:
    """Of rlvr.feedback.statistics.statistics(); at most some 60 lines of 110 columns."""
    parts = (_progress, _alphas, _people, _disputed, _groups)
    return "\n\n".join("\n".join(lines) for part in parts if (lines := part(statistics)))


def _progress(statistics: Mapping[str, Any]) -> list[str]:
    p = statistics["progress"]
    lines = [
        f"{p['answered']} of {p['items']} items answered ({_share(p['answered'], p['items'])}), {p['answers']} answers "
        f"of {p['people']} people, {p['answers_per_item']:.1f} an item, {p['hours']:.1f} hours; "
        f"{p['gold_items']} gold items, {p['repeats']} repeats, {p['skips']} skips"
    ]
    if p["unknown"]:
        lines.append(f"{p['unknown']} answers are of items that are not there; they are left out")
    for mode, row in statistics["modes"].items():
        seconds = row["median_seconds"]
        lines.append(
            f"  {mode}: {row['answered']} of {row['items']} items, {row['answers']} answers, {row['skips']} skips"
            + (f", median {seconds:.1f} s" if seconds is not None else "")
            + (f", Kendall's W {row['kendall_w']:.2f} (1: one order)" if row.get("kendall_w") is not None else "")
        )
    if statistics["skips"]:
        lines.append("  skipped: " + ", ".join(f"{_cut(why)} {n}" for why, n in list(statistics["skips"].items())[:6]))
    return lines


def _alphas(statistics: Mapping[str, Any]) -> list[str]:
    if not statistics["alpha"]:
        return []
    lines = ["Krippendorff's alpha with its 95 % interval (1: all agree, 0: chance; below 0.67 labels are noisy)"]
    for row in statistics["alpha"]:
        lines.append(
            f"  {row['by'] + ' ' + _cut(row['name'] or '(none)'):<34} {_number(row['alpha'])} {_between(row)}  "
            f"{row['what']} ({row['level']}), {row['items']} questions, {row['answers']} votes"
        )
    return lines


def _people(statistics: Mapping[str, Any]) -> list[str]:
    people = statistics["people"]
    if not people:
        return []
    own = " of their own group" if statistics["reliability_within"] == "group" else ""
    order = sorted(people, key=lambda row: (-len(row["flags"]), _value(row["reliability"], 1.0), row["name"]))
    lines = [
        f"People, to be looked at first. reliable: share right by Dawid and Skene{own}, 0.5 is guessing; gold: share",
        "right; flips: share of repeats judged otherwise; same: share of others' votes; first: log odds for what is",
        f"shown first; s: median seconds; fast: share too fast to have read (these: of {FEW} answers and more)",
        f"  {'':<{_LONGEST}}  answers  reliable            gold  flips   same  first      s   fast",
    ]
    for row in order[:_MOST_PEOPLE]:
        position, hurried = (of if (of := row[key]) and of["n"] >= FEW else None for key in ("position", "too_fast"))
        reliability = row["reliability"] or row["reliability_thumbs"]
        lines.append(
            f"  {_cut(row['name']):<{_LONGEST}} {row['answers']:8}  "
            f"{_number(reliability and reliability['value'])} {_between(reliability):<14}"
            f"{_number(_value(row['gold'])):>6} {_number(_value(row['repeats'])):>6} "
            f"{_number(_value(row['agreement'])):>6} {_number(_value(position), '+.2f'):>6} "
            f"{_number(row['median_seconds'], '.1f'):>6} {_number(_value(hurried)):>6}"
            + (f"  {'; '.join(row['flags'])}" if row["flags"] else "")
        )
    if len(order) > _MOST_PEOPLE:
        lines.append(f"  ... and {len(order) - _MOST_PEOPLE} more (--json has all)")
    return lines


def _disputed(statistics: Mapping[str, Any]) -> list[str]:
    disputed = [row for row in statistics["disputed"] if row["dispute"] >= _LEAST_DISPUTE]
    if not disputed:
        return []
    lines = [f"Disputed items, most first (dispute: bits that are not known of the better one; {len(disputed)} listed)"]
    for row in disputed[:_MOST_DISPUTED]:
        votes = row["votes"][0]
        if "ratings" in votes:
            said = f"{votes['attribute']} rated " + ", ".join(f"{value:g}" for value in votes["ratings"][:9])
        else:
            counts = {name: n for name, n in votes.items() if name not in ("completions", "probability")}
            said = ", ".join(f"{name} {n}" for name, n in counts.items())
            said += f", probability {votes['probability']:.2f}"
        more = f" (and {len(row['votes']) - 1} more)" if len(row["votes"]) > 1 else ""
        lines.append(f"  {row['dispute']:.2f}  {_cut(row['item']):<{_LONGEST}} {row['mode']}: {said}{more}")
    return lines


def _groups(statistics: Mapping[str, Any]) -> list[str]:
    groups = statistics["groups"]
    if not groups["people"]:
        return []
    told = ", ".join(f"{_cut(name)} {n}" for name, n in groups["people"].items())
    lines = [f"Groups ({told}): {groups['advice']}"]
    for row in groups["rows"]:
        where = f" in {_cut(row['source'])}" if row["source"] else ""
        lines.append(
            f"  {row['what']}{where}: preferences correlate {_number(row['correlation'])} (1: the same), "
            f"p = {row['p']:.3f} by dealing people to groups (at least {row['smallest_p']:.3f} with so few)"
        )
    for row in groups["items"][:3] if any(row["differs"] for row in groups["rows"]) else ():  # else they are chance
        shares = ", ".join(f"{_cut(name)} {share:.2f}" for name, share in row["first"].items())
        lines.append(f"  {_cut(row['item'])}: share for completion {row['completions'][0]}: {shares}")
    return lines


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form).replace("-0.00", "0.00")


def _between(row: Mapping[str, Any] | None) -> str:
    return f"[{row['low']:.2f}, {row['high']:.2f}]" if row and row["low"] is not None else ""


def _value(row: Mapping[str, Any] | None, default: float | None = None) -> float | None:
    return default if row is None else row["value"]


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def _cut(text: str) -> str:
    """On one line and short: names and ids come from outside."""
    plain = "".join(sign if sign.isprintable() else "?" for sign in str(text))
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…"
