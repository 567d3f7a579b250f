"""What a data set is: its names, how its answers are scored, and where its rows come from.

A data set is one module of this folder, listed in `registry`. The module says which `Source`s there are and how to read
rows from them. `tables` does the rest: it tries the sources in order, checks every picture, computes the split, writes
the table, and removes the downloads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

Scoring = Literal["whatsup", "vsr"]
"""The module of `adaptvis_plugin.scoring` that judges the answers."""


class Row(TypedDict):
    """One question about one picture, as a source gives it; `cache` describes the columns."""

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
        rows: The rows, in order; pictures are read when their row is asked for.
        count: How many there are.
        questions: The file with the questions, or ``"template"``.
        verified: What was compared with the published facts.
    """

    rows: Iterable[Row]
    count: int
    questions: str
    verified: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """One place to read a data set from.

    Attributes:
        name: The folder, the Hub data set, or the archive, as `status` shows it.
        read: Read the rows. Raises DataError where they are missing, damaged, or not the published ones.
        files: The files in a user's folder that the table is made of, to notice later changes; none for other sources.
        downloads: Names in the downloads folder that this source leaves there.
    """

    name: str
    read: Callable[[], Rows]
    files: tuple[Path, ...] = ()
    downloads: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataSet(ABC):
    """A data set.

    Attributes:
        name: The table's name, as in `load_table`.
        task: The name of the lmms-eval task, under which presets list their settings.
        vlmevalkit: The name in VLMEvalKit. None may be the beginning of another, nor hold a word that VLMEvalKit treats
            specially: it looks for both in file names.
        scoring: How its answers are judged.
        max_new_tokens: The longest answer in tokens; 100 is the authors' limit.
    """

    name: str
    task: str
    vlmevalkit: str
    scoring: Scoring
    max_new_tokens: int = 100

    @abstractmethod
    def sources(self, folder: Path | None) -> Iterable[Source]:
        """Yield the places to read the data set from, best first.

        Args:
            folder: The user's folder, which is then the only source; None for the network.

        Raises:
            DataError: If the folder does not hold the data set.
        """
