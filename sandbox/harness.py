"""What runs with the program in its own process: starts it, calls what it defines, and hands back plain data.

The program can change anything here. It gains nothing: what goes out is a claim that the host compares, and no expected
value is in this process.
"""

from __future__ import annotations

import _thread
import atexit
import builtins
import contextlib
import io
import os
import signal
import stat
import struct
import sys
import threading
import traceback
import types
from typing import TYPE_CHECKING, Any, NoReturn

from rlvr.sandbox import values

if TYPE_CHECKING:
    from mmap import mmap

FRAME = struct.Struct("<I")
"""Bytes of what follows: a request or a reply."""
NAME = "solution.py"
_REHEARSAL = b"""
import sys, math, collections, itertools, heapq, bisect, functools, re, string
from typing import List, Dict, Optional, Tuple
def solve(n, a, b=None):
    result, count = [], {}
    for i in range(len(a)):
        count[a[i]] = count.get(a[i], 0) + 1
        if i % 2 == 0 and n > i or not b:
            result.append(sorted(str(x) for x in a))
    return result[0] if result else -1
class Solution:
    def __init__(self): self.x = 0
    def solve(self, nums: List[int], k: int) -> int: return max(nums) - min(nums) + sum(nums)
def main():
    a, b = map(int, input().split())
    data = list(map(int, sys.stdin.read().split()))
    print(solve(a, [a, b] + data), Solution().solve(data, b), " ".join(map(str, data)), f"{a} {b:.3f}")
if __name__ == "__main__":
    main()
"""
_NOT_ITS_OWN = (NameError, ImportError, SyntaxError, MemoryError, StopIteration, StopAsyncIteration)
"""What a program cannot raise in its judge: it would look like the fault of others, or end a loop early."""
NOT_ASKED, ASKED = b"-\n", b"+\n"
"""How the stderr of a judge begins: whether it has called the program. It stays so whatever ends the judge later."""
CANNOT_SEND = 84
"""Exit code of a judge whose tests pass the program what is not plain data; of nothing else that ends a judge."""
OUT_OF_MEMORY = 83
"""Exit code of a program that a MemoryError ends."""
_IN, _OUT = 3, 4
"""Descriptors of what a function-mode program is asked and answers; absent where it only reads and prints."""


def run(kind: str, more: dict[str, Any], program: bytes, folder: str, install_filter: Any) -> NoReturn:
    """Run the program as the request's kind says, and end the process."""
    if kind == "execute":
        _execute(more, folder, install_filter)
    steps = None
    if kind == "steps":
        steps = values.decode(_read_all(_IN))
        os.close(_IN)
    if kind == "judge":
        os.write(2, NOT_ASKED)
        _namespace.update({name: _stub(name) for name in more["names"]})
    if sys.path[0] != folder:
        sys.path.insert(0, folder)
    code = 0
    try:
        exec(compile(program, NAME, "exec", dont_inherit=True), _namespace)
        if steps is not None:
            for step in steps:
                _answer(_namespace, step)
        elif kind == "serve":
            while (asked := _read_frame(_IN)) is not None:
                _answer(_namespace, values.decode(asked))
    except BaseException as error:
        code = _code_of(error)
    try:
        if _thread._count():  # type: ignore[attr-defined]
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException as error:
        code = code or _code_of(error)
    if kind == "judge" and code != OUT_OF_MEMORY:
        code = min(code, 1)  # an answer may have become the code
    try:
        sys.stderr.flush()
    finally:
        os._exit(code)


_main = types.ModuleType("__main__")
_main.__dict__.update(__builtins__=builtins, __file__=NAME)
_namespace = _main.__dict__
"""Of the program, in the process of each child; here it stays as it is."""


def become_main() -> None:
    """Before the fork: make the program's module the main one."""
    sys.modules["__main__"] = _main
    sys.path.insert(0, "/tmp")


def rehearse() -> None:
    """Before the fork: run a program of ours that does what most do."""
    streams = sys.stdin, sys.stdout
    sys.stdin, sys.stdout = io.TextIOWrapper(io.BytesIO(b"1 2\n3\n"), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    exec(compile(_REHEARSAL, NAME, "exec", dont_inherit=True), dict(_namespace))
    sys.stdout.flush()
    sys.stdin, sys.stdout = streams


def _code_of(error: BaseException) -> int:
    """The exit code that a plain interpreter would end with, having told stderr what it would."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        sys.stderr.write(f"{error.code}\n")
        return 1
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != NAME:  # what is before it is ours
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)
    return OUT_OF_MEMORY if isinstance(error, MemoryError) else 1


def open_streams() -> None:
    """stdin, stdout and stderr over descriptors 0, 1 and 2, whatever these will be when they are used."""
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "rb", closefd=False)), "utf-8", "surrogateescape")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "wb", closefd=False)), "utf-8", "surrogateescape")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "wb", closefd=False)), "utf-8", "backslashreplace", line_buffering=True
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def _answer(namespace: dict[str, Any], step: Any) -> None:
    """Do one step and send what came of it."""
    try:
        kind, *rest = step
        if kind == "call":
            name, args, kwargs = rest
            value = _look_up(namespace, name)(*args, **kwargs)
        elif kind == "eval":
            value = eval(compile(rest[0], "test", "eval", dont_inherit=True), namespace)
        else:
            value = exec(compile(rest[0], "test", "exec", dont_inherit=True), namespace)
        reply = values.encode_reply(value)
    except BaseException as error:
        reply = values.encode_error(_said(error))
    with contextlib.suppress(BaseException):  # whoever reads the reply may end this process
        sys.stdout.flush()
    write_all(_OUT, FRAME.pack(len(reply)) + reply)


def _look_up(namespace: dict[str, Any], name: str) -> Any:
    """`solve`, or `Solution.solve` of a new Solution()."""
    first, *path = name.split(".")
    if first not in namespace:
        raise NameError(f"the program defines no {first!r}")
    found = namespace[first]
    for part in path:
        found = getattr(found() if isinstance(found, type) else found, part)
    return found


def _said(error: BaseException) -> str:
    try:
        text = str(error)
        return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__
    except BaseException:
        return "an exception that cannot be printed"


def _stub(name: str) -> Any:
    """A function that asks the program in the other jail, by plain data."""

    def ask(*args: Any, **kwargs: Any) -> Any:
        asked = values.encode(("call", name, args, kwargs))
        if stranger := _stranger((args, kwargs)):
            os.write(2, f"\nthe tests pass an object of class {stranger}, which does not reach the program\n".encode())
            os._exit(CANNOT_SEND)  # nothing that the tests could catch
        os.pwrite(2, ASKED, 0)
        with contextlib.suppress(BrokenPipeError):  # it may have answered in advance, and ended
            write_all(_OUT, FRAME.pack(len(asked)) + asked)
        answered = _read_frame(_IN)
        if answered is None:
            raise RuntimeError("the program has ended")
        reply = values.decode_reply(answered)
        if reply.error:
            raise _as_exception(reply.error)
        return reply.value

    ask.__name__ = ask.__qualname__ = name
    return ask


def _stranger(value: Any) -> str:
    """The class of the first object anywhere within a value that does not travel, "" where all of it does.

    What came as opaque from the program does not count: it is not the tests that made it.
    """
    waiting = [value]
    while waiting:
        item = waiting.pop()
        kind = type(item)
        if item is None or kind in (int, str, float, bool, bytes, values.Opaque):
            continue
        if kind not in (list, tuple, dict) and values.encode(item)[:1] == b"o":
            return kind.__name__
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset | values.deque):
            waiting += item
    return ""


def _as_exception(error: str) -> Exception:
    """What the program raised, for tests that expect it: a built-in exception by its name, else RuntimeError."""
    name, _, text = " ".join(error.split()).partition(": ")
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _NOT_ITS_OWN):
        with contextlib.suppress(TypeError):  # one that wants more than a text
            return kind(text)
    return RuntimeError(error)


def _execute(request: dict[str, Any], folder: str, install_filter: Any) -> NoReturn:
    """Put files into the folder, run the request's command there, send the files that were asked for.

    This process stays the first of its namespace: when it ends, whatever the command left behind ends too.
    """
    at = 0
    for name, size in request["files"]:
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700)
        end = at + size
        while at < end:
            at += os.sendfile(file, _IN, at, end - at)
        os.close(file)
    out = os.dup(_OUT)
    os.set_inheritable(out, False)
    os.close(_IN)
    os.close(_OUT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pid = os.fork()
    if pid == 0:
        try:
            for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):  # ignored here, and so they would be there
                signal.signal(number, signal.SIG_DFL)
            os.setpgid(0, 0)
            if install_filter is not None:
                install_filter.install()
            os.execve(request["argv"][0], request["argv"], request["environment"])
        except BaseException as error:
            os.write(2, f"{request['argv'][0]}: {error}\n".encode())
        finally:
            os._exit(127)
    status = None
    while status is None:
        ended, how = os.wait()
        if ended == pid:
            status = how
    code = os.waitstatus_to_exitcode(status)
    room = request["fetch_bytes"] - FRAME.size * (1 + len(request["fetch"]))
    write_all(out, FRAME.pack(code & 0xFFFFFFFF))
    for name in request["fetch"]:
        data = _fetch(os.path.join(folder, name), room)
        room -= len(data)
        write_all(out, FRAME.pack(len(data)))
        write_all(out, data)
    os._exit(0)


def _fetch(path: str, most: int) -> bytes:
    """A plain file's content; nothing where it is none, or larger than `most`, also if it grows meanwhile."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    info = os.fstat(fd)
    data = b""
    if stat.S_ISREG(info.st_mode) and info.st_size <= most:
        data = _read_exactly(fd, info.st_size) or b""
    os.close(fd)
    return data


def _read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _read_exactly(fd: int, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        part = os.read(fd, size - len(data))
        if not part:
            return None
        data += part
    return data


def _read_frame(fd: int) -> bytes | None:
    """The next one; None at the end, and where none may be so large."""
    header = _read_exactly(fd, FRAME.size)
    if header is None or (size := FRAME.unpack(header)[0]) > values.CAPS.num_bytes:
        return None
    return _read_exactly(fd, size)


def write_all(fd: int, data: bytes | mmap) -> None:
    """However many calls it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
