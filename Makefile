.DEFAULT_GOAL := help
.PHONY: help install run test test-lowest test-slow test-faults test-slurm mutate lint format bench docs docs-check pictures wheel-check clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := .venv-lowest

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## create .venv and install grokscope with its development tools

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

run: $(STAMP)  ## the main job on real digits: grok once, then once more with GrokAlign; opens nothing, writes report.html
	$(BIN)/grokscope run digits-grokking

test: $(STAMP)  ## the tests and doctests (a quarter of an hour on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-lowest:  ## the tests on the oldest packages that pyproject.toml allows (fetches an old PyTorch)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct -e '.[dev]'
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 --dist loadfile

test-slow: $(STAMP)  ## the longer reproductions
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --timeout 7200

test-faults: $(STAMP)  ## kill, damage and move runs for ten minutes, and count what was not survived
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.campaign --seconds 600

test-slurm: $(STAMP)  ## a sweep on a SLURM cluster of this machine (needs root, and apt-get install slurm-wlm munge)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm tests/integrations/test_slurm_for_real.py

mutate: $(STAMP)  ## change the code at random for twenty minutes, and name the changes that no test notices
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutate.py --minutes 20

lint: $(STAMP)  ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## bring the code into form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## the benchmarks; every figure is a ratio of medians of one run
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

docs: $(VENV)/.installed-docs  ## the site: docs/_build/html/index.html; tutorials and gallery run, and are kept for the next time
# all pages are written: the search index forgets the index entries of those that are not
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx --fail-on-warning --keep-going --write-all -q -b html docs docs/_build/html

docs-check: docs  ## build the site and look at it in a browser: no page cut on a phone, no third party, names found by search
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/docs/built_site.py

$(VENV)/.installed-docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

pictures: $(VENV)/.installed-docs  ## draw the pictures of the cards, the README and the gallery anew (some minutes)
	OMP_NUM_THREADS=1 $(BIN)/python docs/pictures

WHEEL := $(abspath .venv-wheel)
wheel-check:  ## build the package, check it, and run the main job from the wheel alone in a fresh environment
	rm -rf dist $(WHEEL)
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip install --quiet --disable-pip-version-check build twine
	$(WHEEL)/bin/python -m build --outdir dist
	$(WHEEL)/bin/python -m twine check --strict dist/*
	rm -rf $(WHEEL)
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd $$(mktemp -d) && $(WHEEL)/bin/grokscope run digits-grokking --check

clean:  ## remove what the commands above made, run directories excepted
	rm -rf $(VENV) $(LOWEST) .venv-wheel .nox .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis build dist docs/_build docs/reference/generated
