"""What equations say about their names: polynomials with exact coefficients, and whether one follows from others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from rlvr.verifiers.math_formula import formula

Monomial = tuple[str, ...]
"""Names in order, each as often as it is multiplied; () is the constant."""
Polynomial = Mapping[Monomial, Fraction]
_MOST_DEGREE = 4
_MOST_TERMS = 40
_MOST_BITS = 2000
_MOST_ROWS = 24
"""Equations that are kept."""
Follows = Literal["yes", "no", "new"]


def difference(left: str, right: str) -> Polynomial | None:
    """left - right of an equation of normalised sides; None where that is no polynomial, or a large one."""
    read = [formula(side) for side in (left, right)]
    if any(side is None or side.is_ambiguous or side.rounded_to for side in read):
        return None
    parts = [_polynomial(side.tree) for side in read if side is not None]
    if parts[0] is None or parts[1] is None:
        return None
    return _sum(parts[0], {monomial: -value for monomial, value in parts[1].items()})


def names_of(polynomial: Polynomial) -> frozenset[str]:
    """The names in it."""
    return frozenset(name for monomial in polynomial for name in monomial)


def degree(polynomial: Polynomial) -> int:
    """Of the highest monomial; 0 for a constant."""
    return max(map(len, polynomial), default=0)


def _polynomial(tree: Any) -> Polynomial | None:
    kind = tree[0]
    if kind == "num":
        value = Fraction(tree[1])
        return {(): value} if value.numerator.bit_length() + value.denominator.bit_length() < _MOST_BITS else None
    if kind == "var":
        return {(tree[1],): Fraction(1)}
    if kind == "pow":
        if tree[2][0] != "num" or tree[2][1] not in range(_MOST_DEGREE + 1):
            return None
        parts = [_polynomial(tree[1])] * int(tree[2][1])
        return _product([{(): Fraction(1)}, *parts])
    if kind not in ("add", "mul", "div"):
        return None
    parts = [_polynomial(part) for part in tree[1:]]
    if kind == "div":
        if len(parts) != 2 or parts[1] is None or degree(parts[1]) or not parts[1].get((), 0):
            return None
        parts[1] = {(): 1 / parts[1][()]}
    return _product(parts) if kind in ("mul", "div") else _total(parts)


def _total(parts: list[Polynomial | None]) -> Polynomial | None:
    found: Polynomial = {}
    for part in parts:
        if part is None:
            return None
        found = _sum(found, part)
    return found if len(found) <= _MOST_TERMS else None


def _product(parts: list[Polynomial | None]) -> Polynomial | None:
    found: Polynomial = {(): Fraction(1)}
    for part in parts:
        if part is None or degree(found) + degree(part) > _MOST_DEGREE or len(found) * len(part) > _MOST_TERMS**2:
            return None
        product: dict[Monomial, Fraction] = {}
        for left, x in found.items():
            for right, y in part.items():
                monomial = tuple(sorted((*left, *right)))
                product[monomial] = product.get(monomial, Fraction(0)) + x * y
        found = _sum(product, {})
    return found if len(found) <= _MOST_TERMS else None


def _sum(left: Polynomial, right: Polynomial) -> Polynomial:
    found = dict(left)
    for monomial, value in right.items():
        found[monomial] = found.get(monomial, Fraction(0)) + value
    return {monomial: value for monomial, value in found.items() if value}


@dataclass(slots=True)
class Knowledge:
    """The equations that a solution has stated so far and may go on from."""

    linear: list[Polynomial] = field(default_factory=list)
    """Reduced: each has a name that no other has."""
    curves: list[tuple[str, Polynomial]] = field(default_factory=list)
    """Of one name, of degree 2 and more, the newest last."""

    def follows(self, equation: Polynomial) -> Follows:
        """Whether `equation` = 0 follows, contradicts what is known, or is new: then it is one more condition."""
        names = names_of(equation)
        rest = self._reduced(equation)
        if not rest:
            return "yes"
        if names and not names_of(rest):
            return "no"  # with what is known, a constant other than 0 would be 0
        if len(names) == 1:
            (name,) = names
            for known, curve in reversed(self.curves):
                if known == name:
                    return "yes" if _same_roots(curve, equation) or _is_root_of(equation, curve, name) else "no"
        values = {name: value for name in sorted(names) if (value := self._value(name)) is not None}
        if degree(equation) > 1 and len(values) == len(names):
            return "no" if _at(equation, values) else "yes"
        return "new"

    def add(self, equation: Polynomial) -> None:
        """Go on from this one too."""
        names = names_of(equation)
        if degree(equation) > 1:
            if len(names) == 1 and len(self.curves) < _MOST_ROWS:
                self.curves.append((next(iter(names)), equation))
            return
        rest = self._reduced(equation)
        if not names_of(rest) or len(self.linear) >= _MOST_ROWS:
            return
        head = min(monomial for monomial in rest if monomial)
        rest = {monomial: value / rest[head] for monomial, value in rest.items()}
        self.linear = [_less(row, rest, head) for row in self.linear] + [rest]

    def _reduced(self, equation: Polynomial) -> Polynomial:
        if degree(equation) > 1:
            return equation
        for row in self.linear:
            equation = _less(equation, row, min(monomial for monomial in row if monomial))
        return equation

    def _value(self, name: str) -> Fraction | None:
        rest = self._reduced({(name,): Fraction(1)})
        return None if names_of(rest) else rest.get((), Fraction(0))


def _at(polynomial: Polynomial, values: Mapping[str, Fraction]) -> Fraction:
    return sum((c * math.prod(values[name] for name in monomial) for monomial, c in polynomial.items()), Fraction(0))


def _less(equation: Polynomial, row: Polynomial, head: Monomial) -> Polynomial:
    """Without `head`, whose coefficient in the row is 1."""
    times = equation.get(head, Fraction(0))
    return _sum(equation, {monomial: -times * value for monomial, value in row.items()}) if times else equation


def _coefficients(polynomial: Polynomial) -> list[Fraction]:
    found = [Fraction(0)] * (degree(polynomial) + 1)
    for monomial, value in polynomial.items():
        found[len(monomial)] = value
    return found


def _roots(polynomial: Polynomial) -> list[Fraction] | None:
    """The rational roots of a polynomial of one name and degree 1 or 2; None where there are others."""
    found = _coefficients(polynomial)
    if len(found) == 2:
        return [-found[0] / found[1]]
    if len(found) != 3:
        return None
    inside = found[1] ** 2 - 4 * found[2] * found[0]
    if inside < 0:
        return []
    root = Fraction(math.isqrt(inside.numerator), math.isqrt(inside.denominator))
    if root * root != inside:
        return None
    return sorted({(-found[1] + sign * root) / (2 * found[2]) for sign in (1, -1)})


def _same_roots(left: Polynomial, right: Polynomial) -> bool:
    """By proportional coefficients, or by exact roots."""
    a, b = _coefficients(left), _coefficients(right)
    if len(a) == len(b) and all(x * b[-1] == y * a[-1] for x, y in zip(a, b, strict=True)):
        return True
    roots = _roots(left)
    return bool(roots) and roots == _roots(right)


def _is_root_of(equation: Polynomial, curve: Polynomial, name: str) -> bool:
    """x = 2 names one of the solutions of x^2 = 4."""
    if degree(equation) != 1:
        return False
    value = -equation.get((), Fraction(0)) / equation[(name,)]
    return sum(c * value**k for k, c in enumerate(_coefficients(curve))) == 0
