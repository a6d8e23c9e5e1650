"""A judge as a part of a reward: strengths from pairs, abstentions, what a rule decided, whole runs that resume."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from judge_case import Mind, serving
from pydantic import ValidationError
from scipy.optimize import minimize
from scorer_cases import make_group
from starlette.responses import JSONResponse
from test_rl import PLUGIN, assert_same_bits, exact, make_recipe, steps_of, train, weights

from rlvr import cli, rollout, runs
from rlvr.agreement import bradley_terry
from rlvr.recipe import JudgeReward, Scoring, VerifiedReward
from rlvr.rewards.base import build
from rlvr.rewards.judge import JudgeReward as Source
from rlvr.rewards.judge import totals
from rlvr.settings import from_overrides
from rlvr.types import Group, Verdict


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "toy.py"
    path.write_text(PLUGIN)
    return str(path)


def settings(url: str, **more: Any) -> JudgeReward:
    by = {"kind": "endpoint", "url": url, "model": "scripted", "retries": 0, **more.pop("by", {})}
    method = {"kind": "pairwise", **more.pop("method", {})}
    return JudgeReward.model_validate({"kind": "judge", "by": by, "method": method, **more})


@contextmanager
def source(mind: Mind, **more: Any) -> Iterator[Source]:
    with serving(mind) as url:
        made = Source("helpful", settings(url, **more), seed=1)
        yield made
        made.close()


def score(mind: Mind, group: Group, **more: Any) -> list[Verdict]:
    with source(mind, **more) as made:
        (verdicts,) = made.score([group])
    return verdicts


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


# --- strengths -------------------------------------------------------------------------------------------------------


def test_strengths_are_those_of_a_plain_search_for_the_least_cross_entropy() -> None:
    pairs = [(0, 1), (0, 2), (1, 2), (2, 3)]
    logits = [1.0, -2.0, 0.5, 3.0]
    wanted = [sigmoid(z) for z in logits]

    def loss(s: Any) -> float:
        told = [sigmoid(s[i] - s[j]) for i, j in pairs]
        cross = sum(-w * math.log(p) - (1 - w) * math.log(1 - p) for w, p in zip(wanted, told, strict=True))
        return cross + 0.05 * float(np.sum(s**2))

    due = minimize(loss, np.zeros(4), tol=1e-12).x
    assert bradley_terry(4, pairs, logits) == pytest.approx(due - due.mean(), abs=1e-4)


def test_strengths_stay_finite_where_one_always_wins() -> None:
    found = bradley_terry(3, [(0, 1), (0, 2), (1, 2)], [20.0, 20.0, 20.0])
    assert found[0] > found[1] > found[2]
    assert np.abs(found).max() < 10


def test_siblings_are_ordered_by_the_judges_utility_whatever_its_bias_for_the_place() -> None:
    mind = Mind(position=2.0)
    verdicts = score(mind, make_group("u=0", "u=2", "u=1", "u=-1"))
    scores = [verdict.score for verdict in verdicts]
    assert [scores.index(s) for s in sorted(scores, key=lambda s: s or 0)] == [3, 0, 2, 1]
    assert fmean(s for s in scores if s is not None) == pytest.approx(0.5)
    assert len(mind.bodies) == 12  # 6 pairs, both orders
    # the prior shrinks the strengths a little; the expected share of siblings that "u=2" beats is else this
    assert scores[1] == pytest.approx(fmean(sigmoid(d) for d in (2, 1, 3)), abs=0.05)
    (verdict, *_) = verdicts
    assert (verdict.outcome, verdict.verifier, verdict.checks["compared"]) == ("partial", "judge", 3)
    assert verdict.version.startswith("1+")
    # in log odds, both orders together: "u=0" beside "u=2", "u=1" and "u=-1"
    assert verdict.checks["against"] == pytest.approx({"1": -2.0, "2": -1.0, "3": 1.0})
    assert verdicts[3].checks["against"] == pytest.approx({"0": -1.0, "1": -3.0, "2": -2.0})


def test_equal_texts_are_asked_about_once_and_are_worth_the_same() -> None:
    mind = Mind()
    verdicts = score(mind, make_group("u=1", "u=0", "u=1"))
    assert verdicts[0].score == verdicts[2].score
    assert [verdict.checks["against"] for verdict in verdicts] == [{"1": 1.0}, {"0": -1.0}, {"1": 1.0}]
    assert len(mind.bodies) == 2
    spent = totals(verdicts)
    assert (spent["questions"], spent["abstained"], spent["flipped"]) == (2.0, 0.0, 0.0)
    assert [v.score for v in score(Mind(), make_group("u=1", "u=1"))] == [0.5, 0.5]


def test_a_completion_alone_has_nothing_to_be_compared_with() -> None:
    (verdict,) = score(Mind(), make_group("u=1"))
    assert (verdict.score, verdict.outcome) == (None, "not_applicable")


def test_large_groups_are_compared_within_the_bound() -> None:
    mind = Mind()
    verdicts = score(mind, make_group(*(f"u={k / 4}" for k in range(12))), method={"comparisons": 20})
    assert len(mind.bodies) == 40
    scores = [verdict.score or 0.0 for verdict in verdicts]
    assert np.corrcoef(scores, range(12))[0, 1] > 0.9


def test_what_the_judge_abstained_from_is_left_out_and_never_a_zero() -> None:
    def refuses(number: int, body: dict[str, Any]) -> str | None:
        return "I would rather not say" if "awful" in body["messages"][-1]["content"] else None

    verdicts = score(Mind(misbehave=refuses), make_group("u=1", "u=0", "awful u=3"))
    assert [verdict.score is None for verdict in verdicts] == [False, False, True]
    lost = verdicts[2]
    assert lost.outcome == "error" and "did not name A or B: 'I would rather not say'" in lost.reason
    assert verdicts[0].score is not None and verdicts[0].score > 0.5
    assert totals(verdicts)["abstained"] == 2.0
    assert totals(verdicts)["questions"] == 6.0


def test_a_dead_judge_gives_no_score_at_all() -> None:
    verdicts = score(Mind(misbehave=lambda n, b: JSONResponse({}, status_code=500)), make_group("u=1", "u=0"))
    assert [(v.score, v.outcome) for v in verdicts] == [(None, "error")] * 2
    assert "status 500" in verdicts[0].reason


def test_each_completion_by_itself_with_a_rubric_or_the_gold() -> None:
    rubric = {"kind": "rubric", "criteria": {"correct": {"text": "right"}}, "low": 0, "high": 4}
    verdicts = score(Mind(), make_group("u=1", "u=4", "u=0"), method=rubric, prices={"prompt": 1e6})
    assert [(v.score, v.outcome) for v in verdicts] == [(0.25, "partial"), (1.0, "correct"), (0.0, "wrong")]
    assert verdicts[0].checks["ratings"] == {"correct": 1.0}
    assert totals(verdicts)["cost"] == totals(verdicts)["prompt_tokens"] > 0
    group = make_group("4", "5")
    assert [v.outcome for v in score(Mind(), group, method={"kind": "reference"})] == ["gold_invalid"] * 2
    with_gold = Group(task=type(group.task)(id="t", prompt="2+2?", gold="4"), prompt_ids=(1,), rollouts=group.rollouts)
    told = [v.score for v in score(Mind(), with_gold, method={"kind": "reference"})]
    assert told == pytest.approx([sigmoid(2), sigmoid(-2)])


# --- what a rule decided ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decides", "asked_about"),
    [("wrong", {"rights", "right2", "half-."}), ("right", {"....", "half-."}), ("both", {"half-."})],
)
def test_the_judge_is_never_asked_where_the_rule_decided(decides: str, asked_about: set[str], plugin: str) -> None:
    mind = Mind(utility=lambda text: float(len(set(text))))
    group = make_group("rights", "....", "half-.", "right2")  # share of letters: 1, 0, 4 of 6, 1
    with serving(mind) as url:
        rewards = build(
            {
                "helpful": settings(url, unless="rule", decides=decides),
                "rule": VerifiedReward(verifier=f"{plugin}:share"),
            },
            Scoring(),
            1,
            (),
        )
        (scored,) = rewards.score([group])
        submitted = rewards.submit(group).result(60)
        rewards.close()
    assert [one.verdicts["helpful"] for one in submitted.rollouts] == [
        one.verdicts["helpful"] for one in scored.rollouts
    ]
    told = "\n".join(turn["content"] for body in mind.bodies for turn in body["messages"])
    texts = [rollout.completion.text for rollout in group.rollouts]
    assert {text for text in texts if f"]\n{text}\n[" in told} == (asked_about if len(asked_about) > 1 else set())
    for one in scored.rollouts:
        verdict, rule = one.verdicts["helpful"], one.verdicts["rule"].score
        assert rule is not None
        if one.completion.text not in asked_about:
            assert (verdict.outcome, verdict.reason) == ("not_applicable", "rule decided it")
            assert one.reward == rule
        elif len(asked_about) > 1:
            assert verdict.score is not None and one.reward == pytest.approx(rule + verdict.score)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("rewards.helpful.unless=nothing", r"rewards\.helpful\.unless: 'nothing' is no part of kind verified"),
        ("rewards.helpful.unless=helpful", "is no part of kind verified; there are: answer"),
        ("rewards.helpful.decides=right", "decides goes with unless"),
        ("rewards.answer.gate=helpful", "helpful is of kind judge, by which hardly two"),
        ("rewards.helpful.by.urll=x", r"did you mean rewards\.helpful\.by\.url"),
        ("rewards.helpful.method.keep=both", "rewards.helpful.method.keep"),
    ],
)
def test_settings_that_make_no_sense_are_refused(override: str, told: str) -> None:
    judge = "rewards.helpful={kind: judge, by: {url: 'http://127.0.0.1:9/v1', model: m}}"
    with pytest.raises((ValueError, ValidationError), match=told):
        from_overrides(
            "rl", ["model.path=m", "data.path=d", "steps=1", "rewards.answer.kind=verified", judge, override]
        )


# --- whole runs ------------------------------------------------------------------------------------------------------


def runs_with(url: str, *more: str) -> list[str]:
    judge = f"{{kind: judge, by: {{url: '{url}', model: scripted, retries: 0}}, prices: {{prompt: 2.0}}}}"
    return [
        "rewards.answer.kind=verified", "rewards.answer.weight=0.1", f"rewards.helpful={judge}",
        "steps=3", "checkpoint.every=1", *more,
    ]  # fmt: skip


def letters(text: str) -> float:
    return float(sum(c.isalpha() for c in text))


def test_a_run_with_a_judge_learns_from_it_and_says_what_it_cost(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    mind = Mind(utility=letters, position=0.5)
    with serving(mind) as url:
        train(make_recipe(tmp_path / "run", tiny_model, plugin, "share", *runs_with(url)))
    for step, row in enumerate(steps_of(tmp_path / "run"), start=1):
        verdicts = [
            verdict
            for each in runs.read_rollouts(tmp_path / "run", step)
            for verdict in each["verdicts"]
            if verdict["part"] == "helpful"
        ]
        assert row["rewards/helpful/mean"] == pytest.approx(fmean(v["score"] for v in verdicts))
        assert row["rewards/helpful/mean"] == pytest.approx(0.5)  # the share of siblings that one beats
        assert row["rewards/helpful/cost"] == pytest.approx(row["rewards/helpful/prompt_tokens"] * 2e-6)
        assert row["rewards/helpful/questions"] > 8
        assert row["rewards/helpful/abstained"] == 0
    assert mind.bodies and (tmp_path / "run" / "judged" / "helpful.sqlite").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("nth", [2, 7])
def test_a_run_that_dies_asks_nothing_twice_and_comes_to_the_same_end(
    nth: int, tiny_model: Path, plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = 0

    def die(at: str) -> None:
        nonlocal reached
        reached += at == "score"
        if reached == nth:
            raise RuntimeError("the power is cut")

    mind = Mind(utility=letters)
    with serving(mind) as url:
        train(make_recipe(tmp_path / "whole", tiny_model, plugin, "share", *runs_with(url)))
        num_asked = len(mind.bodies)
        recipe = make_recipe(tmp_path / "run", tiny_model, plugin, "share", *runs_with(url))
        monkeypatch.setattr(rollout, "failpoint", die)
        with pytest.raises(RuntimeError, match="the power is cut"):
            train(recipe)
        monkeypatch.undo()
        train(recipe)
    assert len(mind.bodies) < 2 * num_asked + 12  # what was under way at the end may be lost: a group's at most
    assert exact(runs.read_metrics(tmp_path / "run")) == exact(runs.read_metrics(tmp_path / "whole"))
    assert_same_bits(weights(tmp_path / "run" / "model"), weights(tmp_path / "whole" / "model"))


def test_old_rollouts_are_judged_again_by_the_same_judge_or_by_another(
    tiny_model: Path, plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "changes.jsonl"

    def again(*words: str) -> tuple[int, dict[str, Any], str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["rescore", str(run), "-v", "judge", "--json", *words])
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, json.loads(said.out.splitlines()[-1]) if not ended.value.code else {}, said.err

    mind, other = Mind(utility=letters), Mind(utility=lambda text: -letters(text))
    with serving(mind) as url, serving(other) as other_url:
        train(make_recipe(run, tiny_model, plugin, "share", *runs_with(url)))
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        num_asked = len(mind.bodies)
        code, found, _ = again()
        assert (code, found["part"], found["n"], found["changed"]) == (0, "helpful", 48, 0)
        assert len(mind.bodies) == 2 * num_asked  # asked anew
        code, found, _ = again()
        assert (code, found["changed"], len(mind.bodies)) == (0, 0, 2 * num_asked)  # and then no more
        assert (tmp_path / ".run.rescored").is_file()
        code, found, _ = again("--option", f"by.url={other_url}", "--out", str(out))
        # the share of siblings that one beats is turned round
        changes = [json.loads(line) for line in out.read_text().splitlines()]
        changes = [change for change in changes if change["before"]["score"] != change["after"]["score"]]
        assert code == 0 and len(changes) == found["changed"] > 24
        for change in changes:
            assert change["after"]["score"] == pytest.approx(1 - change["before"]["score"], abs=1e-6)
        assert found["flips"] > 0
        other.misbehave = lambda number, body: "I would rather not"
        code, found, _ = again("--option", f"by.url={other_url}", "--option", "samples=2")
        assert code == 0 and found["unjudged"][1] > found["unjudged"][0] == 0 and found["down"] == 0
    for words, told in (
        (["--option", "by.modell=x"], "--option by.modell: a judge has no such setting"),
        (["--option", "samples.many=3"], "--option samples.many: a judge has no such setting"),
        (["--option", "samples=0"], "--option samples: Input should be greater than or equal to 1"),
        (["--part", "answer"], "--part answer: which judge of the run is to judge again;"),
    ):
        code, _, err = again(*words)
        assert code == 2 and told in err and len(err.splitlines()) == 1
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_run_whose_judge_is_gone_says_so_and_is_no_run_of_zeros(
    tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    from rlvr.errors import DataError, RlvrError

    with pytest.raises((DataError, RlvrError), match=r"rewards\.helpful: judge: .*cannot be asked"):
        train(make_recipe(tmp_path / "run", tiny_model, plugin, "share", *runs_with("http://127.0.0.1:9/v1")))


@pytest.mark.slow
def test_our_own_engine_judges_in_the_run_and_resumes_exactly(
    tiny_model: Path, untied_model: Path, plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a random model names a letter now and then; a template that ends in the middle of a word makes it likelier
    judge = (
        f"rewards.helpful={{kind: judge, by: {{kind: hf, path: {untied_model}}}, optional: true, max_tokens: 1, "
        "method: {system: '', template: '{question} {first} {second}'}}"
    )
    more = ["rewards.answer.kind=verified", judge, "steps=2", "checkpoint.every=1"]
    train(make_recipe(tmp_path / "whole", tiny_model, plugin, "share", *more))
    recipe = make_recipe(tmp_path / "run", tiny_model, plugin, "share", *more)
    reached = 0

    def die(at: str) -> None:
        nonlocal reached
        reached += at == "score"
        if reached == 5:
            raise RuntimeError("the power is cut")

    monkeypatch.setattr(rollout, "failpoint", die)
    with pytest.raises(RuntimeError, match="the power is cut"):
        train(recipe)
    monkeypatch.undo()
    train(recipe)
    assert exact(runs.read_metrics(tmp_path / "run")) == exact(runs.read_metrics(tmp_path / "whole"))
    (row, *_) = steps_of(tmp_path / "run")
    assert row["rewards/helpful/questions"] > 0
