"""What the verifiers of code have in common: extract the program, run its tests in the sandbox, put a score to it.

A process that judges keeps one sandbox for its life, on a thread of its own. Limits of the CPU on the verifier itself
hold for reading and comparing alone; what the program does is limited by the sandbox.
"""

from __future__ import annotations

import ast
import asyncio
import atexit
import functools
import inspect
import os
import threading
import typing
from collections.abc import Callable, Collection, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from rlvr.fields import Share
from rlvr.plugins import verifier
from rlvr.sandbox import tiers
from rlvr.sandbox.judging import (
    MOST_TESTS,
    Judgement,
    TestsError,
    judge_asserts,
    judge_calls,
    judge_stdin,
    plan_asserts,
)
from rlvr.sandbox.limits import Limits
from rlvr.sandbox.pool import Sandbox
from rlvr.sandbox.results import SandboxError
from rlvr.sandbox.zygote import PATIENCE
from rlvr.types import Task, Verdict
from rlvr.verifiers.code_tests import Kind, Tests, impossible, read_tests
from rlvr.verifiers.code_text import MOST_BYTES, Extract, Program, Refused, defined_names, extract_code, parsed

Score = Literal["all", "pass_rate", "threshold"]
_MOST_SECONDS = 600.0
_Seconds = Annotated[float, Field(gt=0, le=_MOST_SECONDS)]
_DEADLINE = 10.0
"""CPU seconds of the verifier's own."""
_WALL_SECONDS = PATIENCE * _MOST_SECONDS + 300
"""Enough for the most total_seconds on a machine that is too busy, and then for a checker: beyond it, it is the machine
that stands still."""
_MOST_SHOWN = 32
"""Tests whose results are in a verdict."""
_FLOAT_TOLERANCE = 1e-6
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a recipe may set under rewards.NAME.options."""

    score: Score = "all"
    """all: 1 where all tests pass, else 0, and the first that does not ends it; pass_rate: the share of tests that
    pass; threshold: 1 where that share is at least `threshold`, else 0."""
    threshold: Share = 0.8
    """With score: threshold alone."""
    extract: Extract = "fence"
    """Where the program is in the response: code_text.py."""
    prelude: str = ""
    """Python put before every program, such as imports that the tasks take for granted. It has to compile by itself."""
    wall_seconds: _Seconds = 10.0
    """For each run of the program: one for each test of a program that reads and prints, one for all calls and asserts
    of a program that defines functions (and, but for score: all, one more behind each that ended it). CPU seconds as
    many."""
    total_seconds: _Seconds = 60.0
    """For all runs of the program together, and of a checker. Tests that are left when they are used up are not run and
    count as timeouts. A run counts with no more than its wall_seconds, however long it waited for a processor."""
    memory_mib: Annotated[int, Field(ge=32)] = 512
    allow_unisolated: bool = False
    """Run programs with the rights of this process where nothing isolates them: for programs that are trusted."""


_kinds: dict[str, Collection[Kind]] = {}
"""By the verifier's name."""


def code_verifier(name: str, *, version: str, kinds: Collection[Kind]) -> Callable[..., Verdict]:
    """The verifier of that name, registered: for tests of these kinds, with the fields of Options as its options."""

    def judge_code(response: str, gold: Any, task: Task, **options: Any) -> Verdict:
        """1 where all tests pass, 0 where one does not, None where the tests are wrong."""
        return _judge(response, gold, task, kinds, Options(**options))

    _kinds[name] = kinds
    injected = [inspect.Parameter(given, inspect.Parameter.KEYWORD_ONLY) for given in ("response", "gold", "task")]
    of_options = inspect.signature(Options).parameters.values()
    judge_code.__signature__ = inspect.Signature([*injected, *of_options])  # type: ignore[attr-defined]
    judge_code.__annotations__ = typing.get_type_hints(Options, include_extras=True)
    return verifier(name, version=version, timeout=_DEADLINE, wall_seconds=_WALL_SECONDS)(judge_code)


def _judge(response: str, gold: Any, task: Task, kinds: Collection[Kind], options: Options) -> Verdict:
    if wrong := _prelude_problem(options.prelude):
        return Verdict(score=None, outcome="error", reason=wrong, stage="prelude")
    try:
        tests, names = _read(gold, task.info, kinds)
    except TestsError as error:
        return _invalid(error)
    program = extract_code(response, options.extract, names=names, prompt=task.prompt)
    if isinstance(program, Refused):
        score = None if program.outcome == "error" else 0.0
        return Verdict(
            score=score, outcome=program.outcome, reason=program.reason, how=options.extract, stage="extract"
        )
    code = _with_prelude(program, options.prelude)
    if len(code.encode()) > MOST_BYTES:
        reason = f"the program and the prelude have more than {MOST_BYTES} bytes"
        return Verdict(score=0.0, outcome="too_complex", reason=reason, how=program.how, stage="extract")
    try:
        judgement = _judgement(code, tests, options)
    except TestsError as error:
        return _invalid(error)
    except SandboxError as error:
        reason = f"the sandbox cannot be used: {error}"
        return Verdict(score=None, outcome="error", reason=reason, how=program.how, stage="sandbox")
    return replace(_verdict(judgement, options), how=program.how, stage=tests.kind)


def start_problem(options: Mapping[str, Any]) -> str:
    """Why nothing should be judged with these options, or cannot be on this machine; one line, empty where it can."""
    chosen = Options(**options)
    if "threshold" in options and chosen.score != "threshold":
        return f"the option threshold counts with score: threshold alone, and score is {chosen.score}"
    if wrong := _prelude_problem(chosen.prelude):
        return wrong
    if chosen.allow_unisolated:
        return ""
    try:
        with ThreadPoolExecutor(1) as thread:  # the caller's may have an event loop that runs
            thread.submit(lambda: asyncio.run(tiers.choose(None, allow_unisolated=False))).result()
    except SandboxError as error:
        return str(error)
    return ""


def gold_problem(verifier: str, task: Task) -> str:
    """Why the task's tests cannot be run, whatever the program; one line, empty where they can be."""
    try:
        _read(task.gold, task.info, _kinds[verifier])
    except TestsError as error:
        return str(error)
    return ""


def canary_gold(task: Task, nonce: int) -> dict[str, Any] | None:
    """Tests like the task's own that no honest program passes; None where the task has none that can be read."""
    try:
        return impossible(read_tests(task.gold, task.info), str(nonce))
    except TestsError:
        return None


def start_up() -> None:
    """Start this process's sandbox, so that no response's time is spent on it. SandboxError where none can be."""
    _home(allow_unisolated=False)


def _invalid(error: TestsError) -> Verdict:
    return Verdict(score=None, outcome="gold_invalid", reason=str(error), stage="gold")


@functools.lru_cache(maxsize=16)
def _prelude_problem(prelude: str) -> str:
    """A prelude that does not compile would be every program's mistake."""
    if len(prelude.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        return f"the option prelude has more than {MOST_BYTES} bytes"
    module = parsed(prelude)
    if isinstance(module, str):
        return f"the option prelude does not compile: {module}"
    try:
        compile(module, "prelude", "exec", dont_inherit=True)
    except SyntaxError as error:  # what the grammar allows, such as a return outside of a function
        return f"the option prelude does not compile: {error.msg} (line {error.lineno})"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"the option prelude does not compile: {error}"
    return ""


def _read(gold: Any, info: Mapping[str, Any], kinds: Collection[Kind]) -> tuple[Tests, set[str]]:
    """The tests, and what the program has to define, one of them at least. TestsError."""
    tests = read_tests(gold, info)
    if tests.kind not in kinds:
        other = "stdin_stdout" if tests.kind == "stdin" else "python_tests"
        raise TestsError(f"the tests are of the kind {tests.kind}, which the verifier {other} judges")
    num_tests = len(tests.asserts or tests.calls or tests.programs)
    if not num_tests:
        raise TestsError("there are no tests")
    if num_tests > MOST_TESTS:
        raise TestsError(f"{num_tests} tests are more than {MOST_TESTS}")
    return tests, _names(tests)


def _names(tests: Tests) -> set[str]:
    """What the program has to define, one of them at least. TestsError for asserts that cannot be."""
    if tests.kind == "asserts":
        plans = plan_asserts(tests.asserts, tests.entry_point)
        if tests.entry_point:
            return {tests.entry_point}
        return {name for plan in plans for name in plan.names}
    return {name for call in tests.calls for name in (call.function.partition(".")[0], "Solution")}


def _with_prelude(program: Program, prelude: str) -> str:
    """The prelude stands behind `from __future__` imports, which nothing may come before."""
    if not prelude:
        return program.source
    module = parsed(program.source)
    assert isinstance(module, ast.Module)
    future = [n for n in module.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    lines = program.source.split("\n")
    at = future[-1].end_lineno or 0 if future else 0
    return "\n".join([*lines[:at], prelude, *lines[at:]])


def _judgement(code: str, tests: Tests, options: Options) -> Judgement:
    home = _home(options.allow_unisolated)
    limits = Limits(wall_seconds=options.wall_seconds, memory_mib=options.memory_mib)
    how: dict[str, Any] = {
        "total_seconds": options.total_seconds,
        "stop_at_first_failure": options.score == "all",
    }
    if tests.kind == "stdin":
        return home.run(judge_stdin(home.sandbox, code, tests.programs, limits, checker=tests.checker, **how))
    if tests.kind == "asserts":
        return home.run(judge_asserts(home.sandbox, code, tests.asserts, limits, entry_point=tests.entry_point, **how))
    name = _path(code, tests.calls[0].function) if tests.calls else ""
    calls = [replace(call, function=name) for call in tests.calls]
    how.update(rel_tol=_FLOAT_TOLERANCE, from_json=True)
    found = home.run(judge_calls(home.sandbox, code, calls, limits, **how))
    how["total_seconds"] -= sum(result.seconds for result in found.results)
    if not tests.may_be_wrapped or found.status in ("passed", "infra") or how["total_seconds"] <= 0:
        return found
    inside = [replace(call, expected=call.expected[0]) for call in calls]
    other = home.run(judge_calls(home.sandbox, code, inside, limits, **how))
    return other if other.status == "infra" or other.num_passed > found.num_passed else found


def _path(code: str, function: str) -> str:
    """Solution.f where the program has a class Solution and defines no f of its own."""
    module = parsed(code)
    names = defined_names(module) if isinstance(module, ast.Module) else set()
    return f"Solution.{function}" if "Solution" in names and function.partition(".")[0] not in names else function


def _verdict(judgement: Judgement, options: Options) -> Verdict:
    checks = {
        "num_passed": judgement.num_passed,
        "num_tests": judgement.num_tests,
        "tests": [[result.status, _sentence(result.reason)] for result in judgement.results[:_MOST_SHOWN]],
        "seconds": [round(result.seconds, 6) for result in judgement.results[:_MOST_SHOWN]],
    }
    if judgement.status == "infra":
        return Verdict(score=None, outcome="error", reason=_sentence(judgement.reason), checks=checks)
    share = judgement.num_passed / judgement.num_tests
    if options.score == "pass_rate":
        score = share
    else:
        score = float(share >= (options.threshold - 1e-9 if options.score == "threshold" else 1))
    if score == 0:
        outcome = "timeout" if judgement.status == "timeout" else "wrong"
    else:
        outcome = "correct" if score == 1 else "partial"
    reason = f"all {judgement.num_tests} tests pass" if judgement.num_tests > 1 else "the test passes"
    if judgement.status != "passed":
        reason = _sentence(judgement.reason)
        if options.score != "all":
            reason = f"{judgement.num_passed} of {judgement.num_tests} tests pass; {reason}"
    return Verdict(score=score, outcome=outcome, reason=reason, checks=checks)


def _sentence(reason: str) -> str:
    """An exception without a message leaves a colon behind its name."""
    return reason.rstrip(": ")


# --- the process's sandbox


class _Home:
    """A sandbox, and a thread with the event loop that it needs: whoever judges may be in a loop or thread of its own.

    consumes:     coroutines of any thread that judges, each of which waits for its result
    produces:     their results
    waits for:    the sandbox's sockets, the next coroutine
    ends when:    close() is called, or the process ends: the kernel ends the jails with the thread that started them
    """

    def __init__(self, allow_unisolated: bool) -> None:
        """SandboxError where no sandbox can be started."""
        self.loop = asyncio.new_event_loop()
        self.sandbox = Sandbox(1, allow_unisolated=allow_unisolated)
        self._thread = threading.Thread(target=self.loop.run_forever, name="code sandbox", daemon=True)
        self._thread.start()
        try:
            self.run(self.sandbox.start())
        except BaseException:
            self._stop()
            raise

    def run(self, work: Coroutine[Any, Any, _Found]) -> _Found:
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:  # of the work, or an interrupt of this thread, and then nobody waits for it any more
            future.cancel()
            raise

    def close(self) -> None:
        """End the sandbox and the thread."""
        self.run(self.sandbox.close())
        self._stop()

    def _stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


_homes: dict[tuple[int, bool], _Home] = {}
"""By process and allow_unisolated. A fork has no thread of its parent's home, and keeps it alone so that nothing is
closed that both hold."""
_starting: dict[int, threading.Lock] = {}
"""By process: one that was forked while a thread held its parent's would wait for ever."""


def _home(allow_unisolated: bool) -> _Home:
    """This process's own: one that was forked from it starts another."""
    pid = os.getpid()
    home = _homes.get((pid, allow_unisolated))
    if home is None:
        with _starting.setdefault(pid, threading.Lock()):
            home = _homes.get((pid, allow_unisolated))
            if home is None:
                home = _homes[pid, allow_unisolated] = _Home(allow_unisolated)
    return home


@atexit.register
def close_homes() -> None:
    """End this process's sandboxes."""
    for owner, allow_unisolated in list(_homes):
        if owner == os.getpid():
            _homes.pop((owner, allow_unisolated)).close()
