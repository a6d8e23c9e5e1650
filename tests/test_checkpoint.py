"""A checkpoint is whole or passed over: any damage is found, named, and an older one is used."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors
import torch
from test_grouplog import no_file_beyond
from torch import Tensor

from rlvr import checkpoint, failpoints
from rlvr.errors import DataError, DiskError

FILES = ("manifest.json", "state.json", "state.safetensors")


def tensors(step: int) -> dict[str, Tensor]:
    return {
        "model.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3).T * step,  # not contiguous
        "model.half": torch.tensor([1.0, -0.1, 3e38], dtype=torch.bfloat16),
        "optimizer.weight.step": torch.tensor(float(step)),
        "optimizer.weight.exp_avg": torch.tensor([float("inf"), -0.0, 1e-45]),
        "none": torch.empty(0, 4),
    }


def save(folder: Path, *steps: int, keep: int = 5) -> None:
    for step in steps:
        checkpoint.save(folder, step, tensors(step), {"cursor": 10 * step, "before": {"pass@1": 0.1}}, keep=keep)


@pytest.fixture(autouse=True)
def _fresh_failpoints() -> None:
    failpoints._reached.clear()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_loads(folder: Path, step: int) -> list[str]:
    """The newest whole one is that of `step`, bit for bit; returns why newer ones were passed over."""
    found = checkpoint.load_newest(folder)
    assert found is not None
    assert found[0] == step
    assert found[2] == {"step": step, "cursor": 10 * step, "before": {"pass@1": 0.1}}
    expected = tensors(step)
    assert found[1].keys() == expected.keys()
    for name, tensor in found[1].items():
        assert tensor.dtype == expected[name].dtype
        assert tensor.shape == expected[name].shape
        raw, wanted = (t.contiguous().reshape(-1).view(torch.uint8) for t in (tensor, expected[name]))
        assert torch.equal(raw, wanted)
    return found[3]


def test_what_was_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    save(tmp_path, 7)
    assert names(tmp_path) == ["000007"]
    assert names(tmp_path / "000007") == sorted(FILES)
    assert assert_loads(tmp_path, 7) == []


def test_a_folder_without_checkpoints_holds_none(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path) is None
    assert checkpoint.load_newest(tmp_path / "nowhere") is None


def test_the_newest_is_chosen_by_number_and_the_oldest_are_pruned(tmp_path: Path) -> None:
    save(tmp_path, 2, 999_999, 1_000_000, keep=2)
    assert names(tmp_path) == ["1000000", "999999"]
    assert assert_loads(tmp_path, 1_000_000) == []


def test_a_damaged_newer_one_goes_and_the_new_one_is_never_pruned(tmp_path: Path) -> None:
    save(tmp_path, 1, 5, 8, 9)
    for name in ("000008", "000009"):
        (tmp_path / name / "state.json").write_text("damaged")
    assert len(assert_loads(tmp_path, 5)) == 2
    save(tmp_path, 6, keep=2)  # the run went on from 5
    assert names(tmp_path) == ["000005", "000006"]
    assert assert_loads(tmp_path, 6) == []
    shutil.copytree(tmp_path / "000005", tmp_path / "000007")
    save(tmp_path, 6, keep=1)
    assert names(tmp_path) == ["000006"]


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 3)
    (tmp_path / "000003" / "state.json").write_text("damaged")
    save(tmp_path, 3)
    assert assert_loads(tmp_path, 3) == []


def flipped(raw: bytes) -> bytes:
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "a byte flipped": flipped,
    "the first byte flipped": lambda raw: bytes([raw[0] ^ 1]) + raw[1:],
    "the last byte flipped": lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
    "cut short": lambda raw: raw[:-1],
    "longer": lambda raw: raw + b"x",
    "empty": lambda raw: b"",
    "zeros": lambda raw: bytes(len(raw)),
    "missing": lambda raw: None,
}


@pytest.mark.parametrize("damage", list(DAMAGES))
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_older_checkpoint_used(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, 1, 2)
    path = tmp_path / "000002" / name
    raw = DAMAGES[damage](path.read_bytes())
    if raw is None:
        path.unlink()
    else:
        path.write_bytes(raw)
    (why,) = assert_loads(tmp_path, 1)
    assert why.startswith("checkpoint 000002 skipped: ")
    assert name in why


def test_no_flipped_bit_of_the_manifest_lets_anything_wrong_through(tmp_path: Path) -> None:
    save(tmp_path, 2)
    path = tmp_path / "000002" / "manifest.json"
    whole = path.read_bytes()
    unnoticed = 0
    for place in range(len(whole)):
        for bit in (1, 32):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            fault = checkpoint.verify(tmp_path / "000002")
            if fault is None:
                unnoticed += 1
                assert_loads(tmp_path, 2)
    assert unnoticed == 0


NO_FILES = '{"schema": 1, "step": 2, "files": {}}'


@pytest.mark.parametrize("text", ["[]", "null", '{"schema": 1}', NO_FILES, NO_FILES.replace("{}", "3")])
def test_a_manifest_of_another_form_is_passed_over(tmp_path: Path, text: str) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "000002" / "manifest.json").write_text(text)
    (why,) = assert_loads(tmp_path, 1)
    assert "manifest.json" in why


def test_a_checkpoint_under_another_number_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "000001", tmp_path / "000009")
    assert assert_loads(tmp_path, 1) == ["checkpoint 000009 skipped: manifest.json does not speak of this checkpoint"]


def test_a_newer_schema_is_told(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    path = tmp_path / "000002" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 2}))
    assert checkpoint.verify(path.parent) == (
        "manifest.json: its schema is 2, this version reads 1 (rlvr is too old for it)"
    )
    told = f"^this version of rlvr is too old for checkpoint {path.parent} .its schema is newer"
    with pytest.raises(DataError, match=told):  # not passed over for an older one: the next save would remove it
        checkpoint.load_newest(tmp_path)
    assert path.is_file()


def test_numbers_of_a_newer_schema_are_told(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    path = tmp_path / "000002"
    raw = (path / "state.json").read_text().replace('"schema": 1', '"schema": 2').encode()
    (path / "state.json").write_bytes(raw)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["state.json"] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    del manifest["sha256"]
    (path / "manifest.json").write_text(json.dumps({**manifest, "sha256": checkpoint._own_checksum(manifest)}))
    with pytest.raises(DataError, match=f"too old for checkpoint {path} .its schema is newer"):
        checkpoint.load_newest(tmp_path)


def test_a_file_that_the_manifest_does_not_name_is_told(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "000002" / "optimizer.pt").write_bytes(b"x")
    assert assert_loads(tmp_path, 1) == [
        "checkpoint 000002 skipped: optimizer.pt is in it, which its manifest does not name"
    ]


def test_a_manifest_of_another_step_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    shutil.copy(tmp_path / "000001" / "manifest.json", tmp_path / "000002" / "manifest.json")
    assert assert_loads(tmp_path, 1) == ["checkpoint 000002 skipped: manifest.json does not speak of this checkpoint"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_a_folder_is_named(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "000002" / name).unlink()
    (tmp_path / "000002" / name).mkdir()
    (why,) = assert_loads(tmp_path, 1)
    assert name in why


def test_one_step_is_loaded_by_its_number(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    found, state = checkpoint.load(tmp_path, 1)
    assert found["optimizer.weight.step"].item() == 1.0
    assert state == {"step": 1, "cursor": 10, "before": {"pass@1": 0.1}}
    with pytest.raises(DataError, match=f"^{tmp_path} has no checkpoint of step 3; there are those of 1, 2$"):
        checkpoint.load(tmp_path, 3)
    with pytest.raises(DataError, match=r"has no checkpoint of step 3; there is none$"):
        checkpoint.load(tmp_path / "nowhere", 3)
    (tmp_path / "000002" / "state.json").unlink()
    with pytest.raises(DataError, match=f"^checkpoint {tmp_path}/000002: state.json is missing$"):
        checkpoint.load(tmp_path, 2)


def test_the_tensors_are_a_file_that_the_library_reads(tmp_path: Path) -> None:
    save(tmp_path, 3)
    with safetensors.safe_open(tmp_path / "000003" / "state.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == sorted(tensors(3))
        assert file.get_slice("none").get_shape() == [0, 4]
        assert file.get_tensor("model.weight").tolist() == tensors(3)["model.weight"].tolist()


@pytest.mark.parametrize("name", sorted(checkpoint._DTYPES))
def test_every_kind_of_number_comes_back(tmp_path: Path, name: str) -> None:
    given = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(getattr(torch, name))
    others = {"a byte": torch.tensor([7], dtype=torch.uint8), "wide": torch.tensor([2**60])}
    checkpoint.save(tmp_path, 1, {"x": given, **others}, {}, keep=1)
    found, _ = checkpoint.load(tmp_path, 1)
    assert found["x"].dtype == given.dtype
    assert found["x"].tolist() == given.tolist()
    assert found["wide"].item() == 2**60


def test_contents_say_what_is_in_it(tmp_path: Path) -> None:
    save(tmp_path, 3)
    path = tmp_path / "000003"
    found = checkpoint.contents(path)
    assert found["bytes"] == sum(file.stat().st_size for file in path.iterdir())
    assert found["saved"] == (path / "manifest.json").stat().st_mtime
    assert found["shapes"] == {name: list(tensor.shape) for name, tensor in tensors(3).items()}
    assert found["numbers"] == {"cursor": 30, "before": {"pass@1": 0.1}}
    for raw in (b"", b"\xff" * 8 + b"{}", bytes(16)):
        (path / "state.safetensors").write_bytes(raw)
        with pytest.raises(DataError, match=f"^checkpoint {path} cannot be read: "):
            checkpoint.contents(path)


def test_the_oldest_kept_is_the_lowest_that_is_there(tmp_path: Path) -> None:
    assert checkpoint.oldest_kept(tmp_path / "nowhere") is None
    save(tmp_path, 3, 1_000_000, 20)
    assert checkpoint.oldest_kept(tmp_path) == 3


def test_an_old_one_that_lost_a_file_is_not_counted_among_those_that_stay(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    (tmp_path / "000003" / "state.json").unlink()
    save(tmp_path, 4, keep=2)
    assert names(tmp_path) == ["000002", "000003", "000004"]
    save(tmp_path, 5, keep=2)
    assert names(tmp_path) == ["000004", "000005"]


def test_where_none_is_whole_all_reasons_are_told(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "000001" / "state.json").unlink()
    (tmp_path / "000002" / "state.safetensors").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        checkpoint.load_newest(tmp_path)
    told = str(caught.value)
    assert told.startswith(f"no checkpoint in {tmp_path} is whole: checkpoint 000002 skipped: state.safetensors has 0 ")
    assert told.endswith("; checkpoint 000001 skipped: state.json is missing")


def test_folders_and_files_of_others_are_neither_read_nor_pruned(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir(parents=True)
    (tmp_path / "000099").write_text("a file")
    (tmp_path / "²").mkdir()
    save(tmp_path, 1, 2, keep=1)
    assert names(tmp_path) == ["000002", "000099", "best", "²"]
    assert assert_loads(tmp_path, 2) == []


def test_a_file_that_cannot_be_written_whole_is_a_disk_error(tmp_path: Path) -> None:
    save(tmp_path, 1)

    def save_more() -> None:
        with no_file_beyond(16 * 1024):
            checkpoint.save(tmp_path, 2, {"big": torch.zeros(100_000)}, {}, keep=1)

    with pytest.raises(DiskError, match=f"^cannot save the checkpoint of step 2 to {tmp_path}: .*File too large"):
        save_more()
    assert names(tmp_path) == ["000001"]
    assert assert_loads(tmp_path, 1) == []


def test_a_full_disk_leaves_the_older_ones_and_no_half_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, 2)
    for place in ("tensors", "manifest", "rename"):
        monkeypatch.setenv("RLVR_FAILPOINT", f"checkpoint.{place}:enospc")
        with pytest.raises(
            DiskError, match=f"^cannot save the checkpoint of step 3 to {tmp_path}: No space left on device$"
        ):
            save(tmp_path, 3, keep=1)
    assert names(tmp_path) == ["000001", "000002"]
    assert assert_loads(tmp_path, 2) == []


def test_a_disk_that_fails_while_syncing_is_a_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    save(tmp_path, 1)
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(DiskError, match=r"Input/output error$"):
        save(tmp_path, 2)
    assert names(tmp_path) == ["000001"]


def test_what_a_killed_save_left_is_removed_by_the_next(tmp_path: Path) -> None:
    save(tmp_path, 1)
    stale = tmp_path / ".000002.4711.new"
    stale.mkdir()
    (stale / "state.safetensors").write_bytes(b"half")
    assert assert_loads(tmp_path, 1) == []
    save(tmp_path, 2)
    assert names(tmp_path) == ["000001", "000002"]


# --- rights ---


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others reach too, where pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def as_somebody_else(act: Callable[[], object]) -> object:
    """Do it with no more rights than anybody has."""
    if os.geteuid() != 0:
        return act()
    os.seteuid(65534)
    try:
        return act()
    finally:
        os.seteuid(0)


def test_a_checkpoint_that_may_not_be_read_is_named_and_not_passed_over(open_folder: Path) -> None:
    save(open_folder, 1, 2)
    newest = open_folder / "000002"
    for path in (newest / "state.safetensors", newest / "manifest.json", newest):
        path.chmod(0)
        with pytest.raises(
            DataError, match=f"^checkpoint {newest} cannot be read: Permission denied; make it readable"
        ):
            as_somebody_else(lambda: checkpoint.load_newest(open_folder))
        fault = as_somebody_else(lambda: checkpoint.verify(newest))
        assert fault == f"{'manifest.json' if path == newest else path.name} cannot be read (Permission denied)"
        path.chmod(0o755)
    open_folder.chmod(0)
    with pytest.raises(DataError, match=f"^{open_folder} cannot be read: Permission denied$"):
        as_somebody_else(lambda: checkpoint.load_newest(open_folder))
    open_folder.chmod(0o755)


def test_a_folder_that_may_not_be_written_is_a_disk_error(open_folder: Path) -> None:
    for folder in (open_folder, open_folder / "checkpoints"):
        with pytest.raises(
            DiskError, match=f"^cannot save the checkpoint of step 1 to {folder}: Permission denied$"
        ) as caught:
            as_somebody_else(lambda folder=folder: save(folder, 1))
        assert "\n" not in str(caught.value)
    assert names(open_folder) == []


# --- kills and power cuts ---

SAVE = """
import sys, torch
from pathlib import Path
from rlvr import checkpoint
for step in (1, 2, 3):
    checkpoint.save(Path(sys.argv[1]), step, {"x": torch.full((5,), float(step))}, {"cursor": step}, keep=2)
"""
KILLS = [  # place, how often it was reached, what loads afterwards, what is there
    ("checkpoint.tensors", 3, 2, ["000001", "000002"]),
    ("checkpoint.manifest", 3, 2, ["000001", "000002"]),
    ("checkpoint.rename", 3, 2, ["000001", "000002"]),
    ("checkpoint.renamed", 3, 3, ["000001", "000002", "000003"]),
    ("checkpoint.prune", 1, 3, ["000002", "000003"]),
    ("checkpoint.tensors", 1, None, []),
]


@pytest.mark.parametrize(("place", "count", "loads", "there"), KILLS, ids=[f"{p}@{n}" for p, n, _, _ in KILLS])
def test_a_kill_anywhere_in_a_save_leaves_the_newest_whole_one(
    tmp_path: Path, place: str, count: int, loads: int | None, there: list[str]
) -> None:
    environment = {**os.environ, "RLVR_FAILPOINT": f"{place}:kill@{count}"}
    done = subprocess.run(
        [sys.executable, "-c", SAVE, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, f"rlvr: failpoint {place}: kill\n")
    assert [name for name in names(tmp_path) if not name.startswith(".")] == there
    found = checkpoint.load_newest(tmp_path)
    assert (found and (found[0], found[1]["x"].tolist(), found[3])) == (loads and (loads, [float(loads)] * 5, []))
    assert all(checkpoint.verify(tmp_path / name) is None for name in there)
    save(tmp_path, 4, keep=2)  # nothing is in the way of the next one
    assert names(tmp_path) == [*([f"{loads:06d}"] if loads else []), "000004"]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_nothing_has_its_name_or_is_removed_before_what_comes_first_is_on_the_disk(tmp_path: Path) -> None:
    trace, folder = tmp_path / "trace", tmp_path / "checkpoints"
    calls = "trace=fsync,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir"
    command = ["strace", "-f", "-y", "-o", str(trace), "-e", calls, sys.executable, "-c", SAVE, str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    told = []
    for line in trace.read_text().splitlines():
        call = re.match(rf"\d+ +(\w+)\([^\"]*?[<\"]{folder}([^>\"]*)", line)
        if call:
            told.append(f"{call[1]} checkpoints{re.sub(r'[.]([0-9]+)[.][0-9]+[.]new', r'NEW', call[2])}")
    third = told[max(i for i, event in enumerate(told) if event == "mkdir checkpoints/NEW") :]
    assert third[:7] == [
        "mkdir checkpoints/NEW",
        "fsync checkpoints/NEW/state.safetensors",
        "fsync checkpoints/NEW/state.json",
        "fsync checkpoints/NEW/manifest.json",
        "fsync checkpoints/NEW",
        "rename checkpoints/NEW",
        "fsync checkpoints",
    ]
    assert third[7] == "rename checkpoints/000001"  # only now is the old one taken away
    assert {event.split()[0] for event in third[8:]} <= {"unlink", "unlinkat", "rmdir"}
