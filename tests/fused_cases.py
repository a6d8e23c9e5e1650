"""Small problems of output head and loss, and what plain torch makes of them: every logit, log_softmax, autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from loss_cases import make_case
from torch import Tensor

from rlvr.batching import Batch
from rlvr.fused import fused_policy_loss
from rlvr.loss_settings import Kl, Loss
from rlvr.losses import Sums, policy_loss

NAMES = ("hidden_BTD", "weight_VD", "bias_V")
Gradients = dict[str, Tensor]
"""value, and by name the gradient of each tensor that is trained."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A batch, the hidden states of its tokens, and a head."""

    hidden_BTD: Tensor
    """Column t predicts token t + 1."""
    weight_VD: Tensor
    bias_V: Tensor | None = None
    batch: Batch
    support_BTK: Tensor | None = None
    temperature: float = 1.0
    scale: float = 1.0
    softcap: float | None = None

    @property
    def hidden_ND(self) -> Tensor:
        return self.hidden_BTD[self.batch.predicts_BT]

    @property
    def ids_N(self) -> Tensor:
        return self.batch.ids_BT[self.batch.mask_BT]

    @property
    def support_NK(self) -> Tensor | None:
        return None if self.support_BTK is None else self.support_BTK[self.batch.mask_BT]

    def head(self) -> dict[str, Any]:
        """Of the fused functions, without the weight."""
        return {
            "bias": self.bias_V,
            "temperature": self.temperature,
            "scale": self.scale,
            "softcap": self.softcap,
            "support_NK": self.support_NK,
        }

    def rows(self, index: Tensor) -> Problem:
        """In this order, cut to the longest."""
        batch = self.batch.rows(index)
        T = batch.mask_BT.shape[1]
        support_BTK = None if self.support_BTK is None else self.support_BTK[index][:, :T]
        return replace(self, batch=batch, hidden_BTD=self.hidden_BTD[index][:, :T], support_BTK=support_BTK)

    def to(self, dtype: torch.dtype) -> Problem:
        """With hidden states and head in this dtype."""
        cast = {name: getattr(self, name).to(dtype) for name in NAMES if getattr(self, name) is not None}
        return replace(self, **cast)


def make_problem(
    seed: int,
    *,
    B: int = 3,
    T: int = 5,
    V: int = 11,
    D: int = 4,
    K: int | None = None,
    has_bias: bool = False,
    sharpness: float = 1.0,
    apart: float = 0.5,
    has_old: bool = True,
    **settings: Any,
) -> Problem:
    """float64. K: ids in the support of each token; apart: of the policies, nats; see make_case() for the batch."""
    case = make_case(seed, B, T, apart, has_old)
    rng = torch.Generator().manual_seed(seed + 1)
    ids_BT = torch.randint(0, V, (B, T), generator=rng)
    support_BTK = None
    if K is not None:
        others = torch.randint(-1, V, (B, T, K - 1), generator=rng)  # some more than once, some places empty
        support_BTK = torch.cat([others, ids_BT[..., None]], dim=-1)
    problem = Problem(
        hidden_BTD=torch.randn(B, T, D, generator=rng, dtype=torch.float64) * sharpness,
        weight_VD=torch.randn(V, D, generator=rng, dtype=torch.float64),
        bias_V=torch.randn(V, generator=rng, dtype=torch.float64) if has_bias else None,
        support_BTK=support_BTK,
        batch=replace(case.batch, ids_BT=ids_BT),
        **settings,
    )
    logp_BT = spread(scores(problem)[0], problem.batch.mask_BT)
    moved = {}
    for name in ("sampler_logp_BT", "old_logp_BT", "ref_logp_BT"):
        value_BT = getattr(case.batch, name)
        if value_BT is not None:  # as far from this policy as it was from the case's
            moved[name] = torch.where(problem.batch.mask_BT, logp_BT + value_BT - case.logp_BT, 0.0)
    return replace(problem, batch=replace(problem.batch, **moved))


@st.composite
def problems(draw: st.DrawFn, *, most_rows: int = 4) -> Problem:
    """Odd sizes, with and without each part of a head."""
    return make_problem(
        draw(st.integers(0, 2**31)),
        B=draw(st.integers(1, most_rows)),
        T=draw(st.integers(2, 6)),
        V=draw(st.sampled_from([1, 2, 11, 37])),
        D=draw(st.sampled_from([1, 4, 7])),
        K=draw(st.sampled_from([None, None, 1, 3])),
        has_bias=draw(st.booleans()),
        sharpness=draw(st.sampled_from([0.1, 1.0, 20.0])),
        apart=draw(st.sampled_from([0.05, 0.5, 3.0, 12.0])),
        has_old=draw(st.booleans()),
        temperature=draw(st.sampled_from([1.0, 0.7, 2.5])),
        scale=draw(st.sampled_from([1.0, 0.25, -1.5])),
        softcap=draw(st.sampled_from([None, None, 0.5, 30.0])),
    )


def spread(value_N: Tensor, mask_BT: Tensor) -> Tensor:
    return torch.zeros(mask_BT.shape, dtype=value_N.dtype).masked_scatter(mask_BT, value_N)


def scores(problem: Problem) -> tuple[Tensor, Tensor]:
    """(logp_N, entropy_N) of all logits."""
    logits_NV = problem.hidden_ND @ problem.weight_VD.t()
    if problem.bias_V is not None:
        logits_NV = logits_NV + problem.bias_V
    logits_NV = logits_NV * problem.scale
    if problem.softcap is not None:
        logits_NV = torch.tanh(logits_NV / problem.softcap) * problem.softcap
    outside_NV = torch.zeros_like(logits_NV, dtype=torch.bool)
    if problem.support_NK is not None:
        for n, support in enumerate(problem.support_NK.tolist()):
            outside_NV[n] = True
            outside_NV[n, [token for token in support if token >= 0]] = False
    logits_NV = (logits_NV / problem.temperature).masked_fill(outside_NV, -torch.inf)
    log_p_NV = torch.log_softmax(logits_NV, dim=-1)
    entropy_N = -(log_p_NV.exp() * log_p_NV.masked_fill(outside_NV, 0.0)).sum(dim=-1)
    return log_p_NV.gather(1, problem.ids_N[:, None])[:, 0], entropy_N


def dense(problem: Problem, loss: Loss, kl: Kl) -> Sums:
    logp_BT, entropy_BT = (spread(value_N, problem.batch.mask_BT) for value_N in scores(problem))
    return policy_loss(logp_BT, problem.batch, loss, kl, entropy_BT=entropy_BT)


def fused(problem: Problem, loss: Loss, kl: Kl, **how: Any) -> Sums:
    return fused_policy_loss(problem.hidden_ND, problem.weight_VD, problem.batch, loss, kl, **problem.head(), **how)


def leaves(problem: Problem, trained: tuple[str, ...] = NAMES) -> Problem:
    """A copy whose tensors can be asked for their gradient."""
    own = {name: getattr(problem, name) for name in NAMES}
    return replace(
        problem, **{n: x.detach().clone().requires_grad_(n in trained) for n, x in own.items() if x is not None}
    )


def gradients(problem: Problem, of: Callable[[Problem], Tensor], trained: tuple[str, ...] = NAMES) -> Gradients:
    """Of a scalar; where nothing depends on a tensor, 0."""
    problem = leaves(problem, trained)
    value = of(problem)
    value.backward()
    found = {"value": value.detach()}
    for name in trained:
        leaf = getattr(problem, name)
        if leaf is not None:
            found[name] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return found


def assert_equal(ours: Gradients, theirs: Gradients, tolerance: float, what: object = "") -> None:
    """Relative to the largest number of all, for sums cancel."""
    assert ours.keys() == theirs.keys()
    scale = max(1.0, *(float(x.abs().max()) for x in theirs.values()))
    for name, their in theirs.items():
        assert ours[name].isfinite().all() and ours[name].shape == their.shape, (name, what)
        apart = float((ours[name].double() - their.double()).abs().max())
        assert apart <= tolerance * scale, f"{name}: {apart:g} apart, the largest number is {scale:g}\n{what}"
