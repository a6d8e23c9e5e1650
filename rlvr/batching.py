"""Groups become tensors: right-padded rows of prompt and completion, with the ids as the sampler drew them.

B sequences, T tokens. Column t of every _BT tensor speaks of token ids_BT[:, t]; its log-probability is that of this
token given the ones before it, so column 0 is never trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlvr.types import Group, Part

if TYPE_CHECKING:
    from rlvr.chat import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Of one optimizer step over all its micro-batches and ranks: what its sums are divided by."""

    tokens: int
    """Trained ones."""
    sequences: int
    """With at least one trained token."""
    prompts: int
    """Groups with at least one trained token."""
    tokens_P: Tensor
    """int64, trained tokens of each group."""
    positive_tokens: int = 0
    """Trained tokens of rows that earned more than loss.positive_above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rollouts of one step, or some rows of them."""

    ids_BT: Tensor
    """int64, right-padded with 0."""
    mask_BT: Tensor
    """bool, True where the token is trained; a row may have none, and counts for its group's baseline alone."""
    length_B: Tensor
    """int64, tokens that are no padding."""
    group_B: Tensor
    """int64, number of the row's group."""
    reward_B: Tensor
    """float64"""
    sampler_logp_BT: Tensor
    """float32 nats, the sampler's own; 0 where mask is False (as for the others below)."""
    old_logp_BT: Tensor | None = None
    """Of the policy before the step; None: it is the policy itself (first update on fresh samples)."""
    ref_logp_BT: Tensor | None = None
    adv_BT: Tensor | None = None
    returns_BT: Tensor | None = None
    values_BT: Tensor | None = None
    entropy_BT: Tensor | None = None
    """Of the policy before the step, nats, for advantage.top_entropy."""
    greedy_B: Tensor | None = None
    """float64, what a greedy completion of the row's task earned, for advantage.kind: greedy."""
    part_BK: Tensor | None = None
    """float64, the row's score by each part of the reward, NaN where it has none, for advantage.kind: gdpo."""
    truncated_B: Tensor | None = None
    """float64, what a row that was cut at max_tokens earns beside a critic's value of what would have come (what its
    length costs), NaN of a row that ended; None: every row counts as ended."""
    counts: Counts | None = None
    """Of the optimizer step that the rows belong to; None: they are all of it."""

    @classmethod
    def of(
        cls,
        ids_BT: Tensor,
        mask_BT: Tensor,
        *,
        adv: Tensor,
        old_logp_BT: Tensor | None = None,
        ref_logp_BT: Tensor | None = None,
        sampler_logp_BT: Tensor | None = None,
        reward_B: Tensor | None = None,
        group_B: Tensor | None = None,
        counts: Counts | None = None,
    ) -> Batch:
        """What a loss needs, from another loop's tensors; adv: of each token [B, T] or of each row [B].

        Settings that read what was left out (the sampler's log-probabilities, rewards) answer with an error. Without
        group_B every row is a group of its own.
        """
        if ids_BT.ndim != 2 or mask_BT.shape != ids_BT.shape:
            raise ValueError(
                f"mask_BT must have the shape of ids_BT [B, T], got {tuple(mask_BT.shape)} and {tuple(ids_BT.shape)}"
            )
        B, T = ids_BT.shape
        if adv.shape not in ((B,), (B, T)):
            raise ValueError(f"adv must have shape {(B,)} or {(B, T)}, got {tuple(adv.shape)}")
        for name, value_B in (("reward_B", reward_B), ("group_B", group_B)):
            if value_B is not None and value_B.shape != (B,):
                raise ValueError(f"{name} must have shape {(B,)}, got {tuple(value_B.shape)}")
        if group_B is not None and (group_B.dtype != torch.int64 or bool((group_B < 0).any())):
            raise ValueError(
                f"group_B must be int64 numbers from 0 on, got {group_B.dtype} from {group_B.min().item()}"
            )
        unknown = torch.full((), torch.nan, device=ids_BT.device)
        return cls(
            ids_BT=ids_BT,
            mask_BT=mask_BT.bool(),
            length_B=torch.full((B,), T, device=ids_BT.device),
            group_B=torch.arange(B, device=ids_BT.device) if group_B is None else group_B,
            reward_B=unknown.double().expand(B) if reward_B is None else reward_B,
            sampler_logp_BT=unknown.expand(B, T) if sampler_logp_BT is None else sampler_logp_BT,
            old_logp_BT=old_logp_BT,
            ref_logp_BT=ref_logp_BT,
            adv_BT=adv[:, None].expand(B, T) if adv.ndim == 1 else adv,
            counts=counts,
        )

    @property
    def predicts_BT(self) -> Tensor:
        """before(mask_BT): hidden_ND = hidden_BTD[batch.predicts_BT] are the rows that fused_policy_loss() takes."""
        return before(self.mask_BT)

    @property
    def num_tokens(self) -> int:
        """Trained tokens."""
        return int(self.mask_BT.sum())

    @property
    def num_sequences(self) -> int:
        """Rows with at least one trained token."""
        return int(self.mask_BT.any(dim=1).sum())

    def rows(self, index: Tensor) -> Batch:
        """The rows at `index` (int64 or bool), cut to the longest of them."""
        picked = {name: value[index] for name, value in self.tensors().items()}
        longest = int(picked["length_B"].max()) if len(picked["length_B"]) else 0
        cut = {name: value[:, :longest] for name, value in picked.items() if name.endswith("_BT")}
        return replace(self, **{**picked, **cut})

    def to(self, device: torch.device | str) -> Batch:
        counts = self.counts and replace(self.counts, tokens_P=self.counts.tokens_P.to(device))
        return replace(self, counts=counts, **{name: value.to(device) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Those that are set, by name."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}

    def micro(self, max_tokens: int) -> Iterator[Tensor]:
        """Row indices of micro-batches, see micro_batches()."""
        return micro_batches(self.length_B, max_tokens)


class Rows(NamedTuple):
    """Tokenised texts of one step as tensors."""

    ids_BT: Tensor
    """int64, right-padded with 0."""
    mask_BT: Tensor
    """bool, True where a token is trained."""
    length_B: Tensor
    """int64, tokens that are no padding."""

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Rows:
        """Every token but the first is trained, or those behind the prompt alone."""
        ids_BT, length_B = pad([example.ids for example in examples])
        start_B = torch.tensor([max(1, example.num_prompt) for example in examples])  # nothing predicts the first token
        place_T = torch.arange(ids_BT.shape[1])
        return cls(ids_BT, (place_T >= start_B[:, None]) & (place_T < length_B[:, None]), length_B)

    @property
    def num_tokens(self) -> int:
        """Trained tokens."""
        return int(self.mask_BT.sum())


def pad(rows: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """(ids_BT, right-padded with 0; length_B), both int64, of at least one row of ids: lists or arrays."""
    ids = [torch.as_tensor(row).long() for row in rows]
    return torch.nn.utils.rnn.pad_sequence(ids, batch_first=True), torch.tensor([len(row) for row in ids])


def spread(value_N: Tensor, mask_BT: Tensor) -> Tensor:
    """value_N at the places where mask_BT is True, row after row, 0 elsewhere; carries the gradient."""
    return value_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, value_N)


def before(mask_BT: Tensor) -> Tensor:
    """bool, True where the model's hidden state is what predicts a trained token, one place before it.

    ValueError where the first token of a row is trained: nothing predicts it.
    """
    first_B = mask_BT[:, 0]
    if bool(first_B.any()):
        row = int(first_B.nonzero()[0, 0])
        raise ValueError(f"mask_BT must be False in column 0 (nothing predicts a first token), got True in row {row}")
    return torch.cat([mask_BT[:, 1:], torch.zeros_like(mask_BT[:, :1])], dim=1)


def micro_batches(length_B: Tensor, max_tokens: int) -> Iterator[Tensor]:
    """Row indices of micro-batches, each of at most `max_tokens` padded tokens (but at least one row).

    Rows of like length go together, which pads least; losses are sums, so the split changes no result.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    order_B = torch.argsort(length_B, stable=True)
    sorted_lengths = length_B[order_B].tolist()
    start = 0
    for end in range(1, len(order_B) + 1):
        # sorted: the last row is the longest
        if end == len(order_B) or sorted_lengths[end] * (end + 1 - start) > max_tokens:
            yield order_B[start:end]
            start = end


def make_batch(groups: Sequence[Group], *, filter_truncated: bool = False, parts: Sequence[Part] = ()) -> Batch:
    """One row per judged rollout, in the groups' order. ValueError where there is none.

    A row without trained tokens counts for its siblings' baseline alone: one without a completion, and, with
    `filter_truncated`, one that was cut at max_tokens, https://arxiv.org/abs/2503.14476 section 3.4.
    Groups with a greedy completion give greedy_B (ValueError where one of them has none, or it was not judged), `parts`
    give part_BK.
    """
    rows = [
        (number, group.prompt_ids, rollout)
        for number, group in enumerate(groups)
        for rollout in group.rollouts
        if rollout.reward is not None
    ]
    if not rows:
        raise ValueError("make_batch needs at least one judged rollout, got none")
    length_B = np.array([len(prompt) + len(rollout.completion.token_ids) for _, prompt, rollout in rows])
    shape = (len(rows), int(length_B.max()))
    ids_BT = np.zeros(shape, dtype=np.int64)
    mask_BT = np.zeros(shape, dtype=bool)
    logp_BT = np.zeros(shape, dtype=np.float32)
    for row, (_, prompt, rollout) in enumerate(rows):
        start, end = len(prompt), length_B[row]
        ids_BT[row, :start] = prompt
        ids_BT[row, start:end] = rollout.completion.token_ids
        if not (filter_truncated and rollout.completion.finish == "length"):
            mask_BT[row, start:end] = rollout.completion.trained
        logp_BT[row, start:end] = rollout.completion.logprobs
    logp_BT[~mask_BT] = 0.0
    return Batch(
        ids_BT=torch.from_numpy(ids_BT),
        mask_BT=torch.from_numpy(mask_BT),
        length_B=torch.from_numpy(length_B),
        group_B=torch.tensor([number for number, _, _ in rows]),
        reward_B=torch.tensor([rollout.reward for _, _, rollout in rows], dtype=torch.float64),
        sampler_logp_BT=torch.from_numpy(logp_BT),
        greedy_B=_greedy_B(groups, [number for number, _, _ in rows]),
        part_BK=_part_BK(groups, parts) if parts else None,
    )


def _greedy_B(groups: Sequence[Group], group_B: Sequence[int]) -> Tensor | None:
    """None where no group has a greedy completion."""
    if all(group.greedy is None for group in groups):
        return None
    earned_P = [None if group.greedy is None else group.greedy.reward for group in groups]
    for number, earned in enumerate(earned_P):
        if earned is None:
            what = "has none" if groups[number].greedy is None else "has one without a reward"
            raise ValueError(f"groups must all have a judged greedy completion, or none of them; group {number} {what}")
    return torch.tensor([earned_P[number] for number in group_B], dtype=torch.float64)


def _part_BK(groups: Sequence[Group], parts: Sequence[Part]) -> Tensor:
    """NaN where a part counts as nothing."""
    scores_BK = [
        scores_K
        for group in groups
        for rollout, scores_K in zip(group.rollouts, group.scores_by_part(parts), strict=True)
        if rollout.reward is not None
    ]
    return torch.from_numpy(np.array(scores_BK, dtype=np.float64))  # None becomes NaN
