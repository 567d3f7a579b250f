"""What a confidence is worth: whether it is as high as answers are often right, and whether it tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptvis_plugin.analysis.metrics import mean_of, sums_by_group
from adaptvis_plugin.analysis.statistics import Estimate, Interval, Sums, auroc

BINS = 10
"""Into how many bins the confidence is divided."""

_MEAN = mean_of("value", "mean")


@dataclass(frozen=True)
class Bin:
    """The rows with about the same confidence.

    Attributes:
        low: The confidence above which it begins; the first bin has its beginning too.
        high: The confidence with which it ends.
        rows: How many rows it has.
        confidence: Their mean confidence.
        accuracy: Their accuracy.
    """

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: Estimate

    @property
    def gap(self) -> float:
        """The accuracy less the confidence; above 0 the model is right more often than it is confident."""
        return self.accuracy.value - self.confidence


@dataclass(frozen=True)
class Reliability:
    """The reliability diagram over bins of one kind, and the errors that are computed from it.

    Attributes:
        kind: `equal width`, or `equal mass` for bins with about the same number of rows.
        bins: The bins that have rows.
        error: The expected calibration error: the mean distance of accuracy and confidence, weighted by the rows.
        by_chance: What that would be, on average and about, if the model were perfectly calibrated: it is not 0 in a
            finite number of rows.
        largest: The bin with the largest distance, which is the maximum calibration error.
    """

    kind: str
    bins: tuple[Bin, ...]
    error: Estimate
    by_chance: float
    largest: Bin


@dataclass(frozen=True)
class Separation:
    """How well the confidence separates two kinds of rows.

    Attributes:
        higher: The number of rows that should have the higher confidence.
        lower: The number of the others.
        auroc: The probability that one of the first has a higher confidence than one of the others; its interval is
            NaN where a resample may lack one kind. None if there are no rows of one kind: then it is undefined.
    """

    higher: int
    lower: int
    auroc: Estimate | None


def mean(values: NDArray[np.float64], groups: NDArray[np.intp]) -> Estimate:
    """Return the mean of each row's value with its interval over groups of rows."""
    return _sums(values, groups).estimate()


def mean_difference(values: NDArray[np.float64], base: NDArray[np.float64], groups: NDArray[np.intp]) -> Estimate:
    """Return how much higher the mean of the values is than that of others of the same rows."""
    return (_sums(values, groups) - _sums(base, groups)).estimate()


def _sums(values: NDArray[np.float64], groups: NDArray[np.intp]) -> Sums:
    columns = {"value": values, "has value": np.ones(len(values))}
    return Sums(sums_by_group(_MEAN, columns, groups, {}), _MEAN.value)


def separation(confidence: NDArray[np.float64], higher: NDArray[np.bool_], groups: NDArray[np.intp]) -> Separation:
    """Return how well the confidence separates rows from the others.

    Args:
        confidence: The confidence, shape (rows,).
        higher: Which rows should have the higher one.
        groups: For each row its group.
    """
    return Separation(
        int(higher.sum()), int((~higher).sum()), auroc(confidence, higher, groups) if len(higher) else None
    )


def reliabilities(
    confidence: NDArray[np.float64], right: NDArray[np.float64], groups: NDArray[np.intp]
) -> tuple[Reliability, Reliability]:
    """Return the reliability over bins of equal width and over bins of equal mass.

    Args:
        confidence: The confidence, shape (rows,).
        right: 1 where the answer is right, else 0.
        groups: For each row its group.
    """
    parts = np.linspace(0, 1, BINS + 1)
    # Rows with the same confidence are in the same bin, so that there may be fewer of them.
    mass = np.unique(np.quantile(confidence, parts))
    return (
        _reliability("equal width", parts, confidence, right, groups),
        _reliability("equal mass", mass, confidence, right, groups),
    )


def _reliability(
    kind: str,
    edges: NDArray[np.float64],
    confidence: NDArray[np.float64],
    right: NDArray[np.float64],
    groups: NDArray[np.intp],
) -> Reliability:
    place = np.searchsorted(edges[1:-1], confidence)
    bins = tuple(_bins(edges, place, confidence, right, groups))
    gaps = np.zeros((groups.max() + 1, len(edges)))
    np.add.at(gaps, (groups, place), right - confidence)
    table = np.column_stack([gaps, np.bincount(groups)])
    error = Sums(table, lambda sums: np.abs(sums[..., :-1]).sum(-1) / sums[..., -1]).estimate(centred=True)
    chance = np.bincount(place, confidence * (1 - confidence))
    return Reliability(
        kind,
        bins,
        error._replace(interval=Interval(*map(float, np.maximum(0, error.interval)))),
        # The number of right answers in a bin has about a normal distribution, whose mean distance is this.
        float(np.sqrt(2 / np.pi * chance).sum() / len(confidence)),
        max(bins, key=lambda one: abs(one.gap)),
    )


def _bins(
    edges: NDArray[np.float64],
    place: NDArray[np.intp],
    confidence: NDArray[np.float64],
    right: NDArray[np.float64],
    groups: NDArray[np.intp],
) -> Sequence[Bin]:
    found = []
    for number in np.unique(place):
        here = place == number
        found.append(
            Bin(
                float(edges[number]),
                float(edges[min(number + 1, len(edges) - 1)]),
                int(here.sum()),
                float(confidence[here].mean()),
                mean(right[here], groups[here]),
            )
        )
    return found
