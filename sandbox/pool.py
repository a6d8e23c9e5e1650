"""The sandbox: a pool of jails that run programs nobody trusts, each execution in a fresh process of its own."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from mmap import mmap
from types import TracebackType
from typing import Any

from rlvr.sandbox import executions, tiers
from rlvr.sandbox.executions import check_program
from rlvr.sandbox.jail import Jail
from rlvr.sandbox.limits import Limits
from rlvr.sandbox.results import Run, SandboxError
from rlvr.sandbox.values import Reply, Step

_ATTEMPTS = 3
"""Of one execution, where the sandbox and not the program failed."""
_LIMITS = Limits()
_log = logging.getLogger(__name__)


class Sandbox:
    """A pool of jails, for use within one event loop.

    async with Sandbox() as sandbox:
        run = await sandbox.run("print(sum(map(int, input().split())))", stdin=b"1 2")   # run.stdout == b"3\\n"

    No more than `num_jails` executions go on at a time; further callers wait for their turn.
    """

    def __init__(
        self, num_jails: int | None = None, *, tier: str | None = None, allow_unisolated: bool = False
    ) -> None:
        """num_jails: default is one per processor. tier: default is the best that holds here.

        allow_unisolated: run programs with the rights of this process where no tier holds; told in the log.
        """
        if num_jails is not None and num_jails < 1:
            raise ValueError(f"num_jails must be at least 1, got {num_jails}")
        self._size = num_jails or len(os.sched_getaffinity(0))
        self._wanted, self._allow_unisolated = tier, allow_unisolated
        self._groups: dict[str, _Group] = {}
        self._closed = False
        self.tier: tiers.Tier | None = None
        """A, B or unisolated, once started."""

    async def start(self) -> Sandbox:
        """Choose the tier by attacking it, and start the first jail. SandboxError says what is missing here."""
        self.tier = await tiers.choose(self._wanted, self._allow_unisolated)
        if self.tier == "unisolated":
            _log.warning("programs run WITHOUT ISOLATION, with the rights of this process (pid %d)", os.getpid())
        for name in ("programs", "judges", "commands"):
            self._groups[name] = _Group(self.tier, name == "commands", self._size)
        self._groups["programs"].give_back(await self._groups["programs"].take())
        return self

    async def close(self) -> None:
        """End all jails, and what runs in them. May be called again."""
        self._closed = True
        await asyncio.gather(*(group.close() for group in self._groups.values()))

    async def __aenter__(self) -> Sandbox:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def respawns(self) -> tuple[str, ...]:
        """Why each jail that had to be replaced was lost."""
        return tuple(reason for group in self._groups.values() for reason in group.losses)

    async def run(self, code: str | bytes, stdin: str | bytes = b"", limits: Limits = _LIMITS) -> Run:
        """A Python program with its standard input. ValueError, TypeError: no program (see check_program)."""
        program, given = check_program(code), executions.check_stdin(stdin)
        executions.check_limits(limits)
        return await self._attempt("programs", lambda jail: executions.run_program(jail, program, given, limits))

    async def run_many(
        self, programs: Iterable[tuple[str | bytes, str | bytes]], limits: Limits = _LIMITS
    ) -> AsyncIterator[tuple[int, Run]]:
        """(index, run) of programs with their standard inputs, as they end.

        Programs are taken as there is room for them, two for each jail, so that a generator may go on for ever.
        """
        rest = enumerate(programs)
        running: dict[asyncio.Task[Run], int] = {}
        try:
            while True:
                for index, (code, stdin) in itertools.islice(rest, 2 * self._size - len(running)):
                    running[asyncio.create_task(self.run(code, stdin, limits))] = index
                if not running:
                    return
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield running.pop(task), task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def call(
        self,
        code: str | bytes,
        steps: Sequence[Step],
        limits: Limits = _LIMITS,
        *,
        on_reply: Callable[[int, Reply], bool] | None = None,
    ) -> Run:
        """Load a program, then do the steps one by one in its process; the limits are for all of it together.

        on_reply(index, reply) is called as each comes; where it returns False the rest is left undone.
        """
        program, asked = check_program(code), executions.check_steps(steps)
        executions.check_limits(limits)
        return await self._attempt(
            "programs", lambda jail: executions.run_steps(jail, program, asked, len(steps), limits, on_reply)
        )

    async def converse(
        self, code: str | bytes, judge: str | bytes, names: Sequence[str], limits: Limits = _LIMITS
    ) -> tuple[Run, Run]:
        """A program in one jail, and in another one a judge that calls the program's functions `names`, by plain data.

        (The program's run, the judge's run); the judge passed where it ended without an exception. Its stderr begins
        with harness.ASKED or NOT_ASKED: whether it has called the program.
        """
        program, judging = check_program(code), check_program(judge)
        executions.check_limits(limits)
        runs: list[Run] = []

        async def both(jail: Jail) -> Run:
            found = await self._groups["judges"].use(
                lambda other: executions.run_pair(jail, other, program, judging, names, limits)
            )
            runs[:] = [found, found] if isinstance(found, Run) else found
            return next((run for run in runs if run.status == "infra"), runs[0])

        run = await self._attempt("programs", both)
        return (runs[0], runs[1]) if runs else (run, run)

    async def execute(
        self,
        argv: Sequence[str],
        files: Mapping[str, bytes | mmap] | None = None,
        stdin: str | bytes = b"",
        limits: Limits = _LIMITS,
        fetch: Sequence[str] = (),
    ) -> Run:
        """Any program of this machine (argv[0] is its full path), in a folder that holds `files`, /tmp.

        A file's name may have folders in front. Files named by `fetch` come back, where they are no more than file_mib
        together. SandboxError in a tier that cannot let programs start others; ValueError for names and sizes that
        cannot be.
        """
        if self.tier == "B":
            raise SandboxError("tier B runs Python alone; other programs need tier A (user namespaces)")
        given = executions.check_stdin(stdin)
        executions.check_limits(limits)
        executions.check_command(argv, files or {}, limits, fetch)
        return await self._attempt(
            "commands",
            lambda jail: executions.run_command(jail, list(argv), dict(files or {}), given, limits, list(fetch)),
        )

    async def _attempt(self, group: str, work: Callable[[Jail], Any]) -> Run:
        """The run; what was our failure is tried again."""
        if self._closed or not self._groups:
            raise SandboxError("the sandbox is closed" if self._closed else "the sandbox was not started")
        for attempt in itertools.count(1):
            run: Run = await self._groups[group].use(work)
            # who was kept waiting was given several times its time already
            if run.status != "infra" or run.was_starved or self._closed or attempt == _ATTEMPTS:
                return run
            _log.warning("attempt %d of %d: %s", attempt, _ATTEMPTS, run.reason)
        raise AssertionError("the last attempt returns")


class _Group:
    """Jails of one kind, started when they are first needed.

    consumes:     jails that are given back
    produces:     a jail for each that asks, at most `size` at a time
    waits for:    a jail to be given back
    ends when:    close() is called; who waits then gets SandboxError
    """

    def __init__(self, tier: str, starts_others: bool, size: int) -> None:
        self._tier, self._starts_others = tier, starts_others
        self._places = asyncio.Semaphore(size)
        self._idle: list[Jail] = []
        self._all: set[Jail] = set()
        self._burials: set[asyncio.Task[None]] = set()
        self._closed = False
        self.losses: list[str] = []

    async def use(self, work: Callable[[Jail], Any]) -> Any:
        async with self._places:
            try:
                jail = await self.take()
                try:
                    return await work(jail)
                finally:
                    self.give_back(jail)
            except (SandboxError, OSError) as error:  # of this side: no jail, no descriptor to be had
                if self._closed:
                    raise SandboxError("the sandbox is closed") from error
                return Run(status="infra", reason=str(error))

    async def take(self) -> Jail:
        """An idle jail, or a new one. SandboxError where none can be started."""
        if self._closed:
            raise SandboxError("the sandbox is closed")
        while self._idle:
            jail = self._idle.pop()
            if jail.is_alive:
                return jail
            self.give_back(jail)
        jail = Jail(self._tier, self._starts_others)
        self._all.add(jail)
        try:
            await jail.ready()
        except BaseException:
            self._all.discard(jail)
            await jail.close()
            raise
        return jail

    def give_back(self, jail: Jail) -> None:
        if jail.is_alive:
            self._idle.append(jail)
        elif not self._closed:
            self.losses.append(jail.why_lost or "the jail ended while it was idle")
            self._all.discard(jail)
            burial = asyncio.create_task(jail.close())
            self._burials.add(burial)
            burial.add_done_callback(self._burials.discard)

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*self._burials, *(jail.close() for jail in self._all))
        self._all.clear()
        self._idle.clear()
