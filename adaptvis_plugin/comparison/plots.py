"""Pictures of the figures: as PNG and SVG files, and as SVG that takes a page's own colour."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adaptvis_plugin.comparison.figures import RunFigures, SectionFigures

INK = "#3b3b3b"
COLOURS = ("#4269d0", "#e07b39", "#3ca951", "#a463f2", "#d6456b", "#2f9e9e", "#9c6b4e", "#7f7f7f")
MARKS = "osD^vPX*"
MOST = 24
"""The most relations that are drawn; more cannot be read."""

STYLE: Any = {
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.hashsalt": "adaptvis",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "ytick.left": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.18,
}


def draw(part: SectionFigures) -> Iterator[tuple[str, str, Figure]]:
    """Yield the pictures of a task: a name, what it shows, and the picture."""
    with mpl.rc_context(STYLE):
        yield "scores", "Scores with 95% intervals", _scores(part)
        if part.runs[0].relations:
            yield "relations", "Accuracy by relation", _relations(part)
        if part.runs[0].confusion and len(part.runs[0].confusion.right) > 1:
            yield "options", "How often each option is said and how often it is right", _options(part)


def save(part: SectionFigures, folder: Path, stem: str) -> list[Path]:
    """Write the pictures of a task as PNG and SVG.

    Args:
        part: The figures.
        folder: The folder.
        stem: The beginning of the files' names.

    Returns:
        The PNG files.
    """
    written = []
    for name, _, figure in draw(part):
        path = folder / f"{stem}-{name}.png"
        save_figure(figure, path)
        written.append(path)
    return written


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture as the PNG of that name, and as SVG beside it."""
    figure.savefig(path, dpi=150, facecolor="white")
    figure.set_layout_engine(None)  # its parts keep the places they have got; matplotlib would find them twice per file
    with mpl.rc_context(STYLE):
        figure.savefig(path.with_suffix(".svg"), facecolor="white", metadata={"Date": None})


def inline_svg(figure: Figure, name: str) -> str:
    """Return a picture as an SVG element whose ink is the colour of the text around it.

    Args:
        figure: The picture.
        name: What its ids begin with, because those of several pictures in a page must differ.
    """
    sink = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
    text = sink.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r' id="image\w+"', "", text)  # two equal images would have the same, and nothing refers to it
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)


def _scores(part: SectionFigures) -> Figure:
    metrics = part.runs[0].metrics
    names = [run.run.name for run in part.runs]
    columns = min(len(metrics), 4)
    lines = math.ceil(len(metrics) / columns) if columns else 1
    figure = Figure(figsize=(11, lines * (0.9 + 0.3 * len(names))), layout="constrained")
    grid = figure.subplots(lines, max(columns, 1), squeeze=False, sharey=True)
    scale = 100 if part.shares else 1
    for axis in grid.flat[len(metrics) :]:
        axis.set_axis_off()
    for axis, place in zip(grid.flat, range(len(metrics)), strict=False):
        axis.set_title(metrics[place].title, fontsize=10, loc="left")
        for line, run in enumerate(part.runs):
            one = run.metrics[place]
            style = _style(line)
            if not math.isnan(one.low):
                axis.plot([scale * one.low, scale * one.high], [line, line], color=style[0], linewidth=2)
            axis.plot([scale * one.value], [line], style[1], color=style[0], markersize=7)
        if (base := part.base) is not None:
            axis.axvline(scale * base.metrics[place].value, color=INK, linewidth=0.8, linestyle=":")
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.grid(axis="x")
        if part.shares:
            axis.set_xlabel("percent")
    return figure


def _relations(part: SectionFigures) -> Figure:
    order = sorted(part.runs[0].relations, key=lambda one: -one.rows)[:MOST]
    names = [relation.name for relation in order]
    figure = Figure(figsize=(11, 1.2 + 0.36 * len(names)), layout="constrained")
    axis = figure.subplots()
    for line, run in enumerate(part.runs):
        found = {relation.name: 100 * relation.accuracy for relation in run.relations}
        _marks(axis, line, run, [found[name] for name in names], len(part.runs))
    axis.set_yticks(range(len(names)), [f"{one.name} ({one.rows})" for one in order])
    axis.set_xlabel("accuracy, percent (number of rows in brackets)")
    _finish(axis, len(names))
    return figure


def _options(part: SectionFigures) -> Figure:
    tables = [run.confusion for run in part.runs]
    assert tables[0] is not None
    names, total = tables[0].said, len(part.section.asked)
    figure = Figure(figsize=(11, 1.2 + 0.42 * len(names)), layout="constrained")
    axis = figure.subplots()
    right = [100 * sum(row) / total for row in tables[0].counts]
    axis.barh(range(len(right)), right, height=0.7, color=INK, alpha=0.15, label="is right")
    for line, (run, table) in enumerate(zip(part.runs, tables, strict=True)):
        assert table is not None
        said = [100 * sum(row[place] for row in table.counts) / total for place in range(len(names))]
        _marks(axis, line, run, said, len(part.runs))
    axis.set_yticks(range(len(names)), list(names))
    axis.set_xlabel("percent of the rows")
    _finish(axis, len(names))
    return figure


def _marks(axis: Axes, line: int, run: RunFigures, values: list[float], runs: int) -> None:
    colour, mark = _style(line)
    offset = 0.5 * ((line + 0.5) / runs - 0.5)
    places = [place + offset for place in range(len(values))]
    axis.plot(values, places, mark, color=colour, markersize=6, label=run.run.name, linestyle="none")


def _finish(axis: Axes, lines: int) -> None:
    axis.set_ylim(lines - 0.5, -0.5)
    axis.set_xlim(-2, 102)
    axis.grid(axis="x")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _style(line: int) -> tuple[str, str]:
    return COLOURS[line % len(COLOURS)], MARKS[(line + line // len(MARKS)) % len(MARKS)]
