"""Updates against plain torch, what a saved state gives back, and what is done where numbers or memory run out."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_policy import assert_same_bits, rows
from torch import Tensor

from rlvr import policy
from rlvr.errors import SettingsError
from rlvr.losses import Sums
from rlvr.recipe import AdamW, Muon
from rlvr.trained import Trained, lr_factor


def test_weights_name_a_tied_head_once_and_an_untied_one_too(tied: Any, untied: Any) -> None:
    def names(model: Any) -> set[str]:
        return {name for name, _ in Trained(model, AdamW(), 1).weights()}

    assert "model.embed_tokens.weight" in names(tied)
    assert "lm_head.weight" not in names(tied)
    assert names(untied) == names(tied) | {"lm_head.weight"}


def test_the_learning_rate_warms_up_and_falls() -> None:
    def factors(total: int, **settings: Any) -> list[float]:
        return [lr_factor(AdamW(**settings), update, total) for update in range(total)]

    assert factors(4) == [1, 1, 1, 1]
    assert factors(6, warmup_steps=4) == [0.25, 0.5, 0.75, 1, 1, 1]
    assert factors(4, schedule="linear") == [1, 0.75, 0.5, 0.25]
    assert factors(4, schedule="linear", min_lr_ratio=0.5) == [1, 0.875, 0.75, 0.625]
    assert factors(4, schedule="linear", warmup_steps=2) == [0.5, 1, 1, 0.5]
    assert factors(6, schedule="linear", warmup_steps=2, min_lr_ratio=0.2) == pytest.approx([0.5, 1, 1, 0.8, 0.6, 0.4])
    assert factors(2, schedule="cosine", warmup_steps=4) == [0.25, 0.5]  # it never falls
    half = 0.5 * (1 + math.cos(math.pi / 4))
    assert factors(4, schedule="cosine") == pytest.approx([1, half, 0.5, 1 - half], rel=1e-12)
    assert factors(4, schedule="cosine", min_lr_ratio=0.2) == pytest.approx(
        [1, 0.2 + 0.8 * half, 0.6, 0.2 + 0.8 * (1 - half)], rel=1e-12
    )
    assert factors(4, schedule="constant", min_lr_ratio=0.2) == [1, 1, 1, 1]


ADAMW = AdamW(lr=1e-2, weight_decay=0.1, schedule="cosine", warmup_steps=2, max_grad_norm=0.5)
MUON = Muon(kind="muon", lr=2e-2, adamw_lr=1e-2, weight_decay=0.1, schedule="linear", max_grad_norm=0.5)
TOTAL = 6


def update(trained: Trained, number: int) -> dict[str, float]:
    """One update in two micro-batches; its data are a function of its number."""
    ids_BT, mask_BT = rows()
    ids_BT = (ids_BT + 11 * number) % 256 + 3
    num_tokens = int(mask_BT.sum())
    for part in (slice(0, 1), slice(1, 3)):
        trained.backward(policy.cross_entropy(trained.model, ids_BT[part], mask_BT[part]), num_tokens)
    return trained.step()


def tensors(trained: Trained) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trained.state().items()}


@pytest.mark.parametrize("settings", [ADAMW, MUON], ids=["adamw", "muon"])
@pytest.mark.parametrize("which", ["tied", "untied"])
def test_updates_are_those_of_a_plain_torch_loop_bit_for_bit(
    which: str, settings: AdamW, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(which)
    trained = Trained(copy.deepcopy(model), settings, TOTAL)
    other = copy.deepcopy(model)
    if isinstance(settings, Muon):
        inner = [p for n, p in other.named_parameters() if p.ndim == 2 and ".layers." in n]
        outer = [p for n, p in other.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(inner, lr=2e-2, weight_decay=0.1, momentum=0.95),
            torch.optim.AdamW(outer, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        assert len(inner) == 2 * 7
    else:
        optimizers = [torch.optim.AdamW(other.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)]
    for number in range(4):
        ours = update(trained, number)
        ids_BT, mask_BT = rows()
        ids_BT = (ids_BT + 11 * number) % 256 + 3
        for part in (slice(0, 1), slice(1, 3)):
            loss = policy.cross_entropy(other, ids_BT[part], mask_BT[part]).loss
            (loss / int(mask_BT.sum())).backward()
        norm = torch.nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        factor = (
            1 - number / TOTAL
            if isinstance(settings, Muon)
            else min(1, (number + 1) / 2) * 0.5 * (1 + math.cos(math.pi * max(0, number - 2) / (TOTAL - 2)))
        )
        for optimizer in optimizers:
            rate = 1e-2 if isinstance(optimizer, torch.optim.AdamW) else 2e-2
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()
        assert ours["grad_norm"] == float(norm) > 0.5
        assert ours["lr"] == settings.lr * factor
    assert trained.updates == 4
    assert_same_bits(dict(trained.model.state_dict()), dict(other.state_dict()))
    assert all(p.grad is None for p in trained.model.parameters())


@pytest.mark.parametrize("settings", [ADAMW, MUON], ids=["adamw", "muon"])
def test_an_update_without_gradient_moves_the_schedule_alone(tied: Any, settings: AdamW) -> None:
    trained = Trained(copy.deepcopy(tied), settings, TOTAL)
    update(trained, 0)
    before = tensors(trained)
    trained.pass_over()
    trained.pass_over()
    assert trained.updates == 3
    assert_same_bits(tensors(trained), before)  # neither momentum nor weight decay was applied
    assert update(trained, 1)["lr"] == settings.lr * lr_factor(settings, 3, TOTAL)


@pytest.mark.parametrize("settings", [ADAMW, MUON], ids=["adamw", "muon"])
@pytest.mark.parametrize("which", ["tied", "untied"])
def test_a_saved_state_goes_on_bit_for_bit(
    which: str, settings: AdamW, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    model = request.getfixturevalue(which)
    straight = Trained(copy.deepcopy(model), settings, TOTAL)
    for number in range(2):
        update(straight, number)
    save_file(straight.state(), tmp_path / "state.safetensors")
    for number in range(2, 5):
        update(straight, number)

    resumed = Trained(copy.deepcopy(model), settings, TOTAL)
    resumed.load_state(
        load_file(tmp_path / "state.safetensors"), {"updates": 2, "skipped_in_a_row": 0, "micro_tokens": 8192}
    )
    for number in range(2, 5):
        update(resumed, number)
    assert resumed.updates == 5
    assert_same_bits(tensors(resumed), tensors(straight))
    if which == "tied":
        assert resumed.model.lm_head.weight.data_ptr() == resumed.model.model.embed_tokens.weight.data_ptr()


def test_a_state_of_another_model_is_refused_with_nothing_taken(tied: Any) -> None:
    trained = Trained(copy.deepcopy(tied), ADAMW, TOTAL)
    given = {name: tensor + 1 for name, tensor in tensors(trained).items()}
    before = tensors(trained)
    name = "model.layers.1.mlp.up_proj.weight"
    for bad in (
        {**given, f"model.{name}": torch.zeros(1, 64)},
        {k: v for k, v in given.items() if k != f"model.{name}"},
    ):
        with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj\.weight must have shape \(128, 64\)"):
            trained.load_state(bad, {"updates": 3, "skipped_in_a_row": 0, "micro_tokens": 8192})
        assert_same_bits(tensors(trained), before)
        assert trained.updates == 0


@pytest.mark.parametrize("settings", [ADAMW, MUON], ids=["adamw", "muon"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_skips_the_update_and_the_weights_stay(
    tied: Any, settings: AdamW, value: float
) -> None:
    trained = Trained(copy.deepcopy(tied), settings, TOTAL)
    update(trained, 0)
    before = tensors(trained)
    weight = next(trained.model.parameters())
    assert not math.isfinite(trained.backward(Sums(loss=weight.sum() * value, tokens=1, sequences=1), 1.0))
    trained.backward(Sums(loss=weight.sum(), tokens=1, sequences=1), 1.0)  # a sound micro-batch does not hide it
    assert trained.step() == {"skipped_updates": 1.0}
    assert (trained.updates, trained.skipped_in_a_row) == (2, 1)
    assert all(p.grad is None for p in trained.model.parameters())
    assert_same_bits(tensors(trained), before)
    assert update(trained, 1)["grad_norm"] > 0
    assert (trained.updates, trained.skipped_in_a_row) == (3, 0)


@pytest.mark.parametrize("settings", [ADAMW, MUON], ids=["adamw", "muon"])
def test_a_gradient_that_is_not_finite_skips_the_update_and_the_weights_stay(tied: Any, settings: AdamW) -> None:
    trained = Trained(copy.deepcopy(tied), settings, TOTAL)
    update(trained, 0)
    before = tensors(trained)
    weight = next(trained.model.parameters())
    # sqrt at 0: the value is 0 and the gradient infinite
    assert trained.backward(Sums(loss=(weight * 0).sum().sqrt(), tokens=1, sequences=1), 1.0) == 0.0
    assert trained.step() == {"skipped_updates": 1.0}
    assert_same_bits(tensors(trained), before)


def test_where_memory_runs_out_the_work_is_done_again_in_smaller_parts(tied: Any) -> None:
    trained = Trained(copy.deepcopy(tied), ADAMW, TOTAL)
    asked: list[int] = []

    def work() -> int:
        assert all(p.grad is None for p in trained.model.parameters())
        next(trained.model.parameters()).sum().backward()
        asked.append(trained.micro_tokens)
        if trained.micro_tokens > 2048:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return trained.micro_tokens

    assert trained.in_memory(work, 100) == 2048
    assert asked == [8192, 4096, 2048]
    trained.clear()
    assert trained.in_memory(work, 100) == 2048  # remembered
    assert asked == [8192, 4096, 2048, 2048]


def test_what_does_not_fit_in_the_smallest_part_is_told_with_what_would_help(tied: Any) -> None:
    trained = Trained(copy.deepcopy(tied), AdamW(micro_tokens=150), TOTAL)

    def work() -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(SettingsError, match=r"out of memory with one row per forward .*gradient_checkpointing=true"):
        trained.in_memory(work, 100)


def test_other_errors_are_not_taken_for_a_lack_of_memory(tied: Any) -> None:
    def work() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        Trained(copy.deepcopy(tied), ADAMW, TOTAL).in_memory(work, 100)
