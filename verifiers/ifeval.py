"""ifeval: the response follows instructions that a program can check (arxiv 2311.07911): so many words, no comma, JSON.

Gold: constraints with their arguments, as IFEval, IFEvalG and RLVR-IFeval write them, or in a form of our own.

- the columns of google/IFEval, here or as columns of the row: {"instruction_id_list": [...], "kwargs": [{...}, ...]}
- IFEvalG's [{"instruction_id": [...], "kwargs": [...]}], also as text that JSON or Python's literals write
- RLVR-IFeval's {"func_name": "validate_word_constraint", "N": 50, "quantifier": "at least"}, also as JSON text
- ours: {"constraints": [{"kind": "punctuation:no_comma"}, {"kind": "keywords:existence", "keywords": ["sun"]}]}
Arguments that are null are not there. Kinds, their arguments, and where they count otherwise than their authors:
ifeval_kinds.py (IFEval's 25), ifeval_more.py (IFEvalG's 29, RLVR-IFeval's 25). What is judged stands behind `</think>`.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from rlvr.errors import near
from rlvr.plugins import verifier
from rlvr.types import Task, Verdict
from rlvr.verifiers import language
from rlvr.verifiers.ifeval_kinds import Kind, Result
from rlvr.verifiers.ifeval_more import KINDS
from rlvr.verifiers.ifeval_text import said

warm_up = language.warm_up
_LONGEST_GOLD = 1_000_000


@verifier("ifeval", version="1")
def ifeval(
    response: str,
    gold: Any,
    task: Task,
    *,
    score: Literal["all", "mean"] = "all",
    loose: bool = False,
    whole_words: bool = False,
) -> Verdict:
    """score: all of the constraints, or the share that is followed. loose: IFEval's second way of counting, an upper
    bound: a constraint is followed where the response follows it without its first line, its last, both, or without
    asterisks. whole_words: "cat" is not in "concatenate"; IFEval's published figures count it.
    """
    try:
        constraints = _constraints(gold, task.info)
    except _GoldError as error:
        return Verdict(score=None, outcome="gold_invalid", reason=str(error))
    text = said(response)
    if text is None or not text.strip():
        reason = "the response is empty" if text is not None else "the response is still thinking"
        return Verdict(score=0.0, outcome="no_answer", reason=reason)
    texts = _variants(text) if loose else [text]
    checks: dict[str, dict[str, Any]] = {}
    for constraint in constraints:
        followed, reason = _check(constraint, texts, whole_words)
        checks[_free_name(constraint.name, checks)] = {"score": float(followed), "reason": reason}
    failed = [f"{name}: {check['reason']}" for name, check in checks.items() if not check["score"]]
    share = 1 - len(failed) / len(checks)
    value = share if score == "mean" else float(not failed)
    told = f"{len(checks) - len(failed)} of {len(checks)} constraints followed"
    return Verdict(
        score=value,
        outcome="correct" if value == 1.0 else "partial" if value else "wrong",
        reason="; ".join([told, *failed])[:1000],
        stage="loose" if loose else "strict",
        checks=checks,
    )


def gold_problem(verifier_name: str, task: Task) -> str:
    """Why the task's constraints cannot be checked: which of them, which argument, what would be right."""
    try:
        _constraints(task.gold, task.info)
    except _GoldError as error:
        return str(error)
    return ""


def _check(constraint: _Constraint, texts: list[str], whole_words: bool) -> Result:
    kind = constraint.kind
    words = {"whole_words": whole_words} if kind.by_words else {}
    results = (kind.check(text, **constraint.args, **words) for text in texts)
    first = next(results)
    return first if first[0] else next((result for result in results if result[0]), first)


def _variants(text: str) -> list[str]:
    """The response in the eight ways of IFEval's loose counting, itself first; blank ones follow nothing."""
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    found = cut + [part.replace("*", "") for part in cut]
    return [part for part in dict.fromkeys(found) if part.strip()]


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    """The name, with #2, #3 ... where a constraint of this kind came before."""
    count, free = 1, name
    while free in taken:
        count += 1
        free = f"{name}#{count}"
    return free


class _GoldError(ValueError):
    """Why a gold is no use, in one line."""


@dataclass(frozen=True, slots=True)
class _Constraint:
    name: str
    kind: Kind
    args: Mapping[str, Any]
    """As the kind's check takes them."""


def _constraints(gold: Any, info: Mapping[str, Any]) -> tuple[_Constraint, ...]:
    """_GoldError where it cannot be read."""
    if gold is None or gold == "":
        gold = {name: info[name] for name in ("instruction_id_list", "kwargs") if name in info}
    if not isinstance(gold, str):
        try:
            gold = json.dumps(gold)
        except (TypeError, ValueError, RecursionError) as error:
            raise _GoldError(f"the gold is no plain data: {error}") from None
    return _parsed(gold)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple[_Constraint, ...]:
    """By the gold's text: a group of responses shares it."""
    named = _named(_data(text))
    if not named:
        raise _GoldError("the gold has no constraint; it must have one at least")
    return tuple(_bound(name, args) for name, args in named)


def _data(text: str) -> Any:
    """What the text says in JSON or as Python literals; a text within a text is read too."""
    if len(text) > _LONGEST_GOLD:
        raise _GoldError(f"the gold has {len(text)} characters, {_LONGEST_GOLD} is the most")
    for read in (json.loads, ast.literal_eval):
        try:
            data = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return _data(data) if isinstance(data, str) else data
    raise _GoldError(f"the gold is neither JSON nor a Python literal: {text[:60]!r}")


_FORMS = '{"constraints": [{"kind": ...}]}, {"instruction_id_list": [...], "kwargs": [...]} or {"func_name": ...}'


def _named(data: Any) -> list[tuple[str, dict[str, Any]]]:
    """(id, arguments) of each constraint."""
    if isinstance(data, list):
        return [constraint for one in data for constraint in _named(one)]
    if not isinstance(data, dict):
        raise _GoldError(f"the gold must be {_FORMS}, got {data!r:.60}")
    if "constraints" in data:
        if not isinstance(data["constraints"], list):
            raise _GoldError(f"constraints must be a list, got {data['constraints']!r:.60}")
        return _named(data["constraints"])
    for key in ("kind", "func_name"):
        if key in data:
            return [(_as_id(data[key]), {name: value for name, value in data.items() if name != key})]
    ids = data.get("instruction_id_list", data.get("instruction_id"))
    if ids is None:
        raise _GoldError(f"the gold must be {_FORMS}, got {', '.join(map(repr, data)) or 'nothing'}")
    ids = [ids] if isinstance(ids, str) else ids
    kwargs = data.get("kwargs")
    if not isinstance(ids, list) or not isinstance(kwargs, list) or len(ids) != len(kwargs):
        raise _GoldError("instruction ids and kwargs must be lists of one length")
    return [(_as_id(name), _as_arguments(name, args)) for name, args in zip(ids, kwargs, strict=True)]


def _as_id(name: Any) -> str:
    if not isinstance(name, str) or name not in KINDS:
        hint = near(name, KINDS) if isinstance(name, str) else ""
        raise _GoldError(
            f"no constraint {str(name)[:80]!r} is known; {hint}ifeval_kinds.py and ifeval_more.py list them"
        )
    return name


def _as_arguments(name: str, args: Any) -> dict[str, Any]:
    if args is None:
        return {}
    if not isinstance(args, dict):
        raise _GoldError(f"{name}: its kwargs must be an object, got {args!r:.60}")
    return args


def _bound(name: str, given: Mapping[str, Any]) -> _Constraint:
    """The constraint with its arguments read; _GoldError names the one that is missing, unknown or wrong."""
    kind = KINDS[name]
    given = {key: value for key, value in given.items() if value is not None}
    for key in given:
        if key not in kind.args:
            known = f"known: {', '.join(kind.args)}" if kind.args else "it has none"
            raise _GoldError(f"{name} has no argument {key!r}; {near(key, kind.args)}{known}")
    args = dict(kind.fixed)
    for key, (parameter, read) in kind.args.items():
        if key not in given:
            raise _GoldError(f"{name}: its argument {key!r} is missing")
        try:
            args[parameter] = read(given[key])
        except ValueError as error:
            raise _GoldError(f"{name}: {key} must be {error}, got {given[key]!r:.60}") from None
    if kind.problem is not None and (problem := kind.problem(args)):
        raise _GoldError(f"{name}: {problem}")
    return _Constraint(name, kind, args)


_TWO = {
    "instruction_id_list": ["startend:quotation", "length_constraints:number_words"],
    "kwargs": [{}, {"num_words": 5, "relation": "at least", "keywords": None}],
}
_FIRST = "[{'instruction_id': ['first_word:first_word_answer'], 'kwargs': [{'first_word': 'Sun'}]}]"
_POINTS = '{"func_name": "verify_bullet_points", "N": 2, "options": null}'
_OURS = {"constraints": [{"kind": "detectable_format:title"}, {"kind": "punctuation:no_comma"}]}

EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    (_TWO, '"The sun is out and warm today."', 1.0),
    (_TWO, '<think>well, well</think>"The sun is out today."', 1.0),
    (_FIRST, "Sun, sea and sand.", 1.0),
    (_POINTS, "Two things:\n* the sun\n* the sea", 1.0),
    (_OURS, "<<A summer's day>>\nThe sun is out.", 1.0),
    (_TWO, "The sun is out and warm today.", 0.0),
    (_FIRST, "The sun is out.", 0.0),
    (_POINTS, "Two things:\n* the sun", 0.0),
    (_OURS, "<<A summer's day>>\nThe sun is out, and warm.", 0.0),
    (_TWO, "", 0.0),
    (_TWO, '<think>"The sun is out and warm today."', 0.0),
    (_TWO, '"- - - - - - -"', 0.0),
    (_POINTS, "*\n*", 0.0),
    (_OURS, "<< >>\nThe sun is out.", 0.0),
    (_OURS, "<<A summer's day>>\nThe sun is out， and warm.", 0.0),
    ({"constraints": [{"kind": "punctuation:no_commas"}]}, "Yes.", None),
    ({"constraints": [{"kind": "keywords:existence"}]}, "Yes.", None),
    ("follow my instructions", "Yes.", None),
]
