"""The verifiers' processes that all reward functions of a process share, started when the first of them is asked."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.errors import SettingsError
from rlvr.rewards.bound import start_problems
from rlvr.rewards.verified import MEMORY_MIB, VerifierPool
from rlvr.seeds import seed_for
from rlvr.types import Task, Verdict

_lock = threading.Lock()
_pools: dict[tuple[int, int, int], VerifierPool] = {}
"""By process, workers and MiB: a process that was forked from this one starts its own."""


def check(verifier: str, options: Mapping[str, Any]) -> None:
    """SettingsError (PluginError) where there is no such verifier, or nothing can be judged with these options."""
    if problems := start_problems(verifier, options, "options"):
        raise SettingsError("\n".join(problems))


def judge(
    jobs: Sequence[tuple[str, str, Task, Mapping[str, Any]]], workers: int, memory_mib: int = MEMORY_MIB
) -> list[Verdict]:
    """Verdicts of (verifier, response, task, options), in their order; from any thread or process."""
    futures = _pool(workers, memory_mib).submit_all(jobs)
    return [future.result() for future in futures]


def task_id(prompt: str) -> str:
    """Of a row that has none: the same for all responses to one prompt."""
    return f"{seed_for('task', prompt):016x}"


def close() -> None:
    """End the processes; the next judge() starts new ones."""
    with _lock:
        mine = [_pools.pop(key) for key in list(_pools) if key[0] == os.getpid()]
    for pool in mine:
        pool.close()


def _pool(workers: int, memory_mib: int) -> VerifierPool:
    key = (os.getpid(), workers, memory_mib)
    with _lock:
        if key not in _pools:
            _pools[key] = VerifierPool([], workers, memory_mib)
        return _pools[key]


def _after_fork() -> None:
    """Another thread may have held the lock at that moment, and it is not here to let go."""
    global _lock
    _lock = threading.Lock()


atexit.register(close)
os.register_at_fork(after_in_child=_after_fork)
