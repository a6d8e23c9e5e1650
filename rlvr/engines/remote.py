"""vLLM in a process of its own (engine.mode: process). Where it dies or falls silent, another one takes over.

Weights go by a folder (weights.py), everything else by a pipe (pipe.py). Nothing of vLLM is imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rlvr
from rlvr import errors, failpoints
from rlvr.engines import pipe
from rlvr.engines.vllm import environment
from rlvr.engines.weights import Weights
from rlvr.errors import EngineError, RlvrError
from rlvr.failpoints import failpoint
from rlvr.recipe import Model, VllmEngine
from rlvr.types import Completion, Request

if TYPE_CHECKING:
    from torch import Tensor

_MOST_DEATHS = 3
"""One after the other without a completion between."""
_START_SECONDS = 600.0
_CLOSE_SECONDS = 10.0
# a thread that never ends starts all children: the kernel takes the end of that thread for the end of the parent
_STARTER = ThreadPoolExecutor(1, "rlvr-start")


class _Died(Exception):
    """The child is gone or silent; says how."""


class Remote:
    """Engine (types.Engine) over an engines.vllm.Vllm in a child process."""

    def __init__(self, settings: VllmEngine, model: Model, longest: int | None = None) -> None:
        """EngineError where vLLM cannot start."""
        self.settings, self.model, self.longest = settings, model, longest
        self.version = 0
        self.restarts = 0
        """Children that took over from one that died."""
        self._deaths = 0
        self._calls = 0
        self._weights = Weights(settings.weights_dir)
        self._path: Path | None = None
        """Folder of the present version; None: the model as it is on disk."""
        self._child: _Child | None = None
        try:
            self._surely({"do": "stop"})  # which starts it
        except BaseException:
            self.close()
            raise

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[str, Completion]]:
        missing = pipe.samples(requests)
        while missing:
            call = 0
            try:
                child = self._alive()
                call = self._ask(child, {"do": "generate", "requests": list(map(pipe.request_to, missing.values()))})
                for message in self._answers(child, call):
                    del missing[message["id"]]
                    self._deaths = 0
                    yield message["id"], pipe.completion_from(message["completion"])
                call = 0
                if missing:
                    raise EngineError(f"the sampler's process lost {len(missing)} completions ({next(iter(missing))})")
            except _Died as death:
                call = 0
                self._bury(death)
            finally:
                if call and self._child is not None:  # the caller went away
                    with contextlib.suppress(_Died):
                        self._ask(self._child, {"do": "stop"})

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        path = self._weights.write(weights, version, self.model.lora)
        failpoint("sync")
        self._surely({"do": "load", "path": str(path), "version": version})
        self._path, self.version = path, version
        self._weights.keep_only(path)

    def sleep(self) -> None:
        self._surely({"do": "sleep"})

    def wake(self) -> None:
        self._surely({"do": "wake"})

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()
        self._weights.close()

    def _surely(self, message: dict[str, Any]) -> None:
        """Have it done, by the next child where this one dies of it."""
        while True:
            try:
                self._have_done(self._alive(), message, self.settings.timeout_seconds)
                return
            except _Died as death:
                self._bury(death)

    def _alive(self) -> _Child:
        """The child, a new one with the present weights where there is none."""
        if self._child is None:
            self._child = child = _Child(self.settings)
            try:
                self._begin(child)
            except RlvrError:
                child.bury()
                self._child = None
                raise
        return self._child

    def _begin(self, child: _Child) -> None:
        model, settings = self.model.model_dump_json(), self.settings.model_dump_json()
        start = {"do": "start", "model": model, "settings": settings, "longest": self.longest}
        self._have_done(child, start, max(_START_SECONDS, self.settings.timeout_seconds))
        if self._path is not None:
            load = {"do": "load", "path": str(self._path), "version": self.version}
            self._have_done(child, load, self.settings.timeout_seconds)

    def _have_done(self, child: _Child, message: dict[str, Any], seconds: float) -> None:
        for _ in self._answers(child, self._ask(child, message), seconds):
            raise AssertionError(f"{message['do']} is answered by done alone")

    def _ask(self, child: _Child, message: dict[str, Any]) -> int:
        self._calls += 1
        child.send({**message, "call": self._calls}, self.settings.timeout_seconds)
        return self._calls

    def _answers(self, child: _Child, call: int, seconds: float | None = None) -> Iterator[dict[str, Any]]:
        """Messages of this call until it is done. EngineError and its kin as the child raised them."""
        while True:
            message = child.receive(seconds or self.settings.timeout_seconds)
            if message.get("done") == call:
                if "error" in message:
                    raise getattr(errors, message["kind"])(message["error"])
                return
            if message.get("call") == call:
                yield message

    def _bury(self, death: _Died) -> None:
        child, self._child = self._child, None
        words = child.bury() if child is not None else ""
        self._deaths += 1
        if self._deaths > _MOST_DEATHS:
            last = f"; its last words: {words}" if words else ""
            raise EngineError(f"the sampler's process died {self._deaths} times in a row: {death}{last}")
        self.restarts += 1


class _Child:
    """One life of the process."""

    def __init__(self, settings: VllmEngine) -> None:
        home = str(Path(rlvr.__file__).resolve().parent.parent)
        env = {name: value for name, value in os.environ.items() if name != failpoints.VARIABLE}
        env |= environment(settings)
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by bury()
        command = [sys.executable, "-m", "rlvr.engines.worker", str(os.getpid()), json.dumps(sys.path)]
        self.process = _STARTER.submit(
            subprocess.Popen,
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=env,
            start_new_session=True,
        ).result()
        assert self.process.stdin is not None and self.process.stdout is not None
        self._sink, self._source = self.process.stdin, self.process.stdout
        os.set_blocking(self._source.fileno(), False)
        os.set_blocking(self._sink.fileno(), False)
        self._received = bytearray()
        self._messages: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any], seconds: float) -> None:
        """_Died where it is gone, or does not read for so long."""
        data = memoryview(pipe.frame(message))
        while data:
            if not _wait(self._sink.fileno(), selectors.EVENT_WRITE, seconds):
                raise _Died(f"it did not read for {seconds:g} s")
            try:
                data = data[os.write(self._sink.fileno(), data) :]
            except BrokenPipeError:
                raise _Died(self._end()) from None

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next message. _Died where the process ends, or says nothing for so long."""
        deadline = time.monotonic() + seconds
        while not self._messages:
            if not _wait(self._source.fileno(), selectors.EVENT_READ, deadline - time.monotonic()):
                raise _Died(f"it gave nothing for {seconds:g} s (engine.timeout_seconds)")
            data = os.read(self._source.fileno(), 1 << 20)
            if not data:
                raise _Died(self._end())
            self._received += data
            self._messages = pipe.take_frames(self._received)
        return self._messages.pop(0)

    def close(self) -> None:
        """Let it end by itself, for a while."""
        with contextlib.suppress(_Died, subprocess.TimeoutExpired):
            self.send({"do": "close"}, _CLOSE_SECONDS)
            self.process.wait(_CLOSE_SECONDS)
        self.bury()

    def bury(self) -> str:
        """End it; the last line that it wrote to stderr."""
        self.process.kill()
        self.process.wait()
        self._sink.close()
        self._source.close()
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - 4096))
        lines = [line.strip() for line in self._stderr.read().decode(errors="replace").splitlines() if line.strip()]
        self._stderr.close()
        return lines[-1] if lines else ""

    def _end(self) -> str:
        code = self.process.wait(_CLOSE_SECONDS)
        return f"it ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"


def _wait(fd: int, event: int, seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(fd, event)
        return bool(selector.select(max(0.0, seconds)))
