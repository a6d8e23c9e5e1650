"""Agreement against the reference package, plain loops, scipy and worlds whose answer is known."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rlvr import agreement
from rlvr.agreement import TIE, Level
from rlvr.evaluate import wilson

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "krippendorff.json").read_text())["cases"]
LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval")


def alpha_of(table: Any, level: Level) -> float:
    item_V, _, value_V = agreement.long_form(table)
    return agreement.krippendorff_alpha(item_V, value_V, level=level)


def alpha_by_pairs(rows: list[list[float]], level: Level) -> float:
    """By the definition: of all ordered pairs within items, and of all ordered pairs there are."""
    rows = [values for values in rows if len(values) > 1]
    every = [value for values in rows for value in values]

    def distance(a: float, b: float) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        low, high = min(a, b), max(a, b)
        between = sum(1 for value in every if low <= value <= high)
        return (between - (every.count(low) + every.count(high)) / 2) ** 2 if a != b else 0.0

    observed = sum(
        distance(a, b) / (len(values) - 1) for values in rows for a, b in itertools.permutations(values, 2)
    ) / max(1, len(every))
    expected = sum(distance(a, b) for a, b in itertools.permutations(every, 2)) / max(1, len(every) * (len(every) - 1))
    return math.nan if expected == 0 else 1 - observed / expected


def votes(seed: int, num_items: int, reliabilities: tuple[float, ...], coverage: float = 1.0) -> np.ndarray:
    """[N, A] which of two completions each says is better; the truth is a coin's."""
    rng = np.random.default_rng(seed)
    truth_N1 = rng.integers(2, size=(num_items, 1))
    is_right_NA = rng.random((num_items, len(reliabilities))) < reliabilities
    table = np.where(is_right_NA, truth_N1, 1 - truth_N1).astype(float)
    table[rng.random(table.shape) >= coverage] = math.nan
    return table


tables = st.lists(
    st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=3, max_size=3), min_size=1, max_size=8
).map(lambda rows: [[math.nan if value is None else float(value) for value in row] for row in rows])


# --- Krippendorff's alpha --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_alpha_equals_the_reference_package(level: Level) -> None:
    cases = [case for case in CASES if case["level"] == level]
    known = [case for case in cases if case["alpha"] is not None]
    assert len(known) >= 60
    for case in cases:
        found = alpha_of(np.array(case["values"], dtype=float), level)
        assert found == pytest.approx(math.nan if case["alpha"] is None else case["alpha"], abs=1e-9, nan_ok=True), (
            case["name"]
        )


def test_alpha_equals_the_reference_package_where_it_is_installed() -> None:
    krippendorff = pytest.importorskip("krippendorff", reason="the package krippendorff is not installed")
    for seed, level in itertools.product(range(20), LEVELS):
        table = votes(seed, 200, (0.9, 0.7, 0.6, 0.3), coverage=0.6)
        expected = krippendorff.alpha(table.T, level_of_measurement=level)
        assert alpha_of(table, level) == pytest.approx(expected, abs=1e-9)


@given(tables, st.sampled_from(LEVELS))
@settings(deadline=None)
def test_alpha_is_what_its_definition_says(table: list[list[float]], level: Level) -> None:
    rows = [[value for value in row if not math.isnan(value)] for row in table]
    assert alpha_of(table, level) == pytest.approx(alpha_by_pairs(rows, level), abs=1e-9, nan_ok=True)


@given(tables, st.sampled_from(LEVELS), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_neither_order_of_items_nor_of_people_matters_to_alpha(table: Any, level: Level, random: Any) -> None:
    shuffled = random.sample([random.sample(row, len(row)) for row in table], len(table))
    assert alpha_of(shuffled, level) == pytest.approx(alpha_of(table, level), abs=1e-9, nan_ok=True)


@given(st.integers(0, 1000))
def test_with_two_values_all_levels_are_the_same(seed: int) -> None:
    table = votes(seed, 30, (0.9, 0.6, 0.4), coverage=0.8)
    nominal, *others = (alpha_of(table, level) for level in LEVELS)
    assert others == pytest.approx([nominal, nominal], abs=1e-9)


def test_alpha_is_unknown_where_there_is_nothing_to_disagree_about() -> None:
    nan = math.nan
    for table in ([[nan, nan]], [[1, nan], [nan, 2]], [[1, 1], [1, 1]]):
        for level in LEVELS:
            assert math.isnan(alpha_of(table, level))
            found = agreement.alpha_interval(*agreement.long_form(table)[::2], level=level, seed=0)
            assert math.isnan(found.alpha) and math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.parametrize("level", LEVELS)
def test_weights_are_equal_items(level: Level) -> None:
    table = np.array([[1, 2, 1], [3, 3, 1], [2, 2, 2], [1, math.nan, 3]], dtype=float)
    weight_N = np.array([1.0, 3.0, 2.0, 1.0])
    item_V, _, value_V = agreement.long_form(table)
    found = agreement.krippendorff_alpha(item_V, value_V, level=level, weight_N=weight_N)
    assert found == pytest.approx(alpha_of(np.repeat(table, weight_N.astype(int), axis=0), level), abs=1e-9)


def test_which_completion_is_stored_first_does_not_matter_once_mirrored() -> None:
    # nine of ten votes for the completion in the first place of the file, as in rows of chosen and rejected
    rng = np.random.default_rng(0)
    table = (rng.random((400, 3)) < 0.1).astype(float)
    turned = np.where(rng.random((400, 1)) < 0.5, 1 - table, table)
    item_V, _, value_V = agreement.long_form(table)
    assert abs(agreement.krippendorff_alpha(item_V, value_V, level="nominal")) < 0.1, "chance alone would agree"
    found = []
    for labels in (table, turned):
        item_V, _, value_V = agreement.long_form(labels)
        double_V, label_V, cluster_N = agreement.mirrored(item_V, value_V.astype(np.int64))
        found.append(agreement.krippendorff_alpha(double_V, label_V, level="nominal"))
        assert cluster_N.tolist() == [*range(400), *range(400)]
    assert found[0] == pytest.approx(found[1], abs=1e-12)
    assert found[0] == pytest.approx((2 * 0.9 - 1) ** 2, abs=0.08)  # two people agree with 0.81 + 0.01


def test_a_tie_is_its_own_mirror() -> None:
    item_V, label_V, _ = agreement.mirrored(np.array([0, 0, 1]), np.array([0, TIE, 1]))
    assert list(zip(item_V.tolist(), label_V.tolist(), strict=True)) == [(0, 0), (0, 2), (1, 1), (2, 1), (2, 2), (3, 0)]


def test_the_interval_holds_the_true_alpha_19_times_in_20() -> None:
    # of people who are right with 0.85 about a coin's truth alpha is (2 * 0.85 - 1)^2
    truth, held = 0.49, 0
    for seed in range(300):
        item_V, _, value_V = agreement.long_form(votes(seed, 80, (0.85, 0.85, 0.85), coverage=0.9))
        found = agreement.alpha_interval(item_V, value_V, level="nominal", seed=seed, resamples=300)
        assert found.low <= found.alpha <= found.high
        held += found.low <= truth <= found.high
    assert 0.90 <= held / 300 <= 0.99  # 0.95 +- 4 standard errors, and a little for the bootstrap's own bias


@pytest.mark.parametrize("level", LEVELS)
def test_copies_of_an_item_in_one_cluster_make_nothing_surer(level: Level) -> None:
    table = votes(1, 100, (0.9, 0.8, 0.7))
    item_V, _, value_V = agreement.long_form(table)
    alone = agreement.alpha_interval(item_V, value_V, level=level, seed=0)
    item_V, _, value_V = agreement.long_form(np.repeat(table, 4, axis=0))
    cluster_N = np.repeat(np.arange(100), 4)
    together = agreement.alpha_interval(item_V, value_V, level=level, seed=0, cluster_N=cluster_N)
    apart = agreement.alpha_interval(item_V, value_V, level=level, seed=0)
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.02)
    assert apart.high - apart.low == pytest.approx((alone.high - alone.low) / 2, rel=0.15)
    assert (together.num_items, together.num_votes) == (400, 1200)


def test_the_same_seed_gives_the_same_interval() -> None:
    item_V, _, value_V = agreement.long_form(votes(3, 50, (0.9, 0.6)))
    first, again, other = (agreement.alpha_interval(item_V, value_V, level="nominal", seed=s) for s in (1, 1, 2))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)


def test_full_agreement_of_a_few_items_is_not_certain() -> None:
    table = [[0, 0], [1, 1], [0, 0], [1, 1]]
    for level in LEVELS:
        found = agreement.alpha_interval(*agreement.long_form(table)[::2], level=level, seed=0)
        assert (found.alpha, found.high) == (1.0, 1.0)
        assert found.low == pytest.approx(1 - wilson(0, 4)[1])


# --- two raters, many rankings ---------------------------------------------------------------------------------------


def test_kappa_of_a_table_by_hand() -> None:
    # 20 both yes, 5 yes and no, 10 no and yes, 15 both no: (0.7 - 0.5) / (1 - 0.5)
    first = [1] * 25 + [0] * 25
    second = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert agreement.cohen_kappa(first, second) == pytest.approx(0.4)
    assert math.isnan(agreement.cohen_kappa([1, 1], [1, 1]))
    assert math.isnan(agreement.cohen_kappa([], []))
    with pytest.raises(ValueError, match="same items"):
        agreement.cohen_kappa([1], [1, 0])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=9))
def test_tau_b_equals_scipys(pairs: list[tuple[int, int]]) -> None:
    first, second = zip(*pairs, strict=True)
    expected = stats.kendalltau(first, second, variant="b").statistic
    found = agreement.kendall_tau_b([first, first], [second, first])
    assert found[0] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert found[1] == pytest.approx(1.0 if len(set(first)) > 1 else math.nan, nan_ok=True)


def test_concordance_by_hand() -> None:
    # sums of ranks 3, 7, 8 around 6: S = 9 + 1 + 4 = 14, of 3 people 12 * 14 / (9 * 24)
    assert agreement.kendall_w([[1, 2, 3], [1, 2, 3], [1, 3, 2]]) == pytest.approx(12 * 14 / (9 * 24))
    assert agreement.kendall_w([[1, 2, 3], [1, 2, 3]]) == pytest.approx(1.0)
    assert agreement.kendall_w([[1, 2, 3], [3, 2, 1]]) == pytest.approx(0.0)
    # ties: sums 2.5, 4, 5.5 around 4, S = 4.5; one tie of two: 12 * 4.5 / (4 * 24 - 2 * 6)
    assert agreement.kendall_w([[1.5, 1.5, 3], [1, 2.5, 2.5]]) == pytest.approx(12 * 4.5 / (4 * 24 - 2 * 12))
    assert math.isnan(agreement.kendall_w([[2, 2, 2], [2, 2, 2]]))
    assert math.isnan(agreement.kendall_w([[1, 2, 3]]))


@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 1000))
def test_concordance_is_the_mean_rank_correlation(num_people: int, num_ranked: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranks = np.array([rng.permutation(num_ranked) + 1 for _ in range(num_people)])
    pairs = [np.corrcoef(ranks[a], ranks[b])[0, 1] for a, b in itertools.combinations(range(num_people), 2)]
    assert agreement.kendall_w(ranks) == pytest.approx((1 + (num_people - 1) * np.mean(pairs)) / num_people)


def test_tied_places_share_their_mean_rank() -> None:
    assert agreement.mean_ranks(((2,), (0, 1))) == [2.5, 2.5, 1.0]
    assert agreement.mean_ranks(((0, 1, 2),)) == [2.0, 2.0, 2.0]
    assert agreement.mean_ranks(((3,), (1,), (0, 2))) == [3.5, 2.0, 3.5, 1.0]


# --- position --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.data())
def test_the_position_bias_of_pairs_is_wilsons_and_the_binomial_test(num: int, data: Any) -> None:
    chosen = data.draw(st.integers(1, num))
    if chosen == num and num > 1:
        chosen -= 1
    found = agreement.position_bias([True] * chosen + [False] * (num - chosen), [2] * num)
    assert found.p == pytest.approx(stats.binomtest(chosen, num).pvalue, rel=1e-9)
    assert (found.share, found.expected, found.num) == (chosen / num, 0.5, num)
    if 0 < chosen < num:
        low, high = wilson(chosen / num, num)
        expected = [math.log(share / (1 - share)) for share in (chosen / num, low, high)]
        assert [found.logit, found.low, found.high] == pytest.approx(expected, abs=1e-6)


def test_one_who_always_takes_the_first_has_a_finite_bias() -> None:
    found = agreement.position_bias([True] * 20, [2] * 20)
    assert found.logit == pytest.approx(math.log(19.5 / 0.5))
    assert math.isfinite(found.high) and 1.3 < found.low < found.logit < found.high
    assert found.p == pytest.approx(2 * 0.5**20)
    none = agreement.position_bias([False] * 20, [2] * 20)
    assert (none.low, none.logit, none.high) == pytest.approx((-found.high, -found.logit, -found.low), abs=1e-6)


def test_the_chance_of_mixed_sizes_is_exact() -> None:
    # one of 2, two of 3, one of 4: all 2 * 9 * 4 outcomes by hand
    sizes, chosen = [2, 3, 3, 4], [True, True, True, False]
    of_count = dict.fromkeys(range(5), 0.0)
    for outcome in itertools.product((True, False), repeat=4):
        of_count[sum(outcome)] += math.prod(
            1 / k if first else 1 - 1 / k for first, k in zip(outcome, sizes, strict=True)
        )
    expected = sum(p for p in of_count.values() if p <= of_count[3] + 1e-12)
    found = agreement.position_bias(chosen, sizes)
    assert found.p == pytest.approx(expected)
    assert found.expected == pytest.approx((1 / 2 + 2 / 3 + 1 / 4) / 4)


def test_a_planted_bias_is_found_among_four() -> None:
    rng = np.random.default_rng(0)
    is_first = rng.random(4000) < math.e / (math.e + 3)  # logit 1 for the first of 4
    found = agreement.position_bias(is_first, [4] * 4000)
    assert found.low < 1.0 < found.high and found.high - found.low < 0.2 and found.p < 1e-30
    with pytest.raises(ValueError, match="at least one"):
        agreement.position_bias([], [])


# --- groups ----------------------------------------------------------------------------------------------------------


def two_groups(seed: int, same: float, reliabilities: tuple[float, float], num_items: int = 300) -> Any:
    """Sums of products of 6 + 6 people whose groups want the same on a share `same` of the items."""
    rng = np.random.default_rng(seed)
    truth_N = rng.choice([-1.0, 1.0], size=num_items)
    other_N = np.where(rng.random(num_items) < same, truth_N, -truth_N)
    reliability_A = np.repeat(reliabilities, 6)
    wanted_NA = np.where(np.arange(12) < 6, truth_N[:, None], other_N[:, None])
    value_NA = np.where(rng.random((num_items, 12)) < reliability_A, wanted_NA, -wanted_NA)
    value_NA[rng.random(value_NA.shape) < 0.4] = math.nan
    item_V, person_V, value_V = agreement.long_form(value_NA)
    return value_NA, agreement.products(item_V, person_V, value_V, 12), np.repeat([0, 1], 6)


def test_products_are_sums_over_shared_items() -> None:
    value_NA, (sums_AA, num_AA), _ = two_groups(0, 0.5, (0.9, 0.6), num_items=40)
    for a, b in itertools.product(range(12), repeat=2):
        both = ~np.isnan(value_NA[:, a]) & ~np.isnan(value_NA[:, b])
        assert num_AA[a, b] == both.sum()
        assert sums_AA[a, b] == pytest.approx((value_NA[both, a] * value_NA[both, b]).sum())


def test_groups_that_want_different_things_are_told_from_groups_that_err() -> None:
    # agreement within is (2r - 1)^2, across (2r - 1)(2q - 1)(2 same - 1)
    _, (sums, num), group_A = two_groups(1, 0.6, (0.9, 0.8), num_items=3000)
    found = agreement.group_difference(sums, num, group_A, seed=0)
    assert found.within_G == pytest.approx([0.64, 0.36], abs=0.03)
    assert found.between == pytest.approx(0.8 * 0.6 * 0.2, abs=0.03)
    assert found.correlation == pytest.approx(0.2, abs=0.06)
    assert found.p == pytest.approx(found.smallest_p, abs=0.003)
    assert found.smallest_p == pytest.approx(1 / 462)  # 12 over 6 ways, each twice as the groups have one size

    _, (sums, num), group_A = two_groups(1, 1.0, (0.95, 0.65), num_items=3000)
    found = agreement.group_difference(sums, num, group_A, seed=0)
    assert found.within_G == pytest.approx([0.81, 0.09], abs=0.03)
    assert found.correlation > 0.95
    assert found.p > 0.05, "the second group only errs more"


@pytest.mark.parametrize(("reliabilities", "num_items"), [((0.8, 0.8), 40), ((0.99, 0.55), 300)])
def test_groups_without_a_difference_are_seldom_said_to_differ(
    reliabilities: tuple[float, float], num_items: int
) -> None:
    low = 0
    for seed in range(100):
        _, (sums, num), group_A = two_groups(seed, 1.0, reliabilities, num_items)
        low += agreement.group_difference(sums, num, group_A, seed=seed, permutations=99).p <= 0.05
    assert low <= stats.binom.ppf(0.9999, 100, 0.05)


def test_people_are_dealt_not_votes() -> None:
    # one person of four says the reverse of all others: that is a person, not a group
    truth_N1 = np.random.default_rng(0).choice([-1.0, 1.0], size=(500, 1))
    value_NA = truth_N1 * np.array([1.0, 1.0, 1.0, -1.0])
    item_V, person_V, value_V = agreement.long_form(value_NA)
    sums, num = agreement.products(item_V, person_V, value_V, 4)
    found = agreement.group_difference(sums, num, np.array([0, 0, 1, 1]), seed=0)
    assert found.smallest_p == pytest.approx(1 / 3)
    for seed in range(20):  # the ways are drawn, a third of them each, and may come out as fewer
        found = agreement.group_difference(sums, num, np.array([0, 0, 1, 1]), seed=seed, permutations=99)
        assert found.p >= found.smallest_p
    with pytest.raises(ValueError, match="two groups"):
        agreement.group_difference(sums, num, np.zeros(4, dtype=np.int64), seed=0)


def test_of_very_many_people_there_are_more_ways_to_deal_than_a_float_can_count() -> None:
    rng = np.random.default_rng(0)
    value_NA = rng.choice([-1.0, 1.0], size=(3, 1200))
    sums, num = agreement.products(*agreement.long_form(value_NA), 1200)
    found = agreement.group_difference(sums, num, np.repeat([0, 1], 600), seed=0, permutations=9)
    assert found.smallest_p == 1 / 10
