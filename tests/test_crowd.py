"""The simulated crowd against closed forms, within exact binomial bounds."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import pytest
from scipy import stats

from rlvr.errors import DataError, SettingsError
from rlvr.feedback.crowd import Person, answer, known_utility, people
from rlvr.feedback.records import ATTRIBUTES, Answer, Item

NUM = 4000


def items(utilities: Sequence[float], num: int = NUM, **fields: Any) -> list[Item]:
    texts = tuple(f"text {k}" for k in range(len(utilities)))
    fields = {"mode": "compare" if len(texts) == 2 else "rank"} | fields
    return [Item(id=f"q{k}", prompt="p", completions=texts, info={"utility": utilities}, **fields) for k in range(num)]


def answers(person: Person, utilities: Sequence[float], num: int = NUM, seed: int = 0, **fields: Any) -> list[Answer]:
    return answer([person], items(utilities, num, **fields), per_item=1, seed=seed)


def within(count: int, num: int, chance: float) -> bool:
    """A binomial of that chance goes beyond one time in a million."""
    return bool(stats.binom.ppf(5e-7, num, chance) <= count <= stats.binom.ppf(1 - 5e-7, num, chance))


def sigmoid(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))


def first_is_best(one: Answer) -> bool:
    assert one.judgement.ranking is not None
    return one.judgement.ranking[0] == (0,)


# --- comparisons -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("person", "utilities", "chance"),
    [
        (Person(name="p"), (1.0, 0.0), sigmoid(1.0)),
        (Person(name="p", temperature=2.0), (3.0, 0.0), sigmoid(1.5)),
        (Person(name="p", is_adversary=True), (1.0, 0.0), sigmoid(-1.0)),
        (Person(name="p", reliability=0.8), (0.1, 0.0), 0.8),
        (Person(name="p", reliability=0.8), (0.0, 9.0), 0.2),
        (Person(name="p", reliability=0.25), (5.0, 0.0), 0.25),
        (Person(name="p", reliability=0.8, is_adversary=True), (5.0, 0.0), 0.2),
        (Person(name="p", reliability=0.8), (1.0, 1.0), 0.5),
        (Person(name="p"), (0.0, 0.0), 0.5),
    ],
)
def test_the_better_one_is_chosen_as_often_as_said(person: Person, utilities: Any, chance: float) -> None:
    found = answers(person, utilities)
    assert within(sum(map(first_is_best, found)), NUM, chance)
    assert within(sum(one.shown[0] == 0 for one in found), NUM, 0.5)


def test_the_sure_are_always_right() -> None:
    assert all(map(first_is_best, answers(Person(name="p", reliability=1.0), (0.1, 0.0))))
    assert not any(map(first_is_best, answers(Person(name="p", reliability=0.0), (0.1, 0.0))))


def test_position_bias_is_log_odds_for_the_first_shown() -> None:
    found = answers(Person(name="p", position_bias=1.0), (0.5, 0.0))
    for first, chance in ((0, sigmoid(1.5)), (1, sigmoid(-0.5))):
        shown = [one for one in found if one.shown[0] == first]
        assert within(sum(map(first_is_best, shown)), len(shown), chance)


def test_ties_come_where_the_noisy_difference_is_small() -> None:
    # the difference of two Gumbels is logistic: P(|d + noise| < w) = s(w - d) - s(-w - d)
    found = Counter(one.judgement.ranking for one in answers(Person(name="p", tie_width=0.7), (0.6, 0.0)))
    assert set(found) == {((0,), (1,)), ((1,), (0,)), ((0, 1),)}
    assert within(found[((0, 1),)], NUM, sigmoid(0.7 - 0.6) - sigmoid(-0.7 - 0.6))
    assert within(found[((0,), (1,))], NUM, sigmoid(0.6 - 0.7))


def test_rankings_are_plackett_and_luces() -> None:
    utilities = (1.0, 0.0, -0.5)
    found = Counter(one.judgement.ranking for one in answers(Person(name="p"), utilities))
    weights = [math.exp(value) for value in utilities]
    for order in itertools.permutations(range(3)):
        chance = weights[order[0]] / sum(weights) * weights[order[1]] / (weights[order[1]] + weights[order[2]])
        assert within(found[tuple((k,) for k in order)], NUM, chance), order
    assert sum(found.values()) == NUM


def test_reliability_is_of_neighbours_in_the_true_order() -> None:
    found = [one.judgement.ranking for one in answers(Person(name="p", reliability=0.7), (5.0, 1.0, 0.9))]
    for better, worse, steps in ((0, 1, 1), (1, 2, 1), (0, 2, 2)):
        ahead = sum(ranking.index((better,)) < ranking.index((worse,)) for ranking in found if ranking)
        assert within(ahead, NUM, sigmoid(steps * math.log(0.7 / 0.3)))


# --- other modes -----------------------------------------------------------------------------------------------------


def test_thumbs_go_up_above_the_threshold() -> None:
    found = answers(Person(name="p", threshold=0.5, temperature=2.0), (1.5, -0.5), mode="thumbs")
    for k, chance in (("0", sigmoid(0.5)), ("1", sigmoid(-0.5))):
        assert within(sum(one.judgement.thumbs[k] for one in found), NUM, chance)
    found = answers(Person(name="p", reliability=0.9), (0.1, -0.1), mode="thumbs")
    for k, chance in (("0", 0.9), ("1", 0.1)):
        assert within(sum(one.judgement.thumbs[k] for one in found), NUM, chance)


def test_ratings_are_rounded_from_around_the_middle() -> None:
    found = answers(Person(name="p"), (1.0, -9.0), mode="rate")
    ratings = [one.judgement.ratings for one in found]
    assert all(set(by_name) == set(ATTRIBUTES) for row in ratings for by_name in row.values())
    for least in (3, 5, 7):  # 4 + 1 + noise is rounded up to it
        reached = sum(row["0"]["safe"] >= least for row in ratings)
        assert within(reached, NUM, sigmoid(5 - (least - 0.5)))
    assert {value for row in ratings for value in row["1"].values()} <= {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0}
    assert min(row["1"]["safe"] for row in ratings) == 1.0


def test_attributes_are_rated_beside_a_ranking() -> None:
    (found,) = answers(Person(name="p"), (1.0, 0.0), num=1, attributes=("kind",))
    assert found.judgement.ranking is not None and set(found.judgement.ratings["1"]) == {"kind"}


def test_some_items_are_skipped() -> None:
    found = answers(Person(name="p", skip_rate=0.1), (1.0, 0.0))
    skipped = [one for one in found if one.judgement.skipped]
    assert within(len(skipped), NUM, 0.1)
    assert all(one.judgement.ranking is None for one in skipped)


# --- people ----------------------------------------------------------------------------------------------------------


def test_people_drift_from_round_to_round() -> None:
    person = Person(name="p", reliability=0.9, drift=-0.1)
    for round, chance in ((0, 0.9), (2, 0.7), (20, 0.0)):
        found = answer([person], items((1.0, 0.0)), per_item=1, seed=0, round=round)
        assert within(sum(map(first_is_best, found)), NUM, chance)
    found = answer([Person(name="p", drift=0.5)], items((1.0, 0.0)), per_item=1, seed=0, round=2)
    assert within(sum(map(first_is_best, found)), NUM, sigmoid(math.exp(-1.0)))


def test_groups_want_different_things() -> None:
    crowd = [Person(name="a", reliability=1.0, group="x"), Person(name="b", reliability=1.0, group="y")]
    wants: dict[str, Callable[[Item, int], float]] = {"x": known_utility, "y": lambda item, k: -known_utility(item, k)}
    found = answer(crowd, items((1.0, 0.0), 50), wants, per_item=2, seed=0)
    assert {(one.group, first_is_best(one)) for one in found} == {("x", True), ("y", False)}


def test_each_item_goes_to_as_many_people_and_to_all_alike() -> None:
    crowd = people((0.9, 0.8, 0.7, 0.6, 0.5))
    found = answer(crowd, items((1.0, 0.0), 2000), per_item=3, seed=0)
    of_item = Counter(one.item for one in found)
    assert set(of_item.values()) == {3} and len(of_item) == 2000
    assert len({(one.item, one.annotator) for one in found}) == len(found)
    for count in Counter(one.annotator for one in found).values():
        assert within(count, 2000, 3 / 5)
    assert {one.source for one in found} == {"simulated"}


def test_time_is_as_long_as_the_texts() -> None:
    found = answers(Person(name="p", speed=5.0), (1.0, 0.0))
    seconds = sorted(one.seconds for one in found)
    expected = 1 + (1 + 6 + 6) / 5.0
    low, high = (int(stats.binom.ppf(p, NUM, 0.5)) for p in (5e-7, 1 - 5e-7))
    assert seconds[low] <= expected <= seconds[high]
    assert median(one.seconds for one in answers(Person(name="p", speed=500.0), (1.0, 0.0))) < 1.2


def test_some_items_come_twice_and_the_second_answer_is_another_draw() -> None:
    found = answer([Person(name="p", reliability=0.8)], items((1.0, 0.0)), per_item=1, seed=0, repeats=0.5)
    first = {one.item: first_is_best(one) for one in found if one.showing == 0}
    later = {one.item: first_is_best(one) for one in found if one.showing == 1}
    assert within(len(later), NUM, 0.5) and len(first) == NUM
    flipped = sum(first[item] != is_best for item, is_best in later.items())
    assert within(flipped, len(later), 2 * 0.8 * 0.2)


def test_an_answer_depends_on_nobody_elses() -> None:
    crowd = people((0.9, 0.8, 0.7, 0.3))
    every = {
        (one.item, one.annotator): one
        for one in answer(crowd, items((1.0, 0.0, 0.5), 60), per_item=4, seed=5, repeats=0.3)
        if one.showing == 0
    }
    for one in answer(crowd[::-1][:2], items((1.0, 0.0, 0.5), 60)[::-1], per_item=2, seed=5):
        assert one == every[one.item, one.annotator]
    some = answer(crowd, items((1.0, 0.0, 0.5), 60), per_item=2, seed=5)
    assert some == answer(crowd[::-1], items((1.0, 0.0, 0.5), 60), per_item=2, seed=5)
    assert all(one == every[one.item, one.annotator] for one in some)
    assert some != answer(crowd, items((1.0, 0.0, 0.5), 60), per_item=2, seed=6)
    assert some != answer(crowd, items((1.0, 0.0, 0.5), 60), per_item=2, seed=5, round=1)


# --- what cannot be asked --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"reliability": 1.2}, "reliability of p must be in [0, 1], got 1.2"),
        ({"skip_rate": -0.1}, "skip_rate of p must be in [0, 1], got -0.1"),
        ({"temperature": 0.0}, "temperature of p must be above 0, got 0"),
        ({"speed": math.inf}, "speed of p must be above 0, got inf"),
        ({"tie_width": -1.0}, "tie_width of p must be at least 0, got -1"),
    ],
)
def test_a_person_who_cannot_be_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError) as error:
        Person(name="p", **fields)
    assert str(error.value) == says


def test_what_cannot_be_asked_is_refused() -> None:
    crowd, asked = people((0.9, 0.8)), items((1.0, 0.0), 2)
    for per_item in (0, 3):
        with pytest.raises(SettingsError, match=r"between 1 and the number of people \(2\)"):
            answer(crowd, asked, per_item=per_item, seed=0)
    with pytest.raises(SettingsError, match="several of ann"):
        answer([Person(name="ann"), Person(name="ann")], asked, per_item=1, seed=0)
    with pytest.raises(SettingsError, match="nothing for the group ''"):
        answer(crowd, asked, {"x": known_utility}, per_item=1, seed=0)
    with pytest.raises(SettingsError, match="repeats"):
        answer(crowd, asked, per_item=1, seed=0, repeats=2)
    with pytest.raises(DataError, match="'q0': utilities must be finite numbers"):
        answer(crowd, asked, lambda item, k: math.nan, per_item=1, seed=0)
    with pytest.raises(DataError, match=r"'q0': info\.utility must hold a number for each of 2"):
        answer(crowd, [Item(id="q0", prompt="", completions=("a", "b"))], per_item=1, seed=0)
    with pytest.raises(DataError, match="mode write"):
        answer(crowd, [Item(id="w", prompt="p", mode="write")], per_item=1, seed=0)
