"""A realistic mix of answers to judge: seeded, all distinct, each at the end of a chain of thought.

Shares: 42 % integers, 14 fractions, 7 decimals, 7 sets, 5 intervals, 3 matrices, 10 surds, 5 polynomials, 2 equations,
2 words, 3 without any answer. Three in five are right, the rest near misses.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction

SHARES = {
    "int": 42,
    "frac": 14,
    "dec": 7,
    "set": 7,
    "interval": 5,
    "matrix": 3,
    "surd": 10,
    "poly": 5,
    "equation": 2,
    "words": 2,
    "none": 3,
}
_SENTENCES = (
    "First, let us restate what is asked and name the unknowns.",
    "By the Pythagorean theorem we have $a^2 + b^2 = c^2$, so $c = \\sqrt{a^2+b^2}$.",
    "Substituting into the second equation gives \\[ 3x - 2(7 - x) = 11 \\implies 5x = 25. \\]",
    "Wait, that is not quite right; the sign in the third term must be checked again.",
    "There are $\\binom{6}{2} = 15$ ways to choose them, and each of them is equally likely.",
    "So the sum of the first 20 terms is 20/2 * (3 + 60) = 630, which looks plausible.",
    "We may assume without loss of generality that $x \\le y \\le z$.",
    "Let me double-check by plugging the value back in: 4 * 13 - 7 = 45, as wanted.",
    "The area is $\\frac{1}{2} \\cdot 8 \\cdot 5 = 20$ square units.",
    "Hence the probability is $\\frac{3}{10}$ for the first case and 0.45 for the second.",
)


@dataclass(frozen=True, slots=True)
class Item:
    """Item("int", "42", "... \\boxed{42}", True)"""

    kind: str
    gold: str
    response: str
    is_right: bool


def mix(size: int, seed: int = 0) -> list[Item]:
    """`size` items in random order, kinds by their shares."""
    draw = random.Random(seed)
    kinds = [kind for kind, share in SHARES.items() for _ in range(share)]
    items = []
    seen: set[tuple[str, str]] = set()
    while len(items) < size:
        kind = kinds[len(items) % len(kinds)]
        is_right = draw.random() < 0.6 and kind != "none"
        gold, answer = _MAKERS[kind](draw, is_right)
        if (gold, answer) in seen:
            continue
        seen.add((gold, answer))
        items.append(Item(kind, gold, thought(draw, answer), is_right))
    draw.shuffle(items)
    return items


def thought(draw: random.Random, answer: str, characters: int | None = None) -> str:
    """A chain of thought of 0.4 to 6 thousand characters with the answer in a box at its end; "" gives no box."""
    target = characters or int(400 * 15 ** draw.random())
    parts: list[str] = []
    length = 0
    while length < target:
        sentence = draw.choice(_SENTENCES)
        parts.append(sentence)
        length += len(sentence) + 1
    end = f"The final answer is $\\boxed{{{answer}}}$." if answer else "I could not finish this within the space given."
    return " ".join([*parts, end])


def _integer(draw: random.Random, is_right: bool) -> tuple[str, str]:
    value = draw.choice((draw.randint(-99, 999), draw.randint(1000, 10**7), draw.randint(0, 10**12)))
    other = value if is_right else value + draw.choice((-10, -1, 1, 10, 100))
    return str(value), draw.choice((str(other), str(other), str(other), f"{other:,}", f"x={other}"))


def _fraction(draw: random.Random, is_right: bool) -> tuple[str, str]:
    value = Fraction(draw.randint(-400, 400), draw.randint(2, 300))
    other = value if is_right else value + Fraction(1, draw.randint(2, 300))
    k = draw.randint(1, 4)
    top, bottom = other.numerator * k, other.denominator * k
    answer = draw.choice((f"\\frac{{{top}}}{{{bottom}}}", f"\\dfrac{{{top}}}{{{bottom}}}", f"{top}/{bottom}"))
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}", answer


def _decimal(draw: random.Random, is_right: bool) -> tuple[str, str]:
    value = draw.randint(1, 10**6)
    other = value if is_right else value + draw.choice((-1, 1, 10))
    return f"{value / 1000:.3f}", f"{other / 1000:.3f}" + ("0" * draw.randint(0, 2))


def _set(draw: random.Random, is_right: bool) -> tuple[str, str]:
    values = draw.sample(range(-200, 200), draw.randint(2, 5))
    other = list(values)
    if not is_right:
        other[draw.randrange(len(other))] += 401
    draw.shuffle(other)
    gold, answer = ", ".join(map(str, values)), ", ".join(map(str, other))
    return "\\{" + gold + "\\}", draw.choice(("\\{" + answer + "\\}", answer))


def _interval(draw: random.Random, is_right: bool) -> tuple[str, str]:
    low = draw.randint(-300, 300)
    high = low + draw.randint(1, 200)
    left, right = draw.choice("(["), draw.choice(")]")
    gold = f"{left}{low},{high}{right}"
    if is_right:
        return gold, f"\\left{left}{low}, {high}\\right{right}"
    return gold, draw.choice((f"{left}{low}, {high + 1}{right}", f"{'[' if left == '(' else '('}{low}, {high}{right}"))


def _matrix(draw: random.Random, is_right: bool) -> tuple[str, str]:
    cells = [draw.randint(-90, 90) for _ in range(4)]
    other = list(cells)
    if not is_right:
        other[draw.randrange(4)] += draw.choice((-1, 1))

    def written(values: list[int], kind: str) -> str:
        return f"\\begin{{{kind}}}{values[0]} & {values[1]} \\\\ {values[2]} & {values[3]}\\end{{{kind}}}"

    return written(cells, "pmatrix"), written(other, draw.choice(("pmatrix", "bmatrix")))


def _surd(draw: random.Random, is_right: bool) -> tuple[str, str]:
    a, b, n = draw.randint(1, 90), draw.randint(2, 30), draw.choice((2, 3, 5, 6, 7, 10, 11, 13))
    c = b if is_right else b + draw.choice((-1, 1))
    forms = ((f"{a}+{b}\\sqrt{{{n}}}", f"{a}+\\sqrt{{{c * c * n}}}"), (f"{b}\\sqrt{{{n}}}", f"\\sqrt{{{c * c * n}}}"))
    more = (
        (f"\\frac{{{a}\\sqrt{{{n}}}}}{{{b}}}", f"\\frac{{{a * n}}}{{{c}\\sqrt{{{n}}}}}"),
        (
            f"\\frac{{{a}\\pi}}{{{b}}}",
            f"\\frac{{{a}}}{{{c}}}\\pi",
        ),
    )
    return draw.choice((*forms, *more))


def _polynomial(draw: random.Random, is_right: bool) -> tuple[str, str]:
    a, b = draw.randint(1, 60), draw.randint(1, 60)
    x = draw.choice("xntk")
    product = a * b + (0 if is_right else draw.choice((-1, 1)))
    return f"{x}^2+{a + b}{x}+{a * b}", draw.choice(
        (f"({x}+{a})({x}+{b})" if is_right else f"({x}+{a})({x}+{b + 1})", f"{product}+{a + b}{x}+{x}^2")
    )


def _equation(draw: random.Random, is_right: bool) -> tuple[str, str]:
    a, b = draw.randint(2, 90), draw.randint(1, 400)
    c = b if is_right else b + draw.choice((-1, 1))
    if draw.random() < 0.7:
        return f"y={a}x+{b}", draw.choice((f"{a}x-y+{c}=0", f"y = {c}+{a}x"))
    return f"x^2+y^2={b}", f"x^2+y^2-{c}=0"


_NAMES = "Evelyn Carla Monday Tuesday parabola ellipse even odd increasing decreasing north south Briana Angela".split()


def _words(draw: random.Random, is_right: bool) -> tuple[str, str]:
    gold = f"{draw.choice(_NAMES)} {draw.choice(_NAMES)} {draw.choice(_NAMES)}"
    return f"\\text{{{gold}}}", f"\\text{{{gold if is_right else draw.choice(_NAMES) + ' ' + draw.choice(_NAMES)}}}"


def _none(draw: random.Random, is_right: bool) -> tuple[str, str]:
    return str(draw.randint(0, 10**9)), ""


_MAKERS = {
    "int": _integer,
    "frac": _fraction,
    "dec": _decimal,
    "set": _set,
    "interval": _interval,
    "matrix": _matrix,
    "surd": _surd,
    "poly": _polynomial,
    "equation": _equation,
    "words": _words,
    "none": _none,
}
