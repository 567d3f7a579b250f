"""What a trace shows about relations and confidence, as plain data, from which every form of it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from adaptvis_plugin.analysis.metrics import Metric
from adaptvis_plugin.analysis.statistics import Estimate
from adaptvis_plugin.attention.familiarity.calibration import Reliability, Separation
from adaptvis_plugin.traces import Trace

ALL = "all rows"
"""The name of the figures of all rows together."""


class Setting(Protocol):
    """A setting of AdaptVis; `adaptvis_plugin.decoding.AdaptVis` is one."""

    @property
    def alpha_low(self) -> float:
        """The coefficient of rows with a confidence below the threshold."""

    @property
    def alpha_high(self) -> float:
        """The coefficient of the other rows."""

    @property
    def threshold(self) -> float:
        """The threshold."""


@dataclass(frozen=True)
class Steered:
    """The accuracy under a coefficient, and how much higher it is than the unsteered model's in the same rows."""

    alpha: float
    accuracy: Estimate
    gain: Estimate


@dataclass(frozen=True)
class Relation:
    """What was found in the rows that test a relation.

    Attributes:
        name: The relation.
        rows: How many rows test it; 0 for one that is only offered.
        right: How many rows have it as the right answer; in yes-or-no tasks, of how many it is true. None if the task
            does not say.
        said: How many unsteered answers say it, whatever is right; in yes-or-no tasks, how many of its rows get a
            yes. None if that is not known.
        probability: The mean probability of this option at the unsteered model's first token; in yes-or-no tasks that
            of yes in its rows. None if it was not recorded in all rows.
        confidence: The mean confidence of the unsteered model in the rows that test it; None without rows.
        plain: The accuracy of the unsteered model.
        smoothed: That under the coefficient below 1; None if none was recorded.
        sharpened: That under the coefficient above 1.
        separation: How well the confidence separates right from wrong; None if answers are not right or wrong.
    """

    name: str
    rows: int
    right: int | None = None
    said: int | None = None
    probability: float | None = None
    confidence: Estimate | None = None
    plain: Estimate | None = None
    smoothed: Steered | None = None
    sharpened: Steered | None = None
    separation: Separation | None = None


@dataclass(frozen=True)
class Side:
    """The rows on one side of AdaptVis's threshold, or on both.

    Attributes:
        name: Which rows.
        rows: How many.
        alpha: What AdaptVis decodes them with; None for both sides.
        plain: The accuracy of the unsteered model; None without rows.
        steered: AdaptVis's accuracy; None if a coefficient was not recorded.
        gain: By how much it is higher.
    """

    name: str
    rows: int
    alpha: float | None
    plain: Estimate | None
    steered: Estimate | None
    gain: Estimate | None


@dataclass(frozen=True)
class Split:
    """How a setting of AdaptVis splits the rows."""

    alpha_low: float
    alpha_high: float
    threshold: float
    below: Side
    above: Side
    both: Side


@dataclass(frozen=True)
class Familiarity:
    """What a trace shows about relations and confidence.

    Attributes:
        trace: The trace.
        metric: What "accuracy" is here.
        percent: Whether it is in 0..1, so that it can be shown in percent.
        rows: How many rows were used.
        left_out: How many have no number of the metric.
        groups: How many groups of rows are drawn for the intervals.
        overall: The figures of all rows together.
        relations: Those of each relation, the one with the most rows first.
        unclear: How many unsteered answers name none or several relations; None if that is not known.
        reliability: With bins of equal width and of equal mass; None if answers are not right or wrong.
        brier: The mean square of the distance from confidence to right (1) or wrong (0).
        steering: Among the rows where just one of the smoothed and the sharpened answer is right, how well the
            confidence is higher where that is the sharpened one: what a threshold of AdaptVis can use.
        split: How the given setting splits the rows; None without one.
        notes: What could not be found, and why.
        confidence: Each row's confidence.
        right: What the metric says of each unsteered answer.
    """

    trace: Trace
    metric: Metric
    percent: bool
    rows: int
    left_out: int
    groups: int
    overall: Relation
    relations: tuple[Relation, ...]
    unclear: int | None
    reliability: tuple[Reliability, Reliability] | None
    brier: Estimate | None
    steering: Separation | None
    split: Split | None
    notes: tuple[str, ...]
    confidence: NDArray[np.float64] = field(repr=False)
    right: NDArray[np.float64] = field(repr=False)

    @property
    def alphas(self) -> tuple[float | None, float | None]:
        """The coefficients of smoothed and sharpened; None where there is none."""
        low, high = self.overall.smoothed, self.overall.sharpened
        return low.alpha if low else None, high.alpha if high else None
