"""What a pool adds to its verifiers: seeds, versions, what they print, and jobs given ahead of time."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alive import children_of

from rlvr import Verdict
from rlvr.errors import RlvrError
from rlvr.rewards.bound import apply, lookup
from rlvr.rewards.verified import VerifierPool
from rlvr.seeds import seed_for
from rlvr.types import Task

pytestmark = pytest.mark.alone

PLUGIN = '''
import ctypes, os, subprocess, sys, time
from rlvr import Verdict, verifier

@verifier("pool/deeds", timeout=0.1)
def deeds(response, seed, gold, *, base: int = 10):
    """Does what the response says."""
    deed, _, rest = response.partition(" ")
    if deed == "echo":
        return Verdict(score=1.0, outcome="correct", answer=rest, checks={"pid": os.getpid()})
    if deed == "seed":
        return Verdict(score=1.0, outcome="correct", checks={"seed": seed})
    if deed == "print":
        print("to stdout", rest)
        print("to stderr", rest, file=sys.stderr)
        os.write(2, b"by the system ")
        subprocess.run(["echo", "by a child"])
        return True
    if deed == "much":
        for k in range(int(rest)):
            print("line", k, "." * 500)
        return True
    if deed == "raw":
        for _ in range(int(rest)):
            try:
                os.write(1, b"x" * 1024)
            except OSError:
                pass
        return True
    if deed == "raise":
        print("before", end="")
        raise ValueError("as asked")
    if deed == "segfault":
        print("just before", flush=True)
        ctypes.string_at(0)
    if deed == "exit":
        print("last words")
        os._exit(4)
    if deed == "burn":
        while True:
            pass
    if deed == "sleep":
        time.sleep(float(rest))
        return True
    if deed == "fork":  # and the child goes on as if it were the worker
        os.fork()
        return True
    if deed == "forge":
        if os.fork() == 0:
            return False
        time.sleep(0.05)
        return True
    return {"nan": float("nan"), "inf": float("inf"), "huge": 1e9, "minus": -1, "text": "1.0", "list": [1.0],
            "empty": [], "dict": {}, "bytes": b"1", "none": None, "complex": 1j, "object": object()}[deed]

'''
TASK = Task(id="t", prompt="Q: ?", gold="42")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pool") / "deeds.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.fixture(scope="module")
def deeds(plugin: str) -> str:
    return f"{plugin}:deeds"


@pytest.fixture(scope="module")
def pool(deeds: str) -> Iterator[VerifierPool]:
    with VerifierPool([deeds], workers=2, memory_mib=1024, seed=7) as pool:
        pool.judge([(deeds, "echo warm", TASK)] * 50)
        yield pool


def supervisor_of(pool: VerifierPool) -> int:
    assert pool._supervisor is not None
    assert pool._supervisor._process is not None
    return pool._supervisor._process.pid


# --- what a verifier gives back


@pytest.mark.parametrize(
    ("deed", "told"),
    [
        ("nan", "returned nan"),
        ("inf", "returned inf"),
        ("huge", "returned 1000000000.0"),
        ("minus", "returned -1"),
        ("text", "returned a str"),
        ("list", "returned a list"),
        ("empty", "returned a list"),
        ("dict", "returned a dict"),
        ("bytes", "returned a bytes"),
        ("complex", "returned a complex"),
        ("object", "returned a object"),
        ("raise", "raised ValueError: as asked"),
    ],
)
def test_a_bad_result_is_named_and_never_a_zero(pool: VerifierPool, deeds: str, deed: str, told: str) -> None:
    verdict = pool.submit(deeds, deed, TASK).result()
    assert (verdict.score, verdict.outcome) == (None, "error")
    assert f"verifier 'pool/deeds' {told}" in verdict.reason
    assert apply(lookup(deeds), deed, TASK).reason == verdict.reason


def test_none_means_that_the_verifier_does_not_speak_of_the_task(pool: VerifierPool, deeds: str) -> None:
    verdict = pool.submit(deeds, "none", TASK).result()
    assert (verdict.score, verdict.outcome, verdict.is_failure) == (None, "not_applicable", False)


@pytest.mark.parametrize(
    ("result", "score"),
    [(np.True_, 1.0), (np.float32(0.5), 0.5), (np.int64(0), 0.0), (np.array(1.0), 1.0), (np.float64("nan"), None),
     (np.array([1.0]), None)],
)  # fmt: skip
def test_numbers_of_numpy_are_numbers(result: Any, score: float | None) -> None:
    def judge(response: str) -> Any:
        return result

    assert apply(replace(lookup("exact"), function=judge, parameters=("response",)), "x", TASK).score == score


# --- the seed


def test_a_seed_is_of_the_run_the_verifier_and_the_task(pool: VerifierPool, deeds: str) -> None:
    asked = [pool.submit(deeds, "seed", Task(id=name, prompt="")) for name in "ab"] + [pool.submit(deeds, "seed", TASK)]
    seeds = [future.result().checks["seed"] for future in asked]
    assert seeds == [seed_for(7, "verifier", "pool/deeds", name) for name in "abt"]
    assert len(set(seeds)) == 3
    assert apply(lookup(deeds), "seed", TASK, {}, seed=7).checks["seed"] == seeds[2]
    with VerifierPool([deeds], workers=1, memory_mib=1024, seed=8) as other:
        assert other.submit(deeds, "seed", TASK).result().checks["seed"] == seed_for(8, "verifier", "pool/deeds", "t")


# --- where a verdict comes from


def test_the_input_hash_is_of_all_that_is_judged_and_nothing_else(pool: VerifierPool, deeds: str) -> None:
    def hashed(response: str = "echo", options: dict[str, Any] | None = None, **fields: Any) -> str:
        task = Task(**{"id": "t", "prompt": "Q", "gold": "1", "info": {"a": 1}, **fields})
        verdict = pool.submit(deeds, response, task, options).result()
        if response != "exit":
            assert verdict.input_hash == apply(lookup(deeds), response, task, options, seed=7).input_hash
        return verdict.input_hash

    usual = hashed()
    assert len(bytes.fromhex(usual)) == 8
    others = [
        hashed("echo "),
        hashed(gold=1),
        hashed(prompt=({"role": "user", "content": "Q"},)),
        hashed(info={"a": 2}),
        hashed(options={"base": 2}),
        hashed(id="u"),  # the seed is another
        hashed("exit"),  # what died has one too
    ]
    assert len({usual, *others}) == 8
    assert hashed(verifier="math", source="elsewhere") == usual
    exact = [apply(lookup("exact"), "1", Task(id=name, prompt="Q", gold="1")).input_hash for name in "tu"]
    assert exact[0] == exact[1]  # it uses no seed


def test_the_version_follows_the_code_of_the_module_and_of_those_beside_it(tmp_path: Path) -> None:
    def version(helper: str, own: str = "", folder: str = "a") -> str:
        home = tmp_path / f"{version.__name__}{len(list(tmp_path.iterdir()))}" / folder
        home.mkdir(parents=True)
        (home / "helper.py").write_text(helper)
        (home / "unused.py").write_text(helper * 2)
        code = "def late():\n    from helper import f\ndef v(response):\n    return True"
        (home / "mine.py").write_text(f"{own}\n{code}\n")
        words = f"from rlvr.rewards.bound import lookup; print(lookup({str(home / 'mine.py:v')!r}).version)"
        return subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True).stdout.strip()

    usual = version("def f(): return 1\n")
    assert usual[:2] == "1+"
    assert len(bytes.fromhex(usual[2:])) == 4
    assert version("def f(): return 1\n", folder="b") == usual  # the place does not count
    assert version("def f(): return 2\n") != usual
    assert version("def f(): return 1\n", own="# another") != usual


def test_verifiers_of_one_module_share_its_hash_and_ours_follow_their_helpers() -> None:
    from rlvr.rewards import code_hash

    boxed = lookup("boxed").function
    assert lookup("boxed").version == f"1+{code_hash.code_hash(boxed)}"
    file = Path(code_hash.__file__).parents[1] / "verifiers" / "boxed.py"
    source = file.read_bytes()
    assert "rlvr.verifiers.extract" in set(code_hash._imported(source, "rlvr.verifiers"))
    assert code_hash._file_of("rlvr.verifiers.extract", "", file.parent) == (file.parent / "extract.py").resolve()
    lines = (
        b'from . import (a,\n  b)\nfrom .c import d as e\nfrom ..q import r\nimport x.y, z\n"""\nfrom here on\n"""\n'
    )
    assert set(code_hash._imported(lines, "my.pkg")) == {
        "my.pkg", "my.pkg.a", "my.pkg.b", "my.pkg.c", "my.pkg.c.d", "my.q", "my.q.r", "x.y", "z",
    }  # fmt: skip


# --- what is printed


def test_what_a_verifier_prints_is_in_its_own_verdict_alone(pool: VerifierPool, deeds: str) -> None:
    asked = ["echo", "print 1", "echo", "print 2"] * 5
    verdicts = pool.judge([(deeds, deed, TASK) for deed in asked])
    for deed, verdict in zip(asked, verdicts, strict=True):
        number = deed.removeprefix("print ")
        said = f"to stdout {number}\nto stderr {number}\nby the system by a child\n"
        assert verdict.stderr == (said if deed.startswith("print") else "")


def test_the_end_of_what_was_printed_is_kept(pool: VerifierPool, deeds: str) -> None:
    few, many, after = pool.judge([(deeds, deed, TASK) for deed in ("much 2", "much 800", "echo")])
    assert few.stderr == f"line 0 {'.' * 500}\nline 1 {'.' * 500}\n"
    assert len(many.stderr) == 2000
    assert many.stderr.endswith(f"line 798 {'.' * 500}\nline 799 {'.' * 500}\n")
    assert after.stderr == ""
    raw = pool.submit(deeds, "raw 2000", TASK).result()  # more than there is room for, past Python's own writers
    assert (raw.score, raw.stderr) == (1.0, "x" * 2000)


def test_a_traceback_is_in_the_verdict_also_of_a_crash(pool: VerifierPool, deeds: str) -> None:
    raised, crashed, ended = pool.judge([(deeds, deed, TASK) for deed in ("raise", "segfault", "exit")])
    assert raised.stderr.startswith("beforeTraceback (most recent call last):\n")
    assert raised.stderr.endswith("ValueError: as asked\n")
    assert crashed.stderr.startswith("just before\nFatal Python error: Segmentation fault\n")
    assert "deeds.py" in crashed.stderr
    assert "SIGSEGV" in crashed.reason
    assert (ended.stderr, ended.score) == ("last words\n", None)


# --- jobs ahead of time


def test_a_job_that_kills_its_process_is_charged_alone(pool: VerifierPool, deeds: str) -> None:
    asked = [f"echo {k}" for k in range(400)]
    for at, deed in ((50, "exit"), (51, "segfault"), (150, "burn"), (151, "burn"), (152, "exit"), (399, "exit")):
        asked[at] = deed
    verdicts = pool.judge([(deeds, deed, TASK) for deed in asked])
    due = {"exit": (None, "error"), "segfault": (None, "error"), "burn": (0.0, "timeout")}
    for deed, verdict in zip(asked, verdicts, strict=True):
        assert (verdict.score, verdict.outcome) == due.get(deed, (1.0, "correct")), verdict.reason
        assert verdict.answer == (deed.removeprefix("echo ") if deed.startswith("echo") else None)


def test_workers_killed_from_outside_lose_no_job_and_none_is_a_zero(pool: VerifierPool, deeds: str) -> None:
    jobs = [(deeds, f"echo {k}", TASK, {}) for k in range(3000)]
    futures = pool.submit_all(jobs)
    num_kills = 0
    while not all(future.done() for future in futures) and num_kills < 20:
        for pid in children_of(supervisor_of(pool)):
            os.kill(pid, signal.SIGKILL)
            num_kills += 1
        time.sleep(0.02)
    verdicts = [future.result() for future in futures]
    charged = [verdict for verdict in verdicts if verdict.score is None]
    assert num_kills > 2
    assert len(charged) <= num_kills
    assert all("SIGKILL" in verdict.reason for verdict in charged)
    assert all(v.score is None or (v.score, v.answer) == (1.0, str(k)) for k, v in enumerate(verdicts))


@pytest.mark.slow
def test_a_supervisor_killed_amid_jobs_ends_each_future_and_the_pool_goes_on(deeds: str) -> None:
    with VerifierPool([deeds], workers=2, memory_mib=1024) as pool:
        pool.judge([(deeds, "echo", TASK)] * 50)
        for _ in range(3):
            futures = pool.submit_all([(deeds, f"echo {k}" if k < 2999 else "sleep 9", TASK, {}) for k in range(3000)])
            futures[100].result()
            os.kill(supervisor_of(pool), signal.SIGKILL)
            verdicts = [future.result(20) for future in futures]
            lost = [verdict for verdict in verdicts if verdict.score is None]
            assert 0 < len(lost) < 3000
            assert {verdict.outcome for verdict in lost} == {"error"}
            assert all("signal 9" in verdict.reason and verdict.input_hash for verdict in lost)
            assert all(v.score is None or (v.score, v.answer) == (1.0, str(k)) for k, v in enumerate(verdicts))
            assert pool.submit(deeds, "echo again", TASK).result(20).answer == "again"


@pytest.mark.slow
def test_jobs_behind_one_that_takes_long_do_not_wait_for_it(pool: VerifierPool, deeds: str) -> None:
    start = time.monotonic()
    asked = ["echo"] * 20 + ["sleep 3"] + [f"echo {k}" for k in range(200)]
    futures = pool.submit_all([(deeds, deed, TASK, {}) for deed in asked])
    assert [future.result().answer for future in futures[21:]] == [str(k) for k in range(200)]
    assert time.monotonic() - start < 2.5
    assert not futures[20].done()
    again = pool.submit_all([(deeds, f"echo {k}", TASK, {}) for k in range(400)])
    assert [future.result().answer for future in again] == [str(k) for k in range(400)]
    assert (futures[20].result().score, futures[20].result().answer) == (1.0, None)


def test_jobs_behind_several_that_take_long_are_each_judged_once(pool: VerifierPool, deeds: str) -> None:
    asked = [f"echo {k}" for k in range(300)]
    for at in (40, 41, 90, 91, 200):
        asked[at] = "sleep 0.2"
    asked[92], asked[201] = "exit", "burn"
    verdicts = pool.judge([(deeds, deed, TASK) for deed in asked])
    due = {"sleep 0.2": (1.0, None), "exit": (None, None), "burn": (0.0, None)}
    assert [(v.score, v.answer) for v in verdicts] == [due.get(d, (1.0, d.removeprefix("echo "))) for d in asked]


def test_large_jobs_are_not_given_ahead_where_writing_them_would_block(pool: VerifierPool, deeds: str) -> None:
    long = "x" * 200_000
    verdicts = pool.judge([(deeds, f"echo {k}{long}" if k % 3 else "exit", TASK) for k in range(60)])
    assert [v.answer == f"{k}{long}" if k % 3 else v.score is None for k, v in enumerate(verdicts)] == [True] * 60


def test_a_process_that_a_verifier_forks_speaks_in_nobodys_place(pool: VerifierPool, deeds: str) -> None:
    verdicts = pool.judge([(deeds, deed, TASK) for deed in ["fork", "echo 1", "forge", "echo 2"] * 10])
    assert [(verdict.score, verdict.answer) for verdict in verdicts] == [
        (1.0, None),
        (1.0, "1"),
        (1.0, None),
        (1.0, "2"),
    ] * 10


def test_a_killed_worker_is_replaced_within_milliseconds(pool: VerifierPool, deeds: str) -> None:
    took = []
    for _ in range(15):
        start = time.perf_counter()
        before, after = pool.submit_all([(deeds, "exit", TASK, {}), (deeds, "echo", TASK, {})])
        assert (before.result().score, after.result().score) == (None, 1.0)
        took.append(time.perf_counter() - start)
    assert sorted(took)[7] < 0.05  # an idle machine needs a tenth of that


# --- from wherever it is asked

MIXED = ["echo a", "seed", "raise", "nan", "none", "burn", "exit", "echo \ud800", "print 1"]


def told(verdicts: list[Verdict]) -> list[Any]:
    return [(v.score, v.outcome, v.reason, v.answer, v.input_hash, v.version, v.checks.get("seed")) for v in verdicts]


def in_a_process(deeds: str) -> list[Any]:
    with VerifierPool([deeds], workers=1, memory_mib=1024, seed=7) as pool:
        return told(pool.judge([(deeds, deed, TASK) for deed in MIXED]))


@pytest.mark.slow
def test_verdicts_are_the_same_from_threads_loops_and_processes(pool: VerifierPool, deeds: str) -> None:
    jobs = [(deeds, deed, TASK) for deed in MIXED]
    here = told(pool.judge(jobs))
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: told(pool.judge(jobs)), range(8))) == [here] * 8

    async def in_a_loop() -> list[Any]:
        return told(await asyncio.gather(*(asyncio.wrap_future(pool.submit(*job)) for job in jobs)))

    assert asyncio.run(in_a_loop()) == here
    code = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_rewards_pool import in_a_process
print(json.dumps(in_a_process({deeds!r})))
"""
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(8)]
    found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    assert found == [json.loads(json.dumps(here))] * 8


def test_a_pool_that_is_closed_takes_nothing_more(deeds: str) -> None:
    pool = VerifierPool([deeds], workers=1, memory_mib=1024)
    futures = pool.submit_all([(deeds, "sleep 30", TASK, {})] * 3)
    pool.close()
    assert [future.result(5).reason for future in futures] == ["the verifier pool was closed"] * 3
    with pytest.raises(RlvrError, match="closed"):
        pool.submit(deeds, "echo", TASK)


def test_a_deadline_is_kept_to_within_20_milliseconds_of_computing(pool: VerifierPool, deeds: str) -> None:
    used = []
    for _ in range(5):
        pool.judge([(deeds, "echo", TASK)] * 8)
        before = {pid: computed(pid) for pid in children_of(supervisor_of(pool))}
        future, last = pool.submit(deeds, "burn", TASK), dict(before)
        while not future.done():
            last |= {pid: seconds for pid in before if (seconds := computed(pid))}
            time.sleep(0.0005)
        used.append(max(last[pid] - before[pid] for pid in before))
    assert 0.05 < max(used) < 0.12  # looked at from outside, now and then


def computed(pid: int) -> float:
    """Seconds of CPU; 0 of a process that is gone."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        return 0.0
