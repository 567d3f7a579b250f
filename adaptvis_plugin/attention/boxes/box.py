"""What a source of boxes is asked, and what it finds: boxes of a question's objects, or why there are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL import Image

EXAMPLES = 3
"""Rows that are shown for each reason why rows are left out."""


@dataclass(frozen=True)
class Box:
    """A box of an object, in pixels of the picture as it was given to the model.

    Attributes:
        name: The object, as the question names it.
        left: Its left edge; 0 is the picture's.
        top: Its top edge; 0 is the picture's.
        right: Its right edge, at most the picture's width.
        bottom: Its bottom edge, at most the picture's height.
    """

    name: str
    left: float
    top: float
    right: float
    bottom: float


class Reason(StrEnum):
    """Why a row has no boxes."""

    PICTURES = "it does not have exactly one picture"
    UNKNOWN = "it is not known which file its picture is"
    UNLABELLED = "its picture has no boxes"
    OTHER = "the boxes are of a picture of another shape"
    NO_OBJECT = "no object was found in its question"
    MISSING = "an object of its question has no box"
    OUTSIDE = "a box lies outside of its picture"


@dataclass(frozen=True)
class Asked:
    """A row, for which boxes are wanted.

    Attributes:
        doc_id: The row's number in its task.
        question: The question; it may be the whole prompt.
        image: What identifies the picture, as in a trace: in this package's tables `image_id`; None if unknown.
        sizes: Width and height of each picture, as it was given to the model.
        relation: The relation that the row tests; None if unknown.
        picture: Function that returns the picture, as it was given to the model. Only a detector needs it.
    """

    doc_id: int
    question: str
    image: str | None
    sizes: tuple[tuple[int, int], ...]
    relation: str | None = None
    picture: Callable[[], Image.Image] | None = None


@dataclass(frozen=True)
class Found:
    """What a source finds for a row.

    Attributes:
        boxes: The boxes of every object that the question names. An object has several if the picture shows several of
            its name: which one is meant is then not known.
        reason: Why there are none; None if there are some.
        detail: What the reason is about, such as the object without a box.
    """

    boxes: tuple[Box, ...] = ()
    reason: Reason | None = None
    detail: str = ""


class BoxSource(Protocol):
    """A source of boxes."""

    @property
    def name(self) -> str:
        """What the boxes are, for a report."""

    def of(self, asked: Asked) -> Found:
        """Return the boxes of the objects that a row's question names."""

    def unused(self) -> str:
        """Say which labels belonged to no row so far; empty if nothing is to be said."""


@dataclass
class LeftOut:
    """The rows that have no boxes: how many for which reason, and some of them.

    Attributes:
        rows: The number of rows that were asked for.
        counts: The number of rows without boxes by reason.
        examples: The first rows for each reason: their number and what the reason is about.
    """

    rows: int = 0
    counts: Counter[Reason] = field(default_factory=Counter)
    examples: dict[Reason, list[tuple[int, str]]] = field(default_factory=dict)

    def add(self, doc_id: int, found: Found) -> None:
        """Count what a source found for a row."""
        self.rows += 1
        if found.reason is None:
            return
        self.counts[found.reason] += 1
        shown = self.examples.setdefault(found.reason, [])
        if len(shown) < EXAMPLES:
            shown.append((doc_id, found.detail))

    def sentences(self) -> list[str]:
        """Return a line for each reason, the most frequent first."""
        return [
            f"{count} of {self.rows} rows are left out: {reason} ("
            + "; ".join(f"row {row}" + (f": {detail}" if detail else "") for row, detail in self.examples[reason])
            + ("; …)" if count > len(self.examples[reason]) else ")")
            for reason, count in self.counts.most_common()
        ]
