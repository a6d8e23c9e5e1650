"""Triton's kernels against float64 and against the plain path.

On a GPU; with TRITON_INTERPRET=1 on the CPU, where the tiles of a whole loss are sent through the kernels as well.
C tokens of a tile, N scored tokens, V vocabulary, D hidden.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr.batching import Batch
from rlvr.errors import NonFiniteError
from rlvr.fused import fused_cross_entropy, fused_logprobs, fused_policy_loss
from rlvr.loss_settings import Loss
from rlvr.tiles import Head, Scored, Tiles

HAS_TRITON = importlib.util.find_spec("triton") is not None
IS_INTERPRETED = HAS_TRITON and os.environ.get("TRITON_INTERPRET") == "1"
HAS_GPU = HAS_TRITON and torch.cuda.is_available()
DEVICE = "cpu" if IS_INTERPRETED else "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (IS_INTERPRETED or HAS_GPU), reason="needs Triton and a GPU, or its interpreter"),
]
gpu_alone = pytest.mark.skipif(IS_INTERPRETED, reason="needs a GPU")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-8}
"""Of what a tile holds, relative: the interpreter cuts off what a GPU rounds; a float16 below 6e-5 has fewer bits."""
BENT: dict[str, dict[str, Any]] = {
    "plain": {},
    "tempered": {"temperature": 0.7, "scale": 0.9},
    "capped": {"temperature": 0.7, "scale": 0.9, "softcap": 30.0},
}


@pytest.fixture
def through_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tile that may go through the kernels does so, on a CPU too."""
    if IS_INTERPRETED:
        monkeypatch.setattr(
            Tiles, "runs_kernels", lambda tiles, tile_CV: tile_CV.dtype in DTYPES and tiles.support_NK is None
        )


def run_score(
    head: Head, product_CV: Tensor, ids_C: Tensor, *, top: bool = False
) -> tuple[Scored, Tensor | None, Tensor]:
    """(scores, is top, the tile that is left); the own logit is as the product has it."""
    from rlvr import kernels

    tile_CV = product_CV.clone()
    target_C = bent(head, product_CV.float()).gather(1, ids_C[:, None])[:, 0]
    scored, top_C = kernels.score(head, tile_CV, ids_C, target_C, entropy=True, top=top)
    return scored, top_C, tile_CV


def bent(head: Head, product: Tensor) -> Tensor:
    if head.softcap is None:
        return product * (head.scale / head.temperature)
    return torch.tanh(product * (head.scale / head.softcap)) * (head.softcap / head.temperature)


def head_of(product_CV: Tensor, **options: Any) -> Head:
    return Head(weight_VD=product_CV.new_empty(product_CV.shape[1], 1), **options)


def products(C: int, V: int, dtype: torch.dtype, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(logits, ids)"""
    rng = torch.Generator().manual_seed(seed)
    product_CV = (torch.randn(C, V, generator=rng) * spread).to(dtype)
    return product_CV.to(DEVICE), torch.randint(0, V, (C,), generator=rng).to(DEVICE)


def relative(found: Tensor, expected: Tensor) -> float:
    gap = float((found.double() - expected).norm())
    return gap / max(float(expected.norm()), 1e-30)


# --- kernels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bend", BENT)
@pytest.mark.parametrize("V", [1, 2, 1000, 8192, 8195, 20011])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_and_gradients_are_those_of_float64(dtype: torch.dtype, V: int, bend: str) -> None:
    from rlvr import kernels

    for spread in (2.0, 40.0):
        product_CV, ids_C = products(5, V, dtype, spread)
        head = head_of(product_CV, **BENT[bend])
        scored, _, tile_CV = run_score(head, product_CV, ids_C)
        logits_CV = bent(head, product_CV.double())
        log_p_CV = logits_CV.log_softmax(dim=1)
        p_CV, own_C = log_p_CV.exp(), log_p_CV.gather(1, ids_C[:, None])[:, 0]
        entropy_C = -torch.xlogy(p_CV, p_CV).sum(dim=1)
        left_CV = p_CV.scatter(1, ids_C[:, None], torch.expm1(own_C)[:, None])

        within = 2e-6 + 3e-7 * float(logits_CV.abs().max())
        torch.testing.assert_close(scored.logp_C.double(), own_C, rtol=0, atol=within)
        assert scored.entropy_C is not None
        torch.testing.assert_close(scored.entropy_C.double(), entropy_C, rtol=1e-6, atol=within)
        assert relative(tile_CV, left_CV) <= ROUNDING[dtype] + within

        c_C, e_C = torch.linspace(-1.3, 1.1, 5, device=DEVICE), torch.linspace(0.2, -0.3, 5, device=DEVICE)
        for to_entropy_C in (None, e_C):
            weighed_CV = tile_CV.clone()
            kernels.weigh(head, weighed_CV, ids_C, scored, c_C, to_entropy_C)
            spread_CV = torch.xlogy(p_CV, p_CV) + p_CV * entropy_C[:, None]
            expected_CV = left_CV * c_C.double()[:, None]
            if to_entropy_C is not None:
                expected_CV = expected_CV + spread_CV * to_entropy_C.double()[:, None]
            if head.softcap is not None:
                expected_CV = expected_CV * (1 - (logits_CV * head.temperature / head.softcap).square())
            assert relative(weighed_CV, expected_CV) <= 2 * ROUNDING[dtype] + within


@pytest.mark.usefixtures("through_kernels")
@pytest.mark.parametrize("bend", BENT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernels_leave_what_the_plain_path_leaves(
    dtype: torch.dtype, bend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(3)
    hidden_ND, weight_VD = (torch.randn(*shape, generator=rng).to(DEVICE, dtype) for shape in ((7, 16), (1031, 16)))
    ids_N = torch.randint(0, 1031, (7,), generator=rng).to(DEVICE)
    head = Head(weight_VD=weight_VD, bias_V=torch.randn(1031, generator=rng).to(DEVICE, dtype), **BENT[bend])
    c_N, e_N = torch.randn(7, generator=rng).to(DEVICE), torch.randn(7, generator=rng).to(DEVICE)

    def both() -> tuple[Tensor, ...]:
        tiles = Tiles(head, ids_N, None, None, entropy=True, top=True)
        tile_CV = torch.empty(7, 1031, dtype=dtype, device=DEVICE)
        scored = tiles.score(hidden_ND, slice(0, 7), tile_CV)
        left_CV = tile_CV.clone()
        tiles.weigh(tile_CV, slice(0, 7), scored, c_N, e_N)
        assert scored.entropy_C is not None
        return scored.logp_C, scored.entropy_C, left_CV.float(), tile_CV.float(), tiles.is_top_N.float()

    ours = both()
    monkeypatch.setattr(Tiles, "runs_kernels", lambda tiles, tile_CV: False)
    within = 5 * ROUNDING[dtype]
    for name, found, plain, at_most in zip(
        ("logp", "entropy", "score", "weigh", "is_top"), ours, both(), (1e-5, 1e-5, within, within, 0), strict=True
    ):
        assert relative(found, plain.double()) <= at_most, name


def test_the_smallest_probabilities_have_exact_logarithms() -> None:
    product_CV = torch.tensor([[0.0, -87.0, 1.0], [0.0, -104.5, -3.0], [3.0e4, -3.0e4, 2.0e4]], device=DEVICE)
    scored, _, _ = run_score(head_of(product_CV), product_CV, torch.ones(3, dtype=torch.int64, device=DEVICE))
    expected_C = product_CV.double().log_softmax(dim=1)[:, 1]
    torch.testing.assert_close(scored.logp_C.double(), expected_C, rtol=1e-7, atol=0)


def test_a_token_that_is_almost_certain_leaves_the_others_share_to_the_last_digit() -> None:
    product_CV = torch.tensor([[30.0, 0.0, 1.0], [50.0, 2.0, 0.0]], device=DEVICE)
    scored, _, tile_CV = run_score(head_of(product_CV), product_CV, torch.zeros(2, dtype=torch.int64, device=DEVICE))
    others = [(1 + math.e) * math.exp(-30), (1 + math.exp(2)) * math.exp(-50)]  # 3.5e-13, 1.6e-21
    assert tile_CV[:, 0].tolist() == pytest.approx([-x / (1 + x) for x in others], rel=1e-5, abs=0)
    assert float(scored.logp_C.max()) <= 0
    assert scored.entropy_C is not None and float(scored.entropy_C.min()) >= 0


@pytest.mark.parametrize("V", [5, 8192, 9000])
def test_entropy_of_equals_is_the_logarithm_of_their_number(V: int) -> None:
    product_CV = torch.full((2, V), 1000.0, device=DEVICE)
    scored, _, _ = run_score(head_of(product_CV), product_CV, torch.tensor([0, V - 1], device=DEVICE))
    assert scored.entropy_C is not None
    assert scored.entropy_C.tolist() == pytest.approx([math.log(V)] * 2, rel=1e-6)
    assert scored.logp_C.tolist() == pytest.approx([-math.log(V)] * 2, rel=1e-6)


@pytest.mark.parametrize(("bad", "place"), [*itertools.product((math.nan, math.inf), (0, 3, 8193))])
def test_what_is_not_finite_shows_in_its_own_row_alone(bad: float, place: int) -> None:
    product_CV, _ = products(3, 8200, torch.float32, 2.0)
    product_CV[1, place] = bad
    scored, _, _ = run_score(head_of(product_CV), product_CV, torch.full((3,), 3, device=DEVICE))
    assert scored.entropy_C is not None
    for value_C in (scored.logp_C, scored.entropy_C):
        assert value_C.isfinite().tolist() == [True, False, True]


def test_a_token_that_a_bias_rules_out_counts_for_nothing() -> None:
    product_CV, ids_C = torch.zeros(1, 6, device=DEVICE), torch.tensor([2], device=DEVICE)
    product_CV[0, :2] = -math.inf
    scored, _, tile_CV = run_score(head_of(product_CV), product_CV, ids_C)
    assert scored.entropy_C is not None
    assert (scored.logp_C.item(), scored.entropy_C.item()) == pytest.approx((-math.log(4), math.log(4)))
    assert tile_CV.tolist()[0] == pytest.approx([0, 0, -0.75, 0.25, 0.25, 0.25])


def test_only_a_token_as_likely_as_any_other_is_the_top() -> None:
    product_CV = torch.tensor([[1.0, 3.0, 2.0], [3.0, 3.0, 2.0], [3.0, 2.0, 4.0]], device=DEVICE)
    _, top_C, _ = run_score(head_of(product_CV), product_CV, torch.tensor([1, 0, 0], device=DEVICE), top=True)
    assert top_C is not None and top_C.tolist() == [True, True, False]


def test_vectors_may_have_gaps_between_their_elements() -> None:
    from rlvr import kernels

    product_CV, ids_C = products(4, 50, torch.float32, 2.0)
    head = head_of(product_CV, softcap=30.0)
    scored, _, tile_CV = run_score(head, product_CV, ids_C)
    apart, _, also_CV = run_score(head, product_CV, ids_C.repeat_interleave(2)[::2])
    assert torch.equal(apart.logp_C, scored.logp_C) and torch.equal(also_CV, tile_CV)
    kernels.weigh(head, tile_CV, ids_C, scored, torch.full((4,), 2.0, device=DEVICE), None)
    one = torch.full((), 2.0, device=DEVICE)
    kernels.weigh(head, also_CV, ids_C.repeat_interleave(2)[::2], scored, one.expand(4), None)
    assert torch.equal(also_CV, tile_CV)


@gpu_alone
def test_rows_beyond_two_to_the_31_are_found() -> None:
    from rlvr import kernels

    C, V = 17000, 131072
    tile_CV = torch.zeros(C, V, dtype=torch.bfloat16, device=DEVICE)
    tile_CV[-1, 7] = 20.0
    ids_C = torch.full((C,), 7, device=DEVICE)
    head = Head(weight_VD=tile_CV.new_empty(V, 1), softcap=30.0)
    target_C = bent(head, tile_CV[:, 7].float())
    scored, _ = kernels.score(head, tile_CV, ids_C, target_C, entropy=False, top=False)
    last = -math.log1p((V - 1) * math.exp(-float(target_C[-1])))
    assert scored.logp_C[[0, -1]].tolist() == pytest.approx([-math.log(V), last], rel=1e-5)
    kernels.weigh(head, tile_CV, ids_C, scored, torch.full((C,), 2.0, device=DEVICE), None)
    slope = 1 - (float(target_C[-1]) / 30) ** 2
    assert float(tile_CV[-1, 7]) == pytest.approx(2 * slope * math.expm1(last), rel=2**-7)
    assert float(tile_CV[-1, 8]) == pytest.approx(2 * math.exp(last - float(target_C[-1])), rel=2**-7)


# --- the whole operation ---------------------------------------------------------------------------------------------

LOSSES: dict[str, dict[str, Any]] = {
    "token": {"aggregate": "token"},
    "token, one tile": {"aggregate": "token"},
    "entropy": {"aggregate": "token", "entropy_coef": 0.05},
    "sequence": {"aggregate": "sequence", "ratio": "sequence", "entropy_coef": 0.05},
}
GRADIENTS_FIT = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2}
"""Relative to their norm."""


def case(dtype: torch.dtype, frozen: bool, **options: Any) -> tuple[dict[str, Tensor], Batch]:
    """(hidden_ND, weight_VD, bias, on the device), batch of 4 rows of 9 tokens on the CPU; options: of the head."""
    rng = torch.Generator().manual_seed(11)
    B, T, D, V = 4, 9, 32, 601
    mask_BT = torch.rand(B, T, generator=rng) < 0.8
    mask_BT[:, 0] = False
    N = int(mask_BT.sum())
    made = {
        "hidden_ND": torch.randn(N, D, generator=rng),
        "weight_VD": torch.randn(V, D, generator=rng) * (2 / D**0.5),
        "bias": torch.randn(V, generator=rng),
    }
    tensors = {name: value.to(DEVICE, dtype) for name, value in made.items()}
    for name, value in tensors.items():
        value.requires_grad_(name == "hidden_ND" or not frozen)
    ids_BT = torch.randint(0, V, (B, T), generator=rng)
    with torch.no_grad():
        logp_N, _ = fused_logprobs(ids_N=ids_BT[mask_BT], **doubled(tensors), **options)
    old_BT = torch.zeros(B, T, dtype=torch.float64).masked_scatter(mask_BT, logp_N)
    old_BT += mask_BT * (torch.rand(B, T, generator=rng, dtype=torch.float64) - 0.5) * 0.2
    return tensors, Batch.of(ids_BT, mask_BT, adv=torch.tensor([1.0, -0.5, 0.7, -1.2]), old_logp_BT=old_BT)


def doubled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers in float64 on the CPU."""
    return {name: value.detach().cpu().double().requires_grad_(value.requires_grad) for name, value in tensors.items()}


def assert_gradients_fit(found: dict[str, Tensor], exact: dict[str, Tensor], within: float) -> None:
    for name, value in exact.items():
        if value.requires_grad:
            grad, expected = found[name].grad, value.grad
            assert grad is not None and expected is not None
            assert grad.dtype == found[name].dtype
            assert relative(grad.cpu(), expected) <= within, name
        else:
            assert found[name].grad is None


@pytest.mark.usefixtures("through_kernels")
@pytest.mark.parametrize("softcap", [None, 20.0])
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_fused_loss_and_its_gradients_are_those_of_float64(
    dtype: torch.dtype, frozen: bool, kind: str, softcap: float | None
) -> None:
    options = {"temperature": 0.9, "softcap": softcap}
    tensors, batch = case(dtype, frozen, **options)
    exact = doubled(tensors)
    loss = Loss.model_validate(LOSSES[kind])

    def run(at: dict[str, Tensor], on: Batch, rows: int | None) -> tuple[float, Tensor]:
        sums = fused_policy_loss(batch=on, loss=loss, tile_rows=rows, **at, **options)
        (sums.loss * 0.5).backward()
        assert sums.logp_BT is not None
        return float(sums.loss.detach()), sums.logp_BT

    old_BT = batch.old_logp_BT
    assert old_BT is not None
    value, logp_BT = run(tensors, replace(batch, old_logp_BT=old_BT.float()).to(DEVICE), None if "one" in kind else 6)
    expected, exact_BT = run(exact, batch, None)
    rounding = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    assert value == pytest.approx(expected, abs=rounding * batch.num_tokens)
    assert float((logp_BT.cpu().double() - exact_BT).abs().mean()) <= rounding / 2
    assert_gradients_fit(tensors, exact, GRADIENTS_FIT[dtype])


@pytest.mark.usefixtures("through_kernels")
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("with_support", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fused_logprobs_and_their_gradients_are_those_of_float64(
    dtype: torch.dtype, with_support: bool, frozen: bool
) -> None:
    tensors, batch = case(dtype, frozen)
    ids_N = batch.ids_BT[batch.mask_BT]
    support_NK = torch.stack([ids_N, (ids_N + 5) % 601, (ids_N + 9) % 601, torch.full_like(ids_N, -1)], dim=1)

    def run(at: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        device = at["hidden_ND"].device
        options = {"support_NK": support_NK.to(device) if with_support else None, "tile_rows": 6}
        logp_N, entropy_N = fused_logprobs(ids_N=ids_N.to(device), temperature=0.8, **at, **options)
        (logp_N.sum() + entropy_N.sum()).backward()  # gradients of stride 0
        return logp_N.detach().cpu().double(), entropy_N.detach().cpu().double()

    exact = doubled(tensors)
    within = {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    for found_N, expected_N in zip(run(tensors), run(exact), strict=True):
        torch.testing.assert_close(found_N, expected_N, rtol=0, atol=within)
    assert_gradients_fit(tensors, exact, 2 * GRADIENTS_FIT[dtype])


@pytest.mark.usefixtures("through_kernels")
def test_cross_entropy_counts_the_same_right_guesses() -> None:
    tensors, batch = case(torch.float32, frozen=False)
    exact = doubled(tensors)
    likeliest_N = (exact["hidden_ND"] @ exact["weight_VD"].T + exact["bias"]).argmax(dim=1)
    ids_N = torch.where(torch.arange(len(likeliest_N)) % 2 == 0, likeliest_N, batch.ids_BT[batch.mask_BT])
    expected, exact_top_N = fused_cross_entropy(ids_N=ids_N, **exact)
    total, top_N = fused_cross_entropy(ids_N=ids_N.to(DEVICE), tile_rows=6, **tensors)
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert top_N.tolist() == exact_top_N.tolist()
    assert 0 < sum(top_N.tolist()) < len(ids_N)


@pytest.mark.usefixtures("through_kernels")
def test_a_token_that_is_not_finite_is_named() -> None:
    tensors, batch = case(torch.float32, frozen=False)
    with torch.no_grad():
        tensors["hidden_ND"][7] = math.nan
    row, column = batch.mask_BT.nonzero()[7].tolist()
    with pytest.raises(NonFiniteError, match=f"row {row}, column {column}"):
        fused_policy_loss(batch=batch.to(DEVICE), loss=Loss(), tile_rows=6, **tensors)


@gpu_alone
@pytest.mark.parametrize("frozen", [False, True])
def test_extra_memory_is_gradients_and_a_tile(frozen: bool) -> None:
    D, V, rows = 1024, 50000, 512

    def peak(N: int) -> int:
        """Bytes beside the inputs, gradients included."""
        rng = torch.Generator(DEVICE).manual_seed(0)
        hidden_ND = torch.randn(N, D, generator=rng, device=DEVICE).bfloat16().requires_grad_()
        weight_VD = (torch.randn(V, D, generator=rng, device=DEVICE) * 0.05).bfloat16().requires_grad_(not frozen)
        ids_BT = torch.randint(0, V, (N // 64, 65), generator=rng, device=DEVICE)
        mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
        mask_BT[:, 0] = False
        batch = Batch.of(ids_BT, mask_BT, adv=torch.ones(N // 64, device=DEVICE))
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        fused_policy_loss(hidden_ND, weight_VD, batch, Loss(), tile_rows=rows).loss.backward()
        return torch.cuda.max_memory_allocated() - before

    peak(2048)  # the products' own workspace stays allocated
    few, many = peak(2048), peak(8192)
    weight_grad = 0 if frozen else 4 * V * D + 2 * V * D  # summed in float32, then in the weight's dtype
    assert few <= 1.1 * (weight_grad + 2 * 2 * 2048 * D + 2 * rows * V)
    assert many - few <= 1.1 * 2 * 2 * 6144 * D
