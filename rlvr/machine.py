"""What this machine lets the process use: cores, memory, instruction sets. Standard library only."""

from __future__ import annotations

import os
import re
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def cores() -> float:
    """Those that this process may use: affinity, and the quota of its cgroup."""
    cores = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    for folder in own_cgroups("cpu"):
        quota, period = _words(folder / "cpu.max"), _words(folder / "cpu.cfs_period_us")
        if not quota:
            quota = _words(folder / "cpu.cfs_quota_us") + period
        if len(quota) == 2 and quota[0].isdigit() and int(quota[1]) > 0:
            cores = min(cores, int(quota[0]) / int(quota[1]))
    return cores


def memory() -> tuple[int, int]:
    """(limit, free) in bytes: the machine's, or those of the tightest cgroup that holds this process."""
    info = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE))
    limit, free = int(info["MemTotal"]) * 1024, int(info["MemAvailable"]) * 1024
    for folder in own_cgroups("memory"):
        most = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
        used = _words(folder / "memory.current") or _words(folder / "memory.usage_in_bytes")
        if most and used and most[0].isdigit() and int(most[0]) < limit:
            stat = (folder / "memory.stat").read_text() if (folder / "memory.stat").is_file() else ""
            cache = re.search(r"^(?:total_)?inactive_file (\d+)", stat, re.MULTILINE)  # given back when asked for
            limit = int(most[0])
            free = min(free, limit - int(used[0]) + (int(cache[1]) if cache else 0))
    return limit, max(free, 0)


def own_cgroups(controller: str) -> list[Path]:
    """Folders of this process's cgroup and of those above it, v2 and v1; a container shows its own as the root."""
    folders: list[Path] = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controllers if controllers else CGROUPS
        here = root / path.lstrip("/")
        folders += [folder for folder in (here, *here.parents) if folder.is_dir() and folder.is_relative_to(root)]
    return folders


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def instructions() -> set[str]:
    """The processor's instruction sets, which choose between numeric kernels; empty where they are not told."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


def ranks() -> int:
    """Processes that torchrun or accelerate started for this one command; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1"))
