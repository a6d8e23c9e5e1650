"""Rows of an export into a file: JSONL, parquet, or a folder as `datasets.load_from_disk` reads it.

The same rows give the same bytes, a file appears when it is whole, and none that is there is ever replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvr import disk
from rlvr.errors import DataError, DiskError

_SUFFIXES = (".jsonl", ".parquet")
_OTHERS = (".json", ".csv", ".arrow", ".txt", ".tsv", ".gz", ".zst", ".zip")
"""That people give to files, and hardly to a folder."""
_MOST_OF_NAME = 230
"""Bytes of the name of a file, so that the names of those beside it, which are a little longer, are within 255."""


def check_target(out: Path) -> None:
    """Before any work is done. DataError: there is something already, or a name that is none of ours; DiskError: no
    folder to write into."""
    if (num := len(os.fsencode(out.name))) > _MOST_OF_NAME:
        raise DataError(f"--to {out.name[:40]}...: a name has at most {_MOST_OF_NAME} bytes, this one has {num}")
    if os.path.lexists(out):
        raise DataError(f"--to {out} exists: remove it, or name another file")
    suffixes = [suffix.lower() for suffix in out.suffixes]
    if out.suffix not in _SUFFIXES and any(suffix in (*_SUFFIXES, *_OTHERS) for suffix in suffixes):
        raise DataError(f"--to {out}: must end in {' or '.join(_SUFFIXES)}, or be the name of a new folder")
    if not os.path.isdir(out.absolute().parent):  # also where one of its names is too long
        raise DiskError(f"--to {out}: no such folder {out.absolute().parent}")


def write(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """rows: at least one, all with the same columns. DataError as check_target(), and where a text is none that the
    format can hold; DiskError where it cannot be written."""
    check_target(out)
    part = out.absolute().with_name(f".{out.name}.{os.getpid()}.part")
    try:
        if out.suffix == ".jsonl":
            # as ASCII: lone surrogates come back as they were
            disk.write(part, "".join(json.dumps(row) + "\n" for row in rows))
        elif out.suffix == ".parquet":
            _write_parquet(rows, part)
        else:
            _write_folder(rows, part)
        disk.publish(part, out.absolute())
    except FileExistsError:
        raise DataError(f"--to {out} exists: remove it, or name another file") from None
    except UnicodeEncodeError as error:
        raise DataError(
            f"--to {out}: a text holds half a surrogate pair, which {out.suffix or 'a data set'} cannot hold; write "
            ".jsonl"
        ) from error
    except OSError as error:  # pyarrow's among them
        raise DiskError(f"--to {out}: cannot be written: {error.strerror or error}") from error
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def _write_parquet(rows: Sequence[dict[str, Any]], part: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), part)
    disk.sync(part)


def _write_folder(rows: Sequence[dict[str, Any]], part: Path) -> None:
    import datasets

    found = datasets.Dataset.from_list(list(rows))
    # of the content alone: the library's own holds the time at which it was made
    found._fingerprint = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
    with _quiet():
        found.save_to_disk(str(part))
    for file in part.iterdir():
        disk.sync(file)
    disk.sync(part)


class _quiet:
    """Without the library's progress bar, which would stand in the output of the command."""

    def __enter__(self) -> None:
        import datasets

        self._was_on = datasets.is_progress_bar_enabled()
        datasets.disable_progress_bars()

    def __exit__(self, *_: object) -> None:
        import datasets

        if self._was_on:
            datasets.enable_progress_bars()
