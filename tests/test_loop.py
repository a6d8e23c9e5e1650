"""The whole circle with a tiny model: what a round is made of, what the gate refuses, how people are waited for."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from loop_case import manifests, write
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from rlvr import ancestry, cli, lineage, trace
from rlvr.errors import DataError, NonFiniteError
from rlvr.feedback.records import Answer, Judgement
from rlvr.feedback.store import Store
from rlvr.loop import circle
from rlvr.loops import rl
from rlvr.runs import read_metrics

STAGES = ["sample", "pick", "label", "reward_model", "policy", "evaluate", "gate"]


def loop(recipe: Path, run: Path, *overrides: str) -> int:
    with pytest.raises(SystemExit) as done:
        cli.main(["loop", str(recipe), f"run.dir={run}", *overrides, "--json"])
    return int(done.value.code or 0)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sha256_of_folder(path: Path) -> str:
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "lineage.json"]
    names = sorted(file.relative_to(path).as_posix() for file in files)
    return hashlib.sha256("".join(f"{sha256(path / name)}  {name}\n" for name in names).encode()).hexdigest()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A run of two rounds with a simulated crowd."""
    folder = tmp_path_factory.mktemp("loop")
    assert loop(write(folder, tiny_model), folder / "run") == 0
    return folder / "run"


def test_a_round_says_what_was_made_from_what(finished: Path, tiny_model: Path) -> None:
    first, second = manifests(finished)
    assert list(first["stages"]) == list(second["stages"]) == STAGES
    assert (first["before"], second["before"]) == ("", sha256(finished / "rounds/001/round.json"))
    folder = finished / "rounds/001"
    stages = first["stages"]
    assert stages["sample"]["made_from"]["policy"] == sha256_of_folder(tiny_model)
    assert stages["sample"]["made"] == {"samples.jsonl": sha256(folder / "samples.jsonl")}
    assert stages["pick"]["made_from"] == {"samples": sha256(folder / "samples.jsonl")}
    assert stages["label"]["made_from"] == {
        "items": sha256(folder / "items.jsonl"), "database/event": str(12 + 12)
    }  # fmt: skip
    assert stages["reward_model"]["made_from"]["labels"] == sha256(folder / "labels.jsonl")
    models = {f"reward_model/{k}": sha256_of_folder(folder / f"reward/{k}/model") for k in range(2)}
    assert stages["reward_model"]["made"] == {f"reward/{k}/model": models[f"reward_model/{k}"] for k in range(2)}
    assert models.items() <= stages["policy"]["made_from"].items()
    assert stages["policy"]["made"] == {"policy/model": sha256_of_folder(folder / "policy/model")}
    # the second round begins with what the first one made, and picks by its ensemble
    assert first["policy_sha256"] == stages["policy"]["made"]["policy/model"]
    assert second["stages"]["sample"]["made_from"]["policy"] == first["policy_sha256"]
    assert models.items() <= second["stages"]["pick"]["made_from"].items()
    assert second["stages"]["pick"]["figures"]["kind"] == "disagreement"


def test_the_second_round_learns_from_the_labels_of_both(finished: Path) -> None:
    for number, count in ((1, 8), (2, 16)):
        folder = finished / f"rounds/{number:03d}"
        labels, held_out = rows(folder / "labels.jsonl"), rows(folder / "held_out_labels.jsonl")
        assert len(labels) == count
        assert len(held_out) == count // 2
        assert {row["round"] for row in labels} == set(range(1, number + 1))
        assert not {row["prompt"] for row in labels} & {row["prompt"] for row in held_out}
        drawn = rows(folder / "reward/0.jsonl")
        assert len(drawn) == count
        assert {row["id"].partition("#")[0] for row in drawn} <= {row["id"] for row in labels}
        assert drawn != rows(folder / "reward/1.jsonl")
    with Store.open(finished / "labels.db", readonly=True) as store:
        assert [item.source for item in store.items()] == ["round-001"] * 12 + ["round-002"] * 12
        assert store.check_chain() == []


def test_the_finished_run_holds_the_policy_and_a_table(
    finished: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sha256_of_folder(finished / "model") == manifests(finished)[-1]["policy_sha256"]
    assert sha256_of_folder(finished / "model") != sha256_of_folder(tiny_model)
    summary = json.loads((finished / "summary.json").read_text())
    assert (summary["accepted"], summary["refused"], summary["labels"]) == ([1, 2], {}, 24)
    assert loop(finished.parent / "loop.yaml", finished) == 0
    assert "is finished; nothing to do" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["status", str(finished)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("finished  round 2/2")
    assert lines[2].split()[:7] == ["round", "state", "new", "learnt", "from", "held", "out"]
    counts = [line.split()[:5] for line in lines[3:5]]
    assert counts == [["1", "accepted", "12", "8", "4"], ["2", "accepted", "12", "16", "8"]]


def test_old_held_out_tasks_are_evaluated_too(finished: Path) -> None:
    first, second = ([row["id"] for row in rows(finished / f"rounds/00{n}/held_out.jsonl")] for n in (1, 2))
    assert len(first) == len(second) == 6
    assert not set(first) & set(second)  # there are twelve
    assert {row["id"] for row in rows(finished / "rounds/002/new.jsonl")} == {*first, *second}
    values = [json.loads((finished / f"rounds/00{n}/values.json").read_text()) for n in (1, 2)]
    old = manifests(finished)[1]["stages"]["gate"]["figures"]["old"]["1"]
    assert values[1]["1"]["before"] == values[0]["1"]["after"]
    before, after = values[0]["1"]["after"], values[1]["1"]["after"]
    assert old["before"] == pytest.approx(sum(before.values()) / 6)
    assert old["delta"] == pytest.approx(sum(after[k] - before[k] for k in before) / 6)


@pytest.mark.slow
def test_a_worse_policy_is_refused_and_the_next_round_begins_with_the_last_accepted(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # a tolerance below any difference refuses whatever comes
    recipe = write(
        tmp_path, tiny_model, {"gate": {"rule": "better", "tolerance": 50.0}, "labels": {"of_refused": "drop"}}
    )
    assert loop(recipe, tmp_path / "run") == 0
    first, second = manifests(tmp_path / "run")
    assert (first["state"], second["state"]) == ("refused", "refused")
    assert first["reason"].startswith("not shown to be better on held-out tasks: ")
    assert first["policy"] == str(tiny_model)
    assert second["stages"]["sample"]["made_from"]["policy"] == sha256_of_folder(tiny_model)
    assert {row["round"] for row in rows(tmp_path / "run/rounds/002/labels.jsonl")} == {2}
    said = capsys.readouterr().out
    assert "warning: round 1 is refused, and the policy stays as it was: not shown to be better" in said
    assert json.loads(said.splitlines()[-1])["accepted"] == []
    assert sha256_of_folder(tmp_path / "run/model") == sha256_of_folder(tiny_model)


@pytest.mark.slow
def test_a_policy_that_cannot_be_trained_is_a_refused_round(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: Any) -> Any:
        raise NonFiniteError("step 1: the gradient is infinite")

    monkeypatch.setattr(rl, "train", diverge)
    assert loop(write(tmp_path, tiny_model, {"rounds": 1}), tmp_path / "run") == 0
    (only,) = manifests(tmp_path / "run")
    assert only["state"] == "refused"
    assert only["reason"] == "the policy could not be trained: step 1: the gradient is infinite"


@pytest.mark.slow
def test_a_frozen_reward_model_asks_for_no_more_labels(tmp_path: Path, tiny_model: Path) -> None:
    recipe = write(tmp_path, tiny_model, {"reward_model": {"refit": False}})
    assert loop(recipe, tmp_path / "run") == 0
    first, second = manifests(tmp_path / "run")
    assert list(second["stages"]) == ["policy", "evaluate", "gate"]
    models = [stages["policy"]["made_from"]["reward_model/1"] for stages in (first["stages"], second["stages"])]
    assert models[0] == models[1]


def test_people_are_waited_for(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write(tmp_path, tiny_model, {"labels": {"kind": "people"}, "gate": {"judge": "verifier"}, "rounds": 1})
    people = ["labels.truth=null", "labels.votes=2"]
    run = tmp_path / "run"
    assert loop(recipe, run, *people) == 75
    file, db = run / "rounds/001/items.jsonl", run / "labels.db"
    wanted = (
        f"rlvr: round 1, label: 0 of 12 comparisons have 2 answers each; label them with "
        f"`rlvr label {file} --db {db} --per-item 2`, then give the same command again\n"
    )
    assert capsys.readouterr().err == wanted
    with pytest.raises(SystemExit):
        cli.main(["status", str(run)])
    _, state, *table = capsys.readouterr().out.splitlines()
    assert state == "waiting for people  round 0/1"
    wanted = f"0 of 12 comparisons have 2 answers each; label them with `rlvr label {file} --db {db} --per-item 2`"
    assert table[-1] == wanted
    with Store.open(db) as store:
        items = list(store.items())
        better = Judgement(ranking=((0,), (1,)))
        store.add_answers(Answer(item=item.id, annotator="alice", judgement=better) for item in items)
        store.add_answers(Answer(item=item.id, annotator="bob", judgement=better) for item in items[:11])
    assert loop(recipe, run, *people) == 75
    assert "11 of 12 comparisons have 2 answers each" in capsys.readouterr().err
    with Store.open(db) as store:
        store.add_answers([Answer(item=items[11].id, annotator="bob", judgement=Judgement(skipped="unclear"))])
    assert loop(recipe, run, *people) == 0
    labels = [*rows(run / "rounds/001/labels.jsonl"), *rows(run / "rounds/001/held_out_labels.jsonl")]
    assert {row["id"]: row["chosen"] for row in labels} == {item.id: item.completions[0] for item in items}
    assert "true_probability" not in labels[0]


@pytest.mark.slow
def test_labels_of_two_who_disagree_are_soft(tmp_path: Path, tiny_model: Path) -> None:
    adversary = {"name": "eve", "reliability": 0.0}
    crowd = {"votes": 2, "crowd": [{"name": "ann", "reliability": 1.0}, adversary]}
    recipe = write(tmp_path, tiny_model, {"labels": crowd, "rounds": 1})
    assert loop(recipe, tmp_path / "run") == 0
    labels = rows(tmp_path / "run/rounds/001/labels.jsonl")
    told = [row for row in labels if row["true_probability"] != 0.5]
    assert len(told) > 3
    assert {row["probability"] for row in told} == {0.5}


@pytest.mark.slow
def test_preferences_that_drift_are_learnt_from_the_last_rounds(tmp_path: Path, tiny_model: Path) -> None:
    drifts = {"truth_from": {"2": f"{tmp_path}/truth.py:reverse"}, "keep": "last", "window": 1}
    recipe = write(tmp_path, tiny_model, {"labels": {**drifts, "crowd": [{"name": "ann", "temperature": 1e-6}]}})
    assert loop(recipe, tmp_path / "run") == 0
    for number, sign in ((1, 1), (2, -1)):
        labels = rows(tmp_path / f"run/rounds/00{number}/labels.jsonl")
        assert {row["round"] for row in labels} == {number}
        letters = [
            sum(c.isascii() and c.isalpha() for c in row[side]) for row in labels for side in ("chosen", "rejected")
        ]
        assert all(sign * (a - b) >= 0 for a, b in zip(letters[::2], letters[1::2], strict=True))
        assert letters[::2] != letters[1::2]
    # the old tasks are judged as people thought then, the new ones as they think now
    value = json.loads((tmp_path / "run/rounds/002/values.json").read_text())
    assert min(value["1"]["after"].values()) >= 0 >= max(value["2"]["after"].values())


@pytest.mark.slow
def test_the_gate_can_ask_a_reward_model_that_saw_held_out_comparisons_alone(tmp_path: Path, tiny_model: Path) -> None:
    recipe = write(tmp_path, tiny_model, {"gate": {"judge": "reward_model"}})
    assert loop(recipe, tmp_path / "run") == 0
    for number, record in enumerate(manifests(tmp_path / "run"), start=1):
        folder = tmp_path / f"run/rounds/00{number}"
        held_out = {row["prompt"] for row in rows(folder / "held_out_labels.jsonl")}
        assert {row["prompt"] for row in rows(folder / "judge.jsonl")} == held_out
        assert not held_out & {row["prompt"] for row in rows(folder / "labels.jsonl")}
        assert record["stages"]["reward_model"]["made"]["judge/model"] == sha256_of_folder(folder / "judge/model")
        figures = record["stages"]["gate"]["figures"]
        assert figures["n_tasks"] == 6
        assert figures["delta"] != 0


@pytest.mark.slow
def test_the_gate_can_ask_those_who_label(tmp_path: Path, tiny_model: Path) -> None:
    sure = {"crowd": [{"name": "ann", "temperature": 1e-6}]}
    recipe = write(tmp_path, tiny_model, {"gate": {"judge": "labels", "num": 4, "tolerance": 2.0}, "labels": sure})
    assert loop(recipe, tmp_path / "run") == 0
    folder = tmp_path / "run/rounds/002"
    asked = rows(folder / "compared.jsonl")
    assert {row["set"] for row in asked} == {1, 2}
    values = json.loads((folder / "values.json").read_text())

    def letters(text: str) -> int:
        return sum(c.isascii() and c.isalpha() for c in text)

    for row in asked:
        new, old = row["completions"][row["new"]], row["completions"][1 - row["new"]]
        told = values[str(row["set"])]["after"][row["task"]]
        if letters(new) != letters(old):
            assert told == (1 if letters(new) > letters(old) else -1)
    # what the gate asked is nothing to train on
    assert {row["round"] for row in rows(folder / "labels.jsonl")} == {1, 2}
    assert len(rows(folder / "labels.jsonl")) == 16


def test_labels_and_what_is_drawn_from_them_say_what_they_were_made_from(finished: Path) -> None:
    folder = finished / "rounds/002"
    database = json.loads((folder / "database.json").read_text())
    wanted = [{"setting": "DB", "kind": "database", **database}]
    for name in ("labels.jsonl", "held_out_labels.jsonl"):
        origin = lineage.origin_of(folder / name)
        assert origin is not None and lineage.is_sound(origin)
        assert (origin["made_by"], origin["inputs"], origin["sha256"]) == ("rlvr loop", wanted, sha256(folder / name))
    drawn = lineage.origin_of(folder / "reward/1.jsonl")
    assert drawn is not None and drawn["inputs"][1:] == wanted
    assert drawn["inputs"][0]["files"][0]["sha256"] == sha256(folder / "labels.jsonl")
    # so a reward model leads back to the database
    made_from = ancestry.of_run(folder / "reward/1", ancestry.Search())["from"]
    (data,) = [node for node in made_from if node.get("path") == str(folder / "reward/1.jsonl")]
    assert [one["path"] for one in data["databases"]] == [database["path"]]
    assert data["databases"][0]["problems"] == []


def test_the_label_page_takes_the_items_for_those_that_are_in_the_database(finished: Path) -> None:
    from rlvr.feedback.items import load_items
    from rlvr.reward_settings import PreferenceData

    for number in (1, 2):
        loaded = load_items(PreferenceData(path=str(finished / f"rounds/00{number}/items.jsonl"))).rows
        with Store.open(finished / "labels.db", readonly=True) as store:
            assert loaded == [store.item(item.id) for item in loaded]
        assert len(loaded) == 12
        assert all(item.gold is None and item.info["task_gold"] == "x" for item in loaded)


def test_the_run_and_its_comparisons_are_walked_back_to_who_said_what(finished: Path) -> None:
    made_from = ancestry.of_model(finished / "model", ancestry.Search())["from"][0]["from"]
    rounds = [node for node in made_from if node["what"].startswith("round ")]
    assert [node["what"] for node in rounds] == ["round 1 (accepted)", "round 2 (accepted)"]
    for number, node in enumerate(rounds, start=1):
        (run,) = node["from"]
        assert run["path"] == str(finished / f"rounds/00{number}/policy")
        scorers = [one for one in run["from"] if one["what"].startswith("rewards.preference.paths")]
        assert [one["path"] for one in scorers] == [
            str(finished / f"rounds/00{number}/reward/{k}/model") for k in (0, 1)
        ]
        (tasks,) = [one for one in run["from"] if one["what"] == "data.path"]
        assert [one["path"] for one in tasks["from"]] == [str(finished.parent / "tasks.jsonl")]
    label = rows(finished / "rounds/001/labels.jsonl")[0]
    with Store.open(finished / "labels.db", readonly=True) as store:
        (answer,) = [one for one in store.answers() if one.item == label["id"]]
        hashed = store.annotator_hash(answer.annotator)
    for target in (finished, finished / "rounds/001/labels.jsonl"):
        told = trace.trace(target, label["id"], ancestry.Search())
        assert [event["annotator"] for event in told["events"]] == [hashed]
    whole = trace.trace(finished, label["id"], ancestry.Search())
    lines = [line.strip() for line in trace.render(whole).splitlines()]
    for once in ("model.safetensors sha256 ", "labels in ", "reward_model run "):
        these = [line for line in lines if line.startswith(once)]
        assert these and len(these) == len(set(these))
    with pytest.raises(DataError, match=f"rows of it: {label['id']}"):
        trace.trace(finished, label["id"].rpartition("/")[0], ancestry.Search())
    items = trace.trace(finished / "rounds/002/items.jsonl", "1", ancestry.Search())
    drawn_from, *picked_by = items["ancestry"]["from"]
    assert drawn_from["path"] == str(finished / "rounds/002/samples.jsonl")
    assert [one["path"] for one in picked_by] == [str(finished / f"rounds/001/reward/{k}/model") for k in (0, 1)]


def test_an_edited_policy_of_a_round_is_told_and_each_round_is_walked_once(finished: Path, tmp_path: Path) -> None:
    def nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
        return [node, *(one for below in node["from"] for one in nodes(below))]

    told = nodes(ancestry.of_run(finished, ancestry.Search()))
    runs = [node["path"] for node in told if node["kind"] == "run"]
    assert len(runs) == len(set(runs))
    copied = shutil.copytree(finished, tmp_path / "run")
    config = copied / "rounds/001/policy/model/config.json"
    config.write_text(config.read_text().replace("{", "{ ", 1))
    states = {n["what"]: n["state"] for n in ancestry.of_run(copied, ancestry.Search())["from"] if "round" in n["what"]}
    assert states["round 1 (accepted)"] == "changed since round.json was written"
    assert states["round 2 (accepted)"] != "changed since round.json was written"


def test_models_that_are_not_there_are_told_before_a_run_begins(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write(tmp_path, tiny_model)
    (tmp_path / "sft.yaml").write_text("stage: sft\nsteps: 1\nmodel: {path: x}\ndata: {path: y}\n")
    given = [f"model.path={tmp_path}/made/model", f"model.made_by={tmp_path}/sft.yaml"]
    assert loop(recipe, tmp_path / "run", *given) == 3
    wanted = f"does not exist yet; make it with: rlvr sft {tmp_path}/sft.yaml run.dir={tmp_path}/made\n"
    assert capsys.readouterr().err == f"rlvr: model.path {tmp_path}/made/model {wanted}"
    # so that the same command goes on once it was made
    (tmp_path / "made").mkdir()
    shutil.copytree(tiny_model, tmp_path / "made/model")
    assert loop(recipe, tmp_path / "run", *given, "rounds=1", "labels.kind=people", "labels.truth=null") != 3


def _only_ends(model: Path) -> None:
    """Make of it one that ends at once, whatever it reads: nobody likes that."""
    weights = {name: torch.zeros_like(weight) for name, weight in load_file(model / "model.safetensors").items()}
    for name, weight in weights.items():
        if name.endswith("norm.weight"):
            weight.fill_(1.0)
    weights["model.embed_tokens.weight"][:, 0] = 1.0
    weights["model.embed_tokens.weight"][AutoTokenizer.from_pretrained(model).eos_token_id, 0] = 10.0
    save_file(weights, model / "model.safetensors", {"format": "pt"})


@pytest.mark.slow
def test_two_planted_worse_rounds_are_refused_and_leave_the_policy_bit_for_bit(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = circle.STAGES["policy"]

    def worse_from_the_second_on(job: Any, rnd: Any) -> Any:
        made = train(job, rnd)
        if rnd.number > 1:
            _only_ends(rnd.folder / "policy/model")
        return made

    monkeypatch.setitem(circle.STAGES, "policy", worse_from_the_second_on)
    recipe = write(tmp_path, tiny_model, {"rounds": 3, "gate": {"tolerance": 0.1}, "eval": {"samples": 8}})
    run = tmp_path / "run"
    assert loop(recipe, run) == 0
    first, *others = manifests(run)
    assert [record["state"] for record in (first, *others)] == ["accepted", "refused", "refused"]
    kept = first["policy_sha256"]
    for number, record in enumerate(others, start=2):
        assert record["reason"].startswith("worse on held-out tasks: 0 beside ")
        assert (record["policy"], record["policy_sha256"]) == ("rounds/001/policy/model", kept)
        assert record["stages"]["sample"]["made_from"]["policy"] == kept
        assert record["stages"]["policy"]["made_from"]["policy"] == kept
        assert record["stages"]["policy"]["made"]["policy/model"] != kept
        assert {text for row in rows(run / f"rounds/00{number}/new.jsonl") for text in row["completions"]} == {""}
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (run / "model" / name).read_bytes() == (run / "rounds/001/policy/model" / name).read_bytes()


@pytest.fixture
def begun(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """The finished run as it was after its first round, where it was."""
    kept = tmp_path / "kept"
    shutil.copytree(finished, kept, symlinks=True)
    shutil.rmtree(finished / "rounds/002")
    shutil.rmtree(finished / "model")
    (finished / "summary.json").unlink()
    yield finished
    shutil.rmtree(finished)
    shutil.copytree(kept, finished, symlinks=True)


def _edit(record: dict[str, Any], path: str, value: Any) -> str:
    *parents, last = path.split("/")
    place: Any = record
    for parent in parents:
        place = place[parent]
    place[last] = value
    return json.dumps(record)


def test_an_edited_round_is_told_in_one_line(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = begun / "rounds/001/round.json"
    whole = path.read_text()
    text: Any = lambda name, value: _edit(json.loads(whole), name, value)  # noqa: E731
    redo = f"; remove {path.parent} to do the round again"
    for written, told in (
        ("[]", f"{path} is damaged: it must hold a JSON object{redo}"),
        ("[" * 100_000, f"{path} is damaged (RecursionError: "),
        ('{"round": ' + "9" * 5000 + "}", f"{path} is damaged (ValueError: Exceeds the limit"),
        ("{}", f"{path} is damaged: round must be a number{redo}"),
        (text("round", 2), f"{path} is of round 2; bring back that of round 1"),
        (text("state", "fine"), f"{path} is damaged: state must be one of open, accepted, refused{redo}"),
        (text("stages/label", 5), f"{path} is damaged: stages.label must say made_from, made and figures{redo}"),
        (text("stages/gate/figures", {}), f"{path} is damaged: it is accepted, and no gate is in it{redo}"),
        (
            text("stages/gate/figures/delta", "x"),
            "rounds/001/round.json is damaged: not all of its figures are numbers",
        ),
        (text("stages/gate/figures/delta", 10**400), "rounds/001/round.json is damaged: not all of its figures are"),
        (
            text("policy_sha256", "0"),
            f"{begun}/rounds/001/policy/model was changed or removed after round 1 ended with",
        ),
    ):
        path.write_text(written)
        assert loop(begun.parent / "loop.yaml", begun) == 3
        err = capsys.readouterr().err
        assert err.startswith(f"rlvr: {told}") and err.count("\n") == 1
    path.write_text(whole)
    values = begun / "rounds/001/values.json"
    values.write_text("[1]")
    assert loop(begun.parent / "loop.yaml", begun) == 3
    assert f"{values} was changed or removed after stage evaluate of round 1 made it" in capsys.readouterr().err


@pytest.mark.slow
def test_a_round_before_others_or_a_database_that_is_gone_is_told(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("labels.db", "labels.db-wal", "labels.db-shm"):
        (begun / name).unlink(missing_ok=True)
    assert loop(begun.parent / "loop.yaml", begun) == 3
    told = f"rlvr: round 2, label: {begun}/labels.db is gone or another database than at the end of round 1, whose"
    assert capsys.readouterr().err.startswith(f"{told} event 24 it does not have; bring it back")
    (begun / "rounds/001/round.json").unlink()
    assert loop(begun.parent / "loop.yaml", begun) == 3
    told = f"rlvr: {begun}/rounds/001/round.json is gone, and {begun}/rounds/002 was made after it; bring it back, or"
    assert capsys.readouterr().err == f"{told} remove {begun}/rounds/002 too to go on from there\n"


@pytest.mark.slow
@pytest.mark.vllm
def test_a_round_may_be_sampled_by_vllm(tmp_path: Path, tiny_model: Path) -> None:
    pytest.importorskip("vllm")
    recipe = write(tmp_path, tiny_model, {"rounds": 1, "engine": {"kind": "vllm"}})
    assert loop(recipe, tmp_path / "run") == 0
    (only,) = manifests(tmp_path / "run")
    assert (only["state"], list(only["stages"])) == ("accepted", STAGES)
    folder = tmp_path / "run/rounds/001"
    assert [len(row["completions"]) for row in rows(folder / "samples.jsonl")] == [3] * 24
    assert [len(row["completions"]) for row in rows(folder / "new.jsonl")] == [2] * 6
    assert (folder / "policy.log").is_file()  # a process of its own for each stage
    differences = [
        row["sampling/sampling_logp_difference/mean"] for row in read_metrics(folder / "policy") if row["step"]
    ]
    assert len(differences) == 2 and max(differences) < 1e-4
