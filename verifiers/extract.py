r"""Finds the answer that a response commits to, in time that grows with the text and no faster.

Strict, for training: a number somewhere in the text is not an answer. What counts, in this order: the last complete
`\boxed{}` or `\fbox{}` (unless "the final answer is" stands behind it), `<answer>...</answer>`, `#### x`, "(the)
(final) answer is x". Lenient, for evaluation alone: failing these, a short response as a whole, the last formula or
number (extract_prose.py). Thinking, code blocks and turns that the model invented for others are never looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rlvr.verifiers.answer_text import after_thinking
from rlvr.verifiers.extract_prose import stated, unanchored


@dataclass(frozen=True, slots=True)
class Found:
    """Found(answer="7/2", how="boxed")"""

    answer: str
    """Never blank. Several boxes side by side are one answer, joined by ", "."""
    how: str
    """boxed, boxed_list, answer_tag, gsm8k or answer_line; if lenient also whole, last_formula or last_number."""


def extract(response: str, lenient: bool = False) -> Found | None:
    """The answer and the rule that found it; None where the response commits to none."""
    text = _spoken(response)
    if text is None:
        return None
    boxes = _last_run(text)
    if boxes:
        if (final := _final_line(text, boxes[-1].end)) is not None:
            return Found(final, "answer_line")
        if (tagged := last_tag(text, boxes[-1].end)) is not None and (answer := _tidy(tagged)):
            return Found(answer, "answer_tag")
        values = list(dict.fromkeys(box.content for box in boxes))  # the same value twice is one answer
        if not all(values):
            return None
        return Found(", ".join(values), "boxed" if len(values) == 1 else "boxed_list")
    if (short := _last_short_box(text)) is not None:
        return Found(short, "boxed")
    for how, raw in (("answer_tag", last_tag(text)), ("gsm8k", _last_hashes(text)), ("answer_line", _last_line(text))):
        if raw is not None:
            answer = _tidy(raw)
            if lenient and how == "answer_line" and (found := stated(answer or raw[:_LONGEST])) is not None:
                return Found(*found)
            if answer or not lenient:
                return Found(answer, how) if answer else None
    found = unanchored(text) if lenient else None
    return Found(*found) if found else None


def last_boxed(response: str) -> str | None:
    r"""Content of the last complete, non-blank `\boxed{}` outside thinking and code; None where there is none."""
    text = _spoken(response)
    boxes = _last_run(text) if text is not None else []
    return (boxes[-1].content or None) if boxes else None


def all_boxed(response: str) -> list[str]:
    r"""Contents of all complete outermost `\boxed{}` outside thinking and code, in order; blank ones are ""."""
    text = _spoken(response)
    return [box.content for box in _boxes(text)] if text is not None else []


_FENCE = re.compile(r"```.*?(?:```|\Z)|^~~~.*?(?:^~~~|\Z)", re.DOTALL | re.MULTILINE)
_TURN = re.compile(r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id|end_of_text|user)\|>")


def _spoken(response: str) -> str | None:
    """What is said to the reader, without code and without turns of others; None while still thinking."""
    text = after_thinking(response) if "think" in response else response
    if text is None:
        return None
    if "```" in text or "~~~" in text:
        text = _FENCE.sub(" ", text)
    if "<|" in text:
        for turn in _TURN.finditer(text):
            if not text[: turn.start()].isspace() and turn.start() > 0:
                return text[: turn.start()]
    return text


@dataclass(frozen=True, slots=True)
class _Box:
    start: int
    end: int
    content: str


# A backslash takes the next character with it, so that \{ and \} do not count.
_OPEN = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{")
_NAMES = ("\\boxed", "\\fbox")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_TOKEN = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{|\\.|[{}]", re.DOTALL)


def _boxes(text: str, begin: int = 0) -> list[_Box]:
    """Outermost complete boxes in order, boxes inside them unwrapped; those that begin at `begin` or behind it."""
    if "box" not in text:
        return []
    boxes: list[_Box] = []
    closings: dict[int, int] | None = None
    end = 0
    for match in _OPEN.finditer(text, begin):
        start, inside = match.span()
        if start < end:
            continue
        brace = _closing(text, inside) if closings is None else closings.get(inside, -1)
        if brace < 0:
            if closings is None:  # each further unclosed one would be another walk to the end
                closings = _closings(text, inside)
            continue
        end = brace + 1
        content = text[inside:brace]
        if "box" in content:
            content = _unwrapped(content)
        boxes.append(_Box(start, end, _undollar(content.strip())))
    return boxes


def _closing(text: str, inside: int) -> int:
    """Where the brace that is open at this place is closed; -1 where it is not."""
    close = text.find("}", inside)
    if close < 0:
        return -1
    if text.find("{", inside, close) < 0 and text.find("\\", inside, close) < 0:
        return close
    depth = 1
    for token in _BRACE.finditer(text, inside):
        mark = token.group()
        if mark == "{":
            depth += 1
        elif mark == "}":
            depth -= 1
            if not depth:
                return token.start()
    return -1


def _closings(text: str, inside: int) -> dict[int, int]:
    """The same for every brace that is opened from here on, in one walk."""
    opened, closings = [inside], {}
    for token in _BRACE.finditer(text, inside):
        mark = token.group()
        if mark == "{":
            opened.append(token.end())
        elif mark == "}" and opened:
            closings[opened.pop()] = token.start()
    return closings


def _unwrapped(content: str) -> str:
    """Without the opening and the brace of boxes within."""
    pieces: list[str] = []
    opened: list[bool] = []
    at = 0
    for token in _TOKEN.finditer(content):
        mark = token.group()
        if mark == "}":
            if opened and opened.pop():
                pieces.append(content[at : token.start()])
                at = token.end()
        elif mark[-1] == "{" and mark != "\\{":
            opened.append(len(mark) > 1)
            if len(mark) > 1:
                pieces.append(content[at : token.start()])
                at = token.end()
    return "".join([*pieces, content[at:]])


_GAP = re.compile(
    r"(?:[\s$,;&]|\\[()\[\],; ]|\\q?quad|\\(?:text|mathrm)\s?\{\s{0,3},?\s{0,3}(?:and|or)?\s{0,3}\}"
    r"|and|or|(?<![A-Za-z])[A-Za-z](?:_\{?\w{1,3}\}?)?\s?=)*"
)
_LONGEST_GAP = 24
_MOST_IN_RUN = 1000
"""Boxes side by side that are read: with as many values, an answer is longer than any that is looked at."""
_WINDOW = 1 << 12
"""Characters before the last box in which its neighbours are looked for; then eight times as many, and so on."""


def _last_run(text: str) -> list[_Box]:
    """The last outermost box with those before it that only blanks, commas, "and" or "or" divide from it.

    Looked for from the end, as if the text began at the opening of a box: true where no brace that is closed behind
    that place was opened before it, for then no box of before encloses what is found.
    """
    if (last := _last_opening(text, len(text))) < 0:
        return []
    window = _WINDOW
    while True:
        begin = _first_opening(text, max(0, last - window))
        is_all = _last_opening(text, begin) < 0
        if not is_all and _closes_more(text, begin):
            begin, is_all = 0, True
        boxes = _boxes(text, begin)
        start = _start_of_run(text, boxes)
        if is_all or start > 0 or len(boxes) >= _MOST_IN_RUN:
            return boxes[max(start, len(boxes) - _MOST_IN_RUN) :]
        window *= 8


def _first_opening(text: str, start: int) -> int:
    r"""Where the first \boxed or \fbox at or behind `start` begins; there is one."""
    return min(place for name in _NAMES if (place := text.find(name, start)) >= 0)


def _last_opening(text: str, end: int) -> int:
    r"""Where the last \boxed or \fbox that begins before `end` begins; -1 where there is none."""
    return max(text.rfind(name, 0, end + len(name) - 1) for name in _NAMES)


def _closes_more(text: str, begin: int) -> bool:
    """Whether a brace is closed from here on that was not opened from here on."""
    depth = 0
    for token in _BRACE.finditer(text, begin):
        mark = token.group()
        if mark == "{":
            depth += 1
        elif mark == "}":
            depth -= 1
            if depth < 0:
                return True
    return False


def _start_of_run(text: str, boxes: list[_Box]) -> int:
    """Which of the boxes is the first of the last run."""
    k = len(boxes) - 1
    while k > 0:
        left, right = boxes[k - 1].end, boxes[k].start
        # a sentence or paragraph that ends between two boxes starts another answer
        if right - left > _LONGEST_GAP:
            break
        gap = text[left:right]
        if "\n\n" in gap or not _GAP.fullmatch(gap):
            break
        k -= 1
    return k


_SHORT_BOX = re.compile(r"\\(?:boxed|fbox) ?([0-9A-Za-z])(?!\w|[.,]\d|[\^{(=+*/\\-])")


def _last_short_box(text: str) -> str | None:
    r"""The 4 of `\boxed4`, which TeX reads as \boxed{4}."""
    found = _SHORT_BOX.findall(text) if "\\boxed" in text or "\\fbox" in text else []
    return found[-1] if found else None


def last_tag(text: str, begin: int = 0) -> str | None:
    """What stands in the last `<answer>...</answer>` that begins at `begin` or behind it; None where there is none."""
    end = text.rfind("</answer>", begin)
    start = text.rfind("<answer>", begin, end) if end >= 0 else -1
    return text[start + len("<answer>") : end] if start >= 0 else None


_HASHES = re.compile(r"^####[ \t]{0,8}([-+$\\(\[{.\d\u2212][^\n]*)$", re.MULTILINE)


def _last_hashes(text: str) -> str | None:
    found = _HASHES.findall(text) if "####" in text else []  # a heading in words is not GSM8K's mark
    return found[-1] if found else None


# All repeats are bounded, so that no run of stars or spaces is walked from each of its characters.
_LINE = re.compile(
    r"(?:\b(?:the|final|correct|my|our|so|therefore|thus|hence),?[ \t]{1,4}|(?:^|[^\w\s])[ \t]{0,4})"
    r"\*{0,3}answer\*{0,3}[ \t]{0,4}(?:is\b|:|=)[ \t]{0,4}:?\*{0,3}[ \t]{0,4}([^\n]*)",
    re.IGNORECASE | re.MULTILINE,
)
_HEADINGS = ("answer", "final answer", "the answer", "the final answer")
_FINAL = re.compile(r"\bfinal answer is:?[ \t]{0,4}((?=[-+$\\(\[{*.\d])[^\n]*)", re.IGNORECASE)


def _last_line(text: str) -> str | None:
    """The last line that states an answer. Such a line is read from its last statement on."""
    end = len(text)
    while True:
        at = max(text.rfind("nswer", 0, end), text.rfind("NSWER", 0, end))
        if at < 0:
            return None
        start = text.rfind("\n", 0, at) + 1
        stop = text.find("\n", at)
        rest, found = text[start : stop if stop >= 0 else len(text)], None
        if rest.strip("#*_: \t").casefold() in _HEADINGS:
            found = ""
        while (match := _LINE.search(rest)) is not None:  # each round goes on behind the last, in what was captured
            found = rest = match.group(1)
            if len(found) > 2000:  # longer than any answer that is read: do not walk it again and again
                break
        if found is not None:
            # a heading has its answer below
            return found if found.strip("* \t") or stop < 0 else text[stop : stop + 4000].lstrip().partition("\n")[0]
        end = start


def _final_line(text: str, start: int) -> str | None:
    """What "the final answer is" names behind the last box, which was then a step on the way."""
    if text.find("final answer is", start) < 0 and text.find("Final answer is", start) < 0:
        return None
    found = _FINAL.findall(text, start)
    return (_tidy(found[-1]) or None) if found else None


_MATHS = (
    re.compile(r"\$\$([^$]+)\$\$"),
    re.compile(r"\$([^$]+)\$"),
    re.compile(r"\\\((.+?)\\\)", re.DOTALL),
    re.compile(r"\\\[(.+?)\\\]", re.DOTALL),
)
_TAIL = re.compile(r"\. (?=[A-Z])|\n|<\||\. {0,2}I hope it is correct")
_SENTENCE = re.compile(r"(?:[A-Za-z][a-z]*|\$[^$]{1,20}\$) +[^\n]{0,400} (?:is|are|equals) +(?=[-+\d$\\(\[{.*])")


_LOUD = re.compile(r"(?<!\S)\*\*(?=\S)|(?<=\S)\*\*(?=[\s.,;:]|\Z)")
_LONGEST = 4000
"""Characters of a line or tag that are looked at."""


def _tidy(raw: str) -> str:
    """Without stars, dollar signs and what follows the sentence."""
    text = _LOUD.sub("", raw[:_LONGEST].strip().strip("*")).strip()
    if text.startswith("..."):
        text = text.lstrip(". ")
    if sentence := _SENTENCE.match(text):  # the largest $n$ is 34
        text = text[sentence.end() :].strip("* ")
    for maths in _MATHS:
        match = maths.search(text)
        # the first formula of a sentence is its answer, unless more of the answer stands around it
        if match and not re.search(r"\b(?:or|and)\b|\$|\\\(", text[match.end() :]):
            percent = re.match(r" {0,2}(?:\\?%|percent\b)", text[match.end() :])
            return match.group(1).strip() + ("\\%" if percent else "")
    text = _TAIL.split(text, maxsplit=1)[0].strip()
    return _undollar(text.removesuffix(".").strip("*").strip())


def _undollar(text: str) -> str:
    if len(text) < 2 or text[0] != "$" or text[-1] != "$":
        return text
    inner = text.strip("$") if text.startswith("$$") and text.endswith("$$") else text[1:-1]
    return text if "$" in inner else inner.strip()
