"""Records of what runs, models and files were made from: what they hold, that they repeat, the labels behind rows."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from test_audiences import jsonl
from test_rl import PLUGIN, held_out, make_recipe, train
from typer.testing import CliRunner

from rlvr import ancestry, chain, cli, disk, lineage, runs, trace
from rlvr.ancestry import Search
from rlvr.errors import DataError, SettingsError
from rlvr.feedback.records import Answer, Item, Judgement
from rlvr.feedback.store import Store
from rlvr.loops import reward_model
from rlvr.loops.sample import sample
from rlvr.loops.stopping import StopRequest
from rlvr.progress import Progress
from rlvr.settings import from_overrides

# --- records ---------------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_is_made_from_and_so_does_its_model(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(PLUGIN)
    records = []
    for name in ("a", "b"):
        train(make_recipe(tmp_path / name, tiny_model, str(tmp_path / "toy.py"), "share", "steps=1"))
        records.append(lineage.read(tmp_path / name / "model"))
    assert records[0] == records[1]  # nothing of clock or folder: the models are the same to the bit
    record: Any = lineage.read(tmp_path / "a")
    assert lineage.is_sound(record)
    by_setting = {one["setting"]: one for one in record["inputs"]}
    assert by_setting["data.path"]["files"][0]["sha256"] == disk.sha256(tmp_path / "toy.py")
    assert by_setting["data.path"]["args"] == {"n": 40}
    assert by_setting["model.path"]["fingerprint"] == lineage.fingerprint_model(str(tiny_model))
    weights = tmp_path / "a" / "model" / "model.safetensors"
    assert record["outputs"]["model"]["files"]["model.safetensors"] == {
        "bytes": weights.stat().st_size,
        "sha256": disk.sha256(weights),
    }
    lines, _ = chain.read(tmp_path / "a")
    assert record["chain"] == {"lines": len(lines), "hash": lines[-1]["hash"]}


def test_the_checksum_of_a_recipe_leaves_out_what_changes_no_number() -> None:
    recipe = {"run": {"dir": "a"}, "optim": {"lr": 1.0, "micro_tokens": 8}, "alarms": {"x": 1}, "seed": 0}
    same = {"run": {"dir": "b"}, "optim": {"lr": 1.0, "micro_tokens": 9}, "alarms": {}, "seed": 0}
    harmless = ("alarms", "optim.micro_tokens", "engine.url")
    digest = lineage.digest_of_recipe(recipe, harmless)
    assert digest == lineage.digest_of_recipe(same, harmless)
    assert digest != lineage.digest_of_recipe({**same, "seed": 1}, harmless)
    assert recipe["optim"] == {"lr": 1.0, "micro_tokens": 8}


def test_a_record_that_was_edited_is_not_sound_and_a_torn_one_is_told(tmp_path: Path) -> None:
    lineage.write(tmp_path / lineage.NAME, {"inputs": [], "git": "x"})
    record: Any = lineage.read(tmp_path)
    assert lineage.is_sound(record)
    assert not lineage.is_sound({**record, "git": "y"})
    (tmp_path / lineage.NAME).write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        lineage.read(tmp_path)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_a_changed_row_is_found_in_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(values: list[str]) -> Path:
        rows, path = [{"id": f"r{k}", "text": value} for k, value in enumerate(values)], tmp_path / f"f.{suffix}"
        if suffix == "jsonl":
            return jsonl(path, rows)
        if suffix == "json":
            path.write_text(json.dumps(rows))
        elif suffix == "csv":
            with open(path, "w", newline="") as file:
                writer = csv.DictWriter(file, ["id", "text"])
                writer.writeheader()
                writer.writerows(rows)
        else:
            pq.write_table(pa.Table.from_pylist(rows), path)
        return path

    due = list(lineage.row_digests(write(["a", "b", "c", "d"])))
    assert lineage.changed_rows(write(["a", "b", "c", "d"]), due) == ([], 0)
    assert lineage.changed_rows(write(["a", "x", "c", "d", "e"]), due) == ([2], 1)
    assert lineage.changed_rows(write(["a", "b", "c"]), due) == ([], -1)


def test_a_start_that_fails_leaves_no_record(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(PLUGIN)
    run = tmp_path / "run"
    recipe = make_recipe(run, tiny_model, str(tmp_path / "toy.py"), "share", "model.lora={targets: [nothing]}")
    with pytest.raises(SettingsError, match="no module nothing"):  # found after the inputs were noted down
        train(recipe)
    assert not run.exists()


@pytest.mark.alone
def test_the_chain_costs_less_than_a_hundredth_of_a_short_step(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(PLUGIN)
    train(make_recipe(tmp_path / "run", tiny_model, str(tmp_path / "toy.py"), "share", "steps=3"))
    step = min(row["step_time"] for row in runs.read_metrics(tmp_path / "run"))
    row = runs.read_metrics(tmp_path / "run")[-1]
    links = chain.Chain(tmp_path / "run")
    file = tmp_path / "run" / "rollouts" / "000003.parquet"
    links.add_row(row)
    started = time.perf_counter()
    for _ in range(50):
        links.add_row(row)
        links.add_file(file, 3)
    # a step here is a sixteenth of a second; real ones take seconds
    assert (time.perf_counter() - started) / 50 < 0.01 * step


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[Path, Path]:
    """(database of three comparisons by two people, the file that was exported from it)"""
    database, file = tmp_path / "labels.db", tmp_path / "pairs.jsonl"
    items = [Item(id=f"item{k}", prompt=f"q {k}:", completions=(f"yes {k}", f"no {k}")) for k in range(3)]
    for_first, for_second = Judgement(ranking=((0,), (1,))), Judgement(ranking=((1,), (0,)))
    with Store.open(database, create=True) as store:
        store.add_items(items)
        store.add_answers(
            Answer(
                item=item.id, annotator=name, judgement=for_second if name == "bob" and k == 0 else for_first, at="t"
            )
            for k, item in enumerate(items)
            for name in ("alice", "bob")
        )
    done = CliRunner().invoke(cli.app, ["feedback", "export", str(database), "--to", str(file)])
    assert done.exit_code == 0, done.output
    return database, file


def reward_run(folder: Path, model: Path, file: Path) -> Path:
    settings = [f"run.dir={folder}", f"model.path={model}", f"data.path={file}", "steps=1", "batch_size=2"]
    recipe: Any = from_overrides("reward_model", settings)
    with runs.Run.open(recipe, "toy.yaml") as run, Progress("toy", 1) as progress:
        reward_model.train(recipe, run, progress, StopRequest())
    return folder


def test_a_row_is_walked_back_to_the_events_of_who_voted(
    labelled: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    database, file = labelled
    run = reward_run(tmp_path / "rm", tiny_model, file)
    told = trace.trace(run, "item0", Search())
    with Store.open(database, readonly=True) as store:
        hashed = {name: store.annotator_hash(name) for name in ("alice", "bob")}
        events = {event.sequence: event.hash for event in store.events()}
    assert sorted(told["annotators"]) == sorted(hashed.values())
    choices = {event["annotator"]: event["judgement"]["ranking"] for event in told["events"]}
    assert choices == {hashed["alice"]: [[0], [1]], hashed["bob"]: [[1], [0]]}
    assert all(events[event["event"]] == event["hash"] for event in told["events"])
    text = trace.render(told)
    assert "alice" not in text and hashed["alice"] in text
    data = next(one for one in told["ancestry"]["from"] if one["what"] == "data.path")
    assert data["votes"] == {"rows": 3, "votes": 6, "annotators": 2}
    assert data["databases"] == [{"path": str(database), "events": 9, "problems": []}]
    assert ancestry.check(run, Search())["problems"] == []


def test_a_changed_vote_is_named(labelled: tuple[Path, Path], tiny_model: Path, tmp_path: Path) -> None:
    database, file = labelled
    run = reward_run(tmp_path / "rm", tiny_model, file)
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TRIGGER events_are_kept_update")
        connection.execute("UPDATE events SET body = replace(body, '[[1],[0]]', '[[0],[1]]') WHERE annotator = 'bob'")
    connection.close()
    found = ancestry.check(run, Search())["problems"]
    assert any("labels.db: event" in line and "item0" in line and "was changed" in line for line in found)


def test_a_database_made_anew_since_the_export_is_named(
    labelled: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    database, file = labelled
    run = reward_run(tmp_path / "rm", tiny_model, file)
    for path in tmp_path.glob("labels.db*"):
        path.unlink()
    with Store.open(database, create=True) as store:
        store.add_items([Item(id="item0", prompt="q 0:", completions=("yes 0", "no 0"))])
    [line] = ancestry.check(run, Search())["problems"]
    assert line == f"{database}: event 9 is not the one that the data were exported at"


# --- other rows ------------------------------------------------------------------------------------------------------


def test_a_sampled_row_and_an_evaluated_one_are_walked_back(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(PLUGIN)
    plugin = str(tmp_path / "toy.py")
    train(make_recipe(tmp_path / "run", tiny_model, plugin, "share", "steps=1", *held_out(plugin, 3)))
    tasks, out = jsonl(tmp_path / "tasks.jsonl", [{"id": "t1", "prompt": "q:"}]), tmp_path / "out.jsonl"
    given = ["engine.kind=hf", "eval.samples=2", "eval.max_tokens=4", "eval.tasks.verifier=boxed"]
    recipe: Any = from_overrides(
        "eval", [f"model.path={tmp_path / 'run' / 'model'}", f"eval.tasks.path={tasks}", *given]
    )
    with Progress("sample", 1) as progress:
        sample(recipe, out, progress)
    told = trace.trace(out, "t1", Search())
    assert (told["made_by"], told["number"]) == ("rlvr sample", 1)
    model, data = told["ancestry"]["from"]
    assert [one["path"] for one in (model, model["from"][0], data)] == [
        str(tmp_path / "run" / "model"), str(tmp_path / "run"), str(tasks),
    ]  # fmt: skip
    assert trace.render(told).startswith(f"{out} row 1, made by rlvr sample")
    out.write_text(out.read_text().replace("q:", "Q:"))
    assert trace.trace(out, "t1", Search())["ancestry"]["state"] == "changed since it was written"

    told = trace.trace(tmp_path / "run" / "evals" / "step_000001.jsonl", "held0/0", Search())
    assert told["row"]["task"] == "held0"
    # the evaluation after the last step is of the model that was saved
    sha = disk.sha256(tmp_path / "run" / "model" / "model.safetensors")
    assert told["policy"] == [{"version": 1, "kept": str(tmp_path / "run" / "model"), "sha256": sha}]
    with pytest.raises(DataError, match=r"none of its 6 rows is 'held9/0'; did you mean 'held\d/0'\?"):
        trace.trace(tmp_path / "run" / "evals" / "step_000001.jsonl", "held9/0", Search())


def test_a_row_of_an_evaluation_on_its_own_is_of_the_model_at_its_path(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(json.dumps({"model": str(tiny_model), "n_tasks": 1}))
    jsonl(tmp_path / "e.jsonl", [{"task": "t", "sample": 0, "greedy": False, "prompt": "q", "response": "r"}])
    told = trace.trace(tmp_path / "e.jsonl", "t/0", Search())
    assert (told["made_by"], told["row"]["response"]) == ("rlvr eval", "r")
    assert [one["path"] for one in told["ancestry"]["from"]] == [str(tiny_model)]


def test_a_target_that_is_nothing_is_told_in_one_line(tmp_path: Path, tiny_model: Path) -> None:
    for target, what, message in (
        (tmp_path / "none", "1/t/0", "no such run, model folder or file"),
        (tmp_path, None, "holds no model"),
        (tiny_model, "1/t/0", "is no run folder"),
    ):
        with pytest.raises(DataError, match=message) as error:
            trace.trace(target, what, Search())
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"inputs": [5]}, "inputs[0] must be an object"),
        ({"inputs": [{"setting": "data.path"}]}, "inputs[0]: kind is missing or of another kind"),
        ({"inputs": [{"setting": "d", "kind": "file", "files": []}]}, "inputs[0].files must be a list of files"),
        (
            {"inputs": [{"setting": "d", "kind": "data", "files": [{"sha256": 7, "bytes": 1}]}]},
            "inputs[0].files[0]: sha256 is missing or of another kind",
        ),
        ({"packages": None}, "it: packages is missing or of another kind"),
        ({"chain": {"lines": "4", "hash": "x"}}, "chain: lines is missing or of another kind"),
        ({"chain": {"lines": float("nan"), "hash": "x"}}, "chain: lines is missing or of another kind"),
        ({"outputs": {"model": {"files": {"a": 1}}}}, "files of a model must have sha256 and bytes"),
    ],
)
def test_a_record_of_another_form_is_told_in_one_line(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    record = {"kind": "run", "folder": "x", "stage": "rl", "packages": {}, "outputs": {}, "chain": None, "inputs": []}
    lineage.write(tmp_path / lineage.NAME, record | change)
    with pytest.raises(DataError) as error:
        lineage.read(tmp_path)
    assert str(error.value) == f"{tmp_path / lineage.NAME} is damaged: {problem}"
    lineage.write(tmp_path / lineage.NAME, record)
    assert lineage.read(tmp_path) is not None


@pytest.mark.parametrize("field", ["n", "kind", "name", "hash"])
def test_a_line_of_a_chain_with_another_kind_of_field_is_none(tmp_path: Path, field: str) -> None:
    line = {"schema": 1, "n": 0, "step": 0, "kind": "file", "name": "a", "sha256": "b", "previous": "c", "hash": "d"}
    (tmp_path / chain.NAME).write_text("".join(json.dumps(one) + "\n" for one in (line, line | {field: [1]})))
    assert chain.read(tmp_path) == ([line], ["chain.jsonl line 2: not a line of the chain"])


def test_an_item_that_became_several_rows_points_to_them(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"id": f"t{k}/0-{n}"}) + "\n" for k in (4, 40) for n in (1, 2)))
    with pytest.raises(DataError) as error:
        trace.trace(file, "t4", Search())
    assert str(error.value) == f"{file}: none of its 4 rows is 't4'; rows of it: t4/0-1, t4/0-2"
