"""What one step of direct preference learning looks at: comparisons and ratings as ids and tensors.

B completions, T tokens, M mismatched completions, U units of the loss (pairs, or completions for themselves), W
completions of a unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlvr.batching import Rows
from rlvr.chat import Example


@dataclass(frozen=True, slots=True)
class Unit:
    """A comparison, or with one example a rating."""

    id: str
    examples: tuple[Example, ...]
    """chosen and rejected, or the one that is rated."""
    probability: float
    """That the first is preferred, or good."""
    true_probability: float | None = None


class Pairs(NamedTuple):
    """Comparisons of one step as tensors: the chosen completions of all pairs, behind them the rejected ones."""

    ids_BT: Tensor
    """int64, right-padded with 0."""
    mask_BT: Tensor
    """bool, True where a token is the completion's."""
    length_B: Tensor
    """int64, tokens that are no padding."""
    probability_U: Tensor
    """float64"""

    @property
    def num_tokens(self) -> int:
        return int(self.mask_BT.sum())

    @property
    def rows_UW(self) -> Tensor:
        """int64, the rows of each pair."""
        return torch.arange(len(self.ids_BT)).view(2, -1).t()


class Singles(NamedTuple):
    """Completions of one step that are each judged for themselves, and M that stand behind another one's prompt."""

    ids_BT: Tensor
    mask_BT: Tensor
    length_B: Tensor
    label_B: Tensor
    """float64, probability that it is good."""
    mismatched_ids_MT: Tensor
    mismatched_mask_MT: Tensor
    mismatched_length_M: Tensor

    @property
    def num_tokens(self) -> int:
        return int(self.mask_BT.sum())

    @property
    def rows_UW(self) -> Tensor:
        """int64, the row of each unit."""
        return torch.arange(len(self.ids_BT))[:, None]


def to_pairs(units: Sequence[Unit]) -> Pairs:
    """Comparisons as they are."""
    return Pairs(*Rows.of(_examples(units)), _probability_U(units))


def to_singles(units: Sequence[Unit], max_length: int | None) -> Singles:
    """Ratings, or both completions of comparisons; max_length: most tokens of a mismatched row."""
    examples, probability_U = _examples(units), _probability_U(units)
    label_B = torch.cat([probability_U, 1 - probability_U]) if len(units[0].examples) == 2 else probability_U
    mismatched = _mismatched(examples, max_length)
    none = (torch.zeros(0, 1, dtype=torch.int64), torch.zeros(0, 1, dtype=torch.bool), torch.zeros(0).long())
    return Singles(*Rows.of(examples), label_B, *(Rows.of(mismatched) if mismatched else none))


def _examples(units: Sequence[Unit]) -> list[Example]:
    """The first of all units, behind them the second ones."""
    return [unit.examples[w] for w in range(len(units[0].examples)) for unit in units]


def _probability_U(units: Sequence[Unit]) -> Tensor:
    return torch.tensor([unit.probability for unit in units], dtype=torch.float64)


def _mismatched(examples: Sequence[Example], max_length: int | None) -> list[Example]:
    """Each prompt with the nearest completion before it (in a ring) of another prompt, cut at max_length; none where
    all prompts are the same."""
    prompts = [example.ids[: example.num_prompt] for example in examples]
    same = [np.array_equal(prompt, prompts[i - 1]) for i, prompt in enumerate(prompts)]
    if all(same):
        return []
    nearest = next(i for i, is_same in enumerate(same) if not is_same) - 1
    found: list[Example] = [examples[0]] * len(examples)
    first = nearest + 1  # from here on round the ring
    for i in (k % len(examples) for k in range(first, first + len(examples))):
        nearest = nearest if same[i] else i - 1
        ids = np.concatenate([prompts[i], examples[nearest].ids[examples[nearest].num_prompt :]])
        found[i] = Example(ids[:max_length], len(prompts[i]))
    return found
