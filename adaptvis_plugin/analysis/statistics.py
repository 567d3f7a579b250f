"""Intervals and tests for scores of rows that are not independent; computed by scipy and statsmodels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from warnings import catch_warnings

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

RESAMPLES = 2000
SEED = 0
LEVEL = 0.95


class Interval(NamedTuple):
    """An interval at the level `LEVEL`."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A value, its interval at the level `LEVEL`, and its standard error; the latter two NaN for one group only."""

    value: float
    interval: Interval
    error: float


@dataclass(frozen=True)
class Sums:
    """A figure as a function of sums over groups of rows.

    Attributes:
        table: Shape (groups, columns).
        value: Maps sums of shape (..., columns) to figures of shape (...).
    """

    table: NDArray[np.float64]
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]]

    def __sub__(self, other: Sums) -> Sums:
        """Return the difference of two figures over the same groups."""
        first = self.table.shape[1]
        return Sums(
            np.hstack([self.table, other.table]),
            lambda sums: self.value(sums[..., :first]) - other.value(sums[..., first:]),
        )

    def estimate(self, centred: bool = False) -> Estimate:
        """Return the figure with its interval over the groups; see `estimate`."""
        return estimate(self.table, self.value, centred=centred)


def estimate(
    sums: NDArray[np.float64],
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    resamples: int = RESAMPLES,
    centred: bool = False,
) -> Estimate:
    """Return a function of sums over groups of rows, with its percentile bootstrap interval and standard error.

    Whole groups are drawn: pictures of one set, or questions about one picture, are not independent.

    Args:
        sums: The sums of each group, shape (groups, columns).
        value: Maps sums of shape (..., columns) to values of shape (...); see `metrics.Metric`.
        resamples: How many times the groups are drawn.
        centred: Whether the interval is moved by the mean distance of the resamples from the figure. A sum of absolute
            values grows with noise, and resamples have more of it: their percentiles may even leave out the figure.
    """
    groups = len(sums)
    point = float(value(sums.sum(0)))
    if groups > 1 and (sums == sums[0]).all():  # every resample is the same
        return Estimate(point, Interval(point, point), 0.0)
    # How often each group was drawn, times its sums: much faster than to gather every column of every draw.
    return _drawn(point, groups, lambda counts: value(counts @ sums), resamples, centred)


def auroc(
    scores: Sequence[float] | NDArray[np.float64],
    positive: Sequence[Any] | NDArray[np.bool_],
    groups: Sequence[Any] | NDArray[Any],
    resamples: int = RESAMPLES,
) -> Estimate | None:
    """Return how well scores separate positive rows from negative ones: the area under the ROC curve.

    It is the probability that a positive row has a higher score than a negative one, where a tie counts as half.
    scikit-learn has no form of it for many resamples at once.

    Args:
        scores: Each row's score.
        positive: Whether the row is positive.
        groups: For each row its group; whole groups are drawn.
        resamples: How many times the groups are drawn.

    Returns:
        The area with its percentile bootstrap interval; NaN for the interval's ends if the positive or the negative
        rows are so few that a resample may lack them. None without positive or without negative rows.
    """
    order = np.argsort(scores, kind="stable")
    is_positive = np.asarray(positive, bool)[order]
    if is_positive.all() or not is_positive.any():
        return None
    names, place = np.unique(np.asarray(groups)[order], return_inverse=True)
    starts = np.unique(np.asarray(scores)[order], return_index=True)[1]

    def area(counts: NDArray[Any]) -> NDArray[np.float64]:
        weights = counts[..., place]
        above, below = (np.add.reduceat(weights * kind, starts, axis=-1) for kind in (is_positive, ~is_positive))
        beaten = (above * (below.cumsum(-1) - below / 2)).sum(-1)
        pairs = above.sum(-1) * below.sum(-1)
        found: NDArray[np.float64] = np.divide(beaten, pairs, out=np.full(np.shape(beaten), np.nan), where=pairs > 0)
        return found

    return _drawn(float(area(np.ones(len(names)))), len(names), area, resamples)


def _drawn(
    point: float,
    groups: int,
    value: Callable[[NDArray[Any]], NDArray[np.float64]],
    resamples: int,
    centred: bool = False,
) -> Estimate:
    """Return a figure with its percentile bootstrap interval and standard error.

    Args:
        point: The figure.
        groups: How many groups there are to draw.
        value: Maps how often each group was drawn, shape (draws, groups), to figures of shape (draws,).
        resamples: How many times they are drawn.
        centred: See `estimate`.
    """
    if groups < 2:
        return Estimate(point, Interval(np.nan, np.nan), np.nan)

    def statistic(drawn: NDArray[np.intp], axis: int) -> NDArray[np.float64]:
        draws = drawn.reshape(-1, groups)
        places = draws + groups * np.arange(len(draws))[:, None]
        counts = np.bincount(places.ravel(), minlength=draws.size).reshape(draws.shape)
        return value(counts).reshape(drawn.shape[:-1])

    with catch_warnings(action="ignore", category=DegenerateDataWarning):  # a draw without a value: the ends are NaN
        found = bootstrap(
            (np.arange(groups),), statistic, vectorized=True, n_resamples=resamples, batch=200,
            confidence_level=LEVEL, method="percentile", rng=np.random.default_rng(SEED),
        )  # fmt: skip
    low, high = found.confidence_interval
    shift = point - found.bootstrap_distribution.mean() if centred else 0.0
    return Estimate(point, Interval(float(low + shift), float(high + shift)), float(found.standard_error))


class McNemar(NamedTuple):
    """The exact paired test: how many rows each of two runs alone has right, and the p-value."""

    only_first: int
    only_second: int
    p_value: float


def paired_test(first: Sequence[Any], second: Sequence[Any]) -> McNemar:
    """Compare two runs over the same rows by the exact two-sided McNemar test.

    Args:
        first: For each row, whether the first run is right.
        second: The same of the second run.

    Raises:
        ValueError: If they have different numbers of rows.
    """
    one, two = np.asarray(first, bool), np.asarray(second, bool)
    if one.shape != two.shape:
        raise ValueError(f"{len(one)} and {len(two)} rows cannot be paired; give both runs the same rows")
    only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
    both, neither = int((one & two).sum()), int((~one & ~two).sum())
    table = [[both, only_first], [only_second, neither]]
    p_value = float(mcnemar(table, exact=True).pvalue) if only_first + only_second else 1.0
    return McNemar(only_first, only_second, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for several comparisons by Holm's method, in the given order."""
    return [] if not len(p_values) else [float(p) for p in multipletests(p_values, method="holm")[1]]
