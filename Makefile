# The two commands of the README: `make bench` and `make test`. Each sets up what it needs on a bare machine.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: bench test test-slow lint wheel-check benchmarks results tables figures clean

bench: $(VENV)/.bench
	$(BIN)/moeload-bench run --suite mini --jobs 2

test: lint wheel-check
	$(BIN)/python -m pytest -m "not slow" -n 2

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

wheel-check: $(VENV)/.dev
	$(BIN)/python tests/wheel_check.py

# Score the baselines anew and write what the tables are made from.
results: $(VENV)/.dev
	$(BIN)/moeload-bench run --suite mini --jobs 2 --fresh --out leaderboard/results/mini
	mkdir -p moeload_bench/data/reference
	cp leaderboard/results/mini/sw_avg.json moeload_bench/data/reference/mini.json
	$(MAKE) tables

tables: $(VENV)/.dev
	$(BIN)/python leaderboard/make_tables.py

figures: $(VENV)/.dev
	BIN=$(BIN) sh docs/figures/make.sh

benchmarks: $(VENV)/.dev
	$(BIN)/python -m pytest benchmarks --benchmark-timer=time.process_time

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	touch $@

$(VENV)/.bench: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install -q -e '.[torch,fast]'
	touch $@

$(VENV)/.dev: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install -q -e '.[all,dev]'
	touch $@ $(VENV)/.bench

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache
