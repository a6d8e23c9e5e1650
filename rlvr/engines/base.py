"""Which engine a recipe asks for, and what the engines share."""

from __future__ import annotations

from typing import Any

from rlvr.errors import SettingsError
from rlvr.recipe import HfEngine, Model, VllmEngine
from rlvr.types import Engine


def build(settings: VllmEngine | HfEngine, model: Model, tokenizer: Any, longest: int | None = None) -> Engine:
    """The engine, started, with the weights of model.path. EngineError where it cannot start.

    longest: tokens of the longest prompt and completion to come, where known: vLLM keeps room for no more.
    """
    if isinstance(settings, HfEngine):
        from rlvr.engines.hf import HuggingFace

        return HuggingFace(settings, model, tokenizer)
    from rlvr.engines.vllm import Vllm

    return Vllm(settings, model, tokenizer, longest)


def check_installed(settings: VllmEngine | HfEngine) -> None:
    """SettingsError where the engine's package is absent; costs nothing."""
    import importlib.util

    if isinstance(settings, VllmEngine) and importlib.util.find_spec("vllm") is None:
        raise SettingsError(
            "engine.kind: vllm is not installed; `make setup` installs it on a CPU, `pip install rlvr[vllm]` on a GPU, "
            "or use engine.kind=hf (slower, needs nothing more)"
        )
