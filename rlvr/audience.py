"""One adapter for each audience (a group of people with a taste of its own), trained on what that group prefers.

DIR/audiences.json says what there is; DIR/GROUP/ is the run of a group's adapter, DIR/GROUP.jsonl the rows it learns
from. Nobody's weights but an adapter's own are trained: who has none is served by the model that all began with.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr import disk, lineage, rows, settings
from rlvr.direct_settings import DpoRecipe
from rlvr.errors import DataError, DiskError, RlvrError, SettingsError
from rlvr.recipe import RlRecipe, SftRecipe, TrainingRecipe
from rlvr.reward_settings import Rows
from rlvr.types import SCHEMA

NAME = "audiences.json"
BASE = "base"
"""What the report calls the model without an adapter."""
_GROUP = re.compile(r"\w[\w.-]*")
_PLACE = "{group}"
Say = Callable[[str], None]


def train(
    recipe: str,
    folder: Path,
    *,
    by: str | None,
    groups: Sequence[str] = (),
    overrides: Sequence[str] = (),
    say: Say = print,
) -> dict[str, Any]:
    """Train an adapter for each group, one after the other; returns what audiences.json holds.

    by: column of the rows that names the group, for recipes that learn from files; groups: these alone (without `by`
    they are needed). {group} in an override is the group's name (rewards.taste.label={group}). A group that is finished
    is not trained again, one that was killed goes on. SettingsError, DataError; RlvrError where a run failed.
    """
    plain = [text.replace(_PLACE, groups[0] if groups else "group") for text in overrides]
    first = settings.load_recipe(recipe, plain)
    adapter = ["model.lora=true"] if getattr(getattr(first, "model", None), "lora", None) is None else []
    if not isinstance(first, DpoRecipe | RlRecipe | SftRecipe):
        raise SettingsError(
            f"{recipe}: an audience's adapter is trained by rlvr dpo, train or sft, not {first.command}"
        )
    found, files = _groups(first, folder, by, groups)
    base = str(first.model.path)
    told: dict[str, Any] = {
        "schema": SCHEMA,
        "recipe": recipe,
        "stage": first.stage,
        "by": by,
        "base": base,
        "groups": {},
    }
    told["base_fingerprint"] = lineage.fingerprint_model(base)
    for group in found:
        own = [text.replace(_PLACE, group) for text in overrides]
        own += [f"run.dir={json.dumps(str(folder / group))}"]
        own += adapter
        if group in files:
            own += [f"data.path={json.dumps(str(files[group]))}"]
        say(f"audience {group}: {Path(recipe).name}" + (f", {_count(files[group])} rows" if group in files else ""))
        _run(first.command, recipe, own)
        told["groups"][group] = {"run": group, "adapter": f"{group}/adapter", "model": f"{group}/model"}
    _write(folder / NAME, told)
    return told


def _groups(
    recipe: TrainingRecipe, folder: Path, by: str | None, groups: Sequence[str]
) -> tuple[list[str], dict[str, Path]]:
    """(the groups, the file with the rows of each where the column `by` tells them)"""
    for name in groups:
        _check_name(name)
    if by is None:
        if not groups:
            raise SettingsError("--by COLUMN names the groups that rows are of, or --groups the groups of the recipe")
        return list(groups), {}
    if not isinstance(recipe.data, Rows) or recipe.data.source != "file":
        raise SettingsError(
            "--by reads a file's rows; of a generator or a Hugging Face data set use {group} in overrides"
        )
    of_group: dict[str, list[Mapping[str, Any]]] = {}
    num_without = 0
    for row in rows.read_rows(recipe.data, "data"):
        value = row.fields.get(by) if isinstance(row.fields, Mapping) else None
        if isinstance(value, str) and value:
            of_group.setdefault(value, []).append(row.fields)
        else:
            num_without += 1
    if not of_group:
        raise DataError(
            f"data.path {recipe.data.path}: no row says in {by!r} which group it is of ({num_without} rows)"
        )
    for name in of_group:
        _check_name(name)
    if missing := [name for name in groups if name not in of_group]:
        raise DataError(f"data.path {recipe.data.path}: no row is of {missing[0]!r}; there are {', '.join(of_group)}")
    chosen = list(groups) or sorted(of_group)
    _make(folder)
    files: dict[str, Path] = {}
    origin = lineage.inputs_of({"data": recipe.data.model_dump(mode="json")})
    for name in chosen:
        files[name] = folder / f"{name}.jsonl"
        text = "".join(json.dumps(row, default=str) + "\n" for row in of_group[name])
        _write_text(files[name], text)
        lineage.note_origin(files[name], origin, made_by="rlvr audience train", where={by: name})
    return chosen, files


def _check_name(name: str) -> None:
    if not _GROUP.fullmatch(name) or name in (BASE, "report"):
        raise SettingsError(
            f"group {name!r}: must be the name of a folder (letters, digits, _ . -), and neither {BASE} nor report"
        )


def _run(command: str, recipe: str, overrides: Sequence[str]) -> None:
    """In a process of its own: memory, threads and the sampler of a group end with it."""
    done = subprocess.run([sys.executable, "-m", "rlvr", command, recipe, *overrides], check=False)
    if done.returncode:
        error = RlvrError(f"rlvr {command} {recipe} {' '.join(overrides)} ended with {done.returncode}: see above")
        error.exit_code = done.returncode if done.returncode > 0 else 1
        raise error


def read(folder: Path) -> dict[str, Any]:
    """audiences.json, with the paths of its models as they are now. DataError where there is none."""
    try:
        told = json.loads((folder / NAME).read_text(encoding="utf-8"))
        groups = {str(name): dict(one) for name, one in told["groups"].items()}
    except FileNotFoundError:
        raise DataError(f"{folder} has no {NAME}: `rlvr audience train` makes one") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{folder / NAME} is damaged: {error}") from None
    for name, one in groups.items():
        if not (folder / one["model"] / "config.json").is_file():
            raise DataError(f"{folder}: the adapter of {name} is not finished; the same `rlvr audience train` goes on")
    return {**told, "groups": groups}


def shares(folder: Path, told: Mapping[str, Any]) -> list[str]:
    """What is wrong with the promise that all adapters stand on one model, which nobody changed."""
    found: list[str] = []
    now = lineage.fingerprint_model(told["base"])
    if now != told["base_fingerprint"]:
        found.append(f"{told['base']} is not the model that the adapters were trained on")
    for name, one in told["groups"].items():
        record = lineage.read(folder / one["run"])
        base = next((i for i in (record or {}).get("inputs", ()) if i["setting"] == "model.path"), None)
        if base is not None and base.get("fingerprint") != told["base_fingerprint"]:
            found.append(f"the adapter of {name} was trained on another model than {told['base']}")
    return found


def _count(path: Path) -> int:
    with open(path, encoding="utf-8") as file:
        return sum(1 for _ in file)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"--dir {folder}: {error.strerror}") from None


def _write(path: Path, value: Mapping[str, Any]) -> None:
    _make(path.parent)
    _write_text(path, json.dumps(value, indent=1))


def _write_text(path: Path, text: str) -> None:
    """Whole or not at all; a file that says the same stays as it is, so that a run that goes on finds its rows."""
    try:
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        disk.write(path, text)
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}") from None


def sizes(told: Mapping[str, Any], folder: Path) -> Counter[str]:
    """Bytes of each adapter."""
    found: Counter[str] = Counter()
    for name, one in told["groups"].items():
        found[name] = sum(file.stat().st_size for file in (folder / one["adapter"]).glob("*.safetensors"))
    return found
