"""The layout: links, the package map, layers, and what a light import may load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("verifiers", "sandbox")
HEAVY = {"torch", "transformers", "vllm"}

# A module imports only from its own or a lower line; the last line is the lowest.
LAYERS = {
    "entry": "__main__ cli *_commands judge_outputs dry_run serve.* viewer.* feedback.* loop.* loop probing.* doctor "
    "plan plot status scripts rescore why trace ancestry ancestry_rows audience audience_report verify audit audit_* "
    "golds golds_*",
    "loops": "loops.* lm_eval.* lm_eval evaluate sample progress",
    "rewards": "rewards.* judging.* adaptors.* canaries alarms rollout scale.ray",
    "models": "policy heads lora trained parallel parity mismatch trials engines.* "
    "checkpoint grouplog runs rollout_table chain lineage",
    "maths": "batching packing advantages losses surrogates kernels tiles fused direct_losses preference_losses "
    "calibration inverse agreement consensus",
    "settings": "fields *_settings recipe stages presets settings rows columns tasks preferences preference_labels "
    "preference_texts chat verifiers.*",
    "ground": "types errors odds plugins awaiting seeds machine disk environment children inputs failpoints sandbox.*",
}
NO_TORCH = ("settings", "ground")


def modules() -> dict[str, Path]:
    """Ours by their name under rlvr ("engines.base"), through the links."""
    found: dict[str, Path] = {}
    for folder in (ROOT / "rlvr", *(ROOT / name for name in LINKED)):
        for file in sorted(folder.rglob("*.py")):  # rglob does not follow links
            parts = file.relative_to(ROOT).with_suffix("").parts
            parts = parts[1:] if parts[0] == "rlvr" else parts
            found[".".join(parts).removesuffix(".__init__").removesuffix("__init__")] = file
    del found[""]  # rlvr itself: names only, loaded when used
    return found


MODULES = modules()


def layer(module: str) -> str | None:
    for name, members in LAYERS.items():
        if any(fnmatchcase(module, member) for member in members.split()):
            return name
    return None


def imports(file: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, anywhere in it; `from rlvr import Task` counts as rlvr.types."""
    import rlvr

    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{file}:{node.lineno}: write the full name, relative imports differ through the links"
            )
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                if node.module == "rlvr":
                    yield rlvr._HOME.get(alias.name, below)
                else:
                    yield below if below.removeprefix("rlvr.") in MODULES else str(node.module)


def heavy_after(code: str) -> set[str]:
    """Which heavy modules a fresh interpreter holds after running code."""
    code += "\nimport sys; print('loaded', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stdout.splitlines()[-1].split()[1:])


def test_programs_that_attack_are_never_imported_as_tests() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "sandbox_attacks" in settings["norecursedirs"]
    programs = [file.name for file in (ROOT / "tests" / "sandbox_attacks").rglob("*.py")]
    assert len(programs) > 100
    assert [name for name in programs if fnmatchcase(name, "test_*.py") or fnmatchcase(name, "*_test.py")] == []


def test_no_large_file_is_kept() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    sizes = {name: (ROOT / name).stat().st_size for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    assert {name: size for name, size in sizes.items() if size > 1 << 20} == {}


@pytest.mark.parametrize("name", LINKED)
def test_links_exist_and_are_relative(name: str) -> None:
    link = ROOT / "rlvr" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert link.is_dir()
    assert not (ROOT / name / "__init__.py").exists(), "it would make `import verifiers` ours instead of PyPI's"


def test_package_map_names_every_folder() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    holders = [file.relative_to(ROOT).parent for file in (ROOT / "rlvr").rglob("*.py")]
    found = {".".join(folder.parts) for folder in holders} | {f"rlvr.{name}" for name in LINKED}
    assert sorted(settings["packages"]) == sorted(found)
    assert settings["package-dir"] == {"rlvr": "rlvr"} | {f"rlvr.{name}": name for name in LINKED}


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith(LINKED)])
def test_no_linked_module_bears_a_stdlib_name(module: str) -> None:
    assert module.rpartition(".")[2] not in sys.stdlib_module_names, "pytest and scripts in that folder would find ours"


@pytest.mark.parametrize(
    "file",
    [f for folder in ("rlvr", *LINKED, "tests", "recipes") for f in sorted((ROOT / folder).rglob("*.py"))],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_nobody_imports_the_folders_by_their_short_names(file: Path) -> None:
    if file.name == "prime_env.py":
        pytest.skip("the one file that speaks with Prime's package")
    short = [name for name in imports(file) if name.partition(".")[0] in LINKED]
    assert short == [], "write rlvr.verifiers, rlvr.sandbox"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_or_a_lower_layer(module: str) -> None:
    own = layer(module)
    assert own is not None, f"{module} is in no layer: put it into LAYERS here and into the design"
    order = list(LAYERS)
    for name in imports(MODULES[module]):
        if name.partition(".")[0] != "rlvr" or name in ("rlvr", "rlvr.__version__"):
            continue
        assert not module.startswith("sandbox.") or name.startswith("rlvr.sandbox."), (
            f"sandbox works alone, not with {name}"
        )
        target = name.removeprefix("rlvr.")
        assert target in MODULES, f"{module} imports {name}, which is no module of ours"
        other = layer(target)
        assert other is not None and order.index(other) >= order.index(own), f"{own} {module} imports {other} {target}"


@pytest.mark.parametrize("module", [m for m in MODULES if layer(m) == "ground"])
def test_ground_modules_need_the_stdlib_alone(module: str) -> None:
    text = re.sub(r"if TYPE_CHECKING:\n(?:    .*\n)+", "", MODULES[module].read_text())
    names = {
        (alias.name if isinstance(node, ast.Import) else str(node.module)).partition(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert names <= {*sys.stdlib_module_names, "rlvr"}


@pytest.mark.parametrize(
    "module",
    [
        "",
        *(
            m
            for m in MODULES
            if layer(m) in NO_TORCH or m in ("cli", "doctor", "rewards.supervisor", "rewards.shaping")
        ),
    ],
)
def test_light_modules_load_no_torch(module: str) -> None:
    assert heavy_after(f"import {'.'.join(filter(None, ('rlvr', module)))}") == set()


@pytest.mark.skipif("cli" not in MODULES, reason="no cli yet")
def test_help_loads_no_torch() -> None:
    code = "import runpy, sys\nsys.argv = ['rlvr', '--help']\n"
    code += (
        "try: runpy.run_module('rlvr', run_name='__main__')\nexcept SystemExit as done: assert not done.code, done.code"
    )
    assert heavy_after(code) == set()


def test_ci_calls_documented_targets_alone() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111, "not executable"
    lines = [line.strip() for line in script.read_text().splitlines()]
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    documented = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert commands
    assert all(re.fullmatch(rf"make ({'|'.join(documented)})", command) for command in commands), commands
