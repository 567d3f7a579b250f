"""Decode pictures so that a damaged one is an error, and convert them to RGB in the same way everywhere."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps

_WHITE = 65535
_QUALITY = 78


def decode(image: Image.Image) -> Image.Image:
    """Decode an opened picture completely, in place.

    lmms-eval sets `ImageFile.LOAD_TRUNCATED_IMAGES` for the whole process. Pillow then fills the missing part of a
    truncated file with grey, and the model would be asked about a picture that it does not see.

    Raises:
        OSError, SyntaxError, ValueError: If the file is damaged or truncated.
    """
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image.load()
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture to upright RGB with 8 bits a channel; the given picture is decoded but not changed.

    - The EXIF orientation is applied, as in `datasets` and transformers' `load_image`.
    - Greyscale with 16 bits is scaled: 0 is black and 65535 is white in every picture. Pillow opens such a file in a
      mode ``I;16…`` or in mode ``I``. Its own conversion clips at 255 and turns most of the picture white.
    - Every other mode is converted by ``convert("RGB")``, as in the benchmarks' own code and in transformers.
      Transparency (of RGBA, LA or a palette) is dropped, and the colour beneath it shows.

    Raises:
        OSError, SyntaxError, ValueError: If the picture is damaged or truncated, or if it is not known which of its
            values are black and white: floating-point numbers (mode ``F``), or integers outside of 0 to 65535.
    """
    image = ImageOps.exif_transpose(decode(image))
    if image.mode == "F":
        raise ValueError(
            "its values are floating-point numbers (mode F), and it is not known which of them is white; save it "
            "with 8 or 16 bits a channel"
        )
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    return image.convert("RGB")


def thumbnail(image: Image.Image, side: int) -> bytes:
    """Return a small picture as a JPEG file.

    Args:
        image: The picture; it is not changed.
        side: The longest side in pixels; a smaller picture keeps its size.

    Raises:
        OSError, SyntaxError, ValueError: See `to_rgb`.
    """
    small = to_rgb(image)
    small.thumbnail((side, side))
    sink = io.BytesIO()
    small.save(sink, format="JPEG", quality=_QUALITY, optimize=True)
    return sink.getvalue()


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale greyscale from 16 bits to 8."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > _WHITE:
        raise ValueError(
            f"its grey values go from {low} to {high}, but must be from 0 (black) to {_WHITE} (white); save it "
            "with 8 or 16 bits a channel"
        )
    return Image.fromarray(((values.astype(np.uint32) * 255 + _WHITE // 2) // _WHITE).astype(np.uint8))


def read_image(image: str | Path | Image.Image) -> Image.Image:
    """Return an image, given as such or as a file, in RGB (see `to_rgb`).

    Raises:
        OSError: If it cannot be read.
        SyntaxError: If it cannot be read.
        ValueError: If it cannot be read.
    """
    if isinstance(image, (str, Path)):
        with Image.open(image) as opened:
            return to_rgb(opened)
    return to_rgb(image)
