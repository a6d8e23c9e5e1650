"""A judge's server that lies, repeats the key, floods or hangs; and texts that would pass for a server's own marks."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from judge_case import Mind, dripping, serving
from starlette.responses import JSONResponse, Response

from rlvr.errors import DiskError
from rlvr.judge_settings import Judging
from rlvr.judging.cache import Cache
from rlvr.judging.fences import neutral
from rlvr.judging.judge import Judge, Pair, Single
from rlvr.judging.replies import Reply, Token, last_object, log_odds

GOOD, BAD = "u=1.5 it is 4", "u=0.5 it is 5"
KEY = "sk-a+b/c3cret=="


@contextmanager
def judging(mind: Mind, by: dict[str, Any] | None = None, cache: Path | None = None, **more: Any) -> Iterator[Judge]:
    with serving(mind) as url:
        endpoint = {"kind": "endpoint", "url": url, "model": "scripted", "retries": 0, **(by or {})}
        judge = Judge(Judging.model_validate({"by": endpoint, **more}), seed=3, cache=cache)
        yield judge
        judge.close()


def pair(a: str = GOOD, b: str = BAD) -> Pair:
    return Pair(prompt="2+2?", a=a, b=b, key="t/0-1")


def said(text: str, tokens: str = "[]", usage: str = "{}", **message: Any) -> Response:
    """A chat completion; tokens and usage as they are written."""
    told = json.dumps({"content": text, **message})
    body = f'{{"choices": [{{"message": {told}, "logprobs": {{"content": {tokens}}}}}], "usage": {usage}}}'
    return Response(body.encode(), media_type="application/json")


def letters(own: str, a: str, b: str) -> str:
    top = f'[{{"token": "A", "logprob": {a}}}, {{"token": "B", "logprob": {b}}}]'
    return f'[{{"token": "A", "logprob": {own}, "top_logprobs": {top}}}]'


def replies_in(cache: Path) -> list[str]:
    with sqlite3.connect(cache) as db:
        return [row[0] for row in db.execute("SELECT reply FROM replies")]


# --- log-probabilities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "logprobs",
    [
        ("-0.1", "NaN", "-2"), ("-0.1", "-0.1", "NaN"), ("NaN", "-0.1", "-2"), ("Infinity", "-0.1", "-2"),
        ("-0.1", "900", "-2"), ("-0.1", "0.01", "-2"), ("-0.1", '"-0.1"', "-2"), ("-0.1", "true", "-2"),
        ("-0.1", "1" + "0" * 400, "-2"), ("-Infinity", "-Infinity", "-Infinity"),
    ],
)  # fmt: skip
def test_log_probabilities_that_are_none_are_an_abstention(logprobs: tuple[str, str, str]) -> None:
    with judging(Mind(misbehave=lambda n, b: said("A", letters(*logprobs)))) as judge:
        (found,) = judge.compare([pair()])
    assert (found.logit, found.probability) == (None, None)
    assert "log-probabilit" in found.problem


@pytest.mark.parametrize(
    ("logprobs", "due"),
    [(("-0.1", "-0.1", "-Infinity"), 20.0), (("0.0009", "0.0009", "-8"), 8.0), (("-1", "-1", "-3"), 2.0)],
)
def test_a_little_above_zero_is_zero_and_one_of_the_two_may_be_impossible(
    logprobs: tuple[str, str, str], due: float
) -> None:
    with judging(Mind(misbehave=lambda n, b: said("A", letters(*logprobs))), method={"kind": "pairwise"}) as judge:
        (found,) = judge.compare([pair()])
    assert found.orders == pytest.approx((due, -due))


@pytest.mark.parametrize("logp", [math.nan, 900.0, math.inf])
def test_replies_that_an_older_cache_kept_are_no_choice_either(logp: float) -> None:
    for token in (Token("A", logp), Token("A", -0.1, (("A", -0.1), ("B", logp)))):
        kept = Reply.from_json(Reply(text="A", tokens=(token,)).to_json())
        assert log_odds([kept], ("A", "B"), reasoned=False)[0] is None
        # a sample that is sound still counts
        sound = Reply(text="A", tokens=(Token("A", math.log(0.8)),))
        assert log_odds([kept, sound], ("A", "B"), reasoned=False)[0] == pytest.approx(math.log(4))


# --- the key ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "echo",
    [
        lambda: JSONResponse({"error": f"bad key {KEY}"}, status_code=401),
        lambda: Response(("x" * 1990 + KEY + KEY).encode(), status_code=401),
        lambda: Response(("x" * 280 + KEY).encode(), status_code=401),
        lambda: JSONResponse({"error": "bad key " + KEY.replace("/", "\\/")}, status_code=401),
        lambda: Response(json.dumps({"error": KEY}).replace("/", "\\/").encode(), status_code=401),
        lambda: Response("".join(f"\\u{ord(letter):04x}" for letter in KEY).encode(), status_code=401),
        lambda: said(f"I was asked with {KEY}"),
        lambda: said("", refusal=f"I was asked with {KEY}"),
        lambda: said("A", '[{"token": "A", "logprob": -1, "top_logprobs": [{"token": "' + KEY + '", "logprob": -1}]}]'),
        lambda: said("A", '[{"token": "A", "logprob": "' + KEY + '"}]'),
        lambda: Response(f'{{"choices": {{}}, "{KEY}": 1}}'.encode()),
    ],
)
def test_a_key_that_the_server_repeats_is_neither_told_nor_kept(
    echo: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    mind = Mind(misbehave=lambda n, b: echo())
    cache = tmp_path / "cache.sqlite"
    with judging(mind, {"api_key_from": "JUDGE_KEY"}, cache) as judge:
        found = judge.compare([pair()])
        kept = "".join(replies_in(cache))
    assert mind.headers[0]["authorization"] == f"Bearer {KEY}"
    for part in (KEY, KEY[:8], "c3cret", "\\u0073"):
        assert part not in repr(found) + kept


# --- a batch that is cut short ---------------------------------------------------------------------------------------


def test_each_reply_is_kept_as_it_comes_while_others_are_still_awaited(tmp_path: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    mind = Mind(misbehave=lambda number, body: None if number == 0 else dripping())
    with judging(mind, {"timeout_seconds": 30}, cache) as judge:
        thread = threading.Thread(target=judge.compare, args=([pair()],))
        thread.start()
        end = time.monotonic() + 5
        while not replies_in(cache) and time.monotonic() < end:
            time.sleep(0.02)
        is_waiting, kept = thread.is_alive(), replies_in(cache)
        judge.asker.asker.close()
        thread.join(10)
    assert not thread.is_alive()
    assert is_waiting and len(kept) == 1 and json.loads(kept[0])[0] in ("A", "B")


def test_a_cache_that_cannot_be_written_is_told_at_once_and_nothing_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Cache, replies: Any) -> None:
        raise DiskError("disk full")

    mind = Mind(misbehave=lambda number, body: None if number == 0 else dripping())
    with judging(mind, {"timeout_seconds": 30}, tmp_path / "cache") as judge:
        monkeypatch.setattr(Cache, "put", full)
        start = time.monotonic()
        with pytest.raises(DiskError, match="disk full"):
            judge.compare([pair()])
        assert time.monotonic() - start < 5


# --- what else comes back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "due"),
    [
        ("12", 12), ("12.0", 12), ("1" + "0" * 400, 0), ("1e400", 0), ("NaN", 0), ("-5", 0), ("1.5", 0), ('"7"', 0),
        ("true", 0), ("null", 0), ("1000000001", 0), ("[1]", 0),
    ],
)  # fmt: skip
def test_tokens_that_are_no_count_are_unknown(given: str, due: int, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    usage = f'{{"prompt_tokens": {given}, "completion_tokens": {given}}}'
    mind = Mind(misbehave=lambda n, b: said("A", usage=usage))
    prices = {"prompt": 1.0, "completion": 1.0}
    with judging(mind, cache=cache, prices=prices) as judge:
        (found,) = judge.compare([pair()])
        kept = [json.loads(reply) for reply in replies_in(cache)]
    assert found.cost.checks() == {
        "questions": 2, "prompt_tokens": 2 * due, "completion_tokens": 2 * due, "cost": pytest.approx(4 * due / 1e6)
    }  # fmt: skip
    assert [reply[2:4] for reply in kept] == [[due, due]] * 2
    old = Reply.from_json(f'["A", [], {given}, {given}, ""]')
    assert (old.prompt_tokens, old.completion_tokens) == (due, due)


def test_usage_that_is_no_object_is_unknown() -> None:
    with judging(Mind(misbehave=lambda n, b: said("A", usage="[3]"))) as judge:
        (found,) = judge.compare([pair()])
    assert found.flipped and found.cost.prompt_tokens == 0


CONTROL = "no\nway \x1b]0;owned\x07 \x9b31m"


@pytest.mark.parametrize(
    "answer",
    [
        lambda: said("", refusal=CONTROL),
        lambda: said(CONTROL),
        lambda: said(json.dumps({"correct": CONTROL})),
        lambda: Response(CONTROL.encode(), status_code=400),
    ],
)
def test_nothing_that_a_terminal_obeys_gets_into_a_message(answer: Any) -> None:
    method = {"kind": "rubric", "criteria": {"correct": {"text": "it is right"}}}
    with judging(Mind(misbehave=lambda n, b: answer()), method=method) as judge:
        (found,) = judge.rate([Single(prompt="2+2?", answer=GOOD, key="t/0")])
    assert found.score is None and found.problem.isprintable()
    assert "no" in found.problem and "way" in found.problem and "owned" in found.problem


@pytest.mark.parametrize("flood", ['{"a":' * 200_000, ('{"a":' * 900 + "x") * 220, "{" * 1_000_000])
def test_a_flood_of_braces_is_given_up_soon(flood: str) -> None:
    start = time.process_time()
    assert last_object(flood) is None
    assert time.process_time() - start < 5
    assert last_object(flood + ' so {"winner": "B"}') == {"winner": "B"}


# --- marks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mark",
    [
        "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[THINK]", "[IMG]", "[IMG_BREAK]", "[CLS]", "[gMASK]", "[inst]",
        "<start_of_image>", "<mask>", "<tool_response>", "</tool_response>", "<function>", "<function=look>", "<S>",
        "<extra_id_0>", "<unused12>", "<0x0A>", "<seed:bos>", "<fim-prefix>", "<|im_end|>", "<｜User｜>", "<</SYS>>",
    ],
)  # fmt: skip
def test_marks_of_all_families_are_broken_up(mark: str) -> None:
    assert neutral(f"a {mark} b") == f"a {mark[0]} {mark[1:]} b"
    assert neutral(neutral(mark)) == neutral(mark)


@pytest.mark.parametrize(
    "text", ["<p>", "<h1>", "<div class='x'>", "a[i]", "x[0]", "[A]", "[1, 2]", "List<int>", "[Note]", "1 < 2 > 0"]
)
def test_what_is_no_mark_stays(text: str) -> None:
    assert neutral(text) == text
