"""The sentences of recipes/structured, their golds before the json verifier, and dry runs of its recipes."""

from __future__ import annotations

import ast
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvr import cli, plugins
from rlvr.recipe import Data
from rlvr.rewards.bound import apply, lookup
from rlvr.settings import load_recipe
from rlvr.tasks import load_demonstrations, load_tasks
from rlvr.types import Task, Verdict

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "recipes/structured"
FILE = FOLDER / "problems.py"
problems = sys.modules[plugins.load(f"{FILE}:tasks", what="test").__module__]
FORMS = [re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\w+)", re.escape(form)) + "\nJSON: ") for form in problems.FORMS]


@pytest.fixture(autouse=True)
def _in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def told(prompt: str) -> dict[str, Any]:
    """What a reader makes of the sentence."""
    (match,) = [match for form in FORMS if (match := form.fullmatch(prompt))]
    found: dict[str, Any] = match.groupdict()
    return found | {"age": int(found["age"])}


def judge(row: dict[str, Any], response: str) -> Verdict:
    return apply(lookup("json"), response, Task(id="t", prompt=row["prompt"], gold=row["gold"]))


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}.{key}".lstrip("."))
    return found


def differences(name: str) -> dict[str, Any]:
    mine, real = (leaves(load_recipe(FOLDER / recipe).model_dump()) for recipe in (name, "grpo.yaml"))
    return {key: mine.get(key) for key in sorted({*mine, *real}) if mine.get(key) != real.get(key)}


def test_golds_say_what_the_sentences_tell() -> None:
    rows = list(problems.tasks(seed=1, n=2000))
    assert [row["gold"]["value"] for row in rows] == [told(row["prompt"]) for row in rows]
    assert len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == 2000
    used = {sum(bool(form.fullmatch(row["prompt"])) << k for k, form in enumerate(FORMS)) for row in rows}
    assert used == {1, 2, 4, 8}


def test_careful_answers_are_right_and_the_two_slips_are_not() -> None:
    rows = list(problems.tasks(seed=2, n=300))
    careful = list(problems.demonstrations(seed=2, n=300))
    assert [judge(row, demo["completion"]).score for row, demo in zip(rows, careful, strict=True)] == [1.0] * 300
    quoted = list(problems.demonstrations(seed=2, n=300, quoted_age=1.0))
    verdicts = [judge(row, demo["completion"]) for row, demo in zip(rows, quoted, strict=True)]
    assert {(verdict.score, verdict.outcome, verdict.stage) for verdict in verdicts} == {(0.0, "wrong", "schema")}
    single = list(problems.demonstrations(seed=2, n=300, single_quotes=1.0))
    verdicts = [judge(row, demo["completion"]) for row, demo in zip(rows, single, strict=True)]
    assert {(verdict.score, verdict.outcome, verdict.stage) for verdict in verdicts} == {(0.0, "malformed", "parse")}
    assert [ast.literal_eval(demo["completion"]) for demo in single] == [row["gold"]["value"] for row in rows]


def test_any_wrong_value_is_wrong() -> None:
    for row in problems.tasks(seed=3, n=20):
        value = row["gold"]["value"]
        for key in value:
            other = {**value, key: 17 if key == "age" else "Nobody"}
            assert judge(row, json.dumps(other)).score == 0.0
            assert judge(row, json.dumps({name: value[name] for name in value if name != key})).score == 0.0


def test_the_docstrings_row_is_how_it_is_written() -> None:
    ada = problems.Person("Ada", 34, "baker", "Oslo")
    assert problems._prompt(problems.FORMS[2], ada) == "Ada, a baker from Oslo, is 34.\nJSON: "


def test_slips_are_as_often_as_asked_and_change_no_sentence() -> None:
    careful = list(problems.demonstrations(seed=2, n=6000))
    mixed = list(problems.demonstrations(seed=2, n=6000, quoted_age=0.45, single_quotes=0.3))
    assert [row["prompt"] for row in careful] == [row["prompt"] for row in mixed]
    single = [row["completion"].startswith("{'") for row in mixed]
    quoted = [isinstance(ast.literal_eval(row["completion"])["age"], str) for row in mixed]
    assert sum(single) / 6000 == pytest.approx(0.3, abs=0.02)
    assert sum(quoted) / 6000 == pytest.approx(0.45, abs=0.02)
    plain = list(problems.demonstrations(seed=2, n=6000, quoted_age=0.45))
    assert [row for row, is_single in zip(plain, single, strict=True) if not is_single] == [
        row for row, is_single in zip(mixed, single, strict=True) if not is_single
    ]


def test_seeds_repeat_and_held_out_sentences_are_avoided() -> None:
    assert list(problems.tasks(5, 50)) == list(problems.tasks(5, 50))
    held_out = {row["prompt"] for row in problems.tasks(4242, 512)}
    assert held_out.isdisjoint(row["prompt"] for row in problems.tasks(1, 20_000, avoid=[[4242, 512]]))
    assert held_out & {row["prompt"] for row in problems.tasks(1, 20_000)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: problems.tasks(1, 0), "n must be at least 1, got 0"),
        (lambda: problems.demonstrations(1, 1, quoted_age=35), r"quoted_age must be in \[0, 1\], got 35"),
    ],
)
def test_impossible_requests_say_what_would_be_possible(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(call())


def test_both_load_as_data_of_a_recipe() -> None:
    args = {"seed": 1, "n": 3}
    tasks = load_tasks(Data(path=f"{FILE}:tasks", source="generator", args=args, verifier="json"))
    demos = load_demonstrations(Data(path=f"{FILE}:demonstrations", source="generator", args=args))
    assert [task.id for task in tasks.rows] == ["structured-1:0", "structured-1:1", "structured-1:2"]
    assert [json.loads(demo.completion) for demo in demos.rows] == [task.gold["value"] for task in tasks.rows]
    assert [demo.prompt for demo in demos.rows] == [task.prompt for task in tasks.rows]


def test_the_controls_differ_in_their_reward_alone() -> None:
    assert differences("grpo_random.yaml") == {
        "rewards.answer.kind": "random", "rewards.answer.options": None, "rewards.answer.p": 0.5,
    }  # fmt: skip
    changed = differences("grpo_format.yaml")
    assert changed.pop("rewards.answer.verifier") == "regex"
    assert set(changed) == {"rewards.answer.options", "rewards.answer.options.pattern", "rewards.answer.options.text"}


def test_the_format_control_takes_every_slip_for_right() -> None:
    reward: Any = load_recipe(FOLDER / "grpo_format.yaml").rewards["answer"]  # type: ignore[attr-defined]
    regex = lookup(reward.verifier)

    def points(response: str) -> float | None:
        return apply(regex, response, Task(id="t", prompt="p", gold={"value": 1}), reward.options).score

    for row in problems.demonstrations(seed=2, n=100, quoted_age=0.5, single_quotes=0.5):
        assert points(row["completion"]) == 1.0
    assert points("{}") == points("{nonsense}") == 1.0
    assert points('{"name": "Ada"') == points('"name": "Ada"}') == points("name age job city") == 0.0


@pytest.mark.parametrize("name", ["pretrain.yaml", "sft.yaml", "grpo.yaml"])
def test_every_stage_is_measured_on_the_same_held_out_tasks(name: str) -> None:
    tasks = load_recipe(FOLDER / name).eval.tasks  # type: ignore[attr-defined]
    assert (tasks.path, tasks.args) == ("recipes/structured/problems.py:tasks", {"seed": 4242, "n": 512})


def test_the_script_of_the_folder_chains_its_stages() -> None:
    script = runpy.run_path(str(Path("recipes/structured/run.py")))
    stages: list[Any] = [load_recipe(FOLDER / recipe) for _, recipe, _ in script["STAGES"]]
    made = [str(script["RUNS"] / name / "model") for _, _, name in script["STAGES"]]
    assert [stage.model.path for stage in stages[1:]] == made[:-1]
    assert script["RUNS"] == Path("runs/structured")


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--dry-run", "--json"])
    said = capsys.readouterr()
    assert (ended.value.code, said.err) == (0, "")
    return json.loads(said.out.splitlines()[-1])


def test_a_dry_run_of_pretraining_needs_nothing_but_its_data(capsys: pytest.CaptureFixture[str]) -> None:
    found = dry_run(capsys, "pretrain", "recipes/structured/pretrain.yaml", "data.args.n=500")
    assert (found["stage"], found["held_out"], found["bad_rows"]) == ("pretrain", 512, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo.yaml", "grpo_format.yaml", "grpo_random.yaml"])
def test_a_dry_run_of_rl_finds_every_gold_fit_to_judge_by(
    name: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = dry_run(
        capsys, "train", f"recipes/structured/{name}", f"model.path={tiny_model}", "engine.kind=hf", "data.args.n=100"
    )
    assert (found["rows"], found["held_out"], found["too_long"], found["bad_rows"]) == (100, 512, 0, 0)
