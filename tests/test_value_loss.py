"""The critic's loss: by hand, against the oracle, and what must not change it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import AGGREGATES, MAX_TOKENS, Case, assert_equal, cases, gradients
from loss_oracle import value_oracle
from torch import Tensor

from rlvr.batching import Batch
from rlvr.loss_settings import Loss
from rlvr.losses import count, divisor, value_loss


def make(returns: list[float], old: list[float] | None = None) -> Batch:
    size = len(returns)
    batch = Batch.of(torch.zeros(1, size, dtype=torch.int64), torch.ones(1, size), adv=torch.zeros(1))
    as_row = lambda x: torch.tensor([x], dtype=torch.float64)  # noqa: E731
    return replace(batch, returns_BT=as_row(returns), values_BT=None if old is None else as_row(old))


def run(values: list[float], batch: Batch, clip: float | None = None) -> tuple[float, list[float], dict[str, float]]:
    values_BT = torch.tensor([values], dtype=torch.float64, requires_grad=True)
    sums = value_loss(values_BT, batch, clip)
    (gradient_BT,) = torch.autograd.grad(sums.loss, values_BT)
    return float(sums.loss.detach()), gradient_BT[0].tolist(), sums.metrics


def test_without_a_clip_it_is_half_the_square() -> None:
    assert run([1.0, -2.0], make([0.0, 1.0])) == (0.5 + 4.5, [1.0, -3.0], {})


def test_the_clip_keeps_the_worse_of_two_and_its_gradient() -> None:
    # V_old = 0, clip 0.5:
    # V = 1 towards R = 2: (1 - 2)^2 = 1 against (0.5 - 2)^2 = 2.25, clipped: no gradient
    # V = 1 beyond R = 0: 1 against 0.25: its own, gradient 1
    # V = 0.25 is within: (0.25 - 1)^2 = 0.5625, gradient -0.75
    # V = -1 towards R = -2: as the first
    value, gradient, metrics = run([1.0, 1.0, 0.25, -1.0], make([2.0, 0.0, 1.0, -2.0], [0.0] * 4), 0.5)
    assert value == pytest.approx((2.25 + 1 + 0.5625 + 2.25) / 2, rel=1e-14)
    assert gradient == pytest.approx([0, 1, -0.75, 0], abs=1e-14)
    assert metrics == {"vf_clip_ratio": 2}


def with_critic(case: Case, apart: float) -> Case:
    """Its log-probabilities are the values."""
    rng = torch.Generator().manual_seed(int(apart * 100))
    old_BT, returns_BT = (
        case.logp_BT + apart * torch.randn(case.logp_BT.shape, generator=rng, dtype=torch.float64) for _ in range(2)
    )
    return replace(case, batch=replace(case.batch, values_BT=old_BT, returns_BT=returns_BT))


def mean(at: Case, clip: float | None, aggregate: Any) -> Tensor:
    loss = Loss(aggregate=aggregate)
    by = divisor(at.batch.counts or count(at.batch, loss), loss, MAX_TOKENS)
    return value_loss(at.logp_BT, at.batch, clip, aggregate).loss / by


@settings(deadline=None, max_examples=150)
@given(cases(), st.sampled_from([None, 0.05, 0.3]), st.sampled_from(AGGREGATES), st.sampled_from([0.1, 0.5]))
def test_value_and_gradient_are_those_of_the_oracle(case: Case, clip: float | None, aggregate: Any, by: float) -> None:
    case = with_critic(case, by)
    theirs = gradients(case, lambda at: value_oracle(at.logp_BT, at.batch, clip, Loss(aggregate=aggregate), MAX_TOKENS))
    assert_equal(gradients(case, lambda at: mean(at, clip, aggregate)), theirs, 1e-12, (clip, aggregate))


@settings(deadline=None, max_examples=100)
@given(cases(most_rows=5), st.sampled_from([None, 0.3]), st.sampled_from(AGGREGATES), st.data())
def test_no_split_into_micro_batches_changes_it(
    case: Case, clip: float | None, aggregate: Any, data: st.DataObject
) -> None:
    case = with_critic(case, 0.5)
    case = replace(case, batch=replace(case.batch, counts=count(case.batch, Loss(aggregate=aggregate))))
    B = len(case.logp_BT)
    owner_B = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=B, max_size=B)))

    def in_parts(at: Case) -> Tensor:
        parts = [at.rows((owner_B == k).nonzero()[:, 0]) for k in set(owner_B.tolist())]
        return sum((mean(part, clip, aggregate) for part in parts if part.batch.num_tokens), torch.zeros(()))

    assert_equal(gradients(case, in_parts), gradients(case, lambda at: mean(at, clip, aggregate)), 1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    batch = make([2.0, 0.0, 1.0, -2.0], [0.0] * 4)
    values_BT = torch.tensor([[1.0, 1.0, 0.25, -1.0]], dtype=torch.float64, requires_grad=True)
    for clip in (None, 0.5):
        assert torch.autograd.gradcheck(lambda v, clip=clip: value_loss(v, batch, clip).loss, (values_BT,), eps=1e-6)


def test_sums_say_how_many_tokens_and_sequences_they_are_of() -> None:
    batch = replace(make([2.0, 0.0, 1.0]), mask_BT=torch.tensor([[False, True, True]]))
    sums = value_loss(torch.zeros(1, 3), batch)
    assert (sums.tokens, sums.sequences, sums.scored) == (2, 1, 2)
