"""Records of Argilla: rankings, choices, thumbs, ratings, texts and spans that people gave.

Read are what `rg.Dataset.records.to_json()`, `to_list()` and `to_dict()` of Argilla 2 write, nested or flattened
(https://docs.argilla.io/latest/how_to_guides/import_export/), and of Argilla 1 the records of a FeedbackDataset as JSON
or as a Hugging Face data set (https://docs.argilla.io/en/v1.29.0/practical_guides/export_dataset.html). What a question
is, no export says: it is told by what its answers look like. Suggestions are a model's, and are not read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlvr.errors import near
from rlvr.feedback.imports import (
    COMMENT_NAMES,
    TIE_WORDS,
    Entry,
    Found,
    Reading,
    first_of,
    listed,
    match,
    ranked,
    read_spans,
    split_fields,
    thumb,
    tied,
    tokens,
)
from rlvr.feedback.records import Judgement, Mode, Span
from rlvr.preference_labels import number
from rlvr.rows import BadRow, as_plain, kind, parsed
from rlvr.types import Prompt

Kind = Literal["ranking", "choice", "thumb", "rating", "text", "spans", "comment", "ignored", "unknown"]
MODES: dict[Kind, Mode] = {
    "ranking": "rank",
    "choice": "compare",
    "thumb": "thumbs",
    "rating": "rate",
    "text": "write",
    "spans": "spans",
}
_FLAT = (".responses", ".responses.users", ".responses.status")
_NO_FIELDS = {"id", "_server_id", "external_id", "metadata", "status", "vectors", "inserted_at", "updated_at", "score"}
"""Columns of flattened records that no person is shown."""
_TEXTS = ("text", "edit", "correct", "rewrit", "improve", "response", "answer", "completion", "demonstrat", "write")
"""What the name of a question has in it that asks for a text."""


@dataclass(slots=True)
class _Record:
    """One record, whichever way it was written."""

    where: str
    id: str
    fields: dict[str, Any]
    metadata: Mapping[str, Any]
    responses: list[tuple[str, str, str, Any]]
    """(who, status, question, value)"""


@dataclass(slots=True)
class _Asked:
    """A record as its completions."""

    record: _Record
    prompt: Prompt
    completions: dict[str, str]


def is_record(value: Mapping[str, Any]) -> bool:
    """Whether Argilla has written it."""
    if isinstance(value.get("fields"), Mapping) and ("responses" in value or "suggestions" in value):
        return True
    return any(str(name).endswith(_FLAT[0]) or _is_answers(given) for name, given in value.items())


def _is_answers(value: Any) -> bool:
    """Whether a column holds the answers to a question, as in the data sets of Argilla 1."""
    if isinstance(value, Mapping):
        return {"user_id", "value", "status"} <= set(value)
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) and "user_id" in v for v in value)


def read(records: Iterable[tuple[str, Any]], reading: Reading, name: str) -> Found:
    """name: of the source."""
    found = Found()
    asked: list[_Asked] = []
    for where, value in records:
        found.num_rows += 1
        try:
            record = _record(where, value)
            asked.append(_Asked(record, *split_fields(record.fields, reading)))
        except BadRow as error:
            found.refuse(where, error)
    kinds = _kinds(asked, reading)
    for one in asked:
        try:
            found.entries.extend(_entries(one, kinds, reading, name, found))
        except BadRow as error:
            found.refuse(one.record.where, error)
    return found


def _record(where: str, value: Any) -> _Record:
    if isinstance(value, BadRow):
        raise value
    if not isinstance(value, Mapping):
        raise BadRow(f"not a record but {kind(value)}")
    metadata = parsed(value.get("metadata"))
    record = _Record(where, str(value.get("external_id") or value.get("id") or ""), {}, {}, [])
    record.metadata = metadata if isinstance(metadata, Mapping) else {}
    if isinstance(value.get("fields"), Mapping):
        record.fields = dict(value["fields"])
        record.responses = list(_nested(value.get("responses")))
        return record
    questions = [str(n) for n in value if _is_answers(value[n])]
    questions += [str(n).removesuffix(_FLAT[0]) for n in value if str(n).endswith(_FLAT[0])]
    for column, given in value.items():
        base = str(column)
        if _is_answers(given):
            record.responses.extend(_columnar(base, given))
        elif base.endswith(_FLAT[0]):
            question = base.removesuffix(_FLAT[0])
            users, status = (listed(value.get(f"{question}{suffix}"), f"{question}{suffix}") for suffix in _FLAT[1:])
            for k, answer in enumerate(listed(given, base)):
                state = status[k] if k < len(status) else None
                record.responses.append((_who(users, k), str(state or "submitted"), question, answer))
        elif isinstance(given, (str, list)) and base not in _NO_FIELDS and not _belongs(base, questions):
            record.fields[base] = given
    return record


def _belongs(column: str, questions: Sequence[str]) -> bool:
    """Whether a column of a flattened record says more of a question."""
    return (
        any(column == q or column.startswith((f"{q}.", f"{q}-suggestion")) for q in questions)
        or ".suggestion" in column
    )


def _nested(responses: Any) -> Iterable[tuple[str, str, str, Any]]:
    if isinstance(responses, Mapping):  # Argilla 2: by question
        for question, answers in responses.items():
            for answer in listed(answers, f"responses.{question}"):
                if not isinstance(answer, Mapping):
                    raise BadRow(f"responses.{question} must hold objects with value and user_id, got {kind(answer)}")
                status = str(answer.get("status") or "submitted")
                yield str(answer.get("user_id") or ""), status, str(question), answer.get("value")
        return
    for answer in listed(responses, "responses"):  # Argilla 1: by person
        if not isinstance(answer, Mapping):
            raise BadRow(f"responses must hold objects, got {kind(answer)}")
        who, status = str(answer.get("user_id") or ""), str(answer.get("status") or "submitted")
        values = answer.get("values") or {}
        if not isinstance(values, Mapping):
            raise BadRow(f"values of a response must be an object by question, got {kind(values)}")
        if not values:
            yield who, status, "", None
        for question, given in values.items():
            yield who, status, str(question), given.get("value") if isinstance(given, Mapping) else given


def _columnar(question: str, given: Any) -> Iterable[tuple[str, str, str, Any]]:
    if isinstance(given, Mapping):
        rows = zip(
            *(listed(given[name], f"{question}.{name}") for name in ("user_id", "value", "status")), strict=False
        )
        yield from ((str(who or ""), str(status or "submitted"), question, value) for who, value, status in rows)
        return
    for answer in given:
        status = str(answer.get("status") or "submitted")
        yield str(answer.get("user_id") or ""), status, question, answer.get("value")


def _who(users: Any, k: int) -> str:
    return str(users[k]) if isinstance(users, list) and k < len(users) and users[k] is not None else ""


# --- questions -------------------------------------------------------------------------------------------------------


def _kinds(asked: Sequence[_Asked], reading: Reading) -> dict[str, Kind]:
    """What each question of the file asks for."""
    values: defaultdict[str, list[tuple[Any, _Asked]]] = defaultdict(list)
    for one in asked:
        for _, status, question, value in one.record.responses:
            if question and value is not None and status != "draft":
                values[question].append((_plain(value), one))
    return {question: _kind(question, given, reading) for question, given in values.items()}


def _kind(question: str, given: Sequence[tuple[Any, _Asked]], reading: Reading) -> Kind:
    named: dict[str, Kind] = {"text": "text", "comment": "comment", "ratings": "rating", "spans": "spans"}
    named |= {"label": "thumb", "choice": "choice", "order": "ranking", "ignore": "ignored"}
    for word, what in named.items():
        if question in reading.named(word):
            return what
    values = [value for value, _ in given]
    if all(isinstance(v, list) for v in values):
        whole = [item for value in values for item in value]
        if whole and all(isinstance(item, Mapping) and "rank" in item for item in whole):
            return "ranking"
        if all(isinstance(item, Mapping) and "start" in item for item in whole):
            return "spans"
        if all(isinstance(i, str) and match(i, one.completions) for v, one in given for i in v):
            return "ranking"
        return "unknown"
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        return "rating"
    if not all(isinstance(v, (str, bool)) for v in values):
        return "unknown"
    if question.lower() in COMMENT_NAMES:
        return "comment"
    words = [(str(v).strip(), one) for v, one in given]
    if all(word.lower() in TIE_WORDS or match(word, one.completions) for word, one in words):
        return "choice"
    if all(thumb(word) is not None for word, _ in words):
        return "thumb"
    return "text" if any(part in question.lower() for part in _TEXTS) else "unknown"


def _plain(value: Any) -> Any:
    """Data sets of Argilla 1 hold a ranking as two lists, {"rank": [...], "value": [...]}."""
    if isinstance(value, Mapping) and value and all(isinstance(given, list) for given in value.values()):
        return [dict(zip(value, row, strict=False)) for row in zip(*value.values(), strict=False)]
    return value


# --- entries ---------------------------------------------------------------------------------------------------------


def _entries(one: _Asked, kinds: Mapping[str, Kind], reading: Reading, name: str, found: Found) -> list[Entry]:
    record = one.record
    by_person: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    skips: set[str] = set()
    for who, status, question, value in record.responses:
        who = who or reading.annotator
        if status == "draft":
            found.left_out["drafts"] += 1
        elif status == "discarded":
            skips.add(who)
        elif question and value is not None:
            by_person[who][question] = _plain(value)
    entries: list[Entry] = []

    def add(who: str, mode: Mode, texts: tuple[str, ...], judgement: Judgement, comment: str = "") -> None:
        info = {str(k): as_plain(v) for k, v in record.metadata.items()}
        common: dict[str, Any] = {"where": record.where, "prompt": one.prompt, "id": record.id, "source": name}
        entry = Entry(
            annotator=who, mode=mode, completions=texts, judgement=judgement, comment=comment, info=info, **common
        )
        entries.append(entry)

    for who, answers in by_person.items():
        judged = _judged(one, answers, kinds)
        comment = " ".join(str(v) for question, v in answers.items() if kinds[question] == "comment").strip()
        for mode, texts, judgement in judged:
            add(who, mode, texts, judgement, comment)
    for who in sorted(skips - set(by_person)):
        modes: list[Mode] = [MODES[what] for what in kinds.values() if what in MODES]
        for mode in dict.fromkeys(modes):
            texts = tuple(one.completions.values())
            add(who, _mode(mode, len(texts)), texts if mode != "write" else texts[:1], Judgement(skipped="discarded"))
    return entries


def _mode(mode: Mode, num: int) -> Mode:
    return mode if mode not in ("rank", "compare") else "compare" if num == 2 else "rank"


def _judged(
    one: _Asked, answers: Mapping[str, Any], kinds: Mapping[str, Kind]
) -> list[tuple[Mode, tuple[str, ...], Judgement]]:
    """(mode, completions, judgement) of all that one person said of a record. BadRow: it cannot be understood."""
    labels, texts = list(one.completions), tuple(one.completions.values())
    found: list[tuple[Mode, tuple[str, ...], Judgement]] = []
    ratings: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for question, value in answers.items():
        what = kinds[question]
        if what == "unknown":
            raise BadRow(
                f"question {question!r} is answered {str(value)[:40]!r}, which is neither a completion's name nor good "
                f"or bad; say what it is with --column label={question} (or text, comment, ratings, ignore)"
            )
        if what == "ranking":
            ranking, names = _ranking(value, labels, question)
            own = tuple(one.completions[name] for name in names)
            found.append((_mode("rank", len(own)), own, Judgement(ranking=ranking)))
        elif what == "choice":
            word = str(value).strip()
            name = match(word, labels)
            ranking = tied(len(texts)) if name is None else first_of(labels.index(name), len(texts))
            found.append((_mode("compare", len(texts)), texts, Judgement(ranking=ranking)))
        elif what == "thumb":
            is_good = thumb(value)
            if is_good is None:
                raise BadRow(f"question {question!r} is answered {str(value)[:40]!r}, which is neither good nor bad")
            k, _ = _about(question, labels)
            found.append(("thumbs", (texts[k],), Judgement(thumbs={"0": is_good})))
        elif what == "rating":
            k, attribute = _about(question, labels)
            ratings[str(k)][attribute] = float(value)
        elif what == "text":
            found.append(("write", texts if len(texts) == 1 else (), Judgement(text=str(value))))
        elif what == "spans":
            k, _ = _about(question, labels)
            found.append(("spans", (texts[k],), Judgement(spans=_spans(value))))
    if ratings:
        found.append(("rate", texts, Judgement(ratings=dict(ratings))))
    return found


def _ranking(value: Any, labels: Sequence[str], question: str) -> tuple[tuple[tuple[int, ...], ...], list[str]]:
    """(the ranking, the completions that it names, in the order of the fields)"""
    options = [
        (item.get("rank"), str(item.get("value"))) if isinstance(item, Mapping) else (place, str(item))
        for place, item in enumerate(value)
    ]
    names: dict[str, Any] = {}
    for rank, option in options:
        name = match(option, labels)
        if name is None:
            raise BadRow(
                f"question {question!r} ranks {option!r}; {near(option, labels)}the completions are "
                f"{', '.join(labels) or 'none'} (--column completions=FIELD names them)"
            )
        if rank is not None:
            names[name] = number(rank, f"the rank of {option!r}")
    order = [name for name in labels if name in names]
    places = sorted(set(names.values()))
    return ranked([[order.index(name) for name in order if names[name] == place] for place in places]), order


def _about(question: str, labels: Sequence[str]) -> tuple[int, str]:
    """(the completion that a question is about, what is asked of it): the only one, or the one that it names."""
    if len(labels) == 1:
        return 0, question
    words = tokens(question)
    for k, label in enumerate(labels):
        own = tokens(label)
        for start in range(len(words) - len(own) + 1):
            if words[start : start + len(own)] == own:
                return k, "_".join((*words[:start], *words[start + len(own) :])) or "rating"
    raise BadRow(
        f"question {question!r} does not say which of {', '.join(labels) or 'no completions'} it is about; give it a "
        "name with the field's in it"
    )


def _spans(value: Any) -> tuple[Span, ...]:
    return read_spans([{**span, "completion": 0} if isinstance(span, Mapping) else span for span in value], 1)
