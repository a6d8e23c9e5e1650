"""Named places where a test breaks the program on purpose: killed, stopped, out of disk or memory.

RLVR_FAILPOINT=place:action, or place:action@n for the n-th time the place is reached (1 where it is not said); several
are separated by commas. The line on stderr that each writes before it acts proves where the program was.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import signal
import threading
import time
from collections import Counter
from functools import lru_cache

from rlvr.errors import SettingsError

VARIABLE = "RLVR_FAILPOINT"
PLACES = {
    "sample": "after each completion",
    "score": "after each group's verdicts",
    "grouplog.append": "a finished group is half written into the log",
    "micro": "between two micro-batches",
    "update": "after the optimizer's step, before the weights are sent",
    "sync": "while the weights are sent to the sampler",
    "rollouts": "the step's rollouts are written, but their file has not its name yet",
    "record": "before the step's row of metrics is written",
    "checkpoint.tensors": "the checkpoint's tensors are written and synced, nothing else of it is",
    "checkpoint.manifest": "before the checkpoint's manifest is written",
    "checkpoint.rename": "the checkpoint is whole, but has not its name yet",
    "checkpoint.renamed": "the checkpoint has its name, older ones are not pruned yet",
    "checkpoint.prune": "between the removals of two old checkpoints",
    "model": "while model/ is saved",
    "feedback.commit": "answers of people are written into the database, but not committed yet",
    "feedback.committed": "answers are committed, and nobody has been told so",
    "finish": "before summary.json is written",
    "loop.stage": "a stage of a loop's round is done, but not noted yet",
    "loop.noted": "it is noted, and the next has not begun",
}
ACTIONS = {
    "kill": "SIGKILL to this process",
    "stop": "SIGTERM to this process",
    "sleep": "an hour's sleep, so that it can be killed from outside",
    "enospc": "OSError: no space left on device",
    "oom": "torch.OutOfMemoryError",
}
_SLEEP_SECONDS = 3600.0

_reached: Counter[str] = Counter()
_lock = threading.Lock()


def failpoint(place: str) -> None:
    """Do here what RLVR_FAILPOINT says of this place; nothing where it is unset. SettingsError where it is wrong."""
    text = os.environ.get(VARIABLE)
    if text:
        _reach(place, text)


def check() -> None:
    """SettingsError where RLVR_FAILPOINT names an unknown place or action."""
    _parse(os.environ.get(VARIABLE, ""))


def _reach(place: str, text: str) -> None:
    assert place in PLACES, place
    plan = _parse(text)
    with _lock:  # places in threads are counted too
        _reached[place] += 1
        action = plan.get((place, _reached[place]))
    if action is not None:
        os.write(2, f"rlvr: failpoint {place}: {action}\n".encode())
        _act(action)


def _act(action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGTERM)
    elif action == "sleep":
        time.sleep(_SLEEP_SECONDS)
    elif action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    else:
        # by name: this module must not need torch, and no other program has this action in its environment
        raise importlib.import_module("torch").OutOfMemoryError("failpoint: out of memory")


@lru_cache(maxsize=8)
def _parse(text: str) -> dict[tuple[str, int], str]:
    """{(place, n): action}"""
    plan: dict[tuple[str, int], str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        place, _, rest = part.partition(":")
        action, at, number = rest.partition("@")
        if place not in PLACES:
            raise SettingsError(f"{VARIABLE}={text}: no place {place!r}{_near(place, PLACES)}")
        if action not in ACTIONS:
            raise SettingsError(f"{VARIABLE}={text}: no action {action!r}{_near(action, ACTIONS)}")
        if at and not (number.isascii() and number.isdecimal() and int(number) > 0):
            raise SettingsError(f"{VARIABLE}={text}: after @ must come a number from 1 on, got {number!r}")
        plan[place, int(number) if at else 1] = action
    return plan


def _near(given: str, known: dict[str, str]) -> str:
    near = difflib.get_close_matches(given, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
