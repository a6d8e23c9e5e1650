"""choice: the answer is the letter of an option, or its text; several letters are a hedge.

Gold: a letter ("C", "(C)"), an index (0 is A), or an option's text; several of them where several options are right
("AC", ["A", "C"], [0, 2]). The options stand in a column of the row: a list, {"A": text, ...}, or ARC's
{"label": [...], "text": [...]}. Without them letters alone are read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from rlvr.plugins import verifier
from rlvr.types import Outcome, Task, Verdict
from rlvr.verifiers.answer_text import WRAPPED, after_thinking, short
from rlvr.verifiers.extract import Found, extract
from rlvr.verifiers.ifeval_text import said

_LONGEST = 2000
"""Characters of an answer that is read."""
_LONGEST_WHOLE = 200
"""Characters of a response without an anchor that may be the answer itself."""


@verifier("choice")
def choice(response: str, gold: Any, task: Task, *, column: str = "choices", multiple: bool = False) -> Verdict:
    """1 where the answer names the gold's option, by letter or text, and no other.

    A response that is nothing but a letter or an option's text needs no anchor. multiple: the answer is a set of
    options, right where it is the gold's; a gold of several options says so by itself.
    """
    try:
        options = _options(task.info.get(column))
        want = _gold(gold, options)
    except ValueError as error:
        return Verdict(score=None, outcome="gold_invalid", reason=str(error))
    found = extract(response)
    whole = said(response) if found is None else None
    if found is not None:
        answer, how = found.answer, found.how
    elif whole and len(whole.strip()) <= _LONGEST_WHOLE and _named(whole, options):
        answer, how = whole.strip(), "whole"
    else:
        return Verdict(score=0.0, outcome="no_answer", reason="the response commits to no answer")
    is_set = multiple or len(want) > 1
    outcome, reason = _judge(want, answer, options, is_set)
    if outcome == "correct" and not is_set and (other := _offered_behind(response, found, want, options)):
        outcome, reason = "hedged", f"behind the answer {short(answer)} the response offers {other} too"
    score = float(outcome == "correct")
    return Verdict(score=score, outcome=outcome, reason=reason, answer=answer, how=how, stage="choice")


@dataclass(frozen=True, slots=True)
class _Options:
    labels: tuple[str, ...]
    """In upper case."""
    texts: tuple[str, ...]
    """As compared, one for each label; none where the row has no options."""

    def with_text(self, text: str) -> frozenset[str]:
        """Labels of the options with that text."""
        plain = _plain(text)
        return frozenset(label for label, own in zip(self.labels, self.texts, strict=False) if plain and own == plain)


def _options(value: Any) -> _Options:
    """ValueError where the column holds something else than options."""
    if value is None:
        return _Options(tuple(ascii_uppercase), ())
    if isinstance(value, Mapping) and set(value) == {"label", "text"}:
        labels, texts = value["label"], value["text"]
    elif isinstance(value, Mapping):
        labels, texts = list(value), list(value.values())
    else:
        labels, texts = list(ascii_uppercase), value
    if not isinstance(texts, Sequence) or isinstance(texts, str) or not isinstance(labels, Sequence):
        raise ValueError(f"the options must be a list or a mapping of letters to texts, got {type(value).__name__}")
    if isinstance(value, Sequence):
        labels = labels[: len(texts)]
    plain = tuple(_plain(_text(text)) for text in texts)
    names = tuple(_text(label).strip().upper() for label in labels)
    if len(names) != len(plain) or len(set(names)) != len(names) or len(plain) < 2:
        raise ValueError(f"{len(plain)} options with {len(set(names))} different labels; 2 to 26 of both are wanted")
    return _Options(names, plain)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"an option must be text or a number, got {type(value).__name__}")
    return str(value)


def _gold(gold: Any, options: _Options) -> frozenset[str]:
    """The labels that are right. ValueError where it names none, or it is not clear which."""
    if isinstance(gold, Sequence) and not isinstance(gold, str):
        if not gold:
            raise ValueError("the gold names no option")
        return frozenset().union(*(_gold(one, options) for one in gold))
    if isinstance(gold, bool) or not isinstance(gold, str | int):
        raise ValueError(f"the gold must be a letter, an index or an option's text, got {type(gold).__name__}")
    by_text = options.with_text(str(gold))
    if isinstance(gold, int):
        if not 0 <= gold < len(options.labels):
            raise ValueError(f"the gold {gold} is no index of {len(options.labels)} options (0 is the first)")
        by_label = frozenset((options.labels[gold],))
        what = "an index"
    else:
        by_label = _letters(gold, options)
        what = "a letter"
    if by_text and by_label and by_label != by_text:
        raise ValueError(f"the gold {gold!r} is {what} and the text of another option; give a letter")
    if by_label or by_text:
        return by_label or by_text
    if isinstance(gold, str) and gold.strip().isdecimal() and int(gold[:4]) < len(options.labels):
        return frozenset((options.labels[int(gold[:4])],))
    raise ValueError(f"the gold {short(str(gold))} is no option's letter or text")


def gold_problem(verifier_name: str, task: Task, options: Mapping[str, Any] | None = None) -> str:
    """Why the gold names no option; "" where it does."""
    column = (options or {}).get("column", choice.__kwdefaults__["column"])
    try:
        _gold(task.gold, _options(task.info.get(column)))
    except ValueError as error:
        return str(error)
    return ""


def _judge(want: frozenset[str], answer: str, options: _Options, multiple: bool) -> tuple[Outcome, str]:
    if len(answer) > _LONGEST:
        return "too_complex", f"the answer is longer than {_LONGEST} characters"
    named = _named(answer, options)
    if named is None:
        return "malformed", f"{short(answer)} names no option"
    chose = f"chose {', '.join(sorted(named))}, the gold is {', '.join(sorted(want))}"
    if multiple:
        if len(named) > 1 and re.search(r"\b(?:or|maybe|either)\b", answer, re.IGNORECASE):
            return "hedged", f"{short(answer)} leaves open which options it names"
        return ("correct" if named == want else "wrong"), chose
    if not named:
        return "hedged", f"{short(answer)} leaves open which option it names"
    if len(named) > 1 and named != options.with_text(answer):
        return "hedged", f"{short(answer)} names several options, the gold is one"
    # options of the same text are the same answer
    return ("correct" if named & want else "wrong"), chose


_LEAD = re.compile(
    r"\A(?:the\s|correct\s|options?\s|choices?\s|answers?\s(?:is\s|are\s)?|answer:\s?){1,4}", re.IGNORECASE
)
_BETWEEN = re.compile(r"\s{0,4}(?:[,;/&|]|\b(?:and|or)\b)\s{0,4}|\s{1,4}", re.IGNORECASE)
_MARKED = re.compile(
    r"[(\[]?([A-Z]|[a-z](?=[)\].])|\d{1,2})(?:[)\].:]{1,3}\s{0,4}|\s{0,4}[-–]\s{1,4}|\s{1,4})(\S.*)", re.DOTALL
)
_FURTHER = re.compile(
    r"(?:\b(?:or|and|nor|maybe|either)\b|[,;/|&])\s{0,3}(?:option\s|choice\s)?[(\[]?([A-Z])(?![\w']|(?<=I)\s[a-z])"
)
_OPEN = re.compile(r"\A[,;/|]\s?+(?!because|since|as\b|which)|\b(?:or|maybe|perhaps|possibly)\b", re.IGNORECASE)


def _named(answer: str, options: _Options) -> frozenset[str] | None:
    """Labels that an answer names; None where it names none, empty where it names one and leaves others open."""
    text = WRAPPED.sub(r"\1", answer).strip().strip("*$` \n").strip()
    lead = _LEAD.match(text)
    rest = text[lead.end() :].strip() if lead else text
    found = options.with_text(answer) or options.with_text(text) or options.with_text(rest) or _letters(rest, options)
    if found:
        return found
    marked = _MARKED.match(rest)
    if marked is None or marked.group(1).upper() not in options.labels:
        return None
    label, told = marked.group(1).upper(), marked.group(2)
    others = options.with_text(told)
    if others:
        return others if label in others else others | {label}  # (B) with the text of C
    if _OPEN.search(told):
        return frozenset()
    further = frozenset(_FURTHER.findall(told)) & frozenset(options.labels)
    further |= _listed(told, label, options) | (_letters(told, options) if len(told) < 3 else frozenset())
    is_word = rest.startswith((f"{label} ", f"{label}\n")) and label in "AI"
    if is_word and not further:
        return None  # "A dog" begins with a word, not a letter
    return further | {label}


_INSIDE = re.compile(
    r"(?<![\w'’])[(\[]([A-Za-z]|\d)[)\]]|(?<![\w'’(\[.])(?:([A-Za-z]|\d{1,2})\)(?=\s|\Z)|([A-Z]|\d{1,2})[.:](?=\s+\S))"
)


def _listed(told: str, label: str, options: _Options) -> frozenset[str]:
    """Labels of other options that stand marked in what follows a label: "(B)", "b) London", "B. London"."""
    found = set()
    for match in _INSIDE.finditer(told):
        bracketed, closed, pointed = match.groups()
        other = (bracketed or closed or pointed).upper()
        if closed and told.count("(", 0, match.start()) > told.count(")", 0, match.start()):
            continue  # the end of "(see plan B)"
        if pointed and other not in _neighbours(label, options):
            continue  # George W. Bush
        found.add(other)
    return frozenset(found - {label}) & frozenset(options.labels)


def _neighbours(label: str, options: _Options) -> tuple[str, ...]:
    at = options.labels.index(label)
    return options.labels[max(at - 1, 0) : at] + options.labels[at + 1 : at + 2]


_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
_ALSO = re.compile(
    r"[\s$.,;:*)\]}!-]{0,12}(?:(?i:or|and|nor|alternatively|otherwise)\b|[/|&])\W{0,4}"
    r"(?i:(?:maybe|perhaps|possibly|also|even|option|choice|it|is|could|be|answer)\b\W{0,4}){0,6}"
    r"([A-Z])(?![\w']|(?<=[AI])\s[a-z])"
)
_NEXT = re.compile(r"[ .,;]{1,4}[(\[]?([A-Z]|\d)[)\].:]{1,2}[ ]")
_LONGEST_TAIL = 200
"""Characters behind an answer that may offer one more."""


def _offered_behind(response: str, found: Found | None, want: frozenset[str], options: _Options) -> str:
    """The label of another option that the response offers right behind its answer; "" where it does not."""
    text = after_thinking(response) if found is not None else None
    if text is None or found is None:
        return ""
    if found.how == "boxed":
        ends = [match.end() for match in _BOX.finditer(text)]
        end = ends[-1] if ends else -1
    elif found.how == "answer_tag":
        end = text.rfind("</answer>") + len("</answer>")
    else:
        start = text.find(found.answer, text.casefold().rfind("answer") + len("answer"))
        end = start + len(found.answer) if start >= 0 else -1
    tail = text[end : end + _LONGEST_TAIL] if end >= 0 else ""
    behind = _ALSO.match(tail) or (_NEXT.match(tail) if found.how == "answer_line" else None)
    other = behind.group(1) if behind else ""
    return other if other in options.labels and other not in want else ""


def _letters(text: str, options: _Options) -> frozenset[str]:
    """Labels of a text that holds nothing but labels: "B", "(b)", "A, C", "A and C", "AC"."""
    pieces = [piece.strip("()[]{}.: ") for piece in _BETWEEN.split(text[:_LONGEST_WHOLE].strip())]
    pieces = [piece for piece in pieces if piece]
    if len(text) > _LONGEST_WHOLE or not pieces:
        return frozenset()
    if len(pieces) == 1:
        one = pieces[0]
        if one.upper() in options.labels:
            return frozenset((one.upper(),))
        pieces = list(one)
    found = frozenset(pieces)
    # A, C, A is two answers, not one set
    is_set = found <= set(options.labels) and len(found) in (1, len(pieces))
    return found if is_set else frozenset()


def _plain(text: str) -> str:
    """Words alone: case, blanks, the point behind them and the dollars around a formula do not count."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\\$", "$")
    text = " ".join(text.split()).strip("\"'“”‘’ ").removesuffix(".").strip()
    return text.strip("$").strip() if text.startswith("$") and text.endswith("$") else text


EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    ("C", r"\boxed{C}", 1.0),
    ("(C)", "The answer is (C).", 1.0),
    ("C", r"\boxed{\text{(C)}}", 1.0),
    ("C", "C", 1.0),
    ("c)", "Answer: option C", 1.0),
    ("AC", r"\boxed{C, A}", 1.0),
    (["A", "C"], r"\boxed{A} and \boxed{C}", 1.0),
    ("C", r"\boxed{B}", 0.0),
    ("AC", r"\boxed{A}", 0.0),
    ("AC", r"\boxed{ABC}", 0.0),
    ("C", r"\boxed{Paris}", 0.0),
    ("C", "", 0.0),
    ("C", "Clearly a city. I would say C but who knows", 0.0),
    ("C", r"\boxed{A, B, C, D}", 0.0),
    ("C", r"\boxed{ABCD}", 0.0),
    ("C", r"\boxed{B or C}", 0.0),
    ("C", r"\boxed{(C) or maybe (D)}", 0.0),
    ("C", r"\boxed{B} or \boxed{C}", 0.0),
    ("C", r"\boxed{C} or D", 0.0),
    ("A", r"\boxed{A) Paris B) London C) Rome}", 0.0),
    ("C", r"<think>\boxed{C}", 0.0),
    ("", r"\boxed{C}", None),
    (26, r"\boxed{C}", None),
    (None, r"\boxed{C}", None),
]
