"""The verify service as a process: its beginning and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from rlvr.errors import SettingsError
from rlvr.rewards.verified import VerifierPool
from rlvr.serve.app import Service
from rlvr.serve.judging import PROBE, Judge
from rlvr.serve.limits import ServeLimits
from rlvr.serve.metrics import Metrics
from rlvr.serve.offer import Offer
from rlvr.serve.web import bind, run_app


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to listen, and who may ask. Address(host="127.0.0.1", port=8766)"""

    host: str
    port: int
    """0: a free one."""
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    """Further names for the Host header."""
    proxies: tuple[str, ...] = ()
    """Addresses whose X-Forwarded-For is believed."""


def serve(
    address: Address,
    offer: Offer,
    workers: int,
    memory_mib: int,
    limits: ServeLimits,
    ready: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT; `ready` gets the URL once requests are answered.

    SettingsError where the address cannot be used or would serve anybody; PluginError for a verifier that cannot be
    loaded.
    """
    listener, is_loopback = bind(address.host, address.port)
    with listener:
        if address.token is None and not (is_loopback and not address.proxies):
            why = "behind a proxy (--proxy)" if is_loopback else f"on {address.host}, which is not loopback,"
            raise SettingsError(f"serving {why} needs a token: set RLVR_TOKEN or give --token-file")
        hosts = [*address.allowed_hosts, address.host] if is_loopback or address.allowed_hosts else None
        with VerifierPool([*dict.fromkeys((*offer.names, PROBE))], workers, memory_mib) as pool:

            async def run() -> None:
                metrics = Metrics()
                judge = Judge(pool, workers, limits, metrics)
                service = Service(judge, metrics, limits, offer, token=address.token, hosts=hosts)
                try:
                    await run_app(service, service.close, metrics, limits, address.proxies, listener, ready)
                finally:
                    await judge.close()
                    service.end()

            asyncio.run(run())
