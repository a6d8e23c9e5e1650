"""Errors that people can act on. Each carries the exit code of the command that it ends."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 80
_LONGEST_NAME = 100
"""Characters that are compared with what is known."""


def near(name: str, known: Iterable[str]) -> str:
    """A hint to put before other words, "did you mean 'math'? "; "" where no known name is near."""
    found = difflib.get_close_matches(name[:_LONGEST_NAME], list(known), n=1)
    return f"did you mean {found[0]!r}? " if found else ""


def one_line(error: BaseException, most: int = 300) -> str:
    """What an error says, on one line: "ValueError: no such thing". At most so many characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:most]


def short(text: str) -> str:
    """A name or a value for messages: quoted, on one line, cut at 80 characters."""
    text = " ".join(text.split())
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}...")


class RlvrError(Exception):
    """Root of our errors; its text is one line that says what is wrong, where, and what would be right."""

    exit_code = 1


class SettingsError(RlvrError, ValueError):
    """A recipe, override or option is wrong. Several problems are several lines."""

    exit_code = 2


class PluginError(SettingsError, LookupError):
    """A name that nobody registered, or that two claim."""


class DataError(RlvrError, ValueError):
    """Rows, files or models that cannot be used."""

    exit_code = 3


class DiskError(RlvrError, OSError):
    """Disk full, read-only or in use by another run."""

    exit_code = 4


class NonFiniteError(RlvrError, ArithmeticError):
    """NaN or infinity in loss, gradient or weights."""

    exit_code = 5


class EngineError(RlvrError, RuntimeError):
    """The sampler failed or disagrees with the trainer."""

    exit_code = 6


class Stopped(RlvrError):
    """Stopped on request; the same command resumes."""

    exit_code = 75
