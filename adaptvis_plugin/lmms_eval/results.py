"""Runs lmms-eval's command line and reads the files it writes. Imports nothing of lmms-eval."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd


class RunError(RuntimeError):
    """A run of lmms-eval failed, or left no results."""


def run_lmms_eval(arguments: list[str], log: Path) -> None:
    """Run lmms-eval offline, with its output in a log file.

    Args:
        arguments: The arguments of the command `lmms-eval`.
        log: The file for everything that it prints.

    Raises:
        RunError: If lmms-eval is missing or failed. The text then ends with the end of the log.
    """
    if importlib.util.find_spec("lmms_eval") is None:
        raise RunError("lmms-eval is not installed: pip install lmms-eval")
    log.parent.mkdir(parents=True, exist_ok=True)
    # Unless it is verbose, its exit status is 0 even if it failed.
    command = [sys.executable, "-m", "lmms_eval", *arguments, "--verbosity", "DEBUG"]
    with log.open("w", encoding="utf-8") as sink:
        done = subprocess.run(
            command, stdout=sink, stderr=subprocess.STDOUT, env={"HF_HUB_OFFLINE": "1", **os.environ}, check=False
        )
    if done.returncode:
        end = "\n".join(log.read_text(encoding="utf-8").splitlines()[-20:])
        raise RunError(f"lmms-eval failed (exit status {done.returncode}); all of its output is in {log}:\n{end}")


def newest(folder: Path, pattern: str) -> Path:
    """Return the latest file of a run's output folder that matches a pattern.

    Raises:
        RunError: If there is none.
    """
    found = sorted(folder.glob(f"*/{pattern}"))
    if not found:
        raise RunError(f"lmms-eval left no {pattern} in {folder}")
    return found[-1]


def read_metrics(path: Path, task: str) -> dict[str, float]:
    """Return a task's metrics from a results file, without the standard errors."""
    found = json.loads(path.read_text(encoding="utf-8"))["results"][task]
    return {
        name.removesuffix(",none"): value
        for name, value in found.items()
        if name.endswith(",none") and "_stderr" not in name
    }


def read_samples(path: Path) -> pd.DataFrame:
    """Return each row's doc_id, answer, confidence and alpha from a samples file of this plugin's models."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return pd.DataFrame(
        {"doc_id": line["doc_id"], "answer": line["filtered_resps"], **line["token_counts"][0]} for line in lines
    )
