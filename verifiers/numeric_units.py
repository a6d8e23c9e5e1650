"""Units of measure: `5 km` and `5000 m` are the same quantity. Factors are exact, so degrees are no radians here."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Unit:
    """kilometres per hour: Unit((("length", 1), ("time", -1)), Fraction(5, 18))"""

    dimension: tuple[tuple[str, int], ...]
    """Base quantities with their exponents, sorted, none of them 0."""
    factor: Fraction
    """Worth of one in SI units."""
    offset: Fraction = Fraction(0)
    """What zero is in SI units; of temperatures alone."""

    def in_si(self, value: Fraction) -> Fraction:
        """The value of so many of this unit in SI units."""
        return value * self.factor + self.offset


_ENERGY = {"mass": 1, "length": 2, "time": -2}
_POWER = {"mass": 1, "length": 2, "time": -3}
_PRESSURE = {"mass": 1, "length": -1, "time": -2}
_PREFIXES = {
    "p": ("pico", -12),
    "n": ("nano", -9),
    "µ": ("micro", -6),
    "u": ("micro", -6),
    "m": ("milli", -3),
    "c": ("centi", -2),
    "d": ("deci", -1),
    "h": ("hecto", 2),
    "k": ("kilo", 3),
    "M": ("mega", 6),
    "G": ("giga", 9),
    "T": ("tera", 12),
}
# symbols, names without plural s, dimension, factor: all of them take prefixes
_PREFIXED: list[tuple[str, str, dict[str, int], Fraction]] = [
    ("m", "meter metre", {"length": 1}, Fraction(1)),
    ("g", "gram gramme", {"mass": 1}, Fraction(1, 1000)),
    ("s", "second", {"time": 1}, Fraction(1)),
    ("L l", "liter litre", {"length": 3}, Fraction(1, 1000)),
    ("J", "joule", _ENERGY, Fraction(1)),
    ("Wh", "", _ENERGY, Fraction(3600)),
    ("cal", "calorie", _ENERGY, Fraction(4184, 1000)),
    ("eV", "electronvolt", _ENERGY, Fraction(1602176634, 10**28)),
    ("W", "watt", _POWER, Fraction(1)),
    ("N", "newton", {"mass": 1, "length": 1, "time": -2}, Fraction(1)),
    ("Pa", "pascal", _PRESSURE, Fraction(1)),
    ("bar", "", _PRESSURE, Fraction(100_000)),
    ("Hz", "hertz", {"time": -1}, Fraction(1)),
    ("V", "volt", {"mass": 1, "length": 2, "time": -3, "current": -1}, Fraction(1)),
    ("A", "ampere amp", {"current": 1}, Fraction(1)),
    ("C", "coulomb", {"current": 1, "time": 1}, Fraction(1)),
    ("Ω", "ohm", {"mass": 1, "length": 2, "time": -3, "current": -2}, Fraction(1)),
    ("mol", "mole", {"amount": 1}, Fraction(1)),
    ("B", "byte", {"information": 1}, Fraction(8)),
    ("bit", "", {"information": 1}, Fraction(1)),
]
_PLAIN: list[tuple[str, dict[str, int], Fraction]] = [
    ("in inch inches", {"length": 1}, Fraction(254, 10_000)),
    ("ft foot feet", {"length": 1}, Fraction(3048, 10_000)),
    ("yd yard yards", {"length": 1}, Fraction(9144, 10_000)),
    ("mi mile miles", {"length": 1}, Fraction(1_609_344, 1000)),
    ("nmi", {"length": 1}, Fraction(1852)),
    ("ha hectare hectares", {"length": 2}, Fraction(10_000)),
    ("acre acres", {"length": 2}, Fraction(40_468_564_224, 10**7)),
    ("cc", {"length": 3}, Fraction(1, 10**6)),
    ("gal gallon gallons", {"length": 3}, Fraction(3_785_411_784, 10**12)),
    ("oz ounce ounces", {"mass": 1}, Fraction(28_349_523_125, 10**12)),
    ("lb lbs pound pounds", {"mass": 1}, Fraction(45_359_237, 10**8)),
    ("t tonne tonnes", {"mass": 1}, Fraction(1000)),
    ("sec secs", {"time": 1}, Fraction(1)),
    ("min mins minute minutes", {"time": 1}, Fraction(60)),
    ("h hr hrs hour hours", {"time": 1}, Fraction(3600)),
    ("day days", {"time": 1}, Fraction(86_400)),
    ("week weeks", {"time": 1}, Fraction(604_800)),
    ("month months", {"months": 1}, Fraction(1)),  # no fixed number of days
    ("year years yr yrs", {"months": 1}, Fraction(12)),
    ("mph", {"length": 1, "time": -1}, Fraction(1_609_344, 3_600_000)),
    ("kph kmh", {"length": 1, "time": -1}, Fraction(5, 18)),
    ("knot knots", {"length": 1, "time": -1}, Fraction(1852, 3600)),
    ("atm", _PRESSURE, Fraction(101_325)),
    ("K kelvin kelvins", {"temperature": 1}, Fraction(1)),
    ("degree degrees deg", {"degree": 1}, Fraction(1)),
    ("radian radians rad", {"radian": 1}, Fraction(1)),
    ("KiB", {"information": 1}, Fraction(8 * 2**10)),
    ("MiB", {"information": 1}, Fraction(8 * 2**20)),
    ("GiB", {"information": 1}, Fraction(8 * 2**30)),
    ("usd dollar dollars", {"dollar": 1}, Fraction(1)),
    ("cent cents", {"dollar": 1}, Fraction(1, 100)),
    ("eur euro euros", {"euro": 1}, Fraction(1)),
    ("gbp", {"sterling": 1}, Fraction(1)),
    ("jpy yen", {"yen": 1}, Fraction(1)),
]


def _dimension(powers: dict[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((name, power) for name, power in powers.items() if power))


def _table() -> dict[str, Unit]:
    units = {}
    for symbols, names, powers, factor in _PREFIXED:
        for letter, (prefix, exponent) in {"": ("", 0), **_PREFIXES}.items():
            unit = Unit(_dimension(powers), factor * Fraction(10) ** exponent)
            units |= {letter + symbol: unit for symbol in symbols.split()}
            units |= {prefix + name + plural: unit for name in names.split() for plural in ("", "s")}
    for words, powers, factor in _PLAIN:
        units |= dict.fromkeys(words.split(), Unit(_dimension(powers), factor))
    temperature = _dimension({"temperature": 1})
    celsius = Unit(temperature, Fraction(1), Fraction(27_315, 100))
    fahrenheit = Unit(temperature, Fraction(5, 9), Fraction(45_967, 180))
    units |= dict.fromkeys(("degC", "celsius"), celsius) | dict.fromkeys(("degF", "fahrenheit"), fahrenheit)
    return units


_UNITS = _table()
_BY_LOWER: dict[str, set[Unit]] = {}
for _name, _unit in _UNITS.items():
    _BY_LOWER.setdefault(_name.casefold(), set()).add(_unit)
_TERM = re.compile(
    r"(\s?(?:/|\bper\b|\*|·|\\cdot)\s?|\s)?(square |sq |cubic |cu )?([A-Za-zµΩ]{1,20})"
    r"(?:\s?\^\s?\{?\s?(-?\d)\s?\}?|([23])(?!\d))?"
)
_POWER_WORDS = {"square ": 2, "sq ": 2, "cubic ": 3, "cu ": 3}


@lru_cache(1024)
def read_unit(text: str) -> Unit | None:
    """The unit that a text such as "km/h", "kg m^2" or "square feet" names; None where any part of it is unknown.

    Case tells mW from MW; where it tells nothing ("KM"), it does not count.
    """
    powers: Counter[str] = Counter()
    factor, position, below, alone = Fraction(1), 0, False, None
    text = text.strip().replace("μ", "µ")
    if not text or len(text) > 60:
        return None
    while position < len(text):
        match = _TERM.match(text, position)
        if match is None or (position == 0) != (match.group(1) is None):
            return None
        unit = _named(match.group(3))
        if unit is None:
            return None
        below = below or (match.group(1) or "").strip() in ("/", "per")
        exponent = int(match.group(4) or match.group(5) or _POWER_WORDS.get(match.group(2), 1))
        exponent = -exponent if below else exponent
        factor *= unit.factor**exponent
        for name, power in unit.dimension:
            powers[name] += power * exponent
        alone = unit if position == 0 and exponent == 1 else None
        position = match.end()
    # 20 degrees Celsius has an offset where it stands alone; a rise of 5 degrees per hour has none
    return alone or Unit(_dimension(dict(powers)), factor)


def _named(word: str) -> Unit | None:
    if word in _UNITS:
        return _UNITS[word]
    alike = _BY_LOWER.get(word.casefold(), set())
    return next(iter(alike)) if len(alike) == 1 else None
