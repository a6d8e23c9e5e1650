"""Our own engine as a judge: log odds are the model's own, whoever else is asked about; what does not fit is told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from judge_case import save_judge

from rlvr import chat, policy
from rlvr.errors import DataError
from rlvr.judge_settings import Judging
from rlvr.judging.judge import Judge, Pair
from rlvr.judging.questions import Question
from rlvr.judging.replies import Reply
from rlvr.recipe import Model
from rlvr.types import Message

PAIRS = [Pair(prompt="2+2?", a="4", b="it is five", key="1"), Pair(prompt="9?", a="no", b="yes, nine", key="2")]


def judge(model: Path, **more: Any) -> Judge:
    method = {"kind": "pairwise", "system": "", "template": "{question}{first}{second}", **more.pop("method", {})}
    return Judge(Judging.model_validate({"by": {"kind": "hf", "path": str(model)}, "method": method, **more}))


def plain_logp(model: Path, text: str) -> torch.Tensor:
    """log-probabilities of what comes next, by transformers' own forward without cache or padding."""
    loaded, tokenizer = policy.load_model(Model(path=str(model)))
    prompt = (Message(role="user", content=text),)
    ids = torch.tensor([chat.render_prompt(tokenizer, prompt)])
    with torch.inference_mode():
        return torch.log_softmax(loaded(ids).logits[0, -1].float(), dim=-1)


@pytest.fixture(scope="module")
def model(untied_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random, but for that it answers A or B."""
    asked = judge(untied_model)
    prompts = [view.questions[0].messages for pair in PAIRS for view in asked._plan(pair)]
    asked.close()
    return save_judge(untied_model, tmp_path_factory.mktemp("judge") / "model", prompts)


@pytest.fixture(scope="module")
def asked(model: Path) -> tuple[Judge, list[Question]]:
    made = judge(model, max_tokens=1)
    return made, [view.questions[0] for pair in PAIRS for view in made._plan(pair)]


def test_log_odds_are_those_of_the_models_own_forward(asked: tuple[Judge, list[Question]], model: Path) -> None:
    made, questions = asked
    tokenizer = chat.byte_tokenizer()
    first, second = (tokenizer.encode(letter)[0] for letter in "AB")
    due: list[float] = []
    for question, reply in zip(questions, made.asker.ask(questions), strict=True):
        logp_V = plain_logp(model, question.messages[0]["content"])
        assert reply.text == tokenizer.decode([int(logp_V.argmax())])
        assert reply.prompt_tokens == len(chat.render_prompt(tokenizer, question.messages))
        (token,) = reply.tokens
        assert (len(token.top), token.top[0]) == (20, (reply.text, token.logprob))
        assert token.logprob == pytest.approx(float(logp_V.max()), abs=1e-5)
        due.append(float(logp_V[first] - logp_V[second]))
    one, other = made.compare(PAIRS)
    # of each pair's second question the answers stand the other way round
    assert one.orders == pytest.approx((due[0], -due[1]), abs=1e-4)
    assert other.orders == pytest.approx((due[2], -due[3]), abs=1e-4)
    assert one.logit == pytest.approx((due[0] - due[1]) / 2, abs=1e-4)
    assert len({round(z, 3) for z in due}) == 4


def test_a_reply_is_the_same_whoever_else_is_asked_about(asked: tuple[Judge, list[Question]]) -> None:
    made, questions = asked
    alone = [made.asker.ask([question])[0] for question in questions]
    assert made.asker.ask(questions) == alone
    assert made.asker.ask(questions[::-1]) == alone[::-1]


def test_votes_of_samples_are_drawn_by_their_seeds(tiny_model: Path) -> None:
    made = judge(tiny_model, samples=3, max_tokens=2)
    (first, again) = (made.asker.ask(made._plan(PAIRS[0])[0].questions) for _ in range(2))
    assert first == again
    assert len({reply.text for reply in first}) > 1
    made.close()


def test_a_question_without_room_is_an_abstention(tiny_model: Path) -> None:
    made = judge(tiny_model)
    short, long = made.compare([PAIRS[0], Pair(prompt="x" * 400, a="a", b="b", key="3")])
    made.close()
    assert long.logit is None
    assert "the judge cannot read it: DataError: the question has" in long.problem
    assert "and the judge takes 256 with its reply" in long.problem
    assert short.cost.questions == 2


def test_models_that_cannot_be_loaded_are_told_by_the_setting(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^by\.path .*nowhere"):
        judge(tmp_path / "nowhere")
    by = {"kind": "hf", "path": str(tiny_model), "as_chat": True}
    tokenizer = chat.byte_tokenizer()
    tokenizer.chat_template = None
    plain = tmp_path / "plain"
    shutil.copytree(tiny_model, plain)
    for file in plain.glob("chat_template*"):
        file.unlink()
    tokenizer.save_pretrained(plain)
    with pytest.raises(DataError, match=r"^by\.as_chat: .* has no chat template; leave it out$"):
        Judge(Judging.model_validate({"by": {**by, "path": str(plain)}}))
    made = judge(plain, by={"kind": "hf", "path": str(plain)})
    (view, *_) = made._plan(PAIRS[0])
    (reply,) = made.asker.ask(view.questions[:1])
    assert reply.prompt_tokens == len(tokenizer.encode(view.questions[0].messages[0]["content"]))
    made.close()


def test_each_reply_is_told_as_it_comes_with_the_place_of_its_question(asked: tuple[Judge, list[Question]]) -> None:
    judge, questions = asked
    told: dict[int, Reply] = {}
    replies = judge.asker.asker.ask(questions, told.__setitem__)
    assert [told[k] for k in range(len(questions))] == replies and all(reply.text for reply in replies)
