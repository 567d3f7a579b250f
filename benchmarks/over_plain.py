"""Variants of decoding compared with plain `generate`, on the same prompts: time in turn, and peak memory."""

import importlib
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.measure import Case, Settings, Work, in_turn, peak_memory, ratio, reset_peak_memory, table
from benchmarks.shapes import SHAPES, TEXT_TOKENS, image_tokens, random_batch, random_llava

PLAIN = "plain `generate`"
BOUND_TOKENS = 2
FIGURES = {"time / plain": "time at most", "peak memory / plain": "memory at most"}
"""What is measured of a variant in a case, and the name of its bound."""

Variants = Callable[[Any, int], dict[str, Work]]
"""Given a model and the length of an answer, returns the variants of answering a batch, the plain one first."""
Bounds = Mapping[tuple[str, int], Mapping[str, tuple[float, float | None]]]
"""The most time and peak memory that a variant may take compared with plain `generate`: the project's own limits.

They are for a shape and a batch size, on a CPU and for answers of `BOUND_TOKENS` tokens.
"""


def bounds_hold(settings: Settings) -> bool:
    """Whether these are the settings that bounds are for."""
    return settings.device == "cpu" and settings.tokens == BOUND_TOKENS


def measure(part: str, case: Case, settings: Settings, bounds: Bounds) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Measure the time and the peak memory of every variant in a case.

    Args:
        part: The module of this package that has the `variants`.
        case: The case.
        settings: What is measured.
        bounds: The bounds of the variants.

    Returns:
        The figures, and the seconds of every variant in every round.
    """
    shape, device, tokens = SHAPES[case.shape], settings.device, settings.tokens
    model = random_llava(shape, device, settings.attention)
    seconds = in_turn(
        variants_of(part)(model, tokens),
        lambda number: random_batch(model, case.batch_size, seed=number),
        case.rounds,
        device,
        f"{part}: {case}",
    )
    memory = {}
    if shape.memory:
        for name in tqdm(seconds, desc=f"{part}: peak memory, {case}", unit="variant"):
            if device == "cpu":
                memory[name] = peak_memory_alone(part, case.shape, settings.attention, case.batch_size, tokens, name)
            else:  # a GPU's allocator counts what it hands out, so that no process of its own is needed
                memory[name] = _peak_memory(part, model, device, case.batch_size, tokens, name)
    of_case = bounds.get((case.shape, case.batch_size), {}) if bounds_hold(settings) else {}

    def row(name: str) -> dict[str, float]:
        time_bound, memory_bound = of_case.get(name, (None, None))
        figures = {
            "time / plain": ratio(seconds[name], seconds[PLAIN]),
            "time at most": time_bound,
            "peak memory / plain": memory[name] / memory[PLAIN] if memory else None,
            "memory at most": memory_bound,
            "seconds": statistics.median(seconds[name]),
            "peak GB": memory[name] / 1e9 if memory else None,
        }
        return {column: figure for column, figure in figures.items() if figure is not None}

    parameters = sum(parameter.numel() for parameter in model.parameters())
    figures = {
        "model": f"random LLaVA, {parameters / 1e6:.0f}M parameters, {shape.dtype}, {settings.attention}",
        "prompt": f"{image_tokens(model)} image tokens and {TEXT_TOKENS} text tokens; batch {case.batch_size}; answers "
        f"of {tokens} tokens; medians of {case.rounds} rounds",
        "variants": {name: row(name) for name in seconds},
    }
    return figures, seconds


def markdown(report: dict[str, Any]) -> str:
    """Return the figures as a list of the cases, and a table with the variants below each other."""
    columns = [
        (case, figure)
        for figure in FIGURES
        for case, measured in report.items()
        if figure in measured["variants"][PLAIN]
    ]

    def cell(row: dict[str, float], figure: str) -> str:
        bound = f" (at most {row[FIGURES[figure]]:.2f})" if FIGURES[figure] in row else ""
        return f"{row[figure]:.2f}{bound}"

    rows = [
        [variant, *(cell(report[case]["variants"][variant], figure) for case, figure in columns)]
        for variant in next(iter(report.values()))["variants"]
    ]
    head = ["", *(f"{case}: {figure}" for case, figure in columns)]

    def used(plain: dict[str, float]) -> str:
        memory = f" and {plain['peak GB']:.1f} GB" if "peak GB" in plain else ""
        return f"{plain['seconds']:.3f} seconds{memory}"

    cases = "\n".join(
        f"- {case}: {measured['model']}. {measured['prompt']}. Plain `generate` takes "
        f"{used(measured['variants'][PLAIN])}."
        for case, measured in report.items()
    )

    return f"{cases}\n\n{table(head, rows)}\n"


def variants_of(part: str) -> Variants:
    """Return the `variants` of a module of this package."""
    found: Variants = importlib.import_module(f"benchmarks.{part}").variants
    return found


def peak_memory_alone(part: str, shape: str, attention: str, batch_size: int, tokens: int, name: str) -> int:
    """Return the peak memory of a variant on the CPU in a process of its own, in bytes."""
    arguments = [part, shape, attention, str(batch_size), str(tokens), name]
    # With its default limit, glibc keeps freed tensors for later: up to a tenth of the peak, more or less by chance.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "benchmarks.over_plain", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout.split()[-1])


def _memory_alone(part: str, shape: str, attention: str, batch_size: str, tokens: str, name: str) -> int:
    return _peak_memory(part, random_llava(SHAPES[shape], "cpu", attention), "cpu", int(batch_size), int(tokens), name)


def _peak_memory(part: str, model: Any, device: str, batch_size: int, tokens: int, name: str) -> int:
    """Return the peak memory of a variant in this process, in bytes."""
    batches = [random_batch(model, batch_size, seed=number) for number in range(2)]
    work = variants_of(part)(model, tokens)[name]
    reset_peak_memory(device)
    for batch in batches:
        work(batch)
    return peak_memory(device)


if __name__ == "__main__":
    torch.manual_seed(0)
    print(_memory_alone(*sys.argv[1:]))
