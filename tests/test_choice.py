"""choice: letters and texts of options."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards.bound import apply, lookup
from rlvr.types import Task
from rlvr.verifiers.choice import EXAMPLES, gold_problem

CITIES = ["London", "Berlin", "Paris", "Rome"]


def judge(gold: Any, response: str, choices: Any = None, **options: Any) -> tuple[float | None, str]:
    info = {} if choices is None else {"choices": choices}
    verdict = apply(lookup("choice"), response, Task(id="t", prompt="", gold=gold, info=info), options)
    assert verdict.outcome != "error", verdict
    return verdict.score, verdict.outcome


@pytest.mark.parametrize(("gold", "response", "score"), EXAMPLES)
def test_choice_judges_its_own_examples(gold: Any, response: str, score: float | None) -> None:
    assert judge(gold, response)[0] == score


@pytest.mark.parametrize("gold", ["C", "(c)", 2, "Paris", "paris.", "2"])
@pytest.mark.parametrize(
    "response",
    [
        r"\boxed{C}",
        r"\boxed{c}",
        r"\boxed{\text{(C)}}",
        r"\boxed{\text{Paris}}",
        r"\boxed{C. Paris}",
        r"\boxed{(C) Paris}",
        r"\boxed{(c) Paris}",
        "The answer is (C).",
        "Answer: C",
        "The correct answer is option C.",
        "<answer>Paris</answer>",
        "C",
        "(C)",
        "Paris",
        "<think>B?</think>C) Paris",
    ],
)
def test_letter_index_and_text_mean_the_same_option(gold: Any, response: str) -> None:
    assert judge(gold, response, CITIES) == (1.0, "correct")


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (r"\boxed{B}", "wrong"),
        (r"\boxed{Berlin}", "wrong"),
        (r"\boxed{E}", "malformed"),
        (r"\boxed{Madrid}", "malformed"),
        (r"\boxed{(B) Paris}", "hedged"),
        (r"\boxed{(C) Berlin}", "hedged"),
        (r"\boxed{C or D}", "hedged"),
        (r"\boxed{C, D}", "hedged"),
        (r"\boxed{C/D}", "hedged"),
        (r"\boxed{A B C D}", "hedged"),
        (r"\boxed{(C) or maybe (D)}", "hedged"),
        (r"\boxed{C} or \boxed{D}", "hedged"),
        (r"\boxed{ABCD}", "hedged"),
        ("It could be C.", "no_answer"),
        ("", "no_answer"),
        (r"<think>\boxed{C}", "no_answer"),
        ("```\n\\boxed{C}\n```", "no_answer"),
        (r"\boxed{" + "C " * 2000 + "}", "too_complex"),
    ],
)
def test_other_answers_earn_nothing(response: str, outcome: str) -> None:
    assert judge("C", response, CITIES) == (0.0, outcome)


def test_options_may_be_a_mapping_or_arcs_columns() -> None:
    assert judge("C", r"\boxed{Paris}", {"A": "London", "B": "Berlin", "C": "Paris"}) == (1.0, "correct")
    assert judge("3", r"\boxed{3}", {"label": ["1", "2", "3"], "text": CITIES[:3]}) == (1.0, "correct")
    assert judge("3", r"\boxed{Berlin}", {"label": ["1", "2", "3"], "text": CITIES[:3]}) == (0.0, "wrong")


def test_the_column_of_the_options_can_be_named() -> None:
    task = Task(id="t", prompt="", gold="Rome", info={"options": CITIES})
    assert apply(lookup("choice"), r"\boxed{D}", task, {"column": "options"}).score == 1.0
    assert gold_problem("choice", task, {"column": "options"}) == ""
    assert gold_problem("choice", task) == "the gold 'Rome' is no option's letter or text"


def test_a_number_is_the_text_of_an_option_before_it_is_an_index() -> None:
    assert judge("B", r"\boxed{3}", [2, 3, 5]) == (1.0, "correct")
    assert judge("3", r"\boxed{B}", [2, 3, 5]) == (1.0, "correct")


def test_several_right_options_are_a_set() -> None:
    for gold in ("AC", "A, C", ["C", "A"], [0, 2], ["London", "Paris"]):
        assert judge(gold, r"\boxed{C, A}", CITIES) == (1.0, "correct")
        assert judge(gold, r"\boxed{A}", CITIES) == (0.0, "wrong")
        assert judge(gold, r"\boxed{A, B, C}", CITIES) == (0.0, "wrong")
        assert judge(gold, r"\boxed{A or C}", CITIES) == (0.0, "hedged")
    assert judge("A", r"\boxed{A}", CITIES, multiple=True) == (1.0, "correct")
    assert judge("A", r"\boxed{AB}", CITIES, multiple=True) == (0.0, "wrong")


def test_options_of_the_same_text_are_the_same_answer() -> None:
    assert judge("A", r"\boxed{B}", ["ten", "ten", "two"]) == (0.0, "wrong")
    assert judge("A", r"\boxed{ten}", ["ten", "ten", "two"]) == (1.0, "correct")


def test_a_word_is_no_letter() -> None:
    assert judge("A", r"\boxed{A dog}") == (0.0, "malformed")
    assert judge("I", r"\boxed{I think so}") == (0.0, "malformed")


@pytest.mark.parametrize(
    ("gold", "choices"),
    [
        ("E", CITIES),
        (4, CITIES),
        (-1, CITIES),
        (True, CITIES),
        (1.5, CITIES),
        ([], CITIES),
        (None, CITIES),
        ("C", "London"),
        ("C", ["London"]),
        ("C", [None, "x", "y"]),
        (2, ["2", "3", "4"]),
        ("B", ["b", "a"]),
        ("C", {"label": ["A"], "text": ["x", "y"]}),
    ],
)
def test_a_bad_gold_or_row_is_never_the_models_zero(gold: Any, choices: Any) -> None:
    assert judge(gold, r"\boxed{C}", choices) == (None, "gold_invalid")
    assert gold_problem("choice", Task(id="t", prompt="", gold=gold, info={"choices": choices}))


@given(st.text(max_size=60))
def test_whatever_is_written_gets_a_verdict(response: str) -> None:
    assert judge("C", response, CITIES)[0] in (0.0, 1.0)
    assert judge("C", f"\\boxed{{{response}}}", CITIES)[0] in (0.0, 1.0)


def test_an_answer_that_leaves_others_open_is_a_hedge() -> None:
    for answer in ("(C), something else", "C. Paris or another city", "(C) maybe", r"\text{C} or something else"):
        assert judge("C", rf"\boxed{{{answer}}}") == (0.0, "hedged"), answer
    assert judge("C", r"\boxed{(C), because it rains}") == (1.0, "correct")
    assert judge("C", r"\boxed{C. cats or dogs}", ["cats", "dogs", "cats or dogs"]) == (1.0, "correct")


@pytest.mark.parametrize(
    "response",
    [
        r"\boxed{A) London B) Berlin C) Paris}",
        r"\boxed{C. Paris D. Rome}",
        r"\boxed{c) paris d) rome}",
        r"\boxed{(C)(D)}",
        r"\boxed{C..D}",
        "C:D",
        "Answer: (C) although (D) also works",
        "Answer: C. Or D.",
        r"\boxed{C} or D",
        r"\boxed{\text{C}}, or maybe (D).",
        "<answer>C</answer> or D",
        "Answer: C: Paris. D: Rome.",
    ],
)
def test_options_that_are_repeated_are_a_hedge(response: str) -> None:
    assert judge("C", response, CITIES) == (0.0, "hedged")
    assert judge("A", response, CITIES)[0] == 0.0


@pytest.mark.parametrize(
    "answer",
    ["C. George W. Bush", "C. the U.S. of A.", "C) f(x) = 2x", "C (see plan B)", "C. Vitamin C (ascorbic acid)"],
)
def test_letters_within_the_text_of_an_option_are_no_hedge(answer: str) -> None:
    texts = ["x", "y", answer.lstrip("C").strip(".) "), "z"]
    assert judge("C", rf"\boxed{{{answer}}}", texts) == (1.0, "correct")
    assert judge("C", rf"\boxed{{{answer}}}") == (1.0, "correct")


def test_what_follows_an_answer_and_offers_nothing_is_no_hedge() -> None:
    for behind in (" and I am sure.", ". And A dog is none.", " or so I think", ", and that is all", ". B is wrong."):
        assert judge("C", r"\boxed{C}" + behind, CITIES) == (1.0, "correct"), behind


def test_dollars_around_a_formula_are_no_part_of_an_option() -> None:
    squares = ["$x$", "$x^2$", "$x^3$"]
    for answer in (r"\boxed{$x^2$}", r"\boxed{x^2}", r"\boxed{B) $x^2$}", "Answer: $x^2$"):
        assert judge("B", answer, squares) == (1.0, "correct"), answer
    assert judge("B", r"\boxed{\$4}", ["$3", "$4", "$5"]) == (1.0, "correct")
    assert judge("$x^2$", r"\boxed{B}", squares) == (1.0, "correct")
