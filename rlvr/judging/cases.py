"""Rows of a file to cases for a judge: completions of one prompt, with what people or a world said of them.

Rows have {prompt, completions} (2 to 9 that differ) or {prompt, chosen, rejected}, by all names of docs/PREFERENCES.md.
Labels, the models that wrote the completions and a right answer are read where they are there: for measuring, and never
shown to the judge (but the right answer, by the method reference).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlvr.columns import columns_of, find, id_of, is_empty
from rlvr.errors import DataError
from rlvr.judging.judge import Pair, Single, pairs_of
from rlvr.preference_labels import COLUMNS, as_text, labels_of, order_of, text_in
from rlvr.preference_texts import read_prompt, split_pair
from rlvr.reward_settings import PreferenceData
from rlvr.rows import BadRow, Row, kind, parsed
from rlvr.seeds import seed_for
from rlvr.tasks import GOLD_COLUMNS, collect
from rlvr.types import Prompt

MOST_COMPLETIONS = 9
_REFERENCES = ("reference", *GOLD_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Completions of one prompt, none of them empty or there twice (but for spaces around it).

    Case(id="pairs:3", prompt="2+2?", completions=("4", "5"), labels={(0, 1): 0.9})
    """

    id: str
    prompt: Prompt
    completions: tuple[str, ...]
    labels: Mapping[tuple[int, int], float] = field(default_factory=dict)
    """That the first of a pair of completions is better, as the row says it; 0.5 is a tie."""
    models: tuple[str, ...] = ()
    """That wrote the completions, where the row says so."""
    reference: str | None = None
    source: str = ""
    num_dropped: int = 0
    """Completions of the row that are empty or there already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """The rows that a judge can be asked about, and how many others there are."""

    cases: list[Case]
    num_same: int = 0
    """Rows whose completions are all the same."""
    num_bad: int = 0
    """Rows that cannot be used, where those are left out."""


def load_cases(data: PreferenceData, setting: str) -> Cases:
    """`setting` is where data stands, for messages. DataError: no such file, bad rows (all in one message), or nothing
    left."""
    num_same = 0

    def build(row: Row) -> list[Case]:
        nonlocal num_same
        case = _case(row, data, setting)
        if len(case.completions) > 1:
            return [case]
        num_same += 1
        return []

    try:
        loaded = collect(data, setting, build)
    except OSError as error:  # a name that is too long
        raise DataError(f"{data.path}: {error.strerror or error}") from None
    if not loaded.rows:
        why = f"the completions of each of {num_same} rows are the same: nothing to choose between"
        raise DataError(f"{data.path}: {why}")
    return Cases(cases=loaded.rows, num_same=num_same, num_bad=loaded.num_bad)


def pairs_to_ask(case: Case, most: int, seed: int) -> list[tuple[int, int]]:
    """Pairs of completions, at most so many, each in an order by lot: which side a file prefers is not told by it."""
    found: list[tuple[int, int]] = []
    for i, j in pairs_of(len(case.completions), most, seed, case.id):
        is_straight = seed_for(seed, "judge_sides", case.id, i, j) % 2 == 0
        found.append((i, j) if is_straight else (j, i))
    return found


def pair_of(case: Case, i: int, j: int) -> Pair:
    """As the judge is asked: a is completion i."""
    return Pair(prompt=case.prompt, a=case.completions[i], b=case.completions[j], key=f"{case.id}/{i}-{j}")


def single_of(case: Case, k: int) -> Single:
    """As the judge is asked."""
    return Single(prompt=case.prompt, answer=case.completions[k], key=f"{case.id}/{k}", reference=case.reference)


def label_of(case: Case, i: int, j: int) -> float | None:
    """That completion i is better than j; None where the row does not say."""
    if (i, j) in case.labels:
        return case.labels[i, j]
    return 1 - case.labels[j, i] if (j, i) in case.labels else None


def _case(row: Row, data: PreferenceData, setting: str) -> Case:
    fields = columns_of(row)
    prompt, texts, labels, models = _texts(fields, data, setting)
    id, _ = id_of(row, fields, data)
    source = find(fields, "source", COLUMNS["source"], data)
    if models and len(models) != len(texts):
        raise BadRow(f"models has {len(models)} names for {len(texts)} completions")
    if not 2 <= len(texts) <= MOST_COMPLETIONS:
        raise BadRow(f"2 to {MOST_COMPLETIONS} completions are needed to choose between, got {len(texts)}")
    bare = [text.strip() for text in texts]
    kept = [k for k, text in enumerate(bare) if text and text not in bare[:k]]
    place = {old: new for new, old in enumerate(kept)}
    return Case(
        id=id,
        prompt=prompt,
        completions=tuple(texts[k] for k in kept),
        labels={(place[i], place[j]): p for (i, j), p in labels.items() if i in place and j in place},
        models=tuple(models[k] for k in kept) if models else (),
        reference=_reference(fields),
        source=source[1] if source is not None and isinstance(source[1], str) else "",
        num_dropped=len(texts) - len(kept),
    )


def _texts(
    fields: Mapping[str, Any], data: PreferenceData, setting: str
) -> tuple[Prompt, tuple[str, ...], dict[tuple[int, int], float], tuple[str, ...]]:
    """(prompt, completions, labels, models)"""
    chosen, rejected = (find(fields, word, COLUMNS[word], data) for word in ("chosen", "rejected"))
    if chosen is not None and rejected is not None:
        prompt, pair = split_pair(fields, data, setting, (chosen[0], rejected[0]), (chosen[1], rejected[1]))
        probability: float = labels_of(fields, data)["probability"]
        models = [fields.get(name) for name in ("chosen_model", "rejected_model")]
        named = tuple(str(name) for name in models) if all(isinstance(name, str) for name in models) else ()
        return prompt, pair, {(0, 1): probability}, named
    if chosen is not None or rejected is not None:
        raise BadRow("chosen and rejected go together: two completions are needed to choose between")
    several = find(fields, "completions", COLUMNS["completions"], data)
    if several is None:
        raise BadRow(
            f"neither completions nor chosen and rejected (has: {', '.join(map(str, fields)) or 'no columns'})"
        )
    items = parsed(several[1])
    if not isinstance(items, (list, tuple)):
        raise BadRow(f"{several[0]} must be a list of completions, got {kind(several[1])}")
    texts = tuple(as_text(text_in(item), f"{several[0]}[{k}]") for k, item in enumerate(items))
    models = parsed(fields.get("models"))
    named = tuple(str(name) for name in models) if isinstance(models, (list, tuple)) else ()
    return read_prompt(fields, data, setting), texts, _ranked(fields, data, setting, several[0], items), named


def _ranked(
    fields: Mapping[str, Any], data: PreferenceData, setting: str, column: str, items: Any
) -> dict[tuple[int, int], float]:
    """Labels of a ranking, where the row is one."""
    has_order = any(not is_empty(fields.get(name)) for word in ("order", "scores") for name in COLUMNS[word])
    if not has_order:
        return {}
    order, _ = order_of(fields, data, setting, column, items)
    place = {k: number for number, tied in enumerate(order) for k in tied}
    return {(i, j): 0.5 if place[i] == place[j] else float(place[i] < place[j]) for i in place for j in place if i < j}


def _reference(fields: Mapping[str, Any]) -> str | None:
    value = next((fields[name] for name in _REFERENCES if not is_empty(fields.get(name))), None)
    return None if value is None else value if isinstance(value, str) else str(value)
