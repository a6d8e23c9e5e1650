"""The library behind the json verifier, on the official test suite, and what it refuses to do."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from rlvr.verifiers.json_schema import compile_schema, violation

SUITE = Path(__file__).parent / "data/json_schema_suite"
REMOTES = json.loads((SUITE / "remotes.json").read_text())
CLASSES = {"draft7": jsonschema_rs.Draft7Validator, "draft2020-12": jsonschema_rs.Draft202012Validator}
SIZES = {("draft7", "mandatory"): 913, ("draft7", "optional"): 118,
         ("draft2020-12", "mandatory"): 1257, ("draft2020-12", "optional"): 158}  # fmt: skip
# Those whose schema refers to another one by its URL, or is written in a draft of somebody's own.
REFUSED = {("draft7", "mandatory"): 23, ("draft7", "optional"): 2,
           ("draft2020-12", "mandatory"): 49, ("draft2020-12", "optional"): 5}  # fmt: skip


def groups(draft: str, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (SUITE / f"{draft}.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


@pytest.mark.parametrize(("draft", "kind"), SIZES)
def test_the_library_answers_every_case_of_the_official_suite(draft: str, kind: str) -> None:
    answers: Counter[bool] = Counter()
    for group in groups(draft, kind):
        schema = CLASSES[draft](
            group["schema"], retriever=REMOTES.__getitem__, pattern_options=jsonschema_rs.RegexOptions()
        )
        answers.update(schema.is_valid(data) == valid for _, data, valid in group["tests"])
    assert answers == {True: SIZES[draft, kind]}


@pytest.mark.parametrize(("draft", "kind"), SIZES)
def test_ours_answers_all_of_them_but_those_that_would_ask_the_network(draft: str, kind: str) -> None:
    answers: Counter[str] = Counter()
    for group in groups(draft, kind):
        schema = group["schema"]
        if isinstance(schema, dict) and draft == "draft7":  # a schema that names no draft is of 2020-12
            schema = {"$schema": "http://json-schema.org/draft-07/schema#"} | schema
        compiled = compile_schema(json.dumps(schema))
        if isinstance(compiled, str):
            assert "$ref beyond the schema itself is never followed" in compiled or "Unknown meta-schema" in compiled
            answers["refused"] += len(group["tests"])
            continue
        answers.update(
            "right" if (violation(compiled, data) is None) == valid else f"wrong: {group['description']}"
            for _, data, valid in group["tests"]
        )
    refused = REFUSED[draft, kind]
    assert answers == {"right": SIZES[draft, kind] - refused, "refused": refused}


@pytest.mark.parametrize(
    "reference",
    ["http://localhost:9/x.json", "https://example.com/x", "file:///etc/passwd", "other.json", "urn:uuid:1"],
)
def test_a_reference_beyond_the_schema_is_refused_and_never_followed(
    reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://localhost:9")
    start = time.monotonic()
    told = compile_schema(json.dumps({"$ref": reference}))
    assert isinstance(told, str)
    assert told.startswith("$ref beyond the schema itself is never followed")
    assert time.monotonic() - start < 1


def test_a_reference_within_the_schema_is_followed() -> None:
    schema = compile_schema('{"$ref": "#/$defs/even", "$defs": {"even": {"multipleOf": 2}}}')
    assert not isinstance(schema, str)
    assert violation(schema, 4) is None
    assert violation(schema, 5) == ([], "5 is not a multiple of 2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "strng"}', 'not a JSON Schema: "strng" is not valid'),
        ('{"minimum": "3"}', 'not a JSON Schema: "3" is not of type "number"'),
        ("[1]", "a schema is a mapping, true or false, not [1]"),
        ('"object"', "a schema is a mapping, true or false"),
        ("{type: 1}", "the schema is no JSON: not JSON: type at character 1"),
        ('{"type": "object", "type": "array"}', "the schema is no JSON: the key 'type' stands twice"),
        ('{"pattern": "a(?=b)"}', "patterns have no lookaround and no backreferences"),
        ('{"pattern": "(a)\\\\1"}', "patterns have no lookaround and no backreferences"),
        ('{"pattern": "((a{1000}){1000}){1000}"}', 'is not a "regex"'),
        ('{"$schema": "http://example.com/mine"}', "Unknown meta-schema: 'http://example.com/mine'"),
        ('{"not": ' * 5000 + "{}" + "}" * 5000, "nested more than 64 deep"),
    ],
)
def test_what_is_no_schema_is_named(text: str, message: str) -> None:
    told = compile_schema(text)
    assert isinstance(told, str)
    assert message in told
    assert "\n" not in told


@pytest.mark.parametrize("pattern", ["^(a+)+$", "(a|a)*b", "(x+x+)+y", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_a_hostile_text_does_not_slow_a_pattern_down(pattern: str) -> None:
    schema = compile_schema(json.dumps({"pattern": pattern}))
    assert not isinstance(schema, str)
    start = time.process_time()
    assert violation(schema, "a" * 100_000 + "!") is not None
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    "text",
    [
        '{"$ref": "#"}',
        '{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}}',
    ],
)
def test_a_schema_that_refers_to_itself_ends(text: str) -> None:
    schema = compile_schema(text)
    assert not isinstance(schema, str)
    assert violation(schema, [1]) is None


def test_true_is_no_integer_and_a_whole_float_is_one() -> None:
    schema = compile_schema('{"type": "integer"}')
    assert not isinstance(schema, str)
    assert violation(schema, True) == ([], 'true is not of type "integer"')
    assert violation(schema, 1.0) is None  # as the specification has it; the verifier's numbers: strict asks for more


def test_where_the_value_is_wrong_is_told() -> None:
    schema = compile_schema('{"properties": {"rows": {"items": {"required": ["id"]}}}}')
    assert not isinstance(schema, str)
    assert violation(schema, {"rows": [{"id": 1}, {}]}) == (["rows", 1], '"id" is a required property')
