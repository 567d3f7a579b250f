"""The pictures of rows, small enough to stand in a page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from adaptvis_plugin.comparison.checks import Section
from adaptvis_plugin.comparison.rendering import data_address
from adaptvis_plugin.comparison.sources.facts import table_rows

SIDE = 240


class Pictures:
    """The pictures of a task's rows, from its table if that is on this machine.

    Args:
        section: The task.
    """

    def __init__(self, section: Section) -> None:
        self._table: Any = None
        self.absence = "the pictures of this task are not known to this package"
        name = section.table
        if name and table_rows(name) is None:
            self.absence = f"the pictures are not on this machine: adaptvis data prepare {name}"
        elif name:
            from adaptvis_plugin.data import load_table

            self._table = load_table(name)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self._table is not None

    def embedded(self, rows: Iterable[Any]) -> dict[Any, str]:
        """Return the pictures of rows as data addresses."""
        return {} if self._table is None else {row: _data_address(self._table[int(row)]["image"]) for row in rows}


def _data_address(image: Any) -> str:
    from adaptvis_plugin.images import thumbnail

    return data_address(thumbnail(image, SIDE))
