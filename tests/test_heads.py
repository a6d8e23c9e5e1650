"""Models with a head of numbers: made from language models, read from classifiers, padded in any way, saved."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny
from torch import Tensor

from rlvr import heads, lora, policy, trained
from rlvr.chat import byte_tokenizer, encode_completion
from rlvr.errors import DataError, SettingsError
from rlvr.recipe import AdamW, Lora, Model

LENGTHS = torch.tensor([9, 3, 5, 1])


def ids_BT() -> Tensor:
    return torch.randint(3, 259, (4, 9), generator=torch.Generator().manual_seed(0))


def scorer(path: Path, num_outputs: int = 1, seed: int = 0) -> Any:
    return heads.load_scorer(Model(path=str(path)), num_outputs=num_outputs, seed=seed)[0]


@pytest.fixture(scope="module")
def reward_model(tiny_model: Path) -> Any:
    """Of one output; a test that changes it copies it first."""
    return scorer(tiny_model)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa, which counts positions by the pad id, with two labels."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    folder, tokenizer = tmp_path_factory.mktemp("roberta"), byte_tokenizer()
    tokenizer.eos_token, tokenizer.sep_token, tokenizer.cls_token = None, "<eos>", "<bos>"
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=1,
        initializer_range=0.5,
        id2label={0: "fine", 1: "toxic"},
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def by_hand(model: Any) -> Tensor:
    """Each row alone, without padding, through the library's layers."""
    rows = [ids[:length][None] for ids, length in zip(ids_BT(), LENGTHS.tolist(), strict=True)]
    with torch.no_grad():
        return torch.cat([model.score(model.model(row).last_hidden_state[:, -1]) for row in rows])


# --- making one ------------------------------------------------------------------------------------------------------


def test_a_language_model_is_cloned_and_gets_a_small_head_of_the_seed(tiny_model: Path) -> None:
    base, model = policy.load_model(Model(path=str(tiny_model)))[0], scorer(tiny_model, num_outputs=3)
    for name, tensor in base.model.state_dict().items():
        assert torch.equal(tensor, model.model.state_dict()[name]), name
    assert heads.head(model).weight.shape == (3, 64)
    assert float(heads.head(model).weight.detach().std()) == pytest.approx(0.1 / 8, rel=0.2)
    assert heads.notes(model) == ["Qwen3ForCausalLM gets a new head"]
    torch.rand(5)  # what was drawn before does not count
    assert torch.equal(scorer(tiny_model, num_outputs=3).score.weight, model.score.weight)
    assert not torch.equal(scorer(tiny_model, num_outputs=3, seed=1).score.weight, model.score.weight)


def test_scores_are_the_heads_at_each_rows_last_token(reward_model: Any) -> None:
    with torch.no_grad():
        torch.testing.assert_close(heads.scores(reward_model, ids_BT(), LENGTHS), by_hand(reward_model))


def test_values_are_the_heads_at_every_token(reward_model: Any) -> None:
    with torch.no_grad():
        value_BT = heads.values(reward_model, ids_BT(), LENGTHS)
        for row, length in enumerate(LENGTHS.tolist()):
            for end in range(1, length + 1):
                score = heads.scores(reward_model, ids_BT()[row : row + 1, :end], torch.tensor([end]))
                assert float(value_BT[row, end - 1]) == pytest.approx(float(score), abs=1e-5)
            assert not value_BT[row, length:].any()


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_what_the_padding_holds_and_how_long_it_is_changes_nothing(kind: str, tiny_model: Path, encoder: Path) -> None:
    model = scorer(tiny_model if kind == "decoder" else encoder)
    ids, real_BT = ids_BT(), torch.arange(9) < LENGTHS[:, None]
    close = {"rtol": 0, "atol": 1e-5}
    with torch.no_grad():
        plain = heads.scores(model, ids.masked_fill(~real_BT, 0), LENGTHS)
        for filler in (1, 77):
            assert torch.equal(heads.scores(model, ids.masked_fill(~real_BT, filler), LENGTHS), plain)
        wider = torch.nn.functional.pad(ids, (0, 7), value=1)
        torch.testing.assert_close(heads.scores(model, wider, LENGTHS), plain, **close)
        alone = [heads.scores(model, ids[k : k + 1, :n], LENGTHS[k : k + 1]) for k, n in enumerate(LENGTHS.tolist())]
        torch.testing.assert_close(torch.cat(alone), plain, **close)


def test_a_saved_reward_model_gives_the_same_scores_to_the_library_itself(
    reward_model: Any, tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    model, tokenizer = heads.load_scorer(Model(path=str(tiny_model)), seed=0)
    heads.name_outputs(model, ["reward"])
    policy.save_model(model, tokenizer, tmp_path / "model")
    theirs: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    texts = [encode_completion(tokenizer, "Q: ", text).ids for text in ("long answer", "no")]
    ids = torch.full((2, len(texts[0])), tokenizer.pad_token_id)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = torch.as_tensor(text)
    length_B = torch.tensor([len(text) for text in texts])
    with torch.no_grad():
        ours = heads.scores(scorer(tmp_path / "model"), ids, length_B)
        mask = ids != tokenizer.pad_token_id
        torch.testing.assert_close(theirs(ids, attention_mask=mask).logits, ours, rtol=0, atol=1e-6)
    assert heads.notes(scorer(tmp_path / "model")) == []


# --- encoders --------------------------------------------------------------------------------------------------------


def test_an_encoder_scores_as_the_library_does(encoder: Path) -> None:
    model, tokenizer = heads.load_scorer(Model(path=str(encoder)), seed=0)
    text = encode_completion(tokenizer, "", "you fool")
    assert text.ids.tolist() == [*tokenizer("you fool", add_special_tokens=False)["input_ids"], 1]
    ids = torch.as_tensor(text.ids).long()[None]
    with torch.no_grad():
        torch.testing.assert_close(heads.scores(model, ids, torch.tensor([ids.shape[1]])), model(ids).logits)
    assert heads.label_index(model, "toxic") == 1
    with pytest.raises(DataError, match="RobertaForSequenceClassification has no head that can be put on every token"):
        heads.values(model, ids, torch.tensor([ids.shape[1]]))


# --- outputs by name -------------------------------------------------------------------------------------------------


def test_the_reward_is_the_weighted_sum_that_the_configuration_keeps(tiny_model: Path, tmp_path: Path) -> None:
    model, tokenizer = heads.load_scorer(Model(path=str(tiny_model)), num_outputs=2, seed=0)
    heads.name_outputs(model, ["helpful", "rude"], {"helpful": 2.0, "rude": -0.5})
    policy.save_model(model, tokenizer, tmp_path / "model")
    again = scorer(tmp_path / "model")
    assert heads.labels(again) == ["helpful", "rude"]
    with torch.no_grad():
        score_BK = heads.scores(again, ids_BT(), LENGTHS)
        wanted = 2 * score_BK[:, 0] - 0.5 * score_BK[:, 1]
        assert heads.reward_weights(again).tolist() == [2.0, -0.5]
        assert heads.reward_weights(again, "rude").tolist() == [0.0, 1.0]
        value_BT = heads.values(again, ids_BT(), LENGTHS)
        torch.testing.assert_close(value_BT[torch.arange(4), LENGTHS - 1], wanted)


def test_the_context_of_an_encoder_that_counts_behind_its_pad_id_is_what_it_takes(encoder: Path) -> None:
    model = scorer(encoder)
    longest = policy.context_length(model)
    assert longest == heads.load_tokenizer(Model(path=str(encoder)))[1] == 63  # pad id 0
    ids = torch.full((1, 64), 5)
    assert heads.scores(model, ids[:, :longest], torch.tensor([longest])).isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        heads.scores(model, ids, torch.tensor([64]))


def test_a_label_that_is_not_there_is_told_with_those_that_are(encoder: Path) -> None:
    model = scorer(encoder)
    with pytest.raises(DataError, match="no label 'toxik'; did you mean 'toxic'\\? it has 'fine', 'toxic'"):
        heads.label_index(model, "toxik")
    with pytest.raises(DataError, match="2 outputs and does not say which is the reward; set label to one of 'fine'"):
        heads.reward_weights(model)


# --- adapters --------------------------------------------------------------------------------------------------------


def test_adapters_train_the_head_fully_and_resume_and_merge(tiny_model: Path) -> None:
    model = lora.attach(scorer(tiny_model, num_outputs=2), Lora(rank=4), 0, is_scorer=True)
    own = [name for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name in own if "lora_" not in name] == ["base_model.model.score.modules_to_save.default.weight"]
    first = trained.Trained(model, AdamW(lr=0.05), 9)
    before = heads.scores(model, ids_BT(), LENGTHS).detach()

    def step() -> Tensor:
        heads.scores(model, ids_BT(), LENGTHS).square().sum().backward()
        first.step()
        return heads.scores(model, ids_BT(), LENGTHS).detach()

    moved = step()
    assert not torch.allclose(before, moved)
    tensors, numbers = {name: t.clone() for name, t in first.state().items()}, first.numbers()
    further = step()
    first.load_state(tensors, numbers)
    assert torch.equal(heads.scores(model, ids_BT(), LENGTHS), moved)
    assert torch.equal(step(), further)
    merged = lora.merged(model)
    assert isinstance(heads.head(merged), torch.nn.Linear)
    torch.testing.assert_close(heads.scores(merged, ids_BT(), LENGTHS).detach(), further, rtol=0, atol=1e-5)


# --- what cannot be used ---------------------------------------------------------------------------------------------


def changed(folder: Path, source: Path, **config: Any) -> Path:
    """A copy of a model with other words in its config.json."""
    shutil.copytree(source, folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


def with_tokens(folder: Path, source: Path, **tokens: Any) -> Path:
    shutil.copytree(source, folder)
    tokenizer = byte_tokenizer()
    for name, token in tokens.items():
        setattr(tokenizer, name, token)
    tokenizer.save_pretrained(folder)
    return folder


def without_added(folder: Path, *tokens: str) -> Path:
    """Takes special tokens out of a tokenizer; as plain tokens they stay."""
    path = folder / "tokenizer.json"
    written = json.loads(path.read_text())
    written["added_tokens"] = [token for token in written["added_tokens"] if token["content"] not in tokens]
    path.write_text(json.dumps(written))
    return folder


def test_an_end_token_that_also_pads_gives_way_to_another_special_token(tiny_model: Path, tmp_path: Path) -> None:
    for name, pad in (("none", None), ("end", "<eos>")):
        path = with_tokens(tmp_path / name, tiny_model, pad_token=pad)
        model, tokenizer = heads.load_scorer(Model(path=str(path)), seed=0)
        assert (tokenizer.pad_token, model.config.pad_token_id) == ("<pad>", 0)
        assert heads.notes(model)[1] == "pad token of the reward model: '<pad>' (the base has none but its end token)"
    path = without_added(with_tokens(tmp_path / "bos", tiny_model, pad_token=None), "<pad>")
    model, tokenizer = heads.load_scorer(Model(path=str(path)), seed=0)
    assert (tokenizer.pad_token, model.config.pad_token_id) == ("<bos>", 2)


def test_a_model_without_any_token_to_pad_with_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    path = with_tokens(tmp_path / "model", tiny_model, pad_token=None, bos_token=None)
    without_added(path, "<pad>", "<bos>")
    with pytest.raises(DataError, match=r"no pad token, and no special token but '<eos>'.*add it once: .*<pad>"):
        scorer(path)


def test_a_model_that_cannot_be_a_scorer_is_told_in_one_line(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^rewards.a.path \S+: no such folder"):
        heads.load_scorer(Model(path="./none"), seed=0, setting="rewards.a.path")
    with pytest.raises(DataError, match=r"is no classifier .* train one from it with `rlvr reward-model`"):
        heads.load_scorer(Model(path=str(tiny_model)), seed=0, new_head=False)
    path = changed(tmp_path / "mamba", tiny_model)
    (path / "config.json").write_text(json.dumps({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}))
    with pytest.raises(DataError, match="MambaForCausalLM can have no head: transformers knows no mamba"):
        scorer(path)
    path = changed(tmp_path / "torn", tiny_model, num_hidden_layers=3, layer_types=["full_attention"] * 3)
    with pytest.raises(DataError, match=r"lacks 11 weights \(model.layers.2"):
        scorer(path)


def test_a_classifier_without_its_head_is_torn(reward_model: Any, tiny_model: Path, tmp_path: Path) -> None:
    path = changed(tmp_path / "model", tiny_model, architectures=["Qwen3ForSequenceClassification"])
    with pytest.raises(DataError, match=r"lacks 1 weights \(score.weight"):
        scorer(path)


def test_a_head_of_another_shape_is_told_in_our_words(reward_model: Any, tmp_path: Path) -> None:
    reward_model.save_pretrained(tmp_path / "saved")
    byte_tokenizer().save_pretrained(tmp_path / "saved")
    folder = changed(tmp_path / "wider", tmp_path / "saved", id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    with pytest.raises(DataError, match=r"has weights of other shapes than its config\.json says"):
        scorer(folder)


def test_another_number_of_outputs_is_told_with_their_names(encoder: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"loss.kind binary needs .* 1 output\(s\), .* classifier with 2 \(fine, toxic\)"
    ):
        heads.check_outputs(scorer(encoder), 1, "loss.kind binary")


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "model", tied=True)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"<{k}>" for k in range(5)])
    tokenizer.save_pretrained(path)
    with pytest.raises(DataError, match="its tokenizer has 264 tokens and the model 259"):
        scorer(path)


def test_the_head_gets_the_gradient_of_the_plain_formula(reward_model: Any) -> None:
    ours, theirs = copy.deepcopy(reward_model).double(), copy.deepcopy(reward_model).double()
    heads.scores(ours, ids_BT(), LENGTHS).sin().sum().backward()
    for row, length in zip(ids_BT(), LENGTHS.tolist(), strict=True):
        theirs.score(theirs.model(row[None, :length]).last_hidden_state[0, -1]).sin().sum().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
