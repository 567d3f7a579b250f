"""The figures as tables of text, in the form that `adaptvis compare` has too: for the terminal, Markdown and pages."""

from __future__ import annotations

import math

from adaptvis_plugin.analysis.statistics import LEVEL, Estimate
from adaptvis_plugin.attention.familiarity.calibration import Reliability, Separation
from adaptvis_plugin.attention.familiarity.figures import Familiarity, Relation, Side, Steered
from adaptvis_plugin.comparison.tables import ABSENT, Grid, percent, without_empty_columns


def heading(found: Familiarity) -> str:
    """Return what the tables of a trace are about."""
    partial = f", partial: {found.trace.partial}" if found.trace.partial else ""
    return f"{found.trace.name}: {found.rows} rows{partial}"


def grids(found: Familiarity) -> list[Grid]:
    """Return the tables of a trace."""
    tables = [relations(found), confidence(found), threshold(found)]
    tables += [reliability(one) for one in found.reliability or ()]
    return [grid for grid in tables if grid is not None]


def relations(found: Familiarity) -> Grid:
    """Return the table of the relations."""
    asked = found.trace.scoring == "vsr"
    head = (
        "relation", "rows", "is true" if asked else "is right", "answered yes" if asked else "said", "probability",
        "confidence", "plain", _under("smoothed", found.overall.smoothed),
        _under("sharpened", found.overall.sharpened), "AUROC",
    )  # fmt: skip
    rows = tuple(_relation(one, found, asked) for one in (found.overall, *found.relations))
    unit = "Percent, with" if found.percent else "With"
    counts = (
        "Is true, answered yes: of how many of a relation's rows the statement is true, and how many the unsteered "
        "model answers with yes; probability: the mean probability of yes at the first token."
        if asked
        else "Is right, said: of all rows, in how many the relation is the right answer, and in how many the unsteered "
        "model says it, whatever is right; probability: its mean probability at the first token, among the options."
    )
    note = (
        f"{unit} {LEVEL:.0%} bootstrap intervals; drawn are the {found.groups} groups of rows that share a set or a "
        f"picture. {counts} Confidence: the mean probability of the first token. Plain, smoothed, sharpened: "
        f"{found.metric.title}. AUROC: how well the confidence separates right from wrong; undefined where "
        "all answers are right or all are wrong, and without an interval where too few are one of the two."
    )
    return without_empty_columns(Grid("relations", "Familiarity of the relations", note, head, rows))


def _under(name: str, steered: Steered | None) -> str:
    return f"{name}, alpha {steered.alpha:g}" if steered else name


def _relation(one: Relation, found: Familiarity, asked: bool) -> tuple[str, ...]:
    whole = one.rows if asked else found.rows
    counts = [ABSENT if count is None else percent(count / whole) for count in (one.right, one.said)]
    scores = [one.plain, *(steered.accuracy if steered else None for steered in (one.smoothed, one.sharpened))]
    return (
        one.name,
        str(one.rows),
        *counts,
        percent(one.probability),
        in_percent(one.confidence),
        *(score(value, found) for value in scores),
        area(one.separation),
    )


def confidence(found: Familiarity) -> Grid | None:
    """Return what the confidence is worth; None if answers are not right or wrong."""
    if found.reliability is None or found.brier is None:
        return None
    overall = found.overall
    rows = [("AUROC, right against wrong", area(overall.separation))]
    if found.steering and overall.smoothed and overall.sharpened:
        what = (
            f"AUROC, sharpened right against smoothed right ({found.steering.higher} and {found.steering.lower} rows "
            "where just one of them is)"
        )
        rows.append((what, area(found.steering)))
    rows.append(("Brier score", number(found.brier)))
    for one in found.reliability:
        rows.append((f"expected calibration error, bins of {one.kind}", number(one.error)))
        rows.append(("  the same if it were perfectly calibrated, about", f"{one.by_chance:.3f}"))
        worst = one.largest
        what = f"maximum calibration error, bins of {one.kind} ({worst.rows} rows, {worst.low:.2f} to {worst.high:.2f})"
        rows.append((what, f"{abs(worst.gap):.3f}"))
    note = (
        f"With {LEVEL:.0%} bootstrap intervals. The confidence is the probability of the first token, not of the "
        "answer: several first tokens may begin the same answer. AUROC: 0.5 separates nothing, 1 everything. A "
        "calibration error is never 0 in a finite number of rows; compare it with what a perfectly calibrated model "
        "would show. Resamples make it larger, so its interval is moved by their mean distance from it."
    )
    return Grid("confidence", "What the confidence is worth", note, ("measure", "value"), tuple(rows))


def threshold(found: Familiarity) -> Grid | None:
    """Return how the setting splits the rows; None without one."""
    split = found.split
    if split is None:
        return None
    rows = tuple(_side(one, found) for one in (split.below, split.above, split.both))
    note = (
        "The rows on both sides of the threshold, as AdaptVis splits them: "
        f"{found.metric.title} of the unsteered model and with the coefficient of that side, and the paired difference."
    )
    title = f"AdaptVis {split.alpha_low:g} / {split.alpha_high:g} / {split.threshold:g}"
    head = ("confidence", "rows", "share", "alpha", "plain", "AdaptVis", "gain")
    return without_empty_columns(Grid("threshold", title, note, head, rows))


def _side(one: Side, found: Familiarity) -> tuple[str, ...]:
    return (
        one.name,
        str(one.rows),
        percent(one.rows / found.rows),
        ABSENT if one.alpha is None else f"{one.alpha:g}",
        score(one.plain, found),
        score(one.steered, found),
        score(one.gain, found, "+"),
    )


def reliability(one: Reliability) -> Grid:
    """Return the bins of a reliability diagram."""
    rows = tuple(
        (f"{part.low:.3f} to {part.high:.3f}", str(part.rows), percent(part.confidence), in_percent(part.accuracy),
         f"{100 * part.gap:+.1f}")
        for part in one.bins
    )  # fmt: skip
    note = "Percent: the mean confidence, the accuracy, and the accuracy less the confidence. Empty bins are left out."
    name = f"reliability-{one.kind.split()[-1]}"
    head = ("confidence from", "rows", "confidence", "accuracy", "difference")
    return Grid(name, f"Reliability, bins of {one.kind}", note, head, rows)


def score(value: Estimate | None, found: Familiarity, sign: str = "") -> str:
    """Return a value of the metric with its interval."""
    return in_percent(value, sign) if found.percent else number(value, sign)


def in_percent(value: Estimate | None, sign: str = "") -> str:
    """Return a share in percent with its interval."""
    return _shown(value, 100, 1, sign)


def number(value: Estimate | None, sign: str = "") -> str:
    """Return a number with its interval."""
    return _shown(value, 1, 3, sign)


def area(one: Separation | None) -> str:
    """Return an AUROC with its interval, or that it is undefined."""
    if one is None or not one.higher + one.lower:
        return ABSENT
    if one.auroc is None:
        return "undefined"
    return _shown(one.auroc, 1, 2)


def _shown(value: Estimate | None, scale: int, digits: int, sign: str = "") -> str:
    if value is None:
        return ABSENT
    point, low, high = (f"{scale * one:{sign}.{digits}f}" for one in (value.value, *value.interval))
    return point if math.isnan(value.interval.low) else f"{point} [{low}, {high}]"
