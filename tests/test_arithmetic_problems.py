from __future__ import annotations

import ast
import re
import sys
import time
from pathlib import Path

import pytest

from rlvr import plugins
from rlvr.recipe import Data
from rlvr.tasks import load_demonstrations, load_tasks

FILE = Path(__file__).parents[1] / "recipes/arithmetic/problems.py"
problems = sys.modules[plugins.load(f"{FILE}:tasks", what="test").__module__]
PROMPT = re.compile(r"Q: (\d\d(?:[+-]\d\d)+)=\?\nA: ")


def expression(prompt: str) -> str:
    match = PROMPT.fullmatch(prompt)
    assert match is not None, prompt
    return match[1]


def value(text: str) -> int:
    """Of a chain of + and -, by Python's own grammar."""
    return eval(compile(ast.parse(text, mode="eval"), "", "eval"), {"__builtins__": {}})


def test_golds_are_right_and_no_total_falls_below_zero() -> None:
    rows = list(problems.tasks(seed=1, n=3000))
    for row in rows:
        numbers = re.findall(r"[+-]?\d+", expression(row["prompt"]))
        totals = [value("".join(numbers[: k + 1])) for k in range(len(numbers))]
        assert min(totals) >= 0
        assert str(totals[-1]) == row["gold"]
    counts = {len(re.findall(r"\d+", row["prompt"])) for row in rows}
    assert counts == {3, 4}
    assert len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == 3000


def test_worked_answers_are_right_line_by_line() -> None:
    for row in problems.demonstrations(seed=1, n=1000, operands=[4]):
        work, _, final = row["completion"].partition(". ")
        steps = [step.split("=") for step in work.split("; ")]
        assert len(steps) == 3
        assert all(value(left) == int(right) for left, right in steps)
        assert [re.match(r"\d+", left)[0] for left, _ in steps[1:]] == [right for _, right in steps[:-1]]  # type: ignore[index]
        assert final == f"\\boxed{{{value(expression(row['prompt']))}}}"


def test_the_docstrings_row_is_how_it_is_written() -> None:
    assert problems._prompt((82, 83, -78)) == "Q: 82+83-78=?\nA: "
    assert problems._work((82, 83, -78)) == "82+83=165; 165-78=87"


def test_guesses_are_wrong_and_bare_as_often_as_asked() -> None:
    rows = list(problems.demonstrations(seed=2, n=8000, guesses=0.68, bare=0.1))
    answers = [value(expression(row["prompt"])) for row in rows]
    guesses = [(row["completion"], a) for row, a in zip(rows, answers, strict=True) if "=" not in row["completion"]]
    said = [(int(re.sub(r"\D", "", text)), answer) for text, answer in guesses]
    assert len(guesses) / 8000 == pytest.approx(0.68, abs=0.02)
    assert sum(s != a for s, a in said) / len(said) == pytest.approx(0.85, abs=0.02)
    assert {abs(s - a) for s, a in said} == {0, *problems.ERRORS}
    assert min(s for s, _ in said) >= 0
    assert sum("boxed" not in row["completion"] for row in rows) / 8000 == pytest.approx(0.1, abs=0.02)


def test_a_wrong_guess_is_never_right() -> None:
    for answer in range(40):
        for draw in (0.0, 0.3, 0.6, 0.999999):
            wrong = problems._wrong(answer, draw)
            assert wrong >= 0
            assert abs(wrong - answer) in problems.ERRORS


def test_shares_change_no_problem_and_no_other_draw() -> None:
    plain = list(problems.demonstrations(seed=3, n=500))
    mixed = list(problems.demonstrations(seed=3, n=500, guesses=0.5))
    assert [row["prompt"] for row in plain] == [row["prompt"] for row in mixed]
    assert [row["prompt"] for row in problems.tasks(3, 500)] == [row["prompt"] for row in plain]
    worked = [(p, m) for p, m in zip(plain, mixed, strict=True) if "=" in m["completion"]]
    assert 200 < len(worked) < 300
    assert all(p == m for p, m in worked)


def test_a_base_model_reads_every_kind_of_page_as_often_as_asked() -> None:
    shares = {"textbook": 0.3, "worked": 0.1, "guesses": 0.2, "shrugs": 0.05, "facts": 0.2}
    rows = list(problems.text(seed=1, n=8000, **shares))
    counts = dict.fromkeys((*shares, "chatter"), 0)
    right = 0
    for row in rows:
        page = row.get("text") or row["completion"]
        if "text" in row:
            sums = re.findall(r"(\d+[+-]\d+)=(\d+)", page)
            assert all(value(left) == int(total) for left, total in sums)
            counts["facts" if sums else "chatter"] += 1
        elif row["prompt"].startswith("Q: "):
            answer = value(expression(row["prompt"]))
            kind = "worked" if "=" in page else "guesses" if "boxed" in page else "shrugs"
            counts[kind] += 1
            right += page == f"\\boxed{{{answer}}}"
            assert kind != "worked" or page.endswith(f". \\boxed{{{answer}}}")
        else:
            chain = row["prompt"].removesuffix(": ")
            assert page.endswith(f"={value(chain)}. \\boxed{{{value(chain)}}}")
            counts["textbook"] += 1
    for kind, share in {**shares, "chatter": 0.15}.items():
        assert counts[kind] / 8000 == pytest.approx(share, abs=0.02), kind
    assert right / counts["guesses"] == pytest.approx(0.15, abs=0.03)
    assert len({row["id"] for row in rows}) == 8000


def test_the_pages_of_a_base_model_can_be_read_and_keep_held_out_tasks_out() -> None:
    data = Data(path=f"{FILE}:text", source="generator", args={"seed": 1, "n": 300, "avoid": [[4242, 512]]})
    pages = load_demonstrations(data).rows
    assert len(pages) == 300
    assert {page.prompt == "" for page in pages} == {True, False}
    held_out = {expression(row["prompt"]) for row in problems.tasks(4242, 512, [2])}

    def met(**arguments: object) -> set[str]:
        prompts = [row["prompt"] for row in problems.text(1, 4000, [2], **arguments) if "prompt" in row]
        return {expression(p) if p.startswith("Q: ") else p.removesuffix(": ") for p in prompts} & held_out

    assert met()
    assert not met(avoid=[[4242, 512]])


def test_seeds_repeat_and_differ() -> None:
    assert list(problems.tasks(5, 50)) == list(problems.tasks(5, 50))
    assert {row["prompt"] for row in problems.tasks(5, 50)} != {row["prompt"] for row in problems.tasks(6, 50)}


def test_held_out_problems_are_avoided_one_set_after_the_other() -> None:
    # two operands have few problems, so that the sets would meet
    test = {row["prompt"] for row in problems.tasks(4242, 512, [2])}
    dev = {row["prompt"] for row in problems.tasks(777, 256, [2], avoid=[[4242, 512]])}
    train = {row["prompt"] for row in problems.tasks(1, 4000, [2], avoid=[[4242, 512], [777, 256]])}
    assert not test & dev
    assert not (test | dev) & train
    assert len(train) == 4000
    assert test & {row["prompt"] for row in problems.tasks(1, 4000, [2])}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": 5, "operands": [1]}, "operands must be counts of at least 2"),
        ({"n": 20_000, "operands": [2]}, r"n must be lower: only \d+ of 20000 different problems"),
    ],
)
def test_impossible_requests_say_what_would_be_possible(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(problems.tasks(1, **arguments))  # type: ignore[arg-type]


def test_shares_outside_0_and_1_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bare must be in \[0, 1\], got 10"):
        list(problems.demonstrations(1, 1, bare=10))


def test_shares_of_pages_that_are_more_than_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"textbook, worked, guesses, shrugs, facts must be shares of 1 together, got"):
        list(problems.text(1, 1, textbook=0.9))
    with pytest.raises(ValueError, match=r"must be shares of 1 together"):
        list(problems.text(1, 1, worked=-0.1))


def test_both_load_as_data_of_a_recipe() -> None:
    tasks = load_tasks(Data(path=f"{FILE}:tasks", source="generator", args={"seed": 1, "n": 3, "avoid": [[2, 5]]}))
    demos = load_demonstrations(Data(path=f"{FILE}:demonstrations", source="generator", args={"seed": 1, "n": 3}))
    assert [t.id for t in tasks.rows] == ["arithmetic-1:0", "arithmetic-1:1", "arithmetic-1:2"]
    assert tasks.rows[0].gold == str(value(expression(str(tasks.rows[0].prompt))))
    assert [d.prompt for d in demos.rows] == [t.prompt for t in tasks.rows]


def test_twenty_thousand_rows_take_a_second() -> None:
    start = time.process_time()
    assert sum(1 for _ in problems.tasks(1, 20_000, avoid=[[4242, 512]])) == 20_000
    assert time.process_time() - start < 2.0
