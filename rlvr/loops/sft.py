"""Supervised training: SFT of a model on demonstrations, and pretraining of a new small one. The loop is the same."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlvr import chat, policy
from rlvr.errors import Stopped
from rlvr.loops import setup
from rlvr.loops.stopping import StopRequest
from rlvr.progress import Progress
from rlvr.recipe import PretrainRecipe, SftRecipe
from rlvr.runs import Run, read_metrics
from rlvr.seeds import seed_for
from rlvr.tasks import BatchPlan
from rlvr.types import Demonstration

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHOWN = ("loss", "mean_token_accuracy", "grad_norm", "perf/tokens_per_second")


def train(recipe: SftRecipe | PretrainRecipe, run: Run, progress: Progress) -> dict[str, Any]:
    """Run the recipe to its end; returns what summary.json holds. RlvrError where it cannot, Stopped when asked to."""
    with StopRequest(progress.warn) as stop:
        model, tokenizer, examples = _prepare(recipe, progress)
        stop.check("before the first step")
        return _train(recipe, run, progress, model, tokenizer, examples, stop)


def _prepare(recipe: SftRecipe | PretrainRecipe, progress: Progress) -> tuple[Any, Any, list[chat.Example]]:
    """(model, tokenizer, tokenised demonstrations)"""
    held_out = setup.load_held_out(recipe.eval, progress)
    demonstrations = setup.load_training_demonstrations(recipe.data, held_out, progress)
    if isinstance(recipe, PretrainRecipe):
        texts = (_text(demonstration) for demonstration in demonstrations)
        model, tokenizer = policy.new_model(recipe.model, texts, seed_for(recipe.seed, "weights"))
    else:
        model, tokenizer = policy.load_model(recipe.model)
    model.to(setup.device())
    num_parameters = sum(p.numel() for p in model.parameters())
    progress.say(
        f"{type(model).__name__} with {num_parameters:,} parameters, {len(tokenizer)} tokens in its vocabulary"
    )
    examples = chat.encode_demonstrations(
        tokenizer,
        demonstrations,
        max_length=recipe.max_length or policy.context_length(model),
        completion_only=recipe.completion_only_loss,
        on_bad_row=recipe.data.on_bad_row,
    )
    if len(examples) < len(demonstrations):
        progress.warn(f"{len(demonstrations) - len(examples)} demonstrations left out: they are too long")
    return model, tokenizer, examples


def _train(
    recipe: SftRecipe | PretrainRecipe,
    run: Run,
    progress: Progress,
    model: PreTrainedModel,
    tokenizer: Any,
    examples: Sequence[chat.Example],
    stop: StopRequest,
) -> dict[str, Any]:
    trained = policy.Trained(model, recipe.optim, recipe.steps)
    state = setup.resume(run, trained, progress)
    plan = BatchPlan([len(e.ids) for e in examples], recipe.batch_size, recipe.bucket, recipe.seed)
    metrics = _last_metrics(run)  # where the last step was done before the run was killed
    progress.begin(state.step)
    for step in range(state.step + 1, recipe.steps + 1):
        started = time.perf_counter()
        rows = [examples[i] for i in plan.rows(step - 1)]
        ids_BT, mask_BT = (x.to(setup.device()) for x in pad(rows))
        metrics = update(trained, ids_BT, mask_BT, recipe.optim.micro_tokens)
        tokens = int(mask_BT.sum())
        state.advance(step, cursor=step, tokens=tokens)
        seconds = time.perf_counter() - started
        metrics |= {
            "num_tokens": float(state.tokens),
            "epoch": step / plan.steps_per_epoch,
            "step_time": seconds,
            "perf/tokens_per_second": tokens / seconds,
        }
        run.record(step, metrics)
        progress.step(step, metrics, _SHOWN)
        if stop.requested and step < recipe.steps:
            setup.save(run, trained, state, recipe.checkpoint.keep)
            raise Stopped(
                f"stopped after step {step} of {recipe.steps}; the same command with run.dir={run.folder} resumes"
            )
        if setup.is_due(step, recipe.checkpoint.every):
            setup.save(run, trained, state, recipe.checkpoint.keep)
    policy.save_model(model, tokenizer, run.model_folder)
    summary = {
        "stage": recipe.stage,
        "steps": recipe.steps,
        "seconds": state.seconds(),
        "tokens": state.tokens,
        "loss": metrics.get("loss"),
        "warnings": progress.num_warnings,
        "model": str(run.model_folder),
    }
    run.finish(summary)
    return summary


def update(trained: policy.Trained, ids_BT: Tensor, mask_BT: Tensor, micro_tokens: int) -> dict[str, float]:
    """One optimizer step on the mean cross-entropy over all masked tokens, whatever the split into micro-batches."""
    num_tokens = int(mask_BT.sum())
    rows = max(1, micro_tokens // ids_BT.shape[1])
    loss = accuracy = 0.0
    for start in range(0, len(ids_BT), rows):
        part = slice(start, start + rows)
        if mask_BT[part].any():
            sums = policy.cross_entropy(trained.model, ids_BT[part], mask_BT[part])
            loss += trained.backward(sums, num_tokens)
            accuracy += sums.metrics["mean_token_accuracy"]
    return {"loss": loss, "mean_token_accuracy": accuracy / num_tokens, **trained.step()}


def pad(examples: Sequence[chat.Example]) -> tuple[Tensor, Tensor]:
    """(ids_BT int64 right-padded with 0, mask_BT True where a token is trained)."""
    longest = max(len(e.ids) for e in examples)
    ids_BT = torch.zeros(len(examples), longest, dtype=torch.int64)
    mask_BT = torch.zeros(len(examples), longest, dtype=torch.bool)
    for row, example in enumerate(examples):
        ids_BT[row, : len(example.ids)] = torch.as_tensor(example.ids)
        mask_BT[row, max(1, example.num_prompt) : len(example.ids)] = True  # nothing predicts the first token
    return ids_BT, mask_BT


def _last_metrics(run: Run) -> dict[str, float]:
    rows = [row for row in read_metrics(run.folder) if "loss" in row]
    return rows[-1] if rows else {}


def _text(demonstration: Demonstration) -> str:
    prompt = demonstration.prompt
    before = prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
    return before + demonstration.completion
