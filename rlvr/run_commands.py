"""Commands that look at a run, going on or finished, and change nothing: status, plot, doctor, why, rescore."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from rlvr.errors import DataError, DiskError, SettingsError

if TYPE_CHECKING:
    from rlvr.rescore import Change

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart/grpo.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")]
_WHY_EXAMPLES = """Example: rlvr why runs/quickstart/grpo 12/train:17/3

Example: rlvr why runs/rm/model

Example: rlvr why runs/rm q17 --db labels.db

Example: rlvr why runs/quickstart/grpo --check"""
_MOST_SHOWN = 20
_MOST_STEPS = 1_000_000


def register(app: typer.Typer) -> None:
    """Add them to the command line."""
    app.command(epilog="Example: rlvr status runs/quickstart/grpo")(status)
    app.command(epilog="Example: rlvr plot runs/quickstart/grpo --out curve.png")(plot)
    app.command(epilog="Example: rlvr doctor runs/quickstart/grpo")(doctor)
    app.command(epilog=_WHY_EXAMPLES)(why)
    app.command(epilog="Example: rlvr rescore runs/quickstart/grpo -v math --steps 1,50,150")(rescore)


def status(run: RunFolder, as_json: Json = False) -> None:
    """Say how far a run is."""
    from rlvr import status as run_status

    report = run_status.status(run)
    typer.echo(run_status.render(report))
    if as_json:
        typer.echo(json.dumps(report))


def plot(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="PNG file; without it RUN/plot.png.")] = None,
    as_json: Json = False,
) -> None:
    """Draw a run's curves into a PNG file."""
    from rlvr import plot as plotting

    path = plotting.plot(run, out)
    typer.echo(path)
    if as_json:
        curve = plotting.divergence(run)
        typer.echo(json.dumps({"plot": str(path)} | ({} if curve is None else {"divergence": curve})))


def doctor(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Also look at this run folder.")] = None,
    as_json: Json = False,
) -> None:
    """Look at the installation: versions, vLLM, verifiers, links, disk; and at a run folder."""
    import dataclasses

    from rlvr import doctor as checkup

    checks = checkup.diagnose(run)
    typer.echo(checkup.render(checks))
    if as_json:
        typer.echo(json.dumps({"checks": [dataclasses.asdict(check) for check in checks]}))
    if any(check.ok is False for check in checks):
        raise DataError("something needs attention: see the lines marked above")


def why(
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="A run folder, a model folder, or a file of sampled rows.")
    ],
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]",
            help="Of a run: a rollout (STEP/TASK/SAMPLE) or a training row. Of a file: a row's id or line.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Say where a record of the run, its data or its labels was changed.")
    ] = False,
    head: Annotated[
        str | None, typer.Option(metavar="HASH", help="With --check: the head of the chain that you kept.")
    ] = None,
    root: Annotated[
        list[Path] | None, typer.Option(help="Where to look for what was moved; without it beside the run. Repeat it.")
    ] = None,
    db: Annotated[
        list[Path] | None, typer.Option(help="Database of `rlvr label` with the votes behind the rows. Repeat it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell the whole story of one reward, and of what it comes from: verdicts, the sum, what it did; checkpoint,
    reward model, training rows, votes, and the models before."""
    from rlvr import ancestry, trace

    if head is not None and not check:
        raise SettingsError("--head goes with --check")
    top = target.absolute().parent
    search = ancestry.Search(root or [top.parent if (top / "recipe.yaml").is_file() else top], db or [])
    if check:
        if what is not None:
            raise SettingsError("--check looks at the whole run; leave the id out")
        report = ancestry.check(target, search, head)
        for line in (*report["problems"], *report["notes"]):
            typer.echo(line)
        state = "" if report["problems"] or not report["lines"] else ", all as they were written"
        typer.echo(f"{report['lines']} records{state}; head {report['head'] or 'none'}")
        if as_json:
            typer.echo(json.dumps(report))
        if report["problems"]:
            raise DataError(f"{target}: not as it was written, in {len(report['problems'])} places: see above")
        return
    story = trace.trace(target, what, search)
    typer.echo(trace.render(story))
    if as_json:
        typer.echo(json.dumps(story))


def rescore(
    run: RunFolder,
    verifier: Annotated[
        str, typer.Option("-v", "--verifier", help="Judges the old responses; model, judge: the part's own one.")
    ],
    part: Annotated[
        str | None, typer.Option(help="Part of the reward that it stands for, where it is not plain.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of that verifier; repeat it.")
    ] = None,
    steps: Annotated[str | None, typer.Option(help="Such as 1,50,150 or 100-150; without it all.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that judge.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write every change to this JSONL file.")] = None,
    as_json: Json = False,
) -> None:
    """Judge old rollouts again: which verdicts, rewards and signs of advantages change. The run stays as it is."""
    from rlvr import rescore as rescoring
    from rlvr.rewards.bound import read_options

    plan = rescoring.plan(run, verifier, part, read_options(option or [], "--option"))
    file = None
    if out is not None:
        with _as_disk_error(str(out)):
            file = open(out, "w", encoding="utf-8")  # noqa: SIM115 - closed below
    reports, shown = [], 0
    typer.echo(f"{'step':>6} {'n':>6} {'changed':>8} {'up':>5} {'down':>5} {'reward':>17} {'flips':>6}")
    try:
        for report in rescoring.rescore(run, plan, _steps(steps), workers):
            reports.append(report)
            reward = " -> ".join("none" if value is None else f"{value:.3f}" for value in report.reward)
            typer.echo(
                f"{report.step:>6} {report.n:>6} {report.changed:>8} {report.up:>5} {report.down:>5} {reward:>17} "
                f"{report.flips:>6}"
            )
            for change in report.changes:
                if file is not None:
                    _write(file, change)
                elif shown < _MOST_SHOWN:
                    shown += 1
                    typer.echo(f"         {_told(change)}")
    finally:
        if file is not None:
            with _as_disk_error(file.name):
                file.close()
    total = rescoring.totals(reports)
    num_changes = sum(len(report.changes) for report in reports)
    if out is None and num_changes > shown:
        typer.echo(f"         ... and {num_changes - shown} more (--out FILE has them all)")
    typer.echo(
        f"{total['changed']} of {total['n']} verdicts of {plan.part} change (up {total['up']}, down {total['down']}), "
        f"{total['flips']} advantages change sign, {total['now_equal']} groups would teach nothing"
    )
    if not plan.compares_advantages:
        typer.echo(f"advantages of kind {plan.recipe.advantage.kind} need more than rewards: they are not compared")
    if total["unstable"]:
        typer.echo(
            f"{total['unstable']} differ though verifier, version and input are the same: it is not deterministic"
        )
    if as_json:
        result = {"run": str(run), "part": plan.part, "verifier": verifier, **total}
        typer.echo(json.dumps({**result, "steps": [report.to_dict() for report in reports]}))


def _write(file: IO[str], change: Change) -> None:
    with _as_disk_error(file.name):
        file.write(json.dumps(change.to_dict()) + "\n")


@contextlib.contextmanager
def _as_disk_error(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(f"--out {name}: {error.strerror}") from None


def _told(change: Change) -> str:
    before, after = change.before, change.after
    score = " -> ".join("none" if v.worth is None else f"{v.worth:g}" for v in (before, after))
    return f"{change.id}: {score} ({before.outcome} -> {after.outcome}: {after.reason})" + (
        ", flips" if change.flips else ""
    )


def _steps(text: str | None) -> list[int] | None:
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and (not last.isdecimal() or int(last) < int(first))):
            raise SettingsError(f"--steps must be numbers and ranges, such as 1,50,100-150, got {text!r}")
        if len(found) + int(last or first) - int(first) > _MOST_STEPS:
            raise SettingsError(f"--steps {text}: more than {_MOST_STEPS} steps; leave it out to take all")
        found += range(int(first), int(last or first) + 1)
    return sorted(set(found))
