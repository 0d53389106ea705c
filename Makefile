# Everything runs in .venv, which is made anew when the pinned versions or the package's metadata change.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test test-processes test-learning test-regression test-slow lint docs bench clean

train: .venv/installed
	$(BIN)/rllib train file tuned_examples/reciprocator_ipd.yaml --storage-path results

test: .venv/installed
	$(BIN)/pytest -n 2 --dist worksteal

test-processes: .venv/installed
	$(BIN)/pytest -m processes -n 2 --dist worksteal

test-learning: .venv/installed
	$(BIN)/pytest -m learning -n 2 --dist worksteal

test-regression: .venv/installed
	PYTHONHASHSEED=0 $(BIN)/pytest -m slow -n 2 --dist worksteal tests/regression

test-slow: .venv/installed
	$(BIN)/pytest -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed
	$(BIN)/mkdocs build --strict --site-dir site

bench: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks

.venv/installed: setup.cfg setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .[dev]
	touch $@

clean:
	rm -rf .venv results site build dist *.egg-info
