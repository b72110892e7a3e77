# The two commands of the README: `make bench` and `make test`. Each sets up what it needs on a bare machine.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE # pytest keeps the modules that it rewrote for the next run

.PHONY: bench test test-needs test-slow fuzz lint wheel-check benchmarks bench-compare results committed tables site verify reproduce figures paper clean

bench: $(VENV)/.bench
	$(BIN)/moeload-bench run --suite mini --jobs 2

test: $(VENV)/.dev
	$(MAKE) -j2 lint wheel-check
	$(BIN)/python -m pytest -m "not slow" -n 2

# The fast tests that `make test` skips where what their markers name is missing (CONTRIBUTING.md).
NEEDS ?= sandbox or browser or compiler or deepspeed or engines or loaders or peers
test-needs: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow and ($(NEEDS))" -n 2

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow -n 2 --ignore tests/test_installed.py # wheel-check, a part of `make test`

# Every reader of strangers' files on damaged ones, a minute each.
fuzz: $(VENV)/.dev
	MOELOAD_FUZZ_S=60 $(BIN)/python -m pytest tests/test_fuzz.py -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# Build what would be uploaded, install it from an index of this machine, and use it.
wheel-check: $(VENV)/.dev
	$(BIN)/python -m pytest tests/test_installed.py

# Score a suite's baselines anew and write what the tables are made from: make results SUITE=v3. Results name the commit
# that gave them, so that tracked files have to be as committed.
SUITE ?= mini
results: committed $(VENV)/.dev
	$(BIN)/moeload-bench run --suite $(SUITE) --jobs 2 --fresh --out leaderboard/results/$(SUITE)
	$(BIN)/python -m leaderboard facts $(SUITE) --reference
	$(MAKE) tables

committed:
	@changed=$$(git status --porcelain --untracked-files=no 2>/dev/null | cut -c4- | head -20 | tr '\n' ' '); \
	if [ -n "$$changed" ]; then \
	  echo "results name the commit that gave them, got uncommitted changes in: $$changed; commit first" >&2; exit 1; \
	fi

tables: $(VENV)/.dev
	$(BIN)/python -m leaderboard pages

# The leaderboard's static site, from committed results: build/site/index.html
site: $(VENV)/.dev
	$(BIN)/python -m leaderboard site

# Run the committed results of a suite again and compare; writes nothing.
reproduce: $(VENV)/.bench
	$(BIN)/python -m leaderboard reproduce $(SUITE) --jobs 2

# Run every committed submission again and write what was found; needed when results were made anew.
verify: $(VENV)/.dev
	$(BIN)/python -m leaderboard submit-baselines
	for folder in leaderboard/submissions/*/; do $(BIN)/python -m leaderboard verify $$folder --jobs 2 || exit 1; done

figures: $(VENV)/.dev
	BIN=$(BIN) sh docs/guide/figures/make.sh

# The founding paper again on the traces of this checkout: docs/reports/paper.md with its tables and figures. Some minutes.
paper: $(VENV)/.dev
	rm -rf docs/reports/paper/*/
	$(BIN)/python -m leaderboard paper --out docs/reports --jobs 2

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	touch $@

$(VENV)/.bench: $(VENV)/.venv pyproject.toml
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q -e '.[torch,fast]'
	touch $@

$(VENV)/.dev: $(VENV)/.venv pyproject.toml
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q -e '.[all,dev]'
	touch $@ $(VENV)/.bench

# Side by side with statsmodels, statsforecast and fev (in an environment of its own): about ten minutes.
benchmarks: $(VENV)/.dev
	$(BIN)/python -m pytest benchmarks --benchmark-timer=time.process_time

bench-compare: $(VENV)/.dev $(VENV)/.peers
	$(BIN)/python benchmarks/compare.py --out docs/reports/performance.md

# DeepSpeed, for the tests of its gate: built without its kernels, against the torch that is installed.
$(VENV)/.deepspeed: $(VENV)/.dev
	$(BIN)/python -m pip install -q setuptools wheel einops hjson msgpack ninja psutil py-cpuinfo
	DS_BUILD_OPS=0 $(BIN)/python -m pip install -q --no-deps --no-build-isolation 'deepspeed==0.19.8'
	touch $@

# Routers of other engines, for the tests of their adapters: without what they need only on GPUs.
$(VENV)/.engines: $(VENV)/.dev
	$(BIN)/python -m pip install -q boto3 google-cloud-storage dataclass-extensions bettermap
	$(BIN)/python -m pip install -q --no-deps 'megatron-core==0.16.1' 'nemo-automodel==0.7.0' 'ai2-olmo-core==3.0.0' cached_path
	touch $@

# Functions of engines that load placements, for their tests and benchmarks/eplb.py: four files, not the engines.
$(VENV)/.loaders: $(VENV)/.dev
	rm -rf $(VENV)/wheels && $(BIN)/python -m pip download -q --no-deps --only-binary :all: --python-version 3.12 \
	  --platform manylinux_2_34_x86_64 --platform manylinux_2_24_x86_64 \
	  -d $(VENV)/wheels --require-hashes -r tests/support/foreign/loaders.txt
	$(BIN)/python tests/support/foreign/loaders.py $(VENV)/wheels $(VENV)/loaders
	rm -rf $(VENV)/wheels
	touch $@

# Tools that read what `export` writes and that `bench-compare` compares with, in an environment of their own: fev pins datasets < 5.
$(VENV)/.peers: $(VENV)/.venv
	$(PYTHON) -m venv $(VENV)/peers
	$(VENV)/peers/bin/python -m pip install -q 'fev==0.10.0' 'statsforecast==2.1.1' 'gluonts==0.17.0' 'sktime==1.2.0'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache
