from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from rlvr.progress import Progress, WarnOnce, duration, label, number, warnings_in_words


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def plain(total: int, done: int = 0) -> tuple[Progress, io.StringIO, Clock]:
    file, clock = io.StringIO(), Clock()
    progress = Progress("train", total, console=Console(file=file), clock=clock)
    progress.begin(done)
    return progress, file, clock


def test_a_plain_line_says_step_metrics_rate_and_time_left() -> None:
    progress, file, clock = plain(100)
    with progress:
        clock.now += 1.25
        progress.step(
            1, {"reward": 0.4399, "completions/mean_length": 31.24}, ["reward", "absent", "completions/mean_length"]
        )
        assert file.getvalue() == "step 1/100  reward 0.44  length 31.2  1.25 s/step  2m04s left\n"


def test_plain_lines_are_five_seconds_apart_but_the_last_one_always_comes() -> None:
    progress, file, clock = plain(10)
    with progress:
        for step in range(1, 11):
            clock.now += 1.9
            progress.step(step, {"reward": step / 10}, ["reward"])
    steps = [int(line.split()[1].split("/")[0]) for line in file.getvalue().splitlines()]
    assert steps == [1, 4, 7, 10]
    assert file.getvalue().splitlines()[-1] == "step 10/10  reward 1  1.9 s/step"


def test_a_run_that_ends_early_still_shows_its_last_step() -> None:
    progress, file, clock = plain(100)
    with progress:
        for step in (1, 2, 3):
            clock.now += 0.1
            progress.step(step, {}, [])
    assert file.getvalue().splitlines() == [
        "step 1/100  10 steps/s  10s left",
        "step 3/100  10 steps/s  10s left",
    ]


def test_a_resumed_run_counts_its_own_steps_only_for_the_rate() -> None:
    progress, file, clock = plain(100, done=90)
    with progress:
        clock.now += 2.0
        progress.step(91, {}, [])
    assert file.getvalue() == "step 91/100  2 s/step  18s left\n"


def test_neither_start_up_nor_evaluations_count_for_the_rate() -> None:
    progress, file, clock = plain(4)
    with progress:
        clock.now += 60.0  # loads the model
        with progress.aside():
            clock.now += 12.0
        progress.begin(0)
        for step in (1, 2, 3):
            clock.now += 2.0
            progress.step(step, {}, [])
            with progress.aside():
                clock.now += 30.0
    assert file.getvalue().splitlines()[-1] == "step 3/4  2 s/step  2s left"


def test_without_a_beginning_the_rate_comes_with_the_second_step() -> None:
    file, clock = io.StringIO(), Clock()
    with Progress("train", 3, console=Console(file=file), clock=clock) as progress:
        for step in (1, 2):
            clock.now += 7.0
            progress.step(step, {}, [])
    assert file.getvalue().splitlines() == ["step 1/3", "step 2/3  7 s/step  7s left"]


def test_the_rate_forgets_old_steps() -> None:
    progress, file, clock = plain(200)
    with progress:
        clock.now += 500.0  # the first step compiles
        for step in range(1, 31):
            clock.now += 3.0
            progress.step(step, {}, [])
    assert file.getvalue().splitlines()[-1] == "step 30/200  3 s/step  8m30s left"


def test_a_silent_log_shows_the_phase_now_and_then() -> None:
    progress, file, clock = plain(5)
    with progress:
        for done in range(100):
            clock.now += 1.0
            progress.phase(f"sampling {done + 1}/100")
    assert file.getvalue().splitlines() == [f"step 0/5  sampling {done}/100" for done in (30, 60, 90)]


def test_lines_that_stay_are_written_as_they_are() -> None:
    progress, file, _ = plain(5)
    with progress:
        progress.say("[bold]no markup[/bold] " + "x" * 200)
        progress.warn("too long")
    assert file.getvalue() == "[bold]no markup[/bold] " + "x" * 200 + "\nwarning: too long\n"
    assert progress.num_warnings == 1


def test_threads_write_whole_lines() -> None:
    progress, file, _ = plain(5)
    with progress:
        threads = [threading.Thread(target=lambda: [progress.say("a" * 50) for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert file.getvalue() == ("a" * 50 + "\n") * 200


def test_a_terminal_shows_bar_phase_and_metrics() -> None:
    file, clock = io.StringIO(), Clock()
    console = Console(file=file, force_terminal=True, width=100, color_system=None, _environ={"TERM": "xterm"})
    with Progress("quickstart", 8, console=console, clock=clock) as progress:
        progress.begin(0)
        clock.now += 4.0
        progress.step(2, {"reward": 0.25}, ["reward"])
        clock.now += 1.0
        progress.phase("sampling 57/128")
        progress.warn("half were cut")
    shown = file.getvalue()
    for text in (
        "quickstart",
        "2/8",
        "2 s/step",
        "12s left",
        "reward 0.25",
        "sampling 57/128",
        "warning: half were cut",
    ):
        assert text in shown
    assert "\x1b[?25h" in shown  # the cursor is back


def test_numbers_durations_and_names() -> None:
    assert [number(value) for value in (0.4399, 31.24, 12345.6, 1e-6, 0.0, -3)] == [
        "0.44",
        "31.2",
        "12346",
        "1e-06",
        "0",
        "-3",
    ]
    assert [duration(value) for value in (0.2, 59.6, 98, 7500, 273600)] == ["0s", "1m00s", "1m38s", "2h05m", "3d04h"]
    assert [
        label(name) for name in ("reward", "rewards/format/mean", "completions/mean_length", "mean_token_accuracy")
    ] == [
        "reward",
        "format",
        "length",
        "accuracy",
    ]
    assert label("perf/tokens_per_second") == "tokens/s"


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"completions/clipped_ratio": 0.57}, "57 % of completions were cut at sample.max_tokens"),
        ({"frac_reward_zero_std": 1.0}, "all groups have equal rewards"),
        ({"reward/unextracted": 0.95}, "no answer was found in 95 % of completions"),
        ({"reward/unjudged_ratio": 0.02}, "2.0 % of completions could not be judged"),
    ],
)
def test_each_trouble_is_said_in_words(metrics: dict[str, float], said: str) -> None:
    (sentence,) = warnings_in_words(metrics)
    assert sentence.startswith(said)
    assert next(iter(metrics)) in sentence


def test_a_healthy_step_says_nothing() -> None:
    healthy = {
        "completions/clipped_ratio": 0.5,
        "frac_reward_zero_std": 0.99,
        "reward/unextracted": 0.9,
        "reward/unjudged_ratio": 0.01,
    }
    assert warnings_in_words(healthy) == []
    assert warnings_in_words({}) == []
    assert warnings_in_words({"completions/clipped_ratio": float("nan")}) == []


def test_a_kind_of_warning_comes_once_in_twenty_steps() -> None:
    gate = WarnOnce()
    shown = [
        step
        for step in range(1, 50)
        if gate.fresh(step, warnings_in_words({"completions/clipped_ratio": 0.5 + step / 100}))
    ]
    assert shown == [1, 21, 41]
    assert len(gate.fresh(42, warnings_in_words({"frac_reward_zero_std": 1.0, "completions/clipped_ratio": 0.6}))) == 1


def test_a_reader_that_goes_away_does_not_end_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    with Progress("t", 2, console=Console(file=Closed())) as progress:
        progress.step(1, {"reward": 0.5}, ["reward"])
        progress.step(2, {"reward": 0.5}, ["reward"])
    assert capsys.readouterr().err == "rlvr: the progress cannot be shown any more (Broken pipe); going on\n"


def test_verdicts_that_ran_out_of_time_or_memory_are_told() -> None:
    told = warnings_in_words({"verdicts/answer/timeout": 0.5, "verdicts/answer/too_complex": 0.05})
    assert len(told) == 1
    assert told[0].startswith("50 % of the verdicts of answer ran out of CPU time")
