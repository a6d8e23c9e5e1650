r"""Finds the answer that a response commits to: strict, anchored, linear in the length of the text.

A number somewhere in the text is not an answer. What counts, in this order: the last complete `\boxed{}` or `\fbox{}`,
`<answer>...</answer>`, `#### x`, "(the) (final) answer is x". Thinking and code blocks are never looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Found:
    """Found(answer="7/2", how="boxed")"""

    answer: str
    """Never blank. Several boxes side by side are one answer, joined by ", "."""
    how: str
    """boxed, boxed_list, answer_tag, gsm8k or answer_line."""


def extract(response: str) -> Found | None:
    """The answer and the rule that found it; None where the response commits to none."""
    text = _spoken(response)
    if text is None:
        return None
    boxes = _boxes(text)
    if boxes:
        values = [box.content for box in _last_run(text, boxes)]
        values = list(dict.fromkeys(values))  # the same value twice is one answer
        if not all(values):
            return None
        return Found(", ".join(values), "boxed" if len(values) == 1 else "boxed_list")
    for how, raw in (("answer_tag", _last_tag(text)), ("gsm8k", _last_hashes(text)), ("answer_line", _last_line(text))):
        if raw is not None:
            answer = _tidy(raw)
            return Found(answer, how) if answer else None
    return None


def last_boxed(response: str) -> str | None:
    r"""Content of the last complete, non-blank `\boxed{}` outside thinking and code; None where there is none."""
    text = _spoken(response)
    boxes = _boxes(text) if text is not None else []
    return (boxes[-1].content or None) if boxes else None


def all_boxed(response: str) -> list[str]:
    r"""Contents of all complete outermost `\boxed{}` outside thinking and code, in order; blank ones are ""."""
    text = _spoken(response)
    return [box.content for box in _boxes(text)] if text is not None else []


_FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


def _spoken(response: str) -> str | None:
    """What is said to the reader: after the last `</think>`, without code; None while still thinking."""
    text = response.rpartition("</think>")[2]
    if "<think>" in text:
        return None
    return _FENCE.sub(" ", text) if "```" in text else text


@dataclass(frozen=True, slots=True)
class _Box:
    start: int
    end: int
    content: str


# A backslash takes the next character with it, so that \{ and \} do not count.
_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def _boxes(text: str) -> list[_Box]:
    """Outermost complete boxes in order, boxes inside them unwrapped. One pass: hostile text costs its length."""
    if "box" not in text:
        return []
    opened: list[tuple[int, int, bool]] = []  # start, start of the content, is a box
    closed: list[tuple[int, int, int]] = []  # start, start of the content, position of the closing brace
    for token in _TOKEN.finditer(text):
        last = token.group()[-1]
        if last == "{" and token.group() != "\\{":
            opened.append((token.start(), token.end(), token.group() != "{"))
        elif token.group() == "}" and opened:
            start, inside, is_box = opened.pop()
            if is_box:
                closed.append((start, inside, token.start()))
    closed.sort()
    boxes: list[_Box] = []
    k = 0
    while k < len(closed):
        start, inside, brace = closed[k]
        wrappers: list[tuple[int, int]] = []  # pieces to leave out of the content
        k += 1
        while k < len(closed) and closed[k][0] < brace:
            wrappers += [(closed[k][0], closed[k][1]), (closed[k][2], closed[k][2] + 1)]
            k += 1
        pieces, at = [], inside
        for left, right in sorted(wrappers):
            pieces.append(text[at:left])
            at = right
        pieces.append(text[at:brace])
        boxes.append(_Box(start, brace + 1, _undollar("".join(pieces).strip())))
    return boxes


_GAP = re.compile(
    r"(?:[\s$,;&]|\\[()\[\],; ]|\\q?quad|\\(?:text|mathrm)\s?\{\s{0,3},?\s{0,3}(?:and|or)?\s{0,3}\}|and|or)*"
)
_LONGEST_GAP = 24


def _last_run(text: str, boxes: list[_Box]) -> list[_Box]:
    """The last box with those before it that only blanks, commas, "and" or "or" divide from it."""
    k = len(boxes) - 1
    while k > 0:
        left, right = boxes[k - 1].end, boxes[k].start
        # a sentence or paragraph that ends between two boxes starts another answer
        gap = text[left:right]
        if right - left > _LONGEST_GAP or "\n\n" in gap or not _GAP.fullmatch(gap):
            break
        k -= 1
    return boxes[k:]


def _last_tag(text: str) -> str | None:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    return text[start + len("<answer>") : end] if start >= 0 else None


_HASHES = re.compile(r"^####[ \t]{0,8}([-+$\\(\[{.\d][^\n]*)$", re.MULTILINE)


def _last_hashes(text: str) -> str | None:
    found = _HASHES.findall(text) if "####" in text else []  # a heading in words is not GSM8K's mark
    return found[-1] if found else None


# All repeats are bounded, so that no run of stars or spaces is walked from each of its characters.
_LINE = re.compile(
    r"(?:\b(?:the|final|correct|my|our)[ \t]{1,4}|(?:^|[^\w\s])[ \t]{0,4})\*{0,3}answer\*{0,3}[ \t]{0,4}"
    r"(?:is\b|:|=)[ \t]{0,4}:?\*{0,3}[ \t]{0,4}([^\n]*)",
    re.IGNORECASE | re.MULTILINE,
)


def _last_line(text: str) -> str | None:
    """The last line that states an answer. Such a line is read from its last statement on."""
    if "nswer" not in text and "NSWER" not in text:
        return None
    for line in reversed(text.split("\n")):
        rest, found = line, None
        while (match := _LINE.search(rest)) is not None:  # each round goes on behind the last, in what was captured
            found = rest = match.group(1)
            if len(found) > 2000:  # longer than any answer that is read: do not walk it again and again
                break
        if found is not None:
            return found
    return None


_MATHS = (
    re.compile(r"\$\$([^$]+)\$\$"),
    re.compile(r"\$([^$]+)\$"),
    re.compile(r"\\\((.+?)\\\)", re.DOTALL),
    re.compile(r"\\\[(.+?)\\\]", re.DOTALL),
)
_TAIL = re.compile(r"\. (?=[A-Z])|\n|<\||\. {0,2}I hope it is correct")


def _tidy(raw: str) -> str:
    """Without stars, dollar signs and what follows the sentence."""
    text = raw[:4000].strip().strip("*").strip()
    for maths in _MATHS:
        match = maths.search(text)
        # the first formula of a sentence is its answer, unless more of the answer stands around it
        if match and not re.search(r"\b(?:or|and)\b|\$|\\\(", text[match.end() :]):
            return match.group(1).strip()
    return _undollar(_TAIL.split(text, maxsplit=1)[0].strip().removesuffix(".").strip("*").strip())


def _undollar(text: str) -> str:
    inner = text[1:-1]
    if len(text) >= 2 and text[0] == text[-1] == "$" and "$" not in inner:
        return inner.strip()
    return "" if text == "$$" else text
