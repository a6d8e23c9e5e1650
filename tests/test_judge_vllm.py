"""A real vLLM server as the judge: its soft labels are those of our own engine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from judge_case import save_judge
from test_engines_server import server

from rlvr.judge_settings import Judging
from rlvr.judging.judge import Judge, Pair, Single
from rlvr.judging.replies import log_odds

PAIRS = [Pair(prompt=f"{k}+{k}?", a=f"it is {2 * k}", b=f"{2 * k + 1}, no doubt", key=f"{k}") for k in range(8)]
SHORT = {"kind": "pairwise", "system": "", "template": "{question}{first}{second}"}
"""The model takes 256 bytes."""


def judge(by: dict[str, Any], **more: Any) -> Judge:
    return Judge(Judging.model_validate({"by": by, "method": SHORT, "max_tokens": 1, **more}))


@pytest.mark.slow
@pytest.mark.vllm
def test_soft_labels_of_a_vllm_server_are_those_of_our_own_engine(untied_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    asked = judge({"kind": "hf", "path": str(untied_model)})
    prompts = [view.questions[0].messages for pair in PAIRS for view in asked._plan(pair)]
    asked.close()
    folder = save_judge(untied_model, tmp_path / "judge", prompts)
    own = judge({"kind": "hf", "path": str(folder)})
    expected = own.compare(PAIRS)
    own.close()
    known = [z for one in expected for z in one.orders if z is not None]
    assert len(known) > 8 and max(known) - min(known) > 0.1
    with server(folder, tmp_path / "log") as (settings, _, _):
        endpoint = {"kind": "endpoint", "url": f"{settings.url}/v1", "model": str(folder), "retries": 0}
        served = judge(endpoint)
        found = served.compare(PAIRS)
        for ours, theirs in zip(expected, found, strict=True):
            assert theirs.orders == pytest.approx(ours.orders, abs=1e-3)
            assert theirs.cost == ours.cost
        served.close()

        # JSON by its schema: random weights write what the schema lets them, or run out of tokens within it
        rubric = {
            "kind": "rubric",
            "criteria": {"right": {"text": "x"}},
            "system": "",
            "template": "{question}{answer}",
        }
        singles = [Single(prompt="2?", answer=f"{k}", key=f"{k}") for k in range(4)]
        rater = judge(endpoint, method=rubric, max_tokens=40)
        written = rater.asker.ask([rater._rubric(single)[0].questions[0] for single in singles])
        rated = rater.rate(singles)
        rater.close()
        for reply, one in zip(written, rated, strict=True):
            assert (reply.problem, reply.text.lstrip()[:1]) == ("", "{")
            if reply.note == "length":
                assert one.score is None and "no JSON object" in one.problem
            else:
                rating = json.loads(reply.text)["right"]
                assert rating in range(1, 11)
                assert one.score == pytest.approx((rating - 1) / 9)

        # self-consistency where log-probabilities are not asked for: k of 5 votes in each order
        voting = judge({**endpoint, "logprobs": False}, samples=5)
        votes = voting.compare(PAIRS[:2])
        voting.close()
        told = [z for one in votes for z in one.orders]
        assert any(z is not None for z in told)
        # words that are neither letter do not vote, so that there may be fewer than 5 votes
        shares = [math.log((k + 0.5) / (n - k + 0.5)) for n in range(1, 6) for k in range(n + 1)]
        assert all(z is None or min(abs(z - share) for share in shares) < 1e-9 for z in told)
        assert all(one.cost.questions == 10 for one in votes)


@pytest.mark.slow
@pytest.mark.vllm
def test_our_own_vllm_knows_the_letter_that_it_named_and_counts_all_else_as_the_other(
    untied_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("vllm")
    asked = judge({"kind": "hf", "path": str(untied_model)})
    questions = [view.questions[0] for pair in PAIRS for view in asked._plan(pair)]
    asked.close()
    folder = save_judge(untied_model, tmp_path / "judge", [question.messages for question in questions])
    replies = {}
    for kind in ("hf", "vllm"):
        made = judge({"kind": kind, "path": str(folder)})
        replies[kind] = made.asker.ask([view.questions[0] for pair in PAIRS for view in made._plan(pair)])
        made.close()
    named = 0
    for ours, theirs in zip(replies["hf"], replies["vllm"], strict=True):
        assert (ours.text, ours.prompt_tokens) == (theirs.text, theirs.prompt_tokens)
        for one, other in zip(ours.tokens, theirs.tokens, strict=True):
            assert other.logprob == pytest.approx(one.logprob, abs=1e-3)
            found, _ = log_odds([theirs], ("A", "B"), reasoned=False)
            due = one.logprob - math.log1p(-math.exp(one.logprob))
            assert found == pytest.approx(due if theirs.text == "A" else -due, abs=1e-2)
            named += 1
    assert named > 4
