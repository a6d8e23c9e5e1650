"""Which engine a recipe asks for, and what the engines share."""

from __future__ import annotations

from typing import Any, Literal

from rlvr.errors import SettingsError
from rlvr.recipe import HfEngine, Model, VllmEngine
from rlvr.types import Engine


def build(
    settings: VllmEngine | HfEngine, model: Model, tokenizer: Any, longest: int | None = None, ranks: int = 1
) -> Engine:
    """The engine, started, with the weights of model.path. EngineError where it cannot start.

    longest: tokens of the longest prompt and completion to come, where known: no completion goes beyond it, and vLLM
    keeps room for no more.
    ranks: processes of the trainer.
    """
    if isinstance(settings, HfEngine):
        from rlvr.engines.hf import HuggingFace

        return HuggingFace(settings, model, tokenizer, longest)
    mode = mode_of(settings, ranks)
    if mode == "server":
        from rlvr.engines.server import Server

        return Server(settings, model, tokenizer, longest)
    if mode == "process":
        from rlvr.engines.remote import Remote

        return Remote(settings, model, longest)
    from rlvr.engines.vllm import Vllm

    return Vllm(settings, model, tokenizer, longest)


def mode_of(settings: VllmEngine, ranks: int = 1) -> Literal["inline", "process", "server"]:
    """Where vLLM runs: as set, else in the trainer's process where that is one alone."""
    return settings.mode or ("inline" if ranks == 1 else "process")


def check_installed(settings: VllmEngine | HfEngine) -> None:
    """SettingsError where the engine's package is absent; costs nothing."""
    import importlib.util

    if isinstance(settings, VllmEngine) and settings.mode != "server" and importlib.util.find_spec("vllm") is None:
        raise SettingsError(
            "engine.kind: vllm is not installed; `make setup` installs it on a CPU, `pip install rlvr[vllm]` on a GPU, "
            "or use engine.kind=hf (slower, needs nothing more)"
        )
