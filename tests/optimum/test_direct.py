"""The direct methods on tables: each against its own fixed point, in closed form or solved apart from our code.

K completions of one prompt, pairs drawn as ref x ref, of which i is preferred to j with probability sigmoid(r_i - r_j).
The mean of a loss over all of them is made least exactly; what is left is the method's own answer to endless data.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from known_bandit import Bandit, bandit
from scipy.optimize import linprog, minimize
from torch import Tensor

from rlvr.direct_losses import direct_loss, kto_loss, mismatched_kl
from rlvr.direct_settings import DirectLoss

WORLD = bandit()
BETA, FLIPS = 0.5, 0.2
LENGTH_K = torch.tensor([1, 2, 1, 3, 2, 1, 2, 1])
WEIGHT_KK = WORLD.ref_logp_K.exp()[:, None] * WORLD.ref_logp_K.exp()
PREFERRED_KK = torch.sigmoid(WORLD.reward_K[:, None] - WORLD.reward_K)


def kl(logp_K: Tensor, other_K: Tensor) -> float:
    return float((logp_K.exp() * (logp_K - other_K)).sum())


def lowest(loss_of: Callable[[Tensor], Tensor]) -> Tensor:
    """logp_K that is least in the loss, from the reference."""
    logits_K = WORLD.ref_logp_K.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [logits_K], max_iter=2000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(logits_K.log_softmax(0))
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits_K.detach().log_softmax(0)


def mean_loss(loss: DirectLoss, logp_K: Tensor, flips: float = 0.0, length_K: Tensor | None = None) -> Tensor:
    """Over all pairs and labels, of which a share `flips` is the wrong way round."""
    first_P, second_P = (
        index_KK.flatten() for index_KK in torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    )
    length_K = torch.ones(8) if length_K is None else length_K
    probability_KK = (1 - flips) * PREFERRED_KK + flips * (1 - PREFERRED_KK)
    loss_P, _ = direct_loss(
        loss,
        logp_K[first_P],
        logp_K[second_P],
        WORLD.ref_logp_K[first_P] if loss.needs_reference else None,
        WORLD.ref_logp_K[second_P] if loss.needs_reference else None,
        length_K[first_P],
        length_K[second_P],
        probability_KK.flatten(),
    )
    return (WEIGHT_KK.flatten() * loss_P).sum()


def learnt(loss: DirectLoss, flips: float = 0.0, length_K: Tensor | None = None) -> Tensor:
    return lowest(lambda logp_K: mean_loss(loss, logp_K, flips, length_K))


def solved(
    pair: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], flips: float = 0.0, own: bool = False
) -> Tensor:
    """logp_K that is least in the mean of pair(x_i, x_j, length_i), the loss where i is preferred; by numpy and scipy.

    x: log p - log p_ref, or with own the log-probability itself.
    """
    ref, weight = WORLD.ref_logp_K.numpy(), WEIGHT_KK.numpy()
    probability = (1 - flips) * PREFERRED_KK.numpy() + flips * (1 - PREFERRED_KK.numpy())
    length = LENGTH_K.numpy()[:, None]

    def mean(logits: np.ndarray) -> float:
        logp = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        x = logp if own else logp - ref
        preferred = pair(x[:, None], x[None, :], length)
        return float((weight * (probability * preferred + (1 - probability) * preferred.T)).sum())

    found = minimize(mean, ref, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000})
    return torch.from_numpy(found.x).log_softmax(0)


def logistic_loss(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, -x)


# --- closed forms ----------------------------------------------------------------------------------------------------


def test_dpo_reaches_the_optimum_of_the_reward() -> None:
    found_K = learnt(DirectLoss(kind="sigmoid", beta=BETA))
    assert kl(found_K, WORLD.best_logp_K) < 1e-9
    assert WORLD.gap(found_K) < 1e-9


def test_robust_dpo_reaches_the_same_optimum_from_flipped_labels_and_others_do_not() -> None:
    assert kl(learnt(DirectLoss(kind="robust", beta=BETA, label_smoothing=FLIPS), FLIPS), WORLD.best_logp_K) < 1e-9
    plain = kl(learnt(DirectLoss(kind="sigmoid", beta=BETA), FLIPS), WORLD.best_logp_K)
    careful = kl(learnt(DirectLoss(kind="sigmoid", beta=BETA, label_smoothing=FLIPS), FLIPS), WORLD.best_logp_K)
    assert plain == pytest.approx(0.071, rel=0.1)
    assert careful == pytest.approx(0.206, rel=0.1)


@pytest.mark.parametrize("tau", [0.5, 0.1])
def test_ipo_reaches_the_reference_tilted_by_the_share_of_rivals_that_are_beaten(tau: float) -> None:
    # h_i - h_j as near as can be to (2 p_ij - 1) / (2 tau) in the mean square: h_i = sum_j ref_j p_ij / tau
    wins_K = PREFERRED_KK @ WORLD.ref_logp_K.exp()
    best_K = (WORLD.ref_logp_K + wins_K / tau).log_softmax(0)
    found_K = learnt(DirectLoss(kind="ipo", beta=tau))
    assert kl(found_K, best_K) < 1e-9
    assert tau != BETA or kl(found_K, WORLD.best_logp_K) > 0.2  # another question has another answer


def test_kto_keeps_what_is_good_more_often_than_not_and_drops_the_rest() -> None:
    # sum_i ref_i (1 - 2 q_i) sigmoid(beta l_i), l_i = log p_i / ref_i: where q_i > 1/2 the sigmoid's derivative over
    # e^l_i is the same for all, which a search for that number solves; elsewhere l falls without end
    good_K = torch.sigmoid(2 * WORLD.reward_K - 0.5)
    ref_K = WORLD.ref_logp_K.exp()
    is_good_K, l_K = good_K > 0.5, torch.zeros_like(ref_K)
    low, high = -20.0, 20.0
    for _ in range(100):
        log_level = (low + high) / 2
        below_K, above_K = torch.full_like(ref_K, -40), torch.full_like(ref_K, 40)
        for _ in range(100):
            l_K = (below_K + above_K) / 2
            x_K = BETA * l_K
            slope_K = (
                (2 * good_K - 1).abs().log()
                + torch.nn.functional.logsigmoid(x_K)
                - x_K
                - torch.log1p(torch.exp(-x_K))
                - l_K
            )
            is_high_K = slope_K > log_level
            below_K, above_K = torch.where(is_high_K, l_K, below_K), torch.where(is_high_K, above_K, l_K)
        mass = float((ref_K * l_K.exp())[is_good_K].sum())
        low, high = (log_level, high) if mass > 1 else (low, log_level)
    best_K = torch.where(is_good_K, ref_K * l_K.exp(), 0.0)
    settings = DirectLoss(kind="kto", beta=BETA)
    # what the reference wrote is in the mean less likely under any other policy: log p - log p_ref is -KL(ref || p)
    drawn_M = torch.multinomial(ref_K, 1000, replacement=True, generator=torch.Generator().manual_seed(0))
    reference_point = mismatched_kl(WORLD.best_logp_K[drawn_M], WORLD.ref_logp_K[drawn_M])
    assert float(reference_point) == 0
    found_K = lowest(
        lambda logp_K: (ref_K * kto_loss(settings, logp_K, WORLD.ref_logp_K, good_K, reference_point)[0]).sum()
    )
    assert found_K.exp().tolist() == pytest.approx(best_K.tolist(), abs=2e-3)
    assert float(best_K.sum()) == pytest.approx(1, abs=1e-6)


def test_hinge_has_the_least_loss_that_linear_programming_finds() -> None:
    # variables d_1..d_8 = log p / p_ref, and for each pair what is missing to a margin of 1 either way
    pairs = [(i, j) for i in range(8) for j in range(8) if i != j]
    cost = np.array([0.0] * 8 + [2 * float(WEIGHT_KK[i, j] * PREFERRED_KK[i, j]) for i, j in pairs])
    rows = np.zeros((len(pairs), 8 + len(pairs)))
    for number, (i, j) in enumerate(pairs):
        rows[number, [i, j, 8 + number]] = -BETA, BETA, -1
    bounds = [(None, None)] * 8 + [(0, None)] * len(pairs)
    least = linprog(cost, A_ub=rows, b_ub=-np.ones(len(pairs)), bounds=bounds).fun
    least += float((WEIGHT_KK.diagonal()).sum())  # a completion against itself: 1
    hinge = DirectLoss(kind="hinge", beta=BETA)
    logits_K = WORLD.ref_logp_K.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([logits_K], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 1000)
    for _ in range(1000):
        optimizer.zero_grad()
        mean_loss(hinge, logits_K.log_softmax(0)).backward()
        optimizer.step()
        schedule.step()
    found = float(mean_loss(hinge, logits_K.detach().log_softmax(0)))
    assert least - 1e-9 < found < least + 1e-3
    assert float(mean_loss(hinge, WORLD.ref_logp_K)) > least + 0.1


# --- solved apart ----------------------------------------------------------------------------------------------------


def cdpo(x: np.ndarray, y: np.ndarray, length: np.ndarray) -> np.ndarray:
    return (1 - FLIPS) * logistic_loss(BETA * (x - y)) + FLIPS * logistic_loss(-BETA * (x - y))


def rpo(x: np.ndarray, y: np.ndarray, length: np.ndarray) -> np.ndarray:
    return logistic_loss(BETA * (x - y)) - (x + WORLD.ref_logp_K.numpy()[:, None]) / length + 0 * y


def simpo(x: np.ndarray, y: np.ndarray, length: np.ndarray) -> np.ndarray:
    return logistic_loss(BETA * (x / length - y / length.T) - 0.3)


def ipo_mean(x: np.ndarray, y: np.ndarray, length: np.ndarray) -> np.ndarray:
    return (x / length - y / length.T - 1 / (2 * BETA)) ** 2


def orpo(x: np.ndarray, y: np.ndarray, length: np.ndarray) -> np.ndarray:
    odds = lambda mean: mean - np.log1p(-np.exp(mean))  # noqa: E731
    return -x / length + BETA * logistic_loss(odds(x / length) - odds(y / length.T))


@pytest.mark.parametrize(
    ("loss", "pair", "own"),
    [
        (DirectLoss(kind="sigmoid", beta=BETA, label_smoothing=FLIPS), cdpo, False),
        (DirectLoss(kind="sigmoid", beta=BETA, rpo_alpha=1.0), rpo, False),
        (DirectLoss(kind="ipo", beta=BETA, ipo_logps="mean"), ipo_mean, False),
        (DirectLoss(kind="simpo", beta=BETA, simpo_gamma=0.3), simpo, True),
        (DirectLoss(kind="orpo", beta=BETA), orpo, True),
    ],
    ids=["cdpo", "rpo", "ipo of means", "simpo", "orpo"],
)
@pytest.mark.parametrize("flips", [0.0, FLIPS])
def test_a_method_without_a_closed_form_has_the_fixed_point_that_a_plain_solver_finds(
    loss: DirectLoss, pair: Callable[..., np.ndarray], own: bool, flips: float
) -> None:
    found_K, wanted_K = learnt(loss, flips, LENGTH_K), solved(pair, flips, own)
    assert kl(found_K, wanted_K) < 1e-6
    assert kl(found_K, WORLD.best_logp_K) > 0.01  # none of them is after J


def two(p: float) -> Bandit:
    """Two completions, of which the first is preferred with probability p."""
    return Bandit(
        torch.tensor([np.log(p / (1 - p)), 0.0], dtype=torch.float64), torch.tensor([0.3, 0.7]).double().log(), BETA
    )


def root(function: Callable[[float], float]) -> float:
    low, high = -30.0, 30.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return low


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("p", [0.6, 0.9])
def test_of_two_completions_each_method_has_the_log_odds_that_its_formula_says(p: float) -> None:
    world, smoothed = two(p), (1 - FLIPS) * p + FLIPS * (1 - p)
    ref, logit = float(world.ref_logp_K[0] - world.ref_logp_K[1]), lambda q: np.log(q / (1 - q))
    wanted = {
        "sigmoid": ref + logit(p) / BETA,
        "cdpo": ref + logit(smoothed) / BETA,
        "ipo": ref + (2 * p - 1) / (2 * BETA),
        # p sigmoid(gamma - b z) = (1 - p) sigmoid(b z - gamma'): the margin is asked for either way round
        "simpo": root(lambda z: (1 - p) * sigmoid(0.3 + BETA * z) - p * sigmoid(0.3 - BETA * z)),
        # -p log s(z) - (1 - p) log s(-z) - b [p log s(2z) + (1 - p) log s(-2z)]
        "orpo": root(lambda z: sigmoid(z) - p + 2 * BETA * (sigmoid(2 * z) - p)),
    }
    losses = {
        "sigmoid": DirectLoss(kind="sigmoid", beta=BETA),
        "cdpo": DirectLoss(kind="sigmoid", beta=BETA, label_smoothing=FLIPS),
        "ipo": DirectLoss(kind="ipo", beta=BETA),
        "simpo": DirectLoss(kind="simpo", beta=BETA, simpo_gamma=0.3),
        "orpo": DirectLoss(kind="orpo", beta=BETA),
    }
    one = torch.ones(1)
    for name, loss in losses.items():
        z = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [z], max_iter=500, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        def closure(z: Tensor = z, loss: DirectLoss = loss, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            logp_2 = torch.stack([z, torch.zeros_like(z)]).log_softmax(0)
            refs = (world.ref_logp_K[:1], world.ref_logp_K[1:]) if loss.needs_reference else (None, None)
            probability_B = torch.tensor([p], dtype=torch.float64)
            value = direct_loss(loss, logp_2[:1], logp_2[1:], *refs, one, one, probability_B)[0].sum()
            value.backward()
            return value

        optimizer.step(closure)
        assert float(z.detach()) == pytest.approx(wanted[name], abs=1e-5), name
