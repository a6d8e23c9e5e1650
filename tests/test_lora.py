"""Adapters: what is trained, what is saved, and that others load it."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_policy import rows
from test_rl import held_out, make_recipe, steps_of, train
from torch import Tensor

from rlvr import lora, policy
from rlvr.errors import SettingsError
from rlvr.recipe import AdamW, Lora, Model
from rlvr.settings import from_overrides
from rlvr.trained import Trained


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    from test_rl import PLUGIN

    path = tmp_path_factory.mktemp("plugin") / "toy.py"
    path.write_text(PLUGIN)
    return str(path)


def base(folder: Path) -> Any:
    return policy.load_model(Model(path=str(folder)))[0]


def adapted(folder: Path, seed: int = 1, **settings: Any) -> Any:
    """With adapters that change something."""
    model = lora.attach(base(folder), Lora(**settings), seed)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.05, generator=rng)
    return model


def logp(model: Any) -> Tensor:
    ids_BT, mask_BT = rows()
    with torch.no_grad():
        return policy.logprobs(model, ids_BT, mask_BT)[0]


@pytest.mark.parametrize("which", ["tiny_model", "untied_model"])
def test_fresh_adapters_change_nothing_and_are_all_that_is_trained(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    model = lora.attach(base(folder), Lora(rank=4), seed=1)
    assert torch.equal(logp(model), logp(base(folder)))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 2  # A and B of seven linear layers in each of two blocks, not of the head
    assert all("lora_" in name for name in trained)
    names = [name for name, _ in lora.weights(model)]
    assert len(names) == len(trained)
    assert "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight" in names


def test_the_same_seed_draws_the_same_adapters(tiny_model: Path) -> None:
    ours, same, other = (dict(lora.weights(lora.attach(base(tiny_model), Lora(), seed))) for seed in (1, 1, 2))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert torch.equal(ours[name], same[name])
    assert not torch.equal(ours[name], other[name])


def test_switched_off_they_leave_the_model_as_it_was(tiny_model: Path) -> None:
    model = adapted(tiny_model)
    before = logp(model)
    with lora.off(model):
        assert torch.equal(logp(model), logp(base(tiny_model)))
    assert torch.equal(logp(model), before)
    assert (before - logp(base(tiny_model))).abs().max() > 1e-2


def test_targets_are_the_modules_of_that_name_and_unknown_ones_are_told(tiny_model: Path) -> None:
    model = lora.attach(base(tiny_model), Lora(targets=("q_proj", "v_proj")), seed=1)
    layers = {name.split(".")[-3] for name, _ in lora.weights(model)}
    assert layers == {"q_proj", "v_proj"}
    wanted = r"model.lora.targets: the model has no module query; its linear ones are .*down_proj.*v_proj"
    with pytest.raises(SettingsError, match=wanted):
        lora.attach(base(tiny_model), Lora(targets=("q_proj", "query")), seed=1)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_that_could_not_be_merged_is_refused(target: str, tiny_model: Path, untied_model: Path) -> None:
    with pytest.raises(SettingsError, match=rf"{target} shares its weight with the model's other end"):
        lora.attach(base(tiny_model), Lora(targets=(target,)), seed=1)
    assert list(lora.weights(lora.attach(base(untied_model), Lora(targets=(target,)), seed=1)))


@pytest.mark.parametrize("which", ["tiny_model", "untied_model"])
def test_transformers_and_peft_load_what_is_saved(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = request.getfixturevalue(which)
    model, tokenizer = adapted(folder, alpha=24.0), policy.load_model(Model(path=str(folder)))[1]
    wanted = logp(model)
    policy.save_model(model, tokenizer, tmp_path / "adapter")
    assert sorted(p.name for p in (tmp_path / "adapter").glob("adapter_*")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    again = PeftModel.from_pretrained(base(folder), tmp_path / "adapter")
    torch.testing.assert_close(logp(again), wanted, rtol=0, atol=1e-6)
    policy.save_model(lora.merged(model), tokenizer, tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    torch.testing.assert_close(logp(plain), wanted, rtol=0, atol=1e-4)


def test_a_checkpoint_of_adapters_holds_them_alone_and_goes_on_bit_for_bit(tiny_model: Path) -> None:
    def update(trained: Trained, number: int) -> None:
        ids_BT, mask_BT = rows()
        ids_BT = (ids_BT + 11 * number) % 256 + 3
        trained.backward(policy.cross_entropy(trained.model, ids_BT, mask_BT), int(mask_BT.sum()))
        trained.step()

    straight = Trained(adapted(tiny_model), AdamW(lr=1e-2), 4)
    for number in range(2):
        update(straight, number)
    state = {name: tensor.clone() for name, tensor in straight.state().items()}
    assert all("lora_" in name for name in state)
    for number in range(2, 4):
        update(straight, number)
    resumed = Trained(lora.attach(base(tiny_model), Lora(), seed=9), AdamW(lr=1e-2), 4)
    resumed.load_state(state, {"updates": 2, "skipped_in_a_row": 0, "micro_tokens": 8192})
    for number in range(2, 4):
        update(resumed, number)
    for name, tensor in straight.state().items():
        assert torch.equal(resumed.state()[name], tensor), name


def test_a_checkpoint_of_the_whole_model_is_none_of_adapters(tiny_model: Path) -> None:
    whole = Trained(base(tiny_model), AdamW(), 4).state()
    adapters = Trained(adapted(tiny_model), AdamW(), 4)
    with pytest.raises(ValueError, match=r"lora_A.weight must have shape .*; it is missing"):
        adapters.load_state(whole, {"updates": 0, "skipped_in_a_row": 0, "micro_tokens": 8192})
    smaller = Trained(adapted(tiny_model, rank=4), AdamW(), 4).state()
    with pytest.raises(ValueError, match=r"must have shape \(16, 64\); it has shape \(4, 64\)"):
        adapters.load_state(smaller, {"updates": 0, "skipped_in_a_row": 0, "micro_tokens": 8192})


def test_settings_may_be_true_or_a_mapping(tiny_model: Path) -> None:
    def settings(*overrides: str) -> Any:
        given = ["data.path=x", "steps=1", f"model.path={tiny_model}", *overrides]
        return from_overrides("rl", given).model.lora  # type: ignore[attr-defined]

    assert settings() is None
    assert settings("model.lora=false") is None
    assert settings("model.lora=true") == Lora(rank=16, alpha=32.0, targets="all-linear")
    assert settings("model.lora={rank: 4, targets: [q_proj]}") == Lora(rank=4, targets=("q_proj",))
    with pytest.raises(SettingsError, match=r"model\.lora\.rnak: .*rank"):
        settings("model.lora.rnak=4")


def test_a_policy_learns_through_adapters_and_leaves_both_exports(
    tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    settings = ["model.lora=true", "optim.lr=2e-2", "steps=12", "sample.groups_per_step=8", "kl.coef=0.01"]
    recipe = make_recipe(tmp_path / "run", tiny_model, plugin, "share", *settings, *held_out(plugin, 20))
    summary = train(recipe)
    steps = steps_of(tmp_path / "run")
    assert summary["after"]["pass@1"] > summary["before"]["pass@1"] + 0.2
    assert steps[0]["kl"] == 0  # the reference is the model without its adapter
    assert steps[-1]["kl"] > 0
    assert all(row["sampling/sampling_logp_difference/mean"] < 1e-4 for row in steps)
    merged = base(tmp_path / "run" / "model")
    again = lora.attach(base(tiny_model), Lora(), seed=1)
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(again, load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors"))
    torch.testing.assert_close(logp(merged), logp(again), rtol=0, atol=1e-4)
    before = copy.deepcopy(base(tiny_model).state_dict())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in merged.state_dict().items())


VLLM_LOADS = """
import os, sys
from rlvr.engines import vllm
from rlvr.recipe import Model, VllmEngine
os.environ.update(vllm.environment(VllmEngine()))
from rlvr.engines.base import build
from rlvr.policy import load_model, logprobs
from rlvr.types import Request, Sampling
import torch

settings = Model(path=sys.argv[1])
model, tokenizer = load_model(settings)
engine = build(VllmEngine(), settings, tokenizer)
request = Request(id="a", prompt_ids=(50, 51, 52), seeds=(1, 2), sampling=Sampling(max_tokens=16))
for _, completion in engine.generate([request]):
    ids_BT = torch.tensor([[*request.prompt_ids, *completion.token_ids]])
    mask_BT = torch.arange(ids_BT.shape[1])[None] >= 3
    with torch.no_grad():
        ours = logprobs(model, ids_BT, mask_BT)[0][mask_BT]
    assert (ours - torch.tensor(completion.logprobs)).abs().max() < 1e-4
engine.close()
print("agreed")
"""


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_loads_the_merged_model(untied_model: Path, tmp_path: Path) -> None:
    tokenizer = policy.load_model(Model(path=str(untied_model)))[1]
    policy.save_model(lora.merged(adapted(untied_model)), tokenizer, tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", VLLM_LOADS, str(tmp_path / "model")], capture_output=True, text=True, timeout=300
    )
    assert "agreed" in done.stdout, done.stderr
