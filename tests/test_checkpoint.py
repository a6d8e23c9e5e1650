"""A checkpoint is whole or passed over: any damage is found, named, and an older one is used."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from rlvr import checkpoint
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
    assert name in why or name == "manifest.json"  # a changed checksum shows at the file that it is of


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
    assert assert_loads(tmp_path, 1) == [
        "checkpoint 000002 skipped: manifest.json: its schema is 2, this version reads 1"
    ]


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


@pytest.fixture
def full_disk() -> Iterator[Callable[[], None]]:
    """Call it, and no file can grow beyond 16 KiB until the test ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_be_written_whole_is_a_disk_error(tmp_path: Path, full_disk: Callable[[], None]) -> None:
    save(tmp_path, 1)
    full_disk()
    with pytest.raises(DiskError, match=f"^cannot save the checkpoint of step 2 to {tmp_path}: .*File too large"):
        checkpoint.save(tmp_path, 2, {"big": torch.zeros(100_000)}, {}, keep=1)
    assert names(tmp_path) == ["000001"]
    assert assert_loads(tmp_path, 1) == []


def test_a_full_disk_leaves_the_older_ones_and_no_half_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, 2)

    def full(_: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(safetensors.torch, "save_file", full)
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
