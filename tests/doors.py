"""A small model, and the ways in which several processes can share it; run by test_doors.py in two processes.

    python -m torch.distributed.run --nproc-per-node=2 tests/doors.py FOLDER

Each rank takes every second row of one batch; the gradients of each way go into FOLDER/WAY.safetensors.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr import Batch, Loss, count, divisor, fused_policy_loss
from rlvr.losses import Sums

LOSS = Loss(aggregate="token", entropy_coef=0.1)
PLAIN = Loss(aggregate="token")
"""Without a term that gives every token a gradient."""


def make_model(*, tied: bool = False) -> Any:
    """float64; no part of this architecture computes in float32 whatever its weights are."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt_neox",
        vocab_size=31,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.2,
        max_position_embeddings=16,
        tie_word_embeddings=tied,
    )
    return AutoModelForCausalLM.from_config(config).double().eval()


def make_batch(*, idle: bool = False) -> Batch:
    """Six rows; idle: the second rank's have no advantage."""
    rng = torch.Generator().manual_seed(1)
    ids_BT = torch.randint(31, (6, 7), generator=rng)
    mask_BT = torch.arange(7) >= torch.randint(1, 6, (6, 1), generator=rng)
    adv_B = torch.randn(6, generator=rng, dtype=torch.float64)
    if idle:
        adv_B[1::2] = 0
    old_logp_BT = -4 * torch.rand(6, 7, generator=rng, dtype=torch.float64)
    return Batch.of(ids_BT, mask_BT, adv=adv_B, old_logp_BT=old_logp_BT)


def head_VD(model: Any) -> Tensor:
    return model.get_output_embeddings().weight


def hidden_BTD(model: Any, ids_BT: Tensor) -> Tensor:
    """From the whole model's forward, where FSDP and DDP have their hooks; of the logits one per row is made."""
    return model(input_ids=ids_BT, use_cache=False, output_hidden_states=True, logits_to_keep=1).hidden_states[-1]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        grad = parameter.grad
        found[name] = grad.full_tensor() if isinstance(grad, DTensor) else grad
    return found


def alone(model: Any, batch: Batch, loss: Loss) -> dict[str, Tensor]:
    """Gradients of one process on the whole batch."""
    hidden_ND = hidden_BTD(model, batch.ids_BT)[batch.predicts_BT]
    (fused_policy_loss(hidden_ND, head_VD(model), batch, loss).loss / divisor(count(batch, loss), loss)).backward()
    return gradients(model)


class Policy(nn.Module):
    """Model and loss in one forward."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, loss: Loss) -> Sums:
        hidden_BTD = self.model.base_model(input_ids=batch.ids_BT, use_cache=False).last_hidden_state
        return fused_policy_loss(hidden_BTD[batch.predicts_BT], head_VD(self.model), batch, loss)


class Share:
    """A rank's rows. Ranks average their gradients, and the divisor is that of all."""

    def __init__(self, loss: Loss = LOSS, *, idle: bool = False) -> None:
        whole, size = make_batch(idle=idle), distributed.get_world_size()
        self.batch = whole.rows(torch.arange(6)[distributed.get_rank() :: size])
        self.loss, self.factor = loss, size / divisor(count(whole, loss), loss)

    @property
    def ids_BT(self) -> Tensor:
        return self.batch.ids_BT

    def value(self, hidden_BTD: Tensor, head_VD: Tensor) -> Tensor:
        sums = fused_policy_loss(hidden_BTD[self.batch.predicts_BT], head_VD, self.batch, self.loss)
        return sums.loss * self.factor


# --- FSDP2 -----------------------------------------------------------------------------------------------------------


def sharded(model: Any, **settings: Any) -> Any:
    for layer in model.base_model.layers:
        fully_shard(layer, **settings)
    return fully_shard(model, **settings)


def fsdp2(model: Any, share: Share) -> None:
    """The root's parameters, the head among them, are whole from its forward to its backward."""
    model = sharded(model)
    hidden = hidden_BTD(model, share.ids_BT)
    assert not isinstance(head_VD(model), DTensor)
    share.value(hidden, head_VD(model)).backward()


def fsdp2_resharded(model: Any, share: Share) -> None:
    """The head is in shards again when the loss is made."""
    model = sharded(model, reshard_after_forward=True)
    hidden = hidden_BTD(model, share.ids_BT)
    assert isinstance(head_VD(model), DTensor)
    share.value(hidden, head_VD(model)).backward()


def fsdp2_replicated(model: Any, share: Share) -> None:
    """HSDP: shards of which there are copies."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(), 1), mesh_dim_names=("copies", "shards"))
    model = sharded(model, mesh=mesh, reshard_after_forward=True)
    share.value(hidden_BTD(model, share.ids_BT), head_VD(model)).backward()


def fsdp2_apart(model: Any, share: Share) -> None:
    """Backbone and head are roots of their own."""
    fully_shard(model.get_output_embeddings())
    backbone: Any = fully_shard(model.base_model)
    share.value(backbone(input_ids=share.ids_BT, use_cache=False).last_hidden_state, head_VD(model)).backward()


def fsdp2_policy(model: Any, share: Share) -> None:
    policy: Any = fully_shard(Policy(model), reshard_after_forward=True)
    (policy(share.batch, share.loss).loss * share.factor).backward()


def fsdp2_bfloat16(model: Any, share: Share, *, reshards: bool = False) -> None:
    mixed = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = sharded(model.float(), mp_policy=mixed, reshard_after_forward=reshards)
    hidden = hidden_BTD(model, share.ids_BT)
    assert hidden.dtype == torch.bfloat16
    assert head_VD(model).dtype == (torch.float32 if reshards else torch.bfloat16)
    share.value(hidden, head_VD(model)).backward()


def fsdp2_bfloat16_resharded(model: Any, share: Share) -> None:
    """The head's shards are float32, the hidden states bfloat16."""
    fsdp2_bfloat16(model, share, reshards=True)


# --- DDP and accelerate ----------------------------------------------------------------------------------------------


def ddp(model: Any, share: Share) -> None:
    shared = DistributedDataParallel(model)
    for _ in range(2):  # the second forward is where a reducer complains that the first lacked gradients
        model.zero_grad()
        share.value(hidden_BTD(shared, share.ids_BT), head_VD(model)).backward()


def prepared(model: Any, **settings: Any) -> tuple[Accelerator, Any]:
    AcceleratorState._reset_state()
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True, **settings)
    return accelerator, accelerator.prepare(model, torch.optim.SGD(model.parameters()))[0]


def accelerate(model: Any, share: Share) -> None:
    accelerator, shared = prepared(model)
    hidden = hidden_BTD(shared, share.ids_BT)
    accelerator.backward(share.value(hidden, head_VD(accelerator.unwrap_model(shared))))


def accelerate_policy(model: Any, share: Share) -> None:
    accelerator, policy = prepared(Policy(model))
    accelerator.backward(policy(share.batch, share.loss).loss * share.factor)


def accelerate_accumulated(model: Any, share: Share) -> None:
    """backward() divides by the steps of accumulation, which a sum must not be."""
    steps = len(share.ids_BT)
    accelerator, shared = prepared(model, gradient_accumulation_steps=steps)
    whole = share.batch
    for row in range(steps):
        share.batch = whole.rows(torch.tensor([row]))
        with accelerator.no_sync(shared) if row < steps - 1 else contextlib.nullcontext():
            hidden = hidden_BTD(shared, share.ids_BT)
            accelerator.backward(share.value(hidden, head_VD(accelerator.unwrap_model(shared))) * steps)


def ddp_bypassed(model: Any, share: Share) -> None:
    """Around DDP's forward, so that DDP does not know of it."""
    inner = DistributedDataParallel(model).module
    share.value(hidden_BTD(inner, share.ids_BT), head_VD(inner)).backward()


# --- all of them -----------------------------------------------------------------------------------------------------

Way = Callable[[Any, Share], None]
EQUAL: tuple[Way, ...] = (
    fsdp2,
    fsdp2_resharded,
    fsdp2_replicated,
    fsdp2_policy,
    ddp,
    accelerate,
    accelerate_policy,
    accelerate_accumulated,
)
"""Gradients as of one process."""
IDLE: tuple[Way, ...] = (fsdp2, fsdp2_resharded, ddp)


def main(folder: Path) -> None:
    distributed.init_process_group("gloo")
    for way in EQUAL:
        save(way, Share(), folder, "tied", tied=True)
    for way in (*EQUAL, fsdp2_apart, ddp_bypassed, fsdp2_bfloat16, fsdp2_bfloat16_resharded):
        save(way, Share(), folder, "untied")
    for way in IDLE:
        save(way, Share(PLAIN, idle=True), folder, "idle")
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)  # on the ordinary way out gloo's threads may still run, and then abort the process


def save(way: Way, share: Share, folder: Path, what: str, *, tied: bool = False) -> None:
    model = make_model(tied=tied)
    way(model, share)
    found = gradients(model)  # gathers, so on all ranks
    if distributed.get_rank() == 0:
        save_file(
            {name: grad.contiguous() for name, grad in found.items()}, folder / f"{way.__name__}-{what}.safetensors"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
