"""`rlvr label`: a local web page on which people judge what models wrote."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlvr.errors import DataError, SettingsError, near
from rlvr.feedback.checks import MOST_CHARACTERS, name_problem

if TYPE_CHECKING:
    from rlvr.feedback.records import Item
    from rlvr.feedback.server import Ready

_OPTIONS = {"columns": "--column", "on_bad_row": "--skip-bad", "source": "--source", "split": "--split"}
"""By the names that recipes have for them."""
_FILE_ENDS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".md", ".yaml", ".yml")
_EXAMPLE = "Example: rlvr label samples.jsonl --db labels.db --annotators alice,bob --per-item 2"


def register(app: typer.Typer) -> None:
    """Add `label` to the commands of `rlvr`."""
    app.command(epilog=_EXAMPLE)(label)


def label(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="Rows to judge; not needed once they are in the database.")
    ] = None,
    db: Annotated[
        Path | None, typer.Option(metavar="DB", help="Database of items and answers; made if need be.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; other than loopback needs --allow-remote.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8765,
    annotators: Annotated[
        str | None,
        typer.Option(metavar="NAMES|FILE", help="A link for each: alice,bob, or a file of lines NAME or NAME,GROUP."),
    ] = None,
    per_item: Annotated[int, typer.Option(min=1, max=1000, help="People who answer each item.")] = 1,
    mode: Annotated[str, typer.Option(help="auto, compare, rank, rate, thumbs, write or spans; a row's own wins.")] = (
        "auto"
    ),
    attributes: Annotated[str | None, typer.Option(help="Rated from 1 to 7, such as helpful,correct.")] = None,
    labels: Annotated[str, typer.Option(help="Of marked spans.")] = "toxic",
    guideline: Annotated[Path | None, typer.Option(metavar="FILE.md", help="Shown to everybody.")] = None,
    repeat: Annotated[float, typer.Option(help="Share of items that a person is asked twice.")] = 0.05,
    gold: Annotated[str | None, typer.Option(metavar="FILE", help="Rows {id, gold}, or further rows with a gold.")] = (
        None
    ),
    gold_share: Annotated[float, typer.Option(help="Share of items with a gold among what is asked.")] = 0.1,
    lease_minutes: Annotated[
        float, typer.Option(help="After which an item that is not answered goes to others.")
    ] = 15.0,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD=COLUMN", help="Our word: their column, such as prompt=question; repeat it."),
    ] = None,
    source: Annotated[str, typer.Option(help="What FILE names: file, hub or generator.")] = "file",
    split: Annotated[str, typer.Option(help="Of a Hugging Face data set.")] = "train",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out, and say how many.")] = False,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Let others reach it, over plain HTTP.")] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name that the Host header may bear; repeat it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="When ready, print one JSON object instead of text.")] = False,
) -> None:
    """Ask people on a local web page: compare, rank, rate, thumbs, write, mark spans. Ctrl-C or SIGTERM ends it.

    A row is {id, prompt, completions}, or has chosen and rejected (shown in an order that tells nothing), a single
    completion, or a prompt alone. Its own mode, attributes, gold and draft count; all else is kept and not shown.
    """
    from rlvr.feedback.app import Settings
    from rlvr.feedback.leases import Plan
    from rlvr.feedback.server import Address, serve

    if db is None:
        raise SettingsError("label needs --db DB, the database that answers go to (it is made if need be)")
    people = _annotators(annotators) if annotators is not None else {}
    _check_share("--repeat", repeat)
    _check_share("--gold-share", gold_share)
    if not 0 < lease_minutes < 1e6:
        raise SettingsError(f"--lease-minutes must be above 0, got {lease_minutes:g}")
    plan = Plan(per_item=per_item, repeat=repeat, gold=gold_share, lease_seconds=60 * lease_minutes)
    settings = Settings(
        names=tuple(people),
        guideline=_text(guideline) if guideline is not None else None,
        labels=tuple(_names(labels, "--labels")),
    )
    wanted = tuple(_names(attributes, "--attributes")) if attributes is not None else ()
    given = {"source": source, "split": split, "columns": column or [], "skip_bad": skip_bad}
    items = _items(file, gold, mode, wanted, given)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    address = Address(host=host, port=port, allow_remote=allow_remote, allowed_hosts=tuple(allow_host or ()))
    groups = {name: group for name, group in people.items() if group}
    serve(db, items, address, plan, settings, lambda ready: _tell(ready, db, as_json, per_item), groups=groups)


def _tell(ready: Ready, db: Path, as_json: bool, per_item: int) -> None:
    has_own = ready.owner not in ready.links.values()
    if ready.are_of_before:
        typer.echo(
            "rlvr label: the links are of an earlier start's --annotators, which names others if given", err=True
        )
    if has_own and per_item > len(ready.links):
        said = f"--per-item {per_item}, and --annotators names {len(ready.links)}: no item gets more answers than that"
        typer.echo(f"rlvr label: {said}", err=True)
    if as_json:
        port = int(ready.url.rpartition(":")[2])
        told = {"url": ready.url, "port": port, "links": ready.links, "owner": ready.owner, "items": ready.num_items}
        typer.echo(json.dumps(told))
    else:
        typer.echo(f"rlvr label: {ready.num_items} items, {ready.num_answers} answers in {db}; Ctrl-C ends it")
        for name, link in ready.links.items():
            typer.echo(f"  {name:12} {link}")
        if has_own:
            typer.echo(f"  {'statistics':12} {ready.owner.replace('/#', '/stats#')}")
    sys.stdout.flush()


def _items(
    file: str | None, gold: str | None, mode: str, attributes: tuple[str, ...], given: dict[str, Any]
) -> list[Item] | None:
    """Of FILE and --gold; None where neither is given."""
    from rlvr.feedback import items
    from rlvr.rows import Argument

    if mode not in items.ASKED_MODES:
        known = items.ASKED_MODES
        raise SettingsError(f"--mode must be one of {', '.join(known)}, got {mode!r}; {near(mode, known)}".rstrip("; "))
    chosen: Any = mode
    rows: list[Item] = []
    if file is not None:
        asked = Argument("FILE", **_OPTIONS)
        loaded = items.load_items(_data(file, given), mode=chosen, attributes=attributes, setting=asked)
        rows = loaded.rows
        num_thumbs = sum(item.mode == "thumbs" and len(item.completions) == 1 for item in rows)
        if mode == "auto" and num_thumbs:
            typer.echo(
                f"rlvr label: {num_thumbs} of {len(rows)} items are thumbs (good or bad): one answer each; "
                "--attributes has one answer rated",
                err=True,
            )
        num_written = sum(item.mode == "write" and not item.completions for item in rows)
        if mode == "auto" and num_written:
            typer.echo(f"rlvr label: {num_written} of {len(rows)} items are to be written: no answer in them", err=True)
        if num_golds := sum(items.TASK_GOLD in item.info for item in rows):
            typer.echo(
                f"rlvr label: {num_golds} of {len(rows)} items have the gold of a task, which is kept and measures "
                'nobody; a known answer is as {"best": 0}',
                err=True,
            )
        if loaded.num_bad:
            typer.echo(f"rlvr label: {loaded.num_bad} bad rows left out, the first: {loaded.bad[0]}", err=True)
    if gold is not None:
        # with golds alone FILE's items would be asked without them if they were there before
        if file is None:
            raise SettingsError("--gold goes with FILE, whose items it knows the answers of")
        known = Argument("--gold FILE", **{name: _OPTIONS[name] for name in ("columns", "on_bad_row")})
        data = _data(gold, {**given, "source": "file"})
        rows = items.load_golds(data, rows, mode=chosen, attributes=attributes, setting=known)
    return rows if file is not None else None


def _data(path: str, given: dict[str, Any]) -> Any:
    import typing

    from rlvr.reward_settings import PreferenceData

    known = typing.get_args(typing.get_args(PreferenceData.model_fields["columns"].annotation)[0])
    columns: dict[str, str] = {}
    for text in given["columns"]:
        word, sign, name = text.partition("=")
        if not sign or not name or word not in known:
            raise SettingsError(f"--column {text}: must be WORD=COLUMN with one of {', '.join(known)}")
        columns[word] = name
    if given["source"] not in ("file", "hub", "generator"):
        raise SettingsError(f"--source must be file, hub or generator, got {given['source']!r}")
    try:
        os.stat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # all else is told where it is read
            raise DataError(f"{path}: {error.strerror}") from None
    return PreferenceData(
        path=path,
        source=given["source"],
        split=given["split"],
        columns=columns,  # type: ignore[arg-type]
        on_bad_row="skip" if given["skip_bad"] else "error",
    )


def _annotators(text: str) -> dict[str, str]:
    """{name: group or ""} of "alice,bob" or of a file. SettingsError: a name that is none, or is there twice."""
    people: dict[str, str] = {}
    if os.path.isdir(text):
        raise SettingsError(f"--annotators {text}: is a folder; give a file of names (or {text}, with a comma)")
    if os.path.isfile(text):  # unlike Path's, False also where a list of names is too long for a file's
        lines = [line.partition(",") for line in _text(Path(text)).splitlines() if line.strip()]
        pairs = [(name.strip(), group.strip()) for name, _, group in lines]
    elif "," not in text and (os.sep in text or text.lower().endswith(_FILE_ENDS)):
        raise SettingsError(f"--annotators {text[:200]}: no such file (seen from {Path.cwd()}); names are as alice,bob")
    else:
        pairs = [(name, "") for name in _names(text, "--annotators")]
    for name, group in pairs:
        for what in (name, group) if group else (name,):
            if problem := name_problem(what):
                raise SettingsError(f"--annotators: {what[:40]!r} {problem}")
        if name in people:
            raise SettingsError(f"--annotators: {name!r} is there twice")
        people[name] = group
    if not people:
        raise SettingsError(f"--annotators {text}: names nobody")
    return people


def _names(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if problem := name_problem(name):
            raise SettingsError(f"{option}: {name[:40]!r} {problem}")
    if len(set(names)) < len(names) or not names:
        raise SettingsError(f"{option} {text}: must be different names, separated by commas")
    return names


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 (byte {error.start})") from None
    if len(text) > MOST_CHARACTERS:
        raise SettingsError(f"{path}: has {len(text)} characters, at most {MOST_CHARACTERS} can be shown")
    return text


def _check_share(option: str, value: float) -> None:
    if not 0 <= value <= 0.5:  # NaN fails this too
        raise SettingsError(f"{option} must be from 0 to 0.5, got {value:g}")
