"""A trace being written: rows are appended as they are answered, by one process or several, and never twice."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock

from adaptvis_plugin.traces.reading import TraceError, scan
from adaptvis_plugin.traces.schema import Header, Row


class TraceFile:
    """The file of one model and one task.

    Several processes may write to it: each addition is made under a lock, and begins by cutting off a line that a
    killed process did not finish.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))

    def begin(self, header: Header) -> dict[int, Row]:
        """Create the file if it is not there, and return the rows that are answered already, by `doc_id`.

        Raises:
            TraceError: See `resume`.
        """
        return {row.doc_id: row for row in self.resume(header) if row.doc_id is not None}

    def resume(self, header: Header) -> Iterator[Row]:
        """Create the file if it is not there, and yield the rows that are answered already, one at a time.

        Raises:
            TraceError: If the file's answers were made with another header, or the file is not a trace.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._cut_torn_line()
            if not self.path.exists() or not self.path.stat().st_size:
                self.path.write_text(header.model_dump_json() + "\n", encoding="utf-8")
        lines = scan(self.path)
        there = next(lines)
        if there != header:
            raise TraceError(
                f"{self.path}: its answers were made with {_differences(there, header)}; this run asks for "
                f"{_differences(header, there)}. Use another folder, or delete the file"
            )
        yield from (line for line in lines if isinstance(line, Row))

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows."""
        text = "".join(row.line() for row in rows)
        with self._lock:
            self._cut_torn_line()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)

    def _cut_torn_line(self) -> None:
        """Cut off what stands after the last newline. Under the lock no other process is writing it."""
        if not self.path.exists() or not self.path.stat().st_size:
            return
        with self.path.open("rb+") as file:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                whole = content.rfind(b"\n") + 1
            file.truncate(whole)


def _differences(one: Header | Row | None, other: Header | Row | None) -> str:
    if not isinstance(one, Header):
        return "no header"
    mine, theirs = one.model_dump(), other.model_dump() if isinstance(other, Header) else {}
    return ", ".join(f"{name}={value!r}" for name, value in mine.items() if theirs.get(name) != value)
