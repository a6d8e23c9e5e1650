"""The label page's server as an ASGI application: who may ask, what they are asked, what they answer."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

import rlvr
from rlvr.errors import DataError, DiskError
from rlvr.feedback.checks import attributes_of, name_problem
from rlvr.feedback.leases import Board, Key, Said, shown_order
from rlvr.feedback.names import ANONYMOUS
from rlvr.feedback.records import RATINGS, Item, Judgement, Mode
from rlvr.feedback.schema import Draft, Event, answer_of, judgement_json
from rlvr.feedback.store import Store
from rlvr.feedback.submits import Submit, as_shown, judgement_from, parse_event, parse_feedback
from rlvr.feedback.writer import Writer
from rlvr.serve.limits import ServeLimits
from rlvr.serve.web import Refusal, check_media, is_known_host, json_response, read_body, read_json

log = logging.getLogger("rlvr.label")
PAGE = Path(__file__).parent / "page"
LIMITS = ServeLimits(body_bytes=4 << 20, num_values=100_000, depth=16, idle_seconds=75)
"""4 MiB: a text of 200,000 characters in any script, or a thousand rows of feedback of 4 KiB."""
REASONS = (
    "I do not know enough about this",
    "The question makes no sense",
    "Broken or unreadable",
    "I would rather not read this",
)
"""Offered for a skip, behind what the mode asks; others may be written."""
_CANNOT: dict[Mode, str] = {
    "compare": "I cannot tell which is better",
    "rank": "I cannot tell which is better",
    "rate": "I cannot rate this",
    "thumbs": "I cannot tell whether this is good",
    "write": "I cannot write a good answer",
    "spans": "I cannot tell what to mark",
}
_MEDIA = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_POLICY = (
    "default-src 'self'; img-src 'none'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_ROUTES = {
    "/api/me": "GET",
    "/api/next": "GET",
    "/api/event": "POST",
    "/api/stats": "GET",
    "/feedback": "POST",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the page's people see, and who they are."""

    names: tuple[str, ...] = ()
    """Who has a link of their own; empty: all share one, and say who they are."""
    guideline: str | None = None
    labels: tuple[str, ...] = ("toxic",)
    """Of marked spans."""
    hosts: frozenset[str] = field(default_factory=frozenset[str])
    """Names that the Host header may bear, beside this machine's own."""


@dataclass(frozen=True, slots=True)
class _Who:
    name: str
    is_shared: bool
    """Came by the token of the database, not by one of their own."""


class Service:
    """An ASGI application. The events are the truth; the board is made of them, and lives in one event loop."""

    def __init__(self, store: Store, reader: Store, writer: Writer, board: Board, settings: Settings) -> None:
        self._store, self._reader, self._writer, self._board = store, reader, writer, board
        self._settings = settings
        self._token = token_of(store).encode()
        self._personal = {name: token_of(store, name).encode() for name in settings.names}
        self._order_secret = store.keyed("order")
        self._guideline = guideline_hash(settings.guideline)
        self._locks: dict[str, asyncio.Lock] = {}
        """One answer of a person at a time, in the order in which they came."""
        self._item: Callable[[str], Item] = lru_cache(maxsize=64)(reader.item)
        self._computing = asyncio.Lock()
        self._statistics_text, self._statistics_at = "", (-1, "")
        """Of the events up to that one."""
        self._files = _page_files()
        handlers = {
            "/api/me": self._me,
            "/api/next": self._next,
            "/api/event": self._event,
            "/api/stats": self._statistics,
            "/feedback": self._feedback,
        }
        routes = [Route(path, handlers[path], methods=[method]) for path, method in _ROUTES.items()]
        routes += [Route(path, self._static, methods=["GET"]) for path in self._files]
        self._app = Starlette(routes=routes, exception_handlers=_HANDLERS)
        self._app.router.redirect_slashes = False

    def refused(self, kind: str) -> None:
        """Connections that were cut off; nothing counts them."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. What fails here is told without its text, which may hold what was sent."""
        assert scope["type"] == "http", scope["type"]

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        request = Request(scope)
        try:
            self._check_host(request)
            await self._app(scope, receive, answer)
        except Refusal as refusal:
            await (await _refused(request, refusal))(scope, receive, answer)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            log.error("%s at %s:%s", type(error).__name__, last.filename, last.lineno)

    # --- who may ask --------------------------------------------------------------------------------------------------

    def _check_host(self, request: Request) -> None:
        hosts = self._settings.hosts
        if hosts and request.scope.get("server"):  # by the address at which we were reached
            hosts = hosts | {request.scope["server"][0].lower()}
        if not is_known_host(request.headers.getlist("host"), hosts):
            raise Refusal(400, "host", "the Host header names no host of this server (DNS rebinding?)")

    def _who(self, request: Request) -> _Who:
        given = request.headers.get("x-token", "").strip().encode("utf-8", "surrogateescape")
        for name, token in self._personal.items():
            if hmac.compare_digest(given, token):
                return _Who(name, is_shared=False)
        if not hmac.compare_digest(given, self._token):
            raise Refusal(401, "token", "a token is needed (x-token): open the link that rlvr label has printed")
        return _Who(_annotator(request.headers.get("x-annotator")), is_shared=True)

    def _labeller(self, request: Request) -> _Who:
        who = self._who(request)
        if who.is_shared and self._personal:
            raise Refusal(403, "token", "everybody who labels has a link of their own here (--annotators)")
        return who

    # --- answers ------------------------------------------------------------------------------------------------------

    async def _static(self, request: Request) -> Response:
        content, media = self._files[request.scope["path"]]
        return Response(content, media_type=media)

    async def _me(self, request: Request) -> Response:
        who = self._labeller(request)
        told = {
            "annotator": who.name,
            "is_shared": who.is_shared,
            "guideline": self._settings.guideline,
            "app_version": rlvr.__version__,
        }
        return json_response(200, told | self._progress(who.name))

    async def _next(self, request: Request) -> Response:
        name = self._labeller(request).name
        key = self._board.next(name)
        return json_response(200, {"item": self._as_shown(name, key) if key else None} | self._progress(name))

    def _as_shown(self, name: str, key: Key) -> dict[str, Any]:
        """What the page shows: nothing of the item that tells where a completion comes from."""
        item = self._item(key[0])
        shown = shown_order(self._order_secret, name, key, len(item.completions))
        is_draft = item.mode == "write" and bool(item.completions)
        previous = self._board.previous(name, key)
        low, high = RATINGS
        return {
            "id": item.id,
            "showing": key[1],
            "mode": item.mode,
            "prompt": item.prompt,
            "completions": [] if is_draft else [item.completions[index] for index in shown],
            "attributes": list(attributes_of(item)),
            "rating": {"low": low, "high": high},
            "draft": item.completions[0] if is_draft else None,
            "labels": list(self._settings.labels),
            "reasons": [_CANNOT[item.mode], *REASONS],
            "lease": self._lease(name, key),
            "previous": as_shown(previous[0], shown, previous[1]) if previous is not None else None,
        }

    async def _event(self, request: Request) -> Response:
        who = self._labeller(request)
        submit = parse_event(await self._json(request))
        async with self._locks.setdefault(who.name, asyncio.Lock()):
            if submit.is_undo:
                return await self._undo(who.name, submit)
            return await self._answer(who.name, submit)

    async def _answer(self, name: str, submit: Submit) -> Response:
        key = (submit.item, submit.showing)
        if not hmac.compare_digest(submit.lease.encode("utf-8", "replace"), self._lease(name, key).encode()):
            raise Refusal(422, "fields", "lease: that item was not given to you")
        item = self._item(submit.item)
        shown = shown_order(self._order_secret, name, key, len(item.completions))
        judgement = judgement_from(submit.given, item, shown, self._settings.labels)
        if (there := self._reader.event(submit.uuid)) is not None:
            _check_same(there, name, "answer", key, judgement)
            return self._told(name, there.kind)
        has_room = self._board.hold(name, key)
        try:
            body = {"judgement": judgement_json(judgement), "source": "page"}
            body |= {"comment": submit.comment} if submit.comment else {}
            draft = Draft(
                uuid=submit.uuid,
                kind="answer" if has_room else "late",
                annotator=name,
                item=submit.item,
                showing=submit.showing,
                body=body,
                shown=shown,
                seconds=submit.seconds,
                guideline=self._guideline,
            )
            event, is_new = await self._writer.append(draft)
            if not is_new:  # of somebody else, sent at the same time
                _check_same(event, name, "answer", key, judgement)
            elif has_room:
                self._board.answered(name, key, is_skip=judgement.skipped is not None, can_undo=True)
        finally:
            if has_room:
                self._board.release(name, key)
        return self._told(name, event.kind)

    async def _undo(self, name: str, submit: Submit) -> Response:
        if (there := self._reader.event(submit.uuid)) is not None:
            _check_same(there, name, "undo")
            return self._told(name, "undo")
        key = self._board.last(name)
        if key is None:
            raise Refusal(409, "fields", "there is no answer of yours to take back")
        last = self._reader.standing(key[0], name, key[1])
        assert last is not None, key
        draft = Draft(uuid=submit.uuid, kind="undo", annotator=name, item=key[0], showing=key[1])
        event, is_new = await self._writer.append(draft)
        if is_new:
            self._board.undone(name, key, (last.judgement, last.comment))
        else:  # of somebody else, sent at the same time
            _check_same(event, name, "undo")
        return self._told(name, "undo")

    def _told(self, name: str, kind: str) -> Response:
        if kind == "late":
            error = "others have answered this meanwhile; yours is kept, but does not count"
            return json_response(409, {"ok": False, "error": error} | self._progress(name))
        return json_response(200, {"ok": True} | self._progress(name))

    async def _feedback(self, request: Request) -> Response:
        """It names whoever it likes as the user, so not for those who have a link of their own."""
        if not self._who(request).is_shared:
            raise Refusal(403, "token", "feedback of a deployed model comes with the token of the database")
        rows = parse_feedback(await self._json(request))
        try:
            added = await self._writer.work(lambda store: add_feedback(store, rows))
        except DataError as error:
            raise Refusal(409, "fields", str(error)) from None
        return json_response(200, {"added": added, "repeated": len(rows) - added})

    async def _statistics(self, request: Request) -> Response:
        """Of the whole crowd, so not for those who are measured by them where each has a link of their own."""
        if not self._who(request).is_shared:
            raise Refusal(403, "token", "statistics are for who holds the link of the database")
        async with self._computing:
            head = self._reader.head()
            if self._statistics_at != head:
                self._statistics_text, self._statistics_at = await statistics_of(self._reader.path), head
            return Response(self._statistics_text, media_type="application/json")

    # --- within -------------------------------------------------------------------------------------------------------

    async def _json(self, request: Request) -> Any:
        check_media(request)
        return read_json(await read_body(request, LIMITS, lambda _: None), LIMITS, once=True)

    def _progress(self, name: str) -> dict[str, Any]:
        progress = self._board.progress(name)
        return {"done": progress.done, "total": progress.total, "can_undo": progress.can_undo}

    def _lease(self, name: str, key: Key) -> str:
        """Shows that this server has given the item to that person, also after it was started anew."""
        return self._store.keyed("lease", name, key[0], str(key[1]))[:32]


def token_of(store: Store, name: str | None = None) -> str:
    """Of one person; of the database itself where none is named."""
    if name is None:
        return store.meta("token") or ""
    return store.keyed("token", name)


def guideline_hash(guideline: str | None) -> str:
    """By which events name it; "" for none."""
    return hashlib.sha256(guideline.encode()).hexdigest()[:16] if guideline is not None else ""


def fill_board(board: Board, store: Store) -> None:
    """All items that people are asked, and what has happened to them."""
    for item in store.asked():
        is_measured = item.gold is not None
        board.add_item(item.id, is_gold=is_measured, can_repeat=item.mode != "write")
    standing: dict[tuple[str, Key], Said] = {}
    for event in store.events():
        if event.kind not in ("answer", "undo") or event.item is None or not board.has(event.item):
            continue
        key = (event.item, event.showing)
        if event.kind == "undo":
            if (last := standing.pop((event.annotator, key), None)) is not None:
                board.undone(event.annotator, key, last)
            continue
        answer = answer_of(event)
        if answer.source != "judge":  # people are asked besides
            standing[event.annotator, key] = (answer.judgement, answer.comment)
            is_skip = answer.judgement.skipped is not None
            board.answered(event.annotator, key, is_skip=is_skip, can_undo=answer.source == "page")


def add_feedback(store: Store, rows: Sequence[tuple[Any, Any]]) -> int:
    """How many rows were new. DataError: an id that is there with other content."""
    items: dict[str, Item] = {}
    for given, _ in rows:
        item = items.get(given.id) or _there(store, given.id) or given
        for name in ("prompt", "completions", "mode"):
            if getattr(item, name) != getattr(given, name):
                raise DataError(f"id {given.id.removeprefix('api/')[:80]!r} is there with another {name}")
        items[given.id] = item  # what else a row tells (time, model) is kept of the first
    return store.add(items.values(), [answer for _, answer in rows], is_asked=False)[1]


async def statistics_of(path: Path) -> str:
    """All figures of rlvr.feedback.statistics, as JSON. In a process of its own: it may take seconds, which nobody who
    labels is to wait for."""
    words = (sys.executable, "-m", "rlvr", "feedback", "stats", str(path), "--json")
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:  # the server ends
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        log.error("statistics: %s", err.decode("utf-8", "replace")[-2000:])
        raise Refusal(500, "failed", "statistics could not be computed; the server's log says why")
    return out.decode().splitlines()[-1]


def _there(store: Store, id: str) -> Item | None:
    try:
        return store.item(id)
    except DataError:
        return None


def _check_same(there: Event, name: str, kind: str, key: Key | None = None, judgement: Judgement | None = None) -> None:
    """Refusal where the UUID is that of something else."""
    is_same = there.annotator == name and (there.kind == kind or (kind == "answer" and there.kind == "late"))
    if is_same and key is not None and judgement is not None:
        is_same = (there.item, there.showing) == key and there.body["judgement"] == judgement_json(judgement)
    if not is_same:
        raise Refusal(422, "fields", "event: this UUID was used for something else")


def _annotator(header: str | None) -> str:
    if not header:
        return ANONYMOUS
    try:
        name = unquote(header, errors="strict").strip()
    except UnicodeDecodeError:
        raise Refusal(400, "fields", "x-annotator must be a percent-encoded name") from None
    if problem := name_problem(name):
        raise Refusal(400, "fields", f"x-annotator: the name {problem}")
    return name


def _page_files() -> Mapping[str, tuple[bytes, str]]:
    """{path: (content, media type)} of the page, read once."""
    files = {f"/{path.name}": path for path in sorted(PAGE.iterdir()) if path.suffix in _MEDIA}
    files |= {
        short: files.pop(path) for short, path in (("/", "/index.html"), ("/stats", "/stats.html")) if path in files
    }
    return {name: (path.read_bytes(), _MEDIA[path.suffix]) for name, path in files.items()}


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    headers = {"retry-after": str(refusal.retry_after)} if refusal.retry_after else {}
    return json_response(refusal.status, {"error": refusal.message}, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = ", ".join(f"{method} {path}" for path, method in _ROUTES.items())
    return json_response(
        error.status_code, {"error": f"{error.detail.lower()}; there are {known}"}, dict(error.headers or {})
    )


async def _no_disk(request: Request, error: Exception) -> Response:
    """Nothing of it is written; the page sends it again."""
    log.error("%s", error)
    return json_response(503, {"error": f"{error}; try again when there is space"}, {"retry-after": "5"})


async def _damaged(request: Request, error: Exception) -> Response:
    """Somebody changed the database by other means while it is served."""
    log.error("%s", error)
    return json_response(500, {"error": "the database is damaged; the server's log says where"})


async def _failed(request: Request, error: Exception) -> Response:
    """Ours; Starlette raises it again afterwards, and it is logged there."""
    return json_response(500, {"error": "the server failed; its log says where"})


_HANDLERS: Any = {
    HTTPException: _http_error,
    Refusal: _refused,
    DiskError: _no_disk,
    DataError: _damaged,
    Exception: _failed,
}
