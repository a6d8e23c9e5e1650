"""Reinforcement learning: sample, score, compare within the group, push up what was better, send the weights back."""

from __future__ import annotations

import contextlib
import copy
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlvr import advantages, policy
from rlvr.batching import Batch, make_batch
from rlvr.engines import base as engines
from rlvr.errors import EngineError, Stopped
from rlvr.evaluate import evaluate
from rlvr.loops import setup
from rlvr.loops.stopping import StopRequest
from rlvr.losses import Sums, divisor, policy_loss
from rlvr.progress import Progress, WarnOnce, warnings_in_words
from rlvr.recipe import RlRecipe, VerifiedReward
from rlvr.rewards import base as rewards_base
from rlvr.rollout import Rollouts, Taken, group_metrics, without_unjudged
from rlvr.runs import Run
from rlvr.seeds import permutation
from rlvr.types import Group, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHOWN = ("reward", "completions/mean_length", "frac_reward_zero_std", "entropy", "grad_norm")


def train(recipe: RlRecipe, run: Run, progress: Progress) -> dict[str, Any]:
    """Run the recipe to its end; returns what summary.json holds. RlvrError where it cannot, Stopped when asked to."""
    with StopRequest(progress.warn) as stop:
        held_out = setup.load_held_out(recipe.eval, progress)
        tasks = setup.load_training_tasks(recipe.data, held_out, progress)
        _compare_verifiers(recipe, held_out, progress)
        verifiers = {task.verifier for task in (*tasks, *held_out) if task.verifier}
        rewards = rewards_base.build(recipe.rewards, recipe.scoring, recipe.seed, verifiers)
        try:
            return _with_engine(recipe, run, progress, stop, rewards, tasks, held_out)
        finally:
            rewards.close()


def _with_engine(
    recipe: RlRecipe,
    run: Run,
    progress: Progress,
    stop: StopRequest,
    rewards: rewards_base.Rewards,
    tasks: Sequence[Task],
    held_out: Sequence[Task],
) -> dict[str, Any]:
    """Load model and engine, train, let go of the engine."""
    model, tokenizer = policy.load_model(recipe.model)
    model.to(setup.device())
    context = setup.context_of(policy.context_length(model), recipe.engine)
    sample, evals = recipe.sample.max_tokens, recipe.eval.max_tokens
    encoded = setup.encode(tokenizer, tasks, recipe.data, max_tokens=sample, context=context, progress=progress)
    encoded_eval = setup.encode(
        tokenizer, held_out, recipe.eval.tasks, max_tokens=evals, context=context, progress=progress
    )
    longest = max(setup.longest(encoded, sample), setup.longest(encoded_eval, evals))
    progress.say(f"starting the {recipe.engine.kind} engine")
    engine = engines.build(recipe.engine, recipe.model, tokenizer, min(longest, context or longest))
    try:
        stop.check("before the first step")
        return _train(_Job(recipe, run, progress, model, tokenizer, engine, rewards, encoded_eval), encoded, stop)
    finally:
        engine.close()


def _compare_verifiers(recipe: RlRecipe, held_out: Sequence[Task], progress: Progress) -> None:
    """Warn where the held-out tasks are judged by something that no reward asks."""
    parts = [part for part in recipe.rewards.values() if isinstance(part, VerifiedReward) and part.weight]
    if not parts or any(part.verifier is None for part in parts):  # a control run, or each task's own verifier
        return
    asked = {part.verifier or "" for part in parts}
    judges = {task.verifier for task in held_out if task.verifier} - asked
    if judges:
        progress.warn(
            f"held-out tasks are judged by {', '.join(sorted(judges))}, but the rewards by {', '.join(sorted(asked))}; "
            "data.verifier (or eval.tasks.verifier) names the judge"
        )


@dataclass(slots=True)
class _Job:
    """What a run has in hand, so that the loop below reads as its own sentence."""

    recipe: RlRecipe
    run: Run
    progress: Progress
    model: PreTrainedModel
    tokenizer: Any
    engine: Any
    rewards: rewards_base.Rewards
    held_out: Sequence[tuple[Task, tuple[int, ...]]]


def _train(job: _Job, encoded: Sequence[tuple[Task, tuple[int, ...]]], stop: StopRequest) -> dict[str, Any]:
    recipe, run, progress = job.recipe, job.run, job.progress
    reference = copy.deepcopy(job.model).requires_grad_(False) if recipe.kl.coef > 0 else None
    trained = policy.Trained(job.model, recipe.optim, recipe.steps * recipe.updates * recipe.epochs)
    state = setup.resume(run, trained, progress)
    if state.step:
        job.engine.load(trained.weights(), version=state.step)
    rollouts = Rollouts(
        encoded,
        job.engine,
        job.rewards,
        recipe.sample,
        seed=recipe.seed,
        cursor=state.cursor,
        on_progress=progress.phase,
    )
    warn = WarnOnce()
    parts = [f"rewards/{name}/mean" for name in recipe.rewards] if len(recipe.rewards) > 1 else []
    shown = (_SHOWN[0], *parts, *_SHOWN[1:])
    if state.step == 0 and recipe.eval.before and job.held_out:
        state.before = _evaluate(job, 0)

    progress.begin(state.step)
    for step in range(state.step + 1, recipe.steps + 1):
        clock = _Clock()
        taken = rollouts.take(step)
        clock.lap("sample", taken.sample_seconds)
        clock.lap("score", taken.score_seconds)
        metrics = group_metrics(taken)
        progress.phase("training")
        with clock.timed("train"):
            learned = _update(job, trained, reference, taken, step)
        metrics |= learned.metrics
        with clock.timed("sync"):
            job.engine.load(trained.weights(), version=step)
        state.advance(step, rollouts.cursor, sum(_num_tokens(g) for g in (*taken.groups, *taken.set_aside)))
        run.write_rollouts(step, (*taken.groups, *taken.set_aside), learned.advantage_by_id)
        metrics |= {"num_tokens": float(state.tokens), **clock.metrics(taken)}
        run.record(step, metrics)
        progress.step(step, metrics, shown)
        for text in warn.fresh(step, warnings_in_words(metrics)):
            progress.warn(text)
        if setup.is_due(step, recipe.eval.every) and step < recipe.steps and job.held_out:
            _evaluate(job, step)
        is_last = step == recipe.steps
        if stop.requested and not is_last:
            setup.save(run, trained, state, recipe.checkpoint.keep)
            raise Stopped(
                f"stopped after step {step} of {recipe.steps}; the same command with run.dir={run.folder} resumes"
            )
        if setup.is_due(step, recipe.checkpoint.every):
            setup.save(run, trained, state, recipe.checkpoint.keep)
    return _finish(job, state)


@dataclass(frozen=True, slots=True)
class _Learned:
    metrics: dict[str, float]
    advantage_by_id: dict[str, float]


def _update(job: _Job, trained: policy.Trained, reference: PreTrainedModel | None, taken: Taken, step: int) -> _Learned:
    """One step's optimizer updates on its judged rollouts."""
    recipe = job.recipe
    groups = [without_unjudged(group) for group in taken.groups]
    batch = make_batch(groups)
    is_on_policy = recipe.updates * recipe.epochs == 1
    batch = batch.to(setup.device())
    temperature = recipe.sample.temperature
    if not is_on_policy:
        batch = replace(batch, old_logp_BT=_logprobs(job.model, batch, temperature, recipe.optim.micro_tokens))
    if reference is not None:
        batch = replace(batch, ref_logp_BT=_logprobs(reference, batch, temperature, recipe.optim.micro_tokens))
    adv_BT, returns_BT = advantages.compute(batch, recipe.advantage, recipe.kl)
    batch = replace(batch, adv_BT=adv_BT, returns_BT=returns_BT)
    kl_metrics = {"kl": advantages.mean_kl(batch, recipe.kl)} if recipe.kl.where == "reward" and reference else {}

    totals: defaultdict[str, float] = defaultdict(float)
    norms = []
    parity = _Parity(recipe)
    parity_metrics: dict[str, float] = {}
    for number, minibatch in enumerate(_minibatches(batch, len(groups), recipe, step)):
        num_tokens, num_sequences = minibatch.num_tokens, minibatch.num_sequences
        by = divisor(num_tokens, num_sequences, recipe.loss, recipe.sample.max_tokens)
        useful = minibatch.rows(_carries_gradient_B(minibatch, recipe))
        for index_B in useful.micro(recipe.optim.micro_tokens):
            micro = useful.rows(index_B)
            logp_BT, entropy_BT = policy.logprobs(job.model, micro.ids_BT, micro.mask_BT, temperature)
            if number == 0:
                parity.compare(logp_BT, micro)
            sums = policy_loss(logp_BT, micro, recipe.loss, recipe.kl)
            totals["loss"] += trained.backward(sums, by)
            _add(totals, sums, float(entropy_BT.sum()))
        if number == 0:
            parity_metrics = parity.check(step)  # before anything is learnt from completions of another policy
        if len(useful.length_B):
            norms.append(trained.step())
        else:
            trained.skip()
    metrics = _step_metrics(totals, norms) | kl_metrics | parity_metrics
    firsts = adv_BT.gather(1, batch.mask_BT.float().argmax(dim=1, keepdim=True))[:, 0].tolist()
    ids = [r.id for group in groups for r in group.rollouts if any(r.completion.trained)]
    return _Learned(metrics, dict(zip(ids, firsts, strict=True)))


def _minibatches(batch: Batch, num_groups: int, recipe: RlRecipe, step: int) -> Iterator[Batch]:
    """`updates` equal shares of the groups, in each of `epochs` passes, in an order that the step fixes."""
    for epoch in range(recipe.epochs):
        order = permutation(num_groups, recipe.seed, "minibatch", step, epoch)
        for update in range(recipe.updates):
            share = torch.tensor(order[update :: recipe.updates], device=batch.group_B.device)
            member_B = torch.isin(batch.group_B, share)
            if member_B.any():
                yield batch.rows(member_B)


def _carries_gradient_B(batch: Batch, recipe: RlRecipe) -> Tensor:
    """Rows whose loss has a gradient: without advantage, and without divergence in the loss, they cost no work."""
    assert batch.adv_BT is not None
    if recipe.kl.coef > 0 and recipe.kl.where == "loss":
        return torch.ones_like(batch.length_B, dtype=torch.bool)
    return (batch.adv_BT != 0).any(dim=1)


@torch.no_grad()
def _logprobs(model: PreTrainedModel, batch: Batch, temperature: float, micro_tokens: int) -> Tensor:
    """logp_BT of the whole batch, in micro-batches, without gradient."""
    logp_BT = torch.zeros_like(batch.sampler_logp_BT)
    for index_B in batch.micro(micro_tokens):
        micro = batch.rows(index_B)
        part_BT, _ = policy.logprobs(model, micro.ids_BT, micro.mask_BT, temperature)
        logp_BT[index_B, : part_BT.shape[1]] = part_BT
    return logp_BT


class _Parity:
    """Compares the sampler's log-probabilities with those of the trainer's first forward over the same tokens."""

    def __init__(self, recipe: RlRecipe) -> None:
        self.tolerance = recipe.parity.tolerance
        self.total = self.largest = 0.0
        self.tokens = 0

    def compare(self, logp_BT: Tensor, batch: Batch) -> None:
        gap_BT = (logp_BT.detach() - batch.sampler_logp_BT).abs()[batch.mask_BT]
        self.total += float(gap_BT.double().sum())
        self.largest = max(self.largest, float(gap_BT.max()))
        self.tokens += len(gap_BT)

    def check(self, step: int) -> dict[str, float]:
        """TRL's metric names. EngineError where they disagree on average by more than the tolerance."""
        if not self.tokens:
            return {}
        mean = self.total / self.tokens
        if not mean <= self.tolerance:
            raise EngineError(
                f"step {step}: sampler and trainer disagree: mean |difference| of log-probabilities {mean:.2g} nats, "
                f"at most {self.tolerance:.2g} allowed (parity.tolerance); the sampler's weights, temperature or dtype "
                "are not the trainer's"
            )
        name = "sampling/sampling_logp_difference"
        return {f"{name}/mean": mean, f"{name}/max": self.largest}


class _Clock:
    """Seconds of a step by part; what no part claims is the loop's own overhead."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.parts: dict[str, float] = {}

    def lap(self, part: str, seconds: float) -> None:
        self.parts[part] = self.parts.get(part, 0.0) + seconds

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.lap(part, time.perf_counter() - started)

    def metrics(self, taken: Taken) -> dict[str, float]:
        step = time.perf_counter() - self.start
        tokens = sum(_num_tokens(group) for group in (*taken.groups, *taken.set_aside))
        return {
            **{f"time/{part}_seconds": seconds for part, seconds in self.parts.items()},
            "step_time": step,
            "perf/overhead_ratio": 1 - sum(self.parts.values()) / step,
            "perf/sampled_tokens_per_second": tokens / max(self.parts.get("sample", 0.0), 1e-9),
            "perf/tokens_per_second": tokens / step,
        }


def _add(totals: defaultdict[str, float], sums: Sums, entropy: float) -> None:
    totals["tokens"] += sums.tokens
    totals["entropy"] += entropy
    for name, value in sums.metrics.items():
        totals[name] += value


def _step_metrics(totals: Mapping[str, float], norms: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums become means over the tokens that passed the model."""
    if not norms:
        return {"loss": 0.0, "grad_norm": 0.0}
    tokens = totals["tokens"]
    means = {name: value / tokens for name, value in totals.items() if name not in ("loss", "tokens")}
    return {
        "loss": totals["loss"] / len(norms),
        "grad_norm": sum(n["grad_norm"] for n in norms) / len(norms),
        "lr": norms[-1]["lr"],
        "trained_tokens": tokens,
        **means,
    }


def _num_tokens(group: Group) -> int:
    return sum(len(rollout.completion.token_ids) for rollout in group.rollouts)


def _evaluate(job: _Job, step: int) -> dict[str, Any]:
    return setup.evaluate_and_record(
        lambda name: evaluate(
            job.held_out,
            job.engine,
            job.rewards.judge,
            job.recipe.eval,
            name=name,
            on_progress=lambda done, total: job.progress.phase(f"evaluating {done}/{total}"),
        ),
        job.run,
        job.progress,
        step,
    )


def _finish(job: _Job, state: setup.State) -> dict[str, Any]:
    recipe, run = job.recipe, job.run
    after = _evaluate(job, recipe.steps) if recipe.eval.after and job.held_out else None
    policy.save_model(job.model, job.tokenizer, run.model_folder)
    summary: dict[str, Any] = {
        "stage": "rl",
        "algorithm": recipe.algorithm,
        "steps": recipe.steps,
        "seconds": state.seconds(),
        "tokens": state.tokens,
        "warnings": job.progress.num_warnings,
        "model": str(run.model_folder),
    }
    if state.before is not None:
        summary["before"] = state.before
    if after is not None:
        summary["after"] = after
    run.finish(summary)
    return summary
