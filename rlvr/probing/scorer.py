"""A reward model or classifier that answers for itself: texts in, the numbers out that a run would be paid with.

B rows, T tokens, K outputs of a model; rewards_of(): K models, N texts.
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvr import chat, recipe
from rlvr.errors import DataError, NonFiniteError
from rlvr.types import Prompt

Text = tuple[Prompt, str]
"""(prompt, completion)"""


@dataclass(slots=True)
class Scorer:
    """A loaded model and how its outputs become one number. Made by load()."""

    path: str
    model: Any
    tokenizer: Any
    reader: Any
    """score_BK -> number_B, as rewards.model.reader() has it."""
    context: int | None
    """Longest row in tokens."""
    micro_tokens: int = 8192

    def rewards(self, texts: Sequence[Text]) -> list[float | None]:
        """The number of each; None of a row that is longer than the model takes. DataError: a prompt that its chat
        template cannot render."""
        return self.of_ids([self.ids(*text) for text in texts])

    def ids(self, prompt: Prompt, completion: str) -> list[int]:
        """Tokens of prompt and completion with the end token, as the model was trained on them."""
        return chat.encode_completion(self.tokenizer, prompt, completion).ids.tolist()

    def tells_apart(self, row: Sequence[int], other: Sequence[int]) -> bool:
        """Whether two versions of a text are two to the model: not where a word of one alone is unknown to it."""
        unknown = self.tokenizer.unk_token_id
        return list(row) != list(other) and (unknown is None or list(row).count(unknown) == list(other).count(unknown))

    def of_ids(self, rows: Sequence[Sequence[int]]) -> list[float | None]:
        """The number of each row of tokens; equal rows pass the model once."""
        import torch

        from rlvr import heads
        from rlvr.batching import micro_batches, pad

        keys = [tuple(row) for row in rows]
        fits = sorted({key for key in keys if key and (self.context is None or len(key) <= self.context)})
        known: dict[tuple[int, ...], float] = {}
        length_B = torch.tensor([len(key) for key in fits], dtype=torch.int64)
        for index_B in micro_batches(length_B, self.micro_tokens) if fits else ():
            chosen = [fits[k] for k in index_B.tolist()]
            ids_BT, own_B = (x.to(self.model.device) for x in pad([list(key) for key in chosen]))
            with torch.inference_mode():
                number_B = self.reader(heads.scores(self.model, ids_BT, own_B).double().cpu())
            known |= dict(zip(chosen, number_B.tolist(), strict=True))
        return [known.get(key) for key in keys]


def load(
    path: str, *, label: str | None = None, attributes: Mapping[str, float] | None = None, setting: str = "REWARD_MODEL"
) -> Scorer:
    """A folder that `rlvr reward-model` saved, or any ..ForSequenceClassification.

    label: the output that counts (of a classifier its log odds, of a group's output that number), attributes: a
    weighted sum of several; neither: the only output, or as the reward model was trained. DataError in one line where
    that cannot be had.
    """
    if os.path.lexists(path) and not os.path.isdir(path):
        raise DataError(f"{setting}: {path} is no folder of a model")
    import torch

    from rlvr import heads, policy
    from rlvr.rewards.model import reader

    model, tokenizer = heads.load_scorer(recipe.Model(path=path), seed=0, new_head=False, setting=setting)
    which: dict[str, Any] = {"group" if label in heads.groups(model) else "label": label}
    settings = recipe.ModelReward(kind="model", path=path, attributes=dict(attributes or {}), **which)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).requires_grad_(False)
    return Scorer(path, model, tokenizer, reader(model, settings, f"{setting} {path}"), policy.context_length(model))


def rewards_of(paths: Sequence[str], texts: Sequence[Text]) -> NDArray[np.float64]:
    """reward_KN of N texts by K models, one after the other in memory; NaN where a text is too long for one.

    DataError where a model cannot be used, NonFiniteError where it gives no number.
    """
    reward_KN = np.full((len(paths), len(texts)), np.nan)
    for reward_N, path in zip(reward_KN, paths, strict=True):
        for k, reward in enumerate(load(path, setting="reward model").rewards(texts)):
            if reward is not None and not math.isfinite(reward):
                raise NonFiniteError(f"reward model {path} gives {reward}; train it again with a lower optim.lr")
            reward_N[k] = np.nan if reward is None else reward
        gc.collect()
    return reward_KN


def needed(rewards: Sequence[float | None], what: str) -> list[float]:
    """All of them. DataError where one is missing: a row that is too long."""
    if None in rewards:
        raise DataError(f"{what}: longer than the model takes; shorten it")
    return [reward for reward in rewards if reward is not None]
