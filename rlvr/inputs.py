"""What a run is made from besides its settings: rows and model, as short digests that a resumed run compares."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from rlvr.errors import DataError
from rlvr.types import BestOf, Demonstration, Preference, Ranking, Rating, Task

_BYTES = 16
_MIB = 1 << 20
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)
"""Those of a Hugging Face folder that change what the model reads or when it ends; the rest may come and go."""
_READ = {
    Task: ("gold", "verifier"),
    Demonstration: ("completion",),
    Preference: ("chosen", "rejected", "probability", "true_probability", "margin"),
    Ranking: ("completions", "order"),
    Rating: ("completion", "label", "scores"),
    BestOf: ("chosen", "rejected"),
}
"""What is read of a row beside its id and prompt when it is trained on or measured with."""
_SELDOM = {
    Preference: (("group", ""),),
    Ranking: (("group", ""),),
    Rating: (("group", ""), ("probability", 1.0)),
    BestOf: (("group", ""),),
}
"""(name, value): what is read too, but counts only where it is not the value that most rows have."""


def fingerprint_rows(rows: Sequence[Task | Demonstration | Preference | Ranking | Rating | BestOf]) -> str:
    """32 hexadecimal digits over id, prompt and what else is read of each row, in their order."""
    digest = hashlib.blake2b(digest_size=_BYTES)
    for row in rows:
        rest = tuple(getattr(row, name) for name in _READ[type(row)])
        rest += tuple(value for name, usual in _SELDOM.get(type(row), ()) if (value := getattr(row, name)) != usual)
        # repr() tells 1 from 1.0 and "1", keeps every digit, and writes a lone surrogate as an escape
        digest.update(repr((row.id, row.prompt, *rest)).encode())
    return digest.hexdigest()


def fingerprint_model(path: str, *, setting: str = "model.path") -> str:
    """Of a local folder 32 hexadecimal digits; of a Hugging Face name that name. DataError where it cannot be read;
    `setting` is what it calls the path.

    Weights count by name, size, and first and last MiB: training moves all of them, and no start waits for a
    checksum of the whole.
    """
    folder = Path(path)
    if not folder.is_dir():
        return path
    digest = hashlib.blake2b(digest_size=_BYTES)
    try:
        for file in (*(folder / name for name in _SMALL_FILES), *sorted(folder.glob("*.safetensors"))):
            if file.is_file():
                part = file.read_bytes() if file.suffix != ".safetensors" else _ends(file)
                digest.update(repr((file.name, file.stat().st_size, hashlib.sha256(part).hexdigest())).encode())
    except OSError as error:
        raise DataError(f"{setting} {path}: {Path(error.filename or path).name}: {error.strerror}") from None
    return digest.hexdigest()


def _ends(file: Path) -> bytes:
    """The first and the last MiB, or all where there is no more."""
    with open(file, "rb") as opened:
        first = opened.read(_MIB)
        opened.seek(max(opened.tell(), os.fstat(opened.fileno()).st_size - _MIB))
        return first + opened.read()
