"""The area of a picture that each image column of a prompt stands for."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from transformers import ProcessorMixin

from adaptvis_plugin.attention.columns.coordinates import Coordinates, Size, read_coordinates
from adaptvis_plugin.attention.columns.dependence import Dependence, find_dependence
from adaptvis_plugin.attention.columns.local import patches_apart, text_decoder_input
from adaptvis_plugin.attention.record import Places, UnmappedError
from adaptvis_plugin.decoding.inspection import image_token_id, unwrapped
from adaptvis_plugin.models.prompts import chat_text, encode, image_placeholder

_SIZES = 512  # prompts whose places are remembered
_LAYOUTS = 16  # layouts whose dependence is remembered; some take tens of megabytes
_MOST_COVERED = 5  # how often columns may cover a picture: overview, tiles, and overlaps

T = TypeVar("T")


class ColumnMapper:
    """Maps the image columns of a model's prompts to its pictures.

    A prompt's places depend on the sizes of its pictures only, so they are found once for each. What the model does is
    found once for each layout: for a model that takes squares of one size, once at all.

    Use it in the thread that runs the model, and not while that generates.

    Args:
        model: The model.
        processor: Its processor, as `load_model` returns it.

    Raises:
        ValueError: If it is no model of transformers.
    """

    def __init__(self, model: nn.Module, processor: ProcessorMixin) -> None:
        self._model = unwrapped(model)
        self._processor = processor
        self._image_token = image_token_id(self._model.config)
        self._places: OrderedDict[Hashable, Places | str] = OrderedDict()
        self._dependence: OrderedDict[Hashable, Dependence] = OrderedDict()

    def places(self, images: Sequence[Image.Image], columns: int | None = None) -> Places:
        """Return the places of all image columns of one prompt.

        Args:
            images: The prompt's pictures, in its order, as they are given to the processor. Only their sizes count.
            columns: How many image columns the prompt has, if that is known.

        Raises:
            UnmappedError: If the columns cannot be mapped, or are not as many. The message says why.
        """
        sizes = tuple(image.size for image in images)
        found = _remembered(self._places, sizes, lambda: self._found(sizes), _SIZES)
        if isinstance(found, str):
            raise UnmappedError(found)
        if columns is not None and len(found.picture) != columns:
            raise UnmappedError(f"{len(found.picture)} image columns were found, and the prompt has {columns}")
        return found

    def _found(self, sizes: tuple[Size, ...]) -> Places | str:
        try:
            return self._find(sizes)
        except UnmappedError as error:
            return f"{type(self._model).__name__}: its image columns cannot be laid over the picture: {error}"

    def _find(self, sizes: tuple[Size, ...]) -> Places:
        if not sizes:
            return Places(np.empty(0, np.int32), np.empty((0, 4), np.float32))
        coordinates = read_coordinates(self._encode, sizes)
        layout = _layout(coordinates)
        dependence = _remembered(self._dependence, layout, lambda: self._depends(coordinates), _LAYOUTS)
        return _places(coordinates, dependence, sizes)

    def _encode(self, images: list[Image.Image]) -> dict[str, Any]:
        """Return the processor's output for a prompt with these pictures."""
        if getattr(self._processor, "chat_template", None):
            content = [*({"type": "image"} for _ in images), {"type": "text", "text": "?"}]
            text = chat_text(self._processor, [{"role": "user", "content": content}])
        else:
            text = f"{image_placeholder(self._processor) or ''}?" * len(images)
        encoded = dict(encode(self._processor, [text], [images]))
        return {name: value for name, value in encoded.items() if name != "labels"}  # PaliGemma's, for training

    def _depends(self, coordinates: Coordinates) -> Dependence:
        """Find out what the columns are made from in the layout of these inputs."""
        columns = coordinates.inputs["input_ids"][0] == self._image_token
        with torch.inference_mode(False), torch.enable_grad(), patches_apart(self._model):
            inputs = {
                name: value.to(self._model.device, self._model.dtype if value.is_floating_point() else None)
                if isinstance(value, torch.Tensor)
                else value
                for name, value in coordinates.inputs.items()
            }
            pixels = [inputs[name].clone().requires_grad_() for name in coordinates.names]
            inputs.update(zip(coordinates.names, pixels, strict=True))
            embeddings = text_decoder_input(self._model, inputs)
            return find_dependence(embeddings[0, columns.to(embeddings.device)], pixels)


def _remembered(known: OrderedDict[Hashable, T], key: Hashable, find: Callable[[], T], most: int) -> T:
    """Return what is known, or find it out; forget what was not used for the longest time."""
    if key not in known:
        known[key] = find()
        if len(known) > most:
            known.popitem(last=False)
    known.move_to_end(key)
    return known[key]


def _layout(coordinates: Coordinates) -> str:
    """Return what is the same for inputs that differ only in what the pictures show."""
    sums = hashlib.sha256(np.packbits(coordinates.inside).tobytes())
    for name, value in sorted(coordinates.inputs.items()):
        if isinstance(value, torch.Tensor):
            sums.update(f"{name} {tuple(value.shape)}".encode())
            if name not in coordinates.names:
                sums.update(value.numpy().tobytes())
        else:
            sums.update(f"{name} {value}".encode())
    return sums.hexdigest()


def _places(coordinates: Coordinates, dependence: Dependence, sizes: Sequence[Size]) -> Places:
    """Join where pixel values come from with which columns are made from them."""
    weights, inside = dependence.weights, coordinates.inside.astype(np.float32)
    total = weights @ inside
    placed = total > 0
    total = np.where(placed, total, 1)

    def mean(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(weights @ (values.astype(np.float64) * inside) / total)

    number = mean(coordinates.picture)
    if (mean(coordinates.picture.astype(np.float64) ** 2) - number**2)[placed].max(initial=0) > 1e-3:
        raise UnmappedError("some of them are made from several pictures")
    picture = np.where(placed, number.round(), -1).astype(np.int32)
    box = np.full((len(placed), 4), np.nan)
    for side, (values, axis) in enumerate(((coordinates.x, 0), (coordinates.y, 1))):
        extent = np.array([size[axis] for size in sizes])[picture]
        centre = mean(values)
        # Values that are spread evenly from a to b have the standard deviation (b - a) / sqrt(12).
        half = np.sqrt(3 * np.maximum(mean(values.astype(np.float64) ** 2) - centre**2, 0))
        half = np.maximum(half, 0.5 / extent)  # a single row of pixels is not nothing
        box[:, side] = (centre - half).clip(0, 1) * extent
        box[:, side + 2] = (centre + half).clip(0, 1) * extent
    box[~placed] = np.nan
    _check(picture, box, sizes)
    return Places(picture, box.astype(np.float32))


def _check(picture: NDArray[np.int32], box: NDArray[np.float64], sizes: Sequence[Size]) -> None:
    """Check that the columns are places in the pictures."""
    for number, (width, height) in enumerate(sizes):
        own = box[picture == number]
        if not len(own):
            raise UnmappedError(
                "none is made from pixels of its own; each sees the whole picture (a resampler), or nothing of it"
            )
        share = (own[:, 2] - own[:, 0]) * (own[:, 3] - own[:, 1]) / (width * height)
        if share.sum() > _MOST_COVERED:
            raise UnmappedError("each is made from places far apart")
