"""Verdicts of the verifiers that come with us."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from rlvr.rewards.bound import apply, lookup
from rlvr.types import Task
from rlvr.verifiers import boxed, exact, math_equal

MODULES = {"math": math_equal, "boxed": boxed, "exact": exact}


@pytest.mark.parametrize(
    ("name", "gold", "response", "score"),
    [(name, *example) for name, module in MODULES.items() for example in module.EXAMPLES],
)
def test_a_verifier_judges_its_own_examples(name: str, gold: Any, response: str, score: float | None) -> None:
    verdict = apply(lookup(name), response, Task(id="t", prompt="", gold=gold))
    assert verdict.score == score, verdict
    assert verdict.outcome != "error"
    assert verdict.reason
    assert verdict.verifier == name


def test_verifiers_load_no_torch_and_extraction_no_sympy() -> None:
    code = (
        "import sys, rlvr.rewards.bound as w; w.lookup('math'); w.lookup('boxed'); w.lookup('exact')\n"
        "print([m for m in ('torch', 'transformers', 'vllm', 'sympy', 'math_verify', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
