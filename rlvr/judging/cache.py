"""Replies that were paid for, by all that they depend on, in a SQLite file: asked again, they are the same bits.

Safe from any thread; a kill at any instant loses no more than the replies that were just being written.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rlvr.errors import DataError, DiskError
from rlvr.judging.questions import Question
from rlvr.judging.replies import Reply
from rlvr.types import SCHEMA

_MOST_AT_ONCE = 500
"""Keys of one query; SQLite takes no more than 999 in old versions."""


def key_of(identity: str, question: Question) -> str:
    """32 hexadecimal digits of the judge and of the whole request."""
    whole = json.dumps([identity, asdict(question)], sort_keys=True)
    return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()


class Cache:
    """Replies by key_of(). DiskError where the file cannot be written, DataError where it is something else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
            self._db.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA),))
            found = self._db.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise self._error(error) from error
        except OSError as error:
            raise DiskError(f"judge's cache {path}: {error.strerror or error}") from error
        if found != str(SCHEMA):
            raise DataError(f"judge's cache {path} is of version {found}, this rlvr reads {SCHEMA}; name another file")

    def get(self, keys: Sequence[str]) -> dict[str, Reply]:
        """Those that there are."""
        found: dict[str, Reply] = {}
        try:
            with self._lock:
                for start in range(0, len(keys), _MOST_AT_ONCE):
                    some = keys[start : start + _MOST_AT_ONCE]
                    marks = ",".join("?" * len(some))
                    rows = self._db.execute(f"SELECT key, reply FROM replies WHERE key IN ({marks})", list(some))
                    found |= {key: Reply.from_json(written) for key, written in rows}
        except sqlite3.DatabaseError as error:
            raise self._error(error) from error
        return found

    def put(self, replies: Sequence[tuple[str, Reply]]) -> None:
        """All of them or none; the first reply to a question stays."""
        rows = [(key, reply.to_json()) for key, reply in replies if not reply.problem]
        if not rows:
            return
        try:
            with self._lock:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    self._db.executemany("INSERT OR IGNORE INTO replies VALUES (?, ?)", rows)
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:  # a full disk has ended it already
                        self._db.execute("ROLLBACK")
                    raise
        except sqlite3.DatabaseError as error:
            raise self._error(error) from error

    def close(self) -> None:
        with self._lock:
            self._db.close()  # closing again does nothing

    def _error(self, error: sqlite3.DatabaseError) -> Exception:
        if isinstance(error, sqlite3.OperationalError):
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            is_full = code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
            return DiskError(f"judge's cache {self.path}: {error}{' (is the disk full?)' if is_full else ''}")
        return DataError(f"judge's cache {self.path} holds no replies ({error}); remove it, or name another file")
