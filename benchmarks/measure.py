"""Timing in turn, peak memory, and a description of the machine."""

import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm

Work = Callable[[Any], Any]
"""One variant of a job; it gets the round's input."""

GPU_WARM_UP = 3
"""Rounds to warm up on a GPU, which loads its kernels and takes its memory as they are first needed."""


@dataclass(frozen=True)
class Case:
    """A model and a batch size to measure.

    Attributes:
        shape: Name of the model's shape.
        batch_size: Prompts in a batch.
        rounds: Rounds of measuring, after some to warm up.
    """

    shape: str
    batch_size: int
    rounds: int

    def __str__(self) -> str:
        return f"{self.shape}, batch {self.batch_size}"


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        cases: The models and batch sizes. A part that measures only one of them takes the first.
        device: cpu or cuda.
        attention: Attention kernel of the unsteered passes.
        tokens: Length of an answer.
    """

    cases: list[Case]
    device: str
    attention: str
    tokens: int


def in_turn(
    variants: Mapping[str, Work], inputs: Callable[[int], Any], rounds: int, device: str, title: str
) -> dict[str, list[float]]:
    """Measure the wall seconds of every variant in every round, after some rounds to warm up.

    In each round all variants run in turn on the same input. If the machine's speed drifts, it drifts for all of them,
    and the ratios within a round hold. Each round begins with another variant: the first is a little slower, because
    making the input has emptied the processor's caches.

    Args:
        variants: The variants by name.
        inputs: Returns the input of a round, given its number.
        rounds: Rounds to measure.
        device: cpu or cuda.
        title: What to call it in the progress bar on standard error.
    """
    names, warm_up = list(variants), 1 if device == "cpu" else GPU_WARM_UP
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in tqdm(range(rounds + warm_up), desc=title, unit="round"):
        given = inputs(number)
        first = number % len(variants)
        for name in names[first:] + names[:first]:
            _synchronize(device)
            start = time.perf_counter()
            variants[name](given)
            _synchronize(device)
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(a: list[float], b: list[float]) -> float:
    """Return the median over the rounds of the ratio within a round."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def reset_peak_memory(device: str) -> None:
    """Forget how much memory was used so far."""
    gc.collect()
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    else:
        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: str) -> int:
    """Return the most memory used since the reset, in bytes: resident in the process, or allocated on the GPU."""
    if device != "cpu":
        return int(torch.cuda.max_memory_allocated())
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def machine(device: str) -> str:
    """Describe the hardware and the versions."""
    if device == "cpu":
        hardware = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    else:
        hardware = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return (
        f"{hardware}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table with all columns but the first aligned to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
