"""Names of people, and the hash that stands for each in whatever leaves the database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_LEAST = 3
"""Characters of a name that is looked for within longer texts: "a" is a word of its own in most of them."""
_TOKEN = re.compile(r"[^\W_]+|[\W_]")


class Names:
    """Takes names out. Names(["bob"], hashed).text("by bob_2") is "by 1f09d30c707d53f3_2"."""

    def __init__(self, names: Iterable[str], hashed: Callable[[str], str]) -> None:
        self._all = set(names)
        self.hashed = hashed
        self._by_start: dict[str, list[str]] = {}
        for name in sorted(self._all, key=lambda name: (-len(name), name)):  # "bob smith" before "bob"
            if len(name) >= _LEAST:
                self._by_start.setdefault(_TOKEN.findall(name)[0], []).append(name)

    def text(self, text: str) -> str:
        """With the hash in place of each name that stands there as a word, letter for letter."""
        tokens = _TOKEN.findall(text)
        if self._by_start.keys().isdisjoint(tokens):
            return text
        found, place, end = [], 0, 0
        for token in tokens:
            if place == end:
                name = next((name for name in self._by_start.get(token, ()) if _has_word(text, name, place)), None)
                found.append(token if name is None else self.hashed(name))
                end += len(token if name is None else name)
            place += len(token)
        return "".join(found)

    def value(self, value: Any) -> Any:
        """Plain data, keys and values at any depth; short names and numbers where they are all of a value."""
        if isinstance(value, Mapping):
            return {self.value(str(key)): self.value(given) for key, given in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(given) for given in value]
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            return value
        if str(value) in self._all:
            return self.hashed(str(value))
        return self.text(value) if isinstance(value, str) else value


def _has_word(text: str, name: str, place: int) -> bool:
    """Whether a name stands at the beginning of a word and does not end within one."""
    end = place + len(name)
    return text.startswith(name, place) and not (name[-1].isalnum() and text[end : end + 1].isalnum())
