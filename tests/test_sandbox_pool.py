"""The sandbox's executions: what each kind comes to, and what a program sees and may use."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from sandbox_case import Case, cases

from rlvr import Sandbox
from rlvr.sandbox.limits import Limits
from rlvr.sandbox.results import Run, SandboxError
from rlvr.sandbox.values import Reply

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def case() -> Iterator[Case]:
    yield from cases()


# --- programs that read and print


def test_a_program_reads_its_input_and_prints(case: Case) -> None:
    run = case.run("a, b = map(int, input().split())\nprint(a + b)", b"1 2\n")
    assert (run.status, run.exit_code, run.stdout, run.stderr, run.reason) == ("passed", 0, b"3\n", b"", "")
    assert 0 < run.cpu_seconds < 1
    assert 5 << 20 < run.memory_bytes < 200 << 20


def test_input_larger_than_any_pipe_arrives_whole(case: Case) -> None:
    data = os.urandom(1 << 20).hex().encode() * 4
    run = case.run("import sys\nd = sys.stdin.buffer.read()\nprint(len(d), d[-8:].decode())", data)
    assert run.stdout == b"%d %s\n" % (len(data), data[-8:])


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("import sys; sys.exit(0)", "passed", ""),
        ("exit()", "passed", ""),
        ("import sys; sys.exit(3)", "failed", "exit code 3"),
        ("import sys; sys.exit('no')", "failed", "exit code 1: no"),
        ("1 / 0", "failed", "exit code 1: ZeroDivisionError: division by zero"),
        ("def f(:", "failed", "exit code 1: SyntaxError"),
        ("import os; os._exit(7)", "failed", "exit code 7"),
        ("import os; os._exit(111)", "failed", "exit code 111"),
        ("import ctypes; ctypes.string_at(0)", "crashed", "SIGSEGV"),
        ("import os; os.abort()", "crashed", "ended by SIG"),
        ("x = []\nwhile True: x.append(bytearray(1 << 24))", "memory", "512 MiB"),
        ("while True: print('a' * 10000)", "output", "1048576 bytes"),
        ("import atexit; atexit.register(lambda: 1 / 0)", "passed", ""),
    ],
)
def test_each_way_to_end_has_its_status(case: Case, code: str, status: str, reason: str) -> None:
    run = case.run(code)
    assert (run.status, reason in run.reason) == (status, True), run


def test_a_program_that_computes_or_sleeps_too_long_is_timed_out(case: Case) -> None:
    computes = case.run("while True: pass", wall_seconds=30, cpu_seconds=0.2)
    assert (computes.status, computes.reason) == ("timeout", "used more than 0.2 s of CPU")
    assert 0.2 <= computes.cpu_seconds < 0.4
    sleeps = case.run("import time; time.sleep(60)", wall_seconds=0.3)
    assert (sleeps.status, sleeps.reason) == ("timeout", "ran for more than 0.3 s")
    assert 0.3 <= sleeps.wall_seconds < 1
    assert sleeps.cpu_seconds < 0.2


def test_waiting_for_a_processor_is_not_held_against_a_program() -> None:
    async def both() -> list[str]:
        async with Sandbox(6) as sandbox:
            spin = "import time\nt = time.process_time()\nwhile time.process_time() - t < 0.25: pass"
            runs = await asyncio.gather(*(sandbox.run(spin, b"", Limits(wall_seconds=0.5)) for _ in range(6)))
            return [run.status for run in runs]

    # six on two processors: each gets a third of one, and needs three quarters of a second for its quarter of one
    assert asyncio.run(both()) == ["passed"] * 6


def test_output_up_to_the_limit_passes_and_a_byte_more_does_not(case: Case) -> None:
    code = "import sys; sys.stdout.write('x' * {})"
    exact = case.run(code.format(5000), output_bytes=5000)
    assert (exact.status, len(exact.stdout)) == ("passed", 5000)
    more = case.run(code.format(5001), output_bytes=5000)
    assert (more.status, len(more.stdout)) == ("output", 5000)


def test_stderr_is_cut_without_a_failure(case: Case) -> None:
    run = case.run("import sys; sys.stderr.write('e' * 3000); print(1)", stderr_bytes=1000)
    assert (run.status, run.stdout, run.stderr) == ("passed", b"1\n", b"e" * 1000)


def test_files_are_limited_in_size_number_and_together(case: Case) -> None:
    one = case.run("open('f', 'wb').write(b'x' * (3 << 20))", file_mib=2)
    assert (one.status, "File too large" in one.reason) == ("failed", True)
    many = case.run("for i in range(100): open(str(i), 'w').close()", num_inodes=50)
    assert (many.status, "No space left" in many.reason) == ("failed", True)
    together = case.run("for i in range(9): open(str(i), 'wb').write(b'x' * (1 << 20))", disk_mib=4)
    assert (together.status, "No space left" in together.reason) == ("failed", True)
    opened = case.run("x = [open('f', 'w') for _ in range(40)]", num_open_files=32)
    assert (opened.status, "Too many open files" in opened.reason) == ("failed", True)


def test_threads_are_limited_in_number(case: Case) -> None:
    code = """
import threading, time
n = 0
try:
    while True:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        n += 1
except RuntimeError:
    print(n)
"""
    assert 6 <= int(case.run(code, num_processes=8).stdout) <= 8


def test_memory_that_counts_to_no_process_cannot_be_had(case: Case) -> None:
    code = """
import mmap, os
def attempt(what, action):
    try:
        action()
        print(what)
    except OSError:
        pass
attempt("shared memory", lambda: mmap.mmap(-1, 4096))
attempt("/dev/zero", lambda: mmap.mmap(os.open("/dev/zero", os.O_RDWR), 4096))
attempt("a larger stdin", lambda: os.ftruncate(0, 1 << 20))
attempt("a written stdin", lambda: os.write(0, b"x"))
attempt("a memory file", lambda: os.memfd_create("x"))
attempt("private memory", lambda: mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
open("f", "wb").write(b"x" * 4096)
attempt("a shared file", lambda: mmap.mmap(os.open("f", os.O_RDWR), 4096))
"""
    assert case.run(code, b"input").stdout == b"private memory\na shared file\n"


def test_a_program_sees_nothing_of_the_host(case: Case) -> None:
    os.environ["RLVR_TEST_SECRET"] = "secret"
    code = """
import os, sys
print(os.getpid(), os.getuid() != 0, dict(os.environ), sys.argv, sys.orig_argv)
print(sorted(set(os.listdir("/")) & {"proc", "sys", "etc", "home", "var", "run", "work"}), os.listdir("."), os.getcwd())
print([name for name in sys.modules if "rlvr" in name])
print([fd for fd in range(3, 1024) if os.path.exists(f"/dev/fd/{fd}")])
for fd in range(3, 1024):
    try:
        os.fstat(fd)
        print("open", fd)
    except OSError:
        pass
"""
    try:
        lines = case.run(code).stdout.decode().splitlines()
    finally:
        del os.environ["RLVR_TEST_SECRET"]
    assert lines == ["1 True {} ['solution.py'] ['python3', 'solution.py']", "[] [] /tmp", "[]", "[]"]


def test_nothing_of_one_execution_is_there_for_the_next(case: Case) -> None:
    case.run(
        "open('/tmp/left', 'w').write('secret'); secret = 'a-secret-of-the-first'; print(secret * 1000)", b"secret-in"
    )
    code = """
import gc, os
print(os.listdir("/tmp"))
print([o for o in gc.get_objects() if type(o) in (str, bytes, list, dict) and "a-secret-of-" + "the-first" in repr(o)])
"""
    assert case.run(code).stdout == b"[]\n[]\n"


def test_random_numbers_and_hashes_repeat_in_every_jail() -> None:
    async def both() -> list[bytes]:
        found = []
        for _ in range(2):
            async with Sandbox(1) as sandbox:
                code = "import random; print(random.random(), hash('a'), random.choice(range(10**9)))"
                found += [(await sandbox.run(code)).stdout for _ in range(2)]
        return found

    found = asyncio.run(both())
    assert len(set(found)) == 1
    assert found[0].startswith(b"0.8444218515250481 ")  # random.seed(0)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("x = '" + "a" * 65536 + "'", "65536 are allowed"),
        ("x = 1\0", "NUL byte, at 5"),
        ("x = '\ud800'", "not UTF-8"),
        (b"x = '\xff'", "not UTF-8"),
    ],
)
def test_what_is_no_program_is_a_value_error(case: Case, code: str | bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        case.wait(case.sandbox.run(code))
    with pytest.raises(ValueError, match=why):
        case.wait(case.sandbox.call(code, [("call", "f", (), {})]))


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        ((None,), TypeError, "the program must be str or bytes, got NoneType"),
        (("print(1)", 3), TypeError, "stdin must be str or bytes, got int"),
        (("print(1)", b"", {"wall_seconds": 1}), TypeError, r"limits must be Limits\(...\), got dict"),
    ],
)
def test_what_is_no_argument_is_named(case: Case, arguments: tuple[Any, ...], error: type, why: str) -> None:
    with pytest.raises(error, match=why):
        case.wait(case.sandbox.run(*arguments))


@pytest.mark.parametrize("step", [("cal", "f", (), {}), "f()", ("call", "f"), ("eval", b"f()"), ("call", "f", 1, {})])
def test_what_is_no_step_is_named(case: Case, step: Any) -> None:
    with pytest.raises(ValueError, match=r"steps\[1\] must be"):
        case.wait(case.sandbox.call("def f(): pass", [("call", "f", (), {}), step]))


def test_input_may_be_text(case: Case) -> None:
    assert case.wait(case.sandbox.run("print(input() == 'é')", "é\n")).stdout == b"True\n"


def test_an_error_shows_no_path_of_the_host(case: Case) -> None:
    for code in ("def f(:", "1 / 0", "import nothing_of_that_name"):
        assert b"harness" not in case.run(code).stderr


def test_the_hosts_file_mode_mask_does_not_matter() -> None:
    async def masked() -> bytes:
        async with Sandbox(1) as sandbox:
            return (await sandbox.run("import socket, ctypes; print(open('f', 'w').close())")).stdout

    before = os.umask(0o077)
    try:
        assert asyncio.run(masked()) == b"None\n"
    finally:
        os.umask(before)


# --- programs that are asked


def test_functions_classes_and_generators_answer(case: Case) -> None:
    code = """
def add(a, b=1): return a + b
def count(n):
    for i in range(n): yield i
class Solution:
    def __init__(self): self.calls = 0
    def solve(self, x):
        self.calls += 1
        return [x, self.calls]
class Stack:
    def __init__(self): self.items = []
    def push(self, x): self.items.append(x)
    def top(self): return self.items[-1]
"""
    run = case.call(
        code,
        ("call", "add", (2,), {"b": 40}),
        ("call", "count", (3,), {}),
        ("call", "Solution.solve", (5,), {}),
        ("call", "Solution.solve", (6,), {}),
        ("exec", "s = Stack(); s.push((1, 2))"),
        ("eval", "s.top()"),
        ("eval", "add(123456789012345678901234567890, 1)"),
    )
    assert run.status == "passed"
    assert [reply.value for reply in run.replies] == [
        42,
        [0, 1, 2],
        [5, 1],
        [6, 1],
        None,
        (1, 2),
        123456789012345678901234567891,
    ]
    assert type(run.replies[5].value) is tuple


def test_what_a_step_raises_is_its_reply_and_the_next_goes_on(case: Case) -> None:
    code = "import sys\ndef f(x):\n    if x < 0: sys.exit(0)\n    return 1 / x\n"
    run = case.call(code, *(("call", "f", (x,), {}) for x in (0, -1, 2)), ("call", "g", (), {}))
    assert run.replies == (
        Reply(error="ZeroDivisionError: division by zero"),
        Reply(error="SystemExit: 0"),
        Reply(value=0.5),
        Reply(error="NameError: the program defines no 'g'"),
    )


def test_a_program_that_ends_or_fails_early_answers_fewer_steps(case: Case) -> None:
    run = case.call(
        "import os\ndef f(x):\n    if x: os._exit(0)\n    return x", *(("call", "f", (x,), {}) for x in (0, 1, 0))
    )
    assert (run.status, run.replies) == ("passed", (Reply(value=0),))
    run = case.call("raise ValueError('no')", ("call", "f", (), {}))
    assert (run.status, run.replies) == ("failed", ())
    assert run.reason.endswith("ValueError: no")


def test_steps_share_the_limits_and_print_beside_their_values(case: Case) -> None:
    code = "import time\ndef f(x):\n    print('x', x)\n    time.sleep(x)\n    return x"
    run = case.call(code, *(("call", "f", (x,), {}) for x in (0, 60)), wall_seconds=0.3)
    assert (run.status, run.replies) == ("timeout", (Reply(value=0),))
    run = case.call(code, ("call", "f", (0,), {}))
    assert run.stdout == b"x 0\n"


def test_the_first_wrong_reply_can_stop_the_rest(case: Case) -> None:
    seen = []

    def on_reply(index: int, reply: Reply) -> bool:
        seen.append((index, reply.value))
        return reply.value != 2

    steps = [("call", "f", (x,), {}) for x in range(50)]
    code = "import time\ndef f(x):\n    if x > 2: time.sleep(60)\n    return x"
    run = case.wait(case.sandbox.call(code, steps, Limits(wall_seconds=30), on_reply=on_reply))
    assert seen == [(0, 0), (1, 1), (2, 2)]
    assert run.wall_seconds < 5
    assert case.sandbox.respawns == ()


@pytest.mark.parametrize(
    ("attack", "status"),
    [
        ("os.write(4, b'\\xff' * 100)", "output"),
        ("os.write(4, b'\\x01\\x00\\x00\\x00Q')", "crashed"),
        ("[os.write(4, b'x' * (1 << 16)) for _ in range(40)]", "output"),
        ("os.close(4)", "failed"),
    ],
)
def test_forged_and_broken_replies_are_the_programs_own_failure(case: Case, attack: str, status: str) -> None:
    run = case.call(f"import os\ndef f(): return 1\n{attack}", ("call", "f", (), {}))
    assert run.status != "passed" or run.replies == ()
    assert case.run("print(1)").stdout == b"1\n"
    if status != "failed":
        assert run.status == status


def test_a_value_larger_than_the_output_allowed_is_its_own_status(case: Case) -> None:
    run = case.call("def f(): return 'x' * 2000", ("call", "f", (), {}), output_bytes=1000)
    assert (run.status, run.replies) == ("output", ())
    run = case.call("def f(): return 'x' * 400", *[("call", "f", (), {})] * 3, output_bytes=1000)
    assert (run.status, len(run.replies)) == ("output", 2)


# --- two jails


def test_a_judge_calls_the_program_in_the_other_jail(case: Case) -> None:
    code = "def double(x): return x * 2\ndef broken(x): raise ValueError(x)"
    judge = "for i in range(50): assert double(i) == 2 * i\nassert double([1]) == [1, 1]\nassert double(x=2) == 4"
    program, verdict = case.wait(case.sandbox.converse(code, judge, ["double"]))
    assert (program.status, verdict.status) == ("passed", "passed")
    _, verdict = case.wait(case.sandbox.converse(code, "assert double(3) == 7, 'not seven'", ["double"]))
    assert (verdict.status, verdict.reason) == ("failed", "ended with exit code 1: AssertionError: not seven")
    _, verdict = case.wait(case.sandbox.converse(code, "broken(1)", ["broken"]))
    assert (verdict.status, "ValueError: 1" in verdict.reason) == ("failed", True)


def test_a_program_that_ends_leaves_the_judge_without_a_pass(case: Case) -> None:
    for code in (
        "import os; os._exit(0)",
        "import os\ndef f(): os._exit(0)",
        "import os\nos.write(4, b'\\0' * 64)\ndef f(): return 1",
    ):
        program, verdict = case.wait(case.sandbox.converse(code, "assert f() == 1", ["f"]))
        assert verdict.status == "failed", (code, program, verdict)


def test_a_program_that_is_late_is_late_and_not_its_judge(case: Case) -> None:
    code = "import time\ndef f(): time.sleep(60)"
    program, verdict = case.wait(case.sandbox.converse(code, "f()", ["f"], Limits(wall_seconds=0.3)))
    assert (program.status, verdict.status) == ("timeout", "failed")
    # slow enough to outlast any patience, without ever being late by itself
    code = "import time\ndef f(): time.sleep(0.2); return 1"
    program, _ = case.wait(case.sandbox.converse(code, "while True: f()", ["f"], Limits(wall_seconds=0.5)))
    assert program.status == "timeout"


def test_the_program_does_not_see_the_judge(case: Case) -> None:
    code = """
import gc
def f(x):
    return [o for o in gc.get_objects() if type(o) is dict and "the_" + "gold" in o]
"""
    _, verdict = case.wait(case.sandbox.converse(code, "the_gold = 41\nassert f(1) == []", ["f"]))
    assert verdict.status == "passed", verdict


# --- many at a time, and the pool's own ends


def test_many_programs_run_at_a_time_and_are_taken_as_there_is_room() -> None:
    taken = []

    def programs() -> Iterator[tuple[str, bytes]]:
        for k in range(30):
            taken.append(k)
            yield f"print({k} ** 2)", b""

    async def all_of_them() -> dict[int, bytes]:
        found = {}
        async with Sandbox(2) as sandbox:
            async for index, run in sandbox.run_many(programs()):
                found[index] = run.stdout
                assert len(taken) - len(found) <= 4
        return found

    assert asyncio.run(all_of_them()) == {k: b"%d\n" % k**2 for k in range(30)}


def test_a_jail_that_was_killed_is_replaced_and_the_execution_repeated() -> None:
    async def kill_it() -> tuple[str, bytes, tuple[str, ...]]:
        async with Sandbox(1) as sandbox:
            task = asyncio.create_task(sandbox.run("import time; time.sleep(0.5); print(1)"))
            await asyncio.sleep(0.2)
            (jail,) = sandbox._groups["programs"]._all
            os.kill(jail.process.pid, signal.SIGKILL)
            run = await task
            return run.status, run.stdout, sandbox.respawns

    status, stdout, respawns = asyncio.run(kill_it())
    assert (status, stdout) == ("passed", b"1\n")
    assert len(respawns) == 1
    assert "the jail ended" in respawns[0]


def test_idle_jails_that_were_killed_cost_no_execution() -> None:
    async def kill_idle() -> tuple[list[str], int]:
        async with Sandbox(4) as sandbox:
            await asyncio.gather(*(sandbox.run("import time; time.sleep(0.2)") for _ in range(4)))
            jails = list(sandbox._groups["programs"]._all)
            assert len(jails) == 4
            for jail in jails:
                os.kill(jail.process.pid, signal.SIGKILL)
            await asyncio.sleep(0.1)
            runs = await asyncio.gather(*(sandbox.run("print(1)") for _ in range(4)))
            return [run.status for run in runs], len(sandbox.respawns)

    assert asyncio.run(kill_idle()) == (["passed"] * 4, 4)


def test_where_no_jail_can_be_started_an_execution_is_infra(monkeypatch: pytest.MonkeyPatch) -> None:
    async def starve() -> list[Run]:
        async with Sandbox(1) as sandbox:
            (jail,) = sandbox._groups["programs"]._all
            await jail.close()
            monkeypatch.setattr("rlvr.sandbox.jail._BOOT", "raise SystemExit('no interpreter today')")
            run = await sandbox.run("print(1)")
            return [run, *await sandbox.converse("def f(): pass", "f()", ["f"])]

    runs = asyncio.run(starve())
    assert [run.status for run in runs] == ["infra"] * 3
    assert "no interpreter today" in runs[0].reason


def test_closing_while_a_jail_starts_ends_the_start() -> None:
    async def close_early() -> tuple[str, float]:
        sandbox = await Sandbox(2).start()
        runs = [asyncio.create_task(sandbox.run("print(1)")) for _ in range(2)]
        await asyncio.sleep(0.01)  # the second jail has not said hello
        started = asyncio.get_running_loop().time()
        await sandbox.close()
        with pytest.raises(SandboxError, match="closed"):
            await runs[1]
        await asyncio.gather(*runs, return_exceptions=True)
        return "closed", asyncio.get_running_loop().time() - started

    assert asyncio.run(close_early())[1] < 5


def test_a_host_without_descriptors_gets_infra_and_loses_none() -> None:
    async def run_out() -> tuple[Run, int, int, Run]:
        async with Sandbox(1) as sandbox:
            await sandbox.run("print(1)")
            before = len(os.listdir("/proc/self/fd"))
            taken = []
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (before + 8, limits[1]))
            try:
                with contextlib.suppress(OSError):
                    while True:
                        taken.append(os.dup(0))
                run = await sandbox.call("def f(): return 1", [("call", "f", (), {})])
            finally:
                for fd in taken:
                    os.close(fd)
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            return run, before, len(os.listdir("/proc/self/fd")), await sandbox.run("print(2)")

    run, before, after, later = asyncio.run(run_out())
    assert (run.status, "Too many open files" in run.reason) == ("infra", True)
    assert before == after
    assert later.stdout == b"2\n"


def test_what_whoever_asks_raises_is_raised(case: Case) -> None:
    def on_reply(index: int, reply: Reply) -> bool:
        raise LookupError(f"{index} {reply.value}")

    with pytest.raises(LookupError, match="0 7"):
        case.wait(case.sandbox.call("def f(): return 7", [("call", "f", (), {})] * 3, on_reply=on_reply))
    assert case.run("print(1)").stdout == b"1\n"


def test_a_cancelled_execution_is_ended_and_the_sandbox_serves_on() -> None:
    async def cancel() -> tuple[bytes, int]:
        async with Sandbox(1) as sandbox:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await sandbox.run("while True: pass")
            return (await sandbox.run("print(2)")).stdout, len(sandbox.respawns)

    assert asyncio.run(cancel()) == (b"2\n", 1)


def test_a_closed_or_unstarted_sandbox_says_so() -> None:
    async def use() -> None:
        sandbox = Sandbox(1)
        with pytest.raises(SandboxError, match="was not started"):
            await sandbox.run("print(1)")
        await sandbox.start()
        await sandbox.close()
        await sandbox.close()
        with pytest.raises(SandboxError, match="is closed"):
            await sandbox.run("print(1)")

    asyncio.run(use())
    with pytest.raises(ValueError, match="num_jails must be at least 1, got 0"):
        Sandbox(0)
