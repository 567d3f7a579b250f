"""The report as one HTML page that needs no network; see `rendering`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from adaptvis_plugin.comparison.checks import bare
from adaptvis_plugin.comparison.figures import RunFigures, SectionFigures
from adaptvis_plugin.comparison.pictures import Pictures
from adaptvis_plugin.comparison.plots import draw, inline_svg
from adaptvis_plugin.comparison.rendering import render, rounded, shortened
from adaptvis_plugin.comparison.tables import OPEN, grids

SHOWN = 8
"""The most rows shown of each run and direction, above the browser of all rows."""


def page(parts: Sequence[SectionFigures], notes: Sequence[str], images: int) -> str:
    """Return the page.

    Args:
        parts: The figures of each task.
        notes: What a reader must know about the whole report.
        images: The most pictures that it may hold; those of rows that flipped come first.
    """
    tasks, data, left = [], [], images
    for place, part in enumerate(parts):
        pictures = Pictures(part.section)
        flipped = _flipped(part)
        wanted = list(dict.fromkeys([*flipped, *part.section.asked.index]))[:left] if pictures else []
        embedded = pictures.embedded(wanted)
        left -= len(embedded)
        tasks.append(_task(place, part, embedded, "" if pictures else pictures.absence))
        shown = {row["id"] for run in tasks[-1]["flips"] for side in run["sides"] for row in side["rows"]}
        rest = {str(row): address for row, address in embedded.items() if row not in shown}
        data.append(_data(part, rest))
    scripts = ["rows.js", "report.js"]
    return render(
        "adaptvis_plugin.comparison", "report.html", scripts, tasks=tasks, notes=notes, data=data, images=images - left
    )


def _flipped(part: SectionFigures) -> list[Any]:
    """Return the rows that flipped in any run, those shown at the top first."""
    runs = [run.against for run in part.runs if run.against]
    first = [row for one in runs for side in (one.fixed, one.broken) for row in side[:SHOWN]]
    return list(dict.fromkeys([*first, *(row for one in runs for row in (*one.fixed, *one.broken))]))


def _task(place: int, part: SectionFigures, embedded: dict[Any, str], absence: str) -> dict[str, Any]:
    flips = [_flips(part, run, embedded) for run in part.runs if run.against]
    if flips:
        max(flips, key=lambda run: run["total"])["open"] = True
    return {
        "place": place,
        "name": part.section.task,
        "rows": len(part.section.asked),
        "grouped": f"{part.groups} {part.grouped}",
        "notes": part.section.notes,
        "runs": [
            {"name": one.run.name, "model": one.run.model, "method": one.run.described, "framework": one.run.framework,
             "source": str(one.run.source), "facts": {k: v for k, v in one.run.facts.items() if k != "date"}}
            for one in part.runs
        ],
        "grids": grids(part),
        "open": OPEN,
        "pictures": [
            {"name": name, "title": title, "svg": Markup(inline_svg(figure, f"{name}-{place}"))}
            for name, title, figure in draw(part)
        ],
        "flips": flips,
        "absence": absence,
    }  # fmt: skip


def _flips(part: SectionFigures, run: RunFigures, embedded: dict[Any, str]) -> dict[str, Any]:
    against, base = run.against, part.base
    assert against is not None and base is not None
    sides = [
        {"title": title, "gained": gained, "total": len(rows),
         "rows": [_card(part, base, run, row, embedded) for row in rows[:SHOWN]]}
        for title, gained, rows in (
            ("wrong → right", True, against.fixed),
            ("right → wrong", False, against.broken),
        )
    ]  # fmt: skip
    total = len(against.fixed) + len(against.broken)
    return {"name": run.run.name, "baseline": against.baseline, "sides": sides, "total": total, "open": False}


def _card(
    part: SectionFigures, base: RunFigures, run: RunFigures, row: Any, embedded: dict[Any, str]
) -> dict[str, Any]:
    asked = part.section.asked.loc[row]
    return {
        "id": row,
        "image": embedded.get(row),
        "question": shortened(bare(asked["question"])),
        "gold": asked["gold"],
        "before": shortened(base.rows.loc[row, "answer"]),
        "after": shortened(run.rows.loc[row, "answer"]),
        "alpha": rounded(run.rows.loc[row, "alpha"]),
        "confidence": rounded(run.rows.loc[row, "confidence"]),
    }


def _data(part: SectionFigures, images: dict[str, str]) -> dict[str, Any]:
    """Return the rows for the page's script, in columns, which is shorter than names in every row."""
    asked = part.section.asked
    base = part.base
    return {
        "name": part.section.task,
        "baseline": part.runs.index(base) if base else None,
        "ids": [str(number) for number in asked.index],
        "questions": [shortened(bare(question)) for question in asked["question"]],
        "golds": list(map(shortened, asked["gold"])),
        "relations": [str(relation or "") for relation in asked["relation"]],
        "images": images,
        "runs": [
            {
                "name": one.run.name,
                "answers": list(map(shortened, one.rows["answer"])),
                "right": [rounded(value) for value in one.rows["right"]],
                "forms": one.rows["form"].tolist(),
                "alphas": [rounded(value) for value in one.rows["alpha"]],
                "confidences": [rounded(value) for value in one.rows["confidence"]],
                "chances": [
                    {name: rounded(value) for name, value in chances.items()} if chances else None
                    for chances in one.rows["chances"]
                ],
            }
            for one in part.runs
        ],
    }
