# make setup   a virtual environment in .venv with everything that this machine needs
# make demo    set up, train a small teacher, distil a student, compare both        (DATA=path of SemanticKITTI data)
# make test    set up and run the CPU tests
# make faults  set up and inject faults into the tools: what survives, and what does not (docs/reliability.md)
# make check   lint, format check, type check and the CPU tests
# make format  rewrite the sources in the house style

PYTHON ?= python3
VENV ?= .venv
DATA ?=
BIN := $(VENV)/bin

.PHONY: setup demo test faults check lint format clean

setup: $(VENV)/.ready

$(VENV)/.ready: setup.py pyproject.toml constraints.txt scripts/setup.sh
	bash scripts/setup.sh $(PYTHON) $(VENV)
	touch $@

demo: setup
	bash scripts/demo.sh $(BIN)/python "$(DATA)"

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile

faults: setup
	$(BIN)/python -m tests.faults

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
