"""The language of a text: by its script where that tells it, else by frequent words, letters and trigrams.

Deterministic, without data to download; linear in the text. What cannot be told is "unknown": digits and marks alone,
and words that no list speaks for.
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from rlvr.verifiers.language_profiles import LETTERS, LETTERS_A_WORD, ONE_LANGUAGE, SCRIPTS, WORDS
from rlvr.verifiers.text_cache import kept

UNKNOWN = "unknown"

CODES: tuple[str, ...] = tuple(
    sorted({"ja", "zh", *ONE_LANGUAGE.values(), *(c for group in WORDS.values() for c in group)})
)
"""ISO 639-1 codes of the languages that are told apart."""

_ALIASES: Mapping[str, str] = {"nb": "no", "nn": "no", "iw": "he", "in": "id", "ms": "id", "fil": "tl", "bs": "hr"}

MAINLY = 0.75
"""Share of a text that its language must have for the text to count as one in this language."""


@dataclass(frozen=True, slots=True)
class Guess:
    """Guess(code="de", share=0.98)"""

    code: str
    """ISO 639-1, or "unknown"."""
    share: float
    """Of the text's words, those in a script that this language is written in; 0 where it is unknown."""

    @property
    def told(self) -> str:
        """For people."""
        return "language cannot be told" if self.code == UNKNOWN else f"looks like {self.code} ({self.share:.0%})"


def known_code(name: str) -> str | None:
    """The code as it is used here ("zh-CN" is zh, "nb" is no); None where the language is not known."""
    code = name.strip().lower().replace("_", "-").partition("-")[0]
    code = _ALIASES.get(code, code)
    return code if code in CODES else None


@kept(64, 1 << 14)
def detect(text: str) -> Guess:
    """The language of most of the text. Fenced code, formulas and addresses do not count."""
    text = prose(text)
    weights = script_weights(text)
    total = sum(weights.values())
    if not total:
        return Guess(UNKNOWN, 0.0)
    if weights.get("kana", 0.0) >= 0.1 * (weights.get("han", 0.0) + weights.get("kana", 0.0)) > 0:
        weights["kana"] += weights.pop("han", 0.0)
    script = max(sorted(weights), key=lambda name: weights[name])
    share = weights[script] / total
    if script in WORDS:
        code = _by_words(text, script)
    else:
        code = {"kana": "ja", "han": "zh"}.get(script) or ONE_LANGUAGE[script]
    return Guess(code, share if code != UNKNOWN else 0.0)


_FENCE = re.compile(r"```([^\n`]*)\n.*?(?:```|\Z)", re.DOTALL)
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+|(?<!\S)[^\s@]{1,64}@[^\s@]{1,255}(?!\S)")
_MATHS = re.compile(r"\$[^$\n]{1,300}\$|`[^`\n]{1,300}`|\\[A-Za-z]+|<[/|A-Za-z][^<>\n]{0,100}>")
_PROSE_TAGS = ("", "text", "txt", "plain", "plaintext", "markdown", "md")


def prose(text: str) -> str:
    """Without code that is fenced as such, formulas, tags and addresses."""
    if "```" in text:
        text = _FENCE.sub(lambda block: block[0] if block[1].strip().lower() in _PROSE_TAGS else "\n", text)
    return _MATHS.sub(" ", _ADDRESS.sub(" ", text))


_STARTS, _NAMES, _ENDS = zip(
    *sorted((low, name, high) for name, ranges in SCRIPTS.items() for low, high in ranges), strict=True
)


@lru_cache(maxsize=1 << 13)  # of a million letters that Unicode has
def _script(letter: str) -> str:
    """The script of a letter, "" of anything else."""
    at = bisect_right(_STARTS, ord(letter)) - 1
    return _NAMES[at] if at >= 0 and ord(letter) <= _ENDS[at] and letter not in "×÷" else ""


def letters_by_script(text: str) -> dict[str, int]:
    """How many letters of each script there are."""
    counts: dict[str, int] = {}
    for letter, count in Counter(text).items():
        if name := _script(letter):
            counts[name] = counts.get(name, 0) + count
    return counts


def script_weights(text: str) -> dict[str, float]:
    """Letters of each script, in words."""
    return {name: count / LETTERS_A_WORD.get(name, 5.0) for name, count in letters_by_script(text).items()}


def scripts_of(code: str) -> tuple[str, ...]:
    """The scripts that a language is written in."""
    if code in ("ja", "zh"):
        return ("kana", "han") if code == "ja" else ("han",)
    shared = [script for script, languages in WORDS.items() if code in languages]
    return tuple(shared or [script for script, only in ONE_LANGUAGE.items() if only == code])


# Among languages of one script: each word votes for the languages that know it, else for those that could spell it.

_LONGEST_WORD = 40
_MOST_WORDS = 400
_KNOWN, _SPELLED, _FOREIGN, _OWN = 1.0, 0.9, 1.2, 0.5
_LEAST = 0.9
"""Evidence that a guess among the many languages of the Latin script needs; other scripts leave few to tell apart."""


def _by_words(text: str, script: str) -> str:
    ranges = "".join(f"{chr(low)}-{chr(high)}" for low, high in SCRIPTS[script])
    apostrophe = "'" if script == "latin" else ""
    found = re.findall(rf"[{ranges}\u0300-\u036f{apostrophe}]+", text.replace("’", "'").lower())
    words = Counter(_tidy(word) for word in found)
    del words[""]
    scores = dict.fromkeys(WORDS[script], 0.0)
    for word, count in words.most_common(_MOST_WORDS):
        for code, vote in _votes(word, script).items():
            scores[code] += vote * (1 + math.log(count))
    best = max(sorted(scores), key=lambda code: scores[code])
    return best if scores[best] >= (_LEAST if script == "latin" else 0.3) else UNKNOWN


def _tidy(word: str) -> str:
    return unicodedata.normalize("NFC", word[:_LONGEST_WORD]).strip("'")


@lru_cache(maxsize=1 << 13)  # 2 KB each
def _votes(word: str, script: str) -> Mapping[str, float]:
    """What a word says for (or against) each language of the script; about 1 for a word that one alone knows."""
    profiles = WORDS[script]
    knowing = _knowing(script).get(word, ())
    votes = dict.fromkeys(profiles, 0.0)
    rarity = 1 - math.log(max(len(knowing), 1)) / math.log(len(profiles) + 1)
    for code in knowing:
        votes[code] += _KNOWN * (0.3 + 0.7 * rarity) * (0.3 if len(word) == 1 else 1.0)
    if len(word) == 1:
        return votes  # as likely the name of a variable
    for code, share in _spelled(word, script).items():
        votes[code] += _SPELLED * share
    beyond = set(word) - _base(script)
    for code, alphabet in LETTERS.get(script, {}).items():
        if beyond:
            votes[code] += _OWN if beyond <= set(alphabet) else -_FOREIGN
    return votes


@cache
def _base(script: str) -> frozenset[str]:
    """Letters that each language of the script has."""
    if script == "latin":
        return frozenset("abcdefghijklmnopqrstuvwxyz'")
    alphabets = [frozenset(alphabet) for alphabet in LETTERS.get(script, {}).values()]
    return frozenset.intersection(*alphabets) if alphabets else frozenset()


@cache
def _knowing(script: str) -> dict[str, tuple[str, ...]]:
    """Word -> the languages on whose list it is."""
    found: dict[str, tuple[str, ...]] = {}
    for code, words in WORDS[script].items():
        for word in sorted(set(words.split())):
            found[word] = (*found.get(word, ()), code)
    return found


@cache
def _trigrams(script: str) -> dict[str, dict[str, float]]:
    """Trigram -> language -> log of its frequency among those of the language's listed words, floor taken off."""
    counts = {
        code: Counter(gram for word in words.split() for gram in _grams(word)) for code, words in WORDS[script].items()
    }
    table: dict[str, dict[str, float]] = {}
    for code, grams in counts.items():
        total = sum(grams.values())
        for gram, count in grams.items():
            table.setdefault(gram, {})[code] = math.log(1 + 400 * count / total)
    return table


def _grams(word: str) -> list[str]:
    padded = f" {word} "
    return [padded[k : k + 3] for k in range(len(padded) - 2)]


def _spelled(word: str, script: str) -> dict[str, float]:
    """Language -> share in [0, 1] that its trigrams have in the word."""
    table = _trigrams(script)
    sums: dict[str, float] = {}
    grams = _grams(word)
    for gram in grams:
        for code, weight in table.get(gram, {}).items():
            sums[code] = sums.get(code, 0.0) + weight
    top = max(sums.values(), default=0.0)
    sure = min(1.0, top / len(grams)) if grams else 0.0
    return {code: sure * value / top for code, value in sums.items()} if top else {}
