"""Computes the figures of a report from the checked runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adaptvis_plugin.analysis.metrics import Columns, Metric, complete, distinct, judge, metrics_of, sums_by_group
from adaptvis_plugin.analysis.statistics import Sums, holm, paired_test
from adaptvis_plugin.comparison.answers import FORMS, NEITHER, NONE, SEVERAL, form_of, listed, said
from adaptvis_plugin.comparison.checks import Section
from adaptvis_plugin.comparison.figures import (
    STEERING,
    Against,
    Choice,
    Confusion,
    Origin,
    Part,
    RunFigures,
    SectionFigures,
    Value,
)
from adaptvis_plugin.comparison.runs import ComparisonError, Run
from adaptvis_plugin.scoring.whatsup import GROUP_SIZES, Group
from adaptvis_plugin.traces.schema import group_of


@dataclass(frozen=True)
class _Judged:
    run: Run
    columns: Columns
    first: str
    right: NDArray[np.float64]
    rows: pd.DataFrame


def report(parts: Sequence[Section]) -> list[SectionFigures]:
    """Compute the figures of all tasks; the p-values are corrected for all tests in them.

    A run that is plain decoding, as the baseline is, is no further comparison.
    """
    found = [_figures(part) for part in parts]
    runs = [
        run
        for part in found
        for run in part.runs
        if not (run.run.plain and part.section.baseline and part.section.baseline.plain)
    ]
    against = [run.against for run in runs if run.against and run.against.test]
    for one, p_value in zip(against, holm([one.test.p_value for one in against if one.test]), strict=True):
        one.p_holm = p_value
    return found


def _figures(part: Section) -> SectionFigures:
    asked = part.asked
    options = listed(asked["gold"], asked["options"], part.scoring) if part.scoring else []
    names = _names(part)
    judged = [_judge(part, run, options, names) for run in part.runs]
    judged, lacking = _where_all_have_numbers(judged) if part.scoring is None else (judged, {})
    groups, grouped = _groups(asked)
    metrics = [
        metric
        for metric in metrics_of(part.scoring, names, bool(asked["pair_id"].notna().all()),
                                 bool(asked["set_id"].notna().all()))
        if all(column in one.columns for one in judged for column in metric.columns)
    ]  # fmt: skip
    repeated: list[str] = []
    if not part.scoring:  # the task may make something else of them than their mean
        kept = distinct({one.name: np.concatenate([run.columns[one.name] for run in judged]) for one in metrics})
        repeated = [one.name for one in metrics if one.name not in kept]
        metrics = [replace(one, title=f"{one.name}, mean over rows") for one in metrics if one.name in kept]
    base = next((one for one in judged if one.run is part.baseline), None)
    sums = _Sums(groups, asked)
    ordered = sorted(judged, key=lambda one: one is not base)
    runs = tuple(_run(part, one, base, metrics, sums, options) for one in ordered)
    shares = all(0 <= value.value <= 1 for run in runs for value in run.metrics)
    remarks = (
        *_repeated(part, repeated),
        *_incomplete(metrics, sums.ids),
        *(
            f"{metric.name}: over the {len(asked) - lacking[metric.name]} of {len(asked)} rows with it in every run."
            for metric in metrics
            if metric.name in lacking
        ),
    )
    return SectionFigures(part, len(set(groups)), grouped, shares, runs, remarks)


def _where_all_have_numbers(judged: Sequence[_Judged]) -> tuple[list[_Judged], dict[str, int]]:
    """Take out the numbers of rows for which one of the runs has none, so that all figures are over the same rows.

    Returns:
        The runs, and for each metric of which numbers were taken out how many rows lack one.
    """
    shared = set.intersection(*(set(one.columns) for one in judged))
    names = [name for name in judged[0].columns if {name, f"has {name}"} <= shared]
    gaps = {name: np.any([np.isnan(one.columns[name]) for one in judged], axis=0) for name in names}
    lacking = {name: int(gap.sum()) for name, gap in gaps.items() if gap.any()}
    found = []
    for one in judged:
        columns = dict(one.columns)
        for name in lacking:
            columns[name] = np.where(gaps[name], np.nan, columns[name])
            columns[f"has {name}"] = np.where(gaps[name], 0.0, columns[f"has {name}"])
        right = np.where(gaps[one.first], np.nan, one.right) if one.first in gaps else one.right
        found.append(replace(one, columns=columns, right=right, rows=one.rows.assign(right=right)))
    return found, lacking


def _repeated(part: Section, metrics: Sequence[str]) -> Iterator[str]:
    if metrics:
        yield (
            f"{', '.join(metrics)}: not shown, since their single rows have the numbers of another metric; what "
            f"{part.task} makes of them is in the framework's results."
        )


def _incomplete(metrics: Sequence[Metric], ids: Mapping[Group, Sequence[int | None]]) -> Iterator[str]:
    """Say what pairs and sets are divided by, where not all of them are complete."""
    for metric in metrics:
        if metric.group is None:
            continue
        rows, size = len(ids[metric.group]), GROUP_SIZES[metric.group]
        whole = len(complete(ids[metric.group], metric.group))
        if whole * size < rows:
            yield (
                f"{metric.title.capitalize()}: divided by {rows} / {size} as the authors do, but only {whole} are "
                f"complete, so the most that can be reached is {100 * whole * size / rows:.1f}."
            )


class _Sums:
    """The sums of a metric's columns over the groups of a task's rows."""

    def __init__(self, groups: Sequence[str], asked: pd.DataFrame) -> None:
        self.groups = groups
        self.ids: Mapping[Group, list[int | None]] = {
            "pair_id": asked["pair_id"].tolist(),
            "set_id": asked["set_id"].tolist(),
        }

    def value(self, metric: Metric, columns: Columns) -> Value:
        return _value(metric, self._of(metric, columns))

    def difference(self, metric: Metric, columns: Columns, base: Columns) -> Value:
        return _value(metric, self._of(metric, columns) - self._of(metric, base))

    def _of(self, metric: Metric, columns: Columns) -> Sums:
        return Sums(sums_by_group(metric, columns, self.groups, self.ids), metric.value)


def _value(metric: Metric, sums: Sums) -> Value:
    found = sums.estimate()
    return Value(metric.name, metric.title, found.value, *found.interval)


def _names(part: Section) -> list[str]:
    """Return the metrics of a task of others, in its order: that of the row with the most of them."""
    rows = [one for run in part.runs for one in run.rows["scores"] if one]
    return list(dict.fromkeys(name for one in sorted(rows, key=len, reverse=True) for name in one))


def _judge(part: Section, run: Run, options: Sequence[str], names: Sequence[str]) -> _Judged:
    rows, asked = run.rows, part.asked
    scores = [one or {} for one in rows["scores"]]
    columns = judge(part.scoring, rows["answer"].tolist(), asked["gold"].tolist(), asked["options"].tolist(), scores)
    metrics = metrics_of(part.scoring, [name for name in names if name in columns])
    if not metrics:
        raise ComparisonError(
            f"{part.task}: {run.name} ({run.source}) has answers but no number for each of them, so there is nothing "
            "to compare; the task must score its rows one by one"
        )
    first = metrics[0].columns[0]
    right = columns[first]
    found = rows[["answer", "confidence", "alpha", "chances"]].assign(
        right=right, form=[form_of(answer) for answer in rows["answer"]]
    )
    if part.scoring:
        offered = [[o.lower() for o in one] if one else options for one in asked["options"]]
        found["said"] = [said(a, o, part.scoring) for a, o in zip(rows["answer"], offered, strict=True)]
        found["choice"] = [max(one, key=one.__getitem__).lower() if one else None for one in rows["chances"]]
    return _Judged(run, columns, first, right, found)


def _run(
    part: Section,
    one: _Judged,
    base: _Judged | None,
    metrics: Sequence[Metric],
    sums: _Sums,
    options: Sequence[str],
) -> RunFigures:
    rows, gold = one.rows, part.asked["gold"].str.lower()
    steered = rows["alpha"].dropna() if one.run.of_coefficients else pd.Series(dtype=float)
    return RunFigures(
        run=one.run,
        metrics=tuple(sums.value(metric, one.columns) for metric in metrics),
        relations=_parts(rows["right"], part.asked["relation"]) if part.scoring else (),
        forms=_parts(rows["right"], rows["form"], FORMS),
        unclear=float(rows["said"].isin([NONE, SEVERAL, NEITHER]).mean()) if part.scoring else None,
        confusion=_confusion(part, gold, rows["said"], options) if part.scoring else None,
        choice=_choice(rows, gold) if part.scoring else None,
        confidence=_known(rows["confidence"].mean()),
        smoothed=float((steered < 1).mean()) if len(steered) else None,
        sharpened=float((steered > 1).mean()) if len(steered) else None,
        against=_against(one, base, metrics, sums, gold) if base is not None and one is not base else None,
        rows=rows,
    )


def _against(one: _Judged, base: _Judged, metrics: Sequence[Metric], sums: _Sums, gold: pd.Series) -> Against:
    known = ~np.isnan(one.right)
    binary = bool(np.isin(np.concatenate([one.right[known], base.right[known]]), (0.0, 1.0)).all())
    rows, before = one.rows, base.rows
    return Against(
        baseline=base.run.name,
        differences=tuple(sums.difference(metric, one.columns, base.columns) for metric in metrics),
        test=paired_test(base.right[known] == 1, one.right[known] == 1) if binary else None,
        fixed=tuple(rows.index[rows["right"] > before["right"]]),
        broken=tuple(rows.index[rows["right"] < before["right"]]),
        origins=tuple(_origins(one.run, rows.assign(before=before["form"], right_before=before["right"], gold=gold))),
    )


def _origins(run: Run, rows: pd.DataFrame) -> Iterator[Origin]:
    moved = rows[rows["form"] != rows["before"]]
    steering = np.select([rows["alpha"] < 1, rows["alpha"] > 1, rows["alpha"] == 1], STEERING, "")
    parts: list[tuple[str, str, pd.DataFrame]] = [
        ("form", f"{was} → {now}", part) for (was, now), part in moved.groupby(["before", "form"])
    ]
    # Where all rows were steered alike, they are no part of the difference but all of it.
    if run.of_coefficients:
        parts += [("steering", name, rows[steering == name]) for name in STEERING if not (steering == name).all()]
    for kind, name, part in parts:
        if not len(part):
            continue
        chosen = "choice" in part and bool(part["choice"].notna().all())
        choice = float((part["choice"] == part["gold"]).mean()) if chosen else None
        yield Origin(kind, name, len(part), float(part["right_before"].mean()), float(part["right"].mean()), choice)


def _choice(rows: pd.DataFrame, gold: pd.Series) -> Choice | None:
    known = rows[rows["choice"].notna()]
    if not len(known):
        return None
    right = known["choice"] == gold.loc[known.index]
    return Choice(len(known), float(right.mean()), float((known["choice"] == known["said"]).mean()))


def _confusion(part: Section, gold: pd.Series, names: pd.Series, options: Sequence[str]) -> Confusion:
    last = (NEITHER,) if part.scoring == "vsr" else (NONE, SEVERAL)
    counts = pd.crosstab(gold, names).reindex(index=list(options), columns=[*options, *last], fill_value=0)
    table = tuple(tuple(int(count) for count in row) for row in counts.to_numpy())
    return Confusion(tuple(options), (*options, *last), table)


def _parts(right: pd.Series, by: pd.Series, order: Sequence[str] = ()) -> tuple[Part, ...]:
    parts = {str(name): part for name, part in right.groupby(by)}
    names = [*(name for name in order if name in parts), *(name for name in sorted(parts) if name not in order)]
    return tuple(Part(name, len(parts[name]), float(parts[name].mean())) for name in names)


def _groups(asked: pd.DataFrame) -> tuple[list[str], str]:
    """Return what each row shares with rows that are not independent of it, and what that is called."""
    rows: list[Any] = asked[["set_id", "image"]].to_dict("records")
    groups = [group_of(number, **row) for number, row in zip(asked.index, rows, strict=True)]
    kinds = {group.split(" ")[0] for group in groups}
    words = {"set": "sets of pictures", "image": "pictures", "row": "rows"}
    return groups, " and ".join(word for kind, word in words.items() if kind in kinds)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
