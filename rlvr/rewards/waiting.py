"""Threads for verifiers that only wait, such as for an HTTP endpoint: many at once, none of them waited for in vain."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from rlvr.types import Verdict

_MOST_AT_ONCE = 32
_MOST_LATE = 256
"""Threads that do not come back. With so many, what they wait for is taken to be gone."""


@dataclass(slots=True, eq=False)
class _Check:
    call: Callable[[], Verdict]
    """Never raises."""
    failed: Callable[[str], Verdict]
    limit: float
    until: float = math.inf
    """By time.monotonic(), once it has begun."""
    future: Future[Verdict] = field(default_factory=Future)


class WaitingRoom:
    """Runs checks in threads of this process, each with a limit on wall-clock time. Safe from any thread.

    A thread cannot be killed: one that is late is left to itself, its check is told as failed, and another takes its
    place. Threads are daemons, so that none keeps the process from ending.
    """

    def __init__(self) -> None:
        self.num_late = 0
        """Threads that were given up and have not come back."""
        self._waiting: deque[_Check] = deque()
        self._running: set[_Check] = set()
        self._num_threads = 0
        """Without those that are late."""
        self._num_idle = 0
        self._closed = False
        self._watcher: threading.Thread | None = None
        self._changed = threading.Condition()

    def submit(self, call: Callable[[], Verdict], failed: Callable[[str], Verdict], limit: float) -> Future[Verdict]:
        """What call() returns, or failed(why) where that takes more than `limit` seconds; the future never raises."""
        check = _Check(call, failed, limit)
        check.future.set_running_or_notify_cancel()  # from here on nobody can cancel it
        with self._changed:
            why = "the verifier pool was closed" if self._closed else ""
            if self.num_late >= _MOST_LATE:
                why = why or f"{self.num_late} checks in threads have not come back"
            if not why:
                self._waiting.append(check)
                self._start_threads()
                self._changed.notify_all()
        if why:
            check.future.set_result(failed(why))
        return check.future

    def close(self) -> None:
        """Checks still to come are told as failed, and no thread is waited for. May be called again."""
        with self._changed:
            self._closed = True
            left = [*self._waiting, *self._running]
            self.num_late += len(self._running)
            self._waiting.clear()
            self._running.clear()
            self._changed.notify_all()
        for check in left:
            check.future.set_result(check.failed("the verifier pool was closed"))

    def _start_threads(self) -> None:
        """For what waits. Called with the lock held."""
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="rlvr-waiting-limits", daemon=True)
            self._watcher.start()
        while self._num_idle < len(self._waiting) and self._num_threads < _MOST_AT_ONCE:
            self._num_threads += 1
            self._num_idle += 1
            threading.Thread(target=self._work, name="rlvr-waiting", daemon=True).start()

    def _work(self) -> None:
        """Run checks one by one.

        consumes:     what waits
        produces:     results of those that are on time
        waits for:    a check to run; the check itself
        ends when:    close() is called, or its check was late
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                check = self._waiting.popleft()
                check.until = time.monotonic() + check.limit
                self._num_idle -= 1
                self._running.add(check)
                self._changed.notify_all()
            verdict = check.call()
            with self._changed:
                if check not in self._running:
                    self.num_late -= 1
                    return
                self._running.remove(check)
                self._num_idle += 1
            check.future.set_result(verdict)

    def _watch(self) -> None:
        """Give up checks that are late.

        consumes:     what runs
        produces:     results of those that are late, and threads in place of theirs
        waits for:    the first limit
        ends when:    close() is called
        """
        while True:
            with self._changed:
                if self._closed:
                    return
                now = time.monotonic()
                late = [check for check in self._running if check.until <= now]
                self._running.difference_update(late)
                self.num_late += len(late)
                self._num_threads -= len(late)
                if late:
                    self._start_threads()
                else:
                    soonest = min((check.until for check in self._running), default=math.inf)
                    self._changed.wait(None if soonest == math.inf else soonest - now)
            for check in late:
                check.future.set_result(check.failed(f"no verdict after {check.limit:g} s"))
