"""The rows of WhatsUp, captions and pictures: from a folder, from the Hub, or from the authors' archives.

A folder in the official layout holds any of::

    controlled_images_dataset.json   [{"image_path": "data/controlled_images/…", "caption_options": [4 strings]}, …]
    coco_qa_two_obj.json             [[image id, true caption, false caption], …]
    controlled_images/  val2017/  vg_images/    or, not unpacked, their .tar.gz or .zip
    prompts/Controlled_Images_A_with_answer_four_options.jsonl    the authors' questions (else they are fetched)

or the Hub's ``data/<subset>-*.parquet``. It may also be the folder above ``data/``.

A folder of your own holds ``<name>.json`` in either form, its pictures, and if you like ``<name>_questions.jsonl`` in
the authors' form; without one the questions are written from the captions. Pictures listed by id are
``images/<id>.jpg``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from adaptvis_plugin.data import fetch, files
from adaptvis_plugin.data.annotations import Picture, read_annotations
from adaptvis_plugin.data.archives import read_members
from adaptvis_plugin.data.cache import DataError
from adaptvis_plugin.data.parquet import read_parquet
from adaptvis_plugin.data.settings import Sources, Subset

_OWN, _COCO, _VG = "images/{}.jpg", "val2017/{:0>12}.jpg", "vg_images/{}.jpg"


class Rows(NamedTuple):
    """The rows of a source, and which of its files were held against a published SHA-256."""

    pictures: list[Picture]
    verified: list[str]


class Source(NamedTuple):
    """A place on the network to read rows from; `downloads` names what it leaves there."""

    name: str
    read: Callable[[], Rows]
    downloads: list[str]


class Layout(NamedTuple):
    """What a folder has of a data set: found, not verified, no picture read."""

    folder: Path
    by_id: str
    annotations: Path | None
    questions: Path | None
    archive: Path | None = None
    parquet: tuple[Path, ...] = ()

    def files(self) -> list[Path]:
        """Everything that a table of it is made of.

        Raises:
            DataError: The annotations are not what they should be.
        """
        if self.annotations is None:
            used = list(self.parquet)
        elif self.archive:
            used = [self.annotations, self.archive]
        else:
            rows = read_annotations(self.annotations, self.by_id)
            places = (files.find(self.folder, *names) for names, _ in rows)
            used = [self.annotations, *(path for path in places if path)]
        return [*used, self.questions] if self.questions else used

    def read(self, subset: Subset | None = None) -> Rows:
        """Its rows; those of a subset are verified.

        Raises:
            DataError: They are not what they should be, or a picture is missing.
        """
        if self.annotations is None:
            return Rows(read_parquet(self.parquet), [])
        verified = []
        for what, path, expected in [
            ("annotations", self.annotations, subset and subset.annotations_sha256),
            ("archive", self.archive, subset and subset.images_sha256),
        ]:
            if path and expected:
                fetch.verify(path, expected, str(self.folder), way_out(path))
                verified.append(what)
        read = partial(_in_archive, self.archive) if self.archive else partial(_on_disk, self.folder)
        return Rows(_listed(self.annotations, self.by_id, read), verified)


def way_out(path: Path) -> str:
    """What to do about a file of a folder that is not the published one."""
    return (
        f"Replace {path}, or leave out --from to have it fetched. If the data is meant to differ from the published, "
        "prepare it as a folder of your own, under another name: `adaptvis data prepare --help`."
    )


def official(name: str, subset: Subset, folder: Path) -> Layout:
    """A subset in a folder in the official layout.

    Raises:
        DataError: The folder does not have it.
    """
    annotations = files.find(folder, subset.annotations)
    unpacked = files.find(folder, subset.images.split(".")[0])
    archive = None if unpacked else files.find(folder, subset.images)
    packed = {path for place in (folder, folder / "data") for path in place.glob(f"{subset.subset}-*.parquet")}
    if not annotations and not packed:
        raise DataError(
            f"{folder} has neither {subset.annotations} nor {subset.subset}-*.parquet, so {name} cannot be made from "
            "it. See `adaptvis data prepare --help` for the layout."
        )
    questions = files.find(folder, f"prompts/{subset.questions}", subset.questions)
    return Layout(folder, _by_id(subset), annotations, questions, archive, tuple(sorted(packed)))


def own(name: str, folder: Path) -> Layout:
    """Data of your own in a folder.

    Raises:
        DataError: The folder has none of this name.
    """
    annotations = files.find(folder, f"{name}.json")
    if annotations is None:
        raise DataError(
            f"{name} is no known data set, and {folder} has no {name}.json. See `adaptvis data prepare --help`."
        )
    return Layout(folder, _OWN, annotations, files.find(folder, f"{name}_questions.jsonl"))


def network(subset: Subset, sources: Sources) -> Iterator[Source]:
    """Where a subset can be had from, best first."""
    for repo in sources.whatsup_hub:
        yield Source(f"Hub data set {repo}", partial(_hub, repo, subset), [fetch.hub_folder(repo)])
    yield Source(
        f"archive {subset.images} of the WhatsUp authors",
        partial(_drive, subset, sources),
        [subset.annotations, subset.images, f"{subset.images}.members"],
    )


def _hub(repo: str, subset: Subset) -> Rows:
    chosen = fetch.hub_files(repo, lambda file: Path(file).name.startswith(f"{subset.subset}-"))
    return Rows(read_parquet(chosen), [])


def _drive(subset: Subset, sources: Sources) -> Rows:
    def drive(file: str, file_id: str, expected: str | None) -> Path:
        return fetch.fetch(sources.drive_url + file_id, fetch.downloads() / file, expected)

    annotations = drive(subset.annotations, subset.annotations_id, subset.annotations_sha256)
    archive = drive(subset.images, subset.images_id, subset.images_sha256)
    checksums = {"annotations": subset.annotations_sha256, "archive": subset.images_sha256}
    rows = _listed(annotations, _by_id(subset), partial(_in_archive, archive))
    return Rows(rows, [what for what, expected in checksums.items() if expected])


def _by_id(subset: Subset) -> str:
    """Where the pictures of a subset that are listed by id lie; COCO and Visual Genome number theirs alike."""
    return _COCO if subset.images.startswith("val2017") else _VG


Names = list[list[str]]
File = tuple[str, Callable[[], bytes]]


def _listed(annotations: Path, by_id: str, find: Callable[[Names], list[File]]) -> list[Picture]:
    rows = read_annotations(annotations, by_id)
    found = find([names for names, _ in rows])
    return [Picture(captions, *file) for (_, captions), file in zip(rows, found, strict=True)]


def _on_disk(folder: Path, rows: Names) -> list[File]:
    found: list[File] = []
    for number, names in enumerate(rows):
        path = files.find(folder, *names)
        if path is None:
            raise DataError(f"Row {number}: {folder} has no {' and no '.join(dict.fromkeys(names))}.")
        try:
            files.regular(path)
        except DataError as error:
            raise DataError(f"Row {number}: {error}") from error
        found.append((path.name, partial(files.read_bytes, path, fetch.MAX_IMAGE)))
    return found


def _in_archive(archive: Path, rows: Names) -> list[File]:
    folder = fetch.downloads() / f"{archive.name}.members"
    members = read_members(archive, {name for names in rows for name in names}, folder, fetch.MAX_IMAGE)
    found = []
    for number, names in enumerate(rows):
        name = next((name for name in names if name in members), None)
        if name is None:
            raise DataError(f"Row {number}: {archive} has no {' and no '.join(dict.fromkeys(names))}.")
        found.append((name, members[name].read_bytes))
    return found
