"""PPO's critic: each update against the plain formula in float64, and what must not change it."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from test_learn import assert_equal_gradients, assert_equal_metrics, batch, groups, make_learner, model
from torch import Tensor

from rlvr import advantages, heads, policy
from rlvr.batching import Batch, Rows, make_batch
from rlvr.errors import DataError, SettingsError
from rlvr.loops import critic as critics
from rlvr.loops import setup
from rlvr.loops.learn import Learned, Learner, learn
from rlvr.loss_settings import Advantage, Kl
from rlvr.recipe import Critic, Model, Overlong
from rlvr.rewards.base import OverlongPenalty
from rlvr.settings import from_overrides
from rlvr.types import Group

__all__ = ["model"]
PPO = ("algorithm=ppo", "advantage.whiten=false", "loss.aggregate=token")
OWN, SHARED = (*PPO, "critic.optim.max_grad_norm=1e9"), (*PPO, "critic.kind=shared", "critic.coef=0.7")


def with_critic(folder: Path, *overrides: str, packs: bool = False) -> Learner:
    """A learner in float64 with a critic that has opinions."""
    learner = make_learner(folder, *overrides, packs=packs)
    tokenizer = policy.load_model(Model(path=str(folder)))[1]
    learner.critic = critics.load(learner.recipe, learner.trained.model, tokenizer)
    assert learner.critic is not None
    scorer = learner.critic.trained.model.double()
    head = scorer if learner.critic.is_shared else heads.head(scorer)
    with torch.no_grad():
        head.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(4))
    return learner


def truncated(of: list[Group] | None = None, every: int = 3) -> list[Group]:
    """The groups, in which every third completion was cut at max_tokens."""
    given = groups() if of is None else of
    return [
        replace(
            group,
            rollouts=tuple(
                replace(r, completion=replace(r.completion, finish="length")) if k % every == 0 else r
                for k, r in enumerate(group.rollouts)
            ),
        )
        for group in given
    ]


Captured = list[tuple[dict[str, Tensor], dict[str, Tensor]]]


def captured(learner: Learner, work: Callable[[], Learned]) -> tuple[Learned, Captured, Captured]:
    """(outcome, policy's, critic's): weights and gradient of each update, before it moves anything."""
    assert learner.critic is not None
    models = (learner.trained.model, learner.critic.trained.model)
    found: tuple[Captured, Captured] = ([], [])
    clip = torch.nn.utils.clip_grad_norm_

    def note(parameters: list[torch.nn.Parameter], most: float) -> Tensor:
        for own, into in zip(models, found, strict=True):
            named = dict(own.named_parameters())
            if parameters and any(p is parameters[0] for p in named.values()):
                grads = {n: p.grad.clone() for n, p in named.items() if p.grad is not None}
                into.append(({n: p.detach().clone() for n, p in named.items()}, grads))
        return clip(parameters, most)

    with mock.patch.object(torch.nn.utils, "clip_grad_norm_", note):
        return work(), *found


def hidden_by_hand(plain: Any, ids_T: Tensor) -> Tensor:
    return plain.base_model(input_ids=ids_T[None]).last_hidden_state[0]


def advantages_by_hand(
    rewards: list[float], values: list[float], final: float, gamma: float, lam: float
) -> tuple[list[float], list[float]]:
    """(A, G) of one row, with `final` as V after its end."""
    adv, later, after = [], 0.0, final
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        later = reward + gamma * after - value + gamma * lam * later
        adv.append(later)
        after = value
    adv.reverse()
    return adv, [a + v for a, v in zip(adv, values, strict=True)]


def rows_by_hand(given: Batch, after: list[Tensor], gamma: float, lam: float) -> list[tuple[list[float], list[float]]]:
    """(A, G) of each row from V after each of its tokens."""
    rows = []
    for row, after_T in enumerate(after):
        places = given.mask_BT[row].nonzero()[:, 0].tolist()
        reward, final = float(given.reward_B[row]), 0.0
        if given.truncated_B is not None and not given.truncated_B[row].isnan():
            reward, final = float(given.truncated_B[row]), float(after_T[-1])
        rewards = [0.0] * (len(places) - 1) + [reward]
        rows.append(advantages_by_hand(rewards, [float(after_T[t - 1]) for t in places], final, gamma, lam))
    return rows


def value_loss_by_hand(
    values: list[Tensor], old: list[Tensor], returns: list[list[float]], given: Batch, clip: float | None
) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for row, (after_T, old_T, return_L) in enumerate(zip(values, old, returns, strict=True)):
        for t, target in zip(given.mask_BT[row].nonzero()[:, 0].tolist(), return_L, strict=True):
            square = (after_T[t - 1] - target) ** 2
            if clip is not None:
                bounded = torch.minimum(torch.maximum(after_T[t - 1], old_T[t - 1] - clip), old_T[t - 1] + clip)
                square = torch.maximum(square, (bounded - target) ** 2)
            total = total + square / 2
    return total / given.num_tokens


def assert_close(gradient: dict[str, Tensor], by_hand: Any) -> None:
    """Advantages and returns are float32."""
    named = {name: p.grad for name, p in by_hand.named_parameters() if p.grad is not None}
    assert gradient.keys() == named.keys()
    for name, tensor in named.items():
        torch.testing.assert_close(gradient[name], tensor, rtol=1e-6, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


# --- each update is the formula --------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, 0.01])
@pytest.mark.parametrize("finish", ["bootstrap", "terminal"])
def test_the_gradient_of_an_own_critic_is_that_of_the_plain_formula(
    model: Path, finish: str, clip: float | None
) -> None:
    settings = [*OWN, "epochs=2", "critic.optim.lr=0.001", "advantage.gamma=0.9", f"critic.truncated={finish}"]
    settings += ["optim.micro_tokens=45", "critic.optim.micro_tokens=30"]
    learner = with_critic(model, *settings, *([] if clip is None else [f"critic.value_clip={clip}"]))
    assert learner.critic is not None
    by_hand = copy.deepcopy(learner.critic.trained.model)
    given = critics.with_truncated(make_batch(truncated()), truncated(), learner.recipe.critic)
    outcome, _, of_critic = captured(learner, lambda: learn(learner, given, 1))
    assert len(of_critic) == 2

    rows = [ids_T[:n] for ids_T, n in zip(given.ids_BT, given.length_B.tolist(), strict=True)]
    old = [by_hand.score(hidden_by_hand(by_hand, ids_T))[:, 0].detach() for ids_T in rows]
    adv, returns = zip(*rows_by_hand(given, old, 0.9, 0.95), strict=True)
    assert outcome.adv_B.tolist() == pytest.approx([a[0] for a in adv], rel=1e-5)
    losses, clipped = [], 0
    for weights, gradient in of_critic:
        by_hand.load_state_dict(weights)
        by_hand.zero_grad()
        values = [by_hand.score(hidden_by_hand(by_hand, ids_T))[:, 0] for ids_T in rows]
        loss = value_loss_by_hand(values, old, list(returns), given, clip)
        loss.backward()
        losses.append(float(loss.detach()))
        assert_close(gradient, by_hand)
        for row, (v_T, o_T) in enumerate(zip(values, old, strict=True)):
            for t, target in zip(given.mask_BT[row].nonzero()[:, 0].tolist(), returns[row], strict=True):
                v, o = float(v_T[t - 1].detach()), float(o_T[t - 1])
                bounded = min(max(v, o - (clip or math.inf)), o + (clip or math.inf))
                clipped += (bounded - target) ** 2 > (v - target) ** 2
    assert outcome.metrics["loss/value_avg"] == pytest.approx(sum(losses) / 2, rel=1e-7)
    if clip is not None:
        assert clipped > 0
        assert outcome.metrics["val/clipfrac_avg"] == clipped / (2 * given.num_tokens)


@pytest.mark.parametrize("which", [(), ("loss.fused=off",), ("packing=true",)], ids=["fused", "plain", "packed"])
def test_of_a_shared_critic_policy_and_value_loss_are_one_weighted_sum(model: Path, which: tuple[str, ...]) -> None:
    packs = "packing=true" in which
    learner = with_critic(model, *SHARED, "loss.entropy_coef=0.02", "optim.micro_tokens=45", *which, packs=packs)
    assert learner.critic is not None
    body, head = copy.deepcopy(learner.trained.model), copy.deepcopy(learner.critic.trained.model)
    given = batch()
    outcome, of_policy, of_critic = captured(learner, lambda: learn(learner, given, 1))
    rows = [ids_T[:n] for ids_T, n in zip(given.ids_BT, given.length_B.tolist(), strict=True)]
    hidden = [hidden_by_hand(body, ids_T) for ids_T in rows]
    values = [head(hidden_TD)[:, 0] for hidden_TD in hidden]
    old = [value_T.detach() for value_T in values]
    adv, returns = zip(*rows_by_hand(given, old, 1.0, 0.95), strict=True)
    total = 0.7 * value_loss_by_hand(values, old, list(returns), given, None)
    for row, ids_T in enumerate(rows):
        log_p_TV = torch.log_softmax(body.get_output_embeddings()(hidden[row]), dim=-1)
        for t, a in zip(given.mask_BT[row].nonzero()[:, 0].tolist(), adv[row], strict=True):
            entropy = -(log_p_TV[t - 1].exp() * log_p_TV[t - 1]).sum()
            total = total - (a * log_p_TV[t - 1, ids_T[t]] + 0.02 * entropy) / given.num_tokens
    total.backward()
    ((_, body_gradient),), ((_, head_gradient),) = of_policy, of_critic
    assert_close(body_gradient, body)
    assert_close(head_gradient, head)
    # the ratio is 1, so the policy's loss is minus the mean advantage in value
    mean = sum(sum(a) for a in adv) / given.num_tokens
    expected = 0.7 * outcome.metrics["loss/value_avg"] - mean - 0.02 * outcome.metrics["entropy"]
    assert outcome.metrics["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("which", [OWN, SHARED], ids=["own", "shared"])
def test_the_split_into_micro_batches_changes_nothing(model: Path, which: tuple[str, ...]) -> None:
    settings = (*which, "updates=3", "epochs=2", "kl.coef=0.1", "critic.value_clip=0.1")
    found = []
    for size in (8192, 45, 1):
        learner = with_critic(model, *settings, f"optim.micro_tokens={size}", f"critic.optim.micro_tokens={size}")
        found.append(captured(learner, lambda learner=learner: learn(learner, batch(), 1)))
    whole, *others = found
    assert whole[0].metrics["critic/grad_norm"] > 0 and len(whole[1]) == len(whole[2]) == 6
    for outcome, *gradients in others:
        assert_equal_metrics(outcome.metrics, whole[0].metrics)
        for ours, theirs in zip(gradients, whole[1:], strict=True):
            for (_, mine), (_, its) in zip(ours, theirs, strict=True):
                assert_equal_gradients(mine, its)


def test_an_own_critic_leaves_the_policy_what_it_learns(model: Path) -> None:
    learner = with_critic(model, *OWN)
    _, of_policy, _ = captured(learner, lambda: learn(learner, batch(), 1))
    other = with_critic(model, *OWN, "critic.optim.lr=0.1", "critic.value_clip=0.01", "critic.optim.max_grad_norm=0.1")
    _, of_other, _ = captured(other, lambda: learn(other, batch(), 1))
    assert_equal_gradients(of_policy[0][1], of_other[0][1])


# --- advantages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_a_truncated_row_is_bootstrapped_with_the_value_of_its_last_token(gamma: float, lam: float) -> None:
    given = critics.with_truncated(make_batch(truncated()), truncated(), Critic(kind="own"))
    after_BT = torch.randn(given.ids_BT.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    settings = Advantage(kind="gae", gamma=gamma, lam=lam)
    given = replace(given, values_BT=critics.before_tokens(after_BT))
    adv_BT, returns_BT = advantages.compute(critics.bootstrapped(given, after_BT, gamma), settings, Kl())
    assert returns_BT is not None and given.truncated_B is not None
    assert int((~given.truncated_B.isnan()).sum()) == 6
    after = [after_T[:n] for after_T, n in zip(after_BT, given.length_B.tolist(), strict=True)]
    for row, (adv, returns) in enumerate(rows_by_hand(given, after, gamma, lam)):
        assert adv_BT[row][given.mask_BT[row]].tolist() == pytest.approx(adv, rel=1e-5, abs=1e-6)
        assert returns_BT[row][given.mask_BT[row]].tolist() == pytest.approx(returns, rel=1e-5, abs=1e-6)


def test_with_lambda_1_the_advantage_is_what_really_came_less_the_value() -> None:
    given = batch()
    after_BT = torch.randn(given.ids_BT.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = replace(given, values_BT=critics.before_tokens(after_BT))
    adv_BT, _ = advantages.compute(given, Advantage(kind="gae", gamma=0.9, lam=1.0), Kl())
    for row, reward in enumerate(given.reward_B.tolist()):
        places = given.mask_BT[row].nonzero()[:, 0].tolist()
        came = [reward * 0.9 ** (len(places) - 1 - k) for k in range(len(places))]
        expected = [g - float(after_BT[row, t - 1]) for g, t in zip(came, places, strict=True)]
        assert adv_BT[row][given.mask_BT[row]].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_penalties_stay_where_the_verdict_of_an_unfinished_completion_does_not() -> None:
    given = truncated(every=2)
    settings = Critic(kind="own")
    truncated_B = critics.with_truncated(make_batch(given), given, settings).truncated_B
    assert truncated_B is not None
    assert truncated_B[:4].nan_to_num(nan=9.0).tolist() == [0.0, 9.0, 0.0, 9.0]
    penalty = OverlongPenalty(Overlong(buffer=1.0, penalty=0.5, missing_eos=2.0), max_tokens=20)
    paid = [replace(group, rollouts=tuple(map(penalty.apply, group.rollouts))) for group in given]
    truncated_B = critics.with_truncated(make_batch(paid), paid, settings).truncated_B
    assert truncated_B is not None
    due = [0.5 * len(r.completion.token_ids) / 20 + 2 for group in given for r in group.rollouts]
    expected = [math.nan if k % 2 else -d for k, d in enumerate(due)]
    assert truncated_B.tolist() == pytest.approx(expected, nan_ok=True)
    terminal = Critic(kind="own", truncated="terminal")
    assert critics.with_truncated(make_batch(given), given, terminal).truncated_B is None


def test_explained_variance_is_of_what_is_learnt_and_of_what_came() -> None:
    given = critics.with_truncated(make_batch(truncated()), truncated(), Critic(kind="own"))
    after_BT = torch.randn(given.ids_BT.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = replace(given, values_BT=critics.before_tokens(after_BT))
    settings = Advantage(kind="gae", lam=0.5)
    _, returns_BT = advantages.compute(critics.bootstrapped(given, after_BT, 1.0), settings, Kl())
    figures = critics.foretold(replace(given, returns_BT=returns_BT), 1.0, Kl())
    assert returns_BT is not None and given.truncated_B is not None and given.values_BT is not None

    def explained(value: list[float], came: list[float]) -> float:
        def variance(x: list[float]) -> float:
            return sum((y - sum(x) / len(x)) ** 2 for y in x)

        return 1 - variance([c - v for c, v in zip(came, value, strict=True)]) / variance(came)

    value_N, return_N = given.values_BT[given.mask_BT], returns_BT[given.mask_BT]
    assert figures["critic/vf_explained_var"] == pytest.approx(explained(value_N.tolist(), return_N.tolist()))
    assert figures["critic/values/mean"] == pytest.approx(float(value_N.mean()))
    assert figures["critic/bootstrapped"] == 0.5
    ended_BT = given.mask_BT & given.truncated_B.isnan()[:, None]
    came = given.reward_B[:, None].expand(given.mask_BT.shape)[ended_BT].tolist()
    expected = explained(given.values_BT[ended_BT].tolist(), came)
    assert figures["critic/vf_explained_var_mc"] == pytest.approx(expected)
    flat = replace(given, reward_B=torch.ones_like(given.reward_B), returns_BT=returns_BT)
    assert "critic/vf_explained_var_mc" not in critics.foretold(flat, 1.0, Kl())


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [OWN, SHARED], ids=["own", "shared"])
def test_a_critic_that_has_no_number_moves_nothing(model: Path, which: tuple[str, ...]) -> None:
    learner = with_critic(model, *which, "updates=2")
    assert learner.critic is not None
    head = learner.critic.trained.model
    with torch.no_grad():
        (head if learner.critic.is_shared else heads.head(head)).weight[0, 0] = math.nan
    before = [p.detach().clone() for t in learner.everything for p in t.model.parameters()]
    metrics = learn(learner, batch(), 1).metrics
    assert (metrics["skipped_updates"], metrics["critic/skipped_updates"]) == (2, 2)
    assert all(math.isfinite(value) for value in metrics.values())
    after = [p.detach() for t in learner.everything for p in t.model.parameters()]
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(after, before, strict=True))
    assert [t.skipped_in_a_row for t in learner.everything] == [2, 2]


def test_an_own_critic_that_runs_out_of_memory_learns_the_same_in_smaller_parts(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = with_critic(model, *OWN)
    expected = captured(whole, lambda: learn(whole, batch(), 1))
    values = heads.values

    def scarce(model: Any, ids_BT: Tensor, length_B: Tensor) -> Tensor:
        if ids_BT.numel() > 40:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return values(model, ids_BT, length_B)

    monkeypatch.setattr(heads, "values", scarce)
    learner = with_critic(model, *OWN, "critic.optim.micro_tokens=128")
    outcome, _, of_critic = captured(learner, lambda: learn(learner, batch(), 1))
    assert learner.critic is not None and learner.critic.trained.micro_tokens == 32
    assert learner.trained.micro_tokens == 8192
    assert_equal_metrics(outcome.metrics, expected[0].metrics)
    assert_equal_gradients(of_critic[0][1], expected[2][0][1])


@pytest.mark.parametrize("which", [OWN, SHARED], ids=["own", "shared"])
def test_beyond_the_tolerance_neither_learns(model: Path, which: tuple[str, ...]) -> None:
    learner = with_critic(model, *which, "parity.on_mismatch=stop", "parity.tolerance=0.001")
    assert learn(learner, batch(), 1).metrics == {}
    assert all(p.grad is None for trained in learner.everything for p in trained.model.parameters())
    assert [trained.updates for trained in learner.everything] == [0, 0]


@pytest.mark.parametrize("which", [OWN, SHARED], ids=["own", "shared"])
def test_in_its_first_steps_the_critic_alone_learns(model: Path, which: tuple[str, ...]) -> None:
    learner = with_critic(model, *which, "critic.warmup_steps=2", "updates=2")
    before = copy.deepcopy(learner.trained.model).state_dict()
    for step in (1, 2):
        _, of_policy, of_critic = captured(learner, lambda step=step: learn(learner, batch(), step))
        assert (len(of_policy), len(of_critic)) == (0, 2)
    assert all(torch.equal(t, before[n]) for n, t in learner.trained.model.state_dict().items())
    assert [trained.updates for trained in learner.everything] == [4, 4]
    _, of_policy, of_critic = captured(learner, lambda: learn(learner, batch(), 3))
    assert (len(of_policy), len(of_critic)) == (2, 2)


# --- ptx and the reference -------------------------------------------------------------------------------------------


def demonstrations() -> Rows:
    ids_BT = torch.randint(3, 259, (3, 9), generator=torch.Generator().manual_seed(8))
    length_B = torch.tensor([4, 9, 6])
    mask_BT = (torch.arange(9) >= 2) & (torch.arange(9) < length_B[:, None])
    return Rows(torch.where(torch.arange(9) < length_B[:, None], ids_BT, 0), mask_BT, length_B)


@pytest.mark.parametrize("fused", ["auto", "off"])
def test_ptx_adds_its_coefficient_times_the_gradient_of_sft(model: Path, fused: str) -> None:
    settings = ["ptx.data=none.jsonl", "ptx.coef=0.3", f"loss.fused={fused}", "optim.micro_tokens=20"]
    learner, without = (with_critic(model, *OWN, *more, f"loss.fused={fused}") for more in (settings, []))
    by_hand = copy.deepcopy(learner.trained.model)
    rows = demonstrations()
    loss = torch.zeros((), dtype=torch.float64)
    for ids_T, n in zip(rows.ids_BT, rows.length_B.tolist(), strict=True):
        log_p_TV = torch.log_softmax(by_hand(ids_T[None, :n]).logits[0], dim=-1)
        loss = loss - log_p_TV[torch.arange(1, n - 1), ids_T[2:n]].sum() / rows.num_tokens
    (0.3 * loss).backward()
    nll = float(loss.detach())
    outcome, of_policy, _ = captured(learner, lambda: learn(learner, batch(), 1, [rows]))
    alone, of_other, _ = captured(without, lambda: learn(without, batch(), 1))
    sft_alone = {name: tensor - of_other[0][1][name] for name, tensor in of_policy[0][1].items()}
    assert_equal_gradients(sft_alone, {name: p.grad for name, p in by_hand.named_parameters() if p.grad is not None})
    assert outcome.metrics["ptx/loss"] == pytest.approx(nll, rel=1e-9)
    assert outcome.metrics["loss"] == pytest.approx(alone.metrics["loss"] + 0.3 * nll, rel=1e-9)


def test_a_step_without_a_reward_to_learn_from_still_learns_from_demonstrations(model: Path) -> None:
    learner = make_learner(model, "ptx.data=none.jsonl")
    before = copy.deepcopy(learner.trained.model).state_dict()
    metrics = learn(learner, make_batch(groups()[1:2]), 1, [demonstrations()]).metrics
    assert metrics["loss"] == pytest.approx(metrics["ptx/loss"]) and metrics["grad_norm"] > 0
    assert not all(torch.equal(t, before[n]) for n, t in learner.trained.model.state_dict().items())


def test_a_reference_of_another_tokenizer_is_refused_in_one_line(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"a": 67', '"a": 68').replace('"b": 68', '"b": 67'))
    learner = make_learner(model, "kl.coef=0.1", f"reference.path={other}")
    tokenizer = policy.load_model(Model(path=str(model)))[1]
    with pytest.raises(DataError, match=rf"^reference\.path {other}: its tokenizer is not the policy's \(token 'a' is"):
        setup.load_reference(learner.recipe, learner.trained.model, tokenizer)
    absent = make_learner(model, "kl.coef=0.1", "reference.path=./nowhere")
    with pytest.raises(DataError, match=r"^reference\.path \./nowhere: no such folder"):
        setup.load_reference(absent.recipe, absent.trained.model, tokenizer)
    versioned = shutil.copytree(model, tmp_path / "model.v2")
    (versioned / "tokenizer.json").write_text("{")
    torn = make_learner(model, "kl.coef=0.1", f"reference.path={versioned}")
    with pytest.raises(DataError, match=rf"^reference\.path {versioned}: its tokenizer cannot be loaded: "):
        setup.load_reference(torn.recipe, torn.trained.model, tokenizer)
    recipe = make_learner(model, *OWN, f"critic.path={other}").recipe
    with pytest.raises(DataError, match=rf"^critic\.path {other}: its tokenizer is not the policy's"):
        critics.load(recipe, learner.trained.model, tokenizer)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["advantage.kind=gae"], "advantage.kind gae needs the values of a critic: critic.kind must be own or shared"),
        (["algorithm=ppo", "critic.kind=none"], "advantage.kind gae needs the values of a critic"),
        (["critic.kind=own"], "critic.kind own goes with advantage.kind: gae only.*got group; set critic.kind=none"),
        (["critic.value_clip=0.2"], "critic: value_clip want a critic: kind must be own or shared, got none"),
        (
            ["algorithm=ppo", "critic.warmup_steps=1"],
            r"critic.warmup_steps must be below steps \(1\), or the policy never",
        ),
        (["algorithm=ppo", "critic.coef=0.5"], "critic: coef wants kind: shared, got own"),
        (["algorithm=ppo", "critic.kind=shared", "critic.path=rm"], "critic: path want kind: own, got shared"),
        (["reference.path=teacher"], "set kl.coef above 0, or leave reference out"),
        (["ptx.coef=0.5"], r"ptx\.data"),
    ],
)
def test_settings_that_do_not_go_together_are_told_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as error:
        from_overrides("rl", ["model.path=m", "data.path=d", "steps=1", *overrides])
    assert "\n" not in str(error.value)
