"""What a report's files say about familiarity: tables of all figures, and plain data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from adaptvis_plugin.analysis.statistics import LEVEL, Estimate
from adaptvis_plugin.attention.familiarity.figures import Familiarity
from adaptvis_plugin.attention.familiarity.sentences import sentences

NOT_PLAIN = ("trace", "metric", "confidence", "right")
"""The fields of `Familiarity` that are no figures."""


def relation_frame(each: Sequence[Familiarity]) -> pd.DataFrame:
    """Return one line for each figure of each relation and of all rows; shares are of 1."""
    return pd.DataFrame(
        {"trace": found.trace.name, **line} for found in each for line in [*_by_relation(found), *_of_confidence(found)]
    )


def _by_relation(found: Familiarity) -> Iterator[dict[str, Any]]:
    for one in (found.overall, *found.relations):
        start = {"relation": one.name, "rows": one.rows}
        for name, number in (("is right", one.right), ("said", one.said), ("probability", one.probability)):
            if number is not None:
                yield {**start, "figure": name, "value": number}
        separation = one.separation
        for name, alpha, estimate in (
            ("confidence", None, one.confidence),
            (found.metric.name, found.trace.plain, one.plain),
            *(
                pair
                for steered in (one.smoothed, one.sharpened)
                if steered
                for pair in (
                    (found.metric.name, steered.alpha, steered.accuracy),
                    (f"{found.metric.name}, gain over plain", steered.alpha, steered.gain),
                )
            ),
            ("AUROC, right against wrong", None, separation.auroc if separation else None),
        ):
            if estimate is not None:
                yield {**start, "figure": name, "alpha": alpha, **_ends(estimate)}


def _of_confidence(found: Familiarity) -> Iterator[dict[str, Any]]:
    """Yield the figures of all rows, and of those on each side of the threshold."""
    start = {"relation": found.overall.name, "rows": found.rows}
    if found.steering and found.steering.auroc:
        rows = found.steering.higher + found.steering.lower
        what = "AUROC, sharpened right against smoothed right"
        yield {**start, "rows": rows, "figure": what, **_ends(found.steering.auroc)}
    if found.brier:
        yield {**start, "figure": "Brier score", **_ends(found.brier)}
    for one in found.reliability or ():
        yield {**start, "figure": f"expected calibration error, {one.kind}", **_ends(one.error)}
        yield {**start, "figure": f"maximum calibration error, {one.kind}", "value": abs(one.largest.gap)}
    for side in (found.split.below, found.split.above, found.split.both) if found.split else ():
        for name, alpha, estimate in (("plain", found.trace.plain, side.plain), ("AdaptVis", side.alpha, side.steered),
                                      ("AdaptVis, gain over plain", side.alpha, side.gain)):  # fmt: skip
            if estimate:
                figure = f"{found.metric.name}, {name}, confidence {side.name}"
                yield {**start, "rows": side.rows, "figure": figure, "alpha": alpha, **_ends(estimate)}


def bin_frame(each: Sequence[Familiarity]) -> pd.DataFrame:
    """Return one line for each bin of the reliability diagrams."""
    columns = ["trace", "bins", "above", "to", "rows", "confidence", "accuracy", "low", "high"]
    return pd.DataFrame(
        [
            (found.trace.name, one.kind, part.low, part.high, part.rows, part.confidence, *part.accuracy[:1],
             *part.accuracy.interval)
            for found in each
            for one in found.reliability or ()
            for part in one.bins
        ],
        columns=columns,
    )  # fmt: skip


def as_json(each: Sequence[Familiarity]) -> list[dict[str, Any]]:
    """Return everything that was found as plain data; what is undefined is None."""
    return [
        {
            "trace": str(found.trace.path),
            "task": found.trace.name,
            "model": found.trace.header.model if found.trace.header else None,
            "partial": found.trace.partial,
            "metric": found.metric.name,
            "level": LEVEL,
            **{
                one.name: _plain(getattr(found, one.name))
                for one in dataclasses.fields(found)
                if one.name not in NOT_PLAIN
            },
            "sentences": sentences(found),
        }
        for found in each
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return _ends(value)
    if dataclasses.is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _ends(estimate: Estimate) -> dict[str, float | None]:
    low, high = (None if math.isnan(end) else end for end in estimate.interval)
    return {"value": estimate.value, "low": low, "high": high}
