"""What a round is made of: `rlvr sample`, `reward-model` and `train`, each a run of its own that resumes by itself.

Here, where nothing forbids it; or each in a process of its own, as somebody would call it by hand. What it says goes
into a log beside its folder.
"""

from __future__ import annotations

import gc
import importlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from rlvr import children, settings
from rlvr.errors import (
    DataError,
    DiskError,
    EngineError,
    NonFiniteError,
    RlvrError,
    SettingsError,
    Stopped,
)
from rlvr.loops.stopping import StopRequest
from rlvr.progress import Progress
from rlvr.recipe import EvalRecipe, TrainingRecipe
from rlvr.runs import Run, read_summary

_POLL_SECONDS = 0.2
_BY_CODE: dict[int, type[RlvrError]] = {
    kind.exit_code: kind for kind in (SettingsError, DataError, DiskError, NonFiniteError, EngineError, Stopped)
}
# a child whose parent was killed would hold its run folder against the next attempt
_DIE_WITH_PARENT = (
    "import ctypes, os, signal, sys; parent = os.getppid(); ctypes.CDLL(None).prctl(1, signal.SIGKILL); "
    "parent == int(sys.argv.pop(1)) or os._exit(1); import runpy; runpy.run_module('rlvr', run_name='__main__')"
)


@dataclass(frozen=True, slots=True)
class Runner:
    """How stages are run."""

    stop: StopRequest
    in_processes: bool

    def train(self, path: str, overrides: Mapping[str, Any], folder: Path, *, stage: str) -> dict[str, Any]:
        """Run a recipe for training into `folder`, or go on with it; its summary. RlvrError as the stage's own."""
        given = [*flat(overrides), f"run.dir={json.dumps(str(folder))}"]
        recipe = settings.load_recipe(path, given, stage=stage)
        assert isinstance(recipe, TrainingRecipe)
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.with_name(f"{folder.name}.log")
        if self.in_processes:
            self._process([recipe.command, path, *given], log)
        else:
            self._train_here(recipe, path, log)
        summary = read_summary(folder)
        assert summary is not None, f"{folder} is not finished"
        return summary

    def sample(self, recipe: EvalRecipe, out: Path) -> dict[str, Any]:
        """As `rlvr sample`: completions of recipe.eval.tasks into a JSONL file; its figures."""
        out.parent.mkdir(parents=True, exist_ok=True)
        log = out.with_name(f"{out.stem}.log")
        if self.in_processes:
            assert recipe.eval.tasks is not None
            named = ["--model", recipe.model.path, "--tasks", recipe.eval.tasks.path, "--out", str(out)]
            values = recipe.model_dump(mode="json", by_alias=True, include={"model", "engine", "eval", "scoring"})
            values["eval"]["greedy"] = False
            self._process(["sample", *named, "-n", str(recipe.eval.samples), *flat(values)], log)
            note = json.loads(out.with_name(f".{out.name}.made").read_text(encoding="utf-8"))
            figures: dict[str, Any] = note["figures"]
            return figures
        from rlvr.loops import sample as sampling

        with open(log, "a", encoding="utf-8") as file, Progress("sample", 1, console=Console(file=file)) as progress:
            figures = sampling.sample(recipe, out, progress)
        _let_go()
        return figures

    def _train_here(self, recipe: TrainingRecipe, path: str, log: Path) -> None:
        with Run.open(recipe, path) as run:
            if run.is_finished:
                return
            module = {"pretrain": "sft"}.get(recipe.stage, recipe.stage)
            loop = importlib.import_module(f"rlvr.loops.{module}")
            with open(log, "a", encoding="utf-8") as file:
                console = Console(file=file)
                with Progress(f"{recipe.command} {run.folder}", recipe.steps, console=console) as progress:
                    for text in run.changes:
                        progress.warn(text)
                    loop.train(recipe, run, progress, self.stop)
        _let_go()

    def _process(self, arguments: Sequence[str], log: Path) -> None:
        """`rlvr ARGUMENTS`, which ends when this process does. The error that its exit code stands for, with its last
        line."""
        import os

        with open(log, "ab") as file:
            child = subprocess.Popen(
                [sys.executable, "-c", _DIE_WITH_PARENT, str(os.getpid()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=children.surroundings(),
            )
            is_told = False
            try:
                while child.poll() is None:
                    if self.stop.requested and not is_told:
                        child.terminate()
                        is_told = True
                    try:
                        child.wait(_POLL_SECONDS)
                    except subprocess.TimeoutExpired:
                        continue
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
        if child.returncode:
            said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            last = said[-1].removeprefix("rlvr: ") if said else f"exit code {child.returncode}"
            raise _BY_CODE.get(child.returncode, RlvrError)(f"{last} (all that it said: {log})")


def flat(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """{"optim": {"lr": 0.001}} as overrides: ["optim.lr=0.001"]."""
    found: list[str] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found += flat(value, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}={json.dumps(value)}")
    return found


def _let_go() -> None:
    """Memory of models that nobody has any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
