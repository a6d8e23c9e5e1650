"""Words, sentences and paragraphs as the constraints of ifeval count them: own rules, no data, linear in the text.

A word is a run of letters with their marks, digits and underscores; each Chinese or Japanese character is a word. A
sentence ends at . ! ? or their like in other scripts, and has a letter. Paragraphs are divided by blank
lines, or by *** where a constraint says so.
"""

from __future__ import annotations

import re

from rlvr.verifiers.answer_text import after_thinking
from rlvr.verifiers.text_cache import kept

EACH = "\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
"""Characters that are a word each: Han and kana."""
_MARKS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u0610-\u061a\u064b-\u065f\u0670"
    "\u0900-\u0963\u0966-\u0dff\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0f71-\u0f84\u1000-\u1049\u1780-\u17d3\u200c\u200d"
)
"""Vowel signs and the like, which \\w does not take as part of a word."""
_IN_WORD = rf"[\w{_MARKS}]"
_WORD = re.compile(rf"[{EACH}]|(?:(?![{EACH}]){_IN_WORD})+")
_JOINED = re.compile(rf"[{EACH}]|{_IN_WORD}+(?:[-'’./&@]{_IN_WORD}+)*")

_CLOSERS = "\"'”’»)\\]}*_`"
_END = re.compile(
    # a run of marks is looked at once, from its first
    rf"(?<![.!?…])[.!?…]++[{_CLOSERS}]*+(?=\s|\Z)|[。！？｡．]++[”’」』）\"')]*+|[।॥؟۔]++[{_CLOSERS}]*+"
)
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st sr jr capt lt col gen gov sen rep rev hon vs etc inc ltd co corp bros approx dept est fig no "
    "vol pp ed eds al cf ca e.g i.e a.m p.m ph.d u.s u.k u.n d.c".split()
)
_ENDING_ABBREVIATIONS = frozenset("etc inc ltd co corp jr sr al a.m p.m ph.d u.s u.k u.n d.c".split())
"""Those behind which a sentence often ends: it does where a capital follows."""
_LAST_TOKEN = re.compile(r"[^\s(\[\"'“‘*_]*\Z")
_LONGEST_TOKEN = 24
_LETTER = re.compile(r"[^\W\d_]")
_MOST_KEPT, _LONGEST_KEPT = 4, 1 << 14
"""Texts, and their characters: several constraints ask for the same words, each an object of 50 to 100 bytes."""


def said(response: str) -> str | None:
    """What is said to the reader: after the last `</think>`, without an `<answer>` around it; None while thinking."""
    text = after_thinking(response)
    if text is None:
        return None
    stripped = text.strip()
    if stripped.startswith("<answer>") and stripped.endswith("</answer>"):
        return stripped.removeprefix("<answer>").removesuffix("</answer>")
    return text


@kept(_MOST_KEPT, _LONGEST_KEPT)
def words(text: str) -> tuple[str, ...]:
    """The words in order; "don't" is two, as IFEval counts them."""
    return tuple(_WORD.findall(text))


@kept(_MOST_KEPT, _LONGEST_KEPT)
def joined_words(text: str) -> tuple[str, ...]:
    """The words in order, where a hyphen, apostrophe or dot inside joins them: "well-known", "don't", "U.S"."""
    return tuple(_JOINED.findall(text))


@kept(_MOST_KEPT, _LONGEST_KEPT)
def sentences(text: str) -> tuple[str, ...]:
    """The sentences in order, stripped. A line break ends none; words behind the last mark are one more."""
    found, start = [], 0
    for match in _END.finditer(text):
        if not _ends_here(text, start, match):
            continue
        found.append(text[start : match.end()].strip())
        start = match.end()
    found.append(text[start:].strip())
    spoken = tuple(piece for piece in found if _LETTER.search(piece))
    return spoken or ((text.strip(),) if has_word(text) else ())


def _ends_here(text: str, start: int, match: re.Match[str]) -> bool:
    mark = match.group()
    following = text[match.end() : match.end() + 40].lstrip()[:1]
    if mark.startswith(("..", "…")):
        return not following.islower()
    if mark != ".":
        return True
    before = text[max(start, match.start() - _LONGEST_TOKEN) : match.start()]
    last = _LAST_TOKEN.search(before)
    token = last.group().casefold() if last else ""
    length = match.start() - start
    if length <= _LONGEST_TOKEN and not text[start : match.start()].strip("*_ \t\n").strip("0123456789"):
        return False  # "1." before an item of a list
    if token in _ABBREVIATIONS:
        return token in _ENDING_ABBREVIATIONS and (not following or following.isupper())
    is_initial = len(token) == 1 and token.isalpha() and token != "i" and text[match.start() - 1].isupper()
    return not (is_initial and following.isupper())


def has_word(text: str) -> bool:
    """Whether there is a letter or digit in it."""
    return _WORD.search(text.replace("_", " ")) is not None


_BLANK_LINES = re.compile(r"\n[^\S\n]*+\n\s*+")
_STARS = re.compile(r"\s?\*\*\*\s?")
_STARS_OR_SPACED = re.compile(r"\s?\*(?:\*\*| \* ?\*)\s?")


def paragraphs(text: str) -> list[str]:
    """What blank lines divide, stripped; empty ones do not count."""
    return [piece.strip() for piece in _BLANK_LINES.split(text) if piece.strip()]


def divided(text: str, *, spaced: bool = False) -> list[str] | None:
    """What *** divides, stripped (spaced: also * * *); None where an inner piece is empty."""
    pieces = [piece.strip() for piece in (_STARS_OR_SPACED if spaced else _STARS).split(text)]
    if not all(pieces[1:-1]):
        return None
    return [piece for piece in pieces if piece]


_UNSEEN = re.compile(
    "[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Controls, joiners, marks of direction and variation, and letters that are blank: fillers of Hangul, empty Braille."""
_SPACELESS = re.compile(rf"[{EACH}\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff]")
_WORD_CHARACTER = re.compile(_IN_WORD)


def visible(text: str) -> str:
    """Without characters that cannot be seen, so that they hide nothing."""
    return _UNSEEN.sub("", text)


def count_of(text: str, word: str, *, whole: bool) -> int:
    """How often the word or phrase stands in the text, without overlap, ignoring case.

    whole: not as a part of a longer word; scripts without blanks have no whole words.
    """
    text, word = visible(text).lower(), visible(word).lower()
    return len(whole_spans(text, word)) if whole else text.count(word)


def whole_spans(text: str, word: str) -> list[tuple[int, int]]:
    """Where the word stands, as it is written, and not as a part of a longer one."""
    spans = []
    at = text.find(word)
    while at >= 0:
        end = at + len(word)
        is_whole = _is_edge(text, at) and _is_edge(text, end)
        if is_whole:
            spans.append((at, end))
        at = text.find(word, end if is_whole else at + 1)
    return spans


def _is_edge(text: str, at: int) -> bool:
    """Whether no word goes on across this place."""
    if at == 0 or at == len(text):
        return True
    left, right = text[at - 1], text[at]
    if _SPACELESS.match(left) or _SPACELESS.match(right):
        return True
    return not (_WORD_CHARACTER.match(left) and _WORD_CHARACTER.match(right))


_EDGES = "\"'“”‘’«»()[]{}<>*_.,;:!?…。！？、，`#-–—~।؟۔،"


def bare(token: str) -> str:
    """Without the punctuation around it, in lower case."""
    return token.strip(_EDGES).lower()
