"""A token policy that walks over a grid comes to what dynamic programming says, by our advantages and losses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from known_walk import COST, Walk, batch_of, imitate, learn, of_states, settings, walk, with_advantages
from torch import Tensor

from rlvr import inverse
from rlvr.advantages import gae
from rlvr.losses import value_loss
from rlvr.recipe import RlRecipe

CLOSE = 0.003


def recipe(name: str, *overrides: str, world: Walk) -> RlRecipe:
    return settings(name, f"kl.coef={world.beta}", f"sample.max_tokens={world.num_steps}", *overrides)


def test_the_environment_gives_what_dynamic_programming_says_of_it() -> None:
    world = Walk()
    assert world.transition_SAS.sum(dim=2) == pytest.approx(1)
    episodes = walk(world, world.best[1], 20_000, torch.Generator().manual_seed(0))
    error = float(episodes.reward_B.std()) / len(episodes.reward_B) ** 0.5
    assert float(episodes.reward_B.mean()) == pytest.approx(world.objective(world.best[1], 0.0), abs=4 * error)
    assert world.optimum == pytest.approx(-0.0629, abs=1e-4)


def test_a_row_is_observations_and_actions_of_which_actions_are_trained() -> None:
    world = Walk(slip=0.0)
    east = torch.full_like(world.ref_logp_TSA, -30.0)
    east[:, :, 1] = 0.0  # three cells to the coin
    batch = batch_of(world, walk(world, east, 1, torch.Generator().manual_seed(0)), east, 1)
    start, coin = 4 + world.cells.index((2, 0)), 4 + world.cells.index((2, 3))
    assert batch.ids_BT[0, :7].tolist() == [start, 1, start + 1, 1, start + 2, 1, coin]
    assert batch.mask_BT[0].nonzero()[:, 0].tolist() == [1, 3, 5]
    assert batch.reward_B.tolist() == pytest.approx([0.3 - 3 * COST])


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("ppo", []),
        ("ppo", ["epochs=3"]),  # ratios other than 1, and clipped ones
        ("ppo", ["advantage.lam=1.0", "advantage.whiten=false"]),
        ("vapo", ["loss.positive_nll=0"]),
        ("reinforce_pp", []),
        ("rloo", []),
        ("dr_grpo", []),
    ],
)
def test_a_preset_reaches_the_soft_optimum(name: str, overrides: list[str]) -> None:
    world = Walk()
    found = learn(world, recipe(name, *overrides, world=world))
    assert world.gap(found.logp_TSA) <= CLOSE
    assert world.gap(world.ref_logp_TSA) > 0.17


def test_without_a_divergence_ppo_reaches_the_value_of_the_best_policy() -> None:
    world = Walk()
    sharp = replace(world, beta=1e-4)  # soft values of no temperature are those of the maximum
    found = learn(world, settings("ppo", f"sample.max_tokens={world.num_steps}"))
    assert sharp.optimum == pytest.approx(0.535, abs=1e-3)
    assert sharp.optimum - world.objective(found.logp_TSA, 0.0) <= 0.02


def test_dividing_by_the_standard_deviation_is_harmless_where_only_the_policy_is_random() -> None:
    sure, slippery = Walk(slip=0.0), Walk()
    of = [learn(world, recipe("grpo", "kl.where=reward", world=world)).logp_TSA for world in (sure, slippery)]
    assert sure.gap(of[0]) <= CLOSE
    # a lucky slip counts for more in a group of like rewards
    assert 0.0035 < slippery.gap(of[1]) < 0.012


@pytest.mark.parametrize("slip", [0.1, 0.0])
def test_k2_in_the_loss_leads_to_the_optimum_of_each_step_for_itself(slip: float) -> None:
    world = Walk(slip=slip)
    found = learn(world, recipe("rloo", "kl.where=loss", world=world)).logp_TSA
    away = world.gap(world.local_optimum)
    assert away == pytest.approx({0.1: 0.0343, 0.0: 0.150}[slip], rel=0.01)
    assert world.gap(found) == pytest.approx(away, rel=0.15)
    visit_TS = inverse.visits(found, world.transition_SAS, world.start_S).sum(dim=2) * ~world.is_end_S
    assert divergence(found, world.local_optimum, visit_TS) < 0.1 * divergence(found, world.best[1], visit_TS)


def divergence(logp_TSA: Tensor, other_TSA: Tensor, visit_TS: Tensor) -> float:
    """KL, nats per episode."""
    return float((visit_TS[:, :, None] * logp_TSA.exp() * (logp_TSA - other_TSA)).sum())


def test_the_critic_knows_what_the_policy_still_earns() -> None:
    world = Walk()
    by = recipe("ppo", "advantage.lam=1.0", "advantage.whiten=false", world=world)
    found = learn(world, by)
    # what is still to come, less the steps that were paid before: the reward is given at the end of the row
    paid_T1 = COST * torch.arange(world.num_steps)[:, None]
    exact_TS = (
        inverse.values_of(found.logp_TSA, world.reward_TSA, world.transition_SAS, world.beta, world.ref_logp_TSA)
        - paid_T1
    )
    visit_TS = inverse.visits(found.logp_TSA, world.transition_SAS, world.start_S).sum(dim=2)
    seen_TS = (visit_TS > 0.02) & ~world.is_end_S
    assert (exact_TS - found.value_TS)[seen_TS].abs().max() < 0.03
    episodes = walk(world, found.logp_TSA, 4096, torch.Generator().manual_seed(1))
    batch = with_advantages(world, by, episodes, found.logp_TSA, found.value_TS)
    assert batch.returns_BT is not None
    return_N = batch.returns_BT[batch.mask_BT].double()
    left_N, least_N = (
        return_N - of_states(table_TS, episodes)[episodes.action_BT >= 0] for table_TS in (found.value_TS, exact_TS)
    )
    explained, explainable = (1 - float(x_N.var() / return_N.var()) for x_N in (left_N, least_N))
    assert explained > 0.95 * explainable > 0.2  # what slips cost nobody foresees


def test_gae_with_lambda_1_is_the_brute_force_sum_of_what_comes_less_the_value() -> None:
    world = Walk()
    logp_TSA = world.ref_logp_TSA
    episodes = walk(world, logp_TSA, 64, torch.Generator().manual_seed(2))
    batch = batch_of(world, episodes, logp_TSA, 1)
    generator = torch.Generator().manual_seed(3)
    values_BT, kl_BT = (
        torch.randn(batch.mask_BT.shape, generator=generator, dtype=torch.float64) * batch.mask_BT for _ in range(2)
    )
    for gamma in (1.0, 0.9):
        adv_BT = gae(batch.reward_B, kl_BT, values_BT, batch.mask_BT, gamma, 1.0)
        for row in range(len(adv_BT)):
            columns = batch.mask_BT[row].nonzero()[:, 0].tolist()
            rewards = [-float(kl_BT[row, column]) for column in columns]
            rewards[-1] += float(batch.reward_B[row])
            for place, column in enumerate(columns):
                total = sum(gamma**later * reward for later, reward in enumerate(rewards[place:]))
                assert float(adv_BT[row, column]) == pytest.approx(total - float(values_BT[row, column]), abs=1e-9)


def test_the_value_loss_is_least_at_the_mean_return() -> None:
    world = Walk()
    episodes = walk(world, world.ref_logp_TSA, 256, torch.Generator().manual_seed(4))
    batch = batch_of(world, episodes, world.ref_logp_TSA, 1)
    return_BT = torch.where(batch.mask_BT, batch.reward_B[:, None], 0.0)
    values_BT = torch.full_like(return_BT, float(return_BT[batch.mask_BT].mean())).requires_grad_(True)
    value_loss(values_BT, replace(batch, returns_BT=return_BT)).loss.backward()
    assert values_BT.grad is not None
    assert float(values_BT.grad.sum()) == pytest.approx(0, abs=1e-9)
    assert float(values_BT.grad.abs().max()) > 0.1


def test_a_cloned_policys_errors_lead_to_more_of_them_and_distillation_corrects_them() -> None:
    world = Walk(num_steps=10, beta=0.02)
    teacher = world.best[1]
    pupil = replace(world, reference=teacher)
    by = settings("distillation", "reference.path=teacher", f"sample.max_tokens={world.num_steps}")
    uniform = torch.zeros_like(teacher).log_softmax(2)
    lost, astray = [], []
    for seed in range(3):
        shown = walk(world, teacher, 16, torch.Generator().manual_seed(seed))
        cloned = imitate(world, shown)
        led = learn(pupil, by, num_steps=200, num_episodes=16, start_logp_TSA=uniform).logp_TSA
        lost.append([world.objective(teacher, 0.0) - world.objective(logp_TSA, 0.0) for logp_TSA in (cloned, led)])
        astray.append(torch.stack([disagreement(world, logp_TSA, teacher) for logp_TSA in (cloned, led)]))
    of_cloned, of_led = torch.tensor(lost).mean(dim=0).tolist()
    assert of_led < 0.03
    assert of_cloned > 0.08
    cloned_T, led_T = torch.stack(astray).mean(dim=0)
    assert float(cloned_T[0]) < 0.06  # where all demonstrations begin
    assert float(cloned_T[6:9].min()) > 0.2  # where few of them went
    assert float(led_T.max()) < 0.1


def disagreement(world: Walk, logp_TSA: Tensor, teacher_TSA: Tensor) -> Tensor:
    """[T]: total variation of policy and teacher, a mean over where the policy itself still walks at that time."""
    visit_TS = inverse.visits(logp_TSA, world.transition_SAS, world.start_S).sum(dim=2) * ~world.is_end_S
    apart_TS = (logp_TSA.exp() - teacher_TSA.exp()).abs().sum(dim=2) / 2
    return (visit_TS * apart_TS).sum(dim=1) / visit_TS.sum(dim=1)
