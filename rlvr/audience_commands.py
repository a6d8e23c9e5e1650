"""`rlvr audience`: an adapter for each group of people, and a report that nobody is served worse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from rlvr.errors import DataError, RlvrError

_TRAIN = """Example: rlvr audience train dpo.yaml --by group --dir runs/audiences model.path=runs/sft/model

Example: rlvr audience train grpo.yaml --groups nurses,students --dir runs/audiences
rewards.taste.path=runs/rm/model rewards.taste.label={group}"""
_REPORT = """Example: rlvr audience report runs/audiences --tasks held_out.jsonl --score runs/rm/model:{group} --strict

Example: rlvr audience report runs/audiences --tasks held_out.jsonl --score taste.py:{group} -n 8 --engine hf"""


def register(app: typer.Typer, prepare: Callable[[Any], None]) -> None:
    """Add the group to the command line; prepare sets what torch and vllm read from the environment."""
    group = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help="Serve groups of different taste each by an adapter of its own.",
    )
    app.add_typer(group, name="audience")
    group.command(epilog=_TRAIN)(train)
    _register_report(group, prepare)


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe of rlvr dpo, train or sft.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE ...]", help="Settings; {group} in one is the group's name."),
    ] = None,
    folder: Annotated[Path, typer.Option("--dir", help="Folder of all runs.")] = Path("runs/audiences"),
    by: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the rows that names the group.")] = None,
    groups: Annotated[str | None, typer.Option(help="These groups alone, such as nurses,students.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")] = False,
) -> None:
    """Train one adapter for each group, on what that group prefers. Goes on where it was killed."""
    from rlvr import audience

    chosen = [name.strip() for name in groups.split(",")] if groups else []
    told = audience.train(recipe, folder, by=by, groups=chosen, overrides=overrides or [], say=typer.echo)
    for name, size in audience.sizes(told, folder).items():
        typer.echo(f"{name}: {folder / told['groups'][name]['adapter']} ({size / 1e6:.2f} MB)")
    if as_json:
        typer.echo(json.dumps(told))


def _register_report(group: typer.Typer, prepare: Callable[[Any], None]) -> None:
    @group.command(epilog=_REPORT)
    def report(
        folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `rlvr audience train` made.")],
        tasks: Annotated[str, typer.Option(help="File of held-out prompts.")],
        score: Annotated[
            str,
            typer.Option(help="How a group judges: reward model, FOLDER:OUTPUT, or a verifier; {group} is its name."),
        ],
        num: Annotated[int, typer.Option("-n", min=1, help="Completions per prompt.")] = 4,
        max_tokens: Annotated[int, typer.Option(min=1, help="Longest completion.")] = 256,
        temperature: Annotated[float, typer.Option(min=0, help="Of the sampling.")] = 1.0,
        seed: Annotated[int, typer.Option(min=0, help="Of sampling and intervals.")] = 0,
        engine: Annotated[str, typer.Option(help="vllm or hf.")] = "vllm",
        tolerance: Annotated[float, typer.Option(min=0, help="A loss that counts as none.")] = 0.0,
        strict: Annotated[bool, typer.Option("--strict", help="End with 1 where a group is served worse.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")] = False,
    ) -> None:
        """Compare every adapter with the base model on every group's own score, paired by prompt."""
        from rlvr import audience, audience_report, settings

        told = audience.read(folder)
        if problems := audience.shares(folder, told):
            raise DataError(f"{folder}: {problems[0]}")

        def sample(model: str, out: Path) -> None:
            given = {
                "model.path": model,
                "eval.tasks.path": tasks,
                "eval.tasks.verifier": "boxed",  # needs no gold, where none is asked
                "eval.samples": num,
                "eval.max_tokens": max_tokens,
                "eval.temperature": temperature,
                "eval.seed": seed,
                "engine.kind": engine,
                # a process of its own for each model: one after the other in this one would share its memory
                **({"engine.mode": "process"} if engine == "vllm" else {}),
            }
            recipe: Any = settings.from_overrides("eval", [f"{k}={json.dumps(v)}" for k, v in given.items()])
            prepare(recipe)
            from rlvr.loops.sample import sample as into_file
            from rlvr.progress import Progress

            with Progress(f"audience {out.stem}", 1) as progress:
                into_file(recipe, out, progress)

        files = audience_report.sampled(folder, told, sample)
        found = audience_report.matrix(
            audience_report.scores(score, list(told["groups"]), files), tolerance=tolerance, seed=seed
        )
        for line in audience_report.render(found):
            typer.echo(line)
        if as_json:
            typer.echo(json.dumps(found))
        if strict and found["worse"]:
            raise RlvrError(f"{folder}: served worse than by {told['base']}: {', '.join(found['worse'])}")
