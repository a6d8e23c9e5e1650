"""Supervised training: SFT of a model on demonstrations, and pretraining of a new small one. The loop is the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rlvr import chat, parallel, policy
from rlvr.batching import Rows, micro_batches
from rlvr.errors import NonFiniteError
from rlvr.failpoints import failpoint
from rlvr.loops import setup
from rlvr.loops.stopping import StopRequest
from rlvr.loops.supervised import Job, learn
from rlvr.progress import Progress
from rlvr.recipe import Model, PretrainRecipe, SftRecipe
from rlvr.runs import Run
from rlvr.seeds import seed_for
from rlvr.tasks import exclude_prompts, load_demonstrations, load_tasks
from rlvr.trained import Trained
from rlvr.types import Demonstration, prompt_text

_SHOWN = ("loss", "mean_token_accuracy", "grad_norm", "perf/tokens_per_second")


def train(recipe: SftRecipe | PretrainRecipe, run: Run, progress: Progress, stop: StopRequest) -> dict[str, Any]:
    """Run the recipe to its end; returns what summary.json holds. RlvrError where it cannot, Stopped when asked to."""
    held_out = setup.load_held_out(recipe.eval, progress)
    left_out: dict[str, str] = {}
    demonstrations = setup.load_training_demonstrations(recipe.data, held_out, progress, left_out=left_out)
    base = recipe.model if isinstance(recipe.model, Model) else None
    run.check_inputs(setup.inputs(base, data=demonstrations, held_out=held_out))
    model, tokenizer = _model(recipe, demonstrations)
    setup.warn_of_head(recipe.loss.fused, model, progress)
    num_parameters = sum(p.numel() for p in model.parameters())
    progress.say(f"{type(model).__name__} with {num_parameters:,} parameters, {len(tokenizer)} tokens")
    examples = chat.encode_demonstrations(
        tokenizer,
        demonstrations,
        max_length=recipe.max_length or policy.context_length(model),
        completion_only=recipe.completion_only_loss,
        split=isinstance(recipe, PretrainRecipe) and not recipe.completion_only_loss,
        on_bad_row=recipe.data.on_bad_row,
        left_out=left_out,
    )
    run.note_left_out(left_out)
    if len(examples) < len(demonstrations):
        progress.warn(f"{len(demonstrations) - len(examples)} demonstrations left out: they are too long")
    stop.check("before the first step")
    job = Job(recipe, run, progress, _trained(recipe, model), tokenizer, stop)
    return learn(
        job,
        [len(e.ids) for e in examples],
        lambda rows: Rows.of([examples[i] for i in rows]),
        partial(update, job.trained, fused=recipe.loss.fused),
        shown=_SHOWN,
    )


def begin(recipe: SftRecipe | PretrainRecipe) -> Callable[[Rows], dict[str, float]]:
    """What every other rank does in each step, once it has the main rank's state."""
    trained = _trained(recipe, base_model(recipe)[0])
    trained.share_state()
    return partial(update, trained, fused=recipe.loss.fused)


def base_model(recipe: SftRecipe | PretrainRecipe) -> tuple[Any, Any]:
    """(the model that the recipe's run begins with, tokenizer), from the recipe alone."""
    demonstrations: list[Demonstration] = []
    if isinstance(recipe, PretrainRecipe) and recipe.model.tokenizer.kind == "bpe":  # which is trained on the data
        held_out = load_tasks(recipe.eval.tasks, setting="eval.tasks").rows if recipe.eval.tasks else []
        demonstrations, _ = exclude_prompts(load_demonstrations(recipe.data).rows, held_out)
    return _model(recipe, demonstrations)


def _model(recipe: SftRecipe | PretrainRecipe, demonstrations: Sequence[Demonstration]) -> tuple[Any, Any]:
    """(model on its device, tokenizer)"""
    if isinstance(recipe, SftRecipe):
        return setup.load_policy(recipe)
    texts = (_text(demonstration) for demonstration in demonstrations)
    model, tokenizer = policy.new_model(recipe.model, texts, seed_for(recipe.seed, "weights"))
    if recipe.gradient_checkpointing:
        policy.keep_few_activations(model)
    return model.to(setup.device()), tokenizer


def _trained(recipe: SftRecipe | PretrainRecipe, model: Any) -> Trained:
    return Trained(model, recipe.optim, recipe.steps, packs=setup.decide_packing(recipe.packing, model))


def update(trained: Trained, rows: Rows, fused: str = "auto") -> dict[str, float]:
    """One optimizer step on the mean cross-entropy over all masked tokens, whatever the split into micro-batches.

    Every rank runs this alike, each on its share of the rows. An update that was skipped has no loss. fused: the
    recipe's loss.fused.
    """
    num_tokens = int(rows.mask_BT.sum())
    longest = int(rows.length_B.max())
    sums = parallel.add(trained.in_memory(partial(gradient, trained, rows, num_tokens, fused), longest))
    step = trained.step()
    if "skipped_updates" in step:
        return step
    return {"loss": sums["loss"], "mean_token_accuracy": sums["mean_token_accuracy"] / num_tokens, **step}


def gradient(trained: Trained, rows: Rows, divisor: float, fused: str) -> dict[str, float]:
    """Add this rank's share of the gradient of the summed cross-entropy / divisor.

    "loss": that share itself; "mean_token_accuracy": tokens guessed right, not yet divided.
    """
    own = Rows(*(x[parallel.share_B(rows.length_B)].to(setup.device()) for x in rows))
    totals: defaultdict[str, float] = defaultdict(float)
    for index_B in micro_batches(own.length_B, trained.micro_tokens):
        failpoint("micro")
        length_B = own.length_B[index_B]
        ids_BT, mask_BT = (x[index_B, : int(length_B.max())] for x in (own.ids_BT, own.mask_BT))
        if mask_BT.any():
            try:
                sums = policy.cross_entropy(
                    trained.model,
                    ids_BT,
                    mask_BT,
                    length_B=length_B if trained.packs else None,
                    fused=fused == "auto",
                    expected_grad=1 / divisor,
                )
            except NonFiniteError:
                trained.spoil()
                continue
            totals["loss"] += trained.backward(sums, divisor)
            totals["mean_token_accuracy"] += sums.metrics["mean_token_accuracy"]
    return totals


def _text(demonstration: Demonstration) -> str:
    return prompt_text(demonstration.prompt) + demonstration.completion
