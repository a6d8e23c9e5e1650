"""Rewards without a gold: the votes of the siblings, and how certain the policy was."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scorer_cases import ids_of, make_rollout
from test_rl import PLUGIN, Quiet, assert_same_bits, exact, make_recipe, steps_of, train, weights
from test_rl_resume import stopping_at

from rlvr import policy, runs
from rlvr.errors import SettingsError, Stopped
from rlvr.recipe import MajorityReward, Scoring
from rlvr.rewards import base
from rlvr.rewards.unsupervised import PolicyView, SelfCertainty
from rlvr.rewards.votes import winners
from rlvr.settings import from_overrides
from rlvr.types import Group, Outcome, Task, Verdict

VOTES = {"votes": MajorityReward(kind="majority", verifier="math")}


@pytest.fixture(scope="module")
def rewards() -> Iterator[base.Rewards]:
    built = base.build(VOTES, Scoring(), 0, ())
    yield built
    built.close()


def group(texts: Sequence[str], gold: Any = None) -> Group:
    rollouts = tuple(make_rollout(text, k) for k, text in enumerate(texts))
    return Group(task=Task(id="t", prompt="q", gold=gold), prompt_ids=(3, 4), rollouts=rollouts)


def boxed(*answers: str | None) -> list[str]:
    return ["I do not know" if answer is None else rf"so \boxed{{{answer}}}" for answer in answers]


# --- majority --------------------------------------------------------------------------------------------------------


def test_winners_are_classes_of_equal_answers() -> None:
    half, votes = winners(["0.5", "1/2", r"\frac{1}{2}", "3", None, "3"])
    assert votes == 3 and len(half) == 1
    assert winners(["1", "2", None]) == ({1, 2}, 1)
    assert winners([None, None]) == (frozenset(), 0)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (("1/2", "0.5", "3"), [1.0, 1.0, 0.0]),
        (("3", None, None), [1.0, 0.0, 0.0]),
        (("1", "2", "1", "2", "7"), [0.5, 0.5, 0.5, 0.5, 0.0]),
        (("1", "2", "3"), [1 / 3, 1 / 3, 1 / 3]),
        ((None, None), [0.0, 0.0]),
    ],
)
def test_the_answer_of_most_is_worth_one(
    rewards: base.Rewards, answers: Sequence[str | None], expected: list[float]
) -> None:
    (scored,) = rewards.score([group(boxed(*answers))])
    assert [rollout.reward for rollout in scored.rollouts] == pytest.approx(expected)
    assert [r.verdicts["votes"].answer for r in scored.rollouts] == list(answers)


@pytest.mark.parametrize("gold", ["3", "7", None])
def test_no_gold_changes_a_vote(rewards: base.Rewards, gold: str | None) -> None:
    (scored,) = rewards.score([group(boxed("7", "7", "3"), gold)])
    assert [rollout.reward for rollout in scored.rollouts] == [1.0, 1.0, 0.0]
    outcomes: list[Outcome] = [rollout.verdicts["votes"].outcome for rollout in scored.rollouts]
    assert outcomes == ["correct", "correct", "wrong"]
    assert scored.rollouts[0].verdicts["votes"].reason == "the answer has 2 of 3 votes"


def test_groups_vote_by_themselves(rewards: base.Rewards) -> None:
    scored = rewards.score([group(boxed("1", "1", "2")), group(boxed("2", "2", "1"))])
    assert [[r.reward for r in each.rollouts] for each in scored] == [[1.0, 1.0, 0.0]] * 2


def test_what_the_engine_took_back_has_no_vote(rewards: base.Rewards) -> None:
    whole = group(boxed("1", "2", "2", "1", "1"))
    aborted = tuple(
        replace(r, completion=replace(r.completion, finish="abort")) if k in (0, 3) else r
        for k, r in enumerate(whole.rollouts)
    )
    (scored,) = rewards.score([replace(whole, rollouts=aborted)])
    assert [rollout.reward for rollout in scored.rollouts] == [None, 1.0, 1.0, None, 0.0]


def test_what_we_could_not_read_is_no_zero(tmp_path: Path) -> None:
    (tmp_path / "reader.py").write_text(
        "from rlvr import Verdict\n\n"
        "def last(response):\n"
        "    if response == 'break': raise RuntimeError('broken')\n"
        "    return Verdict(score=0.0, outcome='wrong', answer=response[-1:])\n"
    )
    parts = {"votes": MajorityReward(kind="majority", verifier=f"{tmp_path / 'reader.py'}:last")}
    built = base.build(parts, Scoring(), 0, ())
    try:
        (scored,) = built.score([group(["a1", "break", "b1", "c2", "break"])])
    finally:
        built.close()
    assert [rollout.reward for rollout in scored.rollouts] == [1.0, None, 1.0, 0.0, None]
    assert "its answer was not found" in scored.rollouts[1].verdicts["votes"].reason


# --- self-certainty --------------------------------------------------------------------------------------------------


def plain_certainty(model: Any, prompt: Sequence[int], own: Sequence[int], temperature: float) -> float:
    """The paper's formula in float64: mean over tokens of -1/V sum_j log(V p_j)."""
    with torch.no_grad():
        logits_TV = model(input_ids=torch.tensor([[*prompt, *own]])).logits[0].double() / temperature
    logp_TV = logits_TV.log_softmax(dim=-1)[len(prompt) - 1 : -1]
    V = logp_TV.shape[1]
    return float((-(logp_TV + math.log(V)).sum(dim=-1) / V).mean())


@pytest.mark.parametrize(("temperature", "micro_tokens"), [(1.0, 1000), (0.7, 1000), (1.0, 12)])
def test_certainty_is_the_papers_formula(tied: Any, temperature: float, micro_tokens: int) -> None:
    source = SelfCertainty()
    source.policy = PolicyView(tied, temperature, micro_tokens)
    prompt = ids_of("q:")
    rollouts = tuple(make_rollout(text, k) for k, text in enumerate(["yes", "no, not at all", "?"]))
    asked = Group(task=Task(id="t", prompt="q:"), prompt_ids=prompt, rollouts=rollouts)
    ((*verdicts,),) = source.score([asked])
    for verdict, rollout in zip(verdicts, rollouts, strict=True):
        expected = plain_certainty(tied, prompt, rollout.completion.token_ids, temperature)
        assert verdict.value == verdict.worth == pytest.approx(expected, rel=1e-4)
        assert verdict.score == pytest.approx(1 - math.exp(-expected), rel=1e-4)


def test_tokens_that_the_policy_did_not_choose_do_not_count(tied: Any) -> None:
    plain = make_rollout("ab tool cd", 0)
    own = plain.completion.trained[:2] + (False,) * 6 + plain.completion.trained[8:]
    mixed = replace(plain, completion=replace(plain.completion, trained=own))
    none = replace(plain, completion=replace(plain.completion, trained=(False,) * len(own)))
    prompt = ids_of("q:")
    source = SelfCertainty()
    source.policy = PolicyView(tied, 1.0, 1000)
    ((whole, part, nothing),) = source.score(
        [Group(task=Task(id="t", prompt="q:"), prompt_ids=prompt, rollouts=(plain, mixed, none))]
    )
    ids_BT = torch.tensor([[*prompt, *plain.completion.token_ids]])
    mask_BT = torch.arange(ids_BT.shape[1])[None] >= len(prompt)
    certainty_T = policy.certainty(tied, ids_BT, mask_BT)[0][len(prompt) :]
    chosen_T = torch.tensor(own)
    assert part.value == pytest.approx(float(certainty_T[chosen_T].mean()), rel=1e-5)
    assert whole.value == pytest.approx(float(certainty_T.mean()), rel=1e-5)
    assert (nothing.score, nothing.outcome) == (None, "error")


def test_a_uniform_policy_is_certain_of_nothing_and_a_broken_one_is_no_zero(tied: Any) -> None:
    model = copy.deepcopy(tied)
    source = SelfCertainty()
    source.policy = PolicyView(model, 1.0, 1000)

    def verdict() -> Verdict:
        return source.score([replace(group(["abc"]), prompt_ids=ids_of("q:"))])[0][0]

    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    assert verdict().value == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(math.nan)
    assert verdict().outcome == "error"


def test_it_has_to_be_shown_the_policy() -> None:
    with pytest.raises(ValueError, match="set policy"):
        SelfCertainty().score([group(["a"])])


def test_options_need_the_verifier_that_has_them() -> None:
    base_settings = ["steps=1", "model.path=m", "data.path=d"]
    with pytest.raises(SettingsError, match="name it with verifier"):
        from_overrides("rl", [*base_settings, "rewards.answer={kind: majority, options: {a: 1}}"])


# --- in the loop -----------------------------------------------------------------------------------------------------


def letters(folder: Path, model: Path, tmp_path: Path, *overrides: str) -> Any:
    """Both kinds together; the first character votes."""
    plugin = tmp_path / "toy.py"
    plugin.write_text(
        PLUGIN + "\nfrom rlvr import Verdict\n"
        "def first(response):\n"
        "    return Verdict(score=0.0, outcome='wrong', answer=response[:1] or None)\n"
    )
    return make_recipe(
        folder,
        model,
        str(plugin),
        "letter",
        f"rewards.votes={{kind: majority, verifier: '{plugin}:first'}}",
        "rewards.certain={kind: self_certainty, weight: 0.1}",
        "rewards.answer.weight=0",
        "sample.max_tokens=3",
        "checkpoint.every=2",
        *overrides,
    )


def test_a_run_without_golds_measures_its_own_policy_and_resumes_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    train(letters(tmp_path / "whole", tiny_model, tmp_path, "steps=4"))
    with pytest.raises(Stopped):
        stopping_at("sampling 9/16", letters(tmp_path / "run", tiny_model, tmp_path, "steps=4"))
    train(letters(tmp_path / "run", tiny_model, tmp_path, "steps=4"))
    assert exact(steps_of(tmp_path / "run")) == exact(steps_of(tmp_path / "whole"))
    assert_same_bits(weights(tmp_path / "run" / "model"), weights(tmp_path / "whole" / "model"))
    model = policy.load_model(make_recipe(tmp_path / "x", tiny_model, "p", "letter").model)[0]
    rows = runs.read_rollouts(tmp_path / "whole", 1)
    for row in rows[:4]:
        verdicts = {verdict["part"]: verdict for verdict in row["verdicts"]}
        expected = plain_certainty(model, row["prompt_ids"], row["token_ids"], 1.0)
        assert verdicts["certain"]["value"] == pytest.approx(expected, rel=1e-4)
        assert row["reward"] == pytest.approx(verdicts["votes"]["score"] + 0.1 * expected, rel=1e-4)
    first = steps_of(tmp_path / "whole")[0]
    shares = []
    for k in range(0, 16, 4):
        answers = [row["response"][:1].lower() or None for row in rows[k : k + 4]]
        shares.append(max((answers.count(a) for a in answers if a is not None), default=0) / 4)
    assert first["rewards/votes/majority_share"] == pytest.approx(sum(shares) / 4)
    assert {first["alarm/collapse"], first["alarm/length_bias"], first["alarm/over_optimisation"]} == {0.0}


@pytest.mark.slow
def test_votes_alone_end_in_one_answer_and_that_is_told_of(tiny_model: Path, tmp_path: Path) -> None:
    quiet = Quiet()
    more = ("steps=30", "optim.lr=3e-3", "rewards.certain.weight=0", "sample.group_size=8", "alarms.window=8")
    train(letters(tmp_path / "run", tiny_model, tmp_path, *more, "sample.max_tokens=1"), quiet)
    steps = steps_of(tmp_path / "run")
    shares = [row["rewards/votes/majority_share"] for row in steps]
    assert shares[0] < 0.6 and shares[-1] > 0.95
    assert any("completions have become alike" in text for text in quiet.warned)
    assert steps[-1]["alarm/collapse"] == 1.0
