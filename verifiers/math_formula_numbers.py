"""Arithmetic that knows how wrong it is: exact rationals while they last, then balls of as many bits as are asked for.

A number is an int, a Fraction, or a ball (re, im, err): re and im are raw floats of mpmath.libmp, im is None for a real
one, and the true number is within 2**err of it. Balls make "different" a proof, whatever cancelled on the way. libmp's
functions take their precision as an argument, so nothing here has a state that threads could share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

from mpmath import libmp

Exact = int | Fraction
Ball = tuple[Any, Any, float]
Number = Exact | Ball

LARGEST_BITS = 1 << 15
"""Of the numerator or denominator of an exact number: 2500! and 2^{30000} are within it."""
LONGEST_EXACT_BITS = 2048
"""Of an exact number among rounded ones; longer results become balls."""
LARGEST_FACTORIAL = 2500
LARGEST_POWER_OF_TWO = 1 << 20
"""Of a ball, either way: e^{700000} is within it."""
NOTHING = -(2.0**40)
"""The err of a ball that is exact, and the log2 of zero."""


# mpmath keeps its longest value of each constant in two variables that threads could see out of step
# (libmp/libelefun.py, constant_memo); once they are longer than anyone asks for, nobody changes them
for _constant in (libmp.mpf_pi, libmp.mpf_e, libmp.mpf_ln2, libmp.mpf_ln10):
    _constant(1 << 13)


class Undecided(Exception):
    """No value that could be compared: undefined, ambiguous, too large, or not told apart from a singular point."""


# --- exact


def bits(value: Exact) -> int:
    """Of the larger of numerator and denominator."""
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def plain(value: Exact) -> Exact:
    """An int where it is one."""
    return value.numerator if value.denominator == 1 else value


def exact_power(base: Exact, exponent: Exact) -> Exact | None:
    """None where the power is irrational (or not real)."""
    if base == 0:
        if exponent <= 0:
            raise Undecided
        return 0
    if base == 1:
        return 1
    if exponent.denominator != 1:
        root = exact_root(base, exponent.denominator)
        return None if root is None else exact_power(root, exponent.numerator)
    n = exponent.numerator
    if abs(n) * bits(base) > LARGEST_BITS and base != -1:
        raise Undecided
    return base ** (n & 1) if base == -1 else plain(base**n if n >= 0 else 1 / Fraction(base) ** -n)


def exact_root(value: Exact, degree: int) -> Exact | None:
    """The real root where it is rational; of a negative number for odd degrees alone."""
    if value < 0:
        root = exact_root(-value, degree) if degree % 2 else None
        return None if root is None else -root
    if degree > 64:
        return value if value in (0, 1) else None
    top, bottom = _integer_root(value.numerator, degree), _integer_root(value.denominator, degree)
    return None if top is None or bottom is None else plain(Fraction(top, bottom))


def _integer_root(value: int, degree: int) -> int | None:
    if degree == 2 or value < 2:
        root = math.isqrt(value)
    elif value.bit_length() > 4096:
        return None
    else:  # Newton's from above
        root = 1 << -(-value.bit_length() // degree)
        while (lower := ((degree - 1) * root + value // root ** (degree - 1)) // degree) < root:
            root = lower
    return root if value < 2 or root**degree == value else None


def factorial(value: Number) -> int:
    """Of a natural number that was not rounded."""
    if not isinstance(value, int) or not 0 <= value <= LARGEST_FACTORIAL:
        raise Undecided
    return math.factorial(value)


def binomial(top: Number, bottom: Number) -> int:
    """Of natural numbers; 0 where more are chosen than there are."""
    if not isinstance(top, int) or not isinstance(bottom, int) or not 0 <= top <= LARGEST_FACTORIAL or bottom < 0:
        raise Undecided
    return math.comb(top, bottom)


# --- balls


def _log2(raw: Any) -> float:
    """The least whole number above log2 of the absolute value."""
    return raw[2] + raw[3] if raw[1] else NOTHING


def high(ball: Ball) -> float:
    """At least log2 of the centre's absolute value."""
    return _log2(ball[0]) if ball[1] is None else max(_log2(ball[0]), _log2(ball[1])) + 0.5


def low(ball: Ball) -> float:
    """At most log2 of the centre's absolute value."""
    return (_log2(ball[0]) if ball[1] is None else max(_log2(ball[0]), _log2(ball[1]))) - 1


def total(*logs: float) -> float:
    """log2 of a sum, from the log2 of its parts."""
    most = max(logs)
    return most + math.log2(sum([math.exp2(part - most) for part in logs]))


def straddles_cut(ball: Ball) -> bool:
    """Whether it may lie on either side of the negative half of the real line, where log and sqrt jump."""
    return ball[1] is not None and _log2(ball[1]) - 1 <= ball[2] and ball[0][0] == 1


class Precision:
    """The operations on numbers, in `prec` bits where they are not exact.

    `swallowed` is the most bits by which one term of a sum was smaller than another: so many more are needed to see it.
    `is_real` turns False once a real number gave one that is not (the root or logarithm of something negative): in
    school mathematics the formula has no value there.
    """

    def __init__(self, prec: int) -> None:
        self.prec = prec
        self.swallowed = 0.0
        self.is_real = True

    def ball(self, number: Number) -> Ball:
        if isinstance(number, tuple):
            return number
        if isinstance(number, int):
            if number.bit_length() <= self.prec:
                return libmp.from_int(number), None, NOTHING
            return self._rounded(libmp.from_int(number, self.prec), None)
        return self._rounded(libmp.from_rational(number.numerator, number.denominator, self.prec), None)

    def _rounded(self, re: Any, im: Any, *errors: float) -> Ball:
        """The result of an operation: errors of its own, and that of the rounding."""
        size = _log2(re) if im is None else max(_log2(re), _log2(im))
        if abs(size) > LARGEST_POWER_OF_TWO and size != NOTHING:
            raise Undecided
        return re, im, total(size - self.prec + 2, *errors) if size != NOTHING or errors else NOTHING

    def _short(self, value: Exact) -> Number:
        return self.ball(value) if bits(value) > LONGEST_EXACT_BITS else plain(value)

    def add(self, a: Number, b: Number) -> Number:
        if not isinstance(a, tuple) and not isinstance(b, tuple):
            return self._short(a + b)
        a, b = self.ball(a), self.ball(b)
        sizes = low(a), low(b)
        if sizes[0] > a[2] and sizes[1] > b[2]:  # neither may be zero
            self.swallowed = max(self.swallowed, abs(sizes[0] - sizes[1]))
        (ar, ai, ae), (br, bi, be) = a, b
        re = libmp.mpf_add(ar, br, self.prec)
        im = None if ai is None and bi is None else libmp.mpf_add(ai or libmp.fzero, bi or libmp.fzero, self.prec)
        return self._rounded(re, im, ae, be)

    def negative(self, a: Number) -> Number:
        if not isinstance(a, tuple):
            return -a
        return libmp.mpf_neg(a[0]), a[1] and libmp.mpf_neg(a[1]), a[2]

    def multiply(self, a: Number, b: Number) -> Number:
        if not isinstance(a, tuple) and not isinstance(b, tuple):
            return self._short(a * b)
        if a == 0 or b == 0:
            return 0
        a, b = self.ball(a), self.ball(b)
        if a[1] is None and b[1] is None:
            re, im = libmp.mpf_mul(a[0], b[0], self.prec), None
        else:
            re, im = libmp.mpc_mul(_complex(a), _complex(b), self.prec)
        return self._rounded(re, im, high(a) + b[2], high(b) + a[2], a[2] + b[2])

    def divide(self, a: Number, b: Number) -> Number:
        if not isinstance(b, tuple):
            if b == 0:
                raise Undecided
            return self._short(Fraction(a) / b) if not isinstance(a, tuple) else self.multiply(a, Fraction(1) / b)
        if b[2] > low(b) - 3:  # it may be zero
            raise Undecided
        a = self.ball(a)
        if a[1] is None and b[1] is None:
            re, im = libmp.mpf_div(a[0], b[0], self.prec), None
        else:
            re, im = libmp.mpc_div(_complex(a), _complex(b), self.prec)
        size = high((re, im, 0.0))
        return self._rounded(re, im, a[2] - low(b) + 0.5, size + b[2] - low(b) + 0.5)

    def power(self, a: Number, b: Number) -> Number:
        if not isinstance(a, tuple) and not isinstance(b, tuple):
            if b.denominator == 1 and a not in (-1, 0, 1) and abs(b) * bits(a) > LONGEST_EXACT_BITS:
                return self._whole_power(self.ball(a), b.numerator)
            value = exact_power(a, b)
            if value is not None:
                return value
            if a < 0 and b.denominator != 2:
                raise Undecided  # (-8)^{1/3} is -2 at school, and another number elsewhere
            if b.denominator == 2:
                return self._whole_power(self.square_root(a), b.numerator)
        if isinstance(b, int):
            return self._whole_power(self.ball(a), b)
        if not isinstance(a, tuple) and a == 0:
            raise Undecided
        if isinstance(a, tuple) and a[1] is None and a[0][0] == 1:
            self.is_real = False
        return self.exp(self.multiply(b, self.log(a)))

    def _whole_power(self, a: Number, n: int) -> Number:
        if not isinstance(a, tuple):
            return self.power(a, n)
        if n == 0:
            return 1
        if n < 0:
            return self.divide(1, self._whole_power(a, -n))
        if n.bit_length() > 32:
            raise Undecided
        spread = a[2] - low(a) + math.log2(n)
        if spread > -4:  # a ball around zero, or nearly so: by multiplication
            if n > 8:
                raise Undecided
            result: Number = a
            for _ in range(n - 1):
                result = self.multiply(result, a)
            return result
        guarded = self.prec + n.bit_length() + 4
        if a[1] is None:
            re, im = libmp.mpf_pow_int(a[0], n, guarded), None
        else:
            re, im = libmp.mpc_pow_int(_complex(a), n, guarded)
        return self._rounded(re, im, high((re, im, 0.0)) + spread + 0.2)

    def square_root(self, a: Number) -> Number:
        if not isinstance(a, tuple):
            if a < 0:
                self.is_real = False
                return self.multiply(self.square_root(-a), IMAGINARY)
            root = exact_root(a, 2)
            if root is not None:
                return root
        a = self.ball(a)
        if a[2] > low(a) - 2:  # it may be zero
            return libmp.fzero, None, (total(high(a), a[2]) + 1) / 2
        if straddles_cut(a):
            raise Undecided
        if a[1] is None and a[0][0] == 1:
            self.is_real = False
            re, im = libmp.fzero, libmp.mpf_sqrt(libmp.mpf_neg(a[0]), self.prec)
        elif a[1] is None:
            re, im = libmp.mpf_sqrt(a[0], self.prec), None
        else:
            re, im = libmp.mpc_sqrt(_complex(a), self.prec)
        return self._rounded(re, im, a[2] - low((re, im, 0.0)))

    def root(self, a: Number, degree: Number) -> Number:
        """The real one of a negative number, for odd degrees."""
        if not isinstance(degree, int) or not 2 <= degree <= 10_000:
            return self.power(a, self.divide(1, degree))
        if degree == 2:
            return self.square_root(a)
        if not isinstance(a, tuple):
            root = exact_root(a, degree)
            if root is not None:
                return root
        a = self.ball(a)
        if a[1] is not None:
            raise Undecided
        if a[0][0] == 1:
            if degree % 2 == 0:
                raise Undecided
            return self.negative(self.root(self.negative(a), degree))
        return self.exp(self.multiply(Fraction(1, degree), self.log(a)))

    def exp(self, a: Number) -> Number:
        if not isinstance(a, tuple) and a == 0:
            return 1
        a = self.ball(a)
        if high(a) > 20 or a[2] > -3:
            raise Undecided
        guarded = self.prec + max(int(high(a)), 0) + 4
        if a[1] is None:
            re, im = libmp.mpf_exp(a[0], guarded), None
        else:
            re, im = libmp.mpc_exp(_complex(a), guarded)
        return self._rounded(re, im, high((re, im, 0.0)) + a[2] + 0.2)

    def log(self, a: Number) -> Number:
        if not isinstance(a, tuple):
            if a == 0:
                raise Undecided
            if a == 1:
                return 0
        a = self.ball(a)
        if a[2] > low(a) - 3 or straddles_cut(a):
            raise Undecided
        if a[1] is None and a[0][0] == 0:
            re, im = libmp.mpf_log(a[0], self.prec), None
        else:
            self.is_real = self.is_real and a[1] is not None
            re, im = libmp.mpc_log(_complex(a), self.prec)
        return self._rounded(re, im, a[2] - low(a) + 0.5)

    def sine(self, a: Number) -> Number:
        return self._wave(a, 0, libmp.mpf_sin, libmp.mpc_sin)

    def cosine(self, a: Number) -> Number:
        return self._wave(a, 1, libmp.mpf_cos, libmp.mpc_cos)

    def _wave(self, a: Number, at_zero: int, real: Callable[..., Any], general: Callable[..., Any]) -> Number:
        if not isinstance(a, tuple) and a == 0:
            return at_zero
        a = self.ball(a)
        if high(a) > 200 or a[2] > -3:
            raise Undecided
        if a[1] is None:
            return self._rounded(real(a[0], self.prec), None, a[2])
        if _log2(a[1]) > 10:
            raise Undecided
        re, im = general(_complex(a), self.prec)
        return self._rounded(re, im, a[2] + 1.5 * abs(libmp.to_float(a[1])) + 1)

    def arc_tangent(self, a: Number) -> Number:
        if not isinstance(a, tuple) and a == 0:
            return 0
        a = self.ball(a)
        if a[1] is not None:
            raise Undecided
        return self._rounded(libmp.mpf_atan(a[0], self.prec), None, a[2])

    def arc_sine(self, a: Number) -> Number:
        """In [-pi/2, pi/2]; nothing beyond [-1, 1]."""
        if not isinstance(a, tuple) and abs(a) > 1:
            raise Undecided
        rest = self.add(1, self.negative(self.multiply(a, a)))
        if not isinstance(rest, tuple) and rest == 0:
            return self.divide(self.multiply(a, self.pi()), 2)
        cosine = self.square_root(rest)
        if isinstance(cosine, tuple) and cosine[1] is not None:
            raise Undecided
        return self.arc_tangent(self.divide(a, cosine))

    def absolute(self, a: Number) -> Number:
        if not isinstance(a, tuple):
            return abs(a)
        if a[1] is None:
            return libmp.mpf_abs(a[0]), None, a[2]
        return self._rounded(libmp.mpc_abs(_complex(a), self.prec), None, a[2])

    def floor(self, a: Number) -> int:
        if not isinstance(a, tuple):
            return math.floor(a)
        if a[1] is not None or high(a) > 1000 or a[2] > -3:
            raise Undecided
        whole = libmp.to_int(libmp.mpf_floor(a[0]))
        assert whole is not None
        part = (libmp.mpf_sub(a[0], libmp.from_int(whole)), None, 0.0)
        rest = (libmp.mpf_sub(libmp.from_int(whole + 1), a[0]), None, 0.0)
        if min(low(part), low(rest)) <= a[2]:  # a whole number is within the ball
            raise Undecided
        return whole

    def pi(self) -> Ball:
        return _pi(self.prec)

    def e(self) -> Ball:
        return _e(self.prec)


IMAGINARY: Ball = (libmp.fzero, libmp.fone, NOTHING)


@lru_cache(64)
def _pi(prec: int) -> Ball:
    return libmp.mpf_pi(prec), None, 3.0 - prec


@lru_cache(64)
def _e(prec: int) -> Ball:
    return libmp.mpf_e(prec), None, 3.0 - prec


def _complex(ball: Ball) -> tuple[Any, Any]:
    return ball[0], libmp.fzero if ball[1] is None else ball[1]


def checked(value: Exact) -> Exact:
    """An exact number that is not too large to go on with."""
    if bits(value) > LARGEST_BITS:
        raise Undecided
    return plain(value)


def compare(x: Number, y: Number, precision: Precision) -> bool | None:
    """False: proven different. True: equal to 30 digits or more. None: more bits are needed."""
    if not isinstance(x, tuple) and not isinstance(y, tuple):
        return x == y
    swallowed = precision.swallowed
    difference = precision.add(x, precision.negative(y))
    assert isinstance(difference, tuple)
    if low(difference) > difference[2]:
        return False
    size = max(high(precision.ball(x)), high(precision.ball(y)))
    return True if difference[2] < max(size - 100 - swallowed, -500) else None
