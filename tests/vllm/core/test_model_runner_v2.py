"""The same tests with vLLM's model runner V2, the default on GPUs; the other tests run V1, which is a CPU's.

It is run by Triton's interpreter on a CPU; that is no GPU.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def test_in_tritons_interpreter() -> None:
    files = [str(FOLDER / name) for name in ("test_answers.py", "test_cache.py")]
    command = [sys.executable, "-m", "tests.vllm.core.under_v2", "--show-capture=no", *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parents[2])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
