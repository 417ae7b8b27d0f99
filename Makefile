# `make` says what there is; each target builds the environment that it needs first, if it is missing.
# Another torch: make test TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
INSTALL := -m pip install --quiet --quiet# errors, and a server that does not answer, are still said
CORE := checks ids doubts frames data files looking saved catalogue initializers model losses optimizers config objective clipping checkpoint evaluate recipe progress trainer
export PYTHONHASHSEED := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help reproduce test quick lint lab book browser-test bench fuzz oldest clean distclean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

reproduce: .venv/ready ## run all notebooks and compare what they make with what is committed; UPDATE=1 puts it in place
	$(BIN)/python -m mfkit reproduce $(if $(UPDATE),--update)

test: lint ## lint, all tests, and every notebook's outputs: a quarter of an hour
	$(BIN)/python -m pytest

quick: lint ## lint and the core's tests: half a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" tests/test_house.py $(wildcard $(CORE:%=tests/test_%.py))

lint: .venv/ready ## style (ruff) and types (basedpyright)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --project . --pythonpath $(BIN)/python

lab: .venv/ready ## JupyterLab on working copies of the notebooks, in play/: git stays clean
	$(BIN)/python -m mfkit play
	$(BIN)/jupyter lab play/00_three_examples.ipynb

book: .venv/ready ## all notebooks, claims, glossary and API as web pages in book/_build
	$(BIN)/python -m mfkit book

browser-test: .venv/ready ## in headless Chromium: notebook 00 in JupyterLab from top to bottom, and the book
	$(BIN)/python tests/browser.py

bench: .venv-bench/ready ## experiments too long for a notebook; their results are committed beside them
	for script in $$(grep -l __main__ benchmarks/*.py); do .venv-bench/bin/python $$script || exit 1; done

fuzz: .venv/ready ## the properties of tests/fuzz, new examples each time: a quarter of an hour
	$(BIN)/python -m pytest tests/fuzz --hypothesis-profile=long

oldest: .venv-oldest/ready ## the unit tests on the oldest versions that pyproject.toml promises
	.venv-oldest/bin/python -m pytest tests

clean: ## remove caches and what was built; downloaded ratings and environments stay
	rm -rf book/_build build dist *.egg-info .pytest_cache .ruff_cache
	find . -name '.venv*' -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

distclean: clean ## clean, and remove the environments; downloaded ratings stay
	rm -rf .venv .venv-bench .venv-oldest

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mfkit needs Python 3.11 or newer, got " + sys.version)'
	@echo "Installing mfkit and what it needs into .venv (once; PyTorch is large)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python $(INSTALL) $(TORCH)
	@$(BIN)/python $(INSTALL) --constraint constraints.txt --editable ".[dev]"
	@touch $@

.venv-bench/ready: pyproject.toml benchmarks/requirements.txt
	@echo "Installing mfkit and the programs that it is measured against into .venv-bench (once)"
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python $(INSTALL) $(TORCH)
	@.venv-bench/bin/python $(INSTALL) --requirement benchmarks/requirements.txt --editable .
	@touch $@

.venv-oldest/ready: pyproject.toml tests/oldest.py
	@echo "Installing mfkit and the oldest versions of what it needs into .venv-oldest (once)"
	@$(PYTHON) -m venv .venv-oldest
	@.venv-oldest/bin/python $(INSTALL) $$(.venv-oldest/bin/python tests/oldest.py)
	@.venv-oldest/bin/python $(INSTALL) --no-deps --editable .
	@touch $@
