"""What a page or a deployed model sends, as what it means, whatever somebody sends: Refusal says what is wrong with it.

A page knows a completion by its position in the order in which it was shown; here positions become indices.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.errors import near
from rlvr.feedback.checks import (
    NOTE_CHARACTERS,
    attributes_of,
    is_finite,
    is_index,
    item_problem,
    judgement_problem,
    name_problem,
    ranking_problem,
    text_problem,
)
from rlvr.feedback.names import DEPLOYED
from rlvr.feedback.records import RATINGS, Answer, Item, Judgement, Span
from rlvr.feedback.schema import judgement_json, to_text
from rlvr.serve.web import Refusal
from rlvr.types import Message, Prompt

MOST_ROWS = 1000
"""Of one POST /feedback."""
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")
_JUDGED = ("ranking", "ratings", "thumbs", "text", "spans", "skipped")
_EVENT_FIELDS = ("event", "kind", "item", "showing", "lease", *_JUDGED, "seconds", "comment")
_KNOWN_INFO = ("user", "model", "checkpoint", "rollout", "time")
_FEEDBACK_FIELDS = ("id", "prompt", "completion", "thumb", "edit", "chosen", "rejected", "source", *_KNOWN_INFO)
_MOST_SECONDS = 1e7


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """A POST /api/event whose form is right."""

    uuid: str
    is_undo: bool
    item: str = ""
    showing: int = 0
    lease: str = ""
    seconds: float = 0.0
    comment: str = ""
    given: Mapping[str, Any]
    """Its fields of judgement, by position."""


def parse_event(body: Any) -> Submit:
    """Its form alone; what is judged is looked at once the item is known."""
    fields = _object(body, "the body", _EVENT_FIELDS)
    uuid, kind = fields.get("event"), fields.get("kind")
    if not isinstance(uuid, str) or not _UUID.fullmatch(uuid):
        raise _wrong("event must be a UUID that the page has made")
    if kind not in ("answer", "undo"):
        raise _wrong('kind must be "answer" or "undo"')
    uuid = uuid.lower()
    if kind == "undo":
        return Submit(uuid=uuid, is_undo=True, given={})
    item, lease, showing = (fields.get(name) for name in ("item", "lease", "showing"))
    if not isinstance(item, str) or not isinstance(lease, str) or not is_index(showing, 2):
        raise _wrong("item and lease must be the texts, and showing the number, that GET /api/next gave")
    seconds = fields.get("seconds", 0.0)
    if type(seconds) not in (int, float) or not is_finite(seconds) or not 0 <= seconds <= _MOST_SECONDS:
        raise _wrong(f"seconds must be a number from 0 to {_MOST_SECONDS:g}")
    comment = fields.get("comment", "")
    if not isinstance(comment, str):
        raise _wrong("comment must be text")
    if problem := text_problem(comment, NOTE_CHARACTERS):
        raise _wrong(f"comment {problem}")
    given = {name: fields[name] for name in _JUDGED if name in fields}
    assert isinstance(showing, int)
    return Submit(
        uuid=uuid,
        is_undo=False,
        item=item,
        showing=showing,
        lease=lease,
        seconds=float(seconds),
        comment=comment.strip(),
        given=given,
    )


def judgement_from(given: Mapping[str, Any], item: Item, shown: Sequence[int], labels: Sequence[str]) -> Judgement:
    """By position to by index. Stricter than what may stand in the database: a page asks for all there is to say."""
    for name in ("text", "skipped"):
        if name in given and not isinstance(given[name], str):
            raise _wrong(f"{name} must be text")
    judgement = Judgement(
        ranking=_ranking(given["ranking"], shown) if "ranking" in given else None,
        ratings=_ratings(given["ratings"], shown) if "ratings" in given else {},
        thumbs=_by_index(given["thumbs"], "thumbs", shown) if "thumbs" in given else {},
        text=given.get("text"),
        spans=_spans(given["spans"], shown, labels) if "spans" in given else None,
        skipped=given["skipped"].strip() if "skipped" in given else None,
    )
    if problem := judgement_problem(item, judgement):
        raise _wrong(problem)
    if judgement.skipped is None and item.mode == "rate":
        for index in map(str, range(len(item.completions))):
            if set(judgement.ratings.get(index, {})) != set(attributes_of(item)):
                raise _wrong(f"ratings must hold {', '.join(attributes_of(item))} for each completion")
    if judgement.skipped is None and item.mode == "thumbs" and len(judgement.thumbs) < len(item.completions):
        raise _wrong("thumbs must hold one for each completion")
    return judgement


def as_shown(judgement: Judgement, shown: Sequence[int], comment: str) -> dict[str, Any]:
    """A judgement in the words of POST /api/event, for a page that showed the completions in that order."""
    at = {index: position for position, index in enumerate(shown)}
    plain = judgement_json(judgement)
    if "ranking" in plain:
        plain["ranking"] = [sorted(at[index] for index in place) for place in plain["ranking"]]
    for name in ("ratings", "thumbs"):
        if name in plain:
            plain[name] = {str(at[int(index)]): value for index, value in plain[name].items()}
    if "spans" in plain:
        plain["spans"] = [{**span, "completion": at[span["completion"]]} for span in plain["spans"]]
    return plain | ({"comment": comment} if comment else {})


def parse_feedback(body: Any) -> list[tuple[Item, Answer]]:
    """Each row of a POST /feedback as an item with one answer; a row that comes twice gives the same twice.

    {prompt, completion, thumb} is an item of mode thumbs, {prompt, completion, edit} one of mode write whose draft the
    completion is, {prompt, chosen, rejected} one of mode compare whose first completion was chosen.
    """
    rows = body if isinstance(body, list) else [body]
    if not rows:
        raise _wrong("the body must be a row of feedback or a list of them, and the list is empty")
    if len(rows) > MOST_ROWS:
        raise Refusal(413, "items", f"at most {MOST_ROWS} rows in one request, got {len(rows)}")
    return [_feedback(row, f"rows[{k}]" if isinstance(body, list) else "the row") for k, row in enumerate(rows)]


def _feedback(row: Any, where: str) -> tuple[Item, Answer]:
    fields = {name: value for name, value in _object(row, where, _FEEDBACK_FIELDS).items() if value is not None}
    kinds = (("completion", "thumb"), ("completion", "edit"), ("chosen", "rejected"))
    found = [names for names in kinds if all(name in fields for name in names)]
    judged = {name for names in kinds for name in names} & set(fields)
    if len(found) != 1 or judged != set(found[0]):
        raise _wrong(f"{where}: must hold completion and thumb, or completion and edit, or chosen and rejected")
    for name in judged - {"thumb"}:
        if not isinstance(fields[name], str):
            raise _wrong(f"{where}.{name}: must be text")
    if "thumb" in judged and type(fields["thumb"]) is not bool:
        raise _wrong(f"{where}.thumb: must be true or false")
    prompt = _prompt(fields.get("prompt"), where)
    id, user = (fields.get(name) for name in ("id", "user"))
    if id is not None and not (isinstance(id, str) and id) and type(id) is not int:
        raise _wrong(f"{where}.id: must be text or a whole number")
    user = DEPLOYED if user is None else str(user) if type(user) is int else user
    if not isinstance(user, str) or name_problem(user):
        raise _wrong(f"{where}.user: {name_problem(user) if isinstance(user, str) else 'must be text'}")
    source = fields.get("source", "api")
    if not isinstance(source, str):
        raise _wrong(f"{where}.source: must be text")
    if id is None:
        # of what is judged and by whom: who changes their mind judges the same. Of nobody's all that the row says
        names = ("prompt", *(name for name in found[0] if name not in ("thumb", "edit")))
        same = [found[0], {name: fields[name] for name in names}, user] if "user" in fields else fields
        try:
            id = "sha256-" + hashlib.sha256(to_text(same).encode("ascii")).hexdigest()[:32]
        except ValueError:  # an integer beyond what JSON's writer takes
            raise _wrong(f"{where}: holds a number of too many digits") from None
    mode, completions, judgement = _judged(found[0], fields)
    info = {name: user if name == "user" else fields[name] for name in _KNOWN_INFO if name in fields}
    item = Item(id=f"api/{id}", prompt=prompt, completions=completions, mode=mode, source=source, info=info)
    if problem := item_problem(item) or judgement_problem(item, judgement):
        raise _wrong(f"{where}: {problem}")
    # shown stays (): in which order is not known, and the chosen one stands first
    return item, Answer(item=item.id, annotator=user, judgement=judgement, source="api")


def _judged(names: tuple[str, ...], fields: Mapping[str, Any]) -> tuple[Any, tuple[str, ...], Judgement]:
    if "thumb" in names:
        return "thumbs", (fields["completion"],), Judgement(thumbs={"0": fields["thumb"]})
    if "edit" in names:
        return "write", (fields["completion"],), Judgement(text=fields["edit"])
    return "compare", (fields["chosen"], fields["rejected"]), Judgement(ranking=((0,), (1,)))


def _prompt(value: Any, where: str) -> Prompt:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise _wrong(f"{where}.prompt: must be text or a list of messages")
    turns: list[Message] = []
    for k, turn in enumerate(value):
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise _wrong(f"{where}.prompt[{k}]: must be an object with role and content, both text")
        turns.append(Message(role=role, content=content))
    return tuple(turns)


# --- positions --------------------------------------------------------------------------------------------------------


def _ranking(value: Any, shown: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list) or not all(isinstance(place, list) for place in value):
        raise _wrong("ranking must be a list of places, best first, such as [[1], [0, 2]]")
    places = tuple(tuple(place) for place in value)
    if problem := ranking_problem(places, len(shown)):
        raise _wrong(f"ranking {problem}")
    return tuple(tuple(sorted(shown[position] for position in place)) for place in places)


def _ratings(value: Any, shown: Sequence[int]) -> dict[str, dict[str, float]]:
    low, high = RATINGS
    ratings = _by_index(value, "ratings", shown)
    for given in ratings.values():
        if not isinstance(given, dict):
            raise _wrong('ratings must be as {"0": {"helpful": 6}}')
        for name, number in given.items():
            if type(number) not in (int, float) or not low <= number <= high:
                raise _wrong(f"ratings: {str(name)[:40]!r} must be a number from {low} to {high}")
    return ratings


def _by_index(value: Any, what: str, shown: Sequence[int]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{what} must be an object by position")
    at = {str(position): str(index) for position, index in enumerate(shown)}
    if strange := [position for position in value if position not in at]:
        raise _wrong(f"{what}: no completion {strange[0][:40]!r}; there are {len(shown)} (0 to {len(shown) - 1})")
    return {at[position]: part for position, part in value.items()}


def _spans(value: Any, shown: Sequence[int], labels: Sequence[str]) -> tuple[Span, ...]:
    if not isinstance(value, list):
        raise _wrong("spans must be a list")
    spans: set[Span] = set()
    for part in value:
        fields = _object(part, "a span", ("completion", "first", "end", "label"))
        position, first, end = (fields.get(name) for name in ("completion", "first", "end"))
        label = fields.get("label", labels[0])
        if not is_index(position, len(shown)) or type(first) is not int or type(end) is not int:
            raise _wrong('a span must be as {"completion": 0, "first": 4, "end": 9, "label": "toxic"}')
        if label not in labels:
            raise _wrong(f"spans: label must be one of {', '.join(labels)}")
        assert isinstance(position, int)
        spans.add(Span(completion=shown[position], first=first, end=end, label=label))
    return tuple(sorted(spans, key=lambda span: (span.completion, span.first, span.end, span.label)))


def _object(value: Any, what: str, known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{what} must be an object")
    for name in value:
        if name not in known:
            raise _wrong(f"{what} has no field {name[:40]!r}; {near(name, known)}known: {', '.join(known)}")
    return value


def _wrong(message: str) -> Refusal:
    return Refusal(422, "fields", message)
