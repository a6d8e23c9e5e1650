"""What a round made of what: rounds/NNN/round.json, written anew and as a whole after each stage.

    {"schema": 1, "round": 2, "before": SHA256 of the round.json before, "state": "open" | "accepted" | "refused",
     "reason": "", "policy": FOLDER that the next round begins with,
     "stages": {"sample": {"made_from": {NAME: SHA256}, "made": {PATH under the round: SHA256}, "figures": {...}}, ...}}

Nothing in it depends on clock or attempt, so that a round that was killed has the same manifest in the end. The hash of
a folder is that of its files' names and hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvr import disk, lineage
from rlvr.errors import DataError, DiskError, one_line
from rlvr.failpoints import failpoint
from rlvr.types import SCHEMA

NAME = "round.json"
DATABASE = "database.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a stage made: Made(made_from={"policy": "9f..."}, made=("samples.jsonl",), figures={"n_rows": 256})"""

    made_from: Mapping[str, str]
    """Digest by what it is."""
    made: tuple[str, ...]
    """Files and folders under the round's folder."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Plain data that repeats bit for bit."""


@dataclass(slots=True)
class Round:
    """A round of a loop and its folder."""

    folder: Path
    number: int
    record: dict[str, Any]
    """What round.json holds, or is to hold."""

    @classmethod
    def open(cls, rounds: Path, number: int, before: Round | None) -> Round:
        """The round as it was left, or a new one. DataError where its manifest is damaged, or follows another round."""
        folder = rounds / f"{number:03d}"
        digest = "" if before is None else before.digest
        record = read(folder)
        if record is None:
            later = [path.parent for path in sorted(rounds.glob(f"[0-9]*/{NAME}")) if path.parent.name > folder.name]
            if later:
                raise DataError(
                    f"{folder / NAME} is gone, and {later[0]} was made after it; bring it back, or remove "
                    f"{', '.join(map(str, later))} too to go on from there"
                )
            record = {"schema": SCHEMA, "round": number, "before": digest, "state": "open", "reason": "", "stages": {}}
        elif record["round"] != number:
            raise DataError(f"{folder / NAME} is of round {record['round']}; bring back that of round {number}")
        elif record["before"] != digest:
            raise DataError(f"{folder / NAME} follows another round {number - 1} than the one beside it")
        return cls(folder, number, record)

    @property
    def is_open(self) -> bool:
        return self.record["state"] == "open"

    @property
    def is_accepted(self) -> bool:
        return self.record["state"] == "accepted"

    @property
    def digest(self) -> str:
        """Of round.json; with it in the next one's `before` the rounds are a chain."""
        return digest_of(self.folder / NAME)

    def has(self, stage: str) -> bool:
        return stage in self.record["stages"]

    def figures(self, stage: str) -> dict[str, Any]:
        """Of a stage that is done; {} of another."""
        found: dict[str, Any] = self.record["stages"].get(stage, {}).get("figures", {})
        return found

    def made(self, stage: str) -> dict[str, str]:
        """{path under the round's folder: digest} of a stage; {} of one that is not done."""
        found: dict[str, str] = self.record["stages"].get(stage, {}).get("made", {})
        return found

    def check(self, *, models: bool = True) -> None:
        """DataError where a file, or also a model, is not what the stage made that is noted."""
        for stage in self.record["stages"]:
            for path, digest in self.made(stage).items():
                if (models or not path.endswith("model")) and digest_of(self.folder / path) != digest:
                    raise DataError(
                        f"{self.folder / path} was changed or removed after stage {stage} of round {self.number} made "
                        f"it; bring it back, or remove {self.folder} to do the round again"
                    )

    def note(self, stage: str, result: Made) -> None:
        """Keep what a stage made. DiskError."""
        failpoint("loop.stage")
        self.record["stages"][stage] = {
            "made_from": dict(result.made_from),
            "made": {path: digest_of(self.folder / path) for path in result.made},
            "figures": dict(result.figures),
        }
        self._write()
        failpoint("loop.noted")

    def close(self, state: str, reason: str, policy: str, digest: str) -> None:
        """accepted or refused; policy: that of the next round, and what it is. DiskError."""
        self.record |= {"state": state, "reason": reason, "policy": policy, "policy_sha256": digest}
        self._write()

    def _write(self) -> None:
        write(self.folder / NAME, json.dumps(self.record, indent=1))


def read(folder: Path) -> dict[str, Any] | None:
    """round.json of a round's folder; None where there is none. DataError where it is damaged."""
    path = folder / NAME
    if not path.is_file():
        return None
    record = read_json(path, f"remove {folder} to do the round again")
    if problem := _problem(record):
        raise DataError(f"{path} is damaged: {problem}; remove {folder} to do the round again")
    return record


_KINDS: Mapping[str, type] = {"round": int, "before": str, "state": str, "reason": str, "stages": dict}
_STATES = ("open", "accepted", "refused")


def _problem(record: Mapping[str, Any]) -> str:
    """What is wrong with the form of a round.json; "" where nothing is."""
    closed = record.get("state") in _STATES[1:]
    for name, kind in {**_KINDS, **({"policy": str, "policy_sha256": str} if closed else {})}.items():
        if type(record.get(name)) is not kind:
            return f"{name} must be {'text' if kind is str else 'a number' if kind is int else 'an object'}"
    if record["state"] not in _STATES:
        return f"state must be one of {', '.join(_STATES)}"
    for stage, of in record["stages"].items():
        parts = [of.get(name) for name in ("made_from", "made", "figures")] if isinstance(of, dict) else [None]
        if not all(isinstance(part, dict) for part in parts):
            return f"stages.{stage} must say made_from, made and figures"
    if closed and not isinstance(record["stages"].get("gate", {}).get("figures", {}).get("refused"), str):
        return f"it is {record['state']}, and no gate is in it"
    return ""


def read_all(run: Path) -> list[dict[str, Any]]:
    """The manifests of a loop's run folder, in the order of rounds."""
    found = (read(folder) for folder in sorted((run / "rounds").glob("[0-9]*")))
    return [record for record in found if record is not None]


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """An object of a file. DataError where it is damaged or gone; fix: what to do then."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({one_line(error, 150)}); {fix}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} is damaged: it must hold a JSON object; {fix}")
    return found


def read_database(folder: Path) -> dict[str, Any]:
    """{path, event, hash} of a round whose labels are there: its database, the last event and that one's hash.
    DataError where it is damaged or gone."""
    fix = f"remove {folder} to do the round again"
    made = read_json(folder / DATABASE, fix)
    if [type(made.get(name)) for name in ("path", "event", "hash")] != [str, int, str]:
        raise DataError(f"{folder / DATABASE} is damaged: it must have path, event and hash; {fix}")
    return made


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files by name; "" where there is nothing. A model's record of where it comes
    from is not counted: it names paths, and is written again where the model is copied."""
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file() and file.name != lineage.NAME]
        names = sorted(file.relative_to(path).as_posix() for file in files)
        whole = "".join(f"{digest_of(path / name)}  {name}\n" for name in names)
        return hashlib.sha256(whole.encode()).hexdigest()
    return disk.sha256(path) if path.is_file() else ""


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A JSONL file, whole or not at all. DiskError."""
    write(path, "".join(json.dumps(row) + "\n" for row in rows))


def note_origin(path: Path, inputs: Sequence[Mapping[str, Any]]) -> None:
    """What a data file of the loop was made from, as lineage.note_origin(). DiskError."""
    try:
        lineage.note_origin(path, [dict(one) for one in inputs], made_by="rlvr loop")
    except OSError as error:
        raise DiskError(f"cannot write beside {path}: {error.strerror or error}") from error


def write(path: Path, text: str) -> None:
    """A file, whole or not at all, and kept by the disk. DiskError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.write(path, text)
        disk.sync(path.parent)
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}") from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Of a file of write_rows(). DataError where it is damaged or gone."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {one_line(error, 150)}") from None
