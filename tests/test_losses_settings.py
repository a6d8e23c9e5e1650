"""Every combination of settings: against the oracle of loss_oracle.py, by finite differences, or refused in words."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from loss_cases import (
    AGGREGATES,
    MAX_TOKENS,
    RATIOS,
    Case,
    assert_equal,
    cases,
    every_pair,
    gradients,
    make_case,
    settings_of_loss,
    step_loss,
)
from loss_oracle import policy_oracle
from pydantic import ValidationError
from torch import Tensor

from rlvr.loss_settings import AdaptiveKl, Clip, Correction, CorrectionMask, Dppo, Kl, Loss, Sapo, Vespo
from rlvr.losses import policy_loss


def assert_is_the_oracles(case: Case, loss: Loss, kl: Kl) -> None:
    metrics: dict[str, float] = {}

    def oracle(at: Case) -> Tensor:
        value, found = policy_oracle(at.logp_BT, at.entropy_BT, at.batch, loss, kl, MAX_TOKENS)
        metrics.update(found)
        return value

    ours = gradients(case, lambda at: step_loss(at, loss, kl))
    assert_equal(ours, gradients(case, oracle), 1e-11, (loss, kl))
    found = policy_loss(case.logp_BT, case.batch, loss, kl, entropy_BT=case.entropy_BT).metrics
    assert found.keys() == metrics.keys()
    for name, value in metrics.items():
        assert math.isclose(found[name], value, rel_tol=1e-11, abs_tol=1e-11), (name, loss, kl)


@settings(deadline=None, max_examples=500)
@given(cases(), settings_of_loss())
def test_value_gradients_and_metrics_are_those_of_the_oracle(case: Case, setting: tuple[Loss, Kl]) -> None:
    assert_is_the_oracles(case, *setting)


@pytest.mark.parametrize("seed", range(6))
def test_every_surrogate_with_every_correction_and_every_kl_is_the_oracles(seed: int) -> None:
    for number, (loss, kl) in enumerate(every_pair(seed)):
        apart, has_old = (0.1, 0.6, 2.0)[number % 3], number % 4 > 0
        assert_is_the_oracles(make_case(1000 * seed + number, 3, 5, apart, has_old), loss, kl)


# --- finite differences ----------------------------------------------------------------------------------------------

SMOOTH: list[tuple[dict[str, Any], dict[str, Any]]] = [
    *(({"surrogate": "clip", "ratio": ratio, "clip": Clip(dual=1.5)}, {}) for ratio in ("token", "sequence")),
    *(({"surrogate": "sapo", "ratio": ratio}, {}) for ratio in ("token", "sequence")),
    ({"surrogate": "gmpo"}, {}),
    ({"surrogate": "dppo"}, {}),
    ({"surrogate": "reinforce", "positive_nll": 0.3}, {}),
    ({"correction": Correction(weight="sequence", mask=CorrectionMask(level="geometric"))}, {}),
    ({"opsm": 0.1, "entropy_coef": 0.2}, {"kind": "k3"}),
    *(({}, {"kind": kind, "weighted": weighted}) for kind in ("k2", "k3", "abs") for weighted in (False, True)),
    ({"ratio": "sequence"}, {"kind": "k1", "weighted": True}),
]


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize(("loss", "kl"), SMOOTH)
def test_gradients_are_those_of_finite_differences(loss: dict[str, Any], kl: dict[str, Any], aggregate: str) -> None:
    if loss.get("positive_nll") and aggregate == "constant":
        aggregate = "token"
    case = make_case(5, 3, 5, 0.5)
    settings = Loss(**loss, aggregate=aggregate), Kl(coef=0.3 if kl else 0.0, **kl)  # type: ignore[arg-type]
    logp_BT, entropy_BT = case.logp_BT.clone().requires_grad_(True), case.entropy_BT.clone().requires_grad_(True)

    def value(logp_BT: Tensor, entropy_BT: Tensor) -> Tensor:
        return step_loss(replace(case, logp_BT=logp_BT, entropy_BT=entropy_BT), *settings)

    assert torch.autograd.gradcheck(value, (logp_BT, entropy_BT), eps=1e-6, atol=1e-7, rtol=1e-6)


def test_gradients_to_the_logits_are_those_of_finite_differences() -> None:
    # entropy and log-probability of one distribution, at a temperature
    case = make_case(5, 2, 4, 0.3)
    logits_BTV = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    ids_BT = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])

    def value(logits_BTV: Tensor) -> Tensor:
        log_p_BTV = torch.log_softmax(logits_BTV / 0.8, dim=-1)
        logp_BT = log_p_BTV.gather(-1, ids_BT[..., None])[..., 0]
        entropy_BT = -(log_p_BTV.exp() * log_p_BTV).sum(dim=-1)
        batch = replace(case.batch, old_logp_BT=logp_BT.detach() * 0 - 1.5, ref_logp_BT=logp_BT.detach() * 0 - 1.4)
        return step_loss(Case(logp_BT, entropy_BT, batch), Loss(entropy_coef=0.1), Kl(coef=0.2, kind="k3"))

    assert torch.autograd.gradcheck(value, (logits_BTV.requires_grad_(True),), eps=1e-6, atol=1e-8, rtol=1e-6)


def test_where_a_factor_is_held_constant_the_gradient_is_that_of_reinforce_with_the_factor_in_the_advantage() -> None:
    # gradcheck cannot see past a stop-gradient; reinforce it has seen
    case = make_case(5, 3, 5, 0.5)
    batch, mask_BT = case.batch, case.batch.mask_BT
    assert batch.old_logp_BT is not None and batch.adv_BT is not None
    ratio_BT = (case.logp_BT - batch.old_logp_BT).exp()
    whole_B1 = torch.where(mask_BT, ratio_BT.log(), 0.0).sum(dim=1, keepdim=True)
    length_B1 = mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
    geometric_BT = (whole_B1 / length_B1).exp().expand_as(ratio_BT)
    factors = [
        (Loss(surrogate="cispo"), ratio_BT.clamp(0.8, 1.2)),
        (Loss(surrogate="cispo", ratio="sequence"), geometric_BT.clamp(0.8, 1.2)),
        (Loss(surrogate="clip", ratio="sequence_token", clip=Clip(low=1.0, high=9.0)), geometric_BT),
        (
            Loss(surrogate="vespo", vespo=Vespo(k_pos=1.3, lambda_pos=0.7, k_neg=1.3, lambda_neg=0.7)),
            (0.7 + 1.3 * whole_B1 - 0.7 * whole_B1.exp()).exp().expand_as(ratio_BT),
        ),
    ]
    for loss, factor_BT in factors:
        constant = replace(case, batch=replace(batch, adv_BT=batch.adv_BT * factor_BT))
        expected = gradients(constant, lambda at: step_loss(at, Loss(surrogate="reinforce"), Kl()))
        found = gradients(case, lambda at, loss=loss: step_loss(at, loss, Kl()))
        torch.testing.assert_close(found[1], expected[1], rtol=1e-12, atol=1e-13)


# --- what is refused -------------------------------------------------------------------------------------------------

CHANGED = {"sapo": Sapo(tau_pos=2.0), "vespo": Vespo(k_pos=1.0), "dppo": Dppo(any_sign=True)}


def why_not(
    surrogate: str, ratio: str, anchor: str, corrected: bool, dual: bool, nll: bool, aggregate: str, other: str
):
    """Settings that contradict each other, by the name that the message must have."""
    if other and other != surrogate:
        yield other
    if ratio != "token" and surrogate not in ("clip", "cispo", "sapo"):
        yield "ratio must be token"
    if dual and surrogate != "clip":
        yield "clip.dual"
    if nll and aggregate == "constant":
        yield "positive_nll"
    if anchor == "sampler" and corrected:
        yield "correction"
    if surrogate == "vespo" and corrected:
        yield "vespo weighs whole ratios itself"


def test_a_loss_is_refused_where_its_settings_contradict_each_other_and_only_there() -> None:
    surrogates = ("clip", "cispo", "gmpo", "sapo", "vespo", "dppo", "reinforce")
    flags = (False, True)
    axes = (surrogates, RATIOS, ("old", "sampler"), flags, flags, flags, AGGREGATES, ("", *CHANGED))
    refused = 0
    for surrogate, ratio, anchor, corrected, dual, nll, aggregate, other in itertools.product(*axes):
        reasons = list(why_not(surrogate, ratio, anchor, corrected, dual, nll, aggregate, other))
        given: dict[str, Any] = {
            "surrogate": surrogate,
            "ratio": ratio,
            "anchor": anchor,
            "correction": Correction() if corrected else None,
            "clip": Clip(dual=3.0 if dual else None),
            "positive_nll": 0.1 if nll else 0.0,
            "aggregate": aggregate,
            **({other: CHANGED[other]} if other else {}),
        }
        if not reasons:
            Loss(**given)
            continue
        refused += 1
        with pytest.raises(ValidationError) as error:
            Loss(**given)
        assert any(reason in str(error.value) for reason in reasons), (given, str(error.value))
    assert 0 < refused < math.prod(len(axis) for axis in axes)


def test_a_divergence_is_refused_where_its_settings_contradict_each_other_and_only_there() -> None:
    kinds = (None, "k1", "k2", "k3", "k3+", "abs")
    flags = (False, True)
    for coef, kind, weighted, where, adaptive in itertools.product((0.0, 0.1), kinds, flags, ("loss", "reward"), flags):
        reasons = []
        if coef and where == "loss" and kind == "k1" and not weighted:
            reasons.append("kind k1")
        if where == "reward" and weighted:
            reasons.append("weighted")
        if where == "reward" and kind == "k3+":
            reasons.append("kind k3+")
        if adaptive and not coef:
            reasons.append("adaptive multiplies coef")
        given: dict[str, Any] = {"coef": coef, "kind": kind, "weighted": weighted, "where": where}
        given["adaptive"] = AdaptiveKl(target=0.1) if adaptive else None
        if not reasons:
            Kl(**given)
            continue
        with pytest.raises(ValidationError) as refused:
            Kl(**given)
        assert any(reason in str(refused.value) for reason in reasons)


@pytest.mark.parametrize(
    ("build", "name", "text"),
    [
        (lambda: Clip(dual=1.2), "", r"dual must be above 1 \+ high \(1\.2\), got 1\.2"),
        (lambda: Clip(low=1.5), "low", "less than or equal to 1"),
        (lambda: Clip(low=math.nan), "low", "less than or equal to 1"),
        (lambda: Clip(high=-0.1), "high", "greater than or equal to 0"),
        (lambda: Clip(high=math.inf), "high", "finite"),
        (lambda: CorrectionMask(low=2.0, high=2.0), "", r"low must be below high \(2\), got 2"),
        (lambda: Correction(weight=None), "", "weight null without a mask corrects nothing"),
        (lambda: Correction(cap=0.0), "cap", "greater than 0"),
        (lambda: Sapo(tau_neg=0.0), "tau_neg", "greater than 0"),
        (lambda: Vespo(k_pos=-1.0), "k_pos", "greater than or equal to 0"),
        (lambda: Dppo(high=math.nan), "high", "finite"),
        (lambda: Loss(opsm=-0.1), "opsm", "greater than or equal to 0"),
        (lambda: Loss(entropy_coef=-0.1), "entropy_coef", "greater than or equal to 0"),
        (lambda: Loss(positive_nll=math.inf), "positive_nll", "finite"),
        (lambda: Loss(positive_above=math.nan), "positive_above", "finite"),
        (lambda: Loss.model_validate({"surrogate": "ppo"}), "surrogate", "Input should be 'clip'"),
        (lambda: Loss.model_validate({"aggregate": "mean"}), "aggregate", "Input should be 'token'"),
        (lambda: Kl(coef=-0.1), "coef", "greater than or equal to 0"),
        (lambda: AdaptiveKl(target=0.0), "target", "greater than 0"),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_name_of_its_setting(build: Any, name: str, text: str) -> None:
    with pytest.raises(ValidationError, match=text) as refused:
        build()
    assert [error["loc"] for error in refused.value.errors()] == [(name,) if name else ()]
