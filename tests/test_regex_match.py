"""The regex verifier: a linear engine, patterns from the gold or an option, errors that say where."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.rewards.bound import apply, gold_problem, lookup, start_problems
from rlvr.tasks import needs_gold
from rlvr.types import Task, Verdict
from rlvr.verifiers import regex_match


def judge(gold: Any, response: str, **options: Any) -> Verdict:
    return apply(lookup("regex"), response, Task(id="t", prompt="p", gold=gold), options)


@pytest.mark.parametrize(("gold", "response", "score"), regex_match.EXAMPLES)
def test_the_examples_are_judged_as_they_say(gold: str, response: str, score: float) -> None:
    assert judge(gold, response).score == score


@pytest.mark.parametrize(
    ("pattern", "response", "options", "score"),
    [
        ("[a-c]+", r"\boxed{abc}", {}, 1.0),
        ("[a-c]+", r"\boxed{abcd}", {}, 0.0),
        ("[a-c]+", r"\boxed{abcd}", {"mode": "search"}, 1.0),
        ("a|ab", r"\boxed{ab}", {}, 1.0),
        ("[a-c]+", " abc\n", {"text": "response"}, 1.0),
        ("[a-c]+", " abc\n", {}, 0.0),
        ("a.b", "a\nb", {"text": "response"}, 0.0),
        ("(?s)a.b", "a\nb", {"text": "response"}, 1.0),
        ("(?i)a", "A", {"text": "response"}, 1.0),
        ("<think>(?s:.*)</think>.+", "<think>x\ny</think>z", {"text": "response"}, 1.0),
        ("é{2}", "éé", {"text": "response"}, 1.0),
        (r"\p{Greek}+", "αβγ", {"text": "response"}, 1.0),
    ],
)
def test_the_whole_or_some_of_the_text_matches(pattern: str, response: str, options: Any, score: float) -> None:
    assert judge(pattern, response, **options).score == score
    assert judge({"no": "pattern"}, response, pattern=pattern, **options).score == score


@settings(deadline=None)
@given(st.text(alphabet="ab(1", max_size=12), st.sampled_from(["a*b", "(?:a|b)+", r"[^a]*\(", "1$", "^a?b"]))
def test_python_agrees_where_it_has_the_same_syntax(text: str, pattern: str) -> None:
    full = judge(pattern, f"|{text}|", text="response", mode="search")
    assert full.score == float(re.search(pattern, f"|{text}|") is not None)
    assert judge(pattern, text, text="response").score == float(re.fullmatch(pattern, text.strip()) is not None)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(a|aa)+$b", "(.*a){20}b", "a{0,500}a{0,500}b"])
@pytest.mark.parametrize("mode", ["full", "search"])
def test_a_hostile_text_costs_its_length(pattern: str, mode: str) -> None:
    start = time.process_time()
    assert judge(pattern, "a" * 200_000, text="response", mode=mode).score == 0.0
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("ab(c", "the pattern is no regular expression of RE2: missing ): ab(c"),
        (
            "ab(?=c)",
            "at character 2: invalid perl operator: (?= (lookahead, which has no place on an engine that is linear",
        ),
        ("ab(?!c)", "at character 2: invalid perl operator: (?! (lookahead"),
        ("(?<=a)b", "at character 0: invalid perl operator: (?<= (lookbehind"),
        ("(?<!a)b", "at character 0: invalid perl operator: (?<! (lookbehind"),
        (r"(a)\1", r"at character 3: invalid escape sequence: \1 (a backreference"),
        ("(?P<n>a)(?P=n)", "at character 8: invalid perl operator: (?P (a backreference"),
        ("(?>a)", "(an atomic group"),
        ("a**", "at character 1: bad repetition operator: **"),
        ("a**b**", "of RE2: bad repetition operator: **"),
        ("[z-a]", "at character 1: invalid character class range: z-a"),
        ("(a{1000}){1000}", "invalid repetition size: {1000}"),
        ("a\ud800", "the pattern has half a surrogate pair at character 1"),
        ("a" * 10_001, "the pattern has 10001 characters, and at most 10000 are read"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_told_with_its_place(
    pattern: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    verdict = judge(pattern, "ab", text="response")
    assert (verdict.score, verdict.outcome) == (None, "gold_invalid")
    assert told in verdict.reason
    assert "\n" not in verdict.reason
    (line,) = start_problems("regex", {"pattern": pattern}, "rewards.answer.options")
    assert told in line
    assert told in gold_problem(lookup("regex"), Task(id="t", prompt="p", gold=pattern))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("gold", "told"),
    [
        (None, "the gold is empty"),
        ("", "the gold is empty"),
        (7, "the gold is no text but int"),
        ([], "the gold is no text"),
    ],
)
def test_no_pattern_at_all_is_never_the_responses_fault(gold: Any, told: str) -> None:
    verdict = judge(gold, "7", text="response")
    assert (verdict.score, verdict.outcome) == (None, "gold_invalid")
    assert told in verdict.reason


def test_rows_need_no_gold() -> None:
    assert not needs_gold("regex")
    assert judge(None, "7", text="response", pattern="[0-9]").score == 1.0


def test_what_no_engine_can_read_is_malformed() -> None:
    assert judge("a.*", "a\ud800", text="response").outcome == "malformed"
    assert judge("a*", "a" * ((1 << 20) + 1), text="response").outcome == "too_complex"


def test_unknown_options_are_told() -> None:
    (line,) = start_problems("regex", {"mode": "match"}, "rewards.answer.options")
    assert "input should be 'full' or 'search'" in line


@pytest.mark.parametrize("gold", [None, "", 42, 4.2, ["a"], "(", "a+"])
@pytest.mark.parametrize("options", [{}, {"pattern": "a+"}])
def test_what_is_said_of_a_gold_beforehand_is_what_the_verdict_says(gold: Any, options: dict[str, Any]) -> None:
    task, bound = Task(id="t", prompt="p", gold=gold), lookup("regex")
    verdict = apply(bound, r"\boxed{aa}", task, options)
    assert gold_problem(bound, task, options) == (verdict.reason if verdict.outcome == "gold_invalid" else "")
