"""Every variant of decoding compared with plain `generate`, on the same prompts, in one case or several."""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from adaptvis_plugin.attention.form import Header
from adaptvis_plugin.attention.record import Record
from adaptvis_plugin.attention.store import AttentionStore
from adaptvis_plugin.decoding import AdaptVis, Baseline, Decoder, ScalingVis
from benchmarks.authors import two_complete_generations
from benchmarks.measure import Case, Settings, Work, in_turn, peak_memory, ratio, reset_peak_memory, table
from benchmarks.shapes import SHAPES, TEXT_TOKENS, image_tokens, random_batch, random_llava

ALPHAS = [0.5, 0.8, 1.2, 1.5, 2.0]
ADAPTVIS = AdaptVis(alpha_low=0.5, alpha_high=1.5, threshold=0.4)
PLAIN, AUTHORS, SWEEP = "plain `generate`", "the authors' procedure", "sweep over 6 alphas"
CAPTURED = "attention captured and written"
CAPTURE_BOUND = (1.25, 1.10)
BOUNDS: dict[tuple[str, int], dict[str, tuple[float, float | None]]] = {
    ("scaled", 4): {"ScalingVis": (1.05, 1.05), "AdaptVis": (1.05, 1.05), SWEEP: (1.20, 1.20), CAPTURED: CAPTURE_BOUND},
    ("scaled", 1): {"ScalingVis": (1.07, 1.05), "AdaptVis": (1.07, 1.05), SWEEP: (1.30, 1.20), CAPTURED: CAPTURE_BOUND},
    ("small", 1): {"ScalingVis": (1.05, None), "AdaptVis": (1.05, None), SWEEP: (1.60, None), CAPTURED: (1.25, None)},
}
"""The most time and peak memory that a variant may take compared with plain `generate`: the project's own limits.

They are for a shape and a batch size, on a CPU and for answers of `BOUND_TOKENS` tokens.
"""
AUTHORS_AT_LEAST = {("scaled", 4): 2.0}
"""The least time that the authors' procedure takes compared with AdaptVis, in the same conditions."""
BOUND_TOKENS = 2
ROUNDS = {("scaled", 4): 14, ("scaled", 1): 28, ("small", 1): 56}
"""Enough for medians that vary by 1 to 2 percent. Multiples of 7, so that each of the 7 variants is first as often."""
FIGURES = {"time / plain": "time at most", "peak memory / plain": "memory at most"}
"""What is measured of a variant in a case, and the name of its bound."""


def variants(model: Any, tokens: int) -> dict[str, Work]:
    """Return the variants of answering a batch. Each has its own decoder, so that none finds another's prefixes."""

    def decode(run: Callable[[Decoder, Any], Any]) -> Work:
        decoder = Decoder(model)
        return lambda batch: run(decoder, batch)

    return {
        PLAIN: lambda batch: model.generate(**batch, max_new_tokens=tokens, do_sample=False),
        "Baseline": decode(lambda d, batch: d.generate(batch, Baseline(), max_new_tokens=tokens)),
        "ScalingVis": decode(lambda d, batch: d.generate(batch, ScalingVis(alpha=0.8), max_new_tokens=tokens)),
        "AdaptVis": decode(lambda d, batch: d.generate(batch, ADAPTVIS, max_new_tokens=tokens)),
        SWEEP: decode(lambda d, batch: d.sweep(batch, ALPHAS, max_new_tokens=tokens)),
        CAPTURED: decode(Capture(model, tokens)),
        AUTHORS: lambda batch: two_complete_generations(model, batch, ADAPTVIS, tokens),
    }


class Capture:
    """The unsteered answers with the attention of all layers and heads, which is written to disk as it comes.

    Args:
        model: The model.
        tokens: Length of an answer.
    """

    def __init__(self, model: Any, tokens: int) -> None:
        self._tokens = tokens
        self._folder = tempfile.TemporaryDirectory(prefix="adaptvis-benchmark-")
        self._store = AttentionStore(Path(self._folder.name))
        self._rows = itertools.count()
        decoder = Decoder(model)
        header = Header(
            task="benchmark", rows=0, model="random", dtype=str(model.dtype).removeprefix("torch."), prompt="chat",
            conditions=("1.0",), layers=decoder.layers, heads=decoder.heads,
        )  # fmt: skip
        self._store.resume(header)

    def __call__(self, decoder: Decoder, batch: Any) -> None:
        """Answer a batch, and write what was captured."""
        out = decoder.generate(batch, Baseline(), max_new_tokens=self._tokens, capture=True)
        assert out.attention is not None
        ids = batch["input_ids"]
        image = (ids == decoder.image_token_id).cpu().numpy()
        each = zip(out.attention.cpu().numpy(), ids.int().cpu().numpy(), image, strict=True)
        self._store.add(Record(next(self._rows), w[None], own, i, None, (), ()) for w, own, i in each)


def measure(settings: Settings) -> dict[str, Any]:
    """Measure the time and the peak memory of every variant in every case."""
    return {str(case): _measure(case, settings) for case in settings.cases}


def _measure(case: Case, settings: Settings) -> dict[str, Any]:
    shape, device, tokens = SHAPES[case.shape], settings.device, settings.tokens
    model = random_llava(shape, device, settings.attention)
    seconds = in_turn(
        variants(model, tokens),
        lambda number: random_batch(model, case.batch_size, seed=number),
        case.rounds,
        device,
        f"decoding: {case}",
    )
    memory = {}
    if shape.memory:
        for name in tqdm(seconds, desc=f"decoding: peak memory, {case}", unit="variant"):
            if device == "cpu":
                memory[name] = peak_memory_alone(case.shape, settings.attention, case.batch_size, tokens, name)
            else:  # a GPU's allocator counts what it hands out, so that no process of its own is needed
                memory[name] = _peak_memory(model, device, case.batch_size, tokens, name)
    key = (case.shape, case.batch_size)
    bounded = device == "cpu" and tokens == BOUND_TOKENS
    bounds = BOUNDS.get(key, {}) if bounded else {}

    def row(name: str) -> dict[str, float]:
        time_bound, memory_bound = bounds.get(name, (None, None))
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
    return {
        "model": f"random LLaVA, {parameters / 1e6:.0f}M parameters, {shape.dtype}, {settings.attention}",
        "prompt": f"{image_tokens(model)} image tokens and {TEXT_TOKENS} text tokens; batch {case.batch_size}; answers "
        f"of {tokens} tokens; medians of {case.rounds} rounds",
        "variants": {name: row(name) for name in seconds},
        "authors / AdaptVis": ratio(seconds[AUTHORS], seconds["AdaptVis"]),
        "authors at least": AUTHORS_AT_LEAST.get(key) if bounded else None,
    }


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

    def authors(measured: dict[str, Any]) -> str:
        least = measured["authors at least"]
        return f"{measured['authors / AdaptVis']:.2f}" + (f" (at least {least:g})" if least else "")

    ending = "The authors' procedure over AdaptVis: " + ", ".join(authors(measured) for measured in report.values())
    return f"{cases}\n\n{table(head, rows)}\n\n{ending}.\n"


def peak_memory_alone(shape: str, attention: str, batch_size: int, tokens: int, name: str) -> int:
    """Return the peak memory of a variant on the CPU in a process of its own, in bytes."""
    arguments = [shape, attention, str(batch_size), str(tokens), name]
    # With its default limit, glibc keeps freed tensors for later: up to a tenth of the peak, more or less by chance.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "benchmarks.decoding", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout.split()[-1])


def _memory_alone(shape: str, attention: str, batch_size: str, tokens: str, name: str) -> int:
    return _peak_memory(random_llava(SHAPES[shape], "cpu", attention), "cpu", int(batch_size), int(tokens), name)


def _peak_memory(model: Any, device: str, batch_size: int, tokens: int, name: str) -> int:
    """Return the peak memory of a variant in this process, in bytes."""
    batches = [random_batch(model, batch_size, seed=number) for number in range(2)]
    work = variants(model, tokens)[name]
    reset_peak_memory(device)
    for batch in batches:
        work(batch)
    return peak_memory(device)


if __name__ == "__main__":
    torch.manual_seed(0)
    print(_memory_alone(*sys.argv[1:]))
