"""Checkpoints that are whole or absent: written aside, synced, named in a manifest with checksums, then renamed.

safetensors and JSON only. Only what cannot be derived is kept: weights, optimizer state, and a few numbers; seeds,
learning rates and data order are functions of the step.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.errors import DataError, DiskError
from rlvr.types import SCHEMA

if TYPE_CHECKING:
    from torch import Tensor


_FILES = ("state.safetensors", "state.json")


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, keep: int) -> Path:
    """Write folder/STEP and prune older ones to `keep`. DiskError leaves the older ones as they were."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    final = folder / f"{step:06d}"
    fresh = folder / f".{step:06d}.{os.getpid()}.new"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".*.new"):
            shutil.rmtree(stale, ignore_errors=True)
        fresh.mkdir()
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, fresh / "state.safetensors"
        )
        (fresh / "state.json").write_text(json.dumps({"step": step, **state}))
        files = {p.name: {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in sorted(fresh.iterdir())}
        (fresh / "manifest.json").write_text(json.dumps({"schema": SCHEMA, "step": step, "files": files}, indent=1))
        for path in fresh.iterdir():
            _sync(path)
        _sync(fresh)
        if final.exists():  # the same step again: what is there was verified and not chosen
            shutil.rmtree(final)
        fresh.rename(final)
        _sync(folder)
        others = _newest_first(folder)
        # newer ones were damaged, else the run would have gone on from them; only what is older counts
        for path in [p for p in others if int(p.name) > step] + [p for p in others if int(p.name) < step][keep - 1 :]:
            shutil.rmtree(path)
    except (OSError, SafetensorError) as error:  # safetensors tells a full disk by an error of its own
        shutil.rmtree(fresh, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise DiskError(f"cannot save the checkpoint of step {step} to {folder}: {reason}") from error
    return final


def load_newest(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, Any], list[str]] | None:
    """(step, tensors, state, why newer ones were skipped) of the newest one that verifies; None where there is none."""
    from safetensors.torch import load_file

    skipped: list[str] = []
    for path in _newest_first(folder):
        fault = verify(path)
        if fault is None:
            state = json.loads((path / "state.json").read_text())
            return state["step"], load_file(path / "state.safetensors"), state, skipped
        skipped.append(f"checkpoint {path.name} skipped: {fault}")
    if skipped:
        raise DataError(f"no checkpoint in {folder} is whole: {'; '.join(skipped)}")
    return None


def verify(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        schema = manifest["schema"]
        if schema != SCHEMA:
            return f"manifest.json: its schema is {schema}, this version reads {SCHEMA}"
        files = {name: (expected["bytes"], expected["sha256"]) for name, expected in manifest["files"].items()}
        if set(files) != set(_FILES) or manifest["step"] != int(path.name):
            return "manifest.json does not speak of this checkpoint"
    except (OSError, ValueError) as error:
        return f"manifest.json cannot be read ({error})"
    except (KeyError, TypeError, AttributeError):
        return "manifest.json is damaged"
    for name, (size, checksum) in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
        if _sha256(file) != checksum:
            return f"{name} has another checksum than when it was saved"
    return None


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.name.isdecimal() and p.is_dir()]
    return sorted(found, key=lambda p: int(p.name), reverse=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
