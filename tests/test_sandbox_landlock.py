"""Landlock, held by the kernel. A child gives up root first; what it reaches for is a file or a process of the test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlvr.sandbox import landlock, syscalls

ROOT = Path(__file__).parents[1]
NOBODY = 65534
HAS_TABLE = os.uname().machine in syscalls.MACHINES

pytestmark = pytest.mark.skipif(
    not HAS_TABLE or landlock.abi() < landlock.NEEDED_ABI, reason=f"no Landlock of ABI {landlock.NEEDED_ABI} here"
)

START = f"""
import ctypes, errno, fcntl, os, shutil, signal, socket, subprocess, sys, threading, time
sys.path.insert(0, {str(ROOT)!r})
from rlvr.sandbox import landlock
if os.getuid() == 0:
    os.setgroups([]); os.setresgid({NOBODY}, {NOBODY}, {NOBODY}); os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
def refused(call, *args, number=errno.EACCES):
    try:
        call(*args)
    except OSError as error:
        assert error.errno == number, (call, args, error)
    else:
        raise AssertionError(f"{{call}}{{args}} was allowed")
"""


def python(code: str, *args: object) -> None:
    """Run code in a process of its own session; it must come to its end."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", START + code + "\nprint('done')", *map(str, args)],
        capture_output=True, text=True, timeout=120, check=False, start_new_session=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.fixture
def folder() -> Iterator[Path]:
    """With shown/, work/ and outside/, all of which the modes of files let anybody write to."""
    top = Path(tempfile.mkdtemp(prefix="rlvr-landlock-", dir="/tmp"))
    top.chmod(0o777)
    for name in ("shown", "work", "outside"):
        (top / name).mkdir()
        (top / name / "file").write_text(name)
        (top / name).chmod(0o777)
        (top / name / "file").chmod(0o666)
    yield top
    shutil.rmtree(top)


@pytest.fixture
def canary() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the user that the attackers are."""
    user = NOBODY if os.getuid() == 0 else None
    process = subprocess.Popen(["/bin/sleep", "120"], user=user, group=user, start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_files_elsewhere_can_neither_be_read_nor_written(folder):
    code = """
os.chdir(sys.argv[1])
attempts = [
    (open, "outside/file"), (os.listdir, "outside"), (open, "work/../outside/file"), (open, "outside/file", "a"),
    (os.truncate, "outside/file", 0), (os.unlink, "outside/file"), (os.mkdir, "outside/new"), (os.rmdir, "outside"),
    (os.symlink, "x", "outside/link"), (os.mkfifo, "outside/pipe"), (open, "outside/new", "w"), (open, "work/out"),
    (open, "shown/file", "a"), (os.truncate, "shown/file", 0), (os.unlink, "shown/file"), (open, "shown/new", "w"),
    (os.mkdir, "shown/new"), (os.listdir, "."), (os.listdir, "/"), (open, "/etc/passwd"),
]
moves = [("shown/file", "work/moved"), ("work/file", "shown/moved"), ("work/file", "outside/moved")]
os.symlink("../outside/file", "work/out")
landlock.Rules(["shown"]).apply(["work"])
for attempt in attempts: refused(*attempt)
for move in moves:
    for call in (os.rename, os.link):
        try: call(*move)
        except OSError as error: assert error.errno in (errno.EACCES, errno.EXDEV), (call, move, error)
        else: raise AssertionError((call, move))
assert open("shown/file").read() == "shown" and os.listdir("shown") == ["file"]
"""
    python(code, folder)
    assert (folder / "outside/file").read_text() == "outside"
    assert sorted(path.name for path in folder.glob("*/*")) == ["file", "file", "file", "out"]


def test_below_the_work_folder_everything_but_devices_sockets_and_programs_is_allowed(folder):
    code = """
os.chdir(sys.argv[1])
listener = socket.socket(socket.AF_UNIX)
shutil.copy("/bin/true", "work/true")
landlock.Rules(["shown", "/usr", "/bin", "/lib", "/lib64"]).apply(["work"])
with open("work/new", "w+") as file: file.write("abc"); file.truncate(2); file.seek(0); assert file.read() == "ab"
open("work/new", "w").close(); os.truncate("work/file", 1); assert open("work/file").read() == "w"
os.makedirs("work/a/b"); os.rename("work/new", "work/a/b/moved"); os.link("work/a/b/moved", "work/again")
os.symlink("file", "work/link"); assert open("work/link").read() == "w"
os.mkfifo("work/pipe"); os.unlink("work/pipe"); shutil.rmtree("work/a")
assert sorted(os.listdir("work")) == ["again", "file", "link", "true"]
refused(listener.bind, "work/socket"); refused(os.mknod, "work/socket", 0o140600)
for program in ("work/true", "/bin/true", "/usr/bin/env"): refused(os.execv, program, ["x"])
with open("/dev/null", "w") as null: null.write("x")
assert open("/dev/full", "rb").read(3) == bytes(3) and len(open("/dev/urandom", "rb").read(5)) == 5
refused(open, "/dev/kmsg"); refused(open, "/dev/ptmx")
"""
    python(code, folder)
    assert sorted(path.name for path in (folder / "work").iterdir()) == ["again", "file", "link", "true"]
    assert ((folder / "work/file").read_text(), (folder / "work/again").read_text()) == ("w", "")


def test_a_single_file_may_be_named(folder):
    (folder / "shown/other").write_text("other")
    code = """
os.chdir(sys.argv[1]); landlock.Rules(["shown/file"], []).apply(["work/file"])
assert open("shown/file").read() == "shown"; open("work/file", "w").close()
refused(open, "shown/other"); refused(open, "shown/file", "a"); refused(open, "work/new", "w")
refused(open, "/dev/null")
"""
    python(code, folder)
    assert ((folder / "shown/file").read_text(), (folder / "work/file").read_text()) == ("shown", "")
    assert [path.name for path in (folder / "work").iterdir()] == ["file"]


def test_no_connection_to_an_abstract_socket_outside(folder):
    name = f"\0rlvr_landlock_test_{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as box:
        listener.bind(name)
        listener.listen()
        listener.setblocking(False)
        box.bind(name + "_box")
        box.setblocking(False)
        code = """
name = "\\0" + sys.argv[2]
one, two = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
mail = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
one.connect(name); mail.sendto(b"before", name + "_box")
landlock.Rules([]).apply([sys.argv[1]])
refused(two.connect, name, number=errno.EPERM); refused(mail.sendto, b"after", name + "_box", number=errno.EPERM)
own = socket.socket(socket.AF_UNIX); own.bind(name + "_own"); own.listen(); two.connect(name + "_own")
"""
        python(code, folder / "work", name[1:])
        listener.accept()[0].close()  # the one of before
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert box.recv(99) == b"before"
        with pytest.raises(BlockingIOError):
            box.recv(99)


def test_no_connection_by_tcp(folder):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        code = """
there = ("127.0.0.1", int(sys.argv[2]))
one, two, three = (socket.socket() for _ in range(3))
one.connect(there)
landlock.Rules([]).apply([sys.argv[1]])
refused(two.connect, there); refused(three.bind, ("127.0.0.1", 0))
"""
        python(code, folder / "work", listener.getsockname()[1])
        listener.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_no_signal_to_a_process_outside(folder, canary):
    code = """
canary = int(sys.argv[2])
os.kill(canary, 0)  # it could, before
handle = os.pidfd_open(canary)
read, write = os.pipe()
fcntl.fcntl(read, fcntl.F_SETOWN, canary); fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC)
fcntl.fcntl(read, fcntl.F_SETSIG, signal.SIGKILL)
landlock.Rules([]).apply([sys.argv[1]])
for number in (0, signal.SIGTERM, signal.SIGKILL):
    refused(os.kill, canary, number, number=errno.EPERM)
    refused(signal.pidfd_send_signal, handle, number, number=errno.EPERM)
fcntl.fcntl(read, fcntl.F_SETOWN, canary)
os.write(write, b"x")  # the kernel would now send the canary SIGKILL
child = os.fork()
if child == 0:
    time.sleep(60); os._exit(0)
os.kill(child, signal.SIGKILL); assert os.waitpid(child, 0)[1] == signal.SIGKILL  # its own it may
caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
thread = threading.Thread(target=signal.raise_signal, args=(signal.SIGUSR1,)); thread.start(); thread.join()
os.kill(os.getpid(), signal.SIGUSR1); assert caught == [1, 1]
"""
    python(code, folder / "work", canary.pid)
    assert canary.poll() is None


def test_rules_made_before_the_fork_serve_many_children_each_with_its_own_folder(folder):
    code = """
os.chdir(sys.argv[1])
rules = landlock.Rules(["shown"])
for name in ("one", "two"): os.mkdir(name); open(name + "/file", "w").close()
def is_open(fd):
    try: return bool(os.fstat(fd))
    except OSError: return False
for mine, other in (("one", "two"), ("two", "one")):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            before = {fd for fd in range(99) if is_open(fd)}
            rules.apply([mine])
            after = {fd for fd in range(99) if is_open(fd)}
            assert before - after == {fd for fd, _ in rules._rules} and after < before, (before, after)
            open(mine + "/new", "w").close(); assert open("shown/file").read() == "shown"
            refused(open, other + "/file"); refused(open, other + "/new", "w"); refused(open, "outside/file")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
open("outside/file").close()  # this process is not held
"""
    python(code, folder)


def test_an_older_kernel_is_told_by_its_abi(monkeypatch):
    monkeypatch.setattr(landlock, "NEEDED_ABI", 99)
    with pytest.raises(OSError, match=rf"Landlock ABI 99 \(Linux 6.12\) is needed, this kernel has {landlock.abi()}"):
        landlock.Rules([]).apply([])


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match="'/tmp/rlvr-not-there'"):
        landlock.Rules(["/usr", "/tmp/rlvr-not-there"])


def test_what_the_canary_is_for_would_kill_it_without_landlock(canary):
    # the same way in as above, F_SETOWN with F_SETSIG; only so its refusal there means something
    code = """
canary = int(sys.argv[1])
read, write = os.pipe()
fcntl.fcntl(read, fcntl.F_SETOWN, canary); fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC)
fcntl.fcntl(read, fcntl.F_SETSIG, signal.SIGKILL)
os.write(write, b"x")
"""
    python(code, canary.pid)
    assert canary.wait(10) == -signal.SIGKILL
