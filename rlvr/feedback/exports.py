"""What people answered as rows to train on, with TRL's columns: comparisons, rankings, labels, ratings, demonstrations.

The columns are those of https://huggingface.co/docs/trl/dataset_formats and of docs/PREFERENCES.md, so that `rlvr
reward-model`, `rlvr dpo`, `rlvr sft` and TRL's trainers read them as they are; the writing is in export_files.py.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from rlvr.errors import DataError, SettingsError
from rlvr.feedback.export_labels import Asked, Choice, Labels, Question, agreement, compared, places, probabilities
from rlvr.feedback.names import Names
from rlvr.feedback.records import Answer, Item, Mode
from rlvr.types import Prompt, plain_prompt

if TYPE_CHECKING:
    from rlvr.feedback.store import Store

Form = Literal["preference", "unpaired", "ranking", "sft", "ratings", "raw"]
FORMS: tuple[Form, ...] = get_args(Form)
Row = dict[str, Any]

MADE_FROM: dict[Form, tuple[Mode, ...]] = {
    "preference": ("compare", "rank", "write"),
    "unpaired": ("thumbs",),
    "ranking": ("compare", "rank"),
    "sft": ("write",),
    "ratings": ("rate", "compare", "rank", "thumbs", "write", "spans"),
    "raw": ("rate", "compare", "rank", "thumbs", "write", "spans"),
}
"""The modes of the items that a form takes rows from; ratings may stand beside any mode."""
_SAME = 1e-9
"""Sums of probabilities that differ by less share a place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What is exported, and how several people's answers become one label. Export(form="preference", min_votes=3)"""

    form: Form = "preference"
    labels: Labels = "votes"
    """votes: the share of the votes, a tie as half a vote for each side; majority: what most said, for sure (as many
    for either is a tie); dawid_skene: what they say weighed by how reliable each proves to be, which is estimated from
    all answers (of each group for itself)."""
    min_votes: int = 1
    """Rows that fewer people answered are left out."""
    without: tuple[str, ...] = ()
    """People whose answers do not count, by name or by hash."""
    by_group: bool = False
    """A row for each group of people that answered, with a column `group`, in place of one for all."""
    keeps_ties: bool = True
    with_gold: bool = True
    """Items with a known answer are exported too: by what people said, of dawid_skene by the known answer. Where they
    are left out they still tell who is reliable."""
    with_info: bool = False
    """A column with the item's further columns (model, checkpoint, rollout) as JSON text."""


@dataclass(slots=True)
class Exported:
    """Rows in the order of the items, and what became of the rest."""

    rows: list[Row]
    left_out: Counter[str] = field(default_factory=Counter)
    """How many for each reason in REASONS, and "other_mode"."""
    num_ties: int = 0
    num_items: int = 0
    num_answers: int = 0
    as_messages: int = 0
    """Plain prompts that were written as a user's message, because others are messages."""
    other_modes: Counter[Mode] = field(default_factory=Counter)
    """Of the items that are left out for their mode."""
    doubts: list[tuple[float, float]] = field(default_factory=list)
    """Question.doubt, of the labels that rest on little."""


REASONS = {
    "without": "answers of the people in --without",
    "unanswered": "items nobody answered",
    "skipped": "items that all who saw them skipped",
    "few_votes": "rows with fewer votes than --min-votes",
    "ties": "ties (--ties keep keeps them)",
    "same_text": "rows whose texts are the same, or one empty",
    "no_prompt": "rows without a prompt",
    "no_order": "rankings that put all completions in one place",
    "gold": "items with a known answer",
}


def export(store: Store, settings: Export) -> Exported:
    """The rows of a database. DataError: nobody of a name in `without`."""
    answers, names = store.answers(), store.annotators()
    return export_rows(store.items(), answers, settings, store.annotator_hash, store.groups(), names)


def export_rows(
    items: Iterable[Item],
    answers: Iterable[Answer],
    settings: Export,
    hashed: Callable[[str], str],
    groups: Mapping[str, str],
    names: Iterable[str] = (),
) -> Exported:
    """hashed: what stands for an annotator's name, wherever it is a word of what is written: in ids, sources, groups,
    comments and further columns; what was asked and answered is left as it is. groups: by annotator, where the answers
    do not say. names: of people, beside those who answered. SettingsError: labels that there are none of in this form.
    """
    if settings.labels == "dawid_skene" and settings.form not in ("preference", "unpaired", "ranking"):
        raise SettingsError(f"--labels dawid_skene goes with preference, unpaired and ranking, not {settings.form}")
    standing = list(answers)
    left_out = _without(standing, settings.without, hashed)
    nameless = Names([*names, *groups, *(answer.annotator for answer in standing)], hashed)
    groups = {name: nameless.value(group) for name, group in groups.items()}
    standing = [replace(answer, group=nameless.value(answer.group)) for answer in standing]
    if settings.with_info:
        items = [replace(item, info=nameless.value(item.info)) for item in items]
    kept = [answer for answer in standing if answer.annotator not in left_out]
    found = Exported([], num_answers=len(kept))
    if len(kept) < len(standing):
        found.left_out["without"] = len(standing) - len(kept)
    if settings.form == "raw":
        _raw(list(items), kept, settings, found, nameless, groups)
        _finish(found, nameless)
        return found
    of_item: defaultdict[str, list[Answer]] = defaultdict(list)
    for answer in kept:
        of_item[answer.item].append(answer)
    asked: list[Asked] = []
    for item in items:
        found.num_items += 1
        reason = _why_not(item, of_item[item.id], settings)
        if reason is not None:
            found.left_out[reason] += 1
        if reason == "other_mode":
            found.other_modes[item.mode] += 1
        if reason is None or (reason == "gold" and settings.labels == "dawid_skene"):  # it tells who is reliable
            asked.extend(_asked(item, of_item[item.id], settings.by_group, groups))
    making = {"preference": _preferences, "unpaired": _unpaired, "ranking": _rankings, "sft": _demonstrations}
    making.get(settings.form, _ratings)(asked, settings, found, hashed)
    _finish(found, nameless)
    return found


def _without(answers: Sequence[Answer], names: Sequence[str], hashed: Callable[[str], str]) -> set[str]:
    known = {answer.annotator for answer in answers}
    by_hash = {hashed(name): name for name in known} if names else {}
    for name in names:
        if name not in known and name not in by_hash:
            raise DataError(f"--without {name}: no answer is by somebody of this name or hash")
        if name in known and name in by_hash:
            other = "give the hash of the one, or the name of the other"
            raise DataError(f"--without {name}: is the name of one and the hash of another; {other}")
    return {by_hash.get(name, name) for name in names}


def _why_not(item: Item, answers: Sequence[Answer], settings: Export) -> str | None:
    """Why an item gives no row, whoever answered what."""
    if item.mode not in MADE_FROM[settings.form] or (settings.form == "ratings" and not _is_rated(item)):
        return "other_mode"
    if settings.form == "preference" and item.mode == "write" and not item.completions:
        return "other_mode"
    if item.gold is not None and not settings.with_gold:
        return "gold"
    if not answers:
        return "unanswered"
    return "skipped" if all(answer.judgement.skipped is not None for answer in answers) else None


def _is_rated(item: Item) -> bool:
    return item.mode == "rate" or bool(item.attributes)


def _asked(item: Item, answers: Sequence[Answer], by_group: bool, groups: Mapping[str, str]) -> list[Asked]:
    """Of each annotator the first answer that is not a skip; in groups, in the order of the first answers."""
    first: dict[str, Answer] = {}
    for answer in sorted(answers, key=lambda answer: answer.showing):
        if answer.judgement.skipped is None:
            first.setdefault(answer.annotator, answer)
    split: defaultdict[str, list[Answer]] = defaultdict(list)
    for answer in answers:  # in the order of their events
        if first.get(answer.annotator) is answer:
            split[(groups.get(answer.annotator) or answer.group) if by_group else ""].append(answer)
    return [Asked(item, own, group or None) for group, own in split.items()]


# --- forms -----------------------------------------------------------------------------------------------------------


def _preferences(asked: Sequence[Asked], settings: Export, found: Exported, hashed: Callable[[str], str]) -> None:
    """Rows {prompt, chosen, rejected}: of each two completions of an item; of a draft with what it was edited to."""
    questions = compared(asked)
    told = dict(zip(map(id, questions), probabilities(questions, settings.labels), strict=True))
    by_item: defaultdict[int, list[Question]] = defaultdict(list)
    for question in questions:
        by_item[id(question.asked)].append(question)
    for one in _wanted(asked, settings):
        for question in by_item[id(one)]:
            _preference(question, told[id(question)], settings, found, hashed)
        if one.item.mode == "write":
            _edits(one, settings, found, hashed)


def _preference(
    question: Question, probability: float, settings: Export, found: Exported, hashed: Callable[[str], str]
) -> None:
    one, item = question.asked, question.asked.item
    for_first, tie, for_second = question.count()
    chosen, rejected, num_chosen, num_rejected = question.first, question.second, for_first, for_second
    if probability < 0.5:
        chosen, rejected, num_chosen, num_rejected = rejected, chosen, num_rejected, num_chosen
        probability = 1 - probability
    row = _head(one, "" if len(item.completions) == 2 else f"/{question.first}-{question.second}")
    row |= {
        "chosen": item.completions[chosen],
        "rejected": item.completions[rejected],
        _votes_column(settings): {"chosen": num_chosen, "rejected": num_rejected, "tie": tie},
        "probability": probability,
        "agreement": agreement(question.votes.values()),
        **_tail(one, question.votes, settings, hashed),
    }
    texts = (row["chosen"].strip(), row["rejected"].strip())
    found.doubts += [question.doubt] if question.doubt is not None else []
    _add(row, len(question.votes), settings, found, is_tie=probability == 0.5, is_empty=_is_same(texts))


def _wanted(asked: Sequence[Asked], settings: Export) -> list[Asked]:
    """Those that rows are made of: without the items that were let through for who is reliable alone."""
    return [one for one in asked if settings.with_gold or one.item.gold is None]


def _edits(one: Asked, settings: Export, found: Exported, hashed: Callable[[str], str]) -> None:
    draft = one.item.completions[0] if one.item.completions else None
    if draft is None:
        return
    for k, (text, authors) in enumerate(_texts(one).items()):
        row = _head(one, f"/{k}")
        row |= {
            "chosen": text,
            "rejected": draft,
            _votes_column(settings): {"chosen": len(authors), "rejected": 0, "tie": 0},
            "probability": 1.0,
            "agreement": agreement("edit" for _ in authors),
            **_tail(one, authors, settings, hashed),
        }
        _add(row, len(authors), settings, found, is_empty=_is_same((text.strip(), draft.strip())))


def _is_same(texts: Sequence[str]) -> bool:
    """Whether nothing can be learnt from texts: two are the same, or one is empty."""
    return len(set(texts)) < len(texts) or not all(texts)


def _rankings(asked: Sequence[Asked], settings: Export, found: Exported, hashed: Callable[[str], str]) -> None:
    """Rows {prompt, completions, ranks}: a completion's points are the sum of the probabilities that it is better than
    each of the others. Of votes that is Borda's order, of majorities Copeland's."""
    questions = compared(asked)
    told = dict(zip(map(id, questions), probabilities(questions, settings.labels), strict=True))
    by_item: defaultdict[int, list[Question]] = defaultdict(list)
    for question in questions:
        by_item[id(question.asked)].append(question)
    for one in _wanted(asked, settings):
        own = by_item[id(one)]
        if not own:
            continue
        points = [0.0] * len(one.item.completions)
        for question in own:
            points[question.first] += told[id(question)]
            points[question.second] += 1 - told[id(question)]
            found.doubts += [question.doubt] if question.doubt is not None else []
        ranks = [1 + sum(other > mine + _SAME for other in points) for mine in points]
        voters = {answer.annotator: answer for answer in one.answers if answer.judgement.ranking is not None}
        order = sorted(voters, key=hashed)
        known = [value for value in (agreement(question.votes.values()) for question in own) if value is not None]
        row = _head(one, "")
        row |= {
            "completions": list(one.item.completions),
            "ranks": ranks,
            _votes_column(settings): [places(voters[name].judgement) for name in order],
            "agreement": math.fsum(known) / len(known) if known else None,
            **_tail(one, order, settings, hashed),
        }
        if len(set(ranks)) == 1:
            found.left_out["no_order"] += 1
            continue
        has_ties = len(set(ranks)) < len(ranks)
        is_empty = _is_same([text.strip() for text in one.item.completions])
        _add(row, len(voters), settings, found, is_tie=has_ties, is_empty=is_empty)


def _unpaired(asked: Sequence[Asked], settings: Export, found: Exported, hashed: Callable[[str], str]) -> None:
    """Rows {prompt, completion, label}; probability: that the label is right."""
    questions = []
    for one in asked:
        for k in range(len(one.item.completions)):
            thumbs = {a.annotator: a.judgement.thumbs[str(k)] for a in one.answers if str(k) in a.judgement.thumbs}
            if thumbs:
                votes: dict[str, Choice] = {name: "first" if is_good else "second" for name, is_good in thumbs.items()}
                questions.append(Question(one, k, k, votes))
    for question, good in zip(questions, probabilities(questions, settings.labels), strict=True):
        one, (up, _, down) = question.asked, question.count()
        if not _wanted([one], settings):
            continue
        row = _head(one, "" if len(one.item.completions) == 1 else f"/{question.first}")
        row |= {
            "completion": one.item.completions[question.first],
            "label": good >= 0.5,
            _votes_column(settings): {"up": up, "down": down},
            "probability": max(good, 1 - good),
            "agreement": agreement(question.votes.values()),
            **_tail(one, question.votes, settings, hashed),
        }
        found.doubts += [question.doubt] if question.doubt is not None else []
        is_empty = not row["completion"].strip()
        _add(row, len(question.votes), settings, found, is_tie=good == 0.5, is_empty=is_empty)


def _ratings(asked: Sequence[Asked], settings: Export, found: Exported, hashed: Callable[[str], str]) -> None:
    """Rows {prompt, completion, scores}: the mean of each attribute over those who rated it, of majority the median."""
    names = sorted({name for one in asked for a in one.answers for of in a.judgement.ratings.values() for name in of})
    for one in asked:
        for k, text in enumerate(one.item.completions):
            rated = {a.annotator: a.judgement.ratings[str(k)] for a in one.answers if str(k) in a.judgement.ratings}
            if not rated:
                continue
            given = {name: [of[name] for of in rated.values() if name in of] for name in names}
            row = _head(one, "" if len(one.item.completions) == 1 else f"/{k}")
            row |= {
                "completion": text,
                "scores": {name: _middle(numbers, settings.labels) for name, numbers in given.items()},
                "deviation": {name: _deviation(numbers) for name, numbers in given.items()},
                "num_ratings": {name: len(numbers) for name, numbers in given.items()},
                **_tail(one, rated, settings, hashed),
            }
            _add(row, len(rated), settings, found, is_empty=not text.strip())


def _middle(numbers: Sequence[float], labels: Labels) -> float | None:
    if not numbers:
        return None
    if labels == "votes":
        return math.fsum(numbers) / len(numbers)
    ordered, half = sorted(numbers), len(numbers) // 2
    return float(ordered[half]) if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _deviation(numbers: Sequence[float]) -> float | None:
    """Of these people's numbers, over n; None of fewer than two."""
    if len(numbers) < 2:
        return None
    mean = math.fsum(numbers) / len(numbers)
    return math.sqrt(math.fsum((number - mean) ** 2 for number in numbers) / len(numbers))


def _demonstrations(asked: Sequence[Asked], settings: Export, found: Exported, hashed: Callable[[str], str]) -> None:
    """Rows {prompt, completion}, one for each text that was written."""
    for one in asked:
        for k, (text, authors) in enumerate(_texts(one).items()):
            row = _head(one, f"/{k}") | {"completion": text, **_tail(one, authors, settings, hashed)}
            _add(row, len(authors), settings, found, is_empty=not text.strip())


def _texts(one: Asked) -> dict[str, list[str]]:
    """Who wrote a text, by text, in the order of the answers."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for answer in one.answers:
        if answer.judgement.text is not None:
            found[answer.judgement.text].append(answer.annotator)
    return dict(found)


def _raw(
    items: Sequence[Item],
    answers: Sequence[Answer],
    settings: Export,
    found: Exported,
    nameless: Names,
    groups: Mapping[str, str],
) -> None:
    """A row for every answer that stands, repeats and skips among them."""
    found.num_items = len(items)
    by_id = {item.id: item for item in items}
    for number, answer in enumerate(answers):
        item = by_id[answer.item]
        judgement = {name: value for name, value in asdict(answer.judgement).items() if value not in (None, {}, ())}
        if answer.judgement.spans == ():  # nothing is to be marked, which is an answer
            judgement["spans"] = []
        if answer.judgement.skipped is not None:
            judgement["skipped"] = nameless.text(answer.judgement.skipped)
        if answer.judgement.skipped is None and settings.with_gold is False and item.gold is not None:
            found.left_out["gold"] += 1
            continue
        found.rows.append(
            {
                "id": f"{item.id}#{number}",
                "item": item.id,
                "mode": item.mode,
                "prompt": plain_prompt(item.prompt),
                "completions": list(item.completions),
                "annotator": nameless.hashed(answer.annotator),
                "group": groups.get(answer.annotator) or answer.group or None,
                "showing": answer.showing,
                "shown": list(answer.shown),
                "judgement": json.dumps(judgement),
                "seconds": answer.seconds,
                "at": answer.at,
                "comment": answer.comment,
                "answered_by": answer.source,
                "source": item.source,
                **({"info": json.dumps(dict(item.info), sort_keys=True)} if settings.with_info else {}),
            }
        )


# --- rows ------------------------------------------------------------------------------------------------------------


def _head(one: Asked, part: str) -> Row:
    prompt: Prompt = one.item.prompt
    group = f"@{one.group}" if one.group else ""
    return {"id": f"{one.item.id}{part}{group}", "prompt": plain_prompt(prompt)}


def _votes_column(settings: Export) -> str:
    """What people say and what is concluded from it may differ: `votes` beside a label must not."""
    return "votes" if settings.labels == "votes" else "vote_counts"


def _tail(one: Asked, voters: Iterable[str], settings: Export, hashed: Callable[[str], str]) -> Row:
    row: Row = {"annotators": sorted(hashed(name) for name in voters)}
    if settings.by_group:
        row["group"] = one.group
    row["source"] = one.item.source
    if settings.with_info:
        row["info"] = json.dumps(dict(one.item.info), sort_keys=True)
    return row


def _add(
    row: Row, num_votes: int, settings: Export, found: Exported, *, is_tie: bool = False, is_empty: bool = False
) -> None:
    """Keep a row, or count why not."""
    prompt = row["prompt"]
    if not (prompt.strip() if isinstance(prompt, str) else prompt):
        found.left_out["no_prompt"] += 1
    elif num_votes < settings.min_votes:
        found.left_out["few_votes"] += 1
    elif is_empty:
        found.left_out["same_text"] += 1
    elif is_tie and not settings.keeps_ties:
        found.left_out["ties"] += 1
    else:
        found.num_ties += is_tie
        found.rows.append(row)


_NAMELESS = ("id", "item", "source", "comment")
"""Columns of text in which a name may stand, beside the group and the reason of a skip. Prompts, completions and what
was written are data to train on, and attributes and labels are words of the task."""


def _finish(found: Exported, nameless: Names) -> None:
    for row in found.rows:
        row |= {name: nameless.text(row[name]) for name in _NAMELESS if row.get(name)}
    _name_apart(found.rows)
    _as_messages(found)


def _name_apart(rows: Sequence[Row]) -> None:
    """Items may be called as rows of others are ("q/0-1"): a later row of the same id gets a number."""
    taken: set[str] = set()
    for row in rows:
        name, number = row["id"], 2
        while row["id"] in taken:
            row["id"], number = f"{name}~{number}", number + 1
        taken.add(row["id"])


def _as_messages(found: Exported) -> None:
    """One type in each column: where some prompts are messages all become so, and what answers them too."""
    if all(isinstance(row["prompt"], str) for row in found.rows):
        return
    for row in found.rows:
        if isinstance(row["prompt"], str):
            row["prompt"] = [{"role": "user", "content": row["prompt"]}]
            found.as_messages += 1
        for name in ("chosen", "rejected", "completion"):
            if name in row:
                row[name] = [{"role": "assistant", "content": row[name]}]
