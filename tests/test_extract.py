"""What counts as an answer, and what it costs to look for it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers import extract as extraction
from rlvr.verifiers.extract import Found, all_boxed, extract, last_boxed


@pytest.mark.parametrize(
    ("response", "answer", "how"),
    [
        (r"so \boxed{42}", "42", "boxed"),
        (r"\fbox{42}", "42", "boxed"),
        (r"\boxed {42}", "42", "boxed"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", "boxed"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}", "boxed"),
        (r"first \boxed{4}, no: it is \boxed{5}", "5", "boxed"),
        (r"\boxed{\boxed{7}}", "7", "boxed"),
        (r"\boxed{x=\boxed{7}+1}", "x=7+1", "boxed"),
        (r"\boxed{5} and then \boxed{6", "5", "boxed"),
        (r"\boxed{ \boxed{5}", "5", "boxed"),
        (r"\boxed{$5$}", "5", "boxed"),
        (r"$\boxed{2}$ and $\boxed{3}$", "2, 3", "boxed_list"),
        (r"\boxed{2} \text{ or } \boxed{3}", "2, 3", "boxed_list"),
        (r"\boxed{2}, \boxed{2}", "2", "boxed"),
        ("\\boxed{2}\n\n\\boxed{3}", "3", "boxed"),
        ("<answer> 13 </answer>", "13", "answer_tag"),
        ("<answer>12</answer> no <answer>13</answer>", "13", "answer_tag"),
        ("so the total is\n#### 1,234", "1,234", "gsm8k"),
        ("#### Solution\nThe answer is 5", "5", "answer_line"),
        ("Answer: -3", "-3", "answer_line"),
        ("The final answer is $42$.", "42", "answer_line"),
        ("**Final Answer:** 73", "73", "answer_line"),
        ("Final Answer: **73**", "73", "answer_line"),
        (r"The answer is \(\frac{1}{2}\).", r"\frac{1}{2}", "answer_line"),
        ("Answer: 41 was a guess.\nAnswer: 42", "42", "answer_line"),
        ("the answer is 5, so the answer is 6", "6", "answer_line"),
        ("Final Answer: The final answer is 8. I hope it is correct.", "8", "answer_line"),
        ("<think>12</think> <answer>13</answer>", "13", "answer_tag"),
        ("a</think>b</think>\\boxed{9}", "9", "boxed"),
        ("```\n\\boxed{7}\n``` \\boxed{9} ```py\n\\boxed{8}", "9", "boxed"),
        ("~~~\n\\boxed{7}\n~~~\n\\boxed{9}", "9", "boxed"),
        ("<thinking>\\boxed{7}</thinking> \\boxed{9}", "9", "boxed"),
        ("\\boxed{9}<|im_end|>\n<|im_start|>user\nAnother one: \\boxed{7}", "9", "boxed"),
        ("<|im_start|>\\boxed{9}", "9", "boxed"),
        ("step: \\boxed{255}. The final answer is $10,455$. I hope it is correct.", "10,455", "answer_line"),
        ("\\boxed{255}. So the final answer is the one above.", "255", "boxed"),
        ("Final Answer: The largest $n$ is 34.", "34", "answer_line"),
        ("**Final Answer**\n\n42", "42", "answer_line"),
        ("### Answer\n$\\frac{1}{2}$\nThat is all.", r"\frac{1}{2}", "answer_line"),
        (r"The answer is $50$ \%.", r"50\%", "answer_line"),
    ],
)
def test_an_anchored_answer_is_found(response: str, answer: str, how: str) -> None:
    assert extract(response) == Found(answer, how)


@pytest.mark.parametrize(
    ("response", "answer", "how"),
    [
        ("it must be 42 then", "42", "last_number"),
        (r"We find that $x \neq 3$.", r"x \neq 3", "last_formula"),
        (r"Answer \[ 9 \]", "9", "last_formula"),
        ("the price is 1,000.99\u20ac", "1,000.99", "last_number"),
        (r"-\frac{10}{9}", r"-\frac{10}{9}", "whole"),
        ("$28$ percent", r"28\%", "last_formula"),
        ("the maximum of $f(x)$ is 19.", "19", "last_number"),
        ("Final Answer: Jane started 3 hours ago.", "3", "last_number"),
        (r"so \boxed{5}, as $x=7$", "5", "boxed"),
    ],
)
def test_a_lenient_look_takes_the_last_formula_or_number(response: str, answer: str, how: str) -> None:
    assert extract(response, lenient=True) == Found(answer, how)


@pytest.mark.parametrize(
    "response",
    [
        "",
        "I am not sure about it.",
        "42 apples. I cannot solve it.",
        "It is 41 or 42",
        "The reference says 42",
        "it is not 42",
        "```\n42\n```",
        "<think>42",
        "no number at all here",
    ],
)
def test_a_lenient_look_takes_no_refusal_and_no_choice_of_several(response: str) -> None:
    assert extract(response, lenient=True) is None


@pytest.mark.parametrize(
    "response",
    [
        "",
        "42",
        "it must be 42 then",
        r"\boxed{42",
        r"\boxed{}",
        r"\boxed{ }",
        r"\boxed{$$}",
        r"\boxed{\}",
        r"<think> \boxed{42}",
        r"<think>a</think> <think> \boxed{42}",
        r"<think>\boxed{3}</think> I am not sure about it.",
        "```\n\\boxed{42}\n```",
        "<answer></answer>",
        "#### ",
        "The reference answer is 5",
        "answering: 5",
        r"boxed{5}",
    ],
)
def test_without_an_anchor_there_is_no_answer(response: str) -> None:
    assert extract(response) is None


def test_last_boxed_is_the_last_alone_and_all_boxed_keeps_blanks() -> None:
    response = r"\boxed{1}, \boxed{2} \boxed{} \boxed{3}"
    assert last_boxed(response) == "3"
    assert all_boxed(response) == ["1", "2", "", "3"]
    assert last_boxed("none") is None
    assert last_boxed(r"\boxed{1} \boxed{}") is None


@pytest.mark.parametrize(
    "piece",
    [
        r"\boxed{",
        r"\boxed{\boxed{}}",
        "{",
        "}",
        "\\",
        "```",
        "<think></think>",
        "<answer>",
        "</answer>",
        "#### 1\n",
        "answer is ",
        "answer",
        "*",
        " ",
        "the ",
        "$",
        r"\(",
        "\\boxed ",
        ",\\boxed{1}",
        "\n",
    ],
)
def test_hostile_text_costs_no_more_than_its_length(piece: str) -> None:
    text = piece * (500_000 // len(piece))
    start = time.process_time()
    extract(text)
    last_boxed(text)
    extract("The answer is " + text)
    extract(text, lenient=True)
    extract("The answer is " + text, lenient=True)
    assert time.process_time() - start < 6.0  # a quadratic search takes hours


def test_a_long_chain_of_thought_costs_less_than_a_millisecond() -> None:
    text = "So $x^2 = 4$ and hence the area is 12. " * 1700 + r"The final answer is $\boxed{\frac{1}{2}}$."
    extract(text)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        extract(text)
        times.append(time.perf_counter() - start)
    assert len(text) > 64_000
    assert min(times) < 1e-3


def test_a_megabyte_of_boxes_costs_hardly_more_than_the_last_of_them() -> None:
    times = []
    for _ in range(5):
        start = time.process_time()
        found = extract("\\boxed{zq} " * 95_000)
        times.append(time.process_time() - start)
        assert found == Found("zq", "boxed")
    assert min(times) < 0.05  # reading them all takes 0.2 s


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("\\boxed{1" + "x" * 99 + "\\boxed{2}}", "1" + "x" * 99 + "2"),
        ("{\\boxed{1" + "x" * 99 + "\\boxed{2}}", "1" + "x" * 99 + "2"),
        ("\\boxed{1" + "x" * 99 + "\\boxed{2}", "2"),
        ("\\boxed{1} " + "x" * 99 + "\\boxed{2}} x", "2"),
        ("\\boxed{1}" + "x" * 99 + "\\boxed{2}" * 9 + "\\boxed{3}", "2, 3"),
        ("\\boxed{1}" + "x" * 99 + "\\boxed{2" * 9, "1"),
        ("\\boxed{\\}" + "x" * 99 + "} , \\boxed{2}", "\\}" + "x" * 99 + ", 2"),
    ],
)
def test_the_last_box_is_the_same_from_whichever_end_it_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, response: str, answer: str
) -> None:
    for window in (1, 20, 1 << 20):
        monkeypatch.setattr(extraction, "_WINDOW", window)
        found = extract(response)
        assert found is not None and found.answer == answer, window


@given(st.lists(st.sampled_from([r"\boxed{", r"\fbox {", "{", "}", "\\", "1", "2", ", ", " or ", "\n\n", "wide" * 9])))
def test_how_far_back_the_boxes_are_read_changes_no_answer(pieces: list[str]) -> None:
    text = "".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "_WINDOW", 1)
        near = extract(text), last_boxed(text)
        patch.setattr(extraction, "_WINDOW", 1 << 30)
        assert near == (extract(text), last_boxed(text))


def test_deeply_nested_boxes_are_unwrapped() -> None:
    assert last_boxed(r"\boxed{" * 50_000 + "5" + "}" * 50_000) == "5"


@given(st.text(alphabet=st.sampled_from(list("\\{}$boxed fb<>/answerthink#`:*is 12\n")), max_size=60))
def test_an_answer_is_never_blank_whatever_the_text(text: str) -> None:
    found = extract(text)
    assert found is None or found.answer.strip()


@given(st.text(alphabet="12x+-^ ", min_size=1, max_size=20).filter(str.strip))
def test_what_is_boxed_last_is_found(content: str) -> None:
    assert extract(rf"noise \boxed{{0}} noise. So \boxed{{{content}}} done") == Found(content.strip(), "boxed")
