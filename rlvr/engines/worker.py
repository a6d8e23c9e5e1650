"""The process that vLLM has to itself: `python -m rlvr.engines.worker`, started by engines/remote.py.

It reads messages from its stdin and answers on what was its stdout; what vLLM prints goes to stderr.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import sys
import threading
from typing import Any, NoReturn

from rlvr.engines import pipe
from rlvr.errors import EngineError, RlvrError

_PR_SET_PDEATHSIG = 1


class _Worker:
    def __init__(self, source: int, sink: int) -> None:
        self.source, self.sink = source, sink
        self.messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.engine: Any = None

    def run(self) -> None:
        threading.Thread(target=self._listen, name="rlvr-listen", daemon=True).start()
        while True:
            message = self.messages.get()
            try:
                if message["do"] == "close":
                    if self.engine is not None:
                        self.engine.close()
                    return
                self._do(message)
                answer = {"done": message["call"]}
            except RlvrError as error:
                answer = {"done": message["call"], "error": str(error), "kind": type(error).__name__}
            self._send(answer)

    def _listen(self) -> None:
        """Read messages.

        consumes:     the trainer's end of the pipe
        produces:     self.messages (unbounded: the trainer asks one thing at a time)
        waits for:    the trainer
        ends when:    the trainer's end is closed; the whole process ends with it
        """
        received = bytearray()
        while data := os.read(self.source, 1 << 20):
            received += data
            for message in pipe.take_frames(received):
                self.messages.put(message)
        os._exit(0)

    def _do(self, message: dict[str, Any]) -> None:
        if message["do"] == "start":
            self._start(message)
        elif message["do"] == "generate":
            self._generate(message)
        elif message["do"] == "load":
            self._load(message)
        elif message["do"] in ("sleep", "wake"):
            getattr(self.engine, message["do"])()
        else:
            assert message["do"] == "stop", message  # of a generation that is over

    def _start(self, message: dict[str, Any]) -> None:
        from rlvr.engines.vllm import Vllm
        from rlvr.policy import load_tokenizer
        from rlvr.recipe import Model, VllmEngine

        model = Model.model_validate_json(message["model"])
        settings = VllmEngine.model_validate_json(message["settings"])
        self.engine = Vllm(settings, model, load_tokenizer(model)[0], message["longest"])

    def _generate(self, message: dict[str, Any]) -> None:
        generator = self.engine.generate([pipe.request_from(fields) for fields in message["requests"]])
        try:
            for id, completion in generator:
                self._send({"call": message["call"], "id": id, "completion": pipe.completion_to(completion)})
                if not self.messages.empty():  # the trainer wants no more of it
                    return
        finally:
            generator.close()

    def _load(self, message: dict[str, Any]) -> None:
        from pathlib import Path

        from rlvr.engines import weights

        try:
            self.engine.load(weights.read(Path(message["path"])), message["version"])
        except OSError as error:
            raise EngineError(f"the sampler cannot read the weights in {message['path']}: {error}") from error

    def _send(self, message: dict[str, Any]) -> None:
        data = pipe.frame(message)
        while data:
            data = data[os.write(self.sink, data) :]


def main() -> NoReturn:
    """Arguments: parent's pid, its sys.path as JSON."""
    parent = int(sys.argv[1])
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)
    sys.path[:] = json.loads(sys.argv[2])
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)  # what is printed must not end up between the messages
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to handle; it closes the pipe
    _Worker(source, sink).run()
    sys.stderr.flush()
    os._exit(0)  # vLLM's threads have nothing to say any more


if __name__ == "__main__":
    main()
