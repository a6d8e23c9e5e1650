"""What is whole gets its name once, and never another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlvr import disk
from rlvr.errors import DiskError
from rlvr.feedback import export_files


def made(path: Path, is_folder: bool) -> Path:
    if is_folder:
        path.mkdir()
        (path / "x").write_text("ours")
    else:
        path.write_text("ours")
    return path


def full(_: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_has_the_name_keeps_it(is_folder: bool, tmp_path: Path) -> None:
    part, names = made(tmp_path / "part", is_folder), ["file", "folder", "link"]
    (tmp_path / "file").write_text("theirs")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("theirs")
    (tmp_path / "link").symlink_to("nothing")
    for name in names:
        with pytest.raises(FileExistsError):
            disk.publish(part, tmp_path / name)
    assert [(tmp_path / name).read_text() for name in ("file", "folder/x")] == ["theirs"] * 2
    assert not (tmp_path / "nothing").exists()
    disk.publish(part, tmp_path / "new")
    assert (tmp_path / "new" / "x" if is_folder else tmp_path / "new").read_text() == "ours"


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_name_that_the_disk_may_not_keep_is_taken_back(
    is_folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = made(tmp_path / "part", is_folder)
    monkeypatch.setattr(disk, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        disk.publish(part, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def test_an_export_that_fails_at_the_last_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "sync", full)
    with pytest.raises(DiskError, match="cannot be written: No space left on device"):
        export_files.write([{"prompt": "p"}], tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    export_files.write([{"prompt": "\ud800"}], tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == b'{"prompt": "\\ud800"}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
