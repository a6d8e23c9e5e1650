"""The verify service as an ASGI application: who may ask, what is refused, what is answered."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from rlvr.serve.judging import Judge
from rlvr.serve.limits import Buckets, ServeLimits, client_of
from rlvr.serve.metrics import CONTENT_TYPE, Metrics
from rlvr.serve.offer import Offer
from rlvr.serve.openapi import PATHS, describe
from rlvr.serve.requests import Item, parse
from rlvr.serve.web import Refusal, check_media, gone, is_known_host, json_response, read_body
from rlvr.types import Verdict

log = logging.getLogger("rlvr.serve")
_QUIET = ("/healthz", "/metrics")
"""Asked every few seconds by machines; in the log only where the answer is not 200."""
_T = TypeVar("_T")
_HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


class Service:
    """An ASGI application. Everything but `judge` is settings and counts; runs in one event loop."""

    def __init__(
        self,
        judge: Judge,
        metrics: Metrics,
        limits: ServeLimits,
        offer: Offer,
        *,
        token: str | None,
        hosts: Sequence[str] | None,
    ) -> None:
        self.metrics = metrics
        self._judge, self._limits, self._offer = judge, limits, offer
        self._token = token.encode("ascii") if token is not None else None
        self._hosts = {host.lower() for host in hosts} if hosts is not None else None
        """Names that the Host header may bear, beside this machine's own; None: any."""
        self._buckets = Buckets(limits.rate, limits.burst)
        self._buffered = 0
        """Bytes of the bodies under way."""
        self._num_requests = 0
        self._closing = False
        self._refuse = asyncio.Event()
        self._parser = ThreadPoolExecutor(1, "rlvr-serve-parse")
        """One body at a time: parsed ones are several times their size."""
        self._description = describe(limits, offer.defaults, needs_token=token is not None)
        endpoints = {
            "/": self._pointer,
            "/healthz": self._health,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
            "/v1/verify": self._verify,
        }
        routes = [Route(path, endpoints[path], methods=[PATHS[path].upper()]) for path in PATHS]
        self._app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error, Refusal: self._refused})
        self._app.router.redirect_slashes = False

    def close(self) -> None:
        """Refuse what comes from now on, and in close_seconds what is then still under way."""
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_later(self._limits.close_seconds, self._refuse.set)

    def end(self) -> None:
        """Once nothing is under way any more."""
        self._parser.shutdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from the first refusal that applies to the line in the log."""
        assert scope["type"] == "http", scope["type"]
        start, status = time.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        self._num_requests += 1
        request = Request(scope)
        try:
            self._check(request)
            await self._app(scope, receive, answer)
        except Refusal as refusal:
            response = await self._refused(request, refusal)
            await response(scope, receive, answer)
        except Exception as error:  # ours: told without its text, which may hold what was sent
            last = traceback.extract_tb(error.__traceback__)[-1]
            log.error("%s at %s:%s", type(error).__name__, last.filename, last.lineno)
            if not status:
                await json_response(500, {"error": "the service failed; its log says where"})(scope, receive, answer)
        finally:
            self._num_requests -= 1
            path = scope["path"] if scope["path"] in PATHS else "other"
            self.metrics.answered(path, status)
            if path not in _QUIET or status != 200:
                items = f" {scope['rlvr.items']} items" if "rlvr.items" in scope else ""
                method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "?"
                seconds = time.monotonic() - start
                log.info("%s %s %s%s %.3f s %s", method, path, status, items, seconds, _client(scope))

    # --- who may ask --------------------------------------------------------------------------------------------------

    def _check(self, request: Request) -> None:
        """Refusal where the host, the rate or the token say so."""
        if not is_known_host(request.headers.getlist("host"), self._hosts):
            raise Refusal(400, "host", "the Host header names no host of this service (DNS rebinding?)")
        path = request.scope["path"]
        if path != "/healthz":
            self._charge(request, 1)
        if path in ("/v1/verify", "/metrics") and not self._is_allowed(request):
            raise Refusal(401, "token", "a token is needed: Authorization: Bearer TOKEN (or x-token: TOKEN)")

    def _is_allowed(self, request: Request) -> bool:
        if self._token is None:
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = request.headers.get("x-token", "")
        return hmac.compare_digest(given.strip().encode("utf-8"), self._token)

    def _charge(self, request: Request, count: int) -> None:
        seconds = self._buckets.take(client_of(_client(request.scope)), count)
        if seconds:
            per = f"{self._limits.rate} a second, {self._limits.burst} at once"
            raise Refusal(429, "rate", f"too many requests and items ({per}); try again in {seconds} s", seconds)

    # --- answers ------------------------------------------------------------------------------------------------------

    async def _pointer(self, request: Request) -> Response:
        return Response("rlvr serve verify: POST /v1/verify, described in /openapi.json\n", media_type="text/plain")

    async def _openapi(self, request: Request) -> Response:
        return json_response(200, self._description)

    async def _health(self, request: Request) -> Response:
        """That there is any answer says that the service is alive."""
        why = "the service is ending" if self._closing else await self._judge.ready()
        return json_response(503 if why else 200, {"alive": True, "ready": not why, "why": why})

    async def _metrics(self, request: Request) -> Response:
        gauges = {
            "in_flight_items": (self._judge.num_items, "Items admitted and not yet answered."),
            "in_flight_requests": (self._num_requests, "Requests not yet answered, this one among them."),
            "buffered_bytes": (self._buffered, "Bytes of the bodies of requests under way."),
        }
        return Response(self.metrics.text(gauges), headers={"content-type": CONTENT_TYPE})

    async def _verify(self, request: Request) -> Response:
        """The verdicts, unless the service ends before they are there."""
        if self._closing:
            raise _ending()
        return await _unless(self._refuse.wait(), _ending(), self._verdicts(request))

    async def _verdicts(self, request: Request) -> Response:
        check_media(request)
        with self._buffer() as add:
            raw = await read_body(request, self._limits, add)
            loop = asyncio.get_running_loop()
            items = await loop.run_in_executor(self._parser, parse, raw, self._limits, self._offer)
            request.scope["rlvr.items"] = len(items)
            self._charge(request, len(items))
            with self._judge.admitted(len(items)):
                verdicts = await _unless(_hung_up(request), gone(), self._judge.judge(items))
            return _answer(items, verdicts)

    @contextlib.contextmanager
    def _buffer(self) -> Iterator[Callable[[int], None]]:
        """A body's part of the memory for all of them: how many bytes more are wanted. Refusal where it is full."""
        most, size = self._limits.buffered_bytes, 0

        def add(more: int) -> None:
            nonlocal size
            if self._buffered + more > most:
                raise Refusal(503, "buffer", f"the bodies under way have {most} bytes together; try again", 1)
            self._buffered += more
            size += more

        try:
            yield add
        finally:
            self._buffered -= size

    async def _refused(self, request: Request, refusal: Exception) -> Response:
        assert isinstance(refusal, Refusal)
        self.metrics.refused(refusal.kind)
        headers = {"retry-after": str(refusal.retry_after)} if refusal.retry_after else {}
        if refusal.status == 401:
            headers["www-authenticate"] = "Bearer"
        return json_response(refusal.status, {"error": refusal.message}, headers)


def _answer(items: Sequence[Item], verdicts: Sequence[Verdict]) -> Response:
    rows = [_row(item, verdict) for item, verdict in zip(items, verdicts, strict=True)]
    return Response('{"verdicts": [' + ", ".join(rows) + "]}", media_type="application/json")


def _row(item: Item, verdict: Verdict) -> str:
    try:
        return json.dumps({"id": item.id, **_told(verdict)}, allow_nan=False)
    except ValueError:  # infinity, which the pool lets through
        reason = "its verdict holds a number that JSON has no word for"
        verdict = Verdict(score=None, outcome="error", reason=reason, verifier=verdict.verifier)
        return json.dumps({"id": item.id, **_told(verdict)})


def _told(verdict: Verdict) -> dict[str, Any]:
    """What a client is told: not what was printed, which may tell of this machine."""
    fields = asdict(verdict)
    del fields["stderr"]
    return fields


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = ", ".join(f"{method.upper()} {path}" for path, method in PATHS.items())
    headers = dict(error.headers or {})
    return json_response(error.status_code, {"error": f"{error.detail.lower()}; there are {known}"}, headers)


async def _unless(event: Awaitable[Any], refusal: Refusal, work: Awaitable[_T]) -> _T:
    """What the work comes to; it is taken back, and the refusal raised, where the event comes first."""
    tasks = working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(event)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done() and not working.done():
            raise refusal
        return working.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _client(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else "unknown"


def _ending() -> Refusal:
    return Refusal(503, "closing", "the service is ending; try again elsewhere or later", 1)
