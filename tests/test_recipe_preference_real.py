"""Dry runs of recipes/preference/real: rows as the public data sets write them, read as pairs, scores, choices."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlvr import cli, heads
from rlvr.preferences import load_best_of, load_preferences, load_ratings
from rlvr.recipe import Model
from rlvr.settings import load_recipe

ROOT = Path(__file__).parents[1]
REAL = Path("recipes/preference/real")


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user" if k % 2 == 0 else "assistant", "content": text} for k, text in enumerate(texts)]


ULTRAFEEDBACK = [
    {"prompt": "Add 1 and 1.", "prompt_id": "a1", "chosen": turns("Add 1 and 1.", "2"),
     "rejected": turns("Add 1 and 1.", "3"), "messages": turns("Add 1 and 1.", "2"), "score_chosen": 8.5,
     "score_rejected": 6.0},
    {"prompt": "Hi?", "prompt_id": "b2", "chosen": turns("Hi?", "Hello."), "rejected": turns("Hi?", "Hello."),
     "messages": turns("Hi?", "Hello."), "score_chosen": 7.0, "score_rejected": 7.0},
]  # fmt: skip
HH = [
    {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Add 1 and 1.\n\nAssistant: 2",
     "rejected": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Add 1 and 1.\n\nAssistant: Why?"},
    {"chosen": "\n\nHuman: Hi\n\nAssistant: ", "rejected": "\n\nHuman: Hi\n\nAssistant: No."},
]  # fmt: skip
HELPSTEER2 = [
    {"prompt": "Add 1 and 1.", "response": "2", "helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 0,
     "verbosity": 1},
    {"prompt": "Add 1 and 1.", "response": "3", "helpfulness": 1, "correctness": 0, "coherence": 4, "complexity": 0,
     "verbosity": 1},
]  # fmt: skip
HELPSTEER3 = [
    {"domain": "general", "language": "english", "context": turns("Add 1 and 1."), "response1": "3", "response2": "2",
     "overall_preference": 3, "individual_preference": []},
]  # fmt: skip
REWARDBENCH = [
    {"prompt": "Add 1 and 2.", "chosen": "3", "chosen_model": "a", "rejected": "4", "rejected_model": "b",
     "subset": "math-prm", "id": 17},
]  # fmt: skip
REWARDBENCH_2 = [
    {"id": "q1", "prompt": "Add 1 and 2.", "chosen": ["3"], "rejected": ["4", "5", "6"], "num_correct": 1,
     "num_incorrect": 3, "total_completions": 4, "models": ["a", "b", "c", "d"], "subset": "Math",
     "additional_metadata": None},
]  # fmt: skip
GSM8K = [{"question": "Add 1 and 1.", "answer": "1 + 1 = 2\n#### 2"}]


@pytest.fixture(autouse=True)
def _in_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def roomy_model(tiny_model: Path, tmp_path: Path) -> Path:
    """Files of a model with a context of 4096: enough for a dry run."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def on_hub(folder: Path, subset: str, **splits: list[dict[str, Any]]) -> Path:
    """A data set's repository laid out as on the hub: a configuration, parquet files, what is where in README.md."""
    folder.mkdir()
    for split, rows in splits.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    files = "".join(f"  - split: {split}\n    path: {split}.parquet\n" for split in splits)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {subset}\n  data_files:\n{files}---\n")
    return folder


def dry_run(capsys: pytest.CaptureFixture[str], name: str, *overrides: str) -> dict[str, Any]:
    command = load_recipe(REAL / f"{name}.yaml").command
    with pytest.raises(SystemExit) as ended:
        cli.main([command, str(REAL / f"{name}.yaml"), *overrides, "--dry-run", "--json"])
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out.splitlines()[-1])
    return found


def other_prompt(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return json.loads(json.dumps(rows).replace("Add 1 and 1.", "Add 2 and 2."))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "rows", "found"),
    [
        ("ultrafeedback_rm", ULTRAFEEDBACK, {"comparisons": 1, "bad_rows": 1, "held_out": 1}),
        ("ultrafeedback_dpo", ULTRAFEEDBACK, {"comparisons": 1, "bad_rows": 1, "held_out": 1}),
        ("hh_rm", HH, {"comparisons": 1, "bad_rows": 1, "held_out": 1}),
        ("helpsteer_rm", HELPSTEER2, {"ratings": 2, "bad_rows": 0, "held_out": 2}),
        ("helpsteer3_rm", HELPSTEER3, {"comparisons": 1, "bad_rows": 0, "held_out": 1}),
    ],
)
def test_a_dry_run_reads_the_rows_of_the_hub(
    name: str,
    rows: list[dict[str, Any]],
    found: dict[str, int],
    roomy_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe: Any = load_recipe(REAL / f"{name}.yaml")
    splits = {recipe.data.split: rows, recipe.eval.tasks.split: other_prompt(rows)}
    hub = on_hub(tmp_path / "hub", recipe.data.subset or "default", **splits)
    said = dry_run(capsys, name, f"model.path={roomy_model}", f"data.path={hub}", f"eval.tasks.path={hub}")
    assert {key: said[key] for key in found} == found
    assert said["first"].endswith("user: Add 1 and 1.\nassistant: ")


@pytest.mark.parametrize(
    ("name", "rows", "kind"),
    [("rewardbench", REWARDBENCH_2, "best-of-N rows"), ("rewardbench_pairs", REWARDBENCH, "comparisons")],
)
def test_rewardbench_is_what_the_reward_model_is_measured_on(
    name: str,
    rows: list[dict[str, Any]],
    kind: str,
    roomy_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe: Any = load_recipe(REAL / f"{name}.yaml")
    assert (recipe.steps, recipe.data, recipe.model.path) == (0, None, "runs/ultrafeedback_rm/model")
    assert load_recipe(recipe.model.made_by).stage == "reward_model"
    bench = on_hub(tmp_path / "bench", "default", **{recipe.eval.tasks.split: rows})
    said = dry_run(capsys, name, f"model.path={roomy_model}", f"eval.tasks.path={bench}")
    assert (said["steps"], said["held_out"], said["held_out_are"]) == (0, 1, kind)
    assert "comparisons" not in said
    assert said["first"].endswith("user: Add 1 and 2.\nassistant: ")


def test_margins_and_sides_are_those_of_the_rows(tmp_path: Path) -> None:
    def data(name: str, rows: list[dict[str, Any]]) -> Any:
        recipe: Any = load_recipe(REAL / f"{name}.yaml")
        hub = on_hub(tmp_path / name, recipe.data.subset or "default", **{recipe.data.split: rows})
        return recipe.data.model_copy(update={"path": str(hub)})

    (pair,) = load_preferences(data("ultrafeedback_rm", ULTRAFEEDBACK)).rows
    assert (pair.prompt, pair.chosen, pair.rejected, pair.margin) == (tuple(turns("Add 1 and 1.")), "2", "3", 2.5)
    (pair,) = load_preferences(data("hh_rm", HH)).rows
    assert (pair.prompt, pair.chosen, pair.rejected) == (tuple(turns("Hi", "Hello!", "Add 1 and 1.")), "2", "Why?")
    (pair,) = load_preferences(data("helpsteer3_rm", HELPSTEER3)).rows
    assert (pair.prompt, pair.chosen, pair.rejected, pair.margin) == (tuple(turns("Add 1 and 1.")), "2", "3", 3.0)
    good, bad = load_ratings(data("helpsteer_rm", HELPSTEER2)).rows
    assert (good.scores["helpfulness"], bad.scores["correctness"], bad.scores["verbosity"]) == (4.0, 0.0, 1.0)


def test_rewardbench_2_keeps_its_subsets(tmp_path: Path) -> None:
    recipe: Any = load_recipe(REAL / "rewardbench.yaml")
    hub = on_hub(tmp_path / "bench", "default", **{recipe.eval.tasks.split: REWARDBENCH_2})
    (row,) = load_best_of(recipe.eval.tasks.model_copy(update={"path": str(hub)})).rows
    assert (row.source, row.chosen, row.rejected) == ("Math", ("3",), ("4", "5", "6"))


def test_a_dry_run_of_the_mixed_recipe_reads_its_tasks(
    roomy_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = on_hub(tmp_path / "hub", "main", train=GSM8K, test=[GSM8K[0] | {"question": "Add 2 and 2."}])
    scorer, tokenizer = heads.load_scorer(Model(path=str(roomy_model)), seed=0)
    scorer.save_pretrained(tmp_path / "scorer")
    tokenizer.save_pretrained(tmp_path / "scorer")
    paths = (f"model.path={roomy_model}", f"rewards.style.path={tmp_path / 'scorer'}")
    paths = (*paths, f"data.path={hub}", f"eval.tasks.path={hub}")
    assert dry_run(capsys, "gsm8k_mixed", *paths, "engine.kind=hf")["rows"] == 1
