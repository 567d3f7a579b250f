"""Runs lmms-eval's command line and reads the files it writes. Imports nothing of lmms-eval."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptvis_plugin.models.validation import parse_value

RESULTS = "_results.json"
SAMPLES = "_samples_"
"""What stands between the date of a run and the end of its files' names."""


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


@dataclass(frozen=True)
class Maker:
    """The model of a run.

    Attributes:
        name: Its name in lmms-eval; empty if the file does not say it.
        arguments: Its arguments.
    """

    name: str
    arguments: Mapping[str, Any]


def maker_of(content: Mapping[str, Any]) -> Maker:
    """Return the model of a results file's content."""
    config = content.get("config") or {}
    given = config.get("model_args") or ""
    if isinstance(given, str):
        parts = (part.partition("=") for part in given.split(",") if "=" in part)
        given = {name.strip(): parse_value(value.strip()) for name, _, value in parts}
    return Maker(str(config.get("model") or ""), {str(name): value for name, value in given.items()})


def results_of(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the results of each task of a results file's content; without the groups, which only repeat them."""
    groups = {name for name, members in (content.get("group_subtasks") or {}).items() if members}
    found = content.get("results")
    return {name: scores for name, scores in found.items() if name not in groups} if isinstance(found, dict) else {}


def samples_of(results: Path, task: str) -> Path:
    """Return the file with the samples of a task of a results file; it may not exist."""
    return results.with_name(f"{results.name.removesuffix(RESULTS)}{SAMPLES}{task}.jsonl")


def task_of(samples: Path) -> str:
    """Return the task of a samples file."""
    return samples.stem.partition(SAMPLES)[2] or samples.stem
