"""Triton's kernels where there is no GPU: test_kernels.py in Triton's interpreter on the CPU, and what compiles."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]


def test_kernels_do_what_they_should_in_the_interpreter() -> None:
    # read where a kernel is defined, so that it takes a process of its own
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    tests = Path(__file__).with_name("test_kernels.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) > 50, done.stdout[-2000:]


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize(("has_cap", "has_entropy"), [*itertools.product([False, True], repeat=2)])
def test_kernels_compile_with_loads_and_stores_of_16_bytes(
    has_cap: bool, has_entropy: bool, capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from rlvr import kernels

    flags = {"HAS_CAP": has_cap, "HAS_ENTROPY": has_entropy}
    pointers = {"tile": "*bf16", "ids": "*i64", "targets": "*fp32", "logps": "*fp32", "stride": "i32", "V": "i32"}
    score = {**pointers, "entropies": "*fp32", "tops": "*i1", "inner": "fp32", "outer": "fp32"}
    weigh = {**pointers, "entropies": "*fp32", "to_logps": "*fp32", "to_entropies": "*fp32", "share": "fp32"}
    for kernel, types, more in ((kernels._score, score, {"HAS_TOP": has_cap}), (kernels._weigh, weigh, {})):
        compiled = compile_for(capability, kernel, types, kernels._launch(8192, **flags, **more))
        assert compiled.asm["cubin"].startswith(b"\x7fELF")
        assert re.search(r"ld\.global\.v4\.b32", compiled.asm["ptx"])
        assert re.search(r"st\.global\.v4\.b32", compiled.asm["ptx"])


def compile_for(capability: int, kernel: Any, types: dict[str, str], launch: dict[str, Any]) -> Any:
    """The machine code, with pointers, stride and V in multiples of 16, as those of large models are."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in ("tile", "stride", "V")}
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in launch.items() if name in names},
        attrs=aligned,
    )
    settings = {name: value for name, value in launch.items() if name not in names}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=settings)
