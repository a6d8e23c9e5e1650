"""Preference losses against their formulas written out, and against worlds whose right answer is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvr import calibration, preference_losses

SCORES = st.lists(st.floats(-6, 6), min_size=2, max_size=5)


def f64(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def value_and_gradient(loss: Callable[[Tensor], Tensor], score: Tensor) -> tuple[Tensor, Tensor]:
    score = score.clone().requires_grad_()
    value = loss(score)
    (gradient,) = torch.autograd.grad(value.sum(), score)
    return value.detach(), gradient


def assert_equal(ours: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], score: Tensor) -> None:
    """The same values and the same gradients."""
    for mine, theirs in zip(value_and_gradient(ours, score), value_and_gradient(plain, score), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def s(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


DELTA = f64(-2.5, -0.3, 0.0, 0.7, 3.1)
P = f64(1.0, 0.5, 0.0, 0.8, 1.0)
MARGIN = f64(0.0, 0.2, 1.0, -0.5, 2.0)


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_bradley_terry_is_the_logistic_loss_of_the_difference() -> None:
    assert_equal(lambda d: preference_losses.bradley_terry(d, torch.ones_like(d)), lambda d: -torch.log(s(d)), DELTA)
    assert_equal(
        lambda d: preference_losses.bradley_terry(d, P, MARGIN),
        lambda d: -P * torch.log(s(d - MARGIN)) - (1 - P) * torch.log(s(MARGIN - d)),
        DELTA,
    )


def test_label_smoothing_gives_a_share_to_the_other_side() -> None:
    def plain(d: Tensor) -> Tensor:
        return -0.9 * torch.log(s(d - MARGIN)) - 0.1 * torch.log(s(MARGIN - d))

    target = preference_losses.target(torch.ones(5, dtype=torch.float64), label_smoothing=0.1)
    assert_equal(lambda d: preference_losses.bradley_terry(d, target, MARGIN), plain, DELTA)


def test_the_robust_form_is_the_difference_of_both_sides_over_1_minus_2_epsilon() -> None:
    def plain(d: Tensor) -> Tensor:
        return (-(1 - 0.2) * torch.log(s(d)) + 0.2 * torch.log(s(-d))) / (1 - 2 * 0.2)

    target = preference_losses.target(torch.ones(5, dtype=torch.float64), flip_rate=0.2)
    assert_equal(lambda d: preference_losses.bradley_terry(d, target), plain, DELTA)


@given(st.floats(0, 1), st.floats(0.01, 0.49), st.floats(-5, 5))
def test_the_robust_loss_of_flipped_labels_is_in_the_mean_the_loss_of_the_right_ones(
    p: float, rate: float, delta: float
) -> None:
    def loss(label: float) -> float:
        return float(preference_losses.bradley_terry(f64(delta), preference_losses.target(f64(label), flip_rate=rate)))

    mean = p * ((1 - rate) * loss(1) + rate * loss(0)) + (1 - p) * ((1 - rate) * loss(0) + rate * loss(1))
    assert mean == pytest.approx(float(preference_losses.bradley_terry(f64(delta), f64(p))), rel=1e-6, abs=1e-9)


def test_rates_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="must be in"):
        preference_losses.target(P, flip_rate=0.5)
    with pytest.raises(ValueError, match="set one of them"):
        preference_losses.target(P, flip_rate=0.1, label_smoothing=0.1)


@given(st.floats(-30, 30), st.floats(-5, 5))
def test_davidson_probabilities_sum_to_1_and_are_davidsons(delta: float, log_nu: float) -> None:
    logps = preference_losses.davidson_logp(f64(delta), torch.tensor(log_nu, dtype=torch.float64))
    assert sum(float(logp.exp()) for logp in logps) == pytest.approx(1, abs=1e-12)
    a, b, nu = math.exp(delta), 1.0, math.exp(log_nu)  # strengths of both sides
    total = a + b + nu * math.sqrt(a * b)
    for logp, weight in zip(logps, (a, nu * math.sqrt(a * b), b), strict=True):
        assert float(logp) == pytest.approx(math.log(weight / total), rel=1e-9, abs=1e-9)


def test_davidson_takes_ties_as_an_outcome_and_learns_their_weight() -> None:
    is_tie = P == 0.5
    log_nu = torch.tensor(0.3, dtype=torch.float64)

    def plain(d: Tensor, log_nu: Tensor = log_nu) -> Tensor:
        total = torch.exp(d / 2) + torch.exp(-d / 2) + torch.exp(log_nu)
        first, second, tie = torch.exp(d / 2) / total, torch.exp(-d / 2) / total, torch.exp(log_nu) / total
        return torch.where(is_tie, -torch.log(tie), -P * torch.log(first) - (1 - P) * torch.log(second))

    assert_equal(lambda d: preference_losses.davidson(d, P, is_tie, log_nu), plain, DELTA)
    assert_equal(lambda d: preference_losses.davidson(d, P, is_tie, log_nu, MARGIN), lambda d: plain(d - MARGIN), DELTA)
    assert_equal(lambda nu: preference_losses.davidson(DELTA, P, is_tie, nu), lambda nu: plain(DELTA, nu), log_nu)


# --- lists -----------------------------------------------------------------------------------------------------------


@given(SCORES)
@settings(max_examples=30)
def test_plackett_luce_sums_to_1_over_all_orders(scores: list[float]) -> None:
    orders = [list(order) for order in itertools.permutations(scores)]
    levels = torch.arange(len(scores)).expand(len(orders), -1)
    loss_L = preference_losses.plackett_luce(f64(*orders), levels)
    assert float(torch.exp(-loss_L).sum()) == pytest.approx(1, abs=1e-9)


def test_plackett_luce_is_the_product_of_its_stages_whatever_pads_it() -> None:
    def plain(r: Tensor) -> Tensor:
        three = sum(torch.logsumexp(r[0, k:3], 0) - r[0, k] for k in range(2))
        four = sum(torch.logsumexp(r[1, k:], 0) - r[1, k] for k in range(3))
        return torch.stack([torch.as_tensor(three), torch.as_tensor(four)])

    score = f64([0.3, -1.0, 2.0, math.inf], [1.0, 0.5, -0.5, 4.0])
    score[0, 3] = 99.0  # padding
    level = torch.tensor([[0, 1, 2, -1], [0, 1, 2, 3]])
    assert_equal(lambda r: preference_losses.plackett_luce(r, level), plain, score)


def test_tied_completions_are_not_compared_with_each_other() -> None:
    level = torch.tensor([[0, 0, 1]])

    def plain(r: Tensor) -> Tensor:  # each of the two best against the worst
        return torch.log1p(torch.exp(r[:, 2] - r[:, 0])) + torch.log1p(torch.exp(r[:, 2] - r[:, 1]))

    assert_equal(lambda r: preference_losses.plackett_luce(r, level), plain, f64([0.4, -2.0, 1.0]))
    assert_equal(lambda r: preference_losses.top_choice(r, level), lambda r: plain(r) / 2, f64([0.4, -2.0, 1.0]))


def test_two_places_are_bradley_terry() -> None:
    score = torch.stack([DELTA, torch.zeros_like(DELTA)], dim=1)
    level = torch.tensor([0, 1]).expand(5, 2)
    wanted = preference_losses.bradley_terry(DELTA, torch.ones_like(DELTA))
    for loss in (preference_losses.plackett_luce, preference_losses.top_choice):
        torch.testing.assert_close(loss(score, level), wanted)


def test_top_choice_is_the_log_softmax_of_the_best() -> None:
    score, level = f64([0.3, -1.0, 2.0], [1.0, 0.5, 7.0]), torch.tensor([[0, 1, 2], [0, 1, -1]])

    def plain(r: Tensor) -> Tensor:
        return torch.stack([-torch.log_softmax(r[0], 0)[0], -torch.log_softmax(r[1, :2], 0)[0]])

    assert_equal(lambda r: preference_losses.top_choice(r, level), plain, score)


def test_centring_of_a_pair_is_trls_and_padding_does_not_count() -> None:
    score, level = f64([1.0, 2.0, 50.0], [1.0, 2.0, 3.0]), torch.tensor([[0, 1, -1], [0, 1, 2]])
    assert_equal(
        lambda r: preference_losses.centring(r, level),
        lambda r: torch.stack([(r[0, 0] + r[0, 1]) ** 2, (2 * r[1].mean()) ** 2]),
        score,
    )
    assert preference_losses.centring(score, level).tolist() == [9.0, 16.0]


# --- ratings ---------------------------------------------------------------------------------------------------------


def test_binary_is_the_cross_entropy_of_a_logit() -> None:
    assert_equal(
        lambda r: preference_losses.binary(r, P), lambda r: -P * torch.log(s(r)) - (1 - P) * torch.log(1 - s(r)), DELTA
    )


TARGETS = f64([1.0, math.nan], [0.5, -2.0], [math.nan, math.nan])


def test_squared_error_leaves_out_what_was_not_rated() -> None:
    def plain(r: Tensor) -> Tensor:
        both = ((r[1, 0] - 0.5) ** 2 + (r[1, 1] + 2.0) ** 2) / 2
        return torch.stack([(r[0, 0] - 1.0) ** 2, both, 0 * r[2, 0]])

    score = f64([0.2, 5.0], [1.5, 0.0], [3.0, 3.0])
    assert_equal(lambda r: preference_losses.squared_error(r, TARGETS), plain, score)


def test_gaussian_nll_is_the_density_of_what_was_rated() -> None:
    def plain(r: Tensor) -> Tensor:
        def one(row: int, k: int) -> Tensor:
            return -torch.distributions.Normal(r[row, k], torch.exp(r[row, 2 + k] / 2)).log_prob(TARGETS[row, k])

        return torch.stack([one(0, 0), (one(1, 0) + one(1, 1)) / 2, 0 * r[2, 0]])

    score = f64([0.2, 5.0, -0.4, 0.0], [1.5, 0.0, 0.7, 1.2], [3.0, 3.0, 0.0, 0.0])
    assert_equal(lambda r: preference_losses.gaussian_nll(r[:, :2], r[:, 2:], TARGETS), plain, score)


# --- a world whose preferences are known -----------------------------------------------------------------------------


class World:
    """Completions are 16 numbers, the reward their product with `truth`: the noise ceiling is 0.82."""

    def __init__(self, num: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.truth = np.random.default_rng(7).normal(size=16) * 0.75
        self.x_PD = rng.normal(size=(num, 16)) - rng.normal(size=(num, 16))
        self.p_P = calibration.sigmoid(self.x_PD @ self.truth)
        self.label_P = (rng.random(num) < self.p_P).astype(np.float64)
        self.flipped_P = np.where(rng.random(num) < 0.2, 1 - self.label_P, self.label_P)

    def fit(self, label_P: Any, num: int | None = None, **how: float) -> Any:
        """The weights that bradley_terry() is least at, by Newton's method of the library."""
        x_PD, target_P = torch.from_numpy(self.x_PD[:num]), preference_losses.target(torch.from_numpy(label_P), **how)
        weight_D = torch.zeros(16, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight_D], max_iter=60, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = preference_losses.bradley_terry(x_PD @ weight_D, target_P[:num]).mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        return weight_D.detach().numpy()

    def figures(self, weight_D: Any) -> dict[str, float]:
        return calibration.of_pairs(self.x_PD @ weight_D, self.label_P, self.p_P)


@pytest.fixture(scope="module")
def world() -> World:
    return World(50_000)


@pytest.fixture(scope="module")
def held_out() -> World:
    return World(20_000, seed=1)


def test_a_known_world_is_recovered_to_its_noise_ceiling(world: World, held_out: World) -> None:
    found = held_out.figures(world.fit(world.label_P))
    assert found["noise_ceiling"] == pytest.approx(0.82, abs=0.03)
    assert found["ceiling_share"] > 0.995
    assert found["expected_nll"] == pytest.approx(found["best_nll"], abs=2e-3)
    assert found["ece_true"] < 0.01
    assert found["reward_scale"] == pytest.approx(1, abs=0.03)
    assert found["calibration_slope"] == pytest.approx(1, abs=0.05)


def test_flipped_labels_shrink_rewards_and_the_robust_form_gives_their_scale_back(
    world: World, held_out: World
) -> None:
    clean, flipped, robust, smoothed = (
        held_out.figures(weight_D)
        for weight_D in (
            world.fit(world.label_P),
            world.fit(world.flipped_P),
            world.fit(world.flipped_P, flip_rate=0.2),
            world.fit(world.flipped_P, label_smoothing=0.2),
        )
    )
    assert flipped["expected_accuracy"] == pytest.approx(clean["expected_accuracy"], abs=0.005)  # the order stays
    assert flipped["reward_scale"] < 0.5
    assert flipped["ece"] > 0.1
    assert smoothed["reward_scale"] < flipped["reward_scale"]  # and smoothing makes it worse
    assert robust["reward_scale"] == pytest.approx(clean["reward_scale"], rel=0.1)
    assert robust["calibration_slope"] == pytest.approx(clean["calibration_slope"], rel=0.1)
    assert robust["ece_true"] < 0.015


def test_few_pairs_give_less_accuracy_and_too_much_certainty(world: World, held_out: World) -> None:
    few = held_out.figures(world.fit(world.label_P[:400], num=400))
    many = held_out.figures(world.fit(world.label_P))
    assert few["ceiling_share"] < many["ceiling_share"] - 0.005
    assert few["calibration_slope"] < 0.95
    assert few["reward_scale"] > 1.02
