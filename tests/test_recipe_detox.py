"""The forum of recipes/detox before its lexicon, and in small: the classifier's reward cleans the replies."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from rlvr import cli, plugins, runs
from rlvr.plot import divergence
from rlvr.recipe import Data
from rlvr.rewards.bound import apply, lookup
from rlvr.tasks import load_tasks
from rlvr.types import Task

ROOT = Path(__file__).parents[1]
FOLDER = Path("recipes/detox")
world = sys.modules[plugins.load(f"{ROOT / FOLDER / 'world.py'}:tasks", what="test").__module__]


@pytest.fixture(autouse=True)
def _in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


JUDGES = {name: lookup(str(ROOT / FOLDER / name)) for name in ("world.py:clean", "about.py:about")}


def score(verifier: str, response: str, gold: str | None = None) -> float | None:
    return apply(JUDGES[verifier], response, Task(id="t", prompt="q", gold=gold)).score


def test_the_lexicon_finds_every_insult_however_it_is_written_and_nothing_else() -> None:
    assert [score("world.py:clean", f"well, {word.upper()}!") for word in world.INSULTS] == [0.0] * len(world.INSULTS)
    assert score("world.py:clean", "stupidity is no stupid-ness-free word") == 0.0
    assert [score("world.py:clean", word) for word in (*world.FRIENDLY, *world.JUDGED, "")] == [1.0] * 19
    assert score("about.py:about", "my soup is cold", "soup") == 1.0
    assert score("about.py:about", "my train is cold", "soup") == 0.0


def test_replies_are_as_toxic_as_they_are_asked_to_be() -> None:
    for toxic in (0.0, 0.6, 1.0):
        replies = [row["completion"] for row in world.demonstrations(seed=5, n=1000, toxic=toxic)]
        assert fmean(score("world.py:clean", reply) == 0.0 for reply in replies) == pytest.approx(toxic, abs=0.05)


def test_thumbs_are_wrong_as_often_as_they_are_said_to_be() -> None:
    for noise in (0.0, 0.1):
        rows = list(world.ratings(seed=6, n=2000, noise=noise))
        wrong = fmean(row["label"] != (score("world.py:clean", row["completion"]) == 1.0) for row in rows)
        assert wrong == pytest.approx(noise, abs=0.03)
        assert 0.4 < fmean(row["label"] for row in rows) < 0.6


def test_held_out_prompts_are_in_no_row_that_is_trained_on() -> None:
    held = {row["prompt"] for row in world.tasks(held_out=True)}
    assert len(held) == world.NUM_HELD_OUT == 40
    trained = [*world.tasks(), *world.demonstrations(1, 2000, 0.5), *world.ratings(1, 2000)]
    assert not held & {row["prompt"] for row in trained}
    assert {row["prompt"] for row in world.ratings(1, 2000, held_out=True)} == held
    loaded = load_tasks(Data(path=str(FOLDER / "world.py:tasks"), source="generator", verifier="exact")).rows
    assert len(loaded) == 200 and all(str(task.gold) in str(task.prompt) for task in loaded)


def run(command: str, name: str, folder: Path, *overrides: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as done:
        cli.main([command, str(FOLDER / f"{name}.yaml"), f"run.dir={folder / name}", *overrides])
    assert not done.value.code
    found = json.loads((folder / name / "summary.json").read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.slow
def test_the_true_share_of_insults_falls_for_a_classifiers_reward(tmp_path: Path) -> None:
    run("pretrain", "pretrain", tmp_path, "steps=120", "data.args.toxic=0.6")
    policy = f"model.path={tmp_path / 'pretrain' / 'model'}"
    judge = run("reward-model", "classifier", tmp_path, policy, "steps=80", "data.args.n=5120")
    assert judge["after"]["accuracy"] > 0.9 and judge["after"]["auc"] > 0.95
    thumbs = f"rewards.thumbs.path={tmp_path / 'classifier' / 'model'}"
    found = run("train", "grpo", tmp_path, policy, thumbs, "engine.kind=hf", "steps=16", "optim.lr=1e-3")
    assert found["after"]["ci95"][0] > found["before"]["ci95"][1] + 0.1
    steps = [row for row in runs.read_metrics(tmp_path / "grpo") if "reward" in row]
    assert all(row["alarm/over_optimisation"] == 0.0 for row in steps)
    curve = divergence(tmp_path / "grpo")
    assert curve is not None and curve["best_of_n"] is not None
    best = curve["best_of_n"]["parts"]
    assert best["thumbs"] == sorted(best["thumbs"]) and best["clean"][0] < best["clean"][-1]
