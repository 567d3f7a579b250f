"""Annotation files of large data sets: COCO's instances and Visual Genome's objects."""

from __future__ import annotations

from array import array
from pathlib import Path, PurePosixPath
from typing import Any

from adaptvis_plugin.attention.boxes.labels import Labels, numbers
from adaptvis_plugin.attention.boxes.stream import read_items
from adaptvis_plugin.attention.record import AttentionError

COCO = (
    'It is an object with "images" [{"id", "file_name", "width", "height"}], "annotations" [{"image_id", '
    '"category_id", "bbox": [left, top, width, height]}] and "categories" [{"id", "name"}]: give '
    "instances_val2017.json or instances_train2017.json"
)
VG = (
    'It is a list of {"image_id", "objects": [{"names", "x", "y", "w", "h"}]}: give objects.json of Visual Genome '
    "1.2 or 1.4"
)


def read_coco(paths: list[Path]) -> Labels:
    """Read COCO's instance annotations. Crowds are left out: their box is that of a region, not of an object.

    Args:
        paths: The files, for example that of the validation and that of the training pictures.

    Raises:
        AttentionError: If a file is not one of these; the message names the item.
    """
    labels = Labels()
    for path in paths:
        _read_coco(path, labels)
    return labels


def _read_coco(path: Path, labels: Labels) -> None:
    pictures: dict[int, int] = {}
    names: dict[int, str] = {}
    whose, boxes = array("q"), array("f")  # the pictures and names may stand after the boxes
    for key, item in read_items(path):
        try:
            if key == "images":
                size = numbers([item["width"], item["height"]], 2)
                if min(size) <= 0:
                    raise ValueError(f"its size is {size[0]} x {size[1]}")
                file, number = PurePosixPath(item["file_name"]).stem, int(item["id"])
                pictures[number] = labels.picture(file, str(number), size=(size[0], size[1]))
            elif key == "categories":
                names[int(item["id"])] = _text(item["name"])
            elif key == "annotations":
                box, owner = numbers(item["bbox"], 4), (int(item["image_id"]), int(item["category_id"]))
                if not item.get("iscrowd"):
                    whose.extend(owner)
                    boxes.extend(box)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _wrong(path, f"an item of its {key!r}", item, error, COCO) from error
    if not pictures or not names or not whose:
        missing = [
            key for key, found in {"images": pictures, "annotations": whose, "categories": names}.items() if not found
        ]
        raise AttentionError(
            f"{path} is not COCO's instance annotations: it has no {' and no '.join(missing)}. {COCO}."
        )
    for row in range(len(whose) // 2):
        picture, name = whose[2 * row : 2 * row + 2]
        if picture not in pictures or name not in names:
            raise AttentionError(
                f"{path}: an annotation is of image {picture} and category {name}, but one of them is not listed. "
                "Get the file again."
            )
        left, top, width, height = boxes[4 * row : 4 * row + 4]
        labels.add(pictures[picture], names[name], left, top, width, height)


def read_vg(path: Path) -> Labels:
    """Read Visual Genome's objects. An object with several names is found by each of them.

    Raises:
        AttentionError: If the file is not one; the message names the item.
    """
    labels = Labels()
    for number, (key, item) in enumerate(read_items(path)):
        try:
            if key is not None:
                raise ValueError("the file is not a list")
            objects = item["objects"]
            picture = labels.picture(str(int(item["image_id"] if "image_id" in item else item["id"])))
            for one in objects:
                box = numbers([one["x"], one["y"], one["w"], one["h"]], 4)
                for name in dict.fromkeys(one["names"]):
                    labels.add(picture, _text(name), *box)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _wrong(path, f"its item {number}", item, error, VG) from error
    if not len(labels):
        raise AttentionError(f"{path} is not Visual Genome's objects: it is empty. {VG}.")
    return labels


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"the name {value!r} is not a text")
    return value


def _wrong(path: Path, where: str, item: Any, error: Exception, form: str) -> AttentionError:
    what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return AttentionError(f"{path}: {where} cannot be used: {what} (it begins {repr(item)[:60]}). {form}.")
