"""A stand-in for a large language model as a judge, behind a real server that speaks OpenAI's protocol.

    python recipes/rlaif/judge_server.py 8017

It reads what is fenced, as a model would, and knows the world of recipes/preference but errs as judges do: it has noise
of its own for each answer, and likes the first place and long answers. In its place goes any server that answers
POST /v1/chat/completions: rewards.better.by.url and by.model say which.
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from rlvr import plugins
from rlvr.seeds import rng_for

MODEL = "stand-in"
NOISE, FIRST, PER_WORD = 0.7, 1.0, 0.05
"""Standard deviation of what it thinks an answer is worth beyond the truth; logits for the first place, and for each
word more."""
WORLD = Path(__file__).parents[1] / "preference" / "world.py"
true_reward = plugins.load(f"{WORLD}:true_reward", what="the world")
gold_of = plugins.load(f"{WORLD}:_sum", what="the world")


def worth(question: str, answer: str) -> float:
    noise = rng_for("judge", question, answer).gauss(0, NOISE)
    return true_reward(answer, gold_of(question)) + noise + PER_WORD * len(answer.split())


def log_odds(told: str) -> float:
    """Of A over B, from the fenced parts of a question."""
    code = re.search(r"code ([0-9a-f]{16})", told)
    if code is None:
        raise ValueError("no fence")
    pattern = rf"\[{code[1]} (question|answer A|answer B)\]\n(.*?)\n\[{code[1]} end\]"
    parts: dict[str, str] = dict(re.findall(pattern, told, re.DOTALL))
    question = parts["question"]
    return worth(question, parts["answer A"]) - worth(question, parts["answer B"]) + FIRST


async def complete(request: Request) -> JSONResponse:
    body: dict[str, Any] = await request.json()
    told = "\n".join(turn["content"] for turn in body["messages"])
    try:
        z = log_odds(told)
    except (KeyError, ValueError) as error:
        return JSONResponse({"error": f"this judge compares pairs of the preference world: {error!r}"}, status_code=400)
    letter = "A" if z >= 0 else "B"
    top = [{"token": "A", "logprob": -math.log1p(math.exp(-z))}, {"token": "B", "logprob": -math.log1p(math.exp(z))}]
    top.sort(key=lambda one: -one["logprob"])
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": letter},
        "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": len(told.split()), "completion_tokens": 1}
    return JSONResponse({"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})


app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
