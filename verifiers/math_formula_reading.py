r"""A formula in LaTeX, or in plain text as models write it, as a small tree; what is not understood whole is not read.

A tree is a tuple: ("num", int | Fraction), ("var", name), ("const", "pi" | "e" | "i"), or an operation, its operands.
Rational constants are worked out while reading, so that two trees of constants are compared by their values.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rlvr.verifiers.math_formula_numbers import (
    Exact,
    Undecided,
    binomial,
    bits,
    checked,
    exact_power,
    exact_root,
    factorial,
    plain,
)
from rlvr.verifiers.math_formula_tokens import END, INVERSE, TRIGONOMETRIC, Token, Unreadable, tokens

LONGEST = 600
"""Characters of a formula."""
DEEPEST = 60
"""Atoms within atoms: groups, arguments, exponents and functions without brackets."""
DEEPEST_TREE = 200
"""Operations within operations, which also chains such as x/x/x have. A value costs two calls for each."""
MOST_WORK = 2e9
"""Squared bits of the large exact numbers made while one formula is read."""

Tree = tuple[Any, ...]

_OPENING = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil", "\\lvert": "\\rvert"}
_FACTORS = frozenset("\\frac \\sqrt \\binom \\dbinom \\tbinom \\lfloor \\lceil \\lvert".split())
_TIMES = frozenset(("*", "\\cdot", "\\times", "\\ast"))
_FUNCTIONS = frozenset("f g h F G H Gamma zeta psi Psi Phi".split())
"""Names that stand for functions where a bracket follows, whatever is in it: no product."""
_ARITHMETIC = frozenset("phi sigma tau mu omega Omega lambda Lambda chi eta".split())
r"""Those that do so where a plain number is in it: \phi(12) is Euler's, \mu(1 - \mu) is a product."""
_DERIVATIVE = re.compile(r"\\frac ?\{ ?d[^{}]{0,9}\} ?\{ ?d ?[a-z]|\bd[a-z]? ?/ ?d[a-z]\b")
_WHOLE_SCIENTIFIC = re.compile(r"[+-]?[\d.]+[eE][+-]?\d+")


@dataclass(frozen=True, slots=True)
class Formula:
    """What one text says, and what matters for comparing it."""

    tree: Tree
    names: frozenset[str]
    naturals: frozenset[str]
    """Names that stand for natural numbers: in factorials and binomials, in exponents of what may be negative."""
    is_rational: bool
    """Only + - * / and whole powers, over names."""
    has_log: bool
    r"""A \log without base."""
    is_ambiguous: bool
    """Read one way where people also mean another: 1/2x, \\sin x/2."""
    largest_bits: int
    """Of its constants."""
    rounded_to: Fraction
    """Where decimals of 10 and more digits are written: the greatest relative worth of a last digit; else 0."""


# --- trees, with rational constants worked out


class _Builder:
    """Makes trees; counts the work that large constants cost."""

    def __init__(self) -> None:
        self.work = 0

    def num(self, value: Exact) -> Tree:
        size = bits(value)
        if size > 512:
            self.work += size * size
            if self.work > MOST_WORK:
                raise Undecided
        return ("num", plain(checked(value)))

    def add(self, terms: list[Tree]) -> Tree:
        constants = [term[1] for term in terms if term[0] == "num"]
        rest = [term for term in terms if term[0] != "num"]
        if len(constants) > 1:
            value = constants[0]
            for constant in constants[1:]:
                value = self.num(value + constant)[1]
            constants = [value]
        if not rest:
            return ("num", constants[0])
        if constants and constants[0] != 0:
            rest.append(("num", constants[0]))
        return rest[0] if len(rest) == 1 else ("add", *rest)

    def multiply(self, factors: list[Tree]) -> Tree:
        constants = [factor[1] for factor in factors if factor[0] == "num"]
        rest = [factor for factor in factors if factor[0] != "num"]
        if len(constants) > 1:
            value = constants[0]
            for constant in constants[1:]:
                value = self.num(value * constant)[1]
            constants = [value]
        if not rest:
            return ("num", constants[0])
        if constants and constants[0] != 1:
            rest.insert(0, ("num", constants[0]))
        return rest[0] if len(rest) == 1 else ("mul", *rest)

    def negative(self, a: Tree) -> Tree:
        return self.multiply([("num", -1), a])

    def divide(self, a: Tree, b: Tree) -> Tree:
        if b[0] != "num":
            return ("div", a, b)
        if b[1] == 0:
            raise Undecided
        if a[0] == "num":
            return self.num(Fraction(a[1]) / b[1])
        return self.multiply([("num", plain(1 / Fraction(b[1]))), a])

    def power(self, a: Tree, b: Tree) -> Tree:
        if b == ("num", 1):
            return a
        if a[0] == "num" and b[0] == "num" and (a[1] >= 0 or b[1].denominator == 1):
            if abs(b[1].numerator) * bits(a[1]) > (1 << 15) and a[1] not in (0, 1, -1):
                return ("pow", a, b)  # left for a comparison that does not need its digits
            value = exact_power(a[1], b[1])
            if value is not None:
                return self.num(value)
        return ("pow", a, b)

    def root(self, a: Tree, degree: Tree) -> Tree:
        if a[0] == "num" and degree[0] == "num" and isinstance(degree[1], int) and degree[1] > 1:
            value = exact_root(a[1], degree[1])
            if value is not None:
                return self.num(value)
        return ("root", a, degree)

    def factorial(self, a: Tree) -> Tree:
        return self.num(factorial(a[1])) if a[0] == "num" else ("factorial", a)

    def binomial(self, a: Tree, b: Tree) -> Tree:
        return self.num(binomial(a[1], b[1])) if a[0] == b[0] == "num" else ("binomial", a, b)


# --- grammar


class _Reader:
    """Recursive descent over the tokens of one formula."""

    def __init__(self, text: str) -> None:
        self.tokens, self.rounded_to = tokens(text)
        self.tokens += [END, END]
        self.at = 0
        self.depth = 0
        self.bars = 0
        self.angles = 0
        self.is_ambiguous = False
        self.build = _Builder()

    @property
    def next(self) -> Token:
        return self.tokens[self.at]

    def takes(self, text: str) -> bool:
        """Steps over the mark or command, where it is the next."""
        token = self.tokens[self.at]
        if token.text == text and token.kind in ("mark", "command"):
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.takes(text):
            raise Unreadable

    def whole(self) -> Tree:
        tree = self.sum()
        if self.next is not END:
            raise Unreadable
        return tree

    def sum(self) -> Tree:
        terms = [self.signed(self.product)]
        while self.next.kind == "mark" and self.next.text in ("+", "-"):
            terms.append(self.signed(self.product))
        return terms[0] if len(terms) == 1 else self.build.add(terms)

    def signed(self, read: Callable[[], Tree]) -> Tree:
        sign = 1
        while True:
            if self.takes("-"):
                sign = -sign
            elif not self.takes("+"):
                break
        tree = read()
        return tree if sign == 1 else self.build.negative(tree)

    def product(self) -> Tree:
        factors = [self.power()]
        slash = False
        while True:
            token = self.next
            if token.kind in ("mark", "command") and token.text in _TIMES:
                self.at += 1
                factors.append(self.signed(self.power))
                slash = False
            elif token.kind in ("mark", "command") and token.text in ("/", "\\div"):
                self.at += 1
                divisor = self.signed(self.power)
                left = factors[0] if len(factors) == 1 else self.build.multiply(factors)
                factors = [self.build.divide(left, divisor)]
                slash = token.text == "/"
            elif self.starts_factor():
                self.is_ambiguous |= slash
                factors.append(self.power())
            else:
                return factors[0] if len(factors) == 1 else self.build.multiply(factors)

    def starts_factor(self) -> bool:
        """Whether a factor follows without a sign of multiplication; a number does so behind a factorial alone."""
        token = self.next
        if token.kind == "number":
            return self.tokens[self.at - 1].text == "!"
        if token.kind in ("name", "const", "function"):
            return True
        if token.text == "|" or token.text == "\\vert":
            return self.bars == 0
        if token.kind == "command":
            return token.text in _FACTORS
        return token.kind == "mark" and token.text in ("(", "[", "{")

    def power(self) -> Tree:
        token = self.next
        base = self.atom()
        while True:
            if self.takes("!"):
                if self.next.text == "!":
                    raise Unreadable
                base = self.build.factorial(base)
            elif self.next.text == "degrees" and self.angles:
                self.at += 1
                base = self.build.multiply([base, ("const", "pi"), ("num", Fraction(1, 180))])
            else:
                break
        if self.takes("^"):
            if token.kind == "name" and token.text[:2] in ("C_", "P_", "A_"):
                raise Unreadable  # numbers of combinations
            base = self.build.power(base, self.exponent())
            if token.kind == "name":
                self.refuse_value(token)
            if self.next.text in ("^", "!", "degrees"):
                raise Unreadable
        return base

    def exponent(self) -> Tree:
        return self.signed(self.unsigned_exponent)

    def unsigned_exponent(self) -> Tree:
        token = self.next
        if token.kind == "number":
            # LaTeX takes one digit, plain text all of them
            self.is_ambiguous |= len(token.text) > 1
        if token.kind == "function" and token.text != "sqrt":
            self.is_ambiguous = True
        return self.atom()

    def atom(self) -> Tree:
        self.depth += 1  # every way back to here leads through here, so this alone bounds the calls
        if self.depth > DEEPEST:
            raise Unreadable
        tree = self.shallow_atom()
        self.depth -= 1
        return tree

    def shallow_atom(self) -> Tree:
        token = self.next
        self.at += 1
        if token.kind == "number":
            return self.mixed(token) or ("num", token.value)
        if token.kind == "name":
            self.refuse_value(token)
            return ("var", token.text)
        if token.kind == "const":
            return ("const", token.text)
        if token.kind == "function":
            return self.function(token.text)
        if token.text in ("\\frac", "\\binom", "\\dbinom", "\\tbinom"):
            top, bottom = self.argument(), self.argument()
            return self.build.divide(top, bottom) if token.text == "\\frac" else self.build.binomial(top, bottom)
        if token.text == "\\sqrt":
            degree: Tree = ("num", 2)
            if self.takes("["):
                degree = self.sum()
                self.expect("]")
            return self.build.root(self.argument(), degree)
        return self.group(token)

    def refuse_value(self, token: Token) -> None:
        """Unreadable where the name before this place is a function's, and its argument follows."""
        at = self.at + (self.next.text == "{")  # \zeta{(3)}
        if self.tokens[at].text not in ("(", "["):
            return
        name = token.text.partition("_")[0]
        inner, closing = self.tokens[at + 1 : at + 3]
        is_number = inner.kind == "number" and closing.text in (")", "]")
        if name in _FUNCTIONS or (name in _ARITHMETIC and is_number):
            raise Unreadable

    def group(self, token: Token) -> Tree:
        if token.text in ("|", "\\vert"):
            self.bars += 1
            inner = self.sum()
            self.bars -= 1
            if not (self.takes("|") or self.takes("\\vert")):
                raise Unreadable
            return ("abs", inner)
        if token.kind not in ("mark", "command") or token.text not in _OPENING:
            raise Unreadable
        bars, self.bars = self.bars, 0
        inner = self.sum()
        self.bars = bars
        self.expect(_OPENING[token.text])
        kind = {"\\lfloor": "floor", "\\lceil": "ceil", "\\lvert": "abs"}.get(token.text)
        return (kind, inner) if kind else inner

    def argument(self) -> Tree:
        r"""Of \frac and its like: a group, or one letter, command or digit."""
        token = self.next
        if token.kind == "number":
            if len(token.text) > 1:
                raise Unreadable
            self.at += 1
            return ("num", token.value)
        if token.kind == "function":
            raise Unreadable
        return self.atom()

    def mixed(self, token: Token) -> Tree | None:
        r"""3\frac{1}{2}, where all three are plain integers."""
        if self.next.text != "\\frac" or not token.text.isdigit():
            return None
        marks = self.tokens[self.at + 1 : self.at + 7]
        if len(marks) < 6 or "".join(mark.text for mark in (marks[0], marks[2], marks[3], marks[5])) != "{}{}":
            return None
        top, bottom = marks[1], marks[4]
        if not (top.kind == bottom.kind == "number" and top.text.isdigit() and bottom.text.isdigit()):
            return None
        if not 0 < top.value < bottom.value:
            raise Unreadable  # a product, or a careless mixed number
        self.at += 7
        return ("num", token.value + Fraction(top.value) / bottom.value)

    def function(self, name: str) -> Tree:
        base: Tree | None = None
        raised: Tree | None = None
        if name == "sqrt":
            return self.build.root(self.power_of_plain_root(), ("num", 2))
        if name == "log" and self.takes("_"):
            base = self.argument()
        if self.takes("^"):
            raised = self.exponent()
            if raised == ("num", -1):
                name, raised = INVERSE.get(name, ""), None
            if not name or (raised and raised[0] == "num" and raised[1] < 1):
                raise Unreadable
        self.angles += name in TRIGONOMETRIC
        inner = self.function_argument()
        self.angles -= name in TRIGONOMETRIC
        if name == "lg":
            name, base = "log", ("num", 10)
        tree: Tree = ("log", inner, base) if base else (name, inner)
        if name == "exp":
            tree = ("pow", ("const", "e"), inner)
        return self.build.power(tree, raised) if raised else tree

    def power_of_plain_root(self) -> Tree:
        """What stands under a root written as a word: sqrt(3), sqrt3."""
        return self.atom() if self.next.kind == "number" else self.group_or_name()

    def group_or_name(self) -> Tree:
        token = self.next
        if token.kind in ("name", "const"):
            return self.atom()
        self.at += 1
        return self.group(token)

    def function_argument(self) -> Tree:
        """Brackets hold it; else it is a factor, and the letters that follow: sin 2 pi x, ln x^2."""
        token = self.next
        if token.kind in ("mark", "command") and (token.text in _OPENING or token.text in ("|", "\\vert")):
            self.at += 1
            inner = self.group(token)
            if self.next.text == "degrees":
                self.at += 1
                inner = self.build.multiply([inner, ("const", "pi"), ("num", Fraction(1, 180))])
            self.is_ambiguous |= self.next.text in ("^", "!", "_")
            return inner
        factors = [self.signed(self.power)]
        while self.next.kind in ("name", "const"):
            self.is_ambiguous |= token.kind == "name"
            factors.append(self.power())
        self.is_ambiguous |= self.next.text == "/" or (self.starts_factor() and self.next.kind != "function")
        return factors[0] if len(factors) == 1 else self.build.multiply(factors)


def read(text: str) -> Formula:
    """The formula that a normalised text writes. Raises Unreadable, or Undecided where it has no value."""
    if len(text) > LONGEST or _WHOLE_SCIENTIFIC.fullmatch(text) or _DERIVATIVE.search(text):
        raise Unreadable
    if text.startswith("[") and text.endswith("]"):
        raise Unreadable  # a list of one, or the whole part
    reader = _Reader(text)
    tree = reader.whole()
    names: set[str] = set()
    naturals: set[str] = set()
    is_rational, has_log, largest = True, False, 0
    waiting: list[tuple[Tree, bool, int]] = [(tree, False, 1)]
    while waiting:
        node, natural, depth = waiting.pop()
        if depth > DEEPEST_TREE:
            raise Unreadable
        kind = node[0]
        if kind == "num":
            largest = max(largest, bits(node[1]))
        elif kind == "var":
            names.add(node[1])
            if natural:
                naturals.add(node[1])
        elif kind != "const":
            has_log |= kind == "log" and not node[2:]
            natural |= kind in ("factorial", "binomial")
            if kind == "pow":
                base, exponent = node[1:]
                is_rational &= exponent[0] == "num" and isinstance(exponent[1], int)
                alternates = may_be_negative(base) and exponent[0] != "num"
                waiting += [(base, natural, depth + 1), (exponent, natural or alternates, depth + 1)]
                continue
            waiting += [(part, natural, depth + 1) for part in node[1:]]
        is_rational &= kind in ("num", "var", "add", "mul", "div", "pow")
    return Formula(
        tree=tree,
        names=frozenset(names),
        naturals=frozenset(naturals),
        is_rational=is_rational,
        has_log=has_log,
        is_ambiguous=reader.is_ambiguous,
        largest_bits=largest,
        rounded_to=reader.rounded_to,
    )


def may_be_negative(tree: Tree) -> bool:
    """Of the base of a power: a negative constant, or i. Names are taken as positive."""
    if tree[0] == "num":
        return tree[1] < 0
    if tree[0] in ("mul", "div"):
        return any(may_be_negative(part) for part in tree[1:] if part[0] in ("num", "const"))
    return tree == ("const", "i")
