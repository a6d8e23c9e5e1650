"""What the pool and its processes say to each other: frames of length, job, verifier's index, and a body.

The body is JSON, in which any text passes unharmed; that of a job has the response before it, as it is, for a response
is long and everything else is short.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import struct
from collections.abc import Mapping
from typing import Any

from rlvr.types import Verdict

HEADER = struct.Struct("<IQI")
"""Bytes of the body, job (0: not a job), verifier's index."""
_LENGTH = struct.Struct("<I")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+>")


def to_bytes(text: str) -> bytes:
    """UTF-8, in which each surrogate stays itself, even next to another."""
    return text.encode("utf-8", "surrogatepass")


def to_text(raw: bytes) -> str:
    """The inverse of to_bytes()."""
    return raw.decode("utf-8", "surrogatepass")


def to_json(value: Any) -> bytes:
    """JSON that json.loads() reads back as it was. TypeError, ValueError, RecursionError where there is none."""
    return to_bytes(_ENCODE(value))


def plain(value: Any) -> Any:
    """What JSON has no word for: arrays and their scalars as lists and numbers, sets in order, the rest as text.

    TypeError where that text would be another in each process.
    """
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, bytes):
        raise TypeError("bytes are not text")
    if _ADDRESS.search(text := str(value)):
        raise TypeError(f"{type(value).__name__} has no text that is the same in every process")
    return text


_ENCODE = json.JSONEncoder(ensure_ascii=False, default=plain).encode


def frame(body: Any, job: int = 0, verifier: int = 0) -> bytes:
    """Header and body as bytes; errors are those of to_json()."""
    return framed(to_json(body), job, verifier)


def framed(raw: bytes, job: int = 0, verifier: int = 0) -> bytes:
    """Header and body."""
    return HEADER.pack(len(raw), job, verifier) + raw


def job_body(response: bytes, asked: bytes, named: bytes, options: bytes) -> bytes:
    """What a worker judges, out of bound.texts() and [id, verifier, source] of the task. job_from() is its inverse."""
    return b"%b%b[%b,%b,%b]" % (_LENGTH.pack(len(response)), response, asked, named, options)


def job_from(body: bytes) -> tuple[str, list[Any], list[Any], dict[str, Any]]:
    """Response, [gold, prompt, info], [id, verifier, source], options."""
    end = _LENGTH.size + _LENGTH.unpack_from(body)[0]
    asked, named, options = json.loads(to_text(body[end:]))
    return to_text(body[_LENGTH.size : end]), asked, named, options


def verdict_body(verdict: Verdict, seconds: float, stderr: str = "") -> list[Any]:
    """A verdict without what the parent knows. verdict_from() is its inverse, after a trip through JSON."""
    score = None if verdict.score is None else float(verdict.score)
    head = [score, verdict.outcome, verdict.reason, verdict.answer, verdict.how, verdict.stage]
    checks = verdict.checks if type(verdict.checks) is dict else dict(verdict.checks)
    return [*head, checks, seconds, stderr, None if verdict.value is None else float(verdict.value)]


def verdict_from(body: list[Any], verifier: str, version: str, input_hash: str) -> Verdict:
    """The verdict that a worker framed."""
    score, outcome, reason, answer, how, stage, checks, seconds, stderr, value = body
    return Verdict(
        score=score,
        outcome=outcome,
        reason=reason,
        answer=answer,
        how=how,
        stage=stage,
        checks=checks,
        seconds=seconds,
        verifier=verifier,
        version=version,
        input_hash=input_hash,
        stderr=stderr,
        value=value,
    )


def take_frames(received: bytearray) -> list[tuple[int, int, bytes]]:
    """Take the complete (job, verifier, header and body) off the front."""
    frames, at, end = [], 0, len(received)
    while end - at >= HEADER.size:
        size, job, index = HEADER.unpack_from(received, at)
        after = at + HEADER.size + size
        if after > end:
            break
        frames.append((job, index, bytes(received[at:after])))
        at = after
    del received[:at]
    return frames


def read_available(fd: int) -> bytes | None:
    """What is there; b"" at the end, None where there is nothing yet."""
    try:
        return os.read(fd, 1 << 20)
    except BlockingIOError:
        return None


def widen(pipe: int, size: int) -> None:
    """Let a pipe hold so many bytes, where the system allows it: who writes and who reads take turns less often."""
    with contextlib.suppress(PermissionError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)
