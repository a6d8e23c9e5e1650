"""Reward models by the command line: killed and resumed to the same bits, and the same on two ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from attempts import differences, last_step
from safetensors.torch import load_file
from test_kills import Case
from test_ranks import ended
from test_reward_model import world, written

from rlvr.runs import is_exact, read_metrics

pytestmark = pytest.mark.slow


class OfRewards(Case):
    """Case of `rlvr reward-model`."""

    def arguments(self, *overrides: str) -> list[str]:
        return ["reward-model", *super().arguments(*overrides)[1:]]


def settings(folder: Path, model: Path, kind: str) -> dict[str, Any]:
    data, held_out = (written(folder / f"{name}.jsonl", world(num, name, kind)) for name, num in (("t", 40), ("h", 12)))
    return {
        "stage": "reward_model",
        "steps": 6,
        "batch_size": 6,
        "model": {"path": str(model)},
        "data": {"path": str(data)},
        "eval": {"tasks": {"path": str(held_out)}, "every": 2},
        "optim": {"lr": 1e-3, "schedule": "cosine", "micro_tokens": 64},
        "checkpoint": {"every": 2},
    }


def test_a_reward_model_killed_at_every_place_ends_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    values = settings(tmp_path, tiny_model, "pairs")
    values["model"]["lora"] = True
    of = OfRewards(tmp_path, {**values, "loss": {"ties": "davidson"}})
    whole = of.whole()
    for where in ("micro@3", "update@3", "record@2", "checkpoint.renamed@2", "model", "finish"):
        of.kill("killed", where)
    of.finish("killed")
    assert differences(of.run("killed"), whole) == []
    assert last_step(of.run("killed")) == 6


def test_two_ranks_give_the_reward_model_of_one(tiny_model: Path, tmp_path: Path) -> None:
    values = settings(tmp_path, tiny_model, "ranking")
    for run, ranks in (("one", 1), ("two", 2)):
        recipe = {**values, "loss": {"kind": "plackett_luce"}, "run": {"dir": run}}
        (tmp_path / f"{run}.yaml").write_text(yaml.safe_dump(recipe))
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        process = subprocess.Popen(
            [sys.executable, *launcher, "-m", "rlvr", "reward-model", f"{run}.yaml"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        code, said = ended(process)
        assert code == 0, said
    for ours, theirs in zip(*(read_metrics(tmp_path / run) for run in ("two", "one")), strict=True):
        assert ours.keys() == theirs.keys()
        for name in filter(is_exact, theirs):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-4), name
    two, one = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("two", "one"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=2e-4)
