"""All benchmarks: `python -m benchmarks`. Writes benchmarks.md, benchmarks.json and growth.png."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import decoding, end_to_end, growth, sharing
from benchmarks.measure import machine
from benchmarks.shapes import SHAPES


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "scaled",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    attention: Annotated[str, typer.Option(help="Kernel of the ordinary passes.")] = "sdpa",
    batch_size: Annotated[int, typer.Option(min=1)] = 4,
    tokens: Annotated[int, typer.Option(min=1, help="Length of an answer; WhatsUp's have 1 to 3 tokens.")] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("out/benchmarks"),
) -> None:
    """Measure what steering costs: ratios of things done in turn in one run, on random weights of LLaVA-1.5's shape."""
    console = Console(stderr=True)
    output.mkdir(parents=True, exist_ok=True)
    common = (shape, device, attention)
    with console.status("every way of decoding"):
        ways = decoding.measure(*common, batch_size, tokens, rounds)
    with console.status("questions that share pictures"):
        shared = sharing.measure(*common, batch_size, tokens, min(rounds, 3))
    with console.status("growing prompts and batches"):
        grown = growth.measure(*common, tokens, min(rounds, 3))
    with console.status("lmms-eval end to end"):
        ended = end_to_end.measure(1)
    growth.draw(grown, output / "growth.png")
    report = {"machine": machine(device), "decoding": ways, "sharing": shared, "growth": grown, "end to end": ended}
    (output / "benchmarks.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    text = "\n".join(
        [
            "# What steering costs",
            "",
            f"Measured by `python -m benchmarks` on: {machine(device)}.",
            "",
            decoding.markdown(ways),
            "## Questions that share pictures",
            "",
            sharing.markdown(shared),
            "## Longer prompts, larger batches",
            "",
            "![Time over plain generate](growth.png)",
            "",
            growth.markdown(grown),
            "## End to end",
            "",
            end_to_end.markdown(ended),
        ]
    )
    (output / "benchmarks.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    typer.run(main)
