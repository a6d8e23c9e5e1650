"""A judge as a reward: siblings compared in pairs become strengths, or each completion is scored by itself.

A completion's score is in [0, 1]: of pairs the expected share of siblings that it beats, by Bradley and Terry's model
of what the judge said. What it abstained from is left out; where nothing is left there is no score, and never a 0.
G siblings, K pairs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rlvr import recipe
from rlvr.agreement import bradley_terry
from rlvr.errors import DataError
from rlvr.judge_settings import Constitution, Pairwise, Reference
from rlvr.judging.judge import Compared, Cost, Judge, Pair, Single, pairs_of
from rlvr.odds import sigmoid
from rlvr.types import Group, Rollout, Verdict

JUDGE = "judge"
"""The verifier in the verdicts of a part of kind judge."""
_SPENT = ("questions", "prompt_tokens", "completion_tokens", "cost", "abstained", "flipped")
"""Of a verdict's checks: what is summed up in the metrics."""


class JudgeReward:
    """RewardSource over a judge. Safe from any thread where the judge is an endpoint, else from one."""

    def __init__(self, name: str, settings: recipe.JudgeReward, seed: int, cache: Path | None = None) -> None:
        """name: of the part; seed: the run's; cache: file of replies. SettingsError, DataError where the judge cannot
        be asked at all."""
        self.name, self.settings, self._seed = name, settings, seed
        self.judge = Judge(settings, seed, cache, setting=f"rewards.{name}.")

    def score(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        """Verdicts [group][rollout]; outcome error where the judge abstained, not_applicable where `unless` decided."""
        plans = [self._to_judge(group) for group in groups]
        score = self._compared if self.settings.compares else self._rated
        told = score([(group, rollouts) for group, (rollouts, _) in zip(groups, plans, strict=True)])
        return [
            [mine.get(rollout.id) or rest[rollout.id] for rollout in group.rollouts]
            for group, mine, (_, rest) in zip(groups, told, plans, strict=True)
        ]

    def stop(self) -> None:
        """What is under way, and what is still asked, becomes an error; replies that came are kept. May be called
        again."""
        self.judge.asker.asker.close()

    def close(self) -> None:
        """Once nobody asks any more. May be called again."""
        self.judge.close()

    def _to_judge(self, group: Group) -> tuple[list[Rollout], dict[str, Verdict]]:
        """(rollouts that the judge is asked about, verdicts by id of the others)"""
        asked: list[Rollout] = []
        rest: dict[str, Verdict] = {}
        for rollout in group.rollouts:
            if rollout.completion.finish == "abort":
                rest[rollout.id] = self._unscored("the engine took the completion back")
            elif why := self._decided(rollout):
                rest[rollout.id] = self._unscored(why, outcome="not_applicable")
            else:
                asked.append(rollout)
        return asked, rest

    def _decided(self, rollout: Rollout) -> str:
        """That the verdict of `unless` decides, in words; "" where it does not."""
        settings = self.settings
        if settings.unless is None:
            return ""
        score = rollout.verdicts[settings.unless].score
        decided = {"wrong": score == 0, "right": score == 1, "both": score in (0, 1)}[settings.decides]
        return f"{settings.unless} decided it" if decided else ""

    # --- pairs -------------------------------------------------------------------------------------------------------

    def _compared(self, groups: Sequence[tuple[Group, Sequence[Rollout]]]) -> list[dict[str, Verdict]]:
        method = self.settings.method
        assert isinstance(method, Pairwise | Constitution)
        pairs: list[Pair] = []
        plans: list[tuple[list[str], list[tuple[int, int]]]] = []
        for group, rollouts in groups:
            texts = list(dict.fromkeys(rollout.completion.text for rollout in rollouts))
            chosen = pairs_of(len(texts), method.comparisons, self._seed, _where(group))
            plans.append((texts, chosen))
            pairs += [
                Pair(prompt=group.task.prompt, a=texts[i], b=texts[j], key=f"{_where(group)}/{i}-{j}")
                for i, j in chosen
            ]
        told = iter(self.judge.compare(pairs))
        return [
            self._of_group(rollouts, texts, chosen, [next(told) for _ in chosen])
            for (_, rollouts), (texts, chosen) in zip(groups, plans, strict=True)
        ]

    def _of_group(
        self,
        rollouts: Sequence[Rollout],
        texts: Sequence[str],
        pairs: Sequence[tuple[int, int]],
        told: Sequence[Compared],
    ) -> dict[str, Verdict]:
        if len(texts) < 2:
            # nothing to choose between: equal texts are worth the same
            why = "there is no sibling to compare it with"
            verdict = self._scored(0.5, "all siblings wrote the same")
            verdict = self._unscored(why, outcome="not_applicable") if len(rollouts) == 1 else verdict
            return {rollout.id: verdict for rollout in rollouts}
        known = [(pair, one.logit) for pair, one in zip(pairs, told, strict=True) if one.logit is not None]
        strengths = bradley_terry(len(texts), [pair for pair, _ in known], [logit for _, logit in known])
        by_text = {text: k for k, text in enumerate(texts)}
        copies = [0] * len(texts)
        for rollout in rollouts:
            copies[by_text[rollout.completion.text]] += 1
        found: dict[str, Verdict] = {}
        for rollout in rollouts:
            k = by_text[rollout.completion.text]
            own = [(pair, one) for pair, one in zip(pairs, told, strict=True) if k in pair]
            checks = _spent(own, copies[k])
            judged = [one for _, one in own if one.logit is not None]
            if not judged:
                found[rollout.id] = self._unscored(_first(one.problem for _, one in own), checks)
                continue
            beaten = [
                sigmoid(strengths[k] - strengths[by_text[other.completion.text]])
                for other in rollouts
                if other is not rollout
            ]
            checks |= {"strength": float(strengths[k]), "compared": len(judged)}
            checks["against"] = _against(k, own, {by_text[r.completion.text]: r.id for r in reversed(rollouts)})
            reason = f"beats {fmean(beaten):.3f} of {len(beaten)} siblings by {len(judged)} comparisons"
            found[rollout.id] = self._scored(fmean(beaten), reason, checks)
        return found

    # --- single completions ------------------------------------------------------------------------------------------

    def _rated(self, groups: Sequence[tuple[Group, Sequence[Rollout]]]) -> list[dict[str, Verdict]]:
        needs_gold = isinstance(self.settings.method, Reference)
        singles: list[Single] = []
        for group, rollouts in groups:
            if needs_gold and group.task.gold is None:
                continue
            reference = _reference(group.task.gold) if needs_gold else None
            singles += [
                Single(prompt=group.task.prompt, answer=rollout.completion.text, key=rollout.id, reference=reference)
                for rollout in rollouts
            ]
        told = {single.key: one for single, one in zip(singles, self.judge.rate(singles), strict=True)}
        found: list[dict[str, Verdict]] = []
        for _, rollouts in groups:
            verdicts: dict[str, Verdict] = {}
            for rollout in rollouts:
                one = told.get(rollout.id)
                if one is None:
                    verdicts[rollout.id] = self._unscored(
                        "the task has no gold to compare with", outcome="gold_invalid"
                    )
                elif one.score is None:
                    verdicts[rollout.id] = self._unscored(one.problem, {**one.cost.checks(), "abstained": 1})
                else:
                    checks: dict[str, Any] = {**one.cost.checks(), "abstained": 0}
                    reason = f"the judge gives {one.score:.3f}"
                    if one.ratings:
                        checks["ratings"] = dict(one.ratings)
                        reason = ", ".join(f"{name} {rating:g}" for name, rating in one.ratings.items())
                    verdicts[rollout.id] = self._scored(one.score, reason, checks)
            found.append(verdicts)
        return found

    def _scored(self, score: float, reason: str, checks: Mapping[str, Any] | None = None) -> Verdict:
        return Verdict(
            score=min(max(score, 0.0), 1.0),
            outcome="correct" if score == 1 else "wrong" if score == 0 else "partial",
            reason=reason,
            checks=dict(checks or {}),
            verifier=JUDGE,
            version=self.judge.version,
        )

    def _unscored(self, why: str, checks: Mapping[str, Any] | None = None, outcome: Any = "error") -> Verdict:
        return Verdict(
            score=None,
            outcome=outcome,
            reason=why,
            checks=dict(checks or {}),
            verifier=JUDGE,
            version=self.judge.version,
        )


def totals(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """What a step's verdicts cost together: questions, prompt_tokens, completion_tokens, cost; abstained, flipped: the
    comparisons (or ratings) that came to nothing, and whose two orders disagree."""
    told = [verdict.checks for verdict in verdicts if verdict.verifier == JUDGE]
    return {
        name: math.fsum(checks[name] for checks in told if name in checks)
        for name in _SPENT
        if any(name in checks for checks in told)
    }


def _where(group: Group) -> str:
    """What lots of a group are drawn by: its task, and the step that is in the rollouts' ids."""
    return group.rollouts[0].id.rpartition("/")[0] if group.rollouts else group.task.id


def _spent(own: Sequence[tuple[tuple[int, int], Compared]], copies: int) -> dict[str, Any]:
    """A completion's share of what its comparisons cost: half of each, shared with those that wrote the same."""
    share = 0.5 / copies
    cost = Cost()
    for _, one in own:
        cost = cost.plus(one.cost, share)
    return {
        **cost.checks(),
        "abstained": share * sum(one.logit is None and not one.flipped for _, one in own),
        "flipped": share * sum(one.flipped for _, one in own),
    }


def _against(
    k: int, own: Sequence[tuple[tuple[int, int], Compared]], ids: Mapping[int, str]
) -> dict[str, float | None]:
    """By sample of a sibling: the log odds that text k is the better one, None where the judge abstained. Siblings of
    the same text are compared once: it is told of the first. ids: of a rollout of each text."""
    return {
        ids[j if k == i else i].rpartition("/")[2]: None if one.logit is None else one.logit * (1 if k == i else -1)
        for (i, j), one in own
    }


def _first(problems: Any) -> str:
    return next((problem for problem in problems if problem), "nothing was compared with it")


def _reference(gold: Any) -> str:
    if isinstance(gold, str):
        return gold
    try:
        return json.dumps(gold, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"a gold that is no JSON cannot be shown to a judge: {error}") from None
