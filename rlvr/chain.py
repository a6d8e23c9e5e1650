"""chain.jsonl of a run folder: a line for each record that was written, with the hash of the line before it.

A record that is changed, removed or added afterwards no longer fits its line, and a line that is changed or removed no
longer fits the next one. Whoever may write everything can make the whole chain anew; the head, a hash of 64 digits that
somebody else keeps, shows that too.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvr import disk
from rlvr.types import SCHEMA

NAME = "chain.jsonl"
_FIELDS = ("schema", "n", "step", "kind", "name", "sha256", "previous")
"""What a line's hash is of, beside `adopted` where the line has it."""
_KINDS = {"n": int, "step": int, "kind": str, "name": str, "sha256": str, "previous": str, "hash": str}
_DAMAGED, _NO_CHAIN = "damaged", "without a chain"
"""Names of the line of a start: no line of the chain before could be read, or there was none."""
START = "0" * 64
"""Stands for the hash of the line before the first."""
Row = dict[str, Any]


def digest_row(row: Mapping[str, Any]) -> str:
    """sha256 of a row as JSON with sorted keys: how the file was written does not matter, what it says does."""
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()


def hash_of(line: Mapping[str, Any]) -> str:
    """What a line's `hash` has to be."""
    names = (*_FIELDS, "adopted") if "adopted" in line else _FIELDS
    return digest_row({name: line.get(name) for name in names})


class Chain:
    """The chain of a run that this process writes. Nothing is opened before the first line is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last: Row | None = None
        self._is_read = False

    @property
    def path(self) -> Path:
        return self.folder / NAME

    @property
    def head(self) -> dict[str, Any] | None:
        """{"lines", "hash"}: how long the chain is and the hash of its last line; None where there is none."""
        last = self._end()
        return None if last is None else {"lines": last["n"] + 1, "hash": last["hash"]}

    def head_at(self, step: int) -> dict[str, Any] | None:
        """head of what truncate(step) keeps."""
        kept = [line for line in read(self.folder)[0] if line["step"] <= step]
        return {"lines": len(kept), "hash": kept[-1]["hash"]} if kept else None

    def add_file(self, path: Path, step: int | None = None) -> None:
        """A line for a file of the run folder, as it is now. step: without it that of the line before. OSError."""
        self._write("file", path.relative_to(self.folder).as_posix(), disk.sha256(path), step)

    def add_row(self, row: Mapping[str, Any]) -> None:
        """A line for a row of metrics.jsonl. OSError."""
        self._write("metrics", "metrics.jsonl", digest_row(row), row["step"])

    def truncate(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Forget the lines after `step`, and say that the run was resumed there. OSError.

        rows: those of metrics.jsonl that are left. One that a kill left without a line gets it now, marked as adopted;
        in a run of a version without chains all do.
        """
        old, _ = read(self.folder)
        kept = [line for line in old if line["step"] <= step]
        self._last, self._is_read = (kept[-1] if kept else None), True
        had_lines = self.path.is_file() and self.path.stat().st_size > 0
        if kept:
            disk.write(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        else:
            self.path.unlink(missing_ok=True)
        if step < 0 or not (old or rows):
            return
        known = Counter(line["sha256"] for line in kept if line["kind"] == "metrics")
        self._write("resumed", "" if kept else _DAMAGED if had_lines else _NO_CHAIN, START, step)
        for row in rows:
            digest = digest_row(row)
            if known[digest]:
                known[digest] -= 1
            else:
                self._write("metrics", "metrics.jsonl", digest, row["step"], adopted=True)
        if not kept:
            for path in sorted((self.folder / "rollouts").glob("*.parquet")):
                self._write("file", path.relative_to(self.folder).as_posix(), disk.sha256(path), step, adopted=True)

    def _end(self) -> Row | None:
        if not self._is_read:
            lines, _ = read(self.folder)
            self._last, self._is_read = (lines[-1] if lines else None), True
        return self._last

    def _write(self, kind: str, name: str, sha256: str, step: int | None, *, adopted: bool = False) -> None:
        last = self._end()
        if last is None and kind != "start":
            self._write("start", "recipe.yaml", disk.sha256(self.folder / "recipe.yaml"), -1)
            last = self._end()
        line: Row = {
            "schema": SCHEMA,
            "n": 0 if last is None else last["n"] + 1,
            "step": (0 if last is None else max(0, last["step"])) if step is None else step,
            "kind": kind,
            "name": name,
            "sha256": sha256,
            "previous": START if last is None else last["hash"],
            **({"adopted": True} if adopted else {}),
        }
        line["hash"] = hash_of(line)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")  # one write: a kill tears at most the last line
        self._last = line


def read(folder: Path) -> tuple[list[Row], list[str]]:
    """(lines up to the first that is no line of a chain, what is wrong with that one). A last line that a kill tore is
    left out and not told of."""
    path = folder / NAME
    if not path.is_file():
        return [], []
    found: list[Row] = []
    texts = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, text in enumerate(texts, start=1):
        if not text and number == len(texts):
            break
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict) and all(type(line.get(name)) is kind for name, kind in _KINDS.items()):
            found.append(line)
        elif number == len(texts):
            break
        else:
            return found, [f"{NAME} line {number}: not a line of the chain"]
    return found, []


# --- checking --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Report:
    """What check() found. Report(lines=41, head="ab1...", problems=["metrics.jsonl: the row of step 3 was changed"])"""

    lines: int = 0
    head: str = ""
    """Hash of the last line: keep it elsewhere, and no part of the run can be made anew without your seeing it."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is no fault: resumed, records of an older version."""
    changed: list[str] = field(default_factory=list)
    """Files whose content is not the one in the chain, below the run folder."""


def check(
    folder: Path, rows: Sequence[Mapping[str, Any]], *, is_finished: bool, anchor: Mapping[str, Any] | None = None
) -> Report:
    """Whether the records of a run are those that were written. OSError where a file cannot be read.

    rows: of metrics.jsonl; anchor: {"lines", "hash"} of a line that was there once (lineage.json, or somebody's note;
    without "lines" anywhere).
    """
    lines, problems = read(folder)
    report = Report(lines=len(lines), head=lines[-1]["hash"] if lines else "", problems=problems)
    if not lines and not problems:
        report.problems.append(f"{NAME} is missing") if anchor else report.notes.append(
            f"no {NAME}: the run is of a version without one, or has not begun; nothing can be said of its records"
        )
        return report
    report.problems += _links(lines)
    if anchor is not None:
        report.problems += _anchored(lines, anchor)
    report.problems += _metrics(lines, rows, is_finished)
    _files(folder, lines, is_finished, report)
    report.notes += _notes(lines)
    report.problems += _adopted(lines)
    return report


def anchored(folder: Path, anchor: Mapping[str, Any]) -> list[str]:
    """What is wrong where a run's chain should have a line: as check() with this anchor."""
    return _anchored(read(folder)[0], anchor)


def _links(lines: Sequence[Row]) -> list[str]:
    found: list[str] = []
    previous: Row | None = None
    for number, line in enumerate(lines, start=1):
        of = f"{NAME} line {number} (step {line['step']}, {line['name'] or line['kind']})"
        if hash_of(line) != line["hash"]:
            found.append(f"{of} was changed: its hash is not that of what it says")
        elif line["previous"] != (START if previous is None else previous["hash"]) or line["n"] != number - 1:
            missing = line["n"] - (number - 1)
            why = f"{missing} lines before it are missing" if missing > 0 else "the line before it was changed or moved"
            if previous is None or hash_of(previous) == previous["hash"]:  # else that one has been told of
                found.append(f"{of} does not follow the one before: {why}")
                break  # of the numbers behind it nothing new can be said
        previous = line
    return found


def _anchored(lines: Sequence[Row], anchor: Mapping[str, Any]) -> list[str]:
    number = anchor.get("lines")
    if number is None:
        if any(line["hash"] == anchor["hash"] for line in lines):
            return []
        return [f"{NAME}: no line has the hash {anchor['hash'][:16]}...: the chain was made anew, or is another run's"]
    if len(lines) < number:
        return [f"{NAME} was cut: it has {len(lines)} lines, and lineage.json knows of {number}"]
    if lines[number - 1]["hash"] != anchor["hash"]:
        return [f"{NAME} was made anew: its line {number} is not the one that lineage.json knows"]
    return []


def _metrics(lines: Sequence[Row], rows: Sequence[Mapping[str, Any]], is_finished: bool) -> list[str]:
    """Steps whose rows are not those of the chain."""
    due: defaultdict[int, Counter[str]] = defaultdict(Counter)
    there: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for line in lines:
        if line["kind"] == "metrics":
            due[line["step"]][line["sha256"]] += 1
    for row in rows:
        there[row["step"]][digest_row(row)] += 1
    newest, found = max(there, default=-1), []
    for step in sorted({*due, *there}):
        lacks, more = (due[step] - there[step]).total(), (there[step] - due[step]).total()
        if lacks and more:
            found.append(f"metrics.jsonl: the row of step {step} was changed")
        elif lacks:
            found.append(f"metrics.jsonl: the row of step {step} is missing")
        elif more and not (more == 1 and step == newest and not is_finished):  # its line may be about to be written
            found.append(f"metrics.jsonl: a row of step {step} was added")
    in_order = [line["sha256"] for line in lines if line["kind"] == "metrics"]
    if not found and in_order != [digest_row(row) for row in rows][: len(in_order)]:
        found.append("metrics.jsonl: its rows are in another order")
    return found


def _files(folder: Path, lines: Sequence[Row], is_finished: bool, report: Report) -> None:
    """Files that are not those of the chain; the last line of a file counts."""
    due = {line["name"]: line for line in lines if line["kind"] in ("file", "start")}
    newest = max((line["step"] for line in lines), default=0)
    for name, line in due.items():
        path = folder / name
        if not path.is_file():
            report.problems.append(f"{name} is missing")
        elif disk.sha256(path) != line["sha256"]:
            report.problems.append(f"{name} was changed")
            report.changed.append(name)
    for name, line in _replaced(lines):
        report.problems.append(f"{name} was written twice without a new start (line {line['n'] + 1} of {NAME})")
    for path in sorted((folder / "rollouts").glob("*.parquet")):
        name, is_old = path.relative_to(folder).as_posix(), not path.stem.isdecimal() or int(path.stem) < newest
        if name not in due and (is_finished or is_old):
            report.problems.append(f"{name} was added")


def _replaced(lines: Iterable[Row]) -> list[tuple[str, Row]]:
    """Files with two lines of different content and no resumption in between."""
    since: dict[str, str] = {}
    found: list[tuple[str, Row]] = []
    for line in lines:
        if line["kind"] == "resumed":
            since = {}
        elif line["kind"] == "file":
            if since.get(line["name"], line["sha256"]) != line["sha256"]:
                found.append((line["name"], line))
            since[line["name"]] = line["sha256"]
    return found


def _notes(lines: Sequence[Row]) -> list[str]:
    resumed = [line["step"] for line in lines if line["kind"] == "resumed"]
    found = [f"resumed after step {', '.join(map(str, resumed))}"] if resumed else []
    if any(line["kind"] == "resumed" and line["name"] == _NO_CHAIN for line in lines):
        num = sum("adopted" in line for line in lines)
        found.append(f"{num} records are of a version without a chain: they are as they were when the run was resumed")
    return found


def _adopted(lines: Sequence[Row]) -> list[str]:
    """A kill leaves one record without its line; more were put there while the run stood still."""
    found: list[str] = []
    start: Row | None = None
    num = 0
    for line in (*lines, {"kind": "resumed", "name": "", "step": 0}):
        if line["kind"] == "resumed":
            if line["name"] == _DAMAGED:
                found.append(f"{NAME}: nothing of it could be read when the run was resumed at step {line['step']}")
            if start is not None and not start["name"] and num > 1:
                found.append(
                    f"{num} rows of metrics.jsonl were added before the run was resumed at step {start['step']}"
                )
            start, num = line, 0
        num += "adopted" in line
    return found
