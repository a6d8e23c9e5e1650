"""f1: overlap of words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards.bound import apply, lookup, option_problems
from rlvr.types import Task
from rlvr.verifiers.word_f1 import EXAMPLES, answer_words, f1, gold_problem, overlap

WORDS = st.lists(st.sampled_from("red green blue fox dog".split()), min_size=1, max_size=8)


@pytest.mark.parametrize(("gold", "response", "score"), EXAMPLES)
def test_f1_judges_its_own_examples(gold: Any, response: str, score: float | None) -> None:
    verdict = apply(lookup("f1"), response, Task(id="t", prompt="", gold=gold))
    assert verdict.score == (score if score is None else pytest.approx(score)), verdict
    assert verdict.outcome != "error"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The U.S. Army", ("us", "army")),
        ("1,000 -5 3.14", ("1000", "-5", "3.14")),
        ("well-known", ("wellknown",)),
        ("ＡＢＣ Straße", ("abc", "strasse")),
        ("東京タワー", ("東", "京", "タ", "ワ", "ー")),
        ("a\u200bb", ("ab",)),
        ("The", ("the",)),
        ("...", ()),
    ],
)
def test_words_are_compared_without_case_punctuation_and_articles(text: str, words: tuple[str, ...]) -> None:
    assert answer_words(text) == words


def test_f1_by_hand() -> None:
    # "quick brown fox" and "brown fox jumps over": 2 shared, 2 * 2 / (3 + 4)
    assert overlap(("quick", "brown", "fox"), ("brown", "fox", "jumps", "over")) == pytest.approx(4 / 7)
    assert f1("quick brown fox", "brown fox jumps over").checks["f1"]["score"] == pytest.approx(4 / 7)


def test_repeating_or_listing_everything_costs() -> None:
    answer = "Denver Broncos"
    assert f1(answer, answer).score == 1.0
    assert f1(" ".join([answer] * 50), answer).score == pytest.approx(2 * 2 / 102)
    everything = " ".join(f"word{k}" for k in range(200)) + f" {answer}"
    assert f1(everything, answer).score == pytest.approx(2 * 2 / 204)
    assert f1("x" * 5000, answer).outcome == "too_complex"


def test_an_anchored_answer_counts_before_the_whole_text() -> None:
    verdict = f1(r"Broncos, Broncos, Denver. \boxed{Denver Broncos}", "Denver Broncos")
    assert (verdict.score, verdict.how) == (1.0, "boxed")


def test_exact_and_threshold() -> None:
    assert f1("Broncos Denver", "Denver Broncos").score == 1.0
    assert f1("Broncos Denver", "Denver Broncos", metric="exact").score == 0.0
    assert f1("the Denver broncos!", "Denver Broncos", metric="exact").score == 1.0
    assert f1("Denver", "Denver Broncos", threshold=0.6).score == 1.0
    assert f1("Denver", "Denver Broncos", threshold=0.7).score == 0.0
    assert option_problems("f1", {"threshold": 0.0}, "o") != []


def test_the_best_of_several_golds_counts() -> None:
    verdict = f1("Levi's Stadium", ["Santa Clara", "Levis Stadium", "California"])
    assert verdict.score == 1.0
    assert f1("nothing", {"text": ["a b", "nothing else"], "answer_start": [1, 2]}).score == pytest.approx(2 / 3)


@pytest.mark.parametrize("gold", [None, "", "!!", [], [""], ["ok", None], {"answer": "x"}, True, float("nan")])
def test_a_bad_gold_is_never_the_models_zero(gold: Any) -> None:
    assert f1("anything", gold).outcome == "gold_invalid"
    assert f1("anything", gold).score is None
    assert gold_problem("f1", Task(id="t", prompt="", gold=gold))


@given(WORDS, WORDS)
def test_f1_is_symmetric_and_one_for_the_same_bag_alone(left: list[str], right: list[str]) -> None:
    score = overlap(tuple(left), tuple(right))
    assert score == overlap(tuple(right), tuple(left))
    assert 0 <= score <= 1
    assert (score == 1) == (sorted(left) == sorted(right))


@given(WORDS, st.sampled_from("red green blue fox dog other".split()), st.integers(1, 30))
def test_stuffing_a_right_answer_never_helps(gold: list[str], extra: str, times: int) -> None:
    text = " ".join(gold)
    stuffed = f1(text + f" {extra}" * times, text).score
    assert stuffed is not None and stuffed < 1


@given(st.text(max_size=80))
def test_whatever_is_written_gets_a_verdict(response: str) -> None:
    score = f1(response, "Denver Broncos").score
    assert score is not None and 0 <= score <= 1


@pytest.mark.parametrize(
    ("gold", "other"),
    [("1/2", "12"), ("3:4", "34"), ("x^2", "x2"), ("C++", "C"), ("C#", "C"), ("5%", "5"), ("$5", "5"), ("a/b", "ab")],
)
def test_signs_that_carry_meaning_count(gold: str, other: str) -> None:
    assert overlap(answer_words(gold), answer_words(other)) == 0.0
    assert overlap(answer_words(gold), answer_words(f" {gold}.")) == 1.0


def test_signs_that_carry_none_do_not_count() -> None:
    assert answer_words("Time: five + six, 100 % (of $x$)") == ("time", "five", "six", "100%", "of", "x")
    assert answer_words("x²") == answer_words("x^2")
    assert answer_words("½") == answer_words("1/2")
