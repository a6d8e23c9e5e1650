"""`rlvr sample`: completions of a model into a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from rlvr import settings
from rlvr.errors import DiskError, SettingsError
from rlvr.recipe import EvalRecipe

_EXAMPLES = """Example: rlvr sample --model runs/sft/model --tasks tasks.jsonl -n 4 --out samples.jsonl

Example: rlvr sample --model runs/sft/model --tasks tasks.jsonl -n 16 --out best.jsonl --best-of math --min-score 1

Example: rlvr sample --model runs/sft/model --tasks tasks.jsonl -n 8 --out pairs.jsonl --pairs-by runs/rm/model"""


def register(app: typer.Typer, prepare: Callable[[EvalRecipe], None]) -> None:
    """Add it to the command line; prepare sets what torch and vllm read from the environment."""

    @app.command(epilog=_EXAMPLES)
    def sample(
        model: Annotated[str, typer.Option(help="Model folder or Hugging Face name.")],
        tasks: Annotated[str, typer.Option(help="File whose rows have prompts; golds are for verifiers alone.")],
        num: Annotated[int, typer.Option("-n", min=1, help="Completions per task.")],
        out: Annotated[Path, typer.Option(help="JSONL file to write.")],
        overrides: Annotated[
            list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="Further settings, as of `rlvr eval`.")
        ] = None,
        best_of: Annotated[
            str | None,
            typer.Option(metavar="NAME", help="Keep the best by this verifier or reward model: {prompt, completion}."),
        ] = None,
        pairs_by: Annotated[
            str | None,
            typer.Option(metavar="NAME", help="Keep the best and the worst by it: {prompt, chosen, rejected}."),
        ] = None,
        min_score: Annotated[float | None, typer.Option(help="Leave tasks out whose best is worth less.")] = None,
        temperature: Annotated[float | None, typer.Option(help="Of the sampling; without it 1.")] = None,
        max_tokens: Annotated[int | None, typer.Option(help="Longest completion; without it 256.")] = None,
        seed: Annotated[int | None, typer.Option(help="Same seed, same texts; without it 0.")] = None,
        engine: Annotated[str | None, typer.Option(help="vllm or hf; without it vllm.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")] = False,
    ) -> None:
        """Sample completions into a file: to label, to imitate the best of, to compare. Goes on where it was killed."""
        judge = best_of or pairs_by
        if best_of and pairs_by:
            raise SettingsError("--best-of and --pairs-by make different files; give one of them")
        if min_score is not None and judge is None:
            raise SettingsError("--min-score goes with --best-of or --pairs-by, which say what is scored")
        if pairs_by and num < 2:
            raise SettingsError(f"-n must be at least 2 for a pair, got {num}")
        if out.is_dir() or not out.absolute().parent.is_dir():
            raise DiskError(f"--out {out}: {'is a folder; name a file in it' if out.is_dir() else 'no such folder'}")
        flags: dict[str, Any] = {
            "model.path": model,
            "eval.tasks.path": tasks,
            "eval.samples": num,
            "eval.temperature": temperature,
            "eval.max_tokens": max_tokens,
            "eval.seed": seed,
            "engine.kind": engine,
            # a verifier that needs no gold, where none is asked
            "eval.tasks.verifier": judge if judge is not None and not Path(judge).is_dir() else "boxed",
        }
        given = [f"{name}={json.dumps(value)}" for name, value in flags.items() if value is not None]
        recipe = settings.from_overrides("eval", [*given, *(overrides or [])])
        assert isinstance(recipe, EvalRecipe)
        prepare(recipe)
        from rlvr.loops import sample as loop  # with torch, once the environment is set
        from rlvr.progress import Progress

        form = "best" if best_of else "pairs" if pairs_by else "all"
        pick = loop.Pick(form=form, by=None if judge is None else loop.judge_named(judge), at_least=min_score)
        with Progress("sample", 1) as progress:
            figures = loop.sample(recipe, out, progress, pick)
        typer.echo(
            f"{figures['n_rows']} rows from {figures['n_tasks']} tasks with {num} completions each in "
            f"{figures['seconds']:.1f} s: {out}"
        )
        if as_json:
            typer.echo(json.dumps(figures))
