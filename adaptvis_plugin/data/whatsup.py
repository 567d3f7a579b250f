"""WhatsUp from a folder, from the Hub, or from the authors' archives, and folders of your own in its form.

A folder in the official layout holds any of::

    controlled_images_dataset.json   [{"image_path": "data/controlled_images/…", "caption_options": [4
    strings]}, …] coco_qa_two_obj.json             [[image id, true caption, false caption], …]
    controlled_images/  val2017/  vg_images/     or, not unpacked, their .tar.gz or .zip
    prompts/Controlled_Images_A_with_answer_four_options.jsonl       the authors' questions (else they are
    fetched)

or the Hub's ``data/<subset>-*.parquet``. It may also be the folder above ``data/``.

A folder of your own holds ``<name>.json`` in either form, its pictures, and if you like
``<name>_questions.jsonl`` in the authors' form; without one the questions are written from the captions.
Pictures listed by id
are ``images/<id>.jpg``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from adaptvis_plugin.data import cache, fetch
from adaptvis_plugin.data.archives import read_members
from adaptvis_plugin.data.cache import DataError, Provenance
from adaptvis_plugin.data.questions import Question, check_answer, object_key, read_questions, write_questions
from adaptvis_plugin.data.settings import Sources, Subset
from adaptvis_plugin.data.splits import authors_split

log = logging.getLogger(__name__)

OWN_IMAGES = "images/{}.jpg"
_COCO_IMAGES, _VG_IMAGES = "val2017/{:0>12}.jpg", "vg_images/{}.jpg"


class Picture(NamedTuple):
    """One row of a source: the captions, the true one first, and how to get the picture."""

    captions: list[str]
    name: str
    read: Callable[[], bytes]


def make(name: str, folder: Path | None, sources: Sources) -> None:
    """Makes the table of a subset.

    Raises:
        DataError: No source has it, or what a source has is not what was published.
    """
    subset = sources.whatsup[name]
    pictures, source = _pictures(name, subset, folder, sources)
    if len(pictures) != subset.rows:
        raise DataError(
            f"{name}: {source} has {len(pictures)} rows, {subset.rows} were published. It is cut short or another "
            "data set; get it again, or prepare it as a folder of your own under another name."
        )
    path = _find(folder, f"prompts/{subset.questions}", subset.questions) if folder else None
    if path is None:
        path = fetch.fetch(sources.questions_url + subset.questions, fetch.downloads() / subset.questions)
    fetch.verify(path, subset.questions_sha256, str(path))
    _write(Provenance(name, len(pictures), source, subset.questions, verified=True), pictures, read_questions(path))


def make_own(name: str, folder: Path) -> None:
    """Makes the table of a folder of your own.

    Raises:
        DataError: The folder has no such data, or it is not in the form that the module's text describes.
    """
    annotations = _find(folder, f"{name}.json")
    if annotations is None:
        raise DataError(f"{name} is no known data set, and {folder} has no {name}.json. See `adaptvis data --help`.")
    pictures = _listed(annotations, OWN_IMAGES, _on_disk(folder))
    path = _find(folder, f"{name}_questions.jsonl")
    questions = read_questions(path) if path else write_questions([picture.captions for picture in pictures])
    origin = Provenance(name, len(pictures), str(folder), path.name if path else "template", verified=False)
    _write(origin, pictures, questions)


def _pictures(name: str, subset: Subset, folder: Path | None, sources: Sources) -> tuple[list[Picture], str]:
    """The rows of the first source that has them, and what that was."""
    if folder is not None:
        return _from_folder(name, subset, folder), str(folder)
    refusals = []
    for repo in sources.whatsup_hub:
        try:
            files = fetch.hub_files(repo, lambda file: Path(file).name.startswith(f"{subset.subset}-"))
            return _parquet(files), f"Hub data set {repo}"
        except fetch.Unavailable as error:
            log.warning("%s: %s; trying the next source", name, error)
            refusals.append(str(error))
    try:
        return _from_archives(subset, sources), f"archive {subset.images} of the WhatsUp authors"
    except fetch.Unavailable as error:
        refusals.append(str(error))
    raise fetch.Unavailable(
        f"{name} cannot be had from anywhere now:\n- "
        + "\n- ".join(refusals)
        + f"\nTry again later (downloads go on where they stopped), or: adaptvis data prepare {name} --from FOLDER"
    )


def _from_folder(name: str, subset: Subset, folder: Path) -> list[Picture]:
    if annotations := _find(folder, subset.annotations):
        fetch.verify(annotations, subset.annotations_sha256, str(folder))
        archive = _find(folder, subset.images)
        by_id = _by_id(subset)
        unpacked = _find(folder, subset.images.split(".")[0])
        if unpacked is None and archive is not None:
            fetch.verify(archive, subset.images_sha256, str(folder))
            return _listed(annotations, by_id, partial(_in_archive, archive))
        return _listed(annotations, by_id, _on_disk(folder))
    if files := sorted([*folder.glob(f"{subset.subset}-*.parquet"), *folder.glob(f"data/{subset.subset}-*.parquet")]):
        return _parquet(files)
    raise DataError(
        f"{folder} has neither {subset.annotations} nor {subset.subset}-*.parquet, so {name} cannot be made from it. "
        "See `adaptvis data prepare --help` for the layout."
    )


def _by_id(subset: Subset) -> str:
    """Where the pictures of a subset that are listed by id lie; COCO and Visual Genome number theirs alike."""
    return _COCO_IMAGES if subset.images.startswith("val2017") else _VG_IMAGES


def _from_archives(subset: Subset, sources: Sources) -> list[Picture]:
    def drive(file: str, file_id: str, expected: str | None) -> Path:
        return fetch.fetch(sources.drive_url + file_id, fetch.downloads() / file, expected)

    annotations = drive(subset.annotations, subset.annotations_id, subset.annotations_sha256)
    archive = drive(subset.images, subset.images_id, subset.images_sha256)
    return _listed(annotations, _by_id(subset), partial(_in_archive, archive))


Readers = Callable[[list[list[str]]], list[tuple[str, Callable[[], bytes]]]]


def _listed(annotations: Path, by_id: str, find: Readers) -> list[Picture]:
    """The rows of an annotation file of either form; `by_id` is where a picture with an id lies."""
    try:
        rows = [_row(row, by_id) for row in json.loads(annotations.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise DataError(
            f"{annotations} is not a list of WhatsUp rows ({type(error).__name__}: {error}). If it is a web page, the "
            "download failed; fetch it again."
        ) from error
    found = find([names for names, _ in rows])
    return [Picture(captions, *file) for (_, captions), file in zip(rows, found, strict=True)]


def _row(row: Any, by_id: str) -> tuple[list[str], list[str]]:
    """The names a picture may have, relative to the folder, and its captions."""
    if isinstance(row, dict):
        path = str(row["image_path"])
        names, captions = [path, path.removeprefix("data/")], row["caption_options"]
    else:
        number, *captions = row
        names = [by_id.format(str(number))]
    if len(captions) < 2 or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"{row!r} has no two captions")
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in names):
        raise ValueError(f"the picture {names[0]!r} leads out of the folder")
    return names, list(captions)


def _on_disk(folder: Path) -> Readers:
    def find(rows: list[list[str]]) -> list[tuple[str, Callable[[], bytes]]]:
        found = []
        for number, names in enumerate(rows):
            path = _find(folder, *names)
            if path is None:
                raise DataError(f"Row {number}: {folder} has no {' and no '.join(names)}.")
            if path.stat().st_size > fetch.MAX_IMAGE:
                raise DataError(f"Row {number}: {path} has {path.stat().st_size:,} bytes; that is no photo.")
            found.append((path.name, path.read_bytes))
        return found

    return find


def _in_archive(archive: Path, rows: list[list[str]]) -> list[tuple[str, Callable[[], bytes]]]:
    folder = fetch.downloads() / f"{archive.name}.members"
    members = read_members(archive, {name for names in rows for name in names}, folder, fetch.MAX_IMAGE)
    found = []
    for number, names in enumerate(rows):
        name = next((name for name in names if name in members), None)
        if name is None:
            raise DataError(f"Row {number}: {archive} has no {' and no '.join(names)}.")
        found.append((name, members[name].read_bytes))
    return found


def _parquet(files: list[Path]) -> list[Picture]:
    """The rows of the Hub's parquet files; a picture is read again when its turn comes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures: list[Picture] = []
    for file in files:
        try:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                captions = parquet.read_row_group(group, columns=["caption_options"])["caption_options"].to_pylist()
                pictures += [
                    Picture(options, f"{file.name} row {first + number}", partial(_packed, file, group, number))
                    for first in [len(pictures)]
                    for number, options in enumerate(captions)
                ]
        except (pa.ArrowInvalid, KeyError) as error:
            raise DataError(
                f"{file} is not the WhatsUp parquet with image_options and caption_options: {error}. Fetch it again."
            ) from error
    return pictures


def _packed(file: Path, group: int, number: int) -> bytes:
    image = _row_group(file, group)[number].as_py()
    data = image.get("bytes") if isinstance(image, dict) else None
    if not isinstance(data, bytes):
        raise DataError(f"{file}: row {number} of group {group} has no embedded image. Fetch the file again.")
    return data


@lru_cache(maxsize=1)
def _row_group(file: Path, group: int) -> Any:
    """The images of one row group; the rows are read in order, so one at a time is enough."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(file).read_row_group(group, columns=["image_options"])["image_options"]


def _find(folder: Path, *names: str) -> Path | None:
    """The first of the names that is in the folder or in its ``data``."""
    return next((p for name in names for p in (folder / name, folder / "data" / name) if p.exists()), None)


def _write(origin: Provenance, pictures: list[Picture], questions: list[Question]) -> None:
    if len(pictures) != len(questions):
        raise DataError(f"{origin.name}: {len(pictures)} pictures but {len(questions)} questions ({origin.questions}).")
    sets = _sets(origin.name, pictures, questions)
    validation = set(authors_split(len(pictures))[0])

    def rows() -> Iterator[dict[str, Any]]:
        for number, (picture, question) in enumerate(zip(pictures, questions, strict=True)):
            if not check_answer(question.answer, picture.captions):
                raise DataError(
                    f"{origin.name}, row {number}: the answer {question.answer!r} to {question.text!r} does not agree "
                    f"with the true caption {picture.captions[0]!r}. The questions and the pictures do not belong "
                    "together; get both again."
                )
            data = picture.read()
            cache.check_image(data, f"{picture.name} (row {number})")
            set_id, pair_id = sets[number]
            yield {
                "id": number,
                "image": {"bytes": data, "path": None},
                "question": question.text,
                "prompt": question.prompt,
                "answer": question.answer,
                "options": question.options,
                "relation": question.answer.lower(),
                "set_id": set_id,
                "pair_id": pair_id,
                "split": "val" if number in validation else "test",
                "caption_options": picture.captions,
            }

    cache.write_table(rows(), origin)


def _sets(name: str, pictures: list[Picture], questions: list[Question]) -> list[tuple[int | None, int | None]]:
    """Set and pair of each row; none for data that is not in sets of four captions."""
    if any(len(picture.captions) != 4 for picture in pictures):
        return [(None, None)] * len(pictures)
    numbers: dict[str, int] = {}
    seen: dict[tuple[int, str], int] = {}
    ids: list[tuple[int | None, int | None]] = []
    for row, question in enumerate(questions):
        relation = question.answer.lower()
        set_id = numbers.setdefault(object_key(question.text), len(numbers))
        if (set_id, relation) in seen:
            raise DataError(
                f"{name}: rows {seen[set_id, relation]} and {row} both ask {question.text!r} with the answer "
                f"{relation}. A set has one picture for each relation; tell the objects of different sets apart."
            )
        seen[set_id, relation] = row
        ids.append((set_id, 2 * set_id + (relation not in ("left", "right"))))
    return ids
