"""Checkpoints that are whole or absent: written aside, synced, named in a manifest with checksums, then renamed.

safetensors and JSON only. Only what cannot be derived is kept: weights, optimizer state, and a few numbers; seeds,
learning rates and data order are functions of the step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr import disk
from rlvr.disk import sync
from rlvr.errors import DataError, DiskError
from rlvr.failpoints import failpoint
from rlvr.types import SCHEMA

if TYPE_CHECKING:
    from torch import Tensor


_TENSORS, _NUMBERS, _MANIFEST = "state.safetensors", "state.json", "manifest.json"
_FILES = (_TENSORS, _NUMBERS)
_damaged: set[Path] = set()
"""Those that load_newest() passed over: they count for none that is kept."""
_LEFTOVER = re.compile(r"\.\d+\.(\d+\.new|old)")
"""What a killed save leaves: half of a new one, or one whose removal had begun."""
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""torch's name: that of https://github.com/huggingface/safetensors#format"""


# --- writing ---------------------------------------------------------------------------------------------------------


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, keep: int) -> Path:
    """Write folder/STEP, then prune older ones until `keep` whole ones are left. DiskError leaves them as they were.

    The order survives a power cut: each file is synced, then the manifest that names them, then the folder, and only
    then does the folder get its name; the older ones go once that name is synced.
    """
    final = folder / f"{step:06d}"
    fresh = folder / f".{step:06d}.{os.getpid()}.new"
    with _as_disk_error(f"cannot save the checkpoint of step {step} to {folder}", fresh):
        _make(folder)
        for leftover in folder.iterdir():
            if _LEFTOVER.fullmatch(leftover.name):
                shutil.rmtree(leftover, ignore_errors=True)
        fresh.mkdir()
        files = {_TENSORS: _write_tensors(fresh / _TENSORS, tensors)}
        failpoint("checkpoint.tensors")
        files[_NUMBERS] = _write(fresh / _NUMBERS, json.dumps({"schema": SCHEMA, "step": step, **state}))
        failpoint("checkpoint.manifest")
        manifest = {"schema": SCHEMA, "step": step, "files": files}
        _write(fresh / _MANIFEST, json.dumps({**manifest, "sha256": _own_checksum(manifest)}, indent=1))
        sync(fresh)
        failpoint("checkpoint.rename")
        if final.exists():  # the same step again: what is there was not chosen, or would be the same
            final.rename(folder / f".{final.name}.old")
        fresh.rename(final)
        sync(folder)
    with _as_disk_error(f"the checkpoint of step {step} is saved, but an old one in {folder} cannot be removed"):
        failpoint("checkpoint.renamed")
        _prune(folder, step, keep)
    return final


def _prune(folder: Path, step: int, keep: int) -> None:
    """Remove all but the one of `step` and the keep - 1 newest whole ones before it.

    The new one is not read back: that would come from the kernel's cache, where it lies as it was written. Its checksum
    is of the tensors in memory, so a disk that kept something else is found when it is loaded; the older ones are there
    for that. Of these a file that is missing or of another size is seen here; their checksums would cost as much as
    the save.
    """
    num_kept = 1
    for path in newest_first(folder):
        number = int(path.name)
        if number < step and num_kept < keep:
            num_kept += path not in _damaged and _fault(path, checksums=False) is None
        elif number != step:  # newer ones were damaged, else the run would have gone on from them
            gone = path.rename(folder / f".{path.name}.old")  # a kill while it is removed leaves none that is half
            shutil.rmtree(gone)
            failpoint("checkpoint.prune")
    for leftover in folder.glob(".*.old"):
        if _LEFTOVER.fullmatch(leftover.name):
            shutil.rmtree(leftover)


def _make(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True)
        sync(folder.parent)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write and sync a safetensors file: its size and checksum.

    Not by the library, whose file would have to be read again for its checksum, after the writing and not beside it.
    """
    import torch

    # from wide to narrow, so that each lies at a multiple of its own width
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    entries, end = {}, 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        dtype = _DTYPES[str(tensor.dtype).removeprefix("torch.")]
        entries[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    head = len(header).to_bytes(8, "little") + header
    digest = hashlib.sha256()
    with ThreadPoolExecutor(1) as hasher, open(path, "xb") as file:
        pending = [hasher.submit(digest.update, head)]
        file.write(head)
        for name in order:
            raw = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            pending.append(hasher.submit(digest.update, raw))  # without the interpreter's lock, so beside the writing
            file.write(raw)
        file.flush()
        os.fsync(file.fileno())
        for part in pending:
            part.result()
    return {"bytes": len(head) + end, "sha256": digest.hexdigest()}


def _write(path: Path, text: str) -> dict[str, Any]:
    """Write and sync a file: its size and checksum."""
    raw = text.encode()
    with open(path, "xb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}


@contextlib.contextmanager
def _as_disk_error(what: str, fresh: Path | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if fresh is not None:
            shutil.rmtree(fresh, ignore_errors=True)
        raise DiskError(f"{what}: {error.strerror or error}") from error


# --- reading ---------------------------------------------------------------------------------------------------------


def load_newest(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, Any], list[str]] | None:
    """(step, tensors, state, why newer ones were skipped) of the newest one that verifies; None where there is none.

    DataError where there are some and none is whole, and where one may not be read or is of a newer version: that is
    no damage, and what comes after it would be lost.
    """
    skipped: list[str] = []
    for path in newest_first(folder):
        try:
            return int(path.name), *_load(path), skipped
        except PermissionError as error:
            raise DataError(f"checkpoint {path} cannot be read: {error.strerror}; make it readable") from None
        except DataError as error:
            if _is_newer(path):  # whole, perhaps: passed over, it would be removed with the next save
                raise DataError(
                    f"this version of rlvr is too old for checkpoint {path} (its schema is newer than {SCHEMA}); go on "
                    "with the version that wrote it"
                ) from None
            _damaged.add(path)
            skipped.append(f"checkpoint {path.name} skipped: {error}")
    if skipped:
        raise DataError(f"no checkpoint in {folder} is whole: {'; '.join(skipped)}")
    return None


def load(folder: Path, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, state) of one step. DataError where it is absent or not whole."""
    by_step = {int(path.name): path for path in newest_first(folder)}
    if step not in by_step:
        there = f"there are those of {', '.join(map(str, sorted(by_step)))}" if by_step else "there is none"
        raise DataError(f"{folder} has no checkpoint of step {step}; {there}")
    try:
        return _load(by_step[step])
    except PermissionError as error:
        raise DataError(f"checkpoint {by_step[step]} cannot be read: {error.strerror}; make it readable") from None
    except DataError as error:
        raise DataError(f"checkpoint {by_step[step]}: {error}") from None


def verify(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        return _fault(path)
    except PermissionError as error:
        return f"{Path(error.filename or path).name} cannot be read ({error.strerror})"


def contents(path: Path) -> dict[str, Any]:
    """What a checkpoint says it holds: bytes, saved (seconds since 1970), shapes by tensor, numbers. DataError."""
    try:
        with open(path / _TENSORS, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        numbers = json.loads((path / _NUMBERS).read_bytes())
        sizes = [file.stat().st_size for file in path.iterdir()]
        return {
            "bytes": sum(sizes),
            "saved": (path / _MANIFEST).stat().st_mtime,
            "shapes": {name: entry["shape"] for name, entry in header.items()},
            "numbers": {name: value for name, value in numbers.items() if name not in ("schema", "step")},
        }
    except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise DataError(f"checkpoint {path} cannot be read: {error}") from None


def oldest_kept(folder: Path) -> int | None:
    """The lowest step that has a checkpoint, whole or not; None where there is none."""
    return min((int(path.name) for path in newest_first(folder)), default=None)


def newest_first(folder: Path) -> list[Path]:
    """The folders of checkpoints. DataError where `folder` may not be read."""
    try:
        found = [p for p in folder.iterdir() if p.name.isdecimal() and p.is_dir()]
    except FileNotFoundError:
        if folder.is_symlink():
            raise DataError(f"{folder} points to {folder.readlink()}, which is not there") from None
        return []
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from None
    return sorted(found, key=lambda p: int(p.name), reverse=True)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, state) of a checkpoint that is whole; DataError says what is wrong."""
    from safetensors.torch import load_file

    fault = _fault(path)
    if fault is not None:
        raise DataError(fault)
    state = json.loads((path / _NUMBERS).read_bytes())
    state.pop("schema", None)
    return load_file(path / _TENSORS), state


def _fault(path: Path, *, checksums: bool = True) -> str | None:
    """What is wrong; PermissionError where that cannot be found out."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        if (schema := manifest["schema"]) != SCHEMA:
            return _of_schema(_MANIFEST, schema)
        if manifest.pop("sha256") != _own_checksum(manifest):
            return f"{_MANIFEST} is damaged"
        files = {name: (expected["bytes"], expected["sha256"]) for name, expected in manifest["files"].items()}
        if set(files) != set(_FILES) or manifest["step"] != int(path.name):
            return f"{_MANIFEST} does not speak of this checkpoint"
        strange = sorted({file.name for file in path.iterdir()} - {*_FILES, _MANIFEST})
    except PermissionError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        return f"{_MANIFEST} cannot be read ({getattr(error, 'strerror', None) or error})"
    except (KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} is damaged"
    if strange:
        return f"{strange[0]} is in it, which its manifest does not name"
    return next(filter(None, (_file_fault(path / name, *files[name], checksums) for name in _FILES)), None)


def _own_checksum(manifest: Mapping[str, Any]) -> str:
    """Of what a manifest says, so that damage to it is not taken for damage to a file that it names."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _file_fault(file: Path, size: int, checksum: str, checksums: bool) -> str | None:
    try:
        found = file.stat().st_size
        if found != size:
            return f"{file.name} has {found} bytes instead of {size}"
        if checksums and disk.sha256(file) != checksum:
            return f"{file.name} has another checksum than when it was saved"
        if file.name == _NUMBERS and (schema := json.loads(file.read_bytes()).get("schema", SCHEMA)) != SCHEMA:
            return _of_schema(file.name, schema)
    except PermissionError:
        raise
    except FileNotFoundError:
        return f"{file.name} is missing"
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror or error})"
    except (ValueError, AttributeError):
        return f"{file.name} is damaged"
    return None


def _of_schema(name: str, schema: Any) -> str:
    newer = isinstance(schema, int) and schema > SCHEMA
    return f"{name}: its schema is {schema}, this version reads {SCHEMA}{' (rlvr is too old for it)' if newer else ''}"


def _is_newer(path: Path) -> bool:
    """Whether a newer version wrote it."""
    for name in (_MANIFEST, _NUMBERS):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            schema = json.loads((path / name).read_bytes())["schema"]
            if isinstance(schema, int) and schema > SCHEMA:
                return True
    return False
