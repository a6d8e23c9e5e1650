"""docs/VERIFIERS.md: what it shows is run, and comes out as shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from rlvr import audit_card, plugins
from rlvr.audit_examples import describe, markdown
from rlvr.settings import load_recipe

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "VERIFIERS.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the files that the page makes."""
    (code,) = blocks("python")
    (tmp_path / "clock.py").write_text(code)
    (rows,) = blocks("json")
    (tmp_path / "times.jsonl").write_text(rows)
    return tmp_path


def run(command: str, folder: Path) -> str:
    """What the command prints; it must succeed."""
    command = re.sub(r"^rlvr\b", f"{sys.executable} -m rlvr", command)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks("console"))))
def test_a_command_of_the_page_prints_what_the_page_shows(folder: Path, number: int) -> None:
    first, *lines = blocks("console")[number].splitlines()
    said = run(first.removeprefix("$ "), folder)
    assert [line for line in lines if line not in said] == []


@pytest.mark.slow
def test_the_verifier_of_the_page_has_its_name_once_it_is_installed(folder: Path) -> None:
    (toml,) = blocks("toml")
    (points,) = tomllib.loads(toml)["project"]["entry-points"].items()
    info = folder / "clock-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clock\nVersion: 1\n")
    lines = [f"{name} = {value}" for name, value in points[1].items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{points[0]}]", *lines, ""]))
    said = run("rlvr verify --explain 14:05 '\\boxed{14:05}' -v clock", folder)
    assert said.startswith("score     1\n")
    assert "clock " in run("rlvr verifiers list", folder)


def test_the_recipe_of_the_page_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (recipe,) = blocks("yaml")
    Path("clock.yaml").write_text(recipe)
    assert yaml.safe_load(recipe)["stage"] == "rl"
    assert load_recipe("clock.yaml", ["steps=1"]).rewards["answer"].options == {"tolerance": 1}


def test_the_table_of_checks_is_that_of_the_audit() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.partition("## 4.")[0], re.MULTILINE)
    assert dict(rows) == audit_card.CHECKS


def test_the_table_of_verifiers_is_what_the_command_prints() -> None:
    table = PAGE.partition("## Built-in verifiers")[2]
    built_in = [describe(name) for name in plugins._BUILT_IN["verifier"]]
    assert [line for line in markdown(built_in) if line not in table] == []
    assert table.count("\n| `") == len(built_in)
