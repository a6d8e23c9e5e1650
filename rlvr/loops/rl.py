"""Reinforcement learning: sample, score, compare within the group, push up what was better, send the weights back."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rlvr import parallel, parity, policy
from rlvr.alarms import Alarmed, Alarms, measured
from rlvr.batching import Batch, Rows, make_batch
from rlvr.canaries import Canaries, Hacked, HackRate
from rlvr.engines import base as engines
from rlvr.errors import EngineError, Stopped
from rlvr.evaluate import evaluate
from rlvr.grouplog import GroupLog
from rlvr.inputs import fingerprint_model
from rlvr.loops import critic as critics
from rlvr.loops import setup
from rlvr.loops.learn import Learned, Learner, learn
from rlvr.loops.ptx import Ptx
from rlvr.loops.ptx import plan as ptx_plan
from rlvr.loops.stopping import StopRequest
from rlvr.loss_settings import AdaptiveKl
from rlvr.progress import Progress, WarnOnce, warnings_in_words
from rlvr.recipe import RlRecipe, VerifiedReward
from rlvr.rewards import base as rewards_base
from rlvr.rewards.shaping import rewards_by_id, shape
from rlvr.rewards.unsupervised import PolicyView
from rlvr.rollout import Rollouts, Taken, group_metrics, sampling
from rlvr.runs import Run, read_metrics
from rlvr.trained import Trained
from rlvr.types import Demonstration, Engine, Group, Part, Task

_FOR_A_CAUSE = 4
"""Prompts that are sampled at least where a cause is looked for."""
_SHOWN = ("reward", "completions/mean_length", "frac_reward_zero_std", "entropy", "grad_norm")
_KL_ERROR = 0.2
"""Largest relative error that the coefficient answers to."""
Encoded = Sequence[tuple[Task, tuple[int, ...]]]


def train(recipe: RlRecipe, run: Run, progress: Progress, stop: StopRequest) -> dict[str, Any]:
    """Run the recipe to its end; returns what summary.json holds. RlvrError where it cannot, Stopped when asked to."""
    held_out = setup.load_held_out(recipe.eval, progress)
    tasks = setup.load_training_tasks(recipe.data, held_out, progress)
    own_canaries = setup.load_canaries(recipe.canaries, progress)
    demonstrations = []
    if recipe.ptx is not None:
        demonstrations = setup.load_training_demonstrations(recipe.ptx.data, held_out, progress, "ptx.data")
    run.check_inputs(_inputs(recipe, data=tasks, held_out=held_out, canaries=own_canaries, ptx=demonstrations))
    _compare_verifiers(recipe, held_out, progress)
    verifiers = {task.verifier for task in (*tasks, *held_out, *own_canaries) if task.verifier}
    rewards = rewards_base.build(
        recipe.rewards,
        recipe.scoring,
        recipe.seed,
        verifiers,
        overlong=recipe.overlong,
        max_tokens=recipe.sample.max_tokens,
        model=recipe.model,
        tasks=(*tasks, *own_canaries),
        warn=progress.warn,
        judged=run.folder / "judged",
    )
    try:
        return _with_engine(recipe, run, progress, stop, rewards, tasks, held_out, own_canaries, demonstrations)
    finally:
        rewards.close()


def _inputs(recipe: RlRecipe, **rows: Any) -> dict[str, str]:
    """Fingerprints of what the run is made from: rows, and models by their paths."""
    others = {"critic": recipe.critic.path, "reference": recipe.reference.path}
    models = {
        name: fingerprint_model(path, setting=f"{name}.path") for name, path in others.items() if path is not None
    }
    return setup.inputs(recipe.model, **rows) | models | rewards_base.fingerprints(recipe.rewards)


def begin(recipe: RlRecipe) -> Callable[[Batch, int, Sequence[Rows]], Learned]:
    """What every other rank does in each step, once it has the main rank's state."""
    learner, _ = _load(recipe)
    _share(learner)
    return partial(_learn, learner)


def _share(learner: Learner) -> None:
    """Give every rank what the main rank has, as after resuming."""
    for trained in learner.everything:
        trained.share_state()
    _set_kl_coef(learner, parallel.from_main(learner.kl.coef))


def _set_kl_coef(learner: Learner, coef: float) -> None:
    learner.kl = learner.kl.model_copy(update={"coef": coef})


def _learn(learner: Learner, batch: Batch, step: int, ptx: Sequence[Rows]) -> Learned:
    """learn(), and where kl.adaptive is set the coefficient of the next step, the same on every rank."""
    learned = learn(learner, batch, step, ptx)
    coef, adaptive = learner.kl.coef, learner.kl.adaptive
    if adaptive is None or not learned.metrics or learner.is_warming_up(step):
        return learned
    kl = learned.metrics.get("kl")  # none where the update was skipped
    if kl is not None and math.isfinite(kl):
        _set_kl_coef(learner, next_kl_coef(coef, kl, len(batch.length_B), adaptive))
    return replace(learned, metrics={**learned.metrics, "kl/coef": coef})


def next_kl_coef(coef: float, kl: float, num_completions: int, adaptive: AdaptiveKl) -> float:
    """coef * (1 + clip(kl / target - 1, -0.2, 0.2) * num_completions / horizon)

    https://arxiv.org/abs/1909.08593 section 2.2, with K_beta = num_completions / horizon as in TRL and verl. kl: mean
    of a step, nats; num_completions: learnt from in it. ValueError where those are more than the horizon.
    """
    if num_completions > adaptive.horizon:
        raise ValueError(
            f"kl.adaptive.horizon must be at least the completions of a step ({num_completions}), "
            f"got {adaptive.horizon}"
        )
    error = min(max(kl / adaptive.target - 1, -_KL_ERROR), _KL_ERROR)
    # 0 would never grow again
    return max(coef * (1 + error * num_completions / adaptive.horizon), sys.float_info.min)


def _load(recipe: RlRecipe) -> tuple[Learner, Any]:
    """(learner with the weights of model.path, tokenizer)"""
    model, tokenizer = setup.load_policy(recipe)
    reference = setup.load_reference(recipe, model, tokenizer)
    total_updates = recipe.steps * recipe.updates * recipe.epochs
    packs = setup.decide_packing(recipe.packing, model)
    trained = Trained(model, recipe.optim, total_updates, packs=packs)
    return Learner(recipe, trained, reference, critics.load(recipe, model, tokenizer)), tokenizer


def _with_engine(
    recipe: RlRecipe,
    run: Run,
    progress: Progress,
    stop: StopRequest,
    rewards: rewards_base.Rewards,
    tasks: Sequence[Task],
    held_out: Sequence[Task],
    own_canaries: Sequence[Task],
    demonstrations: Sequence[Demonstration],
) -> dict[str, Any]:
    """Load model and engine, train, let go of the engine."""
    learner, tokenizer = _load(recipe)
    setup.warn_of_head(recipe.loss.fused, learner.trained.model, progress)
    own_context = policy.context_length(learner.trained.model)
    ptx = ptx_plan(recipe, demonstrations, tokenizer, own_context, progress)
    critic = None if learner.critic is None or learner.critic.is_shared else learner.critic.trained.model
    context = setup.context_of(policy.context_length(learner.trained.model, learner.reference, critic), recipe.engine)
    sample, evals = recipe.sample.max_tokens, recipe.eval.max_tokens
    encoded = setup.encode(tokenizer, tasks, recipe.data, max_tokens=sample, context=context, progress=progress)
    encoded_eval = setup.encode(
        tokenizer, held_out, recipe.eval.tasks, max_tokens=evals, context=context, progress=progress
    )
    own = setup.encode(
        tokenizer, own_canaries, recipe.canaries.tasks, max_tokens=sample, context=context, progress=progress
    )
    canaries = Canaries(recipe.canaries, recipe.rewards, encoded, own, recipe.seed)
    longest = max(setup.longest([*encoded, *own], sample), setup.longest(encoded_eval, evals))
    stop.check("before the first step")
    progress.say(f"starting the {recipe.engine.kind} engine")
    engine = engines.build(
        recipe.engine, recipe.model, tokenizer, min(longest, context or longest), ranks=parallel.size()
    )
    try:
        stop.check("before the first step")
        job = _Job(recipe, run, progress, stop, learner, tokenizer, engine, rewards, encoded_eval, canaries, ptx)
        return _train(job, encoded)
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
    stop: StopRequest
    learner: Learner
    tokenizer: Any
    engine: Engine
    rewards: rewards_base.Rewards
    held_out: Encoded
    canaries: Canaries
    ptx: Ptx | None

    @property
    def critic(self) -> Trained | None:
        """What the critic's weights are kept with."""
        return None if self.learner.critic is None else self.learner.critic.trained

    def save(self, state: setup.State) -> None:
        setup.save(self.run, self.learner.trained, state, self.recipe.checkpoint.keep, self.critic)

    @property
    def trainer(self) -> parity.Trainer:
        """The trainer's side of the comparison with the sampler."""
        recipe, trained = self.recipe, self.learner.trained
        return parity.Trainer(
            model=trained.model,
            settings=recipe.model,
            tokenizer=self.tokenizer,
            temperature=recipe.sample.temperature,
            micro_tokens=trained.micro_tokens,
        )


def _train(job: _Job, encoded: Encoded) -> dict[str, Any]:
    recipe, run, progress, trained = job.recipe, job.run, job.progress, job.learner.trained
    state = setup.resume(run, trained, progress, job.critic)
    if state.kl_coef is not None:
        _set_kl_coef(job.learner, state.kl_coef)
    parallel.begin()
    _share(job.learner)
    update = parallel.Together(partial(_learn, job.learner))
    job.engine.load(trained.weights(), version=state.step)
    log = run.group_log(progress.warn)
    parts = rewards_base.parts_of(recipe.rewards, recipe.overlong) if recipe.advantage.kind == "gdpo" else ()
    rollouts = _rollouts(job, encoded, state.cursor, log, parts)
    rows = read_metrics(run.folder)
    warn, hack_rate = WarnOnce(), HackRate.after(recipe.canaries, rows)
    alarms = Alarms.after(recipe.alarms, recipe.rewards, rows)
    job.rewards.show_policy(PolicyView(trained.model, recipe.sample.temperature, recipe.optim.micro_tokens))
    gate = parity.Gate(recipe.parity, progress.warn)
    _check_sampler(job, gate, encoded, state.step)
    with _kept_when_stopped(job, state):
        if state.step == 0 and state.before is None and recipe.eval.before and job.held_out:
            state.before, state.saved = _evaluate(job, 0), -1
        _evaluate_where_due(job, state.step)  # a stop may have come before it
    hack_rate.check(state.step)
    alarms.check(state.step)

    progress.begin(state.step)
    for step in range(state.step + 1, recipe.steps + 1):
        clock = _Clock()
        with _kept_when_stopped(job, state):
            taken = rollouts.take(step)
        clock.lap("sample", taken.sample_seconds)
        clock.lap("score", taken.score_seconds)
        canary = job.canaries.metrics(taken.canaries)
        metrics = group_metrics(taken, parts) | canary | hack_rate.add(canary)
        metrics |= measured(taken.sampled, recipe.rewards)
        progress.phase("training")
        with clock.timed("train"):
            shaped, running, shaping = shape(taken.groups, recipe.shaping, recipe.rewards, state.running)
            batch = make_batch(shaped, filter_truncated=recipe.overlong.filter, parts=parts)
            batch = critics.with_truncated(batch, shaped, recipe.critic)
            learned = update(batch, step, [] if job.ptx is None else job.ptx.rows(step))
        metrics |= shaping | learned.metrics
        alarm, alarm_words = alarms.add(metrics)
        metrics |= alarm
        setup.guard(run, trained, metrics, step, batch.tensors(), progress, job.critic)
        with clock.timed("sync"):
            job.engine.load(trained.weights(), version=step)
        try:
            gate.check(f"step {step}", learned.agreement, partial(_likely_cause, job, encoded, taken.groups, step))
        except EngineError:
            log.discard(step)  # whoever mends what was wrong wants them sampled anew
            raise
        state.advance(step, rollouts.cursor, sum(_num_tokens(group) for group in taken.everything))
        state.kl_coef, state.running = job.learner.kl.coef, running
        trained_on = rewards_by_id(shaped) if shaping else {}
        run.write_rollouts(step, taken.everything, _advantages(taken, learned), trained_on)
        metrics |= {"num_tokens": float(state.tokens), **clock.metrics(taken)}
        metrics["system/engine_restarts"] = float(job.engine.restarts)
        run.record(step, metrics)
        progress.step(step, metrics, _shown(recipe))
        example = job.canaries.first_hacked(taken.canaries)
        for text in (
            *warn.fresh(step, [*warnings_in_words(metrics, example), *critics.warnings_in_words(metrics)]),
            *alarm_words,
        ):
            progress.warn(text)
        with _kept_when_stopped(job, state):
            hack_rate.check(step, example)
            alarms.check(step)
            _evaluate_where_due(job, step)
            if job.stop.requested and step < recipe.steps:
                raise Stopped(f"stopped after step {step} of {recipe.steps}")
        if setup.is_due(step, recipe.checkpoint.every):
            job.save(state)
    with _kept_when_stopped(job, state):
        return _finish(job, state)


def _rollouts(job: _Job, encoded: Encoded, cursor: int, log: GroupLog, parts: Sequence[Part]) -> Rollouts:
    recipe = job.recipe
    return Rollouts(
        encoded,
        job.engine,
        job.rewards,
        recipe.sample,
        seed=recipe.seed,
        cursor=cursor,
        log=log,
        with_greedy=recipe.advantage.kind == "greedy",
        parts=parts,
        canaries=job.canaries,
        is_stopping=lambda: job.stop.requested,
        on_progress=job.progress.phase,
    )


def _shown(recipe: RlRecipe) -> tuple[str, ...]:
    """Metrics on the progress line."""
    by_part = [f"rewards/{name}/mean" for name in recipe.rewards] if len(recipe.rewards) > 1 else []
    canary = ["canary/hack_rate"] if recipe.canaries.share else []
    critic = ["critic/vf_explained_var"] if recipe.critic.kind != "none" else []
    return (_SHOWN[0], *by_part, *canary, *_SHOWN[1:], *critic)


@contextlib.contextmanager
def _kept_when_stopped(job: _Job, state: setup.State) -> Iterator[None]:
    """A stop in here, or one for too many hacks or an alarm, leaves a checkpoint of the last step that is done."""
    try:
        yield
    except Stopped as error:
        job.save(state)
        raise Stopped(f"{error}; the same command with run.dir={job.run.folder} resumes") from None
    except (Hacked, Alarmed):
        job.save(state)
        raise


def _check_sampler(job: _Job, gate: parity.Gate, encoded: Encoded, version: int) -> None:
    """Whether sampler and trainer agree before a step is made; `version` was sent last."""
    groups = _probe(job, encoded, version)
    gate.check(
        "before the first step" if not version else f"before step {version + 1}",
        parity.compare(job.trainer, groups),
        partial(_likely_cause, job, encoded, groups, version),
    )


def _probe(job: _Job, encoded: Encoded, version: int, at_least: int = 0) -> list[Group]:
    """A few short completions under the weights of `version`."""
    return parity.probe(
        job.engine,
        encoded,
        sampling(job.recipe.sample),
        max(job.recipe.parity.probe, at_least),
        seed=job.recipe.seed,
        step=version,
        version=version,
        vocab_size=job.learner.trained.model.config.get_text_config().vocab_size,
    )


def _likely_cause(job: _Job, encoded: Encoded, groups: Sequence[Group], version: int) -> parity.Cause:
    """Why the sampler's log-probabilities in `groups` were not the trainer's; `version` was sent last."""

    def resend() -> list[Group]:
        job.engine.load(job.learner.trained.weights(), version=version)
        return _probe(job, encoded, version, _FOR_A_CAUSE)

    if version and job.recipe.parity.on_mismatch == "warn":  # the weights have moved since: other samples are needed
        groups = _probe(job, encoded, version, _FOR_A_CAUSE)
    return parity.likely_cause(job.trainer, groups, job.recipe.parity.tolerance, resend)


def _advantages(taken: Taken, learned: Learned) -> dict[str, float]:
    """By the rollout's id."""
    ids = [r.id for group in taken.groups for r in group.rollouts if r.reward is not None]
    return dict(zip(ids, learned.adv_B.tolist(), strict=True))


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
        tokens = sum(_num_tokens(group) for group in taken.everything)
        return {
            **{f"time/{part}_seconds": seconds for part, seconds in self.parts.items()},
            "step_time": step,
            "perf/overhead_ratio": 1 - sum(self.parts.values()) / step,
            "perf/sampled_tokens_per_second": tokens / max(self.parts.get("sample", 0.0), 1e-9),
            "perf/tokens_per_second": tokens / step,
        }


def _num_tokens(group: Group) -> int:
    return sum(len(rollout.completion.token_ids) for rollout in group.all_rollouts)


def _evaluate_where_due(job: _Job, step: int) -> None:
    """The evaluation after a step in the middle of the run, where it has not been done."""
    is_midway = 0 < step < job.recipe.steps and bool(job.held_out)
    if is_midway and setup.is_due(step, job.recipe.eval.every) and not setup.is_evaluated(job.run, step):
        _evaluate(job, step)


def _evaluate(job: _Job, step: int) -> dict[str, Any]:
    def on_progress(done: int, total: int) -> None:
        job.progress.phase(f"evaluating {done}/{total}")
        if job.stop.requested and done < total:
            raise Stopped(f"stopped while evaluating after step {step} of {job.recipe.steps}")

    return setup.evaluate_and_record(
        lambda name: evaluate(
            job.held_out,
            job.engine,
            job.rewards.judge,
            job.recipe.eval,
            name=name,
            on_progress=on_progress,
        ),
        job.run,
        job.progress,
        step,
    )


def _finish(job: _Job, state: setup.State) -> dict[str, Any]:
    recipe, run = job.recipe, job.run
    after = _evaluate(job, recipe.steps) if recipe.eval.after and job.held_out else None
    if job.learner.critic is not None:
        critics.save(job.learner.critic, run.folder / "critic")
    setup.save_trained(job.learner.trained.model, job.tokenizer, run)
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
