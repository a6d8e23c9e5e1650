r"""json: the response is one JSON value; it is valid by a schema, or says what the gold says, or both.

The gold is a JSON value, or the text of one (so the text Oslo is '"Oslo"' and null is 'null'). A mapping of exactly
`schema` and `value` is a JSON Schema with the right value under it. With mode: schema the gold is the schema.

Where in the response: structured_text.py (the whole, <answer>, or the one fence tagged json or not at all). How
strictly it is read: json_text.py. The schema: json_schema.py; a value that is not valid by it scores 0 in every mode.
It is `schema` of the options, else the row's column that schema_column names, else that of the gold.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlvr.errors import near
from rlvr.fields import NonNegative
from rlvr.plugins import verifier
from rlvr.types import Task, Verdict
from rlvr.verifiers.code_text import Refused
from rlvr.verifiers.json_compare import (
    Comparison,
    Pattern,
    Rules,
    TooManyPairsError,
    checks,
    compare,
    place,
    read_place,
)
from rlvr.verifiers.json_schema import Schema, compile_schema, violation
from rlvr.verifiers.json_text import parse_json
from rlvr.verifiers.structured_text import find_block

Mode = Literal["exact", "subset", "fields", "schema"]
Numbers = Literal["strict", "value"]
_TAGS = frozenset({"", "json"})


@verifier("json", version="1", timeout=2.0)
def json_values(
    response: str,
    task: Task,
    gold: Any,
    *,
    mode: Mode = "exact",
    schema: dict[str, Any] | bool | None = None,
    schema_column: str | None = None,
    numbers: Numbers = "strict",
    tolerance: NonNegative = 0.0,
    absolute: NonNegative = 0.0,
    unordered: bool | list[str] = False,
    score: Literal["f1", "share"] = "f1",
) -> Verdict:
    """exact: the gold and nothing more. subset: all of the gold, and more keys, or items of a list without an order.
    fields: f1, or the share of the gold's, over the leaves that are right. schema: valid, whatever it says.

    numbers: value lets 1.0 be 1; tolerance (share of the gold) and absolute go with it. unordered: lists whose order
    does not count, all (true) or those at places such as "$.rows[*].tags".
    """
    wanted = _read_wanted(gold, task.info, mode, schema, schema_column)
    if isinstance(wanted, str):
        return Verdict(score=None, outcome="gold_invalid", reason=wanted)
    block = find_block(response, _TAGS, opens="{[")
    if isinstance(block, Refused):
        return Verdict(score=0.0, outcome=block.outcome, reason=block.reason, stage="extract")
    read = parse_json(block.text)
    if isinstance(read, Refused):
        return _verdict(0.0, read.outcome, read.reason, block.text, block.how, "parse")
    found: dict[str, Any] = {}
    if wanted.schema is not None:
        broken = violation(wanted.schema, read[0])
        told = "" if broken is None else f"{place(broken[0])}: {broken[1]}"
        found["schema"] = {"score": float(broken is None), "reason": told}
        if broken is not None or mode == "schema":
            reason = f"not valid by the schema: {told}" if told else "valid by the schema"
            return _verdict(
                float(not told), "wrong" if told else "correct", reason, block.text, block.how, "schema", found
            )
    rules = _rules(mode, numbers, tolerance, absolute, unordered)
    try:
        compared = compare(wanted.value, read[0], rules)
    except TooManyPairsError as error:
        if (problem := _own_problem(wanted.value, rules)) is not None:
            return Verdict(score=None, outcome="gold_invalid", reason=problem)
        return _verdict(0.0, "too_complex", str(error), block.text, block.how, "compare", found)
    found |= dict(checks(compared))
    points = _points(compared, mode, score)
    outcome = "correct" if points == 1 else "wrong" if points == 0 else "partial"
    reason = "all that is wanted is there" if points == 1 else _reason(compared)
    return _verdict(points, outcome, reason, block.text, block.how, "compare", found)


def _verdict(
    score: float, outcome: Any, reason: str, answer: str, how: str, stage: str, checks: Mapping[str, Any] | None = None
) -> Verdict:
    return Verdict(
        score=score, outcome=outcome, reason=reason, answer=answer, how=how, stage=stage, checks=checks or {}
    )


def _points(found: Comparison, mode: Mode, score: str) -> float:
    if mode != "fields":
        return float(found.problems == 0)
    return found.f1 if score == "f1" else found.share


def _reason(found: Comparison) -> str:
    where, what = next(iter(found.wrong.items()))
    more = f", and {found.problems - 1} more" if found.problems > 1 else ""
    return f"{where} {what}{more}"


def _own_problem(gold: Any, rules: Rules) -> str | None:
    """Why the gold cannot even be compared with itself."""
    try:
        compare(gold, gold, rules)
    except TooManyPairsError as error:
        return f"the gold is too large for these options: {error}"
    return None


def _rules(mode: Mode, numbers: Numbers, tolerance: float, absolute: float, unordered: bool | list[str]) -> Rules:
    if isinstance(unordered, bool):
        places: bool | frozenset[Pattern] = unordered
    else:
        places = frozenset(pattern for text in unordered if (pattern := read_place(text)) is not None)
    return Rules(
        allows_more=mode == "subset",
        by_value=numbers == "value",
        tolerance=tolerance,
        absolute=absolute,
        unordered=places,
    )


@dataclass(frozen=True, slots=True)
class _Wanted:
    value: Any
    """Nothing may change it: it is kept from one response to the next."""
    schema: Schema | None


def _read_wanted(
    gold: Any, info: Mapping[str, Any], mode: Mode, schema: dict[str, Any] | bool | None, column: str | None
) -> _Wanted | str:
    if schema is None and column is not None:
        if info.get(column) is None:
            return f"the row has no {column!r} (schema_column names it); {near(column, info)}it has: {', '.join(info)}"
        schema = info[column]
    if gold is None and (schema is None or mode != "schema"):
        return "the row has no gold (null as a right answer is the text 'null')"
    try:
        schema_text = None if schema is None else _text_of(schema)
        gold_text = "" if schema_text is not None and mode == "schema" else _text_of(gold)
    except (TypeError, ValueError, RecursionError) as error:
        return f"the gold is no JSON: {' '.join(str(error).split())[:200]}"
    return _prepare(gold_text, schema_text, mode == "schema")


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, allow_nan=False)


@functools.lru_cache(maxsize=1024)
def _prepare(gold: str, schema: str | None, is_schema_alone: bool) -> _Wanted | str:
    """By value, so that what a task's siblings share is read once."""
    value = None
    if gold:
        read = parse_json(gold)
        if isinstance(read, Refused):
            return f"the gold is no JSON: {read.reason}"
        value = read[0]
        keys = value.keys() if isinstance(value, dict) else set()
        if keys == {"schema", "value"} or (is_schema_alone and keys == {"schema"}):
            schema = schema if schema is not None else json.dumps(value["schema"])
            value = value.get("value")
        elif is_schema_alone:
            schema = gold
    elif not is_schema_alone:
        return "the gold is empty"
    if schema is None:
        return _Wanted(value, None)
    compiled = compile_schema(schema)
    if isinstance(compiled, str):
        return compiled
    if not is_schema_alone and (broken := violation(compiled, value)) is not None:
        return f"the gold is not valid by its own schema: {place(broken[0])}: {broken[1]}"
    return _Wanted(value, compiled)


def warm_up() -> None:
    """The library of schemas is loaded before a response is judged."""
    compile_schema("true")


def start_problem(options: Mapping[str, Any]) -> str:
    """A schema that is none, and options that do not go together."""
    mode, schema = options.get("mode", "exact"), options.get("schema")
    if schema is not None:
        if options.get("schema_column") is not None:
            return "schema and schema_column are two schemas; set one of them"
        compiled = compile_schema(_text_of(schema))
        if isinstance(compiled, str):
            return f"option schema: {compiled}"
    if (options.get("tolerance") or options.get("absolute")) and options.get("numbers", "strict") == "strict":
        return "tolerance and absolute need numbers: value (with strict, 1.0 is not even 1)"
    if "score" in options and mode != "fields":
        return f"score goes with mode: fields only, got mode: {mode}"
    places = options.get("unordered", False)
    for written in places if isinstance(places, list) else []:
        if read_place(written) is None:
            return f"option unordered: {written!r} is no place such as $.rows, $.rows[*].tags or $"
    return ""


def gold_problem(verifier: str, task: Task, options: Mapping[str, Any] | None = None) -> str:
    """Why no response can be judged by the task's gold with these options."""
    chosen = options or {}
    wanted = _read_wanted(
        task.gold, task.info, chosen.get("mode", "exact"), chosen.get("schema"), chosen.get("schema_column")
    )
    return wanted if isinstance(wanted, str) else ""


def canary_gold(task: Task, nonce: int) -> dict[str, str]:
    """What nothing leads to, as a value and as a schema."""
    return {"canary": str(nonce), "const": str(nonce)}


_ADA = {"name": "Ada", "age": 36}
_TYPED = {"schema": {"required": ["age"], "properties": {"age": {"type": "integer"}}}, "value": _ADA}
EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    (_ADA, '{"age": 36, "name": "Ada"}', 1.0),
    ('{"name": "Ada", "age": 36}', 'Here it is:\n```json\n{"name": "Ada", "age": 36}\n```', 1.0),
    ([1, [2.5, None]], "<think>two lists</think><answer>[1, [2.5, null]]</answer>", 1.0),
    (_TYPED, '{"name": "Ada", "age": 36}', 1.0),
    (_TYPED, '{"name": "Ada", "age": "36"}', 0.0),
    (_ADA, '{"name": "Ada"}', 0.0),
    (_ADA, '{"name": "Ada", "age": 36, "job": "countess"}', 0.0),
    (1, "true", 0.0),
    (1, "1.0", 0.0),
    ([1, 2], "[2, 1]", 0.0),
    (_ADA, "{'name': 'Ada', 'age': 36}", 0.0),
    (_ADA, '{"name": "Ada", "age": 36', 0.0),
    (_ADA, '{"name": "Ada", "age": 36}}', 0.0),
    (_ADA, "", 0.0),
    (_ADA, '{"name": "Ada", "age": 35, "age": 36}', 0.0),
    ([1], "[NaN]", 0.0),
    ([1], "[" * 100_000, 0.0),
    (_ADA, '{"name": "Ada", "age": 36}\n{"name": "Ada", "age": 37}', 0.0),
    (_ADA, '```json\n{"name": "Ada", "age": 36}\n```\n```json\n{"name": "Bob", "age": 36}\n```', 0.0),
    (_ADA, '<think>{"name": "Ada", "age": 36}', 0.0),
]
