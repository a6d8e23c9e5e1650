"""What one sees while a run goes on: a live bar on a terminal, a few plain lines in a log.

No thread draws anything: the display is renewed by the calls of the loop, so nothing is written between them and
processes that fork in the meantime inherit no held lock.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_SECONDS = 5.0
"""Least time between two plain lines of steps."""
PHASE_SECONDS = 30.0
"""A plain log that was silent for so long shows the phase, so that nobody thinks the run dead."""
LIVE_SECONDS = 0.1
"""Least time between two drawings of the live display."""
RATE_STEPS = 20
"""The rate is that of the last steps, so that it follows a change of length."""

_LABELS = {
    "completions/mean_length": "length",
    "completions/clipped_ratio": "cut",
    "frac_reward_zero_std": "equal groups",
    "grad_norm": "grad",
    "mean_token_accuracy": "accuracy",
    "perf/tokens_per_second": "tokens/s",
    "sampling/sampling_logp_difference/mean": "mismatch",
}


class Progress:
    """The progress of one run; a context manager, whose methods may be called from any thread.

    with Progress("train", 100) as progress:
        progress.begin(0)
        progress.phase("sampling 57/128")
        progress.step(1, {"reward": 0.44}, ["reward"])

    writes `step 1/100  reward 0.44  1.1 s/step  1m49s left` where standard output is not a terminal.
    """

    def __init__(
        self,
        title: str,
        total_steps: int,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.num_warnings = 0
        self._title, self._total, self._done = title, total_steps, 0
        self._console = console or Console()
        self._clock = clock
        self._lock = threading.RLock()
        self._marks: deque[tuple[float, int]] = deque(maxlen=RATE_STEPS + 1)  # (time, steps done), by _step_clock
        self._aside = 0.0  # seconds in aside()
        self._shown = self._phase = ""
        self._pending: str | None = None  # a plain line of a step that was held back
        self._is_first = True
        self._last_line = clock()
        self._last_draw = float("-inf")
        self._live: Live | None = None
        self._is_mute = False

    def __enter__(self) -> Progress:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False, get_renderable=self._render)
            self._live.start(refresh=True)
        self._last_line = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._phase = ""
            if self._live is not None:
                self._live.refresh()
                self._live.stop()
                self._live = None
            elif self._pending is not None:
                self._line(self._pending)

    def begin(self, done: int) -> None:
        """The next step begins now, after `done` steps (those of a resumed run); what came before is no step's time."""
        with self._lock:
            self._done = done
            self._marks.clear()
            self._marks.append((self._step_clock(), done))

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """For what happens between steps and is no part of them, as an evaluation: the rate leaves it out."""
        start = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._aside += self._clock() - start

    def step(self, step: int, metrics: Mapping[str, float], shown: Sequence[str]) -> None:
        """`step` steps of total_steps are done (1 after the first); names in shown that metrics lack are left out."""
        with self._lock:
            is_first, self._is_first = self._is_first, False
            self._done, self._phase = step, ""
            self._marks.append((self._step_clock(), step))
            self._shown = "  ".join(
                f"{label(name)} {number(metrics[name])}" for name in shown if metrics.get(name) is not None
            )
            if self._live is not None:
                self._draw(force=step >= self._total)
                return
            parts = [f"step {step}/{self._total}", self._shown, self._rate_text(), self._left_text()]
            self._pending = "  ".join(part for part in parts if part)
            if is_first or step >= self._total or self._clock() - self._last_line >= PLAIN_SECONDS:
                self._line(self._pending)

    def phase(self, text: str) -> None:
        """What is being done now; cheap enough to call for every completion."""
        with self._lock:
            self._phase = text
            if self._live is not None:
                self._draw()
            elif self._clock() - self._last_line >= PHASE_SECONDS:
                if self._pending is not None:
                    self._line(self._pending)
                self._line(f"step {self._done}/{self._total}  {text}")

    def say(self, text: str) -> None:
        """A line that stays."""
        with self._lock:
            if self._live is not None:
                self._live.console.print(Text(text))
            else:
                self._write(text)

    def warn(self, text: str) -> None:
        """A line that stays and stands out."""
        with self._lock:
            self.num_warnings += 1
            if self._live is not None:
                self._live.console.print(Text(f"warning: {text}", style="yellow"))
            else:
                self._write(f"warning: {text}")

    def _step_clock(self) -> float:
        return self._clock() - self._aside

    def _seconds_per_step(self) -> float | None:
        if len(self._marks) < 2:
            return None
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        return (end - start) / (last - first) if last > first else None

    def _rate_text(self) -> str:
        seconds = self._seconds_per_step()
        if seconds is None:
            return ""
        return f"{seconds:.3g} s/step" if seconds >= 0.5 else f"{1 / max(seconds, 1e-9):.3g} steps/s"

    def _left_text(self) -> str:
        seconds = self._seconds_per_step()
        if seconds is None or self._done >= self._total:
            return ""
        return f"{duration(seconds * (self._total - self._done))} left"

    def _line(self, text: str) -> None:
        self._pending, self._last_line = None, self._clock()
        self._write(text)

    def _write(self, text: str) -> None:
        """A run outlives whoever was reading: where the output is closed or full, it goes on without."""
        if self._is_mute:
            return
        try:
            self._console.file.write(text + "\n")  # one write, not through rich, which would wrap at 80 columns
            self._console.file.flush()
        except OSError as error:
            self._is_mute = True
            with contextlib.suppress(OSError):
                sys.stderr.write(f"rlvr: the progress cannot be shown any more ({error.strerror}); going on\n")

    def _draw(self, force: bool = False) -> None:
        now = self._clock()
        if self._live is not None and (force or now - self._last_draw >= LIVE_SECONDS):
            self._last_draw = now
            self._live.refresh()

    def _render(self) -> Group:
        bar = Table.grid(padding=(0, 2, 0, 0))
        bar.add_row(
            Text(self._title, style="bold"),
            ProgressBar(
                total=max(self._total, 1), completed=self._done, width=24, complete_style="cyan", finished_style="green"
            ),
            f"{self._done}/{self._total}",
            Text(self._rate_text(), style="cyan"),
            Text(self._left_text(), style="cyan"),
        )
        below = "   ".join(text for text in (self._shown, self._phase) if text)
        return Group(bar, Text(below, style="dim", no_wrap=True, overflow="ellipsis"))


def label(name: str) -> str:
    """A metric's short name: "completions/mean_length" is "length", "rewards/format/mean" is "format"."""
    return _LABELS.get(name, name.removesuffix("/mean").rsplit("/", 1)[-1])


def number(value: float) -> str:
    """Three digits, whole numbers whole: 0.44, 31.2, 12345, 1e-06."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e9 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """12s, 1m38s, 2h05m, 3d04h"""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // smaller:02d}{name}"
    return f"{whole // 60}m{whole % 60:02d}s"


def warnings_in_words(metrics: Mapping[str, float], hacked: str = "") -> list[str]:
    """What is wrong with a step, in sentences that say what to change; nothing where all is well. `hacked`: the first
    completion on a canary that was rewarded."""
    words: list[str] = []
    cut = metrics.get("completions/clipped_ratio", 0.0)
    if cut > 0.5:
        words.append(
            f"{100 * cut:.0f} % of completions were cut at sample.max_tokens: raise sample.max_tokens, "
            "or give the model a reason to stop (completions/clipped_ratio)"
        )
    # a critic is a baseline that does not need siblings to differ
    if metrics.get("frac_reward_zero_std", 0.0) >= 1.0 and "critic/values/mean" not in metrics:
        words.append(
            "all groups have equal rewards, so this step taught nothing: choose easier or harder tasks, "
            "or raise sample.group_size (frac_reward_zero_std)"
        )
    unextracted = metrics.get("reward/unextracted", 0.0)
    if unextracted > 0.9:
        words.append(
            f"no answer was found in {100 * unextracted:.0f} % of completions: check that the prompt asks for the form "
            "that the verifier reads (reward/unextracted)"
        )
    for name, share in metrics.items():
        limit = {"timeout": "CPU time (its deadline)", "too_complex": "memory (scoring.memory_mib) or grew too complex"}
        area, _, outcome = name.rpartition("/")
        if area.startswith("verdicts/") and outcome in limit and share > 0.1:
            words.append(
                f"{100 * share:.0f} % of the verdicts of {area.removeprefix('verdicts/')} ran out of {limit[outcome]} "
                f"and count 0: is it the responses, or the verifier? ({name})"
            )
    if metrics.get("canary/hacked"):
        words.append(
            f"{metrics['canary/hacked']:g} of {metrics['canary/completions']:g} completions on tasks that nobody can "
            f"solve were rewarded, so the verifier is being talked round: `rlvr why` tells of {hacked} "
            "(canary/hack_rate)"
        )
    overflow = metrics.get("ratio/overflow", 0.0)
    if overflow > 0:
        words.append(
            f"{100 * overflow:.2g} % of tokens had a probability ratio beyond e^20, which was held there: the policy "
            "moves too far in a step, lower optim.lr (ratio/overflow)"
        )
    unjudged = metrics.get("reward/unjudged_ratio", 0.0)
    if unjudged > 0.01:
        words.append(
            f"{100 * unjudged:.1f} % of completions could not be judged, which is not the model's fault: "
            "see the reasons in their verdicts (reward/unjudged_ratio)"
        )
    return words


class WarnOnce:
    """Lets a kind of warning through once per `every` steps; sentences that differ only in numbers are one kind."""

    def __init__(self, every: int = 20) -> None:
        self._every = every
        self._last: dict[str, int] = {}

    def fresh(self, step: int, texts: Iterable[str]) -> list[str]:
        """Those of texts that were not let through during the last `every` steps."""
        due: list[str] = []
        for text in texts:
            kind = re.sub(r"[0-9]+(?:\.[0-9]+)?", "#", text)
            if kind not in self._last or step - self._last[kind] >= self._every:
                self._last[kind] = step
                due.append(text)
        return due
