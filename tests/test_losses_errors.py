"""Bad input: the error names the argument, the rule and the value; what is not finite also by row and column."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from loss_cases import AGGREGATES, Case, gradients, make_case
from torch import Tensor

from rlvr.batching import Batch, Counts
from rlvr.errors import NonFiniteError
from rlvr.loss_settings import Correction, Kl, Loss
from rlvr.losses import correction_weights, count, divisor, policy_loss, value_loss
from rlvr.surrogates import kl_estimate

CASE = make_case(5, 3, 5, 0.3)
BATCH = replace(CASE.batch, returns_BT=CASE.logp_BT + 0.1, values_BT=CASE.logp_BT - 0.1)
SHAPE = r"\(3, 5\)"
OTHER = torch.zeros(3, 4, dtype=torch.float64)
UNTRAINED = replace(BATCH, mask_BT=torch.zeros(3, 5, dtype=torch.bool))
CORRECTED = Loss(correction=Correction())


def loss_of(batch: Batch = BATCH, loss: Loss | None = None, kl: Kl | None = None, **tensors: Any) -> Tensor:
    given = {"logp_BT": CASE.logp_BT, **tensors}
    return policy_loss(given.pop("logp_BT"), batch, loss or Loss(), kl or Kl(), **given).loss


def value_of(batch: Batch = BATCH, values_BT: Tensor = CASE.logp_BT, clip: float | None = None, **given: Any) -> Tensor:
    return value_loss(values_BT, batch, clip, **given).loss


def counts(**given: int) -> Counts:
    return Counts(**{"tokens": 0, "sequences": 0, "prompts": 0, **given}, tokens_P=torch.zeros(0, dtype=torch.int64))


MISTAKES: list[tuple[Callable[[], object], str]] = [
    # shapes
    (lambda: loss_of(logp_BT=OTHER), rf"logp_BT must have the batch's shape {SHAPE}, got \(3, 4\)"),
    (lambda: loss_of(entropy_BT=OTHER), rf"entropy_BT must have the batch's shape {SHAPE}, got \(3, 4\)"),
    *(
        (
            lambda name=name: loss_of(replace(BATCH, **{name: OTHER}), CORRECTED, Kl(coef=0.1)),
            rf"batch\.{name} must have the shape of mask_BT {SHAPE}, got \(3, 4\)",
        )
        for name in ("adv_BT", "old_logp_BT", "ref_logp_BT", "sampler_logp_BT")
    ),
    (lambda: value_of(values_BT=OTHER), rf"values_BT must have the batch's shape {SHAPE}, got \(3, 4\)"),
    *(
        (
            lambda name=name: value_of(replace(BATCH, **{name: OTHER}), clip=0.2),
            rf"batch\.{name} must have the shape of mask_BT {SHAPE}, got \(3, 4\)",
        )
        for name in ("returns_BT", "values_BT")
    ),
    (
        lambda: Batch.of(torch.zeros(2, 3), torch.ones(2, 4), adv=torch.zeros(2)),
        r"mask_BT must have the shape of ids_BT \[B, T\], got \(2, 4\) and \(2, 3\)",
    ),
    (
        lambda: Batch.of(torch.zeros(3), torch.ones(3), adv=torch.zeros(3)),
        r"mask_BT must have the shape of ids_BT \[B, T\], got \(3,\) and \(3,\)",
    ),
    (
        lambda: Batch.of(torch.zeros(2, 3), torch.ones(2, 3), adv=torch.zeros(3)),
        r"adv must have shape \(2,\) or \(2, 3\), got \(3,\)",
    ),
    *(
        (
            lambda name=name: Batch.of(
                torch.zeros(2, 3), torch.ones(2, 3), adv=torch.zeros(2), **{name: torch.zeros(3)}
            ),
            rf"{name} must have shape \(2,\), got \(3,\)",
        )
        for name in ("reward_B", "group_B")
    ),
    # nothing to train on
    (lambda: loss_of(UNTRAINED), rf"mask_BT must be True somewhere, got none of {SHAPE}"),
    (lambda: value_of(UNTRAINED), rf"mask_BT must be True somewhere, got none of {SHAPE}"),
    # what the settings read is missing
    (lambda: loss_of(replace(BATCH, adv_BT=None)), r"batch\.adv_BT must be set for policy_loss, got None"),
    (
        lambda: loss_of(replace(BATCH, ref_logp_BT=None), kl=Kl(coef=0.1)),
        r"batch\.ref_logp_BT must be set for kl\.coef > 0, got None",
    ),
    (lambda: value_of(replace(BATCH, returns_BT=None)), r"batch\.returns_BT must be set for value_loss, got None"),
    (
        lambda: value_of(replace(BATCH, values_BT=None), clip=0.2),
        r"batch\.values_BT must be set for value_loss with clip, got None",
    ),
    (
        lambda: loss_of(loss=Loss(entropy_coef=0.1)),
        r"entropy_BT must be given where loss\.entropy_coef > 0 .*, got None",
    ),
    (
        lambda: count(replace(BATCH, reward_B=BATCH.reward_B + torch.tensor([0, math.nan, 0])), Loss(positive_nll=0.1)),
        r"batch\.reward_B must be finite where loss\.positive_nll > 0, got NaN or infinity",
    ),
    # numbers
    (lambda: value_of(clip=0.0), "clip must be positive, got 0"),
    (lambda: value_of(clip=-0.2), r"clip must be positive, got -0\.2"),
    (lambda: value_of(clip=math.nan), "clip must be positive, got nan"),
    (lambda: value_of(aggregate="mean"), "aggregate"),
    (lambda: kl_estimate(OTHER, OTHER, "k4"), r"kind must be k1, k2, k3, k3\+ or abs, got 'k4'"),
    # divisors
    *(
        (
            lambda x=x: divisor(counts(), Loss(aggregate=x), 64),
            f"the divisor for aggregate='{x}' must be positive, got 0",
        )
        for x in AGGREGATES
    ),
    *(
        (
            lambda n=n: divisor(counts(tokens=9, sequences=2), Loss(aggregate="constant"), n),
            rf"max_tokens must be at least 1 for aggregate='constant', got {n}",
        )
        for n in (None, 0, -3)
    ),
]


@pytest.mark.parametrize(("mistake", "text"), MISTAKES)
def test_a_mistake_is_named_with_its_rule_and_its_value(mistake: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        mistake()


def test_an_empty_batch_is_refused() -> None:
    none = torch.zeros(0, 5)
    batch = Batch.of(none.long(), none, adv=none)
    with pytest.raises(ValueError, match=r"mask_BT must be True somewhere, got none of \(0, 5\)"):
        policy_loss(none, batch, Loss())
    with pytest.raises(ValueError, match="the divisor for aggregate='sequence' must be positive, got 0"):
        divisor(count(batch, Loss()), Loss())


def test_rewards_that_are_unknown_are_refused_also_where_the_counts_are_given() -> None:
    loss = Loss(positive_nll=0.1)
    batch = replace(BATCH, counts=count(BATCH, loss), reward_B=BATCH.reward_B * math.nan)
    with pytest.raises(ValueError, match=r"batch\.reward_B must be set for loss\.positive_nll > 0, got None"):
        loss_of(batch, loss)


@pytest.mark.parametrize("column", ["sampler_logp_BT", "reward_B"])
def test_what_another_loop_left_out_is_missed_where_the_settings_read_it(column: str) -> None:
    given = Batch.of(BATCH.ids_BT, BATCH.mask_BT, adv=torch.ones(3), old_logp_BT=CASE.logp_BT)
    assert math.isfinite(float(loss_of(given)))
    loss = {"sampler_logp_BT": CORRECTED, "reward_B": Loss(positive_nll=0.1)}[column]
    with pytest.raises((ValueError, NonFiniteError), match=rf"batch\.{column} must be set for .*, got None"):
        loss_of(given, loss)


# --- numbers that are not finite -------------------------------------------------------------------------------------

BAD = [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")]
EVERYTHING = Loss(correction=Correction(), entropy_coef=0.1, ratio="sequence"), Kl(coef=0.1, kind="k3")


def with_value(case: Case, name: str, place: tuple[int, int], value: float) -> Case:
    """The same with one number changed."""
    holder = case if name in ("logp_BT", "entropy_BT") else case.batch
    changed_BT = getattr(holder, name).clone()
    changed_BT[place] = value
    if holder is case:
        return replace(case, **{name: changed_BT})
    return replace(case, batch=replace(case.batch, **{name: changed_BT}))


def full(case: Case) -> Tensor:
    return policy_loss(case.logp_BT, case.batch, *EVERYTHING, entropy_BT=case.entropy_BT).loss


@pytest.mark.parametrize(("bad", "text"), BAD)
@pytest.mark.parametrize("name", ["logp_BT", "entropy_BT", "adv_BT", "old_logp_BT", "ref_logp_BT", "sampler_logp_BT"])
def test_what_is_not_finite_is_named_where_it_is_trained_and_changes_nothing_where_it_is_not(
    name: str, bad: float, text: str
) -> None:
    case = replace(CASE, batch=BATCH)
    clean = gradients(case, full)
    trained, untrained = case.batch.mask_BT.nonzero().tolist(), (~case.batch.mask_BT).nonzero().tolist()
    assert len(trained) > 4 and len(untrained) > 4
    for row, column in untrained:
        found = gradients(with_value(case, name, (row, column), bad), full)
        assert found[0] == clean[0]
        assert found[1].equal(clean[1]) and found[2].equal(clean[2])
    called = name if name in ("logp_BT", "entropy_BT") else f"batch.{name}"
    for row, column in trained:
        with pytest.raises(NonFiniteError) as error:
            full(with_value(case, name, (row, column), bad))
        wanted = f"{called} must be finite at trained tokens, got {text} in row {row}, column {column}"
        assert str(error.value) == wanted


@pytest.mark.parametrize(("bad", "text"), BAD)
@pytest.mark.parametrize("name", ["logp_BT", "returns_BT", "values_BT"])
def test_values_that_are_not_finite_are_named(name: str, bad: float, text: str) -> None:
    row, column = BATCH.mask_BT.nonzero()[-1].tolist()
    case = with_value(replace(CASE, batch=BATCH), name, (row, column), bad)
    called = {"logp_BT": "values_BT"}.get(name, f"batch.{name}")
    with pytest.raises(NonFiniteError) as error:
        value_loss(case.logp_BT, case.batch, 0.2)
    assert str(error.value) == f"{called} must be finite at trained tokens, got {text} in row {row}, column {column}"


def test_numbers_that_the_settings_do_not_read_may_be_anything() -> None:
    wild = torch.full((3, 5), math.nan, dtype=torch.float64)
    clean = float(loss_of())
    assert float(loss_of(replace(BATCH, ref_logp_BT=wild, sampler_logp_BT=wild, returns_BT=wild))) == clean
    assert float(loss_of(replace(BATCH, ref_logp_BT=wild), kl=Kl(coef=0.1, where="reward"))) == clean


def test_correction_weights_refuse_what_a_loss_would() -> None:
    mask_BT, old_BT = BATCH.mask_BT, CASE.logp_BT
    with pytest.raises(ValueError, match=rf"sampler_logp_BT must have the shape of mask_BT {SHAPE}, got \(3, 4\)"):
        correction_weights(old_BT, OTHER, mask_BT, Correction())
    row, column = mask_BT.nonzero()[1].tolist()
    bad_BT = old_BT.clone()
    bad_BT[row, column] = math.nan
    with pytest.raises(NonFiniteError, match=f"old_logp_BT must be finite .* got nan in row {row}, column {column}"):
        correction_weights(bad_BT, old_BT, mask_BT, Correction())
