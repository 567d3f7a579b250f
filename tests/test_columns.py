"""Image columns laid over the picture, for every family: a spot of paint changes the columns whose place it is in."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from adaptvis_plugin.attention.columns import ColumnMapper
from adaptvis_plugin.attention.columns.coordinates import read_coordinates
from adaptvis_plugin.attention.record import Places, UnmappedError
from adaptvis_plugin.decoding.prefix.fingerprint import model_fingerprint
from tests.families import PROCESSORS
from tests.families.painting import LARGE, SMALL, Shown, Size, covered, lit, table_row

RESAMPLERS = ("idefics2", "aria")
MAPPED = [name for name in PROCESSORS if name not in RESAMPLERS]
KINDS = (
    "llava", "llava_next", "llava_onevision", "internvl", "idefics3", "gemma3", "qwen2_vl", "llava (Pixtral)", "llama4",
)  # fmt: skip
"""One family of each kind of layout."""
NEWLINES = ("llava_next", "llava_next_video", "llava_onevision")
# What their processors crop of a small and a large picture (the sides of a square), or their models drop (a last row
# of patches without one to merge with).
CROPPED = {"llava": (0.74, 0.53), "vipllava": (0.74, 0.53), "video_llava": (0.74, 0.53), "lighton_ocr": (0.67, 0.67)}
DOCUMENT = Path(__file__).parent.parent / "docs" / "families.md"

Checkpoint = Callable[[str], Shown]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Return a family's checkpoint, written once."""
    return cache(lambda name: Shown(name, tmp_path_factory.mktemp("checkpoint")))


def pictures(*sizes: Size) -> list[Image.Image]:
    return [Image.new("RGB", size) for size in sizes]


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("name", MAPPED)
def test_each_column_changes_most_by_a_spot_in_its_place(name: str, size: Size, checkpoint: Checkpoint) -> None:
    shown = checkpoint(name)
    places = shown.mapper.places(pictures(size))
    changes = shown.changes([size], 0)
    assert len(places.picture) == len(changes), "the columns of another prompt with the same picture"
    right = lit(places, 0, size, changes)
    assert right > 0.8, "all, but for what the attention of a random vision tower carries elsewhere"
    for wrong in (shifted(places), *([transposed(places, size)] if len(places.picture) > 2 else [])):
        assert lit(wrong, 0, size, changes) < 0.75 * right, "the paint must tell a wrong map from the right one"


@pytest.mark.parametrize("name", KINDS)
def test_two_pictures_in_a_prompt_keep_their_columns(name: str, checkpoint: Checkpoint) -> None:
    shown = checkpoint(name)
    places = shown.mapper.places(pictures(LARGE, SMALL))
    changes = shown.changes([LARGE, SMALL], 1)
    assert len(places.picture) == len(changes)
    assert lit(places, 1, SMALL, changes) > 0.8
    assert not changes[places.picture == 0].any(), "the first picture is the same in every prompt"
    assert np.array_equal(np.unique(places.picture[places.picture >= 0]), [0, 1])


@pytest.mark.parametrize("name", MAPPED)
def test_columns_cover_what_the_processor_leaves_of_the_picture(name: str, checkpoint: Checkpoint) -> None:
    for size, expected in zip((SMALL, LARGE), CROPPED.get(name, (1.0, 1.0)), strict=True):
        places = checkpoint(name).mapper.places(pictures(size))
        box = places.box[places.picture == 0]
        assert (box[:, :2] >= 0).all()
        assert (box[:, 2:] <= size).all()
        assert (box[:, :2] < box[:, 2:]).all()
        assert covered(places, 0, size) == pytest.approx(expected, abs=0.07)
        assert np.isnan(places.box[places.picture < 0]).all()


@pytest.mark.parametrize("name", NEWLINES)
def test_newlines_have_no_place(name: str, checkpoint: Checkpoint) -> None:
    shown = checkpoint(name)
    places = shown.mapper.places(pictures(LARGE))
    overview, tiles = np.split(places.picture, [16])  # 4 x 4 patches, then 4 rows of 8 patches and a newline
    assert (overview == 0).all()
    assert np.array_equal(tiles.reshape(4, 9) == 0, [[True] * 8 + [False]] * 4)
    assert not shown.changes([LARGE], 0)[places.picture < 0].any()


@pytest.mark.parametrize("name", RESAMPLERS)
def test_a_resampler_is_refused_with_the_reason(name: str, checkpoint: Checkpoint) -> None:
    mapper = checkpoint(name).mapper
    for _ in range(2):  # the answer is remembered
        with pytest.raises(UnmappedError, match=r"its image columns cannot be laid over the picture: .*resampler"):
            mapper.places(pictures(SMALL))


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_documented_row_is_this_result(name: str, checkpoint: Checkpoint) -> None:
    row = table_row(name, checkpoint(name))
    assert row in DOCUMENT.read_text(), "run: python -m tests.families > docs/families.md"


def test_places_are_those_computed_by_hand(checkpoint: Checkpoint) -> None:
    places = checkpoint("llava").mapper.places(pictures(SMALL))
    assert (places.picture == 0).all()
    assert places.box == pytest.approx(by_hand(), abs=1)
    assert checkpoint("llava").mapper.places(pictures(SMALL)) is places, "it is remembered"


def test_features_that_are_interpolated_between_patches_have_a_place(tmp_path: Path) -> None:
    shown = Shown("llava_onevision", tmp_path)
    shown.processor.vision_aspect_ratio = shown.model.config.vision_aspect_ratio = "anyres_max_1"
    places = shown.mapper.places(pictures(LARGE))
    assert len(places.picture) == 16 + 2 * (5 + 1), "4 rows of 8 patches are scaled down to 2 of 5"
    assert lit(places, 0, LARGE, shown.changes([LARGE], 0)) > 0.95
    assert covered(places, 0, LARGE) > 0.95


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_vl", "llama4", "gemma4"])
def test_half_precision_gives_the_same_places(name: str, tmp_path: Path) -> None:
    shown = Shown(name, tmp_path)
    expected = shown.mapper.places(pictures(LARGE))
    half = ColumnMapper(shown.model.to(torch.bfloat16), shown.processor).places(pictures(LARGE))
    assert np.array_equal(half.picture, expected.picture)
    assert half.box == pytest.approx(expected.box, abs=1, nan_ok=True)


def test_the_model_is_left_as_it_was(checkpoint: Checkpoint) -> None:
    shown = checkpoint("llava_next")
    before, given = model_fingerprint(shown.model), shown.features([pictures(SMALL)])
    ColumnMapper(shown.model, shown.processor).places(pictures(SMALL))
    assert model_fingerprint(shown.model) == before
    assert np.array_equal(shown.features([pictures(SMALL)]), given)


def test_a_prompt_without_pictures_has_no_columns(checkpoint: Checkpoint) -> None:
    places = checkpoint("llava").mapper.places([])
    assert places.picture.shape == (0,)
    assert places.box.shape == (0, 4)


class Rearranged(nn.Module):
    """The end of a vision tower that nobody has seen."""

    def __init__(self, projector: nn.Module, rearrange: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.projector, self.rearrange = projector, rearrange

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.rearrange(self.projector(features))


def unseen(folder: Path, rearrange: Callable[[torch.Tensor], torch.Tensor]) -> ColumnMapper:
    shown = Shown("llava", folder)
    shown.model.model.multi_modal_projector = Rearranged(shown.model.model.multi_modal_projector, rearrange)
    return shown.mapper


def test_a_model_that_goes_down_the_picture_first_is_followed(tmp_path: Path) -> None:
    mapper = unseen(tmp_path, lambda features: features.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2))
    expected = by_hand().reshape(4, 4, 4).transpose(1, 0, 2).reshape(16, 4)
    assert mapper.places(pictures(SMALL)).box == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(
    ("rearrange", "reason"),
    [
        (lambda features: features.cumsum(1), "many of them are made from the same pixels"),
        (lambda features: features + features.flip(1), "places far apart"),
        (lambda features: features * 0, "nothing of it"),
        (lambda features: features.detach(), "nothing of it"),
        (lambda features: features * float("nan"), "not finite"),
    ],
    ids=["all patches so far in each", "two patches in each", "nothing", "no gradient", "not a number"],
)
def test_a_model_whose_columns_are_no_places_is_refused(
    tmp_path: Path, rearrange: Callable[[torch.Tensor], torch.Tensor], reason: str
) -> None:
    with pytest.raises(UnmappedError, match=f"^LlavaForConditionalGeneration: .*: .*{reason}"):
        unseen(tmp_path, rearrange).places(pictures(SMALL))


@pytest.mark.parametrize(
    ("processed", "reason"),
    [
        (lambda picture: picture.crop(picture.point(lambda value: value & 128).getbbox()), "by what it shows"),
        (lambda picture: picture.point(lambda value: 0), "the same pixels for a black picture"),
    ],
    ids=["cuts dark margins", "ignores the picture"],
)
def test_a_processor_that_looks_at_the_picture_is_refused(
    processed: Callable[[Image.Image], Image.Image], reason: str
) -> None:
    def encode(images: list[Image.Image]) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.tensor(np.array(processed(images[0])), dtype=torch.float32)}

    with pytest.raises(UnmappedError, match=reason):
        read_coordinates(encode, [SMALL])


def by_hand() -> NDArray[np.float64]:
    """Return LLaVA's places: the shorter side becomes 32, and a square of 4 x 4 patches is cut out of the middle."""
    width, height = SMALL
    left, side = (width - height) / 2, height / 4
    corners = [(left + column * side, row * side) for row in range(4) for column in range(4)]
    return np.array([(x, y, x + side, y + side) for x, y in corners])


def shifted(places: Places) -> Places:
    """Return the places of columns some way on."""
    return Places(places.picture, np.roll(places.box, max(1, len(places.box) // 5), axis=0))


def transposed(places: Places, size: Size) -> Places:
    width, height = size
    return Places(
        places.picture, places.box[:, [1, 0, 3, 2]] * np.array([width, height] * 2) / np.array([height, width] * 2)
    )
