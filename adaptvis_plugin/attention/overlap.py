"""How much of the image's attention lies on the objects that the question names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptvis_plugin.attention.areas import Rectangle, inside, placed
from adaptvis_plugin.attention.form import Header
from adaptvis_plugin.attention.record import Record


@dataclass(frozen=True)
class Overlap:
    """The overlap of attention with the named objects: the share of the image's attention that is inside their boxes.

    An image column counts with its weight times the part of its area inside the boxes. All columns that have a place
    count, also where two lie over the same pixels (LLaVA-NeXT's overview and its tiles). Attention of 0 on all of them
    prefers no place: its overlap is that of even attention.

    Attributes:
        heads: By condition, layer and head, shape (..., conditions, layers, heads).
        layers: Of the mean over the heads, in which a head counts by its attention on the image; shape
            (..., conditions, layers).
        even: What attention spread evenly over the columns would give, shape (...). An overlap divided by it says how
            many times as much attention the objects get as their area would.
    """

    heads: NDArray[np.float32]
    layers: NDArray[np.float32]
    even: NDArray[np.float32]

    def under(self, run: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the overlap of many rows in a run, by layer and by layer and head.

        Args:
            run: The number of the condition that the run has in each row.

        Returns:
            Shapes (rows, layers) and (rows, layers, heads).
        """
        each = np.arange(len(self.even))
        return self.layers[each, run], self.heads[each, run]


def overlap(
    record: Record, boxes: Sequence[Rectangle], sinks: NDArray[np.bool_] | None = None, picture: int = 0
) -> Overlap | str:
    """Return the overlap of a row's attention with boxes, or why there is none.

    Args:
        record: The row.
        boxes: The boxes of the objects that its question names.
        sinks: Columns to leave out, shape (columns,).
        picture: The picture that the boxes are in.
    """
    if not boxes:
        return "it has no boxes"
    if record.places is None:
        return "its image columns cannot be laid over the picture"
    counted = placed(record.places, picture)
    if sinks is not None:
        counted &= ~sinks[record.image]
    if not counted.any():
        return "none of its image columns has a place in the picture"
    part = inside(record.places, boxes, picture)[counted]
    if not (even := part.mean()):
        return "its boxes hold no image column: they are outside of what the model sees of the picture"
    columns = np.flatnonzero(record.image)[counted]
    # The sums of the weights, inside and of all, as one product.
    both = np.stack([part, np.ones_like(part)], 1).astype(np.float32)
    sums = np.stack([weights[..., columns].astype(np.float32) @ both for weights in record.weights])
    return Overlap(_shares(sums, even), _shares(sums.sum(-2), even), np.array(even, np.float32))


def _shares(sums: NDArray[np.float32], even: float) -> NDArray[np.float32]:
    inner, total = sums[..., 0], sums[..., 1]
    return np.divide(inner, total, out=np.full_like(inner, even), where=total > 0)


class Overlaps:
    """The overlap of many rows, which are added one at a time and not kept.

    Args:
        header: The header of the captured attention.
        boxes: The boxes of the rows that have some, by `doc_id`.

    Attributes:
        doc_ids: The rows that have an overlap.
        left_out: Why another row has none, by `doc_id`.
    """

    def __init__(self, header: Header, boxes: Mapping[int, Sequence[Rectangle]]) -> None:
        self._header = header
        self._boxes = boxes
        self._found: list[Overlap] = []
        self.doc_ids: list[int] = []
        self.left_out: dict[int, str] = {}

    def add(self, record: Record, sinks: NDArray[np.bool_] | None = None) -> None:
        """Add one more row; see `overlap`."""
        found = overlap(record, self._boxes.get(record.doc_id, ()), sinks)
        if isinstance(found, str):
            self.left_out[record.doc_id] = found
        else:
            self.doc_ids.append(record.doc_id)
            self._found.append(found)

    def all(self) -> Overlap:
        """Return the overlap of the rows in `doc_ids`, in their order, as the first axis."""
        shape = (len(self._header.conditions), len(self._header.layers), self._header.heads)
        if not self._found:
            return Overlap(*(np.zeros((0, *own), np.float32) for own in (shape, shape[:2], ())))
        return Overlap(
            *(np.stack(own) for own in zip(*((o.heads, o.layers, o.even) for o in self._found), strict=True))
        )
