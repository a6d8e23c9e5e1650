"""Tasks of Label Studio with their annotations: comparisons, rankings, thumbs, ratings, texts and marked spans.

Read is the export "JSON" (https://labelstud.io/guide/task_format): a list of tasks with `data` and `annotations`, whose
`result` holds what the tags Pairwise, Ranker (https://labelstud.io/tags/ranker), Choices, Rating, TextArea and Labels
gave. Predictions are a model's, and are not read. A cancelled annotation is a skip, lead_time are its seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    split_fields,
    thumb,
    tied,
)
from rlvr.feedback.records import Judgement, Mode, Span
from rlvr.preference_labels import number
from rlvr.rows import BadRow, as_plain, kind
from rlvr.types import Prompt

_SPANS = ("labels", "hypertextlabels", "paragraphlabels")
_MODES: dict[str, Mode] = {
    "pairwise": "compare",
    "ranker": "rank",
    "rating": "rate",
    "textarea": "write",
    **dict.fromkeys(_SPANS, "spans"),
}
_BODIES = ("body", "text", "content", "html", "title")
"""Where an item of a List holds its text, the first that is there."""
Judged = tuple[Mode, tuple[str, ...], Judgement]


@dataclass(slots=True)
class _Task:
    """A task as its completions."""

    where: str
    id: str
    prompt: Prompt
    completions: dict[str, str]
    """By the name of the field, or by the id in a List."""
    info: dict[str, Any]
    annotations: list[Mapping[str, Any]]


def is_task(value: Mapping[str, Any]) -> bool:
    """Whether Label Studio has written it."""
    return isinstance(value.get("data"), Mapping) and any(
        isinstance(value.get(name), list) for name in ("annotations", "completions", "predictions")
    )


def read(records: Iterable[tuple[str, Any]], reading: Reading, name: str) -> Found:
    """name: of the source."""
    found = Found()
    tasks: list[_Task] = []
    for where, value in records:
        found.num_rows += 1
        try:
            tasks.append(_task(where, value, reading))
        except BadRow as error:
            found.refuse(where, error)
    controls = _controls(tasks)
    for task in tasks:
        for annotation in task.annotations:
            try:
                found.entries.extend(_entries(task, annotation, controls, reading, name, found))
            except BadRow as error:
                found.refuse(task.where, error)
    return found


def _task(where: str, value: Any, reading: Reading) -> _Task:
    if isinstance(value, BadRow):
        raise value
    if not isinstance(value, Mapping) or not isinstance(value.get("data"), Mapping):
        raise BadRow("no task with data and annotations: export as JSON (JSON-MIN leaves out who answered)")
    data = dict(value["data"])
    lists = _lists(data)
    prompt, completions = split_fields({k: v for k, v in data.items() if k not in lists}, reading)
    if lists:
        completions = next(iter(lists.values()))
    annotations = value.get("annotations", value.get("completions")) or []
    if not isinstance(annotations, list) or not all(isinstance(one, Mapping) for one in annotations):
        raise BadRow(f"annotations must be a list of objects, got {kind(annotations)}")
    number_ = value.get("id", value.get("inner_id"))
    name = str(data.get("id") or (f"label-studio:{number_}" if number_ is not None else ""))
    meta = value.get("meta")
    for annotation in annotations:
        listed(annotation.get("result"), "result of an annotation")
    info = {str(k): as_plain(v) for k, v in meta.items()} if isinstance(meta, Mapping) else {}
    return _Task(where, name, prompt, completions, info, annotations)


def _lists(data: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """{field: {id: text}} of the fields that hold what a List shows."""
    found: dict[str, dict[str, str]] = {}
    for name, value in data.items():
        if not (isinstance(value, list) and value and all(isinstance(i, Mapping) and "id" in i for i in value)):
            continue
        texts = {}
        for item in value:
            text = next((item[key] for key in _BODIES if isinstance(item.get(key), str)), None)
            if text is None:
                raise BadRow(f"{name}: item {item['id']!r} has no text under {', '.join(_BODIES)}")
            texts[str(item["id"])] = text
        found[name] = texts
    return found


def _controls(tasks: Sequence[_Task]) -> dict[str, Mode]:
    """What the tags of the project ask for, by their names: those that somebody has used."""
    found: dict[str, Mode] = {}
    for task in tasks:
        for annotation in task.annotations:
            for result in annotation.get("result") or []:
                if not isinstance(result, Mapping):
                    continue
                name, what = str(result.get("from_name") or ""), str(result.get("type") or "")
                if what == "choices":
                    found.setdefault(name, "thumbs" if len(task.completions) < 2 else "compare")
                elif what in _MODES and name.lower() not in COMMENT_NAMES:
                    found.setdefault(name, _MODES[what])
    return found


def _entries(
    task: _Task,
    annotation: Mapping[str, Any],
    controls: Mapping[str, Mode],
    reading: Reading,
    name: str,
    found: Found,
) -> list[Entry]:
    results = [r for r in annotation.get("result") or [] if isinstance(r, Mapping)]
    comment = ""
    judged: list[Judged]
    if annotation.get("was_cancelled") or annotation.get("skipped"):
        modes: list[Mode] = [_mode(mode, len(task.completions)) for mode in controls.values()]
        judged = [(mode, _texts(task, mode), Judgement(skipped="cancelled")) for mode in dict.fromkeys(modes)]
    else:
        judged, comment = _judged(task, results, controls, reading)
    if not judged:
        found.left_out["annotations without a result"] += 1
    lead = annotation.get("lead_time")
    return [
        Entry(
            where=task.where,
            prompt=task.prompt,
            completions=texts,
            mode=mode,
            judgement=judgement,
            annotator=_who(annotation.get("completed_by"), reading),
            id=task.id,
            source=name,
            info=task.info,
            seconds=0.0 if lead is None else max(0.0, number(lead, "lead_time")),
            comment=comment,
        )
        for mode, texts, judgement in judged
    ]


def _who(value: Any, reading: Reading) -> str:
    """completed_by is a number, or an object of the person."""
    if isinstance(value, Mapping):
        value = value.get("email") or value.get("username") or value.get("id")
    if value is None or isinstance(value, bool):
        return reading.annotator
    return value.strip() if isinstance(value, str) else f"label-studio:{value}"


def _mode(mode: Mode, num: int) -> Mode:
    return mode if mode not in ("rank", "compare") else "compare" if num == 2 else "rank"


def _texts(task: _Task, mode: Mode) -> tuple[str, ...]:
    texts = tuple(task.completions.values())
    return texts if mode != "write" or len(texts) == 1 else ()


def _judged(
    task: _Task, results: Sequence[Mapping[str, Any]], controls: Mapping[str, Mode], reading: Reading
) -> tuple[list[Judged], str]:
    """(what one annotation says, its comment). BadRow: it cannot be understood."""
    texts, labels = tuple(task.completions.values()), list(task.completions)
    found: list[Judged] = []
    ratings: defaultdict[str, dict[str, float]] = defaultdict(dict)
    spans: list[Span] = []
    comments: list[str] = []
    for result in results:
        what, control = str(result.get("type") or ""), str(result.get("from_name") or "")
        value = result.get("value")
        if control in reading.named("ignore"):
            continue
        if not isinstance(value, Mapping):
            raise BadRow(f"{control}: value must be an object, got {kind(value)}")
        if what in ("pairwise", "ranker", "choices"):
            found.append(_choice(task, what, control, value, result))
        elif what == "rating":
            ratings[str(_about(task, result, control))][control] = number(value.get("rating"), control)
        elif what == "textarea":
            written = value.get("text")
            text = "\n".join(map(str, written)) if isinstance(written, list) else str(written or "")
            if control.lower() in COMMENT_NAMES or control in reading.named("comment"):
                comments.append(text)
            else:
                found.append(("write", _texts(task, "write"), Judgement(text=text)))
        elif what in _SPANS:
            spans.extend(_spans(_about(task, result, control), what, control, value))
    if ratings:
        found.append(("rate", texts, Judgement(ratings=dict(ratings))))
    if labels and (spans or ("spans" in controls.values() and results)):
        found.append(("spans", texts, Judgement(spans=tuple(spans))))
    return found, " ".join(comments)


def _choice(task: _Task, what: str, control: str, value: Mapping[str, Any], result: Mapping[str, Any]) -> Judged:
    labels, texts = list(task.completions), tuple(task.completions.values())
    if what == "ranker":
        return _ranker(task, control, value.get("ranker"))
    if what == "pairwise":
        word = str(value.get("selected"))
        sides = _sides(task, result, control)
        if word not in ("left", "right"):
            raise BadRow(f"{control}: selected must be left or right, got {word[:40]!r}")
        own = tuple(task.completions[side] for side in sides)
        return "compare", own, Judgement(ranking=first_of(("left", "right").index(word), 2))
    chosen = value.get("choices")
    if not isinstance(chosen, list) or len(chosen) != 1:
        raise BadRow(f"{control}: choices must hold one choice, got {str(chosen)[:40]}")
    word = str(chosen[0]).strip()
    if len(texts) > 1:
        name = match(word, labels) or {"left": labels[0], "right": labels[-1]}.get(word.lower())
        if name is None and word.lower() not in TIE_WORDS:
            raise BadRow(f"{control}: {word[:40]!r} is none of {', '.join(labels)} nor a tie")
        ranking = tied(len(texts)) if name is None else first_of(labels.index(name), len(texts))
        return _mode("compare", len(texts)), texts, Judgement(ranking=ranking)
    is_good = thumb(word)
    if is_good is None or not texts:
        raise BadRow(f"{control}: {word[:40]!r} is neither good nor bad (--column ignore={control} leaves it out)")
    return "thumbs", texts, Judgement(thumbs={"0": is_good})


def _sides(task: _Task, result: Mapping[str, Any], control: str) -> list[str]:
    """The completions that stand left and right."""
    to_name = result.get("to_name")
    names = [str(n).strip() for n in (to_name if isinstance(to_name, list) else str(to_name or "").split(","))]
    known = [name for name in (match(n, task.completions) for n in names) if name is not None]
    sides = known if len(set(known)) == 2 else list(task.completions)
    if len(sides) != 2:
        raise BadRow(
            f"{control}: two texts are compared, and the task has {len(sides)} ({', '.join(sides) or 'none'}); name "
            "them with --column completions=FIELD"
        )
    return sides


def _ranker(task: _Task, control: str, value: Any) -> Judged:
    """A list of ids, best first, or buckets of them: the first bucket is the best, and shares a place."""
    labels, texts = list(task.completions), tuple(task.completions.values())
    if isinstance(value, Mapping):
        places = [listed(place, f"{control}.{name}") for name, place in value.items()]
    else:
        places = [[one] for one in listed(value, control)]
    named = [str(one) for place in places for one in place]
    unknown = [name for name in named if name not in labels]
    if unknown or not named:
        raise BadRow(f"{control}: ranks {unknown[0] if unknown else 'nothing'!r}; the items are {', '.join(labels)}")
    rest = [k for k, name in enumerate(labels) if name not in named]
    ranking = ranked([*([labels.index(str(one)) for one in place] for place in places), rest])
    return _mode("rank", len(texts)), texts, Judgement(ranking=ranking)


def _about(task: _Task, result: Mapping[str, Any], control: str) -> int:
    """The completion that a result is about: the only one, or the one that to_name names."""
    labels = list(task.completions)
    if len(labels) == 1:
        return 0
    name = match(str(result.get("to_name") or ""), labels)
    if name is None:
        raise BadRow(
            f"{control}: to_name {str(result.get('to_name'))[:40]!r} is none of the texts {', '.join(labels) or 'none'}"
        )
    return labels.index(name)


def _spans(completion: int, what: str, control: str, value: Mapping[str, Any]) -> list[Span]:
    places = value.get("globalOffsets") if isinstance(value.get("globalOffsets"), Mapping) else value
    assert isinstance(places, Mapping)
    try:
        first, end = int(places["start"]), int(places["end"])  # of hypertext without offsets these are paths
    except (KeyError, TypeError, ValueError):
        raise BadRow(f"{control}: a span needs start and end as numbers of characters, got {str(value)[:60]}") from None
    labels = listed(value.get(what), f"{control}.{what}") or ["toxic"]
    return [Span(completion=completion, first=first, end=end, label=str(label)) for label in labels]
