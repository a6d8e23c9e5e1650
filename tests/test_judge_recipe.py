"""recipes/rlaif: its stages hang together, and its stand-in judge errs as it says."""

from __future__ import annotations

import runpy
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from http_case import listening

from rlvr import plugins
from rlvr.judge_settings import Judging
from rlvr.judging.judge import Judge, Pair
from rlvr.recipe import JudgeReward
from rlvr.settings import load_recipe

ROOT = Path(__file__).parents[1]
FOLDER = Path("recipes/rlaif")


@pytest.fixture(autouse=True)
def _in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_script_chains_the_recipes() -> None:
    script = runpy.run_path(str(FOLDER / "run.py"))
    made: set[str] = set()
    for name, stage in script["STAGES"].items():
        folder = script["PREFERENCE"] if name == "pretrain" else FOLDER
        recipe = load_recipe(folder / f"{name}.yaml")
        assert recipe.command == stage.command
        said = recipe.model_dump()
        for setting, maker in stage.made_of.items():
            value: Any = said
            for part in setting.split("."):
                value = value[part]
            assert value == str(script["RUNS"] / maker / "model")
            assert maker in made
        made.add(name)
    assert {path.stem for path in FOLDER.glob("*.yaml")} == made - {"pretrain"}
    assert set(script["POLICIES"]) <= made
    assert load_recipe(FOLDER / "reward.yaml").model_dump()["data"]["path"] == str(script["RUNS"] / "pairs.jsonl")


def test_grpo_asks_the_judge_and_trains_on_nothing_else() -> None:
    recipe: Any = load_recipe(FOLDER / "grpo.yaml")
    assert [name for name, part in recipe.rewards.items() if part.weight] == ["better"]
    part = recipe.rewards["better"]
    assert isinstance(part, JudgeReward)
    assert (part.by.kind, part.method.kind, part.method.comparisons) == ("endpoint", "pairwise", 8)


def test_the_stand_in_judge_errs_as_it_says_and_both_orders_mend_the_place() -> None:
    served = runpy.run_path(str(FOLDER / "judge_server.py"))
    world = plugins.load("recipes/preference/world.py:comparisons", what="the world")
    rows = [row for row in world(seed=31, n=300, held_out=True) if row["true_probability"] != 0.5]
    pairs = [Pair(prompt=r["prompt"], a=r["chosen"], b=r["rejected"], key=r["id"]) for r in rows]
    with listening(served["app"]) as url:
        by = {"kind": "endpoint", "url": f"{url}/v1", "model": "stand-in"}
        judge = Judge(Judging.model_validate({"by": by}))
        found = judge.compare(pairs)
        judge.close()
    for row, one in zip(rows, found, strict=True):
        due = served["worth"](row["prompt"], row["chosen"]) - served["worth"](row["prompt"], row["rejected"])
        assert one.logit == pytest.approx(due)
        assert one.orders == pytest.approx((due + served["FIRST"], due - served["FIRST"]))
    right = [((one.logit or 0) > 0) == (row["true_probability"] > 0.5) for row, one in zip(rows, found, strict=True)]
    second = [
        ((one.orders[1] or 0) > 0) == (row["true_probability"] > 0.5) for row, one in zip(rows, found, strict=True)
    ]
    assert fmean(right) > max(0.8, fmean(second) + 0.05)  # by the order in which the place speaks against the better
