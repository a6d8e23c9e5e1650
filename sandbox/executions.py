"""The kinds of execution that a jail is asked for, and what the zygote's report makes of each."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from mmap import mmap

from rlvr.sandbox import values
from rlvr.sandbox.harness import FRAME, OUT_OF_MEMORY, write_all
from rlvr.sandbox.jail import Answer, Jail, Request
from rlvr.sandbox.limits import Limits
from rlvr.sandbox.memory_guard import Guard
from rlvr.sandbox.results import Run, Status
from rlvr.sandbox.values import Reply, Step
from rlvr.sandbox.zygote import PATIENCE

MOST_PROGRAM_BYTES = 64 << 10
_LONGEST_NAME, _LONGEST_PATH = 255, 1000
_READ = 1 << 16


def check_program(code: str | bytes) -> bytes:
    """The program as UTF-8. ValueError: empty, over 64 KiB, not UTF-8, or with NUL in it; TypeError: no text."""
    if not isinstance(code, str | bytes):
        raise TypeError(f"the program must be str or bytes, got {type(code).__name__}")
    try:
        program = code.encode() if isinstance(code, str) else bytes(code)
        program.decode()
    except UnicodeError as error:
        raise ValueError(f"the program is not UTF-8: {error}") from None
    if not program.strip():
        raise ValueError("the program is empty")
    if len(program) > MOST_PROGRAM_BYTES:
        raise ValueError(f"the program has {len(program)} bytes, {MOST_PROGRAM_BYTES} are allowed")
    if b"\0" in program:
        raise ValueError(f"the program has a NUL byte, at {program.index(0)}")
    return program


def check_stdin(stdin: str | bytes) -> bytes:
    """Text as UTF-8. TypeError: neither text nor bytes."""
    if isinstance(stdin, str):
        return stdin.encode("utf-8", "surrogatepass")
    if not isinstance(stdin, bytes):
        raise TypeError(f"stdin must be str or bytes, got {type(stdin).__name__}")
    return stdin


def check_limits(limits: Limits) -> None:
    """TypeError: something else."""
    if not isinstance(limits, Limits):
        raise TypeError(f"limits must be Limits(...), got {type(limits).__name__}")


def check_steps(steps: Sequence[Step]) -> bytes:
    """As bytes for the program's process. ValueError names the first that is no step."""
    for k, step in enumerate(steps):
        match step:
            case ("call", str(), tuple() | list(), dict()) | ("eval" | "exec", str()):
                continue
        raise ValueError(
            f"steps[{k}] must be ('call', name, args, kwargs), ('eval', source) or ('exec', source), got {step!r:.80}"
        )
    return values.encode(list(steps))


def check_command(argv: Sequence[str], files: Mapping[str, bytes | mmap], limits: Limits, fetch: Sequence[str]) -> None:
    """ValueError: a command that cannot be, names that lead out of its folder, files for which there is no room."""
    if not argv or not argv[0].startswith("/"):
        raise ValueError(f"argv begins with the full path of a program, got {list(argv[:1])}")
    if any("\0" in word for word in argv):
        raise ValueError("argv has a NUL in it")
    for name in (*files, *fetch):
        if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
            raise ValueError(f"files and fetch take names below the program's folder, got {name!r}")
        if any(len(os.fsencode(part)) > _LONGEST_NAME for part in name.split("/")) or len(name) > _LONGEST_PATH:
            raise ValueError(f"files and fetch take names of at most {_LONGEST_NAME} bytes, got {name[:40]!r}...")
        if any(name.startswith(f"{other}/") for other in files):
            raise ValueError(f"{name!r} is in a folder that is a file of its own")
    if max(map(len, files.values()), default=0) > limits.file_mib << 20:
        raise ValueError(f"a file has more than file_mib, {limits.file_mib} MiB")
    if sum(map(len, files.values())) > limits.disk_mib << 20:
        raise ValueError(f"the files have more than disk_mib, {limits.disk_mib} MiB, together")


async def run_program(jail: Jail, program: bytes, stdin: bytes, limits: Limits) -> Run:
    """A program that reads and prints."""
    return judged(await jail.execute(Request("program", program, limits, stdin)), limits)


async def run_steps(
    jail: Jail,
    program: bytes,
    steps: bytes,
    num_steps: int,
    limits: Limits,
    on_reply: Callable[[int, Reply], bool] | None,
) -> Run:
    """A program that is loaded, and then asked step by step. What on_reply() raises is raised."""
    with _Descriptors() as own:
        answers, reply_to = own.pipe()
        request = Request("steps", program, limits, descriptors=own.hand_over(own.in_memory("steps", steps), reply_to))
        replies = _Replies(answers, num_steps, limits.output_bytes, on_reply, jail.stop)
        try:
            answer = await jail.execute(request)
            replies.drain()
        finally:
            replies.close()
    if replies.error is not None:
        raise replies.error
    run = judged(answer, limits, replies=tuple(replies.found))
    if replies.problem and run.status in ("passed", "failed"):
        status: Status = "output" if replies.is_too_long else "crashed"
        return replace(run, status=status, reason=replies.problem)
    return run


async def run_pair(
    jail: Jail, other: Jail, program: bytes, judge: bytes, names: Sequence[str], limits: Limits
) -> tuple[Run, Run]:
    """A program that answers the calls of a judge in another jail: what each came to."""
    # the judge mostly waits for the program, and must not be late on its account
    patient = replace(limits, wall_seconds=PATIENCE * limits.wall_seconds + 1, cpu_seconds=limits.processor_seconds)
    with _Descriptors() as own:
        (asked, ask), (answers, answer) = own.pipe(), own.pipe()
        serving = Request("serve", program, limits, descriptors=own.hand_over(asked, answer))
        judging = Request("judge", judge, patient, descriptors=own.hand_over(answers, ask), more={"names": list(names)})
        async with asyncio.TaskGroup() as both:
            first, second = (both.create_task(one.execute(to)) for one, to in ((jail, serving), (other, judging)))
    return judged(first.result(), limits), judged(second.result(), limits)


async def run_command(
    jail: Jail, argv: list[str], files: Mapping[str, bytes | mmap], stdin: bytes, limits: Limits, fetch: list[str]
) -> Run:
    """Another program than Python; it may start others, and the limit on memory is for all of them together."""
    most = limits.file_mib << 20
    more = {
        "argv": argv,
        "environment": {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp"},
        "files": [[name, len(data)] for name, data in files.items()],
        "fetch": fetch,
        "fetch_bytes": most,
    }
    with _Descriptors() as own:
        back, given = own.in_memory("fetched"), own.in_memory("files", *files.values())
        request = Request("execute", b"", limits, stdin, own.hand_over(given, os.dup(back)), more)
        try:
            async with Guard(jail, limits) as guard:
                answer = await jail.execute(request)
        finally:
            request.close_descriptors()
        frames = os.pread(back, most, 0)
    report = replace(answer.report, cpu_seconds=max(answer.report.cpu_seconds, guard.cpu_seconds))
    answer = replace(answer, report=report)
    if guard.exceeded and report.how != "lost":
        status: Status = "memory" if guard.exceeded == "memory" else "timeout"
        needs = f"{limits.memory_mib} MiB" if status == "memory" else f"{limits.processor_seconds:g} s of CPU"
        reason = f"its processes need more than {needs} together"
        return replace(judged(answer, limits), status=status, reason=reason, exit_code=None)
    if len(frames) < FRAME.size * (1 + len(fetch)):  # our own process there tells how the program ended
        run = judged(answer, limits)
        if report.how != "exited":
            return run
        return replace(run, status="infra", reason=f"the program could not be started: {_last(answer)}", exit_code=None)
    (code,) = FRAME.unpack_from(frames)
    found, at = {}, FRAME.size
    for name in fetch:
        (size,) = FRAME.unpack_from(frames, at)
        found[name] = frames[at + FRAME.size : at + FRAME.size + size]
        at += FRAME.size + size
    code -= (1 << 32) if code >> 31 else 0
    run = judged(answer, limits, exit_status=code, files={name: data for name, data in found.items() if data})
    if run.status == "infra" and report.how == "exited":  # what it started may kill it, and it may itself
        return replace(run, status="crashed", reason="ended by SIGKILL")
    return run


def judged(
    answer: Answer,
    limits: Limits,
    *,
    exit_status: int | None = None,
    replies: tuple[Reply, ...] = (),
    files: Mapping[str, bytes] | None = None,
) -> Run:
    """What a report means. `exit_status` where it is another process's than the one reported on."""
    report = answer.report
    code = report.exit_status if exit_status is None else exit_status
    status, reason = _judge(answer, limits, code)
    return Run(
        status=status,
        reason=reason,
        exit_code=code if report.how == "exited" and code >= 0 else None,
        stdout=answer.stdout,
        stderr=answer.stderr,
        replies=replies,
        files=files or {},
        wall_seconds=report.wall_seconds,
        cpu_seconds=report.cpu_seconds,
        memory_bytes=report.memory_bytes,
        was_starved=report.how == "starved",
    )


def _judge(answer: Answer, limits: Limits, code: int) -> tuple[Status, str]:
    report = answer.report
    match report.how:
        case "lost":
            return "infra", report.reason
        case "starved":
            return "infra", f"the machine gave it no processor for {report.starved_seconds:.1f} s"
        case "wall" | "stopped" if answer.is_too_long:
            return "output", f"wrote more than {limits.output_bytes} bytes"
        case "wall":
            return "timeout", f"ran for more than {limits.wall_seconds:g} s"
        case "cpu":
            return "timeout", f"used more than {limits.processor_seconds:g} s of CPU"
        case "disk":
            return "output", f"wrote files of more than {limits.disk_mib} MiB"
    if answer.is_too_long:
        return "output", f"wrote more than {limits.output_bytes} bytes"
    if report.how == "stopped":
        return "failed", "stopped by its judge"
    if code == 0:
        return "passed", ""
    last = _last(answer)
    if code == OUT_OF_MEMORY == report.exit_status:
        return "memory", f"needs more than {limits.memory_mib} MiB"
    if code > 0:
        return "failed", f"ended with exit code {code}" + (f": {last}" if last else "")
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    if -code in (signal.SIGXCPU, signal.SIGKILL) and report.cpu_seconds >= limits.processor_seconds:
        return "timeout", f"used more than {limits.processor_seconds:g} s of CPU"
    if -code == signal.SIGKILL and code == report.exit_status:  # nothing in a jail can send it to its first process
        return "infra", "was killed from outside the jail, perhaps for want of memory"
    if -code == signal.SIGXFSZ:
        return "output", f"wrote a file of more than {limits.file_mib} MiB"
    return "crashed", f"ended by {name}"


def _last(answer: Answer) -> str:
    """Line that it wrote to stderr."""
    return answer.stderr.rstrip().rpartition(b"\n")[2][:200].decode(errors="replace")


class _Replies:
    """Replies as they come through a pipe, whose writer is not trusted."""

    def __init__(
        self,
        fd: int,
        num_steps: int,
        most_bytes: int,
        on_reply: Callable[[int, Reply], bool] | None,
        stop: Callable[[], None],
    ) -> None:
        os.set_blocking(fd, False)
        self._fd, self._num_steps, self._most, self._on_reply, self._stop = fd, num_steps, most_bytes, on_reply, stop
        self._received = bytearray()
        self._total = 0
        self.found: list[Reply] = []
        self.problem = ""
        self.error: Exception | None = None
        self.is_too_long = False
        self._done = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._read)

    def drain(self) -> None:
        """Take what is still in the pipe; nobody can write to it any more."""
        while not self._done and self._read():
            pass

    def close(self) -> None:
        """Take no more; may be called again."""
        self._loop.remove_reader(self._fd)

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return False
        if not data or self._done:
            self._loop.remove_reader(self._fd)
            return False
        self._received += data
        while not self._done and len(self._received) >= FRAME.size:
            (size,) = FRAME.unpack_from(self._received)
            if self._total + size > self._most:
                self.is_too_long = True
                self._give_up(f"sent back more than {self._most} bytes")
            if self._done or len(self._received) < FRAME.size + size:
                break
            self._total += size
            self._take(bytes(self._received[FRAME.size : FRAME.size + size]))
            del self._received[: FRAME.size + size]
        return True

    def _take(self, frame: bytes) -> None:
        try:
            reply = values.decode_reply(frame)
        except ValueError as error:
            self._give_up(f"sent back what is no reply: {error}")
            return
        self.found.append(reply)
        try:
            wants_more = self._on_reply is None or self._on_reply(len(self.found) - 1, reply)
        except Exception as error:  # of whoever asked, and told to them
            self.error, wants_more = error, False
        if len(self.found) == self._num_steps:
            self._done = True  # what follows is nothing that was asked
        elif not wants_more:
            self._done = True
            self._stop()

    def _give_up(self, problem: str) -> None:
        self.problem = problem
        self._done = True
        self._stop()


class _Descriptors:
    """Those of one execution: closed at the block's end, but for those that a request has taken over."""

    def __init__(self) -> None:
        self._own: set[int] = set()

    def __enter__(self) -> _Descriptors:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._own:
            os.close(fd)

    def pipe(self) -> tuple[int, int]:
        """(Where it is read, where it is written)."""
        ends = os.pipe()
        self._own.update(ends)
        return ends

    def in_memory(self, name: str, *parts: bytes | mmap) -> int:
        """A file that holds the parts, at its start."""
        fd = os.memfd_create(name)
        self._own.add(fd)
        for part in parts:
            write_all(fd, part)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def hand_over(self, *fds: int) -> list[int]:
        """From here on a request's to close."""
        self._own.difference_update(fds)
        return list(fds)
