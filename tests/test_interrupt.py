"""Ctrl-C ends a run after its step; the same command goes on, and the end is bit for bit that of an unbroken run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr.runs import is_exact, read_metrics, read_rollouts, read_summary

pytestmark = pytest.mark.slow
LIMIT = 120.0
SFT: Mapping[str, Any] = {"stage": "sft", "steps": 150, "batch_size": 2, "optim": {"lr": 1e-3, "schedule": "cosine"}}
RL: Mapping[str, Any] = {
    "stage": "rl",
    "steps": 6,
    "engine": {"kind": "hf"},
    "sample": {"groups_per_step": 4, "group_size": 4, "max_tokens": 24},
    "rewards": {"answer": {"kind": "random"}},
    "optim": {"lr": 1e-3},
    "scoring": {"memory_mib": 4096},
}


class Started:
    """A run in a process group of its own, as a terminal would start it."""

    def __init__(self, folder: Path, run_dir: str, values: Mapping[str, Any]) -> None:
        self.folder, self.run = folder, folder / run_dir
        command = "train" if values["stage"] == "rl" else str(values["stage"])
        self.log = open(folder / f"{run_dir}.log", "a+")  # noqa: SIM115 - closed by wait()
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "rlvr", command, "r.yaml", f"run.dir={run_dir}"],
            cwd=folder, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT
        while not is_so():
            assert self.process.poll() is None, f"ended too early: {self.said()}"
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.002)

    def interrupt(self) -> None:
        """Ctrl-C: to the whole group, so that the processes that judge get it too."""
        os.killpg(self.process.pid, signal.SIGINT)

    def steps(self) -> int:
        path = self.run / "metrics.jsonl"
        return path.read_text().count("\n") if path.is_file() else 0

    def said(self) -> str:
        return Path(self.log.name).read_text()

    def wait(self) -> int:
        code = self.process.wait(LIMIT)
        self.log.close()
        return code


Start = Callable[[str, Mapping[str, Any]], Started]


@pytest.fixture
def start(tmp_path: Path, tiny_model: Path) -> Iterator[Start]:
    tasks = [{"id": f"t{k}", "prompt": f"Q: {k}+1=?", "gold": str(k + 1)} for k in range(40)]
    demonstrations = [{"id": f"d{k}", "prompt": f"Q: {k}+1=?", "completion": f" {k + 1}"} for k in range(40)]
    for name, rows in (("rl", tasks), ("sft", demonstrations)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    started: list[Started] = []

    def begin(run_dir: str, values: Mapping[str, Any]) -> Started:
        common = {
            "model": {"path": str(tiny_model)},
            "data": {"path": f"{values['stage']}.jsonl"},
            "system": {"threads": 1},
        }
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({**values, **common}))
        started.append(Started(tmp_path, run_dir, values))
        return started[-1]

    yield begin
    for run in started:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.wait()


def exact(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if is_exact(name)} for row in read_metrics(run)]


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("values", "after"), [(SFT, 20), (RL, 2)], ids=["sft", "rl"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(start: Start, values: Mapping[str, Any], after: int) -> None:
    unbroken = start("unbroken", values)
    assert unbroken.wait() == 0, unbroken.said()

    broken = start("broken", values)
    broken.until(lambda: broken.steps() >= after)
    broken.interrupt()
    assert broken.wait() == 75, broken.said()
    assert "warning: SIGINT: stopping with a checkpoint; once more stops at once\n" in broken.said()
    done = read_metrics(broken.run)[-1]["step"]
    assert after <= done < values["steps"]
    assert [p.name for p in (broken.run / "checkpoints").iterdir()] == [f"{done:06d}"]
    last = broken.said().splitlines()[-1]
    after_or_in = (
        rf"after step {done} of {values['steps']}|while sampling step {done + 1}, of which \d of 4 groups are kept"
    )
    where = rf"stopped ({after_or_in})"
    assert re.fullmatch(f"rlvr: {where}; the same command with run.dir=broken resumes", last), last
    assert read_summary(broken.run) is None

    again = start("broken", values)
    assert again.wait() == 0, again.said()
    assert f"resuming after step {done}\n" in again.said()
    assert exact(again.run) == exact(unbroken.run)
    assert [row["step"] for row in exact(again.run)] == list(range(1, values["steps"] + 1))
    assert weights(again.run) == weights(unbroken.run)
    summary, whole = read_summary(again.run), read_summary(unbroken.run)
    assert summary is not None and whole is not None
    assert (summary["steps"], summary["tokens"]) == (whole["steps"], whole["tokens"])
    if values["stage"] == "rl":
        for step in range(1, values["steps"] + 1):
            assert plain(read_rollouts(again.run, step)) == plain(read_rollouts(unbroken.run, step))


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rollouts without the time that judging took."""
    for row in rows:
        for verdict in row["verdicts"]:
            del verdict["seconds"]
    return rows


def test_a_second_ctrl_c_ends_a_run_at_once(start: Start) -> None:
    long = {**RL, "sample": {"groups_per_step": 16, "group_size": 8, "max_tokens": 240}}
    run = start("run", long)
    run.until(lambda: run.steps() >= 1)
    run.interrupt()
    run.until(lambda: "warning: SIGINT: " in run.said())
    second = time.monotonic()
    run.interrupt()
    assert run.wait() == 130, run.said()
    assert time.monotonic() - second < 10
    assert run.said().splitlines()[-1] == "rlvr: interrupted"
    assert "Traceback" not in run.said()
    assert read_summary(run.run) is None
    assert not (run.run / "checkpoints").exists()
    with pytest.raises(ProcessLookupError):  # nobody is left of the group
        os.killpg(run.process.pid, 0)
