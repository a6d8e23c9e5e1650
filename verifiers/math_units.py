"""What stands behind a number: a unit of measure, a noun, a number word that multiplies, or a word that refuses it."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from rlvr.verifiers.numeric_units import Unit, read_unit

_LETTER = "[A-Za-z\u00b5\u03a9]"
_SUFFIX = re.compile(
    rf" ?(?:\\text ?\{{ ?(?:({_LETTER}(?:{_LETTER}|[ .*/()^23-]){{0,40}}?)|(%)) ?\}}"
    r"|(?<=[\d} )])([A-Za-z]{2,20}(?:[ /][A-Za-z]{1,20}){0,3}))"
    r"((?: ?\^ ?(?:\{ ?-?[1-9] ?\}|[1-9]))?"
    r"(?: ?/ ?(?:\\text ?\{ ?[A-Za-z]{1,20} ?\}|[A-Za-z]{1,20})(?: ?\^ ?\{?[23]\}?)?)?)\Z"
)
_ENDS_IN_UNIT = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ\u03a9}23456789")
_PERCENTS = frozenset(("percent", "percentage", "pct", "per cent", "%"))
_OF = re.compile(r"(?:%|percent|per cent) (?:of|off|less|more) ?[a-z ]*")
_REFUSED = frozenset(
    # hedges, denials and claims
    "and or not maybe probably perhaps about around guess approximately approx nearly almost roughly unknown unsure "
    "because is are if true false correct incorrect right wrong nope no never none neither nor cannot unless except "
    "without but reference answer gold score reward exactly either any all oops sorry undefined invalid "
    # comparisons
    "between from to least most more less fewer greater larger smaller higher lower than above below under over beyond "
    "up minimum maximum negative "
    # mathematics
    "infinity dots base mod modulo pi sqrt sin cos tan ln log plus minus times divided multiplied squared cubed "
    "square-root factorial halved doubled tripled half third quarter halves thirds fourths quarters fifths sixths "
    "sevenths eighths ninths tenths elevenths twelfths twentieths hundredths thousandths millionths power powers root "
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety zero tens ones".split()
)
_UNIT_LETTERS = frozenset("mgsLlJWNVAKCFhtB\u03a9")
_SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "quadrillion": 10**15,
    "dozen": 12,
    "gross": 144,
    "lakh": 10**5,
    "lac": 10**5,
    "crore": 10**7,
}
_SIDES = (
    ({"am"}, {"pm"}),
    ({"bc", "bce"}, {"ad", "ce"}),
    ({"north"}, {"south"}, {"east"}, {"west"}),
    ({"left", "leftward", "leftwards"}, {"right", "rightward", "rightwards"}),
    ({"up", "upward", "upwards"}, {"down", "downward", "downwards"}),
    ({"profit", "gain", "gained"}, {"loss", "lost"}),
    ({"increase", "increased"}, {"decrease", "decreased"}),
    ({"clockwise"}, {"counterclockwise", "anticlockwise"}),
)
"""Words that change what a number says: who writes one of them is wrong where the gold has another."""
_SIDE = {word: (k, side) for k, group in enumerate(_SIDES) for side, words in enumerate(group) for word in words}
_CLOSE = frozenset("cm mm km kg ft in lb oz yd yr ml mL kW kN kJ Hz Pa GB MB KB kB TB".split())
"""Units of two letters that are units without a blank before them; hm and pm may be products."""
_NOUNS = frozenset(
    "men way ways days bags cars cats dogs pens toys hats cups kids boys ants cows hens pigs pies jars box ppl pcs "
    "units pts sq cu".split()
)


def split_unit(text: str) -> tuple[str, str]:
    r"""("36\pi", "cm^3") of `36\pi \text{ cm}^3`; (text, "") where no unit and no noun stands at the end."""
    if not text or text[-1] not in _ENDS_IN_UNIT:
        return text, ""
    start = max(text.rfind("\\text"), 0)
    suffix = _SUFFIX.search(text, start) or (_SUFFIX.search(text) if start else None)
    if suffix is None or suffix.start() == 0:
        return text, ""
    name = (suffix.group(1) or suffix.group(2) or suffix.group(3)).strip()
    low = name.casefold()
    body = text[: suffix.start()].rstrip()
    if low in _PERCENTS:
        return body, "%"
    if body.endswith("%") and low.partition(" ")[0] in ("of", "off") and _REFUSED.isdisjoint(low.split()):
        return body[:-1].rstrip(), "%"
    power = suffix.group(4).replace("\\text", "").replace("{", "").replace("}", "").replace(" ", "")
    if suffix.group(3) and (
        "\\" in text[suffix.start() - 1 : suffix.start() + 1]
        or not _is_unit(name, power, is_apart=text[suffix.start()] == " ")
    ):
        return text, ""
    if not _REFUSED.isdisjoint(low.split()) or (len(name) == 1 and name not in _UNIT_LETTERS):
        return text, ""
    return body, name.removesuffix(".") + power


def _is_unit(run: str, power: str, is_apart: bool) -> bool:
    """Of letters without \\text: 5km and 12 apples have a unit or noun, 2ab and 2 ab are products."""
    first, *rest = run.replace("/", " ").split()
    if is_apart and (
        first in ("AM", "PM", "BC", "AD", "BCE", "CE")
        or first in _NOUNS
        or scaled(run)[0] != 1
        or (rest and not first.isupper() and _is_word(first))
    ):
        return True
    if known_unit(run + power) is not None:
        return is_apart or len(first) > 2 or first in _CLOSE
    return is_apart and _is_word(first)


def _is_word(run: str) -> bool:
    return len(run) > 3 and not _VOWEL.isdisjoint(run.casefold())


_VOWEL = frozenset("aeiouy")
_LETTER_UNIT = re.compile(rf"(?<=[\d}}]) ?({_LETTER}{{1,3}}(?: ?\^ ?\{{?[23]\}}?)?)\Z")
_LONE_LETTERS = frozenset("mgshLNJWVAK")


def with_letters_as_unit(text: str) -> str:
    """5 m and 5nm as 5 \\text{m} and 5 \\text{nm}, so that they are read as lengths, not as products."""
    match = _LETTER_UNIT.search(text)
    if match is None:
        return text
    unit = match.group(1)
    letters = unit.partition("^")[0].strip()
    if (len(letters) == 1 and letters not in _LONE_LETTERS) or known_unit(letters) is None:
        return text
    return f"{text[: match.start()]} \\text{{{letters}}}{unit[len(letters) :]}"


def scaled(unit: str) -> tuple[int, str]:
    """(1000000, "dollars") of "million dollars"; (1, unit) of what starts with no number word."""
    scale = 1
    words = unit.split()
    while words and (worth := _SCALES.get(words[0].casefold().removesuffix("s" if words[0] != "gross" else ""))):
        scale *= worth
        del words[0]
    return (scale, " ".join(words)) if scale > 1 else (1, unit)


@lru_cache(1024)
def known_unit(text: str) -> Unit | None:
    """The unit of measure that a text names; None where it is a noun."""
    text = text.replace(".", "").strip()
    if not text or (text.casefold() in _SIDE and text not in ("pm",)):
        return None
    return read_unit(_DEGREES.sub("deg\\1", text))


_DEGREES = re.compile(r"\Adeg(?:ree)?s? ?([CF])(?:elsius|ahrenheit)?\Z")


def unit_conflict(gold: str, answer: str) -> str:
    """Why these two units cannot be of the same quantity; "" where they can, or where one is none that we know."""
    if not gold or not answer or gold == answer:
        return ""
    left, right = known_unit(gold), known_unit(answer)
    if left is not None and right is not None:
        return "" if left.dimension == right.dimension else f"unit {answer}, the gold has {gold}"
    ours, theirs = _sides(gold), _sides(answer)
    if any(group in theirs and theirs[group] != side for group, side in ours.items()):
        return f"{answer}, the gold says {gold}"
    return ""


def _sides(unit: str) -> dict[int, int]:
    words = unit.replace(".", "").casefold().split()
    return dict(_SIDE[word] for word in words if word in _SIDE)


# --- several units, as in 5 ft 6 in


_PART = re.compile(r" ?(\d{1,15}(?:\.\d{1,15})?) ?([A-Za-z]{1,12}|['\"]|'')\.?(?: ?,| and(?= ))?(?= ?\d|\Z)")
_ARC = {"'": 60, "minute": 60, "minutes": 60, "min": 60, '"': 3600, "''": 3600, "second": 3600, "seconds": 3600}


def compound(text: str) -> tuple[Fraction, str] | None:
    """(Fraction(5, 2), "h") of `2 h 30 min`, without \\text; None for what is not several units, each smaller."""
    head = _PART.match(text)
    whole = known_unit(head.group(2)) if head else None
    if head is None or whole is None or whole.offset or head.end() == len(text):
        return None
    value, last, at = Fraction(head.group(1)), whole.factor, head.end()
    while at < len(text):
        match = _PART.match(text, at)
        part = _part_of(whole, match.group(2)) if match else None
        if match is None or part is None or not part < last or Fraction(match.group(1)) * part >= last:
            return None
        value, last, at = value + Fraction(match.group(1)) * part / whole.factor, part, match.end()
    return value, head.group(2)


def _part_of(whole: Unit, name: str) -> Fraction | None:
    """What one of a smaller unit is worth."""
    if whole.dimension == (("degree", 1),):
        return Fraction(1, _ARC[name]) if name in _ARC else None
    unit = known_unit(name)
    return unit.factor if unit is not None and unit.dimension == whole.dimension and not unit.offset else None
