"""Statistics of people's answers against arithmetic by hand and crowds whose faults were planted."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr import agreement
from rlvr.evaluate import wilson
from rlvr.feedback import crowd, habits
from rlvr.feedback.crowd import Person
from rlvr.feedback.records import Answer, Item, Judgement, Ranking, Span
from rlvr.feedback.statistics import report, statistics
from rlvr.feedback.votes import comparisons, gather
from rlvr.seeds import rng_for

FIRST, SECOND, TIED = ((0,), (1,)), ((1,), (0,)), ((0, 1),)


def pair(name: str, **fields: Any) -> Item:
    return Item(id=name, prompt="p", completions=("one", "two"), **fields)


def ranked(item: str, annotator: str, ranking: Ranking, **fields: Any) -> Answer:
    return Answer(item=item, annotator=annotator, judgement=Judgement(ranking=ranking), **fields)


def told(item: str, annotator: str, **judgement: Any) -> Answer:
    return Answer(item=item, annotator=annotator, judgement=Judgement(**judgement))


def person(found: dict[str, Any], name: str) -> dict[str, Any]:
    (row,) = [row for row in found["people"] if row["name"] == name]
    return row


def world(num: int, seed: int = 0, size: int = 2, every_gold: int = 0) -> list[Item]:
    """Items of known utilities, each every_gold-th with its true order as gold."""
    found = []
    for k in range(num):
        rng = rng_for(seed, "world", k)
        utility = [rng.gauss(0, 1) for _ in range(size)]
        order = tuple((j,) for j in sorted(range(size), key=lambda j, utility=utility: -utility[j]))
        found.append(
            Item(
                id=f"q{k}",
                prompt="what is asked here " * 5,
                completions=tuple(f"answer {j} " * 25 for j in range(size)),
                mode="compare" if size == 2 else "rank",
                gold=Judgement(ranking=order) if every_gold and k % every_gold == 0 else None,
                source="ab"[k % 2],
                info={"utility": utility},
            )
        )
    return found


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_a_small_set_by_hand() -> None:
    items = [pair("a"), pair("b", source="s"), pair("c"), pair("d", mode="thumbs")]
    answers = [
        ranked("a", "ann", FIRST, seconds=4.0),
        ranked("a", "bob", FIRST, seconds=2.0),
        ranked("b", "ann", FIRST, seconds=3.0),
        ranked("b", "bob", SECOND, seconds=1.0),
        ranked("c", "ann", TIED, seconds=5.0),
        told("c", "bob", skipped="both bad"),
        ranked("a", "ann", SECOND, showing=1, seconds=5.0),
        told("d", "ann", thumbs={"0": True, "1": False}),
        told("gone", "eve", skipped="?"),
    ]
    found = statistics(items, answers)
    assert found["progress"] == {
        "items": 4, "gold_items": 0, "answered": 4, "answers": 6, "repeats": 1, "skips": 1, "unknown": 1, "people": 2,
        "answers_per_item": 6 / 4, "hours": 20 / 3600,
    }  # fmt: skip
    assert found["modes"]["compare"] == {
        "items": 3, "answered": 3, "answers": 5, "skips": 1, "median_seconds": 3.0,
    }  # fmt: skip
    assert found["modes"]["thumbs"]["median_seconds"] is None
    assert found["skips"] == {"both bad": 1}
    ann, bob = found["people"]
    assert (ann["name"], ann["answers"], bob["answers"], bob["skips"]) == ("ann", 4, 2, {"both bad": 1})
    assert ann["agreement"] == {"value": 0.5, "n": 2}
    assert ann["repeats"] == {"n": 1, "value": 1.0, "reversed": 1.0} | dict(
        zip(("low", "high"), wilson(1.0, 1), strict=True)
    )
    assert ann["median_seconds"] == 4.0
    # with each pair turned round as well: of 4 + 4 votes half say 0, observed 2 of 8, expected 2 * 4 * 4 / (8 * 7)
    (alpha,) = [row for row in found["alpha"] if row["by"] == "mode" and row["name"] == "compare"]
    assert alpha["alpha"] == pytest.approx(1 - (4 / 8) / (32 / 56))
    assert (alpha["items"], alpha["answers"], alpha["what"], alpha["level"]) == (2, 4, "comparisons", "nominal")
    assert [row["item"] for row in found["disputed"]] == ["b"]
    assert found["disputed"][0]["dispute"] == pytest.approx(1.0)  # one for each, of two who are as reliable
    assert found["disputed"][0]["votes"] == [
        {"completions": [0, 1], "first": 1, "second": 1, "tie": 0, "probability": pytest.approx(0.5)}
    ]
    assert found["groups"]["advice"] == "nobody has a group"


def test_a_ranking_votes_on_each_of_its_pairs() -> None:
    gold = Judgement(ranking=((2,), (0, 1)))
    item = Item(id="k", prompt="p", completions=("x", "y", "z"), mode="rank", gold=gold)
    votes = comparisons(gather([item, pair("a")], [ranked("k", "ann", ((1,), (2,), (0,))), ranked("a", "bob", TIED)]))
    assert votes.sides_N2.tolist() == [[0, 1], [0, 1], [0, 2], [1, 2]]  # "a" before "k"
    assert votes.item_N.tolist() == [0, 1, 1, 1]
    told = {int(q): (int(p), int(label)) for q, p, label in zip(votes.question_V, votes.person_V, votes.label_V)}  # noqa: B905
    assert told == {0: (1, 2), 1: (0, 1), 2: (0, 1), 3: (0, 0)}
    assert votes.gold_N.tolist() == [-1, 2, 1, 1]


def test_the_first_answer_votes_and_the_latest_of_one_showing_counts() -> None:
    answers = [
        ranked("a", "ann", FIRST),
        ranked("a", "ann", SECOND),  # the same showing again: it replaces
        ranked("a", "ann", TIED, showing=1),
        told("b", "ann", skipped="later"),
        ranked("b", "ann", FIRST, showing=1),
    ]
    gathered = gather([pair("a"), pair("b")], answers)
    assert [a.judgement.ranking for *_, a in gathered.firsts] == [SECOND, FIRST]
    assert [(a.judgement.ranking, b.judgement.ranking) for *_, a, b in gathered.repeats] == [(SECOND, TIED)]
    assert len(gathered.skipped) == 1


GOLD = Item(id="g", prompt="p", completions=("abcdef", "xyz"), mode="spans")


@pytest.mark.parametrize(
    ("gold", "judged", "expected"),
    [
        ({"ranking": FIRST}, {"ranking": FIRST}, 1.0),
        ({"ranking": FIRST}, {"ranking": TIED}, 0.0),
        ({"ranking": TIED}, {"ranking": TIED}, 1.0),
        ({"ranking": ((0,), (1,), (2,))}, {"ranking": ((0,), (2,), (1,))}, 2 / 3),
        ({"ranking": FIRST}, {"thumbs": {"0": True}}, None),
        ({"thumbs": {"0": True, "1": False}}, {"thumbs": {"0": True, "1": True}}, 0.5),
        ({"thumbs": {"0": True, "1": False}}, {"thumbs": {"0": True}}, 0.5),
        (
            {"ratings": {"0": {"safe": 6, "kind": 2}}},
            {"ratings": {"0": {"safe": 7, "kind": 4}}},
            0.5,
        ),
        ({"ratings": {"0": {"safe": 6}}}, {"ratings": {}}, 0.0),
        # 4 characters marked, 3 are right, of 5 that should be: F1 = 6 / 9
        (
            {"spans": (Span(completion=0, first=1, end=4), Span(completion=1, first=0, end=2))},
            {"spans": (Span(completion=0, first=2, end=6), Span(completion=1, first=0, end=1))},
            6 / 10,
        ),
        ({"spans": ()}, {"spans": ()}, 1.0),
        ({"spans": ()}, {"spans": (Span(completion=0, first=0, end=1),)}, 0.0),
        ({"text": "a demonstration"}, {"text": "another"}, None),
    ],
)
def test_gold_gives_part_of_a_point_for_part_of_an_answer(gold: Any, judged: Any, expected: float | None) -> None:
    found = habits.score(Judgement(**judged), Judgement(**gold), GOLD)
    assert found == (None if expected is None else pytest.approx(expected))


def test_accuracy_on_gold_has_wilsons_interval() -> None:
    items = [pair(f"q{k}", gold=Judgement(ranking=FIRST)) for k in range(10)]
    found = statistics(items, [ranked(f"q{k}", "ann", SECOND if k < 3 else FIRST) for k in range(10)])
    low, high = wilson(0.7, 10)
    assert person(found, "ann")["gold"] == {"n": 10, "value": pytest.approx(0.7), "low": low, "high": high}


def test_of_a_repeated_ranking_its_pairs_are_compared() -> None:
    item = Item(id="k", prompt="p", completions=("x", "y", "z"), mode="rank")
    answers = [ranked("k", "ann", ((0,), (1,), (2,))), ranked("k", "ann", ((1,), (0, 2)), showing=1)]
    # 0-1 reversed, 0-2 became a tie, 1-2 stayed
    found = person(statistics([item], answers), "ann")["repeats"]
    assert (found["n"], found["value"], found["reversed"]) == (1, pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_ratings_have_an_alpha_for_each_attribute_and_an_offset_for_each_person() -> None:
    rng = np.random.default_rng(0)
    table = np.clip(rng.integers(1, 8, size=(30, 1)) + rng.integers(-1, 2, size=(30, 3)) + [0, 0, 1], 1, 7)
    items = [Item(id=f"q{k}", prompt="p", completions=("a", "b"), mode="rate") for k in range(15)]
    answers = [
        told(f"q{k}", f"p{a}", ratings={str(c): {"safe": float(table[2 * k + c, a])} for c in (0, 1)})
        for k in range(15)
        for a in range(3)
    ]
    found = statistics(items, answers)
    (row,) = [row for row in found["alpha"] if row["by"] == "attribute"]
    item_V, _, value_V = agreement.long_form(table)
    assert row["alpha"] == pytest.approx(agreement.krippendorff_alpha(item_V, value_V, level="ordinal"))
    assert (row["name"], row["what"], row["items"], row["answers"]) == ("safe", "ratings: safe", 30, 90)
    own = person(found, "p2")["ratings"]
    others = table[:, :2].mean(axis=1)
    assert own["n"] == 30 and own["offset"] == pytest.approx((table[:, 2] - others).mean())
    assert own["correlation"] == pytest.approx(np.corrcoef(table[:, 2], others)[0, 1])
    most = found["disputed"][0]["votes"][0]
    assert most["attribute"] == "safe" and most["ratings"] == sorted(most["ratings"])


def test_marked_characters_agree_character_by_character() -> None:
    texts = ("abcdefghij", "klmno")
    items = [Item(id=f"s{k}", prompt="p", completions=texts, mode="spans") for k in range(4)]
    rng = np.random.default_rng(0)
    answers, table = [], []
    for item in items:
        marks = {}
        for name in ("ann", "bob", "eve"):
            first = [int(rng.integers(0, 5)) for _ in texts]
            spans = tuple(Span(completion=c, first=at, end=at + 1 + c) for c, at in enumerate(first))
            spans += (Span(completion=0, first=first[0], end=8),)  # overlapping
            answers.append(told(item.id, name, spans=spans))
            marks[name] = [
                float(any(s.completion == c and s.first <= at < s.end for s in spans))
                for c, text in enumerate(texts) for at in range(len(text))
            ]  # fmt: skip
        table += np.array(list(marks.values())).T.tolist()
    item_V, _, value_V = agreement.long_form(table)
    expected = agreement.krippendorff_alpha(item_V, value_V, level="nominal")
    (row,) = statistics(items, answers)["alpha"]
    assert (row["alpha"], row["what"]) == (pytest.approx(expected), "marked characters")


def test_concordance_is_of_items_that_two_ranked() -> None:
    items = [Item(id=f"k{k}", prompt="p", completions=("x", "y", "z"), mode="rank") for k in range(2)]
    answers = [ranked("k0", "ann", ((0,), (1,), (2,))), ranked("k0", "bob", ((0,), (2,), (1,)))]
    answers += [ranked("k1", "ann", ((0,), (1,), (2,)))]
    found = statistics(items, answers)["modes"]["rank"]
    assert found["kendall_w"] == pytest.approx(agreement.kendall_w([[1, 2, 3], [1, 3, 2]]))
    assert found["kendall_w_items"] == 1


# --- time ------------------------------------------------------------------------------------------------------------


def timed(seconds: Sequence[float], name: str, length: int = 750) -> tuple[list[Item], list[Answer]]:
    texts = ("x" * (length // 2 - 1), "y" * (length - length // 2))
    items = [Item(id=f"q{k}", prompt="p", completions=texts) for k in range(len(seconds))]
    return items, [ranked(f"q{k}", name, FIRST, seconds=value) for k, value in enumerate(seconds)]


def hurried(items: list[Item], answers: list[Answer]) -> dict[str, int]:
    return {row["name"]: row["too_fast"]["num"] for row in statistics(items, answers)["people"] if row["too_fast"]}


def test_who_clicks_through_is_too_fast() -> None:
    # 750 characters are read in 10 s at 75 a second; the others take 20 s
    items, slow = timed([20.0] * 20, "ann")
    fast = timed([4.0] * 10 + [6.0] * 10, "bob")[1]
    found = statistics(items, slow + fast)
    assert {row["name"]: row["too_fast"] for row in found["people"]} == {
        "ann": {"n": 20, "num": 0, "value": 0.0},
        "bob": {"n": 20, "num": 10, "value": 0.5},  # 4 < 20 / 4, 6 is not
    }
    assert person(found, "bob")["flags"] == ["too fast"]


def test_a_skilled_crowd_is_not_too_fast() -> None:
    items, answers = timed([5.0] * 20, "ann")
    assert hurried(items, answers + timed([4.0] * 20, "bob")[1]) == {"ann": 0, "bob": 0}


def test_careful_first_then_hasty_is_found_by_the_own_pace() -> None:
    assert hurried(*timed([20.0] * 30 + [2.0] * 10, "ann")) == {"ann": 10}


def test_short_texts_are_answered_fast_but_not_at_once() -> None:
    items, answers = timed([1.0] * 10 + [0.5] * 10, "ann", length=6)
    assert hurried(items, answers) == {"ann": 0}
    assert hurried(items, [replace(one, seconds=0.2) for one in answers]) == {"ann": 20}


def test_judges_and_imports_without_a_time_are_not_timed() -> None:
    items, answers = timed([0.01] * 20, "judge")
    assert hurried(items, [replace(one, source="judge") for one in answers]) == {}
    assert hurried(items, [replace(one, seconds=0.0, source="import") for one in answers]) == {}


@pytest.mark.parametrize("num_people", [1, 2, 3, 6, 7])
def test_the_pace_is_the_slower_of_the_own_and_the_others(num_people: int) -> None:
    rng = np.random.default_rng(num_people)
    paces = {(mode, p): list(rng.random(1 + p % 3)) for mode in ("rate", "rank") for p in range(num_people)}
    paces["rate", 0] = paces["rate", num_people - 1]  # two of the same
    for (mode, p), pace in habits._usual(paces).items():
        others = [median(own) for (other, q), own in paces.items() if other == mode and q != p]
        assert pace == pytest.approx(max(median(paces[mode, p]), median(others) if others else 0.0))


def test_each_persons_pace_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    items, _ = timed([20.0] * 3, "")
    answers = [replace(one, annotator=f"p{k}") for k in range(50) for one in timed([20.0] * 3, "")[1]]
    calls = list[int]()
    monkeypatch.setattr(habits, "median", lambda own: calls.append(1) or median(own))
    assert len(habits.too_fast(gather(items, answers))) == 50
    assert len(calls) == 50


# --- planted ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_planted_faults_are_found_and_nobody_else_is_blamed(seed: int) -> None:
    people = [
        Person(name="good", reliability=0.9),
        Person(name="fair", reliability=0.8),
        Person(name="also fair", reliability=0.78),
        Person(name="reverse", reliability=0.15),
        Person(name="coin", reliability=0.5),
        Person(name="left", reliability=0.75, position_bias=1.5),
        Person(name="hasty", reliability=0.85, speed=1500.0),
    ]
    items = world(600, seed, every_gold=10)
    found = statistics(items, crowd.answer(people, items, per_item=5, seed=seed, repeats=0.1), seed=seed)
    flags = {row["name"]: row["flags"] for row in found["people"]}
    assert flags["good"] == flags["fair"] == flags["also fair"] == []
    assert {"says the reverse", "wrong on gold"} <= set(flags["reverse"])
    assert {"near chance", "wrong on gold"} <= set(flags["coin"])
    assert "prefers the first" in flags["left"]
    assert flags["hasty"] == ["too fast"]
    for one in people[:5]:
        reliability = person(found, one.name)["reliability"]
        assert reliability["low"] - 0.02 <= one.reliability <= reliability["high"] + 0.02
        assert person(found, one.name)["gold"]["value"] == pytest.approx(one.reliability, abs=0.2)
    flips = person(found, "coin")["repeats"]
    assert flips["low"] <= 0.5 <= flips["high"]


def test_an_adversary_disputes_nothing() -> None:
    items = world(300)
    answers = crowd.answer(crowd.people((1.0, 1.0, 0.0)), items, per_item=3, seed=0)
    found = statistics(items, answers)
    assert max(row["dispute"] for row in found["disputed"]) < 0.2
    assert person(found, "person 2")["flags"] == ["says the reverse"]
    even = crowd.answer(crowd.people((0.8, 0.8)), items, per_item=2, seed=0)
    assert statistics(items, even)["disputed"][0]["dispute"] > 0.9


def two_audiences(opposed: float, sizes: tuple[int, int] = (6, 6)) -> tuple[list[Item], list[Answer]]:
    """Two groups, the second of which wants the reverse on a share of the items."""
    items = world(300)
    turned = {item.id for k, item in enumerate(items) if k < opposed * len(items)}

    def theirs(item: Item, k: int) -> float:
        return crowd.known_utility(item, k) * (-1 if item.id in turned else 1)

    people = [
        Person(name=f"{group}{k}", reliability=0.85, group=group)
        for group, size in zip("xy", sizes, strict=True)
        for k in range(size)
    ]
    wants = {"x": crowd.known_utility, "y": theirs}
    return items, crowd.answer(people, items, wants, per_item=sum(sizes), seed=1)


def test_groups_that_want_different_things_are_found() -> None:
    items, answers = two_audiences(0.3)
    found = statistics(items, answers)
    groups = found["groups"]
    assert groups["people"] == {"x": 6, "y": 6}
    whole = next(row for row in groups["rows"] if not row["source"])
    assert whole["differs"] and whole["p"] < 0.01
    assert whole["correlation"] == pytest.approx(0.4, abs=0.1)  # agree on 70 %, oppose on 30 %
    assert whole["within"]["x"] == pytest.approx(0.49, abs=0.06)  # (2 * 0.85 - 1)^2
    assert groups["advice"].startswith("groups want different things")
    assert {row["source"] for row in groups["rows"]} == {"", "a", "b"}
    assert len(groups["items"]) == 20
    assert sum(int(row["item"][1:]) < 90 for row in groups["items"]) >= 18  # the turned ones, and what chance adds
    assert report(found).count("Groups (x 6, y 6)") == 1


def test_who_is_in_no_group_takes_no_room_among_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    items, answers = two_audiences(0.3)
    more = [replace(one, annotator=f"a{k}", group="") for k in range(20) for one in answers if one.annotator == "x0"]
    alone = statistics(items, answers)["groups"]
    sizes, products = list[int](), agreement.products

    def counting(*args: Any) -> Any:
        sizes.append(args[3])
        return products(*args)

    monkeypatch.setattr(agreement, "products", counting)
    found = statistics(items, answers + more)["groups"]
    assert found["rows"] == alone["rows"]
    assert set(sizes) == {12}


def test_a_minority_is_measured_by_its_own() -> None:
    items, answers = two_audiences(1.0, sizes=(6, 3))
    found = statistics(items, answers)
    assert found["reliability_within"] == "group"
    for row in found["people"]:
        assert row["reliability"]["value"] == pytest.approx(0.85, abs=0.06)
        assert row["flags"] == []
    same = statistics(*two_audiences(0.0, sizes=(6, 3)))
    assert same["reliability_within"] == "all"
    assert same["groups"]["advice"] == "no difference found: one reward model is enough"


def test_groups_may_differ_in_one_attribute_alone() -> None:
    # both want safe answers; what is funny to the one group is not to the other, who rates a point higher throughout
    rng = np.random.default_rng(0)
    items = [Item(id=f"q{k}", prompt="p", completions=("a", "b"), mode="rate") for k in range(60)]
    truth = rng.normal(size=(60, 2, 2))
    answers = []
    for name in [f"{group}{k}" for group in "xy" for k in range(5)]:
        sign, more = (1, 0) if name[0] == "x" else (-1, 1)
        for k, item in enumerate(items):
            ratings = {
                str(c): {
                    "safe": float(np.clip(round(4 + more + truth[k, c, 0] + rng.normal() / 2), 1, 7)),
                    "funny": float(np.clip(round(4 + more + sign * truth[k, c, 1] + rng.normal() / 2), 1, 7)),
                }
                for c in (0, 1)
            }
            answers.append(replace(told(item.id, name, ratings=ratings), group=name[0]))
    rows = {row["what"]: row for row in statistics(items, answers)["groups"]["rows"]}
    assert not rows["ratings: safe"]["differs"] and rows["ratings: safe"]["correlation"] > 0.95
    assert rows["ratings: funny"]["differs"] and rows["ratings: funny"]["correlation"] < -0.9
    assert rows["ratings: funny"]["within"]["x"] > 0.5


def test_too_few_people_tell_nothing_of_groups() -> None:
    found = statistics(*two_audiences(0.5, sizes=(2, 2)))
    assert found["groups"]["advice"] == "not known: too few people to tell groups from persons"
    found = statistics(*two_audiences(0.5, sizes=(3, 1)))
    assert found["groups"]["advice"].startswith("not known: groups of two people and more")
    items, answers = two_audiences(0.5, sizes=(2, 2))
    everyone = {one.annotator: "x" for one in answers}
    assert statistics(items, answers, groups=everyone)["groups"]["advice"] == "all are of one group"


# --- whatever comes --------------------------------------------------------------------------------------------------


def turned(items: list[Item], answers: list[Answer], seed: int) -> tuple[list[Item], list[Answer]]:
    """The same, with the completions of each item stored in another order."""
    order = {
        item.id: rng_for(seed, item.id).sample(range(len(item.completions)), len(item.completions)) for item in items
    }
    place = {item: {old: new for new, old in enumerate(olds)} for item, olds in order.items()}

    def judgement(item: str, given: Judgement | None) -> Judgement | None:
        if given is None or given.ranking is None:
            return given
        return replace(given, ranking=tuple(tuple(place[item][k] for k in tied) for tied in given.ranking))

    return [
        replace(
            item,
            completions=tuple(item.completions[k] for k in order[item.id]),
            gold=judgement(item.id, item.gold),
        )
        for item in items
    ], [
        replace(one, judgement=judgement(one.item, one.judgement), shown=tuple(place[one.item][k] for k in one.shown))
        for one in answers
    ]


def near(found: Any) -> Any:
    """What it is compared with may differ by 2e-6: sums in another order differ in their last digits, and the steps
    that end Dawid and Skene's with them."""
    if isinstance(found, dict):
        return {key: near(value) for key, value in found.items()}
    if isinstance(found, list):
        return [near(value) for value in found]
    return pytest.approx(found, abs=2e-6, rel=0, nan_ok=True) if isinstance(found, float) else found


@given(st.integers(0, 10_000), st.sampled_from([2, 3]), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=15)
def test_no_order_matters(seed: int, size: int, random: Any) -> None:
    people = [Person(name=f"p{k}", reliability=r, tie_width=0.3, skip_rate=0.1) for k, r in enumerate((0.9, 0.7, 0.3))]
    items = world(12, seed, size, every_gold=4)
    answers = crowd.answer(people, items, per_item=2, seed=seed, repeats=0.3)
    found = statistics(items, answers)
    shuffled = statistics(random.sample(items, len(items)), random.sample(answers, len(answers)))
    assert shuffled == near(found)
    other = statistics(*turned(items, answers, seed))
    kept = ("progress", "modes", "alpha", "people", "skips")
    assert {key: other[key] for key in kept} == near({key: found[key] for key in kept})
    of_item = {row["item"]: near(row["dispute"]) for row in found["disputed"]}
    assert {row["item"]: row["dispute"] for row in other["disputed"]} == of_item


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [ranked(f"q{k}", "ann", FIRST) for k in range(3)],
        [ranked(f"q{k}", name, TIED) for k in range(3) for name in ("ann", "bob")],
        [told(f"q{k}", name, skipped="no idea") for k in range(3) for name in ("ann", "bob")],
        [ranked(f"q{k}", name, FIRST) for k in range(3) for name in ("ann", "bob")],
        [told("q0", "ann", ratings={"0": {"safe": 3.0}}), told("q0", "bob", text="demo"), told("q1", "bob", spans=())],
    ],
    ids=["none", "one person", "all ties", "all skipped", "all agree", "other modes"],
)
def test_little_is_reported_as_little(answers: list[Answer]) -> None:
    for items in (
        [],
        [pair(f"q{k}") for k in range(3)],
        [pair(f"q{k}", gold=Judgement(ranking=FIRST)) for k in range(3)],
    ):
        found = statistics(items, answers)
        json.dumps(found, allow_nan=False)
        assert report(found).startswith(f"{found['progress']['answered']} of {len(items)} items answered")
    assert math.isfinite(found["progress"]["answers_per_item"])


def test_nothing_is_said_of_whom_nobody_can_be_compared_with() -> None:
    # each answered an item of their own, so all that is known of them is what everybody is taken for
    alone = statistics([pair("a"), pair("b")], [ranked("a", "ann", FIRST), ranked("b", "bob", SECOND)])
    assert [row["reliability"] for row in alone["people"]] == [None, None] and alone["disputed"] == []
    ties = statistics([pair("a")], [ranked("a", name, TIED) for name in ("ann", "bob")])
    assert [row["reliability"] for row in ties["people"]] == [None, None] and ties["disputed"] == []
    gold = statistics([pair("a", gold=Judgement(ranking=FIRST))], [ranked("a", "ann", FIRST)])
    assert 0.7 < gold["people"][0]["reliability"]["value"] < 0.9  # 1.4 of 2 taken for granted, and 1 of 1
    both = statistics([pair("a")], [ranked("a", name, FIRST) for name in ("ann", "bob")])
    assert all(row["reliability"]["n"] == 1 for row in both["people"])


@pytest.mark.parametrize("num", [4, 5])
def test_shares_of_hurry_and_of_the_first_are_told_from_five_answers_on(num: int) -> None:
    items = [pair(f"q{k}") for k in range(num)]
    answers = [ranked(item.id, "ann", FIRST, seconds=0.1, shown=(0, 1)) for item in items]
    found = statistics(items, answers)
    (line,) = [line for line in report(found).splitlines() if line.startswith("  ann ")]
    fast = "1.00  too fast" if num == 5 else "-"
    assert line.split("0.1")[-1].strip() == fast, "the flag and the figure start at the same number"
    assert ("-" if num < 5 else "+2.20") in line.split("0.1")[0].split()[-1]
    assert found["people"][0]["too_fast"]["value"] == 1.0


def test_many_people_who_answered_once_have_intervals_within_0_and_1() -> None:
    items = world(10, every_gold=2)
    people = [Person(name=f"p{k}", reliability=0.5 + k / 100) for k in range(50)]
    found = statistics(items, crowd.answer(people, items, per_item=12, seed=0, repeats=0.3))
    shares = [row[key] for row in found["people"] for key in ("reliability", "gold", "repeats") if row[key]]
    assert len(shares) > 100 and all(0 <= s["low"] <= s["value"] <= s["high"] <= 1 for s in shares)
    assert not {"nan", "inf", "-0.00"} & set(report(found).split())


def test_the_report_fits_a_screen_and_shows_no_control_characters() -> None:
    items = [replace(item, id=f"\x1b[2J{item.id}\n" + "x" * 500) for item in world(200, every_gold=10)]
    people = [Person(name=f"\x07bell {k}" + "y" * 300, reliability=0.7 + k / 100) for k in range(25)]
    found = statistics(items, crowd.answer(people, items, per_item=4, seed=0, repeats=0.1))
    text = report(found)
    assert len(text.splitlines()) <= 60
    assert max(map(len, text.splitlines())) <= 160
    assert all(sign.isprintable() or sign == "\n" for sign in text)
    assert "... and 5 more" in text and "Krippendorff's alpha" in text and "Disputed items" in text
