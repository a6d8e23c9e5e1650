"""The groups of a step that is not finished yet, so that a killed run goes on with them as they were.

RUN/groups/000051.log, one file per step: a head with the schema, then a frame per group, appended when all its verdicts
are there. A frame is magic, length, checksum and compressed JSON; what a kill left half written is cut off. A group
comes back bit for bit (token ids, log-probabilities, verdicts, timeouts among them) but for its task, which is in the
data: its id and a digest of it are kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from rlvr.disk import sync
from rlvr.engines.pipe import completion_from
from rlvr.errors import DataError, DiskError
from rlvr.failpoints import failpoint
from rlvr.inputs import fingerprint_rows
from rlvr.types import SCHEMA, Completion, Group, Rollout, Task, Verdict

_MAGIC = b"rlvrlog"
_HEAD = _MAGIC + bytes([SCHEMA])
_FRAME = struct.Struct("<4sII")
"""Magic, bytes of the payload, its crc32."""
_FRAME_MAGIC = b"GRP\n"


class GroupLog:
    """The logs of a run's unfinished steps. DiskError where they cannot be written; one thread appends."""

    def __init__(self, folder: Path, warn: Callable[[str], None], run: str = "") -> None:
        """folder: RUN/groups, made when the first group comes; warn: told of what had to be cut off or left alone.

        run: what tells this run from all others; groups of another one are not used.
        """
        self.folder = folder
        self.warn = warn
        self.run = run
        self._file: IO[bytes] | None = None
        self._step = -1

    def append(self, step: int, key: str, group: Group) -> None:
        """Write one finished group, under a key that is its own within the step."""
        payload = zlib.compress(_pack(self.run, key, group), level=1)
        frame = _FRAME.pack(_FRAME_MAGIC, len(payload), zlib.crc32(payload)) + payload
        half = len(frame) // 2
        try:
            file = self._open(step)
            start = file.tell()
            try:
                _write_all(file, frame[:half])
                failpoint("grouplog.append")
                _write_all(file, frame[half:])
            except BaseException:
                file.truncate(start)  # needs no room: nothing torn is left on a full disk
                file.seek(start)
                raise
        except OSError as error:
            raise self._disk_error(step, error) from error

    def read(self, step: int, tasks: Mapping[str, Task]) -> dict[str, Group]:
        """Groups of a step by their key, in the order in which they were finished; `tasks` are the data's, by id.

        What is torn or damaged is cut off the file with all that follows, and told; a log of another schema is told
        and not used. DataError where a group's task is not in the data as it was.
        """
        path = self._path(step)
        self._close()
        try:
            if not path.is_file():
                return {}
            with open(path, "r+b") as file:
                frames, end, why = _scan(file.read())
                if why:
                    self.warn(f"{path}: {why}")
                if end is not None:
                    file.truncate(end)
        except OSError as error:
            raise self._disk_error(step, error) from error
        try:
            own = [values for values in map(_parse, frames) if values["run"] == self.run]
            if len(own) < len(frames):
                self.warn(f"{path}: {len(frames) - len(own)} groups are of another run; they are made again")
            return dict(_unpack(values, tasks, path) for values in own)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} holds what is no group of a run; remove it, its groups are made again") from None

    def sync(self, step: int) -> None:
        """Have the disk keep the groups of a step, before an update makes use of them."""
        try:
            if self._path(step).is_file():
                os.fsync(self._open(step).fileno())
        except OSError as error:
            raise self._disk_error(step, error) from error

    def forget(self, up_to_step: int) -> None:
        """Remove the logs of steps that no checkpoint needs any more: up to the oldest that is kept."""
        self._remove(lambda step: step <= up_to_step)

    def discard(self, step: int) -> None:
        """Remove the log of a step that came to nothing: its groups are to be made again."""
        self._remove(lambda logged: logged == step)

    def clear(self) -> None:
        """Remove all logs."""
        self._remove(lambda step: True)

    def _remove(self, is_gone: Callable[[int], bool]) -> None:
        try:
            for path in self.folder.glob("*.log"):
                if path.stem.isdecimal() and is_gone(int(path.stem)):
                    if int(path.stem) == self._step:
                        self._close()
                    path.unlink()
            with contextlib.suppress(OSError):  # it is not empty, or was never made
                self.folder.rmdir()
        except OSError as error:
            raise DiskError(f"cannot remove old logs in {self.folder}: {error.strerror or error}") from error

    def _open(self, step: int) -> IO[bytes]:
        """The file of the step, at its end: new, or what is whole of it."""
        if self._file is not None and self._step == step:
            return self._file
        self._close()
        path = self._path(step)
        is_new_folder = not self.folder.is_dir()
        self.folder.mkdir(exist_ok=True)
        file = open(path, "ab+", buffering=0)  # noqa: SIM115 - until the next step
        try:
            file.seek(0)
            _, end, _ = _scan(file.read())
            file.truncate(end or 0)  # a log of another schema makes room for ours
            if not end:
                _write_all(file, _HEAD)
                sync(self.folder)
                if is_new_folder:
                    sync(self.folder.parent)
            file.seek(0, os.SEEK_END)
        except OSError:
            file.close()
            raise
        self._file, self._step = file, step
        return file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._step = None, -1

    def _path(self, step: int) -> Path:
        return self.folder / f"{step:06d}.log"

    def _disk_error(self, step: int, error: OSError) -> DiskError:
        return DiskError(f"cannot keep the groups of step {step} in {self._path(step)}: {error.strerror or error}")


# --- frames ----------------------------------------------------------------------------------------------------------


def _scan(raw: bytes) -> tuple[list[bytes], int | None, str]:
    """(payloads of whole frames, where they end, what is wrong); no end where the file is not ours to cut."""
    if len(raw) < len(_HEAD):
        return [], 0, "its head is torn; nothing of it is used" if raw else ""
    if not raw.startswith(_HEAD):
        if raw.startswith(_MAGIC):
            schema = raw[len(_MAGIC)]
            return [], None, f"its schema is {schema}, this version reads {SCHEMA}; its groups are made again"
        return [], 0, "its head is damaged; its groups are made again"
    payloads, at = [], len(_HEAD)
    while at < len(raw):
        body = at + _FRAME.size
        if body > len(raw):
            break
        magic, length, checksum = _FRAME.unpack_from(raw, at)
        payload = raw[body : body + length]
        if magic != _FRAME_MAGIC or len(payload) < length or zlib.crc32(payload) != checksum:
            break
        try:
            payloads.append(zlib.decompress(payload))
        except zlib.error:
            break
        at = body + length
    cut = len(raw) - at
    return payloads, at, f"torn or damaged after {len(payloads)} groups; {cut} bytes cut off" if cut else ""


def _write_all(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


# --- groups as JSON --------------------------------------------------------------------------------------------------


def _pack(run: str, key: str, group: Group) -> bytes:
    values = {
        "run": run,
        "key": key,
        "task": group.task.id,
        "digest": fingerprint_rows([group.task]),
        "prompt_ids": group.prompt_ids,
        "rollouts": [_rollout_fields(rollout) for rollout in group.rollouts],
    }
    if group.greedy is not None:
        values["greedy"] = _rollout_fields(group.greedy)
    # not as ASCII: two lone surrogates that happen to stand side by side would come back as one character
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _rollout_fields(rollout: Rollout) -> dict[str, Any]:
    verdicts = {
        part: _fields(verdict) | {"checks": _tagged(verdict.checks)} for part, verdict in rollout.verdicts.items()
    }
    return {
        "id": rollout.id,
        "completion": _fields(rollout.completion),
        "verdicts": verdicts,
        "reward": rollout.reward,
    }


def _fields(record: Completion | Verdict) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def _parse(raw: bytes) -> dict[str, Any]:
    return json.loads(raw.decode("utf-8", "surrogatepass"))


def _unpack(values: dict[str, Any], tasks: Mapping[str, Task], path: Path) -> tuple[str, Group]:
    task = tasks.get(values["task"])
    if task is None or fingerprint_rows([task]) != values["digest"]:
        what = "is not in the data any more" if task is None else "is another in the data now"
        raise DataError(
            f"{path}: task {values['task']!r} {what}; bring the rows back that the run began with, or set another "
            "run.dir"
        )
    return values["key"], Group(
        task=task,
        prompt_ids=tuple(values["prompt_ids"]),
        rollouts=tuple(_rollout(fields) for fields in values["rollouts"]),
        greedy=_rollout(values["greedy"]) if "greedy" in values else None,
    )


def _rollout(fields: dict[str, Any]) -> Rollout:
    completion = completion_from(fields["completion"])
    verdicts = {
        part: Verdict(**values | {"checks": _untagged(values["checks"])}) for part, values in fields["verdicts"].items()
    }
    return Rollout(id=fields["id"], completion=completion, verdicts=verdicts, reward=fields["reward"])


def _tagged(value: Any) -> Any:
    """Plain data in which JSON, too, tells tuples from lists and 1 from "1" as a key."""
    if isinstance(value, Mapping):
        return {"map": [[_tagged(key), _tagged(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [_tagged(item) for item in value]}
    return value


def _untagged(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((tag, items),) = value.items()
    if tag == "map":
        return {_untagged(key): _untagged(item) for key, item in items}
    return (list if tag == "list" else tuple)(_untagged(item) for item in items)
