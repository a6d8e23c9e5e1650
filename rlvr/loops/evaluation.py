"""A model against held-out tasks, on its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from rlvr import policy
from rlvr.engines import base as engines
from rlvr.errors import SettingsError
from rlvr.evaluate import Evaluation, evaluate
from rlvr.loops import setup
from rlvr.progress import Progress
from rlvr.recipe import EvalRecipe, VllmEngine
from rlvr.rewards import base as rewards_base
from rlvr.rewards.bound import option_problems
from rlvr.types import Engine, Task


def evaluate_model(recipe: EvalRecipe, progress: Progress) -> Evaluation:
    """Sample and judge recipe.eval.tasks. RlvrError where data, model, verifiers or engine cannot be used."""
    tasks = setup.load_held_out(recipe.eval, progress)
    judges = sorted({task.verifier for task in tasks if task.verifier})
    options = recipe.eval.options
    if problems := [line for judge in judges for line in option_problems(judge, options, "eval.options")]:
        raise SettingsError("\n".join(problems))
    rewards = rewards_base.build({}, recipe.scoring, 0, judges, options=dict.fromkeys(judges, options))
    try:
        with sampler(recipe, tasks, progress) as (encoded, engine):
            return evaluate(
                encoded,
                engine,
                rewards.judge,
                recipe.eval,
                on_progress=lambda done, total: progress.phase(f"{done}/{total} completions"),
            )
    finally:
        rewards.close()


@contextlib.contextmanager
def sampler(
    recipe: EvalRecipe, tasks: Sequence[Task], progress: Progress
) -> Iterator[tuple[list[tuple[Task, tuple[int, ...]]], Engine]]:
    """(the tasks with their prompt ids, the engine with the weights of recipe.model)"""
    tokenizer, model_context = policy.load_tokenizer(recipe.model)
    context = setup.context_of(model_context, recipe.engine)
    most = recipe.eval.max_tokens
    encoded = setup.encode(tokenizer, tasks, recipe.eval.tasks, max_tokens=most, context=context, progress=progress)
    longest = setup.longest(encoded, most)
    engine = engines.build(recipe.engine, recipe.model, tokenizer, min(longest, context or longest))
    try:
        if isinstance(recipe.engine, VllmEngine) and recipe.engine.mode == "server":  # it may hold any weights
            engine.load(policy.weights(policy.load_model(recipe.model)[0]), version=0)
        yield encoded, engine
    finally:
        engine.close()
