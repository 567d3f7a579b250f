"""The report's files: Markdown, CSV, JSON, pictures and the page."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from adaptvis_plugin.comparison.figures import RunFigures, SectionFigures
from adaptvis_plugin.comparison.tables import markdown


def write(parts: Sequence[SectionFigures], notes: Sequence[str], folder: Path, images: int) -> list[Path]:
    """Write every file of a report.

    Args:
        parts: The figures of each task.
        notes: What a reader must know about the whole report.
        folder: Where to.
        images: The most pictures that the page may hold.

    Returns:
        The files.
    """
    from adaptvis_plugin.comparison.page import page
    from adaptvis_plugin.comparison.plots import save

    folder.mkdir(parents=True, exist_ok=True)
    html, text = folder / "report.html", folder / "report.md"
    html.write_text(page(parts, notes, images), encoding="utf-8")
    text.write_text(markdown(parts, notes), encoding="utf-8")
    figures, rows = folder / "figures.csv", folder / "rows.csv"
    write_csv(pd.DataFrame(_tidy(parts)), figures)
    write_csv(pd.DataFrame(_rows(parts)), rows)
    pictures = [path for place, part in enumerate(parts) for path in save(part, folder, stem(part, place))]
    return [html, text, figures, rows, *pictures]


def stem(part: SectionFigures, place: int) -> str:
    """Return a name for a task's files."""
    return numbered(part.section.task, place)


def numbered(task: str, place: int) -> str:
    """Return what a task's files begin with; a task may be called anything."""
    return f"{place + 1}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', task).strip('._') or 'task'}"


def as_json(parts: Sequence[SectionFigures], notes: Sequence[str]) -> dict[str, Any]:
    """Return everything that was found, without the single rows; a figure that does not exist is null."""
    return {"notes": list(notes), "tasks": [_task(part) for part in parts]}


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV in which no text is a formula to a spreadsheet: such a text gets an apostrophe before it."""
    table.map(_no_formula).to_csv(path, index=False)


def _no_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _task(part: SectionFigures) -> dict[str, Any]:
    section = part.section
    return {
        "task": section.task,
        "rows": len(section.asked),
        "groups": part.groups,
        "grouped_by": part.grouped,
        "baseline": section.baseline.name if section.baseline else None,
        "notes": list(section.notes),
        "remarks": list(part.remarks),
        "runs": [_run(run) for run in part.runs],
    }


def _run(figures: RunFigures) -> dict[str, Any]:
    run = figures.run
    found = {
        item.name: getattr(figures, item.name)
        for item in dataclasses.fields(figures)
        if item.name not in ("run", "rows", "against")
    }
    against = figures.against
    test = against.test._asdict() if against and against.test else None
    return {
        "name": run.name,
        "model": run.model,
        "method": run.method,
        "settings": dict(run.settings),
        "framework": run.framework,
        "source": str(run.source),
        "facts": dict(run.facts),
        **{name: _plain(value) for name, value in found.items()},
        "against": {**_plain(against), "test": test} if against else None,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return [_plain(item) for item in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _tidy(parts: Sequence[SectionFigures]) -> Iterator[dict[str, Any]]:
    """Yield one line for each figure of each run."""
    for part in parts:
        for one in part.runs:
            base = {"task": part.section.task, "run": one.run.name, "model": one.run.model,
                    "method": one.run.described, "framework": one.run.framework}  # fmt: skip
            rows = len(one.rows)
            for value in one.metrics:
                yield {**base, "figure": value.name, "value": value.value, "low": value.low, "high": value.high,
                       "rows": rows}  # fmt: skip
            for figure, kinds in (("relation", one.relations), ("form", one.forms)):
                for kind in kinds:
                    yield {**base, "figure": f"accuracy by {figure}", "part": kind.name, "value": kind.accuracy,
                           "rows": kind.rows}  # fmt: skip
            shares = {
                "names none or several": one.unclear,
                "choice among options": one.choice.accuracy if one.choice else None,
                "confidence": one.confidence,
                "smoothed": one.smoothed,
                "sharpened": one.sharpened,
            }
            for figure, share in shares.items():
                if share is not None:
                    yield {**base, "figure": figure, "value": share, "rows": rows}
            if table := one.confusion:
                for right, counts in zip(table.right, table.counts, strict=True):
                    for said, count in zip(table.said, counts, strict=True):
                        yield {**base, "figure": f"answers where {right} is right", "part": said, "value": count,
                               "rows": sum(counts)}  # fmt: skip
            if one.against is None:
                continue
            for value in one.against.differences:
                yield {**base, "figure": f"difference in {value.name}", "part": one.against.baseline,
                       "value": value.value, "low": value.low, "high": value.high, "rows": rows}  # fmt: skip
            if one.against.test:
                for figure, value_ in one.against.test._asdict().items():
                    name = {"only_first": "only the baseline is right", "only_second": "only this run is right"}
                    yield {**base, "figure": name.get(figure, "p (exact McNemar)"), "part": one.against.baseline,
                           "value": value_, "rows": rows}  # fmt: skip
                yield {**base, "figure": "p (Holm)", "part": one.against.baseline, "value": one.against.p_holm,
                       "rows": rows}  # fmt: skip


def _rows(parts: Sequence[SectionFigures]) -> Iterator[dict[str, Any]]:
    """Yield one line for each answer."""
    for part in parts:
        asked = part.section.asked
        for one in part.runs:
            for (number, row), (_, fact) in zip(one.rows.iterrows(), asked.iterrows(), strict=True):
                yield {
                    "task": part.section.task,
                    "row": number,
                    "run": one.run.name,
                    "question": fact["question"],
                    "gold": fact["gold"],
                    "relation": fact["relation"],
                    "set": fact["set_id"],
                    "answer": row["answer"],
                    "right": row["right"],
                    "said": row.get("said"),
                    "form": row["form"],
                    "confidence": row["confidence"],
                    "alpha": row["alpha"],
                    "choice": row.get("choice"),
                }
