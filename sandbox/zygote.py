"""The process inside a jail that forks one child per execution; started by jail.py as `python -I -S -c BOOT`.

It imports what programs use before it forks, so that a child starts with it. It never runs their code, and never reads
what they are given or write: the child takes the next request from the host's socket by itself, and hands its output
to the host through descriptors that came with the request. So nothing of one execution is in the memory of another.

The child of the next execution waits, set up but for its limits, while this one runs.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import marshal
import os
import posix
import random
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from rlvr.sandbox import child, harness, root, scratch, system

REPORT = struct.Struct("<IBidddq")
"""Execution's number, how it ended (an index of ENDS), exit status (negative: signal), seconds, CPU seconds, seconds
for which it waited for a processor, peak resident bytes."""
ENDS = ("exited", "wall", "cpu", "disk", "stopped", "starved", "unprepared")
STOP = struct.Struct("<I")
"""Number of the execution that the host wants ended."""

PREIMPORT = (
    "array bisect collections.abc contextlib copy decimal fractions functools heapq io itertools math operator random "
    "re string time traceback typing"
)
"""What programs use most. More would cost the others: a child pays for each page and each library of the zygote."""
PATIENCE = 4
"""How often its wall seconds a program may take where it is others that keep the processors from it."""
_NAP = 0.02
"""Seconds between two looks at what only looking shows: the disk of a tier without a file system of its own."""
_LONG, _NICE = 0.1, 4
"""CPU seconds after which a program steps back, and how far: to a third of a processor that another wants as well."""
_PROCESS_CLOCK = 2


def main() -> None:
    """Arguments: jail's control socket, pipe that says stop. Serves until the host is gone."""
    control, stop = int(sys.argv[2]), int(sys.argv[3])
    settings = marshal.loads(os.read(control, 1 << 16))
    while os.open(os.devnull, os.O_RDWR) < child.NUM_DESCRIPTORS:  # keep these numbers from being given to others
        pass
    os.umask(0o022)  # whatever the host's: an ordinary user has to read what root makes here
    host = os.pidfd_open(os.getppid())
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    system.name_process("rlvr-jail")
    try:
        for name in PREIMPORT.split():
            importlib.import_module(name)
        _forget_start()
        mounts = _enter_namespaces(settings, control, proc) if settings["tier"] == "A" else -1
        zygote = _Zygote(control, stop, host, proc, mounts, settings)
    except Exception as error:  # whatever is missing here: the host tells it
        _say(control, f"{type(error).__name__}: {error}")
        os._exit(1)
    _say(control, "")
    zygote.serve()


def _say(control: int, problem: str) -> None:
    """Tell the host in one line what is missing; an empty one: nothing is."""
    os.write(control, problem.replace("\n", " ").encode()[:1000] + b"\n")


def _forget_start() -> None:
    """Leave programs a plain interpreter: no arguments of ours, no modules of ours, exit() and quit()."""
    os.register_at_fork = posix.register_at_fork
    random.seed(0)
    os.environ.clear()
    sys.argv = ["solution.py"]
    sys.orig_argv = ["python3", "solution.py"]
    sitebuiltins = importlib.import_module("_sitebuiltins")
    for name in ("exit", "quit"):
        setattr(builtins, name, sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "rlvr"]:
        del sys.modules[name]


def _enter_namespaces(settings: dict[str, Any], control: int, proc: int) -> int:
    """Go on as the first process of new namespaces, with a root that shows what settings name; a descriptor of their
    mounts, whose /tmp stays empty.

    As root of the host: mounts first, since the interpreter may be where an ordinary user cannot look; then with an
    ordinary user's id.
    """
    uid, gid, inside = os.getuid(), os.getgid(), settings["inside"]
    spaces = (
        system.CLONE_NEWUSER | system.CLONE_NEWNS | system.CLONE_NEWPID | system.CLONE_NEWNET
        | system.CLONE_NEWIPC | system.CLONE_NEWUTS | system.CLONE_NEWCGROUP
    )  # fmt: skip
    if uid == 0:
        map_later = _mapper(inside, settings["outside"])
        os.setgroups([])
        system.unshare(system.CLONE_NEWNS)
        root.build(settings["read"], settings["links"], settings["hide"])
        system.unshare(spaces)
        map_later()
        os.setresgid(inside, inside, inside)
        os.setresuid(inside, inside, inside)
    else:
        system.unshare(spaces)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{inside} {uid} 1")
        _write("/proc/self/gid_map", f"{inside} {gid} 1")
        root.build(settings["read"], settings["links"], settings["hide"])
    system.set_host_name("jail")
    mounts = os.open("self/ns/mnt", os.O_RDONLY, dir_fd=proc)
    zygote = os.fork()
    if zygote:
        os.close(control)
        os.waitpid(zygote, 0)
        os._exit(0)
    system.die_with_parent()
    system.drop_bounding_set()
    return mounts


def _mapper(inside: int, outside: int) -> Callable[[], None]:
    """A function that has the map of this process's new user namespace written, by a helper that stayed outside it."""
    read, write = os.pipe()
    parent = os.getpid()
    helper = os.fork()
    if helper == 0:
        code = 1
        try:
            os.close(write)
            if os.read(read, 1):
                for kind in ("uid_map", "gid_map"):
                    _write(f"/proc/{parent}/{kind}", f"{inside} {outside} 1")
                code = 0
        finally:
            os._exit(code)
    os.close(read)

    def write_map() -> None:
        os.write(write, b"g")
        os.close(write)
        _, status = os.waitpid(helper, 0)
        if status:
            raise OSError(f"the map of the user namespace could not be written for {outside}")

    return write_map


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


class _Child:
    """A forked process: waiting for its request, or running it."""

    def __init__(self, pid: int, taken: int, folder: str) -> None:
        self.pid, self.taken, self.folder = pid, taken, folder
        self.pidfd = os.pidfd_open(pid)
        self.clock = (~pid << 3) | _PROCESS_CLOCK

    def cpu_seconds(self) -> float:
        """Of all its threads; processes that it started count once they have ended and it knows."""
        try:
            return time.clock_gettime(self.clock)
        except OSError:  # ended meanwhile
            return 0.0

    def step_back(self) -> None:
        """Leave more of the processors to others, who may need them for a moment only."""
        with contextlib.suppress(OSError):  # ended meanwhile
            os.setpriority(os.PRIO_PGRP, self.pid, _NICE)


class _Zygote:
    """Keeps one child ready and reports on the one that runs.

    consumes:     what its children tell of their request; the host's wish to stop one
    produces:     one REPORT per execution
    waits for:    a child's end, its deadline, the host's end
    ends when:    the host is gone or closes the socket; every child ends with it
    """

    def __init__(self, control: int, stop: int, host: int, proc: int, mounts: int, settings: dict[str, Any]) -> None:
        self.mounts = mounts
        self.proc = proc
        """The host's /proc; a child closes it with all else before its program begins."""
        self.control, self.stop, self.host = control, stop, host
        self.has_namespaces = settings["tier"] == "A"
        self.folder = settings["scratch"]
        """Where each execution gets a folder of its own; with namespaces that is a file system of its own instead."""
        self.count = 0
        harness.open_streams()
        harness.become_main()
        self.children: list[_Child] = []
        self.child = child.child_of(control, settings)
        self.mount_disk = child.disk_mounter(settings["starts_others"])
        self.processors = os.sysconf("SC_NPROCESSORS_ONLN")
        self.me = os.pidfd_open(os.getpid())
        if settings["tier"] != "unisolated":
            system.hide_from_peers()
        gc.collect()
        system.tidy_memory()
        gc.freeze()  # the collector would otherwise write to, and so copy, every page that is shared with a child
        gc.disable()

    def serve(self) -> None:
        waiting = self._fork()
        while True:
            number, limits = self._wait_taken(waiting)
            start = time.monotonic()
            running, waiting = waiting, self._fork()
            self._report(number, running, start, *self._watch(running, number, limits, start))

    def _fork(self) -> _Child:
        """A child that sets itself up and waits for the next request."""
        taken, tell = os.pipe()
        self.count += 1
        folder = "/tmp" if self.has_namespaces else scratch.make(self.folder, self.count)
        if self.has_namespaces:
            # here, not in the child, which would pay for the memory that it takes to ask for them
            system.enter_namespaces(self.mounts, system.CLONE_NEWNS)
            system.unshare(system.CLONE_NEWPID | system.CLONE_NEWNS)
            self.mount_disk()
        pid = os.fork()
        if pid == 0:
            self.child(tell, folder)
        if self.has_namespaces:  # so that the next one gets a pid namespace beside this one's, not within it
            system.enter_namespaces(self.me, system.CLONE_NEWPID)
        os.close(tell)
        self.children.append(_Child(pid, taken, folder))
        return self.children[-1]

    def _wait_taken(self, waiting: _Child) -> tuple[int, tuple[float, float, int]]:
        """The execution's number and its limits, once the child has them."""
        poll = select.poll()
        for fd in (waiting.taken, self.host):
            poll.register(fd, select.POLLIN)
        poll.register(self.control, 0)
        while True:
            ready = dict(poll.poll())
            if waiting.taken in ready:
                told = os.read(waiting.taken, child.TAKEN.size)
                if len(told) < child.TAKEN.size:
                    self._unprepared(waiting)
                number, wall, cpu, disk = child.TAKEN.unpack(told)
                return number, (wall, cpu, disk)
            if self.host in ready or self.control in ready:
                self._end()

    def _unprepared(self, waiting: _Child) -> None:
        """The child ended before its program began: tell the host why, and end, for the next would do the same."""
        _, status = os.waitpid(waiting.pid, 0)
        report = REPORT.pack(0, ENDS.index("unprepared"), os.waitstatus_to_exitcode(status), 0.0, 0.0, 0.0, 0)
        with contextlib.suppress(OSError):
            os.write(self.control, report)
        self.children.remove(waiting)
        self._end()

    def _end(self) -> NoReturn:
        """With all that there is of it."""
        for one in self.children:
            _kill(one)
        for one in self.children:
            os.waitpid(one.pid, 0)
        if not self.has_namespaces:
            scratch.remove(self.folder)
        os._exit(0)

    def _watch(self, running: _Child, number: int, limits: tuple[float, float, int], start: float) -> tuple[int, float]:
        """Wait for its end, or bring it about: (index of ENDS, seconds without a processor)."""
        wall, cpu, disk = limits
        poll = select.poll()
        for fd in (running.pidfd, self.host, self.stop):
            poll.register(fd, select.POLLIN)
        poll.register(self.control, 0)
        deadline, starved, is_long = start + wall, 0.0, False
        how = "exited"
        while how == "exited":
            now = time.monotonic()
            cpu_used = running.cpu_seconds()
            cpu_left = cpu - cpu_used
            if not is_long and cpu_used > _LONG:
                is_long = True
                running.step_back()
            if cpu_left <= 0:
                how = "cpu"
            elif now >= deadline:
                # a process that waits for a processor and not for something of its own is not late by its own doing
                starved = min(self._starved(running), now - start)
                deadline = start + min(wall + starved, PATIENCE * wall)
                if now >= deadline:
                    how = "wall" if now - start >= wall + starved else "starved"
            elif disk and scratch.is_over(running.folder, disk):
                how = "disk"
            if how != "exited":
                break
            nap = min(deadline - now, cpu_left / self.processors if cpu_left > 0.004 else 0.002)
            nap = nap if is_long else min(nap, _LONG)
            ready = dict(poll.poll(1000 * (min(nap, _NAP) if disk else nap)))
            if running.pidfd in ready:
                break
            if self.stop in ready and STOP.unpack(os.read(self.stop, STOP.size))[0] == number:
                how = "stopped"
            elif self.host in ready or self.control in ready:
                self._end()
        if how != "exited":
            _kill(running)
        return ENDS.index(how), starved

    def _starved(self, running: _Child) -> float:
        """Seconds for which its first thread was ready to run, and neither it nor its other threads had a processor."""
        try:
            pid = self._host_pid(running.pid)
            ran, waited, _ = self._read(f"{pid}/schedstat").split()
        except (OSError, ValueError, StopIteration):  # ended meanwhile, or a kernel that does not say
            return 0.0
        others = running.cpu_seconds() - int(ran) / 1e9
        return max(0.0, int(waited) / 1e9 - others)

    def _host_pid(self, pid: int) -> str:
        """The pid by which the host's /proc knows a child."""
        for candidate in self._read("thread-self/children").split():
            status = self._read(f"{candidate}/status")
            pids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            if str(pid) in pids[-2:]:  # with a namespace of its own, it is 1 there
                return candidate
        raise ValueError(f"no child {pid}")

    def _read(self, path: str) -> str:
        fd = os.open(path, os.O_RDONLY, dir_fd=self.proc)
        try:
            return os.read(fd, 1 << 16).decode(errors="replace")
        finally:
            os.close(fd)

    def _report(self, number: int, running: _Child, start: float, how: int, starved: float) -> None:
        _, status, usage = os.wait4(running.pid, 0)
        seconds = time.monotonic() - start
        self.children.remove(running)
        os.close(running.taken)
        os.close(running.pidfd)
        if not self.has_namespaces:
            scratch.remove(running.folder)
        cpu = usage.ru_utime + usage.ru_stime
        code = os.waitstatus_to_exitcode(status)
        try:
            os.write(self.control, REPORT.pack(number, how, code, seconds, cpu, starved, usage.ru_maxrss << 10))
        except OSError:  # the host is gone
            self._end()


def _kill(running: _Child) -> None:
    """The first process of a pid namespace takes all others with it."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(running.pidfd, signal.SIGKILL)
