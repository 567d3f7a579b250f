"""Console commands and `python -c` in processes forked from one that has already imported lmms-eval and torch.

The imports take most of the time of a command on the tiny models. Tests of what a command answers and writes start it
here. `test_command_line`, `test_readme` and `test_new_data_set` show that the same commands start as a user types them.
"""

import gc
import importlib.metadata
import multiprocessing
import multiprocessing.forkserver
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["lmms_eval.__main__", "nltk", "sklearn.linear_model", "openai", "peft"])
"""Beside lmms-eval what it and VLMEvalKit import later; not VLMEvalKit itself, which changes the process."""
STARTING = threading.Lock()
IMPORTED = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
"""What the imported libraries read once: every command has these settings."""


class Forked:
    """A running command, like `subprocess.Popen`."""

    def __init__(self, command: Sequence[str | Path], env: Mapping[str, str], cwd: Path | None = None) -> None:
        assert IMPORTED.items() <= env.items() and env["HF_HOME"] == os.environ["HF_HOME"]
        with STARTING, pytest.MonkeyPatch.context() as patch:
            for name, value in IMPORTED.items():
                patch.setenv(name, value)
            multiprocessing.forkserver.ensure_running()
        self.args = list(map(str, command))
        self.printed = Path(tempfile.mkdtemp(prefix="printed-", dir=os.environ["HF_HOME"]))
        self.process = SERVER.Process(target=_become, args=(self.args, dict(env), cwd or Path.cwd(), self.printed))
        self.process.start()

    def wait(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Return what it printed and its exit status, when it has ended."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise subprocess.TimeoutExpired(self.args, timeout)
        said = ((self.printed / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(self.args, self.process.exitcode, *said)


def run(
    command: Sequence[str | Path], env: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, like `subprocess.run`."""
    return Forked(command, env, cwd).wait(timeout=400)


def _become(command: list[str], env: dict[str, str], folder: Path, printed: Path) -> None:
    """Be the process of a command from now on."""
    gc.freeze()  # what was imported stays: lmms-eval collects garbage several times in a run
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        with (printed / name).open("wb") as sink:
            os.dup2(sink.fileno(), number)
    if command[1] == "-c":
        code, sys.argv = command[2], ["-c", *command[3:]]
        exec(code, {"__name__": "__main__"})
        return
    sys.argv = command
    (script,) = importlib.metadata.entry_points(group="console_scripts", name=Path(command[0]).name)
    sys.exit(script.load()())
