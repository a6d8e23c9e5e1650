"""Supervised steps against naive cross-entropy, and the loop: what is masked, what repeats, what is learned."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_rl import Quiet, assert_same_bits, exact, gradient_descent, weights
from torch import Tensor

from rlvr import chat, policy, runs, trained
from rlvr.batching import Rows
from rlvr.loops import sft
from rlvr.loops.stopping import StopRequest
from rlvr.recipe import AdamW, Model, PretrainRecipe, SftRecipe
from rlvr.settings import from_overrides
from rlvr.trained import Trained

ROWS = [{"prompt": f"Q{k}: ", "completion": "abcdefghijklm"[k : 2 * k + 2]} for k in range(8)]
SMALL = (
    "model.config={hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2, "
    "num_key_value_heads: 1, head_dim: 16, max_position_embeddings: 64}"
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Any:
    return policy.load_model(Model(path=str(tiny_model)))


def examples(tokenizer: Any, *, completion_only: bool = True) -> list[chat.Example]:
    from rlvr.types import Demonstration

    rows = [Demonstration(id=str(k), **row) for k, row in enumerate(ROWS)]
    return chat.encode_demonstrations(tokenizer, rows, max_length=None, completion_only=completion_only)


def naive(model: Any, rows: list[chat.Example]) -> Tensor:
    """Mean cross-entropy over all trained tokens, row by row, float64."""
    losses = []
    for row in rows:
        ids = torch.tensor(row.ids.tolist())
        logp_TV = torch.log_softmax(model(ids[None]).logits[0], dim=-1)
        losses += [-logp_TV[t - 1, ids[t]] for t in range(max(1, row.num_prompt), len(ids))]
    return torch.stack(losses).mean()


def train(folder: Path, stage: str, data: Path, *overrides: str) -> dict[str, Any]:
    recipe = from_overrides(stage, [f"run.dir={folder}", f"data.path={data}", *overrides])
    assert isinstance(recipe, SftRecipe | PretrainRecipe)
    with runs.Run.open(recipe, "toy.yaml") as run:
        return sft.train(recipe, run, Quiet(), StopRequest())


# --- one step --------------------------------------------------------------------------------------------------------


def test_rows_are_padded_to_the_right_and_masked_after_the_prompt() -> None:
    def row(ids: list[int], num_prompt: int) -> chat.Example:
        return chat.Example(np.array(ids, dtype=np.int32), num_prompt)

    ids_BT, mask_BT, length_B = Rows.of([row([5, 6, 7, 1], 2), row([8, 1], 1), row([9, 9, 1], 0)])
    assert ids_BT.tolist() == [[5, 6, 7, 1], [8, 1, 0, 0], [9, 9, 1, 0]]
    assert length_B.tolist() == [4, 2, 3]
    assert mask_BT.int().tolist() == [[0, 0, 1, 1], [0, 1, 0, 0], [0, 1, 1, 0]]


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("completion_only", [True, False])
def test_loss_and_gradient_are_those_of_naive_cross_entropy(
    loaded: Any, completion_only: bool, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained, "_optimizers", gradient_descent)
    model, tokenizer = loaded
    rows = examples(tokenizer, completion_only=completion_only)
    ours, theirs = copy.deepcopy(model), copy.deepcopy(model).double()
    loss = naive(theirs, rows)
    loss.backward()
    before = dict(copy.deepcopy(model).named_parameters())
    norm = float(torch.stack([p.grad.norm() for p in theirs.parameters()]).norm())
    metrics = sft.update(Trained(ours, AdamW(lr=0.1, max_grad_norm=1e6), 1, packs=packs), Rows.of(rows))
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-6)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)
    for (name, p), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        wanted = before[name].double() - 0.1 * other.grad
        torch.testing.assert_close(p.double(), wanted, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_what_the_mask_leaves_out_is_not_a_target(loaded: Any) -> None:
    model, tokenizer = loaded
    ids_BT, mask_BT, _ = Rows.of(examples(tokenizer))
    last = ids_BT.clone()
    length_B = (mask_BT.cumsum(dim=1) * mask_BT).argmax(dim=1) + 1
    hidden = copy.deepcopy(model)
    other = mask_BT.clone()
    for b, length in enumerate(length_B.tolist()):
        last[b, length - 1] = 77  # a target that no other target is predicted from
        other[b, length - 1] = False
    with torch.no_grad():
        kept, changed = (policy.cross_entropy(hidden, ids, other).loss for ids in (ids_BT, last))
        assert torch.equal(kept, changed)
        assert policy.cross_entropy(hidden, ids_BT, mask_BT).loss != policy.cross_entropy(hidden, last, mask_BT).loss
    # the logits that predict prompt tokens have no gradient: the first ids matter only as context
    whole = Rows.of(examples(tokenizer, completion_only=False))[1]
    assert int(whole.sum()) - int(mask_BT.sum()) == sum(e.num_prompt - 1 for e in examples(tokenizer))
    with torch.no_grad():
        both = policy.cross_entropy(hidden, ids_BT, whole).loss
        prompts = policy.cross_entropy(hidden, ids_BT, whole & ~mask_BT).loss
        completions = policy.cross_entropy(hidden, ids_BT, mask_BT).loss
    assert float(both) == pytest.approx(float(prompts) + float(completions), rel=1e-6)


def test_the_split_into_micro_batches_changes_no_result(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "_optimizers", gradient_descent)
    model, tokenizer = loaded
    batch = Rows.of(examples(tokenizer))

    def after(micro_tokens: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        ours = Trained(copy.deepcopy(model), AdamW(lr=0.3, micro_tokens=micro_tokens), 1)
        return sft.update(ours, batch), dict(ours.model.named_parameters())

    whole, tensors = after(32768)
    assert whole["mean_token_accuracy"] * int(batch[1].sum()) == pytest.approx(
        round(whole["mean_token_accuracy"] * int(batch[1].sum()))
    )
    for micro_tokens in (1, 40, 64):
        metrics, others = after(micro_tokens)
        assert metrics == pytest.approx(whole, rel=1e-5)
        for name, tensor in others.items():
            torch.testing.assert_close(tensor, tensors[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("packs", [True, False])
def test_head_and_loss_in_one_operation_teach_what_they_do_apart(
    loaded: Any, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained, "_optimizers", gradient_descent)
    model, tokenizer = loaded
    batch = Rows.of(examples(tokenizer))

    def after(fused: str) -> tuple[dict[str, float], dict[str, Tensor]]:
        ours = Trained(copy.deepcopy(model).double(), AdamW(lr=0.3, micro_tokens=40), 1, packs=packs)
        return sft.update(ours, batch, fused), dict(ours.model.named_parameters())

    (fused, ours), (plain, theirs) = after("auto"), after("off")
    assert fused == pytest.approx(plain, rel=1e-6)
    assert fused["loss"] == pytest.approx(plain["loss"], rel=1e-12)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


# --- the loop --------------------------------------------------------------------------------------------------------


def test_eight_rows_are_learned_by_heart(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    settings = [f"model.path={tiny_model}", "steps=60", "batch_size=8", "optim.lr=5e-3"]
    summary = train(tmp_path / "run", "sft", data, *settings)
    rows = runs.read_metrics(tmp_path / "run")
    assert rows[0]["loss"] > 4
    assert rows[-1]["loss"] == summary["loss"] < 0.05
    assert rows[-1]["mean_token_accuracy"] == 1.0
    model, tokenizer = policy.load_model(Model(path=summary["model"]))
    for row in ROWS:
        ids = tokenizer(row["prompt"], return_tensors="pt", return_token_type_ids=False)["input_ids"]
        written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)[0]
        assert chat.decode(tokenizer, written[ids.shape[1] :].tolist()) == row["completion"]
    tokens = sum(len(row["completion"]) + 1 for row in ROWS)
    assert (summary["steps"], summary["tokens"], summary["stage"]) == (60, 60 * tokens, "sft")


def test_the_recipe_says_whether_head_and_loss_are_one_operation(
    tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    cross_entropy = policy.cross_entropy

    def spy(*given: Any, fused: bool, **named: Any) -> Any:
        asked.append(fused)
        return cross_entropy(*given, fused=fused, **named)

    monkeypatch.setattr(policy, "cross_entropy", spy)
    settings = [f"model.path={tiny_model}", "steps=3", "batch_size=8", "optim.lr=1e-3"]
    losses = {}
    for how in ("auto", "off"):
        train(tmp_path / how, "sft", data, *settings, f"loss.fused={how}")
        losses[how] = [row["loss"] for row in runs.read_metrics(tmp_path / how)]
    assert asked == [True] * 3 + [False] * 3
    assert losses["auto"] == pytest.approx(losses["off"], rel=1e-4)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_pretraining_twice_gives_the_same_bits(kind: str, data: Path, tmp_path: Path) -> None:
    settings = [SMALL, "steps=4", "batch_size=4", f"optim.kind={kind}", "optim.lr=1e-2"]
    for name in ("a", "b"):
        torch.rand(3)  # what was drawn before does not count
        train(tmp_path / name, "pretrain", data, *settings)
    train(tmp_path / "c", "pretrain", data, *settings, "seed=1")
    rows = {name: exact(runs.read_metrics(tmp_path / name)) for name in "abc"}
    assert rows["a"] == rows["b"]
    assert len(rows["a"]) == 4
    assert rows["a"][0]["loss"] != rows["c"][0]["loss"]
    assert_same_bits(weights(tmp_path / "a" / "model"), weights(tmp_path / "b" / "model"))


def test_a_run_killed_between_its_last_checkpoint_and_its_summary_ends_the_same(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    settings = [f"model.path={tiny_model}", "steps=4", "batch_size=4", "checkpoint.every=2"]
    whole = train(tmp_path / "run", "sft", data, *settings)
    rows, bits = runs.read_metrics(tmp_path / "run"), weights(tmp_path / "run" / "model")
    (tmp_path / "run" / "summary.json").unlink()
    again = train(tmp_path / "run", "sft", data, *settings)
    assert {**again, "seconds": 0} == {**whole, "seconds": 0}
    assert runs.read_metrics(tmp_path / "run") == rows
    assert_same_bits(weights(tmp_path / "run" / "model"), bits)
