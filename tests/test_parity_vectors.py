"""Our losses against numbers that peers' own code made, and the program that compares them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest

CASES = Path(__file__).parent / "parity_cases" / "peers.npz"
SKIPPED = ["trl110.luspo"]
Change = Callable[[dict[str, Any], list[dict[str, Any]]], None]


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Change], Path]:
    """The committed file with a change to its arrays or its cases."""

    def make(change: Change) -> Path:
        with np.load(CASES) as stored:
            arrays: dict[str, Any] = {name: stored[name] for name in stored.files}
        said = json.loads(CASES.with_suffix(".json").read_text())
        change(arrays, said["cases"])
        np.savez(tmp_path / "new.npz", **arrays)
        (tmp_path / "new.json").write_text(json.dumps(said))
        return tmp_path / "new.npz"

    return make


def only(*names: str) -> Change:
    def keep(arrays: dict[str, Any], cases: list[dict[str, Any]]) -> None:
        cases[:] = [case for case in cases if case["name"] in names]

    return keep


def test_each_of_the_committed_cases_is_as_the_peers_have_it(capsys: pytest.CaptureFixture[str]) -> None:
    status = parity.main([str(CASES), "--json"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (status, said["failed"], list(said["skipped"])) == (0, [], SKIPPED)
    assert said["n"] == len(json.loads(CASES.with_suffix(".json").read_text())["cases"]) == 41
    assert said["passed"] == said["n"] - len(SKIPPED)


def test_a_file_of_ones_own_passes_too(capsys: pytest.CaptureFixture[str]) -> None:
    path = os.environ.get("RLVR_LOSS_VECTORS")
    if not path:
        pytest.skip("RLVR_LOSS_VECTORS names no file of loss vectors")
    assert parity.main([path]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    "array",
    [
        "trl.grpo.beta/loss",
        "verl.gspo/grad_logp",
        "nemo.kl_k1/grad_hidden",
        "liger_fused.dapo/grad_weight",
        "verl.adv.gae/value",
        "openrlhf.value_loss/grad_vpred",
        "expected/logp",
        "expected/entropy_mean_grad_hidden",
    ],
)
def test_a_number_that_is_a_little_off_fails_its_case_alone(
    array: str, changed: Callable[[Change], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    name = array if array.startswith("expected/") else array.rpartition("/")[0]

    def spoil(arrays: dict[str, Any], cases: list[dict[str, Any]]) -> None:
        only(name, "trl.cispo", "verl.adv.opo")(arrays, cases)
        # at the first token, which is trained
        arrays[array] = arrays[array] + 1e-4 * (np.arange(arrays[array].size) == 0).reshape(arrays[array].shape)

    status = parity.main([str(changed(spoil)), "--json"])
    written = capsys.readouterr()
    assert status == 1
    assert json.loads(written.out)["failed"] == [name]
    assert written.err.startswith(f"FAILED {name}: ")
    assert "differs by 0.0001" in written.err


def test_weights_that_no_cap_explains_are_used_as_they_are(changed: Callable[[Change], Path]) -> None:
    """A weight of its own at one token: our loss without it has another value than the peer's."""
    name = "trl.dapo.is_token_truncate"

    def other(arrays: dict[str, Any], cases: list[dict[str, Any]]) -> None:
        only(name)(arrays, cases)
        arrays["inputs/is_ratio_token_truncate"] = arrays["inputs/is_ratio_token_truncate"].copy()
        arrays["inputs/is_ratio_token_truncate"][0, 0] *= 0.5

    path = changed(other)
    arrays, cases = parity.read(path)
    x = parity.inputs_of(arrays, path)
    old, was = float(x["old"][0, 0]), float(arrays[f"{name}/loss"])
    logp, adv = float(parity.logprobs(x)[0, 0]), float(x["adv"][0])
    # the token's ratio is within the clip, so half of its weight is half of its share of the loss
    assert 0.8 < np.exp(logp - old) < 1.28
    share = -np.exp(logp - old) * adv * float(x["is_ratio_token_truncate"][0, 0]) / x.tokens
    terms = parity.trl(cases[0], parity.Params(cases[0].params), x)
    assert float(parity.run_dense(terms, x)[0]["loss"]) == pytest.approx(was - share, abs=1e-12)
    assert float(parity.run_fused(terms, x)["loss"]) == pytest.approx(was - share, abs=1e-12)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("params", {"loss_type": "dapo", "warp": 9}, "unknown params warp"),
        ("params", {"loss_type": "grpo2"}, "'grpo2'"),
        ("source", "nanoRL==0.1 loss", "begins with none of trl, liger, verl"),
        ("kind", "reward", "kind 'reward', one of loss, value, value_loss"),
        ("name", "trl.other", "no numbers trl.other/loss"),
    ],
)
def test_a_case_that_nobody_understands_fails_and_says_why(
    field: str, value: Any, reason: str, changed: Callable[[Change], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def rename(arrays: dict[str, Any], cases: list[dict[str, Any]]) -> None:
        only("trl.dapo.onpolicy", "trl.cispo")(arrays, cases)
        next(case for case in cases if case["name"] == "trl.dapo.onpolicy")[field] = value

    status = parity.main([str(changed(rename)), "--json"])
    written = capsys.readouterr()
    said = json.loads(written.out)
    assert (status, said["n"], said["passed"], len(said["failed"]), said["skipped"]) == (1, 2, 1, 1, {})
    assert written.err.count("\n") == 1
    assert reason in written.err


def test_files_that_cannot_be_read_are_answered_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, beside = tmp_path / "v.npz", tmp_path / "v.json"

    def answer() -> str:
        assert parity.main([str(file), "--json"]) == 2
        written = capsys.readouterr()
        assert (written.out, written.err.count("\n")) == ("", 1)
        return written.err

    assert "v.npz is not there" in answer()
    file.write_bytes(b"PK no archive")
    assert "v.json is not there" in answer()
    beside.write_text("{}")
    assert "is no NPZ of plain numbers" in answer()
    np.savez(file, **{"inputs/hidden": np.array([{}], dtype=object)})  # pyright: ignore[reportArgumentType]
    assert "is no NPZ of plain numbers" in answer()
    np.savez(file, **{"inputs/hidden": np.zeros((2, 3, 4))})  # pyright: ignore[reportArgumentType]
    assert "must be an object with a list `cases`" in answer()
    beside.write_text("{")
    assert "is no JSON" in answer()
    beside.write_text('{"cases": [{"name": "a", "kind": "loss"}]}')
    assert "case 0 must have `source`" in answer()
    beside.write_text('{"cases": []}')
    assert "must hold inputs/weight" in answer()
    row = {"name": "a", "kind": "loss", "source": "trl==1", "params": {}, "tol": 1}
    beside.write_text(json.dumps({"cases": [row, row]}))
    assert "two cases of the name 'a'" in answer()
