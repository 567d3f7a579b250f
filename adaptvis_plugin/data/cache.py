"""Tables: the form that all data sets are cached in, and where they are stored.

A table is one Arrow file with the pictures in it. It is read by memory map, so nothing is copied. Its columns:

| column | type | |
|---|---|---|
| id | int | row number in the source's order |
| image | `datasets.Image` | the bytes of the source's file, not re-encoded; as `path` its name, which is no path here |
| image_id | str | a hash of the picture, equal for rows with the same picture |
| question | str | the bare question, as a chat model is asked |
| prompt | str | the paper's whole prompt, with ``<image>`` |
| answer | str | the label as the authors write it: ``Left``, ``Yes`` |
| options | list[str] | the answers that the question offers, lower-case |
| relation | str | lower-case; the answer (WhatsUp) or the caption's relation (VSR) |
| set_id | int or null | equal for pictures of the same objects |
| pair_id | int or null | equal for pictures of the same objects in opposite relations |
| split | str | ``val`` or ``test``, as the authors split the rows |
| caption_options | list[str] | the source's captions, the true one first (VSR: its one caption) |

The file also says what the table was made from (`Provenance`). It is replaced as a whole or not at all: a killed
process leaves the old table or none.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from PIL import Image

from adaptvis_plugin.images import to_rgb

if TYPE_CHECKING:
    import datasets

MAX_PIXELS = 100_000_000
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BATCH = 64
DOWNLOADS, LOCK = RESERVED = ("downloads", "lock")
"""Names in the cache that are not tables."""
_KEY = b"adaptvis"


class DataError(RuntimeError):
    """Data is missing, damaged, or not as expected. The message says what, where, and what to do."""


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a table came from.

    Attributes:
        name: The table's name.
        rows: The number of rows.
        source: The folder, Hub data set, or archive with the pictures and captions.
        questions: The name of the file with the questions, or ``"template"``.
        verified: What was compared with published facts, and which files had the right checksum; empty if nothing was.
        fingerprint: The fingerprint of the folder's files, to notice later changes; None for other sources.
    """

    name: str
    rows: int
    source: str
    questions: str
    verified: tuple[str, ...]
    fingerprint: str | None


def cache_dir() -> Path:
    """Return the folder of the tables.

    It is ``$ADAPTVIS_CACHE``, or ``adaptvis`` in the Hugging Face cache (``$HF_HOME``, ``~/.cache/huggingface``).
    """
    if own := os.environ.get("ADAPTVIS_CACHE"):
        return Path(os.path.expanduser(own))
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    return Path(os.path.expanduser(home)) / "adaptvis"


def table_path(name: str) -> Path:
    """Return the file of a table, which may not exist."""
    return cache_dir() / name / "table.arrow"


def lock() -> FileLock:
    """Return the lock for making tables: one process makes them while the others wait.

    The operating system releases it when the process dies.
    """
    cache_dir().mkdir(parents=True, exist_ok=True)
    return FileLock(cache_dir() / LOCK)


def provenance(name: str) -> Provenance | None:
    """Return where a cached table comes from; None if there is no table.

    Raises:
        DataError: If the file is not a table of this version.
    """
    import pyarrow as pa

    path = table_path(name)
    if not os.path.exists(path):
        return None
    try:
        with pa.memory_map(str(path)) as source:
            facts = json.loads((pa.ipc.open_stream(source).schema.metadata or {})[_KEY])
        return Provenance(**{**facts, "verified": tuple(facts["verified"])})
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not a table of this version. Make it again: adaptvis data prepare {name} --force (for a folder "
            "of your own also --from FOLDER)"
        ) from error


def read_table(name: str) -> datasets.Dataset:
    """Open a cached table."""
    import datasets

    return datasets.Dataset.from_file(str(table_path(name)))


def write_table(rows: Iterable[Mapping[str, Any]], origin: Provenance) -> None:
    """Write a table beside the old one, and replace the old one when the new one is complete.

    Args:
        rows: The rows, with the image as ``{"bytes": …, "path": …}`` or a PIL image.
        origin: Where the table comes from.

    Raises:
        DataError: If the number of rows is not the announced one, or reading a row raises it.
        OSError: If the file cannot be written, for example because the disk is full.
    """
    import pyarrow as pa

    features = _features()
    schema = features.arrow_schema
    schema = schema.with_metadata({**schema.metadata, _KEY: json.dumps(dataclasses.asdict(origin)).encode()})
    path = table_path(origin.name)
    part = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    try:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for batch in _batches(_encoded(features, row) for row in rows):
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
                written += len(batch)
        if written != origin.rows:
            raise DataError(f"{origin.name}: {written} rows were read, {origin.rows} were announced.")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_image(data: bytes, name: str) -> None:
    """Convert an image to RGB once, so that a bad one is an error now and not a wrong score later.

    Raises:
        DataError: If the bytes are not an image, are cut short, have too many pixels, or have no known white.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"The image {name} claims {image.width} x {image.height} pixels; more than "
                    f"{MAX_PIXELS:,} are refused. Fetch the original again."
                )
            to_rgb(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        head = "an HTML page" if data.lstrip()[:1] == b"<" else f"{len(data)} bytes"
        raise DataError(
            f"The image {name} ({head}) cannot be decoded: {error}. Get it again, or replace the file."
        ) from error


def _encoded(features: datasets.Features, row: Mapping[str, Any]) -> dict[str, Any]:
    image = row["image"]
    given, name = image, None
    if isinstance(image, Mapping):  # `datasets` would drop the bytes if a file of the name happened to be here
        given, name = {**image, "path": None}, image.get("path")
    example: dict[str, Any] = features.encode_example({**row, "image": given, "image_id": ""})
    example["image"]["path"] = name
    example["image_id"] = hashlib.blake2b(example["image"]["bytes"], digest_size=8).hexdigest()
    return example


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(rows, _BATCH)):
        yield batch


def _features() -> datasets.Features:
    from datasets import Features, Image, List, Value

    text = Value("string")
    return Features(
        {
            "id": Value("int64"),
            "image": Image(),
            "image_id": text,
            "question": text,
            "prompt": text,
            "answer": text,
            "options": List(text),
            "relation": text,
            "set_id": Value("int64"),
            "pair_id": Value("int64"),
            "split": text,
            "caption_options": List(text),
        }
    )
