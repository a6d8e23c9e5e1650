"""Models small enough for every test, and the one vLLM engine that all tests share."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlvr import plugins
from rlvr.engines import vllm
from rlvr.recipe import Model, VllmEngine

# read once, when torch and vllm are first imported: no test module may come before
os.environ.update(vllm.environment(VllmEngine()))
os.environ.update(OMP_NUM_THREADS="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")


def save_tiny(folder: Path, *, tied: bool, seed: int = 0, intermediate_size: int = 128) -> Path:
    """A random byte-level Qwen3 of 0.1 million parameters whose next tokens are far from uniform."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from rlvr.chat import byte_tokenizer

    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=intermediate_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,  # vLLM on a CPU refuses 16
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=0.15,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        dtype="float32",
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


_BY_MODULE: dict[Path, dict[Any, Any]] = {}
"""Plugins that test modules registered when they were collected."""


def _forget_plugins(before: set[Any]) -> dict[Any, Any]:
    """Those registered since; built-in ones stay, which are registered once, when they are imported."""
    new = [key for key in plugins._registered if key not in before and key[1] not in plugins._BUILT_IN[key[0]]]
    return {key: plugins._registered.pop(key) for key in new}


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    before = set(plugins._registered)
    report = yield
    if isinstance(collector, pytest.Module):
        _BY_MODULE[collector.path] = _forget_plugins(before)
    return report


@pytest.fixture(autouse=True, scope="module")
def _no_plugins_are_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a module registers is unknown to the others: messages list all names that are known."""
    before = set(plugins._registered)
    plugins._registered.update(_BY_MODULE.get(request.path, {}))
    yield
    _forget_plugins(before)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its output head is tied to the embeddings."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tied", tied=True)


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "untied", tied=False)


@pytest.fixture(scope="module")
def tied(tiny_model: Path) -> Any:
    """tiny_model, loaded; a test that changes it copies it first."""
    from rlvr.policy import load_model

    return load_model(Model(path=str(tiny_model)))[0]


@pytest.fixture(scope="module")
def untied(untied_model: Path) -> Any:
    """untied_model, loaded; a test that changes it copies it first."""
    from rlvr.policy import load_model

    return load_model(Model(path=str(untied_model)))[0]


@pytest.fixture(scope="session")
def shared_vllm(tiny_model: Path) -> Iterator[Any]:
    """Started once; a test that wants it as it was takes vllm_engine."""
    pytest.importorskip("vllm")
    from rlvr.engines.base import build
    from rlvr.policy import load_model

    settings = Model(path=str(tiny_model))
    engine = build(VllmEngine(max_num_seqs=64), settings, load_model(settings)[1])
    yield engine
    engine.close()


@pytest.fixture
def vllm_engine(shared_vllm: Any, tiny_model: Path) -> Any:
    """The shared engine with the weights of tiny_model as version 0."""
    from safetensors.torch import load_file

    if shared_vllm.version != 0:
        shared_vllm.load(load_file(tiny_model / "model.safetensors").items(), version=0)
    return shared_vllm
