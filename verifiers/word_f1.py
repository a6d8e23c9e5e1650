"""f1: how many words the answer shares with the gold, or with the nearest of several golds.

Gold: text, a number, a list of them, or SQuAD's {"text": [...]}. Words are compared as SQuAD does it (Rajpurkar et al.
2016, https://arxiv.org/abs/1606.05250): without case, punctuation and articles. Three differences: NFKC first; signs
that carry meaning stay, as in 3.14, -5, 1/2, 3:4, x^2, C++, 5% and $5; each Chinese or Japanese character is a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import Field

from rlvr.plugins import verifier
from rlvr.types import Outcome, Task, Verdict
from rlvr.verifiers.answer_text import short
from rlvr.verifiers.extract import extract
from rlvr.verifiers.gold_text import gold_text
from rlvr.verifiers.ifeval_text import EACH, said

_LONGEST = 4000
"""Characters of an answer that is read."""


@verifier("f1")
def f1(
    response: str,
    gold: Any,
    *,
    metric: Literal["f1", "exact"] = "f1",
    threshold: Annotated[float, Field(gt=0, le=1)] | None = None,
) -> Verdict:
    """2 * shared / (words of the answer + words of the gold); the best over the golds.

    metric: exact gives 1 for the same words in the same order and 0 for anything else. With a threshold the score is 1
    from that on and 0 below it. The answer is an anchored one, else all that the response says.
    """
    golds, problem = _golds(gold)
    if problem:
        return Verdict(score=None, outcome="gold_invalid", reason=problem)
    found = extract(response)
    answer = found.answer if found else (said(response) or "").strip()
    how = found.how if found else "whole"
    if not answer:
        return Verdict(score=0.0, outcome="no_answer", reason="the response says nothing")
    if len(answer) > _LONGEST:
        return Verdict(score=0.0, outcome="too_complex", reason=f"the answer is longer than {_LONGEST} characters")
    words = answer_words(answer)
    scores = {one: overlap(words, _gold_words(one)) for one in golds}
    nearest = max(golds, key=lambda one: scores[one])
    shared = scores[nearest]
    is_same = any(words == _gold_words(one) for one in golds)
    score = float(is_same) if metric == "exact" else shared
    if threshold is not None:
        score = float(score >= threshold)
    outcome: Outcome = "correct" if score == 1 else "partial" if score else "wrong"
    return Verdict(
        score=score,
        outcome=outcome,
        reason=f"{short(answer)} has F1 {shared:.3g} with {short(nearest)}",
        answer=answer,
        how=how,
        stage="words",
        checks={"f1": {"score": shared, "reason": ""}, "exact": {"score": float(is_same), "reason": ""}},
    )


def gold_problem(verifier_name: str, task: Task) -> str:
    """Why the gold has no words; "" where it has."""
    return _golds(task.gold)[1]


def _golds(gold: Any) -> tuple[tuple[str, ...], str]:
    """(texts, ""), or ((), what is wrong)."""
    if isinstance(gold, Mapping):
        if "text" not in gold:
            return (), f'a gold that is a mapping needs "text"; it has {", ".join(map(str, gold)) or "nothing"}'
        gold = gold["text"]
    several = list(gold) if isinstance(gold, list | tuple) else [gold]
    texts = []
    for one in several:
        text, problem = gold_text(one)
        if problem:
            return (), problem
        texts.append(text)
    if not texts:
        return (), "the gold is an empty list"
    if empty := [text for text in texts if not _gold_words(text)]:
        return (), f"the gold {short(empty[0])} has no words"
    return tuple(dict.fromkeys(texts)), ""


def overlap(left: tuple[str, ...], right: tuple[str, ...]) -> float:
    """F1 of two bags of words; a word counts as often as it stands in both."""
    shared = sum((Counter(left) & Counter(right)).values())
    return 2 * shared / (len(left) + len(right)) if shared else 0.0


_TOKEN = re.compile(rf"[{EACH}]|[^\s{EACH}]+")
_IN_NUMBER = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_KEPT = re.compile(
    r"(?<!\w)-(?=\.?\d)|(?<=\d)[.:](?=\d)|(?<=\w)/(?=\w)|(?<=\w)\^(?=[\w({-])|(?<=\w)\++|(?<=\d)%|(?<=\w)#|#(?=\d)|\$(?=\.?\d)"
)
_RAISED = re.compile("(?<=\\w)[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_PERCENT = re.compile(r"(?<=\d)\s{1,4}(?=%)")
_ARTICLES = frozenset(("a", "an", "the"))


def answer_words(text: str) -> tuple[str, ...]:
    """The words that are compared. Articles stay where there is nothing else."""
    plain = unicodedata.normalize("NFKC", _RAISED.sub(r"^\g<0>", text)).replace("\u2212", "-").casefold()
    plain = _PERCENT.sub("", _IN_NUMBER.sub("", plain.replace("\u2044", "/")))
    kept = {at for match in _KEPT.finditer(plain) for at in range(match.start(), match.end())}
    plain = "".join(
        sign
        for at, sign in enumerate(plain)
        if at in kept or unicodedata.category(sign)[0] not in "PSC" or sign.isspace()
    )
    tokens = tuple(_TOKEN.findall(plain))
    return tuple(token for token in tokens if token not in _ARTICLES) or tokens


_gold_words = lru_cache(1024)(answer_words)


WAIVED = {"hedge": "shared words are the score"}
EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    ("Denver Broncos", "The Denver Broncos.", 1.0),
    ("Denver Broncos", r"They won, so \boxed{denver broncos}", 1.0),
    (["Santa Clara, California", "Levi's Stadium"], "<answer>Levi's stadium</answer>", 1.0),
    ({"text": ["1,000"]}, "1000", 1.0),
    ("東京", "東京。", 1.0),
    ("Denver Broncos", "Denver", 2 / 3),
    ("3.14", "314", 0.0),
    ("1/2", "12", 0.0),
    ("C++", "C", 0.0),
    ("Denver Broncos", "Carolina Panthers", 0.0),
    ("Denver Broncos", "", 0.0),
    ("Denver Broncos", "...", 0.0),
    ("cat", "cat " * 99, 2 / 100),
    ("cat", "dog cat bird fish cow ant bee", 2 / 8),
    ("Denver Broncos", "<think>Denver Broncos", 0.0),
    ("Denver Broncos", r"<think>Denver Broncos</think> \boxed{Carolina}", 0.0),
    ("", "anything", None),
    ([], "anything", None),
    (None, "anything", None),
]
