"""Verdicts on code: forms of tests, scores, options, and the processes that judge."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from alive import children_of, descendants_of, gone_within

from rlvr import cli, recipe
from rlvr.errors import DataError, SettingsError
from rlvr.recipe import Data
from rlvr.rewards.base import build, check_options
from rlvr.rewards.bound import apply, gold_problem, lookup, option_problems, start_problem
from rlvr.rewards.verified import VerifierPool
from rlvr.sandbox import judging, tiers
from rlvr.sandbox.judging import CallTest, StdinTest
from rlvr.serve.offer import Offer
from rlvr.settings import load_recipe
from rlvr.tasks import load_tasks
from rlvr.types import Completion, Group, Rollout, Task, Verdict
from rlvr.verifiers import code_judge, code_tests, python_tests, stdin_stdout
from rlvr.verifiers.code_tests import read_tests
from rlvr.verify import judge_cases, read_cases

MODULES = {"python_tests": python_tests, "stdin_stdout": stdin_stdout}
ADD = "```python\ndef add(a, b):\n    return a + b\n```"
SUM = "```python\nprint(sum(map(int, input().split())))\n```"
CASES = {"function": "add", "cases": [[[1, 2], 3], [[10, 20], 30], [[-5, 5], 0], [[2, 2], 4], [[0, 1], 1]]}


@pytest.fixture(scope="module", autouse=True)
def _own_sandbox() -> Iterator[None]:
    """The one that verifiers start in this process."""
    yield
    code_judge.close_homes()


def judge(name: str, gold: Any, response: str, info: dict[str, Any] | None = None, **options: Any) -> Verdict:
    task = Task(id="t", prompt=options.pop("prompt", ""), gold=gold, info=info or {})
    verdict = apply(lookup(name), response, task, options)
    assert verdict.reason
    assert "\n" not in verdict.reason
    return verdict


@pytest.mark.parametrize(
    ("name", "gold", "response", "score"),
    [(name, *example) for name, module in MODULES.items() for example in module.EXAMPLES],
)
def test_a_verifier_of_code_judges_its_own_examples(name: str, gold: Any, response: str, score: float | None) -> None:
    verdict = judge(name, gold, response)
    assert verdict.score == score, verdict
    assert verdict.outcome != "error"
    assert (verdict.verifier, verdict.version) == (name, lookup(name).version)


# --- scores and what a verdict tells


def test_a_verdict_tells_what_each_test_came_to() -> None:
    verdict = judge("python_tests", CASES, "```python\ndef add(a, b):\n    return abs(a) + b\n```")
    assert (verdict.score, verdict.outcome, verdict.stage, verdict.how) == (0.0, "wrong", "calls", "fence")
    assert verdict.reason == "test 3 of 5: 10 is not 0"
    assert {name: verdict.checks[name] for name in ("num_passed", "num_tests")} == {"num_passed": 2, "num_tests": 5}
    assert verdict.checks["tests"] == [["passed", ""], ["passed", ""], ["failed", "10 is not 0"]]
    assert len(verdict.checks["seconds"]) == 3
    assert all(0 <= seconds < 1 for seconds in verdict.checks["seconds"])
    assert verdict.answer is None
    assert json.loads(json.dumps(verdict.checks)) == verdict.checks


@pytest.mark.parametrize(
    ("options", "score", "outcome"),
    [
        ({}, 0.0, "wrong"),
        ({"score": "all"}, 0.0, "wrong"),
        ({"score": "pass_rate"}, 0.8, "partial"),
        ({"score": "threshold"}, 1.0, "correct"),
        ({"score": "threshold", "threshold": 0.81}, 0.0, "wrong"),
    ],
)
def test_the_score_is_all_or_nothing_unless_it_is_asked_otherwise(
    options: dict[str, Any], score: float, outcome: str
) -> None:
    response = "```python\ndef add(a, b):\n    return abs(a) + b\n```"
    verdict = judge("python_tests", CASES, response, **options)
    assert (verdict.score, verdict.outcome) == (score, outcome)
    if options.get("score") not in (None, "all"):
        assert verdict.reason == "4 of 5 tests pass; test 3 of 5: 10 is not 0"
        assert [status for status, _ in verdict.checks["tests"]] == ["passed"] * 2 + ["failed"] + ["passed"] * 2


def test_a_pass_rate_of_nothing_is_wrong_and_of_everything_correct() -> None:
    wrong = judge("python_tests", CASES, "```python\ndef add(a, b):\n    return 77\n```", score="pass_rate")
    assert (wrong.score, wrong.outcome) == (0.0, "wrong")
    right = judge("python_tests", CASES, ADD, score="pass_rate")
    assert (right.score, right.outcome, right.reason) == (1.0, "correct", "all 5 tests pass")


def test_what_never_ends_is_a_timeout_within_its_limit() -> None:
    start = time.monotonic()
    verdict = judge("python_tests", CASES, "```python\ndef add(a, b):\n    while True: pass\n```", wall_seconds=0.3)
    assert (verdict.score, verdict.outcome) == (0.0, "timeout")
    assert verdict.reason.startswith("test 1 of 5: ")
    asleep = "```python\nimport time\ntime.sleep(60)\n```"
    verdict = judge("stdin_stdout", {"inputs": [""] * 9, "outputs": ["1"] * 9}, asleep, wall_seconds=0.3)
    assert (verdict.score, verdict.outcome, len(verdict.checks["tests"])) == (0.0, "timeout", 1)
    assert time.monotonic() - start < 5


@pytest.mark.slow
def test_all_tests_together_have_a_time() -> None:
    start = time.monotonic()
    asleep = "```python\nimport time\ndef add(a, b):\n    time.sleep(60 * (a == 1))\n    return [a + b]\n```"
    many = {"fn_name": "add", "inputs": [[2, 2], *[[1, 2]] * 98, [2, 2]], "outputs": [[4], *[[3]] * 98, [5]]}
    options = {"score": "pass_rate", "wall_seconds": 0.3, "total_seconds": 1.0}
    verdict = judge("python_tests", many, asleep, **options)
    assert (verdict.score, verdict.outcome) == (0.01, "partial")
    assert verdict.checks["tests"][-1] == ["timeout", "not run, the 1 s for all tests are used up"]
    # what is expected may be a value in a list: the second reading of the tests has what the first left
    slow = "```python\nimport time\ndef add(a, b):\n    time.sleep(0.3)\n    return a + b\n```"
    gold = {"fn_name": "add", "inputs": [[2, 2], [1, 2]], "outputs": [[4], [3]]}
    assert judge("python_tests", gold, slow, total_seconds=5.0).outcome == "correct"
    assert judge("python_tests", gold, slow, total_seconds=0.75).outcome == "timeout"
    lines = {"inputs": [""] * 100, "outputs": ["1"] * 100}
    verdict = judge("stdin_stdout", lines, "```\nimport time; time.sleep(60)\n```", **options)
    assert (verdict.score, verdict.outcome, verdict.checks["num_tests"]) == (0.0, "timeout", 100)
    assert verdict.reason == "0 of 100 tests pass; test 1 of 100: ran for more than 0.3 s"
    assert time.monotonic() - start < 10


def test_the_limit_of_memory_is_an_option() -> None:
    response = "```python\ndef add(a, b):\n    x = bytearray(200 << 20)\n    return a + b\n```"
    assert judge("python_tests", CASES, response).score == 1.0
    verdict = judge("python_tests", CASES, response, memory_mib=128)
    assert (verdict.score, verdict.outcome) == (0.0, "wrong")
    assert "MemoryError" in verdict.reason


def test_details_are_bounded_however_many_tests_there_are() -> None:
    many = {"function": "add", "cases": [[[k, 0], "x" * 100_000] for k in range(100)]}
    response = "```python\ndef add(a, b):\n    return 'y' * 100000\n```"
    verdict = judge("python_tests", many, response, score="pass_rate")
    assert (verdict.checks["num_tests"], len(verdict.checks["tests"]), len(verdict.checks["seconds"])) == (100, 32, 32)
    assert len(json.dumps(verdict.checks)) < 20_000


def test_no_response_earns_more_than_its_tests_and_none_is_executed_without_a_fence(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    bare = f"open({str(marker)!r}, 'w').close()\ndef add(a, b):\n    return a + b\n"
    verdict = judge("python_tests", CASES, bare)
    assert (verdict.score, verdict.outcome, verdict.checks) == (0.0, "no_answer", {})
    assert not marker.exists()


def test_programs_can_be_bare_or_continue_their_prompt() -> None:
    whole = "def add(a, b):\n    return a + b\n"
    assert judge("python_tests", CASES, whole, extract="whole").how == "whole"
    assert judge("python_tests", CASES, ADD, extract="whole").outcome == "malformed"
    head = "def add(a, b):\n"
    verdict = judge("python_tests", CASES, "    return a + b\n", extract="continue", prompt=head)
    assert (verdict.score, verdict.how) == (1.0, "continue")
    talk = ({"role": "user", "content": head},)
    verdict = judge("python_tests", CASES, "    return a + b\n", extract="continue", prompt=talk)
    assert (verdict.score, verdict.outcome) == (None, "error")


def test_a_prelude_stands_before_the_program_but_behind_imports_from_the_future() -> None:
    body = "def add(a: List[int], b):\n    return gcd(a, b) * 0 + a + b\n"
    prelude = "from typing import List\nfrom math import *"
    assert judge("python_tests", CASES, f"```python\n{body}```").score == 0.0
    assert judge("python_tests", CASES, f"```python\n{body}```", prelude=prelude).score == 1.0
    future = f"```python\n'''doc'''\nfrom __future__ import annotations\n{body}```"
    assert judge("python_tests", CASES, future, prelude=prelude).score == 1.0
    long = "x = 1\n" * 10_900
    verdict = judge("python_tests", CASES, f"```python\n{long}```", prelude=f"{prelude}\n" * 10)
    assert (verdict.score, verdict.outcome) == (0.0, "too_complex")


# --- forms of tests


def kinds(tests: code_tests.Tests) -> tuple[str, int]:
    return tests.kind, len(tests.asserts) + len(tests.calls) + len(tests.programs)


@pytest.mark.parametrize(
    ("gold", "info", "kind"),
    [
        (["assert f(1) == 2", "assert f(2) == 3"], {}, ("asserts", 2)),
        ('["assert f(1) == 2"]', {}, ("asserts", 1)),
        ("assert f(1) == 2\n", {}, ("asserts", 1)),
        ("[f(1)]; assert f(1) == 2", {}, ("asserts", 1)),  # begins like JSON
        ({"tests": ["assert f(1) == K"], "setup": "K = 2"}, {}, ("asserts", 1)),
        ({"tests": "assert f(1) == 2"}, {}, ("asserts", 1)),
        (CASES, {}, ("calls", 5)),
        (json.dumps(CASES), {}, ("calls", 5)),
        ({"fn_name": "f", "inputs": [[1]], "outputs": [2]}, {}, ("calls", 1)),
        ({"fn_name": None, "inputs": ["1"], "outputs": ["2"]}, {}, ("stdin", 1)),
        ({"inputs": [["1", "2"]], "outputs": [["3"]]}, {}, ("stdin", 1)),
        ('{"inputs": "[\\"1\\"]", "outputs": "[\\"2\\"]"}', {}, ("stdin", 1)),
        ([{"input": "1", "output": "2"}], {}, ("stdin", 1)),
        ({"tests": [{"input": "1", "output": "2"}], "checker": "pass", "language": "Python"}, {}, ("stdin", 1)),
        (
            [{"input": "1\n[2]", "output": "3", "testtype": "functional"}],
            {"metadata": '{"func_name": "f"}'},
            ("calls", 1),
        ),
    ],
)
def test_tests_are_read_in_the_forms_that_data_sets_have(gold: Any, info: dict[str, Any], kind: Any) -> None:
    assert kinds(read_tests(gold, info)) == kind


def test_each_form_means_the_same_tests() -> None:
    assert read_tests({"inputs": [["1", "2"]], "outputs": ["3\n"]}, {}).programs == (StdinTest("1\n2", "3\n"),)
    lcb = [{"input": '[1, 2]\n"x"', "output": "[3]", "testtype": "functional"}]
    assert read_tests(lcb, {"metadata": {"func_name": "f"}}).calls == (CallTest("f", ([1, 2], "x"), {}, [3]),)
    case = {"args": [1], "kwargs": {"b": 2}, "expected": None}
    assert read_tests({"function": "f", "cases": [case]}, {}).calls == (CallTest("f", (1,), {"b": 2}, None),)
    mbpp = read_tests(
        ["assert f(1) == 2"], {"test_imports": ["import math"], "test_setup_code": "", "entry_point": "f"}
    )
    assert (mbpp.asserts, mbpp.entry_point) == (("import math\nassert f(1) == 2",), "f")
    assert read_tests({"fn_name": "f", "inputs": [[1], [2]], "outputs": [[1], [2]]}, {}).may_be_wrapped
    assert not read_tests({"fn_name": "f", "inputs": [[1], [2]], "outputs": [[1], [2, 3]]}, {}).may_be_wrapped


PICKLED = base64.b64encode(zlib.compress(pickle.dumps(json.dumps([{"input": "1", "output": "2"}] * 9)))).decode()


@pytest.mark.parametrize(
    ("gold", "info", "why"),
    [
        (None, {}, "must be a list, a mapping or a text, not nothing"),
        (7, {}, "not a number"),
        ([], {}, "there are no tests"),
        ([1], {}, "test 1 must be a text"),
        ({}, {}, "it has nothing"),
        (
            {"inputs": ["1"]},
            {},
            'needs "tests" (or "test", "test_list"), "function" and "cases", or "inputs" and "outputs"; it has inputs',
        ),
        ({"inputs": ["1"], "outputs": []}, {}, "1 inputs have 0 outputs"),
        ({"inputs": "1", "outputs": []}, {}, "must be lists, not a text and a list"),
        ({"inputs": [1], "outputs": ["1"]}, {}, "test 1: the input of a program must be text, not a number"),
        ({"inputs": ["1"], "outputs": ["1"], "language": "cpp"}, {}, "'cpp'"),
        ({"inputs": ["1"], "outputs": ["1"], "checker": 5}, {}, "checker must be the text of a program"),
        ({"cases": []}, {}, '"cases" without "function"'),
        ({"function": "f", "cases": {}}, {}, "cases must be a list, not a mapping"),
        ({"function": "f", "cases": [[1, 2, 3]]}, {}, "case 1 must be"),
        ({"function": "f", "cases": [[[1], 1], {"args": [1]}]}, {}, "case 2 has no expected value"),
        ({"function": "f", "cases": [[1, 2]]}, {}, "case 1: args must be a list"),
        ({"function": "f(", "cases": [[[1], 2]]}, {}, "must be an identifier, got 'f('"),
        ({"fn_name": "f", "inputs": ["x"], "outputs": ["1"]}, {}, "JSON with one line for each"),
        ([{"input": "1"}], {}, 'test 1 needs "input" and "output"; it has input'),
        ([{"input": "1", "output": "1", "testtype": "functional"}], {}, "no func_name in the row's metadata"),
        ([{"input": "1", "output": "1", "testtype": "other"}], {}, "got other"),
        (["assert f(1) == 2"], {"entry_point": 5}, "entry_point must be a function's name"),
        (["assert f(1) == 2"], {"test_imports": [5]}, "must be text"),
        (PICKLED, {}, "pickled (LiveCodeBench's private tests), which is never read"),
    ],
)
def test_tests_that_cannot_be_read_say_what_is_wrong(gold: Any, info: dict[str, Any], why: str) -> None:
    with pytest.raises(judging.TestsError) as caught:
        read_tests(gold, info)
    assert why in str(caught.value)
    for response in (ADD, "nothing"):  # whatever was written
        verdict = judge("python_tests", gold, response, info)
        assert (verdict.score, verdict.outcome) == (None, "gold_invalid")


@pytest.mark.parametrize(
    ("name", "gold", "why"),
    [
        ("python_tests", {"inputs": ["1"], "outputs": ["1"]}, "of the kind stdin, which the verifier stdin_stdout"),
        ("stdin_stdout", ["assert add(1, 2) == 3"], "of the kind asserts, which the verifier python_tests judges"),
        ("stdin_stdout", {"inputs": ["1"], "outputs": ["1"], "checker": "def f(:"}, "the checker does not parse"),
        ("python_tests", ["assert add(1, 2)"] * 10_001, "10001 tests are more than 10000"),
        ("python_tests", ["add(1, 2)"], "asserts nothing"),
        ("python_tests", ["def g(a, a): pass\nassert add(1, 2) == 3"], "test 1 of 1: duplicate argument 'a'"),
        ("python_tests", ["nonlocal x\nassert add(1, 2) == 3"], "test 1 of 1: nonlocal declaration not allowed"),
        ("python_tests", {"tests": ["def g(a, a): pass\nassert add(1) == 2"], "entry_point": "add"}, "duplicate"),
        ("python_tests", "def check(candidate):\n    assert candidate(1) == 1\n", "entry_point"),
    ],
)
def test_tests_that_cannot_be_run_are_never_the_models_zero(name: str, gold: Any, why: str) -> None:
    verdict = judge(name, gold, ADD)
    assert (verdict.score, verdict.outcome) == (None, "gold_invalid")
    assert why in verdict.reason


def test_expected_values_may_be_wrapped_in_a_list_for_all_tests_alike() -> None:
    gold = {"fn_name": "add", "inputs": [[1, 2], [2, 2]], "outputs": [[3], [4]]}
    assert judge("python_tests", gold, ADD).score == 1.0
    assert judge("stdin_stdout", gold, "```\ndef add(a, b):\n    return [a + b]\n```").score == 1.0
    mixed = "```\ndef add(a, b):\n    return a + b if a == 1 else [a + b]\n```"
    assert judge("python_tests", gold, mixed).score == 0.0
    assert judge("python_tests", gold, mixed, score="pass_rate").score == 0.5


def test_a_method_of_a_solution_is_called_where_no_function_has_the_name() -> None:
    method = "class Solution:\n    def add(self, a, b):\n        return a {} b\n"
    plain = "def add(a, b):\n    return a + b\n"
    assert judge("python_tests", CASES, f"```\n{method.format('+')}```").score == 1.0
    assert judge("python_tests", CASES, f"```\n{method.format('-')}{plain}```").score == 1.0
    assert judge("python_tests", CASES, f"```\n{plain}```\nFor example\n```\nprint(1)\n```").score == 1.0


# --- rows of data sets, by the names of their columns alone

ROWS: dict[str, tuple[dict[str, str], str, dict[str, Any], str]] = {
    "mbpp": (
        {"id": "task_id", "prompt": "text", "gold": "test_list"},
        "python_tests",
        {
            "task_id": 11,
            "text": "Write a python function add to add two numbers.",
            "code": "def add(a, b): return a + b",
            "test_list": ["assert add(1, 2) == 3", "assert add(2, 2) == 4", "assert isclose(add(.1, .2), .3)"],
            "test_setup_code": "from math import isclose",
            "challenge_test_list": [],
        },
        ADD,
    ),
    "humaneval": (
        {"id": "task_id", "prompt": "prompt", "gold": "test"},
        "python_tests",
        {
            "task_id": "HumanEval/53",
            "prompt": 'def add(x: int, y: int):\n    """Add two numbers x and y"""\n',
            "entry_point": "add",
            "canonical_solution": "    return x + y\n",
            "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    import random\n\n"
            "    assert candidate(0, 1) == 1\n    assert candidate(1, 0) == 1\n\n    for i in range(100):\n"
            "        x, y = random.randint(0, 1000), random.randint(0, 1000)\n"
            "        assert candidate(x, y) == x + y\n\n",
        },
        ADD,
    ),
    "apps": (
        {"id": "problem_id", "prompt": "question", "gold": "input_output"},
        "stdin_stdout",
        {
            "problem_id": 4000,
            "question": "Add two numbers.",
            "solutions": "[]",
            "input_output": '{"inputs": ["1 2\\n", "-5 5\\n"], "outputs": ["3\\n", "0\\n"]}',
            "difficulty": "introductory",
            "starter_code": "",
        },
        SUM,
    ),
    "apps with a function": (
        {"id": "problem_id", "prompt": "question", "gold": "input_output"},
        "stdin_stdout",
        {
            "problem_id": 2700,
            "question": "Add two numbers.",
            "input_output": '{"fn_name": "add", "inputs": [[1, 2], [2, 2]], "outputs": [3, 4]}',
            "starter_code": "class Solution:\n    def add(self, a: int, b: int) -> int:\n        ",
        },
        "```python\nclass Solution:\n    def add(self, a, b):\n        return a + b\n```",
    ),
    "livecodebench": (
        {"id": "question_id", "prompt": "question_content", "gold": "public_test_cases"},
        "stdin_stdout",
        {
            "question_id": "abc301_a",
            "question_content": "Add two numbers.",
            "starter_code": "",
            "public_test_cases": '[{"input": "1 2\\n", "output": "3\\n", "testtype": "stdin"}]',
            "private_test_cases": PICKLED,
            "metadata": "{}",
        },
        SUM,
    ),
    "livecodebench with a function": (
        {"id": "question_id", "prompt": "question_content", "gold": "public_test_cases"},
        "stdin_stdout",
        {
            "question_id": "2730",
            "question_content": "Add the numbers of two lists.",
            "public_test_cases": '[{"input": "[1, 2]\\n[3]", "output": "6", "testtype": "functional"}]',
            "metadata": '{"func_name": "total"}',
        },
        "```python\nclass Solution:\n    def total(self, a, b):\n        return sum(a + b)\n```",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_data_sets_rows_are_judged_by_naming_their_columns(name: str, tmp_path: Path) -> None:
    columns, verifier, row, right = ROWS[name]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (task,) = load_tasks(Data(path=str(path), columns=columns, verifier=verifier)).rows
    assert task.id == str(row[columns["id"]])
    bound = lookup(verifier)
    verdict = apply(bound, right, task)
    assert (verdict.score, verdict.outcome) == (1.0, "correct"), verdict
    wrong = apply(bound, right.replace("+ b", "- b").replace("sum(", "max("), task)
    assert (wrong.score, wrong.outcome) == (0.0, "wrong"), wrong


def test_a_file_of_cases_may_hold_the_columns_that_tests_need(tmp_path: Path) -> None:
    _, _, row, right = ROWS["humaneval"]
    path = tmp_path / "cases.jsonl"
    case = {"gold": row["test"], "entry_point": "add", "response": right, "verifier": "python_tests"}
    path.write_text(json.dumps(case) + "\n" + json.dumps({**case, "entry_point": "sub", "expected": False}))
    first, second = judge_cases(read_cases(path))
    assert (first.score, second.score) == (1.0, 0.0)


@pytest.mark.parametrize(
    "gold",
    [
        {"test": "def check(candidate):\n    assert candidate(1, 2) == 3\n", "entry_point": "add"},
        {"test_list": ["assert add(one, 2) == 3"], "test_setup_code": "one = 1"},
        {"test_list": ["assert add(one, 2) == 3"], "test_imports": ["one = 1"], "test_setup_code": ""},
        {"test_list": ["assert add(one, 2) == 3"], "setup": "one = 1"},
    ],
    ids=["humaneval", "mbpp", "mbpp plus", "mbpp with setup"],
)
def test_columns_of_a_data_set_may_be_the_gold_together(gold: dict[str, Any]) -> None:
    assert judge("python_tests", gold, ADD).score == 1.0
    assert judge("python_tests", gold, ADD.replace("+", "-")).score == 0.0


@pytest.mark.parametrize(
    ("gold", "why"),
    [
        (
            {"inputs": ["1"], "outputs": ["1"], "checkr": "import sys"},
            "tests have no 'checkr' here; did you mean 'checker'? known: inputs, outputs, fn_name, checker",
        ),
        ({"tests": ["assert f(1)"], "setp": "x = 1"}, "tests have no 'setp' here; did you mean 'setup'?"),
        ({"function": "f", "cases": [[[1], 1]], "checker": "pass"}, "tests have no 'checker' here"),
        ({"fn_name": "f", "inputs": [[1]], "outputs": [1], "checker": "pass"}, "tests have no 'checker' here"),
        ({"tests": ["assert f(1)"], "checker": "pass"}, "a checker is for programs that read and print"),
        ({"inputs": ["1"], "outputs": ["1"], "checker": " "}, "the checker is empty"),
        ({"inputs": ["1"], "outputs": ["1"], "checker": "import"}, "the checker does not parse: "),
    ],
)
def test_what_a_mapping_of_tests_says_beside_them_must_mean_something(gold: dict[str, Any], why: str) -> None:
    with pytest.raises(judging.TestsError) as caught:
        read_tests(gold, {})
    assert str(caught.value).startswith(why)
    assert judge("stdin_stdout", gold, SUM).outcome == "gold_invalid"


def test_what_says_nothing_in_a_mapping_does_not_matter() -> None:
    gold = {"inputs": ["1 2"], "outputs": ["3"], "fn_name": None, "difficulty": None, "language": "python"}
    assert judge("stdin_stdout", gold, SUM).score == 1.0


def test_columns_of_a_case_may_stand_in_its_info_as_in_the_service(tmp_path: Path) -> None:
    _, _, row, right = ROWS["humaneval"]
    path = tmp_path / "cases.jsonl"
    case = {"gold": row["test"], "response": right, "verifier": "python_tests"}
    path.write_text(json.dumps(case | {"info": {"entry_point": "add"}}) + "\n" + json.dumps(case | {"info": None}))
    with_info, without = judge_cases(read_cases(path))
    assert (with_info.score, without.outcome) == (1.0, "gold_invalid")
    path.write_text(json.dumps(case | {"info": "add"}))
    with pytest.raises(DataError, match=r"cases.jsonl:1: info must be an object, got str"):
        read_cases(path)


def test_a_reason_does_not_end_in_the_middle() -> None:
    verdict = judge("python_tests", CASES, "```python\ndef add(a, b):\n    raise MemoryError\n```")
    assert (verdict.score, verdict.reason) == (0.0, "test 1 of 5: it raised MemoryError")
    assert verdict.checks["tests"] == [["failed", "it raised MemoryError"]]


@pytest.mark.parametrize(
    ("verifier", "gold", "info", "told"),
    [
        ("python_tests", ["assert add(1, 2) == 3"], {}, ""),
        ("python_tests", ["assert add(1, 2) =="], {}, "test 1 of 1: "),
        ("python_tests", "def check(candidate):\n    assert candidate(1) == 1\n", {}, "test 1 of 1: "),
        ("python_tests", "def check(candidate):\n    assert candidate(1) == 1\n", {"entry_point": "f"}, ""),
        ("python_tests", {"function": "f", "cases": []}, {}, "there are no tests"),
        ("python_tests", {"inputs": ["1"], "outputs": ["1"]}, {}, "the tests are of the kind stdin, which"),
        ("stdin_stdout", {"inputs": ["1"], "outputs": ["1"]}, {}, ""),
        ("stdin_stdout", {"inputs": ["1"] * 10_001, "outputs": ["1"] * 10_001}, {}, "10001 tests are more than"),
        ("boxed", {"what": 1}, {}, ""),  # a verifier that does not say
    ],
)
def test_a_gold_can_be_looked_at_without_any_response(
    verifier: str, gold: Any, info: dict[str, Any], told: str
) -> None:
    found = gold_problem(lookup(verifier), Task(id="t", prompt="", gold=gold, info=info))
    assert found.startswith(told) and bool(found) is bool(told)


# --- before anything is judged


@pytest.fixture
def unusable(monkeypatch: pytest.MonkeyPatch) -> str:
    """No tier holds, as far as this process knows; what is said of it."""
    monkeypatch.setattr(tiers, "_problems", {"A": "no namespaces here", "B": "no Landlock here"})
    return "programs cannot be isolated here; tier A: no namespaces here; tier B: no Landlock here"


def test_where_nothing_isolates_nothing_begins(unusable: str) -> None:
    parts: dict[str, recipe.Reward] = {"code": recipe.VerifiedReward(verifier="python_tests")}
    line = f"verifier 'python_tests': {unusable}"
    with pytest.raises(SettingsError) as caught:
        build({**parts, "again": recipe.VerifiedReward(verifier="python_tests", weight=0)}, recipe.Scoring(), 0, set())
    assert str(caught.value) == line
    with pytest.raises(SettingsError) as caught:
        build({}, recipe.Scoring(), 0, {"python_tests"})
    assert str(caught.value) == line
    with pytest.raises(SettingsError) as caught:
        Offer(["exact", "python_tests"])
    assert str(caught.value) == line


def test_where_nothing_isolates_other_verifiers_and_trusted_programs_are_judged(unusable: str) -> None:
    trusted = recipe.VerifiedReward(verifier="python_tests", options={"allow_unisolated": True})
    check_options({"code": trusted, "answer": recipe.VerifiedReward(verifier="exact")}, {"math", "python_tests"})
    offer = Offer(["exact", "python_tests", "stdin_stdout"], ["python_tests.allow_unisolated=true"], leave_out=True)
    assert offer.names == ("exact", "python_tests")
    assert offer.left_out == {"stdin_stdout": f"verifier 'stdin_stdout': {unusable}"}
    assert "stdin_stdout" not in offer and list(offer.defaults) == ["exact", "python_tests"]


def test_where_nothing_isolates_commands_end_with_one_line(
    unusable: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps({"gold": ["assert add(1, 2) == 3"], "response": ADD}))
    for arguments in (
        ["verify", str(path), "-v", "python_tests"],
        ["verify", "-v", "python_tests", "--explain", "assert add(1, 2) == 3", ADD],
        ["serve", "verify", "-v", "python_tests", "--port", "0"],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert (ended.value.code, capsys.readouterr()) == (2, ("", f"rlvr: verifier 'python_tests': {unusable}\n"))


def test_a_sandbox_that_holds_is_found_also_where_an_event_loop_runs() -> None:
    async def check() -> str:
        return start_problem("python_tests", {})

    assert asyncio.run(check()) == ""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"prelude": "import os\nfrom x import"}, "the option prelude does not compile: "),
        ({"prelude": "return 1"}, "the option prelude does not compile: 'return' outside function (line 1)"),
        ({"prelude": "x = 1\n" * 20_000}, "the option prelude has more than 65536 bytes"),
        ({"threshold": 0.5}, "the option threshold counts with score: threshold alone, and score is all"),
        (
            {"threshold": 0.5, "score": "pass_rate"},
            "the option threshold counts with score: threshold alone, and score is pass_rate",
        ),
    ],
)
def test_options_that_say_nothing_sensible_together_are_told_before_anything_runs(
    options: dict[str, Any], told: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        check_options({"code": recipe.VerifiedReward(verifier="stdin_stdout", options=options)})
    assert str(caught.value).startswith(f"verifier 'stdin_stdout': {told}")
    assert "\n" not in str(caught.value)


def test_a_prelude_that_does_not_compile_is_no_fault_of_the_program() -> None:
    verdict = judge("python_tests", CASES, ADD, prelude="import")
    assert (verdict.score, verdict.outcome, verdict.stage) == (None, "error", "prelude")


def test_options_of_the_verifier_can_be_given_to_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = "```python\ndef add(a, b):\n    return abs(a) + b\n```"

    def verify(*arguments: str) -> tuple[int, dict[str, Any], str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["verify", *arguments, "--json"])
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, json.loads(said.out.splitlines()[-1]) if said.out else {}, said.err

    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps({"gold": CASES, "response": half}))
    assert verify(str(path), "-v", "python_tests")[1]["mean_score"] == 0.0
    assert verify(str(path), "-v", "python_tests", "--option", "score=pass_rate")[1]["mean_score"] == 0.8
    one = ["--explain", json.dumps(CASES), half, "-v", "python_tests", "--option", "score=threshold"]
    assert verify(*one, "--option", "threshold=0.8")[1]["score"] == 1.0
    assert verify(*one, "--option", "threshold=0.81")[1]["score"] == 0.0
    code, _, err = verify(str(path), "--option", "score=all")
    assert (code, err) == (2, "rlvr: --option is one verifier's own; name it with -v\n")
    code, _, err = verify(str(path), "-v", "python_tests", "--option", "score")
    assert (code, err) == (2, "rlvr: --option score: must be NAME=VALUE, such as score=pass_rate\n")
    code, _, err = verify(str(path), "-v", "python_tests", "--option", "scor=all")
    assert code == 2 and err.startswith("rlvr: --option.scor: verifier 'python_tests' has no such option; did you mean")


# --- options


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({"score": "threshold", "threshold": 1, "wall_seconds": 5, "extract": "whole", "memory_mib": 64}, []),
        (
            {"scor": "all"},
            ["rewards.code.options.scor: verifier 'python_tests' has no such option; did you mean 'score'? known: "],
        ),
        (
            {"score": "most"},
            ["rewards.code.options.score: input should be 'all', 'pass_rate' or 'threshold', got 'most'"],
        ),
        ({"threshold": 1.5}, ["rewards.code.options.threshold: input should be less than or equal to 1, got 1.5"]),
        ({"wall_seconds": "5"}, ["rewards.code.options.wall_seconds: input should be a valid number, got '5'"]),
        (
            {"total_seconds": 601},
            ["rewards.code.options.total_seconds: input should be less than or equal to 600, got 601"],
        ),
        ({"wall_seconds": 0}, ["rewards.code.options.wall_seconds: input should be greater than 0, got 0"]),
        ({"memory_mib": 1}, ["rewards.code.options.memory_mib: input should be greater than or equal to 32, got 1"]),
        (
            {"response": "x", "prelude": 5},
            ["rewards.code.options.response: verifier", "rewards.code.options.prelude: "],
        ),
    ],
)
def test_an_option_that_cannot_be_is_told_before_anything_runs(options: dict[str, Any], lines: list[str]) -> None:
    parts: dict[str, recipe.Reward] = {"code": recipe.VerifiedReward(verifier="python_tests", options=options)}
    problems = option_problems("python_tests", options, "rewards.code.options")
    assert [problem[: len(line)] for problem, line in zip(problems, lines, strict=True)] == lines
    assert all("'python_tests'" in problem for problem in problems)
    if lines:
        with pytest.raises(SettingsError) as caught:
            build(parts, recipe.Scoring(), 0, set())
        assert str(caught.value).split("\n") == problems
    else:
        check_options(parts)


def test_both_verifiers_of_code_have_the_same_options_with_the_defaults_that_are_documented() -> None:
    defaults = asdict(code_judge.Options())
    for name in MODULES:
        bound = lookup(name)
        parameters = inspect.signature(bound.function).parameters
        assert bound.parameters == ("response", "gold", "task")
        assert {option: parameters[option].default for option in bound.options} == defaults
        assert bound.wall_limit > 4 * 600  # the most total_seconds, on a machine that is too busy


def test_a_verifier_without_options_says_so_and_options_need_a_verifier(tmp_path: Path) -> None:
    (problem,) = option_problems("boxed", {"score": "all"}, "rewards.form.options")
    assert problem == "rewards.form.options.score: verifier 'boxed' has no such option; it has none"
    path = tmp_path / "r.yaml"
    path.write_text(
        "stage: rl\nsteps: 1\nmodel: {path: m}\ndata: {path: d}\nrewards: {answer: {options: {score: all}}}\n"
    )
    with pytest.raises(SettingsError, match=r"rewards.answer: options \(score\) are one verifier's own; name it with"):
        load_recipe(path)
    loaded = load_recipe(path, ["rewards.answer.verifier=python_tests", "rewards.answer.options.wall_seconds=5"])
    assert isinstance(loaded, recipe.RlRecipe)
    part = loaded.rewards["answer"]
    assert isinstance(part, recipe.VerifiedReward)
    assert part.options == {"score": "all", "wall_seconds": 5}


def rollout(text: str) -> Rollout:
    completion = Completion(
        text=text, token_ids=(1,), logprobs=(0.0,), trained=(True,), finish="stop", versions=((0, 0),)
    )
    return Rollout(id="1/t/0", completion=completion, verdicts={}, reward=None)


def test_each_part_has_its_own_options_and_held_out_tasks_those_that_are_trained_on() -> None:
    parts: dict[str, recipe.Reward] = {
        "logged": recipe.VerifiedReward(verifier="python_tests", weight=0.0),
        "rate": recipe.VerifiedReward(verifier="python_tests", options={"score": "pass_rate", "extract": "whole"}),
    }
    rewards = build(parts, recipe.Scoring(), 0, {"python_tests"})
    try:
        task = Task(id="t", prompt="", gold=CASES)
        bare = "def add(a, b):\n    return abs(a) + b\n"
        (group,) = rewards.score([Group(task=task, prompt_ids=(1,), rollouts=(rollout(bare),))])
        verdicts = group.rollouts[0].verdicts
        assert (verdicts["logged"].outcome, verdicts["rate"].score) == ("no_answer", 0.8)
        assert group.rollouts[0].reward == 0.8
        (held_out,) = rewards.judge([("python_tests", bare, task)])
        assert (held_out.score, held_out.how) == (0.8, "whole")
    finally:
        rewards.close()


# --- the processes that judge


ASLEEP = "```python\nimport time\ndef add(a, b):\n    time.sleep(600)\n```"
TASK = Task(id="t", prompt="", gold=CASES)


def test_a_worker_keeps_one_sandbox_and_a_killed_one_leaves_nothing_behind() -> None:
    with VerifierPool(["python_tests"], workers=1, memory_mib=2048) as pool:
        responses = [ADD.replace("a + b", f"a + b + {k} - {k}") for k in range(5)]
        start = time.monotonic()
        verdicts = pool.judge([("python_tests", response, TASK) for response in responses])
        wall = time.monotonic() - start
        assert [verdict.score for verdict in verdicts] == [1.0] * 5
        assert sum(verdict.seconds for verdict in verdicts) < wall  # the sandbox started on no response's time
        assert pool._supervisor is not None
        assert pool._supervisor._process is not None
        (worker,) = children_of(pool._supervisor._process.pid)
        jails = descendants_of(worker)
        assert jails
        pool.judge([("python_tests", ADD, TASK)])
        assert children_of(worker) <= jails  # no other sandbox
        lost = pool.submit("python_tests", ASLEEP, TASK, {"wall_seconds": 600.0})
        time.sleep(0.5)
        everything = descendants_of(worker) | {worker}
        assert len(everything) > 2
        os.kill(worker, signal.SIGKILL)
        verdict = lost.result(10)
        assert (verdict.score, verdict.outcome) == (None, "error")
        assert gone_within(5, everything)
        assert pool.judge([("python_tests", ADD, TASK)])[0].score == 1.0
        left = descendants_of(pool._supervisor._process.pid)
        pool.submit("python_tests", ASLEEP, TASK, {"wall_seconds": 600.0})
        time.sleep(0.3)
    assert gone_within(5, left)


def test_the_memory_of_verifiers_is_not_that_of_programs() -> None:
    # programs may use 512 MiB of address space by default, which is more than the process that judges them has here
    with VerifierPool(["python_tests"], workers=1, memory_mib=450) as pool:
        large = "```python\nx = bytearray(300 << 20)\ndef add(a, b):\n    return a + b\n```"
        too_large = large.replace("300", "600")
        first, second = pool.judge([("python_tests", response, TASK) for response in (large, too_large)])
        assert (first.score, second.score) == (1.0, 0.0), (first, second)


def test_programs_are_judged_within_an_event_loop_and_from_several_threads() -> None:
    async def within() -> list[float | None]:
        return [judge("python_tests", CASES, ADD.replace("a + b", f"a + b + {k} - {k}")).score for k in range(40, 43)]

    assert asyncio.run(within()) == [1.0] * 3
    bodies = [f"a + b + {k % 2}" for k in range(8)]
    with ThreadPoolExecutor(4) as threads:
        verdicts = list(threads.map(lambda body: judge("python_tests", CASES, ADD.replace("a + b", body)), bodies))
    assert [verdict.score for verdict in verdicts] == [1.0, 0.0] * 4
    assert [home for home in code_judge._homes if home[0] == os.getpid()] == [(os.getpid(), False)]


def test_a_fork_starts_a_sandbox_of_its_own_and_leaves_its_parents_alone() -> None:
    assert judge("python_tests", CASES, ADD).score == 1.0
    before = children_of(os.getpid())
    read, write = os.pipe()
    if not (child := os.fork()):
        try:
            verdict = judge("python_tests", CASES, ADD.replace("a + b", "a + b + 50 - 50"))
            os.write(write, f"{verdict.score} {len(children_of(os.getpid()) - before)}".encode())
            code_judge.close_homes()
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        assert said.read() == "1.0 1"
    os.waitpid(child, 0)
    assert children_of(os.getpid()) == before
    assert judge("python_tests", CASES, ADD.replace("a + b", "a + b + 51 - 51")).score == 1.0


def test_a_process_that_has_judged_ends_at_once_and_quietly() -> None:
    code = (
        "import os\nfrom rlvr.rewards.bound import apply, lookup\nfrom rlvr.sandbox import processes\n"
        "from rlvr.types import Task\n"
        f"verdict = apply(lookup('python_tests'), {ADD!r}, Task(id='t', prompt='', gold={CASES!r}), {{}})\n"
        "print(verdict.score, *processes.descendants(os.getpid()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    score, *jails = done.stdout.split()
    assert (done.returncode, done.stderr, score) == (0, "", "1.0")
    assert jails and gone_within(5, map(int, jails))


def test_a_sandbox_that_cannot_start_is_our_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        async def start(self) -> None:
            raise code_judge.SandboxError("no user namespaces here")

    monkeypatch.setattr(code_judge, "Sandbox", Refusing)
    monkeypatch.setattr(code_judge, "_homes", {})
    verdict = judge("python_tests", CASES, ADD)
    assert (verdict.score, verdict.outcome) == (None, "error")
    assert verdict.reason == "the sandbox cannot be used: no user namespaces here"
    assert judge("python_tests", CASES, "no fence").score == 0.0


def test_siblings_that_wrote_the_same_are_executed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judge("python_tests", CASES, ADD).score == 1.0
    home = code_judge._home(allow_unisolated=False)
    calls: list[str] = []
    real = home.sandbox.call

    async def call(code: str, *args: Any, **options: Any) -> Any:
        calls.append(code)
        return await real(code, *args, **options)

    monkeypatch.setattr(home.sandbox, "call", call)
    first = judge("python_tests", CASES, f"Well.\n{ADD}\nSo.")
    second = judge("python_tests", CASES, ADD.replace("a + b", "b + a"))
    assert (first.score, second.score) == (1.0, 1.0)
    assert calls == ["def add(a, b):\n    return b + a\n"]
