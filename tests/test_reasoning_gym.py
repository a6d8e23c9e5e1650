"""What the verifier reasoning_gym does before the package is asked; its scorers are met in test_adaptors_peers.py."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.adaptors.reasoning_gym import tasks
from rlvr.rewards.bound import apply, gold_problem, lookup, start_problems
from rlvr.types import Task, Verdict
from rlvr.verifiers.reasoning_gym_task import BROKEN, FORMS, _answer

IS_HERE = importlib.util.find_spec("reasoning_gym") is not None
ENTRY = {"question": "1+1?", "answer": "2", "metadata": {"source_dataset": "chain_sum"}}


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "reasoning_gym":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)  # its import raises
    from rlvr.verifiers import reasoning_gym_task

    monkeypatch.setattr(reasoning_gym_task, "_data_set", reasoning_gym_task._data_set.__wrapped__)
    monkeypatch.setattr(reasoning_gym_task, "_oracle_problem", reasoning_gym_task._oracle_problem.__wrapped__)


def judge(gold: Any, response: str, info: Any = None) -> Verdict:
    return apply(lookup("reasoning_gym"), response, Task(id="t", prompt="", gold=gold, info=info or {}))


@pytest.mark.usefixtures("without_package")
def test_a_missing_package_is_one_line_that_names_the_extra_and_never_a_zero() -> None:
    line = "pip install rlvr[reasoning-gym]"
    (problem,) = start_problems("reasoning_gym", {}, "options")
    assert line in problem and "\n" not in problem
    for response in ("<answer>2</answer>", "<answer>3</answer>", "nothing"):
        verdict = judge(ENTRY, response)
        assert (verdict.score, verdict.outcome) == ((None, "error") if "answer" in response else (0.0, "no_answer"))
        assert line in verdict.reason or verdict.outcome == "no_answer"
    with pytest.raises(ValueError, match=r"pip install rlvr\[reasoning-gym\]"):
        next(tasks("chain_sum", 1))


@pytest.mark.parametrize(
    ("gold", "info", "told"),
    [
        (None, {}, "must be an entry of reasoning-gym"),
        ("2", {}, "must be an entry of reasoning-gym"),
        ({"answer": "2", "metadata": {}}, {}, "must be an entry of reasoning-gym"),
        ({"answer": "2", "metadata": "{"}, {}, "must be an entry of reasoning-gym"),
        ({**ENTRY, "answer": None}, {}, "the entry of 'chain_sum' has no answer"),
        ({**ENTRY, "config": 3}, {}, "config must be an object, got a int"),
        ("2", {"metadata": {"source_dataset": "puzzle24"}}, "one formula solves every task"),
        *[({"answer": "2", "metadata": {"source_dataset": name}}, {}, why) for name, why in BROKEN.items()],
    ],
)
def test_a_gold_that_is_no_use_is_told_and_scores_nothing(gold: Any, info: dict[str, Any], told: str) -> None:
    verdict = judge(gold, "<answer>2</answer>", info)
    assert (verdict.score, verdict.outcome) == (None, "gold_invalid")
    assert told in verdict.reason
    assert told in gold_problem(lookup("reasoning_gym"), Task(id="t", prompt="", gold=gold, info=info))


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<answer>1 2\n3 4\n</answer>", "1 2\n3 4"),
        ("<answer>1</answer> no: <answer>2</answer>", "2"),
        (r"<answer>1</answer> or \boxed{2}", "1"),
        (r"so \boxed{2}", "2"),
        ("the answer is 2", "2"),
        ("<think><answer>1</answer></think><answer>2</answer>", "2"),
        ("<think><answer>1</answer>", None),
        ("<answer> </answer>", None),
        ("<answer>2", None),
        ("2", None),
    ],
)
def test_the_answer_is_what_the_last_tag_holds_with_all_its_lines(response: str, answer: str | None) -> None:
    found = _answer(response)
    assert (found and found.answer) == answer


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("countdown", "(3 + 25)*2/4 - 1", ["9**9", "8//3", "__import__('os')", "exit()", "3 + x", "1.5"]),
        ("simple_integration", "-9*x**8/10 + log(x)/2 + C", ["x.__class__", "exec(x)", "'a'", "[x]", "Integral(x, x)"]),
        ("polynomial_multiplication", "189*x**2 + 1281*x*y - 16", ["sin(x)", "x_1", "lambda: 0", '"x"']),
        ("n_queens", "_ Q\nQ _", ["[['_', 'Q']]", "exit()"]),
        ("binary_matrix", "0 1\n1 0", ["[[0, 1]]", "exit()"]),
        ("string_insertion", "AABBCC", ["['A']", "exit()"]),
        ("gsm_symbolic", "1687.5", ["-5", "57 or 58", "57/58", "57,58"]),
        ("fraction_simplification", r"$\frac{1}{2}$", [r"$\frac{1}{2}$ or 3", "1/2/3", "1"]),
        ("polynomial_equations", "-0.43, 0.43", ["-0.43, 0.43 7", "1, nan", "1e999"]),
        ("prime_factorization", "3 × 5 × 7", ["3 × five", "3 * 5", "×"]),
        ("spell_backward", "olleh", ["olleh or so"]),
    ],
)
def test_only_the_form_of_a_right_answer_reaches_a_scorer_that_would_run_or_search_it(
    name: str, right: str, wrong: list[str]
) -> None:
    assert FORMS[name].fullmatch(right)
    assert [text for text in wrong if FORMS[name].fullmatch(text)] == []


@given(st.text(alphabet="0129.+-*/() xyCsin[]_'\\\n{}$,×Q", max_size=60))
def test_no_form_lets_through_what_python_could_do_harm_with(text: str) -> None:
    for name in ("binary_matrix", "countdown", "polynomial_multiplication", "simple_integration", "spiral_matrix"):
        if FORMS[name].fullmatch(text):
            assert not set(text) & set("[]'_\\{}$,"), name


@pytest.mark.parametrize("name", sorted(FORMS))
def test_a_form_is_read_in_time_that_grows_with_the_answer(name: str) -> None:
    def seconds(n: int) -> float:
        texts = [c * n + end for c in ("1", "x", " ", "-", "1,", "1 × ", "sin", "1.") for end in ("", "!", "\n?")]
        start = time.perf_counter()
        for text in texts:
            FORMS[name].fullmatch(text)
        return time.perf_counter() - start

    assert seconds(20_000) < 0.5


@pytest.mark.skipif(not IS_HERE, reason="no reasoning-gym: .venv-bench has it, test_adaptors_peers.py")
def test_its_examples_are_judged_as_they_say() -> None:
    from rlvr.verifiers.reasoning_gym_task import EXAMPLES

    for gold, response, score in EXAMPLES:
        assert judge(gold, response).score == score


def test_a_gold_may_be_json_text_and_an_answer_that_looks_like_it_is_an_answer() -> None:
    from rlvr.verifiers.reasoning_gym_task import _entry

    whole = _entry(json.dumps(ENTRY), {})
    assert not isinstance(whole, str) and whole["answer"] == "2"
    columns = _entry('{"steps": 3}', {"metadata": {"source_dataset": "codeio"}, "question": "?"})
    assert not isinstance(columns, str) and columns["answer"] == '{"steps": 3}'
    board = _entry({"answer": "1", "metadata": {"source_dataset": "arc_agi", "output": [[1, 2]]}}, {})
    assert not isinstance(board, str) and board["metadata"]["output"] == ((1, 2),)
