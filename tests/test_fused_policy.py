"""loss.fused auto and off, on real architectures: the same loss, log-probabilities and gradients of every weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_policy import ARCHITECTURES, rows, tiny_architecture
from torch import Tensor

from rlvr import lora, policy
from rlvr.batching import Batch
from rlvr.loss_settings import Clip, Kl, Loss
from rlvr.losses import Sums
from rlvr.recipe import Lora

LENGTHS = (9, 4, 13, 2, 5, 5)
HEADS: dict[str, dict[str, Any]] = {
    "gemma2": {"final_logit_softcapping": 0.8},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
}
SETTINGS = [
    (Loss(clip=Clip(high=0.28), aggregate="token"), Kl(coef=0.1, kind="k3")),
    (Loss(ratio="sequence", entropy_coef=0.1), Kl()),
    (Loss(surrogate="cispo", positive_nll=0.1), Kl()),
]


def model_of(name: str) -> Any:
    return tiny_architecture(name, **HEADS.get(name, {})).double()


def batch_for(model: Any) -> Batch:
    """Old policy and reference near the model's own log-probabilities; a row and a token without advantage."""
    ids_BT, mask_BT = rows(LENGTHS, num_prompt=1, vocab=48)
    rng = torch.Generator().manual_seed(4)
    with torch.no_grad():
        logp_BT, _ = policy.logprobs(model, ids_BT, mask_BT, 0.7, fused=False)

    def near() -> Tensor:
        return torch.where(mask_BT, logp_BT + 0.3 * torch.randn(logp_BT.shape, generator=rng, dtype=torch.float64), 0.0)

    adv_BT = torch.tensor([1.0, -0.5, 0.0, 2.0, -1.0, 0.3], dtype=torch.float64)[:, None] * mask_BT
    adv_BT[0, 3] = 0.0
    batch = Batch.of(
        ids_BT,
        mask_BT,
        adv=adv_BT,
        old_logp_BT=near(),
        ref_logp_BT=near(),
        sampler_logp_BT=near(),
        reward_B=torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64),
    )
    return replace(batch, length_B=torch.tensor(LENGTHS))


def found(model: Any, of: Callable[[Any], Tensor]) -> dict[str, Tensor]:
    """The value, and the gradient of every weight that is trained."""
    model.zero_grad()
    value = of(model)
    value.backward()
    named = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return named | {"value": value.detach()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == theirs.keys() and len(theirs) > 1
    scale = max(float(x.abs().max()) for x in theirs.values())
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}")


def tolerance_of(model: Any) -> float:
    """Norms compute in float32 whatever the weights are, and round each path's gradient in their own way."""
    return 1e-12 if model.config.model_type == "gpt_neox" else 1e-6


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_policy_loss_is_the_same_fused_and_plain(name: str, packs: bool) -> None:
    model = model_of(name)
    batch = batch_for(model)
    for loss, kl in SETTINGS:
        sums: dict[str, Sums] = {}

        def value(model: Any, how: str, loss: Loss = loss, kl: Kl = kl, sums: dict[str, Sums] = sums) -> Tensor:
            settings = loss.model_copy(update={"fused": how})
            sums[how] = policy.policy_loss(model, batch, settings, kl, 0.7, packs=packs, expected_grad=0.25)
            return sums[how].loss * 0.25

        ours, theirs = (found(model, lambda m, how=how: value(m, how)) for how in ("auto", "off"))
        assert float(ours["value"]) == pytest.approx(float(theirs["value"]), rel=1e-11)
        assert_same(ours, theirs, tolerance_of(model))
        auto, off = sums["auto"], sums["off"]
        assert (auto.tokens, auto.sequences, off.scored) == (off.tokens, off.sequences, off.tokens)
        assert auto.logp_BT is not None and off.logp_BT is not None and auto.scored_BT is not None
        torch.testing.assert_close(auto.logp_BT, off.logp_BT * auto.scored_BT, rtol=1e-11, atol=1e-12)
        if auto.scored == off.scored:
            assert auto.metrics == pytest.approx(off.metrics, rel=1e-10)
        assert (auto.scored < off.scored) == (loss.surrogate == "cispo")


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_log_probabilities_and_cross_entropy_are_the_same_fused_and_plain(name: str, packs: bool) -> None:
    model = model_of(name)
    ids_BT, mask_BT = rows(LENGTHS, num_prompt=1, vocab=48)
    length_B = torch.tensor(LENGTHS) if packs else None
    weight_BT = torch.rand(mask_BT.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    right: list[float] = []

    def scored(model: Any, fused: bool) -> Tensor:
        logp_BT, entropy_BT = policy.logprobs(model, ids_BT, mask_BT, 0.7, length_B=length_B, fused=fused)
        assert not logp_BT[~mask_BT].any() and not entropy_BT[~mask_BT].any()
        return (weight_BT * (logp_BT + entropy_BT.square())).sum()

    def supervised(model: Any, fused: bool) -> Tensor:
        sums = policy.cross_entropy(model, ids_BT, mask_BT, length_B=length_B, fused=fused, expected_grad=0.1)
        right.append(sums.metrics["mean_token_accuracy"])
        assert (sums.tokens, sums.scored, sums.sequences) == (int(mask_BT.sum()), sums.tokens, 6)
        return sums.loss / 10

    for of in (scored, supervised):
        ours, theirs = (found(model, lambda m, fused=fused, of=of: of(m, fused)) for fused in (True, False))
        assert float(ours["value"]) == pytest.approx(float(theirs["value"]), rel=1e-11)
        assert_same(ours, theirs, tolerance_of(model))
    assert right[0] == right[1]


@pytest.mark.parametrize("name", ["gpt_neox", "gemma2"])
@pytest.mark.parametrize("targets", ["layers", "layers and head"])
def test_an_adapter_learns_the_same_fused_and_plain_also_on_the_head_itself(name: str, targets: str) -> None:
    layers = ["query_key_value", "dense"] if name == "gpt_neox" else ["q_proj", "o_proj"]
    plain = tiny_architecture(name, tie_word_embeddings=False, **HEADS.get(name, {})).double()
    settings = Lora(rank=2, targets=(*layers, "lm_head") if "head" in targets else tuple(layers))
    model = lora.attach(plain, settings, seed=1).double()
    with torch.no_grad():
        for parameter_name, p in model.named_parameters():
            if "lora_B" in parameter_name:
                p.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
    batch = batch_for(model)
    assert (policy.plain_head(model) is None) == ("head" in targets)
    for loss, kl in SETTINGS:
        results = [
            found(
                model,
                lambda m, how=how, loss=loss, kl=kl: (
                    policy.policy_loss(m, batch, loss.model_copy(update={"fused": how}), kl, 0.7).loss
                ),
            )
            for how in ("auto", "off")
        ]
        assert any("lora_A" in n for n in results[0]) and all("lora" in n or n == "value" for n in results[0])
        assert_same(results[0], results[1], tolerance_of(model))


def test_the_head_that_is_taken_has_the_models_own_weight_scale_and_cap() -> None:
    for name, settings in HEADS.items():
        head = policy.plain_head(model_of(name))
        assert head is not None
        assert (head.scale, head.softcap) == ((0.25, None) if name != "gemma2" else (1.0, 0.8))
        (wanted,) = settings.values()
        assert wanted in (head.scale, head.softcap, 1 / head.scale)
    model = model_of("gpt_neox")
    head = policy.plain_head(model)
    assert head is not None and head.weight_VD is model.get_output_embeddings().weight
