"""What reward models think of texts: K models, N completions."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlvr.errors import NonFiniteError
from rlvr.types import Prompt, Rating

_TOKENS = 8192
"""Per forward."""


def score(paths: Sequence[Path], prompts: Sequence[Prompt], texts: Sequence[str]) -> NDArray[np.float64]:
    """reward_KN of completions `texts` of `prompts`, as the models were trained; NaN where one is too long.

    DataError where a model cannot be used, NonFiniteError where it gives no number.
    """
    import torch

    from rlvr import batching, chat, heads, policy
    from rlvr.loops import setup
    from rlvr.recipe import Model

    rows = [
        Rating(id=str(k), prompt=prompt, completion=text, label=True)
        for k, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]
    found: list[NDArray[np.float64]] = []
    for path in paths:
        model, tokenizer = heads.load_scorer(Model(path=str(path)), seed=0, new_head=False, setting="reward model")
        model = model.to(setup.device())
        context = policy.context_length(model)
        encoded = chat.encode_rows(tokenizer, rows, max_length=context, on_bad_row="skip") if rows else []
        examples = [example for _, own in encoded for example in own]
        place_B = [int(row.id) for row, _ in encoded]
        length_B = torch.tensor([len(example.ids) for example in examples], dtype=torch.int64)
        reward_B = torch.zeros(len(examples), dtype=torch.float64)
        weight_K = heads.reward_weights(model)
        with torch.no_grad():
            for index_B in batching.micro_batches(length_B, _TOKENS):
                ids_BT, own_B = batching.pad([examples[k].ids for k in index_B.tolist()])
                score_BK = heads.scores(model, ids_BT.to(setup.device()), own_B.to(setup.device())).double().cpu()
                reward_B[index_B] = score_BK @ weight_K
        if not math.isfinite(float(reward_B.sum())):
            raise NonFiniteError(f"reward model {path} gives NaN or infinity; train it with a lower optim.lr")
        reward_N = np.full(len(rows), np.nan)
        reward_N[place_B] = reward_B.numpy()
        found.append(reward_N)
        del model
        gc.collect()
    return np.stack(found)
