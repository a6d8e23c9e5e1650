#!/usr/bin/env bash
# Makes requirements-bench.lock again from pyproject.toml, with the versions of requirements-cpu.lock where that has them and
# the peers can do with them. Called by `make lock`.
#   PYTHON=...  interpreter for uv's own small environment
set -euo pipefail
cd "$(dirname "$0")/.."
lock=requirements-bench.lock
venv=.venv-lock

[ -x "$venv/bin/uv" ] || { "${PYTHON:-python3}" -m venv "$venv" && "$venv/bin/python" -m pip install -qq uv; }

new=$(mktemp)
same=$(mktemp)
trap 'rm -f "$new" "$same"' EXIT
# Prime's verifiers pins other versions of these than vllm asks for.
grep -vE '^(mcp|mcp-types|openai)==' requirements-cpu.lock >"$same"
"$venv/bin/uv" pip compile --quiet --python-version 3.11 --extra bench --overrides requirements-bench.overrides \
    --constraint "$same" --no-header --no-annotate pyproject.toml -o "$new"
{
    echo "# Made by 'make lock' from pyproject.toml: the peers' environment (bench extra), Python 3.11, but for torch."
    cat "$new"
} >"$lock"
git --no-pager diff --stat -- "$lock" 2>/dev/null || true
