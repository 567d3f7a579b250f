"""Every setting over the recorded coefficients, scored at once: of ScalingVis and AdaptVis, or of the swept method.

A threshold splits the rows by confidence, so the sums that a metric is computed from are cumulative sums over the
rows in the order of their confidence. All pairs of coefficients and all thresholds that split the rows differently are
then a few additions of arrays. Of a method other than ScalingVis, only the same coefficient for all rows is a setting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adaptvis_plugin.analysis.metrics import complete
from adaptvis_plugin.methods import method_class
from adaptvis_plugin.tuning.outcomes import Choice, Outcomes, Rows

AT_ONCE = 64
"""For how many thresholds pairs and sets are counted at once; all at once would fill the memory."""

_DIGITS = 12
"""Scores that agree to so many digits are equal."""


class Setting(NamedTuple):
    """A setting of AdaptVis. One of a method with a single coefficient has it twice."""

    alpha_low: float
    alpha_high: float
    threshold: float

    def __str__(self) -> str:
        """Return it as the tables show it."""
        return f"{self.alpha_low:g} / {self.alpha_high:g} / {self.threshold:g}"

    @classmethod
    def of(cls, method: str, values: Mapping[str, Any]) -> Setting:
        """Return a method's setting from its hyper-parameters."""
        strength = method_class(method).strength
        if strength is not None:
            return cls.single(values[strength])
        return cls(*(values[name] for name in cls._fields))

    @classmethod
    def single(cls, strength: float) -> Setting:
        """Return the setting with one coefficient for all rows."""
        return cls(strength, strength, 0.0)

    def hyper_parameters(self, method: str) -> dict[str, float]:
        """Return it as a preset has it, without what the sweep did not vary."""
        strength = method_class(method).strength
        return self._asdict() if strength is None else {strength: self.alpha_low}

    def shown(self, method: str) -> str:
        """Return it as the tables show it: of a method with a single coefficient that alone."""
        return str(self) if method_class(method).strength is None else f"{self.alpha_low:g}"

    def choice(self, outcomes: Outcomes) -> Choice:
        """Return which answer each row gets, by AdaptVis's rule."""
        low, high = (outcomes.alphas.index(alpha) for alpha in (self.alpha_low, self.alpha_high))
        return np.where(outcomes.rounded < self.threshold, low, high)


@dataclass(frozen=True)
class Surface:
    """The objective of every setting.

    Attributes:
        alphas: The coefficients, that of the plain model first.
        thresholds: One for each way in which a threshold can split the rows, as short numbers.
        values: The objective, shape (alpha_low, alpha_high, thresholds).
        steered: How many rows get another coefficient than the plain model's, in the same shape.
    """

    alphas: tuple[float, ...]
    thresholds: tuple[float, ...]
    values: NDArray[np.float64]
    steered: NDArray[np.int64]

    def best(self, single: bool = False) -> Setting:
        """Return the best setting. Of equal ones, the one nearest to the plain model.

        That is, in this order: the fewest rows steered; the coefficients nearest to the plain model's (by their
        logarithms, unless that is 0); alpha_low not above alpha_high; the lowest threshold.

        Args:
            single: Whether to choose among the settings with one coefficient for every row.
        """
        low, high, split = np.indices(self.values.shape)
        alphas, plain = np.array(self.alphas), self.alphas[0]
        with np.errstate(divide="ignore"):
            distance = np.abs(np.log(alphas / plain)) if plain else alphas
        keys = (split, alphas[low] > alphas[high], distance[low] + distance[high], self.steered)
        kept = np.flatnonzero((low == high) & (split == 0)) if single else np.arange(self.values.size)
        values = np.round(self.values, _DIGITS).ravel()[kept]
        order = np.lexsort((*(key.ravel()[kept] for key in keys), -values))
        i, j, k = np.unravel_index(kept[order[0]], self.values.shape)
        return Setting(self.alphas[i], self.alphas[j], self.thresholds[k])


def surface(outcomes: Sequence[Outcomes], rows: Sequence[Rows], rounded: bool = True) -> Surface:
    """Score every setting on some rows.

    Args:
        outcomes: Traces with the same coefficients; the objective is averaged over them.
        rows: For each trace the rows.
        rounded: Whether the confidence is rounded to two decimals first, as AdaptVis does.
    """
    if not outcomes[0].by_confidence:
        return _single(outcomes, rows)
    confidences = [(one.rounded if rounded else one.confidence)[part] for one, part in zip(outcomes, rows, strict=True)]
    levels = np.unique(np.concatenate(confidences))
    thresholds = [0.0, *(short_number(*pair) for pair in pairwise(levels))]
    if levels[-1] < 1:
        thresholds.append(1.0)
    alphas, splits = outcomes[0].alphas, len(thresholds)
    steers = (np.array(alphas) != alphas[0]).astype(int)
    shape = (len(alphas), len(alphas), splits)
    values, steered = np.zeros(shape), np.zeros(shape, int)
    for one, part, confidence in zip(outcomes, rows, confidences, strict=True):
        # Split k smooths the rows whose level is below k.
        level = np.searchsorted(levels, confidence)
        values += _values(one, part, level, splits) / len(outcomes)
        below = np.searchsorted(np.sort(level), np.arange(splits))
        steered += steers[:, None, None] * below + steers[None, :, None] * (len(part) - below)
    return Surface(alphas, tuple(thresholds), values, steered)


def _single(outcomes: Sequence[Outcomes], rows: Sequence[Rows]) -> Surface:
    """Score the settings with one coefficient for all rows, as those of a threshold that no row is below."""
    alphas, size = outcomes[0].alphas, sum(map(len, rows))
    values = np.mean(
        [
            [one.score(one.objective, np.full(len(one.confidence), place), part) for place in range(len(alphas))]
            for one, part in zip(outcomes, rows, strict=True)
        ],
        axis=0,
    )
    shape = (len(alphas), len(alphas), 1)
    steered = np.where(np.array(alphas) != alphas[0], size, 0)
    return Surface(alphas, (0.0,), np.broadcast_to(values[:, None], shape), np.broadcast_to(steered[:, None], shape))


def _values(outcomes: Outcomes, rows: Rows, level: NDArray[np.intp], splits: int) -> NDArray[np.float64]:
    metric, count = outcomes.objective, len(outcomes.alphas)
    tables = np.nan_to_num([outcomes.columns[name][:count, rows] for name in metric.columns])
    below = np.zeros((len(tables), count, splits + 1))
    for column, table in enumerate(tables):
        for alpha, worth in enumerate(table):
            below[column, alpha, 1:] = np.bincount(level, worth, splits).cumsum()[:splits]
    total = tables.sum(-1)
    below = below[..., :splits]
    sums = below[:, :, None] + (total[..., None] - below)[:, None]
    if metric.group is not None:
        sums[0] = _groups_right(tables[0], outcomes, rows, level, splits)
    return metric.value(np.moveaxis(sums, 0, -1))


def _groups_right(
    correct: NDArray[np.float64], outcomes: Outcomes, rows: Rows, level: NDArray[np.intp], splits: int
) -> NDArray[np.float64]:
    """Count the pairs or sets that are right: those whose smoothed rows are, and whose sharpened rows are."""
    assert outcomes.objective.group is not None
    ids = outcomes.ids[outcomes.objective.group]
    members = complete([ids[row] for row in rows], outcomes.objective.group)
    right = (correct[:, members] > 0)[None]  # (1, alphas, groups, members)
    found = np.empty((splits, len(correct), len(correct)))
    for start in range(0, splits, AT_ONCE):
        some = np.arange(start, min(start + AT_ONCE, splits))
        smoothed = (level[members] < some[:, None, None])[:, None]  # (splits, 1, groups, members)
        low, high = (right | ~smoothed).all(-1), (right | smoothed).all(-1)
        found[some] = low.astype(float) @ np.swapaxes(high, 1, 2).astype(float)
    return np.moveaxis(found, 0, -1)


def short_number(above: float, upto: float) -> float:
    """Return the shortest decimal number in (above, upto]; of several as short, the one nearest to the middle."""
    middle = (above + upto) / 2
    for digits in range(1, 17):
        near = {round(turn(middle * 10**digits) / 10**digits, digits) for turn in (math.floor, math.ceil)}
        if inside := [number for number in near if above < number <= upto]:
            return float(min(inside, key=lambda number: (abs(number - middle), number)))
    return float(upto)
