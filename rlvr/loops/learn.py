"""What one step learns from its batch. Every rank runs this alike, each on its share of the rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlvr import advantages, lora, parallel, policy
from rlvr.batching import Batch
from rlvr.failpoints import failpoint
from rlvr.loops import setup
from rlvr.losses import Sums, divisor, policy_loss
from rlvr.parity import Agreement
from rlvr.recipe import RlRecipe
from rlvr.seeds import permutation
from rlvr.trained import Trained


@dataclass(slots=True)
class Learner:
    """The policy with what its updates need."""

    recipe: RlRecipe
    trained: Trained
    reference: Any = None
    """A frozen copy, for a full-parameter policy that is held near to it."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of a step."""

    metrics: dict[str, float]
    adv_B: Tensor
    """float64 [B], of each row's first trained token."""
    agreement: Agreement
    """Of the sampler with the first forward; beyond parity.tolerance nothing is learnt, but for on_mismatch: warn."""


def learn(learner: Learner, batch: Batch, step: int) -> Learned:
    """The step's optimizer updates on its judged rollouts."""
    recipe, trained = learner.recipe, learner.trained
    batch = _with_logprobs(learner, batch.to(setup.device()))
    adv_BT, returns_BT = advantages.compute(batch, recipe.advantage, recipe.kl)
    batch = replace(batch, adv_BT=adv_BT, returns_BT=returns_BT)
    adv_B = adv_BT.gather(1, batch.mask_BT.float().argmax(dim=1, keepdim=True))[:, 0].cpu()
    agreement = Agreement()
    totals: defaultdict[str, float] = defaultdict(float)
    updates: list[dict[str, float]] = []
    for minibatch in _minibatches(batch, recipe, step):
        useful = minibatch.rows(_carries_gradient_B(minibatch, recipe))
        if not len(useful.length_B):
            updates.append(trained.pass_over())
            continue
        by = divisor(minibatch.num_tokens, minibatch.num_sequences, recipe.loss, recipe.sample.max_tokens)
        longest = int(useful.length_B.max())
        sums, compared = trained.in_memory(partial(_gradient, learner, useful, by), longest)
        for name, value in parallel.add(sums).items():
            totals[name] += value
        if not any(updates):  # no weight has moved yet
            agreement = compared.over_ranks()
            if recipe.parity.on_mismatch == "stop" and not agreement.is_within(recipe.parity.tolerance):
                trained.clear()  # before anything is learnt from completions of another policy
                return Learned({}, adv_B, agreement)
        updates.append(trained.step())
        failpoint("update")
    metrics = _step_metrics(totals, updates) | agreement.metrics()
    if recipe.kl.where == "reward" and recipe.kl.coef > 0:
        metrics["kl"] = advantages.mean_kl(batch, recipe.kl)
    return Learned(metrics, adv_B, agreement)


def _with_logprobs(learner: Learner, batch: Batch) -> Batch:
    """The batch with old_logp_BT and ref_logp_BT, where the settings need them."""
    recipe, model = learner.recipe, learner.trained.model
    if recipe.updates * recipe.epochs > 1:
        batch = replace(batch, old_logp_BT=_logprobs(learner, model, batch))
    if recipe.kl.coef > 0:
        if lora.is_attached(model):
            with lora.off(model):
                batch = replace(batch, ref_logp_BT=_logprobs(learner, model, batch))
        else:
            batch = replace(batch, ref_logp_BT=_logprobs(learner, learner.reference, batch))
    return batch


@torch.no_grad()
def _logprobs(learner: Learner, model: Any, batch: Batch) -> Tensor:
    """logp_BT of the whole batch, each rank having done its share, without gradient."""
    own_B = parallel.share_B(batch.length_B)

    def compute() -> Tensor:
        dtype = torch.promote_types(model.dtype, torch.float32)
        logp_BT = torch.zeros_like(batch.sampler_logp_BT, dtype=dtype)
        for index_B, micro in _micro(learner, batch.rows(own_B)):
            part_BT, _ = _forward(learner, model, micro)
            logp_BT[own_B[index_B], : part_BT.shape[1]] = part_BT
        return logp_BT

    return parallel.add_rows(learner.trained.in_memory(compute, int(batch.length_B.max())))


def _gradient(learner: Learner, useful: Batch, by: float) -> tuple[dict[str, float], Agreement]:
    """Add this rank's share of the gradient. Its sums over tokens, and the sampler's agreement with this forward."""
    recipe, trained = learner.recipe, learner.trained
    totals: defaultdict[str, float] = defaultdict(float)
    agreement = Agreement()
    for _, micro in _micro(learner, useful.rows(parallel.share_B(useful.length_B))):
        failpoint("micro")
        logp_BT, entropy_BT = _forward(learner, trained.model, micro)
        agreement.add(logp_BT, micro)
        sums = policy_loss(logp_BT, micro, recipe.loss, recipe.kl)
        totals["loss"] += trained.backward(sums, by)
        _add(totals, sums, float(entropy_BT.sum()))
    return totals, agreement


def _micro(learner: Learner, batch: Batch) -> Iterator[tuple[Tensor, Batch]]:
    """(rows, micro-batch) of at most trained.micro_tokens tokens each."""
    for index_B in batch.micro(learner.trained.micro_tokens):
        yield index_B, batch.rows(index_B)


def _forward(learner: Learner, model: Any, micro: Batch) -> tuple[Tensor, Tensor]:
    """(logp_BT, entropy_BT) at the sampling temperature."""
    return policy.logprobs(
        model,
        micro.ids_BT,
        micro.mask_BT,
        learner.recipe.sample.temperature,
        length_B=micro.length_B if learner.trained.packs else None,
    )


def _minibatches(batch: Batch, recipe: RlRecipe, step: int) -> Iterator[Batch]:
    """`updates` equal shares of the groups, in each of `epochs` passes, in an order that the step fixes."""
    num_groups = int(batch.group_B.max()) + 1
    for epoch in range(recipe.epochs):
        order = permutation(num_groups, recipe.seed, "minibatch", step, epoch)
        for update in range(recipe.updates):
            share = torch.tensor(order[update :: recipe.updates], device=batch.group_B.device)
            yield batch.rows(torch.isin(batch.group_B, share))


def _carries_gradient_B(batch: Batch, recipe: RlRecipe) -> Tensor:
    """Rows whose loss has a gradient: without advantage, and without divergence in the loss, they cost no work."""
    assert batch.adv_BT is not None
    is_trained_B = batch.mask_BT.any(dim=1)
    if recipe.kl.coef > 0 and recipe.kl.where == "loss":
        return is_trained_B
    return is_trained_B & (batch.adv_BT != 0).any(dim=1)


def _add(totals: defaultdict[str, float], sums: Sums, entropy: float) -> None:
    totals["tokens"] += sums.tokens
    totals["entropy"] += entropy
    for name, value in sums.metrics.items():
        totals[name] += value


def _step_metrics(totals: Mapping[str, float], updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums become means over the tokens that passed the model."""
    skipped = sum(update.get("skipped_updates", 0.0) for update in updates)
    done = [update for update in updates if "grad_norm" in update]
    metrics = {"skipped_updates": skipped} if skipped else {}
    if not done:
        return metrics if skipped else {"loss": 0.0, "grad_norm": 0.0}
    if not skipped:  # what was skipped has no finite mean
        tokens = totals["tokens"]
        means = {name: value / tokens for name, value in totals.items() if name not in ("loss", "tokens")}
        metrics |= {"loss": totals["loss"] / len(done), "trained_tokens": tokens, **means}
    return metrics | {
        "grad_norm": sum(update["grad_norm"] for update in done) / len(done),
        "lr": done[-1]["lr"],
    }
