r"""JSON Schema, drafts 4 to 2020-12, through jsonschema-rs: compiled once, never a request to any network or file.

That library answers every mandatory case of the official test suite of drafts 7 and 2020-12 rightly
(tests/test_json_schema.py), and matches `pattern` on an engine that is linear in the text, where one that goes back
takes for ever on `^(a+)+$` and a few dozen letters. The price: patterns have no lookaround and no backreferences.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol


class Schema(Protocol):
    """A schema that has been compiled."""

    def is_valid(self, instance: Any) -> bool: ...

    def iter_errors(self, instance: Any) -> Any: ...


@functools.lru_cache(maxsize=256)
def compile_schema(text: str) -> Schema | str:
    """The schema of a JSON text (a mapping, true or false), or one sentence on why it is none."""
    import jsonschema_rs

    from rlvr.verifiers.code_text import Refused
    from rlvr.verifiers.json_text import parse_json

    read = parse_json(text)
    if isinstance(read, Refused):
        return f"the schema is no JSON: {read.reason}"
    if not isinstance(read[0], dict | bool):
        return f"a schema is a mapping, true or false, not {text[:60]}"
    try:
        return jsonschema_rs.validator_for(read[0], offline=True, pattern_options=jsonschema_rs.RegexOptions())
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        return _told(error)


def violation(schema: Schema, value: Any) -> tuple[list[str | int], str] | None:
    """(path, sentence) of the first place where the value is not as the schema says; None: it is valid."""
    if schema.is_valid(value):
        return None
    error = next(iter(schema.iter_errors(value)))
    return list(error.instance_path), " ".join(error.message.split())[:200]


def _told(error: Exception) -> str:
    message = " ".join(str(error).split("\n\n")[0].split())[:200]
    if "is not present in a registry" in message:
        return f"$ref beyond the schema itself is never followed: {message.split(' is not present')[0]}"
    hint = "; patterns have no lookaround and no backreferences" if 'is not a "regex"' in message else ""
    return f"not a JSON Schema: {message}{hint}"
