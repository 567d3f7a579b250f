"""The figures of a report as plain data, from which every form of it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from adaptvis_plugin.analysis.statistics import McNemar
from adaptvis_plugin.comparison.checks import Section
from adaptvis_plugin.comparison.runs import Run

Id = Any
"""The number of a row: a whole number, or a text in data sets of others."""

STEERING = ("smoothed (alpha < 1)", "sharpened (alpha > 1)", "plain (alpha = 1)")


@dataclass(frozen=True)
class Value:
    """A figure in 0..1 with its interval; the ends are NaN where it has none."""

    name: str
    title: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Part:
    """The accuracy among some of the rows."""

    name: str
    rows: int
    accuracy: float


@dataclass(frozen=True)
class Confusion:
    """How often each option is said where another is right: `counts[right][said]`."""

    right: tuple[str, ...]
    said: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Choice:
    """The option with the highest probability at the first token, as if it were the answer.

    Attributes:
        rows: The number of rows whose probabilities were recorded.
        accuracy: How often it is the right one.
        agrees: How often the answer names it.
    """

    rows: int
    accuracy: float
    agrees: float


@dataclass(frozen=True)
class Origin:
    """Where a difference comes from: the accuracy of both runs in some of the rows.

    Attributes:
        kind: `form` for the rows whose answer has another form than the baseline's, `steering` for those that the run
            smoothed, sharpened or left plain.
        name: Which rows.
        rows: How many.
        before: The baseline's accuracy in them.
        after: This run's.
        choice: The accuracy in them of this run's choice among the options; None if no probabilities were recorded.
    """

    kind: str
    name: str
    rows: int
    before: float
    after: float
    choice: float | None


@dataclass
class Against:
    """A run against the baseline.

    Attributes:
        baseline: The baseline's name.
        differences: The difference in each metric, paired.
        test: The exact McNemar test of the first metric; None if it is not right or wrong in each row.
        p_holm: Its p-value, corrected for the number of tests in the report.
        fixed: The rows that only this run has right.
        broken: The rows that only the baseline has right.
        origins: Where the difference comes from.
    """

    baseline: str
    differences: tuple[Value, ...]
    test: McNemar | None
    fixed: tuple[Id, ...]
    broken: tuple[Id, ...]
    origins: tuple[Origin, ...]
    p_holm: float | None = None


@dataclass(frozen=True)
class RunFigures:
    """Everything that is said of one run; `rows` holds what was found of each answer."""

    run: Run
    metrics: tuple[Value, ...]
    relations: tuple[Part, ...]
    forms: tuple[Part, ...]
    unclear: float | None
    confusion: Confusion | None
    choice: Choice | None
    confidence: float | None
    smoothed: float | None
    sharpened: float | None
    against: Against | None
    rows: pd.DataFrame = field(repr=False)


@dataclass(frozen=True)
class SectionFigures:
    """The figures of the runs of one task.

    Attributes:
        section: What was compared.
        groups: How many groups of rows are drawn for the intervals.
        grouped: What such a group is.
        shares: Whether all metrics are shares, which are shown in percent.
        runs: The figures of each run, the baseline's first.
        remarks: How some metrics are to be read, and which are left out.
    """

    section: Section
    groups: int
    grouped: str
    shares: bool
    runs: tuple[RunFigures, ...]
    remarks: tuple[str, ...] = ()

    @property
    def base(self) -> RunFigures | None:
        """The baseline's figures."""
        return next((one for one in self.runs if one.run is self.section.baseline), None)
