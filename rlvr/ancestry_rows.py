"""Rows of the data that something was trained on: how many, which is which, which are near a text, who voted."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr import lineage, preferences, rows, tasks
from rlvr.errors import DataError, SettingsError, near, short
from rlvr.reward_settings import Data, PreferenceData, Rows

_MOST_ROWS = 200_000
"""Of a file that are looked through."""
_NUM_NEAREST = 3
LEAST_LIKE = 0.05
"""Similarity of rows that are worth telling."""
_TEXTS = (
    "prompt",
    "question",
    "problem",
    "query",
    "instruction",
    "chosen",
    "rejected",
    "completion",
    "response",
    "text",
)
_LONGEST_VALUE = 100
"""Characters of a count or a number of a row that are shown as they are."""
_WORD = re.compile(r"[^\W_]+")
Fields = Mapping[str, Any]


def describe_data(
    files: Sequence[str],
    section: Fields,
    stage: str | None,
    databases: Sequence[Path] = (),
    left_out: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """num_rows, num_bad, first_bad as a run of `stage` reads them; votes and databases where rows have votes.

    left_out: rows that the run read and then did not train on, {id: why}; neither they nor bad rows have votes here.
    """
    found: dict[str, Any] = {"left_out": dict(left_out)} if left_out else {}
    if not files:
        return found
    kinds = preference_kinds(stage)
    settings = _settings(files, section, PreferenceData if kinds else Data)
    trained: frozenset[str] | None = None
    if settings is not None:
        try:
            loaded = _loaded(settings, stage)
            trained = with_parents(row.id for row in loaded.rows if row.id not in (left_out or {}))
            found |= {"num_rows": len(loaded.rows), "num_bad": loaded.num_bad}
            found |= {"first_bad": loaded.bad[0]} if loaded.bad else {}
        except (DataError, SettingsError):  # it cannot be read as that run did: only counted
            found["num_rows"] = sum(1 for _ in raw_rows(files))
    num_rows = num_votes = 0
    people: set[str] = set()
    for name, row in raw_rows(files):
        if trained is not None and name not in trained:
            continue
        votes, annotators = votes_of(row), annotators_of(row)
        num_rows += bool(votes or annotators)
        num_votes += votes or len(annotators)
        people.update(annotators)
    if num_rows:
        found["votes"] = {"rows": num_rows, "votes": num_votes, "annotators": len(people)}
    told = [_database(path, anchor) for path, anchor in _databases(files, databases)]
    return found | ({"databases": told} if told else {})


def preference_kinds(stage: str | None) -> bool:
    """Whether runs of this stage learn from comparisons, rankings or ratings."""
    return stage in ("reward_model", "dpo")


def raw_rows(files: Sequence[str]) -> Iterator[tuple[str, Fields]]:
    """(id or "FILE:17", columns) of each row that can be read at all."""
    for file in files:
        try:
            found = rows.read_rows(Rows(path=file), "data")
            for row in itertools.islice(found, _MOST_ROWS):
                if isinstance(row.fields, Mapping):
                    own = row.fields.get("id")
                    has_id = isinstance(own, str | int) and own != ""
                    yield str(own) if has_id else f"{row.name}:{row.number}", row.fields
        except DataError:
            continue


def find(files: Sequence[str], row_id: str) -> tuple[str, int, Fields] | None:
    """(file, number, columns) of the row with this id, "NAME:17" or "NAME.jsonl:17"; also of the row that "ID/2" or
    "ID/chosen" was made from. None where there is none."""
    wanted = [row_id, row_id.rpartition("/")[0]] if "/" in row_id else [row_id]
    for name in wanted:
        for file in files:
            for row in itertools.islice(rows.read_rows(Rows(path=file), "data"), _MOST_ROWS):
                if not isinstance(row.fields, Mapping):
                    continue
                if name in (str(row.fields.get("id", "")), f"{row.name}:{row.number}", row.where):
                    return file, row.number, row.fields
    return None


def nearest(
    files: Sequence[str], text: str, num: int = _NUM_NEAREST, known_ids: frozenset[str] | None = None
) -> list[dict[str, Any]]:
    """The rows whose words are most like those of a text: {id, similarity, told, votes}, most like first.

    similarity: cosine of tf-idf over words, in [0, 1]. It says what the model has seen of this kind, not what moved it.
    known_ids: only rows of these; rows below LEAST_LIKE are none.
    """
    everything = [one for one in raw_rows(files) if known_ids is None or one[0] in known_ids]
    bags = [Counter(words_of(row)) for _, row in everything]
    known = Counter(word for bag in bags for word in set(bag))
    wanted = _weighed(Counter(w.lower() for w in _WORD.findall(text)), known, len(bags))
    scored: list[tuple[float, int]] = []
    for k, bag in enumerate(bags):
        similarity = _cosine(wanted, _weighed(bag, known, len(bags)))
        if similarity >= LEAST_LIKE:
            scored.append((-similarity, k))
    found: dict[tuple[str, ...], dict[str, Any]] = {}  # by texts: a draw with replacement has rows twice
    for negative, k in sorted(scored):
        row_id, row = everything[k]
        one = {"id": row_id, "similarity": -negative, "told": told(row), "votes": row.get("votes")}
        found.setdefault(tuple(_texts(row)), one)
        if len(found) == num:
            break
    return list(found.values())


def _weighed(bag: Counter[str], known: Counter[str], num: int) -> dict[str, float]:
    return {word: count * math.log((1 + num) / known[word]) for word, count in bag.items() if known[word]}


def _cosine(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    product = sum(weight * b.get(word, 0.0) for word, weight in a.items())
    size = math.sqrt(sum(w * w for w in a.values())) * math.sqrt(sum(w * w for w in b.values()))
    return product / size if size else 0.0


def words_of(row: Fields) -> list[str]:
    """The words of a row's texts, in lower case."""
    return [word.lower() for text in _texts(row) for word in _WORD.findall(text)]


def _texts(row: Fields) -> Iterator[str]:
    for name in (*_TEXTS, "completions", "responses", "messages"):
        yield from _strings(row.get(name))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _strings(one)
    elif isinstance(value, Mapping):
        yield from _strings(value.get("content") or value.get("text"))


def told(row: Fields) -> str:
    """A row on one line."""
    parts = []
    for name in ("prompt", "question", "chosen", "rejected", "completion", "completions"):
        if row.get(name) is not None:
            parts.append(f"{name} {short(' '.join(_strings(row[name])))}")
    for name in ("label", "ranks", "votes", "vote_counts", "probability", "score_chosen", "score_rejected"):
        value = rows.parsed(row.get(name))
        if value is not None:
            text = f"{value:.4g}" if isinstance(value, float) else json.dumps(value, default=str)
            parts.append(f"{name} {text if len(text) <= _LONGEST_VALUE else short(text)}")
    return "; ".join(parts) or short(json.dumps(row, default=str))


def judged(row: Fields) -> str:
    """Which judge a row of `rlvr judge` is by, and what it said of each order; "" of any other row."""
    judge = rows.parsed(row.get("judge"))
    if not isinstance(judge, Mapping) or "name" not in judge:
        return ""
    method = f", {judge['method']}" if judge.get("method") else ""
    parts = [f"by judge {judge['name']} {judge.get('version', '')}".rstrip() + method]
    if judge.get("criterion"):
        parts.append(f"criterion {short(str(judge['criterion']))}")
    if _is_number(judge.get("logit")):
        parts.append(f"log odds of the chosen one {judge['logit']:+.4g}")
    orders, first = judge.get("orders"), judge.get("first")
    if isinstance(orders, list | tuple) and orders:
        places = first if isinstance(first, list | tuple) and len(first) == len(orders) else [None] * len(orders)
        names = {True: "shown first", False: "shown second", None: "of an order"}
        told_orders = [
            f"{names[place]} {f'{z:+.4g}' if _is_number(z) else 'abstained'}"
            for place, z in zip(places, orders, strict=True)
        ]
        parts.append(", ".join(told_orders) + (" (they name different winners)" if judge.get("flipped") else ""))
    return "; ".join(parts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- votes -----------------------------------------------------------------------------------------------------------


def votes_of(row: Fields) -> int:
    """How many votes a row is made of; 0 where it does not say."""
    votes = rows.parsed(row.get("votes", row.get("vote_counts")))
    if isinstance(votes, Mapping):
        return sum(n for n in votes.values() if isinstance(n, int) and not isinstance(n, bool))
    return len(votes) if isinstance(votes, list | tuple) else 0


def annotators_of(row: Fields) -> list[str]:
    """Hashes of the people who voted."""
    found = rows.parsed(row.get("annotators"))
    return [str(one) for one in found] if isinstance(found, list | tuple) else []


def answers_behind(row_id: str, database: Path) -> list[dict[str, Any]]:
    """Every event of the item that a row was made from: {event, hash, kind, annotator, source, showing, at, judgement,
    comment}.

    annotator: the keyed hash; of a judge, which is nobody, its name, with its hash as `hashed`, and comment is what it
    said of its choice (else ""). [] where the database has no such item. DataError: no database of ours.
    """
    from rlvr.feedback.names import Names
    from rlvr.feedback.store import Store

    with Store.open(database, readonly=True) as store:
        nameless = Names(store.annotators(), store.annotator_hash)  # as exports write them
        known = {name: item.id for item in store.items() for name in (nameless.text(item.id), item.id)}
        item = next((known[name] for name in _item_names(row_id) if name in known), None)
        if item is None:
            return []
        return [
            {
                "event": event.sequence,
                "hash": event.hash,
                "kind": event.kind,
                **_author(event, store),
                "group": event.body.get("group", ""),
                "showing": event.showing,
                "seconds": event.seconds,
                "at": event.at,
                "judgement": event.body.get("judgement"),
            }
            for event in store.events()
            if event.item == item and event.kind != "item"
        ]


def _author(event: Any, store: Any) -> dict[str, str]:
    source = str(event.body.get("source", ""))
    if source == "judge":
        hashed = {"hashed": store.annotator_hash(event.annotator)}
        return {"annotator": event.annotator, "source": source, "comment": str(event.body.get("comment", "")), **hashed}
    return {
        "annotator": store.annotator_hash(event.annotator) if event.annotator else "",
        "source": source,
        "comment": "",
    }


def _item_names(row_id: str) -> Iterator[str]:
    """Of the items that a row of this id may be of: "q1/0-1@nurses" is of q1."""
    names = [row_id, row_id.rpartition("@")[0], row_id.rpartition("/")[0]]
    names.append(names[1].rpartition("/")[0])
    yield from dict.fromkeys(name for name in names if name)


def databases_of(files: Iterable[str], more: Sequence[Path] = ()) -> list[Path]:
    """Those that data files were exported from, as the record beside each says, and `more`."""
    return [path for path, _ in _databases(files, more)]


def _databases(files: Iterable[str], more: Sequence[Path]) -> list[tuple[Path, Mapping[str, Any] | None]]:
    found: dict[Path, Mapping[str, Any] | None] = {}
    for file in files:
        record = lineage.origin_of(Path(file))
        for one in (record or {}).get("inputs", []):
            if one.get("kind") == "database":
                found[Path(one["path"])] = one
    for path in more:
        found.setdefault(path.absolute(), None)
    return list(found.items())


def _database(path: Path, anchor: Mapping[str, Any] | None) -> dict[str, Any]:
    """{path, events, problems} of a database of labels."""
    from rlvr.feedback.store import Store

    try:
        with Store.open(path, readonly=True) as store:
            problems = store.check_chain()
            number, _ = store.head()
            event = None if anchor is None else anchor.get("event")
            found = store.hash_of(event) if isinstance(event, int) else None
            if anchor is not None and event and found != anchor.get("hash"):
                problems.append(f"event {event} is not the one that the data were exported at")
            return {"path": str(path), "events": number, "problems": problems}
    except DataError as error:
        return {"path": str(path), "events": 0, "problems": [str(error)]}


# --- reading as the run did ------------------------------------------------------------------------------------------


def _settings(files: Sequence[str], section: Fields, kind: type[Data] | type[PreferenceData]) -> Any:
    """The run's own data section with the path where the data are now; None where it is none."""
    place = files[0] if len(files) == 1 else str(Path(files[0]).parent)
    try:
        return kind.model_validate({**section, "path": place, "on_bad_row": "skip", "source": "file"})
    except ValueError:
        return None


def _loaded(settings: Any, stage: str | None) -> tasks.Loaded[Any]:
    if preference_kinds(stage):
        return preferences.LOADERS[preferences.kind_of(settings)](settings)
    return tasks.load_tasks(settings) if stage in ("rl", "eval") else tasks.load_demonstrations(settings)


def ids_read(files: Sequence[str], section: Fields, stage: str | None) -> frozenset[str] | None:
    """Ids of the rows that a run of this stage could use, also without what a reading adds ("q1/2" is of q1); None
    where that cannot be told."""
    settings = _settings(files, section, PreferenceData if preference_kinds(stage) else Data)
    if settings is None:
        return None
    try:
        ids = [row.id for row in _loaded(settings, stage).rows]
    except (DataError, SettingsError):
        return None
    return with_parents(ids)


def with_parents(ids: Iterable[str]) -> frozenset[str]:
    """Ids, also without what a reading adds: "q1/2" is of q1."""
    return frozenset(name for each in ids for name in (each, each.rpartition("/")[0]) if name)


def missing(files: Sequence[str], row_id: str) -> str:
    """What to say of an id that no row has."""
    ids = [name for name, _ in raw_rows(files)]
    return f"no row {short(row_id)} in {', '.join(files)}; {hint(row_id, ids)}"


def hint(row_id: str, ids: Sequence[str]) -> str:
    """What may have been meant by an id that no row has: the rows that were made of it, else the nearest."""
    made_of_it = [name for name in ids if name.startswith((f"{row_id}/", f"{row_id}@"))]
    if made_of_it:
        more = f" and {len(made_of_it) - 5} more" if len(made_of_it) > 5 else ""
        return f"rows of it: {', '.join(made_of_it[:5])}{more}"
    return near(row_id, ids[:10_000]) + (f"such as {ids[0]!r}" if ids else "there are none")
