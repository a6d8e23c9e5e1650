"""The label page's server: how long an action takes with many people at once, and what kills of it lose.

    python tests/bench/bench_label.py [--items 10000] [--people 20] [--actions 100] [--pause 0.25] [--completions 4]
                                      [--seed 0] [--kills 0]

Every person takes an item (GET /api/next) and answers it (POST /api/event, answered once it is on the disk), again and
again: first with a pause between two actions that is shorter than any person's, then without one, which is the
server's most. Times are those of the clients, which share the machine with the server. With --kills the server is
killed so often in the middle of submits instead, and its events are compared with what people were told. Prints
Markdown tables, and one JSON object on the last line; ends with 1 where something was lost or doubled.
"""

from __future__ import annotations

import argparse
import dataclasses
import http.client
import json
import os
import random
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from label_case import Labelled, answer_to, write_rows
from label_kills import kill_and_look


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--items", type=int, default=10_000)
    options.add_argument("--people", type=int, default=20)
    options.add_argument("--actions", type=int, default=100, help="items that each person answers in each round")
    options.add_argument("--pause", type=float, default=0.25, help="seconds between two actions of a person")
    options.add_argument("--completions", type=int, default=4)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--kills", type=int, default=0, help="kill the server so often instead")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="rlvr-label-") as folder:
        found = kills(Path(folder), chosen) if chosen.kills else times(Path(folder), chosen)
    print(json.dumps(found))
    sys.exit(int(bool(chosen.kills and (found["lost"] or found["doubled"] or found["strange"]))))


def times(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Seconds of both actions with and without a pause."""
    rng = random.Random(chosen.seed)
    words = [f"word{k}" for k in range(500)]

    def text(num: int) -> str:
        return " ".join(rng.choices(words, k=num))

    rows = [
        {"id": f"i{k}", "prompt": text(60), "completions": [text(100) for _ in range(chosen.completions)]}
        for k in range(chosen.items)
    ]
    path = write_rows(folder, rows)
    begin = time.monotonic()
    found: dict[str, Any] = {"items": chosen.items, "people": chosen.people, "load": os.getloadavg()[0]}
    with Labelled(folder, path, "--per-item", "3") as served:
        found["first_start_seconds"] = round(time.monotonic() - begin, 2)
        print("| pause s | action | n | per second | p50 ms | p95 ms | p99 ms | max ms |\n" + "|---" * 8 + "|")
        for pause in (chosen.pause, 0.0):
            found[f"pause {pause:g}"] = round_of(served, chosen, pause)
    begin = time.monotonic()
    with Labelled(folder):
        found["next_start_seconds"] = round(time.monotonic() - begin, 2)
    return found


def round_of(served: Labelled, chosen: argparse.Namespace, pause: float) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"next": [], "event": []}
    threads = [
        threading.Thread(target=_work, args=(served, f"p{k}", chosen, pause, seconds)) for k in range(chosen.people)
    ]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.monotonic() - begin
    told: dict[str, Any] = {}
    for action, values in seconds.items():
        ms = 1000 * np.array(values)
        p50, p95, p99 = np.percentile(ms, [50, 95, 99])
        rate = len(ms) / wall
        print(f"| {pause:g} | {action} | {len(ms)} | {rate:.0f} | {p50:.1f} | {p95:.1f} | {p99:.1f} | {ms.max():.1f} |")
        told[action] = {
            "n": len(ms),
            "per_second": round(rate, 1),
            **{name: round(float(value), 2) for name, value in (("p50_ms", p50), ("p95_ms", p95), ("p99_ms", p99))},
        }
    return told


def _work(
    served: Labelled, name: str, chosen: argparse.Namespace, pause: float, seconds: dict[str, list[float]]
) -> None:
    rng = random.Random(f"{name} {pause}")
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)  # spends the least on itself
    headers = {"x-token": served.token, "x-annotator": name, "content-type": "application/json"}

    def ask(action: str, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        time.sleep(rng.uniform(0, 2 * pause))
        begin = time.perf_counter()
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        raw = answer.read()
        seconds[action].append(time.perf_counter() - begin)
        assert answer.status == 200, raw
        return json.loads(raw)

    for _ in range(chosen.actions):
        item = ask("next", "GET", "/api/next")["item"]
        order = rng.sample(range(chosen.completions), chosen.completions)
        body = answer_to(item, str(uuid.UUID(int=rng.getrandbits(128))), ranking=[[k] for k in order], seconds=1.5)
        ask("event", "POST", "/api/event", json.dumps(body).encode())
    connection.close()


def kills(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """What was lost and what doubled."""
    found = dataclasses.asdict(kill_and_look(folder, chosen.kills, num_items=chosen.items, seed=chosen.seed))
    counts = {name: len(value) if isinstance(value, list) else value for name, value in found.items()}
    print("| " + " | ".join(counts) + " |\n|" + "---|" * len(counts))
    print("| " + " | ".join(map(str, counts.values())) + " |")
    return {**found, "load": os.getloadavg()[0]}


if __name__ == "__main__":
    main()
