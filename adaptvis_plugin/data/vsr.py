"""VSR zero-shot: 1222 captions of 715 COCO images, each true or false.

A folder in the official layout contains ``test.jsonl`` (or, as in the authors' repository,
``data/splits/zeroshot/test.jsonl``). The images are in the folder itself or in its subfolders ``images``, ``train2017``
and ``val2017``. From the network the images are fetched one by one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlparse

from adaptvis_plugin.data import cache, fetch, files
from adaptvis_plugin.data.cache import DataError
from adaptvis_plugin.data.dataset import DataSet, Facts, Picture, Row, Rows, Source
from adaptvis_plugin.data.settings import load_facts


class Annotations(Facts):
    """The file with the captions.

    Attributes:
        rows: The number of captions.
        hub: The Hub data set with the file.
        file: Its name.
        url: The same file in the authors' repository.
        content_sha256: The SHA-256 of the lines "image<tab>caption<tab>label", which does not depend on how the JSON
            is written.
    """

    rows: int = 1222
    hub: str = "cambridgeltl/vsr_zeroshot"
    file: str = "test.jsonl"
    url: str = (
        "https://raw.githubusercontent.com/cambridgeltl/visual-spatial-reasoning/"
        "af55c2c21a85aa18aeea131a8b6778c8875f26cf/data/splits/zeroshot/test.jsonl"
    )
    content_sha256: str = "10733a8769165dedb18939a70eb498015990da5de8bff678e15800817425d44f"


class VsrFacts(Facts):
    """Everything published about VSR.

    Attributes:
        coco_url: The address of an image, up to the path in its ``image_link``.
        vsr: The file with the captions.
    """

    coco_url: str = "http://images.cocodataset.org/"
    vsr: Annotations = Annotations()


@dataclass(frozen=True)
class Vsr(DataSet):
    """The test split of VSR zero-shot."""

    facts: ClassVar[type[Facts] | None] = VsrFacts

    def sources(self, folder: Path | None) -> Iterator[Source]:
        """Yield the folder; or the Hub data set, and then the authors' repository.

        Raises:
            DataError: If the folder has no annotations, or they are not as expected.
        """
        facts = load_facts(VsrFacts)
        vsr, images = facts.vsr, f"images from {facts.coco_url}"
        if folder is not None:
            path = _annotations_in(folder, vsr.file)
            found = (_image_in(folder, row) for row in read_captions(path))
            used = (path, *dict.fromkeys(image for image in found if image))
            yield Source(str(folder), partial(_rows, vsr, lambda: path, partial(_find_images, folder)), used)
            return
        fetch_images = partial(_fetch_images, facts.coco_url)
        hub = partial(_hub_file, vsr)
        downloads = (_IMAGES, fetch.hub_folder(vsr.hub))
        yield Source(f"Hub data set {vsr.hub}, {images}", partial(_rows, vsr, hub, fetch_images), downloads=downloads)
        copy = f"vsr-{vsr.file}"
        repository = partial(_repository_file, vsr, copy)
        name = f"authors' file {vsr.url}, {images}"
        yield Source(name, partial(_rows, vsr, repository, fetch_images), downloads=(_IMAGES, copy))


DATA_SETS = (Vsr("vsr", "vsr", "VSR_QA", "vsr"),)

_IMAGES = "vsr-images"
_TASK = "Determine whether the description about the spatial relationship is correct or not. Answer with yes or no:"
_LINK = re.compile(r"/(?P<path>(?:train|val)2017/(?P<file>[\w-]+\.(?:jpg|png)))")

CaptionRow = dict[str, Any]
"""A row of the annotations, and with it ``path``, where COCO has its image."""


def question(caption: str) -> str:
    """Return the authors' question without the marks of their prompt."""
    return f"{_TASK} {caption}"


def prompt(caption: str) -> str:
    """Return the authors' whole prompt, with its capital ``User`` and the space after the line break."""
    return f"User: <image>\n {question(caption)} Assistant:"


def read_captions(path: Path) -> list[CaptionRow]:
    """Read the file with the captions.

    Raises:
        DataError: If a row is not as expected; the message names it.
    """
    rows = []
    for number, line in enumerate(files.read_lines(path)):
        try:
            row = json.loads(line)
            link = _LINK.fullmatch(urlparse(row["image_link"]).path)
            if not link or link["file"] != row["image"]:
                raise ValueError(f"{row['image_link']!r} is not a link to the image {row['image']!r} of COCO 2017")
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


def verify(rows: list[CaptionRow], path: Path, vsr: Annotations) -> None:
    """Compare the annotations with the published checksum.

    Raises:
        DataError: If they differ.
    """
    content = "\n".join(f"{row['image']}\t{row['caption']}\t{row['label']}" for row in rows)
    digest = hashlib.sha256(content.encode()).hexdigest()
    if digest != vsr.content_sha256:
        raise DataError(
            f"vsr: the annotations in {path} are not the published ones: there are {len(rows)} of {vsr.rows}, and the "
            f"SHA-256 of their images, captions and labels is {digest}, not {vsr.content_sha256}. Get them again."
        )


def _rows(vsr: Annotations, find: Callable[[], Path], images: Callable[[list[CaptionRow]], dict[str, Path]]) -> Rows:
    path = find()
    annotations = read_captions(path)
    verify(annotations, path, vsr)
    paths = images(annotations)
    rows = [
        Row(
            image=Picture(row["image"], partial(files.read_bytes, paths[row["image"]], fetch.MAX_IMAGE)),
            question=question(row["caption"]),
            prompt=prompt(row["caption"]),
            answer="Yes" if row["label"] else "No",
            options=["yes", "no"],
            relation=row["relation"],
            set_id=None,
            pair_id=None,
            caption_options=[row["caption"]],
        )
        for row in annotations
    ]
    verified = ("SHA-256 of images' names, captions and labels",)
    return Rows(rows, verified=verified, published=vsr.rows)


def _annotations_in(folder: Path, file: str) -> Path:
    for name in (file, f"zeroshot/{file}", f"data/splits/zeroshot/{file}"):
        if os.path.exists(folder / name):
            return folder / name
    raise DataError(f"{folder} has no {file}, the annotations of VSR zero-shot.")


def _hub_file(vsr: Annotations) -> Path:
    [path] = fetch.hub_files(vsr.hub, lambda name: name == vsr.file, fetch.hub_folder(vsr.hub))
    return path


def _repository_file(vsr: Annotations, copy: str) -> Path:
    return fetch.fetch(vsr.url, fetch.downloads() / copy)


def _find_images(folder: Path, rows: list[CaptionRow]) -> dict[str, Path]:
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


def _image_in(folder: Path, row: CaptionRow) -> Path | None:
    places = (folder / row["path"], folder / "images" / row["image"], folder / row["image"])
    return next((place for place in places if os.path.exists(place)), None)


def _fetch_images(coco_url: str, rows: list[CaptionRow]) -> dict[str, Path]:
    folder = fetch.downloads() / _IMAGES
    folder.mkdir(exist_ok=True)
    images = {row["image"]: folder / row["image"] for row in rows}
    links = {row["image"]: coco_url + row["path"] for row in rows}
    try:
        fetch.fetch_images([(links[name], path) for name, path in images.items()], cache.check_image)
    except DataError as error:  # the other source has its images from the same place
        raise fetch.NoSourceAvailable(str(error)) from error
    return images
