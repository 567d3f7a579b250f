"""Every kind of picture as RGB, from a real file and through each way in which a picture is read."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adaptvis_plugin.data import DataError, load_table, prepare
from adaptvis_plugin.images import read_image, to_rgb
from adaptvis_plugin.lmms_eval.tasks import doc_to_visual

RAMP = np.linspace(0, 65535, 32 * 24).round().astype(np.uint16).reshape(24, 32)
EIGHT = np.rint(RAMP / 257).astype(np.uint8)
COLOUR = (200, 40, 90)

Reader = Callable[[Path], Image.Image]


def through_the_table(path: Path) -> Image.Image:
    """Read a picture as lmms-eval gets it: from a folder into the table, and out of the table."""
    rows = [{"image_path": path.name, "caption_options": ["A mug on a table", "A mug under a table"]}]
    path.with_name("rooms.json").write_text(json.dumps(rows))
    prepare(["rooms"], path.parent)
    [picture] = doc_to_visual(load_table("rooms")[0])
    return picture


READERS = [through_the_table, lambda path: read_image(str(path)), lambda path: read_image(Image.open(path))]
each_reader = pytest.mark.parametrize("read", READERS, ids=["table", "file", "opened"])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTVIS_CACHE", str(tmp_path / "cache"))


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    image.save(path, **options)
    return path


SIXTEEN: dict[str, tuple[str, Callable[[], Image.Image]]] = {
    "png": ("I;16", lambda: Image.fromarray(RAMP)),
    "tiff": ("I;16", lambda: Image.fromarray(RAMP)),
    "big.tiff": ("I;16B", lambda: Image.frombytes("I;16B", (32, 24), RAMP.astype(">u2").tobytes())),
    "signed.tiff": ("I", lambda: Image.fromarray(RAMP.astype(np.int32))),
    "pgm": ("I", lambda: Image.fromarray(RAMP)),
    "jp2": ("I;16", lambda: Image.fromarray(RAMP)),
}


@each_reader
@pytest.mark.parametrize("kind", SIXTEEN)
def test_16_bit_greyscale_is_scaled(tmp_path: Path, kind: str, read: Reader) -> None:
    mode, make = SIXTEEN[kind]
    path = saved(make(), tmp_path / "mine" / f"grey.{kind}")
    with Image.open(path) as stored:
        assert stored.mode == mode
    picture = read(path)
    assert picture.mode == "RGB"
    for channel in range(3):
        np.testing.assert_array_equal(np.asarray(picture)[..., channel], EIGHT)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I"])
def test_all_values_of_16_bits(mode: str) -> None:
    values = np.arange(65536).reshape(256, 256)
    stored = {"I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    image = Image.frombytes(mode, (256, 256), values.astype(stored).tobytes())
    np.testing.assert_array_equal(np.asarray(to_rgb(image))[..., 0], np.rint(values / 257))
    assert image.mode == mode, "the given picture is not changed"


@each_reader
def test_a_dark_picture_stays_dark(tmp_path: Path, read: Reader) -> None:
    """All pictures have the same scale; it is not stretched to the values of each picture."""
    path = saved(Image.fromarray(RAMP // 64), tmp_path / "mine/dark.png")
    assert np.asarray(read(path)).max() == 4


WITHOUT_WHITE = {
    "floats": np.linspace(0, 1, 768, dtype=np.float32).reshape(24, 32),
    "negative": RAMP.astype(np.int32) - 100,
    "more than 16 bits": RAMP.astype(np.int32) * 9,
}


@pytest.mark.parametrize("kind", WITHOUT_WHITE)
def test_values_without_a_known_white_are_refused(tmp_path: Path, kind: str) -> None:
    path = saved(Image.fromarray(WITHOUT_WHITE[kind]), tmp_path / "mine/odd.tiff")
    with pytest.raises(ValueError, match="save it with 8 or 16 bits"):
        read_image(str(path))
    with pytest.raises(DataError, match=r"odd\.tiff \(row 0\).*save it with 8 or 16 bits"):
        through_the_table(path)


def test_other_modes_are_converted_as_elsewhere() -> None:
    """Other models of lmms-eval and VLMEvalKit are shown the result of ``convert("RGB")``, too."""
    from transformers.image_utils import load_image

    colour = Image.new("RGB", (8, 6), COLOUR)
    clear = Image.new("RGBA", (8, 6), (*COLOUR, 0))
    palette = colour.quantize(4)
    pictures = {
        "1.png": colour.convert("1"),
        "l.png": colour.convert("L"),
        "la.png": clear.convert("LA"),
        "rgba.png": clear,
        "rgb.jpg": colour,
        "cmyk.jpg": colour.convert("CMYK"),
        "p.gif": palette,
    }
    for name, picture in pictures.items():
        buffer = io.BytesIO()
        options = {"transparency": 0} if name == "p.gif" else {}
        picture.save(buffer, {"g": "GIF", "j": "JPEG", "p": "PNG"}[name.split(".")[1][0]], **options)
        stored = Image.open(buffer)
        assert stored.mode == name.split(".")[0].upper()
        expected = load_image(Image.open(buffer))
        np.testing.assert_array_equal(np.asarray(to_rgb(stored)), np.asarray(expected))
    assert to_rgb(clear).getpixel((0, 0)) == COLOUR, "the colour beneath full transparency"


@each_reader
def test_a_turned_picture_is_upright(tmp_path: Path, read: Reader) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is on the right
    image = Image.new("RGB", (32, 24), COLOUR)
    path = saved(image, tmp_path / "mine/turned.jpg", exif=exif)
    picture = read(path)
    assert picture.size == (24, 32)
    assert read_image(picture).size == (24, 32), "it is turned only once"


@each_reader
def test_16_bits_and_turned(tmp_path: Path, read: Reader) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    path = saved(Image.fromarray(RAMP), tmp_path / "mine/turned.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read(path))[..., 0], EIGHT[::-1, ::-1])
