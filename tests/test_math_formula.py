"""The evaluator of formulas: equal is True, proven different False, anything unclear None."""

from __future__ import annotations

import inspect
import json
import math
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import mpmath
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.rewards.bound import apply, lookup
from rlvr.types import Task
from rlvr.verifiers import math_formula
from rlvr.verifiers.math_formula import evaluate_exact, formula, same_value
from rlvr.verifiers.math_formula_numbers import Precision, Undecided, exact_root
from rlvr.verifiers.math_spelling import normalised

SEED = 20_240

EQUAL = [
    (r"\mu(1-\mu)", r"\mu-\mu^2"),
    (r"\frac h{2}", "h/2"),
    (r"\frac{3+\sqrt5}{2}", r"1.5+\frac{\sqrt{5}}{2}"),
    (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"),
    (r"\frac{1}{\sqrt3}", "sqrt(3)/3"),
    ("sqrt3", r"\sqrt{3}"),
    (r"2^{1/2}", r"\sqrt 2"),
    (r"\sqrt[3]{-8}", "-2"),
    (r"\sqrt[3]{2}", "2^{1/3}"),
    (r"e^{i\pi}", "-1"),
    ("(1+i)^2", "2i"),
    (r"\sqrt{-4}", "2i"),
    ("i^i", r"e^{-\pi/2}"),
    (r"e^{ix}", r"\cos x+i\sin x"),
    (r"\text{e}^2", "e^2"),
    ("pi/4", r"\frac{\pi}{4}"),
    ("2**3", "8"),
    ("a*b", "ba"),
    ("xy", "yx"),
    (r"3\frac{1}{2}", "7/2"),
    ("2 1/3", r"\frac73"),
    (r"0.1\overline{6}", r"\frac16"),
    ("1,234+x", "x+1234"),
    ("(x+1)^2", "x^2+2x+1"),
    ("(x+y+z)^{200}", "(z+y+x)^{200}"),
    ("x^{2023}+1", "1+x^{2022}x"),
    ("2^{100000}", r"4\cdot2^{99998}"),
    (r"\sqrt{1/n}", r"\frac{1}{\sqrt n}"),
    (r"\ln x^2", r"2\ln x"),
    (r"\log_2 8", "3"),
    (r"\log_3 x", r"\frac{\ln x}{\ln 3}"),
    (r"\frac12\log x", r"\log\sqrt x"),
    (r"\cos^2 x+\sin^2 x", "1"),
    (r"\sin\pi", "0"),
    (r"\sin 30^\circ", r"\frac12"),
    (r"\cos 2x", r"1-2\sin^2x"),
    (r"\sin(x)^2", r"\sin^2 x"),
    (r"\tan^{-1} 1", r"\frac\pi4"),
    (r"\arcsin 1", r"\pi/2"),
    (r"\arccos\frac12", r"\frac{\pi}{3}"),
    (r"\sinh x", r"\frac{e^x-e^{-x}}{2}"),
    (r"\lfloor\pi\rfloor", r"\lceil e\rceil"),
    ("||x|-1|", "|1-|x||"),
    ("n!", "n(n-1)!"),
    (r"\frac{7!}{3!4!}", "35"),
    ("-2^2", "-4"),
    ("a/b/c", r"\frac{a}{bc}"),
    (r"\ln|x^2+1|+C", r"C+\ln(1+x^2)"),
    (r"2.5\times10^{-3}x", r"\frac{x}{400}"),
    (r"\sin 45^\circ\cos 45^\circ", "0.5"),
    (r"\frac{1}{2}\sin 2x", r"\sin x\cos x"),
    (r"\pi r^2h", r"\frac{3\pi r^2h}{3}"),
    (r"1-i\sqrt{3}", r"2e^{-i\pi/3}"),
    (r"\alpha\beta", r"\beta\alpha"),
    (r"x^{-\frac12}", r"\frac{1}{\sqrt x}"),
    (r"\sqrt[4]{x^2}", r"\sqrt{|x|}"),
    (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"),
    ("(-1)^{2n}", "1"),
    (r"\cos(n\pi)", "(-1)^n"),
    ("x_{1}+1", "1+x_1"),
    ("1.41421356237", r"\sqrt2"),
    ("0.3333333333x", r"\frac x3"),
    (r"\frac{\sqrt{x^2-4}}{2}", r"\sqrt{\frac{x^2}{4}-1}"),
    (r"\sqrt{-x}", r"\frac{-x}{\sqrt{-x}}"),
    (r"(\sqrt2)^2-2", "0"),
    ("y=2x+3", "2x-y+3=0"),
    ("x=5", "2x=10"),
    ("f(x)=2x+1", "f(x)=1+2x"),
    (r"\frac{x^2}{4}+\frac{y^2}{9}=1", "9x^2+4y^2=36"),
    (r"y=\sqrt{x}", "x^{1/2}=y"),
]

DIFFERENT = [
    (r"\mu(1-\mu)", r"\mu+\mu^2"),
    (r"\zeta", r"\zeta+1"),
    ("1.0000001", "1.0000002"),
    ("0.00000012", "0.00000034"),
    ("1.414", r"\sqrt2"),
    ("1.41421356236", r"\sqrt2"),
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
    ("2^{100}+1", "2^{100}"),
    ("2^{100000}+1+x", "2^{100000}+x"),
    (r"\frac{2^{2005}+1}{3\cdot2^{2006}}", r"\frac{1}{3\cdot 2^{2006}}"),
    (r"\sqrt2", r"\sqrt2+10^{-20}"),
    (r"\sqrt2", r"\sqrt2+10^{-200}"),
    (r"\sqrt{10^{100}+1}", "10^{50}"),
    ("e^{216}", "e^{216}+10^{-15}"),
    (r"1-\frac1e", r"1+\frac1e"),
    ("(x+y+z)^{200}", "(z+y+x)^{201}"),
    ("x^{12345678}", "x^{12345679}"),
    ("|x-1|", "x-1"),
    ("(-1)^n", "1"),
    ("0.33x", r"\frac x3"),
    ("x+1", "y+1"),
    ("y=2x+3", "y=2x+4"),
    ("x=5", "x=6"),
    ("x+y=1", "x+y=2"),
    ("f(x)=2x+1", "f(x)=2x"),
]

UNDECIDED = [
    (r"\Gamma(5)", "24"),
    (r"\Gamma(5)", r"4\Gamma(4)"),
    (r"\Gamma\left(5\right)", r"5\Gamma"),
    (r"\Gamma {(5)}", r"5\Gamma"),
    (r"\zeta(2)", r"\frac{\pi^2}{6}"),
    (r"\zeta^2(3)", r"3\zeta^2"),
    (r"\psi_0(1)", r"\psi_0"),
    (r"\phi(12)", "4"),
    (r"\phi(4)", r"2\phi(2)"),
    ("f^{-1}(3)", "3/f"),
    ("|x|", "x"),  # the same for positive x
    (r"\sqrt{x^2}", "x"),
    ("ABC", "BCA"),
    ("no", "on"),
    ("cat", "act"),
    (r"\frac{dy}{dx}", r"\frac{y}{x}"),
    ("[x]", "x"),
    ("5 cm", "5 m"),
    (r"\log 100", "2"),  # to base 10, but not to base e
    (r"\log x", r"\ln x"),
    ("1/2x", r"\frac{1}{2x}"),
    ("0^0", "1"),
    (r"\frac{1}{\sqrt{2}-\sqrt{2}}", "1"),
    ("f(x)+1", "1+f(x)"),
    ("x^2=4", "x=2"),
    ("x=5", "5"),
    ("0,111", "0.111"),
    ("(1,234)", "1234"),
    (r"\infty", r"\infty+1"),
    (r"\sum_{k=1}^3 k", "6"),
    (r"\pm 1", "1"),
    (r"2\frac{3}{2}", "3"),
    ("2e-3", "2e - 3"),
    ("30^\\circ", "30"),
    ("12:00", "12"),
    ("5!!", "120"),
    ("", ""),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_formulas_are_found_equal_either_way_round(gold: str, answer: str) -> None:
    g, a = normalised(gold), normalised(answer)
    assert [same_value(g, a, SEED), same_value(a, g, SEED)] == [True, True]


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_formulas_are_proven_different_either_way_round(gold: str, answer: str) -> None:
    g, a = normalised(gold), normalised(answer)
    assert [same_value(g, a, SEED), same_value(a, g, SEED)] == [False, False]


@pytest.mark.parametrize(("gold", "answer"), UNDECIDED)
def test_what_is_unclear_is_left_to_others(gold: str, answer: str) -> None:
    g, a = normalised(gold), normalised(answer)
    assert [same_value(g, a, SEED), same_value(a, g, SEED)] == [None, None]


def test_verdicts_do_not_depend_on_the_seed() -> None:
    for seed in range(20):
        assert all(same_value(normalised(g), normalised(a), seed) for g, a in EQUAL)
        assert not any(same_value(normalised(g), normalised(a), seed) for g, a in DIFFERENT)


def test_points_follow_from_the_seed_alone() -> None:
    none: frozenset[str] = frozenset()
    first = math_formula._point(1, ["x", "y"], none, 0)
    assert first == math_formula._point(1, ["y", "x"], none, 0)
    assert len({*first.values(), *math_formula._point(2, ["x", "y"], none, 0).values()}) == 4


def test_natural_points_take_all_combinations_of_odd_and_even() -> None:
    names = ["k", "m", "n"]
    points = [math_formula._point(9, names, frozenset(names), k) for k in range(8)]
    assert len({tuple(point[name] % 2 for name in names) for point in points}) == 8


def test_exact_constants_are_returned_as_fractions() -> None:
    assert evaluate_exact(r"3\frac{1}{2}") == Fraction(7, 2)
    assert evaluate_exact(r"\binom{10}{3}+\sqrt{16}-2^{-1}") == Fraction(247, 2)
    assert evaluate_exact(r"\frac{1}{2004!}") == Fraction(1, math.factorial(2004))
    assert evaluate_exact(r"\sqrt{2}") is None
    assert evaluate_exact("x") is None
    assert evaluate_exact("1/0") is None


# --- against sympy


X, Y = sympy.symbols("x y", positive=True)


def _leaf(rng: random.Random, names: bool) -> sympy.Expr:
    kind = rng.random()
    if names and kind < 0.5:
        return rng.choice([X, Y])
    if kind < 0.85:
        return sympy.Rational(rng.randint(1, 12), rng.choice([1, 1, 1, rng.randint(2, 9)]))
    return rng.choice([sympy.pi, sympy.E, sympy.sqrt(rng.randint(2, 15))])


def _expression(rng: random.Random, depth: int, names: bool) -> sympy.Expr:
    if depth == 0:
        return _leaf(rng, names)
    a, b = _expression(rng, depth - 1, names), _expression(rng, depth - 1, names)
    return rng.choice(
        [
            a + b,
            a - b,
            a * b,
            a**2 - b,
            a / b if b != 0 else a,
            a ** rng.choice([2, 3]),
            sympy.sqrt(a**2 + 1),
            rng.choice([sympy.sin, sympy.cos, sympy.exp])(a),
            sympy.log(a**2 + 2),
        ]
    )


def _latex(expression: sympy.Expr) -> str:
    return normalised(sympy.latex(expression, ln_notation=True))


def _pair_of_forms(rng: random.Random, names: bool, depth: int) -> tuple[Any, Any] | None:
    expression = _expression(rng, depth, names)
    if expression.has(sympy.zoo, sympy.nan, sympy.oo):
        return None
    return expression, rng.choice([sympy.expand, sympy.factor, sympy.together, sympy.radsimp])(expression)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.integers(1, 3))
def test_what_sympy_rewrites_is_never_different_and_what_is_disturbed_never_equal(
    seed: int, names: bool, depth: int
) -> None:
    rng = random.Random(seed)
    if (forms := _pair_of_forms(rng, names, depth)) is None:
        return
    gold, other = _latex(forms[0]), forms[1]
    assert same_value(gold, _latex(other), seed) is not False
    for disturbed in (other + sympy.Rational(1, 10 ** rng.randint(1, 25)), other * sympy.Rational(1001, 1000)):
        if disturbed != other:
            assert same_value(gold, _latex(disturbed), seed) is not True


def test_nearly_all_that_sympy_rewrites_is_found_equal_and_disturbed_different() -> None:
    equal, different = [], []
    for seed in range(120):
        rng = random.Random(seed)
        if (forms := _pair_of_forms(rng, seed % 2 == 0, 2)) is None:
            continue
        gold = _latex(forms[0])
        equal.append(same_value(gold, _latex(forms[1]), seed) is True)
        different.append(same_value(gold, _latex(forms[1] + sympy.Rational(1, 1000)), seed) is False)
    assert len(equal) > 100
    assert sum(equal) / len(equal) > 0.95
    assert sum(different) / len(different) > 0.9


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_the_truth_is_within_every_ball(seed: int) -> None:
    """A random walk through the operations at 60 bits, beside the same one at 800."""
    rng = random.Random(seed)
    coarse, fine = Precision(60), Precision(800)
    pool = [(value, value) for value in (2, Fraction(rng.randint(1, 99), 7), Fraction(-rng.randint(1, 99), 64), 3)]
    operations = "add multiply divide power square_root exp log sine cosine arc_tangent absolute".split()
    for _ in range(12):
        name = rng.choice(operations)
        arity = 2 if name in ("add", "multiply", "divide", "power") else 1
        chosen = [rng.choice(pool) for _ in range(arity)]
        try:
            rough = getattr(coarse, name)(*(pair[0] for pair in chosen))
            true = getattr(fine, name)(*(pair[1] for pair in chosen))
        except Undecided:
            continue
        pool.append((rough, true))
        if isinstance(rough, tuple):
            gap = fine.ball(fine.add(fine.ball(rough), fine.negative(true)))
            size = max(part[2] + part[3] if part and part[1] else -math.inf for part in gap[:2])
            assert size - 1 <= rough[2] + 0.5, (name, chosen)
        else:
            assert rough == true


@given(st.integers(0, 10**40), st.integers(2, 12))
def test_roots_of_whole_powers_are_exact(base: int, degree: int) -> None:
    assert exact_root(base**degree, degree) == base
    if base > 1:
        assert exact_root(base**degree + 1, degree) is None


# --- hostile texts


HOSTILE = [
    "9^{9^{9^9}}",
    "10^{10^{10}}",
    "2^{" * 100 + "2" + "}" * 100,
    "{" * 250 + "1" + "}" * 250,
    "{" * 500 + "1" + "}" * 500,
    "(" * 600,
    "-" * 599 + "1",
    "+".join(f"x^{{{i}}}" for i in range(3000)),
    r"\sqrt{x}+" + "+".join(f"x^{i}" for i in range(110)),
    r"\sqrt{x}+x^{12345678}",
    "1000000!",
    "(10^{10})!",
    "2500!" * 100,
    "+".join(rf"\frac{{1}}{{{2500 - i}!}}" for i in range(40)),
    r"\sqrt{x}" + "".join(f"(x^{{{900 + i}}}+1)/(x^{{{900 - i}}}+3)+" for i in range(20)) + "1",
    r"\sin(10^{500})+\sin x",
    "e^{e^{e^{e^x}}}",
    r"\binom{2500}{1250}^{20}",
    r"\sqrt{2}+10^{-700}" + r"+\sin x" * 60,
    "((((n!)!)!)!)!",
    "n^{n^{n^{n}}}",
    r"\lfloor\pi^{100000}\rfloor",
    r"\frac" * 100,
    "x_" * 300,
    "|" * 600,
    "." * 600,
    "",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_no_proof_and_cost_little(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[int] = []
    whole = math_formula._Pair.same_at

    def counted(self: math_formula._Pair, point: dict[str, int | Fraction]) -> tuple[bool | None, bool]:
        before = self.work
        result = whole(self, point)
        spent.append(before - self.work)
        return result

    monkeypatch.setattr(math_formula._Pair, "same_at", counted)
    assert same_value("5", normalised(text), SEED) is not True
    assert same_value(r"\sqrt{x}+\sin y", normalised(text), SEED) is not True
    assert sum(spent) < 2.1 * math_formula.MOST_WORK
    read = formula(normalised(text))
    assert read is None or read.largest_bits <= 1 << 15


def test_longer_texts_are_not_read() -> None:
    assert formula("1" * 600) is not None
    assert formula("1" * 601) is None
    assert same_value("1" * 601, "1" * 601, SEED) is None


@given(st.text(alphabet=r"\{}()[]|^_+-*/!=.,0123456789abexyin fracsqtlogpi ", max_size=80), st.integers(0, 99))
def test_any_text_gets_a_verdict(text: str, seed: int) -> None:
    assert same_value(text, "x+1", seed) in (True, False, None)
    assert same_value(text, text, seed) is not False


# --- nesting

NESTINGS = {  # what is repeated, what stands in the middle, what closes each
    "function": ("\\ln", " x", ""), "function in brackets": ("\\ln(", "x", ")"), "power of one": ("\\sin^", "2", ""),
    "root": ("\\sqrt{", "2", "}"), "bare root": ("\\sqrt", "2", ""), "degree": ("\\sqrt[", "2", "]{3}"),
    "base": ("\\log_", "2", ""), "minus": ("-", "1", ""), "power": ("x^", "2", ""), "braced": ("x^{", "2", "}"),
    "minus in powers": ("2^-", "2", ""), "bracket": ("(", "1", ")"), "brace": ("{", "1", "}"), "list": ("[", "1", "]"),
    "bar": ("|", "x", "|"), "bars in a sum": ("|x-", "x", "|"), "fraction": ("\\frac{", "1", "}{2}"),
    "bare fraction": ("\\frac1", "2", ""), "floor": ("\\lfloor ", "x", "\\rfloor "),
    "binomial": ("\\binom{", "3", "}{2}"),
    "chain": ("x/", "2", ""), "factorial": ("", "5", "!"),
    "word": ("sin ", "x", ""), "tuple": ("(1,", "2", ")"), "matrix": ("\\begin{pmatrix}", "1", "\\end{pmatrix}"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NESTINGS)
def test_no_nesting_buys_a_response_that_it_is_not_judged(name: str) -> None:
    opening, inner, closing = NESTINGS[name]
    for depth in (30, 100, 150, 199, 250, 600):
        for end in (closing * depth, ""):
            text = opening * depth + inner + end
            verdict = apply(lookup("math"), f"\\boxed{{{text}}}", Task(id="t", prompt="", gold="x"))
            assert verdict.score in (0.0, 1.0), (depth, verdict)


@pytest.mark.parametrize("opening", ["\\ln", "\\sin^", "\\sqrt", "\\log_", "x^", "-", "+", "(", "\\frac1", "2^-"])
def test_a_formula_within_bounds_is_read_and_a_deeper_one_is_not(opening: str) -> None:
    texts = [opening * depth + " 2" + ")" * depth * (opening == "(") for depth in range(1, 600 // len(opening), 7)]
    read = [formula(text) is not None for text in texts]
    assert read == sorted(read, reverse=True) or opening == "2^-", "whichever is read, all that are shorter are"


def test_a_long_chain_of_divisions_is_a_deep_tree_and_compared_as_far_as_it_is_read() -> None:
    assert same_value("y" + "/x" * 190, "yx^{-190}", SEED) is True
    assert same_value("y" + "/x" * 190, "yx^{-191}", SEED) is False
    assert same_value("\\ln x" + "/x" * 190, "\\ln x" + "/x" * 180, SEED) in (False, None)
    assert formula("y" + "/x" * 290) is None


def test_a_formula_that_is_asked_for_deep_in_calls_is_undecided() -> None:
    def deep(calls: int) -> Any:
        return deep(calls - 1) if calls else formula("(" * 40 + "x+7654" + ")" * 40)

    room = sys.getrecursionlimit() - len(inspect.stack(0)) - 60
    assert deep(room) is None


# --- the same everywhere


def _verdicts() -> list[bool | None]:
    return [same_value(normalised(g), normalised(a), SEED) for g, a in EQUAL + DIFFERENT + UNDECIDED]


def test_threads_give_the_same_verdicts_and_nobodys_precision_changes() -> None:
    expected = _verdicts()
    math_formula.formula.cache_clear()
    before = mpmath.mp.prec
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: _verdicts(), range(8)))
    assert results == [expected] * 8
    assert mpmath.mp.prec == before


def test_a_precision_that_others_set_changes_nothing() -> None:
    expected = _verdicts()
    with mpmath.workdps(5):
        math_formula.formula.cache_clear()
        assert _verdicts() == expected


def test_another_process_gives_the_same_verdicts() -> None:
    code = (
        "import json, sys; from rlvr.verifiers.math_formula import same_value\n"
        "print(json.dumps([same_value(g, a, 20240) for g, a in json.load(sys.stdin)]))"
    )
    pairs = [(normalised(g), normalised(a)) for g, a in EQUAL + DIFFERENT + UNDECIDED]
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(pairs),
        env={"PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == _verdicts()
