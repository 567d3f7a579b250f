"""Reading files of a user's folder: whatever is there, the reader returns or raises a clear error, and never hangs."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from adaptvis_plugin.data.cache import DataError

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}


def find(folder: Path, *names: str) -> Path | None:
    """Return the first of the names that is in the folder or in its subfolder ``data``."""
    places = (place / name for name in names for place in (folder, folder / "data"))
    # Path.exists raises for some names, for example one that is too long; os.path.exists returns False
    return next((path for path in places if os.path.exists(path)), None)


def regular(path: Path) -> Path:
    """Return the path if it is a regular file: opening a pipe would wait forever.

    Raises:
        DataError: If it is something else, or cannot be inspected.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if kind != stat.S_IFREG:
        raise DataError(f"{path} is {_KINDS.get(kind, 'a device')}, where a file is expected.")
    return path


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """Return the content of a regular file.

    Raises:
        DataError: If it is not a regular file, has more bytes than the limit, or cannot be read.
    """
    size = regular(path).stat().st_size
    if limit is not None and size > limit:
        raise DataError(f"{path} has {size:,} bytes; more than {limit:,} are refused.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file.

    Raises:
        DataError: If it is not a regular file, or cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with regular(path).open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def is_html(path: Path) -> bool:
    """Return whether a file begins like a web page, which servers send in place of a file.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip().startswith(b"<")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark.

    Raises:
        DataError: If it is not a regular file in UTF-8.
    """
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from error


def read_lines(path: Path) -> list[str]:
    """Return the lines of a JSON Lines file.

    Only a line feed ends a line, because JSON strings may contain Unicode's other line ends.

    Raises:
        DataError: If it is not a regular file in UTF-8.
    """
    text = read_text(path).rstrip()
    return text.split("\n") if text else []
