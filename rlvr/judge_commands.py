"""`rlvr judge`: a language model compares completions, into preference data; and a report of how it errs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rlvr.errors import DataError, DiskError, SettingsError

if TYPE_CHECKING:
    from rlvr.judge_settings import Judging
    from rlvr.judging.judge import Judge
    from rlvr.judging.labelling import Opinion

_EXAMPLES = """\
Example: rlvr judge samples.jsonl --endpoint http://127.0.0.1:8000/v1 --judge-model qwen --out new.jsonl

Example: rlvr judge samples.jsonl --model runs/judge/model --constitution principles.txt --out pairs.jsonl --db votes.db

Example: rlvr judge labelled.jsonl --endpoint http://127.0.0.1:8000/v1 --judge-model qwen --report"""
_REASONS_SHOWN = 3

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
BothOrders = Annotated[bool, typer.Option("--both-orders/--one-order", help="Ask each pair as (a, b) and as (b, a).")]
Keep = Annotated[
    Literal["consistent", "soft"] | None,
    typer.Option("--keep", help="Pairs that both orders agree on, or all; without it consistent, of one order soft."),
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
    _check_new({"--out": out, "--abstained": abstained})
    if db is not None and not db.is_file():
        raise DataError(f"--db {db}: no such database; `rlvr label FILE --db {db}` makes it")
    settings = _settings(
        model, engine, endpoint, judge_model, api_key_from, method, rubric, constitution, both_orders, keep, samples,
        overrides or [],
    )  # fmt: skip
    if report and not (settings.compares and both_orders):
        raise SettingsError(
            "--report compares the two orders of pairs: it goes with pairwise or constitution, both orders"
        )
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from rlvr.feedback.checks import name_problem
    from rlvr.judging import cases as reading
    from rlvr.judging.judge import Judge
    from rlvr.judging.labelling import annotator

    cases, num_same = reading.load_cases(file)
    beside = out if out is not None else Path(file)
    started = time.perf_counter()
    judge = Judge(settings, seed, cache or beside.with_name(f".{beside.name}.judged"), setting="")
    try:
        if db is not None and (problem := name_problem(annotator(judge))):
            raise DataError(f"--db {db}: the annotator {annotator(judge)!r} {problem}")
        opinions, figures = _ask(judge, cases, seed, out, abstained, db)
        _note_origin(judge, file, [path for path in (out, abstained) if path is not None])
        found, extra = _report(judge, opinions, seed, own or "", twins, padding) if report else ({}, {})
        figures |= {name: figures[name] + more for name, more in extra.items()}
        seconds = time.perf_counter() - started
        asked, kept = judge.asker.num_asked, judge.asker.num_kept
    finally:
        judge.close()
    figures |= {"same": num_same, "asked": asked, "kept": kept, "seconds": seconds}
    typer.echo(_summary(figures, out))
    if as_json:
        typer.echo(json.dumps(figures | ({"report": found} if found else {})))


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
        problems = [
            f"{'.'.join(str(part) for part in each['loc'])}: {each['msg'].removeprefix('Value error, ')}"
            for each in error.errors()
        ]
        raise SettingsError("\n".join(problems)) from None


def _set(values: dict[str, Any], text: str) -> None:
    import yaml

    name, sign, value = text.partition("=")
    *parents, last = name.split(".")
    section = values
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise SettingsError(f"--set {text}: {parent} is no section")
    if not sign or not last:
        raise SettingsError(f"--set {text}: must be KEY=VALUE, such as method.criterion=kinder")
    try:
        section[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise SettingsError(f"--set {text}: the value is no YAML") from None


def _check_new(files: Mapping[str, Path | None]) -> None:
    for option, path in files.items():
        if path is None:
            continue
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise DiskError(
                f"{option} {path}: {'is a folder; name a file in it' if path.is_dir() else 'no such folder'}"
            )
        if path.exists():
            raise DataError(f"{option} {path} exists: remove it, or name another file (what was asked is kept)")


def _ask(
    judge: Judge, cases: Sequence[Any], seed: int, out: Path | None, abstained: Path | None, db: Path | None
) -> tuple[list[Opinion], dict[str, Any]]:
    """All opinions, with the files written once all are there."""
    from rlvr.judging import labelling
    from rlvr.progress import Progress

    counts = labelling.Counts(cases=len(cases))
    opinions: list[Opinion] = []
    rows: list[dict[str, Any]] = []
    unsure: list[dict[str, Any]] = []
    problems: dict[str, int] = {}
    with Progress("judge", 1) as progress:
        for opinion in labelling.opinions(judge, cases, seed, lambda done, of: progress.phase(f"{done}/{of}")):
            row = labelling.row_of(opinion, judge)
            labelling.count(counts, opinion, row)
            opinions.append(opinion)
            if row is not None:
                rows.append(row)
                continue
            unsure.append(labelling.abstained_row(opinion))
            problems[unsure[-1]["problem"]] = problems.get(unsure[-1]["problem"], 0) + 1
    if out is not None and not rows:
        reasons = sorted(problems, key=problems.__getitem__, reverse=True)[:_REASONS_SHOWN]
        raise DataError(f"none of {counts.pairs} pairs has an opinion; most often: {'; '.join(reasons)}")
    for path, content in ((out, rows), (abstained, unsure)):
        if path is not None:
            _write(path, content)
    figures = {
        "out": None if out is None else str(out),
        "judge": judge.name,
        "version": judge.version,
        "method": judge.settings.method.kind,
        "cases": counts.cases,
        "pairs": counts.pairs,
        "written": counts.written if out is not None else 0,
        "abstained": counts.abstained,
        "flipped": counts.flipped,
        "left_out": counts.left_out,
        "dropped": sum(case.num_dropped for case in cases),
        **counts.cost.checks(),
    }
    if db is not None:
        figures["answers"] = _into_database(judge, cases, opinions, db)
    return opinions, figures


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """All rows, or no file."""
    from rlvr import disk

    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)  # never over a file that came meanwhile
        part.unlink()
        disk.sync(path.parent)
    except FileExistsError:
        raise DataError(f"{path} exists: remove it, or name another file (what was asked is kept)") from None
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DiskError(f"cannot write {path}: {error.strerror or error}") from error


def _note_origin(judge: Judge, file: str, made: Sequence[Path]) -> None:
    """Beside each file that was made: the rows and the judge that it comes from."""
    from rlvr import lineage

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


def _into_database(judge: Judge, cases: Sequence[Any], opinions: Sequence[Opinion], db: Path) -> int:
    """The judge's answers beside people's; how many are new. What it could not tell is a skip with the reason."""
    from rlvr.feedback.records import Answer, Item
    from rlvr.feedback.store import Store
    from rlvr.judging.labelling import annotator
    from rlvr.judging.ranking import ranked

    told = ranked(opinions)
    with Store.open(db) as store:
        there = {item.id: item for item in store.items()}
        items: list[Item] = []
        answers: list[Answer] = []
        for case in cases:
            item = there.get(case.id)
            if item is None:
                mode = "compare" if len(case.completions) == 2 else "rank"
                item = Item(id=case.id, prompt=case.prompt, completions=case.completions, mode=mode, source=case.source)
                items.append(item)
            if set(item.completions) != set(case.completions) or item.mode not in ("compare", "rank"):
                raise DataError(f"--db {db}: item {case.id!r} is there with other completions, or to be {item.mode}d")
            judgement = _judgement(told[case.id], case.completions, item.completions)
            answers.append(Answer(item=case.id, annotator=annotator(judge), judgement=judgement, source="judge"))
        _, num_new = store.add(items, answers, is_asked=False)
        return num_new


def _judgement(told: Any, ours: Sequence[str], theirs: Sequence[str]) -> Any:
    """A ranking of our indices, or the reason why there is none, as a judgement of theirs."""
    from rlvr.feedback.records import Judgement

    if isinstance(told, str):
        return Judgement(skipped=told[:300])
    index = [theirs.index(text) for text in ours]
    return Judgement(ranking=tuple(tuple(sorted(index[k] for k in place)) for place in told))


def _report(
    judge: Judge, opinions: Sequence[Opinion], seed: int, own: str, num_twins: int, padding: str | None
) -> tuple[dict[str, Any], dict[str, float]]:
    """(the report, what its padded answers cost)"""
    from rlvr.judging import report
    from rlvr.judging.judge import Cost
    from rlvr.judging.labelling import Opinion

    by_id = {opinion.case.id: opinion.case for opinion in opinions}
    if own and not any(own in case.models for case in by_id.values()):
        known = sorted({name for case in by_id.values() for name in case.models})
        raise SettingsError(
            f"--own {own}: no row names this model; the column models has: {', '.join(known) or 'none'}"
        )
    pairs = report.padded(list(by_id.values()), num_twins, seed, padding or report.PADDING) if num_twins else []
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
    kept = f" ({figures['kept']} were kept)" if figures["kept"] else ""
    same = f", {figures['same']} rows without a choice" if figures["same"] else ""
    cost = f", cost {figures['cost']:.4g}" if figures["cost"] else ""
    return (
        f"{written}{figures['pairs']} pairs of {figures['cases']} rows: {figures['abstained']} abstentions, "
        f"{figures['flipped']} flipped with the order{same}; {figures['questions']:g} questions{kept}, "
        f"{figures['prompt_tokens']:g} + {figures['completion_tokens']:g} tokens{cost}, {figures['seconds']:.1f} s"
    )
