# One virtual environment serves every target; each target sets up what it needs by itself.
PYTHON ?= python3
# Ranks that share the demo's target.
TP ?= 1
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.ready-bench

.DEFAULT_GOAL := help
.PHONY: help setup browser demo serve test check bench bench-gang bench-nightly bench-serve format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## make the virtual environment (about 3 minutes, 7 GB; done once)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
	  || { echo "Python 3.11 or 3.12 with venv is needed (Debian: apt-get install python3 python3-venv);" \
	       "name another one by make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# Compiled once for this environment (a minute): else the first gang on CPU waits for it.
	@$(BIN)/python -c 'from deepspeed.accelerator import get_accelerator as a; \
	  b = a().create_op_builder("ShareMemCommBuilder"); b and b.load(verbose=False)' >/dev/null 2>&1 \
	  || echo "DeepSpeed's shared memory kernel was not compiled (is there a g++?): no gangs on this CPU"
	@touch $@

$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	@touch $@

demo: $(READY)  ## caption a bucket of sample videos on a local Ray cluster, end to end (TP=2: by a gang)
	$(BIN)/python jobs/demo.py --tensor-parallel-size $(TP)

serve: $(READY)  ## the endpoint on the reference pair at http://127.0.0.1:8000, and a page to try it
	$(BIN)/python jobs/serve_captions.py --recipe reference --served-model-name lvspec-reference

# Tests of pages drive a real browser, which no Python package brings.
browser:
	@[ -n "$$CHROMIUM" ] || command -v chromium chromium-browser google-chrome >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	  || echo "no Chromium: tests of pages will fail; install one (Debian: apt-get install chromium)"

test: $(READY) browser  ## all tests
	$(BIN)/python -m pytest tests/unit tests/property -q -n auto
	$(BIN)/python -m pytest tests/integration

check: $(READY)  ## format, lint, types, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit -q -n auto

bench: $(BENCH_READY)  ## speed and fidelity of every decoding method (40 minutes on 2 cores)
	$(BIN)/python jobs/benchmark.py

bench-gang: $(READY)  ## memory, overhead, start and recovery of captioners of several ranks (20 minutes)
	$(BIN)/python jobs/benchmark_gang.py

bench-nightly: $(READY)  ## listing, planning and committing a million objects, and a run of nothing to do (15 minutes)
	$(BIN)/python jobs/benchmark_nightly.py

bench-serve: $(BENCH_READY)  ## the endpoint under load, and half an hour of it (50 minutes)
	$(BIN)/python jobs/benchmark_serve.py

format: $(READY)  ## rewrite the sources in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the virtual environment and the demo's output
	rm -rf $(VENV) demo-output
