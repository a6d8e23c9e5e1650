"""Output head and loss in one operation: hidden states in, loss and gradients out, never more logits than one tile.

Three matrix products of the size tokens x hidden x vocabulary are all that a head which is trained needs: logits, the
gradient of the hidden states, that of the weight. The gradients are made while the tile is still there, which asks for
dL/dlogp before it is gone: losses.py gives it, for as many tokens as its formula must see together. A frozen head needs
two products: the gradient of each log-probability is kept, and any loss scales its rows.

N scored tokens, V vocabulary, D hidden, C tokens of a tile, K tokens of a support, B sequences, T tokens.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from rlvr.batching import Batch, spread
from rlvr.errors import NonFiniteError
from rlvr.loss_settings import Kl, Loss
from rlvr.losses import Sums, Tokens, carries_gradient, check_finite, flatten, is_token_local, policy_sums, total_loss
from rlvr.tiles import Gradients, Head, Tiles, slices

_NO_KL = Kl()
Function = TypeVar("Function", bound=Callable[..., Any])


def _eager(function: Function) -> Function:
    """Inside of torch.compile a break of the graph: what is compiled around it stays so."""
    return torch.compiler.disable(function)  # pyright: ignore[reportReturnType]


@_eager
def fused_policy_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    batch: Batch,
    loss: Loss,
    kl: Kl = _NO_KL,
    bias: Tensor | None = None,
    *,
    temperature: float = 1.0,
    scale: float = 1.0,
    softcap: float | None = None,
    support_NK: Tensor | None = None,
    entropy: bool = False,
    expected_grad: float = 1.0,
    tile_rows: int | None = None,
) -> Sums:
    """policy_loss() of the log-probabilities of batch.ids_BT under softmax(cap(scale * (W h + b)) / temperature).

    hidden_ND: hidden_BTD[batch.predicts_BT], the last hidden states that predict the trained tokens, row by row;
    weight_VD, bias [V]: of the output head, trained or frozen; support_NK: int64, see fused_logprobs(). Work: a frozen
    head 2 products of N x D x V (4NDV floating point operations), a trained one 3; a completion longer than a tile
    costs one more where the loss looks at whole completions. Tokens without gradient (losses.carries_gradient) are
    dropped before the first product and are not in the metrics.

    The gradient is made for a loss that is multiplied by `expected_grad`, 1 / divisor() in a loop: any other factor is
    as right, but costs a pass over the weight's gradient (float16: it must be of the size of the real one, a loss scale
    included, or the gradient underflows). entropy: also sum it up in the metrics where the loss does
    not need it. tile_rows: tokens whose logits exist at a time, chosen by size without it.
    ValueError names the argument, NonFiniteError the token. Not for double backward.
    """
    tokens = flatten(batch, loss, kl)
    ids_N = batch.ids_BT[batch.mask_BT]
    head = Head(weight_VD=weight_VD, bias_V=bias, temperature=temperature, scale=scale, softcap=softcap)
    hidden_ND, head = _checked(hidden_ND, head, ids_N, support_NK, tile_rows, expected_grad)
    scored_N = carries_gradient(tokens, loss, kl)
    if not bool(scored_N.all()):
        index_N = scored_N.nonzero()[:, 0]
        hidden_ND, ids_N, tokens = hidden_ND.index_select(0, index_N), ids_N[index_N], tokens.pick(index_N)
        support_NK = None if support_NK is None else support_NK[index_N]
    scored_BT = spread(scored_N, batch.mask_BT)
    tiles = Tiles(head, ids_N, support_NK, tile_rows, entropy=entropy or loss.entropy_coef > 0)
    if not len(ids_N):  # sums of nothing, which have a gradient all the same
        empty = (hidden_ND, head.weight_VD[:0], *(() if head.bias_V is None else (head.bias_V[:0],)))
        total = torch.stack([part.double().sum() for part in empty]).sum()
        metrics, logp_N = {}, hidden_ND.new_zeros(0, dtype=head.dtype)
    elif _is_recording(hidden_ND, head) and (head.is_trained or loss.entropy_coef > 0):
        terms = _PolicyTerms(tokens, loss, kl)
        total, logp_N = _SinglePass.apply(hidden_ND, head.weight_VD, head.bias_V, tiles, terms, expected_grad)
        metrics = terms.metrics
    else:
        logp_N, entropy_N = _LogProbs.apply(
            hidden_ND, head.weight_VD, head.bias_V, tiles, _is_recording(hidden_ND, head)
        )
        total, metrics = total_loss(logp_N, entropy_N, tokens, loss, kl)
    _check_finite(hidden_ND, logp_N, scored_BT)
    return policy_sums(batch, scored_BT, logp_N, total, metrics)


@_eager
def fused_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    ids_N: Tensor,
    bias: Tensor | None = None,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    expected_grad: float = 1.0,
    tile_rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(sum of -log p of ids_N, nats, float64 with gradient; bool [N]: no other token was likelier).

    Head, tiles, expected_grad and errors as in fused_policy_loss().
    """
    head = Head(weight_VD=weight_VD, bias_V=bias, scale=scale, softcap=softcap)
    hidden_ND, head = _checked(hidden_ND, head, ids_N, None, tile_rows, expected_grad)
    tiles = Tiles(head, ids_N, None, tile_rows, top=True)
    if _is_recording(hidden_ND, head):
        total, logp_N = _SinglePass.apply(hidden_ND, head.weight_VD, head.bias_V, tiles, _Likelihood(), expected_grad)
    else:
        logp_N, _ = _LogProbs.apply(hidden_ND, head.weight_VD, head.bias_V, tiles, False)
        total = -logp_N.double().sum()
    _check_finite(hidden_ND, logp_N, torch.ones_like(ids_N, dtype=torch.bool)[:, None])
    return total, tiles.is_top_N


@_eager
def fused_logprobs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    ids_N: Tensor,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    support_NK: Tensor | None = None,
    tile_rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(logp_N, entropy_N) in nats, float32 (float64 of float64 input), both with gradient, for any loss.

    support_NK: int64, the ids that the sampler's top-p and top-k had left for each token, -1 behind them: the
    distribution is that over them alone. With a frozen head the gradient of logp_N costs 2 products in all, otherwise 4
    (the logits are made again in the backward pass), and so does that of entropy_N. Head and errors as in
    fused_policy_loss().
    """
    head = Head(weight_VD=weight_VD, bias_V=bias, temperature=temperature, scale=scale, softcap=softcap)
    hidden_ND, head = _checked(hidden_ND, head, ids_N, support_NK, tile_rows)
    tiles = Tiles(head, ids_N, support_NK, tile_rows, entropy=True)
    logp_N, entropy_N = _LogProbs.apply(hidden_ND, head.weight_VD, head.bias_V, tiles, _is_recording(hidden_ND, head))
    _check_finite(hidden_ND, logp_N, torch.ones_like(ids_N, dtype=torch.bool)[:, None])
    return logp_N, entropy_N


# --- input -----------------------------------------------------------------------------------------------------------


def _is_recording(hidden_ND: Tensor, head: Head) -> bool:
    return torch.is_grad_enabled() and (hidden_ND.requires_grad or head.is_trained)


def _checked(
    hidden_ND: Tensor,
    head: Head,
    ids_N: Tensor,
    support_NK: Tensor | None,
    tile_rows: int | None,
    expected_grad: float = 1.0,
) -> tuple[Tensor, Head]:
    """(hidden_ND, head), both whole and of one dtype. ValueError names what does not fit."""
    weight_VD, bias_V = _whole(head.weight_VD), None if head.bias_V is None else _whole(head.bias_V)
    if ids_N.ndim != 1 or ids_N.dtype != torch.int64 or not len(ids_N):
        raise ValueError(f"ids_N must be int64 [N] with N >= 1, got {ids_N.dtype} {tuple(ids_N.shape)}")
    if weight_VD.ndim != 2:
        raise ValueError(f"weight_VD must have shape [V, D], got {tuple(weight_VD.shape)}")
    V, D = weight_VD.shape
    if hidden_ND.shape != (len(ids_N), D):
        raise ValueError(
            f"hidden_ND must have one row per trained token and the columns of weight_VD {(len(ids_N), D)}, got "
            f"{tuple(hidden_ND.shape)}"
        )
    if bias_V is not None and bias_V.shape != (V,):
        raise ValueError(f"bias must have shape {(V,)}, got {tuple(bias_V.shape)}")
    if bias_V is not None and not bool(bias_V.isfinite().all()):
        place = int((~bias_V.isfinite()).nonzero()[0, 0])
        raise NonFiniteError(f"bias must be finite, got {float(bias_V[place].detach()):g} at id {place}")
    for name, value in (("temperature", head.temperature), ("softcap", head.softcap)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    if not (math.isfinite(head.scale) and head.scale):
        raise ValueError(f"scale must be finite and not 0, got {head.scale}")
    if not (math.isfinite(expected_grad) and expected_grad):
        raise ValueError(f"expected_grad must be finite and not 0, got {expected_grad}")
    if tile_rows is not None and tile_rows < 1:
        raise ValueError(f"tile_rows must be at least 1, got {tile_rows}")
    _check_ids(ids_N, support_NK, V)
    device = hidden_ND.device.type
    # as F.linear: autocast leaves float64 alone
    is_cast = torch.is_autocast_enabled(device) and torch.float64 not in (hidden_ND.dtype, weight_VD.dtype)
    dtype = torch.get_autocast_dtype(device) if is_cast else hidden_ND.dtype
    is_one = weight_VD.dtype == dtype or is_cast or _is_dtensor(head.weight_VD)  # shards may be of higher precision
    if not hidden_ND.is_floating_point() or not is_one:
        raise ValueError(
            f"hidden_ND and weight_VD must have one floating dtype, got {hidden_ND.dtype} and {weight_VD.dtype} "
            "(torch.autocast casts both)"
        )
    bias_V = None if bias_V is None else bias_V.to(dtype)
    return hidden_ND.to(dtype), replace(head, weight_VD=weight_VD.to(dtype), bias_V=bias_V)


def _check_finite(hidden_ND: Tensor, logp_N: Tensor, mask_BT: Tensor) -> None:
    """NonFiniteError that names the token. A soft cap makes a number of an infinity, so hidden_ND is looked at too."""
    if not bool(hidden_ND.isfinite().all()):
        check_finite(hidden_ND.detach().abs().amax(dim=1), "hidden_ND", mask_BT)
    check_finite(logp_N, "the log-probability that hidden_ND and weight_VD give", mask_BT)


def _check_ids(ids_N: Tensor, support_NK: Tensor | None, V: int) -> None:
    outside_N = (ids_N < 0) | (ids_N >= V)
    if bool(outside_N.any()):
        place = int(outside_N.nonzero()[0, 0])
        raise ValueError(
            f"ids_N must be within the vocabulary (0 to {V - 1}), got {int(ids_N[place])} at token {place}"
        )
    if support_NK is None:
        return
    if support_NK.ndim != 2 or len(support_NK) != len(ids_N) or support_NK.dtype != torch.int64:
        raise ValueError(
            f"support_NK must be int64 [{len(ids_N)}, K], got {support_NK.dtype} {tuple(support_NK.shape)}"
        )
    if bool(((support_NK < -1) | (support_NK >= V)).any()):
        raise ValueError(f"support_NK must hold ids of the vocabulary (0 to {V - 1}) or -1, got others")
    without_N = ~(support_NK == ids_N[:, None]).any(dim=1)
    if bool(without_N.any()):
        place = int(without_N.nonzero()[0, 0])
        raise ValueError(f"support_NK must hold each token's own id, got none of {int(ids_N[place])} at token {place}")


def _is_dtensor(tensor: Tensor) -> bool:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _whole(tensor: Tensor) -> Tensor:
    """All of a parameter that FSDP2 has sharded; its gradient goes back as FSDP2's own do, as the ranks' mean."""
    if not _is_dtensor(tensor):
        return tensor
    from torch.distributed.tensor import Partial

    return tensor.full_tensor(grad_placements=[Partial("avg")] * tensor.device_mesh.ndim)  # pyright: ignore


# --- what a loss asks of each token ----------------------------------------------------------------------------------


class _Terms(Protocol):
    def units(self, num_tokens: int, rows: int) -> list[slice]:
        """Tokens that must be seen together, as few as there may be in a tile of `rows`."""
        ...

    def __call__(self, unit: slice, logp_N: Tensor, entropy_N: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """(loss of the unit, its gradient to logp_N, to entropy_N)"""
        ...


class _PolicyTerms:
    """losses.total_loss(), whose gradients autograd makes: the vectors are short."""

    def __init__(self, tokens: Tokens, loss: Loss, kl: Kl) -> None:
        self.tokens, self.loss, self.kl = tokens, loss, kl
        self.metrics: dict[str, Tensor] = {}

    def units(self, num_tokens: int, rows: int) -> list[slice]:
        if is_token_local(self.loss, self.tokens):
            return slices(slice(0, num_tokens), rows)
        _, in_row = self.tokens.row_N.unique_consecutive(return_counts=True)
        units = [slice(0, 0)]
        for count in in_row.tolist():
            last = units[-1]
            if last.stop + count - last.start <= rows or last.stop == last.start:
                units[-1] = slice(last.start, last.stop + count)
            else:
                units.append(slice(last.stop, last.stop + count))
        return units

    @torch.enable_grad()
    def __call__(self, unit: slice, logp_N: Tensor, entropy_N: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        logp_N = logp_N.detach().requires_grad_(True)
        if entropy_N is not None:
            entropy_N = entropy_N.detach().requires_grad_(self.loss.entropy_coef > 0)
        total, metrics = total_loss(logp_N, entropy_N, self.tokens.pick(unit), self.loss, self.kl)
        for name, value in metrics.items():
            self.metrics[name] = self.metrics[name] + value if name in self.metrics else value
        if entropy_N is None or not entropy_N.requires_grad:
            return total.detach(), torch.autograd.grad(total, logp_N)[0], None
        to_logp_N, to_entropy_N = torch.autograd.grad(total, (logp_N, entropy_N))
        return total.detach(), to_logp_N, to_entropy_N


class _Likelihood:
    """-log p"""

    def units(self, num_tokens: int, rows: int) -> list[slice]:
        return slices(slice(0, num_tokens), rows)

    def __call__(self, unit: slice, logp_N: Tensor, entropy_N: Tensor | None) -> tuple[Tensor, Tensor, None]:
        return -logp_N.double().sum(), torch.full_like(logp_N, -1.0), None


# --- autograd --------------------------------------------------------------------------------------------------------


def _once(backward: Function) -> Function:
    """RuntimeError where the gradient itself shall have a gradient, which these have not."""

    @functools.wraps(backward)
    def checked(*arguments: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("a fused loss has no second derivative: use policy_loss() where create_graph=True")
        return backward(*arguments)

    return checked  # pyright: ignore[reportReturnType]


class _SinglePass(torch.autograd.Function):
    """(loss, logp_N): gradients are made with the loss, tile by tile."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        tiles: Tiles,
        terms: _Terms,
        expected_grad: float,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(hidden_ND.device.type, enabled=False):
            tile = tiles.new_tile()
            gradients = Gradients(hidden_ND, tiles, ctx.needs_input_grad[:3])
            logp_N = torch.empty(len(hidden_ND), dtype=tiles.head.dtype, device=hidden_ND.device)
            total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
            for unit in terms.units(len(hidden_ND), len(tile)):
                parts = slices(unit, len(tile))
                scored = [tiles.score(hidden_ND, part, tile[: part.stop - part.start]) for part in parts]
                logp_N[unit] = torch.cat([s.logp_C for s in scored])
                entropy_N = (
                    torch.cat([s.entropy_C for s in scored if s.entropy_C is not None]) if tiles.entropy else None
                )
                part_total, to_logp_N, to_entropy_N = terms(unit, logp_N[unit], entropy_N)
                total += part_total
                for part, known in zip(parts, scored, strict=True):
                    tile_CV = tile[: part.stop - part.start]
                    if len(parts) > 1:  # the tile holds the last part's logits
                        known = tiles.score(hidden_ND, part, tile_CV)
                    within = slice(part.start - unit.start, part.stop - unit.start)
                    to_entropy_C = None if to_entropy_N is None else to_entropy_N[within] * expected_grad
                    gradients.add(tile_CV, part, known, to_logp_N[within] * expected_grad, to_entropy_C)
            del tile
            gradients.check(logp_N)
            ctx.gradients, ctx.expected_grad = gradients.taken(), expected_grad
        ctx.mark_non_differentiable(logp_N)
        return total, logp_N

    @staticmethod
    @_once
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.gradients is None:
            raise RuntimeError("backward through this loss a second time: the first needs retain_graph=True")
        gradients, factor = ctx.gradients, float(grad_outputs[0]) / ctx.expected_grad
        if torch._C._autograd._get_current_graph_task_keep_graph():  # pyright: ignore
            return *(None if g is None else g * factor for g in gradients), None, None, None
        ctx.gradients = None
        if factor != 1:
            gradients = tuple(None if g is None else g.mul_(factor) for g in gradients)
        return *gradients, None, None, None


class _LogProbs(torch.autograd.Function):
    """(logp_N, entropy_N); of a frozen head with the gradient of each logp, otherwise tiles are made again."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, tiles: Tiles, is_recording: bool
    ) -> tuple[Tensor, Tensor | None]:
        keeps_unit = is_recording and not tiles.head.is_trained
        with torch.autocast(hidden_ND.device.type, enabled=False):
            tile = tiles.new_tile()
            unit = Gradients(hidden_ND, tiles, (keeps_unit, False, False))
            scored = []
            for at in slices(slice(0, len(hidden_ND)), len(tile)):
                tile_CV = tile[: at.stop - at.start]
                scored.append(tiles.score(hidden_ND, at, tile_CV))
                if keeps_unit:
                    unit.add(tile_CV, at, scored[-1], torch.ones_like(scored[-1].logp_C))
        ctx.tiles = tiles
        # saved by autograd, which notices what changes before backward, and lets go of it behind
        logp_N = torch.cat([s.logp_C for s in scored])
        unit.check(logp_N)
        own = (tiles.ids_N, tiles.support_NK)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, unit.hidden_grad_ND, *own)
        ctx.set_materialize_grads(False)
        entropy_N = torch.cat([s.entropy_C for s in scored if s.entropy_C is not None]) if tiles.entropy else None
        return logp_N, entropy_N

    @staticmethod
    @_once
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        to_logp_N, to_entropy_N = grad_outputs
        if to_logp_N is None and to_entropy_N is None:
            return None, None, None, None, None
        tiles, (hidden_ND, _, _, unit_ND, *_) = ctx.tiles, ctx.saved_tensors
        if unit_ND is not None and to_entropy_N is None:
            assert to_logp_N is not None
            return (unit_ND * to_logp_N[:, None]).to(unit_ND.dtype), None, None, None, None
        with torch.autocast(hidden_ND.device.type, enabled=False):
            tile = tiles.new_tile()
            gradients = Gradients(hidden_ND, tiles, ctx.needs_input_grad[:3])
            for at in slices(slice(0, len(hidden_ND)), len(tile)):
                tile_CV = tile[: at.stop - at.start]
                scored = tiles.score(hidden_ND, at, tile_CV)
                to_logp_C = torch.zeros_like(scored.logp_C) if to_logp_N is None else to_logp_N[at]
                to_entropy_C = None if to_entropy_N is None else to_entropy_N[at]
                gradients.add(tile_CV, at, scored, to_logp_C, to_entropy_C)
            del tile
            return *gradients.taken(), None, None
