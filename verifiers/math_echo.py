"""Whether a right answer does nothing but repeat the arithmetic that the task asks for."""

from __future__ import annotations

import math
import re
from collections import Counter

from rlvr.types import Prompt
from rlvr.verifiers.math_spelling import LONGEST, normalised, squeeze

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SUM = re.compile(r"(?:[\d.+\-*()\[\]{}\s÷]|\\(?:cdot|times|div|left|right|,)(?![a-zA-Z]))+")
_BINARY = re.compile(r"[\d)\]}]\s*(?:[+\-*÷]|\\(?:cdot|times|div)(?![a-zA-Z]))\s*[\d(\[{\-+]")
_OPERATION = re.compile(r"[\d)\]}]\s*[+\-*/^!÷]|\\(?:cdot|times|div|frac|sqrt|binom|log|gcd)(?![a-zA-Z])")
_FRACTION = re.compile(r"-?(?:\\frac\{(\d{1,40})\}\{(\d{1,40})\}|(\d{1,40})/(\d{1,40}))")


def repeats_task(answer: str, prompt: Prompt) -> bool:
    """A sum or product of numbers that all stand in the prompt, or any operation that stands there as it is.

    For golds that are a number. A fraction in lowest terms is evaluated, wherever it stands: "which is larger, 3/4 or
    2/3?"; so is one of two numbers of the prompt that it does not divide itself.
    """
    if len(answer) > LONGEST or not _OPERATION.search(answer):
        return False
    asked = (
        prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt if turn["role"] == "user")
    )
    if _SUM.fullmatch(answer) and _BINARY.search(answer):
        # each number as often as the prompt has it, or less
        return Counter(_NUMBER.findall(answer)) <= Counter(_NUMBER.findall(asked))
    if (fraction := _FRACTION.fullmatch(squeeze(answer))) and _is_reduced(fraction):
        return False
    found = re.search(rf"(?<![\d.]){re.escape(squeeze(answer))}(?![\d.])", squeeze(normalised(asked[-LONGEST:])))
    return found is not None


def _is_reduced(fraction: re.Match[str]) -> bool:
    top, bottom = (int(digits) for digits in fraction.groups() if digits is not None)
    return bottom > 1 and math.gcd(top, bottom) == 1
