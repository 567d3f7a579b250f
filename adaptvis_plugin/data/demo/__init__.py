"""The demo data set: drawn scenes that come with the package.

- `rows`: the questions about the scenes, and which of them are kept out of the demo model's training.
- `scenes`: a picture of a room with `objects` beside, on or under `furniture`, made with `drawing`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adaptvis_plugin.data.dataset import DataSet, Rows, Source
from adaptvis_plugin.data.demo.rows import demo_rows


@dataclass(frozen=True)
class Demo(DataSet):
    """The drawn scenes."""

    def sources(self, folder: Path | None) -> Iterator[Source]:
        """Yield the drawing code, which needs neither a folder nor the network. Its name changes with the code."""
        code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
        yield Source(f"drawn by adaptvis ({hashlib.sha256(code).hexdigest()[:8]})", lambda: Rows(demo_rows()))


DATA_SETS = (Demo("demo", "whatsup_demo", "WhatsUp_Demo", "whatsup", built_in=True),)
