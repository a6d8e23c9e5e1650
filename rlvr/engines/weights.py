"""Weights on their way from the trainer to a sampler, as a folder of safetensors per version."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.errors import DiskError, EngineError
from rlvr.recipe import Lora

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "rlvr-weights-"
_MEMORY = Path("/dev/shm")
_HALF_MADE_SECONDS = 60.0  # older ones are of a process that was killed between two lines
_FILE, _ADAPTER = "model.safetensors", "adapter_model.safetensors"


class Weights:
    """A private folder in memory (or under `parent`) with the newest versions. Locked while its process lives."""

    def __init__(self, parent: str | None = None) -> None:
        """DiskError where the folder cannot be made. Removes what processes that were killed left there."""
        where = Path(parent) if parent else _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
        try:
            where.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(where)
            new = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=where))
            self._lock = os.open(new / "lock", os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self.folder = new.rename(where / new.name[1:])  # locked before anybody can find it
        except OSError as error:
            raise DiskError(f"weights for the sampler cannot be written to {where}: {error.strerror}") from error
        self._count = 0

    def write(self, weights: Iterable[tuple[str, Tensor]], version: int, lora: Lora | None = None) -> Path:
        """The folder of this version, whole once it has its name. DiskError where there is no room.

        With `lora` a PEFT folder; names as in one: base_model.model. ... .q_proj.lora_A.weight
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in weights}
        self._count += 1
        path = self.folder / f"{version}-{self._count}"
        half = path.with_suffix(".half")
        try:
            half.mkdir()
            save_file(tensors, half / (_FILE if lora is None else _ADAPTER))
            if lora is not None:
                (half / "adapter_config.json").write_text(json.dumps(_adapter_config(tensors, lora)))
            half.rename(path)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(half, ignore_errors=True)
            raise DiskError(f"weights of version {version} cannot be written to {self.folder}: {error}") from error
        return path

    def keep_only(self, path: Path) -> None:
        """Remove all other versions."""
        for other in self.folder.iterdir():
            if other.is_dir() and other != path:
                shutil.rmtree(other)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def read(path: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of a version's folder, one after the other."""
    from safetensors import safe_open

    file = path / _FILE if (path / _FILE).is_file() else path / _ADAPTER
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - it is no mapping
            yield name, tensors.get_tensor(name)


def _adapter_config(tensors: dict[str, Tensor], lora: Lora) -> dict[str, object]:
    parts = [name.split(".") for name in tensors]
    targets = sorted({part[-3] for part in parts if len(part) > 2 and part[-2] in ("lora_A", "lora_B")})
    if not targets:
        raise EngineError(f"no adapter among the weights ({next(iter(tensors), 'there are none')})")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": targets,
        "bias": "none",
        "inference_mode": True,
    }


def _remove_abandoned(where: Path) -> None:
    """Folders of processes that are gone: nobody holds their lock. Others' folders, and new ones, are let be."""
    half_made = [f for f in where.glob(f".{_PREFIX}*") if time.time() - f.stat().st_mtime > _HALF_MADE_SECONDS]
    for folder in [*where.glob(f"{_PREFIX}*"), *half_made]:
        with contextlib.suppress(OSError):
            lock = os.open(folder / "lock", os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
