"""`rlvr checkpoint verify|list|export`: what is damaged is named, and what was exported is what was saved."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlvr import cli
from rlvr.loops import setup, sft
from rlvr.policy import load_model
from rlvr.recipe import Model, PretrainRecipe, Recipe, RlRecipe, SftRecipe
from rlvr.runs import Run
from rlvr.settings import from_overrides
from rlvr.trained import Trained

NEW_MODEL = (
    "model.config={hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 1, "
    "num_key_value_heads: 1, head_dim: 16}"
)


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `rlvr checkpoint ...`"""
    with pytest.raises(SystemExit) as ended:
        cli.main(["checkpoint", *map(str, arguments)])
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.out, said.err


def last(text: str) -> dict[str, Any]:
    return json.loads(text.splitlines()[-1])


def recipe(stage: str, folder: Path, *overrides: str) -> Recipe:
    return from_overrides(stage, ["steps=5", f"run.dir={json.dumps(str(folder))}", *overrides])


def train(recipe: RlRecipe | SftRecipe | PretrainRecipe, model: Any, *steps: int) -> dict[str, torch.Tensor]:
    """A run whose weights move with every step and that saves after `steps`; returns the last weights."""
    trained = Trained(model, recipe.optim, recipe.steps)
    with Run.open(recipe, "r.yaml") as run:
        for step in range(1, max(steps) + 1):
            for parameter in trained.parameters:
                parameter.grad = torch.full_like(parameter, 0.1 * step)
            trained.step()
            if step in steps:
                setup.save(run, trained, setup.State(step=step, cursor=16 * step, tokens=100 * step), keep=5)
    return {name: tensor.clone() for name, tensor in trained.weights()}


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> Path:
    """Of an RL run with a tied head, after steps 1 and 2."""
    made = recipe("rl", tmp_path / "run", f"model.path={tiny_model}", "data.path=d.jsonl", "optim.lr=1e-2")
    assert isinstance(made, RlRecipe)
    train(made, setup.load_policy(made)[0], 1, 2)
    return tmp_path / "run"


def newest(run: Path) -> dict[str, torch.Tensor]:
    saved = load_file(sorted((run / "checkpoints").iterdir())[-1] / "state.safetensors")
    return {name.removeprefix("model."): tensor for name, tensor in saved.items() if name.startswith("model.")}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# --- verify and list ---


def test_whole_checkpoints_are_said_to_be_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "verify", run, "--json")
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["step 1: whole", "step 2: whole"]
    assert last(out) == {
        "run": str(run),
        "checkpoints": [{"step": 1, "fault": None}, {"step": 2, "fault": None}],
        "bad": 0,
    }


def test_a_damaged_checkpoint_is_named_and_ends_with_exit_code_3(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "checkpoints" / "000001" / "state.safetensors"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    code, out, err = call(capsys, "verify", run, "--json")
    assert code == 3
    assert out.splitlines()[0] == "step 1: state.safetensors has another checksum than when it was saved"
    assert err == f"rlvr: 1 of 2 checkpoints in {run} are not whole: see above\n"
    assert last(out)["bad"] == 1
    code, out, err = call(capsys, "list", run, "--json")
    assert (code, err) == (0, "")
    assert last(out)["checkpoints"][0] == {
        "step": 1,
        "fault": "state.safetensors has another checksum than when it was saved",
    }


def test_a_list_says_what_is_in_each(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "list", run, "--json")
    assert code == 0
    weights = newest(run)
    row = last(out)["checkpoints"][1]
    folder = run / "checkpoints" / "000002"
    assert (row["step"], row["fault"]) == (2, None)
    assert row["bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert row["parameters"] == sum(tensor.numel() for tensor in weights.values())
    assert row["model_tensors"] == len(weights)
    assert row["optimizer_tensors"] == 3 * len(weights)
    assert row["numbers"]["cursor"] == 32
    assert row["numbers"]["updates"] == 2
    line = out.splitlines()[1]
    assert line.startswith(f"step 2  whole  {row['bytes'] / 1e6:.1f} MB  {row['saved']}  {row['parameters']:,} param")
    assert line.endswith("with optimizer state  cursor 32  tokens 200")


@pytest.mark.parametrize("command", ["verify", "list"])
def test_a_run_without_checkpoints_has_nothing_wrong(
    run: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (run / "checkpoints").iterdir():
        path.rename(run / path.name)
    code, out, _ = call(capsys, command, run, "--json")
    assert code == 0
    assert out.splitlines()[0] == f"{run} has no checkpoints"
    assert last(out)["checkpoints"] == []


@pytest.mark.parametrize("command", ["verify", "list", "export"])
def test_a_folder_that_is_no_run_is_told_in_one_line(
    run: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--to", run.parent / "out"] if command == "export" else []
    code, _, err = call(capsys, command, run.parent, *more)
    assert (code, err) == (3, f"rlvr: {run.parent} is no run folder (no recipe.yaml in it); runs in it: run\n")
    code, _, err = call(capsys, command, run / "nowhere", *more)
    assert (code, err.count("\n")) == (3, 1)
    (run / "recipe.yaml").write_text("a: [1")
    code, _, err = call(capsys, command, run, *more)
    assert code == 3
    assert err.startswith(f"rlvr: {run}/recipe.yaml is damaged: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["verify", "list", "export"])
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert f"Example: rlvr checkpoint {command} runs/quickstart/grpo" in out


def test_looking_loads_no_torch(run: Path) -> None:
    code = f"from rlvr import cli\nimport sys\ntry: cli.main(['checkpoint', 'list', {str(run)!r}])\n"
    code += "except SystemExit as done: print(done.code, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False"


# --- export ---


def test_the_newest_checkpoint_becomes_a_plain_model(
    run: Path, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "deep" / "exported"
    code, out, err = call(capsys, "export", run, "--to", to, "--json")
    assert (code, err) == (0, "")
    assert last(out) == {"run": str(run), "step": 2, "model": str(to)}
    assert_same(load_file(to / "model.safetensors"), newest(run))
    assert json.loads((to / "config.json").read_text()) == json.loads((tiny_model / "config.json").read_text())
    model, tokenizer = load_model(Model(path=str(to)))
    assert model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert tokenizer("1+1").input_ids == load_model(Model(path=str(tiny_model)))[1]("1+1").input_ids


def test_an_untied_head_is_exported_by_itself(
    tmp_path: Path, untied_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = recipe("sft", tmp_path / "run", f"model.path={untied_model}", "data.path=d.jsonl")
    assert isinstance(made, SftRecipe)
    expected = train(made, setup.load_policy(made)[0], 3)
    assert call(capsys, "export", tmp_path / "run", "--to", tmp_path / "out")[0] == 0
    assert_same(load_file(tmp_path / "out" / "model.safetensors"), expected)
    assert "lm_head.weight" in expected


def test_a_step_is_exported_by_its_number(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "export", run, "--step", "1", "--to", tmp_path / "one")[0] == 0
    saved = load_file(run / "checkpoints" / "000001" / "state.safetensors")
    found = load_file(tmp_path / "one" / "model.safetensors")
    assert all(torch.equal(tensor, saved[f"model.{name}"]) for name, tensor in found.items())
    code, _, err = call(capsys, "export", run, "--step", "7", "--to", tmp_path / "seven")
    assert (code, err) == (3, f"rlvr: {run}/checkpoints has no checkpoint of step 7; there are those of 1, 2\n")
    assert not (tmp_path / "seven").exists()


def test_damaged_checkpoints_are_passed_over_and_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoints" / "000002" / "state.json").write_text("{}")
    code, out, err = call(capsys, "export", run, "--to", tmp_path / "out", "--json")
    assert (code, last(out)["step"]) == (0, 1)
    assert err.startswith("note: checkpoint 000002 skipped: state.json has 2 bytes instead of ")
    code, _, err = call(capsys, "export", run, "--step", "2", "--to", tmp_path / "two")
    assert code == 3
    assert err.startswith(f"rlvr: checkpoint {run}/checkpoints/000002: state.json has 2 bytes")


def test_a_folder_that_is_there_is_left_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    code, _, err = call(capsys, "export", run, "--to", tmp_path / "mine")
    assert (code, err) == (4, f"rlvr: --to {tmp_path}/mine: is there already; name a folder that is not\n")
    (tmp_path / "file").write_text("x")
    code, _, err = call(capsys, "export", run, "--to", tmp_path / "file" / "below")
    assert (code, err) == (4, f"rlvr: --to {tmp_path}/file/below: File exists\n")


def test_a_checkpoint_of_another_model_is_refused(
    run: Path, tmp_path: Path, untied_model: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "recipe.yaml"
    path.write_text(path.read_text().replace(str(tiny_model), str(untied_model)))
    code, _, err = call(capsys, "export", run, "--to", tmp_path / "out")
    assert code == 3
    assert err.startswith(f"rlvr: the checkpoint of step 2 in {run} is of another model than its recipe.yaml names: ")
    assert "lm_head.weight" in err
    assert not (tmp_path / "out").exists()


def test_adapters_are_exported_merged_or_as_they_are(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftModel

    made = recipe("rl", tmp_path / "run", f"model.path={tiny_model}", "data.path=d.jsonl", "model.lora=true")
    assert isinstance(made, RlRecipe)
    adapters = train(made, setup.load_policy(made)[0], 4)
    assert call(capsys, "export", tmp_path / "run", "--to", tmp_path / "merged")[0] == 0
    assert call(capsys, "export", tmp_path / "run", "--adapter", "--to", tmp_path / "adapter")[0] == 0
    assert_same(load_file(tmp_path / "adapter" / "adapter_model.safetensors"), adapters)
    base, merged = (load_model(Model(path=str(path)))[0] for path in (tiny_model, tmp_path / "merged"))
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        before = base(ids).logits
        after = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))(ids).logits
        assert torch.allclose(merged(ids).logits, after, atol=1e-4)
    assert (after - before).abs().max() > 1e-4


def test_the_whole_model_has_no_adapter(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "export", run, "--adapter", "--to", tmp_path / "out")
    assert (code, err) == (2, f"rlvr: --adapter: {run} trained the whole model; leave --adapter out\n")


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_a_pretrained_model_is_made_again_without_training(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "d.jsonl"
    rows = [{"prompt": f"{a} and {b} ", "completion": f"make {a + b}"} for a in range(9) for b in range(9)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = "model.tokenizer={kind: bytes}" if kind == "bytes" else "model.tokenizer={kind: bpe, vocab_size: 280}"
    made = recipe("pretrain", tmp_path / "run", f"data.path={data}", NEW_MODEL, tokenizer)
    assert isinstance(made, PretrainRecipe)
    model, own = sft.base_model(made)
    expected = train(made, model, 2)
    if kind == "bytes":
        data.unlink()  # its tokenizer needs none
    assert call(capsys, "export", tmp_path / "run", "--to", tmp_path / "out")[0] == 0
    assert_same(load_file(tmp_path / "out" / "model.safetensors"), expected)
    _, found = load_model(Model(path=str(tmp_path / "out")))
    assert found.get_vocab() == own.get_vocab()

    (tmp_path / "out").rename(tmp_path / "run" / "model")  # finished, and the data are gone
    data.unlink(missing_ok=True)
    assert call(capsys, "export", tmp_path / "run", "--to", tmp_path / "again")[0] == 0
    assert_same(load_file(tmp_path / "again" / "model.safetensors"), expected)


def test_optimizers_of_both_kinds_are_left_behind(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = recipe("sft", tmp_path / "run", f"model.path={tiny_model}", "data.path=d.jsonl", "optim.kind=muon")
    assert isinstance(made, SftRecipe)
    expected = train(made, setup.load_policy(made)[0], 1)
    assert call(capsys, "export", tmp_path / "run", "--to", tmp_path / "out")[0] == 0
    assert_same(load_file(tmp_path / "out" / "model.safetensors"), expected)
