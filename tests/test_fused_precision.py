"""Rounding of the fused loss: low precision against float64 of the same numbers, and extreme distributions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvr.batching import Batch
from rlvr.fused import fused_cross_entropy, fused_logprobs, fused_policy_loss
from rlvr.loss_settings import Kl, Loss

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
ROUNDING = {FP32: 2**-24, BF16: 2**-9, FP16: 2**-12}
"""Largest relative error of one rounding."""


@dataclass
class Sizes:
    N: int
    D: int
    V: int


SMALL, LARGE = Sizes(64, 128, 4000), Sizes(192, 512, 32000)


def draw(sizes: Sizes, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(hidden_ND, weight_VD, bias_V, ids_N), logits spread by 2, ids drawn from their distribution."""
    rng = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(sizes.N, sizes.D, generator=rng).to(dtype)
    weight_VD = (torch.randn(sizes.V, sizes.D, generator=rng) * (2 / sizes.D**0.5)).to(dtype)
    bias_V = torch.randn(sizes.V, generator=rng).mul(0.1).to(dtype)
    p_NV = torch.softmax(hidden_ND.float() @ weight_VD.float().t() + bias_V.float(), dim=1)
    return hidden_ND, weight_VD, bias_V, torch.multinomial(p_NV, 1, generator=rng)[:, 0]


def of_biases(logits_NV: Tensor, ids_N: Tensor) -> tuple[Tensor, Tensor]:
    """fused_logprobs() of these very logits, in their dtype."""
    return fused_logprobs(torch.eye(len(logits_NV), dtype=logits_NV.dtype), logits_NV.t().contiguous(), ids_N)


def reference(logits_NV: Tensor, ids_N: Tensor) -> tuple[Tensor, Tensor]:
    """float64"""
    log_p_NV = torch.log_softmax(logits_NV.double(), dim=1)
    return log_p_NV.gather(1, ids_N[:, None])[:, 0], -(log_p_NV.exp() * log_p_NV).sum(dim=1)


# --- low precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "dtype", "mean", "most"),
    [
        (SMALL, FP32, 1e-6, 1e-5),
        (SMALL, BF16, 2.5e-3, 2e-2),
        (SMALL, FP16, 3e-4, 2e-3),
        pytest.param(LARGE, FP32, 1e-6, 1e-5, marks=pytest.mark.slow),
        pytest.param(LARGE, BF16, 2.5e-3, 2e-2, marks=pytest.mark.slow),
    ],
)
def test_log_probabilities_are_near_those_of_float64(
    sizes: Sizes, dtype: torch.dtype, mean: float, most: float
) -> None:
    hidden_ND, weight_VD, bias_V, ids_N = draw(sizes, dtype)
    logits_NV = hidden_ND.double() @ weight_VD.double().t() + bias_V.double()
    wanted_N, wanted_entropy_N = reference(logits_NV, ids_N)
    logp_N, entropy_N = fused_logprobs(hidden_ND, weight_VD, ids_N, bias=bias_V)
    assert logp_N.dtype == entropy_N.dtype == FP32
    for found_N, exact_N in ((logp_N, wanted_N), (entropy_N, wanted_entropy_N)):
        assert float((found_N - exact_N).abs().mean()) <= mean
        assert float((found_N - exact_N).abs().max()) <= most


@pytest.mark.parametrize("spread", [1e2, 1e4])
def test_what_all_logits_have_in_common_cancels(spread: float) -> None:
    hidden_ND, weight_VD, _, ids_N = draw(SMALL, FP32)
    logits_NV = hidden_ND @ weight_VD.t()
    unmoved = fused_logprobs(hidden_ND, weight_VD, ids_N)
    moved = fused_logprobs(hidden_ND, weight_VD, ids_N, bias=torch.full((SMALL.V,), spread))
    rounding = spread * ROUNDING[FP32] * 4  # of a logit of that size
    for found_N, wanted_N, plain_N in zip(moved, unmoved, reference(logits_NV, ids_N), strict=True):
        torch.testing.assert_close(wanted_N.double(), plain_N, rtol=0, atol=1e-5)
        torch.testing.assert_close(found_N, wanted_N, rtol=0, atol=rounding)


@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
@pytest.mark.parametrize("tile_rows", [None, 16])
@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("entropy_coef", [0.0, 0.1])
def test_gradients_are_within_some_roundings_of_float64(
    dtype: torch.dtype, tile_rows: int | None, is_frozen: bool, entropy_coef: float
) -> None:
    *tensors, ids_N = draw(SMALL, dtype)
    batch = Batch.of(
        torch.nn.functional.pad(ids_N.view(4, 16), (1, 0)),
        torch.nn.functional.pad(torch.ones(4, 16), (1, 0)),
        adv=torch.tensor([1.0, -0.5, 2.0, -1.5]),
    )
    trained = (True, not is_frozen, not is_frozen)

    def grads(like: torch.dtype) -> list[Tensor]:
        leaves = [x.to(like, copy=True).requires_grad_(wanted) for x, wanted in zip(tensors, trained, strict=True)]
        sums = fused_policy_loss(
            leaves[0],
            leaves[1],
            batch,
            Loss(entropy_coef=entropy_coef),
            Kl(),
            leaves[2],
            expected_grad=1 / 4,
            tile_rows=tile_rows,
        )
        (sums.loss / 4).backward()
        assert all(leaf.grad is None or leaf.grad.dtype == like for leaf in leaves)
        return [leaf.grad for leaf in leaves if leaf.grad is not None]

    ours, exact = grads(dtype), grads(torch.float64)
    assert len(ours) == len(exact) == sum(trained)
    for grad, wanted in zip(ours, exact, strict=True):
        assert float((grad.double() - wanted).norm() / wanted.norm()) <= 8 * ROUNDING[dtype]


@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_the_weights_gradient_of_many_tiles_is_summed_as_exactly_as_that_of_one(dtype: torch.dtype) -> None:
    hidden_ND, weight_VD, bias_V, ids_N = draw(SMALL, dtype)
    exact_VD = weight_VD.double().requires_grad_(True)
    fused_cross_entropy(hidden_ND.double(), exact_VD, ids_N, bias_V.double())[0].backward()
    assert exact_VD.grad is not None
    off = {}
    for tile_rows in (None, 1, 8):
        weight = weight_VD.clone().requires_grad_(True)
        fused_cross_entropy(hidden_ND, weight, ids_N, bias_V, tile_rows=tile_rows)[0].backward()
        assert weight.grad is not None
        off[tile_rows] = float((weight.grad.double() - exact_VD.grad).norm() / exact_VD.grad.norm())
    assert max(off[1], off[8]) <= 1.5 * off[None]


# --- extreme distributions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_of_a_confident_token_what_is_left_of_its_probability_is_its_gradient(dtype: torch.dtype) -> None:
    # p = 1 - 0.0026: in bfloat16 that is 0.996 or 1, and 1 - p would be 0.0039 or 0
    logits_NV = torch.zeros(1, 8, dtype=dtype)
    logits_NV[0, 3] = 7.9
    z = float(logits_NV[0, 3])
    left = 7 * math.exp(-z) / (1 + 7 * math.exp(-z))
    weight_VD = logits_NV.t().contiguous().requires_grad_(True)
    logp_N, _ = fused_logprobs(torch.ones(1, 1, dtype=dtype), weight_VD, torch.tensor([3]))
    assert float(logp_N.detach()) == pytest.approx(math.log1p(-left), abs=5e-7)
    logp_N.sum().backward()
    assert weight_VD.grad is not None
    assert float(weight_VD.grad[3, 0]) == pytest.approx(left, rel=2 * ROUNDING[dtype] + 1e-4)
    assert float(weight_VD.grad[0, 0]) == pytest.approx(-left / 7, rel=2 * ROUNDING[dtype])


def test_under_a_soft_cap_a_token_whose_probability_is_no_number_keeps_its_gradient() -> None:
    # cap 60, temperature 0.5: log p is near -140
    logits_NV = torch.tensor([[-40.0, 50.0, 0.0, 10.0]])
    found = []
    for dtype in (FP32, torch.float64):
        weight_VD = logits_NV.t().to(dtype).contiguous().requires_grad_(True)
        one_ND = torch.ones(1, 1, dtype=dtype)
        logp_N, _ = fused_logprobs(one_ND, weight_VD, torch.tensor([0]), 0.5, softcap=60.0)
        assert float(logp_N.detach()) < -110
        logp_N.sum().backward()
        assert weight_VD.grad is not None
        found.append(weight_VD.grad[:, 0].double())
    assert float(found[1][0]) > 0.5 and float(found[1][1]) < -0.5
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-30)


def test_in_low_precision_the_tokens_own_share_of_the_entropys_gradient_is_not_lost_beside_1() -> None:
    # p = 0.01: stored as p - 1 in bfloat16 it would be 0.0078 or 0.0117
    logits_NV = torch.tensor([[-2.53125, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    found = []
    for dtype in (BF16, torch.float64):
        weight_VD = logits_NV.t().to(dtype).contiguous().requires_grad_(True)
        _, entropy_N = fused_logprobs(torch.ones(1, 1, dtype=dtype), weight_VD, torch.tensor([0]))
        entropy_N.sum().backward()
        assert weight_VD.grad is not None
        found.append(float(weight_VD.grad[0, 0]))
    assert found[0] == pytest.approx(found[1], rel=3 * ROUNDING[BF16])


@pytest.mark.parametrize("gap", [60.0, 79.0, 81.0, 87.0, 88.0, 95.0, 103.0, 104.0, 150.0, 1e4])
def test_a_probability_too_small_for_a_number_has_the_right_logarithm(gap: float) -> None:
    logits_NV = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    ids_N = torch.tensor([4, 0, 49])
    logits_NV[torch.arange(3), ids_N] = -gap
    wanted_N, wanted_entropy_N = reference(logits_NV, ids_N)
    logp_N, entropy_N = of_biases(logits_NV, ids_N)
    torch.testing.assert_close(logp_N.double(), wanted_N, rtol=1e-6, atol=0)
    torch.testing.assert_close(entropy_N.double(), wanted_entropy_N, rtol=1e-6, atol=0)
    low_N, _ = of_biases(logits_NV.to(BF16), ids_N)
    low_wanted_N, _ = reference(logits_NV.to(BF16), ids_N)
    torch.testing.assert_close(low_N.double(), low_wanted_N, rtol=1e-4, atol=0)
    with_support_N, _ = fused_logprobs(
        torch.eye(3), logits_NV.t(), ids_N, support_NK=torch.stack([ids_N, (ids_N + 1) % 50], dim=1)
    )
    pair_N2 = logits_NV[torch.arange(3)[:, None], torch.stack([ids_N, (ids_N + 1) % 50], dim=1)].double()
    torch.testing.assert_close(with_support_N.double(), torch.log_softmax(pair_N2, dim=1)[:, 0], rtol=1e-6, atol=0)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.floats(-3e4, 3e4, width=16), min_size=1, max_size=6),
    st.floats(0, 1e3),
    st.sampled_from([FP32, BF16, FP16, torch.float64]),
    st.integers(0, 5),
    st.sampled_from([None, 30.0]),
)
def test_no_log_probability_is_above_0_and_no_entropy_out_of_its_range(
    logits: list[float], tail: float, dtype: torch.dtype, own: int, softcap: float | None
) -> None:
    # besides these logits 300 equal ones, so that sums have many terms
    logits_NV = torch.tensor([[*logits, *[logits[0] - tail] * 300]], dtype=torch.float64).clamp(-6e4, 6e4).to(dtype)
    ids_N = torch.tensor([own % logits_NV.shape[1]])
    ones_ND = torch.ones(1, 1, dtype=dtype, requires_grad=True)
    weight_VD = logits_NV.t().contiguous().requires_grad_(True)
    logp_N, entropy_N = fused_logprobs(ones_ND, weight_VD, ids_N, softcap=softcap)
    assert float(logp_N.detach()) <= 0
    assert 0 <= float(entropy_N.detach()) <= math.log(logits_NV.shape[1]) * (1 + 1e-6)
    bent_NV = logits_NV.double() if softcap is None else torch.tanh(logits_NV.double() / softcap) * softcap
    wanted_N, _ = reference(bent_NV, ids_N)
    if softcap is None:  # otherwise logits that are no numbers of this dtype
        torch.testing.assert_close(logp_N.detach().double(), wanted_N, rtol=1e-4, atol=2e-2 if dtype == BF16 else 5e-3)
    (logp_N.sum() + entropy_N.sum()).backward()
    assert weight_VD.grad is not None and weight_VD.grad.isfinite().all()


def test_a_distribution_without_doubt_has_no_entropy_and_no_gradient() -> None:
    logits_NV = torch.tensor([[300.0, 0.0, -300.0]])
    weight_VD = logits_NV.t().contiguous().requires_grad_(True)
    logp_N, entropy_N = fused_logprobs(torch.ones(1, 1), weight_VD, torch.tensor([0]))
    assert (float(logp_N.detach()), float(entropy_N.detach())) == (0.0, 0.0)
    (logp_N + entropy_N).sum().backward()
    assert weight_VD.grad is not None and not weight_VD.grad.any()


def test_equal_logits_have_the_entropy_of_their_number() -> None:
    logp_N, entropy_N = of_biases(torch.full((2, 1000), 5e3), torch.tensor([0, 999]))
    assert logp_N.tolist() == pytest.approx([-math.log(1000)] * 2, rel=1e-6)
    assert entropy_N.tolist() == pytest.approx([math.log(1000)] * 2, rel=1e-6)
