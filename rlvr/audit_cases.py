"""A verifier measured on a file of labelled cases: `rlvr verifiers test NAME --cases FILE`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.errors import DataError
from rlvr.types import Verdict
from rlvr.verify import Case, Figures, Times, figures, judge_cases, outcomes, read_cases, times, worth_a_look, wrong_ids


class CaseReport(Figures, Times):
    """What a file of labelled cases came to; the figures are of all but the ambiguous ones."""

    errors: dict[str, int]
    """Cases without a score, by outcome; none: {}."""
    ambiguous: int
    """Cases that are marked so: judged for their time alone."""
    outcomes: dict[str, int]
    by_kind: dict[str, Figures]
    """Of cases that say of which kind they are."""
    wrong: list[str]
    """Ids of the first 20 that are not as expected."""
    verifier: str
    version: str


def measure(name: str, path: str, options: Mapping[str, Any] | None = None) -> tuple[CaseReport, list[str]]:
    """The report, and a line for each of the first 20 cases that are not as expected.

    Cases are rows {gold, response, expected} with optional id, kind, ambiguous. Each is judged under the verifier's own
    timeout; the clock starts when it is warm. DataError: rows that say nothing of what is expected, by file and line.
    """
    cases = read_cases(path, name)
    unlabelled = [case for case in cases if case.expected is None and not _is_ambiguous(case)]
    if unlabelled:
        raise DataError(f"{path}:{unlabelled[0].line}: no expected (true or false), in {len(unlabelled)} rows")
    verdicts = judge_cases(cases, options=options)
    pairs = [(case, verdict) for case, verdict in zip(cases, verdicts, strict=True) if not _is_ambiguous(case)]
    if not pairs:
        raise DataError("every row is marked ambiguous; there is nothing to count")
    return _report(name, verdicts, pairs), worth_a_look(pairs)


def _is_ambiguous(case: Case) -> bool:
    return bool(case.info.get("ambiguous"))


def _report(name: str, verdicts: Sequence[Verdict], pairs: Sequence[tuple[Case, Verdict]]) -> CaseReport:
    kinds: dict[str, list[tuple[Case, Verdict]]] = {}
    for case, verdict in pairs:
        if isinstance(kind := case.info.get("kind"), str):
            kinds.setdefault(kind, []).append((case, verdict))
    return CaseReport(
        **figures(pairs),
        **times(verdicts),
        errors=outcomes(verdict for _, verdict in pairs if verdict.score is None),
        ambiguous=len(verdicts) - len(pairs),
        outcomes=outcomes(verdict for _, verdict in pairs),
        by_kind={kind: figures(of_kind) for kind, of_kind in sorted(kinds.items())},
        wrong=wrong_ids(pairs),
        verifier=name,
        version=verdicts[0].version,
    )
