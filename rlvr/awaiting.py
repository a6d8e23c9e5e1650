"""What an async function of somebody else returns, wherever we are called from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def awaited(result: Awaitable[Any], seconds: float | None = None) -> Any:
    """The result, waited for here; in a thread of its own where a loop runs here already, for it cannot run another.

    TimeoutError after so many seconds; whatever it raises.
    """

    async def wait() -> Any:
        async with asyncio.timeout(seconds):
            return await result

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, wait()).result()
