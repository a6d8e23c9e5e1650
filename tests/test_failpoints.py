"""A failpoint does what it says, where and when it says, and a mistyped one is told before anything is done."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlvr import failpoints
from rlvr.errors import SettingsError
from rlvr.failpoints import failpoint


@pytest.fixture(autouse=True)
def _fresh_counts() -> None:
    failpoints._reached.clear()


def run(code: str, plan: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"from rlvr.failpoints import failpoint\n{code}"],
        env={**os.environ, "RLVR_FAILPOINT": plan},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("plan", [None, "", " , "])
def test_without_a_plan_nothing_happens(monkeypatch: pytest.MonkeyPatch, plan: str | None) -> None:
    monkeypatch.delenv("RLVR_FAILPOINT", raising=False)
    if plan is not None:
        monkeypatch.setenv("RLVR_FAILPOINT", plan)
    failpoints.check()
    failpoint("sample")


def test_unset_it_costs_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLVR_FAILPOINT", raising=False)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(10_000):
            failpoint("sample")
        best = min(best, time.perf_counter() - started)
    assert best / 10_000 < 20e-6


def test_the_place_acts_when_it_is_reached_for_the_nth_time_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLVR_FAILPOINT", "micro:enospc@3, update:enospc")
    failpoint("sample")
    for number in (1, 2, 3, 4):
        if number == 3:
            with pytest.raises(OSError, match="No space left on device"):
                failpoint("micro")
        else:
            failpoint("micro")
    with pytest.raises(OSError, match="No space left on device"):
        failpoint("update")
    failpoint("update")


def test_one_place_may_act_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("RLVR_FAILPOINT", "micro:oom@1,micro:oom@2")
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError, match="failpoint"):
            failpoint("micro")
    failpoint("micro")


def test_kill_ends_this_process_at_that_place() -> None:
    done = run("print('before', flush=True); failpoint('record'); print('after')", "record:kill")
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "before\n")
    assert done.stderr == "rlvr: failpoint record: kill\n"


def test_stop_asks_this_process_to_end() -> None:
    code = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: print('asked'))\nfailpoint('record')\nprint('on')"
    done = run(code, "record:stop")
    assert (done.returncode, done.stdout) == (0, "asked\non\n")


def test_sleep_waits_until_somebody_kills_it() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "from rlvr.failpoints import failpoint; failpoint('sync'); print('woke')"],
        env={**os.environ, "RLVR_FAILPOINT": "sync:sleep"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None and process.stdout is not None
    assert process.stderr.readline() == "rlvr: failpoint sync: sleep\n"
    assert process.poll() is None
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert process.stdout.read() == ""


WRONG = {
    "smaple:kill": "no place 'smaple'; did you mean sample?",
    "zzz:kill": "no place 'zzz'; known: sample, score, ",
    "sample:kil": "no action 'kil'; did you mean kill?",
    "sample": "no action ''; known: kill, stop, sleep, enospc, oom",
    "sample:kill@0": "after @ must come a number from 1 on, got '0'",
    "sample:kill@": "after @ must come a number from 1 on, got ''",
    "sample:kill,micro:kill@²": "after @ must come a number from 1 on, got '²'",
}


@pytest.mark.parametrize("plan", list(WRONG))
def test_a_wrong_plan_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, plan: str) -> None:
    monkeypatch.setenv("RLVR_FAILPOINT", plan)
    for act in (failpoints.check, lambda: failpoint("finish")):
        with pytest.raises(SettingsError) as caught:
            act()
        assert str(caught.value).startswith(f"RLVR_FAILPOINT={plan}: {WRONG[plan]}")
        assert "\n" not in str(caught.value)


def test_every_place_in_the_code_is_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (Path(__file__).parents[1] / "rlvr").rglob("*.py")
    called = {place for file in code for place in re.findall(r'\bfailpoint\("([^"]+)"\)', file.read_text())}
    assert called
    assert called <= set(failpoints.PLACES)
    monkeypatch.setenv("RLVR_FAILPOINT", "sample:kill@99")
    with pytest.raises(AssertionError):
        failpoint("elsewhere")
