"""Memory of programs that start others: the limit is for all of their processes together."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from rlvr.sandbox import executions, languages, memory_guard, processes, tiers
from rlvr.sandbox.compiled import CompileCache
from rlvr.sandbox.jail import Jail
from rlvr.sandbox.languages import prepare
from rlvr.sandbox.limits import Limits
from rlvr.sandbox.memory_guard import SLACK_MIB, Guard, family, own_bytes
from rlvr.sandbox.pool import Sandbox
from rlvr.sandbox.results import Run, SandboxError

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(shutil.which("gcc", path="/usr/bin:/bin") is None, reason="needs gcc"),
]

BOMB = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
    int processes, mib;
    if (scanf("%d %d", &processes, &mib) != 2) return 2;
    for (int k = 0; k < processes; k++)
        if (fork() == 0) {
            for (int done = 0; done < mib; done++) {
                char *block = malloc(1 << 20);
                if (!block) _exit(3);
                memset(block, 1, 1 << 20);
            }
            sleep(1);
            _exit(0);
        }
    int status, failed = 0;
    while (wait(&status) > 0) failed |= status;
    return failed ? 1 : 0;
}
"""
# page tables alone: 4 KiB of them for each 2 MiB of which one page is read; no page of its own is written
TABLES = """
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void) {
    size_t step = 2 << 20, steps = 60000;
    volatile char *at = mmap(0, step * steps, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return 2;
    madvise((void *)at, step * steps, MADV_NOHUGEPAGE);
    for (size_t k = 0; k < steps; k++) (void)at[k * step];
    sleep(2);
    return 0;
}
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = CompileCache(tmp_path / "compiled")
    monkeypatch.setattr(languages, "_default_cache", lambda: cache)


@pytest.fixture(params=["cgroup", "resident"])
def mechanism(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of them forced in turn."""
    if request.param == "resident":
        monkeypatch.setattr(memory_guard, "usable_parent", lambda: None)
    elif memory_guard.usable_parent() is None:
        pytest.skip("no memory cgroup can be made here")
    return str(request.param)


def with_sandbox(work: Callable[[Sandbox], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        if problem := await tiers.problem_of("A"):
            pytest.skip(problem)
        async with Sandbox(1, tier="A") as sandbox:
            await work(sandbox)
            assert sandbox.respawns == ()

    asyncio.run(run())


def cgroups() -> list[str]:
    """Of this process."""
    parent = memory_guard.usable_parent()
    return [] if parent is None else [folder.name for folder in parent.glob(f"rlvr-{os.getpid()}-*")]


async def bombed(sandbox: Sandbox, processes: int, mib: int, limits: Limits) -> Run:
    bomb = await prepare(sandbox, "c", BOMB)
    assert bomb.problem is None, bomb.problem
    return await bomb.run(f"{processes} {mib}".encode(), limits)


def test_processes_that_are_small_one_by_one_are_ended_when_they_are_too_large_together(mechanism: str) -> None:
    async def work(sandbox: Sandbox) -> None:
        running = asyncio.create_task(bombed(sandbox, 8, 100, Limits(wall_seconds=20, memory_mib=256, disk_mib=32)))
        peak = 0
        while not running.done():
            await asyncio.sleep(0.005)
            jails = sandbox._groups["commands"]._all
            peak = max(peak, *(sum(map(own_bytes, family(jail.process.pid))) for jail in jails), 0)
        run = running.result()
        assert (run.status, run.reason) == ("memory", "its processes need more than 256 MiB together")
        assert run.exit_code is None
        # the limit, the slack, files where the kernel counts; the jail's own processes; and what two looks may miss
        assert 200 < peak / (1 << 20) < 256 + SLACK_MIB + 32 + 40 + 200
        assert run.wall_seconds < 15
        after = await sandbox.execute(["/bin/bash", "-c", "echo 1"])
        assert (after.status, after.stdout) == ("passed", b"1\n")

    with_sandbox(work)
    assert cgroups() == []


def test_processes_that_stay_within_the_limit_together_are_left_alone(mechanism: str) -> None:
    async def work(sandbox: Sandbox) -> None:
        run = await bombed(sandbox, 4, 50, Limits(wall_seconds=20, memory_mib=256))
        assert (run.status, run.reason, run.exit_code) == ("passed", "", 0)

    with_sandbox(work)
    assert cgroups() == []


def test_one_process_is_refused_what_is_beyond_the_limit(mechanism: str) -> None:
    async def work(sandbox: Sandbox) -> None:
        run = await bombed(sandbox, 1, 400, Limits(wall_seconds=20, memory_mib=256))
        assert (run.status, run.exit_code) == ("failed", 1)  # malloc() told it

    with_sandbox(work)


def test_page_tables_count(mechanism: str) -> None:
    async def work(sandbox: Sandbox) -> None:
        tables = await prepare(sandbox, "c", TABLES)
        run = await tables.run(b"", Limits(wall_seconds=20, memory_mib=64, disk_mib=32))
        assert run.status == "memory"

    with_sandbox(work)


def test_a_shell_that_goes_on_after_what_it_started_was_ended_has_not_passed(mechanism: str) -> None:
    async def work(sandbox: Sandbox) -> None:
        bomb = await prepare(sandbox, "c", BOMB)
        limits = Limits(wall_seconds=20, memory_mib=128)
        run = await sandbox.execute(["/bin/bash", "-c", "echo 8 100 | ./program; exit 0"], bomb.files, b"", limits)
        assert (run.status, run.exit_code) == ("memory", None)

    with_sandbox(work)


def test_cpu_time_is_that_of_all_processes_together(mechanism: str) -> None:
    text = "for k in 1 2 3 4; do (while :; do :; done) & done; sleep 20"

    async def work(sandbox: Sandbox) -> None:
        limits = Limits(wall_seconds=20, cpu_seconds=0.5)
        run = await sandbox.execute(["/bin/bash", "-c", text], limits=limits)
        assert (run.status, run.reason) == ("timeout", "its processes need more than 0.5 s of CPU together")
        assert 0.5 < run.cpu_seconds < 2
        assert run.wall_seconds < 10

    with_sandbox(work)


def test_files_in_memory_are_bounded_by_their_own_limit(mechanism: str) -> None:
    text = "head -c 100000000 /dev/full > a; ls -s a > /dev/null; exit 3"

    async def work(sandbox: Sandbox) -> None:
        run = await sandbox.execute(["/bin/bash", "-c", text], limits=Limits(memory_mib=64, disk_mib=40))
        assert (run.status, run.exit_code) == ("failed", 3), run
        assert b"No space left on device" in run.stderr

    with_sandbox(work)


def test_a_jail_that_has_ended_needs_no_guard() -> None:
    async def run() -> None:
        if problem := await tiers.problem_of("A"):
            pytest.skip(problem)
        jail = Jail("A", starts_others=True)
        await jail.ready()
        await jail.close()
        async with Guard(jail, Limits()) as guard:
            pass
        assert not guard.exceeded

    asyncio.run(run())


SPINNING = ["/bin/bash", "-c", "(while :; do :; done) & (while :; do :; done) & wait"]


def guarded(limits: Limits, harm: Callable[[], None]) -> tuple[Run | SandboxError, list[str]]:
    """What two spinning processes come to where `harm` is done once their sandbox serves; cgroups left afterwards."""

    async def run() -> Run | SandboxError:
        if problem := await tiers.problem_of("A"):
            pytest.skip(problem)
        async with Sandbox(1, tier="A") as sandbox:
            assert (await sandbox.execute(["/bin/bash", "-c", "exit 0"])).status == "passed"
            harm()
            (jail,) = sandbox._groups["commands"]._all
            try:
                return await executions.run_command(jail, SPINNING, {}, b"", limits, [])
            except SandboxError as error:
                return error

    return asyncio.run(run()), cgroups()


def test_an_execution_whose_processes_are_not_to_be_found_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    def harm() -> None:
        monkeypatch.setattr(processes, "children", lambda pid: [])
        monkeypatch.setattr(memory_guard, "_FIND_SECONDS", 0.2)

    error, left = guarded(Limits(wall_seconds=2, cpu_seconds=0.6), harm)
    assert "cannot be watched: /proc does not show them within 0.2 s" in str(error) and isinstance(error, SandboxError)
    assert left == []


def test_a_kernel_that_does_not_tell_of_children_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    read = processes.read

    def harm() -> None:
        monkeypatch.setattr(processes, "read", lambda path: None if path.endswith("/children") else read(path))

    error, _ = guarded(Limits(wall_seconds=2, cpu_seconds=0.6), harm)
    assert isinstance(error, SandboxError) and str(error).endswith("children of a process (CONFIG_PROC_CHILDREN)")


def test_a_guard_that_can_no_longer_look_ends_the_execution_and_leaves_no_cgroup(
    monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    def look_at(pid: int) -> None:
        raise OSError(24, "Too many open files")

    start = time.monotonic()
    error, left = guarded(Limits(wall_seconds=20), lambda: monkeypatch.setattr(processes, "look_at", look_at))
    assert isinstance(error, SandboxError)
    assert str(error) == "an execution could not be held to its limits: [Errno 24] Too many open files"
    assert time.monotonic() - start < 15
    assert left == []


def test_a_name_like_a_line_of_the_status_hides_no_memory() -> None:
    named = "open('/proc/self/comm', 'w').write('RssAnon: 0\\nVmPTE: 0'); "
    held = named + "x = bytearray(b'x') * (20 << 20); print(1); input()"
    command = [sys.executable, "-u", "-I", "-S", "-c", held]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found, process = own_bytes(child.pid), processes.look_at(child.pid)
        child.communicate(b"\n")
    assert process is not None and process.name.startswith("RssAnon: 0")
    assert 20 < found / (1 << 20) < 40


HOST = """
import asyncio
from rlvr.sandbox import memory_guard
from rlvr.sandbox.pool import Sandbox

async def main():
    async with Sandbox(1, tier="A") as sandbox:
        running = asyncio.create_task(sandbox.execute(["/bin/sleep", "60"]))
        await asyncio.sleep(1)
        print(memory_guard.usable_parent(), flush=True)
        await running

asyncio.run(main())
"""


def test_what_a_killed_host_leaves_is_removed_by_the_next() -> None:
    parent = memory_guard.usable_parent()
    if parent is None:
        pytest.skip("no memory cgroup can be made here")
    host = subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    assert host.stdout.readline().strip() == str(parent)
    (left,) = parent.glob(f"rlvr-{host.pid}-*")
    memory_guard.sweep(parent)
    assert left.exists(), "its host lives"
    assert (left / "cgroup.procs").read_text().split(), "it holds the execution"
    host.send_signal(signal.SIGKILL)
    host.wait()
    deadline = time.monotonic() + 10
    while left.exists() and time.monotonic() < deadline:  # its processes end with the host
        memory_guard.sweep(parent)
        time.sleep(0.05)
    assert not left.exists()


def process_folder(tmp_path: Path, cgroup: str, mounts: str) -> Path:
    (tmp_path / "cgroup").write_text(cgroup)
    (tmp_path / "mountinfo").write_text(mounts)
    return tmp_path


def test_version_1_limits_below_the_own_cgroup(tmp_path: Path) -> None:
    process = process_folder(
        tmp_path,
        "5:cpu:/a\n4:memory,hugetlb:/own/one\n0::/\n",
        "30 20 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
        "31 20 0:27 /own /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory,hugetlb\n"
        "32 20 0:28 /other /mnt/memory rw - cgroup cgroup rw,memory\n",
    )
    assert memory_guard.candidates(process) == [Path("/sys/fs/cgroup/memory/one")]


@pytest.mark.parametrize(
    ("own_hands_on", "parent_hands_on", "own_limit", "found"),
    [
        ("cpu memory", "memory", "max", ["unit/one", "unit"]),
        ("", "cpu memory", "max", ["unit"]),
        ("", "cpu memory", "1073741824", []),  # beside it, the execution would be out of that limit
        ("", "cpu", "max", []),
    ],
)
def test_version_2_limits_where_the_controller_is_handed_on(
    tmp_path: Path, own_hands_on: str, parent_hands_on: str, own_limit: str, found: list[str]
) -> None:
    unit = tmp_path / "cgroup2" / "unit"
    (unit / "one").mkdir(parents=True)
    (unit / "one" / "cgroup.subtree_control").write_text(own_hands_on)
    (unit / "one" / "memory.max").write_text(own_limit)
    (unit / "cgroup.subtree_control").write_text(parent_hands_on)
    mounts = f"31 20 0:27 / {tmp_path}/cgroup2 rw,relatime - cgroup2 cgroup rw\n"
    process = process_folder(tmp_path, "0::/unit/one\n", mounts)
    assert memory_guard.candidates(process) == [tmp_path / "cgroup2" / name for name in found]
