"""Which engine a recipe asks for, and what the engines share."""

from __future__ import annotations

from typing import Any

from rlvr.errors import SettingsError
from rlvr.recipe import HfEngine, Model, VllmEngine
from rlvr.types import Engine


def build(settings: VllmEngine | HfEngine, model: Model, tokenizer: Any) -> Engine:
    """The engine, started, with the weights of model.path. EngineError where it cannot start."""
    if isinstance(settings, HfEngine):
        from rlvr.engines.hf import HuggingFace

        return HuggingFace(settings, model, tokenizer)
    from rlvr.engines.vllm import Vllm

    return Vllm(settings, model, tokenizer)


def check_installed(settings: VllmEngine | HfEngine) -> None:
    """SettingsError where the engine's package is absent; costs nothing."""
    import importlib.util

    if isinstance(settings, VllmEngine) and importlib.util.find_spec("vllm") is None:
        raise SettingsError(
            "engine.kind: vllm is not installed; `make setup` installs it on a CPU, `pip install rlvr[vllm]` on a GPU, "
            "or use engine.kind=hf (slower, needs nothing more)"
        )


def cut_at_stop(text: str, stop: tuple[str, ...]) -> str | None:
    """Text up to the first stop string, or None where there is none."""
    places = [place for place in (text.find(s) for s in stop) if place >= 0]
    return text[: min(places)] if places else None
