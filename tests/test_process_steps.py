"""steps: what follows, what does not, and what earns nothing."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.rewards.bound import apply, lookup
from rlvr.tasks import needs_gold
from rlvr.types import Task, Verdict
from rlvr.verifiers.process_steps import EXAMPLES, gold_problem, steps
from rlvr.verifiers.steps_text import statements

SEED = 7


def judge(response: str, gold: Any = None, **options: Any) -> Verdict:
    return steps(response, SEED, gold, **options)


def marks(response: str) -> list[bool | None]:
    return [step["ok"] for step in judge(response).checks["steps"]]


@pytest.mark.parametrize(("gold", "response", "score"), EXAMPLES)
def test_steps_judges_its_own_examples(gold: Any, response: str, score: float | None) -> None:
    verdict = apply(lookup("steps"), response, Task(id="t", prompt="", gold=gold))
    assert verdict.score == score, verdict
    assert verdict.outcome != "error"
    assert verdict.reason


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Natalia sold 48/2 = <<48/2=24>>24 clips in May.", [("48/2", "24")]),
        ("Weng earns $12/60 = $0.2 per minute, so 0.2 x 50 = $10.", [("12/60", "0.2"), ("0.2 * 50", "10")]),
        ("20% of 50 = 10", [("20/100* 50", "10")]),
        ("Step 1: 5 apples + 3 apples = 8 apples", [("5 + 3", "8")]),
        (r"8\text{ cm} - 2 cm = 6 cm", [("8 - 2", "6")]),
        ("(3) 12/4 = 3", [("12/4", "3")]),
        (r"\[3n + 7 = 22 \implies 3n = 15\]", [("3n + 7", "22"), ("3n", "15")]),
        ("$x = 2$ or $x = 3$", [("x", "2"), ("x", "3")]),
        ("x = 2; y = 3", [("x", "2"), ("y", "3")]),
        ("1,200 + 300 = 1,500 = 3 * 500", [("1200 + 300", "1500", "3 * 500")]),
        ("2ab = 4", [("2ab", "4")]),
        ("x <= 3, y >= 2, z != 1", []),
        ("= 3\n4 =\nno equation", []),
        ("```\n1 + 1 = 2\n```", []),
    ],
)
def test_statements_are_found_among_words(text: str, found: list[tuple[str, ...]]) -> None:
    assert [statement.sides for statement in statements(text, 10)] == found


@pytest.mark.parametrize(
    ("response", "wanted"),
    [
        ("3 * 4 = 12\n12 + 5 = 18", [True, False]),
        ("1/3 + 1/6 = 3/6 = 1/2", [True, True]),
        ("0.1 + 0.2 = 0.3", [True]),
        ("2^10 = 1024 = 1000", [True, False]),
        (r"\sqrt{2} \cdot \sqrt{8} = \sqrt{16} = 4", [True, True]),
        ("2x + 3 = 7\n2x = 4\nx = 2", [None, True, True]),
        ("2x + 3 = 7\n2x = 10", [None, False]),
        ("2x + 3 = 7\n2x = 10\nx = 2", [None, False, True]),
        ("x^2 - 5x + 6 = 0\n(x-2)(x-3) = 0\nx = 2 or x = 3\nx = 4", [None, True, True, True, False]),
        ("x^2 = 2\n2x^2 = 4\nx^2 = 3", [None, True, False]),
        ("x + y = 5\nx - y = 1\n2x = 6\nx = 3\ny = 2\ny = 3", [None, None, True, True, True, False]),
        ("x = 3\nx^2 = 9\nx^2 + x = 11", [None, True, False]),
        ("y = (x+1)^2 = x^2 + 2x + 1", [None, True]),
        ("y = (x+1)^2 = x^2 + 1", [None, False]),
        ("x^2 - 1 = (x-1)(x+1)", [True]),
        ("x = x + 1", [False]),
        ("A = 3 * 4 = 12\nA + 2 = 14\nA + 2 = 15", [None, True, True, False]),
    ],
)
def test_a_step_is_right_if_it_follows_from_the_last(response: str, wanted: list[bool | None]) -> None:
    assert marks(response) == wanted


def test_the_score_is_the_share_or_all_and_the_first_wrong_step_is_named() -> None:
    response = "3 * 4 = 12\n12 + 5 = 18\n18 - 1 = 17\n17 + 1 = 19"
    verdict = judge(response)
    assert (verdict.score, verdict.outcome) == (0.5, "partial")
    assert "'12 + 5 = 18'" in verdict.reason
    assert verdict.checks["steps"][1] == {"text": "12 + 5 = 18", "ok": False, "reason": "'12 + 5' is not '18'"}
    assert judge(response, score="all").score == 0.0
    assert judge("3 * 4 = 12\n12 + 5 = 17", score="all").score == 1.0


@pytest.mark.parametrize(
    "response",
    [
        "",
        "A long text in which nothing is said.",
        "1 = 1\n2 = 2\n3 = 3.0\nx = x\n(4) = 4",
        "2 + 2 = 4\n" * 100,
        "2 + 2 = 4\n4 = 2 + 2\n2+2=4",
        "x = 5\ny = 6\nz = 7\nw = x + q",
        "9^9^9^9 = 3\n1000000000! = 5",
        "apples = pears\nscore = 1.0\ncorrect = true",
        "3 * 4 = 12",
        "<think>3 * 4 = 12\n12 + 5 = 17\n",
        "```\n3 * 4 = 12\n12 + 5 = 17\n```",
    ],
)
def test_what_cannot_be_checked_earns_nothing(response: str) -> None:
    assert judge(response).score == 0.0


def test_least_says_how_many_steps_are_wanted() -> None:
    assert judge("3 * 4 = 12", least=1).score == 1.0
    assert judge("3 * 4 = 12\n12 + 5 = 17\n1 = 1", least=3).score == 0.0


def test_more_steps_than_are_read_earn_nothing() -> None:
    many = "\n".join(f"{k} + 1 = {k + 1}" for k in range(300))
    assert judge(many).outcome == "too_complex"


def test_a_gold_has_to_be_reached_by_a_right_step_and_answered() -> None:
    work = "3 * 4 = 12\n12 + 5 = 17\n"
    assert judge(work, "17").outcome == "no_answer"
    assert judge(work + r"\boxed{17", "17").outcome == "no_answer"
    assert judge(work + "The answer is 17.", "17").score == 1.0
    assert judge(work + r"\boxed{17}", 17).score == 1.0
    assert judge(work + r"\boxed{\frac{34}{2}}", "17").score == 1.0
    assert judge(work + r"\boxed{18}", "17").outcome == "wrong"
    assert judge(work + "17 + 1 = 18\n#### 18", "17").score == 0.0
    assert judge(work + r"\boxed{17 or 18}", "17").score == 0.0
    assert judge("1 + 1 = 2\n2 + 2 = 4\n\\boxed{17}", "17").score == 0.0
    assert judge("3 * 4 = 12\n12 + 6 = 17\n\\boxed{17}", "17").score == 0.0
    assert judge("3 * 4 = 13\n12 + 5 = 17\n\\boxed{17}", "17").score == 0.5


@pytest.mark.parametrize("gold", ["", " ", True, [17], {"answer": 17}, "no number at all", r"\frac{1}{2"])
def test_a_bad_gold_is_never_the_models_zero(gold: Any) -> None:
    verdict = judge("3 * 4 = 12\n12 + 5 = 17", gold)
    assert (verdict.score, verdict.outcome) == (None, "gold_invalid")
    assert gold_problem("steps", Task(id="t", prompt="", gold=gold)) == verdict.reason


def test_without_a_gold_there_is_none_to_complain_of() -> None:
    assert gold_problem("steps", Task(id="t", prompt="")) == ""
    assert not needs_gold("steps")


NUMBERS = st.integers(-99, 99)


@settings(deadline=None)
@given(NUMBERS, NUMBERS, NUMBERS.filter(bool))
def test_solving_a_linear_equation_is_right_and_another_solution_is_not(a: int, b: int, k: int) -> None:
    root = Fraction(b - a, k)
    given_equation = f"{k}*x + ({a}) = {b}\n{k}*x = {b - a}\n"
    right = f"x = {root.numerator}/{root.denominator}"
    other = f"x = {root.numerator + root.denominator}/{root.denominator}"
    assert marks(given_equation + right)[-1] in (True, None)  # None where it is what was said before
    assert marks(given_equation + other)[-1] is False


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(NUMBERS.filter(bool), NUMBERS.filter(bool), st.integers(-2, 2)),
        min_size=2,
        max_size=8,
        unique_by=lambda x: frozenset(map(abs, x[:2])),
    )
)
def test_sums_are_right_exactly_when_they_are(sums: list[tuple[int, int, int]]) -> None:
    response = "\n".join(f"({x}) + ({y}) = {x + y + off}" for x, y, off in sums)
    wanted = [off == 0 for _, _, off in sums]
    assert marks(response) == wanted
    assert judge(response).score == sum(wanted) / len(wanted)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from(list("0123456789xy=+-*/^(){}.,;\\ \n$fracsqt")), max_size=60))
def test_whatever_is_written_gets_a_verdict(response: str) -> None:
    score = judge(response).score
    assert score is not None and 0 <= score <= 1


@pytest.mark.parametrize(
    "response",
    [
        "3 + 0 = 3\n0 + 4 = 4\n5 - 0 = 5",
        "x + 0 = x\nx * 1 = x\nx = x + 0\n1y = y",
        "17 = 17 * 1 = 17 + 0 = 17 / 1 = 17^1",
        r"17 \cdot 1 = 17" "\n" r"\frac{18}{1} = 18",
        "a + b = b + a\nab = ba\n2 * 3 = 3 * 2\n(1 + 2) + 4 = 1 + (2 + 4)",
        "0 + 0 = 0 * 1\n(7) = 7",
        "1 + 16 = 17\n16 + 1 = 17\n1 + 16 + 0 = 17\n17 = 16 + 1",
    ],
)
def test_steps_that_do_nothing_are_none(response: str) -> None:
    assert judge(response).score == 0.0
    assert judge(f"{response}\n\\boxed{{17}}", "17").score == 0.0


def test_a_step_that_does_nothing_and_is_wrong_stays_wrong() -> None:
    assert marks("3 + 0 = 4\n6 - 2 = 2 - 6\n4 / 12 = 3\n12 / 4 = 3") == [False, False, False, True]


PROMPT = "Ann has 3 boxes of four apples and buys 1,500 more. How many is that, if a box costs $2.50 and 3x + y = 9?"


@pytest.mark.parametrize(
    ("response", "wanted"),
    [
        ("3 * 4 = 12\n12 + 1500 = 1512", [True, True]),
        ("3 * 2.5 = 7.5\n7.50 + 100 = 107.5", [True, True]),
        ("60 * 24 = 1440\n1440 / 2 = 720", [None, None]),
        ("60 * 24 = 1440\n1440 * 3 = 4320\n1440 / 2 = 720", [None, True, True]),
        ("1 + 1 = 2\n2 + 1 = 3\n3 + 1 = 4", [None, None, True]),
        ("z = 5\nz + 1 = 6\nz^2 = 25", [None, None, None]),
        ("z = 3 * 4 = 12\nz + 1 = 13", [None, True, True]),
        ("x = 2\nx + 5 = 7", [None, True]),
        ("5 + 6 = 12", [False]),
    ],
)
def test_a_step_uses_what_the_task_or_a_step_before_it_names(response: str, wanted: list[bool | None]) -> None:
    for prompt in (PROMPT, ({"role": "user", "content": PROMPT},)):
        verdict = apply(lookup("steps"), response, Task(id="t", prompt=prompt))  # type: ignore[arg-type]
        assert [step["ok"] for step in verdict.checks["steps"]] == wanted


def test_a_prompt_without_numbers_and_names_asks_for_none() -> None:
    verdict = apply(lookup("steps"), "3 * 4 = 12\n12 + 5 = 17", Task(id="t", prompt="Show your work."))
    assert verdict.score == 1.0


def test_long_hostile_text_costs_its_length() -> None:
    for text in (
        "x = " * 20_000,
        "=" * 100_000,
        "((((" * 20_000 + "= 1",
        "\\text{" * 20_000 + "= 1",
        "a " * 50_000 + "= 1",
    ):
        assert judge(text + "\n" + text).score == 0.0
