"""Figures of a reward model against arithmetic by hand and worlds whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr import calibration


def array(*values: float) -> calibration.Floats:
    return np.array(values, dtype=np.float64)


# --- comparisons -----------------------------------------------------------------------------------------------------


def test_figures_of_three_pairs_are_those_by_hand() -> None:
    delta, label, truth = array(2.0, -1.0, 0.0), array(1.0, 1.0, 1.0), array(0.9, 0.4, 0.7)
    found = calibration.of_pairs(delta, label, truth)
    assert found["accuracy"] == pytest.approx(1.5 / 3)  # right, wrong, equal
    assert found["margin"] == pytest.approx(1 / 3)
    assert found["nll"] == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(1)) + math.log(2)) / 3)
    assert found["expected_accuracy"] == pytest.approx((0.9 + 0.6 + 0.5) / 3)
    assert found["noise_ceiling"] == pytest.approx((0.9 + 0.6 + 0.7) / 3)
    assert found["ceiling_share"] == pytest.approx(2.0 / 2.2)
    entropy = [-p * math.log(p) - (1 - p) * math.log(1 - p) for p in (0.9, 0.4, 0.7)]
    assert found["best_nll"] == pytest.approx(sum(entropy) / 3)
    odds = [math.log(p / (1 - p)) for p in (0.9, 0.4, 0.7)]
    assert found["reward_scale"] == pytest.approx((odds[0] * 2 - odds[1]) / sum(o**2 for o in odds))


def test_only_a_known_world_has_a_ceiling() -> None:
    found = calibration.of_pairs(array(1.0, -1.0), array(1.0, 1.0))
    assert not {"noise_ceiling", "expected_accuracy", "best_nll", "reward_scale"} & set(found)


def test_ece_is_the_mean_gap_of_the_bins() -> None:
    # three pairs of certainty s(2) = 0.881 (one wrong), one of s(0.1) = 0.525 (right)
    delta, label = array(2.0, 2.0, -2.0, 0.1), array(1.0, 1.0, 1.0, 1.0)
    sure, hardly = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-0.1))
    assert calibration.ece(delta, label) == pytest.approx((abs(3 * sure - 2) + abs(hardly - 1)) / 4)


@given(st.integers(0, 100))
def test_which_of_a_pair_comes_first_changes_no_figure(seed: int) -> None:
    rng = np.random.default_rng(seed)
    delta, truth = rng.normal(size=40), rng.random(40)
    label, turn = (rng.random(40) < truth).astype(float), rng.random(40) < 0.5
    before = calibration.of_pairs(delta, label, truth)
    other = [np.where(turn, 1 - p, p) for p in (label, truth)]
    after = calibration.of_pairs(np.where(turn, -delta, delta), *other)
    del before["margin"], after["margin"]  # the chosen one is then not the first
    assert after == pytest.approx(before, rel=1e-9)


def test_a_perfect_model_is_calibrated_and_a_scaled_one_is_found_out() -> None:
    rng = np.random.default_rng(0)
    odds = rng.normal(size=20_000) * 2
    truth = calibration.sigmoid(odds)
    label = (rng.random(20_000) < truth).astype(float)
    perfect = calibration.of_pairs(odds, label, truth)
    assert perfect["ceiling_share"] == pytest.approx(1, abs=1e-12)
    assert perfect["expected_nll"] == pytest.approx(perfect["best_nll"], abs=1e-9)
    assert perfect["ece_true"] == pytest.approx(0, abs=1e-9)
    assert perfect["ece"] < 0.01
    assert perfect["calibration_slope"] == pytest.approx(1, abs=0.04)
    tripled = calibration.of_pairs(3 * odds, label, truth)
    assert tripled["calibration_slope"] == pytest.approx(perfect["calibration_slope"] / 3, rel=1e-6)
    assert tripled["reward_scale"] == pytest.approx(3)
    assert tripled["ece"] > 0.05
    assert tripled["accuracy"] == perfect["accuracy"]


def test_the_calibration_slope_is_where_the_likelihood_is_greatest() -> None:
    rng = np.random.default_rng(1)
    delta, label = rng.normal(size=60) * 4, (rng.random(60) < 0.7).astype(float)
    slope = calibration.calibration_slope(delta, label)
    nll = [calibration.of_pairs(b * delta, label)["nll"] for b in (slope, slope + 1e-3, slope - 1e-3)]
    assert nll[0] == min(nll)


@pytest.mark.parametrize("unit", [1e-9, 1e-3, 1e6])
def test_the_calibration_slope_follows_the_unit_of_the_reward(unit: float) -> None:
    delta, label = array(0.5, -0.1, 1.2, -0.7, 0.3), array(1.0, 1.0, 1.0, 0.0, 0.25)
    slope = calibration.calibration_slope(delta, label)
    assert calibration.calibration_slope(delta * unit, label) * unit == pytest.approx(slope, rel=1e-9)


def test_a_slope_without_an_answer_is_infinite_or_0() -> None:
    assert calibration.calibration_slope(array(0.5, -0.1), array(1.0, 0.0)) == math.inf
    assert calibration.calibration_slope(array(0.5, -0.1, 0.0), array(0.0, 1.0, 1.0)) == -math.inf
    assert -math.inf < calibration.calibration_slope(array(0.5, -0.1), array(0.1, 1.0)) < 0
    assert calibration.calibration_slope(array(0.0, 0.0), array(1.0, 0.0)) == 0
    assert calibration.calibration_slope(array(2.0, 3.0, -1.0), array(0.0, 1.0, 1.0)) < 0.2


# --- what sways it ---------------------------------------------------------------------------------------------------


def test_a_slope_within_groups_is_blind_to_what_lies_between_them() -> None:
    # within both prompts 2 per token; the prompt with the longer answers has the lower rewards
    reward, x, group = array(1.0, 3.0, -90.0, -94.0), array(1.0, 2.0, 12.0, 10.0), ["a", "a", "b", "b"]
    slope, error = calibration.slope_within(reward, x, group)
    assert slope == pytest.approx(2)
    assert error == pytest.approx(0, abs=1e-9)


def test_the_standard_error_of_a_slope_is_that_of_repeated_worlds() -> None:
    rng = np.random.default_rng(0)
    slopes, errors = [], []
    for _ in range(200):
        x, group = rng.normal(size=120), np.repeat(np.arange(60), 2)
        reward = 0.3 * x + rng.normal(size=60).repeat(2) + rng.normal(size=120) * (0.5 + np.abs(x))
        slope, error = calibration.slope_within(reward, x, group.tolist())
        slopes.append(slope)
        errors.append(error)
    assert np.mean(slopes) == pytest.approx(0.3, abs=0.03)
    assert np.mean(errors) == pytest.approx(np.std(slopes), rel=0.15)


def test_lengths_that_never_differ_have_no_slope() -> None:
    assert all(map(math.isnan, calibration.slope_within(array(1.0, 2.0), array(5.0, 5.0), ["a", "a"])))


def test_probes_are_told_by_attribute_and_direction() -> None:
    delta = array(1.0, -0.5, -2.0, 0.1, -0.15, 0.9)
    expected = ["higher", "higher", "lower", "same", "same", "same"]
    found = calibration.of_probes(delta, expected, ["polite", "polite", "rude", "name", "name", "name"])
    assert found["polite"]["as_expected"] == 0.5
    assert found["polite"]["difference"] == pytest.approx(0.25)
    assert found["polite"]["standard_error"] == pytest.approx(np.std([1.0, -0.5], ddof=1) / math.sqrt(2))
    assert (found["rude"]["as_expected"], found["rude"]["difference"]) == (1.0, 2.0)
    assert found["name"]["as_expected"] == pytest.approx(2 / 3)
    assert [found[name]["num"] for name in found] == [3, 2, 1]


# --- choices and ratings ---------------------------------------------------------------------------------------------


def test_a_choice_is_right_where_a_chosen_completion_has_the_highest_reward() -> None:
    found = calibration.of_choices(
        [[2.0], [1.0], [0.5], [3.0, 0.0]], [[1.0, 0.0, -1.0], [1.0, 0.0, -4.0], [0.6, 0.1, 0.2], [1.0, 2.0]]
    )
    assert found["accuracy"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)  # of a shared first place half
    assert found["chance"] == pytest.approx((0.25 * 3 + 0.5) / 4)
    assert found["all_chosen_above"] == pytest.approx(1 / 4)


def test_rewards_that_say_nothing_choose_as_well_as_chance() -> None:
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(4000, 4)).tolist()
    found = calibration.of_choices([r[:1] for r in rewards], [r[1:] for r in rewards])
    assert found["chance"] == 0.25
    assert found["accuracy"] == pytest.approx(0.25, abs=0.03)


def test_auc_is_the_share_of_pairs_in_order_and_the_threshold_splits_best() -> None:
    score, label = array(-1.0, 0.2, 0.2, 0.9, 3.0), np.array([False, False, True, True, True])
    found = calibration.of_labels(score, label)
    assert found["auc"] == pytest.approx((1 + 0.5 + 1 + 1 + 1 + 1) / 6)
    assert found["accuracy"] == pytest.approx(4 / 5)
    assert (found["threshold"], found["balanced_accuracy"]) == (pytest.approx(0.55), pytest.approx(5 / 6))
    everywhere = [(np.mean(score[label] > t) + np.mean(score[~label] <= t)) / 2 for t in np.linspace(-2, 4, 601)]
    assert max(everywhere) == pytest.approx(found["balanced_accuracy"])


def test_one_class_has_no_threshold() -> None:
    found = calibration.of_labels(array(1.0, 2.0), np.array([True, True]))
    assert "auc" not in found
    assert "threshold" not in found
    assert found["positive_share"] == 1


def test_figures_of_a_regression_are_those_by_hand() -> None:
    predicted, wanted = array(1.0, 2.0, 2.0, 9.0), array(0.0, 2.0, 3.0, 4.0)
    found = calibration.of_numbers(predicted, wanted, array(1.0, 4.0, 1.0, 1.0))
    assert found["mse"] == pytest.approx((1 + 0 + 1 + 25) / 4)
    assert found["mae"] == pytest.approx(7 / 4)
    assert found["pearson"] == pytest.approx(np.corrcoef(predicted, wanted)[0, 1])
    assert found["spearman"] == pytest.approx(np.corrcoef([1, 2.5, 2.5, 4], [1, 2, 3, 4])[0, 1])
    assert found["within_two_deviations"] == 0.75
    nll = [0.5 * (e**2 / v + math.log(2 * math.pi * v)) for e, v in ((1, 1), (0, 4), (1, 1), (5, 1))]
    assert found["nll"] == pytest.approx(sum(nll) / 4)
    assert "pearson" not in calibration.of_numbers(array(1.0, 1.0), array(0.0, 2.0))


def test_sources_are_counted_apart() -> None:
    found = calibration.by_source(["b", "a", "b"], array(1.0, -1.0, -2.0), array(1.0, 1.0, 1.0))
    assert found == {"a": {"num": 1.0, "accuracy": 0.0}, "b": {"num": 2.0, "accuracy": 0.5}}
