"""What one step learns from its batch. Every rank runs this alike, each on its share of the rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlvr import advantages, lora, parallel, policy
from rlvr.batching import Batch, Rows
from rlvr.errors import NonFiniteError
from rlvr.failpoints import failpoint
from rlvr.loops import critic as critics
from rlvr.loops import setup, sft
from rlvr.loss_settings import Kl
from rlvr.losses import carries_gradient, count, divisor, flatten
from rlvr.parity import Agreement
from rlvr.recipe import RlRecipe
from rlvr.rewards.base import parts_of
from rlvr.seeds import permutation
from rlvr.trained import Trained


@dataclass(slots=True)
class Learner:
    """The policy with what its updates need."""

    recipe: RlRecipe
    trained: Trained
    reference: Any = None
    """A frozen copy, for a full-parameter policy that is held near to it, or the model that reference.path names."""
    critic: critics.Critic | None = None
    kl: Kl = field(init=False)
    """The recipe's, with the coefficient of the step under way where it is adaptive."""

    def __post_init__(self) -> None:
        self.kl = self.recipe.kl

    @property
    def everything(self) -> list[Trained]:
        """What has weights that move: the policy, and the critic where there is one."""
        return [self.trained, *([] if self.critic is None else [self.critic.trained])]

    def is_warming_up(self, step: int) -> bool:
        """Whether the critic alone learns in this step."""
        return self.critic is not None and step <= self.critic.settings.warmup_steps

    def clear(self) -> None:
        """Forget all gradients."""
        for trained in self.everything:
            trained.clear()

    def spoil(self) -> None:
        """Make the gradient NaN of all that this update moves."""
        self.trained.spoil()
        if self.critic is not None and self.critic.is_shared:
            self.critic.trained.spoil()


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of a step."""

    metrics: dict[str, float]
    adv_B: Tensor
    """float32 [B], of each row's first token that has one."""
    agreement: Agreement
    """Of the sampler with the first forward; beyond parity.tolerance nothing is learnt, but for on_mismatch: warn."""


def learn(learner: Learner, batch: Batch, step: int, ptx: Sequence[Rows] = ()) -> Learned:
    """The step's optimizer updates on its judged rollouts; ptx: demonstrations of each, where the recipe has some."""
    recipe, trained, critic = learner.recipe, learner.trained, learner.critic
    batch = _with_logprobs(learner, batch.to(setup.device()))
    adv_BT, returns_BT, batch = _advantages(learner, batch)
    batch = replace(batch, adv_BT=adv_BT, returns_BT=returns_BT)
    adv_B = adv_BT.gather(1, (adv_BT != 0).float().argmax(dim=1, keepdim=True))[:, 0].cpu()
    foretold = {} if critic is None else critics.foretold(batch, recipe.advantage.gamma, learner.kl)
    agreement = Agreement()
    totals: defaultdict[str, float] = defaultdict(float)
    updates: list[dict[str, float]] = []
    critic_updates: list[dict[str, float]] = []
    for number, minibatch in enumerate(_minibatches(batch, recipe, step)):
        share = None if learner.is_warming_up(step) else _share(learner, minibatch, ptx[number] if ptx else None)
        if share is None:
            updates.append(trained.pass_over())
        else:
            sums, compared = trained.in_memory(partial(_gradient, learner, share), share.longest)
            _add(totals, parallel.add(sums))
            if not any(updates):  # no weight has moved yet
                agreement = compared.over_ranks()
                if recipe.parity.on_mismatch == "stop" and not agreement.is_within(recipe.parity.tolerance):
                    learner.clear()  # before anything is learnt from completions of another policy
                    return Learned({}, adv_B, agreement)
            updates.append(trained.step())
            failpoint("update")
        if critic is not None and critic.is_shared and share is not None and len(share.useful.length_B):
            critic_updates.append(critic.trained.step())  # whose gradient came with the policy's
        elif critic is not None:
            sums, moved = critics.update(critic, trained, minibatch)
            _add(totals, sums)
            critic_updates.append(moved)
    metrics = _step_metrics(totals, updates) | agreement.metrics()
    if learner.kl.in_reward and batch.num_tokens and "skipped_updates" not in metrics:
        metrics["kl"] = advantages.mean_kl(batch, learner.kl)
    if batch.entropy_BT is not None and "entropy" in metrics:  # of all trained tokens, not of those with a gradient
        metrics["entropy"] = float(batch.entropy_BT[batch.mask_BT].mean())
    if critic is not None:
        metrics |= critics.metrics(totals, critic_updates, foretold)
    return Learned(metrics, adv_B, agreement)


def _advantages(learner: Learner, batch: Batch) -> tuple[Tensor, Tensor | None, Batch]:
    """(adv_BT, returns_BT, the batch with values_BT where there is a critic).

    NaN where a number is not finite: those of the whole step are compared, so none of its updates is done.
    """
    recipe, critic = learner.recipe, learner.critic
    weights = [part.weight for part in parts_of(recipe.rewards, recipe.overlong)]
    scored = batch
    try:
        if critic is not None:
            after_BT = critics.values_after(critic, learner.trained, batch)
            batch = replace(batch, values_BT=critics.before_tokens(after_BT))
            scored = critics.bootstrapped(batch, after_BT, recipe.advantage.gamma)
        return *advantages.compute(scored, recipe.advantage, learner.kl, weights), batch
    except NonFiniteError:
        nan_BT = torch.where(batch.mask_BT, torch.nan, 0.0)
        return nan_BT, None if critic is None else nan_BT, batch


def _with_logprobs(learner: Learner, batch: Batch) -> Batch:
    """The batch with old_logp_BT, entropy_BT and ref_logp_BT, where the settings need them."""
    recipe, model = learner.recipe, learner.trained.model
    several = recipe.updates * recipe.epochs > 1
    reads_divergence = learner.kl.in_reward or recipe.advantage.reads_reference
    reads_old = several and (recipe.loss.anchor == "old" or reads_divergence)
    if reads_old or recipe.advantage.top_entropy < 1:
        old_logp_BT, entropy_BT = _scores(learner, model, batch)
        batch = replace(batch, entropy_BT=entropy_BT, old_logp_BT=old_logp_BT if reads_old else None)
    if recipe.reads_reference:
        if learner.reference is None:  # a policy with adapters, whose start is itself without them
            with lora.off(model):
                batch = replace(batch, ref_logp_BT=_scores(learner, model, batch)[0])
        else:
            batch = replace(batch, ref_logp_BT=_scores(learner, learner.reference, batch)[0])
    return batch


@torch.no_grad()
def _scores(learner: Learner, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """(logp_BT, entropy_BT) of the whole batch, each rank having done its share, without gradient.

    NaN where a number is not finite: the updates that read it are skipped, on every rank alike.
    """
    own_B = parallel.share_B(batch.length_B)

    def compute() -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(model.dtype, torch.float32)
        logp_BT = torch.zeros_like(batch.sampler_logp_BT, dtype=dtype)
        entropy_BT = torch.zeros_like(logp_BT)
        for index_B, _ in _micro(learner, batch.rows(own_B)):
            for rows_B, part_BT, part_entropy_BT in _scored(learner, model, batch, own_B[index_B]):
                logp_BT[rows_B, : part_BT.shape[1]] = part_BT.to(dtype)
                entropy_BT[rows_B, : part_BT.shape[1]] = part_entropy_BT.to(dtype)
        return logp_BT, entropy_BT

    logp_BT, entropy_BT = learner.trained.in_memory(compute, int(batch.length_B.max()))
    return parallel.add_rows(logp_BT), parallel.add_rows(entropy_BT)


def _scored(learner: Learner, model: Any, batch: Batch, index_B: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(rows, logp_BT, entropy_BT) of a micro-batch; row by row where one of them has a number that is not finite, so
    that which are NaN does not depend on the split."""
    micro = batch.rows(index_B)
    try:
        logp_BT, entropy_BT = policy.logprobs(
            model,
            micro.ids_BT,
            micro.mask_BT,
            learner.recipe.sample.temperature,
            length_B=micro.length_B if learner.trained.packs else None,
            fused=learner.recipe.loss.fused == "auto",
        )
    except NonFiniteError:
        if len(index_B) > 1:
            for row_B in index_B.split(1):
                yield from _scored(learner, model, batch, row_B)
            return
        logp_BT = entropy_BT = torch.where(micro.mask_BT, torch.nan, 0.0)
    yield index_B, logp_BT, entropy_BT


@dataclass(frozen=True, slots=True)
class _Share:
    """What one update of the policy learns from."""

    useful: Batch
    """Those of its rows that have a gradient."""
    by: float
    """What their loss is divided by."""
    num_tokens: int
    """Trained ones of the whole update."""
    ptx: Rows | None

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        rows = [self.useful.length_B, *([] if self.ptx is None else [self.ptx.length_B])]
        return max(int(length_B.max()) for length_B in rows if len(length_B))


def _share(learner: Learner, minibatch: Batch, ptx: Rows | None) -> _Share | None:
    """None where nothing has a gradient."""
    recipe = learner.recipe
    counts = count(minibatch, recipe.loss)
    useful = _useful(replace(minibatch, counts=counts), learner)
    if not len(useful.length_B):
        return None if ptx is None else _Share(useful, 1.0, 0, ptx)
    return _Share(useful, divisor(counts, recipe.loss, recipe.sample.max_tokens), counts.tokens, ptx)


def _useful(batch: Batch, learner: Learner) -> Batch:
    """The rows whose loss has a gradient: the others cost no forward. All rows where a number is not finite."""
    if not batch.mask_BT.any():
        return batch.rows(torch.zeros_like(batch.group_B, dtype=torch.bool))
    if learner.critic is not None and learner.critic.is_shared:  # every value has one
        return batch.rows(batch.mask_BT.any(dim=1))
    try:
        tokens = flatten(batch, learner.recipe.loss, learner.kl)
    except NonFiniteError:
        return batch
    return batch.rows(tokens.row_N[carries_gradient(tokens, learner.recipe.loss, learner.kl)].unique())


def _gradient(learner: Learner, share: _Share) -> tuple[dict[str, float], Agreement]:
    """Add this rank's share of the gradient. Its sums over tokens, and the sampler's agreement with this forward."""
    recipe, trained, critic, by = learner.recipe, learner.trained, learner.critic, share.by
    shared = critic if critic is not None and critic.is_shared else None
    if shared is not None:
        shared.trained.clear()
    totals: defaultdict[str, float] = defaultdict(float)
    agreement = Agreement()
    for _, micro in _micro(learner, share.useful.rows(parallel.share_B(share.useful.length_B))):
        failpoint("micro")
        try:
            sums = policy.policy_loss(
                trained.model,
                micro,
                recipe.loss,
                learner.kl,
                recipe.sample.temperature,
                packs=trained.packs,
                expected_grad=1 / by,
                also=None if shared is None else partial(critics.term, shared, micro, by, share.num_tokens, totals),
            )
        except NonFiniteError:
            learner.spoil()
            continue
        assert sums.logp_BT is not None and sums.scored_BT is not None
        agreement.add(sums.logp_BT, replace(micro, mask_BT=sums.scored_BT))
        loss = trained.backward(sums, by)
        if not math.isfinite(loss):
            learner.spoil()
        totals["loss"] += loss
        totals["tokens"] += sums.scored
        for name, value in sums.metrics.items():
            totals[name] += value
    if share.ptx is not None:
        assert recipe.ptx is not None
        num_tokens = share.ptx.num_tokens
        learnt = sft.gradient(trained, share.ptx, num_tokens / recipe.ptx.coef, recipe.loss.fused)
        totals["loss"] += learnt.get("loss", 0.0)
        totals["ptx/loss"] += learnt.get("loss", 0.0) / recipe.ptx.coef
        totals["ptx/mean_token_accuracy"] += learnt.get("mean_token_accuracy", 0.0) / num_tokens
    return totals, agreement


def _micro(learner: Learner, batch: Batch) -> Iterator[tuple[Tensor, Batch]]:
    """(rows, micro-batch) of at most trained.micro_tokens tokens each."""
    for index_B in batch.micro(learner.trained.micro_tokens):
        yield index_B, batch.rows(index_B)


def _minibatches(batch: Batch, recipe: RlRecipe, step: int) -> Iterator[Batch]:
    """`updates` equal shares of the groups, in each of `epochs` passes, in an order that the step fixes."""
    num_groups = int(batch.group_B.max()) + 1
    for epoch in range(recipe.epochs):
        order = permutation(num_groups, recipe.seed, "minibatch", step, epoch)
        for update in range(recipe.updates):
            share = torch.tensor(order[update :: recipe.updates], device=batch.group_B.device)
            yield batch.rows(torch.isin(batch.group_B, share))


def _add(totals: dict[str, float], sums: Mapping[str, float]) -> None:
    for name, value in sums.items():
        totals[name] += value


def _step_metrics(totals: Mapping[str, float], updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums become means over the scored tokens: those that carry a gradient, plainly all of their rows."""
    ptx = {name: value for name, value in totals.items() if name.startswith("ptx/")}
    totals = {name: value for name, value in totals.items() if not name.startswith(("ptx/", "critic/"))}
    skipped = sum(update.get("skipped_updates", 0.0) for update in updates)
    done = [update for update in updates if "grad_norm" in update]
    metrics = {"skipped_updates": skipped} if skipped else {}
    if not done:
        return metrics if skipped else {"loss": 0.0, "grad_norm": 0.0}
    if not skipped:  # what was skipped has no finite mean
        tokens = totals.get("tokens", 0.0)
        means = {name: value / tokens for name, value in totals.items() if name not in ("loss", "tokens")}
        metrics |= {"loss": totals["loss"] / len(done), "trained_tokens": tokens, **means}
        metrics |= {name: value / len(done) for name, value in ptx.items()}
    return metrics | {
        "grad_norm": sum(update["grad_norm"] for update in done) / len(done),
        "lr": done[-1]["lr"],
    }
