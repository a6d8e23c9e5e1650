"""Dawid and Skene against a plain loop, closed forms, and crowds whose reliability is known."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rlvr.agreement import TIE, long_form
from rlvr.consensus import Consensus, dawid_skene, vote_shares

FACTS = (0.92, 0.8, 0.7, 0.6, 0.25)
"""Reliabilities, one adversary among them."""


def crowd(seed: int, num_items: int, reliabilities: Any, coverage: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(truth_N, table_NA with NaN for no vote) of comparisons."""
    rng = np.random.default_rng(seed)
    truth_N = rng.integers(2, size=num_items)
    is_right_NA = rng.random((num_items, len(reliabilities))) < np.asarray(reliabilities)
    table_NA = np.where(is_right_NA, truth_N[:, None], 1 - truth_N[:, None]).astype(float)
    table_NA[rng.random(table_NA.shape) >= coverage] = math.nan
    return truth_N, table_NA


def fit(table_NA: Any, **options: Any) -> Consensus:
    table_NA = np.asarray(table_NA, dtype=float)
    item_V, annotator_V, value_V = long_form(table_NA)
    labels = value_V.astype(np.int64)
    shape = {"num_items": table_NA.shape[0], "num_annotators": table_NA.shape[1]}
    return dawid_skene(item_V, annotator_V, labels, **shape, **options)


def accuracy(probability_NC: np.ndarray, truth_N: np.ndarray) -> float:
    """Of the likelier of two classes; equal ones count half."""
    ahead_N = probability_NC[:, 1] - probability_NC[:, 0]
    return float(np.where(ahead_N == 0, 0.5, (ahead_N > 0) == truth_N).mean())


def majority(table_NA: np.ndarray) -> np.ndarray:
    item_V, _, value_V = long_form(table_NA)
    return vote_shares(item_V, value_V.astype(np.int64), len(table_NA), 2)


def expected_accuracy(reliabilities: tuple[float, ...], coverage: float, *, weighted: bool) -> float:
    """Of majority, or of votes weighed by their true log odds, over all who may vote and be right."""
    total = 0.0
    for states in itertools.product((None, True, False), repeat=len(reliabilities)):
        chance, ahead = 1.0, 0.0
        for state, r in zip(states, reliabilities, strict=True):
            chance *= 1 - coverage if state is None else coverage * (r if state else 1 - r)
            weight = math.log(r / (1 - r)) if weighted else 1.0
            ahead += 0.0 if state is None else weight if state else -weight
        total += chance * (0.5 if abs(ahead) < 1e-12 else ahead > 0)
    return total


@pytest.mark.parametrize("seed", range(5))
def test_an_adversary_in_the_crowd_costs_majority_a_tenth_more(seed: int) -> None:
    num = 4000
    truth_N, table_NA = crowd(seed, num, FACTS, coverage=0.6)
    found = fit(table_NA)
    voted, weighed = accuracy(majority(table_NA), truth_N), accuracy(found.posterior_NC, truth_N)
    slack = 4 * math.sqrt(0.25 / num)
    assert voted == pytest.approx(expected_accuracy(FACTS, 0.6, weighted=False), abs=slack)
    assert weighed == pytest.approx(expected_accuracy(FACTS, 0.6, weighted=True), abs=slack)
    assert weighed >= voted + 0.1
    assert found.reliability_A == pytest.approx(FACTS, abs=0.04)
    assert found.is_converged


def plain(table_NA: np.ndarray, rounds: int) -> tuple[list[float], list[float]]:
    """(P(class 0) by item, reliability by person) of the symmetric model of two classes, in loops."""
    num_items, num_people = table_NA.shape
    votes = [(i, a, int(table_NA[i, a])) for i in range(num_items) for a in range(num_people) if table_NA[i, a] >= 0]
    first = []
    for i in range(num_items):
        own = [label for item, _, label in votes if item == i]
        first.append((own.count(0) + 0.5) / (len(own) + 1))
    reliability = [0.0] * num_people
    for _ in range(rounds):
        for a in range(num_people):
            own = [first[i] if label == 0 else 1 - first[i] for i, person, label in votes if person == a]
            reliability[a] = (sum(own) + 1.4) / (len(own) + 2)
        for i in range(num_items):
            zero = one = 1.0
            for item, a, label in votes:
                if item == i:
                    zero *= reliability[a] if label == 0 else 1 - reliability[a]
                    one *= reliability[a] if label == 1 else 1 - reliability[a]
            first[i] = zero / (zero + one)
    return first, reliability


@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_plain_loops_give(seed: int) -> None:
    _, table_NA = crowd(seed, 40, (0.9, 0.7, 0.6, 0.3), coverage=0.8)
    found = fit(table_NA, tolerance=1e-12)
    assert len(found.log_posterior) < 200
    first, reliability = plain(table_NA, 600)
    assert found.posterior_NC[:, 0] == pytest.approx(first, abs=1e-8)
    assert found.reliability_A == pytest.approx(reliability, abs=1e-8)


def log_posterior(table_NA: np.ndarray, reliability_A: np.ndarray) -> float:
    """Of the symmetric model of two classes, the constants of `dawid_skene` left in."""
    total = 2 * math.log(0.5) + sum(1.4 * math.log(r) + 0.6 * math.log(1 - r) for r in reliability_A)
    for row in table_NA:
        zero, one = (
            math.prod((r if v == c else 1 - r) for r, v in zip(reliability_A, row, strict=True) if v >= 0)
            for c in (0, 1)
        )
        total += math.log(0.5 * zero + 0.5 * one)
    return total


def test_the_log_posterior_is_that_of_the_model_and_has_its_top_there() -> None:
    _, table_NA = crowd(0, 60, (0.9, 0.7, 0.4), coverage=0.9)
    found = fit(table_NA, tolerance=1e-12)
    best = log_posterior(table_NA, found.reliability_A)
    assert found.log_posterior[-1] == pytest.approx(best, abs=1e-8)
    for a, step in itertools.product(range(3), (-0.01, 0.01)):
        other = found.reliability_A.copy()
        other[a] += step
        assert log_posterior(table_NA, other) < best


random_tables = st.lists(
    st.lists(st.sampled_from([math.nan, 0.0, 1.0, 2.0]), min_size=4, max_size=4), min_size=1, max_size=12
)


@given(random_tables, st.booleans(), st.data())
@settings(deadline=None, max_examples=30)
def test_the_log_posterior_never_falls(table: Any, symmetric: bool, data: Any) -> None:
    gold_N = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=len(table), max_size=len(table))))
    found = fit(table, num_classes=3, symmetric=symmetric, gold_N=gold_N, max_rounds=300)
    assert np.diff(found.log_posterior).min(initial=0.0) >= -1e-9
    assert found.posterior_NC.sum(axis=1) == pytest.approx(1.0)
    assert np.isfinite(found.confusion_ACC).all() and (found.confusion_ACC > 0).all()
    assert (found.low_A <= found.reliability_A).all() and (found.reliability_A <= found.high_A).all()
    known = gold_N >= 0
    assert (found.posterior_NC[known, gold_N[known]] == 1.0).all()


@given(random_tables, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_storing_the_completions_the_other_way_round_turns_the_posterior_round(table: Any, random: Any) -> None:
    table_NA = np.array(table)
    turned_N = np.array([random.random() < 0.5 for _ in table])
    other_NA = np.where(turned_N[:, None] & (table_NA != TIE), 1 - table_NA, table_NA)
    found, other = (fit(rows, num_classes=3, tolerance=1e-7, max_rounds=300) for rows in (table_NA, other_NA))
    back_NC = np.where(turned_N[:, None], other.posterior_NC[:, [1, 0, 2]], other.posterior_NC)
    assert back_NC == pytest.approx(found.posterior_NC, abs=1e-6)
    assert other.reliability_A == pytest.approx(found.reliability_A, abs=1e-6)


@given(random_tables, st.booleans(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_neither_order_of_items_nor_of_people_matters(table: Any, symmetric: bool, random: Any) -> None:
    table_NA = np.array(table)
    rows, people = random.sample(range(len(table)), len(table)), random.sample(range(4), 4)
    options: Any = {"num_classes": 3, "symmetric": symmetric, "tolerance": 1e-7, "max_rounds": 300}
    found, other = fit(table_NA, **options), fit(table_NA[rows][:, people], **options)
    assert other.posterior_NC == pytest.approx(found.posterior_NC[rows], abs=1e-6)
    assert other.reliability_A == pytest.approx(found.reliability_A[people], abs=1e-6)
    assert (other.num_A == found.num_A[people]).all()


def test_the_order_of_votes_does_not_matter() -> None:
    _, table_NA = crowd(2, 50, FACTS, coverage=0.6)
    item_V, annotator_V, value_V = long_form(table_NA)
    order = np.random.default_rng(0).permutation(len(item_V))
    found = dawid_skene(
        item_V[order], annotator_V[order], value_V[order].astype(np.int64), num_items=50, num_annotators=5
    )
    assert found.posterior_NC == pytest.approx(fit(table_NA).posterior_NC, abs=1e-9)


# --- little to go by -------------------------------------------------------------------------------------------------


def test_without_votes_nothing_is_known() -> None:
    found = fit(np.full((3, 2), math.nan))
    assert (found.posterior_NC == 0.5).all()
    assert found.reliability_A == pytest.approx([0.7, 0.7])  # the prior's
    assert found.num_A.tolist() == [0, 0]
    assert (found.high_A - found.low_A > 0.8).all()
    none = fit(np.zeros((0, 0)))
    assert none.posterior_NC.shape == (0, 2) and none.reliability_A.shape == (0,)


def test_an_item_without_votes_is_a_coin() -> None:
    _, table_NA = crowd(0, 30, FACTS)
    table_NA[7] = math.nan
    assert fit(table_NA).posterior_NC[7] == pytest.approx([0.5, 0.5])


def test_one_person_alone_is_as_good_as_the_prior_says() -> None:
    found = fit([[0], [1], [1], [0]], tolerance=1e-12)
    assert found.reliability_A == pytest.approx([0.7], abs=1e-6)
    assert found.posterior_NC[:, 0] == pytest.approx([0.7, 0.3, 0.3, 0.7], abs=1e-6)


@pytest.mark.parametrize("reliabilities", [(0.8,), (0.8, 0.7), (0.6, 0.55, 0.55, 0.5)])
def test_few_people_do_not_take_thousands_of_rounds(reliabilities: tuple[float, ...]) -> None:
    found = fit(crowd(0, 3000, reliabilities)[1])  # plain rounds move the first of these by 0.0003 each
    assert found.is_converged and len(found.log_posterior) < 1000


def test_all_ties_leave_both_alike() -> None:
    found = fit(np.full((20, 3), float(TIE)), num_classes=3)
    assert found.posterior_NC[:, 0] == pytest.approx(found.posterior_NC[:, 1])
    assert (found.posterior_NC[:, TIE] > 0.9).all()


def test_who_answered_once_is_neither_sure_nor_worthless() -> None:
    _, table_NA = crowd(0, 200, (0.9, 0.85, 0.8))
    once_NA = np.full((200, 40), math.nan)
    once_NA[np.arange(40), np.arange(40)] = crowd(1, 40, (0.5,))[1][:, 0]
    found = fit(np.hstack([table_NA, once_NA]))
    once = found.reliability_A[3:]
    assert once.min() > 0.45 and once.max() < 0.81  # (1 or 0, and 1.4 of 2 beforehand) / 3
    assert (found.high_A[3:] - found.low_A[3:] > 0.5).all()
    assert (found.high_A[:3] - found.low_A[:3] < 0.2).all()


def test_gold_finds_out_a_crowd_that_is_mostly_wrong() -> None:
    truth_N, table_NA = crowd(0, 600, (0.2, 0.25, 0.2, 0.9, 0.8))
    gold_N = np.full(600, -1)
    assert accuracy(fit(table_NA, gold_N=gold_N).posterior_NC, truth_N) < 0.2, "nothing else can tell who is right"
    gold_N[:12] = truth_N[:12]
    found = fit(table_NA, gold_N=gold_N)
    assert accuracy(found.posterior_NC[12:], truth_N[12:]) > 0.9
    assert found.reliability_A == pytest.approx((0.2, 0.25, 0.2, 0.9, 0.8), abs=0.06)


def test_labels_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"within 0\.\.1, got 0 to 2"):
        fit([[0, 2]])
    with pytest.raises(ValueError, match="2 classes, or 3 with ties"):
        fit([[0, 1]], num_classes=4)


# --- what it claims --------------------------------------------------------------------------------------------------


def test_intervals_hold_the_true_reliability_19_times_in_20() -> None:
    held, num = np.zeros(5), 80
    for seed in range(num):
        found = fit(crowd(seed, 300, FACTS, coverage=0.6)[1], tolerance=1e-6)
        held += (found.low_A <= FACTS) & (np.array(FACTS) <= found.high_A)
    assert held.sum() / (5 * num) == pytest.approx(0.95, abs=0.03)
    assert (held / num > 0.85).all()


def test_copies_of_an_item_in_one_cluster_make_nobody_surer() -> None:
    _, table_NA = crowd(4, 2000, (0.85, 0.8, 0.75, 0.7, 0.3))
    alone = fit(table_NA)
    fourfold = np.repeat(table_NA, 4, axis=0)
    together, apart = fit(fourfold, cluster_N=np.repeat(np.arange(2000), 4)), fit(fourfold)
    width, wide, narrow = ((f.high_A - f.low_A) for f in (alone, together, apart))
    assert wide == pytest.approx(width, rel=0.1)
    assert narrow == pytest.approx(width / 2, rel=0.1)


def test_probabilities_are_as_sure_as_they_are_right() -> None:
    truth_N, table_NA = crowd(5, 6000, FACTS, coverage=0.6)
    posterior_NC = fit(table_NA).posterior_NC
    sure_N, is_right_N = posterior_NC.max(axis=1), posterior_NC.argmax(axis=1) == truth_N
    for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 1.01)):
        those = (sure_N > low) & (sure_N <= high)
        assert is_right_N[those].mean() == pytest.approx(
            sure_N[those].mean(), abs=4 * math.sqrt(0.25 / those.sum()) + 0.01
        )


def test_true_ties_are_a_class_of_their_own() -> None:
    # a third of the items are ties; people say tie to 60 % of those and to 10 % of the others
    rng = np.random.default_rng(0)
    truth_N = rng.choice(3, size=3000)
    strict_NA = np.where(rng.random((3000, 6)) < 0.85, truth_N[:, None], 1 - truth_N[:, None])
    coin_NA = rng.integers(2, size=(3000, 6))
    says_tie_NA = rng.random((3000, 6)) < np.where(truth_N == TIE, 0.6, 0.1)[:, None]
    table_NA = np.where(says_tie_NA, TIE, np.where(truth_N[:, None] == TIE, coin_NA, strict_NA))
    found = fit(table_NA, num_classes=3)
    assert found.share_C == pytest.approx([1 / 3] * 3, abs=0.03)
    assert found.reliability_A == pytest.approx([0.85] * 6, abs=0.04)
    assert found.confusion_ACC[:, 2] == pytest.approx(np.tile([0.2, 0.2, 0.6], (6, 1)), abs=0.06)
    assert (found.posterior_NC.argmax(axis=1) == truth_N).mean() > 0.85
    voted = np.stack([(table_NA == label).mean(axis=1) for label in range(3)], axis=1)
    assert (found.posterior_NC.argmax(axis=1) == truth_N).mean() > (voted.argmax(axis=1) == truth_N).mean() + 0.03


def test_good_and_bad_are_not_mirror_images() -> None:
    # 80 % of answers are good; sensitivity and specificity differ by person
    rng = np.random.default_rng(0)
    truth_N = (rng.random(5000) < 0.8).astype(int)
    says_good = np.array([[0.3, 0.95], [0.1, 0.8], [0.2, 0.7], [0.05, 0.6], [0.6, 0.4]])  # of bad ones, of good ones
    table_NA = (rng.random((5000, 5)) < says_good[:, truth_N].T).astype(float)
    found = fit(table_NA, symmetric=False)
    assert found.share_C == pytest.approx([0.2, 0.8], abs=0.04)
    assert found.confusion_ACC[:, :, 1] == pytest.approx(says_good, abs=0.05)
    expected = 0.2 * (1 - says_good[:, 0]) + 0.8 * says_good[:, 1]
    assert found.reliability_A == pytest.approx(expected, abs=0.03)
    assert stats.spearmanr(found.reliability_A, expected).statistic == pytest.approx(1.0)


def test_shares_of_votes_by_hand() -> None:
    item_V, label_V = np.array([0, 0, 0, 2]), np.array([0, 0, 1, 1])
    assert vote_shares(item_V, label_V, 3, 2) == pytest.approx(np.array([[2 / 3, 1 / 3], [0.5, 0.5], [0, 1]]))
    assert vote_shares(item_V, label_V, 3, 2, smooth=0.5) == pytest.approx(
        np.array([[2.5 / 4, 1.5 / 4], [0.5, 0.5], [0.25, 0.75]])
    )


def test_people_who_share_no_item_are_as_sure_as_alone_however_many_they_are() -> None:
    # one table of 3000 people: five who vote on 60 items, and others with an item each of their own
    _, table_NA = crowd(6, 60, FACTS)
    alone = fit(table_NA, symmetric=True)
    num_others = 2995
    whole_NA = np.full((60 + num_others, 5 + num_others), math.nan)
    whole_NA[:60, :5] = table_NA
    whole_NA[60 + np.arange(num_others), 5 + np.arange(num_others)] = 0.0
    together = fit(whole_NA, symmetric=True)
    assert together.low_A[:5] == pytest.approx(alone.low_A, abs=0.05)
    assert together.high_A[:5] == pytest.approx(alone.high_A, abs=0.05)
    assert np.isfinite(together.low_A).all() and (together.low_A[5:] == together.low_A[5]).all()
