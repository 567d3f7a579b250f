"""A trace being written: rows are appended as they are answered, by one process or several, and never twice."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from adaptvis_plugin.traces.reading import TraceError, scan
from adaptvis_plugin.traces.schema import Header, Row

_DOC_ID = re.compile(rb'\{"doc_id":(\d+)')
"""How `Row.line` begins: to know which rows are there, nothing more of them need be read."""


class TraceFile:
    """The file of one model and one task.

    Several processes may write to it, of one run or of several: each addition is made under a lock. It begins by
    cutting off a line that a killed process did not finish, and leaves out rows that another process has added.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))
        self._there: set[int] = set()
        self._read = 0

    def resume(self, header: Header) -> Iterator[Row]:
        """Create the file if it is not there, and yield the rows that are answered already, one at a time.

        Raises:
            TraceError: If the file's answers were made with another header, or the file is not a trace.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = header.model_dump_json().encode() + b"\n"
        with self._lock, self.path.open("ab+") as file:
            file.seek(0)
            start = file.read(len(line))
            if start != line and line.startswith(start):  # new, or killed in the middle of this line
                file.truncate(0)
                file.write(line)
        if (there := next(scan(self.path))) != header:
            raise TraceError(
                f"{self.path}: its answers were made with {_differences(there, header)}; this run asks for "
                f"{_differences(header, there)}. Use another folder, or delete the file"
            )
        with self._lock, self.path.open("rb+") as file:
            self._catch_up(file)
        yield from (found for found in scan(self.path) if isinstance(found, Row))

    def add(self, rows: Iterable[Row]) -> None:
        """Append the rows that are not there yet.

        Raises:
            OSError: If they cannot be written, for example to a full disk; the message names the file.
        """
        try:
            with self._lock, self.path.open("rb+") as file:
                self._catch_up(file)
                fresh = {row.doc_id: row for row in rows if row.doc_id not in self._there}
                file.write("".join(row.line() for row in fresh.values()).encode())
        except OSError as error:
            error.filename = error.filename or str(self.path)  # a failed write does not say where
            raise

    def _catch_up(self, file: BinaryIO) -> None:
        """Note what was added since the last time, cut off what stands after the last newline, and go to the end.

        Under the lock no other process is writing.
        """
        file.seek(self._read)
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(self._read)
                break
            if (found := _DOC_ID.match(line)) is not None:
                self._there.add(int(found[1]))
            self._read += len(line)
        file.seek(0, os.SEEK_END)


def _differences(one: Header | Row | None, other: Header | Row | None) -> str:
    if not isinstance(one, Header):
        return "no header"
    mine, theirs = one.model_dump(), other.model_dump() if isinstance(other, Header) else {}
    return ", ".join(f"{name}={value!r}" for name, value in mine.items() if theirs.get(name) != value)
