"""Attention laid over the pictures of some rows, by layer, before and after steering."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from adaptvis_plugin.attention.areas import pixel_map, placed
from adaptvis_plugin.attention.record import Places, Record
from adaptvis_plugin.attention.study import AttentionRun, Study
from adaptvis_plugin.comparison.checks import bare
from adaptvis_plugin.comparison.plots import STYLE
from adaptvis_plugin.traces import Row

BOX = "#00e5ff"
COLUMNS = 8
"""The most pictures beside each other."""

MOST = 40
"""The most layers in a grid; of more, every second or third is shown."""


def flipped_first(study: Study) -> list[int]:
    """Return the places of all rows: first those that are right in one run and wrong in another."""
    right = np.stack([run.right for run in study.runs])
    flips = np.nanmax(np.nan_to_num(right, nan=-1), 0) > np.nanmin(np.nan_to_num(right, nan=2), 0)
    return [*np.flatnonzero(flips).tolist(), *np.flatnonzero(~flips).tolist()]


def laid_over(record: Record) -> bool:
    """Tell whether a row has a picture that its attention can be laid over."""
    return record.places is not None and bool(record.thumbnails) and bool(placed(record.places).any())


def draw(study: Study, most: int) -> Iterator[tuple[int, Figure]]:
    """Yield for some rows the number of the row, and its attention by run and layer over its first picture.

    Args:
        study: The study.
        most: The most rows.
    """
    with mpl.rc_context(STYLE):
        for place in flipped_first(study)[:most]:
            row = study.trace.rows[place]
            assert row.doc_id is not None
            record = study.store.read(row.doc_id)
            if laid_over(record):
                yield row.doc_id, _figure(study, row, record, place)


def _figure(study: Study, row: Row, record: Record, place: int) -> Figure:
    # Grey, so that no colour of the picture is taken for attention.
    picture = np.asarray(Image.open(io.BytesIO(record.thumbnails[0])).convert("L"))
    layers = range(0, len(study.header.layers), -(-len(study.header.layers) // MOST))
    runs = _different(study.runs, place)
    across = min(COLUMNS, max(len(runs), len(layers)))
    first = -(-len(runs) // across)
    lines = first + -(-len(layers) // across)
    ratio = picture.shape[0] / picture.shape[1]
    size = (max(8.0, 1.9 * across), (1.9 * ratio + 0.3) * lines + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, across, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, run in zip(panels[:first].flat, runs, strict=False):
        values = record.weights[run.conditions[place]].astype(np.float32).mean((0, 1))
        _overlay(axes, study, record, picture, values, place)
        mark = {1.0: "right", 0.0: "wrong"}.get(float(run.right[place]), "")
        axes.set_title(f"{run.name}: {mark}\n{_short(run.answers[place])}", fontsize=8)
    for axes, layer in zip(panels[first:].flat, layers, strict=False):
        _overlay(axes, study, record, picture, record.weights[0, layer].astype(np.float32).mean(0), place)
        axes.set_title(f"layer {study.header.layers[layer]}", fontsize=8)
    figure.suptitle(
        f"row {row.doc_id}: {_short(bare(row.question), 90)} Right: {_short(row.gold)}\n"
        "Above: the mean of all layers and heads, by run. Below: layers of the unsteered model.\n"
        "The brightest place has the most attention, sinks aside. Boxes: named objects; crosses: sinks.",
        fontsize=9,
    )
    return figure


def _different(runs: Sequence[AttentionRun], place: int) -> list[AttentionRun]:
    """Return the runs that are not under the condition of an earlier one in a row."""
    seen: dict[int, AttentionRun] = {}
    for run in runs:
        seen.setdefault(int(run.conditions[place]), run)
    return list(seen.values())


def _overlay(
    axes: Axes, study: Study, record: Record, picture: NDArray[np.uint8], values: NDArray[np.float32], place: int
) -> None:
    """Show a picture with attention over it, the named objects' boxes, and the sinks."""
    assert record.places is not None
    width, height = record.sizes[0]
    columns = np.flatnonzero(record.image)
    sinks = np.isin(columns, study.measures.sinks[place]) & placed(record.places)
    # Of the size of the thumbnail, which is that of the picture or smaller.
    down, across = picture.shape
    scale = np.array([across / width, down / height] * 2, np.float32)
    places = Places(record.places.picture, record.places.box * scale)
    heat, others = (pixel_map(places, own, (across, down)) for own in (values[columns], values[columns] * ~sinks))
    extent = (0, width, height, 0)
    axes.imshow(picture, extent=extent, cmap="gray", vmin=0, vmax=400)  # dim
    # A sink would leave all other places dark.
    most = float(others.max()) or float(heat.max()) or 1
    share = np.sqrt((heat / most).clip(0, 1))
    axes.imshow(share, extent=extent, cmap="autumn", alpha=0.85 * share, vmin=0, vmax=1)
    if not isinstance(study.objects, str):
        for box in study.objects.boxes.get(record.doc_id, ()):
            size = (box.right - box.left, box.bottom - box.top)
            axes.add_patch(Rectangle((box.left, box.top), *size, fill=False, edgecolor=BOX, linewidth=1.2))
    for left, top, right, bottom in record.places.box[sinks]:
        axes.plot((left + right) / 2, (top + bottom) / 2, "X", color="white", mec="black", mew=0.5, markersize=5)
    axes.set(xlim=(0, width), ylim=(height, 0))


def _short(text: str, most: int = 40) -> str:
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= most else f"{text[:most]}…"
