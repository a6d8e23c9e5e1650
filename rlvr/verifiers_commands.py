"""`rlvr verifiers list|test`: which verifiers there are, and whether one can be trusted."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlvr.errors import DataError, SettingsError

if TYPE_CHECKING:
    from rlvr.audit_examples import Description

app = typer.Typer(rich_markup_mode=None, help="Which verifiers there are, and whether one can be trusted.")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")]
_WIDTH = 110


@app.command(name="list", epilog="Example: rlvr verifiers list")
def list_all(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a table for a page, such as docs/VERIFIERS.md.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Tell of every verifier that is built in or installed: what it judges, its gold, its options, what it lacks."""
    from rlvr import audit_examples

    found = audit_examples.describe_all()
    lines = audit_examples.markdown(found) if markdown else (line for one in found for line in _described(one))
    for line in lines:
        typer.echo(line)
    if as_json:
        typer.echo(json.dumps({"verifiers": found}))


@app.command(
    name="test",
    epilog="Example: rlvr verifiers test roman.py:roman\n\nExample: rlvr verifiers test math --cases FILE.jsonl --json",
)
def run_test(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A verifier, package.module:name or file.py:name.")],
    cases: Annotated[
        str | None,
        typer.Option(metavar="FILE.jsonl", help="Judge this file's {gold, response, expected} alone, and count."),
    ] = None,
    option: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of it; repeat it.")] = None,
    gold: Annotated[
        list[str] | None, typer.Option(metavar="GOLD", help=r"Must be accepted as \boxed{GOLD}; repeat it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Audit a verifier: examples, cheating, odd and huge input, determinism, threads, deadline. Exit code 3: it failed.

    With --cases it is measured on labelled cases instead: accuracy, false positives and negatives, times.
    """
    from rlvr.rewards.bound import option_value, read_options

    options = read_options(option or [], "--option")
    if cases is not None:
        if gold:
            raise SettingsError("--gold goes with an audit; --cases judges its file alone")
        _measure(name, cases, options, as_json)
    else:
        _audit(name, options, [option_value(text) for text in gold or []], as_json)


def _audit(name: str, options: dict[str, Any], golds: list[Any], as_json: bool) -> None:
    import dataclasses

    from rlvr import audit, audit_card

    card = audit.audit(name, options, golds)
    for line in audit_card.report(card):
        typer.echo(line)
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(card), "failed": card.failed}))
    if card.failed:
        raise DataError(f"verifier {name!r} failed {len(card.failed)} of its checks: {', '.join(card.failed)}")


def _measure(name: str, path: str, options: dict[str, Any], as_json: bool) -> None:
    from rlvr import audit_cases

    found, lines = audit_cases.measure(name, path, options)
    for line in lines:
        typer.echo(line)
    for kind, figures in found["by_kind"].items():
        typer.echo(
            f"{kind:24}{figures['n']:5}  {figures['accuracy']:7.1%}  false positives {figures['false_positive']}, "
            f"false negatives {figures['false_negative']}"
        )
    typer.echo(
        f"{found['verifier']} {found['version']}: {found['accuracy']:.1%} of {found['n']} right "
        f"(without {found['ambiguous']} ambiguous), false positives {found['false_positive']}, false negatives "
        f"{found['false_negative']}, errors {sum(found['errors'].values())}; p50 {found['p50_ms']:.2f} ms, "
        f"p99 {found['p99_ms']:.2f} ms, most {found['max_ms']:.1f} ms"
    )
    if as_json:
        typer.echo(json.dumps(found))
    if sum(found["errors"].values()) == found["n"]:
        raise DataError("nothing could be judged: see the reasons above")


def _described(one: Description) -> list[str]:
    lines = [f"{one['name']:16}{one['version']}"]
    rows = [("", one["summary"]), ("gold: ", one["gold"])]
    options = [f"{name}: {it['type']} = {it['default']}" for name, it in one["options"].items()]
    rows += [("options: ", "; ".join(options)), ("needs: ", one["needs"])]
    for label, text in rows:
        if text:
            lines += textwrap.wrap(label + text, _WIDTH, initial_indent="    ", subsequent_indent="        ")
    return lines
