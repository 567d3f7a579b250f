"""What is captured of one row: where the last prompt token's attention goes, and what its columns are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class AttentionError(ValueError):
    """Attention cannot be captured or analysed. The message says what, why, and what to do."""


class UnmappedError(AttentionError):
    """The image columns of a model cannot be laid over the picture. The message says why."""


@dataclass(frozen=True)
class Places:
    """Where the image columns of a prompt lie in its pictures.

    Attributes:
        picture: The picture of each image column, in the prompt's order; -1 if the column has no place (such as the
            newline feature of LLaVA-NeXT, or padding). Shape (image columns,).
        box: Left, top, right and bottom of the area that a column stands for, in pixels of the picture as it was given
            to the processor; NaN if it has no place. Shape (image columns, 4).
    """

    picture: NDArray[np.int32]
    box: NDArray[np.float32]


@dataclass(frozen=True)
class Record:
    """The attention of one row's last prompt token, under several conditions.

    Attributes:
        doc_id: The row's number in its task.
        weights: The softmax weights, shape (conditions, layers, heads, columns). The columns are the prompt's own
            tokens, without padding.
        ids: The prompt's tokens, shape (columns,).
        image: Which columns hold the image, shape (columns,).
        places: Where they lie in the pictures; None if the model's columns cannot be mapped.
        sizes: Width and height of each picture, as it was given to the processor.
        thumbnails: Each picture as a small JPEG file.
    """

    doc_id: int
    weights: NDArray[np.float16]
    ids: NDArray[np.int32]
    image: NDArray[np.bool_]
    places: Places | None
    sizes: tuple[tuple[int, int], ...]
    thumbnails: tuple[bytes, ...]
