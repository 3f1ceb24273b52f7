# make install | demo | test | oldest | check | bench | docs | fuzz | dists
# Each of them sets up what it needs in .venv; PYTHON picks the interpreter.
PYTHON ?= python3
BIN := .venv/bin
EDITABLE := -e . -e plugins/spender-sdss -e plugins/spender-desi

.PHONY: install demo test oldest check bench docs fuzz dists clean

.venv/base: pyproject.toml plugins/spender-sdss/pyproject.toml plugins/spender-desi/pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(EDITABLE)
	touch $@

.venv/dev: .venv/base
	$(BIN)/python -m pip install --quiet --constraint constraints.txt -e ".[parquet,test,oracles,check]"
	touch $@

.venv/fuzz: .venv/dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt -e ".[fuzz]"
	touch $@

install: .venv/base

demo: install
	$(BIN)/spender demo

test: .venv/dev
	$(BIN)/python -m pytest

.venv-oldest/done: pyproject.toml plugins/spender-sdss/pyproject.toml plugins/spender-desi/pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt \
		-e ".[parquet,cluster,flow,train,tensorboard,push,test]" -e plugins/spender-sdss -e plugins/spender-desi \
		click pyparsing
	touch $@

oldest: .venv-oldest/done
	.venv-oldest/bin/python -m pytest

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py tests/test_docs.py

bench: .venv/dev
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

docs: .venv/dev
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	$(BIN)/python -m pytest -q tests/test_docs.py tests/docs

CASES ?= 10000
SEED ?= 1
SECONDS ?= 30
KINDS := fits spec redrock safetensors pt cards ids names recipes

fuzz: .venv/fuzz
	$(BIN)/python tests/fuzz/campaign.py --cases $(CASES) --seed $(SEED)
	for kind in $(KINDS); do $(BIN)/python tests/fuzz/coverage.py $$kind --seconds $(SECONDS) || exit 1; done

dists: .venv/dev
	$(BIN)/python -m pip install --quiet -e ".[release]"
	$(BIN)/python scripts/build_dists.py

clean:
	rm -rf .venv .venv-oldest
