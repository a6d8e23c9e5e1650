"""Finished groups come back as they were; whatever a kill or a disk did to the log, the rest of it is used."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import resource
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvr import failpoints, grouplog
from rlvr.errors import DataError, DiskError
from rlvr.grouplog import GroupLog
from rlvr.types import Completion, Group, Message, Rollout, Task, Verdict

TASKS = {
    task.id: task
    for task in (
        Task(id="t:1", prompt="1+1=?", gold="2", verifier="math", source="a", info={"odd": (1, {2: [3]})}),
        Task(id="talk \ud800", prompt=(Message(role="user", content="2+2=? \udfff"),), gold=(4, [5.5]), verifier=None),
    )
}
FLOATS = (-0.1, -1e-320, -0.0, 0.0, 1 / 3, -2.2250738585072014e-308, 1.7976931348623157e308)


@pytest.fixture(autouse=True)
def _fresh_failpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    failpoints._reached.clear()
    monkeypatch.delenv("RLVR_FAILPOINT", raising=False)


class Said(list[str]):
    """What the log warned of."""

    def log(self, folder: Path) -> GroupLog:
        return GroupLog(folder / "groups", self.append)


def completion(**fields: Any) -> Completion:
    given: dict[str, Any] = {
        "text": "two lone ones side by side: \ud83d\ude00, one character: 😀, \x00\u2028",
        "token_ids": (55, 2_000_000, 1, 0, 7, 8, 9),
        "logprobs": FLOATS,
        "trained": (True, False, True, True, True, True, False),
        "finish": "length",
        "versions": ((0, 17), (2, 18)),
        "support": ((55, 9), (), (1,), (0,), (7,), (8,), (9,)),
    }
    return Completion(**given | fields)


def verdict(**fields: Any) -> Verdict:
    given: dict[str, Any] = {
        "score": 0.1 + 0.2,
        "outcome": "partial",
        "reason": "half \ud800",
        "answer": "\\frac{1}{2}\udfff",
        "how": "boxed",
        "stage": "symbolic",
        "checks": {"pair": (1, [2.5, None]), 7: {"list": [True]}, "map": {}, "nested": ({"tuple": ()},)},
        "seconds": 0.1,
        "verifier": "math",
        "version": "3",
    }
    return Verdict(**given | fields)


def group(task: str = "t:1", step: int = 5) -> Group:
    rollouts = (
        Rollout(
            id=f"{step}/{task}/0",
            completion=completion(),
            verdicts={"answer": verdict(), "form \ud800": verdict(score=0.0, outcome="timeout", value=-1e5 / 3)},
            reward=1 / 3,
        ),
        Rollout(
            id=f"{step}/{task}/1",
            completion=completion(token_ids=(), logprobs=(), trained=(), versions=(), support=None, text=""),
            verdicts={"answer": verdict(score=None, outcome="error", checks={})},
            reward=None,
        ),
    )
    return Group(task=TASKS[task], prompt_ids=(3, 4), rollouts=rollouts)


def fill(folder: Path, said: Said, *keys: str, step: int = 5) -> Path:
    log = said.log(folder)
    for key in keys:
        log.append(step, key, group())
    log.sync(step)
    return folder / "groups" / f"{step:06d}.log"


def assert_same(found: Any, expected: Any) -> None:
    """Equal in value and in type, all the way down; floats bit for bit."""
    assert type(found) is type(expected)
    if isinstance(expected, float):
        assert struct.pack("<d", found) == struct.pack("<d", expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif hasattr(expected, "__slots__"):
        for name in type(expected).__slots__:
            assert_same(getattr(found, name), getattr(expected, name))
    else:
        assert found == expected


def test_groups_come_back_bit_for_bit_in_the_order_in_which_they_were_finished(tmp_path: Path) -> None:
    said = Said()
    log = said.log(tmp_path)
    given = {"t:1#8": group(), "talk \ud800": group("talk \ud800"), "": group()}
    for key, one in given.items():
        log.append(5, key, one)
    log.append(6, "x", group(step=6))
    found = said.log(tmp_path).read(5, TASKS)
    assert_same(found, given)
    assert found["t:1#8"].task is TASKS["t:1"]
    assert list(log.read(6, TASKS)) == ["x"]
    assert said == []


def test_the_greedy_completion_comes_back_bit_for_bit_and_a_log_without_one_is_as_before(tmp_path: Path) -> None:
    plain = group()
    (path := tmp_path / "plain").mkdir()
    without = fill(path, Said(), "a").read_bytes()
    payload = zlib.decompress(without[len(grouplog._HEAD) + grouplog._FRAME.size :])
    assert set(json.loads(payload)) == {"run", "key", "task", "digest", "prompt_ids", "rollouts"}
    greedy = Rollout(
        id="5/t:1/2",
        completion=completion(logprobs=(0.0, -0.0, -math.inf, *FLOATS[3:])),
        verdicts={"answer": verdict(score=0.3), "form": verdict(score=None, outcome="error")},
        reward=-1 / 3,
    )
    given = {"a": replace(plain, greedy=greedy), "b": plain}
    said = Said()
    for key, one in given.items():
        said.log(tmp_path).append(5, key, one)
    assert_same(said.log(tmp_path).read(5, TASKS), given)
    assert said == []


def test_infinities_and_nan_come_back(tmp_path: Path) -> None:
    odd = group()
    rollout = replace(
        odd.rollouts[0], completion=completion(logprobs=(-math.inf, math.inf, math.nan)), reward=-math.inf
    )
    said = Said()
    said.log(tmp_path).append(5, "x", replace(odd, rollouts=(rollout,)))
    (found,) = said.log(tmp_path).read(5, TASKS)["x"].rollouts
    assert found.completion.logprobs[:2] == (-math.inf, math.inf)
    assert math.isnan(found.completion.logprobs[2])
    assert found.reward == -math.inf


def test_a_step_without_a_log_has_no_groups(tmp_path: Path) -> None:
    said = Said()
    log = said.log(tmp_path)
    log.sync(5)
    log.forget(5)
    log.clear()
    assert log.read(5, TASKS) == {}
    assert list(tmp_path.iterdir()) == []


def test_wherever_a_log_is_torn_the_whole_groups_before_are_used_and_more_can_be_appended(tmp_path: Path) -> None:
    head = len(grouplog._HEAD)
    (first := tmp_path / "first").mkdir()
    frame = len(fill(first, Said(), "a").read_bytes()) - head
    path = fill(tmp_path, Said(), "a", "b")
    whole = path.read_bytes()
    for size in [*range(head + 20), head + frame - 1, head + frame, head + frame + 1, len(whole) - 1, len(whole)]:
        path.write_bytes(whole[:size])
        said = Said()
        log = said.log(tmp_path)
        keys = ["a", "b"][: (size >= head + frame) + (size == len(whole))]
        assert list(log.read(5, TASKS)) == keys
        is_torn = size not in (0, head, head + frame, len(whole))
        assert len(said) == is_torn
        assert path.stat().st_size == ((head, head + frame, len(whole))[len(keys)] if size >= head else 0)
        log.append(5, "c", group())
        assert_same(log.read(5, TASKS), {key: group() for key in [*keys, "c"]})
        assert len(said) == is_torn


def test_a_log_that_was_not_read_first_is_appended_to_behind_its_whole_groups(tmp_path: Path) -> None:
    path = fill(tmp_path, Said(), "a", "b")
    path.write_bytes(path.read_bytes()[:-5])
    said = Said()
    said.log(tmp_path).append(5, "c", group())
    assert list(said.log(tmp_path).read(5, TASKS)) == ["a", "c"]


def test_no_flipped_bit_lets_a_wrong_group_through(tmp_path: Path) -> None:
    path = fill(tmp_path, Said(), "a", "b", "c")
    whole = path.read_bytes()
    ends = []
    for count in (1, 2, 3):
        (tmp_path / f"{count}").mkdir()
        ends.append(len(fill(tmp_path / f"{count}", Said(), *"abc"[:count]).read_bytes()))
    assert ends[-1] == len(whole)
    said = Said()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        said = Said()
        found = said.log(tmp_path).read(5, TASKS)
        num_before = sum(place >= end for end in ends)
        assert list(found) == ["a", "b", "c"][:num_before]
        assert len(said) == 1
    assert said == [f"{path}: torn or damaged after 2 groups; {ends[2] - ends[1]} bytes cut off"]
    assert path.read_bytes() == whole[: ends[1]]


def test_groups_of_another_run_are_made_again(tmp_path: Path) -> None:
    log = GroupLog(tmp_path / "groups", Said().append, "this run")
    log.append(5, "a", group())
    said = Said()
    other = GroupLog(tmp_path / "groups", said.append, "that run")
    assert other.read(5, TASKS) == {}
    assert said == [f"{tmp_path / 'groups' / '000005.log'}: 1 groups are of another run; they are made again"]
    assert list(GroupLog(tmp_path / "groups", Said().append, "this run").read(5, TASKS)) == ["a"]


def test_a_log_of_another_schema_is_left_alone_until_it_is_written_anew(tmp_path: Path) -> None:
    path = fill(tmp_path, Said(), "a")
    raw = path.read_bytes().replace(grouplog._HEAD, grouplog._MAGIC + b"\x02", 1)
    path.write_bytes(raw)
    said = Said()
    log = said.log(tmp_path)
    assert log.read(5, TASKS) == {}
    assert said == [f"{path}: its schema is 2, this version reads 1; its groups are made again"]
    assert path.read_bytes() == raw
    log.append(5, "b", group())
    assert list(log.read(5, TASKS)) == ["b"]


def test_a_group_whose_task_is_not_in_the_data_any_more_is_told(tmp_path: Path) -> None:
    path = fill(tmp_path, Said(), "a")
    log = Said().log(tmp_path)
    for tasks, what in (
        ({}, "is not in the data any more"),
        ({"t:1": replace(TASKS["t:1"], gold="3")}, "is another in the data now"),
    ):
        with pytest.raises(DataError) as caught:
            log.read(5, tasks)
        assert str(caught.value) == (
            f"{path}: task 't:1' {what}; bring the rows back that the run began with, or set another run.dir"
        )


def test_logs_are_forgotten_up_to_a_step_or_all(tmp_path: Path) -> None:
    said = Said()
    log = said.log(tmp_path)
    for step in (1, 2, 3, 1_000_000):
        log.append(step, "x", group())
    (tmp_path / "groups" / "notes.log").write_text("mine")
    log.forget(2)
    left = sorted(path.name for path in (tmp_path / "groups").iterdir())
    assert left == ["000003.log", "1000000.log", "notes.log"]
    log.forget(1_000_000)  # also the one that is open
    log.append(1_000_000, "y", group())
    assert list(log.read(1_000_000, TASKS)) == ["y"]
    log.clear()
    assert [path.name for path in (tmp_path / "groups").iterdir()] == ["notes.log"]


# --- kills and disks ---


def test_a_kill_in_the_middle_of_a_frame_leaves_the_groups_before_it(tmp_path: Path) -> None:
    code = "import sys; sys.path.insert(0, 'tests'); from pathlib import Path; import test_grouplog as t\n"
    code += f"t.fill(Path({str(tmp_path)!r}), t.Said(), 'a', 'b', 'c')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "RLVR_FAILPOINT": "grouplog.append:kill@3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "rlvr: failpoint grouplog.append: kill\n")
    said = Said()
    log = said.log(tmp_path)
    assert_same(log.read(5, TASKS), {"a": group(), "b": group()})
    assert len(said) == 1
    assert "torn or damaged after 2 groups" in said[0]
    log.append(5, "c", group())
    assert list(said.log(tmp_path).read(5, TASKS)) == ["a", "b", "c"]


@contextlib.contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Bytes. Not for longer than it must be: the report of the tests may be such a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_without_room_is_told_and_leaves_nothing_torn(tmp_path: Path) -> None:
    said = Said()
    log = said.log(tmp_path)

    def fill_up() -> None:
        with no_file_beyond(2048):
            for number in range(100):
                log.append(5, str(number), group())

    with pytest.raises(DiskError, match=f"^cannot keep the groups of step 5 in {tmp_path}/groups/000005.log: File too"):
        fill_up()
    found = said.log(tmp_path).read(5, TASKS)
    assert list(found) == [str(n) for n in range(len(found))]
    assert len(found) > 1
    assert said == []


@pytest.mark.parametrize("action", ["enospc", "oom"])
def test_an_error_in_the_middle_of_a_frame_takes_its_first_half_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    said = Said()
    log = said.log(tmp_path)
    log.append(5, "a", group())
    monkeypatch.setenv("RLVR_FAILPOINT", f"grouplog.append:{action}")
    with pytest.raises((DiskError, RuntimeError), match=r"No space left on device|out of memory"):
        log.append(5, "b", group())
    log.append(5, "c", group())
    assert list(said.log(tmp_path).read(5, TASKS)) == ["a", "c"]
    assert said == []


def test_a_disk_that_fails_is_a_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    log = Said().log(tmp_path)
    log.append(5, "a", group())
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(DiskError, match=r"groups of step 5 in .*: Input/output error$"):
        log.sync(5)
    with pytest.raises(DiskError, match=r"groups of step 6 in .*: Input/output error$"):
        log.append(6, "a", group())
    with pytest.raises(DiskError, match=r"groups of step 5 in .*nowhere/groups/000005.log: No such file or directory$"):
        Said().log(tmp_path / "nowhere").append(5, "a", group())


def test_groups_of_a_version_that_knew_no_values_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said()
    known = [name for name in Verdict.__slots__ if name != "value"]
    with monkeypatch.context() as patch:
        patch.setattr(Verdict, "__slots__", known)
        fill(tmp_path, said, "a")
    found = said.log(tmp_path).read(5, TASKS)["a"]
    assert {v.value for r in found.rollouts for v in r.verdicts.values()} == {None}
    assert [r.reward for r in found.rollouts] == [1 / 3, None]
