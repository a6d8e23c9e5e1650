"""A run that is started, killed and started again, and whether its end is that of one that nobody disturbed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr.cli import main
from rlvr.runs import is_exact, read_metrics, read_rollouts, read_summary

LIMIT = 300.0
CLOCK = ("seconds", "tokens_per_second", "warnings", "model")
"""Fields of evaluations and summaries that are those of an attempt."""


class Attempt:
    """`rlvr ARGUMENTS` in a process group of its own; use as a context manager, which leaves none of it behind."""

    def __init__(self, arguments: Sequence[str], log: Path, *, failpoint: str = "", cwd: Path | None = None) -> None:
        """log: made anew, with all that the attempt says; failpoint: its RLVR_FAILPOINT."""
        environment = {name: value for name, value in os.environ.items() if name != "RLVR_FAILPOINT"}
        environment |= {"PYTHONUNBUFFERED": "1"} | ({"RLVR_FAILPOINT": failpoint} if failpoint else {})
        self.log = log
        self.started = time.monotonic()
        with open(log, "wb") as file:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                [sys.executable, "-m", "rlvr", *arguments],
                cwd=cwd, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def last_line(self) -> str:
        return (self.said.splitlines() or [""])[-1]

    def wait(self) -> int:
        """Its exit code; minus the signal's number where one ended it."""
        return self.process.wait(LIMIT)

    def until(self, is_so: Callable[[], bool]) -> bool:
        """Wait until it is so; False where the attempt ended before."""
        deadline = time.monotonic() + LIMIT
        while not is_so():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.said
            time.sleep(0.002)
        return True

    def kill(self) -> None:
        """SIGKILL to the training process alone, as the kernel does where memory runs out."""
        self.process.kill()
        self.process.wait()


def run(arguments: Sequence[str], log: Path, *, failpoint: str = "", cwd: Path | None = None) -> tuple[int, str]:
    """(exit code, what it said) of an attempt that is left to its end."""
    with Attempt(arguments, log, failpoint=failpoint, cwd=cwd) as attempt:
        return attempt.wait(), attempt.said


def differences(run: Path, unbroken: Path) -> list[str]:
    """What of a finished run is not bit for bit that of the other, but for clocks: one line each."""
    found = [
        *_in_metrics(_exact(run), _exact(unbroken)),
        *_in_files(run, unbroken, "model/*", _raw),
        *_in_files(run, unbroken, "adapter/*", _raw),
        *_in_files(run, unbroken, "rollouts/*.parquet", _rollouts),
        *_in_files(run, unbroken, "evals/*", _evaluation),
    ]
    return found if _timeless(read_summary(run)) == _timeless(read_summary(unbroken)) else [*found, "summary.json"]


def last_step(run: Path) -> int:
    """The newest step that has a row of metrics; 0 where there is none."""
    return max((row["step"] for row in read_metrics(run)), default=0)


def _exact(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if is_exact(name)} for row in read_metrics(run)]


def _in_metrics(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    if [row["step"] for row in ours] != [row["step"] for row in theirs]:
        return [f"metrics.jsonl has rows of {[row['step'] for row in ours]}"]
    return [
        f"metrics.jsonl step {row['step']} {name}: {row.get(name)} instead of {other.get(name)}"
        for row, other in zip(ours, theirs, strict=True)
        for name in sorted({*row, *other})
        if row.get(name) != other.get(name)
    ]


def _in_files(run: Path, unbroken: Path, pattern: str, read: Callable[[Path], Any]) -> list[str]:
    names = sorted({path.relative_to(folder).as_posix() for folder in (run, unbroken) for path in folder.glob(pattern)})
    return [
        name
        for name in names
        if not ((run / name).is_file() and (unbroken / name).is_file() and read(run / name) == read(unbroken / name))
    ]


def _raw(path: Path) -> bytes:
    return path.read_bytes()


def _rollouts(path: Path) -> Any:
    rows = read_rollouts(path.parents[1], int(path.stem))
    for row in rows:
        for verdict in row["verdicts"]:
            del verdict["seconds"], verdict["stderr"]
            verdict["checks"] = _timeless(json.loads(verdict["checks"]))
    return repr(rows)  # NaN is no equal of itself; its text is


def _evaluation(path: Path) -> Any:
    return [_timeless(json.loads(text)) for text in ([path.read_text()] if path.suffix == ".json" else _lines(path))]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def _timeless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _timeless(item) for name, item in value.items() if name not in CLOCK}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


# --- without the seconds that it takes to import torch ---------------------------------------------------------------


def quick(arguments: Sequence[str], log: Path, *, failpoint: str = "", cwd: Path | None = None) -> tuple[int, str]:
    """As run(), in a process that is forked from one which has imported what training needs and done nothing else."""
    process = _server().Process(target=_forked, args=(list(arguments), log, failpoint, cwd))
    process.start()
    process.join(LIMIT)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(log.read_text(errors="replace"))
    return process.exitcode, log.read_text(errors="replace")


def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlvr.loops.rl", "rlvr.loops.sft", "rlvr.engines.hf", "peft"])
    return context


def _forked(arguments: list[str], log: Path, failpoint: str, cwd: Path | None) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - as long as the process
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.setpgid(0, 0)
    os.environ.pop("RLVR_FAILPOINT", None)
    os.environ |= {"RLVR_FAILPOINT": failpoint} if failpoint else {}
    if cwd is not None:
        os.chdir(cwd)
    main(arguments)
