"""Studies for the tests of their report: a trace and captured attention of a toy model, with chosen answers."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adaptvis_plugin.attention.boxes import Asked, Box, Found, Reason
from adaptvis_plugin.attention.form import Header
from adaptvis_plugin.attention.record import Record
from adaptvis_plugin.attention.study import Study, study
from adaptvis_plugin.decoding import AdaptVis, Method, ScalingVis
from adaptvis_plugin.traces import Row, Trace, read_traces
from tests.attention_rows import begun, grid, header, image_columns, logits, softmax
from tests.tune_helpers import write_trace

SIDE, PIXELS = 4, 8
"""Columns along each side of a picture, and the pixels along each side of a column."""

ALPHAS = (1.0, 0.5, 1.5)
CONDITIONS = ("1.0", "0.5", "1.5", "constant 1.0")
METHODS: Mapping[str, Method] = {"scalingvis 0.5": ScalingVis(0.5), "adaptvis 0.5/1.5/0.4": AdaptVis(0.5, 1.5, 0.4)}

Rights = Mapping[float, Sequence[bool] | NDArray[np.bool_]]
"""Whether each row is right under each coefficient."""


class UpperRow:
    """A source of boxes, by which the object is the upper row of columns in every single picture."""

    name = "drawn"

    def __init__(self, label: str = "cup") -> None:
        self.label = label

    def of(self, asked: Asked) -> Found:
        """Return the box."""
        if len(asked.sizes) != 1:
            return Found(reason=Reason.PICTURES, detail=f"it has {len(asked.sizes)}")
        return Found((Box(self.label, 0, 0, SIDE * PIXELS, PIXELS),))

    def unused(self) -> str:
        """Say nothing."""
        return ""


def about(**own: Any) -> Header:
    return header(**{"conditions": CONDITIONS, **own})


def picture(grey: int = 120) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (SIDE * PIXELS, SIDE * PIXELS), (grey,) * 3).save(sink, "JPEG")
    return sink.getvalue()


def captured(number: int, weights: NDArray[np.float64], **own: Any) -> Record:
    """Return a row from its attention before the softmax; see `attention_rows.logits`."""
    image = image_columns(SIDE)
    fields: dict[str, Any] = {
        "doc_id": number,
        "weights": softmax(weights),
        "ids": np.arange(len(image), dtype=np.int32),
        "image": image,
        "places": grid(SIDE, PIXELS),
        "sizes": ((SIDE * PIXELS, SIDE * PIXELS),),
        "thumbnails": (picture(),),
    }
    return Record(**{**fields, **own})


def answered(rights: Rights, **own: Callable[[int], Any]) -> list[Row]:
    """Return rows whose task says itself which answers are right; every second one is confident."""
    return [
        Row.model_validate(
            {
                "doc_id": number,
                "question": f"Where is cup {number}?",
                "gold": "here",
                "relation": ("left", "on")[number % 2],
                "image": str(number),
                "confidence": 0.8 if number % 2 else 0.3,
                "generations": {alpha: "here" if right[number] else "there" for alpha, right in rights.items()},
                "metrics": {alpha: {"exact": float(right[number])} for alpha, right in rights.items()},
                **{name: value(number) for name, value in own.items()},
            }
        )
        for number in range(len(rights[1.0]))
    ]


def traced(path: Path, rows: Sequence[Row], **own: Any) -> Trace:
    alphas = tuple(rows[0].generations)
    [trace] = read_traces([write_trace(path, rows, **{"scoring": None, "task": "toy", "alphas": alphas, **own})])
    return trace


def studied(
    folder: Path,
    rows: Sequence[Row],
    record: Callable[[int], Record] | None = None,
    constant: Sequence[Row] | None = None,
    source: Any = None,
    form: Header | None = None,
    task: str = "toy",
) -> Study:
    """Study rows under `METHODS` and one constant.

    Args:
        folder: Where the trace and the captured attention are written.
        rows: The trace's rows.
        record: What was captured of a row; by default drawn noise.
        constant: The rows of the control; by default the trace's.
        source: A source of boxes.
        form: The header of what was captured.
        task: The task's name.
    """
    form = form or about()
    record = record or (lambda number: captured(number, logits(number, form, SIDE)))
    store = begun(folder / "attention", form)
    store.add([record(row.doc_id or 0) for row in rows])
    control = traced(folder / "constant.jsonl", constant or rows, task=task)
    return study(store, traced(folder / "toy.jsonl", rows, task=task), {1.0: control}, METHODS, source)
