"""What a spot of paint in a picture changes in what a family's text decoder is given."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from adaptvis_plugin.attention.columns import ColumnMapper
from adaptvis_plugin.attention.record import Places, UnmappedError
from adaptvis_plugin.models.prompts import encode, image_placeholder
from tests.families import FAMILIES, PROCESSORS
from tests.families.build import IMAGE
from tests.families.checkpoint import write

Size = tuple[int, int]
SMALL, LARGE = (50, 37), (131, 70)  # the second is cut into tiles where the family does that
PAINT = (255, 0, 90)


class Shown:
    """A family's checkpoint as a user loads it.

    Attributes:
        model: Its model.
        processor: Its processor.
        mapper: Maps its columns.
    """

    def __init__(self, name: str, folder: Path) -> None:
        write(FAMILIES[name], PROCESSORS[name], folder)
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder)
        self.processor: Any = AutoProcessor.from_pretrained(folder, padding_side="left")
        with torch.no_grad():
            for weight in self.model.parameters():
                if weight.ndim > 1 and not weight.any():  # Gemma 3's projection: nothing of a picture would get through
                    weight.normal_(0, 0.1)
        self.mapper = ColumnMapper(self.model, self.processor)

    def features(self, prompts: Sequence[Sequence[Image.Image]]) -> NDArray[np.float32]:
        """Return what the text decoder is given at the image columns, shape (prompts, columns, hidden size)."""
        shown = image_placeholder(self.processor) or ""
        texts = [" and ".join([shown] * len(pictures)) + "\nWhere is it?" for pictures in prompts]
        inputs = encode(self.processor, texts, prompts).to(dtype=self.model.dtype)
        inputs.pop("labels", None)
        given: list[torch.Tensor] = []
        hook = self.model.get_decoder().register_forward_pre_hook(
            lambda module, arguments, options: given.append(options["inputs_embeds"]), with_kwargs=True
        )
        with hook, torch.no_grad():
            self.model(**inputs)
        found: NDArray[np.float32] = given[0][inputs["input_ids"] == IMAGE].numpy().reshape(len(prompts), -1, 32)
        return found

    def changes(self, sizes: Sequence[Size], painted: int) -> NDArray[np.float32]:
        """Return what each spot in one of a prompt's pictures changes, shape (columns, spots, hidden size)."""
        plain = [Image.new("RGB", size, "grey") for size in sizes]
        prompts = [plain]
        for spot in spots(sizes[painted]):
            picture = plain[painted].copy()
            picture.paste(PAINT, tuple(spot))
            prompts.append([*plain[:painted], picture, *plain[painted + 1 :]])
        features = self.features(prompts)
        changes: NDArray[np.float32] = (features[1:] - features[0]).transpose(1, 0, 2)
        return changes


def spots(size: Size) -> NDArray[np.int64]:
    """Return the spots, which together cover a picture: left, top, right and bottom of each."""
    across, down = (
        np.linspace(0, side, parts + 1).round().astype(int) for side, parts in zip(size, (7, 5), strict=True)
    )
    return np.array([(x[0], y[0], x[1], y[1]) for y in pairwise(down) for x in pairwise(across)])


def lit(places: Places, picture: int, size: Size, changes: NDArray[np.float32]) -> float:
    """Return the share of a picture's columns of which the spot that changes them most lies in their place.

    What a spot changes in all columns alike comes through the attention of the vision tower, and is taken out.
    """
    own = places.picture == picture
    alike = changes[own].mean(0) if own.sum() > 2 else 0  # of two columns, both are as far from the mean
    strength = np.linalg.norm(changes[own] - alike, axis=-1)
    box, spot = places.box[own], spots(size)[strength.argmax(1)]
    overlap = np.minimum(box[:, 2:], spot[:, 2:]) - np.maximum(box[:, :2], spot[:, :2])
    return float((overlap > 0).all(1).mean())


def covered(places: Places, picture: int, size: Size) -> float:
    """Return the share of a picture that its columns cover."""
    width, height = size
    fine = 8
    canvas = np.zeros((height * fine, width * fine), bool)
    for left, top, right, bottom in (places.box[places.picture == picture] * fine).round().astype(int):
        canvas[top:bottom, left:right] = True
    return float(canvas.mean())


def table_row(name: str, shown: Shown) -> str:
    """Return what the table of families says about a family's columns."""
    try:
        places = shown.mapper.places([Image.new("RGB", LARGE)])
    except UnmappedError as error:
        return f"| {name} | | | not mapped: {str(error).rpartition(': ')[2]} |"
    part = f"{covered(places, 0, LARGE):.0%}".replace("%", " %")
    return f"| {name} | {len(places.picture)} | {int((places.picture < 0).sum()) or ''} | {part} |"
