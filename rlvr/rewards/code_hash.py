"""Which code a verdict came from: a hash of a verifier's module and of those beside it that it imports."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import rlvr

_HOME = Path(rlvr.__file__).parent
_IMPORT = re.compile(rb"^[ \t]*(?:from[ \t]+[\w.]+[ \t]+import[ \t]*\([^)]*\).*|(?:from|import)[ \t].*)$", re.MULTILINE)
_OURS = ("rlvr.verifiers.", "rlvr.sandbox.")


def code_hash(function: Callable[..., Any]) -> str:
    """8 hex digits, the same wherever the same code lies.

    Of the source of the function's module and, transitively, of the modules that it imports out of rlvr.verifiers,
    rlvr.sandbox or its own folder. Code without a source (builtins, a console) is known by its name and by Python's
    version.
    """
    module = inspect.getmodule(function)
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        name = f"{sys.version} {getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
        return _digest([name.encode()])
    return _hash_of(file, getattr(module, "__package__", None) or "")


@functools.cache
def _hash_of(file: str, package: str) -> str:
    """Read once: what a process has imported does not change with its file."""
    start = Path(file).resolve()
    sources: dict[Path, bytes] = {}
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path in sources:
            continue
        try:
            sources[path] = path.read_bytes()
        except OSError:  # deleted since it was imported: known by its name alone
            sources[path] = b""
        home = package if path.parent == start.parent else ""
        waiting += [found for name in _imported(sources[path], home) if (found := _file_of(name, home, path.parent))]
    # by name and not by path: a checkout elsewhere is the same code
    return _digest([start.name.encode(), *(s for _, s in sorted((p.name.encode(), s) for p, s in sources.items()))])


def _digest(parts: list[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=4)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _imported(source: bytes, package: str) -> Iterator[str]:
    """Full names of what a module imports, anywhere in it; of `from a import b` both a and a.b."""
    for statement in _IMPORT.findall(source):  # parsing whole modules would take a tenth of a second
        try:
            (node,) = ast.parse(statement.strip()).body
        except (SyntaxError, ValueError):  # a line of a text
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            name = ".".join(filter(None, (*parents, node.module)))
            yield name
            yield from (f"{name}.{alias.name}" if name else alias.name for alias in node.names)


def _file_of(name: str, package: str, folder: Path) -> Path | None:
    """The file of a module of ours, or beside the one that imports it; None for all others."""
    if name.startswith(_OURS):
        file = _HOME.joinpath(*name.split(".")[1:]).with_suffix(".py")
    elif package and not name.startswith(package + "."):
        return None
    else:
        beside = folder.joinpath(*name.removeprefix(package + ".").split("."))
        file = beside.with_suffix(".py")
        file = file if file.is_file() else beside / "__init__.py"
    return file.resolve() if file.is_file() else None
