"""The contract of a data set: its names, how its answers are scored, and where its rows come from.

A data set is a module of this folder, listed in `registry`. It says which `Source`s there are and how to read rows from
them. `tables` does the rest: it tries the sources in order, checks every picture, numbers the rows, computes the
authors' split, writes the table, and removes the downloads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypedDict

from pydantic import BaseModel, ConfigDict

Scoring = Literal["whatsup", "vsr"]
"""The module of `adaptvis_plugin.scoring` that judges the answers."""


class Picture(NamedTuple):
    """A picture in a file. It is read only when its row is written, so that the pictures need not fit into memory.

    Attributes:
        name: The picture's name in messages and in the table: that of its file, if the source has it.
        read: Function that returns the bytes of the file.
    """

    name: str
    read: Callable[[], bytes]


class Row(TypedDict):
    """One question about one picture, as a source gives it.

    The image is a `Picture` or a PIL image. The module `cache` describes the other columns; `tables` adds ``id`` and
    ``split``.
    """

    image: Any
    question: str
    prompt: str
    answer: str
    options: list[str]
    relation: str
    set_id: int | None
    pair_id: int | None
    caption_options: list[str]


@dataclass(frozen=True)
class Rows:
    """What a source gives.

    Attributes:
        rows: The rows, in order.
        questions: The name of the file with the questions, or ``"template"``.
        verified: What was compared with published facts.
        published: The published number of rows, which `tables` compares; None if there is none.
    """

    rows: Sequence[Row]
    questions: str = "template"
    verified: tuple[str, ...] = ()
    published: int | None = None


@dataclass(frozen=True)
class Source:
    """One place to read a data set from.

    Attributes:
        name: The folder, Hub data set, or archive, as ``adaptvis data status`` shows it.
        read: Function that returns the rows. It raises `DataError` if they are missing, damaged, or not the published
            ones; then the next source is tried, except after `fetch.NoSourceAvailable`.
        files: The files of a user's folder that the table is made from, to notice later changes; empty for other
            sources.
        downloads: The names in the downloads folder under which this source keeps files. `tables` removes them; a
            name that several data sets list stays until all of them have their tables.
    """

    name: str
    read: Callable[[], Rows]
    files: tuple[Path, ...] = ()
    downloads: tuple[str, ...] = ()


class Facts(BaseModel):
    """Published facts of a data set as the defaults of a model: addresses, checksums, numbers of rows.

    ``ADAPTVIS_SOURCES`` can replace them (see `settings`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class DataSet(ABC):
    """A data set.

    Attributes:
        name: The table's name, as in `load_table`.
        task: The name of the lmms-eval task, under which presets list their settings.
        vlmevalkit: The name in VLMEvalKit. It must neither be the beginning of another data set's name nor contain a
            word that VLMEvalKit treats specially, because VLMEvalKit searches file names for both.
        scoring: How its answers are judged.
        max_new_tokens: The longest answer in tokens; 100 is the authors' limit.
        built_in: Whether the package itself makes the rows. Such a data set has one source, which is always available,
            and its table is made again when the source has another name or the table cannot be read.
        facts: The model with its published facts; None if it has none.
    """

    name: str
    task: str
    vlmevalkit: str
    scoring: Scoring
    max_new_tokens: int = 100
    built_in: bool = False

    facts: ClassVar[type[Facts] | None] = None

    @abstractmethod
    def sources(self, folder: Path | None) -> Iterable[Source]:
        """Yield the places to read the data set from, best first. Nothing is fetched before a source is read.

        Args:
            folder: The user's folder, which is then the only source; None for the network.

        Raises:
            DataError: If the folder does not contain the data set.
        """
