"""The furniture of the demo scenes. The small objects stand beside, on or under it.

It is drawn like the `objects`, in a box of 100 x 100 units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from adaptvis_plugin.data.demo.drawing import Colour, Drawing, shade

WOODS: tuple[Colour, ...] = ((150, 98, 56), (184, 132, 80), (112, 70, 44), (206, 168, 118))
FABRICS: tuple[Colour, ...] = ((72, 104, 140), (150, 70, 66), (96, 122, 84), (120, 96, 140), (196, 150, 84))


def _table(d: Drawing, c: Colour) -> None:
    for x in (18, 76):
        d.box(x, 12, x + 6, 88, shade(c, 0.65))
    d.box(5, 14, 95, 26, shade(c, 0.85))
    for x in (5, 87):
        d.box(x, 14, x + 8, 100, c)
    d.box(0, 3, 100, 15, shade(c, 1.15), 2)


def _chair(d: Drawing, c: Colour) -> None:
    for x in (14, 78):
        d.box(x, 52, x + 8, 92, shade(c, 0.65))
    for x in (8, 82):
        d.box(x, 0, x + 10, 56, shade(c, 0.9), 3)
    for y in (3, 20, 36):
        d.box(10, y, 90, y + 10, c, 2)
    d.box(0, 50, 100, 60, shade(c, 1.15), 3)
    for x in (3, 86):
        d.box(x, 59, x + 11, 100, c)


def _armchair(d: Drawing, c: Colour) -> None:
    for x in (10, 84):
        d.box(x, 56, x + 6, 100, (104, 66, 40))
    d.box(10, 0, 90, 60, shade(c, 0.85), 14)
    d.line([(50, 6), (50, 44)], shade(c, 0.7), 1.5)
    d.box(14, 44, 86, 56, shade(c, 1.2), 5)
    d.box(8, 53, 92, 64, c, 3)
    for x in (0, 83):
        d.box(x, 28, x + 17, 66, c, 7)
        d.oval(x + 1, 25, x + 16, 41, shade(c, 1.15))


def _stool(d: Drawing, c: Colour) -> None:
    d.poly([(30, 10), (38, 10), (36, 90), (28, 90)], shade(c, 0.6))
    d.poly([(62, 10), (70, 10), (72, 90), (64, 90)], shade(c, 0.6))
    d.poly([(12, 10), (23, 10), (11, 100), (0, 100)], c)
    d.poly([(77, 10), (88, 10), (100, 100), (89, 100)], c)
    d.box(7, 15, 93, 22, shade(c, 0.8))
    d.oval(4, 0, 96, 18, shade(c, 1.15))


def _bench(d: Drawing, c: Colour) -> None:
    for x in (6, 46, 86):
        d.box(x, 0, x + 7, 62, (74, 74, 80))
    for y in (2, 17, 32):
        d.box(0, y, 100, y + 11, c, 2)
    d.box(0, 50, 100, 60, shade(c, 1.15), 2)
    for x in (4, 88):
        d.box(x, 59, x + 8, 100, (74, 74, 80))


def _bed(d: Drawing, c: Colour) -> None:
    d.box(0, 0, 8, 100, (140, 92, 56), 2)
    d.box(93, 26, 100, 100, (140, 92, 56), 2)
    d.box(6, 48, 95, 56, (160, 108, 66))
    d.box(7, 33, 94, 49, (240, 238, 232), 3)
    d.box(34, 32, 94, 53, c, 3)
    d.box(34, 32, 42, 53, shade(c, 1.4), 1)
    d.box(9, 21, 32, 35, (250, 250, 250), 5)


@dataclass(frozen=True)
class Piece:
    """How a piece of furniture is drawn, and where there is room for objects.

    Attributes:
        draw: Draws it in a colour.
        width: Its width in the scene's units.
        height: Its height in the scene's units.
        surface: The y of its surface, in units of its box.
        ceiling: The y below which there is room under it, in units of its box.
        on: The range of x with room on it, in units of its box.
        under: The range of x with room under it, in units of its box.
        colours: The colours it may have.
    """

    draw: Callable[[Drawing, Colour], None]
    width: float
    height: float
    surface: float
    ceiling: float
    on: tuple[float, float]
    under: tuple[float, float]
    colours: tuple[Colour, ...]


REFERENCES: dict[str, Piece] = {
    "table": Piece(_table, 2.15, 1.56, 10, 27, (2, 98), (14, 86), WOODS),
    "chair": Piece(_chair, 1.68, 2.72, 55, 61, (4, 96), (14, 86), WOODS),
    "armchair": Piece(_armchair, 2.1, 2.42, 53, 65, (18, 82), (16, 84), FABRICS),
    "stool": Piece(_stool, 1.72, 1.52, 10, 23, (12, 88), (14, 86), (*WOODS, (190, 66, 58), (70, 120, 170))),
    "bench": Piece(_bench, 2.3, 2.6, 55, 61, (2, 98), (13, 87), (*WOODS, (80, 126, 84))),
    "bed": Piece(_bed, 2.45, 2.3, 40, 57, (32, 94), (9, 92), FABRICS),
}
