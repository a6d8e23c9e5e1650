"""Reward functions written for TRL and verl as verifiers, and our verifiers as such functions."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.adaptors import shared
from rlvr.adaptors.trl import reward_function
from rlvr.adaptors.verl import VERIFIERS, compute_score
from rlvr.errors import RlvrError, SettingsError
from rlvr.rewards.bound import apply, lookup, start_problems
from rlvr.rewards.verified import VerifierPool
from rlvr.types import Message, Task, Verdict
from rlvr.verifiers import peer_function, trl_function, verl_function

FUNCTIONS = """
import asyncio, math, sys

seen = []

def echo(prompts, completions, **columns):
    seen.append((prompts, completions, columns))
    return [1.0]

def strict(completions, solution):
    return [float(completions[0] == solution[0])]

async def awaited(completions, **kwargs):
    await asyncio.sleep(0)
    return [0.5]

def by_ids(completions, completion_ids):
    return [1.0]

def raises(completions, **kwargs):
    raise RuntimeError("no\\nbackend")

def returns(completions, what, **kwargs):
    return {"none": [None], "nan": [math.nan], "text": ["1"], "large": [1e9], "two": [1.0, 0.0], "empty": [],
            "number": 1.0, "below": [-1], "true": [True], "int": [10**400], "nothing": None, "dict": [{"score": 1}],
            "third": [0.1 + 0.2 + 0.7]}[what[0]]

def compute_score(data_source, solution_str, ground_truth, extra_info=None, bonus=0.0):
    seen.append((data_source, solution_str, ground_truth, extra_info))
    kind = (extra_info or {}).get("kind")
    return {None: 0.25 + bonus, "dict": {"score": 0.5, "acc": 1, "pred": "x" * 1000, "bad": math.nan},
            "none": None, "list": [1.0], "no_score": {"acc": 1}, "large": 7, "text": "1"}[kind]

number = 3
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("functions") / "rewards_of_mine.py"
    path.write_text(FUNCTIONS)
    return str(path)


def trl(file: str, function: str, response: str = "42", task: Task | None = None, **options: Any) -> Verdict:
    task = task or Task(id="t", prompt="6*7?", gold="42")
    return apply(lookup("trl"), response, task, {"function": f"{file}:{function}", **options})


def seen(file: str, function: str) -> Any:
    return peer_function.load(f"{file}:{function}").__globals__["seen"][-1]


# --- TRL's functions as a verifier -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "module"), [("trl", trl_function), ("verl", verl_function)])
def test_the_examples_are_judged_as_they_say(name: str, module: Any) -> None:
    for gold, response, score, options in module.EXAMPLES:
        assert apply(lookup(name), response, Task(id="t", prompt="", gold=gold), options).score == score


def test_a_function_sees_lists_of_one_with_the_gold_under_every_usual_name(file: str) -> None:
    task = Task(id="t", prompt="6*7?", gold="42", info={"level": 2, "answer": "worked out"})
    assert trl(file, "echo", task=task).score == 1.0
    prompts, completions, columns = seen(file, "echo")
    assert (prompts, completions) == (["6*7?"], ["42"])
    golds = {name: ["42"] for name in ("gold", "solution", "ground_truth", "target")}
    assert columns == {**golds, "answer": ["worked out"], "level": [2]}


def test_completions_are_messages_where_the_prompt_is_one_or_it_is_said_so(file: str) -> None:
    turns = (Message(role="system", content="Be short."), Message(role="user", content="6*7?"))
    trl(file, "echo", task=Task(id="t", prompt=turns, gold="42"))
    assert seen(file, "echo")[:2] == ([list(turns)], [[{"role": "assistant", "content": "42"}]])
    trl(file, "echo", conversational=True)
    assert seen(file, "echo")[:2] == (
        [[{"role": "user", "content": "6*7?"}]],
        [[{"role": "assistant", "content": "42"}]],
    )


def test_a_function_is_given_what_it_takes_and_awaited(file: str) -> None:
    assert trl(file, "strict").score == 1.0
    assert trl(file, "strict", response="41").score == 0.0
    assert trl(file, "awaited").score == 0.5


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("nan", "nan, which is not in [0, 1]"),
        ("text", "the text '1', not a number"),
        ("large", "1e+09, which is not in [0, 1] (options low and high)"),
        ("two", "a list of 2 for 1 completion"),
        ("empty", "a list of 0 for 1 completion"),
        ("number", "a float, not a list"),
        ("below", "-1, which is not in [0, 1]"),
        ("int", "inf, which is not in [0, 1]"),
        ("nothing", "a NoneType, not a list"),
        ("dict", "a dict of 1, not a number"),
    ],
)
def test_what_a_function_must_not_return_is_named_and_no_zero(file: str, what: str, told: str) -> None:
    verdict = trl(file, "returns", task=Task(id="t", prompt="", gold="", info={"what": what}))
    assert (verdict.score, verdict.outcome) == (None, "error")
    assert told in verdict.reason and "returns" in verdict.reason


def test_none_is_not_applicable_and_a_sum_of_weights_is_one(file: str) -> None:
    def judged(what: str, **options: Any) -> Verdict:
        return trl(file, "returns", task=Task(id="t", prompt="", gold="", info={"what": what}), **options)

    assert judged("none").outcome == "not_applicable"
    assert judged("true").score == 1.0
    assert judged("third").score == 1.0, "0.1 + 0.2 + 0.7 is 0.9999999999999999"
    assert judged("below", low=-1.0).score == 0.0
    assert judged("below", low=-2.0, high=2.0).score == 0.25


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("raises", "raised RuntimeError: no backend"),
        ("by_ids", "missing 1 required positional argument: 'completion_ids'"),
        ("missing", "has no 'missing'"),
        ("number", "which cannot be called"),
    ],
)
def test_a_function_that_cannot_be_asked_is_an_error(file: str, function: str, told: str) -> None:
    verdict = trl(file, function)
    assert (verdict.score, verdict.outcome) == (None, "error")
    assert told in verdict.reason
    assert "\n" not in verdict.reason


@pytest.mark.parametrize("name", ["trl", "verl"])
def test_options_are_checked_before_anything_starts(file: str, name: str) -> None:
    def problem(**options: Any) -> str:
        return "".join(start_problems(name, options, "rewards.a.options"))

    assert "the option function names none" in problem()
    assert "no file" in problem(function="no/such.py:f")
    assert "cannot import" in problem(function="no_such_package:f")
    assert "did you mean 'strict'?" in problem(function=f"{file}:strickt")
    assert "low must be below high" in problem(function=f"{file}:echo", low=1.0)
    assert problem(function=f"{file}:echo", low=-1.0) == ""
    assert "should be a valid number" in problem(function=f"{file}:echo", low="a")


def test_a_pool_runs_such_functions_where_they_can_be_killed(file: str, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.py"
    hostile.write_text("import os\ndef leaves(completions, **k):\n    os._exit(3)\n")
    task = Task(id="t", prompt="", gold="42")
    with VerifierPool(["trl"], workers=1, memory_mib=2048) as pool:
        left = pool.submit("trl", "42", task, {"function": f"{hostile}:leaves"}).result()
        right = pool.submit("trl", "42", task, {"function": f"{file}:strict"}).result()
    assert (left.score, left.outcome) == (None, "error")
    assert right.score == 1.0


@given(st.one_of(st.floats(), st.integers(), st.booleans(), st.none(), st.text(), st.lists(st.floats())))
def test_whatever_a_function_returns_is_a_score_or_ours(value: Any) -> None:
    verdict = peer_function.scored("f", value, -1.0, 3.0)
    if isinstance(value, bool | int | float) and -1 <= value <= 3:
        assert verdict.score == pytest.approx((value + 1) / 4)
        assert (verdict.outcome == "correct") == (verdict.score == 1)
    elif verdict.score is not None:
        assert value == pytest.approx(-1, abs=1e-8) or value == pytest.approx(3, abs=1e-8)
    else:
        assert verdict.outcome == "error" and verdict.reason


# --- verl's functions as a verifier ----------------------------------------------------------------------------------


def verl(file: str, task: Task, **options: Any) -> Verdict:
    return apply(lookup("verl"), "42", task, {"function": f"{file}:compute_score", **options})


def test_verls_arguments_come_from_the_row(file: str) -> None:
    task = Task(id="t", prompt="", gold="42", source="set", info={"extra_info": {"index": 3}, "data_source": "mine"})
    assert verl(file, task).score == 0.25
    assert seen(file, "compute_score") == ("mine", "42", "42", {"index": 3})
    assert verl(file, Task(id="t", prompt="", gold=7, source="set", info={"level": 1})).score == 0.25
    assert seen(file, "compute_score") == ("set", "42", 7, {"level": 1})
    assert verl(file, task, reward_kwargs={"bonus": 0.5}).score == 0.75


def test_a_verdict_names_the_file_whose_function_judged_and_its_hash(tmp_path: Path) -> None:
    codes = []
    for k, score in enumerate((1.0, 0.5)):
        file = tmp_path / f"judge{k}.py"
        file.write_text(f"def f(completions, **columns):\n    return [{score}]\n")
        codes.append(apply(lookup("trl"), "x", Task(id="t", prompt=""), {"function": f"{file}:f"}).checks["code"])
        assert codes[-1] == f"judge{k}.py {hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"
    assert codes[0] != codes[1]


def test_an_async_function_is_awaited_where_a_loop_runs_too(file: str) -> None:
    async def ask() -> Verdict:
        return apply(lookup("trl"), "42", Task(id="t", prompt="", gold="42"), {"function": f"{file}:awaited"})

    assert asyncio.run(ask()).score == 0.5


def test_a_mapping_is_its_score_with_the_rest_in_the_checks(file: str) -> None:
    verdict = verl(file, Task(id="t", prompt="", gold="", info={"kind": "dict"}))
    assert verdict.score == 0.5
    code = verdict.checks["code"]  # of the function's file
    assert verdict.checks == {"score": 0.5, "acc": 1, "pred": "x" * 300, "bad": "nan", "code": code} and code
    assert json.loads(json.dumps(dict(verdict.checks))) == verdict.checks


@pytest.mark.parametrize("kind", ["none", "list", "no_score", "large", "text"])
def test_what_compute_score_must_not_return_is_an_error(file: str, kind: str) -> None:
    verdict = verl(file, Task(id="t", prompt="", gold="", info={"kind": kind}))
    assert (verdict.score, verdict.outcome) == (None, "error")
    assert "compute_score" in verdict.reason


# --- our verifiers as TRL's reward functions -------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def _processes() -> Any:
    yield
    shared.close()


RESPONSES = [r"\boxed{4}", r"\boxed{5}", "4", r"\boxed{2+2}"]


def test_a_reward_function_scores_text_and_conversations_alike() -> None:
    reward = reward_function("math")
    golds = ["4", "4", "4", " "]
    plain = reward(prompts=["2+2?"] * 4, completions=RESPONSES, answer=golds)
    chats = [[{"role": "assistant", "content": text}] for text in RESPONSES]
    prompts = [[{"role": "user", "content": "2+2?"}]] * 4
    chat = reward(prompts=prompts, completions=chats, answer=golds, completion_ids=[[1]] * 4, trainer_state=object())
    assert plain == chat == [1.0, 0.0, 0.0, None]
    assert reward.__name__ == "math"


def test_of_a_conversation_the_last_words_count() -> None:
    turns = [
        {"role": "assistant", "content": r"\boxed{5}", "tool_calls": []},
        {"role": "tool", "content": r"\boxed{6}"},
        {"role": "assistant", "content": [{"type": "text", "text": r"\boxed"}, {"type": "text", "text": "{4}"}]},
    ]
    reward = reward_function("math", name="answer", gold_column="total")
    assert reward(prompts=["q"] * 3, completions=[turns, turns[:2], []], total=["4", "4", "4"]) == [1.0, 0.0, 0.0]
    assert reward.__name__ == "answer"


def test_outcomes_and_reasons_go_into_trls_table() -> None:
    table: dict[str, list[Any]] = {}
    reward_function("math")(completions=RESPONSES, gold=["4"] * 4, log_extra=table.__setitem__)
    assert table["math/outcome"][:3] == ["correct", "wrong", "no_answer"]
    assert all(table["math/reason"])


def test_columns_without_a_gold_are_named() -> None:
    with pytest.raises(ValueError, match=r"no column gold nor answer .*has: level"):
        reward_function("math")(completions=["4"], level=[1])
    with pytest.raises(ValueError, match=r"no column total with a gold .*gold_column names it"):
        reward_function("math", gold_column="total")(completions=["4"], gold=["4"])
    assert reward_function("boxed")(completions=[r"\boxed{4}", "4"]) == [1.0, 0.0], "it needs none"


def test_a_verifier_or_option_that_is_none_is_told_at_once() -> None:
    with pytest.raises(SettingsError, match="did you mean 'math'"):
        reward_function("mathh")
    with pytest.raises(SettingsError, match="has no such option"):
        reward_function("boxed", strictly=True)
    with pytest.raises(SettingsError, match="the option url must be"):
        reward_function("http", url="nowhere")
    with pytest.raises(ValueError, match="workers must be at least 1"):
        reward_function("boxed", workers=0)


def test_options_and_columns_reach_the_verifier(file: str) -> None:
    reward = reward_function("trl", function=f"{file}:strict", low=-1.0)
    assert reward(completions=["42", "41"], gold=["42", "42"]) == [1.0, 0.5]


def test_copies_threads_and_event_loops_get_the_same_scores() -> None:
    reward = reward_function("math")
    columns = {"completions": RESPONSES, "gold": ["4"] * 4}
    wanted = reward(**columns)
    assert copy.deepcopy(reward)(**columns) == pickle.loads(pickle.dumps(reward))(**columns) == wanted
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda _: reward(**columns), range(16))) == [wanted] * 16

    async def both() -> list[Any]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(None, lambda: reward(**columns)) for _ in range(4)))

    assert asyncio.run(both()) == [wanted] * 4


def _scores_elsewhere(reward: Any) -> tuple[int, list[float | None]]:
    return os.getpid(), reward(completions=RESPONSES, gold=["4"] * 4)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_another_process_starts_verifiers_of_its_own(how: str) -> None:
    reward = reward_function("math")
    wanted = reward(completions=RESPONSES, gold=["4"] * 4)
    with multiprocessing.get_context(how).Pool(1) as pool:
        pid, scores = pool.apply(_scores_elsewhere, (reward,))
        pool.close()
        pool.join()
    assert pid != os.getpid()
    assert scores == wanted == reward(completions=RESPONSES, gold=["4"] * 4)


def test_closed_processes_start_again() -> None:
    reward = reward_function("boxed")
    assert reward(completions=["4"]) == [0.0]
    shared.close()
    assert reward(completions=["4"]) == [0.0]


# --- our verifiers as verl's compute_score ---------------------------------------------------------------------------


def test_compute_score_finds_the_verifier_by_row_by_setting_and_by_source() -> None:
    def used(source: str, extra: Any = None, **settings: Any) -> str:
        return compute_score(source, r"\boxed{4}", "4", extra, **settings)["verifier"]

    assert used("openai/gsm8k") == "math"
    assert used("aime2025") == "math"
    assert used("openai/gsm8k", {"verifier": "exact"}) == "exact"
    assert used("openai/gsm8k", verifier="boxed") == "boxed"
    assert used("mine", verifiers={"mi*": "boxed", "mine": "exact"}) == "exact"
    assert used("mint", verifiers={"mi*": "boxed", "mine": "exact"}) == "boxed"
    assert set(VERIFIERS.values()) <= {"math", "stdin_stdout", "reasoning_gym"}
    with pytest.raises(RlvrError, match="no verifier for data_source 'mine'"):
        used("mine")


def test_a_score_comes_with_what_verl_logs() -> None:
    found = compute_score(data_source="math", solution_str=r"\boxed{5}", ground_truth="4", extra_info={"index": 1})
    assert {name: found[name] for name in ("score", "acc", "judged", "outcome")} == {
        "score": 0.0,
        "acc": 0.0,
        "judged": 1.0,
        "outcome": "wrong",
    }
    assert found.keys() == compute_score("math", r"\boxed{4}", "4").keys(), "verl wants the same columns for all"


def test_what_could_not_be_judged_ends_the_run_or_has_a_number_that_somebody_chose() -> None:
    with pytest.raises(RlvrError, match="math: verifier 'math' could not judge math:3: the gold is empty"):
        compute_score("math", r"\boxed{5}", " ", {"index": 3})
    chosen = compute_score("math", r"\boxed{5}", " ", {"index": 3}, unjudged=0.5)
    assert (chosen["score"], chosen["judged"], chosen["outcome"]) == (0.5, 0.0, "gold_invalid")
