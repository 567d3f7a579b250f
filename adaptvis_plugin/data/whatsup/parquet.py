"""The Hub's parquet files of WhatsUp: a column of pictures, `image_options`, and one of captions, `caption_options`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from adaptvis_plugin.data import files
from adaptvis_plugin.data.cache import DataError
from adaptvis_plugin.data.dataset import Picture
from adaptvis_plugin.data.whatsup.annotations import Entry, check_captions

IMAGE, CAPTIONS = "image_options", "caption_options"


def read_parquet(paths: Iterable[Path]) -> list[Entry]:
    """Read the captions of the files; a picture is read when its row is written.

    Raises:
        DataError: If a file is not a parquet file, lacks a column, or has other types in it.
    """
    entries: list[Entry] = []
    for path in paths:
        # the rows are read in order, so the pictures of one row group at a time are enough
        images = lru_cache(maxsize=1)(partial(_column, path, IMAGE))
        for group in range(_open(path).num_row_groups):
            names = _file_names(path, group)
            for number, captions in enumerate(_column(path, CAPTIONS, group).to_pylist()):
                name = f"{path}, row {len(entries)}"
                try:
                    checked = check_captions(captions)
                except ValueError as error:
                    raise DataError(f"{name}: {error}. Get the file again.") from error
                read = partial(_image, images, group, number, name)
                entries.append(Entry(checked, Picture(names[number] or f"{path.name} row {len(entries)}", read)))
    return entries


def _open(path: Path) -> Any:
    """Open a file and check its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files.regular(path)
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a parquet file: {error}. Get it again.") from error
    schema = file.schema_arrow
    missing = {IMAGE, CAPTIONS} - set(schema.names)
    if missing:
        raise DataError(
            f"{path} is not the WhatsUp parquet: it has no {' and no '.join(sorted(missing))}, only "
            f"{', '.join(schema.names)}."
        )
    kind = schema.field(IMAGE).type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    item = kind.value_type if is_list else kind
    if not (pa.types.is_struct(item) and item.get_field_index("bytes") >= 0):
        raise DataError(
            f"{path} is not the WhatsUp parquet: its {IMAGE} is {kind}, which is neither an image "
            "(a struct with its bytes) nor a list of images."
        )
    return file


def _image(images: Callable[[int], Any], group: int, number: int, name: str) -> bytes:
    value = images(group)[number].as_py()
    if isinstance(value, list):
        if len(value) != 1:
            raise DataError(f"{name}: its {IMAGE} are {len(value)} images, but one is expected.")
        [value] = value
    data = value.get("bytes") if value else None
    if not data:
        raise DataError(f"{name}: there is no picture in the file. Get it again.")
    return bytes(data)


def _file_names(path: Path, group: int) -> list[str | None]:
    """Return the name of each picture's file, without reading the pictures; None where the Hub's file has none."""
    file = _open(path)
    columns = [file.schema.column(number).path for number in range(len(file.schema))]
    wanted = next((name for name in columns if name.startswith(f"{IMAGE}.") and name.endswith(".path")), None)
    if wanted is None:
        return [None] * int(file.metadata.row_group(group).num_rows)
    values = _column(path, wanted, group).to_pylist()
    firsts = [next(iter(value), None) if isinstance(value, list) else value for value in values]
    return [value and value["path"] for value in firsts]


def _column(path: Path, name: str, group: int) -> Any:
    """Read a column, or a part of one: then `name` is its path in the file."""
    import pyarrow as pa

    try:
        return _open(path).read_row_group(group, columns=[name])[name.split(".")[0]]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged ({error}). Get it again.") from error
