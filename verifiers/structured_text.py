"""Finds the one piece of data that a response commits to.

Thinking is never looked at. What stands behind it counts by the first of these that is there:

    whole       the whole of it, where its first sign opens the data (`{`, `[`)
    answer_tag  what stands in `<answer>...</answer>`; a single fence in there is taken off
    fence       the one complete fence whose tag is allowed (json, csv, none); prose around it does not count
    whole       the whole of it

Two candidates of one kind are no answer, even where they say the same: the response has to commit to one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rlvr.verifiers.answer_text import after_thinking
from rlvr.verifiers.code_text import Refused, fences

_OPEN, _CLOSE = "<answer>", "</answer>"


@dataclass(frozen=True, slots=True)
class Block:
    """Block('{"a": 1}', "fence", "json")"""

    text: str
    """Without empty lines around it: blanks and tabs may be empty cells."""
    how: str
    tag: str = ""
    """Of its fence."""


def find_block(response: str, tags: Collection[str], opens: str = "") -> Block | Refused:
    """The data of a response. `tags`: of fences, in lower case; `opens`: signs that begin data and never prose."""
    text = after_thinking(response)
    if text is None:
        return Refused("no_answer", "the response is still thinking when it ends")
    text = text.strip("\r\n")
    if not text.strip():
        return Refused("no_answer", "the response is empty")
    if text.lstrip()[0] in opens:
        return Block(text, "whole")
    if _OPEN in text or _CLOSE in text:
        return _from_tag(text, tags)
    return _from_fence(text, tags, "fence") or Block(text, "whole")


def _from_tag(text: str, tags: Collection[str]) -> Block | Refused:
    counts = text.count(_OPEN), text.count(_CLOSE)
    start, end = text.find(_OPEN) + len(_OPEN), text.find(_CLOSE)
    if counts != (1, 1) or end < start:
        return Refused(
            "malformed", f"one {_OPEN}...{_CLOSE} is wanted, got {counts[0]} {_OPEN} and {counts[1]} {_CLOSE}"
        )
    inside = text[start:end].strip("\r\n")
    if not inside.strip():
        return Refused("no_answer", f"{_OPEN} is empty")
    return _from_fence(inside, tags, "answer_tag") or Block(inside, "answer_tag")


def _from_fence(text: str, tags: Collection[str], how: str) -> Block | Refused | None:
    found = [(tag, content) for tag, content in fences(text) if tag in tags]
    if len(found) > 1:
        return Refused("malformed", f"{len(found)} code fences that may be the answer, and one is wanted")
    if not found:
        return None
    tag, content = found[0]
    content = content.strip("\r\n")
    return Block(content, how, tag) if content.strip() else Refused("no_answer", "the code fence is empty")
