"""The same tests hold with both of vLLM's model runners.

V1 is what a CPU runs. V2, the default on GPUs, is run here by Triton's interpreter on a CPU; that is no GPU.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.vllm.core.engines import engine, uses_v2

FILES = ("test_answers.py", "test_cache.py", "test_model_runners.py")


def test_which_model_runner_it_is() -> None:
    with engine() as llm:
        assert uses_v2(llm) == (os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1")


def test_model_runner_v2_in_tritons_interpreter() -> None:
    if os.environ.get("VLLM_USE_V2_MODEL_RUNNER"):
        return
    folder = Path(__file__).parent
    command = [sys.executable, "-m", "tests.vllm.core.under_v2", *(str(folder / name) for name in FILES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parents[2])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
