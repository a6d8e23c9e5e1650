"""What a row says of which completion is better: votes, margins, orders, labels and scores, checked for contradictions.

Numbers may stand as text (CSV has nothing else), lists and objects as JSON text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rlvr.columns import PROMPT_COLUMNS, find, is_empty, missing, valid_text
from rlvr.errors import near
from rlvr.reward_settings import PreferenceData
from rlvr.rows import BadRow, kind, parsed, typed

COLUMNS: dict[str, tuple[str, ...]] = {
    "prompt": (*PROMPT_COLUMNS, "context"),
    "chosen": ("chosen", "chosen_response"),
    "rejected": ("rejected", "rejected_response"),
    "margin": ("margin",),
    "probability": ("probability",),
    "true_probability": ("true_probability",),
    "votes": ("votes",),
    "completions": ("completions", "responses", "answers"),
    "order": ("order", "ranking", "ranks"),
    "completion": ("completion", "response", "text"),
    "label": ("label",),
    "scores": ("scores", "score"),
    "source": ("source", "subset", "data_source", "domain"),
    "group": ("group",),
}
"""Our word: the columns known by it, the first that is not empty counts."""

TWO_RESPONSES = (
    ("response_1", "response_2", "preference_strength"),  # HelpSteer2
    ("response1", "response2", "overall_preference"),  # HelpSteer3
)
"""First, second, and by how much the second is better (below 0: the first is)."""

ATTRIBUTES = (
    *("helpfulness", "correctness", "coherence", "complexity", "verbosity"),  # HelpSteer
    *("instruction_following", "honesty", "truthfulness"),  # UltraFeedback
    *("harmlessness", "helpful", "correct", "polite", "safe"),
)
"""Columns of numbers that are scores by their own name."""

_SCORES_OF_SIDES = (
    ("score_chosen", "score_rejected"),  # TRL, UltraFeedback binarized
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
_VOTES = ("chosen", "rejected", "tie")
_TEXT_KEYS = ("completion", "response", "answer", "text", "content")
_SCORE_KEYS = ("score", "overall_score")
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
_ROUNDED = 0.01
"""By how much a probability may differ from the share of the votes that it was made from."""


def labels_of(fields: Mapping[str, Any], data: PreferenceData) -> dict[str, Any]:
    """margin, probability, true_probability, votes and annotators of a comparison. BadRow: they contradict."""
    margin, is_tied = _margin(fields, data)
    votes, share = _votes(fields, data)
    probability = _probability(fields, "probability", data)
    if probability is not None and probability < 0.5:
        raise BadRow(
            f"probability is {probability:g}, which says that rejected is the better one; swap the two and give "
            f"{1 - probability:g}"
        )
    if probability is not None and share is not None and abs(probability - share) > _ROUNDED:
        raise BadRow(f"probability is {probability:g} and the votes say {share:g}; give one of the two")
    if probability is None:
        probability = share if share is not None else 0.5 if is_tied else 1.0
    if probability == 0.5 and margin:
        raise BadRow(f"a tie (probability 0.5) has no margin, and the row's is {margin:g}; which of the two is right?")
    return {
        "margin": margin,
        "probability": probability,
        "true_probability": _probability(fields, "true_probability", data),
        "votes": votes,
        "annotators": _annotators(fields),
    }


def strength_of(value: Any, column: str, first: str, second: str) -> tuple[str, str, dict[str, Any]]:
    """(column of the better, of the worse, labels) from a number by which the second is better; 0 is a tie."""
    strength = number(value, column)
    chosen, rejected = (second, first) if strength > 0 else (first, second)
    return chosen, rejected, {"margin": abs(strength), "probability": 1.0 if strength else 0.5}


def order_of(
    fields: Mapping[str, Any], data: PreferenceData, setting: str, column: str, items: Sequence[Any]
) -> tuple[tuple[tuple[int, ...], ...], list[float] | None]:
    """(order as in Ranking, the scores that it comes from) of the completions `items` that stand in `column`.

    From the column order (indices, best first, a tie as a list of several), ranks (1 is best) or scores (most is
    best), or from a rank or score in each of the items.
    """
    found = find(fields, "order", COLUMNS["order"], data)
    if found is not None:
        name, value = found[0], _listed(found[1], found[0])
        is_ranks = name.endswith("ranks")
        order = _by_number(_numbers(value, name, len(items))) if is_ranks else _checked_order(value, name, len(items))
        if "order" not in data.columns:
            _check_scores(fields, data, setting, name, order)
        return order, None
    found = find(fields, "scores", COLUMNS["scores"], data)
    if found is not None:
        scores = _numbers(_listed(found[1], found[0]), found[0], len(items))
        return _by_number([-score for score in scores]), scores
    keys = [
        key for key in ("rank", *_SCORE_KEYS) if any(isinstance(i, Mapping) and i.get(key) is not None for i in items)
    ]
    if not keys:
        raise BadRow(missing("order", fields, setting, COLUMNS))
    key = keys[0]
    for k, item in enumerate(items):
        if not isinstance(item, Mapping) or item.get(key) is None:
            raise BadRow(f"{column}[{k}] has no {key}, which others have")
    numbers = [number(item[key], f"{column}[{k}].{key}") for k, item in enumerate(items)]
    if key == "rank":
        order = _by_number(numbers)
        for other in keys[1:]:
            if all(item.get(other) is not None for item in items):
                scores = [number(item[other], f"{column}[{k}].{other}") for k, item in enumerate(items)]
                _check_order(order, scores, "rank", other, "take one of them out")
        return order, None
    return _by_number([-score for score in numbers]), numbers


def read_label(fields: Mapping[str, Any], data: PreferenceData) -> bool | None:
    """Good or not; None where the row does not say."""
    found = find(fields, "label", COLUMNS["label"], data)
    if found is None or is_empty(found[1]):
        return None
    column, value = found[0], _plain(found[1])
    label = _BOOLEANS.get(str(value).strip().lower())
    if label is None or not isinstance(value, (bool, int, float, str)):
        raise BadRow(f"{column} must be true or false (1 or 0), got {_short(value)}")
    return label


def read_label_probability(fields: Mapping[str, Any], data: PreferenceData) -> float:
    """That the label is right; 1 where the row does not say. BadRow: it says that the label is wrong."""
    probability = _probability(fields, "probability", data)
    if probability is not None and probability < 0.5:
        raise BadRow(
            f"probability is {probability:g}, which says that the label is wrong; turn it round and give "
            f"{1 - probability:g}"
        )
    return 1.0 if probability is None else probability


def read_group(fields: Mapping[str, Any], data: PreferenceData) -> str:
    """Of the people whose opinion the row is; "" where it does not say. BadRow: the column that is named is no text."""
    found = find(fields, "group", COLUMNS["group"], data)
    if found is None or is_empty(found[1]):
        return ""
    column, value = found[0], _plain(found[1])
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return valid_text(str(value), column)
    if "group" in data.columns:
        raise BadRow(f"{column} must be the name of a group, got {kind(value)}")
    return ""  # a column that happens to be called so


def read_scores(fields: Mapping[str, Any], data: PreferenceData) -> dict[str, float]:
    """By attribute, those that the row has; a single number is named "score"."""
    found = find(fields, "scores", COLUMNS["scores"], data)
    scores: dict[str, float] = {}
    if found is not None and not is_empty(found[1]):
        column, value = found[0], parsed(found[1])
        named = value if isinstance(value, Mapping) else {"score": value}
        for name, given in named.items():
            if given is not None:  # parquet has every key in every row
                at = f"{column}.{name}" if named is value else column
                scores[valid_text(str(name), column)] = number(given, at)
    for name in ATTRIBUTES:
        if name not in scores and not is_empty(fields.get(name)):
            scores[name] = number(fields[name], name)
    return scores


def number(value: Any, what: str) -> float:
    """A finite number, or the text of one. BadRow: none."""
    value = _plain(value)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise BadRow(f"{what} must be a number, got {_short(value)}") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRow(f"{what} must be a number, got {kind(value)}")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise BadRow(f"{what} must be a finite number, got {value}")
    return value


def text_in(item: Any) -> Any:
    """The completion in an item of a list of completions, which is it or an object that holds it under a known name."""
    if isinstance(item, Mapping) and "role" not in item:
        return next((item[key] for key in _TEXT_KEYS if item.get(key) is not None), item)
    return item


def as_text(value: Any, what: str) -> str:
    """A completion that is text, or a list of the one message that it is. BadRow: neither."""
    if isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], Mapping):
        value = value[0].get("content")
    if not isinstance(value, str):
        raise BadRow(f"{what} must be text, got {kind(value)}")
    return value


def _margin(fields: Mapping[str, Any], data: PreferenceData) -> tuple[float | None, bool]:
    """(margin, whether both sides have the same score)"""
    found = find(fields, "margin", COLUMNS["margin"], data)
    margin = number(found[1], found[0]) if found is not None and not is_empty(found[1]) else None
    if found is not None and margin is not None and margin < 0:
        raise BadRow(f"{found[0]} is {margin:g}, which says that rejected is the better one; swap the two")
    gaps: dict[tuple[str, str], float] = {}
    for names in _SCORES_OF_SIDES:
        if any(is_empty(fields.get(name)) for name in names):
            continue
        chosen, rejected = (number(fields[name], name) for name in names)
        if chosen < rejected:
            raise BadRow(
                f"{names[0]} {chosen:g} is below {names[1]} {rejected:g}: which is the better one? Swap the texts or "
                "the scores"
            )
        if not math.isfinite(chosen - rejected):
            raise BadRow(f"{names[0]} - {names[1]} is no finite number")
        gaps[names] = chosen - rejected
    tied, apart = ([names for names, gap in gaps.items() if bool(gap) is is_apart] for is_apart in (False, True))
    if tied and (apart or margin):
        better = " is above ".join(apart[0]) if apart else f"margin is {margin:g}"
        raise BadRow(f"{' and '.join(tied[0])} are equal, and {better}; take one of them out")
    return (next(iter(gaps.values()), None) if margin is None else margin), bool(tied)


def _votes(fields: Mapping[str, Any], data: PreferenceData) -> tuple[dict[str, int], float | None]:
    """(votes, share of them for chosen, a tie as half a vote for each)"""
    found = find(fields, "votes", COLUMNS["votes"], data)
    if found is None or is_empty(found[1]):
        return {}, None
    column, value = found[0], parsed(found[1])
    if not isinstance(value, Mapping):
        raise BadRow(f'{column} must be an object such as {{"chosen": 3, "rejected": 1, "tie": 1}}, got {kind(value)}')
    votes: dict[str, int] = {}
    for name, given in value.items():
        if name not in _VOTES:
            raise BadRow(f"{column} has votes for {name!r} ({near(str(name), _VOTES)}known: {', '.join(_VOTES)})")
        count = number(given, f"{column}.{name}") if given is not None else 0.0
        if count < 0 or count != int(count):
            raise BadRow(f"{column}.{name} must be a whole number >= 0, got {count:g}")
        if given is not None:
            votes[name] = int(count)
    total = sum(votes.values())
    if total == 0:
        raise BadRow(f"{column} holds no vote")
    chosen, rejected = votes.get("chosen", 0), votes.get("rejected", 0)
    if chosen < rejected:
        raise BadRow(f"{column}: {rejected} for rejected and {chosen} for chosen; swap the texts and the votes")
    return votes, (chosen + votes.get("tie", 0) / 2) / total


def _probability(fields: Mapping[str, Any], word: str, data: PreferenceData) -> float | None:
    found = find(fields, word, COLUMNS[word], data)
    if found is None or is_empty(found[1]):
        return None
    probability = number(found[1], found[0])
    if not 0 <= probability <= 1:
        raise BadRow(f"{found[0]} must be in [0, 1], got {probability:g}")
    return probability


def _annotators(fields: Mapping[str, Any]) -> tuple[str, ...]:
    value = parsed(fields.get("annotators"))
    if is_empty(value):
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise BadRow(f"annotators must be a list of names, got {_short(value)}")
    return tuple(valid_text(name, "annotators") for name in value)


def _by_number(numbers: Sequence[float]) -> tuple[tuple[int, ...], ...]:
    """Indices, least number first, equal ones in one place."""
    return tuple(tuple(k for k, n in enumerate(numbers) if n == place) for place in sorted(set(numbers)))


def _checked_order(value: Sequence[Any], name: str, num_items: int) -> tuple[tuple[int, ...], ...]:
    places = [tuple(place) if isinstance(place, (list, tuple)) else (place,) for place in value]
    seen: set[int] = set()
    for place in places:
        if not place:
            raise BadRow(f"{name} has an empty place")
        for k in place:
            if isinstance(k, bool) or not isinstance(k, int):
                raise BadRow(f"{name} must hold indices of completions, such as [[1, 2], [0]], got {_short(k)}")
            if not 0 <= k < num_items:
                raise BadRow(
                    f"{name} names completion {k}, and there are {num_items} (0 to {num_items - 1}; the first is 0)"
                )
            if k in seen:
                raise BadRow(f"{name} names completion {k} twice")
            seen.add(k)
    lacking = sorted(set(range(num_items)) - seen)
    if lacking:
        raise BadRow(f"{name} does not name completion {', '.join(map(str, lacking))}; every one needs a place")
    return tuple(places)


def _check_scores(
    fields: Mapping[str, Any], data: PreferenceData, setting: str, name: str, order: tuple[tuple[int, ...], ...]
) -> None:
    """BadRow where a list of scores stands beside the column `name` and says the reverse of it."""
    found = find(fields, "scores", COLUMNS["scores"], data)
    if found is None or not isinstance(parsed(found[1]), (list, tuple)):
        return
    scores = _numbers(parsed(found[1]), found[0], sum(map(len, order)))
    meant = typed(setting, "columns.order", "COLUMN")
    advice = "take one of them out" + (f", or name the column that is meant with {meant}" if meant else "")
    _check_order(order, scores, name, found[0], advice)


def _check_order(
    order: tuple[tuple[int, ...], ...], scores: Sequence[float], name: str, other: str, advice: str
) -> None:
    """BadRow where the scores, which stand under `other`, say the reverse of the order, which stands under `name`."""
    for above, below in pairwise(order):
        better, worse = min(above, key=scores.__getitem__), max(below, key=scores.__getitem__)
        if scores[better] < scores[worse]:
            raise BadRow(f"{name} puts completion {better} before {worse}, and {other} the other way round; {advice}")


def _listed(value: Any, column: str) -> Sequence[Any]:
    items = parsed(value)
    if not isinstance(items, (list, tuple)):
        raise BadRow(f"{column} must be a list, got {kind(items)}")
    return items


def _numbers(value: Sequence[Any], column: str, num_items: int) -> list[float]:
    if len(value) != num_items:
        raise BadRow(f"{column} holds {len(value)} numbers for {num_items} completions")
    return [number(item, f"{column}[{k}]") for k, item in enumerate(value)]


def _plain(value: Any) -> Any:
    tolist = getattr(value, "tolist", None)  # numpy's scalars
    return tolist() if callable(tolist) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
