"""The processes that run verifiers: `python -m rlvr.rewards.supervisor`, started by VerifierPool.

A supervisor of one thread imports the verifiers once and forks workers (worker.py) from itself, so that one that was
killed is replaced in milliseconds. It gives a worker cheap jobs ahead of time, so that the worker need not wait between
two of them; where it dies, those that it had not begun are given to another.

Nothing here imports torch, transformers or vllm.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import resource
import select
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlvr.rewards.bound import Bound, cannot_be_loaded, try_lookup, warm_up
from rlvr.rewards.frames import HEADER, frame, read_available, take_frames, verdict_body, widen
from rlvr.rewards.printed import Printed
from rlvr.rewards.worker import become_worker, broken, die_with_parent, write_all
from rlvr.types import Verdict

_LEAST_ROOM = 128 << 20
"""Bytes that a worker may use beyond what it starts with, at least."""
_AHEAD_SECONDS = 0.02
"""Of work that a worker is given ahead of time, by how long its verifiers took of late."""
_AHEAD_SHARE = 0.5
"""Of what a pipe holds, that jobs given to a worker may fill: writing them to it never blocks."""
_STUCK_SECONDS = 0.05
_NAP_SECONDS = 0.004
"""While each worker has at least twice as much to do."""
_PIPE_BYTES = 1 << 18
"""Of jobs to a worker."""
"""So long at one job, and what the worker was given ahead of time is given to others too."""


@dataclass(slots=True, eq=False)
class _Worker:
    pid: int
    jobs: int
    """Where its jobs are written."""
    results: int
    """Where its verdicts are read; does not block."""
    printed: Printed
    generation: int
    ahead_bytes: int
    given: deque[_Job] = field(default_factory=deque)
    """What it judges now, and what it has been given ahead of time."""
    given_bytes: int = 0
    given_seconds: float = 0.0
    """That this is likely to take."""
    received: bytearray = field(default_factory=bytearray)
    since: float = 0.0
    """It has been judging the first of those given, by time.monotonic()."""
    moved: set[int] = field(default_factory=set)
    """Of those given, by number: they were queued once more. The first verdict on such a job counts."""
    overdue: int = 0
    """The job that it was killed for; 0: none."""
    is_retired: bool = False
    """Killed for no fault of what it judges."""


@dataclass(slots=True, eq=False)
class _Job:
    number: int
    index: int
    """Of its verifier."""
    framed: bytes
    seconds: float = 0.0
    """That it was thought to take when it was given to a worker."""
    is_judged: bool = False
    num_places: int = 1
    """Where it is: the queue, workers. Where that comes to none before it is judged, it is queued again."""


class _Supervisor:
    """Keeps `size` workers busy.

    consumes:     frames of the parent (always, so that it never blocks) and of the workers
    produces:     frames to the parent (buffered here while the parent does not read)
    waits for:    any of them, a worker's end, the next wall limit
    ends when:    the parent closes its end or is gone; the workers end with it
    """

    def __init__(self, source: int, sink: int, size: int, memory_bytes: int, seed: int) -> None:
        self.source, self.sink, self.size, self.memory_bytes, self.seed = source, sink, size, memory_bytes, seed
        self.verifiers: list[Bound | None] = []
        self.problems: list[str] = []
        self.usual_seconds: list[float] = []
        """Of each verifier, of late; 1 before its first verdict."""
        self.queue: deque[_Job] = deque()
        self.workers: dict[int, _Worker] = {}
        self.generation = 0
        self.received = bytearray()
        self.outgoing = bytearray()
        self.is_sink_full = False
        self.done = False
        self.pid = os.getpid()
        self.selector = selectors.DefaultSelector()
        for fd in (source, sink):
            os.set_blocking(fd, False)
        self.wakeup, wake = os.pipe()
        for fd in (self.wakeup, wake):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake)
        self.wake = wake
        self.selector.register(source, selectors.EVENT_READ, self._on_parent)
        self.selector.register(self.wakeup, selectors.EVENT_READ, self._on_wakeup)

    def run(self) -> None:
        try:
            while not self.done:
                self._dispatch()
                self._flush()
                self._nap()
                for key, _ in self.selector.select(self._timeout()):
                    key.data()
                self._look_at_clock()
        finally:
            for worker in self.workers.values():
                _kill_group(worker.pid)

    def _nap(self) -> None:
        """To take several verdicts at once costs less than each by itself. The end of a worker ends it."""
        least = min((worker.given_seconds for worker in self.workers.values()), default=0.0)
        if len(self.workers) == self.size and least > 2 * _NAP_SECONDS:
            select.select([self.wakeup], [], [], _NAP_SECONDS)

    # what can happen

    def _on_parent(self) -> None:
        data = read_available(self.source)
        if data is None:
            return
        if not data:
            self.done = True
            return
        self.received += data
        for job, index, whole in take_frames(self.received):
            if job:
                self.queue.append(_Job(job, index, whole))
            elif "close" in (order := json.loads(whole[HEADER.size :])):
                self.done = True
            elif "busy" in order:
                num_busy = sum(1 for worker in self.workers.values() if worker.given and not worker.overdue)
                self.outgoing += frame({"busy": num_busy >= self.size})
            else:
                self._load(order["name"])

    def _on_wakeup(self) -> None:
        read_available(self.wakeup)
        for worker in list(self.workers.values()):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._bury(worker, status)

    def _on_worker(self, worker: _Worker) -> None:
        if worker.pid not in self.workers:  # buried by an earlier event of the same round
            return
        data = read_available(worker.results)
        if data is None:
            return
        if not data:  # its end follows by SIGCHLD; make sure of it
            self.selector.unregister(worker.results)
            _kill_group(worker.pid)
            return
        self._take(worker, data)
        if worker.generation != self.generation:
            self._retire(worker)  # it was forked before the newest verifier was loaded

    def _take(self, worker: _Worker, data: bytes) -> None:
        """Verdicts of a worker on the first of those that it was given, in their order."""
        worker.received += data
        frames = take_frames(worker.received)
        if not frames:
            return
        now = time.monotonic()
        each = (now - worker.since) / len(frames)
        for number, _, whole in frames:
            if not worker.given or worker.given[0].number != number:
                _kill_group(worker.pid)  # a process that a verifier forked has spoken in its place
                return
            job = worker.given.popleft()
            worker.given_bytes -= len(job.framed)
            worker.given_seconds = worker.given_seconds - job.seconds if worker.given else 0.0
            worker.moved.discard(number)
            job.num_places -= 1
            usual = self.usual_seconds[job.index]
            self.usual_seconds[job.index] = 0.9 * usual + 0.1 * each if usual < 1 else each
            if not job.is_judged:
                job.is_judged = True
                self.outgoing += whole
        worker.since = now

    def _on_writable(self) -> None:
        self.is_sink_full = False
        self.selector.unregister(self.sink)

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        for worker in self.workers.values():
            if not worker.given or worker.overdue:
                continue
            if now - worker.since > self._wall_limit(worker):
                worker.overdue = worker.given[0].number
                _kill_group(worker.pid)
            elif self._is_blocking(worker) and now - worker.since > _STUCK_SECONDS:
                behind = [job for job in list(worker.given)[1:] if job.number not in worker.moved]
                worker.moved |= {job.number for job in behind}
                self._queue_again(behind)

    def _is_blocking(self, worker: _Worker) -> bool:
        """Whether others could judge what it was given ahead of time."""
        num_unmoved = len(worker.given) - len(worker.moved)
        return self.size > 1 and num_unmoved > (worker.given[0].number not in worker.moved)

    def _queue_again(self, jobs: Sequence[_Job]) -> None:
        """Before all others, in this order."""
        for job in reversed(jobs):
            job.num_places += 1
            self.queue.appendleft(job)

    # what is done about it

    def _load(self, name: str) -> None:
        """Import a verifier into this process; workers that were forked before are replaced."""
        bound, problem = try_lookup(name)
        try:
            if bound is not None:
                warm_up(bound)
        except Exception as error:  # whatever stands in somebody else's module
            problem = cannot_be_loaded(name, error)
        # a worker that starts without room would call every response too complex: our failure, the model's zero
        needed = _address_space() + _LEAST_ROOM
        if self.memory_bytes < needed:
            problem = problem or f"verifier {name!r} needs scoring.memory_mib of at least {(needed >> 20) + 1}"
        self.verifiers.append(bound if not problem else None)
        self.problems.append(problem)
        self.usual_seconds.append(1.0)
        self.generation += 1
        gc.collect()
        gc.freeze()  # the collector would otherwise write to, and so copy, every page that is shared with workers
        for worker in self.workers.values():
            if not worker.given:
                self._retire(worker)
        self.outgoing += frame({"problem": problem, "version": bound.version if bound else ""})

    def _dispatch(self) -> None:
        """Give what is queued to idle workers, to new ones, and then ahead of time to those that are at work."""
        if not self.queue:
            return
        ready = [
            worker
            for worker in self.workers.values()
            if worker.generation == self.generation and not (worker.is_retired or worker.overdue)
        ]
        idle = [worker for worker in ready if not worker.given]
        parcels: dict[int, tuple[_Worker, list[bytes]]] = {}
        while self.queue:
            job = self.queue[0]
            if job.is_judged:
                self.queue.popleft()
                continue
            if self.verifiers[job.index] is None:
                verdict = Verdict(score=None, outcome="error", reason=self.problems[job.index])
                self.outgoing += frame(verdict_body(verdict, 0.0), job.number, job.index)
                self.queue.popleft()
                continue
            job.seconds = self.usual_seconds[job.index]
            if not idle and len(self.workers) < self.size:
                idle.append(self._fork())
                ready.append(idle[-1])
            worker = idle.pop() if idle else _with_room(ready, job)
            if worker is None:
                break
            self.queue.popleft()
            if not worker.given:
                worker.since = time.monotonic()
            worker.given.append(job)
            worker.given_bytes += len(job.framed)
            worker.given_seconds += job.seconds
            parcels.setdefault(worker.pid, (worker, []))[1].append(job.framed)
        for worker, framed_jobs in parcels.values():
            # blocks for no longer than an idle worker takes to read; one that died is buried
            with contextlib.suppress(BrokenPipeError):
                write_all(worker.jobs, b"".join(framed_jobs))

    def _fork(self) -> _Worker:
        jobs_in, jobs = os.pipe()
        widen(jobs, _PIPE_BYTES)
        results, results_in = os.pipe()
        printed = Printed()
        pid = os.fork()
        if pid == 0:
            try:
                become_worker(
                    jobs_in,
                    results_in,
                    self.verifiers,
                    self.seed,
                    printed,
                    parent=self.pid,
                    memory_bytes=self.memory_bytes,
                )
            finally:
                os._exit(70)  # never back into the supervisor's loop
        os.close(jobs_in)
        os.close(results_in)
        os.set_blocking(results, False)
        ahead_bytes = int(_AHEAD_SHARE * fcntl.fcntl(jobs, fcntl.F_GETPIPE_SZ))
        worker = _Worker(pid, jobs, results, printed, self.generation, ahead_bytes)
        self.workers[pid] = worker
        self.selector.register(results, selectors.EVENT_READ, lambda: self._on_worker(worker))
        return worker

    def _bury(self, worker: _Worker, status: int) -> None:
        """A worker has ended: read what it left, judge the job that it died of, queue again what it had not begun."""
        while data := read_available(worker.results):
            self._take(worker, data)
        with contextlib.suppress(KeyError):
            self.selector.unregister(worker.results)
        said = worker.printed.take()
        os.close(worker.results)
        os.close(worker.jobs)
        worker.printed.close()
        del self.workers[worker.pid]
        _kill_group(worker.pid)  # processes that the verifier started
        charged = worker.given[0] if worker.given and not worker.is_retired else None
        if charged and worker.overdue not in (0, charged.number):
            charged = None  # it came to a verdict after all, just before it was killed
        if charged and not charged.is_judged:
            bound = self.verifiers[charged.index]
            assert bound is not None
            charged.is_judged = True
            self.outgoing += frame(_cause_of_death(worker, bound, status, said), charged.number, charged.index)
        for job in worker.given:
            job.num_places -= 1
        self._queue_again([job for job in worker.given if not (job.is_judged or job.num_places)])

    def _retire(self, worker: _Worker) -> None:
        worker.is_retired = True
        _kill_group(worker.pid)

    def _flush(self) -> None:
        """Write as much as the parent's end takes; the rest when it takes more."""
        if not self.outgoing or self.is_sink_full:
            return
        with contextlib.suppress(BlockingIOError):
            del self.outgoing[: os.write(self.sink, self.outgoing)]
        if self.outgoing:
            self.is_sink_full = True
            self.selector.register(self.sink, selectors.EVENT_WRITE, self._on_writable)

    def _timeout(self) -> float | None:
        """Until the next look at the clock is due."""
        limits = [
            w.since + (_STUCK_SECONDS if self._is_blocking(w) else self._wall_limit(w))
            for w in self.workers.values()
            if w.given and not w.overdue
        ]
        return max(0.0, min(limits) - time.monotonic()) + 0.001 if limits else None

    def _wall_limit(self, worker: _Worker) -> float:
        bound = self.verifiers[worker.given[0].index]
        assert bound is not None
        return bound.wall_limit


def _with_room(workers: Sequence[_Worker], job: _Job) -> _Worker | None:
    """Of those at work, the one that is likely to be free first; None where none may be given another."""
    stuck, size = time.monotonic() - _STUCK_SECONDS, len(job.framed)
    able = [
        w
        for w in workers
        if w.since > stuck and w.given_seconds + job.seconds <= _AHEAD_SECONDS and w.given_bytes + size <= w.ahead_bytes
    ]
    return min(able, key=lambda worker: worker.given_seconds, default=None)


def _address_space() -> int:
    """Bytes of this process's, from which every worker starts."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _cause_of_death(worker: _Worker, bound: Bound, status: int, said: str) -> list[Any]:
    seconds = time.monotonic() - worker.since
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if worker.overdue:  # a machine that stood still, or a verifier that waits for something: not the response's doing
        told = f"no verdict after {bound.wall_limit:g} s, in which it computed for less"
        return broken(bound, told, seconds, said)
    if number == signal.SIGPROF:
        reason = f"checking it takes more than {bound.timeout:g} s of CPU"
        return verdict_body(Verdict(score=0.0, outcome="timeout", reason=reason), seconds, said)
    name = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
    how = f"by {name}" if number else f"with exit code {os.waitstatus_to_exitcode(status)}"
    return broken(bound, f"its process ended {how}", seconds, said)


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # the group does not exist until the worker has made it
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def main() -> None:
    """Arguments: parent's pid, number of workers, memory of each in MiB, the pool's seed, the parent's sys.path."""
    parent, size, memory_mib, seed = (int(value) for value in sys.argv[1:5])
    die_with_parent(parent)
    sys.path[:] = json.loads(sys.argv[5])
    importlib.invalidate_caches()
    # what a verifier's module prints must not end up between the frames
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it closes the pipe
    _Supervisor(source, sink, size, memory_mib << 20, seed).run()


if __name__ == "__main__":
    main()
