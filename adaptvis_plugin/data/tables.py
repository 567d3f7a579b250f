"""The public entry to the data: `load_table`, `prepare`, `status`."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
from collections.abc import Container, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from adaptvis_plugin.data import cache, fetch, files, pictures, vsr, whatsup
from adaptvis_plugin.data.cache import DataError, Provenance
from adaptvis_plugin.data.settings import Sources, load_sources

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

WHATSUP = ("controlled_a", "controlled_b", "coco_one", "coco_two", "vg_one", "vg_two")
TABLES = (*WHATSUP, "vsr", "demo")
GROUPS = {"whatsup": WHATSUP, "all": TABLES}


def load_table(name: str) -> datasets.Dataset:
    """A data set as one table, prepared on first use.

    Several processes may ask at once: one prepares, the others wait. The columns are documented in
    `adaptvis_plugin.data.cache`.

    Args:
        name: One of `TABLES`, or the name under which a folder of your own was prepared.

    Raises:
        DataError: The name is unknown, or the data cannot be had or is not what it should be.
    """
    prepare([name])
    return cache.read_table(name)


def prepare(names: Iterable[str], source: Path | str | None = None, *, force: bool = False) -> list[Provenance]:
    """Makes tables that are not there yet.

    Args:
        names: Names of tables or of `GROUPS`.
        source: A folder to read instead of the network; see `adaptvis_plugin.data.whatsup`.
        force: Make them again even where they are there.

    Returns:
        Where each table came from.

    Raises:
        DataError: A name is unknown, or the data cannot be had or is not what it should be.
    """
    wanted = dict.fromkeys(table for name in names for table in GROUPS.get(name, (name,)))
    # unlike pathlib's, these do not raise for a circle of links or a name that is too long
    folder = None if source is None else Path(os.path.realpath(os.path.expanduser(source)))
    if folder and not os.path.isdir(folder):
        raise DataError(f"--from {source} is no folder.")
    with fetch.one_wait():
        return [_prepare(name, folder, force) for name in wanted]


def status() -> dict[str, Provenance | DataError | None]:
    """What is in the cache: each known table, then prepared folders of your own; None where nothing is.

    A file that is no table of this version stands there as the error it gives.
    """
    there = (path.parent.name for path in cache.cache_dir().glob("*/table.arrow"))
    own = sorted(set(there) - set(TABLES))
    return {name: _provenance(name) for name in (*TABLES, *own)}


def changed(origin: Provenance) -> str:
    """What has become of the folder a table was made from: "" if nothing, or if it was made from none."""
    if origin.fingerprint is None:
        return ""
    folder, sources = Path(origin.source), load_sources()
    if not os.path.isdir(folder):
        return "no longer there"
    try:
        same = files.fingerprint(_files(origin.name, folder, sources)) == origin.fingerprint
    except DataError:  # what is there now makes no table
        same = False
    return "" if same else "changed since"


def _prepare(name: str, source: Path | None, force: bool) -> Provenance:
    if not force and (there := _current(name, source)):
        log.info("%s: the table is there already; --force makes it again", name)
        if source is None and changed(there) == "changed since":  # of a folder that is given, `_current` knows
            log.warning(
                "%s: %s has changed since the table was made of it; the old table is kept. To make it again: adaptvis "
                "data prepare %s --from %s", name, there.source, name, shlex.quote(there.source),
            )  # fmt: skip
        return there
    try:
        with cache.lock():
            if not force and (there := _current(name, source)):
                return there
            _make_and_tidy(name, source)
    except OSError as error:
        if error.errno in cache.NO_ROOM:
            raise DataError(
                f"No room to prepare {name} in {cache.cache_dir()}: {error.strerror}. Nothing is half written; "
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


def _make_and_tidy(name: str, source: Path | None) -> None:
    try:
        _make(name, source)
    except DataError as error:
        if not isinstance(error, fetch.Unavailable):  # whatever was wrong must be fetched anew
            fetch.tidy(_downloads(name, load_sources()))
        raise
    missing = [other for other in WHATSUP if not cache.table_path(other).exists()]
    fetch.tidy(_downloads(name, load_sources(), missing))


def _provenance(name: str) -> Provenance | DataError | None:
    try:
        return cache.provenance(name)
    except DataError as error:
        return error


def _current(name: str, source: Path | None) -> Provenance | None:
    """A table that need not be made again: from the folder as it is, if one is given; the demo from today's code."""
    if name == "demo":
        there = _provenance(name)
        return there if isinstance(there, Provenance) and there.source == _demo_source() else None
    there = cache.provenance(name)
    if there and source and (there.source != str(source) or changed(there)):
        return None
    return there


def _files(name: str, folder: Path, sources: Sources) -> list[Path]:
    """The files of a folder that a table is made of."""
    if name == "vsr":
        return vsr.folder_files(folder, sources)
    if name in sources.whatsup:
        return pictures.official(name, sources.whatsup[name], folder).files()
    return pictures.own(name, folder).files()


def _demo_source() -> str:
    code = sorted((Path(__file__).parent / "demo").glob("*.py"))
    return f"drawn by adaptvis ({hashlib.sha256(b''.join(path.read_bytes() for path in code)).hexdigest()[:8]})"


def _make(name: str, source: Path | None) -> None:
    sources = load_sources()
    if name == "demo":
        from adaptvis_plugin.data.demo.rows import demo_rows

        rows = demo_rows()
        cache.write_table(rows, Provenance("demo", len(rows), _demo_source(), "template", (), None))
    elif name == "vsr":
        vsr.make(source, sources)
    elif name in sources.whatsup:
        whatsup.make(name, source, sources)
    elif source is not None and re.fullmatch(r"[\w-]+", name) and name not in cache.RESERVED:
        whatsup.make_own(name, source)
    else:
        raise DataError(
            f"{name!r} is no data set. Known: {', '.join((*TABLES, *GROUPS))}. A folder of your own with {name}.json "
            f"is prepared first: adaptvis data prepare {name} --from FOLDER"
        )


def _downloads(name: str, sources: Sources, missing: Container[str] = ()) -> list[str]:
    """What lies in the downloads for a table, except archives that tables still missing need."""
    if name == "vsr":
        return [vsr.IMAGES, f"vsr-{sources.vsr.file}", fetch.hub_folder(sources.vsr.hub)]
    if name not in sources.whatsup:
        return []
    mine = sources.whatsup[name]
    needed = {subset.images for other, subset in sources.whatsup.items() if other in missing}
    files = [mine.questions, mine.annotations, f"{mine.images}.members", *map(fetch.hub_folder, sources.whatsup_hub)]
    return files if mine.images in needed else [*files, mine.images]
