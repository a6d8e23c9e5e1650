"""Rewards from demonstrations: by maximum entropy on tables, and by the losses of the reward model."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from known_walk import COST, WORTH, Episodes, Walk, walk
from torch import Tensor

from rlvr.inverse import max_entropy, soft_optimum, values_of, visits
from rlvr.preference_losses import binary, top_choice


def features(world: Walk) -> Tensor:
    """feature_SAF: probability to arrive at the goal, the pit, the coin; and a step."""
    arrives = [world.transition_SAS[:, :, world.worth_S == worth].sum(dim=2) for worth in WORTH.values()]
    step_SA = torch.ones_like(arrives[0])
    feature_SAF = torch.stack([*arrives, step_SA], dim=2)
    return feature_SAF.masked_fill(world.is_end_S[:, None, None], 0.0)


def test_the_soft_optimum_is_that_of_all_sequences_of_actions_enumerated() -> None:
    # where nothing is left to chance: p(tau) in proportion to ref(tau) e^(R(tau) / beta), V = beta log of their sum
    world = Walk(num_steps=4, slip=0.0)
    value_TS, logp_TSA = soft_optimum(world.reward_TSA, world.transition_SAS, world.beta, world.ref_logp_TSA)
    start = int(world.start_S.argmax())
    weights, logps = [], []
    for actions in product(range(4), repeat=4):
        state, weight, logp = start, 0.0, 0.0
        for time, action in enumerate(actions):
            reward, ref = world.reward_TSA[time, state, action], world.ref_logp_TSA[time, state, action]
            weight += float(reward / world.beta + ref)
            logp += float(logp_TSA[time, state, action])
            state = int(world.transition_SAS[state, action].argmax())
        weights.append(weight)
        logps.append(logp)
    total = torch.tensor(weights, dtype=torch.float64).logsumexp(0)
    assert float(value_TS[0, start]) == pytest.approx(world.beta * float(total), rel=1e-12)
    assert logps == pytest.approx([weight - float(total) for weight in weights], rel=1e-9)


def test_no_other_policy_earns_more_less_its_divergence() -> None:
    world = Walk()
    value_TS, logp_TSA = world.best
    again_TS = values_of(logp_TSA, world.reward_TSA, world.transition_SAS, world.beta, world.ref_logp_TSA)
    torch.testing.assert_close(again_TS, value_TS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        noise_TSA = 0.2 * torch.randn(logp_TSA.shape, generator=generator, dtype=torch.float64)
        assert world.gap((logp_TSA + noise_TSA).log_softmax(2)) > 1e-5


def test_visits_are_those_of_many_episodes() -> None:
    world = Walk()
    visit_TSA = visits(world.ref_logp_TSA, world.transition_SAS, world.start_S)
    torch.testing.assert_close(visit_TSA.sum(dim=(1, 2)), torch.ones(world.num_steps, dtype=torch.float64))
    seen_TSA = shares(world, walk(world, world.ref_logp_TSA, 20_000, torch.Generator().manual_seed(1)))
    on_S = ~world.is_end_S
    assert (seen_TSA - visit_TSA)[:, on_S].abs().max() < 0.015


def shares(world: Walk, episodes: Episodes) -> Tensor:
    """visit_TSA of episodes; nothing after the end."""
    shape = world.ref_logp_TSA.shape
    seen_TSA = torch.zeros(shape, dtype=torch.float64)
    for time in range(shape[0]):
        is_on_B = episodes.action_BT[:, time] >= 0
        state_B, action_B = episodes.state_BT[is_on_B, time], episodes.action_BT[is_on_B, time]
        one_B = torch.ones(len(state_B), dtype=torch.float64)
        seen_TSA[time].index_put_((state_B, action_B), one_B, accumulate=True)
    return seen_TSA / len(episodes.action_BT)


@pytest.mark.parametrize("beta", [0.15, 1.0])
def test_maximum_entropy_recovers_the_reward_that_the_demonstrations_were_made_for(beta: float) -> None:
    world = Walk()
    feature_SAF, weight_F = features(world), torch.tensor([*WORTH.values(), -COST], dtype=torch.float64)
    reward_TSA = (feature_SAF @ weight_F).expand(world.num_steps, -1, -1)
    torch.testing.assert_close(reward_TSA, world.reward_TSA)
    _, demonstrated_TSA = soft_optimum(reward_TSA, world.transition_SAS, beta)
    visit_TSA = visits(demonstrated_TSA, world.transition_SAS, world.start_S)
    found_F = max_entropy(visit_TSA, feature_SAF, world.transition_SAS, world.start_S, beta=beta)
    assert found_F.tolist() == pytest.approx(weight_F.tolist(), abs=1e-4)


def test_from_demonstrations_by_chance_the_features_match_and_the_reward_is_near() -> None:
    world = Walk()
    feature_SAF = features(world)
    _, demonstrated_TSA = soft_optimum(world.reward_TSA, world.transition_SAS, world.beta)
    seen_TSA = shares(world, walk(world, demonstrated_TSA, 4000, torch.Generator().manual_seed(2)))
    found_F = max_entropy(seen_TSA, feature_SAF, world.transition_SAS, world.start_S, beta=world.beta)
    reward_TSA = (feature_SAF @ found_F).expand(world.num_steps, -1, -1)
    _, logp_TSA = soft_optimum(reward_TSA, world.transition_SAS, world.beta)
    own_F, wanted_F = (
        torch.einsum("tsa,saf->f", visit_TSA, feature_SAF)
        for visit_TSA in (visits(logp_TSA, world.transition_SAS, world.start_S), seen_TSA)
    )
    torch.testing.assert_close(own_F, wanted_F, atol=1e-5, rtol=0)
    assert found_F.tolist() == pytest.approx([*WORTH.values(), -COST], abs=0.08)
    earned, best = (
        float(values_of(policy_TSA, world.reward_TSA, world.transition_SAS, world.beta)[0] @ world.start_S)
        for policy_TSA in (logp_TSA, demonstrated_TSA)
    )
    assert 0 <= best - earned < 0.002


def test_a_potential_is_no_part_of_what_demonstrations_say() -> None:
    # r + P phi_(t+1) - phi_t, nothing after the end: the same soft optimum, so that no demonstration tells them apart
    world = Walk()
    phi_TS = torch.randn(world.num_steps + 1, len(world.start_S), dtype=torch.float64)
    phi_TS[-1] = 0
    shaped_TSA = torch.stack(
        [
            reward_SA + world.transition_SAS @ phi_TS[time + 1] - phi_TS[time][:, None]
            for time, reward_SA in enumerate(world.reward_TSA)
        ]
    )
    _, plain_TSA = soft_optimum(world.reward_TSA, world.transition_SAS, world.beta)
    value_TS, logp_TSA = soft_optimum(shaped_TSA, world.transition_SAS, world.beta)
    torch.testing.assert_close(logp_TSA, plain_TSA)
    plain_TS, _ = soft_optimum(world.reward_TSA, world.transition_SAS, world.beta)
    torch.testing.assert_close(value_TS, plain_TS - phi_TS[:-1])


def test_what_every_policy_visits_alike_gets_no_weight_with_a_penalty() -> None:
    # a weight of every step and state, the ended one too: the constant T, whatever is done
    world = Walk()
    always_SAF = torch.cat([features(world), torch.ones(*world.transition_SAS.shape[:2], 1)], dim=2).double()
    visit_TSA = visits(world.best[1], world.transition_SAS, world.start_S)
    found_F = max_entropy(visit_TSA, always_SAF, world.transition_SAS, world.start_S, beta=world.beta, l2=1e-6)
    assert float(found_F[-1].abs()) < 1e-6
    assert float(found_F[:-1].abs().min()) > 0.01


def test_shapes_that_do_not_fit_are_told() -> None:
    world = Walk()
    with pytest.raises(ValueError, match=r"transition_SAS must be \[S, A, S\] of reward_TSA's \[T, S, A\]"):
        soft_optimum(world.reward_TSA[:, :-1], world.transition_SAS)
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        soft_optimum(world.reward_TSA, world.transition_SAS, 0.0)
    with pytest.raises(ValueError, match="feature_SAF must begin with"):
        max_entropy(world.best[1].exp(), features(world)[:-1], world.transition_SAS, world.start_S)


# --- the same from texts: what the reward model's losses come to -----------------------------------------------------

DEMONSTRATED_K = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05], dtype=torch.float64)
SAMPLED_K = torch.tensor([0.1, 0.3, 0.2, 0.1, 0.3], dtype=torch.float64)


def fitted(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """score_K that is least in loss(score_K)."""
    score_K = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [score_K], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(score_K)
        value.backward()
        return value

    optimizer.step(closure)
    return score_K.detach()


def test_a_discriminator_of_demonstrations_and_the_policys_samples_is_their_log_ratio() -> None:
    one_K, zero_K = torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    score_K = fitted(lambda x_K: (DEMONSTRATED_K * binary(x_K, one_K) + SAMPLED_K * binary(x_K, zero_K)).sum())
    torch.testing.assert_close(score_K, (DEMONSTRATED_K / SAMPLED_K).log(), atol=1e-6, rtol=0)
    # with beta 1 against the policy itself, that reward's optimum is the demonstrations' own distribution
    torch.testing.assert_close((SAMPLED_K.log() + score_K).softmax(0), DEMONSTRATED_K, atol=1e-6, rtol=0)


def test_the_demonstration_as_the_best_of_all_is_maximum_entropy() -> None:
    # p(y) = e^score / Z over the list is likeliest where it is how often each was demonstrated
    level_LK = torch.ones(5, 5, dtype=torch.int64) - torch.eye(5, dtype=torch.int64)
    score_K = fitted(lambda x_K: (DEMONSTRATED_K * top_choice(x_K.expand(5, 5), level_LK)).sum())
    torch.testing.assert_close(score_K.softmax(0), DEMONSTRATED_K, atol=1e-6, rtol=0)
