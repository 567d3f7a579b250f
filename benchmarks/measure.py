"""Timing in turn, peak memory in a process of its own, and what the figures stand on."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

Work = Callable[[Any], Any]
"""One way of doing a job; gets the round's input."""


def in_turn(ways: Mapping[str, Work], inputs: Callable[[int], Any], rounds: int, device: str) -> dict[str, list[float]]:
    """Wall seconds of every way in every round, all ways in turn on the round's input, after one round to warm up.

    On a machine whose speed drifts it then drifts for all of them, and a ratio within a round holds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        given = inputs(number)
        for name, work in ways.items():
            _settle(device)
            start = time.perf_counter()
            work(given)
            _settle(device)
            if number > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(a: list[float], b: list[float]) -> float:
    """Median over the rounds of the ratio within the round."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def reset_peak_memory(device: str) -> None:
    """Forget how much memory was used so far."""
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    else:
        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: str) -> int:
    """The most memory used since the reset, in bytes: resident memory of the process, or allocated on the GPU."""
    if device != "cpu":
        return int(torch.cuda.max_memory_allocated())
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def machine(device: str) -> str:
    """Hardware and versions."""
    hardware = torch.cuda.get_device_name() if device != "cpu" else f"{platform.machine()} CPU"
    return (
        f"{hardware}, {torch.get_num_threads()} threads; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, all columns but the first aligned to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _settle(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
