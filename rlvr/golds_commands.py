"""`rlvr golds check`: tasks whose gold is no use, tasks there are twice, tasks of an evaluation set."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlvr.errors import DataError, DiskError, SettingsError

if TYPE_CHECKING:
    from rlvr.golds import Report

app = typer.Typer(rich_markup_mode=None, help="Look at tasks before anything is trained on them.")
_MOST_SHOWN = 20
_LONGEST = 400


@app.callback()
def _group() -> None:
    """Keeps `check` a command of its own, though it is the only one."""


@app.command(epilog="Example: rlvr golds check train.jsonl --against test.jsonl --out bad.jsonl")
def check(
    file: Annotated[str, typer.Argument(metavar="FILE.jsonl", help="Tasks: a file or folder, as data.path takes.")],
    verifier: Annotated[
        str | None, typer.Option("-v", "--verifier", help="Judges every row; without it the row's own, or math.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of that verifier; repeat it.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD=COLUMN", help="Our word: their column, as data.columns; repeat it."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="EVAL.jsonl", help="Also find tasks that this evaluation set has.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write every finding to this JSONL file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")] = False,
) -> None:
    """Find tasks whose gold their own verifier refuses, rows without one, duplicates, and overlap with an eval set.

    Exit code 3: some tasks cannot be used.
    """
    from rlvr import golds
    from rlvr.audit_card import short
    from rlvr.rewards.bound import read_options

    if option and verifier is None:
        raise SettingsError("--option is one verifier's own; name it with -v")
    columns = _columns(column or [])
    report = golds.check(file, verifier, read_options(option or [], "--option"), against, columns)
    if out is not None:
        _write(out, report)
    for kind, meaning in golds.MEANING.items():
        of_kind = [finding for finding in report.findings if finding.kind == kind]
        if of_kind:
            typer.echo(f"{kind}: {len(of_kind)} ({meaning})")
        for finding in of_kind[:_MOST_SHOWN]:
            typer.echo("  " + short(f"{finding.where}: {finding.reason}", _LONGEST))
        if (more := len(of_kind) - _MOST_SHOWN) > 0:
            typer.echo(f"  ... and {more} more (--out FILE has them all)")
    for name, forms in report.forms.items():
        for kind, form in forms.items():
            how = f"as the response {form.format('GOLD')!r}" if form is not None else "by its gold_problem() alone"
            typer.echo(f"golds of {name} that are {kind} were tried {how}")
    counts = {kind: count for kind, count in report.counts.items() if count}
    typer.echo(
        f"{report.num_rows} rows, {report.num_unusable} cannot be used"
        + "".join(f", {count} {kind}" for kind, count in counts.items())
    )
    if as_json:
        found = {"rows": report.num_rows, "unusable": report.num_unusable, **report.counts, "forms": report.forms}
        typer.echo(json.dumps(found))
    if report.num_unusable:
        raise DataError(f"{file}: {report.num_unusable} of {report.num_rows} tasks cannot be used: see the lines above")


def _columns(texts: list[str]) -> dict[str, str]:
    from rlvr.recipe import Data

    known = typing.get_args(typing.get_args(Data.model_fields["columns"].annotation)[0])
    columns = {}
    for text in texts:
        word, sign, name = text.partition("=")
        if not sign or not name or word not in known:
            raise SettingsError(f"--column {text}: must be WORD=COLUMN with one of {', '.join(known)}")
        columns[word] = name
    return columns


def _write(out: Path, report: Report) -> None:
    lines = [json.dumps(dataclasses.asdict(finding)) + "\n" for finding in report.findings]
    try:
        out.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise DiskError(f"--out {out}: {error.strerror}") from None
