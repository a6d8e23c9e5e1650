"""A completion's bits depend on its prompt, seed and weights alone: not on order, neighbours, cache, or batch size.

On that rests that a run which was killed goes on bit for bit: it samples the unfinished groups of a step without the
finished ones, with a prefix cache that is empty again.
"""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny
from test_engines import hugging_face

from rlvr import lora
from rlvr.engines import base
from rlvr.engines.hf import HuggingFace
from rlvr.policy import load_model
from rlvr.recipe import HfEngine, Lora, Model, VllmEngine
from rlvr.seeds import seed_for
from rlvr.types import Completion, Request, Sampling

LENGTHS = (1, 2, 3, 17, 31, 32, 33, 64, 65, 127, 128, 129, 130, 180, 193, 200)


def requests(n: int = 8) -> list[Request]:
    """Lengths on both sides of 32, of 128 and of what MKL sums in halves; every second begins as the others do."""
    rng = random.Random(3)
    beginning = [rng.randrange(40, 200) for _ in range(256)]
    prompts = [
        beginning[:length] if number % 2 else [rng.randrange(40, 200) for _ in range(length)]
        for number, length in enumerate(LENGTHS)
    ]
    return [
        Request(
            id=f"1/task:{number}",
            prompt_ids=tuple(prompt),
            seeds=tuple(seed_for(3, number, k) for k in range(n)),
            sampling=Sampling(max_tokens=8 + number * 7 % 30, top_k=(0, 0, 9)[number % 3]),
        )
        for number, prompt in enumerate(prompts)
    ]


def assert_exact(engine: Any, forget: Any) -> None:
    """forget: empties the prefix cache."""
    asked = requests()
    whole: dict[str, Completion] = dict(engine.generate(asked))
    assert len(whole) == 128
    assert len({len(completion.token_ids) for completion in whole.values()}) > 5

    def check(what: str, *batches: list[Request], cold: bool = True) -> None:
        for batch in batches:
            if cold:
                forget()
            for id, completion in engine.generate(batch):
                assert completion == whole[id], f"{what}: {id}"

    shuffled = random.Random(1).sample(asked, len(asked))
    check("again, warm", asked, cold=False)
    check("cold", asked)
    check("reversed", asked[::-1])
    check("shuffled", shuffled)
    check("shuffled, warm", shuffled, cold=False)
    check("half of the groups", asked[1::2])
    check("the last groups", asked[-3:])
    check("each group alone", *([request] for request in asked[::3]))
    alone = [[dataclasses.replace(r, seeds=(r.seeds[5],), first=5)] for r in asked[1::3]]
    check("one sample alone", *alone)
    check("one sample alone, warm", *alone, cold=False)


def with_adapter(engine: Any, folder: Path, settings: Lora) -> None:
    model = lora.attach(load_model(Model(path=str(folder)))[0], settings, seed=0)
    rng = torch.Generator().manual_seed(4)
    weights = [(name, 0.2 * torch.randn(tensor.shape, generator=rng)) for name, tensor in lora.weights(model)]
    engine.load(weights, version=1)


def check_vllm(folder: str, cache: str, adapter: str) -> None:
    """In a process of its own, for its own number of threads; max_num_seqs is smaller than the number of samples."""
    settings = Model(path=folder, lora=Lora(rank=4) if adapter else None)
    cached = {"": None, "on": True, "off": False}[cache]
    engine: Any = base.build(VllmEngine(max_num_seqs=40, prefix_cache=cached), settings, load_model(settings)[1], 256)
    if settings.lora is not None:
        with_adapter(engine, Path(folder), settings.lora)
    assert_exact(engine, engine.llm.reset_prefix_cache)
    engine.close()


def problem_in_own_process(call: str, threads: int) -> str:
    """What a check of this file said that did not end well; nothing where it did."""
    code = f"import conftest, os; os.environ['OMP_NUM_THREADS'] = '{threads}'; import test_engines_exact as t; t.{call}"
    env = {**os.environ, "GOMP_SPINCOUNT": "1000"}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('all well')"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        env=env,
        timeout=500,
    )
    return "" if done.stdout.splitlines()[-1:] == ["all well"] else done.stderr[-3000:] or "it said nothing"


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize(
    ("threads", "cache", "adapter"), [(1, "on", ""), (1, "off", ""), (2, "on", ""), (2, "", "lora")]
)
def test_vllm_gives_the_same_bits_in_every_order_and_company(
    threads: int, cache: str, adapter: str, tiny_model: Path
) -> None:
    pytest.importorskip("vllm")
    assert problem_in_own_process(f"check_vllm({str(tiny_model)!r}, {cache!r}, {adapter!r})", threads) == ""


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for oneDNN to sum the product of a single row in another order."""
    return save_tiny(tmp_path_factory.mktemp("models") / "wide", tied=True, intermediate_size=2048)


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_gives_the_same_bits_to_the_last_row_of_a_batch(wide_model: Path) -> None:
    pytest.importorskip("vllm")
    assert problem_in_own_process(f"check_vllm({str(wide_model)!r}, 'on', '')", 2) == ""


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_the_embedded_engine_gives_the_same_bits_in_every_order_and_company(threads: int, tiny_model: Path) -> None:
    assert problem_in_own_process(f"check_hf({str(tiny_model)!r}, '')", threads) == ""


@pytest.mark.slow
def test_the_embedded_engine_does_so_with_an_adapter_and_wide_layers(wide_model: Path) -> None:
    assert problem_in_own_process(f"check_hf({str(wide_model)!r}, 'lora')", 2) == ""


def check_hf(folder: str, adapter: str) -> None:
    settings = Model(path=folder, lora=Lora(rank=4) if adapter else None)
    engine = HuggingFace(HfEngine(kind="hf"), settings, load_model(settings)[1])
    if settings.lora is not None:
        with_adapter(engine, Path(folder), settings.lora)
    assert_exact(engine, lambda: None)


def test_a_batch_cut_at_max_num_seqs_gives_the_same_bits(tiny_model: Path) -> None:
    asked = requests(n=4)[::2]
    assert dict(hugging_face(tiny_model, 8).generate(asked)) == dict(hugging_face(tiny_model).generate(asked))


def check_threads(folder: str) -> None:
    torch.set_num_threads(3)
    for _ in hugging_face(Path(folder)).generate(requests(n=1)[:2]):
        assert torch.get_num_threads() == 3


def test_the_embedded_engine_leaves_torch_its_threads(tiny_model: Path) -> None:
    # a vLLM in this process would let nobody set them
    assert problem_in_own_process(f"check_threads({str(tiny_model)!r})", threads=2) == ""
