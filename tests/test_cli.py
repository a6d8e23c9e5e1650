"""What people see: exit codes, one line for each error, examples, and JSON on the last line."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import rlvr
from rlvr import cli, doctor
from rlvr.errors import SettingsError
from rlvr.runs import Run
from rlvr.settings import load_recipe, to_yaml

ROOT = Path(__file__).parents[1]
TASKS = [{"id": f"t{k}", "prompt": f"Q: {k}+1=?", "gold": str(k + 1)} for k in range(6)]
DEMONSTRATIONS = [{"id": f"d{k}", "prompt": f"Q: {k}+1=?", "completion": f" {k + 1}"} for k in range(6)]
COMMANDS = [command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback]


class Said(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Said]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """rlvr in this process, in an empty current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"RLVR_DEBUG": "0"})

    def run(*arguments: str | Path) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(a) for a in arguments])
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Said(ended.value.code, said.out, said.err)

    return run


def write_rows(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_recipe(name: str, stage: str, model: Path | str, **more: Any) -> str:
    values: dict[str, Any] = {
        "stage": stage,
        "steps": 1,
        "model": {"path": str(model)},
        "data": {"path": f"{stage}.jsonl"},
    }
    if stage == "rl":
        values |= {"engine": {"kind": "hf"}, "sample": {"groups_per_step": 2, "group_size": 2, "max_tokens": 4}}
    Path(name).write_text(yaml.safe_dump(values | {"run": {"dir": "out"}} | more))
    write_rows("rl.jsonl", TASKS)
    write_rows("sft.jsonl", DEMONSTRATIONS)
    return name


def one_line(said: Said, code: int) -> str:
    """The line on stderr, without `rlvr: `; nothing else may be there."""
    assert said.code == code, said
    assert re.fullmatch(r"rlvr: [^\n]+\n", said.err), said.err
    return said.err.removeprefix("rlvr: ").rstrip("\n")


# --- the process ---


@pytest.mark.parametrize(
    ("arguments", "code", "err"),
    [
        ("bogus", 2, "rlvr: No such command 'bogus'. See rlvr --help\n"),
        ("trian x.yaml", 2, "rlvr: No such command 'trian'. Did you mean 'train', 'pretrain'? See rlvr --help\n"),
        ("train", 2, "rlvr: Missing argument 'RECIPE'. See rlvr train --help\n"),
        ("config x.yaml --jsn", 2, "rlvr: No such option: --jsn (Possible options: --json) See rlvr config --help\n"),
        ("train nowhere.yaml", 2, f"rlvr: no recipe nowhere.yaml (seen from {ROOT})\n"),
        ("config recipes/arithmetic/grpo.yaml beta=1", 2,
         "rlvr: command line: beta: no such setting; did you mean kl.coef?\n"),
        ("verify", 2, "rlvr: verify needs either FILE.jsonl or --explain GOLD RESPONSE\n"),
        ("status nowhere", 3, "rlvr: nowhere is no run folder (no recipe.yaml in it)\n"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_on_stderr_and_an_exit_code(arguments: str, code: int, err: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rlvr", *arguments.split()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr, done.stdout) == (code, err, "")


def test_a_traceback_is_there_for_those_who_ask() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rlvr", "verify"], env=os.environ | {"RLVR_DEBUG": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "Traceback" in done.stderr
    assert "SettingsError: verify needs either" in done.stderr


@pytest.mark.parametrize("command", ["config --settings rl", "--version"])
def test_a_reader_that_goes_away_ends_a_command_quietly(command: str) -> None:
    line = f"{sys.executable} -m rlvr {command} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


# --- help ---


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_shows_an_example(call: Call, command: str) -> None:
    said = call(command, "--help")
    assert (said.code, said.err) == (0, "")
    assert f"Example: rlvr {command}" in said.out
    assert "--json" in said.out


@pytest.mark.parametrize("command", ["verifiers list", "verifiers test", "golds check"])
def test_the_help_of_a_command_within_a_group_shows_an_example(call: Call, command: str) -> None:
    said = call(*command.split(), "--help")
    assert (said.code, said.err) == (0, "")
    assert f"Example: rlvr {command}" in said.out
    assert "--json" in said.out


def test_without_a_command_there_is_help_and_with_version_the_version(call: Call) -> None:
    said = call()
    assert said.code == 0
    assert "Example: rlvr train" in said.out
    assert all(command in said.out for command in COMMANDS)
    assert call("--help") == said
    assert call("--version") == Said(0, f"{rlvr.__version__}\n", "")


# --- recipes ---


def test_config_prints_a_recipe_that_is_one(call: Call) -> None:
    write_recipe("r.yaml", "rl", "m")
    said = call("config", "r.yaml", "optim.lr=1e-4", "rewards.fmt.verifier=boxed")
    assert said.code == 0
    Path("again.yaml").write_text(said.out)
    assert load_recipe("again.yaml") == load_recipe("r.yaml", ["optim.lr=1e-4", "rewards.fmt.verifier=boxed"])
    assert call("config", "again.yaml").out == said.out
    last = json.loads(call("config", "r.yaml", "optim.lr=1e-4", "--json").out.splitlines()[-1])
    assert (last["stage"], last["optim"]["lr"], last["schema"]) == ("rl", 1e-4, 1)


def test_config_lists_settings(call: Call) -> None:
    said = call("config", "--settings", "sft", "--json")
    assert "\nbatch_size = 32\n    Demonstrations per optimizer step.\n" in said.out
    rows = json.loads(said.out.splitlines()[-1])["settings"]
    assert {"name": "batch_size", "default": "32", "help": "Demonstrations per optimizer step."} in rows
    assert one_line(call("config", "--settings", "sfft"), 2).startswith("stage: no 'sfft'; did you mean 'sft'?")
    assert one_line(call("config"), 2).startswith("config needs either RECIPE or --settings STAGE")
    assert call("config", "--settings", "reward-model").out == call("config", "--settings", "reward_model").out


@pytest.mark.parametrize(("command", "stage"), [("reward-model", "reward_model"), ("dpo", "dpo"), ("train", "rl")])
def test_a_training_command_names_a_recipe_that_there_is_and_its_own_settings(
    call: Call, command: str, stage: str
) -> None:
    told = call(command, "--help").out
    assert f"rlvr config --settings {stage}" in told
    recipe = next(word for word in told.split() if word.startswith("recipes/"))
    assert (Path(__file__).parents[1] / recipe).is_file()


def test_several_wrong_settings_are_several_lines(call: Call) -> None:
    said = call("train", write_recipe("r.yaml", "rl", "m"), "steps=x", "sede=1")
    assert said.code == 2
    assert said.err.splitlines() == [
        "rlvr: command line: steps: input should be a valid integer, got 'x'",
        "command line: sede: no such setting; did you mean seed?",
    ]


def test_a_recipe_of_another_stage_is_told_its_command(call: Call) -> None:
    said = call("sft", write_recipe("r.yaml", "rl", "m"))
    assert one_line(said, 2) == "r.yaml is a recipe for `rlvr train` (stage: rl)"


def test_resume_takes_auto_never_or_a_run(call: Call) -> None:
    said = call("train", write_recipe("r.yaml", "rl", "m"), "--resume", "always")
    assert one_line(said, 2) == "--resume always: must be auto, never or a run folder (no recipe.yaml in it)"


# --- data ---


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "data.path: no file or folder rl.jsonl"),
        ("", "data.path: rl.jsonl holds no rows"),
        ('{"prompt": "a", "gold": "1"}\n{"prompt": "b"}\n', "rl.jsonl:2: no gold (has: prompt;"),
        ('{"id": 1, "prompt": "a", "gold": "1"}\n{"id": 1, "prompt": "b", "gold": "2"}\n',
         "rl.jsonl:2: id '1' is already that of rl.jsonl:1"),
        ('{"prompt": "a", "gold": "1"}\n{"prompt"\n', "rl.jsonl:2: "),
    ],
    ids=["missing", "empty", "no gold", "same id", "no JSON"],
)  # fmt: skip
@pytest.mark.parametrize("dry", [True, False])
def test_data_that_cannot_be_used_ends_the_run_before_it_starts(
    call: Call, content: str | None, told: str, dry: bool
) -> None:
    recipe = write_recipe("r.yaml", "rl", "m")
    if content is None:
        Path("rl.jsonl").unlink()
    else:
        Path("rl.jsonl").write_text(content)
    said = call("train", recipe, *(["--dry-run"] if dry else []))
    assert said.code == 3
    assert told in said.err
    assert "Traceback" not in said.err
    assert not Path("out").exists()


@pytest.mark.parametrize("dry", [True, False])
def test_a_prompt_longer_than_the_context_is_told_with_its_row(call: Call, tiny_model: Path, dry: bool) -> None:
    recipe = write_recipe("r.yaml", "rl", tiny_model)
    write_rows("rl.jsonl", [*TASKS, {"id": "long", "prompt": "x" * 256, "gold": "1"}])
    said = call("train", recipe, *(["--dry-run"] if dry else []))
    assert said.code == 3
    assert "long: prompt has 256 tokens; at most 255 leave room for a completion of up to 4 tokens" in said.err
    assert not Path("out").exists()


def test_rows_that_are_too_long_are_left_out_where_bad_rows_are(call: Call, tiny_model: Path) -> None:
    recipe = write_recipe("r.yaml", "rl", tiny_model)
    write_rows("rl.jsonl", [{"id": "long", "prompt": "x" * 256, "gold": "of the long one"}, *TASKS])
    skip = "data.on_bad_row=skip"
    found = last_json(call("train", recipe, skip, "--dry-run", "--json"))
    assert (found["rows"], found["bad_rows"], found["too_long"]) == (7, 0, 1)
    assert (found["first"], found["gold"]) == (TASKS[0]["prompt"], TASKS[0]["gold"])
    said = call("train", recipe, skip, "--json")
    assert "1 tasks left out: their prompts leave no room in 256 tokens" in said.out + said.err
    summary = last_json(said)
    assert summary["steps"] == 1
    assert summary["warnings"] >= 1
    recipe = write_recipe("s.yaml", "sft", tiny_model, run={"dir": "supervised"}, max_length=20)
    write_rows("sft.jsonl", [*DEMONSTRATIONS, {"id": "long", "prompt": "x" * 20, "completion": "y"}])
    assert "long: has 22 tokens" in call("sft", recipe, "--dry-run").err
    assert last_json(call("sft", recipe, skip, "--dry-run", "--json"))["too_long"] == 1
    said = call("sft", recipe, skip, "--json")
    assert "1 demonstrations left out: they are too long" in said.out + said.err
    assert last_json(said)["warnings"] >= 1


def test_threads_are_those_of_the_recipe_else_of_the_environment_else_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.cli.machine.cores", lambda: 3.5)

    def threads(*overrides: str) -> str:
        given = ["model.path=m", "eval.tasks=t", "engine.kind=hf", *overrides]
        cli._prepare(cli.settings.from_overrides("eval", given))
        return os.environ["OMP_NUM_THREADS"]

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert threads() == "7"
    assert threads("system.threads=2") == "2"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads() == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as it was for the other tests


def test_a_dry_run_looks_at_the_verifier_of_every_row(call: Call, tiny_model: Path) -> None:
    recipe = write_recipe("r.yaml", "rl", tiny_model)
    write_rows("rl.jsonl", [*TASKS, {"id": "odd", "prompt": "x", "gold": "1", "verifier": "exactt"}])
    line = one_line(call("train", recipe, "--dry-run"), 2)
    assert line.startswith("no verifier named 'exactt'; did you mean 'exact'?")


# --- models ---


def test_a_model_that_is_missing_is_told(call: Call) -> None:
    said = call("train", write_recipe("r.yaml", "rl", "./nowhere"))
    assert one_line(said, 3).startswith("model.path ./nowhere: no such folder (seen from ")
    recipe, made_by = write_recipe("r.yaml", "sft", "runs/a/model"), "model.made_by=p.yaml"
    assert one_line(call("sft", recipe, made_by), 3) == (
        "model.path runs/a/model does not exist yet, nor can model.made_by be read: "
        "no recipe p.yaml; did you mean r.yaml?"
    )
    Path("p.yaml").write_text("stage: pretrain\nsteps: 1\ndata: {path: d}\n")
    assert one_line(call("sft", recipe, made_by), 3) == (
        "model.path runs/a/model does not exist yet; make it with: rlvr pretrain p.yaml run.dir=runs/a"
    )


def pickled(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def bert(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')


def torn(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def without_config(model: Path) -> None:
    (model / "config.json").unlink()


def unknown_type(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "nonesuch"}')


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (pickled, "pytorch_model.bin is a pickle, which can run code when it is loaded; "),
        (bert, "BertModel is no causal language model (..ForCausalLM)"),
        (torn, "cannot be loaded: "),
        (without_config, "no config.json in it"),
        (unknown_type, "nonesuch"),
    ],
)
def test_a_model_that_cannot_be_used_is_told_in_one_line(
    call: Call, tiny_model: Path, damage: Callable[[Path], None], told: str
) -> None:
    shutil.copytree(tiny_model, "m")
    damage(Path("m"))
    line = one_line(call("sft", write_recipe("r.yaml", "sft", "m")), 3)
    assert line.startswith("model.path m: ")
    assert told in line
    assert not Path("out").exists()


# --- folders ---


def test_a_folder_in_use_or_of_others_is_a_disk_error(call: Call) -> None:
    recipe = write_recipe("r.yaml", "sft", "m")
    with Run.open(load_recipe(recipe), recipe):
        line = one_line(call("sft", recipe), 4)
    assert line == f"run.dir out is in use by process {os.getpid()}; wait for it or set another run.dir"
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    assert one_line(call("sft", recipe), 4) == "run.dir out holds other files and no run; set another run.dir"
    assert one_line(call("sft", recipe, "run.dir=r.yaml/x"), 4) == "run.dir r.yaml/x: Not a directory"


# --- a run, and looking at it ---


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Path]:
    """The folder in which a run `out` of two steps was made."""
    folder = tmp_path_factory.mktemp("finished")
    before = Path.cwd()
    os.chdir(folder)
    try:
        write_recipe("r.yaml", "sft", tiny_model, steps=2, checkpoint={"every": 1}, batch_size=2)
        with pytest.raises(SystemExit) as ended:
            cli.main(["sft", "r.yaml", "--json"])
        assert ended.value.code == 0
        yield folder
    finally:
        os.chdir(before)


def last_json(said: Said) -> Any:
    assert said.code == 0, said.err
    found = json.loads(said.out.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_a_finished_run_says_so_and_does_nothing(call: Call, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    before = {p: p.stat().st_mtime_ns for p in Path("out").rglob("*") if p.is_file() and p.name != ".lock"}
    line = one_line(call("sft", "r.yaml", "seed=5"), 2)
    assert (
        line == "run.dir out holds a run with other settings (seed: 0 -> 5); "
        "use those of its recipe.yaml or set another run.dir"
    )
    said = call("sft", "r.yaml", "--json")
    assert said.out.startswith("out is finished; nothing to do (set another run.dir for a new run)\n")
    summary = last_json(said)
    assert (summary["steps"], summary["model"], summary["run"]) == (2, "out/model", "out")
    assert {"steps", "seconds", "tokens", "warnings"} <= set(summary)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    line = one_line(call("sft", "r.yaml", "--resume", "never"), 2)
    assert line.startswith("run.dir out holds a finished run and --resume is never")
    assert call("sft", "r.yaml", "run.dir=other", "--resume", "out").out.startswith("out is finished")


def test_the_recipe_of_a_run_is_a_recipe(finished: Path) -> None:
    stored = load_recipe(finished / "out" / "recipe.yaml")
    assert to_yaml(stored) == (finished / "out" / "recipe.yaml").read_text()
    assert sorted(p.name for p in (finished / "out").iterdir() if not p.name.startswith(".")) == [
        "chain.jsonl", "checkpoints", "env.json", "lineage.json", "metrics.jsonl", "model", "recipe.yaml",
        "rows.sha256", "summary.json",
    ]  # fmt: skip


def test_status_and_plot_look_at_a_run(call: Call, finished: Path) -> None:
    said = call("status", finished / "out", "--json")
    assert (last_json(said)["state"], last_json(said)["steps_done"]) == ("finished", 2)
    said = call("plot", finished / "out", "--out", "curve.png", "--json")
    assert last_json(said) == {"plot": "curve.png"}
    assert Path("curve.png").read_bytes().startswith(b"\x89PNG")


def test_doctor_looks_at_a_run(call: Call, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_vllm", lambda: iter(()))
    said = call("doctor", finished / "out", "--json")
    checks = json.loads(said.out.splitlines()[-1])["checks"]
    assert set(checks[0]) == {field.name for field in dataclasses.fields(doctor.Check)}
    assert (said.code == 3) == any(check["ok"] is False for check in checks)


@pytest.mark.parametrize("command", ["status", "plot"])
def test_a_folder_that_is_no_run_is_a_data_error(call: Call, command: str) -> None:
    Path("empty").mkdir()
    assert one_line(call(command, "empty"), 3).startswith("empty is no run folder")
    assert one_line(call(command, "nowhere"), 3).startswith("nowhere is no run folder")


def test_doctor_on_a_folder_that_is_no_run_is_a_data_error(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_vllm", lambda: iter(()))
    said = call("doctor", "nowhere")
    assert said.code == 3
    assert "nowhere" in said.out
    assert said.err == "rlvr: something needs attention: see the lines marked above\n"


# --- judging and measuring ---


def test_verify_judges_one_response_or_a_file(call: Call) -> None:
    said = call("verify", "--explain", "7/2", r"so it is \boxed{3.5}", "--json")
    assert (last_json(said)["score"], last_json(said)["outcome"]) == (1.0, "correct")
    assert re.search(r"^outcome +correct$", said.out, re.MULTILINE)
    write_rows("cases.jsonl", [{"gold": "4", "response": r"\boxed{4}"}, {"gold": "4", "response": r"\boxed{5}"}])
    found = last_json(call("verify", "cases.jsonl", "--json"))
    assert (found["n"], found["mean_score"], found["outcomes"]) == (2, 0.5, {"correct": 1, "wrong": 1})
    assert "did you mean 'math'?" in one_line(call("verify", "cases.jsonl", "-v", "mth"), 2)


def test_eval_prints_the_figures_that_scripts_read(call: Call, tiny_model: Path) -> None:
    write_rows("held.jsonl", TASKS)
    common = (
        "eval",
        "--model",
        tiny_model,
        "--tasks",
        "held.jsonl",
        "--engine",
        "hf",
        "--max-tokens",
        "4",
        "-k",
        "1,2",
    )
    found = last_json(call(*common, "--out", "res", "--json", "eval.greedy=false"))
    assert {
        "model",
        "tasks",
        "n_tasks",
        "n_samples",
        "pass@1",
        "pass@2",
        "maj@2",
        "ci95",
        "truncated",
        "unextracted",
    } <= (set(found))
    assert (found["model"], found["tasks"], found["n_tasks"], found["n_samples"]) == (
        str(tiny_model),
        "held.jsonl",
        6,
        2,
    )
    assert json.loads(Path("res.json").read_text()) == found
    assert len(Path("res.jsonl").read_text().splitlines()) == 12


def test_eval_loads_the_model_once_and_keeps_the_dots_of_out(
    call: Call, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlvr import policy
    from rlvr.engines import hf

    loaded: list[str] = []
    load = policy.load_model
    for module in (policy, hf):
        monkeypatch.setattr(module, "load_model", lambda settings: (loaded.append(settings.path), load(settings))[1])
    write_rows("held.jsonl", TASKS)
    common = ("eval", "--model", tiny_model, "--tasks", "held.jsonl", "--engine", "hf", "--max-tokens", "2")
    found = last_json(call(*common, "--out", "v1.2", "--json"))
    assert loaded == [str(tiny_model)]
    assert json.loads(Path("v1.2.json").read_text()) == found
    assert len(Path("v1.2.jsonl").read_text().splitlines()) == 12  # one sampled, one greedy
    assert call(*common, "--out", "v1.3.json").code == 0
    assert sorted(p.name for p in Path().glob("v1.3*")) == ["v1.3.json", "v1.3.jsonl"]
    write_rows("held.jsonl", [*TASKS, {"id": "long", "prompt": "x" * 256, "gold": "1"}])
    assert "long: prompt has 256 tokens" in call(*common).err
    assert last_json(call(*common, "--json", "eval.tasks.on_bad_row=skip"))["n_tasks"] == 6


def test_eval_finds_out_early_that_its_result_has_no_place(call: Call) -> None:
    line = one_line(call("eval", "--model", "m", "--tasks", "t", "--out", "no/where"), 4)
    assert line == "--out no/where: cannot write to no: No such file or directory"


def test_eval_refuses_what_it_cannot_measure(call: Call) -> None:
    assert one_line(call("eval", "--model", "m", "-k", "1,x", "--tasks", "t"), 2) == (
        "-k must be numbers separated by commas, such as 1,8, got '1,x'"
    )
    assert one_line(call("eval", "--model", "m"), 2) == "eval needs a RECIPE, or --model FOLDER and --tasks FILE"
    recipe = write_recipe("r.yaml", "sft", "m")
    assert (
        one_line(call("eval", recipe), 2) == "r.yaml is a recipe for `rlvr sft`; eval takes one with stage eval or rl"
    )


def test_tasks_of_the_command_line_replace_those_of_a_recipe_whatever_their_source() -> None:
    flags = cli._eval_flags("ä😀", "mine.jsonl", "1,4", None, None, "hf")
    recipe = cli._eval_recipe(str(ROOT / "recipes/arithmetic/grpo.yaml"), [*flags, "eval.tasks.verifier=exact"])
    tasks = recipe.eval.tasks
    assert tasks is not None
    assert (tasks.path, tasks.source, tasks.args, tasks.verifier) == ("mine.jsonl", "file", {}, "exact")
    assert (recipe.model.path, recipe.eval.k, recipe.eval.samples, recipe.engine.kind) == ("ä😀", (1, 4), 4, "hf")
    assert recipe.eval.max_tokens == 64  # the recipe's sample.max_tokens
    with pytest.raises(SettingsError, match="is a recipe for `rlvr sft`"):
        cli._eval_recipe(str(ROOT / "recipes/arithmetic/sft.yaml"), [])
