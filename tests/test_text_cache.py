"""What has been judged before leaves little behind, so that it decides nothing about what comes next."""

from __future__ import annotations

import gc
import random
import tracemalloc
from typing import Any

import pytest

from rlvr.rewards.bound import apply, lookup
from rlvr.types import Task
from rlvr.verifiers.text_cache import kept

MOST_LEFT = 1 << 20
_LENGTH = {"constraints": [{"kind": "length_constraints:number_words", "num_words": 9, "relation": "at least"}]}
_SENTENCES = {
    "constraints": [{"kind": "length_constraints:number_sentences", "num_sentences": 9, "relation": "at least"}]
}
_CAPITALS = {
    "constraints": [
        {"kind": "change_case:capital_word_frequency", "capital_frequency": 9, "capital_relation": "at least"}
    ]
}


def test_texts_that_come_again_are_worked_out_once_but_for_long_ones() -> None:
    asked = []

    @kept(2, longest=3)
    def size(text: str) -> int:
        asked.append(text)
        return len(text)

    assert [size(text) for text in ("abc", "abc", "abcd", "abcd", "x", "y", "abc")] == [3, 3, 4, 4, 1, 1, 3]
    assert asked == ["abc", "abcd", "abcd", "x", "y", "abc"]


@pytest.mark.parametrize(
    ("name", "gold", "num_words", "times"),
    [
        ("ifeval", _LENGTH, 30_000, 8),
        ("ifeval", _SENTENCES, 10_000, 8),
        ("ifeval", _CAPITALS, 30_000, 8),
        ("language", "en", 30_000, 8),
        ("f1", "a word", 400, 100),
    ],
)
def test_what_was_judged_before_is_not_kept(name: str, gold: Any, num_words: int, times: int) -> None:
    generator = random.Random(7)
    words = ["".join(generator.choices("abcdefghij", k=6)) for _ in range(num_words)]
    bound = lookup(name)

    def judge(k: int) -> None:
        response = f"{k} " + ". ".join(words)
        assert apply(bound, response, Task(id="t", prompt="", gold=gold)).outcome in ("correct", "wrong")

    judge(0)  # tables of the verifier itself
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for k in range(1, times + 1):
        judge(k)
    gc.collect()
    left = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert left < MOST_LEFT, f"{left / 2**20:.1f} MiB"
