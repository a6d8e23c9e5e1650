from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr import seeds
from rlvr.errors import DataError, EngineError
from rlvr.evaluate import (
    Evaluation,
    bootstrap_ci,
    canonical,
    compare,
    compare_values,
    evaluate,
    maj_at_k,
    pass_at_k,
    wilson,
)
from rlvr.recipe import Eval
from rlvr.types import Completion, Request, Task, Verdict


@given(st.integers(1, 9), st.data())
def test_pass_at_k_counts_the_subsets_that_hold_a_right_sample(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    right = [True] * c + [False] * (n - c)
    subsets = list(itertools.combinations(right, k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-15)


@given(st.integers(1, 400), st.data())
def test_pass_at_k_grows_with_k_and_with_right_samples_and_stays_a_share(n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n))
    curve = [pass_at_k(n, c, k) for k in range(1, n + 1)]
    assert curve == sorted(curve)
    assert 0 <= curve[0] == pytest.approx(c / n, abs=1e-15)
    assert curve[-1] == float(c > 0)
    if c < n:
        assert pass_at_k(n, c + 1, 1) > curve[0]
        assert pass_at_k(n, c + 1, n) >= curve[-1]


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(4, 1, 2) == 0.5  # 3 of 6 pairs hold the right one
    assert pass_at_k(10, 3, 8) == 1.0  # only 7 wrong ones for 8 places
    assert pass_at_k(10000, 1, 1) == 1e-4
    assert pass_at_k(np.int64(4), np.int64(2), 2) == pytest.approx(5 / 6)


def test_pass_at_k_is_unbiased_where_the_plug_in_is_too_low() -> None:
    # c of 5 fresh samples, each right with 0.2: averaged over c, pass@3 is exactly 1 - 0.8^3 = 0.488
    chance = [math.comb(5, c) * 0.2**c * 0.8 ** (5 - c) for c in range(6)]
    assert sum(p * pass_at_k(5, c, 3) for c, p in enumerate(chance)) == pytest.approx(0.488, abs=1e-12)
    assert sum(p * (1 - (1 - c / 5) ** 3) for c, p in enumerate(chance)) < 0.46


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, 0, 1), "num_samples"),
        ((4, 5, 1), "num_correct"),
        ((4, -1, 1), "num_correct"),
        ((4, 2, 5), "k must"),
        ((4, 2, 0), "k must"),
        ((4.0, 2, 1), "num_samples"),
        ((4, 0.5, 1), "num_correct"),
    ],
)
def test_pass_at_k_names_the_bad_argument(arguments: tuple, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        pass_at_k(*arguments)


def brute_majority(answers: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """Every subset, one by one, with nothing clever."""
    verdicts = defaultdict(list)
    for answer, is_correct in zip(answers, correct, strict=True):
        verdicts[answer].append(is_correct)
    total = Fraction(0)
    subsets = list(itertools.combinations(answers, k))
    for subset in subsets:
        votes = {answer: subset.count(answer) for answer in subset if answer is not None}
        winners = [answer for answer in votes if votes[answer] == max(votes.values())]
        right = [answer for answer in winners if sum(verdicts[answer]) * 2 > len(verdicts[answer])]
        total += Fraction(len(right), len(winners)) if winners else 0
    return float(total / len(subsets))


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", "7", None]), st.booleans()), min_size=1, max_size=9), st.data()
)
def test_maj_at_k_equals_the_vote_over_every_subset(votes: list[tuple[str | None, bool]], data: st.DataObject) -> None:
    answers, correct = [answer for answer, _ in votes], [is_correct for _, is_correct in votes]
    k = data.draw(st.integers(1, len(votes)))
    assert maj_at_k(answers, correct, k) == pytest.approx(brute_majority(answers, correct, k), abs=1e-12)


def test_maj_at_k_by_hand() -> None:
    assert maj_at_k(["42", "42", "7"], [True, True, False], 3) == 1.0
    assert maj_at_k(["42", "42", "7"], [True, True, False], 2) == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert maj_at_k(["42", "7", "8"], [True, False, False], 3) == pytest.approx(1 / 3)  # a tie of three
    assert maj_at_k(["42", None, None], [True, False, False], 3) == 1.0  # None does not vote
    assert maj_at_k([None, None], [False, False], 2) == 0.0
    assert maj_at_k(["0.5", "1/2", r"\frac{1}{2}", "3", "3"], [True, True, True, False, False], 5) == 1.0
    assert maj_at_k(["5", "5", "5"], [True, True, False], 1) == 1.0  # most members of the class were judged right
    assert maj_at_k(["5", "5"], [True, False], 1) == 0.0


def test_maj_at_k_stays_exact_for_many_samples() -> None:
    # 40 right of 64 against 24 equal wrong ones: hypergeometric, ties at 16 : 16 count half
    ways = [math.comb(40, right) * math.comb(24, 32 - right) for right in range(33)]
    expected = (sum(ways[17:]) + ways[16] / 2) / math.comb(64, 32)
    answers = ["1"] * 40 + ["2"] * 24
    assert maj_at_k(answers, [answer == "1" for answer in answers], 32) == pytest.approx(expected, abs=1e-12)


def test_maj_at_k_names_the_bad_argument() -> None:
    with pytest.raises(ValueError, match="k must"):
        maj_at_k(["1"], [True], 2)
    with pytest.raises(ValueError, match="correct"):
        maj_at_k(["1"], [True, False], 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.50", "1/2"),
        (r"\dfrac{1}{2}", "0.5"),
        (r"-\frac{6}{4}", "-1.5"),
        ("1,000", "1e3"),
        ("$42$", " 42. "),
        ("X + 1", "x+1"),
        (r"\left( a \right)", "(A)"),
        (".5", "0.5"),
    ],
)
def test_equal_answers_vote_together(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(r"3\frac{1}{2}", "31/2"), (r"\Pi", r"\pi"), ("1,00", "100"), ("1/0", "2/0"), ("", "0"), (r"\leftarrow", "arrow")],
)
def test_different_answers_do_not_vote_together(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


def test_an_answer_that_is_a_huge_number_stays_text() -> None:
    assert canonical("1e999999999") == "1e999999999"
    assert canonical("9" * 5000) == "9" * 5000


def test_wilson_by_hand() -> None:
    z2 = 1.959963984540054**2
    assert wilson(0.0, 512) == (0.0, pytest.approx(z2 / (512 + z2), abs=1e-12))  # 0.0074
    assert wilson(1.0, 512) == (pytest.approx(1 - z2 / (512 + z2), abs=1e-12), 1.0)
    assert wilson(0.5, 100) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))


def test_an_interval_without_spread_is_still_honest() -> None:
    assert bootstrap_ci([0.0] * 512, seed=1) == (0.0, pytest.approx(wilson(0, 512)[1]))
    assert bootstrap_ci([1.0] * 512, seed=1) == (pytest.approx(wilson(1, 512)[0]), 1.0)
    assert bootstrap_ci([1.0], seed=1) == (pytest.approx(wilson(1, 1)[0]), 1.0)
    assert bootstrap_ci([1.0] + [0.0] * 511, seed=1) == pytest.approx(wilson(1 / 512, 512))
    low, high = bootstrap_ci([0.5] * 20, seed=1)
    assert low < 0.5 < high
    low, high = bootstrap_ci([0.0] * 100, seed=1, bounds=(-1, 1))
    assert -low == high == pytest.approx(wilson(0, 100)[1])


def test_an_interval_depends_on_seed_and_values_alone() -> None:
    values = [0.0, 0.5, 1.0, 0.25, 0.75] * 8
    assert bootstrap_ci(values, seed=3) == bootstrap_ci(np.array(values), seed=3)
    assert bootstrap_ci(values, seed=3) != bootstrap_ci(values, seed=4)


def test_an_interval_is_as_wide_as_the_standard_error_says() -> None:
    values = np.array([0.0, 0.25, 0.5, 0.75, 1.0] * 80)
    low, high = bootstrap_ci(values, seed=0)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (low, high) == (pytest.approx(0.5 - half, abs=0.005), pytest.approx(0.5 + half, abs=0.005))


def test_the_interval_covers_the_truth_about_as_often_as_it_claims() -> None:
    # tasks of very different difficulty, 4 samples each; resampling samples instead would cover 70 %
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        difficulty_P = rng.beta(0.5, 0.5, size=60)
        low, high = bootstrap_ci(rng.binomial(4, difficulty_P) / 4, resamples=300, seed=trial)
        covered += low <= 0.5 <= high
    assert 0.90 <= covered / 200 <= 0.99


@pytest.mark.parametrize(
    ("values", "extra", "named"),
    [
        ([], {}, "values_P"),
        ([1.5], {}, "values_P"),
        ([math.nan, 0.5], {}, "values_P"),
        ([0.5], {"level": 1.0}, "level"),
        ([0.5], {"resamples": 0}, "resamples"),
    ],
)
def test_an_interval_names_the_bad_argument(values: list[float], extra: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        bootstrap_ci(values, seed=0, **extra)


class ScriptedEngine:
    """Answers from a table {task id: texts}, last first; "GREEDY id" at temperature 0. "..." is cut, "!" aborted."""

    def __init__(self, table: dict[str, list[str]], leave_out: int = 0) -> None:
        self.table, self.leave_out, self.requests = table, leave_out, []

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[str, Completion]]:
        self.requests = list(requests)
        pairs = []
        for request in requests:
            task_id = request.id.partition("/")[2]
            texts = self.table["GREEDY " + task_id if request.sampling.temperature == 0 else task_id]
            pairs += list(zip(request.sample_ids, texts, strict=True))
        for sample_id, text in list(reversed(pairs))[self.leave_out :]:
            num = len(text)
            finish = "length" if text.endswith("...") else "abort" if text == "!" else "stop"
            yield (
                sample_id,
                Completion(
                    text=text,
                    token_ids=(1,) * num,
                    logprobs=(0.0,) * num,
                    trained=(True,) * num,
                    finish=finish,
                    versions=((0, 0),),
                ),
            )


def judge(items: Sequence[tuple[str, str, Task]]) -> list[Verdict]:
    """Right where the text is the gold; "?" has no answer, "~" is half right, "broken" is our own failure."""
    verdicts = []
    for verifier, text, task in items:
        common = {"verifier": verifier, "version": "3"}
        if text == "?":
            verdicts.append(Verdict(score=0.0, outcome="no_answer", **common))
        elif text == "broken":
            verdicts.append(Verdict(score=None, outcome="error", reason="worker died", **common))
        elif text == "~":
            verdicts.append(Verdict(score=0.5, outcome="partial", answer="~", **common))
        else:
            right = text == task.gold
            verdicts.append(Verdict(score=float(right), outcome="correct" if right else "wrong", answer=text, **common))
    return verdicts


def tasks_of(*names: str, source: str = "toy") -> list[tuple[Task, tuple[int, ...]]]:
    return [(Task(id=name, prompt="?", gold="42", verifier="math", source=source), (5, 6)) for name in names]


TABLE = {
    "a": ["42", "42", "7", "42"],
    "b": ["7", "?", "~", "42"],
    "c": ["broken", "7", "7...", "!"],
    "d": ["broken", "broken", "broken", "broken"],
    "GREEDY a": ["42"],
    "GREEDY b": ["7"],
    "GREEDY c": ["42"],
    "GREEDY d": ["broken"],
}
SETTINGS = Eval(samples=4, k=(1, 2, 4), seed=9, max_tokens=30)


def run(**extra: object) -> tuple[Evaluation, ScriptedEngine]:
    engine = ScriptedEngine(TABLE)
    return evaluate(tasks_of("a", "b", "c", "d"), engine, judge, SETTINGS, **extra), engine


def test_evaluate_by_hand_and_what_we_could_not_judge_leaves_the_means() -> None:
    result = run()[0].to_dict()
    # right of judged: a 3/4, b 1/4, c 0/2 (one broken, one aborted), d nothing judged
    assert result["pass@1"] == pytest.approx((3 / 4 + 1 / 4 + 0) / 3)
    assert result["pass@2"] == pytest.approx((1 + 1 / 2 + 0) / 3)  # pairs without a right one: 0 of 6, 3 of 6, 1 of 1
    assert result["pass@4"] == pytest.approx((1 + 1) / 2)  # c has two judged samples only
    assert result["left_out"] == {"pass@1": 1, "pass@2": 1, "pass@4": 2}
    # of the pairs of b (7, None, ~, 42): 42 alone wins with None (1), ties with 7 and ~ (1/2 each), else wrong
    assert result["maj@2"] == pytest.approx(((3 * 1 + 3 * 0.5) / 6 + (1 + 0.5 + 0.5) / 6 + 0) / 3)
    assert result["maj@4"] == pytest.approx((1 + 1 / 3) / 2)
    assert result["mean_score"] == pytest.approx((3 / 4 + 1.5 / 4 + 0) / 3)
    assert result["unjudged"] == 6
    assert result["unextracted"] == pytest.approx(1 / 10)
    assert result["truncated"] == pytest.approx(1 / 16)
    assert result["outcomes"] == {"correct": 4, "error": 6, "no_answer": 1, "partial": 1, "wrong": 4}
    lengths = [len(text) for name in "abcd" for text in TABLE[name]]
    assert result["mean_tokens"] == pytest.approx(sum(lengths) / 16)
    assert result["greedy"]["pass@1"] == pytest.approx(2 / 3)
    assert result["greedy"]["unjudged"] == 1
    assert (result["n_tasks"], result["n_samples"], result["schema"]) == (4, 4, 1)
    assert (result["verifier"], result["version"]) == ("math", "3")
    assert result["ci95"][0] < result["pass@1"] < result["ci95"][1]
    assert "by_source" not in result


def test_evaluate_does_not_depend_on_the_order_of_tasks() -> None:
    forwards = run()[0].to_dict()
    prompts = list(reversed(tasks_of("a", "b", "c", "d")))
    backwards = evaluate(prompts, ScriptedEngine(TABLE), judge, SETTINGS).to_dict()
    for clock in ("seconds", "tokens_per_second"):
        assert forwards.pop(clock) > 0
        assert backwards.pop(clock) > 0
    assert forwards == backwards


def test_evaluate_asks_with_seeds_that_are_keyed_by_task_and_sample() -> None:
    seen: list[tuple[int, int]] = []
    engine = run(name="before", on_progress=lambda done, total: seen.append((done, total)))[1]
    sampled, greedy = engine.requests[1], engine.requests[5]
    assert sampled.id == "before/b"
    assert sampled.seeds == tuple(seeds.seed_for(9, "eval", "b", index) for index in range(4))
    assert (sampled.prompt_ids, sampled.sampling.temperature, sampled.sampling.max_tokens) == ((5, 6), 1.0, 30)
    assert (len(greedy.seeds), greedy.sampling.temperature) == (1, 0.0)
    assert seen == [(done, 20) for done in range(1, 21)]


def test_the_longest_completion_is_that_of_the_settings() -> None:
    engine = ScriptedEngine({"a": ["42"]})
    evaluate(tasks_of("a"), engine, judge, Eval(max_tokens=7, greedy=False))
    assert [request.sampling.max_tokens for request in engine.requests] == [7]


def test_rows_tell_of_every_completion() -> None:
    rows = run()[0].rows
    assert len(rows) == 20
    assert rows[5] == {
        "task": "b",
        "source": "toy",
        "sample": 1,
        "greedy": False,
        "prompt": "?",
        "gold": "42",
        "response": "?",
        "finish": "stop",
        "tokens": 1,
        "score": 0.0,
        "outcome": "no_answer",
        "reason": "",
        "answer": None,
        "how": "",
        "verifier": "math",
        "version": "3",
    }
    assert (rows[11]["finish"], rows[11]["score"], rows[11]["outcome"]) == ("abort", None, "error")
    assert [row["greedy"] for row in rows] == [False] * 16 + [True] * 4


def test_sources_get_a_table_where_there_are_several() -> None:
    prompts = tasks_of("a", source="one") + tasks_of("b", "d", source="two")
    result = evaluate(prompts, ScriptedEngine(TABLE), judge, SETTINGS).to_dict()
    assert result["by_source"] == {"one": {"n_tasks": 1, "pass@1": 0.75}, "two": {"n_tasks": 2, "pass@1": 0.25}}


def test_nothing_judged_is_none_and_not_zero() -> None:
    result = evaluate(tasks_of("d"), ScriptedEngine(TABLE), judge, SETTINGS).to_dict()
    assert [result[name] for name in ("pass@1", "pass@4", "maj@2", "ci95", "mean_score", "unextracted")] == [None] * 6
    assert result["greedy"] == {"pass@1": None, "ci95": None, "unjudged": 1}


def test_a_verifier_that_reports_no_answers_has_no_majority_and_nothing_unextracted() -> None:
    def silent(items: Sequence[tuple[str, str, Task]]) -> list[Verdict]:
        return [
            Verdict(score=float(text == "42"), outcome="correct" if text == "42" else "wrong") for _, text, _ in items
        ]

    result = evaluate(tasks_of("a"), ScriptedEngine(TABLE), silent, SETTINGS).to_dict()
    assert (result["pass@1"], result["maj@4"], result["unextracted"]) == (0.75, None, 0.0)


def test_evaluate_refuses_what_it_cannot_do() -> None:
    with pytest.raises(DataError, match="no tasks"):
        evaluate([], ScriptedEngine(TABLE), judge, SETTINGS)
    with pytest.raises(DataError, match="'a' comes 2 times"):
        evaluate(tasks_of("a", "a"), ScriptedEngine(TABLE), judge, SETTINGS)
    with pytest.raises(DataError, match="'x' names no verifier"):
        evaluate([(Task(id="x", prompt="?"), (5,))], ScriptedEngine(TABLE), judge, SETTINGS)
    with pytest.raises(EngineError, match="2 of 5 completions are missing"):
        evaluate(tasks_of("a"), ScriptedEngine(TABLE, leave_out=2), judge, SETTINGS)


def test_compare_pairs_by_task() -> None:
    before = {f"t{i}": 0.25 for i in range(40)} | {"only before": 1.0}
    after = {f"t{i}": (0.75 if i < 30 else 0.0) for i in range(40)}
    result = compare(before, after)
    assert result["delta"] == pytest.approx((30 * 0.5 - 10 * 0.25) / 40)
    assert [result[name] for name in ("n_tasks", "better", "worse", "equal", "unpaired")] == [40, 30, 10, 0, 1]
    half = 1.96 * 0.75 * math.sqrt(0.75 * 0.25) / math.sqrt(40)
    assert result["ci95"] == pytest.approx([result["delta"] - half, result["delta"] + half], abs=0.03)
    assert result["p"] == pytest.approx(2 * sum(math.comb(40, i) for i in range(11)) / 2**40)
    assert compare(run()[0], run()[0])["delta"] == 0.0
    with pytest.raises(ValueError, match="share no task"):
        compare({"a": 1.0}, {"b": 1.0})


def test_values_of_any_size_are_compared_by_task() -> None:
    before = {"a": -20.0, "b": 3.0, "c": 1.0, "only": 9.0}
    after = {"a": -10.0, "b": 3.0, "c": 0.0, "other": 9.0}
    found = compare_values(before, after)
    assert (found["before"], found["after"]) == pytest.approx((-16 / 3, -7 / 3))
    assert found["delta"] == pytest.approx(3.0)
    assert (found["better"], found["worse"], found["equal"], found["n_tasks"], found["unpaired"]) == (1, 1, 1, 3, 2)
    assert found["ci95"][0] <= 3.0 <= found["ci95"][1]
    with pytest.raises(ValueError, match="share no task"):
        compare_values({"a": 1.0}, {"b": 1.0})


def test_how_far_apart_the_levels_are_says_nothing_of_the_difference() -> None:
    rng = np.random.default_rng(0)
    levels = {str(k): float(level) for k, level in enumerate(rng.normal(0, 10, 8))}
    same = compare_values(levels, levels)
    assert (same["delta"], same["ci95"]) == (0.0, [0.0, 0.0])
    moved = {task: level + 0.1 * (-1) ** int(task) + 0.05 for task, level in levels.items()}
    low, high = compare_values(levels, moved)["ci95"]
    assert -0.15 <= low < 0.05 < high <= 0.15
    scaled = [
        compare_values({t: c * v for t, v in levels.items()}, {t: c * v for t, v in moved.items()}) for c in (1, 9)
    ]
    assert scaled[1]["ci95"] == pytest.approx([9 * end for end in scaled[0]["ci95"]])


def test_evaluate_loads_neither_torch_nor_scipy() -> None:
    code = (
        "import sys, rlvr.evaluate, rlvr.status, rlvr.plot; "
        "print([name for name in ('torch', 'scipy', 'matplotlib') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
