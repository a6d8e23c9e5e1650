"""Rows of any dialect to comparisons, rankings, ratings and best-of-N choices; docs/PREFERENCES.md lists the columns.

Bad rows are all reported at once, before any model loads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlvr.columns import columns_of, dress, find, id_of, is_empty, missing, split_turns, valid_text
from rlvr.errors import DataError
from rlvr.preference_labels import (
    COLUMNS,
    TWO_RESPONSES,
    labels_of,
    order_of,
    read_group,
    read_label,
    read_label_probability,
    read_scores,
    strength_of,
    text_in,
)
from rlvr.preference_texts import completion, read_prompt, split_pair
from rlvr.reward_settings import PreferenceData
from rlvr.rows import Argument, BadRow, Row, kind, parsed, read_rows, typed
from rlvr.tasks import Asked, Item, Loaded, collect, exclude_prompts
from rlvr.types import BestOf, Preference, Prompt, Ranking, Rating

Kind = Literal["comparison", "ranking", "rating", "best_of"]
IN_WORDS: dict[Kind, str] = {
    "comparison": "comparisons",
    "ranking": "rankings",
    "rating": "ratings",
    "best_of": "best-of-N rows",
}


def load_preferences(data: PreferenceData, *, setting: str = "data") -> Loaded[Preference]:
    """Comparisons; a ranking gives one of its best completion with each that it ranks lower ("NAME:17/2": the third).

    `setting` is where `data` stands in the recipe, for messages. A row without an id gets "NAME:17", as tasks do.
    DataError: missing or empty data, or bad rows with on_bad_row=error (all of them in one message). SettingsError:
    wrong arguments of a generator.
    """
    return collect(data, setting, lambda row: _comparisons(row, data, setting))


def load_rankings(data: PreferenceData, *, setting: str = "data") -> Loaded[Ranking]:
    """Rankings of two and more completions. Errors as load_preferences."""
    return collect(data, setting, lambda row: [_ranking(row, data, setting)[0]])


def load_ratings(data: PreferenceData, *, setting: str = "data") -> Loaded[Rating]:
    """Ratings of single completions; a comparison gives a good one and a bad one, as sure as it is itself. Errors as
    load_preferences."""
    return collect(data, setting, lambda row: _ratings(row, data, setting))


def load_best_of(data: PreferenceData, *, setting: str = "data") -> Loaded[BestOf]:
    """Best-of-N rows; a comparison is one of 2, a ranking has its first place as chosen. Errors as load_preferences."""
    return collect(data, setting, lambda row: [_best_of(row, data, setting)])


LOADERS: dict[Kind, Callable[..., Loaded[Any]]] = {
    "comparison": load_preferences,
    "ranking": load_rankings,
    "rating": load_ratings,
    "best_of": load_best_of,
}


def kind_of(data: PreferenceData, *, setting: str = "data") -> Kind:
    """What the rows are, from the columns of the first that can be read. DataError where they are nothing known."""
    first: str | None = None
    for row in itertools.islice(read_rows(data, setting), data.limit):
        try:
            fields = columns_of(row)
            shape = _shape(fields, data)
        except BadRow as error:
            first = first or f"{row.where}: {error}"
            continue
        if shape is not None:
            return shape
        first = first or f"{row.where}: {_no_shape(fields, setting)}"
    if first is not None and isinstance(setting, Argument):  # which file it is stands before the row's number
        raise DataError(first)
    raise DataError(f"{typed(setting, 'path')}: {data.path}: " + (first or "holds no rows"))


def read_as(
    data: PreferenceData, loss_kind: str, learns_from: Mapping[str, Mapping[Kind, Kind]], *, setting: str = "data"
) -> Kind:
    """What the rows are to be read as. DataError where loss.kind cannot learn from what the data holds.

    learns_from: {loss.kind: {what the data holds: what it is read as}}
    """
    held, readings = kind_of(data, setting=setting), learns_from[loss_kind]
    if held not in readings:
        fitting = [name for name, known in learns_from.items() if held in known]
        raise DataError(
            f"{setting}.path: {data.path} holds {IN_WORDS[held]}, and loss.kind {loss_kind} learns from "
            f"{' or '.join(IN_WORDS[kind] for kind in readings)}; "
            + (f"set loss.kind to {' or '.join(fitting)}" if fitting else "write one row for each pair to learn from")
        )
    return readings[held]


def without_held_out(rows: Sequence[Item], held_out: Sequence[Asked]) -> tuple[list[Item], int]:
    """(rows whose prompt no held-out row has, number left out). DataError where none is left."""
    kept, num_same = exclude_prompts(rows, held_out)
    if not kept:
        raise DataError("nothing is left to train on: every prompt is also in eval.tasks")
    return kept, num_same


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a run trains on and what it is measured on."""

    kind: Kind | None
    """What the training rows were read as; None: there are none."""
    loaded: Loaded[Any]
    """As the data has them."""
    rows: list[Any]
    """The same without prompts that are held out."""
    num_same: int
    """Rows left out for that."""
    held_out_kind: Kind | None = None
    held_out: Loaded[Any] | None = None


def prepare(
    data: PreferenceData | None,
    held_out: PreferenceData | None,
    *,
    as_kind: Kind | None = None,
    held_out_as: Kind | None = None,
) -> Prepared:
    """Rows of both, and the training rows without the held-out prompts. Errors as load_preferences.

    data: None where nothing is trained on; as_kind, held_out_as: read the rows so, whatever their columns (pairs of
    rankings, ratings of pairs); without it as kind_of() has them.
    """
    held_kind = held = None
    if held_out is not None:
        held_kind = held_out_as or kind_of(held_out, setting="eval.tasks")
        held = LOADERS[held_kind](held_out, setting="eval.tasks")
    if data is None:
        return Prepared(kind=None, loaded=Loaded([]), rows=[], num_same=0, held_out_kind=held_kind, held_out=held)
    own = as_kind or kind_of(data)
    loaded = LOADERS[own](data)
    rows, num_same = without_held_out(loaded.rows, held.rows if held is not None else [])
    return Prepared(kind=own, loaded=loaded, rows=rows, num_same=num_same, held_out_kind=held_kind, held_out=held)


# Shapes


def _shape(fields: Mapping[str, Any], data: PreferenceData) -> Kind | None:
    sides = [found for word in ("chosen", "rejected") if (found := find(fields, word, COLUMNS[word], data))]
    if sides:
        return "best_of" if any(_is_texts(value) for _, value in sides) else "comparison"
    if _two_responses(fields) is not None:
        return "comparison"
    if find(fields, "completions", COLUMNS["completions"], data) is not None:
        return "ranking"
    is_rated = any(find(fields, word, COLUMNS[word], data) is not None for word in ("label", "scores"))
    if (is_rated or read_scores(fields, data)) and (
        find(fields, "completion", COLUMNS["completion"], data) is not None or fields.get("messages") is not None
    ):
        return "rating"
    return None


def _no_shape(fields: Mapping[str, Any], setting: str) -> str:
    for word, partner in (("chosen", "rejected"), ("completions", "order"), ("completion", "label")):
        text = missing(word, fields, setting, COLUMNS)
        if "did you mean" in text:
            return f"{text}, nor its {partner}"
    maps = typed(setting, "columns")
    return (
        f"neither chosen and rejected, nor completions and order, nor completion and label or scores "
        f"(has: {', '.join(map(str, fields)) or 'no columns'}"
        + (f"; {maps} maps our words to your columns)" if maps else ")")
    )


def _is_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, str) for item in value)


def _two_responses(fields: Mapping[str, Any]) -> tuple[str, str, str] | None:
    return next((names for names in TWO_RESPONSES if all(fields.get(name) is not None for name in names)), None)


# Rows


def _comparisons(row: Row, data: PreferenceData, setting: str) -> list[Preference]:
    if _shape(columns_of(row), data) == "ranking":
        return _pairs(row, data, setting)
    return [_comparison(row, data, setting)]


def _comparison(row: Row, data: PreferenceData, setting: str) -> Preference:
    fields = columns_of(row)
    names = _two_responses(fields)
    if names is not None and not any(find(fields, word, COLUMNS[word], data) for word in ("chosen", "rejected")):
        first, second, verdict = names
        better, worse, labels = strength_of(fields[verdict], verdict, first, second)
        values = (fields[better], fields[worse])
    else:
        (better, chosen), (worse, rejected) = (_needed(word, fields, data, setting) for word in ("chosen", "rejected"))
        if _is_texts(chosen) or _is_texts(rejected):
            raise BadRow(f"{better} and {worse} are lists of texts: rows of best-of-N, to measure with alone")
        values = (chosen, rejected)
        labels = labels_of(fields, data)
    prompt, (chosen, rejected) = split_pair(fields, data, setting, (better, worse), values)
    if chosen.strip() == rejected.strip():
        raise BadRow(f"{better} and {worse} are the same text, so that nothing is preferred")
    row_id, source = _names(row, fields, data)
    prompt = dress(prompt, data, fields)
    return Preference(
        id=row_id,
        source=source,
        group=read_group(fields, data),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        **labels,
    )


def _pairs(row: Row, data: PreferenceData, setting: str) -> list[Preference]:
    """The best completion with each that is ranked lower; those that share the first place are not compared."""
    ranking, scores = _ranking(row, data, setting)
    best = ranking.order[0][0]
    lower = sorted(k for place in ranking.order[1:] for k in place)
    return [
        Preference(
            id=f"{ranking.id}/{k}",
            source=ranking.source,
            group=ranking.group,
            prompt=ranking.prompt,
            chosen=ranking.completions[best],
            rejected=ranking.completions[k],
            margin=scores[best] - scores[k] if scores is not None else None,
        )
        for k in lower
    ]


def _ranking(row: Row, data: PreferenceData, setting: str) -> tuple[Ranking, list[float] | None]:
    """(ranking, the numbers that it comes from, where it comes from numbers of which more is better)"""
    fields = columns_of(row)
    column, value = _needed("completions", fields, data, setting)
    items = parsed(value)
    if not isinstance(items, (list, tuple)):
        raise BadRow(f"{column} must be a list of completions, got {kind(value)}")
    if len(items) < 2:
        raise BadRow(f"{column} must hold at least two completions to rank, holds {len(items)}")
    texts = tuple(completion(text_in(item), f"{column}[{k}]") for k, item in enumerate(items))
    seen: dict[str, int] = {}
    for k, text in enumerate(texts):
        if text in seen:
            raise BadRow(f"{column}[{seen[text]}] and {column}[{k}] are the same text; keep one of them")
        seen[text] = k
    order, scores = order_of(fields, data, setting, column, items)
    if len(order) == 1:
        raise BadRow(f"all {len(texts)} completions share one place, so that nothing is ordered")
    prompt = read_prompt(fields, data, setting)
    row_id, source = _names(row, fields, data)
    prompt, group = dress(prompt, data, fields), read_group(fields, data)
    return Ranking(id=row_id, source=source, group=group, prompt=prompt, completions=texts, order=order), scores


def _ratings(row: Row, data: PreferenceData, setting: str) -> list[Rating]:
    if _shape(columns_of(row), data) != "comparison":
        return [_rating(row, data, setting)]
    pair = _comparison(row, data, setting)
    return [
        Rating(
            id=f"{pair.id}/{side}",
            source=pair.source,
            group=pair.group,
            prompt=pair.prompt,
            completion=text,
            label=side == "chosen",
            probability=pair.probability,
        )
        for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected))
    ]


def _rating(row: Row, data: PreferenceData, setting: str) -> Rating:
    fields = columns_of(row)
    written = find(fields, "completion", COLUMNS["completion"], data)
    prompt: Prompt
    if written is None and fields.get("messages") is not None:
        prompt, last = split_turns(fields["messages"])
        if last is None or not prompt:
            raise BadRow("messages must end with an assistant's turn, with another before it")
        text, column = last, "messages"
    else:
        column, value = written or _needed("completion", fields, data, setting)
        text = completion(value, column)
        alone = column == "text" and find(fields, "prompt", COLUMNS["prompt"], data) is None
        prompt = "" if alone else read_prompt(fields, data, setting)
    if not text.strip():
        raise BadRow(f"{column} is empty")
    label, scores = read_label(fields, data), read_scores(fields, data)
    if label is not None and scores:
        if ("label" in data.columns) == ("scores" in data.columns):
            raise BadRow(
                f"both a label and scores ({', '.join(scores)}); say which is meant with "
                f"{typed(setting, 'columns.label', 'COLUMN')} or {typed(setting, 'columns.scores', 'COLUMN')}"
            )
        label, scores = (label, {}) if "label" in data.columns else (None, scores)
    if label is None and not scores:
        raise BadRow(missing("label", fields, setting, COLUMNS))
    row_id, source = _names(row, fields, data)
    prompt = dress(prompt, data, fields) if prompt else prompt
    return Rating(
        id=row_id,
        source=source,
        group=read_group(fields, data),
        prompt=prompt,
        completion=text,
        label=label,
        probability=1.0 if label is None else read_label_probability(fields, data),
        scores=scores,
    )


def _best_of(row: Row, data: PreferenceData, setting: str) -> BestOf:
    fields = columns_of(row)
    shape = _shape(fields, data)
    if shape == "ranking":
        ranking, _ = _ranking(row, data, setting)
        chosen, *lower = ([ranking.completions[k] for k in place] for place in ranking.order)
        rejected = tuple(text for place in lower for text in place)
        return BestOf(
            id=ranking.id,
            source=ranking.source,
            group=ranking.group,
            prompt=ranking.prompt,
            chosen=tuple(chosen),
            rejected=rejected,
        )
    if shape == "comparison":
        pair = _comparison(row, data, setting)
        return BestOf(
            id=pair.id,
            source=pair.source,
            group=pair.group,
            prompt=pair.prompt,
            chosen=(pair.chosen,),
            rejected=(pair.rejected,),
        )
    sides = {}
    for word in ("chosen", "rejected"):
        column, value = _needed(word, fields, data, setting)
        if is_empty(value):
            raise BadRow(f"{column} is empty")
        if not _is_texts(value):
            raise BadRow(f"{column} must be a list of texts as its partner is, got {kind(value)}")
        sides[word] = tuple(completion(text, f"{column}[{k}]") for k, text in enumerate(value))
    both = sorted(set(sides["chosen"]) & set(sides["rejected"]))
    if both:
        raise BadRow(f"{both[0][:40]!r} is both among the chosen and the rejected")
    row_id, source = _names(row, fields, data)
    prompt = dress(read_prompt(fields, data, setting), data, fields)
    return BestOf(id=row_id, source=source, group=read_group(fields, data), prompt=prompt, **sides)


def _needed(word: str, fields: Mapping[str, Any], data: PreferenceData, setting: str) -> tuple[str, Any]:
    found = find(fields, word, COLUMNS[word], data)
    if found is None:
        raise BadRow(missing(word, fields, setting, COLUMNS))
    return found


def _names(row: Row, fields: Mapping[str, Any], data: PreferenceData) -> tuple[str, str]:
    """(id, source)"""
    row_id, id_column = id_of(row, fields, data)
    found = find(fields, "source", COLUMNS["source"], data)
    source = valid_text(found[1], found[0]) if found is not None and isinstance(found[1], str) else ""
    # RewardBench counts anew in each of its subsets
    return (f"{source}:{row_id}" if id_column is not None and found and found[0] == "subset" else row_id), source
