"""What goes wrong in a run and must not spoil it: NaN, no memory, no disk, nothing to learn from, a stop at once."""

from __future__ import annotations

import math
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attempts import Attempt, differences, last_step, run
from safetensors.torch import load_file
from test_kills import MakeCase, case
from test_learn import spoil_row
from test_rl import PLUGIN, Quiet, assert_same_bits, make_recipe, steps_of, train, weights
from torch import Tensor

from rlvr import checkpoint, cli, policy, runs
from rlvr.batching import Batch
from rlvr.engines.hf import HuggingFace
from rlvr.errors import NonFiniteError
from rlvr.loops import learn, rl, sft
from rlvr.losses import Sums
from rlvr.types import Completion, Request

pytestmark = pytest.mark.slow
__all__ = ["case"]  # a fixture


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "toy.py"
    path.write_text(PLUGIN + LONELY)
    return str(path)


LONELY = '''
def lonely(response, gold, task):
    """Can judge one response in three of a third of the tasks, and all of the others."""
    if int(task.id[1:]) % 3 == 0 and sum(response.encode()) % 3:
        raise RuntimeError("cannot read this")
    return share(response)
'''


# --- NaN and infinity ------------------------------------------------------------------------------------------------


class Broken(Exception):
    """The run ends here, as if it had been killed."""


def spoil(monkeypatch: pytest.MonkeyPatch, bad: Sequence[int], *, value: float = math.nan, end: int = 0) -> list[Any]:
    """Make the loss of these steps `value`, and end the run in the step `end`; returns the batches of bad steps."""
    at, batches = [0], []

    def learn_at(learner: learn.Learner, batch: Any, step: int, ptx: Any) -> learn.Learned:
        if step == end:
            raise Broken
        at[0] = step
        if step in bad:
            batches.append(batch)
        return learn.learn(learner, batch, step, ptx)

    plain = policy.policy_loss

    def loss(*arguments: Any, **named: Any) -> Sums:
        sums = plain(*arguments, **named)
        return replace(sums, loss=sums.loss * value) if at[0] in bad else sums

    monkeypatch.setattr(rl, "learn", learn_at)
    monkeypatch.setattr(policy, "policy_loss", loss)
    return batches


def state_after(folder: Path, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return checkpoint.load(folder / "checkpoints", step)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_skipped_kept_and_told_and_the_run_goes_on(
    tiny_model: Path, plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    batches = spoil(monkeypatch, [2], value=value)
    progress = Quiet()
    folder = tmp_path / "run"
    every = ["steps=4", "checkpoint.every=1", "checkpoint.keep=9", "optim.weight_decay=0.1"]
    train(make_recipe(folder, tiny_model, plugin, "share", *every), progress)

    before, numbers = state_after(folder, 1)
    after, skipped = state_after(folder, 2)
    assert_same_bits(after, before)  # momentum and step counts of the optimizer among them
    assert (numbers["updates"], skipped["updates"]) == (1, 2)
    assert (numbers["skipped_in_a_row"], skipped["skipped_in_a_row"]) == (0, 1)
    moved, numbers = state_after(folder, 3)
    assert any(not torch.equal(tensor, after[name]) for name, tensor in moved.items())
    assert numbers["skipped_in_a_row"] == 0

    path = folder / "nonfinite" / "000002.safetensors"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert_same_bits(load_file(path), {n: t for n, t in batches[0].tensors().items() if t is not None})
    assert load_file(path)["ids_BT"].shape[0] == 16
    told = [text for text in progress.warned if "NaN or infinity" in text]
    assert told == [f"step 2: NaN or infinity in loss or gradient; the update was skipped, its batch is in {path}"]

    rows = steps_of(folder)
    assert [row.get("skipped_updates") for row in rows] == [None, 1.0, None, None]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert all("grad_norm" in row for row in (rows[0], rows[2], rows[3]))


@pytest.mark.parametrize(
    "settings", [["kl.coef=0.1"], ["kl.coef=0.1", "kl.where=reward"], ["advantage.top_entropy=0.5"]]
)
def test_a_row_that_reference_or_policy_cannot_score_before_the_update_skips_it_and_the_run_goes_on(
    tiny_model: Path, plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str]
) -> None:
    def learn_at(learner: learn.Learner, batch: Batch, step: int, ptx: Any) -> learn.Learned:
        if step != 2:
            return learn.learn(learner, batch, step, ptx)
        spoiled = spoil_row(learner.reference or learner.trained.model, batch, 3)
        try:
            return learn.learn(learner, batch, step, ptx)
        finally:
            spoiled.remove()

    monkeypatch.setattr(rl, "learn", learn_at)
    progress, folder = Quiet(), tmp_path / "run"
    kept = ["steps=3", "checkpoint.every=1", "checkpoint.keep=9"]
    train(make_recipe(folder, tiny_model, plugin, "share", *kept, *settings), progress)
    assert_same_bits(state_after(folder, 2)[0], state_after(folder, 1)[0])
    moved, before = state_after(folder, 3)[0], state_after(folder, 2)[0]
    assert any(not torch.equal(tensor, before[name]) for name, tensor in moved.items())
    path = folder / "nonfinite" / "000002.safetensors"
    told = [text for text in progress.warned if "NaN or infinity" in text]
    assert told == [f"step 2: NaN or infinity in loss or gradient; the update was skipped, its batch is in {path}"]
    rows = steps_of(folder)
    assert [row.get("skipped_updates") for row in rows] == [None, 1.0, None]
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_more_in_a_row_than_are_let_pass_end_the_run_with_exit_code_5(
    tiny_model: Path, plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, [1, 2, 4, 5, 6])  # two in a row, then three
    folder = tmp_path / "run"
    recipe = make_recipe(folder, tiny_model, plugin, "share", "steps=9", "optim.max_nonfinite=2")
    path = tmp_path / "toy.yaml"
    path.write_text(runs.to_yaml(recipe))
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", str(path)])
    assert caught.value.code == 5
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "rlvr: step 6: NaN or infinity in loss or gradient; the update was skipped, its batch is in "
        f"{folder}/nonfinite/000006.safetensors; 3 in a row, at most 2 are let pass (optim.max_nonfinite)"
    ]
    kept = sorted(p.stem for p in (folder / "nonfinite").iterdir())
    assert kept == [
        "000001",
        "000002",
        "000004",
        "000005",
        "000006",
    ]
    assert not (folder / "summary.json").exists()


def test_how_many_were_skipped_in_a_row_is_known_after_a_resume(
    tiny_model: Path, plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, [2, 3], end=4)
    recipe = make_recipe(
        tmp_path / "run", tiny_model, plugin, "share", "steps=5", "checkpoint.every=1", "optim.max_nonfinite=2"
    )
    with pytest.raises(Broken):
        train(recipe)
    spoil(monkeypatch, [4])
    with pytest.raises(NonFiniteError, match=r"^step 4: .*; 3 in a row, at most 2 are let pass"):
        train(recipe)


def test_a_skipped_update_of_sft_leaves_weights_and_optimizer(case: MakeCase, monkeypatch: pytest.MonkeyPatch) -> None:
    of = case("sft", steps=4, checkpoint={"every": 1, "keep": 9})
    plain, number, bad = policy.cross_entropy, [0], 2

    def update(*arguments: Any, **named: Any) -> dict[str, float]:
        number[0] += 1
        return real_update(*arguments, **named)

    def cross_entropy(*arguments: Any, **named: Any) -> Sums:
        sums = plain(*arguments, **named)
        return replace(sums, loss=sums.loss * math.nan) if number[0] == bad else sums

    real_update = sft.update
    monkeypatch.setattr(sft, "update", update)
    monkeypatch.setattr(policy, "cross_entropy", cross_entropy)
    monkeypatch.chdir(of.folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(SystemExit) as caught:
        cli.main(of.arguments())
    assert caught.value.code == 0
    folder = of.folder / "run"
    assert_same_bits(state_after(folder, 2)[0], state_after(folder, 1)[0])
    rows = runs.read_metrics(folder)
    assert ["loss" in row for row in rows] == [True, False, True, True]
    kept = load_file(folder / "nonfinite" / "000002.safetensors")
    assert kept["mask_BT"].sum() > 0
    assert kept["ids_BT"].shape == kept["mask_BT"].shape


# --- out of memory ---------------------------------------------------------------------------------------------------


def distance(ours: Path, theirs: Path) -> float:
    """Euclidean, over all weights."""
    pairs = zip(weights(ours).values(), weights(theirs).values(), strict=True)
    return math.sqrt(sum(float((mine - other).detach().double().square().sum()) for mine, other in pairs))


@pytest.mark.parametrize("kind", ["rl", "lora", "sft"])
def test_out_of_memory_changes_nothing_but_the_rounding_also_after_a_resume(
    case: MakeCase, tiny_model: Path, kind: str
) -> None:
    of = case(kind, steps=4, optim={"lr": 1e-3, "micro_tokens": 128}, checkpoint={"every": 1})
    whole = of.whole()
    code, said = of("short", failpoint="micro:oom@2")
    assert code == 0, said
    assert "failpoint micro: oom" in said
    short = of.run("short")
    assert distance(short / "model", whole / "model") < 1e-3 * distance(tiny_model, whole / "model")
    for row, other in zip(runs.read_metrics(short), runs.read_metrics(whole), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4, abs=1e-6)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
    assert differences(short, whole) != []  # so that the next line says something

    code, said = of("killed", failpoint="micro:oom@2,update:kill@3")
    assert code == -9, said
    of.finish("killed")
    assert differences(of.run("killed"), short) == []


# --- a full disk -----------------------------------------------------------------------------------------------------

FULL = {
    "rl": [
        "grouplog.append@2",
        "rollouts@2",
        "record@1",
        "checkpoint.tensors",
        "checkpoint.manifest",
        "checkpoint.rename",
        "checkpoint.renamed",
        "checkpoint.prune",
        "model",
        "finish",
    ],
    "lora": ["checkpoint.tensors@2", "model@1", "model@2"],
}


def assert_disk_error(code: int, said: str) -> None:
    """Exit code 4 and one line."""
    assert code == 4, said
    lines = [line for line in said.splitlines() if "failpoint" not in line]
    assert lines[-1].startswith("rlvr: ")
    assert lines[-1].endswith("No space left on device")
    assert not [line for line in lines[:-1] if line.startswith(("rlvr: ", "Traceback"))]


@pytest.mark.parametrize("kind", list(FULL))
def test_a_disk_that_is_full_at_any_place_ends_with_exit_code_4_and_the_same_command_goes_on(
    case: MakeCase, kind: str
) -> None:
    of = case(kind)
    whole = of.whole()
    for where in FULL[kind]:
        place, _, nth = where.partition("@")
        code, said = of("full", failpoint=f"{place}:enospc@{nth or 1}")
        assert f"failpoint {place}: enospc" in said
        assert_disk_error(code, said)
        torn = [p for pattern in (".*.new", "*/.*.new") for p in of.run("full").glob(pattern)]
        assert torn == []
    of.finish("full")
    assert differences(of.run("full"), whole) == []


@pytest.fixture
def small_disk() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], capture_output=True).returncode:
        folder.rmdir()
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)
    folder.rmdir()


def test_a_disk_that_is_really_full_ends_with_exit_code_4_and_the_same_command_goes_on(
    case: MakeCase, small_disk: Path
) -> None:
    of = case("rl")
    whole = of.whole()
    filler = small_disk / "filler"
    failed = 0
    for kib in (16, 64, 1024, 1600, 2200, 4000, 4600, 6000):  # rising, so that each comes further
        filler.unlink(missing_ok=True)
        used = sum(p.stat().st_blocks * 512 for p in small_disk.rglob("*") if p.is_file())
        with open(filler, "wb") as file:
            file.write(b"\0" * ((64 << 20) - used - (kib << 10)))
        code, said = of("full", f"run.dir={small_disk}/run")
        if code == 0:
            break
        assert_disk_error(code, said)
        failed += 1
    assert failed >= 2
    filler.unlink(missing_ok=True)
    code, said = of("full", f"run.dir={small_disk}/run")
    assert code == 0, said
    assert differences(small_disk / "run", whole) == []


# --- nothing to learn from -------------------------------------------------------------------------------------------


def test_a_run_whose_rewards_are_all_equal_goes_on_and_resumes_to_the_same_bits(case: MakeCase) -> None:
    of = case("rl", "same", steps=4, optim={"lr": 1e-2, "weight_decay": 0.1})
    whole = of.whole()
    of.kill("killed", "sync@4")
    of.finish("killed")
    assert differences(of.run("killed"), whole) == []
    assert [row["frac_reward_zero_std"] for row in runs.read_metrics(whole)] == [1.0] * 4


@pytest.mark.parametrize("share", ["some", "all"])
def test_empty_completions_count_as_such_and_nothing_becomes_nan(
    tiny_model: Path, plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: str
) -> None:
    plain = HuggingFace.generate

    def generate(self: HuggingFace, requests: Sequence[Request]) -> Iterator[tuple[str, Completion]]:
        for id, completion in plain(self, requests):
            if not id.startswith("parity/") and (share == "all" or hash_of(id) % 3 == 0):
                completion = replace(completion, text="", token_ids=(), logprobs=(), trained=(), finish="stop")
            yield id, completion

    monkeypatch.setattr(HuggingFace, "generate", generate)
    progress, folder = Quiet(), tmp_path / "run"
    train(make_recipe(folder, tiny_model, plugin, "share", "steps=3"), progress)
    for row in steps_of(folder):
        assert all(math.isfinite(value) for value in row.values())
        assert row["completions/min_length"] == 0.0
        assert (row["completions/mean_length"] == 0.0) == (share == "all")
        samples = runs.read_rollouts(folder, row["step"])
        assert {sample["reward"] for sample in samples if not sample["response"]} == {0.0}
    ours = weights(folder / "model")
    moved = [name for name, tensor in weights(tiny_model).items() if not torch.equal(tensor, ours[name])]
    assert bool(moved) == (share == "some")
    assert all(torch.isfinite(tensor).all() for tensor in ours.values())


def hash_of(id: str) -> int:
    return sum(id.encode())


def test_a_group_of_which_one_alone_was_judged_is_refilled_and_not_trained_on(
    tiny_model: Path, plugin: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    train(make_recipe(folder, tiny_model, plugin, "lonely", "steps=3"))
    num_lonely = 0
    for row in steps_of(folder):
        assert all(math.isfinite(value) for value in row.values())
        assert row["num_groups"] == 4
        groups: dict[str, list[dict[str, Any]]] = {}
        for sample in runs.read_rollouts(folder, row["step"]):
            groups.setdefault(sample["task"], []).append(sample)
        assert row["sampling/groups"] == len(groups) == 4 + row["sampling/groups_set_aside"]
        for samples in groups.values():
            judged = [sample for sample in samples if sample["reward"] is not None]
            assert len({sample["advantage"] is None for sample in judged}) <= 1
            if len(judged) < 2:
                num_lonely += len(judged)
                assert [sample["advantage"] for sample in samples] == [None] * 4
    assert num_lonely > 0


# --- stopped at once -------------------------------------------------------------------------------------------------


def test_sigterm_in_the_first_seconds_ends_a_start_and_blocks_no_other(case: MakeCase) -> None:
    # before the command is known the signal itself ends it, without a word; from then on we do, with one line
    of = case("sft", steps=3)
    whole = of.whole()
    cwd = of.folder / "early"
    cwd.mkdir()
    ends = set()
    for k, seconds in enumerate((0.02, 0.2, 0.5, 1.0, 1.5, 2.5)):
        with Attempt(of.arguments(), of.folder / f"early-{k}.log", cwd=cwd) as attempt:
            time.sleep(seconds)
            attempt.process.terminate()
            ends.add((attempt.wait(), attempt.said.replace("warning: ", "rlvr: ")))
    assert (-signal.SIGTERM, "") in ends
    for code, said in ends - {(-signal.SIGTERM, "")}:
        assert code == 75
        told = [line for line in said.splitlines() if line.startswith("rlvr: ")]
        assert told[0].startswith("rlvr: SIGTERM: stopping ")
        assert told[1:] in (
            ["rlvr: stopped before the first step; the same command starts again"],
            [f"rlvr: stopped after step {last_step(cwd / 'run')} of 3; the same command with run.dir=run resumes"],
        )
    code, said = run(of.arguments(), of.folder / "last.log", cwd=cwd)
    assert code == 0, said
    assert differences(cwd / "run", whole) == []


def test_sigterm_while_torch_is_imported_ends_with_exit_code_75_and_leaves_no_folder(case: MakeCase) -> None:
    of = case("sft", steps=3)
    with Attempt(of.arguments(), of.folder / "early.log", cwd=of.folder) as attempt:
        assert attempt.until(lambda: "libtorch" in Path(f"/proc/{attempt.process.pid}/maps").read_text())
        attempt.process.terminate()
        assert attempt.wait() == 75, attempt.said
    assert attempt.last_line == "rlvr: stopped before the first step; the same command starts again"
    assert not (of.folder / "run").exists()
