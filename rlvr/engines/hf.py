"""The embedded engine: transformers in this process. For tiny models, tests, and machines without vLLM.

Every completion has its own random numbers, drawn from its own seed, so it does not depend on its neighbours
(but for rounding: matrix products of another batch size may differ in the last bit).
B rows being sampled, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlvr.chat import cut_at_stop, decode, end_token_ids
from rlvr.errors import EngineError, NonFiniteError
from rlvr.policy import context_length, load_model
from rlvr.recipe import HfEngine, Model
from rlvr.types import Completion, Finish, Request

_COMPACT_BELOW = 0.8  # finished rows are taken out of the batch once this share is left; copying the cache costs too


@dataclass(slots=True)
class _Row:
    """One completion under way."""

    id: str
    request: Request
    uniform: np.ndarray
    """[max_tokens] numbers in [0, 1), one per token, drawn ahead from the row's seed."""
    prompt: int
    """Index of its prompt in the batch's list."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class HuggingFace:
    """Engine (types.Engine) over transformers' forward with a cache: one prefill per prompt, finished rows leave."""

    def __init__(self, settings: HfEngine, model: Model, tokenizer: Any) -> None:
        self.settings = settings
        self.tokenizer = tokenizer
        self.model, _ = load_model(model)
        self.context = context_length(self.model)
        self.model.requires_grad_(False)
        self.version = 0
        self.end_ids = end_token_ids(model.path, tokenizer)

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[str, Completion]]:
        waiting: list[Request] = []
        count = 0
        for request in requests:
            if waiting and count + len(request.seeds) > self.settings.max_num_seqs:
                yield from self._generate_batch(waiting)
                waiting, count = [], 0
            waiting.append(request)
            count += len(request.seeds)
        if waiting:
            yield from self._generate_batch(waiting)

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        own = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in weights:
                if name not in own or own[name].shape != tensor.shape:
                    raise EngineError(f"weight {name} {tuple(tensor.shape)} does not fit the engine's model")
                own[name].copy_(tensor)
        self.version = version

    def sleep(self) -> None:
        """Nothing to give back: the weights are small where this engine is used."""

    def wake(self) -> None:
        """The counterpart of sleep()."""

    def close(self) -> None:
        self.__dict__.pop("model", None)

    def _generate_batch(self, requests: Sequence[Request]) -> Iterator[tuple[str, Completion]]:
        rows = [
            _Row(id, request, np.random.Generator(np.random.Philox(seed)).random(request.sampling.max_tokens), number)
            for number, request in enumerate(requests)
            for id, seed in zip(request.sample_ids, request.seeds, strict=True)
        ]
        logits_BV, cache, mask_BT = self._prefill([request.prompt_ids for request in requests], rows)
        while True:
            next_B = self._sample(logits_BV, rows)
            done: list[Finish | None] = [self._finish(row) for row in rows]
            for row, finish in zip(rows, done, strict=True):
                if finish is not None and row.id:
                    yield row.id, self._completion(row, finish)
                    row.id = ""  # stays in the batch until it is compacted, but is not reported again
            live = [i for i, row in enumerate(rows) if row.id]
            if not live:
                return
            if len(live) <= _COMPACT_BELOW * len(rows):
                index = torch.tensor(live)
                rows = [rows[i] for i in live]
                next_B, mask_BT = next_B[index], mask_BT[index]
                with torch.inference_mode():
                    cache.batch_select_indices(index)
            mask_BT = torch.cat([mask_BT, torch.ones_like(mask_BT[:, :1])], dim=1)
            logits_BV = self._forward(next_B[:, None], mask_BT, cache)

    def _prefill(self, prompts: Sequence[Sequence[int]], rows: Sequence[_Row]) -> tuple[Tensor, Any, Tensor]:
        """(logits_BV, cache, mask_BT) of all rows, from one forward over the distinct prompts, left-padded."""
        from transformers import DynamicCache

        longest = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(ids, mask, cache)
        index = torch.tensor([row.prompt for row in rows])
        with torch.inference_mode():
            cache.batch_select_indices(index)
        return logits[index], cache, mask[index]

    @torch.inference_mode()
    def _forward(self, ids_BT: Tensor, mask_BT: Tensor, cache: Any) -> Tensor:
        # finished rows that await compaction would run past the last position there is
        last = None if self.context is None else self.context - 1
        position_BT = (mask_BT.cumsum(dim=1) - 1).clamp(min=0, max=last)[:, -ids_BT.shape[1] :]
        out = self.model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=position_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1]

    @torch.inference_mode()
    def _sample(self, logits_BV: Tensor, rows: Sequence[_Row]) -> Tensor:
        """Next token of every row, noted in the row with its log-probability; finished rows go on unheeded."""
        temperature_B = torch.tensor([row.request.sampling.temperature or 1.0 for row in rows])
        logp_BV = torch.log_softmax(truncate(logits_BV.float() / temperature_B[:, None], rows), dim=-1)
        uniform_B = torch.tensor([row.uniform[min(len(row.token_ids), len(row.uniform) - 1)] for row in rows])
        drawn_B = inverse_cdf(logp_BV, uniform_B)
        is_greedy_B = torch.tensor([row.request.sampling.temperature == 0 for row in rows])
        next_B = torch.where(is_greedy_B, logp_BV.argmax(dim=-1), drawn_B)
        logp_B = logp_BV.gather(1, next_B[:, None])[:, 0]
        if not torch.isfinite(logp_B).all():
            raise NonFiniteError(f"the model of version {self.version} gives {logp_B.sum():g} as a log-probability")
        for row, token, logp in zip(rows, next_B.tolist(), logp_B.tolist(), strict=True):
            if row.id:
                row.token_ids.append(token)
                row.logprobs.append(logp)
        return next_B

    def _finish(self, row: _Row) -> Finish | None:
        sampling = row.request.sampling
        if row.token_ids[-1] in self.end_ids:
            return "stop"
        if sampling.stop and cut_at_stop(decode(self.tokenizer, row.token_ids), sampling.stop) is not None:
            return "stop"
        total = len(row.request.prompt_ids) + len(row.token_ids)
        is_full = self.context is not None and total >= self.context
        return "length" if is_full or len(row.token_ids) >= sampling.max_tokens else None

    def _completion(self, row: _Row, finish: Finish) -> Completion:
        text = decode(self.tokenizer, row.token_ids)
        cut = cut_at_stop(text, row.request.sampling.stop)
        return Completion(
            text=text if cut is None else cut,
            token_ids=tuple(row.token_ids),
            logprobs=tuple(row.logprobs),
            trained=(True,) * len(row.token_ids),
            finish=finish,
            versions=((0, self.version),),
        )


def inverse_cdf(logp_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The token whose share of [0, 1) holds the row's number: an exact draw per row, in float64 for a large V."""
    cdf_BV = logp_BV.double().exp().cumsum(dim=-1)
    wanted_B = uniform_B.double() * cdf_BV[:, -1]
    return torch.searchsorted(cdf_BV, wanted_B[:, None], right=True)[:, 0].clamp(max=logp_BV.shape[1] - 1)


def truncate(logits_BV: Tensor, rows: Sequence[_Row]) -> Tensor:
    """-inf outside each row's top_k and top_p; the smallest set whose probability reaches top_p stays."""
    top_k = [row.request.sampling.top_k for row in rows]
    # rounded sums reach 1 before the last token: where all are kept, no sum may decide
    top_p = [math.inf if row.request.sampling.top_p >= 1 else row.request.sampling.top_p for row in rows]
    if not any(top_k) and not any(map(math.isfinite, top_p)):
        return logits_BV
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    V = logits_BV.shape[1]
    rank_V = torch.arange(V)
    drop_BV = rank_V >= torch.tensor([k or V for k in top_k])[:, None]
    sorted_BV = sorted_BV.masked_fill(drop_BV, -torch.inf)
    probability_BV = torch.softmax(sorted_BV, dim=-1)
    before_BV = probability_BV.cumsum(dim=-1) - probability_BV
    drop_BV = drop_BV | (before_BV >= torch.tensor(top_p)[:, None])
    drop_BV[:, 0] = False
    return logits_BV.masked_fill(torch.zeros_like(drop_BV).scatter(1, order_BV, drop_BV), -torch.inf)
