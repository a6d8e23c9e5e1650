"""Two JSON values side by side: which of their leaves are the same, and where they are not.

A leaf is a text, a number, true, false, null, an empty list or an empty object. Places are written `$.rows[2].name`.
Text is never a number and true is never 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from rlvr.verifiers.structured_matching import MOST_COMPARISONS, match_best, match_keys, match_most

MOST_SHOWN = 64
"""Places that a comparison tells of."""
Step = str | int
Pattern = tuple[str | None, ...]
"""Keys, and None for any index."""


class TooManyPairsError(ValueError):
    """Two lists without an order are too long to be matched item by item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What counts as the same."""

    allows_more: bool = False
    """Of keys, and of items of a list without an order."""
    by_value: bool = False
    """1 is 1.0."""
    tolerance: float = 0.0
    """Share of the wanted number."""
    absolute: float = 0.0
    unordered: bool | frozenset[Pattern] = False
    """Lists whose order does not count: all, none, or those at these places."""

    @property
    def is_near(self) -> bool:
        return self.tolerance > 0 or self.absolute > 0

    def ignores_order(self, path: Sequence[Step]) -> bool:
        if isinstance(self.unordered, bool):
            return self.unordered
        return tuple(None if isinstance(step, int) else step for step in path) in self.unordered


@dataclass(slots=True)
class Comparison:
    """What compare() found."""

    right: int = 0
    """Leaves that are wanted and given."""
    wanted: int = 0
    given: int = 0
    """Leaves on either side."""
    problems: int = 0
    """Places where they differ; 0: they are the same by the rules."""
    wrong: dict[str, str] = field(default_factory=dict)
    """Sentences by place, MOST_SHOWN at most."""
    fine: list[str] = field(default_factory=list)
    """Places of leaves that are right, MOST_SHOWN at most."""

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.wanted + self.given)

    @property
    def share(self) -> float:
        return self.right / self.wanted


def compare(want: Any, got: Any, rules: Rules, path: tuple[Step, ...] = ()) -> Comparison:
    """Both of parse_json, so of bounded depth. TooManyPairsError: lists without an order that are too long."""
    found = Comparison()
    _walk(found, path, want, got, rules)
    return found


def read_place(text: str) -> Pattern | None:
    """A place as a person writes it, `$.rows[*].tags`, `$["a b"]`, `$` for the whole; None: it is none."""
    if not _PLACE.fullmatch(text):
        return None
    return tuple(step[2] if step[1] is None else step[1] for step in _STEP.finditer(text, 1))


_STEP = re.compile(r"""\.([A-Za-z_][\w-]*)|\[(?:\*|"([^"\\]*)")\]""")
_PLACE = re.compile(rf"\$(?:{_STEP.pattern})*")
_NAME = re.compile(r"[A-Za-z_][\w-]*")


def place(path: Sequence[Step]) -> str:
    """$.rows[2].name, cut where keys are long"""
    steps = (
        f"[{step}]" if isinstance(step, int) else f".{step}" if _NAME.fullmatch(step) else f"[{json.dumps(step[:60])}]"
        for step in path
    )
    text = "$" + "".join(step[:80] for step in steps)
    return text if len(text) <= 200 else text[:197] + "..."


def _walk(found: Comparison, path: tuple[Step, ...], want: Any, got: Any, rules: Rules) -> None:
    if isinstance(want, dict) and isinstance(got, dict) and (want or (got and not rules.allows_more)):
        for key, value in want.items():
            if key in got:
                _walk(found, (*path, key), value, got[key], rules)
            else:
                found.wanted += num_leaves(value)
                _tell(found, (*path, key), "is missing")
        found.wanted += not want  # an empty object is a leaf
        found.given += not got
        for key in [] if rules.allows_more else [key for key in got if key not in want]:
            found.given += num_leaves(got[key])
            _tell(found, (*path, key), "is not in the gold")
    elif isinstance(want, list) and isinstance(got, list) and (want or got):
        _walk_list(found, path, want, got, rules)
    else:
        found.wanted += num_leaves(want)
        found.given += num_leaves(got)
        if _same_leaf(want, got, rules):
            found.right += 1
            if len(found.fine) < MOST_SHOWN:
                found.fine.append(place(path))
        else:
            _tell(found, path, f"is {_shown(got)}, the gold says {_shown(want)}")


def _walk_list(found: Comparison, path: tuple[Step, ...], want: list[Any], got: list[Any], rules: Rules) -> None:
    is_free = rules.ignores_order(path)
    pairs = _pairs(path, want, got, rules) if is_free else [(k, k) for k in range(min(len(want), len(got)))]
    for i, j in pairs:
        _walk(found, (*path, i), want[i], got[j], rules)
    paired_want, paired_got = {i for i, _ in pairs}, {j for _, j in pairs}
    for i in range(len(want)):
        if i not in paired_want:
            found.wanted += num_leaves(want[i])
            _tell(found, (*path, i), "is missing")
    found.wanted += not want
    found.given += not got
    if is_free and rules.allows_more:
        found.right += not want  # an empty list is part of any
        return
    for j in range(len(got)):
        if j not in paired_got:
            found.given += num_leaves(got[j])
            _tell(found, (*path, j), "is not in the gold")


def _pairs(path: tuple[Step, ...], want: list[Any], got: list[Any], rules: Rules) -> list[tuple[int, int]]:
    """Items that are the same, and then, of the rest, those that have most in common (in order where they are many)."""
    if not rules.is_near and not rules.allows_more:
        keys = [[_key(item, (*path, 0), rules) for item in items] for items in (want, got)]
        pairs = match_keys(*keys)
    elif len(want) * num_leaves(got) <= MOST_COMPARISONS:
        pairs = match_most(len(want), len(got), lambda i, j: not compare(want[i], got[j], rules, (*path, i)).problems)
    else:
        raise TooManyPairsError(
            f"{place(path)}: {len(want)} and {len(got)} items are too many to be compared in any order"
        )
    if len(pairs) == min(len(want), len(got)):
        return pairs
    left = sorted(set(range(len(want))) - {i for i, _ in pairs})
    free = sorted(set(range(len(got))) - {j for _, j in pairs})
    if len(left) * sum(num_leaves(got[j]) for j in free) > MOST_COMPARISONS:
        return pairs + list(zip(left, free, strict=False))
    return pairs + match_best(left, free, lambda i, j: compare(want[i], got[j], rules, (*path, i)).right)


def _key(value: Any, path: tuple[Step, ...], rules: Rules) -> str:
    """The same text for what is the same, where there is no tolerance."""
    if isinstance(value, dict):
        inside = (f"{json.dumps(key)}:{_key(value[key], (*path, key), rules)}" for key in sorted(value))
        return "{" + ",".join(inside) + "}"
    if isinstance(value, list):
        items = [_key(item, (*path, 0), rules) for item in value]
        return "[" + ",".join(sorted(items) if rules.ignores_order(path) else items) + "]"
    if isinstance(value, float):
        return str(int(value)) if rules.by_value and value.is_integer() else repr(value + 0.0)  # -0.0 is 0.0
    return json.dumps(value)


def _same_leaf(want: Any, got: Any, rules: Rules) -> bool:
    if isinstance(want, dict | list):
        return type(want) is type(got) and not want and (not got or rules.allows_more)
    if isinstance(want, bool) or isinstance(got, bool) or not isinstance(want, int | float):
        return type(want) is type(got) and want == got
    if not isinstance(got, int | float) or (not rules.by_value and type(want) is not type(got)):
        return False
    return want == got or (rules.is_near and is_near(exact(want), exact(got), rules.tolerance, rules.absolute))


def exact(number: float) -> Fraction:
    """The number as it is written, so that 1.1 is within 0.1 of 1."""
    return Fraction(repr(number)) if isinstance(number, float) else Fraction(number)


def is_near(want: Fraction, got: Fraction, tolerance: float, absolute: float) -> bool:
    """Whether got is at most `absolute`, or the share `tolerance` of want, away from want."""
    return abs(want - got) <= max(exact(absolute), exact(tolerance) * abs(want))


def num_leaves(value: Any) -> int:
    """Texts, numbers, true, false, null, empty lists and empty objects in it; of any depth."""
    count, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict | list) and item:
            waiting.extend(item.values() if isinstance(item, dict) else item)
        else:
            count += 1
    return count


def _tell(found: Comparison, path: Sequence[Step], what: str) -> None:
    found.problems += 1
    if len(found.wrong) < MOST_SHOWN:
        found.wrong.setdefault(place(path), what)


def _shown(value: Any) -> str:
    """The start of it as JSON; of lists and objects how long they are."""
    if isinstance(value, dict | list) and value:
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = json.dumps(value[:60] if isinstance(value, str) else value, ensure_ascii=False)
    return text if len(text) <= 70 else text[:67] + "..."


def checks(found: Comparison) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, {"score", "reason"}), what is wrong first; MOST_SHOWN at most."""
    shown = [(where, {"score": 0.0, "reason": f"{where} {what}"}) for where, what in found.wrong.items()]
    shown += [(where, {"score": 1.0, "reason": ""}) for where in found.fine]
    yield from shown[:MOST_SHOWN]
