"""`rlvr dpo` killed at one place after another, and by two processes: the run ends as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import test_ranks
import torch
import yaml
from attempts import differences, quick
from safetensors.torch import load_file

from rlvr.runs import is_exact, read_metrics

pytestmark = pytest.mark.slow
KILLS = ("micro@5", "update@2", "record@4", "checkpoint.renamed@2", "model", "finish")
COMMON: Mapping[str, Any] = {
    "stage": "dpo",
    "steps": 6,
    "batch_size": 6,
    "optim": {"lr": 1e-3, "schedule": "cosine", "micro_tokens": 80},
    "checkpoint": {"every": 2},
    "system": {"threads": 1},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, letter, num in (("pairs", "Q", 30), ("held", "H", 6)):
        rows = [
            {"prompt": f"{letter}{k}: ", "chosen": "yes " * (1 + k % 3), "rejected": "no " * (1 + k % 4) + "!"}
            for k in range(num)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_run_killed_at_every_place_ends_bit_for_bit(tiny_model: Path, data: Path) -> None:
    recipe = {
        **COMMON,
        "model": {"path": str(tiny_model)},
        "data": {"path": str(data / "pairs.jsonl")},
        "eval": {"tasks": {"path": str(data / "held.jsonl")}, "every": 2},
    }
    (data / "r.yaml").write_text(yaml.safe_dump(recipe))

    def attempt(run: str, failpoint: str = "") -> tuple[int, str]:
        (data / run).mkdir(exist_ok=True)
        arguments = ["dpo", str(data / "r.yaml"), "run.dir=run"]
        return quick(arguments, data / f"{run}.log", failpoint=failpoint, cwd=data / run)

    code, said = attempt("whole")
    assert code == 0, said
    for where in KILLS:
        place, _, nth = where.partition("@")
        code, said = attempt("killed", f"{place}:kill@{nth or 1}")
        assert code == -9, said
    code, said = attempt("killed")
    assert code == 0, said
    assert differences(data / "killed" / "run", data / "whole" / "run") == []


def test_two_processes_give_the_metrics_and_weights_of_one(
    tiny_model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(test_ranks.STAGES, "dpo", {**COMMON, "loss": {"kind": "kto", "beta": 0.5}})
    for run, ranks in (("one", 1), ("two", 2)):
        rows = {"path": str(data / "pairs.jsonl")}
        code, said = test_ranks.ended(test_ranks.start(data, tiny_model, run, "dpo", ranks, data=rows))
        assert code == 0, said
    for ours, theirs in zip(read_metrics(data / "two"), read_metrics(data / "one"), strict=True):
        assert ours.keys() == theirs.keys()
        for name in filter(is_exact, theirs):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name
    two, one = (load_file(data / run / "model" / "model.safetensors") for run in ("two", "one"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=3e-4)  # 6 updates of 1e-3 at most
