"""Rows behind each other instead of padding. B rows, T tokens of the longest, R packed rows of L tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """Where the tokens of a batch lie; attention keeps rows apart by their positions, which start again at 0."""

    ids_RL: Tensor
    position_RL: Tensor
    """int64; every filler token is a row of its own, so nothing attends to it and it attends to nothing else."""
    place_BT: Tensor
    """int64 index into the flattened [R * L] tokens; of padding: 0."""


def pack(ids_BT: Tensor, length_B: Tensor) -> Packed:
    """First fit of the longest rows first, into rows of the longest one's length."""
    capacity = int(length_B.max())
    free: list[int] = []
    row_B, start_B = torch.zeros_like(length_B), torch.zeros_like(length_B)
    order = torch.argsort(length_B, descending=True, stable=True).tolist()
    lengths = length_B.tolist()
    for b in order:
        length = lengths[b]
        row = next((r for r, room in enumerate(free) if room >= length), len(free))
        if row == len(free):
            free.append(capacity)
        row_B[b], start_B[b] = row, capacity - free[row]
        free[row] -= length
    t_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
    real_BT = t_T[None, :] < length_B[:, None]
    place_BT = torch.where(real_BT, (row_B * capacity + start_B)[:, None] + t_T, 0)
    ids_RL = ids_BT.new_zeros(len(free) * capacity)
    position_RL = torch.zeros_like(ids_RL)
    ids_RL[place_BT[real_BT]] = ids_BT[real_BT]
    position_RL[place_BT[real_BT]] = t_T.expand_as(ids_BT)[real_BT]
    shape = (len(free), capacity)
    return Packed(ids_RL.view(shape), position_RL.view(shape), place_BT)
