"""The world of recipes/preference before plain arithmetic, and dry runs of its recipes and of those for real models."""

from __future__ import annotations

import json
import math
import runpy
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from rlvr import cli, plugins
from rlvr.recipe import Data
from rlvr.reward_settings import PreferenceData
from rlvr.rewards.bound import apply, lookup
from rlvr.settings import load_recipe
from rlvr.tasks import load_demonstrations, load_tasks
from rlvr.types import Task

ROOT = Path(__file__).parents[1]
FOLDER = Path("recipes/preference")
FILE = ROOT / FOLDER / "world.py"
world = sys.modules[plugins.load(f"{FILE}:tasks", what="test").__module__]
correct = sys.modules[plugins.load(f"{FILE.parent / 'correct.py'}:correct", what="test").__module__]
GOLDS = {row["prompt"]: row["gold"] for held_out in (False, True) for row in world.tasks(held_out)}


@pytest.fixture(autouse=True)
def _in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def reward(row: dict[str, Any], side: str) -> float:
    value: float = world.true_reward(row[side], GOLDS[row["prompt"]])
    return value


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--dry-run", "--json"])
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, json.loads(said.out.splitlines()[-1]) if ended.value.code == 0 else {}, said.err


# --- the world -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("it is 4", 2.0),
        ("it is 3", 0.0),
        ("it is 4 4", 0.0),
        ("please it is 4 please", 2.5),
        ("please it is 4 thanks sir kindly welcome", 3.5),
        ("it is 4 dumb fool fool", -1.0),
        ("it is 4" + " um" * 7, 2.0),
        ("it is 4" + " um" * 8, 1.75),
        ("it is 4" + " um" * 16, -0.25 + 2 - 2),
        ("it is 4" + " um" * 17, -1 + 2 - 2.5),
        ("", 0.0),
    ],
)
def test_the_true_reward_is_the_sum_of_its_parts(answer: str, value: float) -> None:
    assert world.true_reward(answer, "4") == value


def test_golds_are_what_python_reckons() -> None:
    assert len(GOLDS) == 8 * 6 * (36 + 21)
    for prompt, gold in GOLDS.items():
        x, sign, y, _ = prompt.split()[-4:]
        assert int(gold) == eval(f"{x} {'+' if sign == 'plus' else '-'} {y}")


def test_held_out_prompts_are_in_no_training_row() -> None:
    held_out = {row["prompt"] for row in world.tasks(held_out=True)}
    assert len(held_out) == 512
    rows = [
        *world.tasks(),
        *world.pages(1, 4000),
        *world.demonstrations(1, 4000),
        *world.comparisons(1, 4000, near={"correct": 0.5}),
    ]
    assert not held_out & {row["prompt"] for row in rows}
    measured = [*world.comparisons(1, 600, held_out=True), *world.probes(1, 600), *world.demonstrations(1, 9, True)]
    assert {row["prompt"] for row in measured} == held_out


def test_every_prompt_comes_once_before_any_comes_again() -> None:
    prompts = [row["prompt"] for row in world.demonstrations(3, 2 * 2224)]
    assert len(set(prompts[:2224])) == len(set(prompts[2224:])) == 2224
    assert prompts[:2224] != prompts[2224:]


def test_demonstrations_are_of_the_quality_that_they_say() -> None:
    rows = list(world.demonstrations(1, 10_000))
    words = [row["completion"].split() for row in rows]
    right = [
        [word for word in said if word.isdecimal()] == [GOLDS[row["prompt"]]]
        for row, said in zip(rows, words, strict=True)
    ]
    assert fmean(right) == pytest.approx(0.6, abs=0.02)
    assert fmean(sum(word in world.RUDE for word in said) for said in words) == pytest.approx(0.83, abs=0.04)
    assert fmean(sum(word in world.POLITE for word in said) for said in words) == pytest.approx(1.33, abs=0.05)
    assert fmean(reward(row, "completion") for row in rows) == pytest.approx(0.86, abs=0.05)
    assert max(map(len, words)) < world.MAX_TOKENS


def test_a_judge_chooses_as_often_as_the_true_reward_says() -> None:
    by_chance: defaultdict[float, list[bool]] = defaultdict(list)
    for row in world.comparisons(1, 10_000):
        expected = 1 / (1 + math.exp(reward(row, "rejected") - reward(row, "chosen")))
        assert row["true_probability"] == pytest.approx(expected)
        by_chance[round(max(expected, 1 - expected), 9)].append(expected > 0.499999)
    several = {p: rows for p, rows in by_chance.items() if len(rows) > 250}
    assert len(several) > 10
    for p, rows in several.items():
        share = 1.0 if p == 0.5 else p
        assert fmean(rows) == pytest.approx(share, abs=4 * math.sqrt(0.25 / len(rows)))


def test_flipped_labels_are_as_many_as_asked_and_change_no_pair() -> None:
    plain = list(world.comparisons(7, 3000))
    flipped = list(world.comparisons(7, 3000, flipped=0.2))
    turned = [(a["chosen"], a["rejected"]) == (b["rejected"], b["chosen"]) for a, b in zip(plain, flipped, strict=True)]
    same = [(a["chosen"], a["rejected"]) == (b["chosen"], b["rejected"]) for a, b in zip(plain, flipped, strict=True)]
    assert all(t != s for t, s in zip(turned, same, strict=True))
    assert fmean(turned) == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(
    ("attribute", "least", "most"),
    [("correct", 2, 2), ("polite", 0.5, 0.5), ("rude", 1, 1), ("length", 0.5, 2), ("repeats", 0.5, 0.5)],
)
def test_a_probes_better_answer_is_better_by_that_attribute_alone(attribute: str, least: float, most: float) -> None:
    rows = [row for row in world.probes(1, 3000) if row["attribute"] == attribute]
    gains = [(reward(row, "a") - reward(row, "b")) * (1 if row["expected"] == "higher" else -1) for row in rows]
    assert len(rows) == 600
    assert (min(gains), max(gains)) == (least, most)
    assert {row["expected"] for row in rows} == {"higher", "lower"}


def test_near_pairs_are_named_by_what_they_differ_in() -> None:
    near = {"correct": 0.3, "repeats": 0.1}
    rows = list(world.comparisons(2, 8000, near=near))
    sources = [row["source"] for row in rows]
    shares = {source: sources.count(source) / 8000 for source in set(sources)}
    assert shares == {name: pytest.approx(share, abs=0.02) for name, share in {**near, "far": 0.6}.items()}
    correct_only = [row for row in rows if row["source"] == "correct"]
    assert {abs(reward(row, "chosen") - reward(row, "rejected")) for row in correct_only} == {2}


def test_comparisons_of_samples_take_the_completions_of_the_file(tmp_path: Path) -> None:
    prompts = list(GOLDS)[:3]
    file = tmp_path / "samples.jsonl"
    texts = ["it is 4", "um it is 4", "it is 3", "it is 2"]
    file.write_text("".join(json.dumps({"prompt": p, "completions": texts}) + "\n" for p in prompts))
    rows = list(world.comparisons(1, 6, samples=str(file)))
    assert [row["prompt"] for row in rows] == [p for p in prompts for _ in range(2)]
    assert [{row["chosen"], row["rejected"]} for row in rows] == [set(texts[:2]), set(texts[2:])] * 3
    with pytest.raises(ValueError, match="n must be at most 6, the pairs in"):
        list(world.comparisons(1, 7, samples=str(file)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": 1, "near": {"rude": 0.5, "correct": 0.6}}, r"near must be in \[0, 1\], got 1.1"),
        ({"n": 1, "near": {"rude": -0.5, "correct": 0.6}}, r"rude must be in \[0, 1\], got -0.5"),
        ({"n": 1, "near": {"right": 0.5}}, "near must be of correct, polite, rude, length, repeats, got right"),
        ({"n": 1, "flipped": -1}, r"flipped must be in \[0, 1\], got -1"),
    ],
)
def test_impossible_requests_say_what_would_be_possible(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(world.comparisons(1, **arguments))


def test_figures_are_the_means_of_what_was_said(tmp_path: Path) -> None:
    (prompt, gold), *_ = GOLDS.items()
    ours, theirs = tmp_path / "ours.jsonl", tmp_path / "theirs.jsonl"
    for path, texts in (
        (ours, [f"it is {gold} thanks", "it is fool", f"it is {gold}"]),
        (theirs, [f"it is {gold}"] * 3),
    ):
        path.write_text(json.dumps({"prompt": prompt, "completions": texts}) + "\n")
    assert world.figures(ours, theirs) == pytest.approx(
        {"true_reward": (2.5 - 1 + 2) / 3, "correct": 2 / 3, "polite": 1 / 3, "rude": 1 / 3, "words": 10 / 3,
         "win_rate": 1.5 / 3}
    )  # fmt: skip


@pytest.mark.parametrize(("module", "name"), [(world, "oracle"), (correct, "correct")], ids=["oracle", "correct"])
def test_verifiers_judge_their_examples_as_they_say(module: Any, name: str) -> None:
    judge = lookup(f"{module.__file__}:{name}")
    for gold, response, score in module.EXAMPLES:
        verdict = apply(judge, response, Task(id="t", prompt="", gold=gold))
        assert verdict.score == pytest.approx(score), (gold, response)


def test_the_oracles_score_gives_the_true_reward_back() -> None:
    for row in world.demonstrations(5, 200):
        gold = GOLDS[row["prompt"]]
        score = world.oracle(row["completion"], gold).score
        assert world.WORST + score * (world.BEST - world.WORST) == pytest.approx(reward(row, "completion"))


def test_a_gold_that_is_no_number_is_our_failure() -> None:
    for gold in (None, "", "four", 4):
        assert correct.correct("it is 4", gold).outcome == "gold_invalid"


def test_the_tokenizer_has_one_token_for_each_word() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "tokenizer")
    assert len(tokenizer) == 4 + len(world.words())
    for row in world.demonstrations(1, 50):
        text = f"{row['prompt']} {row['completion']}"
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text.split())
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_data_of_the_recipes_load() -> None:
    tasks = load_tasks(Data(path=f"{FILE}:tasks", source="generator", verifier=f"{FOLDER}/correct.py:correct"))
    demos = load_demonstrations(Data(path=f"{FILE}:demonstrations", source="generator", args={"seed": 1, "n": 3}))
    assert (len(tasks.rows), len(demos.rows)) == (2224, 3)


def test_preferences_load_with_the_odds_of_the_world() -> None:
    from rlvr.preferences import load_preferences

    args: dict[str, Any] = {"seed": 1, "n": 50, "near": {"correct": 0.5}}
    loaded = load_preferences(PreferenceData(path=f"{FILE}:comparisons", source="generator", args=args))
    rows = list(world.comparisons(**args))
    assert [(p.chosen, p.rejected, p.true_probability, p.source, p.probability) for p in loaded.rows] == [
        (row["chosen"], row["rejected"], row["true_probability"], row["source"], 1.0) for row in rows
    ]


def test_the_script_chains_the_recipes() -> None:
    script = runpy.run_path(str(FOLDER / "run.py"))
    made = set()
    for name, stage in script["STAGES"].items():
        recipe = load_recipe(FOLDER / f"{name}.yaml")
        assert recipe.command == stage.command
        said = recipe.model_dump()
        for setting, maker in stage.made_of.items():
            value: Any = said
            for part in setting.split("."):
                value = value[part]
            assert value == str(script["RUNS"] / maker / "model")
            assert maker in made
        made.add(name)
    assert {path.stem for path in FOLDER.glob("*.yaml")} == made


def test_the_mixed_recipes_add_the_verifier_and_nothing_else() -> None:
    for name in ("ppo", "grpo"):
        alone, mixed = (load_recipe(FOLDER / f"{n}.yaml").model_dump() for n in (name, f"{name}_mixed"))
        added = mixed["rewards"].pop("correct")
        assert (added["verifier"], added["weight"]) == ("recipes/preference/correct.py:correct", 2.0)
        assert mixed == alone


@pytest.mark.parametrize("name", ["reward", "reward_weak", "dpo"])
def test_a_dry_run_of_preferences_reads_the_pairs(
    name: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = load_recipe(FOLDER / f"{name}.yaml").command
    code, found, err = dry_run(
        capsys, command, str(FOLDER / f"{name}.yaml"), f"model.path={tiny_model}", "data.args.n=60",
        "eval.tasks.args.n=40",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert (found["comparisons"], found["held_out"], found["bad_rows"], found["same_prompt"]) == (60, 40, 0, 0)


def test_a_dry_run_of_rl_names_the_stage_that_makes_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = dry_run(
        capsys, "train", str(FOLDER / "grpo.yaml"), "model.path=runs/nowhere/model", "engine.kind=hf"
    )
    assert code == 3
    assert err == (
        "rlvr: model.path runs/nowhere/model does not exist yet; make it with: "
        "rlvr sft recipes/preference/sft.yaml run.dir=runs/nowhere\n"
    )


def test_experts_answer_as_the_true_reward_weighs_ordinary_answers() -> None:
    rows = list(world.experts(1, 4000))
    ordinary = [reward(row, "rejected") for row in rows]
    weights = [math.exp(value) for value in ordinary]
    tilted = sum(w * value for w, value in zip(weights, ordinary, strict=True)) / sum(weights)
    assert fmean(reward(row, "chosen") for row in rows) == pytest.approx(tilted, abs=0.1)
    assert all(row["chosen"] != row["rejected"] for row in rows)
