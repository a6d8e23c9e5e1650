"""Whether the sampler's log-probabilities are the trainer's, before the first step and in every one.

What is learnt rests on it: log-probabilities of another policy make every ratio wrong, and nothing else shows it.
B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rlvr import parallel, policy
from rlvr.batching import Batch, make_batch
from rlvr.errors import EngineError
from rlvr.mismatch import likely_cause
from rlvr.recipe import Parity
from rlvr.seeds import seed_for
from rlvr.surrogates import MAX_LOG_RATIO
from rlvr.trials import Cause, Trainer, as_sampled
from rlvr.types import Completion, Engine, Group, Request, Rollout, Sampling, Task

__all__ = ["Agreement", "Cause", "Gate", "Trainer", "compare", "likely_cause", "probe"]

PROBE_TOKENS = 32
"""Longest completion of a probe."""
_SUMS = ("gap", "tokens", "ratio", "nonfinite")
_PEAKS = ("gap", "ratio", "-ratio")


class Agreement:
    """|trainer - sampler| of log-probabilities, over micro-batches and ranks. Tensors until somebody reads a number."""

    def __init__(self) -> None:
        self._sums = torch.zeros(len(_SUMS), dtype=torch.float64)
        self._peaks = torch.full((len(_PEAKS),), -torch.inf)

    @torch.no_grad()
    def add(self, logp_BT: Tensor, batch: Batch) -> None:
        """Heed the trained tokens of a micro-batch; logp_BT is the trainer's. Waits for no device."""
        mask_BT = batch.mask_BT
        log_ratio_BT = torch.where(mask_BT, logp_BT.detach() - batch.sampler_logp_BT, 0.0)
        finite_BT = log_ratio_BT.isfinite()
        log_ratio_BT = torch.where(finite_BT, log_ratio_BT, 0.0)
        counted_BT = mask_BT & finite_BT
        gap_BT = log_ratio_BT.abs()
        ratio_BT = log_ratio_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        nonfinite = (~finite_BT).sum()
        tokens = mask_BT.sum() - nonfinite
        num_others = mask_BT.numel() - tokens  # each has a ratio of 1
        sums = [gap_BT.sum(dtype=torch.float64), tokens, ratio_BT.sum(dtype=torch.float64) - num_others, nonfinite]
        peaks = [torch.where(counted_BT, value_BT, -torch.inf).amax() for value_BT in (gap_BT, ratio_BT, -ratio_BT)]
        self._sums = self._sums.to(gap_BT.device) + torch.stack([value.double() for value in sums])
        self._peaks = self._peaks.to(gap_BT.device).maximum(torch.stack(peaks))

    def over_ranks(self) -> Agreement:
        """That of all ranks together; every rank must ask."""
        whole = Agreement()
        added = parallel.add(self.sums)
        everywhere = parallel.gather(self.peaks)
        whole._sums = torch.tensor([added[name] for name in _SUMS], dtype=torch.float64)
        whole._peaks = torch.tensor([max(peaks[name] for peaks in everywhere) for name in _PEAKS])
        return whole

    @property
    def sums(self) -> dict[str, float]:
        """Over tokens."""
        return dict(zip(_SUMS, self._sums.tolist(), strict=True))

    @property
    def peaks(self) -> dict[str, float]:
        """The largest of each; -inf where there are no tokens."""
        return dict(zip(_PEAKS, self._peaks.tolist(), strict=True))

    @property
    def num_nonfinite(self) -> int:
        """Tokens whose difference is no finite number; they are in no mean."""
        return int(self.sums["nonfinite"])

    @property
    def num_tokens(self) -> int:
        """All others."""
        return int(self.sums["tokens"])

    @property
    def mean(self) -> float:
        """Nats; 0 where there are no tokens."""
        sums = self.sums
        return sums["gap"] / max(sums["tokens"], 1.0)

    def is_within(self, tolerance: float) -> bool:
        """No token without a finite difference, and their mean at most `tolerance`."""
        return not self.num_nonfinite and self.mean <= tolerance

    def metrics(self) -> dict[str, float]:
        """TRL's names; none where there are no tokens. The ratio is trainer to sampler."""
        sums, peaks = self.sums, self.peaks
        odd = {"sampling/nonfinite_tokens": sums["nonfinite"]} if sums["nonfinite"] else {}
        if not sums["tokens"]:
            return odd
        return {
            "sampling/sampling_logp_difference/mean": sums["gap"] / sums["tokens"],
            "sampling/sampling_logp_difference/max": peaks["gap"],
            "sampling/importance_sampling_ratio/min": -peaks["-ratio"],
            "sampling/importance_sampling_ratio/mean": sums["ratio"] / sums["tokens"],
            "sampling/importance_sampling_ratio/max": peaks["ratio"],
            **odd,
        }


# --- the probe -------------------------------------------------------------------------------------------------------


def probe(
    engine: Engine,
    encoded: Sequence[tuple[Task, tuple[int, ...]]],
    sampling: Sampling,
    num_prompts: int,
    *,
    seed: int,
    step: int,
    version: int,
    vocab_size: int,
) -> list[Group]:
    """One short completion for each of some prompts of all lengths, as groups of one with a reward of 0.

    encoded: tasks with their prompt ids; sampling: the run's own; seed: the run's; step: the last one done; version:
    of the weights that the engine was sent last. Seeds and request ids are the probe's alone, so that nothing that
    comes after it is drawn otherwise; only a prefix cache is warmer. EngineError where a completion is not what was
    asked for.
    """
    sampling = replace(sampling, max_tokens=min(PROBE_TOKENS, sampling.max_tokens))
    picked = _spread_by_length(encoded, num_prompts)
    requests = [
        Request(
            id=f"parity/{step}/{task.id}",
            prompt_ids=prompt_ids,
            seeds=(seed_for(seed, "parity", step, task.id, 0),),
            sampling=sampling,
        )
        for task, prompt_ids in picked
    ]
    found: dict[str, Completion] = {}
    wanted = {id for request in requests for id in request.sample_ids}
    for id, completion in engine.generate(requests):
        if id not in wanted:
            raise EngineError(f"the engine gave a completion for {id!r}, which was not asked for (again)")
        wanted.remove(id)
        if wrong := _what_is_wrong(completion, sampling, version, vocab_size):
            raise EngineError(f"the sampler's completion {id} is not what was asked for: {wrong}")
        found[id] = completion
    if wanted:
        raise EngineError(f"the engine lost {len(wanted)} of {len(requests)} completions ({min(wanted)}, ...)")
    return [
        Group(
            task=task,
            prompt_ids=prompt_ids,
            rollouts=tuple(Rollout(id=id, completion=found[id], verdicts={}, reward=0.0) for id in request.sample_ids),
        )
        for (task, prompt_ids), request in zip(picked, requests, strict=True)
    ]


def _spread_by_length(
    encoded: Sequence[tuple[Task, tuple[int, ...]]], number: int
) -> list[tuple[Task, tuple[int, ...]]]:
    """From the shortest prompt to the longest, evenly: what goes wrong with long ones alone must show too."""
    order = sorted(encoded, key=lambda pair: len(pair[1]))
    last = len(order) - 1
    places = {round(k * last / max(1, number - 1)) for k in range(number)} if number > 1 else {last // 2}
    chosen = {order[place][0].id: order[place] for place in sorted(places)} if number and order else {}
    return list(chosen.values())


def _what_is_wrong(completion: Completion, sampling: Sampling, version: int, vocab_size: int) -> str:
    """In words, or nothing."""
    ids, logprobs, trained = completion.token_ids, completion.logprobs, completion.trained
    foreign = [token for token in ids if not 0 <= token < vocab_size]
    if completion.finish == "abort":
        return "it was taken back (finish: abort)"
    if not ids:
        return "it has no tokens, not even the end token"
    if len(ids) > sampling.max_tokens:
        return f"it has {len(ids)} tokens, and max_tokens is {sampling.max_tokens}"
    if foreign:
        return f"token id {foreign[0]} is outside the model's vocabulary of {vocab_size}; it serves another model"
    if not logprobs:
        return "it has no log-probabilities (vLLM: logprobs=0 gives those of the sampled tokens)"
    if len(logprobs) != len(ids):
        return f"it has {len(logprobs)} log-probabilities for {len(ids)} tokens"
    if len(trained) != len(ids) or not any(trained):
        return f"{sum(trained)} of {len(trained)} flags say that a token is to be trained on, for {len(ids)} tokens"
    if any(own != version for _, own in completion.versions) or not completion.versions:
        own = ", ".join(str(own) for _, own in completion.versions) or "none"
        return f"it was drawn with weights of version {own}, and version {version} was sent"
    return ""


def compare(trainer: Trainer, groups: Sequence[Group]) -> Agreement:
    """The sampler's log-probabilities in `groups` against the trainer's present ones."""
    agreement = Agreement()
    if not groups:
        return agreement
    batch = make_batch(groups).to(trainer.model.device)
    with as_sampled(trainer.model):
        for index_B in batch.micro(trainer.micro_tokens):
            micro = batch.rows(index_B)
            logp_BT, _ = policy.logprobs(trainer.model, micro.ids_BT, micro.mask_BT, trainer.temperature)
            agreement.add(logp_BT, micro)
    return agreement


# --- the gate --------------------------------------------------------------------------------------------------------


class Gate:
    """Ends the run where the two disagree, or says so and lets it go on, as the recipe has it."""

    def __init__(self, settings: Parity, warn: Callable[[str], None]) -> None:
        self.settings = settings
        self.warn = warn
        self._told: set[str] = set()
        self._looked_at = 0.0

    def check(self, when: str, agreement: Agreement, find_cause: Callable[[], Cause]) -> None:
        """EngineError beyond the tolerance, or one warning per kind of cause.

        when: "step 12", the message's first words. The cause is looked for where the run stops, and while it goes on
        at first and whenever the gap has trebled since, for looking costs seconds.
        """
        if agreement.is_within(self.settings.tolerance):
            return
        if self.settings.on_mismatch == "stop":
            raise EngineError(_message(when, agreement, self.settings.tolerance, find_cause()))
        seriousness = torch.inf if agreement.num_nonfinite else agreement.mean
        if seriousness <= 3 * self._looked_at:
            return
        self._looked_at = seriousness
        cause = find_cause()
        if cause.kind not in self._told:
            self._told.add(cause.kind)
            self.warn(_message(when, agreement, self.settings.tolerance, cause))


def _message(when: str, agreement: Agreement, tolerance: float, cause: Cause) -> str:
    num_tokens, num_odd = agreement.num_tokens, agreement.num_nonfinite
    largest = f", largest {agreement.peaks['gap']:.2g}" if num_tokens else ""
    odd = f", and {num_odd} are not finite" if num_odd else ""
    return (
        f"{when}: sampler and trainer disagree: mean |difference| of log-probabilities {agreement.mean:.2g} nats over "
        f"{num_tokens} tokens{largest}{odd}; at most {tolerance:.2g} allowed (parity.tolerance). Likely cause: "
        f"{cause.text}"
    )
