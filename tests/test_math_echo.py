"""An answer that repeats the arithmetic of its task is not evaluated, however right."""

from __future__ import annotations

import pytest

from rlvr.types import Message, Prompt, Task
from rlvr.verifiers.math_equal import math


def outcome(prompt: Prompt, gold: str, answer: str) -> str:
    verdict = math(rf"so \boxed{{{answer}}}", gold, task=Task(id="t", prompt=prompt, gold=gold))
    assert (verdict.score == 1.0) == (verdict.outcome == "correct")
    return verdict.outcome


@pytest.mark.parametrize(
    ("prompt", "gold", "answer"),
    [
        ("Q: 82+83-78=?", "87", "82+83-78"),
        ("Q: 82+83-78=?", "87", "83 - 78 + 82"),
        ("Q: 82+83-78=?", "87", "x = 82 + (83 - 78)"),
        ("What is 123*456?", "56088", r"123 \cdot 456"),
        ("What is $123 \\times 456$?", "56088", "456 * 123"),
        ("Tom has 3 pens and buys 4.", "7", "3+4"),
        ("Compute $10!$.", "3628800", "10!"),
        ("Compute $2^{10}$.", "1024", "2^{10}"),
        (r"Find $\sqrt{1764}$.", "42", r"\sqrt{1764}"),
        (r"Compute $\frac{3}{4}+\frac{1}{6}$.", r"\frac{11}{12}", r"\frac{3}{4} + \frac{1}{6}"),
        (r"What is \frac{6}{8} in lowest terms?", r"\frac{3}{4}", r"\frac{6}{8}"),
        ((Message(role="system", content="Think."), Message(role="user", content="12+30=?")), "42", "12 + 30"),
    ],
)
def test_a_repeated_task_is_not_evaluated(prompt: Prompt, gold: str, answer: str) -> None:
    assert outcome(prompt, gold, answer) == "unevaluated"
    assert outcome("", gold, answer) == "correct"  # as mathematics it is the gold


@pytest.mark.parametrize(
    ("prompt", "gold", "answer"),
    [
        ("Q: 82+83-78=?", "87", "87"),
        ("Q: 82+83-78=?", "87", "87.0"),
        ("Q: 80+7=?", "87", "-(-87)"),
        ("A pizza of 8 slices; Tom eats 2. Which fraction?", "1/4", r"\frac{2}{8}"),
        (r"Which is larger, \frac{3}{4} or \frac{2}{3}?", "0.75", r"\frac{3}{4}"),
        ("Write 18 as a product of primes.", r"2\cdot 3^2", r"3^2 \cdot 2"),
        ("Expand (a+b)^2.", "a^2+2ab+b^2", "(a+b)^2"),
        ("What is 5 times 5?", "25", "5+5+5+5+5"),
        ("What is 6 times 7?", "42", r"40 + 2"),
        ("Simplify \\sqrt{8}.", r"2\sqrt{2}", r"\sqrt{8}"),
    ],
)
def test_what_is_worked_out_or_no_number_is_left_alone(prompt: Prompt, gold: str, answer: str) -> None:
    assert outcome(prompt, gold, answer) == "correct"
