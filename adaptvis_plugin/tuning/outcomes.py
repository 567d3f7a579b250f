"""A trace as numbers: what each of a row's answers is worth.

A row has an answer under every coefficient and, where its question offers options, each of these as an answer too.
A way of answering is then an array that holds, for each row, the number of the answer that it takes: all zeros is the
plain model. So methods and their controls are scored alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adaptvis_plugin.analysis.metrics import Columns, Metric, complete, distinct, judge, metrics_of, sums_by_group
from adaptvis_plugin.decoding.methods.calibrated import FLOOR
from adaptvis_plugin.scoring.whatsup import Group
from adaptvis_plugin.traces import Trace

Rows = NDArray[np.intp]
"""Numbers of rows."""

Choice = NDArray[np.intp]
"""For each row the number of the answer that is taken, shape (rows,)."""

MOST_OPTIONS = 26
"""With more different options than this the questions offer phrases of their own, and no option has a bias."""


class TuneError(ValueError):
    """Traces that cannot be tuned on. The message says why, and what to do."""


@dataclass(frozen=True)
class Options:
    """What the questions offer, and how probable the model finds it.

    Attributes:
        names: All options, in lower case.
        labels: For each row the number of the right one; -1 if the row does not offer it.
        offered: Whether a row offers an option, shape (rows, options).
        log_p: The log-probability under each coefficient, at least log `FLOOR`; shape (alphas, rows, options).
        under_all: Whether all rows have it under all coefficients: a method may rule out every option. If not, only
            that under the first counts.
    """

    names: tuple[str, ...]
    labels: NDArray[np.intp]
    offered: NDArray[np.bool_]
    log_p: NDArray[np.float64]
    under_all: bool


@dataclass(frozen=True)
class Outcomes:
    """What the answers of a trace are worth.

    Attributes:
        trace: The trace.
        objective: The metric that settings are chosen by.
        metrics: All metrics of the task.
        alphas: The coefficients, the plain one first: answer i is that under alphas[i], and those after them are the
            options.
        confidence: The confidence as the decoder has it, in fp32's values; shape (rows,).
        columns: What `metrics.judge` found of each answer, shape (answers, rows).
        groups: For each row the number of its group; see `Trace.groups`.
        ids: For pairs and sets: each row's.
        options: The options, if all rows have them.
        without_options: Why there are none.
    """

    trace: Trace
    objective: Metric
    metrics: tuple[Metric, ...]
    alphas: tuple[float, ...]
    confidence: NDArray[np.float64]
    columns: Columns
    groups: NDArray[np.intp]
    ids: Mapping[Group, Sequence[int | None]]
    options: Options | None
    without_options: str | None

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods whose settings are searched; of the last one the report says most."""
        return searched(self.trace)

    @property
    def by_confidence(self) -> bool:
        """Whether AdaptVis can choose among the answers: whether the sweep is one of ScalingVis."""
        return "adaptvis" in self.methods

    @property
    def plain(self) -> Choice:
        """The unsteered answers."""
        return np.zeros(len(self.confidence), np.intp)

    @property
    def rounded(self) -> NDArray[np.float64]:
        """The confidence as AdaptVis compares it: rounded to two decimals in double precision."""
        return np.round(self.confidence, 2)

    def worth(self, choice: Choice) -> Columns:
        """Return the columns of a way of answering, each of shape (rows,)."""
        return {name: column[choice, np.arange(len(choice))] for name, column in self.columns.items()}

    def sums(self, metric: Metric, choice: Choice) -> NDArray[np.float64]:
        """Return a metric's sums over each group of rows, shape (groups, columns)."""
        return sums_by_group(metric, self.worth(choice), self.groups, self.ids)

    def score(self, metric: Metric, choice: Choice, rows: Rows | None = None) -> float:
        """Return a metric of a way of answering, over the given rows or all."""
        columns, ids = self.worth(choice), self.ids
        if rows is not None:
            columns = {name: column[rows] for name, column in columns.items()}
            ids = {group: [every[row] for row in rows] for group, every in ids.items()}
        size = len(choice) if rows is None else len(rows)
        return float(metric.value(sums_by_group(metric, columns, np.zeros(size), ids).sum(0)))


def searched(trace: Trace) -> tuple[str, ...]:
    """Return the methods whose settings are searched on a sweep; from one of ScalingVis AdaptVis chooses too."""
    return ("scalingvis", "adaptvis") if trace.sweep.method == "scalingvis" else (trace.sweep.method,)


def outcomes_of(trace: Trace, objective: str | None = None, alphas: Sequence[float] | None = None) -> Outcomes:
    """Judge every answer of a trace.

    Args:
        trace: The trace of a sweep.
        objective: The name of the metric to choose by; None for the task's first.
        alphas: Coefficients to keep, the plain model's first; None for all of the trace.

    Raises:
        TuneError: If it is no sweep, the metric is unknown, or its rows show nothing to choose by.
    """
    alphas = trace.alphas if alphas is None else tuple(alphas)
    if len(trace.alphas) < 2:
        raise TuneError(
            f"{trace.path}: it has answers under one coefficient per row, and tuning compares several; "
            "record them with `adaptvis sweep`"
        )
    golds = [row.gold for row in trace.rows]
    if len({gold.strip().lower() for gold in golds}) == 1 and golds[0].strip():
        raise TuneError(
            f"{trace.path}: all {len(golds)} rows have the right answer {golds[0]!r}; a setting chosen on them would "
            "only be one that says it more often. Use rows with several right answers"
        )
    metrics = _metrics(trace)
    chosen = _objective(trace, metrics, objective)
    options, why = _options(trace, alphas)
    offered = [list(row.options.get(trace.plain, {})) or None for row in trace.rows]

    def judged(answers: Sequence[str], alpha: float) -> Columns:
        recorded = [row.metrics.get(alpha, {}) for row in trace.rows]
        try:
            return judge(trace.scoring, answers, golds, offered, recorded)
        except ValueError as error:
            raise TuneError(f"{trace.path}: a right answer cannot be judged: {error}") from None

    found = [judged([row.generations[alpha] for row in trace.rows], alpha) for alpha in alphas]
    if options:  # with a capital, as the authors' rule for yes and no wants it
        found += [judged([name.capitalize()] * len(golds), trace.plain) for name in options.names]
    ids: dict[Group, list[int | None]] = {
        "pair_id": [row.pair_id for row in trace.rows],
        "set_id": [row.set_id for row in trace.rows],
    }
    for group, every in ids.items():
        try:
            whole = complete(every, group)
        except ValueError as error:
            raise TuneError(f"{trace.path}: {error}") from None
        if group == chosen.group and not len(whole):
            raise TuneError(
                f"{trace.path}: no row's whole {group.removesuffix('_id')} is among these {len(golds)}, so "
                f"{chosen.name} is 0 whatever is answered; choose by another metric, or on rows with whole sets"
            )
    names = {name for columns in found for name in columns}
    missing = np.full(len(golds), np.nan)
    return Outcomes(
        trace=trace,
        objective=chosen,
        metrics=metrics,
        alphas=alphas,
        confidence=np.array([row.confidence for row in trace.rows], np.float32).astype(float),
        columns={name: np.stack([columns.get(name, missing) for columns in found]) for name in sorted(names)},
        groups=np.unique(trace.groups, return_inverse=True)[1],
        ids=ids,
        options=options,
        without_options=why,
    )


def _metrics(trace: Trace) -> tuple[Metric, ...]:
    pairs, sets = (any(getattr(row, one) is not None for row in trace.rows) for one in ("pair_id", "set_id"))
    own = _own_metrics(trace)
    found = metrics_of(trace.scoring, tuple(own), pairs, sets)
    if not found:
        raise TuneError(
            f"{trace.path}: its task has metrics of its own, and none of them has a number for each row, so no "
            "setting can be scored from the trace"
        )
    return tuple(replace(metric, share=own.get(metric.name, True)) for metric in found)


def _own_metrics(trace: Trace) -> dict[str, bool]:
    """Return the `distinct` metrics that the task itself has numbers of, and whether all of these are in 0..1."""
    scores = [row.metrics.get(alpha, {}) for row in trace.rows for alpha in trace.alphas]
    names = dict.fromkeys(name for row in trace.rows for name in row.metrics.get(trace.plain, {}))
    numbers = {name: np.array([each.get(name) for each in scores], float) for name in names}
    return {name: _are_shares(numbers[name]) for name in distinct(numbers)}


def _are_shares(numbers: NDArray[np.float64]) -> bool:
    known = numbers[~np.isnan(numbers)]
    return bool(((known >= 0) & (known <= 1)).all())


def _objective(trace: Trace, metrics: Sequence[Metric], name: str | None) -> Metric:
    known = {metric.name: metric for metric in metrics if metric.higher_is_better}
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise TuneError(f"objective {name!r}: {trace.name} has {', '.join(known)}")
    return known[name]


def _options(trace: Trace, alphas: Sequence[float]) -> tuple[Options | None, str | None]:
    """Return the options of all rows; or None and the reason."""
    have = sum(bool(row.options.get(trace.plain)) for row in trace.rows)
    if not have:
        return None, "the trace holds no probabilities of offered options"
    if have < len(trace.rows):
        return None, f"{len(trace.rows) - have} of {len(trace.rows)} rows have no probabilities of offered options"
    if trace.scoring is None:
        return None, "the task judges answers by a rule of its own, which cannot be applied to an option"
    each = [{alpha: {name.lower(): p for name, p in row.options.get(alpha, {}).items()} for alpha in alphas}
            for row in trace.rows]  # fmt: skip
    plain = [row[trace.plain] for row in each]
    names = tuple(dict.fromkeys(name for row in plain for name in row))
    if len(names) > MOST_OPTIONS:
        return None, f"the questions offer {len(names)} different options, too many to have a bias each"
    golds = [row.gold.strip().lower() for row in trace.rows]
    return Options(
        names=names,
        labels=np.array([names.index(gold) if gold in row else -1
                         for gold, row in zip(golds, plain, strict=True)], np.intp),
        offered=np.array([[name in row for name in names] for row in plain]),
        log_p=np.log(np.maximum(FLOOR, [[[row[alpha].get(name, 0.0) for name in names] for row in each]
                                        for alpha in alphas])),
        under_all=all(row[alpha] for row in each for alpha in alphas),
    ), None  # fmt: skip
