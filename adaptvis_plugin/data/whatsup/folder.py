"""What a user's folder contains of WhatsUp, or of the user's own data in the same form.

The official layout, which may also be in a subfolder ``data``:

- Annotations, in one of two forms. An entry of ``controlled_images_dataset.json`` or ``controlled_clevr_dataset.json``
  is ``{"image_path": "data/controlled_images/….jpeg", "caption_options": [four captions, the true one first]}``. An
  entry of the files of COCO and Visual Genome, for example ``coco_qa_two_obj.json``, is
  ``[image id, true caption, false caption]``.
- Pictures: the folders ``controlled_images``, ``controlled_clevr``, ``val2017`` and ``vg_images``, or their archives
  (``.tar.gz`` or ``.zip``).
- Instead of annotations and pictures: the Hub's files ``<subset>-*.parquet``.
- The authors' questions, for example ``prompts/Controlled_Images_A_with_answer_four_options.jsonl``. They are
  fetched if they are missing.

Data of your own is ``<name>.json``, which is an annotation file in either form, and its pictures. A picture listed by
id is ``images/<id>.jpg``. ``<name>_questions.jsonl`` may add questions in the authors' form; without it, they are
written from the captions.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

from adaptvis_plugin.data import fetch, files
from adaptvis_plugin.data.archives import read_members
from adaptvis_plugin.data.cache import DataError
from adaptvis_plugin.data.dataset import Picture
from adaptvis_plugin.data.whatsup.annotations import Annotation, Entry, read_annotations
from adaptvis_plugin.data.whatsup.facts import Subset
from adaptvis_plugin.data.whatsup.parquet import read_parquet


class Layout(NamedTuple):
    """The files that a folder has of a data set. They are found, but not verified, and no picture is read.

    Attributes:
        folder: The folder.
        by_id: The name of a picture that is listed by id, with ``{}`` for the id.
        annotations: The annotation file; None if there are only parquet files.
        questions: The question file, if there is one.
        archive: The archive with the pictures, if they are not unpacked.
        parquet: The Hub's files.
    """

    folder: Path
    by_id: str
    annotations: Path | None
    questions: Path | None
    archive: Path | None = None
    parquet: tuple[Path, ...] = ()

    def files(self) -> tuple[Path, ...]:
        """Return every file that the table is made from.

        Raises:
            DataError: If the annotations are not what they should be.
        """
        if self.annotations is None:
            used = list(self.parquet)
        elif self.archive:
            used = [self.annotations, self.archive]
        else:
            rows = read_annotations(self.annotations, self.by_id)
            places = (files.find(self.folder, *row.names) for row in rows)
            used = [self.annotations, *(path for path in places if path)]
        return (*used, self.questions) if self.questions else tuple(used)

    def read(self, subset: Subset | None = None, unpacked: str = "") -> tuple[list[Entry], list[str]]:
        """Read the captions, and find the pictures.

        Args:
            subset: The published facts to compare the files with; None for the user's own data.
            unpacked: The name in the downloads folder for pictures from an archive.

        Returns:
            The entries, and which files were compared with a published SHA-256.

        Raises:
            DataError: If a file is not what it should be, or a picture is missing.
        """
        if self.annotations is None:
            return read_parquet(self.parquet), []
        verified = []
        for what, path, expected in [
            ("annotations", self.annotations, subset and subset.annotations_sha256),
            ("archive", self.archive, subset and subset.images_sha256),
        ]:
            if path and expected:
                fetch.verify(path, expected, str(self.folder), advice(path))
                verified.append(what)
        rows = read_annotations(self.annotations, self.by_id)
        return from_archive(rows, self.archive, unpacked) if self.archive else _from_disk(rows, self.folder), verified


def advice(path: Path) -> str:
    """Say what to do about a file of a folder that is not the published one."""
    return (
        f"Replace {path}, or leave out --from to have it fetched. If the data is meant to differ from the published "
        "data, prepare it as a folder of your own under another name: `adaptvis data prepare --help`."
    )


def official(name: str, subset: Subset, folder: Path) -> Layout:
    """Find a subset in a folder in the official layout.

    Raises:
        DataError: If the folder does not contain it.
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
    return Layout(folder, subset.by_id, annotations, questions, archive, tuple(sorted(packed)))


def own(name: str, folder: Path) -> Layout:
    """Find the user's own data in a folder.

    Raises:
        DataError: If the folder has no data of this name.
    """
    annotations = files.find(folder, f"{name}.json")
    if annotations is None:
        raise DataError(
            f"{name} is not a known data set, and {folder} has no {name}.json. See `adaptvis data prepare --help`."
        )
    return Layout(folder, "images/{}.jpg", annotations, files.find(folder, f"{name}_questions.jsonl"))


def from_archive(rows: list[Annotation], archive: Path, unpacked: str) -> list[Entry]:
    """Unpack the pictures that annotations list.

    Args:
        rows: The annotations.
        archive: The archive with the pictures.
        unpacked: The name of the folder for them in the downloads folder.

    Raises:
        DataError: If the archive is damaged, or a picture is missing.
    """
    wanted = {name for row in rows for name in row.names}
    members = read_members(archive, wanted, fetch.downloads() / unpacked, fetch.MAX_IMAGE)
    entries = []
    for number, row in enumerate(rows):
        name = next((name for name in row.names if name in members), None)
        if name is None:
            raise DataError(f"Row {number}: {archive} has no {_either(row)}.")
        entries.append(Entry(row.captions, Picture(name, members[name].read_bytes)))
    return entries


def _from_disk(rows: list[Annotation], folder: Path) -> list[Entry]:
    entries = []
    for number, row in enumerate(rows):
        path = files.find(folder, *row.names)
        if path is None:
            raise DataError(f"Row {number}: {folder} has no {_either(row)}.")
        try:
            files.regular(path)
        except DataError as error:
            raise DataError(f"Row {number}: {error}") from error
        entries.append(Entry(row.captions, Picture(path.name, partial(files.read_bytes, path, fetch.MAX_IMAGE))))
    return entries


def _either(row: Annotation) -> str:
    return " and no ".join(dict.fromkeys(row.names))
