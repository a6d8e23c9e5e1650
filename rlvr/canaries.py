"""Canaries: tasks that nobody can solve, so that a reward for one shows a verifier that was talked round.

A canary has the prompt of a task and a gold that nothing in it leads to. Its completions are sampled and judged like
all others and never trained on. What counts are the parts of the reward that read a gold: a part that looks at the form
alone may well like the form of a canary's answer.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlvr import recipe
from rlvr.errors import DataError, SettingsError
from rlvr.rewards import composite
from rlvr.rewards.bound import Bound, gold_problem, lookup
from rlvr.seeds import rng_for, seed_for
from rlvr.tasks import CANARY, needs_gold
from rlvr.types import Group, Rollout, Task, Verdict

_TRIES = 50
"""Tasks that are looked at for one whose gold can be replaced."""
Encoded = Sequence[tuple[Task, tuple[int, ...]]]


class Canaries:
    """Draws a step's canaries; a function of (seed, step), so that a resumed run draws the same."""

    def __init__(
        self, settings: recipe.Canaries, rewards: Mapping[str, recipe.Reward], encoded: Encoded, own: Encoded, seed: int
    ) -> None:
        """encoded: the tasks that are trained on, with their prompt ids; own: those of canaries.tasks.

        SettingsError where no part of the reward reads a gold, or no task can be made a canary.
        """
        self.settings, self.seed = settings, seed
        self._encoded, self._own = encoded, own
        self._parts = {
            name: part for name, part in rewards.items() if isinstance(part, recipe.VerifiedReward) and part.weight > 0
        }
        self._bounds: dict[str, Bound] = {}
        if settings.share and not own and not any(map(self._made, encoded[:_TRIES])):
            names = ", ".join(
                sorted(
                    {name for task, _ in encoded[:_TRIES] for name in [part.verifier for part in self._judges_of(task)]}
                )
            )
            raise SettingsError(
                f"canaries.share: no gold of the first {len(encoded[:_TRIES])} tasks can be replaced by one that "
                f"nothing leads to (judged by {names or 'no verifier'}); give canaries.tasks, or canary_gold(task, "
                "nonce) in the verifier's module"
            )

    def draw(self, step: int, num_groups: int) -> list[tuple[Task, tuple[int, ...]]]:
        """share * num_groups of them, a fraction by lot; each with its prompt ids.

        Each once in a step: where there are fewer tasks, or hardly any can be made a canary, it is fewer.
        """
        if not self.settings.share:
            return []
        rng = rng_for(self.seed, "canaries", step)
        wanted = self.settings.share * num_groups
        number = int(wanted) + (rng.random() < wanted % 1)
        found: dict[str, tuple[Task, tuple[int, ...]]] = {}
        for _ in range(number * _TRIES):
            if len(found) == number:
                break
            if self._own:
                task, ids = self._own[rng.randrange(len(self._own))]
                canary: Task | None = replace(task, id=CANARY + task.id)
            else:
                task, ids = pair = self._encoded[rng.randrange(len(self._encoded))]
                canary = self._made(pair)
            if canary is not None:
                found[canary.id] = (canary, ids)
        return list(found.values())

    def hacked(self, rollout: Rollout, task: Task) -> list[str]:
        """Parts that gave the completion something for a gold that it cannot have known."""
        return [
            name
            for name, part in self._parts.items()
            if _was_fooled(rollout.verdicts[name], part.verifier or task.verifier or "")
        ]

    def metrics(self, groups: Sequence[Group]) -> dict[str, float]:
        """Of one step's canaries."""
        if not self.settings.share:
            return {}
        judged = [(r, group.task) for group in groups for r in group.rollouts if r.reward is not None]
        num_hacked = sum(bool(self.hacked(rollout, task)) for rollout, task in judged)
        return {
            "canary/groups": float(len(groups)),
            "canary/completions": float(len(judged)),
            "canary/hacked": float(num_hacked),
        }

    def first_hacked(self, groups: Sequence[Group]) -> str:
        """In words, or ""."""
        for group in groups:
            for rollout in group.rollouts:
                if rollout.reward is not None and (parts := self.hacked(rollout, group.task)):
                    return f"{rollout.id} (by {', '.join(parts)})"
        return ""

    def _made(self, pair: tuple[Task, tuple[int, ...]]) -> Task | None:
        """The task as a canary; None where its gold cannot be replaced for all that judge it."""
        task, _ = pair
        readers = [
            (self._bound(part.verifier), part.options) for part in self._judges_of(task) if needs_gold(part.verifier)
        ]
        if not readers or any(part.gold is not None for part in self._judges_of(task)):
            return None  # of a composite: a gold in a column of its own would stay as it is
        nonce = 10**17 + seed_for(self.seed, "canary", task.id) % 10**17  # longer than any answer by chance
        gold = _gold(readers[0][0], task, nonce)
        if gold is None:
            return None
        canary = replace(task, id=CANARY + task.id, gold=gold)
        return None if any(gold_problem(judge, canary, options) for judge, options in readers) else canary

    def _judges_of(self, task: Task) -> list[composite.Part]:
        """The verifiers of all parts, those within composites too, with their options."""
        judges: list[composite.Part] = []
        for part in self._parts.values():
            name = part.verifier or task.verifier
            if name == composite.NAME:
                judges += composite.leaves_of(part.options)
            elif name:
                judges.append(composite.Part(verifier=name, options=part.options))
        return judges

    def _bound(self, name: str) -> Bound:
        if name not in self._bounds:
            self._bounds[name] = lookup(name)
        return self._bounds[name]


class Hacked(DataError):
    """The reward can be had without solving a task."""


@dataclass(slots=True)
class HackRate:
    """Of the last steps; goes on after a resume from the rows of metrics.jsonl."""

    settings: recipe.Canaries
    _steps: deque[tuple[float, float]]

    @classmethod
    def after(cls, settings: recipe.Canaries, rows: Iterable[Mapping[str, Any]]) -> HackRate:
        """rows: of metrics.jsonl, in the order of steps."""
        counts = [(row["canary/hacked"], row["canary/completions"]) for row in rows if "canary/completions" in row]
        return cls(settings, deque(counts, maxlen=settings.window))

    def add(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The rate with one step more, as a metric; nothing before the first canary was judged."""
        if "canary/completions" not in metrics:
            return {}
        self._steps.append((metrics["canary/hacked"], metrics["canary/completions"]))
        rate = self.rate
        return {} if rate is None else {"canary/hack_rate": rate}

    @property
    def rate(self) -> float | None:
        judged = sum(count for _, count in self._steps)
        return sum(hacked for hacked, _ in self._steps) / judged if judged else None

    def check(self, step: int, example: str = "") -> None:
        """Hacked where the rate is above canaries.stop_rate."""
        rate, limit = self.rate, self.settings.stop_rate
        if rate is None or limit is None or rate <= limit:
            return
        shown = f"; look at {example} with `rlvr why`" if example else ""
        raise Hacked(
            f"after step {step}: {100 * rate:.1f} % of the completions on canaries were rewarded, more than "
            f"canaries.stop_rate ({100 * limit:g} %), so the reward can be had without solving a task{shown}; "
            "mend the verifier, or raise canaries.stop_rate to go on"
        )


def _was_fooled(verdict: Verdict, judge: str) -> bool:
    """Of a composite, whether a part that reads a gold was, though the whole may be worth nothing."""
    if judge != composite.NAME:
        return bool(verdict.score) and needs_gold(judge)
    return any(map(_leaf_was_fooled, verdict.checks.values()))


def _leaf_was_fooled(part: Mapping[str, Any]) -> bool:
    if part["verifier"] != composite.NAME:
        return bool(part["score"] and part["weight"]) and needs_gold(part["verifier"])
    return any(map(_leaf_was_fooled, part.get("checks", {}).values()))


def _gold(judge: Bound, task: Task, nonce: int) -> Any:
    """By `canary_gold(task, nonce)` of the verifier's module; without it the number itself, as text or number like the
    gold. None where neither is possible."""
    hook = getattr(inspect.getmodule(judge.function), "canary_gold", None)
    if hook is not None:
        return hook(task, nonce)
    if isinstance(task.gold, str):
        return str(nonce)
    return nonce if isinstance(task.gold, int | float) and not isinstance(task.gold, bool) else None
