"""The rows of WhatsUp: each picture with its captions and its question, in pairs and sets."""

from __future__ import annotations

from collections.abc import Sequence

from adaptvis_plugin.data.cache import DataError
from adaptvis_plugin.data.dataset import Row
from adaptvis_plugin.data.questions import Question, agreement, object_key
from adaptvis_plugin.data.whatsup.annotations import Entry


def compare(name: str, entries: Sequence[Entry], questions: Sequence[Question]) -> str:
    """Compare every answer with its true caption.

    Returns:
        What was compared, and in how many rows the captions were not understood.

    Raises:
        DataError: If the numbers of pictures and questions differ, or a caption contradicts its answer.
    """
    if len(entries) != len(questions):
        raise DataError(
            f"{name} has {len(entries)} rows but {len(questions)} questions. The data is cut short, or the questions "
            "belong to another data set; get both again."
        )
    offered = {option for question in questions for option in question.options}
    not_understood = 0
    for number, (entry, question) in enumerate(zip(entries, questions, strict=True)):
        agrees = agreement(question.answer, entry.captions, offered)
        not_understood += agrees is None
        if agrees is False:
            raise DataError(
                f"{name}, row {number}: the answer {question.answer!r} to {question.text!r} contradicts the true "
                f"caption {entry.captions[0]!r}. The questions do not belong to these captions; get both again."
            )
    return f"captions ({not_understood} not understood)" if not_understood else "captions"


def build_rows(name: str, entries: Sequence[Entry], questions: Sequence[Question]) -> list[Row]:
    """Put the pictures and their questions together.

    Raises:
        DataError: If two pictures of a set show the same relation.
    """
    return [
        Row(
            image=entry.picture,
            question=question.text,
            prompt=question.prompt,
            answer=question.answer,
            options=question.options,
            relation=question.answer.lower(),
            set_id=set_id,
            pair_id=pair_id,
            caption_options=entry.captions,
        )
        for entry, question, (set_id, pair_id) in zip(entries, questions, _sets(name, entries, questions), strict=True)
    ]


def _sets(name: str, entries: Sequence[Entry], questions: Sequence[Question]) -> list[tuple[int | None, int | None]]:
    """Return the set and the pair of each row; None if the rows are not in sets of four captions."""
    if any(len(entry.captions) != 4 for entry in entries):
        return [(None, None)] * len(entries)
    numbers: dict[str, int] = {}
    seen: dict[tuple[int, str], int] = {}
    ids: list[tuple[int | None, int | None]] = []
    for row, question in enumerate(questions):
        relation = question.answer.lower()
        set_id = numbers.setdefault(object_key(question.text), len(numbers))
        if (set_id, relation) in seen:
            raise DataError(
                f"{name}: rows {seen[set_id, relation]} and {row} both ask {question.text!r} with the answer "
                f"{relation}. A set has one picture for each relation; give the objects of different sets different "
                "names."
            )
        seen[set_id, relation] = row
        ids.append((set_id, 2 * set_id + (relation not in ("left", "right"))))
    return ids
