"""A bandit with a divergence from a reference, whose optimum is known, learnt by presets through the code of a run.

J(p) = E_p[r] - beta KL(p || ref) is highest at p* = ref e^(r / beta) / Z, where it is J* = beta log Z. K arms, B rows
of one completion each, whose only token is the arm, T = 2 with the prompt's token before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlvr.advantages import compute, mean_kl
from rlvr.batching import Batch
from rlvr.loops.rl import next_kl_coef
from rlvr.losses import count, divisor, policy_loss, value_loss
from rlvr.recipe import RlRecipe
from rlvr.settings import from_overrides


@dataclass(frozen=True)
class Bandit:
    """What each arm earns, and what it is measured against."""

    reward_K: Tensor
    ref_logp_K: Tensor
    beta: float

    @property
    def best_logp_K(self) -> Tensor:
        return (self.ref_logp_K + self.reward_K / self.beta).log_softmax(0)

    @property
    def optimum(self) -> float:
        return self.beta * float((self.ref_logp_K + self.reward_K / self.beta).logsumexp(0))

    def objective(self, logp_K: Tensor) -> float:
        return float((logp_K.exp() * (self.reward_K - self.beta * (logp_K - self.ref_logp_K))).sum())

    def gap(self, logp_K: Tensor) -> float:
        """J* - J, never negative."""
        return self.optimum - self.objective(logp_K)


def bandit(shift: float = 0.0) -> Bandit:
    """Eight arms; shift: added to every reward, which moves J* and nothing else."""
    reward_K = torch.tensor([1.0, 0.8, 0.5, 0.3, 0.1, 0.0, -0.2, -0.5], dtype=torch.float64) + shift
    ref_K = torch.tensor([1.541, -0.293, -2.179, 0.568, -1.085, -1.399, 0.403, 0.838], dtype=torch.float64)
    return Bandit(reward_K, ref_K.log_softmax(0), beta=0.5)


def settings(algorithm: str, *overrides: str) -> RlRecipe:
    """As `rlvr train` resolves them."""
    given = [f"algorithm={algorithm}", "steps=1", "model.path=x", "data.path=x", "sample.max_tokens=1", *overrides]
    recipe = from_overrides("rl", given)
    assert isinstance(recipe, RlRecipe)
    return recipe


@dataclass(frozen=True)
class Learnt:
    """The policy after its last step."""

    logp_K: Tensor
    """float64, of the arms."""
    coef: float
    """kl.coef after the last step: another than the first where it is adaptive."""


Judge = Callable[[Tensor, torch.Generator], Tensor]
"""(arm_B, where chance comes from) -> reward_B"""


def learn(
    world: Bandit,
    recipe: RlRecipe,
    *,
    num_steps: int = 250,
    num_groups: int = 64,
    lr: float = 0.1,
    end: float = 0.0,
    judge: Judge | None = None,
    start_logp_K: Tensor | None = None,
) -> Learnt:
    """`num_steps` of Adam, its rate falling to `end` of what it was, from the reference or from start_logp_K; judge: in
    place of the arms' own rewards."""
    generator = torch.Generator().manual_seed(0)
    logits_K = (world.ref_logp_K if start_logp_K is None else start_logp_K).clone().requires_grad_(True)
    value = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [logits_K], "lr": lr}, {"params": [value], "lr": 1.0}])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, end, num_steps)
    for _ in range(num_steps):
        arm_B = draw(logits_K.detach().softmax(0), num_groups * recipe.sample.group_size, generator)
        reward_B = world.reward_K[arm_B] if judge is None else judge(arm_B, generator)
        batch = batch_of(world, recipe, logits_K.detach().log_softmax(0), value.detach(), arm_B, reward_B)
        loss = step_loss(recipe, batch, logits_K, value)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if recipe.kl.adaptive is not None:
            kl = mean_kl(batch, recipe.kl)
            coef = next_kl_coef(recipe.kl.coef, kl, len(arm_B), recipe.kl.adaptive)
            recipe = recipe.model_copy(update={"kl": recipe.kl.model_copy(update={"coef": coef})})
    return Learnt(logits_K.detach().log_softmax(0), recipe.kl.coef)


def draw(p_K: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """int64 [num] in random order: each arm as often as num * p says, rounded up or down at random (systematic
    sampling), so that little is left to chance."""
    point_B = (torch.arange(num) + torch.rand((), generator=generator, dtype=torch.float64)) / num
    arm_B = torch.searchsorted(p_K.cumsum(0), point_B).clamp(max=len(p_K) - 1)
    return arm_B[torch.randperm(num, generator=generator)]


def batch_of(world: Bandit, recipe: RlRecipe, logp_K: Tensor, value: Tensor, arm_B: Tensor, reward_B: Tensor) -> Batch:
    """Rows of two tokens, of which the second is the arm, with advantages; rows behind each other are siblings."""
    batch = Batch.of(
        with_prompt(arm_B),
        with_prompt(torch.ones_like(arm_B)),
        adv=torch.zeros(len(arm_B)),
        sampler_logp_BT=with_prompt(logp_K[arm_B]),
        ref_logp_BT=with_prompt(world.ref_logp_K[arm_B]),
        reward_B=reward_B,
        group_B=torch.arange(len(arm_B)) // recipe.sample.group_size,
    )
    if recipe.advantage.kind == "greedy":
        batch = replace(batch, greedy_B=world.reward_K[logp_K.argmax()].expand(len(arm_B)))
    if recipe.advantage.kind == "gae":
        batch = replace(batch, values_BT=value.expand(batch.mask_BT.shape))
    adv_BT, returns_BT = compute(batch, recipe.advantage, recipe.kl)
    return replace(batch, adv_BT=adv_BT, returns_BT=returns_BT)


def step_loss(recipe: RlRecipe, batch: Batch, logits_K: Tensor, value: Tensor) -> Tensor:
    """Of one step, policy and critic, as the loop comes to it."""
    logp_K = logits_K.log_softmax(0)
    entropy_BT = (-(logp_K.exp() * logp_K).sum()).expand(batch.mask_BT.shape)
    logp_BT = with_prompt(logp_K[batch.ids_BT[:, 1]])
    sums = policy_loss(logp_BT, batch, recipe.loss, recipe.kl, entropy_BT=entropy_BT)
    loss = sums.loss / divisor(count(batch, recipe.loss), recipe.loss, recipe.sample.max_tokens)
    if recipe.advantage.kind == "gae":
        loss = loss + value_loss(value.expand(batch.mask_BT.shape), batch).loss / batch.num_tokens
    return loss


def with_prompt(value_B: Tensor) -> Tensor:
    """[B, 2], 0 in the prompt's column."""
    return torch.stack([torch.zeros_like(value_B), value_B], dim=1)


def gap(algorithm: str, *overrides: str) -> float:
    """J* - J of what a preset comes to, held to the reference by kl.coef = beta where the overrides do not say else."""
    recipe = settings(algorithm, f"kl.coef={bandit().beta}", *overrides)
    # the mean reward that it divides by must be positive
    world = bandit(shift=0.5 if recipe.advantage.kind == "max_likelihood" else 0.0)
    return world.gap(learn(world, recipe).logp_K)


def bradley_terry(world: Bandit) -> Judge:
    """Rewards with noise of which the difference's distribution is logistic: of two completions the first has the
    higher one with probability sigmoid(r_1 - r_2)."""

    def judge(arm_B: Tensor, generator: torch.Generator) -> Tensor:
        uniform_B = torch.rand(len(arm_B), generator=generator, dtype=torch.float64)
        return world.reward_K[arm_B] - torch.log(-torch.log(uniform_B))

    return judge
