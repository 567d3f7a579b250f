"""Boxes from labels: the picture's boxes whose names are those of the question's objects."""

from __future__ import annotations

from dataclasses import dataclass, field

from adaptvis_plugin.attention.boxes.box import Asked, Box, Found, Reason
from adaptvis_plugin.attention.boxes.labels import Drawn, Labels
from adaptvis_plugin.attention.boxes.names import named_like, named_objects, words_in
from adaptvis_plugin.attention.boxes.pictures import Pictures

OVERHANG = 0.01
"""How far a box may stick out, as a share of the picture's side, and then is cut: labels are rounded."""


@dataclass
class Labelled:
    """A source of boxes that has labels.

    Attributes:
        name: What the labels are.
        labels: The labels.
        pictures: Which of them belong to a row's picture.
        strict: Whether labels of pictures that no row has are worth telling.
    """

    name: str
    labels: Labels
    pictures: Pictures
    strict: bool = False
    _used: set[str] = field(default_factory=set)

    def of(self, asked: Asked) -> Found:
        """Return the boxes of the objects that a row's question names."""
        if len(asked.sizes) != 1:
            return Found(reason=Reason.PICTURES, detail=f"it has {len(asked.sizes)}")
        key = self.pictures.key(asked)
        if key is None:
            return Found(reason=Reason.UNKNOWN)
        if key not in self.labels:
            return Found(reason=Reason.UNLABELLED, detail=f"{key!r}")
        self._used.add(key)
        scale = _scale(asked.sizes[0], (1, 1) if self.labels.relative else self.labels.size(key), self.labels.relative)
        if scale is None:
            width, height = self.labels.size(key) or (0, 0)
            return Found(
                reason=Reason.OTHER,
                detail=f"{key!r} is {width:g} x {height:g} there, but {asked.sizes[0][0]} x {asked.sizes[0][1]} here",
            )
        drawn = self.labels.of(key)
        names = {label[0] for label in drawn}
        objects = named_objects(asked.question, asked.relation) or words_in(asked.question, names)
        if not objects:
            return Found(reason=Reason.NO_OBJECT, detail=f"its picture has {', '.join(sorted(names)[:3]) or 'none'}")
        boxes: list[Box] = []
        for name in objects:
            alike = named_like(name, names)
            if not alike:
                return Found(reason=Reason.MISSING, detail=f"{name!r}")
            for label in drawn:
                if label[0] in alike:
                    box = _placed(name, label, scale, asked.sizes[0])
                    if box is None:
                        return Found(reason=Reason.OUTSIDE, detail=_where(label))
                    boxes.append(box)
        return Found(tuple(dict.fromkeys(boxes)))

    def unused(self) -> str:
        """Say which labels belonged to no row so far; empty if nothing is to be said."""
        left = [key for key in self.labels if key not in self._used]
        if not self.strict or not left:
            return ""
        return (
            f"{len(left)} of {len(self.labels)} label files belong to no row ({', '.join(left[:3])}"
            f"{', …' if len(left) > 3 else ''})"
        )


def _scale(given: tuple[int, int], labelled: tuple[float, float] | None, relative: bool) -> tuple[float, float] | None:
    """Return what a label's units are in pixels across and down; None if it is of a picture of another shape.

    A picture that was made smaller or larger as a whole keeps its labels; each side may have been rounded.
    """
    if labelled is None:
        return 1.0, 1.0
    across, down = given[0] / labelled[0], given[1] / labelled[1]
    same = relative or abs(across - down) * max(labelled) <= max(1.0, across, down)
    return (across, down) if same else None


def _placed(name: str, label: Drawn, scale: tuple[float, float], size: tuple[int, int]) -> Box | None:
    """Return a label in pixels, cut at the picture's edges; None if it sticks out or lies outside."""
    edges = []
    for low, high, unit, side in zip(label[1:3], label[3:], scale, size, strict=True):
        slack = max(1.0, OVERHANG * side)
        low, high = low * unit, high * unit
        if low < -slack or high > side + slack or high <= 0 or low >= side:
            return None
        edges.append((max(low, 0.0), min(high, float(side))))
    (left, right), (top, bottom) = edges
    return Box(name, left, top, right, bottom)


def _where(label: Drawn) -> str:
    return f"{label[0]!r} from {label[1]:g}, {label[2]:g} to {label[3]:g}, {label[4]:g}"
