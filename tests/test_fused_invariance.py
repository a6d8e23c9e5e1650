"""What must not change the fused loss: rows without gradient, which cost nothing, splits, padding, packing, order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fused_cases import NAMES, Gradients, Problem, assert_equal, dense, fused, gradients, make_problem, problems
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import settings_of_loss
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rlvr.batching import Batch
from rlvr.errors import NonFiniteError
from rlvr.fused import fused_cross_entropy, fused_logprobs
from rlvr.loss_settings import Correction, CorrectionMask, Kl, Loss
from rlvr.losses import carries_gradient, count, flatten
from rlvr.packing import pack

Setting = tuple[Loss, Kl]
DROPPING = settings_of_loss().map(lambda setting: (setting[0].model_copy(update={"entropy_coef": 0.0}), Kl()))
"""Settings in which tokens without advantage carry no gradient, but for those of opsm, NLL and whole rows."""


def with_counts(problem: Problem, loss: Loss) -> Problem:
    return replace(problem, batch=replace(problem.batch, counts=count(problem.batch, loss)))


def plain_problem(adv: list[float], T: int = 9, V: int = 32, D: int = 8, **settings: Any) -> Problem:
    """Rows of T - 1 trained tokens each, with these advantages."""
    problem = make_problem(1, B=len(adv), T=T, V=V, D=D, has_old=False, **settings)
    mask_BT = torch.ones_like(problem.batch.mask_BT)
    mask_BT[:, 0] = False
    adv_BT = torch.tensor(adv, dtype=torch.float64)[:, None] * mask_BT
    like = torch.full(mask_BT.shape, -2.0, dtype=torch.float64) * mask_BT
    filled = {"mask_BT": mask_BT, "adv_BT": adv_BT, "sampler_logp_BT": like, "ref_logp_BT": like}
    return replace(problem, batch=replace(problem.batch, **filled, length_B=torch.full((len(adv),), T)))


def products(problem: Problem, loss: Loss, trained: tuple[str, ...] = NAMES, **how: Any) -> float:
    """Matrix products of all trained tokens x hidden x vocabulary that forward and backward take."""
    with FlopCounterMode(display=False) as counter:
        gradients(problem, lambda at: fused(at, loss, Kl(), **how).loss, trained)
    return counter.get_total_flops() / (2 * len(problem.ids_N) * problem.weight_VD.numel())


# --- rows without gradient -------------------------------------------------------------------------------------------


def test_a_trained_head_costs_three_products_and_a_frozen_one_two() -> None:
    problem = plain_problem([1.0, -1.0, 0.5, 2.0])
    assert products(problem, Loss()) == 3
    assert products(problem, Loss(), ("hidden_BTD",)) == 2
    assert products(problem, Loss(), ("weight_VD",)) == 2
    assert products(problem, Loss(entropy_coef=0.1)) == 3
    assert products(problem, Loss(entropy_coef=0.1), ("hidden_BTD",)) == 2
    assert products(problem, Loss(), tile_rows=5) == 3
    # rows of 8: where a loss looks at whole rows and one fits into the tile, nothing is computed twice
    assert products(problem, Loss(ratio="sequence"), tile_rows=8) == 3
    assert products(problem, Loss(ratio="sequence"), tile_rows=20) == 3
    assert products(problem, Loss(ratio="sequence"), tile_rows=7) == 4
    assert products(problem, Loss(ratio="sequence"), ("hidden_BTD",), tile_rows=7) == 2


def test_log_probabilities_cost_a_frozen_head_two_products_and_a_trained_one_four() -> None:
    problem = plain_problem([1.0, 1.0])

    def cost(trained: tuple[str, ...], of: Any) -> float:
        with FlopCounterMode(display=False) as counter:
            gradients(problem, lambda at: of(fused_logprobs(at.hidden_ND, at.weight_VD, at.ids_N)), trained)
        return counter.get_total_flops() / (2 * len(problem.ids_N) * problem.weight_VD.numel())

    assert cost(("hidden_BTD",), lambda found: found[0].sum()) == 2
    assert cost(NAMES, lambda found: found[0].sum()) == 4
    assert cost(("hidden_BTD",), lambda found: found[1].sum()) == 4
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        fused_logprobs(problem.hidden_ND, problem.weight_VD, problem.ids_N)
    assert counter.get_total_flops() == 2 * len(problem.ids_N) * problem.weight_VD.numel()


def test_rows_without_advantage_cost_nothing_and_change_nothing() -> None:
    problem = plain_problem([1.0, 0.0, -2.0, 0.0, 0.0, 3.0], V=64)
    half = products(plain_problem([1.0] * 6, V=64), Loss()) / 2
    assert products(problem, Loss()) == half
    assert products(problem, Loss(ratio="sequence", aggregate="token"), tile_rows=16) == half
    assert products(problem, Loss(entropy_coef=0.1)) == 2 * half  # whose entropy counts for every token
    sums = fused(problem, Loss(aggregate="token"), Kl())
    assert (sums.scored, sums.tokens, sums.sequences) == (24, 48, 6)
    found = gradients(problem, lambda at: fused(at, Loss(aggregate="token"), Kl()).loss)
    assert_equal(found, gradients(problem, lambda at: dense(at, Loss(aggregate="token"), Kl()).loss), 1e-13)
    assert not found["hidden_BTD"][[1, 3, 4]].any() and found["hidden_BTD"][[0, 2, 5], :-1].all()


def test_single_tokens_are_dropped_where_no_other_token_of_the_row_needs_them() -> None:
    problem = plain_problem([1.0, 1.0])
    adv_BT = problem.batch.adv_BT
    assert adv_BT is not None
    adv_BT = adv_BT.clone()
    adv_BT[0, 3:6] = 0
    problem = replace(problem, batch=replace(problem.batch, adv_BT=adv_BT))
    corrected = replace(problem, batch=replace(problem.batch, old_logp_BT=problem.batch.sampler_logp_BT))
    mask = Correction(weight=None, mask=CorrectionMask(level="sequence"))
    for loss, at, scored in (
        (Loss(), problem, 13),
        (Loss(surrogate="cispo"), problem, 13),
        (Loss(ratio="sequence"), problem, 16),
        (Loss(surrogate="gmpo"), problem, 16),
        (Loss(opsm=0.1), problem, 16),
        (Loss(correction=mask), corrected, 13),  # the old policy is known, and so the correction
        (Loss(correction=mask), problem, 16),
        (Loss(entropy_coef=0.1), problem, 16),
    ):
        assert fused(at, loss, Kl()).scored == scored, loss
        found = gradients(at, lambda at, loss=loss: fused(at, loss, Kl(), tile_rows=4).loss)
        assert_equal(found, gradients(at, lambda at, loss=loss: dense(at, loss, Kl()).loss), 1e-12, loss)


@settings(deadline=None, max_examples=150)
@given(problems(), DROPPING, st.sampled_from([1, 2, None]))
def test_dropped_tokens_change_neither_value_nor_gradient(
    problem: Problem, setting: Setting, tile_rows: int | None
) -> None:
    ours = gradients(problem, lambda at: fused(at, *setting, tile_rows=tile_rows).loss)
    assert_equal(ours, gradients(problem, lambda at: dense(at, *setting).loss), 1e-11, setting)


@settings(deadline=None, max_examples=80)
@given(problems(), DROPPING, st.sampled_from([1e3, float("nan"), float("inf")]))
def test_what_stands_in_the_hidden_state_of_a_dropped_token_changes_nothing(
    problem: Problem, setting: Setting, junk: float
) -> None:
    carries_N = carries_gradient(flatten(problem.batch, *setting), *setting)
    dropped_BT = problem.batch.predicts_BT.masked_scatter(problem.batch.predicts_BT, ~carries_N)
    assert int(dropped_BT.sum()) == int((~carries_N).sum())
    changed = replace(problem, hidden_BTD=torch.where(dropped_BT[..., None], junk, problem.hidden_BTD))
    clean, found = (gradients(at, lambda at: fused(at, *setting).loss) for at in (problem, changed))
    for name, value in clean.items():
        assert found[name].equal(value), name


@pytest.mark.parametrize("trained", [NAMES, ("weight_VD",), ("bias_V",), ("hidden_BTD",)])
def test_where_every_row_is_dropped_the_loss_is_0_and_backward_gives_zeros(trained: tuple[str, ...]) -> None:
    problem = plain_problem([0.0, 0.0], has_bias=True)
    leaf = {name: getattr(problem, name).clone().requires_grad_(name in trained) for name in NAMES}
    sums = fused(replace(problem, **leaf), Loss(), Kl())
    assert (float(sums.loss.detach()), sums.scored, sums.tokens, sums.metrics) == (0.0, 0, 16, {})
    assert sums.logp_BT is not None and not sums.logp_BT.any()
    assert sums.scored_BT is not None and not sums.scored_BT.any()
    assert products(problem, Loss(), trained) == 0
    sums.loss.backward()
    for name in trained:
        assert leaf[name].grad is not None and not leaf[name].grad.any(), name  # data parallelism waits for each


# --- splits, padding, packing, order ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(problems(most_rows=5), settings_of_loss(), st.data())
def test_no_split_into_micro_batches_changes_value_or_gradient(
    problem: Problem, setting: Setting, data: st.DataObject
) -> None:
    problem = with_counts(problem, setting[0])
    B = len(problem.batch.mask_BT)
    owner_B = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=B, max_size=B)))

    def in_parts(at: Problem) -> Tensor:
        parts = [at.rows((owner_B == k).nonzero()[:, 0]) for k in set(owner_B.tolist())]
        losses = [fused(part, *setting).loss for part in parts if part.batch.num_tokens]
        return torch.stack(losses).sum()

    assert_equal(gradients(problem, in_parts), gradients(problem, lambda at: fused(at, *setting).loss), 1e-12, setting)


@settings(deadline=None, max_examples=60)
@given(problems(most_rows=5), settings_of_loss(), st.randoms(use_true_random=False), st.integers(1, 7))
def test_the_order_of_rows_and_the_size_of_tiles_change_nothing(
    problem: Problem, setting: Setting, rng: Any, tile_rows: int
) -> None:
    order = list(range(len(problem.batch.mask_BT)))
    rng.shuffle(order)
    index = torch.tensor(order)
    whole = gradients(problem, lambda at: fused(at, *setting).loss)
    moved = gradients(problem, lambda at: fused(at.rows(index), *setting, tile_rows=tile_rows).loss)
    assert_equal(moved, whole, 1e-12, setting)


def wider(problem: Problem, before: int, junk: float) -> Problem:
    """With junk on both sides and in a further row, where nothing is trained."""

    def pad(value: Tensor, fill: float) -> Tensor:
        trailing = (0, 0) * (value.ndim - 2)
        return torch.nn.functional.pad(value, (*trailing, before, 2, 0, 1), value=fill)

    batch = problem.batch
    columns = {
        name: pad(value, False if value.dtype == torch.bool else 0 if value.dtype == torch.int64 else junk)
        for name, value in batch.tensors().items()
        if name.endswith("_BT")
    }
    per_row = {name: torch.cat([v, v[:1] * 0]) for name, v in batch.tensors().items() if name.endswith("_B")}
    support_BTK = None if problem.support_BTK is None else pad(problem.support_BTK, 0)
    padded = replace(batch, **columns, **per_row)
    return replace(problem, hidden_BTD=pad(problem.hidden_BTD, junk), batch=padded, support_BTK=support_BTK)


@settings(deadline=None, max_examples=60)
@given(problems(), settings_of_loss(), st.integers(0, 4), st.sampled_from([0.0, 9.0, float("nan"), float("inf")]))
def test_padding_changes_nothing_whatever_stands_in_it(
    problem: Problem, setting: Setting, before: int, junk: float
) -> None:
    B, T = problem.batch.mask_BT.shape
    whole = gradients(problem, lambda at: fused(at, *setting).loss)
    padded = wider(problem, before, junk)
    found = gradients(padded, lambda at: fused(at, *setting).loss)
    inside_BTD = found["hidden_BTD"][:B, before : before + T]
    assert not found["hidden_BTD"][~padded.batch.predicts_BT].any()
    assert_equal({**found, "hidden_BTD": inside_BTD}, whole, 1e-13, setting)


@settings(deadline=None, max_examples=40)
@given(problems(most_rows=5), settings_of_loss())
def test_packed_rows_have_the_loss_of_padded_ones(problem: Problem, setting: Setting) -> None:
    batch = problem.batch
    place_BT = pack(batch.ids_BT, batch.length_B).place_BT
    real_BT = torch.arange(place_BT.shape[1]) < batch.length_B[:, None]
    packed_LD = torch.full((int(place_BT.max()) + 1, problem.hidden_BTD.shape[-1]), -3.0, dtype=torch.float64)
    packed_LD[place_BT[real_BT]] = problem.hidden_BTD[real_BT]

    def unpacked(at: Problem) -> Tensor:  # hidden_BTD holds the packed ones here
        return fused(replace(at, hidden_BTD=at.hidden_BTD[place_BT]), *setting).loss

    found = gradients(replace(problem, hidden_BTD=packed_LD), unpacked)
    found["hidden_BTD"] = torch.where(real_BT[..., None], found["hidden_BTD"][place_BT], 0.0)
    assert_equal(found, gradients(problem, lambda at: fused(at, *setting).loss), 1e-13, setting)


def test_ranks_that_average_their_gradients_have_that_of_the_whole() -> None:
    loss, kl = Loss(ratio="sequence", entropy_coef=0.1, aggregate="prompt"), Kl(coef=0.1)
    problem = with_counts(make_problem(9, B=6, T=7, has_bias=True), loss)
    whole = gradients(problem, lambda at: fused(at, loss, kl).loss)
    ranks = [torch.tensor(rows) for rows in ([5, 0], [1], [4, 2, 3])]
    each: list[Gradients] = [gradients(problem, lambda at, r=r: fused(at.rows(r), loss, kl).loss * 3) for r in ranks]
    mean = {name: torch.stack([of[name] for of in each]).mean(dim=0) for name in whole}
    assert_equal(mean, whole, 1e-12)


def test_of_one_token_in_one_row_and_of_a_vocabulary_of_one_nothing_breaks() -> None:
    batch = Batch.of(torch.tensor([[0, 0]]), torch.tensor([[False, True]]), adv=torch.ones(1))
    hidden_ND = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    weight_VD = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    problem = Problem(hidden_BTD=torch.stack([hidden_ND, hidden_ND], dim=1), weight_VD=weight_VD, batch=batch)
    sums = fused(problem, Loss(entropy_coef=0.1), Kl())
    sums.loss.backward()
    assert sums.logp_BT is not None and sums.logp_BT.tolist() == [[0.0, 0.0]]
    assert sums.metrics["entropy"] == 0
    assert hidden_ND.grad is not None and not hidden_ND.grad.any()
    assert weight_VD.grad is not None and not weight_VD.grad.any()
    total, right_N = fused_cross_entropy(hidden_ND, weight_VD, torch.tensor([0]))
    assert (float(total.detach()), right_N.tolist()) == (0.0, [True])


def test_a_number_that_is_not_finite_is_found_in_what_is_kept_alone() -> None:
    problem = plain_problem([0.0, 1.0])
    for row in (0, 1):
        hidden_BTD = problem.hidden_BTD.clone()
        hidden_BTD[row, 2, 3] = torch.nan
        changed = replace(problem, hidden_BTD=hidden_BTD)
        if row == 0:
            assert fused(changed, Loss(), Kl()).loss.isfinite()
        else:
            with pytest.raises(NonFiniteError, match=r"row 1, column 3$"):
                fused(changed, Loss(), Kl())
