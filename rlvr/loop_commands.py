"""`rlvr loop`: the circle of feedback, in rounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from rlvr import failpoints, settings
from rlvr.errors import SettingsError
from rlvr.loop_settings import LoopRecipe
from rlvr.recipe import Eval as EvalSettings
from rlvr.recipe import EvalRecipe, Recipe


def register(app: typer.Typer, prepare: Callable[[Recipe], None]) -> None:
    """Add it to the command line; prepare sets what torch and vllm read from the environment."""

    @app.command(
        epilog="Example: rlvr loop recipes/loop/loop.yaml seed=1 run.dir=runs/loop/mine\n\n"
        "All settings: rlvr config --settings loop"
    )
    def loop(
        recipe: Annotated[
            str, typer.Argument(metavar="RECIPE", help="YAML file; `rlvr config --settings loop` lists names.")
        ],
        overrides: Annotated[
            list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="Settings over the recipe's.")
        ] = None,
        resume: Annotated[
            str,
            typer.Option(
                help="auto: go on where run.dir holds a run; never: refuse then; or a run folder to go on with."
            ),
        ] = "auto",
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Check the recipe, those of its stages, and the data; do nothing.")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")] = False,
    ) -> None:
        """Sample, label, fit the reward model, train the policy, and keep it where it is no worse; in rounds."""
        given = list(overrides or [])
        if resume not in ("auto", "never"):
            if not (Path(resume) / "recipe.yaml").is_file():
                raise SettingsError(f"--resume {resume}: must be auto, never or a run folder (no recipe.yaml in it)")
            given.append(f"run.dir={json.dumps(resume, ensure_ascii=False)}")
            resume = "auto"
        loaded = settings.load_recipe(recipe, given, stage="loop")
        assert isinstance(loaded, LoopRecipe)
        failpoints.check()
        # the environment of a process that samples; that of one that trains is the same
        prepare(EvalRecipe(model=loaded.model, engine=loaded.engine, system=loaded.system, eval=_some_eval(loaded)))
        if dry_run:
            result = _dry_run(loaded)
            typer.echo("\n".join(f"{name:14} {value}" for name, value in result.items()))
            typer.echo("all is well; `rlvr config` shows the resolved settings")
        else:
            result = _run(loaded, recipe, resume)
        if as_json:
            typer.echo(json.dumps(result))


def _some_eval(recipe: LoopRecipe) -> EvalSettings:
    return EvalSettings(tasks=recipe.eval.tasks)


def _run(recipe: LoopRecipe, path: str, resume: str) -> dict[str, Any]:
    from rlvr.loops.stopping import StopRequest

    with StopRequest() as stop:  # from here on, for what is imported next takes seconds
        from rlvr.loop import circle, report
        from rlvr.progress import Progress
        from rlvr.runs import Run, read_summary

        with Run.open(recipe, path, resume) as run:
            if run.is_finished:
                typer.echo(f"{run.folder} is finished; nothing to do (set another run.dir for a new run)")
                return {**(read_summary(run.folder) or {}), "run": str(run.folder)}
            with Progress(f"loop {run.folder}", recipe.rounds) as progress:
                stop.say = progress.warn
                progress.say(f"run folder {run.folder}")
                for text in run.changes:
                    progress.warn(text)
                summary = circle.run(recipe, run, progress, stop)
            typer.echo("\n".join(report.render(summary["rounds"])))
            typer.echo(f"done in {summary['seconds']:.0f} s: {summary['model']}")
            return {**summary, "run": str(run.folder)}


def _dry_run(recipe: LoopRecipe) -> dict[str, Any]:
    """All that can be found out without weights."""
    from rlvr.loop import circle, labelling
    from rlvr.policy import load_tokenizer

    tasks, held_out = circle.prepare(recipe)
    reward, policy = circle.stage_recipes(recipe)
    circle.check_models(recipe, reward)
    load_tokenizer(recipe.model)
    if recipe.labels.kind == "simulated":
        labelling.people(recipe.labels)
    asked = recipe.pick.num + recipe.pick.held_out
    return {
        "stage": "loop",
        "rounds": recipe.rounds,
        "rows": len(tasks),
        "held_out": len(held_out),
        "comparisons": asked * (recipe.rounds if recipe.reward_model.refit else 1),
        "answers": asked * recipe.labels.votes * (recipe.rounds if recipe.reward_model.refit else 1),
        "reward_model": f"{recipe.reward_model.members} of {recipe.reward_model.recipe} "
        + (f"({recipe.reward_model.epochs:g} epochs)" if recipe.reward_model.epochs else f"({reward.steps} steps)"),
        "policy": f"{recipe.policy.recipe} ({policy.steps} steps)",
        "gate": recipe.gate.judge,
    }
