"""The equalities that a worked solution states, in order, out of whatever prose stands around them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rlvr.verifiers.math_spelling import normalised

LONGEST_LINE = 2000
"""Characters of a line that is read."""
_FUNCTIONS = frozenset("sqrt sin cos tan ln log exp pi frac cdot times div left right dfrac tfrac pm".split())
_FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")  # GSM8K's, which repeats what stands beside it
_BULLET = re.compile(
    r"\A\s{0,20}(?:[*•>-]{1,3}\s+|\(?\d{1,2}[.)]\s+(?![-+*/=×÷^])|step\s+\d{1,3}\s*[.:)-]\s*)", re.IGNORECASE
)
_PERCENT_OF = re.compile(r"(?<=\d)\s?\\?%\s?(?:of\b|\*|×|\\times|\\cdot)")
_LABEL = re.compile(
    r"(?<=\d)\s{1,2}(?:[A-Za-z]{3,20}(?:\s[A-Za-z]{3,20})?|cm|mm|km|kg|mg|ft|lb|oz|mi)(?=\s{0,3}[-+*/=×÷)])"
)
_TIMES = re.compile(r"(?<=\d)\s{1,2}[xX]\s{1,2}(?=[$\d])")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mbox|textit)\s?\{[^{}]*\}(?:\^\s?\{?\d\}?)?")
_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_ARROW = re.compile(
    r"\\(?:implies|Rightarrow|Longrightarrow|Leftrightarrow|iff|therefore|because|to|rightarrow|quad|qquad|approx|neq?|"
    r"leq?|geq?|boxed|fbox|begin|end|\\|\[|\]|\(|\)|,|;|!)(?![A-Za-z])"
)
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}")
_PRODUCT = re.compile(r"[-+*/=^\d]")
_BREAK = re.compile(r"[\n;:!?|&<>≈≠≤≥⇒→∴~#`\"]|[,.](?=\s|\Z)|\$\$|\*\*|==")


@dataclass(frozen=True, slots=True)
class Statement:
    """Statement("2x + 1 = 7", ("2x + 1", "7"))"""

    text: str
    """As it was written, but for labels and units."""
    sides: tuple[str, ...]
    """Normalised; two or more, none of them blank."""


def statements(text: str, most: int) -> list[Statement]:
    """The first `most` of them. One pass: hostile text costs its length."""
    found: list[Statement] = []
    for line in _FENCE.sub(" ", text).split("\n"):
        if "=" not in line or len(line) > LONGEST_LINE:
            continue
        for piece in _pieces(line):
            sides = tuple(normalised(side) for side in piece.split("="))
            if len(sides) > 1 and all(sides):
                found.append(Statement(" ".join(piece.split()), sides))
                if len(found) == most:
                    return found
    return found


def _pieces(line: str) -> list[str]:
    """Runs of mathematics with an equals sign; words end them, but for labels and units behind numbers."""
    line = _CALCULATOR.sub("", _BULLET.sub("", line))
    line = _COMMA.sub("", line.replace("{,}", ","))
    line = _PERCENT_OF.sub("/100*", line)
    line = _TEXT.sub(lambda m: "" if m.start() and line[: m.start()].rstrip()[-1:].isdigit() else "\n", line)
    line = _LABEL.sub("", line)
    line = _TIMES.sub(" * ", _ARROW.sub("\n", line))
    line = _WORD.sub(_without_words, line)
    # a single $ is currency or the edge of a formula; either way the words around it are what divides
    pieces = (piece.replace("$", "").strip(" \t*_") for piece in _BREAK.split(line) if "=" in piece)
    return [piece if "\\" in piece else piece.strip("{}") for piece in pieces]


def _without_words(match: re.Match[str]) -> str:
    """Functions stay, and products of two or three letters that touch an operator or a number: 2ab, xy=6."""
    word, line = match.group(), match.string
    touching = line[max(match.start() - 1, 0) : match.start()] + line[match.end() : match.end() + 1]
    return word if word in _FUNCTIONS or (len(word) < 4 and _PRODUCT.search(touching)) else "\n"
