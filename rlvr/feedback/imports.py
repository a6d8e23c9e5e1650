"""Feedback that others collected into the database: CSV and JSONL, TRL's rows, exports of Argilla and Label Studio.

A reader turns each judgement in a file into an Entry; settle() finds or makes the item that it is about. So the same
file twice adds nothing, and what is said of the same texts in two files meets in one item.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from rlvr.columns import PROMPT_COLUMNS, messages_of, prompt_key
from rlvr.errors import DataError, near
from rlvr.feedback.checks import item_problem, judgement_problem, name_problem
from rlvr.feedback.names import IMPORTED
from rlvr.feedback.records import Answer, Item, Judgement, Mode, Ranking, Span
from rlvr.reward_settings import Rows
from rlvr.rows import SUFFIXES, Argument, BadRow, kind, parsed, read_rows
from rlvr.tasks import NUM_SHOWN, bad_rows_message
from rlvr.types import Prompt

if TYPE_CHECKING:
    from rlvr.feedback.store import Store

From = Literal["auto", "csv", "jsonl", "argilla", "label-studio", "trl"]
FORMATS: tuple[From, ...] = get_args(From)
THUMBS = (
    *(("true", "false"), ("yes", "no"), ("y", "n"), ("good", "bad"), ("up", "down"), ("like", "dislike")),
    *(("1", "0"), ("+1", "-1"), ("👍", "👎"), ("liked", "disliked")),
    *(("positive", "negative"), ("correct", "incorrect"), ("accept", "reject"), ("accepted", "rejected")),
)
"""Words for good and for bad, in any case."""
TIE_WORDS = {"tie", "tied", "equal", "same", "both", "neither", "none", "draw", "no preference"}
PROMPT_FIELDS = (*PROMPT_COLUMNS, "context", "input", "messages", "conversation", "chat", "history")
COMMENT_NAMES = ("comment", "comments", "rationale", "explanation", "feedback", "notes", "note")
WORDS = (
    *("id", "prompt", "completion", "completions", "chosen", "rejected", "choice", "order", "label", "text", "ratings"),
    *("spans", "skipped", "annotator", "seconds", "group", "comment", "source", "ignore"),
)
"""What --column gives a column, field or question to, beside NUMBERED."""
NUMBERED = re.compile(
    r"(completion|response|answer|output|reply|generation|candidate)(?!s$)[ _-]?([a-z]|[0-9]+)", re.IGNORECASE
)
"""Columns that are each an answer: response_a, response_b."""
FILE = Argument("FILE", columns="--column", on_bad_row="--on-bad-row skip")
_MOST_LOOKED_AT = 1000
"""Rows to tell by what a file is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a file is to be read. Reading(columns={"prompt": ("ask",)})"""

    form: From = "auto"
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Our word (WORDS): their columns, fields or questions."""
    annotator: str = IMPORTED
    """Who answered, where the file does not say."""
    skips_bad_rows: bool = False

    def named(self, word: str) -> tuple[str, ...]:
        own = self.columns.get(word, ())
        return (*own, *(self.columns[name][0] for name in self.numbered())) if word == "completions" else own

    def numbered(self) -> list[str]:
        """Our words for answers in columns of their own, in order: response_a, response_b."""
        return sorted(filter(NUMBERED.fullmatch, self.columns), key=lambda word: (len(word), word))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One judgement of one person, as it stood in the file."""

    where: str
    """FILE:ROW, for messages."""
    prompt: Prompt
    completions: tuple[str, ...]
    mode: Mode
    judgement: Judgement
    """Indices are of `completions`."""
    annotator: str
    id: str = ""
    """Of the question, where the file has one."""
    source: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    group: str = ""
    comment: str = ""


@dataclass(slots=True)
class Found:
    """What a file holds."""

    entries: list[Entry] = field(default_factory=list)
    num_rows: int = 0
    bad: list[str] = field(default_factory=list)
    """FILE:ROW: why it cannot be used."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Answers that are none (drafts), rows without one."""

    def refuse(self, where: str, why: object) -> None:
        self.bad.append(f"{where}: {why}")


Loaded = tuple[Found, list[Item], list[Answer]]
"""(what a file holds, items that are not among those of the database, answers)"""


def import_file(store: Store, path: Path, reading: Reading, loaded: Loaded | None = None) -> dict[str, Any]:
    """Add what a file holds; figures of it. loaded: by load(), where the database is empty. DataError as load():
    nothing is added then."""
    found, items, answers = loaded or load(path, reading, store.items())
    num_items, num_answers = store.add(items, answers, is_asked=False)
    return {
        "file": str(path),
        "rows": found.num_rows,
        "bad_rows": len(found.bad),
        "items": num_items,
        "answers": num_answers,
        "known_answers": len(answers) - num_answers,
        "left_out": dict(found.left_out),
    }


def load(path: Path, reading: Reading, items: Iterable[Item]) -> Loaded:
    """What a file holds, as items and answers to them; `items`: those of the database.

    DataError: all rows that cannot be used, in one message, unless bad rows are skipped; no such file, no rows.
    """
    found = read(path, reading)
    made, answers = settle(found, items)
    if not found.num_rows:
        raise DataError(f"{path}: holds no rows")
    if found.bad and (not reading.skips_bad_rows or not answers):
        advice = (
            "--on-bad-row skip leaves them out" if answers else "none is left; --column WORD=COLUMN says what is what"
        )
        bad = sorted(found.bad, key=_place)  # those that fit no item were found last
        raise DataError(bad_rows_message(path.name, bad[:NUM_SHOWN], len(bad), found.num_rows, advice))
    return found, made, answers


def _place(line: str) -> tuple[str, int]:
    """(file, row) of a line that begins "FILE:ROW: "."""
    found = re.match(r"(.*?):(\d+): ", line)
    return (found[1], int(found[2])) if found else ("", 0)


def read(path: Path, reading: Reading) -> Found:
    """Every judgement of a file. DataError: no such file, or none of a known kind."""
    from rlvr.feedback import import_argilla, import_label_studio, import_rows

    check_file(path)
    records = _records(path)
    form = reading.form
    if form == "auto":
        head = list(itertools.islice(records, _MOST_LOOKED_AT))
        form = _form_of([value for _, value in head if isinstance(value, Mapping)])
        records = itertools.chain(head, records)
    if form == "argilla":
        return import_argilla.read(records, reading, path.stem)
    if form == "label-studio":
        return import_label_studio.read(records, reading, path.stem)
    if form == "trl":
        return import_rows.read_trl(path, reading)
    return import_rows.read(records, reading, path.stem)


def check_file(path: Path) -> None:
    """DataError: no such file."""
    if not os.path.exists(path):  # a name that is too long is no OSError here
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file (seen from {Path.cwd()}); {near(path.name, siblings)}".rstrip("; "))


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """(FILE:ROW, the record, or why it could not be read)"""
    if path.suffix == ".json" and (whole := _whole(path)) is not None:
        for number, value in enumerate(_listed(whole), start=1):
            yield f"{path.name}:{number}", value
        return
    if not path.is_dir() and path.suffix not in SUFFIXES:
        raise DataError(f"{path}: must end in {' '.join(SUFFIXES)}, or be a folder of such files")
    for row in read_rows(Rows(path=str(path)), FILE):
        yield row.where, row.fields


def _whole(path: Path) -> Mapping[str, Any] | None:
    """A .json file that holds one object; None: it holds rows, as other files do."""
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, Mapping) else None


def _listed(whole: Mapping[str, Any]) -> list[Any]:
    """Records of an object: under `records`, by id, as columns of lists, or it is one itself."""
    if isinstance(whole.get("records"), list):
        return list(whole["records"])
    values = list(whole.values())
    if values and all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1:
        return [dict(zip(whole, row, strict=True)) for row in zip(*values, strict=True)]
    if values and all(isinstance(value, Mapping) and "fields" in value for value in values):
        return [{"id": key, **value} for key, value in whole.items()]
    return [whole]


def _form_of(records: Sequence[Mapping[str, Any]]) -> From:
    from rlvr.feedback import import_argilla, import_label_studio, import_rows

    first = records[0] if records else {}
    if import_argilla.is_record(first):
        return "argilla"
    if import_label_studio.is_task(first):
        return "label-studio"
    return "jsonl" if any(map(import_rows.is_ours, records[:NUM_SHOWN])) else "trl"


# --- items -----------------------------------------------------------------------------------------------------------


def settle(found: Found, items: Iterable[Item]) -> tuple[list[Item], list[Answer]]:
    """(items that are not among those of the database, all answers); entries that fit no item go to found.bad."""
    book = _Book(items)
    attributes = _attributes(found.entries)
    answers: list[Answer] = []
    for entry in found.entries:
        try:
            item = book.place(entry, attributes.get(_key(entry), ()))
            if problem := name_problem(entry.annotator):
                raise BadRow(f"annotator {entry.annotator[:40]!r} {problem}")
            if problem := judgement_problem(replace(item, completions=entry.completions), entry.judgement):
                raise BadRow(problem)
            judgement = _turned(entry.judgement, entry.completions, item.completions)
        except BadRow as error:
            found.refuse(entry.where, error)
            continue
        answers.append(
            Answer(
                item=item.id,
                annotator=entry.annotator,
                judgement=judgement,
                seconds=entry.seconds,
                group=entry.group,
                comment=entry.comment,
                source="import",
            )
        )
    used = {answer.item for answer in answers}
    return [item for item in book.made if item.id in used], answers


Key = tuple[str, frozenset[str], Mode]


def _key(entry: Entry | Item) -> Key:
    """The same for questions that are the same, whatever the order of the completions."""
    return prompt_key(entry.prompt), frozenset(entry.completions), entry.mode


def _attributes(entries: Iterable[Entry]) -> dict[Key, tuple[str, ...]]:
    """What is rated, by question."""
    found: dict[Key, set[str]] = {}
    for entry in entries:
        for given in entry.judgement.ratings.values():
            found.setdefault(_key(entry), set()).update(given)
    return {key: tuple(sorted(names)) for key, names in found.items()}


class _Book:
    """The items that there are, and those that an import makes."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._by_id: dict[str, Item] = {}
        self._by_key: dict[Key, Item] = {}
        self.made: list[Item] = []
        for item in items:
            self._by_id[item.id] = item
            self._by_key.setdefault(_key(item), item)

    def place(self, entry: Entry, attributes: tuple[str, ...]) -> Item:
        """The item that an entry is about. BadRow: it cannot be asked, or its id is that of another question."""
        key = _key(entry)
        for name in (entry.id, f"api/{entry.id}"):  # the latter came by POST /feedback
            if name in self._by_id and _key(self._by_id[name]) == key:
                return self._by_id[name]
        known = self._by_key.get(key)
        if known is not None:
            return known
        name = entry.id or _content_id(entry)
        if name in self._by_id and (other := self._by_id[name]).mode != entry.mode:
            name = f"{name}/{entry.mode}"
        if name in self._by_id:
            other = self._by_id[name]
            what = "prompt" if prompt_key(other.prompt) != key[0] else "completions"
            raise BadRow(f"id {name!r} is that of an item with other {what}; give it another id")
        item = Item(
            id=name,
            prompt=entry.prompt,
            completions=_shuffled(entry.completions),
            mode=entry.mode,
            attributes=attributes,
            source=entry.source,
            info=entry.info,
        )
        if problem := item_problem(item):
            raise BadRow(problem)
        self._by_id[name] = self._by_key[key] = item
        self.made.append(item)
        return item


def _content_id(entry: Entry) -> str:
    text = json.dumps([prompt_key(entry.prompt), sorted(entry.completions), entry.mode])
    return f"import-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _shuffled(completions: Sequence[str]) -> tuple[str, ...]:
    """In an order that says nothing of which is better: in many files the chosen one stands first."""
    return tuple(sorted(completions, key=lambda text: hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()))


def _turned(judgement: Judgement, before: Sequence[str], after: Sequence[str]) -> Judgement:
    """The same judgement of completions in another order."""
    if tuple(before) == tuple(after):
        return judgement
    to = {str(k): after.index(text) for k, text in enumerate(before)}
    ranking, spans = judgement.ranking, judgement.spans
    return replace(
        judgement,
        ranking=ranking and tuple(tuple(sorted(to[str(k)] for k in tied)) for tied in ranking),
        ratings={str(to[k]): given for k, given in judgement.ratings.items()},
        thumbs={str(to[k]): is_good for k, is_good in judgement.thumbs.items()},
        spans=spans
        and tuple(Span(completion=to[str(s.completion)], first=s.first, end=s.end, label=s.label) for s in spans),
    )


# --- what readers have in common -------------------------------------------------------------------------------------


def tokens(name: str) -> tuple[str, ...]:
    """A name's words: "Response-1" is ("response", "1")."""
    return tuple(re.findall(r"[a-z]+|[0-9]+", name.lower()))


def match(name: str, known: Iterable[str]) -> str | None:
    """Which of the known names is meant: the same one, or the only one that ends as it does ("A" of response_a)."""
    names = list(known)
    if name in names:
        return name
    wanted = tokens(name)
    ending = [other for other in names if wanted and tokens(other)[-len(wanted) :] == wanted]
    return ending[0] if len(ending) == 1 else None


_GOOD, _BAD = (frozenset(words) for words in zip(*THUMBS, strict=True))
_SKIN = re.compile("[\\U0001f3fb-\\U0001f3ff\\ufe0f]")
"""Colours of a thumb, and the sign that says it is a picture."""


def thumb(value: Any) -> bool | None:
    """Good or bad, in any of the usual words (THUMBS); None: neither."""
    word = _SKIN.sub("", str(value)).strip().lower().strip(":")
    word = re.sub(r"^thumbs?[ _-]?(up|down)$", r"\1", word).removesuffix(".0")  # reactions; tables of numbers
    return True if word in _GOOD else False if word in _BAD else None


def ranked(places: Sequence[Sequence[int]]) -> Ranking:
    """Places as a judgement has them, empty ones left out."""
    return tuple(tuple(sorted(place)) for place in places if place)


def first_of(best: int, num: int) -> Ranking:
    """The ranking in which one is best, and of the others nothing is known."""
    return ranked([[best], [k for k in range(num) if k != best]])


def tied(num: int) -> Ranking:
    """The ranking that says that none is better."""
    return (tuple(range(num)),)


def listed(value: Any, what: str) -> list[Any]:
    """A list, or nothing. BadRow: something else."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRow(f"{what} must be a list, got {kind(value)}")
    return value


def read_spans(value: Any, num: int) -> tuple[Span, ...]:
    """Of objects {first (or start), end, label, completion}; BadRow: they are none."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(span, Mapping) for span in value):
        raise BadRow(f"spans must be a list of objects {{first, end, label}}, got {kind(value)}")
    found = []
    for span in value:
        ends = [span.get("first", span.get("start")), span.get("end")]
        if not all(type(k) is int for k in ends):
            raise BadRow(f"a span needs first and end as whole numbers, got {str(dict(span))[:60]}")
        where = span.get("completion", 0)
        label = span.get("label") or "toxic"
        if not isinstance(label, str) or type(where) is not int or not 0 <= where < num:
            raise BadRow(
                f"a span needs a label as text and a completion from 0 to {num - 1}, got {str(dict(span))[:60]}"
            )
        found.append(Span(completion=where, first=ends[0], end=ends[1], label=label))
    return tuple(found)


def prompt_in(value: Any, name: str) -> Prompt:
    """Text or messages. BadRow: neither."""
    value = parsed(value) if not isinstance(value, str) or value.lstrip().startswith('[{"') else value
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return messages_of(value, name)
    raise BadRow(f"{name} must be text or messages, got {kind(value)}")


def split_fields(fields: Mapping[str, Any], reading: Reading) -> tuple[Prompt, dict[str, str]]:
    """(prompt, completions by the name of their field) of fields that bear any names. BadRow: some are no text.

    Fields with a prompt's name (PROMPT_FIELDS) are the prompt, joined by a blank line; the others are completions.
    """
    left_out = set(reading.named("ignore")) | set(reading.named("id"))
    given = {name: value for name, value in fields.items() if name not in left_out and value not in (None, "", [], {})}
    asked = [name for name in reading.named("prompt") if name in given]
    if not reading.named("prompt"):
        asked = [name for name in given if name.lower() in PROMPT_FIELDS]
    answered = [name for name in reading.named("completions") + reading.named("completion") if name in given]
    if not (reading.named("completions") or reading.named("completion")):
        answered = [name for name in given if name not in asked and isinstance(given[name], str)]
    prompts = [prompt_in(given[name], name) for name in asked]
    for name in answered:
        if not isinstance(given[name], str):
            raise BadRow(f"{name} must be text, got {kind(given[name])}")
    prompt = (
        prompts[0] if len(prompts) == 1 else "\n\n".join(p if isinstance(p, str) else prompt_key(p) for p in prompts)
    )
    return prompt, {name: given[name] for name in answered}
