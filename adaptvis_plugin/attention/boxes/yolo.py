"""Label files in YOLO's form: for each picture a text file with a line `class x y width height` for each object.

The four numbers are the box's centre and size as shares of the picture's width and height. A sixth number, the
confidence of a detector, may follow; it is not used.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import yaml

from adaptvis_plugin.attention.boxes.labels import Labels
from adaptvis_plugin.attention.record import AttentionError
from adaptvis_plugin.data import files
from adaptvis_plugin.data.cache import DataError

NAMES = ("classes.txt", "names.txt", "obj.names", "data.yaml")
"""Files with the names of the classes that are looked for in the folder if none is given."""

LARGEST = 2**22
"""Bytes of a label file or of the file with the names."""

LINE = "A line is: class x y width height, all but the class as shares of the picture's width and height"


def read_yolo(folder: Path, names: Path | None) -> Labels:
    """Read a folder of label files. A picture's key is its label file's name without `.txt`.

    Args:
        folder: The folder.
        names: The file with the classes' names: one a line, or a YAML file with them under `names`. None to look for
            one in the folder.

    Raises:
        AttentionError: If there are no label files or no names, or a line is not of the form; the message names it.
    """
    if names is None:
        names = next((folder / name for name in NAMES if os.path.exists(folder / name)), None)
    if names is None:
        raise AttentionError(
            f"{folder} has no file with the names of its classes ({', '.join(NAMES)}). Give one: yolo:{folder},FILE"
        )
    known = _names(names)
    labels = Labels(relative=True)
    inside = os.path.realpath(folder)
    for file in sorted(_label_files(folder)):
        if file.name in NAMES or (names.exists() and file.samefile(names)):
            continue
        if os.path.dirname(os.path.realpath(file)) != inside:
            raise AttentionError(f"{file} is a link that leads out of the folder. Put a copy in its place.")
        picture = labels.picture(file.stem)
        for number, line in enumerate(_text(file).splitlines(), 1):
            if line.strip():
                try:
                    labels.add(picture, *_box(line.split(), known))
                except ValueError as error:
                    raise AttentionError(f"{file}, line {number}: {error}. {LINE}.") from error
    if not len(labels):
        raise AttentionError(f"{folder} has no label files (PICTURE.txt). Give the folder that holds them itself.")
    return labels


def _label_files(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.name.endswith(".txt")]
    except OSError as error:
        raise AttentionError(f"{folder} cannot be read as a folder of label files: {error.strerror}.") from error


def _box(fields: list[str], names: dict[int, str]) -> tuple[str, float, float, float, float]:
    if len(fields) not in (5, 6):
        outline = "; outlines are not boxes" if len(fields) > 6 else ""
        raise ValueError(f"it has {len(fields)} fields, not 5 or 6{outline}")
    if not (fields[0].isascii() and fields[0].isdigit()) or int(fields[0]) not in names:
        raise ValueError(f"its class is {fields[0]!r}, but the classes are {_some(names)}")
    x, y, width, height = values = [_number(field) for field in fields[1:5]]
    if not all(0 <= value <= 1 for value in values):
        raise ValueError(f"one of {' '.join(fields[1:5])} is not between 0 and 1. Divide pixels by the picture's size")
    if width == 0 or height == 0:
        raise ValueError(f"its box is {fields[3]} wide and {fields[4]} high, which is no area")
    return names[int(fields[0])], x - width / 2, y - height / 2, width, height


def _number(field: str) -> float:
    try:
        value = float(field)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{field!r} is not a number")
    return value


def _names(path: Path) -> dict[int, str]:
    """Return the names of the classes by number."""
    text = _text(path)
    if path.suffix not in (".yaml", ".yml"):
        found: Any = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        try:
            content = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise AttentionError(f"{path} is not YAML: {' '.join(str(error).split())}. Correct it.") from error
        found = content.get("names") if isinstance(content, dict) else None
    named = dict(enumerate(found)) if isinstance(found, list) else found
    if (
        not isinstance(named, dict)
        or not named
        or not all(type(number) is int and isinstance(name, str) for number, name in named.items())
    ):
        raise AttentionError(
            f"{path} does not name the classes. Give a text file with one name a line, or a YAML file with a list of "
            "them under names."
        )
    return named


def _text(path: Path) -> str:
    try:
        return files.read_bytes(path, LARGEST).decode("utf-8-sig")
    except DataError as error:
        raise AttentionError(str(error)) from error
    except UnicodeDecodeError as error:
        raise AttentionError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}).") from error


def _some(names: dict[int, str]) -> str:
    first = [f"{number} ({name})" for number, name in [*names.items()][:3]]
    return ", ".join([*first, "…"] if len(names) > 3 else first)
