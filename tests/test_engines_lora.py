"""Adapters through every engine: what is sampled after a sync is what transformers with peft computes, every time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engines import LONG, ask, gap, sample
from torch import Tensor

from rlvr import lora
from rlvr.engines import base
from rlvr.engines.vllm import room_for
from rlvr.errors import EngineError
from rlvr.policy import load_model
from rlvr.recipe import HfEngine, Lora, Model, VllmEngine

ADAPTER = Lora(rank=4, alpha=12.0)


def settings(folder: Path, adapter: Lora = ADAPTER) -> Model:
    return Model(path=str(folder), lora=adapter)


def policy(folder: Path, adapter: Lora = ADAPTER) -> Any:
    return lora.attach(load_model(settings(folder, adapter))[0], adapter, seed=0)


def change(model: Any, seed: int) -> list[tuple[str, Tensor]]:
    """Other adapters, put into the model: both factors, so that they change what is sampled."""
    rng = torch.Generator().manual_seed(seed)
    for _, tensor in lora.weights(model):
        tensor.copy_(0.3 * torch.randn(tensor.shape, generator=rng))
    return [(name, tensor.clone()) for name, tensor in lora.weights(model)]


def start(kind: str, folder: Path, adapter: Lora = ADAPTER, **more: Any) -> Any:
    engine = HfEngine(kind="hf") if kind == "hf" else VllmEngine(max_num_seqs=16, **more)
    model = settings(folder, adapter)
    return base.build(engine, model, load_model(model)[1], 256)


def assert_follows(engine: Any, folder: Path) -> None:
    """Before the first sync the base model, then each adapter; a prompt long enough for the prefix cache each time."""
    model = policy(folder)
    request = ask(0, n=4, prompt=LONG, max_tokens=12)

    def differences() -> Iterator[float]:
        for completion in sample(engine, request).values():
            yield float(gap(model, request, completion).max())

    with lora.off(model):
        assert max(differences()) < 1e-4
    for version in range(1, 5):
        weights = change(model, seed=version)
        assert max(differences()) > 1e-2, "an engine that keeps the old adapter would not be noticed"
        engine.load(iter(weights), version)
        assert engine.version == version
        assert max(differences()) < 1e-4
        for completion in sample(engine, request).values():
            assert completion.versions == ((0, version),)


@pytest.mark.parametrize("fixture", ["tiny_model", "untied_model"])
def test_the_embedded_engine_samples_with_the_newest_adapter(fixture: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(fixture)
    assert_follows(start("hf", folder), folder)


def check_vllm(folder: str, mode: str) -> None:
    """In a process of its own: a second vLLM that ends takes the first one's process groups with it."""
    engine = start("vllm", Path(folder), mode=mode)
    assert_follows(engine, Path(folder))
    assert_leaves_no_old_adapter(engine)
    engine.close()


def assert_leaves_no_old_adapter(engine: Any) -> None:
    if hasattr(engine, "llm"):
        assert engine.llm.llm_engine.list_loras() == {engine.adapter.lora_int_id}
        folder = engine._folder.folder
        assert [path.name for path in folder.iterdir() if path.is_dir()] == [engine.adapter.lora_path.rsplit("/")[-1]]
        engine.close()
        assert not folder.exists()


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("mode", ["inline", "process"])
@pytest.mark.parametrize("fixture", ["tiny_model", "untied_model"])
def test_vllm_samples_with_the_newest_adapter(fixture: str, mode: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("vllm")
    folder = str(request.getfixturevalue(fixture))
    code = f"import test_engines_lora as t; t.check_vllm({folder!r}, {mode!r}); print('all well')"
    command = [sys.executable, "-c", "import conftest; " + code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, timeout=300)
    assert done.stdout.splitlines()[-1:] == ["all well"], done.stderr[-3000:]


def without(weights: Iterable[tuple[str, Tensor]], part: str) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in weights if part not in name]


def test_an_adapter_that_lacks_a_part_is_refused(tiny_model: Path) -> None:
    engine = start("hf", tiny_model)
    weights = change(policy(tiny_model), seed=1)
    with pytest.raises(EngineError, match=r"the adapter of version 3 is without .*layers\.1\.mlp\.up_proj\.lora_A"):
        engine.load(without(weights, "layers.1.mlp.up_proj.lora_A"), 3)
    with pytest.raises(EngineError, match=r"model\.embed_tokens\.weight \(3,\) does not fit"):
        engine.load([("model.embed_tokens.weight", torch.zeros(3))], 3)


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (9, 16), (500, 512)])
def test_vllm_makes_room_for_the_rank(rank: int, room: int) -> None:
    assert room_for(rank) == room


def test_a_rank_that_vllm_has_no_room_for_is_refused() -> None:
    with pytest.raises(EngineError, match=r"model\.lora\.rank: vLLM takes at most 512, got 513"):
        room_for(513)
