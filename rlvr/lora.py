"""Low-rank adapters on a policy, through peft: attaching, switching off, their weights, both kinds of export."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvr.errors import SettingsError
from rlvr.recipe import Lora


def attach(model: Any, settings: Lora, seed: int, *, is_scorer: bool = False) -> Any:
    """The model (PeftModel) with adapters that change nothing yet; only they are trained. SettingsError: no targets.

    https://arxiv.org/abs/2106.09685; B is 0, A is drawn from `seed`. Of a scorer (heads.py) the head is trained too.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType] - peft divides it, so a float will do
        lora_dropout=0.0,  # dropout would make the trainer disagree with the sampler
        target_modules=targets,
        bias="none",
        task_type=TaskType.SEQ_CLS if is_scorer else TaskType.CAUSAL_LM,  # peft trains and saves a classifier's head
    )
    _check_targets(model, settings)
    torch.manual_seed(seed)
    return get_peft_model(model, config).eval()


def _check_targets(model: Any, settings: Lora) -> None:
    """SettingsError where a target is no module, or one that cannot be merged."""
    if isinstance(settings.targets, str):
        return
    names = [name for name, _ in model.named_modules()]
    for target in settings.targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            linear = {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
            raise SettingsError(
                f"model.lora.targets: the model has no module {target}; its linear ones are {', '.join(sorted(linear))}"
            )
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is embeddings.weight:
        for name, module in model.named_modules():
            if module in (head, embeddings) and any(name == t or name.endswith(f".{t}") for t in settings.targets):
                raise SettingsError(
                    f"model.lora.targets: {name} shares its weight with the model's other end (a tied head), so an "
                    "adapter on it could not be merged; leave it out"
                )


def is_attached(model: Any) -> bool:
    """Whether the model has adapters."""
    return hasattr(model, "get_base_model")


def plain(model: Any) -> Any:
    """The Hugging Face model itself, with the adapters' layers in it where there are."""
    return model.get_base_model() if is_attached(model) else model


@contextlib.contextmanager
def off(model: Any) -> Iterator[Any]:
    """The model as it was before its adapters."""
    with model.disable_adapter():
        yield model


def weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the adapters, named as in a PEFT file: base_model.model. ... .q_proj.lora_A.weight"""
    from peft import get_peft_model_state_dict

    for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items():
        yield name, tensor.detach()


def merged(model: Any) -> Any:
    """The plain model with the adapters added to its weights. They are taken out of the model: it trains no more."""
    return model.merge_and_unload(safe_merge=True)


def save(model: Any, folder: Path) -> None:
    """A PEFT folder: adapter_config.json, adapter_model.safetensors."""
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a form with nothing filled in
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # peft has a set, whose order is another in every process
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
