"""What a judge wrote, and what of it counts: the log odds of a letter, the ratings of a rubric, or nothing.

A reply that does not say what was asked for is an abstention, never a choice or a 0.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_SURE = 20.0
"""Log odds beyond which none is taken: a probability of 2e-9."""
_MOST_TOKENS = 10**9
_ROUNDING = 1e-3
"""Nats above 0 that a log-probability of 1 may come with from sums in low precision."""
_MOST_READ = 1 << 16
"""Characters at the end of a reply in which its JSON object is sought."""
_QUOTES = " \t\r\n\"'`*([{#:."


@dataclass(frozen=True, slots=True)
class Token:
    """Token("A", -0.1, (("A", -0.1), ("B", -2.4)))"""

    text: str
    logprob: float
    """nats"""
    top: tuple[tuple[str, float], ...] = ()
    """(text, nats) of the likeliest tokens in this place, where known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back for one question.

    Reply(text="A", tokens=(Token(...),), prompt_tokens=120, completion_tokens=1)
    """

    text: str = ""
    tokens: tuple[Token, ...] = ()
    """Where log-probabilities were given."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    problem: str = ""
    """Why there is no reply: one line. Such a reply is kept nowhere."""
    note: str = ""
    """Why the model itself ended it: "length", or its refusal."""

    def to_json(self) -> str:
        tokens = [[token.text, token.logprob, [list(pair) for pair in token.top]] for token in self.tokens]
        return json.dumps([self.text, tokens, self.prompt_tokens, self.completion_tokens, self.note])

    @classmethod
    def from_json(cls, written: str) -> Reply:
        text, tokens, prompt_tokens, completion_tokens, note = json.loads(written)
        return cls(
            text=text,
            tokens=tuple(Token(t, logprob, tuple((name, p) for name, p in top)) for t, logprob, top in tokens),
            prompt_tokens=token_count(prompt_tokens),
            completion_tokens=token_count(completion_tokens),
            note=note,
        )


def token_count(value: object) -> int:
    """A number of tokens that a server gave: whole, from 0 to 10^9; 0, unknown, where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_TOKENS:  # NaN is not
        return 0
    return int(value) if value == int(value) else 0


def log_probability(value: object) -> float:
    """Nats that a server gave, at most 0: a little more is rounding. ValueError where it is NaN or no such number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= _ROUNDING:
        raise ValueError(f"a log-probability is {str(value)[:40]!r}")
    return float(min(value, 0)) if value >= -sys.float_info.max else -math.inf


def around_letters(tokens: Sequence[Token], letters: Sequence[str]) -> tuple[Token, ...]:
    """The tokens that are one of the letters: all that log_odds() reads, so all that is kept of a long reply."""
    names = {letter.strip() for letter in letters}
    return tuple(token for token in tokens if token.text.strip(_QUOTES) in names)


# --- letters ---------------------------------------------------------------------------------------------------------


def log_odds(replies: Sequence[Reply], letters: Sequence[str], *, reasoned: bool) -> tuple[float | None, str]:
    """(log odds of the first letter over the second, "") over all samples of a question, or (None, why not).

    From log-probabilities where a reply has them, the mean of the probabilities over the samples; else from the votes,
    k of n, as log (k + 1/2) / (n - k + 1/2), which is finite. Samples that name no letter do not vote.
    """
    probabilities: list[float] = []
    votes: list[bool] = []
    odds: list[float] = []
    why = ""
    for reply in replies:
        letter = letter_of(reply, letters, reasoned=reasoned)
        if letter is None:
            why = why or reply.problem or f"the judge did not name {letters[0]} or {letters[1]}: {_shown(reply)}"
            continue
        if not all(map(_is_sound, reply.tokens)):
            why = why or "the judge's log-probabilities are none"
            continue
        found = _token_odds(reply, letters, letter, reasoned=reasoned)
        if found is not None and math.isnan(found):
            why = why or f"the judge gives neither {letters[0]} nor {letters[1]} a probability"
            continue
        votes.append(letter == 0)
        if found is not None:
            odds.append(found)
            probabilities.append(1 / (1 + math.exp(-found)))
    if not votes:
        return None, why
    if len(odds) == 1 == len(votes):
        return odds[0], ""
    if len(odds) == len(votes):
        mean = math.fsum(probabilities) / len(probabilities)
        return _clipped(math.log(mean) - math.log1p(-mean)) if 0 < mean < 1 else _clipped(sum(odds)), ""
    k, n = sum(votes), len(votes)
    return math.log((k + 0.5) / (n - k + 0.5)), ""


def letter_of(reply: Reply, letters: Sequence[str], *, reasoned: bool) -> int | None:
    """0 or 1: which letter a reply names; None where it names none, or more than asked."""
    if reply.problem:
        return None
    if reasoned:
        found = last_object(reply.text)
        said = None if found is None else found.get("winner", found.get("answer"))
        said = said.strip() if isinstance(said, str) else ""
        return next((k for k, letter in enumerate(letters) if said == letter.strip()), None)
    for letter, other in ((0, 1), (1, 0)):
        # "A", "**A**" and "A: it is right", but neither "A better answer would be" nor "A/B"
        found = re.match(rf"[\W_]*{re.escape(letters[letter].strip())}(?!\w)(?!['’]?[ \t]*\w)(.*)", reply.text)
        if found is not None and not re.search(rf"(?<!\w){re.escape(letters[other].strip())}(?!\w)", found[1]):
            return letter
    return None


def _token_odds(reply: Reply, letters: Sequence[str], letter: int, *, reasoned: bool) -> float | None:
    """From the tokens that could have stood in the letter's place; None without log-probabilities.

    The first place where the letter begins the reply ("A: A short one" has an article behind it), the last where it
    ends it.
    """
    places = [token for token in reply.tokens if token.text.strip(_QUOTES) == letters[letter].strip()]
    if not places:
        return None
    token = places[-1 if reasoned else 0]
    top = token.top or ((token.text, token.logprob),)
    found = [
        _logsumexp([logp for text, logp in top if text.strip(_QUOTES) == name.strip()] or [-math.inf])
        for name in letters
    ]
    if found[letter] == -math.inf:
        found[letter] = token.logprob
    other = 1 - letter
    if found[other] == -math.inf:
        # it is none of the likeliest: at most as likely as the last of these, and as all that is left
        rest = _log_rest([logp for _, logp in top])
        found[other] = min(rest, min(logp for _, logp in top)) if len(top) > 1 else rest
    return _clipped(found[0] - found[1])


def _is_sound(token: Token) -> bool:
    logps = [token.logprob, *(logp for _, logp in token.top)]
    return all(logp <= _ROUNDING for logp in logps) and max(logps) > -math.inf  # NaN is neither


def _logsumexp(values: Sequence[float]) -> float:
    top = max(values)
    return top if top == -math.inf else top + math.log(math.fsum(math.exp(v - top) for v in values))


def _log_rest(logps: Sequence[float]) -> float:
    """log(1 - sum of the probabilities)"""
    taken = math.fsum(math.exp(logp) for logp in logps)
    return math.log1p(-taken) if taken < 1 else -math.inf


def _clipped(value: float) -> float:
    return min(max(value, -MOST_SURE), MOST_SURE)


# --- JSON ------------------------------------------------------------------------------------------------------------


def last_object(text: str) -> dict[str, Any] | None:
    """The last JSON object of a text, outside of any other; None where there is none."""
    text = text[-_MOST_READ:]
    decoder = json.JSONDecoder()
    found: dict[str, Any] | None = None
    place = text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            value, end = None, place + 1
        if isinstance(value, dict):
            found = value
        place = text.find("{", end)
    return found


def ratings(reply: Reply, names: Sequence[str], low: int, high: int) -> tuple[dict[str, float] | None, str]:
    """({criterion: rating}, "") where each is there and in [low, high], or (None, why not)."""
    if reply.problem:
        return None, reply.problem
    found = last_object(reply.text)
    if found is None:
        return None, f"the judge gave no JSON object: {_shown(reply)}"
    numbers: dict[str, float] = {}
    for name in names:
        value: Any = found.get(name)
        value = value.get("rating") if isinstance(value, Mapping) else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # NaN is not
            return (
                None,
                f"the judge's rating of {name!r} is no number from {low} to {high}: {printable(str(value)[:40])}",
            )
        numbers[name] = float(value)
    return numbers, ""


def printable(text: str) -> str:
    """With control characters written out, as a terminal would obey them."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _shown(reply: Reply) -> str:
    """The start of a reply, for messages."""
    if not reply.text.strip() and reply.note:
        return repr(" ".join(reply.note.split())[:120])
    return repr(" ".join(reply.text.split())[:80])
