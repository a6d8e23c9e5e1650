"""What a safe checkpoint costs beside torch.save of the same state, with and without an fsync of its file.

    python tests/bench/bench_checkpoint.py [--megabytes 30,200,400] [--rounds 9] [--folder DIR]

The kinds take turns, so that a busy machine is unfair to none; medians and their ratios, and the ratio of the fastest
rounds, which other programs disturbed least (the checksum runs beside the writing, so a core must be free for it).
Prints a Markdown table, and one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvr import checkpoint

LIMIT = 1.5


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--megabytes", default="30,200,400")
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--folder", type=Path, default=None, help="on the disk to be measured; else a temporary one")
    chosen = options.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        for megabytes in map(int, chosen.megabytes.split(",")):
            rows.append(measure(state(megabytes), megabytes, chosen.rounds, Path(name)))
    show(rows)


def state(megabytes: int) -> dict[str, Tensor]:
    """Weights of 24 layers and AdamW's two moments of each, as Trained.state() names them."""
    torch.manual_seed(0)
    kinds = ("model.{}", "optimizer.{}.exp_avg", "optimizer.{}.exp_avg_sq")
    size = megabytes * 1_000_000 // 4 // (24 * len(kinds))
    return {kind.format(f"layers.{layer}.weight"): torch.randn(size) for layer in range(24) for kind in kinds}


def measure(tensors: dict[str, Tensor], megabytes: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Median seconds of each kind."""
    plain = folder / "plain.pt"

    def save_plain() -> None:
        torch.save(tensors, plain)

    def save_synced() -> None:
        torch.save(tensors, plain)
        with open(plain, "rb") as file:
            os.fsync(file.fileno())

    def save_safe() -> None:
        checkpoint.save(folder / "safe", 1, tensors, {"cursor": 1}, keep=2)

    def verify() -> None:
        assert checkpoint.verify(folder / "safe" / "000001") is None

    seconds: dict[str, list[float]] = {"plain": [], "synced": [], "safe": [], "verify": []}
    kinds: dict[str, Callable[[], None]] = {"plain": save_plain, "synced": save_synced, "safe": save_safe}
    for _ in range(rounds):
        for kind, save in kinds.items():
            os.sync()  # nobody pays for what another wrote
            seconds[kind].append(_timed(save))
            if kind == "safe":
                seconds["verify"].append(_timed(verify))
            plain.unlink(missing_ok=True)
            shutil.rmtree(folder / "safe" / "000001", ignore_errors=True)
    medians = {f"{kind}_seconds": statistics.median(times) for kind, times in seconds.items()}
    return {
        "megabytes": megabytes,
        "rounds": rounds,
        **medians,
        "ratio": medians["safe_seconds"] / medians["plain_seconds"],
        "ratio_synced": medians["safe_seconds"] / medians["synced_seconds"],
        "ratio_fastest": min(seconds["safe"]) / min(seconds["plain"]),
        "ratio_synced_fastest": min(seconds["safe"]) / min(seconds["synced"]),
    }


def _timed(act: Callable[[], None]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def show(rows: list[dict[str, Any]]) -> None:
    """The table, and everything as JSON."""
    print("| MB | torch.save s | with fsync s | safe s | ratio (fastest) | ratio with fsync (fastest) | verify s |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['megabytes']} | {row['plain_seconds']:.3f} | {row['synced_seconds']:.3f} "
            f"| {row['safe_seconds']:.3f} | {row['ratio']:.2f} ({row['ratio_fastest']:.2f}) "
            f"| {row['ratio_synced']:.2f} ({row['ratio_synced_fastest']:.2f}) "
            f"| {row['verify_seconds']:.3f} |"
        )
    worst = max(row["ratio"] for row in rows)
    print(f"\nworst ratio {worst:.2f}, at most {LIMIT} asked for")
    print(json.dumps({"rows": rows, "limit": LIMIT, "held": worst <= LIMIT}))


if __name__ == "__main__":
    main()
