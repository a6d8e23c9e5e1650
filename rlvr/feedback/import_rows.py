"""Plain rows with a judgement in each (CSV, JSONL, parquet; logs of a deployed model), and rows of TRL's data sets.

docs/LABELLING.md lists the columns. What the columns of TRL's rows may be is in docs/PREFERENCES.md.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr.columns import columns_of, is_empty
from rlvr.errors import DataError
from rlvr.feedback.imports import (
    FILE,
    NUMBERED,
    THUMBS,
    TIE_WORDS,
    Entry,
    Found,
    Reading,
    first_of,
    match,
    prompt_in,
    ranked,
    read_spans,
    thumb,
    tied,
)
from rlvr.feedback.records import ATTRIBUTES, Judgement, Mode
from rlvr.preference_labels import ATTRIBUTES as KNOWN_ATTRIBUTES
from rlvr.preference_labels import as_text, number, text_in
from rlvr.preferences import LOADERS, kind_of
from rlvr.reward_settings import Data, PreferenceData
from rlvr.rows import BadRow, Row, as_plain, kind, parsed
from rlvr.tasks import load_demonstrations
from rlvr.types import Preference, Prompt, Ranking, Rating

_ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("id", "item", "item_id"),
    "prompt": ("prompt", "question", "problem", "query", "instruction", "context", "messages"),
    "completion": ("completion", "response", "answer", "output"),
    "completions": ("completions", "responses", "answers", "outputs"),
    "chosen": ("chosen", "chosen_response"),
    "rejected": ("rejected", "rejected_response"),
    "choice": ("choice", "preferred", "preference", "winner", "better"),
    "order": ("order", "ranking", "ranks"),
    "label": ("label", "thumb", "thumbs"),
    "text": ("edit", "edited", "demonstration", "rewrite", "correction"),
    "ratings": ("ratings", "scores", "score", "rating"),
    "spans": ("spans",),
    "skipped": ("skipped", "skip"),
    "annotator": (
        "annotator",
        "annotator_id",
        "user",
        "user_id",
        "worker",
        "worker_id",
        "labeler",
        "labeller",
        "rater",
    ),
    "seconds": ("seconds", "lead_time"),
    "group": ("group", "audience", "team"),
    "comment": ("comment", "comments", "rationale"),
    "source": ("source", "subset", "data_source", "domain"),
}
_MAP_ANSWERS = "name the answers' columns with --column response_a=COLUMN --column response_b=COLUMN"
_MOST_VOTES = 1000
"""Of a row: each becomes an answer."""
_MOST_SECONDS = 366 * 24 * 3600
_MOST_OF_NAME = 90
"""Characters, so that a vote's number fits behind them."""
_OURS = (*_ALIASES["choice"], *_ALIASES["text"], *_ALIASES["annotator"], "thumb", "thumbs", "spans", "skipped", "skip")
"""Columns that no data set to train on has, or not so."""
_SAME = ("id", "prompt", "completion", "completions", "chosen", "rejected", "order", "label", "source")
_OF_DATA_SETS = dict(zip(_SAME, _SAME, strict=True)) | {"ratings": "scores"}
"""Our words: those of PreferenceData.columns."""
_ATTRIBUTES = tuple(dict.fromkeys((*ATTRIBUTES, *KNOWN_ATTRIBUTES)))


def is_ours(fields: Mapping[str, Any]) -> bool:
    """Whether a row says who chose what, where a row of a data set holds the outcome alone."""
    return any(name in fields for name in _OURS) or len(_numbered(fields)) > 1


def _numbered(fields: Mapping[str, Any]) -> list[str]:
    """Columns such as response_a and response_b, in their order."""
    return [name for name, value in fields.items() if NUMBERED.fullmatch(str(name)) and isinstance(value, str)]


# --- rows of judgements ----------------------------------------------------------------------------------------------


def read(records: Iterable[tuple[str, Any]], reading: Reading, name: str) -> Found:
    """A row is what one person thinks of one question. name: of the source, where the rows name none."""
    found = Found()
    data = PreferenceData.model_construct(path=name, columns={}, source="file")
    for where, value in records:
        found.num_rows += 1
        try:
            fields = columns_of(Row(name, where, found.num_rows, value))
            entries = _entries(where, fields, reading, data, name)
        except BadRow as error:
            found.refuse(where, error)
            continue
        if not entries:
            found.left_out["rows without an answer"] += 1
        found.entries.extend(entries)
    return found


class _Fields:
    """The columns of a row by our words."""

    def __init__(self, fields: Mapping[str, Any], reading: Reading) -> None:
        self.all = {name: value for name, value in fields.items() if name not in reading.named("ignore")}
        self.reading = reading
        self.used: set[str] = set()

    def has(self) -> str:
        return f"has: {', '.join(map(str, self.all))}"

    def columns(self, word: str) -> tuple[str, ...]:
        """Those that may hold it. BadRow: --column names one that is not there."""
        for name in (mapped := self.reading.named(word)):
            if name not in self.all:
                given = next(given for given, names in self.reading.columns.items() if name in names)
                raise BadRow(f"no column {name!r} (--column {given} names it; {self.has()})")
        return mapped or _ALIASES[word]

    def of(self, word: str) -> str | None:
        """The column that holds it; None: the row has none. BadRow as columns()."""
        return next((name for name in self.columns(word) if not is_empty(self.all.get(name))), None)

    def there(self, word: str) -> str | None:
        """A column that would hold it, empty or not."""
        return next((name for name in self.columns(word) if name in self.all), None)

    def get(self, word: str) -> Any:
        """None: the row has none. BadRow as columns()."""
        if (name := self.of(word)) is None:
            return None
        self.used.add(name)
        return self.all[name]

    def text(self, word: str, default: str = "") -> str:
        value = self.get(word)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise BadRow(f"{word} must be text, got {kind(value)}")
        return str(value).strip()


def _entries(where: str, fields: Mapping[str, Any], reading: Reading, data: PreferenceData, name: str) -> list[Entry]:
    row = _Fields(fields, reading)
    prompt, last = _prompt(row)
    completions, labels = _completions(row)
    if last is not None:
        if completions:
            raise BadRow("prompt must end with a turn to be answered, ends with the assistant's")
        completions, labels = (last,), ("completion",)
    judgements = _judgements(row, completions, labels, data)
    seconds = row.get("seconds")
    common: dict[str, Any] = {
        "where": where,
        "prompt": prompt,
        "annotator": row.text("annotator", reading.annotator),
        "id": row.text("id"),
        "source": row.text("source", name),
        "seconds": _seconds(seconds),
        "group": row.text("group"),
        "comment": row.text("comment"),
    }
    info = {str(k): as_plain(v) for k, v in row.all.items() if k not in row.used and not is_empty(v)}
    return [
        Entry(completions=texts, mode=mode, judgement=judgement, info=info, **common)
        for mode, texts, judgement in judgements
    ]


def _prompt(row: _Fields) -> tuple[Prompt, str | None]:
    """(the prompt, the assistant's turn behind it: a conversation may hold the completion too)"""
    value = row.get("prompt")
    if value is None:
        if (there := row.there("prompt")) is not None:
            raise BadRow(f"{there} is empty")
        raise BadRow(f"no prompt ({row.has()}; name its column with --column prompt=COLUMN)")
    prompt = prompt_in(value, "prompt")
    if not isinstance(prompt, str) and len(prompt) > 1 and prompt[-1]["role"] == "assistant":
        return prompt[:-1], prompt[-1]["content"]
    return prompt, None


def _seconds(value: Any) -> float:
    seconds = 0.0 if value is None else number(value, "seconds")
    if not 0 <= seconds <= _MOST_SECONDS:
        raise BadRow(f"seconds must be from 0 to {_MOST_SECONDS} (a year), got {seconds:g}")
    return seconds


def _completions(row: _Fields) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(texts, what each is called in the row)"""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if chosen is not None or rejected is not None:
        if chosen is None or rejected is None:
            raise BadRow("chosen needs rejected, and rejected chosen")
        for word in ("choice", "order"):
            if (name := row.of(word)) is not None:
                raise BadRow(
                    f"{name} beside chosen and rejected, which say themselves what is better; {_MAP_ANSWERS}, or leave "
                    f"it out with --column ignore={name}"
                )
        return (as_text(chosen, "chosen"), as_text(rejected, "rejected")), ("chosen", "rejected")
    names = row.columns("completions") if row.reading.named("completions") else ()
    if len(names) > 1 or (not names and len(_numbered(row.all)) > 1):
        names = names or tuple(_numbered(row.all))
        names = tuple(name for name in names if not is_empty(row.all.get(name)))
        row.used.update(names)
        return tuple(as_text(row.all[name], name) for name in names), names
    several = row.get("completions")
    if several is not None:
        items = parsed(several)
        if not isinstance(items, (list, tuple)):
            raise BadRow(f"completions must be a list, got {kind(items)}")
        texts = tuple(as_text(text_in(item), f"completions[{k}]") for k, item in enumerate(items))
        return texts, tuple(str(k) for k in range(len(texts)))
    one = row.get("completion")
    return ((as_text(one, "completion"),), ("completion",)) if one is not None else ((), ())


def _judgements(
    row: _Fields, completions: tuple[str, ...], labels: Sequence[str], data: PreferenceData
) -> list[tuple[Mode, tuple[str, ...], Judgement]]:
    """(mode, completions, judgement) of all that a row says."""
    num = len(completions)
    compares: Mode = "compare" if num == 2 else "rank"
    found: list[tuple[Mode, tuple[str, ...], Judgement]] = []
    choice, order, label = row.get("choice"), row.get("order"), row.get("label")
    text, spans, skipped = row.get("text"), row.get("spans"), row.get("skipped")
    if skipped is not None and thumb(skipped) is not False:
        reason = str(skipped) if thumb(skipped) is None else "skipped"
        mode: Mode = compares if num > 1 else "thumbs" if num == 1 else "write"
        return [(mode, completions, Judgement(skipped=reason))]
    if (choice is not None or order is not None) and num < 2:
        raise BadRow(f"a choice needs two completions and more, and the row has {num} ({row.has()}; {_MAP_ANSWERS})")
    if "chosen" in labels and "rejected" in labels:
        found.append((compares, completions, Judgement(ranking=((0,), (1,)))))
    elif order is not None:
        found.append((compares, completions, Judgement(ranking=_order(order, labels, row))))
    elif choice is not None:
        found.append((compares, completions, Judgement(ranking=_choice(choice, labels, completions, row))))
    if label is not None:
        is_good = thumb(label)
        if is_good is None:
            known = ", ".join("/".join(pair) for pair in THUMBS)
            raise BadRow(f"label must be one of {known}, got {str(label)[:40]!r}")
        if not num and (there := row.there("completion")) is not None:
            raise BadRow(f"{there} is empty")
        if num != 1:
            raise BadRow(f"a thumb is of one completion, and the row has {num}")
        found.append(("thumbs", completions, Judgement(thumbs={"0": is_good})))
    ratings = _ratings(row, num)
    if ratings:
        found.append(("rate", completions, Judgement(ratings=ratings)))
    if text is not None:
        found.append(("write", completions[:1] if num == 1 else (), Judgement(text=as_text(text, "edit"))))
    if spans is not None:
        found.append(("spans", completions, Judgement(spans=read_spans(parsed(spans), num))))
    return found


def _label(name: str, labels: Sequence[str], row: _Fields) -> str | None:
    """Which completion is meant: by its column, else by the word that --column has for that ("a" of response_a)."""
    if (found := match(name, labels)) is not None:
        return found
    word = match(name, row.reading.numbered())
    column = row.reading.named(word)[0] if word is not None else None
    return column if column in labels else None


def _choice(value: Any, labels: Sequence[str], completions: Sequence[str], row: _Fields) -> tuple[tuple[int, ...], ...]:
    word = str(value).strip()
    if word.lower() in TIE_WORDS:
        return tied(len(completions))
    name = _label(word, labels, row)
    if name is not None:
        return first_of(list(labels).index(name), len(completions))
    if word in completions:
        return first_of(completions.index(word), len(completions))
    if all(label.isdigit() for label in labels) and len(word) == 1 and word.isalpha():  # a list has no letters
        number_ = "abcdefghi".find(word.lower())
        if 0 <= number_ < len(completions):
            return first_of(number_, len(completions))
    raise BadRow(f"choice {word[:40]!r} is none of {', '.join(labels)}, nor is it tie, equal, both or same")


def _order(value: Any, labels: Sequence[str], row: _Fields) -> tuple[tuple[int, ...], ...]:
    """Of "b > a = c", of indices best first with ties as lists, or of a column `ranks` (1 is best)."""
    value = parsed(value)
    if isinstance(value, str):
        places = [
            [_label(name.strip(), labels, row) or name.strip() for name in place.split("=")]
            for place in value.split(">")
        ]
        unknown = [name for place in places for name in place if name not in labels]
        if unknown:
            raise BadRow(f"order {value[:60]!r} names {unknown[0]!r}; there are {', '.join(labels)}")
        return ranked([[list(labels).index(name) for name in place] for place in places])
    if not isinstance(value, (list, tuple)):
        raise BadRow(f"order must be a list, or text such as 'b > a = c', got {kind(value)}")
    if "ranks" in row.used:
        ranks = [number(rank, f"ranks[{k}]") for k, rank in enumerate(value)]
        return ranked([[k for k, rank in enumerate(ranks) if rank == place] for place in sorted(set(ranks))])
    places = [place if isinstance(place, (list, tuple)) else [place] for place in value]
    if any(isinstance(k, bool) or not isinstance(k, int) for place in places for k in place):
        raise BadRow("order must hold indices of completions, best first, such as [[1, 2], [0]]")
    return tuple(tuple(place) for place in places)


def _ratings(row: _Fields, num: int) -> dict[str, dict[str, float]]:
    """By index of the completion; numbers that stand in columns of their own are of the only one."""
    named = row.reading.named("ratings")
    given: dict[str, Any] = {}
    for name in named if len(named) > 1 else _ATTRIBUTES:
        if not is_empty(row.all.get(name)):
            given[name] = row.all[name]
            row.used.add(name)
    if len(named) <= 1 and (value := parsed(row.get("ratings"))) is not None:
        if isinstance(value, Mapping) and all(isinstance(of, Mapping) for of in value.values()):
            return {str(k): _numbers(of) for k, of in value.items()}
        given |= value if isinstance(value, Mapping) else {"score": value}
    if given and num != 1:
        raise BadRow(f'ratings of {num} completions must be {{"0": {{"helpful": 5}}, ...}}')
    return {"0": _numbers(given)} if given else {}


def _numbers(given: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): number(value, str(name)) for name, value in given.items() if value is not None}


# --- rows of data sets -----------------------------------------------------------------------------------------------


def read_trl(path: Path, reading: Reading) -> Found:
    """Comparisons, rankings, ratings and demonstrations that hold an outcome: a vote of each of its votes, or one.

    Who gave the votes of a row is not known, so each is somebody's who said nothing else.
    """
    for word in reading.columns:
        if word not in _OF_DATA_SETS:
            raise DataError(
                f"--column {word}: rows of a data set have none (they have {', '.join(_OF_DATA_SETS)}); --from jsonl "
                "reads rows of judgements"
            )
    columns: Any = {_OF_DATA_SETS[word]: names[0] for word, names in reading.columns.items()}
    data = PreferenceData(path=str(path), columns=columns, on_bad_row="skip")
    found = Found()
    try:
        shape = kind_of(data, setting=FILE)
    except DataError:
        if not _is_demonstrations(path, columns):
            raise
        written = load_demonstrations(Data(path=str(path), columns=columns, on_bad_row="skip"), setting=FILE)
        found.num_rows, found.bad = len(written.rows) + written.num_bad, list(written.bad)
        for row in written.rows:
            entry = _entry(row.id, row.prompt, (), "write", Judgement(text=row.completion), reading, path.stem)
            found.entries.append(entry)
        return found
    if shape == "best_of":
        raise DataError(
            f"{path} holds lists of right and wrong completions, which nobody's choice is; train on it as it is"
        )
    loaded = LOADERS[shape](data, setting=FILE)
    found.num_rows, found.bad = len(loaded.rows) + loaded.num_bad, list(loaded.bad)
    for row in loaded.rows:
        if isinstance(row, Preference) and sum(row.votes.values()) > _MOST_VOTES:
            found.refuse(row.id, f"votes: {sum(row.votes.values())} people; at most {_MOST_VOTES} become answers")
            continue
        found.entries.extend(_of_outcome(row, reading, path.stem))
    return found


def _is_demonstrations(path: Path, columns: Any) -> bool:
    try:
        rows = load_demonstrations(Data(path=str(path), columns=columns, on_bad_row="skip"), setting=FILE).rows
    except (DataError, ValueError):
        return False
    return all(row.prompt for row in rows)


def _of_outcome(row: Preference | Ranking | Rating, reading: Reading, name: str) -> list[Entry]:
    source = row.source or name
    if isinstance(row, Ranking):
        mode: Mode = "compare" if len(row.completions) == 2 else "rank"
        return [_entry(row.id, row.prompt, row.completions, mode, Judgement(ranking=row.order), reading, source)]
    if isinstance(row, Rating):
        if row.label is None:
            judgement = Judgement(ratings={"0": dict(row.scores)})
            return [_entry(row.id, row.prompt, (row.completion,), "rate", judgement, reading, source)]
        judgement = Judgement(thumbs={"0": row.label})
        return [_entry(row.id, row.prompt, (row.completion,), "thumbs", judgement, reading, source)]
    orders = {"chosen": ((0,), (1,)), "rejected": ((1,), (0,)), "tie": ((0, 1),)}
    votes = dict(row.votes) or {"tie" if math.isclose(row.probability, 0.5) else "chosen": 1}
    said = [Judgement(ranking=orders[vote]) for vote, times in votes.items() for _ in range(times)]
    if len(said) == 1:
        names = list(row.annotators[:1]) or [reading.annotator]
    elif len(row.annotators) == len(said) and sum(times > 0 for times in votes.values()) == 1:
        names = list(row.annotators)  # all said the same
    else:
        somebody = f"{reading.annotator} {row.id}"
        if len(somebody) > _MOST_OF_NAME:
            digest = hashlib.sha256(somebody.encode("utf-8", "surrogatepass")).hexdigest()[:16]
            somebody = f"{somebody[: _MOST_OF_NAME - 17]} {digest}"
        names = [f"{somebody}#{k}" for k in range(len(said))]
    texts = (row.chosen, row.rejected)
    return [
        _entry(row.id, row.prompt, texts, "compare", judgement, reading, source, annotator)
        for judgement, annotator in zip(said, names, strict=True)
    ]


def _entry(
    id: str,
    prompt: Prompt,
    texts: tuple[str, ...],
    mode: Mode,
    judgement: Judgement,
    reading: Reading,
    source: str,
    annotator: str = "",
) -> Entry:
    return Entry(
        where=id,
        prompt=prompt,
        completions=texts,
        mode=mode,
        judgement=judgement,
        annotator=annotator or reading.annotator,
        id="" if re.fullmatch(r".*:\d+", id) else id,  # made from the file's name and the row's number
        source=source,
    )
