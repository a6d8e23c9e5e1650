"""Reward models that are measured without being trained, labels that are not sure, ties, and probes of every source."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scorer_cases import ids_of, plain_logits, save_scorer
from test_reward_model import Quiet, loaded, make_rows, reward, train, world, written
from torch.nn.functional import logsigmoid

from rlvr import heads, runs
from rlvr.errors import DataError, SettingsError
from rlvr.loops import reward_model
from rlvr.loops.reward_evaluation import load_probes, of_compared
from rlvr.loops.stopping import StopRequest
from rlvr.preference_settings import PreferenceLoss, RewardModelRecipe
from rlvr.preferences import load_ratings
from rlvr.reward_settings import PreferenceData, Rows
from rlvr.settings import from_overrides
from rlvr.types import Preference, Ranking

PROBE = {"id": "1", "prompt": "Q:", "a": "x", "b": "y", "attribute": "polite", "expected": "higher"}


def measure(folder: Path, model: Path, *overrides: str) -> dict[str, Any]:
    """Without data."""
    recipe = from_overrides("reward_model", [f"run.dir={folder}", f"model.path={model}", "steps=0", *overrides])
    assert isinstance(recipe, RewardModelRecipe)
    with runs.Run.open(recipe, "toy.yaml") as run:
        return reward_model.train(recipe, run, Quiet(), StopRequest())


# --- without steps ---------------------------------------------------------------------------------------------------


def test_without_steps_the_data_is_not_read_and_held_out_rows_need_not_differ_from_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    data = written(tmp_path / "t.jsonl", world(12, "t", "pairs"))
    train(tmp_path / "a", tiny_model, data, "steps=1", "batch_size=4")
    model = tmp_path / "a" / "model"
    held_out = f"eval.tasks.path={data}"
    found = measure(tmp_path / "b", model, held_out)
    assert found["after"]["num_rows"] == 12
    assert "model" not in {path.name for path in (tmp_path / "b").iterdir()}
    assert measure(tmp_path / "c", model, held_out, "data.path=nowhere.jsonl")["after"] == found["after"]
    assert json.loads((tmp_path / "b" / "env.json").read_text())["inputs"].keys() == {"held_out", "model"}


def test_a_measurement_that_was_killed_before_its_summary_is_made_again(tiny_model: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "t.jsonl", world(12, "t", "pairs"))
    train(tmp_path / "a", tiny_model, data, "steps=1", "batch_size=4")
    given = (tmp_path / "b", tmp_path / "a" / "model", f"eval.tasks.path={data}")
    first = measure(*given)
    (tmp_path / "b" / "summary.json").unlink()
    assert measure(*given)["after"] == first["after"]
    assert [row["step"] for row in runs.read_metrics(tmp_path / "b")] == [0]


def test_without_steps_a_model_of_attributes_keeps_its_names_and_may_be_weighed_otherwise(
    tiny_model: Path, tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"Q{k}", "completion": text, "scores": {"helpful": float(k), "short": -len(text)}}
        for k, text in enumerate(["a", "ab", "bbb", "aab"])
    ]
    data = written(tmp_path / "t.jsonl", rows)
    learns = ["loss.kind=attributes", "loss.attributes={helpful: 1, short: 0.5}", "steps=1", "batch_size=4"]
    train(tmp_path / "a", tiny_model, data, *learns)
    model, pairs = tmp_path / "a" / "model", written(tmp_path / "h.jsonl", world(6, "h", "pairs"))
    loss = ["loss.kind=attributes", "loss.attributes={short: 1}"]
    as_trained = measure(tmp_path / "b", model, f"eval.tasks.path={pairs}")
    otherwise = measure(tmp_path / "c", model, f"eval.tasks.path={pairs}", *loss)
    assert as_trained["after"]["mean_reward"] != otherwise["after"]["mean_reward"]
    assert measure(tmp_path / "d", model, f"eval.tasks.path={data}", *loss)["after"]["helpful"]["mse"] > 0
    with pytest.raises(DataError, match=r"loss.attributes: model.path .* no label 'shrt'; did you mean 'short'\?"):
        measure(tmp_path / "e", model, f"eval.tasks.path={data}", loss[0], "loss.attributes={shrt: 1}")
    config = json.loads((model / "config.json").read_text())
    del config["reward_weights"]
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"2 outputs \(helpful, short\) .* set loss.kind=attributes"):
        measure(tmp_path / "f", model, f"eval.tasks.path={data}")


def test_a_classifier_of_two_labels_is_measured_as_the_refusal_says(tmp_path: Path) -> None:
    model = save_scorer(tmp_path / "model", labels=("fine", "rude"))
    rows = [{"prompt": "Q", "completion": c, "label": c in "ab"} for c in "abcd"]
    given = f"eval.tasks.path={written(tmp_path / 'h.jsonl', rows)}"
    with pytest.raises(DataError) as told:
        measure(tmp_path / "a", model, given, "loss.kind=binary")
    fix = "loss.kind=attributes and loss.attributes={rude: 1, fine: -1}"
    assert str(told.value).endswith(f"set {fix} for the log odds of rude")
    found = measure(tmp_path / "b", model, given, *fix.split(" and "))["after"]
    logits = np.array(plain_logits(model, [(*ids_of("Q"), *ids_of(row["completion"]), 1) for row in rows]))
    assert found["mean_reward"] == pytest.approx((logits[:, 1] - logits[:, 0]).mean(), abs=1e-5)
    assert 0 <= found["auc"] <= 1


def test_outputs_of_a_trained_model_are_not_called_by_other_names(tmp_path: Path) -> None:
    model = save_scorer(tmp_path / "model", labels=("helpful", "polite"))
    rows = [{"prompt": f"Q{k}", "completion": "ab"[k % 2], "scores": {"polite": k, "helpful": -k}} for k in range(4)]
    data = written(tmp_path / "t.jsonl", rows)
    kind, given = "loss.kind=attributes", ("steps=1", "batch_size=4")
    with pytest.raises(DataError, match=r"outputs helpful, polite, and .* learns polite, helpful; name .* its order$"):
        train(tmp_path / "a", model, data, kind, "loss.attributes={polite: 1, helpful: 1}", *given)
    one = written(tmp_path / "one.jsonl", [{**row, "scores": {"polite": 1.0}} for row in rows])
    with pytest.raises(DataError, match=r"learns polite, polite_log_variance; take the language model below it$"):
        train(tmp_path / "b", model, one, "loss.kind=regression", "loss.variance=true", *given)
    train(tmp_path / "c", model, data, kind, "loss.attributes={helpful: 1, polite: 1}", *given)


@pytest.mark.parametrize("stage", ["reward_model", "dpo"])
def test_an_evaluation_of_nothing_is_refused(stage: str) -> None:
    given = ["steps=1", "data.path=x.jsonl", "model.path=m", "eval.every=2"]
    with pytest.raises(SettingsError, match=r"eval: every: 2 has nothing to measure on; set eval.tasks"):
        from_overrides(stage, given)
    from_overrides(stage, [*given, "eval.tasks=h.jsonl"])
    if stage == "reward_model":
        from_overrides(stage, [*given, "eval.probes=p.jsonl"])


# --- labels ----------------------------------------------------------------------------------------------------------


def test_binary_learns_from_a_comparison_as_sure_as_its_votes_are(tiny_model: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "Q", "chosen": "abc", "rejected": "d", "votes": {"chosen": 6, "rejected": 4}},
        {"prompt": "R", "chosen": "e", "rejected": "fg"},
    ]
    ratings = load_ratings(PreferenceData(path=str(written(tmp_path / "t.jsonl", rows)))).rows
    model, tokenizer = loaded(tiny_model)
    model, loss = model.double(), PreferenceLoss(kind="binary")
    batch = make_rows(tokenizer, ratings, loss)
    score_BK = heads.scores(model, batch.ids_BT, batch.length_B)
    found = reward_model.loss_of(score_BK, batch, loss)
    gradient = torch.autograd.grad(found, model.score.weight)[0]
    texts = [("Q", "abc", 0.6), ("Q", "d", 0.4), ("R", "e", 1.0), ("R", "fg", 0.0)]
    r = [reward(model, tokenizer, prompt, text)[0] for prompt, text, _ in texts]
    due = -sum(t * logsigmoid(x) + (1 - t) * logsigmoid(-x) for x, (_, _, t) in zip(r, texts, strict=True))
    assert isinstance(due, torch.Tensor)
    torch.testing.assert_close(found, due)
    torch.testing.assert_close(gradient, torch.autograd.grad(due, model.score.weight)[0])
    figures = reward_model.figures_of(score_BK.detach(), score_BK.detach()[:, 0], batch, loss)
    right = sum(t if x > 0 else 1 - t for x, (_, _, t) in zip(r, texts, strict=True))
    assert (figures["accuracy"], figures["judged"]) == (pytest.approx(right), 4)


def test_a_margin_column_that_no_row_has_is_told(tiny_model: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "t.jsonl", world(6, "t", "pairs"))
    with pytest.raises(DataError, match=r"no row has a margin, .* data.columns.margin, or leave loss.margin out"):
        train(tmp_path / "run", tiny_model, data, "steps=1", "loss.margin=column")


def test_held_out_ratings_without_a_label_do_not_count_as_bad_ones(tiny_model: Path, tmp_path: Path) -> None:
    labelled = world(20, "h", "label")
    scored = [{**row, "id": f"s{k}"} for k, row in enumerate(world(5, "s", "score"))]
    data = written(tmp_path / "t.jsonl", world(8, "t", "label"))
    train(tmp_path / "a", tiny_model, data, "steps=1", "batch_size=8", "loss.kind=binary")
    found = {}
    for name, rows in (("alone", labelled), ("beside", [*labelled, *scored])):
        held_out = written(tmp_path / f"{name}.jsonl", rows)
        model = tmp_path / "a" / "model"
        found[name] = measure(tmp_path / name, model, f"eval.tasks.path={held_out}", "loss.kind=binary")["after"]
    assert found["beside"]["num_rows"] == 25
    for figure in ("num", "auc", "positive_share", "nll", "accuracy"):
        assert found["beside"][figure] == pytest.approx(found["alone"][figure], rel=1e-5)


# --- ties ------------------------------------------------------------------------------------------------------------


def test_the_weight_of_a_tie_goes_on_from_where_it_was_and_measuring_leaves_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    data = written(tmp_path / "t.jsonl", [{**row, "probability": 0.5} for row in world(20, "t", "pairs")])
    ties = ["loss.ties=davidson", "batch_size=20", f"eval.tasks.path={written(tmp_path / 'h.jsonl', HELD_OUT)}"]
    first = train(tmp_path / "a", tiny_model, data, "steps=8", "optim.lr=0.05", *ties)
    model = tmp_path / "a" / "model"
    config = (model / "config.json").read_text()
    weight = json.loads(config)["tie_weight"]
    assert weight > 1.2
    again = train(tmp_path / "b", model, data, "steps=1", "optim.lr=1e-9", *ties)
    losses = [row["loss"] for row in runs.read_metrics(tmp_path / "a") if "loss" in row]
    assert again["loss"] < losses[-1] < losses[0]
    assert json.loads((tmp_path / "b" / "model" / "config.json").read_text())["tie_weight"] == pytest.approx(weight)
    measured = measure(tmp_path / "c", model, ties[2], "loss.ties=davidson")
    assert measured["after"]["ties"] == pytest.approx(first["after"]["ties"])
    assert (model / "config.json").read_text() == config
    train(tmp_path / "d", model, data, "steps=1", "batch_size=20")  # without a third outcome
    assert "tie_weight" not in json.loads((tmp_path / "d" / "model" / "config.json").read_text())


HELD_OUT = [{**row, "probability": 0.5 if k % 2 else 1.0} for k, row in enumerate(world(10, "h", "pairs"))]


def test_ties_are_measured_by_the_likelihood_of_three_outcomes() -> None:
    rows = [
        Preference(id="a", prompt="p", chosen="x", rejected="y"),
        Preference(id="b", prompt="p", chosen="x", rejected="y", probability=0.5),
        Preference(id="c", prompt="p", chosen="x", rejected="y", probability=0.8),
    ]
    by_row = [np.array([1.0, 0.0]), np.array([0.3, 0.0]), np.array([0.0, 0.4])]
    delta, nu = (1.0, 0.3, -0.4), 1.7

    def p(d: float) -> tuple[float, float, float]:
        whole = math.exp(d / 2) + math.exp(-d / 2) + nu
        return math.exp(d / 2) / whole, nu / whole, math.exp(-d / 2) / whole

    nll = -math.log(p(1.0)[0]) - math.log(p(0.3)[1]) - 0.8 * math.log(p(-0.4)[0]) - 0.2 * math.log(p(-0.4)[2])
    found = of_compared(rows, by_row, math.log(nu))["ties"]
    expected = sum(p(d)[1] for d in delta) / 3
    assert found == pytest.approx({"num": 3, "share": 1 / 3, "expected": expected, "nll": nll / 3})
    assert "ties" not in of_compared(rows, by_row)
    ranking = Ranking(id="r", prompt="p", completions=("x", "y", "z"), order=((0, 1), (2,)))
    assert of_compared([ranking], [np.array([0.1, 0.2, 0.3])], 0.0)["ties"]["share"] == pytest.approx(1 / 3)


# --- probes ----------------------------------------------------------------------------------------------------------


def probes_of(*overrides: str) -> Rows:
    recipe = from_overrides("reward_model", ["steps=1", "data.path=x.jsonl", "model.path=m", *overrides])
    assert isinstance(recipe, RewardModelRecipe)
    assert recipe.eval.probes is not None
    return recipe.eval.probes


def test_probes_are_asked_as_the_data_is(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", [PROBE, {**PROBE, "id": "2", "prompt": ""}])
    dress = ["data.as_chat=true", "data.system=Be kind.", "data.prompt_template=<{prompt}>"]
    asked, alone = load_probes(probes_of(f"eval.probes={path}", *dress)).rows
    assert asked.prompt == ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "<Q:>"})
    assert alone.prompt == ""
    own = load_probes(probes_of(f"eval.probes.path={path}", "eval.probes.prompt_template='{prompt}!'", *dress[2:])).rows
    assert own[0].prompt == "Q:!"
    without = ["data=null", "steps=0", "eval.tasks={path: h.jsonl, as_chat: true}", f"eval.probes={path}"]
    assert load_probes(probes_of(*without)).rows[0].prompt == ({"role": "user", "content": "Q:"},)


def test_probes_come_from_a_generator_too_and_bad_ones_can_be_left_out(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(
        "def pairs(n):\n"
        "    for k in range(n):\n"
        '        yield {"prompt": f"Q{k}:", "a": "x" * (500 if k == 1 else 1), "b": "y" * (k + 2),\n'
        '               "expected": "lower", "attribute": f"of {k}"}\n'
    )
    probing = f"eval.probes={{source: generator, path: {tmp_path / 'made.py'}:pairs, args: {{n: 4}}, on_bad_row: skip}}"
    data = written(tmp_path / "t.jsonl", world(6, "t", "pairs"))
    after = train(tmp_path / "run", tiny_model, data, "steps=1", "batch_size=6", probing)["after"]
    assert after["probes"].keys() == {"of 0", "of 2", "of 3"}  # the second is too long
    rewards = json.loads((tmp_path / "run" / "evals" / "step_000001.jsonl").read_text().splitlines()[1])["rewards"]
    assert after["probes"]["of 2"]["difference"] == pytest.approx(rewards[1] - rewards[0])
