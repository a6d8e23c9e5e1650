"""The `math` verifier: verdicts by stage, golds, the same verdict from everywhere, labelled cases."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.rewards.bound import apply, lookup, option_problems
from rlvr.rewards.verified import VerifierPool
from rlvr.types import Task
from rlvr.verifiers.math_equal import gold_problem, math
from rlvr.verify import judge_cases, read_cases, report

CASES = Path(__file__).parent / "math_cases.jsonl"
SHARED_CASES = Path(__file__).parents[2] / "shared" / "data" / "math_cases_dev.jsonl"


def judge(gold: Any, answer: str) -> tuple[float | None, str, str]:
    verdict = math(rf"\boxed{{{answer}}}", gold)
    return verdict.score, verdict.outcome, verdict.stage


@pytest.mark.parametrize(
    ("gold", "answer", "stage"),
    [
        ("42", "+42.0", "number"),
        ("1000000", r"1\,000\,000", "number"),
        ("12,345", "12345", "number"),
        (r"\frac{3}{4}", "6/8", "number"),
        (r"\frac12", ".5", "number"),
        ("-2.25", r"-2\frac{1}{4}", "number"),
        ("6.02e23", r"6.02\times 10^{23}", "number"),
        (1e22, "1e22", "number"),
        ("1024", "2^{10}", "number"),
        ("1/3", r"0.\overline{3}", "number"),
        ("1/3", "0.33333333333", "number"),
        ("x=5", "5", "number"),
        ("12", r"12\text{ cm}^2", "number"),
        ("1 m", r"100\text{ cm}", "number"),
        ("100", "100 m", "number"),
        ("42", "\uff14\uff12", "exact"),
        ("2/3", "\u2154", "exact"),
        ("x+1", "x + 1", "exact"),
        ("B", r"\text{(B) } 12", "shape"),
        ("AC", "A, C", "shape"),
        ("30", r"\text{(C)}\ 30", "shape"),
        ("1011_2", "1011_{2}", "shape"),
        ("1011_2", r"11_{\text{ten}}", "shape"),
        ("2:4", "1:2", "shape"),
        ("S:T=7:32", "7:32", "shape"),
        ("(1,4.5)", r"(1,\frac{9}{2})", "shape"),
        (r"\{1,2,3\}", "3,2,1", "shape"),
        ("2,3", r"x=2 \text{ or } x=3", "shape"),
        ("x=1,y=2", r"\begin{cases}x=1\\y=2\end{cases}", "exact"),
        ("a=3,b=4", "b=4,a=3", "shape"),
        (r"x\ge 5", r"[5,\infty)", "shape"),
        ("|x|<2", "(-2,2)", "shape"),
        (r"x\ne 0", r"\mathbb{R}\setminus\{0\}", "shape"),
        ("(0,2)", r"(0,1]\cup(1,2)", "shape"),
        (r"1\pm\sqrt{2}", r"1-\sqrt{2},1+\sqrt{2}", "shape"),
        (r"\begin{pmatrix}1/2\\1\end{pmatrix}", r"\frac{1}{2}\begin{bmatrix}1\\2\end{bmatrix}", "shape"),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", "formula"),
        ("-1", r"e^{i\pi}", "formula"),
        ("5", "x=2+3=5", "formula"),
        ("y=2x+3", "2x-y+3=0", "formula"),
        (r"36\pi", r"36\pi\text{ cm}^3", "formula"),
        (r"\frac{\sqrt6-\sqrt2}{4}", r"\sin 15^\circ", "formula"),
        ("x<=1", "-x>=-1", "formula"),
    ],
)
def test_equal_answers_are_correct(gold: Any, answer: str, stage: str) -> None:
    assert judge(gold, answer) == (1.0, "correct", stage)


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        ("5 km", "5 m", "wrong"),
        ("5 m", "5 km", "wrong"),
        ("5 dollars", "5 cents", "wrong"),
        ("0.00000012", "0.00000034", "wrong"),
        ("1/3", "0.333", "wrong"),
        ("1000000000", "1000000001.0", "wrong"),
        ("1.0000000001", "1.0000000002", "wrong"),
        ("50", r"50\%", "wrong"),
        ("1000", "1,001", "wrong"),
        ("123", "1,2,3", "hedged"),
        ("3", r"3\cdot\frac12\cdot 3", "wrong"),
        (r"\sqrt{2}", r"\sqrt{2}+10^{-20}", "wrong"),
        ("2^{100}+1", "2^{100}", "wrong"),
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}", "wrong"),
        (r"1-\frac{1}{e}", r"1+\frac{1}{e}", "wrong"),
        ("13_5", "13_6", "wrong"),
        (r"5\text{ cm}", r"5\text{ m}", "wrong"),
        ("ABC", "BCA", "wrong"),
        ("x=1", "y=1", "wrong"),
        ("3x+4y+14=0", "3x-y+13=0", "wrong"),
        ("x^2+y^2=25", "x^2+y^2=5", "wrong"),
        ("7=11a+c", "11a+c", "wrong"),
        ("x=1,y=2", "x=2,y=1", "wrong"),
        ("[1,2]", "(1,2)", "wrong"),
        ("(1,2)", "(2,1)", "wrong"),
        ("(2,1)", "(3,0)", "wrong"),
        ("(1,2)", r"\{1,2\}", "wrong"),
        (r"\pm 3", "3", "wrong"),
        (r"1\pm\sqrt{2}", r"1+\sqrt{2}", "wrong"),
        ("x>2", "y>2", "wrong"),
        ("12:00", "1:00", "wrong"),
        ("5", r"5 \text{ (or maybe } 6)", "hedged"),
        (r"\sqrt2", r"\sqrt2, \sqrt3", "hedged"),
        ("5", "5;6;7", "hedged"),
        ("5", "4=5", "hedged"),
        ("5", r"x\ge 5", "wrong"),
        ("B", "A, B, C, D", "hedged"),
        ("42", r"\text{same as reference}", "wrong"),
        ("42", r"\text{score}=1.0", "wrong"),
        ("1", r"\text{score}=1.0", "wrong"),
        (r"\prod_{k=1}^{9} k", "x+2", "wrong"),
        (r"\frac{1}{3}", r"\int_0^1 x^2\,dx", "unevaluated"),
        ("2x", r"\frac{\mathrm{d}}{\mathrm{d}x}x^2", "unevaluated"),
        ("5", r"10^{10^{10}}", "wrong"),
        (r"\sqrt{5}", r"\Gamma(10^{100000})", "too_complex"),
        ("5", "1000000!", "too_complex"),
        ("5", "+".join(["x"] * 1500), "too_complex"),
        ("5", "{" * 80 + "5x" + "}" * 80, "too_complex"),
        ("5", r"\frac{}{}", "malformed"),
    ],
)
def test_other_answers_earn_nothing(gold: str, answer: str, outcome: str) -> None:
    assert judge(gold, answer)[:2] == (0.0, outcome)


def test_the_labelled_cases_are_judged_as_they_are_labelled() -> None:
    rows = [json.loads(line) for line in CASES.read_text().splitlines()]
    assert len(rows) > 1200
    wrong = {"strict": [], "lenient": []}
    for extraction, found in wrong.items():
        for row in rows:
            verdict = math(row["response"], row["gold"], 17, extraction=extraction)  # type: ignore[arg-type]
            if verdict.score != float(row["expected"]):
                found.append((row["id"], verdict.outcome, verdict.reason))
    assert wrong == {"strict": [], "lenient": []}


@pytest.mark.skipif(not SHARED_CASES.is_file(), reason="the labelled cases are not here")
@pytest.mark.parametrize(("extraction", "accuracy"), [("strict", 0.94), ("lenient", 0.99)])
def test_cases_of_others_give_no_false_positive(tmp_path: Path, extraction: str, accuracy: float) -> None:
    rows = [json.loads(line) for line in SHARED_CASES.read_text().splitlines()]
    rows = [row for row in rows if not row["ambiguous"]]
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    cases = read_cases(path)
    verdicts = judge_cases(cases, options={"extraction": extraction})
    result = report(cases, verdicts)
    assert (result["n"], result["unjudged"], result.get("false_positive")) == (328, 0, 0)
    assert result.get("accuracy", 0.0) >= accuracy  # strict refuses free text on purpose
    boxed = [
        verdict.score == float(row["expected"])
        for row, verdict in zip(rows, verdicts, strict=True)
        if "boxed" in row["response"]
    ]
    assert sum(boxed) / len(boxed) >= 0.985


# --- golds


@pytest.mark.parametrize("gold", [None, "", "  ", "$$", r"\frac{1}{2", True, [1], float("nan"), r"\frac{}{}", "?? ??"])
def test_a_bad_gold_is_never_the_models_zero(gold: Any) -> None:
    assert judge(gold, "x+2")[:2] == (None, "gold_invalid")


@pytest.mark.parametrize("gold", ["10^{10^{10}}", r"\Gamma(9^{99999})"])
def test_a_gold_that_is_too_large_for_algebra_still_equals_itself(gold: str) -> None:
    assert judge(gold, gold) == (1.0, "correct", "exact")
    assert judge(gold, "x+2")[:2] == (0.0, "wrong")


JUNK = [r"\foo", r"\sin x", "x+y", "?", r"\frac{1}{2}\frac", "5 apples", r"\text{yes}", "(1,2", "10^{10^{10}}+x"]


def test_no_answer_makes_a_good_gold_invalid() -> None:
    golds = sorted({json.loads(line)["gold"] for line in CASES.read_text().splitlines()})
    found = [(gold, junk) for gold in golds for junk in JUNK[:3] if judge(gold, junk)[0] is None]
    found += [(gold, junk) for gold in golds[::7] for junk in JUNK[3:] if judge(gold, junk)[0] is None]
    assert found == []


SAID = [
    ("6", "The answer is at least 6.", False),
    ("6", "The answer is fewer than 6.", False),
    ("6", "The answer is no longer 6.", False),
    ("6", r"The answer is $x\neq 6$.", False),
    ("6", "Answer: between 5 and 6", False),
    ("6", "The answer is 5 and 6.", False),
    ("5,6", "The answer is 5 and 6.", True),
    ("5,6", "The roots are 5 and 6.", True),
    ("5,6", "The roots are $x=5$ and $x=6$.", True),
    ("6", "The answer is 6 thousand.", False),
    ("9", "Answer: 9 (8 + 1)", True),
    ("9", "Answer: 9 (that is 3^2)", True),
    ("9", "The answer is 9, because 9 > 8.", True),
    ("8", "The answer is 9, because 9 > 8.", False),
    ("(3,4)", "Answer: x = 3, y = 4", True),
    ("[3,4]", r"Answer: $3 \le x \le 4$", True),
    ("C", "Answer: C because 3+3=6", True),
    ("9", "Answer: **9** pears", True),
    ("C", "Option C is correct.", True),
    ("C", "**C**", True),
    ("D", "Option C is correct.", False),
    ("9", r"we get \boxed{9 and then", False),
    ("9", "The answer is 9, not 10.", True),
    ("10", "The answer is 9, not 10.", False),
]


@pytest.mark.parametrize(("gold", "response", "is_right"), SAID)
def test_a_sentence_is_read_leniently_for_what_it_says(gold: str, response: str, is_right: bool) -> None:
    assert math(response, gold, extraction="lenient").score == float(is_right)


def test_a_gold_may_be_a_whole_solution_with_its_mark() -> None:
    assert judge("9 * 2 = 18 eggs.\n#### 18", "18")[0] == 1.0
    assert judge(r"so it is \boxed{18}", "18")[0] == 1.0


TASK = Task(id="t", prompt="")


@pytest.mark.parametrize(
    ("gold", "told"),
    [
        (None, "must be text or a number"),
        ("", "is empty"),
        (r"\frac{1}{2", "do not match"),
        (r"\frac{}{}", "cannot be read as mathematics"),
        ("?? ??", "cannot be read as mathematics"),
        (
            "we add up all of the numbers which are found in the table and so we get what was asked for there",
            "is prose",
        ),
    ],
)
def test_a_gold_of_no_use_is_told_of(gold: Any, told: str) -> None:
    assert told in gold_problem("math", replace(TASK, gold=gold))


@pytest.mark.parametrize(
    "gold",
    [
        *(
            "42",
            7,
            0.5,
            "x^2",
            r"\text{yes}",
            "2,3",
            "(1,2)",
            r"\{1\}",
            "10^{10^{10}}",
            "A",
            "$5$",
            r"\boxed{5}",
            "5 cm",
        ),
        *("x>2", r"\sum_{k=1}^n k", r"1,2,\ldots,n", "y=2x", r"\mathbb{R}", "12:00", "3:4", r"\emptyset", "ABC"),
        *(r"\begin{pmatrix}1\\2\end{pmatrix}", r"\pm 3", r"|x|", r"\overrightarrow{AB}"),
    ],
)
def test_a_gold_of_use_has_no_problem(gold: Any) -> None:
    assert gold_problem("math", replace(TASK, gold=gold)) == ""


def test_every_gold_of_the_cases_is_of_use() -> None:
    golds = {json.loads(line)["gold"] for line in CASES.read_text().splitlines()}
    assert {gold: told for gold in golds if (told := gold_problem("math", replace(TASK, gold=gold)))} == {}


# --- options and the trace


def test_lenient_extraction_is_an_option_that_is_checked() -> None:
    assert math("it must be 42", "42").outcome == "no_answer"
    assert math("it must be 42", "42", extraction="lenient").how == "last_number"
    assert option_problems("math", {"extraction": "lenient", "explain": True}, "options") == []
    assert "strict" in option_problems("math", {"extraction": "loose"}, "options")[0]


def test_an_explained_verdict_shows_what_each_stage_said() -> None:
    plain = math(r"so \boxed{\sqrt{12}}", r"2\sqrt3", 5)
    told = math(r"so \boxed{\sqrt{12}}", r"2\sqrt3", 5, explain=True)
    stages = told.checks["stages"]
    assert [stage["stage"] for stage in stages] == ["extract", "normalise", "number", "shape", "formula"]
    assert stages[1]["said"] == {"gold": r"2\sqrt{3}", "answer": r"\sqrt{12}"}
    assert "correct" in stages[-1]["said"]
    assert replace(told, checks={}) == plain
    assert json.loads(json.dumps(told.checks)) == told.checks


@pytest.mark.parametrize("response", ["", "none", r"\boxed{7}", r"\boxed{x}", r"\boxed{" + "9" * 3000 + "}"])
def test_a_trace_changes_no_verdict(response: str) -> None:
    assert replace(math(response, "7", explain=True), checks={}).outcome == math(response, "7").outcome


# --- the same verdict from everywhere


def sample() -> list[tuple[str, Any]]:
    rows = [json.loads(line) for line in CASES.read_text().splitlines()]
    rows = [row for row in rows if row["kind"] not in ("hostile", "echo") and "sum" not in row["gold"]]
    return [(row["response"], row["gold"]) for row in random.Random(3).sample(rows, 160)]


def outcome_of(case: tuple[str, Any]) -> tuple[float | None, str, str, str]:
    verdict = math(*case, 99)
    return verdict.score, verdict.outcome, verdict.stage, verdict.reason


def test_threads_and_coroutines_get_the_verdicts_of_the_main_thread() -> None:
    cases = sample()
    expected = [outcome_of(case) for case in cases]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(outcome_of, cases)) == expected

    async def all_of_them() -> list[Any]:
        return list(await asyncio.gather(*(asyncio.to_thread(outcome_of, case) for case in cases)))

    async def inline() -> list[Any]:
        return [outcome_of(case) for case in cases]

    assert asyncio.run(all_of_them()) == expected
    assert asyncio.run(inline()) == expected


@pytest.mark.slow
def test_eight_processes_get_the_verdicts_of_the_main_thread() -> None:
    cases = sample()
    with ProcessPoolExecutor(8, mp_context=multiprocessing.get_context("spawn")) as processes:
        assert list(processes.map(outcome_of, cases, chunksize=10)) == [outcome_of(case) for case in cases]


def test_workers_get_the_verdicts_of_the_main_thread() -> None:
    cases = sample()
    bound = lookup("math")
    with VerifierPool(["math"], workers=2, memory_mib=2048) as pool:
        jobs = [("math", response, replace(TASK, gold=gold)) for response, gold in cases]
        theirs = [(verdict.score, verdict.outcome, verdict.stage) for verdict in pool.judge(jobs)]
    ours = [apply(bound, response, replace(TASK, gold=gold)) for response, gold in cases]
    assert theirs == [(verdict.score, verdict.outcome, verdict.stage) for verdict in ours]


@given(st.integers(0, 2**60))
@settings(max_examples=25, deadline=None)
def test_no_seed_changes_a_verdict(seed: int) -> None:
    assert math(r"\boxed{a^2+2ab+b^2}", "(a+b)^2", seed).score == 1.0
    assert math(r"\boxed{a^2+2ab-b^2}", "(a+b)^2", seed).score == 0.0
    assert math(r"\boxed{\sqrt{x^2}}", "|x|", seed).score == 1.0


# --- whatever is written


@given(st.fractions(), st.fractions())
def test_rationals_are_equal_exactly_when_they_are(x: Fraction, y: Fraction) -> None:
    latex = rf"\frac{{{y.numerator}}}{{{y.denominator}}}"
    assert judge(f"{x.numerator}/{x.denominator}", latex)[0] == float(x == y)
    assert judge(f"{y.numerator}/{y.denominator}", latex)[0] == 1.0


@given(st.integers(), st.integers(min_value=0, max_value=6))
def test_an_integer_equals_itself_with_separators_and_zeros(value: int, zeros: int) -> None:
    assert judge(value, f"{value:,}." + "0" * zeros)[0] == 1.0
    assert judge(value, f"{value + 1:,}." + "0" * zeros)[0] == 0.0


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=6, unique=True), st.randoms(use_true_random=False))
def test_a_set_equals_its_items_in_any_order_and_a_tuple_in_its_own_alone(values: list[int], draw: Any) -> None:
    other = list(values)
    draw.shuffle(other)
    ours, theirs = ",".join(map(str, values)), ",".join(map(str, other))
    assert judge(rf"\{{{ours}\}}", rf"\{{{theirs}\}}")[0] == 1.0
    assert judge(f"({ours})", f"({theirs})")[0] == float(values == other)


@given(st.integers(-50, 50), st.integers(1, 50), st.sampled_from("(["), st.sampled_from(")]"))
def test_an_interval_equals_its_inequality(low: int, width: int, left: str, right: str) -> None:
    high = low + width
    signs = {"(": "<", "[": r"\le ", ")": "<", "]": r"\le "}
    assert judge(f"{left}{low},{high}{right}", rf"{low}{signs[left]}x{signs[right]}{high}")[0] == 1.0
    other = {"(": "[", "[": "("}[left]
    assert judge(f"{left}{low},{high}{right}", rf"{low}{signs[other]}x{signs[right]}{high}")[0] == 0.0


ALPHABET = [*"0123456789,./%^_{}()[]\\ =<>|;xfracsqtpmo", r"\text{", r"\pm ", r"\cup ", r"\le ", r"\infty ", "or"]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(ALPHABET), max_size=14).map("".join), st.sampled_from(["7", r"\sqrt{2}", "(1,2)", "x>1"])
)
def test_whatever_is_boxed_gets_a_verdict(answer: str, gold: str) -> None:
    verdict = math(rf"\boxed{{{answer}}}", gold)
    assert verdict.score in (0.0, 1.0)
    assert verdict.reason


HOSTILE = [
    r"\sum_{k=1}^{10^9}\frac{1}{k^2}+x",
    r"7^{7^{7}} \bmod 10",
    r"\gcd(10^{100000}, 7)",
    r"\binom{10^9}{10^8}",
    r"9999!^{999}",
    r"x^{9999}-y^{9999}\cdot(1+x)^{99}",
    r"\sqrt{" * 23 + "2" + "}" * 23,
    "x" + "^2" * 300,
    r"\frac{d^{50}}{dx^{50}} e^{\sin x}",
    r"\sin(" * 20 + "x" + ")" * 20,
    "1" * 1900,
    r"99^{9999}+\sqrt{2}^{9999}",
    "(" * 900,
    ",".join(f"\\sqrt{{{k}}}" for k in range(200)),
    "\\text{" * 300,
    "\\frac{" * 300,
    " or ".join(["x"] * 400),
    "|" * 1500,
    "1,000" * 300,
]


def test_hostile_answers_end_at_the_deadline_and_earn_nothing() -> None:
    with VerifierPool(["math"], workers=2, memory_mib=2048) as pool:
        task = Task(id="t", prompt="", gold=r"\sqrt{5}+1")
        jobs = [("math", rf"\boxed{{{answer}}}", task) for answer in HOSTILE]
        verdicts = pool.judge(jobs)
        after = pool.judge([("math", r"\boxed{1+\sqrt{5}}", task)])
    assert [verdict.score for verdict in verdicts] == [0.0] * len(HOSTILE)
    assert after[0].score == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        r"\sin^{99}(x)\cos^{98}(x)\tan^{97}(x)+\Gamma(x)^{96}",
        "1" * 1900,
        "9999!^{999}",
        "x^{50}-3x^{49}+x^7>2",
        r"\sqrt{x+\sqrt{x+\sqrt{x}}}>1",
        "|" * 8 + "x" + "-1|" * 8 + "<2",
        r"\frac{1}{1+" * 10 + "x" + "}" * 10 + "<2",
    ],
)
def test_what_costs_algebra_long_is_refused_before_it(answer: str) -> None:
    assert judge(r"\sqrt{5}+1", answer) == (0.0, "too_complex", "guard")


@pytest.mark.parametrize("sides", [r"\sqrt{2}\text{ m} = \sqrt{3}\text{ m}", r"x+1 m = x-1 m", r"\pi m = 2\pi m"])
def test_two_values_joined_by_an_equals_sign_are_hedged_with_a_unit_too(sides: str) -> None:
    for side in sides.split("="):
        gold = side.strip().removesuffix(r"\text{ m}").removesuffix(" m")
        assert judge(gold, sides)[:2] == (0.0, "hedged")


@pytest.mark.parametrize("gold", ["2020-01-01", "05/06/2021", "555-1234", r"\text{2020-01-01}"])
def test_a_date_is_compared_as_written(gold: str) -> None:
    assert judge(gold, gold)[0] == 1.0
    for value in ("2018", "5/12126", "-679", "2020-1-1", "2020-02-00"):
        assert judge(gold, value)[0] == 0.0
