"""In TRL's GRPOTrainer our loss and math verifier do what TRL's own loss does, in the peers' environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-bench" / "bin" / "python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / ".venv-bench" / "ready").exists(), reason="no .venv-bench: make setup-bench"),
]


def train(*options: str) -> dict[str, Any]:
    script = ROOT / "tests" / "bench" / "trl_grpo.py"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(PYTHON), str(script), *options], env=env, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "options",
    [("--loss", "dapo"), ("--loss", "grpo", "--beta", "0.05"), ("--loss", "dapo", "--iterations", "1")],
    ids=" ".join,
)
def test_a_trl_run_with_our_loss_and_verifier_is_the_one_with_trls_loss(options: tuple[str, ...]) -> None:
    run = train(*options)
    micro_batches = run["micro_batches"]
    assert len(micro_batches) == 8, "4 steps of 2"
    largest = max(row["grad"] for row in micro_batches)
    for row in micro_batches:
        assert row["loss_difference"] < 1e-6, row
        assert row["grad"] > 1e-2 * largest and row["grad_difference"] < 1e-5 * largest, row
    # what the comparison met: several updates per sample, clipped tokens, ragged completions
    updates_again = "--iterations" not in options
    assert all(row["is_off_policy"] is updates_again for row in micro_batches)
    assert any(row["clipped"] > 0 for row in micro_batches) is updates_again
    assert any(row["shortest"] < row["longest"] for row in micro_batches)
    assert any(0 < reward < 1 for reward in run["rewards"]), "the verifier told right from wrong"
    assert run["rewards"] == run["their_rewards"]
    assert run["change"] > 0.05
    assert run["change_difference"] < 1e-4 * run["change"]
