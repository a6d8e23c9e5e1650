"""recipes/math: columns of GSM8K and MATH are read as they are, and the small twin takes real steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_recipes import ROOT, dry_run, roomy_model
from test_rl import steps_of

from rlvr import cli
from rlvr.rewards.bound import apply, lookup
from rlvr.settings import load_recipe
from rlvr.tasks import load_tasks

__all__ = ["roomy_model"]
MATH = Path("recipes/math")
SYSTEM = "Reason step by step and put the final answer within \\boxed{}."
GSM8K, COMPETITION = (str(MATH / f"sample_{name}.jsonl") for name in ("gsm8k", "math"))


@pytest.fixture(autouse=True)
def _in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def on_samples(data: str) -> list[str]:
    """What is asked in which words is the recipe's own; another source leaves the rest of the section behind."""
    column = "solution" if data == COMPETITION else "answer"
    settings = ["source=file", f"path={data}", "as_chat=true", f"system={SYSTEM}", f"columns.gold={column}"]
    return [f"data.{setting}" for setting in settings]


def held_out(data: str) -> list[str]:
    tasks = ("source=file", f"path={data}", "limit=2")
    return [f"eval.tasks.{setting}" for setting in tasks]


@pytest.mark.parametrize(
    ("recipe", "data", "lora"),
    [
        ("gsm8k", GSM8K, False),
        ("gsm8k_lora", GSM8K, True),
        ("math", COMPETITION, False),
        ("math_lora", COMPETITION, True),
    ],
)
def test_a_dry_run_reads_the_columns_and_accepts_every_gold(
    recipe: str, data: str, lora: bool, roomy_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = MATH / f"{recipe}.yaml"
    overrides = [f"model.path={roomy_model}", "engine.kind=hf", *on_samples(data), *held_out(data)]
    code, out, err = dry_run(capsys, "train", str(path), *overrides)
    assert (code, err) == (0, "")
    found = json.loads(out.splitlines()[-1])
    num_rows = len(Path(data).read_text().splitlines())
    assert (found["rows"], found["same_prompt"], found["held_out"]) == (num_rows - 2, 2, 2)
    assert (found["bad_rows"], found["gold_invalid"]) == (0, 0)
    assert found["first"].startswith(f"system: {SYSTEM}\nuser: ")
    loaded = load_recipe(path)
    assert (loaded.data.as_chat, loaded.data.system) == (True, SYSTEM)  # type: ignore[attr-defined]
    assert (loaded.model.lora is not None) == lora  # type: ignore[attr-defined]


def test_golds_are_the_final_answers_of_the_worked_solutions() -> None:
    for recipe, data in (("gsm8k", GSM8K), ("math", COMPETITION)):
        loaded = load_recipe(MATH / f"{recipe}.yaml", on_samples(data))
        rows = [json.loads(line) for line in Path(data).read_text().splitlines()]
        for task, row in zip(load_tasks(loaded.data).rows, rows, strict=True):  # type: ignore[attr-defined]
            final = row["answer"].split("#### ")[-1]  # of MATH's rows a column that the recipe does not read
            assert task.gold == (row["solution"] if recipe == "math" else final.replace(",", ""))
            for answer, score in ((final, 1.0), ("-7777", 0.0)):
                verdict = apply(lookup("math"), rf"so \boxed{{{answer}}}", task)
                assert verdict.score == score, verdict


@pytest.mark.slow
def test_the_small_twin_takes_real_steps_with_the_recipe_s_own_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, run = tmp_path / "pretrain", tmp_path / "tiny"
    commands = [
        ["pretrain", str(MATH / "tiny_pretrain.yaml"), "steps=30", f"run.dir={made}"],
        ["train", str(MATH / "tiny.yaml"), f"model.path={made / 'model'}", f"run.dir={run}", "engine.kind=hf"],
    ]
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            cli.main(command)
        assert ended.value.code == 0, capsys.readouterr()
    rows = steps_of(run)
    assert len(rows) == 5
    assert all(row["grad_norm"] > 0 and row["reward/unjudged_ratio"] == 0 for row in rows)
    assert [row["lr"] for row in rows] == pytest.approx([1e-6 * step / 10 for step in range(1, 6)])  # gsm8k.yaml's
    tiny, real = (load_recipe(MATH / f"{name}.yaml").model_dump() for name in ("tiny", "gsm8k"))
    for section in ("algorithm", "loss", "kl", "advantage", "optim"):
        assert tiny[section] == real[section]
