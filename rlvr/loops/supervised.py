"""What the supervised loops have in common: rows in a seeded order, one update per step, figures, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlvr import parallel
from rlvr.direct_settings import DpoRecipe
from rlvr.errors import Stopped
from rlvr.failpoints import failpoint
from rlvr.loops import setup
from rlvr.loops.stopping import StopRequest
from rlvr.preference_settings import RewardModelRecipe
from rlvr.preferences import IN_WORDS, Prepared
from rlvr.progress import Progress
from rlvr.recipe import PretrainRecipe, SftRecipe
from rlvr.runs import Run, read_metrics
from rlvr.tasks import BatchPlan
from rlvr.trained import Trained

_WINDOWS = 4
"""Of an epoch of comparisons: what is compared differs with its length, so that a small data set sorted as a whole has
one kind of row in each batch."""


class StepRows(Protocol):
    """A NamedTuple of tensors: what one step learns from."""

    @property
    def num_tokens(self) -> int:
        """Trained on, for figures alone."""
        ...

    def _asdict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Job:
    """What a run has in hand."""

    recipe: SftRecipe | PretrainRecipe | RewardModelRecipe | DpoRecipe
    run: Run
    progress: Progress
    trained: Trained
    tokenizer: Any
    stop: StopRequest


def tell(prepared: Prepared, progress: Progress) -> None:
    """Say what the rows of preferences are, and which were left out."""
    if prepared.kind is not None:
        progress.say(f"{len(prepared.loaded.rows)} {IN_WORDS[prepared.kind]}")
    for loaded, what in ((prepared.loaded, "training rows"), (prepared.held_out, "held-out rows")):
        if loaded is not None and loaded.num_bad:
            progress.warn(f"{loaded.num_bad} bad rows left out of the {what}; the first: {loaded.bad[0]}")
    if prepared.num_same:
        progress.say(f"{prepared.num_same} rows left out of training: a held-out row has the same prompt")
    if prepared.held_out is not None and prepared.held_out_kind is not None:
        progress.say(f"{len(prepared.held_out.rows)} held-out {IN_WORDS[prepared.held_out_kind]}")


def learn(
    job: Job,
    lengths: Sequence[int],
    rows: Callable[[list[int]], StepRows],
    update: Callable[[Any], dict[str, float]],
    *,
    shown: Sequence[str],
    evaluate: Callable[[int], Mapping[str, Any]] | None = None,
    eval_every: int = 0,
) -> dict[str, Any]:
    """All steps of the recipe from where the run is; saves the model and returns what summary.json holds.

    lengths: tokens of each row of the data; rows: those of some indices as tensors; update: one optimizer step on
    them, run on every rank alike (the loop's begin() gives the other ranks the same); shown: metrics on the progress
    line; evaluate: called after every eval_every-th step (0: none) and after the last one, gives what the summary says
    under "after". Stopped when asked to.
    """
    recipe, run, progress, trained = job.recipe, job.run, job.progress, job.trained
    state = setup.resume(run, trained, progress)
    parallel.begin()
    trained.share_state()
    work = parallel.Together(update)
    num_windows = _WINDOWS if isinstance(recipe, RewardModelRecipe | DpoRecipe) else 1
    plan = BatchPlan(lengths, recipe.batch_size, recipe.bucket, recipe.seed, num_windows=num_windows)
    # of the last step, where it was done before the run was killed; behind it may stand what was measured after it
    metrics = next((row for row in reversed(read_metrics(run.folder)) if "step_time" in row), {})
    progress.begin(state.step)
    for step in range(state.step + 1, recipe.steps + 1):
        started = time.perf_counter()
        batch = rows(plan.rows(step - 1))
        metrics = work(batch)
        setup.guard(run, trained, metrics, step, batch._asdict(), progress)
        failpoint("update")
        state.advance(step, cursor=step, tokens=batch.num_tokens)
        seconds = time.perf_counter() - started
        metrics |= {
            "num_tokens": float(state.tokens),
            "epoch": step / plan.steps_per_epoch,
            "step_time": seconds,
            "perf/tokens_per_second": batch.num_tokens / seconds,
        }
        run.record(step, metrics)
        progress.step(step, metrics, shown)
        if evaluate is not None and step < recipe.steps and setup.is_due(step, eval_every):
            evaluate(step)
        if job.stop.requested and step < recipe.steps:
            setup.save(run, trained, state, recipe.checkpoint.keep)
            raise Stopped(
                f"stopped after step {step} of {recipe.steps}; the same command with run.dir={run.folder} resumes"
            )
        if setup.is_due(step, recipe.checkpoint.every):
            setup.save(run, trained, state, recipe.checkpoint.keep)
    after = evaluate(recipe.steps) if evaluate is not None else None
    setup.save_trained(trained.model, job.tokenizer, run)
    summary = {
        "stage": recipe.stage,
        "steps": recipe.steps,
        "seconds": state.seconds(),
        "tokens": state.tokens,
        "loss": metrics.get("loss"),
        "warnings": progress.num_warnings,
        "model": str(run.model_folder),
        **({} if after is None else {"after": after}),
    }
    run.finish(summary)
    return summary
