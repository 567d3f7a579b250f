"""The second stream of a method, as inputs of the model: a noised image, no image, or another question."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from adaptvis_plugin.decoding.parts import NoImage, NoisedImage, SecondStream
from adaptvis_plugin.models.prompts import encode

STEPS = 1000
"""The steps of the diffusion whose noise VCD uses."""


def second_inputs(
    processor: ProcessorMixin,
    part: SecondStream,
    inputs: BatchFeature,
    texts: Sequence[str],
    seconds: Sequence[str | None],
    images: Sequence[Sequence[Image.Image]],
) -> BatchFeature:
    """Return the inputs of a batch's second stream, left padded.

    Args:
        processor: As `load_model` returns it.
        part: The method's part.
        inputs: The inputs of the rows themselves, as `encode` returns them.
        texts: Their prompts.
        seconds: The prompts of the second stream, where they are others.
        images: The images of each row.

    Raises:
        ValueError: See `encode` and `noised`.
    """
    if isinstance(part.view, NoisedImage):
        return noised(processor, part.view, inputs, texts, images)
    asked = [text if second is None else second for text, second in zip(texts, seconds, strict=True)]
    if not isinstance(part.view, NoImage):
        return encode(processor, asked, images)
    try:
        return encode(processor, asked, [() for _ in asked])
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        name = type(processor).__name__
        raise ValueError(
            f"{name} takes no prompt without an image ({type(error).__name__}: {error}), and the method decodes one "
            "beside each row; use another method with this model"
        ) from error


def noised(
    processor: ProcessorMixin,
    view: NoisedImage,
    inputs: BatchFeature,
    texts: Sequence[str],
    images: Sequence[Sequence[Image.Image]],
) -> BatchFeature:
    """Return a batch with noise on its pixel values, that of a row drawn from the row alone.

    Its pixel values x become sqrt(a) x + sqrt(1 - a) e, with e from a normal distribution and a the share of the
    signal that is left at the diffusion's step (Leng et al., CVPR 2024, eq. 2; see `signal`).

    Args:
        processor: As `load_model` returns it.
        view: How much noise.
        inputs: The batch, as `encode` returns it. It is not changed.
        texts: The prompt of each row.
        images: The images of each row.

    Raises:
        ValueError: If it cannot be told which of the pixel values belong to which row.
    """
    rows = [row for row, own in enumerate(images) if own]
    # Each row by itself: how processors lay out a batch differs by family, and the noise must not depend on it.
    alone = inputs if len(texts) == 1 else None
    singles = {row: alone or encode(processor, [texts[row]], [images[row]]) for row in rows}
    changed = dict(inputs)
    for name, value in inputs.items():
        if not (isinstance(value, torch.Tensor) and value.is_floating_point() and "pixel" in name):
            continue
        changed[name] = value.clone()
        share = signal(view.step)
        for row, own in _parts_of(name, changed[name], len(texts), {row: singles[row][name] for row in rows}):
            pixels = singles[row][name]
            generator = torch.Generator().manual_seed(_seed(view.seed, name, texts[row], pixels))
            noise = torch.randn(pixels.shape, generator=generator)
            own.copy_(share**0.5 * pixels + (1 - share) ** 0.5 * noise)
    return BatchFeature(changed)


def signal(step: int) -> float:
    """Return the share of the signal that is left after a step, from 0 to 999, of the schedule that VCD uses."""
    rates = torch.linspace(-6, 6, STEPS, dtype=torch.float64).sigmoid() * (5e-3 - 1e-5) + 1e-5
    return float((1 - rates).cumprod(0)[step])


def _parts_of(
    name: str, batch: torch.Tensor, rows: int, singles: dict[int, torch.Tensor]
) -> list[tuple[int, torch.Tensor]]:
    """Return the part of a batch's pixel values that holds each row's, as views of it.

    There are two layouts: one entry for each row, possibly padded; or the entries of all rows after each other.
    """
    if len(batch) == rows and all(len(single) == 1 for single in singles.values()):
        starts = {row: row for row in singles}
    else:
        starts, start = {}, 0
        for row, single in singles.items():
            starts[row] = start
            start += len(single)
    found = []
    for row, single in singles.items():
        cut = (slice(starts[row], starts[row] + len(single)), *(slice(0, size) for size in single.shape[1:]))
        part = batch[cut]
        if part.shape != single.shape or not torch.allclose(part, single, atol=1e-3):
            raise ValueError(
                f"{name} of shape {tuple(batch.shape)}: it cannot be told which of them belong to which of {rows} "
                "rows, so there is no noise for a row alone; use batch size 1 with this model"
            )
        found.append((row, part))
    return found


def _seed(seed: int, *parts: Any) -> int:
    digest = hashlib.blake2b(digest_size=8)
    digest.update(str(seed).encode())
    for part in parts:
        raw = part.float().contiguous().numpy().tobytes() if isinstance(part, torch.Tensor) else str(part).encode()
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return int.from_bytes(digest.digest(), "big") >> 1
