"""Presets and estimators of KL on the bandit whose optimum is known: which reach it, and by how much others miss it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from known_bandit import bandit, bradley_terry, gap, learn, settings

from rlvr.errors import SettingsError
from rlvr.presets import PRESETS

CLOSE = 0.001
OWN_OBJECTIVE = ("maxrl", "pass_at_k", "vapo", "online_dpo", "raft", "distillation")
"""Presets that are after something else than J."""
IN_THEIR_PAPERS_FORM = {"grpo": 0.0296, "reinforce_pp_baseline": 0.1231}
"""Those that miss J*, by how much."""


def test_the_optimum_is_the_one_of_the_formula() -> None:
    world = bandit()
    assert world.optimum == pytest.approx(0.6655, abs=1e-4)
    assert world.gap(world.best_logp_K) == pytest.approx(0, abs=1e-12)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        other_K = world.best_logp_K + 0.1 * torch.randn(8, generator=generator, dtype=torch.float64)
        assert world.gap(other_K.log_softmax(0)) > 0


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in (*OWN_OBJECTIVE, *IN_THEIR_PAPERS_FORM)])
def test_a_preset_reaches_the_optimum_where_its_paper_names_no_estimator_that_misses_it(name: str) -> None:
    assert gap(name) <= CLOSE


@pytest.mark.parametrize("name", IN_THEIR_PAPERS_FORM)
def test_a_papers_own_place_of_kl_misses_the_optimum_and_ours_does_not(name: str) -> None:
    assert gap(name) == pytest.approx(IN_THEIR_PAPERS_FORM[name], rel=0.15)
    assert gap(name, "kl.where=reward") <= CLOSE


@pytest.mark.parametrize(
    ("name", "measured", "ours"),
    [
        ("vapo", 0.0013, ["loss.positive_nll=0"]),  # the likelihood of what was right is no part of J
        ("pass_at_k", 0.0261, ["advantage.k=2"]),  # of eight one right one is enough, and no group without one is seen
    ],
)
def test_another_objective_misses_the_optimum_by_what_it_adds(name: str, measured: float, ours: list[str]) -> None:
    assert gap(name) == pytest.approx(measured, rel=0.2)
    assert gap(name, *ours) <= CLOSE


def test_maxrl_reaches_the_optimum_of_the_logarithm_of_the_mean_reward() -> None:
    # log E[r] - beta KL is highest at ref e^(r / (beta m)), m its own mean reward
    world = bandit(shift=0.5)
    low, high, best_K = 0.01, 2.0, world.best_logp_K
    for _ in range(50):
        m = (low + high) / 2
        best_K = replace(world, beta=world.beta * m).best_logp_K
        low, high = (m, high) if float((best_K.exp() * world.reward_K).sum()) > m else (low, m)
    logp_K = learn(world, settings("maxrl", f"kl.coef={world.beta}", "sample.group_size=64"), num_groups=8).logp_K
    assert float((logp_K.exp() * (logp_K - best_K)).sum()) < 1e-4
    assert gap("maxrl") == pytest.approx(0.0097, rel=0.2)


KINDS = {
    # of rloo, whose advantages are not divided: kl.where, kl.kind, kl.weighted -> J* - J
    ("reward", "k1", False): 0.0,
    ("reward", "k2", False): 0.123,
    ("reward", "k3", False): 0.124,
    ("reward", "abs", False): 0.071,
    ("loss", "k2", False): 0.0,
    ("loss", "k3", False): 0.0175,
    ("loss", "k3+", False): 0.0,
    ("loss", "abs", False): 0.038,
    ("loss", "k1", True): 0.0,
    ("loss", "k2", True): 0.069,
    ("loss", "k3", True): 0.0,
}


@pytest.mark.parametrize(("place", "measured"), KINDS.items())
def test_the_kind_and_the_place_of_kl_decide_which_optimum_is_reached(
    place: tuple[str, str, bool], measured: float
) -> None:
    where, kind, weighted = place
    overrides = [f"kl.where={where}", f"kl.kind={kind}", f"kl.weighted={str(weighted).lower()}"]
    assert gap("rloo", *overrides) == pytest.approx(measured, rel=0.15, abs=CLOSE)


def test_k1_as_a_loss_holds_nothing_and_is_refused() -> None:
    with pytest.raises(SettingsError, match="kind k1 in the loss has a gradient of mean 0 and holds nothing"):
        gap("rloo", "kl.where=loss", "kl.kind=k1")


@pytest.mark.parametrize(("name", "measured"), [("grpo", 0.102), ("dr_grpo", 0.0019)])
def test_k2_in_the_loss_is_weighed_against_advantages_whatever_those_were_divided_by(
    name: str, measured: float
) -> None:
    # the standard deviation here; the group's mean, of which each sibling is a part, weighs rewards by (G - 1) / G
    assert gap(name, "kl.where=loss", "kl.kind=k2") == pytest.approx(measured, rel=0.15)


def test_the_entropy_bonus_alone_reaches_the_softmax_of_the_rewards() -> None:
    world = bandit()
    uniform = replace(world, ref_logp_K=torch.zeros_like(world.ref_logp_K).log_softmax(0))
    logp_K = learn(world, settings("rloo", f"loss.entropy_coef={world.beta}")).logp_K
    assert uniform.gap(logp_K) <= CLOSE


def test_an_adaptive_coefficient_holds_its_target_and_the_optimum_of_what_it_came_to() -> None:
    world = bandit()
    recipe = settings("rloo", "kl.coef=0.3", "kl.adaptive.target=0.3", "kl.adaptive.horizon=10000")
    found = learn(world, recipe, num_steps=300, lr=0.05, end=1.0)
    kl = float((found.logp_K.exp() * (found.logp_K - world.ref_logp_K)).sum())
    assert kl == pytest.approx(0.3, rel=0.05)
    assert found.coef == pytest.approx(0.615, rel=0.05)
    assert replace(world, beta=found.coef).gap(found.logp_K) <= CLOSE


def test_online_dpo_reaches_the_optimum_where_comparisons_are_bradley_terrys() -> None:
    world = bandit()
    recipe = settings("online_dpo", f"advantage.beta={world.beta}")
    judged = learn(world, recipe, judge=bradley_terry(world), num_groups=512)
    assert world.gap(judged.logp_K) <= CLOSE
    # a reward without noise prefers without measure: there is no optimum but the best arm alone
    assert world.gap(learn(world, recipe).logp_K) == pytest.approx(0.104, rel=0.15)


def test_imitating_the_best_ends_with_the_best_arm_alone() -> None:
    world = bandit()
    logp_K = learn(world, settings("raft")).logp_K
    assert int(logp_K.argmax()) == int(world.reward_K.argmax())
    assert float(logp_K.max().exp()) > 0.95


def test_distillation_becomes_the_teacher_from_any_start_whatever_is_rewarded() -> None:
    world = bandit()
    recipe = settings("distillation", "reference.path=teacher")
    found = learn(world, recipe, start_logp_K=torch.zeros_like(world.ref_logp_K))
    assert float((found.logp_K.exp() * (found.logp_K - world.ref_logp_K)).sum()) < 1e-5
