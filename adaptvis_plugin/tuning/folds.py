"""Every way of answering fitted to some rows, and the answers that this gives to the others.

Each row is answered by a setting that was chosen without it, nor any row of its group. These answers, of all rows
together, are scored like any run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t
from sklearn.model_selection import GroupKFold

from adaptvis_plugin.analysis.metrics import Metric
from adaptvis_plugin.analysis.statistics import LEVEL, Estimate, Interval, Sums
from adaptvis_plugin.tuning.controls import CONTROLS, among_options
from adaptvis_plugin.tuning.outcomes import Choice, Outcomes, Rows, TuneError
from adaptvis_plugin.tuning.search import Setting, surface

TAIL = (1 - LEVEL) / 2
"""The probability beyond each end of an interval."""

_DIGITS = 12
"""Figures that agree to so many digits are equal."""


@dataclass(frozen=True)
class Fitted:
    """All ways of answering, fitted to some rows of traces that share their settings.

    Attributes:
        settings: The setting of each method; see `Outcomes.methods`.
        choices: For each way of answering and each trace, the answer that every row gets.
    """

    settings: Mapping[str, Setting]
    choices: Mapping[str, Sequence[Choice]]


def fit(outcomes: Sequence[Outcomes], rows: Sequence[Rows]) -> Fitted:
    """Choose the settings, which the traces share, and fit the controls, which each trace has for itself.

    Args:
        outcomes: The traces.
        rows: For each trace the rows to choose by.
    """
    every = surface(outcomes, rows)
    settings = {name: every.best(single=name != "adaptvis") for name in outcomes[0].methods}
    choices = {"plain": [one.plain for one in outcomes]}
    choices |= {name: [setting.choice(one) for one in outcomes] for name, setting in settings.items()}
    if all(one.options for one in outcomes):
        under_all = all(one.options.under_all for one in outcomes if one.options)
        for name, control in CONTROLS.items():
            if under_all or not control.under_all:
                choices[name] = [
                    control.fit(one, one.options, part) for one, part in zip(outcomes, rows, strict=True) if one.options
                ]
        if under_all:
            choices["steered_options"] = [
                among_options(one, one.options, choice)
                for one, choice in zip(outcomes, choices[outcomes[0].methods[-1]], strict=True)
                if one.options
            ]
    return Fitted(settings, choices)


@dataclass(frozen=True)
class HeldOut:
    """The answers to rows that the choice did not see.

    Attributes:
        settings: The settings that each method was given, one for each fold of each repetition.
        choices: For each way of answering and each trace, the answers in each repetition, shape (repeats, rows).
    """

    settings: Mapping[str, list[Setting]] = field(default_factory=dict)
    choices: Mapping[str, list[NDArray[np.intp]]] = field(default_factory=dict)


def hold_out(
    outcomes: Sequence[Outcomes], folds: int, repeats: int, done: Callable[[], None] = lambda: None
) -> HeldOut:
    """Fit everything to all folds but one, and answer that one; for each fold, and again with other folds.

    Args:
        outcomes: Traces that share their settings.
        folds: How many parts the rows are divided into; see `check_folds`. Whole groups go into one part.
        repeats: How often they are divided anew.
        done: Called after each fit.
    """
    settings: dict[str, list[Setting]] = {name: [] for name in outcomes[0].methods}
    choices: dict[str, list[NDArray[np.intp]]] = {}
    for repeat in range(repeats):
        for parts in zip(*(_splits(one, folds, repeat) for one in outcomes), strict=True):
            fitted = fit(outcomes, [learned for learned, _ in parts])
            for name, setting in fitted.settings.items():
                settings[name].append(setting)
            for name, each in fitted.choices.items():
                held = choices.setdefault(name, [np.zeros((repeats, len(choice)), np.intp) for choice in each])
                for into, choice, (_, tested) in zip(held, each, parts, strict=True):
                    into[repeat, tested] = choice[tested]
            done()
    return HeldOut(settings, choices)


def check_folds(outcomes: Outcomes, folds: int) -> None:
    """Check that a trace can be divided.

    Raises:
        TuneError: If it has fewer groups than folds.
    """
    groups = outcomes.groups.max() + 1
    if groups < folds:
        raise TuneError(
            f"{outcomes.trace.path}: its {len(outcomes.groups)} rows form {groups} groups that must not be divided "
            f"(sets, or rows about one picture), too few for {folds} folds; use more rows, or fewer folds"
        )


def _splits(outcomes: Outcomes, folds: int, seed: int) -> Iterator[tuple[Rows, Rows]]:
    divide = GroupKFold(folds, shuffle=True, random_state=seed)
    yield from divide.split(np.zeros(len(outcomes.groups)), groups=outcomes.groups)


def held_out_estimate(sums: Sums, folds: int | None) -> Estimate:
    """Return a figure with its interval over the groups.

    Args:
        sums: The figure.
        folds: If the answers were chosen on folds, their number. A bootstrap of the answers takes the choices as
            given, but any two of them were made on mostly the same rows, and err together. So the interval is
            widened by the factor of Nadeau and Bengio, "Inference for the Generalization Error" (2003), and for
            few groups by that of the t distribution.
    """
    found = sums.estimate()
    wider = 1.0 if folds is None else widening(folds, len(sums.table))
    ends = (found.value + wider * (end - found.value) for end in found.interval)
    # Equal figures must differ by exactly 0, whatever the order in which their sums were added.
    value, error, low, high = (round(number, _DIGITS) + 0.0 for number in (found.value, wider * found.error, *ends))
    return Estimate(value, Interval(low, high), error)


def widening(folds: int, groups: int) -> float:
    """Return the factor by which an interval is widened; see `held_out_estimate`.

    Of `folds` equal parts one is tested on and the others are learned from, so the variance of the mean over the parts
    is not 1/folds of that of one, but 1/folds + 1/(folds - 1).

    Args:
        folds: The number of parts.
        groups: The number of groups in all.
    """
    if groups < 2:
        return 1.0
    few = t.isf(TAIL, groups - 1) / norm.isf(TAIL)
    return float(np.sqrt(1 + folds / (folds - 1)) * few)


def mean_over_repeats(outcomes: Outcomes, metric: Metric, choices: NDArray[np.intp]) -> Sums:
    """Return a metric of answers, averaged over repetitions.

    Args:
        outcomes: The trace.
        metric: The metric.
        choices: Shape (repeats, rows).
    """
    each = np.stack([outcomes.sums(metric, choice) for choice in choices], axis=1)
    shape = each.shape[1:]
    return Sums(each.reshape(len(each), -1), lambda sums: metric.value(sums.reshape(*sums.shape[:-1], *shape)).mean(-1))


def mean_over_traces(each: Sequence[Sums]) -> Sums:
    """Return the mean of a figure over traces. Their groups are drawn together, and each belongs to one trace."""
    ends = np.cumsum([sums.table.shape[1] for sums in each])
    table = np.zeros((sum(len(sums.table) for sums in each), ends[-1]))
    row = 0
    for sums, end in zip(each, ends, strict=True):
        table[row : row + len(sums.table), end - sums.table.shape[1] : end] = sums.table
        row += len(sums.table)

    def value(total: NDArray[np.float64]) -> NDArray[np.float64]:
        parts = np.split(total, ends[:-1], axis=-1)
        mean: NDArray[np.float64] = np.stack([sums.value(part) for sums, part in zip(each, parts, strict=True)]).mean(0)
        return mean

    return Sums(table, value)
