# make reproduce [UPDATE=1] · make test · make lint · make lab · make book · make browser-test · make bench
# Each builds .venv first if it is missing.
# Another torch: make reproduce TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
export PYTHONHASHSEED := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: reproduce test lint lab book browser-test bench
.DEFAULT_GOAL := reproduce

reproduce: .venv/ready
	$(BIN)/python -m mfkit reproduce $(if $(UPDATE),--update)

test: lint
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lab: .venv/ready
	$(BIN)/jupyter lab notebooks/00_three_examples.ipynb

book: .venv/ready # all notebooks, figures and claims as web pages
	$(BIN)/python -m mfkit book

browser-test: .venv/ready # in headless Chromium: notebook 00 in JupyterLab, run from top to bottom; and the book
	$(BIN)/python tests/browser.py

bench: .venv-bench/ready # experiments too long for a notebook; their results are committed beside them
	for script in $$(grep -l __main__ benchmarks/*.py); do .venv-bench/bin/python $$script || exit 1; done

.venv-bench/ready: pyproject.toml benchmarks/requirements.txt # mfkit and the programs that it is measured against
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet $(TORCH)
	.venv-bench/bin/python -m pip install --quiet --requirement benchmarks/requirements.txt --editable .
	@touch $@

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mfkit needs Python 3.11 or newer, got " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@
