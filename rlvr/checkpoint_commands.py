"""`rlvr checkpoint verify|list|export RUN`: whether a run's checkpoints are whole, what is in them, one as a model."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlvr import checkpoint, runs, settings
from rlvr.errors import DataError, DiskError, SettingsError
from rlvr.recipe import Model, PretrainRecipe, RlRecipe, SftRecipe, TrainingRecipe

if TYPE_CHECKING:
    from torch import Tensor

app = typer.Typer(rich_markup_mode=None, help="Look at a run's checkpoints, or take a model out of one.")

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart/grpo.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")]


@app.command(epilog="Example: rlvr checkpoint verify runs/quickstart/grpo")
def verify(run: RunFolder, as_json: Json = False) -> None:
    """Check every file of every checkpoint against its checksum; exit code 3 where one is not whole."""
    rows = [{"step": int(path.name), "fault": fault} for path, fault in _verified(run)]
    for row in rows:
        typer.echo(f"step {row['step']}: {row['fault'] or 'whole'}")
    bad = sum(row["fault"] is not None for row in rows)
    if not rows:
        typer.echo(f"{run} has no checkpoints")
    if as_json:
        typer.echo(json.dumps({"run": str(run), "checkpoints": rows, "bad": bad}))
    if bad:
        raise DataError(f"{bad} of {len(rows)} checkpoints in {run} are not whole: see above")


@app.command(name="list", epilog="Example: rlvr checkpoint list runs/quickstart/grpo --json")
def list_(run: RunFolder, as_json: Json = False) -> None:
    """Say of each checkpoint its step, size, age, contents, and whether it is whole."""
    rows = [_row(path, fault) for path, fault in _verified(run)]
    for row in rows:
        line = f"step {row['step']}  " + (row["fault"] or "whole")
        if row["fault"] is None:
            line += f"  {row['bytes'] / 1e6:.1f} MB  {row['saved']}  {row['parameters']:,} parameters"
            line += f"  {'with' if row['optimizer_tensors'] else 'without'} optimizer state"
            line += "".join(
                f"  {name} {row['numbers'][name]}" for name in ("cursor", "tokens") if name in row["numbers"]
            )
        typer.echo(line)
    if not rows:
        typer.echo(f"{run} has no checkpoints")
    if as_json:
        typer.echo(json.dumps({"run": str(run), "checkpoints": rows}))


@app.command(epilog="Example: rlvr checkpoint export runs/quickstart/grpo --step 100 --to models/grpo-100")
def export(
    run: RunFolder,
    to: Annotated[Path, typer.Option(help="A folder that is not there yet.")],
    step: Annotated[int | None, typer.Option(help="Of this checkpoint; without it of the newest whole one.")] = None,
    adapter: Annotated[bool, typer.Option("--adapter", help="Of a LoRA run: the PEFT folder, not the merged.")] = False,
    as_json: Json = False,
) -> None:
    """Write a plain Hugging Face folder with the weights of a checkpoint."""
    recipe = _recipe(run)
    if to.exists():
        raise DiskError(f"--to {to}: is there already; name a folder that is not")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"--to {to}: {error.strerror}") from None
    from rlvr import lora, policy

    exported, tensors, numbers = _saved(run, step)
    model, tokenizer = _base_model(recipe, run)
    _put(model, recipe, tensors, numbers, f"the checkpoint of step {exported} in {run}")
    if adapter and not lora.is_attached(model):
        raise SettingsError(f"--adapter: {run} trained the whole model; leave --adapter out")
    policy.save_model(model if adapter or not lora.is_attached(model) else lora.merged(model), tokenizer, to)
    typer.echo(f"step {exported}: {to}")
    if as_json:
        typer.echo(json.dumps({"run": str(run), "step": exported, "model": str(to)}))


# --- details ---------------------------------------------------------------------------------------------------------


def _verified(run: Path) -> list[tuple[Path, str | None]]:
    """(checkpoint, what is wrong with it) from oldest to newest. DataError where RUN is no run."""
    runs.read_recipe(run)
    found = [(path, checkpoint.verify(path)) for path in reversed(checkpoint.newest_first(run / "checkpoints"))]
    return [(path, fault) for path, fault in found if path.is_dir()]  # a run that goes on prunes meanwhile


def _row(path: Path, fault: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"step": int(path.name), "fault": fault}
    if fault is not None:
        return row
    found = checkpoint.contents(path)
    sizes = {name: _size(shape) for name, shape in found["shapes"].items()}
    return row | {
        "bytes": found["bytes"],
        "saved": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found["saved"])),
        "parameters": sum(size for name, size in sizes.items() if name.startswith("model.")),
        "model_tensors": sum(name.startswith("model.") for name in sizes),
        "optimizer_tensors": sum(name.startswith("optimizer.") for name in sizes),
        "numbers": found["numbers"],
    }


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _recipe(run: Path) -> RlRecipe | SftRecipe | PretrainRecipe:
    runs.read_recipe(run)  # says in one line where RUN is none
    recipe = settings.load_recipe(run / "recipe.yaml")
    if not isinstance(recipe, RlRecipe | SftRecipe | PretrainRecipe):
        raise DataError(f"{run} is of stage {recipe.stage}, which trains no model")
    return recipe


def _saved(run: Path, step: int | None) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
    """(step, weights without the optimizer's state, numbers)"""
    folder = run / "checkpoints"
    if step is None:
        newest = checkpoint.load_newest(folder)
        if newest is None:
            raise DataError(f"{run} has no checkpoints")
        step, tensors, numbers, skipped = newest
        for line in skipped:
            typer.echo(f"note: {line}", err=True)
    else:
        tensors, numbers = checkpoint.load(folder, step)
    return step, {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}, numbers


def _base_model(recipe: RlRecipe | SftRecipe | PretrainRecipe, run: Path) -> tuple[Any, Any]:
    """(the model that the run began with, tokenizer); its weights do not matter."""
    from rlvr import policy
    from rlvr.loops import setup, sft

    if isinstance(recipe, RlRecipe):
        return setup.load_policy(recipe)
    if isinstance(recipe, PretrainRecipe) and (run / "model" / "config.json").is_file():
        return policy.load_model(Model(path=str(run / "model")))  # of a finished run: the same one, found sooner
    return sft.base_model(recipe)


def _put(model: Any, recipe: TrainingRecipe, tensors: dict[str, Tensor], numbers: dict[str, Any], what: str) -> None:
    """Give the model the weights. DataError where they are of another one."""
    from rlvr.trained import Trained

    try:
        Trained(model, recipe.optim, recipe.steps).load_state(tensors, numbers)
    except ValueError as error:
        raise DataError(f"{what} is of another model than its recipe.yaml names: {error}") from error
