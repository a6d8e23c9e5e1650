"""What output head and loss cost on a GPU: ours beside naive, TRL and Liger, time and memory.

    python tests/bench/bench_loss_gpu.py [--shape N D V] [--rounds 5] [--rows 1024 4096 ...]

Forward and backward of the clipped loss (peers_loss.py) in bfloat16, head trained and frozen. Time is the median of the
rounds by events of the device, all methods in turn in each. TFLOP/s counts three matrix products (two where the head is
frozen), whatever a method computes; beside them the products themselves, of the same shapes, and one of 8192 x 8192 x
8192. Peak memory is what torch allocated above the inputs, gradients included. Before that, on fewer tokens, loss and
gradients of all are compared with float64. Methods whose package is missing are left out; --rows: tiles of these many
tokens for ours as well. Prints Markdown tables, and one JSON object on the last line; without a GPU one line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from peers_loss import (
    FAR,
    LOSS,
    NEAR,
    ROW,
    SHARE_FAR,
    SPREAD,
    Problem,
    Shape,
    clipped_mean,
    liger_loss,
    naive_logp,
    our_loss,
    products,
)
from torch import Tensor

from rlvr.fused import fused_policy_loss

OURS, HALF, PRODUCTS = "ours", "ours, half of the rows without advantage", "matrix products"
FEW = 1024
"""Tokens of the comparison with float64."""
TOLERANCE = 3e-2
"""Of loss and gradients against float64, of gradients relative to their norm."""
SLOW_SECONDS = 5.0
"""A method that takes longer is timed once."""
TRL_CHUNK = 32768
"""_CHUNKED_LOGPROB_CHUNK_SIZE of trl.trainer.utils, which asks for more than its kernels do."""
Loss = Callable[[Problem], Tensor]
Figures = dict[str, dict[str, float]]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--shape", nargs=3, type=int, default=(16384, 4096, 151936), metavar=("N", "D", "V"))
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--rows", nargs="+", type=int, default=())
    chosen = options.parse_args()
    if not torch.cuda.is_available():
        print("bench_loss_gpu.py needs a GPU; bench_loss.py measures on a CPU")
        return
    N, D, V = chosen.shape
    rate = 2 * 8192**3 / seconds_of(square(8192)) / 1e12
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; 8192 x 8192 x 8192 in bf16: {rate:.0f} TFLOP/s")
    figures: dict[str, Figures] = {"square": {"square": {"tflops": rate}}}
    for frozen in (False, True):
        shape = Shape(dtype=torch.bfloat16, N=N, D=D, V=V, frozen=frozen)
        figures[str(shape)] = measure(shape, rate, chosen.rounds, chosen.rows)
    print(json.dumps(figures))


def measure(shape: Shape, rate: float, rounds: int, rows: tuple[int, ...]) -> Figures:
    print(f"\n## {shape}\n", flush=True)
    losses = methods(rows)
    check(losses, replace(shape, N=min(shape.N, FEW)))
    problem = make(shape)
    jobs = {name: job(loss, problem) for name, loss in losses.items()}
    jobs[HALF] = job(losses[OURS], problem.halved())
    figures: Figures = {}
    for name, work in list(jobs.items()):
        try:
            figures[name] = {"peak_bytes": peak(work, problem)}
        except torch.OutOfMemoryError:
            print(f"{name} is left out: out of memory")
            del jobs[name]
    problem.forget_gradients()
    seconds = in_turn({PRODUCTS: products(problem, anew=False), **jobs}, rounds)
    flops = (4 if shape.frozen else 6) * shape.N * shape.D * shape.V
    print("| | ms | TFLOP/s | of 8192^3 | of the products | extra MB |")
    print("|---|---|---|---|---|---|")
    for name, median in seconds.items():
        row = figures.setdefault(name, {})
        row |= {"seconds": median, "tflops": flops / median / 1e12, "ratio": median / seconds[PRODUCTS]}
        memory = f"{row['peak_bytes'] / 1e6:.0f}" if "peak_bytes" in row else ""
        print(f"| {name} | {1e3 * median:.1f} | {row['tflops']:.0f} |", end=" ")
        print(f"{row['tflops'] / rate:.2f} | {row['ratio']:.2f} | {memory} |", flush=True)
    return figures


def methods(rows: tuple[int, ...]) -> dict[str, Loss]:
    """Those whose packages are here."""

    def in_tiles(tile_rows: int) -> Loss:
        def loss(problem: Problem) -> Tensor:
            N = len(problem.ids_N)
            head = (problem.hidden_ND, problem.weight_VD, problem.batch, LOSS)
            return fused_policy_loss(*head, expected_grad=1 / N, tile_rows=tile_rows).loss / N

        return loss

    found: dict[str, Loss] = {OURS: our_loss, **{f"ours, tiles of {count}": in_tiles(count) for count in rows}}
    found["naive"] = lambda problem: clipped_mean(naive_logp(problem), problem)
    try:
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction  # pyright: ignore[reportMissingImports]

        def trl_loss(problem: Problem) -> Tensor:
            arguments = (problem.hidden_ND, problem.weight_VD, None, problem.ids_N, 1.0, TRL_CHUNK, None, 1.0, ())
            return clipped_mean(ChunkedLogProbFunction.apply(*arguments)[0], problem)

        found["TRL"] = trl_loss
    except ImportError as error:
        print(f"TRL is left out: {error}")
    try:
        import liger_kernel.chunked_loss  # noqa: F401  # pyright: ignore[reportMissingImports]

        found["Liger"] = liger_loss
    except ImportError as error:
        print(f"Liger is left out: {error}")
    return found


def make(shape: Shape, seed: int = 0) -> Problem:
    """As peers_loss.make(), on the device."""
    rng = torch.Generator("cuda").manual_seed(seed)
    on = {"generator": rng, "device": "cuda"}
    hidden_ND = torch.randn(shape.N, shape.D, **on).to(shape.dtype)
    weight_VD = (torch.randn(shape.V, shape.D, **on) * (SPREAD / shape.D**0.5)).to(shape.dtype)
    ids, logp = [], []
    for hidden_CD in hidden_ND.split(512):
        all_CV = (hidden_CD @ weight_VD.T).float().log_softmax(dim=1)
        # the largest of log p + Gumbel noise is a draw from p
        ids.append((all_CV - torch.empty_like(all_CV).exponential_(generator=rng).log()).argmax(dim=1))
        logp.append(all_CV.gather(1, ids[-1][:, None])[:, 0])
    gap_N = NEAR * (2 * torch.rand(shape.N, **on) - 1)
    gap_N = torch.where(torch.rand(shape.N, **on) < SHARE_FAR, FAR * gap_N.sign(), gap_N)
    return Problem(
        hidden_ND=hidden_ND.requires_grad_(),
        weight_VD=weight_VD.requires_grad_(not shape.frozen),
        ids_N=torch.cat(ids),
        old_N=torch.cat(logp) + gap_N,
        adv_B=torch.randn(max(2, shape.N // ROW), **on),
    )


def job(loss: Loss, problem: Problem) -> Callable[[], Tensor]:
    """Forward and backward; the gradients are then at the problem's tensors."""

    def work() -> Tensor:
        problem.forget_gradients()
        value = loss(problem)
        value.backward()
        return value.detach()

    return work


def check(losses: dict[str, Loss], shape: Shape) -> None:
    """SystemExit where a method computes something else than float64 does."""
    problem = make(shape)
    exact = problem.doubled()
    expected = job(losses["naive"], exact)()
    for name, loss in losses.items():
        off = {"loss": abs(float(job(loss, problem)().double() - expected))}
        for part in ("hidden_ND", "weight_VD"):
            grad, exact_grad = getattr(problem, part).grad, getattr(exact, part).grad
            if exact_grad is not None:
                off[part] = float((grad.double() - exact_grad).norm() / exact_grad.norm())
        print(f"{name}, {shape.N} tokens, off float64 by", ", ".join(f"{k} {v:.1e}" for k, v in off.items()))
        if not max(off.values()) <= TOLERANCE:
            raise SystemExit(f"{shape}: {name} is off float64 by more than {TOLERANCE:g}")
    print(flush=True)


# --- time and memory -------------------------------------------------------------------------------------------------


def square(size: int) -> Callable[[], Tensor]:
    a, b = (torch.randn(size, size, device="cuda").bfloat16() for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def seconds_of(work: Callable[[], object], rounds: int = 10) -> float:
    work()
    return statistics.median(timed(work) for _ in range(rounds))


def in_turn(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Medians of the rounds; measuring the memory was the warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, work in jobs.items():
            if not seconds[name] or max(seconds[name]) <= SLOW_SECONDS:
                taken = timed(work)
                if number or taken > SLOW_SECONDS:
                    seconds[name].append(taken)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def timed(work: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def peak(work: Callable[[], object], problem: Problem) -> int:
    """Most bytes that forward and backward hold beside the inputs, gradients included."""
    problem.forget_gradients()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    main()
