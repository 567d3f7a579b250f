"""Boxes by picture, in little memory: Visual Genome's file alone has millions of them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np

Drawn = tuple[str, float, float, float, float]
"""A label: its name, left, top, right, bottom."""


class Labels:
    """The boxes of a label file by picture, in the file's own units; filled with `add`, read with `of`.

    A picture is known by one or more keys, such as its file's name without the ending.

    Args:
        relative: Whether the units are shares of the picture's width and height, not pixels.
    """

    def __init__(self, relative: bool = False) -> None:
        self.relative = relative
        self._pictures: dict[str, int] = {}
        self._sizes: list[tuple[float, float] | None] = []
        self._names: dict[str, int] = {}
        self._picture, self._name, self._box = array("i"), array("i"), array("f")
        self._order: Any = None

    def picture(self, *keys: str, size: tuple[float, float] | None = None) -> int:
        """Add a picture, which may have no boxes, and return its number.

        Args:
            *keys: What it is known by. A key that another picture already has stays that one's.
            size: Its width and height in the file's pixels; None if unknown.
        """
        number = len(self._sizes)
        self._sizes.append(size)
        for key in keys:
            self._pictures.setdefault(key, number)
        return number

    def add(self, picture: int, name: str, left: float, top: float, width: float, height: float) -> None:
        """Add a box. One without an area covers nothing, and is left out."""
        if width > 0 and height > 0:
            self._picture.append(picture)
            self._name.append(self._names.setdefault(name, len(self._names)))
            self._box.extend((left, top, left + width, top + height))

    def __contains__(self, key: object) -> bool:
        return key in self._pictures

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[str]:
        """Go through what the pictures are known by."""
        return iter(self._pictures)

    def size(self, key: str) -> tuple[float, float] | None:
        """Return a picture's width and height in the file's pixels; None if the file does not say."""
        return self._sizes[self._pictures[key]]

    def of(self, key: str) -> list[Drawn]:
        """Return the boxes of a picture, in the file's units and order."""
        if self._order is None:
            pictures = np.frombuffer(self._picture, np.int32) if self._picture else np.empty(0, np.int32)
            order = np.argsort(pictures, kind="stable")
            self._texts = [*self._names]
            self._order = order, pictures[order]
        order, pictures = self._order
        first, last = (np.searchsorted(pictures, self._pictures[key], side) for side in ("left", "right"))
        return [self._drawn(int(row)) for row in order[first:last]]

    def _drawn(self, row: int) -> Drawn:
        left, top, right, bottom = self._box[4 * row : 4 * row + 4]
        return self._texts[self._name[row]], left, top, right, bottom


def numbers(values: Any, count: int) -> list[float]:
    """Return a list of finite numbers from a file.

    Raises:
        ValueError: If it is not one.
    """
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) for value in values
        )
    ):
        raise ValueError(f"{values!r} is not {count} numbers")
    return values
