r"""Sets of real numbers as they are written: `(-\infty,2]`, `x \le 2`, `|x|<2`, `\mathbb{R}\setminus\{0\}`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rlvr.verifiers.math_text import is_enclosed, read_quantity, split_at

End = Fraction | str
"""A rational, or the text of what is none; INFINITY and MINUS_INFINITY too."""
INFINITY = "\\infty"
MINUS_INFINITY = "-\\infty"
Same = Callable[[str, str], bool | None]


@dataclass(frozen=True, slots=True)
class Piece:
    """From low to high; (0, 1]: Piece(Fraction(0), False, Fraction(1), True)"""

    low: End
    has_low: bool
    high: End
    has_high: bool


@dataclass(frozen=True, slots=True)
class RealSet:
    """x > 2: RealSet("x", (Piece(Fraction(2), False, INFINITY, False),))"""

    name: str
    """Of the variable; "" where none is named."""
    pieces: tuple[Piece, ...]
    """Their union."""


_REALS = (Piece(MINUS_INFINITY, False, INFINITY, False),)
_ALL = re.compile(r"\\mathbb ?\{?R\}?|\(? ?\\text ?\{ ?(?:all )?reals?(?: numbers?)?\} ?\)?|all reals?(?: numbers?)?")
_NONE = re.compile(r"(?:\\text ?\{ ?)?(?:the )?(?:empty set|no (?:real )?solutions?) ?\}?", re.IGNORECASE)
_HALF = re.compile(r"\\mathbb ?\{?R\}? ?(?:(\^)|_) ?\{? ?(?(1)([-+])|([<>]|\\[lg]e) ?0) ?\}?")
_NAME = r"\\?[A-Za-z]+(?: ?_ ?(?:\{\w{1,8}\}|\w))?(?: ?\([a-z]\))?"
_MEMBER = re.compile(rf"({_NAME}) ?\\in(?![a-z]) ?")
_REAL = re.compile(rf"({_NAME}) ?\\in ?\\mathbb ?\{{?R\}}? ?[,;] ?")
_BUILDER = re.compile(
    rf"\\\{{ ?({_NAME}) ?(?:\\in ?\\mathbb ?\{{?R\}}? ?)?(?:\||:|\\text ?\{{ ?such that ?\}}) ?(.+?) ?\\\}}"
)
_SIGN = re.compile(r"\\(?:le|ge|ne)(?![a-zA-Z])|[<>]")
_VARIABLE = re.compile(rf"{_NAME}")
_ABSOLUTE = re.compile(rf"\| ?({_NAME}) ?\|")
_OR = re.compile(r" ?,? ?(?:\\text ?\{ ?,? ?or ?\}|\\lor(?![a-z])|\bor\b|\\cup(?![a-z])) ?")
_AND = re.compile(r" ?,? ?(?:\\text ?\{ ?,? ?(?:and|with) ?\}|\\land(?![a-z])|\band\b|\\cap(?![a-z])) ?")
_MINUS = re.compile(r" ?(?:\\setminus(?![a-z])|(?<=[)\]}])-|\\text ?\{ ?except ?\}) ?(?=\\\{|[\[(])")
_HINT = re.compile(r"\\(?:cup|cap|infty|in|le|ge|ne|emptyset|setminus|mathbb|text)(?![a-z])|[<>\[\]]|reals")


@lru_cache(4096)
def read_set(text: str) -> RealSet | None:
    """The set that a normalised text writes; None for anything else. A pair (a, b) is read as an interval."""
    if len(text) > 400 or not (_HINT.search(text) or is_enclosed(text)):
        return None
    return _union(text)


def _union(text: str) -> RealSet | None:
    text = text.strip()
    if text == "\\emptyset" or text == "\\{\\}" or text == "\\{ \\}":
        return RealSet("", ())
    if _ALL.fullmatch(text):
        return RealSet("", _REALS)
    if _NONE.fullmatch(text):
        return RealSet("", ())
    if (real := _REAL.match(text)) is not None:  # x \in \mathbb{R}, x > 0
        rest = _union(text[real.end() :])
        return rest if rest is not None and rest.name == real.group(1) else None
    if member := _MEMBER.match(text):
        rest = _union(text[member.end() :])
        return None if rest is None or rest.name else RealSet(member.group(1), rest.pieces)
    if builder := _BUILDER.fullmatch(text):
        rest = _union(builder.group(2))
        return rest if rest is not None and rest.name == builder.group(1) else None
    parts = _OR.split(text)
    if len(parts) > 1:
        # [0,1] or (0,1) is a choice between two, 0 < x or x > 5 one set
        return _joined([_point(part) or _intersection(part) for part in parts], may_overlap="\\cup" in text)
    return _intersection(text) or _by_commas(text)


_POINT = re.compile(rf"({_NAME}) ?= ?([^=<>\\,]+|\\(?:frac|sqrt)[^=<>,]+)")


def _point(text: str) -> RealSet | None:
    """x = 5, beside other sets."""
    match = _POINT.fullmatch(text.strip())
    if match is None:
        return None
    point = _end(match.group(2))
    return RealSet(match.group(1), (Piece(point, True, point, True),))


def _by_commas(text: str) -> RealSet | None:
    """`x > 0, x < 5` are both true; `x < 0, x > 5` cannot be, and are alternatives."""
    parts = split_at(text, ",") if "," in text and _SIGN.search(text) else []
    sets = [_relation(part) for part in parts]
    if len(sets) < 2 or any(one is None for one in sets):
        return None
    known = [one for one in sets if one is not None]
    if len({one.name for one in known}) > 1:
        return None
    pieces: tuple[Piece, ...] | None = known[0].pieces
    for one in known[1:]:
        pieces = None if pieces is None else _common(pieces, one.pieces)
    return RealSet(known[0].name, pieces) if pieces else None if pieces is None else _joined(sets)


def _joined(sets: list[RealSet | None], may_overlap: bool = True) -> RealSet | None:
    name, pieces = "", []
    for part in sets:
        if part is None or (name and part.name and part.name != name):
            return None
        if not may_overlap and not part.name and _common(tuple(pieces), part.pieces) != ():
            return None
        name = name or part.name
        pieces += part.pieces
    return RealSet(name, tuple(pieces))


def _intersection(text: str) -> RealSet | None:
    parts = _AND.split(text)
    if len(parts) == 1 and "\\ne" in text:
        parts = split_at(text, ",")
        if len(parts) > 1 and "\\ne" in parts[0] and not _SIGN.search("".join(parts[1:])):  # x \ne 1, 2
            name = parts[0].partition("\\ne")[0]
            parts = [parts[0], *(f"{name}\\ne {part}" for part in parts[1:])]
    result: RealSet | None = None
    for part in parts:
        one = _difference(part.strip())
        if one is None:
            return None
        if result is None:
            result = one
            continue
        if result.name != one.name:
            return None
        both = _common(result.pieces, one.pieces)
        if both is None:
            return None
        result = RealSet(result.name, both)
    return result


def _difference(text: str) -> RealSet | None:
    match = _MINUS.search(text)
    if match is None:
        return _simple(text)
    left, right = _simple(text[: match.start()]), text[match.end() :]
    if left is None:
        return None
    if not right.startswith("\\{"):
        taken = _simple(right)
        rest = None if taken is None or taken.name else _complement(taken.pieces)
        rest = None if rest is None else _common(left.pieces, rest)
        return None if rest is None else RealSet(left.name, rest)
    if not right.endswith("\\}"):
        return None
    pieces = left.pieces
    for point in split_at(right[2:-2], ","):
        without = _common(pieces, _without(_end(point)))
        if without is None:
            return None
        pieces = without
    return RealSet(left.name, pieces)


def _simple(text: str) -> RealSet | None:
    text = text.strip()
    if _ALL.fullmatch(text):
        return RealSet("", _REALS)
    if (half := _HALF.fullmatch(text)) is not None:
        sign = half.group(3) or {"+": ">", "-": "<"}[half.group(2)]
        return RealSet("", _bounded(Fraction(0), sign, sign in (">", "\\ge")))
    if is_enclosed(text):
        return _interval(text)
    if text[:1] == "]" or (text[-1:] == "[" and text[:1] in "[("):  # ]0, 1[
        turned = {"]": "(", "[": "["}.get(text[0], text[0]) + text[1:-1] + {"[": ")", "]": "]"}.get(text[-1], text[-1])
        return _interval(turned) if is_enclosed(turned) else None
    return _relation(text)


def _interval(text: str) -> RealSet | None:
    if text.startswith("\\{"):
        written = split_at(text[2:-2], ",;")
        if any(point.startswith(("\\{", "(", "[", "\\emptyset")) or not point for point in written):
            return None  # a set of sets or of points in the plane
        points = [_end(point) for point in written]
        return RealSet("", tuple(Piece(point, True, point, True) for point in points))
    ends = split_at(text[1:-1], ",;")
    if len(ends) != 2 or not all(ends):
        return None
    low, high = _end(ends[0]), _end(ends[1])
    if isinstance(low, Fraction) and isinstance(high, Fraction) and low > high:
        return None
    if low == INFINITY or high == MINUS_INFINITY:
        return None
    has_low = text[0] == "[" and low != MINUS_INFINITY
    return RealSet("", (Piece(low, has_low, high, text[-1] == "]" and high != INFINITY),))


def _end(text: str) -> End:
    text = text.strip()
    if "\\infty" in text:
        bare = text.replace(" ", "").replace("{", "").replace("}", "")
        if bare in ("\\infty", "+\\infty"):
            return INFINITY
        return MINUS_INFINITY if bare == "-\\infty" else text
    number = read_quantity(text)
    return number.value if number is not None else text


def _relation(text: str) -> RealSet | None:
    signs = _SIGN.findall(text)
    sides = [side.strip() for side in _SIGN.split(text)]
    if not signs or not all(sides) or len(signs) > 2 or "=" in text:
        return None
    subjects = [k for k, side in enumerate(sides) if _VARIABLE.fullmatch(side) or _ABSOLUTE.fullmatch(side)]
    subjects = [k for k in subjects if sides[k] not in ("e", "\\pi", "\\infty")]
    if len(sides) == 3:
        subjects = [k for k in subjects if k == 1]
    if len(subjects) > 1:
        subjects = subjects[:1]
    if not subjects:
        return None
    at = subjects[0]
    subject = sides[at]
    pieces: tuple[Piece, ...] | None = _REALS
    for k, sign in enumerate(signs):
        bound = sides[k + 1] if at <= k else sides[k]
        above = (sign in (">", "\\ge")) == (at <= k)  # the subject is the larger side
        limits = _bounded(_end(bound), sign, above)
        pieces = limits if len(signs) == 1 else _both(pieces, limits)
        if pieces is None:
            return None
    if (absolute := _ABSOLUTE.fullmatch(subject)) is not None:
        unfolded = _unfolded(pieces)
        return None if unfolded is None else RealSet(absolute.group(1), unfolded)
    return RealSet(subject, pieces)


def _bounded(bound: End, sign: str, above: bool) -> tuple[Piece, ...]:
    if sign == "\\ne":
        return _without(bound)
    closed = sign in ("\\le", "\\ge") and bound not in (INFINITY, MINUS_INFINITY)
    return (Piece(bound, closed, INFINITY, False),) if above else (Piece(MINUS_INFINITY, False, bound, closed),)


def _both(left: tuple[Piece, ...], right: tuple[Piece, ...]) -> tuple[Piece, ...] | None:
    """Of a chain a < x < b, whose ends need not be numbers."""
    if left == _REALS:
        return right
    (one,), (other,) = left, right
    if one.high == INFINITY and other.low == MINUS_INFINITY:
        return (Piece(one.low, one.has_low, other.high, other.has_high),)
    if other.high == INFINITY and one.low == MINUS_INFINITY:
        return (Piece(other.low, other.has_low, one.high, one.has_high),)
    return None


def _complement(pieces: tuple[Piece, ...]) -> tuple[Piece, ...] | None:
    """Of one piece."""
    if len(pieces) != 1:
        return None
    piece = pieces[0]
    below = (Piece(MINUS_INFINITY, False, piece.low, not piece.has_low),) if piece.low != MINUS_INFINITY else ()
    above = (Piece(piece.high, not piece.has_high, INFINITY, False),) if piece.high != INFINITY else ()
    return below + above


def _without(point: End) -> tuple[Piece, ...]:
    return (Piece(MINUS_INFINITY, False, point, False), Piece(point, False, INFINITY, False))


def _unfolded(pieces: tuple[Piece, ...]) -> tuple[Piece, ...] | None:
    """{x: |x| in pieces}"""
    result: list[Piece] = []
    for piece in pieces:
        if piece.low == MINUS_INFINITY or (piece.low == Fraction(0) and piece.has_low):
            if piece.high == INFINITY:
                return _REALS
            if isinstance(piece.high, Fraction) and piece.high < 0:
                return None
            result.append(Piece(_negative(piece.high), piece.has_high, piece.high, piece.has_high))
        else:
            if isinstance(piece.low, Fraction) and piece.low < 0:
                return None
            result.append(Piece(_negative(piece.high), piece.has_high, _negative(piece.low), piece.has_low))
            result.append(piece)
    return tuple(result)


def _negative(end: End) -> End:
    if isinstance(end, Fraction):
        return -end
    return MINUS_INFINITY if end == INFINITY else INFINITY if end == MINUS_INFINITY else f"-({end})"


# --- comparison


def same_set(gold: RealSet, answer: RealSet, same: Same) -> bool | None:
    """Whether they are one set; None where ends would have to be ordered to tell. `same` compares two ends."""
    if gold.name and answer.name and gold.name != answer.name:
        return False
    left, right = _merged(gold.pieces), _merged(answer.pieces)
    if left is not None and right is not None:
        return left == right
    if len(gold.pieces) != len(answer.pieces):
        return None
    rest = list(answer.pieces)
    for piece in gold.pieces:
        verdicts = [_same_piece(piece, other, same) for other in rest]
        if True in verdicts:
            del rest[verdicts.index(True)]
        elif None in verdicts or len(gold.pieces) > 1:
            return None
        else:
            return False
    return True


def _same_piece(gold: Piece, answer: Piece, same: Same) -> bool | None:
    if (gold.has_low, gold.has_high) != (answer.has_low, answer.has_high):
        return False
    low, high = _same_end(gold.low, answer.low, same), _same_end(gold.high, answer.high, same)
    if low is False or high is False:
        return False
    return True if low and high else None


def _same_end(gold: End, answer: End, same: Same) -> bool | None:
    if gold == answer:
        return True
    if isinstance(gold, Fraction) and isinstance(answer, Fraction):
        return False
    if {gold, answer} & {INFINITY, MINUS_INFINITY}:
        return False
    return same(str(gold), str(answer))


_Key = tuple[int, Fraction, int]


def _key(end: End, side: int) -> _Key | None:
    """Orders ends: -1 is just below the number, 1 just above."""
    if end == MINUS_INFINITY:
        return (-1, Fraction(0), 0)
    if end == INFINITY:
        return (1, Fraction(0), 0)
    return (0, end, side) if isinstance(end, Fraction) else None


def _keys(pieces: tuple[Piece, ...]) -> list[tuple[_Key, _Key]] | None:
    keys = []
    for piece in pieces:
        low = _key(piece.low, -1 if piece.has_low else 1)
        high = _key(piece.high, 1 if piece.has_high else -1)
        if low is None or high is None:
            return None
        if low < high:
            keys.append((low, high))
    return keys


def _merged(pieces: tuple[Piece, ...]) -> list[tuple[_Key, _Key]] | None:
    keys = _keys(pieces)
    if keys is None:
        return None
    merged: list[tuple[_Key, _Key]] = []
    for low, high in sorted(keys):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def _common(left: tuple[Piece, ...], right: tuple[Piece, ...]) -> tuple[Piece, ...] | None:
    """Their intersection, where the ends can be ordered."""
    if left == _REALS:
        return right
    if right == _REALS:
        return left
    ours, theirs = _keys(left), _keys(right)
    if ours is None or theirs is None:
        return None
    both = [(max(a, c), min(b, d)) for a, b in ours for c, d in theirs if max(a, c) < min(b, d)]
    return tuple(Piece(_number(low), low[2] == -1, _number(high), high[2] == 1) for low, high in both)


def _number(key: _Key) -> End:
    return key[1] if key[0] == 0 else INFINITY if key[0] > 0 else MINUS_INFINITY
