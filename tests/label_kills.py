"""kill -9 of the label page's server while people submit: is every answer that was acknowledged there, and once?

Each thread is a person whose page sends an event until it is answered, with the same UUID each time. A kill counts
where it hit a submit: at a failpoint around a commit, or from outside while at least one was not answered yet.
"""

from __future__ import annotations

import random
import signal
import socket
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from label_case import Labelled, answer_to, pairs, write_rows

from rlvr.feedback.store import Store

PLACES = ("feedback.commit", "feedback.committed", "outside", "outside")
"""Where the server is killed, in turns."""


@dataclass(slots=True)
class Told:
    """What somebody was told of one event that they sent."""

    person: str
    kind: str
    item: str
    ranking: list[list[int]]
    status: int


@dataclass(slots=True)
class Crowd:
    """People who answer until they are told to stop, whatever becomes of the server."""

    url: str
    token: str
    num: int
    told: dict[str, Told] = field(default_factory=dict)
    """By UUID; each only once it was answered."""
    in_flight: set[str] = field(default_factory=set)
    """UUIDs that were sent and not answered."""
    num_retries: int = 0
    problems: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        self._threads = [threading.Thread(target=self._work, args=(f"p{k}",)) for k in range(self.num)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """What is under way is sent until it is answered."""
        self.stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()

    def _work(self, name: str) -> None:
        rng = random.Random(name)
        headers = {"x-token": self.token, "x-annotator": name}
        with httpx.Client(base_url=self.url, timeout=30, trust_env=False, headers=headers) as http:
            while not self.stop.is_set():
                asked = self._until_answered(http, lambda: http.get("/api/next")).json()
                item = asked["item"]
                if item is None or (asked["can_undo"] and rng.random() < 0.1):
                    if asked["can_undo"]:
                        self._send(http, name, {"event": str(uuid.uuid4()), "kind": "undo"})
                    continue
                ranking = rng.choice([[[0], [1]], [[1], [0]], [[0, 1]]])
                self._send(http, name, answer_to(item, ranking=ranking, seconds=rng.random()))

    def _send(self, http: httpx.Client, name: str, body: dict[str, Any]) -> None:
        event = body["event"]
        self.in_flight.add(event)
        answer = self._until_answered(http, lambda: http.post("/api/event", json=body))
        if answer.status_code not in (200, 409):
            self.problems.append(f"{answer.status_code} {answer.text[:200]}")
        told = Told(name, body["kind"], body.get("item", ""), body.get("ranking", []), answer.status_code)
        self.told[event] = told
        self.in_flight.discard(event)

    def _until_answered(self, http: httpx.Client, ask: Any) -> httpx.Response:
        while True:
            try:
                return ask()
            except httpx.TransportError:
                self.num_retries += 1
                time.sleep(0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """After all kills."""

    num_kills: int
    in_submits: int
    """Of them, those that are proven to have hit one."""
    acknowledged: int
    """Events that somebody was told of."""
    num_late: int
    num_retries: int
    lost: list[str]
    doubled: list[str]
    strange: list[str]
    """Whatever else is not as it should be, the chain's own lines among it."""


def kill_and_look(folder: Path, num_kills: int, *, num_people: int = 6, num_items: int = 1500, seed: int = 0) -> Found:
    """Kill the server so many times, start it anew each time, and compare its events with what people were told."""
    rng = random.Random(seed)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    rows = write_rows(folder, pairs(num_items))
    arguments = ["--port", port, "--per-item", "2", "--repeat", "0.1"]
    served = Labelled(folder, rows, *arguments)
    crowd = Crowd(served.url, served.token, num_people)
    crowd.start()
    in_submits = 0
    try:
        time.sleep(0.2)
        served.end(signal.SIGKILL)
        for k in range(num_kills):
            place, nth = PLACES[k % len(PLACES)], rng.randrange(1, 25)
            env = {"RLVR_FAILPOINT": f"{place}:kill@{nth}"} if place != "outside" else {}
            served = Labelled(folder, *arguments, env=env)
            if place == "outside":
                time.sleep(rng.uniform(0.02, 0.4))
                in_submits += bool(crowd.in_flight)
            else:
                _await(lambda now=served: now.process.poll() is not None, 30)
                in_submits += f"failpoint {place}: kill" in served.log.read_text()
            served.end(signal.SIGKILL)
        served = Labelled(folder, *arguments)
    finally:
        crowd.stop.set()
    crowd.end()
    assert served.end(signal.SIGTERM) == 0
    return compare(folder, crowd, num_kills, in_submits)


def compare(folder: Path, crowd: Crowd, num_kills: int, in_submits: int) -> Found:
    """Every event that is there against every one that was acknowledged."""
    with Store.open(folder / "l.db", readonly=True) as store:
        events = [event for event in store.events() if event.kind != "item"]
        strange = [*crowd.problems, *store.check_chain()]
        standing = {(a.annotator, a.item, a.showing): a for a in store.answers()}
    there = Counter(event.uuid for event in events)
    by_uuid = {event.uuid: event for event in events}
    wanted = {uuid: told for uuid, told in crowd.told.items() if told.kind == "answer" or told.status == 200}
    lost = [uuid for uuid in wanted if uuid not in there]
    doubled = [uuid for uuid, count in there.items() if count > 1]
    strange += [f"nobody was told of {event.uuid}" for event in events if event.uuid not in wanted]
    live: dict[tuple[str, str, int], list[str]] = {}
    for event in events:
        key = (event.annotator, event.item or "", event.showing)
        if event.kind == "undo":
            live[key] = []
        elif event.kind == "answer":
            live.setdefault(key, []).append(event.uuid)
        told = wanted.get(event.uuid)
        if told is None:
            continue
        kind = "undo" if told.kind == "undo" else "answer" if told.status == 200 else "late"
        places = [[event.shown[k] for k in place] for place in told.ranking]
        kept = event.body["judgement"]["ranking"] if "judgement" in event.body else []
        if event.kind != kind or event.annotator != told.person or kept != [sorted(place) for place in places]:
            strange.append(f"{event.uuid} is another than was told")
    doubled += [f"{key}: {uuids}" for key, uuids in live.items() if len(uuids) > 1]
    if {key for key, uuids in live.items() if uuids} != set(standing):
        strange.append("what stands is not what the events say")
    filled = Counter(item for _, item, showing in standing if not showing)
    strange += [f"{item} has {count} answers" for item, count in filled.items() if count > 2]
    return Found(
        num_kills=num_kills,
        in_submits=in_submits,
        acknowledged=len(wanted),
        num_late=sum(event.kind == "late" for event in by_uuid.values()),
        num_retries=crowd.num_retries,
        lost=lost,
        doubled=doubled,
        strange=strange,
    )


def _await(is_so: Any, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.01)
