"""The label page's server as a process: its database, its socket, its beginning and its end."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlvr.errors import DataError, SettingsError
from rlvr.feedback.app import LIMITS, Service, Settings, fill_board, guideline_hash, token_of
from rlvr.feedback.leases import Board, Plan
from rlvr.feedback.records import Item
from rlvr.feedback.schema import Draft
from rlvr.feedback.store import Store
from rlvr.feedback.writer import Writer
from rlvr.serve.web import bind, run_app

SHARED = "shared"
"""The name of the link that all take where nobody has one of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to listen. Address(host="127.0.0.1", port=8765)"""

    host: str = "127.0.0.1"
    port: int = 8765
    """0: a free one."""
    allow_remote: bool = False
    """Needed for a host that others can reach."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names for the Host header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What to tell once requests are answered."""

    url: str
    links: dict[str, str]
    """By name; of all together under SHARED where nobody has one of their own."""
    owner: str
    """Link with the token of the database: statistics, POST /feedback."""
    num_items: int
    num_answers: int


def serve(
    path: Path,
    items: Sequence[Item] | None,
    address: Address,
    plan: Plan,
    settings: Settings,
    ready: Callable[[Ready], None],
    *,
    groups: dict[str, str] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then what was sent is on the disk. `items`: added first; None: those there.

    SettingsError where the address cannot be used or would be open to others; DataError, DiskError as Store.open.
    """
    listener, is_loopback = bind(address.host, address.port)
    with listener:
        if not is_loopback and not address.allow_remote:
            raise SettingsError(
                f"--host {address.host} is not loopback, so that others could reach the page over plain HTTP; "
                "give --allow-remote where that is meant"
            )
        with Store.open(path, create=items is not None) as store:
            if items is not None:
                store.add_items(items)
            _note(store, settings.guideline, groups or {})
            settings = replace(settings, names=_people(store, settings.names))
            board = Board(store.keyed("order"), plan)
            fill_board(board, store)
            if not board.num_items:
                raise DataError(f"{path}: holds no item that people can be asked; give a FILE of them")
            settings = replace(settings, hosts=_hosts(address, is_loopback))
            with Store.open(path, readonly=True) as reader:
                asyncio.run(_run(store, reader, board, settings, listener, ready))


async def _run(
    store: Store,
    reader: Store,
    board: Board,
    settings: Settings,
    listener: socket.socket,
    ready: Callable[[Ready], None],
) -> None:
    writer = Writer(store)
    try:
        service = Service(store, reader, writer, board, settings)
        num_answers = sum(1 for _ in reader.answers())

        def tell(url: str) -> None:
            url = _reachable(url)
            owner = f"{url}/#{token_of(store)}"
            links = {name: f"{url}/#{token_of(store, name)}" for name in settings.names} or {SHARED: owner}
            ready(Ready(url=url, links=links, owner=owner, num_items=board.num_items, num_answers=num_answers))

        await run_app(service, lambda: None, service, LIMITS, (), listener, tell)
    finally:
        writer.end()


def _note(store: Store, guideline: str | None, groups: dict[str, str]) -> None:
    """Keep the text that people were told, once for each text, and the groups."""
    for name, group in groups.items():
        store.set_group(name, group)
    if guideline is None:
        return
    key = guideline_hash(guideline)
    if not any(event.kind == "guideline" and event.guideline == key for event in store.events()):
        body = {"text": guideline}
        store.append([Draft(uuid=str(uuid.uuid4()), kind="guideline", body=body, guideline=key)])


def _people(store: Store, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those who are named, else those of an earlier start: a link that all share would let each answer for another."""
    before = store.meta("annotators") or ""
    if names and "\n".join(names) != before:
        store.set_meta("annotators", "\n".join(names))
    return names or tuple(before.split("\n") if before else ())


def _hosts(address: Address, is_loopback: bool) -> frozenset[str]:
    own = [] if is_loopback else [socket.gethostname(), socket.getfqdn()]
    return frozenset(name.lower() for name in (address.host, *address.allowed_hosts, *own))


def _reachable(url: str) -> str:
    """Where all addresses are listened on, the name of this machine."""
    for anywhere in ("//0.0.0.0:", "//[::]:"):
        url = url.replace(anywhere, f"//{socket.gethostname()}:")
    return url
