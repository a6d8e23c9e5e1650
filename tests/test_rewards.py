"""The pool of verifier processes under attack, and how parts become a reward."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alive import children_of, gone_within, is_running
from hypothesis import given
from hypothesis import strategies as st

from rlvr import recipe
from rlvr.errors import DataError, PluginError, RlvrError, SettingsError
from rlvr.rewards.base import (
    OverlongPenalty,
    RandomReward,
    build,
    combine,
    earned,
    failed_optional,
    parts_of,
)
from rlvr.rewards.bound import lookup, option_problems
from rlvr.rewards.verified import VerifiedReward, VerifierPool
from rlvr.types import Completion, Group, Part, Rollout, Task, Verdict
from rlvr.verify import explain, judge_cases, read_cases, report, worth_a_look
from rlvr.verify import rows as verdict_rows

PLUGIN = '''
import ctypes, os, sys, time
from rlvr import Verdict, verifier

print("printed while it is imported")

@verifier("test/deeds", timeout=0.2)
def deeds(response, task):
    """Does what the response says."""
    print("printed while judging")
    deed, _, rest = response.partition(" ")
    if deed == "tower":
        return (7 ** (7 ** 9)) == 1
    if deed == "loop":
        while True:
            try:
                time.perf_counter()
            except BaseException:
                pass
    if deed == "segfault":
        ctypes.string_at(0)
    if deed == "exit":
        os._exit(0)
    if deed == "memory":
        return len(bytearray(1 << 40)) == 0
    if deed == "raise":
        raise RuntimeError("two\\nlines")
    if deed == "quit":
        sys.exit(3)
    if deed == "sleep":
        time.sleep(float(rest))
        return True
    if deed == "fork":
        if os.fork() == 0:
            time.sleep(600)
        os._exit(5)
    if deed == "pid":
        return Verdict(score=1.0, outcome="correct", checks={"pid": os.getpid(), "group": os.getpgrp()})
    if deed == "echo":
        return Verdict(score=1.0, outcome="correct", answer=rest, checks={"gold": task.gold, "info": dict(task.info)})
    if deed == "unwritable":
        return Verdict(score=1.0, outcome="correct", checks={"what": object()})
    if deed == "prompt":
        same = task.prompt == ({"role": "user", "content": "?"},)
        return Verdict(score=1.0, outcome="correct", checks={"same": same})
    return {"true": True, "one": 1, "half": 0.5, "zero": 0, "nan": float("nan"), "two": 2, "minus": -0.1,
            "text": "1.0", "list": [1], "none": None}[deed]

def plain(answer, how, gold):
    return answer == gold and how == "boxed"

def misspelt(response, golden):
    return True

@verifier("test/slow", timeout=0.01)
def slow(response):
    time.sleep(60)
'''
TASK = Task(id="t", prompt="Q: ?", gold="42")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "deeds.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.fixture(scope="module")
def pool(plugin: str) -> Iterator[VerifierPool]:
    with VerifierPool([f"{plugin}:deeds", f"{plugin}:plain"], workers=2, memory_mib=1024) as pool:
        yield pool


@pytest.fixture(scope="module", autouse=True)
def sleeper(plugin: str) -> Iterator[tuple[Future[Verdict], float]]:
    """A verifier that only a wall clock can stop, going on while the other tests run."""
    with VerifierPool([f"{plugin}:slow"], workers=1, memory_mib=1024) as pool:
        yield pool.submit(f"{plugin}:slow", "x", TASK), time.monotonic()


def ask(pool: VerifierPool, plugin: str, *deeds: str, task: Task = TASK) -> list[Verdict]:
    return pool.judge([(f"{plugin}:deeds", deed, task) for deed in deeds])


@pytest.mark.parametrize(
    ("deed", "score", "outcome", "reason"),
    [
        ("tower", 0.0, "timeout", "more than 0.2 s of CPU"),
        ("loop", 0.0, "timeout", "more than 0.2 s of CPU"),
        ("memory", 0.0, "too_complex", "memory"),
        ("segfault", None, "error", "SIGSEGV"),
        ("exit", None, "error", "exit code 0"),
        ("fork", None, "error", "exit code 5"),
        ("raise", None, "error", "'test/deeds' raised RuntimeError: two lines"),
        ("quit", None, "error", "raised SystemExit: 3"),
        ("unwritable", None, "error", "not plain data"),
        ("nan", None, "error", "'test/deeds' returned nan"),
        ("two", None, "error", "'test/deeds' returned 2"),
        ("minus", None, "error", "returned -0.1"),
        ("text", None, "error", "returned a str"),
        ("list", None, "error", "returned a list"),
        ("none", None, "not_applicable", "test/deeds"),
        ("true", 1.0, "correct", ""),
        ("one", 1.0, "correct", ""),
        ("half", 0.5, "partial", ""),
        ("zero", 0.0, "wrong", ""),
        ("sleep 0.5", 1.0, "correct", ""),  # waiting is not computing
    ],
)
def test_whatever_a_verifier_does_is_a_verdict_and_the_neighbours_have_theirs(
    pool: VerifierPool, plugin: str, deed: str, score: float | None, outcome: str, reason: str
) -> None:
    before, verdict, after = ask(pool, plugin, "true", deed, "half")
    assert (verdict.score, verdict.outcome) == (score, outcome)
    assert reason in verdict.reason
    assert "\n" not in verdict.reason
    assert (verdict.verifier, verdict.version) == ("test/deeds", lookup(f"{plugin}:deeds").version)
    assert 0 < verdict.seconds < 9
    assert (before.score, after.score) == (1.0, 0.5)


def test_any_text_reaches_the_verifier_unchanged(pool: VerifierPool, plugin: str) -> None:
    text = "\0 \ud800\udfff \udc80 \u2028 \x1b \U0001f600\r\n" * 3
    task = Task(id="\udc81", prompt="\0", gold="\ud83d", info={"path": Path("/a"), "n": (1, 2)})
    (verdict,) = ask(pool, plugin, f"echo {text}", task=task)
    assert verdict.answer == text
    assert verdict.checks == {"gold": "\ud83d", "info": {"path": "/a", "n": [1, 2]}}
    (long,) = ask(pool, plugin, "echo " + "x" * 3_000_000)
    assert long.answer == "x" * 3_000_000
    (verdict,) = ask(pool, plugin, "prompt", task=Task(id="c", prompt=({"role": "user", "content": "?"},)))
    assert verdict.checks == {"same": True}


def test_a_gold_that_cannot_be_sent_is_our_failure(pool: VerifierPool, plugin: str) -> None:
    for gold in (b"42", 10**5000, object(), {"by": [print, lambda: 42]}):
        (verdict,) = ask(pool, plugin, "true", task=Task(id="t", prompt="", gold=gold))
        assert (verdict.score, verdict.outcome) == (None, "error")
        assert "'t' cannot be sent" in verdict.reason


def test_a_plain_function_gets_the_answer_by_name(pool: VerifierPool, plugin: str) -> None:
    name = f"{plugin}:plain"
    right, wrong, none = pool.judge([(name, text, TASK) for text in (r"\boxed{42}", "Answer: 42", "42")])
    assert (right.score, right.answer, right.how, right.verifier) == (1.0, "42", "boxed", name)
    assert (wrong.score, wrong.how) == (0.0, "answer_line")
    assert (none.score, none.outcome) == (0.0, "no_answer")


def test_unknown_names_and_parameters_are_told_before_anything_runs(pool: VerifierPool, plugin: str) -> None:
    with pytest.raises(PluginError, match=r"has a parameter 'golden'.*response, gold, task, answer, how"):
        VerifierPool([f"{plugin}:misspelt"], workers=1, memory_mib=1024)
    with pytest.raises(PluginError, match=r"(?s)no verifier named 'maths'.*no 'dees'"):
        VerifierPool(["maths", "boxed", f"{plugin}:dees"], workers=1, memory_mib=1024)
    with pytest.raises(PluginError, match=r"memory_mib of at least \d+"):
        VerifierPool(["boxed"], workers=1, memory_mib=16)
    (late,) = pool.judge([("maths", "x", TASK)])
    assert (late.score, late.outcome, late.verifier) == (None, "error", "maths")
    assert "no verifier named 'maths'" in late.reason


def test_a_verifier_met_later_is_loaded_then(pool: VerifierPool, plugin: str) -> None:
    running = pool.submit(f"{plugin}:deeds", "sleep 0.3", TASK)
    verdicts = pool.judge([("boxed", r"\boxed{1}", TASK), ("exact", "42", TASK), ("boxed", "1", TASK)])
    assert [verdict.score for verdict in verdicts] == [1.0, 1.0, 0.0]
    assert running.result().score == 1.0


def test_a_worker_leads_a_group_and_serves_many_jobs(pool: VerifierPool, plugin: str) -> None:
    checks = [verdict.checks for verdict in ask(pool, plugin, *["pid"] * 20)]
    assert all(check["pid"] == check["group"] for check in checks)
    assert 1 <= len({check["pid"] for check in checks}) <= 2


def test_four_threads_get_their_own_verdicts_in_order(pool: VerifierPool, plugin: str) -> None:
    results: dict[int, list[str | None]] = {}

    def work(thread: int) -> None:
        deeds = [f"echo {thread}/{k}" if k % 10 else "exit" for k in range(60)]
        results[thread] = [verdict.answer for verdict in ask(pool, plugin, *deeds)]

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for thread in range(4):
        assert results[thread] == [f"{thread}/{k}" if k % 10 else None for k in range(60)]


def supervisor_of(pool: VerifierPool) -> int:
    assert pool._supervisor is not None
    assert pool._supervisor._process is not None
    return pool._supervisor._process.pid


def test_close_leaves_no_process_and_ends_what_is_in_flight(plugin: str) -> None:
    pool = VerifierPool([f"{plugin}:deeds"], workers=2, memory_mib=1024)
    ask(pool, plugin, "true", "sleep 0.2", "true")
    pids = {supervisor_of(pool)} | children_of(supervisor_of(pool))
    assert len(pids) == 3
    running = pool.submit(f"{plugin}:deeds", "sleep 60", TASK)
    pool.close()
    pool.close()
    assert (running.result(5).score, running.result().reason) == (None, "the verifier pool was closed")
    assert gone_within(5, pids)
    with pytest.raises(RlvrError, match="closed"):
        pool.submit("boxed", "x", TASK)


def test_close_is_prompt_though_a_process_forked_from_this_one_holds_its_pipe() -> None:
    pool = VerifierPool(["boxed"], workers=1, memory_mib=1024)
    holder = os.fork()
    if holder == 0:
        time.sleep(60)
        os._exit(0)
    try:
        supervisor = supervisor_of(pool)
        start = time.monotonic()
        pool.close()
        assert time.monotonic() - start < 5
        assert gone_within(1, {supervisor})
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)


def test_a_dead_supervisor_gives_error_verdicts_and_the_next_submit_a_new_one(plugin: str) -> None:
    with VerifierPool([f"{plugin}:deeds"], workers=1, memory_mib=1024) as pool:
        ask(pool, plugin, "true")
        workers = children_of(supervisor_of(pool))
        lost = [pool.submit(f"{plugin}:deeds", "sleep 60", TASK) for _ in range(3)]
        os.kill(supervisor_of(pool), signal.SIGKILL)
        for future in lost:
            verdict = future.result(10)
            assert (verdict.score, verdict.outcome) == (None, "error")
            assert "signal 9" in verdict.reason
        assert gone_within(5, workers)

        def restarted() -> None:  # by a thread that ends: the supervisor must outlive it
            assert ask(pool, plugin, "true")[0].score == 1.0

        thread = threading.Thread(target=restarted)
        thread.start()
        thread.join()
        time.sleep(0.1)
        assert ask(pool, plugin, "half")[0].score == 0.5
        first = supervisor_of(pool)
        time.sleep(0.1)
        assert supervisor_of(pool) == first
        assert is_running(first)


def test_a_supervisor_that_keeps_dying_is_given_up(plugin: str) -> None:
    with VerifierPool(["boxed"], workers=1, memory_mib=1024) as pool:
        for _ in range(5):
            doomed = pool.submit("boxed", "x", TASK)
            doomed.result(10)
            pid = supervisor_of(pool)
            assert pool._supervisor is not None
            pool._supervisor.num_verdicts = 0  # as if it had died before the first
            os.kill(pid, signal.SIGKILL)
            pool._supervisor._thread.join(10)
        with pytest.raises(RlvrError, match="5 times in a row"):
            pool.submit("boxed", "x", TASK)


def test_nothing_is_left_when_the_parent_is_killed(plugin: str) -> None:
    code = f"""
import sys, time
from rlvr.rewards.verified import VerifierPool
from rlvr.types import Task
pool = VerifierPool([{plugin + ":deeds"!r}], workers=2, memory_mib=1024)
for deed in ("true", "sleep 60", "sleep 60"):
    pool.submit({plugin + ":deeds"!r}, deed, Task(id="t", prompt=""))
time.sleep(0.5)
print("supervisor", pool._supervisor._process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        supervisor = int(next(line for line in parent.stdout if line.startswith("supervisor")).split()[1])
        pids = {supervisor} | children_of(supervisor)
        assert len(pids) == 3
        assert all(map(is_running, pids))
        parent.kill()
        parent.wait()
    assert gone_within(5, pids)


# --- parts and their sum


def verdict(outcome: str, score: float | None) -> Verdict:
    return Verdict(score=score, outcome=outcome)  # type: ignore[arg-type]


verdicts = st.one_of(
    st.floats(0, 1).map(lambda score: verdict("partial", score)),
    st.sampled_from([verdict(name, None) for name in ("error", "gold_invalid", "not_applicable")]),
)
parts = st.dictionaries(
    st.sampled_from("abcd"),
    st.tuples(
        verdicts,
        st.builds(recipe.VerifiedReward, weight=st.just(0.0) | st.floats(-5, 5), optional=st.booleans()),
    ),
)


@given(parts, st.sets(st.sampled_from("abcd")))
def test_the_reward_is_the_weighted_sum_of_the_parts_that_speak(given: dict[str, Any], left_out: set[str]) -> None:
    reward = combine({k: v for k, (v, _) in given.items()}, {k: r for k, (_, r) in given.items()}, left_out)
    count = [(v, r) for k, (v, r) in given.items() if r.weight != 0 and k not in left_out]
    failed = any(v.outcome in ("error", "gold_invalid") and not r.optional for v, r in count)
    spoken = [v.score * r.weight for v, r in count if v.score is not None]
    assert (reward is None) == (failed or not spoken)
    if reward is not None:
        assert reward == pytest.approx(sum(spoken))


def test_weights_are_not_renormalised_when_a_part_is_left_out() -> None:
    rewards = {
        "answer": recipe.VerifiedReward(weight=1.0),
        "form": recipe.VerifiedReward(weight=0.5, optional=True),
    }
    right = verdict("correct", 1.0)
    assert combine({"answer": right, "form": right}, rewards) == 1.5
    assert combine({"answer": right, "form": verdict("error", None)}, rewards) == 1.0
    assert combine({"answer": right, "form": verdict("not_applicable", None)}, rewards) == 1.0
    assert combine({"answer": verdict("not_applicable", None), "form": right}, rewards) == 0.5
    assert combine({"answer": verdict("gold_invalid", None), "form": right}, rewards) is None
    assert combine({"answer": verdict("not_applicable", None), "form": verdict("error", None)}, rewards) is None


def test_a_part_without_weight_neither_speaks_nor_fails() -> None:
    rewards = {"answer": recipe.VerifiedReward(), "logged": recipe.VerifiedReward(weight=0.0)}
    right, error = verdict("correct", 1.0), verdict("error", None)
    assert combine({"answer": right, "logged": error}, rewards) == 1.0
    assert combine({"answer": verdict("not_applicable", None), "logged": right}, rewards) is None


def test_an_optional_part_that_failed_for_one_sibling_is_left_out_for_all() -> None:
    rewards = {
        "answer": recipe.VerifiedReward(),
        "form": recipe.VerifiedReward(weight=0.5, optional=True),
        "needed": recipe.VerifiedReward(weight=0.25),
    }
    right, error, silent = verdict("correct", 1.0), verdict("error", None), verdict("not_applicable", None)
    whole = {"answer": right, "form": right, "needed": right}
    assert failed_optional([whole, whole], rewards) == set()
    assert failed_optional([whole, {**whole, "form": error}], rewards) == {"form"}
    assert failed_optional([whole, {**whole, "form": verdict("gold_invalid", None)}], rewards) == {"form"}
    assert failed_optional([whole, {**whole, "form": silent}], rewards) == set()  # it has nothing to say here
    assert failed_optional([whole, {**whole, "needed": error}], rewards) == set()
    assert combine(whole, rewards) == 1.75
    assert combine(whole, rewards, {"form"}) == 1.25


def test_siblings_are_compared_by_the_same_parts(plugin: str) -> None:
    parts: dict[str, recipe.Reward] = {
        "answer": recipe.VerifiedReward(verifier="exact"),
        "form": recipe.VerifiedReward(verifier=f"{plugin}:deeds", weight=0.5, optional=True),
    }
    rewards = build(parts, recipe.Scoring(), seed=0, tasks_verifiers=set())
    try:
        task = Task(id="t", prompt="", gold="true")
        whole, broken = rewards.score([make_group(task, "true", "exit"), make_group(task, "true", "true")])[::-1]
        assert [r.reward for r in whole.rollouts] == [1.5, 1.5]
        # without `form` for both, where one alone would have had 1.5
        assert [r.reward for r in broken.rollouts] == [1.0, 0.0]
        assert [r.verdicts["form"].outcome for r in broken.rollouts] == ["correct", "error"]
    finally:
        rewards.close()


def test_a_greedy_completion_is_judged_by_the_same_parts_as_its_siblings(plugin: str) -> None:
    parts: dict[str, recipe.Reward] = {
        "answer": recipe.VerifiedReward(verifier="exact"),
        "form": recipe.VerifiedReward(verifier=f"{plugin}:deeds", weight=0.5, optional=True),
    }
    overlong = recipe.Overlong(buffer=1.0, penalty=0.25)  # half of it for one token of two
    rewards = build(parts, recipe.Scoring(), 0, set(), overlong=overlong, max_tokens=2)
    try:
        task = Task(id="t", prompt="", gold="true")
        answers = make_group(task, "true", "zero", "half")
        group = replace(answers, rollouts=answers.rollouts[:2], greedy=answers.rollouts[2])
        (scored,) = rewards.score([group])
        assert scored.greedy is not None
        assert [r.reward for r in scored.all_rollouts] == [1.375, -0.125, 0.125]
        assert [r.id for r in scored.all_rollouts] == ["1/t/0", "1/t/1", "1/t/2"]
        assert list(scored.greedy.verdicts) == ["answer", "form", "overlong"]
        # where an optional part fails for it, its siblings do without that part too
        broken = replace(group, greedy=make_group(task, "exit").rollouts[0])
        assert [r.reward for r in rewards.score([broken])[0].all_rollouts] == [0.875, -0.125, -0.125]
        # but not for one that the engine took back
        taken_back = replace(answers.rollouts[2].completion, text="exit", finish="abort")
        aborted = replace(group, greedy=replace(answers.rollouts[2], completion=taken_back))
        assert [r.reward for r in rewards.score([aborted])[0].rollouts] == [1.375, -0.125]
    finally:
        rewards.close()


def test_the_reward_is_the_weighted_sum_of_its_parts(plugin: str) -> None:
    given: dict[str, recipe.Reward] = {
        "second": recipe.VerifiedReward(verifier="exact", weight=-0.5),
        "logged": recipe.RandomReward(kind="random", weight=0.0),
        "first": recipe.VerifiedReward(verifier=f"{plugin}:deeds", weight=2.0, optional=True),
    }
    overlong = recipe.Overlong(buffer=1.0, penalty=0.25)
    parts = parts_of(given, overlong)
    assert parts == (
        Part(name="second", weight=-0.5),
        Part(name="first", weight=2.0, is_optional=True),
        Part(name="overlong", weight=-0.25),
    )
    assert parts_of(given, recipe.Overlong()) == parts[:2]
    assert parts_of(given, recipe.Overlong(buffer=0.5, penalty=0.0)) == parts[:2]
    rewards = build(given, recipe.Scoring(), 0, set(), overlong=overlong, max_tokens=4)
    try:
        (group,) = rewards.score([make_group(Task(id="t", prompt="", gold="half"), "half", "true", "zero", "none")])
        scores_GK = group.scores_by_part(parts)
        assert scores_GK == [[1.0, 0.5, 0.25], [0.0, 1.0, 0.25], [0.0, 0.0, 0.25], [0.0, None, 0.25]]
        for rollout, scores_K in zip(group.rollouts, scores_GK, strict=True):
            total = sum(part.weight * (score or 0.0) for part, score in zip(parts, scores_K, strict=True))
            assert rollout.reward == pytest.approx(total, abs=1e-15)
    finally:
        rewards.close()


def make_group(task: Task, *texts: str, step: int = 1) -> Group:
    rollouts = [
        Rollout(
            id=f"{step}/{task.id}/{k}",
            completion=Completion(
                text=text, token_ids=(1,), logprobs=(0.0,), trained=(True,), finish="stop", versions=((0, 0),)
            ),
            verdicts={},
            reward=None,
        )
        for k, text in enumerate(texts)
    ]
    return Group(task=task, prompt_ids=(1,), rollouts=tuple(rollouts))


def of_length(length: int, reward: float | None = 1.0, finish: str = "stop") -> Rollout:
    completion = Completion(
        text="",
        token_ids=(1,) * length,
        logprobs=(0.0,) * length,
        trained=(True,) * length,
        finish=finish,  # pyright: ignore[reportArgumentType]
        versions=((0, 0),),
    )
    return Rollout(id="1/t/0", completion=completion, verdicts={}, reward=reward)


def test_the_penalty_of_length_is_equation_13_of_its_paper() -> None:
    # 20480 tokens at most, the last 4096 of them are the buffer: 16384 cost nothing, 18432 half, 20480 all
    source = OverlongPenalty(recipe.Overlong(buffer=0.2, penalty=1.0), 20480)
    for length in (0, 1000, 16384, 16385, 17408, 18432, 20479, 20480):
        paper = 0.0 if length <= 16384 else ((20480 - 4096) - length) / 4096
        judged = source.apply(of_length(length, 0.25))
        assert judged.reward == pytest.approx(0.25 + paper, abs=1e-12)
        assert judged.verdicts["overlong"].score == pytest.approx(-paper, abs=1e-12)
        assert earned(judged) == 0.25
    assert source.apply(of_length(16384, 0.1)).reward == 0.1
    assert source.apply(of_length(20480)).verdicts["overlong"].score == 1.0


def test_the_verdict_on_length_gives_its_numbers() -> None:
    source = OverlongPenalty(recipe.Overlong(buffer=0.5, penalty=0.4), 8)
    verdict = source.apply(of_length(7)).verdicts["overlong"]
    assert verdict.reason == "7 of 8 tokens, penalty over the last 4: 0.75 of 0.4"
    assert (verdict.verifier, verdict.outcome, verdict.checks) == ("overlong", "partial", {"reward_before": 1.0})
    assert source.apply(of_length(7)).reward == pytest.approx(1 - 0.3)
    assert [source.apply(of_length(n)).verdicts["overlong"].outcome for n in (4, 8)] == ["correct", "wrong"]


@given(
    length=st.integers(0, 8),
    is_cut=st.booleans(),
    buffer=st.sampled_from([0.0, 0.3, 1.0]),
    penalty=st.floats(0, 5),
    missing_eos=st.floats(0.01, 5),
)
def test_a_missing_end_is_taken_off_beside_the_penalty_of_length(
    length: int, is_cut: bool, buffer: float, penalty: float, missing_eos: float
) -> None:
    overlong = recipe.Overlong(buffer=buffer, penalty=penalty, missing_eos=missing_eos)
    rollout = of_length(length, 0.5, "length" if is_cut else "stop")
    judged = OverlongPenalty(overlong, 8).apply(rollout)
    by_length = penalty * min(1.0, max(0.0, (length - 8 * (1 - buffer)) / (8 * buffer))) if buffer else 0.0
    assert judged.reward == pytest.approx(0.5 - by_length - missing_eos * is_cut, abs=1e-9)
    assert earned(judged) == 0.5
    verdict = judged.verdicts["overlong"]
    (part,) = parts_of({}, overlong)
    assert verdict.score is not None and 0.5 + part.weight * verdict.score == judged.reward
    assert (verdict.outcome == "correct") == (verdict.score == 0)
    assert f"its end {'missing' if is_cut else 'there'}: " in verdict.reason


def test_without_a_penalty_of_a_missing_end_the_verdict_is_as_ever() -> None:
    for length in range(9):
        share = min(1.0, max(0.0, 1 - (8 - length) / (0.7 * 8)))
        judged = OverlongPenalty(recipe.Overlong(buffer=0.7, penalty=0.3), 8).apply(of_length(length, 0.1, "length"))
        assert (judged.verdicts["overlong"].score, judged.reward) == (share, 0.1 - 0.3 * share)
        assert judged.verdicts["overlong"].reason.endswith(" of 0.3")


def test_a_penalty_of_a_missing_end_alone_is_a_part_too() -> None:
    parts: dict[str, recipe.Reward] = {"luck": recipe.RandomReward(kind="random", p=1.0)}
    overlong = recipe.Overlong(missing_eos=2.0)
    rewards = build(parts, recipe.Scoring(), 0, set(), overlong=overlong, max_tokens=4)
    try:
        group = replace(make_group(TASK, "a"), rollouts=(of_length(4, None, "length"), of_length(4, None)))
        (group,) = rewards.score([group])
        assert [r.reward for r in group.rollouts] == [-1.0, 1.0]
        assert [r.verdicts["overlong"].reason for r in group.rollouts] == [
            "4 of 4 tokens, its end missing: 2 of 2",
            "4 of 4 tokens, its end there: 0 of 2",
        ]
    finally:
        rewards.close()


def test_length_alone_makes_nothing_judged() -> None:
    source = OverlongPenalty(recipe.Overlong(buffer=1.0), 4)
    unjudged = source.apply(of_length(4, None))
    assert unjudged.reward is None
    assert earned(unjudged) is None
    assert unjudged.verdicts["overlong"].score == 1.0


def test_the_penalty_of_length_is_a_part_of_its_own_beside_the_recipes() -> None:
    parts: dict[str, recipe.Reward] = {"answer": recipe.VerifiedReward(verifier="exact", weight=2.0)}
    overlong = recipe.Overlong(buffer=0.5, penalty=3.0)
    rewards = build(parts, recipe.Scoring(), 0, set(), overlong=overlong, max_tokens=2)
    try:
        (group,) = rewards.score([make_group(Task(id="t", prompt="", gold="a"), "a", "b")])
        assert [list(r.verdicts) for r in group.rollouts] == [["answer", "overlong"]] * 2
        assert [r.reward for r in group.rollouts] == [2.0, 0.0]  # of one token, where the buffer begins
        (group,) = [rewards.submit(make_group(Task(id="t", prompt="", gold=None), "a")).result()]
        assert group.rollouts[0].reward is None
    finally:
        rewards.close()
    without = build(parts, recipe.Scoring(), 0, set(), overlong=recipe.Overlong(), max_tokens=2)
    try:
        assert list(without.score([make_group(TASK, "a")])[0].rollouts[0].verdicts) == ["answer"]
    finally:
        without.close()


def test_no_part_of_a_recipe_may_take_the_penaltys_name() -> None:
    with pytest.raises(SettingsError, match=r"^rewards\.overlong: this name is kept for the penalties"):
        build({"overlong": recipe.VerifiedReward()}, recipe.Scoring(), 0, set())


def test_random_reward_repeats_by_key_and_is_one_with_probability_p() -> None:
    group = make_group(TASK, *["x"] * 4000)
    scores = [v.score or 0.0 for v in RandomReward("luck", 0.3, seed=7).score([group])[0]]
    again = [v.score or 0.0 for v in RandomReward("luck", 0.3, seed=7).score([group])[0]]
    other = [v.score or 0.0 for v in RandomReward("luck", 0.3, seed=8).score([group])[0]]
    assert scores == again
    assert scores != other
    assert sum(scores) / 4000 == pytest.approx(0.3, abs=0.03)  # four standard errors
    assert {v.outcome for v in RandomReward("luck", 0.0, 1).score([group])[0]} == {"wrong"}
    assert {v.outcome for v in RandomReward("luck", 1.0, 1).score([group])[0]} == {"correct"}


def test_rewards_fill_verdicts_and_reward_of_every_rollout() -> None:
    parts: dict[str, recipe.Reward] = {
        "answer": recipe.VerifiedReward(),
        "form": recipe.VerifiedReward(verifier="boxed", weight=0.25),
        "luck": recipe.RandomReward(kind="random", weight=0.0),
    }
    rewards = build(parts, recipe.Scoring(workers=2), seed=0, tasks_verifiers={"math", "exact"})
    try:
        maths = make_group(Task(id="m", prompt="", gold="1/2", verifier="math"), r"\boxed{0.5}", "Answer: .5", "no")
        exact = make_group(Task(id="e", prompt="", gold="0.5", verifier="exact"), r"\boxed{1/2}", "0.5")
        bad = make_group(Task(id="b", prompt="", gold=None, verifier="math"), r"\boxed{1}")
        nameless = make_group(Task(id="n", prompt="", gold="1"), r"\boxed{1}")
        scored = rewards.score([maths, exact, bad, nameless])
        assert [[r.reward for r in g.rollouts] for g in scored] == [[1.25, 1.0, 0.0], [0.25, 1.0], [None], [None]]
        assert [g.num_judged for g in scored] == [3, 2, 0, 0]
        assert scored[0].rollouts[0].verdicts["answer"].outcome == "correct"
        assert scored[0].rollouts[2].verdicts["answer"].outcome == "no_answer"
        assert scored[2].rollouts[0].verdicts["answer"].outcome == "gold_invalid"
        assert "names no verifier" in scored[3].rollouts[0].verdicts["answer"].reason
        assert [list(r.verdicts) for g in scored for r in g.rollouts] == [["answer", "form", "luck"]] * 7
        assert scored[0].task is maths.task
        later = [rewards.submit(group) for group in (maths, exact)]
        assert [[r.reward for r in f.result().rollouts] for f in later] == [[1.25, 1.0, 0.0], [0.25, 1.0]]
        assert [v.score for v in rewards.judge([("exact", "a", TASK), ("exact", "42", TASK)])] == [0.0, 1.0]
    finally:
        rewards.close()
        rewards.close()


def test_verifiers_of_held_out_tasks_may_have_options_without_being_a_part(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def same(response, gold, *, add: str = ''):\n    return response + add == gold\n")
    name = f"{tmp_path}/own.py:same"
    rewards = build({}, recipe.Scoring(workers=1), 0, {name, "exact"}, options={name: {"add": "b"}})
    try:
        task = Task(id="t", prompt="", gold="ab")
        verdicts = rewards.judge([(name, "a", task), (name, "ab", task), ("exact", "ab", task)])
        assert [verdict.score for verdict in verdicts] == [1.0, 0.0, 1.0]
    finally:
        rewards.close()


def test_a_pool_knows_whether_all_its_processes_are_at_work(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import time\ndef wait(response):\n    time.sleep(float(response))\n    return True\n"
    )
    name = f"{tmp_path}/own.py:wait"
    task = Task(id="t", prompt="", gold=None)
    with VerifierPool([name], workers=2, memory_mib=2048) as pool:
        assert pool.is_busy().result(10) is False
        first = pool.submit(name, "1.5", task)
        assert pool.is_busy().result(10) is False
        second = pool.submit(name, "1.5", task)
        pool.is_busy().result(10)  # read together with the job, before it is given to a process
        assert pool.is_busy().result(10) is True
        assert (first.result(10).score, second.result(10).score) == (1.0, 1.0)
        assert pool.is_busy().result(10) is False
        assert pool._supervisor is not None
        assert pool._supervisor._process is not None
        os.kill(pool._supervisor._process.pid, signal.SIGSTOP)
        silent = pool.is_busy()
        os.kill(pool._supervisor._process.pid, signal.SIGKILL)
        assert silent.result(10) is False
    assert pool.is_busy().result(10) is False


def test_random_rewards_alone_start_no_process() -> None:
    rewards = build({"luck": recipe.RandomReward(kind="random", p=1.0)}, recipe.Scoring(), 0, ())
    (group,) = rewards.score([make_group(TASK, "x")])
    assert group.rollouts[0].reward == 1.0
    with pytest.raises(RlvrError, match="judge"):
        rewards.judge([("math", "x", TASK)])
    rewards.close()


def test_a_named_verifier_goes_before_the_tasks_own(pool: VerifierPool) -> None:
    group = make_group(Task(id="m", prompt="", gold="2", verifier="exact"), r"\boxed{1}")
    assert VerifiedReward(pool, "boxed").score([group])[0][0].score == 1.0
    assert VerifiedReward(pool).score([group])[0][0].score == 0.0


# --- options, and what a process does before its first response

WITH_OPTIONS = '''
import time
from rlvr import Verdict, verifier

started = []

def start_up():
    """Takes longer than the verifier may."""
    started.append(time.process_time())
    while time.process_time() < started[-1] + 0.2:
        pass

@verifier("test/options", timeout=0.1, wall_seconds=3.0)
def options(response, *, base: int = 10, kinds: "tuple[str, ...]" = (), anything=None):
    if response == "sleep":
        time.sleep(60)
    checks = {"base": base, "kinds": list(kinds), "anything": anything, "started": len(started)}
    return Verdict(score=1.0, outcome="correct", checks=checks)

def no_default(response, *, base):
    return True

def unreadable(response, *, base: "Unknown" = 1):
    return True
'''


@pytest.fixture(scope="module")
def with_options(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "with_options.py"
    path.write_text(WITH_OPTIONS)
    return f"{path}:options"


def test_options_reach_the_verifier_by_name(with_options: str) -> None:
    with VerifierPool([with_options], workers=1, memory_mib=1024) as pool:
        plain = pool.submit(with_options, "x", TASK).result()
        chosen = pool.submit(with_options, "x", TASK, {"base": 2, "anything": {"a": [1]}}).result()
        wrong = pool.submit(with_options, "x", TASK, {"bass": 2}).result()
        named = pool.judge([(with_options, "x", TASK)], {with_options: {"kinds": ["a"]}})[0]
    assert (plain.checks["base"], plain.checks["kinds"], plain.checks["anything"]) == (10, [], None)
    assert (chosen.checks["base"], chosen.checks["anything"]) == (2, {"a": [1]})
    assert (wrong.score, wrong.outcome) == (None, "error")
    assert "'bass'" in wrong.reason
    assert named.checks["kinds"] == ["a"]


def test_a_process_starts_up_once_and_on_no_responses_time(with_options: str) -> None:
    with VerifierPool([with_options], workers=1, memory_mib=1024) as pool:
        verdicts = pool.judge([(with_options, "x", TASK)] * 3)
    assert [(verdict.score, verdict.checks["started"]) for verdict in verdicts] == [(1.0, 1)] * 3
    assert all(verdict.seconds < 0.1 for verdict in verdicts)


def test_a_verifier_that_waits_says_for_how_long(with_options: str) -> None:
    start = time.monotonic()
    with VerifierPool([with_options], workers=1, memory_mib=1024) as pool:
        verdict = pool.submit(with_options, "sleep", TASK).result()
    assert (verdict.score, verdict.outcome) == (None, "error")
    assert "no verdict after 3 s" in verdict.reason
    assert time.monotonic() - start < 9


def test_what_a_verifier_asks_for_is_read_from_its_signature(with_options: str) -> None:
    bound = lookup(with_options)
    assert (bound.parameters, bound.options) == (("response",), ("base", "kinds", "anything"))
    assert (bound.timeout, bound.wall_limit) == (0.1, 3.0)
    assert lookup("boxed").wall_limit == 10.0
    file = with_options.rpartition(":")[0]
    with pytest.raises(PluginError, match=r"parameter 'base'; .*an option stands behind \* and has a default"):
        lookup(f"{file}:no_default")
    assert option_problems(with_options, {"base": 3, "anything": object()}, "o") == []
    assert option_problems(with_options, {"base": True}, "o") == [
        "o.base: input should be a valid integer, got True (verifier 'test/options')"
    ]
    with pytest.raises(PluginError, match="its annotations cannot be read: NameError"):
        option_problems(f"{file}:unreadable", {"base": 1}, "o")


# --- files of cases


def test_a_file_of_cases_is_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"gold": "42", "response": r"\boxed{42}", "expected": True, "id": "right"},
        {"answer": 42, "completion": r"\boxed{41}", "expected": False},
        {"solution": "42", "response": "42", "expected": 1, "id": "missed"},
        {"gold": "x", "response": "x", "expected": 0.0, "id": "passed", "verifier": "exact"},
        {"gold": None, "response": r"\boxed{1}", "expected": True, "id": "bad gold"},
    ]
    path = tmp_path / "cases.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)))
    cases = read_cases(path)
    found = judge_cases(cases)
    assert [v.score for v in found] == [1.0, 0.0, 0.0, 1.0, None]
    result = report(cases, found)
    assert result["n"] == 5
    assert result["mean_score"] == 0.5
    assert result["outcomes"] == {"correct": 2, "gold_invalid": 1, "no_answer": 1, "wrong": 1}
    assert result["unjudged"] == 1
    assert result.get("accuracy") == pytest.approx(2 / 5)
    assert (result.get("false_positive"), result.get("false_negative")) == (1, 1)
    assert result.get("wrong") == ["missed", "passed", "bad gold"]
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["max_ms"] < 1000
    looked_at = worth_a_look(zip(cases, found, strict=True))
    assert [line.split(":")[0] for line in looked_at] == ["missed", "passed", "bad gold"]
    assert looked_at[1].startswith("passed: false is expected, is correct: ")
    assert looked_at[2].startswith("bad gold: true is expected, is gold_invalid: ")
    many = worth_a_look([(cases[2], found[2])] * 25, "FILE has them")
    assert (len(many), many[-1]) == (21, "... and 5 more (FILE has them)")
    assert [(row["id"], row["score"], row["gold"]) for row in verdict_rows(cases, found)][:2] == [
        ("right", 1.0, "42"),
        ("3", 0.0, 42),
    ]


def test_what_is_expected_counts_where_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    told = {"gold": "1", "response": "1", "expected": False}
    path.write_text(json.dumps({"gold": "1", "response": "1"}) + "\n" + json.dumps(told))
    cases = read_cases(path, "exact")
    result = report(cases, judge_cases(cases))
    assert (result["mean_score"], result.get("num_expected"), result.get("accuracy")) == (1.0, 1, 0.0)
    cases = read_cases(path, "exact")[:1]
    assert "accuracy" not in report(cases, judge_cases(cases))


def test_all_bad_rows_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(
        b'{"gold": "1", "response": "1"}\n{"response": "1"}\n{"gold": 1}\n[]\n{"gold"\n\xff\n'
        b'{"gold": 1, "response": "", "expected": "yes"}\n{"gold": 1, "response": "1"}'
    )
    with pytest.raises(DataError) as caught:
        read_cases(path)
    lines = str(caught.value).split("\n")
    assert [line.split(":")[1] for line in lines] == ["2", "3", "4", "5", "6", "7"]
    assert "no gold" in lines[0]
    assert "no response (nor completion); it has gold" in lines[1]
    assert all(line.startswith(str(path)) for line in lines)
    with pytest.raises(DataError, match="No such file"):
        read_cases(tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no rows"):
        read_cases(tmp_path / "empty.jsonl")


def test_explain_tells_everything_about_one_verdict() -> None:
    told = explain("1/2", r"\boxed{0.5}")
    assert (told["score"], told["outcome"], told["stage"], told["answer"]) == (1.0, "correct", "number", "0.5")
    assert (told["verifier"], told["version"], told["how"]) == ("math", lookup("math").version, "boxed")
    assert 0 < told["seconds"] < 1


def test_a_verifier_that_sleeps_is_killed_at_the_wall_limit(sleeper: tuple[Future[Verdict], float]) -> None:
    future, start = sleeper
    verdict = future.result(30)
    # it is not known to be the response's doing, so it is no 0
    assert (verdict.score, verdict.outcome) == (None, "error")
    assert "no verdict after 10 s, in which it computed for less" in verdict.reason
    assert 10 <= verdict.seconds < 13
    assert time.monotonic() - start >= 10


@pytest.mark.parametrize("field", [{"reason": 5}, {"answer": 5}, {"how": None}, {"checks": [1]}])
def test_a_verdict_of_wrong_types_is_refused_where_it_is_made(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"Verdict.{next(iter(field))} must be"):
        Verdict(score=1.0, outcome="correct", **field)
