"""What steering costs: every way of decoding over plain `generate`, on random weights of LLaVA-1.5's shape.

    python -m benchmarks.decoding                         # on CPU, the scaled shape
    python -m benchmarks.decoding --shape 7b --device cuda --attention sdpa

All variants run in turn, round after round, so that a machine whose speed drifts drifts for all of them; a ratio is
the median over the rounds of the ratio within the round.
"""

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from rich.progress import track
from transformers import PreTrainedModel

from adaptvis_plugin.decoding import AdaptVis, Baseline, Decoder, ScalingVis
from benchmarks.authors import two_complete_generations
from benchmarks.shapes import SHAPES, TEXT_TOKENS, random_batch, random_llava

ALPHAS = [0.5, 0.8, 1.2, 1.5, 2.0]
ADAPTVIS = AdaptVis(alpha_low=0.5, alpha_high=1.5, threshold=0.4)


def variants(model: PreTrainedModel, batch: dict[str, torch.Tensor], tokens: int) -> dict[str, Callable[[], Any]]:
    """The ways of answering the same batch."""
    decoder = Decoder(model)
    return {
        "plain generate": lambda: model.generate(**batch, max_new_tokens=tokens, do_sample=False),
        "Baseline": lambda: decoder.generate(batch, Baseline(), max_new_tokens=tokens),
        "ScalingVis": lambda: decoder.generate(batch, ScalingVis(alpha=0.8), max_new_tokens=tokens),
        "AdaptVis": lambda: decoder.generate(batch, ADAPTVIS, max_new_tokens=tokens),
        "sweep over 6 alphas": lambda: decoder.sweep(batch, ALPHAS, max_new_tokens=tokens),
        "authors' procedure": lambda: two_complete_generations(model, batch, ADAPTVIS, tokens),
    }


def timed(function: Callable[[], Any], device: str) -> float:
    """Wall seconds of one call."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(name: str, arguments: list[str]) -> int:
    """Peak memory in bytes of a process of its own that runs one variant (on a GPU: of the device)."""
    command = [sys.executable, "-m", "benchmarks.decoding", *arguments, "--only", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "scaled",
    device: Annotated[str, typer.Option()] = "cpu",
    attention: Annotated[str, typer.Option(help="Kernel of the ordinary passes.")] = "sdpa",
    batch_size: Annotated[int, typer.Option(min=1)] = 4,
    tokens: Annotated[int, typer.Option(min=1, help="Answer length; WhatsUp's answers have 1 to 3.")] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    output: Annotated[Path, typer.Option(help="Folder for decoding.md and decoding.json.")] = Path("out/benchmarks"),
    only: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure time and peak memory of every way of decoding."""
    model = random_llava(SHAPES[shape], device)
    model.set_attn_implementation(attention)
    batch = random_batch(model, batch_size)
    ways = variants(model, batch, tokens)
    if only is not None:
        ways[only]()
        peak = (
            torch.cuda.max_memory_allocated()
            if device != "cpu"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        print(peak)
        return

    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in track(range(rounds), description="rounds", transient=True):
        for name, way in ways.items():
            seconds[name].append(timed(way, device))
    arguments = ["--shape", shape, "--device", device, "--attention", attention]
    arguments += ["--batch-size", str(batch_size), "--tokens", str(tokens)]
    memory = {name: peak_memory(name, arguments) for name in track(ways, description="memory", transient=True)}

    parameters = sum(parameter.numel() for parameter in model.parameters())
    report = {
        "hardware": torch.cuda.get_device_name()
        if device != "cpu"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "model": f"random LLaVA, {parameters / 1e6:.0f}M parameters, {SHAPES[shape].dtype}, {attention}",
        "prompt": f"576 image tokens and {TEXT_TOKENS} text tokens, batch {batch_size}, {tokens} new tokens, {rounds} rounds",
        "variants": {
            name: {
                "seconds": statistics.median(seconds[name]),
                "time / plain": ratio(seconds[name], seconds["plain generate"]),
                "time / AdaptVis": ratio(seconds[name], seconds["AdaptVis"]),
                "peak memory / plain": memory[name] / memory["plain generate"],
            }
            for name in ways
        },
    }
    text = markdown(report)
    output.mkdir(parents=True, exist_ok=True)
    (output / "decoding.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (output / "decoding.md").write_text(text, encoding="utf-8")
    print(text)


def ratio(a: list[float], b: list[float]) -> float:
    """Median of the ratios within the rounds."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [f"{report['model']}; {report['prompt']}; {report['hardware']}; {versions}", ""]
    columns = ["time / plain", "time / AdaptVis", "peak memory / plain"]
    lines += [f"| | {' | '.join(columns)} | seconds |", "|---|---:|---:|---:|---:|"]
    for name, row in report["variants"].items():
        lines.append(f"| {name} | {' | '.join(f'{row[column]:.2f}' for column in columns)} | {row['seconds']:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
