"""The recipes that come with the project can be read, and the controls differ from the real run in one thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlvr import cli
from rlvr.settings import load_recipe

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.relative_to(ROOT) for path in (ROOT / "recipes").rglob("*.yaml"))
ARITHMETIC = Path("recipes/arithmetic")


@pytest.fixture(autouse=True)
def _in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}.{key}".lstrip("."))
    return found


def differences(path: Path, other: Path) -> dict[str, Any]:
    mine, theirs = (leaves(load_recipe(p).model_dump()) for p in (path, other))
    return {name: mine.get(name) for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)}


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--dry-run", "--json"])
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.out, said.err


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_every_recipe_can_be_read(path: Path) -> None:
    recipe = load_recipe(path)
    assert load_recipe(path, stage=recipe.stage) == recipe


def test_the_format_control_differs_in_its_verifier_alone() -> None:
    assert differences(ARITHMETIC / "grpo_format.yaml", ARITHMETIC / "grpo.yaml") == {
        "rewards.answer.verifier": "boxed"
    }


def test_the_random_control_differs_in_its_reward_alone() -> None:
    assert differences(ARITHMETIC / "grpo_random.yaml", ARITHMETIC / "grpo.yaml") == {
        "rewards.answer.kind": "random",
        "rewards.answer.p": 0.5,
    }


def test_the_stages_of_the_job_are_measured_on_the_same_held_out_tasks() -> None:
    for name in ("pretrain.yaml", "sft.yaml", "grpo.yaml", "base.yaml", "zero.yaml"):
        tasks = load_recipe(ARITHMETIC / name).eval.tasks  # type: ignore[attr-defined]
        assert tasks is not None
        assert tasks.args == {"seed": 4242, "n": 512}


def test_zero_starts_from_the_base_model_and_nothing_else() -> None:
    changed = differences(ARITHMETIC / "zero.yaml", ARITHMETIC / "grpo.yaml")
    assert changed == {"model.path": "runs/arithmetic/base/model", "model.made_by": "recipes/arithmetic/base.yaml"}
    assert load_recipe(ARITHMETIC / "base.yaml").stage == "pretrain"


def test_a_dry_run_of_pretraining_needs_nothing_but_its_data(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = dry_run(capsys, "pretrain", str(ARITHMETIC / "pretrain.yaml"), "data.args.n=500")
    assert (code, err) == (0, "")
    found = json.loads(out.splitlines()[-1])
    assert (found["stage"], found["held_out"], found["bad_rows"]) == ("pretrain", 512, 0)
    assert found["rows"] + found["same_prompt"] == 500


@pytest.mark.parametrize(
    ("command", "recipe", "maker"),
    [("sft", "sft.yaml", "rlvr pretrain recipes/arithmetic/pretrain.yaml"),
     ("train", "grpo.yaml", "rlvr sft recipes/arithmetic/sft.yaml"),
     ("train", "grpo_random.yaml", "rlvr sft recipes/arithmetic/sft.yaml"),
     ("train", "zero.yaml", "rlvr pretrain recipes/arithmetic/base.yaml")],
)  # fmt: skip
def test_a_dry_run_names_the_stage_that_makes_a_missing_model(
    command: str, recipe: str, maker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = dry_run(
        capsys, command, str(ARITHMETIC / recipe), "model.path=runs/nowhere/model", "data.args.n=50",
        *(["engine.kind=hf"] if command == "train" else []),
    )  # fmt: skip
    assert code == 3
    assert (
        err == f"rlvr: model.path runs/nowhere/model does not exist yet; make it with: {maker} run.dir=runs/nowhere\n"
    )


def test_a_dry_run_of_rl_checks_data_model_and_verifiers(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("train", str(ARITHMETIC / "grpo.yaml"), f"model.path={tiny_model}", "engine.kind=hf", "data.args.n=50")
    code, out, _ = dry_run(capsys, *common)
    assert code == 0
    found = json.loads(out.splitlines()[-1])
    assert (found["rows"], found["held_out"], found["too_long"]) == (50, 512, 0)
    for named in ("data", "eval.tasks"):  # of tasks too, not of rewards alone
        code, _, err = dry_run(capsys, *common, f"{named}.verifier=mth")
        assert code == 2
        assert err.startswith("rlvr: no verifier named 'mth'; did you mean 'math'?")
    code, _, err = dry_run(capsys, *common, "rewards.answer.verifier=boxd")
    assert code == 2
    assert err.startswith("rlvr: no verifier named 'boxd'; did you mean 'boxed'? known: boxed, ")
