"""Rows of preferences as what a reward model's step and its evaluation take: completions, and what is known of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlvr import chat
from rlvr.errors import DataError, near
from rlvr.preference_settings import OVERALL, PreferenceLoss
from rlvr.reward_settings import PreferenceData
from rlvr.tasks import NUM_SHOWN, bad_rows_message
from rlvr.types import BestOf, Preference, Ranking, Rating

AnyRow = Preference | Ranking | Rating | BestOf
Encoded = tuple[AnyRow, tuple[chat.Example, ...]]


@dataclass(frozen=True, slots=True)
class Listed:
    """Completions that are compared: Listed(places=(2, 0, 1), levels=(0, 1, 1)) says that 2 is better than 0 and 1."""

    places: tuple[int, ...]
    """Of the element's completions, best first."""
    levels: tuple[int, ...]
    """Equal numbers are a tie."""
    probability: float = 1.0
    """Of a pair: that the first is preferred, as far as the labels tell."""
    margin: float = 0.0
    """Of a pair: by how much."""
    head: int = 0
    """The output of the model that it is learnt by."""


@dataclass(frozen=True, slots=True)
class Element:
    """What stays together in a batch and weighs 1 there: a row, or all rows of a prompt."""

    examples: tuple[chat.Example, ...]
    """Each completion once."""
    listed: tuple[Listed, ...] = ()
    rated: tuple[tuple[int, tuple[float, ...]], ...] = ()
    """(completion, its number for each attribute, NaN where it has none)"""
    heads: tuple[int, ...] = ()
    """Of each that is rated: the output that it is learnt by, where that is not the first."""

    @property
    def num_tokens(self) -> int:
        return sum(len(example.ids) for example in self.examples)


def output_names(loss: PreferenceLoss, rows: Sequence[AnyRow], data: PreferenceData) -> list[str]:
    """What the model's numbers are called. DataError where the rows lack what the loss learns from."""
    if loss.margin == "column" and not any(isinstance(row, Preference) and row.margin is not None for row in rows):
        raise DataError(
            f"data.path: {data.path}: no row has a margin, from which loss.margin: column learns; name the column with "
            "data.columns.margin, or leave loss.margin out"
        )
    if loss.kind not in ("binary", "regression", "attributes"):
        return _heads(loss, rows, data)
    ratings = [row for row in rows if isinstance(row, Rating)]
    scores = list(dict.fromkeys(name for row in ratings for name in row.scores))
    if loss.kind == "binary":
        hint = f"; they have scores ({', '.join(scores)}), from which loss.kind regression or attributes learns"
        _check([row.id for row in ratings if row.label is None], len(ratings), data, "label", hint if scores else "")
        return _heads(loss, rows, data)
    if not scores:
        _check([row.id for row in ratings], len(ratings), data, "score", "; from labels loss.kind binary learns")
    if loss.kind == "regression" and len(scores) > 1:
        raise DataError(
            f"data.path: {data.path} has several scores ({', '.join(scores)}); set loss.kind=attributes and "
            "loss.attributes={NAME: WEIGHT, ...}"
        )
    names = list(loss.attributes) or scores
    for name in names:
        if name not in scores:
            raise DataError(
                f"loss.attributes.{name}: no rating of {data.path} has a score of this name; "
                f"{near(name, scores)}there are {', '.join(scores)}"
            )
    _check([row.id for row in ratings if not set(names) & set(row.scores)], len(ratings), data, "score of these", "")
    return names


def _heads(loss: PreferenceLoss, rows: Sequence[AnyRow], data: PreferenceData) -> list[str]:
    """The outputs of a model that learns from comparisons or labels: one for each group, and one for rows of none."""
    if not loss.groups:
        return [OVERALL]
    there = list(dict.fromkeys(row.group for row in rows))
    found = sorted(group for group in there if group)
    if not found:
        raise DataError(
            f"data.path: {data.path}: no row has a group, of which loss.groups learns; name the column with "
            "data.columns.group, or leave loss.groups out"
        )
    groups = found if loss.groups == "auto" else list(loss.groups)
    for name in found:
        if name not in groups or name == OVERALL:
            row_id = next(row.id for row in rows if row.group == name)
            raise DataError(
                f"data.path: {data.path}: row of id {row_id!r} is of group {name!r}, which "
                + ("is the name of the output for all" if name == OVERALL else "loss.groups does not name")
                + f"; {near(name, groups) if name not in groups else ''}groups are {', '.join(groups)}"
            )
    missing = [name for name in groups if name not in found]
    if missing:
        raise DataError(
            f"loss.groups: no row of {data.path} is of group {missing[0]!r}; {near(missing[0], found)}there are "
            f"{', '.join(found)}"
        )
    if len(groups) == 1:
        raise DataError(f"loss.groups: all rows of {data.path} are of group {groups[0]!r}; leave loss.groups out")
    return [*groups, *([OVERALL] if "" in there else [])]


def _check(bad: Sequence[str], num_rows: int, data: PreferenceData, what: str, hint: str) -> None:
    if bad:
        lines = [f"row of id {row_id!r}: no {what}" for row_id in bad[:NUM_SHOWN]]
        raise DataError(bad_rows_message(data.path, lines, len(bad), num_rows, f"ratings without a {what}{hint}"))


def elements(
    encoded: Sequence[Encoded], loss: PreferenceLoss, names: Sequence[str], group_by: Literal["row", "prompt"]
) -> list[Element]:
    """In the order of the rows; of a prompt's rows in that of the first."""
    groups: dict[Any, list[Encoded]] = {}
    for number, (row, examples) in enumerate(encoded):
        prompt = examples[0].ids[: examples[0].num_prompt].tobytes()
        groups.setdefault(number if group_by == "row" else prompt, []).append((row, examples))
    return [_element(rows, loss, names) for rows in groups.values()]


def _element(rows: Sequence[Encoded], loss: PreferenceLoss, names: Sequence[str]) -> Element:
    places: dict[bytes, int] = {}
    found: list[chat.Example] = []
    listed: list[Listed] = []
    rated: list[tuple[int, tuple[float, ...]]] = []
    heads: list[int] = []
    for row, examples in rows:
        head = names.index(row.group or OVERALL) if loss.groups else 0
        if isinstance(row, Rating):  # each for itself: the same text may be rated twice, and differently
            rated.append((len(found), _targets(row, names)))
            heads.append(head)
            found.extend(examples)
            continue
        own = []
        for example in examples:
            key = example.ids.tobytes()
            if key not in places:
                places[key] = len(found)
                found.append(example)
            own.append(places[key])
        listed.extend(
            Listed(tuple(own[k] for k in part.places), part.levels, part.probability, part.margin, head)
            for part in compared(row, in_pairs=loss.kind in ("bradley_terry", "all_pairs"))
        )
    return Element(tuple(found), tuple(listed), tuple(rated), tuple(heads))


def compared(row: AnyRow, *, in_pairs: bool) -> list[Listed]:
    """What a row says of its completions, by their number: in pairs, or the whole of it as one list.

    Pairs of one place of a ranking are ties; of the right completions of a best-of-N row nothing is known.
    """
    if isinstance(row, Preference):
        return [Listed((0, 1), (0, 1), row.probability, row.margin or 0.0)]
    if isinstance(row, Ranking):
        order = row.order
    elif isinstance(row, BestOf):
        num = len(row.chosen)
        order = (tuple(range(num)), tuple(range(num, num + len(row.rejected))))
    else:
        return []
    places = [(k, level) for level, tied in enumerate(order) for k in tied]
    if not in_pairs:
        return [Listed(tuple(k for k, _ in places), tuple(level for _, level in places))]
    pairs = [(a, b) for i, a in enumerate(places) for b in places[i + 1 :]]
    return [
        Listed((a, b), (level_a, level_b), 0.5 if level_a == level_b else 1.0)
        for (a, level_a), (b, level_b) in pairs
        if level_a != level_b or isinstance(row, Ranking)
    ]


def _targets(row: Rating, names: Sequence[str]) -> tuple[float, ...]:
    if row.label is not None:
        return (row.probability if row.label else 1 - row.probability,)
    return tuple(float(row.scores.get(name, math.nan)) for name in names)
