"""Our own engines as a judge: a model in this process (hf), or vLLM in one beside it.

Replies do not depend on which questions are asked together (engines/hf.py says how), so neither does a verdict. Not
safe from several threads at once. B rows being sampled, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlvr import chat, policy
from rlvr.engines import base
from rlvr.engines.hf import HuggingFace
from rlvr.errors import DataError, one_line
from rlvr.inputs import fingerprint_model
from rlvr.judge_settings import OwnJudge
from rlvr.judging.questions import Question
from rlvr.judging.replies import Reply, Token, around_letters
from rlvr.recipe import HfEngine, Model, VllmEngine
from rlvr.types import Completion, Engine, Request, Sampling

_TOP = 20
"""Likeliest tokens that are noted in each place, as of an endpoint."""


class _Noting(HuggingFace):
    """The embedded engine, which also notes the likeliest tokens of each place, at temperature 1."""

    def __init__(self, settings: HfEngine, model: Model, tokenizer: Any) -> None:
        super().__init__(settings, model, tokenizer)
        self.noted: dict[str, list[list[tuple[int, float]]]] = {}
        """By the id of the completion, for each of its tokens (token, nats), likeliest first."""

    @torch.inference_mode()
    def _sample(self, logits_BV: Tensor, rows: Sequence[Any]) -> None:
        logp_BV = torch.log_softmax(logits_BV.float(), dim=-1)
        top = logp_BV.topk(min(_TOP, logp_BV.shape[1]), dim=-1)
        for row, ids, logps in zip(rows, top.indices.tolist(), top.values.tolist(), strict=True):
            if row.id:
                self.noted.setdefault(row.id, []).append(list(zip(ids, logps, strict=True)))
        super()._sample(logits_BV, rows)


class Own:
    """Asker (asking.py) over an engine of ours."""

    def __init__(self, settings: OwnJudge, *, setting: str = "by") -> None:
        """DataError where the model cannot be loaded, EngineError where vLLM cannot start; `setting` is what the
        section is called."""
        self.settings = settings
        self.name = settings.path
        model = Model(path=settings.path, dtype=settings.dtype, made_by=settings.made_by)
        self._tokenizer, self._context = policy.load_tokenizer(model, setting=f"{setting}.path")
        is_chat = settings.as_chat
        if is_chat and not self._tokenizer.chat_template:
            raise DataError(f"{setting}.as_chat: {settings.path} has no chat template; leave it out")
        self._is_chat = bool(self._tokenizer.chat_template) if is_chat is None else is_chat
        self._fingerprint = fingerprint_model(settings.path, setting=f"{setting}.path")
        self._num_asked = 0
        self._engine: Engine | None = self._started(model)

    @property
    def identity(self) -> str:
        settings = self.settings
        return repr((settings.kind, self._fingerprint, settings.dtype, self._is_chat))

    def ask(self, questions: Sequence[Question], came: Callable[[int, Reply], None] | None = None) -> list[Reply]:
        """Replies in the order of the questions; `came` is told each as it comes."""
        assert self._engine is not None
        found: dict[str, Reply] = {}
        requests: list[Request] = []
        asked: dict[str, Question] = {}
        ids = [f"judge/{self._num_asked + k}" for k in range(len(questions))]
        self._num_asked += len(questions)
        places = {id: k for k, id in enumerate(ids)}
        for id, question in zip(ids, questions, strict=True):
            try:
                request = self._request(id, question)
            except DataError as error:
                found[id] = Reply(problem=f"the judge cannot read it: {one_line(error)}")
                continue
            requests.append(request)
            asked[id] = question
        lengths = {request.id: len(request.prompt_ids) for request in requests}
        for sample_id, completion in self._engine.generate(requests):
            id = sample_id.rpartition("/")[0]
            found[id] = self._reply(sample_id, asked[id], completion, lengths[id])
            if came is not None:
                came(places[id], found[id])
        return [found.get(id) or Reply(problem="the engine gave no reply") for id in ids]

    def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _started(self, model: Model) -> Engine:
        if self.settings.kind == "hf":
            return _Noting(HfEngine(kind="hf"), model, self._tokenizer)
        return base.build(VllmEngine(mode="process", prefix_cache=True), model, self._tokenizer)

    def _request(self, id: str, question: Question) -> Request:
        """DataError where the question has no room in the model's context, or its chat template refuses it."""
        turns = question.messages
        prompt = turns if self._is_chat else "\n\n".join(turn["content"] for turn in turns)
        ids = chat.render_prompt(self._tokenizer, prompt)
        if self._context is not None and len(ids) >= self._context:
            raise DataError(f"the question has {len(ids)} tokens, and the judge takes {self._context} with its reply")
        sampling = Sampling(temperature=question.temperature, max_tokens=question.max_tokens)
        return Request(id=id, prompt_ids=ids, seeds=(question.seed,), sampling=sampling)

    def _reply(self, sample_id: str, question: Question, completion: Completion, num_prompt: int) -> Reply:
        engine = self._engine
        noted = engine.noted.pop(sample_id, []) if isinstance(engine, _Noting) else []
        if completion.finish == "abort":
            return Reply(problem="the engine took the reply back")
        tokens: tuple[Token, ...] = ()
        if question.letters:
            tops = [tuple((self._text(id), logp) for id, logp in place) for place in noted]
            texts = [self._text(id) for id in completion.token_ids]
            logprobs = [_of(id, place) for id, place in zip(completion.token_ids, noted, strict=False)]
            tokens = tuple(
                Token(text, logprob, top)
                for text, logprob, top in zip(
                    texts, logprobs or completion.logprobs, tops or [()] * len(texts), strict=True
                )
            )
        return Reply(
            text=completion.text,
            tokens=around_letters(tokens, question.letters),
            prompt_tokens=num_prompt,
            completion_tokens=len(completion.token_ids),
            note="length" if completion.finish == "length" else "",
        )

    def _text(self, id: int) -> str:
        return str(self._tokenizer.decode([id], skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _of(token: int, place: Sequence[tuple[int, float]]) -> float:
    """The token's own log-probability; of one that is not among the likeliest the least of theirs."""
    return dict(place).get(token, min(logp for _, logp in place))
