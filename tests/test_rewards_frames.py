"""What goes between a pool and its processes arrives as it was."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.children import surroundings
from rlvr.errors import one_line
from rlvr.rewards.bound import texts
from rlvr.rewards.frames import (
    HEADER,
    frame,
    framed,
    job_body,
    job_from,
    take_frames,
    to_json,
    verdict_body,
    verdict_from,
    widen,
)
from rlvr.types import Task, Verdict

TEXTS = st.text(st.characters(codec=None), max_size=40)  # halves of surrogate pairs too
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(TEXTS, DATA, DATA, st.dictionaries(TEXTS, DATA, max_size=2))
def test_a_job_arrives_as_it_was_sent(response: str, gold: Any, column: Any, options: dict[str, Any]) -> None:
    task = Task(id="t", prompt="Q", gold=gold, info={"column": column})
    written, asked, chosen = texts(response, task, options)
    body = job_body(written, asked, to_json(["t", None, ""]), chosen)
    assert job_from(body) == (response, [gold, "Q", {"column": column}], ["t", None, ""], options)


@given(score=st.none() | st.floats(0, 1), value=st.floats(allow_nan=False, allow_infinity=False) | st.none())
def test_a_verdict_comes_back_with_its_value(score: float | None, value: float | None) -> None:
    sent = Verdict(score=score, outcome="error" if score is None else "partial", value=None if score is None else value)
    body = json.loads(to_json(verdict_body(sent, 0.5, "printed")))
    assert verdict_from(body, "v", "1", "h") == replace(
        sent, seconds=0.5, stderr="printed", verifier="v", version="1", input_hash="h"
    )


@given(st.lists(st.binary(max_size=30), max_size=5), st.integers(0, 200))
def test_frames_are_taken_when_they_are_complete(bodies: list[bytes], cut: int) -> None:
    whole = b"".join(framed(body, number, 7) for number, body in enumerate(bodies))
    received = bytearray(whole[:cut])
    taken = take_frames(received)
    received += whole[cut:]
    taken += take_frames(received)
    assert [(number, index, raw[HEADER.size :]) for number, index, raw in taken] == [
        (number, 7, body) for number, body in enumerate(bodies)
    ]
    assert received == b""


def test_what_json_has_no_word_for_is_written_in_plain_words() -> None:
    value = {"n": np.float32(0.5), "a": np.arange(3), "s": {3, 1, 2}, "p": Path("/a"), "t": (1, 2)}
    assert json.loads(to_json(value)) == {"n": 0.5, "a": [0, 1, 2], "s": [1, 2, 3], "p": "/a", "t": [1, 2]}


class Bare:
    """Its text is its address."""


@pytest.mark.parametrize("value", [Bare(), object(), len.__call__, lambda: 1, Path.exists, b"1"])
def test_what_would_read_otherwise_in_each_process_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"has no text that is the same in every process|bytes are not text"):
        frame({"deep": [value]})


def test_a_pipe_is_widened_where_the_system_allows_it() -> None:
    reader, writer = os.pipe()
    widen(writer, 1 << 17)
    assert fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) in (1 << 16, 1 << 17)
    os.close(reader)
    os.close(writer)


def test_a_child_finds_this_package_wherever_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    given = surroundings(A="1")
    assert (given["A"], given["PYTHONPATH"].split(os.pathsep)[1]) == ("1", "/elsewhere")
    code = "import rlvr; print(rlvr.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=given, capture_output=True, text=True)
    assert Path(done.stdout.strip()).parent.parent == Path(__file__).parent.parent


def test_an_error_is_told_on_one_line_and_not_without_end() -> None:
    assert one_line(ValueError("two\n  lines")) == "ValueError: two lines"
    assert one_line(KeyError("x" * 1000)) == "KeyError: '" + "x" * 289
    assert one_line(OSError("abc"), most=9) == "OSError: "
