"""One spelling of a maths answer for what looks the same on paper."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

LONGEST = 2000
"""Characters of an answer that is read at all."""


# --- characters


_INVISIBLE = dict.fromkeys(
    map(ord, "\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u00ad\ufeff\u202a\u202b\u202c\u202d\u202e")
) | dict.fromkeys(range(0x2066, 0x206A))
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SUBSCRIPT = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_BEFORE_NFKC = str.maketrans(
    {
        "\u211d": "\\mathbb{R}",
        "\u2124": "\\mathbb{Z}",
        "\u2115": "\\mathbb{N}",
        **dict.fromkeys("\u00b0\u00ba\u02da", "^\\circ "),
        "\u2030": "/1000",
        "\u2026": "\\ldots ",
    }
)
_SYMBOLS = str.maketrans(
    {
        "\u2212": "-",
        "\u2013": "-",
        "\u2014": "-",
        "\u2010": "-",
        "\u2011": "-",
        "\u00d7": "\\times ",
        "\u22c5": "\\cdot ",
        "\u00b7": "\\cdot ",
        "\u2219": "\\cdot ",
        "\u2217": "\\cdot ",
        "\u00f7": "/",
        "\u2215": "/",
        "\u2044": "/",
        "\u03c0": "\\pi ",
        "\u03b1": "\\alpha ",
        "\u03b2": "\\beta ",
        "\u03b3": "\\gamma ",
        "\u03b8": "\\theta ",
        "\u03bb": "\\lambda ",
        "\u03bc": "\\mu ",
        "\u03c6": "\\phi ",
        "\u03c3": "\\sigma ",
        "\u03c9": "\\omega ",
        "\u221e": "\\infty ",
        "\u2264": "\\le ",
        "\u2a7d": "\\le ",
        "\u2265": "\\ge ",
        "\u2a7e": "\\ge ",
        "\u2260": "\\ne ",
        "\u2248": "\\approx ",
        "\u222a": "\\cup ",
        "\u2229": "\\cap ",
        "\u2208": "\\in ",
        "\u2216": "\\setminus ",
        "\u00b1": "\\pm ",
        "\u2213": "\\mp ",
        "\u2205": "\\emptyset ",
        "\u2223": "|",
        "\u00a2": "\\text{ cents}",
        "\u2220": "\\angle ",
        "\u25b3": "\\triangle ",
        "\u2225": "\\parallel ",
        "\u22a5": "\\perp ",
        "\u2245": "\\cong ",
        "\u2282": "\\subset ",
        "\u2286": "\\subseteq ",
        "\u2261": "\\equiv ",
        "\u0394": "\\Delta ",
        "\u03b4": "\\delta ",
        "\u03b5": "\\epsilon ",
        "\u03c1": "\\rho ",
        "\u03c8": "\\psi ",
        "\u03c4": "\\tau ",
        "\u21d2": "\\Rightarrow ",
        "\u2234": "\\therefore ",
        **dict.fromkeys("\u2713\u2714\u2705\u25a0\u25a1\u220e", ""),
        "\u27e8": "(",
        "\u27e9": ")",
        "\u2192": "\\to ",
        "\u2228": "\\lor ",
        "\u2227": "\\land ",
        "\u2032": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u20ac": "",
        "\u00a3": "",
        "\u2211": "\\sum ",
        "\u222b": "\\int ",
    }
)


def _plain_characters(text: str) -> str:
    text = text.translate(_INVISIBLE)
    if text.isascii():
        return text
    text = re.sub("(?<=[\\w)}\\]])[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda m: "^{" + m.group().translate(_SUPERSCRIPT) + "}", text)
    text = re.sub("(?<=\\w)[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m.group().translate(_SUBSCRIPT) + "}", text)
    text = re.sub(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])", " ", text)  # 1½ is mixed, not 11/2
    text = unicodedata.normalize("NFKC", text.translate(_BEFORE_NFKC))
    text = re.sub("\u221b ?(\\d+|[a-zA-Z])", r"\\sqrt[3]{\1}", text)
    text = re.sub("\u221a ?(\\d+|[a-zA-Z])", r"\\sqrt{\1}", text)
    text = re.sub("\u221a ?\\(([^()]*)\\)", r"\\sqrt{\1}", text).replace("\u221a{", "\\sqrt{")
    return text.translate(_SYMBOLS)


# --- spelling


_SPELLINGS = {
    **dict.fromkeys(
        "left right displaystyle textstyle scriptstyle limits nolimits big bigl bigr Big Bigl Bigr bigg biggl biggr "
        "Bigg Biggl Biggr mathstrut strut hfill centering bf rm it tt sf sl em tiny small normalsize large Large LARGE "
        "huge Huge boldmath underline uline ensuremath framebox fbox boxed square Box blacksquare qed checkmark null "
        "limits nonumber notag".split(),
        "",
    ),
    **dict.fromkeys("quad qquad thinspace enspace space".split(), " "),
    **dict.fromkeys("dfrac tfrac cfrac".split(), "\\frac"),
    **dict.fromkeys("dbinom tbinom".split(), "\\binom"),
    **dict.fromkeys(
        "text textbf textit textrm mathrm mathbf mathit mathsf mbox hbox textnormal textup".split(), "\\text"
    ),
    **dict.fromkeys("operatorname boldsymbol pmb bm texttt mathtt textsf emph textsc".split(), "\\text"),
    **dict.fromkeys("leq leqslant leqq".split(), "\\le "),
    **dict.fromkeys("geq geqslant geqq".split(), "\\ge "),
    **dict.fromkeys("neq".split(), "\\ne "),
    **dict.fromkeys("varnothing O".split(), "\\emptyset "),
    **dict.fromkeys("ldots cdots dotsc dotsb dotsm".split(), "\\dots "),
    **dict.fromkeys("mid vert lvert rvert".split(), "|"),
    **dict.fromkeys("langle lparen".split(), "("),
    **dict.fromkeys("rangle rparen".split(), ")"),
    **dict.fromkeys("smallsetminus backslash".split(), "\\setminus "),
    "lt": "<",
    "gt": ">",
    "lbrace": "\\{",
    "rbrace": "\\}",
    "lbrack": "[",
    "rbrack": "]",
    "colon": ":",
    "infin": "\\infty ",
    "R": "\\mathbb{R}",
    "Z": "\\mathbb{Z}",
    "N": "\\mathbb{N}",
    "Bbb": "\\mathbb",
    "degree": "^\\circ ",
    "ast": "\\cdot ",
    "exponentialE": "e",
    "imaginaryI": "i",
    "wedge": "\\land ",
    "vee": "\\lor ",
    "rightarrow": "\\to ",
    "iff": "\\iff ",
    "lnot": "\\neg ",
}
_COMMAND = re.compile(r"\\(?:([a-zA-Z]+)|([!,;:> $%&\\]))")
_MARKS = {"!": "", ",": " ", ";": " ", ":": " ", ">": " ", " ": " ", "$": "\\$", "%": "%", "&": "&", "\\": "\\\\"}


def _respelled(match: re.Match[str]) -> str:
    name = match.group(1)
    if name is None:
        return _MARKS[match.group(2)]
    return _SPELLINGS.get(name, match.group())


_THOUSANDS = re.compile(r"(?<=\d),\\! ?(?=\d)")
_DEGREES = re.compile(r" ?\^ ?(?:\{ ?\\circ ?\}|\\circ)")
_FRAC = re.compile(
    r"\\frac ?(?:(\d|[a-zA-Z](?![a-zA-Z])) ?(\d|[a-zA-Z])(?![\da-zA-Z])|(\d) ?(\d)(?=[a-zA-Z])|(\w) ?\{)"
)
_HALF_FRAC = re.compile(r"(\\frac ?\{[^{}]*\}) ?(\w)")
_ROOT = re.compile(r"\\sqrt ?(\[[^\]]*\])? ?(\d|[a-zA-Z])(?![a-zA-Z]*\{)")
_FUNCTION = re.compile(
    r"(?<![\\a-zA-Z])(sqrt|arcsin|arccos|arctan|sin|cos|tan|sec|csc|cot|ln|log|exp)(?=[ (\[{^_\d])"
    r"( ?\(([^()]*)\)| ?\{)?"
)
_NAME = re.compile(r"(?<![\\a-zA-Z{])(pi|theta|alpha|beta|infinity|infty|inf|oo)(?![a-zA-Z}])")
_NAMES = {"infinity": "infty", "inf": "infty", "oo": "infty"}
_LETTER = re.compile(r"\\text ?\{ ?([ei]) ?\}")
_TEXT_LETTER = re.compile(r"\\text ?\{ ?\(?([A-Za-z])\)? ?\}\.?")
_WHOLE_TEXT = re.compile(r"\\text ?\{([^{}]*)\}\.?")
_SPACE = re.compile(r"\s+|~")


@lru_cache(4096)
def normalised(text: str) -> str:
    """One spelling for what looks the same on paper. Text beyond the longest answer comes back stripped only."""
    if len(text) > 2 * LONGEST:
        return text.strip()
    if not text.isascii():
        text = _plain_characters(text)
    if "{}" in text:
        text = _EMPTY.sub("", text)
    if "\\" in text:
        if "\\!" in text:
            text = _THOUSANDS.sub(",", text)
        if "{" in text:
            text = _COLOUR.sub("", text)
        text = _COMMAND.sub(_respelled, text)
        text = _latex_arguments(text)
    if "C_" in text and "^" in text:
        text = _COMBINATIONS.sub(r"\\binom{\1\2}{\3\4}", text)
    if "$" in text:
        text = _DOLLARS.sub(r"\1\\text{ dollars}", text.strip()).replace("\\$", "").replace("$", "")
    text = _SPACE.sub(" ", text.replace("{,}", ",")).strip()
    if _has_word(text):
        text = _FUNCTION.sub(_as_command, text)
        text = _NAME.sub(lambda m: "\\" + _NAMES.get(m.group(1), m.group(1)) + " ", text)
    text = _relations(_without_stars(text)).strip()
    text = _without_end(text)
    while len(text) > 1 and text[0] == "{" and text[-1] == "}" and "}" not in text[1:-1] and "{" not in text[1:-1]:
        if "," in text:
            return "\\{" + text[1:-1].strip() + "\\}"  # {1, 2} is a set, whose braces were not escaped
        text = text[1:-1].strip()
    return text


_COLOUR = re.compile(
    r"\\(?:text)?color(?:box)? ?(?:\[[^\]]*\])?\{[^{}]*\}|\\fcolorbox ?\{[^{}]*\} ?\{[^{}]*\}"
    r"|\\(?:[hv]space\*?|[hv]?phantom|label|tag) ?\{[^{}]*\}|\\[hvm]skip ?-?[\d.]+ ?(?:mm|cm|em|ex|pt|mu)"
)
_DOLLARS = re.compile(r"\A\\\$ ?(-?[\d.,]*\d)\Z")
_EMPTY = re.compile(r"(?:\A|(?<=[-+=( ]))\{\}|[_^] ?\{\}")
_LEAD = re.compile(
    r"\\text ?\{([A-Za-z :.,=]{1,60})\} ?"
    r"|(?:\\(?:therefore|because|implies|[rR]ightarrow|Longrightarrow|star|bullet|approx|to)(?![a-zA-Z])|:) ?"
)
_INTRODUCTION = frozenset(
    "the final correct total answer ans value result solution number is are exactly only there so thus hence "
    "therefore we get have of equals equal".split()
)
_MINUS = re.compile(r"\A\\text ?\{ ?(?:negative|minus) ?\} ?(?=[\d\\])")
_OVER = re.compile(
    r"\\frac ?\{ ?\\text ?\{ ?([A-Za-z]{1,12}) ?\} ?\} ?"
    r"\{ ?\\text ?\{ ?([A-Za-z]{1,12}) ?\}(?: ?\^ ?\{? ?([23]) ?\}?)? ?\}"
)
_PER = re.compile(r"\\text ?\{[ ~]?([A-Za-z]{1,12}) ?\} ?/ ?\\text ?\{[ ~]?([A-Za-z]{1,12}) ?\}")
_ORDINAL = re.compile(r"(?:\\text ?\{ ?)?(\d{1,9}) ?(?:\^ ?\{? ?)?(?:\\text ?\{ ?)?(?:st|nd|rd|th)(?: ?\\?\}){0,2}\.?")
_TEMPERATURE = re.compile(r" \\text\{ degrees\} ?(?:\\text ?\{ ?)?([CF])(?:elsius|ahrenheit)?(?![A-Za-z]) ?\}?\Z")
_OHMS = re.compile(r"(?<=[\d}]) ?(?:\\text ?\{ ?([kMm]?) ?\} ?|([kM]))?\\Omega\Z")
_STYLED = re.compile(r"\\text ?\{(?=[^{}]*\\[a-zA-Z])")
_CHOOSE = re.compile(r"\{ ?([^{}\\]{1,20}?) ?\\choose ?([^{}\\]{1,20}?) ?\}")
_COMBINATIONS = re.compile(r"(?<![A-Za-z\\])C ?_ ?(?:\{ ?(\d{1,3}) ?\}|(\d)) ?\^ ?(?:\{ ?(\d{1,3}) ?\}|(\d))")


def _latex_arguments(text: str) -> str:
    if "\\begin" in text:
        text = _SYSTEM.sub(_joined_rows, _BRACED_ARRAY.sub(r"\\begin{cases}\1\\end{cases}", text))
    text = _without_introduction(text.strip())
    if "\\circ" in text:
        text = _TEMPERATURE.sub(r"\\text{ deg\1}", _DEGREES.sub(r" \\text{ degrees}", text))
    if "\\Omega" in text:
        text = _OHMS.sub(lambda m: f"\\text{{ {m.group(1) or m.group(2) or ''}\u03a9}}", text)
    if "\\choose" in text:
        text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    if "\\frac" in text:
        text = _FRAC.sub(_braced_fraction, text)
        text = _HALF_FRAC.sub(lambda m: m.group() if m.group(1)[-2] == "\\" else f"{m.group(1)}{{{m.group(2)}}}", text)
    if "\\sqrt" in text:
        text = _ROOT.sub(lambda m: f"\\sqrt{m.group(1) or ''}{{{m.group(2)}}}", text)
    if "\\text" in text:
        text = _of_text(text)
    return text


def _without_introduction(text: str) -> str:
    r"""Without \text{The answer is }, \therefore and their like in front."""
    while (lead := _LEAD.match(text)) is not None and lead.end() < len(text):
        if lead.group(1) and not _INTRODUCTION.issuperset(re.findall("[a-z]+", lead.group(1).casefold())):
            break
        text = text[lead.end() :]
    return _MINUS.sub("-", text)


def _of_text(text: str) -> str:
    if _STYLED.search(text):
        text = _unstyled(text)
    if "/" in text or "\\frac" in text:
        text = _PER.sub(r"\\text{\1/\2}", _OVER.sub(_quotient, text))
    if (ordinal := _ORDINAL.fullmatch(text)) is not None:
        return ordinal.group(1)
    text = _LETTER.sub(r"\1", text)
    letter = _TEXT_LETTER.fullmatch(text.strip())
    return letter.group(1) if letter else text


def _quotient(match: re.Match[str]) -> str:
    return f"\\text{{{match.group(1)}/{match.group(2)}}}" + (f"^{match.group(3)}" if match.group(3) else "")


def _unstyled(text: str) -> str:
    r"""Formulas in \text, which was \mathbf or \mathrm, without it."""
    opened = [match.end() for match in _STYLED.finditer(text)]
    closings, waiting = {}, []
    for token in _BRACES.finditer(text):
        if token.group() == "{":
            waiting.append(token.end())
        elif token.group() == "}" and waiting:
            closings[waiting.pop()] = token.start()
    pieces, at = [], 0
    dropped = {closings[place] for place in opened if place in closings}
    starts = {match.start(): match.end() for match in _STYLED.finditer(text) if match.end() in closings}
    for place in sorted({*dropped, *starts}):
        pieces.append(text[at:place])
        at = starts.get(place, place + 1)
    return "".join([*pieces, text[at:]])


_BRACED_ARRAY = re.compile(r"\\\{ ?\\begin ?\{array\}(?: ?\{[lcr ]*\})?([^&]{1,400}?)\\end ?\{array\} ?\.?")
_SYSTEM = re.compile(r"\\begin ?\{(cases|aligned|align\*?|gathered)\}([^&]{1,400}?)\\end ?\{\1\}", re.DOTALL)


def _joined_rows(match: re.Match[str]) -> str:
    """A system of equations as a list of them; a function by cases keeps its rows."""
    return ", ".join(row.strip(" ,") for row in match.group(2).split("\\\\") if row.strip(" ,"))


def _braced_fraction(match: re.Match[str]) -> str:
    top, bottom = match.group(1) or match.group(3), match.group(2) or match.group(4)
    return f"\\frac{{{top}}}{{{bottom}}}" if top else f"\\frac{{{match.group(5)}}}{{"


def _has_word(text: str) -> bool:
    return re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{2}", text) is not None


def _as_command(match: re.Match[str]) -> str:
    name, argument = match.group(1), match.group(2) or ""
    if name == "sqrt" and match.group(3) is not None:
        return f"\\sqrt{{{match.group(3)}}}"
    if name == "sqrt" and not argument:
        return match.group()
    return f"\\{name}{argument}" if argument else f"\\{name} "


def _relations(text: str) -> str:
    if "=" in text:
        text = text.replace("!=", "\\ne ").replace(">=", "\\ge ").replace("<=", "\\le ").replace("\\not=", "\\ne ")
        text = text.replace("=>", "=").replace("==", "=").lstrip("= ")
    return text.replace("**", "^") if "**" in text else text


def _without_end(text: str) -> str:
    while text and text[-1] in ".,;:\\" and not text.endswith("\\;"):
        text = text[:-1].rstrip()
    return text


def _without_stars(text: str) -> str:
    """Without the stars and lines of Markdown; a lone one is a sign, and no decoration."""
    while text.startswith("**") or (text.endswith("**") and len(text) > 2):
        text = text.removeprefix("**").removesuffix("**").strip()
    while len(text) > 2 and text[0] == text[-1] and text[0] in "*_":
        text = text[1:-1].strip()
    return text


def squeeze(text: str) -> str:
    """Without the blanks that mean nothing: "1 2" stays apart, "x + 1" does not."""
    return _BLANK.sub("", text) if " " in text else text


_BLANK = re.compile(r"(?<![\dA-Za-z]) | (?![\dA-Za-z])")
_BRACES = re.compile(r"\\.|[{}]")


def balanced(text: str) -> bool:
    r"""Whether every { has its }; \{ and \} do not count."""
    depth = 0
    for bracket in _BRACES.findall(text):
        if bracket == "{":
            depth += 1
        elif bracket == "}":
            depth -= 1
            if depth < 0:
                return False
    return depth == 0


# --- words


TEXT = re.compile(r"\\text ?\{([^{}]*)\}")
_SEVERAL_BLANKS = re.compile(r" {2,}")


def bare_words(text: str) -> str:
    r"""Without \text."""
    if "\\text" in text:
        text = TEXT.sub(r"\1", text)
    return _SEVERAL_BLANKS.sub(" ", text).strip().removesuffix(".").strip()
