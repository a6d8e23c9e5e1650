"""A robot walks over a grid: a small Markov decision process solved by dynamic programming, learnt by a token policy.

The **agent** reads an **observation** (a token for the cell it is in), writes an **action** (a token: north, east,
south, west), and the **environment** answers with the next observation; now and then the robot slips and moves to a
side. The episode ends at a cell that is worth something, or after T steps; its **reward** is that worth less a cost for
each step. The row of an episode is o a o a o ...: actions are the trained tokens, observations the environment's.

S **states** (cells, and one where it is over), A actions, T steps, B episodes. The **policy** and the critic's
**values** are tables by time and cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from known_bandit import settings as settings  # the recipe of a preset
from torch import Tensor

from rlvr import inverse
from rlvr.advantages import compute
from rlvr.batching import Batch
from rlvr.losses import count, divisor, policy_loss, value_loss
from rlvr.recipe import RlRecipe

MAP = ("...G", ".#.P", "S..c")
"""S start, G goal, P pit, c coin, # wall."""
WORTH = {"G": 1.0, "P": -1.0, "c": 0.3}
COST = 0.04
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))


@dataclass(frozen=True)
class Walk:
    """The environment, with the divergence from a reference that the agent pays for."""

    num_steps: int = 7
    beta: float = 0.15
    slip: float = 0.1
    """Probability of each side instead of the direction that was meant."""
    reference: Tensor | None = None
    """logp_TSA; without it a robot that rather goes north and east."""

    @cached_property
    def cells(self) -> list[tuple[int, int]]:
        return [(row, col) for row in range(len(MAP)) for col in range(len(MAP[0])) if MAP[row][col] != "#"]

    @property
    def over(self) -> int:
        """The state after the end."""
        return len(self.cells)

    @cached_property
    def transition_SAS(self) -> Tensor:
        table_SAS = torch.zeros(len(self.cells) + 1, len(MOVES), len(self.cells) + 1, dtype=torch.float64)
        table_SAS[self.over, :, self.over] = 1
        for state, (row, col) in enumerate(self.cells):
            for action in range(len(MOVES)):
                if MAP[row][col] in WORTH:
                    table_SAS[state, action, self.over] = 1
                    continue
                for turn, share in ((0, 1 - 2 * self.slip), (1, self.slip), (-1, self.slip)):
                    move = MOVES[(action + turn) % len(MOVES)]
                    there = (row + move[0], col + move[1])
                    after = self.cells.index(there) if there in self.cells else state
                    table_SAS[state, action, after] += share
        return table_SAS

    @cached_property
    def start_S(self) -> Tensor:
        return torch.eye(self.over + 1, dtype=torch.float64)[self.cells.index((2, 0))]

    @cached_property
    def worth_S(self) -> Tensor:
        worth = [WORTH.get(MAP[row][col], 0.0) for row, col in self.cells]
        return torch.tensor([*worth, 0.0], dtype=torch.float64)

    @cached_property
    def is_end_S(self) -> Tensor:
        """bool"""
        return torch.tensor([MAP[row][col] in WORTH for row, col in self.cells] + [True])

    @cached_property
    def reward_TSA(self) -> Tensor:
        """Mean of what each action earns at once."""
        reward_SA = self.transition_SAS @ self.worth_S - COST
        return reward_SA.masked_fill(self.is_end_S[:, None], 0.0).expand(self.num_steps, -1, -1)

    @cached_property
    def ref_logp_TSA(self) -> Tensor:
        if self.reference is not None:
            return self.reference
        logp_A = torch.tensor([0.5, 0.2, -0.2, -0.5], dtype=torch.float64).log_softmax(0)
        return logp_A.expand(self.reward_TSA.shape)

    @cached_property
    def best(self) -> tuple[Tensor, Tensor]:
        """(value_TS, logp_TSA) of the policy that is best with the divergence counted."""
        return inverse.soft_optimum(self.reward_TSA, self.transition_SAS, self.beta, self.ref_logp_TSA)

    @cached_property
    def local_optimum(self) -> Tensor:
        """logp_TSA that is best at each step for what this step alone diverges: Q of the rewards to come, without the
        divergence to come. It is where a term of the loss leads, whose gradient knows no later step."""
        next_S = torch.zeros_like(self.worth_S)
        policies = []
        for reward_SA, ref_logp_SA in zip(reversed(self.reward_TSA), reversed(self.ref_logp_TSA), strict=True):
            earned_SA = reward_SA + self.transition_SAS @ next_S
            policies.append((ref_logp_SA + earned_SA / self.beta).log_softmax(dim=1))
            next_S = (policies[-1].exp() * earned_SA).sum(dim=1)
        return torch.stack(policies[::-1])

    def objective(self, logp_TSA: Tensor, beta: float | None = None) -> float:
        """Mean reward of an episode less beta times the divergence from the reference, exactly."""
        beta = self.beta if beta is None else beta
        value_TS = inverse.values_of(logp_TSA, self.reward_TSA, self.transition_SAS, beta, self.ref_logp_TSA)
        return float(value_TS[0] @ self.start_S)

    @property
    def optimum(self) -> float:
        return float(self.best[0][0] @ self.start_S)

    def gap(self, logp_TSA: Tensor) -> float:
        """J* - J, never negative."""
        return self.optimum - self.objective(logp_TSA)


@dataclass(frozen=True)
class Episodes:
    """What the agent lived through."""

    state_BT: Tensor
    action_BT: Tensor
    """int64; -1 after the end."""
    reward_B: Tensor


def walk(world: Walk, logp_TSA: Tensor, num: int, generator: torch.Generator) -> Episodes:
    """`num` episodes of a policy."""
    state_B = torch.multinomial(world.start_S, num, replacement=True, generator=generator)
    reward_B = torch.zeros(num, dtype=torch.float64)
    states, actions = [], []
    for logp_SA in logp_TSA.detach():
        is_on_B = ~world.is_end_S[state_B]
        action_B = torch.multinomial(logp_SA[state_B].exp(), 1, generator=generator)[:, 0]
        states.append(state_B)
        actions.append(torch.where(is_on_B, action_B, -1))
        after_B = torch.multinomial(world.transition_SAS[state_B, action_B], 1, generator=generator)[:, 0]
        reward_B = reward_B + is_on_B * (world.worth_S[after_B] - COST)
        state_B = after_B
    return Episodes(torch.stack(states, dim=1), torch.stack(actions, dim=1), reward_B)


def batch_of(world: Walk, episodes: Episodes, logp_TSA: Tensor, group_size: int) -> Batch:
    """The episodes as rows of tokens: an observation, an action, and so on; actions alone are trained."""
    num_actions = logp_TSA.shape[2]
    is_action_BT = episodes.action_BT >= 0
    mask_BT = interleaved(torch.zeros_like(is_action_BT), is_action_BT)
    logp_BT = torch.where(is_action_BT, of_actions(logp_TSA.detach(), episodes), 0.0)
    ref_BT = torch.where(is_action_BT, of_actions(world.ref_logp_TSA, episodes), 0.0)
    nothing_BT = torch.zeros_like(logp_BT)
    return Batch.of(
        interleaved(num_actions + episodes.state_BT, episodes.action_BT.clamp(min=0)),
        mask_BT,
        adv=torch.zeros(len(mask_BT)),
        sampler_logp_BT=interleaved(nothing_BT, logp_BT),
        ref_logp_BT=interleaved(nothing_BT, ref_BT),
        reward_B=episodes.reward_B,
        group_B=torch.arange(len(mask_BT)) // group_size,
    )


def of_actions(table_TSA: Tensor, episodes: Episodes) -> Tensor:
    """[B, T] of the actions that were taken."""
    time_T = torch.arange(len(table_TSA))
    return table_TSA[time_T, episodes.state_BT, episodes.action_BT.clamp(min=0)]


def of_states(table_TS: Tensor, episodes: Episodes) -> Tensor:
    """[B, T] of the states that were seen."""
    return table_TS[torch.arange(len(table_TS)), episodes.state_BT]


def interleaved(first_BT: Tensor, second_BT: Tensor) -> Tensor:
    """[B, 2 T]: a column of the first, one of the second, and so on."""
    return torch.stack([first_BT, second_BT], dim=2).flatten(1)


@dataclass(frozen=True)
class Learnt:
    """Tables after the last step."""

    logp_TSA: Tensor
    value_TS: Tensor


def learn(
    world: Walk,
    recipe: RlRecipe,
    *,
    num_steps: int = 200,
    num_episodes: int = 512,
    lr: float = 0.1,
    start_logp_TSA: Tensor | None = None,
) -> Learnt:
    """`num_steps` of sampling and `recipe.epochs` updates of Adam each, its rate falling to 0, from the reference or
    from start_logp_TSA."""
    generator = torch.Generator().manual_seed(0)
    logits_TSA = (world.ref_logp_TSA if start_logp_TSA is None else start_logp_TSA).clone().requires_grad_(True)
    value_TS = torch.zeros(logits_TSA.shape[:2], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits_TSA, value_TS], lr=lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, num_steps)
    for _ in range(num_steps):
        episodes = walk(world, logits_TSA.log_softmax(2), num_episodes, generator)
        batch = with_advantages(world, recipe, episodes, logits_TSA.log_softmax(2), value_TS.detach())
        for _ in range(recipe.epochs):
            loss = step_loss(recipe, batch, episodes, logits_TSA.log_softmax(2), value_TS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return Learnt(logits_TSA.detach().log_softmax(2), value_TS.detach())


def imitate(world: Walk, demonstrations: Episodes, *, num_steps: int = 150, lr: float = 0.1) -> Tensor:
    """logp_TSA of a policy that begins as uniform and learns what was done, and nothing else."""
    recipe = settings("raft", f"sample.max_tokens={world.num_steps}")
    logits_TSA = torch.zeros_like(world.reward_TSA).requires_grad_(True)
    optimizer = torch.optim.Adam([logits_TSA], lr=lr)
    batch = batch_of(world, demonstrations, logits_TSA.log_softmax(2), 1)
    batch = replace(batch, adv_BT=batch.mask_BT.double())
    for _ in range(num_steps):
        loss = step_loss(recipe, batch, demonstrations, logits_TSA.log_softmax(2), logits_TSA[:, :, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logits_TSA.detach().log_softmax(2)


def with_advantages(world: Walk, recipe: RlRecipe, episodes: Episodes, logp_TSA: Tensor, value_TS: Tensor) -> Batch:
    """As the loop has them."""
    batch = batch_of(world, episodes, logp_TSA, recipe.sample.group_size)
    if recipe.epochs > 1:
        batch = replace(batch, old_logp_BT=batch.sampler_logp_BT)
    if recipe.advantage.kind == "gae":
        own_BT = of_states(value_TS, episodes)
        batch = replace(batch, values_BT=interleaved(torch.zeros_like(own_BT), own_BT))
    adv_BT, returns_BT = compute(batch, recipe.advantage, recipe.kl)
    return replace(batch, adv_BT=adv_BT, returns_BT=returns_BT)


def step_loss(recipe: RlRecipe, batch: Batch, episodes: Episodes, logp_TSA: Tensor, value_TS: Tensor) -> Tensor:
    """Of one update, policy and critic."""
    own_BT = of_actions(logp_TSA, episodes)
    nothing_BT = torch.zeros_like(own_BT)
    entropy_BT = of_states(-(logp_TSA.exp() * logp_TSA).sum(dim=2), episodes)
    sums = policy_loss(
        interleaved(nothing_BT, own_BT),
        batch,
        recipe.loss,
        recipe.kl,
        entropy_BT=interleaved(nothing_BT, entropy_BT),
    )
    loss = sums.loss / divisor(count(batch, recipe.loss), recipe.loss, recipe.sample.max_tokens)
    if recipe.advantage.kind == "gae":
        values_BT = interleaved(nothing_BT, of_states(value_TS, episodes))
        loss = loss + value_loss(values_BT, batch).loss / batch.num_tokens
    return loss
