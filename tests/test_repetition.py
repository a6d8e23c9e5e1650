from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards.bound import apply, lookup, option_problems
from rlvr.types import Task, Verdict
from rlvr.verifiers import repetition as module

BOUND = lookup("repetition")


def judge(response: str, **options: object) -> Verdict:
    return apply(BOUND, response, Task(id="t", prompt=""), options)


def repeated_share(tokens: list[str], n: int, window: int) -> float:
    grams = [tuple(tokens[k : k + n]) for k in range(len(tokens) - n + 1)]
    seen = [grams[k] in grams[max(0, k - window) if window else 0 : k] for k in range(len(grams))]
    return sum(seen) / len(seen) if seen else 0.0


@pytest.mark.parametrize(("gold", "response", "score"), module.EXAMPLES)
def test_the_examples_hold(gold: object, response: str, score: float) -> None:
    assert judge(response).score == pytest.approx(score)


def test_the_share_is_counted_by_hand() -> None:
    # a b c d a b c d e: 6 runs of four words, of which "a b c d" comes a second time
    assert judge("a b c d a b c d e").score == pytest.approx(5 / 6)
    assert judge("a b c d a b c d e", n=2).score == pytest.approx(5 / 8)
    assert judge("A b, c d! a B c d? e").score == pytest.approx(5 / 6)
    assert judge("a b c").score == 1.0


def test_beyond_the_window_a_repeat_does_not_count() -> None:
    text = "a b c d " + " ".join(f"w{k}" for k in range(20)) + " a b c d"
    assert judge(text).score == pytest.approx(24 / 25)
    assert judge(text, window=23).score == 1.0
    assert judge(text, window=24).score == pytest.approx(24 / 25)


def test_a_threshold_makes_it_all_or_nothing() -> None:
    text = "a b c d a b c d e"
    assert judge(text, threshold=1 / 6).score == 1.0
    assert judge(text, threshold=0.1).score == 0.0


def test_a_response_that_ends_in_a_loop_is_worth_nothing() -> None:
    story = " ".join(f"word{k}" for k in range(400))
    looped = story + " wait let me think again about this" * 5
    assert judge(looped).score == 0.0
    assert judge(looped).stage == "loop"
    assert judge(looped, loops=6).score == pytest.approx(1 - 25 / 432)
    assert judge(looped, loops=0).score == pytest.approx(1 - 25 / 432)
    assert judge(looped + " done").score == pytest.approx(1 - 25 / 433)


def test_a_loop_is_found_though_it_ends_in_a_smaller_one() -> None:
    piece = " ".join(f"v{k}" for k in range(30)) + " no no no no no"
    assert "6 times the same 35 words" in judge(f"{piece} " * 6).reason


def test_scripts_without_blanks_and_walls_of_signs_are_read_by_characters() -> None:
    assert judge("今日は雨が降っています。").stage == "characters"
    assert judge("ab" * 200).stage == "loop"
    assert judge("-=" * 200).score == 0.0
    assert judge("Wir zählen die Äpfel.").stage == "words"
    text = "我们先数篮子里的苹果，然后再数箱子里的梨。"
    assert judge(text + "好。" + text, n_characters=6).score == pytest.approx(1 - 16 / 39)


def test_text_that_copies_itself_scores_below_text_that_does_not() -> None:
    rng = random.Random(3)
    fresh = " ".join(rng.choice("abcdefghij") + str(rng.randrange(99)) for _ in range(300))
    half = " ".join(fresh.split()[:150])
    assert judge(fresh).score > 0.95  # type: ignore[operator]
    assert judge(f"{half} {half}").score == pytest.approx(0.5, abs=0.02)


def test_wrong_options_are_told_before_anything_starts() -> None:
    assert option_problems("repetition", {"n": 0}, "o") != []
    assert option_problems("repetition", {"threshold": 1.0}, "o") != []
    assert option_problems("repetition", {"threshold": 0.2, "n": 3, "level": "words"}, "o") == []
    assert module.start_problem({"loops": 1}) != ""
    assert module.start_problem({"loops": 0}) == ""


@pytest.mark.parametrize("unit", ["a", "ab ", "a b ", "ab", "aab", "ก", "日", "-", "x" * 30 + " ", "\u0301", "aaaab"])
@pytest.mark.parametrize("n", [1, 64])
def test_hostile_text_of_64_thousand_characters_costs_its_length(unit: str, n: int) -> None:
    text = unit * (64_000 // len(unit))
    start = time.process_time()
    assert judge(text, n=n, n_characters=n).score == 0.0
    assert time.process_time() - start < 0.7


@given(st.lists(st.sampled_from(["one", "two", "three"]), max_size=40), st.integers(1, 5), st.integers(0, 9))
def test_the_share_equals_the_plain_count(tokens: list[str], n: int, window: int) -> None:
    score = judge(" ".join(tokens), n=n, window=window, loops=0, level="words").score
    assert score == (pytest.approx(1 - repeated_share(tokens, n, window)) if tokens else 0.0)


@given(st.lists(st.sampled_from("ab"), max_size=60), st.integers(2, 5))
def test_the_loop_found_is_the_longest_that_is_there(tokens: list[str], least: int) -> None:
    def times(period: int) -> int:
        count, piece = 1, tokens[len(tokens) - period :]
        while tokens[len(tokens) - period * (count + 1) : len(tokens) - period * count] == piece:
            count += 1
        return count if len(tokens) >= period * count else count - 1

    lengths = [p * times(p) for p in range(1, len(tokens)) if times(p) >= least]
    period, found = module._tail_loop(tokens, least)
    assert period * found == max(lengths, default=0)
