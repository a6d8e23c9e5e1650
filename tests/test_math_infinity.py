"""What has no finite value equals nothing but the same infinity, in every process alike."""

from __future__ import annotations

import pytest

from rlvr.verifiers.math_equal import math

GOLDS = ["-3", "1/2", r"\sqrt{2}", r"2\sqrt{3}", r"\pi", r"1+\sqrt{2}", "e", "3:4", "5 cm", "42", r"\ln 2", "2x+1"]
BOUNDLESS = [
    r"-\infty^{\pi}",
    r"-\infty^{\infty}",
    r"|\infty|",
    r"\ln\infty",
    r"\infty\cdot 1",
    r"2^{+\infty}",
    r"-\infty\cdot\infty",
    r"\infty-\infty",
    r"\frac{1}{0}",
    r"x\infty",
]


@pytest.mark.parametrize("answer", BOUNDLESS)
def test_infinity_is_no_universal_answer(answer: str) -> None:
    assert [gold for gold in GOLDS if math(rf"\boxed{{{answer}}}", gold).score != 0.0] == []


def test_infinity_is_itself() -> None:
    for gold, answer, score in ((r"\infty", r"+\infty", 1.0), (r"-\infty", r"\infty", 0.0), (r"\infty", "5", 0.0)):
        assert math(rf"\boxed{{{answer}}}", gold).score == score
