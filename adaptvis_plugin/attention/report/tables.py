"""The figures of a study as tables: for the terminal, for the page, and as CSV."""

from __future__ import annotations

import numpy as np
import pandas as pd

from adaptvis_plugin.attention.familiarity import Familiarity
from adaptvis_plugin.attention.familiarity.tables import grids as familiarity_grids
from adaptvis_plugin.attention.familiarity.tables import in_percent, score
from adaptvis_plugin.attention.prediction import Prediction
from adaptvis_plugin.attention.report.figures import run_figures
from adaptvis_plugin.attention.study import Objects, Study
from adaptvis_plugin.comparison.tables import ABSENT, Grid, percent

OPEN = ("runs", "layers", "relations")
"""The tables that are open in the page."""


def grids(found: Study | Familiarity) -> list[Grid]:
    """Return the tables, the most important first."""
    if isinstance(found, Familiarity):
        return familiarity_grids(found)
    return [_runs(found), _layers(found), *familiarity_grids(found.familiarity)]


def _runs(study: Study) -> Grid:
    metric = study.familiarity.metric.title
    rows = [
        (
            one.run.name,
            score(one.score, study.familiarity),
            score(one.gain, study.familiarity, "+"),
            in_percent(one.image),
            in_percent(one.more, "+"),
        )
        for one in run_figures(study)
    ]
    return Grid(
        "runs",
        "Is it only more attention?",
        "Score, and the share of the attention on the image (mean over layers and heads), in percent; what each "
        "differs from the unsteered model. The control adds a constant to the image logits of all rows.",
        ("run", metric, "less plain", "on the image", "less plain"),
        tuple(rows),
    )


_COLUMNS = {
    "image_share": "on the image",
    "image_share_no_sinks": "without sinks",
    "relative_entropy": "entropy / log n",
    "top_share": "top 5%",
    "sink_share": "on sinks",
}


def _layers(study: Study) -> Grid:
    plain = study.runs[0].name
    values = study.layers[study.layers.run == plain].pivot(index="layer", columns="measure", values="value")
    objects = None if isinstance(study.objects, str) else study.objects
    rows = []
    for place, layer in enumerate(study.header.layers):
        own = values.loc[layer].to_dict() if layer in values.index else {}
        cells = [percent(own.get(name)) for name in _COLUMNS]
        if objects is not None:
            cells += [
                percent(float(objects.overlap.layers[:, 0, place].mean())),
                _auroc(objects.by_layer[plain], place),
            ]
        rows.append((str(layer), *cells))
    head = ("layer", *_COLUMNS.values(), *(("on the objects", "AUROC") if objects else ()))
    return Grid(
        "layers",
        "The unsteered model's attention by layer",
        "Percent. Top 5%: the part of the image's attention that its 5% of tokens with the most have. On the objects: "
        "the part of the image's attention inside the boxes of the objects that the question names; AUROC: how well "
        "that tells right from wrong answers, 0.5 is chance.",
        head,
        tuple(rows),
    )


def _auroc(found: Prediction | str, place: int) -> str:
    if isinstance(found, str):
        return ABSENT
    row = found.table.iloc[place]
    return f"{row.auroc:.3f} [{row.low:.3f}, {row.high:.3f}]"


def frames(study: Study) -> dict[str, pd.DataFrame]:
    """Return everything that was found by layer and head, by the name of its file."""
    found = {"layers": study.layers, "heads": study.heads, "sinks": study.measures.sink_columns()}
    if not isinstance(study.objects, str):
        for name, each in (("auroc_layers", study.objects.by_layer), ("auroc_heads", study.objects.by_head)):
            parts = [one.table.assign(run=run) for run, one in each.items() if not isinstance(one, str)]
            if parts:
                found[name] = pd.concat(parts, ignore_index=True)
        found["overlap"] = _overlap(study, study.objects)
    return found


def _overlap(study: Study, objects: Objects) -> pd.DataFrame:
    """Return each row's overlap by run and layer."""
    doc_ids = [study.trace.rows[row].doc_id for row in objects.rows]
    index = pd.MultiIndex.from_product([doc_ids, study.header.layers], names=["doc_id", "layer"])
    parts = []
    for run in study.runs:
        values, _ = objects.overlap.under([*run.conditions[objects.rows]])
        table = pd.DataFrame({"overlap": values.ravel()}, index=index).reset_index()
        table["even"] = np.repeat(objects.overlap.even, len(study.header.layers))
        table["right"] = np.repeat(run.right[objects.rows], len(study.header.layers))
        parts.append(table.assign(run=run.name))
    return pd.concat(parts, ignore_index=True)
