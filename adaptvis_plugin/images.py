"""Decoding pictures so that a damaged one is an error, whatever another library has set."""

from PIL import Image, ImageFile


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
