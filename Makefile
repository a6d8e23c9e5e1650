# Everything runs from a fresh clone: each target makes the environment it needs.
.DEFAULT_GOAL := help
.PHONY: help setup setup-bench setup-browser quickstart test check bench lock clean
export PYTHON TORCH_INDEX

PY := .venv/bin/python
READY := .venv/ready
PEERS := .venv-bench/bin/python
PEERS_READY := .venv-bench/ready
# Benchmarks that run beside peers, in an environment of those.
WITH_PEERS := tests/bench/bench_loss.py tests/bench/bench_preference_losses.py

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1|/' | awk -F'|' '{printf "make %-14s %s\n", $$1, $$2}'

setup: $(READY)  ## the CPU environment in .venv (PYTHON=/path/to/python3.11 names the interpreter)

$(READY): requirements-cpu.lock pyproject.toml tools/setup.sh
	@tools/setup.sh
	@touch $@

setup-bench: $(PEERS_READY)  ## the peers' environment for make bench in .venv-bench

$(PEERS_READY): $(READY) requirements-bench.lock tools/setup_bench.sh
	@tools/setup_bench.sh
	@touch $@

setup-browser: setup  ## Chromium from Debian's packages (root or sudo), for the tests of the label page; they skip without it
	@tools/setup_browser.sh

quickstart: setup  ## the main job end to end on the CPU, afresh, under runs/quickstart
	@$(PY) recipes/arithmetic/run.py

test: setup  ## all tests, two at a time; those that need a GPU skip themselves where there is none
	$(PY) -m pytest -m "not alone" --numprocesses 2 --dist worksteal --durations=20 tests
	$(PY) -m pytest -m alone --durations=20 tests

check: setup  ## lint, types and the quick tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/basedpyright
	$(PY) -m pytest -m "not slow and not gpu" tests

bench: setup setup-bench  ## every benchmark in turn; the figures belong in docs/BENCHMARKS.md
	@for file in $(sort $(wildcard tests/bench/bench_*.py)); do \
		case " $(WITH_PEERS) " in *" $$file "*) python=$(PEERS);; *) python=$(PY);; esac; \
		echo "== $$file"; $$python $$file || exit 1; \
	done
	@echo "Figures above; docs/BENCHMARKS.md holds those of record, with machine and command."

lock:  ## requirements-cpu.lock and -bench.lock anew from pyproject.toml, with the newest versions that fit
	@tools/lock.sh
	@tools/lock_bench.sh

clean:  ## build products and caches away; .venv and runs stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .venv-lock
	find rlvr verifiers sandbox recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +
