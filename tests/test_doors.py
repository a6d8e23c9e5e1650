"""The loss in other people's loops: the example, the page about it, compiled models, several processes, autocast."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import doors
import loss_page
import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import load_file
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

import rlvr
from rlvr import Batch, Kl, Loss, count, divisor, fused_policy_loss, policy_loss
from rlvr.loss_settings import Clip
from rlvr.presets import PRESETS

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "recipes" / "plain_loop" / "train.py"
PAGE = ROOT / "docs" / "LOSS.md"
Gradients = dict[str, Tensor]


def assert_equal(ours: Gradients, theirs: Gradients, tolerance: float = 1e-12) -> None:
    """To `tolerance` of the largest number of each tensor."""
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        assert grad.abs().max() > 0, name
        torch.testing.assert_close(ours[name], grad, rtol=0, atol=tolerance * float(grad.abs().max()), msg=name)


def dense_gradients(model: Any, batch: Batch, loss: Loss) -> Gradients:
    """By plain autograd through the logits of every token."""
    logp_BTV = model(batch.ids_BT[:, :-1]).logits.log_softmax(dim=-1)
    logp_BT = logp_BTV.gather(2, batch.ids_BT[:, 1:, None])[..., 0]
    entropy_BT = -(logp_BTV.exp() * logp_BTV).sum(dim=-1)
    logp_BT, entropy_BT = (torch.nn.functional.pad(value_BT, (1, 0)) for value_BT in (logp_BT, entropy_BT))
    sums = policy_loss(logp_BT, batch, loss, entropy_BT=entropy_BT)
    (sums.loss / divisor(count(batch, loss), loss)).backward()
    return doors.gradients(model)


# --- names -----------------------------------------------------------------------------------------------------------


def test_every_public_name_is_there() -> None:
    assert sorted(rlvr.__all__) == rlvr.__all__ == list(rlvr._HOME)
    for name, module in rlvr._HOME.items():
        assert getattr(rlvr, name) is getattr(sys.modules[module], name)
    assert set(rlvr.__all__) <= set(dir(rlvr))


# --- the example -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


@pytest.mark.slow
def test_the_plain_loop_learns(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    rewards = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert len(rewards) == 30
    assert sum(rewards[:3]) / 3 < 0.2  # a guess among ten
    assert sum(rewards[-3:]) / 3 > 0.7


@pytest.mark.parametrize("loss", [Loss(), Loss(aggregate="token", clip=Clip(high=0.28)), Loss(ratio="sequence")])
@pytest.mark.parametrize("max_tokens", [20, 10_000])
def test_the_gradient_of_the_plain_loop_is_that_of_the_dense_reference(
    example: dict[str, Any], loss: Loss, max_tokens: int
) -> None:
    torch.manual_seed(0)
    model = example["make_model"]().double()
    batch, _ = example["rollouts"](model)
    with torch.no_grad():  # away from the policy that sampled, so that ratios are not 1
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    example["backward"](model, batch, loss, max_tokens)
    ours = doors.gradients(model)
    model.zero_grad()
    assert_equal(ours, dense_gradients(model, batch, loss), 1e-6)  # the model's norms are in float32


# --- the page --------------------------------------------------------------------------------------------------------


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def only_rank(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("only_rank")
def test_the_code_on_the_page_gives_the_gradient() -> None:
    loop, ranks, presets = blocks()
    wanted = dense_gradients(doors.make_model(), doors.make_batch(), doors.LOSS)
    for code in (loop.replace("max_tokens=4096", "max_tokens=14"), ranks):
        model = doors.make_model()
        model.model, model.lm_head = model.base_model, model.get_output_embeddings()  # as most architectures call them
        scope = {
            "torch": torch,
            "replace": replace,
            "model": model,
            "shared": DistributedDataParallel(model),
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.0),
            "batch": doors.make_batch(),
            "ids_BT": doors.make_batch().ids_BT,
            "loss": doors.LOSS,
            **{name: getattr(rlvr, name) for name in rlvr.__all__},
        }
        exec(code, scope)
        ours = {name.replace("gpt_neox", "model"): grad for name, grad in doors.gradients(model).items()}
        theirs = {name.replace("gpt_neox", "model"): grad for name, grad in wanted.items()}
        assert_equal({name: ours[name] for name in theirs}, theirs)
    scope = {"Loss": Loss, "Kl": Kl}
    exec(presets, scope)
    assert scope["loss"] == Loss(**PRESETS["gspo"]["loss"])
    assert scope["kl"] == Kl(coef=0.04, kind="k3")


def test_the_table_of_presets_on_the_page_is_that_of_the_code() -> None:
    assert loss_page.table() in PAGE.read_text(encoding="utf-8"), "python tests/loss_page.py"
    assert loss_page.table().count("\n") == 1 + len(PRESETS)


def names_of(settings: type[BaseModel], prefix: str) -> Iterator[str]:
    """Of all settings and sections, "loss.clip" and "loss.clip.low"."""
    for name, field in settings.model_fields.items():
        yield f"{prefix}.{name}"
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from names_of(kind, f"{prefix}.{name}")


def test_the_page_names_every_setting_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("## Settings")[2].partition("## Presets")[0]
    known = {*names_of(Loss, "loss"), *names_of(Kl, "kl")}
    short = {name.removeprefix("loss.") for name in known}  # within the section on the loss
    sections = {"clip", "sapo", "vespo", "dppo"}  # aggregate has a section of the page to itself
    named = set(re.findall(r"`([a-z]\w*(?:\.\w+)+)", text))
    assert short - {name.removeprefix("loss.") for name in named} == {"aggregate", *sections}
    assert {name for name in named if not name.startswith(("batch.", "rlvr."))} <= known | short


def test_the_links_of_the_page_lead_somewhere() -> None:
    links = set(re.findall(r"\]\(([^)]+)\)", PAGE.read_text(encoding="utf-8")))
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "rlvr").glob("*.py"))
    for link in links:
        if not link.startswith("http"):
            assert (PAGE.parent / link).is_file(), link
        elif not link.startswith("https://github.com/"):
            assert link in code, f"{link} is no source of ours"


# --- torch.compile and autocast --------------------------------------------------------------------------------------


@pytest.fixture
def dynamo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """torch.compile at work, which the tests' own environment turns off for vLLM; gives the frames compiled so far."""
    from torch._dynamo.utils import counters

    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    torch.compiler.reset()
    counters.clear()
    yield lambda: counters["frames"]["ok"]
    torch.compiler.reset()


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


@pytest.mark.parametrize(
    ("backend", "tied"),
    [
        ("eager", False),
        pytest.param("aot_eager", True, marks=pytest.mark.slow),
        pytest.param("inductor", False, marks=[pytest.mark.slow, needs_compiler]),
        pytest.param("inductor", True, marks=[pytest.mark.slow, needs_compiler]),
    ],
)
def test_compiled_models_and_functions_have_the_gradients_of_eager_ones(
    dynamo: Callable[[], int], backend: str, tied: bool
) -> None:
    tolerance = 1e-5 if backend == "inductor" else 1e-12  # rotary angles are float32 whatever the weights are
    batch, by = doors.make_batch(), divisor(count(doors.make_batch(), doors.LOSS), doors.LOSS)
    wanted = doors.alone(doors.make_model(tied=tied), batch, doors.LOSS)

    model = doors.make_model(tied=tied)
    backbone = torch.compile(model.base_model, backend=backend)
    hidden_BTD = backbone(input_ids=batch.ids_BT, use_cache=False).last_hidden_state
    sums = fused_policy_loss(hidden_BTD[batch.predicts_BT], doors.head_VD(model), batch, doors.LOSS)
    (sums.loss / by).backward()
    assert dynamo() >= 1
    assert_equal(doors.gradients(model), wanted, tolerance)

    before, model = dynamo(), doors.make_model(tied=tied)

    @torch.compile(backend=backend)
    def scaled_loss(ids_BT: Tensor, predicts_BT: Tensor) -> Tensor:
        hidden_BTD = 2 * model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        return 3 * fused_policy_loss(hidden_BTD[predicts_BT] / 2, doors.head_VD(model), batch, doors.LOSS).loss / by

    (scaled_loss(batch.ids_BT, batch.predicts_BT) / 3).backward()
    assert dynamo() >= before + 2  # what is before the loss, and what is behind it
    assert_equal(doors.gradients(model), wanted, tolerance)


@pytest.mark.usefixtures("dynamo")
def test_a_compiled_function_without_breaks_cannot_hold_the_loss_and_says_so() -> None:
    batch = doors.make_batch()
    weight_VD = torch.ones(31, 4)

    @torch.compile(backend="eager", fullgraph=True)
    def total(hidden_ND: Tensor) -> Tensor:
        return fused_policy_loss(hidden_ND, weight_VD, batch, doors.LOSS).loss

    with pytest.raises(torch._dynamo.exc.Unsupported, match="fused_policy_loss"):
        total(torch.zeros(batch.num_tokens, 4))


def test_under_autocast_a_models_head_is_cast_as_by_its_own_forward() -> None:
    batch, by = doors.make_batch(), divisor(count(doors.make_batch(), doors.LOSS), doors.LOSS)
    exact = doors.alone(doors.make_model(), batch, doors.LOSS)

    def distance(gradients: Gradients) -> float:
        assert {grad.dtype for grad in gradients.values()} == {torch.float32}
        return max(float((gradients[name] - exact[name]).norm() / exact[name].norm()) for name in exact)

    model = doors.make_model().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden_ND = doors.hidden_BTD(model, batch.ids_BT)[batch.predicts_BT]
        sums = fused_policy_loss(hidden_ND, doors.head_VD(model), batch, doors.LOSS)
    assert sums.loss.dtype == torch.float64
    assert sums.logp_BT is not None and sums.logp_BT.dtype == torch.float32
    (sums.loss / by).backward()
    ours = distance(doors.gradients(model))

    model = doors.make_model().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradients = dense_gradients(model, batch, doors.LOSS)
    assert 1e-4 < ours < 1.2 * distance(gradients)  # it was bfloat16, and is no worse than the plain way


# --- several processes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Gradients]:
    """Gradients by the name of what doors.py saved."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=localhost:0", doors.__file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return lambda name: load_file(folder / f"{name}.safetensors")


Ranks = Callable[[str], Gradients]


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("way", [way.__name__ for way in doors.EQUAL])
def test_two_processes_have_the_gradients_of_one(two_ranks: Ranks, way: str, tied: bool) -> None:
    alone = doors.alone(doors.make_model(tied=tied), doors.make_batch(), doors.LOSS)
    assert_equal(two_ranks(f"{way}-{'tied' if tied else 'untied'}"), alone)
    if not tied:
        assert_equal(alone, dense_gradients(doors.make_model(), doors.make_batch(), doors.LOSS))


@pytest.mark.slow
def test_a_head_that_is_sharded_by_itself_gets_its_gradient(two_ranks: Ranks) -> None:
    assert_equal(two_ranks("fsdp2_apart-untied"), doors.alone(doors.make_model(), doors.make_batch(), doors.LOSS))


@pytest.mark.slow
@pytest.mark.parametrize("way", [way.__name__ for way in doors.IDLE])
def test_a_process_whose_tokens_carry_no_gradient_takes_part_with_zeros(two_ranks: Ranks, way: str) -> None:
    alone = doors.alone(doors.make_model(), doors.make_batch(idle=True), doors.PLAIN)
    assert_equal(two_ranks(f"{way}-idle"), alone)


@pytest.mark.slow
def test_a_sharded_head_is_cast_as_a_whole_one(two_ranks: Ranks) -> None:
    whole, sharded = two_ranks("fsdp2_bfloat16-untied"), two_ranks("fsdp2_bfloat16_resharded-untied")
    assert_equal(sharded, whole, 1e-6)
    exact = doors.alone(doors.make_model(), doors.make_batch(), doors.LOSS)
    assert {grad.dtype for grad in sharded.values()} == {torch.float32}
    for name, grad in exact.items():
        assert 1e-4 < float((sharded[name] - grad).norm() / grad.norm()) < 0.1, name


@pytest.mark.slow
def test_around_the_forward_of_ddp_a_process_keeps_a_gradient_of_its_own(two_ranks: Ranks) -> None:
    exact = doors.alone(doors.make_model(), doors.make_batch(), doors.LOSS)
    own = two_ranks("ddp_bypassed-untied")
    assert min(float((own[name] - grad).norm() / grad.norm()) for name, grad in exact.items()) > 0.1
