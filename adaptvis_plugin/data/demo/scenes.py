"""Drawn scenes: everyday objects left of, right of, on or under a piece of furniture.

Pictures are drawn at four times their size and reduced, so that edges are smooth. They depend only on the given random
generator. Their size is 128 x 128 pixels, the input size of the embedded demo model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageOps

from adaptvis_plugin.data.demo.drawing import GREEN, WHITE, Colour, Drawing, shade
from adaptvis_plugin.data.demo.furniture import REFERENCES, Piece
from adaptvis_plugin.data.demo.objects import OBJECTS

SIZE = 128
RELATIONS = ("left", "right", "on", "under")

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

_SUPERSAMPLING = 4
_MARGIN = 2.0
_GAP = 2.5
_WALLS: tuple[Colour, ...] = (
    (226, 220, 206), (204, 218, 226), (214, 226, 206), (236, 216, 204),
    (222, 212, 230), (240, 230, 196), (196, 206, 206),
)  # fmt: skip
_FLOORS: tuple[Colour, ...] = (
    (170, 132, 96), (196, 164, 124), (146, 140, 136), (180, 176, 166),
    (136, 104, 84), (166, 150, 130), (150, 160, 158),
)  # fmt: skip
_RUGS: tuple[Colour, ...] = ((176, 120, 112), (120, 140, 166), (190, 172, 130), (140, 156, 130))


@dataclass(frozen=True)
class Placement:
    """An object and its relation to the scene's piece of furniture."""

    name: str
    relation: str
    colour: Colour


@dataclass(frozen=True)
class Room:
    """What the scenes of one set have in common: a room, its light, and the piece of furniture in it."""

    reference: str
    reference_colour: Colour
    wall: Colour
    floor: Colour
    horizon: float
    boards: bool
    decoration: str
    rug: Colour | None
    light: tuple[Colour, Colour]


@dataclass(frozen=True)
class Scene:
    """A picture, and the boxes of its objects and its piece of furniture by name."""

    image: Image.Image
    boxes: dict[str, Box]


def draw_room(rng: Random, reference: str) -> Room:
    """Choose a room at random for a piece of furniture."""
    bright = rng.randint(236, 255)
    dim = rng.randint(186, 232)
    sides: list[Colour] = [(bright, bright, bright - rng.randint(0, 14)), (dim, dim, min(255, dim + 6))]
    rng.shuffle(sides)
    return Room(
        reference=reference,
        reference_colour=rng.choice(REFERENCES[reference].colours),
        wall=rng.choice(_WALLS),
        floor=rng.choice(_FLOORS),
        horizon=rng.uniform(70, 84),
        boards=rng.random() < 0.5,
        decoration=rng.choice(("none", "window", "picture", "none")),
        rug=rng.choice(_RUGS) if rng.random() < 0.3 else None,
        light=(sides[0], sides[1]),
    )


def place(rng: Random, name: str, relation: str) -> Placement:
    """Choose a colour for an object at random, and place it in a relation."""
    return Placement(name, relation, rng.choice(OBJECTS[name].colours))


def draw_scene(rng: Random, room: Room, placements: Sequence[Placement]) -> Scene:
    """Draw a room with its furniture and objects, at most one object per relation."""
    canvas = Image.new("RGB", (SIZE * _SUPERSAMPLING, SIZE * _SUPERSAMPLING), room.wall)
    draw = ImageDraw.Draw(canvas, "RGBA")
    _draw_background(rng, draw, room)

    piece = REFERENCES[room.reference]
    beside = [sum(OBJECTS[p.name].width for p in placements if p.relation == s) for s in ("left", "right")]
    widest = piece.width + sum(beside)
    unit = min(rng.uniform(26, 31), (SIZE - 2 * _MARGIN - 2 * _GAP) / widest)
    left_room, right_room = (_MARGIN + width * unit + _GAP * (width > 0) for width in beside)
    width, height = piece.width * unit, piece.height * unit
    x = rng.uniform(left_room, max(left_room, SIZE - right_room - width))
    floor_y = rng.uniform(105, 118)
    boxes = {room.reference: (x, floor_y - height, x + width, floor_y)}
    _shadow(draw, x, floor_y, width)
    piece.draw(_drawing(draw, x, floor_y - height, width, height), room.reference_colour)
    # Objects further down in the picture are nearer, so they are drawn last.
    spots = [(_spot(rng, piece, p, x, floor_y, unit), p) for p in placements]
    for (left, bottom, size), placement in sorted(spots, key=lambda spot: spot[0][1]):
        thing = OBJECTS[placement.name]
        _shadow(draw, left, bottom, thing.width * size)
        width, height = thing.width * size, thing.height * size
        thing.draw(_drawing(draw, left, bottom - height, width, height), placement.colour)
        boxes[placement.name] = (left, bottom - height, left + width, bottom)
    return Scene(_light(canvas.resize((SIZE, SIZE), Image.Resampling.BOX), room.light), boxes)


def _drawing(draw: ImageDraw.ImageDraw, left: float, top: float, width: float, height: float) -> Drawing:
    scale = _SUPERSAMPLING
    return Drawing(draw, left * scale, top * scale, width * scale, height * scale, edge=0.7 * scale)


def _spot(
    rng: Random, piece: Piece, placement: Placement, x: float, floor_y: float, unit: float
) -> tuple[float, float, float]:
    """Choose where an object stands: its left edge, its bottom, and the length of its unit."""
    thing = OBJECTS[placement.name]
    size = unit * rng.uniform(0.94, 1.0)
    if placement.relation in ("left", "right"):
        width = thing.width * size
        if placement.relation == "left":
            first, last = _MARGIN, x - _GAP - width
        else:
            first, last = x + piece.width * unit + _GAP, SIZE - _MARGIN - width
        return rng.uniform(first, max(first, last)), floor_y + rng.uniform(-3, 4), size
    on = placement.relation == "on"
    start, end = (x + piece.width * unit * at / 100 for at in (piece.on if on else piece.under))
    size = min(size, (end - start) / thing.width)
    top = floor_y - piece.height * unit
    bottom = top + piece.height * unit * piece.surface / 100 if on else floor_y + rng.uniform(-1.5, 1)
    if not on:
        ceiling = top + piece.height * unit * piece.ceiling / 100
        size = min(size, (bottom - ceiling) / thing.height)
    return rng.uniform(start, end - thing.width * size), bottom, size


def _shadow(draw: ImageDraw.ImageDraw, left: float, bottom: float, width: float) -> None:
    box = (left - 1, bottom - 2.2, left + width + 1, bottom + 2.2)
    draw.ellipse([c * _SUPERSAMPLING for c in box], (20, 16, 20, 70))


def _draw_background(rng: Random, draw: ImageDraw.ImageDraw, room: Room) -> None:
    horizon = room.horizon
    drawing = _drawing(draw, 0, 0, 100, 100)
    draw.rectangle([0, horizon * _SUPERSAMPLING, SIZE * _SUPERSAMPLING, SIZE * _SUPERSAMPLING], room.floor)
    if room.boards:
        for start in range(-96, 2 * SIZE, 24):
            far = SIZE / 2 + (start - SIZE / 2) * 0.6
            drawing.line([(far, horizon), (start, SIZE)], shade(room.floor, 0.86), 0.6)
    drawing.box(-2, horizon - 3, SIZE + 2, horizon, shade(room.wall, 1.5))
    if room.rug is not None:
        drawing.oval(10, 98, 118, 126, room.rug)
        drawing.oval(18, 101, 110, 123, shade(room.rug, 1.2))
    x, y = rng.uniform(6, 84), rng.uniform(4, 10)
    if room.decoration == "window":
        drawing.box(x, y, x + 36, y + 28, WHITE)
        drawing.box(x + 3, y + 3, x + 17, y + 25, (172, 212, 238))
        drawing.box(x + 19, y + 3, x + 33, y + 25, (172, 212, 238))
    elif room.decoration == "picture":
        drawing.box(x, y, x + 26, y + 20, (110, 80, 52))
        drawing.box(x + 2.5, y + 2.5, x + 23.5, y + 17.5, (206, 224, 232))
        hills = [(3, 17), (10, 8), (15, 13), (19, 10), (23, 17)]
        drawing.poly([(x + right, y + down) for right, down in hills], GREEN)


def _light(image: Image.Image, light: tuple[Colour, Colour]) -> Image.Image:
    """Make the picture brighter on one side than on the other."""
    across = Image.linear_gradient("L").rotate(90).resize((SIZE, SIZE))
    return ImageChops.multiply(image, ImageOps.colorize(across, *light))
