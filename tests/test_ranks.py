"""`torchrun -m rlvr ...`: two processes make the run of one, and neither waits for the other for ever."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from rlvr.runs import is_exact, read_metrics, read_rollouts

pytestmark = pytest.mark.slow
LIMIT = 200.0
STAGES: dict[str, Mapping[str, Any]] = {
    "sft": {"stage": "sft", "steps": 4, "batch_size": 6, "optim": {"lr": 1e-3, "micro_tokens": 40}},
    "rl": {
        "stage": "rl",
        "steps": 4,
        "engine": {"kind": "hf"},
        "sample": {"groups_per_step": 4, "group_size": 4, "max_tokens": 12},
        "rewards": {"answer": {"kind": "random"}},
        "kl": {"coef": 0.1},
        "updates": 2,
        "optim": {"lr": 1e-3, "micro_tokens": 200},
        "scoring": {"memory_mib": 4096},
    },
}


def start(folder: Path, model: Path, run: str, stage: str, ranks: int, **changes: Any) -> subprocess.Popen[str]:
    """`rlvr STAGE` in `ranks` processes, in a process group of its own."""
    rows = [{"id": f"t{k}", "prompt": f"Q: {k}+1=?", "gold": str(k + 1), "completion": f" {k + 1}"} for k in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {"model": {"path": str(model)}, "data": {"path": "rows.jsonl"}, "run": {"dir": run}}
    (folder / f"{run}.yaml").write_text(yaml.safe_dump({**STAGES[stage], **common, **changes}))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "rlvr", "train" if stage == "rl" else stage, f"{run}.yaml"]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, what it said); nobody of its group is left."""
    try:
        said, _ = process.communicate(timeout=LIMIT)
    finally:
        with_group(process, signal.SIGKILL)
    return process.returncode, said


def with_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def until(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT
    while not is_so():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def children(process: subprocess.Popen[str]) -> dict[int, int]:
    """The process of each rank, of those that torchrun started."""
    found: dict[int, int] = {}
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        for pid in (task / "children").read_text().split():
            values = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            ranks = [int(value.partition(b"=")[2]) for value in values if value.startswith(b"RANK=")]
            found |= {rank: int(pid) for rank in ranks}
    return found


def steps(run: Path) -> int:
    return len(read_metrics(run))


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_two_processes_give_the_metrics_and_weights_of_one(tiny_model: Path, tmp_path: Path, stage: str) -> None:
    for run, ranks in (("one", 1), ("two", 2)):
        code, said = ended(start(tmp_path, tiny_model, run, stage, ranks))
        assert code == 0, said
    for ours, theirs in zip(read_metrics(tmp_path / "two"), read_metrics(tmp_path / "one"), strict=True):
        assert ours.keys() == theirs.keys()
        for name in filter(is_exact, theirs):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name
    two, one = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("two", "one"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=2e-4)  # 4 updates of 1e-3 each
    if stage == "rl":
        for step in (1, 4):
            ours, theirs = (read_rollouts(tmp_path / run, step) for run in ("two", "one"))
            assert [row["token_ids"] for row in ours] == [row["token_ids"] for row in theirs]


def test_a_run_of_two_processes_is_stopped_and_goes_on_in_one(tiny_model: Path, tmp_path: Path) -> None:
    process = start(tmp_path, tiny_model, "run", "rl", 2, steps=30)
    until(lambda: (tmp_path / "run" / "metrics.jsonl").is_file() and steps(tmp_path / "run") >= 2, process)
    os.kill(children(process)[0], signal.SIGTERM)
    code, said = ended(process)
    assert code != 0
    assert "the same command with run.dir=run resumes" in said
    done = steps(tmp_path / "run")
    code, said = ended(start(tmp_path, tiny_model, "run", "rl", 1, steps=30))
    assert code == 0, said
    assert f"resuming after step {done}" in said
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == list(range(1, 31))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_others(tiny_model: Path, tmp_path: Path, victim: int) -> None:
    process = start(tmp_path, tiny_model, "run", "rl", 2, steps=10_000)
    until(lambda: (tmp_path / "run" / "metrics.jsonl").is_file() and steps(tmp_path / "run") >= 2, process)
    os.kill(children(process)[victim], signal.SIGKILL)
    killed = time.monotonic()
    code, said = ended(process)
    assert time.monotonic() - killed < 60
    assert code != 0
    assert "rlvr/parallel.py" not in said  # no traceback of ours: one line, where torchrun leaves time for it


def test_a_main_rank_that_ends_early_leaves_the_others_without_a_word(tiny_model: Path, tmp_path: Path) -> None:
    code, said = ended(start(tmp_path, tiny_model, "run", "sft", 1))
    assert code == 0, said
    code, said = ended(start(tmp_path, tiny_model, "run", "sft", 2))
    assert code == 0, said
    assert said.count("run is finished; nothing to do") == 1
    assert "Traceback" not in said
    code, said = ended(start(tmp_path, tiny_model, "bad", "sft", 2, data={"path": "none.jsonl"}))
    assert code != 0
    assert said.count("rlvr: data.path: no file or folder none.jsonl") == 1
    assert "rlvr/parallel.py" not in said
