"""What our web services share: which hosts and bodies they take, their sockets, their connections, their end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import json
import logging
import math
import re
import signal
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from rlvr.errors import SettingsError
from rlvr.serve.limits import ServeLimits

HEAD_BYTES = 16 << 10
"""Of a request's line and headers."""
_BACKSTOP_SECONDS = 2
"""After close_seconds, for connections whose client does not read or hang up."""
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?", re.IGNORECASE)
# an unterminated text runs to the end, so that no quote inside it is looked at again
_TEXTS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]"))


class Refusal(Exception):
    """The whole request is refused."""

    def __init__(self, status: int, kind: str, message: str, retry_after: int = 0) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.kind = kind
        """For the metrics: a word out of metrics.REFUSALS."""
        self.retry_after = retry_after
        """Seconds; 0: asking again does not help."""


class Counts(Protocol):
    """Who is told why a connection was refused: a word out of metrics.REFUSALS."""

    def refused(self, kind: str) -> None: ...


# --- requests ---------------------------------------------------------------------------------------------------------


def is_known_host(given: Sequence[str], hosts: Collection[str] | None) -> bool:
    """Whether Host headers name this machine or one of `hosts` (lower case; None: any name will do).

    A web page whose name was made to point here sends its own name; a program sends ours.
    """
    if hosts is None:
        return True
    match = _HOST.fullmatch(given[0]) if len(given) == 1 else None
    if match is None:
        return False
    host = (match[1] or match[2]).lower().removesuffix(".")
    if host == "localhost" or host in hosts:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_media(request: Request) -> None:
    """Refusal of all but JSON: a browser asks another site before it sends it that, and gets no answer to that here."""
    media = request.headers.get("content-type", "").lower().replace(" ", "").replace('"', "")
    if media not in ("application/json", "application/json;charset=utf-8"):
        raise Refusal(415, "type", "the Content-Type must be application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "encoding", "the body must not be compressed (Content-Encoding)")


async def read_body(request: Request, limits: ServeLimits, add: Callable[[int], None]) -> bytes:
    """The body, counted while it arrives: what its headers say may be wrong, or missing.

    `add` is told of the bytes of each part. Refusal: too large, too slow, cut off.
    """
    most = limits.body_bytes
    too_large = Refusal(413, "size", f"the body has more than {most} bytes")
    if int(request.headers.get("content-length", "0")) > most:  # uvicorn lets digits through alone
        raise too_large
    received = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                received += chunk
                if len(received) > most:
                    raise too_large
                add(len(chunk))
    except TimeoutError:
        seconds = limits.body_seconds
        raise Refusal(408, "slow", f"the body was not there within {seconds} s") from None
    except ClientDisconnect:
        raise gone() from None
    return bytes(received)


def gone() -> Refusal:
    """For whom nobody waits any more."""
    return Refusal(499, "gone", "the client has hung up")  # nobody reads it but the metrics


def json_response(status: int, body: Any, headers: dict[str, str] | None = None) -> Response:
    """An answer with that body."""
    # ASCII alone: what was sent may hold half of a surrogate pair, which UTF-8 has no bytes for
    return Response(json.dumps(body), status, headers, media_type="application/json")


def read_json(raw: bytes, limits: ServeLimits, *, once: bool = False) -> Any:
    """A body as plain data. Refusal: none, too deep, more values than fit; where `once`, a key twice in an object."""
    _check_shape(raw, limits)
    numbers: dict[str, Any] = {"parse_constant": _no_constant, "parse_float": _number, "parse_int": _integer}
    try:
        return json.loads(raw.decode("utf-8"), **numbers, object_pairs_hook=_each_once if once else None)
    except UnicodeDecodeError as error:
        raise Refusal(400, "json", f"the body is not UTF-8 (byte {error.start})") from None
    except ValueError as error:
        raise Refusal(400, "json", f"the body is no JSON: {error}") from None


def _check_shape(raw: bytes, limits: ServeLimits) -> None:
    """Refusal for bytes that would cost the parser its stack, or a hundred times their size. Linear for each level."""
    bare = _TEXTS.sub(b"0", raw).translate(_BRACKETS, b" \t\r\n")
    brackets = bare.translate(None, _NO_BRACKETS)
    # each value stands behind a comma, or first in its list or object, but for the body itself
    if 1 + bare.count(b",") + bare.count(b"[") - bare.count(b"[]") > limits.num_values:
        raise Refusal(413, "values", f"the body has more than {limits.num_values} values")
    for _ in range(limits.depth):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise Refusal(400, "json", f"the body is no JSON, or nested deeper than {limits.depth} levels")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two values for one key one reader takes the first, another the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)[:40]!r} is there twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number in JSON")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > 4300:  # beyond it Python refuses by itself, with advice that is of no use to a client
        raise ValueError(f"a number has {len(text)} digits, at most 4300 are read")
    return int(text)


# --- the process ------------------------------------------------------------------------------------------------------


def bind(host: str, port: int) -> tuple[socket.socket, bool]:
    """(a socket that does not listen yet, whether only this machine can reach it). SettingsError: it cannot be had."""
    where = f"--host {host} --port {port}"
    if len(host) > 253 or not host.isprintable() or " " in host:  # as long as a name of DNS may be
        raise SettingsError(f"--host {host[:40]!r} ({len(host)} characters) is no name or address of a machine")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, name = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(name)
        except BaseException:
            listener.close()
            raise
    except OSError as error:  # gaierror is one too
        free = "; --port 0 takes a free port" if error.errno == errno.EADDRINUSE else ""
        raise SettingsError(f"{where}: {error.strerror}{free}") from None
    except (UnicodeError, OverflowError) as error:  # a label of more than 63 characters, a port above 65535
        raise SettingsError(f"{where}: {error}") from None
    return listener, ipaddress.ip_address(str(name[0]).partition("%")[0]).is_loopback


async def run_app(
    app: ASGIApp,
    close: Callable[[], None],
    counts: Counts,
    limits: ServeLimits,
    proxies: Sequence[str],
    listener: socket.socket,
    ready: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT, at which `close` is called; `ready` gets the URL once requests are answered."""
    connection: Any = functools.partial(Connection, limits=limits, metrics=counts)  # made where uvicorn takes a class
    config = uvicorn.Config(
        app,
        http=connection,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        timeout_keep_alive=limits.idle_seconds,
        timeout_graceful_shutdown=limits.close_seconds + _BACKSTOP_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what clients do wrong; the service has its own log
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    server = Server(config, lambda: ready(url))

    def stop() -> None:
        server.should_exit = True
        close()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await server.serve([listener])


class Server(uvicorn.Server):
    """Says when it is ready, and leaves the signals to us: uvicorn's own way ends the process by the signal."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:  # another process has begun to listen there since _bind()
            raise SettingsError(f"cannot listen: {error.strerror}; --port 0 takes a free port") from None
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Connection(H11Protocol):
    """One connection, which cannot be held for nothing: uvicorn has no limits for slow heads and slow readers."""

    def __init__(self, *args: Any, limits: ServeLimits, metrics: Counts, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits, self._metrics = limits, metrics
        self._head: asyncio.TimerHandle | None = None
        """Runs while no request is being answered; also where an answer is not read to its end."""
        self._unread: asyncio.TimerHandle | None = None
        """Runs while so much of an answer is not read that the next one waits."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.num_connections:
            self._metrics.refused("connections")
            transport.abort()
            return
        self._await_head(0)

    def handle_events(self) -> None:
        super().handle_events()
        if self._is_answering():
            _cancel(self._head)

    def on_response_complete(self) -> None:
        super().on_response_complete()  # goes on with the next request where that is there already
        if not self._is_answering():
            is_sent = self.transport.get_write_buffer_size() == 0
            self._await_head(self._limits.idle_seconds if is_sent else self._limits.send_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        _cancel(self._head)
        _cancel(self._unread)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self._limits.send_seconds, self._give_up)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._unread)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's, as JSON: the bytes are no HTTP, or a head is too long."""
        self._metrics.refused("http")
        body = json.dumps({"error": f"no HTTP request, or a head of more than {HEAD_BYTES} bytes"}).encode()
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self, before: float) -> None:
        """The next request's head has to be there in head_seconds, after what the client may take before it."""
        _cancel(self._head)
        self._head = self.loop.call_later(before + self._limits.head_seconds, self._give_up)

    def _give_up(self) -> None:
        self._metrics.refused("slow")
        self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
