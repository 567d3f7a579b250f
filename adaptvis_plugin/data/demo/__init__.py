"""The demo data set: drawn scenes that come with the package."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adaptvis_plugin.data.dataset import DataSet, Source


@dataclass(frozen=True)
class Demo(DataSet):
    """The drawn scenes."""

    def sources(self, folder: Path | None) -> Iterable[Source]:
        """Yield the drawing code, which needs neither a folder nor the network."""
        raise NotImplementedError


DATA_SETS = (Demo("demo", "whatsup_demo", "WhatsUp_Demo", "whatsup"),)
