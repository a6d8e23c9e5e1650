"""A verifier called directly, in a process of its own: `python -m rlvr.audit_probe`, started by audit.py.

Each mode calls it on the same inputs: once in order, in reverse order, three times in a row, from four threads, within
a running event loop. What it leaves behind in its process is told beside its verdicts.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rlvr.audit_attacks import Input
from rlvr.children import surroundings
from rlvr.rewards.bound import Bound, apply, lookup, start_up, warm_up
from rlvr.types import Task, Verdict

Mode = Literal["once", "reverse", "repeat", "threads", "asyncio"]
_REPEATS = 3
_THREADS = 4
_STARTED = "\0started\0"
_MOST_TEXT = 300


@dataclass(slots=True)
class Found:
    """What one process found out."""

    verdicts: list[list[list[Any]]] = field(default_factory=list)
    """Of each input, as often as it was judged: what same() compares."""
    returned: list[str] = field(default_factory=list)
    """Of each input: what came back where it is nothing that a verifier may return, else ""."""
    changed: list[str] = field(default_factory=list)
    """Of each input: what of the task or the options was changed, else ""."""
    left: list[str] = field(default_factory=list)
    """What is different in the process afterwards."""
    printed: str = ""
    broken: str = ""
    """Why there is nothing of all this; "" where there is."""


def same(verdict: Verdict) -> list[Any]:
    """What of a verdict has to be the same each time: all but its seconds."""
    checks = json.loads(json.dumps(_timeless(verdict.checks), default=repr))
    return [verdict.score, verdict.outcome, verdict.reason, verdict.answer, verdict.how, verdict.stage, checks]


def probe(
    verifier: str, inputs: Sequence[Input], mode: Mode, *, hash_seed: int, memory_mib: int, seconds: float
) -> Found:
    """Judge the inputs in a fresh process that is ended after so many seconds."""
    jobs = [
        {"response": i.response, "gold": i.gold, "options": dict(i.options), "prompt": i.prompt, "info": dict(i.info)}
        for i in inputs
    ]
    order = {"verifier": verifier, "mode": mode, "memory_mib": memory_mib, "path": sys.path, "jobs": jobs}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "rlvr.audit_probe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=surroundings(PYTHONHASHSEED=str(hash_seed), OMP_NUM_THREADS="1"),
            start_new_session=True,
        )
        try:
            answer, _ = process.communicate(json.dumps(order, default=str).encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            return Found(broken=f"no end after {seconds:.0f} s")
        finally:
            _kill_session(process)
        said.seek(0)
        printed = said.read(1 << 20).decode("utf-8", "replace").rpartition(_STARTED)[2]
    if not answer:
        return Found(broken=f"its process ended {_how(process.returncode)}", printed=printed)
    return Found(**json.loads(answer), printed=printed)


def _how(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """The process, and whatever the verifier started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _timeless(value: Any) -> Any:
    if isinstance(value, Mapping):
        clocks = ("seconds", "_ms", "_us")
        return {str(k): _timeless(v) for k, v in value.items() if not str(k).endswith(clocks)}
    if isinstance(value, list | tuple):
        return [_timeless(item) for item in value]
    return value


# --- the process


class _Caller:
    """Calls the verifier as a pool's worker does, and looks at what came back before it is made a verdict."""

    def __init__(self, bound: Bound, jobs: Sequence[Mapping[str, Any]]) -> None:
        self.bound, self.jobs = bound, jobs
        n = len(jobs)
        self.found = Found(verdicts=[[] for _ in range(n)], returned=[""] * n, changed=[""] * n)

    def judge(self, k: int) -> None:
        job = self.jobs[k]
        task = Task(id="audit", prompt=job["prompt"], gold=job["gold"], info=job["info"])
        before = _image(job)

        def watched(*given: Any, **named: Any) -> Any:
            result = self.bound.function(*given, **named)
            if not _may_be_returned(result):
                self.found.returned[k] = f"{type(result).__name__} {result!r}"[:_MOST_TEXT]
            return result

        verdict = apply(replace(self.bound, function=watched), job["response"], task, job["options"])
        self.found.verdicts[k].append(same(verdict))
        if (after := _image(job)) != before:
            self.found.changed[k] = f"{before[:100]} became {after[:100]}"


def _image(job: Mapping[str, Any]) -> str:
    return repr((job["gold"], job["info"], job["options"]))


def _may_be_returned(result: Any) -> bool:
    if result is None or isinstance(result, Verdict) or inspect.isawaitable(result):
        return True
    return isinstance(result, int | float) and 0 <= result <= 1


def _once(caller: _Caller) -> None:
    for k in range(len(caller.jobs)):
        caller.judge(k)


def _reverse(caller: _Caller) -> None:
    for k in reversed(range(len(caller.jobs))):
        caller.judge(k)


def _repeat(caller: _Caller) -> None:
    for k in range(len(caller.jobs)):
        for _ in range(_REPEATS):
            caller.judge(k)


def _threads(caller: _Caller) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(caller.judge, range(len(caller.jobs))))


def _asyncio(caller: _Caller) -> None:
    async def judge_all() -> None:
        for k in range(len(caller.jobs)):
            caller.judge(k)

    asyncio.run(judge_all())


_MODES: dict[str, Callable[[_Caller], None]] = {
    "once": _once,
    "reverse": _reverse,
    "repeat": _repeat,
    "threads": _threads,
    "asyncio": _asyncio,
}


def _surroundings() -> dict[str, Any]:
    """What a verifier may not change for those that come after it."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    timers = [signal.getitimer(which)[0] > 0 for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL)]
    return {
        "signal handlers": handlers,
        "timers": timers,
        "the current directory": os.getcwd(),
        "environment variables": dict(os.environ),
        "sys.path": list(sys.path),
        "the recursion limit": sys.getrecursionlimit(),
        "the state of `random`": random.getstate(),
        "threads": {thread.name for thread in threading.enumerate() if not thread.daemon},
    }


def main() -> None:
    """The order comes on stdin as JSON, what was found goes to stdout as JSON."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what the verifier prints is heard, and not taken for the answer
    order = json.loads(sys.stdin.buffer.read())
    sys.path[:] = order["path"]
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (order["memory_mib"] << 20, most))
    bound = lookup(order["verifier"])
    warm_up(bound)
    start_up(bound)
    caller = _Caller(bound, order["jobs"])
    before = _surroundings()
    os.write(2, _STARTED.encode())
    _MODES[order["mode"]](caller)
    sys.stdout.flush()
    sys.stderr.flush()
    after = _surroundings()
    found = caller.found
    found.left = [name for name, value in before.items() if after[name] != value]
    body = {name: getattr(found, name) for name in ("verdicts", "returned", "changed", "left")}
    with os.fdopen(answers, "wb") as sink:
        sink.write(json.dumps(body).encode())
    os._exit(0)  # whatever threads it has left


if __name__ == "__main__":
    main()
