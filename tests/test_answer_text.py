"""What is said behind the thinking: one reading for all verifiers."""

from __future__ import annotations

import pytest

from rlvr.verifiers.answer_text import after_thinking, short
from rlvr.verifiers.code_text import extract_code
from rlvr.verifiers.extract import extract
from rlvr.verifiers.ifeval_text import said
from rlvr.verifiers.structured_text import find_block


@pytest.mark.parametrize(
    ("response", "text"),
    [
        ("plain", "plain"),
        ("", ""),
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),
        ("<think>a</think>b</think>c", "c"),
        ("<thinking>a</thinking>b", "b"),
        ("<think>a</think><thinking>b</thinking>c", "c"),
        ("<thinking>a</thinking><think>b</think>c", "c"),
        ("<think>a", None),
        ("<think>a</think><think>b", None),
        ("<think>a</think><thinking>b", None),
        ("<thinking>a</think>b", "b"),
        ("think>a", "think>a"),
    ],
)
def test_what_counts_stands_behind_the_last_end_of_thinking(response: str, text: str | None) -> None:
    assert after_thinking(response) == text


@pytest.mark.parametrize("tag", ["think", "thinking"])
def test_no_reader_looks_into_thoughts(tag: str) -> None:
    thought, reply = "\\boxed{1}\n```\nx = 1\n```\n", "\\boxed{2}\n```\nx = 2\n```\n"
    response = f"<{tag}>{thought}</{tag}>{reply}"
    found, program, block = extract(response), extract_code(response), find_block(response, [""])
    assert found is not None and found.answer == "2"
    assert getattr(program, "source", None) == "x = 2\n"
    assert getattr(block, "text", None) == "x = 2"
    assert said(response) == reply
    for unfinished in (f"<{tag}>{thought}", f"{response}<{tag}>{thought}"):
        assert extract(unfinished) is None
        assert said(unfinished) is None
        for refused in (extract_code(unfinished), find_block(unfinished, [""])):
            assert getattr(refused, "outcome", None) == "no_answer"


def test_a_quotation_is_short_and_in_one_line() -> None:
    assert short("a\nb") == r"'a\nb'"
    assert short("x" * 60) == repr("x" * 60)
    assert short("x" * 61) == repr("x" * 57 + "...")
