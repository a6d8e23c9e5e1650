"""A loop that is killed anywhere, stopped, or run in processes of its own ends with the same rounds, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attempts import quick
from loop_case import manifests, write

from rlvr.feedback.store import Store

pytestmark = pytest.mark.slow
INSIDE = [
    "sample:kill@4",
    "grouplog.append:kill@2",
    "feedback.commit:kill@1",
    "feedback.committed:kill@1",
    "update:kill@1",
    "checkpoint.rename:kill@2",
    "model:kill@1",
    "record:kill@2",
    "sync:kill@2",
    "finish:kill@1",
]
"""Places within stages, reached in this order by one attempt after the other."""


class Case:
    """A recipe, and runs of it in folders of their own."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.recipe = write(folder, model)
        self.attempts = 0

    def __call__(self, name: str, *overrides: str, failpoint: str = "") -> tuple[int, str]:
        """(exit code, what it said) of an attempt; run.dir is the same text for all."""
        (self.folder / name).mkdir(exist_ok=True)
        self.attempts += 1
        log = self.folder / f"{self.attempts}.log"
        arguments = ["loop", str(self.recipe), "run.dir=run", *overrides]
        return quick(arguments, log, failpoint=failpoint, cwd=self.folder / name)

    def run(self, name: str) -> Path:
        return self.folder / name / "run"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Case:
    """With the run that nobody disturbed, "whole"."""
    found = Case(tmp_path_factory.mktemp("resumed"), tiny_model)
    code, said = found("whole")
    assert code == 0, said
    return found


def assert_same(case: Case, name: str) -> None:
    ours, whole = case.run(name), case.run("whole")
    assert manifests(ours) == manifests(whole)
    for path in ("rounds/001/round.json", "rounds/002/round.json", "model/model.safetensors"):
        assert (ours / path).read_bytes() == (whole / path).read_bytes()
    steps = [
        [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (ours, whole)
    ]
    assert steps == [[0, 1, 2]] * 2
    with Store.open(ours / "labels.db", readonly=True) as store:
        assert len(list(store.answers())) == 24
        assert store.check_chain() == []


def test_killed_at_the_end_of_every_stage_it_ends_as_if_nothing_had_happened(case: Case) -> None:
    killed = 0
    while True:
        code, said = case("stages", failpoint="loop.stage:kill@2")
        if code == 0:
            break
        assert code == -9, said
        killed += 1
        assert killed < 20
    assert killed == 13  # all stages of both rounds but the first
    assert_same(case, "stages")


def test_killed_within_its_stages_it_ends_as_if_nothing_had_happened(case: Case) -> None:
    for failpoint in INSIDE:
        code, said = case("inside", failpoint=failpoint)
        assert code == -9, f"{failpoint}: {said}"
        assert said.endswith(f"rlvr: failpoint {failpoint.partition(':')[0]}: kill\n")
    code, said = case("inside")
    assert code == 0, said
    assert_same(case, "inside")


def test_stopped_on_request_it_says_where_and_goes_on(case: Case) -> None:
    code, said = case("stopped", failpoint="update:stop@1")
    assert code == 75
    assert "rlvr: round 1, reward_model: stopped after step 1 of 2; the same command" in said
    code, said = case("stopped")
    assert code == 0, said
    assert_same(case, "stopped")


def test_stages_in_processes_of_their_own_make_the_same(case: Case) -> None:
    code, said = case("processes", "processes=true", "rounds=1")
    assert code == 0, said
    assert manifests(case.run("processes")) == manifests(case.run("whole"))[:1]


def test_what_was_changed_in_between_is_refused(case: Case) -> None:
    code, _ = case("changed", failpoint="loop.noted:kill@3")
    assert code == -9
    labels = case.run("changed") / "rounds/001/labels.jsonl"
    text = labels.read_text()
    labels.write_text(text.replace('"probability": 1.0', '"probability": 0.9', 1))
    code, said = case("changed")
    assert code == 3
    assert "rlvr: run/rounds/001/labels.jsonl was changed or removed after stage label of round 1 made it" in said
    labels.write_text(text)
    code, said = case("changed", "reward_model.settings.optim.lr=0.1")
    assert code == 2
    assert "holds a run with other settings (reward_model.settings" in said
    code, said = case("changed")
    assert code == 0, said
    assert_same(case, "changed")
