"""What a study found, in words; whether something is shown is decided by intervals and corrected p-values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from adaptvis_plugin.analysis.statistics import Estimate
from adaptvis_plugin.attention.familiarity import Familiarity
from adaptvis_plugin.attention.familiarity.sentences import sentences as about_familiarity
from adaptvis_plugin.attention.familiarity.tables import in_percent
from adaptvis_plugin.attention.prediction import Prediction
from adaptvis_plugin.attention.report.figures import LEVEL, RunFigures, run_figures
from adaptvis_plugin.attention.study import Study


def sentences(found: Study | Familiarity) -> list[str]:
    """Return what was found."""
    if isinstance(found, Familiarity):
        return about_familiarity(found)
    figures = run_figures(found)
    return [
        *_about_image(found, figures),
        *_about_sinks(found),
        *_about_objects(found),
        *_about_control(found, figures),
        *about_familiarity(found.familiarity),
    ]


def _about_image(study: Study, figures: list[RunFigures]) -> Iterator[str]:
    plain = figures[0]
    if plain.image is None:
        yield "No row has an image, so there is nothing that its attention could go to."
        return
    tokens = [share for share in study.measures.token_share if share > 0]
    if without := len(study.measures.token_share) - len(tokens):
        yield f"{without} of {len(study.trace.rows)} rows have no image; in the numbers by layer it counts as 0."
    layers = study.layers
    own = layers[(layers.run == plain.run.name) & (layers.measure == "image_share")]
    text = (
        f"The image is {100 * np.mean(tokens):.1f}% of the prompt's tokens and gets {in_percent(plain.image)}% of the "
        "last prompt token's attention (mean over layers and heads)"
    )
    if len(own) > 1:
        least, most = own.iloc[int(own.value.argmin())], own.iloc[int(own.value.argmax())]
        text += (
            f": from {100 * least.value:.1f}% in layer {least.layer} to {100 * most.value:.1f}% in layer {most.layer}"
        )
    yield text + "."
    if changes := [f"{one.run.name} {in_percent(one.more, '+')}" for one in figures[1:] if one.more]:
        yield f"What changes that, in percentage points: {'; '.join(changes)}."


def _about_sinks(study: Study) -> Iterator[str]:
    table = study.measures.sink_columns()
    if table.empty:
        yield "No column is an attention sink."
        return
    layers = study.layers[study.layers.run == study.runs[0].name].groupby("measure").value.mean()
    rows = sum(bool(len(columns)) for columns in study.measures.sinks)
    seen = any(study.measures.token_share)
    first = table.iloc[0]
    yield (
        f"{rows} of {len(study.trace.rows)} rows have attention sinks, which take {100 * layers['sink_share']:.1f}% of "
        f"the attention; the most frequent is {first.kind} token {first.place} (in {100 * first.share:.0f}% of the "
        f"rows)." + (f" Without sinks the image gets {100 * layers['image_share_no_sinks']:.1f}%." if seen else "")
    )


def _about_objects(study: Study) -> Iterator[str]:
    if study.unmapped:
        yield (
            f"In {study.unmapped} of {len(study.trace.rows)} rows the image's tokens cannot be laid over the picture."
        )
    objects = study.objects
    if isinstance(objects, str):
        yield f"Nothing is said about attention on objects: {objects}."
        return
    yield from (f"{one}." for one in objects.left_out)
    own = objects.overlap.layers[:, 0].mean(1)
    yield (
        f"In {len(objects.rows)} rows the named objects get {100 * own.mean():.1f}% of the image's attention and "
        f"would get {100 * objects.overlap.even.mean():.1f}% if it were spread evenly (boxes: {objects.source})."
    )
    name = study.runs[0].name
    yield _predicts(objects.by_layer[name], "layer")
    yield _predicts(objects.by_head[name], "head")


def _predicts(found: Prediction | str, what: str) -> str:
    start = "Whether attention on the objects predicts a right answer"
    if isinstance(found, str):
        return f"{start} cannot be measured by {what}: {found}."
    best = found.best.iloc[0]
    name = f"layer {best.layer:.0f}" if what == "layer" else f"head L{best.layer:.0f}H{best['head']:.0f}"
    shown = best.p_value < LEVEL
    text = (
        f"{'Attention on the objects predicts a right answer' if shown else f'{start} is not shown'}, by {what}: the "
        f"largest AUROC is {best.auroc:.3f} [{best.low:.3f}, {best.high:.3f}] in {name}, p = {best.p_value:.3f} after "
        f"correction for the choice among {len(found.table)}"
    )
    if what == "layer" and len(found.table) > 1:
        text += f"; it is the peak in {100 * best.peak:.0f}% of the draws"
    return text + "."


def _about_control(study: Study, figures: list[RunFigures]) -> Iterator[str]:
    percent = study.familiarity.percent
    for one in figures:
        if not one.control or one.gain is None or one.more is None:
            continue
        more = f"gives the image {in_percent(one.more, '+')} points of attention"
        yield f"Is it only more attention? Adding a {one.run.name} in all rows {more}, and {_helps(one.gain, percent)}."
    for one in figures:
        if one.control or one.gain is None:
            continue
        yield f"{one.run.name}: {_helps(one.gain, percent)}."


def _helps(gain: Estimate, percent: bool) -> str:
    low, high = gain.interval
    what = "more right answers" if low > 0 else "fewer right answers" if high < 0 else "no shown difference in score"
    scale, unit = (100, " points") if percent else (1, "")
    ends = f" [{scale * low:+.1f}, {scale * high:+.1f}]" if not np.isnan(low) else ""
    return f"{what} ({scale * gain.value:+.1f}{ends}{unit})"
