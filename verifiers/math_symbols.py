r"""What is no value: families `k\pi, k\in\mathbb{Z}`, residues, cases; `A\cup B` and its like as written."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from rlvr.verifiers.math_sets import read_set
from rlvr.verifiers.math_spelling import squeeze
from rlvr.verifiers.math_text import assigned, read_quantity

Same = Callable[[str, str], bool | None]

# --- families


_FAMILY = re.compile(
    r"(.{1,400}?)(?: ?[,;|:(] ?| ?\\text ?\{ ?[,(]? ?(?:where|for|with|for (?:all|any|some))? ?\} ?| )"
    r"(?:\\text ?\{ ?[a-z ]{0,16}\} ?|\\forall ?|(?:where|for|with) )?"
    r"(?:([a-zA-Z]) ?\\in ?\\mathbb ?\{?([CNQRZ])\}? ?((?:[\^_] ?\{?[-+*\d>]{1,3}\}?|\+|\*)?)"
    r"|([a-zA-Z]) ?\\text ?\{ ?(?:is )?(?:an |any )?integer\.? ?\}"
    r"|\\text ?\{ ?,? ?(?:where |for )?(?:any |some |all |every )?integers? ?\} ?([a-zA-Z])) ?\)?"
)
_BUILDER = re.compile(r"\\\{ ?([a-z]) ?(?:\||:) ?\1 ?= ?(.+)\\\}")


@lru_cache(2048)
def family(text: str) -> tuple[str, str, str] | None:
    r"""("k\pi", "k", "Z") of `k\pi, k \in \mathbb{Z}`; None for what is no family over one name."""
    if "\\mathbb" not in text and "integer" not in text:
        return None
    if builder := _BUILDER.fullmatch(text):
        text = builder.group(2).strip()
    elif text.startswith("\\{") and text.endswith("\\}"):
        text = text[2:-2].strip()
    match = _FAMILY.fullmatch(text)
    if match is None:
        return None
    name = match.group(2) or match.group(5) or match.group(6)
    domain = (match.group(3) or "Z") + re.sub(r"[{}^_ ]", "", match.group(4) or "")
    member = match.group(1).strip(" ,(")
    if not _occurs(name, member) or RELATIONS.search(member):
        return None
    return member, name, domain


RELATIONS = re.compile(r"[<>]|\\(?:le|ge|ne|in|equiv)(?![a-zA-Z])")


def _occurs(name: str, text: str) -> bool:
    return re.search(rf"(?<![A-Za-z\\]){name}|(?<=\d){name}", text) is not None


def _with(name: str, value: str, text: str) -> str:
    return re.sub(rf"(?<![A-Za-z\\]){name}(?![A-Za-z])", lambda _: value, text)


def same_family(gold: str, answer: str, same: Same) -> bool | None:
    r"""Whether two families have the same members, as far as `k+1` and `-k` for `k` tell; None where neither is one.

    Who leaves the domain out, or adds it, says the same.
    """
    ours, theirs = family(gold), family(answer)
    if ours is None and theirs is None:
        return None
    if ours is None:
        return same(gold, theirs[0]) or None if theirs is not None and _occurs(theirs[1], gold) else None
    member, name, domain = ours
    if theirs is None:
        return bool(_occurs(name, answer) and same(member, answer))
    other, its_name, its_domain = theirs
    if domain != its_domain:
        return False
    if its_name != name:
        if _occurs(name, other):
            return False
        other = _with(its_name, name, other)
    if same(member, other):
        return True
    if domain != "Z":
        return False
    moved = (f"({name}+1)", f"({name}-1)", f"(-{name})", f"(1-{name})", f"(-1-{name})")
    return any(same(member, _with(name, value, other)) for value in moved)


# --- residues


_RESIDUE = re.compile(
    r"(?:([a-z]) ?(?:\\equiv|=) ?)?(-?\d{1,30}(?: ?, ?-?\d{1,30})*) ?"
    r"\(?(?:\\[pb]?mod|\\text ?\{ ?mod ?\}|mod) ?\{? ?(\d{1,30}) ?\}? ?\)?"
)


def same_residues(gold: str, answer: str) -> bool | None:
    r"""`x \equiv 3 \pmod 7` is `x \equiv 10 \pmod 7`, and `3 \pmod 7` is 3; None where the gold is no residue."""
    match = _RESIDUE.fullmatch(gold)
    if match is None:
        return None
    name, modulus = match.group(1), int(match.group(3))
    ours = [int(value) for value in match.group(2).split(",")]
    other = _RESIDUE.fullmatch(answer)
    if other is None:
        number = read_quantity(answer)
        if name or number is None or number.unit or len(ours) > 1:
            return False
        return number.value == (ours[0] % modulus if "\\bmod" in gold and modulus else ours[0])
    theirs = [int(value) for value in other.group(2).split(",")]
    if int(other.group(3)) != modulus or modulus < 1 or (name and other.group(1) and name != other.group(1)):
        return False
    return {value % modulus for value in ours} == {value % modulus for value in theirs}


# --- functions by cases


_CASES = re.compile(r"\\begin ?\{(cases|array|aligned)\}(?: ?\{[lcr| ]*\})?(.*)\\end ?\{\1\}")


def same_cases(gold: str, answer: str, same: Same) -> bool | None:
    """Row by row, in any order; None where the gold is no function by cases."""
    ours, theirs = _rows(gold), _rows(answer)
    if ours is None or theirs is None:
        return None if ours is None else False
    if len(ours) != len(theirs) or len(ours) > 12:
        return False
    rest = list(theirs)
    for value, condition in ours:
        found = [k for k, row in enumerate(rest) if _same_condition(condition, row[1]) and same(value, row[0])]
        if not found:
            return False
        del rest[found[0]]
    return True


def _rows(text: str) -> list[tuple[str, str]] | None:
    match = _CASES.fullmatch(assigned(text)[1].removeprefix("\\{").strip())
    if match is None or "&" not in match.group(2):
        return None
    rows = [row.split("&") for row in match.group(2).split("\\\\") if row.strip()]
    if any(len(row) != 2 for row in rows):
        return None
    return [(value.strip(" ,."), _IF.sub("", condition).strip(" ,.")) for value, condition in rows]


_IF = re.compile(r"\\text ?\{ ?,? ?(?:if|for|when|where) ?\}|\b(?:if|for|when|where)\b")


def _same_condition(gold: str, answer: str) -> bool:
    if squeeze(gold) == squeeze(answer):
        return True
    ours = read_set(gold)
    return ours is not None and ours == read_set(answer)


# --- as written


_TOKEN = re.compile(r"\\[A-Za-z]+|[A-Za-z0-9]|[-+=<>|'.,:;!/*^_(){}\[\]]|\\[{}]| ")
_OPERATORS = frozenset(
    "cup cap subset subseteq supset supseteq in notin ni complement parallel perp cong sim triangle angle land lor neg "
    "forall exists Rightarrow iff to leftrightarrow Leftrightarrow mapsto vec overrightarrow equiv mid nmid".split()
)
_LETTERS_ALONE = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega infty emptyset times cdot pm mp le ge ne setminus aleph ell "
    "text dots mathcal mathbb overline hat tilde dot nabla partial oplus otimes prime circ star sin cos tan".split()
)
_FUNCTION_ALONE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|ln|log|exp|arcsin|arccos|arctan)")
_SAME = {"\\bar": "\\overline", "\\Longrightarrow": "\\Rightarrow", "\\implies": "\\Rightarrow"}
_SWAPPED = ("\\cup", "\\cap", "\\parallel", "\\perp", "\\land", "\\lor", "\\iff", "\\cong", "\\sim", "\\oplus")


@lru_cache(2048)
def symbols(text: str) -> tuple[str, ...] | None:
    """The signs of a statement about sets, figures or propositions; None for what is none, or has others."""
    if len(text) > 300 or "\\" not in text:
        return None
    if _FUNCTION_ALONE.fullmatch(text):
        return (text,)
    found, at = [], 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            return None
        at = token.end()
        if token.group() not in (" ", "{", "}"):
            found.append(_SAME.get(token.group(), token.group()))
    commands = {sign[1:] for sign in found if len(sign) > 2 and sign[0] == "\\"}
    known = commands <= (_OPERATORS | _LETTERS_ALONE)
    return tuple(found) if known and commands & _OPERATORS else None


def same_symbols(gold: tuple[str, ...], answer: str) -> bool:
    """Sign by sign, or with the sides of one operator changed over."""
    signs = symbols(answer)
    if signs is None or gold == signs:
        return signs is not None
    for operator in _SWAPPED:
        if gold.count(operator) == 1 == signs.count(operator):
            k, j = gold.index(operator), signs.index(operator)
            return gold[:k] == signs[j + 1 :] and gold[k + 1 :] == signs[:j]
    return False
