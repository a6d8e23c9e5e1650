"""Verifiers that only wait: side by side in threads, none of them waited for in vain, coroutines among them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from rlvr import Verdict
from rlvr.rewards.bound import apply, lookup
from rlvr.rewards.verified import VerifierPool
from rlvr.rewards.waiting import WaitingRoom
from rlvr.types import Task

PLUGIN = """
import asyncio, os, threading, time
from rlvr import Verdict, verifier

@verifier("pool/later", timeout=0.1)
async def later(response):
    await asyncio.sleep(0.01)
    return response == "yes"

@verifier("pool/wait", timeout=5.0, wall_seconds=0.5, isolation="thread")
def wait(response):
    if response == "raise":
        raise RuntimeError("no\\nanswer")
    if response == "memory":
        raise MemoryError
    time.sleep(float(response))
    return Verdict(score=1.0, outcome="correct", checks={"pid": os.getpid(), "thread": threading.current_thread().name})

ended = []

@verifier("pool/wait_async", timeout=5.0, wall_seconds=0.5, isolation="thread")
async def wait_async(response):
    try:
        await asyncio.sleep(float(response))
    finally:
        ended.append(response)
    return True
"""
TASK = Task(id="t", prompt="Q: ?", gold="42")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("waiting") / "waits.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.fixture(scope="module")
def waiting(plugin: str) -> Iterator[VerifierPool]:
    with VerifierPool([f"{plugin}:wait", f"{plugin}:wait_async"], workers=1, memory_mib=1024) as pool:
        yield pool


def test_verifiers_that_only_wait_do_so_side_by_side_in_this_process(waiting: VerifierPool, plugin: str) -> None:
    start = time.monotonic()
    verdicts = waiting.judge([(f"{plugin}:wait", "0.2", TASK)] * 64)
    assert time.monotonic() - start < 2  # 64 * 0.2 s one by one are 12.8
    assert all(verdict.score == 1.0 and verdict.checks["pid"] == os.getpid() for verdict in verdicts)
    assert waiting._supervisor is None  # no process is started for them
    assert verdicts[0].version == lookup(f"{plugin}:wait").version
    assert verdicts[0].input_hash == apply(lookup(f"{plugin}:wait"), "0.2", TASK).input_hash


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wait", "wait_async"])
def test_one_that_is_late_has_no_score_and_holds_up_nobody(waiting: VerifierPool, plugin: str, name: str) -> None:
    verdicts = waiting.judge([(f"{plugin}:{name}", text, TASK) for text in ["3"] * 40 + ["0"] * 40])
    assert {(v.score, v.outcome, v.reason) for v in verdicts[:40]} == {
        (None, "error", f"verifier 'pool/{name}': no verdict after 0.5 s")
    }
    assert all(verdict.score == 1.0 for verdict in verdicts[40:])
    # those of a coroutine are free at once: it is cancelled
    assert name == "wait_async" or waiting.num_late_threads() == 40
    time.sleep(3)
    assert waiting.num_late_threads() == 0  # all came back, and none was counted twice


def test_what_fails_in_a_thread_is_our_failure(waiting: VerifierPool, plugin: str) -> None:
    raised, memory, text = waiting.judge([(f"{plugin}:wait", deed, TASK) for deed in ("raise", "memory", "x")])
    assert (raised.score, raised.reason) == (None, "verifier 'pool/wait' raised RuntimeError: no answer")
    assert (memory.score, memory.outcome) == (None, "error")  # it is this process whose memory is short
    assert (text.score, text.outcome) == (None, "error")


def test_threads_that_never_come_back_end_neither_the_pool_nor_the_process(plugin: str) -> None:
    code = f"""
from rlvr.rewards.verified import VerifierPool
from rlvr.types import Task
pool = VerifierPool([{plugin + ":wait"!r}], workers=1, memory_mib=1024)
futures = [pool.submit({plugin + ":wait"!r}, "600", Task(id="t", prompt="")) for _ in range(40)]
pool.close()
print({{future.result(5).reason for future in futures}})
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "{\"verifier 'pool/wait': the verifier pool was closed\"}" in done.stdout
    assert time.monotonic() - start < 10


def test_with_too_many_that_never_come_back_no_more_are_started() -> None:
    room = WaitingRoom()
    stay = threading.Event()
    right = Verdict(score=1.0, outcome="correct")

    def call() -> Verdict:
        stay.wait(20)
        return right

    def failed(why: str) -> Verdict:
        return Verdict(score=None, outcome="error", reason=why)

    first = [room.submit(call, failed, 0.05) for _ in range(300)]
    assert {future.result(20).reason for future in first[:256]} == {"no verdict after 0.05 s"}
    assert "checks in threads have not come back" in room.submit(call, failed, 0.05).result(1).reason
    assert 256 <= room.num_late <= 256 + 32
    stay.set()
    room.close()
    assert all(future.done() for future in first)


def test_an_async_verifier_is_awaited_wherever_it_is_judged(plugin: str) -> None:
    name = f"{plugin}:later"
    with VerifierPool([name], workers=1, memory_mib=1024) as pool:
        assert [verdict.score for verdict in pool.judge([(name, "yes", TASK), (name, "no", TASK)])] == [1.0, 0.0]

    async def inside_a_loop() -> Verdict:
        return apply(lookup(name), "yes", TASK)

    assert apply(lookup(name), "yes", TASK).score == 1.0
    assert asyncio.run(inside_a_loop()).score == 1.0
