"""For evaluation alone: the answer of a sentence, or of a text that marks none. (answer, how) or None.

What the last formula or number is said to be counts too: "at least 7" names no 7, "2 and 3" are two values.
"""

from __future__ import annotations

import re

_FORMULA = re.compile(
    r"\$\$(?P<a>[^$]{1,2000})\$\$|\$(?P<b>[^$\n]{1,2000})\$|\\\((?P<c>(?:[^\\]|\\(?!\))){1,2000})\\\)"
    r"|\\\[(?P<d>(?:[^\\]|\\(?!\])){1,2000})\\\]"
)
_PERCENT = re.compile(r" {0,2}(?:\\?%|percent\b|pct\b)")
_NUMBER = re.compile(
    r"(?<![\w.])[-+\u2212]? ?[$\u20ac\u00a3]? ?(?:\d{1,3}(?:,\d{3})+|\d+|(?=\.\d))(?:\.\d+)?(?: ?/ ?\d+)?"
    r"(?: {0,2}(?:\\?%|percent\b|pct\b))?"
)
_REFUSES = re.compile(
    r"\b(?:can(?:no|')t|cannot|could not|couldn't|unable to|not able to|not sure|unsure|no idea|(?:do not|don't) know"
    r"|not know|give up|impossible to (?:say|tell|determine))\b",
    re.IGNORECASE,
)
_OFFERS = re.compile(
    r"\b(?:or|maybe|perhaps|either|possibly|reference|gold|truth|expected|between|at (?:least|most)|up to|no longer"
    r"|(?:less|more|greater|fewer|larger|smaller|bigger|higher|lower) than|above|below|over|under|exceeds?)\b"
    r"|\bnot {1,3}\Z|n't {1,3}\Z",
    re.IGNORECASE,
)
_STARTS = re.compile(r"[-+\u2212]?[$\u20ac\u00a3]?(?:[\d.(\[{]|\\[A-Za-z{])")
_NO_WHOLE = re.compile(r"[A-Za-z]{2,} [a-z]{2,} [a-z]{2,}|[=:]")
_SHORT = 80
_LAST = 4000
"""Characters of the end that are looked at."""
_CHOICE = re.compile(
    r"\b(?:[Oo]ption|[Cc]hoice)(?: is)?:? {0,2}\*{0,2}\(?([A-J])\)?(?![\w'])"
    r"(?! (?:is|was|seems|looks|must be) (?:not|wrong|incorrect|false|out)\b)|\(([A-J])\)\.?\Z"
    r"|\u7b54\u6848(?: ?[:\uff1a]|\u662f) ?([^\n]{1,80})"
)
_BARE_CHOICE = re.compile(r"\(?([A-J])\)?\.?")


def stated(line: str) -> tuple[str, str] | None:
    """The answer of what stands behind "the answer is"; None where the line is to be taken as it is."""
    said = _without_comment(line)
    if _is_bare(said):
        return (said, "answer_line") if said else None
    return in_prose(said) or ((said, "answer_line") if said != line else None)


def unanchored(text: str) -> tuple[str, str] | None:
    """The answer of a text that marks none: a short one as a whole, else its last choice, formula or number."""
    if "\\boxed{" in text:
        return None  # begun and not ended
    text = text[-_LAST:].strip()
    if _REFUSES.search(text[-400:]):
        return None
    whole = text.strip("* ").removesuffix(".")
    if choice := _BARE_CHOICE.fullmatch(whole):
        return choice.group(1), "whole"
    if 0 < len(whole) < _SHORT and "$" not in whole[1:-1] and _STARTS.match(whole) and not _NO_WHOLE.search(whole):
        return whole.strip("$").strip(), "whole"
    if (choice := _last(_CHOICE, text)) is not None and not _OFFERS.search(text[max(0, choice.start() - 40) :]):
        return next(group for group in choice.groups() if group).strip(" *.\u3002"), "whole"
    return in_prose(text)


def in_prose(text: str) -> tuple[str, str] | None:
    """The last formula or number of a text in words; None where it is no such text, or offers several."""
    if not re.search(r"[A-Za-z]{2,}[^\\]{0,40} |\$|\\[(\[]|= ", text):
        return None
    formula = _last(_FORMULA, text)
    rest = text[formula.end() :] if formula else text
    rest = re.sub(r"\\[A-Za-z]+(?:\{[^{}]*\})*", lambda m: " " * len(m.group()), rest)
    number = _last(_NUMBER, rest)
    if number is not None:
        if _OFFERS.search(rest[max(0, number.start() - 40) : number.start()]):
            return None
        numbers = _run(_NUMBER, rest, number)
        return ", ".join(re.sub("[$\u20ac\u00a3]", "", one.group()).strip() for one in numbers), "last_number"
    if formula is None or _OFFERS.search(text[max(0, formula.start() - 40) : formula.start()]):
        return None
    percent = _PERCENT.match(rest)
    values = [next(group for group in one.groups() if group is not None) for one in _run(_FORMULA, text, formula)]
    answer = ", ".join(value.strip() for value in values) + ("\\%" if percent else "")
    return (answer, "last_formula") if answer else None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    match = None
    for found in pattern.finditer(text):
        match = found
    return match


_BETWEEN = re.compile(r" {0,2}(?:, {0,2}(?:and )?|and |or ) {0,2}")


def _run(pattern: re.Pattern[str], text: str, last: re.Match[str]) -> list[re.Match[str]]:
    """The last match with those before it from which only commas or "and" divide it."""
    found = [match for match in pattern.finditer(text, 0, last.end()) if match.end() <= last.end()]
    k = len(found) - 1
    while k > 0 and _BETWEEN.fullmatch(text, found[k - 1].end(), found[k].start()):
        k -= 1
    return found[k:]


_COMMENT = re.compile(
    r"[,;]? {1,2}(?:because|since|which|where|as|and not|not|rather than|instead of|check)\b|, (?:it|not|because)\b|; "
    r"| \((?=[^()]{0,60}[a-z]{3})| \((?=[\d .+*/^=-]{3,40}\))"
)


def _without_comment(line: str) -> str:
    """Without the reason behind it: 8 (7 + 1), or 3, because 3 > 2."""
    comment = _COMMENT.search(line)
    if comment is None or "\\" in line[comment.start() : comment.end()]:
        return line
    return line[: comment.start()].strip() or line


_COMMAND = re.compile(r"\\[A-Za-z]+")


def _is_bare(said: str) -> bool:
    """Whether it is mathematics without words, but for those that join values."""
    if len(said) > 400:
        return False
    words = re.findall(r"[A-Za-z]{2,}", _COMMAND.sub(" ", said))
    return all(word.casefold() in ("and", "or") for word in words)
