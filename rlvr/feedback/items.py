"""Rows of a file to items that people are asked: comparisons, lists to rank, single completions, prompts alone.

Prompts and completions are read as docs/PREFERENCES.md has them. A row may also have `mode`, `attributes`, `draft` and
`gold`; all further columns are kept in Item.info and shown to nobody. A gold that is no object of ours is the task's
(`rlvr sample` hands it on), says nothing of the completions and is kept as info too. Of chosen and rejected the chosen
one is completion 0; that the file prefers it is no gold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from rlvr.columns import columns_of, find, id_of, is_empty, missing, split_turns
from rlvr.errors import DataError, near
from rlvr.feedback.checks import item_problem
from rlvr.feedback.records import MODES, Item, Judgement, Mode, Ranking, Span
from rlvr.feedback.schema import item_json, to_text
from rlvr.preference_labels import COLUMNS, TWO_RESPONSES, text_in
from rlvr.preference_texts import completion, read_prompt, split_pair
from rlvr.reward_settings import PreferenceData
from rlvr.rows import NOT_PLAIN, BadRow, Row, as_plain, kind, parsed
from rlvr.tasks import Loaded, collect
from rlvr.types import Prompt

AskedMode = Literal["auto"] | Mode
ASKED_MODES: tuple[str, ...] = ("auto", *MODES)
TASK_GOLD = "task_gold"
"""Under which Item.info has the gold of the task."""
_GOLD_FIELDS = ("best", "order", "ranking", "ratings", "thumb", "thumbs", "spans")


def load_items(
    data: PreferenceData, *, mode: AskedMode = "auto", attributes: Sequence[str] = (), setting: str = "data"
) -> Loaded[Item]:
    """One item of each row; mode and attributes hold where the row has none of its own.

    auto: two completions are compared, more are ranked, one is rated where attributes are asked and else gets a thumb,
    a prompt alone asks for a completion to be written. DataError: bad rows, all in one message; also two that ask the
    same.
    """
    assert mode in ASKED_MODES, mode
    asked: dict[str, str] = {}

    def build(row: Row) -> list[Item]:
        item = _item(row, data, mode, tuple(attributes), setting)
        same = to_text([item_json(item)["prompt"], sorted(item.completions), item.mode, item.attributes])
        if (before := asked.setdefault(same, row.where)) != row.where:
            raise BadRow(f"asks the same as {before}; keep one of them")
        return [item]

    return collect(data, setting, build)


def load_golds(
    data: PreferenceData, items: Sequence[Item], *, mode: AskedMode, attributes: Sequence[str], setting: str = "data"
) -> list[Item]:
    """The items with what a file of known answers says: its rows are {id, gold} of one of them, or items with a gold.

    DataError: a row without a gold, or of an id that is not there.
    """
    by_id = {item.id: item for item in items}

    def build(row: Row) -> list[Item]:
        fields = columns_of(row)
        if is_empty(fields.get("gold")):
            raise BadRow(f"no gold (has: {', '.join(map(str, fields))})")
        id, column = id_of(row, fields, data)
        if set(fields) - {column, "gold"}:
            read_gold(fields["gold"], 1)
            return [_item(row, data, mode, tuple(attributes), setting)]
        if id not in by_id:
            raise BadRow(f"there is no item {id!r} to which that gold belongs; {near(id, by_id)}give its row in full")
        return [_checked(dataclasses.replace(by_id[id], gold=read_gold(fields["gold"], len(by_id[id].completions))))]

    golds = {item.id: item for item in collect(data, setting, build).rows}
    for id, item in golds.items():
        if id in by_id and dataclasses.replace(by_id[id], gold=item.gold, info=item.info) != item:
            raise DataError(f"{data.path}: item {id!r} is there with other content; give only its id and gold")
    return [*(golds.pop(item.id, item) for item in items), *golds.values()]


def read_gold(value: Any, num: int) -> Judgement:
    """What a column `gold` says of an item of so many completions. BadRow: it is no object of ours.

    {"best": 0}: that completion before all others, which are not told apart; {"order": [[1], [0, 2]]}: best first, ties
    as lists; {"ratings": {"0": {"helpful": 7}}}, of one completion also {"ratings": {"helpful": 7}}; {"thumb": true},
    of several {"thumbs": {"0": true, "1": false}}; {"spans": [{"first": 0, "end": 5}]}.
    """
    value = _plain_gold(value)
    if not isinstance(value, Mapping):
        raise BadRow(f'gold must be an object such as {{"best": 0}} or {{"thumb": true}}, got {kind(value)}')
    given = {str(name): part for name, part in value.items() if part is not None}  # parquet has every key in every row
    for name in given:
        if name not in _GOLD_FIELDS:
            raise BadRow(f"gold has no {name!r}; {near(name, _GOLD_FIELDS)}known: {', '.join(_GOLD_FIELDS)}")
    orders = [name for name in ("best", "order", "ranking") if name in given]
    if len(orders) > 1:
        raise BadRow(f"gold has both {' and '.join(orders)}; give one of them")
    ranking: Ranking | None = None
    if orders:
        ranking = _best(given["best"], num) if orders == ["best"] else _order(given[orders[0]], orders[0])
    thumbs = given.get("thumbs", {"0": given["thumb"]} if "thumb" in given else {})
    spans = given.get("spans")
    return Judgement(
        ranking=ranking,
        ratings=_ratings(given.get("ratings", {})),
        thumbs={str(index): thumb for index, thumb in _mapping(thumbs, "thumbs").items() if thumb is not None},
        spans=_spans(spans) if spans is not None else None,
    )


def _item(row: Row, data: PreferenceData, mode: AskedMode, attributes: tuple[str, ...], setting: str) -> Item:
    fields = columns_of(row)
    own_mode = _own_mode(fields)
    prompt, completions, used = _texts(fields, data, setting, own_mode or mode)
    if (own := _own_attributes(fields)) is not None:
        attributes = own
    num = len(completions)
    by_shape: Mode = "write" if not num or "draft" in used else "compare" if num == 2 else "rank"
    if num == 1 and by_shape != "write":
        by_shape = "rate" if attributes else "thumbs"
    chosen: Mode = own_mode or (by_shape if mode == "auto" else mode)  # type: ignore[assignment]
    id, id_column = id_of(row, fields, data)
    source = find(fields, "source", COLUMNS["source"], data)
    gold = None if is_empty(fields.get("gold")) else fields["gold"]
    is_ours = gold is not None and chosen != "write" and _is_gold(gold)
    used |= {id_column or "", "mode", "attributes", "gold"}
    if source is not None and isinstance(source[1], str):
        used.add(source[0])
    item = Item(
        id=id,
        prompt=prompt,
        completions=completions,
        mode=chosen,
        attributes=attributes if chosen != "write" else (),
        source=source[1] if source is not None and isinstance(source[1], str) else "",
        gold=read_gold(gold, num) if is_ours else None,
        info=_info({TASK_GOLD: gold, **fields} if gold is not None and not is_ours else fields, used),
    )
    return _checked(item)


def _checked(item: Item) -> Item:
    if problem := item_problem(item):
        raise BadRow(problem)
    return item


def _texts(
    fields: Mapping[str, Any], data: PreferenceData, setting: str, mode: AskedMode
) -> tuple[Prompt, tuple[str, ...], set[str]]:
    """(prompt, completions, the columns that they come from)"""
    prompt_found = find(fields, "prompt", COLUMNS["prompt"], data)
    used = {prompt_found[0]} if prompt_found is not None else set[str]()
    sides = [find(fields, word, COLUMNS[word], data) for word in ("chosen", "rejected")]
    pair = next((names[:2] for names in TWO_RESPONSES if all(fields.get(name) is not None for name in names[:2])), None)
    if all(sides) or (pair is not None and not any(sides)):
        names, values = _pair(fields, sides, pair)
        listed = [value for value in map(parsed, values) if isinstance(value, (list, tuple))]
        if listed and all(isinstance(text, str) for value in listed for text in value):  # best of N
            texts = [text for value in map(parsed, values) for text in (value if isinstance(value, list) else [value])]
            return read_prompt(fields, data, setting), _completions(texts, "chosen and rejected"), used | set(names)
        prompt, completions = split_pair(fields, data, setting, names, values)
        return prompt, completions, used | set(names)
    if any(sides):
        word, there = ("rejected", "chosen") if sides[0] else ("chosen", "rejected")
        raise BadRow(f"{there} without {word}: two answers are needed to compare ({_has(fields)})")
    several = find(fields, "completions", COLUMNS["completions"], data)
    if several is not None:
        items = parsed(several[1])
        if not isinstance(items, (list, tuple)):
            raise BadRow(f"{several[0]} must be a list of completions, got {kind(several[1])}")
        texts = _completions([text_in(item) for item in items], several[0], may_be_empty=True)
        return read_prompt(fields, data, setting), texts, used | {several[0]}
    if not is_empty(fields.get("draft")):
        return read_prompt(fields, data, setting), _completions([fields["draft"]], "draft"), used | {"draft"}
    return _single(fields, data, setting, mode, used)


def _single(
    fields: Mapping[str, Any], data: PreferenceData, setting: str, mode: AskedMode, used: set[str]
) -> tuple[Prompt, tuple[str, ...], set[str]]:
    """One completion, or the prompt alone."""
    written = find(fields, "completion", COLUMNS["completion"], data)
    has_prompt = bool(used)
    if written is not None and not is_empty(written[1]):
        prompt: Prompt = read_prompt(fields, data, setting) if has_prompt else ""
        if not has_prompt and written[0] != "text":  # a text may stand alone
            raise BadRow(missing("prompt", fields, setting, COLUMNS))
        return prompt, _completions([written[1]], written[0]), used | {written[0]}
    if not has_prompt and fields.get("messages") is not None:
        prompt, last = split_turns(fields["messages"])
        return prompt, (last,) if last is not None and last.strip() else (), {"messages"}
    if mode not in ("auto", "write"):
        raise BadRow(f"nothing to {mode}: neither completions, nor chosen and rejected ({_has(fields)})")
    return read_prompt(fields, data, setting), (), used


def _pair(
    fields: Mapping[str, Any], sides: Sequence[tuple[str, Any] | None], pair: Sequence[str] | None
) -> tuple[tuple[str, str], tuple[Any, Any]]:
    """(columns, values)"""
    if sides[0] is not None and sides[1] is not None:
        return (sides[0][0], sides[1][0]), (sides[0][1], sides[1][1])
    assert pair is not None
    return (pair[0], pair[1]), (fields[pair[0]], fields[pair[1]])


def _completions(values: Sequence[Any], column: str, *, may_be_empty: bool = False) -> tuple[str, ...]:
    """may_be_empty: a model that wrote nothing has answered too."""
    name = (lambda k: column) if len(values) == 1 else (lambda k: f"{column}[{k}]")
    return tuple(
        value if may_be_empty and isinstance(value, str) and not value.strip() else completion(value, name(k))
        for k, value in enumerate(values)
    )


def _own_mode(fields: Mapping[str, Any]) -> Mode | None:
    value = fields.get("mode")
    if is_empty(value):
        return None
    if value not in get_args(Mode):
        raise BadRow(f"mode must be one of {', '.join(MODES)}, got {str(value)[:40]!r}; {near(str(value), MODES)}")
    return value


def _own_attributes(fields: Mapping[str, Any]) -> tuple[str, ...] | None:
    value = parsed(fields.get("attributes"))
    if is_empty(value):
        return None
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise BadRow(f"attributes must be a list of names, got {kind(value)}")
    return tuple(names)


def _info(fields: Mapping[str, Any], used: set[str]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in used:
            try:
                plain[str(name)] = as_plain(value)
            except BadRow as error:
                raise BadRow(f"column {str(name)[:80]!r} is {error}") from None
    return {name: value for name, value in plain.items() if value is not NOT_PLAIN and value is not None}


def _has(fields: Mapping[str, Any]) -> str:
    return f"has: {', '.join(map(str, fields)) or 'no columns'}"


# --- golds ------------------------------------------------------------------------------------------------------------


def _is_gold(value: Any) -> bool:
    """Whether it is one of the comparison, an object with one of our words; all else is for the task's verifier."""
    value = _plain_gold(value)
    return isinstance(value, Mapping) and any(name in value for name in _GOLD_FIELDS)


def _plain_gold(value: Any) -> Any:
    """CSV holds objects as text."""
    try:
        return parsed(as_plain(value))
    except BadRow as error:
        raise BadRow(f"gold is {error}") from None


def _best(value: Any, num: int) -> Ranking:
    first = value if isinstance(value, list) else [value]
    rest = tuple(k for k in range(num) if k not in first)
    return (tuple(first), rest) if rest else (tuple(first),)


def _order(value: Any, name: str) -> Ranking:
    if not isinstance(value, list):
        raise BadRow(f"gold.{name} must be a list of places such as [[1], [0, 2]], got {kind(value)}")
    return tuple(tuple(place) if isinstance(place, list) else (place,) for place in value)


def _ratings(value: Any) -> dict[str, dict[str, float]]:
    given = _mapping(value, "ratings")
    if given and not any(isinstance(part, Mapping) for part in given.values()):
        given = {"0": given}  # of one completion
    return {
        str(index): {
            str(name): number for name, number in _mapping(part, f"ratings.{index}").items() if number is not None
        }
        for index, part in given.items()
        if part is not None
    }


def _spans(value: Any) -> tuple[Span, ...]:
    if not isinstance(value, list):
        raise BadRow(f"gold.spans must be a list, got {kind(value)}")
    spans: list[Span] = []
    for k, part in enumerate(value):
        given = _mapping(part, f"spans[{k}]")
        if not {"first", "end"} <= set(given) <= {"completion", "first", "end", "label"}:
            raise BadRow(f'gold.spans[{k}] must be as {{"completion": 0, "first": 4, "end": 9, "label": "toxic"}}')
        label = str(given.get("label") or "toxic")
        spans.append(Span(completion=given.get("completion") or 0, first=given["first"], end=given["end"], label=label))
    return tuple(spans)


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadRow(f"gold.{name} must be an object, got {kind(value)}")
    return value
