"""Verifiers on their own: one response explained, or a file of cases judged and counted."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from rlvr.audit_card import short
from rlvr.errors import DataError, SettingsError
from rlvr.rewards.bound import gold_problem, lookup, option_value, start_problems
from rlvr.rewards.verified import MEMORY_MIB, VerifierPool
from rlvr.tasks import needs_gold
from rlvr.types import Task, Verdict

_MOST_WRONG = 20
_MOST_PROBLEMS = 20
_MOST_STDERR = 10
_LONGEST_VALUE = 400
_LONGEST_LINE = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A response to judge. Case(id="7", gold="42", response="\\boxed{42}", verifier="math", expected=True)"""

    id: str
    gold: Any
    response: str
    verifier: str
    expected: bool | None = None
    """Whether the score should be at least 0.5; None: not known."""
    prompt: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    """All further columns of the row, such as the entry point of HumanEval's tests."""
    line: int = 0
    """Of the file, from 1."""


class Figures(TypedDict):
    """How far verdicts are as expected; a score of at least 0.5 counts as true."""

    n: int
    """Cases, each of which says what is expected."""
    accuracy: float
    """Share of them on the expected side; a case without a score is on neither."""
    false_positive: int
    false_negative: int


class Times(TypedDict):
    """Of single verdicts."""

    p50_ms: float
    p99_ms: float
    max_ms: float


class Report(Times):
    """What a file of cases came to."""

    n: int
    mean_score: float | None
    """Over the cases that could be judged."""
    outcomes: dict[str, int]
    unjudged: int
    """Cases of score None."""
    num_expected: NotRequired[int]
    """Cases that say what is expected; what follows is over them, and absent where there are none."""
    accuracy: NotRequired[float]
    """As in Figures, the next two also."""
    false_positive: NotRequired[int]
    false_negative: NotRequired[int]
    wrong: NotRequired[list[str]]
    """Ids of the first 20 that are not as expected."""


def explain(
    gold: Any, response: str, verifier: str = "math", options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All fields of the verdict on one response, with its stages where the verifier has an option `explain`.

    A gold that is the text of a JSON object is that object, one of a JSON list that list where the verifier has no use
    for the text; an empty one is none where it needs none. SettingsError: options, or a machine, that the verifier
    cannot use.
    """
    options = dict(options or {})
    if "explain" in lookup(verifier).options:
        options.setdefault("explain", True)
    _check([verifier], options)
    with VerifierPool([verifier], workers=1, memory_mib=MEMORY_MIB) as pool:
        task = Task(id="explain", prompt="", gold=_as_meant(gold, verifier, options))
        return asdict(pool.submit(verifier, response, task, options).result())


def _as_meant(gold: Any, verifier: str, options: Mapping[str, Any]) -> Any:
    """A command line has text alone."""
    if not isinstance(gold, str):
        return gold
    if not gold and not needs_gold(verifier):
        return None
    read = option_value(gold) if gold.lstrip()[:1] in ("{", "[") else gold
    if isinstance(read, list) and not gold_problem(lookup(verifier), Task(id="explain", prompt="", gold=gold), options):
        return gold
    return read


def trace(result: Mapping[str, Any]) -> list[str]:
    """What explain() found, in lines for people: the verdict, how it came about, who judged."""
    score = "no score" if result["score"] is None else f"{result['score']:g}"
    lines = [f"score     {score}", f"outcome   {result['outcome']}"]
    if result["reason"]:
        lines.append(f"reason    {result['reason']}")
    if result["answer"] is not None:
        lines.append(f"answer    {result['answer']}" + (f"   (found by: {result['how']})" if result["how"] else ""))
    checks = dict(result["checks"])
    stages = checks.pop("stages", [])
    if result["stage"]:
        lines.append(f"stage     {result['stage']}")
    lines += [f"  {number}. {_told(stage)}" for number, stage in enumerate(stages, 1)]
    lines += [f"check     {name}: {_told(value)}" for name, value in checks.items()]
    if result["stderr"]:
        lines += [f"stderr    {line}" for line in result["stderr"].splitlines()[-_MOST_STDERR:]]
    lines.append(f"verifier  {result['verifier']} {result['version']}, {1000 * result['seconds']:.2f} ms")
    # half a surrogate pair, which JSON can hold, cannot be written to a terminal
    return [line.encode("utf-8", "backslashreplace").decode() for line in lines]


def _told(value: Any) -> str:
    """Plain data in one line: what is called stage, outcome, score or reason comes first."""
    if isinstance(value, Mapping):
        first = [str(value[key]) for key in ("stage", "outcome", "score", "reason") if value.get(key) not in (None, "")]
        rest = [f"{k}={_told(v)}" for k, v in value.items() if k not in ("stage", "outcome", "score", "reason")]
        return "  ".join(first + rest)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]} ..."


def read_cases(path: str | Path, verifier: str | None = None) -> list[Case]:
    """Cases from JSONL rows {gold, response} with optional id, expected, verifier, prompt, and what the verifier reads.

    That stands in further columns, or in an object `info`. `answer` or `solution` are read as gold, `completion` as
    response. A verifier given here judges every row; without it the row's own, or math. DataError lists all bad rows
    as file:line.
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


def judge_cases(cases: Sequence[Case], workers: int = 1, options: Mapping[str, Any] | None = None) -> list[Verdict]:
    """Their verdicts, in order; the time of each starts after warm-up. `options` are given to each verifier.

    PluginError for an unknown verifier, SettingsError for options, or a machine, that it cannot use.
    """
    tasks = [Task(id=case.id, prompt=case.prompt, gold=case.gold, info=case.info) for case in cases]
    jobs = [(case.verifier, case.response, task) for case, task in zip(cases, tasks, strict=True)]
    return judge_responses(jobs, workers, options)


def judge_responses(
    jobs: Sequence[tuple[str, str, Task]], workers: int = 1, options: Mapping[str, Any] | None = None
) -> list[Verdict]:
    """As judge_cases(), of (verifier, response, task)."""
    names = sorted({verifier for verifier, _, _ in jobs})
    _check(names, options or {})
    with VerifierPool(names, workers, MEMORY_MIB) as pool:
        return pool.judge(jobs, dict.fromkeys(names, options or {}))


def report(cases: Sequence[Case], verdicts: Sequence[Verdict]) -> Report:
    """Counts and times of judged cases (at least one)."""
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    result = Report(
        n=len(cases),
        mean_score=sum(scores) / len(scores) if scores else None,
        outcomes=outcomes(verdicts),
        unjudged=len(verdicts) - len(scores),
        **times(verdicts),
    )
    expected = [pair for pair in zip(cases, verdicts, strict=True) if pair[0].expected is not None]
    if expected:
        found = figures(expected)
        result["num_expected"] = found["n"]
        result["accuracy"] = found["accuracy"]
        result["false_positive"] = found["false_positive"]
        result["false_negative"] = found["false_negative"]
        result["wrong"] = wrong_ids(expected)
    return result


def figures(pairs: Sequence[tuple[Case, Verdict]]) -> Figures:
    """Of at least one case, with the verdict on it; each says what is expected."""
    accepted = [None if verdict.score is None else verdict.score >= 0.5 for _, verdict in pairs]
    expected = [bool(case.expected) for case, _ in pairs]
    return Figures(
        n=len(pairs),
        accuracy=sum(a is e for a, e in zip(accepted, expected, strict=True)) / len(pairs),
        false_positive=sum(a is True and not e for a, e in zip(accepted, expected, strict=True)),
        false_negative=sum(a is False and e for a, e in zip(accepted, expected, strict=True)),
    )


def times(verdicts: Sequence[Verdict]) -> Times:
    """Of at least one verdict."""
    ordered = sorted(1000 * verdict.seconds for verdict in verdicts)
    return Times(p50_ms=quantile(ordered, 0.5), p99_ms=quantile(ordered, 0.99), max_ms=ordered[-1])


def outcomes(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many there are of each, by name."""
    return dict(sorted(Counter(verdict.outcome for verdict in verdicts).items()))


def wrong_ids(pairs: Sequence[tuple[Case, Verdict]]) -> list[str]:
    """Ids of the first 20 cases that are not as expected."""
    return [case.id for case, verdict in pairs if _is_odd(case, verdict)][:_MOST_WRONG]


def worth_a_look(pairs: Iterable[tuple[Case, Verdict]], all_are: str = "") -> list[str]:
    """A line with the reason for each case that could not be judged, or not as expected; the first 20.

    `all_are` says where the others are.
    """
    odd = [(case, verdict) for case, verdict in pairs if _is_odd(case, verdict)]
    lines = []
    for case, verdict in odd[:_MOST_WRONG]:
        expected = "" if case.expected is None else f"{str(case.expected).lower()} is expected, is "
        lines.append(short(f"{case.id}: {expected}{verdict.outcome}: {verdict.reason}", _LONGEST_LINE))
    more = len(odd) - _MOST_WRONG
    return lines + ([f"... and {more} more{all_are and f' ({all_are})'}"] if more > 0 else [])


def _is_odd(case: Case, verdict: Verdict) -> bool:
    return verdict.score is None or (case.expected is not None and (verdict.score >= 0.5) is not case.expected)


def rows(cases: Sequence[Case], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Case and verdict side by side, plain data."""
    return [
        {"id": case.id, "gold": case.gold, "response": case.response, "expected": case.expected, **asdict(verdict)}
        for case, verdict in zip(cases, verdicts, strict=True)
    ]


def _check(verifiers: Sequence[str], options: Mapping[str, Any]) -> None:
    problems = [line for name in verifiers for line in start_problems(name, options, "--option")]
    if problems:
        raise SettingsError("\n".join(dict.fromkeys(problems)))


def _case(row: Any, number: int, verifier: str | None) -> Case:
    """ValueError says what is wrong with the row."""
    if not isinstance(row, dict):
        raise ValueError(f"a row must be an object, got {type(row).__name__}")
    gold_key = next((key for key in ("gold", "answer", "solution") if key in row), None)
    response = row["response"] if "response" in row else row.get("completion")
    if "response" not in row and "completion" not in row:
        raise ValueError(f"no response (nor completion); it has {', '.join(map(str, row))}")
    if not isinstance(response, str):
        raise ValueError(f"response (or completion) must be text, got {type(response).__name__}")
    expected = row.get("expected")
    if expected is not None and not isinstance(expected, bool | int | float):
        raise ValueError(f"expected must be true, false or a number, got {type(expected).__name__}")
    name = verifier or row.get("verifier") or "math"
    if not isinstance(name, str):
        raise ValueError(f"verifier must be text, got {type(name).__name__}")
    if gold_key is None and needs_gold(name):
        raise ValueError("no gold (nor answer, solution)")
    info = row.get("info")
    if not (info is None or isinstance(info, dict)):
        raise ValueError(f"info must be an object, got {type(info).__name__}")
    prompt = row.get("prompt")
    used = {"id", gold_key, "response", "completion", "expected", "verifier", "prompt", "info"}
    return Case(
        id=str(row.get("id", number)),
        gold=None if gold_key is None else row[gold_key],
        response=response,
        verifier=name,
        expected=None if expected is None else expected >= 0.5,
        prompt=prompt if isinstance(prompt, str) else "",
        line=number,
        info={**{column: value for column, value in row.items() if column not in used}, **(info or {})},
    )


def quantile(ordered: Sequence[float], q: float) -> float:
    """Of at least one number, in ascending order."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
