"""The tables of WhatsUp's six subsets, and of folders of your own in its form."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptvis_plugin.data import cache, fetch, files, pictures
from adaptvis_plugin.data.annotations import Picture
from adaptvis_plugin.data.cache import DataError, Provenance
from adaptvis_plugin.data.dataset import DataSet, Source
from adaptvis_plugin.data.pictures import Rows
from adaptvis_plugin.data.questions import Question, agreement, object_key, read_questions, write_questions
from adaptvis_plugin.data.settings import Sources, Subset
from adaptvis_plugin.data.splits import authors_split

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WhatsUp(DataSet):
    """One subset of WhatsUp."""

    def sources(self, folder: Path | None) -> Iterable[Source]:
        """Yield the folder, or the Hub data sets and then the authors' archives."""
        raise NotImplementedError


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


def make(name: str, folder: Path | None, sources: Sources) -> None:
    """Makes the table of a subset.

    Raises:
        DataError: No source has it, or what a source has is not what was published.
    """
    subset = sources.whatsup[name]
    layout = pictures.official(name, subset, folder) if folder else None
    questions = _questions(name, subset, layout.questions if layout else None, sources)
    if layout:
        made_of = files.fingerprint(layout.files())
        return _make(name, subset, layout.read(subset), questions, str(folder), made_of)
    refusals: list[str] = []
    for source in pictures.network(subset, sources):
        if refusals:
            log.warning("%s: %s; trying the %s", name, refusals[-1].rstrip("."), source.name)
        try:
            return _make(name, subset, source.read(), questions, source.name, None)
        except DataError as error:
            refusals.append(str(error))
            if not isinstance(error, fetch.Unavailable):  # whatever was wrong must be fetched anew
                fetch.tidy(source.downloads)
    raise fetch.Unavailable(
        f"{name} cannot be had from anywhere now:\n- "
        + "\n- ".join(refusals)
        + f"\nTry again later (downloads go on where they stopped), or: adaptvis data prepare {name} --from FOLDER"
    )


def make_own(name: str, folder: Path) -> None:
    """Makes the table of a folder of your own.

    Raises:
        DataError: The folder has no such data, or it is not in the form that `adaptvis_plugin.data.pictures` describes.
    """
    layout = pictures.own(name, folder)
    made_of = files.fingerprint(layout.files())
    rows = layout.read().pictures
    path = layout.questions
    questions = read_questions(path) if path else write_questions([picture.captions for picture in rows])
    verified = (_compare(name, rows, questions),) if path else ()
    origin = Provenance(name, len(rows), str(folder), path.name if path else "template", verified, made_of)
    _write(origin, rows, questions)


def _questions(name: str, subset: Subset, path: Path | None, sources: Sources) -> list[Question]:
    """The authors' questions, fetched unless there is a file: a small one, so it is asked for first."""
    if path:
        fetch.verify(path, subset.questions_sha256, str(path.parent), pictures.way_out(path))
        return read_questions(path)
    url = sources.questions_url + subset.questions
    try:
        return read_questions(fetch.fetch(url, fetch.downloads() / subset.questions, subset.questions_sha256))
    except fetch.Unavailable as error:
        raise fetch.Unavailable(
            f"The questions of {name} cannot be had now: {error}\nTry again later, or: adaptvis data prepare {name} "
            f"--from FOLDER, with {subset.questions} in it"
        ) from error


def _make(name: str, subset: Subset, rows: Rows, questions: list[Question], source: str, made_of: str | None) -> None:
    if len(rows.pictures) != subset.rows:
        raise DataError(
            f"{name}: {source} has {len(rows.pictures)} rows, {subset.rows} were published. It is cut short or "
            "another data set; get it again, or prepare it as a folder of your own under another name."
        )
    checksums = f"SHA-256 of {', '.join(['questions', *rows.verified])}"
    verified = ("number of rows", _compare(name, rows.pictures, questions), checksums)
    origin = Provenance(name, len(rows.pictures), source, subset.questions, verified, made_of)
    _write(origin, rows.pictures, questions)


def _compare(name: str, rows: list[Picture], questions: list[Question]) -> str:
    """Holds every answer against its true caption, and says what that showed.

    Raises:
        DataError: There are more of the ones than of the others, or a caption contradicts its answer.
    """
    if len(rows) != len(questions):
        raise DataError(f"{name}: there are {len(rows)} pictures but {len(questions)} questions.")
    offered = {option for question in questions for option in question.options}
    silent = 0
    for number, (picture, question) in enumerate(zip(rows, questions, strict=True)):
        agrees = agreement(question.answer, picture.captions, offered)
        silent += agrees is None
        if agrees is False:
            raise DataError(
                f"{name}, row {number}: the answer {question.answer!r} to {question.text!r} contradicts the true "
                f"caption {picture.captions[0]!r}. The questions do not belong to these captions; get both again."
            )
    return f"captions ({silent} not understood)" if silent else "captions"


def _write(origin: Provenance, found: list[Picture], questions: list[Question]) -> None:
    sets = _sets(origin.name, found, questions)
    validation = set(authors_split(len(found))[0])

    def rows() -> Iterator[dict[str, Any]]:
        for number, (picture, question) in enumerate(zip(found, questions, strict=True)):
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


def _sets(name: str, found: list[Picture], questions: list[Question]) -> list[tuple[int | None, int | None]]:
    """Set and pair of each row; none for data that is not in sets of four captions."""
    if any(len(picture.captions) != 4 for picture in found):
        return [(None, None)] * len(found)
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
