"""The loop of `rlvr dpo`: each step against plain autograd, what is learned, what repeats, what is refused."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attempts import last_step
from conftest import save_tiny
from test_rl import Quiet, assert_same_bits, exact, gradient_descent, weights
from torch import Tensor

from rlvr import failpoints, lora, policy, runs, trained
from rlvr.chat import Example, encode_rows
from rlvr.direct_settings import DirectLoss, DpoRecipe
from rlvr.errors import DataError, NonFiniteError
from rlvr.loops import dpo
from rlvr.loops.direct_rows import Pairs, Singles, Unit, to_pairs, to_singles
from rlvr.loops.stopping import StopRequest
from rlvr.recipe import AdamW, Lora, Model
from rlvr.settings import from_overrides
from rlvr.trained import Trained
from rlvr.types import Preference

LOSSES = {
    "dpo": DirectLoss(beta=0.5),
    "rpo": DirectLoss(beta=0.5, rpo_alpha=0.3),
    "ipo_mean": DirectLoss(kind="ipo", ipo_logps="mean", beta=0.2),
    "simpo": DirectLoss(kind="simpo", beta=2.0),
    "orpo": DirectLoss(kind="orpo", beta=0.3),
    "kto": DirectLoss(kind="kto", beta=0.5, undesirable_weight=0.5),
}
PROBABILITY = (1.0, 0.5, 0.8, 1.0, 1.0)


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Any:
    return policy.load_model(Model(path=str(tiny_model)))


@pytest.fixture(scope="module")
def units(loaded: Any) -> list[Unit]:
    rows = [
        Preference(id=str(k), prompt=f"Q{k * '!'}: ", chosen="yes" * (k + 1), rejected="no" * (5 - k), probability=p)
        for k, p in enumerate(PROBABILITY)
    ]
    pairs = encode_rows(loaded[1], rows, max_length=None)
    return [Unit(row.id, examples, row.probability) for row, examples in pairs]


@pytest.fixture
def plain_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "_optimizers", gradient_descent)


def other(model: Any) -> Any:
    """A model near the given one."""
    torch.manual_seed(5)
    near = copy.deepcopy(model)
    with torch.no_grad():
        for p in near.parameters():
            p += 0.02 * torch.randn_like(p)
    return near.requires_grad_(False)


def naive_logp(model: Any, example: Example) -> Tensor:
    """Of the completion, from the logits of all tokens."""
    ids = torch.tensor(example.ids.tolist())
    logp_TV = torch.log_softmax(model(ids[None]).logits[0], dim=-1)
    return torch.stack([logp_TV[t - 1, ids[t]] for t in range(max(1, example.num_prompt), len(ids))]).sum()


def naive(model: Any, reference: Any, loss: DirectLoss, units: Sequence[Unit]) -> Tensor:
    """The batch's loss, completion by completion; of the pairs' formulas those that LOSSES has."""
    flat = [unit.examples[k] for k in (0, 1) for unit in units]
    logp = [naive_logp(model, e) for e in flat]
    ref = [naive_logp(reference, e).detach() for e in flat]
    p = torch.tensor([unit.probability for unit in units], dtype=torch.float64)
    if loss.kind == "kto":
        moved = []
        for k in range(len(flat)):
            ids = np.concatenate([flat[k].ids[: flat[k].num_prompt], flat[k - 1].ids[flat[k - 1].num_prompt :]])
            example = Example(ids, flat[k].num_prompt)
            moved.append(naive_logp(model, example).detach() - naive_logp(reference, example).detach())
        z = torch.stack(moved).mean().clamp(min=0)
        ratio, good = torch.stack(logp) - torch.stack(ref), torch.cat([p, 1 - p])
        w, v, beta = loss.desirable_weight, loss.undesirable_weight, loss.beta
        values = good * w * (1 - torch.sigmoid(beta * (ratio - z)))
        return (values + (1 - good) * v * (1 - torch.sigmoid(beta * (z - ratio)))).mean()
    length = [len(e.ids) - e.num_prompt for e in flat]
    n, total = len(units), torch.zeros((), dtype=torch.float64)
    for k in range(n):
        for weight, a, b in ((p[k], k, k + n), (1 - p[k], k + n, k)):
            delta = loss.beta * (logp[a] - ref[a] - logp[b] + ref[b])
            mean_a, mean_b = logp[a] / length[a], logp[b] / length[b]
            if loss.kind == "sigmoid":
                value = -torch.log(torch.sigmoid(delta)) - loss.rpo_alpha * mean_a
            elif loss.kind == "ipo":
                value = ((logp[a] - ref[a]) / length[a] - (logp[b] - ref[b]) / length[b] - 1 / (2 * loss.beta)) ** 2
            elif loss.kind == "simpo":
                value = -torch.log(torch.sigmoid(loss.beta * (mean_a - mean_b) - loss.simpo_gamma))
            else:
                odds_a, odds_b = (torch.exp(m) / (1 - torch.exp(m)) for m in (mean_a, mean_b))
                value = -mean_a - loss.beta * torch.log(torch.sigmoid(torch.log(odds_a / odds_b)))
            total = total + weight * value / n
    return total


def learner(model: Any, reference: Any, loss: DirectLoss, *, packs: bool = True, micro_tokens: int = 8192) -> Any:
    settings = AdamW(lr=0.1, max_grad_norm=1e6, micro_tokens=micro_tokens)
    return dpo.Learner(Trained(model, settings, 3, packs=packs), loss, reference, packs)


def rows_of(loss: DirectLoss, units: Sequence[Unit]) -> Pairs | Singles:
    return to_singles(units, None) if loss.kind == "kto" else to_pairs(units)


# --- one step --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("plain_descent")
@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_those_of_plain_autograd_in_float64(
    loaded: Any, units: list[Unit], name: str, packs: bool
) -> None:
    loss, model = LOSSES[name], loaded[0]
    near = other(model)
    ours, theirs = copy.deepcopy(model).double(), copy.deepcopy(model).double()
    wanted = naive(theirs, copy.deepcopy(near).double(), loss, units)
    wanted.backward()
    before = dict(copy.deepcopy(ours).named_parameters())
    step = learner(ours, copy.deepcopy(near).double(), loss, packs=packs, micro_tokens=60)
    figures = dpo.update(step, rows_of(loss, units))
    assert figures["loss"] == pytest.approx(float(wanted.detach()), rel=1e-10)
    norm = float(torch.stack([p.grad.norm() for p in theirs.parameters()]).norm())
    assert figures["grad_norm"] == pytest.approx(norm, rel=1e-8)
    for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(
            p, before[key] - 0.1 * q.grad, rtol=1e-8, atol=1e-9, msg=lambda m, n=key: f"{n}: {m}"
        )


@pytest.mark.usefixtures("plain_descent")
@pytest.mark.parametrize("name", ["dpo", "orpo", "kto"])
def test_neither_the_split_nor_the_fused_path_changes_the_step(loaded: Any, units: list[Unit], name: str) -> None:
    model, near = loaded[0], other(loaded[0])

    def after(micro_tokens: int, fused: str) -> tuple[dict[str, float], dict[str, Tensor]]:
        loss = LOSSES[name].model_copy(update={"fused": fused})
        step = learner(copy.deepcopy(model), near, loss, micro_tokens=micro_tokens)
        return dpo.update(step, rows_of(loss, units)), dict(step.trained.model.named_parameters())

    whole, tensors = after(8192, "auto")
    for micro_tokens, fused in ((1, "auto"), (60, "auto"), (90, "off")):
        figures, others = after(micro_tokens, fused)
        assert figures == pytest.approx(whole, rel=1e-4, abs=1e-5)
        for key, tensor in others.items():
            torch.testing.assert_close(tensor, tensors[key], rtol=0, atol=1e-5)


def test_before_the_first_step_policy_and_reference_agree_to_the_bit(loaded: Any, units: list[Unit]) -> None:
    for name in ("dpo", "kto"):
        loss = LOSSES[name]
        step = learner(copy.deepcopy(loaded[0]), copy.deepcopy(loaded[0]).requires_grad_(False), loss)
        figures = dpo.update(step, rows_of(loss, units))
        assert figures["rewards/margins"] == figures["rewards/chosen"] == 0
        if name == "kto":
            assert figures["kl"] == 0
            assert figures["loss"] == pytest.approx(0.5 * (1 + 0.5) / 2, rel=1e-12)  # sigmoid(0), over both weights
        else:
            assert figures["loss"] == pytest.approx(np.log(2), rel=1e-12)


def test_a_tie_of_unknown_truth_is_no_held_out_accuracy(loaded: Any, units: list[Unit]) -> None:
    step = learner(copy.deepcopy(loaded[0]), other(loaded[0]), LOSSES["dpo"])
    figures, margin_U = dpo.measure(step, units, to_pairs(units))
    assert margin_U is not None
    told = [float(margin) > 0 for margin, p in zip(margin_U, PROBABILITY, strict=True) if p != 0.5]
    assert len(told) == 4
    assert figures["rewards/accuracies"] == sum(told) / 4


def test_adapters_switched_off_are_the_reference(loaded: Any, units: list[Unit]) -> None:
    loss = LOSSES["dpo"]
    adapted = lora.attach(copy.deepcopy(loaded[0]), Lora(rank=4), 0)
    with torch.no_grad():
        for name, tensor in lora.weights(adapted):
            if "lora_B" in name:
                tensor += 0.05
    step = learner(adapted, None, loss)
    figures, margin_U = dpo.measure(step, units, to_pairs(units))
    merged = lora.merged(copy.deepcopy(adapted)).requires_grad_(True)
    apart, other_U = dpo.measure(learner(merged, loaded[0], loss), units, to_pairs(units))
    assert abs(figures["rewards/margins"]) > 1e-3
    assert figures == pytest.approx(apart, rel=1e-3, abs=1e-4)
    assert margin_U is not None and other_U is not None
    torch.testing.assert_close(margin_U, other_U, rtol=1e-3, atol=1e-4)


def test_a_completion_stands_behind_another_prompt_for_the_reference_point(units: list[Unit]) -> None:
    rows = to_singles(units, None)
    n = len(units)
    flat = [unit.examples[k] for k in (0, 1) for unit in units]
    assert rows.label_B.tolist() == pytest.approx([*PROBABILITY, *(1 - p for p in PROBABILITY)])
    for k in range(2 * n):
        ids = rows.mismatched_ids_MT[k, : int(rows.mismatched_length_M[k])].tolist()
        own, before = flat[k], flat[k - 1]
        assert ids == [*own.ids[: own.num_prompt], *before.ids[before.num_prompt :]]
        assert int(rows.mismatched_mask_MT[k].sum()) == len(before.ids) - before.num_prompt
    same = [Unit("a", units[2].examples, 1.0), Unit("b", units[2].examples[::-1], 1.0)]
    assert len(to_singles(same, None).mismatched_length_M) == 0
    third = [*same, Unit("c", units[0].examples, 1.0)]
    assert len(to_singles(third, None).mismatched_length_M) == 6  # those of one prompt look further back
    assert int(to_singles(units, 9).mismatched_length_M.max()) == 9


def test_a_step_that_is_not_finite_moves_nothing(loaded: Any, units: list[Unit]) -> None:
    broken = copy.deepcopy(loaded[0])
    with torch.no_grad():
        broken.model.norm.weight[0] = torch.nan
    before = copy.deepcopy(dict(broken.named_parameters()))
    for name in ("dpo", "kto"):
        step = learner(broken, loaded[0], LOSSES[name])
        assert dpo.update(step, rows_of(LOSSES[name], units)) == {"skipped_updates": 1.0}
        with pytest.raises(NonFiniteError, match="on held-out rows"):
            dpo.measure(step, units, rows_of(LOSSES[name], units))
    for key, p in broken.named_parameters():
        torch.testing.assert_close(p, before[key], rtol=0, atol=0, equal_nan=True)


# --- the loop --------------------------------------------------------------------------------------------------------

ROWS = [
    {"prompt": f"Q{k}: ", "chosen": f"yes {chr(97 + k % 26)}", "rejected": f"no {chr(98 + k % 24)}!"} for k in range(24)
]
HELD = [
    {"prompt": f"H{k}: ", "chosen": f"yes {k}", "rejected": f"no {k}", "true_probability": 0.75 if k % 2 else 1.0}
    for k in range(8)
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path / "held.jsonl", HELD)
    return write(tmp_path / "rows.jsonl", ROWS)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make(folder: Path, model: Path, data: Path, *overrides: str) -> DpoRecipe:
    settings = [f"run.dir={folder}", f"model.path={model}", f"data.path={data}", "batch_size=8", "optim.lr=2e-3"]
    recipe = from_overrides("dpo", [*settings, *overrides])
    assert isinstance(recipe, DpoRecipe)
    return recipe


def train(folder: Path, model: Path, data: Path, *overrides: str, progress: Any = None) -> dict[str, Any]:
    recipe = make(folder, model, data, *overrides)
    with runs.Run.open(recipe, "toy.yaml") as run:
        return dpo.train(recipe, run, progress or Quiet(), StopRequest())


@pytest.mark.parametrize(
    "overrides",
    [(), ("loss.kind=kto", "loss.beta=0.5"), ("model.lora={rank: 8}",), ("loss.kind=simpo", "loss.beta=2")],
    ids=["dpo", "kto", "lora", "simpo"],
)
def test_it_learns_what_is_preferred_on_prompts_it_has_not_seen(
    tiny_model: Path, data: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    held = f"eval.tasks={{path: {tmp_path / 'held.jsonl'}}}"
    summary = train(tmp_path / "run", tiny_model, data, "steps=12", held, "eval.every=6", *overrides)
    rows = runs.read_metrics(tmp_path / "run")
    steps, evaluations = ([row for row in rows if ("grad_norm" in row) == wanted] for wanted in (True, False))
    assert [row["step"] for row in evaluations] == [6, 12]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["rewards/margins"] > steps[0]["rewards/margins"] + 0.1
    after = summary["after"]
    assert after["accuracy"] == after["rewards/accuracies"] == 1.0
    assert after["noise_ceiling"] == after["expected_accuracy"] == 0.875
    assert evaluations[-1]["eval/rewards/margins"] == after["rewards/margins"] > 0
    assert (summary["steps"], summary["stage"], after["num"]) == (12, "dpo", 8)
    samples = [json.loads(line) for line in (tmp_path / "run" / "evals" / "step_000012.jsonl").read_text().splitlines()]
    assert np.mean([sample["margin"] for sample in samples]) == pytest.approx(after["rewards/margins"])


def test_ratings_alone_teach_by_kto(tiny_model: Path, tmp_path: Path) -> None:
    rated = [
        {"prompt": row["prompt"], "completion": row[word], "label": word == "chosen"}
        for row in ROWS
        for word in ("chosen", "rejected")
    ]
    data = write(tmp_path / "rated.jsonl", rated)
    settings = ["loss.kind=kto", "loss.beta=0.5", "steps=10", "batch_size=16"]
    held = f"eval.tasks={{path: {write(tmp_path / 'held.jsonl', [{**row, 'prompt': 'H: '} for row in rated[:6]])}}}"
    summary = train(tmp_path / "run", tiny_model, data, *settings, held)
    assert summary["after"]["rewards/chosen"] > summary["after"]["rewards/rejected"] + 0.1
    with pytest.raises(
        DataError, match=r"holds ratings, and loss\.kind sigmoid learns .* rankings; set loss\.kind to kto$"
    ):
        train(tmp_path / "other", tiny_model, data, "steps=1")


@pytest.mark.parametrize("overrides", [(), ("loss.kind=kto",), ("model.lora={rank: 4}",)], ids=["dpo", "kto", "lora"])
def test_a_run_that_broke_off_goes_on_to_the_same_bits(
    tiny_model: Path, data: Path, tmp_path: Path, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = f"eval.tasks={{path: {tmp_path / 'held.jsonl'}}}"
    settings = ["steps=5", "batch_size=6", held, "eval.every=2", "checkpoint.every=2", *overrides]
    train(tmp_path / "whole", tiny_model, data, *settings)
    failpoints._reached.clear()
    monkeypatch.setenv("RLVR_FAILPOINT", "update:enospc@4")
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path / "halves", tiny_model, data, *settings)
    monkeypatch.delenv("RLVR_FAILPOINT")
    assert last_step(tmp_path / "halves") == 3
    train(tmp_path / "halves", tiny_model, data, *settings)
    ours, theirs = (exact(runs.read_metrics(tmp_path / name)) for name in ("halves", "whole"))
    assert ours == theirs
    assert_same_bits(*(weights(tmp_path / name / "model") for name in ("halves", "whole")))


def test_another_reference_is_read_and_belongs_to_the_run(
    tiny_model: Path, untied_model: Path, data: Path, tmp_path: Path
) -> None:
    reference = shutil.copytree(untied_model, tmp_path / "reference")
    train(tmp_path / "run", tiny_model, data, "steps=1", f"reference.path={reference}")
    assert abs(runs.read_metrics(tmp_path / "run")[0]["rewards/margins"]) > 0.01
    (tmp_path / "run" / "summary.json").unlink()
    save_tiny(reference, tied=False, seed=3)
    with pytest.raises(DataError, match="reference: other than when this run began"):
        train(tmp_path / "run", tiny_model, data, "steps=1", f"reference.path={reference}")
    with pytest.raises(DataError, match=r"reference\.path nowhere/at/all: no such folder"):
        train(tmp_path / "bad", tiny_model, data, "steps=1", "reference.path=nowhere/at/all")


def test_held_out_prompts_are_not_trained_on_and_bad_rows_are_named(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    progress = Quiet()
    held = write(tmp_path / "same.jsonl", ROWS[:20])
    train(tmp_path / "run", tiny_model, data, "steps=1", f"eval.tasks={{path: {held}}}", progress=progress)
    assert runs.read_metrics(tmp_path / "run")[0]["epoch"] == 1.0  # 4 rows are left, in one step
    bad = write(tmp_path / "bad.jsonl", [*ROWS, {"prompt": "Q", "chosen": "same", "rejected": "same"}])
    with pytest.raises(DataError, match=r"bad\.jsonl:25"):
        train(tmp_path / "bad", tiny_model, bad, "steps=1")
    lists = write(tmp_path / "lists.jsonl", [{"prompt": "Q", "chosen": ["a"], "rejected": ["b", "c"]}])
    with pytest.raises(DataError, match=r"holds best-of-N rows, and .* rankings; write one row for each pair"):
        train(tmp_path / "lists", tiny_model, lists, "steps=1")
