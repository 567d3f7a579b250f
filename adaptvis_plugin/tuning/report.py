"""What was found, as tables: for the terminal, as Markdown and CSV, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from adaptvis_plugin.analysis.statistics import LEVEL, Estimate
from adaptvis_plugin.tuning.controls import CONTROLS
from adaptvis_plugin.tuning.lines import Line
from adaptvis_plugin.tuning.plots import draw_confidence, draw_surface
from adaptvis_plugin.tuning.preset import preset_task
from adaptvis_plugin.tuning.sentences import difference, sentences, shown
from adaptvis_plugin.tuning.study import Study, beats, rows_needed, smallest_gain

IN_FILES_ONLY = ("precision", "recall", "authors_acc", "neither")
"""Metrics that the terminal has no room for."""


GAIN, OTHERS = 4, 5
"""The columns with the gain over the plain model, and from where on there are other metrics than the objective."""

ALL_COLUMNS = 100
"""The width from which a terminal has room for the other metrics."""


def heading(study: Study) -> str:
    """Return what the table of a trace is about."""
    trace = study.outcomes.trace
    partial = f", partial: {trace.partial}" if trace.partial else ""
    shared = f"; one setting with {', '.join(study.shared_with)}" if study.shared_with else ""
    percent = ", percent" if study.outcomes.objective.share else ""
    return f"{trace.name}: {len(trace.rows)} rows{partial}; {study.outcomes.objective.title}{percent}{shared}"


def explanation(study: Study) -> str:
    """Return how the columns of the table came about."""
    return (
        "Optimistic: chosen or fitted on the rows that it is scored on; for the plain model and published settings "
        f"nothing is chosen. Cross-validated: in {study.folds} folds, {study.repeats} times, with whole sets (or rows "
        f"about one picture) kept together; {LEVEL:.0%} intervals by bootstrap over these groups, widened because the "
        "folds' choices share rows (Nadeau and Bengio, 2003). Other metrics are cross-validated too."
        + (
            " The task's own metrics are means of what it says of each row."
            if study.outcomes.trace.scoring is None
            else ""
        )
    )


def cells(study: Study) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of the table."""
    objective = study.outcomes.objective
    others = [
        metric for metric in study.outcomes.metrics if metric is not objective and metric.name not in IN_FILES_ONLY
    ]
    heads = ["method", "setting", "all rows, optimistic", "cross-validated", "gain over plain"]
    rows = [
        [
            line.title,
            line.setting_text,
            shown(line.on_all_rows[objective.name], objective, 2),
            f"{shown(line.estimate.value, objective)} "
            f"[{', '.join(shown(end, objective) for end in line.estimate.interval)}]",
            difference(line.gain, objective) if line.gain else "",
            *(shown(line.held_out[metric.name], metric) for metric in others),
        ]
        for line in study.lines.values()
    ]
    return [*heads, *(metric.name.removesuffix("_acc") for metric in others)], rows


def table(study: Study, width: int) -> Table:
    """Return the table for the terminal, which has no room for the gains; the sentences tell those that decide.

    Args:
        study: What was found.
        width: The terminal's width. A narrow one has no room for the other metrics either.
    """
    heads, rows = cells(study)
    for row in (heads, *rows):
        if width < ALL_COLUMNS:
            del row[OTHERS:]
        del row[GAIN]
    caption = explanation(study)
    if width < ALL_COLUMNS:
        caption += " They need a terminal with more columns, or --report."
    found = Table(title=escape(heading(study)), caption=caption, caption_justify="left", box=SIMPLE)
    for place, head in enumerate(heads):
        # Where it is too narrow, titles are broken, and figures are not.
        found.add_column(head, justify="left" if place < 2 else "right", overflow="fold", no_wrap=place in (1, 3))
    last = {study.main.name, [name for name in study.lines if name not in (*CONTROLS, "steered_options")][-1]}
    for name, row in zip(study.lines, rows, strict=True):
        found.add_row(*map(escape, row), end_section=name in last)
    return found


def markdown(studies: Sequence[Study]) -> str:
    """Return the tables and sentences of all traces."""
    parts = ["# Tuning\n"]
    for study in studies:
        heads, rows = cells(study)
        lines = [heads, ["---", "---", *("---:" for _ in heads[2:])], *rows]
        name = file_name(study)
        parts += [
            f"## {heading(study)}\n",
            "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n",
            explanation(study) + "\n",
            "\n".join(f"- {sentence}" for sentence in sentences(study)) + "\n",
            f"![every setting]({name}-surface.png)\n\n![confidence]({name}-confidence.png)\n",
        ]
    return "\n".join(parts)


def frame(studies: Sequence[Study]) -> pd.DataFrame:
    """Return one row for each trace, way of answering and metric; percentages as shares of 1."""
    return pd.DataFrame(
        {
            "trace": study.outcomes.trace.name,
            "method": line.name,
            "setting": line.setting_text,
            "metric": metric,
            "on_all_rows": value,
            "cross_validated": line.held_out[metric],
            **(_numbers(line) if metric == study.outcomes.objective.name else {}),
        }
        for study in studies
        for line in study.lines.values()
        for metric, value in line.on_all_rows.items()
    )


def _numbers(line: Line) -> dict[str, float]:
    found = dict(zip(("low", "high"), line.estimate.interval, strict=True))
    if line.gain:
        found |= {"gain": line.gain.value, "gain_low": line.gain.interval.low, "gain_high": line.gain.interval.high}
    return found


def every_setting(study: Study) -> pd.DataFrame:
    """Return the objective of every setting on all rows."""
    surface = study.surface
    if not study.outcomes.by_confidence:
        return pd.DataFrame(
            {
                study.outcomes.trace.sweep.strength: surface.alphas,
                study.outcomes.objective.name: surface.values.diagonal()[0],
                "rows_steered": surface.steered.diagonal()[0],
            }
        )
    low, high, split = (index.ravel() for index in np.indices(surface.values.shape))
    return pd.DataFrame(
        {
            "alpha_low": np.take(surface.alphas, low),
            "alpha_high": np.take(surface.alphas, high),
            "threshold": np.take(surface.thresholds, split),
            study.outcomes.objective.name: surface.values.ravel(),
            "rows_steered": surface.steered.ravel(),
        }
    )


def as_json(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """Return everything that was found as plain data."""
    return [_plain(study) for study in studies]


def _plain(study: Study) -> dict[str, Any]:
    trace = study.outcomes.trace
    return {
        "trace": str(trace.path),
        "task": preset_task(trace),
        "swept": trace.sweep.method,
        "model": trace.header.model if trace.header else None,
        "rows": len(trace.rows),
        "partial": trace.partial,
        "scoring": trace.scoring,
        "objective": study.outcomes.objective.name,
        "folds": study.folds,
        "repeats": study.repeats,
        "level": LEVEL,
        "shared_with": list(study.shared_with),
        "methods": {
            line.name: {
                "title": line.title,
                "setting": study.values(line.method, line.setting) if line.setting else None,
                "on_all_rows": line.on_all_rows,
                "cross_validated": line.held_out,
                "estimate": _estimate(line.estimate),
                "gain": _estimate(line.gain),
                "chosen": [
                    {"setting": study.values(line.method, setting), "folds": count}
                    for setting, count in line.chosen.items()
                ],
            }
            for line in study.lines.values()
        },
        "beats_plain": {name: beats(gain) for name, gain in study.together.items()},
        "gain_over_traces": {name: _estimate(gain) for name, gain in study.together.items()},
        "rows_needed": {name: rows_needed(gain, study.rows_together) for name, gain in study.together.items()},
        "smallest_gain_shown": {
            name: smallest_gain(gain, study.rows_together) for name, gain in study.together.items()
        },
        "preset": {name: study.preset_values(name) for name in study.methods},
        "calibration": study.calibration,
        "unrounded": {"setting": study.unrounded[0]._asdict(), "on_all_rows": study.unrounded[1]}
        if study.unrounded
        else None,
        "not_scored": {name: setting.hyper_parameters(name) for name, setting in study.missing.items()},
        f"{study.main.name}_less_best_correction": {"correction": study.beyond[0], **(_estimate(study.beyond[1]) or {})}
        if study.beyond
        else None,
        "regression_all_less_regression": _estimate(study.on_top),
        "answer_form": [
            {**form._asdict(), "setting": form.setting.hyper_parameters(study.main.name)} for form in study.forms
        ],
        "without_controls": study.outcomes.without_options,
        "sentences": sentences(study),
    }


def _estimate(estimate: Estimate | None) -> dict[str, float] | None:
    return estimate and {"value": estimate.value, "low": estimate.interval.low, "high": estimate.interval.high}


def file_name(study: Study) -> str:
    """Return what the files of a trace's report begin with."""
    task = preset_task(study.outcomes.trace)
    return task if study.outcomes.by_confidence else f"{task}-{study.main.name}"


def write_report(studies: Sequence[Study], folder: Path) -> None:
    """Write tables and plots: `report.md`, `summary.csv`, and for each task its settings and plots."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(markdown(studies), encoding="utf-8")
    frame(studies).to_csv(folder / "summary.csv", index=False)
    for study in studies:
        start = folder / file_name(study)
        every_setting(study).to_csv(f"{start}-settings.csv", index=False)
        draw_surface(study, Path(f"{start}-surface"))
        draw_confidence(study, Path(f"{start}-confidence"))
