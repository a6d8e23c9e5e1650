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
    are_of_before: bool
    """The links are those of an earlier start: this one names nobody."""
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
            before = (store.meta("annotators") or "").split("\n")
            are_of_before = not settings.names and before != [""]
            if are_of_before:  # a link that all share would let each answer for another
                settings = replace(settings, names=tuple(before))
            board = Board(store.keyed("order"), plan)
            fill_board(board, store)
            if not board.num_items:
                raise DataError(f"{path}: holds no item that people can be asked; give a FILE of them")
            _note(store, settings, groups or {})
            settings = replace(settings, hosts=_hosts(address, is_loopback))
            with Store.open(path, readonly=True) as reader:
                asyncio.run(_run(store, reader, board, settings, listener, ready, are_of_before))


async def _run(
    store: Store,
    reader: Store,
    board: Board,
    settings: Settings,
    listener: socket.socket,
    ready: Callable[[Ready], None],
    are_of_before: bool,
) -> None:
    writer = Writer(store)
    try:
        service = Service(store, reader, writer, board, settings)
        num_answers = sum(1 for _ in reader.answers())

        def tell(url: str) -> None:
            url = _reachable(url)
            owner = f"{url}/#{token_of(store)}"
            links = {name: f"{url}/#{token_of(store, name)}" for name in settings.names} or {SHARED: owner}
            counts = {"num_items": board.num_items, "num_answers": num_answers}
            ready(Ready(url=url, links=links, owner=owner, are_of_before=are_of_before, **counts))

        await run_app(service, lambda: None, service, LIMITS, (), listener, tell)
    finally:
        writer.end()


def _note(store: Store, settings: Settings, groups: dict[str, str]) -> None:
    """Keep who has a link of their own, the groups, and the text that people were told, once for each text."""
    if (names := "\n".join(settings.names)) != (store.meta("annotators") or ""):
        store.set_meta("annotators", names)
    guideline = settings.guideline
    for name, group in groups.items():
        store.set_group(name, group)
    if guideline is None:
        return
    key = guideline_hash(guideline)
    if not any(event.kind == "guideline" and event.guideline == key for event in store.events()):
        body = {"text": guideline}
        store.append([Draft(uuid=str(uuid.uuid4()), kind="guideline", body=body, guideline=key)])


def _hosts(address: Address, is_loopback: bool) -> frozenset[str]:
    own = [] if is_loopback else [socket.gethostname(), socket.getfqdn()]
    return frozenset(name.lower() for name in (address.host, *address.allowed_hosts, *own))


def _reachable(url: str) -> str:
    """Where all addresses are listened on, the name of this machine."""
    for anywhere in ("//0.0.0.0:", "//[::]:"):
        url = url.replace(anywhere, f"//{socket.gethostname()}:")
    return url
