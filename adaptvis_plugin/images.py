"""Decoding pictures so that a damaged one is an error, and turning them into RGB, in one way everywhere."""

import numpy as np
from PIL import Image, ImageFile, ImageOps

_WHITE = 65535


def decode(image: Image.Image) -> Image.Image:
    """Decode an opened picture completely, in place.

    Pillow fills the missing part of a truncated file with grey if `ImageFile.LOAD_TRUNCATED_IMAGES` is set, and
    lmms-eval sets it for the whole process. A model would be asked about a picture that is not there.

    Raises:
        OSError, SyntaxError, ValueError: if the file is damaged or cut short.
    """
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image.load()
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture as RGB with 8 bits a channel, upright; the one given is decoded and otherwise left as it is.

    - An EXIF orientation is applied, as `datasets` and transformers' `load_image` do.
    - Greyscale with 16 bits (modes ``I;16…``, and ``I``, as which Pillow may open such a file) is scaled: 0 is black
      and 65535 white in every picture. Pillow's own conversion clips at 255, which turns such a picture white.
    - Every other mode is converted as ``convert("RGB")`` does, which is what the benchmarks' own code and
      transformers do: transparency (RGBA, LA, a palette's) is dropped and the colour beneath it shown.

    Raises:
        OSError, SyntaxError, ValueError: if it is damaged or cut short; or its values have no known black and white:
            floating-point numbers (mode ``F``), or whole numbers outside of 0 to 65535.
    """
    image = ImageOps.exif_transpose(decode(image))
    if image.mode == "F":
        raise ValueError(
            "its values are floating-point numbers (mode F), of which none is known to be white; save it "
            "with 8 or 16 bits a channel"
        )
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Greyscale of 16 bits, scaled to 8."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > _WHITE:
        raise ValueError(
            f"its grey values go from {low} to {high}, but only 0 (black) to {_WHITE} (white) are understood; save it "
            "with 8 or 16 bits a channel"
        )
    return Image.fromarray(((values.astype(np.uint32) * 255 + _WHITE // 2) // _WHITE).astype(np.uint8))
