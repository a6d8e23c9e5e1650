"""Tasks become scored groups: draw, sample, score while others are sampled, set aside what could not be judged."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from rlvr.errors import DataError, EngineError
from rlvr.recipe import Sample
from rlvr.seeds import seed_for
from rlvr.tasks import TaskStream
from rlvr.types import Completion, Engine, Group, Request, Rollout, Sampling, Task, Verdict

if TYPE_CHECKING:
    from rlvr.rewards.base import Rewards

_ABORTED = Verdict(score=None, outcome="error", reason="the engine took the completion back")


@dataclass(slots=True)
class Taken:
    """The groups of one step and what it took to get them."""

    groups: list[Group]
    """In the order of their tasks, whatever the order of completion was."""
    set_aside: list[Group] = field(default_factory=list)
    """With fewer than two judged rollouts: there is nothing to compare."""
    sample_seconds: float = 0.0
    score_seconds: float = 0.0
    """Waited for verdicts after the last completion; the rest was hidden behind sampling."""


class Rollouts:
    """Draws tasks by a numeric cursor; holds no other state."""

    def __init__(
        self,
        encoded: Sequence[tuple[Task, tuple[int, ...]]],
        engine: Engine,
        rewards: Rewards,
        sample: Sample,
        *,
        seed: int,
        cursor: int = 0,
        on_progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        """encoded: tasks with their prompt ids; cursor: tasks drawn before (of a resumed run)."""
        self.stream = TaskStream([task for task, _ in encoded], seed)
        self.prompt_ids = {task.id: ids for task, ids in encoded}
        self.engine, self.rewards, self.sample, self.seed = engine, rewards, sample, seed
        self.cursor = cursor
        self.on_progress = on_progress

    def take(self, step: int) -> Taken:
        """sample.groups_per_step judged groups of fresh completions; fewer only where refills do not help.

        DataError where not one group could be judged.
        """
        taken = Taken([])
        drawn: Counter[str] = Counter()  # a task drawn twice in a step gets further sample numbers
        for _ in range(1 + self.sample.max_refills):
            missing = self.sample.groups_per_step - len(taken.groups)
            if not missing:
                break
            tasks = self.stream.take(self.cursor, missing)
            self.cursor += missing
            for group in self._sample_and_score(step, tasks, drawn, taken):
                (taken.groups if group.num_judged >= 2 else taken.set_aside).append(group)
        if not taken.groups:
            raise DataError(_why_unjudged(step, taken.set_aside))
        return taken

    def _sample_and_score(self, step: int, tasks: Sequence[Task], drawn: Counter[str], taken: Taken) -> list[Group]:
        requests = [self._request(step, task, drawn) for task in tasks]
        owner = {id: number for number, request in enumerate(requests) for id in request.sample_ids}
        waiting: list[dict[str, Completion | None]] = [dict.fromkeys(request.sample_ids) for request in requests]
        scored: list[Future[Group] | None] = [None] * len(tasks)
        started = time.perf_counter()
        done = 0
        for id, completion in self.engine.generate(requests):
            if id not in owner:
                raise EngineError(f"the engine gave a completion for {id!r}, which was not asked for (again)")
            number = owner.pop(id)
            waiting[number][id] = completion
            done += 1
            self.on_progress(f"sampling {done}/{done + len(owner)}")
            completions = {key: c for key, c in waiting[number].items() if c is not None}
            if len(completions) == self.sample.group_size:
                group = _unscored(tasks[number], self.prompt_ids[tasks[number].id], completions)
                scored[number] = self.rewards.submit(group)
        taken.sample_seconds += time.perf_counter() - started
        if owner:
            raise EngineError(
                f"the engine lost {len(owner)} of {done + len(owner)} completions ({next(iter(owner))}, ...)"
            )
        self.on_progress("scoring")
        started = time.perf_counter()
        groups = [_without_aborted(future.result()) for future in scored if future is not None]
        taken.score_seconds += time.perf_counter() - started
        return groups

    def _request(self, step: int, task: Task, drawn: Counter[str]) -> Request:
        first = drawn[task.id]
        drawn[task.id] += self.sample.group_size
        samples = range(first, first + self.sample.group_size)
        return Request(
            id=f"{step}/{task.id}",
            prompt_ids=self.prompt_ids[task.id],
            seeds=tuple(seed_for(self.seed, "sample", step, task.id, k) for k in samples),
            sampling=sampling(self.sample),
            first=first,
        )


def sampling(sample: Sample) -> Sampling:
    """The engine's view of the settings."""
    return Sampling(
        temperature=sample.temperature,
        max_tokens=sample.max_tokens,
        stop=sample.stop,
    )


def _unscored(task: Task, prompt_ids: tuple[int, ...], completions: dict[str, Completion]) -> Group:
    rollouts = tuple(
        Rollout(id=id, completion=completion, verdicts={}, reward=None) for id, completion in completions.items()
    )
    return Group(task=task, prompt_ids=prompt_ids, rollouts=rollouts)


def _without_aborted(group: Group) -> Group:
    """What the engine took back is no answer: whatever was thought of it, its rollout counts as unjudged."""
    rollouts = tuple(
        replace(r, reward=None, verdicts=dict.fromkeys(r.verdicts, _ABORTED)) if r.completion.finish == "abort" else r
        for r in group.rollouts
    )
    return replace(group, rollouts=rollouts)


def without_unjudged(group: Group) -> Group:
    """The group without the rollouts that could not be judged: they leave the baseline and the loss."""
    return replace(group, rollouts=tuple(r for r in group.rollouts if r.reward is not None))


def _is_unextracted(rollout: Rollout) -> bool:
    """A part says that there is no answer, and none found one."""
    verdicts = rollout.verdicts.values()
    return any(v.outcome == "no_answer" for v in verdicts) and all(v.answer is None for v in verdicts)


def _why_unjudged(step: int, groups: Sequence[Group]) -> str:
    verdicts = [
        v for group in groups for r in group.rollouts for v in r.verdicts.values() if v.score is None and v.reason
    ]
    reasons = Counter(f"{v.verifier}: {v.reason}" for v in verdicts)
    why = f"; most often {reasons.most_common(1)[0][0]}" if reasons else ""
    return f"step {step}: none of {len(groups)} groups could be judged, so there is nothing to learn from{why}"


def group_metrics(taken: Taken) -> dict[str, float]:
    """TRL's names: reward, reward_std, frac_reward_zero_std, rewards/PART/mean|std, completions/*; ours beside them."""
    everything = [r for group in (*taken.groups, *taken.set_aside) for r in group.rollouts]
    rewards_P = [[r.reward for r in group.rollouts if r.reward is not None] for group in taken.groups]
    spread_P = [float(np.std(rewards, ddof=1)) for rewards in rewards_P]
    metrics = {
        "num_groups": float(len(taken.groups)),
        "reward": _mean([reward for rewards in rewards_P for reward in rewards]),
        "reward_std": _mean(spread_P),
        "frac_reward_zero_std": _mean([max(rewards) == min(rewards) for rewards in rewards_P]),
        "reward/unjudged_ratio": _mean([r.reward is None for r in everything]),
        "reward/unextracted": _mean([_is_unextracted(r) for r in everything]),
        "reward/groups_set_aside": float(len(taken.set_aside)),
    }
    for part in everything[0].verdicts if everything else ():
        verdicts = [r.verdicts[part] for r in everything]
        scores = [v.score for v in verdicts if v.score is not None]
        if scores:  # a mean of nothing would look like the model's zero
            metrics[f"rewards/{part}/mean"] = _mean(scores)
            metrics[f"rewards/{part}/std"] = float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0
        for outcome, count in sorted(Counter(v.outcome for v in verdicts).items()):
            metrics[f"verdicts/{part}/{outcome}"] = count / len(verdicts)
    lengths = [len(r.completion.token_ids) for r in everything]
    ended = [len(r.completion.token_ids) for r in everything if r.completion.finish == "stop"]
    metrics |= {
        "completions/mean_length": _mean(lengths),
        "completions/min_length": float(min(lengths, default=0)),
        "completions/max_length": float(max(lengths, default=0)),
        "completions/clipped_ratio": _mean([r.completion.finish == "length" for r in everything]),
        "completions/mean_terminated_length": _mean(ended),
    }
    return metrics


def _mean(values: Iterable[float | bool | None]) -> float:
    known = [float(v) for v in values if v is not None]
    return sum(known) / len(known) if known else 0.0
