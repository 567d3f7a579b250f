"""Reading JSON files of hundreds of megabytes piece by piece: only one item is in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from adaptvis_plugin.attention.record import AttentionError
from adaptvis_plugin.data import files
from adaptvis_plugin.data.cache import DataError

AFTER = frozenset(" \t\r\n,:]}")
"""What may follow a value."""
CHUNK = 2**20
LARGEST = 2**26
"""Characters of one item of a list; the largest of the published files have some hundred thousand."""


def read_items(path: Path) -> Iterator[tuple[str | None, Any]]:
    """Yield what a JSON file holds, item by item.

    Yields:
        Of a list its items, with None. Of an object its keys, each with its value or, for a list, with one item of it
        after the other.

    Raises:
        AttentionError: If the file cannot be read, or is not a JSON object or list.
    """
    try:
        with files.regular(path).open(encoding="utf-8-sig") as file:
            yield from _items(_Text(file))
    except (DataError, OSError) as error:
        raise AttentionError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise AttentionError(
            f"{path} is not a complete JSON file ({error}). Unpack it if it is packed; else get it again."
        ) from error


def _items(text: _Text) -> Iterator[tuple[str | None, Any]]:
    opening = text.next("{[")
    if opening == "[":
        for item in _list(text):
            yield None, item
    elif text.peek() == "}":
        text.next("}")
    else:
        while True:
            key = text.value()
            if not isinstance(key, str):
                raise ValueError(f"{key!r} is not a key")
            text.next(":")
            if text.peek() == "[":
                text.next("[")
                for item in _list(text):
                    yield key, item
            else:
                yield key, text.value()
            if text.next(",}") == "}":
                break
    if text.peek():
        raise ValueError("there is more after its end")


def _list(text: _Text) -> Iterator[Any]:
    """Yield the items of a list whose bracket has been read."""
    if text.peek() == "]":
        text.next("]")
        return
    while True:
        yield text.value()
        if text.next(",]") == "]":
            return


class _Text:
    """The text of a file, read as far as needed."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._read, self._at, self._ended = "", 0, False
        self._decode = json.JSONDecoder(parse_constant=_refuse).raw_decode

    def peek(self) -> str:
        """Return the next character that is not a space; empty at the end."""
        while True:
            while self._at < len(self._read):
                if self._read[self._at] not in " \t\r\n":
                    return self._read[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def next(self, expected: str) -> str:
        """Take the next character, which is one of the expected."""
        found = self.peek()
        if not found or found not in expected:
            there = f"a {found!r}" if found else "its end"
            raise ValueError(f"there is {there} where {' or '.join(expected)} is expected")
        self._at += 1
        return found

    def value(self) -> Any:
        """Take the next value."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._read, self._at)
                if self._ended or self._read[end : end + 1] in AFTER:  # else a number may go on
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                if self._ended:
                    raise ValueError(f"{error.msg} near {self._read[self._at : self._at + 40]!r}") from error
            if len(self._read) - self._at > LARGEST:
                start = self._read[self._at : self._at + 40]
                raise ValueError(f"near {start!r} is no value, or one of over {LARGEST:,} characters")
            self._more()

    def _more(self) -> None:
        """Read as much as is waiting, so that a long value is not tried too often."""
        rest = self._read[self._at :]
        more = self._file.read(max(CHUNK, len(rest)))
        self._ended = not more
        self._read, self._at = rest + more, 0


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")
