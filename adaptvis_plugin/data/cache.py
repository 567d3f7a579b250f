"""The one table all data sets become, and where it is kept.

A table is one Arrow file with the pictures in it, read by memory map, so nothing is copied. Its columns:

| column | type | |
|---|---|---|
| id | int | row number in the source's order |
| image | `datasets.Image` | the source's own bytes, not re-encoded |
| image_id | str | a hash of the picture; the same for rows that show the same one |
| question | str | the bare question, as a chat model gets it |
| prompt | str | the paper's whole prompt, with ``<image>`` |
| answer | str | the label as the authors write it: ``Left``, ``Yes`` |
| options | list[str] | what the question offers, lower-case |
| relation | str | lower-case; WhatsUp: the answer, VSR: the caption's relation |
| set_id, pair_id | int or null | pictures of the same objects; in opposite relations |
| split | str | ``val`` or ``test`` of the authors |
| caption_options | list[str] | the source's captions, the true one first (VSR: its one caption) |

What the table was made from travels in the file itself (`Provenance`), so the file is replaced as a whole or
not at all: a killed process leaves the old table or none.
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
"""What lies in the cache beside the tables."""
_KEY = b"adaptvis"


class DataError(RuntimeError):
    """Data that is missing, damaged, or not what it should be; the text says what, where and the way out."""


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a table came from.

    Attributes:
        name: The table's name.
        rows: How many rows it has.
        source: The folder, Hub data set or archive the pictures and captions were read from.
        questions: The file with the questions, or ``"template"``.
        verified: What was held against the published facts, and which files by their checksum; empty if nothing was.
        fingerprint: What tells that the folder was changed since (`files.fingerprint`); None for other sources.
    """

    name: str
    rows: int
    source: str
    questions: str
    verified: tuple[str, ...]
    fingerprint: str | None


def cache_dir() -> Path:
    """Where tables are kept.

    ``$ADAPTVIS_CACHE``, or ``adaptvis`` in the Hugging Face cache (``$HF_HOME``, ``~/.cache/huggingface``).
    """
    if own := os.environ.get("ADAPTVIS_CACHE"):
        return Path(os.path.expanduser(own))
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    return Path(os.path.expanduser(home)) / "adaptvis"


def table_path(name: str) -> Path:
    """The file of a table, there or not."""
    return cache_dir() / name / "table.arrow"


def lock() -> FileLock:
    """Held while tables are made, so that of several processes one makes them and the others wait.

    The operating system releases it when its holder dies.
    """
    cache_dir().mkdir(parents=True, exist_ok=True)
    return FileLock(cache_dir() / LOCK)


def provenance(name: str) -> Provenance | None:
    """Where a cached table came from; None if there is none.

    Raises:
        DataError: The file is not a table.
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
    """A cached table."""
    import datasets

    return datasets.Dataset.from_file(str(table_path(name)))


def write_table(rows: Iterable[Mapping[str, Any]], origin: Provenance) -> None:
    """Writes a table beside the old one and puts it in its place when it is whole.

    Args:
        rows: The rows, with the image as ``{"bytes": …, "path": …}`` or a PIL image.
        origin: What the table says of itself.

    Raises:
        DataError: An image is damaged, or the number of rows is not the announced one.
        OSError: The disk is full, or the like.
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
            raise DataError(f"{origin.name}: {written} rows came, {origin.rows} were announced.")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_image(data: bytes, name: str) -> None:
    """Turns an image into RGB once, so that one that cannot be is found now and not as a wrong score.

    Raises:
        DataError: The bytes are no image, are cut short, hold absurdly many pixels, or have no known white.
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
    example: dict[str, Any] = features.encode_example({**row, "image_id": ""})
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
