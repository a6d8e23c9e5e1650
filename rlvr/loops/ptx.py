"""Demonstrations that an RL run goes on learning from beside its rewards: PPO-ptx, https://arxiv.org/abs/2203.02155."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlvr import chat
from rlvr.batching import Rows
from rlvr.progress import Progress
from rlvr.recipe import RlRecipe
from rlvr.seeds import seed_for
from rlvr.tasks import BatchPlan
from rlvr.types import Demonstration


@dataclass(frozen=True, slots=True)
class Ptx:
    """Which demonstrations each update learns from; a function of the step, so that nothing of it needs saving."""

    examples: Sequence[chat.Example]
    plan: BatchPlan
    updates: int
    """Per step."""

    def rows(self, step: int) -> list[Rows]:
        """Of each update of step >= 1."""
        first = (step - 1) * self.updates
        return [Rows.of([self.examples[i] for i in self.plan.rows(first + k)]) for k in range(self.updates)]


def plan(
    recipe: RlRecipe, demonstrations: Sequence[Demonstration], tokenizer: Any, context: int | None, progress: Progress
) -> Ptx | None:
    """None where the recipe has no ptx. DataError where none of the demonstrations fits into the context."""
    if recipe.ptx is None:
        return None
    examples = chat.encode_demonstrations(
        tokenizer,
        demonstrations,
        max_length=context,
        completion_only=True,
        on_bad_row=recipe.ptx.data.on_bad_row,
    )
    if len(examples) < len(demonstrations):
        progress.warn(f"ptx: {len(demonstrations) - len(examples)} demonstrations left out: they are too long")
    lengths = [len(example.ids) for example in examples]
    order = BatchPlan(lengths, recipe.ptx.batch_size, bucket=1, seed=seed_for(recipe.seed, "ptx"))
    return Ptx(examples, order, recipe.updates * recipe.epochs)
