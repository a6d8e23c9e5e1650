"""Where `rlvr judge` writes: looked at before anything is asked, written once all is answered, all of it or nothing."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr import disk, lineage
from rlvr.errors import DataError, DiskError, RlvrError
from rlvr.feedback.checks import item_problem, name_problem
from rlvr.feedback.records import Answer, Item, Judgement
from rlvr.feedback.store import Store
from rlvr.judging.cases import Case
from rlvr.judging.judge import Judge
from rlvr.judging.labelling import Opinion, Row, abstained_row, annotator, row_of
from rlvr.judging.ranking import ranked

_REASONS_SHOWN = 3
_REASON_CHARACTERS = 300
"""Of a skip."""


@dataclass(slots=True)
class Outputs:
    """The files and the database that an invocation writes, those of them that were asked for."""

    out: Path | None = None
    abstained: Path | None = None
    db: Path | None = None

    def check_files(self, replies: Path) -> None:
        """DataError: a file is there already, or the database is not. DiskError: a file could not be written. replies:
        file of those that were paid for, which there may be from an earlier start."""
        places: set[str] = set()
        for option, path in (("--out", self.out), ("--abstained", self.abstained)):
            if path is not None:
                _check_new(option, path, replies)
                places.add(os.path.realpath(path))
        if self.out is not None and self.abstained is not None and len(places) == 1:
            raise DataError(f"--abstained {self.abstained}: is --out too; name another file")
        if self.db is not None:
            try:
                is_there = self.db.is_file()
            except OSError as error:
                raise DataError(f"--db {self.db}: {error.strerror}") from None
            if not is_there:
                raise DataError(f"--db {self.db}: no such database; `rlvr label FILE --db {self.db}` makes it")

    def check_database(self, cases: Sequence[Case], judge: Judge) -> None:
        """That the judge's answers would be taken as things stand. DataError, DiskError."""
        if self.db is None:
            return
        if problem := name_problem(annotator(judge)):
            raise DataError(f"--db {self.db}: the annotator {annotator(judge)!r} {problem}")
        with Store.open(self.db) as store:
            _items(store, cases)

    def rows(self, judge: Judge, opinions: Sequence[Opinion]) -> tuple[list[Row], list[Row]]:
        """(preference rows, those that could not be told). DataError: there is none to be written."""
        told: list[Row] = []
        unsure: list[Row] = []
        for opinion in opinions:
            row = row_of(opinion, judge)
            (unsure if row is None else told).append(abstained_row(opinion) if row is None else row)
        if self.out is not None and not told:
            often = Counter(row["problem"] for row in unsure).most_common(_REASONS_SHOWN)
            why = "; ".join(problem for problem, _ in often)
            raise DataError(f"none of {len(opinions)} pairs has an opinion; most often: {why}")
        return told, unsure

    def save(
        self,
        judge: Judge,
        cases: Sequence[Case],
        opinions: Sequence[Opinion],
        rows: tuple[Sequence[Row], Sequence[Row]],
        file: str,
    ) -> dict[str, Any]:
        """Write all; figures of it. DataError, DiskError: then no file of ours is left, so that the same command can be
        given again (the database takes no answer twice). rows: of rows(); file: what the cases were read from."""
        figures: dict[str, Any] = {"out": None, "written": 0}
        if self.db is not None:
            figures["answers"] = _into_database(judge, cases, opinions, self.db)
        if self.out is not None:
            figures |= {"out": str(self.out), "written": len(rows[0])}
        made: list[Path] = []
        try:
            for path, content in zip((self.out, self.abstained), rows, strict=True):
                if path is not None:
                    _write(path, content)
                    made.append(path)
            _note_origin(judge, file, made)
        except RlvrError:
            for path in made:
                for each in (path, path.with_name(f".{path.name}.{lineage.NAME}")):
                    with contextlib.suppress(OSError):
                        each.unlink(missing_ok=True)
            raise
        return figures


def _check_new(option: str, path: Path, replies: Path) -> None:
    try:
        if path.is_dir() or not path.absolute().parent.is_dir():
            why = "is a folder; name a file in it" if path.is_dir() else "no such folder"
            raise DiskError(f"{option} {path}: {why}")
        if os.path.lexists(path):
            kept = f" and --cache {replies}, where what was asked is kept" if os.path.isfile(replies) else ""
            raise DataError(f"{option} {path} exists: remove it, or name another file{kept}")
        # of the names beside it the longest: a folder that takes no new file says so here and not once all is paid
        probe = path.with_name(f"..{path.name}.{lineage.NAME}.new")
        os.close(os.open(probe, os.O_CREAT | os.O_WRONLY, 0o600))
        probe.unlink()
    except RlvrError:  # DiskError is an OSError too
        raise
    except OSError as error:
        raise DiskError(f"{option} {path}: {error.strerror or error}") from None


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """All rows, or no file."""
    part = path.with_name(f".{path.name}.part")
    try:
        disk.write(part, "".join(json.dumps(row) + "\n" for row in rows))
        disk.publish(part, path)
    except FileExistsError:
        raise DataError(f"{path} exists: remove it, or name another file") from None
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # the disk may have become one that is only read
            part.unlink(missing_ok=True)


def _note_origin(judge: Judge, file: str, made: Sequence[Path]) -> None:
    """Beside each file that was made: the rows and the judge that it comes from."""
    by = judge.settings.by
    named: dict[str, Any] = {"data": {"path": file, "source": "file", "split": "train"}}
    named |= {} if by.kind == "endpoint" else {"by": {"path": by.path}}
    about = {"judge": judge.name, "version": judge.version}
    try:
        inputs = lineage.inputs_of(named) if made else []
        for path in made:
            lineage.note_origin(path, inputs, made_by="rlvr judge", **about)
    except OSError as error:
        raise DiskError(f"cannot write beside {made[0]}: {error.strerror or error}") from error


# --- the database ----------------------------------------------------------------------------------------------------


def _items(store: Store, cases: Sequence[Case]) -> list[tuple[Item, bool]]:
    """(item, whether it is new) of each case. DataError: one that cannot be, or is there for something else."""
    there = {item.id: item for item in store.items()}
    found: list[tuple[Item, bool]] = []
    for case in cases:
        item = there.get(case.id)
        if item is not None:
            texts = {text for text in item.completions if text.strip()}  # the judge is not asked about empty ones
            if texts != set(case.completions) or item.mode not in ("compare", "rank"):
                how = f"to be judged by {item.mode}" if texts == set(case.completions) else "with other completions"
                raise DataError(f"--db {store.path}: item {case.id!r} is there {how}; give the row another id")
            found.append((item, False))
            continue
        mode = "compare" if len(case.completions) == 2 else "rank"
        item = Item(id=case.id, prompt=case.prompt, completions=case.completions, mode=mode, source=case.source)
        if problem := item_problem(item):
            raise DataError(f"--db {store.path}: row {case.id!r}: {problem}")
        found.append((item, True))
    return found


def _into_database(judge: Judge, cases: Sequence[Case], opinions: Sequence[Opinion], db: Path) -> int:
    """The judge's answers beside people's; how many are new. What it could not tell is a skip with the reason."""
    told = ranked(opinions)
    who = annotator(judge)
    with Store.open(db) as store:
        items = _items(store, cases)
        answers = [
            Answer(item=item.id, annotator=who, judgement=_judgement(told[item.id], case, item), source="judge")
            for case, (item, _) in zip(cases, items, strict=True)
        ]
        return store.add([item for item, is_new in items if is_new], answers, is_asked=False)[1]


def _judgement(told: Any, case: Case, item: Item) -> Judgement:
    """A ranking of a case's completions, or the reason why there is none, as a judgement of the item's."""
    if isinstance(told, str):
        return Judgement(skipped=told[:_REASON_CHARACTERS])
    if len(case.completions) < len(item.completions):
        return Judgement(skipped="one of the completions is empty: the judge was not asked about it")
    index = [item.completions.index(text) for text in case.completions]
    return Judgement(ranking=tuple(tuple(sorted(index[k] for k in place)) for place in told))
