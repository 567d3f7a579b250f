"""The authors' annotation files, which list pictures with their captions in one of two forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from adaptvis_plugin.data import files
from adaptvis_plugin.data.cache import DataError
from adaptvis_plugin.data.dataset import Picture


class Entry(NamedTuple):
    """A picture with its captions, the true one first."""

    captions: list[str]
    picture: Picture


class Annotation(NamedTuple):
    """What an annotation file says of a picture: the names it may have in the folder, and its captions."""

    names: list[str]
    captions: list[str]


def read_annotations(path: Path, by_id: str) -> list[Annotation]:
    """Read an annotation file of either form.

    Args:
        path: The file.
        by_id: The name of a picture that is listed by id, with ``{}`` for the id.

    Raises:
        DataError: If it is not such a file; the message names the row.
    """
    try:
        rows = json.loads(files.read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}). If it is a web page, the download failed.") from error
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} holds {_type(rows)}, where a list of rows is expected.")
    read = []
    for number, row in enumerate(rows):
        try:
            read.append(_annotation(row, by_id))
        except ValueError as error:
            raise DataError(
                f'{path}, row {number}: {error}. A row is {{"image_path": …, "caption_options": [true, false, …]}} '
                "or [id, true caption, false caption]."
            ) from error
    return read


def _type(value: Any) -> str:
    return "nothing" if value in ([], {}, "", None) else f"a {type(value).__name__}"


def _annotation(row: Any, by_id: str) -> Annotation:
    if isinstance(row, dict):
        path, captions = row.get("image_path"), row.get("caption_options")
        if not isinstance(path, str) or not path:
            raise ValueError(f"its image_path is {path!r}, where a name is expected")
        names = [path, path.removeprefix("data/")]
    elif isinstance(row, list) and row and type(row[0]) in (int, str):
        number, *captions = row
        names = [by_id.format(str(number))]
    else:
        raise ValueError(f"{row!r} is not a row")
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in names):
        raise ValueError(f"the picture {names[0]!r} leads out of the folder")
    return Annotation(names, check_captions(captions))


def check_captions(captions: Any) -> list[str]:
    """Return the captions of a row, the true one first.

    Raises:
        ValueError: If they are not two or more texts, or the true one is also a false one.
    """
    if not isinstance(captions, list) or len(captions) < 2:
        raise ValueError(f"its captions are {captions!r}, where a list of two or more is expected")
    if not all(isinstance(caption, str) and caption.strip() for caption in captions):
        raise ValueError(f"one of its captions {captions!r} is not a text")
    true, *false = (" ".join(caption.split()).rstrip(".").lower() for caption in captions)
    if true in false:
        raise ValueError(f"its true caption {captions[0]!r} is also a false one")
    return captions
