"""Which point of which picture each value of a processor's output shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from adaptvis_plugin.attention.record import UnmappedError

Size = tuple[int, int]
Encode = Callable[[list[Image.Image]], dict[str, Any]]


@dataclass(frozen=True)
class Coordinates:
    """Where the values of the pixel tensors come from.

    Attributes:
        inputs: The processor's whole output, with noise in the place of pictures.
        names: The tensors among them that hold pixels.
        inside: Which of their values show a picture, and not padding. The tensors are flattened and joined.
        picture: The number of the picture that each value shows.
        x: Its place from the left (0) to the right (1); 0 for padding.
        y: Its place from the top (0) to the bottom (1); 0 for padding.
    """

    inputs: dict[str, Any]
    names: tuple[str, ...]
    inside: NDArray[np.bool_]
    picture: NDArray[np.int32]
    x: NDArray[np.float32]
    y: NDArray[np.float32]


def read_coordinates(encode: Encode, sizes: Sequence[Size]) -> Coordinates:
    """Find out what a processor does to pictures of some sizes.

    It is given pictures that are black, white, brighter from left to right, brighter from top to bottom, and of another
    grey each. All are grey, so the order of the colours does not matter. A value that is the same in black and white is
    padding. For the others, black and white say how a brightness is read from it.

    Args:
        encode: Runs the processor on the pictures of one prompt.
        sizes: Width and height of each picture.

    Raises:
        UnmappedError: If the processor lays out a picture by what it shows, or gives the same for black and white.
    """
    black, white = (encode([Image.new("RGB", size, shade) for size in sizes]) for shade in ("black", "white"))
    across = encode([_ramp(size) for size in sizes])
    down = encode([_ramp((height, width)).transpose(Image.Transpose.TRANSPOSE) for width, height in sizes])
    encoded = [black, white, across, down]
    greys = np.linspace(0, 255, len(sizes)).round().astype(int).tolist()
    if len(sizes) > 1:
        encoded.append(encode([Image.new("RGB", size, (shade,) * 3) for size, shade in zip(sizes, greys, strict=True)]))
    names = _pixels(black, white)
    _check_same_layout(encoded, names)

    low, high = _joined(black, names), _joined(white, names)
    inside = low != high
    span = np.where(inside, high - low, 1)
    x, y, *grey = ((_joined(each, names) - low) / span for each in encoded[2:])
    number = (grey[0] * (len(sizes) - 1)).round().astype(np.int32) if grey else np.zeros(len(x), np.int32)
    random = torch.Generator().manual_seed(0)
    noise = {
        name: black[name] + (white[name] - black[name]) * torch.rand(black[name].shape, generator=random)
        for name in names
    }
    return Coordinates(
        inputs={**black, **noise},
        names=names,
        inside=inside,
        picture=np.where(inside, number, -1).astype(np.int32),
        x=np.where(inside, x, 0).clip(0, 1).astype(np.float32),
        y=np.where(inside, y, 0).clip(0, 1).astype(np.float32),
    )


def _ramp(size: Size) -> Image.Image:
    """Return a picture that is brighter from left to right."""
    width, height = size
    row = ((np.arange(width) + 0.5) / width * 255).round().astype(np.uint8)
    return Image.fromarray(np.broadcast_to(row[None, :, None], (height, width, 3)).copy())


def _pixels(black: dict[str, Any], white: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the tensors that depend on what a picture shows."""
    return tuple(
        name
        for name, value in black.items()
        if isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and isinstance(white.get(name), torch.Tensor)
        and (value.shape != white[name].shape or not torch.equal(value, white[name]))
    )


def _check_same_layout(encoded: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    first = encoded[0]
    if not names:
        raise UnmappedError("its processor gives the same pixels for a black picture and a white one")
    for other in encoded[1:]:
        for name, value in first.items():
            if not isinstance(value, torch.Tensor):
                continue
            same = value.shape == other[name].shape and (name in names or torch.equal(value, other[name]))
            if not same:
                raise UnmappedError(f"its processor lays out a picture by what it shows ({name} differs)")


def _joined(encoded: dict[str, Any], names: Sequence[str]) -> NDArray[np.float32]:
    return np.concatenate([encoded[name].float().flatten().numpy() for name in names])
