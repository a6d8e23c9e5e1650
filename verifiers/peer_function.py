"""Somebody else's reward function (TRL's, verl's) as a verifier: find it, call it, read what it returns."""

from __future__ import annotations

import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlvr import plugins
from rlvr.awaiting import awaited
from rlvr.errors import PluginError
from rlvr.types import Verdict

_TAKES_ALL = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@functools.lru_cache(maxsize=64)
def load(path: str) -> Callable[..., Any]:
    """The function behind `package.module:name` or `file.py:name`. PluginError where there is none."""
    if not path:
        raise PluginError("the option function names none: package.module:name or file.py:name")
    function = plugins.load(path, what="the option function")
    if not callable(function):
        raise PluginError(f"the option function: {path} is {type(function).__name__}, which cannot be called")
    return function


def start_problem(options: Mapping[str, Any]) -> str:
    """Why nothing can be judged with these options, `function`, `low` and `high`; one line, "" where it can be."""
    if problem := range_problem(options):
        return problem
    try:
        load(options.get("function", ""))
    except PluginError as error:
        return str(error)
    return ""


def accepted(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that the function takes by name; all where it has **kwargs, or no signature."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return dict(given)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(given)
    names = {parameter.name for parameter in parameters if parameter.kind in _TAKES_ALL}
    return {name: value for name, value in given.items() if name in names}


def call(path: str, given: Mapping[str, Any]) -> Any:
    """What the function returns, awaited where it is async; a Verdict that says why where it cannot be asked."""
    try:
        function = load(path)
    except PluginError as error:
        return unjudged(str(error))
    try:
        result = function(**given)
        return awaited(result) if inspect.isawaitable(result) else result
    except MemoryError:  # told by who runs verifiers
        raise
    except Exception as error:  # whatever stands in somebody else's function
        return unjudged(f"{path} raised {' '.join(f'{type(error).__name__}: {error}'.split())[:300]}")


@functools.lru_cache(maxsize=64)
def code_of(path: str) -> str:
    """The file that holds the function, and 8 hex digits of a hash of it: "judge.py 9f3c01ab"; "" where there is none.

    Of that file alone: what it imports is not in it. Read once, as what a process has imported does not change.
    """
    try:
        return file_hash(inspect.unwrap(load(path)))
    except PluginError:
        return ""


def file_hash(thing: Any) -> str:
    """The same of the file that holds a function or class."""
    try:
        file = inspect.getsourcefile(thing)
        return f"{Path(file).name} {hashlib.sha256(Path(file).read_bytes()).hexdigest()[:8]}" if file else ""
    except (TypeError, OSError):  # written in C, or deleted since it was imported
        return ""


def with_code(verdict: Verdict, code: str) -> Verdict:
    """The verdict with checks["code"]: whose code judged, which the version of our own does not cover."""
    return replace(verdict, checks={**verdict.checks, "code": code}) if code else verdict


def scored(what: str, value: Any, low: float, high: float, checks: Mapping[str, Any] | None = None) -> Verdict:
    """The verdict of a number in [low, high], which becomes [0, 1]; anything else is our failure, named.

    `what` returned it. A sum of weights may be 1.0000000000000002: a 1e-9th of the range beyond an end is the end.
    """
    number = _number(value)
    if number is None:
        return unjudged(f"{what} returned {_short(value)}, not a number")
    score = (number - low) / (high - low)
    if not -1e-9 <= score <= 1 + 1e-9:  # NaN is not
        return unjudged(f"{what} returned {number:g}, which is not in [{low:g}, {high:g}] (options low and high)")
    score = 1.0 if abs(score - 1) <= 1e-9 else 0.0 if abs(score) <= 1e-9 else score
    return Verdict(
        score=score,
        outcome="correct" if score == 1 else "wrong" if score == 0 else "partial",
        reason=f"{what} returned {number:g}",
        checks=checks or {},
    )


def range_problem(options: Mapping[str, Any]) -> str:
    """Why `low` and `high` of the options are no range; "" where they are."""
    low, high = options.get("low", 0.0), options.get("high", 1.0)
    if math.isfinite(low) and math.isfinite(high) and low < high:
        return ""
    return f"the option low must be below high, got {low:g} and {high:g}"


def unjudged(reason: str) -> Verdict:
    """A verdict of ours."""
    return Verdict(score=None, outcome="error", reason=reason)


def plain(value: Any) -> Any:
    """Plain data for a verdict's checks: numbers and short texts as they are, the rest as short text."""
    if value is None or isinstance(value, bool | int):
        return value
    number = _number(value)
    if number is not None:
        return number if math.isfinite(number) else str(number)
    return value[:300] if isinstance(value, str) else _short(value)


def _number(value: Any) -> float | None:
    """Also of numpy's and torch's scalars."""
    if not isinstance(value, bool | int | float | str | bytes | list | tuple | Mapping):
        item = getattr(value, "item", None)
        if callable(item):
            try:
                value = item()
            except (TypeError, ValueError, RuntimeError):  # more than one number
                return None
    if not isinstance(value, bool | int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number beyond 1e308
        return math.inf if value > 0 else -math.inf


def _short(value: Any) -> str:
    if isinstance(value, list | tuple | Mapping):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return "None" if value is None else f"a {type(value).__name__}"
