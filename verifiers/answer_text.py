"""What a response says to its reader, and how a sentence quotes it."""

from __future__ import annotations

import re

WRAPPED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|rm)\s?\{([^{}]*)\}")
"""Words within a formula; their text is the group."""
_TAGS = (("<think>", "</think>"), ("<thinking>", "</thinking>"))


def after_thinking(response: str) -> str | None:
    """What stands behind the last `</think>` and the last `</thinking>`; None while one is open.

    The one reading of this that verifiers share. Some take more off, each for its own purpose: extract.py code and
    turns that the model invented for others, ifeval_text.said() an `<answer>` around it all.
    """
    text = response
    for start, end in _TAGS:
        text = text.rpartition(end)[2]
        if start in text:
            return None
    return text


def short(text: str) -> str:
    """The text in quotes, cut where it is too long for a sentence."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
