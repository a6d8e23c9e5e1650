"""The losses of the direct methods against their papers' formulas, written plainly with log and exp in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from rlvr.direct_losses import direct_loss, kto_loss, mismatched_kl
from rlvr.direct_settings import DirectLoss, DpoRecipe
from rlvr.settings import from_overrides

PAIR_KINDS = ("sigmoid", "robust", "ipo", "hinge", "simpo", "orpo")
LENGTHS = torch.tensor([3.0, 7.0, 1.0, 12.0], dtype=torch.float64), torch.tensor([5.0, 2.0, 4.0, 12.0]).double()


def logps(seed: int = 0) -> list[Tensor]:
    """chosen, rejected (both with gradient), and the same of the reference"""
    generator = torch.Generator().manual_seed(seed)
    drawn = [-12 * torch.rand(4, dtype=torch.float64, generator=generator) - 0.1 for _ in range(4)]
    return [drawn[0].requires_grad_(), drawn[1].requires_grad_(), *drawn[2:]]


def s(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def odds(mean: Tensor) -> Tensor:
    return torch.exp(mean) / (1 - torch.exp(mean))


# of c, r, ref_c, ref_r, |c|, |r|
FORMULAS: dict[str, tuple[dict[str, Any], Callable[..., Tensor]]] = {
    "dpo": ({"beta": 0.3}, lambda c, r, rc, rr, nc, nr: -torch.log(s(0.3 * ((c - rc) - (r - rr))))),
    "cdpo": (
        {"beta": 0.3, "label_smoothing": 0.2},
        lambda c, r, rc, rr, nc, nr: (
            -0.8 * torch.log(s(0.3 * (c - rc - r + rr))) - 0.2 * torch.log(s(-0.3 * (c - rc - r + rr)))
        ),
    ),
    "robust": (
        {"kind": "robust", "beta": 0.3, "label_smoothing": 0.2},
        lambda c, r, rc, rr, nc, nr: (
            (-0.8 * torch.log(s(0.3 * (c - rc - r + rr))) + 0.2 * torch.log(s(-0.3 * (c - rc - r + rr)))) / 0.6
        ),
    ),
    "rpo": (
        {"beta": 0.3, "rpo_alpha": 0.7},
        lambda c, r, rc, rr, nc, nr: -torch.log(s(0.3 * (c - rc - r + rr))) - 0.7 * c / nc,
    ),
    "reference_free": (
        {"beta": 0.3, "reference_free": True},
        lambda c, r, rc, rr, nc, nr: -torch.log(s(0.3 * (c - r))),
    ),
    "ipo": (
        {"kind": "ipo", "beta": 0.4},
        lambda c, r, rc, rr, nc, nr: ((c - rc) - (r - rr) - 1 / 0.8) ** 2,
    ),
    "ipo_mean": (
        {"kind": "ipo", "beta": 0.4, "ipo_logps": "mean"},
        lambda c, r, rc, rr, nc, nr: ((c - rc) / nc - (r - rr) / nr - 1 / 0.8) ** 2,
    ),
    "hinge": (
        {"kind": "hinge", "beta": 0.3},
        lambda c, r, rc, rr, nc, nr: torch.clamp(1 - 0.3 * (c - rc - r + rr), min=0),
    ),
    "simpo": (
        {"kind": "simpo", "beta": 2.0, "simpo_gamma": 0.7},
        lambda c, r, rc, rr, nc, nr: -torch.log(s(2 / nc * c - 2 / nr * r - 0.7)),
    ),
    "simpo_smoothed": (
        {"kind": "simpo", "beta": 2.0, "simpo_gamma": 0.7, "label_smoothing": 0.1},
        lambda c, r, rc, rr, nc, nr: (
            -0.9 * torch.log(s(2 / nc * c - 2 / nr * r - 0.7)) - 0.1 * torch.log(s(-(2 / nc * c - 2 / nr * r - 0.7)))
        ),
    ),
    "orpo": (
        {"kind": "orpo", "beta": 0.25},
        lambda c, r, rc, rr, nc, nr: -c / nc - 0.25 * torch.log(s(torch.log(odds(c / nc)) - torch.log(odds(r / nr)))),
    ),
}


@pytest.mark.parametrize("labels", [None, (1.0, 1.0, 1.0, 1.0), (0.5, 0.8, 0.0, 1.0)])
@pytest.mark.parametrize("name", FORMULAS)
def test_value_and_gradient_are_those_of_the_papers_formula(name: str, labels: tuple[float, ...] | None) -> None:
    settings, formula = FORMULAS[name]
    ours, theirs = logps(), logps()
    probability = None if labels is None else torch.tensor(labels, dtype=torch.float64)
    loss_B, _ = direct_loss(DirectLoss(**settings), ours[0], ours[1], ours[2], ours[3], *LENGTHS, probability)
    p_B = torch.ones(4, dtype=torch.float64) if probability is None else probability
    c, r, ref_c, ref_r = theirs
    long, short = LENGTHS
    wanted_B = p_B * formula(c, r, ref_c, ref_r, long, short) + (1 - p_B) * formula(r, c, ref_r, ref_c, short, long)
    weights_B = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    torch.testing.assert_close(loss_B, wanted_B, rtol=1e-12, atol=1e-12)
    for logp_B, other_B in zip(
        torch.autograd.grad((weights_B * loss_B).sum(), ours[:2]),
        torch.autograd.grad((weights_B * wanted_B).sum(), theirs[:2]),
        strict=True,
    ):
        torch.testing.assert_close(logp_B, other_B, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("labels", [(1.0, 0.0, 1.0, 0.0), (0.5, 0.8, 0.0, 1.0)])
def test_kto_is_one_minus_the_value_of_each_completion(labels: tuple[float, ...]) -> None:
    loss = DirectLoss(kind="kto", beta=0.3, desirable_weight=1.5, undesirable_weight=0.25)
    (mine, _, ref, _), (theirs, _, _, _) = logps(), logps()
    label_B, z = torch.tensor(labels, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    loss_B, figures = kto_loss(loss, mine, ref, label_B, z)
    good_B = 1.5 * (1 - s(0.3 * (theirs - ref - z)))
    bad_B = 0.25 * (1 - s(0.3 * (z - (theirs - ref))))
    wanted_B = label_B * good_B + (1 - label_B) * bad_B
    torch.testing.assert_close(loss_B, wanted_B, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(figures["rewards"], 0.3 * (mine - ref).detach())
    ours, other = (torch.autograd.grad(x.sum(), y)[0] for x, y in ((loss_B, mine), (wanted_B, theirs)))
    torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-12)


def test_the_reference_point_is_the_mean_over_mismatched_completions_and_never_negative() -> None:
    logp_M, ref_M = torch.tensor([-1.0, -2.0, -6.0]), torch.tensor([-2.0, -5.0, -4.0])
    assert float(mismatched_kl(logp_M, ref_M)) == pytest.approx(2 / 3)
    assert float(mismatched_kl(ref_M, logp_M)) == 0
    assert float(mismatched_kl(logp_M[:0], ref_M[:0])) == 0
    assert not mismatched_kl(logp_M.requires_grad_(), ref_M).requires_grad


def test_the_figures_are_trls() -> None:
    c, r, ref_c, ref_r = logps(3)
    _, figures = direct_loss(DirectLoss(beta=0.5), c, r, ref_c, ref_r, *LENGTHS)
    reward_B, other_B = 0.5 * (c - ref_c).detach(), 0.5 * (r - ref_r).detach()
    torch.testing.assert_close(figures["rewards/chosen"], reward_B)
    torch.testing.assert_close(figures["rewards/rejected"], other_B)
    torch.testing.assert_close(figures["rewards/margins"], reward_B - other_B)
    assert figures["rewards/accuracies"].tolist() == (reward_B > other_B).double().tolist()
    assert torch.equal(figures["logps/chosen"], c.detach())
    assert torch.equal(figures["logps/rejected"], r.detach())
    _, of_simpo = direct_loss(DirectLoss(kind="simpo", beta=2.0), c, r, None, None, *LENGTHS)
    torch.testing.assert_close(of_simpo["rewards/chosen"], 2 * (c / LENGTHS[0]).detach())
    _, of_orpo = direct_loss(DirectLoss(kind="orpo"), c, r, None, None, *LENGTHS)
    torch.testing.assert_close(of_orpo["nll_loss"], -(c / LENGTHS[0]).detach())
    wanted = torch.log(odds(c / LENGTHS[0])) - torch.log(odds(r / LENGTHS[1]))
    torch.testing.assert_close(of_orpo["log_odds_chosen"], wanted.detach())
    assert not any(value_B.requires_grad for found in (figures, of_simpo, of_orpo) for value_B in found.values())


log_probability = st.floats(min_value=-300, max_value=-1e-3)


@given(st.sampled_from(PAIR_KINDS), *[log_probability] * 4, st.floats(0, 1), st.integers(1, 50), st.integers(1, 50))
def test_turning_a_pair_round_with_its_label_changes_nothing(
    kind: str, c: float, r: float, ref_c: float, ref_r: float, p: float, long: int, short: int
) -> None:
    loss = DirectLoss(kind=kind, label_smoothing=0.1 if kind == "robust" else 0.0)  # pyright: ignore[reportArgumentType]

    def of(*numbers: float) -> Tensor:
        a, b, ref_a, ref_b, n, m, probability = (torch.tensor([x], dtype=torch.float64) for x in numbers)
        return direct_loss(loss, a, b, ref_a, ref_b, n, m, probability)[0]

    ours, theirs = of(c, r, ref_c, ref_r, long, short, p), of(r, c, ref_r, ref_c, short, long, 1 - p)
    assert bool(ours.isfinite())
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@given(st.floats(-30, 30), st.floats(0.01, 0.45))
def test_robust_is_in_the_mean_over_flipped_labels_what_dpo_is_without_them(delta: float, flipped: float) -> None:
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    both = torch.tensor([delta, -delta], dtype=torch.float64)  # the label as it is, and the other way round
    loss_2, _ = direct_loss(
        DirectLoss(kind="robust", beta=1.0, label_smoothing=flipped), both, zero, zero, zero, one, one
    )
    clean_2, _ = direct_loss(DirectLoss(beta=1.0), both, zero, zero, zero, one, one)
    mean = (1 - flipped) * loss_2[0] + flipped * loss_2[1]
    assert float(mean) == pytest.approx(float(clean_2[0]), rel=1e-9, abs=1e-9)


@given(st.floats(0, 1), st.floats(0.05, 0.4))
def test_smoothing_and_soft_labels_have_their_minimum_where_the_margin_is_the_labels_log_odds(
    p: float, smoothing: float
) -> None:
    target = p * (1 - smoothing) + (1 - p) * smoothing
    logit = torch.tensor([math.log(target / (1 - target))], dtype=torch.float64, requires_grad=True)
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    loss = DirectLoss(beta=1.0, label_smoothing=smoothing)
    loss_B, _ = direct_loss(loss, logit, zero, zero, zero, one, one, torch.tensor([p], dtype=torch.float64))
    assert float(torch.autograd.grad(loss_B.sum(), logit)[0]) == pytest.approx(0, abs=1e-12)


def test_a_completion_of_certain_tokens_has_finite_odds() -> None:
    c, r = torch.zeros(1, requires_grad=True), torch.tensor([-3.0], requires_grad=True)
    loss_B, _ = direct_loss(DirectLoss(kind="orpo"), c, r, None, None, torch.ones(1), torch.ones(1))
    gradients = torch.autograd.grad(loss_B.sum(), (c, r))
    assert bool(loss_B.isfinite().all()) and all(bool(g.isfinite().all()) for g in gradients)


def test_wrong_arguments_are_named() -> None:
    c, r, _, _ = logps()
    with pytest.raises(ValueError, match=r"use kto_loss\(\)"):
        direct_loss(DirectLoss(kind="kto"), c, r, c, r, *LENGTHS)
    with pytest.raises(ValueError, match="reference's log-probabilities must be given for kind ipo"):
        direct_loss(DirectLoss(kind="ipo"), c, r, None, None, *LENGTHS)


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kind": "hinge", "label_smoothing": 0.1}, "label_smoothing goes with kinds sigmoid, robust, simpo only"),
        ({"kind": "sigmoid", "ipo_logps": "mean"}, "ipo_logps goes with kind: ipo only, got kind: sigmoid"),
        ({"kind": "orpo", "rpo_alpha": 1.0}, "rpo_alpha goes with kinds sigmoid, robust, ipo, hinge, simpo only"),
        ({"simpo_gamma": 1.0}, "simpo_gamma goes with kind: simpo only"),
        ({"desirable_weight": 2.0}, "desirable_weight goes with kind: kto only"),
        ({"kind": "kto", "reference_free": True}, "reference_free goes with kinds sigmoid, robust, ipo, hinge only"),
        ({"kind": "robust"}, "kind: robust needs label_smoothing above 0"),
        ({"kind": "kto", "desirable_weight": 0.0, "undesirable_weight": 0.0}, "must be above 0, got 0 for both"),
        ({"label_smoothing": 0.5}, "less than 0.5"),
        ({"beta": 0.0}, "greater than 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        DirectLoss.model_validate(settings)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["loss.kind=simpo", "reference.path=other"], r"reference does not go with loss\.kind: simpo"),
        (["loss.reference_free=true", "reference.path=other"], r"reference does not go with loss\.reference_free"),
        (["loss.kind=kto", "batch_size=1"], r"batch_size must be at least 2 for loss\.kind: kto"),
        (["model.dtype=bfloat16"], r"model\.dtype must be float32"),
        (["loss.kind=dpo"], "sigmoid"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(overrides: list[str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        from_overrides("dpo", ["model.path=m", "data.path=d", "steps=1", *overrides])


def test_a_recipe_keeps_its_meaning_when_all_defaults_are_written_out() -> None:
    recipe = from_overrides("dpo", ["model.path=m", "data.path=d", "steps=1", "loss.kind=ipo", "loss.ipo_logps=mean"])
    assert DpoRecipe.model_validate(recipe.model_dump(by_alias=True)) == recipe
