"""A small drawing kit on top of Pillow: colours, and outlined shapes in the units of a box."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

INK: Colour = (45, 40, 45)
WHITE: Colour = (248, 246, 240)
RED: Colour = (208, 48, 44)
BLUE: Colour = (52, 96, 190)
GREEN: Colour = (58, 140, 72)
YELLOW: Colour = (242, 198, 48)
ORANGE: Colour = (236, 130, 40)
PURPLE: Colour = (128, 76, 168)
TEAL: Colour = (36, 150, 152)
PINK: Colour = (234, 132, 168)
BROWN: Colour = (134, 84, 48)
BRIGHT = (RED, BLUE, GREEN, PURPLE, TEAL, ORANGE)


def shade(colour: Colour, factor: float) -> Colour:
    """Return the colour, darker (factor < 1) or lighter (factor > 1)."""
    if factor <= 1:
        return tuple(int(c * factor) for c in colour)  # type: ignore[return-value]
    return tuple(int(255 - (255 - c) * (2 - factor)) for c in colour)  # type: ignore[return-value]


class Drawing:
    """A box of the picture, 100 units wide and high, in which outlined shapes are drawn."""

    def __init__(self, draw: ImageDraw.ImageDraw, left: float, top: float, width: float, height: float, edge: float):
        """Place the box. All arguments are in pixels of the supersampled picture; ``edge`` is the outlines' width."""
        self.draw, self.left, self.top = draw, left, top
        self.x_unit, self.y_unit, self.edge = width / 100, height / 100, max(1, round(edge))

    def _at(self, x: float, y: float) -> Point:
        return self.left + x * self.x_unit, self.top + y * self.y_unit

    def _corners(self, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        return (*self._at(x0, y0), *self._at(x1, y1))

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, round_by: float = 0,
            outlined: bool = True) -> None:  # fmt: skip
        """Draw an upright rectangle with its corners rounded by ``round_by`` units."""
        edge = shade(fill, 0.55) if outlined else None
        self.draw.rounded_rectangle(self._corners(x0, y0, x1, y1), round_by * self.x_unit, fill, edge, self.edge)

    def oval(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, outlined: bool = True) -> None:
        """Draw an ellipse between the given corners."""
        edge = shade(fill, 0.55) if outlined else None
        self.draw.ellipse(self._corners(x0, y0, x1, y1), fill, edge, self.edge)

    def wedge(self, x0: float, y0: float, x1: float, y1: float, start: float, end: float, fill: Colour) -> None:
        """Draw a slice of an ellipse without an outline. The angles run clockwise from three o'clock."""
        self.draw.pieslice(self._corners(x0, y0, x1, y1), start, end, fill)

    def dome(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        """Draw the upper half of an ellipse; y1 is the ellipse's bottom, not the dome's."""
        self.draw.chord(self._corners(x0, y0, x1, y1), 180, 360, fill, shade(fill, 0.55), self.edge)

    def poly(self, points: Sequence[Point], fill: Colour) -> None:
        """Draw a closed polygon."""
        corners = [self._at(*point) for point in points]
        self.draw.polygon(corners, fill)
        self.draw.line([*corners, corners[0]], shade(fill, 0.55), self.edge, joint="curve")

    def line(self, points: Sequence[Point], fill: Colour, width: float = 4) -> None:
        """Draw a stroke; ``width`` is in units."""
        pixels = max(1, round(width * self.x_unit))
        self.draw.line([self._at(*point) for point in points], fill, pixels, joint="curve")

    def arc(self, x0: float, y0: float, x1: float, y1: float, start: float, end: float, fill: Colour,
            width: float = 4) -> None:  # fmt: skip
        """Draw a curved stroke from ``start`` to ``end`` degrees, clockwise from three o'clock."""
        self.draw.arc(self._corners(x0, y0, x1, y1), start, end, fill, max(1, round(width * self.x_unit)))
