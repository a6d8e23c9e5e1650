"""The same loop through vLLM: what it sampled is what the trainer would have sampled, in every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_rl import PLUGIN, make_recipe, steps_of, train

from rlvr.engines import base
from rlvr.policy import load_model
from rlvr.recipe import Model
from rlvr.runs import read_rollouts


def through(engine: Any, monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Have runs use this engine; the longest row of each that was asked for."""
    asked: list[int | None] = []
    monkeypatch.setattr(
        base, "build", lambda settings, model, tokenizer, longest, ranks=1: (asked.append(longest), engine)[1]
    )
    monkeypatch.setattr(engine, "close", lambda: None)
    return asked


@pytest.mark.vllm
def test_sampler_and_trainer_agree_in_every_step_through_vllm(
    vllm_engine: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = through(vllm_engine, monkeypatch)
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


@pytest.mark.vllm
def test_greedy_completions_come_with_their_siblings_and_leave_the_agreement_alone(
    vllm_engine: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through(vllm_engine, monkeypatch)
    (tmp_path / "toy.py").write_text(PLUGIN)
    settings = ["engine.kind=vllm", "steps=2", "optim.lr=0.01", "sample.temperature=0.8", "advantage.kind=greedy"]
    train(make_recipe(tmp_path / "run", tiny_model, str(tmp_path / "toy.py"), "share", *settings))
    assert all(row["sampling/sampling_logp_difference/mean"] < 1e-4 for row in steps_of(tmp_path / "run"))
    model, _ = load_model(Model(path=str(tiny_model)))
    greedy = [row for row in read_rollouts(tmp_path / "run", 1) if row["greedy"]]
    assert len(greedy) == 4
    for row in greedy:
        ids = torch.tensor([[*row["prompt_ids"], *row["token_ids"]]])
        likeliest = model(ids).logits[0, len(row["prompt_ids"]) - 1 : -1].argmax(dim=-1)
        assert likeliest.tolist() == row["token_ids"]
