"""Golds and answers that are words, or letters of a choice."""

from __future__ import annotations

import re

from rlvr.verifiers.answer_text import short
from rlvr.verifiers.math_gold import Gold, Opinion, equality, has_maths, is_words
from rlvr.verifiers.math_sets import read_set
from rlvr.verifiers.math_spelling import TEXT, bare_words
from rlvr.verifiers.math_text import commas_for_and, read_quantity
from rlvr.verifiers.math_units import split_unit

# --- choices


CHOICE_WITH_VALUE = re.compile(r"\(([A-J])\) ?(.+)")
_CHOSEN = re.compile(
    r"(?:(?:option|choice|answer|statement) )?\(?([A-J])\)?(?=[\s).:,]|\Z)(?!\s*,)(?!.*\b(?:or|and|[A-J])\b)",
    re.IGNORECASE,
)
_LETTERS = re.compile(r"[A-J]{2,6}")
_LETTER_LIST = re.compile(r"\(?[A-J]\)?(?: ?(?:,| and |, and ) ?\(?[A-J]\)?){1,5}")


_REFUSED = re.compile(
    r"(?!.{0,9}\b(?:is|was|must be|should be|would be|will be) (?:(?:definitely|clearly|indeed) )?"
    r"(?:(?:the )?(?:correct|right|true|best)|the (?:final )?(?:answer|one|solution|choice|option))\b)"
    r"[\s:.,)-]*(?:(?:is|was|isn.?t|wasn.?t|seems|looks|must|may|might|could|can|cannot|can.?t|should|would|will|does)\b"
    r"|(?:wrong|incorrect|rejected|excluded|not|\?)\W*\Z)"
    r"|.*(?:\([A-J]\)|\b(?:wrong|incorrect)\b)|\W*[A-J]\W*\Z"
)


def refuses(rest: str) -> bool:
    """Whether what stands behind the letter of a choice takes it back, or names another."""
    return _REFUSED.match(rest) is not None


def by_letters(gold: Gold, answer: str) -> Opinion | None:
    """Several choices: AC is A, C."""
    words = bare_words(answer)
    patterns = (_LETTER_LIST, _LETTERS) if "," in gold.words or " and " in gold.words else (_LETTERS, _LETTER_LIST)
    if not patterns[0].fullmatch(gold.words) or not patterns[1].fullmatch(words):
        return None
    ours, theirs = (sorted(re.findall("[A-J]", text)) for text in (gold.words, words))
    return equality(ours == theirs, "shape", gold.text, answer)


def chosen(words: str) -> str:
    """The letter that `words` choose; "" where they choose none, or several."""
    match = _CHOSEN.match(words)
    if match is None or not match.group(1).isupper() or refuses(words[match.end() :]):
        return ""
    return match.group(1)


# --- words


_ARTICLE = re.compile(r"\A(?:a|an|the) (?=[a-z]{2})", re.IGNORECASE)
_FORMULA_WORD = frozenset(
    "sin cos tan sec csc cot ln log exp sqrt mod max min gcd lcm det arg pi theta alpha beta abs floor ceil lim "
    "arcsin arccos arctan sinh cosh tanh and or if otherwise for all such that real reals numbers number integers "
    "where with except is in integer degrees degree st nd rd th".split()
)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_WORD_IN_TEXT = re.compile(r"[A-Za-z]{2,}")
_COMMAND = re.compile(r"\\(?:begin|end) ?\{[a-zA-Z]*\}|\\[a-zA-Z]+")
_NAMES = re.compile(r"(?<![A-Za-z])[A-Za-z]{1,4}(?![A-Za-z])")


def by_words(gold: Gold, answer: str) -> Opinion | None:
    """Words against words, and words in place of mathematics."""
    words = bare_words(answer)
    if gold.is_words and read_set(gold.text) is None:
        if "\\text" in gold.text or is_words(words) or read_quantity(answer) is not None:
            return Opinion("wrong", "shape", f"{short(answer)} is not {short(gold.words)}")
        return None
    if gold.choice and (valued := CHOICE_WITH_VALUE.fullmatch(words)):
        if refuses(valued.group(2)):
            return Opinion("hedged", "shape", f"{short(answer)} takes its choice back, or names another")
        return Opinion("correct" if valued.group(1) == gold.choice else "wrong", "shape", f"chose {valued.group(1)}")
    if (valued := CHOICE_WITH_VALUE.fullmatch(gold.words)) and (choice := chosen(words)):
        return Opinion("correct" if choice == valued.group(1) else "wrong", "shape", f"chose {choice}")
    if _speaks(answer, gold.text) and not _speaks(gold.text, "") and read_set(answer) is None:
        return Opinion("wrong", "shape", "words, the gold is mathematics")
    return None


def same_words(gold: str, answer: str) -> bool:
    """But for case, articles and hyphens; of a list of words also in another order."""
    if gold == answer:
        return True
    left, right = gold.casefold().strip("\"' "), answer.casefold().strip("\"' ")
    if not re.search(r"[^\W\d_]{2}", left):
        return False
    if left == right:
        return True
    if has_maths(gold):
        return False
    if not is_words(answer):
        return _LISTED.search(left) is not None and _listed(left) == _listed(right)
    left, right = _ARTICLE.sub("", left).replace("-", " "), _ARTICLE.sub("", right).replace("-", " ")
    return left == right or (_LISTED.search(left) is not None and _listed(left) == _listed(right))


_LISTED = re.compile(r" ?,(?: and)? | and ")


def _listed(words: str) -> list[str]:
    return sorted(_LISTED.split(words))


def _speaks(text: str, gold: str) -> bool:
    """Whether words stand in it that are neither a unit nor part of a formula; abc is a product in the gold's names."""
    text = commas_for_and(text)
    body = split_unit(text)[0]
    if len(body) == len(text) and not re.search(r"[A-Za-z]{3}", text):
        return text.strip() in ("?", "-", "")
    if "\\text" in body:
        told = [word for part in TEXT.findall(body) for word in _WORD_IN_TEXT.findall(part)]
        if any(word.casefold() not in _FORMULA_WORD and not word.isupper() for word in told):
            return True
    plain = bare_words(_COMMAND.sub(_kept_text, body))
    found = [word for word in _WORD.findall(plain) if word.casefold() not in _FORMULA_WORD]
    if not found:
        return False
    names = set("".join(_NAMES.findall(_COMMAND.sub(" ", gold))))
    return any(not (word.isupper() and len(word) <= 5) and not names.issuperset(word) for word in found)


def says_other(gold: str, answer: str) -> bool:
    """Whether the gold has words with its mathematics, and the answer has others."""
    return _speaks(gold, "") and _all_words(gold) != _all_words(answer)


def _all_words(text: str) -> list[str]:
    return sorted(word.casefold() for part in TEXT.findall(text) for word in _WORD_IN_TEXT.findall(part))


def _kept_text(match: re.Match[str]) -> str:
    return match.group() if match.group() == "\\text" else " "
