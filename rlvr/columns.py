"""What the columns of a row hold: prompts, completions, ids; what all loaders of rows have in common."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlvr.reward_settings import Data, PreferenceData, Rows
from rlvr.rows import BadRow, Row, kind, parsed, typed
from rlvr.types import Message, Prompt

PROMPT_COLUMNS = ("prompt", "question", "problem", "query", "instruction")
"""Then `messages`: all but the last assistant turn."""

_PLACE = re.compile(r"\{(?:prompt|row\.([^{}]+))\}")


def columns_of(row: Row) -> Mapping[str, Any]:
    """The columns of a row. BadRow where it could not be read as an object."""
    if isinstance(row.fields, BadRow):
        raise row.fields
    if not isinstance(row.fields, Mapping):
        raise BadRow(f"not an object of columns but {kind(row.fields)}")
    return row.fields


def find(
    fields: Mapping[str, Any], word: str, names: Iterable[str], data: Data | PreferenceData
) -> tuple[str, Any] | None:
    """(column, value): of data.columns, else of the first name that is not empty, else that is there at all."""
    mapped = data.columns.get(word)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    if mapped is not None:
        value: Any = fields
        for part in [mapped] if mapped in fields else mapped.split("."):
            value = parsed(value)
            if not isinstance(value, Mapping) or part not in value:
                named = f"named by columns.{word} or --column {word}={mapped}"
                raise BadRow(f"no column {mapped!r} ({named}; has: {', '.join(map(str, fields))})")
            value = value[part]
        return (mapped, value) if value is not None else None
    there = [(name, fields[name]) for name in names if fields.get(name) is not None]
    return next((pair for pair in there if not is_empty(pair[1])), there[0] if there else None)


def missing(word: str, fields: Mapping[str, Any], setting: str, known_as: Mapping[str, Sequence[str]]) -> str:
    """That a row lacks a column, with the columns it has and the nearest name. known_as: the columns of each word."""
    aliases = known_as[word]
    known = {name for names in known_as.values() for name in names} | {"id", "source", "data_source", "verifier"}
    others = [str(column) for column in fields if column not in known]
    near = {c: max(difflib.SequenceMatcher(None, c.lower(), a).ratio() for a in aliases) for c in others}
    best = max(near, key=near.__getitem__, default=None)
    named = typed(setting, f"columns.{word}", "COLUMN")
    hint = f"; name its column with {named}" if named else ""
    if best is not None and near[best] >= 0.6:
        hint = f"; did you mean {typed(setting, f'columns.{word}', best) or repr(best)}?"
    return f"no {word} (has: {', '.join(map(str, fields)) or 'no columns'}{hint})"


def prompt_of(value: Any, column: str) -> Prompt:
    """A prompt as text or messages. BadRow: neither."""
    if isinstance(value, str):
        return valid_text(value, "prompt")
    if isinstance(value, (list, tuple)):
        return messages_of(value, column)
    raise BadRow(f"prompt must be text or messages, got {kind(value)} (column {column!r})")


def messages_of(value: Any, column: str) -> tuple[Message, ...]:
    """Turns as they stand in a column, or in its JSON text. BadRow: none, or turns without role and text."""
    value = parsed(value)
    if not isinstance(value, (list, tuple)) or not value:
        raise BadRow(f"{column} must be a list of messages, got {kind(value)}")
    turns: list[Message] = []
    for k, turn in enumerate(value):
        role = turn.get("role") if isinstance(turn, Mapping) else None
        content = turn.get("content") if isinstance(turn, Mapping) else None
        if isinstance(content, (list, tuple)) and all(
            isinstance(p, Mapping) and p.get("type") == "text" for p in content
        ):
            content = "".join(str(part.get("text") or "") for part in content)
        if not isinstance(role, str) or not isinstance(content, str):
            raise BadRow(f"{column}[{k}] must have role and content as text")
        turns.append(Message(role=role, content=valid_text(content, f"{column}[{k}]")))
    return tuple(turns)


def split_turns(value: Any) -> tuple[tuple[Message, ...], str | None]:
    """All but the last assistant turn, and that turn's text where the conversation ends with one."""
    turns = messages_of(value, "messages")
    if turns[-1]["role"] == "assistant":
        return turns[:-1], turns[-1]["content"]
    return turns, None


def completion_of(value: Any) -> str:
    """The text of a completion, which is text or one assistant's message. BadRow: neither."""
    if isinstance(value, str):
        return valid_text(value, "completion")
    if isinstance(value, (list, tuple)):
        turns = messages_of(value, "completion")
        if len(turns) != 1 or turns[0]["role"] != "assistant":
            raise BadRow("completion must be text or one assistant's message")
        return turns[0]["content"]
    raise BadRow(f"completion must be text or one assistant's message, got {kind(value)}")


def id_of(row: Row, fields: Mapping[str, Any], data: Data | PreferenceData) -> tuple[str, str | None]:
    """(id, the column that it came from)"""
    found = find(fields, "id", ("id",), data)
    if found is not None and found[1] != "":
        if isinstance(found[1], bool) or not isinstance(found[1], (str, int)):
            raise BadRow(f"id must be text or a whole number, got {kind(found[1])} (column {found[0]!r})")
        return valid_text(str(found[1]), "id"), found[0]
    extra = parsed(fields.get("extra_info"))
    if isinstance(extra, Mapping) and isinstance(extra.get("index"), (str, int)):
        # verl's index counts within one source, and files of several are joined
        source = fields.get("data_source")
        name = source.rpartition("/")[2] if isinstance(source, str) and source else row.name
        return f"{name}:{extra['index']}", None
    return f"{row.name}:{row.number}", None


def dress(prompt: Prompt, data: Rows, fields: Mapping[str, Any]) -> Prompt:
    """Template, system message and chat form of the recipe; its system message replaces the row's."""
    if data.prompt_template is None and data.system is None and not (data.as_chat and isinstance(prompt, str)):
        return prompt
    template = data.prompt_template or "{prompt}"
    if isinstance(prompt, str):
        prompt = _filled(template, prompt, fields)
        if data.system is None and not data.as_chat:
            return prompt
        turns = [Message(role="user", content=prompt)]
    else:
        turns = list(prompt)
        users = [k for k, turn in enumerate(turns) if turn["role"] == "user"]
        if users:
            content = _filled(template, turns[users[-1]]["content"], fields)
            turns[users[-1]] = Message(role="user", content=content)
    if data.system is not None:
        turns = [turn for turn in turns if turn["role"] != "system"]
        turns.insert(0, Message(role="system", content=data.system))
    return tuple(turns)


def _filled(template: str, prompt: str, fields: Mapping[str, Any]) -> str:
    """The template with {prompt} and {row.COLUMN} in place; not str.format: templates are full of LaTeX braces."""

    def text(place: re.Match[str]) -> str:
        column = place[1]
        if column is None:
            return prompt
        if column not in fields:
            raise BadRow(f"no column {column!r} (prompt_template names it; has: {', '.join(map(str, fields))})")
        value = fields[column]
        lines = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
        if not all(isinstance(line, str) for line in lines):
            raise BadRow(
                f"column {column!r} must be text or a list of texts, got {kind(value)} (prompt_template names it)"
            )
        return valid_text("\n".join(lines), column)

    return _PLACE.sub(text, template)


def prompt_key(prompt: Prompt) -> str:
    """The same for prompts that ask the same: without system messages, plain or as one user's message."""
    if isinstance(prompt, str):
        return prompt
    turns = [turn for turn in prompt if turn["role"] != "system"]
    if len(turns) == 1 and turns[0]["role"] == "user":
        return turns[0]["content"]
    return json.dumps([[turn["role"], turn["content"]] for turn in turns])


def is_empty(value: Any) -> bool:
    """Nothing, white space alone, or an empty list or object."""
    return value is None or (isinstance(value, str) and not value.strip()) or (value in ([], {}, ()))


def valid_text(text: str, what: str) -> str:
    """The text; BadRow where it is none that a tokenizer takes."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # JSON may say "\ud83d" alone; no tokenizer takes it
            raise BadRow(f"{what} holds half a surrogate pair, which is no valid text") from None
    return text
