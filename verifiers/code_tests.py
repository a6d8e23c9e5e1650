"""Tests of code in the forms that data sets have, as one of three kinds.

    asserts   ["assert f(1) == 2", ...]  (MBPP's test_list)           a text of Python (HumanEval's test, with the
              {"tests": [...] or a text, "setup": "...", "entry_point": "f"}       function's name in entry_point)
              {"test": "...", "entry_point": "f"}  (HumanEval's own columns)
              {"test_list": [...], "test_setup_code": "..."}  (MBPP's)
    calls     {"function": "f", "cases": [[[1, 2], 3], {"args": [1, 2], "kwargs": {}, "expected": 3}, ...]}
              {"fn_name": "f", "inputs": [[1, 2], ...], "outputs": [3, ...]}  (APPS, TACO)
              [{"input": "1\\n2", "output": "3", "testtype": "functional"}, ...]  (LiveCodeBench; JSON, one line for
              each argument; the function's name in metadata)
    stdin     {"inputs": ["1 2\\n", ...], "outputs": ["3\\n", ...]}  (APPS, TACO, verl)
              [{"input": "1 2\\n", "output": "3\\n"}, ...]  (LiveCodeBench's public_test_cases), or such a list as
              "tests" of a mapping; either mapping may have "checker", a program (judging.judge_stdin)

Any of them may be JSON in a text. Columns of the row that are looked at beside the gold: entry_point, test_setup_code,
test_imports, metadata. TestsError says what is wrong with tests that cannot be read; a key that means nothing here is
wrong too, for a mistyped "checker" would make right answers wrong ones.
"""

from __future__ import annotations

import ast
import builtins
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rlvr.errors import near
from rlvr.sandbox import checkers
from rlvr.sandbox.judging import CallTest, StdinTest, TestsError

Kind = Literal["asserts", "calls", "stdin"]
_PYTHON = ("python", "python3", "py")
_ASSERTS_IN = ("tests", "test", "test_list")
"""Keys of a mapping that hold tests, of which it has one."""
_BEFORE_ASSERTS = ("test_imports", "test_setup_code")
_PICKLE = re.compile(r"eJ[\w+/]{20,}={0,2}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tests:
    """Tests(kind="asserts", asserts=("assert f(1) == 2",), entry_point="f")"""

    kind: Kind
    asserts: tuple[str, ...] = ()
    """Each with what it needs in front of it."""
    entry_point: str | None = None
    calls: tuple[CallTest, ...] = ()
    """`function` without the class it may be a method of."""
    may_be_wrapped: bool = False
    """Each expected value is a list of one item, and that item may be what is meant (APPS has both)."""
    programs: tuple[StdinTest, ...] = ()
    checker: str | None = None


def read_tests(gold: Any, info: Mapping[str, Any]) -> Tests:
    """`info` are the row's other columns."""
    gold = _from_json(gold)
    if isinstance(gold, str):
        if _PICKLE.fullmatch(gold.strip()):
            raise TestsError(
                "the tests are compressed and pickled (LiveCodeBench's private tests), which is never read"
            )
        return _asserts([gold], {}, info)
    if isinstance(gold, Mapping):
        return _from_mapping(gold, info)
    if not isinstance(gold, list | tuple):
        raise TestsError(f"the tests must be a list, a mapping or a text, not {_kind(gold)}")
    if not gold:
        raise TestsError("there are no tests")
    return _from_list(gold, {}, info)


def impossible(tests: Tests, result: str) -> dict[str, Any] | None:
    """A test that asks for what these ask for, but for `result`; None where no function is named."""
    if tests.kind == "stdin":
        return {"inputs": [tests.programs[0].stdin], "outputs": [result + "\n"]}
    if tests.kind == "calls":
        call = tests.calls[0]
        name, args, kwargs = call.function, list(call.args), dict(call.kwargs)
    else:
        name, args, kwargs = tests.entry_point or _called_in(tests.asserts[0]), [], {}
    if not name:
        return None
    return {"function": name, "cases": [{"args": args, "kwargs": kwargs, "expected": result}]}


def _called_in(test: str) -> str:
    """The function of which an assert speaks; "" where it calls none by its name."""
    try:
        asserts = [node for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Assert)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    calls = [node for found in asserts for node in ast.walk(found.test) if isinstance(node, ast.Call)]
    names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
    return next((name for name in names if not hasattr(builtins, name)), "")


def _from_mapping(gold: Mapping[str, Any], info: Mapping[str, Any]) -> Tests:
    language = gold.get("language")
    if language is not None and str(language).lower() not in _PYTHON:
        raise TestsError(f"the tests are for {language!r}, and Python alone is judged")
    if "inputs" in gold and "outputs" in gold:
        _check_keys(gold, "inputs", "outputs", "fn_name", "checker")
        inputs, outputs = _from_json(gold["inputs"]), _from_json(gold["outputs"])
        if not isinstance(inputs, list | tuple) or not isinstance(outputs, list | tuple):
            raise TestsError(f"inputs and outputs must be lists, not {_kind(inputs)} and {_kind(outputs)}")
        if len(inputs) != len(outputs):
            raise TestsError(f"{len(inputs)} inputs have {len(outputs)} outputs")
        pairs = list(zip(inputs, outputs, strict=True))
        name = gold.get("fn_name")
        if name is None:
            return _programs(pairs, gold)
        _check_keys(gold, "inputs", "outputs", "fn_name")
        cases = [_functional(*pair) for pair in pairs]
        may_be_wrapped = all(isinstance(expected, list) and len(expected) == 1 for _, _, expected in cases)
        return replace(_calls(name, cases), may_be_wrapped=may_be_wrapped)
    if "cases" in gold:
        _check_keys(gold, "function", "cases")
        if "function" not in gold:
            raise TestsError('"cases" without "function", the name of what is called')
        cases = gold["cases"]
        if not isinstance(cases, list | tuple):
            raise TestsError(f"cases must be a list, not {_kind(cases)}")
        return _calls(gold["function"], [_case(k, case) for k, case in enumerate(cases, 1)])
    if key := next((key for key in _ASSERTS_IN if key in gold), None):
        _check_keys(gold, key, "setup", "entry_point", "checker", *_BEFORE_ASSERTS)
        tests = _from_json(gold[key])
        if isinstance(tests, list | tuple):
            return _from_list(tests, gold, info)
        return _asserts([tests], gold, info)
    known = '"tests" (or "test", "test_list"), "function" and "cases", or "inputs" and "outputs"'
    raise TestsError(f"a mapping of tests needs {known}; it has {', '.join(map(str, gold)) or 'nothing'}")


def _check_keys(gold: Mapping[str, Any], *known: str) -> None:
    for key, value in gold.items():
        if key not in (*known, "language") and value is not None:
            raise TestsError(f"tests have no {str(key)[:60]!r} here; {near(str(key), known)}known: {', '.join(known)}")


def _from_list(tests: Sequence[Any], gold: Mapping[str, Any], info: Mapping[str, Any]) -> Tests:
    if not all(isinstance(test, Mapping) for test in tests):
        return _asserts(tests, gold, info)
    for k, test in enumerate(tests, 1):
        if "input" not in test or "output" not in test:
            raise TestsError(f'test {k} needs "input" and "output"; it has {", ".join(map(str, test)) or "nothing"}')
    pairs = [(test["input"], test["output"]) for test in tests]
    kinds = {str(test.get("testtype") or "stdin") for test in tests}
    if kinds <= {"stdin"}:
        return _programs(pairs, gold)
    if kinds != {"functional"}:
        raise TestsError(f"testtype must be stdin or functional for all tests alike, got {', '.join(sorted(kinds))}")
    metadata = _from_json(info.get("metadata"))
    name = metadata.get("func_name") if isinstance(metadata, Mapping) else None
    if name is None:
        raise TestsError("tests of testtype functional, and no func_name in the row's metadata")
    _check_no_checker(gold)
    return _calls(name, [_functional(*pair) for pair in pairs])


def _check_no_checker(gold: Mapping[str, Any]) -> None:
    if gold.get("checker") is not None:
        raise TestsError("a checker is for programs that read and print, and these tests ask for functions")


def _asserts(tests: Sequence[Any], gold: Mapping[str, Any], info: Mapping[str, Any]) -> Tests:
    _check_no_checker(gold)
    for k, test in enumerate(tests, 1):
        if not isinstance(test, str):
            raise TestsError(f"test {k} must be a text such as 'assert f(1) == 2', not {_kind(test)}")
    entry_point = gold.get("entry_point") or info.get("entry_point")
    if not (entry_point is None or isinstance(entry_point, str)):
        raise TestsError(f"entry_point must be a function's name, not {_kind(entry_point)}")
    setup = [gold["setup"]] if gold.get("setup") else [gold.get(key) or info.get(key) for key in _BEFORE_ASSERTS]
    lines = [line for part in map(_from_json, setup) for line in (part if isinstance(part, list | tuple) else [part])]
    if not all(line is None or isinstance(line, str) for line in lines):
        raise TestsError("what comes before the tests (setup, test_imports, test_setup_code) must be text")
    before = "".join(f"{line}\n" for line in lines if line)
    return Tests(kind="asserts", asserts=tuple(before + test for test in tests), entry_point=entry_point or None)


def _calls(name: Any, cases: Sequence[tuple[Sequence[Any], Mapping[str, Any], Any]]) -> Tests:
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise TestsError(f"the name of the function that is called must be an identifier, got {str(name)[:60]!r}")
    calls = tuple(CallTest(name, tuple(args), dict(kwargs), expected) for args, kwargs, expected in cases)
    return Tests(kind="calls", calls=calls)


def _case(k: int, case: Any) -> tuple[Sequence[Any], Mapping[str, Any], Any]:
    """(args, kwargs, expected) of [args, expected], or of a mapping."""
    if isinstance(case, list | tuple) and len(case) == 2:
        case = {"args": case[0], "expected": case[1]}
    if not isinstance(case, Mapping):
        raise TestsError(f"case {k} must be [args, expected] or a mapping of args, kwargs and expected")
    expected = [name for name in ("expected", "output") if name in case]
    args = case.get("args", case.get("input", []))
    kwargs = case.get("kwargs", {})
    if not expected:
        raise TestsError(f"case {k} has no expected value")
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        raise TestsError(f"case {k}: args must be a list and kwargs a mapping, not {_kind(args)} and {_kind(kwargs)}")
    return args, kwargs, case[expected[0]]


def _functional(given: Any, expected: Any) -> tuple[Sequence[Any], Mapping[str, Any], Any]:
    """(args, kwargs, expected) of a pair as data sets have it: arguments in a list, or each as a line of JSON."""
    if isinstance(given, list | tuple):
        return given, {}, expected
    try:
        args = [json.loads(line) for line in given.split("\n") if line.strip()]
        return args, {}, json.loads(expected)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise TestsError(
            f"arguments must be a list, or JSON with one line for each, and so the output; got {str(given)[:60]!r} and "
            f"{str(expected)[:60]!r}"
        ) from None


def _programs(pairs: Sequence[tuple[Any, Any]], gold: Mapping[str, Any]) -> Tests:
    checker = gold.get("checker")
    if not (checker is None or isinstance(checker, str)):
        raise TestsError(f"checker must be the text of a program, not {_kind(checker)}")
    if checker is not None and not checker.strip():
        raise TestsError("the checker is empty: it would accept everything")
    if checker is not None and (why := checkers.problem(checker)):
        raise TestsError(f"the checker does not parse: {why}")
    tests = [
        StdinTest(_text(k, "input", given), _text(k, "output", wanted)) for k, (given, wanted) in enumerate(pairs, 1)
    ]
    return Tests(kind="stdin", programs=tuple(tests), checker=checker)


def _text(k: int, what: str, value: Any) -> str:
    """Some data sets have a list of lines."""
    if isinstance(value, list | tuple) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise TestsError(f"test {k}: the {what} of a program must be text, not {_kind(value)}")
    return value


def _from_json(value: Any) -> Any:
    """What a text says in JSON, where it does; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _kind(value: Any) -> str:
    names = {
        dict: "a mapping",
        list: "a list",
        str: "a text",
        int: "a number",
        float: "a number",
        type(None): "nothing",
    }
    return names.get(type(value), type(value).__name__)
