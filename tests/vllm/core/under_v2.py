"""Run pytest with vLLM's model runner V2, which is written in Triton, by Triton's interpreter on a CPU. It is no GPU.

`python -m tests.vllm.core.under_v2 FILES...`; Triton has to be told before it is imported.
"""

import importlib
import os
import sys
from types import SimpleNamespace

os.environ.update(TRITON_INTERPRET="1", VLLM_USE_V2_MODEL_RUNNER="1")

import pytest


class Driver:
    @staticmethod
    def is_active() -> bool:
        return True


# vLLM asks whether Triton has a backend for the CPU.
importlib.import_module("triton.backends").backends["cpu"] = SimpleNamespace(driver=Driver, compiler=None)

if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "-p", "no:randomly", "-p", "no:xdist", *sys.argv[1:]]))
