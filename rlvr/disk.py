"""What outlives a power cut."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path


def sync(path: Path) -> None:
    """Have the disk keep a file as it is, or the names in a folder. OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, text: str) -> None:
    """A file, whole or not at all; its name outlives a power cut once sync(path.parent) was called. OSError."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        with open(fresh, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def publish(part: Path, path: Path) -> None:
    """Give a file or a folder that is whole its name, which outlives a power cut; a file keeps the name `part` too.
    FileExistsError: something has that name, and keeps it. OSError: `path` is not there."""
    is_folder = part.is_dir()
    try:
        (os.rename if is_folder else os.link)(part, path)  # an empty folder may be replaced
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
    try:
        sync(path.parent)
    except OSError:
        if is_folder:
            os.rename(path, part)
        else:
            path.unlink()
        raise


def sha256(path: Path) -> str:
    """Of a file's bytes, 64 hexadecimal digits. OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
