"""WhatsUp: six data sets of pictures with captions (Kamath et al.), asked with the questions of Chen et al.

- `facts`: addresses, checksums, and numbers of rows.
- `folder`: what a user's folder contains; `own`: a folder with the user's own data in the same form.
- `annotations`, `parquet`: the two kinds of files with captions, from the authors and from the Hub.
- `rows`: captions, pictures and questions put together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

from adaptvis_plugin.data import fetch
from adaptvis_plugin.data.dataset import DataSet, Facts, Rows, Source
from adaptvis_plugin.data.questions import Question, read_questions
from adaptvis_plugin.data.settings import load_facts
from adaptvis_plugin.data.whatsup.annotations import Entry, read_annotations
from adaptvis_plugin.data.whatsup.facts import Subset, WhatsUpFacts
from adaptvis_plugin.data.whatsup.folder import advice, from_archive, official
from adaptvis_plugin.data.whatsup.parquet import read_parquet
from adaptvis_plugin.data.whatsup.rows import build_rows, compare

Found = tuple[list[Entry], list[str]]
"""The captions and pictures of a source, and which of its files were compared with a published SHA-256."""


@dataclass(frozen=True)
class WhatsUp(DataSet):
    """One subset of WhatsUp."""

    facts: ClassVar[type[Facts] | None] = WhatsUpFacts

    def sources(self, folder: Path | None) -> Iterator[Source]:
        """Yield the folder; or the Hub data sets, and then the authors' archives.

        Raises:
            DataError: If the folder does not contain the subset.
        """
        facts = load_facts(WhatsUpFacts)
        subset: Subset = getattr(facts.whatsup, self.name)
        url = facts.questions_url + subset.questions
        unpacked = f"{self.name}-pictures"
        if folder is not None:
            layout = official(self.name, subset, folder)
            asked = partial(self._questions, subset, url, layout.questions)
            read = partial(self._rows, subset, asked, partial(layout.read, subset, unpacked))
            yield Source(str(folder), read, layout.files(), (subset.questions, unpacked))
            return
        questions = cache(partial(self._questions, subset, url, None))  # fetched once for all the sources
        for repo in facts.whatsup_hub:
            place = f"{fetch.hub_folder(repo)}--{subset.subset}"
            read = partial(self._rows, subset, questions, partial(_from_hub, repo, subset, place))
            yield Source(f"Hub data set {repo}", read, downloads=(subset.questions, place))
        read = partial(self._rows, subset, questions, partial(_from_drive, facts.drive_url, subset, unpacked))
        name = f"archive {subset.images} of the WhatsUp authors"
        yield Source(name, read, downloads=(subset.questions, subset.annotations, subset.images, unpacked))

    def _rows(self, subset: Subset, questions: Callable[[], list[Question]], find: Callable[[], Found]) -> Rows:
        """Read the questions first, because they are small, and then the captions and pictures."""
        asked = questions()
        entries, checked = find()
        verified = (compare(self.name, entries, asked), f"SHA-256 of {', '.join(['questions', *checked])}")
        return Rows(build_rows(self.name, entries, asked), subset.questions, verified, subset.rows)

    def _questions(self, subset: Subset, url: str, path: Path | None) -> list[Question]:
        """Read the authors' questions from the user's file; fetch them if there is none."""
        if path:
            fetch.verify(path, subset.questions_sha256, str(path.parent), advice(path))
            return read_questions(path)
        try:
            return read_questions(fetch.fetch(url, fetch.downloads() / subset.questions, subset.questions_sha256))
        except fetch.Unavailable as error:
            raise fetch.NoSourceAvailable(
                f"The questions of {self.name} are not available now: {error}\nTry again later, or: adaptvis data "
                f"prepare {self.name} --from FOLDER, with {subset.questions} in it"
            ) from error


DATA_SETS = tuple(
    WhatsUp(name, f"whatsup_{name}", vlmevalkit, "whatsup")
    for name, vlmevalkit in {
        "controlled_a": "WhatsUp_Controlled_A",
        "controlled_b": "WhatsUp_Controlled_B",
        "coco_one": "WhatsUp_COCO_One",
        "coco_two": "WhatsUp_COCO_Two",
        "vg_one": "WhatsUp_VG_One",
        "vg_two": "WhatsUp_VG_Two",
    }.items()
)


def _from_hub(repo: str, subset: Subset, place: str) -> Found:
    paths = fetch.hub_files(repo, lambda file: Path(file).name.startswith(f"{subset.subset}-"), place)
    return read_parquet(paths), []


def _from_drive(drive_url: str, subset: Subset, unpacked: str) -> Found:
    def drive(file: str, file_id: str, expected: str | None) -> Path:
        return fetch.fetch(drive_url + file_id, fetch.downloads() / file, expected)

    annotations = drive(subset.annotations, subset.annotations_id, subset.annotations_sha256)
    archive = drive(subset.images, subset.images_id, subset.images_sha256)
    checksums = {"annotations": subset.annotations_sha256, "archive": subset.images_sha256}
    entries = from_archive(read_annotations(annotations, subset.by_id), archive, unpacked)
    return entries, [what for what, expected in checksums.items() if expected]
