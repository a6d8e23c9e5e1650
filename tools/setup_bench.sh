#!/usr/bin/env bash
# Makes .venv-bench: what loss and verifiers are measured against (requirements-bench.lock) and this checkout, editable.
# Called by `make setup-bench`, after `make setup`: it takes .venv's interpreter and its version of torch.
#   TORCH_INDEX=...  where CPU builds of torch are, asked only where pip's own indices have none
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-bench

# One whose making was interrupted has no pip.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || .venv/bin/python -m venv --clear "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# As in tools/setup.sh: the CPU build by its full name, which the plain one would not take.
torch=$(sed -n 's/^torch==//p' requirements-cpu.lock)+cpu
index=(-qq)
offered=$(pip index versions torch 2>/dev/null) || true
if [[ " ${offered//[,$'\n']/ } " != *" $torch "* ]]; then
    index=(--quiet --index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}")
fi
echo "Installing into $venv: takes a minute or two the first time ..."
if ! pip install --no-deps "${index[@]}" "torch==$torch"; then
    echo "no torch $torch; TORCH_INDEX=URL names another index that has CPU builds" >&2
    exit 1
fi

# --no-deps: the lock is complete, and leaves out what the peers ask for in vain (requirements-bench.overrides).
pip install -qq --no-deps -r requirements-bench.lock
pip install -qq --no-deps --no-build-isolation -e .
"$venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import liger_kernel.chunked_loss, rlvr, trl, verl

peers = ", ".join(f"{name} {version(name)}" for name in ("torch", "trl", "liger-kernel", "verl", "verifiers"))
print(f"rlvr {rlvr.__version__} is ready in .venv-bench, beside {peers}")
PYTHON
