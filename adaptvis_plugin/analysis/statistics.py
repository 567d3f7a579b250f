"""Intervals and tests for scores of rows that are not independent; computed by scipy and statsmodels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

RESAMPLES = 2000
SEED = 0
LEVEL = 0.95


class Interval(NamedTuple):
    """An interval at the level `LEVEL`."""

    low: float
    high: float


def interval(
    sums: NDArray[np.float64],
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the percentile bootstrap interval of a function of sums over groups of rows.

    Whole groups are drawn: pictures of one set, or questions about one picture, are not independent.

    Args:
        sums: The sums of each group, shape (groups, columns).
        value: Maps sums of shape (..., columns) to values of shape (...); see `metrics.Metric`.
        resamples: How many times the groups are drawn.

    Returns:
        The interval; NaN at both ends if there are fewer than two groups.
    """
    if len(sums) < 2:
        return Interval(np.nan, np.nan)

    def statistic(*columns: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return value(np.stack([column.sum(axis) for column in columns], axis=-1))

    columns = tuple(sums.T)
    if (sums == sums[0]).all():  # every resample is the same, and scipy would warn
        only = float(value(sums.sum(0)))
        return Interval(only, only)
    found = bootstrap(
        columns, statistic, paired=True, vectorized=True, n_resamples=resamples, batch=200,
        confidence_level=LEVEL, method="percentile", rng=np.random.default_rng(SEED),
    ).confidence_interval  # fmt: skip
    return Interval(float(found.low), float(found.high))


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
