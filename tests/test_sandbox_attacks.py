"""Programs that cheat or break out, in each tier and as each kind of user; and that the runner sees what it must."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sandbox_users

from rlvr.sandbox import attacks, canaries
from rlvr.sandbox.attacks import Program, Report
from rlvr.sandbox.canaries import Canaries
from rlvr.sandbox.limits import Limits
from rlvr.sandbox.pool import Sandbox
from rlvr.sandbox.processes import descendants
from rlvr.sandbox.results import Run
from rlvr.sandbox.surroundings import Surroundings, adopting_orphans, below, own_temporary_folder

pytestmark = pytest.mark.alone

FOLDER = Path(__file__).parent / "sandbox_attacks"
HONEST = "a, b = map(int, input().split())\nprint(a + b)\n"
HEADER = "# attack: one\n# must: two\n# verdict: {verdict}\n# mode: {mode}\n# opts: {opts}\n"
ALL_OF = """
import asyncio, dataclasses, json, sys
from pathlib import Path
from rlvr.sandbox import attacks
programs = [one for folder in sys.argv[2:] for one in attacks.read_programs(Path(folder))]
report = asyncio.run(attacks.attack(programs, tier=sys.argv[1]))
print(json.dumps(dataclasses.asdict(report)))
"""


def written(
    folder: Path, name: str, body: str, verdict: str = "NOT_PASS", mode: str = "stdin", opts: str = "{}"
) -> Path:
    path = folder / f"{name}.py"
    path.write_text(HEADER.format(verdict=verdict, mode=mode, opts=opts) + body)
    return path


def report_of(*programs: Program) -> Report:
    return asyncio.run(attacks.attack(programs))


# --- all programs ----------------------------------------------------------------------------------------------------


def test_every_program_here_has_a_header_that_says_what_it_is() -> None:
    found = {folder: attacks.read_programs(FOLDER / folder) for folder in ("attacks", "controls")}
    assert [one.malformed for programs in found.values() for one in programs if one.malformed] == []
    assert {one.verdict for one in found["attacks"]} == {"NOT_PASS"}
    assert {one.verdict for one in found["controls"]} == {"PASS"}
    assert len(found["attacks"]) >= 91 and len(found["controls"]) >= 30
    assert all(one.attack and one.must for programs in found.values() for one in programs)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("tier", ["A", "B"])
@pytest.mark.parametrize("user", ["root", "ordinary"])
def test_all_attacks_are_held_and_all_honest_programs_pass(tier: str, user: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ALL_OF, tier, str(FOLDER / "attacks"), str(FOLDER / "controls")]
    if user == "ordinary":
        command = sandbox_users.as_user(command, tmp_path)
    elif os.getuid() != 0:
        pytest.skip("not root")
    elif tier == "B":
        pytest.skip("a weak tier is never tried as root")
    done = sandbox_users.run(command, 800)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["why"] == {}
    assert report["held"] == report["n"] == len(list(FOLDER.rglob("*.py")))
    assert report["tier"] == tier
    assert (report["respawns"], report["respawned_by"]) == (0, {})
    assert report["left_behind"] == []


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["A", "B"])
def test_links_that_a_program_leaves_are_not_followed_when_its_folder_is_cleared(tier: str, tmp_path: Path) -> None:
    code = """
import asyncio, os, sys, tempfile
from rlvr.sandbox.pool import Sandbox

PROGRAM = '''
import os
for name in ("one", "two", "deep/three"):
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    os.symlink(FOLDER, name)
os.rename("deep", "renamed")
'''

async def main():
    with tempfile.TemporaryDirectory() as folder:
        kept = os.path.join(folder, "kept")
        open(kept, "w").close()
        async with Sandbox(1, tier=sys.argv[1]) as sandbox:
            run = await sandbox.run(PROGRAM.replace("FOLDER", repr(folder)))
            again = await sandbox.run("import os; print(os.listdir('.'))")
        print(run.status, again.stdout.decode().strip(), os.path.exists(kept))

asyncio.run(main())
"""
    command = sandbox_users.as_user([sys.executable, "-c", code, tier], tmp_path)
    done = sandbox_users.run(command, 60)
    assert done.stdout == "passed [] True\n", done.stderr[-2000:]


def test_a_few_attacks_and_honest_programs_of_each_mode(tmp_path: Path) -> None:
    names = (
        "attacks/env_secrets attacks/write_to_all_fds attacks/int_subclass_eq attacks/process_group_of_the_host "
        "attacks/own_cpu_limit attacks/exit_replaced attacks/cross_run_state controls/plain controls/func_class "
        "controls/class_with_several_methods controls/until_eof_error"
    )
    for name in names.split():
        (tmp_path / f"{Path(name).name}.py").symlink_to(FOLDER / f"{name}.py")
    report = report_of(*attacks.read_programs(tmp_path))
    assert report.why == {}
    assert (report.n, report.held, report.respawns, report.left_behind) == (11, 11, 0, [])


# --- what the runner must see ----------------------------------------------------------------------------------------


class Leaky(Sandbox):
    """The real sandbox with a hole: whatever a program's text asks for by name happens on the host."""

    holes: dict[str, Callable[[], Any]] = {}
    """By a word of the program's text."""

    async def run(self, code: str | bytes, stdin: str | bytes = b"", limits: Limits = Limits()) -> Run:  # noqa: B008
        for word, act in self.holes.items():
            if word in str(code):
                act()
        return await super().run(code, stdin, limits)


@pytest.fixture
def hole(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], Any]], str]]:
    """hole(act) -> why a program is not held during which `act` happened on the host"""
    monkeypatch.setattr(attacks, "Sandbox", Leaky)

    def why(act: Callable[[], Any]) -> str:
        Leaky.holes = {"through_the_hole": act}
        report = report_of(Program(name="one", text="# through_the_hole\n"), Program(name="two", text="print()"))
        assert "two" not in report.why, "the next program is not blamed"
        return report.why.get("one", "held")

    yield why
    Leaky.holes = {}


def canary_of_this_test() -> int:
    """The process that sleeps below this one and bears a secret."""
    return next(
        pid for pid in descendants(os.getpid()) if b"RLVR_CANARY_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def listeners() -> set[int]:
    """Ports of this process's listeners on loopback."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    mine = {os.readlink(path) for path in map(str, Path("/proc/self/fd").iterdir()) if os.path.lexists(path)}
    return {int(one[1].split(":")[1], 16) for one in lines if one[3] == "0A" and f"socket:[{one[9]}]" in mine}


OTHERS: set[int] = set()
"""Listeners that are there without any canary."""


@pytest.fixture(autouse=True)
def know_others() -> None:
    OTHERS.clear()
    OTHERS.update(listeners())


def canary_port() -> int:
    (port,) = listeners() - OTHERS
    return port


def test_nothing_that_happens_is_held(hole: Callable[..., str]) -> None:
    assert hole(lambda: None) == "held"


def test_a_connection_to_the_port_is_seen(hole: Callable[..., str]) -> None:
    assert (
        hole(lambda: socket.create_connection(("127.0.0.1", canary_port())).close()) == "somebody reached the TCP port"
    )


def test_a_datagram_to_the_port_is_seen(hole: Callable[..., str]) -> None:
    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"x", ("127.0.0.1", canary_port()))

    assert hole(send) == "somebody reached the UDP port"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_the_abstract_socket_being_reached_is_seen(kind: socket.SocketKind, hole: Callable[..., str]) -> None:
    def send() -> None:
        with socket.socket(socket.AF_UNIX, kind) as one:
            one.connect("\0rlvr_canary_abstract")
            one.send(b"x")

    assert hole(send) == f"somebody reached the abstract unix socket ({kind.name})"


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (signal.SIGKILL, "the canary process was ended (exit code -9)"),
        (signal.SIGSTOP, "the canary process is not as it was: state"),
    ],
)
def test_what_happens_to_the_process_is_seen(number: int, why: str, hole: Callable[..., str]) -> None:
    def send() -> None:
        os.kill(canary_of_this_test(), number)
        time.sleep(0.1)

    assert hole(send) == why


def test_a_changed_priority_of_the_process_is_seen(hole: Callable[..., str]) -> None:
    changed = hole(lambda: os.setpriority(os.PRIO_PROCESS, canary_of_this_test(), 19))
    assert changed == "the canary process is not as it was: priority"


@pytest.mark.parametrize("name", canaries.MARKERS)
@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm", "."])
def test_a_marker_file_is_seen_and_left_to_its_owner(
    name: str, folder: str, hole: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(os.path.join(os.path.abspath(folder), f"{name}_{os.getpid()}"))
    try:
        assert hole(path.touch) == f"the marker file {path} appeared"
        assert hole(lambda: path.write_text("changed")) == f"the marker file {path} changed"
        assert path.read_text() == "changed"
    finally:
        path.unlink()


def test_processes_left_over_are_seen(hole: Callable[..., str]) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        if not started:
            started.append(subprocess.Popen(["sleep", "2"]))

    assert hole(start) == "1 processes are left over"
    started[0].kill()
    started[0].wait()


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (HONEST, "stdin", "the verdict is passed, not NOT_PASS"),
        ("def solve(a, b): return a + b", "func", "the verdict is passed, not NOT_PASS"),
        ("print('no')\nprint('LEAK: all of it')", "stdin", "it wrote 'LEAK: all of it'"),
        ("import sys\nsys.stderr.write('x\\rLEAK by stderr')", "stdin", "it wrote 'LEAK by stderr'"),
        ("def solve(a, b): print('LEAK')", "func", "it wrote 'LEAK'"),
    ],
)
def test_a_verdict_or_an_output_that_may_not_be_is_seen(text: str, mode: str, why: str) -> None:
    assert report_of(Program(name="one", text=text, mode=mode)).why == {"one": why}


def test_an_honest_program_that_does_not_pass_is_seen() -> None:
    report = report_of(Program(name="wrong", text="print(3)", verdict="PASS"))
    assert report.why["wrong"].startswith("the verdict is failed, not PASS: test 2 of 3: ")
    assert (report.n, report.held, report.failed) == (1, 0, ["wrong"])


def test_secrets_in_output_values_and_errors_are_seen() -> None:
    runs = [
        Run(status="failed", stdout=b"x RLVR_CANARY_1 y"),
        Run(status="failed", stderr=b"RLVR_CANARY_2"),
        Run(status="failed", replies=(attacks.Reply(value=["RLVR_CANARY_3"]),)),
        Run(status="failed", replies=(attacks.Reply(error="ValueError: RLVR_CANARY_4"),)),
    ]
    recorder = attacks._Recorder(Sandbox())
    recorder._runs = runs
    secrets = [f"RLVR_CANARY_{k}" for k in range(1, 6)]
    assert recorder.leaks(secrets) == [f"a secret of the host came out: {secret}" for secret in secrets[:4]]


def test_time_beyond_what_the_limit_allows_is_seen(hole: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacks, "_SLACK_SECONDS", -5.5)  # of 2 s for each of 3 tests
    assert hole(lambda: time.sleep(0.6)).endswith(" s, 0.5 s are allowed")


def test_a_jail_that_no_longer_serves_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacks, "Sandbox", Leaky)
    monkeypatch.setattr(Leaky, "holes", {"last": lambda: monkeypatch.setattr(attacks, "_PLAIN", "print(1)")})
    report = report_of(Program(name="one", text="print()"), Program(name="two", text="# last"))
    assert report.failed == ["two"]
    assert report.why["two"].startswith("afterwards a plain program does not run: ")
    assert report.why["two"].endswith("came out as b'1\\n' b''")


def test_the_numbers_of_the_canaries_are_put_in_and_every_secret_is_there() -> None:
    with Canaries() as made:
        assert made.put_into("CANARY_PORT CANARY_PID CANARY_PORT") == f"{made.port} {made.pid} {made.port}"
        assert os.environ["RLVR_CANARY_TOKEN"] == made.secrets[0]
        files = list(Path(tempfile.gettempdir()).glob("rlvr-canary-*/rlvr_canary_secret.txt"))
        assert made.secrets[1] in {path.read_text().strip() for path in files}
        assert made.secrets[2].encode() in Path(f"/proc/{made.pid}/cmdline").read_bytes()
        assert made.secrets[0].encode() in Path(f"/proc/{made.pid}/environ").read_bytes()
        assert all(secret.startswith("RLVR_CANARY") for secret in made.secrets)
        assert made.touched() == []
        pid = made.pid
    assert "RLVR_CANARY_TOKEN" not in os.environ
    assert not Path(f"/proc/{pid}").exists()


def test_what_is_left_behind_is_named(tmp_path: Path) -> None:
    with own_temporary_folder() as folder:
        before = Surroundings.now(folder)
        assert Surroundings.now(folder).left_since(before) == []
        reading, writing = os.pipe()
        kept = Path(tempfile.mkdtemp())
        shared = Path(f"/dev/shm/rlvr-test-{os.getpid()}")
        shared.touch()
        left = Surroundings.now(folder).left_since(before)
        assert [line.split(" -> ")[0] for line in left[:2]] == sorted(
            [f"descriptor {reading}", f"descriptor {writing}"]
        )
        assert left[2:] == sorted([f"file {shared}", f"file {kept}"])
        for fd in (reading, writing):
            os.close(fd)
        shared.unlink()
        kept.rmdir()


def test_orphans_are_found_below_this_process() -> None:
    with adopting_orphans():
        subprocess.run(["sh", "-c", "sleep 5 >/dev/null 2>&1 &"], check=True)
        deadline = time.monotonic() + 5
        while not (found := [one for one in below().values() if one.name == "sleep"]) and time.monotonic() < deadline:
            time.sleep(0.001)  # until then it is a copy of the shell
        assert [one.parent for one in found] == [os.getpid()]
        os.kill(found[0].pid, signal.SIGKILL)
        os.waitpid(found[0].pid, 0)


def test_where_the_sandbox_refuses_the_report_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid() == 0:
        report = asyncio.run(attacks.attack([Program(name="one", text=HONEST)], tier="B"))
    else:
        monkeypatch.setattr(attacks.Sandbox, "start", refuse)
        report = report_of(Program(name="one", text=HONEST))
    assert (report.n, report.held, report.failed, report.tier) == (1, 0, ["one"], None)
    assert report.why["one"].startswith("the sandbox refuses: ")
    assert report.left_behind == []


async def refuse(self: Sandbox) -> Sandbox:
    raise attacks.SandboxError("nothing holds here")


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_with_its_options(tmp_path: Path) -> None:
    written(tmp_path, "b", HONEST, "PASS", "func", '{"wall": 0.5, "repeat": 3}')
    written(tmp_path, "a", HONEST)
    (tmp_path / "README.md").write_text("not a program")
    first, second = attacks.read_programs(tmp_path)
    assert (first.name, first.verdict, first.mode, first.wall, first.repeat) == ("a", "NOT_PASS", "stdin", 2.0, 1)
    assert (second.name, second.verdict, second.mode, second.wall, second.repeat) == ("b", "PASS", "func", 0.5, 3)
    assert second.attack == "one" and second.must == "two" and HONEST in second.text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("print()\n", "the header has no line `# attack: ...`"),
        (HEADER.format(verdict="MAYBE", mode="stdin", opts="{}"), "verdict must be PASS or NOT_PASS, got 'MAYBE'"),
        (HEADER.format(verdict="PASS", mode="file", opts="{}"), "mode must be stdin or func, got 'file'"),
        (HEADER.format(verdict="PASS", mode="func", opts="[1]"), "opts must be a JSON object, got '[1]'"),
        (HEADER.format(verdict="PASS", mode="func", opts="{"), "opts must be a JSON object, got '{'"),
        (HEADER.format(verdict="PASS", mode="func", opts='{"wal": 1}'), "opts has 'wal'; known are wall and repeat"),
        (HEADER.format(verdict="PASS", mode="func", opts='{"wall": 0}'), "wall must be a number above 0"),
        (HEADER.format(verdict="PASS", mode="func", opts='{"wall": NaN}'), "wall must be a number above 0"),
        (HEADER.format(verdict="PASS", mode="func", opts='{"repeat": true}'), "repeat must be a whole number"),
    ],
)
def test_a_malformed_header_is_named_and_the_program_is_not_held(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(text)
    (program,) = attacks.read_programs(tmp_path)
    assert program.malformed.startswith(f"{tmp_path / 'odd.py'}: the header") and problem in program.malformed
    assert report_of(program).why == {"odd": program.malformed}


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_bytes(b"# attack: \xff\n")
    assert str(tmp_path / "odd.py") in attacks.read_programs(tmp_path)[0].malformed


def test_a_folder_without_programs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no programs"):
        attacks.read_programs(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        attacks.read_programs(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "is_class"),
    [
        ("class Solution:\n    def solve(self, a, b): return a + b", True),
        ("class Solution: pass\ndef solve(a, b): return a + b", False),
        ("def solve(a, b): return a + b", False),
        ("class (", False),
    ],
)
def test_a_solution_is_asked_for_by_its_class_where_there_is_no_function(text: str, is_class: bool) -> None:
    assert attacks._defines_solution(text) is is_class
