"""Inverse reinforcement learning on tables: the rewards that explain demonstrations, by maximum entropy.

For worlds that are small enough to be written down, and as the reference for what the reward model's losses `binary`
and `top_choice` do from texts (docs/ALGORITHMS.md). Finite horizons throughout: a policy may depend on the time.

T steps, S states, A actions, F features of a state and action. Tables are float64: transition_SAS[s, a, s2] is the
probability of s2 after a in s; start_S that of each state at the start; reward_TSA what an action earns in the mean. A
state that ends an episode leads to itself and earns nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MAX_ITERATIONS = 1000


def soft_optimum(
    reward_TSA: Tensor, transition_SAS: Tensor, beta: float = 1.0, ref_logp_TSA: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(value_TS, logp_TSA) of the policy with the highest mean of sum_t r_t - beta log(p_t / ref_t); differentiable.

    Backwards from the end: Q_t = r_t + sum_s2 P V_(t+1), V_t = beta log sum_a ref exp(Q_t / beta), log p_t = log ref +
    (Q_t - V_t) / beta; https://arxiv.org/abs/1702.08165 section 3.1 for the steps of an episode. Without a reference it
    is reward plus beta times entropy. ValueError where shapes do not fit or beta is not positive.
    """
    _check(reward_TSA, transition_SAS)
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta:g}")
    ref_logp_TSA = torch.zeros_like(reward_TSA) if ref_logp_TSA is None else ref_logp_TSA
    next_S = torch.zeros_like(reward_TSA[0, :, 0])
    values, policies = [], []
    for reward_SA, ref_logp_SA in zip(reversed(reward_TSA), reversed(ref_logp_TSA), strict=True):
        score_SA = ref_logp_SA + (reward_SA + transition_SAS @ next_S) / beta
        next_S = beta * score_SA.logsumexp(dim=1)
        values.append(next_S)
        policies.append(score_SA.log_softmax(dim=1))
    return torch.stack(values[::-1]), torch.stack(policies[::-1])


def values_of(
    logp_TSA: Tensor,
    reward_TSA: Tensor,
    transition_SAS: Tensor,
    beta: float = 0.0,
    ref_logp_TSA: Tensor | None = None,
) -> Tensor:
    """value_TS: mean of what a policy still earns from each state on, less beta times its divergence from the reference
    (without one plus beta times its entropy)."""
    _check(reward_TSA, transition_SAS)
    ref_logp_TSA = torch.zeros_like(reward_TSA) if ref_logp_TSA is None else ref_logp_TSA
    paid_TSA = reward_TSA - beta * (logp_TSA - ref_logp_TSA) if beta else reward_TSA
    next_S = torch.zeros_like(reward_TSA[0, :, 0])
    values = []
    for paid_SA, logp_SA in zip(reversed(paid_TSA), reversed(logp_TSA), strict=True):
        next_S = (logp_SA.exp() * (paid_SA + transition_SAS @ next_S)).sum(dim=1)
        values.append(next_S)
    return torch.stack(values[::-1])


def visits(logp_TSA: Tensor, transition_SAS: Tensor, start_S: Tensor) -> Tensor:
    """visit_TSA: probability that the policy is in s at time t and does a."""
    at_S, parts = start_S, []
    for logp_SA in logp_TSA:
        visit_SA = at_S[:, None] * logp_SA.exp()
        parts.append(visit_SA)
        at_S = torch.einsum("sa,sau->u", visit_SA, transition_SAS)
    return torch.stack(parts)


def max_entropy(
    visit_TSA: Tensor,
    feature_SAF: Tensor,
    transition_SAS: Tensor,
    start_S: Tensor,
    *,
    beta: float = 1.0,
    l2: float = 0.0,
) -> Tensor:
    """weight_F: the reward feature_SAF @ weight_F under which the demonstrations are likeliest.

    Maximum causal entropy, https://arxiv.org/abs/2203.11409 section 3: at the optimum the soft-optimal policy visits
    each feature as often as the demonstrations do. visit_TSA: their share of visits, as visits() has it. What every
    policy visits alike (a constant, a potential's differences) stays at 0 where l2 > 0, and at its start without.
    The weights are unbounded where the demonstrations never vary: set l2. ValueError where shapes do not fit.
    """
    if feature_SAF.shape[:2] != transition_SAS.shape[:2]:
        raise ValueError(
            f"feature_SAF must begin with {tuple(transition_SAS.shape[:2])}, got {tuple(feature_SAF.shape)}"
        )
    wanted_F = torch.einsum("tsa,saf->f", visit_TSA, feature_SAF)
    weight_F = torch.zeros(feature_SAF.shape[2], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight_F],
        max_iter=_MAX_ITERATIONS,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def minus_log_likelihood() -> Tensor:
        optimizer.zero_grad()
        reward_TSA = (feature_SAF @ weight_F).expand(visit_TSA.shape)
        value_TS, _ = soft_optimum(reward_TSA, transition_SAS, beta)
        # its gradient is what the soft-optimal policy visits, less what the demonstrations visit
        loss = (start_S * value_TS[0]).sum() - wanted_F @ weight_F + l2 / 2 * weight_F.square().sum()
        loss.backward()
        return loss

    optimizer.step(minus_log_likelihood)
    return weight_F.detach()


def _check(reward_TSA: Tensor, transition_SAS: Tensor) -> None:
    if reward_TSA.ndim != 3 or transition_SAS.shape != (*reward_TSA.shape[1:], reward_TSA.shape[1]):
        raise ValueError(
            f"transition_SAS must be [S, A, S] of reward_TSA's [T, S, A], got {tuple(transition_SAS.shape)} and "
            f"{tuple(reward_TSA.shape)}"
        )
