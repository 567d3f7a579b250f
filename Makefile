# `make demo` and `make test` set up everything they need in .venv; nothing is installed elsewhere.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin

.PHONY: demo test setup lint types clean

# The CPU pins live in constraints/cpu.txt. On a GPU machine install the package beside your own torch instead.
$(VENV)/.ready: pyproject.toml constraints/cpu.txt scripts/patch_torchvision.py
	@echo "setting up $(VENV); this takes some minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints/cpu.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints/cpu.txt --editable ".[dev]"
	$(BIN)/python scripts/patch_torchvision.py
	touch $@

setup: $(VENV)/.ready

demo: setup  ## score the three methods on the embedded model and data set through lmms-eval, offline
	$(BIN)/adaptvis demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

test: lint types  ## lint, type-check and run the suite
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

clean:
	rm -rf $(VENV) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
