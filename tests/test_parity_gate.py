"""What the probe refuses, how agreement adds up, and when the gate stops a run or warns."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_sampler_parity import hugging_face, probe, trainer_of

from rlvr import parity
from rlvr.batching import Batch
from rlvr.errors import EngineError
from rlvr.recipe import Parity
from rlvr.trials import Cause
from rlvr.types import Completion, Request

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2")


# --- what the probe refuses ------------------------------------------------------------------------------------------


class Tampered:
    """A real engine, whose completions somebody spoils."""

    def __init__(self, engine: Any, spoil: Callable[[Completion], Completion | None], id: str | None = None) -> None:
        self.engine, self.spoil, self.id = engine, spoil, id

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[str, Completion]]:
        for id, completion in self.engine.generate(requests):
            spoilt = self.spoil(completion)
            if spoilt is not None:
                yield self.id or id, spoilt


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda c: replace(c, logprobs=()), "no log-probabilities"),
        (lambda c: replace(c, logprobs=c.logprobs[1:]), r"31 log-probabilities for 32 tokens"),
        (lambda c: replace(c, token_ids=(259, *c.token_ids[1:])), "token id 259 is outside the model's"),
        (lambda c: replace(c, token_ids=(-1, *c.token_ids[1:])), "token id -1 is outside"),
        (lambda c: replace(c, token_ids=(*c.token_ids, 5)), "33 tokens, and max_tokens is 32"),
        (lambda c: replace(c, token_ids=(), logprobs=(), trained=()), "has no tokens"),
        (lambda c: replace(c, trained=(False,) * 32), "0 of 32 flags"),
        (lambda c: replace(c, trained=c.trained[1:]), "31 of 31 flags say that .*, for 32 tokens"),
        (lambda c: replace(c, finish="abort"), "taken back"),
        (lambda c: replace(c, versions=((0, 7),)), "weights of version 7, and version 0 was sent"),
        (lambda c: replace(c, versions=()), "weights of version none"),
    ],
)  # fmt: skip
def test_completions_that_were_not_asked_for_are_refused(spoil: Any, told: str, tiny_model: Path) -> None:
    engine = hugging_face(tiny_model)
    engine.end_ids = set()
    with pytest.raises(EngineError, match=rf"^the sampler's completion parity/0/t\d+/0 is not what .*: .*{told}"):
        probe(Tampered(engine, spoil), trainer_of(tiny_model))


def test_lost_and_foreign_completions_are_refused(tiny_model: Path) -> None:
    engine, trainer = hugging_face(tiny_model), trainer_of(tiny_model)
    with pytest.raises(EngineError, match=r"the engine lost 12 of 12 completions \(parity/0/t0/0, \.\.\.\)"):
        probe(Tampered(engine, lambda c: None), trainer)
    for id in ("1/t0/0", "parity/0/t0/0"):  # the second comes twice
        with pytest.raises(EngineError, match=f"a completion for '{id}', which was not asked for"):
            probe(Tampered(engine, lambda c: c, id), trainer)


# --- the gate --------------------------------------------------------------------------------------------------------


def batch_of(sampler_BT: list[list[float]], mask_BT: list[list[int]]) -> Batch:
    sampler = torch.tensor(sampler_BT)
    B, T = sampler.shape
    return Batch(
        ids_BT=torch.zeros(B, T, dtype=torch.int64),
        mask_BT=torch.tensor(mask_BT, dtype=torch.bool),
        length_B=torch.full((B,), T),
        group_B=torch.zeros(B, dtype=torch.int64),
        reward_B=torch.zeros(B, dtype=torch.float64),
        sampler_logp_BT=sampler,
    )


def test_differences_add_up_over_micro_batches() -> None:
    # |difference| of trained tokens: 0.5, 0, 0.25, then 1 and one that is not finite
    agreement = parity.Agreement()
    first = batch_of([[0.0, -1.0, -2.0], [0.0, -1.0, 9.0]], [[0, 1, 1], [0, 1, 0]])
    agreement.add(torch.tensor([[7.0, -0.5, -2.0], [math.nan, -1.25, -3.0]], requires_grad=True), first)
    agreement.add(torch.tensor([[0.0, -3.0, -1.0]]), batch_of([[0.0, -2.0, -math.inf]], [[0, 1, 1]]))
    assert (agreement.num_tokens, agreement.num_nonfinite) == (4, 1)
    assert agreement.mean == pytest.approx(1.75 / 4)
    assert agreement.metrics() == pytest.approx(
        {
            "sampling/sampling_logp_difference/mean": 1.75 / 4,
            "sampling/sampling_logp_difference/max": 1.0,
            "sampling/importance_sampling_ratio/min": math.exp(-1),
            "sampling/importance_sampling_ratio/mean": (math.exp(0.5) + 1 + math.exp(-0.25) + math.exp(-1)) / 4,
            "sampling/importance_sampling_ratio/max": math.exp(0.5),
            "sampling/nonfinite_tokens": 1.0,
        }
    )
    assert not agreement.is_within(10.0)  # the one that is not finite
    assert agreement.over_ranks().metrics() == agreement.metrics()
    assert parity.Agreement().metrics() == {} and parity.Agreement().is_within(0.0)


def check_over_ranks() -> None:
    from rlvr import parallel

    parallel.join()
    agreement = parity.Agreement()
    if parallel.is_main():  # the other has no rows
        agreement.add(torch.tensor([[0.0, -3.0]]), batch_of([[0.0, -2.0]], [[0, 1]]))
        agreement.add(torch.tensor([[0.0, -2.0]]), batch_of([[0.0, -2.5]], [[0, 1]]))
    whole = agreement.over_ranks()
    assert (whole.num_tokens, whole.mean) == (2, 0.75)
    assert whole.metrics()["sampling/sampling_logp_difference/max"] == 1.0
    assert whole.metrics()["sampling/importance_sampling_ratio/min"] == pytest.approx(math.exp(-1))
    print("all well", flush=True)
    parallel.leave()


@pytest.mark.slow
def test_every_rank_sees_the_agreement_of_all() -> None:
    code = "import test_parity_gate; test_parity_gate.check_over_ranks()"
    done = subprocess.run(
        [*TORCHRUN, "--no-python", sys.executable, "-c", code],
        capture_output=True, text=True, cwd=Path(__file__).parent, check=False,
    )  # fmt: skip
    assert done.stdout.count("all well") == 2, done.stderr[-3000:]


def off_by(gap: float) -> parity.Agreement:
    agreement = parity.Agreement()
    agreement.add(torch.tensor([[0.0, -1.0 - gap]]), batch_of([[0.0, -1.0]], [[0, 1]]))
    return agreement


def test_the_gate_stops_the_run_with_the_cause() -> None:
    gate = parity.Gate(Parity(tolerance=1e-3), lambda text: None)
    gate.check("step 1", off_by(1e-4), lambda: pytest.fail("there is nothing to look for"))
    with pytest.raises(EngineError) as caught:
        gate.check("step 2", off_by(0.5), lambda: Cause("weights", "it has older ones"))
    assert str(caught.value) == (
        "step 2: sampler and trainer disagree: mean |difference| of log-probabilities 0.5 nats over 1 tokens, largest "
        "0.5; at most 0.001 allowed (parity.tolerance). Likely cause: it has older ones"
    )


def test_the_gate_warns_once_per_cause_and_goes_on() -> None:
    told: list[str] = []
    looked: list[float] = []
    gate = parity.Gate(Parity(tolerance=1e-3, on_mismatch="warn"), told.append)

    def check(gap: float, kind: str) -> None:
        gate.check(f"gap {gap}", off_by(gap), lambda: (looked.append(gap), Cause(kind, f"it is {kind}"))[1])

    for gap, kind in ((1e-4, "none"), (0.01, "dtype"), (0.02, "dtype"), (0.04, "dtype"), (0.5, "weights"), (0.6, "x")):
        check(gap, kind)
    assert looked == [0.01, 0.04, 0.5]  # at first, and whenever the gap has trebled
    assert [text.partition(":")[0] for text in told] == ["gap 0.01", "gap 0.5"]
    assert told[1].endswith("Likely cause: it is weights")
