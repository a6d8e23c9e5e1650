"""The run folder: who holds it, what is written into it, and how it is read back. Other code opens none of its files.

recipe.yaml env.json metrics.jsonl rollouts/000120.parquet evals/NAME.json checkpoints/000120/ model/ summary.json,
what these were made from (lineage.json, rows.sha256) and the hashes of what was written (chain.jsonl),
and where there was cause groups/000121.log (of a step under way), adapter/, nonfinite/000120.safetensors
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from rlvr import checkpoint, disk, environment, lineage, rollout_table
from rlvr.chain import Chain
from rlvr.errors import DataError, DiskError, RlvrError, SettingsError
from rlvr.failpoints import failpoint
from rlvr.grouplog import GroupLog
from rlvr.recipe import Recipe, TrainingRecipe
from rlvr.settings import to_yaml
from rlvr.types import SCHEMA, Group

if TYPE_CHECKING:
    from torch import Tensor

_CLOCK = re.compile(r"^(time|perf|system)/|^step_time$")
"""Metrics that depend on clock, machine or attempt; all others repeat bit for bit."""


_BEGUN = ("metrics.jsonl", "groups", "checkpoints", "evals", "summary.json")
_OWN = ("env.json", "recipe.yaml", ".env.json.new", ".recipe.yaml.new", lineage.NAME, lineage.ROWS)
"""What a start writes, env.json first: a folder that holds something and no env.json is no run of ours."""


class Run:
    """A run folder that this process holds. Use as a context manager: leaving it lets go of the folder.

    Changes nothing in a folder that is no run, is finished, or is held by another process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment_changes: list[str] = []
        """What of versions, threads and instruction set is not as it was when the run began ("torch 2.13 -> 2.14");
        the rest of the run may then differ in the last bits."""
        self.harmless_changes: list[str] = []
        """Settings that are not those of the run's recipe.yaml, and change no number ("checkpoint.keep: 2 -> 3")."""
        self._lock: IO[str] | None = None
        self._is_ours = False
        self._groups: GroupLog | None = None
        self._unsynced: set[Path] = set()
        self._chain = Chain(folder)

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
                run.harmless_changes = _check_same_settings(read_recipe(folder), recipe, folder)
            if not run.is_finished:
                run._write_environment(recipe)
            if not run.has_begun:
                disk.write(folder / "recipe.yaml", to_yaml(recipe))
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
        return any((self.folder / name).exists() for name in _BEGUN)

    @property
    def is_finished(self) -> bool:
        return (self.folder / "summary.json").is_file()

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    @property
    def adapter_folder(self) -> Path:
        return self.folder / "adapter"

    @property
    def changes(self) -> list[str]:
        """What a resumed run should say before it goes on, one line each."""
        return [
            *(f"not as when this run began: {change}; {_LAST_BITS}" for change in self.environment_changes),
            *(f"another setting than in {self.folder / 'recipe.yaml'}: {change}" for change in self.harmless_changes),
        ]

    def check_inputs(self, inputs: Mapping[str, str]) -> None:
        """Digests of what the run is made from (inputs.py), by name: kept where it begins, compared where it goes on.

        DataError names what differs. What a run does not know yet (one of an older version) is kept from now on.
        """
        path = self.folder / "env.json"
        written = json.loads(path.read_text(encoding="utf-8"))
        known = written.get("inputs", {}) if self.has_begun else {}
        changed = [name for name, digest in inputs.items() if known.get(name, digest) != digest]
        if changed:
            raise DataError(
                f"run.dir {self.folder}: {' and '.join(changed)}: other than when this run began; bring back what it "
                "began with, or set another run.dir"
            )
        with _as_disk_error(path):
            disk.write(path, json.dumps(written | {"inputs": {**known, **inputs}}, indent=1))
            lineage.begin(self.folder, {**known, **inputs}, (*_HARMLESS, *_ROUNDING))

    def truncate(self, step: int) -> None:
        """Forget what was written after `step`, so that a resumed run writes each row once."""
        path = self.folder / "metrics.jsonl"
        if path.is_file():
            kept = [row for row in read_metrics(self.folder) if row["step"] <= step]
            with _as_disk_error(self.folder):
                disk.write(path, "".join(json.dumps(row) + "\n" for row in kept))
        for file in (self.folder / "rollouts").glob("*.parquet"):
            if file.stem.isdecimal() and int(file.stem) > step:
                with _as_disk_error(file):
                    file.unlink()
        with _as_disk_error(self.folder):
            lineage.anchor(self.folder, self._chain.head_at(step))  # first: it holds before and after
            self._chain.truncate(step, read_metrics(self.folder))

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one row to metrics.jsonl; whole in one write, so that a kill tears at most the last line."""
        row = {"schema": SCHEMA, "step": step, **metrics}
        with _as_disk_error(self.folder):
            with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
                failpoint("record")
                file.write(json.dumps(row) + "\n")
            self._chain.add_row(row)
        self._unsynced |= {self.folder / "metrics.jsonl", self._chain.path}

    def sync(self) -> None:
        """Have the disk keep what was recorded so far: a checkpoint must not outlive the rows of its own steps."""
        with _as_disk_error(self.folder):
            for path in [*self._unsynced, *{path.parent for path in self._unsynced}]:
                disk.sync(path)
            lineage.anchor(self.folder, self._chain.head)
        self._unsynced.clear()

    def write_rollouts(
        self,
        step: int,
        groups: Sequence[Group],
        advantages: Mapping[str, float],
        shaped: Mapping[str, float] | None = None,
    ) -> None:
        """rollouts/STEP.parquet: a row per rollout with every verdict and reason; `advantages` by rollout id, and so
        `shaped`, the rewards that were trained on where shaping made others of them."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = rollout_table.rows(step, groups, advantages, shaped or {})
        folder = self.folder / "rollouts"
        with _as_disk_error(folder):
            folder.mkdir(exist_ok=True)
            fresh = folder / f".{step:06d}.new"
            try:
                pq.write_table(pa.Table.from_pylist(rows, schema=rollout_table.schema()), fresh, compression="zstd")
                failpoint("rollouts")
                fresh.replace(folder / f"{step:06d}.parquet")
                self._chain.add_file(folder / f"{step:06d}.parquet", step)
                self._unsynced |= {folder / f"{step:06d}.parquet", self._chain.path}
            except OSError:
                fresh.unlink(missing_ok=True)
                raise

    def group_log(self, warn: Callable[[str], None]) -> GroupLog:
        """The log of the groups of unfinished steps; `warn` is told of what had to be cut off."""
        written = _read_object(self.folder / "env.json") or {}
        self._groups = GroupLog(self.folder / "groups", warn, str(written.get("id")))
        return self._groups

    def forget_groups(self) -> None:
        """Remove the logs of groups that no checkpoint needs any more; to be called after one was saved."""
        oldest = checkpoint.oldest_kept(self.folder / "checkpoints")
        if self._groups is not None and oldest is not None:
            self._groups.forget(oldest)

    def write_nonfinite(self, step: int, batch: Mapping[str, Tensor]) -> Path:
        """nonfinite/STEP.safetensors: what an update was computed from that gave NaN or infinity."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path = self.folder / "nonfinite" / f"{step:06d}.safetensors"
        with _as_disk_error(path):
            path.parent.mkdir(exist_ok=True)
            try:
                save_file({name: tensor.detach().cpu().contiguous() for name, tensor in batch.items()}, path)
            except SafetensorError as error:  # its own kind for a full disk
                raise OSError(str(error)) from error
        return path

    def write_evaluation(self, name: str, result: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
        """evals/NAME.json with the figures, evals/NAME.jsonl with every response and verdict."""
        folder = self.folder / "evals"
        with _as_disk_error(folder):
            folder.mkdir(exist_ok=True)
            lines = "".join(json.dumps({"schema": SCHEMA, **row}, ensure_ascii=True) + "\n" for row in samples)
            disk.write(folder / f"{name}.jsonl", lines)
            disk.write(folder / f"{name}.json", json.dumps({"schema": SCHEMA, **result}, indent=1))
            for path in (folder / f"{name}.jsonl", folder / f"{name}.json"):
                self._chain.add_file(path)

    def note_left_out(self, why: Mapping[str, str]) -> None:
        """left_out.json: rows of `data` that were read and yet not trained on, {id: why}."""
        if why:
            with _as_disk_error(self.folder):
                disk.write(self.folder / "left_out.json", json.dumps(why))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, which says that the run is finished."""
        with _as_disk_error(self.folder):
            for path in lineage.finish(self.folder):
                self._chain.add_file(path)
            lineage.anchor(self.folder, self._chain.head)
            failpoint("finish")
            disk.write(self.folder / "summary.json", json.dumps({"schema": SCHEMA, **summary}, indent=1))
        if self._groups is not None:
            self._groups.clear()  # nothing is resumed any more

    def _write_environment(self, recipe: Recipe) -> None:
        """env.json: this attempt's environment, beside what the first one's was."""
        path = self.folder / "env.json"
        now = environment.of_this_process(recipe.steps if isinstance(recipe, TrainingRecipe) else None)
        before = _read_object(path) if self.has_begun else None
        if before is not None and not environment.is_sound(before):
            before = None
        if self.has_begun and before is None:
            self.environment_changes = ["env.json is damaged: what the run began with is not known"]
        elif before is not None:
            self.environment_changes = environment.changes(environment.first_attempt(before), now)
        kept = {"inputs": before["inputs"]} if before and "inputs" in before else {}
        kept["id"] = (before or {}).get("id") or uuid.uuid4().hex
        attempts = environment.attempts(before, now, self.environment_changes)
        disk.write(path, json.dumps({**now, **kept, "attempts": attempts}, indent=1))

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
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
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
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and type(row.get("step")) is int:
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


def read_left_out(folder: Path) -> dict[str, Any]:
    """{id: why} of the rows that Run.note_left_out() noted."""
    return _read_object(folder / "left_out.json") or {}


def read_rollouts(folder: Path, step: int) -> list[dict[str, Any]]:
    """Rows of one step's parquet file, with the columns of rollout_table.py. DataError where there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "rollouts" / f"{step:06d}.parquet"
    if not path.is_file():
        raise DataError(f"{folder} has no rollouts of step {step}")
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged: {' '.join(str(error).split())}") from None
    return [{"greedy": False, **row} for row in rows]  # a file of an older version has no such column


def rollout_steps(folder: Path) -> list[int]:
    """Steps whose rollouts are there, in their order."""
    found = (folder / "rollouts").glob("*.parquet")
    return sorted(int(path.stem) for path in found if path.stem.isdecimal())


def is_exact(metric: str) -> bool:
    """Whether a metric repeats bit for bit; False for those of clock, machine and attempt."""
    return not _CLOCK.search(metric)


# --- details ---------------------------------------------------------------------------------------------------------


_LAST_BITS = "the rest of the run may differ in its last bits"
_HARMLESS = (
    "run",
    "checkpoint",
    "engine.url",
    "engine.weights_dir",
    "engine.timeout_seconds",
    "engine.mode",
    "engine.max_num_seqs",
    "engine.prefix_cache",
    "engine.cpu_kvcache_gib",
    "engine.gpu_memory_utilization",
    "scoring.workers",
    "parity.on_mismatch",
    "optim.max_nonfinite",
    "canaries.stop_rate",
    "alarms",
)
"""Sections and settings that change no number of a run."""
_ROUNDING = ("optim.micro_tokens", "packing", "gradient_checkpointing")
"""Settings that change no result but for its last bits."""


def _check_same_settings(old: dict[str, Any], recipe: Recipe, folder: Path) -> list[str]:
    """What differs from the run's own recipe and is harmless; SettingsError lists what is not."""
    new = yaml.safe_load(to_yaml(recipe))
    before, now = _flat(old), _flat(new)
    changed = {
        name: f"{name}: {before.get(name)!r} -> {now.get(name)!r}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name) and name != "run.dir"  # the same folder by another path
    }
    refused = [text for name, text in changed.items() if not _is_of(name, (*_HARMLESS, *_ROUNDING))]
    if refused:
        raise SettingsError(
            f"run.dir {folder} holds a run with other settings ({'; '.join(refused)}); use those of its "
            "recipe.yaml or set another run.dir"
        )
    return [text + f"; {_LAST_BITS}" * _is_of(name, _ROUNDING) for name, text in changed.items()]


def check_settings(recipe: TrainingRecipe) -> None:
    """SettingsError where run.dir holds an unfinished run with settings that this recipe may not go on with."""
    folder = Path(recipe.run.dir) if recipe.run.dir is not None else None
    if folder is not None and (folder / "recipe.yaml").is_file() and (folder / "env.json").is_file():
        _check_same_settings(read_recipe(folder), recipe, folder)


def _is_of(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def _read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


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


@contextlib.contextmanager
def _as_disk_error(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(f"cannot write to {where}: {error.strerror or error}") from error
