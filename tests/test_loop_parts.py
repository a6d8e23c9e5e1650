"""The parts of a loop by themselves: picking, drawing, the gate's decision, recipes that cannot be."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import yaml
from judge_case import Mind, serving
from loop_case import write

from rlvr import cli
from rlvr.errors import DataError, PluginError, SettingsError
from rlvr.feedback.records import Answer, Item, Judgement
from rlvr.feedback.store import Store
from rlvr.loop import comparing, gate, labelling, manifest, picking, report
from rlvr.loop_settings import Gate, Labels, LoopRecipe
from rlvr.probing.texts import of_run
from rlvr.settings import load_recipe, to_yaml
from rlvr.types import Task

# --- picking ---------------------------------------------------------------------------------------------------------


def test_pairs_are_of_different_texts_that_are_not_empty() -> None:
    assert picking.pairs_of([["a", "b", "a ", " "], ["x", "x"], ["p", "q", "r"]]) == [
        (0, 0, 1), (2, 0, 1), (2, 0, 2), (2, 1, 2)
    ]  # fmt: skip


def test_disagreement_is_the_standard_deviation_of_the_difference() -> None:
    delta = np.array([[1.0, 5.0], [3.0, 5.0]])
    assert picking.worth(delta, "disagreement").tolist() == [1.0, 0.0]


def test_bald_is_the_entropy_of_the_mean_less_the_mean_entropy() -> None:
    def entropy(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    p, q = 1 / (1 + math.exp(-1.0)), 1 / (1 + math.exp(2.0))
    delta = np.array([[1.0, 0.0, 40.0], [-2.0, 0.0, 50.0]])
    expected = [entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2, 0.0, 0.0]
    assert picking.worth(delta, "bald") == pytest.approx(expected, abs=1e-9)


def test_the_most_worth_is_picked_first_and_no_prompt_more_often_than_allowed() -> None:
    pairs = [(0, 0, 1), (0, 0, 2), (0, 1, 2), (1, 0, 1), (2, 0, 1)]
    worth = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    assert picking.choose(pairs, worth, 3, 2, 0.0, Random(0)) == [0, 1, 3]
    assert picking.choose(pairs, worth, 9, 1, 0.0, Random(0)) == [0, 3, 4]
    explored = picking.choose(pairs, worth, 4, 2, 0.5, Random(0))
    assert explored[:2] == [0, 1]
    assert set(explored[2:]) == {3, 4}


def test_picking_at_random_follows_the_seed_alone() -> None:
    pairs = [(p, 0, 1) for p in range(50)]
    first = picking.choose(pairs, None, 10, 1, 0.0, Random(1))
    assert first == picking.choose(pairs, None, 10, 1, 0.0, Random(1))
    assert first != picking.choose(pairs, None, 10, 1, 0.0, Random(2))
    assert len(set(first)) == 10


# --- labels ----------------------------------------------------------------------------------------------------------


def test_a_draw_follows_the_weights() -> None:
    rows = [{"id": f"r{k}", "weight": 1.0 if k < 100 else 0.25} for k in range(200)]
    drawn = labelling.draw(rows, bootstrap=True, seed=1)
    assert len(drawn) == 125
    old = sum(int(row["id"].partition("#")[0][1:]) >= 100 for row in drawn)
    assert old == pytest.approx(25, abs=4 * math.sqrt(125 * 0.2 * 0.8))
    assert len({row["id"] for row in drawn}) == 125
    thinned = labelling.draw(rows, bootstrap=False, seed=1)
    assert [row["id"] for row in thinned[:100]] == [f"r{k}" for k in range(100)]
    assert len(thinned) - 100 == pytest.approx(25, abs=4 * math.sqrt(100 * 0.25 * 0.75))


@pytest.mark.parametrize(
    ("changes", "number", "refused", "expected"),
    [
        ({}, 3, [2], [1, 2, 3]),
        ({"of_refused": "drop"}, 3, [2], [1, 3]),
        ({"keep": "last", "window": 2}, 4, [], [3, 4]),
        ({"keep": "decay"}, 2, [], [1, 2]),
    ],
)
def test_labels_count_by_their_round(
    changes: dict[str, Any], number: int, refused: list[int], expected: list[int]
) -> None:
    assert labelling.rounds_that_count(Labels(**changes), number, refused) == expected


def item(name: str, number: int, texts: tuple[str, str] = ("aaaa", "b")) -> Item:
    return Item(id=name, prompt=f"Q {name}", completions=texts, source=labelling.source(number))


def test_labels_of_older_rounds_weigh_less(tmp_path: Path) -> None:
    with Store.open(tmp_path / "l.db", create=True) as store:
        for number in (1, 2, 3):
            store.add_items([item(f"q{number}", number)])
            answer = Answer(item=f"q{number}", annotator="a", judgement=Judgement(ranking=((1,), (0,))))
            store.add_answers([answer])
        events = store.head()[0]
    found = labelling.labelled(Labels(keep="decay", decay=0.5), tmp_path / "l.db", 3, [])
    assert [(row["id"], row["weight"], row["chosen"]) for row in found.rows] == [
        ("q1", 0.25, "b"), ("q2", 0.5, "b"), ("q3", 1.0, "b")
    ]  # fmt: skip
    assert (found.event, len(found.head)) == (events, 64)


def test_a_judges_probabilities_become_soft_labels(tmp_path: Path) -> None:
    items = [item("q1", 1, ("u=1.0 x", "u=0.0 y")), item("q2", 1, ("u=-0.5", "u=0.5"))]
    with serving(Mind(position=1.0)) as url:
        settings = Labels(kind="judge", judge={"by": {"kind": "endpoint", "url": url, "model": "m"}})
        labelling.ask(settings, items, 1, tmp_path / "l.db", tmp_path / "items.jsonl", seed=0)
    rows = labelling.labelled(settings, tmp_path / "l.db", 1, []).rows
    # both orders are asked, so the bias for a place cancels
    assert [(row["id"], row["chosen"]) for row in rows] == [("q1", "u=1.0 x"), ("q2", "u=0.5")]
    assert [row["probability"] for row in rows] == pytest.approx([1 / (1 + math.exp(-1.0))] * 2)
    assert labelling.chosen(settings, items, tmp_path / "l.db") == pytest.approx(
        {"q1": 1 / (1 + math.exp(-1.0)), "q2": 1 - 1 / (1 + math.exp(-1.0))}
    )


def test_a_judge_without_any_opinion_ends_the_loop(tmp_path: Path) -> None:
    mind = Mind(misbehave=lambda number, body: "I would rather not say")
    with serving(mind) as url:
        settings = Labels(kind="judge", judge={"by": {"kind": "endpoint", "url": url, "model": "m"}})
        with pytest.raises(DataError, match="the judge has an opinion of none of 1 comparisons: "):
            labelling.ask(settings, [item("q1", 1)], 1, tmp_path / "l.db", tmp_path / "items.jsonl", seed=0)


def test_truths_get_the_parameters_that_they_name(tmp_path: Path) -> None:
    (tmp_path / "worths.py").write_text(
        "def all_of(prompt, answer, gold, round): return len(prompt) + len(answer) + gold + round\n"
        "def answer_only(answer): return 2\ndef nan(answer): return float('nan')\ndef other(answer, whom): return 1\n"
    )
    assert labelling.truth(f"{tmp_path}/worths.py:all_of", 7)("ab", "c", 10) == 20
    assert labelling.truth(f"{tmp_path}/worths.py:answer_only", 7)("ab", "c", None) == 2
    with pytest.raises(DataError, match="is worth nan; it must be a number"):
        labelling.truth(f"{tmp_path}/worths.py:nan", 1)("ab", "c", None)
    with pytest.raises(PluginError, match="must be out of prompt, answer, gold, round, got whom"):
        labelling.truth(f"{tmp_path}/worths.py:other", 1)


def test_no_comparisons_are_no_answers_of_a_judge(tmp_path: Path) -> None:
    settings = Labels(kind="judge", judge={"by": {"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "m"}})
    assert labelling.judged(settings, [], tmp_path / "l.db", seed=0) == []


def test_a_judge_of_a_bad_name_is_told_before_it_is_asked(tmp_path: Path) -> None:
    mind = Mind()
    with serving(mind) as url:
        settings = Labels(kind="judge", judge={"by": {"kind": "endpoint", "url": url, "model": "m\x07"}})
        with pytest.raises(DataError, match=r"^labels\.judge: the annotator 'judge:m\\x07' holds a control character$"):
            labelling.judged(settings, [item("q1", 1)], tmp_path / "l.db", seed=0)
    assert mind.bodies == []


# --- the gate --------------------------------------------------------------------------------------------------------


def figures(delta: float, low: float, high: float) -> dict[str, Any]:
    return {"before": 1.0, "after": 1.0 + delta, "delta": delta, "ci95": [low, high]}


@pytest.mark.parametrize(
    ("settings", "own", "old", "refused"),
    [
        ({}, (0.1, -0.1, 0.3), {}, ""),
        (
            {},
            (-0.1, -0.3, 0.1),
            {},
            "worse on held-out tasks: 0.9 beside 1, difference -0.1 [-0.3, 0.1]; a loss of 0",
        ),
        ({"tolerance": 0.2}, (-0.1, -0.3, 0.1), {}, ""),
        ({"rule": "not_worse", "tolerance": 0.2}, (-0.1, -0.3, 0.1), {}, "not shown to be no worse"),
        ({"rule": "not_worse", "tolerance": 0.4}, (-0.1, -0.3, 0.1), {}, ""),
        ({"rule": "better"}, (0.1, -0.1, 0.3), {}, "not shown to be better"),
        ({"rule": "better"}, (0.2, 0.1, 0.3), {}, ""),
        ({}, (0.2, 0.1, 0.3), {1: (-0.5, -0.7, -0.3)}, "worse on the held-out tasks of round 1"),
        ({}, (0.2, 0.1, 0.3), {1: (-0.5, -0.7, 0.3)}, ""),
        ({"forget": 0.4}, (0.2, 0.1, 0.3), {1: (-0.5, -0.7, -0.3)}, ""),
        ({"forget": None}, (0.2, 0.1, 0.3), {1: (-0.5, -0.7, -0.3)}, ""),
    ],
)
def test_the_gate_decides_by_its_rule(settings: dict[str, Any], own: Any, old: dict[int, Any], refused: str) -> None:
    found = gate.decide(Gate(**settings), figures(*own), {n: figures(*of) for n, of in old.items()})
    assert found.startswith(refused)
    assert bool(found) == bool(refused)


@dataclass
class Said:
    """A stage of a job by hand: held-out tasks are the same in all rounds."""

    recipe: Any
    db: Path
    closed: list[manifest.Round]
    held_out: list[Task]
    folder: Path

    def drawn(self, tasks: list[Task], num: int, number: int, what: str) -> list[Task]:
        return tasks[:num]

    def seed(self, *key: int | str) -> int:
        return 0


def round_of(job: Said, number: int, current: str, new: str) -> manifest.Round:
    """With completions "CURRENT TASK" and "NEW TASK" of each held-out task."""
    rnd = manifest.Round.open(job.folder, number, job.closed[-1] if job.closed else None)
    for name, text in (("current", current), ("new", new)):
        rows = [{"id": task.id, "completions": [f"{text} {task.id}".strip()]} for task in job.held_out]
        manifest.write_rows(rnd.folder / f"{name}.jsonl", rows)
    return rnd


def said(tmp_path: Path, tiny_model: Path) -> Said:
    changes = {"gate": {"judge": "labels", "num": 3}, "labels": {"crowd": [{"name": "ann", "temperature": 1e-6}]}}
    recipe = load_recipe(write(tmp_path, tiny_model, changes), stage="loop")
    tasks = [Task(id=f"t{k}", prompt=f"Q{k}", gold="x", verifier="math", source="", info={}) for k in range(4)]
    return Said(recipe, tmp_path / "l.db", [], tasks, tmp_path / "rounds")


def test_a_task_that_rounds_share_is_asked_once_in_a_round(tmp_path: Path, tiny_model: Path) -> None:
    job: Any = said(tmp_path, tiny_model)
    first = round_of(job, 1, "a", "aaa")
    values = comparing._by_labels(job, first)  # pyright: ignore[reportPrivateUsage]
    assert values == {
        "1": {"before": dict.fromkeys(("t0", "t1", "t2"), 0.0), "after": dict.fromkeys(("t0", "t1", "t2"), 1.0)}
    }
    manifest.write(first.folder / "values.json", json.dumps(values))
    first.close("accepted", "", "p", "0" * 64)
    job.closed.append(first)
    second = round_of(job, 2, "aaa", "aa")
    values = comparing._by_labels(job, second)  # pyright: ignore[reportPrivateUsage]
    # gate.num is 3, so one of four tasks is left for those of the round before
    assert {n: pair["after"] for n, pair in values.items()} == {"2": {"t0": -1, "t1": -1, "t2": -1}, "1": {"t3": -1}}
    with Store.open(job.db, readonly=True) as store:
        assert len([item for item in store.items() if item.source == "round-002-gate"]) == 4


@pytest.mark.parametrize("aggregate", ["votes", "dawid_skene"])
def test_policies_that_write_the_same_leave_nothing_to_compare(
    tmp_path: Path, tiny_model: Path, aggregate: str
) -> None:
    job: Any = said(tmp_path, tiny_model)
    job.recipe = job.recipe.model_copy(update={"labels": job.recipe.labels.model_copy(update={"aggregate": aggregate})})
    only = round_of(job, 1, "same", "same")
    values = comparing._by_labels(job, only)  # pyright: ignore[reportPrivateUsage]
    assert values == {}
    manifest.write(only.folder / "values.json", json.dumps(values))
    made = comparing.gate(job, only)
    assert str(made.figures["refused"]).startswith("nothing to compare: ")
    assert "delta" not in made.figures


# --- manifests -------------------------------------------------------------------------------------------------------


def test_rounds_are_a_chain(tmp_path: Path) -> None:
    first = manifest.Round.open(tmp_path, 1, None)
    (tmp_path / "001").mkdir()
    (tmp_path / "001" / "a.txt").write_text("a")
    first.note("sample", manifest.Made(made_from={}, made=("a.txt",)))
    first.close("accepted", "", "p", "0" * 64)
    second = manifest.Round.open(tmp_path, 2, first)
    second.note("sample", manifest.Made(made_from={}, made=()))
    assert manifest.Round.open(tmp_path, 2, first).record == second.record
    first.check()
    (tmp_path / "001" / "a.txt").write_text("b")
    with pytest.raises(DataError, match=r"a\.txt was changed or removed after stage sample of round 1 made it"):
        first.check()
    first.close("refused", "", "p", "0" * 64)
    with pytest.raises(DataError, match=r"round\.json follows another round 1 than the one beside it"):
        manifest.Round.open(tmp_path, 2, first)
    (tmp_path / "002" / "round.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        manifest.read(tmp_path / "002")


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_a_resolved_recipe_is_a_recipe(tmp_path: Path, tiny_model: Path) -> None:
    recipe = load_recipe(write(tmp_path, tiny_model), ["sample.max_tokens=9"], stage="loop")
    assert isinstance(recipe, LoopRecipe)
    assert recipe.eval.max_tokens == 9  # as what is sampled
    assert recipe.eval.tasks is not None
    assert recipe.eval.tasks.verifier == recipe.data.verifier
    (tmp_path / "again.yaml").write_text(to_yaml(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"truth": None}}, "labels: truth goes with kind: simulated, which needs it; kind is simulated"),
        ({"labels": {"truth_from": {"1": "x:y"}}}, "labels: truth_from must be by rounds from 2 on, got '1'"),
        ({"labels": {"votes": 3}}, "labels: crowd must have at least as many people as votes (3), got 2"),
        ({"reward_model": {"members": 1}}, "pick.kind disagreement measures by how much reward models differ"),
        ({"gate": {"judge": "labels", "truth": "x:y"}}, "gate: truth goes with judge: truth, got labels"),
        ({"labels": {"kind": "judge", "truth": None}}, "labels: judge goes with kind: judge, which needs it"),
        ({"labels": {"kind": "people"}}, "truth goes with kind: simulated; kind is people: labels.truth=null takes it"),
        ({"labels": {"kind": "people", "truth": None}}, "gate.judge truth needs gate.truth, a function that says what"),
        (
            {"labels": {"kind": "judge", "truth": None, "judge": {"by": {"url": "http://a/v1"}}}},
            "labels.judge.by.model: is needed but not set",
        ),
        (
            {"labels": {"kind": "judge", "truth": None, "judge": {"by": {"kind": "openai"}}}},
            "labels.judge.by.kind: must be one of 'endpoint', 'hf', 'vllm', got openai",
        ),
        ({"eval": {"tasks": None}}, "eval.tasks is needed"),
    ],
)
def test_recipes_that_cannot_be_are_told_so(
    tmp_path: Path, tiny_model: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError) as error:
        load_recipe(write(tmp_path, tiny_model, changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_kind_of_a_judge_is_an_endpoint_and_null_takes_a_crowd_away(tmp_path: Path, tiny_model: Path) -> None:
    recipe = write(tmp_path, tiny_model)
    undone = ["labels.truth=null", "labels.crowd=null", "gate.judge=verifier"]
    by = ["labels.kind=judge", "labels.judge.by.url=http://127.0.0.1:1/v1", "labels.judge.by.model=m"]
    loaded = load_recipe(recipe, [*undone, *by], stage="loop")
    assert isinstance(loaded, LoopRecipe) and loaded.labels.judge is not None
    assert (loaded.labels.judge.by.kind, loaded.labels.judge.method.kind) == ("endpoint", "pairwise")
    assert loaded.labels.crowd == ({"name": "ann"},)
    assert load_recipe(recipe, [*undone, *by, "labels.kind=people", "labels.judge=null"], stage="loop")


def test_of_a_loop_the_rounds_have_the_rollouts(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("stage: loop\n")
    (tmp_path / "rounds/002/policy/rollouts").mkdir(parents=True)
    with pytest.raises(DataError) as error:
        list(of_run(tmp_path))
    assert str(error.value) == f"{tmp_path} has no rollouts; those that have: {tmp_path}/rounds/002/policy"


def test_the_accuracy_on_labels_and_the_expected_one_bear_their_names() -> None:
    measured = {"accuracy": 0.65, "expected_accuracy": 0.714, "ceiling_share": 0.873}
    stages = {"label": {"figures": {"new": 80, "labels": 60, "held_out": 20}}, "reward_model": {"figures": measured}}
    record: Any = {"round": 1, "state": "open", "reason": "", "stages": stages}
    assert report.line("reward_model", measured) == (
        "accuracy on held-out labels 0.650  expected of true preferences 0.714  of the ceiling 0.873"
    )
    head, line = report.render(report.table([record]))
    wanted = {"new": "80", "learnt from": "60", "held out": "20", "RM acc": "0.650", "expected": "0.714"}
    for name, value in wanted.items():
        end = head.index(name) + len(name)
        assert line[:end].split()[-1] == value
    found = report.metrics(record)
    assert (found["accuracy"], found["reward_model/expected_accuracy"]) == (0.65, 0.714)


def dry_run(recipe: Path, *overrides: str) -> int:
    with pytest.raises(SystemExit) as done:
        cli.main(["loop", str(recipe), "--dry-run", "--json", *overrides])
    return int(done.value.code or 0)


def test_a_dry_run_reads_all_recipes_and_counts_what_people_will_be_asked(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write(tmp_path, tiny_model, {"labels": {"votes": 2}})
    assert dry_run(recipe) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["rows"], found["held_out"], found["comparisons"], found["answers"]) == (24, 12, 24, 48)
    assert dry_run(recipe, "reward_model.settings.optim.speed=1") == 2
    assert "rlvr: reward_model: " in (said := capsys.readouterr().err)
    assert "optim.speed: no such setting" in said
    assert dry_run(recipe, "policy.part=helpful") == 2
    assert "has no reward model under rewards.helpful; there are: preference" in capsys.readouterr().err
    assert dry_run(recipe, f"labels.truth={tmp_path}/truth.py:of_whom") == 2
    assert "its parameters must be out of prompt, answer, gold, round, got whom" in capsys.readouterr().err
    assert dry_run(recipe, "labels.crowd=[{name: ann}, {name: ann}]") == 2
    assert "needs a name of their own; there are several of 'ann'" in capsys.readouterr().err
    assert dry_run(recipe, "labels.crowd=[{name: ann}, {reliable: 1}]") == 2
    assert "labels.crowd.1: no such setting 'reliable'; did you mean 'reliability'?" in capsys.readouterr().err


def test_the_recipes_of_the_project_are_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlvr.loop.circle import prepare

    monkeypatch.chdir(Path(__file__).parents[1])
    recipe = load_recipe("recipes/loop/loop.yaml", stage="loop")
    assert isinstance(recipe, LoopRecipe)
    tasks, held_out = prepare(recipe)
    assert (len(tasks), len(held_out)) == (2224, 512)
    for kind in ("people", "judge"):
        other = load_recipe(f"recipes/loop/{kind}.yaml", stage="loop")
        assert isinstance(other, LoopRecipe)
        assert (other.labels.kind, other.labels.truth, other.gate.judge) == (kind, None, "verifier")
        assert prepare(other)[0] == tasks
    for name, stage in (("reward", "reward_model"), ("policy", "rl")):
        assert load_recipe(f"recipes/loop/{name}.yaml").stage == stage
    assert yaml.safe_load(Path("recipes/loop/loop.yaml").read_text())["labels"]["kind"] == "simulated"
    worth = labelling.truth("recipes/loop/planted.py:reversed_reward", 2)
    assert worth("ann : what is 2 plus 2 ?", "it is 4", "4") == -2.0
