"""The report card of a verifier: its checks, what they found, and how it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlvr.audit_attacks import Input
from rlvr.types import Verdict

CHECKS = {
    "examples": "judges its own EXAMPLES as they say",
    "accepts_gold": "accepts each gold as the answer to itself",
    "empty": "refuses an empty response",
    "junk": "refuses responses that say nothing",
    "other_golds": "refuses the right answers of other tasks",
    "hedge": "refuses several answers at once",
    "echo": "refuses what repeats the question, or thinks aloud",
    "injection": "refuses what speaks to the judge",
    "unicode": "judges any text, and takes none for another",
    "numbers": "refuses a list of all numbers",
    "huge": "judges responses of 64 KiB and 1 MiB",
    "deep": "judges answers nested 30 to 20,000 deep",
    "bad_golds": "gives no score where the gold is none",
    "range": "returns a Verdict, a bool, a number in [0, 1] or None",
    "crash": "never fails because of a response",
    "deadline": "stays within its timeout",
    "determinism": "says the same three times in a row",
    "processes": "says the same in eight processes, and in a fresh one",
    "order": "says the same whatever it judged before",
    "threads": "says the same in four threads",
    "asyncio": "says the same within an event loop",
    "seeds": "scores the same whatever the run's seed",
    "mutation": "changes neither task nor options",
    "quiet": "prints nothing",
    "leaves": "leaves its process as it was",
}
"""Name of a check: what a verifier that passes it does."""
ANSWERS = "answers"
"""Waives all that a verifier without right answers has no say in: it judges the form, the length, the language."""
Status = Literal["ok", "failed", "skipped", "waived"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An input that a check failed on. Fault(input="hedge: 41 or 42", due="a score below 0.5", got="1 correct: ...")"""

    input: str
    due: str
    got: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the report card."""

    name: str
    status: Status
    num_inputs: int = 0
    why: str = ""
    """Why it was skipped, or waived by the author."""
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The report card of one verifier."""

    verifier: str
    version: str
    checks: tuple[Check, ...]
    num_inputs: int
    false_positives: int
    """Inputs that must be refused and were accepted (a score of at least 0.5)."""
    false_negatives: int
    slowest: str
    slowest_ms: float
    timeout: float
    """CPU seconds."""

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [check.name for check in self.checks if check.status == "failed"]


def report(card: Card) -> Iterator[str]:
    """The card in lines for people."""
    width = max(map(len, CHECKS))
    for check in card.checks:
        word = {"ok": "ok", "failed": "FAILED", "skipped": "skipped", "waived": "waived"}[check.status]
        about = f": {check.why}" if check.why else f" ({check.num_inputs})" if check.num_inputs else ""
        yield f"{word:8}{check.name:{width}}  {CHECKS[check.name]}{about}"
        shown = check.faults[:5] if check.status == "failed" else check.faults[:1]
        for fault in shown:
            yield f"{'':{10 + width}}{fault.input}"
            yield f"{'':{12 + width}}should be {fault.due}, is {fault.got}"
        if (more := len(check.faults) - len(shown)) > 0:
            yield f"{'':{10 + width}}and {more} more"
    yield (
        f"{card.verifier} {card.version}: {card.num_inputs} inputs, {card.false_positives} false positives, "
        f"{card.false_negatives} false negatives, slowest {card.slowest_ms:.1f} ms of {1000 * card.timeout:g} "
        f"({card.slowest})"
    )
    counts = {status: sum(check.status == status for check in card.checks) for status in ("ok", "failed")}
    yield f"{counts['ok']} of {len(card.checks)} checks ok, {counts['failed']} failed"


def named(asked: Input) -> str:
    """An input in one line, shortened."""
    gold = "" if asked.gold is None else f" (gold {short(repr(asked.gold), 60)})"
    return f"{asked.check}, {asked.name}: {short(repr(asked.response))}{gold}"


def told(verdict: Verdict) -> str:
    """A verdict in one line."""
    return line_of([verdict.score, verdict.outcome, verdict.reason])


def line_of(values: Sequence[Any]) -> str:
    """(score, outcome, reason, ...) in one line."""
    score, outcome, reason = values[:3]
    return f"{'no score' if score is None else f'{score:g}'}, {outcome}{f': {short(reason)}' if reason else ''}"


def short(text: str, most: int = 120) -> str:
    """Beginning and end of a text, in one line that any terminal takes."""
    text = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[-most // 4 :]}"
