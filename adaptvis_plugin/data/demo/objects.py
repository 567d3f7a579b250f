"""The small everyday objects of the demo scenes, drawn with Pillow.

Every object is a function that draws it into a box of 100 x 100 units in a main colour chosen by the caller. The object
stands at y = 100, because y grows downwards. ``OBJECTS`` lists them with their sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from adaptvis_plugin.data.demo.drawing import (
    BLUE,
    BRIGHT,
    BROWN,
    GREEN,
    INK,
    ORANGE,
    PINK,
    PURPLE,
    RED,
    TEAL,
    WHITE,
    YELLOW,
    Colour,
    Drawing,
    shade,
)


def _mug(d: Drawing, c: Colour) -> None:
    d.arc(55, 22, 100, 78, 270, 90, shade(c, 0.55), 15)
    d.arc(57, 25, 97, 75, 270, 90, c, 9)
    d.poly([(4, 10), (76, 10), (73, 100), (8, 100)], c)
    d.box(12, 20, 20, 88, shade(c, 1.45), 3)
    d.oval(4, 0, 76, 22, shade(c, 1.3))
    d.oval(12, 5, 68, 18, (92, 56, 32))


def _apple(d: Drawing, c: Colour) -> None:
    d.oval(4, 22, 62, 98, c)
    d.oval(38, 22, 96, 98, c)
    d.oval(14, 26, 86, 99, c, outlined=False)
    d.oval(16, 36, 30, 58, shade(c, 1.6))
    d.line([(50, 32), (52, 14), (58, 2)], BROWN, 7)
    d.poly([(56, 18), (70, 4), (90, 6), (76, 18)], GREEN)


def _banana(d: Drawing, c: Colour) -> None:
    d.poly([(4, 24), (11, 18), (26, 46), (50, 60), (74, 52), (88, 28), (90, 6), (98, 6), (99, 34),
            (90, 70), (68, 92), (42, 96), (20, 76)], c)  # fmt: skip
    d.line([(14, 40), (30, 66), (52, 76), (76, 68), (92, 40)], shade(c, 0.8), 3)
    d.box(88, 0, 99, 12, BROWN)
    d.poly([(2, 24), (10, 16), (14, 26), (8, 34)], BROWN)


def _ball(d: Drawing, c: Colour) -> None:
    d.oval(1, 1, 99, 99, WHITE)
    d.wedge(3, 3, 97, 97, 200, 260, c)
    d.wedge(3, 3, 97, 97, 320, 20, YELLOW)
    d.wedge(3, 3, 97, 97, 80, 140, BLUE if c != BLUE else RED)
    d.oval(38, 38, 62, 62, WHITE)


def _book(d: Drawing, c: Colour) -> None:
    d.poly([(50, 22), (94, 8), (98, 88), (50, 100), (2, 88), (6, 8)], c)
    d.poly([(50, 24), (36, 8), (9, 4), (6, 80), (34, 82), (50, 94)], WHITE)
    d.poly([(50, 24), (64, 8), (91, 4), (94, 80), (66, 82), (50, 94)], WHITE)
    for y in (24, 40, 56):
        d.line([(14, y - 2), (32, y), (43, y + 9)], (120, 120, 130), 3)
        d.line([(86, y - 2), (68, y), (57, y + 9)], (120, 120, 130), 3)


def _bottle(d: Drawing, c: Colour) -> None:
    d.poly([(34, 10), (66, 10), (66, 32), (96, 50), (96, 100), (4, 100), (4, 50), (34, 32)], c)
    d.box(28, 0, 72, 12, shade(RED, 0.8), 6)
    d.box(4, 56, 96, 86, WHITE)
    d.line([(24, 66), (76, 66)], c, 8)
    d.line([(34, 76), (66, 76)], c, 8)
    d.line([(22, 48), (44, 34)], shade(c, 1.6), 9)


def _candle(d: Drawing, c: Colour) -> None:
    d.box(2, 86, 98, 100, (196, 160, 70), 10)
    d.box(28, 36, 72, 90, c, 4)
    d.poly([(28, 36), (72, 36), (72, 52), (62, 44), (52, 58), (42, 44), (28, 48)], shade(c, 1.4))
    d.line([(50, 36), (50, 26)], INK, 8)
    d.poly([(50, 0), (66, 18), (60, 30), (40, 30), (34, 18)], (250, 150, 40))
    d.poly([(50, 13), (57, 22), (54, 29), (46, 29), (43, 22)], (255, 236, 130))


def _cap(d: Drawing, c: Colour) -> None:
    d.dome(2, 10, 72, 170, c)
    d.poly([(34, 76), (70, 62), (92, 68), (100, 86), (92, 98), (64, 92), (4, 92)], shade(c, 0.7))
    d.arc(22, 12, 52, 170, 180, 270, shade(c, 0.6), 3)
    d.arc(16, 12, 62, 170, 270, 350, shade(c, 0.6), 3)
    d.oval(31, 4, 43, 18, shade(c, 0.7))


def _clock(d: Drawing, c: Colour) -> None:
    d.line([(26, 82), (14, 98)], shade(c, 0.55), 10)
    d.line([(74, 82), (86, 98)], shade(c, 0.55), 10)
    d.oval(8, 0, 44, 32, c)
    d.oval(56, 0, 92, 32, c)
    d.oval(4, 10, 96, 94, c)
    d.oval(15, 20, 85, 84, WHITE)
    for x0, y0, x1, y1 in ((50, 24, 50, 32), (50, 72, 50, 80), (20, 52, 28, 52), (72, 52, 80, 52)):
        d.line([(x0, y0), (x1, y1)], INK, 4)
    d.line([(50, 34), (50, 53), (68, 62)], INK, 6)


def _lamp(d: Drawing, c: Colour) -> None:
    d.oval(20, 88, 80, 101, (110, 90, 80))
    d.box(44, 48, 56, 94, (150, 120, 90))
    d.poly([(26, 0), (74, 0), (100, 54), (0, 54)], c)
    d.poly([(34, 4), (50, 4), (44, 50), (14, 50)], shade(c, 1.5))
    d.line([(2, 53), (98, 53)], (255, 240, 170), 7)


def _shoe(d: Drawing, c: Colour) -> None:
    d.poly([(4, 10), (36, 10), (48, 38), (74, 52), (96, 60), (99, 86), (3, 86)], c)
    d.box(1, 82, 100, 100, WHITE, 6)
    d.poly([(4, 10), (36, 10), (38, 20), (5, 22)], shade(c, 0.6))
    d.poly([(78, 54), (96, 60), (99, 82), (80, 82)], WHITE)
    for x, y in ((42, 34), (51, 44), (61, 50)):
        d.line([(x - 6, y + 16), (x + 6, y)], WHITE, 5)


def _vase(d: Drawing, c: Colour) -> None:
    for x, y, bloom in ((18, 14, RED), (50, 8, YELLOW), (82, 16, PINK)):
        d.line([(50, 60), (x, y)], GREEN, 6)
        d.oval(x - 17, y - 9, x + 17, y + 15, bloom)
        d.oval(x - 6, y - 1, x + 6, y + 7, ORANGE if bloom != YELLOW else BROWN)
    d.poly([(32, 44), (68, 44), (62, 56), (84, 72), (80, 90), (66, 100),
            (34, 100), (20, 90), (16, 72), (38, 56)], c)  # fmt: skip
    d.line([(20, 76), (80, 76)], WHITE, 6)


def _teddy_bear(d: Drawing, c: Colour) -> None:
    for x in (10, 64):
        d.oval(x, 0, x + 26, 22, c)
    d.oval(2, 46, 34, 72, c)
    d.oval(66, 46, 98, 72, c)
    d.oval(18, 42, 82, 98, c)
    d.oval(32, 54, 68, 88, shade(c, 1.45))
    d.oval(4, 78, 38, 100, shade(c, 1.2))
    d.oval(62, 78, 96, 100, shade(c, 1.2))
    d.oval(16, 4, 84, 52, c)
    d.oval(34, 28, 66, 50, shade(c, 1.5))
    d.oval(32, 18, 41, 28, INK)
    d.oval(59, 18, 68, 28, INK)
    d.oval(43, 30, 57, 39, INK)


def _rubber_duck(d: Drawing, c: Colour) -> None:
    d.poly([(2, 44), (22, 62), (50, 58), (94, 56), (98, 78), (84, 96), (56, 100), (28, 98), (8, 80)], c)
    d.oval(44, 2, 92, 62, c)
    d.poly([(88, 28), (101, 34), (100, 42), (86, 46)], (240, 110, 30))
    d.oval(70, 18, 80, 30, INK)
    d.oval(26, 62, 64, 86, shade(c, 0.86))


def _cactus(d: Drawing, c: Colour) -> None:
    d.box(4, 30, 22, 56, c, 9)
    d.box(4, 46, 50, 58, c, 6)
    d.box(78, 20, 96, 48, c, 9)
    d.box(50, 38, 96, 50, c, 6)
    d.box(33, 0, 67, 80, c, 17)
    for x in (42, 50, 58):
        d.line([(x, 10), (x, 66)], shade(c, 1.45), 3)
    d.poly([(18, 66), (82, 66), (72, 100), (28, 100)], (196, 100, 60))
    d.box(12, 62, 88, 74, (212, 116, 72), 3)


def _present(d: Drawing, c: Colour) -> None:
    ribbon = YELLOW if c not in (YELLOW, ORANGE) else RED
    d.box(6, 40, 94, 100, c, 2)
    d.box(0, 26, 100, 46, shade(c, 1.25), 2)
    d.box(41, 26, 59, 100, ribbon)
    d.poly([(50, 27), (20, 2), (10, 14), (18, 26)], ribbon)
    d.poly([(50, 27), (80, 2), (90, 14), (82, 26)], ribbon)
    d.oval(42, 16, 58, 32, shade(ribbon, 0.85))


def _laptop(d: Drawing, c: Colour) -> None:
    d.box(12, 0, 88, 70, (70, 74, 82), 4)
    d.box(17, 7, 83, 63, (110, 186, 236))
    d.poly([(17, 63), (40, 30), (54, 48), (64, 38), (83, 63)], c)
    d.poly([(12, 70), (88, 70), (100, 94), (0, 94)], (196, 200, 206))
    d.poly([(20, 75), (80, 75), (85, 86), (15, 86)], (96, 100, 108))
    d.box(0, 93, 100, 100, (150, 154, 160), 2)


def _teapot(d: Drawing, c: Colour) -> None:
    d.arc(66, 34, 100, 82, 260, 100, shade(c, 0.55), 11)
    d.arc(68, 37, 97, 79, 260, 100, c, 6)
    d.poly([(26, 84), (16, 58), (0, 40), (8, 32), (24, 44), (34, 60)], c)
    d.oval(17, 26, 83, 100, c)
    d.dome(30, 14, 70, 46, shade(c, 1.3))
    d.oval(44, 2, 56, 18, shade(c, 0.7))
    for x in (36, 50, 64):
        d.oval(x - 5, 58, x + 5, 70, WHITE)


def _sunglasses(d: Drawing, c: Colour) -> None:
    d.line([(6, 24), (16, 2), (30, 2)], shade(c, 0.6), 5)
    d.line([(94, 24), (84, 2), (70, 2)], shade(c, 0.6), 5)
    d.box(0, 20, 100, 36, c, 5)
    d.box(2, 22, 46, 98, c, 15)
    d.box(54, 22, 98, 98, c, 15)
    d.box(7, 32, 41, 88, (38, 38, 48), 11, outlined=False)
    d.box(59, 32, 93, 88, (38, 38, 48), 11, outlined=False)
    for x in (14, 66):
        d.line([(x, 66), (x + 14, 42)], (160, 176, 196), 5)


def _cake(d: Drawing, c: Colour) -> None:
    d.oval(0, 86, 100, 101, (222, 222, 228))
    d.box(8, 46, 92, 96, (224, 178, 116), 5)
    d.box(8, 66, 92, 76, WHITE)
    d.poly([(8, 36), (92, 36), (92, 60), (82, 50), (70, 62), (58, 50), (46, 62),
            (34, 50), (20, 60), (8, 52)], c)  # fmt: skip
    for x in (28, 50, 72):
        d.box(x - 4, 14, x + 4, 38, (120, 170, 226))
        d.oval(x - 5, 0, x + 5, 15, (250, 180, 50))


@dataclass(frozen=True)
class Thing:
    """How an object is drawn.

    Attributes:
        draw: Draws it in a colour.
        width: Its width in the scene's units.
        height: Its height in the scene's units.
        colours: The colours it may have.
        plural: Whether its name is a plural.
    """

    draw: Callable[[Drawing, Colour], None]
    width: float
    height: float
    colours: tuple[Colour, ...] = BRIGHT
    plural: bool = False


OBJECTS: dict[str, Thing] = {
    "mug": Thing(_mug, 0.92, 0.84),
    "apple": Thing(_apple, 0.82, 0.88, (RED, (196, 34, 40), (140, 188, 60))),
    "banana": Thing(_banana, 1.12, 0.74, (YELLOW, (250, 214, 70))),
    "ball": Thing(_ball, 0.9, 0.9),
    "book": Thing(_book, 1.18, 0.78),
    "bottle": Thing(_bottle, 0.46, 1.14, (GREEN, TEAL, (90, 60, 36), BLUE)),
    "candle": Thing(_candle, 0.56, 1.1, (WHITE, PINK, PURPLE, (236, 214, 170))),
    "cap": Thing(_cap, 1.14, 0.68),
    "clock": Thing(_clock, 0.92, 1.0),
    "lamp": Thing(_lamp, 0.84, 1.12, (YELLOW, ORANGE, TEAL, (220, 190, 150))),
    "shoe": Thing(_shoe, 1.2, 0.7),
    "vase": Thing(_vase, 0.86, 1.14, (BLUE, TEAL, PURPLE, (200, 120, 80))),
    "teddy bear": Thing(_teddy_bear, 0.94, 1.1, (BROWN, (168, 112, 64), (150, 96, 70))),
    "rubber duck": Thing(_rubber_duck, 1.04, 0.94, (YELLOW, (250, 208, 40))),
    "cactus": Thing(_cactus, 0.86, 1.14, (GREEN, (70, 150, 90))),
    "present": Thing(_present, 0.94, 0.94),
    "laptop": Thing(_laptop, 1.18, 0.9, (GREEN, (150, 110, 180), (220, 120, 60))),
    "teapot": Thing(_teapot, 1.14, 0.92),
    "sunglasses": Thing(_sunglasses, 1.14, 0.52, (INK, RED, BLUE, BROWN), plural=True),
    "cake": Thing(_cake, 1.04, 0.96, (PINK, (120, 70, 44), (250, 226, 140), WHITE)),
}
