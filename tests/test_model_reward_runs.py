"""Whole runs whose reward is mixed of a verifier and a reward model: what they write, how they resume, why, rescore."""

from __future__ import annotations

import math
import shutil
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scorer_cases import ids_of, plain_logits, save_scorer
from test_rl import PLUGIN, Quiet, assert_same_bits, exact, make_recipe, steps_of, train, weights

from rlvr import checkpoint, rescore, rollout, rollout_table, runs
from rlvr.errors import DataError, SettingsError
from rlvr.odds import sigmoid
from rlvr.rewards.shaping import Running
from rlvr.why import render, why

STEPS = 3


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "toy.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_scorer(tmp_path_factory.mktemp("scorer") / "model")


def mixed(scorer: Path, *more: str) -> list[str]:
    return [
        "rewards.answer.kind=verified",
        f"rewards.taste={{kind: model, path: {scorer}, weight: 0.5}}",
        "shaping.whiten=running",
        "shaping.length_residual=[taste]",
        f"steps={STEPS}",
        "checkpoint.every=1",
        "checkpoint.keep=9",
        *more,
    ]


@pytest.fixture(scope="module")
def done(tiny_model: Path, plugin: str, scorer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, never written to."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    train(make_recipe(folder, tiny_model, plugin, "share", *mixed(scorer)))
    return folder


def rows_of(run: Path, step: int) -> list[dict[str, Any]]:
    return [row for row in runs.read_rollouts(run, step) if row["role"] == "trained"]


def verdict_of(row: dict[str, Any], part: str) -> dict[str, Any]:
    return next(verdict for verdict in row["verdicts"] if verdict["part"] == part)


def test_a_mixed_run_writes_the_values_that_it_weighs(done: Path, scorer: Path) -> None:
    for step, metrics in enumerate(steps_of(done), start=1):
        rows = rows_of(done, step)
        given = [verdict_of(row, "taste")["value"] for row in rows]
        due = plain_logits(scorer, [(*row["prompt_ids"], *row["token_ids"]) for row in rows])
        assert given == pytest.approx([value for (value,) in due], abs=1e-5)
        scores = [verdict_of(row, "answer")["score"] for row in rows]
        rewards = [score + 0.5 * value for score, value in zip(scores, given, strict=True)]
        assert [row["reward"] for row in rows] == pytest.approx(rewards)
        assert metrics["rewards/taste/mean"] == pytest.approx(fmean(given))
        assert metrics["reward"] == pytest.approx(fmean(rewards))


def test_what_is_trained_on_is_whitened_over_all_steps_so_far(done: Path) -> None:
    running = Running()
    for step, metrics in enumerate(steps_of(done), start=1):
        rows = rows_of(done, step)
        lengths = [len(row["token_ids"]) for row in rows]
        slope, mean = metrics["shaping/taste/length_slope"], fmean(lengths)
        cleared = [row["reward"] - 0.5 * slope * (n - mean) for row, n in zip(rows, lengths, strict=True)]
        running = running.after(cleared)
        assert [row["shaped"] for row in rows] == pytest.approx([running.whitened(reward) for reward in cleared])
        assert metrics["shaping/std"] == pytest.approx(running.std)
        _, state = checkpoint.load(done / "checkpoints", step)
        assert state["running"] == pytest.approx([running.count, running.mean, running.square])


@pytest.mark.parametrize("nth", [3, 6, 12])
def test_a_run_that_dies_while_it_scores_comes_to_the_same_end(
    nth: int,
    done: Path,
    tiny_model: Path,
    plugin: str,
    scorer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached = 0

    def die(at: str) -> None:
        nonlocal reached
        reached += at == "score"
        if reached == nth:
            raise RuntimeError("the power is cut")

    recipe = make_recipe(tmp_path / "run", tiny_model, plugin, "share", *mixed(scorer))
    monkeypatch.setattr(rollout, "failpoint", die)
    with pytest.raises(RuntimeError, match="the power is cut"):
        train(recipe)
    monkeypatch.undo()
    train(recipe)
    assert exact(runs.read_metrics(tmp_path / "run")) == exact(runs.read_metrics(done))
    assert_same_bits(weights(tmp_path / "run" / "model"), weights(done / "model"))
    for step in range(1, STEPS + 1):
        assert [(row["id"], row["reward"], row["shaped"]) for row in rows_of(tmp_path / "run", step)] == [
            (row["id"], row["reward"], row["shaped"]) for row in rows_of(done, step)
        ]


def test_a_run_goes_on_with_the_reward_model_that_it_began_with(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    scorer = save_scorer(tmp_path / "scorer")
    recipe = make_recipe(tmp_path / "run", tiny_model, plugin, "share", *mixed(scorer, "steps=1"))
    train(recipe)
    shutil.rmtree(tmp_path / "run" / "model")
    (tmp_path / "run" / "summary.json").unlink()
    save_scorer(scorer, seed=1)
    with pytest.raises(DataError, match=r"rewards\.taste\.path: other than when this run began"):
        train(recipe)


def test_completions_without_a_finite_number_are_left_out(tiny_model: Path, plugin: str, tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        for letter in "abcdefghijklm":
            model.model.embed_tokens.weight[ids_of(letter)[0]] = math.nan

    scorer = save_scorer(tmp_path / "nan", edit=edit)
    progress = Quiet()
    settings = [*mixed(scorer, "steps=1", "sample.groups_per_step=8"), "shaping={whiten: none}"]
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "share", *settings), progress)
    rows = runs.read_rollouts(tmp_path / "run", 1)
    unjudged = [row for row in rows if set(row["response"]) & set("abcdefghijklm")]
    assert 0 < len(unjudged) < len(rows)
    assert {row["reward"] for row in unjudged} == {None}
    assert {verdict_of(row, "taste")["outcome"] for row in unjudged} == {"error"}
    assert all(row["reward"] is not None for row in rows if row not in unjudged)
    assert sum(f"the model {scorer} gives nan" in text for text in progress.warned) == 1
    assert all(torch.isfinite(weight).all() for weight in weights(tmp_path / "run" / "model").values())


def test_one_part_is_normalised_beside_the_other(tiny_model: Path, plugin: str, scorer: Path, tmp_path: Path) -> None:
    settings = [*mixed(scorer, "steps=1", "advantage.kind=gdpo"), "shaping={length_residual: [taste]}"]
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "share", *settings))
    rows = rows_of(tmp_path / "run", 1)
    slope = steps_of(tmp_path / "run")[0]["shaping/taste/length_slope"]
    lengths = [len(row["token_ids"]) for row in rows]
    sums = [0.0] * len(rows)
    for part, weight in (("answer", 1.0), ("taste", 0.5)):
        for start in range(0, len(rows), 4):
            numbers = [
                verdict_of(row, part)["score" if part == "answer" else "value"] for row in rows[start : start + 4]
            ]
            if part == "taste":
                numbers = [v - slope * n for v, n in zip(numbers, lengths[start : start + 4], strict=True)]
            mean = fmean(numbers)
            std = math.sqrt(sum((number - mean) ** 2 for number in numbers) / 3)
            for k, number in enumerate(numbers):
                sums[start + k] += weight * (number - mean) / (std + 1e-4)
    std = math.sqrt(sum((each - fmean(sums)) ** 2 for each in sums) / (len(sums) - 1))
    due = [(each - fmean(sums)) / (std + 1e-4) for each in sums]
    assert [row["advantage"] for row in rows] == pytest.approx(due, abs=1e-3)


# --- why and rescore -------------------------------------------------------------------------------------------------


def test_why_tells_value_gate_and_what_was_trained_on(
    tiny_model: Path, plugin: str, scorer: Path, tmp_path: Path
) -> None:
    settings = [*mixed(scorer, "rewards.taste.gate=answer", "steps=1"), "shaping={clip: 0.6}"]
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "share", *settings))
    rows = rows_of(tmp_path / "run", 1)
    row = next(row for row in rows if row["reward"] > 0.6)
    story = why(tmp_path / "run", row["id"])
    group = [other for other in rows if other["task"] == row["task"]]
    scores = sorted({verdict_of(other, "answer")["score"] for other in group})
    step = min([1.0, *(b - a for a, b in pairwise(scores))])
    answer, taste = story["terms"]
    value = verdict_of(row, "taste")["value"]
    assert (taste["gate"], taste["step"], taste["worth"]) == ("answer", pytest.approx(step), value)
    assert taste["value"] == pytest.approx(0.25 * sigmoid(value) * step)
    assert row["reward"] == pytest.approx(answer["value"] + taste["value"])
    assert story["shaped"] == row["shaped"] == 0.6
    told = render(story)
    assert f"part taste: score {sigmoid(value):g}, value {value:g}, partial: the model gives" in told
    assert f"1 x {answer['score']:g} (answer) + 0.5 / 2 x {sigmoid(value):g} x {step:g} (taste behind answer)" in told
    assert "shaped    0.6 was trained on" in told


def test_a_reward_model_judges_again_and_another_one_in_its_place(done: Path, tmp_path: Path) -> None:
    plan = rescore.plan(done, "model")
    assert plan.part == "taste"
    same = rescore.totals(list(rescore.rescore(done, plan)))
    assert (same["n"], same["changed"], same["flips"], same["unstable"]) == (48, 0, 0, 0)
    other = save_scorer(tmp_path / "other", seed=7)
    (report,) = rescore.rescore(done, rescore.plan(done, "model", options={"path": str(other)}), [2])
    assert report.changed == report.n == report.up + report.down == 16
    rows = rows_of(done, 2)
    due = plain_logits(other, [(*row["prompt_ids"], *row["token_ids"]) for row in rows])
    by_id = {change.id: change for change in report.changes}
    for row, (value,) in zip(rows, due, strict=True):
        assert by_id[row["id"]].after.value == pytest.approx(value, abs=1e-5)
        reward = verdict_of(row, "answer")["score"] + 0.5 * value
        assert by_id[row["id"]].reward == (row["reward"], pytest.approx(reward, abs=1e-5))


def test_what_cannot_be_judged_again_is_told_in_one_line(done: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^--part answer: which reward model of the run is .*; .* has taste$"):
        rescore.plan(done, "model", part="answer")
    with pytest.raises(SettingsError, match="--option label: a reward model has the option path alone"):
        rescore.plan(done, "model", options={"label": "x"})
    gone = rescore.plan(done, "model", options={"path": str(tmp_path / "gone")})
    with pytest.raises(DataError, match=r"rewards\.taste\.path .*gone: no such folder") as error:
        list(rescore.rescore(done, gone))
    assert "\n" not in str(error.value)


# --- what an older version wrote -------------------------------------------------------------------------------------


def test_rollouts_without_values_are_still_read(done: Path, tmp_path: Path) -> None:
    run = tmp_path / "old"
    shutil.copytree(done, run)
    path = run / "rollouts" / "000001.parquet"
    table = pq.read_table(path)
    old = [
        {
            **{name: value for name, value in row.items() if name != "shaped"},
            "verdicts": [{k: v for k, v in verdict.items() if k != "value"} for verdict in row["verdicts"]],
        }
        for row in table.to_pylist()
    ]
    pq.write_table(pa.Table.from_pylist(old).replace_schema_metadata(table.schema.metadata), path)
    rows = runs.read_rollouts(run, 1)
    ((_, group), *_) = rollout_table.groups(rows)
    assert {v.value for r in group.rollouts for v in r.verdicts.values()} == {None}
    assert all(v.worth == v.score for r in group.rollouts for v in r.verdicts.values())
    story = why(run, rows[0]["id"])
    assert story["shaped"] is None
    assert "value" not in render(story).split("reward ")[0].split("part taste:")[1].split(",")[1]


def test_checkpoints_without_running_numbers_are_still_read(
    tiny_model: Path, plugin: str, scorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*mixed(scorer, "steps=2"), "shaping={whiten: none}"]
    whole = make_recipe(tmp_path / "whole", tiny_model, plugin, "share", *settings)
    train(whole)
    save = checkpoint.save

    def save_as_before(folder: Path, step: int, tensors: Any, state: dict[str, Any], *, keep: int) -> Path:
        return save(folder, step, tensors, {k: v for k, v in state.items() if k != "running"}, keep=keep)

    def die(at: str) -> None:
        if at == "score" and (tmp_path / "run" / "checkpoints" / "000001").exists():
            raise RuntimeError("the power is cut")

    monkeypatch.setattr(checkpoint, "save", save_as_before)
    monkeypatch.setattr(rollout, "failpoint", die)
    recipe = make_recipe(tmp_path / "run", tiny_model, plugin, "share", *settings)
    with pytest.raises(RuntimeError, match="the power is cut"):
        train(recipe)
    monkeypatch.undo()
    assert "running" not in checkpoint.load(tmp_path / "run" / "checkpoints", 1)[1]
    train(recipe)
    assert_same_bits(weights(tmp_path / "run" / "model"), weights(tmp_path / "whole" / "model"))
