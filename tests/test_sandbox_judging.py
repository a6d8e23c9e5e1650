"""Programs judged by tests whose expected values they never see."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.sandbox import judging
from rlvr.sandbox.comparing import difference, shown
from rlvr.sandbox.judge_budget import Budget
from rlvr.sandbox.judge_memory import Once, digest
from rlvr.sandbox.judge_programs import free_names, judge_program
from rlvr.sandbox.judging import CallTest, Judgement, StdinTest, judge_asserts, judge_calls, judge_stdin
from rlvr.sandbox.limits import Limits
from rlvr.sandbox.pool import Sandbox
from rlvr.sandbox.results import Run, SandboxError

pytestmark = pytest.mark.alone

SHORT = Limits(wall_seconds=0.5)
ADD = "def add(a, b):\n    return a + b\n"
SUM = "print(sum(map(int, input().split())))"
SUMS = [StdinTest("1 2\n", "3\n"), StdinTest("10 20\n", "30\n"), StdinTest("-5 5\n", "0\n")]
ADDS = [CallTest("add", (1, 2), {}, 3), CallTest("add", (10,), {"b": 20}, 30), CallTest("add", (-5, 5), {}, 0)]


@pytest.fixture(scope="module")
def loop() -> Any:
    """One event loop and one sandbox for the tests of this file."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def sandbox(loop: asyncio.AbstractEventLoop) -> Any:
    sandbox = loop.run_until_complete(Sandbox(2).start())
    yield sandbox
    loop.run_until_complete(sandbox.close())


@pytest.fixture
def judge(sandbox: Sandbox, loop: asyncio.AbstractEventLoop) -> Callable[..., Judgement]:
    def run(how: Callable[..., Awaitable[Judgement]], *args: Any, **options: Any) -> Judgement:
        return loop.run_until_complete(asyncio.wait_for(how(sandbox, *args, **options), 60))

    return run


def statuses(judgement: Judgement) -> list[str]:
    return [result.status for result in judgement.results]


# --- comparison of outputs


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (b"1 2\n", "1\n2"),
        (b" a\tb \r\n\x0b c", "a b c"),
        (b"", " \n"),
        ("é ∞".encode(), "é ∞"),
        (b"0.05263157894736842", "0.052632"),
        (b"0.333333", "0.3333333333333333"),
        (b"3", "3.0"),
        (b"1000000.4", "1000000.0"),
        (b"1e3", "1000.0"),
        (b"1000", "1e3"),
        (b".5", "0.50"),
        (b"-0", "0.0"),
        (b"0.0000004", "0.0"),
        (b"+1.5", "1.5"),
        (b"1.5e-10", "1.50e-10"),
        (b"nan inf", "nan inf"),
    ],
)
def test_the_same_words_and_close_numbers_are_the_same_output(printed: bytes, expected: str) -> None:
    assert difference(printed, expected) == ""


@pytest.mark.parametrize(
    ("printed", "expected", "why"),
    [
        (b"1 3", "1 2", "word 2 of the output is '3', not '2'"),
        (b"1", "1 2", "the output has 1 word, not 2"),
        (b"1 2 3", "1 2", "the output has 3 words, not 2"),
        (b"", "0", "the output has 0 words, not 1"),
        (b"YES", "Yes", "word 1 of the output is 'YES', not 'Yes'"),
        (b"3.0", "3", "word 1 of the output is '3.0', not '3'"),
        (b"03", "3", "'03'"),
        (b"0.55", "0.5", "'0.55'"),
        (b"1.0000021", "1.0", "'1.0000021'"),
        (b"0", "1.5e-10", "'1.5e-10'"),
        (b"0", "0.0000005", "'0.0000005'"),
        (b"1_0", "10.0", "'1_0'"),
        ("١.٠".encode(), "1.0", "'١.٠'"),
        (b"nan", "1.0", "'nan'"),
        (b"1e999", "1.0", "'1e999'"),
        (b"1e999", "1e998", "'1e999'"),
        (b"inf", "1e999", "'inf'"),
        (b"0x1p0", "1.0", "'0x1p0'"),
        (b"1\xff", "1", "the output is not UTF-8 (byte 2)"),
        ("1\u00a02".encode(), "1 2", "word 1 of the output is '1\\xa02'"),
        (b"1,5", "1.5", "'1,5'"),
        (b"x" * 500, "y", "x...', not 'y'"),
    ],
)
def test_other_outputs_are_told_apart_with_the_first_difference(printed: bytes, expected: str, why: str) -> None:
    told = difference(printed, expected)
    assert why in told
    assert len(told) < 300


def test_the_tolerance_of_numbers_is_half_a_unit_of_what_was_written_or_a_millionth() -> None:
    assert difference(b"0.1234564", "0.123456") == ""
    assert difference(b"0.1234566", "0.123456") != ""
    assert difference(b"123456789.0", "123456800.0") == ""  # a ten-millionth of it
    assert difference(b"123456789.0", "123456789.5", rel_tol=1e-12, abs_tol=1e-12) != ""
    assert difference(b"0.1", "0.2", rel_tol=0.6) == ""


def test_to_compare_a_long_output_takes_its_length() -> None:
    words = b"1 " * 500_000
    assert difference(words, "1 " * 500_000) == ""
    assert "word 500000" in difference(words[:-2] + b"2", "1 " * 500_000)
    assert "'111" in difference(b"1" * 1_000_000, "1.0")
    assert shown(b"\xff" * 1000) == repr("\ufffd" * 57 + "...")


# --- programs that read and print


def test_a_right_program_passes_every_test(judge: Callable[..., Judgement]) -> None:
    judgement = judge(judge_stdin, SUM, SUMS)
    assert (judgement.status, judgement.num_passed, judgement.num_tests, judgement.reason) == ("passed", 3, 3, "")
    assert statuses(judgement) == ["passed"] * 3
    assert all(0 < result.seconds < 5 for result in judgement.results)


@pytest.mark.parametrize(
    ("code", "passed", "status", "reason"),
    [
        ("print(3)", ["passed", "failed"], "failed", "test 2 of 3: word 1 of the output is '3', not '30'"),
        (f"{SUM}\nimport os; os._exit(3)", ["failed"], "failed", "test 1 of 3: ended with exit code 3"),
        (f"{SUM}\n1/0", ["failed"], "failed", "exit code 1: ZeroDivisionError"),
        (
            "a, b = map(int, input().split())\nwhile a == 10: pass\nprint(a + b)",
            ["passed", "timeout"],
            "timeout",
            "0.5",
        ),
        ("import time; time.sleep(60)", ["timeout"], "timeout", "test 1 of 3: ran for more than 0.5 s"),
        ("print('x' * (1 << 21))", ["output"], "output", "more than 1048576 bytes"),
        ("x = bytearray(1 << 30)", ["memory"], "memory", "512 MiB"),
        ("import sys; sys.stdout.buffer.write(b'3 \\xff')", ["failed"], "failed", "not UTF-8"),
        ("def f(: pass", ["failed"], "failed", "SyntaxError"),
    ],
)
def test_the_first_test_that_does_not_pass_ends_the_judgement(
    judge: Callable[..., Judgement], code: str, passed: list[str], status: str, reason: str
) -> None:
    judgement = judge(judge_stdin, code, SUMS, SHORT)
    assert statuses(judgement) == passed
    assert (judgement.status, judgement.num_passed, judgement.num_tests) == (status, len(passed) - 1, 3)
    assert reason in judgement.reason
    assert "\n" not in judgement.reason


def test_without_early_stop_every_test_is_run(judge: Callable[..., Judgement]) -> None:
    judgement = judge(judge_stdin, "print(30)", SUMS, stop_at_first_failure=False)
    assert statuses(judgement) == ["failed", "passed", "failed"]
    assert (judgement.status, judgement.num_passed) == ("failed", 1)
    assert judgement.reason.startswith("test 1 of 3: ")


CHECKER = """
import sys
given, output, answer = (open(name).read().split() for name in sys.argv[1:])
if len(output) != 2:
    sys.exit(f"{len(output)} words, not 2")
a, b = map(int, output)
sys.exit(0 if a + b == int(given[0]) and answer == ["3", "7"] else 1)
"""


@pytest.mark.parametrize(
    ("printed", "status", "reason"),
    [
        ("4 6", "passed", ""),
        ("1 9", "passed", ""),
        ("4 7", "failed", "test 1 of 1: the checker rejects the output"),
        ("10", "failed", "the checker rejects the output: 1 words, not 2"),
        ("a b", "failed", "the checker fails on the output: ended with exit code 70: ValueError: invalid literal"),
    ],
)
def test_a_checker_judges_where_several_outputs_are_right(
    judge: Callable[..., Judgement], printed: str, status: str, reason: str
) -> None:
    judgement = judge(judge_stdin, f"print({printed!r})", [StdinTest("10\n", "3 7\n")], checker=CHECKER)
    assert judgement.status == status
    assert reason in judgement.reason


@pytest.mark.parametrize(
    ("checker", "status"),
    [("import os; os._exit(1)", "failed"), ("import sys; sys.exit('no')", "failed"), ("pass", "passed")],
)
def test_a_checker_accepts_with_exit_code_0_and_rejects_with_1(
    judge: Callable[..., Judgement], checker: str, status: str
) -> None:
    judgement = judge(judge_stdin, "print(1)", [StdinTest("", "1")], checker=checker)
    assert judgement.status == status
    assert judgement.num_passed == (status == "passed")


@pytest.mark.parametrize(
    ("checker", "why"),
    [
        ("raise SystemExit(2)", "exit code 2"),
        ("1/0", "exit code 70: ZeroDivisionError"),
        ("import os; os._exit(9)", "exit code 9"),
        ("x = bytearray(1 << 32)", "exit code 70: MemoryError"),
    ],
)
def test_a_checker_that_fails_on_the_expected_output_too_is_the_tests_fault(
    judge: Callable[..., Judgement], checker: str, why: str
) -> None:
    for printed in (1, 2):
        with pytest.raises(judging.TestsError, match=f"the checker fails on the expected output itself: .*{why}"):
            judge(judge_stdin, f"print({printed})", [StdinTest("", "1")], checker=checker)


def test_a_checker_sees_any_text_but_no_output_that_is_none(judge: Callable[..., Judgement]) -> None:
    checker = "import sys\nsys.exit(open('output', 'rb').read() != open('answer', 'rb').read())"
    text = "\0 \udc80\r\n\u2028 é" + "x" * 100_000
    echo = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"
    assert judge(judge_stdin, echo, [StdinTest("\0\r\n\u2028", "\0\r\n\u2028")], checker=checker).status == "passed"
    broken = judge(judge_stdin, echo, [StdinTest(text, text)], checker=checker)
    assert (broken.status, broken.reason) == ("failed", "test 1 of 1: the output is not UTF-8 (byte 3)")


def test_programs_in_other_languages_are_compiled_once_and_run_for_each_test(
    judge: Callable[..., Judgement],
) -> None:
    code = '#include <cstdio>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a + b); }\n'
    if not (shutil.which("g++") or shutil.which("clang++")):
        with pytest.raises(SandboxError, match=r"cpp needs g\+\+"):
            judge(judge_stdin, code, SUMS, language="cpp")
    else:
        assert judge(judge_stdin, code, SUMS, language="c++").status == "passed"
        assert judge(judge_stdin, code.replace("+", "-"), SUMS, language="cpp").num_passed == 0
        broken = judge(judge_stdin, code.replace(";", ""), SUMS, language="cpp", stop_at_first_failure=False)
        assert (broken.status, statuses(broken)) == ("failed", ["failed"] * 3)
    shell = "read a b; echo $((a + b))\n"
    assert judge(judge_stdin, shell, SUMS, language="bash").status == "passed"
    with pytest.raises(ValueError, match=r"language must be one of .*did you mean 'bash'"):
        judge(judge_stdin, shell, SUMS, language="bsh")


# --- functions that are called


def test_functions_are_called_with_values_and_compared_here(judge: Callable[..., Judgement]) -> None:
    judgement = judge(judge_calls, ADD, ADDS)
    assert (judgement.status, judgement.num_passed, statuses(judgement)) == ("passed", 3, ["passed"] * 3)
    method = "class Solution:\n    def add(self, a, b):\n        return a + b\n"
    calls = [CallTest("Solution.add", (1, 2), {}, 3)]
    assert judge(judge_calls, method, calls).status == "passed"


@pytest.mark.parametrize(
    ("code", "found", "reason"),
    [
        ("def add(a, b):\n    return 3", ["passed", "failed"], "test 2 of 3: 3 is not 30"),
        ("def add(a, b):\n    return str(a + b)", ["failed"], "'3' is not a number as 3"),
        ("def add(a, b):\n    return a // 0", ["failed"], "it raised ZeroDivisionError"),
        ("def sub(a, b):\n    return a", ["failed"], "it raised NameError: the program defines no 'add'"),
        ("def add(a, b):\n    return object()", ["failed"], "object is not plain data"),
        ("def add(a, b):\n    while True: pass", ["timeout"], "test 1 of 3: "),
        ("def add(a, b):\n    import os; os._exit(0)", ["failed"], "the program ended before it answered"),
        ("raise SystemExit", ["failed"], "while it was loaded, the program ended before it answered"),
        ("1/0", ["failed"], "while it was loaded, the program ended with exit code 1: ZeroDivisionError"),
        ("while True: pass", ["timeout"], "while it was loaded, the program"),
    ],
)
def test_a_call_that_goes_wrong_is_told(
    judge: Callable[..., Judgement], code: str, found: list[str], reason: str
) -> None:
    judgement = judge(judge_calls, code, ADDS, SHORT)
    assert statuses(judgement) == found
    assert reason in judgement.reason


def test_behind_a_test_that_ends_the_program_the_others_get_a_new_start(judge: Callable[..., Judgement]) -> None:
    code = "import os\nseen = []\ndef f(x):\n    seen.append(x)\n    return os._exit(1) if x == 2 else len(seen)"
    calls = [CallTest("f", (x,), {}, k) for x, k in ((1, 1), (1, 2), (2, 3), (1, 1), (1, 2), (2, 3))]
    judgement = judge(judge_calls, code, calls, stop_at_first_failure=False)
    assert statuses(judgement) == ["passed", "passed", "failed", "passed", "passed", "failed"]
    assert (judgement.num_passed, judgement.status) == (4, "failed")
    loading = judge(judge_calls, "while True: pass", ADDS, SHORT, stop_at_first_failure=False)
    assert statuses(loading) == ["timeout"] * 3


def test_forged_values_equal_nothing(judge: Callable[..., Judgement]) -> None:
    forged = (
        "class Any(int):\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
        "    __hash__ = int.__hash__\ndef add(a, b): return {}\n"
    )
    for value in ("Any(3)", "[Any(3)]", "{Any(3)}", "True"):
        assert judge(judge_calls, forged.format(value), [CallTest("add", (1, 2), {}, 3)]).status == "failed"


def test_values_that_came_from_json_have_neither_tuples_nor_keys_other_than_text(
    judge: Callable[..., Judgement],
) -> None:
    code = "def f(): return {1: (1, 2.0000000001)}"
    calls = [CallTest("f", (), {}, {"1": [1, 2.0]})]
    assert judge(judge_calls, code, calls).status == "failed"
    assert judge(judge_calls, code, calls, from_json=True).status == "failed"
    assert judge(judge_calls, code, calls, from_json=True, rel_tol=1e-6).status == "passed"


# --- asserts


def test_asserts_are_rewritten_and_counted_one_by_one(judge: Callable[..., Judgement]) -> None:
    right = judge(judge_asserts, ADD, ["assert add(1, 2) == 3", "assert add(2, 2) == 4 and add(0, 1) == 1"])
    assert (right.status, right.num_passed, right.num_tests) == ("passed", 2, 2)
    check = "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(2, 2) == 5\n    assert True\n"
    wrong = judge(judge_asserts, ADD, [check], entry_point="add", stop_at_first_failure=False)
    assert wrong.num_passed == 1
    assert statuses(wrong)[:2] == ["passed", "failed"]
    assert "assert candidate(2, 2) == 5: not so for 4" in wrong.reason


PROPERTY = """
import random

def check(candidate):
    random.seed(7)
    for _ in range(5):
        a, b = random.randrange(100), random.randrange(100)
        try:
            assert candidate(a, b) == reference(a, b), "as the reference"
        finally:
            pass

def reference(a, b):
    return sum([a, b])
"""


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        (ADD, "passed", ""),
        ("def add(a, b):\n    return a - b", "failed", "test 1 of 1: the test raised AssertionError: as the reference"),
        ("def add(a, b):\n    return a / 0", "failed", "the test raised ZeroDivisionError: division by zero"),
        ("def sub(a, b):\n    return a", "failed", "RuntimeError: NameError: the program defines no 'add'"),
        ("def add(a, b):\n    while True: pass", "timeout", "0.5 s"),
        ("raise SystemExit(0)", "failed", "the test raised "),
        ("import os\ndef add(a, b):\n    os._exit(0)", "failed", "the test raised RuntimeError: the program has ended"),
        (
            "class Any(int):\n    def __eq__(self, o): return True\ndef add(a, b): return Any(1)",
            "failed",
            "the test raised",
        ),
    ],
)
def test_what_cannot_be_rewritten_runs_in_a_jail_of_its_own(
    judge: Callable[..., Judgement], code: str, status: str, reason: str
) -> None:
    judgement = judge(judge_asserts, code, [PROPERTY], SHORT, entry_point="add")
    assert judgement.status == status, judgement
    assert reason in judgement.reason


def test_texts_of_both_kinds_are_judged_in_their_order(judge: Callable[..., Judgement]) -> None:
    own = f"{PROPERTY}\ncheck(add)\n"
    tests = ["assert add(1, 2) == 3", own, "assert add(2, 2) == 5", own, "assert add(0, 0) == 0"]
    judgement = judge(judge_asserts, ADD, tests, stop_at_first_failure=False)
    assert statuses(judgement) == ["passed", "passed", "failed", "passed", "passed"]
    assert statuses(judge(judge_asserts, ADD, tests)) == ["passed", "passed", "failed"]
    deadly = f"{ADD}import os\ndef boom(): os._exit(1)\n"
    tests = ["assert boom() == 1\nassert add(1, 1) == 2", "assert add(1, 2) == 3"]
    judgement = judge(judge_asserts, deadly, tests, stop_at_first_failure=False)
    assert [result.reason for result in judgement.results][1:] == ["not reached", ""]
    assert statuses(judgement) == ["failed", "failed", "passed"]


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ([], "there are no tests"),
        (["assert add(1, 2) =="], "test 1 of 1: the test does not parse"),
        (["def g(a, a): pass\nassert add(1, 2) == 3"], "test 1 of 1: duplicate argument 'a' in function definition"),
        (["assert add(1, 2) == 3", "nonlocal x\nassert add(1, 2) == 3"], "test 2 of 2: nonlocal declaration"),
        (["def g():\n    x = 1\n    global x\nassert add(1, 2) == 3"], "assigned to before global declaration"),
        (["assert add(1, 2) == 3", "add(1, 2)"], "test 2 of 2: the test asserts nothing"),
        (["def check(candidate):\n    assert candidate(1) == random()\n"], "entry_point"),
        (["class T:\n    def test_it(self):\n        assert add(1, 2) == 3"], "asserts nothing"),
        ([PROPERTY.replace("import random", "import no_such_module") + "\ncheck(add)"], "no_such_module"),
    ],
)
def test_asserts_that_cannot_be_are_the_tests_fault(
    judge: Callable[..., Judgement], tests: list[str], why: str
) -> None:
    with pytest.raises(judging.TestsError, match=why):
        judge(judge_asserts, ADD, tests)


def test_a_judges_program_calls_what_nothing_else_calls() -> None:
    assert "check(add)" in judge_program(PROPERTY, "add").source
    assert judge_program(PROPERTY, "add").names == ("add",)
    own = judge_program("def test_a():\n    assert f(1)\ndef test_b():\n    raise E\n", None)
    assert "test_a()" in own.source and "test_b()" in own.source
    assert judge_program("def h():\n    assert f(1)\n\nh()\n", None).names == ("f",)


def test_free_names_are_those_that_a_program_has_to_answer_for() -> None:
    source = """
import math as m
from os import path
K = 2
def helper(a, *rest, k=K):
    b = outer(a)
    return [c for c in b if len(c) > m.pi and other]
class C:
    attribute = unknown
    def method(self): global made; made = 1; return self.x + attribute + made
lambda z: z + y
try: pass
except ValueError as e: print(e)
"""
    assert free_names(source) == ["attribute", "other", "outer", "unknown", "y"]


# --- tests that cannot be, and memory


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ([], "there are no tests"),
        ([CallTest("f g", (), {}, 1)], "test 1: 'f g' is no name of a function"),
        ([CallTest("f", (), {}, 1), CallTest("f", (object(),), {}, 1)], "test 2: an object of type object"),
        ([CallTest("f", (), {}, {"a": [Path("/")]})], "test 1: an object of type"),
        ([CallTest("f", (10**200_000,), {}, 1)], "test 1: an int of"),
        ([CallTest("f", (), {}, 1)] * 10_001, "10001 tests are more than 10000"),
    ],
)
def test_calls_that_cannot_be_are_the_tests_fault(
    judge: Callable[..., Judgement], tests: list[CallTest], why: str
) -> None:
    with pytest.raises(judging.TestsError, match=why):
        judge(judge_calls, ADD, tests)


def test_a_checker_that_does_not_parse_is_the_tests_fault(judge: Callable[..., Judgement]) -> None:
    for checker in ("def f(:", "x = '\0'"):
        with pytest.raises(judging.TestsError, match="the checker does not parse"):
            judge(judge_stdin, SUM, SUMS, checker=checker)


@pytest.mark.parametrize("code", ["", "\0", "x = '\ud800'", "#" * (1 << 16) + "\n"])
def test_a_program_that_cannot_be_is_its_callers_fault(judge: Callable[..., Judgement], code: str) -> None:
    for how, tests in ((judge_stdin, SUMS), (judge_calls, ADDS), (judge_asserts, ["assert add(1, 2) == 3"])):
        with pytest.raises(ValueError, match="the program ") as caught:
            judge(how, code, tests)
        assert not isinstance(caught.value, judging.TestsError)


class Counting:
    """A sandbox whose executions are counted; what it answers is `answers`, else what the real one does."""

    def __init__(self, sandbox: Sandbox, *answers: Run) -> None:
        self.sandbox, self.answers, self.num_runs = sandbox, list(answers), 0

    async def run(self, *args: Any) -> Run:
        self.num_runs += 1
        await asyncio.sleep(0)
        return self.answers.pop(0) if self.answers else await self.sandbox.run(*args)

    async def call(self, *args: Any, on_reply: Any) -> Run:
        return self.answers.pop(0) if self.answers else await self.sandbox.call(*args, on_reply=on_reply)


def test_the_same_program_tests_and_limits_are_judged_once(sandbox: Sandbox, loop: asyncio.AbstractEventLoop) -> None:
    counting: Any = Counting(sandbox)

    async def both(*options: dict[str, Any]) -> list[Judgement]:
        return await asyncio.gather(*(judge_stdin(counting, SUM, SUMS[:1], **chosen) for chosen in options))

    first, second = loop.run_until_complete(both({}, {}))  # at the same time
    assert first is second
    assert counting.num_runs == 1
    (third,) = loop.run_until_complete(both({}))
    assert third is first
    loop.run_until_complete(both({"limits": SHORT}, {"rel_tol": 0.1}, {"stop_at_first_failure": False}))
    assert counting.num_runs == 4
    loop.run_until_complete(both({"total_seconds": 9.0}, {"total_seconds": 9.0}))
    assert counting.num_runs == 5
    loop.run_until_complete(both({"remember": False}, {"remember": False}))
    assert counting.num_runs == 7
    loop.run_until_complete(judge_stdin(counting, SUM + " ", SUMS[:1]))
    loop.run_until_complete(judge_stdin(counting, SUM, [StdinTest("1 2\n3", "\n")]))
    assert counting.num_runs == 9


def test_our_failure_is_never_a_verdict_and_is_asked_again(sandbox: Sandbox, loop: asyncio.AbstractEventLoop) -> None:
    counting: Any = Counting(sandbox, Run(status="infra", reason="the jail was lost"))
    first = loop.run_until_complete(judge_stdin(counting, SUM, SUMS))
    assert (first.status, first.reason, first.num_passed) == ("infra", "test 1 of 3: the jail was lost", 0)
    assert loop.run_until_complete(judge_stdin(counting, SUM, SUMS)).status == "passed"
    failed = Run(status="failed", reason="ended with exit code 1", exit_code=1)
    counting = Counting(sandbox, failed, Run(status="infra", reason="the jail was lost"))
    found = loop.run_until_complete(judge_stdin(counting, SUM, SUMS, stop_at_first_failure=False))
    assert (found.status, statuses(found)) == ("infra", ["failed", "infra"])
    assert found.reason == "test 2 of 3: the jail was lost"


def test_a_machine_that_is_too_busy_is_told_apart_from_other_failures(
    sandbox: Sandbox, loop: asyncio.AbstractEventLoop
) -> None:
    starved = Run(status="infra", reason="the machine gave it no processor for 9.0 s", was_starved=True)
    for how, args in (
        (judge_stdin, (SUM, SUMS)),
        (judge_calls, (ADD, ADDS)),
        (judge_asserts, (ADD, ["assert add(1, 2) == 3"])),
    ):
        for failure in (starved, Run(status="infra", reason="the jail was lost")):
            counting: Any = Counting(sandbox, failure)
            found = loop.run_until_complete(how(counting, *args))
            assert (found.status, found.was_starved) == ("infra", failure.was_starved)
            assert found.results[-1].was_starved == failure.was_starved


# --- the seconds of all tests together


SLEEPER = "import time\ndef add(a, b):\n    time.sleep(60)\n"


def test_tests_for_which_no_time_is_left_are_not_run_and_count_as_timeouts(judge: Callable[..., Judgement]) -> None:
    tests = [StdinTest("1 2\n", "3\n"), *[StdinTest("10 20\n", "30\n")] * 9]
    code = "import time\na, b = map(int, input().split())\ntime.sleep(60 * (a == 10))\nprint(a + b)"
    start = time.monotonic()
    found = judge(judge_stdin, code, tests, SHORT, total_seconds=1.2, stop_at_first_failure=False)
    assert time.monotonic() - start < 5
    assert (found.status, found.num_passed, found.num_tests) == ("timeout", 1, 10)
    assert statuses(found) == ["passed"] + ["timeout"] * 9
    assert [result.reason for result in found.results[1:5]] == [
        "ran for more than 0.5 s",
        "ran for more than 0.5 s",
        "ran until the 1.2 s for all tests were used up",
        "not run, the 1.2 s for all tests are used up",
    ]
    assert sum(result.seconds for result in found.results) == pytest.approx(1.2, abs=0.2)


def test_a_program_that_is_slow_but_right_has_no_more_than_the_seconds_of_all_tests(
    judge: Callable[..., Judgement],
) -> None:
    slow = f"import time; time.sleep(0.3)\n{SUM}"
    assert judge(judge_stdin, slow, SUMS, total_seconds=3.0).status == "passed"
    found = judge(judge_stdin, slow, SUMS, total_seconds=0.5)
    assert statuses(found) == ["passed", "timeout"]
    assert found.reason == "test 2 of 3: ran until the 0.5 s for all tests were used up"


@pytest.mark.parametrize(
    ("how", "tests"),
    [
        (judge_calls, [CallTest("add", (k, 2), {}, k + 2) for k in range(20)]),
        (judge_asserts, [f"assert add({k}, 2) == {k + 2}" for k in range(20)]),
        (
            judge_asserts,
            [f"def check(f):\n    while f({k}, 2) != {k + 2}: assert f(1, 1)\n\ncheck(add)" for k in range(20)],
        ),
    ],
)
def test_what_ends_the_program_again_and_again_ends_with_the_seconds_of_all_tests(
    judge: Callable[..., Judgement], how: Any, tests: list[Any]
) -> None:
    start = time.monotonic()
    found = judge(how, SLEEPER, tests, SHORT, total_seconds=1.0, stop_at_first_failure=False)
    assert time.monotonic() - start < 6
    assert statuses(found) == ["timeout"] * 20
    assert found.results[-1].reason == "not run, the 1 s for all tests are used up"
    assert judge(how, SLEEPER, tests, SHORT, total_seconds=1.0).reason == "test 1 of 20: ran for more than 0.5 s"


def test_a_checker_spends_the_seconds_of_all_tests_too(judge: Callable[..., Judgement]) -> None:
    found = judge(judge_stdin, SUM, SUMS, checker="import time; time.sleep(0.4)", total_seconds=0.3)
    assert statuses(found) == ["passed", "timeout"]
    assert found.reason == "test 2 of 3: not run, the 0.3 s for all tests are used up"


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_a_number_of_seconds_for_all_tests_that_makes_no_sense_is_refused(
    judge: Callable[..., Judgement], seconds: float
) -> None:
    with pytest.raises(ValueError, match="total_seconds must be a number above 0"):
        judge(judge_calls, ADD, ADDS, total_seconds=seconds)


def test_a_budget_counts_a_run_with_its_limit_at_most() -> None:
    budget, limits = Budget(3.0), Limits(wall_seconds=2.0)
    assert budget.limits(limits) is limits
    starved = Run(status="timeout", reason="ran for more than 2 s", wall_seconds=7.5)
    assert budget.spend(starved, limits) is starved
    given = budget.limits(limits)
    assert (given.wall_seconds, given.processor_seconds) == (1.0, 2.0)
    assert budget.spend(Run(status="passed", wall_seconds=0.25), given).reason == ""
    assert not budget.is_used_up
    assert budget.limits(limits).wall_seconds == 0.75
    last = budget.spend(Run(status="timeout", reason="ran for more than 0.75 s", wall_seconds=0.76), given)
    assert (budget.is_used_up, last.reason) == (True, "ran until the 3 s for all tests were used up")
    endless = Budget(None)
    endless.spend(Run(status="passed", wall_seconds=1e9), Limits(wall_seconds=80_000))
    assert endless.limits(limits) is limits


def test_memory_is_bounded_and_forgets_the_longest_unused() -> None:
    memory: Once[str] = Once(len, 10)
    asked: list[str] = []

    async def find(text: str) -> str:
        asked.append(text)
        return text

    async def main() -> None:
        for text in ("aaaa", "bbbb", "aaaa", "cc", "dd", "aaaa", "bbbb", "", "", "x" * 11, "x" * 11, "dd"):
            assert await memory.get(text.encode(), lambda text=text: find(text)) == text

    asyncio.run(main())
    # "dd" pushes out "bbbb", "bbbb" then "cc"; "" weighs nothing and is not kept, nor is what is too heavy
    assert asked == ["aaaa", "bbbb", "cc", "dd", "bbbb", "", "", "x" * 11, "x" * 11, "dd"]


def test_what_is_under_way_outlives_one_who_stops_waiting_but_not_the_last() -> None:
    memory: Once[int] = Once(lambda _: 1, 10)
    events: list[str] = []

    async def find() -> int:
        events.append("begun")
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise
        events.append("done")
        return 7

    async def broken() -> int:
        await asyncio.sleep(0)
        raise OSError("no")

    async def main() -> None:
        first = asyncio.ensure_future(memory.get(b"a", find))
        second = asyncio.ensure_future(memory.get(b"a", find))
        await asyncio.sleep(0.01)
        first.cancel()
        assert await second == 7
        assert events == ["begun", "done"]
        third = asyncio.ensure_future(memory.get(b"b", find))
        await asyncio.sleep(0.01)
        third.cancel()
        await asyncio.sleep(0)
        assert await memory.get(b"b", find) == 7  # begun anew, not the one that was given up
        assert events[2:] == ["begun", "cancelled", "begun", "done"]
        for _ in range(2):
            results = await asyncio.gather(*(memory.get(b"c", broken) for _ in range(2)), return_exceptions=True)
            assert [str(result) for result in results] == ["no", "no"]

    asyncio.run(main())


def test_keys_differ_where_parts_do() -> None:
    parts = [("a", "b"), ("ab",), ("a", "b", ""), (b"a", "b"), ("a1:", "b"), ("\ud800",), ("\\ud800",), ()]
    assert len({digest(*part) for part in parts}) == len(parts)


def test_expected_values_never_enter_the_jail(sandbox: Sandbox, loop: asyncio.AbstractEventLoop) -> None:
    sent: list[str] = []

    class Watching:
        async def run(self, code: str, stdin: bytes, limits: Limits) -> Run:
            sent.append(repr((code, stdin)))
            return await sandbox.run(code, stdin, limits)

        async def call(self, code: str, steps: Any, *args: Any, **options: Any) -> Run:
            sent.append(repr((code, steps)))
            return await sandbox.call(code, steps, *args, **options)

        async def converse(self, code: str, judge: str, names: Any, limits: Limits) -> tuple[Run, Run]:
            sent.append(repr((code, names)))
            return await sandbox.converse(code, judge, names, limits)

    watching: Any = Watching()
    secret = "secret-4711"
    tests = [CallTest("add", ("secret-", "4711"), {}, secret)]
    assert loop.run_until_complete(judge_calls(watching, ADD, tests)).status == "passed"
    own = f"{PROPERTY}\ncheck(add)\nassert add('secret-', '4711') == {secret!r}\n"
    texts = [f"assert add('secret-', '4711') == {secret!r}", own]
    assert loop.run_until_complete(judge_asserts(watching, ADD, texts)).status == "passed"
    echo = "print('secret-' + input())"
    assert loop.run_until_complete(judge_stdin(watching, echo, [StdinTest("4711", secret)])).status == "passed"
    assert len(sent) == 4
    assert not [text for text in sent if secret in text]
