"""VSR zero-shot: 1222 captions of 715 COCO images, each true or false.

A folder in the official layout holds ``test.jsonl`` (or the repository's
``data/splits/zeroshot/test.jsonl``) and the images, at the top or in ``images``, ``train2017`` and
``val2017``. From the network the images come one by one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from adaptvis_plugin.data import cache, fetch, files
from adaptvis_plugin.data.cache import DataError, Provenance
from adaptvis_plugin.data.dataset import DataSet, Source
from adaptvis_plugin.data.settings import Sources
from adaptvis_plugin.data.splits import authors_split

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vsr(DataSet):
    """VSR zero-shot test."""

    def sources(self, folder: Path | None) -> Iterable[Source]:
        """Yield the folder, or the Hub data set and then the authors' repository."""
        raise NotImplementedError


DATA_SETS = (Vsr("vsr", "vsr", "VSR_QA", "vsr"),)

IMAGES = "vsr-images"
_TASK = "Determine whether the description about the spatial relationship is correct or not. Answer with yes or no:"
_LINK = re.compile(r"/(?P<path>(?:train|val)2017/(?P<file>[\w-]+\.(?:jpg|png)))")


def question(caption: str) -> str:
    """The authors' question without the marks of their prompt."""
    return f"{_TASK} {caption}"


def prompt(caption: str) -> str:
    """The authors' whole prompt, with its capital ``User`` and the space after the line break."""
    return f"User: <image>\n {question(caption)} Assistant:"


def make(folder: Path | None, sources: Sources) -> None:
    """Makes the table.

    Raises:
        DataError: No source has it, or what a source has is not what was published.
    """
    path, source = _annotations(folder, sources)
    made_of = files.fingerprint(folder_files(folder, sources)) if folder else None
    rows = _read(path)
    _verify(rows, source, sources)
    images = _images_in(folder, rows) if folder else _fetch_images(rows, sources)
    validation = set(authors_split(len(rows))[0])

    def table() -> Iterator[dict[str, Any]]:
        for number, row in enumerate(rows):
            data = files.read_bytes(images[row["image"]], fetch.MAX_IMAGE)
            cache.check_image(data, f"{row['image']} (row {number})")
            yield {
                "id": number,
                "image": {"bytes": data, "path": None},
                "question": question(row["caption"]),
                "prompt": prompt(row["caption"]),
                "answer": "Yes" if row["label"] else "No",
                "options": ["yes", "no"],
                "relation": row["relation"],
                "set_id": None,
                "pair_id": None,
                "split": "val" if number in validation else "test",
                "caption_options": [row["caption"]],
            }

    verified = ("number of rows", "SHA-256 of images' names, captions and labels")
    cache.write_table(table(), Provenance("vsr", len(rows), source, "template", verified, made_of))


def folder_files(folder: Path, sources: Sources) -> list[Path]:
    """Everything in a folder that the table is made of.

    Raises:
        DataError: The folder has no annotations, or they are not what they should be.
    """
    path, _ = _annotations(folder, sources)
    images = (_image_in(folder, row) for row in _read(path))
    return [path, *dict.fromkeys(image for image in images if image)]


def _annotations(folder: Path | None, sources: Sources) -> tuple[Path, str]:
    vsr = sources.vsr
    if folder is not None:
        for name in (vsr.file, f"zeroshot/{vsr.file}", f"data/splits/zeroshot/{vsr.file}"):
            if os.path.exists(folder / name):
                return folder / name, str(folder)
        raise DataError(f"{folder} has no {vsr.file}, the annotations of VSR zero-shot.")
    try:
        [path] = fetch.hub_files(vsr.hub, lambda name: name == vsr.file)
        return path, f"Hub data set {vsr.hub}, images from {sources.coco_url}"
    except fetch.Unavailable as error:
        log.warning("vsr: %s; trying the next source", error)
        path = fetch.fetch(vsr.url, fetch.downloads() / f"vsr-{vsr.file}")
        return path, f"{vsr.url}, images from {sources.coco_url}"


def _read(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(files.read_lines(path)):
        try:
            row = json.loads(line)
            link = _LINK.fullmatch(urlparse(row["image_link"]).path)
            if not link or link["file"] != row["image"]:
                raise ValueError(f"{row['image_link']!r} is no link to the image {row['image']!r} of COCO 2017")
            if row["label"] not in (0, 1):
                raise ValueError(f"its label is {row['label']!r}, neither 0 nor 1")
            if row["relation"] not in row["caption"].lower():
                raise ValueError(f"its relation {row['relation']!r} is not in its caption {row['caption']!r}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{path}, row {number}, is not a row of VSR ({type(error).__name__}: {error}). Get the file again."
            ) from error
        rows.append({**row, "path": link["path"]})
    return rows


def _verify(rows: list[dict[str, Any]], source: str, sources: Sources) -> None:
    if len(rows) != sources.vsr.rows:
        raise DataError(f"vsr: {source} has {len(rows)} rows, {sources.vsr.rows} were published. Get it again.")
    content = "\n".join(f"{row['image']}\t{row['caption']}\t{row['label']}" for row in rows)
    digest = hashlib.sha256(content.encode()).hexdigest()
    if digest != sources.vsr.content_sha256:
        raise DataError(
            f"vsr: the annotations from {source} are not the published ones: the SHA-256 of their images, captions "
            f"and labels is {digest}, not {sources.vsr.content_sha256}. Get them again."
        )


def _images_in(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Path]:
    found = {}
    for number, row in enumerate(rows):
        path = _image_in(folder, row)
        if path is None:
            raise DataError(
                f"vsr, row {number}: {folder} has no {row['path']}, images/{row['image']} or {row['image']}."
            )
        try:
            found[row["image"]] = files.regular(path)
        except DataError as error:
            raise DataError(f"vsr, row {number}: {error}") from error
    return found


def _image_in(folder: Path, row: dict[str, Any]) -> Path | None:
    places = (folder / row["path"], folder / "images" / row["image"], folder / row["image"])
    return next((place for place in places if os.path.exists(place)), None)


def _fetch_images(rows: list[dict[str, Any]], sources: Sources) -> dict[str, Path]:
    folder = fetch.downloads() / IMAGES
    folder.mkdir(exist_ok=True)
    images = {row["image"]: folder / row["image"] for row in rows}
    links = {row["image"]: sources.coco_url + row["path"] for row in rows}
    fetch.fetch_images([(links[name], path) for name, path in images.items()], cache.check_image)
    return images
