"""Captured rows for the tests: drawn attention of a given shape over a prompt with a square image."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptvis_plugin.attention.form import Header
from adaptvis_plugin.attention.record import Places, Record
from adaptvis_plugin.attention.store import AttentionStore

BEFORE, AFTER = 2, 4
"""The text columns before and after the image."""


def header(**own: Any) -> Header:
    about = {"task": "toy", "rows": 40, "model": "demo", "dtype": "float32", "prompt": "chat"}
    return Header(**{**about, "conditions": ("1.0", "0.5"), "layers": (3, 7), "heads": 2, **own})


def grid(side: int, pixels: float = 4) -> Places:
    """Return the places of square columns that cover a square picture, row by row."""
    left, top = (axis.ravel() * pixels for axis in np.meshgrid(np.arange(side), np.arange(side)))
    box = np.stack([left, top, left + pixels, top + pixels], 1).astype(np.float32)
    return Places(np.zeros(side**2, np.int32), box)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float16]:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(-1, keepdims=True)
    return shares.astype(np.float16)


def logits(number: int, about: Header, side: int) -> NDArray[np.float64]:
    """Draw a row's attention before the softmax, shape (conditions, layers, heads, columns)."""
    shape = (len(about.conditions), len(about.layers), about.heads, BEFORE + side**2 + AFTER)
    return np.random.default_rng(number).normal(size=shape)


def image_columns(side: int) -> NDArray[np.bool_]:
    image = np.zeros(BEFORE + side**2 + AFTER, bool)
    image[BEFORE:-AFTER] = True
    return image


def record(number: int, about: Header | None = None, side: int = 3, **own: Any) -> Record:
    about = about or header()
    image = image_columns(side)
    fields: dict[str, Any] = {
        "doc_id": number,
        "weights": softmax(logits(number, about, side)),
        "ids": np.arange(len(image), dtype=np.int32),
        "image": image,
        "places": grid(side),
        "sizes": ((4 * side, 4 * side),),
        "thumbnails": (b"\xff\xd8 a picture",),
    }
    return Record(**{**fields, **own})


def begun(folder: Path, about: Header | None = None) -> AttentionStore:
    store = AttentionStore(folder)
    store.resume(about or header())
    return store


def same(one: Record, other: Record) -> bool:
    """Tell whether two rows are equal in every bit and type."""
    places = [(row.places.picture, row.places.box) if row.places else () for row in (one, other)]
    arrays = [(row.weights, row.ids, row.image, *own) for row, own in zip((one, other), places, strict=True)]
    return (
        (one.doc_id, one.sizes, one.thumbnails) == (other.doc_id, other.sizes, other.thumbnails)
        and len(arrays[0]) == len(arrays[1])
        and all(
            a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
            for a, b in zip(*arrays, strict=True)
        )
    )
