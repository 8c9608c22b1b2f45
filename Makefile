# make install | demo | figure | test | test-slow | lint | bench

PYTHON ?= python3
BIN := .venv/bin

install: .venv/installed

.venv/installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "anytime_jax needs Python >= 3.11, and $(PYTHON) is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

demo: install
	$(BIN)/python experiments/every_horizon/run.py --out=demo

figure: install
	$(BIN)/python -m experiments.anytime_vs_cosine.report

test: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-slow: install
	$(BIN)/pytest -q -m slow

lint: install
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: install
	$(BIN)/python benchmarks/averaging.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/merging.py
	$(BIN)/python benchmarks/snapshots.py
	$(BIN)/python benchmarks/theory.py
	$(BIN)/python benchmarks/laws.py
	$(BIN)/python benchmarks/laws_chinchilla.py
	$(BIN)/python benchmarks/faults.py

.PHONY: install demo figure test test-slow lint bench
