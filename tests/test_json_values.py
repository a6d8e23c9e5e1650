"""The json verifier: how strictly it reads, what it counts as the same, what it says."""

from __future__ import annotations

import copy
import json
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.rewards.bound import apply, gold_problem, lookup, option_problems, start_problems
from rlvr.types import Task, Verdict
from rlvr.verifiers import json_values
from rlvr.verifiers.code_text import Refused
from rlvr.verifiers.json_compare import Rules, compare, place, read_place
from rlvr.verifiers.json_text import MOST_CHARACTERS, parse_json
from rlvr.verifiers.structured_matching import match_best, match_keys, match_most

ADA = {"name": "Ada", "age": 36, "langs": ["en", "fr"], "home": {"city": "London", "rooms": 3}}
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def judge(gold: Any, response: Any, info: dict[str, Any] | None = None, **options: Any) -> Verdict:
    text = response if isinstance(response, str) else json.dumps(response)
    return apply(lookup("json"), text, Task(id="t", prompt="p", gold=gold, info=info or {}), options)


def problem(text: str) -> str:
    read = parse_json(text)
    assert isinstance(read, Refused), read
    return read.reason


@pytest.mark.parametrize(("gold", "response", "score"), json_values.EXAMPLES)
def test_the_examples_are_judged_as_they_say(gold: Any, response: str, score: float) -> None:
    assert judge(gold, response).score == score


# reading


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '{"a": 1, "b": 2, "a": 3}',
            "the key 'a' stands twice in one object, again at character 17 (line 1 column 18)",
        ),
        ('{"a": 1, "\\u0061": 3}', "the key 'a' stands twice in one object, again at character 9 (line 1 column 10)"),
        ("[1,\n NaN]", "not JSON: NaN at character 5 (line 2 column 2)"),
        ("[-Infinity]", "not JSON: Infinity at character 2 (line 1 column 3)"),
        ("[1e999]", "1e999 is more than a float holds at character 1 (line 1 column 2)"),
        ("[-1.5E+400]", "-1.5E+400 is more than a float holds at character 1 (line 1 column 2)"),
        ("[" * 100_000, "nested more than 64 deep at character 64 (line 1 column 65)"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested more than 64 deep at character 320 (line 1 column 321)"),
        ("1" * 5000, "a number of 5000 characters, and at most 400 are read, at character 0 (line 1 column 1)"),
        ("{'a': 1}", "not JSON: a single quote at character 1 (line 1 column 2)"),
        ('{"a": True}', "not JSON: True at character 6 (line 1 column 7)"),
        ("{a: 1}", "not JSON: a at character 1 (line 1 column 2)"),
        ('{"a": 1} {"a": 1}', "not JSON: more text behind the value at character 9 (line 1 column 10)"),
        ("[1, 2,]", "not JSON: expecting value at character 6 (line 1 column 7)"),
        ("[01]", "not JSON: expecting ',' delimiter at character 2 (line 1 column 3)"),
        ('["a\nb"]', "not JSON: invalid control character at character 3 (line 1 column 4)"),
        ('["\\ud800"]', "not JSON: half a surrogate pair, which is no valid text"),
        ('["\ud800"]', "not JSON: half a surrogate pair, which is no valid text"),
        ('["' + '\\"' * 10, "not JSON: unterminated string starting at character 1 (line 1 column 2)"),
        ("", "not JSON: expecting value at character 0 (line 1 column 1)"),
    ],
)
def test_what_is_no_strict_json_is_told_with_its_place(text: str, told: str) -> None:
    assert problem(text) == told


def test_what_only_looks_hostile_is_read() -> None:
    for value in (
        {"NaN": "Infinity [[[[ {{{{ 'x'"},
        ["[" * 1000, '\\" \\\\'],
        [{"a": 1}, {"a": 1}],
        {"a": {"a": {"a": 1}}},
        10**399,
        -0.0,
        1e308,
        "😀",
    ):
        assert parse_json(json.dumps(value)) == (value,)
    deep: Any = 1
    for _ in range(64):
        deep = [deep]
    assert parse_json(json.dumps(deep)) == (deep,)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inside: (
        st.lists(inside, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inside, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON, st.booleans(), st.sampled_from([None, 2]))
def test_whatever_python_writes_is_read_as_it_was(value: Any, ascii_only: bool, indent: int | None) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only, indent=indent)) == (value,)


@settings(deadline=None)
@given(JSON)
def test_every_value_is_right_for_itself_in_every_mode(value: Any) -> None:
    text = json.dumps(value)
    for options in (
        {},
        {"mode": "subset"},
        {"mode": "fields"},
        {"unordered": True},
        {"numbers": "value", "tolerance": 0.1},
    ):
        verdict = judge(text, text if isinstance(value, dict | list) else f"<answer>{text}</answer>", **options)
        if isinstance(value, dict) and set(value) == {"schema", "value"}:
            continue
        assert verdict.score == 1.0, (options, verdict)


@settings(deadline=None)
@given(JSON, JSON)
def test_two_values_are_the_same_where_python_and_their_types_say_so(one: Any, other: Any) -> None:
    # json.dumps tells 1, 1.0 and true apart
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    found = compare(one, other, Rules())
    if "-0.0" not in json.dumps([one, other]):
        assert (found.problems == 0) == same
    assert (found.problems == 0) == (found.right == found.wanted == found.given)


@settings(deadline=None)
@given(st.text(alphabet="{}[]\",:\\ 1eNa\n'`-"))
def test_no_text_raises(text: str) -> None:
    read = parse_json(text)
    if isinstance(read, Refused):
        assert read.outcome in ("malformed", "too_complex")
    else:
        assert json.loads(text) == read[0]
    assert judge([1], text).outcome in ("malformed", "wrong", "no_answer", "correct")


@pytest.mark.parametrize(
    "text",
    [
        '["' + '\\"' * 130_000,
        '"' * 262_144,
        "[" * 262_144,
        '{"a":' * 52_000,
        "-" * 262_144,
        "0" * 262_144,
        "[" + "1e1," * 65_000,
        "{" + ",".join(f'"{k}":{k}' for k in range(18_000)) + "}",
        '{"a"' + " " * 262_000,
        "[" + '"",' * 80_000 + "1]",
        "x" * 262_144,
        "```json\n" * 30_000,
        "<answer>" * 30_000,
        "{" * 60 + "\\u" * 100_000,
    ],
    ids=lambda text: text[:8],
)
@pytest.mark.parametrize("options", [{}, {"mode": "fields", "unordered": True}], ids=str)
def test_hostile_text_costs_its_length(text: str, options: dict[str, Any]) -> None:
    start = time.process_time()
    verdict = judge([{"a": 1}, 2], text, **options)
    assert time.process_time() - start < 0.7
    assert verdict.score is not None and verdict.score < 1
    assert sum(len(where) for where in verdict.checks) < 20_000


def test_too_long_a_text_is_not_read() -> None:
    verdict = judge([1], "[" + " " * MOST_CHARACTERS + "1]")
    assert (verdict.score, verdict.outcome) == (0.0, "too_complex")


# where the answer is


@pytest.mark.parametrize(
    ("response", "outcome", "how"),
    [
        ("[1]", "correct", "whole"),
        ("\n [1] \n", "correct", "whole"),
        ("<think>[2]</think>[1]", "correct", "whole"),
        ("So:\n```json\n[1]\n```\nDone.", "correct", "fence"),
        ("So:\n```\n[1]\n```", "correct", "fence"),
        ("```python\n[2]\n```\n```json\n[1]\n```", "correct", "fence"),
        ("So <answer>[1]</answer>", "correct", "answer_tag"),
        ("<answer>\n```json\n[1]\n```\n</answer>", "correct", "answer_tag"),
        ("```json\n[2]\n```\n<answer>[1]</answer>", "correct", "answer_tag"),
        ("<answer>[1]</answer><answer>[1]</answer>", "malformed", ""),
        ("<answer>[1]", "malformed", ""),
        ("</answer>[1]<answer>", "malformed", ""),
        ("```json\n[1]\n```\n```json\n[1]\n```", "malformed", ""),
        ("[1]\n```json\n[1]\n```", "malformed", "whole"),
        ("```json\n[1]", "malformed", "whole"),
        ("The answer is [1]", "malformed", "whole"),
        ("<answer> </answer>", "no_answer", ""),
        ("```json\n\n```", "no_answer", ""),
        ("<think>[1]", "no_answer", ""),
        ("   ", "no_answer", ""),
    ],
)
def test_one_answer_is_found_or_none(response: str, outcome: str, how: str) -> None:
    verdict = judge([1], response)
    assert (verdict.outcome, verdict.how) == (outcome, how)


def test_a_text_within_json_may_hold_tags_and_fences() -> None:
    value = {"say": "<answer>1</answer>", "code": "```json\n1\n```"}
    assert judge(value, value).score == 1.0


# what is the same


@pytest.mark.parametrize(
    ("gold", "given", "options", "score"),
    [
        (1, 1.0, {}, 0.0),
        (1, 1.0, {"numbers": "value"}, 1.0),
        (1.0, 1, {"numbers": "value"}, 1.0),
        (1, True, {"numbers": "value"}, 0.0),
        (0, False, {}, 0.0),
        (1, "1", {"numbers": "value"}, 0.0),
        (None, None, {}, None),
        ("null", None, {}, 1.0),
        ("null", 0, {}, 0.0),
        (-0.0, 0.0, {}, 1.0),
        (2**60 + 1, float(2**60), {"numbers": "value"}, 0.0),
        (1.0, 1.1, {"numbers": "value", "tolerance": 0.1}, 1.0),
        (1.0, 1.1001, {"numbers": "value", "tolerance": 0.1}, 0.0),
        (-100, -99, {"numbers": "value", "tolerance": 0.01}, 1.0),
        (0, 0.01, {"numbers": "value", "tolerance": 0.5}, 0.0),
        (0, 0.01, {"numbers": "value", "absolute": 0.01}, 1.0),
        (10**398, 10**398 + 1, {"numbers": "value", "tolerance": 1e-9}, 1.0),
        (1, False, {"numbers": "value", "absolute": 5.0}, 0.0),
        ([1, 2, 2], [2, 1, 2], {}, 0.0),
        ([1, 2, 2], [2, 1, 2], {"unordered": True}, 1.0),
        ([1, 2, 2], [2, 1, 1], {"unordered": True}, 0.0),
        ([1, 2], [1, 2, 2], {"unordered": True}, 0.0),
        ([[1, 2], [3]], [[3], [2, 1]], {"unordered": True}, 1.0),
        ([[1, 2], [3]], [[3], [2, 1]], {"unordered": ["$"]}, 0.0),
        ([[1, 2], [3]], [[3], [1, 2]], {"unordered": ["$"]}, 1.0),
        ([[1, 2], [3]], [[2, 1], [3]], {"unordered": ["$[*]"]}, 1.0),
        ({"a b": [1, 2]}, {"a b": [2, 1]}, {"unordered": ['$["a b"]']}, 1.0),
        ([1, True], [True, 1], {"unordered": True}, 1.0),
        ([1, 1.0], [1, 1], {"unordered": True}, 0.0),
        ([1, 1.0], [1, 1], {"unordered": True, "numbers": "value"}, 1.0),
        # 1.0 is near 1.05 alone: whoever pairs the first that fits leaves 1.05 without a partner
        ([1.0, 1.1], [1.05, 1.15], {"unordered": True, "numbers": "value", "absolute": 0.06}, 1.0),
        ([1.1, 1.0], [1.05, 1.15], {"unordered": True, "numbers": "value", "absolute": 0.06}, 1.0),
        ([1.0, 1.0], [1.05, 1.15], {"unordered": True, "numbers": "value", "absolute": 0.06}, 0.0),
        ({"a": 1}, {"a": 1, "b": 2}, {}, 0.0),
        ({"a": 1}, {"a": 1, "b": 2}, {"mode": "subset"}, 1.0),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}, "d": 3}, {"mode": "subset"}, 1.0),
        ({"a": 1}, {"b": 2}, {"mode": "subset"}, 0.0),
        ({}, {"b": 2}, {"mode": "subset"}, 1.0),
        ({}, {"b": 2}, {}, 0.0),
        ({}, [], {}, 0.0),
        ([], {}, {"mode": "subset"}, 0.0),
        ([1], [1, 2], {"mode": "subset"}, 0.0),
        ([2], [1, 2], {"mode": "subset", "unordered": True}, 1.0),
        ([], [1], {"mode": "subset", "unordered": True}, 1.0),
        ([{"a": 1}], [{"a": 2}, {"a": 1, "b": 1}], {"mode": "subset", "unordered": True}, 1.0),
        ([2, 2], [1, 2], {"mode": "subset", "unordered": True}, 0.0),
    ],
)  # fmt: skip
def test_values_are_compared_as_the_options_say(gold: Any, given: Any, options: Any, score: float | None) -> None:
    assert judge(gold, f"<answer>{json.dumps(given)}</answer>", **options).score == score


def test_fields_are_scored_by_what_is_right_wanted_and_given() -> None:
    given = copy.deepcopy(ADA)
    given["age"], given["home"]["rooms"] = "36", 4
    del given["langs"]
    given["more"] = [1, 2, 3]
    # 6 wanted, 2 right (name, city), 7 given: 2 * 2 / (6 + 7), and 2 / 6
    assert judge(ADA, given, mode="fields").score == pytest.approx(4 / 13)
    verdict = judge(ADA, given, mode="fields", score="share")
    assert verdict.score == pytest.approx(1 / 3)
    assert verdict.outcome == "partial"
    assert {where: check["score"] for where, check in verdict.checks.items()} == {
        "$.age": 0, "$.langs": 0, "$.home.rooms": 0, "$.more": 0, "$.name": 1, "$.home.city": 1,
    }  # fmt: skip
    assert verdict.checks["$.age"]["reason"] == '$.age is "36", the gold says 36'
    assert verdict.reason == '$.age is "36", the gold says 36, and 3 more'


def test_further_fields_cost_nothing_by_share_and_something_by_f1() -> None:
    given = {**ADA, "more": 1}
    assert judge(ADA, given, mode="fields", score="share").score == 1.0
    assert judge(ADA, given, mode="fields").score == pytest.approx(12 / 13)


def test_fields_of_a_list_without_order_are_those_of_the_items_that_have_most_in_common() -> None:
    gold = [{"id": 1, "x": 5}, {"id": 2, "x": 6}]
    assert judge(gold, [{"id": 2, "x": 7}, {"id": 1, "x": 5}], mode="fields", unordered=True).score == 0.75
    assert judge(gold, [{"id": 2, "x": 7}, {"id": 1, "x": 4}], mode="fields", unordered=True).score == 0.5
    assert judge(gold, [{"id": 2, "x": 7}, {"id": 1, "x": 4}], mode="fields").score == 0.0


def test_the_order_of_keys_never_counts_and_a_shuffled_list_does() -> None:
    rng = random.Random(3)
    for _ in range(20):
        keys = list(ADA)
        rng.shuffle(keys)
        assert judge(ADA, {key: ADA[key] for key in keys}).score == 1.0
    assert judge(ADA, ADA | {"langs": ["fr", "en"]}).score == 0.0


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=5), st.lists(st.integers(0, 3), max_size=5), st.integers(0, 2))
def test_the_most_pairs_are_found(one: list[int], other: list[int], near: int) -> None:
    def most(k: int, free: frozenset[int]) -> int:
        if k == len(one):
            return 0
        fits = [j for j in free if abs(one[k] - other[j]) <= near]
        return max([most(k + 1, free), *(1 + most(k + 1, free - {j}) for j in fits)])

    pairs = match_most(len(one), len(other), lambda i, j: abs(one[i] - other[j]) <= near)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert all(abs(one[i] - other[j]) <= near for i, j in pairs)
    assert len(pairs) == most(0, frozenset(range(len(other))))
    if near == 0:
        assert len(match_keys(one, other)) == len(pairs)


def test_the_best_pairs_come_first() -> None:
    table = {(0, 0): 1, (0, 1): 2, (1, 0): 0, (1, 1): 3}
    assert match_best([0, 1], [0, 1], lambda i, j: table[i, j]) == [(1, 1), (0, 0)]


def test_checks_are_bounded_and_name_what_is_wrong_first() -> None:
    gold = {f"k{k}": k for k in range(500)}
    verdict = judge(gold, gold | {"k499": 0})
    assert len(verdict.checks) == 64
    assert next(iter(verdict.checks)) == "$.k499"
    many = judge({"a": 1}, {"x" * 5000 + str(k): k for k in range(40)})
    assert many.score == 0.0
    assert max(map(len, many.checks)) <= 200


def test_a_place_is_written_as_it_is_read() -> None:
    assert place(["rows", 2, "a b", "ok"]) == '$.rows[2]["a b"].ok'
    assert read_place('$.rows[*]["a b"].ok') == ("rows", None, "a b", "ok")
    assert read_place("$") == ()
    assert [read_place(text) for text in ("rows", "$rows", "$.", "$.a[2]", "$.a..b", "$.a b")] == [None] * 6


# schemas and golds


def test_a_schema_decides_first_and_in_every_mode() -> None:
    for mode in ("exact", "subset", "fields"):
        verdict = judge({"age": 36}, {"age": "36"}, schema=SCHEMA, mode=mode)
        assert (verdict.score, verdict.outcome, verdict.stage) == (0.0, "wrong", "schema")
        assert verdict.reason == 'not valid by the schema: $.age: "36" is not of type "integer"'
        assert verdict.checks == {"schema": {"score": 0.0, "reason": '$.age: "36" is not of type "integer"'}}
    assert judge({"age": 36}, {"age": 37}, schema=SCHEMA).stage == "compare"
    assert judge({"age": 36}, {"age": 36}, schema=SCHEMA).checks["schema"]["score"] == 1.0


def test_a_schema_is_found_in_the_options_the_gold_or_a_column() -> None:
    both = {"schema": SCHEMA, "value": {"age": 36}}
    info = {"types": json.dumps(SCHEMA)}
    assert judge(both, {"age": 36}).score == judge(json.dumps(both), {"age": 36}).score == 1.0
    assert judge(both, both).score == 0.0
    assert judge({"schema": True, "value": both}, both).score == 1.0
    wrong = [judge(both, {"age": "36"}), judge({"age": 36}, {"age": "36"}, info, schema_column="types")]
    assert [verdict.stage for verdict in wrong] == ["schema"] * 2
    for gold, options in ((SCHEMA, {}), ({"schema": SCHEMA}, {}), (both, {}), ("anything", {"schema": SCHEMA}),
                          (None, {"schema_column": "types"})):  # fmt: skip
        assert judge(gold, {"age": 1}, info, mode="schema", **options).score == 1.0, gold
        assert judge(gold, {"age": "1"}, info, mode="schema", **options).score == 0.0, gold


@pytest.mark.parametrize(
    ("gold", "options", "reason"),
    [
        ("Oslo", {}, "the gold is no JSON: not JSON: Oslo at character 0"),
        ("", {}, "the gold is empty"),
        (None, {}, "the row has no gold"),
        ('{"a": 1, "a": 2}', {}, "the gold is no JSON: the key 'a' stands twice"),
        ({"a": float("nan")}, {}, "the gold is no JSON: Out of range float values"),
        ({"a": {1, 2}}, {}, "the gold is no JSON: Object of type set"),
        ({"schema": SCHEMA, "value": {"age": "36"}}, {}, 'the gold is not valid by its own schema: $.age: "36" is not'),
        ({"schema": {"type": "strng"}, "value": 1}, {}, "not a JSON Schema"),
        ({"schema": {"$ref": "http://example.com/s"}, "value": 1}, {}, "$ref beyond the schema itself is never"),
        ([1], {"mode": "schema"}, "a schema is a mapping, true or false"),
        ([1], {"schema_column": "typs"}, "the row has no 'typs' (schema_column names it); did you mean 'types'?"),
        (list(range(500)), {"unordered": True, "numbers": "value", "absolute": 0.1}, "the gold is too large for these"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_gold_is_never_the_responses_fault(gold: Any, options: Any, reason: str) -> None:
    verdict = judge(gold, list(range(500)), {"types": "true"}, **options)
    assert (verdict.score, verdict.outcome) == (None, "gold_invalid")
    assert reason in verdict.reason


def test_a_long_list_of_the_response_is_its_own_fault() -> None:
    options = {"unordered": True, "numbers": "value", "absolute": 0.1, "mode": "fields"}
    assert judge(list(range(100)), list(range(5000)), **options).outcome == "too_complex"


def test_a_dry_run_names_golds_that_are_no_json() -> None:
    bound = lookup("json")
    assert gold_problem(bound, Task(id="t", prompt="p", gold="Oslo")).startswith("the gold is no JSON")
    assert gold_problem(bound, Task(id="t", prompt="p", gold='"Oslo"')) == ""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"schema": {"type": "strng"}}, "option schema: not a JSON Schema"),
        ({"schema": {"$ref": "https://example.com/s"}}, "option schema: $ref beyond the schema itself"),
        ({"schema": True, "schema_column": "s"}, "schema and schema_column are two schemas"),
        ({"tolerance": 0.1}, "tolerance and absolute need numbers: value"),
        ({"score": "share"}, "score goes with mode: fields only, got mode: exact"),
        ({"unordered": ["rows"]}, "option unordered: 'rows' is no place such as"),
        ({"mode": "partial"}, "options.mode: input should be 'exact'"),
        ({"tolerance": -1.0}, "options.tolerance: input should be greater than or equal to 0"),
        ({"modes": "exact"}, "did you mean 'mode'?"),
    ],
)
def test_options_that_cannot_be_used_are_told_before_anything_starts(options: dict[str, Any], told: str) -> None:
    (line,) = start_problems("json", options, "rewards.answer.options")
    assert told in line
    assert "\n" not in line


def test_good_options_are_no_problem() -> None:
    options = {"mode": "fields", "schema": SCHEMA, "numbers": "value", "tolerance": 0.1, "unordered": ["$.rows[*]"]}
    assert option_problems("json", options, "x") == start_problems("json", options, "x") == []


def test_a_gold_is_not_changed_by_what_is_judged_with_it() -> None:
    before = judge(ADA, {"name": "Ada"}, mode="fields", unordered=True)
    judge(ADA, [1], unordered=True)
    after = judge(ADA, {"name": "Ada"}, mode="fields", unordered=True)
    assert (before.score, before.checks) == (after.score, after.checks)
