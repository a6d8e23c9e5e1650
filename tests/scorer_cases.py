"""Tiny reward models on disk, and groups for them to score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from rlvr import chat
from rlvr.types import Completion, Finish, Group, Prompt, Rollout, Task

PROMPT = "Q: 1+1=?"


def save_scorer(
    folder: Path,
    *,
    labels: Sequence[str] = ("score",),
    seed: int = 0,
    tokenizer: Any = None,
    edit: Callable[[Any], None] | None = None,
    context: int = 64,
    **config: Any,
) -> Path:
    """A random Qwen3ForSequenceClassification of two layers; `edit` may change the model before it is saved."""
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    tokenizer = tokenizer or chat.byte_tokenizer()
    torch.manual_seed(seed)
    model = Qwen3ForSequenceClassification(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=context,
            initializer_range=0.3,
            id2label=dict(enumerate(labels)),
            label2id={label: k for k, label in enumerate(labels)},
            **config,
        )
    )
    if edit is not None:
        with torch.no_grad():
            edit(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plain_logits(folder: Path, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """Of each row alone, by transformers itself."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([list(row)])).logits[0].double().tolist() for row in rows]


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(chat.byte_tokenizer()(text)["input_ids"])


def make_rollout(text: str, k: int = 0, *, finish: Finish = "stop", ids: tuple[int, ...] | None = None) -> Rollout:
    ids = ids if ids is not None else (*ids_of(text), *((1,) if finish == "stop" else ()))
    completion = Completion(
        text=text,
        token_ids=ids,
        logprobs=(0.0,) * len(ids),
        trained=(True,) * len(ids),
        finish=finish,
        versions=((0, 0),),
    )
    return Rollout(id=f"1/t/{k}", completion=completion, verdicts={}, reward=None)


def make_group(*texts: str, prompt: Prompt = PROMPT) -> Group:
    rollouts = tuple(make_rollout(text, k) for k, text in enumerate(texts))
    prompt_ids = chat.render_prompt(chat.byte_tokenizer(), prompt)
    return Group(task=Task(id="t", prompt=prompt), prompt_ids=prompt_ids, rollouts=rollouts)
