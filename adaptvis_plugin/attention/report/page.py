"""The report as one HTML page with a browser of rows; see `comparison.rendering`."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from adaptvis_plugin.attention.areas import placed
from adaptvis_plugin.attention.familiarity import Familiarity
from adaptvis_plugin.attention.record import Record
from adaptvis_plugin.attention.report.overlays import flipped_first, laid_over
from adaptvis_plugin.attention.report.tables import OPEN
from adaptvis_plugin.attention.study import Study
from adaptvis_plugin.comparison.checks import bare
from adaptvis_plugin.comparison.plots import inline_svg
from adaptvis_plugin.comparison.rendering import data_address, render, rounded, shortened
from adaptvis_plugin.comparison.tables import Grid
from adaptvis_plugin.images import thumbnail

SIDE = 320
"""The longest side of a picture in the page, in pixels."""


@dataclass(frozen=True)
class Part:
    """What the page shows of one task.

    Attributes:
        found: What was found about it.
        sentences: The same in words.
        grids: The same as tables.
        figures: The same as pictures: a name, what it shows, and the picture.
    """

    found: Study | Familiarity
    sentences: Sequence[str]
    grids: Sequence[Grid]
    figures: Sequence[tuple[str, str, Figure]]


def page(parts: Sequence[Part], pictures: int) -> str:
    """Return the page.

    Args:
        parts: The tasks.
        pictures: The most rows that have an overlay in it; rows that flipped come first.
    """
    tasks, data, left = [], [], pictures
    for place, part in enumerate(parts):
        found = part.found
        study = found if isinstance(found, Study) else None
        tasks.append(
            {
                "place": place,
                "name": found.trace.name,
                "model": found.trace.header.model if found.trace.header else "",
                "rows": len(found.trace.rows),
                "study": study is not None,
                "sentences": part.sentences,
                "grids": part.grids,
                "open": OPEN,
                "pictures": [
                    {"name": name, "title": title, "svg": Markup(inline_svg(figure, f"{name}-{place}"))}
                    for name, title, figure in part.figures
                ],
            }
        )
        if study is not None:
            data.append(_data(study, left))
            left -= len(data[-1]["overlays"])
    scripts = ["rows.js", "attention.js"]
    return render(
        "adaptvis_plugin.attention.report", "attention.html", scripts, tasks=tasks, data=data, pictures=pictures - left
    )


def _data(study: Study, most: int) -> dict[str, Any]:
    """Return the rows for the page's script, in columns."""
    rows = study.trace.rows
    overlays: dict[str, Any] = {}
    for place in flipped_first(study):
        if len(overlays) >= most:
            break
        doc_id = rows[place].doc_id
        assert doc_id is not None
        if (overlay := _overlay(study, study.store.read(doc_id), place)) is not None:
            overlays[str(place)] = overlay
    return {
        "name": study.trace.name,
        "ids": [str(row.doc_id) for row in rows],
        "questions": [shortened(bare(row.question)) for row in rows],
        "golds": [shortened(row.gold) for row in rows],
        "relations": [row.relation or "" for row in rows],
        "confidences": [rounded(row.confidence) for row in rows],
        "layers": list(study.header.layers),
        "runs": [
            {
                "name": run.name,
                "answers": list(map(shortened, run.answers)),
                "right": [rounded(value) for value in run.right],
                "alphas": [rounded(alpha) for alpha in run.alphas],
                "conditions": run.conditions.tolist(),
            }
            for run in study.runs
        ],
        "overlays": overlays,
    }


def _overlay(study: Study, record: Record, place: int) -> dict[str, Any] | None:
    """Return what is drawn over a row's first picture; None if there is none, or its columns cannot be mapped.

    Areas are in shares of the picture's sides. Weights are the means over the heads, for each condition that a run has
    in this row and each layer. They stand as one byte each: 255 times the root of their share of the layer's largest,
    so that the small ones stay apart beside a sink.
    """
    if not laid_over(record):
        return None
    assert record.places is not None
    own = placed(record.places)
    width, height = record.sizes[0]
    sides = np.array([width, height, width, height])
    columns = np.flatnonzero(record.image)[own]
    conditions = {}
    for number in {int(run.conditions[place]) for run in study.runs}:
        weights = record.weights[number][..., columns].astype(np.float32).mean(1)
        scale = np.maximum(weights.max(1), np.finfo(np.float32).tiny)
        conditions[number] = {
            "shares": [rounded(value) for value in weights.sum(1)],
            "scale": [float(f"{value:.4g}") for value in scale],
            "weights": _base64(np.rint(255 * np.sqrt(weights / scale[:, None])).astype(np.uint8)),
        }
    boxes = () if isinstance(study.objects, str) else study.objects.boxes.get(record.doc_id, ())
    with Image.open(io.BytesIO(record.thumbnails[0])) as picture:
        small = thumbnail(picture, SIDE)
    return {
        "picture": data_address(small),
        "pictures": len(record.sizes),
        "ratio": round(height / width, 4),
        "areas": _base64(np.rint(65535 * (record.places.box[own] / sides).clip(0, 1)).astype("<u2")),
        "boxes": [
            {
                "name": shortened(box.name),
                "sides": [round(v, 4) for v in np.array([box.left, box.top, box.right, box.bottom]) / sides],
            }
            for box in boxes
        ],
        "sinks": np.flatnonzero(np.isin(columns, study.measures.sinks[place])).tolist(),
        "conditions": conditions,
    }


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
