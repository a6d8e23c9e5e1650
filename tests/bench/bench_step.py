"""What a step's update costs: packed against padded rows, activations made again, and the parity gate's share.

    python tests/bench/bench_step.py [--rounds 9]

The arithmetic job's model (random weights), 128 rows of 33 to 82 tokens. CPU seconds of forward and backward, one
thread, all ways in turn in every round; the figure is the median of the rounds' ratios. Prints a Markdown table, and
one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from rlvr import policy
from rlvr.batching import Batch
from rlvr.parity import Agreement
from rlvr.recipe import NewModel
from rlvr.settings import load_recipe

PROMPT = 18


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=9)
    rounds = options.parse_args().rounds
    torch.set_num_threads(1)
    settings = load_recipe("recipes/arithmetic/pretrain.yaml").model  # type: ignore[attr-defined]
    assert isinstance(settings, NewModel)
    model, _ = policy.new_model(settings, iter(()), seed=0)
    again, _ = policy.new_model(settings, iter(()), seed=0)
    policy.keep_few_activations(again)
    batch = make_batch()
    logp_BT, _ = policy.logprobs(model, batch.ids_BT, batch.mask_BT)
    ways: dict[str, Callable[[], None]] = {
        "padded": lambda: update(model, batch, None),
        "packed": lambda: update(model, batch, batch.length_B),
        "padded, activations made again": lambda: update(again, batch, None),
        "parity gate": lambda: gate(logp_BT, batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, work in ways.items():
            started = time.process_time()
            work()
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - started)
    show(seconds, int(batch.length_B.sum()) / batch.ids_BT.numel())


def make_batch() -> Batch:
    rng = torch.Generator().manual_seed(0)
    length_B = torch.randint(PROMPT + 15, PROMPT + 65, (128,), generator=rng)
    t_T = torch.arange(int(length_B.max()))
    mask_BT = (t_T < length_B[:, None]) & (t_T >= PROMPT)
    return Batch(
        ids_BT=torch.randint(3, 259, mask_BT.shape, generator=rng),
        mask_BT=mask_BT,
        length_B=length_B,
        group_B=torch.arange(128) // 8,
        reward_B=torch.zeros(128, dtype=torch.float64),
        sampler_logp_BT=torch.where(mask_BT, -5.0, 0.0),
    )


def update(model: torch.nn.Module, batch: Batch, length_B: Tensor | None) -> None:
    model.zero_grad()
    logp_BT, _ = policy.logprobs(model, batch.ids_BT, batch.mask_BT, length_B=length_B)  # type: ignore[arg-type]
    logp_BT.sum().backward()


def gate(logp_BT: Tensor, batch: Batch) -> None:
    agreement = Agreement()
    agreement.add(logp_BT, batch)
    agreement.metrics()


def show(seconds: dict[str, list[float]], real: float) -> None:
    print(f"{real:.0%} of the padded tokens are real\n")
    print("| | CPU s, median | of the padded update |")
    print("|---|---|---|")
    figures = {}
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, seconds["padded"], strict=True))
        figures[name] = {"seconds": statistics.median(values), "ratio": ratio}
        print(f"| {name} | {figures[name]['seconds']:.4f} | {ratio:.4f} |")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
