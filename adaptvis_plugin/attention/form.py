"""The form of captured attention on disk: what a folder's header says, and the tensors of a row.

`header.json` is a `Header`. A chunk `NNNNNN.safetensors` holds the rows of one batch and is named by the first of them.
A row of number 12 has these tensors:

    12/weights       float16 (conditions, layers, heads, columns)
    12/ids           int32   (columns,)
    12/image         bool    (columns,)
    12/picture       int32   (image columns,)      only if the columns can be mapped: see `record.Places`
    12/box           float32 (image columns, 4)    likewise
    12/sizes         int32   (pictures, 2)         width and height
    12/thumbnails/0  uint8   (bytes,)              the JPEG file of the first picture, and so on

A row takes at most `row_bytes`. LLaVA-1.5-7B (32 layers, 32 heads, about 620 columns, 576 of them image) takes 1.3 MB
per row and condition: 2,000 rows take at most 2.6 GB for one condition, with thumbnails of 14 kB, and 2.54 GB for each
further one.

The weights are not compressed. Half of their bits are the noise of the mantissa: zlib and zstd saved 12% of the demo
model's, and 20% with the bytes reordered, which takes a form that no other program reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from adaptvis_plugin.attention.record import AttentionError, Places, Record
from adaptvis_plugin.traces.schema import alpha_key

FORMAT: Literal[1] = 1
"""The version of this form, under the header's key `adaptvis_attention`; a folder with another one is refused."""

PLAIN = alpha_key(1.0)
"""The condition of the unsteered model, always the first."""


def constant_name(constant: float) -> str:
    """Return the name of the condition in which a constant is added to the logits on the image in all rows."""
    return f"constant {alpha_key(constant)}"


_TYPES = {"weights": "float16", "ids": "int32", "image": "bool", "picture": "int32", "box": "float32"}


def _plain_first(conditions: tuple[str, ...]) -> tuple[str, ...]:
    if conditions[0] != PLAIN or len(set(conditions)) < len(conditions):
        raise ValueError(f"the conditions are different names, and the first is {PLAIN!r}, the unsteered model")
    return conditions


def _rising(layers: tuple[int, ...]) -> tuple[int, ...]:
    if layers[0] < 0 or any(one >= other for one, other in pairwise(layers)):
        raise ValueError("the layers are different numbers from 0, in rising order")
    return layers


class Header(BaseModel):
    """What decides the content of a folder. Two runs may share a folder only if their headers are equal.

    Attributes:
        adaptvis_attention: The version of the form.
        task: The task's name in its framework.
        rows: The number of rows that the whole task has.
        data: A digest of what was asked: the documents' questions and pictures.
        model: The checkpoint, as it was given.
        revision: The commit on the hub, or the fingerprint of a folder; None if unknown.
        dtype: The model's type: `float32`, `bfloat16`, `float16`, `float64`.
        prompt: `paper` or `chat`.
        conditions: The names of the conditions, the unsteered model's "1.0" first.
        layers: The numbers of the captured layers. A hybrid model has attention in some of its layers only.
        heads: The number of heads of a layer.
        settings: Whatever else decides the content, such as the size of the thumbnails.
        code: A digest of the code that decides it.
        packages: The versions of adaptvis-plugin, torch, transformers and the framework.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    adaptvis_attention: Literal[1] = FORMAT
    task: str
    rows: int = Field(ge=0)
    data: str | None = None
    model: str
    revision: str | None = None
    dtype: str
    prompt: str
    conditions: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_plain_first)]
    layers: Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(_rising)]
    heads: int = Field(ge=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    code: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)


def row_bytes(header: Header, columns: int, image_columns: int, thumbnails: Iterable[int] = ()) -> int:
    """Return how many bytes of disk a row takes at most.

    Args:
        header: The header of its folder.
        columns: The length of its prompt.
        image_columns: How many of the columns hold an image.
        thumbnails: The bytes of each picture's thumbnail.
    """
    weights = 2 * len(header.conditions) * len(header.layers) * header.heads * columns
    pictures = sum(size + 200 for size in thumbnails)  # with the tensors' names and shapes
    return weights + 5 * columns + 20 * image_columns + pictures + 1000


def tensors_of(record: Record) -> dict[str, NDArray[Any]]:
    """Return what is stored of a row, by name."""
    places = {"picture": record.places.picture, "box": record.places.box} if record.places else {}
    thumbnails = {
        f"thumbnails/{place}": np.frombuffer(content, np.uint8) for place, content in enumerate(record.thumbnails)
    }
    sizes = np.array(record.sizes, np.int32).reshape(-1, 2)
    arrays = {"weights": record.weights, "ids": record.ids, "image": record.image, **places, "sizes": sizes}
    # In the order of C: of a view, safetensors would write other numbers than those in it.
    return {name: np.asarray(array, order="C") for name, array in {**arrays, **thumbnails}.items()}


def record_of(doc_id: int, tensors: Mapping[str, NDArray[Any]]) -> Record:
    """Return the row that was stored as `tensors`."""
    thumbnails = [name for name in tensors if name.startswith("thumbnails/")]
    return Record(
        doc_id=doc_id,
        weights=tensors["weights"],
        ids=tensors["ids"],
        image=tensors["image"],
        places=Places(tensors["picture"], tensors["box"]) if "picture" in tensors else None,
        sizes=tuple((int(width), int(height)) for width, height in tensors["sizes"]),
        thumbnails=tuple(tensors[f"thumbnails/{place}"].tobytes() for place in range(len(thumbnails))),
    )


def check(record: Record, header: Header, where: str) -> None:
    """Refuse a row that does not have the form of the header, whether it is to be written or was read.

    Raises:
        AttentionError: Names the place, the row and the fault.
    """
    if (fault := next(_faults(record, header), None)) is not None:
        raise AttentionError(f"{where}, document {record.doc_id}: {fault}")


def _faults(record: Record, header: Header) -> Iterator[str]:
    if record.doc_id < 0:
        yield "a row's number is at least 0"
    arrays = tensors_of(record)
    for name, expected in _TYPES.items():
        if name in arrays and arrays[name].dtype != expected:
            yield f"{name} is {arrays[name].dtype}, not {expected}"
    columns = record.ids.size
    shapes = {
        "weights": (len(header.conditions), len(header.layers), header.heads, columns),
        "ids": (columns,),
        "image": (columns,),
        "picture": (images := int(record.image.sum()),),
        "box": (images, 4),
    }
    for name, shape in shapes.items():
        if name in arrays and arrays[name].shape != shape:
            yield f"{name} has the shape {arrays[name].shape}, where its header and prompt ask for {shape}"
    # As integers, the numbers of float16 from 0 to 1 are those up to that of 1: a hundred times faster to compare.
    if (wrong := record.weights.view(np.uint16) > np.float16(1).view(np.uint16)).any():
        condition, layer, head, column = np.argwhere(wrong)[0]
        yield (
            f"the weight of column {column} under condition {header.conditions[condition]!r} in layer "
            f"{header.layers[layer]}, head {head}, is {record.weights[condition, layer, head, column]}; "
            "weights are between 0 and 1"
        )
    if any(width < 1 or height < 1 for width, height in record.sizes):
        yield f"the sizes of the pictures are {record.sizes}; a picture has at least one pixel"
    if len(record.thumbnails) not in (0, len(record.sizes)):
        yield f"it has {len(record.thumbnails)} thumbnails of {len(record.sizes)} pictures"
    if record.places is not None:
        yield from _misplaced(record.places, len(record.sizes))


def _misplaced(places: Places, pictures: int) -> Iterator[str]:
    if ((places.picture < -1) | (places.picture >= pictures)).any():
        yield f"a column lies in a picture that is not there; there are {pictures}"
    box = places.box[places.picture >= 0]
    if not np.isfinite(box).all() or not np.isnan(places.box[places.picture < 0]).all():
        yield "a column with a picture has a box, one without a picture has none (NaN)"
    if (box[:, :2] > box[:, 2:]).any():
        yield "the box of a column has its left or top after its right or bottom"
