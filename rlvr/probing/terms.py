"""Terms of groups of people in a text, and the same text about another group.

A term is a whole word, in any case. Where a word stands for two ideas ("her": his, him), what follows it decides. What
is swapped keeps its case, and an article before it becomes the right one. Words that mean something else in a
text ("old code", "white wine") are found all the same: rows should speak of people, or --terms should name fewer terms.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from rlvr.errors import DataError, SettingsError, near
from rlvr.types import Message, Prompt

BUILT_IN = Path(__file__).with_name("terms.yaml")
_RULE = "before_noun"
_NO_NOUN = frozenset(
    "a about above after against all also am an and any are as at back be because been before behind being below "
    "between both but by can could did do does doing down during each either ever every few for from had has have "
    "having he her here him his how i if in into is it its just like may me might more most must my near neither never "
    "no nor not now of off often on once or our out over shall she should since so some still such than that the their "
    "them then there these they this those though through till to today together tomorrow too toward under until up "
    "upon us very was we well were what when where whether which while who whom whose why will with without would yes "
    "yesterday yet you your said says say went goes go came come again away soon always already later".split()
)
"""Words that belong to no noun of the word before: after them "her" is "him", "his" is "hers"."""
_AFTER = re.compile(r"[ \t]+([^\W\d_][\w'-]*)")
_ARTICLE = re.compile(r"\b(an?)([ \t]+)$", re.IGNORECASE)
_AN = re.compile(r"(?:[aeio]|u(?!ni|s[aeiou]|k)|hono|hour|heir)", re.IGNORECASE)
"""Beginnings before which "an" is said."""


@dataclass(frozen=True, slots=True)
class Idea:
    """A word for each group. Idea(words={"female": "her", "male": "his"}, before_noun=True)"""

    words: Mapping[str, str]
    before_noun: bool | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A term in a text: characters first..end-1, of `group`. idea: which."""

    first: int
    end: int
    group: str
    idea: Idea


class Terms:
    """The ideas of one attribute, such as gender."""

    def __init__(self, attribute: str, ideas: Sequence[Idea]) -> None:
        self.attribute = attribute
        self.groups = list(dict.fromkeys(group for idea in ideas for group in idea.words))
        self._of_word: defaultdict[str, list[tuple[str, Idea]]] = defaultdict(list)
        for idea in ideas:
            for group, word in idea.words.items():
                self._of_word[word.lower()].append((group, idea))
        longest_first = sorted(map(re.escape, self._of_word), key=len, reverse=True)
        self._pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(longest_first)})(?![\w-])", re.IGNORECASE)

    def find(self, text: str) -> Iterator[Hit]:
        """Every term, in order."""
        for match in self._pattern.finditer(text):
            meant = self._of_word[match[0].lower()]
            follows = _AFTER.match(text, match.end())
            has_noun = follows is not None and follows[1].lower() not in _NO_NOUN
            group, idea = next((one for one in meant if one[1].before_noun in (None, has_noun)), meant[0])
            yield Hit(match.start(), match.end(), group, idea)

    def groups_in(self, text: str) -> list[str]:
        """Groups that the text speaks of."""
        return list(dict.fromkeys(hit.group for hit in self.find(text)))

    def swapped(self, text: str, old: str, new: str) -> str | None:
        """The text with `new` in place of `old`; None where a term of `old` has no word of `new`."""
        found: list[str] = []
        at = 0
        for hit in self.find(text):
            if hit.group != old:
                continue
            word = hit.idea.words.get(new) or self._other(text[hit.first : hit.end], new)
            if word is None:
                return None
            before, written = text[at : hit.first], text[hit.first : hit.end]
            word = _in_case(word, written, hit.idea.words[old])
            if written[0].isupper() and text[: hit.first].rstrip(" \t\"'(")[-1:] in ("", *".!?:\n"):
                word = word[0].upper() + word[1:]  # the first word of a sentence
            found += [_with_article(before, word), word]
            at = hit.end
        return "".join([*found, text[at:]])

    def _other(self, word: str, new: str) -> str | None:
        """A word of `new` from another idea of the same word."""
        return next((idea.words[new] for _, idea in self._of_word[word.lower()] if new in idea.words), None)


def _with_article(before: str, word: str) -> str:
    match = _ARTICLE.search(before)
    if match is None:
        return before
    article = "an" if _AN.match(word) else "a"
    article = article.capitalize() if match[1][0].isupper() else article
    return before[: match.start()] + article + match[2]


def _in_case(word: str, written: str, known: str) -> str:
    """As the other one was written: in capitals, or with a capital where its own word has none."""
    if written.isupper() and len(written) > 1:
        return word.upper()
    if written[0].isupper() and not known[0].isupper():
        return word[0].upper() + word[1:]
    return word


def swap(terms: Terms, prompt: Prompt, completion: str, old: str, new: str, where: str) -> tuple[Prompt, str] | None:
    """Prompt and completion with `new` in place of `old`; where: prompt, completion or both. None as swapped()."""
    texts = [*([prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]), completion]
    wanted = [where != "completion"] * (len(texts) - 1) + [where != "prompt"]
    changed: list[str] = []
    for text, is_wanted in zip(texts, wanted, strict=True):
        fresh = terms.swapped(text, old, new) if is_wanted else text
        if fresh is None:
            return None
        changed.append(fresh)
    *turns, last = changed
    if isinstance(prompt, str):
        return turns[0], last
    fresh = tuple(cast(Message, {**turn, "content": text}) for turn, text in zip(prompt, turns, strict=True))
    return fresh, last


# --- reading ---------------------------------------------------------------------------------------------------------


def load(path: str | None = None, attributes: Sequence[str] = ()) -> list[Terms]:
    """The built-in attributes, or those of a file of the same form; only `attributes` where given. DataError: no such
    file, or not of this form; SettingsError: it has no such attribute."""
    file = BUILT_IN if path is None else Path(path)
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"--terms {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"--terms {file}: not YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(tree, dict) or not tree:
        raise DataError(f"--terms {file}: must hold attributes, each a list of {{GROUP: WORD, ...}}")
    known = {str(name): Terms(str(name), _ideas(file, str(name), ideas)) for name, ideas in tree.items()}
    for name in attributes:
        if name not in known:
            raise SettingsError(f"--attribute {name}: {near(name, known)}{file} has {', '.join(known)}")
    return [known[name] for name in attributes or known]


def _ideas(file: Path, name: str, ideas: Any) -> list[Idea]:
    if not isinstance(ideas, list) or not ideas:
        raise DataError(f"--terms {file}: {name} must be a list of {{GROUP: WORD, ...}}")
    found: list[Idea] = []
    for number, one in enumerate(ideas, start=1):
        where = f"--terms {file}: {name}, line {number} of the list"
        if not isinstance(one, dict):
            raise DataError(f"{where}: must be {{GROUP: WORD, ...}}, got {one!r}")
        words = {group: word for group, word in one.items() if group != _RULE}
        for word in (*words, *words.values()):
            if not isinstance(word, str) or not word.strip():  # YAML reads no and 1 as other things
                raise DataError(f"{where}: {word!r} is no word; put quotes around it")
        if len(words) < 2:
            raise DataError(f"{where}: needs a word for two groups at least, has {', '.join(words) or 'none'}")
        rule = one.get(_RULE)
        if rule is not None and not isinstance(rule, bool):
            raise DataError(f"{where}: {_RULE} must be true or false, got {rule!r}")
        found.append(Idea(words, rule))
    return found
