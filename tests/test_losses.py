"""The loss against a plain loop over tokens, in float64: value, gradient, metrics, and independence of the split."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvr.batching import Batch
from rlvr.losses import MAX_LOG_RATIO, divisor, kl_estimate, policy_loss
from rlvr.recipe import Clip, Kl, Loss

AGGREGATES = ("token", "sequence", "constant")
MAX_TOKENS = 7


def make(mask: list[list[int]], **columns: list[list[float]]) -> Batch:
    mask_BT = torch.tensor(mask, dtype=torch.bool)
    shape = mask_BT.shape
    tensors: dict[str, Any] = {name: torch.tensor(value, dtype=torch.float64) for name, value in columns.items()}
    return Batch(
        ids_BT=torch.zeros(shape, dtype=torch.int64),
        mask_BT=mask_BT,
        length_B=torch.full((shape[0],), shape[1]),
        group_B=torch.zeros(shape[0], dtype=torch.int64),
        reward_B=torch.zeros(shape[0], dtype=torch.float64),
        sampler_logp_BT=torch.zeros(shape, dtype=torch.float64),
        **tensors,
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Batch]:
    """(logp_BT, batch) with ragged masks, holes in them, and policies up to a few nats apart."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    B, T = draw(st.integers(1, 5)), draw(st.integers(2, 7))
    apart = draw(st.sampled_from([0.0, 0.05, 0.5, 3.0]))
    mask_BT = torch.rand(B, T, generator=rng) < 0.6
    mask_BT[:, 0] = False
    mask_BT[0, 1] = True  # at least one

    def draw_BT(scale: float) -> Tensor:
        return torch.where(mask_BT, torch.randn(B, T, generator=rng, dtype=torch.float64) * scale, 0.0)

    logp_BT = draw_BT(2.0)
    batch = make(
        mask_BT.tolist(),
        adv_BT=draw_BT(1.0).tolist(),
        old_logp_BT=(logp_BT + draw_BT(apart)).tolist(),
        ref_logp_BT=(logp_BT + draw_BT(apart)).tolist(),
    )
    return logp_BT, batch


losses = st.builds(
    Loss,
    ratio=st.sampled_from(["token", "sequence"]),
    aggregate=st.sampled_from(AGGREGATES),
    clip=st.builds(Clip, low=st.sampled_from([0.01, 0.2]), high=st.sampled_from([0.02, 0.3])),
)
kls = st.builds(Kl, coef=st.sampled_from([0.0, 0.1]), kind=st.sampled_from(["k2", "k3", None]))


def plain(logp_BT: Tensor, batch: Batch, loss: Loss, kl: Kl, by: float) -> Tensor:
    """The papers' sums, one token at a time."""
    assert batch.adv_BT is not None and batch.old_logp_BT is not None and batch.ref_logp_BT is not None
    total = torch.zeros((), dtype=torch.float64)
    for b in range(len(logp_BT)):
        places = [t for t in range(logp_BT.shape[1]) if batch.mask_BT[b, t]]
        log_ratios = [logp_BT[b, t] - batch.old_logp_BT[b, t] for t in places]
        for t, log_ratio in zip(places, log_ratios, strict=True):
            logp, adv = logp_BT[b, t], batch.adv_BT[b, t]
            whole = sum(log_ratios, torch.zeros(())) / len(places)
            ratio = torch.exp(log_ratio if loss.ratio == "token" else whole)
            term = -torch.min(ratio * adv, torch.clamp(ratio, 1 - loss.clip.low, 1 + loss.clip.high) * adv)
            d = batch.ref_logp_BT[b, t] - logp
            term = term + kl.coef * {"k2": d**2 / 2, "k3": torch.exp(d) - 1 - d}[kl.kind or "k2"]
            total = total + term / (len(places) if loss.aggregate == "sequence" else 1)
    return total / by


def by(batch: Batch, loss: Loss) -> float:
    return divisor(batch.num_tokens, batch.num_sequences, loss, MAX_TOKENS)


def value_and_gradient(logp_BT: Tensor, total: Any) -> tuple[float, Tensor]:
    leaf_BT = logp_BT.clone().requires_grad_(True)
    value = total(leaf_BT)
    (gradient_BT,) = torch.autograd.grad(value, leaf_BT)
    return float(value.detach()), gradient_BT


@settings(deadline=None)
@given(cases(), losses, kls)
def test_value_and_gradient_are_those_of_the_plain_loop(case: tuple[Tensor, Batch], loss: Loss, kl: Kl) -> None:
    logp_BT, batch = case
    divide = by(batch, loss)
    ours, our_gradient = value_and_gradient(logp_BT, lambda p: policy_loss(p, batch, loss, kl).loss / divide)
    theirs, their_gradient = value_and_gradient(logp_BT, lambda p: plain(p, batch, loss, kl, divide))
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-13)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-11, atol=1e-13)


@settings(deadline=None)
@given(cases(), losses, kls, st.data())
def test_no_split_into_micro_batches_changes_value_or_gradient(
    case: tuple[Tensor, Batch], loss: Loss, kl: Kl, data: st.DataObject
) -> None:
    logp_BT, batch = case
    B, divide = len(logp_BT), by(batch, loss)
    owner = data.draw(st.lists(st.integers(0, 2), min_size=B, max_size=B))
    whole = value_and_gradient(logp_BT, lambda p: policy_loss(p, batch, loss, kl).loss / divide)

    def in_parts(p_BT: Tensor) -> Tensor:
        parts = [torch.tensor([b for b in range(B) if owner[b] == k], dtype=torch.int64) for k in set(owner)]
        return sum((policy_loss(p_BT[i], batch.rows(i), loss, kl).loss / divide for i in parts), torch.zeros(()))

    value, gradient_BT = value_and_gradient(logp_BT, in_parts)
    assert value == pytest.approx(whole[0], rel=1e-12, abs=1e-12)
    torch.testing.assert_close(gradient_BT, whole[1], rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(cases(), losses, kls, st.data())
def test_no_split_over_ranks_and_micro_batches_changes_the_gradient_of_shared_weights(
    case: tuple[Tensor, Batch], loss: Loss, kl: Kl, data: st.DataObject
) -> None:
    offset_BT, batch = case
    B, divide, ranks = len(offset_BT), by(batch, loss), data.draw(st.integers(1, 3))
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    feature_BTD = torch.randn(*offset_BT.shape, 4, generator=rng, dtype=torch.float64)
    owner_B = data.draw(st.lists(st.tuples(st.integers(0, ranks - 1), st.integers(0, 2)), min_size=B, max_size=B))

    def gradient(rows: Tensor, scale: float) -> Tensor:
        weight_D = torch.full((4,), 0.1, dtype=torch.float64, requires_grad=True)
        logp_BT = offset_BT[rows] + feature_BTD[rows] @ weight_D
        (policy_loss(logp_BT, batch.rows(rows), loss, kl).loss * scale / divide).backward()
        assert weight_D.grad is not None
        return weight_D.grad

    whole_D = gradient(torch.arange(B), 1.0)
    by_rank_D = []
    for rank in range(ranks):  # each adds up its micro-batches, and then the gradients are averaged, as DDP does
        parts = [torch.tensor([b for b in range(B) if owner_B[b] == (rank, k)]) for k in range(3)]
        mine = [gradient(part, float(ranks)) for part in parts if len(part)]
        by_rank_D.append(sum(mine, torch.zeros(4, dtype=torch.float64)))
    torch.testing.assert_close(sum(by_rank_D) / ranks, whole_D, rtol=1e-12, atol=1e-12)


def test_a_sequences_ratio_is_the_geometric_mean_of_its_tokens_and_clips_all_of_them_together() -> None:
    # token ratios 2 and 0.5 | 3 and 3, so s = 1 and 3, clip 0.2; the third token of row 0 is a tool's
    log_ratio_BT = torch.tensor([[2.0, 0.5, 9.0], [3.0, 3.0, 1.0]], dtype=torch.float64).log()
    batch = make([[1, 1, 0], [1, 1, 0]], adv_BT=[[1.5, 1.5, 0], [1.0, 1.0, 0]], old_logp_BT=[[0.0] * 3] * 2)
    loss = Loss(ratio="sequence", aggregate="sequence", clip=Clip(low=0.2, high=0.2))
    value, gradient_BT = value_and_gradient(log_ratio_BT, lambda p: policy_loss(p, batch, loss).loss)
    assert value == pytest.approx(-(1.5 + 1.2), rel=1e-14)
    # d(-s A)/dlogp_t = -s A / |o|, https://arxiv.org/abs/2507.18071 eq. 10
    assert gradient_BT.tolist() == [[pytest.approx(-0.75), pytest.approx(-0.75), 0], [0, 0, 0]]
    metrics = policy_loss(log_ratio_BT, batch, loss).metrics
    assert metrics["clip_ratio/high_mean"] == 2  # tokens: by token 3 would be


def test_clipping_ends_the_gradient_only_on_the_side_that_would_go_on() -> None:
    # ratios 1.5 and 0.5, each with a good and a bad advantage; clip 0.2 and 0.3
    log_ratio = [math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5)]
    zeros = [[0.0] * 4]
    batch = make([[1, 1, 1, 1]], adv_BT=[[2.0, -2.0, 2.0, -2.0]], old_logp_BT=zeros)
    loss = Loss(aggregate="token", clip=Clip(low=0.2, high=0.3))
    value, gradient_BT = value_and_gradient(
        torch.tensor([log_ratio], dtype=torch.float64), lambda p: policy_loss(p, batch, loss).loss
    )
    # min(3, 2.6), min(-3, -2.6), min(1, 1.6), min(-1, -1.6)
    assert value == pytest.approx(-(2.6 - 3 + 1 - 1.6), abs=1e-14)
    assert gradient_BT[0].tolist() == pytest.approx([0, 3, -1, 0], abs=1e-14)
    metrics = policy_loss(torch.tensor([log_ratio], dtype=torch.float64), batch, loss).metrics
    assert metrics == {
        "clip_ratio/low_mean": 1,
        "clip_ratio/high_mean": 1,
        "clip_ratio/region_mean": 2,
        "ratio/overflow": 0,
    }


def test_clip_metrics_count_only_trained_tokens() -> None:
    batch = make([[0, 1, 0]], adv_BT=[[1.0, 1.0, 1.0]], old_logp_BT=[[-5.0, -5.0, -5.0]])
    metrics = policy_loss(torch.zeros(1, 3, dtype=torch.float64), batch, Loss()).metrics
    assert metrics["clip_ratio/high_mean"] == 1


def test_without_an_old_policy_the_gradient_is_that_of_reinforce() -> None:
    batch = make([[0, 1, 1]], adv_BT=[[0.0, 1.5, -0.5]])
    logp_BT = torch.tensor([[0.0, -2.0, -3.0]], dtype=torch.float64)
    value, gradient_BT = value_and_gradient(logp_BT, lambda p: policy_loss(p, batch, Loss(aggregate="token")).loss)
    assert value == -1.0
    assert gradient_BT.tolist() == [[0, -1.5, 0.5]]


def test_token_mean_weighs_long_answers_more_and_sequence_mean_does_not() -> None:
    # two answers, 1 and 3 tokens, advantages +1 and -1, on policy
    batch = make([[0, 1, 0, 0], [0, 1, 1, 1]], adv_BT=[[0, 1.0, 0, 0], [0, -1.0, -1.0, -1.0]])
    logp_BT = torch.full((2, 4), -1.0, dtype=torch.float64)

    def mean(aggregate: Literal["token", "sequence", "constant"]) -> float:
        loss = Loss(aggregate=aggregate)
        return policy_loss(logp_BT, batch, loss).loss.item() / by(batch, loss)

    assert mean("token") == pytest.approx(-(1 - 3) / 4)
    assert mean("sequence") == pytest.approx(-(1 - 1) / 2)
    assert mean("constant") == pytest.approx(-(1 - 3) / (2 * MAX_TOKENS))


def test_the_divisor_counts_what_the_aggregate_averages_over() -> None:
    assert divisor(12, 5, Loss(aggregate="token"), 64) == 12
    assert divisor(12, 5, Loss(aggregate="sequence"), 64) == 5
    assert divisor(12, 5, Loss(aggregate="constant"), 64) == 320
    with pytest.raises(ValueError, match=r"aggregate='token'.* got 0"):
        divisor(0, 5, Loss(aggregate="token"), 64)


@pytest.mark.parametrize("gap", [-800.0, 800.0])
@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_a_sampler_that_disagrees_badly_keeps_the_loss_and_its_gradient_finite(gap: float, kind: Any) -> None:
    old = [[gap]]
    for adv in (-1.0, 1.0):
        batch = make([[1]], adv_BT=[[adv]], old_logp_BT=old, ref_logp_BT=old)
        total = lambda p: policy_loss(p, batch, Loss(), Kl(coef=0.1, kind=kind)).loss  # noqa: E731, B023
        value, gradient_BT = value_and_gradient(torch.zeros(1, 1, dtype=torch.float64), total)
        assert math.isfinite(value) and abs(value) <= 2 * math.exp(MAX_LOG_RATIO)
        assert torch.isfinite(gradient_BT).all()


def test_what_stands_at_untrained_places_changes_nothing() -> None:
    batch = make([[0, 1]], adv_BT=[[0, 1.0]], old_logp_BT=[[0.0, -1.0]], ref_logp_BT=[[0.0, -1.5]])
    wild = replace(
        batch,
        adv_BT=torch.tensor([[9.0, 1.0]], dtype=torch.float64),
        old_logp_BT=torch.tensor([[-700.0, -1.0]], dtype=torch.float64),
        ref_logp_BT=torch.tensor([[700.0, -1.5]], dtype=torch.float64),
    )
    logp_BT = torch.tensor([[0.0, -1.2]], dtype=torch.float64)
    for other in (batch, wild):
        value, gradient_BT = value_and_gradient(
            logp_BT, lambda p, b=other: policy_loss(p, b, Loss(), Kl(coef=0.5, kind="k3")).loss
        )
        ratio, d = math.exp(-0.2), -0.3
        assert value == pytest.approx(-ratio + 0.5 * (math.exp(d) - 1 - d), rel=1e-13)
        assert gradient_BT.tolist() == [[0, pytest.approx(-ratio + 0.5 * (1 - math.exp(d)), rel=1e-13)]]


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_tokens_whose_log_ratio_is_out_of_bounds_are_counted(ratio: Literal["token", "sequence"]) -> None:
    old = [[0.0, -50.0, -5.0, -1000.0], [0.0, 19.0, 21.0, 0.0]]
    batch = make([[1, 1, 1, 0], [1, 1, 1, 1]], adv_BT=[[1.0] * 4] * 2, old_logp_BT=old)
    sums = policy_loss(torch.zeros(2, 4, dtype=torch.float64), batch, Loss(ratio=ratio))
    assert sums.metrics["ratio/overflow"] == (2 if ratio == "token" else 0)  # means 55 / 3 and -10
    far = replace(batch, old_logp_BT=torch.tensor([[0.0, -70.0, -5.0, 0.0], [0.0] * 4], dtype=torch.float64))
    sums = policy_loss(torch.zeros(2, 4, dtype=torch.float64), far, Loss(ratio=ratio))
    assert sums.metrics["ratio/overflow"] == (1 if ratio == "token" else 3)  # a mean of 25 bounds the whole row


BAD = [math.nan, math.inf, -math.inf]


def with_value(batch: Batch, logp_BT: Tensor, name: str, place: tuple[int, int], value: float) -> tuple[Tensor, Batch]:
    """The same with one number changed, of logp_BT or of the batch's tensor of that name."""
    changed_BT = (logp_BT if name == "logp_BT" else getattr(batch, name)).clone()
    changed_BT[place] = value
    return (changed_BT, batch) if name == "logp_BT" else (logp_BT, replace(batch, **{name: changed_BT}))


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["logp_BT", "old_logp_BT", "ref_logp_BT", "adv_BT"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_what_is_not_finite_reaches_the_loss_where_it_is_trained_and_nothing_where_it_is_not(
    ratio: Literal["token", "sequence"], name: str, bad: float, sign: float
) -> None:
    place = [[-0.3, -0.2, -0.9], [-0.5, -0.1, -0.4]]
    logp_BT = torch.tensor(place, dtype=torch.float64)
    batch = make([[0, 1, 1], [0, 1, 0]], adv_BT=[[0, sign, sign]] * 2, old_logp_BT=place, ref_logp_BT=place)
    for loss in (Loss(ratio=ratio, aggregate=aggregate) for aggregate in AGGREGATES):
        for kl in (Kl(coef=0.1, kind="k2"), Kl(coef=0.1, kind="k3")):
            clean = value_and_gradient(logp_BT, lambda p, x=loss, y=kl: policy_loss(p, batch, x, y).loss)
            leaf_BT, untrained = with_value(batch, logp_BT, name, (1, 2), bad)
            value, gradient_BT = value_and_gradient(
                leaf_BT, lambda p, b=untrained, x=loss, y=kl: policy_loss(p, b, x, y).loss
            )
            assert value == clean[0]
            torch.testing.assert_close(gradient_BT, clean[1], rtol=0, atol=0)
            leaf_BT, trained = with_value(batch, logp_BT, name, (0, 2), bad)
            assert not math.isfinite(float(policy_loss(leaf_BT, trained, loss, kl).loss))


def test_a_row_without_trained_tokens_adds_nothing_and_is_not_counted() -> None:
    nan = math.nan
    both = make([[0, 1, 1], [0, 0, 0]], adv_BT=[[0, 1.0, 1.0], [nan] * 3], old_logp_BT=[[0.0] * 3, [nan] * 3])
    alone = both.rows(torch.tensor([0]))
    logp_BT = torch.tensor([[0.0, 0.1, -0.1], [nan] * 3], dtype=torch.float64)
    for loss in (Loss(ratio=r, aggregate=a) for r in ("token", "sequence") for a in AGGREGATES):
        value, gradient_BT = value_and_gradient(logp_BT, lambda p, x=loss: policy_loss(p, both, x).loss)
        assert value == float(policy_loss(logp_BT[:1], alone, loss).loss)
        assert gradient_BT[1].tolist() == [0, 0, 0]
        assert by(both, loss) == by(alone, loss)


def test_errors_name_what_is_missing() -> None:
    logp_BT = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"batch\.adv_BT must be set"):
        policy_loss(logp_BT, make([[0, 1]]), Loss())
    batch = make([[0, 1]], adv_BT=[[0.0, 1.0]])
    with pytest.raises(ValueError, match=r"logp_BT must have the batch's shape \(1, 2\), got \(1, 3\)"):
        policy_loss(torch.zeros(1, 3), batch, Loss())
    with pytest.raises(ValueError, match=r"batch\.ref_logp_BT must be set where kl\.coef > 0"):
        policy_loss(logp_BT, batch, Loss(), Kl(coef=0.1))
    with pytest.raises(ValueError, match="kind must be k1, k2 or k3, got 'k4'"):
        kl_estimate(logp_BT, logp_BT, "k4")


def test_kl_estimates_by_hand() -> None:
    logp, ref = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([-1.5], dtype=torch.float64)
    assert kl_estimate(logp, ref, "k1").item() == 0.5
    assert kl_estimate(logp, ref, "k2").item() == 0.125
    assert kl_estimate(logp, ref, "k3").item() == pytest.approx(math.exp(-0.5) - 0.5, rel=1e-14)
    assert [kl_estimate(logp, logp, kind).item() for kind in ("k1", "k2", "k3")] == [0, 0, 0]


def test_k1_and_k3_have_the_true_divergence_as_their_mean_and_only_k2_its_gradient() -> None:
    # over a small vocabulary the expectation is a sum
    torch.manual_seed(0)
    logits = torch.randn(5, dtype=torch.float64).requires_grad_(True)
    ref = torch.log_softmax(torch.randn(5, dtype=torch.float64), dim=0)
    logp = torch.log_softmax(logits, dim=0)
    p = logp.exp().detach()
    exact = (logp.exp() * (logp - ref)).sum()
    (true_gradient,) = torch.autograd.grad(exact, logits, retain_graph=True)
    means = {kind: (p * kl_estimate(logp, ref, kind)).sum() for kind in ("k1", "k2", "k3")}
    assert means["k1"].item() == pytest.approx(exact.item(), rel=1e-12)
    assert means["k3"].item() == pytest.approx(exact.item(), rel=1e-12)
    gradients = {kind: torch.autograd.grad(mean, logits, retain_graph=True)[0] for kind, mean in means.items()}
    torch.testing.assert_close(gradients["k2"], true_gradient, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradients["k1"], torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-14)
    reverse = (ref.exp() * (ref - logp)).sum()
    torch.testing.assert_close(gradients["k3"], torch.autograd.grad(reverse, logits)[0], rtol=1e-12, atol=1e-14)
