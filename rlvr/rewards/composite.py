"""composite: several verifiers' verdicts put together into one.

Each part is judged on its own, with its own deadline; options `how` and `parts`:

    rewards.answer.verifier: composite
    rewards.answer.options:
      how: gate
      parts:
        form:   {verifier: tags, options: {...}}
        answer: {verifier: math, weight: 0.8}
        brief:  {verifier: length, weight: 0.2, gold: most_words, optional: true}

Gold: whatever the parts read, each the task's gold or the column that its own `gold` names.

sum: the mean of the scores by weight. product, min: of the scores. first: the first part that speaks of the task.
gate: the first part must reach its `at_least`, else 0; then the sum of the others.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field, ValidationError

from rlvr.errors import PluginError, SettingsError, near
from rlvr.fields import Name, NonNegative, Settings
from rlvr.plugins import verifier
from rlvr.rewards import bound
from rlvr.types import Outcome, Task, Verdict

NAME = "composite"
TRUSTED_OPTIONS = ("parts",)
"""A part's verifier may be any file."""
How = Literal["sum", "product", "min", "first", "gate"]
_NO_PARTS = "it needs the option parts, such as {answer: {verifier: math, weight: 1.0}}"
_MOST_PARTS = 50
_DEEPEST = 3
"""Composites within each other."""


class Part(Settings):
    """One of the verifiers."""

    verifier: Name
    weight: NonNegative = 1.0
    """In sum and gate. 0: the part is judged and shown, and counts for nothing."""
    options: dict[str, Any] = {}
    """The verifier's own."""
    gold: Name | None = None
    """The column of the task that holds its gold; without it the task's gold."""
    optional: bool = False
    """Where judging it fails, the others count without it; else the whole has no score."""
    at_least: float | None = Field(default=None, ge=0, le=1)
    """Of the first part of a gate: the score that opens it; 1 where nothing is said."""


@dataclass(frozen=True, slots=True)
class _Plan:
    how: How
    parts: dict[str, Part]


def compose(
    response: str, task: Task, options: Mapping[str, Any]
) -> tuple[list[bound.Job | Verdict], Callable[[Sequence[Verdict]], Verdict]]:
    """What the parts are asked, and how their verdicts become one. SettingsError where the options are no use."""
    plan = _plan(json.dumps(dict(options)))
    jobs: list[bound.Job | Verdict] = []
    for part in plan.parts.values():
        asked = _asked(part, task)
        jobs.append(asked if isinstance(asked, Verdict) else (part.verifier, response, asked, part.options))
    return jobs, lambda verdicts: _combined(plan, verdicts)


@verifier(NAME)
def composite(response: str, task: Task, *, how: How = "sum", parts: dict[str, Any] = {}) -> Verdict:  # noqa: B006
    """One verdict of several; judged here, one after the other and without deadlines, where no pool does it."""
    return bound.apply(bound.lookup(NAME), response, task, {"how": how, "parts": parts})


composite.verifier_compose = compose


def verifiers_of(options: Mapping[str, Any]) -> list[str]:
    """Names of all verifiers that these (checked) options ask, in composites within them too."""
    return list(dict.fromkeys(part.verifier for part in leaves_of(options)))


def leaves_of(options: Mapping[str, Any]) -> list[Part]:
    """The parts that are no composites, of these (checked) options and of the composites within them."""
    leaves: list[Part] = []
    for part in _plan(json.dumps(dict(options))).parts.values():
        leaves += leaves_of(part.options) if part.verifier == NAME else [part]
    return leaves


# --- what is checked before anything starts


def option_problems(options: Mapping[str, Any], where: str, depth: int = 1) -> list[str]:
    """A line for each mistake in the options, in those of the parts too."""
    parts, how = options.get("parts") or {}, options.get("how", "sum")
    if not parts and depth > 1:
        return [f"{where}.parts: {_NO_PARTS}"]
    if len(parts) > _MOST_PARTS:
        return [f"{where}.parts: at most {_MOST_PARTS}, got {len(parts)}"]
    problems: list[str] = []
    good: dict[str, Part] = {}
    for name, fields in parts.items():
        at = f"{where}.parts.{name}"
        found = _field_problems(fields, at)
        if not found:
            good[name] = Part.model_validate(fields)
            found = _part_problems(good[name], at, depth)
        problems += found
    if good and len(good) == len(parts):
        problems += _plan_problems(how, good, f"{where}.parts")
    return problems


def _field_problems(fields: Any, at: str) -> list[str]:
    if not isinstance(fields, Mapping):
        return [f"{at}: must be {{verifier: NAME, ...}}, got {fields!r}"]
    try:
        Part.model_validate(fields)
    except ValidationError as error:
        return [_told(problem, at) for problem in error.errors()]
    return []


def _told(problem: Any, at: str) -> str:
    path = ".".join([at, *map(str, problem["loc"])])
    if problem["type"] == "missing":
        return f"{path} is missing: the name of a verifier"
    if problem["type"] == "extra_forbidden":
        known = list(Part.model_fields)
        return f"{path}: no such setting; {near(str(problem['loc'][0]), known)}known: {', '.join(known)}"
    message = problem["msg"]
    return f"{path}: {message[0].lower()}{message[1:]}, got {problem['input']!r}"


def _part_problems(part: Part, at: str, depth: int) -> list[str]:
    if part.verifier == NAME:
        if depth >= _DEEPEST:
            return [f"{at}.verifier: composites may be {_DEEPEST} deep within each other"]
        problems = bound.declared_problems(bound.lookup(NAME), part.options, f"{at}.options")
        return problems or option_problems(part.options, f"{at}.options", depth + 1)
    try:
        return bound.option_problems(part.verifier, part.options, f"{at}.options")
    except PluginError as error:
        return [f"{at}.verifier: {line}" for line in str(error).splitlines()]


def _plan_problems(how: str, parts: Mapping[str, Part], at: str) -> list[str]:
    first, *others = parts.items()
    problems = [
        f"{at}.{name}.at_least: only the first part of a gate has one"
        for name, part in parts.items()
        if part.at_least is not None and (how != "gate" or name != first[0])
    ]
    if how == "gate":
        if not others:
            problems.append(f"{at}: a gate needs a part behind it")
        if first[1].weight != 1:
            problems.append(f"{at}.{first[0]}.weight: the gate itself has none")
        weighed = others
    else:
        weighed = [first, *others]
        if how != "sum":
            problems += [
                f"{at}.{name}.weight: of {how} it is 1, or 0 for a part that only shows, got {part.weight!r}"
                for name, part in parts.items()
                if part.weight not in (0, 1)
            ]
    if weighed and not any(part.weight for _, part in weighed):
        problems.append(f"{at}: a weight must be above 0")
    if math.isinf(sum(part.weight for _, part in weighed)):
        problems.append(f"{at}: the weights are too large, their sum must be a number")
    return problems


def start_problem(options: Mapping[str, Any]) -> str:
    """Why a part cannot judge here, or with these options."""
    if not options.get("parts"):
        return _NO_PARTS
    for name, part in _plan(json.dumps(dict(options))).parts.items():
        if told := bound.start_problem(part.verifier, part.options):
            return f"part {name}: {told}"
    return ""


def gold_problem(name: str, task: Task, options: Mapping[str, Any]) -> str:
    """Why the gold of a part is no use; without options nothing can be said. An optional part's need not be."""
    if not options.get("parts"):
        return ""
    for part_name, part in _plan(json.dumps(dict(options))).parts.items():
        if part.optional:
            continue
        asked = _asked(part, task)
        told = asked.reason if isinstance(asked, Verdict) else ""
        if isinstance(asked, Task):
            told = bound.gold_problem(bound.lookup(part.verifier), asked, part.options)
        if told:
            return f"part {part_name}: {told}"
    return ""


@functools.lru_cache(64)
def _plan(options: str) -> _Plan:
    given = json.loads(options)
    if problems := option_problems(given, "options") or ([] if given.get("parts") else [f"options.parts: {_NO_PARTS}"]):
        raise SettingsError("; ".join(problems))
    return _Plan(given.get("how", "sum"), {n: Part.model_validate(fields) for n, fields in given["parts"].items()})


def _asked(part: Part, task: Task) -> Task | Verdict:
    """The task as that part sees it; a verdict where it has no such gold."""
    if part.gold is None:
        return task
    if part.gold not in task.info:
        hint = near(part.gold, [str(column) for column in task.info])
        reason = f"the task has no column {part.gold!r} for its gold; {hint}".rstrip("; ")
        return Verdict(score=None, outcome="gold_invalid", reason=reason, verifier=part.verifier)
    return replace(task, gold=task.info[part.gold])


# --- how verdicts become one


@dataclass(frozen=True, slots=True)
class _Judged:
    name: str
    part: Part
    verdict: Verdict
    score: float


def _combined(plan: _Plan, verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict, which bears the verdicts of the parts in its checks."""
    pairs = list(zip(plan.parts.items(), verdicts, strict=True))
    shared = {
        "checks": {name: _shown(part, verdict) for (name, part), verdict in pairs},
        "seconds": sum(verdict.seconds for verdict in verdicts),
        "stderr": "".join(f"[{name}] {verdict.stderr}\n" for (name, _), verdict in pairs if verdict.stderr)[
            -bound.STDERR_CHARACTERS :
        ],
    }
    # the gate itself counts whatever its weight
    counted = [(n, p, v) for i, ((n, p), v) in enumerate(pairs) if p.weight or (plan.how == "gate" and i == 0)]
    for name, part, verdict in counted:
        if verdict.is_failure and not part.optional:
            outcome: Outcome = verdict.outcome
            return Verdict(score=None, outcome=outcome, reason=f"{name}: {verdict.reason}", stage=name, **shared)
    spoken = [_Judged(n, p, v, v.score) for n, p, v in counted if v.score is not None]
    if plan.how == "gate" and spoken and spoken[0].name == counted[0][0]:
        gate, *spoken = spoken
        needed = 1.0 if gate.part.at_least is None else gate.part.at_least
        if gate.score < needed:
            reason = f"{gate.name} has {gate.score:.3g}, and {needed:g} is needed: {gate.verdict.reason}"
            return _verdict(0.0, gate, reason, shared)
    if not spoken:
        failed = next((f"{name}: {verdict.reason}" for name, _, verdict in counted if verdict.is_failure), "")
        reason = failed or "no part speaks of this task"
        return Verdict(score=None, outcome="error" if failed else "not_applicable", reason=reason, **shared)
    return _verdict(*_decided(plan.how, spoken), shared)


def _decided(how: How, spoken: Sequence[_Judged]) -> tuple[float, _Judged, str]:
    """Score, the part that decides, and why."""
    if how == "first":
        first = spoken[0]
        return first.score, first, f"{first.name}: {first.verdict.reason}"
    least = min(spoken, key=lambda judged: judged.score)  # the first of several
    if how == "min":
        return least.score, least, f"least: {least.name} {least.score:.3g}"
    if how == "product":
        score = math.prod(judged.score for judged in spoken)
        return score, least, " * ".join(f"{judged.name} {judged.score:.3g}" for judged in spoken)
    total = math.fsum(judged.part.weight for judged in spoken)
    score = math.fsum(judged.part.weight * judged.score for judged in spoken) / total
    reason = " + ".join(f"{judged.part.weight / total:.3g} * {judged.name} {judged.score:.3g}" for judged in spoken)
    return min(1.0, score), max(spoken, key=lambda judged: judged.part.weight), reason


def _verdict(score: float, decider: _Judged, reason: str, shared: Mapping[str, Any]) -> Verdict:
    """Right or wrong in the words of the part that decides, where it is as right or wrong as the whole."""
    own = decider.verdict
    plain: Outcome = "correct" if score == 1 else "wrong" if score == 0 else "partial"
    outcome = own.outcome if own.score == score else plain
    return Verdict(
        score=score, outcome=outcome, reason=reason, answer=own.answer, how=own.how, stage=decider.name, **shared
    )


def _shown(part: Part, verdict: Verdict) -> dict[str, Any]:
    return {
        "score": verdict.score,
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "verifier": verdict.verifier or part.verifier,
        "version": verdict.version,
        "weight": part.weight,
        **({"checks": dict(verdict.checks)} if verdict.checks else {}),
    }


_FORM_FIRST = {
    "how": "gate",
    "parts": {
        "form": {"verifier": "boxed"},
        "answer": {"verifier": "exact", "weight": 3.0},
        "name": {"verifier": "exact", "gold": "name", "optional": True},
    },
}
_EITHER = {"how": "min", "parts": {"a": {"verifier": "exact"}, "b": {"verifier": "exact", "gold": "name"}}}
EXAMPLES = [  # gold, response, score, options and columns: right, wrong, malformed, trying to cheat
    ("42", r"\boxed{42}", 1.0, {"options": {"parts": {"answer": {"verifier": "exact"}}}}),
    ("42", r"\boxed{42}", 0.75, {"options": _FORM_FIRST, "info": {"name": "x"}}),
    ("42", r"\boxed{42}", 1.0, {"options": _FORM_FIRST}),
    ("42", r"\boxed{41}", 0.0, {"options": _FORM_FIRST}),
    ("42", "42", 0.0, {"options": _FORM_FIRST}),
    ("42", "", 0.0, {"options": _FORM_FIRST}),
    ("42", "form: 1, answer: 1", 0.0, {"options": _FORM_FIRST}),
    ("42", "42", 0.0, {"options": _EITHER, "info": {"name": "x"}}),
    ("42", "42", None, {"options": _EITHER}),
]
