"""What needs no algebra: numbers, alternatives offered, an echo of the task, lists, sets, chains of equations."""

from __future__ import annotations

import re

from rlvr.verifiers.answer_text import short
from rlvr.verifiers.math_bases import BASE, by_base, by_ratio, ratio
from rlvr.verifiers.math_formula import close_to, factor_between, formula
from rlvr.verifiers.math_gold import RELATION, UNEVALUATED, Gold, Opinion, equality, is_words, read_gold
from rlvr.verifiers.math_items import same, same_formula, same_quantity, same_reals, same_shape, shape
from rlvr.verifiers.math_sets import read_set
from rlvr.verifiers.math_spelling import bare_words, squeeze
from rlvr.verifiers.math_symbols import family, same_cases, same_family, same_residues, same_symbols, symbols
from rlvr.verifiers.math_text import HEDGE, assigned, is_equation, read_quantity
from rlvr.verifiers.math_units import known_unit, split_unit, unit_conflict, with_letters_as_unit
from rlvr.verifiers.math_words import CHOICE_WITH_VALUE, by_letters, by_words, chosen, same_words

# --- the gold


def can_be_compared(gold: Gold) -> bool:
    """Whether it can be read without algebra."""
    text = gold.text
    if gold.quantity is not None or gold.choice or gold.is_words or "\\dots" in text:
        return True
    if read_set(text) is not None or ratio(text) is not None or BASE.fullmatch(gold.value):
        return True
    if (member := family(text)) is not None:
        return can_be_compared(read_gold(member[0]))
    if same_residues(text, text) or same_cases(text, text, _as_written) or symbols(text) is not None:
        return True
    return all(_is_readable(item) for item in shape(text).items)


def _as_written(left: str, right: str) -> bool:
    return left == right


def _is_readable(item: str) -> bool:
    if read_quantity(item) is not None or is_words(bare_words(item)):
        return True
    return all(formula(side) is not None for side in split_unit(item)[0].split("="))


# --- numbers


def by_number(gold: Gold, answer: str) -> Opinion | None:
    """Decisive where both sides are plain rationals."""
    name, value = assigned(answer)
    want, got = gold.quantity, read_quantity(value)
    # a lone letter is a variable, but beside a unit, or behind a blank, it is one too: 5 m against 5 km
    if got is None and want is not None and (want.unit or " " in value):
        got = read_quantity(with_letters_as_unit(value))
    elif want is None and got is not None and got.unit:
        want = read_quantity(with_letters_as_unit(gold.value))
    if want is None or got is None:
        return None
    if gold.name and name and not same_name(gold.name, name):
        return Opinion("wrong", "number", f"speaks of {name}, the gold of {gold.name}")
    if conflict := unit_conflict(want.unit, got.unit):
        return Opinion("wrong", "number", conflict)
    return equality(same_quantity(want, got), "number", gold.text, answer)


def same_name(gold: str, answer: str) -> bool:
    r"""f(x) is y; \text{Area} may be anything."""
    if gold == answer or "\\text" in gold or "\\text" in answer:
        return True
    return bool({gold, answer} & {"y", "f(x)"}) and "(x)" in gold + answer and "y" in (gold, answer)


# --- shapes


def by_shape(gold: Gold, answer: str, several: bool, seed: int) -> Opinion | None:
    """`several`: the answer stood in several boxes."""
    g = gold.text
    if several and gold.is_one and "," not in gold.text:
        return Opinion("hedged", "shape", "several boxes with different values, the gold is one")
    if same_words(gold.words, bare_words(answer)):
        return Opinion("correct", "shape", "the same words")
    if _AS_WRITTEN.fullmatch(gold.words):
        return equality(squeeze(bare_words(answer)) == squeeze(gold.words), "shape", g, answer)
    opinion = by_letters(gold, answer) or _by_meaning(gold, answer, seed)
    opinion = opinion or (_offered(gold, answer) if gold.is_one else None)
    if opinion is not None:
        return opinion
    if gold.is_evaluated and UNEVALUATED.search(assigned(answer)[1]):
        return Opinion("unevaluated", "shape", "repeats the task as a sum, integral, product, limit or derivative")
    if "\\dots" in g or "\\dots" in answer:
        return Opinion("wrong", "shape", "an ellipsis is compared as written")
    if not answer.isascii() and g.isascii():
        return Opinion("wrong", "shape", f"{short(answer)} has letters that no formula has")
    opinion = by_base(g, answer) or by_words(gold, answer) or by_ratio(gold, answer)
    if opinion is not None:
        return opinion
    opinion = _by_inequality(gold, answer, seed) if RELATION.search(gold.text) and RELATION.search(answer) else None
    return opinion or _by_parts(gold, answer, seed) or _by_chain(gold, answer, seed)


_AS_WRITTEN = re.compile(
    r"\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{4}|\d\d([-/.])\d\d\3\d\d|(?:\d{3}-){1,2}\d{4}"
)
"""Dates and telephone numbers: neither differences nor quotients."""


def _by_meaning(gold: Gold, answer: str, seed: int) -> Opinion | None:
    """Families, residues and functions by cases."""
    if "\\" not in gold.text and "\\" not in answer and "mod" not in gold.text:
        return None

    def equal(left: str, right: str) -> bool | None:
        return same(left, right, seed)

    verdict = same_family(gold.text, answer, equal)
    if verdict is None and "mod" in gold.text:
        verdict = same_residues(gold.text, answer)
    if verdict is None and "\\begin" in gold.text:
        verdict = same_cases(gold.text, answer, equal)
    return None if verdict is None else equality(verdict, "shape", gold.text, answer)


_NO_NUMBER = re.compile(r"\A[^A-Za-z0-9\\]*\Z|\A\\(?:infty|emptyset|mathbb)(?![a-z])|\A[^0-9a-z]*\Z")


def _offered(gold: Gold, answer: str) -> Opinion | None:
    """What stands in place of the one value that the gold is."""
    words = bare_words(answer)
    if gold.choice and (choice := chosen(words)):
        return Opinion("correct" if choice == gold.choice else "wrong", "shape", f"chose {choice}")
    if gold.is_words:
        return None
    if gold.quantity is not None and _NO_NUMBER.search(answer):
        return Opinion("wrong", "shape", f"{short(answer)} is no number")
    if HEDGE.search(answer) or (
        shape(answer).kind in ("list", "pair", "tuple") and "=" not in answer.partition(",")[0]
    ):
        return Opinion("hedged", "shape", f"{short(answer)} offers several values, the gold is one")
    parts = shape(answer)
    if parts.kind in ("set", "list") and len(set(parts.items)) > 1:
        return Opinion("hedged", "shape", f"{short(answer)} offers several values, the gold is one")
    if RELATION.search(answer) and gold.quantity is not None and "\\approx" not in answer:
        return Opinion("wrong", "shape", "a relation, the gold is a number")
    if gold.quantity is not None and (valued := CHOICE_WITH_VALUE.fullmatch(words)) is not None:  # (C) 30
        number = read_quantity(valued.group(2).strip())
        if number is not None:
            return equality(same_quantity(gold.quantity, number), "shape", gold.text, answer)
    return None


# --- parts and chains


def _by_parts(gold: Gold, answer: str, seed: int) -> Opinion | None:
    """Lists, sets, tuples, matrices item by item; intervals and relations as sets of reals."""
    g = gold.text
    ours, theirs = shape(g), shape(answer)
    if (ours.kind == "pair" and theirs.kind == "pair") or {ours.kind, theirs.kind} == {"matrix", "pair"}:
        verdict = same_shape(ours, theirs, seed)
    else:
        verdict = same_reals(g, answer, seed)
        if verdict is None and theirs.kind in ("list", "set") and _is_stretch(g) and not RELATION.search(answer):
            verdict = False
        if verdict is None and (ours.kind != "one" or theirs.kind != "one"):
            if (RELATION.search(g) and ours.kind != "matrix") or "\\cup" in g or "\\cup" in answer:
                return None
            verdict = same_shape(ours, theirs, seed)
            if verdict is False and any(part.kind == "one" and "\\pm" in part.items[0] for part in (ours, theirs)):
                verdict = None
    return None if verdict is None else equality(verdict, "shape", g, answer)


def _is_stretch(text: str) -> bool:
    """Whether it is an inequality: no list of values can be the same."""
    reals = read_set(text) if RELATION.search(text) else None
    return reals is not None and any(piece.low != piece.high for piece in reals.pieces)


_SIDE_NAME = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])|\\(?:alpha|beta|theta|angle|overline)|[A-Z]{2}")


_ONE_RELATION = re.compile(r"([^<>=]{1,200}?) ?(<|>|\\(?:le|ge)(?![a-z])) ?([^<>=]{1,200})")


def _by_inequality(gold: Gold, answer: str, seed: int) -> Opinion | None:
    """x + y < 5 is 2x + 2y < 10 and 5 > x + y."""
    ours, theirs = _ONE_RELATION.fullmatch(gold.text), _ONE_RELATION.fullmatch(answer)
    if not ours or not theirs or _ONE_RELATION.search(ours.group(3)) or _ONE_RELATION.search(theirs.group(3)):
        return None
    if (ours.group(2) in "<>") != (theirs.group(2) in "<>"):
        return Opinion("wrong", "shape", "one of the two may be equal, the other not")
    left, right = (f"({match.group(1)})-({match.group(3)})" for match in (ours, theirs))
    factor = factor_between(left, right, seed)
    if factor is None:
        return None
    is_turned = (ours.group(2) in ("<", "\\le")) != (theirs.group(2) in ("<", "\\le"))
    return equality((factor < 0) == is_turned, "formula", gold.text, answer)


def _by_chain(gold: Gold, answer: str, seed: int) -> Opinion | None:
    """`x = 2 + 1 = 3`: what is worked out on the way must be the gold too."""
    if "\\approx" in answer and gold.is_one:
        return _by_approximation(gold, answer, seed)
    if not is_equation(answer) or not gold.is_one or RELATION.search(answer):
        return None
    sides = _without_common_unit(gold, [side.strip() for side in answer.split("=")])
    if not all(sides):
        return None
    if gold.name and len(sides) == 2 and same_formula(gold.text, answer, seed):
        return equality(True, "formula", gold.text, answer)
    last = same(gold.value, sides[-1], seed)
    verdicts = [same(gold.value, side, seed) for side in sides[1:-1]]
    first_is_name = _names_the_rest(gold, sides)
    if not first_is_name:
        verdicts.append(same(gold.value, sides[0], seed))
    elif gold.name and len(sides) == 2 and not same_name(gold.name, assigned(answer)[0] or gold.name):
        return None  # an equation in other letters
    if last and False not in verdicts:
        return equality(True, "formula", gold.text, sides[-1])
    if last is False or False in verdicts:
        if gold.quantity is None and first_is_name and len(sides) == 2 and not assigned(answer)[0]:
            return None
        right = last or True in verdicts
        return Opinion(
            "hedged" if right else "wrong", "shape", f"not every side of {short(answer)} is {short(gold.text)}"
        )
    return None


_WITH_UNIT = re.compile(r"(.*[\w)}\]]) ?(?:\\text ?\{ ?([A-Za-z]{1,12}) ?\}|(?<= )([A-Za-z]{1,3}))")


def _without_common_unit(gold: Gold, sides: list[str]) -> list[str]:
    r"""`\pi m = 2\pi m` without its metres, where the gold has no unit."""
    if split_unit(gold.value)[1]:
        return sides
    found = [_WITH_UNIT.fullmatch(side) for side in sides]
    bodies = [match.group(1) for match in found if match and known_unit(match.group(2) or match.group(3)) is not None]
    return bodies if len(bodies) == len(sides) else sides


def _names_the_rest(gold: Gold, sides: list[str]) -> bool:
    """Whether the first side is what is asked for: `x + y = 5`; x + 1 beside a gold in x is a value."""
    names = set(_SIDE_NAME.findall(split_unit(sides[0])[0]))
    return bool(names) and not names.union(*map(_SIDE_NAME.findall, sides)) <= set(_SIDE_NAME.findall(gold.value))


def _by_approximation(gold: Gold, answer: str, seed: int) -> Opinion:
    """`\\sqrt{2} \\approx 1.41`: one of the sides is the gold, and the others are near it."""
    sides = [side.strip() for part in answer.split("\\approx") for side in part.split("=")]
    if len(sides) > 1 and _A_NAME.fullmatch(sides[0]) and sides[0] != "\\pi":
        del sides[0]
    exact = [same(gold.value, side, seed) for side in sides]
    near = [known or close_to(gold.value, side, seed) for known, side in zip(exact, sides, strict=True)]
    if True in exact and all(near):
        return equality(True, "formula", gold.text, answer)
    reason = f"not every side of {short(answer)} is near {short(gold.text)}"
    return Opinion("hedged" if True in exact else "wrong", "shape", reason)


_A_NAME = re.compile(r"\\?[A-Za-z]+(?: ?_ ?(?:\{[^{}]{1,12}\}|\w))?")


def by_formula(gold: Gold, answer: str, seed: int) -> Opinion | None:
    """One formula against another, by value."""
    if shape(gold.text).kind != "one" or shape(answer).kind != "one":
        return None
    name, value = assigned(answer)
    if is_equation(gold.value) and not is_equation(answer):  # 7 = 11a + c is not 11a + c
        return Opinion("wrong", "formula", f"{short(answer)} is no equation, the gold is one")
    name, value = _in_the_same_letter(gold.name, name, value)
    are_of_others = bool(gold.name and name) and not same_name(gold.name, name)
    if are_of_others or is_equation(gold.value) or is_equation(value):
        verdict = same_formula(gold.text, answer, seed)
    else:
        verdict = same_formula(gold.value, value, seed)
        if verdict is False and gold.name and name:
            verdict = same_formula(gold.text, answer, seed)
    return None if verdict is None else equality(verdict, "formula", gold.text, answer)


_OF_LETTER = re.compile(r"([A-Za-z])\(([a-z])\)")


def _in_the_same_letter(gold: str, name: str, value: str) -> tuple[str, str]:
    """f(t) = 2t is f(x) = 2x."""
    ours, theirs = _OF_LETTER.fullmatch(gold), _OF_LETTER.fullmatch(name)
    if not ours or not theirs or ours.group(1) != theirs.group(1) or ours.group(2) == theirs.group(2):
        return name, value
    wanted = ours.group(2)
    if re.search(rf"(?<![\\A-Za-z]){wanted}", value):
        return name, value
    return gold, re.sub(rf"(?<![\\A-Za-z]){theirs.group(2)}(?![A-Za-z])", wanted, value)


def by_symbols(gold: Gold, answer: str) -> Opinion | None:
    """Statements that have no value: as they are written."""
    signs = symbols(gold.text)
    if signs is None or formula(gold.value) is not None or read_set(gold.text) is not None:
        return None
    return equality(same_symbols(signs, answer), "shape", gold.text, answer)
