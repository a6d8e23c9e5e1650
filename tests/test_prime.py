"""What the verifier prime says without Prime's package, or a gold; its rewards run in test_adaptors_peers.py."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from rlvr.adaptors.prime import tasks
from rlvr.rewards.bound import apply, lookup, start_problems
from rlvr.types import Task
from rlvr.verifiers import prime_env


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in list(sys.modules):
        if name.partition(".")[0] == "verifiers":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "verifiers.v1", None)  # its import raises
    prime_env._import_problem.cache_clear()
    yield
    prime_env._import_problem.cache_clear()


@pytest.mark.usefixtures("without_package")
def test_a_missing_package_is_one_line_that_names_the_extra_and_never_a_zero() -> None:
    (problem,) = start_problems("prime", {}, "options")
    assert "pip install rlvr[prime]" in problem and "\n" not in problem
    verdict = apply(lookup("prime"), "42", Task(id="t", prompt="", gold={"environment": "e", "task": {}}))
    assert (verdict.score, verdict.outcome) == (None, "error")
    assert "pip install rlvr[prime]" in verdict.reason
    with pytest.raises(ValueError, match=r"pip install rlvr\[prime\]"):
        next(tasks("e"))


@pytest.mark.parametrize("gold", [None, "42", {}, {"environment": 3, "task": {}}, {"environment": "e"}])
def test_a_gold_that_names_no_task_is_no_score(gold: Any) -> None:
    verdict = apply(lookup("prime"), "42", Task(id="t", prompt="", gold=gold))
    assert (verdict.score, verdict.outcome) == (None, "gold_invalid")
    assert "rlvr.adaptors.prime:tasks makes it" in verdict.reason


def test_a_range_that_is_none_is_told_before_anything_starts() -> None:
    (problem,) = start_problems("prime", {"low": 2.0}, "options")
    assert "low must be below high, got 2 and 1" in problem
