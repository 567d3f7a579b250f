"""Which picture of a label file is that of a row."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from adaptvis_plugin.attention.boxes.box import Asked
from adaptvis_plugin.attention.boxes.labels import Labels
from adaptvis_plugin.attention.record import AttentionError
from adaptvis_plugin.data.registry import data_sets
from adaptvis_plugin.data.splits import whole_task
from adaptvis_plugin.data.tables import load_table

_ENDING = re.compile(r"\.(?:jpe?g|png|webp|bmp|gif|tiff?)$", re.IGNORECASE)


def table_of(task: str) -> str | None:
    """Return the table of one of this package's tasks, of either framework; None for any other task."""
    whole = whole_task(task)[0]
    return next((each.name for each in data_sets().values() if whole in (each.task, each.vlmevalkit)), None)


def image_ids(table: str) -> list[str]:
    """Return the table's `image_id` of each row."""
    return list(load_table(table)["image_id"])


def file_names(table: str) -> list[str]:
    """Return the name of each row's picture in the table's source; empty where the source has none."""
    import pyarrow.compute as pc

    # Without the pictures themselves, which may be gigabytes.
    return [name or "" for name in pc.struct_field(load_table(table).data.column("image"), "path").to_pylist()]


class Pictures:
    """Finds the picture of a row among those of a label file.

    Pictures are called by their file's name without the ending. If a task's pictures have no such name, or no label
    is of one, then by `image_id`; and if numbers may be meant, then by the row's number in the whole table, or in a
    task of others by its document's. One way is used for all rows.

    Args:
        labels: The boxes.
        source: The label file or folder, for messages.
        table: The table with the rows' pictures; None for a task that is not of this package's form.
        rows: The number of rows of such a task; None if unknown.
        numbered: Whether labels may be called by a row's number.

    Raises:
        AttentionError: If no label is of a picture of the table.
    """

    def __init__(self, labels: Labels, source: str, table: str | None, rows: int | None, numbered: bool) -> None:
        self._labels, self._source, self._table = labels, source, table
        self._by_image: dict[str, str] | None = None
        if table is not None:
            ids = image_ids(table)
            self._by_image = self._of_table(ids, numbered and self._numbers(len(ids)))
        self._numbered = table is None and numbered and rows is not None and self._numbers(rows)

    def key(self, asked: Asked) -> str | None:
        """Return what the labels call a row's picture; None if that is not known."""
        if self._by_image is not None:
            return self._by_image.get(asked.image or "")
        if asked.image is not None:
            return asked.image if asked.image in self._labels else stem(asked.image)
        return str(asked.doc_id) if self._numbered else None

    def _numbers(self, rows: int) -> bool:
        return all(key.isascii() and key.isdigit() and key == str(int(key)) and int(key) < rows
                   for key in self._labels)  # fmt: skip

    def _of_table(self, ids: list[str], numbered: bool) -> dict[str, str]:
        assert self._table is not None
        names = [stem(name) for name in file_names(self._table)]
        for called in (names, ids, [str(row) for row in range(len(ids))] if numbered else []):
            known = [name in self._labels for name in called]
            if any(known):
                # Rows may share a picture, and labels be called by the number of one of them.
                return dict(sorted(zip(ids, called, strict=True), key=lambda pair: pair[1] in self._labels))
        examples = [*self._labels][:2]
        raise AttentionError(
            f"{self._source} has boxes of {len(self._labels):,} pictures ({', '.join(examples)}, …), but of none in "
            f"the table {self._table}, whose pictures are called {', '.join(repr(name) for name in names[:2])}, …. "
            "Give the file for these pictures. If they have lost their names, make the table from the original files: "
            f"adaptvis data prepare {self._table} --force --from FOLDER."
        )


def stem(name: str) -> str:
    """Return a picture's name without folders and the ending of a picture's file."""
    return _ENDING.sub("", PurePosixPath(name).name)
