"""The last stage: math-verify, behind a comparison of constants at 40 digits. It has no deadline of its own."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from rlvr.verifiers.answer_text import short
from rlvr.verifiers.math_gold import Opinion, equality
from rlvr.verifiers.math_text import commas_for_and, split_parts, spread


def by_algebra(gold: str, answer: str) -> Opinion:
    """On normalised texts that are safe to try."""
    try:
        if (right := _parsed(_spread(answer))) is None:
            return Opinion("malformed", "sympy", f"{short(answer)} cannot be read as mathematics")
        if (left := _parsed_gold(_spread(gold))) is None:
            return Opinion("wrong", "sympy", f"{short(answer)} is not {short(gold)}, which algebra does not read")
        return equality(_same(left, right), "sympy", gold, answer)
    except RecursionError:
        return Opinion("too_complex", "sympy", "nested too deeply for algebra")


def can_be_read(text: str) -> bool:
    """Whether math-verify finds any mathematics in a normalised text."""
    try:
        return _parsed_gold(_spread(text)) is not None
    except RecursionError:
        return False


def _spread(text: str) -> str:
    if "\\pm" not in text:
        return text
    inner = text[2:-2] if text.startswith("\\{") and text.endswith("\\}") else text
    return ", ".join(one for part in split_parts(commas_for_and(inner)) for one in spread(part))


@lru_cache(1024)
def _parsed_gold(text: str) -> Any:
    return _parsed(text)


def _parsed(text: str) -> Any:
    """First reading of the text as LaTeX; None where it has none."""
    from math_verify import LatexExtractionConfig, parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that timeouts are off, at every call
    read = parse(
        "\\boxed{" + text + "}",  # a bare formula would be cut at what math-verify takes for its end
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,  # type: ignore[arg-type]
    )
    return next((thing for thing in read if not isinstance(thing, str)), None)


def _same(left: Any, right: Any) -> bool:
    from math_verify import verify

    certain = _numerically(left, right)
    if certain is not None:
        return certain
    if _is_boundless(left) or _is_boundless(right):  # of these math-verify says anything, and not always the same
        return bool(left == right)
    if verify(left, right, allow_set_relation_comp=True, timeout_seconds=None):
        return True
    return _same_reals(left, right)


def _numerically(left: Any, right: Any) -> bool | None:
    """Constants at 40 digits, formulas at three positive points; None where that proves nothing.

    math-verify rounds to 6 places absolutely, by which all small numbers are equal.
    """
    import sympy

    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return None
    if left.is_Rational and right.is_Rational:
        return bool(left == right)
    names: list[Any] = sorted(left.free_symbols | right.free_symbols, key=str)
    if [name.name for name in names] == ["i"]:  # read as a letter; alone it is the imaginary unit
        left, right = (side.subs(names[0], sympy.I) for side in (left, right))
        names = []
    inexact = left.has(sympy.Float) or right.has(sympy.Float)
    for k in range(3 if names else 1):
        point: dict[Any, Any] = {
            name: sympy.Rational(1_000_003 + 7919 * (i + 1) * (k + 2), 700_001) for i, name in enumerate(names)
        }
        try:
            x, y = (sympy.N(side.doit().subs(point), 40) for side in (left, right))
            if not (x.is_number and y.is_number) or x.has(sympy.nan, sympy.zoo) or y.has(sympy.nan, sympy.zoo):
                return None
            if x.is_infinite or y.is_infinite:
                return bool(x == y)
            size = max(abs(x), abs(y))
            close = size == 0 or bool(abs(x - y) <= size * sympy.Float("1e-9" if inexact else "1e-35", 40))
        except (ArithmeticError, AttributeError, TypeError, ValueError, NotImplementedError):
            return None  # no value there: let math-verify try by algebra
        if not close:
            return False
    return None if names else True


def _is_boundless(side: Any) -> bool:
    import sympy

    return isinstance(side, sympy.Expr) and side.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)


def _same_reals(left: Any, right: Any) -> bool:
    """A relation in one real unknown against a set of reals, or another relation, as sets."""
    import sympy

    sets = [_as_reals(side) for side in (left, right)]
    if None in sets or (isinstance(left, sympy.Set) and isinstance(right, sympy.Set)):
        return False
    return bool(sets[0].symmetric_difference(sets[1]).is_empty)


def _as_reals(side: Any) -> Any:
    """None for what is neither a set nor an inequality in one unknown."""
    import sympy

    if isinstance(side, sympy.Set):
        return side
    is_relation = isinstance(side, sympy.core.relational.Relational | sympy.And | sympy.Or)
    if not is_relation or isinstance(side, sympy.Equality) or len(side.free_symbols) != 1:
        return None
    relation: Any = side.subs(next(iter(side.free_symbols)), sympy.Symbol("x", real=True))
    try:
        return relation.as_set()
    except (ArithmeticError, AttributeError, TypeError, ValueError, NotImplementedError):
        return None
