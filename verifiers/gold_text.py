"""Golds that are text or numbers: what they say, and why something is none."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from rlvr.verifiers.extract import extract

_MOST_BITS = 10_000
"""Of a whole number: 3010 digits; beyond 4300 Python writes none."""


def gold_text(gold: Any) -> tuple[str, str]:
    """(the text, without blanks around it, ""), or ("", why it is no gold)."""
    if isinstance(gold, bool) or not isinstance(gold, str | int | float):
        return "", f"the gold must be text or a number, got {type(gold).__name__}"
    if isinstance(gold, float) and not math.isfinite(gold):
        return "", f"the gold is {gold}"
    if isinstance(gold, int) and gold.bit_length() > _MOST_BITS:
        return "", "the gold has more than 3000 digits"
    text = str(gold).strip()
    return (text, "") if text else ("", "the gold is empty")


def gold_answer(gold: Any) -> tuple[str, str]:
    r"""The same; of a whole solution with a `\boxed{}` or GSM8K's mark the answer alone."""
    text, problem = gold_text(gold)
    return (_answer(text), "") if text else ("", problem)


@lru_cache(4096)
def _answer(text: str) -> str:
    found = extract(text) if "\\boxed" in text or "#### " in text else None
    return found.answer if found else text
