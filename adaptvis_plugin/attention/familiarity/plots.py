"""Pictures of the figures: the relations, the reliability, and the confidence of right and wrong answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from adaptvis_plugin.analysis.statistics import Estimate
from adaptvis_plugin.attention.familiarity.calibration import Reliability
from adaptvis_plugin.attention.familiarity.figures import Familiarity, Relation
from adaptvis_plugin.attention.familiarity.tables import area, heading, number
from adaptvis_plugin.comparison.plots import COLOURS, INK, MARKS, MOST, STYLE

RIGHT, WRONG = COLOURS[2], COLOURS[4]


def draw(found: Familiarity) -> Iterator[tuple[str, str, Figure]]:
    """Yield the pictures of a trace: a name, what it shows, and the picture."""
    with mpl.rc_context(STYLE):
        yield "relations", "Familiarity of the relations", _relations(found)
        if found.reliability:
            yield "reliability", "Reliability of the confidence", _reliability(found, found.reliability)
            yield "confidence", "Confidence of right and of wrong answers", _confidence(found)


def _relations(found: Familiarity) -> Figure:
    shown = found.relations[:MOST]
    figure = Figure(figsize=(13, 1.8 + 0.5 * len(shown)), layout="constrained")
    often, sure, right = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1, 1.2))
    asked = found.trace.scoring == "vsr"
    for counts, label, height, shade in (
        ([one.right for one in shown], "is true" if asked else "is right", 0.8, 0.25),
        ([one.said for one in shown], "answered yes" if asked else "said by the unsteered model", 0.35, 1.0),
    ):
        if None not in counts:
            wholes = [one.rows if asked else found.rows for one in shown]
            shares = [100 * (count or 0) / whole for count, whole in zip(counts, wholes, strict=True)]
            often.barh(range(len(shown)), shares, height=height, color=COLOURS[0], alpha=shade, label=label)
    often.set_xlabel("percent of its rows" if asked else "percent of all rows")
    _marks(sure, shown, [one.confidence for one in shown], 0, 1, "", 100)
    sure.set_xlabel("mean confidence, percent")
    lines = [("plain", [one.plain for one in shown])]
    for name, overall in (("smoothed", found.overall.smoothed), ("sharpened", found.overall.sharpened)):
        if overall:
            under = [steered.accuracy if steered else None for one in shown for steered in [getattr(one, name)]]
            lines.append((f"alpha {overall.alpha:g}", under))
    for place, (name, values) in enumerate(lines):
        _marks(right, shown, values, place, len(lines), name, 100 if found.percent else 1)
    right.set_xlabel(f"{found.metric.title}, percent" if found.percent else found.metric.title)
    often.set_yticks(range(len(shown)), [f"{one.name} ({one.rows})" for one in shown])
    often.set_ylim(len(shown) - 0.5, -0.5)
    for axes in (often, sure, right):
        axes.grid(axis="x")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    more = len(found.relations) - len(shown)
    figure.suptitle(heading(found) + (f"; {more} rarer relations are not shown" if more else ""))
    return figure


def _marks(
    axes: Axes,
    shown: Sequence[Relation],
    values: Sequence[Estimate | None],
    line: int,
    lines: int,
    label: str,
    scale: float,
) -> None:
    """Draw one figure of each relation with its interval."""
    offset = 0.6 * ((line + 0.5) / lines - 0.5)
    there = [(place + offset, value) for place, value in enumerate(values) if value is not None]
    for place, value in there:
        if not math.isnan(value.interval.low):
            axes.plot([scale * end for end in value.interval], [place, place], color=COLOURS[line], linewidth=2)
    points = [scale * value.value for _, value in there]
    axes.plot(points, [place for place, _ in there], MARKS[line], color=COLOURS[line], label=label or "_", markersize=6)


def _reliability(found: Familiarity, both: Sequence[Reliability]) -> Figure:
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
    for (upper, lower), one in zip(grid.T, both, strict=True):
        upper.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="perfectly calibrated")
        for part in one.bins:
            low, high = part.accuracy.interval
            upper.plot([part.confidence] * 2, [low, high], color=COLOURS[0], linewidth=2)
        upper.plot(
            [part.confidence for part in one.bins], [part.accuracy.value for part in one.bins], "o-",
            color=COLOURS[0], linewidth=1, label="accuracy with its interval",
        )  # fmt: skip
        upper.set_title(f"bins of {one.kind}: expected calibration error {number(one.error)}", fontsize=10, loc="left")
        widths = [part.high - part.low for part in one.bins]
        lower.bar([part.low for part in one.bins], [part.rows for part in one.bins], widths, align="edge",
                  color=COLOURS[0], alpha=0.5, edgecolor="white")  # fmt: skip
        lower.set_xlabel("confidence of the unsteered model")
        upper.grid()
        lower.grid(axis="y")
    grid[0, 0].set(ylabel="accuracy", xlim=(0, 1), ylim=(-0.02, 1.02))
    grid[1, 0].set_ylabel("rows")
    grid[0, 0].legend(loc="upper left", frameon=False)
    figure.suptitle(heading(found))
    return figure


def _confidence(found: Familiarity) -> Figure:
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    counts, curve = figure.subplots(1, 2, width_ratios=(1.6, 1))
    right = found.right == 1
    counts.hist(
        [found.confidence[right], found.confidence[~right]], bins=list(np.linspace(0, 1, 41)), stacked=True,
        color=[RIGHT, WRONG], label=[f"right ({right.sum()})", f"wrong ({(~right).sum()})"],
    )  # fmt: skip
    if found.split:
        counts.axvline(found.split.threshold, color=INK, linewidth=1, label=f"threshold {found.split.threshold:g}")
    counts.set(xlabel="confidence of the unsteered model", ylabel="rows", xlim=(0, 1))
    counts.legend(frameon=False, loc="upper right")
    one = found.overall.separation
    curve.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    if one is not None and one.auroc is not None:
        wrong_share, right_share, _ = roc_curve(right, found.confidence)
        curve.plot(wrong_share, right_share, color=COLOURS[0])
    curve.set_title(f"AUROC {area(one)}", fontsize=10, loc="left")
    curve.set(xlabel="share of wrong answers above", ylabel="share of right answers above", aspect="equal")
    curve.grid()
    figure.suptitle(heading(found))
    return figure
