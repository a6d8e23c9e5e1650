"""Seconds per weight sync, and how far the sampler is from the trainer's model after it, for each way of running vLLM.

    python tests/bench/bench_sync.py [--models tiny,10m] [--modes inline,process,server] [--syncs 5]

inline, a process of its own and a server; full weights and adapters; tied and untied heads. Each case runs in its own
process. Prints a Markdown table, and one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHAPES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
    "10m": {"hidden_size": 320, "intermediate_size": 960, "num_hidden_layers": 8, "num_attention_heads": 10},
}
PROMPT = tuple(40 + k % 77 for k in range(140))
"""Longer than a block of the prefix cache, so that keys and values of old weights would be seen."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", default="tiny,10m")
    options.add_argument("--modes", default="inline,process,server")
    options.add_argument("--syncs", type=int, default=5)
    options.add_argument("--case", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.case:
        print(json.dumps(measure(*json.loads(chosen.case), syncs=chosen.syncs)))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows = []
    for model in chosen.models.split(","):
        for head in ("tied", "untied"):
            for weights in ("full", "lora"):
                for mode in chosen.modes.split(","):
                    rows.append(in_own_process([model, head, weights, mode], chosen.syncs))
                    print(f"{model} {head} {weights} {mode}: done", file=sys.stderr)
    show(rows)


def in_own_process(case: list[str], syncs: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--case", json.dumps(case), "--syncs", str(syncs)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{case} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(model: str, head: str, weights: str, mode: str, syncs: int) -> dict[str, Any]:
    """One case: a changed policy is sent and sampled from, `syncs` times after one that is not counted."""
    from rlvr.engines import base, vllm
    from rlvr.recipe import Lora, Model, VllmEngine

    lora = Lora(rank=16) if weights == "lora" else None
    with tempfile.TemporaryDirectory() as name:
        where = Path(name)
        settings = Model(path=str(where / "model"), lora=lora)
        url = f"http://127.0.0.1:{free_port()}" if mode == "server" else None
        engine_settings = VllmEngine.model_validate({"mode": mode, "url": url, "max_num_seqs": 8, "max_model_len": 256})
        if mode == "inline":
            os.environ.update(vllm.environment(engine_settings))
        policy, tokenizer = make(where / "model", SHAPES[model], head == "tied", lora)
        with served(engine_settings, settings, where / "log"):
            engine = base.build(engine_settings, settings, tokenizer, 256)
            seconds, differences = [], []
            for version in range(1, syncs + 2):
                names = change(policy, version)
                started = time.perf_counter()
                engine.load(names, version)
                seconds.append(time.perf_counter() - started)
                differences.append(difference(engine, policy, version))
            engine.close()
    return {
        "model": model,
        "head": head,
        "weights": weights,
        "mode": mode,
        "parameters": sum(p.numel() for p in policy.parameters()),
        "seconds": statistics.median(seconds[1:]),
        "seconds_max": max(seconds[1:]),
        "logp_difference_max": max(differences),
    }


def make(folder: Path, shape: dict[str, int], tied: bool, lora: Any) -> tuple[Any, Any]:
    """(policy, tokenizer); the model without adapters is saved in the folder."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from rlvr import lora as adapters
    from rlvr.chat import byte_tokenizer

    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "eos", "bos")}
    config = Qwen3Config(
        vocab_size=len(tokenizer), num_key_value_heads=1, head_dim=32, max_position_embeddings=256,
        tie_word_embeddings=tied, initializer_range=0.08, dtype="float32", **shape, **ids,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return (adapters.attach(model, lora, seed=0) if lora else model), tokenizer


def change(policy: Any, seed: int) -> list[tuple[str, Any]]:
    """Move the weights that are sent, so far that an old version would be seen; gives them as the trainer does."""
    import torch

    from rlvr import lora

    is_lora = lora.is_attached(policy)
    named = list(lora.weights(policy) if is_lora else policy.named_parameters())
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, tensor in named:
            noise = torch.randn(tensor.shape, generator=rng)
            tensor.copy_(0.1 * noise if is_lora else tensor + 0.02 * noise)
    return [(name, tensor.detach()) for name, tensor in named]


def difference(engine: Any, policy: Any, version: int) -> float:
    """Largest |difference| of the sampler's log-probabilities and the policy's, nats."""
    import torch

    from rlvr.types import Request, Sampling

    request = Request(id=str(version), prompt_ids=PROMPT, seeds=(1, 2, 3, 4), sampling=Sampling(max_tokens=16))
    worst = 0.0
    for _, completion in engine.generate([request]):
        ids = torch.tensor([[*PROMPT, *completion.token_ids]])
        with torch.no_grad():
            logp_TV = torch.log_softmax(policy(ids).logits[0, len(PROMPT) - 1 : -1].float(), dim=-1)
        logp_T = logp_TV.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        worst = max(worst, float((logp_T - torch.tensor(completion.logprobs)).abs().max()))
    return worst


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def served(settings: Any, model: Any, log: Path) -> Iterator[None]:
    """With the server that the settings name, where they name one."""
    if settings.url is None:
        yield
        return
    import httpx

    from rlvr.engines.server import server_command

    words = shlex.split(server_command(settings, model))
    command = [sys.executable if word == "python" else word for word in words]
    with log.open("wb") as file:
        process = subprocess.Popen(["env", *command], stdout=file, stderr=file, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{settings.url}/health", trust_env=False).status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server does not start: {log.read_text()[-2000:]}")
            time.sleep(0.5)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def show(rows: list[dict[str, Any]]) -> None:
    """The table, and everything as JSON."""
    print("| model | head | weights | vLLM | s per sync (median) | largest logp difference |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        model = f"{row['model']} ({row['parameters'] / 1e6:.2g}M)"
        figures = f"{row['seconds']:.3f} | {row['logp_difference_max']:.1e}"
        print(f"| {model} | {row['head']} | {row['weights']} | {row['mode']} | {figures} |")
    print(json.dumps({"syncs": rows}))


if __name__ == "__main__":
    main()
