"""Triton kernels for CUDA: what Tiles does with a tile of logits between the matrix products.

Both work on the tile in place, in float32 registers, with offsets of 64 bits. tiles.py calls them for tiles on a GPU
where Triton is installed; nothing else imports this module, so that a machine without Triton does without it.

Verified without a GPU: their values against float64, as Triton's interpreter runs them, and that they compile for
compute capability 8.0, 9.0 and 10.0 (tests/test_kernels_without_gpu.py). On a GPU: tests/test_kernels.py.

N scored tokens, V vocabulary, C tokens of a tile.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rlvr.tiles import Head, Scored

_MOST_LOGITS = 8192
"""Of a row that a program works on at a time."""


def score(
    head: Head, tile_CV: Tensor, ids_C: Tensor, target_C: Tensor, *, entropy: bool, top: bool
) -> tuple[Scored, Tensor | None]:
    """(log-probabilities of ids_C, float32; whether no other token was likelier) of the products in tile_CV, which
    becomes softmax - 1 at the token's own id, softmax elsewhere.

    tile_CV: W h + b, rows contiguous, float32 or narrower; target_C: float32, the token's own logit behind cap and
    temperature, which stands for the one in the tile. The log-probability is target - max - log sum, however small.
    """
    C, V = tile_CV.shape
    assert tile_CV.stride(1) == 1
    logp_C = torch.empty(C, dtype=torch.float32, device=tile_CV.device)
    entropy_C = torch.empty_like(logp_C) if entropy else None
    top_C = torch.empty(C, dtype=torch.bool, device=tile_CV.device) if top else None
    inner, outer = _bend(head)
    block = min(triton.next_power_of_2(V), _MOST_LOGITS)
    with torch.cuda.device_of(tile_CV):
        _score[(C,)](
            tile_CV,
            tile_CV.stride(0),
            V,
            ids_C.contiguous(),
            target_C.contiguous(),
            logp_C,
            entropy_C,
            top_C,
            inner,
            outer,
            **_launch(block, HAS_CAP=head.softcap is not None, HAS_ENTROPY=entropy, HAS_TOP=top),
        )
    return Scored(logp_C, entropy_C, target_C), top_C


def weigh(
    head: Head, tile_CV: Tensor, ids_C: Tensor, scored: Scored, to_logp_C: Tensor, to_entropy_C: Tensor | None
) -> None:
    """What score() left becomes -dL/dlogits behind the cap's slope; to_logp_C, to_entropy_C: dL/dlogp, dL/dentropy."""
    C, V = tile_CV.shape
    assert tile_CV.stride(1) == 1
    assert to_entropy_C is None or scored.entropy_C is not None
    block = min(triton.next_power_of_2(V), _MOST_LOGITS)
    with torch.cuda.device_of(tile_CV):
        _weigh[(C, triton.cdiv(V, block))](
            tile_CV,
            tile_CV.stride(0),
            V,
            ids_C.contiguous(),
            scored.target_C.contiguous(),
            scored.logp_C,
            scored.entropy_C,
            to_logp_C.contiguous(),
            None if to_entropy_C is None else to_entropy_C.contiguous(),
            0.0 if head.softcap is None else head.temperature / head.softcap,
            **_launch(block, HAS_CAP=head.softcap is not None, HAS_ENTROPY=to_entropy_C is not None),
        )


def _launch(block: int, **flags: bool) -> dict[str, Any]:
    # a logit that a fused operation rounds otherwise than the maximum did would lie above it
    return {**flags, "BLOCK": block, "num_warps": max(1, block // 512), "enable_fp_fusion": False}


def _bend(head: Head) -> tuple[float, float]:
    """Head's logits are tanh(inner * product) * outer; without a cap inner * product."""
    if head.softcap is None:
        return head.scale / head.temperature, 1.0
    return head.scale / head.softcap, head.softcap / head.temperature


@triton.jit
def _tanh(x):
    """Of float32, to 4e-7 of itself: Triton has none that its interpreter knows too."""
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    square = x * x
    near = x * (1.0 - square * (1.0 / 3 - square * (2.0 / 15 - square * (17.0 / 315))))
    return tl.where(square < 0.04, near, tl.where(x < 0.0, -far, far))


@triton.jit
def _score(
    tile,
    stride,
    V,
    ids,
    targets,
    logps,
    entropies,
    tops,
    inner,
    outer,
    HAS_CAP: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
    HAS_TOP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a row, which it reads twice: for maximum and sums, then to write what is asked for."""
    row = tl.program_id(0).to(tl.int64)
    start = tile + row * stride
    own = tl.load(ids + row)
    target = tl.load(targets + row)
    most = target
    sum_others = 0.0
    sum_gaps = 0.0  # exp(gap) * gap, gap = logit - most: never above 0, so that the entropy has no cancellation
    for first in range(0, V, BLOCK):
        column = first + tl.arange(0, BLOCK)
        z = tl.load(start + column, mask=column < V, other=0.0).to(tl.float32)
        z = (_tanh(z * inner) * outer) if HAS_CAP else z * inner
        z = tl.where((column < V) & (column != own), z, -float("inf"))
        higher = tl.maximum(most, tl.max(z, axis=0))
        gap = z - higher
        e = tl.exp(gap)
        step = most - higher
        shrink = tl.exp(step)
        if HAS_ENTROPY:
            sum_gaps = (sum_gaps + sum_others * step) * shrink + tl.sum(e * tl.where(e > 0.0, gap, 0.0), axis=0)
        sum_others = sum_others * shrink + tl.sum(e, axis=0)
        most = higher
    gap = target - most
    e = tl.exp(gap)
    total = sum_others + e
    logp = gap - tl.log(total)
    tl.store(logps + row, tl.where(logp > 0.0, 0.0, logp))  # NaN stays
    if HAS_ENTROPY:
        entropy = tl.log(total) - (sum_gaps + e * tl.where(e > 0.0, gap, 0.0)) / total
        tl.store(entropies + row, tl.where(entropy < 0.0, 0.0, entropy))
    if HAS_TOP:
        tl.store(tops + row, target >= most)
    inverse = 1.0 / total
    for first in range(0, V, BLOCK):
        column = first + tl.arange(0, BLOCK)
        z = tl.load(start + column, mask=column < V, other=0.0).to(tl.float32)
        z = (_tanh(z * inner) * outer) if HAS_CAP else z * inner
        # p - 1 of the token itself as the others' share: exact where the token is almost certain
        p = tl.where(column == own, -sum_others * inverse, tl.exp(z - most) * inverse)
        tl.store(start + column, p.to(tile.dtype.element_ty), mask=column < V)


@triton.jit
def _weigh(
    tile,
    stride,
    V,
    ids,
    targets,
    logps,
    entropies,
    to_logps,
    to_entropies,
    share,
    HAS_CAP: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program for each block of a row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = tile + row * stride + column
    is_own = column == tl.load(ids + row)
    logp, to_logp = tl.load(logps + row), tl.load(to_logps + row)
    left = tl.load(place, mask=column < V, other=0.0).to(tl.float32)
    p = tl.where(is_own, tl.exp(logp), left)
    log_p = tl.where(is_own, logp, tl.log(p))
    grad = left * to_logp
    if HAS_ENTROPY:
        grad += tl.where(p > 0.0, p * (log_p + tl.load(entropies + row)), 0.0) * tl.load(to_entropies + row)
    if HAS_CAP:
        capped = (log_p + (tl.load(targets + row) - logp)) * share
        grad *= tl.maximum(1.0 - capped * capped, 0.0)  # a probability of 0 has a logarithm that is none
    tl.store(place, grad.to(tile.dtype.element_ty), mask=column < V)
