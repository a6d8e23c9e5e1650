"""The model that is trained: log-probabilities against full logits in float64, updates against plain torch, files."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr import heads, policy
from rlvr.errors import DataError, SettingsError
from rlvr.recipe import Model, NewModel

LENGTHS = (9, 4, 13)


def rows(lengths: tuple[int, ...] = LENGTHS, num_prompt: int = 2, vocab: int = 259) -> tuple[Tensor, Tensor]:
    """(ids_BT, mask_BT): random ids, right-padded, trained after the prompt."""
    rng = torch.Generator().manual_seed(7)
    ids_BT = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    mask_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)
    for b, length in enumerate(lengths):
        ids_BT[b, :length] = torch.randint(3, vocab, (length,), generator=rng)
        mask_BT[b, num_prompt:length] = True
    return ids_BT, mask_BT


def assert_same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@torch.no_grad()
def naive(model: Any, ids_BT: Tensor, mask_BT: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Row by row without padding, all logits, float64; the model's own forward with its own head."""
    exact = copy.deepcopy(model).double()
    logp_BT = torch.zeros(ids_BT.shape, dtype=torch.float64)
    entropy_BT = torch.zeros_like(logp_BT)
    for b in range(len(ids_BT)):
        length = int(mask_BT[b].nonzero().max()) + 1
        logits_TV = exact(ids_BT[b : b + 1, :length]).logits[0] / temperature
        for t in range(1, length):
            if mask_BT[b, t]:
                p_V = torch.softmax(logits_TV[t - 1], dim=0)
                logp_BT[b, t] = p_V[ids_BT[b, t]].log()
                entropy_BT[b, t] = -(p_V * p_V.log()).sum()
    return logp_BT, entropy_BT


# --- log-probabilities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("which", ["tied", "untied"])
def test_logprobs_and_entropy_are_those_of_all_logits_in_float64(
    which: str, temperature: float, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(which)
    ids_BT, mask_BT = rows()
    logp_BT, entropy_BT = policy.logprobs(model, ids_BT, mask_BT, temperature)
    wanted_logp_BT, wanted_entropy_BT = naive(model, ids_BT, mask_BT, temperature)
    assert logp_BT.dtype == entropy_BT.dtype == torch.float32
    torch.testing.assert_close(logp_BT.double(), wanted_logp_BT, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy_BT.double(), wanted_entropy_BT, rtol=1e-5, atol=1e-5)
    assert entropy_BT.requires_grad
    assert (logp_BT[~mask_BT] == 0).all() and (entropy_BT[~mask_BT] == 0).all()


def test_padding_and_the_order_of_rows_change_no_logprob(tied: Any) -> None:
    ids_BT, mask_BT = rows()
    logp_BT, _ = policy.logprobs(tied, ids_BT, mask_BT)
    order = torch.tensor([2, 0, 1])
    padded = torch.nn.functional.pad(ids_BT[order], (0, 5), value=33), torch.nn.functional.pad(mask_BT[order], (0, 5))
    again_BT, _ = policy.logprobs(tied, *padded)
    torch.testing.assert_close(again_BT[:, :-5], logp_BT[order], rtol=1e-6, atol=1e-6)
    for b, length in enumerate(LENGTHS):
        alone_BT, _ = policy.logprobs(tied, ids_BT[b : b + 1, :length], mask_BT[b : b + 1, :length])
        torch.testing.assert_close(alone_BT[0], logp_BT[b, :length], rtol=1e-6, atol=1e-6)


def test_the_gradient_of_logprobs_is_that_of_all_logits(untied: Any) -> None:
    ids_BT, mask_BT = rows()
    ours, theirs = copy.deepcopy(untied), copy.deepcopy(untied).double()
    weight_BT = torch.rand(mask_BT.shape, generator=torch.Generator().manual_seed(1))
    (policy.logprobs(ours, ids_BT, mask_BT, 0.7)[0] * weight_BT).sum().backward()
    logits_BTV = theirs(ids_BT).logits[:, :-1] / 0.7
    full_BT = torch.log_softmax(logits_BTV, dim=-1).gather(2, ids_BT[:, 1:, None])[..., 0]
    (full_BT * weight_BT[:, 1:] * mask_BT[:, 1:]).sum().backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def tiny_architecture(name: str, **config: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {
        "vocab_size": 48,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "initializer_range": 0.5,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**small, **config})).eval()


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("cohere", {"logit_scale": 0.25}),
        ("granite", {"logits_scaling": 4.0}),
        ("gemma2", {"final_logit_softcapping": 0.5}),
        ("gemma2", {"final_logit_softcapping": None}),
        ("llama", {}),
    ],
)
def test_scalings_behind_the_head_are_those_of_the_model_itself(name: str, setting: dict[str, Any]) -> None:
    model = tiny_architecture(name, **setting)
    ids_BT, mask_BT = rows(vocab=48)
    logp_BT, entropy_BT = policy.logprobs(model, ids_BT, mask_BT)
    wanted_logp_BT, wanted_entropy_BT = naive(model, ids_BT, mask_BT, 1.0)
    torch.testing.assert_close(logp_BT.double(), wanted_logp_BT, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy_BT.double(), wanted_entropy_BT, rtol=1e-5, atol=1e-5)


def test_head_scalings_by_hand() -> None:
    class Fake:
        def __init__(self, **config: float) -> None:
            self.config = type("Config", (), config)()

        def get_output_embeddings(self) -> Any:
            return lambda hidden_ND: hidden_ND * 2

    hidden_ND = torch.tensor([[1.0, -3.0]])

    def logits(**config: float) -> list[float]:
        return policy.head_logits(Fake(**config), hidden_ND)[0].tolist()

    assert logits() == [2, -6]
    assert logits(logit_scale=0.5) == [1, -3]
    assert logits(logits_scaling=4.0) == [0.5, -1.5]
    capped = logits(final_logit_softcapping=5.0)
    assert capped == pytest.approx([5 * math.tanh(0.4), 5 * math.tanh(-1.2)], rel=1e-6)


def test_cross_entropy_is_the_summed_loss_and_counts_right_guesses(tied: Any) -> None:
    ids_BT, mask_BT = rows()
    with torch.no_grad():
        logits_BTV = copy.deepcopy(tied).double()(ids_BT).logits
        guess_BT = logits_BTV.argmax(dim=-1)
        ids_BT[0, 5] = guess_BT[0, 4]  # the last change of row 0, so that its prefix is what was guessed from
        mask_BT[0, 6:] = False
        sums = policy.cross_entropy(tied, ids_BT, mask_BT)
    logp_BT, _ = naive(tied, ids_BT, mask_BT, 1.0)
    assert float(sums.loss) == pytest.approx(-float(logp_BT.sum()), rel=1e-6)
    assert (sums.tokens, sums.sequences) == (int(mask_BT.sum()), 3)
    right = int((guess_BT[:, :-1] == ids_BT[:, 1:])[mask_BT[:, 1:]].sum())
    assert sums.metrics["mean_token_accuracy"] == right >= 1


@pytest.mark.parametrize("tile", [1, 2 * 259, 7 * 259 + 258])
@pytest.mark.parametrize("which", ["tied", "untied"])
def test_tiles_of_logits_change_no_value_and_no_gradient(
    which: str, tile: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids_BT, mask_BT = rows()
    num_tokens, per_tile = int(mask_BT.sum()), max(1, tile // 259)
    weight_BT = torch.rand(mask_BT.shape, generator=torch.Generator().manual_seed(1))
    sizes: list[int] = []
    head = policy.head_logits

    def spy(model: Any, hidden_ND: Tensor) -> Tensor:
        sizes.append(len(hidden_ND))
        return head(model, hidden_ND)

    monkeypatch.setattr(policy, "head_logits", spy)

    def values() -> tuple[dict[str, Tensor], list[int]]:
        model = copy.deepcopy(request.getfixturevalue(which))
        sizes.clear()
        logp_BT, entropy_BT = policy.logprobs(model, ids_BT, mask_BT, 0.7, fused=False)
        sums = policy.cross_entropy(model, ids_BT, mask_BT, fused=False)
        assert (sums.tokens, sums.sequences) == (num_tokens, 3)
        ((logp_BT * weight_BT).sum() + sums.loss).backward()
        seen = list(sizes)
        with torch.no_grad():
            assert torch.equal(policy.logprobs(model, ids_BT, mask_BT, 0.7, fused=False)[0], logp_BT)
        found = {"logp": logp_BT, "entropy": entropy_BT, "loss": sums.loss}
        found["right"] = torch.tensor(sums.metrics["mean_token_accuracy"])
        return found | {f"gradient of {n}": p.grad for n, p in model.named_parameters()}, seen

    whole, seen = values()
    assert seen == [num_tokens] * 2  # one tile, kept for the backward pass
    monkeypatch.setattr(policy, "TILE_LOGITS", tile)
    tiled, seen = values()
    assert max(seen) == per_tile
    assert sum(seen) == 4 * num_tokens  # both functions make theirs again in the backward pass
    for name, tensor in whole.items():
        torch.testing.assert_close(tiled[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


# --- packing and activations -----------------------------------------------------------------------------------------


def gradients(model: Any, ids_BT: Tensor, mask_BT: Tensor, length_B: Tensor | None) -> dict[str, Tensor]:
    """Of a loss whose every token has a weight of its own; and the log-probabilities."""
    model.zero_grad()
    weight_BT = torch.rand(mask_BT.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logp_BT, entropy_BT = policy.logprobs(model, ids_BT, mask_BT, 0.7, length_B=length_B)
    (logp_BT * weight_BT).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found | {"logp": logp_BT.detach(), "entropy": entropy_BT.detach()}


ARCHITECTURES = ("qwen3", "qwen2", "llama", "mistral", "gemma2", "cohere", "granite", "gpt_neox", "phi3", "olmo2")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_rows_give_what_padded_ones_give_gradients_too(name: str) -> None:
    model = tiny_architecture(name).double()
    assert policy.can_pack(model)
    lengths = (9, 4, 13, 2, 5, 5, 1)
    ids_BT, mask_BT = rows(lengths, num_prompt=1, vocab=48)
    padded = gradients(model, ids_BT, mask_BT, None)
    packed = gradients(model, ids_BT, mask_BT, torch.tensor(lengths))
    assert padded.keys() == packed.keys()
    for key, value in padded.items():
        torch.testing.assert_close(packed[key], value, rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize(
    ("name", "config"), [("mamba", {"state_size": 4}), ("gpt2", {"n_embd": 16, "n_head": 2, "n_layer": 1})]
)
def test_whether_an_architecture_keeps_packed_rows_apart_is_tried_out(name: str, config: dict[str, Any]) -> None:
    assert policy.can_pack(tiny_architecture(name, **config)) == (name == "gpt2")


def test_activations_made_again_give_the_same_gradient_without_dropout() -> None:
    ids_BT, mask_BT = rows(vocab=48)
    kept = tiny_architecture("llama", attention_dropout=0.5, num_hidden_layers=3).double()
    again = copy.deepcopy(kept)
    policy.keep_few_activations(again)
    counted: list[int] = []
    for layer in again.model.layers:
        layer.input_layernorm.register_forward_hook(lambda *_: counted.append(1))
    wanted = gradients(kept, ids_BT, mask_BT, None)
    assert not counted
    found = gradients(again, ids_BT, mask_BT, None)
    assert len(counted) == 2 * 3  # each layer twice: forward, and again for the backward pass
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12, msg=lambda m, k=key: f"{k}: {m}")


def test_a_model_without_layers_to_make_again_is_told() -> None:
    with pytest.raises(SettingsError, match="gradient_checkpointing: Toy has no layers that support it"):
        policy.keep_few_activations(type("Toy", (torch.nn.Module,), {})())


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_saved_model_is_loaded_as_it_was(tied: Any, tiny_model: Path, tmp_path: Path) -> None:
    _, tokenizer = policy.load_model(Model(path=str(tiny_model)))
    changed = copy.deepcopy(tied)
    with torch.no_grad():
        changed.model.norm.weight.add_(0.5)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").write_text("of an earlier run")
    policy.save_model(changed, tokenizer, tmp_path / "model")
    again, same_tokenizer = policy.load_model(Model(path=str(tmp_path / "model")))
    assert_same_bits(dict(again.state_dict()), dict(changed.state_dict()))
    assert same_tokenizer.get_vocab() == tokenizer.get_vocab()
    assert same_tokenizer.eos_token_id == tokenizer.eos_token_id
    assert not again.training
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "old.txt").exists()


def test_the_dtype_is_the_settings_own(tiny_model: Path) -> None:
    model, _ = policy.load_model(Model(path=str(tiny_model), dtype="bfloat16"))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert policy.context_length(model) == 256


def test_a_tokenizer_is_loaded_without_weights(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    (folder / "model.safetensors").write_text("not read")
    tokenizer, context = policy.load_tokenizer(Model(path=str(folder)))
    assert (context, tokenizer.eos_token_id, len(tokenizer)) == (256, 1, 259)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"^model\.path .*/m: its tokenizer cannot be loaded: [^\n]+$"):
        policy.load_tokenizer(Model(path=str(folder)))
    (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    with pytest.raises(DataError, match="BertModel is no causal language model"):
        policy.load_tokenizer(Model(path=str(folder)))


def refusal(path: Path | str, *, setting: str = "model.path", **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        policy.load_model(Model(path=str(path), **settings), setting=setting)
    text = str(caught.value)
    assert "\n" not in text
    return text.replace(str(path), "PATH")


def test_a_missing_model_is_named_with_what_would_make_it(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no").startswith("model.path PATH: no such folder (seen from ")
    # the command is that of the recipe's stage, whatever the file is called
    made_by = tmp_path / "warm.yaml"
    made_by.write_text("stage: sft\nsteps: 1\nmodel: {path: m}\ndata: {path: d}\n")
    assert refusal(tmp_path / "no" / "model", made_by=str(made_by)) == (
        f"model.path PATH does not exist yet; make it with: rlvr sft {made_by} run.dir={tmp_path / 'no'}"
    )
    assert refusal(tmp_path / "no" / "model", made_by="far/away.yaml") == (
        "model.path PATH does not exist yet, nor can model.made_by be read: "
        f"no recipe far/away.yaml (seen from {Path.cwd()})"
    )
    assert refusal(tmp_path / "no" / "model", made_by="far/away.yaml", setting="reference.path").startswith(
        "reference.path PATH does not exist yet, nor can reference.made_by be read: "
    )


def test_messages_bear_the_settings_name_and_the_path_as_it_is(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model.path.v2"))
    (folder / "model.safetensors").write_text("torn")
    assert refusal(folder, setting="reference.path").startswith("reference.path PATH: cannot be loaded: ")
    (folder / "tokenizer.json").write_text("{")
    for load in (policy.load_tokenizer, heads.load_tokenizer):
        with pytest.raises(DataError) as caught:
            load(Model(path=str(folder)), setting="critic.path")
        assert str(caught.value).startswith(f"critic.path {folder}: its tokenizer cannot be loaded: ")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError) as caught:
        heads.load_scorer(Model(path=str(folder)), seed=0, setting="rewards.a.path")
    assert str(caught.value) == f"rewards.a.path {folder}: no *.safetensors in it"


def test_a_run_folder_given_for_its_model_is_answered_with_the_model(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "run" / "model")
    assert refusal(tmp_path / "run") == "model.path PATH: no config.json in it; did you mean PATH/model?"


def test_a_pickle_is_refused_before_it_is_opened(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "pickled"))
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == "model.path PATH: no *.safetensors in it"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(print))
    assert "pytorch_model.bin is a pickle, which can run code" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "BertForMaskedLM is no causal language model"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "BertModel is no causal language model"),
        (
            {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "T5ForConditionalGeneration is no causal language model",
        ),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "Qwen3ForSequenceClassification is no causal"),
        ({"model_type": "qwen99"}, "qwen99"),
    ],
)
def test_a_model_that_cannot_write_is_refused(
    tiny_model: Path, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    assert named in refusal(folder)


def test_a_file_that_lacks_weights_or_is_torn_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_model, tmp_path / "lacking"))
    file = folder / "model.safetensors"
    whole = load_file(file)
    save_file(dict(itertools.islice(whole.items(), len(whole) - 2)), file, metadata={"format": "pt"})
    assert "lacks 2 weights (model." in refusal(folder)
    config = json.loads((folder / "config.json").read_text())
    save_file(whole, file, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    assert refusal(folder).startswith("model.path PATH: ")
    (folder / "config.json").write_text(json.dumps(config))
    file.write_bytes(file.read_bytes()[:-100])
    assert refusal(folder).startswith("model.path PATH: cannot be loaded: ")


def test_a_new_model_is_the_same_for_the_same_seed() -> None:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = NewModel(config={**small, "num_key_value_heads": 1, "head_dim": 32})

    def weights(seed: int) -> dict[str, Tensor]:
        torch.rand(seed + 1)  # what was drawn before does not count
        model, tokenizer = policy.new_model(settings, iter(()), seed)
        assert model.config.vocab_size == 320 >= len(tokenizer)
        assert model.config.eos_token_id == tokenizer.eos_token_id == 1
        return dict(model.state_dict())

    assert_same_bits(weights(5), weights(5))
    assert not torch.equal(weights(5)["lm_head.weight"], weights(6)["lm_head.weight"])


def test_a_new_model_that_cannot_be_is_answered_in_one_line() -> None:
    with pytest.raises(DataError, match=r"model\.architecture qwen99 with model\.config"):
        policy.new_model(NewModel(architecture="qwen99"), iter(()), 0)
