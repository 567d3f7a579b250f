"""Measure what steering costs: `python -m benchmarks`, or only some parts: `python -m benchmarks decoding growth`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import decoding, end_to_end, growth, sharing
from benchmarks.measure import Settings, machine
from benchmarks.report import Part, Report
from benchmarks.shapes import SHAPES

PARTS = {
    "decoding": Part("Decoding", decoding.measure, decoding.markdown),
    "sharing": Part("Questions that share pictures", sharing.measure, sharing.markdown),
    "growth": Part("Longer prompts, larger batches", growth.measure, growth.markdown, growth.draw),
    "end-to-end": Part("End to end", end_to_end.measure, end_to_end.markdown),
}

app = typer.Typer(add_completion=False)


@app.command()
def main(
    parts: Annotated[
        list[str] | None, typer.Argument(help=f"What to measure: {', '.join(PARTS)}; everything by default.")
    ] = None,
    shape: Annotated[str, typer.Option(help=f"The model's size: {', '.join(SHAPES)}.")] = "scaled",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    attention: Annotated[str, typer.Option(help="Attention kernel of the unsteered passes.")] = "sdpa",
    batch_size: Annotated[int, typer.Option(min=1)] = 4,
    tokens: Annotated[int, typer.Option(min=1, help="Length of an answer; WhatsUp's have 1 to 3 tokens.")] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("out/benchmarks"),
) -> None:
    """Measure what steering costs: ratios of things done in turn in one run, on random weights of LLaVA-1.5's shape.

    Each part is written to benchmarks.json and benchmarks.md as it ends. Parts that are already in the folder stay.
    """
    for part in parts or ():
        if part not in PARTS:
            raise typer.BadParameter(f"{part!r} is not one of {', '.join(PARTS)}", param_hint="PARTS")
    if shape not in SHAPES:
        raise typer.BadParameter(f"{shape!r} is not one of {', '.join(SHAPES)}", param_hint="--shape")
    settings = Settings(shape, device, attention, batch_size, tokens, rounds)
    try:
        report = Report.open(output, PARTS, machine(device), settings)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error
    for name in PARTS:
        if not parts or name in parts:
            report.add(name, PARTS[name].measure(settings))
    sys.stdout.write(report.markdown())


if __name__ == "__main__":
    app()
