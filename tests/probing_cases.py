"""Reward models whose every word has a known worth, of a tokenizer of whole words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

WORDS = (
    "the a an and of to in is was very good bad great poor doctor nurse teacher pilot baker said told saw met asked "
    "today again helped read wrote book train soup film game shop road"
).split()
PEOPLE = "she he her his him hers woman man mary james patricia robert".split()


def word_tokenizer(words: Sequence[str]) -> Any:
    """Every word and mark is a token of its own, in lower case."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<unk>", "<mask>"]
    vocabulary = {word: k for k, word in enumerate(dict.fromkeys([*special, ".", ",", ":", "?", *words]))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def save_worth(
    folder: Path,
    worth: Mapping[str, float],
    *,
    words: Sequence[str] = (*WORDS, *PEOPLE),
    labels: Sequence[str] = ("r",),
) -> Path:
    """A reward model that looks at all tokens alike: the reward grows with the mean worth of the words in a row.

    One layer whose attention is uniform carries what a word is worth in the second number of its embedding to the last
    token, whose second number the head reads. With several labels the last one has this head, the others say 0.
    """
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    tokenizer = word_tokenizer(words)
    size = 8
    model = Qwen3ForSequenceClassification(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=size,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=size,
            max_position_embeddings=128,
            pad_token_id=tokenizer.pad_token_id,
            id2label=dict(enumerate(labels)),
            label2id={label: k for k, label in enumerate(labels)},
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        layer: Any = model.model.layers[0]
        layer.self_attn.v_proj.weight.copy_(torch.eye(size))
        layer.self_attn.o_proj.weight.copy_(torch.eye(size))
        model.model.embed_tokens.weight[:, 0] = 1.0
        for word, value in worth.items():
            model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids(word), 1] = value
        model.score.weight[-1, 1] = 10.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plain_reward(folder: Path, prompt: str, completion: str) -> float:
    """By transformers itself."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = [*tokenizer(prompt + completion)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([ids])).logits[0, -1])
