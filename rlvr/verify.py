"""Verifiers on their own: one response explained, or a file of cases judged and counted."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from rlvr.errors import DataError
from rlvr.rewards.verified import VerifierPool
from rlvr.types import Task, Verdict

_MEMORY_MIB = 2048
_MOST_WRONG = 20
_MOST_PROBLEMS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A response to judge. Case(id="7", gold="42", response="\\boxed{42}", verifier="math", expected=True)"""

    id: str
    gold: Any
    response: str
    verifier: str
    expected: bool | None = None
    """Whether the score should be at least 0.5; None: not known."""


class Report(TypedDict):
    """What a file of cases came to."""

    n: int
    mean_score: float | None
    """Over the cases that could be judged."""
    outcomes: dict[str, int]
    unjudged: int
    """Cases of score None."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    accuracy: NotRequired[float]
    """Share of cases with a score on the expected side of 0.5; an unjudged one is on neither. This and what follows:
    only where every row has `expected`."""
    false_positive: NotRequired[int]
    false_negative: NotRequired[int]
    wrong: NotRequired[list[str]]
    """Ids of the first 20 that are not as expected."""


def explain(gold: Any, response: str, verifier: str = "math") -> dict[str, Any]:
    """All fields of the verdict on one response."""
    with VerifierPool([verifier], workers=1, memory_mib=_MEMORY_MIB) as pool:
        return asdict(pool.submit(verifier, response, Task(id="explain", prompt="", gold=gold)).result())


def verify_file(path: str | Path, verifier: str | None = None, workers: int = 1) -> Report:
    """read_cases(), judge_cases() and report() in one. DataError names every bad row."""
    cases = read_cases(path, verifier)
    return report(cases, judge_cases(cases, workers))


def read_cases(path: str | Path, verifier: str | None = None) -> list[Case]:
    """Cases from JSONL rows {gold, response} with optional id, expected, verifier.

    `answer` or `solution` are read as gold, `completion` as response. A verifier given here judges every row;
    without it the row's own, or math. DataError lists all bad rows as file:line.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: {os.strerror(error.errno or 0)}") from error
    cases: list[Case] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            cases.append(_case(json.loads(line), number, verifier))
        except RecursionError:
            problems.append(f"{path}:{number}: nested too deeply")
        except ValueError as error:  # also JSON and UTF-8 errors
            problems.append(f"{path}:{number}: {error}")
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        raise DataError("\n".join(problems[:_MOST_PROBLEMS] + ([f"and {more} more bad rows"] if more > 0 else [])))
    if not cases:
        raise DataError(f"{path}: no rows")
    return cases


def judge_cases(cases: Sequence[Case], workers: int = 1) -> list[Verdict]:
    """Their verdicts, in order; the time of each starts after warm-up. PluginError for an unknown verifier."""
    names = sorted({case.verifier for case in cases})
    with VerifierPool(names, workers, _MEMORY_MIB) as pool:
        return pool.judge(
            [(case.verifier, case.response, Task(id=case.id, prompt="", gold=case.gold)) for case in cases]
        )


def report(cases: Sequence[Case], verdicts: Sequence[Verdict]) -> Report:
    """Counts and times of judged cases (at least one)."""
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    times = sorted(1000 * verdict.seconds for verdict in verdicts)
    result = Report(
        n=len(cases),
        mean_score=sum(scores) / len(scores) if scores else None,
        outcomes=dict(sorted(Counter(verdict.outcome for verdict in verdicts).items())),
        unjudged=len(verdicts) - len(scores),
        p50_ms=_quantile(times, 0.5),
        p99_ms=_quantile(times, 0.99),
        max_ms=times[-1],
    )
    if all(case.expected is not None for case in cases):
        passed = [None if verdict.score is None else verdict.score >= 0.5 for verdict in verdicts]
        pairs = list(zip(cases, passed, strict=True))
        wrong = [case.id for case, accepted in pairs if accepted != case.expected]
        result["accuracy"] = 1 - len(wrong) / len(cases)
        result["false_positive"] = sum(accepted is True and not case.expected for case, accepted in pairs)
        result["false_negative"] = sum(accepted is False and bool(case.expected) for case, accepted in pairs)
        result["wrong"] = wrong[:_MOST_WRONG]
    return result


def _case(row: Any, number: int, verifier: str | None) -> Case:
    """ValueError says what is wrong with the row."""
    if not isinstance(row, dict):
        raise ValueError(f"a row must be an object, got {type(row).__name__}")
    gold_key = next((key for key in ("gold", "answer", "solution") if key in row), None)
    if gold_key is None:
        raise ValueError("no gold (nor answer, solution)")
    response = row["response"] if "response" in row else row.get("completion")
    if not isinstance(response, str):
        raise ValueError(f"response (or completion) must be text, got {type(response).__name__}")
    expected = row.get("expected")
    if expected is not None and not isinstance(expected, bool | int | float):
        raise ValueError(f"expected must be true, false or a number, got {type(expected).__name__}")
    name = verifier or row.get("verifier") or "math"
    if not isinstance(name, str):
        raise ValueError(f"verifier must be text, got {type(name).__name__}")
    return Case(
        id=str(row.get("id", number)),
        gold=row[gold_key],
        response=response,
        verifier=name,
        expected=None if expected is None else expected >= 0.5,
    )


def _quantile(ordered: Sequence[float], q: float) -> float:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
