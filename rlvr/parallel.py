"""Several processes as one trainer. Only this module knows ranks.

`torchrun --nproc-per-node 2 -m rlvr train RECIPE` (or `accelerate launch`) starts the same command several times. The
main rank runs the loop: it samples, scores, writes the run's folder. The others hold the same model and optimizer and
wait for work: each takes its share of an update's rows, gradients are summed, and every rank makes the same step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from rlvr import machine
from rlvr.errors import RlvrError

P = ParamSpec("P")
Result = TypeVar("Result")

_MEETING = timedelta(minutes=10)  # also how far apart ranks may be within an update
_PATIENCE = timedelta(days=30)  # the others wait as long as the main rank samples; that it is gone shows at once
_BUCKET = 2**25
"""Numbers of the gradient that are summed in one message."""
_BEGIN = "begin"
_waiting: Any = None
"""The group in which the others wait for the main rank's word."""


def join() -> None:
    """Meet the other ranks, where there are any. RlvrError where they cannot be reached."""
    global _waiting
    if machine.ranks() == 1 or _waiting is not None:
        return
    from accelerate import PartialState

    try:
        PartialState(cpu=not torch.cuda.is_available(), timeout=_MEETING)
        _waiting = torch.distributed.new_group(timeout=_PATIENCE, backend="gloo")  # NCCL would keep the GPU busy
    except (RuntimeError, ValueError) as error:
        raise RlvrError(
            f"the ranks cannot meet: {str(error).splitlines()[0]} (start them with `torchrun --standalone "
            "--nproc-per-node N -m rlvr train ...`)"
        ) from error


def size() -> int:
    """Ranks that have joined."""
    return torch.distributed.get_world_size() if _waiting is not None else 1


def rank() -> int:
    """This process's number among those that have joined."""
    return torch.distributed.get_rank() if _waiting is not None else 0


def is_main() -> bool:
    """Whether this rank runs the loop."""
    return rank() == 0


def share_B(length_B: Tensor) -> Tensor:
    """Indices of the rows that are this rank's, of like tokens on every rank; all of them where there is one rank."""
    if size() == 1:
        return torch.arange(len(length_B), device=length_B.device)
    order_B = torch.argsort(length_B, stable=True)
    return order_B[rank() :: size()].sort().values


def add_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sum the gradients over all ranks in place; a rank that has none of a parameter adds nothing to it.

    Parameters without a gradient on every rank get none.
    """
    if size() == 1:
        return
    parameters = list(parameters)
    flags = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    torch.distributed.all_reduce(flags)
    wanted = [p for p, flag in zip(parameters, flags.tolist(), strict=True) if flag]
    for p in wanted:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    bucket: list[Tensor] = []
    for p in wanted:
        assert p.grad is not None
        bucket.append(p.grad)
        if sum(g.numel() for g in bucket) >= _BUCKET:
            _add_flat(bucket)
            bucket = []
    if bucket:
        _add_flat(bucket)


def add(values: Mapping[str, float]) -> dict[str, float]:
    """Sums over all ranks, in float64; every rank names the same values, or leaves out those that are 0 to it."""
    if size() == 1:
        return dict(values)
    names = sorted({name for given in gather(sorted(values)) for name in given})
    total = torch.tensor([values.get(name, 0.0) for name in names], dtype=torch.float64, device=_device())
    torch.distributed.all_reduce(total)
    return dict(zip(names, total.tolist(), strict=True))


def add_rows(value_BT: Tensor) -> Tensor:
    """Sum over all ranks of what each has filled in its own rows (and left 0 elsewhere)."""
    if size() > 1:
        torch.distributed.all_reduce(value_BT)
    return value_BT


def gather(value: Any) -> list[Any]:
    """Each rank's value, in the order of ranks."""
    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    torch.distributed.all_gather_object(found, value)
    return found


def from_main(value: Any) -> Any:
    """The main rank's value on every rank."""
    if size() == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, group=_waiting)
    return box[0]


def begin() -> None:
    """Have the other ranks make what they work with: they run the `begin` of their follow()."""
    from_main(_BEGIN)


def dismiss() -> None:
    """Tell the other ranks that there is no more to do."""
    if size() > 1 and is_main():
        with contextlib.suppress(RuntimeError):  # they are gone already
            from_main(None)


def follow(begin: Callable[[], Callable[..., object]]) -> None:
    """Take part in what the main rank does, until it has no more: `begin` once, and its result for each call."""
    work: Callable[..., object] | None = None
    while (message := from_main(None)) is not None:
        if message == _BEGIN:
            work = begin()
        else:
            assert work is not None
            args, kwargs = message
            work(*args, **kwargs)


class Together(Generic[P, Result]):
    """A function that every rank runs with the main rank's arguments; the main rank calls it.

    The work must not raise what only some ranks raise: such a rank ends, and the others say that it is gone.
    """

    def __init__(self, work: Callable[P, Result]) -> None:
        self.work = work

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        from_main((args, kwargs))
        return self.work(*args, **kwargs)


def is_lost(error: RuntimeError) -> bool:
    """Whether it says that another rank is gone."""
    return "gloo" in str(error).lower() or isinstance(error, torch.distributed.DistError)


def leave() -> None:
    """Part from the other ranks; what they send from here on is lost."""
    global _waiting
    if _waiting is not None:  # else there is none, or it is the one of a vLLM in this process
        torch.distributed.destroy_process_group()
        _waiting = None


def _add_flat(gradients: list[Tensor]) -> None:
    flat = torch.cat([g.reshape(-1) for g in gradients])
    torch.distributed.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _device() -> torch.device:
    return torch.device("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
