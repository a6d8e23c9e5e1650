"""A known preference: the reward model's losses recover the differences of the rewards behind it, and their noise."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch import Tensor

from rlvr import calibration
from rlvr.preference_losses import bradley_terry, centring, davidson, davidson_logp, plackett_luce, target

REWARD_K = torch.tensor([1.2, 0.4, 0.0, -0.9], dtype=torch.float64)
FIRST_P, SECOND_P = torch.triu_indices(4, 4, offset=1).unbind()
DELTA_P = REWARD_K[FIRST_P] - REWARD_K[SECOND_P]


def fitted(loss_of: Callable[[Tensor], Tensor], num: int) -> Tensor:
    """The numbers that are least in the loss."""
    x = torch.zeros(num, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [x], max_iter=500, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    return x.detach()


def test_from_endless_comparisons_bradley_terry_recovers_every_difference() -> None:
    probability_P = torch.sigmoid(DELTA_P)
    score_K = fitted(lambda x_K: bradley_terry(x_K[FIRST_P] - x_K[SECOND_P], probability_P).sum(), 4)
    torch.testing.assert_close(score_K - score_K.mean(), REWARD_K - REWARD_K.mean(), atol=1e-6, rtol=0)


def test_a_margin_is_added_to_the_difference() -> None:
    margin_P = torch.full_like(DELTA_P[:1], 0.5)
    delta = fitted(lambda x: bradley_terry(x, torch.sigmoid(DELTA_P[:1]), margin_P).sum(), 1)
    assert float(delta) == pytest.approx(float(DELTA_P[0]) + 0.5, abs=1e-6)


def test_a_known_share_of_flips_is_taken_out_and_smoothing_adds_another() -> None:
    flipped_P = 0.8 * torch.sigmoid(DELTA_P) + 0.2 * torch.sigmoid(-DELTA_P)
    of_target = lambda target_P: fitted(lambda x_P: bradley_terry(x_P, target_P).sum(), len(DELTA_P))  # noqa: E731
    torch.testing.assert_close(of_target(target(flipped_P, flip_rate=0.2)), DELTA_P, atol=1e-5, rtol=0)
    plain_P, smoothed_P = of_target(flipped_P), of_target(target(flipped_P, label_smoothing=0.2))
    assert bool((plain_P < 0.7 * DELTA_P).all())
    assert bool((smoothed_P < 0.7 * plain_P).all())


def test_from_endless_rankings_plackett_luce_recovers_every_difference() -> None:
    orders = list(permutations(range(4)))
    level_LK = torch.tensor([[order.index(k) for k in range(4)] for order in orders])
    # best first: each is chosen among all that are left with probability e^r over their sum
    probability_L = torch.stack(
        [torch.stack([REWARD_K[list(order[k:])].log_softmax(0)[0] for k in range(4)]).sum().exp() for order in orders]
    )
    assert float(probability_L.sum()) == pytest.approx(1)
    score_K = fitted(lambda x_K: (probability_L * plackett_luce(x_K.expand(24, 4), level_LK)).sum(), 4)
    torch.testing.assert_close(score_K - score_K.mean(), REWARD_K - REWARD_K.mean(), atol=1e-5, rtol=0)


def test_with_ties_davidson_recovers_differences_and_how_likely_a_tie_is() -> None:
    log_nu = torch.tensor(-0.7, dtype=torch.float64)
    first_P, tie_P, second_P = (logp_P.exp() for logp_P in davidson_logp(DELTA_P, log_nu))

    def loss(x: Tensor) -> Tensor:
        delta_P, nu = x[FIRST_P] - x[SECOND_P], x[4]
        outcomes = ((first_P, 1.0, False), (second_P, 0.0, False), (tie_P, 0.5, True))
        return sum(
            (share_P * davidson(delta_P, torch.full_like(delta_P, label), torch.full((6,), is_tie), nu)).sum()
            for share_P, label, is_tie in outcomes
        )  # pyright: ignore[reportReturnType]

    found = fitted(loss, 5)
    torch.testing.assert_close(found[:4] - found[:4].mean(), REWARD_K - REWARD_K.mean(), atol=1e-5, rtol=0)
    assert float(found[4]) == pytest.approx(-0.7, abs=1e-5)


def test_centring_holds_the_mean_at_zero_and_shrinks_differences() -> None:
    probability_P, level_LK = torch.sigmoid(DELTA_P), torch.tensor([[0, 1]])

    def loss(coef: float) -> Callable[[Tensor], Tensor]:
        def of(x_K: Tensor) -> Tensor:
            pairs_PK = torch.stack([x_K[FIRST_P], x_K[SECOND_P]], dim=1)
            return bradley_terry(pairs_PK[:, 0] - pairs_PK[:, 1], probability_P).mean() + coef * (
                centring(pairs_PK, level_LK.expand(6, 2)).mean()
            )

        return of

    centred_K = fitted(loss(0.01), 4)
    assert abs(float(centred_K.mean())) < 0.2
    assert 0.8 < float(centred_K.std() / REWARD_K.std()) < 0.999


# --- from finite noisy labels ----------------------------------------------------------------------------------------

NUM_FEATURES = 16
WEIGHT_F = torch.randn(NUM_FEATURES, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2


def pairs(num: int, seed: int, flips: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """(feature difference [P, F], true probability of the first [P], label [P]) of random completions."""
    generator = torch.Generator().manual_seed(seed)
    feature_PF = torch.randn(num, NUM_FEATURES, generator=generator, dtype=torch.float64)
    probability_P = torch.sigmoid(feature_PF @ WEIGHT_F)
    told_P = (1 - flips) * probability_P + flips * (1 - probability_P)
    label_P = torch.rand(num, generator=generator, dtype=torch.float64) < told_P
    return feature_PF, probability_P, label_P.double()


def fit(num: int, flips: float = 0.0, *, flip_rate: float = 0.0, label_smoothing: float = 0.0) -> dict[str, float]:
    """A linear reward from noisy labels, measured on pairs that it has not seen, whose probabilities are known."""
    feature_PF, _, label_P = pairs(num, 1, flips)
    target_P = target(label_P, flip_rate=flip_rate, label_smoothing=label_smoothing)
    weight_F = fitted(lambda x_F: bradley_terry(feature_PF @ x_F, target_P).mean(), NUM_FEATURES)
    unseen_PF, probability_P, _ = pairs(20_000, 2)
    true_P = probability_P.numpy()
    return calibration.of_pairs((unseen_PF @ weight_F).numpy(), true_P, true_P)


def test_more_comparisons_come_nearer_to_the_noise_ceiling() -> None:
    few, many = fit(200), fit(20_000)
    assert few["ceiling_share"] < 0.99 < 0.998 < many["ceiling_share"] <= 1
    assert few["expected_nll"] > 1.02 * many["best_nll"]
    assert many["best_nll"] < many["expected_nll"] < 1.002 * many["best_nll"]
    assert many["reward_scale"] == pytest.approx(1, abs=0.05)
    assert many["ece_true"] < 0.015 < few["ece_true"]


def test_flipped_labels_leave_the_order_and_spoil_the_scale_which_the_robust_form_restores() -> None:
    clean, plain = fit(20_000), fit(20_000, 0.2)
    smoothed, robust = fit(20_000, 0.2, label_smoothing=0.2), fit(20_000, 0.2, flip_rate=0.2)
    for found in (plain, smoothed, robust):
        assert found["expected_accuracy"] > 0.99 * clean["expected_accuracy"]
    assert plain["reward_scale"] < 0.6
    assert smoothed["reward_scale"] < 0.7 * plain["reward_scale"]
    assert robust["reward_scale"] == pytest.approx(clean["reward_scale"], rel=0.1)
    assert smoothed["ece_true"] > plain["ece_true"] > 0.05 > 0.03 > robust["ece_true"]
