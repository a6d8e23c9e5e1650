"""Writes the folder tokenizer/ beside this file: one token per word of the world, so that words are what is counted.

python recipes/preference/tokenizer.py
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlvr import plugins

FOLDER = Path(__file__).parent / "tokenizer"
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")


def build() -> PreTrainedTokenizerFast:
    words = plugins.load(f"{Path(__file__).parent / 'world.py'}:words", what="the words of the world")()
    bare = Tokenizer(models.WordLevel({word: k for k, word in enumerate((*SPECIAL, *words))}, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pad, eos, bos, unk = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=bare, pad_token=pad, eos_token=eos, bos_token=bos, unk_token=unk, padding_side="left"
    )


if __name__ == "__main__":
    build().save_pretrained(FOLDER)
