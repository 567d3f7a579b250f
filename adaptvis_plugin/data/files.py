"""Reading files of a user's folder: whatever lies there, an answer or a clear error comes back, and nothing hangs."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from adaptvis_plugin.data.cache import DataError

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}


def find(folder: Path, *names: str) -> Path | None:
    """The first of the names that is in the folder or in its ``data``."""
    places = (place / name for name in names for place in (folder, folder / "data"))
    # os.path.exists says no also where Path.exists raises, as for a name that is too long
    return next((path for path in places if os.path.exists(path)), None)


def regular(path: Path) -> Path:
    """The path, if it is a regular file: opening a pipe would wait for ever.

    Raises:
        DataError: It is something else, or cannot be looked at.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if kind != stat.S_IFREG:
        raise DataError(f"{path} is {_KINDS.get(kind, 'a device')}, where a file is expected.")
    return path


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """What is in a regular file.

    Raises:
        DataError: It is none, has more bytes than the limit, or cannot be read.
    """
    size = regular(path).stat().st_size
    if limit is not None and size > limit:
        raise DataError(f"{path} has {size:,} bytes; more than {limit:,} are refused.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a regular file.

    Raises:
        DataError: It is none, or cannot be read.
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
    """Whether a file begins like a web page, as a server sends it in place of what was asked for.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip().startswith(b"<")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        DataError: It is no such file.
    """
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8.") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a JSON Lines file. Only a line feed ends one: JSON may hold Unicode's other line ends as they are.

    Raises:
        DataError: It is no UTF-8 file.
    """
    text = read_text(path).rstrip()
    return text.split("\n") if text else []


def fingerprint(files: Iterable[Path]) -> str:
    """What tells that files were changed: their names, sizes, and times, but not their contents."""
    digest = hashlib.sha256()
    for path in files:
        facts = path.stat()
        digest.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\0{facts.st_ctime_ns}\n".encode())
    return digest.hexdigest()[:16]
