"""numeric: numbers with tolerances and units."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards.bound import apply, lookup, option_problems
from rlvr.types import Task
from rlvr.verifiers.numeric import EXAMPLES, gold_problem, numeric
from rlvr.verifiers.numeric_units import read_unit


@pytest.mark.parametrize(("gold", "response", "score"), EXAMPLES)
def test_numeric_judges_its_own_examples(gold: Any, response: str, score: float | None) -> None:
    verdict = apply(lookup("numeric"), response, Task(id="t", prompt="", gold=gold))
    assert verdict.score == score, verdict
    assert verdict.outcome != "error"
    assert verdict.reason


def judge(gold: Any, answer: str, **options: Any) -> tuple[float | None, str]:
    verdict = numeric(rf"\boxed{{{answer}}}", gold, **options)
    return verdict.score, verdict.outcome


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5000 m", "5e3 m"),
        ("10 square meters", "100000 cm^2"),
        ("10 m^2", r"100000\text{ cm}^2"),
        ("2.5 hours", "150 minutes"),
        ("1 kWh", "3.6 MJ"),
        ("60 mph", "96.56064 km/h"),
        ("20 °C", "68 °F"),
        ("3 ft", "1 yd"),
        ("1 year", "12 months"),
        ("180 degrees", r"180^\circ"),
        ("1500 J", "1.5e3 N m"),
        ("9.81 m/s^2", r"9.81 \text{ m/s}^2"),
        ("1000", r"\$1,000"),
        ("5 km", "5"),
        ("5", "5 km"),
        ("5 km", "5 km long"),
        ("5 red marbles", "5 marbles"),
        ("42", r"\approx 42"),
        ("42", "x = 42"),
        ("42", "6/1 \\cdot 7 = 42"),
        ("1/3", "0.3333333333"),
        ("0", "-0.0"),
    ],
)
def test_the_same_quantity_is_correct(gold: str, answer: str) -> None:
    assert judge(gold, answer) == (1.0, "correct")


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        ("1/3", "0.333", "wrong"),
        ("5 km", "5 kg", "wrong"),
        ("5 km", "5 bananas", "wrong"),
        ("5 apples", "5 km", "wrong"),
        ("5 m", "5 m^2", "wrong"),
        ("180 degrees", "180 radians", "wrong"),
        ("5 GB", "5 Gbit", "wrong"),
        ("1 month", "30 days", "wrong"),
        ("42", "between 41 and 43", "hedged"),
        ("42", "42 to 43", "hedged"),
        ("42", r"42 \text{ or } 43", "hedged"),
        ("42", "40 + 2", "malformed"),
        ("42", "nan", "malformed"),
        ("42", "1" * 3000, "too_complex"),
        ("42", "9^{9^{9^9}}", "malformed"),
        ("42", "1e999999999", "malformed"),
    ],
)
def test_other_answers_earn_nothing(gold: str, answer: str, outcome: str) -> None:
    assert judge(gold, answer) == (0.0, outcome)


def test_a_tolerance_is_relative_to_the_gold_and_exact_at_its_edge() -> None:
    assert judge("100", "101", tolerance=0.01) == (1.0, "correct")
    assert judge("100", "101.0000001", tolerance=0.01) == (0.0, "wrong")
    assert judge("-100", "-99", tolerance=0.01) == (1.0, "correct")
    assert judge("0", "0.001", tolerance=0.5) == (0.0, "wrong")


def test_an_absolute_tolerance_is_in_the_units_of_the_gold() -> None:
    assert judge("100", "101", absolute=1.0) == (1.0, "correct")
    assert judge("100", "101.01", absolute=1.0) == (0.0, "wrong")
    assert judge("5 km", "5003 m", absolute=4.0) == (1.0, "correct")  # both in metres, where the units differ


def test_a_percentage_is_its_hundredth_part_unless_either_form_is_taken() -> None:
    assert judge("50%", "0.5") == (1.0, "correct")
    assert judge("50%", "50") == (0.0, "wrong")
    assert judge("50%", "50", percent="either") == (1.0, "correct")
    assert judge("50", r"50\%", percent="either") == (1.0, "correct")
    assert judge("0.5", r"50\%", percent="either") == (1.0, "correct")
    assert judge("50%", "5000", percent="either") == (0.0, "wrong")


def test_units_can_be_required_or_ignored() -> None:
    assert judge("5 km", "5", units="required") == (0.0, "wrong")
    assert judge("5 km", "5000 m", units="required") == (1.0, "correct")
    assert judge("5 km", "5 m", units="ignore") == (1.0, "correct")


@pytest.mark.parametrize("gold", [None, True, [1], {}, "", "  ", "x", "12 or 13", float("inf"), 10**2000])
def test_a_bad_gold_is_never_the_models_zero(gold: Any) -> None:
    assert judge(gold, "1") == (None, "gold_invalid")
    assert gold_problem("numeric", Task(id="t", prompt="", gold=gold))


def test_options_are_checked_before_anything_starts() -> None:
    assert option_problems("numeric", {"tolerance": 0.01, "percent": "either", "units": "ignore"}, "o") == []
    problems = option_problems("numeric", {"tolerance": -1.0, "absolute": float("nan"), "unit": "km"}, "o")
    assert [line.partition(":")[0] for line in problems] == ["o.tolerance", "o.absolute", "o.unit"]


def test_case_tells_prefixes_apart_where_it_must() -> None:
    milli, mega = read_unit("mW"), read_unit("MW")
    assert milli is not None and mega is not None
    assert mega.factor / milli.factor == 10**9
    assert read_unit("mw") is None
    assert read_unit("KM") == read_unit("km")
    assert read_unit("m per fortnight") is None


@given(st.fractions(), st.fractions(), st.sampled_from(["mm", "cm", "m", "km", "in", "ft", "yd", "mi"]))
def test_lengths_are_equal_exactly_when_they_are_in_metres(x: Fraction, y: Fraction, name: str) -> None:
    unit = read_unit(name)
    assert unit is not None
    gold, answer = f"{x.numerator}/{x.denominator} m", f"{y.numerator}/{y.denominator} {name}"
    assert judge(gold, answer)[0] == float(x == y * unit.factor)


@given(st.text(alphabet=st.sampled_from(list("0123456789,./%^_{}()\\ =kmgsh$°")), max_size=16))
def test_whatever_is_boxed_gets_a_verdict(answer: str) -> None:
    assert numeric(rf"\boxed{{{answer}}}", "7 km").score in (0.0, 1.0)
