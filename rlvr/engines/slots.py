"""The embedded engine's cache: each token's keys and values lie at the slot of the token's own position.

So a row's attention reads the same slots in the same order whatever rows are beside it, and what lies behind its last
token has a weight of exactly 0. With sizes that are multiples of the kernels' own (ROWS, SLOTS), a row then has the
same bits in every batch: torch's CPU matrix products give a row among few other bits than the same row among many (few
is less than 4 per thread), and vectorised sums treat the odd elements at the end in another way.
B rows, T new tokens of each, S slots, H heads, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from rlvr.errors import EngineError

ROWS = 16
"""A batch has a multiple of so many rows."""
SLOTS = 32
"""And a cache of so many slots."""
PREFILL_SLOTS = 512
"""While prompts are read: products over more than 192 slots are summed in two halves, so the halves must stay."""


def up_to(count: int, unit: int) -> int:
    """The next multiple of unit, at least one unit."""
    return max(1, -(-count // unit)) * unit


class Slots(Cache):
    """A transformers cache. position_BT must be set before each forward; it grows as far as `size` says."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.kept: list[tuple[Tensor, Tensor]] = []
        """Keys and values [B, H, S, D] of each layer."""
        self.position_BT = torch.zeros(0, 0, dtype=torch.long)
        self.size = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if layer_idx == len(self.kept):
            self.kept.append((key_states.new_zeros(0), value_states.new_zeros(0)))
        kept = self.kept[layer_idx] = (
            self._room(self.kept[layer_idx][0], key_states),
            self._room(self.kept[layer_idx][1], value_states),
        )
        row_B1 = torch.arange(len(key_states))[:, None]
        for slots, new in zip(kept, (key_states, value_states), strict=True):
            slots.transpose(1, 2)[row_B1, self.position_BT] = new.transpose(1, 2)
        return kept

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.size

    def select(self, index_B: Tensor) -> None:
        """Go on with these rows."""
        self.kept = [(keys[index_B], values[index_B]) for keys, values in self.kept]

    def cut(self, size: int) -> None:
        """Drop the slots from `size` on."""
        self.size = size
        self.kept = [(keys[:, :, :size].contiguous(), values[:, :, :size].contiguous()) for keys, values in self.kept]

    def _room(self, slots: Tensor, new: Tensor) -> Tensor:
        if slots.numel() and slots.shape[2] >= self.size:
            return slots
        B, H, _, D = new.shape
        grown = new.new_zeros(B, H, self.size, D)
        if slots.numel():
            grown[:, :, : slots.shape[2]] = slots
        return grown


def mask(config: Any, position_BT: Tensor, size: int, dtype: torch.dtype) -> Any:
    """What a token at a position may see of `size` slots, 0 or -inf [B, 1, T, S], as the model's layers want it.

    EngineError where a layer is of a kind that this cache cannot serve.
    """
    slot_S = torch.arange(size)
    ahead_BTS = slot_S > position_BT[:, :, None]
    window: int | None = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())

    def additive(hidden_BTS: Tensor) -> Tensor:
        return torch.zeros(hidden_BTS.shape, dtype=dtype).masked_fill(hidden_BTS, -torch.inf)[:, None]

    def within() -> Tensor:
        assert window is not None
        return additive(ahead_BTS | (slot_S <= position_BT[:, :, None] - window))

    if not kinds:  # one kind of layer; a window is then every layer's
        return additive(ahead_BTS) if window is None else within()
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise EngineError(f"engine.kind=hf cannot sample from a model with {min(unknown)} layers; use engine.kind=vllm")
    makers = {"full_attention": lambda: additive(ahead_BTS), "sliding_attention": within}
    return {kind: makers[kind]() for kind in kinds}
