r"""Whether two formulas have the same value, without algebra: exact rationals, residues of a prime, 40 digits and more.

Different is a proof: exact numbers that differ, residues that differ, or intervals that do not meet. Equal is exact for
rational constants; elsewhere it is agreement to 30 digits or more, for formulas with names at points that follow from
the run's seed, which no model knows (Schwartz-Zippel). Names stand for positive reals, so that \sqrt{1/n} is
1/\sqrt{n}; where two agree there but differ at a negative value that both admit, as |x| and x do, that is None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from rlvr.seeds import seed_for
from rlvr.verifiers.math_formula_numbers import (
    IMAGINARY,
    Exact,
    Number,
    Precision,
    Undecided,
    binomial,
    compare,
    factorial,
)
from rlvr.verifiers.math_formula_reading import LONGEST, Formula, Tree, read
from rlvr.verifiers.math_formula_tokens import Unreadable

FIRST_BITS = 140
"""Of precision, 42 digits; more where the constants are longer, and where terms of very different size are added."""
MOST_BITS = 2500
"""Of precision. What needs more is undecided."""
MOST_WORK = 250_000
"""Over all points of one comparison, of what operations cost: about their bits of precision. About 5 ms."""


def same_value(gold: str, answer: str, seed: int) -> bool | None:
    """True: equal. False: proven different. None: undecided, a construct or a size that is not known here.

    Both are LaTeX as `math_spelling.normalised` returns it; formulas, or equations with one equals sign each.
    """
    if "=" in gold or "=" in answer:
        return _same_equation(gold, answer, seed)
    left, right = formula(gold), formula(answer)
    if left is None or right is None:
        return None
    if left.tree == right.tree:
        return True
    if len(gold) > 2 and gold.isalpha() and answer.isalpha():
        return None  # words, perhaps
    same = _same(left, right, seed)
    return None if same is False and (left.is_ambiguous or right.is_ambiguous) else same


def close_to(gold: str, answer: str, seed: int) -> bool | None:
    """Whether two formulas differ by no more than the hundredth part."""
    left, right = formula(gold), formula(answer)
    if left is None or right is None:
        return None
    return _same(replace(left, rounded_to=Fraction(1, 100)), right, seed)


def factor_between(gold: str, answer: str, seed: int) -> Fraction | None:
    """The rational by which the second formula is a multiple of the first; None where it is none, or not known."""
    left, right = formula(gold), formula(answer)
    if left is None or right is None or left.is_ambiguous or right.is_ambiguous:
        return None
    try:
        values = _Values(FIRST_BITS, _point(seed, left.names | right.names, frozenset(), 0))
        x, y = values.of(left.tree), values.of(right.tree)
    except (Undecided, KeyError):
        return None
    if isinstance(x, tuple) or isinstance(y, tuple) or x == 0 or y == 0:
        return None
    factor = Fraction(y) / x
    scaled = replace(left, tree=("mul", ("num", factor), left.tree))
    return factor if _same(scaled, right, seed) else None


def evaluate_exact(text: str) -> Fraction | None:
    """The rational constant that a normalised text writes, as exact arithmetic finds it; None for anything else."""
    found = formula(text)
    if found is None or found.tree[0] != "num" or found.is_ambiguous:
        return None
    return Fraction(found.tree[1])


@lru_cache(512)
def formula(text: str) -> Formula | None:
    """The formula that a normalised text writes; None where it is not understood, too large, or has no value."""
    if len(text) > LONGEST:
        return None
    try:
        return read(text)
    except (Unreadable, Undecided, RecursionError):  # the last where whoever calls is deep in calls already
        return None


# --- values


class _Values(Precision):
    """The values of trees at one point; `work` is what is left of it, and what operations have cost is taken off."""

    def __init__(self, prec: int, point: dict[str, Exact], base_of_log: int = 0, work: int = MOST_WORK) -> None:
        super().__init__(prec)
        self.point = point
        self.base_of_log = base_of_log
        self.work = work

    def of(self, tree: Tree) -> Number:
        kind = tree[0]
        self.work -= self.prec + self.prec * self.prec // 1024
        if self.work < 0:
            raise Undecided
        if kind == "num":
            return tree[1]
        if kind == "var":
            return self.point[tree[1]]
        if kind == "const":
            return IMAGINARY if tree[1] == "i" else self.pi() if tree[1] == "pi" else self.e()
        if kind == "pow" and tree[1] == ("const", "e"):
            return self.exp(self.of(tree[2]))
        parts = [self.of(part) for part in tree[1:]]
        if kind == "add" or kind == "mul":
            join = self.add if kind == "add" else self.multiply
            value = parts[0]
            for part in parts[1:]:
                value = join(value, part)
            return value
        return _OPERATIONS[kind](self, *parts)

    def logarithm(self, a: Number, base: Number | None = None) -> Number:
        if base is None and self.base_of_log:
            base = self.base_of_log
        return self.log(a) if base is None else self.divide(self.log(a), self.log(base))

    def tangent(self, a: Number) -> Number:
        return self.divide(self.sine(a), self.cosine(a))

    def hyperbolic_sine(self, a: Number) -> Number:
        grown = self.exp(a)
        return self.divide(self.add(grown, self.negative(self.divide(1, grown))), 2)

    def hyperbolic_cosine(self, a: Number) -> Number:
        grown = self.exp(a)
        return self.divide(self.add(grown, self.divide(1, grown)), 2)

    def hyperbolic_tangent(self, a: Number) -> Number:
        return self.divide(self.hyperbolic_sine(a), self.hyperbolic_cosine(a))

    def arc_cosine(self, a: Number) -> Number:
        return self.add(self.divide(self.pi(), 2), self.negative(self.arc_sine(a)))

    def arc_cotangent(self, a: Number) -> Number:
        if isinstance(a, tuple) or a <= 0:
            raise Undecided  # for negative values there are two conventions
        return self.arc_tangent(Fraction(1) / a)

    def area_sine(self, a: Number) -> Number:
        return self.log(self.add(a, self.square_root(self.add(self.multiply(a, a), 1))))

    def area_cosine(self, a: Number) -> Number:
        if isinstance(a, tuple) or a < 1:
            raise Undecided
        return self.log(self.add(a, self.square_root(a * a - 1)))

    def area_tangent(self, a: Number) -> Number:
        if isinstance(a, tuple) or abs(a) >= 1:
            raise Undecided
        return self.divide(self.log(Fraction(1 + a) / (1 - a)), 2)

    def ceiling(self, a: Number) -> int:
        return -self.floor(self.negative(a))


_OPERATIONS: dict[str, Callable[..., Number]] = {
    "div": _Values.divide,
    "pow": _Values.power,
    "root": _Values.root,
    "abs": _Values.absolute,
    "floor": _Values.floor,
    "ceil": _Values.ceiling,
    "factorial": lambda _, a: factorial(a),
    "binomial": lambda _, a, b: binomial(a, b),
    "ln": _Values.log,
    "log": _Values.logarithm,
    "sin": _Values.sine,
    "cos": _Values.cosine,
    "tan": _Values.tangent,
    "sec": lambda values, a: values.divide(1, values.cosine(a)),
    "csc": lambda values, a: values.divide(1, values.sine(a)),
    "cot": lambda values, a: values.divide(values.cosine(a), values.sine(a)),
    "sinh": _Values.hyperbolic_sine,
    "cosh": _Values.hyperbolic_cosine,
    "tanh": _Values.hyperbolic_tangent,
    "sech": lambda values, a: values.divide(1, values.hyperbolic_cosine(a)),
    "csch": lambda values, a: values.divide(1, values.hyperbolic_sine(a)),
    "coth": lambda values, a: values.divide(1, values.hyperbolic_tangent(a)),
    "arcsin": _Values.arc_sine,
    "arccos": _Values.arc_cosine,
    "arctan": _Values.arc_tangent,
    "arccot": _Values.arc_cotangent,
    "arcsec": lambda values, a: values.arc_cosine(values.divide(1, a)),
    "arccsc": lambda values, a: values.arc_sine(values.divide(1, a)),
    "arcsinh": _Values.area_sine,
    "arccosh": _Values.area_cosine,
    "arctanh": _Values.area_tangent,
}


# --- points


_PRIMES = (  # of 120 bits, with nothing special about them
    1327336900200444718921250231374484857,
    1063372859885822200853670869983030787,
    747920962374677596751543154636261121,
    915467789366459370551405130583473571,
)
_RANGES = ((1, 24, 1), (1, 8, 1), (24, 96, 1), (8, 48, -1), (4, 32, 1), (1, 12, 1), (8, 64, -1), (1, 8, -1))
"""(from, to, sign) of the points in sixteenths: below 1 and above it, then negative ones."""
_NATURAL_POINTS = 8


def _point(seed: int, names: Iterable[str], naturals: frozenset[str], k: int) -> dict[str, Exact]:
    """The k-th point. At the negative ones each name has a sign of its own, but one at least is negative."""
    start, stop, sign = _RANGES[k % len(_RANGES)]
    point: dict[str, Exact] = {}
    for i, name in enumerate(sorted(names)):
        drawn = seed_for(seed, "math formula", name, k)
        if name in naturals:  # three names take all combinations of odd and even over the eight points
            point[name] = 2 * (3 + drawn % 12) + (k >> i % 3 & 1)
        else:
            value = Fraction(start * 64 + drawn % ((stop - start) * 64), 1024) + Fraction(1, 2048)
            point[name] = -value if sign < 0 and (not i or drawn >> 40 & 1) else value
    return point


def _same(left: Formula, right: Formula, seed: int) -> bool | None:
    if not (left.rounded_to or right.rounded_to):
        if left.tree[0] == right.tree[0] == "num":
            return left.tree[1] == right.tree[1]
        if left.is_rational and right.is_rational:
            return _same_residues(left.tree, right.tree, left.names | right.names, seed)
    if not (left.has_log or right.has_log):
        return _same_at_points(left, right, seed, 0)
    # \log is to base 10 or e, as the author pleases
    natural, decimal = (_same_at_points(left, right, seed, base) for base in (0, 10))
    return natural if natural == decimal else None


def _same_at_points(left: Formula, right: Formula, seed: int, base_of_log: int) -> bool | None:
    names, naturals = left.names | right.names, left.naturals | right.naturals
    pair = _Pair(left, right, base_of_log)
    if not names:
        return pair.same_at({})[0]
    counts = {"positive": 0, "negative": 0, "complex": 0}
    num_points = _NATURAL_POINTS if naturals else len(_RANGES)
    for k in range(num_points):
        negative = _RANGES[k][2] < 0
        if negative and naturals >= names:
            negative = False
        same, is_real = pair.same_at(_point(seed, names, naturals, k))
        if pair.work < 0:
            return False if same is False and is_real and not negative else None
        where = "complex" if not is_real else "negative" if negative else "positive"
        if same is False and where != "complex" and not (negative and counts["positive"]):
            return False
        if same is False and where != "complex":
            return None  # equal for positive values alone
        if same is False:
            counts["complex"] = -len(_RANGES)  # other branches, or really different
        counts[where] += same is True
        if k >= 3 and counts["positive"] >= 3 and not naturals:
            return True
    return True if max(counts.values()) >= 2 else None


class _Pair:
    """Two formulas, compared at one point after the other with as much precision as it takes."""

    def __init__(self, left: Formula, right: Formula, base_of_log: int) -> None:
        self.left, self.right, self.base_of_log = left, right, base_of_log
        self.rounded_to = max(left.rounded_to, right.rounded_to)
        self.work = MOST_WORK
        self.extra_bits = max(left.largest_bits, right.largest_bits)

    def same_at(self, point: dict[str, Exact]) -> tuple[bool | None, bool]:
        """(same, whether both are real all along); None where one has no value, or they cannot be told apart."""
        prec = FIRST_BITS + self.extra_bits
        while prec <= MOST_BITS:
            values = _Values(prec, point, self.base_of_log, self.work)
            try:
                x, y = values.of(self.left.tree), values.of(self.right.tree)
                same = self._agree(x, y, values)
            except Undecided:
                return None, values.is_real
            finally:
                self.work = values.work
            if same is not None:
                return same, values.is_real
            prec = 2 * prec + int(values.swallowed)
        return None, True

    def _agree(self, x: Number, y: Number, values: Precision) -> bool | None:
        same = compare(x, y, values)
        if same is not False or not self.rounded_to:
            return same
        gap = values.absolute(values.add(x, values.negative(y)))
        room = values.multiply(self.rounded_to, values.absolute(y))
        rest = values.add(room, values.negative(gap))
        return values.ball(rest)[0][0] == 0 and rest != 0


# --- residues


def _same_residues(left: Tree, right: Tree, names: frozenset[str], seed: int) -> bool | None:
    """Rational formulas modulo a prime: no number grows, whatever the powers."""
    for k in range(2):
        prime = _PRIMES[seed_for(seed, "math formula prime", k) % len(_PRIMES)]
        point = {name: seed_for(seed, "math formula residue", name, k) for name in names}
        try:
            if _residue(left, point, prime) != _residue(right, point, prime):
                return False
        except Undecided:
            return None
    return True


def _residue(tree: Tree, point: dict[str, int], prime: int) -> int:
    kind = tree[0]
    if kind == "num":
        value = tree[1]
        return value % prime if isinstance(value, int) else value.numerator * _inverse(value.denominator, prime) % prime
    if kind == "var":
        return point[tree[1]]
    if kind == "add":
        return sum([_residue(part, point, prime) for part in tree[1:]]) % prime
    if kind == "mul":
        product = 1
        for part in tree[1:]:
            product = product * _residue(part, point, prime) % prime
        return product
    if kind == "div":
        return _residue(tree[1], point, prime) * _inverse(_residue(tree[2], point, prime), prime) % prime
    base, exponent = _residue(tree[1], point, prime), tree[2][1]
    return pow(base if exponent >= 0 else _inverse(base, prime), abs(exponent), prime)


def _inverse(value: int, prime: int) -> int:
    if value % prime == 0:
        raise Undecided
    return pow(value, -1, prime)


# --- equations


_HEAD = re.compile(r"\\?[A-Za-z]+(?: ?_ ?(?:\{[^{}]{1,20}\}|\w))?'{0,3}(?: ?\^ ?\{ ?-1 ?\})? ?(?:\([^()]{1,40}\))?")
"""The y, f(x) or f^{-1}(x) that an equation is solved for."""


def _same_equation(gold: str, answer: str, seed: int) -> bool | None:
    """Solved for the same: by the other sides. Else equal if proportional, different if both are linear and not."""
    if len(gold) > LONGEST or len(answer) > LONGEST or gold.count("=") != 1 or answer.count("=") != 1:
        return None
    sides = [_solved(text) for text in (gold, answer)]
    heads = [head.replace(" ", "") for head, _ in sides]
    if heads[0] == heads[1] and _HEAD.fullmatch(heads[0]) and "=" not in sides[0][1] + sides[1][1]:
        values = [formula(value) for _, value in sides]
        if all(value is not None and heads[0].lstrip("\\") not in value.names for value in values):
            return same_value(sides[0][1], sides[1][1], seed)
    read = [formula(side) for pair in sides for side in pair]
    formulas = [side for side in read if side is not None]
    if len(formulas) < 4 or any(side.has_log or side.naturals or side.rounded_to for side in formulas):
        return None
    names = frozenset().union(*(side.names for side in formulas))
    differences = [("add", a.tree, ("mul", ("num", -1), b.tree)) for a, b in (formulas[:2], formulas[2:])]
    prec = FIRST_BITS + max(side.largest_bits for side in formulas)
    if not names or prec > MOST_BITS:
        return None
    try:
        if all(side.is_rational for side in formulas):
            same = _proportional_residues(differences, names, seed)
        else:
            same = _proportional(differences, names, prec, seed)
    except Undecided:
        return None
    if same is not False:
        return same
    is_sure = not any(side.is_ambiguous for side in formulas) and all(degree(tree) == 1 for tree in differences)
    return False if is_sure else None


def _solved(text: str) -> tuple[str, str]:
    """(what it is solved for, the rest), whichever side that was on."""
    left, _, right = (part.strip() for part in text.partition("="))
    return (right, left) if _HEAD.fullmatch(right) and not _HEAD.fullmatch(left) else (left, right)


def _proportional(sides: list[Tree], names: frozenset[str], prec: int, seed: int) -> bool | None:
    """Whether two formulas have the same ratio, neither 0 nor infinite, at three points."""
    first: tuple[Number, Number] | None = None
    for k in range(3):
        values = _Values(prec, _point(seed, names, frozenset(), k))
        x, y = (values.of(side) for side in sides)
        if any(compare(value, 0, values) is not False for value in (x, y)):
            return None
        if first is None:
            first = x, y
        elif not (same := compare(values.multiply(first[0], y), values.multiply(x, first[1]), values)):
            return same
    return True


def _proportional_residues(sides: list[Tree], names: frozenset[str], seed: int) -> bool | None:
    """The same for rational formulas, modulo a prime."""
    prime = _PRIMES[seed_for(seed, "math formula prime", 0) % len(_PRIMES)]
    ratios: list[int] = []
    for k in range(2):
        point = {name: seed_for(seed, "math formula residue", name, k) for name in names}
        x, y = (_residue(side, point, prime) for side in sides)
        if x == 0:
            return None
        ratios.append(x * _inverse(y, prime) % prime)
    return ratios[0] == ratios[1]


def degree(tree: Tree) -> int | None:
    """Of a polynomial with real coefficients, as it is written; None for anything else."""
    kind = tree[0]
    if kind in ("num", "const"):
        return 0
    if kind == "var":
        return 1
    degrees = [degree(part) for part in tree[1:]]
    known = [found for found in degrees if found is not None]
    if len(known) < len(degrees):
        return None
    if kind == "add" or not any(known):
        return max(known)
    if kind == "mul":
        return sum(known)
    if kind == "pow":
        power = tree[2]
        is_natural = power[0] == "num" and isinstance(power[1], int) and power[1] >= 0
        return known[0] * power[1] if is_natural else None
    return known[0] if kind == "div" and known[1] == 0 else None
