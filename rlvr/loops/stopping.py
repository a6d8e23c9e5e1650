"""Stopping on request: the first signal ends the run after its step, with a checkpoint; the second ends it at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

from rlvr.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Context manager around a loop; `requested` turns True with the first SIGINT, SIGTERM or SIGUSR1.

    Works in the main thread alone (Python delivers signals there); elsewhere it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self.is_quiet = False
        """Where another rank tells it."""
        self.say: Callable[[str], None] = _print
        """Told when it is requested."""
        self._before: dict[signal.Signals, object] = {}

    def check(self, when: str) -> None:
        """Stopped where it was requested, while nothing needs to be saved."""
        if self.requested:
            raise Stopped(f"stopped {when}; the same command starts again")

    def __enter__(self) -> StopRequest:
        try:
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        except ValueError:  # not the main thread
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        name = signal.Signals(number).name
        if not self.is_quiet:
            self.say(f"{name}: stopping with a checkpoint; once more stops at once")


def _print(text: str) -> None:
    sys.stderr.write(f"rlvr: {text}\n")
    sys.stderr.flush()
