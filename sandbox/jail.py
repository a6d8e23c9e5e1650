"""One jail, seen from the host: the process of a zygote, and one execution at a time in it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import itertools
import logging
import marshal
import os
import resource
import select
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from rlvr.sandbox import scratch
from rlvr.sandbox.child import HEADER
from rlvr.sandbox.harness import write_all
from rlvr.sandbox.limits import Limits
from rlvr.sandbox.results import SandboxError
from rlvr.sandbox.zygote import ENDS, PATIENCE, REPORT, STOP

_BOOT = """
import os, sys, types
os.register_at_fork = lambda **_: None
package = types.ModuleType("rlvr")
package.__path__ = [sys.argv[1]]
sys.modules["rlvr"] = package
from rlvr.sandbox.zygote import main
main()
"""
"""Modules that look after themselves at each fork (random, threading) do not get to: one thread forks, in one place,
and each page that a child writes to costs time."""
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "LC_ALL": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",  # an arena for each thread would take the address space that is the limit
    "LD_BIND_NOW": "1",  # all symbols once, and not some of them in each child
}
_INSIDE, _OUTSIDE = 1000, 61234
"""User id within a jail; what root of the host becomes for it: an id that nobody has."""
_START_SECONDS = 20.0
_GRACE_SECONDS = 2.0
"""For the zygote to end what is over its time; then the whole jail is ended."""
_SLACK = 8192
"""Bytes of output beyond the limit that are let through, so that more than allowed can be told from as much."""
_SEALABLE = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
_HELLO_BYTES = 4096
_numbers = itertools.count(1)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """How an execution ended, as the zygote tells."""

    how: str
    """One of zygote.ENDS, or "lost" where the jail itself ended."""
    exit_status: int = 0
    """Negative: by that signal."""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    starved_seconds: float = 0.0
    """For which it waited for a processor."""
    memory_bytes: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The report with what was written."""

    report: Report
    stdout: bytes
    stderr: bytes
    is_too_long: bool
    """More was written to stdout than allowed."""


@dataclass(slots=True)
class Request:
    """What a jail is to do."""

    kind: str
    """program, steps, serve, judge or execute: see harness.run()."""
    program: bytes
    limits: Limits
    stdin: bytes = b""
    descriptors: list[int] = field(default_factory=list)
    """What the program's process reads as number 3 and writes as number 4; closed here once they are sent."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What the kind asks for."""

    def close_descriptors(self) -> None:
        """May be called again."""
        while self.descriptors:
            os.close(self.descriptors.pop())


class Jail:
    """A zygote's process with its socket. Used from one event loop, by one execution at a time."""

    def __init__(self, tier: str, starts_others: bool = False) -> None:
        """Starts it, without waiting. `starts_others`: other programs than Python may be started in it."""
        self.tier = tier
        self.start_seconds = 0.0
        self.number = 0
        self._started = time.perf_counter()
        self._loop = asyncio.get_running_loop()
        self._hello: asyncio.Future[str] = self._loop.create_future()
        self._report: asyncio.Future[Report] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._lost = ""
        with contextlib.ExitStack() as open_now, contextlib.ExitStack() as theirs_too:
            self._socket, theirs = socket.socketpair()
            open_now.enter_context(self._socket)
            theirs_too.enter_context(theirs)
            stop, self._stop = os.pipe()
            theirs_too.callback(os.close, stop)
            open_now.callback(os.close, self._stop)
            self._errors = os.memfd_create("jail-errors")
            open_now.callback(os.close, self._errors)
            self._scratch = "" if tier == "A" else open_now.enter_context(_scratch_folder())
            settings = {"tier": tier, "starts_others": starts_others, "scratch": self._scratch}
            settings |= {"inside": _INSIDE, "outside": _OUTSIDE, **_view(starts_others)}
            self._socket.send(marshal.dumps(settings))
            # not -I, by which the seed of hashes would go unheard; the environment is ours
            command = [sys.executable, "-P", "-s", "-S", "-B", "-c", _BOOT, str(Path(__file__).parents[1])]
            self.process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(stop)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=(theirs.fileno(), stop),
                env=_ENVIRONMENT,
                cwd="/",
                # away from Ctrl-C; not a session, whose share of the processors would be its own (sched_autogroup)
                process_group=0,
            )
            open_now.callback(self.process.wait)
            open_now.callback(self.process.kill)
            self._pidfd = os.pidfd_open(self.process.pid)
            open_now.callback(os.close, self._pidfd)
            self._open = open_now.pop_all()
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._on_message)

    async def ready(self) -> None:
        """Wait until it serves. SandboxError says what it lacks."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                problem = await self._hello
        except TimeoutError:
            problem = f"a jail did not start within {_START_SECONDS:g} s"
        if problem:
            self._lose(problem)
            raise SandboxError(problem)
        self.start_seconds = time.perf_counter() - self._started

    async def execute(self, request: Request) -> Answer:
        """Do what the request says. Never raises for what happens in the jail: that is in the report."""
        limits = request.limits
        number = self.number = next(_numbers) & 0xFFFFFFFF
        self._report = self._loop.create_future()
        with contextlib.ExitStack() as open_now:
            open_now.callback(request.close_descriptors)
            stdin, stdout, stderr = (_in_memory(name, open_now) for name in ("stdin", "stdout", "stderr"))
            write_all(stdin, request.stdin)
            os.lseek(stdin, 0, os.SEEK_SET)
            fcntl.fcntl(stdin, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE)
            for fd, most in ((stdout, limits.output_bytes), (stderr, limits.stderr_bytes)):
                # the kernel refuses what goes beyond this size, so a flood costs nobody memory or time
                os.ftruncate(fd, most + _SLACK)
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
            # the zygote keeps to the limits; this is for the day on which it does not
            overdue = self._loop.call_later(PATIENCE * limits.wall_seconds + _GRACE_SECONDS, self._end_late)
            try:
                await self._send(_message(number, request), [stdin, stdout, stderr, *request.descriptors])
                request.close_descriptors()
                report = await self._report
            except OSError as error:
                self._lose(f"the jail takes no request: {error.strerror}")
                report = await self._report
            except asyncio.CancelledError:  # whatever runs there is not waited for
                self._lose("the execution was cancelled")
                self.process.kill()
                raise
            finally:
                overdue.cancel()
            output, is_too_long = _read_back(stdout, limits.output_bytes)
            errors, _ = _read_back(stderr, limits.stderr_bytes)
            if report.how == "lost" and errors:  # perhaps of the child that could not be set up
                last = errors.rstrip().rpartition(b"\n")[2][:200].decode(errors="replace")
                report = replace(report, reason=f"{report.reason} {last}")
            return Answer(report, output, errors, is_too_long)

    def _end_late(self) -> None:
        """Unless it is this process that was late, and the report lies there."""
        self._on_message()
        if self._report is not None and not self._report.done():
            self.process.kill()

    def stop(self) -> None:
        """End the execution that runs now; its report says "stopped"."""
        with contextlib.suppress(OSError):
            os.write(self._stop, STOP.pack(self.number))

    @property
    def why_lost(self) -> str:
        return self._lost

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return not self._lost and not self.has_ended

    @property
    def has_ended(self) -> bool:
        """Whether its process has, known without taking note of it in the process's stead."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    async def close(self) -> None:
        """End it, and wait until nothing of it is left. May be called again, also meanwhile."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._lose("the sandbox was closed")
        self._loop.remove_reader(self._socket)
        with contextlib.suppress(OSError):  # not connected any more
            self._socket.shutdown(socket.SHUT_RDWR)  # a process forked from this one may hold it open
        self._socket.close()
        ended = asyncio.Event()
        self._loop.add_reader(self._pidfd, ended.set)
        try:
            async with asyncio.timeout(_GRACE_SECONDS):
                await ended.wait()
        except TimeoutError:
            self.process.kill()
            await ended.wait()
        finally:
            self._loop.remove_reader(self._pidfd)
            self._open.close()

    async def _send(self, message: bytes, fds: list[int]) -> None:
        sent = 0
        with contextlib.suppress(BlockingIOError):
            sent = socket.send_fds(self._socket, [message], fds)
        if not sent:  # cannot be, with nothing else under way
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if sent < len(message):
            await self._loop.sock_sendall(self._socket, message[sent:])

    def _on_message(self) -> None:
        """A line that says whether it serves; then a report, which the zygote writes at once."""
        try:
            data = self._socket.recv(_HELLO_BYTES if not self._hello.done() else REPORT.size)
            why = "the jail ended"
        except BlockingIOError:
            return
        except OSError as error:
            data, why = b"", f"the jail's socket: {error.strerror}"
        if data and not self._hello.done():
            self._hello.set_result(data.decode(errors="replace").strip())
            return
        if len(data) < REPORT.size:
            self._loop.remove_reader(self._socket)
            self._lose(f"{why}: {self._last_words()}".rstrip(": "))
            return
        number, how, status, wall, cpu, starved, memory = REPORT.unpack(data)
        if ENDS[how] == "unprepared":
            self._lose(f"a child could not be set up: {self._last_words()}")
        elif number == self.number and self._report is not None and not self._report.done():
            self._report.set_result(Report(ENDS[how], status, wall, cpu, starved, memory))

    def _lose(self, reason: str) -> None:
        """It serves no more; what waits for it is told why."""
        self._lost = self._lost or reason
        if not self._hello.done():
            self._hello.set_result(reason)
        if self._report is not None and not self._report.done():
            self._report.set_result(Report("lost", reason=reason))

    def _last_words(self) -> str:
        lines = os.pread(self._errors, 1 << 16, 0).decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""


@lru_cache(64)
def _resource_limits(limits: Limits, starts_others: bool) -> list[tuple[int, int]]:
    """Both the soft and the hard ones, so that the program cannot lift them."""
    wanted = [
        (resource.RLIMIT_CPU, int(limits.processor_seconds) + 2),  # should the zygote, which is more exact, be stopped
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, limits.file_mib << 20),
        (resource.RLIMIT_NOFILE, limits.num_open_files),
        # engines that reserve address space by the gigabyte are held by what they write to
        (resource.RLIMIT_DATA if starts_others else resource.RLIMIT_AS, limits.memory_mib << 20),
        (resource.RLIMIT_NPROC, limits.num_processes),
    ]
    return [(which, _allowed(which, value)) for which, value in wanted]


def _allowed(which: int, value: int) -> int:
    """Not more than this process may have itself, which nobody can give on."""
    most = resource.getrlimit(which)[1]
    if which == resource.RLIMIT_NPROC:  # those that the user has already are added
        most = most if most == resource.RLIM_INFINITY else most // 2
        value = min(value, 1 << 20)
    return value if most == resource.RLIM_INFINITY else min(value, most)


def _message(number: int, request: Request) -> bytes:
    """See child.Request."""
    limits = request.limits
    asked = (
        number,
        request.kind,
        float(limits.wall_seconds),
        limits.processor_seconds,
        (limits.disk_mib, limits.num_inodes),
        _resource_limits(limits, request.kind == "execute"),
        dict(request.more),
    )
    head = marshal.dumps(asked)
    return HEADER.pack(len(head), len(request.program)) + head + request.program


def _read_back(fd: int, most: int) -> tuple[bytes, bool]:
    """What was written, as far as `most`, and whether there was more."""
    written = os.lseek(fd, 0, os.SEEK_CUR)  # the file's position is shared with those that wrote
    return os.pread(fd, min(max(written, 0), most), 0), written > most


def _in_memory(name: str, open_now: contextlib.ExitStack) -> int:
    fd = os.memfd_create(name, _SEALABLE)
    open_now.callback(os.close, fd)
    return fd


@contextlib.contextmanager
def _scratch_folder() -> Iterator[str]:
    """For executions without a file system of their own; removed with what they left in it."""
    folder = tempfile.mkdtemp(prefix="rlvr-jail-")
    try:
        yield folder
    finally:
        try:
            if os.path.isdir(folder):  # the zygote removes it too, should this process be gone
                scratch.remove(folder)
        except OSError as error:
            _log.warning("%s could not be removed: %s", folder, error)


@cache
def _view(starts_others: bool) -> dict[str, Any]:
    """Folders of the host that a jail shows, what is hidden in them, and links: the interpreter's library, or all
    programs. What was installed beside the interpreter stays hidden: it may hold the tests' answers."""
    paths = sysconfig.get_paths()
    machine = sysconfig.get_config_var("MULTIARCH") or ""
    libraries = [f"/usr/lib/{machine}" if machine else "/usr/lib", "/usr/lib64", "/lib64", f"/lib/{machine}"]
    shared = sysconfig.get_config_var("DESTSHARED") or paths["stdlib"]
    read = [paths["stdlib"], shared, f"{sys.base_prefix}/lib", *libraries]
    links = {}
    if starts_others:
        read += ["/usr", "/etc/alternatives"]
    for path in ("/bin", "/sbin", "/lib", "/lib64"):
        if os.path.islink(path):
            links[path] = os.readlink(path)
        elif starts_others and os.path.isdir(path):
            read.append(path)
    found = {os.path.realpath(path) for path in read if os.path.isdir(path)}
    shown = sorted(path for path in found if not any(path.startswith(other + "/") for other in found))
    packages = [paths["purelib"], paths["platlib"], f"{sys.base_prefix}/lib/python3/dist-packages"]
    packages += ["/usr/lib/python3/dist-packages", *map(str, Path("/usr/local/lib").glob("python*/*-packages"))]
    packages += map(str, Path(f"{sys.base_prefix}/lib").glob("python*/site-packages"))
    hidden = {os.path.realpath(path) for path in packages if os.path.isdir(path)}
    hide = sorted(path for path in hidden if any(path.startswith(folder + "/") for folder in shown))
    return {"read": shown, "hide": hide, "links": links}
