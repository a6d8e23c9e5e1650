"""The process that judges: one response at a time, until the pipe of its jobs is closed.

The kernel ends it (SIGPROF) when a response has used up its verifier's CPU seconds, also inside one long C call, and
however busy the machine is.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import time
from typing import Any, NoReturn

from rlvr.rewards.bound import STDERR_CHARACTERS, Bound, run, start_up
from rlvr.rewards.frames import HEADER, frame, job_from, verdict_body
from rlvr.rewards.printed import Printed
from rlvr.types import Task, Verdict

_PR_SET_PDEATHSIG = 1


def become_worker(
    jobs: int,
    results: int,
    verifiers: list[Bound | None],
    seed: int,
    printed: Printed,
    *,
    parent: int,
    memory_bytes: int,
) -> NoReturn:
    """What a process that the supervisor (of pid `parent`) has forked does from then on.

    It reads jobs of one pipe and writes verdicts to the other; all else that was open it closes.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGPROF, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    die_with_parent(parent)
    os.setpgid(0, 0)
    printed.install()  # 0 is the supervisor's /dev/null
    keep = sorted((0, 1, 2, jobs, results, printed.fd))
    for low, high in zip(keep, [*keep[1:], 65536], strict=True):
        os.closerange(low + 1, high)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_AS)  # stays, for a sandbox whose programs have limits of their own
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, most))
    faulthandler.enable(2)
    _work(jobs, results, verifiers, seed, printed)


def _work(jobs: int, results: int, verifiers: list[Bound | None], seed: int, printed: Printed) -> NoReturn:
    """Judge what comes down the pipe, one by one.

    consumes:     jobs
    produces:     a verdict on each, in their order
    waits for:    the next job; the supervisor to read
    ends when:    the pipe is closed, the process is killed, or a verifier has forked it
    """
    source = os.fdopen(jobs, "rb", 1 << 16)
    started: set[int] = set()
    pid = os.getpid()
    while True:
        header = source.read(HEADER.size)
        if len(header) < HEADER.size:
            os._exit(0)
        size, job, index = HEADER.unpack(header)
        response, (gold, prompt, info), (name, verifier, place), options = job_from(source.read(size))
        bound = verifiers[index]
        assert bound is not None, "the supervisor answers for verifiers that it could not load"
        prompt = prompt if isinstance(prompt, str) else tuple(prompt)
        task = Task(id=name, prompt=prompt, gold=gold, verifier=verifier, source=place, info=info)
        if index not in started:
            started.add(index)
            start_up(bound)
            printed.take()
        signal.setitimer(signal.ITIMER_PROF, bound.timeout)
        start = time.perf_counter()
        verdict = run(bound, response, task, options, seed)
        seconds = time.perf_counter() - start
        signal.setitimer(signal.ITIMER_PROF, 0)
        if os.getpid() != pid:
            os._exit(70)  # forked by the verifier; it has no business here
        said = (printed.take() + verdict.stderr)[-STDERR_CHARACTERS:]
        try:
            answer = frame(verdict_body(verdict, seconds, said), job, index)
        except (TypeError, ValueError, RecursionError) as error:
            answer = frame(broken(bound, f"its verdict is not plain data: {error}", seconds, said), job, index)
        write_all(results, answer)


def broken(bound: Bound, why: str, seconds: float, said: str) -> list[Any]:
    """The body of a verdict without a score."""
    verdict = Verdict(score=None, outcome="error", reason=f"verifier {bound.name!r}: {why}")
    return verdict_body(verdict, seconds, said)


def write_all(fd: int, data: bytes) -> None:
    """Blocks until all of it is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when the one that started it is gone, however that ended."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # gone before we asked
        os._exit(1)
