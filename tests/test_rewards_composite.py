"""Several verdicts as one: how they are put together, and what is told before anything starts."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr import recipe
from rlvr.errors import SettingsError
from rlvr.rewards import composite
from rlvr.rewards.base import build
from rlvr.rewards.bound import apply, gold_problem, lookup, option_problems, start_problem, start_problems
from rlvr.rewards.verified import VerifierPool
from rlvr.serve.offer import Offer
from rlvr.types import Completion, Group, Rollout, Task, Verdict

PLUGIN = '''
import os, time
from rlvr import Verdict, verifier

@verifier("parts/says", timeout=0.1)
def says(response, gold, seed, *, word: str = ""):
    """What the response says of this word: "a=0.5 b=none ..."."""
    said = dict(pair.split("=") for pair in response.split())
    value = said.get(word, "none")
    if value == "exit":
        os._exit(1)
    if value == "burn":
        while True:
            pass
    if value == "bad":
        return Verdict(score=None, outcome="gold_invalid", reason="no use")
    if value == "hedged":
        return Verdict(score=0.0, outcome="hedged", reason="two answers", answer="1 or 2", how="boxed")
    if value == "none":
        return None
    outcome = "correct" if float(value) == 1 else "wrong" if float(value) == 0 else "partial"
    return Verdict(score=float(value), outcome=outcome, answer=word, how="said", checks={"gold": gold, "seed": seed})

def start_problem(options):
    return "the word is forbidden" if options.get("word") == "forbidden" else ""

def gold_problem(verifier, task):
    return "" if task.gold == "42" else "it is not 42"
'''
TASK = Task(id="t", prompt="", gold="42", info={"other": "43", "n": 42})


@pytest.fixture(scope="module")
def says(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("parts") / "parts.py"
    path.write_text(PLUGIN)
    return f"{path}:says"


@pytest.fixture(scope="module")
def pool(says: str) -> Iterator[VerifierPool]:
    with VerifierPool(["composite", says], workers=2, memory_mib=1024, seed=3) as pool:
        yield pool


def options(says: str, how: str, **parts: dict[str, Any]) -> dict[str, Any]:
    return {"how": how, "parts": {n: {"verifier": says, "options": {"word": n}, **more} for n, more in parts.items()}}


HALF_WEIGHT = {"weight": 0.5}
CASES = [  # how, parts, response, score, outcome, the part that decides
    ("sum", {"a": {}, "b": HALF_WEIGHT}, "a=1 b=1", 1.0, "correct", "a"),
    ("sum", {"a": {}, "b": HALF_WEIGHT}, "a=1 b=0", 2 / 3, "partial", "a"),
    ("sum", {"a": {}, "b": HALF_WEIGHT}, "a=0 b=1", 1 / 3, "partial", "a"),
    ("sum", {"a": {}, "b": HALF_WEIGHT}, "a=hedged b=0", 0.0, "hedged", "a"),
    ("sum", {"a": {}, "b": HALF_WEIGHT}, "a=none b=0.5", 0.5, "partial", "b"),
    ("sum", {"a": {}, "b": {"weight": 0}}, "a=1 b=0", 1.0, "correct", "a"),
    ("sum", {"a": {}, "b": {"weight": 0}}, "a=1 b=exit", 1.0, "correct", "a"),
    ("sum", {"a": {}, "b": {}}, "a=1 b=exit", None, "error", "b"),
    ("sum", {"a": {}, "b": {"optional": True}}, "a=1 b=exit", 1.0, "correct", "a"),
    ("sum", {"a": {}, "b": {"optional": True}}, "a=none b=exit", None, "error", ""),
    ("sum", {"a": {}, "b": {}}, "a=bad b=1", None, "gold_invalid", "a"),
    ("sum", {"a": {}, "b": {}}, "a=none b=none", None, "not_applicable", ""),
    ("sum", {"a": {}, "b": {}}, "a=1 b=burn", 0.5, "partial", "a"),
    ("product", {"a": {}, "b": {}, "c": {}}, "a=0.5 b=0.5 c=none", 0.25, "partial", "a"),
    ("product", {"a": {}, "b": {}}, "a=1 b=0", 0.0, "wrong", "b"),
    ("product", {"a": {}, "b": {}}, "a=1 b=1", 1.0, "correct", "a"),
    ("product", {"a": {}, "b": {}}, "a=0.5 b=burn", 0.0, "timeout", "b"),
    ("min", {"a": {}, "b": {}, "c": {}}, "a=1 b=0.25 c=0.5", 0.25, "partial", "b"),
    ("min", {"a": {}, "b": {}}, "a=1 b=hedged", 0.0, "hedged", "b"),
    ("first", {"a": {}, "b": {}, "c": {}}, "a=none b=0.25 c=1", 0.25, "partial", "b"),
    ("first", {"a": {}, "b": {}}, "a=0 b=1", 0.0, "wrong", "a"),
    ("first", {"a": {"optional": True}, "b": {}}, "a=exit b=1", 1.0, "correct", "b"),
    ("first", {"a": {}, "b": {}}, "a=1 b=exit", None, "error", "b"),
    ("gate", {"a": {}, "b": {}, "c": {"weight": 3}}, "a=1 b=1 c=0", 0.25, "partial", "c"),
    ("gate", {"a": {}, "b": {}}, "a=0.99 b=1", 0.0, "wrong", "a"),
    ("gate", {"a": {"at_least": 0.5}, "b": {}}, "a=0.5 b=1", 1.0, "correct", "b"),
    ("gate", {"a": {}, "b": {}}, "a=hedged b=1", 0.0, "hedged", "a"),
    ("gate", {"a": {}, "b": {}}, "a=0 b=exit", None, "error", "b"),
    ("gate", {"a": {}, "b": {}}, "a=none b=0.5", 0.5, "partial", "b"),
    ("gate", {"a": {}, "b": {}}, "a=1 b=none", None, "not_applicable", ""),
]


@pytest.mark.parametrize(("how", "parts", "response", "score", "outcome", "decider"), CASES)
def test_parts_become_one_verdict(
    pool: VerifierPool, says: str, how: str, parts: Any, response: str, score: float | None, outcome: str, decider: str
) -> None:
    chosen = options(says, how, **parts)
    verdict = pool.submit("composite", response, TASK, chosen).result()
    assert (verdict.outcome, verdict.stage) == (outcome, decider)
    assert verdict.score == (None if score is None else pytest.approx(score))
    assert (verdict.verifier, verdict.version) == ("composite", lookup("composite").version)
    assert list(verdict.checks) == list(parts)
    if decider and verdict.score and outcome != "timeout":
        assert (verdict.answer, verdict.how) == (decider, "said")
    if "exit" not in response and "burn" not in response:
        here = apply(lookup("composite"), response, TASK, chosen, seed=3)
        assert (here.score, here.outcome, here.reason, here.checks, here.input_hash) == (
            verdict.score,
            verdict.outcome,
            verdict.reason,
            verdict.checks,
            verdict.input_hash,
        )


def test_checks_hold_what_each_part_said(pool: VerifierPool, says: str) -> None:
    verdict = pool.submit("composite", "a=1 b=hedged", TASK, options(says, "sum", a={}, b={"weight": 0.25})).result()
    version = lookup(says).version
    assert verdict.checks["b"] == {
        "score": 0.0, "outcome": "hedged", "reason": "two answers", "verifier": "parts/says", "version": version,
        "weight": 0.25,
    }  # fmt: skip
    assert verdict.checks["a"]["checks"]["gold"] == "42"
    assert verdict.reason == "0.8 * a 1 + 0.2 * b 0"
    assert verdict.score == 0.8


def test_a_part_may_read_its_gold_in_a_column(pool: VerifierPool, says: str) -> None:
    chosen = options(says, "sum", a={"gold": "other"}, b={"gold": "n"}, c={})
    checks = pool.submit("composite", "a=1 b=1 c=1", TASK, chosen).result().checks
    assert [checks[name]["checks"]["gold"] for name in "abc"] == ["43", 42, "42"]
    missing = pool.submit("composite", "a=1", TASK, options(says, "sum", a={"gold": "othr"})).result()
    assert (missing.score, missing.outcome) == (None, "gold_invalid")
    assert missing.reason == "a: the task has no column 'othr' for its gold; did you mean 'other'?"


def test_a_part_that_dies_or_burns_takes_no_other_with_it(pool: VerifierPool, says: str) -> None:
    chosen = options(says, "sum", a={}, b={"optional": True}, c={})
    futures = [
        pool.submit("composite", f"a=1 b={deed} c={k % 2}", TASK, chosen)
        for k in range(20)
        for deed in ("exit", "burn", "1")
    ]
    scores = [future.result().score for future in futures]
    due = [score for k in range(20) for score in ((1 + k % 2) / 2, (1 + k % 2) / 3, (2 + k % 2) / 3)]
    assert scores == pytest.approx(due)


def test_composites_may_be_within_composites(pool: VerifierPool, says: str) -> None:
    inner = {"verifier": "composite", "options": options(says, "min", a={}, b={})}
    middle = {
        "verifier": "composite",
        "options": {"how": "product", "parts": {"x": inner, "c": options(says, "sum", c={})["parts"]["c"]}},
    }
    chosen = {"parts": {"m": middle, "c": options(says, "sum", c={})["parts"]["c"]}}
    assert start_problems("composite", chosen, "o") == []
    verdict = pool.submit("composite", "a=0.5 b=1 c=0.5", TASK, chosen).result()
    assert verdict.score == pytest.approx((0.5 * 0.5 + 0.5) / 2)
    assert verdict.checks["m"]["checks"]["x"]["checks"]["a"]["score"] == 0.5
    assert composite.verifiers_of(chosen) == [says]
    assert start_problems("composite", {"parts": {"d": {"verifier": "composite", "options": chosen}}}, "o") == [
        "o.parts.d.options.parts.m.options.parts.x.verifier: composites may be 3 deep within each other"
    ]


def test_what_a_part_prints_is_told_under_its_name() -> None:
    def part(stderr: str) -> Verdict:
        return Verdict(score=1.0, outcome="correct", stderr=stderr)

    _, combine = composite.compose("", TASK, {"parts": {"a": {"verifier": "exact"}, "b": {"verifier": "exact"}}})
    assert combine([part("x\n"), part("")]).stderr == "[a] x\n\n"
    assert len(combine([part("x" * 3000), part("y")]).stderr) == 2000


scores = st.floats(0, 1)
weights = st.floats(0.01, 100)


@given(
    st.lists(st.tuples(scores, weights), min_size=1, max_size=6), st.sampled_from(["sum", "product", "min", "first"])
)
def test_scores_stay_between_the_least_and_one(pairs: list[tuple[float, float]], how: str) -> None:
    parts = {
        f"p{k}": {"verifier": "exact", "weight": weight if how == "sum" else 1.0} for k, (_, weight) in enumerate(pairs)
    }
    _, combine = composite.compose("", TASK, {"how": how, "parts": parts})
    found = combine([Verdict(score=score, outcome="partial") for score, _ in pairs]).score
    plain = {
        "sum": sum(s * w for s, w in pairs) / sum(w for _, w in pairs),
        "product": math.prod(s for s, _ in pairs),
        "min": min(s for s, _ in pairs),
        "first": pairs[0][0],
    }
    assert found == pytest.approx(plain[how])
    assert found is not None
    assert 0 <= found <= 1


# --- before anything starts


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"parts": {"a": {"verifier": "composite"}}},
            ["o.parts.a.options.parts: it needs the option parts, such as {answer: {verifier: math, weight: 1.0}}"],
        ),
        (
            {"how": "sun", "parts": {}},
            ["o.how: input should be 'sum', 'product', 'min', 'first' or 'gate', got 'sun' (verifier 'composite')"],
        ),
        ({"part": {}}, ["o.part: verifier 'composite' has no such option; did you mean 'parts'? known: how, parts"]),
        ({"parts": {"a": 3}}, ["o.parts.a: must be {verifier: NAME, ...}, got 3"]),
        ({"parts": {"a": {}}}, ["o.parts.a.verifier is missing: the name of a verifier"]),
        (
            {"parts": {"a": {"verifier": "exact", "wieght": 1}}},
            ["o.parts.a.wieght: no such setting; did you mean 'weight'? "
             "known: verifier, weight, options, gold, optional, at_least"],
        ),
        (
            {"parts": {"a": {"verifier": "exact", "weight": -1}, "b": {"verifier": "exact", "weight": math.inf}}},
            ["o.parts.a.weight: input should be greater than or equal to 0, got -1",
             "o.parts.b.weight: input should be a finite number, got inf"],
        ),
        (
            {"parts": {"a": {"verifier": "exact", "options": {"x": 1}}}},
            ["o.parts.a.options.x: verifier 'exact' has no such option; it has none"],
        ),
        ({"parts": {"a": {"verifier": "exact", "weight": 0}}}, ["o.parts: a weight must be above 0"]),
        (
            {"parts": {name: {"verifier": "exact", "weight": 1e308} for name in "ab"}},
            ["o.parts: the weights are too large, their sum must be a number"],
        ),
        (
            {"how": "min", "parts": {"a": {"verifier": "exact", "weight": 2}}},
            ["o.parts.a.weight: of min it is 1, or 0 for a part that only shows, got 2.0"],
        ),
        ({"how": "gate", "parts": {"a": {"verifier": "exact"}}}, ["o.parts: a gate needs a part behind it"]),
        (
            {"how": "gate",
             "parts": {"a": {"verifier": "exact", "weight": 2}, "b": {"verifier": "exact", "at_least": 0.5}}},
            ["o.parts.b.at_least: only the first part of a gate has one", "o.parts.a.weight: the gate itself has none"],
        ),
        ({"parts": {f"p{k}": {"verifier": "exact"} for k in range(51)}}, ["o.parts: at most 50, got 51"]),
    ],
)  # fmt: skip
def test_each_mistake_in_the_options_is_one_line(given: dict[str, Any], told: list[str]) -> None:
    assert option_problems("composite", given, "o") == told


def test_an_unknown_part_is_told_with_the_nearest_name() -> None:
    (line,) = option_problems("composite", {"parts": {"a": {"verifier": "exct"}}}, "o")
    assert line.startswith("o.parts.a.verifier: no verifier named 'exct'; did you mean 'exact'? known: boxed, ")


def test_options_that_nobody_checked_give_no_score(pool: VerifierPool) -> None:
    for bad in (
        {},
        {"parts": {"a": {"verifier": "exct"}}},
        {"parts": {"a": {"verifier": "exact", "options": {"x": 1}}}},
    ):
        verdict = pool.submit("composite", "x", TASK, bad).result()
        assert (verdict.score, verdict.outcome, verdict.verifier) == (None, "error", "composite")
        assert "options.parts" in verdict.reason
        assert apply(lookup("composite"), "x", TASK, bad).reason == verdict.reason


def test_parts_are_asked_whether_they_can_start_and_what_is_wrong_with_a_gold(says: str) -> None:
    assert start_problem("composite", options(says, "sum", a={})) == ""
    assert start_problems("composite", {}, "o") == [
        "verifier 'composite': it needs the option parts, such as {answer: {verifier: math, weight: 1.0}}"
    ]
    forbidden = options(says, "sum", a={}, forbidden={})
    assert start_problem("composite", forbidden) == (
        "verifier 'composite': part forbidden: verifier 'parts/says': the word is forbidden"
    )
    bound = lookup("composite")
    assert gold_problem(bound, TASK, options(says, "sum", a={})) == ""
    assert gold_problem(bound, TASK, options(says, "sum", a={}, b={"gold": "other"})) == "part b: it is not 42"
    assert "part b: the task has no column 'x'" in gold_problem(bound, TASK, options(says, "sum", b={"gold": "x"}))


def test_a_run_loads_the_parts_before_the_first_response(says: str) -> None:
    part = recipe.VerifiedReward(verifier="composite", options=options(says, "gate", a={}, b={}))
    rewards = build({"answer": part}, recipe.Scoring(workers=1), seed=5, tasks_verifiers=())
    try:
        assert rewards._pool is not None
        assert says in rewards._pool._names
        done = Completion(
            text="a=1 b=0.5", token_ids=(1,), logprobs=(0.0,), trained=(True,), finish="stop", versions=((0, 0),)
        )
        group = Group(
            task=TASK, prompt_ids=(1,), rollouts=(Rollout(id="1/t/0", completion=done, verdicts={}, reward=None),)
        )
        (scored,) = rewards.score([group])
        assert scored.rollouts[0].reward == 0.5
        assert (
            scored.rollouts[0].verdicts["answer"].checks["a"]["checks"]["seed"]
            == apply(lookup(says), "a=1", TASK, {"word": "a"}, seed=5).checks["seed"]
        )
    finally:
        rewards.close()
    bad = recipe.VerifiedReward(verifier="composite", options={"parts": {"a": {"verifier": "exct"}}})
    with pytest.raises(SettingsError, match=r"^rewards.answer.options.parts.a.verifier: no verifier named 'exct'"):
        build({"answer": bad}, recipe.Scoring(workers=1), seed=5, tasks_verifiers=())


def test_a_request_to_a_service_does_not_choose_the_parts(tmp_path: Path) -> None:
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\ndef f(response): return True\n")
    offer = Offer(["composite"], ['composite.parts={"a": {"verifier": "exact"}}'])
    with pytest.raises(SettingsError, match=r"^options.parts: is not a request's to set"):
        offer.options("composite", {"parts": {"a": {"verifier": f"{trap}:f"}}})
    assert not os.path.exists(tmp_path / "imported")
    assert offer.options("composite", {"how": "min"})["parts"] == {"a": {"verifier": "exact"}}
    assert Offer(["composite", "exact"], leave_out=True).names == ("exact",)


@pytest.mark.parametrize("example", composite.EXAMPLES)
def test_the_examples_are_judged_as_they_say(example: tuple[Any, str, float | None, dict[str, Any]]) -> None:
    gold, response, score, more = example
    task = Task(id="t", prompt="", gold=gold, info=more.get("info", {}))
    assert apply(lookup("composite"), response, task, more["options"]).score == score


def test_a_plugin_that_asks_for_nothing_has_its_verdict_at_once(tmp_path: Path) -> None:
    file = tmp_path / "alone.py"
    file.write_text(
        "from rlvr import Verdict\n"
        "def alone(response):\n    raise AssertionError\n"
        "def compose(response, task, options):\n"
        "    return [], lambda verdicts: Verdict(score=1.0, outcome='correct', reason=f'of {len(verdicts)}')\n"
        "alone.verifier_compose = compose\n"
    )
    name = f"{file}:alone"
    with VerifierPool([name], workers=1, memory_mib=1024) as pool:
        verdict = pool.submit(name, "x", Task(id="t", prompt="", gold="1")).result(5)
    assert (verdict.score, verdict.reason, verdict.verifier) == (1.0, "of 0", name)
