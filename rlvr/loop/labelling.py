"""From picked comparisons to labels: who answers, and the rows that reward models learn from."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr import plugins
from rlvr.errors import DataError, PluginError, SettingsError, Stopped, near, one_line
from rlvr.feedback.checks import name_problem
from rlvr.feedback.exports import Export, export_rows
from rlvr.feedback.records import Answer, Item, Judgement
from rlvr.feedback.store import Store
from rlvr.loop_settings import Labels
from rlvr.odds import sigmoid
from rlvr.seeds import rng_for
from rlvr.types import Prompt

Truth = Callable[[Prompt, str, Any], float]
"""What a completion (prompt, its text, the task's gold) is worth."""
GOLD = "task_gold"
"""In Item.info: the task's right answer. By the name `gold` the label page would take it for a known judgement."""
_PROBABILITY = "probability of the first: "
"""What the comment of a judge's answer begins with."""
_PARAMETERS = ("prompt", "answer", "gold", "round")


def truth(name: str, number: int) -> Truth:
    """The function of that name, for a round. PluginError where there is none, or it asks for something else."""
    function = plugins.load(name, what="truth")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise PluginError(f"truth {name!r}: cannot be called: {one_line(error)}") from None
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if unknown := [name for name in needed if name not in _PARAMETERS]:
        raise PluginError(
            f"truth {name!r}: its parameters must be out of {', '.join(_PARAMETERS)}, got {', '.join(unknown)}"
        )
    asked = [p.name for p in parameters if p.name in _PARAMETERS]

    def worth(prompt: Prompt, answer: str, gold: Any) -> float:
        given = {"prompt": prompt, "answer": answer, "gold": gold, "round": number}
        value = float(function(**{key: given[key] for key in asked}))
        if not math.isfinite(value):
            raise DataError(f"truth {name!r} says that {answer[:80]!r} is worth {value}; it must be a number")
        return value

    return worth


def source(number: int) -> str:
    """Item.source of a round's comparisons, by which they are found again."""
    return f"round-{number:03d}"


# --- asking ----------------------------------------------------------------------------------------------------------


def ask(settings: Labels, items: Sequence[Item], number: int, db: Path, file: Path, seed: int) -> None:
    """Have the items answered in the database. Stopped says how where people have to answer.

    file: the items as `rlvr label` takes them. Asking again changes nothing.
    """
    if settings.kind == "people":
        _wait_for_people(settings, items, db, file)
        return
    answers = (
        simulated(settings, items, number, seed) if settings.kind == "simulated" else judged(settings, items, db, seed)
    )
    with Store.open(db, create=True) as store:
        store.add(items, answers)


def _wait_for_people(settings: Labels, items: Sequence[Item], db: Path, file: Path) -> None:
    """Items go into the database where nobody holds it; a label server that runs has them from FILE."""
    is_new = not db.exists()
    if not is_new:
        with Store.open(db, readonly=True) as store:
            there = {item.id for item in store.items()}
        is_new = any(item.id not in there for item in items)
    if is_new:
        with Store.open(db, create=True) as store:
            store.add_items(items)
    if told := waiting(settings, items, db, file):
        raise Stopped(f"{told}, then give the same command again")


def waiting(settings: Labels, items: Sequence[Item], db: Path, file: Path) -> str:
    """How many comparisons have their answers, and how the others are labelled; "" where enough have. DataError: no
    database of ours."""
    with Store.open(db, readonly=True) as store:
        given = Counter(answer.item for answer in store.answers() if answer.showing == 0)
    done = sum(given[item.id] >= settings.votes for item in items)
    if done >= math.ceil(settings.enough * len(items)):
        return ""
    per_item = f" --per-item {settings.votes}" if settings.votes > 1 else ""
    return (
        f"{done} of {len(items)} comparisons have {settings.votes} answer{'s' * (settings.votes > 1)} each; label them "
        f"with `rlvr label {file} --db {db}{per_item}`"
    )


def simulated(settings: Labels, items: Sequence[Item], number: int, seed: int) -> list[Answer]:
    """What the crowd says in a round: each item is answered by settings.votes of its people. SettingsError where one
    of them is no Person."""
    from rlvr.feedback import crowd

    name = settings.truth_of(number)
    assert name is not None
    worth = truth(name, number)

    def utility(item: Item, index: int) -> float:
        return worth(item.prompt, item.completions[index], item.info.get(GOLD))

    return crowd.answer(people(settings), items, utility, per_item=settings.votes, seed=seed, round=number)


def people(settings: Labels) -> list[Any]:
    """The simulated crowd. SettingsError."""
    from rlvr.feedback.crowd import Person

    known = list(Person.__dataclass_fields__)
    found: list[Any] = []
    for k, given in enumerate(settings.crowd):
        if unknown := [name for name in given if name not in known]:
            hint = near(unknown[0], known)
            raise SettingsError(f"labels.crowd.{k}: no such setting {unknown[0]!r}; {hint}known: {', '.join(known)}")
        found.append(Person(**{"name": f"person {k}", **given}))
    return found


def judged(settings: Labels, items: Sequence[Item], db: Path, seed: int) -> list[Answer]:
    """What the judge says, with the probability in the comment; what it could not tell is a skip. What was paid for is
    kept beside the database. SettingsError, DataError where it cannot be asked."""
    from rlvr.judging.cases import Case
    from rlvr.judging.judge import Judge
    from rlvr.judging.labelling import annotator, opinions

    cases = [
        Case(id=item.id, prompt=item.prompt, completions=item.completions, reference=_reference(item)) for item in items
    ]
    cache = db.with_name(f".{db.name}.judged")
    assert settings.judge is not None
    judge = Judge(settings.judge, seed, cache, setting="labels.judge.")
    found: list[Answer] = []
    try:
        who = annotator(judge)
        if problem := name_problem(who):
            raise DataError(f"labels.judge: the annotator {who!r} {problem}")
        for opinion in opinions(judge, cases, seed, lambda done, of: None):
            p = opinion.compared.probability
            if p is None:
                judgement = Judgement(skipped=(opinion.compared.problem or "no opinion")[:300])
            else:
                p = p if opinion.a == 0 else 1 - p
                judgement = Judgement(ranking=((0, 1),) if p == 0.5 else ((0,), (1,)) if p > 0.5 else ((1,), (0,)))
            comment = "" if p is None else f"{_PROBABILITY}{p!r}"
            found.append(
                Answer(item=opinion.case.id, annotator=who, judgement=judgement, comment=comment, source="judge")
            )
    finally:
        judge.close()
    if found and all(answer.judgement.skipped is not None for answer in found):
        raise DataError(f"the judge has an opinion of none of {len(found)} comparisons: {found[0].judgement.skipped}")
    return found


def _reference(item: Item) -> str | None:
    gold = item.info.get(GOLD)
    return None if gold is None else str(gold)


def chosen(settings: Labels, items: Sequence[Item], db: Path) -> dict[str, float]:
    """By item: the probability that its first completion is the better one. Items that all skipped are left out."""
    wanted = {item.id: item for item in items}
    with Store.open(db, readonly=True) as store:
        answers = [answer for answer in store.answers() if answer.item in wanted]
    exported = export_rows(items, answers, Export(labels=settings.aggregate), lambda name: name, {})
    found: dict[str, float] = {}
    for row in exported.rows:
        is_first = text_of(row["chosen"]) == wanted[row["id"]].completions[0]
        found[row["id"]] = row["probability"] if is_first else 1 - row["probability"]
    return found | _told(answers)


def _told(answers: Sequence[Answer]) -> dict[str, float]:
    """By item that nobody but a judge answered: its probability that the first completion is the better one."""
    of_judges: dict[str, list[float]] = {}
    of_people: set[str] = set()
    for answer in answers:
        if answer.source == "judge" and answer.comment.startswith(_PROBABILITY):
            of_judges.setdefault(answer.item, []).append(float(answer.comment.removeprefix(_PROBABILITY)))
        elif answer.judgement.skipped is None:
            of_people.add(answer.item)
    return {item: math.fsum(told) / len(told) for item, told in of_judges.items() if item not in of_people}


# --- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """What all answers so far say."""

    rows: list[dict[str, Any]]
    """To train on: columns of docs/PREFERENCES.md, and round and weight, in (0, 1]."""
    held_out: list[dict[str, Any]]
    """The same, to measure on."""
    event: int
    """Number of the database's last event of which this is made."""
    head: str
    """Its hash, with which whatever came before it can be proven."""


def labelled(settings: Labels, db: Path, number: int, refused: Collection[int]) -> Labelled:
    """The labels of all rounds up to `number` that count; refused: rounds whose policy was refused."""
    with Store.open(db, readonly=True) as store:
        of_round = {source(n): n for n in rounds_that_count(settings, number, refused)}
        items = {item.id: item for item in store.items() if item.source in of_round}
        event, head = store.head()
        while True:  # people may be answering
            answers = [answer for answer in store.answers() if answer.item in items]
            before, (event, head) = event, store.head()
            if event == before:
                break
        groups = store.groups()
    exported = export_rows(items.values(), answers, Export(labels=settings.aggregate), lambda name: name, groups)
    told = _told(answers)
    trained: list[dict[str, Any]] = []
    held_out: list[dict[str, Any]] = []
    for row in exported.rows:
        item = items[row["id"]]
        if item.id in told:
            row = _with_probability(row, item, told[item.id])
        at = of_round[item.source]
        kept = {name: value for name, value in row.items() if name not in ("annotators", "agreement")}
        kept |= {"round": at, "weight": settings.decay ** (number - at) if settings.keep == "decay" else 1.0}
        kept |= _true_probability(settings, item, row, number)
        (held_out if item.info.get("held_out") else trained).append(kept)
    return Labelled(rows=trained, held_out=held_out, event=event, head=head)


def _with_probability(row: dict[str, Any], item: Item, first: float) -> dict[str, Any]:
    """A row with the judge's probability in place of its one vote."""
    kept = {name: value for name, value in row.items() if name != "votes"}
    best, worst = (0, 1) if first >= 0.5 else (1, 0)
    is_as_it_was = text_of(row["chosen"]) == item.completions[best]
    chosen, rejected = (row["chosen"], row["rejected"]) if is_as_it_was else (row["rejected"], row["chosen"])
    assert text_of(rejected) == item.completions[worst]
    return kept | {"chosen": chosen, "rejected": rejected, "probability": max(first, 1 - first)}


def rounds_that_count(settings: Labels, number: int, refused: Collection[int]) -> list[int]:
    """Rounds whose labels are learnt from in round `number`, which is one of them."""
    first = max(1, number - settings.window + 1) if settings.keep == "last" else 1
    dropped = refused if settings.of_refused == "drop" else ()
    return [n for n in range(first, number + 1) if n not in dropped]


def _true_probability(settings: Labels, item: Item, row: Mapping[str, Any], number: int) -> dict[str, float]:
    """That an unbiased person prefers `chosen`, by what people think in round `number`; {} where nobody knows."""
    name = settings.truth_of(number)
    if name is None:
        return {}
    worth = truth(name, number)
    gold = item.info.get(GOLD)
    difference = worth(item.prompt, text_of(row["chosen"]), gold) - worth(item.prompt, text_of(row["rejected"]), gold)
    return {"true_probability": sigmoid(difference)}


def text_of(side: Any) -> str:
    """A completion's text, where exports write messages too."""
    return side if isinstance(side, str) else side[-1]["content"]


def draw(rows: Sequence[Mapping[str, Any]], *, bootstrap: bool, seed: int) -> list[dict[str, Any]]:
    """The rows that one member of an ensemble learns from.

    bootstrap: as many as their weights add up to, with replacement, each as often as it weighs; else each with the
    probability that it weighs. At least one.
    """
    rng = rng_for(seed, "loop", "draw")
    weights = [float(row["weight"]) for row in rows]
    if bootstrap:
        picked = rng.choices(range(len(rows)), weights, k=max(1, round(math.fsum(weights))))
    else:
        picked = [k for k, weight in enumerate(weights) if rng.random() < weight] or [len(rows) - 1]
    times: Counter[int] = Counter()
    found: list[dict[str, Any]] = []
    for k in picked:
        times[k] += 1
        found.append({**rows[k], **({"id": f"{rows[k]['id']}#{times[k]}"} if times[k] > 1 else {})})
    return found
