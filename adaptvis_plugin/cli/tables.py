"""Tables for a terminal of any width: no number is broken over lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from adaptvis_plugin.cli.errors import printable

GAP = 2
NARROW = 12
"""The least room for a column of text, in which longer texts are broken."""


@dataclass(frozen=True)
class Fitted:
    """A table that takes the room that there is.

    Where it is too wide, the interval or remark of a number goes to a line of its own; where it is still too wide, the
    last columns are left out, and named below it.

    Attributes:
        head: The heads of the columns, of which none may be empty.
        rows: The cells.
        texts: The places of the columns that hold text; the others hold numbers.
        title: What stands above it.
        note: What stands below it.
        elsewhere: Where columns that were left out can be found.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: range
    title: str = ""
    note: str = ""
    elsewhere: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        """Yield the title, the table and the note."""
        width = options.max_width
        rows = [list(map(printable, row)) for row in self.rows]
        kept = len(self.head)
        if self._width(rows, kept, width) > width:
            rows = [[re.sub(r" (?=[\[(])", "\n", c) if i not in self.texts else c for i, c in enumerate(row)]
                    for row in rows]  # fmt: skip
            while kept > self.texts.stop + 1 and self._width(rows, kept, width) > width:
                kept -= 1
        if self.title:
            yield Text(printable(self.title), "bold")
        yield self._table(rows, kept, width)
        if left_out := ", ".join(map(printable, self.head[kept:])):
            yield Text(f"Left out, since the terminal is too narrow: {left_out}{self.elsewhere}.", "yellow")
        if self.note:
            yield Text(printable(self.note), "dim")
        yield Text()

    def _table(self, rows: Sequence[Sequence[str]], kept: int, width: int) -> Table:
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
        for place in range(kept):
            if place in self.texts:
                table.add_column(escape(printable(self.head[place])), overflow="fold",
                                 min_width=self._least(rows, place, width))  # fmt: skip
            else:
                needed = self._least(rows, place, width)
                head = _broken(printable(self.head[place]), needed)
                table.add_column(escape(head), justify="right", no_wrap=True, min_width=needed)
        for row in rows:
            table.add_row(*map(escape, row[:kept]))
        return table

    def _width(self, rows: Sequence[Sequence[str]], kept: int, width: int) -> int:
        return sum(self._least(rows, place, width) for place in range(kept)) + GAP * (kept - 1)

    def _least(self, rows: Sequence[Sequence[str]], place: int, width: int) -> int:
        """Return the least width of a column."""
        longest = max((len(line) for row in rows for line in row[place].splitlines()), default=0)
        head = max(map(len, _pieces(self.head[place])))
        if place not in self.texts:
            return max(longest, head)
        return min(max(longest, head), max(NARROW, width // (4 * len(self.texts))))


def _pieces(head: str) -> list[str]:
    """Return the parts of a head between which a line may end: words, also those joined by underscores."""
    return re.findall(r"[^\s_]*_+|[^\s_]+", head) or [head]


def _broken(head: str, width: int) -> str:
    lines = [""]
    for piece in _pieces(head):
        joined = lines[-1] + ("" if not lines[-1] or lines[-1].endswith("_") else " ") + piece
        if lines[-1] and len(joined) > width:
            lines.append(piece)
        else:
            lines[-1] = joined
    return "\n".join(lines)
