"""What a sandbox leaves behind: nothing, however it or its host ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import sandbox_users
from alive import gone_within

from rlvr import Sandbox
from rlvr.sandbox import scratch
from rlvr.sandbox.limits import Limits
from rlvr.sandbox.processes import descendants

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parents[1]


def surroundings() -> dict[str, object]:
    mounts = Path("/proc/self/mountinfo").read_text()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mounts": mounts.count("\n"),
        "processes": descendants(os.getpid()),
        "temporary": sorted(name for name in os.listdir(tempfile.gettempdir()) if name.startswith("rlvr-jail")),
        "shm": sorted(os.listdir("/dev/shm")),
    }


def test_a_closed_sandbox_leaves_no_process_file_descriptor_or_mount() -> None:
    async def use() -> None:
        async with Sandbox(2) as sandbox:
            stays = "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); open('f', 'w')"
            sleeping = asyncio.create_task(sandbox.run("import time; time.sleep(60)"))
            await sandbox.run(stays, limits=Limits(wall_seconds=0.2))
            await sandbox.converse("def f(): return 1", "assert f() == 1", ["f"])
            await sandbox.call("def f(): return 1", [("call", "f", (), {})])
            assert await sandbox.execute(["/bin/bash", "-c", "(setsid sleep 60 &); echo x > y"], fetch=["y"])
        assert (await sleeping).status == "infra"

    asyncio.run(use())  # what a process makes once (the self-test's modules, asyncio's own descriptors) is made here
    before = surroundings()
    asyncio.run(use())
    assert surroundings() == before


def test_nothing_outlives_a_host_that_was_killed() -> None:
    code = """
import asyncio, os, sys
from rlvr import Sandbox
async def main():
    async with Sandbox(2) as sandbox:
        runs = [sandbox.run("import time; print(1, flush=True); time.sleep(600)") for _ in range(2)]
        waiting = asyncio.gather(*runs, sandbox.execute(["/bin/sleep", "600"]))
        await asyncio.sleep(0.5)
        print("ready", flush=True)
        await waiting
asyncio.run(main())
"""
    before = set(os.listdir(tempfile.gettempdir()))
    host = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    assert host.stdout.readline() == "ready\n"
    below = descendants(host.pid)
    assert len(below) >= 3 * 3  # for each jail its outer process, its zygote, a child or two
    host.send_signal(signal.SIGKILL)
    host.wait()
    host.stdout.close()
    assert gone_within(5, below)
    assert {name for name in set(os.listdir(tempfile.gettempdir())) - before if name.startswith("rlvr-jail")} == set()


def test_a_deep_and_locked_tree_is_measured_and_removed(tmp_path: Path) -> None:
    folder = scratch.make(str(tmp_path), 1)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    here = os.getcwd()
    os.chdir(folder)
    try:
        for _ in range(1500):  # a path of 15,000 characters, which no single call takes
            os.mkdir("d" * 9)
            os.chdir("d" * 9)
            os.symlink(outside, "link")
    finally:
        os.chdir(here)
    Path(folder, "locked").mkdir()
    Path(folder, "locked", "file").write_bytes(b"x" * 100_000)
    Path(folder, "locked").chmod(0o300)
    assert scratch.is_over(folder, 100_000)
    assert not scratch.is_over(folder, 20 << 20)
    Path(folder, "locked").chmod(0)
    scratch.remove(folder)
    assert sorted(os.listdir(tmp_path)) == ["outside"]
    assert (outside / "kept").read_text() == "kept"


@pytest.mark.slow
def test_a_thousand_executions_grow_nothing() -> None:
    async def use() -> tuple[dict[str, object], dict[str, object], int, int]:
        async with Sandbox(2) as sandbox:

            async def some(number: int) -> None:
                programs = (
                    ("print(1)", b""),
                    ("x = [0] * 100000", b""),
                    ("1 / 0", b""),
                    ("import os; os._exit(1)", b""),
                )
                async for _ in sandbox.run_many(programs[k % 4] for k in range(number)):
                    pass

            await some(200)
            before, memory = surroundings(), resident()
            await some(1000)
            after = surroundings()
            assert sandbox.respawns == ()
            return before, after, memory, resident()

    before, after, memory, memory_after = asyncio.run(use())
    for name in ("descriptors", "mounts", "temporary", "shm"):
        assert after[name] == before[name]
    assert memory_after <= memory * 1.05


def resident() -> int:
    return sum(
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in [os.getpid(), *descendants(os.getpid())]
    )


TIER_B = """
import asyncio, os, sys, tempfile
from rlvr import Sandbox

async def main(how):
    sandbox = await Sandbox(1, tier="B").start()
    await sandbox.run("import os; os.mkdir('a', 0); open('b', 'w')")
    task = asyncio.create_task(sandbox.run("import os, time; os.makedirs('c/d'); os.mkdir('a', 0); time.sleep(60)"))
    await asyncio.sleep(0.3)
    if how == "exit":
        os._exit(0)
    if how == "cancel":
        task.cancel()
    await sandbox.close()

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("how", ["exit", "cancel", "close"])
def test_a_tier_without_a_file_system_of_its_own_leaves_no_folder_either(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    folder.chmod(0o777)
    (tmp_path / "scratch").mkdir()
    tmp_path.chmod(0o755)
    command = ["env", f"TMPDIR={folder}", sys.executable, "-c", TIER_B, how]
    done = sandbox_users.run(sandbox_users.as_user(command, tmp_path / "scratch"), 60)
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 5
    while os.listdir(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert os.listdir(folder) == []
