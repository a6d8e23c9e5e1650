"""The critic of a run: what it foretells before a step, what it learns in an update, and how well it foretells.

B sequences, T tokens, N trained tokens, D hidden. V after a token stands where that token stands (after_BT); the value
that a token's advantage is measured from is the one before it was written (values_BT), a place further left.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlvr import advantages, heads, lora, parallel, policy
from rlvr.batching import Batch, spread
from rlvr.errors import NonFiniteError
from rlvr.failpoints import failpoint
from rlvr.loops import setup
from rlvr.loss_settings import Advantage, Kl
from rlvr.losses import Sums, value_loss
from rlvr.model_settings import Critic as CriticSettings
from rlvr.recipe import Model, RlRecipe
from rlvr.rewards.base import earned
from rlvr.seeds import seed_for
from rlvr.trained import Trained
from rlvr.types import Group

PREFIX = "critic."
"""Of its tensors in a checkpoint."""


@dataclass(frozen=True, slots=True)
class Critic:
    """A model of its own, or one output more on the policy's hidden states."""

    settings: CriticSettings
    trained: Trained
    """Of kind own a scorer (heads.py), of shared a linear layer [D] -> [1]."""
    tokenizer: Any = None
    """Of kind own, to be saved with it."""

    @property
    def is_shared(self) -> bool:
        return self.settings.kind == "shared"

    def body(self, trained: Trained) -> Trained:
        """Whose layers make the values; trained: the policy (as below)."""
        return trained if self.is_shared else self.trained

    def head(self, hidden: Tensor) -> Tensor:
        """[...]: V of hidden states [..., D], at least float32; of kind shared."""
        value = self.trained.model(hidden)[..., 0]
        return value.to(torch.promote_types(value.dtype, torch.float32))


def load(recipe: RlRecipe, model: Any, tokenizer: Any) -> Critic | None:
    """The recipe's critic before the first step; model, tokenizer: the policy's. DataError where it cannot be used."""
    settings = recipe.critic
    if settings.kind == "none":
        return None
    total_updates = recipe.steps * recipe.updates * recipe.epochs
    if settings.kind == "shared":
        head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1, device=model.device, dtype=model.dtype)
        for parameter in head.parameters():  # no opinion yet, and nothing that it would push the layers to
            torch.nn.init.zeros_(parameter)
        return Critic(settings, Trained(head, settings.optim, total_updates, prefix=PREFIX))
    setting = "critic.path" if settings.path else "model.path"
    path = Model(path=settings.path or recipe.model.path, made_by=settings.made_by)
    scorer, own_tokenizer = heads.load_scorer(path, seed=seed_for(recipe.seed, "critic"), setting=setting)
    policy.check_same_tokens(tokenizer, own_tokenizer, f"{setting} {path.path}")
    heads.head(scorer)  # which says what has none
    heads.reward_weights(scorer)
    if settings.lora is not None:
        scorer = lora.attach(scorer, settings.lora, seed_for(recipe.seed, "critic.lora"), is_scorer=True)
    if recipe.gradient_checkpointing:
        policy.keep_few_activations(scorer)
    scorer = scorer.to(setup.device())
    return Critic(settings, Trained(scorer, settings.optim, total_updates, prefix=PREFIX), own_tokenizer)


def save(critic: Critic, folder: Any) -> None:
    """Of kind own a plain Hugging Face classifier, merged where it had adapters: it is not trained again."""
    if critic.is_shared:
        return
    model = critic.trained.model
    policy.save_model(lora.merged(model) if lora.is_attached(model) else model, critic.tokenizer, folder)


# --- before the step -------------------------------------------------------------------------------------------------


def with_truncated(batch: Batch, groups: Sequence[Group], settings: CriticSettings) -> Batch:
    """The batch of these groups with truncated_B, where truncated completions are bootstrapped."""
    if settings.kind == "none" or settings.truncated == "terminal":
        return batch

    truncated = [
        reward - before if rollout.completion.finish == "length" else math.nan
        for group in groups
        for rollout in group.rollouts
        if (reward := rollout.reward) is not None and (before := earned(rollout)) is not None
    ]
    return replace(batch, truncated_B=torch.tensor(truncated, dtype=torch.float64))


@torch.no_grad()
def values_after(critic: Critic, trained: Trained, batch: Batch) -> Tensor:
    """after_BT, no gradient: V after each token, 0 in the padding; each rank has done its share of the rows."""
    body = critic.body(trained)
    own_B = parallel.share_B(batch.length_B)
    own = batch.rows(own_B)

    def compute() -> Tensor:
        dtype = torch.promote_types(body.model.dtype, torch.float32)
        after_BT = torch.zeros(batch.ids_BT.shape, dtype=dtype, device=batch.ids_BT.device)
        for index_B in own.micro(body.micro_tokens):
            part_BT = _after(critic, trained, own.rows(index_B))
            after_BT[own_B[index_B], : part_BT.shape[1]] = part_BT.to(dtype)
        return after_BT

    return parallel.add_rows(body.in_memory(compute, int(batch.length_B.max())))


def before_tokens(after_BT: Tensor) -> Tensor:
    """values_BT: V before each token was written; 0 in column 0, which is never trained."""
    return torch.cat([torch.zeros_like(after_BT[:, :1]), after_BT[:, :-1]], dim=1)


def bootstrapped(batch: Batch, after_BT: Tensor, gamma: float) -> Batch:
    """The batch in which a truncated row earns its penalties + gamma * V after its last token, and no verdict's reward.

    As a reward of the last token this is what the value of a next state gives there, whatever lam is,
    https://arxiv.org/abs/1712.00378 section 3. NonFiniteError where that value is not finite.
    """
    if batch.truncated_B is None:
        return batch
    final_B = after_BT.gather(1, (batch.length_B - 1)[:, None])[:, 0].double()
    is_truncated_B = ~batch.truncated_B.isnan()
    if not bool(final_B[is_truncated_B].isfinite().all()):
        raise NonFiniteError("the critic's value of a truncated completion must be finite, got NaN or infinity")
    return replace(batch, reward_B=torch.where(is_truncated_B, batch.truncated_B + gamma * final_B, batch.reward_B))


def _after(critic: Critic, trained: Trained, micro: Batch) -> Tensor:
    """after_BT of a micro-batch."""
    if not critic.is_shared:
        return heads.values(critic.trained.model, micro.ids_BT, micro.length_B)
    real_BT = torch.arange(micro.ids_BT.shape[1], device=micro.ids_BT.device) < micro.length_B[:, None]
    return spread(critic.head(_hidden_ND(trained, micro, real_BT)), real_BT)


def _hidden_ND(trained: Trained, micro: Batch, wanted_BT: Tensor) -> Tensor:
    length_B = micro.length_B if trained.packs else None
    return policy.hidden_states(trained.model, micro.ids_BT, wanted_BT, length_B)


# --- updates ---------------------------------------------------------------------------------------------------------


def update(critic: Critic, trained: Trained, minibatch: Batch) -> tuple[dict[str, float], dict[str, float]]:
    """One optimizer step of the critic alone: (sums over the trained tokens of all ranks, what the step says).

    Of kind shared the output alone learns, and the policy's layers stay.
    """
    useful = minibatch.rows(minibatch.mask_BT.any(dim=1))
    if not len(useful.length_B):
        return {}, critic.trained.pass_over()
    body = critic.body(trained)
    sums = body.in_memory(partial(_gradient, critic, trained, useful), int(useful.length_B.max()))
    return parallel.add(sums), critic.trained.step()


def _gradient(critic: Critic, trained: Trained, useful: Batch) -> dict[str, float]:
    """Add this rank's share of the gradient of the mean value loss over all trained tokens of `useful`."""
    critic.trained.clear()
    num_tokens = useful.num_tokens
    totals: defaultdict[str, float] = defaultdict(float)
    own = useful.rows(parallel.share_B(useful.length_B))
    for index_B in own.micro(critic.body(trained).micro_tokens):
        failpoint("micro")
        micro = own.rows(index_B)
        if critic.is_shared:
            with torch.no_grad():
                hidden_ND = _hidden_ND(trained, micro, micro.predicts_BT)
            values_BT = spread(critic.head(hidden_ND), micro.mask_BT)
        else:
            values_BT = before_tokens(_after(critic, trained, micro))
        try:
            sums = value_loss(values_BT, micro, critic.settings.value_clip)
        except NonFiniteError:
            critic.trained.spoil()
            continue
        critic.trained.backward(sums, num_tokens)
        _add(totals, sums)
    return totals


def term(
    critic: Critic, micro: Batch, by: float, num_tokens: int, totals: dict[str, float], hidden_ND: Tensor
) -> Tensor:
    """Of kind shared: what the policy's loss gets more, before it is divided by `by`: coef * the value loss of the
    micro-batch, as a share of the mean over the update's num_tokens. Its sums are added to totals. NonFiniteError."""
    sums = value_loss(spread(critic.head(hidden_ND), micro.mask_BT), micro, critic.settings.value_clip)
    _add(totals, sums)
    return critic.settings.coef * sums.loss * (by / num_tokens)


def _add(totals: dict[str, float], sums: Sums) -> None:
    for name, value in (("loss", float(sums.loss.detach())), ("tokens", sums.tokens), *sums.metrics.items()):
        totals[f"critic/{name}"] += value


# --- figures ---------------------------------------------------------------------------------------------------------


def metrics(
    totals: Mapping[str, float], steps: Sequence[Mapping[str, float]], before: Mapping[str, float]
) -> dict[str, float]:
    """Of a step's updates, with TRL's and verl's names; before: foretold()."""
    skipped = sum(step.get("skipped_updates", 0.0) for step in steps)
    done = [step for step in steps if "grad_norm" in step]
    found = {"critic/skipped_updates": skipped} if skipped else {}
    if done and not skipped:  # what was skipped has no finite mean
        found["loss/value_avg"] = totals["critic/loss"] / totals["critic/tokens"]
        if "critic/vf_clip_ratio" in totals:
            found["val/clipfrac_avg"] = totals["critic/vf_clip_ratio"] / totals["critic/tokens"]
    if done:
        found["critic/grad_norm"] = sum(step["grad_norm"] for step in done) / len(done)
        found["critic/lr"] = done[-1]["lr"]
    return {**before, **found}


def foretold(batch: Batch, gamma: float, kl: Kl) -> dict[str, float]:
    """How well batch.values_BT, those before the step, foretold batch.returns_BT, which the critic learns, and the
    rewards that really came: without any value in them, of completions that ended.

    Nothing where a number is not finite. Figures that have no meaning (of equal returns) are left out.
    """
    assert batch.values_BT is not None
    mask_BT = batch.mask_BT
    assert batch.returns_BT is not None
    value_N, return_N = batch.values_BT[mask_BT].double(), batch.returns_BT[mask_BT].double()
    if not len(value_N) or not bool((value_N + return_N).isfinite().all()):
        return {}
    found = {"critic/values/mean": float(value_N.mean()), "critic/returns/mean": float(return_N.mean())}
    explained = {"critic/vf_explained_var": explained_variance(value_N, return_N)}
    ended_BT = mask_BT
    if batch.truncated_B is not None:
        is_truncated_B = ~batch.truncated_B.isnan()
        found["critic/bootstrapped"] = float(is_truncated_B.double().mean())
        ended_BT = mask_BT & ~is_truncated_B[:, None]
    _, came_BT = advantages.compute(batch, Advantage(kind="gae", gamma=gamma), kl)  # lam 1: the values cancel out
    assert came_BT is not None
    explained["critic/vf_explained_var_mc"] = explained_variance(
        batch.values_BT[ended_BT].double(), came_BT[ended_BT].double()
    )
    return found | {name: value for name, value in explained.items() if value is not None}


def warnings_in_words(metrics: Mapping[str, float]) -> list[str]:
    """What is wrong with a step, as progress.warnings_in_words()."""
    if metrics.get("critic/bootstrapped", 0.0) < 1:
        return []
    return [
        "no completion ended by itself, and of one that was cut the critic's value is learnt in place of its reward, "
        "so this step learnt nothing of the rewards: raise sample.max_tokens, or set critic.truncated=terminal "
        "(critic/bootstrapped)"
    ]


def explained_variance(value_N: Tensor, return_N: Tensor) -> float | None:
    """1 - Var(G - V) / Var(G); None where all returns are equal, or there are none."""
    if not len(return_N) or bool(return_N.min() == return_N.max()):
        return None
    return float(1 - (return_N - value_N).var() / return_N.var())
