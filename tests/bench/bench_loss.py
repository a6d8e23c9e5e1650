"""What output head and loss cost, ours beside peers: time, memory, exactness of log-probabilities.

    .venv-bench/bin/python tests/bench/bench_loss.py [--quick] [--shapes WORD ...] [--rounds 5]

Forward and backward of the clipped loss (peers_loss.py) on one thread. Time is CPU time of the process, the least of
the rounds, all methods in turn in each; also as a ratio to the bare matrix products of the same shapes and types, three
or (frozen head) two. Before that, loss and gradients of all are compared with a float64 computation. Peak memory is
measured in a process of its own for each method, above the inputs, gradients included. Peers: TRL's
ChunkedLogProbFunction, Liger's fused linear GRPO loss (compiled=False), torch's F.linear_cross_entropy with
reduction="none" and LinearCrossEntropyOptions(), and plain logits with log_softmax in float32 (naive).
Prints Markdown tables, and one JSON object on the last line. --shapes: those whose names hold one of the words.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # read when torch is first imported

import torch
from peers_loss import FUSED_PEERS, LOGPS, LOSSES, OURS, Problem, Shape, make, products, run

from rlvr.tiles import Head, Tiles

FP32, BF16 = torch.float32, torch.bfloat16
SHAPES = (
    Shape(dtype=FP32, N=1024, D=512, V=32000),
    Shape(dtype=BF16, N=1024, D=512, V=32000),
    Shape(dtype=BF16, N=256, D=1024, V=151936),
    Shape(dtype=FP32, N=256, D=512, V=32000, frozen=True),
    Shape(dtype=FP32, N=1024, D=512, V=32000, frozen=True),
    Shape(dtype=BF16, N=1024, D=512, V=32000, frozen=True),
    Shape(dtype=BF16, N=256, D=1024, V=151936, frozen=True),
)
QUICK = (
    Shape(dtype=FP32, N=256, D=512, V=32000),
    Shape(dtype=BF16, N=256, D=512, V=32000),
    Shape(dtype=FP32, N=256, D=512, V=32000, frozen=True),
)
GROWTH = tuple(Shape(dtype=FP32, N=N, D=512, V=32000, frozen=True) for N in (1024, 4096))
EXACT = Shape(dtype=BF16, N=192, D=512, V=32000)
FLOOR, ANEW = "matrix products", "matrix products, results in new memory"
HALF = "ours, half of the rows without advantage"
SLOW_SECONDS = 10.0
"""A method that takes longer is timed once."""
TOLERANCE = {FP32: 1e-4, BF16: 3e-2}
"""Of loss and gradients against float64; of gradients relative to their norm."""
MB = 1e6
Figures = dict[str, dict[str, float]]
"""By method, then by what was measured."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="small shapes, three rounds")
    options.add_argument("--shapes", nargs="+", metavar="WORD", help="such as frozen, bf16, V=151936")
    options.add_argument("--rounds", type=int, help="5 without it")
    options.add_argument("--peak", nargs=2, metavar=("METHOD", "SHAPE"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    if chosen.peak:
        print(peak_here(chosen.peak[0], next(s for s in (*SHAPES, *QUICK, *GROWTH) if str(s) == chosen.peak[1])))
        return
    shapes = QUICK if chosen.quick else SHAPES
    wanted = [s for s in shapes if not chosen.shapes or any(word in str(s).split() for word in chosen.shapes)]
    if not wanted:
        options.error(f"--shapes {' '.join(chosen.shapes)}: no such shape; there are: {'; '.join(map(str, shapes))}")
    figures = {str(shape): measure(shape, chosen.rounds or (3 if chosen.quick else 5)) for shape in wanted}
    figures["logp"] = measure_exactness(EXACT)
    if not chosen.quick and not chosen.shapes:
        figures["growth"] = measure_growth(*GROWTH)
    print(json.dumps(figures))


def measure(shape: Shape, rounds: int) -> Figures:
    """Seconds, ratio to the floor, peak bytes above the inputs, and errors of one shape, printed as well."""
    print(f"\n## {shape}\n", flush=True)
    problem = make(shape)
    figures = errors(problem, shape)
    jobs: dict[str, Callable[[], object]] = {FLOOR: products(problem, anew=False)}
    jobs |= {name: job(name, problem) for name in LOSSES}
    jobs |= {HALF: job(OURS, problem.halved()), ANEW: products(problem, anew=True)}
    seconds = seconds_in_turn(jobs, rounds)
    for name in jobs:
        figures.setdefault(name, {})["seconds"] = seconds[name]
        figures[name]["ratio"] = seconds[name] / seconds[FLOOR]
    problem.forget_gradients()
    for name in LOSSES:
        figures[name]["peak_bytes"] = peak_elsewhere(name, shape)
    gradients = problem.hidden_ND.nbytes + (0 if shape.frozen else problem.weight_VD.nbytes)
    figures[FLOOR] |= {"gradient_bytes": gradients, "tile_bytes": tile_bytes(problem)}
    show(figures)
    return figures


def show(figures: Figures) -> None:
    floor = figures[FLOOR]
    print("| | CPU s | of the products | of naive | extra MB | off by: loss | grad of hidden | of weight |")
    print("|---|---|---|---|---|---|---|---|")
    for name, row in figures.items():
        cells = [f"{row['seconds']:.3f}", f"{row['ratio']:.3f}", f"{row['seconds'] / figures['naive']['seconds']:.3f}"]
        if name in LOSSES:
            cells += [f"{row['peak_bytes'] / MB:.0f}"]
            cells += [f"{row[key]:.1e}" if key in row else "" for key in ("loss", "hidden_ND", "weight_VD")]
        elif name == FLOOR:
            cells += [
                f"{floor['gradient_bytes'] / MB:.0f} gradients, {floor['tile_bytes'] / MB:.0f} our tile",
                "",
                "",
                "",
            ]
        else:
            cells += [""] * 4
        print(f"| {name} | {' | '.join(cells)} |")
    ours = figures[OURS]
    slower = min(figures[name]["seconds"] for name in FUSED_PEERS) / ours["seconds"]
    allowed = floor["gradient_bytes"] + floor["tile_bytes"]
    print(f"\nThe fastest fused peer takes {slower:.2f} times ours; half of the rows without advantage", end=" ")
    print(f"{figures[HALF]['seconds'] / ours['seconds']:.2f}; extra memory", end=" ")
    print(f"{ours['peak_bytes'] / allowed:.2f} of gradients and a tile.", flush=True)


# --- values ----------------------------------------------------------------------------------------------------------


def errors(problem: Problem, shape: Shape) -> Figures:
    """Of loss and gradients against float64. SystemExit where a method computes something else."""
    exact = problem.doubled()
    exact_loss = run("naive", exact)
    figures: Figures = {}
    for name in LOSSES:
        figures[name] = {"loss": abs(float(run(name, problem).double() - exact_loss))}
        for part in ("hidden_ND", "weight_VD"):
            expected, grad = getattr(exact, part).grad, getattr(problem, part).grad
            if expected is not None:
                figures[name][part] = float((grad.double() - expected).norm() / expected.norm())
        worst = max(figures[name].values())
        if not worst <= TOLERANCE[shape.dtype]:
            raise SystemExit(f"{shape}: {name} is {worst:.1e} off float64, more than {TOLERANCE[shape.dtype]:g}")
    problem.forget_gradients()
    return figures


def measure_exactness(shape: Shape) -> Figures:
    print(f"\n## Log-probabilities against float64, {shape}\n")
    print("| | mean off by | at most | largest logp |")
    print("|---|---|---|---|")
    problem = make(shape)
    figures: Figures = {}
    with torch.no_grad():
        exact_N = LOGPS["naive"](problem.doubled())
        for name, logp in LOGPS.items():
            logp_N = logp(problem).double()
            off_N = (logp_N - exact_N).abs()
            figures[name] = {"mean": float(off_N.mean()), "max": float(off_N.max())}
            print(f"| {name} | {off_N.mean():.1e} | {off_N.max():.1e} | {logp_N.max():.1e} |")
    return figures


# --- time ------------------------------------------------------------------------------------------------------------


def job(method: str, problem: Problem) -> Callable[[], object]:
    return lambda: run(method, problem)


def seconds_in_turn(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least of the rounds; the comparison with float64 was the warm-up."""
    seconds: dict[str, float] = {}
    for _ in range(rounds):
        for name, work in jobs.items():
            if seconds.get(name, 0.0) <= SLOW_SECONDS:
                started = time.process_time()
                work()
                seconds[name] = min(time.process_time() - started, seconds.get(name, float("inf")))
    return seconds


# --- memory ----------------------------------------------------------------------------------------------------------


def tile_bytes(problem: Problem) -> int:
    """Of the logits that our loss holds at a time."""
    return Tiles(Head(weight_VD=problem.weight_VD), problem.ids_N, None, None).new_tile().nbytes


def peak_elsewhere(method: str, shape: Shape) -> int:
    # above this size glibc gives every freed block back at once: no reuse of what making the inputs took
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--peak", method, str(shape)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def peak_here(method: str, shape: Shape) -> int:
    """Most bytes that forward and backward hold beside the inputs, gradients included."""
    problem = make(shape)
    run(method, make(replace(shape, N=64)))
    products(problem, anew=True)()  # after both all code and kernels are loaded
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, proc(5)
    before = _status("VmRSS")
    run(method, problem)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def measure_growth(small: Shape, large: Shape) -> Figures:
    print(f"\n## Extra memory of {small}, and of N={large.N}\n")
    rows = 4 * small.D * (large.N - small.N)
    print(f"Hidden states or their gradient grow by {rows / MB:.1f} MB.\n")
    print("| | MB | MB | grows by |")
    print("|---|---|---|---|")
    figures: Figures = {}
    for name in LOSSES:
        few, many = peak_elsewhere(name, small), peak_elsewhere(name, large)
        figures[name] = {"small_bytes": few, "large_bytes": many}
        print(f"| {name} | {few / MB:.1f} | {many / MB:.1f} | {(many - few) / MB:.1f} |", flush=True)
    return figures


if __name__ == "__main__":
    main()
