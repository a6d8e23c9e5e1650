"""Fences around what a judge is to look at, so that nothing in it can pass for an instruction of ours.

A fence bears a code that is a keyed hash of the very texts that it encloses: who writes one of these texts cannot know
the code, for it changes with each letter that is written. Marks of special tokens (`<|im_end|>`) are broken up, as the
server's tokenizer would read them as such.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

_NAMES = (
    "s|bos|eos|pad|unk|mask|cls|sep|sop|eop|bot|eot|eod|start|end|think|thinking|thought|reasoning|answer|image|audio|"
    "video|system|user|assistant|human|model|tool|tools|function|functions|parameter|parameters|observation"
)
_MARKS = re.compile(
    r"<(?=[|｜]|</?SYS>>)"
    rf"|<(?=/?(?:{_NAMES})>)"
    r"|<(?=/?[\w.:-]*[_:][\w.:-]*>)"  # <start_of_turn>, <tool_response>, <extra_id_0>, <seed:bos>: HTML has none such
    r"|<(?=/?(?:function|parameter|tool|invoke)[=\s][^<>]*>)|<(?=(?:unused|reserved|fim-)\w+>)|<(?=0x[0-9a-f]{2}>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS)\])"
    r"|\[(?=/?(?-i:[gs]?[A-Z][A-Z_]+)\])",  # [TOOL_RESULTS], [THINK], [IMG], [gMASK]
    re.IGNORECASE,
)
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def nonce_for(secret: str, texts: Sequence[str]) -> str:
    """16 hexadecimal digits that occur in none of the texts."""
    whole = "\0".join(f"{len(text)}:{text}" for text in texts).encode("utf-8", "surrogatepass")
    joined = "\n".join(texts).lower()
    attempt = 0
    while True:
        key = hashlib.blake2b(f"{attempt}:{secret}".encode(), digest_size=32).digest()
        nonce = hashlib.blake2b(whole, key=key, digest_size=8).hexdigest()
        if nonce not in joined:
            return nonce
        attempt += 1


def fenced(nonce: str, name: str, text: str) -> str:
    """The text between two lines that bear the code."""
    return f"[{nonce} {name}]\n{neutral(text)}\n[{nonce} end]"


def neutral(text: str) -> str:
    """With a space within each mark of a special token, and lone surrogates, which no JSON server takes, replaced."""
    return _LONE_SURROGATES.sub("\ufffd", _MARKS.sub(lambda mark: mark[0] + " ", text))
