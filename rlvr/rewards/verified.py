"""Verifiers as a reward: the pool of processes that run them, and the source that asks it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, TypeVar

from rlvr.children import surroundings
from rlvr.errors import PluginError, RlvrError, one_line
from rlvr.reward_settings import Scoring
from rlvr.rewards.bound import Bound, Job, apply, input_hash, raised, texts, try_lookup
from rlvr.rewards.frames import HEADER, frame, framed, job_body, to_json, verdict_from, widen
from rlvr.rewards.waiting import WaitingRoom
from rlvr.types import Group, Task, Verdict

_MOST_DEATHS = 5
"""Of the supervisor, one after the other without a verdict between."""
_LOAD_SECONDS = 300.0
_CLOSE_SECONDS = 10.0
_PIPE_BYTES = 1 << 20
"""Of jobs to the supervisor."""
MEMORY_MIB = Scoring().memory_mib
"""Address space of each process, where nobody says otherwise."""
_Result = TypeVar("_Result")


@dataclass(slots=True, eq=False)
class _Sent:
    """A job of the processes."""

    verifier: str
    bound: Bound
    body: bytes = b""
    input_hash: str = ""
    future: Future[Verdict] = field(default_factory=Future)


class VerifierPool:
    """Judges responses in processes that can be killed. Safe from any thread; uses no signals in this process.

    Each verdict comes within its verifier's deadline (CPU seconds), whatever the response does; what goes wrong on
    our side is a verdict of score None. `with VerifierPool(["math"], workers=2, memory_mib=2048) as pool: ...`
    """

    def __init__(self, verifiers: Sequence[str], workers: int, memory_mib: int, seed: int = 0) -> None:
        """Waits until the verifiers are loaded. PluginError where one cannot be. `seed` is the run's."""
        self._workers, self._memory_mib, self._seed = workers, memory_mib, seed
        self._bounds: dict[str, tuple[Bound | None, str]] = {name: try_lookup(name) for name in verifiers}
        self._names = [name for name, (bound, _) in self._bounds.items() if bound is not None and _in_worker(bound)]
        """Of those that processes run, by index."""
        self._lock = threading.Lock()
        self._supervisor: _Supervisor | None = None
        self._waiting = WaitingRoom()
        self._closed = False
        self._deaths = 0
        problems = [problem for _, problem in self._bounds.values() if problem]
        if self._names and not problems:
            try:
                with self._lock:
                    supervisor = self._alive()
                problems = supervisor.wait_loaded(len(self._names))
            except BaseException:
                self.close()
                raise
        if problems:
            self.close()
            raise PluginError("\n".join(problems))

    def submit(
        self, verifier: str, response: str, task: Task, options: Mapping[str, Any] | None = None
    ) -> Future[Verdict]:
        """The verdict to come; the future never raises. RlvrError where the pool is closed or keeps dying.

        `options` are the verifier's own, as bound.option_problems() checks them.
        """
        return self.submit_all([(verifier, response, task, options or {})])[0]

    def submit_all(self, jobs: Sequence[Job]) -> list[Future[Verdict]]:
        """submit() for each, at less cost."""
        futures: list[Future[Verdict]] = []
        sent: list[_Sent] = []
        for verifier, response, task, options in jobs:
            bound, problem = self._bounds.get(verifier) or self._bounds.setdefault(verifier, try_lookup(verifier))
            if bound is None:
                futures.append(_done(Verdict(score=None, outcome="error", reason=problem, verifier=verifier)))
            elif bound.compose is not None:
                futures.append(self._composed(bound, response, task, options))
            elif bound.isolation == "thread":
                futures.append(self._in_thread(bound, response, task, options))
            else:
                item = self._sent(verifier, bound, response, task, options)
                sent += [item] if item.body else []
                futures.append(item.future)
        if sent:
            with self._lock:
                supervisor = self._alive()
            supervisor.submit(sent)
        return futures

    def judge(
        self, jobs: Sequence[tuple[str, str, Task]], options: Mapping[str, Mapping[str, Any]] | None = None
    ) -> list[Verdict]:
        """Verdicts of (verifier, response, task), in their order. `options` by the name of the verifier."""
        options = options or {}
        return wait_for(self.submit_all([(*job, options.get(job[0], {})) for job in jobs]))

    def _sent(self, verifier: str, bound: Bound, response: str, task: Task, options: Mapping[str, Any]) -> _Sent:
        """What goes to the processes; without a body, and with a verdict, where it cannot be sent."""
        item = _Sent(verifier, bound)
        try:
            written, asked, chosen = texts(response, task, options)
            named = to_json([task.id, task.verifier, task.source])
        except (TypeError, ValueError, RecursionError) as error:
            reason = f"task {task.id!r} cannot be sent to a verifier: {error}"
            item.future.set_result(_error(reason, bound))
        else:
            item.input_hash = input_hash(bound, written, asked, chosen, task.id, self._seed)
            item.body = job_body(written, asked, named, chosen)
        return item

    def _in_thread(self, bound: Bound, response: str, task: Task, options: Mapping[str, Any]) -> Future[Verdict]:
        def call() -> Verdict:
            return apply(bound, response, task, options, self._seed)

        def failed(why: str) -> Verdict:
            return _error(f"verifier {bound.name!r}: {why}", bound)

        return self._waiting.submit(call, failed, bound.wall_limit)

    def _composed(self, bound: Bound, response: str, task: Task, options: Mapping[str, Any]) -> Future[Verdict]:
        """The verdict that follows from those of its parts, each of which is a job of its own."""
        assert bound.compose is not None
        try:
            jobs, combine = bound.compose(response, task, options)
            hashed = input_hash(bound, *texts(response, task, options), task.id, self._seed)
        except Exception as error:  # options that nobody checked, or a task that cannot be written as JSON
            return _done(replace(raised(bound, error), verifier=bound.name, version=bound.version))
        sent = iter(self.submit_all([job for job in jobs if not isinstance(job, Verdict)]))
        parts = [_done(job) if isinstance(job, Verdict) else next(sent) for job in jobs]
        whole: Future[Verdict] = Future()
        whole.set_running_or_notify_cancel()
        answered = itertools.count(1)

        def all_are_there() -> None:
            try:
                verdict = combine([part.result() for part in parts])
            except Exception as error:  # the future must have a result, whatever stands in a plugin
                verdict = raised(bound, error)
            whole.set_result(replace(verdict, verifier=bound.name, version=bound.version, input_hash=hashed))

        def part_is_there(_: Future[Verdict]) -> None:
            if next(answered) == len(parts):
                all_are_there()

        for part in parts:
            part.add_done_callback(part_is_there)
        if not parts:
            all_are_there()
        return whole

    def num_late_threads(self) -> int:
        """How many checks in threads were given up and have not come back."""
        return self._waiting.num_late

    def is_busy(self) -> Future[bool]:
        """Whether each process that judges is at work, and within its verifier's time; the future never raises."""
        with self._lock:
            supervisor = self._supervisor
        return _done(False) if supervisor is None else supervisor.is_busy()

    def close(self) -> None:
        """End all processes; verdicts still to come become errors. May be called again."""
        with self._lock:
            self._closed = True
            supervisor = self._supervisor
        if supervisor is not None:
            supervisor.close()
        self._waiting.close()

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _alive(self) -> _Supervisor:
        """The supervisor, a new one where the last has ended. Called with the lock held."""
        if self._closed:
            raise RlvrError("the verifier pool is closed")
        if self._supervisor is None or self._supervisor.ended:
            if self._supervisor is not None:
                self._deaths = 1 if self._supervisor.num_verdicts else self._deaths + 1
            if self._deaths >= _MOST_DEATHS:
                raise RlvrError(
                    f"the verifiers' supervisor ended {self._deaths} times in a row ({self._supervisor_end()}); "
                    "its stderr may say why (out of memory?)"
                )
            self._supervisor = _Supervisor(self._names, self._workers, self._memory_mib, self._seed)
        return self._supervisor

    def _supervisor_end(self) -> str:
        return self._supervisor.how_it_ended if self._supervisor else "never started"


class _Supervisor:
    """One life of the supervisor's process, with the thread that started it.

    The thread starts the process, because the kernel takes the end of that thread for the end of the parent
    (PR_SET_PDEATHSIG).
    """

    def __init__(self, names: list[str], workers: int, memory_mib: int, seed: int) -> None:
        self.ended = False
        self.how_it_ended = ""
        self.num_verdicts = 0
        self._names = names
        """Verifiers by index; shared with the pool, so that the next life warms what this one met."""
        self._loaded: list[tuple[str, str]] = []
        """(problem, version) of each that has been loaded, by index."""
        self._pending: dict[int, _Sent] = {}
        self._asked: deque[Future[bool]] = deque()
        """is_busy(), in the order in which the answers come."""
        self._next = 1
        self._closing = False
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [sys.executable, "-m", "rlvr.rewards.supervisor"]
        self._command += [str(os.getpid()), str(workers), str(memory_mib), str(seed)]
        self._command += [json.dumps(sys.path)]
        self._thread = threading.Thread(target=self._read, name="rlvr-verifiers", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._process is not None or self.ended)
        self._write(b"".join(frame({"name": name}) for name in names))

    def submit(self, items: Sequence[_Sent]) -> None:
        """Their futures get their results, and never raise."""
        for item in items:
            item.future.set_running_or_notify_cancel()  # from here on nobody can cancel it
        with self._writing:
            frames: list[bytes] = []
            with self._changed:
                lost = items if self.ended else ()
                for item in () if lost else items:
                    if item.verifier not in self._names:
                        self._names.append(item.verifier)
                        frames.append(frame({"name": item.verifier}))
                    self._pending[self._next] = item
                    frames.append(framed(item.body, self._next, self._names.index(item.verifier)))
                    self._next += 1
            self._send(b"".join(frames))
        for item in lost:
            item.future.set_result(self._lost(item))

    def is_busy(self) -> Future[bool]:
        answer: Future[bool] = Future()
        answer.set_running_or_notify_cancel()
        with self._changed:
            if self.ended:
                return _done(False)
            self._asked.append(answer)
        self._write(frame({"busy": True}))
        return answer

    def wait_loaded(self, count: int) -> list[str]:
        """Problems of the first `count` verifiers, once all are loaded."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._loaded) >= count or self.ended, _LOAD_SECONDS):
                raise RlvrError(f"loading the verifiers {self._names} takes more than {_LOAD_SECONDS:g} s")
            if len(self._loaded) < count:
                raise RlvrError(f"{self.how_it_ended} while loading the verifiers {self._names}")
            return [problem for problem, _ in self._loaded[:count] if problem]

    def close(self) -> None:
        with self._changed:
            self._closing = True
        process = self._process
        if process is not None:
            with self._writing:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    if not process.stdin.closed:
                        # the end of the pipe alone is not enough: a process forked from this one may hold it open
                        process.stdin.write(frame({"close": True}))
                    process.stdin.close()
            try:
                process.wait(_CLOSE_SECONDS)  # it kills its workers; they also end by themselves when it is gone
            except subprocess.TimeoutExpired:
                process.kill()
        if self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_SECONDS)

    def _write(self, data: bytes) -> None:
        with self._writing:
            self._send(data)

    def _send(self, data: bytes) -> None:
        """Blocks only until the supervisor has read, which it always does. Where it is gone, _read() says so.

        Called with the lock of writing held.
        """
        process = self._process
        if process is None or process.stdin is None or process.stdin.closed:
            return
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(data)
            process.stdin.flush()

    def _read(self) -> None:
        """Start the process and hand out its verdicts.

        consumes:     the supervisor's frames
        produces:     results of the pending futures (their callbacks run here, and must not submit)
        waits for:    the supervisor
        ends when:    the supervisor's end of the pipe is closed; what is pending then becomes an error verdict
        """
        try:
            process = self._start()
            with self._changed:
                self._process = process
                self._changed.notify_all()
            assert process.stdout is not None
            while len(header := process.stdout.read(HEADER.size)) == HEADER.size:
                size, job, verifier = HEADER.unpack(header)
                body = process.stdout.read(size)
                if len(body) < size:  # it was killed in the midst of it
                    break
                self._take(job, verifier, json.loads(body))
            process.stdout.close()
            code = process.wait()
            self.how_it_ended = f"the verifiers' supervisor ended ({f'signal {-code}' if code < 0 else f'code {code}'})"
        except Exception as error:  # no process, or a torn frame: told by every verdict, see _lost()
            self.how_it_ended = f"the verifiers' supervisor cannot be used: {one_line(error)}"
        with self._changed:
            self.ended = True
            pending, self._pending = self._pending, {}
            asked, self._asked = self._asked, deque()
            self._changed.notify_all()
        for answer in asked:
            answer.set_result(False)
        for item in pending.values():
            item.future.set_result(self._lost(item))

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=1 << 16,
            env=surroundings(),
            start_new_session=True,
        )
        assert process.stdin is not None
        widen(process.stdin.fileno(), _PIPE_BYTES)
        return process

    def _take(self, job: int, verifier: int, body: Any) -> None:
        if not job and "busy" in body:
            self._asked.popleft().set_result(body["busy"])
            return
        if not job:
            with self._changed:
                self._loaded.append((body["problem"], body["version"]))
                self._changed.notify_all()
            return
        with self._changed:
            item = self._pending.pop(job)
            self.num_verdicts += 1
        item.future.set_result(verdict_from(body, item.bound.name, self._loaded[verifier][1], item.input_hash))

    def _lost(self, item: _Sent) -> Verdict:
        why = "the verifier pool was closed" if self._closing else self.how_it_ended
        return _error(why, item.bound, item.input_hash)


class VerifiedReward:
    """A reward source: the verdict of one verifier, with these options, or of each task's own."""

    def __init__(
        self, pool: VerifierPool, verifier: str | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        self.pool, self.verifier, self.options = pool, verifier, options

    def score(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        """Verdicts [group][rollout]."""
        jobs = [(rollout.completion.text, group.task) for group in groups for rollout in group.rollouts]
        named = [self.verifier or task.verifier for _, task in jobs]
        asked = [
            (name, response, task, self.options or {})
            for name, (response, task) in zip(named, jobs, strict=True)
            if name is not None
        ]
        judged = iter(wait_for(self.pool.submit_all(asked)))
        verdicts = iter(
            [_nameless(task) if name is None else next(judged) for name, (_, task) in zip(named, jobs, strict=True)]
        )
        return [[next(verdicts) for _ in group.rollouts] for group in groups]


def wait_for(futures: Sequence[Future[Verdict]]) -> list[Verdict]:
    """Their verdicts, in their order."""
    for future in reversed(futures):  # by the time that the last has come most others have: one wait, not one for each
        future.result()
    return [future.result() for future in futures]


def _nameless(task: Task) -> Verdict:
    reason = f"task {task.id!r} names no verifier, and neither does the reward"
    return Verdict(score=None, outcome="error", reason=reason)


def _error(why: str, bound: Bound, input_hash: str = "") -> Verdict:
    return Verdict(
        score=None,
        outcome="error",
        reason=why,
        verifier=bound.name,
        version=bound.version,
        input_hash=input_hash,
    )


def _in_worker(bound: Bound) -> bool:
    return bound.compose is None and bound.isolation == "worker"


def _done(result: _Result) -> Future[_Result]:
    future: Future[_Result] = Future()
    future.set_result(result)
    return future
