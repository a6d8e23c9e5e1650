"""The whole story of one reward: what was asked and written, each verdict, how they became a number, what it did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

from rlvr import runs
from rlvr.errors import DataError, near, short
from rlvr.reward_settings import Overlong
from rlvr.rewards.base import gate_step
from rlvr.rewards.judge import JUDGE
from rlvr.tasks import CANARY

_ROUNDING = 1e-6
_LONGEST = 2000
"""Characters of a text that are shown; --json has all."""


def why(run: Path, rollout_id: str) -> dict[str, Any]:
    """Plain data: the rollout's row with its verdicts, the terms of its reward, its siblings, and what became of it.

    DataError where the folder is no run, or holds no such rollout (with the nearest id).
    """
    recipe = runs.read_recipe(run)
    head = rollout_id.split("/", 1)[0]
    if not head.isdecimal() or "/" not in rollout_id:
        raise DataError(f"{short(rollout_id)} is no rollout's id: those are STEP/TASK/SAMPLE, such as 12/train:17/3")
    rows = runs.read_rollouts(run, int(head))
    row = next((row for row in rows if row["id"] == rollout_id), None)
    if row is None:
        hint = near(rollout_id, [row["id"] for row in rows]) or (f"such as {rows[0]['id']!r}; " if rows else "")
        raise DataError(f"{run}: step {head} has no rollout {short(rollout_id)}; {hint}it has {len(rows)} rollouts")
    siblings = [other for other in rows if _group(other) == _group(row)]
    verdicts = [
        {**verdict, "checks": json.loads(verdict["checks"]), "judge": _judge(recipe, verdict)}
        for verdict in row["verdicts"]
    ]
    story = {
        name: row.get(name) for name in ("id", "step", "role", "task", "source", "prompt", "gold", "response", "finish")
    }
    return {
        "run": str(run),
        **story,
        "num_tokens": len(row["token_ids"]),
        "policy_versions": [span["version"] for span in row["versions"]],
        "verdicts": verdicts,
        "terms": _terms(recipe, verdicts, siblings),
        "reward": row["reward"],
        "shaped": row.get("shaped"),
        "siblings": [
            {"id": other["id"], "reward": other["reward"], "advantage": other["advantage"], "greedy": other["greedy"]}
            for other in siblings
        ],
        "advantage": row["advantage"],
        "advantage_kind": (recipe.get("advantage") or {}).get("kind"),
        "effect": _effect(row, siblings),
    }


def _judge(recipe: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any] | None:
    """{model, at, method} of the judge that gave a verdict, as the recipe names it; None of any other verifier."""
    settings = (recipe.get("rewards") or {}).get(verdict["part"]) or {}
    by = settings.get("by")
    if verdict["verifier"] != JUDGE or not isinstance(by, Mapping):
        return None
    method = (settings.get("method") or {}).get("kind")
    return {"model": by.get("model") or by.get("path"), "at": _place(by.get("url")) or by.get("kind"), "method": method}


def _place(url: str | None) -> str:
    """A URL without what may be a secret in it: user, password, query."""
    if not url:
        return ""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def unequal_rewards(run: Path, step: int) -> list[str]:
    """Rollouts of a step whose reward is not what their verdicts add up to, in words. DataError as why()."""
    recipe, rows = runs.read_recipe(run), runs.read_rollouts(run, step)
    found = []
    for row in rows:
        siblings = [other for other in rows if _group(other) == _group(row)]
        terms = _terms(recipe, row["verdicts"], siblings)
        values = [term["value"] for term in terms if term["value"] is not None and term["weight"]]
        if row["reward"] is not None and values and abs(sum(values) - row["reward"]) > _ROUNDING:
            found.append(f"{row['id']} has the reward {row['reward']:g}, and its verdicts add up to {sum(values):g}")
    return found


def _group(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Rows of an older version have no group; a task that was drawn twice in a step is then taken for one group."""
    return (row["task"], row.get("group"))


def _terms(
    recipe: Mapping[str, Any], verdicts: Sequence[Mapping[str, Any]], siblings: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What each part put into the reward: weight times what it was worth, or behind a gate half the weight times the
    score times the gate's step; None where it counts as nothing, with why.

    An optional part that failed for any of the group is left out for all of it.
    """
    answered = [verdict for other in siblings if other["finish"] != "abort" for verdict in other["verdicts"]]
    failed = {v["part"] for v in answered if v["score"] is None and v["outcome"] != "not_applicable"}
    terms = []
    for verdict in verdicts:
        part, score, worth = verdict["part"], verdict["score"], _worth(verdict)
        settings = (recipe.get("rewards") or {}).get(part)
        if settings is None:  # what length takes off
            weight = -Overlong.model_validate(recipe.get("overlong") or {}).most
        else:
            weight = float(settings.get("weight", 1.0))
        gate, step = (settings or {}).get("gate"), None
        if gate is not None:
            step = gate_step([_worth(v) for v in answered if v["part"] == gate], recipe["rewards"][gate]["weight"])
        left_out = ""
        if score is not None and part in failed and (settings or {}).get("optional"):
            left_out = "left out for the whole group: it is optional and failed for a sibling"
        value = None
        if worth is not None and score is not None and not left_out:
            value = weight * worth if step is None else weight / 2 * score * step
        terms.append(
            {"part": part, "weight": weight, "score": score, "worth": worth, "gate": gate, "step": step}
            | {"value": value, "left_out": left_out}
        )
    return terms


def _worth(verdict: Mapping[str, Any]) -> float | None:
    """As Verdict.worth; rows of an older version have no values."""
    return verdict["score"] if verdict.get("value") is None else verdict["value"]


def _effect(row: Mapping[str, Any], siblings: Sequence[Mapping[str, Any]]) -> str:
    """What the reward did to the policy, in words."""
    rewards = [other["reward"] for other in siblings if other["reward"] is not None and not other["greedy"]]
    if str(row["task"]).startswith(CANARY):
        return "a canary: nobody can solve this task; never trained on; what a part that reads its gold gives is a hack"
    if row["greedy"]:
        return "the greedy completion that its siblings' rewards are compared with; never trained on"
    if row["reward"] is None:
        return "could not be judged: left out of the baseline and of the loss"
    if row["advantage"] is None:
        if len(rewards) < 2:
            return "not trained on: fewer than two siblings were judged"
        return f"not trained on: its group was set aside (rewards from {min(rewards):g} to {max(rewards):g})"
    if row["advantage"] == 0:
        return "advantage 0: it taught nothing" + (", all siblings earned the same" if len(set(rewards)) == 1 else "")
    push = "up: more likely" if row["advantage"] > 0 else "down: less likely"
    return (
        f"pushed {push} from step {row['step']} on (group mean {fmean(rewards):.4g}, advantage {row['advantage']:+.4g})"
    )


def render(story: Mapping[str, Any]) -> str:
    """What `rlvr why` prints."""
    lines = [f"rollout {story['id']} of {story['run']}  ({story['role'] or 'role unknown'})", ""]
    for name in ("prompt", "gold", "response"):
        lines += _block(name, story[name])
    cut = {"stop": "ended by itself", "length": "cut at max_tokens", "abort": "taken back by the engine"}
    versions = ", ".join(map(str, story["policy_versions"]))
    lines += [f"{'':9} {story['num_tokens']} tokens, {cut[story['finish']]}; policy version {versions}", ""]
    for verdict, term in zip(story["verdicts"], story["terms"], strict=True):
        lines += _verdict_lines(verdict, term)
    values = [_term(t) for t in story["terms"] if t["value"] is not None and t["weight"]]
    reward = "none" if story["reward"] is None else f"{story['reward']:g}"
    lines += [f"reward    {reward}" + (f" = {' + '.join(values)}" if values and story["reward"] is not None else "")]
    if story["shaped"] is not None:
        lines += [
            f"shaped    {story['shaped']:g} was trained on, of the whole step's rewards (shaping; metrics shaping/*)"
        ]
    lines += ["siblings  " + "  ".join(_sibling(other, story["id"]) for other in story["siblings"])]
    lines += [f"effect    {story['effect']}" + (f" [{story['advantage_kind']}]" if story["advantage"] else "")]
    return "\n".join(lines)


def _term(term: Mapping[str, Any]) -> str:
    if term["gate"] is None:
        return f"{term['weight']:g} x {term['worth']:g} ({term['part']})"
    return f"{term['weight']:g} / 2 x {term['score']:g} x {term['step']:g} ({term['part']} behind {term['gate']})"


def _block(name: str, text: str | None) -> list[str]:
    if text is None:
        return [f"{name:9} none"]
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text)} characters, --json has all)"
    first, *rest = _printable(shown).split("\n")
    return [f"{name:9} {first}", *(f"{'':9} {line}" for line in rest)]


def _verdict_lines(verdict: Mapping[str, Any], term: Mapping[str, Any]) -> list[str]:
    score = "none" if verdict["score"] is None else f"{verdict['score']:g}"
    score += "" if verdict.get("value") is None else f", value {verdict['value']:g}"
    lines = [f"part {verdict['part']}: score {score}, {verdict['outcome']}: {_printable(verdict['reason'])}"]
    found = (
        f"answer {_printable(verdict['answer'])!r} ({verdict['how'] or 'as given'})"
        if verdict["answer"] is not None
        else ""
    )
    judged = f"verifier {verdict['verifier']} {verdict['version']}"
    at = f"stage {verdict['stage']}" if verdict["stage"] else ""
    took = f"{1000 * verdict['seconds']:.3g} ms, weight {term['weight']:g}"
    read = f"input {verdict['input_hash']}" if verdict.get("input_hash") else ""
    lines.append("    " + "; ".join(part for part in (found, judged, at, took, read) if part))
    if judge := verdict.get("judge"):
        method = f", by {judge['method']}" if judge["method"] else ""
        lines.append(f"    judge {_printable(str(judge['model']))} ({_printable(str(judge['at']))}){method}")
    if term["left_out"]:
        lines.append(f"    {term['left_out']}")
    for name, value in verdict["checks"].items():
        if name == "against":
            odds = ", ".join(f"{sample}: {'abstained' if z is None else f'{z:+.3g}'}" for sample, z in value.items())
            lines.append(f"    log odds that it is better than sibling {odds}")
            continue
        shown = json.dumps(value, ensure_ascii=False)
        lines.append(f"    {name}: {_printable(shown if len(shown) <= 300 else shown[:297] + '...')}")
    if verdict.get("stderr"):
        lines += ["    printed:", *(f"      {line}" for line in _printable(verdict["stderr"]).splitlines())]
    return [*lines, ""]


def _sibling(other: Mapping[str, Any], id: str) -> str:
    reward = "none" if other["reward"] is None else f"{other['reward']:g}"
    name = other["id"].rsplit("/", 1)[-1] + (" greedy" if other["greedy"] else "")
    return f"[{name}: {reward}]" if other["id"] == id else f"{name}: {reward}"


def _printable(text: str) -> str:
    """Without what would move the cursor or colour the terminal: a response may hold anything."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
