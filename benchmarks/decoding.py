"""Every variant of decoding compared with plain `generate`, on the same prompts."""

import dataclasses
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from tqdm import tqdm

from adaptvis_plugin.decoding import AdaptVis, Baseline, Decoder, ScalingVis
from benchmarks.authors import two_complete_generations
from benchmarks.measure import Settings, Work, in_turn, peak_memory, ratio, reset_peak_memory, table
from benchmarks.shapes import IMAGE_TOKENS, SHAPES, TEXT_TOKENS, random_batch, random_llava

ALPHAS = [0.5, 0.8, 1.2, 1.5, 2.0]
ADAPTVIS = AdaptVis(alpha_low=0.5, alpha_high=1.5, threshold=0.4)
PLAIN, AUTHORS = "plain `generate`", "the authors' procedure"
BOUNDS = {"ScalingVis": 1.05, "AdaptVis": 1.10, "sweep over 6 alphas": 1.6}
"""The most that a variant may cost compared with plain `generate`: the project's own limits."""


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
        "sweep over 6 alphas": decode(lambda d, batch: d.sweep(batch, ALPHAS, max_new_tokens=tokens)),
        AUTHORS: lambda batch: two_complete_generations(model, batch, ADAPTVIS, tokens),
    }


def measure(settings: Settings) -> dict[str, Any]:
    """Measure the time and the peak memory of every variant."""
    shape, device, attention, rows, tokens, rounds = dataclasses.astuple(settings)
    model = random_llava(SHAPES[shape], device, attention)
    seconds = in_turn(
        variants(model, tokens), lambda number: random_batch(model, rows, seed=number), rounds, device, "decoding"
    )
    memory = {
        name: _memory_in_a_process([shape, device, attention, str(rows), str(tokens), name])
        for name in tqdm(seconds, desc="decoding: peak memory", unit="variant")
    }
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "model": f"random LLaVA, {parameters / 1e6:.0f}M parameters, {SHAPES[shape].dtype}, {attention}",
        "prompt": f"{IMAGE_TOKENS} image tokens and {TEXT_TOKENS} text tokens; batch {rows}; answers of {tokens} "
        f"tokens; medians of {rounds} rounds",
        "variants": {
            name: {
                "time / plain": ratio(seconds[name], seconds[PLAIN]),
                "seconds": statistics.median(seconds[name]),
                "peak memory / plain": memory[name] / memory[PLAIN],
            }
            for name in seconds
        },
        "authors / AdaptVis": ratio(seconds[AUTHORS], seconds["AdaptVis"]),
    }


def markdown(report: dict[str, Any]) -> str:
    """Return the figures as a sentence and a table."""
    rows = []
    for name, row in report["variants"].items():
        bound = f"{BOUNDS[name]:.2f}" if name in BOUNDS else ""
        figures = [f"{row['time / plain']:.2f}", bound, f"{row['peak memory / plain']:.2f}", f"{row['seconds']:.2f}"]
        rows.append([name, *figures])
    head = ["", "time / plain", "at most", "peak memory / plain", "seconds"]
    ending = f"The authors' procedure over AdaptVis: {report['authors / AdaptVis']:.2f} (at least 2)."
    return f"{report['model']}. {report['prompt']}.\n\n{table(head, rows)}\n\n{ending}\n"


def _memory_in_a_process(arguments: list[str]) -> int:
    command = [sys.executable, "-m", "benchmarks.decoding", *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _memory(shape: str, device: str, attention: str, batch_size: str, tokens: str, name: str) -> int:
    model = random_llava(SHAPES[shape], device, attention)
    batches = [random_batch(model, int(batch_size), seed=number) for number in range(2)]
    work = variants(model, int(tokens))[name]
    reset_peak_memory(device)
    for batch in batches:
        work(batch)
    return peak_memory(device)


if __name__ == "__main__":
    torch.manual_seed(0)
    print(_memory(*sys.argv[1:]))
