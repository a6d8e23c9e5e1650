"""Files, data sets and generators to rows, each with the name and number that messages give it.

What cannot be read as a row (a broken line, a short CSV row) is a BadRow in its place, so that all are told at once.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import difflib
import inspect
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from rlvr import plugins
from rlvr.errors import DataError, SettingsError
from rlvr.reward_settings import Rows
from rlvr.types import is_nested_deeper

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")

NOT_PLAIN = object()
"""What as_plain() says of a value that JSON has no word for."""
_MOST_LEVELS = 100
"""Of lists and objects within each other in one value: what reads and writes JSON gives up at about a thousand."""
_SPLIT = re.compile(r"(train|test|validation|valid|val|dev|eval)(?![a-z])", re.IGNORECASE)


class BadRow(ValueError):
    """Why one row cannot be used."""


class Argument(str):
    """The argument of a command that names the rows, where a recipe has a `setting`: messages name its options.

    Argument("FILE", columns="--column", on_bad_row="--skip-bad")
    """

    options: Mapping[str, str]
    """By the name that the setting has in a recipe; what is not among them cannot be said on the command line."""

    def __new__(cls, name: str, **options: str) -> Argument:
        made = super().__new__(cls, name)
        made.options = options
        return made


def typed(setting: str, key: str, value: str = "") -> str:
    """What people type: "data.columns.prompt=text", of an Argument "--column prompt=text", or "" where it has none."""
    if not isinstance(setting, Argument):
        return f"{setting}.{key}" + (f"={value}" if value else "")
    if key == "path":
        return setting
    name, _, word = key.partition(".")
    option = setting.options.get(name, "")
    if not option or not value or name == "on_bad_row":
        return option
    return f"{option} {word}={value}" if word else f"{option} {value}"


def _named(setting: str, key: str) -> str:
    """Where a message begins."""
    return typed(setting, key) or setting


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was read: Row("train", "train.jsonl:42", 42, {"question": ...})"""

    name: str
    where: str
    number: int
    fields: Any
    """The row; BadRow where it could not be read."""


def read_rows(data: Rows, setting: str) -> Iterator[Row]:
    """All rows; `setting` is where `data` stands in the recipe, for messages. DataError, SettingsError."""
    if data.source == "generator":
        return _read_generator(data, setting)
    if data.source == "hub":
        return _read_hub(data, setting)
    path = Path(data.path).expanduser()
    if path.is_dir():
        return _read_folder(path, data, setting)
    if not path.is_file():
        raise DataError(_no_file(path, data, setting))
    return _read_file(path, setting)


def kind(value: Any) -> str:
    """A value's type in words, for messages."""
    names = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number", type(None): "nothing"}
    return names.get(type(value), type(value).__name__)


def as_plain(value: Any) -> Any:
    """Plain data that JSON holds, or NOT_PLAIN; NaN and infinities become None. BadRow: nested too deep."""
    with contextlib.suppress(RecursionError):  # far deeper
        plain = _plain(value)
        if not is_nested_deeper(plain, _MOST_LEVELS):
            return plain
    raise BadRow(f"nested deeper than {_MOST_LEVELS} levels")


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        pairs = [(str(key), _plain(item)) for key, item in value.items()]
        return {key: item for key, item in pairs if item is not NOT_PLAIN}
    if isinstance(value, (list, tuple)):
        return [item for item in (_plain(part) for part in value) if item is not NOT_PLAIN]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    tolist = getattr(value, "tolist", None)  # numpy's scalars and arrays
    return _plain(tolist()) if callable(tolist) else NOT_PLAIN


def parsed(value: Any) -> Any:
    """CSV and some parquet files hold nested columns as JSON text."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):  # a text of very many brackets is a text
            return value
    return value


def _no_file(path: Path, data: Rows, setting: str) -> str:
    if os.path.lexists(path):  # a device, a socket, a link that leads nowhere
        return f"{_named(setting, 'path')}: {data.path} is no regular file or folder"
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f"; did you mean {path.parent / near[0]}?" if near else ""
    if not near and re.fullmatch(r"[\w.-]+/[\w.-]+", data.path) and path.suffix not in SUFFIXES:
        source = typed(setting, "source", "hub")
        hint = f"; a Hugging Face data set needs {source}" if source else ""
    return f"{_named(setting, 'path')}: no file or folder {data.path} (seen from {Path.cwd()}){hint}"


def _read_folder(folder: Path, data: Rows, setting: str) -> Iterator[Row]:
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _read_saved(folder, data, setting)
    # hidden ones are what we keep beside a file: .pairs.jsonl.lineage.json
    files = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file() and not p.name.startswith("."))
    if not files:
        raise DataError(
            f"{_named(setting, 'path')}: {data.path} holds no {' '.join(SUFFIXES)} file (seen from {Path.cwd()})"
        )
    splits = {p: match[1].lower() for p in files if (match := _SPLIT.match(p.stem))}
    if len(set(splits.values())) > 1:  # train.parquet beside test.parquet: to read both would train on the test
        files = [p for p in files if splits.get(p) == data.split.lower()]
        if not files:
            has = ", ".join(sorted(set(splits.values())))
            raise DataError(
                f"{_named(setting, 'split')}: {data.path} has no files of split {data.split!r} (has: {has})"
            )
    return itertools.chain.from_iterable(_read_file(p, setting) for p in files)


def _read_file(path: Path, setting: str) -> Iterator[Row]:
    if path.suffix not in SUFFIXES:
        raise DataError(
            f"{_named(setting, 'path')}: {path} must end in {' '.join(SUFFIXES)}, or be a folder of such files"
        )
    reader = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet, ".csv": _csv}[path.suffix]
    try:
        for number, fields in reader(path):
            yield Row(path.stem, f"{path.name}:{number}", number, fields)
    except (OSError, ValueError) as error:  # pyarrow's errors are among these
        reason = str(error).partition("\n")[0]
        raise DataError(f"{_named(setting, 'path')}: cannot read {path} (seen from {Path.cwd()}): {reason}") from error


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, row)"""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                yield number, BadRow(f"not UTF-8 (byte {error.start + 1} of the line)")
            except RecursionError:
                yield number, BadRow("JSON that is nested too deep")
            except ValueError as error:
                yield number, BadRow(f"not JSON: {str(error).replace('line 1 ', '')}")


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        rows = json.loads(path.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        yield from _jsonl(path)  # one object per line under the other suffix
        return
    except RecursionError:
        raise ValueError("JSON that is nested too deep") from None
    if not isinstance(rows, list):
        raise ValueError(f"must hold a list of objects, holds {kind(rows)}")
    yield from enumerate(rows, start=1)


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        batches = file.iter_batches(batch_size=4096)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    """(line on which the row starts, row)"""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default of 128 KiB is less than a long completion
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        columns = next(reader, [])
        line = reader.line_num + 1
        for cells in _cells(reader):
            start, line = line, reader.line_num + 1
            if not cells:
                continue
            if len(cells) != len(columns):
                yield start, BadRow(f"{len(cells)} cells for {len(columns)} columns")
            elif any("\udc80" <= character <= "\udcff" for cell in cells if not cell.isascii() for character in cell):
                yield start, BadRow("not UTF-8")
            else:
                yield start, dict(zip(columns, cells, strict=True))


def _cells(reader: Any) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error


def _read_saved(folder: Path, data: Rows, setting: str) -> Iterator[Row]:
    import datasets

    try:
        rows = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{_named(setting, 'path')}: cannot read {data.path} (seen from {Path.cwd()}): {reason}"
        ) from error
    if isinstance(rows, datasets.DatasetDict):
        if data.split not in rows:
            has = ", ".join(map(str, rows))
            raise DataError(f"{_named(setting, 'split')}: {data.path} has no split {data.split!r} (has: {has})")
        rows = rows[data.split]
    return _numbered(folder.resolve().name, rows)


def _read_hub(data: Rows, setting: str) -> Iterator[Row]:
    import datasets
    from datasets import config
    from huggingface_hub import constants

    is_local = Path(data.path).exists()
    offline = is_local or constants.HF_HUB_OFFLINE or not _reachable()
    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    # the library tries an absent network for 20 s and more; offline it looks into the cache alone
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = offline
    try:
        rows = datasets.load_dataset(data.path, data.subset, split=data.split)
    except Exception as error:  # any of three libraries' own
        reason = str(error).partition("\n")[0] or type(error).__name__
        where = f"no connection to {constants.ENDPOINT}, and not in the cache: " if offline and not is_local else ""
        name = f"{_named(setting, 'path')}: cannot load Hugging Face data set {data.path!r}"
        raise DataError(f"{name} (seen from {Path.cwd()}): {where}{reason}") from error
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before
    return _numbered(Path(data.path).name, rows)


def _reachable() -> bool:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5.0)  # through the proxy that the library would take
    except Exception:  # of whichever HTTP library the installed version takes
        return False
    return True


def _numbered(name: str, rows: Iterable[Any]) -> Iterator[Row]:
    for number, fields in enumerate(rows, start=1):
        yield Row(name, f"{name}:{number}", number, fields)


def _read_generator(data: Rows, setting: str) -> Iterator[Row]:
    source = typed(setting, "source", "file")
    if source and (data.path.endswith(SUFFIXES) or Path(data.path).is_dir()):  # over a recipe whose rows are generated
        raise SettingsError(
            f"{_named(setting, 'path')}: {data.path} is no module:function, and {setting}.source is generator; files "
            f"need {source}"
        )
    function: Any = plugins.load(data.path, what=_named(setting, "path"))
    if not callable(function):
        raise SettingsError(f"{_named(setting, 'path')}: {data.path} is no function but {kind(function)}")
    name = getattr(function, "__name__", data.path.rpartition(":")[2])
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C
        signature = None
    if signature is not None:
        try:
            signature.bind(**data.args)
        except TypeError as error:
            takes = list(signature.parameters)
            near = [
                match for arg in data.args if arg not in takes for match in difflib.get_close_matches(arg, takes, n=1)
            ]
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SettingsError(f"{_named(setting, 'args')}: {error}; {name}({', '.join(takes)}){hint}") from error
    return _generated(name, function, data, setting)


def _generated(name: str, function: Any, data: Rows, setting: str) -> Iterator[Row]:
    try:
        yield from _numbered(name, function(**data.args))
    except (DataError, SettingsError) as error:  # it has said all that there is to say
        raise type(error)(f"{setting}: {error}") from error
    except Exception as error:  # whatever somebody's generator raises
        reason = str(error).partition("\n")[0]
        raise DataError(f"{_named(setting, 'path')}: {data.path} failed: {type(error).__name__}: {reason}") from error
