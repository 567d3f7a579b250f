"""Areas of a picture: which part of an image column lies inside boxes, and attention laid over the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from adaptvis_plugin.attention.record import Places


class Rectangle(Protocol):
    """A box in pixels of the picture as it was given to the processor; such as a `boxes.Box`."""

    @property
    def left(self) -> float:
        """The left end."""

    @property
    def top(self) -> float:
        """The upper end."""

    @property
    def right(self) -> float:
        """The right end."""

    @property
    def bottom(self) -> float:
        """The lower end."""


def placed(places: Places, picture: int = 0) -> NDArray[np.bool_]:
    """Return which image columns stand for an area of the picture, shape (image columns,)."""
    left, top, right, bottom = places.box.T
    found: NDArray[np.bool_] = (places.picture == picture) & (left < right) & (top < bottom)  # NaN: no place
    return found


def inside(places: Places, boxes: Sequence[Rectangle], picture: int = 0) -> NDArray[np.float64]:
    """Return which part of each image column's area lies inside at least one of the boxes.

    Args:
        places: Where the columns lie.
        boxes: Boxes in one picture, which may overlap.
        picture: The number of the picture.

    Returns:
        Shape (image columns,); 0 for a column that stands for no area of the picture.
    """
    sides = np.array([(box.left, box.top, box.right, box.bottom) for box in boxes], float).reshape(-1, 4)
    sides = sides[(sides[:, 0] < sides[:, 2]) & (sides[:, 1] < sides[:, 3])]
    found = np.zeros(len(places.box))
    if not len(sides):
        return found
    # The sides of all boxes cut the plane into cells, each of which lies wholly inside or outside of every box.
    across, down = np.unique(sides[:, [0, 2]]), np.unique(sides[:, [1, 3]])
    in_x = (sides[:, [0]] <= across[:-1]) & (across[:-1] < sides[:, [2]])
    in_y = (sides[:, [1]] <= down[:-1]) & (down[:-1] < sides[:, [3]])
    covered = np.einsum("bx,by->xy", in_x.astype(float), in_y.astype(float)) > 0
    own = placed(places, picture)
    left, top, right, bottom = places.box[own].astype(float).T
    widths, heights = _shared(left, right, across), _shared(top, bottom, down)
    found[own] = ((widths @ covered) * heights).sum(1) / ((right - left) * (bottom - top))
    return found


def _shared(low: NDArray[np.float64], high: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the length that each interval shares with each piece between two edges, shape (intervals, pieces)."""
    shared = np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1])
    return shared.clip(0)


def pixel_map(
    places: Places, weights: NDArray[np.floating], size: tuple[int, int], picture: int = 0
) -> NDArray[np.float32]:
    """Spread the attention of the image columns over the pixels of a picture.

    Each column's weight is spread evenly over its area; a pixel at its edge gets what falls on it, and the parts of
    columns over the same pixel are added. So the map adds up to the weight of the columns that have a place.

    Args:
        places: Where the columns lie.
        weights: The attention of each image column, shape (image columns,).
        size: Width and height of the picture. What lies outside of it is cut off.
        picture: The number of the picture.

    Returns:
        Attention per pixel, shape (height, width).
    """
    width, height = size
    own = placed(places, picture)
    left, top, right, bottom = places.box[own].astype(float).T
    density = weights[own].astype(float) / ((right - left) * (bottom - top))
    columns, steps_x = _steps(left, right, width)
    rows, steps_y = _steps(top, bottom, height)
    changes = np.zeros((height + 2, width + 2))
    np.add.at(
        changes, (rows[:, :, None], columns[:, None]), (density[:, None] * steps_y)[:, :, None] * steps_x[:, None]
    )
    found = changes.cumsum(0).cumsum(1)[:height, :width]
    return found.clip(0).astype(np.float32)  # sums of steps up and down may end a little below 0


def _steps(
    low: NDArray[np.float64], high: NDArray[np.float64], pixels: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return where the part of a pixel that lies in an interval changes from one pixel to the next, and by how much.

    An interval from 1.25 to 4.5 has the parts 0, 0.75, 1, 1, 0.5, 0: the steps 0.75, 0.25, -0.5, -0.5 at the pixels 1,
    2, 4 and 5.

    Returns:
        Each of shape (intervals, 4).
    """
    ends = np.clip(np.stack([low, high], 1), 0, pixels)
    whole = np.floor(ends)
    rest = ends - whole
    first, last = whole.astype(np.intp).T
    steps = np.stack([1 - rest[:, 0], rest[:, 0], rest[:, 1] - 1, -rest[:, 1]], 1)
    return np.stack([first, first + 1, last, last + 1], 1), steps
