"""`rlvr why` walks back from a rollout to the votes behind its reward model, and says where a record was changed."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from attempts import differences
from test_kills import RL, Case
from test_rl import PLUGIN, Quiet, make_recipe, train

from rlvr import ancestry, chain, checkpoint, disk, lineage, rollout_table, runs, trace
from rlvr.ancestry import Search
from rlvr.ancestry_rows import nearest
from rlvr.cli import main
from rlvr.errors import DataError
from rlvr.loops import reward_model, sft
from rlvr.loops.stopping import StopRequest
from rlvr.settings import from_overrides

ROWS = [
    {
        "id": f"item{k}",
        "prompt": f"q {k}:",
        "chosen": "thank you kindly" if k % 2 else "of course, please",
        "rejected": f"no {k}",
        "votes": {"chosen": 2, "rejected": 1, "tie": 0},
        "annotators": ["aa11", "bb22", "cc33"],
    }
    for k in range(8)
]


def jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class World:
    """Three runs below one folder, each made from the one before: sft, rm, rl."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        (folder / "toy.py").write_text(PLUGIN)
        demonstrations = [{"id": f"d{k}", "prompt": f"q {k}:", "completion": f"answer {k}"} for k in range(6)]
        self.demonstrations = jsonl(folder / "demonstrations.jsonl", demonstrations)
        self.votes = jsonl(folder / "votes.jsonl", [*ROWS, {"prompt": "a bad row", "chosen": "x"}])
        self.sft, self.rm, self.rl = folder / "sft", folder / "rm", folder / "rl"
        common = ["steps=2", "batch_size=4", "optim.lr=1e-3", "checkpoint.every=1"]
        self._run("sft", [f"model.path={model}", f"data.path={self.demonstrations}", f"run.dir={self.sft}", *common])
        given = [f"model.path={self.sft / 'model'}", f"data.path={self.votes}", "data.on_bad_row=skip"]
        self._run("reward_model", [*given, f"run.dir={self.rm}", *common])
        taste = f"rewards.taste={{kind: model, path: {self.rm / 'model'}, weight: 0.5}}"
        more = ["rewards.answer.kind=verified", taste, "steps=3", "checkpoint.every=1", "checkpoint.keep=2"]
        train(make_recipe(self.rl, self.sft / "model", str(folder / "toy.py"), "share", *more))

    def _run(self, stage: str, settings: list[str]) -> None:
        recipe: Any = from_overrides(stage, settings)
        with runs.Run.open(recipe, "toy.yaml") as run:
            loop = {"sft": sft, "reward_model": reward_model}[stage]
            loop.train(recipe, run, Quiet(), StopRequest())

    def a_rollout(self) -> dict[str, Any]:
        return next(row for row in runs.read_rollouts(self.rl, 2) if row["role"] == "trained")


@pytest.fixture(scope="module")
def world(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Never written to."""
    return World(tmp_path_factory.mktemp("world"), tiny_model)


def by_what(node: dict[str, Any], what: str) -> dict[str, Any]:
    return next(one for one in node["from"] if one["what"] == what)


# --- the walk --------------------------------------------------------------------------------------------------------


def test_a_rollout_is_walked_back_to_the_votes_and_to_the_first_model(world: World, tiny_model: Path) -> None:
    row = world.a_rollout()
    told = trace.trace(world.rl, row["id"], Search([world.folder]))
    assert told["reward"] == row["reward"]
    # step 2 was sampled by the weights after step 1, which are not kept any more
    assert [version["version"] for version in told["policy"]] == [1]
    scorer = by_what(told["ancestry"], "rewards.taste.path")
    assert (scorer["path"], scorer["state"]) == (str(world.rm / "model"), "as it was")
    sha = disk.sha256(world.rm / "model" / "model.safetensors")
    assert scorer["weights"] == {"model.safetensors": sha}
    [trained_by] = scorer["from"]
    assert (trained_by["path"], trained_by["stage"], trained_by["steps"]) == (str(world.rm), "reward_model", 2)
    votes = by_what(trained_by, "data.path")
    assert (votes["path"], votes["num_rows"], votes["num_bad"]) == (str(world.votes), 8, 1)
    assert votes["first_bad"].startswith("votes.jsonl:9: ")
    assert votes["votes"] == {"rows": 8, "votes": 24, "annotators": 3}
    assert votes["nearest"][0]["votes"] == {"chosen": 2, "rejected": 1, "tie": 0}
    assert "votes:9" not in {row["id"] for row in votes["nearest"]}  # a bad row, which was not trained on
    [fine_tuned] = by_what(trained_by, "model.path")["from"]
    assert fine_tuned["path"] == str(world.sft)
    assert by_what(fine_tuned, "data.path")["num_rows"] == 6
    assert by_what(fine_tuned, "model.path")["path"] == str(tiny_model)
    text = trace.render(told)
    assert text.count(f"sft run {world.sft}\n") == 1 and text.count(sha) == 1
    assert text.count(f"model.path: {world.sft / 'model'}") == 2
    assert text.count(f"model.path: {world.sft / 'model'}  (as above)") == 1
    for words in (str(world.rm), "24 votes by 3 people in 8 of the rows", str(tiny_model), sha):
        assert words in text


def test_kept_weights_are_told_with_their_checksum(world: World) -> None:
    node = ancestry.of_run(world.rl, Search())
    kept = trace.policy_version(world.rl, 2, node)
    state = world.rl / "checkpoints" / "000002" / "state.safetensors"
    assert (kept["kept"], kept["sha256"]) == (str(state.parent), disk.sha256(state))
    assert trace.policy_version(world.rl, 1, node)["kept"] is None
    first = trace.policy_version(world.rl, 0, node)
    assert first["sha256"] == disk.sha256(world.sft / "model" / "model.safetensors")


def test_the_row_nearest_to_a_response_is_the_one_with_its_words(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "q", "chosen": "red house"}, {"id": "b", "prompt": "q", "chosen": "blue sea far"}]
    assert nearest([str(tmp_path / "never.jsonl")], "the sea") == []
    [found] = nearest([str(jsonl(tmp_path / "rows.jsonl", rows))], "the sea")
    # idf of a word in one of two rows is log(3 / 1), in both log(3 / 2); what no row has does not count
    rare, common = math.log(3), math.log(1.5)
    assert (found["id"], found["similarity"]) == ("b", pytest.approx(rare / math.sqrt(3 * rare**2 + common**2)))


def test_rows_that_begin_alike_are_several_and_one_that_is_there_twice_is_one(tmp_path: Path) -> None:
    long = "the sea is blue and wide " * 8
    rows = [{"id": f"r{k}", "prompt": "q", "chosen": f"{long}{end}"} for k, end in enumerate(("a", "b", "c", "a"))]
    found = nearest(
        [str(jsonl(tmp_path / "rows.jsonl", [*rows, {"id": "z", "prompt": "q", "chosen": "no"}]))], "the sea"
    )
    assert sorted(one["id"] for one in found) == ["r0", "r1", "r2"]


def test_a_file_whose_record_was_damaged_says_so(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "rows.jsonl", ROWS)
    lineage.note_origin(file, [], made_by="rlvr sample")
    assert trace.trace(file, None, Search())["ancestry"]["state"] == ancestry.AS_IT_WAS
    record = tmp_path / ".rows.jsonl.lineage.json"
    for damaged, told in (('{"inputs": 3}', "damaged: it is no record of inputs"), ("{", "cannot be read (JSON")):
        record.write_text(damaged)
        state = trace.trace(file, None, Search())["ancestry"]["state"]
        assert state.startswith("its record .rows.jsonl.lineage.json ") and told in state


def test_a_training_row_is_told_with_its_votes(world: World) -> None:
    told = trace.trace(world.rm, "item3", Search())
    assert (told["setting"], told["number"]) == ("data.path", 4)
    assert told["row"] == ROWS[3]
    assert told["annotators"] == ["aa11", "bb22", "cc33"]
    with pytest.raises(DataError, match=r"no row 'item33' in .*did you mean 'item3'"):
        trace.trace(world.rm, "item33", Search())


def test_a_model_that_was_moved_is_found_by_its_checksum(world: World, tmp_path: Path) -> None:
    moved = shutil.copytree(world.folder, tmp_path / "old")
    (moved / "rm").rename(moved / "judge")
    (moved / "votes.jsonl").rename(moved / "judge" / "people.jsonl")
    for one in moved.glob("*/lineage.json"):  # all of them lay here before
        record = json.loads(one.read_text().replace(str(world.folder), str(tmp_path / "new")))
        lineage.write(one, record)
    node = ancestry.of_run(moved / "rl", Search([moved]))
    scorer = by_what(node, "rewards.taste.path")
    assert scorer["path"] == str(moved / "judge" / "model")
    assert scorer["state"] == f"moved: was {tmp_path / 'new' / 'rm' / 'model'}"
    data = by_what(scorer["from"][0], "data.path")
    assert data["path"] == str(moved / "judge" / "people.jsonl")
    assert data["num_rows"] == 8
    lost = by_what(ancestry.of_run(moved / "rl", Search()), "rewards.taste.path")
    assert lost["path"] is None
    assert lost["state"].endswith(f"last seen at {tmp_path / 'new' / 'rm' / 'model'}")


def test_a_model_without_its_run_tells_what_its_own_record_knows(world: World, tmp_path: Path) -> None:
    alone = shutil.copytree(world.rm / "model", tmp_path / "alone")
    node = trace.trace(alone, None, Search([world.folder]))["ancestry"]
    [made] = node["from"]
    assert (made["stage"], made["path"]) == ("reward_model", None)
    assert by_what(made, "data.path")["path"] == str(world.votes)
    assert by_what(made, "model.path")["path"] == str(world.sft / "model")
    assert "alone" not in (alone / "lineage.json").read_text()


def test_another_model_in_its_place_is_not_taken_for_it(world: World, tmp_path: Path, untied_model: Path) -> None:
    moved = shutil.copytree(world.folder, tmp_path / "copy")
    record = json.loads((moved / "rl" / "lineage.json").read_text().replace(str(world.folder), str(moved)))
    lineage.write(moved / "rl" / "lineage.json", record)
    shutil.rmtree(moved / "rm" / "model")
    shutil.copytree(untied_model, moved / "rm" / "model")
    scorer = by_what(ancestry.of_run(moved / "rl", Search([moved])), "rewards.taste.path")
    assert scorer["path"] is None
    assert "another model is now at" in scorer["state"]


def test_a_run_of_a_version_without_records_is_told_by_its_recipe(world: World, tmp_path: Path) -> None:
    old = shutil.copytree(world.rl, tmp_path / "rl")
    (old / "lineage.json").unlink()
    (old / "chain.jsonl").unlink()
    node = ancestry.of_run(old, Search())
    assert node["state"].startswith("no record")
    assert by_what(node, "rewards.taste.path")["path"] == str(world.rm / "model")
    report = ancestry.check(old, Search())
    assert report["problems"] == []
    assert report["notes"][0].startswith("no chain.jsonl")


# --- what was changed ------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(world: World, tmp_path: Path) -> Path:
    """A copy of the run of reinforcement learning, to be changed."""
    return shutil.copytree(world.rl, tmp_path / "rl")


def problems(run: Path, head: str | None = None) -> list[str]:
    return ancestry.check(run, Search(), head)["problems"]


def test_a_run_that_nobody_touched_is_whole(world: World) -> None:
    for run in (world.sft, world.rm, world.rl):
        assert problems(run) == []
    report = ancestry.check(world.rl, Search())
    # recipe, three steps with rollouts and a row each, and the files of model/
    assert report["lines"] == 1 + 3 * 2 + len(list((world.rl / "model").iterdir()))
    assert problems(world.rl, report["head"]) == []
    assert problems(world.rl, "f" * 64) != []


def change_rollouts(run: Path, step: int, change: Any) -> str:
    rows = runs.read_rollouts(run, step)
    row = next(row for row in rows if row["role"] == "trained")
    change(row)
    path = run / "rollouts" / f"{step:06d}.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=rollout_table.schema()), path)
    return row["id"]


def test_a_reward_that_was_changed_is_named_with_its_rollout(copy: Path) -> None:
    name = change_rollouts(copy, 2, lambda row: row.update(reward=row["reward"] + 1))
    first, second = problems(copy)
    assert first == "rollouts/000002.parquet was changed"
    assert second.startswith(f"rollouts/000002.parquet: {name} has the reward ")


def test_a_response_that_was_changed_shows_too(copy: Path) -> None:
    change_rollouts(copy, 3, lambda row: row.update(response="something else"))
    assert problems(copy) == ["rollouts/000003.parquet was changed"]


def edit_lines(path: Path, edit: Any) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in edit(lines)))


def test_an_edited_row_of_metrics_is_named(copy: Path) -> None:
    edit_lines(copy / "metrics.jsonl", lambda rows: [rows[0], {**rows[1], "reward": 0.99}, *rows[2:]])
    assert problems(copy) == ["metrics.jsonl: the row of step 2 was changed"]


def test_a_step_that_was_taken_out_is_named_whether_or_not_the_chain_was_mended(copy: Path) -> None:
    edit_lines(copy / "metrics.jsonl", lambda rows: [row for row in rows if row["step"] != 2])
    (copy / "rollouts" / "000002.parquet").unlink()
    assert problems(copy) == ["metrics.jsonl: the row of step 2 is missing", "rollouts/000002.parquet is missing"]
    edit_lines(copy / "chain.jsonl", lambda lines: [line for line in lines if line["step"] != 2])
    found = problems(copy)
    assert any("does not follow the one before: 2 lines before it are missing" in line for line in found)


def test_steps_cut_off_the_end_show_by_the_record_of_the_run(copy: Path) -> None:
    edit_lines(copy / "metrics.jsonl", lambda rows: rows[:-1])
    (copy / "rollouts" / "000003.parquet").unlink()
    shutil.rmtree(copy / "model")
    edit_lines(copy / "chain.jsonl", lambda lines: [line for line in lines if line["step"] < 3])
    assert [line.partition(":")[0] for line in problems(copy)] == ["chain.jsonl was cut"]


def rebuilt(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A chain made anew by somebody who knows how."""
    previous, found = chain.START, []
    for n, line in enumerate(lines):
        fresh = {**line, "n": n, "previous": previous}
        fresh["hash"] = previous = chain.hash_of(fresh)
        found.append(fresh)
    return found


def test_a_chain_made_anew_shows_by_the_head_that_was_kept(copy: Path) -> None:
    head = ancestry.check(copy, Search())["head"]
    row = {**runs.read_metrics(copy)[1], "reward": 0.99}
    edit_lines(copy / "metrics.jsonl", lambda rows: [rows[0], row, *rows[2:]])

    def forge(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        digest = {"sha256": chain.digest_row(row)}
        return rebuilt([line | digest if (line["kind"], line["step"]) == ("metrics", 2) else line for line in lines])

    edit_lines(copy / "chain.jsonl", forge)
    assert [line.partition(":")[0] for line in problems(copy)] == ["chain.jsonl was made anew"]
    record = lineage.read(copy)
    assert record is not None
    lines, _ = chain.read(copy)
    lineage.write(copy / "lineage.json", {**record, "chain": {"lines": len(lines), "hash": lines[-1]["hash"]}})
    assert problems(copy) == []  # whoever may write everything; so the head is kept elsewhere
    assert "the chain was made anew" in problems(copy, head)[0]


def test_other_places_that_were_changed_are_named(copy: Path) -> None:
    (copy / "recipe.yaml").write_text((copy / "recipe.yaml").read_text().replace("steps: 3", "steps: 3  # mine"))
    (copy / "model" / "config.json").write_text("{}")
    shutil.copy(copy / "rollouts" / "000001.parquet", copy / "rollouts" / "000007.parquet")
    found = problems(copy)
    assert {"recipe.yaml was changed", "model/config.json was changed", "rollouts/000007.parquet was added"} <= {*found}
    record = json.loads((copy / "lineage.json").read_text())
    (copy / "lineage.json").write_text(json.dumps({**record, "git": "0" * 40}))
    assert "lineage.json was changed" in problems(copy)


def test_an_edited_row_of_the_data_is_named_by_its_number(world: World, tmp_path: Path) -> None:
    moved = shutil.copytree(world.folder, tmp_path / "copy")
    for name in (lineage.NAME, lineage.ROWS):
        path = moved / "rm" / name
        path.write_text(path.read_text().replace(str(world.folder), str(moved)))
    lineage.write(moved / "rm" / lineage.NAME, json.loads((moved / "rm" / lineage.NAME).read_text()))
    assert problems(moved / "rm") == []
    edit_lines(
        moved / "votes.jsonl", lambda rows: [{**r, "chosen": "bought"} if k == 4 else r for k, r in enumerate(rows)]
    )
    [line] = problems(moved / "rm")
    assert line == f"data.path {moved / 'votes.jsonl'}: changed since: row 5"


def test_the_command_names_the_place_and_ends_with_an_error(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_rollouts(copy, 1, lambda row: row.update(advantage=9.0))
    with pytest.raises(SystemExit) as ended:
        main(["why", str(copy), "--check", "--json"])
    assert ended.value.code == 3
    said = capsys.readouterr()
    assert "rollouts/000001.parquet was changed" in said.out
    assert json.loads(said.out.splitlines()[-1])["problems"] == ["rollouts/000001.parquet was changed"]
    assert said.err.startswith(f"rlvr: {copy}: not as it was written, in 1 places")


# --- resuming --------------------------------------------------------------------------------------------------------


def cut_back(run: Path, step: int) -> None:
    """As a kill leaves it whose newest checkpoint is that of `step`."""
    for path in checkpoint.newest_first(run / "checkpoints"):
        if int(path.name) > step:
            shutil.rmtree(path)
    (run / "summary.json").unlink()
    shutil.rmtree(run / "model")


@pytest.mark.parametrize("torn", ["nothing", "a line is half written", "a line is not written"])
def test_a_run_that_was_killed_and_resumed_is_whole_and_says_so(world: World, tmp_path: Path, torn: str) -> None:
    run = shutil.copytree(world.rl, tmp_path / "rl")
    cut_back(run, 2)
    text = (run / "chain.jsonl").read_text().splitlines(keepends=True)
    end = max(k for k, line in enumerate(text) if json.loads(line)["kind"] == "metrics") + 1
    if torn == "a line is half written":
        text = [*text[: end - 1], text[end - 1][:50]]
    elif torn == "a line is not written":
        text = text[: end - 1]
    (run / "chain.jsonl").write_text("".join(text))
    taste = f"rewards.taste={{kind: model, path: {world.rm / 'model'}, weight: 0.5}}"
    more = ["rewards.answer.kind=verified", taste, "steps=3", "checkpoint.every=1", "checkpoint.keep=2"]
    train(make_recipe(run, world.sft / "model", str(world.folder / "toy.py"), "share", *more))
    report = ancestry.check(run, Search())
    assert report["problems"] == []
    assert report["notes"] == ["resumed after step 2"]
    ours, theirs = (runs.read_metrics(folder) for folder in (run, world.rl))
    assert [row["reward"] for row in ours] == [row["reward"] for row in theirs]
    for name in ("lineage.json", "model.safetensors"):
        assert (run / "model" / name).read_bytes() == (world.rl / "model" / name).read_bytes()


def test_rows_put_there_while_a_run_stood_still_are_told(world: World, tmp_path: Path) -> None:
    run = shutil.copytree(world.rl, tmp_path / "rl")
    cut_back(run, 2)
    rows = runs.read_metrics(run)
    edit_lines(run / "metrics.jsonl", lambda lines: [*lines, {**rows[0], "reward": 7.0}, {**rows[1], "reward": 7.0}])
    taste = f"rewards.taste={{kind: model, path: {world.rm / 'model'}, weight: 0.5}}"
    more = ["rewards.answer.kind=verified", taste, "steps=3", "checkpoint.every=1", "checkpoint.keep=2"]
    train(make_recipe(run, world.sft / "model", str(world.folder / "toy.py"), "share", *more))
    assert problems(run) == ["2 rows of metrics.jsonl were added before the run was resumed at step 2"]


def test_a_run_that_began_without_a_chain_gets_one_where_it_is_resumed(world: World, tmp_path: Path) -> None:
    run = shutil.copytree(world.rl, tmp_path / "rl")
    cut_back(run, 2)
    (run / "chain.jsonl").unlink()
    (run / "lineage.json").unlink()
    taste = f"rewards.taste={{kind: model, path: {world.rm / 'model'}, weight: 0.5}}"
    more = ["rewards.answer.kind=verified", taste, "steps=3", "checkpoint.every=1", "checkpoint.keep=2"]
    train(make_recipe(run, world.sft / "model", str(world.folder / "toy.py"), "share", *more))
    report = ancestry.check(run, Search())
    assert report["problems"] == []
    assert report["notes"][1].startswith("4 records are of a version without a chain")
    assert ancestry.of_run(run, Search())["state"] == "its record was made when it was resumed, not when it began"
    edit_lines(run / "metrics.jsonl", lambda rows: [{**rows[0], "reward": 0.5}, *rows[1:]])
    assert problems(run) == ["metrics.jsonl: the row of step 1 was changed"]


@pytest.mark.slow
def test_a_run_killed_at_every_place_has_a_whole_chain(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(PLUGIN)
    toy = str(tmp_path / "toy.py")
    data = {"source": "generator", "path": f"{toy}:tasks", "args": {"n": 40}, "verifier": f"{toy}:share"}
    held = {
        "source": "generator",
        "path": f"{toy}:tasks",
        "args": {"n": 3, "prefix": "held"},
        "verifier": f"{toy}:letter",
    }
    values = {**RL, "steps": 4, "model": {"path": str(tiny_model)}, "data": data, "eval": {"tasks": held, "every": 2}}
    of = Case(tmp_path, values)
    whole = of.whole()
    for where in ("rollouts@2", "record@4", "checkpoint.rename", "record@3", "model", "finish"):
        of.kill("killed", where)
        assert problems(of.run("killed")) == [], where
    code, said = of("killed")
    assert code == 0, said
    assert differences(of.run("killed"), whole) == []
    assert problems(of.run("killed")) == problems(whole) == []
