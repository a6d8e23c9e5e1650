"""The one thread that writes: what waits when it is ready goes into one transaction: one sync for all."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from rlvr.feedback.schema import Draft, Event
from rlvr.feedback.store import Store

_MOST = 500
"""Drafts in one transaction."""
_T = TypeVar("_T")
_Job = tuple[Draft | Callable[[Store], Any], Future[Any]]


class Writer:
    """Drafts and other work in, what came of them out, each once it is on the disk. For callers in one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="rlvr-label-write")
        self._thread.start()

    async def append(self, draft: Draft) -> tuple[Event, bool]:
        """(the event, whether it is new). DiskError: nothing was written."""
        return await self._done(draft)

    async def work(self, work: Callable[[Store], _T]) -> _T:
        """What work(store) gives, in the order of all that is written."""
        return await self._done(work)

    def end(self) -> None:
        """Once all that waits is written."""
        self._jobs.put(None)
        self._thread.join()

    async def _done(self, job: Draft | Callable[[Store], Any]) -> Any:
        future: Future[Any] = Future()
        self._jobs.put((job, future))
        # shielded: what hangs up meanwhile must not keep the others' results from being told
        return await asyncio.shield(asyncio.wrap_future(future))

    def _write(self) -> None:
        """Write what waits.

        consumes:     self._jobs
        produces:     results into the futures
        waits for:    the next job
        ends when:    a None comes out of the queue
        """
        while (job := self._jobs.get()) is not None:
            group, is_last = [job], False
            while len(group) < _MOST and not self._jobs.empty():  # nobody else takes from it
                more = self._jobs.get()
                if more is None:
                    is_last = True
                    break
                group.append(more)
            self._write_group(group)
            if is_last:
                break

    def _write_group(self, group: list[_Job]) -> None:
        drafts: list[tuple[Draft, Future[Any]]] = []
        for job, future in group:
            if isinstance(job, Draft):
                drafts.append((job, future))
                continue
            self._append(drafts)
            drafts = []
            _settle([future], lambda work=job: [work(self._store)])
        self._append(drafts)

    def _append(self, drafts: list[tuple[Draft, Future[Any]]]) -> None:
        if drafts:
            _settle([future for _, future in drafts], lambda: self._store.append([draft for draft, _ in drafts]))


def _settle(futures: list[Future[Any]], work: Callable[[], list[Any]]) -> None:
    """Each future gets its result of the work, or all of them the error that ended it."""
    try:
        results = work()
    except Exception as error:  # whatever it is, it is for those who wait
        for future in futures:
            future.set_exception(error)
        return
    for future, result in zip(futures, results, strict=True):
        future.set_result(result)
