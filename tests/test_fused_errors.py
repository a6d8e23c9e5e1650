"""Bad input to the fused loss: the error names the argument, its rule and its value, or the token in the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from fused_cases import Problem, fused, make_problem
from torch import Tensor

from rlvr.errors import NonFiniteError
from rlvr.fused import fused_cross_entropy, fused_logprobs, fused_policy_loss
from rlvr.loss_settings import Correction, Kl, Loss

PROBLEM = make_problem(5, B=3, T=5, V=11, D=4, K=3, has_bias=True)
BATCH, N = PROBLEM.batch, len(PROBLEM.ids_N)
SUPPORT = PROBLEM.support_NK
assert SUPPORT is not None
DOUBLE = torch.float64
NUMBERS: list[tuple[str, Any, str]] = [
    *(
        (name, value, rf"{name} must be positive and finite, got {value}")
        for name in ("temperature", "softcap")
        for value in (0.0, -0.5, math.nan, math.inf)
    ),
    *(("scale", value, rf"scale must be finite and not 0, got {value}") for value in (0.0, math.nan, -math.inf)),
    ("tile_rows", 0, "tile_rows must be at least 1, got 0"),
    ("tile_rows", -4, "tile_rows must be at least 1, got -4"),
]
Function = Callable[..., object]


def policy_loss_of(**changed: Any) -> object:
    given = {"hidden_ND": PROBLEM.hidden_ND, "weight_VD": PROBLEM.weight_VD, "batch": BATCH, "bias": PROBLEM.bias_V}
    given |= {"loss": Loss(), "support_NK": SUPPORT}
    return fused_policy_loss(**{**given, **changed})


def logprobs_of(**changed: Any) -> object:
    given = {"hidden_ND": PROBLEM.hidden_ND, "weight_VD": PROBLEM.weight_VD, "ids_N": PROBLEM.ids_N}
    return fused_logprobs(**{**given, "bias": PROBLEM.bias_V, "support_NK": SUPPORT, **changed})


def cross_entropy_of(**changed: Any) -> object:
    given = {"hidden_ND": PROBLEM.hidden_ND, "weight_VD": PROBLEM.weight_VD, "ids_N": PROBLEM.ids_N}
    return fused_cross_entropy(**{**given, "bias": PROBLEM.bias_V, **changed})


def with_id(value: int) -> Tensor:
    ids_N = PROBLEM.ids_N.clone()
    ids_N[2] = value
    return ids_N


@pytest.mark.parametrize("function", [policy_loss_of, logprobs_of, cross_entropy_of])
@pytest.mark.parametrize(
    ("changed", "text"),
    [
        *(({name: value}, text) for name, value, text in NUMBERS),
        (
            {"hidden_ND": PROBLEM.hidden_ND[1:]},
            rf"hidden_ND must have one row per trained token and the columns of weight_VD \({N}, 4\), got \({N - 1},",
        ),
        ({"hidden_ND": PROBLEM.hidden_ND[:, :3]}, rf"hidden_ND must .* \({N}, 4\), got \({N}, 3\)"),
        ({"hidden_ND": PROBLEM.hidden_BTD}, r"hidden_ND must .*, got \(3, 5, 4\)"),
        ({"weight_VD": PROBLEM.weight_VD.t()}, rf"hidden_ND must .* \({N}, 11\), got \({N}, 4\)"),
        ({"weight_VD": PROBLEM.weight_VD[0]}, r"weight_VD must have shape \[V, D\], got \(4,\)"),
        ({"bias": torch.zeros(4, dtype=DOUBLE)}, r"bias must have shape \(11,\), got \(4,\)"),
        ({"bias": torch.zeros(1, 11, dtype=DOUBLE)}, r"bias must have shape \(11,\), got \(1, 11\)"),
        (
            {"weight_VD": PROBLEM.weight_VD.float()},
            r"hidden_ND and weight_VD must have one floating dtype, got torch\.float64 and torch\.float32",
        ),
        (
            {"hidden_ND": PROBLEM.hidden_ND.long(), "weight_VD": PROBLEM.weight_VD.long()},
            r"hidden_ND and weight_VD must have one floating dtype, got torch\.int64 and torch\.int64",
        ),
    ],
)
def test_a_mistake_is_named_with_its_rule_and_its_value(function: Function, changed: dict[str, Any], text: str) -> None:
    takes_temperature = function is not cross_entropy_of
    if "temperature" in changed and not takes_temperature:
        with pytest.raises(TypeError, match="unexpected keyword argument 'temperature'"):
            function(**changed)
        return
    with pytest.raises(ValueError, match=text):
        function(**changed)


@pytest.mark.parametrize("function", [logprobs_of, cross_entropy_of])
@pytest.mark.parametrize(
    ("ids_N", "text"),
    [
        (with_id(11), r"ids_N must be within the vocabulary \(0 to 10\), got 11 at token 2"),
        (with_id(-100), r"ids_N must be within the vocabulary \(0 to 10\), got -100 at token 2"),
        (PROBLEM.ids_N.int(), rf"ids_N must be int64 \[N\] with N >= 1, got torch\.int32 \({N},\)"),
        (PROBLEM.ids_N[None], rf"ids_N must be int64 \[N\] with N >= 1, got torch\.int64 \(1, {N}\)"),
        (PROBLEM.ids_N[:0], r"ids_N must be int64 \[N\] with N >= 1, got torch\.int64 \(0,\)"),
    ],
)
def test_ids_that_cannot_be_scored_are_named(function: Function, ids_N: Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        function(ids_N=ids_N)


def test_ids_of_a_batch_must_be_in_the_vocabulary_where_they_are_trained_and_only_there() -> None:
    ids_BT = BATCH.ids_BT.clone()
    ids_BT[~BATCH.mask_BT] = 999
    assert fused(replace(PROBLEM, batch=replace(BATCH, ids_BT=ids_BT)), Loss(), Kl()).loss.isfinite()
    row, column = BATCH.mask_BT.nonzero()[1].tolist()
    ids_BT[row, column] = 11
    with pytest.raises(ValueError, match=r"ids_N must be within the vocabulary \(0 to 10\), got 11 at token 1"):
        policy_loss_of(batch=replace(BATCH, ids_BT=ids_BT))


@pytest.mark.parametrize("function", [policy_loss_of, logprobs_of])
@pytest.mark.parametrize(
    ("support_NK", "text"),
    [
        (SUPPORT[1:], rf"support_NK must be int64 \[{N}, K\], got torch\.int64 \({N - 1}, 3\)"),
        (SUPPORT[:, 0], rf"support_NK must be int64 \[{N}, K\], got torch\.int64 \({N},\)"),
        (SUPPORT.int(), rf"support_NK must be int64 \[{N}, K\], got torch\.int32 \({N}, 3\)"),
        (torch.full_like(SUPPORT, 11), r"support_NK must hold ids of the vocabulary \(0 to 10\) or -1"),
        (torch.full_like(SUPPORT, -2), r"support_NK must hold ids of the vocabulary \(0 to 10\) or -1"),
        (
            torch.where(torch.arange(N)[:, None] == 2, -1, SUPPORT),
            rf"support_NK must hold each token's own id, got none of {int(PROBLEM.ids_N[2])} at token 2",
        ),
    ],
)
def test_a_support_must_be_ids_of_which_one_is_the_tokens_own(
    function: Function, support_NK: Tensor, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        function(support_NK=support_NK)


@pytest.mark.parametrize("function", [policy_loss_of, cross_entropy_of])
@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_factor_that_no_gradient_can_be_made_for_is_refused(function: Function, value: float) -> None:
    with pytest.raises(ValueError, match=f"expected_grad must be finite and not 0, got {value}"):
        function(expected_grad=value)


@pytest.mark.parametrize(
    ("batch", "loss", "kl", "text"),
    [
        (replace(BATCH, mask_BT=BATCH.mask_BT & False), Loss(), Kl(), "mask_BT must be True somewhere, got none of"),
        (BATCH.rows(torch.zeros(0, dtype=torch.int64)), Loss(), Kl(), r"mask_BT must be True somewhere, .* \(0, 0\)"),
        (replace(BATCH, adv_BT=None), Loss(), Kl(), r"batch\.adv_BT must be set for policy_loss, got None"),
        (replace(BATCH, ref_logp_BT=None), Loss(), Kl(coef=0.1), r"batch\.ref_logp_BT must be set for kl\.coef > 0"),
        (
            replace(BATCH, old_logp_BT=torch.zeros(3, 4)),
            Loss(),
            Kl(),
            r"batch\.old_logp_BT must have the shape of mask_BT \(3, 5\), got \(3, 4\)",
        ),
    ],
)
def test_a_batch_that_lacks_something_is_refused_as_by_the_dense_loss(
    batch: Any, loss: Loss, kl: Kl, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        policy_loss_of(batch=batch, loss=loss, kl=kl)


# --- numbers that are not finite -------------------------------------------------------------------------------------

BAD = [math.nan, math.inf, -math.inf]


def changed_at(value: Tensor, place: tuple[int, ...], bad: float) -> Tensor:
    value = value.clone()
    value[place] = bad
    return value


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["adv_BT", "old_logp_BT", "ref_logp_BT", "sampler_logp_BT"])
def test_a_column_of_the_batch_that_is_not_finite_is_named_by_row_and_column(name: str, bad: float) -> None:
    for row, column in BATCH.mask_BT.nonzero().tolist():
        batch = replace(BATCH, **{name: changed_at(getattr(BATCH, name), (row, column), bad)})
        with pytest.raises(NonFiniteError) as error:
            policy_loss_of(batch=batch, loss=Loss(correction=Correction()), kl=Kl(coef=0.1))
        wanted = f"batch.{name} must be finite at trained tokens, got {bad:g} in row {row}, column {column}"
        assert str(error.value) == wanted


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("trained", [False, True])
def test_a_hidden_state_that_is_not_finite_is_named_by_row_and_column_of_its_token(
    bad: float, softcap: float | None, trained: bool
) -> None:
    problem = replace(make_problem(5, softcap=softcap), weight_VD=PROBLEM.weight_VD.clone().requires_grad_(trained))
    for row, column in problem.batch.predicts_BT.nonzero().tolist():
        changed = replace(problem, hidden_BTD=changed_at(problem.hidden_BTD, (row, column, 1), bad))
        for tile_rows in (None, 2):
            with pytest.raises(NonFiniteError, match=rf"must be finite .* in row {row}, column {column + 1}$"):
                fused(changed, Loss(), Kl(coef=0.1), tile_rows=tile_rows)


def test_the_row_that_is_named_is_the_batchs_own_also_where_rows_before_it_were_dropped() -> None:
    problem = make_problem(5, B=4, T=6)
    assert problem.batch.adv_BT is not None
    places = problem.batch.mask_BT.nonzero()
    last_row, last_column = places[-1].tolist()
    assert last_row > 0
    adv_BT = torch.zeros_like(problem.batch.adv_BT)
    adv_BT[last_row] = 1.0
    hidden_BTD = changed_at(problem.hidden_BTD, (last_row, last_column - 1, 0), math.nan)
    changed = replace(problem, hidden_BTD=hidden_BTD, batch=replace(problem.batch, adv_BT=adv_BT))
    assert int((adv_BT[problem.batch.mask_BT] != 0).sum()) < len(places)
    for loss in (Loss(), Loss(ratio="sequence")):
        with pytest.raises(NonFiniteError, match=rf"got nan in row {last_row}, column {last_column}$"):
            fused(changed, loss, Kl())


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["weight_VD", "bias_V"])
def test_a_head_that_is_not_finite_is_noticed_at_the_first_token(name: str, bad: float) -> None:
    problem: Problem = make_problem(5, has_bias=True)
    problem = replace(problem, hidden_BTD=problem.hidden_BTD.abs())
    row, column = problem.batch.mask_BT.nonzero()[0].tolist()
    changed = replace(problem, **{name: changed_at(getattr(problem, name), (7, 0)[: getattr(problem, name).ndim], bad)})
    where = "at id 7" if name == "bias_V" else f"in row {row}, column {column}"
    with pytest.raises(NonFiniteError, match=rf"must be finite.* {where}$"):
        fused(changed, Loss(), Kl(coef=0.1), entropy=True)
    # rows that were dropped are not named
    assert problem.batch.adv_BT is not None
    adv_BT = torch.where(torch.arange(3)[:, None] == row, 0.0, 1.0).expand(3, 5).double()
    later, place = problem.batch.mask_BT.nonzero()[problem.batch.mask_BT.nonzero()[:, 0] != row][0].tolist()
    without_first = replace(changed, batch=replace(problem.batch, adv_BT=adv_BT))
    where = "at id 7" if name == "bias_V" else f"in row {later}, column {place}"
    with pytest.raises(NonFiniteError, match=rf"must be finite.* {where}$"):
        fused(without_first, Loss(), Kl(), entropy=True)
    with pytest.raises(NonFiniteError, match="must be finite"):
        fused_logprobs(changed.hidden_ND, changed.weight_VD, changed.ids_N, bias=changed.bias_V)


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_an_infinite_weight_behind_a_soft_cap_is_noticed_by_its_gradient(bad: float) -> None:
    problem = make_problem(5, softcap=30.0)
    problem = replace(problem, hidden_BTD=problem.hidden_BTD.abs().requires_grad_(True))
    changed = replace(problem, weight_VD=changed_at(problem.weight_VD.detach(), (7, 0), bad))
    for trained in (False, True):
        weight_VD = changed.weight_VD.clone().requires_grad_(trained)
        with pytest.raises(NonFiniteError, match="weight_VD must be"):
            fused(replace(changed, weight_VD=weight_VD), Loss(), Kl())
