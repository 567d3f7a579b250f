"""Measure what steering costs: `python -m benchmarks`, or only some parts: `python -m benchmarks decoding growth`."""

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from adaptvis_plugin.models.devices import choose_device
from benchmarks import decoders, decoding, end_to_end, growth, replay, serving, sharing, sweep
from benchmarks.measure import Case, Settings, machine
from benchmarks.report import Part, Report
from benchmarks.shapes import SHAPES

PARTS = {
    "decoding": Part("Decoding", decoding.measure, decoding.markdown),
    "decoders": Part("The other decoders", decoders.measure, decoders.markdown),
    "sharing": Part("Questions that share pictures", sharing.measure, sharing.markdown),
    "growth": Part("Longer prompts, larger batches", growth.measure, growth.markdown, growth.draw),
    "sweep": Part("A sweep's bookkeeping", sweep.measure, sweep.markdown),
    "replay": Part("Replay", replay.measure, replay.markdown),
    "end-to-end": Part("End to end", end_to_end.measure, end_to_end.markdown),
    "serving": Part("On a vLLM engine", serving.measure, serving.markdown),
}
OWN_ENVIRONMENT = ("serving",)
"""Parts that need vLLM, and are measured only if they are named."""

app = typer.Typer(add_completion=False)


@app.command()
def main(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"What to measure: {', '.join(PARTS)}; by default all but {', '.join(OWN_ENVIRONMENT)}, which needs "
            "the environment of `make vllm`."
        ),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help=f"The model's size: {', '.join(SHAPES)}; scaled by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    attention: Annotated[str, typer.Option(help="Attention kernel of the unsteered passes.")] = "sdpa",
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Prompts in a batch; 4 by default. May be given several times.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Length of an answer; WhatsUp's have 1 to 3 tokens.")] = 2,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of measuring; more for fast cases by default.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("out/benchmarks"),
) -> None:
    """Measure what steering costs: ratios of things done in turn in one run, on random weights of LLaVA-1.5's shape.

    Decoding is measured in the cases that have bounds, or in others if a shape or a batch size is given.

    Each part is written to benchmarks.json and benchmarks.md as it ends. Parts that are already in the folder stay.
    """
    for part in parts or ():
        if part not in PARTS:
            raise typer.BadParameter(f"{part!r} is not one of {', '.join(PARTS)}", param_hint="PARTS")
    if shape is not None and shape not in SHAPES:
        raise typer.BadParameter(f"{shape!r} is not one of {', '.join(SHAPES)}", param_hint="--shape")
    try:
        choose_device(device, 0, 1, torch.cuda.device_count(), "--device")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    own = [(shape or "scaled", size) for size in batch_size or [4]]
    chosen = decoding.BOUNDS if shape is None and not batch_size else own
    cases = [Case(*key, rounds or decoding.ROUNDS.get(key, 6)) for key in chosen]
    settings = Settings(cases, device, attention, tokens)
    try:
        report = Report.open(output, PARTS, machine(device), settings)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error
    for name in PARTS:
        if name in (parts or {*PARTS} - {*OWN_ENVIRONMENT}):
            report.add(name, PARTS[name].measure(settings))
    sys.stdout.write(report.markdown())


if __name__ == "__main__":
    app()
