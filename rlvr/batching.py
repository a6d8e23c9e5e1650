"""Groups become tensors: right-padded rows of prompt and completion, with the ids as the sampler drew them.

B sequences, T tokens. Column t of every _BT tensor speaks of token ids_BT[:, t]; its log-probability is that of this
token given the ones before it, so column 0 is never trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from rlvr.types import Group


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
        picked = {f.name: getattr(self, f.name) for f in fields(self)}
        picked = {name: None if value is None else value[index] for name, value in picked.items()}
        longest = int(picked["length_B"].max()) if len(picked["length_B"]) else 0
        cut = {name: v[:, :longest] for name, v in picked.items() if name.endswith("_BT") and v is not None}
        return Batch(**{**picked, **cut})

    def to(self, device: torch.device | str) -> Batch:
        return replace(self, **{name: value.to(device) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Those that are set, by name."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in named.items() if value is not None}

    def micro(self, max_tokens: int) -> Iterator[Tensor]:
        """Row indices of micro-batches, see micro_batches()."""
        return micro_batches(self.length_B, max_tokens)


def micro_batches(length_B: Tensor, max_tokens: int) -> Iterator[Tensor]:
    """Row indices of micro-batches, each of at most `max_tokens` padded tokens (but at least one row).

    Rows of like length go together, which pads least; losses are sums, so the split changes no result.
    """
    order_B = torch.argsort(length_B, stable=True)
    sorted_lengths = length_B[order_B].tolist()
    start = 0
    for end in range(1, len(order_B) + 1):
        # sorted: the last row is the longest
        if end == len(order_B) or sorted_lengths[end] * (end + 1 - start) > max_tokens:
            yield order_B[start:end]
            start = end


def make_batch(groups: Sequence[Group], *, filter_truncated: bool = False) -> Batch:
    """One row per judged rollout, in the groups' order. ValueError where there is none.

    A row without trained tokens counts for its siblings' baseline alone: one without a completion, and, with
    `filter_truncated`, one that was cut at max_tokens, https://arxiv.org/abs/2503.14476 section 3.4.
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
    )
