"""The built package: whole, the same by way of the sdist, and at peace with PyPI's `verifiers`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("rlvr", "verifiers", "sandbox", "recipes", "tests", "docs", "tools")
pytestmark = pytest.mark.slow


def call(*command: str | Path, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, links and all, so that building leaves nothing in it."""
    tree = tmp_path_factory.mktemp("tree")
    junk = shutil.ignore_patterns("__pycache__", "*.egg-info", "runs")
    for name in PARTS:
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=junk)
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy2(file, tree)
    return tree


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    """Built straight from the tree."""
    call(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tree / "straight", ".", cwd=tree)
    shutil.rmtree(tree / "build", ignore_errors=True)
    return next((tree / "straight").glob("*.whl"))


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def test_the_wheel_holds_every_module_and_nothing_else(tree: Path, wheel: Path) -> None:
    expected = {str(file.relative_to(tree)) for file in (tree / "rlvr").rglob("*.py")}
    for name in ("verifiers", "sandbox"):
        expected |= {f"rlvr/{file.relative_to(tree)}" for file in (tree / name).glob("*.py")}
    assert any(name.startswith("rlvr/verifiers/") for name in expected)
    held = content(wheel)
    assert {name for name in held if name.endswith(".py")} == expected
    assert "rlvr/py.typed" in held
    assert any(name.endswith("licenses/LICENSE") for name in held)
    assert {name.split("/")[0] for name in held if ".dist-info/" not in name} == {"rlvr"}


def test_the_wheel_made_from_the_sdist_is_the_same(tree: Path, wheel: Path) -> None:
    # without --wheel or --sdist: an sdist, and a wheel from what that holds
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", tree / "by-sdist", ".", cwd=tree)
    assert content(next((tree / "by-sdist").glob("*.whl"))) == content(wheel)
    with tarfile.open(next((tree / "by-sdist").glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "LICENSE", "CHANGELOG.md", "Makefile", "tools/setup.sh", "tests/test_package.py"}
    wanted |= {str(file.relative_to(tree)) for part in PARTS for file in (tree / part).rglob("*.py")}
    assert wanted - held == set()
    assert not any(name.startswith(("rlvr/verifiers/", "rlvr/sandbox/")) for name in held), "files twice"


def test_installed_beside_another_verifiers_both_keep_their_names(tree: Path, wheel: Path, tmp_path: Path) -> None:
    other = tmp_path / "verifiers-9.9-py3-none-any.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("verifiers/__init__.py", "WHOSE = 'another project'\n")
        archive.writestr("verifiers/extract.py", "WHOSE = 'another project'\n")
        info = "verifiers-9.9.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: verifiers\nVersion: 9.9\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    home = tmp_path / "env"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    for package in (other, wheel):
        call(
            *(sys.executable, "-m", "pip", "--python", python, "install"),
            *("--quiet", "--no-deps", "--no-index", package),
            cwd=tmp_path,
        )
    look = "import verifiers.extract, rlvr.verifiers.extract as ours; print(verifiers.WHOSE, verifiers.extract.WHOSE); "
    look += "print(ours.__file__)"
    for place in (tmp_path, tree):  # in the checkout too, where a folder of that name lies
        whose, file = call(python, "-c", look, cwd=place).splitlines()
        assert whose == "another project another project"
        package = tree / "rlvr" if place == tree else next(home.glob("lib/python*/site-packages")) / "rlvr"
        assert file == str(package / "verifiers" / "extract.py")

    call(sys.executable, "-m", "pip", "--python", python, "uninstall", "--quiet", "--yes", "rlvr", cwd=tmp_path)
    assert call(python, "-c", "import verifiers; print(verifiers.WHOSE)", cwd=tmp_path) == "another project"
