"""The furniture of the demo scenes: what the small objects stand beside, on or under.

Drawn like the objects of ``sprites``, in a box of 100 x 100 units. Each piece says where there
is room for things on and under it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from adaptvis_plugin.data.demo.drawing import Colour, Pen, shade

WOODS: tuple[Colour, ...] = ((150, 98, 56), (184, 132, 80), (112, 70, 44), (206, 168, 118))
FABRICS: tuple[Colour, ...] = ((72, 104, 140), (150, 70, 66), (96, 122, 84), (120, 96, 140), (196, 150, 84))


def _table(p: Pen, c: Colour) -> None:
    for x in (18, 76):
        p.box(x, 12, x + 6, 88, shade(c, 0.65))
    p.box(5, 14, 95, 26, shade(c, 0.85))
    for x in (5, 87):
        p.box(x, 14, x + 8, 100, c)
    p.box(0, 3, 100, 15, shade(c, 1.15), 2)


def _chair(p: Pen, c: Colour) -> None:
    for x in (14, 78):
        p.box(x, 52, x + 8, 92, shade(c, 0.65))
    for x in (8, 82):
        p.box(x, 0, x + 10, 56, shade(c, 0.9), 3)
    for y in (3, 20, 36):
        p.box(10, y, 90, y + 10, c, 2)
    p.box(0, 50, 100, 60, shade(c, 1.15), 3)
    for x in (3, 86):
        p.box(x, 59, x + 11, 100, c)


def _armchair(p: Pen, c: Colour) -> None:
    for x in (10, 84):
        p.box(x, 56, x + 6, 100, (104, 66, 40))
    p.box(10, 0, 90, 60, shade(c, 0.85), 14)
    p.line([(50, 6), (50, 44)], shade(c, 0.7), 1.5)
    p.box(14, 44, 86, 56, shade(c, 1.2), 5)
    p.box(8, 53, 92, 64, c, 3)
    for x in (0, 83):
        p.box(x, 28, x + 17, 66, c, 7)
        p.oval(x + 1, 25, x + 16, 41, shade(c, 1.15))


def _stool(p: Pen, c: Colour) -> None:
    p.poly([(30, 10), (38, 10), (36, 90), (28, 90)], shade(c, 0.6))
    p.poly([(62, 10), (70, 10), (72, 90), (64, 90)], shade(c, 0.6))
    p.poly([(12, 10), (23, 10), (11, 100), (0, 100)], c)
    p.poly([(77, 10), (88, 10), (100, 100), (89, 100)], c)
    p.box(7, 15, 93, 22, shade(c, 0.8))
    p.oval(4, 0, 96, 18, shade(c, 1.15))


def _bench(p: Pen, c: Colour) -> None:
    for x in (6, 46, 86):
        p.box(x, 0, x + 7, 62, (74, 74, 80))
    for y in (2, 17, 32):
        p.box(0, y, 100, y + 11, c, 2)
    p.box(0, 50, 100, 60, shade(c, 1.15), 2)
    for x in (4, 88):
        p.box(x, 59, x + 8, 100, (74, 74, 80))


def _bed(p: Pen, c: Colour) -> None:
    p.box(0, 0, 8, 100, (140, 92, 56), 2)
    p.box(93, 26, 100, 100, (140, 92, 56), 2)
    p.box(6, 48, 95, 56, (160, 108, 66))
    p.box(7, 33, 94, 49, (240, 238, 232), 3)
    p.box(34, 32, 94, 53, c, 3)
    p.box(34, 32, 42, 53, shade(c, 1.4), 1)
    p.box(9, 21, 32, 35, (250, 250, 250), 5)


@dataclass(frozen=True)
class Piece:
    """How a piece of furniture is drawn and where there is room.

    ``width`` and ``height`` are relative to the scene's unit. In the box's own units, ``surface`` is the y on
    which things on it stand, ``ceiling`` the y below which there is air, ``on`` and ``under`` the parts of
    x where there is room.
    """

    draw: Callable[[Pen, Colour], None]
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
