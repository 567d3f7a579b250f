"""Real runs of both frameworks on the embedded model and the demo scenes, for the tests that read their files."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from adaptvis_plugin import cli
from tests.forked import IMPORTED, Forked

BIN = Path(sys.executable).parent


def environment(home: Path) -> dict[str, str]:
    """Return an environment with a home of its own, because VLMEvalKit writes into it."""
    (home / "LMUData").mkdir(parents=True, exist_ok=True)
    own = {"HOME": str(home), "LMUData": str(home / "LMUData"), "ADAPTVIS_CACHE": str(home / "tables")}
    return {**os.environ, **own, **IMPORTED}


def lmms_eval(folder: Path, method: str, tasks: str, *more: str) -> list[str]:
    """Return the command that runs a method in lmms-eval."""
    command = [str(BIN / "lmms-eval"), "--model", f"llava_{method}", "--model_args", "pretrained=demo"]
    return [*command, "--tasks", tasks, "--batch_size", "16", "--log_samples", "--output_path", str(folder), *more]


def vlmeval(folder: Path, methods: Iterable[str], *more: str) -> list[str]:
    """Return the command that runs methods in VLMEvalKit."""
    models = [f"demo_{method}" for method in methods]
    command = [str(BIN / "adaptvis"), "vlmeval", "--data", "WhatsUp_Demo", "--model", *models]
    return [*command, "--model-args", "batch_size=16", "--work-dir", str(folder), *more]


def run_all(commands: Iterable[list[str]], own: dict[str, str]) -> str:
    """Run commands beside each other, and return what they printed."""
    running = [Forked(command, own) for command in commands]
    done = [process.wait(timeout=400) for process in running]
    printed = "\n".join(one.stdout + one.stderr for one in done)
    assert not any(one.returncode for one in done), printed[-5000:]
    return printed


def adaptvis(*arguments: object, columns: int = 250) -> Any:
    """Run the command `adaptvis` in this process; an error of its own may end it, but nothing else."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": str(columns)})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result
