"""`rlvr judge`: a language model compares completions, into preference data; and a report of how it errs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rlvr.errors import RlvrError, SettingsError

if TYPE_CHECKING:
    from rlvr.judge_settings import Judging
    from rlvr.judging.cases import Case, Cases
    from rlvr.judging.judge import Judge
    from rlvr.judging.labelling import Counts, Opinion
    from rlvr.reward_settings import PreferenceData

_EXAMPLES = """\
Example: rlvr judge samples.jsonl --endpoint http://127.0.0.1:8000/v1 --judge-model qwen --out new.jsonl

Example: rlvr judge samples.jsonl --model runs/judge/model --constitution principles.txt --out pairs.jsonl --db votes.db

Example: rlvr judge labelled.jsonl --endpoint http://127.0.0.1:8000/v1 --judge-model qwen --report"""
_MOST_SHOWN = 80
"""Characters of an option in a message."""
_OPTIONS = {
    "by.endpoint": "--endpoint", "by.hf": "--model", "by.vllm": "--model", "by.url": "--endpoint", "by.path": "--model",
    "by.model": "--judge-model", "by.api_key_from": "--api-key-from", "by.as_chat": "--set by.as_chat",
    "method.keep": "--keep", "samples": "--samples", "secret_from": "--set secret_from", "judge's cache": "--cache",
}  # fmt: skip
"""What people typed, by what messages of settings begin with."""

File = Annotated[
    str, typer.Argument(metavar="FILE", help="Rows with prompt and completions (2 to 9), or chosen and rejected.")
]
ModelPath = Annotated[
    str | None, typer.Option("--model", help="Judge: model folder or Hugging Face name, by our own engine.")
]
EngineKind = Annotated[Literal["hf", "vllm"], typer.Option("--engine", help="Of --model.")]
Endpoint = Annotated[
    str | None, typer.Option("--endpoint", help="Judge: OpenAI-compatible API, such as http://127.0.0.1:8000/v1.")
]
JudgeModel = Annotated[str | None, typer.Option("--judge-model", help="Of --endpoint: the server's name of the model.")]
KeyFrom = Annotated[
    str | None,
    typer.Option("--api-key-from", metavar="VARIABLE", help="Environment variable that holds the endpoint's key."),
]
Method = Annotated[
    Literal["pairwise", "constitution", "rubric", "reference"] | None,
    typer.Option("--method", help="Without it what --constitution or --rubric says, else pairwise."),
]
RubricFile = Annotated[str | None, typer.Option("--rubric", metavar="FILE", help="Criteria by name (YAML or JSON).")]
ConstitutionFile = Annotated[
    str | None, typer.Option("--constitution", metavar="FILE", help="A principle on each line.")
]
Column = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="WORD=COLUMN", help="Our word: their column, such as prompt=question; repeat it."),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out, and say how many.")]
BothOrders = Annotated[bool, typer.Option("--both-orders/--one-order", help="Ask each pair as (a, b) and as (b, a).")]
Keep = Annotated[
    Literal["consistent", "soft"] | None,
    typer.Option(
        "--keep",
        help="consistent: pairs whose two orders name different winners are left out; soft: they stay. Without it "
        "consistent, and soft with --one-order.",
    ),
]
Samples = Annotated[int, typer.Option("--samples", min=1, help="Times that each question is asked.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting of a judge: method.criterion=kinder; repeat it."),
]
Out = Annotated[Path | None, typer.Option("--out", help="JSONL file to write: prompt, chosen, rejected, probability.")]
Abstained = Annotated[Path | None, typer.Option("--abstained", help="JSONL file for the pairs that it could not tell.")]
Database = Annotated[
    Path | None, typer.Option("--db", help="Database of `rlvr label` that gets the judge's answers too.")
]
Report = Annotated[bool, typer.Option("--report", help="Measure its biases and agreement with the labels.")]
Twins = Annotated[int, typer.Option("--twins", min=0, help="Of the report: answers that are also asked about padded.")]
Padding = Annotated[str | None, typer.Option("--padding", help="Of the report: idle words, in place of ours.")]
Own = Annotated[
    str | None,
    typer.Option("--own", metavar="NAME", help="Of the report: the judge's name in the rows' column models."),
]
CacheFile = Annotated[
    Path | None,
    typer.Option("--cache", help="File of replies that were paid for; without it beside --out or FILE."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of lots: orders, principles, padded answers.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")]


def register(app: typer.Typer) -> None:
    """Add it to the command line."""
    app.command(epilog=_EXAMPLES)(judge)


def judge(
    file: File,
    column: Column = None,
    skip_bad: SkipBad = False,
    model: ModelPath = None,
    engine: EngineKind = "hf",
    endpoint: Endpoint = None,
    judge_model: JudgeModel = None,
    api_key_from: KeyFrom = None,
    method: Method = None,
    rubric: RubricFile = None,
    constitution: ConstitutionFile = None,
    both_orders: BothOrders = True,
    keep: Keep = None,
    samples: Samples = 1,
    overrides: Overrides = None,
    out: Out = None,
    abstained: Abstained = None,
    db: Database = None,
    report: Report = False,
    twins: Twins = 100,
    padding: Padding = None,
    own: Own = None,
    cache: CacheFile = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Let a language model choose between completions: rows to train on, abstentions left out. Goes on where it was
    killed: what was answered is not asked again."""
    if out is None and not report and db is None:
        raise SettingsError("nothing to do: give --out FILE.jsonl for preference data, --db DB, or --report")
    settings = _settings(
        model, engine, endpoint, judge_model, api_key_from, method, rubric, constitution, both_orders, keep, samples,
        overrides or [],
    )  # fmt: skip
    if report and not (settings.compares and both_orders):
        raise SettingsError(
            "--report compares the two orders of pairs: it goes with pairwise or constitution, both orders"
        )
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from rlvr.judge_outputs import Outputs
    from rlvr.judging.cases import load_cases
    from rlvr.judging.judge import Judge
    from rlvr.rows import Argument

    beside = out if out is not None else Path(file)
    replies = cache or beside.with_name(f".{beside.name}.judged")
    outputs = Outputs(out, abstained, db)
    outputs.check_files(replies)
    named = Argument("FILE", columns="--column", on_bad_row="--skip-bad")
    loaded = load_cases(_data(file, column or [], skip_bad), named)
    if own is not None:
        _check_own(loaded.cases, own)
    started = time.perf_counter()
    with _in_options(settings.method.kind):
        judge = Judge(settings, seed, replies, setting="")
    try:
        outputs.check_database(loaded.cases, judge)
        with _kept(judge, replies):
            opinions, counts = _ask(judge, loaded.cases, seed)
            figures = _figures(judge, loaded, counts)
            if report:
                found, cost = _report(judge, loaded.cases, opinions, seed, own or "", twins, padding)
                figures |= {"report": found} | {name: figures[name] + more for name, more in cost.items()}
        rows = outputs.rows(judge, opinions)
        with _kept(judge, replies):
            figures |= outputs.save(judge, loaded.cases, opinions, rows, file)
        figures |= {"asked": judge.asker.num_asked, "kept": judge.asker.num_kept}
    finally:
        judge.close()
    figures["seconds"] = time.perf_counter() - started
    typer.echo(_summary(figures, out))
    if as_json:
        typer.echo(json.dumps(figures))


def _data(file: str, columns: Sequence[str], skip_bad: bool) -> PreferenceData:
    from pydantic import ValidationError

    from rlvr.reward_settings import PreferenceData

    given: dict[str, str] = {}
    for text in columns:
        word, sign, name = text.partition("=")
        if not sign or not name:
            raise SettingsError(f"--column {text}: must be WORD=COLUMN, such as prompt=question")
        given[word] = name
    try:
        return PreferenceData.model_validate(
            {"path": file, "columns": given, "on_bad_row": "skip" if skip_bad else "error"}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"{'--column' if len(first['loc']) > 1 else 'FILE'}: {first['msg']}") from None


@contextlib.contextmanager
def _in_options(method: str) -> Iterator[None]:
    """Problems of settings, said of the options that people typed."""
    options = _OPTIONS | {"method.file:": f"--{method}"}
    try:
        yield
    except RlvrError as error:
        named = re.compile(r"^(judge's cache|method\.file:|[\w.]+)", re.MULTILINE)
        raise type(error)(named.sub(lambda found: options.get(found[0], found[0]), str(error))) from None


@contextlib.contextmanager
def _kept(judge: Judge, replies: Path) -> Iterator[None]:
    """Whatever fails once the judge was asked says how to go on."""
    try:
        yield
    except RlvrError as error:
        if not judge.asker.num_asked + judge.asker.num_kept:
            raise
        on = f"the same command goes on from there, as does any with --cache {replies}"
        raise type(error)(f"{error}; what was answered is kept: {on}") from error


def _settings(
    model: str | None,
    engine: str,
    endpoint: str | None,
    judge_model: str | None,
    api_key_from: str | None,
    method: str | None,
    rubric: str | None,
    constitution: str | None,
    both_orders: bool,
    keep: str | None,
    samples: int,
    overrides: Sequence[str],
) -> Judging:
    """The options as settings. SettingsError where they do not go together."""
    from pydantic import ValidationError

    from rlvr.judge_settings import Judging

    if (model is None) == (endpoint is None):
        raise SettingsError("who judges? give --model PATH, or --endpoint URL with --judge-model NAME, and not both")
    if (endpoint is None) != (judge_model is None) or (endpoint is None and api_key_from is not None):
        raise SettingsError("--endpoint and --judge-model go together, and --api-key-from with them")
    if rubric and constitution:
        raise SettingsError("--rubric and --constitution are different methods; give one of them")
    method = method or ("rubric" if rubric else "constitution" if constitution else "pairwise")
    if (method == "rubric") != (rubric is not None) or (method == "constitution") != (constitution is not None):
        needed = method if method in ("rubric", "constitution") else "rubric" if rubric else "constitution"
        raise SettingsError(f"--method {needed} and --{needed} FILE go together, got --method {method}")
    asked: dict[str, Any] = {"kind": method}
    if method in ("rubric", "constitution"):
        asked["file"] = rubric or constitution
    if method in ("pairwise", "constitution"):
        asked["keep"] = keep or ("consistent" if both_orders else "soft")
        if keep == "consistent" and not both_orders:
            raise SettingsError("--keep consistent compares the two orders of a pair: it goes with --both-orders")
    elif keep is not None:
        raise SettingsError(f"--keep is of pairs; {method} scores each completion by itself")
    if method != "rubric":
        asked["orders"] = "both" if both_orders else "one"
    by: dict[str, Any] = {"kind": engine, "path": model}
    if endpoint is not None:
        by = {"kind": "endpoint", "url": endpoint, "model": judge_model, "api_key_from": api_key_from}
    values: dict[str, Any] = {"by": by, "method": asked, "samples": samples}
    for text in overrides:
        _set(values, text)
    try:
        return Judging.model_validate(values)
    except ValidationError as error:
        options = _OPTIONS | {f"method.{method}": f"--method {method}"}
        problems: list[str] = []
        for each in error.errors():
            name = re.sub(r"^(by|method)\.\w+\.", r"\1.", ".".join(map(str, each["loc"])))  # without their kind
            problems.append(f"{options.get(name, f'--set {name}')}: {each['msg'].removeprefix('Value error, ')}")
        raise SettingsError("\n".join(problems)) from None


def _set(values: dict[str, Any], text: str) -> None:
    import yaml

    name, sign, value = text.partition("=")
    shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
    *parents, last = name.split(".")
    section = values
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise SettingsError(f"--set {shown}: {parent} is no section")
    if not sign or not last:
        raise SettingsError(f"--set {shown}: must be KEY=VALUE, such as method.criterion=kinder")
    try:
        section[last] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a day that is none, a number of 5000 digits
        raise SettingsError(f"--set {shown}: the value is no YAML") from None


def _ask(judge: Judge, cases: Sequence[Case], seed: int) -> tuple[list[Opinion], Counts]:
    from rlvr.judging import labelling
    from rlvr.progress import Progress

    opinions: list[Opinion] = []
    counts = labelling.Counts(cases=len(cases))
    with Progress("judge", 1) as progress:
        for opinion in labelling.opinions(judge, cases, seed, lambda done, of: progress.phase(f"{done}/{of}")):
            labelling.count(counts, opinion)
            opinions.append(opinion)
    return opinions, counts


def _figures(judge: Judge, loaded: Cases, counts: Counts) -> dict[str, Any]:
    return {
        "judge": judge.name,
        "version": judge.version,
        "method": judge.settings.method.kind,
        "cases": counts.cases,
        "same": loaded.num_same,
        "bad": loaded.num_bad,
        "dropped": sum(case.num_dropped for case in loaded.cases),
        "pairs": counts.pairs,
        "abstained": counts.abstained,
        "flipped": counts.flipped,
        "left_out": counts.left_out,
        **counts.cost.checks(),
    }


def _check_own(cases: Sequence[Case], own: str) -> None:
    if not any(own in case.models for case in cases):
        known = sorted({name for case in cases for name in case.models})
        raise SettingsError(
            f"--own {own}: no row names this model; the column models has: {', '.join(known) or 'none'}"
        )


def _report(
    judge: Judge,
    cases: Sequence[Case],
    opinions: Sequence[Opinion],
    seed: int,
    own: str,
    num_twins: int,
    padding: str | None,
) -> tuple[dict[str, Any], dict[str, float]]:
    """(the report, what its padded answers cost)"""
    from rlvr.judging import report
    from rlvr.judging.judge import Cost
    from rlvr.judging.labelling import Opinion

    pairs = report.padded(cases, num_twins, seed, padding or report.PADDING) if num_twins else []
    compared = judge.compare([pair for _, pair in pairs])
    twins = [Opinion(case=case, a=0, b=1, compared=one) for (case, _), one in zip(pairs, compared, strict=True)]
    found = report.report(judge, opinions, own=own, twins=twins)
    for line in report.lines(found):
        typer.echo(line)
    cost = Cost()
    for one in compared:
        cost = cost.plus(one.cost)
    return found, cost.checks()


def _summary(figures: Mapping[str, Any], out: Path | None) -> str:
    written = f"{figures['written']} rows in {out}, " if out is not None else ""
    bad = f" ({figures['bad']} bad rows were left out)" if figures["bad"] else ""
    kept = f" ({figures['kept']} were kept)" if figures["kept"] else ""
    same = f", {figures['same']} rows without a choice" if figures["same"] else ""
    cost = f", cost {figures['cost']:.4g}" if figures["cost"] else ""
    if figures["method"] in ("pairwise", "constitution"):
        out_of = f", {figures['left_out']} of them left out (--keep soft keeps them)" if figures["left_out"] else ""
        flipped = f"{figures['flipped']} flipped with the order{out_of}"
    else:
        flipped = f"{figures['left_out']} of equal scores, which are left out"
    return (
        f"{written}{figures['pairs']} pairs of {figures['cases']} rows{bad}: {figures['abstained']} abstentions, "
        f"{flipped}{same}; {figures['questions']:g} questions{kept}, "
        f"{figures['prompt_tokens']:g} + {figures['completion_tokens']:g} tokens{cost}, {figures['seconds']:.1f} s"
    )
