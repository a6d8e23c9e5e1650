"""Tasks become scored groups: draw, sample, score while others are sampled, set aside what could not be judged."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from rlvr.canaries import Canaries
from rlvr.errors import DataError, EngineError, Stopped
from rlvr.failpoints import failpoint
from rlvr.grouplog import GroupLog
from rlvr.recipe import Sample
from rlvr.rewards import composite
from rlvr.rewards.base import MODEL, OVERLONG, Rewards, earned
from rlvr.rewards.judge import totals
from rlvr.seeds import seed_for
from rlvr.tasks import TaskStream, is_canary
from rlvr.types import Completion, Engine, Group, Part, Request, Rollout, Sampling, Task, Verdict

Quality = Literal["unjudged", "equal", "useful"]
_ABORTED = Verdict(score=None, outcome="error", reason="the engine took the completion back")


@dataclass(slots=True)
class Taken:
    """The groups of one step and what it took to get them."""

    groups: list[Group]
    """In the order of their tasks, whatever the order of completion was."""
    set_aside: list[Group] = field(default_factory=list)
    """Sampled and not trained on; quality() says why."""
    canaries: list[Group] = field(default_factory=list)
    """Of tasks that cannot be solved: never trained on, and in no figure of the others."""
    sample_seconds: float = 0.0
    score_seconds: float = 0.0
    """Waited for verdicts after the last completion; the rest was hidden behind sampling."""

    @property
    def sampled(self) -> list[Group]:
        """But for canaries."""
        return [*self.groups, *self.set_aside]

    @property
    def everything(self) -> list[Group]:
        return [*self.sampled, *self.canaries]


class Rollouts:
    """Draws tasks by a numeric cursor; holds no other state but a log of the step under way."""

    def __init__(
        self,
        encoded: Sequence[tuple[Task, tuple[int, ...]]],
        engine: Engine,
        rewards: Rewards,
        sample: Sample,
        *,
        seed: int,
        cursor: int = 0,
        log: GroupLog | None = None,
        with_greedy: bool = False,
        parts: Sequence[Part] = (),
        canaries: Canaries | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
        on_progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        """encoded: tasks with their prompt ids; cursor: tasks drawn before (of a resumed run); log: keeps groups.

        with_greedy: each group gets a completion at temperature 0 as well; parts: of the reward, where the advantage
        compares each for itself; canaries: drawn beside a step's tasks; is_stopping: asked
        after each completion whether to give the step up.
        """
        self.stream = TaskStream([task for task, _ in encoded], seed)
        self.tasks = {task.id: task for task, _ in encoded}
        self.prompt_ids = {task.id: ids for task, ids in encoded}
        self.engine, self.rewards, self.sample, self.seed = engine, rewards, sample, seed
        self.cursor = cursor
        self.log = log
        self.with_greedy, self.parts, self.canaries = with_greedy, parts, canaries
        self._finished: dict[str, Group] = {}
        self.is_stopping = is_stopping
        self.on_progress = on_progress

    def take(self, step: int) -> Taken:
        """sample.groups_per_step groups of fresh completions to train on; fewer only where refills do not help.

        Groups that could not be judged are drawn anew, and with sample.dynamic those whose rewards are all equal. Where
        all are equal in the end, they are the step's groups, and it learns nothing. DataError where not one group could
        be judged; Stopped in the middle of sampling.
        """
        canaries = self._draw_canaries(step)
        if self.log is not None:
            self._finished = self.log.read(step, self.tasks)
        wanted = self.sample.groups_per_step
        trained = ("useful",) if self.sample.dynamic else ("useful", "equal")
        taken = Taken([])
        drawn: Counter[str] = Counter()  # a task drawn twice in a step gets further sample numbers
        for _ in range(1 + self.sample.max_refills):
            if len(taken.groups) == wanted:
                break
            tasks = self.stream.take(self.cursor, self._num_to_draw(taken))
            self.cursor += len(tasks)
            for group in self._sample_and_score(step, [*tasks, *canaries], drawn, taken):
                if is_canary(group.task):
                    taken.canaries.append(group)
                    continue
                is_wanted = self._quality(group) in trained and len(taken.groups) < wanted
                (taken.groups if is_wanted else taken.set_aside).append(group)
            canaries = []
        if not taken.groups:
            by_quality = [(self._quality(group), group) for group in taken.set_aside]
            equal = [group for kind, group in by_quality if kind == "equal"]
            taken.groups = equal[:wanted]
            taken.set_aside = [group for kind, group in by_quality if kind != "equal"] + equal[wanted:]
        if not taken.groups:
            if self.log is not None:
                self.log.discard(step)  # whoever mends what was wrong wants them judged anew
            raise DataError(_why_unjudged(step, taken.set_aside))
        if self.log is not None:
            self.log.sync(step)
        return taken

    def _draw_canaries(self, step: int) -> list[Task]:
        """Those of the step, known by their ids from here on."""
        drawn = self.canaries.draw(step, self.sample.groups_per_step) if self.canaries is not None else []
        self.tasks |= {task.id: task for task, _ in drawn}
        self.prompt_ids |= {task.id: ids for task, ids in drawn}
        return [task for task, _ in drawn]

    def _quality(self, group: Group) -> Quality:
        return quality(group, self.parts)

    def _num_to_draw(self, taken: Taken) -> int:
        """As many tasks as groups are missing; with sample.dynamic as many as give those, going by the step so far."""
        missing = self.sample.groups_per_step - len(taken.groups)
        if not (self.sample.dynamic and taken.sampled):
            return missing
        share = max(1, len(taken.groups)) / len(taken.sampled)
        return max(missing, min(self.sample.groups_per_step, int(missing / share)))

    def _sample_and_score(self, step: int, tasks: Sequence[Task], drawn: Counter[str], taken: Taken) -> list[Group]:
        """A group per task; those that an earlier attempt at this step has finished are taken as they were."""
        requests = [self._requests(step, task, drawn) for task in tasks]
        groups = [self._finished.pop(_key(asked), None) for asked in requests]
        fresh = [number for number, group in enumerate(groups) if group is None]
        ids = {number: [id for request in requests[number] for id in request.sample_ids] for number in fresh}
        owner = {id: number for number in fresh for id in ids[number]}
        waiting: dict[int, dict[str, Completion | None]] = {number: dict.fromkeys(ids[number]) for number in fresh}
        scoring: dict[int, Future[Group]] = {}

        def keep(number: int) -> None:
            groups[number] = group = _without_aborted(scoring.pop(number).result())
            failpoint("score")
            if self.log is not None:
                self.log.append(step, _key(requests[number]), group)

        started = time.perf_counter()
        total = len(owner)
        for id, completion in self.engine.generate([request for number in fresh for request in requests[number]]):
            if id not in owner:
                raise EngineError(f"the engine gave a completion for {id!r}, which was not asked for (again)")
            failpoint("sample")
            number = owner.pop(id)
            waiting[number][id] = completion
            self.on_progress(f"sampling {total - len(owner)}/{total}")
            completions = {key: c for key, c in waiting[number].items() if c is not None}
            if len(completions) == len(ids[number]):
                scoring[number] = self.rewards.submit(self._unscored(tasks[number], completions))
            for number in [n for n, future in scoring.items() if future.done()]:
                keep(number)
            if self.is_stopping() and owner:
                for number in list(scoring):
                    keep(number)
                kept = sum(group is not None for group in groups)
                raise Stopped(f"stopped while sampling step {step}, of which {kept} of {len(groups)} groups are kept")
        taken.sample_seconds += time.perf_counter() - started
        if owner:
            raise EngineError(f"the engine lost {len(owner)} of {total} completions ({next(iter(owner))}, ...)")
        self.on_progress("scoring")
        started = time.perf_counter()
        for number in list(scoring):
            keep(number)
        taken.score_seconds += time.perf_counter() - started
        return [group for group in groups if group is not None]

    def _requests(self, step: int, task: Task, drawn: Counter[str]) -> list[Request]:
        """For a group's siblings, and for its greedy completion as one sample more."""
        first = drawn[task.id]
        num_siblings = self.sample.group_size
        drawn[task.id] += num_siblings + self.with_greedy
        siblings = sampling(self.sample)
        asked = [(first, num_siblings, siblings)]
        if self.with_greedy:
            asked.append((first + num_siblings, 1, replace(siblings, temperature=0.0)))
        return [
            Request(
                id=f"{step}/{task.id}",
                prompt_ids=self.prompt_ids[task.id],
                seeds=tuple(seed_for(self.seed, "sample", step, task.id, k) for k in range(start, start + num)),
                sampling=how,
                first=start,
            )
            for start, num, how in asked
        ]

    def _unscored(self, task: Task, completions: Mapping[str, Completion]) -> Group:
        """completions: by id, in the order of _requests()."""
        rollouts = tuple(Rollout(id=id, completion=c, verdicts={}, reward=None) for id, c in completions.items())
        siblings, greedy = rollouts[: self.sample.group_size], rollouts[self.sample.group_size :]
        return Group(
            task=task,
            prompt_ids=self.prompt_ids[task.id],
            rollouts=siblings,
            greedy=greedy[0] if greedy else None,
        )


def _key(requests: Sequence[Request]) -> str:
    """Of a group within its step."""
    return f"{requests[0].id}/{requests[0].first}"


def sampling(sample: Sample) -> Sampling:
    """The engine's view of the settings."""
    return Sampling(
        temperature=sample.temperature,
        max_tokens=sample.max_tokens,
        stop=sample.stop,
    )


def _without_aborted(group: Group) -> Group:
    """What the engine took back is no answer: whatever was thought of it, its rollout counts as unjudged."""
    return group.with_all(
        [
            replace(r, reward=None, verdicts=dict.fromkeys(r.verdicts, _ABORTED))
            if r.completion.finish == "abort"
            else r
            for r in group.all_rollouts
        ]
    )


def quality(group: Group, parts: Sequence[Part] = ()) -> Quality:
    """unjudged: fewer than two rollouts to compare (of a group of one: none), or a greedy one without a reward to
    compare them with; equal: their rewards, without the penalty of length, all are (the greedy one's too), and so are
    the scores of each of `parts`."""
    if group.num_judged < min(2, len(group.rollouts)) or (group.greedy is not None and group.greedy.reward is None):
        return "unjudged"
    rewards = {earned(rollout) for rollout in group.all_rollouts if rollout.reward is not None}
    scores_GK = group.scores_by_part([part for part in parts if part.name != OVERLONG])
    judged = {tuple(k) for r, k in zip(group.rollouts, scores_GK, strict=True) if r.reward is not None}
    return "equal" if len(rewards) == len(judged) == 1 else "useful"


def _is_unextracted(rollout: Rollout) -> bool:
    """A part says that there is no answer, and none found one."""
    verdicts = rollout.verdicts.values()
    return any(v.outcome == "no_answer" for v in verdicts) and all(v.answer is None for v in verdicts)


def _why_unjudged(step: int, groups: Sequence[Group]) -> str:
    reasons = Counter(
        f"rewards.{name}: {f'{v.verifier}: ' if v.verifier else ''}{v.reason}"
        for group in groups
        for r in group.all_rollouts
        for name, v in r.verdicts.items()
        if v.score is None and v.reason
    )
    why = f"; most often {reasons.most_common(1)[0][0]}" if reasons else ""
    return f"step {step}: none of {len(groups)} groups could be judged, so there is nothing to learn from{why}"


def group_metrics(taken: Taken, parts: Sequence[Part] = ()) -> dict[str, float]:
    """TRL's names: reward, reward_std, frac_reward_zero_std, rewards/PART/mean|std, completions/*; ours beside them.

    All are of everything that was sampled, trained on or set aside: what is chosen to be trained on is no measure of
    the policy. Greedy completions are in reward/greedy alone. parts: as of Rollouts.
    """
    sampled = taken.sampled
    everything = [r for group in sampled for r in group.rollouts]
    judged_P = [[r.reward for r in g.rollouts if r.reward is not None] for g in sampled if g.num_judged >= 2]
    qualities = Counter(quality(group, parts) for group in sampled)
    metrics = {
        "num_groups": float(len(taken.groups)),
        "reward": _mean([r.reward for r in everything]),
        "reward_std": _mean([float(np.std(rewards, ddof=1)) for rewards in judged_P]),
        "frac_reward_zero_std": _mean([max(rewards) == min(rewards) for rewards in judged_P]),
        "reward/unjudged_ratio": _mean([r.reward is None for r in everything]),
        "reward/unextracted": _mean([_is_unextracted(r) for r in everything]),
        "sampling/groups": float(len(sampled)),
        "sampling/groups_set_aside": float(len(taken.set_aside)),
        **{
            f"sampling/{kind}_ratio": qualities[kind] / max(1, len(sampled)) for kind in ("useful", "equal", "unjudged")
        },
    }
    for part in everything[0].verdicts if everything else ():
        verdicts = [r.verdicts[part] for r in everything]
        worths = [v.worth for v in verdicts if v.worth is not None]
        if worths:  # a mean of nothing would look like the model's zero
            metrics[f"rewards/{part}/mean"] = _mean(worths)
            metrics[f"rewards/{part}/std"] = float(np.std(worths, ddof=1)) if len(worths) > 1 else 0.0
        metrics |= {f"rewards/{part}/{name}/mean": _mean(scores) for name, scores in _of_parts(verdicts).items()}
        metrics |= {f"rewards/{part}/{name}": total for name, total in totals(verdicts).items()}
        for outcome, count in sorted(Counter(v.outcome for v in verdicts).items()):
            metrics[f"verdicts/{part}/{outcome}"] = count / len(verdicts)
    greedy = [group.greedy.reward for group in sampled if group.greedy is not None]
    if any(reward is not None for reward in greedy):
        metrics["reward/greedy"] = _mean(greedy)
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


def _of_parts(verdicts: Sequence[Verdict]) -> dict[str, list[float]]:
    """Scores of a composite's parts, by their names; a model's outputs by their labels, and the standard deviation
    over the members of an ensemble."""
    found: dict[str, list[float]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.verifier == composite.NAME:
            for name, part in verdict.checks.items():
                if part["score"] is not None:
                    found[name].append(part["score"])
        elif verdict.verifier == MODEL:
            for name, output in verdict.checks.get("outputs", {}).items():
                found[name].append(output)
            if "std" in verdict.checks:
                found["ensemble_std"].append(verdict.checks["std"])
    return found


def _mean(values: Iterable[float | bool | None]) -> float:
    known = [float(v) for v in values if v is not None]
    return sum(known) / len(known) if known else 0.0
