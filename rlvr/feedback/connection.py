"""The SQLite file beneath a database of feedback: how it is opened and locked, and what its errors mean to people."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import sqlite3
from pathlib import Path

from rlvr.errors import DataError, DiskError

_BUSY_MS = 10_000
_LITTLE_BYTES = 1 << 20
"""Of free space, or of room below the limit of a file's size: with less than that it is what ended a write."""


def connect(path: Path, *, readonly: bool) -> sqlite3.Connection:
    """A connection without transactions of its own; sqlite3.Error."""
    # a URI knows %, ? and # as its own; as_uri() writes them as it has to
    uri = path.absolute().as_uri()
    if readonly and not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists():
        uri += "?immutable=1"  # SQLite cannot make its -shm file here, and needs none where nobody writes
    elif readonly:
        uri += "?mode=ro"
    else:
        uri += "?mode=rw"
    return sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000, cached_statements=64
    )


def take_lock(path: Path) -> int:
    """Descriptor of FILE.lock. DataError: in use, or of several names; DiskError: it cannot be had.

    Not of the database's own file: to close any descriptor of that would drop SQLite's locks.
    """
    if path.exists() and (num := path.stat().st_nlink) > 1:  # SQLite would keep a log beside each name
        raise DataError(f"{path}: has {num} names (hard links); copy it to a file of its own, and use that")
    name = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {name.name}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
        os.close(descriptor)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise DiskError(f"{path}: cannot be locked: {error.strerror}") from None
        who = f" (process {holder})" if holder else ""
        raise DataError(f"{path}: is in use by another rlvr{who}; end that first") from None
    with contextlib.suppress(OSError):  # the number is for people; a full disk is told of where it matters
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
    return descriptor


class Place:
    """Where an open database lies, and whether it still does: what is written to a file without a name is gone with
    the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened = self._identity()
        self._has_log = self._is_lost = False

    def check(self) -> None:
        """DiskError where the file that was opened, or its write-ahead log, is no longer there."""
        had_log, self._has_log = self._has_log, self.path.with_name(f"{self.path.name}-wal").exists()
        self._is_lost = self._is_lost or self._identity() != self._opened or (had_log and not self._has_log)
        if self._is_lost:
            raise DiskError(
                f"{self.path}: was moved, removed or replaced while it was in use; nothing more is stored: start anew"
            )

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def none_there(path: Path) -> DataError:
    """What is said of a database that is not there."""
    return DataError(f"{path}: no such database (rlvr label FILE --db {path} makes one)")


def as_ours(error: sqlite3.Error, path: Path) -> DataError | DiskError:
    """What SQLite says, in one line that names the file."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskError(f"{path}: no space left on the disk; nothing was written")
    if code == sqlite3.SQLITE_IOERR:
        why = _why_not_written(path)
        return DiskError(
            f"{path}: could not be written: {why}; nothing was written" if why else _unreadable(path, error)
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY):
        return DiskError(_unreadable(path, error))
    if code == sqlite3.SQLITE_NOTADB:
        return DataError(f"{path}: is no SQLite database (rlvr label FILE --db NEW makes one)")
    return DataError(f"{path}: is damaged ({error}); take a copy of before")


def _unreadable(path: Path, error: sqlite3.Error) -> str:
    return f"{path}: cannot be read or written ({error})"


def _why_not_written(path: Path) -> str:
    """What SQLite calls "disk I/O error" where the limit of a file's size or the end of the space is near; "" else."""
    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.suppress(OSError):
        files = (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-journal"))
        largest = max((file.stat().st_size for file in files if file.exists()), default=0)
        if most != resource.RLIM_INFINITY and largest + _LITTLE_BYTES > most:
            return f"no file may have more than {most} bytes here (ulimit -f)"
        if shutil.disk_usage(path.absolute().parent).free < _LITTLE_BYTES:
            return "no space left on the disk"
    return ""
