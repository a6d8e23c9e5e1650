"""The tags verifier: the form alone, rule by rule."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.rewards.bound import apply, lookup, start_problems
from rlvr.tasks import needs_gold
from rlvr.types import Task, Verdict
from rlvr.verifiers import tag_grammar

RULES = ["once:think", "once:answer", "order", "body:think", "body:answer", "before", "between", "after"]


def judge(response: str, **options: Any) -> Verdict:
    return apply(lookup("tags"), response, Task(id="t", prompt="p"), options)


def broken(response: str, **options: Any) -> list[str]:
    verdict = judge(response, **options)
    assert list(judge("", **options).checks) == list(verdict.checks)
    return [name for name, check in verdict.checks.items() if check["score"] == 0]


@pytest.mark.parametrize(("gold", "response", "score"), tag_grammar.EXAMPLES)
def test_the_examples_are_judged_as_they_say(gold: None, response: str, score: float) -> None:
    assert judge(response).score == score


@pytest.mark.parametrize(
    ("response", "rules"),
    [
        ("<think>a</think><answer>b</answer>", []),
        ("\n<think>a</think> \n <answer>b</answer>\n", []),
        ("<think></think><answer>b</answer>", ["body:think"]),
        ("<think>a</think><answer>\n</answer>", ["body:answer"]),
        ("So <think>a</think><answer>b</answer>", ["before"]),
        ("<think>a</think>, so <answer>b</answer>", ["between"]),
        ("<think>a</think><answer>b</answer>.", ["after"]),
        ("So <think> </think> x <answer>b</answer>.", ["body:think", "before", "between", "after"]),
        ("<answer>b</answer><think>a</think>", ["order", "before", "between", "after"]),
        ("<think>a<answer>b</answer></think>", ["order", "before", "between", "after"]),
        ("<think>a<answer>b</think></answer>", ["order", "before", "between", "after"]),
        ("</think>a<think><answer>b</answer>", ["order", "body:think", "before", "between", "after"]),
        ("<think>a</think><answer>b", ["once:answer", "order", "body:answer", "before", "between", "after"]),
        (
            "<think>a</think></think><answer>b</answer>",
            ["once:think", "order", "body:think", "before", "between", "after"],
        ),
        ("<THINK>a</THINK><answer>b</answer>", ["once:think", "order", "body:think", "before", "between", "after"]),
        ("", RULES),
        ("42", RULES),
    ],
)
def test_each_rule_that_is_broken_is_named(response: str, rules: list[str]) -> None:
    assert broken(response) == rules
    assert judge(response).score == float(not rules)
    assert judge(response, score="share").score == pytest.approx(1 - len(rules) / 8)


def test_what_failed_is_told_in_a_sentence() -> None:
    assert judge("<think>a</think><answer>b</answer> ok").reason == "text after the tags: 'ok'"
    verdict = judge("<think>a</think><think>a</think><answer>b</answer>")
    assert verdict.reason == "one <think> and one </think> are wanted, got 2 and 2, and 5 more"
    assert verdict.outcome == "malformed"
    assert judge("b").outcome == "no_answer"
    assert judge("<think>a</think><answer>b</answer>").reason == "<think>, <answer> as wanted"
    assert judge("<think></think><answer>b</answer>", score="share").outcome == "partial"


def test_text_may_stand_where_an_option_allows_it() -> None:
    response = "So <think>a</think> then <answer>b</answer> ok"
    assert broken(response) == ["before", "between", "after"]
    assert broken(response, before=True, after=True) == ["between"]
    assert judge(response, before=True, between=True, after=True).score == 1.0
    assert judge("", before=True, between=True, after=True, score="share").score == 0.0


def test_a_prompt_may_have_opened_the_first_tag() -> None:
    assert judge("a</think><answer>b</answer>", prefilled=True).score == 1.0
    assert judge("<think>a</think><answer>b</answer>", prefilled=True).score == 0.0
    assert judge("", prefilled=True, score="share").score == 0.0
    assert judge("a</think><answer>b</answer>").score == 0.0


def test_one_tag_and_three() -> None:
    assert judge("<final>7</final>", tags=["final"]).score == 1.0
    assert judge("<a>1</a><b>2</b><c-d>3</c-d>", tags=["a", "b", "c-d"]).score == 1.0
    assert judge("<a>1</a><c-d>3</c-d><b>2</b>", tags=["a", "b", "c-d"]).score == 0.0
    assert list(judge("", tags=["final"]).checks) == ["once:final", "order", "body:final", "before", "after"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "x", " ", "\n"]), max_size=9))
def test_right_is_what_a_grammar_generates(pieces: list[str]) -> None:
    solid = [piece for piece in pieces if piece.strip()]

    def matches() -> bool:
        rest = list(solid)
        for tag in ("think", "answer"):
            if not rest or rest.pop(0) != f"<{tag}>":
                return False
            body = 0
            while rest and rest[0] == "x":
                rest.pop(0)
                body += 1
            if not body or not rest or rest.pop(0) != f"</{tag}>":
                return False
        return not rest

    assert (judge("".join(pieces)).score == 1.0) == matches()


@pytest.mark.parametrize("piece", ["<think>", "</think><think>", "<", "<think", " ", "<answer></answer>"])
def test_hostile_text_costs_its_length(piece: str) -> None:
    start = time.process_time()
    assert judge(piece * 100_000).score == 0.0
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tags": []}, "option tags must name at least one tag"),
        ({"tags": ["<think>"]}, "option tags: '<think>' is no name of a tag"),
        ({"tags": ["a", "a"]}, "option tags: each stands once, got a, a"),
        ({"tags": "think"}, "options.tags: input should be a valid list"),
        ({"prefiled": True}, "did you mean 'prefilled'?"),
    ],
)
def test_tags_that_are_none_are_told_before_anything_starts(options: dict[str, Any], told: str) -> None:
    (line,) = start_problems("tags", options, "rewards.form.options")
    assert told in line


def test_rows_need_no_gold() -> None:
    assert not needs_gold("tags")
