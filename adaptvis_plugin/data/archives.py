"""Reading untrusted archives: only the wanted regular files are unpacked, and none outside the folder."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from adaptvis_plugin.data.cache import NO_ROOM, DataError
from adaptvis_plugin.data.fetch import progress
from adaptvis_plugin.data.files import is_html, regular


def read_members(archive: Path, wanted: set[str], folder: Path, limit: int) -> dict[str, Path]:
    """Unpack members of a .tar.gz or .zip.

    A member may be at the top of the archive or under one more folder (``data/…``).

    Args:
        archive: The archive.
        wanted: The names of the members to unpack.
        folder: The folder for the files.
        limit: The largest size of a member in bytes.

    Returns:
        The file of each name that is in the archive.

    Raises:
        DataError: If the file is not an archive or is cut short; if a member, wanted or not, leads out of the folder;
            or if a wanted one is a link, a device, or too large.
    """
    regular(archive)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found: dict[str, Path] = {}
    report = progress.get()
    try:
        for member, size, file in _members(archive, wanted, folder):
            if size > limit:
                raise DataError(f"{archive}: {member} has {size:,} bytes; more than {limit:,} are refused.")
            name = member if member in wanted else member.split("/", 1)[-1]
            path = folder / f"{len(found)}{PurePosixPath(member).suffix}"
            with file, path.open("wb") as out:
                shutil.copyfileobj(file, out)
            found[name] = path
            if report:
                report(f"unpacking {archive.name}", len(found), None)
    except DataError:
        raise
    except (
        tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError,
        NotImplementedError,
    ) as error:  # fmt: skip
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        if isinstance(error, OSError) and error.errno:
            raise DataError(f"{archive} cannot be read: {error.strerror}.") from error
        kind = "an HTML page, perhaps a quota page" if is_html(archive) else f"damaged or cut short ({error})"
        raise DataError(f"{archive} is {kind}. Delete it and get it again.") from error
    return found


def _members(archive: Path, wanted: set[str], folder: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    def is_wanted(name: str) -> bool:
        return name in wanted or name.split("/", 1)[-1] in wanted

    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                _refuse_outside(archive, info.filename)
                if is_wanted(info.filename) and not info.is_dir():
                    if (info.external_attr >> 16) & 0o170000 == 0o120000:
                        raise DataError(f"{archive}: {info.filename} is a link, where a picture is expected. Refused.")
                    yield info.filename, info.file_size, packed.open(info)
        return
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            _refuse_outside(archive, member.name)
            name = member.name.removeprefix("./")
            try:
                tarfile.data_filter(member, str(folder))
            except tarfile.FilterError as error:
                raise DataError(f"{archive}: {error}. The archive is refused.") from error
            if is_wanted(name):
                file = tar.extractfile(member) if member.isreg() else None
                if file is None:
                    raise DataError(f"{archive}: {name} is a link or a device, where a picture is expected. Refused.")
                yield name, member.size, file


def _refuse_outside(archive: Path, name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{archive}: the member {name!r} leads out of the folder. The archive is refused.")
