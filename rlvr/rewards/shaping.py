"""What is done to the rewards of a whole step before it is learnt from: cleared of length, whitened, clipped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from rlvr.odds import sigmoid
from rlvr.reward_settings import Reward, Shaping
from rlvr.rewards.base import OVERLONG, earned, group_rewards
from rlvr.types import Group, Rollout, Verdict

_LEAST_STD = 1e-8
"""Rewards of a smaller standard deviation count as equal."""


@dataclass(frozen=True, slots=True)
class Running:
    """Count, mean and sum of squared deviations of all rewards so far; three numbers that a checkpoint keeps."""

    count: float = 0.0
    mean: float = 0.0
    square: float = 0.0

    def after(self, rewards: Sequence[float]) -> Running:
        """With these too, https://doi.org/10.1080/00031305.1983.10483115 eq. 2.1."""
        if not rewards:
            return self
        count, mean = self.count + len(rewards), math.fsum(rewards) / len(rewards)
        square, delta = math.fsum((reward - mean) ** 2 for reward in rewards), mean - self.mean
        return Running(
            count,
            self.mean + delta * len(rewards) / count,
            self.square + square + delta**2 * self.count * len(rewards) / count,
        )

    @property
    def std(self) -> float:
        """Over n."""
        return math.sqrt(self.square / self.count) if self.count else 0.0

    def whitened(self, reward: float) -> float:
        """(reward - mean) / std; 0 where all are equal."""
        return (reward - self.mean) / self.std if self.std > _LEAST_STD else 0.0


def shape(
    groups: Sequence[Group], shaping: Shaping, rewards: Mapping[str, Reward], running: Running
) -> tuple[list[Group], Running, dict[str, float]]:
    """(the groups with the rewards that are trained on, what has run up with this step, metrics shaping/*).

    Nothing that was judged becomes unjudged, or the other way round. Greedy completions are shaped like the others and
    count in no statistic.
    """
    if shaping == Shaping():
        return list(groups), running, {}
    metrics: dict[str, float] = {}
    for name in shaping.length_residual:
        slope = part_length_slope(groups, name, within=shaping.within)
        metrics[f"shaping/{name}/length_slope"] = slope
        groups = _without_length(groups, name, slope, rewards)
    judged = [rollout.reward for group in groups for rollout in group.rollouts if rollout.reward is not None]
    if shaping.whiten != "none":
        running = (running if shaping.whiten == "running" else Running()).after(judged)
        metrics |= {"shaping/mean": running.mean, "shaping/std": running.std}
    shaped = [_with_reward(group, shaping, running) for group in groups]
    if shaping.clip is not None:
        unclipped = [running.whitened(reward) if shaping.whiten != "none" else reward for reward in judged]
        metrics["shaping/clipped_ratio"] = fmean([abs(reward) > shaping.clip for reward in unclipped] or [0.0])
    kept = [rollout.reward for group in shaped for rollout in group.rollouts if rollout.reward is not None]
    metrics["shaping/reward"] = fmean(kept or [0.0])
    return shaped, running if shaping.whiten == "running" else Running(), metrics


def _with_reward(group: Group, shaping: Shaping, running: Running) -> Group:
    def shaped(reward: float | None) -> float | None:
        if reward is None:
            return None
        if shaping.whiten != "none":
            reward = running.whitened(reward)
        return reward if shaping.clip is None else min(max(reward, -shaping.clip), shaping.clip)

    def with_reward(rollout: Rollout) -> Rollout:
        verdicts = rollout.verdicts
        if (overlong := verdicts.get(OVERLONG)) is not None:  # so that base.earned() is of the same unit
            checks = {**overlong.checks, "reward_before": shaped(earned(rollout))}
            verdicts = {**verdicts, OVERLONG: replace(overlong, checks=checks)}
        return replace(rollout, verdicts=verdicts, reward=shaped(rollout.reward))

    return group.with_all([with_reward(rollout) for rollout in group.all_rollouts])


def rewards_by_id(groups: Sequence[Group]) -> dict[str, float]:
    """Of all that have one."""
    return {r.id: r.reward for group in groups for r in group.all_rollouts if r.reward is not None}


# --- length ----------------------------------------------------------------------------------------------------------


def length_slope(
    numbers: Sequence[float], lengths: Sequence[int], groups: Sequence[int], *, within: str = "group"
) -> float:
    """Slope of the least-squares line of numbers over lengths, per token; 0 where all lengths are equal.

    within: "group": of deviations from the means of the group, so that what makes one task's answers longer and better
    than another's is no matter of length; "step": of those from the means of all. groups: the number of each one's.
    """
    keys = groups if within == "group" else [0] * len(groups)
    members: dict[int, list[int]] = {}
    for k, key in enumerate(keys):
        members.setdefault(key, []).append(k)
    products, squares = [], []
    for rows in members.values():
        mean, mean_length = math.fsum(numbers[k] for k in rows) / len(rows), sum(lengths[k] for k in rows) / len(rows)
        products += [(lengths[k] - mean_length) * (numbers[k] - mean) for k in rows]
        squares += [(lengths[k] - mean_length) ** 2 for k in rows]
    total = math.fsum(squares)
    return math.fsum(products) / total if total > 0 else 0.0


def part_length_slope(groups: Sequence[Group], name: str, *, within: str = "group") -> float:
    """length_slope() of what a part gave to the completions that were judged."""
    told = [
        (verdict.worth, len(rollout.completion.token_ids), number)
        for number, group in enumerate(groups)
        for rollout in group.rollouts
        if rollout.reward is not None and (verdict := rollout.verdicts[name]).worth is not None
    ]
    numbers, lengths, numbered = zip(*told, strict=True) if told else ((), (), ())
    return length_slope(numbers, lengths, numbered, within=within)


def _without_length(groups: Sequence[Group], name: str, slope: float, rewards: Mapping[str, Reward]) -> list[Group]:
    """The groups with value - slope * (length - mean length of the step) for the part, and what follows from it."""
    lengths = [len(r.completion.token_ids) for g in groups for r in g.rollouts if r.reward is not None]
    mean_length = sum(lengths) / max(1, len(lengths))

    def told(rollout: Rollout) -> dict[str, Verdict]:
        verdict = rollout.verdicts[name]
        if verdict.value is None:
            return dict(rollout.verdicts)
        value = verdict.value - slope * (len(rollout.completion.token_ids) - mean_length)
        return {**rollout.verdicts, name: replace(verdict, value=value, score=sigmoid(value))}

    return [_judged_again(group, [told(rollout) for rollout in group.all_rollouts], rewards) for group in groups]


def _judged_again(group: Group, verdicts_G: Sequence[Mapping[str, Verdict]], rewards: Mapping[str, Reward]) -> Group:
    """With the rewards that follow from these verdicts; what was unjudged stays so."""
    asked = group.all_rollouts
    reward_G = group_rewards(verdicts_G, rewards, [rollout.completion.finish != "abort" for rollout in asked])

    def with_reward(rollout: Rollout, verdicts: Mapping[str, Verdict], reward: float | None) -> Rollout:
        before = earned(rollout)
        if rollout.reward is None or before is None or reward is None:
            return rollout
        if (overlong := verdicts.get(OVERLONG)) is not None:
            checks = {**overlong.checks, "reward_before": reward}
            verdicts = {**verdicts, OVERLONG: replace(overlong, checks=checks)}
        return replace(rollout, verdicts=verdicts, reward=reward + (rollout.reward - before))

    return group.with_all([with_reward(*each) for each in zip(asked, verdicts_G, reward_G, strict=True)])
