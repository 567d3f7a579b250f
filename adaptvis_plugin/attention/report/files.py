"""The files of a report: tables, pictures, overlays, Markdown, and the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaptvis_plugin.attention.familiarity import Familiarity
from adaptvis_plugin.attention.familiarity.files import as_json as familiarity_json
from adaptvis_plugin.attention.familiarity.files import bin_frame, relation_frame
from adaptvis_plugin.attention.familiarity.tables import heading
from adaptvis_plugin.attention.prediction import Prediction
from adaptvis_plugin.attention.report.sentences import sentences
from adaptvis_plugin.attention.report.tables import frames, grids
from adaptvis_plugin.attention.study import Study
from adaptvis_plugin.comparison.files import numbered, write_csv
from adaptvis_plugin.comparison.tables import plain_text, table_lines

OVERLAYS = 6
"""The most rows whose overlay is a file; the page has more."""


def write(found: Sequence[Study | Familiarity], folder: Path, pictures: int) -> list[Path]:
    """Write a report.

    Args:
        found: What was found about each task, or about a trace alone.
        folder: Where to.
        pictures: The most rows with an overlay in the page.

    Returns:
        The files, the page first.
    """
    from adaptvis_plugin.attention.report.overlays import draw as draw_overlays
    from adaptvis_plugin.attention.report.page import Part, page
    from adaptvis_plugin.attention.report.plots import draw
    from adaptvis_plugin.comparison.plots import save_figure

    folder.mkdir(parents=True, exist_ok=True)
    html, text = folder / "index.html", folder / "attention.md"
    files, parts, lines = [], [], ["# Attention"]
    each = [one.familiarity if isinstance(one, Study) else one for one in found]
    for place, one in enumerate(found):
        stem = numbered(one.trace.name, place)
        part = Part(one, sentences(one), grids(one), list(draw(one)))
        parts.append(part)
        lines += ["", f"## {plain_text(heading(each[place]))}", ""]
        lines += [f"- {plain_text(line)}" for line in part.sentences]
        for grid in part.grids:
            lines += ["", f"### {plain_text(grid.title)}", "", grid.note, "", *table_lines(grid.head, grid.rows)]
        for name, title, figure in part.figures:
            files.append(folder / f"{stem}-{name}.png")
            save_figure(figure, files[-1])
            lines += ["", f"![{plain_text(title)}]({files[-1].name})"]
        if isinstance(one, Study):
            for name, table in frames(one).items():
                files.append(folder / f"{stem}-{name}.csv")
                write_csv(table, files[-1])
            for doc_id, figure in draw_overlays(one, min(OVERLAYS, pictures)):
                files.append(folder / "overlays" / f"{stem}-{doc_id:06d}.png")
                files[-1].parent.mkdir(exist_ok=True)
                figure.savefig(files[-1], dpi=110, facecolor="white")
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    html.write_text(page(parts, pictures), encoding="utf-8")
    for name, table in (("familiarity", relation_frame(each)), ("reliability", bin_frame(each))):
        files.append(folder / f"{name}.csv")
        write_csv(table, files[-1])
    return [html, text, *files]


def as_json(found: Sequence[Study | Familiarity]) -> list[dict[str, Any]]:
    """Return the figures; one that does not exist is null."""
    return [_study(one) if isinstance(one, Study) else {"familiarity": familiarity_json([one])[0]} for one in found]


def _study(one: Study) -> dict[str, Any]:
    objects: Any = one.objects
    if not isinstance(objects, str):
        objects = {
            "source": objects.source,
            "rows": len(objects.rows),
            "left_out": list(objects.left_out),
            "even": float(objects.overlap.even.mean()),
            "by_layer": {run: _prediction(found) for run, found in objects.by_layer.items()},
            "by_head": {run: _prediction(found) for run, found in objects.by_head.items()},
        }
    return {
        "task": one.trace.name,
        "rows": len(one.trace.rows),
        "layers": list(one.header.layers),
        "heads": one.header.heads,
        "runs": [run.name for run in one.runs],
        "sentences": sentences(one),
        "by_layer": one.layers.to_dict("records"),
        "objects": objects,
        "unmapped": one.unmapped,
        "familiarity": familiarity_json([one.familiarity])[0],
    }


def _prediction(found: Prediction | str) -> Any:
    if isinstance(found, str):
        return found
    return {"chance": found.chance, "rows": found.rows, "right": found.right, "table": found.table.to_dict("records")}
