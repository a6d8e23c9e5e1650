"""Batches and settings that tests of the loss share: small ragged batches, every valid Loss and Kl, and gradients."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from rlvr.batching import Batch
from rlvr.loss_settings import Clip, Correction, CorrectionMask, Dppo, Kl, Loss, Sapo, Vespo
from rlvr.losses import count, divisor, policy_loss

MAX_TOKENS = 7
LEVELS = ("token", "sequence", "geometric")
RATIOS = ("token", "sequence", "sequence_token")
AGGREGATES = ("token", "sequence", "sequence_sum", "constant", "prompt")

# What may stand in a recipe, as names: (surrogate, ratio, variant), (anchor, correction's weight, its mask), KL.
SURROGATES = [
    *itertools.product(("clip",), RATIOS, ("plain", "dual")),
    *itertools.product(("cispo", "sapo"), RATIOS, ("plain",)),
    *itertools.product(("gmpo", "vespo", "reinforce"), ("token",), ("plain",)),
    *itertools.product(("dppo",), ("token",), ("plain", "any_sign")),
]
CORRECTIONS = [
    ("sampler", None, None),
    ("old", None, None),
    *(
        (("old", weight, mask))
        for weight, mask in itertools.product((None, *LEVELS), (None, *LEVELS))
        if weight or mask
    ),
]
KLS = [
    ("none", None, False),
    ("reward", "k1", False),
    *(
        ("loss", kind, weighted)
        for kind, weighted in itertools.product((None, "k1", "k2", "k3", "k3+", "abs"), (False, True))
        if (kind, weighted) != ("k1", False)
    ),
]
Number = Callable[[float, float], float]


def make_loss(
    surrogate: tuple[str, str, str], corrected: tuple[str, Any, Any], extras: dict[str, Any], number: Number
) -> Loss:
    """number(low, high) draws what is a matter of degree."""
    name, ratio, variant = surrogate
    anchor, weight, mask = corrected
    high = number(0.0, 0.5)
    settings: dict[str, Any] = {"surrogate": name, "ratio": ratio, "anchor": anchor, **extras}
    settings["clip"] = Clip(
        low=number(0.0, 1.0), high=high, dual=high + number(1.01, 3.0) if variant == "dual" else None
    )
    if name == "sapo":
        settings["sapo"] = Sapo(tau_pos=number(0.5, 2.0), tau_neg=number(0.5, 2.0))
    if name == "vespo":
        settings["vespo"] = Vespo(**{f"{x}_{s}": number(0.0, 4.0) for x in ("k", "lambda") for s in ("pos", "neg")})
    if name == "dppo":
        settings["dppo"] = Dppo(high=number(0.0, 0.4), low=number(0.0, 0.4), any_sign=variant == "any_sign")
    if (weight or mask) and name != "vespo":  # which weighs the sampler's own ratios
        outside = mask and CorrectionMask(level=mask, low=number(0.1, 0.9), high=number(1.1, 3.0))
        cap = number(0.3, 3.0) if number(0.0, 1.0) < 0.7 else None
        settings["correction"] = Correction(weight=weight, cap=cap, mask=outside)
    return Loss(**settings)


def make_kl(name: tuple[str, Any, bool], number: Number) -> Kl:
    where, kind, weighted = name
    if where == "none":
        return Kl()
    return Kl(coef=number(0.01, 0.5), kind=kind, weighted=weighted, where=where)


def extras(choose: Callable[[list[Any]], Any], number: Number) -> dict[str, Any]:
    aggregate = choose(list(AGGREGATES))
    nll = choose([False, aggregate != "constant"])
    return {
        "aggregate": aggregate,
        "opsm": choose([None, number(0.0, 0.3)]),
        "entropy_coef": choose([0.0, number(0.001, 0.3)]),
        "positive_nll": number(0.01, 1.0) if nll else 0.0,
        "positive_above": choose([0.5, 0.0]),
    }


@st.composite
def settings_of_loss(draw: st.DrawFn) -> tuple[Loss, Kl]:
    """Every combination that the recipe takes."""

    def number(low: float, high: float) -> float:
        return draw(st.integers(0, 1000)) / 1000 * (high - low) + low

    def choose(values: list[Any]) -> Any:
        return draw(st.sampled_from(values))

    loss = make_loss(choose(SURROGATES), choose(CORRECTIONS), extras(choose, number), number)
    return loss, make_kl(choose(KLS), number)


def every_pair(seed: int) -> Iterator[tuple[Loss, Kl]]:
    """Every surrogate with every correction, every KL with every surrogate, the rest at random."""
    rng = random.Random(seed)
    for number, (surrogate, corrected) in enumerate(itertools.product(SURROGATES, CORRECTIONS)):
        loss = make_loss(surrogate, corrected, extras(rng.choice, rng.uniform), rng.uniform)
        yield loss, make_kl(KLS[number % len(KLS)], rng.uniform)


@dataclass(frozen=True)
class Case:
    logp_BT: Tensor
    entropy_BT: Tensor
    batch: Batch

    def rows(self, index: Tensor) -> Case:
        batch = self.batch.rows(index)
        longest = batch.mask_BT.shape[1]
        return Case(self.logp_BT[index][:, :longest], self.entropy_BT[index][:, :longest], batch)


def make_case(seed: int, B: int, T: int, apart: float, has_old: bool = True) -> Case:
    """Ragged rows with holes, some without trained tokens, tokens without advantage, policies `apart` by some nats."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    def near(value_BT: Tensor) -> Tensor:
        return torch.where(mask_BT, value_BT + normal(B, T) * apart, 0.0)

    length_B = torch.randint(2, T + 1, (B,), generator=rng)
    mask_BT = (torch.rand(B, T, generator=rng) < 0.7) & (torch.arange(T) < length_B[:, None])
    mask_BT[:, 0] = False
    mask_BT[0, 1] = True
    logp_BT = torch.where(mask_BT, -normal(B, T).abs() - 0.05, 0.0)
    adv_BT = normal(B, 1).expand(B, T) if seed % 2 else normal(B, T)
    adv_BT = torch.where(torch.rand(B, 1 if seed % 3 else T, generator=rng) < 0.25, 0.0, adv_BT)
    batch = Batch(
        ids_BT=torch.zeros(B, T, dtype=torch.int64),
        mask_BT=mask_BT,
        length_B=length_B,
        group_B=torch.randint(0, 3, (B,), generator=rng),
        reward_B=torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)[torch.randint(0, 3, (B,), generator=rng)],
        sampler_logp_BT=near(logp_BT),
        old_logp_BT=near(logp_BT) if has_old else None,
        ref_logp_BT=near(logp_BT),
        adv_BT=torch.where(mask_BT, adv_BT, 0.0),
    )
    return Case(logp_BT, torch.where(mask_BT, normal(B, T).abs(), 0.0), batch)


@st.composite
def cases(draw: st.DrawFn, *, most_rows: int = 4) -> Case:
    seed, B, T = draw(st.integers(0, 2**31)), draw(st.integers(1, most_rows)), draw(st.integers(2, 6))
    return make_case(seed, B, T, draw(st.sampled_from([0.0, 0.05, 0.5, 3.0, 12.0])), draw(st.booleans()))


def step_loss(case: Case, loss: Loss, kl: Kl) -> Tensor:
    """Of a batch that is the whole step, or of a part of one that carries the counts of it."""
    counts = case.batch.counts or count(case.batch, loss)
    sums = policy_loss(case.logp_BT, case.batch, loss, kl, entropy_BT=case.entropy_BT)
    return sums.loss / divisor(counts, loss, MAX_TOKENS)


Gradients = tuple[float, Tensor, Tensor]


def gradients(case: Case, of: Callable[[Case], Tensor]) -> Gradients:
    """Value, and gradient to the log-probabilities and to the entropies (0 where nothing depends on them)."""
    logp_BT, entropy_BT = case.logp_BT.clone().requires_grad_(True), case.entropy_BT.clone().requires_grad_(True)
    value = of(replace(case, logp_BT=logp_BT, entropy_BT=entropy_BT))
    found = [None, None]
    if value.requires_grad:
        found = torch.autograd.grad(value, (logp_BT, entropy_BT), allow_unused=True)
    to_logp, to_entropy = (torch.zeros_like(logp_BT) if g is None else g for g in found)
    return float(value.detach()), to_logp, to_entropy


def assert_equal(ours: Gradients, theirs: Gradients, tolerance: float, what: object = "") -> None:
    """Relative to the largest number, for sums cancel."""
    scale = max(1.0, abs(theirs[0]), float(theirs[1].abs().max()))
    assert abs(ours[0] - theirs[0]) <= tolerance * scale, f"value {ours[0]!r} is not {theirs[0]!r} {what}"
    for name, our, their in zip(("logp", "entropy"), ours[1:], theirs[1:], strict=True):
        apart = float((our - their).abs().max())
        assert apart <= tolerance * scale, f"gradients to {name} are {apart:g} apart\n{our}\n{their}\n{what}"
