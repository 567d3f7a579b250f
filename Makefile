# `make demo` and `make test` set up everything they need in .venv; nothing is installed elsewhere.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin

.PHONY: demo test setup lint types browser clean

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

# Reports are tested in a real browser. Without one, and without the right to install it, those tests are skipped.
browser:
	@command -v chromedriver >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  echo "installing Chromium for the tests of HTML reports" && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends chromium chromium-driver >/dev/null; } || \
	  echo "no Chromium: the tests of HTML reports are skipped; install chromium and chromium-driver to run them"

test: lint types browser  ## lint, type-check and run the suite
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

clean:
	rm -rf $(VENV) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
