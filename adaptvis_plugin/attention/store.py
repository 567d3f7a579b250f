"""Captured attention being written to disk and read again; `form` says what the files hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from adaptvis_plugin.attention.form import Header, check, record_of, tensors_of
from adaptvis_plugin.attention.record import AttentionError, Record

_CHUNK = re.compile(r"\d{6,}\.safetensors")
_WEIGHTS = re.compile(r"(\d+)/weights")


class AttentionStore:
    """The folder of one model and one task.

    Several processes may write to it, of one run or of several: each addition is made under a lock, leaves out rows
    that another process has added, and is either whole or absent. An object may be used by any one thread at a time.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._header: Header | None = None
        self._lock = FileLock(folder / ".lock")
        self._chunks: set[str] = set()
        self._chunk_of: dict[int, str] = {}

    @property
    def header(self) -> Header:
        """What decides the folder's content.

        Raises:
            AttentionError: If the folder has no usable header.
        """
        if self._header is None:
            self._header = _read_header(self.folder / "header.json")
        return self._header

    @property
    def doc_ids(self) -> tuple[int, ...]:
        """The rows that are there now, in order."""
        self._catch_up()
        return tuple(sorted(self._chunk_of))

    def resume(self, header: Header) -> set[int]:
        """Create the folder if it is not there, and return the rows that are captured already.

        Raises:
            AttentionError: If the folder's rows were captured with another header, or it cannot be read.
            OSError: If the folder cannot be written to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            for torn in self.folder.glob("*.part"):  # of a process that was killed: under the lock no other is writing
                torn.unlink()
            if not (self.folder / "header.json").exists():
                if self.doc_ids:
                    raise AttentionError(f"{self.folder} holds chunks but no header.json; use another folder")
                self._write("header.json", header.model_dump_json(indent=1).encode())
        there, asked = self.header.model_dump(), header.model_dump()
        if other := [name for name in there if there[name] != asked[name]]:
            raise AttentionError(
                f"{self.folder}: its attention was captured with {_shown(there, other)}; this run asks for "
                f"{_shown(asked, other)}. Use another folder, or delete this one"
            )
        return set(self.doc_ids)

    def add(self, records: Iterable[Record]) -> None:
        """Write the rows that are not there yet as one chunk.

        Raises:
            AttentionError: If a row does not have the form of the header, or its weights are not shares.
            OSError: If they cannot be written, for example to a full disk; the message names the file.
        """
        fresh = {record.doc_id: record for record in records}
        for record in fresh.values():
            check(record, self.header, "a row to be stored")
        with self._lock:
            self._catch_up()
            tensors = {
                f"{number}/{name}": tensor
                for number, record in sorted(fresh.items())
                if number not in self._chunk_of
                for name, tensor in tensors_of(record).items()
            }
            if tensors:
                first = next(iter(tensors)).partition("/")[0]
                self._write(f"{int(first):06d}.safetensors", save(tensors))

    def read(self, doc_id: int) -> Record:
        """Return one row.

        Raises:
            AttentionError: If it is not there, or its chunk is damaged or not of this folder.
        """
        if doc_id not in self._chunk_of:
            self._catch_up()
        if (name := self._chunk_of.get(doc_id)) is None:
            raise AttentionError(f"{self.folder} has no row {doc_id}; it has {len(self._chunk_of)} rows")
        path = self.folder / name
        try:
            with safe_open(path, framework="np") as file:
                start = f"{doc_id}/"
                names = [key for key in file.keys() if key.startswith(start)]  # noqa: SIM118  # not a mapping
                record = record_of(doc_id, {key.removeprefix(start): file.get_tensor(key) for key in names})
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error
        check(record, self.header, str(path))
        return record

    def rows(self) -> Iterator[Record]:
        """Yield the rows in order, one in memory at a time."""
        yield from map(self.read, self.doc_ids)

    def _catch_up(self) -> None:
        """Note which rows are in the chunks that came since the last time. A row that is there twice is read once."""
        found = {path.name for path in self.folder.glob("*.safetensors") if _CHUNK.fullmatch(path.name)}
        for name in sorted(found - self._chunks):
            try:
                with safe_open(self.folder / name, framework="np") as file:
                    keys = list(file.keys())
            except (SafetensorError, OSError) as error:
                raise _damaged(self.folder / name, error) from error
            for match in map(_WEIGHTS.fullmatch, keys):
                if match:
                    self._chunk_of.setdefault(int(match[1]), name)
            self._chunks.add(name)

    def _write(self, name: str, content: bytes) -> None:
        """Write a file so that it is whole or absent."""
        part = self.folder / f"{name}.part"
        try:
            part.write_bytes(content)
            part.replace(self.folder / name)
        except OSError as error:
            error.filename = error.filename or str(part)  # a failed write does not say where
            part.unlink(missing_ok=True)
            raise


def _read_header(path: Path) -> Header:
    try:
        return Header.model_validate_json(path.read_bytes())
    except OSError as error:
        raise AttentionError(f"{path} cannot be read: {error}; it is written by `adaptvis attention`") from error
    except ValidationError as error:
        one = error.errors()[0]
        place = ".".join(map(str, one["loc"])) or "the file"
        raise AttentionError(f"{path} is not the header of captured attention: {place}: {one['msg']}") from None


def _shown(values: dict[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name}={values[name]!r}" for name in names)


def _damaged(path: Path, error: Exception) -> AttentionError:
    return AttentionError(f"{path} is damaged: {error}. Delete it: the next run captures its rows again")
