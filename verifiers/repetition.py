"""repetition: how little of the response repeats what it said before, and whether it ends in a loop. It needs no gold.

The score is 1 minus the share of n-grams that came before: of words, or of characters where a script has no blanks or
the text is hardly words. Thinking counts too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from rlvr.plugins import verifier
from rlvr.types import Verdict
from rlvr.verifiers.ifeval_text import visible, words
from rlvr.verifiers.language_guess import letters_by_script

_SPACELESS = ("han", "kana", "thai", "lao", "khmer", "myanmar")
_LONGEST_LOOP = 4096
"""Tokens at the end of the response that are searched for a loop."""


@verifier("repetition", version="1", timeout=2.0)
def repetition(
    response: str,
    *,
    level: Literal["auto", "words", "characters"] = "auto",
    n: Annotated[int, Field(ge=1, le=64)] = 4,
    n_characters: Annotated[int, Field(ge=1, le=64)] = 12,
    window: Annotated[int, Field(ge=0)] = 0,
    threshold: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None,
    loops: Annotated[int, Field(ge=0)] = 4,
) -> Verdict:
    """window: an n-gram counts as repeated only if it came among that many n-grams before (0: anywhere before).
    threshold: 1 where at most this share is repeated, else 0, in place of the share. loops: 0 for a response that ends
    in one piece said that often or more, of at least 4 n-grams' length in all (0: do not look for loops).
    """
    if not visible(response).strip():
        return Verdict(score=0.0, outcome="no_answer", reason="the response is empty")
    by_characters = level == "characters" or (level == "auto" and not _is_words(response))
    tokens: Sequence[str] = "".join(response.split()) if by_characters else words(response.casefold())
    size = n_characters if by_characters else n
    share = _repeated_share(tokens, size, window)
    period, times = _tail_loop(tokens, loops) if loops else (0, 0)
    is_loop = period * times >= 4 * size
    score = 0.0 if is_loop else 1.0 - share if threshold is None else float(share <= threshold)
    what = "characters" if by_characters else "words"
    reason = f"{share:.0%} of its runs of {size} {what} came before"
    if is_loop:
        reason = f"ends in {times} times the same {period} {what}; {reason}"
    return Verdict(
        score=score,
        outcome="correct" if score == 1.0 else "partial" if score else "wrong",
        reason=reason,
        stage="loop" if is_loop else what,
        checks={
            "repeated": {"score": 1.0 - share, "reason": f"{share:.0%} repeated"},
            "loop": {"score": float(not is_loop), "reason": f"{times} times the same {period} {what} at its end"},
        },
    )


def start_problem(options: Mapping[str, Any]) -> str:
    """Why nothing can be judged with these options."""
    if options.get("loops") == 1:
        return "loops must be 0 (off) or at least 2, since every response says its end once"
    return ""


def _is_words(text: str) -> bool:
    """Whether the text is best read as words: most of it is, in a script with blanks, and they have a word's length."""
    found = words(text)
    seen = len(re.sub(r"\s+", "", text))
    inside = sum(map(len, found))
    scripts = letters_by_script(text)
    spaceless = sum(scripts.get(script, 0) for script in _SPACELESS)
    return 2 * inside >= seen and 2 * spaceless < max(sum(scripts.values()), 1) and inside <= 25 * len(found)


def _repeated_share(tokens: Sequence[str], n: int, window: int) -> float:
    """Share of n-grams that stand among the `window` n-grams before them, or anywhere before for 0."""
    total = len(tokens) - n + 1
    if total < 1:
        return 0.0
    last: dict[Sequence[str], int] = {}
    repeated = 0
    for k in range(total):
        gram = tokens[k : k + n]
        before = last.get(gram)
        repeated += before is not None and (not window or k - before <= window)
        last[gram] = k
    return repeated / total


def _tail_loop(tokens: Sequence[str], least: int) -> tuple[int, int]:
    """(period, times) of the piece that the end of the tokens says at least that often, the longest in all.

    (0, 0) where there is none.
    By the Z function of the reversed tail: its length at p is how far the tail goes on with period p.
    """
    tail = tokens[: -_LONGEST_LOOP - 1 : -1]
    length = len(tail)
    z = [0] * length
    left = right = 0
    best = (0, 0)
    for p in range(1, length):
        if p < right:
            z[p] = min(right - p, z[p - left])
        while p + z[p] < length and tail[z[p]] == tail[p + z[p]]:
            z[p] += 1
        if p + z[p] > right:
            left, right = p, p + z[p]
        times = z[p] // p + 1
        if times >= least and p * times > best[0] * best[1]:
            best = (p, times)
    return best


_PLAIN = "We count the apples first: 12 in the basket and 30 in the box. Together that makes 42 of them."

EXAMPLES = [  # gold, response, score: right, wrong, malformed, trying to cheat
    (None, _PLAIN, 1.0),
    (None, "42", 1.0),
    (None, "我们先数篮子里的苹果，然后再数箱子里的，一共有四十二个。", 1.0),
    (None, "so the answer is 42 " * 8, 0.0),
    (None, "Wait. " * 200, 0.0),
    (None, "答案是四十二。" * 20, 0.0),
    (None, "abc" * 500, 0.0),
    (None, "-" * 500, 0.0),
    (None, "", 0.0),
    (None, "\u200b" * 10, 0.0),
    (None, f"{_PLAIN} {_PLAIN}", 20 / 37),
]
