"""Reward parts put together: every rollout gets each part's verdict, and the one number that is trained on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from rlvr import recipe
from rlvr.errors import RlvrError, SettingsError
from rlvr.inputs import fingerprint_model
from rlvr.rewards import composite
from rlvr.rewards.bound import start_problems
from rlvr.rewards.judge import JudgeReward as JudgeSource
from rlvr.rewards.unsupervised import Majority, PolicyView, SelfCertainty
from rlvr.rewards.verified import VerifiedReward, VerifierPool
from rlvr.seeds import seed_for
from rlvr.types import Completion, Group, Part, RewardSource, Rollout, Task, Verdict

OVERLONG = "overlong"
"""The part that takes off what a completion's length or missing end costs; no part of a recipe may bear its name."""
MODEL = "model"
"""The verifier in the verdicts of a part of kind model."""
_ASKS_VERIFIERS = (recipe.VerifiedReward, recipe.MajorityReward)


def _is_in_the_loop(reward: recipe.Reward) -> bool:
    """Whether torch reckons it in this process."""
    if isinstance(reward, recipe.JudgeReward):
        return reward.by.kind != "endpoint"
    return isinstance(reward, recipe.ModelReward | recipe.SelfCertaintyReward)


def combine(
    verdicts: Mapping[str, Verdict],
    rewards: Mapping[str, recipe.Reward],
    left_out: Collection[str] = (),
    steps: Mapping[str, float] | None = None,
) -> float | None:
    """sum of weight * worth over the parts that speak; None where none does, or one that is needed failed.

    Weights are not renormalised: a part that is left out counts as nothing, and the others as they are. A part of
    weight 0 is only logged, so it makes nothing unjudged. A part behind a gate adds weight / 2 * score * steps[gate]
    instead, see gate_step().
    """
    total, num_parts = 0.0, 0
    for name, reward in rewards.items():
        verdict = verdicts[name]
        if reward.weight == 0 or name in left_out:
            continue
        if verdict.score is not None and verdict.worth is not None:
            gate = None if reward.gate is None else (steps or {})[reward.gate]
            total += reward.weight * verdict.worth if gate is None else reward.weight / 2 * verdict.score * gate
            num_parts += 1
        elif verdict.is_failure and not reward.optional:
            return None
    return total if num_parts else None


def gate_step(worths: Iterable[float | None], weight: float) -> float:
    """|weight| times the smallest difference between siblings' worths by a gate, at most 1; 1 where they are equal.

    Differences below 1e-9 are rounding and count as none: behind such a step nothing would be left of the parts.
    What the parts behind the gate add is within half of it: weights that add up to 1 at most, scores in [0, 1]. So the
    sum of gate and parts behind it orders siblings as the gate does, and those that are equal by it as the parts do.
    """
    ordered = sorted({worth for worth in worths if worth is not None})
    steps = [above - below for below, above in pairwise(ordered)]
    return abs(weight) * min([1.0, *(step for step in steps if step > 1e-9)])


def group_rewards(
    verdicts_G: Sequence[Mapping[str, Verdict]],
    rewards: Mapping[str, recipe.Reward],
    is_answered_G: Sequence[bool] | None = None,
) -> list[float | None]:
    """combine() of all siblings, with what they have in common: optional parts that are left out, and steps of gates.

    is_answered_G: False for what the engine took back, which makes no part fail; None: all were answered.
    """
    answered = [
        v for v, is_answered in zip(verdicts_G, is_answered_G or [True] * len(verdicts_G), strict=True) if is_answered
    ]
    left_out = failed_optional(answered, rewards)
    gates = {part.gate for part in rewards.values() if part.gate is not None}
    steps = {gate: gate_step([v[gate].worth for v in answered], rewards[gate].weight) for gate in gates}
    return [combine(verdicts, rewards, left_out, steps) for verdicts in verdicts_G]


def failed_optional(verdicts_G: Sequence[Mapping[str, Verdict]], rewards: Mapping[str, recipe.Reward]) -> set[str]:
    """Optional parts that failed for any sibling: the whole group does without them, so that none is worse off."""
    return {
        name
        for name, reward in rewards.items()
        if reward.optional and any(verdicts[name].is_failure for verdicts in verdicts_G)
    }


def parts_of(rewards: Mapping[str, recipe.Reward], overlong: recipe.Overlong) -> tuple[Part, ...]:
    """What a reward is the weighted sum of: the recipe's parts in its order, and behind them what length takes off.

    Not those of weight 0, nor a penalty that is off.
    """
    parts = [
        Part(name=name, weight=reward.weight, is_optional=reward.optional)
        for name, reward in rewards.items()
        if reward.weight
    ]
    if overlong.most > 0:
        parts.append(Part(name=OVERLONG, weight=-overlong.most))
    return tuple(parts)


class RandomReward:
    """1 with probability p, whatever was written; a rollout gets the same number each time it is asked for."""

    def __init__(self, name: str, p: float, seed: int) -> None:
        self.name, self.p, self.seed = name, p, seed

    def score(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        return [[self._verdict(rollout.id) for rollout in group.rollouts] for group in groups]

    def _verdict(self, rollout_id: str) -> Verdict:
        lucky = seed_for(self.seed, "random_reward", self.name, rollout_id) / 2**63 < self.p
        return Verdict(
            score=float(lucky),
            outcome="correct" if lucky else "wrong",
            reason=f"drawn with probability {self.p:g}",
            verifier="random",
            version="1",
        )


class OverlongPenalty:
    """What is taken off: the share s of `penalty` by length (0 up to the buffer, then linear, 1 at max_tokens,
    https://arxiv.org/abs/2503.14476 eq. 13), and `missing_eos` where the completion was cut.

    The verdict's score is its share of overlong.most.
    """

    def __init__(self, overlong: recipe.Overlong, max_tokens: int) -> None:
        assert overlong.is_on and max_tokens > 0
        self._overlong, self._max = overlong, max_tokens
        self._buffer = overlong.buffer * max_tokens

    def apply(self, rollout: Rollout) -> Rollout:
        """The rollout with a verdict more, and where it was judged a reward that is less."""
        verdict = self._verdict(rollout.completion, rollout.reward)
        assert verdict.score is not None
        reward = None if rollout.reward is None else rollout.reward - self._overlong.most * verdict.score
        return replace(rollout, verdicts={**rollout.verdicts, OVERLONG: verdict}, reward=reward)

    def _verdict(self, completion: Completion, reward: float | None) -> Verdict:
        overlong, length = self._overlong, len(completion.token_ids)
        said, score = [f"{length} of {self._max} tokens"], 0.0
        if overlong.buffer > 0:
            score = min(1.0, max(0.0, 1 - (self._max - length) / self._buffer))
            said.append(f"penalty over the last {self._buffer:g}: {score:.3g} of {overlong.penalty:g}")
        if overlong.missing_eos > 0:
            due = overlong.missing_eos if completion.finish == "length" else 0.0
            said.append(f"its end {'missing' if due else 'there'}: {due:g} of {overlong.missing_eos:g}")
            score = (score * overlong.penalty + due) / overlong.most
        return Verdict(
            score=score,
            outcome="correct" if score == 0 else "wrong" if score == 1 else "partial",
            reason=", ".join(said),
            checks={"reward_before": reward},
            verifier=OVERLONG,
            version="1",
        )


def earned(rollout: Rollout) -> float | None:
    """The reward without what its length or its missing end took off: what the response itself was worth."""
    overlong = rollout.verdicts.get(OVERLONG)
    return rollout.reward if overlong is None or rollout.reward is None else overlong.checks["reward_before"]


class Rewards:
    """All reward parts of a run. Safe from any thread, where none is a model."""

    def __init__(
        self,
        rewards: Mapping[str, recipe.Reward],
        sources: Mapping[str, RewardSource],
        pool: VerifierPool | None,
        threads: int,
        overlong: OverlongPenalty | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._rewards, self._sources, self._pool, self._overlong = rewards, sources, pool, overlong
        self._options = {**(options or {}), **options_by_verifier(rewards)}
        self._in_the_loop = [name for name, reward in rewards.items() if _is_in_the_loop(reward)]
        self._after = {
            name: reward.unless
            for name, reward in rewards.items()
            if isinstance(reward, recipe.JudgeReward) and reward.unless is not None
        }
        """Parts that are told another's verdicts, and whose."""
        # one thread waits for one group's verdicts; the work is done in the pool's processes
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="rlvr-rewards")

    def score(self, groups: Sequence[Group]) -> list[Group]:
        """The same groups, with `verdicts` by the name of the part and `reward` filled.

        A greedy completion is judged as one more of the siblings. What the engine took back makes no part fail.
        """
        return self._scored(groups, self._asked_now(groups))

    def _asked(self, groups: Sequence[Group], names: Collection[str]) -> dict[str, list[list[Verdict]]]:
        """Verdicts [group][rollout] by the parts of these names."""
        whole = [replace(group, rollouts=group.all_rollouts, greedy=None) for group in groups]
        return {name: self._sources[name].score(whole) for name in self._sources if name in names}

    def _asked_now(self, groups: Sequence[Group]) -> dict[str, list[list[Verdict]]]:
        """_asked() of the parts that torch reckons here, and of those whose verdicts they must know."""
        first = [name for name in self._in_the_loop if name not in self._after]
        later = [name for name in self._in_the_loop if name in self._after]
        told = self._asked(groups, [*first, *(self._after[name] for name in later)])
        return told | self._asked_after(groups, later, told)

    def _asked_after(
        self, groups: Sequence[Group], names: Sequence[str], told: Mapping[str, list[list[Verdict]]]
    ) -> dict[str, list[list[Verdict]]]:
        """_asked() of parts that find another's verdicts in the rollouts."""
        found: dict[str, list[list[Verdict]]] = {}
        for name in names:
            known = told[self._after[name]]
            knowing = [
                replace(
                    group,
                    rollouts=tuple(
                        replace(rollout, verdicts={self._after[name]: verdict})
                        for rollout, verdict in zip(group.all_rollouts, verdicts, strict=True)
                    ),
                    greedy=None,
                )
                for group, verdicts in zip(groups, known, strict=True)
            ]
            found[name] = self._sources[name].score(knowing)
        return found

    def _scored(self, groups: Sequence[Group], told: Mapping[str, list[list[Verdict]]]) -> list[Group]:
        """The groups with the verdicts of all parts; told: those that there are."""
        told = {
            **told,
            **self._asked(groups, [name for name in self._sources if name not in told and name not in self._after]),
        }
        told |= self._asked_after(groups, [name for name in self._after if name not in told], told)
        parts = {name: told[name] for name in self._sources}
        scored = []
        for g, group in enumerate(groups):
            asked = group.all_rollouts
            verdicts_G = [{name: verdicts[g][k] for name, verdicts in parts.items()} for k in range(len(asked))]
            reward_G = group_rewards(
                verdicts_G, self._rewards, [rollout.completion.finish != "abort" for rollout in asked]
            )
            rollouts = [
                replace(rollout, verdicts=verdicts, reward=reward)
                for rollout, verdicts, reward in zip(asked, verdicts_G, reward_G, strict=True)
            ]
            if self._overlong is not None:
                rollouts = [self._overlong.apply(rollout) for rollout in rollouts]
            scored.append(group.with_all(rollouts))
        return scored

    def show_policy(self, view: PolicyView) -> None:
        """The policy, to the parts that read it; before the first score()."""
        for source in self._sources.values():
            if isinstance(source, SelfCertainty):
                source.policy = view

    def submit(self, group: Group) -> Future[Group]:
        """score([group]) in the background, so that sampling goes on meanwhile.

        Parts that are models are asked here and now: what torch does at the same time as an engine in this process, on
        threads that both set, would differ in its last bits from one attempt to the next.
        """
        told = self._asked_now([group])
        return self._threads.submit(lambda: self._scored([group], told)[0])

    def judge(self, jobs: Sequence[tuple[str, str, Task]]) -> list[Verdict]:
        """Verdicts of (verifier, response, task), in their order: what evaluation needs, without any reward.

        A verifier that a part names has that part's options, another one those that build() was given.
        """
        if self._pool is None:
            raise RlvrError("judge() needs a verifier, but neither the rewards nor the tasks name one")
        return self._pool.judge(jobs, self._options)

    def close(self) -> None:
        """End the verifiers' processes and the judges; verdicts still to come become errors. May be called again."""
        if self._pool is not None:
            self._pool.close()
        judges = [source for source in self._sources.values() if isinstance(source, JudgeSource)]
        for judge in judges:
            judge.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for judge in judges:
            judge.close()


def options_by_verifier(rewards: Mapping[str, recipe.Reward]) -> dict[str, dict[str, Any]]:
    """Options of each verifier that a part names; of several parts those of the first that is trained on."""
    parts = [reward for reward in rewards.values() if isinstance(reward, recipe.VerifiedReward) and reward.verifier]
    parts.sort(key=lambda reward: reward.weight == 0)
    return {part.verifier: part.options for part in reversed(parts) if part.verifier}


def check_options(
    rewards: Mapping[str, recipe.Reward],
    tasks_verifiers: Collection[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """SettingsError, a line for each: options that a verifier does not have or take, verifiers that cannot judge here.

    Of the parts and of tasks; `options`, by verifier, are those of the latter.
    """
    problems: list[str] = []
    for name, reward in rewards.items():
        if isinstance(reward, _ASKS_VERIFIERS) and reward.verifier:
            problems += start_problems(reward.verifier, reward.options, f"rewards.{name}.options")
    asked = {reward.verifier for reward in rewards.values() if isinstance(reward, _ASKS_VERIFIERS)}
    for verifier in sorted(set(tasks_verifiers) - asked):
        problems += start_problems(verifier, (options or {}).get(verifier, {}), "options")
    if problems:
        raise SettingsError("\n".join(dict.fromkeys(problems)))


def build(
    rewards: Mapping[str, recipe.Reward],
    scoring: recipe.Scoring,
    seed: int,
    tasks_verifiers: Collection[str],
    *,
    overlong: recipe.Overlong | None = None,
    max_tokens: int = 0,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    model: recipe.Model | None = None,
    tasks: Sequence[Task] = (),
    warn: Callable[[str], None] = lambda text: None,
    judged: Path | None = None,
) -> Rewards:
    """The parts that a recipe names. `tasks_verifiers` are those that tasks name, loaded now rather than midway.

    overlong.buffer and overlong.missing_eos add the part "overlong", for completions of at most `max_tokens`.
    `options`, by verifier, are for judge() alone. Parts of kind model read what `model`, the policy, writes for these
    tasks, and tell `warn` of a number that is not finite. Judges keep replies in the folder `judged`, so that none is
    paid for twice. PluginError where a verifier cannot be loaded, DataError where a model cannot, SettingsError where
    a part bears that name, or as check_options().
    """
    if OVERLONG in rewards:
        raise SettingsError(f"rewards.{OVERLONG}: this name is kept for the penalties of overlong; choose another")
    check_options(rewards, tasks_verifiers, options)
    penalty = OverlongPenalty(overlong, max_tokens) if overlong is not None and overlong.is_on else None
    named = [reward.verifier for reward in rewards.values() if isinstance(reward, _ASKS_VERIFIERS)]
    verifiers = sorted({name for name in named if name} | set(tasks_verifiers))
    chosen = {**(options or {}), **options_by_verifier(rewards)}
    verifiers += composite.verifiers_of(chosen[composite.NAME]) if composite.NAME in verifiers else []
    pool = VerifierPool(verifiers, scoring.workers, scoring.memory_mib, seed) if named or verifiers else None
    sources: dict[str, RewardSource] = {}
    for name, reward in rewards.items():
        if isinstance(reward, recipe.RandomReward):
            sources[name] = RandomReward(name, reward.p, seed)
        elif isinstance(reward, recipe.ModelReward):
            sources[name] = _model_reward(name, reward, model, tasks, warn)
        elif isinstance(reward, recipe.SelfCertaintyReward):
            sources[name] = SelfCertainty()
        elif isinstance(reward, recipe.JudgeReward):
            sources[name] = JudgeSource(name, reward, seed, None if judged is None else judged / f"{name}.sqlite")
        elif isinstance(reward, recipe.MajorityReward):
            assert pool is not None
            sources[name] = Majority(VerifiedReward(pool, reward.verifier, reward.options))
        else:
            assert pool is not None
            sources[name] = VerifiedReward(pool, reward.verifier, reward.options)
    return Rewards(rewards, sources, pool, threads=scoring.workers + 2, overlong=penalty, options=options)


def _model_reward(
    name: str,
    reward: recipe.ModelReward,
    model: recipe.Model | None,
    tasks: Sequence[Task],
    warn: Callable[[str], None],
) -> RewardSource:
    from rlvr.rewards.model import ModelReward, Writer  # with torch, which those who only judge need not wait for

    if model is None:
        raise ValueError(
            f"rewards.{name} is a model that reads what the policy writes: give build() the policy's model"
        )
    return ModelReward(name, reward, Writer.of(model), tasks, warn)


def fingerprints(rewards: Mapping[str, recipe.Reward]) -> dict[str, str]:
    """Of the models that are rewards, by setting: a run that goes on must find the same."""
    judges = {
        f"rewards.{name}.by.path": fingerprint_model(reward.by.path, setting=f"rewards.{name}.by.path")
        for name, reward in rewards.items()
        if isinstance(reward, recipe.JudgeReward) and reward.by.kind != "endpoint"
    }
    return judges | {
        f"rewards.{name}.{'paths' if reward.paths else 'path'}": " ".join(
            fingerprint_model(path, setting=f"rewards.{name}.{'paths' if reward.paths else 'path'}")
            for path in reward.paths or (str(reward.path),)
        )
        for name, reward in rewards.items()
        if isinstance(reward, recipe.ModelReward)
    }
