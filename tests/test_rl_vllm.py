"""The same loop through vLLM: what it sampled is what the trainer would have sampled, in every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_rl import PLUGIN, make_recipe, steps_of, train

from rlvr.engines import base


@pytest.mark.vllm
def test_sampler_and_trainer_agree_in_every_step_through_vllm(
    vllm_engine: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []
    monkeypatch.setattr(
        base, "build", lambda settings, model, tokenizer, longest, ranks=1: (asked.append(longest), vllm_engine)[1]
    )
    monkeypatch.setattr(vllm_engine, "close", lambda: None)
    (tmp_path / "toy.py").write_text(PLUGIN)
    settings = ["engine.kind=vllm", "steps=3", "optim.lr=0.01", "sample.temperature=0.8", "sample.max_tokens=24"]
    train(make_recipe(tmp_path / "run", tiny_model, str(tmp_path / "toy.py"), "share", *settings))
    rows = steps_of(tmp_path / "run")
    assert len(rows) == 3
    for row in rows:
        assert row["grad_norm"] > 0
        assert row["sampling/sampling_logp_difference/mean"] < 1e-4
    assert vllm_engine.version == 3
    assert asked == [len("q 39:") + 24]  # room for the longest prompt and completion, and for no more
