"""`rlvr feedback`: what people answered as files to train on, answers that others collected, figures, and the chain."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rlvr.errors import DataError, SettingsError, near

if TYPE_CHECKING:
    from rlvr.feedback.exports import Exported

app = typer.Typer(rich_markup_mode=None, help="Take answers of people out of a database, and bring others' in.")
_MOST_SHOWN = 20
_FITTING = {
    "compare": "preference or ranking",
    "rank": "preference or ranking",
    "thumbs": "unpaired",
    "rate": "ratings",
    "write": "sft",
    "spans": "raw",
}
"""The --as for the items of each mode."""

Database = Annotated[Path, typer.Argument(metavar="DB", help="Database of `rlvr label`.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")]
_EXPORT_EXAMPLES = """Example: rlvr feedback export votes.db --to pairs.jsonl

Example: rlvr feedback export votes.db --to rated.parquet --as unpaired --labels majority --ties drop

Example: rlvr feedback export votes.db --to by_group.jsonl --by-group --without alice"""
_IMPORT_EXAMPLES = """Example: rlvr feedback import votes.csv --db votes.db

Example: rlvr feedback import records.json --db votes.db --from argilla --column ignore=topic"""


@app.command(epilog=_EXPORT_EXAMPLES)
def export(
    db: Database,
    to: Annotated[Path, typer.Option(help="New file (.jsonl or .parquet), or folder for `load_from_disk`.")],
    form: Annotated[
        Literal["preference", "unpaired", "ranking", "sft", "ratings", "raw"],
        typer.Option("--as", help="What the rows are; raw: every answer as it stands."),
    ] = "preference",
    labels: Annotated[
        Literal["votes", "majority", "dawid_skene"],
        typer.Option(help="How answers become one label: share of the votes, the most, or weighed by reliability."),
    ] = "votes",
    min_votes: Annotated[int, typer.Option(min=1, help="Leave rows out that fewer people answered.")] = 1,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="ANNOTATOR", help="Whose answers do not count (name or hash); repeat it."),
    ] = None,
    by_group: Annotated[bool, typer.Option("--by-group", help="A row for each group of people.")] = False,
    ties: Annotated[
        Literal["keep", "drop"], typer.Option(help="Rows of probability 0.5, or with equal places.")
    ] = "keep",
    gold: Annotated[Literal["keep", "drop"], typer.Option(help="Items whose answer is known.")] = "keep",
    info: Annotated[bool, typer.Option("--info", help="Add the item's further columns.")] = False,
    as_json: Json = False,
) -> None:
    """Write answers as rows that `rlvr reward-model`, `dpo` and `sft` and TRL's trainers read. Never over a file.

    The same database gives the same bytes. A keyed hash stands for each name of a person, also in ids, sources,
    comments and further columns; prompts, completions and what people wrote stay as they are. docs/LABELLING.md lists
    the columns.
    """
    from rlvr import lineage
    from rlvr.feedback import export_files, exports
    from rlvr.feedback.store import Store

    export_files.check_target(to)
    settings = exports.Export(
        form=form,
        labels=labels,
        min_votes=min_votes,
        without=tuple(without or ()),
        by_group=by_group,
        keeps_ties=ties == "keep",
        with_gold=gold == "keep",
        with_info=info,
    )
    with Store.open(db, readonly=True) as store:
        head = store.head()
        found = exports.export(store, settings)
    reasons = _why_left_out(found, form)
    for line in [*(f"left out: {why}" for why in reasons), *_notices(found, by_group)]:
        typer.echo(line, err=True)
    if not found.rows:
        holds = "items" if not found.num_items else "answers"
        why = f": left out were {', '.join(reasons)}" if reasons else f", for it holds no {holds}"
        raise DataError(f"{db} gives no rows of {form}{why}")
    export_files.write(found.rows, to)
    if to.is_file():
        lineage.note_origin(to, [lineage.of_database(db, *head)], made_by="rlvr feedback export")
    figures = {
        "out": str(to),
        "as": form,
        "labels": labels,
        "rows": len(found.rows),
        "ties": found.num_ties,
        "items": found.num_items,
        "answers": found.num_answers,
        "left_out": dict(found.left_out),
    }
    typer.echo(f"{len(found.rows)} rows of {found.num_items} items and {found.num_answers} answers: {to}")
    if as_json:
        typer.echo(json.dumps(figures))


def _why_left_out(found: Exported, form: str) -> list[str]:
    from rlvr.feedback.exports import REASONS

    reasons = [f"{num} {REASONS[why]}" for why, num in found.left_out.items() if why != "other_mode"]
    if found.other_modes:
        modes = ", ".join(f"{num} {mode} (--as {_FITTING[mode]})" for mode, num in sorted(found.other_modes.items()))
        num_others = found.other_modes.total()
        reasons.append(f"{num_others} items that rows of {form} are not made from: {modes}")
    return reasons


def _notices(found: Exported, by_group: bool) -> Iterator[str]:
    """What to know of the rows before training on them."""
    if found.num_ties:
        yield (
            f"{found.num_ties} ties are kept, with probability 0.5 or in equal places; to a trainer that reads no "
            "probability they are sure choices: --ties drop leaves them out"
        )
    if found.doubts:
        low, high = max(found.doubts, key=lambda interval: interval[1] - interval[0])
        yield (
            f"{len(found.doubts)} labels rest on people of whose reliability little is known (95 % interval {low:.2f} "
            f"to {high:.2f} for one): --labels votes is the safer choice"
        )
    if by_group and found.rows and all(row["group"] is None for row in found.rows):
        yield "--by-group: nobody who answered has a group, so `group` is null in all rows"
    if found.as_messages:
        yield f"{found.as_messages} plain prompts are written as a user's message, as others are messages"


@app.command("import", epilog=_IMPORT_EXAMPLES)
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, JSONL, JSON, parquet, or a folder of them.")],
    db: Annotated[Path, typer.Option(help="Database; made where there is none.")],
    form: Annotated[
        Literal["auto", "csv", "jsonl", "argilla", "label-studio", "trl"],
        typer.Option("--from", help="What the rows are; without it told by their columns."),
    ] = "auto",
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD=COLUMN", help="Our word: their column, field or question; repeat it."),
    ] = None,
    annotator: Annotated[str, typer.Option(help="Who answered, where the rows do not say.")] = "imported",
    on_bad_row: Annotated[Literal["error", "skip"], typer.Option(help="Bad rows end it, or are left out.")] = "error",
    as_json: Json = False,
) -> None:
    """Add answers that others collected: of Argilla, Label Studio, plain tables, logs of a deployed model, TRL's rows.

    The same file twice adds nothing. What is about the same texts becomes one item, here or in the database already.
    Names of people stay in the database. docs/LABELLING.md lists the columns.
    """
    from rlvr.feedback import imports
    from rlvr.feedback.store import Store

    reading = imports.Reading(
        form=form, columns=_columns(column or []), annotator=annotator, skips_bad_rows=on_bad_row == "skip"
    )
    # before a database is made for nothing
    loaded = imports.load(file, reading, ()) if not os.path.exists(db) else None
    with Store.open(db, create=True) as store:
        figures = imports.import_file(store, file, reading, loaded)
    if figures["bad_rows"]:
        typer.echo(f"left out: {figures['bad_rows']} bad rows", err=True)
    for why, num in figures["left_out"].items():
        typer.echo(f"left out: {num} {why}", err=True)
    typer.echo(
        f"{figures['items']} new items and {figures['answers']} new answers of {figures['rows']} rows"
        f" ({figures['known_answers']} answers were there)"
    )
    if as_json:
        typer.echo(json.dumps(figures))


def _columns(texts: list[str]) -> dict[str, tuple[str, ...]]:
    from rlvr.feedback.imports import NUMBERED, WORDS

    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        word, sign, name = text.partition("=")
        word = "ratings" if word == "scores" else word  # a recipe's word for them
        if not sign or not name or (word not in WORDS and not NUMBERED.fullmatch(word)):
            hint = near(word, WORDS) if sign else ""
            raise SettingsError(
                f"--column {text}: must be WORD=COLUMN; {hint}words are {', '.join(WORDS)}, response_a, response_b, ..."
            )
        if word in found and NUMBERED.fullmatch(word):
            raise SettingsError(f"--column {text}: {word} is column {found[word][0]} already")
        found[word] = (*found.get(word, ()), name)
    answers = [word for word in found if NUMBERED.fullmatch(word)]
    if len(answers) == 1:
        raise SettingsError(f"--column {answers[0]}: is one answer; name the others' columns too, as response_b=COLUMN")
    return found


@app.command(epilog="Example: rlvr feedback stats votes.db")
def stats(db: Database, as_json: Json = False) -> None:
    """Say how good the answers are: agreement, each person, what is disputed, which groups differ.

    Nobody is flagged for gold items, repeats, hurry or skips by fewer than 5 of them; "-" is what cannot be told.
    """
    from rlvr.feedback.report import report
    from rlvr.feedback.statistics import statistics
    from rlvr.feedback.store import Store

    with Store.open(db, readonly=True) as store:
        found = statistics(list(store.items()), store.answers(), groups=store.groups())
    typer.echo(report(found))
    if as_json:
        typer.echo(json.dumps(found))


@app.command(epilog="Example: rlvr feedback verify votes.db")
def verify(db: Database, as_json: Json = False) -> None:
    """Follow the chain of hashes: is every record as it was written?

    Exit code 3: a record was changed, taken out or put in.
    """
    from rlvr.feedback.store import Store

    with Store.open(db, readonly=True) as store:
        problems = store.check_chain()
        num_events, head = store.head()
    for line in problems[:_MOST_SHOWN]:
        typer.echo(line)
    if len(problems) > _MOST_SHOWN:
        typer.echo(f"... and {len(problems) - _MOST_SHOWN} more")
    if not problems:
        typer.echo(f"{num_events} records are as they were written; the last has the hash {head}")
    if as_json:
        typer.echo(json.dumps({"db": str(db), "events": num_events, "head": head, "problems": problems}))
    if problems:
        raise DataError(f"{db}: {len(problems)} places where a record was changed: see the lines above")
