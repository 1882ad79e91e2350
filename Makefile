# Two commands for a fresh machine: `make demo` and `make test`. Everything goes into .venv here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SETTINGS := pyproject.toml constraints.txt

.PHONY: demo test test-slow lint types format check docs clean

demo: $(VENV)/.demo
	$(BIN)/python samples/01_quickstart.py -o demo

# Two workers of one thread each: two of several threads would fight for the processors.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint types test

# What in the pages is made from figures and help texts.
docs: $(VENV)/.dev
	$(BIN)/python samples/benchmarks/tables.py
	$(BIN)/python samples/benchmarks/picture.py
	$(BIN)/python docs/cli_reference.py

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.made $(SETTINGS)
	$(PIP) install --quiet -c constraints.txt -e ".[demo]"
	touch $@

$(VENV)/.dev: $(VENV)/.made $(SETTINGS)
	$(PIP) install --quiet -c constraints.txt -e ".[dev,demo,timm]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
