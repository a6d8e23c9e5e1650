"""The prompt and the completions of a row whose columns hold texts, messages, or dialogues as one text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rlvr.columns import completion_of, find, is_empty, messages_of, missing, prompt_key, prompt_of, valid_text
from rlvr.preference_labels import COLUMNS
from rlvr.reward_settings import PreferenceData
from rlvr.rows import BadRow, parsed
from rlvr.types import Message, Prompt

_DIALOGUE = re.compile(r"\n\n(Human|Assistant):")
"""Where a turn begins in Anthropic's HH data."""
_ANSWER = re.compile(
    r"\n\nAssistant:|<\|im_start\|>assistant\n|<\|assistant\|>\n?|<\|end_header_id\|>\n\n|\[/INST\]"
    r"|### Response:\n?|\nassistant: "
)
"""Where an answer begins in texts that hold the prompt too."""
_NO_PROMPTS = {"id", "annotators"}
"""Columns of text or lists beside those of COLUMNS that no prompt is looked for in."""


def read_prompt(fields: Mapping[str, Any], data: PreferenceData, setting: str) -> Prompt:
    """The prompt of a row; an HH dialogue becomes messages. BadRow: none, or an empty one."""
    found = find(fields, "prompt", COLUMNS["prompt"], data)
    if found is None:
        raise BadRow(missing("prompt", fields, setting, COLUMNS))
    column, value = found
    if is_empty(value):
        raise BadRow(f"prompt is empty (column {column!r})")
    turns = _turns(value, column)
    prompt = turns if turns is not None else prompt_of(value, column)
    if turns and turns[-1] == Message(role="assistant", content=""):  # HH's prompts end with the head of the answer
        prompt = turns[:-1]
    if is_empty(prompt):
        raise BadRow(f"prompt is empty (column {column!r})")
    return prompt


def split_pair(
    fields: Mapping[str, Any], data: PreferenceData, setting: str, names: tuple[str, str], values: tuple[Any, Any]
) -> tuple[Prompt, tuple[str, str]]:
    """(prompt, both completions) of two sides, which may begin with their prompt.

    With a column for the prompt each side is a completion, or a conversation that must begin with that prompt. Without
    one it is what both sides begin with: all turns but the last; of texts all up to the mark of an answer, or, where
    the row has nothing else that could be a prompt, up to the last space (as TRL's implicit prompts).
    """
    first, second = (_turns(value, name) for value, name in zip(values, names, strict=True))
    if first is not None and second is not None:
        return _split_turns(fields, data, setting, names, (first, second))
    if first is not None or second is not None:
        raise BadRow(f"one of {names[0]} and {names[1]} is text and the other a conversation; write both alike")
    texts = (completion(values[0], names[0]), completion(values[1], names[1]))
    found = find(fields, "prompt", COLUMNS["prompt"], data)
    if found is None:
        return _split_texts(fields, setting, names, texts)
    if _is_dialogue(found[1]):  # whose turns begin with a space
        texts = (texts[0].removeprefix(" "), texts[1].removeprefix(" "))
    return read_prompt(fields, data, setting), texts


def completion(value: Any, what: str) -> str:
    """Its text. BadRow: neither text nor one assistant's message, or nothing written."""
    if is_empty(value):
        raise BadRow(f"{what} is empty")
    try:
        text = completion_of(value)
    except BadRow as error:
        raise BadRow(str(error).replace("completion", what, 1)) from None
    if not text.strip():
        raise BadRow(f"{what} is empty")
    return text


def _split_turns(
    fields: Mapping[str, Any],
    data: PreferenceData,
    setting: str,
    names: tuple[str, str],
    sides: tuple[tuple[Message, ...], tuple[Message, ...]],
) -> tuple[Prompt, tuple[str, str]]:
    for turns, name in zip(sides, names, strict=True):
        if turns[-1]["role"] != "assistant":
            raise BadRow(f"{name} must end with an assistant's turn, ends with the {turns[-1]['role']}'s")
        if not turns[-1]["content"].strip():
            raise BadRow(f"{name} is empty")
    texts = (sides[0][-1]["content"], sides[1][-1]["content"])
    heads = [turns[:-1] for turns in sides]
    if find(fields, "prompt", COLUMNS["prompt"], data) is not None:
        prompt = read_prompt(fields, data, setting)
        for head, name in zip(heads, names, strict=True):
            if head and prompt_key(head).strip() != prompt_key(prompt).strip():
                raise BadRow(f"the turns of {name} before its last are not the prompt; which of them was answered?")
        return heads[0] or heads[1] or prompt, texts
    if heads[0] != heads[1]:
        raise BadRow(f"{names[0]} and {names[1]} answer different prompts: they differ before their last turns")
    if not heads[0]:
        raise BadRow(missing("prompt", fields, setting, COLUMNS))
    return heads[0], texts


def _split_texts(
    fields: Mapping[str, Any], setting: str, names: tuple[str, str], texts: tuple[str, str]
) -> tuple[str, tuple[str, str]]:
    length = next((k for k, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    both = texts[0][:length]
    marks = list(_ANSWER.finditer(both))
    if marks:
        end = marks[-1].end()
        if any(_ANSWER.search(text, end) for text in texts):
            raise BadRow(f"{names[0]} and {names[1]} answer different prompts: they differ before their last answers")
    else:
        end = max((place for place, character in enumerate(both) if character.isspace()), default=0)
        known = {name for columns in COLUMNS.values() for name in columns} | _NO_PROMPTS
        if not both[:end].strip() or any(
            isinstance(value, (str, list, tuple)) and c not in known for c, value in fields.items()
        ):
            raise BadRow(missing("prompt", fields, setting, COLUMNS))
    rest = (texts[0][end:], texts[1][end:])
    for text, name in zip(rest, names, strict=True):
        if not text.strip():
            raise BadRow(f"{name} is empty behind the prompt")
    return both[:end], rest


def _turns(value: Any, column: str) -> tuple[Message, ...] | None:
    """The turns of a conversation, also of one that stands as JSON text or in HH's form; None where it is none."""
    if _is_dialogue(value):
        _, *parts = _DIALOGUE.split(valid_text(value, column))
        roles = {"Human": "user", "Assistant": "assistant"}
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return tuple(Message(role=roles[speaker], content=text.strip()) for speaker, text in pairs)
    if isinstance(value, str):
        value = parsed(value)
    if isinstance(value, (list, tuple)) and value and all(isinstance(t, Mapping) and "role" in t for t in value):
        return messages_of(value, column)
    return None


def _is_dialogue(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("\n\nHuman:")
