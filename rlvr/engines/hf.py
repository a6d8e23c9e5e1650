"""The embedded engine: transformers in this process. For tiny models, tests, and machines without vLLM.

Every completion has its own random numbers, drawn from its own seed, and its bits do not depend on its neighbours (on a
CPU; slots.py says how), so what was sampled before a run was killed is what is sampled after.
B rows being sampled, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlvr import lora
from rlvr.chat import cut_at_stop, decode, end_token_ids
from rlvr.engines.slots import PREFILL_SLOTS, ROWS, SLOTS, Slots, mask, up_to
from rlvr.errors import EngineError, NonFiniteError
from rlvr.failpoints import failpoint
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

    @property
    def position(self) -> int:
        """Of the last token, the next to go through the model."""
        return len(self.request.prompt_ids) + len(self.token_ids) - 1

    @property
    def last_token(self) -> int:
        return (self.token_ids or self.request.prompt_ids)[-1]


class HuggingFace:
    """Engine (types.Engine) over transformers' forward with a cache: one prefill per prompt, finished rows leave."""

    def __init__(self, settings: HfEngine, model: Model, tokenizer: Any, longest: int | None = None) -> None:
        """longest: as in base.build()."""
        self.settings = settings
        self.tokenizer = tokenizer
        self.model, _ = load_model(model)
        own = context_length(self.model)
        self.context = min(own, longest) if own and longest else longest or own
        self.is_lora = model.lora is not None
        if model.lora is not None:
            self.model = lora.attach(self.model, model.lora, seed=0)
        self.model.requires_grad_(False)
        self.version = 0
        self.restarts = 0
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
        own = dict(lora.weights(self.model)) if self.is_lora else self.model.state_dict()
        given = set()
        with torch.no_grad():
            for name, tensor in weights:
                if name not in own or own[name].shape != tensor.shape:
                    raise EngineError(f"weight {name} {tuple(tensor.shape)} does not fit the engine's model")
                own[name].copy_(tensor)
                given.add(name)
                if len(given) == 1:
                    failpoint("sync")
        if self.is_lora and (missing := own.keys() - given):
            raise EngineError(f"the adapter of version {version} is without {min(missing)}")
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
        rows += [_Row("", rows[0].request, rows[0].uniform, 0) for _ in range(up_to(len(rows), ROWS) - len(rows))]
        cache = self._prefill([request.prompt_ids for request in requests], rows)
        while True:
            with one_thread():
                self._sample(self._forward(rows, cache), rows)
            for row in rows:
                if row.id and (finish := self._finish(row)) is not None:
                    yield row.id, self._completion(row, finish)
                    row.id = ""  # stays in the batch until it is compacted, but is not reported again
            live = [i for i, row in enumerate(rows) if row.id]
            if not live:
                return
            size = up_to(len(live), ROWS)
            if size <= _COMPACT_BELOW * len(rows):
                spare = [i for i, row in enumerate(rows) if not row.id]
                index = live + spare[: size - len(live)]
                rows = [rows[i] for i in index]
                with torch.inference_mode():
                    cache.select(torch.tensor(index))

    @torch.inference_mode()
    def _prefill(self, prompts: Sequence[Sequence[int]], rows: Sequence[_Row]) -> Slots:
        """The cache of all rows but for their last token, from one forward over the distinct prompts."""
        cache = Slots()
        T = up_to(max(len(prompt) for prompt in prompts) - 1, SLOTS)
        cache.size = up_to(T, PREFILL_SLOTS)
        ids_PT = torch.tensor([[*prompt[:-1], *[0] * (T - len(prompt) + 1)] for prompt in prompts])
        with one_thread():
            self._through(ids_PT, torch.arange(T).expand_as(ids_PT), cache)
        cache.cut(T)
        cache.select(torch.tensor([row.prompt for row in rows]))
        return cache

    @torch.inference_mode()
    def _forward(self, rows: Sequence[_Row], cache: Slots) -> Tensor:
        """logits_BV after each row's last token."""
        cache.size = max(cache.size, up_to(max(row.position for row in rows) + 1, SLOTS))
        ids_B1 = torch.tensor([[row.last_token] for row in rows])
        return self._through(ids_B1, torch.tensor([[row.position] for row in rows]), cache)

    def _through(self, ids_BT: Tensor, position_BT: Tensor, cache: Slots) -> Tensor:
        cache.position_BT = position_BT
        model = lora.plain(self.model)
        out = model(
            input_ids=ids_BT,
            attention_mask=mask(model.config, position_BT, cache.size, model.dtype),
            # what fills a prompt up may lie behind the last position there is
            position_ids=position_BT.clamp(max=None if self.context is None else self.context - 1),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1]

    @torch.inference_mode()
    def _sample(self, logits_BV: Tensor, rows: Sequence[_Row]) -> None:
        """Note each row's next token in it, with its log-probability; finished rows stay as they are."""
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


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch with one thread: MKL's product of one row differs in its last bits from thread to thread.

    Where this engine is of use, more threads are slower too.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
