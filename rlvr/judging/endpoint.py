"""Questions over HTTP: any server that speaks OpenAI's chat completions, many at once, each with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from rlvr.errors import SettingsError, one_line
from rlvr.judge_settings import EndpointJudge
from rlvr.judging.questions import Question
from rlvr.judging.replies import Reply, Token, around_letters, log_probability, printable, token_count

if TYPE_CHECKING:
    import httpx

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Statuses that another attempt may not meet."""
_MOST_BYTES = 4 << 20
"""Of a reply."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_TOP = 20
"""Tokens whose log-probabilities are asked for; the most that OpenAI and vLLM give."""
_CLOSE_SECONDS = 5.0
_LEAST_SECRET = 4
"""Letters of a key; a shorter one keeps no secret, and words that bear it are no trace of it."""


class _Failed(Exception):
    """Why there is no reply; `is_passing` where another attempt may go better, after no less than `pause` seconds."""

    def __init__(self, reason: str, is_passing: bool = False, pause: float = 0.0, status: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.is_passing, self.pause, self.status = reason, is_passing, pause, status
        self.is_unconnected = False


class Endpoint:
    """Asker (asking.py) over HTTP. Safe from any thread; one thread of its own runs all requests.

    consumes:     questions of ask(), at most `concurrency` of them at once
    produces:     their replies, each within deadline_seconds
    waits for:    the server, never longer than timeout_seconds; pauses between attempts
    ends when:    close() is called, which makes what is under way a problem; the thread is a daemon
    """

    def __init__(self, settings: EndpointJudge, *, setting: str = "by") -> None:
        """SettingsError where api_key_from names no variable; `setting` is what it calls the section."""
        self.settings = settings
        self.name = settings.model
        self._url = settings.url.rstrip("/") + "/chat/completions"
        self._headers = _headers(settings, setting)
        self._key = _written(self._headers.get("authorization", "").removeprefix("Bearer "))
        self._has_logprobs = settings.logprobs
        self._has_schema = settings.structured != "off"
        self._limit = "max_tokens"
        """What the server calls the longest reply; newer models of OpenAI's refuse the name that all others know."""
        self._loop = asyncio.new_event_loop()
        self._client: httpx.AsyncClient | None = None
        self._places: asyncio.Semaphore | None = None
        self._closed = False
        self._was_reached = False
        self._unreachable = ""
        """What is said of the questions of one call once one of them found that nobody listens there."""
        threading.Thread(target=self._loop.run_forever, name="rlvr-judge", daemon=True).start()

    @property
    def identity(self) -> str:
        """All that a reply depends on beside the question."""
        settings = self.settings
        asked = [settings.url.rstrip("/"), settings.model, settings.logprobs, settings.structured, settings.extra]
        return json.dumps(asked, sort_keys=True)

    def ask(self, questions: Sequence[Question], came: Callable[[int, Reply], None] | None = None) -> list[Reply]:
        """Replies in the order of the questions; `came` is told each as it comes, in the thread that asks."""
        if self._closed:
            return [Reply(problem="the judge was closed") for _ in questions]
        told: queue.SimpleQueue[tuple[int, Reply] | None] = queue.SimpleQueue()
        future = asyncio.run_coroutine_threadsafe(self._all(questions, told), self._loop)
        future.add_done_callback(lambda _: told.put(None))
        try:
            while (one := told.get()) is not None:
                if came is not None:
                    came(*one)
        except BaseException:
            future.cancel()
            raise
        return future.result()

    def close(self) -> None:
        """May be called again."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _end(self) -> None:
        others = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in others:
            # those of ask() end by themselves, once each of their questions has ended
            if task.get_name() == "question":
                task.cancel()
        if others:
            await asyncio.wait(
                others, timeout=_CLOSE_SECONDS / 2
            )  # who asks would wait for ever for a loop that stopped
        if self._client is not None:
            await self._client.aclose()

    async def _all(
        self, questions: Sequence[Question], told: queue.SimpleQueue[tuple[int, Reply] | None]
    ) -> list[Reply]:
        import httpx

        if self._client is None or self._places is None:
            most = self.settings.concurrency
            self._client = httpx.AsyncClient(
                trust_env=not _is_loopback(self._url),
                follow_redirects=False,
                limits=httpx.Limits(max_connections=most, max_keepalive_connections=most),
            )
            self._places = asyncio.Semaphore(most)
        self._was_reached, self._unreachable = False, ""

        async def one(k: int, question: Question) -> Reply:
            reply = self._redacted(await self._one(question))
            told.put((k, reply))
            return reply

        tasks = [asyncio.create_task(one(k, question), name="question") for k, question in enumerate(questions)]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        return [_reply_or_problem(one) for one in found]

    async def _one(self, question: Question) -> Reply:
        assert self._places is not None
        async with self._places:
            seconds = self.settings.deadline_seconds
            attempts = _Attempts(self._loop.time() + seconds)
            try:
                async with asyncio.timeout(seconds):
                    return await self._persistently(question, attempts)
            except TimeoutError:
                last = f"; at last {attempts.last}" if attempts.last else ""
                return Reply(problem=f"{self._shown}: no reply within {seconds:g} s{last}")

    async def _persistently(self, question: Question, attempts: _Attempts) -> Reply:
        while not self._unreachable:
            had = self._has_logprobs, self._has_schema, self._limit
            try:
                return await self._attempt(question)
            except _Failed as failure:
                attempts.last = failure.reason
                if failure.status in (400, 422) and self._goes_without(question, failure.reason, had):
                    continue
                attempts.count += 1
                if not failure.is_passing or attempts.count > self.settings.retries:
                    times = f" ({attempts.count} attempts)" if attempts.count > 1 else ""
                    problem = f"{self._shown}: {failure.reason}{times}"
                    if failure.is_unconnected and not self._was_reached:
                        self._unreachable = problem
                    return Reply(problem=problem)
                left = attempts.end - self._loop.time()
                if failure.pause > left:
                    why = f"it asks for {math.ceil(failure.pause)} s, {int(left)} s of by.deadline_seconds are left"
                    return Reply(problem=f"{self._shown}: {failure.reason}; {why}")
                # a server that says 0, or a date that is past, would have all attempts at once
                growing = min(_FIRST_PAUSE * 2 ** (attempts.count - 1), _LONGEST_PAUSE)
                await asyncio.sleep(max(growing, failure.pause))
        return Reply(problem=self._unreachable)

    def _goes_without(self, question: Question, reason: str, had: tuple[bool, bool, str]) -> bool:
        """Whether to ask again without what the server refused, from now on."""
        if had != (self._has_logprobs, self._has_schema, self._limit):
            return True  # another question found it out meanwhile
        if "max_completion_tokens" in reason and self._limit == "max_tokens":
            self._limit = "max_completion_tokens"
            return True
        if question.letters and self._has_logprobs and "logprob" in reason.lower():
            self._has_logprobs = False
            return True
        if question.schema is not None and self._has_schema and self.settings.structured == "auto":
            self._has_schema = False
            return True
        return False

    async def _attempt(self, question: Question) -> Reply:
        import httpx

        assert self._client is not None
        seconds = self.settings.timeout_seconds
        late = _Failed(f"no answer within {seconds:g} s", is_passing=True)
        received = bytearray()
        try:
            async with (
                asyncio.timeout(seconds),  # a server that drips would outlast the timeout of each read
                self._client.stream(
                    "POST", self._url, json=self._body(question), headers=self._headers, timeout=seconds
                ) as answer,
            ):
                self._was_reached = True
                if answer.headers.get("content-encoding", "identity").lower() == "identity":
                    async for piece in answer.aiter_raw():
                        received += piece
                        if len(received) > _MOST_BYTES:
                            raise _Failed(f"its answer has more than {_MOST_BYTES} bytes")
                elif answer.status_code == 200:  # of another the status says enough
                    raise _Failed("its answer is compressed, which was not asked for")  # a little may unpack to much
        except (TimeoutError, httpx.TimeoutException):
            raise late from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            why = self._without_key(one_line(error, _MOST_BYTES))[:300]
            failed = _Failed(f"cannot be asked: {why}", isinstance(error, httpx.TransportError))
            failed.is_unconnected = isinstance(error, httpx.ConnectError)
            raise failed from None
        if answer.status_code != 200:
            # without the key before it is cut, as a part of the key would stay
            told = " ".join(self._without_key(received.decode("utf-8", "replace"))[:2000].split())
            told = printable(told[:300])
            is_passing = answer.status_code in _AGAIN
            if answer.has_redirect_location:
                told = f"it is moved to {printable(self._without_key(answer.headers['location']))[:300]}"
            why = f"status {answer.status_code}" + (f": {told}" if told else "")
            raise _Failed(why, is_passing, _pause(answer.headers.get("retry-after")), answer.status_code)
        try:
            return _read(json.loads(received), question.letters)
        except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError) as error:
            why = self._without_key(one_line(error, _MOST_BYTES))[:200]
            raise _Failed(f"answers not as OpenAI's API does ({why})") from None

    def _body(self, question: Question) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": list(question.messages),
            self._limit: question.max_tokens,
            "temperature": question.temperature,
            "seed": question.seed,
        }
        if question.letters and self._has_logprobs:
            body |= {"logprobs": True, "top_logprobs": _TOP}
        if question.schema is not None and self._has_schema:
            schema = {"name": "reply", "strict": True, "schema": dict(question.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {name: value for name, value in (body | self.settings.extra).items() if value is not None}

    def _without_key(self, text: str) -> str:
        return text if self._key is None else self._key.sub("***", text)

    def _redacted(self, reply: Reply) -> Reply:
        """Without the key, which some servers repeat; nothing else of a reply is kept or shown."""
        if self._key is None:
            return reply
        hide = self._without_key
        tokens = tuple(
            Token(hide(token.text), token.logprob, tuple((hide(text), logp) for text, logp in token.top))
            for token in reply.tokens
        )
        return replace(reply, text=hide(reply.text), tokens=tokens, problem=hide(reply.problem), note=hide(reply.note))

    @property
    def _shown(self) -> str:
        """Without what follows the path, where some put keys."""
        return self._url.partition("?")[0]


class _Attempts:
    def __init__(self, end: float) -> None:
        self.count, self.last, self.end = 0, "", end


def _headers(settings: EndpointJudge, setting: str) -> dict[str, str]:
    plain = {"accept-encoding": "identity"}
    if settings.api_key_from is None:
        return plain
    key = os.environ.get(settings.api_key_from)
    if not key:
        raise SettingsError(f"{setting}.api_key_from: no environment variable {settings.api_key_from!r}; export it")
    if not key.isprintable() or not key.isascii():
        raise SettingsError(f"{setting}.api_key_from: {settings.api_key_from!r} holds what no header can")
    return plain | {"authorization": f"Bearer {key}"}


def _written(key: str) -> re.Pattern[str] | None:
    """All that a key can look like in JSON and in addresses: each letter plain, as an escape or as a percent code."""
    if len(key) < _LEAST_SECRET:
        return None
    ways = (
        rf"(?:\\{{0,3}}{re.escape(c)}|\\{{1,3}}u(?:{ord(c):04x}|{ord(c):04X})|%(?:{ord(c):02x}|{ord(c):02X}))"
        for c in key
    )
    return re.compile("".join(ways))


def _is_loopback(url: str) -> bool:
    """No proxy is asked for one's own machine."""
    from urllib.parse import urlsplit

    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def _pause(retry_after: str | None) -> float:
    """Seconds that a server asks for, by their number or by the date of their end; 0 where it says neither."""
    if retry_after is None:
        return 0.0
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            end = parsedate_to_datetime(retry_after)
        except (ValueError, OverflowError):
            return 0.0
        # one without a zone is GMT as all dates of HTTP, https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7
        seconds = (end if end.tzinfo else end.replace(tzinfo=UTC)).timestamp() - time.time()
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _reply_or_problem(found: Reply | BaseException) -> Reply:
    if isinstance(found, Reply):
        return found
    if isinstance(found, asyncio.CancelledError):
        return Reply(problem="the judge was closed")
    if isinstance(found, Exception):
        return Reply(problem=one_line(found))
    raise found


def _read(answer: Any, letters: Sequence[str]) -> Reply:
    """What the server said; KeyError and its kin where that is no chat completion."""
    choice = answer["choices"][0]
    message = choice["message"]
    text, refusal = message.get("content"), message.get("refusal")
    if not isinstance(text, str | None):
        raise TypeError(f"content is a {type(text).__name__}")
    given = answer.get("usage")
    usage: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    tokens: list[Token] = []
    for entry in (choice.get("logprobs") or {}).get("content") or ():
        top = tuple((str(one["token"]), log_probability(one["logprob"])) for one in entry.get("top_logprobs") or ())
        tokens.append(Token(str(entry["token"]), log_probability(entry["logprob"]), top))
    finish = choice.get("finish_reason")
    return Reply(
        text=text or "",
        tokens=around_letters(tokens, letters),
        prompt_tokens=token_count(usage.get("prompt_tokens")),
        completion_tokens=token_count(usage.get("completion_tokens")),
        note=str(refusal) if refusal else str(finish) if finish not in ("stop", None) else "",
    )
