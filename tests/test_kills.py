"""kill -9 at one place after another: the run ends bit for bit as if nothing had happened, and does nothing twice."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from attempts import Attempt, differences, last_step, quick

pytestmark = pytest.mark.slow
PLUGIN = '''
import os
from rlvr import verifier

def tasks(n):
    for k in range(n):
        yield {"id": f"t{k}", "prompt": f"Q: {k}+1=?", "gold": "slow" if k % 5 == 0 else "fast"}

def share(response):
    """Share of letters and digits."""
    return sum(c.isascii() and c.isalnum() for c in response) / max(1, len(response))

def same(response):
    return 0.5

@verifier("counted", timeout=0.3)
def counted(response, gold):
    """Keeps count of what it judged; some it never comes to an end with, but would if it were asked again."""
    line = response.encode().hex()
    old = open("judged.txt").read().split() if os.path.exists("judged.txt") else []
    with open("judged.txt", "a") as file:
        file.write(line + "\\n")
    while gold == "slow" and line not in old and response[:1] < "a":
        pass
    return share(response)
'''
RL: Mapping[str, Any] = {
    "stage": "rl",
    "steps": 6,
    "engine": {"kind": "hf"},
    "sample": {"groups_per_step": 4, "group_size": 4, "max_tokens": 12},
    "optim": {"lr": 1e-3, "micro_tokens": 128},
    "checkpoint": {"every": 2},
}
SUPERVISED: Mapping[str, Any] = {
    "steps": 12,
    "batch_size": 4,
    "optim": {"kind": "muon", "lr": 1e-2, "schedule": "cosine", "warmup_steps": 3, "micro_tokens": 32},
    "checkpoint": {"every": 3},
}
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
}
SAVING = ["checkpoint.tensors", "checkpoint.manifest", "checkpoint.rename", "checkpoint.renamed", "checkpoint.prune"]
KILLS = {
    "rl": ["sample@3", "score@2", "grouplog.append@2", "micro@2", "update@1", "sync@2", "rollouts@2", "record@2"],
    "lora": ["update@2", "sync@3", "micro@7"],
    "sft": ["micro@5", "update@2", "record@4"],
    "pretrain": ["record@1", "update@5", "micro@9"],
}


class Case:
    """A recipe in a folder of its own, and the runs that are made of it there."""

    def __init__(self, folder: Path, values: Mapping[str, Any]) -> None:
        self.folder = folder
        self.stage = str(values["stage"])
        (folder / "r.yaml").write_text(yaml.safe_dump({**values, "system": {"threads": 1}}))
        self.num_attempts = 0

    def __call__(self, run_dir: str, *overrides: str, failpoint: str = "") -> tuple[int, str]:
        """(exit code, what it said) of one attempt at a run in cwd run_dir/."""
        (self.folder / run_dir).mkdir(exist_ok=True)
        self.num_attempts += 1
        log = self.folder / f"{self.num_attempts}.log"
        return quick(self.arguments(*overrides), log, failpoint=failpoint, cwd=self.folder / run_dir)

    def arguments(self, *overrides: str) -> list[str]:
        command = "train" if self.stage == "rl" else self.stage
        return [command, str(self.folder / "r.yaml"), "run.dir=run", *overrides]

    def run(self, run_dir: str) -> Path:
        return self.folder / run_dir / "run"

    def whole(self) -> Path:
        """The run that nobody disturbed."""
        code, said = self("whole")
        assert code == 0, said
        return self.run("whole")

    def kill(self, run_dir: str, where: str) -> None:
        """An attempt that is killed there: "place@n"."""
        place, _, nth = where.partition("@")
        code, said = self(run_dir, failpoint=f"{place}:kill@{nth or 1}")
        assert code == -9, said
        assert said.endswith(f"rlvr: failpoint {place}: kill\n")

    def finish(self, run_dir: str) -> str:
        code, said = self(run_dir)
        assert code == 0, said
        return said

    def refused(self, code: int, run_dir: str, *overrides: str) -> str:
        """The one line of an attempt that ends with this code."""
        found, said = self(run_dir, *overrides)
        assert found == code, said
        *before, line = said.splitlines()
        assert line.startswith("rlvr: ")
        assert not [other for other in before if other.startswith(("rlvr: ", "Traceback"))]
        return line


MakeCase = Callable[..., Case]


@pytest.fixture
def case(tmp_path: Path, tiny_model: Path) -> MakeCase:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    rows = [{"id": f"d{k}", "prompt": f"Q: {k}+1=?", "completion": f" {k + 1}, of course"} for k in range(40)]
    (tmp_path / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(kind: str, verifier: str = "share", **changes: Any) -> Case:
        stage = "rl" if kind in ("rl", "lora") else kind
        common = RL if stage == "rl" else SUPERVISED
        model: dict[str, Any] = {"config": SMALL} if kind == "pretrain" else {"path": str(tiny_model)}
        data: dict[str, Any] = {"path": str(tmp_path / "sft.jsonl")}
        if stage == "rl":
            plugin = tmp_path / "plugin.py"
            data = {"source": "generator", "path": f"{plugin}:tasks", "args": {"n": 30}}
            data["verifier"] = f"{plugin}:{verifier}"
        if kind == "lora":
            model["lora"] = True
        return Case(tmp_path, {**common, "stage": stage, "model": model, "data": data, **changes})

    return make


# --- the same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KILLS))
def test_a_run_killed_at_every_place_ends_bit_for_bit(case: MakeCase, kind: str) -> None:
    of = case(kind)
    whole = of.whole()
    saving = SAVING if kind in ("rl", "sft") else SAVING[-2:]
    for where in [*KILLS[kind], *saving, "model", "finish"]:
        of.kill("killed", where)
    of.finish("killed")
    assert differences(of.run("killed"), whole) == []
    assert last_step(of.run("killed")) == last_step(whole) == (6 if of.stage == "rl" else 12)


def test_the_damage_of_the_newest_checkpoint_is_named_and_the_end_is_the_same(case: MakeCase) -> None:
    of = case("rl", checkpoint={"every": 1, "keep": 3})
    whole = of.whole()
    of.kill("killed", "checkpoint.renamed@2")
    checkpoints = of.run("killed") / "checkpoints"
    flip(checkpoints / "000002" / "state.safetensors")
    code, said = of("killed", failpoint="checkpoint.renamed:kill@3")  # the step that was lost, and two more
    assert code == -9, said
    assert "checkpoint 000002 skipped: state.safetensors has another checksum than when it was saved" in said
    assert "resuming after step 1\n" in said
    (checkpoints / "000004" / "manifest.json").write_bytes(b"")
    (checkpoints / "000003" / "state.json").unlink()
    said = of.finish("killed")
    assert "checkpoint 000004 skipped: manifest.json cannot be read" in said
    assert "checkpoint 000003 skipped: state.json is missing" in said
    assert "resuming after step 2\n" in said
    assert differences(of.run("killed"), whole) == []


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_finished_groups_are_neither_sampled_nor_judged_again_and_their_timeouts_stay(case: MakeCase) -> None:
    of = case("rl", "counted")
    whole = of.whole()
    for where in ("micro@2", "update@2", "rollouts@2", "record@4"):  # step 1, step 2, steps 2 and 4 once more
        of.kill("killed", where)
    at = last_step(of.run("killed"))
    # what is left of the steps under way is sampled: nothing of those whose groups are all there
    code, said = of("killed", failpoint="sample:kill@1")
    assert (code, last_step(of.run("killed"))) == (-9, at + 1), said
    of.finish("killed")
    assert differences(of.run("killed"), whole) == []
    judged = Counter((of.folder / "killed" / "judged.txt").read_text().split())
    assert judged == Counter((whole.parent / "judged.txt").read_text().split())
    assert judged.total() == 6 * 4 * 4
    outcomes = Counter(verdict["outcome"] for step in range(1, 7) for verdict in verdicts(of.run("killed"), step))
    assert outcomes["timeout"] >= 3


def verdicts(run: Path, step: int) -> list[dict[str, Any]]:
    from rlvr.runs import read_rollouts

    return [verdict for row in read_rollouts(run, step) for verdict in row["verdicts"]]


# --- refused ---------------------------------------------------------------------------------------------------------


def test_what_is_not_the_run_that_was_killed_is_refused_in_one_line_and_leaves_it_as_it_was(
    case: MakeCase, tiny_model: Path, untied_model: Path
) -> None:
    model = shutil.copytree(tiny_model, Path(tempfile.mkdtemp()) / "model")
    of = case("sft", model={"path": str(model)})
    whole = of.whole()
    of.kill("killed", "update@7")
    refused = of.refused

    assert "holds a run with other settings (seed: 0 -> 1)" in refused(2, "killed", "seed=1")
    assert "holds a run with other settings (model.path: " in refused(2, "killed", f"model.path={untied_model}")
    assert "other settings (model.lora" in refused(2, "killed", "model.lora=true")

    flip(model / "model.safetensors")
    assert "model: other than when this run began" in refused(3, "killed")
    flip(model / "model.safetensors")

    data = of.folder / "sft.jsonl"
    rows = data.read_text()
    data.write_text(rows.replace(" 3, of course", " 4, of course"))
    assert "data: other than when this run began" in refused(3, "killed")
    data.write_text(rows)

    kept = {}
    for path in of.run("killed").glob("checkpoints/*/manifest.json"):
        kept[path] = path.read_text()
        path.write_text(json.dumps({**json.loads(kept[path]), "schema": 2}))
    assert len(kept) == 2
    assert "is too old for checkpoint " in refused(3, "killed")
    for path, text in kept.items():
        path.write_text(text)

    of.finish("killed")
    assert differences(of.run("killed"), whole) == []


def test_a_second_run_in_the_same_folder_is_refused_and_the_first_goes_on(case: MakeCase) -> None:
    of = case("sft")
    whole = of.whole()
    cwd = of.folder / "both"
    cwd.mkdir()
    with Attempt(of.arguments(), of.folder / "first.log", failpoint="update:sleep@5", cwd=cwd) as first:
        assert first.until(lambda: "failpoint update: sleep" in first.said), first.said
        assert f"run.dir run is in use by process {first.process.pid};" in of.refused(4, "both")
        assert last_step(of.run("both")) == 4
        first.kill()
    of.finish("both")
    assert differences(of.run("both"), whole) == []


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder in which nobody but root, and not root either where it can be told so, may write."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o555)
        if os.geteuid() == 0 and os.system(f"mount -t tmpfs -o ro none {folder} 2>/dev/null"):
            pytest.skip("root may write everywhere, and may mount nothing here")
        yield folder
        if os.geteuid() == 0:
            os.system(f"umount {folder}")
        folder.chmod(0o755)


def test_a_folder_that_may_not_be_written_is_refused_in_one_line(case: MakeCase, read_only: Path) -> None:
    of = case("sft")
    line = of.refused(4, "other", f"run.dir={read_only}/run")
    assert line.startswith(f"rlvr: run.dir {read_only}/run: ")
    assert line.endswith(("Read-only file system", "Permission denied"))
    assert not (read_only / "run").exists()
