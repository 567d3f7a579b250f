"""What captured attention shows: the parts of the analysis put together, from files alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from adaptvis_plugin.attention.boxes import Asked, Box, BoxSource, LeftOut
from adaptvis_plugin.attention.familiarity import Familiarity, familiarity
from adaptvis_plugin.attention.familiarity.compute import judged
from adaptvis_plugin.attention.form import Header, constant_name
from adaptvis_plugin.attention.measures import Measures
from adaptvis_plugin.attention.overlap import Overlap, Overlaps
from adaptvis_plugin.attention.prediction import Prediction, predict
from adaptvis_plugin.attention.record import AttentionError, Record
from adaptvis_plugin.attention.store import AttentionStore
from adaptvis_plugin.decoding import AdaptVis, Method
from adaptvis_plugin.traces import Row, Trace
from adaptvis_plugin.traces.answers import answers_under
from adaptvis_plugin.traces.schema import alpha_key

PLAIN = "plain"
"""The name of the unsteered model's run."""


@dataclass(frozen=True)
class AttentionRun:
    """What a method did in each captured row.

    Attributes:
        name: Its name: `plain`, `constant 1.0`, `scalingvis 0.8`, `adaptvis 0.5/1.5/0.4`.
        conditions: The number of the condition of each row's attention; shape (rows,).
        alphas: Each row's coefficient.
        answers: Each row's answer.
        right: Whether it is right: 1, 0, or NaN if the task does not say; shape (rows,).
    """

    name: str
    conditions: NDArray[np.intp]
    alphas: tuple[float, ...]
    answers: tuple[str, ...]
    right: NDArray[np.float64]


@dataclass(frozen=True)
class Objects:
    """The attention on the objects that the questions name.

    Attributes:
        source: What the boxes are.
        boxes: The boxes of each row that has some, by `doc_id`.
        rows: The places of the rows with an overlap among the study's, in order.
        overlap: Their overlap.
        by_layer: For each run, how well its overlap in a layer predicts that its answer is right, or why that cannot be
            measured.
        by_head: The same for each head.
        left_out: Sentences on the rows without boxes, and on labels without rows.
    """

    source: str
    boxes: Mapping[int, tuple[Box, ...]]
    rows: NDArray[np.intp]
    overlap: Overlap
    by_layer: Mapping[str, Prediction | str]
    by_head: Mapping[str, Prediction | str]
    left_out: tuple[str, ...]


@dataclass(frozen=True, eq=False)  # its parts cannot be compared, and what is computed from it is kept by identity
class Study:
    """What the attention of one model on one task shows.

    Attributes:
        trace: The sweep's trace; its rows are those that were captured.
        store: The captured attention.
        runs: The unsteered run first.
        measures: The measures of `measures.MEASURES`, by row and by run.
        layers: See `Measures.layers`.
        heads: See `Measures.heads`.
        objects: The attention on the named objects; or why there is nothing about them.
        familiarity: What the trace shows about relations and confidence.
        unmapped: The number of rows whose image columns cannot be laid over the picture.
    """

    trace: Trace
    store: AttentionStore
    runs: tuple[AttentionRun, ...]
    measures: Measures
    layers: pd.DataFrame
    heads: pd.DataFrame
    objects: Objects | str
    familiarity: Familiarity
    unmapped: int

    @property
    def header(self) -> Header:
        """The header of the captured attention."""
        return self.store.header


def study(
    store: AttentionStore,
    trace: Trace,
    controls: Mapping[float, Trace],
    methods: Mapping[str, Method],
    source: BoxSource | None,
    progress: Callable[[int], object] = lambda rows: None,
) -> Study:
    """Analyse captured attention.

    Args:
        store: The captured attention.
        trace: The trace of the sweep.
        controls: The traces of the runs with a constant, by the constant.
        methods: ScalingVis and AdaptVis under the settings of interest, by the name of their runs.
        source: Where boxes come from; None for none.
        progress: Called with 1 after each row.

    Raises:
        AttentionError: If no row is both answered and captured, or a method's coefficient was not captured.
        TraceError: If a method's coefficient was not recorded.
    """
    there = {*store.doc_ids}
    rows = tuple(row for row in trace.rows if row.doc_id in there)
    if not rows:
        raise AttentionError(f"{store.folder} has no row of {trace.path}; they are of different runs")
    trace = Trace(trace.path, trace.header, rows, trace.torn)
    runs = tuple(_runs(store.header, trace, controls, methods))
    measures = Measures(store.header, len(rows), {run.name: [*run.conditions] for run in runs})
    boxes: dict[int, tuple[Box, ...]] = {}
    left_out, overlaps, unmapped = LeftOut(), Overlaps(store.header, boxes), 0
    for row in rows:
        record = store.read(_number(row))
        measures.add(record)
        if source is not None:
            picture = partial(_picture, record)
            found = source.of(Asked(record.doc_id, row.question, row.image, record.sizes, row.relation, picture))
            left_out.add(record.doc_id, found)
            if found.boxes:
                boxes[record.doc_id] = found.boxes
                overlaps.add(record)
        unmapped += record.places is None and bool(record.image.any())
        progress(1)
    setting = next((method for method in methods.values() if isinstance(method, AdaptVis)), None)
    return Study(
        trace=trace,
        store=store,
        runs=runs,
        measures=measures,
        layers=measures.layers(trace.groups),
        heads=measures.heads(),
        objects=_objects(trace, store.header, runs, overlaps, source, left_out, boxes),
        familiarity=familiarity(trace, setting),
        unmapped=unmapped,
    )


def _number(row: Row) -> int:
    assert row.doc_id is not None  # every row of a trace that was read has one
    return row.doc_id


def _runs(
    header: Header, trace: Trace, controls: Mapping[float, Trace], methods: Mapping[str, Method]
) -> Iterator[AttentionRun]:
    """Yield the unsteered run, those with a constant, and those of the methods."""
    place = {name: number for number, name in enumerate(header.conditions)}
    worth = judged(trace, list(trace.alphas))[1]
    rows = np.arange(len(trace.rows))

    def steered(name: str, alphas: Sequence[float]) -> AttentionRun:
        if lacking := [alpha for alpha in alphas if alpha_key(alpha) not in place]:
            raise AttentionError(
                f"{name}: the attention under alpha {lacking[0]:g} was not captured, only {header.conditions}"
            )
        return AttentionRun(
            name,
            np.array([place[alpha_key(alpha)] for alpha in alphas], np.intp),
            tuple(alphas),
            tuple(row.generations[alpha] for row, alpha in zip(trace.rows, alphas, strict=True)),
            np.array([worth[alpha][row] for row, alpha in zip(rows, alphas, strict=True)]),
        )

    yield steered(PLAIN, [trace.plain] * len(rows))
    for constant, control in controls.items():
        answered = {row.doc_id: row for row in control.rows}
        if lacking := [row.doc_id for row in trace.rows if row.doc_id not in answered]:
            raise AttentionError(
                f"{control.path}: document {lacking[0]} has no answer there; go on with the same command"
            )
        # Under one coefficient, whatever was applied: a row without an image had nothing to add to.
        ordered = [answered[row.doc_id] for row in trace.rows]
        texts = [next(iter(row.generations.values())) for row in ordered]
        alike = (row.model_copy(update={"generations": {1.0: text}}) for row, text in zip(ordered, texts, strict=True))
        own = Trace(control.path, control.header, tuple(alike))
        yield AttentionRun(
            constant_name(constant),
            np.full(len(rows), place[constant_name(constant)], np.intp),
            (1.0,) * len(rows),
            tuple(texts),
            judged(own, [1.0])[1][1.0],
        )
    for name, method in methods.items():
        answers = answers_under(method, trace.rows, str(trace.path), trace.sweep)
        yield steered(name, [answer.recorded for answer in answers])


def _picture(record: Record) -> Image.Image:
    """Return a row's picture as it was captured, at the size that the model was given."""
    return Image.open(io.BytesIO(record.thumbnails[0])).resize(record.sizes[0])


def _objects(
    trace: Trace,
    header: Header,
    runs: Sequence[AttentionRun],
    overlaps: Overlaps,
    source: BoxSource | None,
    left_out: LeftOut,
    boxes: Mapping[int, tuple[Box, ...]],
) -> Objects | str:
    if source is None:
        return "no boxes were given"
    sentences = [*left_out.sentences(), *filter(None, [source.unused()])]
    sentences += [
        f"{sum(one == reason for one in overlaps.left_out.values())} rows are left out: {reason}"
        for reason in dict.fromkeys(overlaps.left_out.values())
    ]
    if not overlaps.doc_ids:
        return "; ".join(["no row has boxes that its attention can be laid over", *sentences])
    place = {_number(row): number for number, row in enumerate(trace.rows)}
    kept = np.array([place[doc_id] for doc_id in overlaps.doc_ids])
    every, groups = overlaps.all(), np.asarray(trace.groups)[kept]
    by_layer: dict[str, Prediction | str] = {}
    by_head: dict[str, Prediction | str] = {}
    for run in runs:
        right = run.right[kept]
        known = ~np.isnan(right)
        if not np.isin(right[known], (0, 1)).all():
            by_layer[run.name] = by_head[run.name] = "the task's metric does not say right or wrong"
            continue
        layers, heads = (numbers[known] for numbers in every.under([*run.conditions[kept]]))
        by_layer[run.name], by_head[run.name] = (
            predict(numbers, right[known] == 1, [*groups[known]], header) for numbers in (layers, heads)
        )
    return Objects(
        source=source.name,
        boxes=boxes,
        rows=kept,
        overlap=every,
        by_layer=by_layer,
        by_head=by_head,
        left_out=tuple(sentences),
    )
