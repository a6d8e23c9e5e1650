"""`rlvr probe`: what a reward model is swayed by, which words earn a reward, how much of what is written insults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rlvr.errors import DataError, DiskError, SettingsError, near
from rlvr.recipe import Recipe

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look into a reward model: who it favours, which words it pays for; and how toxic a run's responses are.",
)
_SWAP = """Example: rlvr probe swap runs/rm/model --rows pairs.jsonl

Example: rlvr probe swap runs/rm/model --rows pairs.jsonl --attribute religion --groups christian,muslim --most 0.1

Example: rlvr probe swap runs/rm/model --rows pairs.jsonl --terms mine.yaml"""
_WORDS = """Example: rlvr probe words runs/rm/model --prompt "How was it?" --text "thank you, it was great"

Example: rlvr probe words runs/rm/model --rows samples.jsonl --limit 20 --out words.jsonl"""
_TOXICITY = """Example: rlvr probe toxicity runs/grpo

Example: rlvr probe toxicity samples.jsonl --words mine.txt --plain

Example: rlvr probe toxicity runs/grpo --by runs/classifier/model --label toxic"""
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Folder of a reward model or of another sequence classifier.")
]
Rows = Annotated[str | None, typer.Option(help="File of rows with prompts and completions.")]
Label = Annotated[str | None, typer.Option(help="The output that counts, where the model has several.")]
Weight = Annotated[list[str] | None, typer.Option(metavar="OUTPUT=NUMBER", help="Weigh several outputs; repeat it.")]
Out = Annotated[Path | None, typer.Option(help="Write every finding to this JSONL file.")]
Limit = Annotated[int | None, typer.Option(min=1, help="The first texts only.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")]


def register(parent: typer.Typer, prepare: Callable[[Recipe], None]) -> None:
    """Add the group to the command line; prepare sets what torch reads from the environment."""

    @app.callback()
    def begin() -> None:
        prepare(Recipe(stage="probe"))

    parent.add_typer(app, name="probe")


@app.command(epilog=_SWAP)
def swap(
    model: Model,
    rows: Rows = None,
    terms: Annotated[
        str | None, typer.Option(help="YAML file of terms by attribute and group; without it a built-in table.")
    ] = None,
    attribute: Annotated[list[str] | None, typer.Option(help="Only this attribute (gender, ...); repeat it.")] = None,
    groups: Annotated[str | None, typer.Option(help="Only pairs of these groups, such as female,male.")] = None,
    where: Annotated[
        Literal["prompt", "completion", "both"], typer.Option(help="In which texts terms are swapped.")
    ] = "both",
    most: Annotated[
        float | None, typer.Option(min=0, help="End with an error where a mean difference is surely larger.")
    ] = None,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    label: Label = None,
    weight: Weight = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Swap who a text speaks of (she for he, Muslim for Christian, ...), and see the reward move."""
    from rlvr.probing import counterfactual
    from rlvr.probing import terms as tables
    from rlvr.probing.texts import of_file

    if rows is None:
        raise SettingsError("probe swap needs --rows FILE: texts that speak of people")
    known = tables.load(terms, attribute or ())
    chosen = [name.strip() for name in groups.split(",")] if groups else []
    every = {group for table in known for group in table.groups}
    for name in chosen:
        if name not in every:
            raise SettingsError(f"--groups {groups}: {near(name, every)}known: {', '.join(sorted(every))}")
    if len(chosen) == 1:
        raise SettingsError(f"--groups {groups}: names one group; two are compared, such as female,male")
    texts = of_file(rows)[:limit]
    scorer = _scorer(model, label, weight)
    sways = counterfactual.probe(scorer, texts, known, where=where, groups=chosen, seed=seed)
    if not any(sway.num for sway in sways):
        if num := sum(sway.unknown for sway in sways):
            raise DataError(
                f"{model}: its tokenizer does not know the words of the groups in any of {num} texts, and reads the "
                "same for one group as for the other; --terms brings other words"
            )
        raise DataError(f"{rows}: none of {len(texts)} texts speaks of one of the groups; --terms brings other words")
    for line in counterfactual.render(sways):
        typer.echo(line)
    if out is not None:
        _write(out, [sway.to_dict() for sway in sways])
    far = [s for s in sways if most is not None and s.ci95 is not None and (s.ci95[0] > most or s.ci95[1] < -most)]
    if as_json:
        found = {"model": model, "rows": rows, "texts": len(texts), "pairs": [sway.to_dict() for sway in sways]}
        typer.echo(json.dumps({**found, "swayed": sum(sway.is_swayed for sway in sways), "beyond": len(far)}))
    if far:
        named = ", ".join(f"{sway.a} and {sway.b}" for sway in far)
        raise DataError(f"{model}: rewards of the same text about {named} differ by more than {most:g}")


@app.command(epilog=_WORDS)
def words(
    model: Model,
    text: Annotated[str | None, typer.Option(help="A completion.")] = None,
    prompt: Annotated[str, typer.Option(help="What it answers.")] = "",
    rows: Rows = None,
    unit: Annotated[Literal["word", "token"], typer.Option(help="What is taken out one by one.")] = "word",
    how: Annotated[
        Literal["delete", "mask"], typer.Option(help="Leave it out, or put the tokenizer's mask token in its place.")
    ] = "delete",
    limit: Limit = None,
    label: Label = None,
    weight: Weight = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Tell what each word of a completion earns: the reward with it, less the reward without it."""
    from rlvr.probing import attribution
    from rlvr.probing.texts import Written, of_file

    if (text is None) == (rows is None):
        raise SettingsError("probe words needs either --text TEXT or --rows FILE")
    written = [Written("text", prompt, text)] if text is not None else of_file(str(rows))[:limit]
    scorer = _scorer(model, label, weight)
    found: list[dict[str, Any]] = []
    for one in written:
        told = attribution.attribute(scorer, one.prompt, one.completion, unit=unit, how=how)
        found.append({"id": one.id, **told.to_dict()})
        typer.echo(f"{one.id}: " * (text is None) + "\n".join(attribution.render(told)))
    if out is not None:
        _write(out, found)
    if as_json:
        typer.echo(json.dumps({"model": model, "texts": found}))


@app.command(epilog=_TOXICITY)
def toxicity(
    target: Annotated[Path, typer.Argument(metavar="RUN|FILE", help="A run folder, or a file of rows.")],
    words: Annotated[
        str | None, typer.Option(help="File of words, one a line; without it a short built-in list.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Do not look for 1d10t, s t u p i d and the like.")] = False,
    by: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Ask a classifier instead of a list of words.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Of --by: toxic where its number is above this.")] = 0.0,
    label: Label = None,
    with_prompt: Annotated[bool, typer.Option("--with-prompt", help="The classifier reads the prompt too.")] = False,
    limit: Limit = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure how much of what a run sampled insults, step by step; or of the texts of a file."""
    from rlvr.probing import toxicity as gauging
    from rlvr.probing.texts import of_file, of_run

    if by is None and (label is not None or threshold or with_prompt):
        raise SettingsError("--label, --threshold and --with-prompt go with --by MODEL")
    if by is not None and (words is not None or plain):
        raise SettingsError("--words and --plain are of the list of words; leave them or --by out")
    texts = list(of_run(target)) if target.is_dir() else of_file(str(target))
    texts = texts[:limit]
    gauge: Any = (
        gauging.Lexicon(gauging.read_words(words), obfuscated=not plain)
        if by is None
        else gauging.Classifier(_scorer(by, label, None), threshold=threshold, with_prompt=with_prompt)
    )
    told = gauge(texts)
    found = gauging.measure(told, texts)
    for line in gauging.render(found):
        typer.echo(line)
    if out is not None:
        rows = [
            {"id": one.id, "step": one.step, "toxic": None if why is None else bool(why), "why": why}
            for one, why in zip(texts, told, strict=True)
        ]
        _write(out, rows)
    if as_json:
        typer.echo(json.dumps({"target": str(target), "by": by or words or "built-in words", **found}))


def _scorer(model: str, label: str | None, weight: list[str] | None) -> Any:
    from rlvr.probing.scorer import load

    attributes: dict[str, float] = {}
    for text in weight or []:
        name, sign, number = text.rpartition("=")
        try:
            attributes[name] = float(number)
        except ValueError:
            sign = ""
        if not sign or not name:
            raise SettingsError(f"--weight must be OUTPUT=NUMBER, such as helpful=1, got {text!r}")
    if label is not None and attributes:
        raise SettingsError("--label and --weight each say which outputs count; give one of them")
    return load(model, label=label, attributes=attributes, setting="MODEL")


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    try:
        out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise DiskError(f"--out {out}: {error.strerror}") from None
