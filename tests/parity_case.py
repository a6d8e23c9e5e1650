"""What a peer's arguments mean in our settings: each loss of a vector file becomes a few calls of our own.

The names are those of the peers' functions, their defaults those of the versions that the files name. A loss may be a
sum of terms (an entropy bonus that another number divides than the policy's), each with its divisor.
B sequences, T tokens, N trained tokens, V vocabulary, D hidden.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rlvr.batching import Batch
from rlvr.loss_settings import Clip, Correction, CorrectionMask, Kl, Loss
from rlvr.losses import correction_weights

EXACT = 1e-9
"""Between weights that a file gives and exp(old - sampler)."""


class Disagreement(Exception):
    """A peer's loss that is not ours on purpose; the text says why."""


class Unknown(Exception):
    """A case that says something nobody here understands."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """policy_loss(..., batch, loss, kl).loss / divisor; with `estimate` the sum of kl_estimate() over it instead."""

    batch: Batch
    loss: Loss
    divisor: float
    kl: Kl = field(default_factory=Kl)
    estimate: str | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    kind: str
    source: str
    params: dict[str, Any]
    tol: float

    @property
    def words(self) -> list[str]:
        """Of the source, then of the name, which says the function where the source does not."""
        return [*re.findall(r"\w+", self.source), *self.name.split(".")]

    def function(self, table: Mapping[str, Any]) -> str:
        """Which of the table's functions the case is about."""
        found = next((word for word in self.words if word in table), None)
        if found is None:
            raise Unknown(f"no function of {self.source!r} is known, one of {', '.join(table)}")
        return found


class Params:
    """A case's parameters; what was not asked for at the end is unknown."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.given = dict(params)
        self.known = {"lo", "hi", "Lmax", "temperature", "index", *(name for name in params if name.startswith("note"))}

    def __call__(self, *names: str, default: Any = None) -> Any:
        """The first of these that is given and not null."""
        self.known.update(names)
        return next((self.given[name] for name in names if self.given.get(name) is not None), default)

    def unknown(self) -> list[str]:
        return sorted(set(self.given) - self.known)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Of a file, float64."""

    arrays: dict[str, Tensor]
    temperature: float

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.arrays:
            raise Unknown(f"the file has no inputs/{name}")
        return self.arrays[name]

    @property
    def mask_BT(self) -> Tensor:
        return self["mask"].bool()

    @property
    def rows(self) -> int:
        return len(self.mask_BT)

    @property
    def tokens(self) -> int:
        return int(self.mask_BT.sum())

    @property
    def sequences(self) -> int:
        """With a trained token."""
        return int(self.mask_BT.any(dim=1).sum())

    @property
    def adv_BT(self) -> Tensor:
        adv = self["adv"]
        return adv[:, None].expand(self.mask_BT.shape) if adv.ndim == 1 else adv

    def groups(self, size: int) -> Tensor:
        if self.rows % size:
            raise Unknown(f"{self.rows} rows are no groups of {size}")
        return torch.arange(self.rows) // size

    def batch(self, **changes: Any) -> Batch:
        """All that the file has; changes: fields of Batch."""
        batch = Batch.of(
            self["ids"].long(),
            self.mask_BT,
            adv=self.adv_BT,
            old_logp_BT=self["old"],
            ref_logp_BT=self["ref"],
            sampler_logp_BT=self["samp"],
            reward_B=self["rewards"],
        )
        return replace(batch, **changes)

    def only(self, **changes: Any) -> Batch:
        """Without advantages: for what is no surrogate."""
        return self.batch(adv_BT=torch.zeros_like(self.adv_BT), **changes)


def logits(x: Inputs) -> Tensor:
    return x["hidden"] @ x["weight"].T / x.temperature


def logprobs(x: Inputs) -> Tensor:
    """[B, T]"""
    return logits(x).log_softmax(dim=-1).gather(2, x["ids"].long()[..., None])[..., 0]


def entropy(x: Inputs) -> Tensor:
    logp_BTV = logits(x).log_softmax(dim=-1)
    return -(logp_BTV.exp() * logp_BTV).sum(dim=-1)


def clipped(batch: Batch, low: float, high: float, cap: float | None) -> list[tuple[Batch, Clip]]:
    """Dual clip as verl, NeMo-RL and OpenRLHF have it: r below 1 + high where A > 0, below `cap` where A < 0."""
    if cap is None or cap > 1 + high:
        return [(batch, Clip(low=low, high=high, dual=cap))]
    # our upper bounds are ordered; `high` says nothing where A < 0, nor `dual` where A > 0
    assert batch.adv_BT is not None
    positive, negative = batch.adv_BT.clamp(min=0), batch.adv_BT.clamp(max=0)
    return [
        (replace(batch, adv_BT=positive), Clip(low=low, high=high)),
        (replace(batch, adv_BT=negative), Clip(low=low, high=0.0, dual=cap)),
    ]


def weights_of(x: Inputs, name: str) -> tuple[Correction | None, Tensor]:
    """(the correction that gives the file's ready-made weights on all trained tokens, or None; the weights [B, T])

    The cap of "..._truncate" and the bounds of "..._mask" are in the weights themselves.
    """
    weight_BT = x[f"is_ratio_{name}"].expand(x.mask_BT.shape)
    level, _, kind = name.partition("_")
    if level not in ("token", "sequence") or kind not in ("truncate", "mask"):
        raise Unknown(f"is_ratio must be (token|sequence)_(truncate|mask), got {name!r}")
    whole = correction_weights(x["old"], x["samp"], x.mask_BT, Correction(weight=level, cap=None))
    rho_N, weight_N = whole[x.mask_BT], weight_BT[x.mask_BT]
    same_N = (rho_N - weight_N).abs() <= EXACT * rho_N
    if bool(same_N.all()):
        correction = Correction(weight=level, cap=None)
    elif kind == "truncate":
        correction = Correction(weight=level, cap=float(weight_N.max()))
    elif bool(same_N.any()):
        bounds = CorrectionMask(
            level=level, low=float(rho_N[same_N].min()), high=float(rho_N[same_N].max()) * (1 + EXACT)
        )
        correction = Correction(weight=level, cap=None, mask=bounds)
    else:
        return None, weight_BT
    ours_BT = correction_weights(x["old"], x["samp"], x.mask_BT, correction)
    is_ours = bool(((ours_BT[x.mask_BT] - weight_N).abs() <= EXACT * (1 + weight_N)).all())
    return (correction if is_ours else None), weight_BT


def corrected(x: Inputs, name: str | None, batch: Batch) -> tuple[Correction | None, Batch]:
    """Weights that are no exp(old - sampler) of the batch go into the advantages: each surrogate of ours is linear in
    them."""
    if name is None:
        return None, batch
    correction, weight_BT = weights_of(x, name)
    if correction is not None and batch.old_logp_BT is not None:
        return correction, batch
    assert batch.adv_BT is not None
    return None, replace(batch, adv_BT=batch.adv_BT * weight_BT)


def penalty(x: Inputs, kind: str, coef: float, aggregate: str, divisor: float) -> Term:
    """A KL term alone. Plain k1, whose gradient has mean 0, is no loss of ours: its estimate is summed up as it is."""
    loss = Loss(surrogate="reinforce", aggregate=aggregate)  # pyright: ignore[reportArgumentType]
    if kind != "k1":
        return Term(batch=x.only(), loss=loss, kl=Kl(coef=coef, kind=kind), divisor=divisor)  # pyright: ignore[reportArgumentType]
    if aggregate not in ("token", "constant", "sequence_sum"):
        raise Unknown("k1 alone is summed over tokens here, not averaged over each sequence")
    return Term(batch=x.only(), loss=loss, divisor=divisor / coef, estimate="k1")
