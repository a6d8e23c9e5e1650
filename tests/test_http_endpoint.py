"""The verifier http against servers that are right, slow, broken or lying, and against our own service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from http_case import listening
from serve_case import TOKEN, Served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rlvr.rewards.bound import apply, lookup, start_problems
from rlvr.rewards.verified import VerifierPool
from rlvr.types import Task, Verdict

TASK = Task(id="set:7", prompt="What is 6*7?", gold={"value": 42}, info={"level": 2})


class Judge:
    """An endpoint whose behaviour is chosen by the path; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.headers: dict[str, str] = {}

    async def answer(self, request: Request) -> Response:
        path = request.path_params["path"]
        body = await request.json()
        self.asked.append((path, body))
        self.headers = dict(request.headers)
        num_asked = sum(p == path for p, _ in self.asked)
        if path == "judge":
            right = body["response"] == str(body["gold"]["value"])
            return JSONResponse({"score": float(right), "reason": "compared", "answer": body["response"]})
        if path == "slow":
            await asyncio.sleep(5)
        if path == "drips":
            return StreamingResponse(self._drips(), media_type="application/json")
        if path == "second" and num_asked == 1:
            return JSONResponse({"error": "starting"}, status_code=503)
        if path == "huge":
            return Response(b'{"score": 1, "reason": "' + b"x" * (2 << 20) + b'"}')
        if path.isdigit():
            return JSONResponse({"error": "no such judge"}, status_code=int(path))
        if path == "moved":
            return Response(status_code=307, headers={"location": "/judge"})
        if path in ANSWERS:
            return Response(ANSWERS[path])
        return JSONResponse({"score": 1.0})

    async def _drips(self) -> Any:
        for _ in range(100):
            yield b" "
            await asyncio.sleep(0.1)


ANSWERS = {
    "text": b"yes",
    "list": b"[1]",
    "none": b'{"reason": "?"}',
    "null": b'{"score": null, "reason": "my disk is full"}',
    "invalid": b'{"score": null, "outcome": "gold_invalid", "reason": "no such row"}',
    "large": b'{"score": 1e9}',
    "nan": b'{"score": NaN}',
    "string": b'{"score": "1"}',
    "contradicts": b'{"score": 1, "outcome": "error"}',
    "partial": b'{"score": 0.25, "outcome": "partial", "checks": {"a": {"score": 0.25, "reason": "r"}}}',
    "deep": b"[" * 100_000,
    "bytes": b"\xff\xfe",
}


def serving(judge: Judge) -> AbstractContextManager[str]:
    return listening(Starlette(routes=[Route("/{path:path}", judge.answer, methods=["POST"])]))


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@pytest.fixture(scope="module")
def url(judge: Judge) -> Iterator[str]:
    with serving(judge) as address:
        yield address


def ask(url: str, response: str = "42", **options: Any) -> Verdict:
    return apply(lookup("http"), response, TASK, {"url": url, "retries": 0, **options})


def test_what_the_endpoint_says_is_the_verdict(url: str, judge: Judge) -> None:
    right, wrong = ask(f"{url}/judge"), ask(f"{url}/judge", "41")
    assert (right.score, right.outcome, right.reason, right.answer) == (1.0, "correct", "compared", "42")
    assert (wrong.score, wrong.outcome) == (0.0, "wrong")
    assert judge.asked[-1][1] == {
        "id": "set:7",
        "response": "41",
        "gold": {"value": 42},
        "prompt": "What is 6*7?",
        "info": {"level": 2},
    }
    assert judge.headers["content-type"] == "application/json"
    partial = ask(f"{url}/partial")
    assert (partial.score, partial.outcome, partial.checks["a"]["score"]) == (0.25, "partial", 0.25)


def test_text_that_is_no_unicode_arrives(url: str, judge: Judge) -> None:
    text = 'half \ud83d "quoted" \x00 end'
    assert ask(f"{url}/any", text).score == 1.0
    assert judge.asked[-1][1]["response"] == text


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("500", "status 500"),
        ("503", "no such judge"),
        ("404", "status 404"),
        ("moved", "status 307"),
        ("text", "not JSON"),
        ("bytes", "not JSON"),
        ("deep", "not JSON"),
        ("list", "must be an object"),
        ("none", "no score; it has reason"),
        ("null", "my disk is full"),
        ("large", "number in [0, 1] or null, got 1000000000.0"),
        ("nan", "got nan"),
        ("string", "got 1"),
        ("contradicts", "makes no sense"),
        ("huge", "more than 1048576 bytes"),
    ],
)
def test_an_answer_that_cannot_be_believed_is_never_a_zero(url: str, path: str, told: str) -> None:
    verdict = ask(f"{url}/{path}")
    assert (verdict.score, verdict.outcome) == (None, "error")
    assert told in verdict.reason
    assert "\n" not in verdict.reason


def test_the_endpoint_may_say_that_the_gold_is_no_use(url: str) -> None:
    verdict = ask(f"{url}/invalid")
    assert (verdict.score, verdict.outcome, verdict.reason) == (None, "gold_invalid", "no such row")


@pytest.mark.parametrize("path", ["slow", "drips"])
def test_an_endpoint_that_takes_too_long_is_an_error_in_time(url: str, path: str) -> None:
    start = time.monotonic()
    verdict = ask(f"{url}/{path}", timeout_seconds=0.4)
    assert time.monotonic() - start < 2
    assert (verdict.score, verdict.outcome) == (None, "error")
    assert "no answer within 0.4 s" in verdict.reason


def test_what_may_pass_is_tried_again_and_what_may_not_is_not(url: str, judge: Judge) -> None:
    assert ask(f"{url}/second", retries=1).score == 1.0
    assert [path for path, _ in judge.asked].count("second") == 2
    failed = ask(f"{url}/502", retries=1)
    assert "(2 attempts)" in failed.reason
    assert [path for path, _ in judge.asked].count("502") == 2
    ask(f"{url}/400", retries=3)
    assert [path for path, _ in judge.asked].count("400") == 1


def test_nobody_listening_is_an_error() -> None:
    verdict = ask("http://127.0.0.1:9/judge", retries=1, timeout_seconds=2.0)
    assert (verdict.score, verdict.outcome) == (None, "error")
    assert "cannot be asked" in verdict.reason and "(2 attempts)" in verdict.reason


def test_a_secret_is_named_and_neither_told_nor_kept(url: str, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", "s3cret")
    verdict = ask(f"{url}/500?key=abc", headers_from={"x-token": "JUDGE_TOKEN"})
    assert judge.headers["x-token"] == "s3cret"
    assert "s3cret" not in str(verdict) and "abc" not in str(verdict)
    absent = ask(f"{url}/judge", headers_from={"x-token": "NO_SUCH_TOKEN"})
    assert (absent.score, absent.outcome) == (None, "error")
    assert "no environment variable 'NO_SUCH_TOKEN'" in absent.reason


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "url must be such as http"),
        ({"url": "ftp://host/x"}, "url must be such as http"),
        ({"url": "http://host:99999/x"}, "url must be such as http"),
        ({"url": "http://me:pw@host/x"}, "must hold no password"),
        ({"url": "http://host/x", "options": {"a": 1}}, "options go with verifier"),
        ({"url": "http://host/x", "headers_from": {"a": "NO_SUCH"}}, "no environment variable 'NO_SUCH'"),
        ({"url": "http://host/x", "retries": 99}, "less than or equal to 5"),
        ({"url": "http://host/x", "timeout_seconds": 0.0}, "greater than 0"),
    ],
)
def test_options_are_checked_before_anything_is_asked(options: dict[str, Any], told: str) -> None:
    (problem,) = start_problems("http", options, "rewards.a.options")
    assert told in problem
    assert "pw" not in problem


def test_a_pool_asks_many_at_once(url: str) -> None:
    with VerifierPool(["http"], workers=1, memory_mib=2048) as pool:
        options = {"http": {"url": f"{url}/judge"}}
        verdicts = pool.judge([("http", str(k), TASK) for k in range(40, 80)], options)
    assert [verdict.score for verdict in verdicts] == [float(k == 42) for k in range(40, 80)]


@pytest.mark.slow
def test_our_own_service_is_an_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Served(["math", "exact"], folder=tmp_path, workers=1, env={"RLVR_TOKEN": TOKEN}) as service:
        monkeypatch.setenv("RLVR_TOKEN", TOKEN)
        options = {"url": f"{service.url}/v1/verify", "headers_from": {"x-token": "RLVR_TOKEN"}, "verifier": "math"}
        task = Task(id="t", prompt="", gold="7/2")
        right = apply(lookup("http"), r"\boxed{3.5}", task, options)
        wrong = apply(lookup("http"), r"\boxed{3}", task, options)
        invalid = apply(lookup("http"), r"\boxed{3}", Task(id="t", prompt="", gold=" "), options)
        unknown = apply(lookup("http"), r"\boxed{3}", task, {**options, "verifier": "boxed"})
        refused = apply(lookup("http"), "3", task, {**options, "headers_from": {}})
    assert (right.score, right.outcome, right.answer) == (1.0, "correct", "3.5")
    assert (wrong.score, wrong.outcome) == (0.0, "wrong")
    assert (invalid.score, invalid.outcome) == (None, "gold_invalid")
    assert (unknown.score, unknown.outcome) == (None, "error")
    assert (refused.score, refused.outcome) == (None, "error")
    assert "status 401" in refused.reason
