"""Names to objects: decorators, entry points, `package.module:attribute` and `folder/file.py:attribute`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from rlvr.errors import PluginError, near, one_line

_BUILT_IN: dict[str, dict[str, str]] = {
    # kind -> name -> module whose import registers it; a module of ours may not bear a stdlib name (math)
    "verifier": {
        "boxed": "rlvr.verifiers.boxed",
        "choice": "rlvr.verifiers.choice",
        "composite": "rlvr.rewards.composite",
        "exact": "rlvr.verifiers.exact",
        "f1": "rlvr.verifiers.word_f1",
        "http": "rlvr.verifiers.http_endpoint",
        "ifeval": "rlvr.verifiers.ifeval",
        "json": "rlvr.verifiers.json_values",
        "language": "rlvr.verifiers.language",
        "length": "rlvr.verifiers.length_budget",
        "math": "rlvr.verifiers.math_equal",
        "numeric": "rlvr.verifiers.numeric",
        "prime": "rlvr.verifiers.prime_env",
        "python_tests": "rlvr.verifiers.python_tests",
        "reasoning_gym": "rlvr.verifiers.reasoning_gym_task",
        "regex": "rlvr.verifiers.regex_match",
        "repetition": "rlvr.verifiers.repetition",
        "sql": "rlvr.verifiers.sql_result",
        "stdin_stdout": "rlvr.verifiers.stdin_stdout",
        "steps": "rlvr.verifiers.process_steps",
        "table": "rlvr.verifiers.table_values",
        "tags": "rlvr.verifiers.tag_grammar",
        "trl": "rlvr.verifiers.trl_function",
        "verl": "rlvr.verifiers.verl_function",
    },
}
_ENTRY_POINTS = {"verifier": "rlvr.verifiers"}
_registered: dict[tuple[str, str], Any] = {}

Isolation = Literal["worker", "thread"]
"""worker: a process that is killed at the timeout. thread: a thread of the asking process, for one that only waits."""


def register(kind: str, name: str, thing: Any) -> None:
    """Claim a name; PluginError where another object has it."""
    other = _registered.get((kind, name))
    if other is not None and _where(other) != _where(thing):
        raise PluginError(f"{kind} {name!r} is already taken by {_where(other)}; {_where(thing)} needs another name")
    _registered[kind, name] = thing


def verifier(
    name: str,
    *,
    version: str = "1",
    timeout: float = 1.0,
    wall_seconds: float | None = None,
    isolation: Isolation = "worker",
) -> Callable[[Callable[..., Any]], Any]:
    """Register a function as a verifier.

    Its parameters are injected by name, out of `response, gold, task, answer, how, seed`; it returns a Verdict, a float
    in [0, 1], a bool, or None (not applicable), or is `async` and returns one of these. Keyword-only parameters with a
    default are its options, set under rewards.NAME.options. `timeout` is CPU seconds; it runs where it can be killed.
    One that waits for others says for how long at most (wall_seconds, else 10 times the timeout and at least 10):
    beyond that it counts as our failure. One that does nothing but wait (for a network) may have isolation="thread",
    where wall_seconds is the only limit. `version` goes into every verdict, with a hash of the code: raise it when
    verdicts change. PluginError where one of these is not right.
    """
    problem = _declaration_problem(version, timeout, wall_seconds, isolation)
    if problem:
        raise PluginError(f"verifier {name!r}: {problem}")

    def claim(function: Callable[..., Any]) -> Callable[..., Any]:
        function.verifier_name = name  # type: ignore[attr-defined]
        function.verifier_version = version  # type: ignore[attr-defined]
        function.verifier_timeout = timeout  # type: ignore[attr-defined]
        function.verifier_wall_seconds = wall_seconds  # type: ignore[attr-defined]
        function.verifier_isolation = isolation  # type: ignore[attr-defined]
        register("verifier", name, function)
        return function

    return claim


def _declaration_problem(version: Any, timeout: Any, wall_seconds: Any, isolation: Any) -> str:
    if not isinstance(version, str) or not version:
        return f'version must be text, such as "1", got {version!r}'
    for name, seconds in (("timeout", timeout), ("wall_seconds", wall_seconds)):
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not (name == "wall_seconds" and seconds is None) and not (number and 0 < seconds < math.inf):
            return f"{name} must be a number of seconds above 0, got {seconds!r}"
    if isolation not in get_args(Isolation):
        hint = near(str(isolation), get_args(Isolation))
        return f"isolation must be one of {', '.join(get_args(Isolation))}; {hint}got {isolation!r}"
    return ""


def known(kind: str) -> list[str]:
    """All names of a kind, whether loaded or not."""
    names = {name for k, name in _registered if k == kind} | set(_BUILT_IN.get(kind, {}))
    if kind in _ENTRY_POINTS:
        names |= {entry.name for entry in metadata.entry_points(group=_ENTRY_POINTS[kind])}
    return sorted(names)


def find(kind: str, name: str) -> Any:
    """The object of that name, importing only the module it lives in. PluginError names the nearest name."""
    if (kind, name) in _registered:
        return _registered[kind, name]
    if name in _BUILT_IN.get(kind, {}):
        importlib.import_module(_BUILT_IN[kind][name])
        return _registered[kind, name]
    if kind in _ENTRY_POINTS:
        for entry in metadata.entry_points(group=_ENTRY_POINTS[kind], name=name):
            try:
                return entry.load()
            except Exception as error:  # whatever stands in somebody else's module
                raise PluginError(f"{kind} {name!r}: cannot import {entry.value!r}: {one_line(error)}") from error
    if ":" in name:
        return load(name, what=kind)
    raise PluginError(
        f"no {kind} named {name!r}; {near(name, known(kind))}known: {', '.join(known(kind))} "
        "(or package.module:name, or file.py:name)"
    )


def load(path: str, *, what: str) -> Any:
    """The attribute behind `package.module:attribute` or `folder/file.py:attribute`. PluginError where none is."""
    where, _, attribute = path.rpartition(":")
    if not where or not attribute:
        raise PluginError(f"{what} {path!r} must be package.module:name or file.py:name")
    module = _from_file(Path(where), what) if where.endswith(".py") else _from_package(where, what)
    try:
        return getattr(module, attribute)
    except AttributeError:
        told = f"{what} {path!r}: {where} has no {attribute!r}; {near(attribute, dir(module))}"
        raise PluginError(told.rstrip("; ")) from None


def _from_package(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever stands in somebody else's module
        raise PluginError(f"{what}: cannot import {name!r}: {one_line(error)}") from error


def _from_file(path: Path, what: str) -> Any:
    if not path.is_file():
        raise PluginError(f"{what}: no file {path} (seen from {Path.cwd()})")
    full = path.resolve()
    name = f"rlvr_plugin_{full.stem}_{hashlib.blake2b(str(full).encode(), digest_size=4).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, full)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before running it: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception) or isinstance(error, PluginError):
            raise
        raise PluginError(f"{what}: cannot import {path}: {one_line(error)}") from error
    return module


def _where(thing: Any) -> str:
    code = getattr(thing, "__code__", None)
    file = f" ({code.co_filename})" if code else ""
    return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', thing)}{file}"
