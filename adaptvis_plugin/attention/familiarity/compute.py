"""From a trace to figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adaptvis_plugin.analysis.metrics import Columns, Metric, judge, metrics_of
from adaptvis_plugin.attention.familiarity.calibration import (
    Separation,
    mean,
    mean_difference,
    reliabilities,
    separation,
)
from adaptvis_plugin.attention.familiarity.counts import counted, relation_of
from adaptvis_plugin.attention.familiarity.figures import (
    ALL,
    Familiarity,
    Relation,
    Setting,
    Side,
    Split,
    Steered,
)
from adaptvis_plugin.attention.record import AttentionError
from adaptvis_plugin.methods import neutral_strength
from adaptvis_plugin.traces import Sweep, Trace

AUTHORS_LOW = 0.5
"""The coefficient that the authors smooth with, in all of their settings of AdaptVis."""


@dataclass(frozen=True)
class _Rows:
    """The rows that are used, as columns.

    `worth` holds what the metric says of the answers under each coefficient, that of the unsteered model first.
    """

    confidence: NDArray[np.float64]
    groups: NDArray[np.intp]
    worth: Mapping[float, NDArray[np.float64]]
    binary: bool

    @property
    def plain(self) -> NDArray[np.float64]:
        return next(iter(self.worth.values()))

    def among(self, chosen: NDArray[np.bool_]) -> _Rows:
        worth = {alpha: values[chosen] for alpha, values in self.worth.items()}
        return _Rows(self.confidence[chosen], self.groups[chosen], worth, self.binary)

    def under(self, alpha: float | None) -> Steered | None:
        if alpha is None or not len(self.groups):
            return None
        values = self.worth[alpha]
        return Steered(alpha, mean(values, self.groups), mean_difference(values, self.plain, self.groups))


def familiarity(trace: Trace, setting: Setting | None = None) -> Familiarity:
    """Find how familiar the relations are to a model, and what its confidence is worth.

    Smoothed is the recorded coefficient below 1 that is nearest to the authors' 0.5, and sharpened the largest one
    above 1; those of the setting, if one is given and they were recorded. No label decides which they are.

    Args:
        trace: The trace of a sweep, or of an unsteered run.
        setting: A setting of AdaptVis, to see how it splits the rows.

    Raises:
        AttentionError: If the trace has no unsteered answers, or nothing says how good they are.
    """
    alphas = _recorded(trace)
    low, high = _smoothed(alphas, setting), _sharpened(alphas, setting)
    wanted = {trace.plain, low, high, *((setting.alpha_low, setting.alpha_high) if setting else ())}
    metric, worth = judged(trace, [alpha for alpha in alphas if alpha in wanted])
    every = np.stack(list(worth.values()))
    known = np.isfinite(every.sum(0))
    used = [trace.rows[place] for place in np.flatnonzero(known)]
    if not used:
        raise AttentionError(f"{trace.path}: no row has a number of {metric.name} under all of its coefficients")
    values = every[:, known]
    rows = _Rows(
        # As the decoder has it: see `tuning.outcomes.Outcomes`.
        confidence=np.array([row.confidence for row in used], np.float32).astype(float),
        groups=np.unique(np.asarray(trace.groups)[known], return_inverse=True)[1],
        worth={alpha: one[known] for alpha, one in worth.items()},
        binary=bool(np.isin(values, (0.0, 1.0)).all()),
    )
    percent = bool(((values >= 0) & (values <= 1)).all())
    relations, unclear = counted(trace, used)
    names = np.array([relation_of(row, trace.scoring) for row in used])
    figures = [_figures(one, rows.among(names == one.name), low, high) for one in relations]
    return Familiarity(
        trace=trace,
        metric=metric,
        percent=percent,
        rows=len(used),
        left_out=len(trace.rows) - len(used),
        groups=int(rows.groups.max()) + 1,
        overall=_figures(Relation(ALL, len(used)), rows, low, high),
        relations=tuple(sorted(figures, key=lambda one: -one.rows)),
        unclear=unclear,
        reliability=reliabilities(rows.confidence, rows.plain, rows.groups) if rows.binary else None,
        brier=mean((rows.confidence - rows.plain) ** 2, rows.groups) if rows.binary else None,
        steering=_steering(rows, low, high),
        split=_split(rows, setting) if setting else None,
        notes=tuple(_notes(trace, rows, metric, low, high, setting)),
        confidence=rows.confidence,
        right=rows.plain,
    )


def _recorded(trace: Trace) -> tuple[float, ...]:
    """Return the coefficients of ScalingVis that all rows have an answer for, that of the unsteered model first."""
    if trace.alphas:
        return trace.alphas if trace.sweep.method == Sweep.method else (trace.plain,)
    assert trace.header is not None
    method = trace.header.method
    own = neutral_strength(method) is not None
    without = sum(trace.plain not in row.generations for row in trace.rows)
    if not own or without:
        what = "its answers are not the model's own" if not own else (
            f"{without} of {len(trace.rows)} rows have no answer of the unsteered model"
        )  # fmt: skip
        raise AttentionError(
            f"{trace.path}: it is the trace of a run of {method}, and {what}, so it does not show whether the model's "
            "confidence is justified; give the trace of a sweep or of a run of baseline"
        )
    return (trace.plain,)


def _smoothed(alphas: tuple[float, ...], setting: Setting | None) -> float | None:
    below = [alpha for alpha in alphas if alpha < 1]
    given = [alpha for alpha in (setting.alpha_low, setting.alpha_high) if alpha in below] if setting else []
    return next(iter(given or sorted(below, key=lambda alpha: abs(alpha - AUTHORS_LOW))), None)


def _sharpened(alphas: tuple[float, ...], setting: Setting | None) -> float | None:
    above = [alpha for alpha in alphas if alpha > 1]
    given = [alpha for alpha in (setting.alpha_high, setting.alpha_low) if alpha in above] if setting else []
    return next(iter(given or sorted(above, reverse=True)), None)


def judged(trace: Trace, alphas: list[float]) -> tuple[Metric, dict[float, NDArray[np.float64]]]:
    """Return the metric and what it says of each row's answer under each coefficient, NaN where it says nothing.

    Of a task's own metrics it is the first that says right or wrong, else the first.
    """
    golds = [row.gold for row in trace.rows]
    offered = [list(row.options.get(trace.plain, {})) or None for row in trace.rows]

    def columns(alpha: float) -> Columns:
        answers = [row.generations[alpha] for row in trace.rows]
        return judge(trace.scoring, answers, golds, offered, [row.metrics.get(alpha, {}) for row in trace.rows])

    try:
        found = {alpha: columns(alpha) for alpha in alphas}
    except ValueError as error:
        raise AttentionError(f"{trace.path}: a right answer cannot be judged: {error}") from None
    own = list(dict.fromkeys(name for row in trace.rows for name in row.metrics.get(trace.plain, {})))
    metrics = metrics_of(trace.scoring, own)
    if not metrics:
        raise AttentionError(
            f"{trace.path}: its task has metrics of its own, and none of them has a number for each row, so the trace "
            "does not show which answers are right"
        )
    missing = np.full(len(golds), np.nan)
    worths = [{alpha: found[alpha].get(one.columns[0], missing) for alpha in alphas} for one in metrics]
    place = next((i for i, worth in enumerate(worths) if _right_or_wrong(worth)), 0)
    return metrics[place], worths[place]


def _right_or_wrong(worth: Mapping[float, NDArray[np.float64]]) -> bool:
    numbers = np.concatenate(list(worth.values()))
    known = numbers[~np.isnan(numbers)]
    return bool(len(known)) and bool(np.isin(known, (0.0, 1.0)).all())


def _figures(relation: Relation, rows: _Rows, low: float | None, high: float | None) -> Relation:
    """Return the figures of the rows that test a relation."""
    if not len(rows.groups):
        return relation
    return replace(
        relation,
        confidence=mean(rows.confidence, rows.groups),
        plain=mean(rows.plain, rows.groups),
        smoothed=rows.under(low),
        sharpened=rows.under(high),
        separation=separation(rows.confidence, rows.plain == 1, rows.groups) if rows.binary else None,
    )


def _steering(rows: _Rows, low: float | None, high: float | None) -> Separation | None:
    """Return how well the confidence tells whether smoothing or sharpening is right, where just one of them is."""
    if low is None or high is None or not rows.binary:
        return None
    one = rows.among(rows.worth[low] != rows.worth[high])
    return separation(one.confidence, one.worth[high] == 1, one.groups)


def _split(rows: _Rows, setting: Setting) -> Split:
    """Return how a setting splits the rows, by the rule of AdaptVis: the confidence is rounded to two decimals."""
    low, high, threshold = setting.alpha_low, setting.alpha_high, setting.threshold
    unsure = np.round(rows.confidence, 2) < threshold
    taken = None
    if low in rows.worth and high in rows.worth:
        taken = np.where(unsure, rows.worth[low], rows.worth[high])

    def side(name: str, chosen: NDArray[np.bool_], alpha: float | None) -> Side:
        here, plain = rows.groups[chosen], rows.plain[chosen]
        if not len(here):
            return Side(name, 0, alpha, None, None, None)
        steered, gain = None, None
        if taken is not None:
            steered, gain = mean(taken[chosen], here), mean_difference(taken[chosen], plain, here)
        return Side(name, len(here), alpha, mean(plain, here), steered, gain)

    return Split(
        low,
        high,
        threshold,
        below=side(f"below {threshold:g}", unsure, low),
        above=side(f"at or above {threshold:g}", ~unsure, high),
        both=side(ALL, np.ones(len(unsure), bool), None),
    )


def _notes(
    trace: Trace, rows: _Rows, metric: Metric, low: float | None, high: float | None, setting: Setting | None
) -> Iterator[str]:
    if trace.partial:
        yield f"The trace is partial: {trace.partial}."
    if left_out := len(trace.rows) - len(rows.groups):
        yield f"{left_out} of {len(trace.rows)} rows are left out, since they have no number of {metric.name}."
    if not rows.binary:
        yield (
            f"{metric.name} does not say right or wrong of each row, so there is no calibration, and nothing that the "
            "confidence could separate."
        )
    if trace.alphas and trace.sweep.method != Sweep.method:
        yield (
            f"The trace is a sweep of {trace.sweep.title}, and only its unsteered answers are looked at: smoothing and "
            "sharpening are ScalingVis's."
        )
    elif low is None and high is None:
        yield (
            "The trace has unsteered answers only, so it does not show what smoothing and sharpening do; "
            "`adaptvis sweep` records that."
        )
    elif low is None or high is None:
        yield f"No coefficient {'below' if low is None else 'above'} 1 was recorded."
    lacking = [alpha for alpha in (setting.alpha_low, setting.alpha_high) if alpha not in rows.worth] if setting else []
    if lacking:
        yield f"Alpha {lacking[0]:g} of the setting was not recorded, so what AdaptVis would answer is not known."
