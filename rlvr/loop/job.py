"""What all stages of a loop have in hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlvr import settings
from rlvr.inputs import fingerprint_model
from rlvr.loop.manifest import Round, digest_of, write, write_rows
from rlvr.loop.stages import Runner, flat
from rlvr.loop_settings import LoopRecipe
from rlvr.progress import Progress
from rlvr.recipe import Data, EvalRecipe, TrainingRecipe
from rlvr.recipe import Eval as EvalSettings
from rlvr.seeds import permutation, seed_for
from rlvr.types import Task, plain_prompt


@dataclass(slots=True, kw_only=True)
class Job:
    """A loop under way."""

    recipe: LoopRecipe
    folder: Path
    """Of the run."""
    runner: Runner
    progress: Progress
    tasks: Sequence[Task]
    """To sample, label and train on."""
    held_out: Sequence[Task]
    closed: list[Round]
    """Rounds that are done, in their order."""

    @property
    def db(self) -> Path:
        """Of items and answers."""
        return Path(self.recipe.labels.db) if self.recipe.labels.db else self.folder / "labels.db"

    @property
    def policy(self) -> str:
        """The policy that was accepted last: a folder, or the name of `model`."""
        for done in reversed(self.closed):
            if done.is_accepted:
                return str(done.folder / "policy" / "model")
        return self.recipe.model.path

    @property
    def refused(self) -> list[int]:
        return [done.number for done in self.closed if not done.is_accepted]

    def round(self, number: int) -> Path:
        """Its folder."""
        return self.folder / "rounds" / f"{number:03d}"

    def named(self, path: str | Path) -> str:
        """A path for the manifest: within the run's folder as seen from there."""
        given = Path(path)
        return given.relative_to(self.folder).as_posix() if given.is_relative_to(self.folder) else str(path)

    def seed(self, *key: int | str) -> int:
        """Of a stage; below 2^31, which every library takes."""
        return seed_for(self.recipe.seed, "loop", *key) % 2**31

    def ensemble(self, number: int) -> list[Path]:
        """The reward models that were fitted last in a round up to `number`; none before the first."""
        for at in range(number, 0, -1):
            fitted = [self.round(at) / "reward" / str(k) / "model" for k in range(self.recipe.reward_model.members)]
            if all((model / "config.json").is_file() for model in fitted):
                return fitted
        return []

    def drawn(self, tasks: Sequence[Task], num: int, number: int, what: str) -> list[Task]:
        """`num` tasks for a round, or all: others than in earlier rounds as long as there are any."""
        order = permutation(len(tasks), self.recipe.seed, "loop", what)
        num = min(num, len(tasks))
        return [tasks[order[((number - 1) * num + k) % len(tasks)]] for k in range(num)]

    def sample(self, tasks: Sequence[Task], rows: Path, out: Path, model: str, **how: Any) -> dict[str, Any]:
        """Completions of `tasks`, which are written to `rows`, of a model; how: settings of recipe.Eval."""
        write_task_rows(rows, tasks)
        data = Data(path=str(rows))
        held = EvalSettings(tasks=data, greedy=False, k=(1,), **how)
        given = EvalRecipe(
            model=self.recipe.model.model_copy(update={"path": model, "made_by": None}),
            engine=self.recipe.engine,
            eval=held,
            system=self.recipe.system,
        )
        return self.runner.sample(given, out)


def digest_of_model(path: str) -> str:
    """SHA-256 of a folder's files; a Hugging Face name stands for itself."""
    return digest_of(Path(path)) if Path(path).is_dir() else fingerprint_model(path)


def write_task_rows(path: Path, tasks: Sequence[Task]) -> None:
    """Tasks as a file that load_tasks() reads as the same tasks."""
    write_rows(path, (_task_row(task) for task in tasks))


def _task_row(task: Task) -> dict[str, Any]:
    row = {"id": task.id, "prompt": plain_prompt(task.prompt), "gold": task.gold, "verifier": task.verifier}
    row |= {"source": task.source} if task.source else {}
    return {name: value for name, value in {**task.info, **row}.items() if value is not None}


def stage_recipe(path: str, overlay: Mapping[str, Any], sections: Mapping[str, Any], out: Path, *, stage: str) -> Path:
    """Write what a stage is to be run with: the recipe at `path`, with overlay over it, and then sections of its own
    in place of the recipe's. SettingsError, DiskError."""
    recipe = resolved(path, overlay, sections, stage=stage)
    write(out, settings.to_yaml(recipe))
    return out


def resolved(path: str, overlay: Mapping[str, Any], sections: Mapping[str, Any], *, stage: str) -> TrainingRecipe:
    """The recipe of stage_recipe(). sections: by name; of a dotted name ("critic.path") one setting alone."""
    below = settings.load_recipe(path, flat(overlay), stage=stage)
    values: dict[str, Any] = yaml.safe_load(settings.to_yaml(below))
    for name, value in sections.items():
        *parents, last = name.split(".")
        here = values
        for parent in parents:
            here = here[parent]
        here[last] = value
    recipe = settings.build(values, {}, stage=stage, file=path)
    assert isinstance(recipe, TrainingRecipe)
    return recipe
