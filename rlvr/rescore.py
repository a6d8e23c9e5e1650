"""Old rollouts judged again: which verdicts change, what that does to rewards, and which advantages change sign.

A run is judged as it was sampled: responses, tasks and the other parts' verdicts are taken from its files, and one part
is asked anew. Nothing in the run folder is changed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlvr import rollout_table, runs, settings
from rlvr.errors import DataError, SettingsError, near
from rlvr.recipe import JudgeReward, ModelReward, RlRecipe, VerifiedReward
from rlvr.reward_settings import Ensemble
from rlvr.rewards.base import MODEL, OverlongPenalty, group_rewards, parts_of
from rlvr.rewards.bound import start_problems
from rlvr.rewards.judge import JUDGE
from rlvr.rewards.judge import JudgeReward as JudgeSource
from rlvr.rewards.verified import VerifiedReward as VerifierSource
from rlvr.rewards.verified import VerifierPool
from rlvr.types import Group, RewardSource, Rollout, Verdict

_NEAR = 1e-4
"""Relative and absolute difference of values that come from the same model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A rollout whose score is another now, or whose advantage has another sign."""

    id: str
    step: int
    role: str
    """trained, set_aside or canary."""
    before: Verdict
    after: Verdict
    reward: tuple[float | None, float | None]
    """Before and after."""
    advantage: tuple[float | None, float | None]
    """By the rewards before and after; None where it was not trained on."""

    @property
    def flips(self) -> bool:
        """Whether it was pushed up and should have been pushed down, or the other way round."""
        old, new = self.advantage
        return old is not None and new is not None and old * new < 0

    def to_dict(self) -> dict[str, Any]:
        shown = ("score", "value", "outcome", "reason", "answer", "verifier", "version", "input_hash")
        return {
            "id": self.id,
            "step": self.step,
            "role": self.role,
            **{
                name: {key: getattr(verdict, key) for key in shown}
                for name, verdict in (("before", self.before), ("after", self.after))
            },
            "reward": list(self.reward),
            "advantage": list(self.advantage),
            "flips": self.flips,
        }


@dataclass(slots=True)
class StepReport:
    """What judging again does to one step."""

    step: int
    n: int
    """Rollouts judged again."""
    changed: int
    """With another score or value, also where one of the two is None."""
    up: int
    """Of those with both."""
    down: int
    unjudged: tuple[int, int]
    """Rollouts without a score, before and after."""
    reward: tuple[float | None, float | None]
    """Mean over the rollouts that were trained on or set aside, before and after."""
    num_rewarded: tuple[int, int]
    """How many of those have a reward."""
    flips: int
    """Advantages of another sign."""
    now_equal: int
    """Groups that were trained on and would teach nothing."""
    unstable: int
    """Another score from the same version of the verifier for the same input."""
    changes: list[Change] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        names = ("step", "n", "changed", "up", "down", "flips", "now_equal", "unstable")
        return {
            **{name: getattr(self, name) for name in names},
            "unjudged": list(self.unjudged),
            "reward": list(self.reward),
        }


@dataclass(frozen=True, slots=True)
class Rescoring:
    """Whom to ask, in place of which part."""

    recipe: RlRecipe
    """With the model or the judge that is asked, where it is one."""
    part: str
    verifier: str
    """`model`: the part's reward model; `judge`: the part's judge."""
    options: Mapping[str, Any]

    @property
    def compares_advantages(self) -> bool:
        """Whether advantages follow from rewards alone."""
        return self.recipe.advantage.kind not in ("gae", "online_dpo", "divergence")


def plan(run: Path, verifier: str, part: str | None = None, options: Mapping[str, Any] | None = None) -> Rescoring:
    """Which part of the run's reward `verifier` stands for: that named, else the one that it judged, else the only one.

    Without options, that part's own where it has the same verifier. verifier `model`: a part that is a reward model,
    with the option `path` another one than the run had; `judge`: a part that is a judge, with its settings as options
    (`by.model`). SettingsError where none or several would do, or the verifier
    cannot take the options; DataError where the folder is no run of reinforcement learning.
    """
    runs.read_recipe(run)
    recipe = settings.load_recipe(run / "recipe.yaml")
    if not isinstance(recipe, RlRecipe):
        raise DataError(f"{run} is a run of `rlvr {recipe.command}`, which has no rewards to judge again")
    if verifier == MODEL:
        return _plan_model(recipe, part, dict(options or {}), run)
    if verifier == JUDGE:
        return _plan_judge(recipe, part, dict(options or {}), run)
    verified = {name: each for name, each in recipe.rewards.items() if isinstance(each, VerifiedReward)}
    part = part or _part_for(verifier, verified, run)
    if part not in verified:
        raise SettingsError(
            f"--part {part}: the run's reward has no such verified part; {near(part, verified)}it has: "
            f"{', '.join(verified) or 'none'}"
        )
    chosen = options
    if not options and verified[part].verifier == verifier:
        chosen = verified[part].options
    if problems := start_problems(verifier, chosen or {}, "--option"):
        raise SettingsError("\n".join(problems))
    return Rescoring(recipe, part, verifier, dict(chosen or {}))


def _plan_model(recipe: RlRecipe, part: str | None, options: dict[str, Any], run: Path) -> Rescoring:
    models = {name: each for name, each in recipe.rewards.items() if isinstance(each, ModelReward)}
    part = _only(models, part, run, "reward model")
    if set(options) - {"path"}:
        raise SettingsError(f"--option {min(set(options) - {'path'})}: a reward model has the option path alone")
    if options:
        rewards = {
            **recipe.rewards,
            part: models[part].model_copy(update={**options, "paths": (), "ensemble": Ensemble()}),
        }
        recipe = recipe.model_copy(update={"rewards": rewards})
    return Rescoring(recipe, part, MODEL, options)


def _plan_judge(recipe: RlRecipe, part: str | None, options: dict[str, Any], run: Path) -> Rescoring:
    judges = {name: each for name, each in recipe.rewards.items() if isinstance(each, JudgeReward)}
    part = _only(judges, part, run, "judge")
    values = judges[part].model_dump()
    for name, value in options.items():
        *sections, last = name.split(".")
        section: Any = values
        for each in sections:
            section = section.get(each) if isinstance(section, dict) else None
        if not isinstance(section, dict) or last not in section:
            raise SettingsError(f"--option {name}: a judge has no such setting; `rlvr config --settings rl` lists them")
        section[last] = value
    try:
        told = JudgeReward.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SettingsError(f"--option {where}: {first['msg'].removeprefix('Value error, ')}") from None
    return Rescoring(recipe.model_copy(update={"rewards": {**recipe.rewards, part: told}}), part, JUDGE, options)


def _only(parts: Mapping[str, Any], part: str | None, run: Path, kind: str) -> str:
    """The part that is named, else the only one."""
    if part is None and len(parts) == 1:
        (part,) = parts
    if part is None or part not in parts:
        told = f"has {', '.join(parts)}" if parts else f"has none of kind {kind.split()[-1]}"
        raise SettingsError(f"--part {part or 'is needed'}: which {kind} of the run is to judge again; {run} {told}")
    return part


def _part_for(verifier: str, verified: Mapping[str, VerifiedReward], run: Path) -> str:
    own = [name for name, part in verified.items() if part.verifier in (verifier, None)]
    fitting = own or list(verified)
    if len(fitting) != 1:
        told = f"has {', '.join(fitting)}" if fitting else "has none that a verifier judges"
        raise SettingsError(f"--part is needed: which part of the reward {verifier!r} stands for; {run} {told}")
    return fitting[0]


def rescore(run: Path, plan: Rescoring, steps: Sequence[int] | None = None, workers: int = 1) -> Iterable[StepReport]:
    """A report for each step, in their order. DataError where there are no such rollouts, or no tasks with them."""
    there = runs.rollout_steps(run)
    missing = sorted(set(steps or []) - set(there))
    if missing or not there:
        raise DataError(f"{run} has no rollouts" + (f" of step {missing[0]}" if missing else ""))
    with _judge(run, plan, workers) as judge:
        for step in steps or there:
            rows = runs.read_rollouts(run, step)
            try:
                old = rollout_table.groups(rows)
            except ValueError as error:
                raise DataError(f"{run}: rollouts of step {step} cannot be judged again: {error}") from None
            verdicts = judge([group for _, group in old])
            new = [
                (role, group.with_all(_rewarded(plan, group.all_rollouts, told)))
                for (role, group), told in zip(old, verdicts, strict=True)
            ]
            yield _report(step, plan, old, new)


@contextlib.contextmanager
def _judge(run: Path, plan: Rescoring, workers: int) -> Iterator[Callable[[Sequence[Group]], list[list[Verdict]]]]:
    """Verdicts [group][rollout] of all rollouts."""
    if plan.verifier == MODEL:
        from rlvr.rewards.model import ModelReward as Source
        from rlvr.rewards.model import Writer

        part = plan.recipe.rewards[plan.part]
        assert isinstance(part, ModelReward)
        source: RewardSource = Source(plan.part, part, Writer.of(plan.recipe.model), (), lambda text: None)
        yield lambda groups: source.score([replace(g, rollouts=g.all_rollouts, greedy=None) for g in groups])
        return
    if plan.verifier == JUDGE:
        judge = plan.recipe.rewards[plan.part]
        assert isinstance(judge, JudgeReward)
        replies = run.absolute().with_name(f".{run.absolute().name}.rescored")  # the run stays as it is
        asked = JudgeSource(plan.part, judge, plan.recipe.seed, replies)
        try:
            yield lambda groups: asked.score([replace(g, rollouts=g.all_rollouts, greedy=None) for g in groups])
        finally:
            asked.close()
        return
    with VerifierPool([plan.verifier], workers, plan.recipe.scoring.memory_mib, seed=plan.recipe.seed) as pool:
        source = VerifierSource(pool, plan.verifier, plan.options)
        yield lambda groups: source.score([replace(g, rollouts=g.all_rollouts, greedy=None) for g in groups])


def _rewarded(plan: Rescoring, rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]) -> list[Rollout]:
    """With the part's verdicts anew and the rewards that follow; what the engine took back stays."""
    recipe = plan.recipe
    overlong = recipe.overlong
    penalty = OverlongPenalty(overlong, recipe.sample.max_tokens) if overlong.is_on else None
    answered_G = [rollout.completion.finish != "abort" for rollout in rollouts]
    told_G = [
        {**rollout.verdicts, plan.part: verdict} if is_answered else rollout.verdicts
        for rollout, verdict, is_answered in zip(rollouts, verdicts, answered_G, strict=True)
    ]
    reward_G = group_rewards(told_G, recipe.rewards, answered_G)
    rewarded = []
    for rollout, told, reward, is_answered in zip(rollouts, told_G, reward_G, answered_G, strict=True):
        new = replace(rollout, verdicts=told, reward=reward if is_answered else None)
        rewarded.append(new if penalty is None else penalty.apply(new))
    return rewarded


def _report(
    step: int, plan: Rescoring, old: Sequence[tuple[str, Group]], new: Sequence[tuple[str, Group]]
) -> StepReport:
    trained = [(before, after) for (role, before), (_, after) in zip(old, new, strict=True) if role == "trained"]
    advantage: list[dict[str, float]] = [{}, {}]
    if plan.compares_advantages:
        advantage = [_advantages(plan.recipe, [pair[k] for pair in trained]) for k in (0, 1)]
    rewards = [_rewards(groups) for groups in (old, new)]
    means = [sum(known) / len(known) if known else None for known in rewards]
    counts = [len(known) for known in rewards]
    report = StepReport(step, 0, 0, 0, 0, (0, 0), (means[0], means[1]), (counts[0], counts[1]), 0, 0, 0)
    report.now_equal = sum(_is_equal(after) and not _is_equal(before) for before, after in trained)
    unjudged = [0, 0]
    for (role, before_group), (_, after_group) in zip(old, new, strict=True):
        for was, now in zip(before_group.all_rollouts, after_group.all_rollouts, strict=True):
            before, after = was.verdicts[plan.part], now.verdicts[plan.part]
            report.n += 1
            unjudged[0] += before.score is None
            unjudged[1] += after.score is None
            change = Change(
                id=was.id,
                step=step,
                role=role,
                before=before,
                after=after,
                reward=(was.reward, now.reward),
                advantage=(advantage[0].get(was.id), advantage[1].get(was.id)),
            )
            is_changed = _is_other(before, after)
            if is_changed:
                report.changed += 1
                if before.worth is not None and after.worth is not None:
                    report.up += after.worth > before.worth
                    report.down += after.worth < before.worth
                report.unstable += _same_question(before, after)
            report.flips += change.flips
            if is_changed or change.flips:
                report.changes.append(change)
    report.unjudged = (unjudged[0], unjudged[1])
    return report


def _is_other(before: Verdict, after: Verdict) -> bool:
    """Another worth; a model's value that is as near as other threads or another machine make it is the same."""
    if before.value is not None and after.value is not None:
        return not math.isclose(before.value, after.value, rel_tol=_NEAR, abs_tol=_NEAR)
    return before.worth != after.worth


def _same_question(before: Verdict, after: Verdict) -> bool:
    keys = ("verifier", "version", "input_hash")
    same = bool(before.input_hash) and all(getattr(before, key) == getattr(after, key) for key in keys)
    return same and _versions(before.checks) == _versions(after.checks)


def _versions(checks: Mapping[str, Any]) -> dict[str, Any]:
    """Of a composite's parts, in composites within it too."""
    parts = {name: part for name, part in checks.items() if isinstance(part, Mapping) and "version" in part}
    return {name: (part["version"], _versions(part.get("checks", {}))) for name, part in parts.items()}


def _advantages(recipe: RlRecipe, groups: Sequence[Group]) -> dict[str, float]:
    """By the rollout's id, as the run compares rewards; without what a model would have to be asked for (a divergence
    from the reference that is taken off the reward, and which tokens are uncertain) and without shaping."""
    from rlvr import advantages
    from rlvr.batching import make_batch

    usable = [group for group in groups if group.num_judged]
    if recipe.advantage.kind == "greedy":
        usable = [group for group in usable if group.greedy is not None and group.greedy.reward is not None]
    if not usable:
        return {}
    parts = parts_of(recipe.rewards, recipe.overlong)
    batch = make_batch(usable, filter_truncated=recipe.overlong.filter, parts=parts)
    adv_BT, _ = advantages.compute(
        batch,
        recipe.advantage.model_copy(update={"top_entropy": 1.0}),
        recipe.kl.model_copy(update={"coef": 0.0, "where": "loss"}),
        [part.weight for part in parts],
    )
    adv_B = adv_BT.gather(1, (adv_BT != 0).float().argmax(dim=1, keepdim=True))[:, 0]
    ids = [rollout.id for group in usable for rollout in group.rollouts if rollout.reward is not None]
    return dict(zip(ids, adv_B.tolist(), strict=True))


def _rewards(groups: Sequence[tuple[str, Group]]) -> list[float]:
    """Of what was trained on or set aside."""
    return [r.reward for role, group in groups if role != "canary" for r in group.rollouts if r.reward is not None]


def _is_equal(group: Group) -> bool:
    return len({rollout.reward for rollout in group.all_rollouts if rollout.reward is not None}) < 2


def totals(reports: Sequence[StepReport]) -> dict[str, Any]:
    """Over all steps; `reward` is the mean over rollouts."""
    names = ("n", "changed", "up", "down", "flips", "now_equal", "unstable")
    first_flip = next((report.step for report in reports if report.flips), None)
    return {
        **{name: sum(getattr(report, name) for report in reports) for name in names},
        "unjudged": [sum(report.unjudged[k] for report in reports) for k in (0, 1)],
        "reward": [_mean_of(reports, k) for k in (0, 1)],
        "first_flip": first_flip,
    }


def _mean_of(reports: Sequence[StepReport], which: int) -> float | None:
    """Over the rollouts that have a reward; which: 0 before, 1 after."""
    pairs = [(report.num_rewarded[which], report.reward[which]) for report in reports]
    total = sum(count for count, _ in pairs)
    return sum(count * mean for count, mean in pairs if mean is not None) / total if total else None
