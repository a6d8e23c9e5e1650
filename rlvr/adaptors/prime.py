"""Tasks of Prime Intellect's `verifiers` package as a generator of rows, judged by the verifier prime.

data:
  source: generator
  path: rlvr.adaptors.prime:tasks
  args: {environment: my-taskset, n: 1000}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlvr.verifiers.prime_env import read_tasks


def tasks(environment: str, n: int | None = None, config: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """The first n (else all) tasks of an installed taskset as rows {"id", "prompt", "gold", "verifier"}.

    `config` is the taskset's own. ValueError: a taskset that is none, that has no end, or whose rewards need a
    container.
    """
    for task in read_tasks(environment, config or {}, n):
        data = task.data.model_dump(mode="json", exclude_none=True)
        turns = data.get("prompt") or ""
        if data.get("system_prompt"):
            turns = [{"role": "user", "content": turns}] if isinstance(turns, str) else turns
            turns = [{"role": "system", "content": data["system_prompt"]}, *turns]
        gold = {"environment": environment, "task": data, "config": dict(config or {})}
        yield {"id": f"{environment}:{data['idx']}", "prompt": turns, "gold": gold, "verifier": "prime"}
