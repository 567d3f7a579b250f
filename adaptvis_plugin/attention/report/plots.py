"""Pictures of a study: where attention goes by layer and head, what steering changes, and what predicts an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from adaptvis_plugin.attention.familiarity import Familiarity
from adaptvis_plugin.attention.familiarity.calibration import mean
from adaptvis_plugin.attention.familiarity.plots import RIGHT, WRONG
from adaptvis_plugin.attention.familiarity.plots import draw as draw_familiarity
from adaptvis_plugin.attention.prediction import Prediction
from adaptvis_plugin.attention.report.figures import LEVEL, run_figures
from adaptvis_plugin.attention.study import Objects, Study
from adaptvis_plugin.comparison.plots import COLOURS, INK, MARKS, STYLE

MAPS = 4
"""The most maps by layer and head beside each other."""


def draw(found: Study | Familiarity) -> Iterator[tuple[str, str, Figure]]:
    """Yield the pictures: a name, what it shows, and the picture."""
    if isinstance(found, Familiarity):
        yield from draw_familiarity(found)
        return
    with mpl.rc_context(STYLE):
        seen = bool((found.layers.measure == "relative_entropy").any())
        if seen:
            yield "image", "Attention on the image by layer", _image(found)
            yield "spread", "How attention is spread over the image, by layer", _spread(found)
            yield "heads", "Attention on the image by layer and head", _heads(found)
            yield "control", "Is it only more attention?", _control(found)
        if not isinstance(found.objects, str):
            yield "objects", "Attention on the named objects by layer", _objects(found, found.objects)
            if (maps := _auroc_map(found, found.objects)) is not None:
                yield "auroc", "How well attention on the objects predicts a right answer, by layer and head", maps
    yield from draw_familiarity(found.familiarity)


def _lines(axes: Axes, study: Study, measure: str) -> None:
    """Draw a measure by layer, a line with its band for each run."""
    table = study.layers[study.layers.measure == measure]
    for place, run in enumerate(study.runs):
        own = table[table.run == run.name]
        colour, mark = COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)]
        axes.plot(own.layer, 100 * own.value, f"{mark}-", color=colour, label=run.name, markersize=4, linewidth=1.4)
        axes.fill_between(own.layer, 100 * own.low, 100 * own.high, color=colour, alpha=0.15, linewidth=0)
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _image(study: Study) -> Figure:
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots()
    _lines(axes, study, "image_share")
    tokens = [share for share in study.measures.token_share if share > 0]
    axes.axhline(100 * float(np.mean(tokens)), color=INK, linestyle=":", linewidth=1, label="share of the tokens")
    axes.set(xlabel="layer", ylabel="attention on the image, percent", ylim=(0, 102))
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure


def _spread(study: Study) -> Figure:
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    parts = (
        ("relative_entropy", "entropy, percent of that of even attention"),
        ("top_share", "top 5% of the tokens have, percent"),
    )
    for row, (name, label) in zip(panels, parts, strict=True):
        for axes, ending, title in zip(row, ("", "_no_sinks"), ("all image tokens", "without sinks"), strict=True):
            _lines(axes, study, name + ending)
            axes.set_title(title, fontsize=10, loc="left")
        row[0].set_ylabel(label)
    for axes in panels[1]:
        axes.set_xlabel("layer")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _heads(study: Study) -> Figure:
    table = study.heads[study.heads.measure == "image_share"]
    panels = [(run.name, _map(table[table.run == run.name], study)) for run in study.runs]
    return _maps(study, panels, "percent on the image", "viridis", 100)[0]


def _maps(
    study: Study, panels: Sequence[tuple[str, np.ndarray]], label: str, colours: str, most: float
) -> tuple[Figure, list[Axes]]:
    """Draw matrices by layer and head beside each other, several lines of them if they are many."""
    layers, heads = study.header.layers, study.header.heads
    across = min(MAPS, len(panels))
    down = -(-len(panels) // across)
    size = (max(6.0, 1.6 + 2.8 * across), (max(2.6, 0.17 * len(layers) + 1.4)) * down)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    shown = None
    for axes, (title, matrix) in zip(grid.flat, panels, strict=False):
        shown = axes.imshow(matrix, vmin=0, vmax=most, cmap=colours, aspect="auto", interpolation="nearest")
        axes.set_title(title, fontsize=10, loc="left")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    # Of a large model, some of the numbers.
    places = range(0, len(layers), max(1, len(layers) // 8))
    grid[0, 0].set_yticks(list(places), [str(layers[place]) for place in places])
    grid[0, 0].set_xticks(range(0, heads, max(1, heads // 8)))
    for axes in grid[:, 0]:
        axes.set_ylabel("layer")
    for axes in grid[-1]:
        axes.set_xlabel("head")
    assert shown is not None
    figure.colorbar(shown, ax=list(grid.flat), label=label)
    return figure, [*grid.flat[: len(panels)]]


def _map(table: pd.DataFrame, study: Study, column: str = "value", scale: float = 100) -> np.ndarray:
    """Return a column of a table by layer and head as a matrix."""
    matrix = table.pivot(index="layer", columns="head", values=column)
    return scale * matrix.reindex(index=study.header.layers, columns=range(study.header.heads)).to_numpy(float)


def _control(study: Study) -> Figure:
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    scale = 100 if study.familiarity.percent else 1
    for place, one in enumerate(run_figures(study)):
        if one.score is None or one.image is None:
            continue
        colour = COLOURS[place % len(COLOURS)]
        across, up = 100 * one.image.value, scale * one.score.value
        errors = [
            [[abs(factor * end - middle)] for end in estimate.interval]
            for factor, middle, estimate in ((100, across, one.image), (scale, up, one.score))
        ]
        axes.errorbar(
            across, up, xerr=np.nan_to_num(errors[0]), yerr=np.nan_to_num(errors[1]), fmt=MARKS[place % len(MARKS)],
            color=colour, label=one.run.name, capsize=3, fillstyle="none" if one.control else "full",
        )  # fmt: skip
    unit = ", percent" if study.familiarity.percent else ""
    axes.set(xlabel="attention on the image, percent", ylabel=f"{study.familiarity.metric.title}{unit}")
    axes.grid()
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _objects(study: Study, objects: Objects) -> Figure:
    known = [
        (place, run.name, found)
        for place, run in enumerate(study.runs)
        if not isinstance(found := objects.by_layer[run.name], str)
    ]
    figure = Figure(figsize=(11, 7.5 if known else 4), layout="constrained")
    panels = figure.subplots(2 if known else 1, 1, sharex=True, squeeze=False)[:, 0]
    _overlap(panels[0], study, objects)
    if known:
        _auroc(panels[1], study, known)
    panels[-1].set_xlabel("layer")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    for axes in panels:
        axes.grid(axis="y")
    return figure


def _overlap(axes: Axes, study: Study, objects: Objects) -> None:
    """Draw the unsteered model's attention on the objects by layer, of rows with right and with wrong answers."""
    right = study.runs[0].right[objects.rows]
    _, groups = np.unique(np.asarray(study.trace.groups)[objects.rows], return_inverse=True)
    for value, colour, name in ((1, RIGHT, "right"), (0, WRONG, "wrong")):
        own = objects.overlap.layers[right == value, 0].astype(float)
        if len(own):
            means = [mean(column, groups[right == value]) for column in own.T]
            axes.plot(
                study.header.layers, [100 * one.value for one in means], "o-", color=colour, markersize=4,
                label=f"{name} ({len(own)} rows)",
            )  # fmt: skip
            low, high = 100 * np.array([one.interval for one in means]).T
            axes.fill_between(study.header.layers, low, high, color=colour, alpha=0.15, linewidth=0)
    even = 100 * float(objects.overlap.even.mean())
    axes.axhline(even, color=INK, linestyle=":", linewidth=1, label="spread evenly")
    axes.set_ylabel("attention on the objects,\npercent of the image's")
    axes.set_title("unsteered model", fontsize=10, loc="left")
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0.2, 0.98))


def _auroc(axes: Axes, study: Study, known: Sequence[tuple[int, str, Prediction]]) -> None:
    """Draw how well that predicts a right answer, with the band and the chance of the first run."""
    axes.axhline(0.5, color=INK, linestyle=":", linewidth=1)
    for place, name, found in known:
        colour, mark = COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)]
        axes.plot(study.header.layers, found.table.auroc, f"{mark}-", color=colour, markersize=4, label=name)
        if place == 0:
            low, high = found.table.low, found.table.high
            axes.fill_between(study.header.layers, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.axhline(found.chance, color=colour, linestyle="--", linewidth=1, label="largest by chance (95%)")
    axes.set(ylabel="AUROC", ylim=(0, 1))
    axes.legend(frameon=False, ncols=5, loc="lower left", bbox_to_anchor=(0, 0.98))


def _auroc_map(study: Study, objects: Objects) -> Figure | None:
    runs = [(run.name, found) for run in study.runs if not isinstance(found := objects.by_head[run.name], str)]
    if not runs:
        return None
    panels = [(name, _map(found.table, study, "auroc", 1)) for name, found in runs]
    figure, each = _maps(study, panels, "AUROC (dot: p < 0.05)", "RdBu", 1)
    for axes, (_, found) in zip(each, runs, strict=True):
        layer, head = np.nonzero(_map(found.table, study, "p_value", 1) < LEVEL)
        axes.plot(head, layer, "o", color="white", mec="black", mew=0.7, markersize=4)
    return figure
