"""What loss.fused does to an update of the policy and of SFT: time and memory, against the plain path.

    python tests/bench/bench_fused.py [--rounds 7]

The arithmetic job's model (random weights; its own 320 logits, and 32000 as with a usual tokenizer), full and with a
frozen head (LoRA), 128 rows of 33 to 82 tokens in micro-batches of the recipe's size; half of the rows without
advantage in one line. CPU seconds of forward and backward, one thread, both ways in turn in every round: the median of
the rounds' ratios. Memory: peak of a process of its own over what the model takes. Prints a Markdown table, and one
JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench_step import make_batch

from rlvr import lora, policy
from rlvr.batching import Batch
from rlvr.loss_settings import Kl, Loss
from rlvr.losses import count, divisor
from rlvr.recipe import Lora, NewModel
from rlvr.settings import load_recipe

CASES = {
    "RL, 320 logits": ("rl", 320, False, False),
    "RL, 32000 logits": ("rl", 32000, False, False),
    "RL, 32000 logits, LoRA": ("rl", 32000, True, False),
    "RL, 32000 logits, half of the rows without advantage": ("rl", 32000, False, True),
    "SFT, 320 logits": ("sft", 320, False, False),
    "SFT, 32000 logits": ("sft", 32000, False, False),
}
WAYS = ("auto", "off")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--memory", nargs=2, metavar=("CASE", "WAY"), help="print the peak of one case alone")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    if chosen.memory:
        case, way = chosen.memory
        print(peak_of(make_update(*CASES[case], way)))
        return
    figures = {}
    print("| update | fused s | plain s | fused / plain | fused MiB | plain MiB |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        auto, off = timed(case, chosen.rounds)
        ratio = statistics.median(a / b for a, b in zip(auto, off, strict=True))
        memory = {way: peak_alone(case, way) for way in WAYS}
        figures[case] = {"auto": statistics.median(auto), "off": statistics.median(off), "ratio": ratio, "MiB": memory}
        seconds = f"{figures[case]['auto']:.3f} | {figures[case]['off']:.3f}"
        print(f"| {case} | {seconds} | {ratio:.2f} | {memory['auto']:.0f} | {memory['off']:.0f} |", flush=True)
    print(json.dumps(figures))


def timed(case: str, rounds: int) -> tuple[list[float], list[float]]:
    """CPU seconds of both ways."""
    updates = [make_update(*CASES[case], way) for way in WAYS]
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for update, values in zip(updates, seconds, strict=True):
            started = time.process_time()
            update()
            if number:  # the first round warms up
                values.append(time.process_time() - started)
    return seconds


def make_update(kind: str, vocab_size: int, with_lora: bool, half: bool, way: str) -> Callable[[], None]:
    model = make_model(vocab_size, with_lora)
    batch = make_batch()
    adv_B = torch.randn(len(batch.group_B), generator=torch.Generator().manual_seed(0))
    if half:
        adv_B[::2] = 0
    loss = Loss.model_validate({"aggregate": "token", "fused": way})
    counts = count(batch, loss)
    batch = replace(batch, adv_BT=torch.where(batch.mask_BT, adv_B[:, None], 0.0), counts=counts)
    by = divisor(counts, loss)

    def update() -> None:
        model.zero_grad()
        for index_B in batch.micro(8192):
            micro = batch.rows(index_B)
            forward = rl if kind == "rl" else sft
            (forward(model, micro, loss, 1 / by).loss / by).backward()

    return update


def rl(model: Any, micro: Batch, loss: Loss, expected_grad: float) -> Any:
    return policy.policy_loss(model, micro, loss, Kl(), 1.0, expected_grad=expected_grad)


def sft(model: Any, micro: Batch, loss: Loss, expected_grad: float) -> Any:
    fused = loss.fused == "auto"
    return policy.cross_entropy(model, micro.ids_BT, micro.mask_BT, fused=fused, expected_grad=expected_grad)


def make_model(vocab_size: int, with_lora: bool) -> Any:
    settings = load_recipe("recipes/arithmetic/pretrain.yaml").model  # type: ignore[attr-defined]
    assert isinstance(settings, NewModel)
    config = settings.config | ({"vocab_size": vocab_size} if vocab_size != 320 else {})
    model, _ = policy.new_model(settings.model_copy(update={"config": config}), iter(()), seed=0)
    return lora.attach(model, Lora(), 0) if with_lora else model


def peak_of(update: Callable[[], None]) -> float:
    """MiB that an update needs at its peak beyond what stands before it; the second one, whose memory is warm."""
    update()
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again at what is held now
    before = int(status.read_text().split("VmRSS:")[1].split()[0])
    update()
    return (int(status.read_text().split("VmHWM:")[1].split()[0]) - before) / 1024


def peak_alone(case: str, way: str) -> float:
    done = subprocess.run([sys.executable, __file__, "--memory", case, way], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
