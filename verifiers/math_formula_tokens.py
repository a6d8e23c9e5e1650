r"""The tokens of a formula: numbers, names with their subscripts, functions, LaTeX commands and marks."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from rlvr.verifiers.math_formula_numbers import Exact, plain


class Unreadable(Exception):
    """Not a formula of the kinds that are known here."""


class Token(NamedTuple):
    """Token("number", "3", 3); kinds: number, name, const, function, command (with its backslash), mark and end."""

    kind: str
    text: str
    value: Exact = 0


END = Token("end", "")

FUNCTIONS = (
    "arcsinh arccosh arctanh arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch "
    "sin cos tan sec csc cot cosec ln log lg exp"
).split()
_PLAIN = [name for name in FUNCTIONS if name not in ("sec", "cosec")] + ["sqrt"]
INVERSE = {name: f"arc{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")}
TRIGONOMETRIC = frozenset("sin cos tan sec csc cot".split())
_GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell hbar varphi vartheta varepsilon varrho pi".split()
)
_TEXT = frozenset("text mathrm operatorname textrm mathit mbox rm textnormal".split())
_WORDS = frozenset(
    "mod or and if to in is no on at as by of so yes cm mm km ft mi kg min max deg rad day mph usd cent inch "
    "lb oz sec gcd lcm lim sum int nan inf true not none foot feet gram".split()
)
"""Runs of letters that are words or units, not products."""
_JOINING = frozenset(("or", "if", "to", "in"))
_GOES_ON = frozenset("+-^)}_")
"""What follows a product, as in 6hr+9h^2, where no unit would be written."""
_CONSTANTS = frozenset(("e", "i", "pi"))
_ACCENTS = {"bar": "bar", "overline": "bar", "vec": "vec", "overrightarrow": "vec", "hat": "hat", "tilde": "tilde"}
_ACCENTED = re.compile(r" ?\{ ?([A-Za-z]{1,3}) ?\}| ?([A-Za-z])(?![A-Za-z])")
_UPRIGHT_NAMES = frozenset("xyzabcjknpqrtuvwXYZ")
"""Letters that are no units, upright or bold."""
_LONGEST_PRODUCT = 4
"""Letters side by side, as in abcd; longer runs are words."""

_MIXED = re.compile(r"(\d{1,40}) (\d{1,40}) ?/ ?(\d{1,40})(?![\d.])")
_REPEATING = re.compile(r"(\d{0,40})\.(\d{0,40})\\(?:overline|bar) ?(?:\{ ?(\d{1,40}) ?\}|(\d))")
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:(?:,\d{3})+|(?: \d{3})+)(?![\d])(?:\.\d+)?")
_DECIMAL = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)")
_WORD = re.compile(r"[A-Za-z]+")
_BRACED = re.compile(r" ?\{([^{}]*)\}")
_SUBSCRIPT = re.compile(r" ?_ ?(?:\{((?:[^{}]|\{[^{}]*\}){1,40})\}|(\\[A-Za-z]+|[A-Za-z0-9]))")
_PLAIN_FUNCTION = re.compile("|".join(_PLAIN))
_SCIENTIFIC = re.compile(r"\d[eE]\d", re.ASCII)
_ROUNDED_DIGITS = 10


_TOKEN = re.compile(r" *(?:([0-9]+(?![0-9., \\eE]))|([0-9.])|(\\(?:[A-Za-z]+|.))|([A-Za-z]+)|(\*\*|[^ ]))")
"""A plain integer; the start of another number; a command; letters; a mark."""


def tokens(text: str) -> tuple[list[Token], Fraction]:
    """(the tokens, the worth of the last place of a long decimal relative to it: the greatest such, or 0).

    Raises Unreadable.
    """
    found: list[Token] = []
    rounded_to = Fraction(0)
    at = depth = 0
    while (match := _TOKEN.match(text, at)) is not None:
        number, start, command, run, mark = match.groups()
        at = match.end()
        if mark:
            depth += (mark in "([{") - (mark in ")]}")
            found.append(Token("mark", "^" if mark == "**" else mark))
        elif number:
            found.append(Token("number", number, int(number)))
        elif start:
            token, rounding, at = _number(text, at - 1, depth)
            found.append(token)
            rounded_to = max(rounded_to, rounding)
        elif command:
            at = _of_command(text, command[1:], at, found)
        else:
            at = _of_letters(text, run, at, found)
    if "\\times" in text and any(token.kind == "name" and token.text.endswith(("_vec", "_hat")) for token in found):
        raise Unreadable  # a product that does not commute
    return found, rounded_to


def _number(text: str, at: int, depth: int) -> tuple[Token, Fraction, int]:
    if match := _MIXED.match(text, at):
        whole, top, bottom = map(int, match.groups())
        if not 0 < top < bottom:
            raise Unreadable
        return Token("number", "mixed", Fraction(whole * bottom + top, bottom)), Fraction(0), match.end()
    if match := _REPEATING.match(text, at):
        lead, fixed, period = match.group(1) or "0", match.group(2), match.group(3) or match.group(4)
        top = int(lead + fixed + period) - int(lead + fixed)
        value = plain(Fraction(top, 10 ** len(fixed) * (10 ** len(period) - 1)))
        return Token("number", "repeating", value), Fraction(0), match.end()
    match = (_THOUSANDS.match(text, at) if depth == 0 else None) or _DECIMAL.match(text, at)
    if match is None or _SCIENTIFIC.match(text, match.end() - 1):
        raise Unreadable
    digits = match.group().replace(",", "").replace(" ", "")
    if "." not in digits:
        return Token("number", digits, int(digits)), Fraction(0), match.end()
    value, places = Fraction(digits), len(digits.partition(".")[2])
    is_long = len(digits.replace(".", "").lstrip("0")) >= _ROUNDED_DIGITS
    return Token("number", digits, plain(value)), 1 / (value * 10**places) if is_long else Fraction(0), match.end()


def _of_command(text: str, name: str, at: int, found: list[Token]) -> int:
    """Adds what a command says; where the text goes on."""
    if name in _GREEK:
        return _with_subscript(text, name.removeprefix("var"), at, found)
    if name in _TEXT:
        braced = _BRACED.match(text, at)
        if braced is None:
            raise Unreadable
        found.append(_of_text(braced.group(1).strip()))
        return braced.end()
    if name in _ACCENTS and (accented := _ACCENTED.match(text, at)) is not None:
        letters = accented.group(1) or accented.group(2)
        return _with_subscript(text, f"{letters}_{_ACCENTS[name]}", accented.end(), found)
    if name in FUNCTIONS:
        found.append(Token("function", "csc" if name == "cosec" else name))
    else:
        found.append(Token("command", "\\" + name))
    return at


def _of_text(content: str) -> Token:
    r"""\text{...} and its like, where it is mathematics."""
    if content in _CONSTANTS:
        return Token("const", content)
    if content in ("degrees", "degree"):
        return Token("mark", "degrees")
    content = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}.get(content, content)
    if content in FUNCTIONS:
        return Token("function", "csc" if content == "cosec" else content)
    if len(content) == 1 and content in _UPRIGHT_NAMES:
        return Token("name", content)
    raise Unreadable


def _with_subscript(text: str, name: str, at: int, found: list[Token]) -> int:
    """Adds the name, of which a subscript is a part; where the text goes on."""
    match = _SUBSCRIPT.match(text, at)
    if match is not None:
        name += "_" + re.sub(r"\\(?:text|mathrm|textrm|operatorname)|[{} ]", "", match.group(1) or match.group(2))
        at = match.end()
    found.append(Token("const" if name in _CONSTANTS else "name", name))
    return at


def _of_letters(text: str, run: str, at: int, found: list[Token]) -> int:
    """Adds letters side by side: a function or a product of names, but no word; where the text goes on."""
    if run == "pi":
        found.append(Token("const", "pi"))
        return at
    if match := _PLAIN_FUNCTION.match(run):
        found.append(Token("function", match.group()))
        run = run[match.end() :]
        if not run:
            return at
        if len(run) > 1:
            raise Unreadable
    if len(run) > 1:
        is_word = run in _WORDS and not (len(run) == 2 and run not in _JOINING and text[at : at + 1] in _GOES_ON)
        if is_word or len(run) > _LONGEST_PRODUCT or sum(map(str.isupper, run)) > 1:
            raise Unreadable
        if "pi" in run or _PLAIN_FUNCTION.search(run):
            raise Unreadable
    for letter in run[:-1]:
        found.append(Token("const" if letter in _CONSTANTS else "name", letter))
    return _with_subscript(text, run[-1], at, found)
