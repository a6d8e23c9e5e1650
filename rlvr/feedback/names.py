"""Names of people, and the hash that stands for each in whatever leaves the database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

ANONYMOUS, IMPORTED, DEPLOYED = "anonymous", "imported", "deployed"
"""What we call those who say no name: on the page, in a file, in feedback of a deployed model."""
_NOBODY = re.compile(f"{ANONYMOUS}|{DEPLOYED}|{IMPORTED}( .*#[0-9]+)?")
"""The names that we give: "imported ROW#0" is one of several voices of a row that does not say whose they are."""
_LEAST = 3
"""Characters of a name that is looked for within longer texts: "a" is a word of its own in most of them."""
_TOKEN = re.compile(r"[^\W_]+|[\W_]")


class Names:
    """Takes names out, in upper or lower case. Names(["bob"], hashed).text("by Bob_2") is "by 1f09d30c707d53f3_2"."""

    def __init__(self, names: Iterable[str], hashed: Callable[[str], str]) -> None:
        self.hashed = hashed
        self._all = {name for name in names if not _NOBODY.fullmatch(name)}
        self._folded = {name.casefold(): name for name in sorted(self._all, reverse=True)}
        """The first by the alphabet of those that differ in case alone."""
        self._words = {name for name in self._folded if len(name) >= _LEAST and not name.isdecimal()}
        lengths: dict[str, set[int]] = {}
        for name in self._all:
            if name.casefold() in self._words:
                tokens = _TOKEN.findall(name)  # as they are found in a text: "İ" is one letter, and folded two
                lengths.setdefault(tokens[0].casefold(), set()).add(len(tokens))
        self._lengths = {start: sorted(nums, reverse=True) for start, nums in lengths.items()}
        """By the first token how many a name has, "bob smith" before "bob": thousands that share it cost no more."""

    def text(self, text: str) -> str:
        """With the hash in place of each name that stands there as a word; short names and mere numbers stay."""
        tokens = _TOKEN.findall(text)
        folded = [token.casefold() for token in tokens]
        if self._lengths.keys().isdisjoint(folded):
            return text
        found, k = [], 0
        while k < len(tokens):
            lengths = self._lengths.get(folded[k], ())
            num = next((num for num in lengths if "".join(folded[k : k + num]) in self._words), None)
            said = "".join(tokens[k : k + (num or 1)])
            found.append(said if num is None else self._hash(said))
            k += num or 1
        return "".join(found)

    def value(self, value: Any) -> Any:
        """Plain data, keys and values at any depth; short names and numbers where they are all of a value."""
        if isinstance(value, Mapping):
            return {self.value(str(key)): self.value(given) for key, given in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(given) for given in value]
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            return value
        if str(value).casefold() in self._folded:
            return self._hash(str(value))
        return self.text(value) if isinstance(value, str) else value

    def _hash(self, said: str) -> str:
        """Of whoever is called just so, else so in another case."""
        return self.hashed(said if said in self._all else self._folded[said.casefold()])
