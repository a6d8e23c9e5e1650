"""A body of POST /v1/verify as items to judge, whatever somebody sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlvr.errors import SettingsError, near
from rlvr.serve.limits import ServeLimits
from rlvr.serve.offer import Offer
from rlvr.serve.web import Refusal, read_json
from rlvr.types import Message, Prompt, Task

_BODY_FIELDS = ("verifier", "items", "options")
_ITEM_FIELDS = ("id", "response", "gold", "verifier", "prompt", "info")
ID_CHARACTERS = 256
"""Of an item's id that is text."""
ID_BITS = 63
"""Of an item's id that is a number, beside its sign."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One response to judge, or what is wrong with it. Item(id="7", verifier="math", response="42", task=Task(...))"""

    id: str | int | None
    verifier: str
    response: str = ""
    task: Task | None = None
    """None where there is a problem."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the verifier."""
    problem: str = ""
    """One line that begins with the item's index and field."""


def parse(raw: bytes, limits: ServeLimits, offer: Offer) -> list[Item]:
    """The items, in order. Refusal where the body as a whole cannot be used."""
    body = read_json(raw, limits)
    if not isinstance(body, dict):
        raise Refusal(422, "fields", f"the body must be an object, got {_kind(body)}")
    for name in body:
        if name not in _BODY_FIELDS:
            raise Refusal(422, "fields", _unknown("the body", name, _BODY_FIELDS))
    default = body.get("verifier")
    if default is not None:
        problem = _verifier_problem(default, offer)
        if problem:
            raise Refusal(422, "fields", f"verifier: {problem}")
    options = _options(body.get("options"), default, offer)
    rows = body.get("items")
    if not isinstance(rows, list):
        found = _kind(rows) if "items" in body else "none"
        raise Refusal(422, "fields", f"items: must be a list of objects {{response, gold}}, got {found}")
    if len(rows) > limits.num_items:
        raise Refusal(413, "items", f"items: at most {limits.num_items} in one request, got {len(rows)}")
    reader = _Reader(limits, offer, default, options)
    return [reader.item(row, index) for index, row in enumerate(rows)]


def _options(asked: Any, verifier: str | None, offer: Offer) -> dict[str, dict[str, Any]]:
    """Those that each verifier is called with; a request sets those of the body's verifier."""
    options = {name: offer.options(name, {}) for name in offer.names}
    if asked is None:
        return options
    if not isinstance(asked, dict):
        raise Refusal(422, "fields", f"options: must be an object, got {_kind(asked)}")
    if verifier is None:
        raise Refusal(422, "fields", "options: are one verifier's own; name it with verifier")
    try:
        return {**options, verifier: offer.options(verifier, asked)}
    except SettingsError as error:
        raise Refusal(422, "fields", str(error)) from None


# --- one item ---------------------------------------------------------------------------------------------------------


class _Problem(Exception):
    """The item's field and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class _Reader:
    limits: ServeLimits
    offer: Offer
    default: str | None
    """The body's verifier."""
    options: Mapping[str, Mapping[str, Any]]
    """Of each verifier."""

    def item(self, row: Any, index: int) -> Item:
        id: str | int | None = None
        verifier = self.default or ""
        try:
            if not isinstance(row, dict):
                raise _Problem(f": must be an object, got {_kind(row)}")
            id = _id(row.get("id"))
            verifier = self._verifier(row.get("verifier"))
            for key in row:
                if key not in _ITEM_FIELDS:
                    raise _Problem(f": {_unknown('an item', key, _ITEM_FIELDS)}")
            if "gold" not in row:
                raise _Problem(".gold: is missing (null where the verifier needs none)")
            info = row.get("info")
            if not (info is None or isinstance(info, dict)):
                raise _Problem(f".info: must be an object, got {_kind(info)}")
            name = str(index if id is None else id)
            task = Task(id=name, prompt=_prompt(row.get("prompt")), gold=row["gold"], info=info or {})
            response = _response(row, self.limits)
        except _Problem as problem:
            return Item(id=id, verifier=verifier, problem=f"items[{index}]{problem}")
        return Item(id=id, verifier=verifier, response=response, task=task, options=self.options[verifier])

    def _verifier(self, value: Any) -> str:
        if value is None:
            if self.default is None:
                served = ", ".join(sorted(self.offer.names))
                raise _Problem(f".verifier: is missing, and the body names none; served: {served}")
            return self.default
        problem = _verifier_problem(value, self.offer)
        if problem:
            raise _Problem(f".verifier: {problem}")
        return value


def _id(value: Any) -> str | int | None:
    if value is None or (type(value) is int and value.bit_length() <= ID_BITS):
        return value
    if isinstance(value, str) and len(value) <= ID_CHARACTERS:
        return value
    raise _Problem(f".id: must be a text of at most {ID_CHARACTERS} characters or a whole number of {ID_BITS} bits")


def _verifier_problem(value: Any, offer: Offer) -> str:
    """Only names that were loaded at the start count: what a request names is never imported."""
    if not isinstance(value, str):
        return f"must be text, got {_kind(value)}"
    if value in offer:
        return ""
    return f"{_short(value)} is not served; {near(value, offer.names)}served: {', '.join(sorted(offer.names))}"


def _response(row: dict[str, Any], limits: ServeLimits) -> str:
    if "response" not in row:
        raise _Problem(".response: is missing")
    response = row["response"]
    if not isinstance(response, str):
        raise _Problem(f".response: must be text, got {_kind(response)}")
    size = len(response.encode("utf-8", "surrogatepass"))
    if size > limits.response_bytes:
        raise _Problem(f".response: at most {limits.response_bytes} bytes, got {size}")
    return response


def _prompt(value: Any) -> Prompt:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise _Problem(f".prompt: must be text or a list of messages, got {_kind(value)}")
    messages = []
    for number, message in enumerate(value):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if not (isinstance(role, str) and isinstance(content, str)):
            raise _Problem(f".prompt[{number}]: must be an object with role and content, both text")
        messages.append(Message(role=role, content=content))
    return tuple(messages)


def _unknown(what: str, name: str, known: tuple[str, ...]) -> str:
    return f"{what} has no field {_short(name)}; {near(name, known)}known: {', '.join(known)}"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
