"""Head and loss in one operation against plain torch in float64: values, gradients, metrics, and autograd's manners."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from fused_cases import NAMES, Problem, assert_equal, dense, fused, gradients, leaves, make_problem, problems, scores
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import every_pair, settings_of_loss
from torch import Tensor

from rlvr.batching import Batch
from rlvr.fused import fused_cross_entropy, fused_logprobs, fused_policy_loss
from rlvr.loss_settings import Clip, Correction, Kl, Loss
from rlvr.losses import carries_gradient, flatten, total_loss

Setting = tuple[Loss, Kl]
TRAINED = [
    ("hidden_BTD",),
    ("weight_VD",),
    ("bias_V",),
    ("hidden_BTD", "weight_VD"),
    ("hidden_BTD", "bias_V"),
    ("weight_VD", "bias_V"),
    NAMES,
]
TILES = (1, 3, 7, None)


def assert_is_the_dense_one(problem: Problem, setting: Setting, trained: tuple[str, ...], **how: Any) -> None:
    ours = gradients(problem, lambda at: fused(at, *setting, **how).loss, trained)
    theirs = gradients(problem, lambda at: dense(at, *setting).loss, trained)
    assert_equal(ours, theirs, 1e-11, (setting, trained, how))
    # the metrics are sums over those tokens that are computed
    tokens = flatten(problem.batch, *setting)
    scored_N = carries_gradient(tokens, *setting)
    sums = fused(problem, *setting, **how)
    assert (sums.tokens, sums.sequences) == (problem.batch.num_tokens, problem.batch.num_sequences)
    assert sums.scored == int(scored_N.sum())
    logp_N, entropy_N = scores(problem)
    assert sums.logp_BT is not None and sums.scored_BT is not None
    assert sums.scored_BT[problem.batch.mask_BT].equal(scored_N)
    assert not sums.logp_BT[~sums.scored_BT].any() and not sums.logp_BT.requires_grad
    torch.testing.assert_close(sums.logp_BT[sums.scored_BT], logp_N[scored_N], rtol=1e-11, atol=1e-13)
    wants_entropy = how.get("entropy") or setting[0].entropy_coef > 0
    kept_N = entropy_N[scored_N] if wants_entropy else None
    _, metrics = total_loss(logp_N[scored_N], kept_N, tokens.pick(scored_N), *setting)
    expected = {name: float(value) for name, value in metrics.items()} if sums.scored else {}
    assert sums.metrics == pytest.approx(expected, rel=1e-11, abs=1e-11), setting


@settings(deadline=None, max_examples=250)
@given(
    problems(),
    settings_of_loss(),
    st.sampled_from(TRAINED),
    st.sampled_from(TILES),
    st.booleans(),
    st.sampled_from([1.0, 1 / 7, -40.0]),
)
def test_value_metrics_and_gradients_are_those_of_the_dense_reference(
    problem: Problem,
    setting: Setting,
    trained: tuple[str, ...],
    tile_rows: int | None,
    entropy: bool,
    expected_grad: float,
) -> None:
    if problem.bias_V is None:
        trained = tuple(name for name in trained if name != "bias_V") or ("hidden_BTD",)
    assert_is_the_dense_one(
        problem, setting, trained, tile_rows=tile_rows, entropy=entropy, expected_grad=expected_grad
    )


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_every_surrogate_with_every_correction_and_every_kl_is_the_dense_one(seed: int) -> None:
    for number, setting in enumerate(every_pair(seed)):
        problem = make_problem(
            1000 * seed + number, has_old=number % 4 > 0, has_bias=True, softcap=(None, 5.0)[number % 2]
        )
        assert_is_the_dense_one(problem, setting, TRAINED[number % 7], tile_rows=TILES[(number + seed) % 4])


@settings(deadline=None, max_examples=120)
@given(problems(), st.sampled_from(TRAINED), st.sampled_from(TILES), st.sampled_from(["logp", "entropy", "both"]))
def test_log_probabilities_and_entropy_serve_any_loss(
    problem: Problem, trained: tuple[str, ...], tile_rows: int | None, used: str
) -> None:
    if problem.bias_V is None:
        trained = tuple(name for name in trained if name != "bias_V") or ("hidden_BTD",)
    weight_N = torch.linspace(-1, 2, len(problem.ids_N), dtype=torch.float64)

    def loss(logp_N: Tensor, entropy_N: Tensor) -> Tensor:
        by_logp, by_entropy = (weight_N * logp_N.square()).sum(), (weight_N * entropy_N.exp()).sum()
        return {"logp": by_logp, "entropy": by_entropy, "both": by_logp + by_entropy}[used]

    def ours(at: Problem) -> Tensor:
        return loss(*fused_logprobs(at.hidden_ND, at.weight_VD, at.ids_N, **at.head(), tile_rows=tile_rows))

    assert_equal(gradients(problem, ours, trained), gradients(problem, lambda at: loss(*scores(at)), trained), 1e-11)


@settings(deadline=None, max_examples=60)
@given(problems(), st.sampled_from(TILES), st.sampled_from([1.0, -0.1]))
def test_cross_entropy_is_that_of_all_logits(problem: Problem, tile_rows: int | None, expected_grad: float) -> None:
    problem = replace(problem, temperature=1.0, support_BTK=None)  # the model's own distribution
    rights: list[Tensor] = []

    def ours(at: Problem) -> Tensor:
        head = {name: value for name, value in at.head().items() if name not in ("temperature", "support_NK")}
        total, right_N = fused_cross_entropy(
            at.hidden_ND, at.weight_VD, at.ids_N, **head, expected_grad=expected_grad, tile_rows=tile_rows
        )
        rights.append(right_N)
        return total

    assert_equal(gradients(problem, ours), gradients(problem, lambda at: -scores(at)[0].sum()), 1e-11)
    with torch.no_grad():
        assert float(ours(problem)) == pytest.approx(float(-scores(problem)[0].sum()), rel=1e-12)
    # ties to rounding are open; a vocabulary of one has no other token
    own_N, others = scores(problem)[0], []
    for v in range(len(problem.weight_VD)):
        batch = replace(problem.batch, ids_BT=torch.full_like(problem.batch.ids_BT, v))
        others.append(scores(replace(problem, batch=batch))[0].masked_fill(problem.ids_N == v, -torch.inf))
    lead_N = own_N - torch.stack(others).amax(dim=0)
    for right_N in rights:
        assert right_N[lead_N > 1e-12].all() and not right_N[lead_N < -1e-12].any()


def test_two_tokens_by_hand() -> None:
    # logits 0 and log 3: p = 1/4 and 3/4; rows with A = 2 on token 0, A = -1 on token 1
    log2, log3 = math.log(2), math.log(3)
    batch = Batch.of(
        torch.tensor([[0, 0], [0, 1]]),
        torch.tensor([[False, True], [False, True]]),
        adv=torch.tensor([2.0, -1.0], dtype=torch.float64),
    )
    hidden_ND = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    weight_VD = torch.tensor([[0.0], [log3]], dtype=torch.float64, requires_grad=True)
    sums = fused_policy_loss(hidden_ND, weight_VD, batch, Loss(surrogate="reinforce"))
    assert float(sums.loss.detach()) == pytest.approx(-2 * (-2 * log2) + (log3 - 2 * log2))
    assert sums.logp_BT is not None
    assert sums.logp_BT[:, 1].exp().tolist() == pytest.approx([1 / 4, 3 / 4])
    (sums.loss / 2).backward()
    # dL/dlogits = -A (1_y - p): -2 (3/4, -3/4) and +1 (-1/4, 1/4)
    assert weight_VD.grad is not None and hidden_ND.grad is not None
    assert weight_VD.grad[:, 0].tolist() == pytest.approx([-1.75 / 2, 1.75 / 2])
    assert hidden_ND.grad[:, 0].tolist() == pytest.approx([1.5 * log3 / 2, 0.25 * log3 / 2])


# --- finite differences ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", [("hidden_BTD",), NAMES])
@pytest.mark.parametrize("tile_rows", [2, None])
def test_log_probabilities_have_the_gradients_of_finite_differences(
    trained: tuple[str, ...], tile_rows: int | None
) -> None:
    problem = leaves(make_problem(7, K=5, has_bias=True, temperature=0.8, scale=1.3, softcap=4.0), trained)
    assert problem.bias_V is not None

    def values(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor) -> tuple[Tensor, Tensor]:
        head = {**problem.head(), "bias": bias_V}
        return fused_logprobs(hidden_ND, weight_VD, problem.ids_N, **head, tile_rows=tile_rows)

    given_ND = problem.hidden_ND.detach().requires_grad_("hidden_BTD" in trained)
    assert torch.autograd.gradcheck(values, (given_ND, problem.weight_VD, problem.bias_V), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("trained", [("hidden_BTD",), NAMES])
@pytest.mark.parametrize(
    ("loss", "kl"),
    [
        (Loss(clip=Clip(dual=1.9)), Kl(coef=0.2, kind="k3")),
        (Loss(ratio="sequence", entropy_coef=0.1), Kl(coef=0.2, kind="k2", weighted=True)),
        (Loss(surrogate="gmpo", aggregate="token"), Kl(coef=0.1, kind="abs")),
        (Loss(surrogate="sapo", entropy_coef=0.3, aggregate="prompt"), Kl()),
        (Loss(surrogate="reinforce", positive_nll=0.3), Kl()),
        (Loss(correction=Correction(weight="geometric"), aggregate="constant"), Kl()),
    ],
)
def test_losses_have_the_gradients_of_finite_differences(loss: Loss, kl: Kl, trained: tuple[str, ...]) -> None:
    problem = leaves(make_problem(12, has_bias=True, temperature=0.8, softcap=4.0), trained)
    assert problem.bias_V is not None

    def value(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor) -> Tensor:
        head = {**problem.head(), "bias": bias_V}
        return fused_policy_loss(hidden_ND, weight_VD, problem.batch, loss, kl, **head, tile_rows=2).loss

    given_ND = problem.hidden_ND.detach().requires_grad_(True)
    assert torch.autograd.gradcheck(value, (given_ND, problem.weight_VD, problem.bias_V), atol=1e-7, rtol=1e-6)


# --- autograd --------------------------------------------------------------------------------------------------------

EVERYTHING = Loss(entropy_coef=0.1, ratio="sequence"), Kl(coef=0.1)
PATHS = [(Loss(), NAMES), (EVERYTHING[0], NAMES), (EVERYTHING[0], ("hidden_BTD",)), (Loss(), ("hidden_BTD",))]


@pytest.mark.parametrize(("loss", "trained"), PATHS)
@pytest.mark.parametrize("expected_grad", [1.0, -0.3])
def test_the_gradient_is_that_of_whatever_is_made_of_the_loss(
    loss: Loss, trained: tuple[str, ...], expected_grad: float
) -> None:
    problem = make_problem(21, has_bias=True)

    def made(sums_of: Any) -> Any:
        return lambda at: (sums_of(at) * -0.3 + 1).square()

    ours = gradients(problem, made(lambda at: fused(at, loss, Kl(), expected_grad=expected_grad).loss), trained)
    assert_equal(ours, gradients(problem, made(lambda at: dense(at, loss, Kl()).loss), trained), 1e-12)


@pytest.mark.parametrize(("loss", "trained"), PATHS)
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_a_kept_graph_gives_its_gradient_again_and_a_used_one_says_so(
    loss: Loss, trained: tuple[str, ...], factor: float
) -> None:
    problem = leaves(make_problem(21, has_bias=True), trained)
    value = fused(problem, loss, Kl()).loss * factor
    wanted = gradients(problem, lambda at: dense(at, loss, Kl()).loss * factor, trained)
    for times in (1, 2, 3):
        value.backward(retain_graph=times < 3)
        for name in trained:
            grad = getattr(problem, name).grad
            torch.testing.assert_close(grad, times * wanted[name], rtol=1e-12, atol=1e-13)
    with pytest.raises(RuntimeError, match="second time"):
        value.backward()


@pytest.mark.parametrize(("loss", "trained"), PATHS)
def test_without_gradient_the_value_is_the_same_and_nothing_is_recorded(loss: Loss, trained: tuple[str, ...]) -> None:
    problem = leaves(make_problem(21, has_bias=True), trained)
    recorded = fused(problem, loss, Kl(), entropy=True)
    for off in (torch.no_grad(), torch.inference_mode()):
        with off:
            plain = fused(problem, loss, Kl(), entropy=True)
        assert not plain.loss.requires_grad and recorded.loss.requires_grad
        assert float(plain.loss) == pytest.approx(float(recorded.loss.detach()), rel=1e-13)
        assert plain.metrics == pytest.approx(recorded.metrics, rel=1e-13)


def test_the_gradient_of_a_gradient_is_refused() -> None:
    problem = leaves(make_problem(21))
    logp_N, _ = fused_logprobs(problem.hidden_ND, problem.weight_VD, problem.ids_N)
    for value in (fused(problem, Loss(), Kl()).loss, logp_N.sum()):
        with pytest.raises(RuntimeError, match="a fused loss has no second derivative: use policy_loss"):
            torch.autograd.grad(value, problem.weight_VD, create_graph=True)


def test_a_weight_that_changes_between_forward_and_backward_is_noticed() -> None:
    problem = leaves(make_problem(21, has_bias=True))
    logp_N, _ = fused_logprobs(problem.hidden_ND, problem.weight_VD, problem.ids_N, **problem.head())
    with torch.no_grad():
        problem.weight_VD.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logp_N.sum().backward()


@pytest.mark.parametrize("loss", [Loss(), Loss(ratio="sequence", entropy_coef=0.1)])
def test_of_tied_embeddings_both_gradients_add_up(loss: Loss) -> None:
    problem = make_problem(3, T=6)

    def tied(of: Any) -> Any:
        def value(at: Problem) -> Tensor:
            return of(replace(at, hidden_BTD=at.weight_VD[at.batch.ids_BT].tanh())).loss

        return value

    ours = gradients(problem, tied(lambda at: fused(at, loss, Kl(), tile_rows=2)), ("weight_VD",))
    theirs = gradients(problem, tied(lambda at: dense(at, loss, Kl())), ("weight_VD",))
    assert_equal(ours, theirs, 1e-12)


def test_hidden_states_may_lie_anyhow_in_memory() -> None:
    problem = make_problem(3)
    contiguous = gradients(problem, lambda at: fused(at, *EVERYTHING).loss)

    def strided(at: Problem) -> Tensor:
        hidden_ND = at.hidden_ND.t().contiguous().t()
        weight_VD = at.weight_VD.t().contiguous().t()
        assert not hidden_ND.is_contiguous() and not weight_VD.is_contiguous()
        return fused_policy_loss(hidden_ND, weight_VD, at.batch, *EVERYTHING, **at.head(), tile_rows=3).loss

    assert_equal(gradients(problem, strided), contiguous, 1e-13)


def test_under_autocast_head_and_hidden_states_are_cast_alike_and_each_gets_its_gradient_back() -> None:
    problem = make_problem(3, V=40, D=16, has_bias=True)
    exact = gradients(problem.to(torch.bfloat16).to(torch.float64), lambda at: dense(at, *EVERYTHING).loss)
    for hidden in (torch.float32, torch.bfloat16):  # a model's last layer gives either
        at = leaves(problem.to(torch.float32))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            sums = fused_policy_loss(at.hidden_ND.to(hidden), at.weight_VD, at.batch, *EVERYTHING, **at.head())
        sums.loss.backward()
        assert float(sums.loss) == pytest.approx(float(exact["value"]), rel=0.02)
        for name in NAMES:
            grad = getattr(at, name).grad
            assert grad.dtype == torch.float32
            assert float((grad - exact[name]).norm() / exact[name].norm()) < 0.02


def test_autocast_leaves_float64_alone() -> None:
    problem = make_problem(3, has_bias=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logp_N, entropy_N = fused_logprobs(problem.hidden_ND, problem.weight_VD, problem.ids_N, **problem.head())
    torch.testing.assert_close(logp_N, scores(problem)[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(entropy_N, scores(problem)[1], rtol=1e-12, atol=1e-12)
