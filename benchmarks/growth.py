"""What steering adds as prompts and batches grow."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.decoding import SWEEP, variants
from benchmarks.measure import Settings, in_turn, ratio, table
from benchmarks.over_plain import PLAIN
from benchmarks.shapes import SHAPES, image_tokens, random_batch, random_llava

IMAGES = (1, 2, 4, 8)
BATCHES = (1, 2, 4, 8)
SHOWN = ("ScalingVis", "AdaptVis", SWEEP)


def measure(settings: Settings) -> dict[str, Any]:
    """Measure time over plain: for 1 to 8 images in a single prompt, and for batches of 1 to 8 with one image each."""
    case = settings.cases[0]
    model = random_llava(SHAPES[case.shape], settings.device, settings.attention)

    def over_plain(rows: int, images: int) -> dict[str, float]:
        chosen = {name: work for name, work in variants(model, settings.tokens).items() if name in (PLAIN, *SHOWN)}
        seconds = in_turn(
            chosen,
            lambda number: random_batch(model, rows, images, seed=number),
            min(case.rounds, 3),
            settings.device,
            f"growth: batch {rows}, {image_tokens(model) * images} image tokens",
        )
        return {name: ratio(seconds[name], seconds[PLAIN]) for name in SHOWN}

    return {
        "image tokens": {str(image_tokens(model) * images): over_plain(1, images) for images in IMAGES},
        "batch size": {str(rows): over_plain(rows, 1) for rows in BATCHES},
    }


def draw(report: dict[str, Any], folder: Path) -> None:
    """Draw both curves side by side, as growth.png."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axis, (title, points) in zip(figure.subplots(1, 2, sharey=True), report.items(), strict=True):
        for name in SHOWN:
            axis.plot(list(points), [point[name] for point in points.values()], marker="o", label=name)
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("time over plain generate")
    figure.axes[0].set_ylim(bottom=0)
    figure.axes[1].legend(fontsize=8)
    figure.savefig(folder / "growth.png", dpi=120)


def markdown(report: dict[str, Any]) -> str:
    """Return the picture and the figures as tables."""
    parts = ["![Time over plain generate](growth.png)"]
    for title, points in report.items():
        rows = [[name, *(f"{point[name]:.2f}" for point in points.values())] for name in SHOWN]
        parts.append(table([f"time / plain by {title}", *points], rows))
    return "\n\n".join(parts) + "\n"
