"""The public entry to the data: `load_table`, `prepare`, `status`. The only module that makes tables."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptvis_plugin.data import cache, fetch
from adaptvis_plugin.data.cache import DataError, Provenance
from adaptvis_plugin.data.dataset import Facts, Picture, Row, Source
from adaptvis_plugin.data.registry import data_sets, groups
from adaptvis_plugin.data.settings import load_facts
from adaptvis_plugin.data.splits import authors_split
from adaptvis_plugin.data.whatsup.own import own_folder
from adaptvis_plugin.fingerprints import fingerprint

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)


def load_table(name: str) -> datasets.Dataset:
    """Return a data set as one table, prepared on first use.

    Several processes may ask at once: one prepares, the others wait. The columns are documented in
    `adaptvis_plugin.data.cache`.

    Args:
        name: The name of a data set in `registry`, or the name under which a folder of your own was prepared.

    Raises:
        DataError: If the name is unknown, or the data is not available or not as expected.
    """
    prepare([name])
    return cache.read_table(name)


def prepare(names: Iterable[str], source: Path | str | None = None, *, force: bool = False) -> list[Provenance]:
    """Make the tables that are missing.

    Args:
        names: Names of tables or of groups of them.
        source: A folder to read instead of the network; see `adaptvis_plugin.data.whatsup.folder`.
        force: Whether to make existing tables again.

    Returns:
        Where each table comes from.

    Raises:
        DataError: If a name is unknown, or the data is not available or not as expected.
    """
    wanted = dict.fromkeys(table for name in names for table in groups().get(name, (name,)))
    # unlike pathlib's, these do not raise for a circle of links or a name that is too long
    folder = None if source is None else Path(os.path.realpath(os.path.expanduser(source)))
    if folder and not os.path.isdir(folder):
        raise DataError(f"--from {source} is not a folder.")
    with fetch.remember_unreachable_hosts():
        return [_prepare(name, folder, force) for name in wanted]


def status() -> dict[str, Provenance | DataError | None]:
    """Return what is cached: first every data set, then prepared folders of your own.

    Returns:
        For each table where it comes from, None if it is missing, or the error if its file is not a table of this
        version.
    """
    cached = {path.parent.name for path in cache.cache_dir().glob("*/table.arrow")}
    known = data_sets()
    return {name: _provenance(name) for name in (*known, *sorted(cached - set(known)))}


def changed(origin: Provenance) -> str:
    """Describe what happened to the folder that a table was made from.

    Returns:
        "no longer there", "changed since", or "" if nothing happened or the table was not made from a folder.

    Raises:
        DataError: If ``ADAPTVIS_SOURCES`` cannot be used.
    """
    if origin.fingerprint is None:
        return ""
    load_facts(Facts)  # so that a wrong ADAPTVIS_SOURCES is an error here and not taken for a change below
    folder = Path(origin.source)
    if not os.path.isdir(folder):
        return "no longer there"
    try:
        [source] = _sources(origin.name, folder)
    except DataError:  # no table can be made from what is there now
        return "changed since"
    return "" if fingerprint(source.files) == origin.fingerprint else "changed since"


def _prepare(name: str, folder: Path | None, force: bool) -> Provenance:
    if not force and (origin := _current(name, folder)):
        log.info("%s: the table exists already; --force makes it again", name)
        if folder is None and changed(origin) == "changed since":  # if a folder is given, `_current` has compared it
            log.warning(
                "%s: %s has changed since the table was made; the old table is kept. To make it again: adaptvis "
                "data prepare %s --from %s", name, origin.source, name, shlex.quote(origin.source),
            )  # fmt: skip
        return origin
    try:
        with cache.lock():
            if not force and (origin := _current(name, folder)):
                return origin
            _make(name, folder)
    except OSError as error:
        if error.errno in cache.NO_ROOM:
            raise DataError(
                f"No room to prepare {name} in {cache.cache_dir()}: {error.strerror}. No half-written table is left; "
                "free some space, or set ADAPTVIS_CACHE to another disk, and run the same command again."
            ) from error
        raise DataError(
            f"{name} cannot be prepared in {cache.cache_dir()}: {error}. Set ADAPTVIS_CACHE to a folder that can be "
            "written."
        ) from error
    made = cache.provenance(name)
    assert made is not None
    log.info("%s: %d rows from %s", name, made.rows, made.source)
    return made


def _provenance(name: str) -> Provenance | DataError | None:
    try:
        return cache.provenance(name)
    except DataError as error:
        return error


def _current(name: str, folder: Path | None) -> Provenance | None:
    """Return where the cached table comes from; None if it must be made."""
    data_set = data_sets().get(name)
    if data_set and data_set.built_in:
        [source] = data_set.sources(folder)
        origin = _provenance(name)
        return origin if isinstance(origin, Provenance) and origin.source == source.name else None
    origin = cache.provenance(name)
    if origin and folder and (origin.source != str(folder) or changed(origin)):
        return None
    return origin


def _sources(name: str, folder: Path | None) -> list[Source]:
    """List the places to read a data set from, best first.

    Raises:
        DataError: If the name is unknown, or the folder does not contain the data set.
    """
    if data_set := data_sets().get(name):
        return list(data_set.sources(folder))
    if folder is not None and re.fullmatch(r"[\w-]+", name) and name not in cache.RESERVED:
        return [own_folder(name, folder)]
    raise DataError(
        f"{name!r} is not a data set. Known: {', '.join((*data_sets(), *groups()))}. A folder of your own with "
        f"{name}.json is prepared first: adaptvis data prepare {name} --from FOLDER"
    )


def _make(name: str, folder: Path | None) -> None:
    """Make a table from the first source that has the data, and remove the downloads.

    Raises:
        DataError: If no source has the data.
    """
    load_facts(Facts)  # so that a wrong ADAPTVIS_SOURCES is an error, whatever is prepared
    sources = _sources(name, folder)
    refusals: list[str] = []
    for source in sources:
        if refusals:
            log.warning("%s: %s; trying the %s", name, refusals[-1].rstrip("."), source.name)
        try:
            _write(name, source)
        except DataError as error:
            if not isinstance(error, fetch.Unavailable):  # something is wrong with the downloads: fetch them again
                fetch.remove(source.downloads)
            if len(sources) == 1 or isinstance(error, fetch.NoSourceAvailable):
                raise
            refusals.append(str(error))
        else:
            _remove_downloads(name, source)
            return
    raise fetch.NoSourceAvailable(
        f"{name} is not available from any source now:\n- "
        + "\n- ".join(refusals)
        + f"\nTry again later (downloads resume where they stopped), or: adaptvis data prepare {name} --from FOLDER"
    )


def _write(name: str, source: Source) -> None:
    """Write the table with the rows of a source."""
    made_from = fingerprint(source.files) if source.files else None  # taken first, so that no later change is missed
    found = source.read()
    count = len(found.rows)
    if found.published not in (None, count):
        raise DataError(
            f"{name}: {source.name} has {count} rows, {found.published} were published. It is cut short or another "
            "data set. Get it again, or prepare it as a folder of your own under another name."
        )
    verified = found.verified if found.published is None else ("number of rows", *found.verified)
    origin = Provenance(name, count, source.name, found.questions, verified, made_from)
    cache.write_table(_complete(found.rows), origin)


def _complete(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield the rows with their numbers, the authors' split, and their pictures, which are read and checked."""
    validation = set(authors_split(len(rows))[0])
    for number, row in enumerate(rows):
        image = row["image"]
        if isinstance(image, Picture):
            data = image.read()
            cache.check_image(data, f"{image.name} (row {number})")
            image = {"bytes": data, "path": image.name}
        yield {**row, "id": number, "image": image, "split": "val" if number in validation else "test"}


def _remove_downloads(name: str, used: Source) -> None:
    """Remove what was downloaded for a table, except for files that other data sets without a table need."""
    if mine := {*used.downloads, *_downloads(name)}:
        missing = (other for other in data_sets() if not os.path.exists(cache.table_path(other)))
        fetch.remove(mine.difference(*map(_downloads, missing)))


def _downloads(name: str) -> set[str]:
    """Collect the names under which the sources of a data set keep downloaded files."""
    data_set = data_sets().get(name)
    return {file for source in data_set.sources(None) for file in source.downloads} if data_set else set()
