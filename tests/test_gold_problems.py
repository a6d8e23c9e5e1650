"""What is said of a gold before a run is what its verdicts say, for every verifier that comes with us."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr import plugins
from rlvr.audit_examples import examples_of
from rlvr.rewards.bound import apply, gold_problem, lookup, start_problem
from rlvr.types import Task

NAMES = [name for name in plugins._BUILT_IN["verifier"] if name != "http"]
"""http has no gold of its own: the endpoint reads it."""


@pytest.mark.parametrize("name", NAMES)
def test_a_gold_has_a_problem_exactly_where_its_verdict_is_that_it_is_invalid(name: str) -> None:
    bound = lookup(name)
    examples = examples_of(bound)
    assert examples
    for example in examples:
        if start_problem(name, example.options):
            continue  # a package that is not here
        verdict = apply(bound, example.response, example.task(), example.options)
        told = gold_problem(bound, example.task(), example.options)
        assert (told != "") == (verdict.outcome == "gold_invalid"), (example, told, verdict)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
GOLDS: st.SearchStrategy[Any] = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CHEAP = [name for name in NAMES if name not in ("composite", "prime", "trl", "verl")]
"""Those whose golds are their own to judge."""


@pytest.mark.slow
@pytest.mark.parametrize("name", CHEAP)
@settings(max_examples=60, deadline=None)
@given(gold=GOLDS)
def test_any_gold_has_a_problem_exactly_where_its_verdict_is_that_it_is_invalid(name: str, gold: Any) -> None:
    bound = lookup(name)
    task = Task(id="t", prompt="p", gold=gold)
    told = gold_problem(bound, task)
    verdicts = [apply(bound, response, task) for response in ("", r"so \boxed{1}")]
    if "gold_invalid" in [verdict.outcome for verdict in verdicts]:
        assert told, verdicts
    assert (told != "") == (verdicts[1].outcome == "gold_invalid"), (told, verdicts[1])
