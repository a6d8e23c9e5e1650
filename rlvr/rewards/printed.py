"""What a verifier prints while it judges: kept in memory that outlives its process, the end of it alone."""

from __future__ import annotations

import fcntl
import io
import os
import sys
from typing import Any

from rlvr.rewards.bound import STDERR_CHARACTERS

_MOST_BYTES = 256 << 10
_KEPT_BYTES = 4 * STDERR_CHARACTERS


class Printed:
    """A worker's standard output and error. Made by the supervisor, which can read it when the worker is dead."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("rlvr-printed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # it may not grow, so that nobody can fill the machine's memory by printing
        os.ftruncate(self.fd, _MOST_BYTES)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)

    def install(self) -> None:
        """From here on, what this process and those that it starts print goes there."""
        os.dup2(self.fd, 1)
        os.dup2(self.fd, 2)
        # unbuffered: what was printed before a crash is there
        end: Any = _End(self.fd)
        sys.stdout = sys.stderr = io.TextIOWrapper(end, "utf-8", "backslashreplace", write_through=True)

    def take(self) -> str:
        """The last STDERR_CHARACTERS since it was last asked; costs next to nothing where there is nothing."""
        end = os.lseek(self.fd, 0, os.SEEK_CUR)
        if not end:
            return ""
        start = max(0, end - _KEPT_BYTES)
        os.lseek(self.fd, 0, os.SEEK_SET)
        return os.pread(self.fd, end - start, start).decode(errors="replace")[-STDERR_CHARACTERS:]

    def close(self) -> None:
        os.close(self.fd)


class _End(io.RawIOBase):
    """Writes that begin anew with the end of what was written where there is no more room."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        end = os.lseek(self._fd, 0, os.SEEK_CUR)
        raw = bytes(data)
        if end + len(raw) > _MOST_BYTES:
            raw = os.pread(self._fd, min(end, _KEPT_BYTES), max(0, end - _KEPT_BYTES)) + raw[-_KEPT_BYTES:]
            os.lseek(self._fd, 0, os.SEEK_SET)
        os.write(self._fd, raw)
        return len(data)
